//! How long the runs of a session are this process's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock;

/// Until when the runs of a session are nobody else's, unless somebody thinks that this process is
/// dead. Shared by all that is done under the session.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<Term>);

#[derive(Debug, Default)]
struct Term {
    /// By the monotonic clock, which nobody sets; none before the first renewal.
    until: Mutex<Option<Instant>>,
    extended: Notify,
    /// Somebody needs it and it is over.
    wanted: Notify,
    lost: AtomicBool,
}

impl Lease {
    pub fn extend(&self, until: Instant) {
        *lock(&self.0.until) = Some(until);
        self.0.extended.notify_waiters();
    }

    pub fn is_held(&self) -> bool {
        !self.is_lost() && lock(&self.0.until).is_some_and(|until| Instant::now() < until)
    }

    /// Somebody else has ended the session: it is never held again.
    pub fn lose(&self) {
        self.0.lost.store(true, Ordering::Relaxed);
    }

    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until it is held: a process that was stopped calls nobody before it knows that. If it
    /// is over it is renewed at once; if it was lost this never ends.
    pub async fn held(&self) {
        loop {
            let extended = self.0.extended.notified();
            if self.is_held() {
                return;
            }
            self.0.wanted.notify_one();
            extended.await;
        }
    }

    /// Waits until somebody needs it though it is over.
    pub async fn wanted(&self) {
        self.0.wanted.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_lease_that_is_over_is_renewed_at_once_when_somebody_needs_it() {
        let lease = Lease::default();
        lease.extend(Instant::now());
        assert!(!lease.is_held());
        let renewer = lease.clone();
        let renewing = tokio::spawn(async move {
            renewer.wanted().await;
            renewer.extend(Instant::now() + Duration::from_secs(1_000));
        });
        lease.held().await;
        assert!(lease.is_held());
        renewing.await.unwrap();
        lease.lose();
        assert!(!lease.is_held());
        assert!(tokio::time::timeout(Duration::from_millis(20), lease.held()).await.is_err());
    }
}
