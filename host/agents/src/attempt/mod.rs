//! One attempt at an agent call with everything around it: the cache, the
//! budget, waiting for a turn, time limits, correction turns, the transcript.

mod admission;
mod answer;
mod budget;
mod cached;
mod prepare;
mod turns;
mod used;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use wfhost_core::policy::budget::Spent;
use wfhost_core::policy::limits::TimeLimits;
use wfhost_core::{Caching, Digest, Epoch, FailureKind, Json, Question, Reply, Timestamp, Timing};
use wfhost_schema::Schema;
use wfhost_world::{LatestLease, World};

pub use self::admission::Admission;
pub use self::used::{Consumed, Used};
use super::gate::{Gate, Slot};
use super::ledger::{ReadPurse, Reservation};
use super::observer::{CallObserver, CallPhase, InPhase, SeenCall, SeenEnd};
use super::recorder::Recorder;
use super::workspace::Site;
use super::{Call, CallFailure, Policy, Provider, Records};

/// An attempt that ended, and what is set aside for it until that is recorded.
#[derive(Debug)]
pub struct Made {
    pub end: AttemptEnd,
    /// None if it neither waited nor was heard of before its answer.
    pub timing: Option<Timing>,
    pub reservation: Option<Arc<Reservation>>,
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum AttemptEnd {
    Answered(Reply),
    Failed {
        failure: CallFailure,
        /// The last payload that came during the attempt.
        heartbeat: Option<Json>,
    },
    /// It was not made.
    Postponed {
        until: Timestamp,
        reason: String,
    },
    /// A person is to answer.
    Delegated {
        question: Question,
        deadline: Option<Timestamp>,
    },
}

/// An attempt that is to be made.
pub struct Attempt {
    pub call: Call,
    pub provider: Arc<dyn Provider>,
    pub policy: Arc<Policy>,
    pub gate: Arc<Gate>,
    pub records: Arc<dyn Records>,
    pub world: Arc<dyn World>,
    /// Under which the run is driven.
    pub epoch: Epoch,
    /// Of the run: without it nobody is called.
    pub lease: LatestLease,
    pub recorder: Recorder,
    pub slots: Vec<(Slot, u32)>,
    pub limits: TimeLimits,
    /// When the step began.
    pub since: Timestamp,
    /// The key and the wish, if an earlier answer will do.
    pub cache: Option<(Digest, Caching)>,
    /// What the run may spend, and has spent as far as it is recorded.
    pub purse: ReadPurse,
    /// Where its workspace is, until that is opened.
    pub site: Option<Site>,
    /// What its turns consumed up to now.
    pub used: Used,
    /// From when to when the provider had it.
    pub asked: Option<(Instant, Instant)>,
    /// Whether the provider may have it.
    pub admission: Admission,
}

impl Attempt {
    /// Makes the attempt.
    pub async fn make(mut self: Box<Self>) -> Made {
        let mut reservation = None;
        let began = Instant::now();
        let end = self.try_once(&mut reservation).await;
        let timing = match &end {
            AttemptEnd::Answered(reply) if reply.cached => None,
            AttemptEnd::Answered(_) | AttemptEnd::Failed { .. } => self.timing(began),
            AttemptEnd::Postponed { .. } | AttemptEnd::Delegated { .. } => None,
        };
        if let Some(observer) = &self.gate.observer {
            self.tell(observer.as_ref(), &end);
        }
        Made { end, timing, reservation }
    }

    /// What few attempts need is boxed, so that all are small.
    async fn try_once(&mut self, set_aside: &mut Option<Arc<Reservation>>) -> AttemptEnd {
        if let Some(reply) = self.cached().boxed().await {
            return AttemptEnd::Answered(reply);
        }
        let deadline = self.limits.deadline(self.since);
        if self.provider.asks_people() {
            return AttemptEnd::Delegated { question: question(&self.call), deadline };
        }
        let validator = match &self.call.request.schema {
            None => Ok(None),
            Some(schema) => Schema::read(schema).await.map(Some),
        };
        let validator = match validator {
            Ok(validator) => validator,
            Err(error) => {
                let message = format!("the schema of the call is invalid: {error}");
                return self.failed(CallFailure::new(FailureKind::Rejected, message));
            }
        };
        // Before it has a slot, and a part of the budget: others can use these meanwhile.
        if self.wants_more_than_its_request()
            && let Err(failure) = self.prepare().boxed().await
        {
            return self.failed(failure);
        }
        let permit = match self.admission(deadline, set_aside).await {
            Ok(permit) => permit,
            Err(end) => return end,
        };
        let asks = self.in_phase(CallPhase::Asking);
        let since = Instant::now();
        let made = self.answer(validator.as_ref()).await;
        self.asked = Some((since, Instant::now()));
        drop((permit, asks));
        let usage = match &made {
            Ok(reply) => reply.usage,
            Err(failure) => failure.usage,
        };
        // Of a call that was stopped it is not known how much more it would have been.
        let is_stopped = matches!(&made, Err(failure) if failure.failure.kind == FailureKind::TimedOut);
        if usage.is_some() || (set_aside.is_some() && !is_stopped) {
            let spent = usage.as_ref().map(Spent::of).unwrap_or_default();
            self.gate.ledger.learn(self.provider.name(), spent);
        }
        if let (Ok(reply), Some(aside)) = (&made, set_aside.as_ref()) {
            self.judge(aside, reply);
        }
        let end = match made {
            Ok(reply) => {
                self.keep(&reply).boxed().await;
                AttemptEnd::Answered(reply)
            }
            Err(failure) => {
                if let Some(millis) = failure.retry_after_ms {
                    let name = self.provider.name();
                    self.gate.block(name, self.policy.rate(name), millis, self.world.now());
                }
                self.failed(failure)
            }
        };
        self.recorder.flush().await;
        end
    }

    /// What is worth keeping: an attempt that is answered at once has none.
    fn timing(&self, began: Instant) -> Option<Timing> {
        let until = self.asked.map_or_else(Instant::now, |(since, _)| since);
        let waited = until.saturating_duration_since(began);
        let timing = Timing { waited_ms: millis(waited), first_ms: self.first().map(millis) };
        Some(timing).filter(|timing| timing.waited_ms > 0 || timing.first_ms.is_some_and(|first| first > 0))
    }

    /// How long the provider had it before it was heard of first.
    fn first(&self) -> Option<Duration> {
        let (since, _) = self.asked?;
        Some(self.recorder.first_heard()?.saturating_duration_since(since))
    }

    fn tell(&self, observer: &dyn CallObserver, end: &AttemptEnd) {
        let (outcome, model, usage) = match end {
            AttemptEnd::Answered(reply) if reply.cached => ("cached", reply.model.as_deref(), None),
            AttemptEnd::Answered(reply) => ("answered", reply.model.as_deref(), reply.usage),
            AttemptEnd::Failed { failure, .. } => (failure.failure.kind.word(), None, failure.usage),
            AttemptEnd::Postponed { .. } => ("postponed", None, None),
            AttemptEnd::Delegated { .. } => ("delegated", None, None),
        };
        let asked = self.asked;
        observer.see_call(SeenCall::Ended(SeenEnd {
            run: &self.call.run,
            step: self.call.step,
            attempt: self.call.attempt,
            provider: self.provider.name(),
            model: model.or_else(|| self.models().next()),
            outcome,
            took: asked.map(|(since, until)| until.saturating_duration_since(since)),
            first: self.first(),
            usage,
        }));
    }

    fn in_phase(&self, phase: CallPhase) -> Option<InPhase> {
        self.gate.observer.as_ref().map(|observer| InPhase::enter(observer, &self.provider, phase))
    }

    fn failed(&self, failure: CallFailure) -> AttemptEnd {
        AttemptEnd::Failed { failure, heartbeat: self.recorder.heartbeat() }
    }

    /// The models that may answer, as far as they are known before.
    fn models(&self) -> impl Iterator<Item = &str> {
        self.call.request.model.as_deref().into_iter().chain(self.provider.model())
    }
}

/// What a person is asked.
fn question(call: &Call) -> Question {
    let request = &call.request;
    let options = request.options.as_ref().map(Json::value).unwrap_or_default();
    let choices = options["choices"].as_array().into_iter().flatten();
    Question {
        prompt: request.prompt.clone(),
        schema: request.schema.clone(),
        choices: choices.filter_map(|choice| choice.as_str().map(str::to_owned)).collect(),
        details: request.input.clone(),
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
