//! What happened, as others are told of it: a function of what is committed.

use serde_json::{Map, Value, json};
use wfhost::clock::rfc3339;
use wfhost::store::{Change, Family, NewDelivery, RunInfo, RunState};
use wfhost_config::Sink;
use wfhost_core::{Event, Op, Outcome, Position, Question, RunId, Step, Timestamp, decode_op};

/// The longest output, question or message of a failure that is told, in bytes; of longer ones their length.
const CONTENT_BYTES: usize = 64 << 10;
/// What an import brings is told of only if it happened so shortly before, in milliseconds.
const IMPORTED_MS: u64 = 600_000;

/// Something in a journal that others may want to know.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    pub run: RunId,
    pub position: Position,
    pub at: Timestamp,
    pub what: What,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum What {
    Started,
    Ended(Outcome),
    Refused(Option<String>),
    Asked {
        step: Step,
        question: Box<Question>,
        deadline: Option<Timestamp>,
    },
    /// Something was spent: the budget may be low.
    Spent,
}

impl What {
    /// The kinds of events that it may be.
    pub fn event(&self) -> &'static str {
        match self {
            Self::Started => "run.started",
            Self::Ended(outcome) => match RunState::of(Some(outcome)) {
                RunState::Completed => "run.completed",
                RunState::Cancelled => "run.cancelled",
                _ => "run.failed",
            },
            Self::Refused(_) => "run.refused",
            Self::Asked { .. } => "question.asked",
            Self::Spent => "budget.low",
        }
    }
}

/// What a commit has for others. What cannot be read is nothing: whoever opens the run says so.
pub(crate) fn seen(change: &Change) -> Vec<Seen> {
    let mut found = Vec::new();
    for entry in change.row.entries() {
        let Ok((position, entry)) = entry else { break };
        let what = match entry.event {
            // What stands before it is told already, of another run.
            Event::Forked { run, .. } if run == change.run => {
                found.clear();
                What::Started
            }
            Event::Started(_) => What::Started,
            Event::Finished { outcome, .. } => What::Ended(outcome.into()),
            Event::Scheduled { step, op } => match decode_op(&op, position) {
                Ok(Op::Ask { question, timeout_ms }) => What::Asked {
                    step,
                    question: Box::new(question),
                    deadline: timeout_ms.map(|length| entry.at.after(length)),
                },
                _ => continue,
            },
            Event::Delegated { step, question, deadline, .. } => What::Asked { step, question, deadline },
            Event::AttemptFailed(failed) if failed.usage.is_some() => What::Spent,
            Event::Completed { .. } | Event::ChildEnded(_) | Event::BudgetChanged { .. } => What::Spent,
            _ => continue,
        };
        // That something was spent counts once.
        if what == What::Spent && found.last().is_some_and(|last: &Seen| last.what == What::Spent) {
            continue;
        }
        found.push(Seen { run: change.run.clone(), position, at: entry.at, what });
    }
    found
}

impl Seen {
    /// Whether it happened to this run here: not to one that it was made of, nor long ago on another machine.
    pub fn is_news(&self, info: &RunInfo, now: Timestamp) -> bool {
        let here = !info.imported || now.since(self.at) <= IMPORTED_MS;
        self.at >= info.created_at && here
    }

    /// By which receivers know that they had it before: the same whoever tells it, and whenever.
    fn id(&self, info: &RunInfo) -> String {
        let mut parts = vec![self.run.to_string(), self.what.event().to_owned(), self.position.0.to_string()];
        match &self.what {
            // One for each budget of a family.
            What::Spent => {
                parts[0] = info.links.root.to_string();
                parts[2] = format!("{:?} {:?}", info.budget.tokens, info.budget.micros);
            }
            What::Refused(_) => parts.push(info.module.to_string()),
            _ => {}
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"wfhost message 1\0");
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let hex = hasher.finalize().to_hex();
        format!("msg_{}", &hex[..32])
    }
}

/// Whether a sink is told of a run's events of that kind.
pub(crate) fn concerns(sink: &Sink, event: &str, info: &RunInfo) -> bool {
    let of_child = info.parent.is_some() && event.starts_with("run.") && !sink.children;
    sink.wants(event)
        && !of_child
        && sink.is_about(&info.workflow)
        && sink.project.as_ref().is_none_or(|project| info.project.as_ref() == Some(project))
        && sink.labels.iter().all(|label| info.labels.contains(label))
}

/// What part of its budget a family has spent, if it is to be told that little is left.
pub(crate) fn spent_part(family: &Family) -> Option<f64> {
    let part = |spent: u64, budget: Option<u64>| match budget {
        Some(0) => Some(1.0),
        Some(budget) => Some(spent as f64 / budget as f64),
        None => None,
    };
    let tokens = part(family.spent.tokens, family.budget.tokens);
    let money = part(family.spent.micros, family.budget.micros);
    tokens.into_iter().chain(money).reduce(f64::max)
}

fn usd(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// JSON that is not too long.
fn told(json: &str) -> Value {
    match json.len() <= CONTENT_BYTES {
        true => serde_json::from_str(json).unwrap_or(Value::Null),
        false => json!({ "left_out_bytes": json.len() }),
    }
}

fn text(text: &str) -> String {
    text[..text.floor_char_boundary(CONTENT_BYTES)].to_owned()
}

/// The message for one sink. `family`: what the run may spend and has spent with its relatives.
pub(crate) fn message(
    sink: &Sink,
    seen: &Seen,
    info: &RunInfo,
    family: Option<&Family>,
    url: Option<&str>,
) -> NewDelivery {
    let labels: Map<String, Value> =
        info.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let event = seen.what.event();
    let mut data = json!({
        "run": seen.run, "workflow": info.workflow, "module": info.module.to_string(), "labels": labels,
        "entry": seen.position.0, "created_at": rfc3339(info.created_at),
    });
    let mut add = |name: &str, value: Value| data[name] = value;
    if let Some(project) = &info.project {
        add("project", json!(project));
    }
    if let Some(parent) = &info.parent {
        add("parent", json!(parent));
    }
    if let Some(url) = url {
        add("url", json!(format!("{url}/ui/runs/{}", seen.run)));
    }
    match &seen.what {
        What::Started => {}
        What::Ended(outcome) => {
            add("state", json!(RunState::of(Some(outcome)).as_str()));
            add("spent", json!({ "tokens": info.spent.tokens, "usd": usd(info.spent.micros) }));
            add("seconds", json!(seen.at.since(info.created_at) as f64 / 1e3));
            match outcome {
                Ok(output) if sink.content => add("output", told(output.as_str())),
                Ok(_) => {}
                Err(failure) => {
                    let mut said = json!({ "kind": failure.kind.word() });
                    if sink.content {
                        said["message"] = json!(text(&failure.message));
                    }
                    add("failure", said);
                }
            }
        }
        What::Refused(why) => {
            add("state", json!("refused"));
            if let Some(why) = why.as_ref().filter(|_| sink.content) {
                add("failure", json!({ "kind": "refused", "message": text(why) }));
            }
        }
        What::Asked { step, question, deadline } => {
            add("step", json!(step.0));
            if let Some(deadline) = deadline {
                add("deadline", json!(rfc3339(*deadline)));
            }
            if sink.content {
                let mut asked = json!({ "prompt": text(&question.prompt), "choices": question.choices });
                for (name, json) in [("schema", &question.schema), ("details", &question.details)] {
                    if let Some(json) = json {
                        asked[name] = told(json.as_str());
                    }
                }
                add("question", asked);
            }
        }
        What::Spent => {
            let family = family.copied().unwrap_or_default();
            let part = spent_part(&family).unwrap_or_default();
            add("part", json!((part * 1e4).round() / 1e4));
            let spent = json!({ "tokens": family.spent.tokens, "usd": usd(family.spent.micros) });
            add("spent", spent);
            add("budget", json!({ "tokens": family.budget.tokens, "usd": family.budget.micros.map(usd) }));
        }
    }
    let body = json!({ "type": event, "timestamp": rfc3339(seen.at), "data": data });
    NewDelivery {
        sink: sink.id.clone(),
        message: seen.id(info),
        event: event.to_owned(),
        run: seen.run.clone(),
        body: body.to_string(),
    }
}
