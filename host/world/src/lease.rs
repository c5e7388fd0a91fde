//! How long a run is this process's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wfhost_core::Timestamp;

use crate::World;

/// Until when a run is nobody else's, unless he thinks that this process is dead.
#[derive(Clone, Debug, Default)]
pub struct Lease {
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
