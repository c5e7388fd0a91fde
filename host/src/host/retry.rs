//! Trying runs that failed again, and their children before them.

use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    Event, FailureKind, Given, Journal, Machine, RetryPlan, RunId, Step, Timestamp, plan_retry,
};
use wfhost_store::{Append, ClaimHow, Claimed, Opened, PARENT_GONE, RunInfo};

use super::{Host, HostError, ResumeOptions};
use crate::handle::RunHandle;
use crate::worker::{Current, Ready};

impl Host {
    /// Tries a run that failed again: at the step, else at the one that it failed of.
    pub async fn retry(
        &self,
        id: &RunId,
        step: Option<Step>,
        options: ResumeOptions,
    ) -> Result<RunHandle, HostError> {
        let cannot = |reason| HostError::CannotRetry { run: id.clone(), reason };
        let journal = self.inner.journal(id).await?;
        let plan = plan_retry(&journal, step, false).map_err(cannot)?;
        if let Some(step) = plan.step {
            self.retry_child(id, step).await?;
        }
        self.retry_cancelled_children(id, &plan, journal).await?;
        let _room = self.inner.room().await;
        let in_hand = self.inner.take_in_hand(id).await;
        let current = self.inner.session().await?;
        let opened = match self.inner.claim(id, ClaimHow::Reopen).await? {
            Claimed::Yes(opened) => opened,
            other => {
                in_hand.let_go();
                return Err(self.refused(id, other));
            }
        };
        let epoch = opened.epoch;
        let back = Append::new(id.clone(), current.session, epoch, Timestamp(0), opened.as_it_was());
        match self.ready_again(*opened, current, step, options.budget).await {
            Ok(ready) => Ok(self.follow(in_hand, ready, options)),
            Err(error) => {
                self.give_up_claim(back).await;
                in_hand.let_go();
                Err(error)
            }
        }
    }

    /// A claimed run that is tried again at that step.
    async fn ready_again(
        &self,
        mut opened: Opened,
        current: Current,
        step: Option<Step>,
        budget: Option<Budget>,
    ) -> Result<Ready, HostError> {
        let (run, rows) = (opened.run.clone(), std::mem::take(&mut opened.rows));
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let journal = Journal::read(rows).map_err(unusable)?;
        // Somebody may have been quicker.
        let plan = plan_retry(&journal, step, false);
        let plan = plan.map_err(|reason| HostError::CannotRetry { run: run.clone(), reason })?;
        let (mut machine, append) = self.inner.take_up(&opened, &current, &plan, journal).await?;
        let module = self.inner.module(&run, opened.module, &machine.started().workflow).await?;
        self.inner.append_taken_up(&mut opened, append).await?;
        self.change_budget(&mut machine, budget);
        let Opened { epoch, inbox, project, imported, place, .. } = opened;
        let (starts, inbox) = (1, Some(inbox));
        Ok(Ready { current, epoch, starts, machine, module, project, imported, place, inbox })
    }

    /// If the step is a child that failed, that one is tried again first.
    async fn retry_child(&self, parent: &RunId, step: Step) -> Result<(), HostError> {
        let child = self.store().ended_children(parent, &[step]).await?.pop();
        if let Some(child) = child.filter(|info| matches!(info.outcome, Some(Err(_)))) {
            let options = ResumeOptions::default();
            Box::pin(self.retry(&child.id, None, options)).await?;
        }
        Ok(())
    }

    /// Children that were cancelled as the run ended, of which it knows nothing after the retry, are tried again with
    /// it. It meets the end of one that cannot be.
    pub(super) async fn retry_cancelled_children(
        &self,
        parent: &RunId,
        plan: &RetryPlan,
        mut journal: Journal,
    ) -> Result<(), HostError> {
        let unusable = |source| HostError::Journal { run: parent.clone(), source };
        plan.append(&mut journal, 0, self.now());
        let mut open = Machine::open(journal, Given::Everything).map_err(unusable)?.open_children();
        open.retain(|step| Some(*step) != plan.step);
        if open.is_empty() {
            return Ok(());
        }
        let ended = self.store().ended_children(parent, &open).await?.into_iter();
        let cancelled = |info: &RunInfo| matches!(&info.outcome, Some(Err(failure)) if failure.kind == FailureKind::Cancelled);
        for RunInfo { id, .. } in ended.filter(cancelled) {
            if !ended_with_parent(&self.inner.journal(&id).await?) {
                continue;
            }
            match Box::pin(self.retry(&id, None, ResumeOptions::default())).await {
                Err(HostError::CannotRetry { .. } | HostError::Held { .. } | HostError::Ended { .. })
                | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether the cancellation that a run ended with came from its parent, which had ended or dropped it.
fn ended_with_parent(journal: &Journal) -> bool {
    let Ok(plan) = plan_retry(journal, None, false) else { return false };
    let entry = usize::try_from(plan.from.0).ok().and_then(|from| journal.entries.get(from));
    matches!(entry.map(|entry| &entry.event),
        Some(Event::CancelRequested { reason: Some(reason) }) if reason == PARENT_GONE)
}
