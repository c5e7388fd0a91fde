//! Reading bodies within a limit.

use reqwest::Response;
use wfhost_core::{FailureKind, limits};

use super::sse::{SseEvent, SseParser};
use super::{causes_of_request, unavailable};
use crate::{CallFailure, CallOutput};

/// Bytes of an event stream, which tells an answer in small pieces with much around them.
const STREAM_BYTES: usize = 4 * limits::ANSWER_BYTES;

/// Reads a whole body. What arrives is a sign of life.
pub(crate) async fn read(mut response: Response, out: &CallOutput) -> Result<String, CallFailure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = next(&mut response, bytes.len()).await? {
        out.alive();
        bytes.extend_from_slice(&chunk);
        within(bytes.len(), limits::ANSWER_BYTES)?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CallFailure::new(FailureKind::InvalidOutput, format!("the answer is not UTF-8 at byte {at}"))
    })
}

/// The beginning of a body, whatever it is.
pub(super) async fn read_lossy(response: Response, limit: usize) -> String {
    String::from_utf8_lossy(&read_start(response, limit).await).into_owned()
}

/// Reads the beginning of a body, as far as it comes.
pub(super) async fn read_start(mut response: Response, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < limit
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(limit);
    bytes
}

/// Reads a stream of events until `take` says that it is over. A stream that
/// ends before is broken.
pub(crate) async fn events(
    mut response: Response,
    out: &CallOutput,
    mut take: impl FnMut(&SseEvent) -> Result<Progress, CallFailure>,
) -> Result<(), CallFailure> {
    let mut parser = SseParser::default();
    let mut read = 0;
    while let Some(chunk) = next(&mut response, read).await? {
        out.alive();
        read += chunk.len();
        within(read, STREAM_BYTES)?;
        for event in parser.push(&chunk)? {
            out.transcript(&event.data);
            if take(&event)? == Progress::Done {
                return Ok(());
            }
        }
    }
    let how = if parser.is_complete() {
        "ended before the answer was complete"
    } else {
        "ended in the middle of an event"
    };
    Err(unavailable(format!("the stream {how}, after {read} bytes")))
}

/// Whether a stream goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    More,
    Done,
}

async fn next(response: &mut Response, read: usize) -> Result<Option<bytes::Bytes>, CallFailure> {
    response.chunk().await.map_err(|error| {
        unavailable(format!("the answer was interrupted after {read} bytes: {}", causes_of_request(&error)))
    })
}

fn within(size: usize, limit: usize) -> Result<(), CallFailure> {
    if size > limit {
        let message = format!("the answer exceeds the limit of {} MiB", limit >> 20);
        return Err(CallFailure::new(FailureKind::InvalidOutput, message));
    }
    Ok(())
}
