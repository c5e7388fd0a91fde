//! What other users of a database did that concerns a host.

use super::*;

/// A reason to look at something.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Wake {
    /// Something was sent to this run.
    Run(RunId),
    /// A run or a schedule may be due.
    Due,
    /// A session of this host was given slots: see [`Limits`].
    Limits,
    /// It is not known what happened: everything has to be looked at.
    Gap,
}

/// Where somebody who waits for wake-ups has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Counts what was committed by others, if it was asked for before.
    pub version: Option<u64>,
    /// The last message.
    pub message: i64,
    /// How many of the next looks follow each other quickly, because something was sent a moment ago.
    pub soon: u8,
}
