//! How steps end: by themselves, dropped by the program, or with all others.

use std::sync::Arc;

use super::kind::Kind;
use super::{QuestionChange, SetId, Steps};
use crate::{Failure, FailureKind, Json, Outcome, Position, Step, Timestamp};

/// How a step ended, and where in the journal that stands.
#[derive(Debug)]
pub(in crate::machine) struct Done {
    pub position: Position,
    pub at: Timestamp,
    end: HowDone,
}

#[derive(Debug)]
enum HowDone {
    Itself(Outcome),
    /// With all that was open when the run was asked to stop: what it was told is kept once for all of them.
    WithAll(Arc<Failure>),
}

impl Done {
    pub fn new(position: Position, at: Timestamp, outcome: Outcome) -> Self {
        Self { position, at, end: HowDone::Itself(outcome) }
    }

    pub fn outcome(&self) -> Outcome {
        match &self.end {
            HowDone::Itself(outcome) => outcome.clone(),
            HowDone::WithAll(failure) => Err(failure.as_ref().clone()),
        }
    }

    /// What it gave, if it did not fail.
    pub(super) fn given(&self) -> Option<&Json> {
        match &self.end {
            HowDone::Itself(outcome) => outcome.as_ref().ok(),
            HowDone::WithAll(_) => None,
        }
    }

    fn is_cancelled(&self) -> bool {
        match &self.end {
            HowDone::Itself(outcome) => {
                matches!(outcome, Err(failure) if failure.kind == FailureKind::Cancelled)
            }
            HowDone::WithAll(_) => true,
        }
    }

    /// The bytes that are kept for it alone.
    pub(super) fn bytes(&self) -> u64 {
        match &self.end {
            HowDone::Itself(Ok(json)) => json.as_str().len() as u64,
            HowDone::Itself(Err(failure)) => failure_bytes(failure),
            HowDone::WithAll(_) => 0,
        }
    }
}

fn failure_bytes(failure: &Failure) -> u64 {
    (failure.message.len() + failure.details.as_ref().map_or(0, |json| json.as_str().len())) as u64
}

impl Steps {
    pub(in crate::machine) fn complete(
        &mut self,
        step: Step,
        done: Done,
    ) -> Result<Vec<(SetId, u64)>, String> {
        if !self.is_open(step) {
            return Err(format!("it completes step {step}, which is not open"));
        }
        Ok(self.close(step, Some(done)))
    }

    pub(in crate::machine) fn cancel(&mut self, step: Step) -> Result<(), String> {
        if !self.is_open(step) {
            return Err(format!("it cancels step {step}, which is not open"));
        }
        self.close(step, None);
        Ok(())
    }

    /// Ends all open steps with the same failure.
    pub(in crate::machine) fn cancel_all(
        &mut self,
        failure: Failure,
        position: Position,
        at: Timestamp,
    ) -> Vec<(Step, Vec<(SetId, u64)>)> {
        let open: Vec<_> = self.open().map(|open| open.step).collect();
        self.outcome_bytes += failure_bytes(&failure);
        let failure = Arc::new(failure);
        open.into_iter()
            .map(|step| {
                let done = Done { position, at, end: HowDone::WithAll(Arc::clone(&failure)) };
                (step, self.close(step, Some(done)))
            })
            .collect()
    }

    /// The run has ended: nothing is waited for any more.
    pub(in crate::machine) fn abort_all(&mut self) {
        for step in std::mem::take(&mut self.questions) {
            self.question_changes.push(QuestionChange::Closed { step });
        }
        for step in std::mem::take(&mut self.working) {
            if self.states.get(&step).is_some_and(|state| state.begun) {
                self.aborts.push(step);
            }
        }
        self.starts.clear();
        self.children.clear();
        self.new_children.clear();
        self.timers.clear();
        self.delayed.clear();
        self.withheld.clear();
        self.signals.clear();
    }

    /// The step is not open any more: done, or without `done` cancelled.
    pub(super) fn close(&mut self, step: Step, done: Option<Done>) -> Vec<(SetId, u64)> {
        let Some(state) = self.states.get_mut(&step) else {
            return Vec::new();
        };
        if let Some(at) = state.delay.take() {
            self.delayed.remove(&(at, step));
        }
        match &state.kind {
            Kind::Work { .. } => {
                self.working.remove(&step);
                self.withheld.remove(&step);
                let by_itself = done.as_ref().is_some_and(|done| !done.is_cancelled());
                // One that was put off has a turn, which it needs no more.
                if state.put_off || state.begun && !by_itself {
                    self.aborts.push(step);
                }
            }
            Kind::Timer { deadline, .. } => {
                self.timers.remove(&(*deadline, step));
            }
            // One that ended by itself was taken out before.
            Kind::Child => {
                if self.children.remove(&step) {
                    self.dropped_children.push(step);
                }
            }
            Kind::Signal { name, deadline } => {
                if let Some((deadline, _)) = deadline {
                    self.timers.remove(&(*deadline, step));
                }
                if let Some(queue) = self.signals.get_mut(name) {
                    queue.waits.remove(&step);
                    if queue.is_empty() {
                        self.signals.remove(name);
                    }
                }
            }
            Kind::Question { deadline, .. } => {
                if let Some((deadline, _)) = deadline {
                    self.timers.remove(&(*deadline, step));
                }
                self.questions.remove(&step);
                self.question_changes.push(QuestionChange::Closed { step });
            }
        }
        state.cancelled = done.is_none();
        self.outcome_bytes += done.as_ref().map_or(0, Done::bytes);
        state.done = done;
        state.forget_op();
        state.watchers.iter().copied().collect()
    }

    /// Whether the step is open, and how it ended; none if it is not known, as it is void.
    #[cfg(test)]
    pub(in crate::machine) fn fate(&self, step: Step) -> Option<(bool, Option<Outcome>)> {
        let state = self.states.get(&step)?;
        Some((state.is_open(), state.done.as_ref().map(Done::outcome)))
    }
}
