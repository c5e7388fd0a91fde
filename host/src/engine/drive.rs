//! The loop of one run: lets the program run, commits what happened, carries
//! out what it asked for, and tells the machine what the world answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, poll};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use wfhost_core::{
    Entry, Epoch, Failure, FailureKind, Mismatch, Op, Outcome, Position, Row, RunId, Step, Stop, Timestamp,
    Unsaved, Work,
};

use super::instance::{OutOfMemory, Shared};
use super::{Engine, Module, instance};
use crate::agents::{Call, Providers};
use crate::clock;
use crate::imports::{Misuse, returned};
use crate::store::{
    Append, Emission, MessageBody, NewMessage, Next, Posted, SharedStore, StoreError, Waiting,
};

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
    #[error("the program cannot be started: {0}")]
    Instance(String),
}

/// What happens in a run, for those who watch. Sent when it is committed.
#[derive(Clone, Debug)]
pub enum RunEvent {
    Entry {
        position: Position,
        entry: Arc<Entry>,
    },
    Emission(Emission),
    /// The program only waits now.
    Waiting(Waiting),
}

/// How driving ended.
#[derive(Debug)]
pub(crate) enum Driven {
    Ended(Outcome),
    /// It only waits; the lease is given up.
    Parked(Waiting),
    Refused(Box<Mismatch>),
    /// It was asked to leave off; the lease is given up.
    Stopped,
    /// Another process has taken it over.
    Lost,
}

/// All that driving a run needs.
pub(crate) struct Drive<'a> {
    pub engine: &'a Engine,
    pub store: &'a SharedStore,
    pub providers: &'a Providers,
    pub run: &'a RunId,
    pub epoch: Epoch,
    pub module: &'a Module,
    pub pace: Pace,
    pub events: &'a broadcast::Sender<RunEvent>,
    /// Something came into the inbox.
    pub inbox: &'a Notify,
    /// The host wants to leave off.
    pub stop: &'a Notify,
    /// Tells other runs of this host that something was sent to them.
    pub wake: Arc<dyn Fn(&RunId) + Send + Sync>,
}

type Calls = FuturesUnordered<Abortable<BoxFuture<'static, (Step, Outcome)>>>;

struct Driver<'a> {
    drive: Drive<'a>,
    shared: Shared,
    calls: Calls,
    aborts: HashMap<Step, AbortHandle>,
    commit_by: Option<Instant>,
    cancel_by: Option<Instant>,
}

enum Turn {
    Call(Step, Outcome),
    Time,
    Inbox,
    Stop,
    Park,
    Yield,
}

impl Drive<'_> {
    /// Drives the run until it ends, waits or has to be left.
    pub async fn run(self, machine: wfhost_core::Machine) -> Result<Driven, DriveError> {
        let mut driver = Driver {
            shared: Shared::new(machine),
            drive: self,
            calls: FuturesUnordered::new(),
            aborts: HashMap::new(),
            commit_by: None,
            cancel_by: None,
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
        let config = self.shared.lock().machine.started().config.clone();
        let input = self.shared.lock().machine.started().input.as_str().to_owned();
        let unfit = |error: wasmtime::Error| DriveError::Instance(format!("{error:#}"));
        let mut store = instance::store(self.drive.engine, self.shared.clone(), &config).map_err(unfit)?;
        // The program borrows nothing of the driver.
        let module = self.drive.module.clone();
        let program = async move {
            let workflow = module.pre.instantiate_async(&mut store).await?;
            let result = workflow.call_run(&mut store, &input).await?;
            returned(result)
        };
        let mut program = Box::pin(program);
        let mut only_waits_since: Option<Instant> = None;
        // What came in while nobody drove the run.
        let mut inbox_due = true;
        loop {
            if let std::task::Poll::Ready(ended) = poll!(&mut program) {
                drop(program);
                return self.end(ended).await;
            }
            let (blocked, live) = {
                let inner = self.shared.lock();
                (inner.blocked, inner.machine.is_live())
            };
            if live && inbox_due {
                inbox_due = false;
                if self.read_inbox().await? {
                    continue;
                }
            }
            if blocked || self.commit_by.is_some_and(|by| by <= Instant::now()) {
                self.commit(Next::Go).await?;
                // What is done at once is not waited for.
                if self.take_finished_calls() {
                    continue;
                }
            }
            if self.cancel_by.is_some_and(|by| by <= Instant::now()) {
                let failure = Failure::new(
                    FailureKind::Cancelled,
                    "the run was asked to stop and did not end by itself".to_owned(),
                );
                drop(program);
                self.shared.lock().machine.terminate(failure, clock::now());
                return self.commit_end().await;
            }
            let idle = blocked && self.calls.is_empty() && self.shared.lock().machine.only_waits();
            let park_at = match self.drive.pace {
                _ if !idle => None,
                Pace::ParkAtOnce => Some(Instant::now()),
                Pace::ParkAfter(grace) => Some(*only_waits_since.get_or_insert_with(Instant::now) + grace),
            };
            if !idle {
                only_waits_since = None;
            }
            match self.turn(blocked, live, park_at).await {
                Turn::Call(step, outcome) => self.complete(step, outcome),
                Turn::Time => {
                    // What came in before the deadline counts before it.
                    self.read_inbox().await?;
                    self.shared.lock().machine.fire_timers(clock::now());
                    self.commit_soon();
                }
                Turn::Inbox => inbox_due = true,
                Turn::Yield => {}
                Turn::Park => {
                    let waiting = self.waiting();
                    if !self.commit(Next::Park(waiting.clone())).await? {
                        return Ok(Driven::Parked(waiting));
                    }
                    inbox_due = true;
                }
                Turn::Stop => {
                    let waiting = self.waiting();
                    if idle && !self.commit(Next::Park(waiting)).await? {
                        return Ok(Driven::Stopped);
                    }
                    self.commit_only().await?;
                    self.drive.store.release(self.drive.run, self.drive.epoch).await?;
                    return Ok(Driven::Stopped);
                }
            }
        }
    }

    /// Waits for the next thing that happens.
    async fn turn(&mut self, blocked: bool, live: bool, park_at: Option<Instant>) -> Turn {
        let now = Instant::now();
        // While the program is replaying nothing is appended: it may yet turn out to depart
        // from its journal, which then has to be as it was.
        let deadline = self.shared.lock().machine.next_deadline().filter(|_| live).map(|at| {
            let millis = at.since(clock::now());
            now + Duration::from_millis(millis).min(CLOCK_CHECK)
        });
        let timers = [deadline, self.cancel_by, self.commit_by.filter(|_| !blocked)];
        let time = timers.into_iter().flatten().min();
        let at = |instant: Option<Instant>| async move {
            match instant {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(done) = self.calls.next(), if !self.calls.is_empty() => match done {
                Ok((step, outcome)) => Turn::Call(step, outcome),
                Err(_aborted) => Turn::Yield,
            },
            () = self.drive.stop.notified() => Turn::Stop,
            () = self.drive.inbox.notified() => Turn::Inbox,
            () = at(time) => Turn::Time,
            () = at(park_at) => Turn::Park,
            () = tokio::task::yield_now(), if !blocked => Turn::Yield,
        }
    }

    /// Takes the answers that are there without waiting.
    fn take_finished_calls(&mut self) -> bool {
        let mut any = false;
        while let Some(Some(done)) = self.calls.next().now_or_never() {
            if let Ok((step, outcome)) = done {
                self.complete(step, outcome);
                any = true;
            }
        }
        any
    }

    fn complete(&mut self, step: Step, outcome: Outcome) {
        self.aborts.remove(&step);
        self.shared.lock().machine.complete(step, outcome, clock::now());
        self.commit_soon();
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
            let now = clock::now();
            for message in messages {
                // Deadlines that passed before it was sent are met first.
                inner.machine.fire_timers(message.at.min(now));
                match message.body {
                    MessageBody::Signal { name, payload, id } => {
                        inner.machine.receive(name, payload, id, now);
                    }
                    MessageBody::Cancel { reason } => {
                        inner.machine.request_cancel(reason, now);
                        self.cancel_by.get_or_insert_with(|| Instant::now() + CANCEL_GRACE);
                    }
                }
            }
        }
        self.append(Next::Go, consumed).await?;
        Ok(true)
    }

    /// Commits what was appended and begins what the program asked for. True
    /// if the run was to be parked but something for it has come in.
    async fn commit(&mut self, next: Next) -> Result<bool, DriveError> {
        let work = self.shared.lock().machine.take_work(clock::now());
        let due = self.append(next, Vec::new()).await?;
        for work in work {
            match work {
                Work::Execute { step, attempt, op } => self.execute(step, attempt, op)?,
                Work::Abort { step } => {
                    if let Some(handle) = self.aborts.remove(&step) {
                        handle.abort();
                    }
                }
            }
        }
        Ok(due)
    }

    /// Commits what was appended without beginning anything new.
    async fn commit_only(&mut self) -> Result<(), DriveError> {
        self.append(Next::Go, Vec::new()).await.map(drop)
    }

    async fn append(
        &mut self,
        next: Next,
        consumed: Vec<crate::store::MessageId>,
    ) -> Result<bool, DriveError> {
        self.commit_by = None;
        let (row, at, emissions, first_emission) = {
            let mut inner = self.shared.lock();
            let emissions = std::mem::take(&mut inner.emissions);
            let first_emission = inner.first_emission;
            inner.first_emission += emissions.len() as u64;
            (inner.machine.take_unsaved(), inner.machine.last_at(), emissions, first_emission)
        };
        if row.is_none() && emissions.is_empty() && consumed.is_empty() && next == Next::Go {
            return Ok(false);
        }
        let watched = self.drive.events.receiver_count() > 0;
        let shown = watched.then(|| (row.clone(), emissions.clone()));
        let append = Append {
            run: self.drive.run.clone(),
            epoch: self.drive.epoch,
            at,
            row: row.map(|Unsaved { first, count, bytes, head }| Row { first, count, bytes, head }),
            consumed,
            first_emission,
            emissions,
            next,
        };
        let appended = self.drive.store.append(append).await?;
        if let Some((row, emissions)) = shown {
            self.show(row, emissions);
        }
        Ok(appended.due)
    }

    fn show(&self, row: Option<Unsaved>, emissions: Vec<Emission>) {
        if let Some(row) = row {
            let mut position = row.first;
            let mut bytes = row.bytes.as_slice();
            while let Ok((entry, length)) = Entry::decode(bytes, position) {
                let _ = self.drive.events.send(RunEvent::Entry { position, entry: Arc::new(entry) });
                position.0 += 1;
                bytes = &bytes[length..];
            }
        }
        for emission in emissions {
            let _ = self.drive.events.send(RunEvent::Emission(emission));
        }
    }

    fn execute(&mut self, step: Step, attempt: u32, op: Op) -> Result<(), DriveError> {
        let unavailable = |what: &str| {
            let message = format!("`{what}` is unavailable in this version of wfhost");
            Failure::new(FailureKind::Unavailable, message)
        };
        let failure = match op {
            Op::Agent(request) => {
                let (key, default) = {
                    let inner = self.shared.lock();
                    let config = &inner.machine.started().config;
                    (inner.machine.idempotency_key(step), config.agent.clone())
                };
                let run = self.drive.run.clone();
                // Attempt n goes to the n-th of the list, the last one to the rest.
                let listed = request.providers.len().min(attempt as usize).checked_sub(1);
                let named = listed.map(|index| request.providers[index].clone());
                let provider = match (named, self.drive.providers.default_provider(), default) {
                    (None, Some(provider), _) => provider,
                    (Some(name), ..) | (None, None, Some(name)) => match self.drive.providers.get(&name) {
                        Some(provider) => provider,
                        None => return Err(DriveError::NoProvider { run, provider: name }),
                    },
                    (None, None, None) => return Err(DriveError::NoDefaultProvider { run }),
                };
                let call = Call { run, step, attempt, key, request: *request };
                self.begin(step, async move {
                    let reply = provider.call(call).await;
                    let outcome = reply
                        .and_then(|reply| answer(&reply))
                        .map_err(|failure| Failure { attempts: failure.attempts.max(attempt), ..failure });
                    (step, outcome)
                });
                return Ok(());
            }
            Op::Send { run, name, payload } => {
                let store = Arc::clone(self.drive.store);
                let id = format!("{}/{step}", self.drive.run);
                let target = run.parse::<RunId>();
                let wake = Arc::clone(&self.drive.wake);
                self.begin(step, async move {
                    let outcome = match target {
                        Ok(run) => {
                            let sent = send(&store, run.clone(), name, payload, id).await;
                            wake(&run);
                            sent
                        }
                        Err(error) => Err(Failure::new(FailureKind::Rejected, error.to_string())),
                    };
                    (step, outcome)
                });
                return Ok(());
            }
            Op::Ask { .. } => unavailable("signal.ask"),
            Op::Child { .. } => unavailable("child"),
            Op::ContinueAsNew { .. } => unavailable("context.continue-as-new"),
            Op::Sleep { .. } | Op::SleepUntil { .. } | Op::Signal { .. } => return Ok(()),
        };
        self.begin(step, std::future::ready((step, Err(failure))));
        Ok(())
    }

    fn begin(&mut self, step: Step, call: impl Future<Output = (Step, Outcome)> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.calls.push(Abortable::new(call.boxed(), registration));
        self.aborts.insert(step, handle);
    }

    fn waiting(&self) -> Waiting {
        let inner = self.shared.lock();
        Waiting { until: inner.machine.next_deadline(), signals: inner.machine.wanted_signals() }
    }

    /// The program returned, trapped, or was stopped by the core.
    async fn end(&mut self, ended: wasmtime::Result<Outcome>) -> Result<Driven, DriveError> {
        crate::sandbox::end_lines(&mut self.shared.lock());
        let finished = match ended {
            Ok(outcome) => self.shared.lock().machine.finish(outcome, clock::now()).err(),
            Err(error) => match error.downcast_ref::<Stop>() {
                Some(stop) => Some(stop.clone()),
                None => {
                    let failure = self.trap(&error);
                    let mut inner = self.shared.lock();
                    inner.machine.terminate(failure, clock::now());
                    None
                }
            },
        };
        match finished {
            None => {}
            Some(Stop::Mismatch(mismatch)) => {
                let reason = mismatch.to_string();
                // Nothing but the state changes: what the program did since is void.
                let append = Append {
                    run: self.drive.run.clone(),
                    epoch: self.drive.epoch,
                    at: Timestamp(0),
                    row: None,
                    consumed: Vec::new(),
                    first_emission: 0,
                    emissions: Vec::new(),
                    next: Next::Refuse { reason },
                };
                self.drive.store.append(append).await?;
                return Ok(Driven::Refused(mismatch));
            }
            Some(Stop::Ended) => {}
            Some(stop) => {
                let failure = Failure::new(FailureKind::Failed, stop.to_string());
                self.shared.lock().machine.terminate(failure, clock::now());
            }
        }
        self.commit_end().await
    }

    async fn commit_end(&mut self) -> Result<Driven, DriveError> {
        // Calls that nobody waits for any more.
        self.calls.clear();
        let outcome = self.shared.lock().machine.outcome().cloned();
        let Some(outcome) = outcome else {
            return Err(DriveError::Instance("the program ended without an outcome".to_owned()));
        };
        self.append(Next::End { outcome: outcome.clone() }, Vec::new()).await?;
        Ok(Driven::Ended(outcome))
    }

    /// Why a program that trapped failed, as its author wants to read it.
    fn trap(&self, error: &wasmtime::Error) -> Failure {
        if let Some(Misuse(failure)) = error.downcast_ref::<Misuse>() {
            return failure.clone();
        }
        if let Some((message, place)) = self.shared.lock().panic.take() {
            let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
            return Failure::new(FailureKind::Failed, format!("the program panicked{place}: {message}"));
        }
        let root = error.root_cause();
        if let Some(memory) = root.downcast_ref::<OutOfMemory>() {
            return Failure::new(FailureKind::Failed, memory.to_string());
        }
        let place = place_of(error).map(|place| format!(" at {place}")).unwrap_or_default();
        let message = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::OutOfFuel) => {
                if let Some(failure) = self.shared.lock().last_fuel.take() {
                    return failure;
                }
                let fuel = self.shared.lock().machine.started().config.fuel;
                format!("the program used up its {fuel} units of fuel between two steps{place}")
            }
            Some(wasmtime::Trap::StackOverflow) => format!("the program ran out of stack{place}"),
            Some(trap) => format!("the program trapped{place}: {trap}"),
            None => match instance::limit_message(&root.to_string(), &self.shared.lock().machine.started().config) {
                Some(limit) => limit,
                None => format!("the program was stopped{place}: {root}"),
            },
        };
        Failure::new(FailureKind::Failed, message)
    }
}

/// `file:line:column` of the innermost frame that has debug information.
fn place_of(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>()?;
    let symbols = backtrace.frames().iter().flat_map(|frame| frame.symbols());
    symbols
        .filter_map(|symbol| Some((symbol.file()?, symbol.line()?, symbol.column().unwrap_or(1))))
        .find_map(|(file, line, column)| {
            // The standard library's own lines help nobody.
            let own = !file.contains("/rustc/") && !file.contains("/library/");
            own.then(|| format!("{file}:{line}:{column}"))
        })
}

/// What the journal keeps of an answer.
fn answer(reply: &wfhost_core::Reply) -> Outcome {
    wfhost_core::limits::check(
        "an agent's answer",
        reply.output.as_str().len(),
        wfhost_core::limits::ANSWER_BYTES,
    )
    .map_err(|error| Failure::new(FailureKind::InvalidOutput, error.to_string()))?;
    let text = serde_json::to_string(reply)
        .map_err(|error| Failure::new(FailureKind::InvalidOutput, error.to_string()))?;
    wfhost_core::Json::parse(text)
        .map_err(|error| Failure::new(FailureKind::InvalidOutput, error.to_string()))
}

/// Puts a signal into another run's inbox. The id makes a repetition harmless.
async fn send(
    store: &SharedStore,
    run: RunId,
    name: String,
    payload: wfhost_core::Json,
    id: String,
) -> Outcome {
    let body = MessageBody::Signal { name, payload, id: Some(id) };
    let rejected = |message| Err(Failure::new(FailureKind::Rejected, message));
    match store.post(NewMessage { run: run.clone(), at: clock::now(), body }).await {
        Ok(Posted::Added | Posted::Duplicate) => Ok(wfhost_core::Json::null()),
        Ok(Posted::Ended) => rejected(format!("{run} has ended")),
        Ok(Posted::NoSuchRun) => rejected(format!("there is no run {run}")),
        Err(error) => Err(Failure::new(FailureKind::Unavailable, error.to_string())),
    }
}
