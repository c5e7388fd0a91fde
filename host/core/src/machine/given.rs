//! What a program gives out without an entry of its own: lines of the log,
//! published values, messages.
//!
//! It is identified by its place in the history that the program has observed,
//! never by a counter of the code: code that writes a line more or fewer than
//! the one before still posts each of its messages once. While there are
//! recorded entries left the program repeats what was committed with them, and
//! what it gives out there is stored already. Behind the last of them its place
//! is the latest entry that it has observed, and how much of its kind it gave
//! out since then. A program that came to a wait there has given out all that
//! belongs to that place, whatever other code would give out there.

use minicbor::{Decode, Encode};

use super::Machine;
use crate::Position;

/// A kind of what is given out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gift {
    /// A line of the log; a phase is one.
    Line,
    /// A published value.
    Value,
    /// A message to outsiders.
    Message,
}

/// How much of each kind was given out at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
struct Counts {
    #[n(0)]
    lines: u32,
    #[n(1)]
    values: u32,
    #[n(2)]
    messages: u32,
}

impl Counts {
    /// The number of the next of that kind, which is taken.
    fn take(&mut self, gift: Gift) -> u32 {
        let count = match gift {
            Gift::Line => &mut self.lines,
            Gift::Value => &mut self.values,
            Gift::Message => &mut self.messages,
        };
        let number = *count;
        *count = number.saturating_add(1);
        number
    }

    fn of(mut self, gift: Gift) -> u32 {
        self.take(gift)
    }
}

/// Up to where a run has given out things.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct UpTo {
    /// The latest entry that the program had observed.
    #[n(0)]
    observed: Position,
    /// What it gave out since then.
    #[n(1)]
    counts: Counts,
    /// Whether it came to a wait after that.
    #[n(2)]
    waited: bool,
}

/// What of a run's output is stored. Opaque to stores, which keep it with the
/// commit that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Given {
    /// Nothing: all of it is wanted, from the beginning of the journal on. So a fork begins.
    #[n(0)]
    Nothing,
    #[n(1)]
    UpTo(#[n(0)] UpTo),
    /// So many things; where is not known. So a run begins that has given out nothing, and so
    /// stores of format 6 and before have it.
    #[n(2)]
    Counted(#[n(0)] u64),
    /// All that this execution gives out: nothing of it is wanted.
    #[n(3)]
    Everything,
}

impl Default for Given {
    fn default() -> Self {
        Self::Counted(0)
    }
}

/// What is known of the output, and what this execution has given out.
#[derive(Debug, Default)]
pub(super) struct Giving {
    /// What was stored before this execution.
    stored: Given,
    /// Where the program is.
    here: Option<UpTo>,
    /// How much this execution gave out, stored before or not.
    all: u64,
    /// The program came to a wait behind the recorded entries.
    waited: bool,
    /// Something was given out that was not stored.
    anything: bool,
}

impl Giving {
    pub fn after(stored: Given) -> Self {
        Self { stored, ..Self::default() }
    }
}

impl Machine {
    /// The program gives something out. False if it is stored already.
    pub fn give_out(&mut self, gift: Gift) -> bool {
        let observed = self.observed;
        let replaying = !self.script.is_empty();
        // Stored by other code than that which runs now.
        let (moving, moved_at) = (self.moving.is_some(), self.moved_at);
        let by_other = |stored: UpTo| moving || moved_at.is_some_and(|at| at > stored.observed);
        let giving = &mut self.giving;
        let fresh = UpTo { observed, counts: Counts::default(), waited: false };
        let here = match &mut giving.here {
            Some(here) if here.observed == observed => here,
            other => other.insert(fresh),
        };
        let number = here.counts.take(gift);
        giving.all += 1;
        let new = match giving.stored {
            Given::Nothing => true,
            Given::Everything => false,
            _ if replaying => false,
            Given::Counted(count) => giving.waited || giving.all > count,
            Given::UpTo(stored) if observed != stored.observed => observed > stored.observed,
            // Other code gives out other things there; those of before were all of them.
            Given::UpTo(stored) if stored.waited && by_other(stored) => false,
            Given::UpTo(stored) => number >= stored.counts.of(gift),
        };
        giving.anything |= new;
        new
    }

    /// The program has come to a wait.
    pub(super) fn comes_to_wait(&mut self) {
        self.giving.waited = true;
        if let Some(here) = self.giving.here.as_mut().filter(|here| here.observed == self.observed) {
            here.waited = true;
        }
    }

    /// What is given out once the output of this execution is stored; none if that is what was
    /// stored before.
    pub fn given(&self) -> Option<Given> {
        let here = self.giving.here?;
        let given = Given::UpTo(here);
        let goes_on = match self.giving.stored {
            Given::UpTo(stored) if here.observed <= stored.observed => {
                here.observed == stored.observed && (self.giving.anything || here.waited && !stored.waited)
            }
            _ => self.giving.anything,
        };
        (goes_on && given != self.giving.stored).then_some(given)
    }

    /// What [`Machine::given`] said is stored now.
    pub fn gave_out(&mut self, given: Given) {
        self.giving.stored = given;
    }
}
