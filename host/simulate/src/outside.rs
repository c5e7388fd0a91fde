//! What a simulated run meets: time, processes that die, agents, people.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use wfhost::agents::{Call, CallFailure, CallOutput, Provider};
use wfhost::store::{Clock, MessageBody, Owner, Seen, SharedStore};
use wfhost::world::{World, lock};
use wfhost_core::policy::retry::is_once;
use wfhost_core::{Json, Reply, RunId, Timestamp};

use crate::chance::Chance;
use crate::execution::{Event, id};
use crate::scenario::{AgentRule, Scenario, failure};

/// When every execution begins, in milliseconds since 1970.
const BEGINNING: u64 = 1_800_000_000_000;
/// A host that dies more often than this in one execution would only make it longer.
const MOST_DEATHS: u32 = 6;

/// A call that reached an agent. Attempts at one step share the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    pub key: String,
    pub prompt: String,
    pub once: bool,
    /// When it began and ended, counted in beginnings and ends of calls.
    pub began: u64,
    pub ended: u64,
}

/// What is shared by all who take part in an execution.
#[derive(Debug)]
pub struct Outside {
    pub scenario: Arc<Scenario>,
    pub chance: Chance,
    pub store: SharedStore,
    began: Instant,
    /// The process that lives.
    alive: AtomicU32,
    pub deaths: AtomicU32,
    /// The host is to die.
    pub dies: Notify,
    pub story: Mutex<Vec<Event>>,
    pub reached: Mutex<Vec<Reached>>,
    /// Something happened because of which the run may end badly.
    pub excused: AtomicBool,
    /// Rules of the scenario that applied, by what names them.
    pub used: Mutex<BTreeSet<String>>,
    /// Counts beginnings and ends of calls.
    turns: AtomicU64,
    /// Calls in flight that will go well.
    under_way: Mutex<BTreeMap<u64, Reached>>,
    calls: AtomicU64,
    cancel: Option<Cancel>,
}

/// When the run is asked to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancel {
    /// As this call begins, counted from 0.
    AtCall(u64),
    /// After so many milliseconds.
    After(u64),
}

/// How long a run was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub calls: u64,
    pub millis: u64,
}

impl Cancel {
    /// The decision that there is one.
    pub const DECISION: &str = "the run is cancelled";

    /// A call or a moment of a run that is so long if nobody stops it.
    pub fn within(extent: Extent, chance: &Chance) -> Self {
        let after = || {
            Self::After(chance.length("cancelled after".to_owned(), &(0..=extent.millis.saturating_sub(1))))
        };
        let calls: Vec<u64> = (0..extent.calls).collect();
        match chance.one("cancelled at call".to_owned(), &calls) {
            Some(call) if !chance.happens("cancelled at any moment".to_owned(), 0.5) => Self::AtCall(*call),
            _ => after(),
        }
    }
}

/// Virtual time.
#[derive(Debug)]
pub struct VirtualClock(pub Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGINNING + self.ticks_ms())
    }

    fn ticks_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn source(&self) -> &str {
        "simulation"
    }
}

impl Outside {
    pub fn new(
        scenario: Arc<Scenario>,
        chance: Chance,
        cancel: Option<Cancel>,
        store: SharedStore,
        began: Instant,
    ) -> Self {
        Self {
            scenario,
            chance,
            store,
            began,
            alive: AtomicU32::new(0),
            deaths: AtomicU32::new(0),
            dies: Notify::new(),
            story: Mutex::default(),
            reached: Mutex::default(),
            excused: AtomicBool::new(false),
            used: Mutex::default(),
            turns: AtomicU64::new(0),
            under_way: Mutex::default(),
            calls: AtomicU64::new(0),
            cancel,
        }
    }

    /// How much virtual time has passed, in milliseconds.
    pub fn at(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn tell(&self, what: impl Into<String>) {
        let event = Event { at: self.at(), what: what.into() };
        lock(&self.story).push(event);
    }

    fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// A rule of the scenario applies.
    fn uses(&self, rule: String) {
        lock(&self.used).insert(rule);
    }

    /// A call that nothing waits for any more: the agent may carry it out all the same.
    fn may_be_done(&self, mut reached: Reached) {
        reached.ended = self.turn();
        let often = self.scenario.world.dropped.0;
        if self.chance.happens(format!("{} is carried out although nothing waits for it", reached.key), often)
        {
            let prompt = cut(&reached.prompt);
            self.tell(format!("agent {prompt} completes its call, though the run no longer waits for it"));
            lock(&self.reached).push(reached);
        }
    }

    /// Whether an agent has done what an attempt with this key asked for.
    fn has_reached(&self, key: &str) -> bool {
        lock(&self.reached).iter().any(|call| call.key == key)
    }

    fn excuse(&self) {
        self.excused.store(true, Ordering::Relaxed);
    }

    /// The next process lives.
    pub fn next_process(&self) -> u32 {
        self.alive.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn is_alive(&self, pid: u32) -> bool {
        self.alive.load(Ordering::Relaxed) == pid
    }

    /// Whether the host dies here. If it does nothing of it goes on.
    fn may_die(&self, place: String, once: bool) -> bool {
        let dies = self.deaths.load(Ordering::Relaxed) < MOST_DEATHS
            && self.chance.happens(place, self.scenario.world.kills.0);
        if dies {
            self.deaths.fetch_add(1, Ordering::Relaxed);
            self.tell("the host crashes");
            let under_way = std::mem::take(&mut *lock(&self.under_way));
            // Nobody knows what became of calls that may be made once.
            if once || under_way.values().any(|call| call.once) {
                self.excuse();
            }
            for reached in under_way.into_values() {
                self.may_be_done(reached);
            }
            // From now on its process is nobody.
            self.alive.fetch_add(1, Ordering::Relaxed);
            self.dies.notify_one();
        }
        dies
    }

    /// How long it has been going on.
    pub fn extent(&self) -> Extent {
        Extent { calls: self.calls.load(Ordering::Relaxed), millis: self.at() }
    }

    /// Asks the run to stop.
    async fn cancel(&self, run: &RunId) {
        self.excuse();
        self.tell("cancellation of the run is requested");
        let body = MessageBody::Cancel { reason: Some("the simulation".to_owned()) };
        // A run that has ended needs not be stopped.
        let _ = wfhost::post(&self.store, run, body).await;
    }

    /// Asks the run to stop when its time has come, if that is not at a call.
    pub async fn cancel_in_time(self: &Arc<Self>, run: &RunId) {
        match self.cancel {
            // Before it begins: it may not last a moment.
            Some(Cancel::After(0)) => self.cancel(run).await,
            Some(Cancel::After(millis)) => {
                let (outside, run) = (Arc::clone(self), run.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    outside.cancel(&run).await;
                });
            }
            Some(Cancel::AtCall(_)) | None => {}
        }
    }

    /// Sends the signals of the scenario.
    pub fn send_signals(self: &Arc<Self>, run: &RunId) {
        for (index, rule) in self.scenario.signals.iter().enumerate() {
            let name = format!("signal {} {index}", rule.name);
            if self.chance.happens(format!("{name} is not sent"), rule.never.0) {
                self.excuse();
                self.tell(format!("signal `{}` is never sent", rule.name));
                continue;
            }
            let twice = self.chance.happens(format!("{name} is sent twice"), rule.twice.0);
            for time in 0..1 + u8::from(twice) {
                let after = self.chance.length(format!("{name} {time}"), &rule.after);
                let payload = self.chance.one(format!("{name} {time}: payload"), &rule.payloads);
                let payload = payload.unwrap_or(&rule.payload).clone();
                let (outside, run, name) = (Arc::clone(self), run.clone(), rule.name.clone());
                let id = Some(format!("{index}.{time}"));
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    let body =
                        MessageBody::Signal { name: name.clone(), payload: Json::from(payload.clone()), id };
                    match wfhost::post(&outside.store, &run, body).await {
                        Ok(_) => outside.tell(format!("signal `{name}` arrives: {payload}")),
                        Err(_) => outside.tell(format!("signal `{name}` arrives after the end of the run")),
                    }
                });
            }
        }
    }

    /// Answers the questions of all runs.
    pub async fn answer_questions(self: Arc<Self>) {
        let mut seen = Seen::default();
        let mut known = BTreeSet::new();
        loop {
            let Ok(_) = self.store.wakes(&mut seen).await else { return };
            let Ok(open) = self.store.questions(None, None, 1_000).await else { return };
            for open in open {
                let place = (open.run.clone(), open.step);
                if !known.insert(place) {
                    continue;
                }
                let question = &open.question;
                let name = format!("question {} {}", open.run, open.step.0);
                let asked = cut(&question.prompt);
                let rule = self.scenario.people.iter().enumerate().find(|(_, rule)| {
                    rule.pattern.as_ref().is_none_or(|pattern| pattern.0.is_match(&question.prompt))
                });
                let Some((index, rule)) = rule else {
                    self.excuse();
                    self.tell(format!("nobody answers {asked}: no rule of the scenario matches it"));
                    continue;
                };
                self.uses(rule.name(index));
                if self.chance.happens(format!("{name} is not answered"), rule.never.0) {
                    self.excuse();
                    self.tell(format!("nobody answers {asked}"));
                    continue;
                }
                let delay = self.chance.length(format!("{name}: delay"), &rule.delay);
                let choices: Vec<Value> = match rule.answers.is_empty() {
                    false => rule.answers.clone(),
                    true if question.choices.is_empty() => vec![Value::Bool(true), Value::Bool(false)],
                    true => question.choices.iter().map(|choice| Value::from(choice.as_str())).collect(),
                };
                let answer =
                    self.chance.one(format!("{name}: answer"), &choices).cloned().unwrap_or_default();
                let outside = Arc::clone(&self);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                    let body = MessageBody::Answer {
                        step: open.step,
                        outcome: Ok(Json::from(answer.clone())),
                        by: Some("somebody".to_owned()),
                        note: None,
                    };
                    match wfhost::post(&outside.store, &open.run, body).await {
                        Ok(_) => outside.tell(format!("a person answers {asked}: {answer}")),
                        Err(error) => outside.tell(format!("an answer to {asked} is refused: {error}")),
                    }
                });
            }
        }
    }
}

/// A text that is quoted, as a story has room for it.
pub fn cut(text: &str) -> String {
    format!("`{}`", line(text))
}

/// A text as a story has room for it.
pub fn line(text: &str) -> String {
    const WIDTH: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.len() < text.len() => format!("{line}…"),
        None => line.to_owned(),
    }
}

/// One process's view of it.
#[derive(Debug)]
pub struct Process {
    pub outside: Arc<Outside>,
    pub pid: u32,
}

impl World for Process {
    fn now(&self) -> Timestamp {
        Timestamp(BEGINNING + self.outside.at())
    }

    fn owner(&self) -> Owner {
        Owner { host: "simulation".to_owned(), realm: "simulation".to_owned(), pid: self.pid, started: 1 }
    }

    fn is_dead(&self, other: &Owner) -> bool {
        !self.outside.is_alive(other.pid)
    }
}

/// A call in flight. If the run gives it up, the agent may carry it out all the same.
struct UnderWay<'a> {
    outside: &'a Outside,
    number: u64,
}

impl UnderWay<'_> {
    fn is_done(&self) {
        let reached = lock(&self.outside.under_way).remove(&self.number);
        let ended = self.outside.turn();
        lock(&self.outside.reached).extend(reached.map(|reached| Reached { ended, ..reached }));
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let outside = self.outside;
        // Those of a host that died are not among them any more.
        if let Some(reached) = lock(&outside.under_way).remove(&self.number) {
            outside.may_be_done(reached);
        }
    }
}

/// Answers all calls, by the rules of the scenario.
#[derive(Debug)]
pub struct Agent {
    pub outside: Arc<Outside>,
    pub pid: u32,
}

impl Provider for Agent {
    fn name(&self) -> &str {
        "simulated"
    }

    fn call(&self, call: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        async move {
            let outside = &self.outside;
            // A dead process calls nobody.
            if !outside.is_alive(self.pid) {
                return std::future::pending().await;
            }
            let request = &call.request;
            let said =
                request.label.as_deref().map_or_else(|| cut(&request.prompt), |label| format!("`{label}`"));
            let name = format!("{} attempt {}", call.key, call.attempt);
            let number = outside.calls.fetch_add(1, Ordering::Relaxed);
            if outside.cancel == Some(Cancel::AtCall(number)) {
                outside.cancel(&id()).await;
            }
            if outside.may_die(format!("the host dies before {name}"), is_once(request)) {
                return std::future::pending().await;
            }
            let rules = &outside.scenario.agents;
            let found = rules
                .iter()
                .enumerate()
                .find_map(|(n, rule)| Some((n, rule, rule.answers(&call.provider, &request.prompt)?)));
            let Some((index, rule, captures)) = found else {
                outside.excuse();
                outside.tell(format!("no rule of the scenario matches the call {said}"));
                return Err(CallFailure::new(
                    wfhost_core::FailureKind::Rejected,
                    "no rule of the scenario matches this call",
                ));
            };
            outside.uses(rule.name(index));
            let who = request.label.as_deref().unwrap_or(&request.prompt);
            let delay = outside.chance.pace(format!("{name}: delay"), who, number, &rule.delay);
            // What an attempt before has done, of which nobody heard, is not refused the next time.
            let fails = !outside.has_reached(&call.key)
                && outside.chance.happens(format!("{name} fails"), rule.fails.0);
            if !fails {
                let (key, prompt) = (call.key.clone(), request.prompt.clone());
                let began = outside.turn();
                let reached = Reached { key, prompt, once: is_once(request), began, ended: began };
                lock(&outside.under_way).insert(number, reached);
            }
            let under_way = UnderWay { outside, number };
            tokio::time::sleep(Duration::from_millis(delay)).await;
            if !outside.is_alive(self.pid) {
                return std::future::pending().await;
            }
            under_way.is_done();
            if fails {
                let kind = outside.chance.one(format!("{name} fails: kind"), &rule.kinds);
                let kind = *kind.unwrap_or(&wfhost_core::FailureKind::Unavailable);
                outside.excuse();
                outside.tell(format!("agent {said} fails: {kind}"));
                return Err(CallFailure::from(failure(kind)));
            }
            let reply = reply(rule, outside, &name, &request.prompt, captures.as_ref());
            if outside.may_die(format!("the host dies after {name}"), is_once(request)) {
                return std::future::pending().await;
            }
            outside.tell(format!("agent {said} answers"));
            Ok(Reply { usage: rule.usage, ..Reply::new("simulated", Json::from(reply)) })
        }
        .boxed()
    }
}

fn reply(
    rule: &AgentRule,
    outside: &Outside,
    name: &str,
    prompt: &str,
    captures: Option<&regex::Captures<'_>>,
) -> Value {
    let chosen = outside.chance.one(format!("{name}: reply"), &rule.replies).unwrap_or(&rule.reply);
    wfhost::agents::fill(chosen, prompt, captures)
}
