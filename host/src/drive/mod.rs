//! The driver of one run: lets the program run, commits what happened, carries
//! out what it asked for, and tells the machine what the world answered. What
//! may come next in which phase is decided by [`Course`].

mod agent;
mod commit;
mod control;
mod end;
mod execute;
mod inbox;
mod leave;
mod replay;
mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::poll;
use tokio::time::Instant;
use wfhost_agents::{Gate, Providers, Records, Reservation};
use wfhost_core::course::{Course, Do, Phase, Rest, Sight};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    AgentRequest, Digest, Epoch, Failure, FailureKind, Machine, Mismatch, Outcome, RunId, Step, Timestamp,
};
use wfhost_runtime::{CannotExecute, Engine, GrantError, HostFault, Module, Shared, StackError};
use wfhost_store::{
    Append, Inbox, MessageId, Next, SessionId, SharedStore, StoreError, TurnWord, Waiting, Wake,
};
use wfhost_world::World;

use self::agent::{Attempted, Dropped};
pub(crate) use self::control::{Control, Leave};
pub(crate) use self::inbox::asks_to_stop;
pub(crate) use self::replay::replay;
pub use self::replay::{Asked, Replayed};
use self::watching::Watching;
use crate::calls::{self, Calls};
use crate::family::Modules;
use crate::observer::Observer;
use crate::records::StoredRecords;
use crate::virtual_time::VirtualTime;

/// An answer that came while the program computes on is committed after this
/// time at the latest.
const COMMIT_WITHIN: Duration = Duration::from_millis(3);
/// How long a program may clean up after it was asked to stop.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// Deadlines are looked at again after this time, in case the system clock was set.
const CLOCK_CHECK: Duration = Duration::from_secs(5);
/// A run that is to be paused when its calls have ended looks this often whether that still holds: a store may tell
/// nobody that a request is withdrawn.
const PAUSE_CHECK: Duration = Duration::from_secs(1);
/// Entries that are not committed take so many bytes at most, about, also while the program
/// computes: what one commit holds is bounded.
pub(crate) const UNSAVED_BYTES: usize = 1 << 20;
/// Answers that are taken into one commit take so many bytes at most, and one more.
const ANSWERS_BYTES: usize = 8 << 20;

/// When a waiting program is dropped from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// As soon as it only waits.
    ParkAtOnce,
    /// When it has only waited for so long.
    ParkAfter(Duration),
    /// The same if it has no deadline. One that has stays, as its time is skipped.
    WithoutDeadline(Duration),
}

/// Why a run could not be driven on. It is kept as it was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{run} calls the provider `{provider}`, which this host does not have")]
    NoProvider { run: RunId, provider: String },
    #[error(
        "{run} calls the provider `scripted`, and the script that it was started with cannot be used on this host: {reason}"
    )]
    Script { run: RunId, reason: String },
    #[error("{run} calls an agent, but there is no default provider")]
    NoDefaultProvider { run: RunId },
    #[error("{run} starts a child of the module `{name}`, which may be in {}, and this machine has no such directory", directory.display())]
    Modules { run: RunId, name: String, directory: PathBuf },
    #[error("{run} cannot continue: {source}")]
    Grant { run: RunId, source: GrantError },
    #[error("{run} cannot continue: {source}")]
    Stack { run: RunId, source: StackError },
    #[error("the program cannot be started: {0}")]
    Instance(String),
    #[error("{run} cannot continue on this host: {source}")]
    Host { run: RunId, source: HostFault },
}

impl DriveError {
    fn cannot_execute(run: &RunId, error: CannotExecute) -> Self {
        let run = run.clone();
        match error {
            CannotExecute::Grant(source) => Self::Grant { run, source },
            CannotExecute::Stack(source) => Self::Stack { run, source },
            CannotExecute::Instance(reason) => Self::Instance(reason),
        }
    }
}

/// How driving ended.
#[derive(Debug)]
pub(crate) enum Driven {
    Ended(Outcome),
    /// It only waits; the lease is given up.
    Parked,
    /// Somebody asked for it to be left alone; the lease is given up.
    Paused,
    Refused(Box<Mismatch>),
    /// The host left it; the lease is given up.
    Left,
    /// It needs what this host does not have; the lease is given up.
    HandedOver(DriveError),
    /// Another process has taken it over.
    Lost,
    /// Another process had taken it over, and this host has it again: another drive of it goes on with the calls.
    Reclaimed,
    /// It continues as that run.
    Continued(RunId),
}

impl Driven {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ended(_) => "ended",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Refused(_) => "refused",
            Self::Left => "left",
            Self::HandedOver(_) => "handed-over",
            Self::Lost | Self::Reclaimed => "lost",
            Self::Continued(_) => "continued",
        }
    }
}

/// Has runs of this host look at what came in.
pub(crate) type WakeRuns = dyn Fn(&[Wake]) + Send + Sync;

/// Whether a child that ended so goes on, as its parent was retried.
pub(crate) type ChildGoesOn =
    dyn Fn(RunId, Outcome) -> BoxFuture<'static, Result<bool, DriveError>> + Send + Sync;

/// All that driving a run needs.
pub(crate) struct Drive<'a> {
    pub engine: &'a Engine,
    pub store: &'a SharedStore,
    pub world: &'a Arc<dyn World>,
    pub providers: &'a Providers,
    /// Where agent calls wait for their turn.
    pub gate: &'a Arc<Gate>,
    pub run: &'a RunId,
    pub session: SessionId,
    pub epoch: Epoch,
    /// How often it was claimed since it came forward the last time.
    pub starts: u32,
    pub module: &'a Module,
    pub pace: Pace,
    pub control: &'a Control,
    /// Called after each commit.
    pub committed: Arc<dyn Fn() + Send + Sync>,
    /// Tells other runs of this host that something was sent to them.
    pub wake: Arc<WakeRuns>,
    pub child_goes_on: Arc<ChildGoesOn>,
    /// Finds the modules of children.
    pub modules: &'a Modules,
    /// The project that the run and what it begins belong to.
    pub project: Option<String>,
    /// Whether the run was imported; what it begins counts as imported, too.
    pub imported: bool,
    /// The run's calls in flight in this process.
    pub calls: Arc<Calls<Done>>,
    /// The place of the last commit, if it is known.
    pub place: Option<u64>,
    /// What was in the inbox when the run was opened, if that was looked up.
    pub inbox: Option<Inbox>,
    /// Is told what is committed.
    pub observer: Option<&'a Arc<dyn Observer>>,
    /// If time is virtual.
    pub time: Option<&'a VirtualTime>,
}

/// How the work on a step ended.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Step(Outcome),
    /// Shared, as it is kept until it is committed: an answer may be long.
    Attempt(Arc<Attempted>),
    /// The call was taken back before it was made, for that reason.
    NotMade(&'static str),
    /// A call was stopped: only what it consumed is of interest.
    Dropped(Box<Dropped>),
    /// It is not known: the store failed.
    Unknown(StoreError),
}

impl Done {
    /// Nothing is set aside for it any more.
    fn settle(&mut self) {
        match self {
            Self::Attempt(attempted) => Arc::make_mut(attempted).reservation = None,
            Self::Dropped(dropped) => dropped.settle(),
            Self::Step(_) | Self::NotMade(_) | Self::Unknown(_) => {}
        }
    }
}

pub(super) struct Driver<'a> {
    pub(super) drive: Drive<'a>,
    pub(super) shared: Shared,
    pub(super) calls: Arc<Calls<Done>>,
    records: Arc<dyn Records>,
    course: Course,
    commit_by: Option<Instant>,
    cancel_by: Option<Instant>,
    /// The program has come through by then, or is not waited for any more.
    leave_by: Option<Instant>,
    only_waits_since: Option<Instant>,
    /// Why calls are withheld.
    pub(super) missing: Option<DriveError>,
    /// What is stored of what the run spent and may spend.
    ledger: Option<(Spent, Budget)>,
    /// The place of the last commit.
    place: Option<u64>,
    /// The head of the chain that is stored.
    head: Digest,
    inbox: Option<Inbox>,
    /// Answers that stand in the journal already and are yet to be taken out of the inbox.
    answered: Vec<MessageId>,
    /// An append of an end that came too early; what it held is yet to be stored.
    again: Option<Box<Append>>,
    /// What is set aside for calls that ended, until that is committed.
    settling: Vec<Arc<Reservation>>,
    watching: Option<Box<Watching>>,
}

enum Turn {
    Call(calls::Attempt, Done),
    Time,
    Inbox,
    Yield,
}

impl Drive<'_> {
    /// Drives the run until it ends, waits or has to be left. After an error calls go on.
    pub async fn run(mut self, machine: Machine) -> Result<Driven, DriveError> {
        let calls = Arc::clone(&self.calls);
        let watching = self.observer.map(|observer| Box::new(Watching::new(observer, &machine)));
        let mut driver = Driver {
            watching,
            // If it was given another budget when it was taken up, that is not stored yet.
            ledger: (!machine.has_unsaved()).then(|| (machine.spent_itself(), machine.budget())),
            head: machine.taken_head(),
            shared: Shared::new(machine, Arc::clone(self.world)),
            course: Course::new(self.starts <= 1),
            records: Arc::new(StoredRecords(Arc::clone(self.store))),
            calls: Arc::clone(&calls),
            commit_by: None,
            cancel_by: None,
            leave_by: None,
            only_waits_since: None,
            missing: None,
            place: self.place,
            inbox: self.inbox.take(),
            answered: Vec::new(),
            again: None,
            settling: Vec::new(),
            drive: self,
        };
        let driven = match driver.drive().await {
            Ok(Driven::Lost)
            | Err(DriveError::Store(StoreError::Fenced { .. } | StoreError::SessionOver)) => {
                match driver.drive.control.leaving() {
                    Leave::Reclaimed => return Ok(Driven::Reclaimed),
                    _ => Ok(Driven::Lost),
                }
            }
            other => other,
        };
        match &driven {
            Ok(Driven::Lost) => {
                // Somebody else makes them. What has ended, and what they consumed, is of use if this host has the run
                // again before that.
                calls.halt();
                calls.gone().await;
                calls.each_ended(Done::settle);
            }
            // Nobody waits for them any more.
            Ok(_) => calls.stop().await,
            Err(_) => {}
        }
        driven
    }
}

impl Driver<'_> {
    async fn drive(&mut self) -> Result<Driven, DriveError> {
        self.take_answers().await?;
        let mut program = match self.drive.engine.execute(self.drive.module, &self.shared).await {
            Ok(program) => program,
            Err(error) => {
                let why = "the run was asked to stop while it could not be executed";
                let error = DriveError::cannot_execute(self.drive.run, error);
                return self.stop_without_program(why).await?.ok_or(error);
            }
        };
        loop {
            match self.drive.control.leaving() {
                Leave::No => {}
                // Calls in flight are waited for, so the program has to come through first.
                Leave::Gently if self.course.phase() == Phase::Replaying && self.calls.len() > 0 => {}
                Leave::Gently => self.course.rest(Rest::Leaving),
                // What they ended with can be recorded only then, too.
                Leave::Now if self.course.phase() == Phase::Replaying && self.is_worth_waiting_for() => {}
                Leave::Now => self.course.rest(Rest::Now),
                Leave::Lost | Leave::Reclaimed => return Ok(Driven::Lost),
            }
            if self.course.runs() {
                if let Poll::Ready(ended) = poll!(&mut program) {
                    return self.end(ended).await;
                }
                let inner = self.shared.lock();
                let said = inner.machine.has_unsaved() || !inner.emissions.is_empty();
                drop(inner);
                self.course.ran(said);
            }
            let sight = self.sight();
            match self.course.next(&sight) {
                Do::ComeThrough => self.come_through().await,
                Do::ReadMail if self.course.phase() == Phase::Resting(Rest::Leaving) => {
                    self.look_for_a_stop().await?;
                }
                Do::ReadMail => self.read_inbox().await?,
                Do::MeetChildren => self.meet_children().await?,
                Do::Commit if self.course.runs() => {
                    if let Some(driven) = self.commit().await? {
                        return Ok(driven);
                    }
                    // What is done at once is not waited for.
                    self.take_ended_calls()?;
                }
                Do::Commit => self.commit_at_rest().await?,
                Do::Arrive => drop(self.append_always(Next::Go, Vec::new()).await?),
                Do::Terminate => {
                    let message = "the run was asked to stop and did not end by itself";
                    let failure = Failure::new(FailureKind::Cancelled, message);
                    return self.commit_end(Err(failure), true).await;
                }
                Do::Park => {
                    if !self.append(Next::Park(self.waiting()), Vec::new()).await?.due {
                        return Ok(Driven::Parked);
                    }
                    self.course.mail();
                }
                Do::HandOver => {
                    let run = self.drive.run.clone();
                    let error = self.missing.take().unwrap_or(DriveError::NoDefaultProvider { run });
                    let (waiting, trouble) = (Some(self.waiting()), Some(error.to_string()));
                    self.append(Next::Release { waiting, trouble }, Vec::new()).await?;
                    return Ok(Driven::HandedOver(error));
                }
                Do::Leave(rest) => return self.leave(rest, &sight).await,
                Do::Wait => self.wait(&sight).await?,
            }
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.drive.world.now()
    }

    /// What there is to decide by.
    fn sight(&mut self) -> Sight {
        let calls = self.calls.len();
        let inner = self.shared.lock();
        let machine = &inner.machine;
        let live = machine.is_live();
        let waits = inner.blocked;
        let now = Instant::now();
        let over = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        // A grace that runs out is nothing that wakes a run; a deadline that has passed is met first.
        let due = machine.next_deadline().is_some_and(|at| at <= self.drive.world.now());
        let only_waits = live && calls == 0 && !due && self.cancel_by.is_none() && machine.only_waits();
        let too_much = machine.unsaved_bytes() >= UNSAVED_BYTES;
        let sight = Sight {
            live,
            waits,
            calls,
            only_waits,
            withholds: machine.withholds(),
            commit_due: over(self.commit_by) || too_much,
            grace_over: over(self.cancel_by),
            idle_over: false,
        };
        drop(inner);
        if !(waits && only_waits) {
            self.only_waits_since = None;
        }
        Sight { idle_over: over(self.park_at(&sight)), ..sight }
    }

    /// When a program that only waits is parked.
    fn park_at(&mut self, sight: &Sight) -> Option<Instant> {
        if !(self.course.has_time() && sight.waits && sight.only_waits) {
            return None;
        }
        let since = *self.only_waits_since.get_or_insert_with(Instant::now);
        Some(match self.drive.pace {
            Pace::WithoutDeadline(_) if self.shared.lock().machine.next_deadline().is_some() => return None,
            Pace::ParkAfter(grace) | Pace::WithoutDeadline(grace) if !self.drive.control.is_crowded() => {
                since + grace
            }
            Pace::ParkAtOnce | Pace::ParkAfter(_) | Pace::WithoutDeadline(_) => since,
        })
    }

    /// The program has come to the end of its journal.
    async fn come_through(&mut self) {
        if let Some(watching) = &mut self.watching {
            watching.came_through();
        }
        let (due, dropped) = self.take_over();
        // One that is not taken over must not be made under the lease of this drive.
        self.count_dropped().await;
        self.give_back_turns_of(dropped).await;
        self.calls.lease.set(self.drive.control.lease.clone());
        self.keep_turns();
        self.withhold_what_cannot_be_made(due);
    }

    /// Of calls that are due, those that cannot be made here are not begun.
    pub(super) fn withhold_what_cannot_be_made(&mut self, due: Vec<(Step, AgentRequest)>) {
        for (step, request) in due {
            if let Err(error) = self.provider_of(step, &request) {
                self.withhold(step, error);
            }
        }
    }

    /// Takes over the calls of an earlier execution. Gives those that are due, and the steps that need none any more.
    fn take_over(&mut self) -> (Vec<(Step, AgentRequest)>, Vec<Step>) {
        let now = self.now();
        let mut inner = self.shared.lock();
        let machine = &mut inner.machine;
        // A request that an earlier execution recorded; its grace begins anew.
        if machine.cancel_requested() {
            self.cancel_by = Some(Instant::now() + CANCEL_GRACE);
        }
        machine.settle_move(now);
        machine.notice_clock(now);
        let mut dropped = Vec::new();
        for (step, attempt) in self.calls.all() {
            if !machine.adopt(step, attempt) {
                self.calls.abandon(step);
                if machine.call_state(step).is_none() {
                    dropped.push(step);
                }
            }
        }
        (machine.due_calls(now), dropped)
    }

    /// A call cannot be made here: it waits for a host that can make it.
    pub(super) fn withhold(&mut self, step: Step, error: DriveError) {
        let now = self.now();
        self.shared.lock().machine.withhold(step, &error.to_string(), now);
        self.missing.get_or_insert(error);
        self.course.happened();
    }

    /// Waits for the next thing that happens, and takes it in.
    async fn wait(&mut self, sight: &Sight) -> Result<(), DriveError> {
        match self.turn(sight).await {
            Turn::Call(attempt, done) => self.done(attempt, done)?,
            Turn::Time if self.course.is_pausing() => self.course.mail(),
            Turn::Time => {
                let deadline = self.shared.lock().machine.next_deadline();
                if self.course.has_time() && deadline.is_some_and(|at| at <= self.now()) {
                    // What came in before the deadline counts before it.
                    self.read_inbox().await?;
                    let now = self.now();
                    let mut inner = self.shared.lock();
                    let before = inner.machine.entries();
                    inner.machine.fire_timers(now);
                    let fired = inner.machine.entries() > before;
                    drop(inner);
                    if fired {
                        self.happened();
                    }
                }
            }
            Turn::Inbox => {
                // What came with the claim, and is not read before the program has come through, is not all.
                self.inbox = None;
                self.course.mail();
            }
            Turn::Yield => {}
        }
        Ok(())
    }

    async fn turn(&mut self, sight: &Sight) -> Turn {
        let now = Instant::now();
        let live = self.course.has_time();
        let next = self.shared.lock().machine.next_deadline().filter(|_| live);
        let rests = self.drive.time.filter(|_| live && sight.waits && sight.only_waits);
        let deadline = next.map(|at| {
            let millis = at.since(self.now());
            now + Duration::from_millis(millis).min(CLOCK_CHECK)
        });
        let commit_by = self.commit_by.filter(|_| !sight.waits);
        let timers = [deadline, self.cancel_by, commit_by, self.park_at(sight)];
        let pause_check = self.course.is_pausing().then(|| now + PAUSE_CHECK);
        let time = timers.into_iter().flatten().min().filter(|_| live).or(pause_check).or(self.leave_by);
        let runs = self.course.runs() && !sight.waits;
        let at = |instant: Option<Instant>| async move {
            match instant {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        let run = self.drive.run;
        let rest = async || {
            if let Some(time) = rests {
                time.rests(run, next);
            }
            std::future::pending::<()>().await;
        };
        // Calls of an earlier execution are taken over when the program has come through; those of one that has lost
        // the run are for the next.
        let takes_calls =
            self.course.phase() != Phase::Replaying && self.drive.control.leaving() < Leave::Lost;
        let turn = tokio::select! {
            biased;
            (attempt, done) = self.calls.next(), if takes_calls && sight.calls > 0 => Turn::Call(attempt, done),
            () = self.drive.control.left() => Turn::Yield,
            () = self.drive.control.inbox.notified() => Turn::Inbox,
            () = at(time) => Turn::Time,
            () = tokio::task::yield_now(), if runs => Turn::Yield,
            // The last: when this is polled, nothing of the above has happened.
            () = rest() => Turn::Yield,
        };
        if let Some(time) = rests {
            time.stirs(run);
        }
        turn
    }

    /// Takes the answers that are there without waiting, as many as one commit may hold.
    fn take_ended_calls(&mut self) -> Result<(), DriveError> {
        while self.has_room_for_answers()
            && let Some((attempt, done)) = self.calls.take()
        {
            self.done(attempt, done)?;
        }
        Ok(())
    }

    fn has_room_for_answers(&self) -> bool {
        self.shared.lock().machine.unsaved_bytes() < ANSWERS_BYTES
    }

    fn done(&mut self, (step, attempt): calls::Attempt, done: Done) -> Result<(), DriveError> {
        if !matches!(done, Done::Unknown(_)) {
            self.calls.hold((step, attempt), done.clone());
        }
        match done {
            Done::Step(outcome) => {
                self.shared.lock().machine.complete(step, outcome, self.now());
            }
            Done::Attempt(ended) => self.attempt_ended(step, &ended),
            Done::NotMade(why) => {
                let now = self.now();
                let machine = &mut self.shared.lock().machine;
                match self.course.runs() {
                    true => drop(machine.postpone(step, now, why.to_owned(), now)),
                    false => machine.withhold(step, why, now),
                }
            }
            done @ Done::Dropped(_) => self.count((step, attempt), done),
            Done::Unknown(error) => return Err(error.into()),
        }
        self.happened();
        Ok(())
    }

    /// Something belongs into the journal.
    fn happened(&mut self) {
        self.course.happened();
        self.commit_by.get_or_insert_with(|| Instant::now() + COMMIT_WITHIN);
    }

    async fn give_back_turns(&self) {
        give_back_turns(self.drive.store, self.drive.gate, self.drive.run).await;
    }

    /// Gives back the turns of steps whose calls were aborted. Until these are gone they may still keep theirs.
    async fn give_back_turns_of(&mut self, steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        self.count_dropped().await;
        for step in steps {
            self.drive.gate.release(self.drive.run, step, self.drive.epoch);
        }
    }

    fn waiting(&self) -> Waiting {
        let inner = self.shared.lock();
        Waiting {
            until: inner.machine.next_deadline(),
            signals: inner.machine.wanted_signals(),
            people: inner.machine.asks_people(),
        }
    }
}

/// Gives back the turns of rates that all hosts share, as far as steps of a run that has ended have any.
pub(crate) async fn give_back_turns(store: &SharedStore, gate: &Gate, run: &RunId) {
    let word = TurnWord::ReleaseRun { run: run.clone() };
    if store.take_turns(vec![word]).await.is_err() {
        // With what else the store is to be told.
        gate.give_back_turns(run);
    }
}
