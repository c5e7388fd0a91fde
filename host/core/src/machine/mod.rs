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
mod driver;
mod fork;
mod given;
mod mismatch;
mod observed;
mod program;
mod random;
mod retry;
mod reuse;
mod spending;
mod steps;
mod table;
mod waitset;
mod world;

#[cfg(test)]
mod conversation;
#[cfg(test)]
mod property;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use self::apply::Refusal;
pub use self::fork::{CannotFork, ForkPlan};
use self::given::Giving;
pub use self::given::{Gift, Given};
pub use self::mismatch::Mismatch;
pub use self::observed::Observed;
use self::random::Random;
pub(crate) use self::retry::Void;
pub use self::retry::{CannotRetry, Retry as RetryPlan, plan_retry};
pub use self::reuse::Reuse;
use self::spending::Spending;
pub use self::steps::{CallState, NewChild, OpenStep, QuestionChange};
use self::steps::{Interrupted, Steps};
pub use self::waitset::SetId;
use self::waitset::WaitSets;
pub use self::world::DroppedAttempt;
use crate::entry::{
    ChildOf, EndedChild, Entry, Event, FailedCall, Origin, Recorded, Started, decode_op, encode_op_to,
};
use crate::journal::{GENESIS, Journal, JournalError, extend_chain};
use crate::limits::{self, TooLarge};
use crate::policy::budget::{Budget, Spent};
use crate::policy::retry as policy;
use crate::{
    AgentRequest, Digest, Failure, FailureKind, Json, Op, Outcome, Position, Question, Reply, Row, RunId,
    Step, Timestamp, Timing,
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
    #[error("the program's wait sets have {limit} members together, as many as are allowed", limit = limits::SET_MEMBERS)]
    TooManyMembers,
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
    /// Stop what carries out this step: nothing waits for it any more.
    Abort { step: Step },
}

/// How a run ends.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// `stopped`: by the host, where the program stood.
    Finished { outcome: &'a Outcome, stopped: bool },
    /// It continues as that run.
    Continued(&'a RunId),
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
    Scheduled { step: Step },
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
    /// It continues as another run.
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
    /// What the system clock showed at the last entry.
    last_clock: Timestamp,
    /// The time that passed while the clock caught up with entries that it had been ahead of:
    /// all of it, after each entry that adds some.
    caught_up: Vec<(Position, u64)>,
    head: Digest,
    /// The head before what was not taken yet.
    taken_head: Digest,
    unsaved: Unsaved,

    observed: Position,
    now: Timestamp,
    /// Whether the open calls of the last execution were resumed.
    resumed: bool,
    /// What it gives out without entries.
    giving: Giving,
    /// Whether the program was ever begun again in its middle.
    retried: bool,
    /// The module that the run is executed with.
    module: Digest,
    /// The module that it is to be executed with from the next entry on.
    moving: Option<Digest>,
    /// It was moved, and the driver does not know yet.
    moved: bool,
    /// Where it was moved the last time.
    moved_at: Option<Position>,
    /// Where the run became one of its own, and what it is since then.
    forks: Vec<Fork>,
    /// Answers of the run that this one repeats, if it does that.
    reuse: Reuse,
    /// Where operations are encoded that may have been recorded.
    scratch: Vec<u8>,
}

impl Machine {
    /// The machine of a run that begins now.
    pub fn start(started: Started, clock: Timestamp) -> Self {
        let mut machine = Self::empty(started.clone());
        machine.append(clock, Event::Started(Box::new(started)));
        machine
    }

    /// The machine of a run that has a journal. `given`: what of its output is stored.
    pub fn open(journal: Journal, given: Given) -> Result<Self, JournalError> {
        let void = Void::of(&journal.entries);
        let mut entries = journal.entries.into_iter();
        let (first_at, started) = match entries.next() {
            Some(Entry { at, event: Event::Started(started), .. }) => (at, started),
            _ => {
                let position = Position(0);
                let reason = "a journal begins with `started`".to_owned();
                return Err(JournalError::Illegal { position, reason });
            }
        };
        let mut machine = Self::empty(started.as_ref().clone());
        machine.giving = Giving::after(given);
        let first = Entry { at: first_at, event: Event::Started(started), behind_ms: None };
        let mut void_calls = HashSet::new();
        for entry in std::iter::once(first).chain(entries) {
            let position = machine.next;
            machine.next.0 += 1;
            if void.has(position) {
                machine.pass_time(position, machine.last_at.max(entry.at), entry.clock());
                // What was paid for stays paid.
                let is_call = match &entry.event {
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
                machine.spending.note(position, &entry.event, is_call);
                match entry.event {
                    // Its number, and so its idempotency key, is never given to another one.
                    Event::Scheduled { step, .. } => {
                        let illegal = |reason| JournalError::Illegal { position, reason };
                        machine.steps.skip(step).map_err(illegal)?;
                    }
                    Event::Completed { step, .. } => machine.steps.end_is_void(step),
                    _ => {}
                }
                continue;
            }
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
        machine.steps.take_aborts();
        machine.head = journal.head;
        machine.taken_head = journal.head;
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
            moved_at: None,
            retried: false,
            forks: Vec::new(),
            reuse: Reuse::new(&started),
            scratch: Vec::new(),
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
            last_clock: Timestamp(0),
            caught_up: Vec::new(),
            head: GENESIS,
            taken_head: GENESIS,
            unsaved: Unsaved { first: Position(0), count: 0, bytes: Vec::new(), head: GENESIS },
            observed: Position(0),
            now: Timestamp(0),
            resumed: false,
            giving: Giving::default(),
        }
    }

    fn check(&self) -> Result<(), Stop> {
        match (&self.stop, &self.status) {
            (Some(stop), _) => Err(stop.clone()),
            (None, Status::Ended(_) | Status::Continued(_)) if self.is_live() => Err(Stop::Ended),
            _ => Ok(()),
        }
    }

    /// The program cannot go on. If it went on here the last time, that is a departure from its
    /// journal and nothing else.
    fn fail(&mut self, stop: Stop) -> Stop {
        let stop = match (&stop, self.departure(&stop.to_string())) {
            (Stop::Mismatch(_) | Stop::Ended, _) | (_, None) => stop,
            (_, Some(mismatch)) => Stop::Mismatch(mismatch),
        };
        self.stop.get_or_insert(stop).clone()
    }

    /// The program ended here, by itself or not: it trapped, reached a limit, waits for nothing.
    /// How that diverges from the journal, if it does: there are entries left that the program
    /// originated the last time, other than that the host ended it. `how` it ended is for people.
    pub fn departure(&self, how: &str) -> Option<Box<Mismatch>> {
        let front = self.script.front().filter(|front| !front.event.stops())?;
        Some(Box::new(Mismatch::between(front, self.op_of(front), mismatch::Asked::End(how))))
    }

    fn op_of(&self, scripted: &Scripted) -> Option<&[u8]> {
        match scripted.event {
            ScriptedEvent::Scheduled { step } => self.steps.op(step),
            _ => None,
        }
    }

    fn refuse(&mut self, asked: mismatch::Asked<'_>) -> Stop {
        let Some(front) = self.script.front() else {
            return self.fail(Stop::Ended);
        };
        let mismatch = Mismatch::between(front, self.op_of(front), asked);
        self.fail(Stop::Mismatch(Box::new(mismatch)))
    }

    /// The program would have to wait. While it is replaying that is a
    /// mismatch: the last time it went on from here.
    fn must_wait<T>(&mut self) -> Result<Option<T>, Stop> {
        match self.script.front().map(|front| &front.event) {
            None => {
                self.comes_to_wait();
                Ok(None)
            }
            Some(event) if event.stops() => Err(self.fail(Stop::Ended)),
            Some(_) => Err(self.refuse(mismatch::Asked::Wait)),
        }
    }

    /// An entry stands at `at`, when the system clock showed `clock`. Journals do not
    /// go back in time; if the clock does, because it had been ahead, what lasts goes
    /// on with it.
    fn pass_time(&mut self, position: Position, at: Timestamp, clock: Timestamp) {
        let passed = clock.since(self.last_clock).saturating_sub(at.since(self.last_at));
        if passed > 0 {
            let before = self.caught_up.last().map_or(0, |(_, millis)| *millis);
            self.caught_up.push((position, before.saturating_add(passed)));
        }
        if clock < self.last_clock {
            self.steps.put_right(clock);
        }
        (self.last_at, self.last_clock) = (at, clock);
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
