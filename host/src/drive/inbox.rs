//! Takes what was sent to the run into its journal.

use tokio::time::Instant;
use wfhost_core::course::Rest;
use wfhost_core::{FailureKind, Outcome, RunId, Step};
use wfhost_store::{Inbox, MessageBody, Next, Part, StoreError};

use super::{CANCEL_GRACE, DriveError, Driver};

impl Driver<'_> {
    /// Takes in what was answered, before the program can drop the question: whoever answered was
    /// told that it counts.
    pub(super) async fn take_answers(&mut self) -> Result<(), DriveError> {
        let Some(mut part) = self.inbox.clone() else { return Ok(()) };
        if part.more {
            part = self.drive.store.inbox(self.drive.run, Part::Behind(None)).await?;
        }
        let now = self.now();
        loop {
            let last = part.messages.last().map(|message| message.id);
            for message in part.messages {
                let MessageBody::Answer { step, outcome, by, note } = message.body else { continue };
                if self.answered.contains(&message.id) {
                    continue;
                }
                let machine = &mut self.shared.lock().machine;
                machine.fire_timers_before_answer(step, message.at.min(now));
                machine.answer(step, outcome, by, note, now);
                self.answered.push(message.id);
            }
            if !part.more {
                return Ok(());
            }
            part = self.drive.store.inbox(self.drive.run, Part::Behind(last)).await?;
        }
    }

    /// Takes a part of what was sent to the run into its journal.
    pub(super) async fn read_inbox(&mut self) -> Result<(), DriveError> {
        let Inbox { messages, more } = match self.inbox.take() {
            Some(inbox) => inbox,
            None => self.drive.store.inbox(self.drive.run, Part::Next).await?,
        };
        if more {
            self.course.mail();
        }
        // Requests come first: there is none behind these.
        if self.course.is_pausing() && !messages.iter().any(|message| message.body == MessageBody::Pause) {
            self.go_on_unpaused();
        }
        if messages.is_empty() {
            return Ok(());
        }
        // A request to pause is taken when the run is paused: until then another host may have to do it.
        let (mut consumed, mut pauses) = (std::mem::take(&mut self.answered), Vec::new());
        let answered = consumed.clone();
        for message in &messages {
            let to = if message.body == MessageBody::Pause { &mut pauses } else { &mut consumed };
            to.push(message.id);
        }
        let mut no_ends = Vec::new();
        for message in &messages {
            if let MessageBody::Child { step, run, outcome, .. } = &message.body
                && self.child_goes_on(*step, run, outcome).await?
            {
                no_ends.push(message.id);
            }
        }
        {
            let mut inner = self.shared.lock();
            let now = self.drive.world.now();
            for message in messages {
                // Deadlines that passed before it was sent are met first.
                let sent = message.at.min(now);
                match &message.body {
                    MessageBody::Answer { step, .. } => inner.machine.fire_timers_before_answer(*step, sent),
                    _ => inner.machine.fire_timers(sent),
                }
                match message.body {
                    MessageBody::Signal { name, payload, id } => {
                        inner.machine.receive(name, payload, id, now);
                    }
                    MessageBody::Answer { .. } if answered.contains(&message.id) => {}
                    MessageBody::Answer { step, outcome, by, note } => {
                        let taken = inner.machine.answer(step, outcome, by, note, now);
                        if !taken && inner.machine.has_unsaved() {
                            // What closed the question is not committed: the answer was earlier.
                            return Err(StoreError::Raced { run: self.drive.run.clone() }.into());
                        }
                    }
                    MessageBody::Cancel { reason } => {
                        inner.machine.request_cancel(reason, now);
                        self.cancel_by.get_or_insert_with(|| Instant::now() + CANCEL_GRACE);
                        // All that was taken back ends with that.
                        self.course.unpause();
                    }
                    // A run that is to stop does so.
                    MessageBody::Pause if inner.machine.cancel_requested() => {}
                    MessageBody::Pause => self.course.rest(Rest::Paused),
                    MessageBody::Child { .. } if no_ends.contains(&message.id) => {}
                    MessageBody::Child { step, run, outcome, spent } => {
                        inner.machine.end_child(step, run, outcome, spent, now);
                    }
                }
            }
            // A run that is to stop is paused no more.
            if inner.machine.cancel_requested() {
                consumed.append(&mut pauses);
            }
        }
        self.course.happened();
        self.append(Next::Go, consumed).await?;
        Ok(())
    }

    /// Calls of a run that is to stop are not waited for by a host that leaves it: whoever has it next ends it.
    pub(super) async fn look_for_a_stop(&mut self) -> Result<(), DriveError> {
        if asks_to_stop(&self.drive.store.inbox(self.drive.run, Part::Next).await?) {
            self.course.rest(Rest::Now);
        }
        Ok(())
    }

    /// The run is not to be paused after all: it goes on beside the calls that are under way, and those that were taken
    /// back begin.
    fn go_on_unpaused(&mut self) {
        self.course.unpause();
        let due = {
            let machine = &mut self.shared.lock().machine;
            machine.let_go();
            machine.due_calls(self.now())
        };
        self.withhold_what_cannot_be_made(due);
    }

    /// Takes in children that ended without a word to this run: they were
    /// imported, or it had failed of them and goes on.
    pub(super) async fn meet_children(&mut self) -> Result<(), DriveError> {
        let open = self.shared.lock().machine.open_children();
        if open.is_empty() {
            return Ok(());
        }
        let ended = self.drive.store.ended_children(self.drive.run, &open).await?;
        if ended.is_empty() {
            return Ok(());
        }
        // What they did say comes first.
        self.read_inbox().await?;
        for info in ended {
            if let (Some(step), Some(outcome)) = (info.links.step, info.outcome)
                && !self.child_goes_on(step, &info.id, &outcome).await?
            {
                let now = self.now();
                self.shared.lock().machine.end_child(step, info.id, outcome, info.spent, now);
                self.happened();
            }
        }
        Ok(())
    }

    /// Whether a child that was cancelled is tried again with this run, so that it has not ended.
    async fn child_goes_on(&self, step: Step, child: &RunId, outcome: &Outcome) -> Result<bool, DriveError> {
        let is_cancelled = matches!(outcome, Err(failure) if failure.kind == FailureKind::Cancelled);
        let is_wanted = is_cancelled && {
            let machine = &self.shared.lock().machine;
            machine.is_open(step) && !machine.cancel_requested()
        };
        if !is_wanted {
            return Ok(false);
        }
        (self.drive.child_goes_on)(child.clone(), outcome.clone()).await
    }
}

/// Whether somebody has asked for the run to stop, by what is to be taken next.
pub(crate) fn asks_to_stop(inbox: &Inbox) -> bool {
    inbox.messages.iter().any(|message| matches!(message.body, MessageBody::Cancel { .. }))
}
