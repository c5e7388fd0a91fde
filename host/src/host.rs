//! The embedding API: a host advances runs and keeps them in a store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tokio::sync::Notify;
use wfhost_agents::{Gate, Providers, ScriptError};
use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    CannotRetry, Digest, Epoch, Event, Failure, FailureKind, Given, Grant, Journal, JournalError, Json,
    Machine, Mismatch, RetryPlan, Row, RunConfig, RunId, Started, Step, Timestamp, limits, plan_retry,
};
use wfhost_runtime::{self as engine, Denied, Engine, GrantError, Module, ModuleError, StackError};
use wfhost_schema::{self as schema, BadAnswer};
use wfhost_store::{
    Append, ClaimHow, Claimed, Created, MessageBody, ModuleInfo, NewMessage, NewRun, Next, Opened, Owner,
    PARENT_GONE, Posted, Projects, RunInfo, SharedStore, StoreError,
};
use wfhost_world::{NoRandom, World, fresh_id, fresh_seed, owner};

use crate::described::{self, Descriptions, Unfit};
use crate::drive::{self, DriveError, Leave, Replayed};
use crate::family::{self, Modules, Wanted};
use crate::handle::RunHandle;
use crate::observer::{Notice, Observer};
use crate::script::{CannotKeep, keep_script};
use crate::surroundings::Surroundings;
use crate::virtual_time::{Ahead, Planned, VirtualTime};
use crate::worker::{Back, Current, From, InHand, Inner, Ready, State};

/// Processes that want the same run at the same time take it from each other this often at most.
const SEIZED_AT_MOST: u32 = 10;

/// When the program of a waiting run is dropped from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Evict {
    /// After some seconds of waiting.
    #[default]
    AfterGrace,
    /// At every wait: slower, for tests of programs.
    Always,
}

/// Which runs a host claims on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Adopt {
    /// All due runs, whichever process started them.
    #[default]
    Due,
    /// Only those that are followed through a [`RunHandle`].
    Own,
}

/// The configurations of projects.
pub trait Configurations: fmt::Debug + Send + Sync {
    /// Who answers the calls of the runs of a project, by its name; those that the host was given if none.
    fn providers(&self, project: &str) -> Option<Providers>;
}

impl Configurations for BTreeMap<String, Providers> {
    fn providers(&self, project: &str) -> Option<Providers> {
        self.get(project).cloned()
    }
}

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub store: SharedStore,
    /// Where compiled components are kept; nowhere if none.
    pub cache: Option<PathBuf>,
    /// An engine that the hosts of a process share; `cache` is not used then. One of its own if none.
    pub engine: Option<Arc<Engine>>,
    pub providers: Providers,
    pub evict: Evict,
    pub adopt: Adopt,
    /// Of which projects, if all due runs are claimed.
    pub projects: Projects,
    /// Who answers the calls of the runs of a project, if not `providers`.
    pub configured: Arc<dyn Configurations>,
    /// Whether runs that name a script are answered by it, if there is no other one.
    pub scripts: bool,
    /// Runs that are driven at the same time. The others wait in the store.
    pub max_live: usize,
    /// How long a lease runs, in milliseconds.
    pub lease_ms: u64,
    /// How often is looked for what nobody tells of, if more seldom than usual: owners that died, times
    /// that came early. A simulation, in which all is told, need not look.
    pub look_every: Duration,
    pub world: Arc<dyn World>,
    /// Is told what the host does.
    pub observer: Option<Arc<dyn Observer>>,
    /// Puts the clock forward to the next deadline whenever nothing else can go on. Runs stay in memory
    /// while they wait. Only for a store that no other host advances runs of.
    pub virtual_time: bool,
}

impl HostOptions {
    /// The defaults over a store.
    pub fn new(store: SharedStore) -> Self {
        Self {
            cache: None,
            engine: None,
            providers: Providers::builtin(),
            evict: Evict::default(),
            adopt: Adopt::default(),
            projects: Projects::All,
            configured: Arc::new(BTreeMap::new()),
            scripts: true,
            max_live: 2_000,
            lease_ms: 30_000,
            look_every: Duration::ZERO,
            world: Arc::new(Surroundings(Arc::clone(&store))),
            store,
            observer: None,
            virtual_time: false,
        }
    }
}

/// What a new run is given.
#[derive(Clone, Debug)]
pub struct StartOptions {
    pub input: Json,
    /// A fresh id if none.
    pub id: Option<RunId>,
    /// The same key gives the same run of a workflow.
    pub key: Option<String>,
    pub labels: Vec<(String, String)>,
    pub config: RunConfig,
    /// Of everything random; drawn if none.
    pub seed: Option<[u8; 32]>,
    /// The input is not compared with what the module says that it takes.
    pub unchecked: bool,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            input: Json::null(),
            id: None,
            key: None,
            labels: Vec::new(),
            config: RunConfig::default(),
            seed: None,
            unchecked: false,
        }
    }
}

/// How a run is resumed.
#[derive(Clone, Debug, Default)]
pub struct ResumeOptions {
    /// Who answers its calls here, if not those that the host was given.
    pub providers: Option<Providers>,
    /// The module that it goes on with. Its journal has to agree.
    pub module: Option<Module>,
    /// What it may spend from now on; what is not said stays. A run that failed
    /// because it had spent its budget goes on with the calls that it could not pay for.
    /// One that this host advances already is to be paused before.
    pub budget: Option<Budget>,
}

/// Why the host did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error("the journal of {run} cannot be read: {source}")]
    Journal { run: RunId, source: JournalError },
    #[error("unknown run {0}")]
    NoSuchRun(RunId),
    #[error("{run} has ended")]
    Ended { run: RunId },
    #[error("{run} is advanced by process {} on {}", .owner.pid, .owner.host)]
    Held { run: RunId, owner: Owner },
    #[error("{run} is advanced by this process already, and takes no other budget meanwhile")]
    Driven { run: RunId },
    #[error("the module of {run} ({digest}) is not in the store")]
    NoModule { run: RunId, digest: Digest },
    #[error("{run} is not compatible with the module {new}: {mismatch}")]
    Departs { run: RunId, old: Digest, new: Digest, mismatch: Box<Mismatch> },
    #[error("{run} cannot be retried: {reason}")]
    CannotRetry { run: RunId, reason: CannotRetry },
    #[error("{run} has no open question{}", .step.map(|step| format!(" at step {step}")).unwrap_or_default())]
    NoQuestion { run: RunId, step: Option<Step> },
    #[error("the answer does not match: {0}")]
    BadAnswer(#[from] BadAnswer),
    #[error("the id `{id}` is that of another call of {run}: `{name}`")]
    OtherCall { run: RunId, id: String, name: String },
    #[error("{0}")]
    Unfit(Box<Unfit>),
    #[error(transparent)]
    TooLarge(#[from] limits::TooLarge),
    #[error(transparent)]
    Random(#[from] NoRandom),
}

impl std::convert::From<CannotKeep> for HostError {
    fn from(error: CannotKeep) -> Self {
        match error {
            CannotKeep::Store(error) => Self::Store(error),
            CannotKeep::Script(error) => Self::Script(error),
        }
    }
}

impl std::convert::From<Box<Unfit>> for HostError {
    fn from(unfit: Box<Unfit>) -> Self {
        Self::Unfit(unfit)
    }
}

/// A run that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submitted {
    pub run: RunId,
    /// False if there was one with the key already, which is this one.
    pub is_new: bool,
}

/// Advances runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

impl Host {
    /// A host over a store. Has to be called within a tokio runtime.
    pub fn new(mut options: HostOptions) -> Result<Self, HostError> {
        let work: Arc<Notify> = Arc::default();
        let time = options.virtual_time.then(|| Arc::new(VirtualTime::new(Arc::clone(&work))));
        if let Some(time) = &time {
            options.world = Arc::new(Ahead { world: options.world, time: Arc::clone(time) });
        }
        let inner = Arc::new(Inner {
            engine: match options.engine {
                Some(engine) => engine,
                None => Arc::new(Engine::new(options.cache)?),
            },
            store: options.store,
            owner: options.world.owner(),
            world: options.world,
            providers: options.providers,
            gate: match &options.observer {
                Some(observer) => Arc::new(Gate::observed(Arc::clone(observer) as _)),
                None => Arc::default(),
            },
            observer: options.observer,
            evict: options.evict,
            adopt: options.adopt,
            projects: options.projects,
            configured: options.configured,
            scripts: options.scripts,
            lease_ms: options.lease_ms,
            look_every: options.look_every,
            max_live: options.max_live,
            state: Mutex::new(State::default()),
            named: Modules::default(),
            descriptions: Descriptions::default(),
            current: tokio::sync::Mutex::default(),
            calls: Arc::default(),
            trouble: tokio::sync::watch::channel(None).0,
            crowded: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            settle_again: Mutex::default(),
            schedules_behind: Mutex::default(),
            settling: tokio::sync::RwLock::default(),
            tasks: Mutex::default(),
            work,
            time,
            left: Notify::new(),
            going: Once::new(),
        });
        Ok(Self { inner })
    }

    /// Takes up what is due from now on, as [`HostOptions::adopt`] says. The first run that is
    /// started, resumed or watched does so too.
    pub fn serve(&self) {
        self.inner.set_going();
    }

    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    pub(crate) fn descriptions(&self) -> &Descriptions {
        &self.inner.descriptions
    }

    /// The number of runs that are driven at this moment.
    pub fn live(&self) -> usize {
        self.inner.live()
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
        // It may be known by another who accepts more.
        engine::inspect(bytes, denied)?;
        let owned = async { Ok::<_, HostError>(bytes.to_vec()) };
        let module = self.inner.engine.load(name, digest, denied, owned).await?;
        self.inner.store.put_module(name, bytes).await?;
        let _ = self.inner.descriptions.learn(digest, bytes);
        Ok(module)
    }

    /// Reads a directory that new runs are to be granted, to read only. Their
    /// programs see it at `guest`, an absolute path.
    pub async fn grant(&self, host: &Path, guest: &str) -> Result<Grant, HostError> {
        Ok(self.inner.engine.grant(host.to_owned(), guest.to_owned()).await?)
    }

    /// Begins a run and advances it here, or finds the one that has the key.
    /// `providers` answer its calls as long as it is followed, if not those of the host.
    pub async fn start(
        &self,
        module: &Module,
        mut options: StartOptions,
        providers: Option<Providers>,
    ) -> Result<RunHandle, HostError> {
        let project = options.config.project.clone();
        // Without room it waits in the store like others.
        let room = self.inner.try_room();
        let current = match room {
            Some(_) => Some(self.inner.session().await?),
            None => None,
        };
        let id = match options.id.take() {
            Some(id) => id,
            None => fresh_id()?,
        };
        let in_hand = self.inner.take_in_hand(&id).await;
        options.id = Some(id);
        let (id, machine) = self.create(module, options, current.as_ref()).await?;
        let follower = self.inner.watch(&id, providers);
        let is_new = machine.is_some();
        if let (Some(machine), Some(current)) = (machine, current) {
            let ready = Ready {
                current,
                epoch: Epoch(1),
                starts: 1,
                machine,
                module: module.clone(),
                project,
                imported: false,
                place: None,
                inbox: None,
            };
            self.inner.begin(in_hand, From::Ready(Box::new(ready)));
        } else {
            in_hand.let_go();
        }
        self.serve();
        self.look_for_work();
        let mut handle = RunHandle::new(id, Arc::clone(&self.inner), follower);
        handle.is_new = is_new;
        Ok(handle)
    }

    /// Sends a signal to a run when so much virtual time has passed. Does nothing without
    /// [`HostOptions::virtual_time`].
    ///
    /// # Errors
    ///
    /// If the name or the payload is too large.
    pub fn plan_signal(
        &self,
        run: &RunId,
        after: Duration,
        name: &str,
        payload: Json,
    ) -> Result<(), HostError> {
        limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
        limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)?;
        if let Some(time) = &self.inner.time {
            let at = self.now().after(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            let body = MessageBody::Signal { name: name.to_owned(), payload, id: None };
            time.plan(Planned { at, run: run.clone(), body });
        }
        Ok(())
    }

    /// Has the host look at once for what is due.
    pub fn wake(&self) {
        self.look_for_work();
    }

    /// Has the host look for work at once.
    pub(crate) fn look_for_work(&self) {
        self.inner.work.notify_one();
    }

    /// A run that was claimed could not be given back: what is not driven here is given up.
    pub(crate) fn doubt(&self) {
        self.inner.doubt();
    }

    /// The children that a machine wants to be started.
    pub(crate) async fn children_of(&self, machine: &mut Machine) -> Result<Vec<NewRun>, HostError> {
        let Some(wanted) = Wanted::take(machine) else { return Ok(Vec::new()) };
        let found = self.inner.named.find_all(self.store().as_ref(), wanted).await;
        let found = found.map_err(|error| error.into_error(&machine.started().run))?;
        Ok(family::start(machine, found, self.now()))
    }

    pub(crate) fn see(&self, notice: Notice<'_>) {
        self.inner.see(notice);
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.world.now()
    }

    pub(crate) async fn take_in_hand(&self, id: &RunId) -> InHand {
        self.inner.take_in_hand(id).await
    }

    pub(crate) async fn claim(&self, id: &RunId, how: ClaimHow) -> Result<Claimed, HostError> {
        self.inner.claim(id, how).await
    }

    /// Begins a run that whichever host finds it first advances.
    pub async fn enqueue(&self, module: &Module, options: StartOptions) -> Result<RunId, HostError> {
        self.submit(module, options).await.map(|submitted| submitted.run)
    }

    /// The same, and tells whether the run is a new one.
    pub async fn submit(&self, module: &Module, options: StartOptions) -> Result<Submitted, HostError> {
        let (run, machine) = self.create(module, options, None).await?;
        self.look_for_work();
        Ok(Submitted { run, is_new: machine.is_some() })
    }

    /// A module of the store, ready to be executed.
    pub async fn stored_module(&self, info: &ModuleInfo) -> Result<Module, HostError> {
        let bytes = async {
            let bytes = self.store().module(info.digest).await?;
            Ok::<_, HostError>(bytes.ok_or(StoreError::NoSuchModule(info.digest))?)
        };
        // It was accepted when it was put there.
        self.inner.engine.load(&info.name, info.digest, Denied::Trap, bytes).await
    }

    /// Ends a run where it stands: the program does not notice, and its open steps end with it. What
    /// was sent to it and not taken is lost. If another process advances it, it is taken from that
    /// one, which may commit nothing of it any more and stops its calls when it renews its session. Of several
    /// rounds the latest is ended, whichever is named; gives which.
    pub async fn terminate(&self, id: &RunId, reason: Option<&str>) -> Result<RunId, HostError> {
        check_reason(reason)?;
        let mut id = id.clone();
        loop {
            let ended = self.terminate_round(&id, reason).await;
            let Err(HostError::Ended { .. }) = ended else { return ended.map(|()| id) };
            // Also one that went on as another round just now.
            let latest = described::latest(self.store(), &id).await?.id;
            if latest == id {
                return ended.map(|()| id);
            }
            id = latest;
        }
    }

    async fn terminate_round(&self, id: &RunId, reason: Option<&str>) -> Result<(), HostError> {
        let in_hand = self.inner.take_in_hand(id).await;
        self.inner.take_from_driver(&in_hand).await;
        let mut ended = self.seize_and_end(id, reason).await;
        for _ in 0..SEIZED_AT_MOST {
            // Another process was quicker: it has ended the run, or it has it now.
            let Err(HostError::Store(StoreError::Fenced { .. } | StoreError::SessionOver)) = ended else {
                break;
            };
            ended = self.seize_and_end(id, reason).await;
        }
        in_hand.let_go();
        ended
    }

    async fn seize_and_end(&self, id: &RunId, reason: Option<&str>) -> Result<(), HostError> {
        let opened = match self.inner.claim(id, ClaimHow::Seize).await? {
            Claimed::Yes(opened) => opened,
            other => return Err(self.refused(id, other)),
        };
        let next = Next::Release { waiting: None, trouble: None };
        let back = Append::new(id.clone(), opened.session, opened.epoch, Timestamp(0), next);
        let ended = self.end_claimed(*opened, reason).await;
        if ended.is_err() {
            self.give_up_claim(back).await;
        }
        ended
    }

    /// Gives a run back that was claimed for a moment only.
    async fn give_up_claim(&self, back: Append) {
        if self.inner.give_back(&back).await == Back::Later {
            self.doubt();
        }
    }

    async fn end_claimed(&self, opened: Opened, reason: Option<&str>) -> Result<(), HostError> {
        let Opened { run, session, epoch, given, rows, .. } = opened;
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let machine = Machine::open(Journal::read(rows).map_err(unusable)?, given).map_err(unusable)?;
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let outcome = Err(Failure::new(FailureKind::Cancelled, format!("terminated{why}")));
        match self.inner.end_where_it_stands(&run, session, epoch, &machine, &outcome).await? {
            true => Ok(()),
            // Whoever was about to retry it, and had not recorded that, does not any more.
            false => Err(HostError::Ended { run }),
        }
    }

    /// Creates a run. Without a machine if the key was known.
    async fn create(
        &self,
        module: &Module,
        options: StartOptions,
        current: Option<&Current>,
    ) -> Result<(RunId, Option<Machine>), HostError> {
        limits::check("the input", options.input.as_str().len(), limits::INPUT_BYTES)?;
        if let Some(key) = &options.key {
            limits::check("the key", key.len(), limits::KEY_BYTES)?;
        }
        limits::check_labels(&options.labels)?;
        engine::check_stack(options.config.stack_bytes)?;
        if !options.unchecked {
            self.check(module, described::Part::Input, &options.input).await?;
        }
        if let Some(sandbox) = &options.config.sandbox {
            let env: usize = sandbox.env.iter().map(|(name, value)| name.len() + value.len()).sum();
            limits::check("the environment", env, limits::ENV_BYTES)?;
            let mut guests: Vec<_> = sandbox.grants.iter().map(|grant| &grant.guest).collect();
            guests.sort();
            if let Some(twice) = guests.windows(2).find(|pair| pair[0] == pair[1]) {
                let reason = "there is another one";
                return Err(GrantError::Place { guest: twice[0].clone(), reason }.into());
            }
        }
        let mut config = options.config;
        if self.inner.scripts {
            keep_script(self.store().as_ref(), &mut config).await?;
        }
        let now = self.inner.world.now();
        let seed = match options.seed {
            Some(seed) => seed,
            None => fresh_seed()?,
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
            config,
            labels: options.labels,
            parent: None,
            child: None,
            origin: None,
        };
        let mut machine = Machine::start(started, now);
        let Some(first) = machine.take_unsaved() else {
            return Err(DriveError::Instance("a run without a first entry".to_owned()).into());
        };
        let run = NewRun {
            key: options.key,
            session: current.map(|current| current.session),
            ..NewRun::new(&machine, vec![Row::from(first)])
        };
        let created = self.inner.store.create(run).await;
        if created.is_err() && current.is_some() {
            self.inner.doubt();
        }
        match created? {
            Created::New => {
                self.inner.see(Notice::Created { run: &id, workflow: &module.name });
                Ok((id, Some(machine)))
            }
            Created::Known(id) => Ok((id, None)),
        }
    }

    /// Goes on with a run, also one that is paused or refused. One that has
    /// ended, or that a living process advances, is an error; but a run that
    /// failed continues where it failed if it is given a fixed module.
    pub async fn resume(&self, id: &RunId, options: ResumeOptions) -> Result<RunHandle, HostError> {
        if options.budget.is_some() && options.module.is_none() && self.has_spent_all(id).await? {
            return self.retry(id, None, options).await;
        }
        let how = match &options.module {
            Some(module) => self.check_move(id, module).await?,
            None => ClaimHow::Asked,
        };
        if how == ClaimHow::Reopen {
            let journal = self.inner.journal(id).await?;
            let plan = plan_retry(&journal, None, true)
                .map_err(|reason| HostError::CannotRetry { run: id.clone(), reason })?;
            self.retry_cancelled_children(id, &plan, journal).await?;
        }
        let _room = self.inner.room().await;
        let in_hand = self.inner.take_in_hand(id).await;
        match self.inner.claim_and_open(id, how, options.module.as_ref()).await? {
            Ok(mut ready) => {
                self.change_budget(&mut ready.machine, options.budget);
                Ok(self.follow(in_hand, ready, options))
            }
            Err(refused) => {
                in_hand.let_go();
                match refused {
                    Claimed::Held { .. } if self.inner.is_live(id) && options.module.is_none() => {
                        match options.budget {
                            Some(_) => Err(HostError::Driven { run: id.clone() }),
                            None => {
                                // It may be about to be paused.
                                self.store().unpause(id).await?;
                                Ok(self.watch(id))
                            }
                        }
                    }
                    refused => Err(self.refused(id, refused)),
                }
            }
        }
    }

    /// Whether the run failed because it had spent its budget.
    async fn has_spent_all(&self, id: &RunId) -> Result<bool, HostError> {
        let info = self.inner.store.run(id).await?;
        let outcome = info.filter(|info| info.state.is_final()).and_then(|info| info.outcome);
        Ok(matches!(outcome, Some(Err(failure)) if failure.kind == FailureKind::BudgetExceeded))
    }

    fn change_budget(&self, machine: &mut Machine, budget: Option<Budget>) {
        if let Some(budget) = budget {
            machine.change_budget(budget.or(machine.budget()), self.inner.world.now());
        }
    }

    /// Follows a run to its end without claiming it.
    pub fn watch(&self, id: &RunId) -> RunHandle {
        let follower = self.inner.watch(id, None);
        self.serve();
        self.inner.work.notify_one();
        RunHandle::new(id.clone(), Arc::clone(&self.inner), follower)
    }

    /// Tries a run that failed again: at the step, else at the one that it failed of.
    pub async fn retry(
        &self,
        id: &RunId,
        step: Option<Step>,
        options: ResumeOptions,
    ) -> Result<RunHandle, HostError> {
        let cannot = |reason| HostError::CannotRetry { run: id.clone(), reason };
        let journal = self.inner.journal(id).await?;
        let plan = plan_retry(&journal, step, false).map_err(cannot)?;
        if let Some(step) = plan.step {
            self.retry_child(id, step).await?;
        }
        self.retry_cancelled_children(id, &plan, journal).await?;
        let _room = self.inner.room().await;
        let in_hand = self.inner.take_in_hand(id).await;
        let current = self.inner.session().await?;
        let opened = match self.inner.claim(id, ClaimHow::Reopen).await? {
            Claimed::Yes(opened) => opened,
            other => {
                in_hand.let_go();
                return Err(self.refused(id, other));
            }
        };
        let epoch = opened.epoch;
        let back = Append::new(id.clone(), current.session, epoch, Timestamp(0), opened.as_it_was());
        match self.ready_again(*opened, current, step, options.budget).await {
            Ok(ready) => Ok(self.follow(in_hand, ready, options)),
            Err(error) => {
                self.give_up_claim(back).await;
                in_hand.let_go();
                Err(error)
            }
        }
    }

    /// A claimed run that is tried again at that step.
    async fn ready_again(
        &self,
        mut opened: Opened,
        current: Current,
        step: Option<Step>,
        budget: Option<Budget>,
    ) -> Result<Ready, HostError> {
        let (run, rows) = (opened.run.clone(), std::mem::take(&mut opened.rows));
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let journal = Journal::read(rows).map_err(unusable)?;
        // Somebody may have been quicker.
        let plan = plan_retry(&journal, step, false);
        let plan = plan.map_err(|reason| HostError::CannotRetry { run: run.clone(), reason })?;
        let (mut machine, append) = self.inner.take_up(&opened, &current, &plan, journal).await?;
        let module = self.inner.module(&run, opened.module, &machine.started().workflow).await?;
        self.inner.append_taken_up(&mut opened, append).await?;
        self.change_budget(&mut machine, budget);
        let Opened { epoch, inbox, project, imported, place, .. } = opened;
        let (starts, inbox) = (1, Some(inbox));
        Ok(Ready { current, epoch, starts, machine, module, project, imported, place, inbox })
    }

    /// Children that were cancelled as the run ended, of which it knows nothing after the retry, are tried again with
    /// it. It meets the end of one that cannot be.
    async fn retry_cancelled_children(
        &self,
        parent: &RunId,
        plan: &RetryPlan,
        mut journal: Journal,
    ) -> Result<(), HostError> {
        let unusable = |source| HostError::Journal { run: parent.clone(), source };
        plan.append(&mut journal, 0, self.now());
        let mut open = Machine::open(journal, Given::Everything).map_err(unusable)?.open_children();
        open.retain(|step| Some(*step) != plan.step);
        if open.is_empty() {
            return Ok(());
        }
        let ended = self.store().ended_children(parent, &open).await?.into_iter();
        let cancelled = |info: &RunInfo| matches!(&info.outcome, Some(Err(failure)) if failure.kind == FailureKind::Cancelled);
        for RunInfo { id, .. } in ended.filter(cancelled) {
            if !ended_with_parent(&self.inner.journal(&id).await?) {
                continue;
            }
            match Box::pin(self.retry(&id, None, ResumeOptions::default())).await {
                Err(HostError::CannotRetry { .. } | HostError::Held { .. } | HostError::Ended { .. })
                | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// If the step is a child that failed, that one is tried again first.
    async fn retry_child(&self, parent: &RunId, step: Step) -> Result<(), HostError> {
        let child = self.store().ended_children(parent, &[step]).await?.pop();
        if let Some(child) = child.filter(|info| matches!(info.outcome, Some(Err(_)))) {
            let options = ResumeOptions::default();
            Box::pin(self.retry(&child.id, None, options)).await?;
        }
        Ok(())
    }

    fn follow(&self, in_hand: InHand, ready: Ready, options: ResumeOptions) -> RunHandle {
        let id = in_hand.run().clone();
        let follower = self.inner.watch(&id, options.providers);
        self.inner.begin(in_hand, From::Ready(Box::new(ready)));
        self.serve();
        RunHandle::new(id, Arc::clone(&self.inner), follower)
    }

    fn refused(&self, id: &RunId, claimed: Claimed) -> HostError {
        let run = id.clone();
        match claimed {
            Claimed::Held { owner, .. } => HostError::Held { run, owner },
            Claimed::NoSuchRun => HostError::NoSuchRun(run),
            Claimed::Unreadable(unreadable) => unreadable.error.into(),
            Claimed::Ended | Claimed::NotDue | Claimed::Yes(_) => HostError::Ended { run },
        }
    }

    /// Whether a run can be moved to a module, and how it has to be claimed then.
    async fn check_move(&self, id: &RunId, module: &Module) -> Result<ClaimHow, HostError> {
        let info = self.inner.store.run(id).await?.ok_or_else(|| HostError::NoSuchRun(id.clone()))?;
        let mut journal = self.inner.journal(id).await?;
        let how = if info.state.is_final() {
            // A fixed program continues where the old one failed.
            let retry = plan_retry(&journal, None, true)
                .map_err(|reason| HostError::CannotRetry { run: id.clone(), reason })?;
            retry.append(&mut journal, info.emissions, self.inner.world.now());
            ClaimHow::Reopen
        } else {
            ClaimHow::Asked
        };
        match self.replay(id, journal, module, Given::Everything).await?.refusal() {
            None => Ok(how),
            Some(mismatch) => {
                Err(HostError::Departs { run: id.clone(), old: info.module, new: module.digest, mismatch })
            }
        }
    }

    /// Lets a module repeat a journal, without any effect. Gives what it gives out beside what is
    /// stored according to `given`.
    pub async fn replay(
        &self,
        id: &RunId,
        journal: Journal,
        module: &Module,
        given: Given,
    ) -> Result<Replayed, HostError> {
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let machine = Machine::open(journal, given).map_err(unusable)?;
        Ok(drive::replay(&self.inner.engine, self.store(), module, machine, &self.inner.world, false).await?)
    }

    /// The same with all emissions, and where in its source the program asks
    /// for each step.
    pub async fn trace(&self, id: &RunId, journal: Journal, module: &Module) -> Result<Replayed, HostError> {
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let machine = Machine::open(journal, Given::Nothing).map_err(unusable)?;
        Ok(drive::replay(&self.inner.engine, self.store(), module, machine, &self.inner.world, true).await?)
    }

    /// The module that a run is executed with.
    pub async fn module_of(&self, info: &RunInfo) -> Result<Module, HostError> {
        self.inner.module(&info.id, info.module, &info.workflow).await
    }

    /// Sends a message to a run of this store, whichever process advances it, or to the
    /// run that it continues as. Tells which.
    pub async fn post(&self, run: &RunId, body: MessageBody) -> Result<(Posted, RunId), HostError> {
        let is_signal = matches!(body, MessageBody::Signal { .. });
        let posted = post(self.store(), run, body).await;
        if is_signal {
            let outcome = match &posted {
                Ok((Posted::Duplicate, _)) => "duplicate",
                Ok(_) => "posted",
                Err(_) => "refused",
            };
            self.inner.see(Notice::Signal { run, outcome });
        }
        let (posted, run) = posted?;
        self.inner.wake(&run);
        Ok((posted, run))
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        self.inner.journal(run).await
    }

    /// Takes up nothing new and leaves all runs. With a grace, calls in flight
    /// are waited for so long; what is left then is dropped, and made again by
    /// whoever goes on. Gives the number of runs that had to be left so.
    pub async fn close(&self, grace: Option<Duration>) -> usize {
        if let Some(grace) = grace {
            self.inner.close(Leave::Gently);
            let _ = tokio::time::timeout(grace, self.empty()).await;
        }
        let dropped = self.live();
        self.inner.close(Leave::Now);
        self.empty().await;
        // What was claimed and not driven is for others now.
        self.inner.end_session().await;
        dropped
    }

    /// Waits until something keeps this host from its work, or does no more, and gives it: a full
    /// disk, a database that is locked, or gone. Each is told once.
    pub async fn store_error(&self, known: &Option<StoreError>) -> Option<StoreError> {
        let mut troubles = self.inner.trouble.subscribe();
        // The sender lives as long as this.
        match troubles.wait_for(|trouble| trouble != known).await {
            Ok(trouble) => trouble.clone(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until no run is driven.
    async fn empty(&self) {
        loop {
            let left = self.inner.left.notified();
            if self.live() == 0 {
                return;
            }
            left.await;
        }
    }
}

/// Sends a message to a run of a store, or to the run that it continues as.
/// Tells which.
pub async fn post(store: &SharedStore, run: &RunId, body: MessageBody) -> Result<(Posted, RunId), HostError> {
    match &body {
        MessageBody::Signal { name, payload, id } => {
            limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
            limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)?;
            limits::check("the id of a signal", id.as_ref().map_or(0, String::len), limits::KEY_BYTES)?;
        }
        MessageBody::Answer { step, outcome, .. } => {
            let missing = || HostError::NoQuestion { run: run.clone(), step: Some(*step) };
            let question = store.question(run, *step).await?.ok_or_else(missing)?;
            if let Ok(answer) = outcome {
                limits::check("an answer", answer.as_str().len(), limits::SIGNAL_BYTES)?;
                schema::check_answer(&question.question, answer).await?;
            }
        }
        MessageBody::Cancel { reason } => check_reason(reason.as_deref())?,
        MessageBody::Pause | MessageBody::Child { .. } => {}
    }
    let step = match &body {
        MessageBody::Answer { step, .. } => Some(*step),
        _ => None,
    };
    let mut run = run.clone();
    loop {
        return match store.post(NewMessage { run: run.clone(), body: body.clone() }).await? {
            Posted::Continued(next) => {
                run = next;
                continue;
            }
            Posted::Ended => Err(HostError::Ended { run }),
            Posted::NoSuchRun => Err(HostError::NoSuchRun(run)),
            Posted::NoQuestion => Err(HostError::NoQuestion { run, step }),
            posted @ (Posted::Added | Posted::Duplicate | Posted::Stopping) => Ok((posted, run)),
        };
    }
}

/// Refuses a reason that is too long for the record of a run.
pub fn check_reason(reason: Option<&str>) -> Result<(), HostError> {
    limits::check("the reason", reason.map_or(0, str::len), limits::MESSAGE_BYTES)?;
    Ok(())
}

/// Whether the cancellation that a run ended with came from its parent, which had ended or dropped it.
fn ended_with_parent(journal: &Journal) -> bool {
    let Ok(plan) = plan_retry(journal, None, false) else { return false };
    let entry = usize::try_from(plan.from.0).ok().and_then(|from| journal.entries.get(from));
    matches!(entry.map(|entry| &entry.event),
        Some(Event::CancelRequested { reason: Some(reason) }) if reason == PARENT_GONE)
}

/// Whether somebody living advances the run.
pub fn is_held(info: &RunInfo) -> bool {
    info.lease.as_ref().is_some_and(|session| session.left_ms > 0 && !owner::is_dead(&session.owner))
}
