//! `wfhost journal`

use wfhost::clock::rfc3339;
use wfhost_core::{EndedChild, Event, FailedCall, Outcome, Position, decode_op};

use super::diagnostic::{Exit, Trouble};
use super::document::{Document, document, raw};
use super::place::find_run;
use super::{Common, Format, printer};

/// Show the journal of a run, entry by entry
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost journal @last
  wfhost journal run_01k9 -o jsonl")]
pub(crate) struct Journal {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
}

impl Journal {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.reader()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let rows = store.journal(&info.id, wfhost_core::Position(0)).await?;
        let journal = wfhost_core::Journal::read(rows)
            .map_err(|source| wfhost::HostError::Journal { run: info.id.clone(), source })?;
        let entries = journal.entries.iter().enumerate().map(|(position, entry)| {
            let mut view = describe(Position(position as u64), &entry.event);
            view.extend(document! {
                "position": position, "at": rfc3339(entry.at), "kind": entry.event.kind(),
            });
            view
        });
        match common.output {
            Format::Json => {
                let entries: Vec<_> = entries.collect();
                let view = document! {
                    "schema": "wfhost/journal/1", "run": info.id, "head": journal.head, "entries": entries,
                };
                printer::json(&view);
            }
            Format::Jsonl => entries.for_each(|entry| printer::json(&entry)),
            Format::Text => {
                for (position, entry) in journal.entries.iter().enumerate() {
                    let fields = describe(Position(position as u64), &entry.event);
                    let fields: Vec<_> =
                        fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    let time = rfc3339(entry.at);
                    let line =
                        format!("{position:>5}  {time}  {:<16}  {}", entry.event.kind(), fields.join(" "));
                    printer::line(line.trim_end());
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// The fields of an entry.
pub(super) fn describe(position: Position, event: &Event) -> Document {
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
        Event::Completed { step, outcome } => match Outcome::from(outcome.clone()) {
            Ok(output) => document! { "step": step, "output": output },
            Err(failure) => document! { "step": step, "failure": failure },
        },
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
            let FailedCall { step, attempt, provider, failure, auth, again_at, usage, heartbeat } =
                failed.as_ref();
            document! {
                "step": step, "attempt": attempt, "provider": provider, "failure": failure, "auth": auth,
                "again_at": again_at.map(rfc3339), "usage": usage, "heartbeat": heartbeat,
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
