//! The command line beside a server: calls, ends of runs that others have, TLS.

use std::process::Command;

use serde_json::json;
use wfhost_tests::{Place, eventually};

use crate::client::{Server, add_probe, program};

/// Starts a run at the server, by its operations.
fn begin(server: &Server, id: &str, operations: &serde_json::Value) {
    let mut asked = program(operations);
    asked["id"] = id.into();
    server.post("/api/v1/runs", &asked);
}

#[test]
fn a_run_answers_calls_of_the_command_line() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    begin(&server, "r", &json!([{ "call": "status" }, { "call": "status" }, { "call": "status" }]));
    let called = place.run(["call", "r", "status", "-i", "{\"a\":1}", "--id", "first"]);
    assert_eq!(
        (called.code(), called.stdout().trim()),
        (Some(0), "{\"got\":{\"a\":1}}"),
        "{}",
        called.stderr()
    );
    // The same call again is not made twice.
    let again =
        place.run(["call", "r", "status", "-i", "{\"a\":1}", "--id", "first", "-o", "json"]).ok_json();
    assert_eq!(again, json!({ "schema": "wfhost/reply/1", "run": "r", "output": { "got": { "a": 1 } } }));
    let refused = place.run(["call", "r", "status", "-i", "\"no\""]).error(1, &place);
    assert!(refused.starts_with("error[WF0518]: r refused the call: it said no"), "{refused}");
    // What nobody takes stays open, and says how to ask again.
    let open = place.run(["call", "r", "other", "--id", "later", "--timeout", "50ms"]);
    assert!(open.stderr().contains("wfhost call r other --id later"), "{}", open.stderr());
    assert_eq!(open.code(), Some(3), "{}", open.stderr());
    assert_eq!(place.run(["call", "r", "status"]).code(), Some(0));
    eventually("it has ended", || (server.get("/api/v1/runs/r")["state"] == "completed").then_some(()));
    let ended = place.run(["call", "r", "status"]).error(2, &place);
    assert!(ended.starts_with("error[WF0502]"), "{ended}");
    assert!(place.run(["call", "r", ""]).error(2, &place).starts_with("error[WF0505]"));
}

#[test]
fn a_run_is_ended_although_another_process_has_it() {
    let place = Place::new();
    add_probe(&place);
    let script =
        place.script(json!({ "rules": [{ "match": "slow", "reply": "late", "delay_ms": 600_000 }] }));
    let server = Server::start_in(&place, &["--agents", &script], &[("WFHOST_LEASE_MS", "2000")]);
    begin(&server, "held", &json!([{ "agent_of": { "provider": "scripted", "prompt": "slow" } }]));
    begin(&server, "other", &json!([{ "agent_of": { "provider": "scripted", "prompt": "slow" } }]));
    eventually("both call", || (place.calls().len() == 2).then_some(()));
    let live = || server.try_ask("GET", "/readyz", &[], b"").unwrap().ok()["live"].clone();
    assert_eq!(live(), 2);
    let ended = place.run(["terminate", "held", "--reason", "enough"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr());
    let shown = place.show("held");
    assert_eq!(
        (&shown["state"], &shown["failure"]["message"]),
        (&json!("cancelled"), &json!("terminated: enough")),
        "{shown}"
    );
    // The server finds out, and goes on with the rest.
    eventually("the server leaves it", || (live() == 1).then_some(()));
    assert_eq!(place.show("other")["state"], "running");
    assert_eq!(
        place.run(["terminate", "held"]).error(2, &place).lines().next(),
        Some("error[WF0502]: held has ended")
    );
    assert_eq!(place.run(["terminate", "other"]).code(), Some(0));
    eventually("the server leaves that one, too", || (live() == 0).then_some(()));
    server.stop();
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
    assert_eq!(place.calls().len(), 2, "nobody is asked again");
}

#[test]
fn others_are_answered_through_tls() {
    let place = Place::new();
    let token = place.run(["token", "new", "ci", "--scope", "runs:read"]).stdout();
    let (certificate, key) = (place.path("cert.pem"), place.path("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let files = [certificate.to_str().unwrap(), key.to_str().unwrap()];
    let child =
        place.spawn(["serve", "--listen", "127.0.0.1:0", "--tls-cert", files[0], "--tls-key", files[1]]);
    let told = place.path(&format!("state/wfhost/servers/{}.json", child.id()));
    let url = eventually("the server tells where it is", || {
        let told: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&told).ok()?).ok()?;
        told["url"].as_str().map(str::to_owned)
    });
    let port = url.strip_prefix("https://127.0.0.1:").expect("it says that it is encrypted");
    let ask = |scheme: &str, more: &[&str]| {
        Command::new("curl")
            .args(["-sS", "--max-time", "30", "-H", &format!("Authorization: Bearer {}", token.trim())])
            .args(more)
            .arg(format!("{scheme}://localhost:{port}/api/v1/runs"))
            .output()
            .expect("curl is there")
    };
    let answer = eventually("it answers", || {
        let answer = ask("https", &["--cacert", files[0], "--fail"]);
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    });
    assert!(answer.contains("\"runs\":[]"), "{answer}");
    // Who does not know the certificate, or does not encrypt, learns nothing.
    assert_eq!(ask("https", &[]).status.code(), Some(60));
    assert!(!ask("http", &["--fail"]).status.success());
    assert!(!ask("https", &["--cacert", files[0], "--fail", "--tls-max", "1.1"]).status.success());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(wfhost_tests::finish(child).code(), Some(143));
}

/// Calls with the same id are the same call: one of another name is refused, and takes no reply of another.
#[test]
fn calls_have_ids_of_their_own() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let calls = json!([{ "call": "a:b" }, { "call": "a" }, { "wait": { "name": "go" } }]);
    begin(&server, "r", &calls);
    let reply = |name: &str, id: &str, input: &str| {
        place.run(["call", "r", name, "--id", id, "-i", input, "--timeout", "30s"])
    };
    let first = reply("a:b", "c", "1");
    assert_eq!((first.code(), first.stdout().trim()), (Some(0), r#"{"got":1}"#), "{}", first.stderr());
    let second = reply("a", "b:c", "2");
    assert_eq!((second.code(), second.stdout().trim()), (Some(0), r#"{"got":2}"#), "{}", second.stderr());
    // The same id is the same call, whatever else it is named.
    let error = reply("status", "c", "3").error(2, &place);
    assert!(error.starts_with("error[WF0519]: the id `c` is that of another call of r: `a:b`"), "{error}");
    let bearer = format!("Bearer {}", server.token);
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "c")];
    let refused = server.try_ask("POST", "/api/v1/runs/r/calls/status", &headers, b"3").expect("an answer");
    assert_eq!(refused.error(409), "WF0519");
    // A reply of an earlier round is found, too.
    let next = json!({ "do": [{ "wait": { "name": "go" } }] });
    begin(&server, "rounds", &json!([{ "call": "a" }, { "continue_as_new": next }]));
    let ask = || place.run(["call", "rounds", "a", "--id", "1", "-i", "4", "--timeout", "30s"]);
    assert_eq!(ask().ok_json(), json!({ "got": 4 }));
    eventually("it has gone on", || (place.show("rounds")["state"] == "continued").then_some(()));
    let again = place.run(["call", "rounds", "a", "--id", "1", "-i", "4", "--timeout", "2s"]);
    assert_eq!(again.ok_json(), json!({ "got": 4 }));
    // No id is an id, and a long name takes nothing from it.
    assert_eq!(place.run(["call", "r", "a", "--id", ""]).code(), Some(2));
    let long = place.run(["call", "r", &"n".repeat(200), "--id", &"i".repeat(200), "--timeout", "50ms"]);
    assert_eq!(long.code(), Some(3), "{}", long.stderr());
}
