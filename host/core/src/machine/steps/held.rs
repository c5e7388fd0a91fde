//! What the program holds, and is told of.

use std::collections::BTreeSet;

use super::{Done, SetId, Steps};
use crate::{Position, Step};

impl Steps {
    /// The program of this execution has asked for the step.
    pub(in crate::machine) fn claim(&mut self, step: Step) {
        if let Some(state) = self.states.get_mut(&step) {
            state.held = true;
            self.held += 1;
            state.forget_op();
        }
    }

    /// The number of steps that the program holds.
    pub(in crate::machine) fn held(&self) -> usize {
        self.held
    }

    /// The bytes of the operation of a step that the program has not asked for, or that is open.
    pub(in crate::machine) fn op(&self, step: Step) -> Option<&[u8]> {
        self.states.get(&step).map(|state| state.op.as_slice())
    }

    /// The program is told how the step ended.
    pub(in crate::machine) fn read(&mut self, step: Step) {
        if let Some(state) = self.states.get_mut(&step) {
            state.read = true;
        }
    }

    /// How the step ended, if it has; an error if the program does not hold it.
    pub(in crate::machine) fn done(&self, step: Step) -> Result<Option<&Done>, ()> {
        match self.states.get(&step) {
            Some(state) if state.held => Ok(state.done.as_ref()),
            _ => Err(()),
        }
    }

    /// Whether the journal says that the program dropped the step before it was
    /// done; none if the program does not hold it.
    pub(in crate::machine) fn cancelled(&self, step: Step) -> Option<bool> {
        self.states.get(&step).filter(|state| state.held).map(|state| state.cancelled)
    }

    /// The program lets go of the step. Gives the sets that it is in.
    pub(in crate::machine) fn release(&mut self, step: Step) -> BTreeSet<(SetId, u64)> {
        self.held -= 1;
        let Some(state) = self.states.remove(&step) else { return BTreeSet::new() };
        let bytes = state.done.as_ref().map_or(0, Done::bytes);
        self.outcome_bytes = self.outcome_bytes.saturating_sub(bytes);
        state.watchers
    }

    /// The step was added to a set. Gives where it was done, if it was.
    pub(in crate::machine) fn watch(
        &mut self,
        step: Step,
        set: SetId,
        tag: u64,
    ) -> Result<Option<Position>, ()> {
        match self.states.get_mut(&step) {
            Some(state) if state.held => {
                state.watchers.insert((set, tag));
                Ok(state.done.as_ref().map(|done| done.position))
            }
            _ => Err(()),
        }
    }

    /// The step is no member of the set any more, by that tag.
    pub(in crate::machine) fn unwatch(&mut self, step: Step, set: SetId, tag: u64) {
        if let Some(state) = self.states.get_mut(&step) {
            state.watchers.remove(&(set, tag));
        }
    }
}
