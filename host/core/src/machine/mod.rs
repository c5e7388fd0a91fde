//! The replay machine of one run.
//!
//! [`Machine::open`] takes the journal so far. The program's calls are then
//! matched with the entries that it originated the last time, in order; once
//! these are used up the machine is live and the calls append new entries.
//! What the world does (answers, timers, signals, requests to stop) is
//! appended whenever it happens. What the program observes depends on the
//! order of the entries and on nothing else:
//!
//! * a step is done at the position of the entry that completed it; a wait for
//!   a signal at the later of the signal's arrival and the wait itself,
//! * of several steps that are done, the one done first in the journal counts,
//! * time is that of the latest entry that the program has observed.
//!
//! So a program that waits for a step, or drops it, before an entry that it
//! originated earlier the last time is refused, however soon the step is done
//! this time.
//!
//! The first error, and the end, are final: every later call answers the same.

mod apply;
mod fork;
mod mismatch;
mod random;
mod retry;
mod reuse;
mod spending;
mod steps;
mod table;
mod waitset;

#[cfg(test)]
mod conversation;
#[cfg(test)]
mod property;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use minicbor::bytes::ByteVec;

use self::apply::Refusal;
pub use self::fork::{CannotFork, ForkPlan};
pub use self::mismatch::Mismatch;
use self::random::Random;
pub use self::retry::{CannotRetry, Retry as RetryPlan, plan_retry};
pub use self::reuse::Reuse;
use self::spending::Spending;
use self::steps::Steps;
pub use self::steps::{CallState, NewChild, OpenStep, QuestionChange};
pub use self::waitset::SetId;
use self::waitset::WaitSets;
use crate::entry::{
    ChildOf, EndedChild, Entry, Event, FailedCall, Origin, Recorded, Started, decode_op, encode_op,
};
use crate::journal::{GENESIS, Journal, JournalError};
use crate::limits::{self, TooLarge};
use crate::policy::budget::{Budget, Spent};
use crate::policy::retry as policy;
use crate::{
    Digest, Failure, FailureKind, Json, Op, Outcome, Position, Question, Reply, Row, RunId, Step, Timestamp,
};

/// Why the program cannot go on.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Stop {
    /// The program asks for something else than it did the last time.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// The program waits for nothing.
    #[error("the program waits for nothing that could ever happen")]
    Deadlock,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("the program has {limit} steps open at the same time, as many as are allowed", limit = limits::OPEN_STEPS)]
    TooManySteps,
    /// A step that the program does not hold: only a broken host asks for one.
    #[error("the program does not hold step {0}")]
    NoSuchStep(Step),
    /// The run is over.
    #[error("the run has ended")]
    Ended,
}

/// Something that the driver has to do for the program, once what was
/// appended until now is committed.
#[derive(Clone, PartialEq, Debug)]
pub enum Work {
    /// Carry out a step whose outcome is not an entry yet.
    Execute { step: Step, attempt: u32, op: Op },
    /// End a step that cannot be carried out.
    Fail { step: Step, failure: Failure },
    /// Stop what carries out this step: nobody waits for it any more.
    Abort { step: Step },
}

/// Entries that were appended and not yet handed out for a commit.
#[derive(Clone, PartialEq, Debug)]
pub struct Unsaved {
    pub first: Position,
    pub count: u32,
    pub bytes: Vec<u8>,
    /// The head of the chain after them.
    pub head: Digest,
}

impl From<Unsaved> for Row {
    fn from(unsaved: Unsaved) -> Self {
        let Unsaved { first, count, bytes, head } = unsaved;
        Self { first, count, bytes, head }
    }
}

/// An entry that the program originated and has not come to again.
#[derive(Debug)]
struct Scripted {
    position: Position,
    at: Timestamp,
    event: ScriptedEvent,
}

#[derive(Debug)]
enum ScriptedEvent {
    Scheduled { step: Step, op: ByteVec },
    Cancelled { step: Step },
    Returned { step: Step },
    Patched { id: String },
    Finished { outcome: Outcome, stopped: bool },
    Continued,
}

/// Where a run became one of its own.
#[derive(Debug)]
struct Fork {
    position: Position,
    at: Timestamp,
    run: RunId,
    seed: [u8; 32],
}

impl ScriptedEvent {
    /// Whether the host ended the run here while the program would have gone on.
    fn stops(&self) -> bool {
        matches!(self, Self::Finished { stopped: true, .. } | Self::Continued)
    }
}

#[derive(Debug)]
enum Status {
    /// Before the first entry.
    New,
    Running,
    Ended(Outcome),
    /// It goes on as another run.
    Continued(RunId),
}

/// The state of one run, from its journal and its program's calls.
#[derive(Debug)]
pub struct Machine {
    started: Started,
    started_at: Timestamp,
    status: Status,
    /// The first error of the program, which is final.
    stop: Option<Stop>,
    script: VecDeque<Scripted>,
    steps: Steps,
    sets: WaitSets,
    patches: HashMap<String, bool>,
    random: Random,
    cancel_requested: Option<Position>,
    spending: Spending,
    /// Providers that did not accept who was asking.
    providers_out: BTreeSet<String>,

    next: Position,
    last_at: Timestamp,
    head: Digest,
    unsaved: Unsaved,

    observed: Position,
    now: Timestamp,
    /// Whether the open calls of the last execution were taken up again.
    resumed: bool,
    emitted: u64,
    emissions_saved: u64,
    /// Where the program was begun again, and the number of its next emission there.
    restarts: VecDeque<(Position, u64)>,
    /// The module that the run is executed with.
    module: Digest,
    /// The module that it is to be executed with from the next entry on.
    moving: Option<Digest>,
    /// It was moved, and the driver does not know yet.
    moved: bool,
    /// Where the run became one of its own, and what it is since then.
    forks: Vec<Fork>,
    /// Answers of the run that this one repeats, if it does that.
    reuse: Reuse,
}

impl Machine {
    /// The machine of a run that begins now.
    pub fn start(started: Started, clock: Timestamp) -> Self {
        let mut machine = Self::empty(started.clone());
        machine.append(clock, Event::Started(Box::new(started)));
        machine
    }

    /// The machine of a run that has a journal. `emissions_saved` is the
    /// number of its emissions (see [`Machine::emit`]) that are stored.
    pub fn open(journal: Journal, emissions_saved: u64) -> Result<Self, JournalError> {
        let void = retry::Void::of(&journal.entries);
        let mut entries = journal.entries.into_iter();
        let (first_at, started) = match entries.next() {
            Some(Entry { at, event: Event::Started(started) }) => (at, started),
            _ => {
                let position = Position(0);
                let reason = "a journal begins with `started`".to_owned();
                return Err(JournalError::Illegal { position, reason });
            }
        };
        let mut machine = Self::empty(started.as_ref().clone());
        machine.emissions_saved = emissions_saved;
        let first = Entry { at: first_at, event: Event::Started(started) };
        let mut void_calls = HashSet::new();
        for entry in std::iter::once(first).chain(entries) {
            let position = machine.next;
            machine.next.0 += 1;
            let entry = match void.of_entry(position, entry) {
                Ok(entry) => entry,
                Err(void) => {
                    machine.last_at = machine.last_at.max(void.at);
                    // What was paid for stays paid.
                    let is_call = match &void.event {
                        Event::Scheduled { step, op } => {
                            if is_agent(op) {
                                void_calls.insert(*step);
                            }
                            false
                        }
                        Event::Completed { step, .. } => {
                            void_calls.contains(step) || machine.steps.is_call(*step)
                        }
                        _ => false,
                    };
                    machine.spending.note(position, &void.event, is_call);
                    // Its number, and so its idempotency key, is never given to another one.
                    if let Event::Scheduled { step, .. } = void.event {
                        machine.steps.skip(step);
                    }
                    continue;
                }
            };
            machine.apply(position, entry, true).map_err(|refusal| match refusal {
                Refusal::Illegal(reason) => JournalError::Illegal { position, reason },
                Refusal::Unreadable(error) => JournalError::Entry(error),
            })?;
        }
        for (&step, &at) in &void.reopened {
            machine.steps.reopen(step, at);
        }
        // What changed when the journal was written is known already.
        machine.steps.take_questions();
        machine.steps.take_dropped_children();
        machine.head = journal.head;
        machine.unsaved.first = machine.next;
        machine.unsaved.head = journal.head;
        Ok(machine)
    }

    fn empty(started: Started) -> Self {
        Self {
            random: Random::new(&started.seed),
            spending: Spending::new(&started),
            module: started.module,
            moving: None,
            moved: false,
            restarts: VecDeque::new(),
            forks: Vec::new(),
            reuse: Reuse::new(&started),
            started,
            providers_out: BTreeSet::new(),
            started_at: Timestamp(0),
            status: Status::New,
            stop: None,
            script: VecDeque::new(),
            steps: Steps::default(),
            sets: WaitSets::default(),
            patches: HashMap::new(),
            cancel_requested: None,
            next: Position(0),
            last_at: Timestamp(0),
            head: GENESIS,
            unsaved: Unsaved { first: Position(0), count: 0, bytes: Vec::new(), head: GENESIS },
            observed: Position(0),
            now: Timestamp(0),
            resumed: false,
            emitted: 0,
            emissions_saved: 0,
        }
    }

    // What the program calls.

    /// The program asks for an operation. Gives the step, which may be done already.
    pub fn schedule(&mut self, op: &Op, clock: Timestamp) -> Result<Step, Stop> {
        self.check()?;
        let bytes = encode_op(op);
        let Some(front) = self.script.front() else {
            return self.schedule_live(op, bytes, clock);
        };
        let step = match &front.event {
            ScriptedEvent::Scheduled { step, op: recorded }
                if **recorded == bytes || mismatch::same_op(recorded, op, front.position) =>
            {
                *step
            }
            event if event.stops() => return Err(self.fail(Stop::Ended)),
            _ => return Err(self.refuse(mismatch::Asked::Op(op))),
        };
        self.match_front();
        self.steps.claim(step);
        Ok(step)
    }

    fn schedule_live(&mut self, op: &Op, bytes: Vec<u8>, clock: Timestamp) -> Result<Step, Stop> {
        if let Err(error) = op.check_size() {
            return Err(self.fail(error.into()));
        }
        if self.steps.held() >= limits::OPEN_STEPS {
            return Err(self.fail(Stop::TooManySteps));
        }
        let step = self.steps.next_step();
        let known = self.reuse.answer(&bytes);
        let position = self.append(clock, Event::Scheduled { step, op: bytes.into() });
        self.observe(position, self.last_at);
        self.steps.claim(step);
        let sense = op.check_sense(self.last_at).and_then(|()| self.check_family(op));
        if let Err(reason) = sense {
            self.complete(step, Err(Failure::new(FailureKind::Rejected, reason)), clock);
        } else if let Some(known) = known {
            self.complete(step, Ok(known), clock);
        } else {
            // A deadline that has passed is met at once.
            self.fire_timers(self.last_at);
        }
        Ok(step)
    }

    /// Says what is wrong if a run may not have the child that it asks for.
    fn check_family(&self, op: &Op) -> Result<(), String> {
        if !matches!(op, Op::Child { .. }) {
            return Ok(());
        }
        if self.steps.children() > limits::CHILDREN {
            return Err(format!("the run has {} children, as many as are allowed", limits::CHILDREN));
        }
        if self.child().map_or(0, |child| child.depth) >= limits::CHILD_DEPTH {
            let depth = limits::CHILD_DEPTH;
            return Err(format!("the run is of generation {depth}, and may have no children"));
        }
        Ok(())
    }

    /// What the step ended with, if it has. `None`: the program has to wait.
    pub fn poll_step(&mut self, step: Step) -> Result<Option<Outcome>, Stop> {
        self.check()?;
        match self.steps.done(step) {
            Err(()) => Err(self.fail(Stop::NoSuchStep(step))),
            Ok(Some(done)) => {
                let (position, at) = (done.position, done.at);
                let outcome = done.outcome.clone();
                self.observe_done(position, at)?;
                self.steps.read(step);
                Ok(Some(outcome))
            }
            Ok(None) => self.must_wait(),
        }
    }

    /// The index of the step that was done first, if one is.
    pub fn poll_any(&mut self, steps: &[Step]) -> Result<Option<usize>, Stop> {
        self.check()?;
        if steps.is_empty() {
            return Err(self.fail(Stop::Deadlock));
        }
        let mut first: Option<(Position, Timestamp, usize)> = None;
        for (index, &step) in steps.iter().enumerate() {
            match self.steps.done(step) {
                Err(()) => return Err(self.fail(Stop::NoSuchStep(step))),
                Ok(Some(done)) if first.is_none_or(|(position, ..)| done.position < position) => {
                    first = Some((done.position, done.at, index));
                }
                Ok(_) => {}
            }
        }
        match first {
            Some((position, at, index)) => {
                self.observe_done(position, at)?;
                Ok(Some(index))
            }
            None => self.must_wait(),
        }
    }

    /// The program lets go of a step. One that is not done is cancelled.
    pub fn drop_step(&mut self, step: Step, clock: Timestamp) -> Result<(), Stop> {
        self.check()?;
        let Some(cancelled) = self.steps.cancelled(step) else {
            return Err(self.fail(Stop::NoSuchStep(step)));
        };
        let done = match self.steps.done(step) {
            Ok(Some(done)) if !self.is_ahead(done.position) => Some((done.position, done.at)),
            _ => None,
        };
        match self.script.front().map(|front| &front.event) {
            Some(
                ScriptedEvent::Cancelled { step: recorded } | ScriptedEvent::Returned { step: recorded },
            ) if *recorded == step => {
                self.match_front();
            }
            // It would be lost: nobody knows of it yet.
            None if self.steps.has_unread_signal(step) => {
                let position = self.append(clock, Event::Returned { step });
                self.observe(position, self.last_at);
            }
            // That there is nothing to cancel depends on this entry.
            _ if let Some((position, at)) = done => self.observe(position, at),
            None if !cancelled => {
                let position = self.append(clock, Event::Cancelled { step });
                self.observe(position, self.last_at);
            }
            Some(event) if event.stops() => return Err(self.fail(Stop::Ended)),
            _ => return Err(self.refuse(mismatch::Asked::Drop(step))),
        }
        for (set, tag) in self.steps.release(step) {
            self.sets.remove_step(set, tag, step);
        }
        Ok(())
    }

    /// A new, empty set of steps to wait for.
    pub fn set_new(&mut self) -> SetId {
        self.sets.create()
    }

    /// Adds a step to a set.
    pub fn set_add(&mut self, set: SetId, step: Step, tag: u64) -> Result<(), Stop> {
        self.check()?;
        match self.steps.watch(step, set, tag) {
            Err(()) => Err(self.fail(Stop::NoSuchStep(step))),
            Ok(done) => {
                self.sets.add(set, tag, step, done);
                Ok(())
            }
        }
    }

    /// Removes a tag from a set.
    pub fn set_remove(&mut self, set: SetId, tag: u64) {
        self.sets.remove(set, tag);
    }

    /// The program lets go of a set.
    pub fn set_drop(&mut self, set: SetId) {
        self.sets.delete(set);
    }

    /// Takes the member that was done first out of a set, if one is done.
    pub fn poll_set(&mut self, set: SetId) -> Result<Option<u64>, Stop> {
        self.check()?;
        if let Some((tag, position, step)) = self.sets.pop(set) {
            let at = match self.steps.done(step) {
                Ok(Some(done)) => done.at,
                _ => self.now,
            };
            self.observe_done(position, at)?;
            return Ok(Some(tag));
        }
        if self.sets.is_empty(set) {
            return Err(self.fail(Stop::Deadlock));
        }
        self.must_wait()
    }

    /// Whether the run takes the new way at the place `id`.
    pub fn patched(&mut self, id: &str, clock: Timestamp) -> Result<bool, Stop> {
        self.check()?;
        if let Some(&known) = self.patches.get(id) {
            return Ok(known);
        }
        if let Err(error) = limits::check("the id of a patch", id.len(), limits::NAME_BYTES) {
            return Err(self.fail(error.into()));
        }
        let new_way = match self.script.front().map(|front| &front.event) {
            Some(ScriptedEvent::Patched { id: recorded }) if recorded == id => {
                self.match_front();
                true
            }
            Some(_) => false,
            None => {
                let position = self.append(clock, Event::Patched { id: id.to_owned() });
                self.observe(position, self.last_at);
                true
            }
        };
        self.patches.insert(id.to_owned(), new_way);
        Ok(new_way)
    }

    /// Whether the program has seen that it is asked to stop.
    pub fn cancelled(&self) -> bool {
        self.cancel_requested.is_some_and(|position| position <= self.observed)
    }

    /// Virtual time: when the latest thing happened that the program has observed.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The next bytes of the run's random stream.
    pub fn random(&mut self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }

    /// Numbers what the program gives out without an entry of its own: lines
    /// of the log, published state, messages. Gives the number, counted from
    /// 0, or none if it was stored in an earlier execution.
    pub fn emit(&mut self) -> Option<u64> {
        while let Some(&(from, next)) = self.restarts.front()
            && self.observed >= from
        {
            self.emitted = next;
            self.restarts.pop_front();
        }
        let number = self.emitted;
        self.emitted += 1;
        (number >= self.emissions_saved).then_some(number)
    }

    /// The program returned.
    pub fn finish(&mut self, outcome: Outcome, clock: Timestamp) -> Result<(), Stop> {
        self.check()?;
        match self.script.front().map(|front| &front.event) {
            None => {
                self.append(clock, Event::Finished { outcome: outcome.into(), stopped: false });
            }
            // The program was computing when it was ended.
            Some(event) if event.stops() => return Err(self.fail(Stop::Ended)),
            Some(ScriptedEvent::Finished { outcome: recorded, .. })
                if mismatch::same_outcome(recorded, &outcome) =>
            {
                self.match_front();
            }
            Some(_) => return Err(self.refuse(mismatch::Asked::Finish(&outcome))),
        }
        Ok(())
    }

    // What the world does.

    /// A step was carried out. False if nobody waits for it any more.
    pub fn complete(&mut self, step: Step, outcome: Outcome, clock: Timestamp) -> bool {
        if self.has_ended() || !self.steps.is_open(step) {
            return false;
        }
        self.append(clock, Event::Completed { step, outcome: outcome.into() });
        true
    }

    /// Somebody answered a question. False if nobody waits for it any more.
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
        // A call is answered with a reply, whoever answers it.
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
    /// False if nobody waits for the call any more.
    pub fn fail_attempt(&mut self, failed: FailedCall, clock: Timestamp) -> bool {
        let step = failed.step;
        if self.has_ended() || !self.steps.is_open(step) || failed.attempt != self.steps.attempts(step) {
            return false;
        }
        self.append(clock, Event::AttemptFailed(Box::new(failed)));
        true
    }

    /// The attempt at an agent call that was begun was not made: it has to
    /// wait until then. False if nobody waits for the call any more.
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

    /// A child ended. False if nobody waits for it any more.
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

    /// The run ends and goes on as another one, as its program asked for.
    /// False if it has ended.
    pub fn continue_as(&mut self, run: RunId, clock: Timestamp) -> bool {
        if self.has_ended() {
            return false;
        }
        self.append(clock, Event::ContinuedAsNew { run });
        true
    }

    /// What stands in the journal now is that of another run, and goes on as this one.
    pub fn fork(&mut self, run: RunId, seed: [u8; 32], clock: Timestamp) -> bool {
        if self.has_ended() {
            return false;
        }
        let from = self.run().clone();
        self.append(clock, Event::Forked { run, from, seed });
        true
    }

    /// Steps that ask for what another run was answered take its answers from now on.
    pub fn take_answers_from(&mut self, journal: &Journal) {
        self.reuse.read(journal);
    }

    /// Somebody changes what the run may spend. False if that changes nothing
    /// or the run has ended.
    pub fn change_budget(&mut self, budget: Budget, clock: Timestamp) -> bool {
        if self.has_ended() || budget == self.budget() {
            return false;
        }
        self.append(clock, Event::BudgetChanged { budget });
        true
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

    /// Somebody wants the run to stop. False if that is known or the run has ended.
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
    /// of the deadlines. Deadlines count from the times of entries, which never
    /// go back: a clock that does holds them up until it has caught up.
    pub fn fire_timers(&mut self, clock: Timestamp) {
        if self.has_ended() {
            return;
        }
        while let Some((step, outcome)) = self.steps.due(clock) {
            self.append(clock, Event::Completed { step, outcome: outcome.into() });
        }
        while let Some(step) = self.steps.delay_over(clock) {
            let attempt = self.steps.attempts(step) + 1;
            self.append(clock, Event::Attempted { step, attempt, after: None });
            self.steps.start(step);
        }
    }

    // What the driver asks.

    /// What has to be done now. Empty while the program is replaying, for what
    /// it will ask for is not known yet.
    pub fn take_work(&mut self, clock: Timestamp) -> Vec<Work> {
        if !self.is_live() || self.stop.is_some() || self.has_ended() {
            // Nothing begins any more, or not yet; what had begun may have to be stopped.
            return self.steps.take_aborts().map(|step| Work::Abort { step }).collect();
        }
        let mut work = Vec::new();
        if !self.resumed {
            self.resumed = true;
            for (step, attempt, position, op) in self.steps.take_interrupted() {
                match decode_op(&op, position) {
                    // Whether it was carried out is not known, and it must not be so twice.
                    Ok(Op::Agent(request)) if policy::is_once(&request) => {
                        self.steps.leave_unstarted(step);
                        work.push(Work::Fail { step, failure: policy::unknown_outcome(attempt - 1) });
                    }
                    _ => {
                        self.append(clock, Event::Attempted { step, attempt, after: None });
                    }
                }
            }
        }
        work.extend(self.steps.take_aborts().map(|step| Work::Abort { step }));
        for (step, attempt, position, bytes) in self.steps.take_starts() {
            // The bytes are our own encoding, checked by the chain; a journal that was
            // forged on purpose shows up as a step that fails.
            match decode_op(&bytes, position) {
                Ok(op) => work.push(Work::Execute { step, attempt, op }),
                Err(error) => {
                    let failure = Failure::new(FailureKind::Rejected, error.to_string());
                    work.push(Work::Fail { step, failure });
                }
            }
        }
        work
    }

    /// Takes what has been appended since the last time, if anything was.
    pub fn take_unsaved(&mut self) -> Option<Unsaved> {
        if self.unsaved.count == 0 {
            return None;
        }
        let empty = Unsaved { first: self.next, count: 0, bytes: Vec::new(), head: self.head };
        Some(std::mem::replace(&mut self.unsaved, empty))
    }

    /// The children that the program asked for since the last time and still
    /// wants. They have to exist when their steps are committed.
    pub fn take_children(&mut self) -> Vec<NewChild> {
        self.steps.take_children()
    }

    /// The steps of children that nobody waits for any more, since the last time.
    pub fn take_dropped_children(&mut self) -> Vec<Step> {
        self.steps.take_dropped_children()
    }

    /// The steps that wait for children, in their order.
    pub fn open_children(&self) -> Vec<Step> {
        self.steps.open_children()
    }

    /// Signals that came in and were not waited for, first those that came first of each name.
    pub fn early_signals(&self) -> Vec<(String, Json)> {
        self.steps.early_signals()
    }

    /// Whether something was appended that was not taken yet.
    pub fn has_unsaved(&self) -> bool {
        self.unsaved.count > 0
    }

    /// Whether the program has come to the end of what it did the last time.
    pub fn is_live(&self) -> bool {
        self.script.is_empty()
    }

    /// How the run ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.status {
            Status::Ended(outcome) => Some(outcome),
            Status::New | Status::Running | Status::Continued(_) => None,
        }
    }

    /// The run that this one goes on as, if it does.
    pub fn continued_as(&self) -> Option<&RunId> {
        match &self.status {
            Status::Continued(run) => Some(run),
            _ => None,
        }
    }

    /// Whether nothing can happen to the run any more.
    pub fn has_ended(&self) -> bool {
        matches!(self.status, Status::Ended(_) | Status::Continued(_))
    }

    /// The id of the run.
    pub fn run(&self) -> &RunId {
        self.forks.last().map_or(&self.started.run, |fork| &fork.run)
    }

    /// The same as the program may know it: after the latest entry that it has observed.
    pub fn observed_run(&self) -> &RunId {
        let fork = self.forks.iter().rev().find(|fork| fork.position <= self.observed);
        fork.map_or(&self.started.run, |fork| &fork.run)
    }

    /// What it is to its parent, if it has one. A fork has none.
    pub fn child(&self) -> Option<&ChildOf> {
        self.started.child.as_ref().filter(|_| self.forks.is_empty())
    }

    /// Its parent, if it has one.
    pub fn parent(&self) -> Option<&RunId> {
        self.started.parent.as_ref().filter(|_| self.forks.is_empty())
    }

    /// The first run of the chain that it belongs to, and its place there, counted from 1.
    pub fn round(&self) -> (&RunId, u64) {
        match &self.started.origin {
            Some(Origin::Continued { first, round, .. }) if self.forks.is_empty() => (first, *round),
            _ => (self.run(), 1),
        }
    }

    /// An id for the run that this one goes on as, which tells what it is; and
    /// another one, in case that is somebody else's.
    pub fn ids_of_next_round(&self) -> [RunId; 2] {
        let (first, round) = self.round();
        [first.round(round + 1), RunId::of_seed(&self.seed_for(Step(0)))]
    }

    /// The run at the top of its family: nobody started it, and if it is one of
    /// a chain it is the first.
    pub fn root(&self) -> &RunId {
        self.child().map_or(self.round().0, |child| &child.root)
    }

    /// The seed of a run that this one brings forth, by `step`: nothing that is
    /// random in the two is the same.
    pub fn seed_for(&self, step: Step) -> [u8; 32] {
        let what = [b"run".as_slice(), &step.0.to_be_bytes()].concat();
        *blake3::keyed_hash(self.seed(), &what).as_bytes()
    }

    fn seed(&self) -> &[u8; 32] {
        self.forks.last().map_or(&self.started.seed, |fork| &fork.seed)
    }

    /// The module that the run was moved to since the last time, if it was.
    pub fn take_moved(&mut self) -> Option<Digest> {
        std::mem::take(&mut self.moved).then_some(self.module)
    }

    /// Whether a question is open.
    pub fn asks_people(&self) -> bool {
        self.steps.asks_people()
    }

    /// The module that the run is executed with.
    pub fn module(&self) -> Digest {
        self.module
    }

    /// Questions that were asked, and those that are not open any more, since
    /// the last time, in order.
    pub fn take_questions(&mut self) -> Vec<QuestionChange> {
        self.steps.take_questions()
    }

    /// The questions that are open, as if they had just been asked.
    pub fn open_questions(&self) -> Vec<QuestionChange> {
        self.steps.open_questions()
    }

    /// The steps that are not done, in their order.
    pub fn open_steps(&self) -> impl Iterator<Item = OpenStep<'_>> {
        self.steps.open()
    }

    /// The names that the program waits for signals of.
    pub fn wanted_signals(&self) -> Vec<String> {
        self.steps.wanted_signals()
    }

    /// The earliest deadline of a timer or a time limit.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.steps.next_deadline()
    }

    /// Whether all that is open waits for time or signals, so that the program
    /// need not be kept in memory.
    pub fn only_waits(&self) -> bool {
        self.is_live() && self.steps.only_waits()
    }

    /// Whether somebody asked the run to stop, be it seen by the program or not.
    pub fn cancel_requested(&self) -> bool {
        self.cancel_requested.is_some()
    }

    /// What the run may spend now.
    pub fn budget(&self) -> Budget {
        self.spending.budget(Position(u64::MAX))
    }

    /// What all attempts of the run have consumed, those that are void
    /// included; and the time since it began.
    pub fn spent(&self, clock: Timestamp) -> Spent {
        self.spent_until(clock, Position(u64::MAX))
    }

    /// What its own calls have consumed, without children and earlier rounds.
    pub fn spent_itself(&self) -> Spent {
        self.spending.own()
    }

    /// The same two as the program may know them: after the latest entry that it has observed.
    pub fn observed_spending(&self) -> (Budget, Spent) {
        (self.spending.budget(self.observed), self.spent_until(self.now, self.observed))
    }

    fn spent_until(&self, now: Timestamp, position: Position) -> Spent {
        let before = match &self.started.origin {
            Some(Origin::Continued { spent, .. }) => spent.time_ms,
            _ => 0,
        };
        let time_ms = now.since(self.started_at()).saturating_add(before);
        Spent { time_ms, ..self.spending.spent(position) }
    }

    /// Whether the run ever had a child.
    pub fn has_children(&self) -> bool {
        self.steps.children() > 0
    }

    /// Whether others may spend what this run may.
    pub fn shares_budget(&self) -> bool {
        self.child().is_some() || self.has_children() || self.round().1 > 1
    }

    /// What decides about the next attempt at an agent call.
    pub fn call_state(&self, step: Step) -> Option<&CallState> {
        self.steps.call(step)
    }

    /// Providers that did not accept who was asking, so that the run asks them no more.
    pub fn providers_out(&self) -> &BTreeSet<String> {
        &self.providers_out
    }

    /// What shaped the run when it began.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// When the run began; for a fork, when it became one.
    pub fn started_at(&self) -> Timestamp {
        self.forks.last().map_or(self.started_at, |fork| fork.at)
    }

    /// The time of the last entry.
    pub fn last_at(&self) -> Timestamp {
        self.last_at
    }

    /// The number of entries.
    pub fn entries(&self) -> u64 {
        self.next.0
    }

    /// Whether the program was ever begun again in its middle.
    pub fn was_retried(&self) -> bool {
        !self.restarts.is_empty()
    }

    /// The head of the chain after the last entry.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The number of emissions so far, those of earlier executions included.
    pub fn emissions(&self) -> u64 {
        self.emitted.max(self.emissions_saved)
    }

    /// The key by which a provider recognises a step that it was asked for
    /// before: the same for each attempt, different for every step of every run.
    pub fn idempotency_key(&self, step: Step) -> String {
        let hash = blake3::keyed_hash(self.seed(), &step.0.to_be_bytes());
        format!("wf-{}", &hash.to_hex()[..32])
    }

    /// A number that varies the delay after an attempt.
    pub fn jitter(&self, step: Step, attempt: u32) -> u64 {
        let what = [b"delay".as_slice(), &step.0.to_be_bytes(), &attempt.to_be_bytes()].concat();
        let hash = blake3::keyed_hash(self.seed(), &what);
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default())
    }

    // Within.

    fn check(&self) -> Result<(), Stop> {
        match (&self.stop, &self.status) {
            (Some(stop), _) => Err(stop.clone()),
            (None, Status::Ended(_) | Status::Continued(_)) if self.is_live() => Err(Stop::Ended),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, stop: Stop) -> Stop {
        self.stop.get_or_insert(stop).clone()
    }

    fn refuse(&mut self, asked: mismatch::Asked<'_>) -> Stop {
        let Some(front) = self.script.front() else {
            return self.fail(Stop::Ended);
        };
        let mismatch = Mismatch::between(front, asked);
        self.fail(Stop::Mismatch(Box::new(mismatch)))
    }

    /// The program would have to wait. While it is replaying that is a
    /// mismatch: the last time it went on from here.
    fn must_wait<T>(&mut self) -> Result<Option<T>, Stop> {
        match self.script.front().map(|front| &front.event) {
            None => Ok(None),
            Some(event) if event.stops() => Err(self.fail(Stop::Ended)),
            Some(_) => Err(self.refuse(mismatch::Asked::Wait)),
        }
    }

    fn observe(&mut self, position: Position, at: Timestamp) {
        self.observed = self.observed.max(position);
        self.now = self.now.max(at);
    }

    /// Whether the entry comes after the next one that the program originated
    /// the last time, so that the program cannot have seen it here.
    fn is_ahead(&self, position: Position) -> bool {
        self.script.front().is_some_and(|front| front.position < position)
    }

    /// The program is shown that a step is done. If that stands after the next
    /// entry that it originated, it waits now where it went on the last time.
    fn observe_done(&mut self, position: Position, at: Timestamp) -> Result<(), Stop> {
        if self.is_ahead(position) {
            return Err(self.refuse(mismatch::Asked::Wait));
        }
        self.observe(position, at);
        Ok(())
    }

    fn match_front(&mut self) {
        if let Some(front) = self.script.pop_front() {
            self.observe(front.position, front.at);
        }
    }
}

/// Whether the bytes are those of an agent call.
fn is_agent(op: &[u8]) -> bool {
    let mut decoder = minicbor::Decoder::new(op);
    decoder.array().and_then(|_| decoder.u32()).is_ok_and(|kind| kind == 0)
}
