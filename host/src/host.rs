//! The embedding API: a host advances runs and keeps them in a store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use wfhost_core::{
    Digest, Entry, Event, Journal, JournalError, Json, Machine, Mismatch, Outcome, Row, RunConfig, RunId,
    Started, Timestamp, limits,
};

use crate::agents::Providers;
use crate::clock;
use crate::engine::{Denied, Drive, DriveError, Driven, Engine, Module, ModuleError, Pace, RunEvent};
use crate::owner;
use crate::store::{
    Claim, Claimed, Created, MessageBody, NewMessage, NewRun, Owner, Posted, RunInfo, SharedStore,
    StoreError, Waiting,
};

/// How long a lease runs, in milliseconds, and how often it is renewed.
const LEASE_MS: u64 = 30_000;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How often the store is asked whether another process wrote something.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// How long a run may only wait before its program is dropped from memory.
const PARK_GRACE: Duration = Duration::from_secs(2);
/// Events that a slow watcher may be behind before it misses some.
const EVENT_BUFFER: usize = 4096;

/// When the program of a waiting run is dropped from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Evict {
    /// After some seconds of waiting.
    #[default]
    AfterGrace,
    /// At every wait: slower, for tests of programs.
    Always,
}

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub store: SharedStore,
    /// Where compiled components are kept; nowhere if none.
    pub cache: Option<PathBuf>,
    pub providers: Providers,
    pub evict: Evict,
    /// Whether [`RunHandle::events`] will be asked for.
    pub events: bool,
}

/// What a new run is given.
#[derive(Clone, Debug)]
pub struct StartOptions {
    pub input: Json,
    /// A fresh id if none.
    pub id: Option<RunId>,
    /// The same key gives the same run.
    pub key: Option<String>,
    pub labels: Vec<(String, String)>,
    pub config: RunConfig,
    /// What the run's random numbers are made of; drawn from the system if none.
    pub seed: Option<[u8; 32]>,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self { input: Json::null(), id: None, key: None, labels: Vec::new(), config: RunConfig::default(), seed: None }
    }
}

/// Why the host did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error("the journal of {run} cannot be used: {source}")]
    Journal { run: RunId, source: JournalError },
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    #[error("{run} has ended")]
    Ended { run: RunId },
    #[error("{run} is advanced by process {} on {}", .owner.pid, .owner.host)]
    Held { run: RunId, owner: Owner, until: Timestamp },
    #[error("the module of {run} ({digest}) is not in the store")]
    NoModule { run: RunId, digest: Digest },
    #[error(transparent)]
    TooLarge(#[from] limits::TooLarge),
    #[error("no random numbers can be had from the system: {0}")]
    Random(String),
}

/// How following a run came to an end.
#[derive(Debug)]
pub enum Ending {
    Finished(Outcome),
    /// Its module departs from its journal. Nothing was executed.
    Refused(Box<Mismatch>),
    /// It was left where it is, by [`RunHandle::stop`].
    Stopped,
}

/// Advances runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    store: SharedStore,
    providers: Providers,
    evict: Evict,
    events: bool,
    owner: Owner,
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    modules: Mutex<HashMap<Digest, Module>>,
}

/// A run that this host advances or watches.
#[derive(Debug)]
struct Live {
    inbox: Notify,
    stop: Notify,
    events: broadcast::Sender<RunEvent>,
    lease: Mutex<Option<wfhost_core::Epoch>>,
}

/// A run that this host advances.
#[derive(Debug)]
pub struct RunHandle {
    pub id: RunId,
    live: Arc<Live>,
    events: Option<broadcast::Receiver<RunEvent>>,
    task: JoinHandle<Result<Ending, HostError>>,
}

impl RunHandle {
    /// What happens from the beginning of this execution on, if the host was
    /// set up with events; the first time only.
    pub fn events(&mut self) -> Option<broadcast::Receiver<RunEvent>> {
        self.events.take()
    }

    /// Leaves the run as soon as what it has is committed; calls under way are
    /// dropped. It can be resumed at any time.
    pub fn stop(&self) {
        self.live.stop.notify_one();
    }

    /// Waits for the end.
    pub async fn ending(&mut self) -> Result<Ending, HostError> {
        match (&mut self.task).await {
            Ok(ending) => ending,
            Err(error) => Err(DriveError::Instance(error.to_string()).into()),
        }
    }
}

impl Host {
    /// A host over a store. Has to be called within a tokio runtime.
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        let inner = Arc::new(Inner {
            engine: Engine::new(options.cache)?,
            store: options.store,
            providers: options.providers,
            evict: options.evict,
            events: options.events,
            owner: owner::this_process(),
            live: Mutex::default(),
            modules: Mutex::default(),
        });
        tokio::spawn(watch(Arc::downgrade(&inner)));
        tokio::spawn(renew(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    /// Checks and compiles a module, and keeps its bytes in the store.
    pub async fn add_module(&self, name: &str, bytes: &[u8]) -> Result<Module, HostError> {
        self.add_module_with(name, bytes, Denied::Refuse).await
    }

    /// The same, with a choice of what becomes of imports that are denied.
    pub async fn add_module_with(
        &self,
        name: &str,
        bytes: &[u8],
        denied: Denied,
    ) -> Result<Module, HostError> {
        let digest = Digest::of(bytes);
        let module = self.inner.engine.module(name, digest, bytes, denied)?;
        self.inner.store.put_module(name, bytes).await?;
        lock(&self.inner.modules).insert(digest, module.clone());
        Ok(module)
    }

    /// Begins a run, or finds the one that has the key.
    pub async fn start(&self, module: &Module, options: StartOptions) -> Result<RunHandle, HostError> {
        limits::check("the input", options.input.as_str().len(), limits::INPUT_BYTES)?;
        if let Some(key) = &options.key {
            limits::check("the key", key.len(), limits::KEY_BYTES)?;
        }
        let now = clock::now();
        let seed = match options.seed {
            Some(seed) => seed,
            None => {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed).map_err(|error| HostError::Random(error.to_string()))?;
                seed
            }
        };
        let id = match options.id {
            Some(id) => id,
            None => fresh_id()?,
        };
        let started = Started {
            run: id.clone(),
            workflow: module.name.to_string(),
            module: module.digest,
            input: options.input,
            seed,
            config: options.config,
            labels: options.labels.clone(),
            parent: None,
        };
        let mut machine = Machine::start(started, now);
        let Some(first) = machine.take_unsaved() else {
            return Err(DriveError::Instance("a run without a first entry".to_owned()).into());
        };
        let created = self
            .inner
            .store
            .create(NewRun {
                id: id.clone(),
                key: options.key,
                workflow: module.name.to_string(),
                module: module.digest,
                labels: options.labels,
                parent: None,
                created_at: now,
                owner: self.inner.owner.clone(),
                lease_until: now.after(LEASE_MS),
                row: Row { first: first.first, count: first.count, bytes: first.bytes, head: first.head },
            })
            .await?;
        match created {
            Created::New => Ok(self.spawn(id, Some((wfhost_core::Epoch(1), machine, module.clone())))),
            Created::Known(id) => Ok(self.spawn(id, None)),
        }
    }

    /// Goes on with a run. One that has ended, or that a living process
    /// advances, is an error.
    pub async fn resume(&self, id: &RunId) -> Result<RunHandle, HostError> {
        match self.inner.claim(id).await? {
            Claimed::Yes { epoch, emissions } => {
                let (machine, module) = self.inner.open(id, emissions).await?;
                Ok(self.spawn(id.clone(), Some((epoch, machine, module))))
            }
            Claimed::Held { owner, until } => Err(HostError::Held { run: id.clone(), owner, until }),
            Claimed::Ended => Err(HostError::Ended { run: id.clone() }),
            Claimed::NoSuchRun => Err(HostError::NoSuchRun(id.clone())),
        }
    }

    /// Sends a message to a run of this store, whoever advances it.
    pub async fn post(&self, run: &RunId, body: MessageBody) -> Result<Posted, HostError> {
        if let MessageBody::Signal { name, payload, id } = &body {
            limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
            limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)?;
            limits::check("the id of a signal", id.as_ref().map_or(0, String::len), limits::KEY_BYTES)?;
        }
        let message = NewMessage { run: run.clone(), at: clock::now(), body };
        let posted = self.inner.store.post(message).await?;
        self.inner.wake(run);
        Ok(posted)
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        self.inner.journal(run).await
    }

    fn spawn(&self, id: RunId, ready: Option<(wfhost_core::Epoch, Machine, Module)>) -> RunHandle {
        let live = Arc::new(Live {
            inbox: Notify::new(),
            stop: Notify::new(),
            events: broadcast::Sender::new(EVENT_BUFFER),
            lease: Mutex::new(ready.as_ref().map(|(epoch, ..)| *epoch)),
        });
        let events = self.inner.events.then(|| live.events.subscribe());
        lock(&self.inner.live).insert(id.clone(), Arc::clone(&live));
        let (inner, run, mine) = (Arc::clone(&self.inner), id.clone(), Arc::clone(&live));
        let task = tokio::spawn(async move {
            let ending = inner.follow(&run, &mine, ready).await;
            lock(&inner.live).remove(&run);
            ending
        });
        RunHandle { id, live, events, task }
    }
}

impl Inner {
    /// Advances a run, parks it and takes it up again, until it ends.
    async fn follow(
        self: &Arc<Self>,
        run: &RunId,
        live: &Live,
        mut ready: Option<(wfhost_core::Epoch, Machine, Module)>,
    ) -> Result<Ending, HostError> {
        loop {
            let (epoch, machine, module) = match ready.take() {
                Some(ready) => ready,
                None => match self.claim(run).await? {
                    Claimed::Yes { epoch, emissions } => {
                        let opened = self.open(run, emissions).await;
                        if opened.is_err() {
                            self.store.release(run, epoch).await?;
                        }
                        let (machine, module) = opened?;
                        (epoch, machine, module)
                    }
                    // Somebody else is at it: look again when something was written.
                    Claimed::Held { .. } => {
                        if self.pause(live, None).await {
                            return Ok(Ending::Stopped);
                        }
                        continue;
                    }
                    Claimed::Ended => return self.recorded_end(run).await,
                    Claimed::NoSuchRun => return Err(HostError::NoSuchRun(run.clone())),
                },
            };
            *lock(&live.lease) = Some(epoch);
            let weak = Arc::downgrade(self);
            let driven = Drive {
                engine: &self.engine,
                store: &self.store,
                providers: &self.providers,
                run,
                epoch,
                module: &module,
                pace: match self.evict {
                    Evict::AfterGrace => Pace::ParkAfter(PARK_GRACE),
                    Evict::Always => Pace::ParkAtOnce,
                },
                events: &live.events,
                inbox: &live.inbox,
                stop: &live.stop,
                wake: Arc::new(move |run| {
                    if let Some(inner) = Weak::upgrade(&weak) {
                        inner.wake(run);
                    }
                }),
            }
            .run(machine)
            .await;
            *lock(&live.lease) = None;
            let waiting = match driven {
                Ok(Driven::Ended(outcome)) => return Ok(Ending::Finished(outcome)),
                Ok(Driven::Refused(mismatch)) => return Ok(Ending::Refused(mismatch)),
                Ok(Driven::Stopped) => return Ok(Ending::Stopped),
                Ok(Driven::Lost) => continue,
                Ok(Driven::Parked(waiting)) => waiting,
                Err(error) => {
                    // The run stays as it was committed; somebody may take it up at once.
                    let _ = self.store.release(run, epoch).await;
                    return Err(error.into());
                }
            };
            let _ = live.events.send(RunEvent::Waiting(waiting.clone()));
            loop {
                if waiting.until.is_some_and(|until| until <= clock::now())
                    || self.is_due(run, &waiting).await?
                {
                    break;
                }
                if self.pause(live, waiting.until).await {
                    return Ok(Ending::Stopped);
                }
            }
        }
    }

    /// Whether a parked run has something to go on with, or is parked no more.
    async fn is_due(&self, run: &RunId, waiting: &Waiting) -> Result<bool, HostError> {
        let messages = self.store.inbox(run).await?;
        let wakes = |body: &MessageBody| match body {
            MessageBody::Signal { name, .. } => waiting.signals.contains(name),
            MessageBody::Cancel { .. } => true,
        };
        if messages.iter().any(|message| wakes(&message.body)) {
            return Ok(true);
        }
        let info = self.store.run(run).await?;
        Ok(info.is_none_or(|info| info.state != crate::store::RunState::Waiting))
    }

    /// Waits until something may have happened. True if the run is to be left.
    async fn pause(&self, live: &Live, until: Option<Timestamp>) -> bool {
        // Looked at again now and then: the clock may be set, an owner may die silently.
        let longest = Duration::from_secs(1);
        let length =
            until.map_or(longest, |until| Duration::from_millis(until.since(clock::now())).min(longest));
        tokio::select! {
            () = live.stop.notified() => true,
            () = live.inbox.notified() => false,
            () = tokio::time::sleep(length) => false,
        }
    }

    async fn recorded_end(&self, run: &RunId) -> Result<Ending, HostError> {
        let info = self.store.run(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        info.outcome.map(Ending::Finished).ok_or(HostError::Ended { run: run.clone() })
    }

    /// Takes a run over if nobody living has it.
    async fn claim(&self, run: &RunId) -> Result<Claimed, HostError> {
        let mut dead: Option<Owner> = None;
        loop {
            let now = clock::now();
            let claim =
                Claim { run, owner: &self.owner, now, until: now.after(LEASE_MS), dead: dead.as_ref() };
            let claimed = self.store.claim(claim).await?;
            match &claimed {
                Claimed::Held { owner, .. } if dead.as_ref() != Some(owner) && owner::is_dead(owner) => {
                    dead = Some(owner.clone());
                }
                _ => return Ok(claimed),
            }
        }
    }

    async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        let rows = self.store.journal(run).await?;
        Journal::read(rows).map_err(|source| HostError::Journal { run: run.clone(), source })
    }

    async fn open(&self, run: &RunId, emissions: u64) -> Result<(Machine, Module), HostError> {
        let journal = self.journal(run).await?;
        let machine = Machine::open(journal, emissions)
            .map_err(|source| HostError::Journal { run: run.clone(), source })?;
        let started = machine.started();
        let module = self.module(run, started.module, &started.workflow).await?;
        Ok((machine, module))
    }

    async fn module(&self, run: &RunId, digest: Digest, name: &str) -> Result<Module, HostError> {
        let known = lock(&self.modules).get(&digest).cloned().or_else(|| self.engine.cached(name, digest));
        let module = match known {
            Some(module) => module,
            None => {
                let bytes = self.store.module(digest).await?;
                let bytes = bytes.ok_or_else(|| HostError::NoModule { run: run.clone(), digest })?;
                // It was accepted when the run began.
                self.engine.module(name, digest, &bytes, Denied::Trap)?
            }
        };
        lock(&self.modules).insert(digest, module.clone());
        Ok(module)
    }

    fn wake(&self, run: &RunId) {
        if let Some(live) = lock(&self.live).get(run) {
            live.inbox.notify_one();
        }
    }
}

/// Notices what other processes write, and has the runs of this host look.
async fn watch(inner: Weak<Inner>) {
    let mut seen = None;
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        // A store that fails shows it where it is used.
        let Ok(version) = inner.store.version() else { continue };
        if seen.replace(version).is_some_and(|seen| seen != version) {
            for live in lock(&inner.live).values() {
                live.inbox.notify_one();
            }
        }
    }
}

/// Keeps the leases of the runs of this host.
async fn renew(inner: Weak<Inner>) {
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let leases: Vec<_> = lock(&inner.live)
            .iter()
            .filter_map(|(run, live)| Some((run.clone(), (*lock(&live.lease))?)))
            .collect();
        if !leases.is_empty() {
            // A lease that is lost shows at the next append.
            let _ = inner.store.renew(&leases, clock::now().after(LEASE_MS)).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `run_` and a ULID in lower case.
pub(crate) fn fresh_id() -> Result<RunId, HostError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| HostError::Random(error.to_string()))?;
    let ulid = ulid::Ulid::from_parts(clock::now().0, u128::from_le_bytes(random));
    let text = format!("run_{}", ulid.to_string().to_lowercase());
    text.parse().map_err(|error: wfhost_core::BadRunId| HostError::Random(error.to_string()))
}

/// The entries of a journal that tell how each step went; for `show`.
#[derive(Clone, Debug)]
pub struct StepInfo {
    pub step: wfhost_core::Step,
    pub op: wfhost_core::Op,
    pub attempts: u32,
    pub started_at: Timestamp,
    pub ended: Option<(Timestamp, Option<Outcome>)>,
}

/// What a journal says of each step, in order.
pub fn steps(journal: &Journal) -> Vec<StepInfo> {
    let mut steps: Vec<StepInfo> = Vec::new();
    let mut waits: Vec<(String, usize)> = Vec::new();
    let mut early: Vec<(String, Json)> = Vec::new();
    for (position, Entry { at, event }) in journal.entries.iter().enumerate() {
        let index = |step: &wfhost_core::Step| (step.0 as usize).wrapping_sub(1);
        match event {
            Event::Scheduled { step, op } => {
                let Ok(op) = wfhost_core::decode_op(op, wfhost_core::Position(position as u64)) else {
                    continue;
                };
                let mut ended = None;
                if let wfhost_core::Op::Signal { name, .. } = &op {
                    match early.iter().position(|(early, _)| early == name) {
                        Some(first) => ended = Some((*at, Some(Ok(early.remove(first).1)))),
                        None => waits.push((name.clone(), steps.len())),
                    }
                }
                let attempts = u32::from(matches!(op, wfhost_core::Op::Agent(_)));
                steps.push(StepInfo { step: *step, op, attempts, started_at: *at, ended });
            }
            Event::Attempted { step, attempt, .. } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.attempts = *attempt;
                }
            }
            Event::Completed { step, outcome } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.ended = Some((*at, Some(outcome.clone().into())));
                }
                waits.retain(|(_, wait)| *wait != index(step));
            }
            Event::Cancelled { step } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.ended = Some((*at, None));
                }
                waits.retain(|(_, wait)| *wait != index(step));
            }
            Event::Received { name, payload, .. } => match waits.iter().position(|(wait, _)| wait == name) {
                Some(first) => {
                    let (_, step) = waits.remove(first);
                    steps[step].ended = Some((*at, Some(Ok(payload.clone()))));
                }
                None => early.push((name.clone(), payload.clone())),
            },
            Event::CancelRequested { .. } => {
                for info in steps.iter_mut().filter(|info| info.ended.is_none()) {
                    info.ended = Some((*at, None));
                }
                waits.clear();
            }
            Event::Started(_) | Event::Patched { .. } | Event::Finished { .. } => {}
        }
    }
    steps
}

/// Whether somebody living advances the run.
pub fn is_held(info: &RunInfo) -> bool {
    info.lease.as_ref().is_some_and(|(owner, until)| *until > clock::now() && !owner::is_dead(owner))
}
