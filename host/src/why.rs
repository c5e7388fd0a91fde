//! What keeps a run, and what would move it.

use wfhost_core::{FailureKind, Op, Timestamp, spell_millis};
use wfhost_store::{Message, MessageBody, RunInfo, RunState};
use wfhost_world::clock::rfc3339;

use crate::history::StepInfo;
use crate::is_held;

/// One thing that keeps a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocker {
    pub what: String,
    /// The command that would move it.
    pub remedy: Option<String>,
}

/// Everything that keeps a run at `now`: at least one thing, also when it has ended.
pub fn why(info: &RunInfo, steps: &[StepInfo], inbox: &[Message], now: Timestamp) -> Vec<Blocker> {
    let run = &info.id;
    let blocker = |what: String, remedy: Option<String>| Blocker { what, remedy };
    let mut blockers = Vec::new();
    match info.state {
        RunState::Completed => {
            return vec![blocker("it completed".to_owned(), Some(format!("wfhost show {run}")))];
        }
        RunState::Continued => {
            let next = info.links.next.as_ref().map_or("another run", |next| next.as_str());
            return vec![blocker(format!("it goes on as {next}"), Some(format!("wfhost why {next}")))];
        }
        RunState::Failed | RunState::Cancelled => {
            let failure = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
            let what = failure.map_or_else(|| info.state.as_str().to_owned(), ToString::to_string);
            let own = failure.is_some_and(|failure| {
                failure.kind == FailureKind::Failed && failure.message.starts_with("the program")
            });
            let remedy = match own {
                true => format!("wfhost resume {run} --module MENDED.wasm"),
                false => format!("wfhost retry {run}"),
            };
            return vec![blocker(format!("it ended: {what}"), Some(remedy))];
        }
        RunState::Refused => {
            let failure = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
            let reason = failure.map(|failure| failure.message.clone()).unwrap_or_default();
            return vec![blocker(
                format!("its module departs from its journal: {reason}"),
                Some(format!("wfhost resume {run} --module FITTING.wasm")),
            )];
        }
        RunState::Paused => {
            blockers.push(blocker("somebody paused it".to_owned(), Some(format!("wfhost resume {run}"))));
        }
        RunState::Queued => {
            blockers.push(blocker("no host has taken it up yet".to_owned(), Some("wfhost serve".to_owned())));
        }
        RunState::Running if !is_held(info) => {
            blockers.push(blocker("no process advances it".to_owned(), Some(format!("wfhost resume {run}"))));
        }
        RunState::Running | RunState::Waiting => {}
    }
    if let Some(trouble) = &info.trouble {
        blockers.push(blocker(
            format!("the host that tried last could not go on: {trouble}"),
            Some(format!("wfhost resume {run}")),
        ));
    }
    if let (RunState::Waiting, Some(due)) = (info.state, info.due_at)
        && due <= now
    {
        blockers.push(blocker("it is due, and no host is there".to_owned(), Some("wfhost serve".to_owned())));
    }
    let pending = inbox.iter().filter(|message| {
        matches!(message.body, MessageBody::Cancel { .. } | MessageBody::Pause | MessageBody::Answer { .. })
    });
    for message in pending {
        let what = match &message.body {
            MessageBody::Cancel { .. } => "a request to stop that no host has seen yet".to_owned(),
            MessageBody::Pause => "a request to pause that takes effect when its calls are done".to_owned(),
            MessageBody::Answer { step, .. } => format!("an answer to step {step} that no host has seen yet"),
            MessageBody::Signal { .. } | MessageBody::Child { .. } => continue,
        };
        blockers.push(blocker(what, Some(format!("wfhost resume {run}"))));
    }
    for open in steps.iter().filter(|step| step.ended.is_none()) {
        blockers.push(waits_for(info, open, now));
    }
    if blockers.is_empty() {
        let what = match &info.lease {
            Some(session) => format!("process {} on {} computes", session.owner.pid, session.owner.host),
            None => "nothing".to_owned(),
        };
        blockers.push(blocker(what, None));
    }
    blockers
}

fn waits_for(info: &RunInfo, open: &StepInfo, now: Timestamp) -> Blocker {
    let (run, step, since) = (&info.id, open.step, spell_millis(now.since(open.started_at) / 1_000 * 1_000));
    let limit = |timeout: &Option<u64>| {
        timeout
            .map(|millis| format!(", until {}", rfc3339(open.started_at.after(millis))))
            .unwrap_or_default()
    };
    let (what, remedy) = match &open.op {
        Op::Signal { name, timeout_ms } => (
            format!("step {step} waits for the signal `{name}` since {since}{}", limit(timeout_ms)),
            Some(format!("wfhost signal {run} {name} -i JSON")),
        ),
        Op::Ask { question, timeout_ms } => {
            let prompt = Op::label(&open.op);
            let example =
                question.choices.first().map_or("JSON".to_owned(), |choice| format!("'{choice:?}'"));
            (
                format!("step {step} asks people since {since}{}: {prompt}", limit(timeout_ms)),
                Some(format!("wfhost answer {run} {step} -i {example}")),
            )
        }
        Op::Sleep { length_ms } => (sleeps(step, open.started_at.after(*length_ms), now), None),
        Op::SleepUntil { at } => (sleeps(step, Timestamp(*at), now), None),
        Op::Agent(_) if open.delegated.is_some() => (
            format!("step {step} asks people since {since}: {}", open.op.label()),
            Some(format!("wfhost answer {run} {step} -i JSON")),
        ),
        Op::Agent(_) if let Some((until, reason)) = &open.waits => {
            (format!("step {step} waits until {}: {reason}", rfc3339(*until)), None)
        }
        Op::Agent(request) => {
            let who = request.providers.first().map_or(String::new(), |name| format!(" {name}"));
            let again =
                if open.attempts > 1 { format!(", attempt {}", open.attempts) } else { String::new() };
            (format!("step {step} asks the agent{who} since {since}{again}: {}", open.op.label()), None)
        }
        Op::Child { module, options, .. } => {
            let given = options.as_ref().and_then(|options| options.id.clone());
            let child = given.unwrap_or_else(|| run.child(step).to_string());
            let what = format!("step {step} waits for its child {child} ({module}) since {since}");
            (what, Some(format!("wfhost why {child}")))
        }
        op => (format!("step {step} is a {} under way since {since}", op.kind()), None),
    };
    Blocker { what, remedy }
}

fn sleeps(step: wfhost_core::Step, until: Timestamp, now: Timestamp) -> String {
    let rest = spell_millis(until.since(now).div_ceil(1_000) * 1_000);
    format!("step {step} sleeps until {}, {rest} from now", rfc3339(until))
}
