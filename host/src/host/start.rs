//! Starting runs: to be advanced here, or by whoever finds them first.

use std::path::Path;
use std::sync::Arc;

use wfhost_agents::Providers;
use wfhost_core::{Epoch, Grant, Json, Machine, Row, RunConfig, RunId, Started, limits};
use wfhost_runtime::{self as engine, GrantError, Module};
use wfhost_store::{Created, NewRun};
use wfhost_world::{fresh_id, fresh_seed};

use super::{Host, HostError};
use crate::described;
use crate::drive::DriveError;
use crate::family::{self, Wanted};
use crate::handle::RunHandle;
use crate::observer::Notice;
use crate::script::keep_script;
use crate::worker::{Current, From, Ready};

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

/// A run that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submitted {
    pub run: RunId,
    /// False if there was one with the key already, which is this one.
    pub is_new: bool,
}

impl Host {
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

    /// The children that a machine wants to be started.
    pub(crate) async fn children_of(&self, machine: &mut Machine) -> Result<Vec<NewRun>, HostError> {
        let Some(wanted) = Wanted::take(machine) else { return Ok(Vec::new()) };
        let found = self.inner.named.find_all(self.store().as_ref(), wanted).await;
        let found = found.map_err(|error| error.into_error(&machine.started().run))?;
        Ok(family::start(machine, found, self.now()))
    }
}
