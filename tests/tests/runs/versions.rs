//! New versions of a workflow that are broken, or say more or less than the one before: no run is
//! lost, no message is lost or doubled, and nobody is told that it agrees when it does not.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish, module, version};

/// How a broken version ends before it comes to what the run waits for, and what is said of it.
fn broken() -> [(&'static str, Value, &'static str); 5] {
    [
        ("panics at once", json!([{"panic": "boom"}]), "boom"),
        ("traps after a step", json!([{"agent": "one"}, "trap"]), "unreachable"),
        ("waits for nothing", json!([{"agent": "one"}, "deadlock"]), "waits for nothing"),
        ("returns early", json!([{"agent": "one"}, "return"]), "return"),
        ("reaches a limit", json!([{"agent": "one"}, {"allocate": 1_000_000_000}]), "memory"),
    ]
}

/// Begins a run of version 0, up to where it waits. Gives the script of its agents.
fn begin(place: &Place, input: &Value, evict: &str) -> String {
    let script = place.script(json!({ "default": { "reply": "${prompt}!" } }));
    let mut run = place.wfhost(["run", &version(place, 0), "--id", "r", "--no-wait", "--agents", &script]);
    let ran = run.args(["-i", &input.to_string()]).env("WFHOST_EVICT", evict).output().unwrap();
    assert_eq!(ran.status.code(), Some(3), "{}", String::from_utf8_lossy(&ran.stderr));
    script
}

/// Begins a run of version 0 that asks `one` and `two`, posts a message and waits for the signal `go`.
fn waiting(place: &Place, other: &Value, evict: &str) -> String {
    let right = json!([{"agent": "one"}, {"agent": "two"}]);
    let input = json!({"do": [
        {"by_version": [right, other]},
        {"post": {"name": "news", "payload": 1}},
        {"wait": {"name": "go"}},
        {"agent": "three"},
    ]});
    begin(place, &input, evict)
}

/// The run goes on with the code that it began with.
fn goes_on(place: &Place, script: &str) {
    assert_eq!(place.run(["signal", "r", "go"]).code(), Some(0));
    let result = place.run(["resume", "r", "--agents", script]).ok_json();
    assert_eq!(result.as_array().and_then(|all| all.last()), Some(&json!("three!")));
    let prompts: Vec<_> = place.calls().iter().map(|call| call["prompt"].clone()).collect();
    assert_eq!(prompts, ["one", "two", "three"]);
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn a_broken_version_is_refused_everywhere_and_the_run_stays_where_it_is() {
    for (what, other, says) in broken() {
        let place = Place::new();
        let script = waiting(&place, &other, "auto");
        let journal = place.journal("r");
        let new = version(&place, 1);
        for command in [
            vec!["check", &new, "--replay", "r"],
            vec!["resume", "r", "--module", &new],
            vec!["upgrade", "r", "--module", &new],
            vec!["fork", "r", "--module", &new, "--id", "f"],
        ] {
            let refused = place.run(&command);
            let said = refused.stdout() + &refused.stderr();
            assert_eq!(refused.code(), Some(5), "{what}: {command:?}: {said}");
            assert!(said.contains(says), "{what}: {command:?}: {said}");
            assert_eq!(place.journal("r"), journal, "{what}: {command:?}");
            assert_eq!(place.show("r")["state"], "waiting", "{what}: {command:?}");
        }
        goes_on(&place, &script);
    }
}

#[test]
fn a_version_that_breaks_where_the_run_waits_is_not_moved_to() {
    let place = Place::new();
    let input = json!({"do": [{"agent": "one"}, {"by_version": [[{"wait": {"name": "go"}}], [{"panic": "boom"}]]}, {"agent": "two"}]});
    let script = begin(&place, &input, "auto");
    let moved = place.run(["upgrade", "r", "--module", &version(&place, 1)]);
    assert_eq!(moved.code(), Some(5), "{}{}", moved.stdout(), moved.stderr());
    assert_eq!(place.run(["signal", "r", "go"]).code(), Some(0));
    let result = place.run(["resume", "r", "--agents", &script]).ok_json();
    assert_eq!(result, json!(["one!", null, "two!"]));
}

#[test]
fn a_run_that_waits_and_is_moved_to_code_that_does_not_goes_on() {
    let place = Place::new();
    let wait = json!({"wait": {"name": "go"}});
    let versions = json!({"by_version": [[wait], [{"race": [wait, {"sleep": 50}]}]]});
    let script = begin(&place, &json!({"do": [{"agent": "one"}, versions, {"agent": "two"}]}), "auto");
    let moved = place.run(["upgrade", "r", "--module", &version(&place, 1)]);
    assert_eq!(moved.code(), Some(0), "{}{}", moved.stdout(), moved.stderr());
    assert_eq!(place.run(["serve", "--idle", "300ms", "--agents", &script]).code(), Some(0));
    assert_eq!(place.show("r")["output"], json!(["one!", [1, null], "two!"]));
}

#[test]
fn a_run_that_waits_and_is_moved_to_code_that_does_so_too_stays_as_it_is() {
    let place = Place::new();
    let wait = json!({"wait": {"name": "go"}});
    let versions = json!({"by_version": [[wait, {"agent": "two"}], [wait, {"agent": "three"}]]});
    begin(&place, &json!({"do": [{"agent": "one"}, versions]}), "auto");
    let moved = place.run(["upgrade", "r", "--module", &version(&place, 1)]);
    assert_eq!(moved.code(), Some(0), "{}{}", moved.stdout(), moved.stderr());
    assert_eq!(place.show("r")["state"], "waiting");
}

/// The messages that outsiders read.
fn messages(place: &Place) -> Vec<Value> {
    let ran = place.run(["messages", "r", "-o", "jsonl"]);
    ran.stdout().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"].clone()).collect()
}

#[test]
fn code_that_logs_more_or_less_loses_and_doubles_no_message() {
    let lines = |count: usize| -> Value { (0..count).map(|n| json!({"log": format!("line {n}")})).collect() };
    for evict in ["auto", "always"] {
        for (old, new) in [(0, 1), (1, 0), (1, 3), (3, 1)] {
            let place = Place::new();
            let by_version = json!({"by_version": [lines(old), lines(new)]});
            let input = json!({"do": [
                by_version, {"post": {"name": "news", "payload": 1}},
                {"agent": "one"},
                by_version, {"post": {"name": "news", "payload": 2}},
                {"wait": {"name": "go"}},
                by_version, {"post": {"name": "news", "payload": 3}},
                {"agent": "two"},
                {"post": {"name": "news", "payload": 4}},
                {"wait": {"name": "end"}},
            ]});
            let run = |args: &[&str]| {
                let ran = place.wfhost(args).env("WFHOST_EVICT", evict).output().unwrap();
                (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
            };
            let script = begin(&place, &input, evict);
            assert_eq!(messages(&place), [1, 2]);
            let moved = run(&["upgrade", "r", "--module", &version(&place, 1)]);
            assert_eq!(moved.0, Some(0), "{}", moved.1);
            run(&["signal", "r", "go"]);
            let waits = run(&["resume", "r", "--no-wait", "--agents", &script]);
            assert_eq!(waits.0, Some(3), "{}", waits.1);
            assert_eq!(messages(&place), [1, 2, 3, 4], "{old} lines, then {new}, evict={evict}");
            run(&["signal", "r", "end"]);
            let ended = run(&["resume", "r", "--agents", &script]);
            assert_eq!(ended.0, Some(0), "{}", ended.1);
            assert_eq!(messages(&place), [1, 2, 3, 4], "{old} lines, then {new}, evict={evict}");
        }
    }
}

#[test]
fn a_round_gets_the_signals_that_were_given_to_a_wait_which_its_program_did_not_read() {
    let place = Place::new();
    let script = place.script(json!({ "rules": [{ "match": "slow", "reply": "done", "delay_ms": 1500 }] }));
    let next = json!({"do": [{"wait": {"name": "stop"}}]});
    let input =
        json!({"do": [{"hold": {"wait": {"name": "stop"}}}, {"agent": "slow"}, {"continue_as_new": next}]});
    let running =
        place.spawn(["run", &module("probe"), "--id", "r", "--agents", &script, "-i", &input.to_string()]);
    eventually("the call", || (!place.calls().is_empty()).then_some(()));
    assert_eq!(place.run(["signal", "r", "stop", "-i", "7"]).code(), Some(0));
    let ran = finish(running);
    assert_eq!(ran.ok_json(), json!([7]), "{}", ran.stderr());
}

#[test]
fn a_fork_of_a_program_that_measures_time_agrees_with_what_it_takes_over() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}!", "delay_ms": 30 } }));
    let program = module("probe-wasi");
    let input = json!({"do": [{"agent": "one"}, "observe", {"measured_sleep": 20}, "observe", "info_all", {"agent": "two"}]});
    place.run(["run", &program, "--id", "r", "--agents", &script, "-i", &input.to_string()]).ok_json();
    let entries = place.journal("r").len();
    for at in 1..entries {
        let forked = place.run(["fork", "r", "--at", &at.to_string(), "--id", &format!("f{at}"), "-d"]);
        assert_eq!(forked.code(), Some(0), "at {at}: {}", forked.stderr());
    }
}

#[test]
fn a_graceful_stop_leaves_runs_where_the_next_host_takes_them_up_by_itself() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}!", "delay_ms": 700 } }));
    let input = json!({"do": [{"agent": "one"}, {"agent": "two"}]});
    for (nth, signal) in ["TERM", "INT"].into_iter().enumerate() {
        let id = format!("t{nth}");
        let begun = place.run([
            "run",
            &module("probe"),
            "-d",
            "--id",
            &id,
            "--agents",
            &script,
            "-i",
            &input.to_string(),
        ]);
        assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
        let before = place.calls().len();
        let server = place.spawn(["serve"]);
        eventually("a call", || (place.calls().len() > before).then_some(()));
        std::process::Command::new("kill").args(["-s", signal, &server.id().to_string()]).status().unwrap();
        finish(server);
        let server = place.spawn(["serve"]);
        eventually("its end", || (place.show(&id)["state"] == "completed").then_some(()));
        std::process::Command::new("kill").args(["-s", "KILL", &server.id().to_string()]).status().unwrap();
        finish(server);
        assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
    }
}

#[test]
fn a_call_under_way_is_not_dropped_because_another_one_has_no_provider() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}!", "delay_ms": 1000 } }));
    let input = json!({"do": [{"parallel": [
        {"agent": "paid"},
        {"each": [{"sleep": 100}, {"agent_of": {"provider": "nobody", "prompt": "x"}}]},
    ]}]});
    let ran =
        place.run(["run", &module("probe"), "--id", "r", "--agents", &script, "-i", &input.to_string()]);
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    assert!(ran.stderr().contains("nobody"), "{}", ran.stderr());
    // Nothing is wrong with it, and it waits until some host has the provider and not until a time.
    let checked = place.run(["db", "check", "--deep"]);
    assert_eq!(checked.code(), Some(0), "{}", checked.stderr());
    assert!(!ran.stderr().contains(" until ") && !place.run(["why", "r"]).stdout().contains(" until "));
    let kinds = |place: &Place| -> Vec<String> {
        place.journal("r").iter().map(|entry| entry["kind"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let journal = place.journal("r");
    assert!(journal.iter().any(|entry| entry.to_string().contains("paid!")), "{journal:?}");
    // Hosts that have no such provider either write nothing.
    let before = kinds(&place);
    for _ in 0..3 {
        assert_eq!(place.run(["resume", "r", "--agents", &script]).code(), Some(4));
    }
    assert_eq!(kinds(&place), before);
    assert_eq!(place.calls().len(), 1, "the call that was answered is not made again");
}
