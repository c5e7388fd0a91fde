//! What the world does.

use super::*;
use crate::Usage;

/// For people.
const DROPPED: &str = "the call was dropped; what it consumed counts";

/// What is known of an attempt that was dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DroppedAttempt {
    pub step: Step,
    pub attempt: u32,
    pub provider: String,
    pub usage: Usage,
}

impl Machine {
    /// A step was carried out. False if nothing waits for it any more.
    pub fn complete(&mut self, step: Step, outcome: Outcome, clock: Timestamp) -> bool {
        self.complete_timed(step, outcome, None, clock)
    }

    /// The same of an agent call, with when what happened during its last attempt.
    pub fn complete_timed(
        &mut self,
        step: Step,
        outcome: Outcome,
        timing: Option<Timing>,
        clock: Timestamp,
    ) -> bool {
        if self.has_ended() || !self.steps.is_open(step) {
            return false;
        }
        self.append(clock, Event::Completed { step, outcome: outcome.into(), timing });
        true
    }

    /// A person answered a question. False if nothing waits for it any more.
    pub fn answer(
        &mut self,
        step: Step,
        outcome: Outcome,
        by: Option<String>,
        note: Option<String>,
        clock: Timestamp,
    ) -> bool {
        if self.has_ended() || !self.steps.is_question(step) {
            return false;
        }
        // A call is answered with a reply, by a provider or a person.
        let outcome = match (outcome, self.steps.delegated_to(step)) {
            (Ok(output), Some(provider)) => {
                let reply = Reply::new(provider, output);
                serde_json::to_string(&reply)
                    .map_err(|error| error.to_string())
                    .and_then(|text| Json::parse(text).map_err(|error| error.to_string()))
                    .map_err(|error| Failure::new(FailureKind::InvalidOutput, error))
            }
            (outcome, _) => outcome,
        };
        self.append(clock, Event::Answered { step, outcome: outcome.into(), by, note });
        true
    }

    /// An attempt at an agent call failed, and whether another one follows.
    /// False if nothing waits for the call any more.
    pub fn fail_attempt(&mut self, failed: FailedCall, clock: Timestamp) -> bool {
        let step = failed.step;
        if self.has_ended() || !self.steps.is_open(step) || failed.attempt != self.steps.attempts(step) {
            return false;
        }
        self.append(clock, Event::AttemptFailed(Box::new(failed)));
        true
    }

    /// Nobody waits for an attempt at an agent call any more, or the host makes no use of it: what it consumed counts
    /// all the same. Nothing else follows from it. False if that is nothing, if it was recorded before (whoever did that
    /// may not know that he succeeded), or if the run has ended.
    pub fn drop_attempt(&mut self, dropped: DroppedAttempt, clock: Timestamp) -> bool {
        let DroppedAttempt { step, attempt, provider, usage } = dropped;
        let is_known = self.spending.has_dropped(step, attempt, &usage);
        if self.has_ended() || usage == Usage::default() || is_known {
            return false;
        }
        let failure = Failure { attempts: attempt, ..Failure::new(FailureKind::Cancelled, DROPPED) };
        let (auth, again_at, usage, heartbeat, timing) = (false, None, Some(usage), None, None);
        let failed =
            FailedCall { step, attempt, provider, failure, auth, again_at, usage, heartbeat, timing };
        self.append(clock, Event::AttemptFailed(Box::new(failed)));
        true
    }

    /// The attempt at an agent call that was begun was not made: it has to
    /// wait until then. False if nothing waits for the call any more.
    pub fn postpone(&mut self, step: Step, until: Timestamp, reason: String, clock: Timestamp) -> bool {
        if self.has_ended() || !self.steps.is_open(step) {
            return false;
        }
        self.append(clock, Event::Postponed { step, until, reason });
        true
    }

    /// A person is to answer an agent call, until `deadline`. False if nobody
    /// waits for the call any more.
    pub fn delegate(
        &mut self,
        step: Step,
        provider: String,
        question: Question,
        deadline: Option<Timestamp>,
        clock: Timestamp,
    ) -> bool {
        if self.has_ended() || !self.steps.is_open(step) {
            return false;
        }
        self.append(clock, Event::Delegated { step, provider, question: Box::new(question), deadline });
        true
    }

    /// A child ended. False if nothing waits for it any more.
    pub fn end_child(
        &mut self,
        step: Step,
        run: RunId,
        outcome: Outcome,
        spent: Spent,
        clock: Timestamp,
    ) -> bool {
        if self.has_ended() || !self.steps.is_child(step) {
            return false;
        }
        let child = EndedChild { step, run, outcome: outcome.into(), spent };
        self.append(clock, Event::ChildEnded(Box::new(child)));
        true
    }

    /// The run ends and continues as another one, as its program asked for.
    /// False if it has ended.
    pub fn continue_as(&mut self, run: RunId, clock: Timestamp) -> bool {
        if self.has_ended() {
            return false;
        }
        self.append(clock, Event::ContinuedAsNew { run });
        true
    }

    /// What stands in the journal now is that of another run, and continues as this one.
    pub fn fork(&mut self, run: RunId, seed: [u8; 32], clock: Timestamp) -> bool {
        if self.has_ended() {
            return false;
        }
        let from = self.run().clone();
        self.append(clock, Event::Forked { run, from, seed });
        self.refuse_again(clock);
        true
    }

    /// The last entry of the journal says that the run, which had ended, goes on. What makes no sense fails as it
    /// did. All children that are waited for are wanted; whoever starts them knows which are there.
    pub fn take_up(&mut self, clock: Timestamp) {
        self.refuse_again(clock);
        self.steps.start_children_again();
    }

    /// What the program asked for is judged when it asks. That may be void now, or not have been taken over.
    fn refuse_again(&mut self, clock: Timestamp) {
        for (step, position, anew) in self.steps.open_but_calls() {
            let Ok(op) = decode_op(self.steps.op(step).unwrap_or_default(), position) else { continue };
            // A child that is there may be, whatever the family has become since.
            let family = || if anew { self.check_family(&op) } else { Ok(()) };
            if let Err(reason) = op.check_sense(self.last_at).and_then(|()| family()) {
                self.complete(step, Err(Failure::new(FailureKind::Rejected, reason)), clock);
            }
        }
    }

    /// Steps that ask for what another run was answered take its answers from now on.
    pub fn take_answers_from(&mut self, journal: &Journal) {
        self.reuse.read(journal);
    }

    /// The run's budget is changed. False if that changes nothing
    /// or the run has ended.
    pub fn change_budget(&mut self, budget: Budget, clock: Timestamp) -> bool {
        if self.has_ended() || budget == self.budget() {
            return false;
        }
        self.append(clock, Event::BudgetChanged { budget });
        true
    }

    /// Records that the system clock had been ahead, if it had: then what lasts does not wait until
    /// it has caught up, wherever the run is loaded next.
    pub fn notice_clock(&mut self, clock: Timestamp) {
        if !self.has_ended() && self.last_clock.since(clock) > crate::entry::TOLERATED_MS {
            self.append(clock, Event::ClockSet);
        }
    }

    /// From the next entry on the run is executed with another module.
    pub fn move_to(&mut self, module: Digest) {
        self.moving = (module != self.module).then_some(module);
    }

    /// Records that the run was moved, if that is not done yet. Only for a
    /// program that has come through its journal.
    pub fn settle_move(&mut self, clock: Timestamp) {
        if self.outcome().is_none()
            && let Some(module) = self.moving.take()
        {
            self.append(clock, Event::Moved { module });
        }
    }

    /// A signal came in. False if the run has ended.
    pub fn receive(&mut self, name: String, payload: Json, id: Option<String>, clock: Timestamp) -> bool {
        if self.has_ended() {
            return false;
        }
        self.append(clock, Event::Received { name, payload, id });
        true
    }

    /// Cancellation of the run is requested. False if that is known or the run has ended.
    pub fn request_cancel(&mut self, reason: Option<String>, clock: Timestamp) -> bool {
        if self.has_ended() || self.cancel_requested.is_some() {
            return false;
        }
        self.append(clock, Event::CancelRequested { reason });
        true
    }

    /// Ends the run where it stands. False if it has ended already.
    pub fn terminate(&mut self, failure: Failure, clock: Timestamp) -> bool {
        if self.has_ended() {
            return false;
        }
        self.append(clock, Event::Finished { outcome: Recorded::Err(failure), stopped: true });
        true
    }

    /// Completes every timer whose deadline is not after `clock`, in the order
    /// of the deadlines. Deadlines count from what the clock showed at an entry,
    /// so a clock that was ahead for a while and was put right holds up none that
    /// began afterwards.
    pub fn fire_timers(&mut self, clock: Timestamp) {
        self.fire_timers_but(None, clock);
    }

    /// The same of what passed before a question was answered, but for its own deadline: that is
    /// judged when the answer is accepted, by a clock which may show something else.
    pub fn fire_timers_before_answer(&mut self, answered: Step, clock: Timestamp) {
        self.fire_timers_but(Some(answered), clock);
    }

    fn fire_timers_but(&mut self, but: Option<Step>, clock: Timestamp) {
        if self.has_ended() {
            return;
        }
        while let Some((step, outcome)) = self.steps.due(clock, but) {
            self.append(clock, Event::Completed { step, outcome: outcome.into(), timing: None });
        }
        while let Some(step) = self.steps.delay_over(clock) {
            let attempt = self.steps.attempts(step) + 1;
            self.append(clock, Event::Attempted { step, attempt, after: None });
            self.steps.start(step);
        }
    }
}
