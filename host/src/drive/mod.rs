//! The loop of one run: lets the program run, commits what happened, carries
//! out what it asked for, and tells the machine what the world answered.

mod agent;
mod control;
mod execute;
mod replay;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::poll;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use wfhost_agents::{Gate, Providers, Records, Writers};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Epoch, Failure, FailureKind, Json, Machine, Mismatch, Op, Outcome, Row, RunId, Step, Stop, Timestamp,
    Work,
};
use wfhost_runtime::{CannotExecute, Ended, Engine, GrantError, Module, Shared, StackError, end_lines, trap};
use wfhost_store::{Append, MessageBody, MessageId, NewRun, Next, SharedStore, StoreError, Waiting};
use wfhost_world::World;

use self::agent::Attempted;
pub(crate) use self::control::{Control, Leave};
pub(crate) use self::replay::replay;
pub use self::replay::{Asked, Replayed};
use crate::family::{self, Modules, Wanted};
use crate::records::StoredRecords;

/// An answer that came while the program computes on is committed after this
/// time at the latest.
const COMMIT_WITHIN: Duration = Duration::from_millis(3);
/// How long a program may clean up after it was asked to stop.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// Deadlines are looked at again after this time, in case the system clock was set.
const CLOCK_CHECK: Duration = Duration::from_secs(5);

/// When a waiting program is dropped from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// As soon as it only waits.
    ParkAtOnce,
    /// When it has only waited for so long.
    ParkAfter(Duration),
}

/// Why a run could not be driven on. It is kept as it was.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{run} asks for the provider `{provider}`, which this host does not have")]
    NoProvider { run: RunId, provider: String },
    #[error("{run} asks an agent, and there is no default provider")]
    NoDefaultProvider { run: RunId },
    #[error("{run} cannot go on: {source}")]
    Grant { run: RunId, source: GrantError },
    #[error("{run} cannot go on: {source}")]
    Stack { run: RunId, source: StackError },
    #[error("the program cannot be started: {0}")]
    Instance(String),
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
    /// Another process has taken it over.
    Lost,
    /// It goes on as that run.
    Continued(RunId),
}

/// Has a run of this host look at what came in; without one, all of them.
pub(crate) type Wake = dyn Fn(Option<&RunId>) + Send + Sync;

/// All that driving a run needs.
pub(crate) struct Drive<'a> {
    pub engine: &'a Engine,
    pub store: &'a SharedStore,
    pub world: &'a Arc<dyn World>,
    pub providers: &'a Providers,
    /// Where agent calls wait for their turn.
    pub gate: &'a Arc<Gate>,
    pub run: &'a RunId,
    pub epoch: Epoch,
    /// How often it was claimed since it came forward the last time.
    pub starts: u32,
    pub module: &'a Module,
    pub pace: Pace,
    pub control: &'a Control,
    /// Called after each commit.
    pub committed: Arc<dyn Fn() + Send + Sync>,
    /// Tells other runs of this host that something was sent to them.
    pub wake: Arc<Wake>,
    /// Finds the modules of children.
    pub modules: &'a Modules,
}

/// How the work on a step ended.
enum Done {
    Step(Outcome),
    Attempt(Box<Attempted>),
}

type Calls = FuturesUnordered<Abortable<BoxFuture<'static, (Step, Done)>>>;

struct Driver<'a> {
    drive: Drive<'a>,
    shared: Shared,
    calls: Calls,
    aborts: HashMap<Step, AbortHandle>,
    /// Those that write the transcripts of calls.
    writers: Writers,
    records: Arc<dyn Records>,
    commit_by: Option<Instant>,
    cancel_by: Option<Instant>,
    /// Somebody asked for the run to be left alone.
    pausing: bool,
    /// What is stored of what the run spent and may spend.
    ledger: (Spent, Budget),
    /// The place of the last commit.
    place: Option<u64>,
}

enum Turn {
    Call(Step, Done),
    Time,
    Inbox,
    Leave,
    Park,
    Yield,
}

impl Drive<'_> {
    /// Drives the run until it ends, waits or has to be left.
    pub async fn run(self, machine: Machine) -> Result<Driven, DriveError> {
        let mut driver = Driver {
            ledger: (machine.spent_itself(), machine.budget()),
            shared: Shared::new(machine, Arc::clone(self.world)),
            records: Arc::new(StoredRecords(Arc::clone(self.store))),
            drive: self,
            calls: FuturesUnordered::new(),
            aborts: HashMap::new(),
            writers: Writers::default(),
            commit_by: None,
            cancel_by: None,
            pausing: false,
            place: None,
        };
        // A request that an earlier execution recorded; its grace begins anew.
        if driver.shared.lock().machine.cancel_requested() {
            driver.cancel_by = Some(Instant::now() + CANCEL_GRACE);
        }
        match driver.drive().await {
            Err(DriveError::Store(StoreError::Fenced { .. })) => Ok(Driven::Lost),
            other => other,
        }
    }
}

impl Driver<'_> {
    async fn drive(&mut self) -> Result<Driven, DriveError> {
        let cannot = |error| DriveError::cannot_execute(self.drive.run, error);
        let mut program = self.drive.engine.execute(self.drive.module, &self.shared).await.map_err(cannot)?;
        let mut only_waits_since: Option<Instant> = None;
        // What came in while nobody drove the run.
        let mut inbox_due = true;
        let mut arrived = self.drive.starts <= 1;
        let mut met_children = false;
        loop {
            let leaving = self.drive.control.leaving();
            if leaving == Leave::Lost {
                return Ok(Driven::Lost);
            }
            // A run that is to be left begins nothing new.
            let resting = self.pausing || leaving != Leave::No;
            if !resting && let std::task::Poll::Ready(ended) = poll!(&mut program) {
                return self.end(ended).await;
            }
            let (blocked, live) = {
                let inner = self.shared.lock();
                (inner.blocked || resting, inner.machine.is_live())
            };
            if live && inbox_due {
                inbox_due = false;
                if self.read_inbox().await? {
                    continue;
                }
            }
            if live && !met_children {
                met_children = true;
                self.meet_children().await?;
            }
            if live && !resting {
                self.shared.lock().machine.settle_move(self.now());
            }
            if resting {
                self.append(Next::Go, Vec::new()).await?;
            } else if blocked || self.commit_by.is_some_and(|by| by <= Instant::now()) {
                if let Some(driven) = self.commit().await? {
                    return Ok(driven);
                }
                // What is done at once is not waited for.
                if self.take_finished_calls() {
                    continue;
                }
            }
            if live && blocked && !arrived {
                // It has come through: what brought the host down before was not this program.
                arrived = true;
                self.append_always(Next::Go, Vec::new()).await?;
            }
            if self.cancel_by.is_some_and(|by| by <= Instant::now()) && !resting {
                let failure = Failure::new(
                    FailureKind::Cancelled,
                    "the run was asked to stop and did not end by itself".to_owned(),
                );
                self.shared.lock().machine.terminate(failure, self.now());
                return self.commit_end().await;
            }
            if resting && (leaving == Leave::Now || self.calls.is_empty()) {
                return self.leave_off().await;
            }
            let idle = blocked && self.only_waits();
            let park_at = match self.drive.pace {
                _ if !idle || resting => None,
                Pace::ParkAtOnce => Some(Instant::now()),
                Pace::ParkAfter(grace) => Some(*only_waits_since.get_or_insert_with(Instant::now) + grace),
            };
            if !idle {
                only_waits_since = None;
            }
            match self.turn(blocked, live, resting, park_at).await {
                Turn::Call(step, done) => self.done(step, done),
                Turn::Time => {
                    // What came in before the deadline counts before it.
                    self.read_inbox().await?;
                    self.shared.lock().machine.fire_timers(self.now());
                    self.commit_soon();
                }
                Turn::Inbox => inbox_due = true,
                Turn::Yield | Turn::Leave => {}
                Turn::Park => {
                    if !self.append(Next::Park(self.waiting()), Vec::new()).await? {
                        return Ok(Driven::Parked);
                    }
                    inbox_due = true;
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.drive.world.now()
    }

    /// Whether the run can be left to the store: a grace that runs out is nothing that wakes it.
    fn only_waits(&self) -> bool {
        self.calls.is_empty() && self.cancel_by.is_none() && self.shared.lock().machine.only_waits()
    }

    /// Leaves the run as it is.
    async fn leave_off(&mut self) -> Result<Driven, DriveError> {
        let only_waits = self.only_waits();
        self.drop_calls().await;
        if self.pausing {
            self.append(Next::Pause, Vec::new()).await?;
            return Ok(Driven::Paused);
        }
        self.append(Next::Go, Vec::new()).await?;
        if !only_waits || self.append(Next::Park(self.waiting()), Vec::new()).await? {
            self.drive.store.release(self.drive.run, self.drive.epoch, None).await?;
        }
        Ok(Driven::Left)
    }

    /// Waits for the next thing that happens.
    async fn turn(&mut self, blocked: bool, live: bool, resting: bool, park_at: Option<Instant>) -> Turn {
        let now = Instant::now();
        // While the program is replaying nothing is appended: it may yet turn out to depart
        // from its journal, which then has to be as it was.
        let deadline = self.shared.lock().machine.next_deadline().filter(|_| live).map(|at| {
            let millis = at.since(self.now());
            now + Duration::from_millis(millis).min(CLOCK_CHECK)
        });
        let timers = [deadline, self.cancel_by, self.commit_by.filter(|_| !blocked)];
        let time = timers.into_iter().flatten().min().filter(|_| !resting);
        let at = |instant: Option<Instant>| async move {
            match instant {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(done) = self.calls.next(), if !self.calls.is_empty() => match done {
                Ok((step, done)) => Turn::Call(step, done),
                Err(_aborted) => Turn::Yield,
            },
            () = self.drive.control.left() => Turn::Leave,
            () = self.drive.control.inbox.notified() => Turn::Inbox,
            () = at(time) => Turn::Time,
            () = at(park_at) => Turn::Park,
            () = tokio::task::yield_now(), if !blocked => Turn::Yield,
        }
    }

    /// Takes the answers that are there without waiting.
    fn take_finished_calls(&mut self) -> bool {
        let mut any = false;
        while let Some(Some(done)) = self.calls.next().now_or_never() {
            if let Ok((step, done)) = done {
                self.done(step, done);
                any = true;
            }
        }
        any
    }

    fn done(&mut self, step: Step, done: Done) {
        self.aborts.remove(&step);
        match done {
            Done::Step(outcome) => {
                self.shared.lock().machine.complete(step, outcome, self.now());
            }
            Done::Attempt(ended) => self.attempt_ended(step, *ended),
        }
        self.commit_soon();
    }

    /// Drops the calls that are under way, and waits until what they said is stored.
    async fn drop_calls(&mut self) {
        self.calls.clear();
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            let _ = writer.await;
        }
    }

    fn commit_soon(&mut self) {
        self.commit_by.get_or_insert_with(|| Instant::now() + COMMIT_WITHIN);
    }

    /// Takes what was sent to the run into its journal. True if there was anything.
    async fn read_inbox(&mut self) -> Result<bool, DriveError> {
        let messages = self.drive.store.inbox(self.drive.run).await?;
        if messages.is_empty() {
            return Ok(false);
        }
        let consumed = messages.iter().map(|message| message.id).collect();
        {
            let mut inner = self.shared.lock();
            let now = self.now();
            for message in messages {
                // Deadlines that passed before it was sent are met first.
                inner.machine.fire_timers(message.at.min(now));
                match message.body {
                    MessageBody::Signal { name, payload, id } => {
                        inner.machine.receive(name, payload, id, now);
                    }
                    MessageBody::Answer { step, outcome, by, note } => {
                        inner.machine.answer(step, outcome, by, note, now);
                    }
                    MessageBody::Cancel { reason } => {
                        inner.machine.request_cancel(reason, now);
                        self.cancel_by.get_or_insert_with(|| Instant::now() + CANCEL_GRACE);
                        // A run that is to stop may do so.
                        self.pausing = false;
                    }
                    MessageBody::Pause => self.pausing = true,
                    MessageBody::Child { step, run, outcome, spent } => {
                        inner.machine.end_child(step, run, outcome, spent, now);
                    }
                }
            }
        }
        self.append(Next::Go, consumed).await?;
        Ok(true)
    }

    /// Takes in children that ended without a word to this run: they were
    /// imported, or it had failed of them and goes on.
    async fn meet_children(&mut self) -> Result<(), DriveError> {
        let open = self.shared.lock().machine.open_children();
        let Some(first) = open.first() else { return Ok(()) };
        let ended = self.drive.store.ended_children(self.drive.run, *first).await?;
        if ended.iter().any(|info| info.links.step.is_some_and(|step| open.contains(&step))) {
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
            self.commit_soon();
        }
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
        for work in work {
            match work {
                Work::Execute { step, attempt, op } => self.execute(step, attempt, op)?,
                Work::Fail { step, failure } => {
                    self.begin(step, std::future::ready((step, Done::Step(Err(failure)))).boxed());
                }
                Work::Abort { step } => {
                    if let Some(handle) = self.aborts.remove(&step) {
                        handle.abort();
                    }
                }
            }
        }
        Ok(None)
    }

    /// The run ends here and goes on as a fresh one.
    async fn continue_as_new(&mut self, step: Step, input: Json) -> Result<Driven, DriveError> {
        self.drop_calls().await;
        let [id, other] = self.shared.lock().machine.ids_of_next_round();
        let id = if self.drive.store.run(&id).await?.is_some() { other } else { id };
        let now = self.now();
        let next = {
            let mut inner = self.shared.lock();
            let next = family::next_round(&inner.machine, step, input, id.clone(), now);
            inner.machine.continue_as(id.clone(), now);
            next
        };
        self.append(Next::Continue { run: Box::new(next) }, Vec::new()).await?;
        Ok(Driven::Continued(id))
    }

    /// The children that the program asked for, to be created with the entries that ask for them.
    async fn new_children(&mut self) -> Result<Vec<NewRun>, DriveError> {
        let wanted = Wanted::take(&mut self.shared.lock().machine);
        let Some(wanted) = wanted else { return Ok(Vec::new()) };
        let found = self.drive.modules.find_all(self.drive.store.as_ref(), wanted).await?;
        Ok(family::start(&mut self.shared.lock().machine, found, self.now()))
    }

    /// Commits what was appended, if there is anything. True if the run was to
    /// be parked but something for it has come in.
    async fn append(&mut self, next: Next, consumed: Vec<MessageId>) -> Result<bool, DriveError> {
        let nothing = {
            let inner = self.shared.lock();
            !inner.machine.has_unsaved() && inner.emissions.is_empty()
        };
        if nothing && consumed.is_empty() && next == Next::Go {
            self.commit_by = None;
            return Ok(false);
        }
        self.append_always(next, consumed).await
    }

    async fn append_always(&mut self, next: Next, consumed: Vec<MessageId>) -> Result<bool, DriveError> {
        self.commit_by = None;
        let children = self.new_children().await?;
        let append = {
            let mut inner = self.shared.lock();
            let emissions = std::mem::take(&mut inner.emissions);
            let first_emission = inner.first_emission;
            inner.first_emission += emissions.len() as u64;
            let row = inner.machine.take_unsaved();
            Append {
                run: self.drive.run.clone(),
                epoch: self.drive.epoch,
                at: inner.machine.last_at(),
                row: row.map(Row::from),
                after: self.place,
                consumed,
                first_emission,
                emissions,
                questions: inner.machine.take_questions(),
                module: inner.machine.take_moved(),
                children,
                dropped: inner.machine.take_dropped_children(),
                ledger: Some((inner.machine.spent_itself(), inner.machine.budget()))
                    .filter(|ledger| *ledger != self.ledger),
                next,
            }
        };
        let goes_on = append.next == Next::Go;
        let (begets, drops, ledger) =
            (!append.children.is_empty(), !append.dropped.is_empty(), append.ledger);
        let ends = matches!(append.next, Next::End { .. } | Next::Continue { .. });
        let appended = self.drive.store.append(append).await?;
        self.ledger = ledger.unwrap_or(self.ledger);
        self.place = appended.place;
        (self.drive.committed)();
        self.tell_family(begets, drops, ends);
        if appended.due && goes_on {
            // A child could not be started.
            self.drive.control.inbox.notify_one();
        }
        // This process may have been stopped meanwhile: then somebody else may have the run by now,
        // and nothing may be called that he calls too.
        if goes_on && !self.drive.control.lease.is_held(self.now()) {
            return Err(StoreError::Fenced { run: self.drive.run.clone() }.into());
        }
        Ok(appended.due)
    }

    /// Has the relatives of the run look at what was committed.
    fn tell_family(&self, begets: bool, drops: bool, ends: bool) {
        let wake = &self.drive.wake;
        let machine = &self.shared.lock().machine;
        if let Some(parent) = machine.parent().filter(|_| ends) {
            wake(Some(parent));
        }
        if drops || ends && machine.has_children() {
            wake(None);
        } else if begets || machine.continued_as().is_some() {
            wake(Some(self.drive.run));
        }
    }

    fn begin(&mut self, step: Step, call: BoxFuture<'static, (Step, Done)>) {
        let (handle, registration) = AbortHandle::new_pair();
        self.calls.push(Abortable::new(call, registration));
        self.aborts.insert(step, handle);
    }

    fn waiting(&self) -> Waiting {
        Waiting::of(&self.shared.lock().machine)
    }

    /// The program returned, trapped, or was stopped by the core.
    async fn end(&mut self, ended: Ended) -> Result<Driven, DriveError> {
        end_lines(&mut self.shared.lock());
        let now = self.now();
        let finished = match ended {
            Ok(outcome) => self.shared.lock().machine.finish(outcome, now).err(),
            Err(error) => match error.downcast_ref::<Stop>() {
                Some(stop) => Some(stop.clone()),
                None => {
                    let module = self.drive.store.module(self.drive.module.digest);
                    let failure = trap::explain(&error, &self.shared, module).await?;
                    self.shared.lock().machine.terminate(failure, now);
                    None
                }
            },
        };
        match finished {
            None | Some(Stop::Ended) => {}
            Some(Stop::Mismatch(mismatch)) => return self.refuse(mismatch).await,
            Some(stop) => {
                let failure = Failure::new(FailureKind::Failed, stop.to_string());
                self.shared.lock().machine.terminate(failure, now);
            }
        }
        self.commit_end().await
    }

    /// The program departs from its journal: what it did in this execution is void. Only a
    /// request to stop can be carried out without it.
    async fn refuse(&mut self, mismatch: Box<Mismatch>) -> Result<Driven, DriveError> {
        let requests: Vec<_> = self.drive.store.inbox(self.drive.run).await?;
        let requests = requests.into_iter().filter_map(|message| match message.body {
            MessageBody::Cancel { reason } => Some((message.id, reason)),
            _ => None,
        });
        let mut consumed = Vec::new();
        let cancelled = {
            let mut inner = self.shared.lock();
            inner.emissions.clear();
            let now = self.now();
            for (id, reason) in requests {
                consumed.push(id);
                inner.machine.request_cancel(reason, now);
            }
            let asked = inner.machine.cancel_requested();
            if asked {
                let why = "the run was asked to stop while its module departed from its journal";
                inner.machine.terminate(Failure::new(FailureKind::Cancelled, why), now);
            }
            inner.machine.outcome().cloned().filter(|_| asked)
        };
        if let Some(outcome) = cancelled {
            self.append(self.end_of(&outcome), consumed).await?;
            return Ok(Driven::Ended(outcome));
        }
        let next = Next::Refuse { reason: mismatch.to_string() };
        let append = Append::new(self.drive.run.clone(), self.drive.epoch, Timestamp(0), next);
        self.drive.store.append(append).await?;
        (self.drive.committed)();
        Ok(Driven::Refused(mismatch))
    }

    fn end_of(&self, outcome: &Outcome) -> Next {
        let spent = self.shared.lock().machine.spent(self.now());
        Next::End { outcome: outcome.clone(), spent }
    }

    async fn commit_end(&mut self) -> Result<Driven, DriveError> {
        // Nobody waits for them any more.
        self.drop_calls().await;
        let outcome = self.shared.lock().machine.outcome().cloned();
        let Some(outcome) = outcome else {
            return Err(DriveError::Instance("the program ended without an outcome".to_owned()));
        };
        self.append(self.end_of(&outcome), Vec::new()).await?;
        Ok(Driven::Ended(outcome))
    }
}
