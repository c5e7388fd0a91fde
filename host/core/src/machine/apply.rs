//! What an entry does to the state of a run.

use super::steps::Done;
use super::{Fork, Machine, Scripted, ScriptedEvent, Status};
use crate::entry::{EndedChild, Entry, EntryError, Event};
use crate::journal::extend_chain;
use crate::{Failure, FailureKind, Outcome, Position, Timestamp};

/// What the entries of most commits fit into.
const COMMIT_BYTES: usize = 256;

/// Why an entry cannot be applied.
#[derive(Debug)]
pub(super) enum Refusal {
    Illegal(String),
    Unreadable(EntryError),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Illegal(reason)
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Self::Illegal(reason.to_owned())
    }
}

impl Machine {
    pub(super) fn append(&mut self, clock: Timestamp, event: Event) -> Position {
        if let Some(module) = self.moving.take() {
            self.append(clock, Event::Moved { module });
        }
        let entry = Entry::behind(self.last_at, clock, event);
        if self.unsaved.bytes.is_empty() {
            self.unsaved.bytes.reserve(COMMIT_BYTES);
        }
        let start = self.unsaved.bytes.len();
        entry.encode_to(&mut self.unsaved.bytes);
        self.head = extend_chain(&self.head, &self.unsaved.bytes[start..]);
        self.unsaved.head = self.head;
        self.unsaved.count += 1;
        let position = self.next;
        self.next.0 += 1;
        // The callers have made sure that the entry may stand here.
        self.apply(position, entry, false)
            .unwrap_or_else(|refusal| unreachable!("appending entry {position}: {refusal:?}"));
        position
    }

    /// The one place where an entry changes the state: when it is read as when
    /// it is new. Says why if it cannot stand here.
    pub(super) fn apply(&mut self, position: Position, entry: Entry, recorded: bool) -> Result<(), Refusal> {
        // What lasts from here on counts from this.
        let from_clock = entry.clock();
        let Entry { at, event, .. } = entry;
        if at < self.last_at {
            return Err("it is older than the entry before".into());
        }
        self.pass_time(position, at, from_clock);
        let is_call = matches!(&event, Event::Completed { step, .. } if self.steps.is_call(*step));
        self.spending.note(position, &event, is_call);
        let scripted = |event| Scripted { position, at, event };
        match (&self.status, event) {
            (Status::New, Event::Started(_)) => {
                self.status = Status::Running;
                self.started_at = at;
                self.module = self.started.module;
                self.observe(position, at);
            }
            (Status::New, _) => return Err("a journal begins with `started`".into()),
            (Status::Ended(_) | Status::Continued(_), event) => {
                return Err(format!("the run had ended before this `{}`", event.kind()).into());
            }
            (Status::Running, Event::Started(_)) => {
                return Err("only the first entry is `started`".into());
            }
            (Status::Running, Event::Scheduled { step, op }) => {
                self.reuse.count(&op);
                if recorded {
                    self.script.push_back(scripted(ScriptedEvent::Scheduled { step }));
                }
                self.steps.schedule(step, op, position, (at, from_clock), recorded)?;
            }
            (Status::Running, Event::Attempted { step, attempt, .. }) => {
                self.steps.attempt(step, attempt)?;
            }
            (Status::Running, Event::Completed { step, outcome, .. }) => {
                let done = Done::new(position, at, outcome.into());
                let watchers = self.steps.complete(step, done)?;
                self.sets.ready(step, position, &watchers);
            }
            (Status::Running, Event::Answered { step, outcome, .. }) => {
                let done = Done::new(position, at, outcome.into());
                let watchers = self.steps.answer(step, done)?;
                self.sets.ready(step, position, &watchers);
            }
            (Status::Running, Event::ChildEnded(child)) => {
                let EndedChild { step, outcome, .. } = *child;
                let done = Done::new(position, at, outcome.into());
                let watchers = self.steps.end_child(step, done)?;
                self.sets.ready(step, position, &watchers);
            }
            (Status::Running, Event::ContinuedAsNew { run }) => {
                self.status = Status::Continued(run);
                self.steps.abort_all();
                if recorded {
                    self.script.push_back(scripted(ScriptedEvent::Continued));
                }
            }
            (Status::Running, Event::Forked { run, seed, .. }) => {
                self.forks.push(Fork { position, at, run, seed });
                self.steps.begin_all_anew();
                // Those that are under way are the other run's.
                if !recorded {
                    self.steps.start_children_again();
                }
            }
            (Status::Running, Event::Moved { module }) => {
                self.module = module;
                self.moved = !recorded;
                self.moved_at = Some(position);
            }
            (Status::Running, Event::Retried { step, .. }) => {
                // What is void was left out before; see `retry`.
                self.retried = true;
                // The cause of an authentication failure may have been fixed before the retry.
                self.providers_out.clear();
                if let Some(step) = step {
                    self.steps.begin_again(step, from_clock);
                }
            }
            (Status::Running, Event::AttemptFailed(failed)) => {
                if failed.auth {
                    self.providers_out.insert(failed.provider.clone());
                }
                self.steps.attempt_failed(*failed, from_clock)?;
            }
            (Status::Running, Event::Postponed { step, until, .. }) => {
                self.steps.postpone(step, until, from_clock)?
            }
            (Status::Running, Event::Delegated { step, provider, question, deadline }) => {
                self.steps.delegate(step, provider, *question, deadline, from_clock)?;
            }
            (Status::Running, Event::BudgetChanged { .. } | Event::ClockSet) => {}
            (Status::Running, Event::Cancelled { step }) => {
                self.steps.cancel(step)?;
                if recorded {
                    self.script.push_back(scripted(ScriptedEvent::Cancelled { step }));
                }
            }
            (Status::Running, Event::Received { name, payload, .. }) => {
                if let Some((step, watchers)) = self.steps.give(name, payload, position, at, false) {
                    self.sets.ready(step, position, &watchers);
                }
            }
            (Status::Running, Event::CancelRequested { reason }) => {
                if self.cancel_requested.is_some() {
                    return Err("the run was asked to stop before".into());
                }
                self.cancel_requested = Some(position);
                let message = match reason {
                    Some(reason) => format!("the run was asked to stop: {reason}"),
                    None => "the run was asked to stop".to_owned(),
                };
                let failure = Failure::new(FailureKind::Cancelled, message);
                for (step, watchers) in self.steps.cancel_all(failure, position, at) {
                    self.sets.ready(step, position, &watchers);
                }
            }
            (Status::Running, Event::Returned { step }) => {
                let (name, payload) = self.steps.return_signal(step)?;
                if let Some((step, watchers)) = self.steps.give(name, payload, position, at, true) {
                    self.sets.ready(step, position, &watchers);
                }
                if recorded {
                    self.script.push_back(scripted(ScriptedEvent::Returned { step }));
                }
            }
            (Status::Running, Event::Patched { id }) => {
                if recorded {
                    self.script.push_back(scripted(ScriptedEvent::Patched { id }));
                }
            }
            (Status::Running, Event::Finished { outcome, stopped }) => {
                let outcome = Outcome::from(outcome);
                self.status = Status::Ended(outcome.clone());
                self.steps.abort_all();
                if recorded {
                    self.script.push_back(scripted(ScriptedEvent::Finished { outcome, stopped }));
                }
            }
        }
        Ok(())
    }
}
