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

/// The lease under which a run is driven now. Its calls outlive a drive, and the next one may belong to another
/// session, which has a lease of its own.
#[derive(Clone, Debug, Default)]
pub struct LatestLease(Arc<Latest>);

#[derive(Debug, Default)]
struct Latest {
    lease: Mutex<Lease>,
    /// Another one takes its place.
    changed: Notify,
}

impl LatestLease {
    pub fn set(&self, lease: Lease) {
        *lock(&self.0.lease) = lease;
        self.0.changed.notify_waiters();
    }

    /// The run is left: there is no lease until the next one is set. That of the session is not touched.
    pub fn leave(&self) {
        let none = Lease::default();
        none.lose();
        self.set(none);
    }

    pub fn is_held(&self) -> bool {
        lock(&self.0.lease).is_held()
    }

    /// Waits until the lease is held, or another one that takes its place: see [`Lease::held`].
    pub async fn held(&self) {
        loop {
            let changed = self.0.changed.notified();
            let lease = {
                let lease = lock(&self.0.lease);
                if lease.is_held() {
                    return;
                }
                lease.clone()
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = lease.held() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_lease_that_was_lost_goes_on_with_the_next_one() {
        let latest = LatestLease::default();
        let lost = Lease::default();
        lost.lose();
        latest.set(lost);
        let waits = tokio::spawn({
            let latest = latest.clone();
            async move { latest.held().await }
        });
        // It waits for the one that was lost.
        tokio::task::yield_now().await;
        let next = Lease::default();
        latest.set(next.clone());
        // It is over as well, and somebody renews it.
        next.wanted().await;
        assert!(!waits.is_finished());
        next.extend(Instant::now() + Duration::from_secs(1_000));
        waits.await.unwrap();
        latest.held().await;
    }

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
