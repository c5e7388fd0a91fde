//! Entries of journals.

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::clock::rfc3339;
use wfhost_core::{
    EndedChild, Entry, EntryError, Event, FailedCall, Outcome, Position, Row, RunId, decode_op,
};

use crate::document::{Document, raw};
use crate::{Anything, document, hide};

/// A part of a journal.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JournalView {
    pub entries: Vec<EntryView>,
    /// Of the chain of digests, after the last of these entries.
    pub head: Option<String>,
    /// The position to go on from; null if these are the last ones.
    pub next: Option<u64>,
    pub run: String,
    #[schema(example = "wfhost/journal/1")]
    pub schema: &'static str,
}

/// An entry: `position`, `at`, `kind`, and the fields of its kind.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = std::collections::BTreeMap<String, Anything>)]
pub struct EntryView(pub Document);

impl EntryView {
    pub fn of(position: Position, entry: &Entry) -> Self {
        let mut view = describe(position, &entry.event);
        view.extend(document! { "position": position, "at": rfc3339(entry.at), "kind": entry.event.kind() });
        Self(view)
    }

    /// As an event: of which run, and the number to go on behind.
    #[must_use]
    pub fn event(mut self, run: &RunId, event: &impl Serialize) -> Self {
        self.0.extend(document! { "event": event, "run": run });
        self
    }

    /// Without what was asked, answered and sent.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        /// What tells nothing of what a run works on.
        const SHOWN: [&str; 23] = [
            "after_entries",
            "again_at",
            "at",
            "attempt",
            "auth",
            "budget",
            "deadline",
            "event",
            "from",
            "kind",
            "module",
            "parent",
            "position",
            "provider",
            "run",
            "signal",
            "spent",
            "step",
            "stopped",
            "until",
            "usage",
            "workflow",
            "child",
        ];
        for (name, value) in &mut self.0 {
            if !SHOWN.contains(&name.as_str()) && value.get() != "null" {
                *value = raw(&hide::size(value.get()));
            }
        }
        self
    }
}

/// The entries of rows, from a position on.
pub fn entries(rows: &[Row], from: Position) -> Result<Vec<(Position, Entry)>, EntryError> {
    let mut entries = Vec::new();
    for entry in rows.iter().flat_map(Row::entries) {
        let (position, entry) = entry?;
        if position >= from {
            entries.push((position, entry));
        }
    }
    Ok(entries)
}

/// The fields of an entry.
pub fn describe(position: Position, event: &Event) -> Document {
    match event {
        // Its fields as they are.
        Event::Started(started) => serde_json::from_str(raw(started).get()).unwrap_or_default(),
        Event::Scheduled { step, op } => match decode_op(op, position) {
            Ok(op) => document! { "step": step, "op": op },
            Err(error) => document! { "step": step, "error": error.to_string() },
        },
        Event::Attempted { step, attempt, after } => {
            document! { "step": step, "attempt": attempt, "after": after }
        }
        Event::Completed { step, outcome, timing } => {
            let mut fields = match Outcome::from(outcome.clone()) {
                Ok(output) => document! { "step": step, "output": output },
                Err(failure) => document! { "step": step, "failure": failure },
            };
            // Only what is called has times.
            fields.extend(timing.map(|timing| ("timing".to_owned(), raw(&timing))));
            fields
        }
        Event::Answered { step, outcome, by, note } => match Outcome::from(outcome.clone()) {
            Ok(output) => document! { "step": step, "output": output, "by": by, "note": note },
            Err(failure) => document! { "step": step, "failure": failure, "by": by, "note": note },
        },
        Event::ChildEnded(child) => {
            let EndedChild { step, run, outcome, spent } = child.as_ref();
            match Outcome::from(outcome.clone()) {
                Ok(output) => document! { "step": step, "run": run, "output": output, "spent": spent },
                Err(failure) => document! { "step": step, "run": run, "failure": failure, "spent": spent },
            }
        }
        Event::ContinuedAsNew { run } => document! { "run": run },
        Event::Forked { run, from, .. } => document! { "run": run, "from": from },
        Event::Retried { from, step, .. } => document! { "from": from, "step": step },
        Event::AttemptFailed(failed) => {
            let FailedCall { step, attempt, provider, failure, auth, again_at, usage, heartbeat, timing } =
                failed.as_ref();
            document! {
                "step": step, "attempt": attempt, "provider": provider, "failure": failure, "auth": auth,
                "again_at": again_at.map(rfc3339), "usage": usage, "heartbeat": heartbeat, "timing": timing,
            }
        }
        Event::Postponed { step, until, reason } => {
            document! { "step": step, "until": rfc3339(*until), "reason": reason }
        }
        Event::Delegated { step, provider, question, deadline } => {
            document! { "step": step, "provider": provider, "question": question, "deadline": deadline.map(rfc3339) }
        }
        Event::BudgetChanged { budget } => document! { "budget": budget },
        Event::ClockSet => Document::from([]),
        Event::Moved { module } => document! { "module": module },
        Event::Cancelled { step } | Event::Returned { step } => document! { "step": step },
        Event::Received { name, payload, id } => document! { "signal": name, "payload": payload, "id": id },
        Event::CancelRequested { reason } => document! { "reason": reason },
        Event::Patched { id } => document! { "id": id },
        Event::Finished { outcome, stopped } => match Outcome::from(outcome.clone()) {
            Ok(output) => document! { "output": output, "stopped": stopped },
            Err(failure) => document! { "failure": failure, "stopped": stopped },
        },
    }
}
