//! Agent plugins: components that answer the calls of workflows, through the real binary. The plugin is the
//! puppet (`tests/guests/puppet`), which does what the call's options say; servers are on this machine.

mod calls;
#[allow(clippy::duplicate_mod, reason = "the same with a plugin in another language")]
#[path = "calls.rs"]
mod calls_go;
mod certificates;
mod examples;
mod hostile;
#[allow(clippy::duplicate_mod, reason = "the same by another interface")]
#[path = "hostile.rs"]
mod hostile_own;
mod limits;
mod policy;
#[allow(dead_code, reason = "the tests of other providers use all of it")]
#[path = "../agents/server.rs"]
mod server;
mod tls;
mod tools;

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

/// Writes a `wfhost.toml` with the puppet, and what the test adds to its section.
fn grant(place: &Place, more: &str) {
    grant_of(place, &module("puppet"), more);
}

/// The same with another component as the puppet.
fn grant_of(place: &Place, file: &str, more: &str) {
    place.file("wfhost.toml", format!("[providers.puppet]\nkind = \"plugin\"\nplugin = {file:?}\n{more}\n"));
}

/// The grant of an address.
fn http(url: &str, methods: &[&str], more: &str) -> String {
    format!("[[providers.puppet.http]]\nurl = {url:?}\nmethods = {methods:?}\n{more}\n")
}

/// The input of a probe that calls the puppet once, with members of the request besides.
fn acts(acts: Value, more: Value) -> Value {
    let mut request = json!({ "prompt": "p", "providers": ["puppet"], "options": { "do": acts } });
    for (name, value) in more.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    json!({ "do": [{ "agent_with": request }] })
}

fn args(place: &Place, input: &Value) -> Vec<String> {
    let config = place.path("wfhost.toml").display().to_string();
    ["run", &module("probe"), "-i", &input.to_string(), "--id", "r", "--config", &config]
        .map(str::to_owned)
        .to_vec()
}

fn run(place: &Place, input: &Value) -> Ran {
    place.run(args(place, input))
}

/// What the only operation of the probe gave.
#[track_caller]
fn gave(ran: &Ran) -> Value {
    ran.ok_json()[0].clone()
}

/// Calls the puppet once, without another attempt.
fn puppet(place: &Place, what: Value) -> Value {
    gave(&run(place, &acts(what, json!({ "retry": { "max_attempts": 1 } }))))
}

/// What the first act of the puppet gave.
fn first(place: &Place, what: Value) -> Value {
    let answer = puppet(place, json!([what]));
    assert!(answer["failure"].is_null(), "{answer}");
    answer["output"][0].clone()
}

/// What people were shown of the only step.
fn shown(place: &Place) -> String {
    place.run(["transcript", "r", "1"]).stdout()
}

/// The entries of the run of one kind.
fn entries(place: &Place, kind: &str) -> Vec<Value> {
    place.journal("r").into_iter().filter(|entry| entry["kind"] == kind).collect()
}
