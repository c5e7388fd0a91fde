//! Agents: the policy around calls, the providers, configuration. Through the
//! real binary, with a real database; models are servers on this machine that
//! speak the services' protocols, coding agents are programs that print what
//! the real ones print.

mod config;
mod crashes;
mod examples;
mod mcp;
mod models;
mod policy;
mod processes;
mod programs;
mod redteam;
mod reservations;
mod secrets;
mod server;

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

/// The input of a probe that asks once.
fn ask(request: Value) -> Value {
    json!({ "do": [{ "agent_with": request }] })
}

/// `wfhost run probe -i INPUT --id r ARGS`, with the place's `wfhost.toml` if it has one.
fn run(place: &Place, input: &Value, args: &[&str]) -> Ran {
    place.run(run_args(place, input, args))
}

fn run_args(place: &Place, input: &Value, args: &[&str]) -> Vec<String> {
    let mut all = vec!["run".to_owned(), module("probe"), "-i".to_owned(), input.to_string()];
    if !args.contains(&"--id") {
        all.extend(["--id".to_owned(), "r".to_owned()]);
    }
    all.extend(config_args(place));
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    all
}

fn config_args(place: &Place) -> Vec<String> {
    let config = place.path("wfhost.toml");
    match config.exists() {
        true => vec!["--config".to_owned(), config.display().to_string()],
        false => Vec::new(),
    }
}

/// `wfhost ARGS` with the place's configuration.
fn wfhost(place: &Place, args: &[&str]) -> Ran {
    let args = args.iter().map(|&arg| arg.to_owned()).chain(config_args(place));
    place.run(args.collect::<Vec<_>>())
}

/// Writes a program and gives its path.
fn program(place: &Place, name: &str, text: &str) -> String {
    let path = place.file(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a test's own file");
    path
}

/// A provider `agent` that is a shell script. It appends a line to `calls` for each call.
fn shell(place: &Place, format: &str, script: &str) {
    let calls = place.path("calls");
    let text = format!(
        "#!/bin/sh\necho \"$WFHOST_STEP $WFHOST_ATTEMPT $WFHOST_KEY\" >> {}\n{script}\n",
        calls.display()
    );
    let path = program(place, "agent.sh", &text);
    place.file(
        "wfhost.toml",
        format!("[providers.agent]\nkind = \"command\"\nargv = [{path:?}]\nformat = {format:?}\n"),
    );
}

/// The lines that the program of [`shell`] appended: step, attempt, key.
fn calls(place: &Place) -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(place.path("calls")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            std::array::from_fn(|_| words.next().unwrap_or_default())
        })
        .collect()
}

/// The only step of the run `r`.
fn step(place: &Place) -> Value {
    place.show("r")["steps"][0].clone()
}

/// The entries of the run `r` of one kind.
fn entries(place: &Place, kind: &str) -> Vec<Value> {
    place.journal("r").into_iter().filter(|entry| entry["kind"] == kind).collect()
}

/// What the only operation of the probe gave.
#[track_caller]
fn gave(ran: &Ran) -> Value {
    ran.ok_json()[0].clone()
}

/// Retries without a delay worth waiting for.
fn quick(attempts: u32) -> Value {
    json!({ "max_attempts": attempts, "initial": 5, "jitter": 0.0 })
}
