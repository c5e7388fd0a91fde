//! What a call shows while it is under way.

use std::fmt;
use std::sync::Arc;

use wfhost_core::{Json, Usage};

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// What the agent says: its streamed answer, a program's stdout.
    Answer,
    /// What is said about the work: a program's stderr, tools that it used.
    Progress,
}

/// Something that happened during a call. Each is a sign of life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallEvent {
    /// A line for people who watch. Never part of what the program observes.
    Line { stream: Stream, text: String },
    /// One event as the provider sent it, for the transcript.
    Transcript(String),
    /// How far the work is. The last one is handed to the next attempt.
    Heartbeat(Json),
    /// What this turn of the call consumed up to now, as far as that is known; the last one counts if the call
    /// is stopped. Providers send it as soon as they know it.
    Usage(Usage),
    /// Something was heard of the provider.
    Alive,
}

/// Takes the events of a call. Cheap to clone.
///
/// The function behind it must not block: it is called between two reads.
#[derive(Clone)]
pub struct CallOutput(Option<Arc<dyn Fn(CallEvent) + Send + Sync>>);

impl CallOutput {
    pub fn new(sink: impl Fn(CallEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    /// Nobody watches.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn send(&self, event: CallEvent) {
        if let Some(sink) = &self.0 {
            sink(event);
        }
    }

    pub fn line(&self, stream: Stream, text: impl Into<String>) {
        if self.0.is_some() {
            self.send(CallEvent::Line { stream, text: text.into() });
        }
    }

    pub fn transcript(&self, event: &str) {
        if self.0.is_some() {
            self.send(CallEvent::Transcript(event.to_owned()));
        }
    }

    /// Tells what was consumed up to now, if that is known.
    pub fn usage(&self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.send(CallEvent::Usage(usage));
        }
    }

    pub fn alive(&self) {
        self.send(CallEvent::Alive);
    }
}

impl fmt::Debug for CallOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "CallOutput(watched)" } else { "CallOutput(none)" })
    }
}

/// Makes lines of text that comes in pieces. Whole lines only: a secret that
/// is split over two pieces is still found in its line.
#[derive(Debug)]
pub struct Lines {
    out: CallOutput,
    stream: Stream,
    rest: String,
}

impl Lines {
    pub fn new(out: CallOutput, stream: Stream) -> Self {
        Self { out, stream, rest: String::new() }
    }

    pub fn push(&mut self, piece: &str) {
        // What is kept has no line break, so only what is new is looked at.
        for part in piece.split_inclusive('\n') {
            match (part.ends_with('\n'), self.rest.is_empty()) {
                (true, true) => self.line(part),
                (true, false) => {
                    self.rest.push_str(part);
                    let line = std::mem::take(&mut self.rest);
                    self.line(&line);
                }
                (false, _) => self.rest.push_str(part),
            }
        }
    }

    fn line(&self, line: &str) {
        self.out.line(self.stream, line.trim_end_matches(['\n', '\r']));
    }

    /// Shows what has no line break at its end.
    pub fn finish(&mut self) {
        if !self.rest.is_empty() {
            self.out.line(self.stream, std::mem::take(&mut self.rest));
        }
    }
}

/// Keeps all events, for tests.
#[cfg(test)]
pub(crate) fn recorded() -> (CallOutput, Arc<std::sync::Mutex<Vec<CallEvent>>>) {
    let events = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    (CallOutput::new(move |event| sink.lock().unwrap().push(event)), events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        let (out, events) = recorded();
        let mut lines = Lines::new(out, Stream::Answer);
        lines.push("one\r\ntw");
        lines.push("o\nthr");
        lines.push("ee");
        lines.finish();
        lines.finish();
        let texts: Vec<_> = events
            .lock()
            .unwrap()
            .iter()
            .map(|event| match event {
                CallEvent::Line { text, .. } => text.clone(),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(texts, ["one", "two", "three"]);
    }

    /// If the work grew with the square of what comes, this would take minutes.
    #[test]
    fn each_byte_of_a_piece_is_looked_at_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let shown = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&shown);
        let out = CallOutput::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mut lines = Lines::new(out, Stream::Answer);
        lines.push(&"\n".repeat(8 << 20));
        assert_eq!(shown.swap(0, Ordering::Relaxed), 8 << 20);
        (0..2 << 20).for_each(|_| lines.push("12345678"));
        lines.finish();
        assert_eq!(shown.load(Ordering::Relaxed), 1);
    }
}
