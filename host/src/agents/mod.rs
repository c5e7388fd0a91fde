//! Agents: the providers that answer calls, and the policy around a call.
//!
//! A [`Provider`] makes one attempt. It knows nothing of retries, limits of
//! time, budgets and schemas: these are the same for all of them, decided by
//! [`wfhost_core::policy`].

mod call;
mod echo;
mod guarded;
mod output;
mod scripted;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use wfhost_core::Reply;

pub use self::call::{Call, CallFailure, Turn};
pub use self::echo::Echo;
pub use self::guarded::Guarded;
pub use self::output::{CallEvent, CallOutput, Lines, Stream};
pub use self::scripted::{ScriptError, Scripted};
pub use self::secret::{Redactor, Secret, SecretError, SecretSource, is_secret_name};

/// An adapter for one kind of agent. Dropping the future of a call stops it.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What requests and users call it.
    fn name(&self) -> &str;

    /// Carries out one attempt. What happens on the way goes to `out`.
    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>>;
}

/// The providers that a host was given, by name.
#[derive(Clone, Debug, Default)]
pub struct Providers {
    named: BTreeMap<String, Arc<dyn Provider>>,
    default: Option<Arc<dyn Provider>>,
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

    /// The provider for calls that name none, if this host sets one.
    pub fn default_provider(&self) -> Option<Arc<dyn Provider>> {
        self.default.clone()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}
