//! Limits of agent calls that hold for all hosts of a store together.

use wfhost_core::policy::share::Need;
pub use wfhost_core::policy::share::{SlotAsk, TurnWord};

use super::*;

/// What a host has of limits that all hosts share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotShare {
    pub session: SessionId,
    pub owner: Owner,
    /// Its calls as it told them last.
    pub need: Need,
    /// Calls under way.
    pub used: u32,
    pub calls: Vec<String>,
    pub waiting: Vec<String>,
}

/// What is known of the turns of a rate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnsInfo {
    pub name: String,
    /// Calls that wait for their turn.
    pub waiting: u64,
    /// When the first of these is.
    pub next: Option<Timestamp>,
}

/// Limits that hold for all hosts together.
///
/// Slots belong to sessions: those of one that was ended are free. Turns belong to steps of runs, so whichever
/// host has the run by then finds the turn.
pub trait Limits: Send + Sync {
    /// Tells all that a session needs, in the place of what it told before, and gives how many slots it has of
    /// each: at least those in use, beyond that what is free, in the order of [`share`]. Others that were given
    /// something hear of it by [`Wake::Limits`]. [`StoreError::SessionOver`] if the session was ended.
    ///
    /// To be called by one at a time for each session. If it fails, it is not done later.
    ///
    /// [`share`]: wfhost_core::policy::share::share
    fn share_slots(&self, session: SessionId, asks: Vec<SlotAsk>) -> BoxFuture<'_, Result<Vec<u32>>>;

    /// What all sessions have that nobody has ended, in the order in which they are considered.
    fn slots(&self) -> BoxFuture<'_, Result<Vec<SlotShare>>>;

    /// Does all of this, in order. Gives for each, as far as it concerns a call, when its turn is; none if it may
    /// begin now. Time is that of the store.
    fn take_turns(&self, words: Vec<TurnWord>) -> BoxFuture<'_, Result<Vec<Option<Timestamp>>>>;

    /// The rates that calls wait for, by name.
    fn turns(&self) -> BoxFuture<'_, Result<Vec<TurnsInfo>>>;
}
