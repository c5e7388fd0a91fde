//! Agent calls of a run: begins attempts, and decides what comes after them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use wfhost_agents::{
    Admission, Allowance, Attempt, AttemptEnd, Call, CallFailure, Made, Provider, Purse, Recorder,
    Reservation, Used,
};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::policy::{self, limits::TimeLimits, retry};
use wfhost_core::{
    AgentRequest, CallState, DroppedAttempt, FailedCall, Failure, FailureKind, Json, Outcome, Reply, Retry,
    Step, Timestamp, Timing, Usage,
};
use wfhost_runtime::Shared;
use wfhost_store::SharedStore;
use wfhost_world::World;

use super::{Done, DriveError, Driver};
use crate::calls;

/// What is recorded of a budget is read again after this time if the store fails.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Who answers an attempt at a call.
pub(super) struct Chosen {
    /// All that may answer, in their order.
    listed: Vec<String>,
    /// None if none is left.
    provider: Option<Arc<dyn Provider>>,
    /// The name in the list that the provider is asked by.
    asked: String,
    state: CallState,
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub(crate) struct Attempted {
    pub attempt: u32,
    pub provider: String,
    /// Who may answer: all of them, in their order.
    pub listed: Vec<String>,
    pub retry: Retry,
    pub limits: TimeLimits,
    pub end: AttemptEnd,
    /// When what happened, if it waited or was heard of.
    pub timing: Option<Timing>,
    /// What is set aside for it until its end is recorded.
    pub reservation: Option<Arc<Reservation>>,
}

/// What a call consumed that was dropped.
#[derive(Clone, Debug)]
pub(crate) struct Dropped {
    provider: String,
    usage: Usage,
    /// What is set aside for it until that is recorded.
    reservation: Option<Arc<Reservation>>,
}

impl Dropped {
    /// That of a call that ended when nobody waited for it any more.
    fn of(ended: &Attempted) -> Option<Self> {
        let usage = match &ended.end {
            AttemptEnd::Answered(reply) => reply.usage,
            AttemptEnd::Failed { failure, .. } => failure.usage,
            AttemptEnd::Postponed { .. } | AttemptEnd::Delegated { .. } => None,
        };
        let (provider, reservation) = (ended.provider.clone(), ended.reservation.clone());
        Some(Self { provider, usage: usage?, reservation })
    }

    /// Nothing is set aside for it any more.
    pub fn settle(&mut self) {
        self.reservation = None;
    }
}

impl Driver<'_> {
    /// Who answers the next attempt at a call; none if nobody is left or nothing waits for it.
    pub(super) fn provider_of(
        &self,
        step: Step,
        request: &AgentRequest,
    ) -> Result<Option<Chosen>, DriveError> {
        let run = || self.drive.run.clone();
        let providers = self.drive.providers;
        let inner = self.shared.lock();
        let machine = &inner.machine;
        // It was dropped in the meantime.
        let Some(state) = machine.call_state(step) else { return Ok(None) };
        let (listed, default) = match request.providers.as_slice() {
            [] => match providers.choose(machine.started().config.agent.as_deref()) {
                Ok(provider) => (vec![provider.name().to_owned()], Some(provider)),
                Err(Some(provider)) => return Err(self.no_provider(provider)),
                Err(None) => return Err(DriveError::NoDefaultProvider { run: run() }),
            },
            listed => (listed.to_vec(), None),
        };
        // What a dying host took along is asked again of the same provider.
        let turn = state.failures.saturating_add(1);
        let name = policy::providers::for_attempt(&listed, turn, machine.providers_out());
        let asked = name.map(str::to_owned).unwrap_or_default();
        let provider = match (name, default) {
            (None, _) => None,
            (Some(_), Some(provider)) => Some(provider),
            (Some(name), None) => Some(providers.get(name).ok_or_else(|| self.no_provider(name.to_owned()))?),
        };
        Ok(Some(Chosen { asked, listed, provider, state: state.clone() }))
    }

    /// Has the turns known here that steps come back for: another host may have taken them.
    pub(super) fn keep_turns(&self) {
        let providers = self.drive.providers;
        if !providers.policy().shares_rates() {
            return;
        }
        let put_off = self.shared.lock().machine.due_calls(Timestamp(u64::MAX));
        for (step, request) in put_off {
            if let Ok(Some(Chosen { provider: Some(provider), .. })) = self.provider_of(step, &request) {
                let rate = providers.policy().rate(provider.name());
                self.drive.gate.keep_turn(provider.name(), rate, self.drive.run, step);
            }
        }
    }

    /// Why nobody answers calls of that name here.
    fn no_provider(&self, provider: String) -> DriveError {
        let run = self.drive.run.clone();
        match self.drive.providers.without_script().filter(|_| provider == "scripted") {
            Some(reason) => DriveError::Script { run, reason: reason.to_owned() },
            None => DriveError::NoProvider { run, provider },
        }
    }

    /// Begins an attempt at an agent call.
    pub(super) fn call_agent(&mut self, step: Step, attempt: u32, request: AgentRequest) {
        let Chosen { listed, provider, asked, state } = match self.provider_of(step, &request) {
            Ok(Some(chosen)) => chosen,
            Ok(None) => return,
            Err(error) => return self.withhold(step, error),
        };
        let run = self.drive.run.clone();
        let policy = Arc::clone(self.drive.providers.policy());
        let Some(provider) = provider else {
            let message =
                format!("no provider is left: authentication or billing failed for {}", listed.join(", "));
            let failure = Failure { attempts: attempt, ..Failure::new(FailureKind::Rejected, message) };
            let failed = std::future::ready(Done::Step(Err(failure))).boxed();
            self.calls.begin((step, attempt), failed);
            return;
        };
        let name = provider.name().to_owned();
        let (key, run_limit) = {
            let machine = &self.shared.lock().machine;
            (machine.idempotency_key(step), machine.started().config.max_parallel)
        };
        let retry = retry::of_call(&request, &policy.retry);
        let limits = TimeLimits::of(request.limits.as_ref(), policy.limits);
        let cache = request.cache.clone().map(|caching| {
            let configured = |name: &String| {
                let one = if name == provider.name() { Some(&provider) } else { None };
                let one = one.cloned().or_else(|| self.drive.providers.get(name));
                (name.clone(), one.map(|provider| provider.configuration()).unwrap_or_default())
            };
            let listed: Vec<_> = listed.iter().map(configured).collect();
            (policy::cache::key(&request, &caching, &listed), caching)
        });
        let slots = policy.slots(&run, run_limit, request.group.as_deref(), &name);
        let recorder = Recorder::new(
            (run.clone(), step, attempt),
            Arc::clone(&self.records) as _,
            Arc::clone(self.drive.world),
            Arc::clone(&self.drive.committed),
            Arc::clone(&self.calls.writers),
        );
        let mut call = Call::new(run, step, attempt, key, request);
        call.provider = asked;
        call.heartbeat = state.heartbeat;
        let (shared, world) = (self.shared.clone(), Arc::clone(self.drive.world));
        let store = Arc::clone(self.drive.store);
        let admission = Admission::default();
        let attempting = Box::new(Attempt {
            call,
            provider,
            policy,
            gate: Arc::clone(self.drive.gate),
            records: Arc::clone(&self.records),
            world: Arc::clone(self.drive.world),
            epoch: self.drive.epoch,
            lease: self.calls.lease.clone(),
            recorder,
            slots,
            time: Allowance::new(limits, state.since, Arc::clone(self.drive.world)),
            cache,
            purse: Box::new(move || purse(shared.clone(), Arc::clone(&world), Arc::clone(&store)).boxed()),
            site: None,
            used: Used::default(),
            asked: None,
            admission: admission.clone(),
        });
        let consumed = attempting.consumed();
        let made = async move {
            let Made { end, timing, reservation } = attempting.make().await;
            let ended =
                Attempted { attempt, provider: name, listed, retry, limits, end, timing, reservation };
            Done::Attempt(Arc::new(ended))
        };
        let left = move || {
            let usage = consumed.up_to_now()?;
            let (provider, reservation) = (consumed.provider().to_owned(), consumed.set_aside());
            Some(Done::Dropped(Box::new(Dropped { provider, usage, reservation })))
        };
        self.calls.begin_paid((step, attempt), admission, made.boxed(), left);
    }

    /// Records what the calls consumed that were dropped, once they are gone.
    pub(super) async fn count_dropped(&mut self) {
        for (attempt, done) in self.calls.aborted().await {
            self.count(attempt, done);
        }
    }

    /// Records what a call consumed of which nothing else is of use.
    pub(super) fn count(&mut self, (step, attempt): calls::Attempt, done: Done) {
        let dropped = match done {
            Done::Attempt(ended) => Dropped::of(&ended),
            Done::Dropped(dropped) => Some(*dropped),
            Done::Step(_) | Done::NotMade(_) | Done::Unknown(_) => None,
        };
        if let Some(dropped) = dropped {
            self.count_consumed((step, attempt), dropped);
        }
    }

    fn count_consumed(&mut self, (step, attempt): calls::Attempt, dropped: Dropped) {
        let Dropped { provider, usage, reservation } = dropped;
        let dropped = DroppedAttempt { step, attempt, provider, usage };
        let now = self.now();
        if self.shared.lock().machine.drop_attempt(dropped, now) {
            self.settling.extend(reservation);
            self.happened();
        }
    }

    /// Records how an attempt ended, and what comes after it.
    pub(super) fn attempt_ended(&mut self, step: Step, ended: &Attempted) {
        let now = self.now();
        let mut inner = self.shared.lock();
        let machine = &mut inner.machine;
        // It was dropped in the meantime.
        if !machine.is_open(step) {
            drop(inner);
            if let Some(dropped) = Dropped::of(ended) {
                self.count_consumed((step, ended.attempt), dropped);
            }
            return;
        }
        let Attempted { attempt, provider, listed, retry, limits, end, timing, reservation } = ended;
        let (attempt, timing) = (*attempt, *timing);
        self.settling.extend(reservation.clone());
        let (failure, heartbeat) = match end {
            AttemptEnd::Answered(reply) => match answer(reply) {
                Ok(json) => {
                    machine.complete_timed(step, Ok(json), timing, now);
                    return;
                }
                Err(failure) => (CallFailure::from(failure).with_usage(reply.usage), None),
            },
            AttemptEnd::Failed { failure, heartbeat } => (failure.clone(), heartbeat.clone()),
            AttemptEnd::Postponed { until, reason } => {
                machine.postpone(step, *until, reason.clone(), now);
                return;
            }
            AttemptEnd::Delegated { question, deadline } => {
                machine.delegate(step, provider.clone(), question.clone(), *deadline, now);
                return;
            }
        };
        let Some(state) = machine.call_state(step).cloned() else { return };
        let mut out = machine.providers_out().clone();
        if failure.auth {
            out.insert(provider.clone());
        }
        let failures = state.failures + 1;
        let next_provider =
            policy::providers::for_attempt(listed, failures.saturating_add(1), &out).map(str::to_owned);
        let same_again = next_provider.as_deref() == Some(provider.as_str());
        let after = if failure.exhausted && same_again {
            retry::Next::GiveUp(retry::Why::Fatal)
        } else {
            retry::after_failure(
                retry,
                &retry::FailedAttempt {
                    attempt,
                    kind: failure.failure.kind,
                    reason: retry::reason_of(&failure.failure),
                    auth: failure.auth,
                    retry_after_ms: failure.retry_after_ms.filter(|_| same_again),
                },
                retry::Situation {
                    now,
                    failures: failures - state.auth_failures - u32::from(failure.auth),
                    provider_left: next_provider.is_some(),
                    deadline: limits.deadline(state.since),
                    random: machine.jitter(step, attempt),
                },
            )
        };
        let (again_at, why) = match after {
            retry::Next::Retry { at, .. } => (Some(at), None),
            retry::Next::GiveUp(why) => (None, Some(why)),
        };
        // The last failure is that of the step; what it consumed is not. Its times stand once.
        let mut timing = timing;
        if again_at.is_some() || failure.usage.is_some() || failure.auth {
            let failed = FailedCall {
                step,
                attempt,
                provider: provider.clone(),
                failure: Failure { attempts: attempt, ..failure.failure.clone() },
                auth: failure.auth,
                again_at,
                usage: failure.usage,
                heartbeat,
                timing: timing.take(),
            };
            machine.fail_attempt(failed, now);
        }
        if let Some(why) = why {
            let failure = retry::final_failure(failure.failure, attempt, why);
            machine.complete_timed(step, Err(failure), timing, now);
        }
    }
}

/// What a run, and the family that it shares its budget with, may spend and has spent.
async fn purse(shared: Shared, world: Arc<dyn World>, store: SharedStore) -> Purse {
    let (root, mut budget, mut spent, shares) = {
        let machine = &shared.lock().machine;
        (machine.root().clone(), machine.budget(), machine.spent(world.now()), machine.shares_budget())
    };
    if shares {
        // A store that fails says nothing about the call: the answer is waited for.
        let family = loop {
            match store.family(&root).await {
                Ok(family) => break family,
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        };
        // Each has its own time.
        budget = Budget { time_ms: budget.time_ms, ..family.budget };
        spent = Spent { time_ms: spent.time_ms, ..family.spent };
    }
    Purse { root, budget, spent }
}

/// What the journal keeps of an answer.
fn answer(reply: &Reply) -> Outcome {
    Json::of(reply).map_err(|error| Failure::new(FailureKind::InvalidOutput, error.to_string()))
}
