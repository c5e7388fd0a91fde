//! How the host reaches into a run that is being driven.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::Notify;
use wfhost_world::Lease;

/// Whether a run is to be left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Leave {
    No,
    /// Nothing new begins; calls in flight are waited for.
    Gently,
    /// At once; calls in flight are dropped, and made again some time.
    Now,
    /// Somebody else has it already.
    Lost,
    /// Somebody else had it, and this host has claimed it again: the next drive takes the calls over.
    Reclaimed,
}

/// Reaches the driver of a run.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Something came into the inbox.
    pub inbox: Notify,
    leave: AtomicU8,
    left: Notify,
    pub lease: Lease,
    /// Others wait for a place: see [`Control::crowd`].
    crowded: AtomicBool,
}

impl Control {
    /// Of a run that is driven under that lease.
    pub fn under(lease: Lease) -> Self {
        Self { lease, ..Self::default() }
    }

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
            3 => Leave::Lost,
            _ => Leave::Reclaimed,
        }
    }

    /// Waits until somebody wants the run to be left, or to give up its place if it only waits.
    pub async fn left(&self) {
        self.left.notified().await;
    }

    /// Others wait for a place in memory: a run that only waits gives up its own at once.
    pub fn crowd(&self) {
        if !self.crowded.swap(true, Ordering::Relaxed) {
            self.left.notify_one();
        }
    }

    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }
}
