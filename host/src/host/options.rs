//! How a host is set up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wfhost_agents::Providers;
use wfhost_runtime::Engine;
use wfhost_store::{Projects, SharedStore};
use wfhost_world::World;

use crate::observer::Observer;
use crate::surroundings::Surroundings;

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
