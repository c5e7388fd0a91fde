//! Following what others commit: one loop for all verbs that go on showing what is new.

use std::time::Duration;

use wfhost::store::{Store, TranscriptFilter, TranscriptKind, TranscriptLine};
use wfhost_core::RunId;

use super::diagnostic::{Exit, UserError};
use super::follow::Signals;
use super::printer;

/// How often is looked for more.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of agents that are read at once.
const PAGE: usize = 1_000;

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// Something, and there may be more.
    Some,
    /// Nothing yet.
    None,
    /// Nothing, and there will be nothing more.
    Ended,
}

/// Looks again and again, until nothing more comes, a signal of the system ends it, or nobody
/// reads any more.
pub(super) async fn tail(mut look: impl AsyncFnMut() -> Result<News, UserError>) -> Result<Exit, UserError> {
    let mut signals = Signals::new()?;
    loop {
        let news = look().await?;
        if news == News::Ended || printer::is_broken() {
            return Ok(Exit::Done);
        }
        // Also between pages: there may be thousands.
        let pause = if news == News::Some { Duration::ZERO } else { LOOK_EVERY };
        tokio::select! {
            biased;
            number = signals.next() => return Ok(Exit::Signalled(number)),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The lines that the agents of a run write while they work.
#[derive(Debug)]
pub(super) struct LiveLines {
    run: RunId,
    /// The number of the last one that was read.
    last: u64,
}

impl LiveLines {
    /// Those from the first on.
    pub fn new(run: &RunId) -> Self {
        Self { run: run.clone(), last: 0 }
    }

    /// Those that come from now on. What there is, which may be much, is not read.
    pub async fn from_now(store: &dyn Store, run: &RunId) -> Result<Self, UserError> {
        Ok(Self { run: run.clone(), last: store.transcript_end(run).await? })
    }

    /// The next lines; empty if there are none yet.
    pub async fn next(&mut self, store: &dyn Store) -> Result<Vec<TranscriptLine>, UserError> {
        let kinds = vec![TranscriptKind::Answer, TranscriptKind::Progress];
        let filter = TranscriptFilter { after: self.last, step: None, kinds };
        let lines = store.transcript(&self.run, filter, PAGE).await?;
        self.last = lines.last().map_or(self.last, |line| line.number);
        Ok(lines)
    }
}
