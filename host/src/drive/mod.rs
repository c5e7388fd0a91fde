//! The driver of one run: lets the program run, commits what happened, carries
//! out what it asked for, and tells the machine what the world answered. What
//! may come next in which phase is decided by [`Course`].

mod agent;
mod control;
mod execute;
mod replay;
mod watching;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use tokio::time::Instant;
use wfhost_agents::{Gate, Providers, Records, Reservation};
use wfhost_core::course::{Course, Do, Phase, Rest, Sight};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    AgentRequest, Digest, End, Epoch, Failure, FailureKind, Json, Machine, Mismatch, Op, Outcome, Row, RunId,
    Step, Stop, Timestamp, Work,
};
use wfhost_runtime::{
    CannotExecute, Ended, Engine, GrantError, HostFault, Module, Shared, StackError, end_lines, trap,
};
use wfhost_store::{
    Append, Appended, Inbox, Message, MessageBody, MessageId, NewRun, Next, Part, SessionId, SharedStore,
    StoreError, TurnWord, Waiting, Wake,
};
use wfhost_world::{World, fresh_id};

use self::agent::{Attempted, Dropped};
pub(crate) use self::control::{Control, Leave};
pub(crate) use self::replay::replay;
pub use self::replay::{Asked, Replayed};
use self::watching::Watching;
use crate::calls::{self, Calls};
use crate::family::{self, Modules, Wanted};
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
/// Entries that are not committed take so many bytes at most, about, also while the program
/// computes: what one commit holds is bounded.
const UNSAVED_BYTES: usize = 1 << 20;
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
    Attempt(Box<Attempted>),
    /// A call was stopped: only what it consumed is of interest.
    Dropped(Box<Dropped>),
    /// It is not known: the store failed.
    Unknown(StoreError),
}

impl Done {
    /// Nothing is set aside for it any more.
    fn settle(&mut self) {
        if let Self::Attempt(attempted) = self {
            attempted.reservation = None;
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
                // Somebody else makes them. What has ended is of use if this host has the run again before that.
                calls.halt();
                calls.each_ended(Done::settle);
                calls.gone().await;
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
                Do::ReadMail => self.read_inbox().await?,
                Do::MeetChildren => self.meet_children().await?,
                Do::Commit if self.course.runs() => {
                    if let Some(driven) = self.commit().await? {
                        return Ok(driven);
                    }
                    // What is done at once is not waited for.
                    self.take_ended_calls()?;
                }
                Do::Commit => drop(self.append(Next::Go, Vec::new()).await?),
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

    /// Leaves the run as it is.
    async fn leave(&mut self, rest: Rest, sight: &Sight) -> Result<Driven, DriveError> {
        // What has been answered is paid for, and is committed with this.
        self.calls.halt();
        self.take_last_answers(sight).await?;
        if sight.live {
            self.count_dropped().await;
        }
        self.calls.stop().await;
        let release = Next::Release { waiting: None, trouble: None };
        if !sight.live {
            // Nothing of this execution counts.
            self.append_bare(release).await?;
        } else if rest == Rest::Paused {
            if !self.append_always(Next::Pause { if_asked: true }, Vec::new()).await?.due {
                return Ok(Driven::Paused);
            }
            // Somebody wants it to go on, which begins with what is committed.
            return Err(StoreError::Raced { run: self.drive.run.clone() }.into());
        } else if !self.course.may_park(sight)
            // Else the next host does not even have to look at it.
            || self.append_always(Next::Park(self.waiting()), Vec::new()).await?.due
        {
            self.append_always(release, Vec::new()).await?;
        }
        Ok(Driven::Left)
    }

    /// Takes the answers that came and were not looked at, and commits them but for the last ones.
    async fn take_last_answers(&mut self, sight: &Sight) -> Result<(), DriveError> {
        // What came while the program repeated its journal is for the next host, if that asks for it.
        if !sight.live || self.course.untouched() {
            return Ok(());
        }
        loop {
            while self.has_room_for_answers()
                && let Some((attempt, done)) = self.calls.take()
            {
                match done {
                    // The next host does it again.
                    Done::Unknown(_) => {}
                    done => self.done(attempt, done)?,
                }
            }
            if self.calls.len() == 0 {
                return Ok(());
            }
            self.append(Next::Go, Vec::new()).await?;
        }
    }

    /// Waits for the next thing that happens, and takes it in.
    async fn wait(&mut self, sight: &Sight) -> Result<(), DriveError> {
        match self.turn(sight).await {
            Turn::Call(attempt, done) => self.done(attempt, done)?,
            Turn::Time => {
                if self.course.has_time() {
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
        let time = timers.into_iter().flatten().min().filter(|_| live);
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
            Done::Attempt(ended) => self.attempt_ended(step, *ended),
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

    /// Takes in what was answered, before the program can drop the question: whoever answered was
    /// told that it counts.
    async fn take_answers(&mut self) -> Result<(), DriveError> {
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
    async fn read_inbox(&mut self) -> Result<(), DriveError> {
        let Inbox { messages, more } = match self.inbox.take() {
            Some(inbox) => inbox,
            None => self.drive.store.inbox(self.drive.run, Part::Next).await?,
        };
        if more {
            self.course.mail();
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
                        self.course.unpause();
                    }
                    // A run that is to stop does so.
                    MessageBody::Pause if inner.machine.cancel_requested() => {}
                    MessageBody::Pause => self.course.rest(Rest::Paused),
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

    /// Ends a run whose program cannot go on here, if it was asked to stop.
    async fn stop_without_program(&mut self, why: &str) -> Result<Option<Driven>, DriveError> {
        let inbox = match self.inbox.take() {
            Some(inbox) => inbox,
            None => self.drive.store.inbox(self.drive.run, Part::Next).await?,
        };
        let cancels = |message: &Message| matches!(message.body, MessageBody::Cancel { .. });
        if !self.shared.lock().machine.cancel_requested() && !inbox.messages.iter().any(cancels) {
            return Ok(None);
        }
        self.inbox = Some(inbox);
        self.read_inbox().await?;
        let driven = self.commit_end(Err(Failure::new(FailureKind::Cancelled, why)), true).await?;
        // Which steps had turns is known only of a program that has come through.
        self.give_back_turns().await;
        Ok(Some(driven))
    }

    async fn give_back_turns(&self) {
        give_back_turns(self.drive.store, self.drive.gate, self.drive.run).await;
    }

    /// Takes in children that ended without a word to this run: they were
    /// imported, or it had failed of them and goes on.
    async fn meet_children(&mut self) -> Result<(), DriveError> {
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
        let now = self.now();
        let mut inner = self.shared.lock();
        for info in ended {
            if let (Some(step), Some(outcome)) = (info.links.step, info.outcome) {
                inner.machine.end_child(step, info.id, outcome, info.spent, now);
            }
        }
        drop(inner);
        self.happened();
        Ok(())
    }

    /// Commits what was appended and begins what the program asked for. If
    /// that ends the run it tells how.
    async fn commit(&mut self) -> Result<Option<Driven>, DriveError> {
        let mut work = self.shared.lock().machine.take_work(self.now());
        let continues = |work: &Work| matches!(work, Work::Execute { op: Op::ContinueAsNew { .. }, .. });
        if let Some(index) = work.iter().position(continues)
            && let Work::Execute { step, op: Op::ContinueAsNew { input }, .. } = work.swap_remove(index)
        {
            return self.continue_as_new(step, input).await.map(Some);
        }
        self.append(Next::Go, Vec::new()).await?;
        let mut dropped = Vec::new();
        for work in work {
            match work {
                Work::Execute { step, attempt, op } => {
                    // It may have the turn of one that is not wanted any more.
                    self.give_back_turns_of(std::mem::take(&mut dropped)).await;
                    self.execute(step, attempt, op);
                }
                Work::Fail { step, failure } => {
                    self.shared.lock().machine.complete(step, Err(failure), self.now());
                    self.happened();
                }
                Work::Abort { step } => {
                    self.calls.abort(step);
                    dropped.push(step);
                }
            }
        }
        self.give_back_turns_of(dropped).await;
        Ok(None)
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

    /// The run ends here and continues as a fresh one.
    async fn continue_as_new(&mut self, step: Step, input: Json) -> Result<Driven, DriveError> {
        let [id, other] = self.shared.lock().machine.ids_of_next_round();
        let mut ids = VecDeque::from([id, other]);
        let (project, imported) = (self.drive.project.clone(), self.drive.imported);
        loop {
            let id = match ids.pop_front() {
                Some(id) => id,
                None => fresh_id().map_err(|error| DriveError::Instance(error.to_string()))?,
            };
            let ended = self.append_end(|machine, now| {
                let next = family::next_round(machine, step, input.clone(), id.clone(), now);
                let next = NewRun { project: project.clone(), imported, ..next };
                let (row, at) = machine.with_end(End::Continued(&id), now);
                (Next::Continue { run: Box::new(next) }, row.into(), at)
            });
            match ended.await {
                Ok(()) => return Ok(Driven::Continued(id)),
                // Of another run, or of one that was deleted.
                Err(DriveError::Store(StoreError::IdTaken { .. } | StoreError::IdUsed { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The children that the program asked for, to be created with the entries that ask for them.
    async fn new_children(&mut self) -> Result<Vec<NewRun>, DriveError> {
        let wanted = Wanted::take(&mut self.shared.lock().machine);
        let Some(wanted) = wanted else { return Ok(Vec::new()) };
        let found = self.drive.modules.find_all(self.drive.store.as_ref(), wanted).await;
        let found = found.map_err(|error| error.into_error(self.drive.run))?;
        let (project, imported) = (&self.drive.project, self.drive.imported);
        let children = family::start(&mut self.shared.lock().machine, found, self.now());
        let children = children.into_iter();
        Ok(children.map(|child| NewRun { project: project.clone(), imported, ..child }).collect())
    }

    /// Commits what was appended, if there is anything or the run does not just go on.
    async fn append(&mut self, next: Next, consumed: Vec<MessageId>) -> Result<Appended, DriveError> {
        let nothing = {
            let inner = self.shared.lock();
            !inner.machine.has_unsaved() && inner.emissions.is_empty()
        };
        if nothing && consumed.is_empty() && next == Next::Go {
            self.commit_by = None;
            self.settled();
            return Ok(Appended::default());
        }
        self.append_always(next, consumed).await
    }

    async fn append_always(&mut self, next: Next, consumed: Vec<MessageId>) -> Result<Appended, DriveError> {
        let children = self.new_children().await?;
        let goes_on = next == Next::Go;
        let (row, at) = {
            let mut inner = self.shared.lock();
            (inner.machine.take_unsaved(), inner.machine.last_at())
        };
        let append = self.filled(next, row.map(Row::from), at, consumed, children);
        let begets = !append.children.is_empty();
        let appended = self.store_append(append).await?;
        if begets {
            (self.drive.wake)(&[Wake::Due]);
        }
        if appended.due && goes_on {
            // A child could not be started.
            self.course.mail();
        }
        // This process may have been stopped meanwhile: then somebody else may have the run by now,
        // and nothing may be called that he calls too.
        if goes_on && !self.keeps_lease().await {
            return Err(StoreError::Fenced { run: self.drive.run.clone() }.into());
        }
        Ok(appended)
    }

    /// Appends nothing, whatever this execution did.
    async fn append_bare(&mut self, next: Next) -> Result<(), DriveError> {
        let Drive { run, session, epoch, .. } = self.drive;
        let append = Append::new(run.clone(), session, epoch, Timestamp(0), next);
        self.store_append(Append { before: self.head, ..append }).await?;
        Ok(())
    }

    /// Commits the end of the run, and what came in before it: the machine knows of the end only then.
    async fn append_end(
        &mut self,
        end: impl Fn(&mut Machine, Timestamp) -> (Next, Row, Timestamp),
    ) -> Result<(), DriveError> {
        self.course.end();
        // Nobody waits for them any more. What was answered is needed again if the end cannot be committed.
        self.calls.halt();
        self.count_dropped().await;
        while let Some((attempt, done)) = self.calls.take() {
            self.calls.hold(attempt, done.clone());
            self.count(attempt, done);
        }
        self.calls.gone().await;
        loop {
            let children = self.new_children().await?;
            let (next, row, at) = end(&mut self.shared.lock().machine, self.now());
            let append = self.filled(next, Some(row), at, Vec::new(), children);
            match self.store_append(append.clone()).await {
                Err(DriveError::Store(StoreError::Raced { .. })) => {
                    self.again = Some(Box::new(append));
                    self.read_inbox().await?;
                }
                Err(refused @ DriveError::Store(StoreError::IdTaken { .. } | StoreError::IdUsed { .. })) => {
                    self.again = Some(Box::new(append));
                    return Err(refused);
                }
                appended => {
                    appended?;
                    if self.drive.gate.release_run(self.drive.run) {
                        self.give_back_turns().await;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// What is appended with a row: all that happened since the last time.
    fn filled(
        &mut self,
        next: Next,
        row: Option<Row>,
        at: Timestamp,
        consumed: Vec<MessageId>,
        mut children: Vec<NewRun>,
    ) -> Append {
        let mut inner = self.shared.lock();
        let mut emissions = std::mem::take(&mut inner.emissions);
        let machine = &mut inner.machine;
        let given = machine.given();
        if let Some(given) = given {
            machine.gave_out(given);
        }
        let ledger = (machine.spent_itself(), machine.budget());
        let mut append = Append {
            before: self.head,
            row,
            after: self.place,
            consumed,
            given,
            questions: machine.take_questions(),
            module: machine.take_moved(),
            dropped: machine.take_dropped_children(),
            ledger: Some(ledger).filter(|ledger| Some(*ledger) != self.ledger),
            ..Append::new(self.drive.run.clone(), self.drive.session, self.drive.epoch, at, next)
        };
        drop(inner);
        // What was to be stored with an end that was not.
        if let Some(again) = self.again.take() {
            append.given = append.given.or(again.given);
            append.module = append.module.or(again.module);
            append.questions.splice(0..0, again.questions);
            append.dropped.splice(0..0, again.dropped);
            children.splice(0..0, again.children);
            emissions.splice(0..0, again.emissions);
        }
        Append { children, emissions, ..append }
    }

    async fn store_append(&mut self, append: Append) -> Result<Appended, DriveError> {
        self.commit_by = None;
        let (head, ledger) = (append.row.as_ref().map(|row| row.head), append.ledger);
        let pending = self.watching.is_some().then(|| Watching::read(&append));
        let appended = self.drive.store.append(append).await;
        if let (Some(watching), Some(pending)) = (&mut self.watching, pending) {
            let machine = &self.shared.lock().machine;
            match &appended {
                Ok(_) => watching.tell(pending, |step| machine.is_open(step)),
                Err(error) => watching.failed(error),
            }
        }
        let appended = appended?;
        self.settled();
        self.head = head.unwrap_or(self.head);
        self.ledger = ledger.or(self.ledger);
        self.place = appended.place.or(self.place);
        (self.drive.committed)();
        if !appended.wake.is_empty() {
            (self.drive.wake)(&appended.wake);
        }
        Ok(appended)
    }

    /// What calls ended with is committed.
    fn settled(&mut self) {
        self.settling.clear();
        self.calls.settled();
    }

    /// Whether the run is still this host's. One that was stopped past its lease asks first.
    async fn keeps_lease(&self) -> bool {
        let lease = self.drive.control.lease.held();
        let lost = async {
            while self.drive.control.leaving() < Leave::Now {
                self.drive.control.left().await;
            }
        };
        tokio::select! {
            biased;
            () = lease => true,
            () = lost => false,
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

    /// The program returned, trapped, or was stopped by the core.
    async fn end(&mut self, ended: Ended) -> Result<Driven, DriveError> {
        end_lines(&mut self.shared.lock());
        let outcome = match ended {
            Ok(outcome) => Ok(outcome),
            Err(error) => match error.downcast_ref::<Stop>() {
                Some(stop) => Err(Stopped::By(stop.clone())),
                None => {
                    if let Some(source) = HostFault::of(&error) {
                        return Err(DriveError::Host { run: self.drive.run.clone(), source });
                    }
                    let module = self.drive.store.module(self.drive.module.digest);
                    Err(Stopped::Failed(trap::explain(&error, &self.shared, module).await?))
                }
            },
        };
        let departs = |how: &str| self.shared.lock().machine.departure(how);
        match outcome {
            Ok(outcome) => {
                let returned = self.shared.lock().machine.returns(&outcome);
                match returned {
                    Ok(true) => self.commit_end(outcome, false).await,
                    Err(Stop::Mismatch(mismatch)) => self.refuse(mismatch).await,
                    // It has ended already, and agrees.
                    Ok(false) | Err(_) => self.ended_before(),
                }
            }
            Err(Stopped::By(Stop::Mismatch(mismatch))) => self.refuse(mismatch).await,
            Err(Stopped::By(Stop::Ended)) => self.ended_before(),
            Err(Stopped::By(stop)) => {
                let failure = Failure::new(FailureKind::Failed, stop.to_string());
                self.commit_end(Err(failure), true).await
            }
            // While there are entries left, that is no end of this run but another program.
            Err(Stopped::Failed(failure)) => match departs(&failure.message) {
                Some(mismatch) => self.refuse(mismatch).await,
                None => self.commit_end(Err(failure), true).await,
            },
        }
    }

    /// The journal has an end already.
    fn ended_before(&self) -> Result<Driven, DriveError> {
        let machine = &self.shared.lock().machine;
        match (machine.outcome(), machine.continued_as()) {
            (Some(outcome), _) => Ok(Driven::Ended(outcome.clone())),
            (None, Some(run)) => Ok(Driven::Continued(run.clone())),
            (None, None) => Err(DriveError::Instance("the program ended without an outcome".to_owned())),
        }
    }

    /// The program diverges from its journal: what it did in this execution is void. Only a
    /// request to stop can be carried out without it.
    async fn refuse(&mut self, mismatch: Box<Mismatch>) -> Result<Driven, DriveError> {
        self.shared.lock().emissions.clear();
        let why = "the run was asked to stop while its module diverged from its journal";
        if let Some(driven) = self.stop_without_program(why).await? {
            return Ok(driven);
        }
        self.append_bare(Next::Refuse { reason: mismatch.to_string() }).await?;
        Ok(Driven::Refused(mismatch))
    }

    /// Commits that the run ended so; `stopped` by the host, where the program stood.
    async fn commit_end(&mut self, outcome: Outcome, stopped: bool) -> Result<Driven, DriveError> {
        self.append_end(|machine, now| {
            machine.settle_move(now);
            let (row, at) = machine.with_end(End::Finished { outcome: &outcome, stopped }, now);
            (Next::End { outcome: outcome.clone(), spent: machine.spent(now) }, row.into(), at)
        })
        .await?;
        Ok(Driven::Ended(outcome))
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

/// How a program ended that did not return.
enum Stopped {
    /// The machine refused what it asked for.
    By(Stop),
    Failed(Failure),
}
