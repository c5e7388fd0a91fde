//! What the runs do. The first letter of a run's id says which it is.

use serde_json::{Value, json};
use wfhost_tests::module;

/// A run to be begun.
#[derive(Debug)]
pub struct New {
    pub id: String,
    pub module: String,
    pub input: Value,
    /// What it is sent at once: the name of a signal, and its payload.
    pub signal: Option<(&'static str, Value)>,
}

/// The run of this number: of four, two read what they are sent.
pub fn new(n: u64) -> New {
    match n % 4 {
        0 => New {
            id: format!("r{n}"),
            module: module("research"),
            input: json!({ "topic": format!("topic{n}"), "sections": 3, "approval_timeout_s": 2 }),
            signal: n.is_multiple_of(8).then(|| ("approve", json!({ "ok": true }))),
        },
        1 => New {
            id: format!("b{n}"),
            module: module("probe"),
            input: busy(&format!("b{n}")),
            signal: Some(("go", json!(n))),
        },
        _ => New { id: format!("s{n}"), module: module("probe"), input: reader(n / 4 % 3 + 1), signal: None },
    }
}

/// The results that a run may come to; none for those that depend on what they are sent.
pub fn results(id: &str) -> Option<Vec<Value>> {
    let n: u64 = id[1..].parse().ok()?;
    match &id[..1] {
        "r" => {
            let topic = format!("topic{n}");
            let sections: Vec<_> = (1..=3).map(|s| format!("Section {s} about {topic}.")).collect();
            let with = |approval: Value| {
                json!({
                    "topic": topic, "outline": format!("about {topic}"), "sections": sections, "rounds": 1,
                    "approval": approval,
                })
            };
            // The approval may come when nobody waits for it any more.
            let approved = n.is_multiple_of(8).then(|| with(json!({ "ok": true, "note": null })));
            Some(approved.into_iter().chain([with(Value::Null)]).collect())
        }
        "b" => {
            let said = |what: &str| format!("said: {id} {what}");
            let together = json!([said("b"), null, said("c"), [null, said("f")]]);
            Some(vec![json!([said("a"), together, n, null, [0, null], said("d")])])
        }
        _ => None,
    }
}

/// What the agents say.
pub fn answers(calls: &str) -> Value {
    json!({
        "rules": [
            { "match": "^outline (\\w+)", "reply": "about $1", "delay_ms": 120 },
            { "match": "^write section (\\d+) of (\\w+)", "reply": "Section $1 about $2.", "delay_ms": 250 },
            { "match": "^review", "reply": "ok", "delay_ms": 180 },
        ],
        "default": { "reply": "said: ${prompt}", "delay_ms": 150 },
        "calls": calls,
    })
}

/// Calls, timers, children and a signal.
fn busy(id: &str) -> Value {
    let agent = |what: &str| json!({ "agent": format!("{id} {what}") });
    let child = |program: Value| json!({ "child": { "module": "probe", "input": { "do": program } } });
    // Two rounds, which are one child; and one that nobody waits for in the end.
    let rounds = child(json!([agent("e"), { "continue_as_new": { "do": [{ "sleep": 300 }, agent("f")] } }]));
    let dropped = child(json!([{ "wait": { "name": "never" } }]));
    json!({ "do": [
        agent("a"),
        { "parallel": [agent("b"), { "sleep": 700 }, agent("c"), rounds] },
        { "wait": { "name": "go" } },
        { "sleep": 2_500 },
        { "race": [{ "sleep": 900 }, { "sleep": 90_000 }, dropped] },
        agent("d"),
    ] })
}

/// The prompt of the question whose answer is not read, as it ends the round.
pub const LAST: &str = "last";

/// Reads what is sent to it, in several rounds: what it has read it asks an agent about. Each round
/// ends with the deadline of a question.
fn reader(rounds: u64) -> Value {
    let about = |operation: Value| json!({ "agent_about": operation });
    let mut operations = vec![
        about(json!({ "wait": { "name": "note", "timeout_ms": 500 } })),
        about(json!({ "ask": { "prompt": "first", "timeout_ms": 900 } })),
        about(json!({ "race": [{ "wait": { "name": "note" } }, { "sleep": 300 }] })),
        json!({ "ask": { "prompt": LAST, "timeout_ms": 700 } }),
    ];
    if rounds > 1 {
        operations.push(json!({ "continue_as_new": reader(rounds - 1) }));
    }
    json!({ "do": operations })
}
