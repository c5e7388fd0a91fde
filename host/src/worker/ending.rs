//! Ends runs where they stand, without their programs.

use std::time::Duration;

use wfhost_core::{End, Epoch, Machine, Outcome, QuestionChange, RunId};
use wfhost_store::{Append, MessageId, Next, Part, RunState, SessionId, StoreError};

use super::Inner;
use crate::drive::give_back_turns;
use crate::observer::Notice;

/// The inbox is read again so long after an end that came too early: a store that gives less of it than there is keeps
/// no processor busy.
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Inner {
    /// Ends a claimed run so: its open steps and questions end with it, and what was sent to it and not taken is lost.
    /// One that has ended, and was to go on, stays as it ended: then this is false.
    pub async fn end_where_it_stands(
        &self,
        run: &RunId,
        session: SessionId,
        epoch: Epoch,
        machine: &Machine,
        outcome: &Outcome,
    ) -> Result<bool, StoreError> {
        let ended = machine.outcome();
        // Again, if something comes in meanwhile: that is lost with the rest.
        loop {
            let consumed = self.all_in_inbox(run).await?;
            let now = self.world.now();
            let (row, at) = match ended {
                Some(_) => (None, machine.last_at()),
                None => {
                    let (row, at) = machine.with_end(End::Finished { outcome, stopped: true }, now);
                    (Some(row.into()), at)
                }
            };
            let questions = machine.open_questions().into_iter();
            let closed = questions.filter_map(|change| match change {
                QuestionChange::Asked { step, .. } => Some(QuestionChange::Closed { step }),
                QuestionChange::Closed { .. } => None,
            });
            let outcome = ended.unwrap_or(outcome);
            let next = Next::End { outcome: outcome.clone(), spent: machine.spent(now) };
            let append = Append {
                before: machine.taken_head(),
                row,
                consumed,
                questions: closed.collect(),
                // It may have been given another budget when it was taken up.
                ledger: machine.has_unsaved().then(|| (machine.spent_itself(), machine.budget())),
                ..Append::new(run.clone(), session, epoch, at, next)
            };
            match self.store.append(append).await {
                Ok(appended) if ended.is_some() => {
                    self.wake_all(&appended.wake);
                    return Ok(false);
                }
                Ok(appended) => {
                    give_back_turns(&self.store, &self.gate, run).await;
                    let after = Duration::from_millis(at.since(machine.started_at()));
                    let workflow = &machine.started().workflow;
                    self.see(Notice::Ended { run, workflow, state: RunState::of(Some(outcome)), after });
                    self.wake_all(&appended.wake);
                    return Ok(true);
                }
                Err(StoreError::Raced { .. }) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// What an end has to take.
    pub(super) async fn all_in_inbox(&self, run: &RunId) -> Result<Vec<MessageId>, StoreError> {
        let mut all = Vec::new();
        let mut part = Part::Behind(None);
        loop {
            let inbox = self.store.inbox(run, part).await?;
            all.extend(inbox.messages.iter().map(|message| message.id));
            match inbox.messages.last().filter(|_| inbox.more) {
                Some(last) => part = Part::Behind(Some(last.id)),
                None => return Ok(all),
            }
        }
    }
}
