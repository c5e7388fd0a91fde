//! What is told of a host while it works: for figures and logs.

use std::time::Duration;

use wfhost_agents::CallObserver;
use wfhost_core::{RunId, Step};
use wfhost_store::{RunState, StoreError};

/// Is told what a host does, as it does it. It has to return at once: runs wait for it. Without one,
/// nothing is looked at.
pub trait Observer: CallObserver {
    /// Something happened.
    fn see(&self, notice: Notice<'_>);
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StepEnd {
    Completed,
    Failed,
    /// It was dropped, or its run was asked to stop.
    Cancelled,
}

impl StepEnd {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Something that this host did. What the journal has of it is committed.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// It created a run.
    Created { run: &'a RunId, workflow: &'a str },
    /// It begins to drive a run with so many entries, which nobody had driven for so long since it was
    /// created, if nobody ever had.
    Opened { run: &'a RunId, workflow: &'a str, entries: u64, queued: Option<Duration> },
    /// The program has come to the end of its journal.
    CameThrough { run: &'a RunId, workflow: &'a str, entries: u64, took: Duration },
    /// An append of so many entries is committed. `took`: with the wait for the transaction.
    Appended { run: &'a RunId, entries: u32, took: Duration },
    /// A step ended so long after it was asked for.
    Step { run: &'a RunId, workflow: &'a str, step: Step, kind: &'static str, end: StepEnd, after: Duration },
    /// A signal was taken into the journal.
    Received { run: &'a RunId },
    /// A run ended, in that state, so long after it began.
    Ended { run: &'a RunId, workflow: &'a str, state: RunState, after: Duration },
    /// It drives the run no more: `ended`, `continued`, `parked`, `paused`, `refused`, `left` if the host
    /// stops, `handed-over` if it needs what this host does not have, `lost` to another one, `failed`.
    Left { run: &'a RunId, workflow: &'a str, how: &'static str, trouble: Option<&'a str> },
    /// The store did not do what it was asked for: for a run, or for the limits that hosts share if none.
    Failed { run: Option<&'a RunId>, error: &'a StoreError },
    /// It ended the session of another host, because its process is `dead` or it was not renewed (`late`);
    /// its runs are due.
    TookOver { why: &'static str, runs: u64 },
    /// It has looked for work. `quiet`: for how long until the beginning of this look it had nothing to do, as looks
    /// that found nothing show; none if it has something to do, or could not find out.
    Looked { quiet: Option<Duration> },
    /// A signal for a run was `posted`, was there already (`duplicate`), or `refused`.
    Signal { run: &'a RunId, outcome: &'static str },
}
