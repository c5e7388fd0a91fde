//! For how long a host has had nothing to do, as far as it has looked.

use tokio::time::Instant;
use wfhost_world::lock;

use super::{Inner, State};
use crate::observer::Notice;

/// What is known of the times at which a host had nothing to do.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// When the first of the looks for work began that all found nothing.
    since: Option<Instant>,
    /// Counts the runs that a task had in hand.
    stirs: u64,
    /// Whether the last look at other hosts' sessions succeeded: those that are dead have runs that are due.
    sees_others: bool,
}

impl Quiet {
    /// Something is done.
    pub fn stir(&mut self) {
        self.since = None;
        self.stirs += 1;
    }

    /// Other hosts' sessions were looked at. True if looks for work count from now on.
    pub fn saw_others(&mut self, succeeded: bool) -> bool {
        !std::mem::replace(&mut self.sees_others, succeeded) && succeeded
    }
}

/// A look for work that has begun.
pub(super) struct Look {
    began: Instant,
    stirs: u64,
    saw_others: bool,
}

impl Inner {
    pub(super) fn begin_look(&self) -> Look {
        let Quiet { stirs, sees_others, .. } = lock(&self.state).quiet;
        Look { began: Instant::now(), stirs, saw_others: sees_others }
    }

    /// A look for work has ended, and is told. What was sent or done after it had begun may not be part of it, so it
    /// counts only if nothing was.
    pub(super) fn end_look(&self, look: &Look, found_nothing: bool) {
        // A claim of which nothing was heard may have been made.
        let found_nothing = found_nothing && look.saw_others && !self.is_unsure();
        let quiet = {
            let mut state = lock(&self.state);
            let is_quiet = found_nothing && state.rests() && state.quiet.stirs == look.stirs;
            state.quiet.since = is_quiet.then(|| state.quiet.since.unwrap_or(look.began));
            state.quiet.since.map(|since| look.began - since)
        };
        self.see(Notice::Looked { quiet });
    }
}

impl State {
    /// Whether no run is driven, or about to be.
    fn rests(&self) -> bool {
        self.live.is_empty() && self.in_hand.is_empty() && self.reserved == 0
    }
}
