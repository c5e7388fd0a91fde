//! What ends at a certain time.

use super::Steps;
use super::kind::Kind;
use crate::{Failure, FailureKind, Json, Outcome, Step, Timestamp, spell_millis};

impl Steps {
    pub(super) fn timer(&mut self, step: Step, deadline: Timestamp, length: Option<u64>) -> Kind {
        self.timers.insert((deadline, step));
        Kind::Timer { deadline, length }
    }

    /// The clock had been ahead and now shows `clock`. What has a length has no
    /// more than that left, wherever its deadline was.
    pub(in crate::machine) fn put_right(&mut self, clock: Timestamp) {
        for (deadline, step) in std::mem::take(&mut self.timers) {
            let mut deadline = deadline;
            if let Some(state) = self.states.get_mut(&step) {
                let limit = match &mut state.kind {
                    Kind::Timer { deadline, length: Some(length) } => Some((deadline, *length)),
                    Kind::Signal { deadline: Some((deadline, length)), .. }
                    | Kind::Question { deadline: Some((deadline, length)), .. } => Some((deadline, *length)),
                    _ => None,
                };
                if let Some((until, length)) = limit {
                    *until = (*until).min(clock.after(length));
                    deadline = *until;
                }
            }
            self.timers.insert((deadline, step));
        }
        for (until, step) in std::mem::take(&mut self.delayed) {
            let mut until = until;
            if let Some(state) = self.states.get_mut(&step) {
                until = until.min(clock.after(state.delay_ms));
                state.delay = Some(until);
            }
            self.delayed.insert((until, step));
        }
    }

    /// The step is tried again: time limits count from `at`.
    pub(in crate::machine) fn reopen(&mut self, step: Step, at: Timestamp) {
        let Some(state) = self.states.get_mut(&step).filter(|state| state.is_open()) else { return };
        if let Kind::Signal { deadline: Some(deadline), .. }
        | Kind::Question { deadline: Some(deadline), .. } = &mut state.kind
        {
            self.timers.remove(&(deadline.0, step));
            deadline.0 = at.after(deadline.1);
            self.timers.insert((deadline.0, step));
        }
    }

    /// The timer with the earliest deadline, if that is not after `clock`, and
    /// how it ends. That of the step `but` is passed over.
    pub(in crate::machine) fn due(&self, clock: Timestamp, but: Option<Step>) -> Option<(Step, Outcome)> {
        let mut due = self.timers.iter().take_while(|(deadline, _)| *deadline <= clock);
        let &(_, step) = due.find(|(_, step)| Some(*step) != but)?;
        let outcome = match self.states.get(&step).map(|state| &state.kind) {
            Some(Kind::Signal { name, deadline: Some((_, millis)) }) => {
                let message = format!("no signal `{name}` came within {}", spell_millis(*millis));
                Err(Failure::new(FailureKind::TimedOut, message))
            }
            Some(Kind::Question { deadline: Some((_, millis)), .. }) => {
                let message = format!("nobody answered within {}", spell_millis(*millis));
                Err(Failure::new(FailureKind::TimedOut, message))
            }
            _ => Ok(Json::null()),
        };
        Some((step, outcome))
    }

    pub(in crate::machine) fn next_deadline(&self) -> Option<Timestamp> {
        let delayed = self.delayed.first();
        self.timers.first().into_iter().chain(delayed).map(|(deadline, _)| *deadline).min()
    }
}
