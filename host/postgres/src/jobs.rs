//! What functions of the server are given: JSON, and beside it what is large or no text.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Digest, Failure, FailureKind, Given, Outcome, QuestionChange, Recorded, Row, RunId, Step};
use wfhost_store::{
    AGAIN_AFTER_MS, AT_ONCE_MS, Append, Emission, ImportedRun, LogLine, MessageBody, NewRun, Next,
    PARENT_GONE, Rebuilt, RunInfo, RunState, StoreError, Waiting, stored,
};

use crate::args::{Arg, args_of, escaped, millis};

/// Collects jobs and their blobs.
#[derive(Default)]
pub(crate) struct Jobs {
    pub blobs: Vec<Vec<u8>>,
    /// Rows that have a place in this transaction.
    pub rows: i64,
}

/// A state as it is stored.
pub(crate) fn number(state: RunState) -> i64 {
    RunState::ALL.iter().position(|known| *known == state).unwrap_or_default() as i64
}

pub(crate) fn cbor<T: minicbor::Encode<()>>(value: T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"))
}

fn pairs(pairs: &[(String, String)]) -> String {
    serde_json::to_string(pairs).unwrap_or_else(|e| unreachable!("texts are always JSON: {e}"))
}

/// What a label is found by, in the table of labels.
pub(crate) fn label_key(label: &(String, String)) -> Vec<u8> {
    Digest::of(pairs(std::slice::from_ref(label)).as_bytes()).0[..16].to_vec()
}

/// The body of a child's end in the inbox.
pub(crate) type ChildBody = (Step, RunId, Recorded, Spent);

/// The body of an answer in the inbox.
pub(crate) type AnswerBody = (Step, Recorded, Option<String>, Option<String>);

/// Leaves out what is null: whether a member is there is what functions look at.
fn object(members: Value) -> Value {
    match members {
        Value::Object(members) => {
            Value::Object(members.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}

fn text(text: &str) -> Value {
    Value::String(escaped(text))
}

fn maybe(value: Option<&str>) -> Value {
    value.map_or(Value::Null, text)
}

fn id(run: Option<&RunId>) -> Value {
    maybe(run.map(RunId::as_str))
}

impl Jobs {
    /// The number of a blob.
    pub fn blob(&mut self, bytes: impl Into<Vec<u8>>) -> Value {
        self.blobs.push(bytes.into());
        json!(self.blobs.len())
    }

    fn text_blob(&mut self, text: &str) -> Value {
        self.blob(escaped(text))
    }

    fn maybe_blob(&mut self, bytes: Option<Vec<u8>>) -> Value {
        bytes.map_or(Value::Null, |bytes| self.blob(bytes))
    }

    /// What a run is found by; nothing if it has no labels.
    fn labels(&mut self, labels: &[(String, String)]) -> Value {
        match labels.is_empty() {
            true => Value::Null,
            false => labels.iter().map(|label| self.blob(label_key(label))).collect(),
        }
    }

    fn budget(&mut self, budget: Budget) -> Value {
        // No budget is no value.
        self.maybe_blob((budget != Budget::default()).then(|| cbor(budget)))
    }

    pub fn message(&mut self, body: &MessageBody) -> Value {
        object(match body {
            MessageBody::Signal { name, payload, id } => json!({
                "kind": "signal", "calm": true, "name": text(name), "text": self.text_blob(payload.as_str()),
                "dedupe": maybe(id.as_deref()),
            }),
            MessageBody::Cancel { reason } => json!({
                "kind": "cancel", "calm": false,
                "text": reason.as_deref().map_or(Value::Null, |reason| self.text_blob(reason)),
            }),
            MessageBody::Pause => json!({ "kind": "pause", "calm": false }),
            MessageBody::Answer { step, outcome, by, note } => {
                let body: AnswerBody = (*step, outcome.clone().into(), by.clone(), note.clone());
                json!({ "kind": "answer", "calm": true, "step": stored(step.0), "body": self.blob(cbor(body)) })
            }
            MessageBody::Child { step, run, outcome, spent } => self.told(run, *step, outcome, *spent),
        })
    }

    /// What the parent of a run is told when it ends.
    pub fn told(&mut self, run: &RunId, step: Step, outcome: &Outcome, spent: Spent) -> Value {
        json!({
            "kind": "child", "calm": true, "step": stored(step.0), "body": self.blob(child_body(step, run, outcome, spent)),
        })
    }

    fn questions(&mut self, changes: &[QuestionChange]) -> Value {
        let changes = changes.iter().map(|change| match change {
            QuestionChange::Asked { step, at, deadline, question } => object(json!({
                "step": stored(step.0), "at": millis(*at), "deadline": deadline.map(millis),
                "body": self.blob(cbor(question)),
            })),
            QuestionChange::Closed { step } => json!({ "step": stored(step.0) }),
        });
        Value::Array(changes.collect())
    }

    /// Without their numbers, which the server gives, or numbered.
    pub fn emissions(&mut self, emissions: &[Emission]) -> Vec<Value> {
        emissions
            .iter()
            .map(|emission| match emission {
                Emission::Log(line) => self.log(line),
                Emission::Phase { title, at } => {
                    let mut log = self.log(&LogLine::phase(0, *at, title));
                    log["phase"] = text(title);
                    log
                }
                Emission::State { key, value, at } => json!({
                    "kind": "state", "at": millis(*at), "key": text(key), "value": self.text_blob(value.as_str()),
                }),
                Emission::Message { name, payload, at } => json!({
                    "kind": "message", "at": millis(*at), "name": text(name),
                    "value": self.text_blob(payload.as_str()),
                }),
            })
            .collect()
    }

    fn log(&mut self, line: &LogLine) -> Value {
        json!({
            "kind": "log", "at": millis(line.at), "level": line.level as i64,
            "message": self.text_blob(&line.message), "fields": self.text_blob(&pairs(&line.fields)),
        })
    }

    fn row(&mut self, row: &Row) -> Value {
        self.rows += 1;
        json!({
            "seq": row.first.0, "count": row.count, "n": self.rows, "head": self.blob(row.head.0.to_vec()),
            "body": self.blob(row.bytes.clone()),
        })
    }

    fn rows(&mut self, rows: &[Row]) -> Vec<Value> {
        rows.iter().map(|row| self.row(row)).collect()
    }

    /// A run that is to be created. Its rows have to follow each other.
    pub fn new_run(&mut self, run: &NewRun) -> Result<Value, StoreError> {
        check_rows(&run.id, &run.rows)?;
        let state = first_state(run);
        let children = run.children.iter().map(|child| self.child(child)).collect::<Result<Vec<_>, _>>()?;
        let inbox: Vec<_> = run.inbox.iter().map(|body| self.message(body)).collect();
        Ok(object(json!({
            "name": run.id.as_str(), "key": maybe(run.key.as_deref()), "project": maybe(run.project.as_deref()),
            "imported": run.imported, "workflow": text(&run.workflow), "module": self.blob(run.module.0.to_vec()),
            "labels": self.text_blob(&pairs(&run.labels)), "found_by": self.labels(&run.labels),
            "parent": id(run.parent.as_ref()),
            "step": run.links.step.map(|step| stored(step.0)), "on_close": run.links.on_close.map(|close| close as i64),
            "root": run.links.root.as_str(), "chain": id(run.links.chain.as_ref()),
            "budget": self.budget(run.budget), "created_at": millis(run.created_at),
            "updated_at": millis(run.updated_at), "state": number(state),
            "session": run.session.map(|session| session.0),
            // Whatever the clock showed that begins it.
            "due_at": run.session.is_none().then_some(0),
            "head": self.maybe_blob(run.rows.last().map(|row| row.head.0.to_vec())),
            "given": self.blob(cbor(run.given.unwrap_or_default())),
            "rows": self.rows(&run.rows), "inbox": inbox, "questions": self.questions(&run.questions),
            "children": children,
        })))
    }

    /// A child, with what its parent is told if it cannot be created.
    fn child(&mut self, child: &NewRun) -> Result<Value, StoreError> {
        let step = child.links.step.unwrap_or_default();
        let refused = [
            StoreError::IdTaken { id: child.id.clone() },
            StoreError::IdUsed { id: child.id.clone() },
            StoreError::NoSuchModule(child.module),
        ]
        .map(|error| {
            let outcome = Err(Failure::new(FailureKind::Rejected, error.to_string()));
            self.told(&child.id, step, &outcome, Spent::default())
        });
        let mut job = self.new_run(child)?;
        job["refused"] = json!(refused);
        // A child without one is told of as well.
        job["step"] = json!(stored(step.0));
        Ok(job)
    }

    /// An append with all that goes with it, of the run with that number.
    pub fn append(&mut self, run: i64, append: &Append) -> Result<Value, StoreError> {
        let mut job = json!({
            "run": run, "epoch": append.epoch.0 as i64, "at": millis(append.at), "parent_gone": PARENT_GONE,
            "knows": append.before != Digest([0; 32]),
        });
        if let Some(row) = &append.row {
            let mut row = self.row(row);
            row["prev"] = self.blob(append.before.0.to_vec());
            job["row"] = row;
        }
        if !append.consumed.is_empty() {
            job["consumed"] = json!(append.consumed.iter().map(|message| message.0).collect::<Vec<_>>());
        }
        if !append.questions.is_empty() {
            job["questions"] = self.questions(&append.questions);
        }
        if !append.emissions.is_empty() {
            job["emissions"] = Value::Array(self.emissions(&append.emissions));
        }
        if let Some(given) = append.given {
            job["given"] = self.blob(given_bytes(given));
        }
        if let Some((spent, budget)) = append.ledger {
            job["ledger"] = object(json!({
                "tokens": stored(spent.tokens), "micros": stored(spent.micros), "budget": self.budget(budget),
            }));
        }
        if let Some(module) = append.module {
            job["module"] = self.blob(module.0.to_vec());
        }
        if !append.children.is_empty() {
            let children = append.children.iter().map(|child| self.child(child));
            job["children"] = Value::Array(children.collect::<Result<_, _>>()?);
        }
        if !append.dropped.is_empty() {
            job["dropped"] = json!(append.dropped.iter().map(|step| stored(step.0)).collect::<Vec<_>>());
        }
        let waits = |job: &mut Value, waiting: &Waiting| {
            job["signals"] = waiting.signals.iter().map(|name| text(name)).collect();
            job["people"] = json!(waiting.people);
            if let Some(until) = waiting.until {
                job["until"] = json!(millis(until));
            }
        };
        match &append.next {
            Next::Go => job["next"] = json!("go"),
            Next::Park(waiting) => {
                job["next"] = json!("park");
                waits(&mut job, waiting);
            }
            Next::Release { waiting, trouble } => {
                job["next"] = json!("release");
                job["again_ms"] = json!(AGAIN_AFTER_MS);
                job["at_once_ms"] = json!(AT_ONCE_MS);
                if let Some(waiting) = waiting {
                    waits(&mut job, waiting);
                }
                if let Some(trouble) = trouble {
                    job["trouble"] = text(trouble);
                }
            }
            Next::Pause { if_asked } => {
                job["next"] = json!("pause");
                if *if_asked {
                    job["if_asked"] = json!(true);
                }
            }
            Next::Refuse { reason } => {
                job["next"] = json!("refuse");
                let outcome = Err(Failure::new(FailureKind::Rejected, reason.as_str()));
                job["outcome"] = self.blob(outcome_bytes(&outcome));
            }
            Next::End { outcome, spent } => {
                job["next"] = json!("end");
                job["state"] = json!(number(RunState::of(Some(outcome))));
                job["outcome"] = self.blob(outcome_bytes(outcome));
                // The step is in the body, and only the server knows it.
                job["tell"] = self.told(&append.run, Step(0), outcome, *spent);
            }
            Next::Continue { run } => {
                job["next"] = json!("continue");
                job["state"] = json!(number(RunState::Continued));
                job["to"] = self.new_run(run)?;
            }
        }
        Ok(job)
    }

    pub fn imported(&mut self, run: &ImportedRun) -> Result<Value, StoreError> {
        let info = &run.info;
        check_rows(&info.id, &run.rows)?;
        let ended = info.state.is_final();
        let state = if ended { info.state } else { RunState::Paused };
        let outcome = info.outcome.as_ref().filter(|_| ended).map(outcome_bytes);
        let mut given_out = Vec::new();
        for line in &run.logs {
            let mut log = self.log(line);
            log["number"] = json!(line.number);
            given_out.push(log);
        }
        for message in &run.messages {
            given_out.push(json!({
                "kind": "message", "number": message.number, "at": millis(message.at),
                "name": text(&message.name), "value": self.text_blob(message.payload.as_str()),
            }));
        }
        for published in &run.state {
            given_out.push(json!({
                "kind": "state", "number": published.number, "at": millis(published.at),
                "key": text(&published.key), "value": self.text_blob(published.value.as_str()),
            }));
        }
        let inbox: Vec<_> = run
            .inbox
            .iter()
            .map(|(at, body)| {
                let mut message = self.message(body);
                message["at"] = json!(millis(*at));
                message
            })
            .collect();
        let mut job = self.info(info);
        job["state"] = json!(number(state));
        job["epoch"] = json!(stored(info.epoch.0));
        job["imported"] = json!(info.imported);
        for (name, value) in
            [("key", maybe(info.key.as_deref())), ("project", maybe(info.project.as_deref()))]
        {
            if !value.is_null() {
                job[name] = value;
            }
        }
        if let Some(outcome) = outcome {
            job["outcome"] = self.blob(outcome);
        }
        if let Some(last) = run.rows.last() {
            job["head"] = self.blob(last.head.0.to_vec());
        }
        if let Some(phase) = &info.phase {
            job["phase"] = text(phase);
        }
        job["emissions"] = json!(stored(run.emissions));
        job["given"] = self.blob(given_bytes(run.given));
        job["given_out"] = Value::Array(given_out);
        job["rows"] = Value::Array(self.rows(&run.rows));
        job["inbox"] = Value::Array(inbox);
        job["seen"] = run.signal_ids().iter().map(|id| text(id)).collect();
        job["questions"] = self.questions(&run.questions);
        Ok(job)
    }

    pub fn rebuilt(&mut self, run: &Rebuilt) -> Value {
        let info = &run.info;
        let mut job = self.info(info);
        job["entries"] = json!(stored(info.entries.0));
        job["state"] = json!(number(info.state));
        if let Some(outcome) = &info.outcome {
            job["outcome"] = self.blob(outcome_bytes(outcome));
        }
        job["people"] = json!(info.waiting.as_ref().is_some_and(|waiting| waiting.people));
        if let Some(waiting) = &info.waiting {
            job["signals"] = waiting.signals.iter().map(|name| text(name)).collect();
            if let Some(until) = waiting.until {
                job["until"] = json!(millis(until));
            }
        }
        if let Some(head) = info.head {
            job["head"] = self.blob(head.0.to_vec());
        }
        job["questions"] = self.questions(&run.questions);
        if let Some(emissions) = &run.emissions {
            let mut given_out = self.emissions(emissions);
            for (number, emission) in given_out.iter_mut().enumerate() {
                emission["number"] = json!(number);
            }
            job["given_out"] = Value::Array(given_out);
        }
        job
    }

    /// What a run is that does not change with each commit.
    fn info(&mut self, info: &RunInfo) -> Value {
        object(json!({
            "name": info.id.as_str(), "workflow": text(&info.workflow),
            "module": self.blob(info.module.0.to_vec()), "labels": self.text_blob(&pairs(&info.labels)),
            "found_by": self.labels(&info.labels),
            "parent": id(info.parent.as_ref()), "step": info.links.step.map(|step| stored(step.0)),
            "on_close": info.links.on_close.map(|close| close as i64), "root": info.links.root.as_str(),
            "chain": id(info.links.chain.as_ref()), "next": id(info.links.next.as_ref()),
            "budget": self.budget(info.budget), "tokens": stored(info.spent.tokens),
            "micros": stored(info.spent.micros), "created_at": millis(info.created_at),
            "updated_at": millis(info.updated_at),
        }))
    }
}

fn given_bytes(given: Given) -> Vec<u8> {
    cbor(given)
}

/// What is told of a child's end.
pub(crate) fn child_body(step: Step, run: &RunId, outcome: &Outcome, spent: Spent) -> Vec<u8> {
    let body: ChildBody = (step, run.clone(), outcome.clone().into(), spent);
    cbor(body)
}

/// Whether a new run is no more than its first row.
pub(crate) fn is_bare(run: &NewRun) -> bool {
    run.rows.len() == 1
        && run.labels.is_empty()
        && run.inbox.is_empty()
        && run.questions.is_empty()
        && run.children.is_empty()
}

/// The arguments of `begin_5`, for a run that is [bare](is_bare).
pub(crate) fn beginning(run: &NewRun) -> Vec<Arg> {
    let row = run.rows.first();
    args_of![
        run.session.map(|session| session.0 as i64),
        run.id.as_str(),
        run.key.as_deref(),
        run.project.as_deref(),
        run.imported,
        run.workflow.as_str(),
        run.module,
        run.parent.as_ref().map(RunId::as_str),
        run.links.step.map(|step| stored(step.0)),
        run.links.on_close.map(|close| close as i16),
        run.links.root.as_str(),
        run.links.chain.as_ref().map(RunId::as_str),
        run.created_at,
        run.updated_at,
        (run.budget != Budget::default()).then(|| cbor(run.budget)),
        pairs(&run.labels),
        number(first_state(run)) as i16,
        given_bytes(run.given.unwrap_or_default()),
        row.map(|row| row.first.0 as i64),
        row.map(|row| row.count as i32),
        row.map(|row| row.head.0.to_vec()),
        row.map(|row| row.bytes.clone()),
    ]
}

/// The same for many, each an element of an array: the arguments of `begin_all_5`.
pub(crate) fn beginnings(runs: &[Arc<NewRun>]) -> Vec<Arg> {
    fn each<T>(runs: &[Arc<NewRun>], of: impl Fn(&NewRun) -> T) -> Vec<T> {
        runs.iter().map(|run| of(run)).collect()
    }
    let texts = |of: fn(&NewRun) -> Option<&str>| each(runs, |run| of(run).map(escaped));
    let row = |of: fn(&Row) -> i64| each(runs, |run| run.rows.first().map(of));
    let bytes = |of: fn(&Row) -> Vec<u8>| each(runs, |run| run.rows.first().map(of));
    args_of![
        each(runs, |run| run.session.map(|session| session.0 as i64)),
        texts(|run| Some(run.id.as_str())),
        texts(|run| run.key.as_deref()),
        texts(|run| run.project.as_deref()),
        each(runs, |run| run.imported),
        texts(|run| Some(run.workflow.as_str())),
        each(runs, |run| run.module.0.to_vec()),
        texts(|run| run.parent.as_ref().map(RunId::as_str)),
        each(runs, |run| run.links.step.map(|step| stored(step.0))),
        each(runs, |run| run.links.on_close.map(|close| close as i16)),
        texts(|run| Some(run.links.root.as_str())),
        texts(|run| run.links.chain.as_ref().map(RunId::as_str)),
        each(runs, |run| millis(run.created_at)),
        each(runs, |run| millis(run.updated_at)),
        each(runs, |run| (run.budget != Budget::default()).then(|| cbor(run.budget))),
        each(runs, |run| Some(escaped(&pairs(&run.labels)))),
        each(runs, |run| number(first_state(run)) as i16),
        each(runs, |run| given_bytes(run.given.unwrap_or_default())),
        row(|row| row.first.0 as i64),
        row(|row| i64::from(row.count)),
        bytes(|row| row.head.0.to_vec()),
        bytes(|row| row.bytes.clone()),
    ]
}

/// The state of a run that begins.
fn first_state(run: &NewRun) -> RunState {
    if run.session.is_some() { RunState::Running } else { RunState::Queued }
}

pub(crate) fn outcome_bytes(outcome: &Outcome) -> Vec<u8> {
    cbor(Recorded::from(outcome.clone()))
}

/// Rows that a run brings along follow each other from 0 on.
pub(crate) fn check_rows(run: &RunId, rows: &[Row]) -> Result<(), StoreError> {
    let mut end = wfhost_core::Position(0);
    for row in rows {
        if row.first != end {
            return Err(StoreError::Fenced { run: run.clone() });
        }
        end = row.end();
    }
    Ok(())
}
