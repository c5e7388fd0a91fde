//! The embedding API: a host advances runs and keeps them in a store.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tokio::sync::Notify;
use wfhost_agents::Providers;
use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    CannotRetry, Digest, Epoch, FailureKind, Grant, Journal, JournalError, Json, Machine, Mismatch, Row,
    RunConfig, RunId, Started, Step, Timestamp, limits, plan_retry,
};
use wfhost_runtime::{self as engine, Denied, Engine, GrantError, Module, ModuleError, StackError};
use wfhost_schema::{self as schema, BadAnswer};
use wfhost_store::{
    ClaimHow, Claimed, Created, MessageBody, NewMessage, NewRun, Owner, Posted, RunInfo, SharedStore,
    StoreError,
};
use wfhost_world::{NoRandom, System, World, clock, fresh_id, fresh_seed, lock, owner};

use crate::drive::{self, DriveError, Leave, Replayed};
use crate::family::{self, Modules, Wanted};
use crate::handle::RunHandle;
use crate::worker::{Inner, Ready, State};

/// When the program of a waiting run is dropped from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Evict {
    /// After some seconds of waiting.
    #[default]
    AfterGrace,
    /// At every wait: slower, for tests of programs.
    Always,
}

/// Which runs a host takes up by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Adopt {
    /// All that are due, whoever began them.
    #[default]
    Due,
    /// Only those that are followed through a [`RunHandle`].
    Own,
}

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub store: SharedStore,
    /// Where compiled components are kept; nowhere if none.
    pub cache: Option<PathBuf>,
    pub providers: Providers,
    pub evict: Evict,
    pub adopt: Adopt,
    /// Runs that are driven at the same time. The others wait in the store.
    pub max_live: usize,
    /// How long a lease runs, in milliseconds.
    pub lease_ms: u64,
    pub world: Arc<dyn World>,
}

impl HostOptions {
    /// The defaults over a store.
    pub fn new(store: SharedStore) -> Self {
        Self {
            store,
            cache: None,
            providers: Providers::builtin(),
            evict: Evict::default(),
            adopt: Adopt::default(),
            max_live: 2_000,
            lease_ms: 30_000,
            world: Arc::new(System),
        }
    }
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
    /// Of everything random; drawn if none.
    pub seed: Option<[u8; 32]>,
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
        }
    }
}

/// How a run is taken up.
#[derive(Clone, Debug, Default)]
pub struct ResumeOptions {
    /// Who answers its calls here, if not those that the host was given.
    pub providers: Option<Providers>,
    /// The module that it goes on with. Its journal has to agree.
    pub module: Option<Module>,
    /// What it may spend from now on; what is not said stays. A run that failed
    /// because it had spent its budget goes on with the calls that it could not pay for.
    pub budget: Option<Budget>,
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
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Stack(#[from] StackError),
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
    #[error("{run} does not fit the module {new}: {mismatch}")]
    Departs { run: RunId, old: Digest, new: Digest, mismatch: Box<Mismatch> },
    #[error("{run} cannot be tried again: {reason}")]
    CannotRetry { run: RunId, reason: CannotRetry },
    #[error("{run} has no open question{}", .step.map(|step| format!(" at step {step}")).unwrap_or_default())]
    NoQuestion { run: RunId, step: Option<Step> },
    #[error("the answer does not fit: {0}")]
    BadAnswer(#[from] BadAnswer),
    #[error(transparent)]
    TooLarge(#[from] limits::TooLarge),
    #[error(transparent)]
    Random(#[from] NoRandom),
}

/// Advances runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

impl Host {
    /// A host over a store. Has to be called within a tokio runtime.
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        let inner = Arc::new(Inner {
            engine: Engine::new(options.cache)?,
            store: options.store,
            owner: options.world.owner(),
            world: options.world,
            providers: options.providers,
            gate: Arc::default(),
            evict: options.evict,
            adopt: options.adopt,
            lease_ms: options.lease_ms,
            max_live: options.max_live,
            state: Mutex::new(State::default()),
            modules: Mutex::default(),
            named: Modules::default(),
            claiming: AtomicUsize::new(0),
            work: Arc::new(Notify::new()),
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
        let module = self.inner.engine.module(name, digest, bytes, denied)?;
        self.inner.store.put_module(name, bytes).await?;
        lock(&self.inner.modules).insert(digest, module.clone());
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
        options: StartOptions,
        providers: Option<Providers>,
    ) -> Result<RunHandle, HostError> {
        let until = self.inner.world.now().after(self.inner.lease_ms);
        let (id, machine) = self.create(module, options, true).await?;
        let watched = self.inner.watch(&id, providers);
        let ready = machine.map(|machine| Ready {
            epoch: Epoch(1),
            until,
            starts: 1,
            machine,
            module: module.clone(),
        });
        self.inner.begin(&id, ready, ClaimHow::Due);
        self.serve();
        Ok(RunHandle::new(id, Arc::clone(&self.inner), watched))
    }

    /// Has the host look for work at once.
    pub(crate) fn look_for_work(&self) {
        self.inner.work.notify_one();
    }

    /// The children that a machine wants to be started.
    pub(crate) async fn children_of(&self, machine: &mut Machine) -> Result<Vec<NewRun>, StoreError> {
        let Some(wanted) = Wanted::take(machine) else { return Ok(Vec::new()) };
        let found = self.inner.named.find_all(self.store().as_ref(), wanted).await?;
        Ok(family::start(machine, found, self.now()))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.world.now()
    }

    pub(crate) async fn claim(&self, id: &RunId, how: ClaimHow) -> Result<Claimed, HostError> {
        self.inner.claim(id, how).await
    }

    /// Begins a run that whichever host finds it first advances.
    pub async fn enqueue(&self, module: &Module, options: StartOptions) -> Result<RunId, HostError> {
        let (id, _) = self.create(module, options, false).await?;
        self.look_for_work();
        Ok(id)
    }

    /// Creates a run. Without a machine if the key was known.
    async fn create(
        &self,
        module: &Module,
        options: StartOptions,
        owned: bool,
    ) -> Result<(RunId, Option<Machine>), HostError> {
        limits::check("the input", options.input.as_str().len(), limits::INPUT_BYTES)?;
        if let Some(key) = &options.key {
            limits::check("the key", key.len(), limits::KEY_BYTES)?;
        }
        limits::check_labels(&options.labels)?;
        engine::check_stack(options.config.stack_bytes)?;
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
            config: options.config,
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
            lease: owned.then(|| (self.inner.owner.clone(), now.after(self.inner.lease_ms))),
            ..NewRun::new(&machine, vec![Row::from(first)])
        };
        match self.inner.store.create(run).await? {
            Created::New => Ok((id, Some(machine))),
            Created::Known(id) => Ok((id, None)),
        }
    }

    /// Goes on with a run, also one that is paused or refused. One that has
    /// ended, or that a living process advances, is an error; but a run that
    /// failed goes on where it failed if it is given a mended module.
    pub async fn resume(&self, id: &RunId, options: ResumeOptions) -> Result<RunHandle, HostError> {
        if options.budget.is_some() && options.module.is_none() && self.has_spent_all(id).await? {
            return self.retry(id, None, options).await;
        }
        let how = match &options.module {
            Some(module) => self.check_move(id, module).await?,
            None => ClaimHow::Asked,
        };
        match self.inner.claim_and_open(id, how, options.module.as_ref()).await? {
            Ok(mut ready) => {
                self.change_budget(&mut ready.machine, options.budget);
                Ok(self.follow(id, ready, options))
            }
            Err(Claimed::Held { owner, .. }) if owner == self.inner.owner && options.module.is_none() => {
                Ok(self.watch(id))
            }
            Err(refused) => Err(self.refused(id, refused)),
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
        let watched = self.inner.watch(id, None);
        self.serve();
        self.inner.work.notify_one();
        RunHandle::new(id.clone(), Arc::clone(&self.inner), watched)
    }

    /// Tries a run that failed again: at the step, else at the one that it failed of.
    pub async fn retry(
        &self,
        id: &RunId,
        step: Option<Step>,
        options: ResumeOptions,
    ) -> Result<RunHandle, HostError> {
        let cannot = |reason| HostError::CannotRetry { run: id.clone(), reason };
        let plan = plan_retry(&self.inner.journal(id).await?, step, false).map_err(cannot)?;
        if let Some(step) = plan.step {
            self.retry_child(id, step).await?;
        }
        let until = self.inner.world.now().after(self.inner.lease_ms);
        let (epoch, emissions, digest) = match self.inner.claim(id, ClaimHow::Reopen).await? {
            Claimed::Yes { epoch, emissions, module, .. } => (epoch, emissions, module),
            other => return Err(self.refused(id, other)),
        };
        // Nobody else can have changed it since.
        let mut journal = self.inner.journal(id).await?;
        let row = plan.append(&mut journal, emissions, self.inner.world.now());
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let mut machine = Machine::open(journal, emissions).map_err(unusable)?;
        self.inner.append_retry(id, epoch, row, &machine).await?;
        self.change_budget(&mut machine, options.budget);
        let module = self.inner.module(id, digest, &machine.started().workflow).await?;
        Ok(self.follow(id, Ready { epoch, until, starts: 1, machine, module }, options))
    }

    /// If the step is a child that failed, that one is tried again first.
    async fn retry_child(&self, parent: &RunId, step: Step) -> Result<(), HostError> {
        let ended = self.store().ended_children(parent, step).await?;
        let child = ended.into_iter().rfind(|info| info.links.step == Some(step));
        if let Some(child) = child.filter(|info| matches!(info.outcome, Some(Err(_)))) {
            let options = ResumeOptions::default();
            Box::pin(self.retry(&child.id, None, options)).await?;
        }
        Ok(())
    }

    fn follow(&self, id: &RunId, ready: Ready, options: ResumeOptions) -> RunHandle {
        let watched = self.inner.watch(id, options.providers);
        self.inner.begin(id, Some(ready), ClaimHow::Asked);
        self.serve();
        RunHandle::new(id.clone(), Arc::clone(&self.inner), watched)
    }

    fn refused(&self, id: &RunId, claimed: Claimed) -> HostError {
        let run = id.clone();
        match claimed {
            Claimed::Held { owner, until } => HostError::Held { run, owner, until },
            Claimed::NoSuchRun => HostError::NoSuchRun(run),
            Claimed::Ended | Claimed::NotDue | Claimed::Yes { .. } => HostError::Ended { run },
        }
    }

    /// Whether a run can be moved to a module, and how it has to be claimed then.
    async fn check_move(&self, id: &RunId, module: &Module) -> Result<ClaimHow, HostError> {
        let info = self.inner.store.run(id).await?.ok_or_else(|| HostError::NoSuchRun(id.clone()))?;
        let mut journal = self.inner.journal(id).await?;
        let how = if info.state.is_final() {
            // A program that was mended goes on where the old one failed.
            let retry = plan_retry(&journal, None, true)
                .map_err(|reason| HostError::CannotRetry { run: id.clone(), reason })?;
            retry.append(&mut journal, info.emissions, self.inner.world.now());
            ClaimHow::Reopen
        } else {
            ClaimHow::Asked
        };
        match self.replay(id, journal, module, u64::MAX).await?.departs {
            None => Ok(how),
            Some(mismatch) => {
                Err(HostError::Departs { run: id.clone(), old: info.module, new: module.digest, mismatch })
            }
        }
    }

    /// Lets a module repeat a journal, without any effect. Emissions with a number of at least
    /// `emissions` are given.
    pub async fn replay(
        &self,
        id: &RunId,
        journal: Journal,
        module: &Module,
        emissions: u64,
    ) -> Result<Replayed, HostError> {
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let machine = Machine::open(journal, emissions).map_err(unusable)?;
        Ok(drive::replay(&self.inner.engine, self.store(), module, machine, &self.inner.world, false).await?)
    }

    /// The same with all emissions, and where in its source the program asks
    /// for each step.
    pub async fn trace(&self, id: &RunId, journal: Journal, module: &Module) -> Result<Replayed, HostError> {
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let machine = Machine::open(journal, 0).map_err(unusable)?;
        Ok(drive::replay(&self.inner.engine, self.store(), module, machine, &self.inner.world, true).await?)
    }

    /// The module that a run is executed with.
    pub async fn module_of(&self, info: &RunInfo) -> Result<Module, HostError> {
        self.inner.module(&info.id, info.module, &info.workflow).await
    }

    /// Sends a message to a run of this store, whoever advances it, or to the
    /// run that it goes on as. Tells which.
    pub async fn post(&self, run: &RunId, body: MessageBody) -> Result<(Posted, RunId), HostError> {
        let (posted, run) = post(self.store(), run, body, self.inner.world.now()).await?;
        self.inner.wake(&run);
        Ok((posted, run))
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        self.inner.journal(run).await
    }

    /// Takes up nothing new and leaves all runs. With a grace, calls under way
    /// are waited for so long; what is left then is dropped, and made again by
    /// whoever goes on. Gives the number of runs that had to be left so.
    pub async fn close(&self, grace: Option<Duration>) -> usize {
        self.inner.close(if grace.is_some() { Leave::Gently } else { Leave::Now });
        if let Some(grace) = grace {
            let _ = tokio::time::timeout(grace, self.empty()).await;
        }
        let dropped = self.live();
        self.inner.close(Leave::Now);
        self.empty().await;
        dropped
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

/// Sends a message to a run of a store, or to the run that it goes on as.
/// Tells which.
pub async fn post(
    store: &SharedStore,
    run: &RunId,
    body: MessageBody,
    at: Timestamp,
) -> Result<(Posted, RunId), HostError> {
    match &body {
        MessageBody::Signal { name, payload, id } => {
            limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
            limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)?;
            limits::check("the id of a signal", id.as_ref().map_or(0, String::len), limits::KEY_BYTES)?;
        }
        MessageBody::Answer { step, outcome, .. } => {
            let questions = store.questions(Some(run), usize::MAX >> 1).await?;
            let question = questions.iter().find(|question| question.step == *step);
            let missing = || HostError::NoQuestion { run: run.clone(), step: Some(*step) };
            let question = question.ok_or_else(missing)?;
            if let Ok(answer) = outcome {
                limits::check("an answer", answer.as_str().len(), limits::SIGNAL_BYTES)?;
                schema::check(&question.question, answer)?;
            }
        }
        MessageBody::Cancel { .. } | MessageBody::Pause | MessageBody::Child { .. } => {}
    }
    let step = match &body {
        MessageBody::Answer { step, .. } => Some(*step),
        _ => None,
    };
    let mut run = run.clone();
    loop {
        return match store.post(NewMessage { run: run.clone(), at, body: body.clone() }).await? {
            Posted::Continued(next) => {
                run = next;
                continue;
            }
            Posted::Ended => Err(HostError::Ended { run }),
            Posted::NoSuchRun => Err(HostError::NoSuchRun(run)),
            Posted::NoQuestion => Err(HostError::NoQuestion { run, step }),
            posted @ (Posted::Added | Posted::Duplicate) => Ok((posted, run)),
        };
    }
}

/// Whether somebody living advances the run.
pub fn is_held(info: &RunInfo) -> bool {
    info.lease.as_ref().is_some_and(|(owner, until)| *until > clock::now() && !owner::is_dead(owner))
}
