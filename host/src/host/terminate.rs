//! Ending runs where they stand.

use wfhost_core::{Failure, FailureKind, Journal, Machine, RunId, Timestamp};
use wfhost_store::{Append, ClaimHow, Claimed, Next, Opened, StoreError};

use super::{Host, HostError, check_reason};
use crate::described;

/// Processes that want the same run at the same time take it from each other this often at most.
const SEIZED_AT_MOST: u32 = 10;

impl Host {
    /// Ends a run where it stands: the program does not notice, and its open steps end with it. What
    /// was sent to it and not taken is lost. If another process advances it, it is taken from that
    /// one, which may commit nothing of it any more and stops its calls when it renews its session. Of several
    /// rounds the latest is ended, whichever is named; gives which.
    pub async fn terminate(&self, id: &RunId, reason: Option<&str>) -> Result<RunId, HostError> {
        check_reason(reason)?;
        let mut id = id.clone();
        loop {
            let ended = self.terminate_round(&id, reason).await;
            let Err(HostError::Ended { .. }) = ended else { return ended.map(|()| id) };
            // Also one that went on as another round just now.
            let latest = described::latest(self.store(), &id).await?.id;
            if latest == id {
                return ended.map(|()| id);
            }
            id = latest;
        }
    }

    async fn terminate_round(&self, id: &RunId, reason: Option<&str>) -> Result<(), HostError> {
        let in_hand = self.inner.take_in_hand(id).await;
        self.inner.take_from_driver(&in_hand).await;
        let mut ended = self.seize_and_end(id, reason).await;
        for _ in 0..SEIZED_AT_MOST {
            // Another process was quicker: it has ended the run, or it has it now.
            let Err(HostError::Store(StoreError::Fenced { .. } | StoreError::SessionOver)) = ended else {
                break;
            };
            ended = self.seize_and_end(id, reason).await;
        }
        in_hand.let_go();
        ended
    }

    async fn seize_and_end(&self, id: &RunId, reason: Option<&str>) -> Result<(), HostError> {
        let opened = match self.inner.claim(id, ClaimHow::Seize).await? {
            Claimed::Yes(opened) => opened,
            other => return Err(self.refused(id, other)),
        };
        let next = Next::Release { waiting: None, trouble: None };
        let back = Append::new(id.clone(), opened.session, opened.epoch, Timestamp(0), next);
        let ended = self.end_claimed(*opened, reason).await;
        if ended.is_err() {
            self.give_up_claim(back).await;
        }
        ended
    }

    async fn end_claimed(&self, opened: Opened, reason: Option<&str>) -> Result<(), HostError> {
        let Opened { run, session, epoch, given, rows, .. } = opened;
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let machine = Machine::open(Journal::read(rows).map_err(unusable)?, given).map_err(unusable)?;
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let outcome = Err(Failure::new(FailureKind::Cancelled, format!("terminated{why}")));
        match self.inner.end_where_it_stands(&run, session, epoch, &machine, &outcome).await? {
            true => Ok(()),
            // Whoever was about to retry it, and had not recorded that, does not any more.
            false => Err(HostError::Ended { run }),
        }
    }
}
