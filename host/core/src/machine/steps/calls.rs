//! Agent calls: their attempts, and when the next one begins.

use minicbor::bytes::ByteVec;

use super::kind::Kind;
use super::{State, Steps};
use crate::entry::FailedCall;
use crate::{Json, Position, Step, Timestamp};

/// What decides about the next attempt at an agent call.
#[derive(Clone, PartialEq, Debug)]
pub struct CallState {
    /// When the step was scheduled, or begun again.
    pub since: Timestamp,
    /// Attempts that failed since then.
    pub failures: u32,
    /// Those of them that failed for authentication.
    pub auth_failures: u32,
    /// What the last attempt that failed reported about its progress.
    pub heartbeat: Option<Json>,
}

impl Steps {
    pub(in crate::machine) fn attempt(&mut self, step: Step, attempt: u32) -> Result<(), String> {
        match self.states.get_mut(&step) {
            Some(State {
                kind: Kind::Timer { .. } | Kind::Signal { .. } | Kind::Question { .. } | Kind::Child,
                ..
            }) => Err(format!("it is an attempt at step {step}, which is waited for and not tried")),
            Some(state) if state.is_open() && attempt == state.attempts + 1 => {
                state.anew = false;
                state.attempts = attempt;
                state.put_off = false;
                if let Some(at) = state.delay.take() {
                    self.delayed.remove(&(at, step));
                }
                self.withheld.remove(&step);
                Ok(())
            }
            Some(state) if state.is_open() => {
                Err(format!("attempt {attempt} of step {step} follows attempt {}", state.attempts))
            }
            _ => Err(format!("it is an attempt at step {step}, which is not open")),
        }
    }

    /// The open agent call that is carried out, or is to be.
    pub(super) fn open_call(&mut self, step: Step) -> Result<&mut State, String> {
        match self.states.get_mut(&step) {
            Some(state) if state.is_open() && matches!(state.kind, Kind::Work { repeat: true }) => Ok(state),
            _ => Err(format!("step {step} is no open agent call")),
        }
    }

    pub(in crate::machine) fn attempt_failed(
        &mut self,
        failed: FailedCall,
        clock: Timestamp,
    ) -> Result<(), String> {
        let is_dropped = failed.is_dropped();
        let FailedCall { step, attempt, auth, again_at, heartbeat, .. } = failed;
        let is_known = step <= self.last;
        let under_way =
            self.open_call(step).and_then(|state| match attempt == state.attempts && state.delay.is_none() {
                true => Ok(state),
                false => Err(format!("attempt {attempt} of step {step} was not under way")),
            });
        let state = match under_way {
            Ok(state) => state,
            // It only tells what was consumed.
            Err(_) if is_dropped && is_known => return Ok(()),
            Err(reason) => return Err(reason),
        };
        // Whoever drops an attempt does not say that it failed.
        state.call.failures += u32::from(!is_dropped);
        state.call.auth_failures += u32::from(auth);
        state.call.heartbeat = heartbeat.or_else(|| state.call.heartbeat.take());
        state.begun = false;
        state.delay = again_at;
        state.delay_ms = again_at.map_or(0, |at| at.since(clock));
        self.delayed.extend(again_at.map(|at| (at, step)));
        Ok(())
    }

    /// The attempt that was to begin is put off, as if it had not been meant to.
    pub(in crate::machine) fn postpone(
        &mut self,
        step: Step,
        until: Timestamp,
        clock: Timestamp,
    ) -> Result<(), String> {
        let state = self.open_call(step)?;
        if state.attempts == 0 || state.delay.is_some() {
            return Err(format!("step {step} was to begin no attempt"));
        }
        state.attempts -= 1;
        state.begun = false;
        state.delay = Some(until);
        state.delay_ms = until.since(clock);
        state.put_off = true;
        self.delayed.insert((until, step));
        Ok(())
    }

    /// An agent call is tried again: what failed before does not count.
    pub(in crate::machine) fn begin_again(&mut self, step: Step, at: Timestamp) {
        if let Some(state) = self.states.get_mut(&step) {
            state.call = CallState { since: at, failures: 0, auth_failures: 0, heartbeat: None };
        }
    }

    pub(in crate::machine) fn call(&self, step: Step) -> Option<&CallState> {
        self.states.get(&step).map(|state| &state.call)
    }

    pub(in crate::machine) fn attempts(&self, step: Step) -> u32 {
        self.states.get(&step).map_or(0, |state| state.attempts)
    }

    /// Whether the step is an agent call that the host carries out.
    pub(in crate::machine) fn is_call(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(|state| matches!(state.kind, Kind::Work { repeat: true }))
    }

    /// The agent calls whose next attempt is to begin and that is not after `clock`, with their operations.
    pub(in crate::machine) fn due_calls(&self, clock: Timestamp) -> Vec<(Step, Position, ByteVec)> {
        let due = self.delayed.iter().take_while(|(at, _)| *at <= clock);
        due.filter_map(|(_, step)| {
            let state = self.states.get(step)?;
            Some((*step, state.scheduled, state.op.clone()))
        })
        .collect()
    }

    /// The agent call whose next attempt is to begin, if that is not after `clock`.
    pub(in crate::machine) fn delay_over(&self, clock: Timestamp) -> Option<Step> {
        self.delayed.first().filter(|(at, _)| *at <= clock).map(|(_, step)| *step)
    }

    /// The next attempt of a call cannot be made here.
    pub(in crate::machine) fn withhold(&mut self, step: Step) {
        if let Some(at) = self.states.get(&step).and_then(|state| state.delay)
            && self.delayed.remove(&(at, step))
        {
            self.withheld.insert(step);
        }
    }

    /// Those that cannot be made here wait for their time again.
    pub(in crate::machine) fn let_go(&mut self) {
        for step in std::mem::take(&mut self.withheld) {
            self.delayed.extend(self.states.get(&step).and_then(|state| state.delay).map(|at| (at, step)));
        }
    }

    pub(in crate::machine) fn withholds(&self) -> bool {
        !self.withheld.is_empty()
    }
}
