//! Runs as JSON, `wfhost/run/1`, and as lines.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wfhost::advice::advice;
use wfhost::clock::rfc3339;
use wfhost::store::{RunInfo, RunState};
use wfhost::world::text::command;
use wfhost::{StepInfo, is_held};
use wfhost_core::{Failure, Json, Outcome, Timestamp};

use super::document::{Document, document, raw};

/// A run as the JSON that `run`, `ps` and `show` print. `steps`, if they are known.
pub(super) fn run(info: &RunInfo, steps: Option<&[StepInfo]>) -> Document {
    let (output, failure) = parts(info.outcome.as_ref());
    let advice = failure.and_then(|failure| advice(&info.id, failure));
    let labels: BTreeMap<_, _> = info.labels.iter().map(|(key, value)| (key, value)).collect();
    let mut view = document! {
        "schema": "wfhost/run/1",
        "id": info.id,
        "key": info.key,
        "workflow": info.workflow,
        "module": info.module,
        "state": info.state.as_str(),
        "phase": info.phase,
        "output": output,
        "failure": failure,
        "code": advice.as_ref().map(|advice| advice.code),
        "hints": advice.map(|advice| advice.hints).unwrap_or_default(),
        "project": info.project,
        "labels": labels,
        "parent": info.parent,
        "root": info.links.root,
        "chain": info.links.chain,
        "continued_as": info.links.next,
        "spent": document! { "tokens": info.spent.tokens, "cost_micros": info.spent.micros },
        "created_at": rfc3339(info.created_at),
        "updated_at": rfc3339(info.updated_at),
        "attempts": info.epoch,
        "entries": info.entries,
        "waiting_for": waiting_for(info),
        "next": next(info),
    };
    if let Some(steps) = steps {
        view.insert("steps".to_owned(), raw(&steps.iter().map(step).collect::<Vec<_>>()));
    }
    view
}

/// What came out, and why nothing did.
pub(super) fn parts(outcome: Option<&Outcome>) -> (Option<&Json>, Option<&Failure>) {
    (outcome.and_then(|outcome| outcome.as_ref().ok()), outcome.and_then(|outcome| outcome.as_ref().err()))
}

fn step(info: &StepInfo) -> Document {
    let state = match &info.ended {
        None => "open",
        Some((_, None)) => "cancelled",
        Some((_, Some(Ok(_)))) => "completed",
        Some((_, Some(Err(_)))) => "failed",
    };
    let (output, failure) = parts(info.ended.as_ref().and_then(|(_, outcome)| outcome.as_ref()));
    let provider = output.and_then(|output| output.value().get("provider").cloned());
    document! {
        "step": info.step,
        "kind": info.op.kind(),
        "label": info.op.label(),
        "state": state,
        "provider": provider,
        "attempts": info.attempts,
        "failed_attempts": failed_attempts(info),
        "waits_until": info.waits.as_ref().map(|(at, _)| rfc3339(*at)),
        "waits_for": info.waits.as_ref().map(|(_, reason)| reason),
        "started_at": rfc3339(info.started_at),
        "finished_at": info.ended.as_ref().map(|(at, _)| rfc3339(*at)),
        "input": info.op,
        "output": output,
        "failure": failure,
    }
}

/// The attempts that failed, as far as the journal has them.
fn failed_attempts(info: &StepInfo) -> Vec<Document> {
    let attempts = info.failed.iter().map(|failed| {
        document! {
            "attempt": failed.attempt, "provider": failed.provider, "failure": failed.failure,
            "usage": failed.usage, "again_at": failed.again_at.map(rfc3339),
        }
    });
    attempts.collect()
}

/// What a run waits for, as far as that is known without its journal.
fn waiting_for(info: &RunInfo) -> Vec<Value> {
    let mut waits = Vec::new();
    if let Some(waiting) = &info.waiting {
        waits.extend(waiting.until.map(|at| json!({ "kind": "time", "at": rfc3339(at) })));
        waits.extend(waiting.signals.iter().map(|name| json!({ "kind": "signal", "name": name })));
    } else if info.state == RunState::Running && !is_held(info) {
        waits.push(json!({ "kind": "host" }));
    }
    waits
}

/// The commands that one is likely to want next.
fn next(info: &RunInfo) -> Vec<String> {
    let id = &info.id;
    let signals = info.waiting.iter().flat_map(|waiting| &waiting.signals);
    let mut next: Vec<_> =
        signals.map(|name| command("signal", id).arg(name).option("-i", "JSON").to_string()).collect();
    if !info.state.is_final() && !is_held(info) {
        next.push(command("resume", id).to_string());
    }
    next
}

/// The runs that this one belongs to, and what they are to it.
pub(super) fn relatives(info: &RunInfo) -> Vec<(&'static str, String)> {
    let links = &info.links;
    let step = links.step.map(|step| format!(", step {step}")).unwrap_or_default();
    let parent = info.parent.as_ref().map(|parent| ("parent", format!("{parent}{step}")));
    let root = (info.parent.is_some() && info.parent.as_ref() != Some(&links.root))
        .then(|| ("root", links.root.to_string()));
    let first = links.chain.as_ref().filter(|first| **first != info.id);
    let first = first.map(|first| ("chain", format!("begins with {first}")));
    let next = links.next.as_ref().map(|next| ("goes on", format!("as {next}")));
    [parent, root, first, next].into_iter().flatten().collect()
}

/// What a run waits for in a few words.
pub(super) fn waits(info: &RunInfo) -> String {
    match (&info.waiting, &info.outcome) {
        (Some(waiting), _) => {
            let signals = waiting.signals.iter().map(|name| format!("signal {name}"));
            let until = waiting.until.map(|at| format!("until {}", rfc3339(at)));
            signals.chain(until).collect::<Vec<_>>().join(", ")
        }
        (None, Some(Err(failure))) => failure.message.lines().next().unwrap_or_default().to_owned(),
        (None, _) if info.state == RunState::Running && !is_held(info) => "no process advances it".to_owned(),
        (None, _) => info.phase.clone().unwrap_or_default(),
    }
}

/// How long ago, in a few characters.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(at) / 1_000;
    wfhost_core::spell_millis(seconds * 1_000)
}

/// A step's end in a few words.
pub(super) fn ended(info: &StepInfo) -> (&'static str, String) {
    match &info.ended {
        None => ("▸", "open".to_owned()),
        Some((_, None)) => ("–", "cancelled".to_owned()),
        Some((at, Some(Ok(_)))) => ("✓", wfhost_core::spell_millis(at.since(info.started_at))),
        Some((_, Some(Err(failure)))) => ("✗", failure.to_string()),
    }
}

/// An outcome on one line.
pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Ok(json) => json.as_str().to_owned(),
        Err(failure) => failure.to_string(),
    }
}
