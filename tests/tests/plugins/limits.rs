//! Plugins that take more than they may: each is stopped, and nobody else is.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

use crate::{acts, gave, grant, puppet, run};

#[track_caller]
fn stopped(more: &str, act: Value, expected: &str) {
    let place = Place::new();
    grant(&place, more);
    let begin = Instant::now();
    let answer = puppet(&place, json!([act]));
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(answer["failure"].is_string() && message.contains(expected), "{act}: {answer}");
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
}

#[test]
fn fuel_memory_and_handles_are_bounded() {
    stopped("fuel = 100_000_000", json!("spin"), "100000000 units of fuel");
    stopped("memory = \"32MiB\"", json!({ "allocate": 100 << 20 }), "33554432 bytes");
    stopped("", json!({ "hold": 5_000 }), "handles");
    stopped("", json!({ "panic": "no good" }), "no good");
    stopped("", json!({ "exit": 7 }), "the plugin exited");
}

/// Neighbours go on beside a plugin that computes for ever.
#[test]
fn a_spinning_plugin_starves_nobody() {
    let place = Place::new();
    grant(&place, "fuel = 1_000_000_000_000");
    let spin = json!({ "prompt": "s", "providers": ["puppet"], "options": { "do": ["spin"] },
                       "limits": { "attempt": 4_000 }, "retry": { "max_attempts": 1 } });
    let calls: Vec<_> = (0..4).map(|_| json!({ "agent_with": spin })).collect();
    let input = json!({ "do": [{ "parallel": calls }] });
    let config = place.path("wfhost.toml").display().to_string();
    let begin = Instant::now();
    let ran =
        place.run(["run", &module("probe"), "-i", &input.to_string(), "--id", "r", "--config", &config]);
    let text = ran.stdout();
    assert!(text.matches("timed-out").count() == 4, "{text} {}", ran.stderr());
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// What is shown has an end.
#[test]
fn a_flood_of_lines_is_cut() {
    let place = Place::new();
    grant(&place, "");
    let answer = puppet(&place, json!([{ "flood": 20_000 }]));
    assert!(answer["failure"].is_null(), "{answer}");
}

/// Nothing of an attempt is left for the next one.
#[test]
fn attempts_share_nothing() {
    let place = Place::new();
    grant(&place, "");
    let ways = json!([{ "by_attempt": [[{ "hold": 900 }, { "fail": { "kind": "failed", "message": "again" } }],
                                       [{ "hold": 900 }, "env"]] }]);
    let retry = json!({ "retry": { "max_attempts": 2, "initial": 1, "jitter": 0.0 } });
    let answer = gave(&run(&place, &acts(ways, retry)));
    assert_eq!(answer["output"], json!([900, {}]), "{answer}");
}

/// What it imports tells what it is.
#[test]
fn a_component_that_imports_anything_else_is_refused() {
    let place = Place::new();
    let text = "(component (import \"acme:db/sql\" (instance)) (instance $i) (export \"wfhost:plugin/agent@0.1.0\" (instance $i)))";
    let file = place.file("odd.wasm", wat::parse_str(text).expect("valid text"));
    place.file("wfhost.toml", format!("[providers.puppet]\nkind = \"plugin\"\nplugin = {file:?}\n"));
    let answer = puppet(&place, json!([]));
    assert!(answer["message"].as_str().unwrap().contains("WF1204"), "{answer}");
    let text = "(component (instance $i) (export \"wfhost:plugin/agent@0.1.0\" (instance $i)))";
    let file = place.file("empty.wasm", wat::parse_str(text).expect("valid text"));
    place.file("wfhost.toml", format!("[providers.puppet]\nkind = \"plugin\"\nplugin = {file:?}\n"));
    let config = place.path("wfhost.toml").display().to_string();
    let input = acts(json!([]), json!({})).to_string();
    let ran: Ran = place.run(["run", &module("probe"), "-i", &input, "--id", "s", "--config", &config]);
    assert!(gave(&ran)["message"].as_str().unwrap().contains("WF1205"), "{}", ran.stdout());
}
