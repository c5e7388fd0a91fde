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
use wfhost_core::{Caching, Digest, Epoch, FailureKind, Json, Question, Reply, Timestamp, Timing};
use wfhost_world::{LatestLease, World};

pub use self::admission::Admission;
pub use self::used::{Consumed, Used};
use super::allowance::{Allowance, millis};
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
    /// What it may take, and has taken.
    pub time: Allowance,
    /// The key and the wish, if an earlier answer will do.
    pub cache: Option<(Digest, Caching)>,
    /// What the run may spend, and has spent as far as it is recorded.
    pub purse: ReadPurse,
    /// Where its workspace is, as soon as that is there.
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
        if self.provider.asks_people() {
            let deadline = self.time.deadline();
            return AttemptEnd::Delegated { question: question(&self.call), deadline };
        }
        if self.call.request.workspace.is_some()
            && let Err(failure) = self.prepare().boxed().await
        {
            return self.failed(failure);
        }
        let (permit, validator) = match self.admission(set_aside).await {
            Ok(admitted) => admitted,
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

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::{BoxFuture, join_all};
    use tokio::sync::Semaphore;
    use wfhost_core::policy::budget::Budget;
    use wfhost_core::policy::limits::TimeLimits;
    use wfhost_core::{
        AgentRequest, Entry, Event, Failure, NewTranscript, Op, Outcome, Position, Row, RunId, Step,
        encode_op,
    };
    use wfhost_world::{Lease, System};

    use super::*;
    use crate::{
        AnswerCache, CallOutput, Conversations, Origin, Origins, Purse, Recorder, Transcripts,
        WorkspaceConfig, Writers,
    };

    /// A journal with one call that was answered, and how often it was read.
    struct Kept {
        row: Row,
        read: AtomicUsize,
    }

    impl Kept {
        fn new() -> Self {
            let mut bytes = Vec::new();
            let mut add =
                |event: Event| Entry::behind(Timestamp(1), Timestamp(1), event).encode_to(&mut bytes);
            let request = AgentRequest { prompt: "two and two?".to_owned(), ..AgentRequest::default() };
            add(Event::Scheduled { step: Step(1), op: encode_op(&Op::Agent(Box::new(request))).into() });
            let reply = Reply { session: Some("r/1".to_owned()), ..Reply::new("p", Json::string("four")) };
            let outcome = Outcome::Ok(Json::of(&reply).unwrap()).into();
            add(Event::Completed { step: Step(1), outcome, timing: None });
            let row = Row { first: Position(0), count: 2, bytes, head: Digest::of(b"") };
            Self { row, read: AtomicUsize::new(0) }
        }
    }

    impl AnswerCache for Kept {
        fn kept_answer(&self, _: Digest) -> BoxFuture<'_, Option<(Timestamp, Json)>> {
            Box::pin(ready(None))
        }

        fn keep_answer(&self, _: Digest, _: Timestamp, _: Json) -> BoxFuture<'_, ()> {
            Box::pin(ready(()))
        }
    }

    impl Transcripts for Kept {
        fn transcribe<'a>(&'a self, _: &'a RunId, _: Vec<NewTranscript>) -> BoxFuture<'a, ()> {
            Box::pin(ready(()))
        }

        fn last_heartbeat<'a>(&'a self, _: &'a RunId, _: Step) -> BoxFuture<'a, Option<String>> {
            Box::pin(ready(None))
        }
    }

    impl Conversations for Kept {
        fn journal<'a>(&'a self, _: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>, Failure>> {
            self.read.fetch_add(1, Ordering::SeqCst);
            let rows = if from == Position(0) { vec![self.row.clone()] } else { Vec::new() };
            Box::pin(ready(Ok(rows)))
        }

        fn root_of<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunId>, Failure>> {
            Box::pin(ready(Ok(Some(run.clone()))))
        }

        fn relatives<'a>(&'a self, _: &'a RunId) -> BoxFuture<'a, Result<Vec<RunId>, Failure>> {
            Box::pin(ready(Ok(Vec::new())))
        }
    }

    impl Origins for Kept {
        fn origin<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Origin, Failure>> {
            let origin = Origin { run: run.clone(), database: "d".to_owned(), begun_at: Timestamp(1) };
            Box::pin(ready(Ok(origin)))
        }
    }

    /// Answers as often as it is allowed to, with the conversation that it was told.
    #[derive(Debug)]
    struct Held(Semaphore);

    impl Provider for Held {
        fn name(&self) -> &str {
            "p"
        }

        fn keeps_conversations(&self) -> bool {
            false
        }

        fn call(&self, call: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
            Box::pin(async move {
                self.0.acquire().await.unwrap().forget();
                let said: Vec<_> =
                    call.history.iter().flat_map(|(asked, said)| [&**asked, &**said]).collect();
                Ok(Reply::new("p", Json::of(&said).unwrap()))
            })
        }
    }

    /// One attempt at a call that continues the conversation, for which there is one slot.
    fn attempt(step: u64, provider: &Arc<Held>, gate: &Arc<Gate>, records: &Arc<Kept>) -> Box<Attempt> {
        let run: RunId = "r".parse().unwrap();
        let request = AgentRequest { session: Some("r/1".to_owned()), ..AgentRequest::default() };
        let world: Arc<dyn World> = Arc::new(System);
        let lease = LatestLease::default();
        let held = Lease::default();
        held.extend(Instant::now() + Duration::from_secs(3_600));
        lease.set(held);
        let recorder = Recorder::new(
            (run.clone(), Step(step), 1),
            Arc::clone(records) as _,
            Arc::clone(&world),
            Arc::new(|| ()),
            Writers::default(),
        );
        let root = run.clone();
        Box::new(Attempt {
            call: Call::new(run, Step(step), 1, format!("key-{step}"), request),
            provider: Arc::clone(provider) as _,
            policy: Arc::default(),
            gate: Arc::clone(gate),
            records: Arc::clone(records) as _,
            epoch: Epoch(1),
            lease,
            recorder,
            slots: vec![(Slot::Provider("p".to_owned()), 1)],
            time: Allowance::new(TimeLimits::default(), world.now(), Arc::clone(&world)),
            world,
            cache: None,
            purse: Box::new(move || {
                let (root, spent) = (root.clone(), Spent::default());
                Box::pin(ready(Purse { root, budget: Budget::default(), spent }))
            }),
            site: None,
            used: Used::default(),
            asked: None,
            admission: Admission::default(),
        })
    }

    /// It may be long, and there may be many of them.
    #[tokio::test]
    async fn a_call_that_waits_for_a_slot_does_not_hold_its_conversation() {
        let (provider, records) = (Arc::new(Held(Semaphore::new(0))), Arc::new(Kept::new()));
        let gate = Arc::new(Gate::default());
        let attempts = (2..=21).map(|step| attempt(step, &provider, &gate, &records).make());
        let mut all = std::pin::pin!(join_all(attempts));
        for _ in 0..100 {
            assert!(futures_util::poll!(&mut all).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(records.read.load(Ordering::SeqCst), 1, "one of them has the slot");
        provider.0.add_permits(20);
        for made in all.await {
            let AttemptEnd::Answered(reply) = made.end else { panic!("{made:?}") };
            assert_eq!(reply.output.value(), serde_json::json!(["two and two?", "four"]));
        }
        assert_eq!(records.read.load(Ordering::SeqCst), 20);
    }

    /// What others do to its workspace while it waits once more is none of its changes.
    #[tokio::test]
    async fn a_call_whose_run_is_lost_for_a_while_begins_with_what_is_there_afterwards() {
        let (provider, records) = (Arc::new(Held(Semaphore::new(2))), Arc::new(Kept::new()));
        let gate = Arc::new(Gate::default());
        let dir = tempfile::tempdir().unwrap();
        let mut first = attempt(2, &provider, &gate, &records);
        let lease = Lease::default();
        first.lease.set(lease.clone());
        let config = WorkspaceConfig::Dir { path: dir.path().to_owned() };
        let workspaces = [("w".to_owned(), config)].into();
        first.policy = Arc::new(Policy { workspaces, ..Policy::default() });
        let request = AgentRequest { workspace: Some("w".to_owned()), ..(*first.call.request).clone() };
        first.call.request = Arc::new(request);
        let mut first = std::pin::pin!(first.make());
        tokio::select! {
            made = &mut first => panic!("{made:?}"),
            () = lease.wanted() => {}
        }
        std::fs::write(dir.path().join("a"), "by another one").unwrap();
        let other = attempt(3, &provider, &gate, &records).make();
        assert!(matches!(other.await.end, AttemptEnd::Answered(_)), "the slot is free meanwhile");
        lease.extend(Instant::now() + Duration::from_secs(3_600));
        let AttemptEnd::Answered(reply) = first.await.end else { panic!("no answer") };
        assert_eq!(reply.output.value(), serde_json::json!(["two and two?", "four"]));
        assert_eq!(reply.changes.unwrap().value()["files"], serde_json::json!([]));
    }
}
