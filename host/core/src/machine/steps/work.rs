//! What the host carries out: what is to begin, what was begun, what is to be stopped.

use std::collections::BTreeSet;

use minicbor::bytes::ByteVec;

use super::kind::Kind;
use super::{State, Steps};
use crate::{Position, Step};

/// A call that was under way when the last execution ended.
pub(in crate::machine) struct Interrupted {
    pub step: Step,
    /// The number of the attempt that is due.
    pub attempt: u32,
    pub scheduled: Position,
    pub op: ByteVec,
    /// Whether it may be begun whatever became of earlier attempts.
    pub anew: bool,
}

impl Steps {
    /// The next attempt of the step begins.
    pub(in crate::machine) fn start(&mut self, step: Step) {
        self.starts.push(step);
    }

    /// The step is not to be carried out.
    pub(in crate::machine) fn leave_unstarted(&mut self, step: Step) {
        self.starts.retain(|start| *start != step);
    }

    /// Takes the agent calls out of what is to be carried out and has not begun.
    pub(in crate::machine) fn take_unstarted_calls(&mut self) -> Vec<Step> {
        let is_call = |step: &Step| {
            let state = self.states.get(step).filter(|state| state.is_open() && !state.begun);
            state.is_some_and(|state| matches!(state.kind, Kind::Work { repeat: true }))
        };
        let (calls, others) = std::mem::take(&mut self.starts).into_iter().partition(is_call);
        self.starts = others;
        calls
    }

    /// Takes up the work that was under way when the last execution ended. Gives the calls among it.
    pub(in crate::machine) fn take_interrupted(&mut self) -> Vec<Interrupted> {
        let mut calls = Vec::new();
        // Their delay ended in this execution.
        let begun: BTreeSet<_> = self.starts.iter().copied().collect();
        for &step in self.working.difference(&begun) {
            let interrupted = |state: &&State| state.recorded && state.delay.is_none() && !state.begun;
            if let Some(state) = self.states.get(&step).filter(interrupted) {
                self.starts.push(step);
                if matches!(state.kind, Kind::Work { repeat: true }) {
                    calls.push(Interrupted {
                        step,
                        attempt: state.attempts + 1,
                        scheduled: state.scheduled,
                        op: state.op.clone(),
                        anew: state.anew,
                    });
                }
            }
        }
        calls
    }

    /// The attempt at a call that an earlier execution began is under way. False if it is not the
    /// one that is due.
    pub(in crate::machine) fn adopt(&mut self, step: Step, attempt: u32) -> bool {
        match self.states.get_mut(&step) {
            Some(state)
                if state.is_open()
                    && state.recorded
                    && !state.begun
                    && state.delay.is_none()
                    && state.attempts == attempt
                    && matches!(state.kind, Kind::Work { .. }) =>
            {
                state.begun = true;
                true
            }
            _ => false,
        }
    }

    /// How the step ended is void, so it may be begun once more.
    pub(in crate::machine) fn end_is_void(&mut self, step: Step) {
        if let Some(state) = self.states.get_mut(&step) {
            state.anew = true;
        }
    }

    /// What was begun until now was begun by another run.
    pub(in crate::machine) fn begin_all_anew(&mut self) {
        for step in &self.working {
            if let Some(state) = self.states.get_mut(step) {
                state.anew = true;
            }
        }
    }

    /// Whether the driver was told to carry out the step.
    pub(in crate::machine) fn is_begun(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(|state| state.begun)
    }

    /// What is to be carried out and has not begun, with its attempt and where it was scheduled.
    pub(in crate::machine) fn take_starts(&mut self) -> Vec<(Step, u32, Position)> {
        let starts = std::mem::take(&mut self.starts);
        let begin = |step| {
            let state = self.states.get_mut(&step).filter(|state| state.is_open() && !state.begun)?;
            state.begun = true;
            Some((step, state.attempts, state.scheduled))
        };
        starts.into_iter().filter_map(begin).collect()
    }

    /// What is to be stopped.
    pub(in crate::machine) fn take_aborts(&mut self) -> std::vec::IntoIter<Step> {
        std::mem::take(&mut self.aborts).into_iter()
    }

    pub(in crate::machine) fn only_waits(&self) -> bool {
        self.working.len() == self.delayed.len() + self.withheld.len() && self.aborts.is_empty()
    }
}
