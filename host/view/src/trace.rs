//! Runs as traces: spans, made of the journal alone. So a trace can be told at any time, by anybody who
//! has the journal, in whole or again, and is the same; a host that dies takes none of it along.

use std::collections::HashMap;

use serde_json::{Value, json};
use wfhost::store::RunInfo;
use wfhost::{StepInfo, steps};
use wfhost_core::trace::{attempt_id, parse_traceparent, span_id, trace_id};
use wfhost_core::{
    Event, FailedCall, Failure, Journal, Json, Op, Origin, Outcome, RunId, Step, Timestamp, Usage,
};

/// A span.
#[derive(Clone, PartialEq, Debug)]
pub struct Span {
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    /// What it asks of others, not only of itself.
    pub is_call: bool,
    /// It goes on: its end is the last that is known of it.
    pub is_open: bool,
    pub from: Timestamp,
    pub to: Timestamp,
    pub attributes: Vec<(&'static str, Value)>,
    pub links: Vec<Link>,
    /// The kind of the failure, and its message.
    pub failed: Option<(String, String)>,
}

impl Span {
    /// About how many bytes it has where it is sent: those of its texts, and of what stands around them.
    pub fn text_bytes(&self) -> usize {
        const AROUND: usize = 300;
        const AROUND_PART: usize = 60;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string().len(), str::len);
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + text(value) + AROUND_PART);
        let links = self.links.iter().map(|link| link.trace.len() + link.span.len() + 2 * AROUND_PART);
        let failed = self.failed.iter().map(|(kind, message)| kind.len() + message.len() + AROUND_PART);
        AROUND + self.name.len() + attributes.chain(links).chain(failed).sum::<usize>()
    }
}

/// What belongs to a span in another trace.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    pub trace: String,
    pub span: String,
    /// What it is to this one: `parent`, `previous`, `forked-from`, `reused`, `caller`.
    pub what: &'static str,
}

/// The trace of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    pub id: String,
    /// Parents come before their children.
    pub spans: Vec<Span>,
}

/// The span that all others of a run are below.
fn root_id(run: &RunId) -> String {
    span_id(run, "root", &[])
}

fn step_id(run: &RunId, step: Step) -> String {
    span_id(run, "step", &[step.0])
}

fn link(run: &RunId, span: String, what: &'static str) -> Link {
    Link { trace: trace_id(run), span, what }
}

/// An attempt, as far as the journal has it.
struct Attempt {
    number: u32,
    from: Timestamp,
    to: Option<Timestamp>,
    provider: Option<String>,
    failure: Option<Failure>,
    usage: Option<Usage>,
}

/// A wait between attempts, or for a person.
struct Wait {
    what: &'static str,
    from: Timestamp,
    to: Option<Timestamp>,
}

#[derive(Default)]
struct Calls {
    attempts: HashMap<Step, Vec<Attempt>>,
    waits: HashMap<Step, Vec<Wait>>,
}

impl Calls {
    fn begin(&mut self, step: Step, number: u32, from: Timestamp) {
        for wait in self.waits.entry(step).or_default() {
            wait.to.get_or_insert(from);
        }
        let attempt = Attempt { number, from, to: None, provider: None, failure: None, usage: None };
        self.attempts.entry(step).or_default().push(attempt);
    }

    fn end(&mut self, step: Step, to: Timestamp, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.entry(step).or_default().last_mut()
            && attempt.to.is_none()
        {
            attempt.to = Some(to);
            change(attempt);
        }
        for wait in self.waits.entry(step).or_default() {
            wait.to.get_or_insert(to);
        }
    }

    /// An attempt was dropped, perhaps before, and it is known what it consumed.
    fn consumed(&mut self, failed: &FailedCall, at: Timestamp) {
        let mut attempts = self.attempts.entry(failed.step).or_default().iter_mut().rev();
        if let Some(attempt) = attempts.find(|attempt| attempt.number == failed.attempt) {
            if attempt.to.is_none() {
                (attempt.to, attempt.failure) = (Some(at), Some(failed.failure.clone()));
            }
            attempt.provider = Some(failed.provider.clone());
            attempt.usage = failed.usage;
        }
    }

    fn wait(&mut self, step: Step, what: &'static str, from: Timestamp) {
        self.waits.entry(step).or_default().push(Wait { what, from, to: None });
    }

    /// What the entries behind `from` say of attempts.
    fn of(journal: &Journal, from: usize) -> Self {
        let mut calls = Self::default();
        for entry in &journal.entries[from..] {
            let at = entry.at;
            match &entry.event {
                Event::Scheduled { step, op } => {
                    if matches!(wfhost_core::decode_op(op, wfhost_core::Position(0)), Ok(Op::Agent(_))) {
                        calls.begin(*step, 1, at);
                    }
                }
                Event::Attempted { step, attempt, .. } => {
                    // The one before was cut off by the death of its host.
                    calls.end(*step, at, |attempt| {
                        let message = "its host died";
                        attempt.failure = Some(Failure::new(wfhost_core::FailureKind::Unavailable, message));
                    });
                    calls.begin(*step, *attempt, at);
                }
                Event::AttemptFailed(failed) if failed.is_dropped() => calls.consumed(failed, at),
                Event::AttemptFailed(failed) => {
                    calls.end(failed.step, at, |attempt| {
                        attempt.provider = Some(failed.provider.clone());
                        attempt.failure = Some(failed.failure.clone());
                        attempt.usage = failed.usage;
                    });
                    if failed.again_at.is_some() {
                        calls.wait(failed.step, "retry_delay", at);
                    }
                }
                Event::Postponed { step, .. } => {
                    // It was not made.
                    if let Some(attempts) = calls.attempts.get_mut(step) {
                        attempts.pop_if(|attempt| attempt.to.is_none());
                    }
                    calls.wait(*step, "wait_for_turn", at);
                }
                Event::Delegated { step, provider, .. } => {
                    calls.end(*step, at, |attempt| attempt.provider = Some(provider.clone()));
                    calls.wait(*step, "wait_for_person", at);
                }
                Event::Cancelled { step } => calls.end(*step, at, |_| {}),
                event => {
                    if let Some((step, outcome)) = event.ended_step() {
                        let failure = Outcome::from(outcome.clone()).err();
                        calls.end(step, at, |attempt| attempt.failure = failure);
                    }
                }
            }
        }
        calls
    }
}

impl Trace {
    /// The trace of a run with this journal. With `content` also what it works on.
    pub fn of(info: &RunInfo, journal: &Journal, content: bool) -> Self {
        let run = &info.id;
        // What stands before a fork are the spans of another run.
        let forked = journal.entries.iter().enumerate().rev().find_map(|(place, entry)| match &entry.event {
            Event::Forked { run: fork, from, .. } if fork == run => Some((place, from.clone())),
            _ => None,
        });
        let first = forked.as_ref().map_or(0, |(place, _)| *place);
        let begun = journal.entries.get(first).map_or(info.created_at, |entry| entry.at);
        let mut links = Vec::new();
        if let (Some(parent), Some(step)) = (&info.parent, info.links.step) {
            links.push(link(parent, step_id(parent, step), "parent"));
        }
        if let Some((_, from)) = &forked {
            links.push(link(from, root_id(from), "forked-from"));
        } else if let Some(Event::Started(started)) = journal.entries.first().map(|entry| &entry.event) {
            match &started.origin {
                Some(Origin::Continued { from, .. }) => links.push(link(from, root_id(from), "previous")),
                Some(Origin::Reused { from }) => links.push(link(from, root_id(from), "reused")),
                None => {}
            }
            let caller = started.config.caller.as_deref().and_then(parse_traceparent);
            links.extend(caller.map(|(trace, span)| Link {
                trace: trace.to_owned(),
                span: span.to_owned(),
                what: "caller",
            }));
        }
        let about = vec![
            ("wfhost.run.id", json!(run)),
            ("wfhost.workflow", json!(info.workflow)),
            ("wfhost.module", json!(info.module.to_string())),
        ];
        let root = Span {
            id: root_id(run),
            parent: None,
            name: format!("start {}", info.workflow),
            is_call: false,
            is_open: false,
            from: begun,
            to: begun,
            attributes: about.clone(),
            links,
            failed: None,
        };
        let mut spans = vec![root];
        if info.state.is_final() {
            let failure = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
            let mut attributes = about;
            attributes.extend([
                ("gen_ai.operation.name", json!("invoke_workflow")),
                ("gen_ai.workflow.name", json!(info.workflow)),
                ("wfhost.state", json!(info.state.as_str())),
                ("wfhost.cost_usd", json!(info.spent.micros as f64 / 1e6)),
            ]);
            attributes.extend(info.head.map(|head| ("wfhost.head", json!(head.to_string()))));
            // What was sent already is not sent again with another end: each time that it went on is a span of its own.
            let own = journal.entries.iter().skip(first);
            let retries = own.filter(|entry| matches!(entry.event, Event::Retried { .. })).count() as u64;
            let numbers: &[u64] = if retries == 0 { &[] } else { &[retries] };
            spans.push(Span {
                id: span_id(run, "whole", numbers),
                parent: Some(root_id(run)),
                name: format!("invoke_workflow {}", info.workflow),
                is_call: false,
                is_open: false,
                from: begun,
                to: info.updated_at.max(begun),
                attributes,
                links: Vec::new(),
                failed: failure.map(|failure| said(failure, content)),
            });
        }
        let calls = Calls::of(journal, first);
        for step in steps(journal) {
            // It was done before the fork.
            if forked.is_some() && step.ended.as_ref().is_some_and(|(at, _)| *at < begun) {
                continue;
            }
            of_step(run, &step, &calls, content, &mut spans);
        }
        Self { id: trace_id(run), spans }
    }
}

/// What is told of a failure.
fn said(failure: &Failure, content: bool) -> (String, String) {
    let message = if content { failure.message.clone() } else { String::new() };
    (failure.kind.word().to_owned(), message)
}

fn of_step(run: &RunId, step: &StepInfo, calls: &Calls, content: bool, spans: &mut Vec<Span>) {
    let id = step_id(run, step.step);
    let attempts = calls.attempts.get(&step.step).map(Vec::as_slice).unwrap_or_default();
    let waits = calls.waits.get(&step.step).map(Vec::as_slice).unwrap_or_default();
    let done = step.ended.as_ref();
    let outcome = done.and_then(|(_, outcome)| outcome.as_ref());
    // A step that is open has no end to be told yet; what is below it may have. Its time until then is known.
    let told =
        attempts.iter().filter_map(|attempt| attempt.to).chain(waits.iter().filter_map(|wait| wait.to));
    let Some(to) = done.map(|(at, _)| *at).or_else(|| told.max()) else { return };
    let name = match &step.op {
        Op::Agent(_) => "agent".to_owned(),
        Op::Sleep { .. } | Op::SleepUntil { .. } => "sleep".to_owned(),
        Op::Signal { name, .. } => format!("wait_for_signal {name}"),
        Op::Ask { .. } => "wait_for_person".to_owned(),
        Op::Child { module, .. } => format!("child {module}"),
        Op::Send { name, .. } => format!("send_signal {name}"),
        Op::ContinueAsNew { .. } => "continue_as_new".to_owned(),
    };
    let state = match done {
        None => "open",
        Some((_, None)) => "cancelled",
        Some((_, Some(Ok(_)))) => "completed",
        Some((_, Some(Err(_)))) => "failed",
    };
    let mut attributes = vec![
        ("wfhost.run.id", json!(run)),
        ("wfhost.step", json!(step.step.0)),
        ("wfhost.step.kind", json!(step.op.kind())),
        ("wfhost.step.state", json!(state)),
    ];
    let mut links = Vec::new();
    match &step.op {
        Op::Agent(request) => {
            attributes.extend(request.label.as_ref().map(|label| ("wfhost.label", json!(label))))
        }
        Op::Child { options, .. } => {
            let named = options.as_ref().and_then(|options| options.id.as_ref()?.parse().ok());
            let child = named.unwrap_or_else(|| run.child(step.step));
            attributes.push(("wfhost.child.run.id", json!(child)));
            links.push(link(&child, root_id(&child), "child"));
        }
        _ => {}
    }
    let failure = outcome.and_then(|outcome| outcome.as_ref().err());
    spans.push(Span {
        id: id.clone(),
        parent: Some(root_id(run)),
        name,
        is_call: false,
        is_open: done.is_none(),
        from: step.started_at,
        to: to.max(step.started_at),
        attributes,
        links,
        failed: failure.map(|failure| said(failure, content)),
    });
    let Op::Agent(request) = &step.op else { return };
    let reply = outcome.and_then(|outcome| outcome.as_ref().ok()).map(Json::value).unwrap_or_default();
    let last = attempts.len().saturating_sub(1);
    let mut seen: HashMap<u32, u64> = HashMap::new();
    for (place, attempt) in attempts.iter().enumerate() {
        // A step that was tried again from outside counts its attempts anew.
        let again = seen.entry(attempt.number).or_default();
        let own = match *again {
            0 => attempt_id(run, step.step, attempt.number),
            again => span_id(run, "attempt", &[step.step.0, u64::from(attempt.number), again]),
        };
        *again += 1;
        let Some(to) = attempt.to else { continue };
        let answered = (place == last && attempt.failure.is_none()).then_some(&reply);
        let text = |name: &str| answered.and_then(|reply| reply[name].as_str());
        let provider = attempt.provider.as_deref().or(text("provider"));
        let provider = provider.or(request.providers.first().map(String::as_str)).unwrap_or("unknown");
        let model = text("model").or(request.model.as_deref());
        let usage = attempt.usage.or_else(|| serde_json::from_value(answered?["usage"].clone()).ok());
        let (operation, name) = match (provider, model) {
            ("openai" | "anthropic", Some(model)) => ("chat", format!("chat {model}")),
            _ => ("invoke_agent", format!("invoke_agent {provider}")),
        };
        let mut attributes = vec![
            ("gen_ai.operation.name", json!(operation)),
            ("gen_ai.provider.name", json!(provider)),
            ("wfhost.run.id", json!(run)),
            ("wfhost.step", json!(step.step.0)),
            ("wfhost.attempt", json!(attempt.number)),
        ];
        attributes.extend(request.model.as_ref().map(|model| ("gen_ai.request.model", json!(model))));
        attributes.extend(text("model").map(|model| ("gen_ai.response.model", json!(model))));
        attributes.extend(text("session").map(|session| ("gen_ai.conversation.id", json!(session))));
        if answered.is_some_and(|reply| reply["cached"] == true) {
            attributes.push(("wfhost.cached", json!(true)));
        }
        if let Some(usage) = usage {
            attributes.extend([
                ("gen_ai.usage.input_tokens", json!(usage.input_tokens)),
                ("gen_ai.usage.output_tokens", json!(usage.output_tokens)),
                ("gen_ai.usage.cache_read.input_tokens", json!(usage.cached_tokens)),
                ("wfhost.cost_usd", json!(usage.cost_micros as f64 / 1e6)),
            ]);
        }
        if content {
            let parts = json!([{ "role": "user", "parts": [{ "type": "text", "content": request.prompt }] }]);
            attributes.push(("gen_ai.input.messages", json!(parts.to_string())));
            if let Some(reply) = answered {
                let parts = json!([{ "role": "assistant", "parts": [{ "type": "text", "content": reply["output"] }] }]);
                attributes.push(("gen_ai.output.messages", json!(parts.to_string())));
            }
        }
        spans.push(Span {
            id: own,
            parent: Some(id.clone()),
            name,
            is_call: true,
            is_open: false,
            from: attempt.from,
            to: to.max(attempt.from),
            attributes,
            links: Vec::new(),
            failed: attempt.failure.as_ref().map(|failure| said(failure, content)),
        });
    }
    for (place, wait) in waits.iter().enumerate() {
        let Some(to) = wait.to else { continue };
        spans.push(Span {
            id: span_id(run, "wait", &[step.step.0, place as u64]),
            parent: Some(id.clone()),
            name: wait.what.to_owned(),
            is_call: false,
            is_open: false,
            from: wait.from,
            to: to.max(wait.from),
            attributes: vec![("wfhost.run.id", json!(run)), ("wfhost.step", json!(step.step.0))],
            links: Vec::new(),
            failed: None,
        });
    }
}

/// An attribute as OTLP has it.
fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Bool(flag) => json!({ "boolValue": flag }),
        Value::Number(number) if number.is_u64() || number.is_i64() => {
            json!({ "intValue": number.to_string() })
        }
        Value::Number(number) => json!({ "doubleValue": number }),
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": name, "value": value })
}

/// Traces in the JSON of OTLP, as collectors take them at `/v1/traces`. `resource`: what sends them.
pub fn otlp(traces: &[Trace], resource: &[(String, String)]) -> Value {
    let nanos = |at: Timestamp| (u128::from(at.0) * 1_000_000).to_string();
    let spans = traces.iter().flat_map(|trace| {
        trace.spans.iter().map(move |span| {
            let links = span.links.iter().map(|link| {
                json!({
                    "traceId": link.trace, "spanId": link.span,
                    "attributes": [attribute("wfhost.link", &json!(link.what))],
                })
            });
            let mut attributes: Vec<_> =
                span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
            let mut status = json!({});
            if let Some((kind, message)) = &span.failed {
                attributes.push(attribute("error.type", &json!(kind)));
                status = json!({ "code": 2, "message": message });
            }
            let mut told = json!({
                "traceId": trace.id,
                "spanId": span.id,
                "name": span.name,
                "kind": if span.is_call { 3 } else { 1 },
                "startTimeUnixNano": nanos(span.from),
                "endTimeUnixNano": nanos(span.to),
                "attributes": attributes,
                "links": links.collect::<Vec<_>>(),
                "status": status,
            });
            if let Some(parent) = &span.parent {
                told["parentSpanId"] = json!(parent);
            }
            told
        })
    });
    let resource: Vec<_> = resource.iter().map(|(name, value)| attribute(name, &json!(value))).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "wfhost", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans.collect::<Vec<_>>(),
        }],
    }] })
}
