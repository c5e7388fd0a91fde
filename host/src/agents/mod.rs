//! Agents: the providers that answer calls.

mod echo;
mod scripted;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use wfhost_core::{AgentRequest, Failure, Reply, RunConfig, RunId, Step};

pub use self::echo::Echo;
pub use self::scripted::{ScriptError, Scripted};

/// One attempt at a call.
#[derive(Clone, Debug)]
pub struct Call {
    pub run: RunId,
    pub step: Step,
    /// Counted from 1; greater if the host died during the attempts before.
    pub attempt: u32,
    /// The same for every attempt at this step, and for no other step.
    pub key: String,
    pub request: AgentRequest,
}

/// An adapter for one kind of agent. Dropping the future of a call stops it.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What requests and users call it.
    fn name(&self) -> &str;

    /// Carries out one attempt.
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Reply, Failure>>;
}

/// The providers that a host was given, by name.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    named: BTreeMap<String, Arc<dyn Provider>>,
    default: Option<Arc<dyn Provider>>,
    fallback: Option<Arc<dyn Provider>>,
    /// The scripts that runs were begun with, read once: their replies go on in turn.
    scripts: Arc<Mutex<BTreeMap<String, Arc<Scripted>>>>,
}

impl Providers {
    /// `echo`, which needs no configuration.
    pub fn builtin() -> Self {
        let mut providers = Self::default();
        providers.add(Arc::new(Echo));
        providers
    }

    /// Adds a provider; one of the same name is replaced.
    pub fn add(&mut self, provider: Arc<dyn Provider>) {
        self.named.insert(provider.name().to_owned(), provider);
    }

    pub fn get(&self, name: &str) -> Option<Arc<dyn Provider>> {
        self.named.get(name).cloned()
    }

    /// Has `provider` answer the calls that name none, whatever the run was
    /// begun with.
    pub fn set_default(&mut self, provider: Arc<dyn Provider>) {
        self.default = Some(provider);
    }

    /// Has `provider` answer the calls that name none, in runs that were begun
    /// without a provider.
    pub fn set_fallback(&mut self, provider: Arc<dyn Provider>) {
        self.fallback = Some(provider);
    }

    /// The provider for a call that names none, in a run that was begun with
    /// `recorded`; as an error the name of one that is not there, if one is named.
    pub fn choose(&self, recorded: Option<&str>) -> Result<Arc<dyn Provider>, Option<String>> {
        match (&self.default, recorded) {
            (Some(provider), _) => Ok(Arc::clone(provider)),
            (None, Some(name)) => self.get(name).ok_or_else(|| Some(name.to_owned())),
            (None, None) => self.fallback.clone().ok_or(None),
        }
    }

    /// The same with the script that a run was begun with, unless there is
    /// another one. A script that cannot be read is none.
    pub fn for_run(&self, config: &RunConfig) -> Self {
        let mut providers = self.clone();
        if let Some(path) = &config.script
            && !self.named.contains_key("scripted")
            && let Some(script) = self.script(path)
        {
            providers.add(script);
        }
        providers
    }

    fn script(&self, path: &str) -> Option<Arc<Scripted>> {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(script) = scripts.get(path) {
            return Some(Arc::clone(script));
        }
        let script = Arc::new(Scripted::read(Path::new(path)).ok()?);
        scripts.insert(path.to_owned(), Arc::clone(&script));
        Some(script)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}
