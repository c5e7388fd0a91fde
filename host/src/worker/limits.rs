//! Limits of agent calls that all hosts of a store share: tells the store what this host needs of them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use wfhost_agents::FleetLimits;
use wfhost_core::Timestamp;
use wfhost_core::policy::share::{Need, share};
use wfhost_store::{SessionId, SlotAsk, SlotShare, StoreError};

use super::{AGAIN_AFTER, Inner};
use crate::observer::Notice;

/// Notices may get lost: who waits for slots looks after this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Inner {
    /// Tells the store what this host needs, and the gate what it has. `session`: under which the store was told
    /// before.
    async fn share_limits(self: &Arc<Self>, session: &mut Option<SessionId>) -> Result<(), StoreError> {
        // Slots need not wait until turns can be told.
        let told = self.tell_turns().await;
        let shared = self.share_slots(session).await;
        told.and(shared)
    }

    async fn tell_turns(&self) -> Result<(), StoreError> {
        let words = self.gate.turn_words();
        if !words.is_empty() {
            let answers = self.store.take_turns(words).await?;
            // Turns are at times of the store, and calls wait by the clock of this host, which may show another one.
            let (here, there) = (self.world.now(), self.store.now());
            let by_own_clock = |at: Timestamp| match there.since(here) {
                0 => at.after(here.since(there)),
                behind => Timestamp(at.0.saturating_sub(behind)),
            };
            self.gate.told_turns(answers.into_iter().map(|at| at.map(by_own_clock)).collect());
        }
        Ok(())
    }

    async fn share_slots(self: &Arc<Self>, session: &mut Option<SessionId>) -> Result<(), StoreError> {
        if self.gate.needs_no_slots() {
            return Ok(());
        }
        // Without a session no run is advanced here, and nothing is called.
        let current = self.current.lock().await.clone().filter(|current| !current.lease.is_lost());
        let Some(current) = current else { return Ok(()) };
        if session.replace(current.session).is_some_and(|before| before != current.session) {
            // What another session had, this one has not.
            self.gate.forget_slots();
        }
        let heard = self.gate.heard_of_slots();
        let Some(asks) = self.gate.ask_slots() else {
            return if heard { self.look_for_slots(current.session).await } else { Ok(()) };
        };
        match self.store.share_slots(current.session, asks.clone()).await {
            Ok(has) => {
                self.gate.set_slots(&asks, &has);
                Ok(())
            }
            Err(error) => {
                self.gate.forget_slots();
                if matches!(error, StoreError::SessionOver) {
                    self.lose(&current);
                }
                Err(error)
            }
        }
    }

    /// Takes the slots that others have left to this host, and asks for those that are free. Nothing is written if
    /// there are none: whoever writes wakes the others.
    async fn look_for_slots(&self, session: SessionId) -> Result<(), StoreError> {
        let Some(known) = self.gate.lacks_slots() else { return Ok(()) };
        let shares = self.store.slots().await?;
        let own = || shares.iter().filter(|share| share.session == session);
        let left = own().filter_map(|SlotShare { need, .. }| {
            let has_more = |(limits, has): &(FleetLimits, u32)| **limits == *need.limits && *has < need.has;
            let ask = SlotAsk { limits: need.limits.clone(), ..SlotAsk::default() };
            known.iter().any(has_more).then_some((ask, need.has))
        });
        let (asks, has): (Vec<_>, Vec<_>) = left.unzip();
        if !asks.is_empty() {
            self.gate.set_slots(&asks, &has);
        }
        let mut needs: Vec<Need> = shares.iter().map(|share| share.need.clone()).collect();
        let given = share(&mut needs, self.store.now());
        let is_own = |place: usize| shares.get(place).is_some_and(|share| share.session == session);
        // A session that is not known there has nothing, and asks for all.
        if own().next().is_none() || given.into_iter().any(is_own) {
            self.gate.forget_slots();
        }
        Ok(())
    }

    /// The store did not do what limits need: it is tried again.
    fn cannot_share(&self, error: StoreError) {
        if matches!(error, StoreError::SessionOver) {
            // Another one begins.
            return;
        }
        self.see(Notice::Failed { run: None, error: &error });
        if error.is_passing() {
            self.trouble.send_if_modified(|trouble| trouble.replace(error.clone()) != Some(error));
        }
    }
}

/// Keeps the store and the gate of a host in step.
pub(super) async fn keep_limits(inner: Weak<Inner>) {
    let Some(gate) = inner.upgrade().map(|inner| Arc::clone(&inner.gate)) else { return };
    let mut session = None;
    loop {
        tokio::select! {
            () = gate.stirred() => {}
            () = tokio::time::sleep(LOOK_EVERY), if gate.lacks_slots().is_some() => gate.slots_may_be_free(),
        }
        let Some(inner) = inner.upgrade() else { return };
        let Err(error) = inner.share_limits(&mut session).await else { continue };
        inner.cannot_share(error);
        drop(inner);
        tokio::time::sleep(AGAIN_AFTER).await;
        gate.stir_again();
    }
}
