//! What an attempt consumed up to now, also if it is stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wfhost_core::Usage;

use super::Attempt;
use crate::ledger::Reservation;
use crate::{Policy, Provider};

/// What an attempt consumed up to now, also if it is never told how it ended.
#[derive(Clone, Debug, Default)]
pub struct Used(Arc<Mutex<InUse>>);

#[derive(Debug, Default)]
pub(super) struct InUse {
    /// By the turns that ended.
    ended: Option<Usage>,
    /// By the turn that is under way, as far as its provider said.
    pub(super) turn: Option<Usage>,
    /// What is set aside for all of them.
    pub(super) aside: Option<Arc<Reservation>>,
}

impl Used {
    pub(super) fn lock(&self) -> MutexGuard<'_, InUse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn ended, and consumed that if its provider says so at its end.
    pub(super) fn end_turn(&self, usage: Option<Usage>) {
        let mut used = self.lock();
        let turn = usage.or(used.turn);
        (used.ended, used.turn) = (sum(used.ended, turn), None);
    }

    pub(super) fn get(&self) -> Option<Usage> {
        let used = self.lock();
        sum(used.ended, used.turn)
    }
}

fn sum(one: Option<Usage>, other: Option<Usage>) -> Option<Usage> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.plus(other)),
        (one, other) => one.or(other),
    }
}

/// Tells what an attempt consumed that was stopped.
#[derive(Debug)]
pub struct Consumed {
    used: Used,
    provider: Arc<dyn Provider>,
    policy: Arc<Policy>,
    /// The model that the request names.
    model: Option<String>,
}

impl Consumed {
    /// The name of who was asked.
    pub fn provider(&self) -> &str {
        self.provider.name()
    }

    /// What it consumed as far as that is known, with its price.
    pub fn up_to_now(&self) -> Option<Usage> {
        let models = self.model.as_deref().into_iter().chain(self.provider.model());
        self.used.get().map(|usage| self.policy.prices.priced(self.provider.name(), models, usage))
    }

    /// What is set aside for it.
    pub fn set_aside(&self) -> Option<Arc<Reservation>> {
        self.used.lock().aside.clone()
    }
}

impl Attempt {
    /// Tells what it consumes, also when it is gone.
    pub fn consumed(&self) -> Consumed {
        Consumed {
            used: self.used.clone(),
            provider: Arc::clone(&self.provider),
            policy: Arc::clone(&self.policy),
            model: self.call.request.model.clone(),
        }
    }
}
