//! What a program may know of its run.

use super::Machine;
use crate::policy::budget::{Budget, Spent};
use crate::{Digest, RunId, Timestamp};

/// A run as it was when the latest thing happened that its program has
/// observed. All that a program can read besides the outcomes of its steps
/// comes from here, so that it is the same in every execution, and in a fork up
/// to the place where that begins.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    machine: &'a Machine,
}

impl Machine {
    /// What the program may know now.
    pub fn observed(&self) -> Observed<'_> {
        Observed { machine: self }
    }
}

impl<'a> Observed<'a> {
    /// Virtual time: when that happened.
    pub fn now(self) -> Timestamp {
        self.machine.now
    }

    /// When the run began; behind the place where it was forked, when that was.
    pub fn started_at(self) -> Timestamp {
        self.machine.started_after(self.machine.observed)
    }

    /// When the first entry was made, also in a fork: what a clock that never goes back counts from.
    pub fn began_at(self) -> Timestamp {
        self.machine.started_at
    }

    /// The milliseconds since that. They go on also while a clock that had been ahead is caught up with.
    pub fn elapsed_ms(self) -> u64 {
        let machine = self.machine;
        let behind = machine.caught_up.partition_point(|(position, _)| *position <= machine.observed);
        let caught_up = behind.checked_sub(1).map_or(0, |last| machine.caught_up[last].1);
        machine.now.since(machine.started_at).saturating_add(caught_up)
    }

    /// The id of the run; in what a fork took over, that of the run it was taken from.
    pub fn run(self) -> &'a RunId {
        let machine = self.machine;
        machine.fork_after(machine.observed).map_or(&machine.started.run, |fork| &fork.run)
    }

    pub fn workflow(self) -> &'a str {
        &self.machine.started.workflow
    }

    /// The module that the run began with.
    pub fn module(self) -> Digest {
        self.machine.started.module
    }

    /// The run that started this one.
    pub fn parent(self) -> Option<&'a RunId> {
        self.machine.started.parent.as_ref()
    }

    pub fn labels(self) -> &'a [(String, String)] {
        &self.machine.started.labels
    }

    /// Whether the program has seen that it is asked to stop.
    pub fn cancelled(self) -> bool {
        self.machine.cancel_requested.is_some_and(|position| position <= self.machine.observed)
    }

    /// What the run may spend.
    pub fn budget(self) -> Budget {
        self.machine.spending.budget(self.machine.observed)
    }

    /// What it has spent, and the time since it began.
    pub fn spent(self) -> Spent {
        self.machine.spent_until(self.machine.now, self.machine.observed)
    }
}
