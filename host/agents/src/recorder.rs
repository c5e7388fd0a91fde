//! Takes what happens during an attempt: keeps it in the store, and knows when
//! something was heard last.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use wfhost_core::policy::limits::HEARTBEAT_BYTES;
use wfhost_core::{Json, NewTranscript, RunId, Step, TranscriptKind, limits};
use wfhost_world::World;

use super::{CallEvent, CallOutput, Stream, Transcripts};

/// What comes within this time is stored together.
const GATHER: Duration = Duration::from_millis(40);
/// Lines that are stored together at most.
const BATCH: usize = 1_000;
/// Bytes of one attempt's transcript; what goes beyond is left out.
const ATTEMPT_BYTES: usize = 32 << 20;
/// Bytes of what the host itself notes of an attempt (what changed, warnings). They are its own, so that
/// nothing that a provider writes keeps them out.
const NOTED_BYTES: usize = 16 << 20;
/// What a line takes besides its text, about: millions of empty ones are many bytes, too.
const LINE_BYTES: usize = 128;

/// The tasks of a driver that write transcripts.
pub type Writers = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// Where the events of one attempt go.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    run: RunId,
    step: Step,
    attempt: u32,
    transcripts: Arc<dyn Transcripts>,
    world: Arc<dyn World>,
    /// Called after something was stored.
    stored: Arc<dyn Fn() + Send + Sync>,
    writers: Writers,
    lines: OnceLock<mpsc::UnboundedSender<Item>>,
    heard: Mutex<Heard>,
    /// The heartbeat that the writer has yet to store: the latest one, however many come.
    pending: Pending,
}

/// Shared with the writer, which must not keep the recorder, and with it the sender, alive.
type Pending = Arc<Mutex<Option<NewTranscript>>>;

struct Heard {
    last: Instant,
    /// When something was heard first since [`Recorder::begin`].
    first: Option<Instant>,
    heartbeat: Option<Json>,
    bytes: usize,
    /// Of them those of the last heartbeat: each takes the place of the one before.
    heartbeat_bytes: usize,
    cut: bool,
    /// Bytes of what the host noted, and whether some of that was left out.
    noted: usize,
    notes_cut: bool,
}

enum Item {
    Line(NewTranscript),
    /// There is a pending heartbeat.
    Heartbeat,
    Flush(oneshot::Sender<()>),
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} {} attempt {})", self.0.run, self.0.step, self.0.attempt)
    }
}

impl Recorder {
    pub fn new(
        (run, step, attempt): (RunId, Step, u32),
        transcripts: Arc<dyn Transcripts>,
        world: Arc<dyn World>,
        stored: Arc<dyn Fn() + Send + Sync>,
        writers: Writers,
    ) -> Self {
        let heard = Mutex::new(Heard {
            last: Instant::now(),
            first: None,
            heartbeat: None,
            bytes: 0,
            heartbeat_bytes: 0,
            cut: false,
            noted: 0,
            notes_cut: false,
        });
        let (lines, pending) = (OnceLock::new(), Pending::default());
        Self(Arc::new(Inner {
            run,
            step,
            attempt,
            transcripts,
            world,
            stored,
            writers,
            lines,
            heard,
            pending,
        }))
    }

    /// Takes the events of a provider.
    pub fn output(&self) -> CallOutput {
        let inner = Arc::clone(&self.0);
        CallOutput::new(move |event| inner.take(event))
    }

    /// Adds a line of its own.
    pub fn note(&self, kind: TranscriptKind, text: String) {
        self.0.note(kind, text);
    }

    /// When something was heard last.
    pub fn last_heard(&self) -> Instant {
        self.0.heard().last
    }

    /// When something was heard first.
    pub fn first_heard(&self) -> Option<Instant> {
        self.0.heard().first
    }

    /// The silence begins now.
    pub fn begin(&self) {
        let mut heard = self.0.heard();
        (heard.last, heard.first) = (Instant::now(), None);
    }

    /// The last heartbeat's payload.
    pub fn heartbeat(&self) -> Option<Json> {
        self.0.heard().heartbeat.clone()
    }

    /// Waits until all that came is stored.
    pub async fn flush(&self) {
        if let Some(lines) = self.0.lines.get() {
            let (done, stored) = oneshot::channel();
            // Without a writer there is nothing to wait for.
            if lines.send(Item::Flush(done)).is_ok() {
                let _ = stored.await;
            }
        }
    }
}

impl Inner {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: CallEvent) {
        let now = Instant::now();
        let mut heard = self.heard();
        heard.last = now;
        heard.first.get_or_insert(now);
        drop(heard);
        match event {
            CallEvent::Alive | CallEvent::Usage(_) => {}
            CallEvent::Line { stream, mut text } => {
                if text.len() > limits::LOG_LINE_BYTES {
                    text.truncate(text.floor_char_boundary(limits::LOG_LINE_BYTES));
                    text.push('…');
                }
                let kind = match stream {
                    Stream::Answer => TranscriptKind::Answer,
                    Stream::Progress => TranscriptKind::Progress,
                };
                self.keep(kind, text);
            }
            CallEvent::Transcript(text) => self.keep(TranscriptKind::Event, text),
            CallEvent::Heartbeat(payload) if payload.as_str().len() > HEARTBEAT_BYTES => {
                let text = format!(
                    "a heartbeat of {} bytes was refused: the limit is {HEARTBEAT_BYTES}",
                    payload.as_str().len()
                );
                self.keep(TranscriptKind::Progress, text);
            }
            CallEvent::Heartbeat(payload) => {
                self.keep(TranscriptKind::Heartbeat, payload.as_str().to_owned());
                self.heard().heartbeat = Some(payload);
            }
        }
    }

    fn note(&self, kind: TranscriptKind, mut text: String) {
        {
            let mut heard = self.heard();
            heard.noted = heard.noted.saturating_add(text.len() + LINE_BYTES);
            if heard.noted > NOTED_BYTES {
                if std::mem::replace(&mut heard.notes_cut, true) {
                    return;
                }
                text = omitted(NOTED_BYTES);
            }
        }
        self.store(kind, text);
    }

    fn keep(&self, kind: TranscriptKind, mut text: String) {
        {
            let mut heard = self.heard();
            let bytes = text.len() + LINE_BYTES;
            heard.bytes = heard.bytes.saturating_add(bytes);
            if kind == TranscriptKind::Heartbeat {
                heard.bytes -= std::mem::replace(&mut heard.heartbeat_bytes, bytes);
            } else if heard.bytes > ATTEMPT_BYTES {
                if std::mem::replace(&mut heard.cut, true) {
                    return;
                }
                text = omitted(ATTEMPT_BYTES);
            }
        }
        self.store(kind, text);
    }

    fn store(&self, kind: TranscriptKind, text: String) {
        let at = self.world.now();
        let line = NewTranscript { step: self.step, attempt: self.attempt, at, kind, text };
        let item = match kind {
            TranscriptKind::Heartbeat => {
                let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                if pending.replace(line).is_some() {
                    // The writer has been told, and takes this one.
                    return;
                }
                Item::Heartbeat
            }
            _ => Item::Line(line),
        };
        let lines = self.lines.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (transcripts, stored) = (Arc::clone(&self.transcripts), Arc::clone(&self.stored));
            let writer = write(transcripts, self.run.clone(), stored, Arc::clone(&self.pending), receiver);
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            writers.retain(|writer| !writer.is_finished());
            writers.push(tokio::spawn(writer));
            sender
        });
        // The writer ends after the last sender only.
        let _ = lines.send(item);
    }
}

fn omitted(limit: usize) -> String {
    format!("the rest is omitted: more than {} MiB", limit >> 20)
}

/// Stores what comes, until nobody can send any more.
async fn write(
    transcripts: Arc<dyn Transcripts>,
    run: RunId,
    stored: Arc<dyn Fn() + Send + Sync>,
    pending: Pending,
    mut items: mpsc::UnboundedReceiver<Item>,
) {
    let mut batch = Vec::new();
    while items.recv_many(&mut batch, BATCH).await > 0 {
        if !batch.iter().any(|item| matches!(item, Item::Flush(_))) && batch.len() < BATCH {
            // A flush does not wait for the rest of the time.
            let gather = tokio::time::sleep(GATHER);
            tokio::pin!(gather);
            while batch.len() < BATCH {
                tokio::select! {
                    item = items.recv() => match item {
                        Some(item) => {
                            let flush = matches!(item, Item::Flush(_));
                            batch.push(item);
                            if flush { break; }
                        }
                        None => break,
                    },
                    () = &mut gather => break,
                }
            }
        }
        let mut lines = Vec::new();
        let mut flushed = Vec::new();
        for item in batch.drain(..) {
            match item {
                Item::Line(line) => lines.push(line),
                Item::Heartbeat => {
                    lines.extend(pending.lock().unwrap_or_else(PoisonError::into_inner).take());
                }
                Item::Flush(done) => flushed.push(done),
            }
        }
        if !lines.is_empty() {
            transcripts.transcribe(&run, lines).await;
            stored();
        }
        for done in flushed {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use wfhost_world::System;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Transcripts for Kept {
        fn transcribe<'a>(&'a self, _: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, ()> {
            self.0.lock().unwrap().extend(lines.into_iter().map(|line| line.text));
            std::future::ready(()).boxed()
        }

        fn last_heartbeat<'a>(&'a self, _: &'a RunId, _: Step) -> BoxFuture<'a, Option<String>> {
            std::future::ready(None).boxed()
        }
    }

    #[tokio::test]
    async fn only_the_latest_heartbeat_waits_for_the_writer() {
        let kept = Arc::new(Kept::default());
        let run: RunId = "r".parse().unwrap();
        let transcripts = Arc::clone(&kept) as Arc<dyn Transcripts>;
        let recorder = Recorder::new(
            (run.clone(), Step(1), 1),
            Arc::clone(&transcripts),
            Arc::new(System),
            Arc::new(|| {}),
            Writers::default(),
        );
        // A writer that is busy.
        let (sender, items) = mpsc::unbounded_channel();
        recorder.0.lines.set(sender).ok().unwrap();
        let output = recorder.output();
        let number = |n: u32| Json::from(serde_json::Value::from(n));
        let beat = |n| output.send(CallEvent::Heartbeat(number(n)));
        (0..1_000).for_each(beat);
        output.line(Stream::Progress, "a line");
        (1_000..2_000).for_each(beat);
        assert_eq!(items.len(), 2);
        assert_eq!(recorder.heartbeat(), Some(number(1_999)));
        let pending = Arc::clone(&recorder.0.pending);
        drop((output, recorder));
        write(transcripts, run, Arc::new(|| {}), pending, items).await;
        assert_eq!(*kept.0.lock().unwrap(), ["1999", "a line"]);
    }

    #[tokio::test]
    async fn what_the_host_notes_is_kept_whatever_a_provider_wrote() {
        let kept = Arc::new(Kept::default());
        let recorder = Recorder::new(
            ("r".parse().unwrap(), Step(1), 1),
            Arc::clone(&kept) as Arc<dyn Transcripts>,
            Arc::new(System),
            Arc::new(|| {}),
            Writers::default(),
        );
        let output = recorder.output();
        let line = "x".repeat(limits::LOG_LINE_BYTES);
        (0..ATTEMPT_BYTES / line.len() + 10).for_each(|_| output.line(Stream::Answer, line.as_str()));
        recorder.note(TranscriptKind::Diff, "+one".to_owned());
        // Without end it is not either.
        (0..NOTED_BYTES / line.len() + 10).for_each(|_| {
            recorder.note(TranscriptKind::Progress, line.clone());
        });
        recorder.flush().await;
        let kept = kept.0.lock().unwrap();
        assert!(kept.iter().any(|text| text == "+one"));
        assert_eq!(kept.iter().filter(|text| text.starts_with("the rest is omitted")).count(), 2);
        let bytes: usize = kept.iter().map(String::len).sum();
        assert!(bytes <= ATTEMPT_BYTES + NOTED_BYTES, "{bytes}");
    }
}
