//! What happened, as others are told of it: a function of what is committed.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use wfhost::clock::rfc3339;
use wfhost::store::{Change, Family, NewDelivery, REFUSED_EVENT, RunInfo, RunState};
use wfhost_config::Sink;
use wfhost_core::policy::budget::Budget;
use wfhost_core::{
    Event, Given, Journal, Json, Machine, Op, Outcome, Position, Question, QuestionChange, Row, RunId, Step,
    Timestamp, decode_op,
};

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
            Self::Refused(_) => REFUSED_EVENT,
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
            // What stands before it is told already, of another run; but see `taken_over`.
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

/// The questions that a fork took over and has open. They are its own: they are answered apart from those of the run
/// that it was made of. `rows`: its journal, as far as the commit with the entry `forked`.
pub(crate) fn taken_over(forked: &Seen, rows: Vec<Row>) -> Vec<Seen> {
    let mut asked_at = BTreeMap::new();
    for (position, entry) in rows.iter().flat_map(Row::entries).map_while(Result::ok) {
        if let Event::Scheduled { step, .. } | Event::Delegated { step, .. } = entry.event {
            asked_at.insert(step, position);
        }
    }
    let machine = Journal::read(rows).and_then(|journal| Machine::open(journal, Given::Everything));
    let open = machine.map(|machine| machine.open_questions()).unwrap_or_default();
    let own = open.into_iter().filter_map(|change| {
        let QuestionChange::Asked { step, deadline, question, .. } = change else { return None };
        let position = *asked_at.get(&step)?;
        let what = What::Asked { step, question: Box::new(question), deadline };
        Some(Seen { run: forked.run.clone(), position, at: forked.at, what })
    });
    own.collect()
}

impl Seen {
    /// Whether it is the beginning of a fork: before it stands what that took over.
    pub fn is_fork(&self) -> bool {
        self.what == What::Started && self.position > Position(0)
    }

    /// Whether it happened to this run here: not to one that it was made of, nor long ago on another machine.
    pub fn is_news(&self, info: &RunInfo, now: Timestamp) -> bool {
        let here = !info.imported || now.since(self.at) <= IMPORTED_MS;
        self.at >= info.created_at && here
    }

    /// By which receivers know that they had it before: the same whoever tells it, and whenever. `budget`: what the
    /// family may spend, of which each member has its own part.
    fn id(&self, info: &RunInfo, budget: Budget) -> String {
        let mut parts = vec![self.run.to_string(), self.what.event().to_owned(), self.position.0.to_string()];
        match &self.what {
            // One for each budget of a family.
            What::Spent => {
                parts[0] = info.links.root.to_string();
                parts[2] = format!("{:?} {:?}", budget.tokens, budget.micros);
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

/// Members of a JSON object. What is JSON already stays as it was written, so no number is rounded.
type Members = BTreeMap<&'static str, Box<RawValue>>;

fn raw(value: impl Into<Value>) -> Box<RawValue> {
    to_raw_value(&value.into()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn object(members: &Members) -> Box<RawValue> {
    to_raw_value(members).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// JSON that is not too long.
fn told(json: &Json) -> Box<RawValue> {
    match json.as_str().len() {
        0..=CONTENT_BYTES => to_raw_value(json).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        length => raw(json!({ "left_out_bytes": length })),
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
    let labels: BTreeMap<&str, &str> =
        info.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let event = seen.what.event();
    let mut data = Members::new();
    let mut add = |name: &'static str, value: Box<RawValue>| drop(data.insert(name, value));
    add("run", raw(seen.run.as_str()));
    add("workflow", raw(info.workflow.as_str()));
    add("module", raw(info.module.to_string()));
    add("labels", raw(json!(labels)));
    add("entry", raw(seen.position.0));
    add("created_at", raw(rfc3339(info.created_at)));
    if let Some(project) = &info.project {
        add("project", raw(project.as_str()));
    }
    if let Some(parent) = &info.parent {
        add("parent", raw(parent.as_str()));
    }
    if let Some(url) = url {
        add("url", raw(format!("{url}/ui/runs/{}", seen.run)));
    }
    match &seen.what {
        What::Started => {}
        What::Ended(outcome) => {
            add("state", raw(RunState::of(Some(outcome)).as_str()));
            add("spent", raw(json!({ "tokens": info.spent.tokens, "usd": usd(info.spent.micros) })));
            add("seconds", raw(seen.at.since(info.created_at) as f64 / 1e3));
            match outcome {
                Ok(output) if sink.content => add("output", told(output)),
                Ok(_) => {}
                Err(failure) => {
                    let mut said = json!({ "kind": failure.kind.word() });
                    if sink.content {
                        said["message"] = json!(text(&failure.message));
                    }
                    add("failure", raw(said));
                }
            }
        }
        What::Refused(why) => {
            add("state", raw("refused"));
            if let Some(why) = why.as_ref().filter(|_| sink.content) {
                add("failure", raw(json!({ "kind": "refused", "message": text(why) })));
            }
        }
        What::Asked { step, question, deadline } => {
            add("step", raw(step.0));
            if let Some(deadline) = deadline {
                add("deadline", raw(rfc3339(*deadline)));
            }
            if sink.content {
                let mut asked = Members::new();
                asked.insert("prompt", raw(text(&question.prompt)));
                let bytes = question.choices.iter().map(String::len).sum::<usize>();
                let choices = match bytes {
                    0..=CONTENT_BYTES => json!(question.choices),
                    length => json!({ "left_out_bytes": length }),
                };
                asked.insert("choices", raw(choices));
                for (name, json) in [("schema", &question.schema), ("details", &question.details)] {
                    asked.extend(json.as_ref().map(|json| (name, told(json))));
                }
                add("question", object(&asked));
            }
        }
        What::Spent => {
            let family = family.copied().unwrap_or_default();
            let part = spent_part(&family).unwrap_or_default();
            add("part", raw((part * 1e4).round() / 1e4));
            add("spent", raw(json!({ "tokens": family.spent.tokens, "usd": usd(family.spent.micros) })));
            let budget = json!({ "tokens": family.budget.tokens, "usd": family.budget.micros.map(usd) });
            add("budget", raw(budget));
        }
    }
    let body =
        Members::from([("type", raw(event)), ("timestamp", raw(rfc3339(seen.at))), ("data", object(&data))]);
    let budget = family.map_or(info.budget, |family| family.budget);
    NewDelivery {
        sink: sink.id.clone(),
        message: seen.id(info, budget),
        event: event.to_owned(),
        run: seen.run.clone(),
        body: object(&body).get().to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use wfhost_config::SinkTo;
    use wfhost_core::policy::budget::Spent;
    use wfhost_core::{RunConfig, Started};

    use super::*;

    pub(crate) fn sink(content: bool) -> Sink {
        Sink {
            name: "s".to_owned(),
            id: "s".to_owned(),
            to: SinkTo::Url { url: "http://localhost".to_owned(), secrets: Vec::new() },
            events: vec!["run.refused".to_owned()],
            project: None,
            workflows: Vec::new(),
            labels: Vec::new(),
            children: false,
            content,
            budget: 0.8,
            timeout_ms: 1_000,
            give_up_ms: 1_000,
        }
    }

    pub(crate) fn machine(run: &str) -> Machine {
        let started = Started {
            run: run.parse().unwrap(),
            workflow: "w".to_owned(),
            module: wfhost_core::Digest::of(b"w"),
            input: Json::null(),
            seed: [0; 32],
            config: RunConfig::default(),
            labels: Vec::new(),
            parent: None,
            child: None,
            origin: None,
        };
        Machine::start(started, Timestamp(1_000))
    }

    fn of(run: &str, what: What) -> (Seen, RunInfo) {
        let info = RunInfo::of(&machine(run));
        (Seen { run: info.id.clone(), position: Position(3), at: Timestamp(2_000), what }, info)
    }

    #[test]
    fn a_family_is_told_of_once_for_each_budget_whoever_spends() {
        let tokens = |tokens| Budget { tokens: Some(tokens), ..Budget::default() };
        let id = |run: &str, own: u64, family: u64| {
            let (seen, info) = of(run, What::Spent);
            let mut info = RunInfo { budget: tokens(own), ..info };
            info.links.root = "root".parse().unwrap();
            let spent = Spent { tokens: 90, ..Spent::default() };
            let family = Family { budget: tokens(family), spent };
            message(&sink(false), &seen, &info, Some(&family), None).message
        };
        assert_eq!(id("root", 100, 100), id("root.1", 60, 100));
        assert_eq!(id("root.2", 20, 100), id("root.1", 60, 100));
        assert_ne!(id("root", 100, 100), id("root", 200, 200), "another budget");
    }

    #[test]
    fn numbers_are_told_as_they_were_written() {
        let exact = r#"{"id":12345678901234567890123,"sum":0.10000000000000000001,"e":1e2}"#;
        let (seen, info) = of("r", What::Ended(Ok(Json::parse(exact.to_owned()).unwrap())));
        let body = message(&sink(true), &seen, &info, None, None).body;
        assert!(body.contains(&format!("\"output\":{exact}")), "{body}");
        let question = Question {
            prompt: "p".to_owned(),
            details: Some(Json::parse(exact.to_owned()).unwrap()),
            choices: Vec::new(),
            schema: None,
        };
        let (seen, info) =
            of("r", What::Asked { step: Step(1), question: Box::new(question), deadline: None });
        let body = message(&sink(true), &seen, &info, None, None).body;
        assert!(body.contains(&format!("\"details\":{exact}")), "{body}");
        let choices = vec!["x".repeat(CONTENT_BYTES / 2); 3];
        let question = Question { prompt: "p".to_owned(), details: None, choices, schema: None };
        let (seen, info) =
            of("r", What::Asked { step: Step(1), question: Box::new(question), deadline: None });
        let body = message(&sink(true), &seen, &info, None, None).body;
        assert!(body.contains("\"choices\":{\"left_out_bytes\":98304}"), "{} bytes", body.len());
        // What is long is left out, and its length told.
        let long = Json::string(&"x".repeat(CONTENT_BYTES));
        let (seen, info) = of("r", What::Ended(Ok(long)));
        let body = message(&sink(true), &seen, &info, None, None).body;
        let left_out = format!("\"output\":{{\"left_out_bytes\":{}}}", CONTENT_BYTES + 2);
        assert!(body.contains(&left_out) && !body.contains("xxx"), "{body}");
    }
}
