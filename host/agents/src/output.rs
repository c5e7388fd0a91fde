//! What a call shows while it is under way.

use std::fmt;
use std::sync::Arc;

use wfhost_core::Json;

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
        self.rest.push_str(piece);
        while let Some(end) = self.rest.find('\n') {
            let line: String = self.rest.drain(..=end).collect();
            self.out.line(self.stream, line.trim_end_matches(['\n', '\r']));
        }
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
}
