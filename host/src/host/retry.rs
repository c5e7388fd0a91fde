//! Trying runs that failed again, and their children before them.

use wfhost_core::{
    CannotRetry, Event, Journal, Machine, Outcome, RetryPlan, RunId, Step, Timestamp, plan_retry,
};
use wfhost_store::{Append, ClaimHow, Claimed, Next, Opened, PARENT_GONE, StoreError};

use super::{Host, HostError, ResumeOptions};
use crate::drive::DriveError;
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

/// How a run that had ended goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Again {
    /// At that step, else at the one that it failed of.
    At(Option<Step>),
    /// Where it failed, with other code, which does not fail there.
    WithOtherCode,
}

impl Again {
    pub fn plan(self, journal: &Journal) -> Result<RetryPlan, CannotRetry> {
        match self {
            Self::At(step) => plan_retry(journal, step, false),
            Self::WithOtherCode => plan_retry(journal, None, true),
        }
    }
}

/// A run that had ended and goes on, before that is committed.
struct Going {
    machine: Machine,
    append: Append,
    /// The step that is tried again.
    step: Option<Step>,
}

impl Host {
    /// Tries a run that failed again: at the step, else at the one that it failed of.
    pub async fn retry(
        &self,
        id: &RunId,
        step: Option<Step>,
        options: ResumeOptions,
    ) -> Result<RunHandle, HostError> {
        let again = Again::At(step);
        let journal = self.inner.journal(id).await?;
        again.plan(&journal).map_err(|reason| HostError::CannotRetry { run: id.clone(), reason })?;
        self.again(id, again, options).await
    }

    /// Has a run that had ended go on here.
    pub(super) async fn again(
        &self,
        id: &RunId,
        again: Again,
        options: ResumeOptions,
    ) -> Result<RunHandle, HostError> {
        let _room = self.inner.room().await;
        let Reopened { in_hand, opened, current, back } = self.reopen(id).await?;
        match self.ready_again(*opened, current, again, &options).await {
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
        // It may have been committed that it goes on: whoever has it next finds out.
        if !matches!(error, HostError::Store(StoreError::Unknown { .. })) {
            self.give_up_claim(back).await;
            in_hand.let_go();
        }
        error
    }

    /// The machine of a claimed run that goes on, and what is to be committed for that.
    async fn going(&self, opened: &mut Opened, current: &Current, again: Again) -> Result<Going, HostError> {
        let (run, rows) = (opened.run.clone(), std::mem::take(&mut opened.rows));
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let journal = Journal::read(rows).map_err(unusable)?;
        // Somebody may have been quicker.
        let plan = again.plan(&journal);
        let plan = plan.map_err(|reason| HostError::CannotRetry { run: run.clone(), reason })?;
        let (machine, append) = self.inner.take_up(opened, current, &plan, journal).await?;
        Ok(Going { machine, append, step: plan.step })
    }

    /// A claimed run that goes on. What can fail does so before that is committed: until then it stays as it ended.
    async fn ready_again(
        &self,
        mut opened: Opened,
        current: Current,
        again: Again,
        options: &ResumeOptions,
    ) -> Result<Ready, HostError> {
        let Going { mut machine, append, step } = self.going(&mut opened, &current, again).await?;
        let module = match (again, &options.module) {
            (Again::WithOtherCode, Some(module)) => module.clone(),
            _ => self.inner.module(&opened.run, opened.module, &machine.started().workflow).await?,
        };
        self.inner.take_answers(&mut machine).await?;
        // Not before it is known that its parent goes on: else it would work, and be paid, for nobody.
        self.retry_failed_child(&opened.run, step).await?;
        let more_came = self.inner.append_taken_up(&mut opened, append).await?;
        self.change_budget(&mut machine, options.budget);
        let Opened { epoch, inbox, project, imported, place, .. } = opened;
        let (starts, inbox) = (1, (!more_came).then_some(inbox));
        Ok(Ready { current, epoch, starts, machine, module, project, imported, place, inbox })
    }

    /// Tries the child again that a run failed of, at that step of it. Those that were cancelled as the run ended are
    /// tried again when its program has come to where it waits for them.
    async fn retry_failed_child(&self, parent: &RunId, step: Option<Step>) -> Result<(), HostError> {
        if let Some(step) = step
            && let Some(child) = self.store().ended_children(parent, &[step]).await?.pop()
            && matches!(child.outcome, Some(Err(_)))
        {
            Box::pin(self.retry_released(&child.id)).await?;
        }
        Ok(())
    }

    /// Whether a child goes on that its parent, which waits for it, is told has been cancelled, or finds so. One that
    /// was cancelled as the parent ended is tried again with that: when it has ended, by whichever host finds it. If it
    /// cannot be, because it has undone its work for example, the parent meets its end.
    pub(crate) async fn child_goes_on(&self, child: &RunId, told: &Outcome) -> Result<bool, DriveError> {
        let Some(info) = self.store().run(child).await? else { return Ok(false) };
        if info.outcome.as_ref() != Some(told) {
            // That was done, and there is an end to come that is told, too.
            return Ok(true);
        }
        match self.retry_for_parent(child).await {
            Ok(goes_on) => Ok(goes_on),
            Err(HostError::Store(error)) => Err(error.into()),
            // Another host may have what it needs.
            Err(HostError::Drive(error)) => Err(error),
            // Somebody else is about to do so, or has done so since it was looked up.
            Err(HostError::Held { run, .. }) => Err(StoreError::Raced { run }.into()),
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
        let again = Again::At(None);
        let journal = self.inner.journal(child).await?;
        again.plan(&journal).map_err(|reason| HostError::CannotRetry { run: child.clone(), reason })?;
        let Reopened { in_hand, opened, current, back } = self.reopen(child).await?;
        match self.release_again(*opened, current, again).await {
            Ok(()) => {
                in_hand.let_go();
                self.inner.work.notify_one();
                Ok(())
            }
            Err(error) => Err(self.stays_ended(in_hand, back, error).await),
        }
    }

    /// Has a claimed run that goes on be due.
    async fn release_again(
        &self,
        mut opened: Opened,
        current: Current,
        again: Again,
    ) -> Result<(), HostError> {
        let Going { append, step, .. } = self.going(&mut opened, &current, again).await?;
        self.retry_failed_child(&opened.run, step).await?;
        let next = Next::Release { waiting: None, trouble: None };
        self.inner.append_taken_up(&mut opened, Append { next, ..append }).await?;
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
