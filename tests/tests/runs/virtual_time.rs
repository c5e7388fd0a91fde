//! `wfhost run --virtual-time`: waits are skipped, and everything else is as it is.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, module, time_between};

fn run(place: &Place, program: &Value, more: &[&str]) -> wfhost_tests::Ran {
    let input = json!({ "do": program }).to_string();
    let probe = module("probe");
    let args = ["run", &probe, "-i", &input, "--id", "r", "--virtual-time", "--agent", "echo"];
    place.run(args.iter().chain(more))
}

/// How long the run took by its journal, in whole days.
fn days(place: &Place, run: &str) -> u64 {
    let shown = place.show(run);
    time_between(&shown["created_at"], &shown["updated_at"]).as_secs() / (DAY_MS / 1_000)
}

const DAY_MS: u64 = 24 * 3_600_000;

#[test]
fn a_week_is_skipped_and_a_replay_agrees() {
    let place = Place::in_file();
    let program = json!([
        { "agent": "before" },
        { "sleep": 7 * DAY_MS },
        { "agent": "after" },
    ]);
    let ran = run(&place, &program, &[]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!((6..=8).contains(&days(&place, "r")), "{}", place.show("r"));
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
    let shown = place.run(["show", "r"]).stdout();
    assert!(shown.contains("time      virtual"), "{shown}");
    assert_eq!(place.show("r")["labels"]["time"], "virtual");
}

#[test]
fn a_signal_comes_when_its_virtual_time_has_come() {
    let place = Place::in_file();
    let wait = json!([{ "wait": { "name": "approve", "timeout_ms": 7 * DAY_MS } }]);
    let ran = run(&place, &wait, &["--signal", r#"approve={"ok":true}@3d"#]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!((2..=4).contains(&days(&place, "r")), "{}", place.show("r"));
    let received = place.journal("r").iter().any(|entry| entry["signal"] == "approve");
    assert!(received);
    // One that comes after the deadline finds that nobody waits.
    let late = Place::in_file();
    let ran = run(&late, &wait, &["--signal", "approve@8d"]);
    assert!((6..=8).contains(&days(&late, "r")), "{}{}", ran.stderr(), late.show("r"));
}

/// A parent that would only wait does not skip over what its child does.
#[test]
fn time_is_not_skipped_while_somebody_works() {
    let place = Place::in_file();
    let slow = place.script(json!({ "default": { "reply": "${prompt}", "delay_ms": 700 } }));
    let input = json!({ "do": [{ "race": [{ "agent": "work" }, { "sleep": 3_600_000 }] }] }).to_string();
    let probe = module("probe");
    let args = ["run", &probe, "-i", &input, "--id", "r", "--virtual-time", "--agents", &slow];
    let ran = place.run(args);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!(ran.stdout().contains("work"), "the sleep won: {}", ran.stdout());
    assert_eq!(days(&place, "r"), 0);
}

#[test]
fn delays_before_another_attempt_are_skipped() {
    let place = Place::in_file();
    let flaky = place.script(json!({
        "rules": [{ "match": "x", "fail": { "kind": "unavailable", "times": 2, "message": "busy" }, "reply": "at last" }],
    }));
    let retry = json!({ "max_attempts": 3, "initial": DAY_MS, "factor": 1.0, "max": DAY_MS, "jitter": 0.0 });
    let program = json!({ "do": [{ "agent_with": { "prompt": "x", "retry": retry } }] });
    let probe = module("probe");
    let input = program.to_string();
    let ran = place.run(["run", &probe, "-i", &input, "--id", "r", "--virtual-time", "--agents", &flaky]);
    assert_eq!(ran.code(), Some(0), "{}{}", ran.stderr(), ran.stdout());
    assert!((1..=3).contains(&days(&place, "r")), "{}", place.show("r"));
}

/// Parents wait for their children, whose time is skipped for both.
#[test]
fn children_and_later_rounds_have_the_same_time() {
    let place = Place::in_file();
    let child = json!({ "do": [{ "sleep": 2 * DAY_MS }, { "agent": "x" }, { "sleep": 2 * DAY_MS }] });
    let program = json!([
        { "each": [
            { "child": { "module": "probe", "input": child, "id": "c" } },
            { "sleep": DAY_MS },
        ] },
    ]);
    let ran = run(&place, &program, &[]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!((3..=5).contains(&days(&place, "c")), "{}", place.show("c"));
    assert!((4..=6).contains(&days(&place, "r")), "{}", place.show("r"));
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
}

/// What was left in the middle goes on in real time, from where it was.
#[test]
fn a_run_that_was_killed_goes_on() {
    let place = Place::in_file();
    let slow = place.script(json!({ "rules": [{ "match": "slow", "reply": "late", "delay_ms": 60_000 }], "default": { "reply": "ok" } }));
    let quick = place.file("quick.json", r#"{ "default": { "reply": "ok" } }"#);
    let input = json!({ "do": [{ "sleep": 3 * DAY_MS }, { "agent": "slow" }, { "sleep": 10 }] }).to_string();
    let probe = module("probe");
    let mut child =
        place.spawn(["run", &probe, "-i", &input, "--id", "r", "--virtual-time", "--agents", &slow]);
    eventually("the call begins", || (!place.calls().is_empty()).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = place.run(["resume", "r", "--agents", &quick]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    assert_eq!(place.run(["replay", "r"]).code(), Some(0));
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn it_is_refused_where_it_makes_no_sense() {
    let place = Place::in_file();
    let probe = module("probe");
    let refused = |args: &[&str]| {
        let ran = place.run([&["run", probe.as_str(), "--virtual-time"], args].concat());
        ran.error(2, &place)
    };
    assert!(refused(&["--db", "postgres://localhost/x"]).contains("WF0829"));
    assert!(refused(&["--label", "time=real"]).contains("WF0829"));
    assert!(refused(&["-d"]).contains("cannot be used with"));
    assert!(refused(&["--signal", "approve"]).contains("NAME=JSON@3d"));
    assert!(!place.has_begun(), "nothing was begun");
}
