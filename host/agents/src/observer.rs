//! What is told of calls while they are made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wfhost_core::{RunId, Step, Usage};

use super::Provider;

/// Is told of the calls of a host while they are made. It has to return at once.
pub trait CallObserver: fmt::Debug + Send + Sync {
    /// Something happened.
    fn see_call(&self, seen: SeenCall<'_>);
}

/// Where an attempt is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallPhase {
    /// It waits for a slot, for the budget, or for its turn.
    Waiting,
    /// The provider has it.
    Asking,
}

/// What happened to an attempt at a call.
#[derive(Clone, Copy, Debug)]
pub enum SeenCall<'a> {
    /// It came there.
    Entered {
        provider: &'a str,
        phase: CallPhase,
    },
    /// It is not there any more, also because nothing waits for it.
    Left {
        provider: &'a str,
        phase: CallPhase,
        after: Duration,
    },
    Ended(SeenEnd<'a>),
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct SeenEnd<'a> {
    pub run: &'a RunId,
    pub step: Step,
    /// Counted from 1.
    pub attempt: u32,
    pub provider: &'a str,
    /// Which answered, or was to.
    pub model: Option<&'a str>,
    /// `answered`, `cached`, `postponed`, `delegated`, or the kind of the failure.
    pub outcome: &'static str,
    /// How long the provider had it; none if it was not asked.
    pub took: Option<Duration>,
    /// After what part of that it was heard of first.
    pub first: Option<Duration>,
    pub usage: Option<Usage>,
}

/// An attempt that is in a phase, until this is dropped.
pub(crate) struct InPhase {
    observer: Arc<dyn CallObserver>,
    provider: Arc<dyn Provider>,
    phase: CallPhase,
    since: Instant,
}

impl InPhase {
    pub fn enter(observer: &Arc<dyn CallObserver>, provider: &Arc<dyn Provider>, phase: CallPhase) -> Self {
        observer.see_call(SeenCall::Entered { provider: provider.name(), phase });
        let (observer, provider) = (Arc::clone(observer), Arc::clone(provider));
        Self { observer, provider, phase, since: Instant::now() }
    }
}

impl Drop for InPhase {
    fn drop(&mut self) {
        let after = self.since.elapsed();
        self.observer.see_call(SeenCall::Left { provider: self.provider.name(), phase: self.phase, after });
    }
}
