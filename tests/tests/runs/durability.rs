//! What survives what: the behaviours of journals, crashes, time and signals,
//! each by the real binary and a real database.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish, module, time_between};

/// Begins a program of the probe and gives the process.
fn begin(place: &Place, id: &str, program: &Value, more: &[&str]) -> std::process::Child {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    place.spawn(args)
}

fn kill(mut child: std::process::Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn six_steps_killed_after_the_third_execute_the_other_three_only() {
    let place = Place::new();
    let slow = json!({ "match": "^four$", "reply": "4", "delay_ms": 60_000 });
    let script = place.script(json!({ "rules": [slow], "default": { "reply": "${prompt}" } }));
    let steps: Vec<_> =
        ["one", "two", "three", "four", "five", "six"].map(|prompt| json!({ "agent": prompt })).to_vec();
    let child = begin(&place, "r", &json!(steps), &["--agents", &script]);
    eventually("the fourth call", || (place.calls().len() == 4).then_some(()));
    kill(child);
    let done = place.journal("r").iter().filter(|entry| entry["kind"] == "completed").count();
    assert_eq!(done, 3);
    // The run keeps its rules: others have to be named.
    let quick = place.script(json!({ "default": { "reply": "${prompt}" } }));
    assert_eq!(
        place.run(["resume", "r", "--agents", &quick]).ok_json(),
        json!(["one", "two", "three", "four", "five", "six"])
    );
    let prompts: Vec<_> =
        place.calls().iter().map(|call| call["prompt"].as_str().unwrap().to_owned()).collect();
    assert_eq!(prompts, ["one", "two", "three", "four", "four", "five", "six"]);
    // The one in flight is repeated with the same key, as attempt 2.
    let fours: Vec<_> = place.calls().into_iter().filter(|call| call["prompt"] == "four").collect();
    assert_eq!(fours[0]["key"], fours[1]["key"]);
    assert_eq!((&fours[0]["attempt"], &fours[1]["attempt"]), (&json!(1), &json!(2)));
    // And never again.
    place.run(["resume", "r"]);
    assert_eq!(place.calls().len(), 7);
}

#[test]
fn identical_concurrent_calls_keep_their_answers_on_replay() {
    let place = Place::new();
    let script = place.script(json!({ "rules": [
        { "match": "same", "replies": ["first", "second", "third"], "delay_ms": 5 },
    ], "default": { "reply": "late" } }));
    let same = json!({ "agent": "same" });
    let program = json!([{ "parallel": [same, same, same] }, { "wait": { "name": "go" } }]);
    let child = begin(&place, "r", &program, &["--agents", &script]);
    eventually("the wait", || (place.journal("r").len() >= 8).then_some(()));
    kill(child);
    let before: Vec<_> = place.show("r")["steps"].as_array().unwrap()[..3]
        .iter()
        .map(|step| step["output"]["output"].clone())
        .collect();
    place.run(["signal", "r", "go"]);
    let output = place.run(["resume", "r"]).ok_json();
    assert_eq!(output[0], json!(before));
    assert_eq!(place.calls().len(), 3);
}

#[test]
fn replaying_needs_no_provider() {
    let place = Place::new();
    let script = place.script(json!({ "rules": [{ "match": "x", "replies": [1, 2, 3] }] }));
    // The same call in a loop gets a fresh answer each time, live.
    let program = json!([{ "agent": "x" }, { "agent": "x" }, { "agent": "x" }, { "wait": { "name": "go" } }]);
    let child = begin(&place, "r", &program, &["--agents", &script]);
    eventually("the wait", || (place.journal("r").len() >= 8).then_some(()));
    kill(child);
    std::fs::remove_file(&script).unwrap();
    place.run(["signal", "r", "go", "-i", "\"went\""]);
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!(["1", "2", "3", "went"]));
    assert_eq!(place.calls().len(), 3);
}

#[test]
fn bytes_grow_linearly_and_a_serial_run_makes_one_commit_a_step() {
    let bytes = |steps: u64| {
        let place = Place::new();
        place
            .run([
                "run",
                &module("counter"),
                "-i",
                &json!({ "steps": steps }).to_string(),
                "--agent",
                "echo",
                "--id",
                "r",
            ])
            .ok_json();
        let found = place.query(
            "SELECT sum(length(body) + 32), count(*) FROM commits",
            "SELECT sum(length(body) + 32), count(*) FROM journal",
        );
        let (bytes, rows) = found.split_once('|').unwrap();
        (bytes.parse::<i64>().unwrap(), rows.parse::<i64>().unwrap())
    };
    let (small, rows) = bytes(500);
    // The first entry, one row for each step, the end.
    assert_eq!(rows, 502);
    let (large, _) = bytes(1_000);
    let ratio = large as f64 / small as f64;
    assert!((1.9..2.1).contains(&ratio), "{small} {large}");
}

#[test]
fn a_kill_at_any_commit_loses_nothing_and_repeats_at_most_what_was_in_flight() {
    let input = json!({ "topic": "bees", "sections": 2, "approval_timeout_s": 0 }).to_string();
    let script = json!({ "rules": [{ "match": "review round 2", "reply": "ok" }], "default": { "reply": "${prompt}" } });
    let reference = Place::new();
    let agents = reference.script(script.clone());
    let expected =
        reference.run(["run", &module("research"), "-i", &input, "--agents", &agents, "--id", "r"]).ok_json();
    let commits = reference.run(["journal", "r", "-o", "json"]).ok_json();
    let calls = reference.calls().len();
    assert!(commits["entries"].as_array().unwrap().len() > 10);
    let mut killed = 0;
    for point in ["before", "after"] {
        for number in 1..40 {
            let place = Place::new();
            let agents = place.script(script.clone());
            let args = ["run", &module("research"), "-i", &input, "--agents", &agents, "--id", "r"];
            let ran = place
                .wfhost(args)
                .env("WFHOST_ABORT_AT", format!("{point}-commit:{number}"))
                .output()
                .unwrap();
            if ran.status.success() {
                break;
            }
            killed += 1;
            let exists = place.run(["show", "r"]).code() == Some(0);
            let output = if exists { place.run(["resume", "r"]) } else { place.run(args) };
            assert_eq!(output.ok_json(), expected, "{point} commit {number}");
            let mut keys: BTreeMap<String, u64> = BTreeMap::new();
            for call in place.calls() {
                *keys.entry(call["key"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            assert_eq!(keys.len(), calls, "{point} commit {number}");
            assert!(keys.values().all(|&count| count <= 2), "{point} commit {number}: {keys:?}");
            let journal = place.journal("r");
            let completed = journal.iter().filter(|entry| entry["kind"] == "completed").count();
            // The calls, and the approval that timed out.
            assert_eq!(completed, calls + 1, "{point} commit {number}");
        }
    }
    assert!(killed >= 12, "killed {killed} times only");
}

#[test]
fn of_eight_processes_one_advances_the_run() {
    let place = Place::new();
    let config = place.held();
    let child = begin(&place, "r", &json!([{ "agent": "x" }]), &["--config", &config, "--agent", "held"]);
    eventually("the call", || (place.held_calls() == 1).then_some(()));
    kill(child);
    let mut racing: Vec<_> = (0..8).map(|_| place.spawn(["resume", "r", "--config", &config])).collect();
    // The call of the one that has it ends when the others have been refused.
    let winner = eventually("seven are refused", || {
        let ended: Vec<_> = racing.iter_mut().map(|child| child.try_wait().unwrap()).collect();
        let alive = ended.iter().position(Option::is_none);
        (ended.iter().filter(|status| status.is_some()).count() == 7).then_some(alive).flatten()
    });
    eventually("the call", || (place.held_calls() == 2).then_some(()));
    place.let_go();
    let winner = racing.remove(winner);
    assert_eq!(finish(winner).ok_json(), json!(["x"]));
    let codes: Vec<_> = racing.into_iter().map(|child| finish(child).code()).collect();
    assert_eq!(codes, [Some(6); 7]);
    assert_eq!(place.held_calls(), 2);
}

#[test]
fn six_runs_share_a_database() {
    let place = Place::new();
    let children: Vec<_> = (0..6)
        .map(|n| {
            let program =
                json!([{ "repeat": { "times": 20, "operation": { "agent": "x" } } }, { "sleep": 50 * n }]);
            begin(&place, &format!("r{n}"), &program, &["--agent", "echo"])
        })
        .collect();
    for child in children {
        let ran = finish(child);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        assert!(!ran.stderr().contains("locked"));
    }
}

#[test]
fn sleeps_of_nothing_end_at_once() {
    let place = Place::new();
    let child = begin(&place, "r", &json!([{ "sleep": 0 }, { "sleep": 5 }]), &[]);
    assert_eq!(finish(child).ok_json(), json!([null, null]));
    assert_eq!(place.show("r")["steps"].as_array().unwrap().len(), 2);
}

#[test]
fn a_killed_sleep_keeps_its_deadline() {
    let place = Place::new();
    let child = begin(&place, "r", &json!([{ "sleep": 3_000 }]), &[]);
    eventually("the sleep", || (place.journal("r").len() >= 2).then_some(()));
    kill(child);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([null]));
    // Not three seconds from the resume.
    let step = &place.show("r")["steps"][0];
    let took = time_between(&step["started_at"], &step["finished_at"]);
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn parallel_sleeps_wake_in_the_order_of_their_deadlines() {
    for evict in ["auto", "always"] {
        let place = Place::new();
        let program = json!([{ "race": [{ "sleep": 60_000 }, { "sleep": 40 }] }, { "race": [{ "sleep": 30 }, { "sleep": 90_000 }] }]);
        let child = begin(&place, "r", &program, &["--evict", evict]);
        assert_eq!(finish(child).ok_json(), json!([[1, null], [0, null]]), "{evict}");
        let cancelled = place.journal("r").iter().filter(|entry| entry["kind"] == "cancelled").count();
        assert_eq!(cancelled, 2);
    }
}

#[test]
fn early_signals_are_kept_in_order_and_delivered_once() {
    let place = Place::new();
    let wait = json!({ "wait": { "name": "n" } });
    let program = json!([{ "wait": { "name": "go" } }, wait, wait, { "wait": { "name": "n", "timeout_ms": 50 } }, wait]);
    assert_eq!(finish(begin(&place, "r", &program, &["--no-wait"])).code(), Some(3));
    for (value, id) in [("1", "a"), ("2", "b"), ("1", "a")] {
        assert_eq!(place.run(["signal", "r", "n", "-i", value, "--id", id]).code(), Some(0));
    }
    // A wrong name wakes nobody.
    place.run(["signal", "r", "other"]);
    assert_eq!(place.run(["resume", "r", "--no-wait"]).code(), Some(3));
    let child = place.spawn(["resume", "r"]);
    // Signals from another process are noticed by the one that waits.
    place.run(["signal", "r", "go", "-i", "true"]);
    let timed_out = eventually("the timeout", || {
        let steps = place.show("r")["steps"].clone();
        (steps[3]["state"] == "failed").then(|| steps[3]["failure"]["kind"].clone())
    });
    // And a signal after the deadline stays for the next wait.
    assert_eq!(timed_out, "timed-out");
    place.run(["signal", "r", "n", "-i", "3"]);
    let output = finish(child).ok_json();
    assert_eq!(
        (&output[0], &output[1], &output[2], &output[4]),
        (&json!(true), &json!(1), &json!(2), &json!(3))
    );
}

#[test]
fn several_waits_for_one_name_are_served_in_their_order() {
    let place = Place::new();
    let program = json!([{ "wait_many": { "name": "n", "count": 3 } }]);
    assert_eq!(finish(begin(&place, "r", &program, &["--no-wait", "-q"])).code(), Some(3));
    for value in ["1", "2", "3"] {
        place.run(["signal", "r", "n", "-i", value]);
    }
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([[1, 2, 3]]));
}

#[test]
fn a_run_sends_signals_to_another() {
    let place = Place::new();
    assert_eq!(
        finish(begin(&place, "to", &json!([{ "wait": { "name": "n" } }]), &["--no-wait"])).code(),
        Some(3)
    );
    let send = |run: &str| json!({ "send": { "run": run, "name": "n", "payload": 5 } });
    let sent = finish(begin(&place, "from", &json!([send("to"), send("nobody")]), &[])).ok_json();
    assert_eq!((&sent[0], &sent[1]["failure"]), (&Value::Null, &json!("rejected")));
    assert_eq!(place.run(["resume", "to"]).ok_json(), json!([5]));
}

#[test]
fn parallel_calls_overlap_and_give_their_answers_in_order() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}", "delay_ms": 300 } }));
    let calls: Vec<_> = (0..20).map(|n| json!({ "agent": n.to_string() })).collect();
    let child = begin(&place, "r", &json!([{ "parallel": calls }]), &["--agents", &script]);
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(finish(child).ok_json(), json!([expected]));
    // One after the other they would take 6 seconds: all begin before the first ends.
    let journal = place.journal("r");
    let first_end = journal.iter().position(|entry| entry["kind"] == "completed").unwrap();
    assert!(journal[..first_end].iter().filter(|entry| entry["kind"] == "scheduled").count() == 20);
}

#[test]
fn every_execution_observes_the_same() {
    let place = Place::new();
    let program = json!([
        "observe", { "sleep": 5 }, { "parallel": ["observe", { "sleep": 3 }, "observe"] }, "observe",
        { "race": [{ "sleep": 4 }, { "sleep": 5_000 }] }, "observe", { "sleep": 1 }, "observe",
    ]);
    // Evicted at each wait the program is executed again from its beginning five times; whatever
    // differed would differ in a prompt, and that is a mismatch.
    let child = begin(&place, "r", &program, &["--agent", "echo", "--evict", "always"]);
    let ran = finish(child);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
}

#[test]
fn logs_and_published_state_appear_once_however_often_the_program_is_replayed() {
    let place = Place::new();
    let program = json!([
        { "log": "one" }, { "sleep": 5 }, { "log": "two" }, { "publish": { "key": "k", "value": 1 } },
        { "sleep": 5 }, { "publish": { "key": "k", "value": 2 } }, { "log": "three" }, { "wait": { "name": "go" } },
    ]);
    assert_eq!(finish(begin(&place, "r", &program, &["--evict", "always", "--no-wait"])).code(), Some(3));
    place.run(["signal", "r", "go"]);
    place.run(["resume", "r"]).ok_json();
    let logs = place.run(["logs", "r"]).stdout();
    let words: Vec<_> =
        logs.lines().map(|line| line.split("  ").nth(2).unwrap_or_default().trim().to_owned()).collect();
    assert_eq!(words.len(), 3, "{logs}");
    assert!(logs.contains("one") && logs.contains("two") && logs.contains("three"), "{logs}");
    assert_eq!(place.show("r")["published"], json!({ "k": 2 }));
}

#[test]
fn patched_is_remembered() {
    let place = Place::new();
    let program = json!([{ "patched": "new" }, { "wait": { "name": "go" } }, { "patched": "new" }, { "patched": "newer" }]);
    assert_eq!(finish(begin(&place, "r", &program, &["--no-wait"])).code(), Some(3));
    place.run(["signal", "r", "go"]);
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([true, null, true, true]));
}

#[test]
fn a_parked_sleep_is_ended_by_a_later_process() {
    let place = Place::new();
    let child =
        begin(&place, "r", &json!([{ "sleep": 4_000 }, { "agent": "x" }]), &["--no-wait", "--agent", "echo"]);
    // No process is left; the row says until when it waits.
    assert_eq!(finish(child).code(), Some(3));
    assert_eq!(place.show("r")["state"], "waiting");
    assert_eq!(place.show("r")["waiting_for"][0]["kind"], "time");
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([null, "x"]));
}

#[test]
fn a_damaged_or_foreign_artifact_in_the_cache_is_compiled_anew() {
    let place = Place::new();
    let cache = place.path("cache");
    let run = || {
        let args = ["run", &module("hello"), "--agent", "echo", "--synchronous", "normal"];
        let output = place.wfhost(args).env("WFHOST_CACHE", &cache).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run();
    let artifact = || {
        let entries = std::fs::read_dir(cache.join("components")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "bin")).collect::<Vec<_>>()
    };
    let [path] = &artifact()[..] else { panic!("one artifact") };
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, &bytes).unwrap();
    run();
    // It was replaced by a sound one.
    assert_ne!(std::fs::read(path).unwrap()[middle], bytes[middle]);
    std::fs::write(path, b"short").unwrap();
    run();
}
