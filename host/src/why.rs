//! What blocks a run, and how to unblock it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::json;
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Json, Op, Reply, Step, Timestamp, counted, spell_millis, spell_seconds};
use wfhost_store::{Message, MessageBody, RunInfo, RunState, SlotShare};
use wfhost_world::clock::rfc3339;
use wfhost_world::text::command;

use crate::StepInfo;
use crate::advice::advice;
use crate::fleet::holds_up;
use crate::is_held;

/// One thing that blocks a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocker {
    pub what: String,
    /// The command that unblocks it.
    pub remedy: Option<String>,
}

fn remedy(verb: &str, run: impl Display) -> String {
    command(verb, run).to_string()
}

/// The concurrency limits of agent calls, as far as they are known to the caller.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parallel {
    /// Of the run.
    pub run: Option<u32>,
    /// Of each provider.
    pub providers: BTreeMap<String, u32>,
    /// The provider of calls that name none.
    pub default: Option<String>,
    /// Steps whose calls are known to wait for their turn.
    pub queued: BTreeSet<Step>,
}

impl Parallel {
    /// Why a call has not begun yet, if those that were asked for before it leave it no room. `before`
    /// counts them by provider.
    fn waits(&self, provider: &str, before: &BTreeMap<&str, u32>) -> Option<String> {
        let of = |limit: u32, what: &str| {
            let calls = if limit == 1 { "call" } else { "calls" };
            format!("{limit} {calls} of {what} at a time")
        };
        let all: u32 = before.values().sum();
        if let Some(limit) = self.run.filter(|limit| all >= *limit) {
            return Some(of(limit, "the run"));
        }
        let own = before.get(provider).copied().unwrap_or_default();
        let limit = self.providers.get(provider).copied().filter(|limit| own >= *limit)?;
        Some(of(limit, &format!("the provider {provider}")))
    }
}

/// Everything that blocks a run at `now`: at least one thing, also when it has ended. And what its budget
/// does not count. `shares`: what hosts have of limits that hold for all of them.
pub fn why(
    info: &RunInfo,
    steps: &[StepInfo],
    inbox: &[Message],
    parallel: &Parallel,
    shares: &[SlotShare],
    now: Timestamp,
) -> Vec<Blocker> {
    let mut blockers = keeps(info, steps, inbox, parallel, shares, now);
    blockers.extend(uncounted(info, steps).into_iter().map(|what| Blocker { what, remedy: None }));
    blockers
}

/// The answers that the budget of a run counted nothing for.
fn uncounted(info: &RunInfo, steps: &[StepInfo]) -> Vec<String> {
    let mut calls: BTreeMap<(&str, String), u32> = BTreeMap::new();
    for step in steps.iter().filter(|step| step.delegated.is_none()) {
        let (Op::Agent(_), Some((_, Some(Ok(answer))))) = (&step.op, &step.ended) else { continue };
        let Ok(reply) = serde_json::from_str::<Reply>(answer.as_str()) else { continue };
        let spent = reply.usage.as_ref().map(Spent::of).unwrap_or_default();
        let units = [
            ("tokens", info.budget.tokens.is_some() && spent.tokens == 0),
            ("dollars", info.budget.micros.is_some() && spent.micros == 0),
        ];
        for (unit, _) in units.into_iter().filter(|(_, nothing)| *nothing && !reply.cached) {
            *calls.entry((unit, reply.provider.clone())).or_default() += 1;
        }
    }
    let spell = |((unit, provider), calls): ((&str, String), u32)| {
        let calls = counted(calls, "call");
        format!("its budget of {unit} counted nothing for {calls} of {provider} (WF0409)")
    };
    calls.into_iter().map(spell).collect()
}

fn keeps(
    info: &RunInfo,
    steps: &[StepInfo],
    inbox: &[Message],
    parallel: &Parallel,
    shares: &[SlotShare],
    now: Timestamp,
) -> Vec<Blocker> {
    let run = &info.id;
    let blocker = |what: String, remedy: Option<String>| Blocker { what, remedy };
    let mut blockers = Vec::new();
    match info.state {
        RunState::Completed => {
            return vec![blocker("it completed".to_owned(), Some(remedy("show", run)))];
        }
        RunState::Continued => {
            let next = info.links.next.as_ref().map_or("another run", |next| next.as_str());
            return vec![blocker(format!("it continues as {next}"), Some(remedy("why", next)))];
        }
        RunState::Failed | RunState::Cancelled => {
            let failure = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
            let what = failure.map_or_else(|| info.state.as_str().to_owned(), ToString::to_string);
            let own = failure.is_some_and(|failure| advice(run, failure).is_some());
            let remedy = match own {
                true => command("resume", run).option("--module", "FIXED.wasm").to_string(),
                false => remedy("retry", run),
            };
            return vec![blocker(format!("it ended: {what}"), Some(remedy))];
        }
        RunState::Refused => {
            let failure = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
            let reason = failure.map(|failure| failure.message.clone()).unwrap_or_default();
            return vec![blocker(
                format!("its module diverges from its journal: {reason}"),
                Some(command("resume", run).option("--module", "COMPATIBLE.wasm").to_string()),
            )];
        }
        RunState::Paused => {
            blockers.push(blocker("it is paused".to_owned(), Some(remedy("resume", run))));
        }
        RunState::Queued => {
            blockers
                .push(blocker("no process has picked it up yet".to_owned(), Some("wfhost serve".to_owned())));
        }
        RunState::Running if !is_held(info) => {
            blockers.push(blocker("no process advances it".to_owned(), Some(remedy("resume", run))));
        }
        RunState::Running | RunState::Waiting => {}
    }
    if let Some(trouble) = &info.trouble {
        blockers.push(blocker(
            format!("the last attempt to advance it failed: {trouble}"),
            Some(remedy("resume", run)),
        ));
    }
    if let (RunState::Waiting, Some(due)) = (info.state, info.due_at)
        && due <= now
    {
        blockers
            .push(blocker("it is due, and no server is running".to_owned(), Some("wfhost serve".to_owned())));
    }
    let pending = inbox.iter().filter(|message| {
        matches!(message.body, MessageBody::Cancel { .. } | MessageBody::Pause | MessageBody::Answer { .. })
    });
    for message in pending {
        let what = match &message.body {
            MessageBody::Cancel { .. } => "a cancellation request that no process has handled yet".to_owned(),
            MessageBody::Pause => "a request to pause that takes effect when its calls are done".to_owned(),
            MessageBody::Answer { step, .. } => {
                format!("an answer to step {step} that no process has handled yet")
            }
            MessageBody::Signal { .. } | MessageBody::Child { .. } => continue,
        };
        blockers.push(blocker(what, Some(remedy("resume", run))));
    }
    let mut calls: BTreeMap<&str, u32> = BTreeMap::new();
    for open in steps.iter().filter(|step| step.ended.is_none()) {
        let call = match &open.op {
            Op::Agent(request) if open.delegated.is_none() && open.waits.is_none() => {
                request.providers.first().or(parallel.default.as_ref()).map(String::as_str)
            }
            _ => None,
        };
        let is_queued = call.is_some() && parallel.queued.contains(&open.step);
        let others = || "the calls before it leave it no room".to_owned();
        let (step, label) = (open.step, open.op.label());
        let of_fleet = call.and_then(|_| holds_up(shares, run, step));
        let of_host = call.and_then(|provider| parallel.waits(provider, &calls));
        match (of_fleet, of_host.or_else(|| is_queued.then(others))) {
            (Some(reason), _) => {
                blockers.push(blocker(format!("step {step} waits for {reason}: {label}"), None));
            }
            (None, Some(reason)) => {
                blockers.push(blocker(format!("step {step} waits for its turn: {reason}: {label}"), None));
            }
            (None, None) => blockers.push(waits_for(info, open, now)),
        }
        if let Some(provider) = call {
            *calls.entry(provider).or_default() += 1;
        }
    }
    if blockers.is_empty() {
        let what = match &info.lease {
            Some(session) => {
                format!("process {} on {} is executing it", session.owner.pid, session.owner.host)
            }
            None => "nothing".to_owned(),
        };
        blockers.push(blocker(what, None));
    }
    blockers
}

fn waits_for(info: &RunInfo, open: &StepInfo, now: Timestamp) -> Blocker {
    let (run, step, since) = (&info.id, open.step, spell_seconds(now.since(open.started_at)));
    let limit = |timeout: &Option<u64>| {
        timeout
            .map(|millis| format!(", until {}", rfc3339(open.attempt_at.after(millis))))
            .unwrap_or_default()
    };
    let (what, remedy) = match &open.op {
        Op::Signal { name, timeout_ms } => (
            format!("step {step} has been waiting for the signal `{name}` for {since}{}", limit(timeout_ms)),
            Some(command("signal", run).arg(name).option("-i", "JSON").to_string()),
        ),
        Op::Ask { timeout_ms: Some(millis), .. } if open.attempt_at.after(*millis) <= now => (
            format!("step {step} asked a person, but the time limit for an answer has expired"),
            info.lease.is_none().then(|| remedy("resume", run)),
        ),
        Op::Ask { question, timeout_ms } => {
            let prompt = Op::label(&open.op);
            let example = question.choices.first();
            let example = example.map_or("JSON".to_owned(), |choice| Json::from(json!(choice)).into_string());
            (
                format!(
                    "step {step} has been waiting for a person's answer for {since}{}: {prompt}",
                    limit(timeout_ms)
                ),
                Some(command("answer", run).arg(step).option("-i", example).to_string()),
            )
        }
        Op::Sleep { length_ms } => (sleeps(step, open.started_at.after(*length_ms), now), None),
        Op::SleepUntil { at } => (sleeps(step, Timestamp(*at), now), None),
        Op::Agent(_) if open.delegated.is_some() => (
            format!("step {step} has been waiting for a person's answer for {since}: {}", open.op.label()),
            Some(command("answer", run).arg(step).option("-i", "JSON").to_string()),
        ),
        Op::Agent(_) if let Some((until, reason)) = &open.waits => {
            // What was put off to no certain time waits for another host.
            let until = if *until > now { format!(" until {}", rfc3339(*until)) } else { String::new() };
            (format!("step {step} waits{until}: {reason}"), None)
        }
        Op::Agent(request) => {
            let who = request.providers.first().map_or(String::new(), |name| format!(" {name}"));
            let again =
                if open.attempts > 1 { format!(", attempt {}", open.attempts) } else { String::new() };
            (
                format!(
                    "step {step} has been calling the agent{who} for {since}{again}: {}",
                    open.op.label()
                ),
                None,
            )
        }
        Op::Child { module, options, .. } => {
            let given = options.as_ref().and_then(|options| options.id.clone());
            let child = given.unwrap_or_else(|| run.child(step).to_string());
            let what = format!("step {step} has been waiting for its child {child} ({module}) for {since}");
            (what, Some(remedy("why", child)))
        }
        op => (format!("step {step} is a {} that has been in progress for {since}", op.kind()), None),
    };
    Blocker { what, remedy }
}

fn sleeps(step: Step, until: Timestamp, now: Timestamp) -> String {
    let rest = spell_millis(until.since(now).div_ceil(1_000) * 1_000);
    format!("step {step} sleeps until {}, {rest} from now", rfc3339(until))
}
