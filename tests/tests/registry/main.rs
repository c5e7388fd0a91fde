//! Modules that travel, by the real binary: over Debian's registry, and over one that does whatever a
//! registry should not do.

#[path = "../plugins/certificates.rs"]
mod certificates;
mod debian;
mod fake;
mod hostile;
mod killed;
mod plugins;
mod provenance;
mod signatures;
mod versions;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use wfhost_tests::{Place, Ran, module};

/// `wfhost ARGS` of somebody who is logged in nowhere.
pub fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = place.wfhost(args);
    command.env("DOCKER_CONFIG", place.path("docker")).env("XDG_RUNTIME_DIR", place.path("runtime"));
    command.env_remove("REGISTRY_AUTH_FILE").current_dir(place.path(""));
    command
}

pub fn run(place: &Place, args: &[&str]) -> Ran {
    Ran(command(place, args).output().expect("the binary starts"))
}

/// The same, which has to succeed.
#[track_caller]
pub fn ok(place: &Place, args: &[&str]) -> Ran {
    let ran = run(place, args);
    assert_eq!(ran.code(), Some(0), "{args:?}: {}{}", ran.stdout(), ran.stderr());
    ran
}

/// Runs it with something on stdin.
pub fn with_stdin(place: &Place, args: &[&str], stdin: &str) -> Ran {
    let mut command = command(place, args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    Ran(child.wait_with_output().unwrap())
}

/// Pushes the example `hello`, and gives the exact reference.
#[track_caller]
pub fn push(place: &Place, reference: &str) -> String {
    ok(place, &["push", reference, &module("hello")]).stdout().trim().to_owned()
}

/// Runs a module with the input of `hello`.
pub fn hello(place: &Place, reference: &str, more: &[&str]) -> Ran {
    let mut args = vec!["run", reference, "-i", r#"{"name":"Ada"}"#, "--agent", "echo"];
    args.extend(more);
    run(place, &args)
}

#[track_caller]
pub fn greets(ran: &Ran) {
    assert_eq!(ran.ok_json(), serde_json::json!({ "greeting": "greet Ada" }));
}

/// What the local store has, by `wfhost modules`.
pub fn kept(place: &Place) -> Vec<Value> {
    let ran = ok(place, &["modules", "-o", "jsonl"]);
    let lines = ran.stdout();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["schema"] == "wfhost/kept/1").collect()
}
