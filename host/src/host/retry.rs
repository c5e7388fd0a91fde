//! Trying runs that failed again, and their children before them.

use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    CannotRetry, Event, FailureKind, Given, Journal, Machine, Outcome, RetryPlan, RunId, Step, Timestamp,
    plan_retry,
};
use wfhost_store::{Append, ClaimHow, Claimed, Next, Opened, PARENT_GONE, RunInfo, StoreError};

use super::{Host, HostError, ResumeOptions};
use crate::handle::RunHandle;
use crate::worker::{Current, InHand, Ready};

/// A run that had ended, claimed to be tried again.
struct Reopened {
    in_hand: InHand,
    opened: Box<Opened>,
    current: Current,
    /// What gives it back as it was.
    back: Append,
}

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
        let _room = self.inner.room().await;
        let Reopened { in_hand, opened, current, back } = self.reopen(id).await?;
        match self.ready_again(*opened, current, step, options.budget, (plan, journal)).await {
            Ok(ready) => Ok(self.follow(in_hand, ready, options)),
            Err(error) => Err(self.stays_ended(in_hand, back, error).await),
        }
    }

    /// Claims a run that has ended.
    async fn reopen(&self, id: &RunId) -> Result<Reopened, HostError> {
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
        Ok(Reopened { in_hand, opened, current, back })
    }

    /// Gives a claimed run back that cannot be tried again.
    async fn stays_ended(&self, in_hand: InHand, back: Append, error: HostError) -> HostError {
        self.give_up_claim(back).await;
        in_hand.let_go();
        error
    }

    /// The machine of a claimed run that is tried again at that step, and what is to be committed for that.
    async fn tried_again(
        &self,
        opened: &mut Opened,
        current: &Current,
        step: Option<Step>,
    ) -> Result<(Machine, Append), HostError> {
        let (run, rows) = (opened.run.clone(), std::mem::take(&mut opened.rows));
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let journal = Journal::read(rows).map_err(unusable)?;
        // Somebody may have been quicker.
        let plan = plan_retry(&journal, step, false);
        let plan = plan.map_err(|reason| HostError::CannotRetry { run: run.clone(), reason })?;
        self.inner.take_up(opened, current, &plan, journal).await
    }

    /// A claimed run that is tried again at that step. `before`: the journal as it was looked up, and what that says of
    /// its children.
    async fn ready_again(
        &self,
        mut opened: Opened,
        current: Current,
        step: Option<Step>,
        budget: Option<Budget>,
        before: (RetryPlan, Journal),
    ) -> Result<Ready, HostError> {
        let (mut machine, append) = self.tried_again(&mut opened, &current, step).await?;
        let module = self.inner.module(&opened.run, opened.module, &machine.started().workflow).await?;
        // Not before it is known that their parent goes on: else they would work, and be paid, for nobody.
        let (plan, journal) = before;
        self.retry_children(&opened.run, &plan, journal).await?;
        self.inner.append_taken_up(&mut opened, append).await?;
        self.change_budget(&mut machine, budget);
        let Opened { epoch, inbox, project, imported, place, .. } = opened;
        let (starts, inbox) = (1, Some(inbox));
        Ok(Ready { current, epoch, starts, machine, module, project, imported, place, inbox })
    }

    /// Tries the children of a run again that it is to be tried again with: the one that it failed of, and those that
    /// were cancelled with it.
    async fn retry_children(
        &self,
        parent: &RunId,
        plan: &RetryPlan,
        journal: Journal,
    ) -> Result<(), HostError> {
        if let Some(step) = plan.step
            && let Some(child) = self.store().ended_children(parent, &[step]).await?.pop()
            && matches!(child.outcome, Some(Err(_)))
        {
            Box::pin(self.retry_released(&child.id)).await?;
        }
        self.retry_cancelled_children(parent, plan, journal).await
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
            match Box::pin(self.retry_for_parent(&id)).await {
                Err(HostError::CannotRetry { .. } | HostError::Held { .. } | HostError::Ended { .. })
                | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a child goes on that its parent, which waits for it, is told has been cancelled. One that was cancelled
    /// as the parent ended, and took its time, is not waited for by a retry of that: it is tried again when it has
    /// ended, by whichever host finds it.
    pub(crate) async fn child_goes_on(&self, child: &RunId, told: &Outcome) -> Result<bool, StoreError> {
        let Some(info) = self.store().run(child).await? else { return Ok(false) };
        if info.outcome.as_ref() != Some(told) {
            // That was done, and there is an end to come that is told, too.
            return Ok(true);
        }
        match self.retry_for_parent(child).await {
            Ok(goes_on) => Ok(goes_on),
            Err(HostError::Store(error)) => Err(error),
            // Somebody else is about to do so, or has done so since it was looked up.
            Err(HostError::Held { run, .. }) => Err(StoreError::Raced { run }),
            Err(HostError::Ended { .. } | HostError::CannotRetry { reason: CannotRetry::NotEnded, .. }) => {
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Tries a child again if it was cancelled as its parent ended, and the children that were with it. False if it was
    /// not.
    async fn retry_for_parent(&self, child: &RunId) -> Result<bool, HostError> {
        let journal = self.inner.journal(child).await?;
        if !ended_with_parent(&journal) {
            return Ok(false);
        }
        self.retry_released(child).await.map(|()| true)
    }

    /// Tries a child again, and has it be due for any host: this one may have no room, as it drives its parent.
    async fn retry_released(&self, child: &RunId) -> Result<(), HostError> {
        let journal = self.inner.journal(child).await?;
        let cannot = |reason| HostError::CannotRetry { run: child.clone(), reason };
        let plan = plan_retry(&journal, None, false).map_err(cannot)?;
        let Reopened { in_hand, opened, current, back } = self.reopen(child).await?;
        match self.release_again(*opened, current, (plan, journal)).await {
            Ok(()) => {
                in_hand.let_go();
                self.inner.work.notify_one();
                Ok(())
            }
            Err(error) => Err(self.stays_ended(in_hand, back, error).await),
        }
    }

    /// Has a claimed run that is tried again be due.
    async fn release_again(
        &self,
        mut opened: Opened,
        current: Current,
        before: (RetryPlan, Journal),
    ) -> Result<(), HostError> {
        let (_, append) = self.tried_again(&mut opened, &current, None).await?;
        let (plan, journal) = before;
        self.retry_children(&opened.run, &plan, journal).await?;
        let next = Next::Release { waiting: None, trouble: None };
        self.inner.append_taken_up(&mut opened, Append { next, ..append }).await
    }
}

/// Whether the cancellation that a run ended with came from its parent, which had ended or dropped it.
fn ended_with_parent(journal: &Journal) -> bool {
    let Ok(plan) = plan_retry(journal, None, false) else { return false };
    let entry = usize::try_from(plan.from.0).ok().and_then(|from| journal.entries.get(from));
    matches!(entry.map(|entry| &entry.event),
        Some(Event::CancelRequested { reason: Some(reason) }) if reason == PARENT_GONE)
}
