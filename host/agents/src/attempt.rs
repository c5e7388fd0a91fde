//! One attempt at an agent call with everything around it: the cache, the
//! budget, waiting for a turn, time limits, correction turns, the transcript.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::time::Instant;
use wfhost_core::policy::budget::{self, Budget, Expected, Keeping, Spent, Unit};
use wfhost_core::policy::limits::{Bound, TimeLimits};
use wfhost_core::policy::retry::is_once;
use wfhost_core::policy::structured::{self, CORRECTIONS, SchemaError};
use wfhost_core::policy::{cache, structured::candidates};
use wfhost_core::{
    Caching, Digest, Epoch, Failure, FailureKind, Json, Question, Reply, TURN_AWAITED, TURN_TAKEN, Timestamp,
    Timing, TranscriptKind, Usage, limits, spell_millis,
};
use wfhost_schema::{self as schema, Fault, Schema};
use wfhost_world::{LatestLease, World};

use super::gate::{Gate, Permit, Place, Slot};
use super::ledger::{InQueue, ReadPurse, Reservation, SetAside};
use super::observer::{CallObserver, CallPhase, InPhase, SeenCall, SeenEnd};
use super::recorder::Recorder;
use super::session::{Asks, GoesOn};
use super::workspace::Site;
use super::{Call, CallEvent, CallFailure, CallOutput, Policy, Provider, Records, Turn, session, workspace};

/// Whoever waits longer for a turn says so in the transcript.
const SEEN_WAITING: Duration = Duration::from_millis(200);

/// A longer wait for a quota is recorded, so that the run need not be kept in memory.
const POSTPONE_FROM_MS: u64 = 5_000;

/// How long is looked for what changed in a workspace. The answer is there by then, and no limit of the call takes
/// it away.
const CHANGES_WITHIN: Duration = Duration::from_secs(60);

/// The codes of budgets that cannot be kept.
const NO_PRICE: &str = "WF0408";
const NOT_COUNTED: &str = "WF0409";

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

/// Whether an attempt is made, which is decided once: by itself, when nothing keeps it from the provider any more, or
/// before that by whoever takes it back.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<AtomicU8>);

impl Admission {
    const OPEN: u8 = 0;
    const ADMITTED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// That of what waits for nothing.
    pub fn granted() -> Self {
        Self(Arc::new(AtomicU8::new(Self::ADMITTED)))
    }

    /// Whether nothing was decided yet.
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::OPEN
    }

    /// The attempt is made; false if it was taken back.
    pub fn admit(&self) -> bool {
        self.decide(Self::ADMITTED) != Self::WITHDRAWN
    }

    /// The attempt is taken back; false if it is made, or was.
    pub fn withdraw(&self) -> bool {
        self.decide(Self::WITHDRAWN) != Self::ADMITTED
    }

    /// What was decided before.
    fn decide(&self, what: u8) -> u8 {
        let decided = self.0.compare_exchange(Self::OPEN, what, Ordering::AcqRel, Ordering::Acquire);
        decided.unwrap_or_else(|before| before)
    }
}

/// What an attempt consumed up to now, also if it is never told how it ended.
#[derive(Clone, Debug, Default)]
pub struct Used(Arc<Mutex<InUse>>);

#[derive(Debug, Default)]
struct InUse {
    /// By the turns that ended.
    ended: Option<Usage>,
    /// By the turn that is under way, as far as its provider said.
    turn: Option<Usage>,
    /// What is set aside for all of them.
    aside: Option<Arc<Reservation>>,
}

impl Used {
    fn lock(&self) -> MutexGuard<'_, InUse> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn ended, and consumed that if its provider says so at its end.
    fn end_turn(&self, usage: Option<Usage>) {
        let mut used = self.lock();
        let turn = usage.or(used.turn);
        (used.ended, used.turn) = (sum(used.ended, turn), None);
    }

    fn get(&self) -> Option<Usage> {
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

/// Waits for a turn. A wait that is not over at once is recorded while it lasts, so that whoever looks at the run
/// can tell it from work.
async fn seen_waiting<T, E>(recorder: &Recorder, turn: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let mut turn = pin!(turn);
    // Most get it at once, and need no timer.
    if let Poll::Ready(turn) = poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await {
        return turn;
    }
    if let Either::Left((turn, _)) = select(turn.as_mut(), pin!(tokio::time::sleep(SEEN_WAITING))).await {
        return turn;
    }
    recorder.note(TranscriptKind::Queue, TURN_AWAITED.to_owned());
    let turn = turn.await;
    if turn.is_ok() {
        recorder.note(TranscriptKind::Queue, TURN_TAKEN.to_owned());
    }
    turn
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

    fn in_phase(&self, phase: CallPhase) -> Option<InPhase> {
        self.gate.observer.as_ref().map(|observer| InPhase::enter(observer, &self.provider, phase))
    }

    /// Waits until the call may be made, and opens its workspace. It has to be made at once then: the run is ours
    /// at this moment.
    async fn admission(
        &mut self,
        deadline: Option<Timestamp>,
        set_aside: &mut Option<Arc<Reservation>>,
    ) -> Result<Permit, AttemptEnd> {
        let slots: Arc<[(Slot, u32)]> = std::mem::take(&mut self.slots).into();
        let recorder = self.recorder.clone();
        loop {
            let waits = self.in_phase(CallPhase::Waiting);
            let (permit, reservation) = seen_waiting(&recorder, self.wait_for_turn(&slots, deadline)).await?;
            *set_aside = reservation.map(Arc::new);
            drop(waits);
            if let Some(Err(failure)) = set_aside.as_ref().map(|aside| self.keeps_to(aside)) {
                return Err(self.failed(failure));
            }
            if let Some(site) = self.site.take()
                && let Err(failure) = self.open(site).boxed().await
            {
                return Err(self.failed(failure));
            }
            if self.lease.is_held() {
                if !self.admission.admit() {
                    // Whoever took it back says so, and ends this.
                    std::future::pending::<()>().await;
                }
                self.used.lock().aside.clone_from(set_aside);
                return Ok(permit);
            }
            // Whoever ends the session gives its slots to others.
            drop((permit, set_aside.take()));
            if within(deadline, &self.world, self.lease.held()).await.is_none() {
                return Err(self.failed(self.out_of_time(Bound::Total)));
            }
        }
    }

    fn failed(&self, failure: CallFailure) -> AttemptEnd {
        AttemptEnd::Failed { failure, heartbeat: self.recorder.heartbeat() }
    }

    async fn cached(&self) -> Option<Reply> {
        let (key, caching) = self.cache.as_ref()?;
        let (at, json) = self.records.kept_answer(*key).await?;
        if !cache::is_fresh(caching, at, self.world.now()) {
            return None;
        }
        let reply: Reply = serde_json::from_str(json.as_str()).ok()?;
        // Nothing was changed for this run, and the conversation is another one's.
        Some(Reply { usage: None, session: None, changes: None, cached: true, ..reply })
    }

    async fn keep(&self, reply: &Reply) {
        let Some((key, _)) = &self.cache else { return };
        let json = serde_json::to_string(reply).map(Json::parse);
        if let Ok(Ok(json)) = json {
            self.records.keep_answer(*key, self.world.now(), json).await;
        }
    }

    /// Waits for slots, for the budget and for a turn at the provider. Who has
    /// to wait for one of them gives back the others, so that nothing lies idle, and
    /// holds up nobody who waits for these. A long wait for a turn ends the attempt;
    /// the turn is kept.
    async fn wait_for_turn(
        &self,
        slots: &Arc<[(Slot, u32)]>,
        deadline: Option<Timestamp>,
    ) -> Result<(Permit, Option<Reservation>), AttemptEnd> {
        let name = self.provider.name();
        let rate = self.policy.rate(name);
        // Others are told it only where they share a limit.
        let who: Arc<str> = match slots.iter().any(|(slot, _)| matches!(slot, Slot::Fleet(_))) {
            true => format!("{}#{}", self.call.run, self.call.step).into(),
            false => Arc::default(),
        };
        let mut in_queue = self.gate.ledger.queue();
        let mut place: Option<Place> = None;
        let too_late = || self.failed(self.out_of_time(Bound::Total));
        loop {
            let permit = self.enter(slots, &who, &mut in_queue, deadline).await.ok_or_else(too_late)?;
            // What the calls before it consumed is known only now.
            let reservation = match in_queue.set_aside(&self.purse, || self.expected()).await {
                Ok(SetAside::Free) => None,
                Ok(SetAside::For(reservation)) => Some(reservation),
                Ok(SetAside::Wait(settled)) => {
                    drop(permit);
                    within(deadline, &self.world, settled.notified()).await.ok_or_else(too_late)?;
                    continue;
                }
                Err(short) => return Err(self.failed(Failure::from(short).into())),
            };
            if place.is_none() && self.gate.has_turns(name, rate) {
                let step = (&self.call.run, self.call.step, self.epoch);
                place = Some(self.gate.place(name, rate, step, &self.lease));
            }
            if place.as_ref().is_some_and(Place::may_be_of_another) {
                // The turn is taken from nobody: whoever has the run passes with it.
                drop((permit, reservation));
                within(deadline, &self.world, self.lease.held()).await.ok_or_else(too_late)?;
                continue;
            }
            let now = self.world.now();
            let passed = match &mut place {
                Some(place) => within(deadline, &self.world, place.pass(now)).await.ok_or_else(too_late)?,
                None => Ok(()),
            };
            let Err(until) = passed else { return Ok((permit, reservation)) };
            drop((permit, reservation));
            if deadline.is_some_and(|deadline| until >= deadline) {
                return Err(self.failed(CallFailure::new(
                    FailureKind::TimedOut,
                    format!("the rate limit of {name} allows no attempt within the time limit of the step"),
                )));
            }
            let wait = until.since(now);
            if wait > POSTPONE_FROM_MS {
                if let Some(place) = place {
                    place.keep();
                }
                let whose = if rate.of_fleet { " (fleet)" } else { "" };
                let reason = format!("waiting for quota of {name}{whose}");
                return Err(AttemptEnd::Postponed { until, reason });
            }
            tokio::time::sleep(Duration::from_millis(wait.max(1))).await;
        }
    }

    /// Waits for slots; if that takes time, those behind it that wait for the budget go on meanwhile. None if it takes
    /// too long.
    async fn enter(
        &self,
        slots: &Arc<[(Slot, u32)]>,
        who: &Arc<str>,
        in_queue: &mut InQueue,
        deadline: Option<Timestamp>,
    ) -> Option<Permit> {
        let mut entering = pin!(self.gate.enter(slots, who));
        if let Some(permit) = entering.as_mut().now_or_never() {
            return Some(permit);
        }
        in_queue.step_aside();
        within(deadline, &self.world, entering).await
    }

    /// The models that may answer, as far as they are known before.
    fn models(&self) -> impl Iterator<Item = &str> {
        self.call.request.model.as_deref().into_iter().chain(self.provider.model())
    }

    /// What the call is expected to consume.
    fn expected(&self) -> Expected {
        let name = self.provider.name();
        if let Some(usual) = self.gate.ledger.usual(name) {
            return usual;
        }
        let request = &self.call.request;
        let text = |json: &Option<Json>| json.as_ref().map_or(0, |json| json.as_str().len());
        let bytes = request.prompt.len() + text(&request.input) + text(&request.schema);
        let options = request.options.as_ref().map(Json::value).unwrap_or_default();
        let most = budget::most_tokens(&options).or(self.provider.most_tokens());
        // What a conversation adds is not known.
        let most = most.filter(|_| request.session.is_none());
        let price = self.policy.prices.of_any(name, self.models());
        Expected::first(most, bytes, self.provider.tells(), price)
    }

    /// Whether the budget can be kept with calls to this provider. If they are
    /// not counted, that is said once.
    fn keeps_to(&self, aside: &Reservation) -> Result<(), CallFailure> {
        let name = self.provider.name();
        let price = || self.policy.prices.of_any(name, self.models());
        let budget = aside.budget();
        let priced = budget.micros.is_some() && price().is_some();
        let found = budget.micros.and_then(|_| self.gate.ledger.uncounted(aside.root(), name));
        match found {
            Some(Keeping::NoPrice) if !priced => return Err(no_price(name, self.models().next(), budget)),
            Some(Keeping::Blind(_)) => return Err(not_told(name, budget)),
            _ => {}
        }
        match budget.can_be_kept(self.provider.tells(), priced) {
            Keeping::Kept => Ok(()),
            Keeping::NoPrice => Err(no_price(name, self.models().next(), budget)),
            Keeping::Blind(unit) => {
                if self.gate.ledger.warns(aside.root(), name) {
                    let text = format!(
                        "warning: the budget of {unit} does not count the calls of {name}, which does not report \
                         usage ({NOT_COUNTED})"
                    );
                    self.recorder.note(TranscriptKind::Progress, text);
                }
                Ok(())
            }
        }
    }

    /// Looks whether the budget counted a call that was answered. If not, that is said once, and a
    /// budget in dollars allows no other call of the provider.
    fn judge(&self, aside: &Reservation, reply: &Reply) {
        let (name, budget) = (self.provider.name(), aside.budget());
        let priced = |models: &mut dyn Iterator<Item = &str>| {
            budget.micros.is_some() && self.policy.prices.of_any(name, models).is_some()
        };
        let known = budget.can_be_kept(self.provider.tells(), priced(&mut self.models()));
        let mut models = reply.model.as_deref().into_iter().chain(self.models());
        let found = budget.counted(reply.usage.as_ref(), priced(&mut models));
        // What is known of a provider before was said before its first call.
        if matches!(known, Keeping::Blind(_)) || found == Keeping::Kept {
            return;
        }
        let (unit, what, more) = match found {
            Keeping::Blind(Unit::Tokens) => (Unit::Tokens, "its usage", String::new()),
            Keeping::Blind(_) => {
                (Unit::Micros, "its usage", format!("; no further call is made ({NO_PRICE})"))
            }
            _ => (
                Unit::Micros,
                "its cost, and whose model has no price",
                format!("; no further call is made ({NO_PRICE})"),
            ),
        };
        if unit == Unit::Micros {
            self.gate.ledger.cannot_count(aside.root(), name, found);
        }
        if self.gate.ledger.warns(aside.root(), name) {
            let text = format!(
                "warning: the budget of {unit} did not count this call of {name}, which did not report {what} \
                 ({NOT_COUNTED}){more}"
            );
            self.recorder.note(TranscriptKind::Progress, text);
        }
    }

    /// Whether there is something to [prepare](Self::prepare).
    fn wants_more_than_its_request(&self) -> bool {
        let request = &self.call.request;
        request.workspace.is_some() || request.session.is_some() || self.call.attempt > 1
    }

    /// Finds what the attempt needs besides the request, within its time limits.
    async fn prepare(&mut self) -> Result<(), CallFailure> {
        let (millis, bound) = self.limits.attempt_at(self.since, self.world.now());
        let found = tokio::time::timeout(Duration::from_millis(millis), self.find()).await;
        found.unwrap_or_else(|_| Err(self.out_of_time(bound)))
    }

    /// Opens the workspace within the time limits: what is in it now is what the agent finds.
    async fn open(&mut self, site: Site) -> Result<(), CallFailure> {
        let (millis, bound) = self.limits.attempt_at(self.since, self.world.now());
        let opened = tokio::time::timeout(Duration::from_millis(millis), site.open()).await;
        let workspace = opened.unwrap_or_else(|_| Err(self.out_of_time(bound)))?;
        self.call.directory = workspace.directory().map(ToOwned::to_owned);
        self.call.workspace = Some(Arc::new(workspace));
        Ok(())
    }

    async fn find(&mut self) -> Result<(), CallFailure> {
        if let Some(name) = &self.call.request.workspace {
            let known = &self.policy.workspaces;
            let config = known.get(name).ok_or_else(|| {
                let known: Vec<_> = known.keys().map(String::as_str).collect();
                CallFailure::new(
                    FailureKind::Rejected,
                    format!(
                        "unknown workspace `{name}`; configured are: {}",
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    ),
                )
            })?;
            let origin = self.records.origin(&self.call.run).await?;
            self.site = Some(workspace::make(config, name, &origin, self.call.step).await?);
        }
        if let Some(id) = self.call.request.session.clone() {
            let listed = &self.call.request.providers;
            let asks = Asks {
                run: &self.call.run,
                provider: self.provider.name(),
                keeps: self.provider.keeps_conversations(),
                is_first: listed.first().is_none_or(|first| first == self.provider.name()),
            };
            let resumed = self.gate.conversations.resume(self.records.as_ref(), asks, &id).await?;
            let GoesOn { session, history } = resumed;
            (self.call.session, self.call.history) = (session, history);
        }
        if self.provider.takes_heartbeats() && self.call.attempt > 1 && self.call.heartbeat.is_none() {
            // The host died before the attempt ended.
            let last = self.records.last_heartbeat(&self.call.run, self.call.step).await;
            self.call.heartbeat = last.and_then(|text| Json::parse(text).ok());
        }
        Ok(())
    }

    /// Asks within the time limits.
    async fn answer(&self, validator: Option<&Arc<Schema>>) -> Result<Reply, CallFailure> {
        self.recorder.begin();
        let (within, bound) = self.limits.attempt_at(self.since, self.world.now());
        let too_late = async {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(within)) => bound,
                () = self.silence() => Bound::Heartbeat,
            }
        };
        // The call is made before anything else can happen.
        let reply = match select(pin!(self.turns(validator)), pin!(too_late)).await {
            Either::Left((reply, _)) => reply,
            Either::Right((bound, _)) => Err(self.out_of_time(bound)),
        };
        // All turns are paid for, however the last one ended.
        let used = self.used.get();
        let changes = match &self.call.workspace {
            Some(workspace) => {
                let changes = tokio::time::timeout(CHANGES_WITHIN, workspace.changes().boxed()).await;
                if changes.is_err() {
                    let within = spell_millis(millis(CHANGES_WITHIN));
                    let text = format!("what changed in the workspace could not be found within {within}");
                    self.recorder.note(TranscriptKind::Progress, text);
                }
                // An agent may have written down what it was given.
                changes.ok().flatten().map(|changes| changes.redacted(&self.provider.redactor()))
            }
            None => None,
        };
        if let Some(changes) = &changes
            && !changes.diff.is_empty()
        {
            self.recorder.note(TranscriptKind::Diff, changes.diff.clone());
        }
        let name = self.provider.name();
        let priced = |model: Option<&str>| {
            let models = model.into_iter().chain(self.models());
            used.map(|usage| self.policy.prices.priced(name, models, usage))
        };
        match reply {
            Ok(reply) => {
                let usage = priced(reply.model.as_deref());
                let session = match reply.session.clone() {
                    None if !self.provider.keeps_conversations() => {
                        Some(session::id(&self.call.run, self.call.step))
                    }
                    Some(session) if session.len() > limits::KEY_BYTES => {
                        let most = limits::KEY_BYTES;
                        let text = format!(
                            "the conversation cannot be continued: its id is longer than {most} bytes"
                        );
                        self.recorder.note(TranscriptKind::Progress, text);
                        None
                    }
                    session => session,
                };
                let model = reply.model.clone().map(|model| limits::cut(model, limits::NAME_BYTES));
                let size = reply.output.as_str().len();
                limits::check("an agent's answer", size, limits::ANSWER_BYTES).map_err(|error| {
                    CallFailure::new(FailureKind::InvalidOutput, error.to_string()).with_usage(usage)
                })?;
                Ok(Reply { usage, session, model, changes: changes.map(|changes| changes.summary), ..reply })
            }
            Err(failure) => Err(failure.with_usage(priced(None))),
        }
    }

    /// Takes the events of the provider.
    fn output(&self) -> CallOutput {
        let (out, used) = (self.recorder.output(), self.used.clone());
        CallOutput::new(move |event| {
            if let CallEvent::Usage(usage) = event {
                used.lock().turn = Some(usage);
            }
            out.send(event);
        })
    }

    /// Ends when nothing was heard for too long; never without such a limit.
    async fn silence(&self) {
        let Some(millis) = self.limits.heartbeat_ms else { return std::future::pending().await };
        loop {
            let until = self.recorder.last_heard() + Duration::from_millis(millis);
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn out_of_time(&self, bound: Bound) -> CallFailure {
        let spell = |millis: Option<u64>| spell_millis(millis.unwrap_or_default());
        CallFailure::new(
            FailureKind::TimedOut,
            match bound {
                Bound::Attempt => format!("no answer within {}", spell(Some(self.limits.attempt_ms))),
                Bound::Total => {
                    format!("the step did not complete within {}", spell(self.limits.total_ms))
                }
                Bound::Heartbeat => format!("no sign of life for {}", spell(self.limits.heartbeat_ms)),
            },
        )
    }

    /// Asks, and asks again as long as the answer does not fit the schema.
    async fn turns(&self, validator: Option<&Arc<Schema>>) -> Result<Reply, CallFailure> {
        let mut turns = Vec::new();
        // A correction is another call.
        let corrections = if is_once(&self.call.request) { 0 } else { CORRECTIONS as usize };
        loop {
            let call = Call { turns: turns.clone(), ..self.call.clone() };
            let reply = match self.provider.call(call, self.output()).await {
                Ok(reply) => reply,
                Err(failure) => {
                    self.used.end_turn(failure.usage);
                    return Err(failure);
                }
            };
            self.used.end_turn(reply.usage);
            let (Some(schema), Some(validator)) = (&self.call.request.schema, validator) else {
                return Ok(reply);
            };
            let output = reply.output.clone();
            let (answer, errors) = match schema::with(validator, move |schema| fit(schema, &output)).await {
                Ok(output) => return Ok(Reply { output, ..reply }),
                Err(unfit) => unfit,
            };
            if turns.len() >= corrections {
                let tried = match corrections {
                    0 => String::new(),
                    corrections => format!(", even after {corrections} corrections"),
                };
                let message = format!(
                    "the answer does not match the schema{tried}: {}",
                    errors.first().map_or("it contains no JSON".to_owned(), |error| {
                        let place = error.path.as_str();
                        let separator = if place.is_empty() { "" } else { ": " };
                        format!("{place}{separator}{}", error.message)
                    })
                );
                let details = Some(structured::details(&answer, &errors));
                let failure = Failure { details, ..Failure::new(FailureKind::InvalidOutput, message) };
                return Err(CallFailure { exhausted: true, ..failure.into() });
            }
            let correction = structured::correction(schema, &errors);
            self.recorder.note(
                TranscriptKind::Progress,
                format!("the answer does not match the schema: correction {}", turns.len() + 1),
            );
            turns.push(Turn { answer, session: reply.session, correction });
            self.lease.held().await;
        }
    }
}

/// The JSON of an answer that fits the schema; else the answer as text and
/// what is wrong with it.
fn fit(schema: &Schema, output: &Json) -> Result<Json, (String, Vec<SchemaError>)> {
    let errors = |json: &Json| {
        let faults = schema.faults(json, 100).into_iter();
        faults.map(|Fault { path, message, .. }| SchemaError { path, message }).collect::<Vec<_>>()
    };
    let serde_json::Value::String(text) = output.value() else {
        let errors = errors(output);
        return if errors.is_empty() { Ok(output.clone()) } else { Err((output.to_string(), errors)) };
    };
    let mut first = None;
    for json in candidates(&text) {
        let errors = errors(&json);
        if errors.is_empty() {
            return Ok(json);
        }
        first.get_or_insert(errors);
    }
    // A schema of text.
    if errors(output).is_empty() {
        return Ok(output.clone());
    }
    Err((text, first.unwrap_or_default()))
}

/// A budget of money that nobody can keep: no call is made.
fn no_price(provider: &str, model: Option<&str>, budget: Budget) -> CallFailure {
    let pattern = model.map_or(format!("{provider}/*"), str::to_owned);
    let message = format!(
        "the budget in dollars cannot be enforced: {provider} does not report costs, and {} has no price; \
         add [prices.{pattern:?}] to wfhost.toml, or give the run a budget of tokens ({NO_PRICE})",
        model.map_or("its model".to_owned(), |model| format!("`{model}`")),
    );
    let details = serde_json::json!({
        "code": NO_PRICE, "unit": "cost_micros", "total": budget.micros, "provider": provider, "model": model,
    });
    let failure =
        Failure { details: Some(Json::from(details)), ..Failure::new(FailureKind::BudgetExceeded, message) };
    failure.into()
}

/// The same after a call that did not tell what it consumed: a price would not help.
fn not_told(provider: &str, budget: Budget) -> CallFailure {
    let message = format!(
        "the budget in dollars cannot be enforced: a call of {provider} reported no usage; make it report usage, \
         or start a run without a budget in dollars ({NO_PRICE})"
    );
    let details = serde_json::json!({
        "code": NO_PRICE, "unit": "cost_micros", "total": budget.micros, "provider": provider,
    });
    let failure =
        Failure { details: Some(Json::from(details)), ..Failure::new(FailureKind::BudgetExceeded, message) };
    failure.into()
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

/// Waits for something until a deadline at most.
async fn within<T>(
    deadline: Option<Timestamp>,
    world: &Arc<dyn World>,
    future: impl Future<Output = T>,
) -> Option<T> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => {
            let left = Duration::from_millis(deadline.since(world.now()));
            tokio::time::timeout(left, future).await.ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_attempt_is_made_or_taken_back() {
        let made = Admission::default();
        assert!(made.is_open() && made.admit() && !made.is_open() && !made.withdraw() && made.admit());
        let taken_back = Admission::default();
        assert!(
            taken_back.withdraw() && !taken_back.is_open() && !taken_back.admit() && taken_back.withdraw()
        );
        assert!(!Admission::granted().withdraw());
    }

    fn fits(schema: serde_json::Value, answer: &str) -> Result<String, usize> {
        let validator = Schema::compile(&Json::from(schema)).unwrap();
        match fit(&validator, &Json::string(answer)) {
            Ok(json) => Ok(json.into_string()),
            Err((text, errors)) => {
                assert_eq!(text, answer);
                Err(errors.len())
            }
        }
    }

    #[test]
    fn of_several_candidates_the_first_that_fits_is_taken() {
        let object = json!({"type": "object", "required": ["ok"]});
        let answer = "```json\n{\"draft\": 1}\n```\nfinally {\"ok\": true}";
        assert_eq!(fits(object.clone(), answer), Ok("{\"ok\": true}".to_owned()));
        assert_eq!(fits(object.clone(), "```\n{\"draft\": 1}\n```"), Err(1));
        assert_eq!(fits(object, "nothing"), Err(0));
    }

    #[test]
    fn text_fits_a_schema_of_text() {
        assert_eq!(fits(json!({"type": "string"}), "hello"), Ok("\"hello\"".to_owned()));
        assert_eq!(fits(json!({"type": "string"}), "\"hello\""), Ok("\"hello\"".to_owned()));
        assert_eq!(fits(json!({"type": "integer"}), "7"), Ok("7".to_owned()));
    }
}
