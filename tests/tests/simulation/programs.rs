//! What the runs do, and what has to come out of it.

use serde_json::{Value, json};
use wfhost_core::RunId;

/// The version of the probe that the runs begin with.
pub const FIRST: u8 = 0;
/// Traps at once.
pub const TRAPS: u8 = 1;
/// Returns at once.
pub const RETURNS: u8 = 2;
/// Does what the first one does.
pub const SAME: u8 = 3;

fn by_version() -> Value {
    json!({ "by_version": [[], ["trap"], ["return"], []] })
}

fn rounds_of(operations: &[Value]) -> Value {
    let operations: Vec<_> = [by_version()].iter().chain(operations).cloned().collect();
    json!({ "do": operations })
}

/// Calls, timers, children and a signal.
pub fn busy(n: u64) -> (Value, Value) {
    let name = |what: &str| format!("r{n} {what}");
    let said = |what: &str| format!("sim: r{n} {what}");
    let child = |program: Value| json!({ "child": { "module": "probe", "input": { "do": program } } });
    // Two rounds, which are one child; and one that nobody waits for in the end.
    let rounds = child(json!([
        { "agent": name("e") },
        { "continue_as_new": { "do": [{ "sleep": 300 }, { "agent": name("f") }] } },
    ]));
    let dropped = child(json!([{ "wait": { "name": "never" } }]));
    let program = rounds_of(&[
        json!({ "agent": name("a") }),
        json!({ "parallel": [{ "agent": name("b") }, { "sleep": 700 }, { "agent": name("c") }, rounds] }),
        json!({ "log": "half" }),
        json!({ "wait": { "name": "go" } }),
        json!({ "sleep": 4_000 }),
        json!({ "race": [{ "sleep": 1_500 }, { "sleep": 90_000 }, dropped] }),
        json!({ "agent": name("d") }),
    ]);
    let result = json!([
        said("a"), [said("b"), null, said("c"), [null, said("f")]], null, { "n": n }, null, [0, null], said("d"),
    ]);
    (program, result)
}

/// Calls that every host can make beside ones that some cannot.
pub fn particular() -> (Value, Value) {
    let other = |prompt: &str| json!({ "agent_of": { "provider": "other", "prompt": prompt } });
    let program = rounds_of(&[
        json!({ "parallel": [{ "agent": "a" }, other("b"), { "sleep": 500 }, { "agent": "c" }] }),
        other("d"),
        json!({ "agent": "e" }),
    ]);
    (program, json!([["sim: a", "other: b", null, "sim: c"], "other: d", "sim: e"]))
}

/// Calls of an agent whose calls are limited for all hosts together.
pub fn narrow(n: u64) -> (Value, Value) {
    let name = |what: &str| format!("n{n} {what}");
    let said = |what: &str| format!("narrow: n{n} {what}");
    let call = |what: &str| json!({ "agent_of": { "provider": "narrow", "prompt": name(what) } });
    let program = rounds_of(&[
        json!({ "parallel": [call("a"), call("b"), { "sleep": 400 }, call("c")] }),
        json!({ "sleep": 1_500 }),
        call("d"),
    ]);
    (program, json!([[said("a"), said("b"), null, said("c")], null, said("d")]))
}

/// Sends to itself, with a store that fails before it has posted, and after. Each is read once.
pub fn sender(run: &str) -> (Value, Value) {
    let send = |n: u8| json!({ "send": { "run": run, "name": "own", "payload": n } });
    let wait = || json!({ "wait": { "name": "own" } });
    let program = rounds_of(&[
        send(1),
        json!({ "agent": "a" }),
        send(2),
        json!({ "sleep": 300 }),
        send(3),
        wait(),
        wait(),
        wait(),
        json!({ "race": [wait(), { "sleep": 500 }] }),
    ]);
    (program, json!([null, "sim: a", null, null, null, 1, 2, 3, [1, null]]))
}

/// Calls and waits, and may be ended at any moment; else it ends by itself.
pub fn mortal() -> Value {
    rounds_of(&[
        json!({ "agent": "a" }),
        json!({ "parallel": [{ "agent": "b" }, { "sleep": 900 }] }),
        json!({ "wait": { "name": "note", "timeout_ms": 12_000 } }),
        json!({ "agent": "c" }),
    ])
}

pub fn is_reader(run: &RunId) -> bool {
    run.as_str().starts_with('m')
}

pub fn may_be_terminated(run: &RunId) -> bool {
    run.as_str().starts_with('t')
}

/// Reads what is sent to it, in several rounds. What it has read it asks an agent about.
pub fn reader(rounds: u64) -> Value {
    let about = |operation: Value| json!({ "agent_about": operation });
    let mut operations = vec![
        about(json!({ "wait": { "name": "note", "timeout_ms": 700 } })),
        about(json!({ "ask": { "prompt": "read", "timeout_ms": 1_500 } })),
        // What it may drop unread.
        json!({ "race": [{ "ask": { "prompt": "dropped" } }, { "sleep": 600 }] }),
        about(json!({ "race": [{ "wait": { "name": "note" } }, { "sleep": 400 }] })),
    ];
    if rounds > 1 {
        operations.push(json!({ "continue_as_new": reader(rounds - 1) }));
    }
    rounds_of(&operations)
}
