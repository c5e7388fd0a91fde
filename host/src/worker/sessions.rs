//! Sessions of this host: how it keeps its own, and ends those of processes that are gone.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use wfhost_core::{Epoch, RunId};
use wfhost_store::{Fence, Kept, StoreError};
use wfhost_world::{Lease, lock};

use super::{AGAIN_AFTER, Current, Inner};
use crate::drive::Leave;
use crate::observer::Notice;

/// How often a session is renewed while its lease runs.
const RENEWALS: u32 = 3;
/// How often is looked whether the owners of sessions still live.
const OWNERS_EVERY: Duration = Duration::from_millis(200);
/// How often is looked whether the database is still the one that was opened.
const PLACE_EVERY: Duration = Duration::from_secs(1);
/// Claims of which nothing was heard are made within this time, or never.
const CLAIMS_COME_WITHIN: Duration = Duration::from_secs(3);
/// Runs that were parked by a clock that was ahead are looked for after this time.
const PUT_RIGHT_EVERY: Duration = Duration::from_secs(30);

impl Inner {
    /// The session of this host, which begins if there is none.
    pub async fn session(self: &Arc<Self>) -> Result<Current, StoreError> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|current| !current.lease.is_lost()) {
            return Ok(current.clone());
        }
        let asked = Instant::now();
        let session = self.store.begin_session(&self.owner, self.lease_ms).await?;
        let begun = Current { session, lease: Lease::default() };
        begun.lease.extend(asked + self.term());
        *current = Some(begun.clone());
        self.spawn(keep(Arc::downgrade(self), begun.clone()));
        // Calls that outlived the session before have slots, which the store does not know of this one.
        self.gate.stir_again();
        Ok(begun)
    }

    /// How long this host counts on a session from before it asked for its renewal: less than the
    /// others do.
    pub(super) fn term(&self) -> Duration {
        Duration::from_millis(self.lease_ms - self.lease_ms / 10)
    }

    /// Another process has ended the session.
    pub(super) fn lose(&self, lost: &Current) {
        lost.lease.lose();
        for live in lock(&self.state).live.values().filter(|live| live.session == lost.session) {
            live.control.leave(Leave::Lost);
        }
        self.gate.forget_slots();
    }

    /// The database is not where it was: what would be done in it would be lost, so nothing is.
    pub(super) async fn has_moved(&self, error: StoreError) {
        self.trouble.send_replace(Some(error));
        let current = self.current.lock().await.clone();
        current.iter().for_each(|current| self.lose(current));
        for watched in lock(&self.state).watched.values().filter_map(Weak::upgrade) {
            watched.tell();
        }
    }

    /// Leaves runs that somebody took from this session while it lasted, also those that it has again under a later
    /// claim of which it does not know. One that begins or ends at this moment is not among those of the session
    /// either, so it is left only if it was missing (`suspects`) at the renewal before, too.
    async fn leave_seized(&self, current: &Current, suspects: &mut BTreeSet<(RunId, Epoch)>) {
        let driven: BTreeSet<_> = {
            let state = lock(&self.state);
            let live = state.live.iter().filter(|(_, live)| live.session == current.session);
            live.map(|(run, live)| (run.clone(), Epoch(live.epoch.load(Ordering::Relaxed)))).collect()
        };
        if driven.is_empty() {
            suspects.clear();
            return;
        }
        let Ok(held) = self.store.held(current.session).await else { return };
        let held: BTreeSet<_> = held.into_iter().collect();
        let missing: BTreeSet<_> = driven.difference(&held).cloned().collect();
        for (run, epoch) in missing.intersection(suspects) {
            // It may be driven under a later claim by now.
            let state = lock(&self.state);
            let live = state.live.get(run).filter(|live| live.epoch.load(Ordering::Relaxed) == epoch.0);
            if let Some(live) = live {
                live.control.leave(Leave::Lost);
            }
        }
        *suspects = missing;
    }

    /// A claim failed, and it may have been made.
    pub fn doubt(&self) {
        self.unsure.store(true, Ordering::Relaxed);
        self.work.notify_one();
    }

    /// Whether this host may have runs that it does not drive.
    pub(super) fn is_unsure(&self) -> bool {
        self.unsure.load(Ordering::Relaxed) || lock(&self.settle_again).is_some()
    }

    /// Gives up what this host has and does not drive.
    pub(super) async fn settle_doubt(&self, current: &Current) -> Result<(), StoreError> {
        let late = lock(&self.settle_again).is_some_and(|at| at <= Instant::now());
        if !self.unsure.swap(false, Ordering::Relaxed) && !late {
            return Ok(());
        }
        let _nothing_is_taken_in_hand = self.settling.write().await;
        let (kept, some_in_hand) = {
            let state = lock(&self.state);
            let kept = state.live.keys().chain(state.in_hand.keys()).cloned().collect();
            (kept, !state.in_hand.is_empty())
        };
        let shed = self.store.shed(current.session, kept).await;
        shed.map(drop).inspect_err(|_| self.unsure.store(true, Ordering::Relaxed))?;
        // A claim that was under way may have come behind it, and what is in hand may be what is in doubt.
        *lock(&self.settle_again) = (!late || some_in_hand).then(|| Instant::now() + CLAIMS_COME_WITHIN);
        Ok(())
    }

    /// Gives up all that this host has, for others.
    pub async fn end_session(&self) {
        let current = self.current.lock().await.take();
        if let Some(current) = current {
            self.lose(&current);
            // Else the others find out that this process is gone.
            let _ = self.store.end_session(current.session).await;
        }
    }

    /// The session of another host was ended.
    pub(super) fn took_over(&self, fence: Fence, runs: u64) {
        let why = match fence {
            Fence::IfOver => "late",
            Fence::Dead => "dead",
        };
        self.see(Notice::TookOver { why, runs });
    }

    /// Ends the sessions of processes that are no more.
    pub(super) async fn fence_dead(&self) -> Result<(), StoreError> {
        let own = self.current.lock().await.as_ref().map(|current| current.session);
        for session in self.store.sessions().await? {
            let fence = match session.left_ms {
                _ if Some(session.id) == own => continue,
                0 => Fence::IfOver,
                _ if self.world.is_dead(&session.owner) => Fence::Dead,
                _ => continue,
            };
            let runs = self.store.fence(session.id, fence).await?;
            if runs > 0 {
                self.took_over(fence, runs);
                self.work.notify_one();
            }
        }
        Ok(())
    }
}

/// Notices which processes die, and that the database is gone.
pub(super) async fn watch_owners(inner: Weak<Inner>) {
    let Some(every) = inner.upgrade().map(|inner| OWNERS_EVERY.max(inner.look_every)) else { return };
    let mut place_at = Instant::now();
    let mut right_at = Instant::now();
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            let fenced = inner.fence_dead().await;
            if lock(&inner.state).quiet.saw_others(fenced.is_ok()) {
                inner.work.notify_one();
            }
            if right_at <= Instant::now() {
                right_at = Instant::now() + PUT_RIGHT_EVERY;
                // If it fails, the next look makes up for it.
                if inner.store.put_right().await.is_ok_and(|runs| runs > 0) {
                    inner.work.notify_one();
                }
            }
            if place_at <= Instant::now() {
                place_at = Instant::now() + PLACE_EVERY;
                if let Err(error) = inner.store.check_place() {
                    inner.has_moved(error).await;
                }
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// Keeps a session of this host.
pub(super) async fn keep(inner: Weak<Inner>, current: Current) {
    let Some(every) = inner.upgrade().map(|inner| Duration::from_millis(inner.lease_ms) / RENEWALS) else {
        return;
    };
    let mut wait = every;
    let mut suspects = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            // A process that was stopped renews at once, and then decides.
            () = current.lease.wanted() => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        if current.lease.is_lost() {
            return;
        }
        let asked = Instant::now();
        match inner.store.keep(current.session).await {
            Ok(Kept::Until { .. }) => {
                current.lease.extend(asked + inner.term());
                inner.is_over();
                inner.leave_seized(&current, &mut suspects).await;
                wait = every;
            }
            Ok(Kept::Fenced) => {
                inner.lose(&current);
                inner.work.notify_one();
                return;
            }
            // It is over if this does not pass in time.
            Err(_) => {
                drop(inner);
                wait = every.min(AGAIN_AFTER);
                tokio::time::sleep(wait.min(Duration::from_millis(50))).await;
            }
        }
    }
}
