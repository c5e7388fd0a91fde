//! Runs as traces: spans, made of the journal alone. So a trace can be told at any time, by anybody who
//! has the journal, in whole or again, and is the same; a host that dies takes none of it along.
//!
//! What entries say is told as they say it, and no later entry changes it: a span that has ended stays as it is. What a
//! retry takes up again has further spans.

mod json;
mod past;
#[cfg(test)]
mod tests;
mod tracer;

use std::collections::HashMap;

use serde_json::Value;
use wfhost::store::RunInfo;
use wfhost_core::journal::{GENESIS, extend_chain};
use wfhost_core::trace::{span_id, trace_id};
use wfhost_core::{Event, Journal, RunId, Step, Timestamp};

pub use self::json::otlp;
pub use self::tracer::{NeedsPast, Tracer};

/// A span.
#[derive(Clone, PartialEq, Debug)]
pub struct Span {
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    /// What it asks of others, not only of itself.
    pub is_call: bool,
    /// It goes on: its end is the last that is known of it.
    pub is_open: bool,
    pub from: Timestamp,
    pub to: Timestamp,
    pub attributes: Vec<(&'static str, Value)>,
    pub links: Vec<Link>,
    /// The kind of the failure, and its message.
    pub failed: Option<(String, String)>,
}

impl Span {
    /// About how many bytes it has where it is sent: those of its texts, and of what stands around them.
    pub fn text_bytes(&self) -> usize {
        const AROUND: usize = 300;
        const AROUND_PART: usize = 60;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string().len(), str::len);
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + text(value) + AROUND_PART);
        let links = self.links.iter().map(|link| link.trace.len() + link.span.len() + 2 * AROUND_PART);
        let failed = self.failed.iter().map(|(kind, message)| kind.len() + message.len() + AROUND_PART);
        AROUND + self.name.len() + attributes.chain(links).chain(failed).sum::<usize>()
    }
}

/// What belongs to a span in another trace.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    pub trace: String,
    pub span: String,
    /// What it is to this one: `parent`, `child`, `previous`, `forked-from`, `reused`, `caller`, `retry-of`.
    pub what: &'static str,
}

/// The trace of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    pub id: String,
    /// Parents come before their children.
    pub spans: Vec<Span>,
}

/// The span that all others of a run are below.
fn root_id(run: &RunId) -> String {
    span_id(run, "root", &[])
}

fn step_id(run: &RunId, step: Step) -> String {
    span_id(run, "step", &[step.0])
}

fn link(run: &RunId, span: String, what: &'static str) -> Link {
    Link { trace: trace_id(run), span, what }
}

impl Trace {
    /// The trace of a run with this journal. With `content` also what it works on. What is open is told as far as it is
    /// known.
    pub fn of(info: &RunInfo, journal: &Journal, content: bool) -> Self {
        let mut tracer = Tracer::with_past(info, content);
        let mut spans = Vec::new();
        // The heads where it ended before, if it was retried.
        let last_retry =
            journal.entries.iter().rposition(|entry| matches!(entry.event, Event::Retried { .. }));
        let (mut head, mut bytes) = (GENESIS, Vec::new());
        for (place, entry) in journal.entries.iter().enumerate() {
            if last_retry.is_some_and(|last| place < last) {
                bytes.clear();
                entry.encode_to(&mut bytes);
                head = extend_chain(&head, &bytes);
            } else {
                head = journal.head;
            }
            // It has its past.
            let _ = tracer.take(entry, Some(head), Some(&mut spans));
        }
        spans.extend(tracer.open());
        Self { id: trace_id(&info.id), spans: below_their_parents(spans) }
    }
}

/// The same spans, each behind the one that it is below.
fn below_their_parents(spans: Vec<Span>) -> Vec<Span> {
    let mut below: HashMap<Option<String>, Vec<Span>> = HashMap::new();
    let mut roots = Vec::new();
    for span in spans {
        match &span.parent {
            Some(_) => below.entry(span.parent.clone()).or_default().push(span),
            None => roots.push(span),
        }
    }
    below.values_mut().for_each(|spans| spans.sort_by_key(|span| span.from));
    let (mut ordered, mut next) = (Vec::new(), roots);
    while let Some(span) = next.pop() {
        // The first of them comes next.
        next.extend(below.remove(&Some(span.id.clone())).into_iter().flatten().rev());
        ordered.push(span);
    }
    ordered
}
