//! One attempt at an agent call with everything around it: the cache, the
//! budget, waiting for a turn, time limits, correction turns, the transcript.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::future::{Either, select};
use tokio::time::Instant;
use wfhost_core::policy::limits::{Bound, TimeLimits};
use wfhost_core::policy::structured::{self, CORRECTIONS, SchemaError};
use wfhost_core::policy::{cache, structured::candidates};
use wfhost_core::{
    Caching, Digest, Failure, FailureKind, Json, Question, Reply, Timestamp, TranscriptKind, Usage, limits,
    spell_millis,
};
use wfhost_schema::{self as schema, Fault, Schema};
use wfhost_world::{Lease, World};

use super::gate::{Gate, Slot};
use super::recorder::Recorder;
use super::{Call, CallFailure, Policy, Provider, Records, Turn, session, workspace};

/// A longer wait for a quota is recorded, so that the run need not be kept in memory.
const POSTPONE_FROM_MS: u64 = 5_000;

/// How an attempt ended.
#[derive(Debug)]
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
    /// Of the run: without it nobody is called.
    pub lease: Lease,
    pub recorder: Recorder,
    pub slots: Vec<(Slot, u32)>,
    pub limits: TimeLimits,
    /// When the step began.
    pub since: Timestamp,
    /// The key and the wish, if an earlier answer will do.
    pub cache: Option<(Digest, Caching)>,
    /// Whether the run can pay for another call.
    pub afford: Box<dyn Fn() -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>,
}

impl Attempt {
    /// Makes the attempt. What few attempts need is boxed, so that all are small.
    pub async fn make(mut self: Box<Self>) -> AttemptEnd {
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
                let message = format!("the schema of the call cannot be used: {error}");
                return self.failed(CallFailure::new(FailureKind::Rejected, message));
            }
        };
        if let Err(end) = self.wait_for_quota(deadline).await {
            return end;
        }
        let permit = self.gate.enter(std::mem::take(&mut self.slots));
        let permit = match within(deadline, &self.world, permit).await {
            Some(permit) => permit,
            None => return self.failed(self.out_of_time(Bound::Total)),
        };
        // What the calls before it consumed is known only now.
        if let Err(failure) = (self.afford)().await {
            return self.failed(failure.into());
        }
        if let Err(failure) = self.prepare().boxed().await {
            return self.failed(failure);
        }
        let made = self.answer(validator.as_ref()).await;
        drop(permit);
        let end = match made {
            Ok(reply) => {
                self.keep(&reply).boxed().await;
                AttemptEnd::Answered(reply)
            }
            Err(failure) => {
                if let Some(millis) = failure.retry_after_ms {
                    self.gate.block(self.provider.name(), self.world.now().after(millis));
                }
                self.failed(failure)
            }
        };
        self.recorder.flush().await;
        end
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
        Some(Reply { usage: None, cached: true, ..reply })
    }

    async fn keep(&self, reply: &Reply) {
        let Some((key, _)) = &self.cache else { return };
        let json = serde_json::to_string(reply).map(Json::parse);
        if let Ok(Ok(json)) = json {
            self.records.keep_answer(*key, self.world.now(), json).await;
        }
    }

    /// Waits until a call of the provider may begin; a long wait ends the attempt.
    async fn wait_for_quota(&self, deadline: Option<Timestamp>) -> Result<(), AttemptEnd> {
        let name = self.provider.name();
        loop {
            let now = self.world.now();
            let Err(until) = self.gate.pass(name, self.policy.rate(name), now) else { return Ok(()) };
            if deadline.is_some_and(|deadline| until >= deadline) {
                return Err(self.failed(CallFailure::new(
                    FailureKind::TimedOut,
                    format!("the quota of {name} leaves no room within the time limit of the step"),
                )));
            }
            let wait = until.since(now);
            if wait > POSTPONE_FROM_MS {
                let reason = format!("waiting for quota of {name}");
                return Err(AttemptEnd::Postponed { until, reason });
            }
            tokio::time::sleep(Duration::from_millis(wait.max(1))).await;
        }
    }

    /// Finds what the attempt needs besides the request.
    async fn prepare(&mut self) -> Result<(), CallFailure> {
        if let Some(name) = &self.call.request.workspace {
            let known = &self.policy.workspaces;
            let config = known.get(name).ok_or_else(|| {
                let known: Vec<_> = known.keys().map(String::as_str).collect();
                CallFailure::new(
                    FailureKind::Rejected,
                    format!(
                        "no workspace `{name}` is configured; there are: {}",
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    ),
                )
            })?;
            let workspace = workspace::open(config, name, &self.call.run, self.call.step).await?;
            self.call.directory = workspace.directory().map(ToOwned::to_owned);
            self.call.workspace = Some(Arc::new(workspace));
        }
        if !self.provider.keeps_conversations()
            && let Some(id) = self.call.request.session.clone()
        {
            self.call.history = session::history(self.records.as_ref(), &id).await?;
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
        let (millis, bound) = self.limits.attempt_at(self.since, self.world.now());
        let too_late = async {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(millis)) => bound,
                () = self.silence() => Bound::Heartbeat,
            }
        };
        // The call is made before anything else can happen: the run is ours at this moment.
        let reply = match select(pin!(self.turns(validator)), pin!(too_late)).await {
            Either::Left((reply, _)) => reply,
            Either::Right((bound, _)) => Err(self.out_of_time(bound)),
        };
        let changes = match &self.call.workspace {
            Some(workspace) => workspace.changes().boxed().await,
            None => None,
        };
        if let Some(changes) = &changes
            && !changes.diff.is_empty()
        {
            self.recorder.note(TranscriptKind::Diff, changes.diff.clone());
        }
        let name = self.provider.name();
        match reply {
            Ok(reply) => {
                let priced = |usage| self.policy.prices.priced(name, reply.model.as_deref(), usage);
                let session = match reply.session.clone() {
                    None if !self.provider.keeps_conversations() => {
                        Some(session::id(&self.call.run, self.call.step))
                    }
                    session => session,
                };
                let size = reply.output.as_str().len();
                limits::check("an agent's answer", size, limits::ANSWER_BYTES)
                    .map_err(|error| CallFailure::new(FailureKind::InvalidOutput, error.to_string()))?;
                Ok(Reply {
                    usage: reply.usage.map(priced),
                    session,
                    changes: changes.map(|changes| changes.summary),
                    ..reply
                })
            }
            Err(failure) => {
                let model = self.call.request.model.as_deref().or(self.provider.model());
                let usage = failure.usage.map(|usage| self.policy.prices.priced(name, model, usage));
                Err(failure.with_usage(usage))
            }
        }
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
                    format!("the step was not done within {}", spell(self.limits.total_ms))
                }
                Bound::Heartbeat => format!("no sign of life for {}", spell(self.limits.heartbeat_ms)),
            },
        )
    }

    /// Asks, and asks again as long as the answer does not fit the schema.
    async fn turns(&self, validator: Option<&Arc<Schema>>) -> Result<Reply, CallFailure> {
        let mut turns = Vec::new();
        let mut used: Option<Usage> = None;
        loop {
            let add = |usage: Option<Usage>| match (used, usage) {
                (Some(a), Some(b)) => Some(a.plus(b)),
                (a, b) => a.or(b),
            };
            self.lease.held().await;
            let call = Call { turns: turns.clone(), ..self.call.clone() };
            let reply = match self.provider.call(call, self.recorder.output()).await {
                Ok(reply) => reply,
                Err(failure) => {
                    let usage = add(failure.usage);
                    return Err(failure.with_usage(usage));
                }
            };
            used = add(reply.usage);
            let (Some(schema), Some(validator)) = (&self.call.request.schema, validator) else {
                return Ok(Reply { usage: used, ..reply });
            };
            let output = reply.output.clone();
            let (answer, errors) = match schema::with(validator, move |schema| fit(schema, &output)).await {
                Ok(output) => return Ok(Reply { output, usage: used, ..reply }),
                Err(unfit) => unfit,
            };
            if turns.len() >= CORRECTIONS as usize {
                let message = format!(
                    "the answer does not fit the schema, also after {CORRECTIONS} corrections: {}",
                    errors.first().map_or("it holds no JSON".to_owned(), |error| {
                        format!("{}: {}", error.path, error.message)
                    })
                );
                let details = Some(structured::details(&answer, &errors));
                let failure = Failure { details, ..Failure::new(FailureKind::InvalidOutput, message) };
                return Err(CallFailure { exhausted: true, ..failure.into() }.with_usage(used));
            }
            let correction = structured::correction(schema, &errors);
            self.recorder.note(
                TranscriptKind::Progress,
                format!("the answer does not fit the schema: correction {}", turns.len() + 1),
            );
            turns.push(Turn { answer, session: reply.session, correction });
        }
    }
}

/// The JSON of an answer that fits the schema; else the answer as text and
/// what is wrong with it.
fn fit(schema: &Schema, output: &Json) -> Result<Json, (String, Vec<SchemaError>)> {
    let errors = |json: &Json| {
        let faults = schema.faults(json, 100).into_iter();
        faults.map(|Fault { path, message }| SchemaError { path, message }).collect::<Vec<_>>()
    };
    let serde_json::Value::String(text) = output.value() else {
        let errors = errors(output);
        return if errors.is_empty() { Ok(output.clone()) } else { Err((output.to_string(), errors)) };
    };
    let mut first = None;
    for (_, json) in candidates(&text) {
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
