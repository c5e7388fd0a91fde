//! How the host reaches into a run that is being driven.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use wfhost_core::Timestamp;

use crate::world::World;

/// Whether a run is to be left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Leave {
    No,
    /// Nothing new begins; calls under way are waited for.
    Gently,
    /// At once; calls under way are dropped, and made again some time.
    Now,
    /// Somebody else has it already.
    Lost,
}

/// Reaches the driver of a run.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Something came into the inbox.
    pub inbox: Notify,
    leave: AtomicU8,
    left: Notify,
    pub lease: Lease,
}

/// Until when a run is nobody else's, unless he thinks that this process is dead.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    /// In milliseconds since 1970.
    until: Arc<AtomicU64>,
}

/// A lease that has run out may be renewed, if nobody was quicker.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Lease {
    pub fn extend(&self, until: Timestamp) {
        self.until.store(until.0, Ordering::Relaxed);
    }

    pub fn is_held(&self, now: Timestamp) -> bool {
        now.0 < self.until.load(Ordering::Relaxed)
    }

    /// Waits until it is held: a process that was stopped calls nobody before it knows that.
    pub async fn held(&self, world: &dyn World) {
        while !self.is_held(world.now()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Control {
    /// Asks for the run to be left; the stronger wish counts.
    pub fn leave(&self, how: Leave) {
        self.leave.fetch_max(how as u8, Ordering::Relaxed);
        self.left.notify_one();
    }

    pub fn leaving(&self) -> Leave {
        match self.leave.load(Ordering::Relaxed) {
            0 => Leave::No,
            1 => Leave::Gently,
            2 => Leave::Now,
            _ => Leave::Lost,
        }
    }

    /// Waits until somebody wants the run to be left.
    pub async fn left(&self) {
        self.left.notified().await;
    }
}
