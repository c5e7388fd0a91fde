//! Looking after runs: by the real binary and a real database.

use std::time::Duration;

use serde_json::{Value, json};
use wfhost_core::TranscriptKind;
use wfhost_tests::{Place, Ran, eventually, finish, module, only_for_files};

fn run(place: &Place, id: &str, program: &Value, more: &[&str]) -> Ran {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    place.run(args)
}

fn spawn(place: &Place, id: &str, program: &Value, more: &[&str]) -> std::process::Child {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    place.spawn(args)
}

/// As if runs had ended an hour earlier.
fn age(place: &Place, names: &str) {
    place.change(
        &format!("UPDATE runs SET updated_at = updated_at - 3600000 WHERE name IN ({names})"),
        &format!(
            "UPDATE hot SET updated_at = updated_at - 3600000 FROM runs WHERE runs.run = hot.run AND name IN ({names})"
        ),
    );
}

#[test]
fn a_program_that_does_not_end_when_asked_is_stopped_after_its_grace() {
    let place = Place::new();
    let program = json!([{ "wait": { "name": "go" } }, { "wait": { "name": "never" } }, { "wait": { "name": "ever" } }]);
    let child = spawn(&place, "r", &program, &[]);
    eventually("the wait", || {
        (place.run(["why", "r"]).stdout().contains("waiting for the signal `go`")).then_some(())
    });
    place.run(["cancel", "r", "--reason", "enough"]);
    let ran = finish(child);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    let show = place.show("r");
    assert_eq!((&show["state"], &show["failure"]["kind"]), (&json!("cancelled"), &json!("cancelled")));
}

#[test]
fn a_program_that_waits_for_nothing_fails() {
    let place = Place::new();
    let ran = run(&place, "r", &json!(["deadlock"]), &[]);
    assert_eq!(ran.code(), Some(1));
    let message = place.show("r")["failure"]["message"].clone();
    assert_eq!(message, "the program waits for nothing that could ever happen");
}

#[test]
fn a_paused_run_finishes_its_calls_and_begins_nothing() {
    let place = Place::new();
    let slow = json!({ "match": "^one$", "reply": "one", "delay_ms": 5_000 });
    let script = place.script(json!({ "rules": [slow], "default": { "reply": "${prompt}" } }));
    let program = json!([{ "agent": "one" }, { "agent": "two" }]);
    let child = spawn(&place, "r", &program, &["--agents", &script]);
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    let ran = place.run(["pause", "r"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let ran = finish(child);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert!(ran.stderr().contains("Paused  r"), "{}", ran.stderr());
    assert_eq!(place.show("r")["state"], "paused");
    let completed = place.journal("r").iter().filter(|entry| entry["kind"] == "completed").count();
    assert_eq!((completed, place.calls().len()), (1, 1));
    // Nobody takes it up by himself, and signals are kept.
    assert_eq!(place.run(["serve", "--idle", "300ms", "--agents", &script]).code(), Some(0));
    assert_eq!(place.calls().len(), 1);
    assert!(place.run(["why", "r"]).stdout().starts_with("it is paused  do  wfhost resume r\n"));
    assert_eq!(place.run(["resume", "r", "--agents", &script]).ok_json(), json!(["one", "two"]));
    assert_eq!(place.calls().len(), 2);
}

#[test]
fn a_run_that_is_resumed_before_it_is_paused_goes_on() {
    let place = Place::new();
    let held = place.held();
    let program = json!([{ "agent": "one" }, { "agent": "two" }]);
    let child = spawn(&place, "r", &program, &["--config", &held, "--agent", "held"]);
    eventually("the call", || (place.held_calls() == 1).then_some(()));
    assert_eq!(place.run(["pause", "r"]).code(), Some(0));
    // Time for its host to read the request, as far as that goes: it has to hold in either order.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(place.run(["resume", "r", "-d"]).code(), Some(0));
    place.let_go();
    let ran = finish(child);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert_eq!(place.show("r")["output"], json!(["one", "two"]));
    assert_eq!(place.held_calls(), 2);
}

#[test]
fn a_server_that_exits_when_idle_does_what_is_due_before_however_slow_the_database_is() {
    let place = Place::new();
    assert_eq!(run(&place, "r", &json!([{ "agent": "one" }]), &["-d", "--agent", "echo"]).code(), Some(0));
    let held = place.hold();
    let mut server = place.spawn(["serve", "--idle", "100ms", "--agent", "echo"]);
    // Ten times as long as it may have nothing to do; it cannot find out whether it has.
    std::thread::sleep(Duration::from_secs(1));
    assert!(server.try_wait().expect("a child can be asked").is_none(), "{}", finish(server).stderr());
    assert_eq!(place.show("r")["state"], "queued");
    drop(held);
    let ran = finish(server);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert_eq!(place.show("r")["state"], "completed");
}

#[test]
fn a_parked_run_can_be_paused_resumed_and_cancelled_while_it_is() {
    let place = Place::new();
    for id in ["a", "b"] {
        assert_eq!(run(&place, id, &json!([{ "wait": { "name": "go" } }]), &["--no-wait"]).code(), Some(3));
        place.run(["pause", id]);
    }
    place.run(["signal", "a", "go", "-i", "5"]);
    assert_eq!(place.show("a")["state"], "paused");
    place.run(["resume", "a", "-d"]);
    assert_eq!(place.run(["serve", "--idle", "300ms"]).code(), Some(0));
    assert_eq!(place.show("a")["output"], json!([5]));
    assert_eq!(place.run(["cancel", "b"]).code(), Some(0));
    assert_eq!(place.show("b")["output"][0]["failure"], "cancelled");
}

#[test]
fn a_failed_run_is_retried_at_the_step_it_failed_of() {
    let place = Place::new();
    let bad =
        json!({ "match": "pay", "reply": "paid", "fail": { "kind": "rejected", "message": "declined" } });
    let script = place.script(json!({ "rules": [bad], "default": { "reply": "${prompt}" } }));
    let program = json!([{ "must_agent": "book" }, { "must_agent": "pay" }, { "must_agent": "ship" }]);
    let ran = run(&place, "r", &program, &["--agents", &script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(place.run(["why", "r"]).stdout().contains("do  wfhost retry r"));
    place.script(json!({ "default": { "reply": "${prompt}" } }));
    let ran = place.run(["retry", "r", "--agents", &script]);
    assert_eq!(ran.ok_json(), json!(["book", "pay", "ship"]));
    let prompts: Vec<_> = place.calls().iter().map(|call| call["prompt"].clone()).collect();
    assert_eq!(prompts, ["book", "pay", "pay", "ship"]);
    let error = place.run(["retry", "r"]).error(2, &place);
    assert!(error.starts_with("error[WF0506]: r cannot be retried"), "{error}");
}

#[test]
fn a_call_that_may_be_made_once_is_made_again_when_somebody_says_so() {
    let place = Place::new();
    let fails = |kind: &str| {
        let rule =
            json!({ "match": "pay", "reply": "", "fail": { "times": 1_000, "kind": kind, "message": "no" } });
        place.script(json!({ "rules": [rule] }))
    };
    let once = json!({ "max_attempts": 1, "fatal": ["unknown-outcome"] });
    let program = json!([{ "agent_or_fail": { "prompt": "pay", "retry": once } }]);
    let script = fails("unavailable");
    assert_eq!(run(&place, "r", &program, &["--agents", &script]).code(), Some(1));
    let ran = place.run(["retry", "r", "--agents", &script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(!ran.stderr().contains("unknown-outcome"), "{}", ran.stderr());
    let script = place.script(json!({ "default": { "reply": "paid" } }));
    let ran = place.run(["retry", "r", "--agents", &script]);
    assert_eq!(ran.ok_json()[0]["output"], "paid", "{}", ran.stderr());
    let calls = place.calls();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls.iter().all(|call| call["key"] == calls[0]["key"]), "{calls:?}");
}

#[test]
fn a_step_that_a_retry_opens_again_is_open_for_those_who_look() {
    let place = Place::new();
    let wait = json!({ "wait": { "name": "go" } });
    // The second wait begins when the first one has ended; that they are cancelled is the failure of the run.
    let program = json!([{ "pattern_or_fail": { "try_map": { "limit": 1, "operations": [wait, wait] } } }]);
    assert_eq!(run(&place, "r", &program, &["--no-wait"]).code(), Some(3));
    let ran = place.run(["cancel", "r"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let states = || -> Vec<String> {
        let run = place.show("r");
        let steps = run["steps"].as_array().expect("steps").iter();
        steps.map(|step| step["state"].as_str().expect("a state").to_owned()).collect()
    };
    eventually("it is cancelled", || (place.show("r")["state"] == "cancelled").then_some(()));
    assert_eq!(states(), ["cancelled"]);
    let retried = place.spawn(["retry", "r"]);
    eventually("the step is open again", || (states() == ["open"]).then_some(()));
    place.run(["signal", "r", "go", "-i", "1"]);
    eventually("the second one begins", || (states().len() == 2).then_some(()));
    assert_eq!(states(), ["completed", "open"]);
    let why = place.run(["why", "r"]).stdout();
    assert!(why.contains("step 2 has been waiting") && !why.contains("step 1"), "{why}");
    place.run(["signal", "r", "go", "-i", "2"]);
    assert_eq!(finish(retried).ok_json(), json!([[1, 2]]));
    assert_eq!(states(), ["completed", "completed"]);
}

#[test]
fn a_budget_of_a_schedule_takes_nothing_from_the_configured_one() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("config/wfhost")).expect("a directory");
    place.file("config/wfhost/config.toml", "[agents]\nbudget = { tokens = 5000, time = \"1h\" }\n");
    let (module, input) = (module("probe"), json!({ "do": ["budget"] }).to_string());
    for (name, budget, total) in [("time", "time=5m", 5_000), ("tokens", "tokens=70", 70)] {
        let added = ["schedule", "add", name, &module, "-i", &input, "--every", "9h", "--budget", budget];
        let ran = place.run(added);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        let fired = place.run(["schedule", "fire", name]);
        assert_eq!(place.run(["serve", "--idle", "300ms"]).code(), Some(0));
        assert_eq!(place.show(fired.stdout().trim())["output"][0]["total"], total, "{budget}");
    }
}

#[test]
fn deleting_leaves_nothing_and_ids_are_not_used_again() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "x", "delay_ms": 600_000 } }));
    let program = json!([{ "log": "x" }, { "post": { "name": "m", "payload": 1 } }, { "agent": "slow" }]);
    let child = spawn(&place, "r", &program, &["--agents", &script]);
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    let error = place.run(["delete", "r", "--yes"]).error(6, &place);
    assert!(error.starts_with("error[WF0503]"), "{error}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    finish(child);
    let error = place.run(["delete", "r"]).error(2, &place);
    assert!(error.contains("this cannot be undone: confirm it with --yes"), "{error}");
    assert_eq!(place.run(["delete", "r", "--yes"]).code(), Some(0));
    assert_eq!(place.run(["show", "r"]).code(), Some(2));
    let error = run(&place, "r", &program, &["--no-wait"]).error(2, &place);
    assert!(error.starts_with("error[WF0302]: the id r belonged to a run that was deleted"), "{error}");
    for table in ["runs", "logs", "messages", "inbox", "questions", "published"] {
        let (all, gone) = (format!("SELECT count(*) FROM {table}"), "FROM runs WHERE NOT gone");
        assert_eq!(place.query(&all, &all.replace("FROM runs", gone)), "0", "{table}");
    }
}

#[test]
fn gc_deletes_what_ended_long_ago() {
    let place = Place::new();
    for id in ["old", "new"] {
        run(&place, id, &json!([{ "sleep": 1 }]), &[]).ok_json();
    }
    run(&place, "waits", &json!([{ "wait": { "name": "go" } }]), &["--no-wait"]);
    age(&place, "'old', 'waits'");
    assert_eq!(place.run(["db", "gc", "--older-than", "30m", "--dry-run"]).stdout().trim(), "old");
    assert_eq!(place.run(["db", "gc", "--older-than", "30m"]).code(), Some(2));
    assert_eq!(place.run(["db", "gc", "--older-than", "30m", "--yes"]).code(), Some(0));
    let left: Vec<_> = ids(&place, &[]);
    assert_eq!(left, ["waits", "new"]);
}

#[test]
fn gc_takes_the_workspaces_of_runs_that_are_gone() {
    let place = Place::new();
    let config = place.file("wfhost.toml", "[workspaces.w]\nkind = \"scratch\"\n");
    let program = json!([{ "agent_with": { "prompt": "p", "providers": ["echo"], "workspace": "w" } }]);
    for id in ["gone", "new", "old"] {
        run(&place, id, &program, &["--config", &config]).ok_json();
    }
    let all = place.path("data/wfhost/workspaces");
    let own: Vec<_> = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [root] = own.as_slice() else { panic!("{own:?}") };
    // Another database has a run of the name in its own place.
    let elsewhere = place.path("other.db").display().to_string();
    run(&place, "gone", &program, &["--config", &config, "--db", &elsewhere]).ok_json();
    std::fs::create_dir_all(root.join("other/w")).unwrap();
    for id in ["gone", "new", "old", "other"] {
        std::fs::write(root.join(id).join("w/file"), "12345").unwrap();
    }
    let left = || {
        let mut left: Vec<_> =
            std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        left
    };
    assert_eq!(place.run(["delete", "gone", "--yes"]).code(), Some(0));
    age(&place, "'old'");
    let gc = |more: &[&str]| place.run(["db", "gc", "--older-than", "30m"].iter().chain(more));
    assert!(gc(&["--dry-run"]).stderr().contains("would delete 1 run, the workspaces of 2 runs (10 bytes)"));
    let mut view = json!({
        "schema": "wfhost/gc/1", "dry_run": true, "runs": ["old"], "modules": null,
        "workspaces": { "runs": 2, "bytes": 10 },
    });
    assert_eq!(gc(&["--dry-run", "-o", "json"]).ok_json(), view);
    assert_eq!(left(), ["gone", "new", "old", "other"]);
    (view["dry_run"], view["modules"]) = (json!(false), json!(0));
    assert_eq!(gc(&["--yes", "-o", "json"]).ok_json(), view);
    assert_eq!(left(), ["new", "other"]);
    let others = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path());
    let others: Vec<_> =
        others.filter(|path| path != root).map(|path| path.join("gone/w").is_dir()).collect();
    assert_eq!(others, [true]);
    // Now there is nothing to ask about.
    let ran = gc(&[]);
    assert_eq!((ran.code(), ran.stdout().as_str()), (Some(0), ""), "{}", ran.stderr());
    assert!(ran.stderr().trim_end().ends_with("0 runs, 0 modules"), "{}", ran.stderr());
}

#[test]
fn gc_keeps_all_rules_while_it_cannot_read_who_needs_them() {
    let place = Place::new();
    let agents = place.file("agents.json", json!({ "default": { "reply": "x" } }).to_string());
    let added = place.run(["schedule", "add", "s", "--every", "1h", &module("probe"), "--agents", &agents]);
    assert_eq!(added.code(), Some(0), "{}", added.stderr());
    let (blobs, old) = ("SELECT count(*) FROM blobs", "UPDATE blobs SET added_at = 1");
    place.change(old, old);
    place.change("UPDATE schedules SET times = 'nonsense'", "UPDATE schedules SET times = 'nonsense'");
    let gc = || place.run(["db", "gc", "--older-than", "0s", "--yes"]);
    let ran = gc();
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!(
        ran.stderr().contains("no rules are deleted, as the schedule s cannot be read"),
        "{}",
        ran.stderr()
    );
    assert_eq!(place.query(blobs, blobs).trim(), "1");
    let gone = "DELETE FROM schedules";
    place.change(gone, gone);
    assert_eq!(gc().code(), Some(0));
    assert_eq!(place.query(blobs, blobs).trim(), "0");
}

fn ids(place: &Place, args: &[&str]) -> Vec<String> {
    let page = place.run(["ps", "-o", "json"].iter().chain(args)).ok_json();
    page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_whose_journal_lost_its_end_is_never_gone_on_with() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "paid" } }));
    let program = json!([{ "agent": "pay" }, { "wait": { "name": "go" } }]);
    let agents = ["--agents", script.as_str()];
    assert_eq!(run(&place, "r", &program, &["--no-wait", agents[0], agents[1]]).code(), Some(3));
    run(&place, "other", &json!([]), &[]).ok_json();
    place.change(
        "DELETE FROM commits WHERE id = (SELECT max(c.id) FROM commits c JOIN runs r ON r.id = c.run WHERE r.name = 'r')",
        "DELETE FROM journal WHERE place = (SELECT max(place) FROM journal JOIN runs USING (run) WHERE name = 'r')",
    );
    for _ in 0..2 {
        let error = place.run(["resume", "r", "--no-wait", agents[0], agents[1]]).error(4, &place);
        assert!(error.starts_with("error[WF0315]") && error.contains("last entries are missing"), "{error}");
        assert_eq!(place.run(["verify", "r"]).code(), Some(4));
        let error = place.run(["db", "check", "--repair"]).error(4, &place);
        assert!(error.contains("r: ") && error.contains("last entries are missing"), "{error}");
    }
    // Nor by a server.
    let mut server = place.spawn(["serve", agents[0], agents[1], "--idle", "1s"]);
    server.wait().unwrap();
    assert_eq!(place.calls().len(), 1, "the finished call is not made again");
    assert_eq!(ids(&place, &[]), ["other", "r"]);
}

#[test]
fn a_schedule_that_cannot_be_read_is_shown_and_can_be_removed() {
    let place = Place::new();
    for name in ["bad", "good"] {
        let added = ["schedule", "add", name, "--every", "1h", &module("probe"), "-i", r#"{"do":[]}"#];
        assert_eq!(place.run(added).code(), Some(0));
    }
    place.change(
        "UPDATE schedules SET config = x'ff00' WHERE name = 'bad'",
        r"UPDATE schedules SET config = '\xff00' WHERE name = 'bad'",
    );
    let listed = place.run(["schedule", "ls"]);
    assert!(listed.code() == Some(0) && listed.stdout().contains("good"), "{}", listed.stderr());
    assert!(listed.stderr().contains("bad cannot be read"), "{}", listed.stderr());
    let error = place.run(["db", "check"]).error(4, &place);
    assert!(error.contains("the schedule `bad` cannot be read"), "{error}");
    let error = place.run(["schedule", "show", "bad"]).error(4, &place);
    assert!(error.starts_with("error[WF0315]"), "{error}");
    assert_eq!(place.run(["schedule", "rm", "bad"]).code(), Some(0));
    assert_eq!(place.run(["db", "check"]).code(), Some(0));
}

#[test]
fn a_run_whose_name_cannot_be_read_hides_no_others() {
    let place = Place::new();
    for id in ["first", "bad", "last"] {
        run(&place, id, &json!([]), &[]).ok_json();
    }
    let change = "UPDATE runs SET name = 'no name' WHERE name = 'bad'";
    place.change(change, change);
    let listed = place.run(["ps"]);
    assert!(listed.code() == Some(0) && listed.stdout().contains("first"), "{}", listed.stderr());
    assert!(listed.stdout().contains("last") && !listed.stdout().contains("name\n"), "{}", listed.stdout());
    assert!(listed.stderr().contains("1 row cannot be read; `wfhost db check`"), "{}", listed.stderr());
    assert_eq!(ids(&place, &[]), ["last", "first"]);
    let events = place.run(["events"]);
    assert!(events.code() == Some(0) && events.stdout().contains("last"), "{}", events.stderr());
    let error = place.run(["db", "check"]).error(4, &place);
    assert!(error.contains("the row of run number 2: ") && error.contains("an id cannot be read"), "{error}");
    assert!(error.contains("the database has 1 fault\n"), "{error}");
    // The oldest ones, behind which nothing can be read.
    let change = "UPDATE runs SET name = 'no name either' WHERE name = 'first'";
    place.change(change, change);
    let error = place.run(["db", "check"]).error(4, &place);
    assert!(error.contains("the database has 2 faults\n"), "{error}");
    assert_eq!(
        ["1", "2"].map(|number| error.matches(&format!("run number {number}: ")).count()),
        [1, 1],
        "{error}"
    );
}

#[test]
fn a_run_that_is_not_resumed_here_takes_no_new_budget() {
    let place = Place::new();
    run(&place, "r", &json!([{ "wait": { "name": "go" } }]), &["--no-wait"]);
    let ran = place.run(["resume", "r", "--detach", "--budget", "tokens=5"]);
    assert_eq!(ran.code(), Some(2));
    assert!(ran.stderr().contains("--detach") && ran.stderr().contains("--budget"), "{}", ran.stderr());
}

#[test]
fn a_key_that_is_known_begins_nothing_and_says_so() {
    let place = Place::new();
    let keyed = ["--key", "order"];
    assert!(run(&place, "a", &json!([]), &keyed).stderr().contains("Started"));
    let (module, input) = (module("probe"), json!({ "do": [] }).to_string());
    for detach in [false, true] {
        let mut args = vec!["run", &module, "-i", &input, "--key", "order"];
        args.extend(detach.then_some("-d"));
        let ran = place.run(args);
        assert!(ran.code() == Some(0) && ran.stderr().contains("Duplicate  a "), "{}", ran.stderr());
    }
    // One that a variable was to hold, say.
    assert_eq!(run(&place, "b", &json!([]), &["--key", ""]).code(), Some(2));
    assert_eq!(ids(&place, &[]), ["a"]);
    // Negative numbers are no flags.
    assert_eq!(
        place.run(["signal", "a", "go", "-i", "-5"]).error(2, &place).split(':').next(),
        Some("error[WF0502]")
    );
}

#[test]
fn a_damaged_row_hides_no_other_run() {
    let place = Place::new();
    for id in ["good", "seq", "outcome"] {
        run(&place, id, &json!([{ "agent": "x" }]), &["--agent", "echo"]).ok_json();
    }
    place.change(
        "UPDATE commits SET seq = -95 WHERE id = (SELECT max(c.id) FROM commits c JOIN runs r ON r.id = c.run WHERE r.name = 'seq')",
        "UPDATE journal SET seq = -95 WHERE place = (SELECT max(place) FROM journal JOIN runs USING (run) WHERE name = 'seq')",
    );
    let labels = "UPDATE runs SET labels = 'x' WHERE name = 'outcome'";
    place.change(labels, labels);
    let mut listed = ids(&place, &[]);
    listed.sort();
    assert_eq!(listed, ["good", "outcome", "seq"]);
    assert_eq!(place.show("good")["state"], "completed");
    let error = place.run(["db", "check"]).error(4, &place);
    assert!(error.contains("seq: ") && error.contains("outcome: ") && !error.contains("good: "), "{error}");
    // What is kept beside the journal is made anew.
    place.run(["db", "check", "--repair"]);
    let error = place.run(["db", "check"]).error(4, &place);
    assert!(error.contains("seq: ") && !error.contains("outcome: "), "{error}");
}

#[test]
fn export_and_import_keep_every_byte() {
    let place = Place::new();
    let program = json!([
        { "agent": "x" }, { "log": "line" }, { "publish": { "key": "k", "value": [1] } },
        { "post": { "name": "m", "payload": 2 } }, { "ask": { "prompt": "Go?" } }, { "agent": "y" },
    ]);
    assert_eq!(
        run(&place, "r", &program, &["--no-wait", "--agent", "echo", "--label", "a=b"]).code(),
        Some(3)
    );
    place.run(["signal", "r", "later", "-i", "7", "--id", "once"]);
    let file = place.path("r.jsonl").display().to_string();
    assert_eq!(place.run(["db", "export", "r", &file]).code(), Some(0));

    let other = Place::new();
    let ran = other.run(["db", "import", &file]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert_eq!(other.journal("r"), place.journal("r"));
    // As JSON: for people it says how long ago things were.
    for verb in ["logs", "messages", "inbox"] {
        let said = [&other, &place].map(|place| place.run([verb, "r", "-o", "json"]).stdout());
        assert!(said[0].len() > 2, "{verb}");
        assert_eq!(said[0], said[1], "{verb}");
    }
    let heads = [&place, &other].map(|place| place.run(["verify", "r"]).stdout());
    assert_eq!(heads[0], heads[1]);
    // Out of the other database it comes as it went in, but for its state.
    let again = other.path("again.jsonl").display().to_string();
    other.run(["db", "export", "r", &again]);
    let lines =
        |path: &str| std::fs::read_to_string(path).unwrap().lines().skip(1).map(str::to_owned).collect();
    let (first, second): (Vec<_>, Vec<_>) = (lines(&file), lines(&again));
    assert_eq!(first, second);
    // It goes on there, with its module, its question and its signal.
    assert_eq!(other.show("r")["state"], "paused");
    other.run(["approve", "r"]);
    assert_eq!(other.run(["resume", "r"]).ok_json()[5], "y");
    let error = other.run(["db", "import", &file]).error(2, &other);
    assert!(error.starts_with("error[WF0302]: the run r already exists"), "{error}");
}

#[test]
fn a_run_that_moves_is_exported_as_it_is_at_one_moment() {
    let place = Place::new();
    let each =
        json!({ "each": [{ "log": "x" }, { "agent": "x" }, { "publish": { "key": "k", "value": 1 } }] });
    let program = json!([{ "repeat": { "times": 1_500, "operation": each } }, { "agent": "done" }]);
    let child = spawn(&place, "r", &program, &["--agent", "echo"]);
    eventually("the run", || (place.run(["show", "r"]).code() == Some(0)).then_some(()));
    let files: Vec<_> = (0..3)
        .map(|n| {
            let file = place.path(&format!("{n}.jsonl")).display().to_string();
            assert_eq!(place.run(["db", "export", "r", &file]).code(), Some(0));
            file
        })
        .collect();
    finish(child).ok_json();
    for file in files {
        let other = Place::new();
        assert_eq!(other.run(["db", "import", &file]).code(), Some(0));
        assert_eq!(other.run(["db", "check", "--deep"]).code(), Some(0));
        if other.show("r")["state"] != "completed" {
            other.run(["resume", "r", "--agent", "echo"]).ok_json();
        }
        assert_eq!(other.run(["logs", "r"]).stdout().lines().count(), 1_500);
    }
}

#[test]
fn a_changed_export_is_refused() {
    let place = Place::new();
    run(&place, "r", &json!([{ "agent": "x" }]), &["--agent", "echo"]).ok_json();
    let file = place.path("r.jsonl").display().to_string();
    place.run(["db", "export", "r", &file]);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    for (line, content) in lines.iter().enumerate() {
        // The first letters and digits of each line's longest string.
        let at = content.len() / 2;
        let at = (at..content.len()).find(|&at| content.as_bytes()[at].is_ascii_alphanumeric()).unwrap();
        let old = content.as_bytes()[at] as char;
        let new = if old == 'A' { 'B' } else { 'A' };
        let mut changed: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
        changed[line].replace_range(at..=at, &new.to_string());
        let other = Place::new();
        let bad = other.file("bad.jsonl", changed.join("\n"));
        let ran = other.run(["db", "import", &bad]);
        assert_ne!(ran.code(), Some(0), "line {line}: {content}");
        assert!(ran.stderr().starts_with("error[WF"), "{}", ran.stderr());
        assert!(ids(&other, &[]).is_empty());
    }
    let place = Place::new();
    let bytes = place.file("bytes", [0xff, 0xfe, 0x00, 0x9f]);
    let error = place.run(["db", "import", &bytes]).error(2, &place);
    assert!(error.starts_with("error[WF0510]") && error.contains("hint: "), "{error}");
    for garbage in ["", "{}", "[1,2]\n", "\u{0}\u{1}", &text[..text.len() / 2]] {
        let other = Place::new();
        let bad = other.file("bad.jsonl", garbage);
        let ran = other.run(["db", "import", &bad]);
        assert!(ran.code() == Some(2) && ran.stderr().starts_with("error[WF"), "{}", ran.stderr());
    }
}

#[test]
fn what_an_error_quotes_of_a_hostile_export_is_short_and_steers_no_terminal() {
    let place = Place::new();
    let long = format!("\u{1b}[2J{}", "x".repeat(500_000));
    for line in [
        json!({ &long: {} }),
        json!({ "run": { &long: 1 } }),
        json!({ "log": { "number": long, "at": 1, "level": 1, "message": "", "fields": [] } }),
        json!(long),
    ] {
        let file = place.file("hostile.jsonl", format!("{line}\n"));
        for more in [&[][..], &["-o", "json"], &["-v"]] {
            let ran = place.run(["db", "import", &file].iter().chain(more));
            let error = ran.stderr();
            assert_eq!(ran.code(), Some(2), "{}", &error[..error.len().min(1_000)]);
            assert!(error.contains("WF0510") && error.contains("line 1 cannot be read"), "{error:.1000}");
            assert!(
                error.len() < 2_500 && !error.contains("\u{1b}[2J"),
                "{} bytes: {error:.1000}",
                error.len()
            );
        }
    }
}

#[test]
fn a_run_that_has_completed_waits_for_nothing() {
    let place = Place::new();
    run(&place, "r", &json!([{ "phase": "the last phase" }]), &[]).ok_json();
    run(&place, "failed", &json!([{ "phase": "the last phase" }, { "fail": "no luck" }]), &[]);
    let listed = place.run(["ps", "-o", "json"]).ok_json();
    let waits = |id: &str| {
        let runs = listed["runs"].as_array().unwrap();
        runs.iter().find(|run| run["id"] == id).unwrap()["waits"].clone()
    };
    assert_eq!((waits("r"), waits("failed")), (json!(""), json!("no luck")));
    assert_eq!(place.show("r")["phase"], "the last phase");
    assert!(!place.run(["ps"]).stdout().contains("the last phase"));
}

#[test]
fn verify_finds_one_changed_byte() {
    let place = Place::new();
    run(&place, "r", &json!([{ "agent": "x" }, { "agent": "y" }]), &["--agent", "echo"]).ok_json();
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
    place.change(
        "UPDATE commits SET body = CAST(replace(body, 'x', 'z') AS BLOB)",
        "UPDATE journal SET body = set_byte(body, length(body) - 1, get_byte(body, length(body) - 1) # 1)",
    );
    let error = place.run(["verify", "r"]).error(4, &place);
    assert!(error.starts_with("error[WF0511]"), "{error}");
    let error = place.run(["db", "check"]).error(4, &place);
    assert!(error.contains("r: "), "{error}");
}

#[test]
fn verify_finds_entries_that_are_missing_at_the_end() {
    let place = Place::new();
    run(
        &place,
        "r",
        &json!([{ "agent": "x" }, { "wait": { "name": "go" } }]),
        &["--no-wait", "--agent", "echo"],
    );
    place.change(
        "DELETE FROM commits WHERE id = (SELECT max(id) FROM commits)",
        "DELETE FROM journal WHERE place = (SELECT max(place) FROM journal)",
    );
    let error = place.run(["verify", "r"]).error(4, &place);
    assert!(error.contains("its last entries are missing"), "{error}");
}

#[test]
fn what_the_database_keeps_besides_the_journal_is_compared_and_rebuilt() {
    let place = Place::new();
    run(&place, "done", &json!([{ "log": "x" }, { "publish": { "key": "k", "value": 1 } }]), &[]).ok_json();
    let asks = json!([{ "post": { "name": "m", "payload": 1 } }, { "ask": { "prompt": "Go?" } }]);
    run(&place, "asks", &asks, &["--no-wait"]);
    run(&place, "sleeps", &json!([{ "sleep": 3_600_000 }]), &["--no-wait"]);
    let views = || {
        let view = |run: &str| {
            let mut show = place.show(run);
            show["state"].take();
            (place.run(["logs", run]).stdout(), place.run(["messages", run]).stdout(), show)
        };
        (["done", "asks", "sleeps"].map(view), place.run(["inbox", "-o", "json"]).stdout(), ids(&place, &[]))
    };
    let before = views();
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
    // The same in a file and on a server, or what it is on a server.
    for (damage, on_server) in [
        ("DELETE FROM questions", ""),
        ("DELETE FROM logs", ""),
        ("DELETE FROM messages", ""),
        ("DELETE FROM published", ""),
        (
            "UPDATE runs SET wait_until = 5, due_at = NULL WHERE name = 'sleeps'",
            "UPDATE hot SET wait_until = 5, due_at = NULL FROM runs WHERE runs.run = hot.run AND name = 'sleeps'",
        ),
        (
            "UPDATE runs SET state = 'failed', outcome = NULL WHERE name = 'done'",
            "UPDATE hot SET state = 6, outcome = NULL FROM runs WHERE runs.run = hot.run AND name = 'done'",
        ),
        (
            "UPDATE runs SET wait_for = '[\"x\"]', labels = '[[\"a\",\"b\"]]' WHERE name = 'asks'",
            "UPDATE hot SET wait_for = ARRAY['x'] FROM runs WHERE runs.run = hot.run AND name = 'asks'",
        ),
        (
            "UPDATE runs SET workflow = 'other', updated_at = 1, created_at = 1",
            "UPDATE runs SET workflow = 'other', created_at = 1, labels = '[[\"a\",\"b\"]]'",
        ),
    ] {
        place.change(damage, if on_server.is_empty() { damage } else { on_server });
        let error = place.run(["db", "check", "--deep"]).error(4, &place);
        assert!(error.starts_with("error[WF0511]"), "{damage}: {error}");
        let ran = place.run(["db", "check", "--repair"]);
        assert_eq!(ran.code(), Some(0), "{damage}: {}", ran.stderr());
        assert_eq!(views(), before, "{damage}");
        assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0), "{damage}");
    }
}

#[test]
fn a_backup_of_a_database_in_use_is_complete() {
    if only_for_files("a server's own tools back it up") {
        return;
    }
    let place = Place::new();
    let program: Vec<_> = (0..200).map(|n| json!({ "agent": n.to_string() })).collect();
    let child = spawn(&place, "busy", &json!(program), &["--agent", "echo"]);
    eventually("the run", || (place.run(["show", "busy"]).code() == Some(0)).then_some(()));
    let copy = Place::new();
    let file = copy.db().display().to_string();
    assert_eq!(place.run(["db", "backup", &file]).code(), Some(0));
    assert_eq!(place.run(["db", "backup", &file]).code(), Some(2), "an existing file is kept");
    finish(child).ok_json();
    assert_eq!(copy.run(["db", "check"]).code(), Some(0));
    // The copy's run belongs to a process that does not use the copy, but may be alive still; it
    // is taken up once that has ended.
    assert_eq!(copy.run(["resume", "busy"]).ok_json().as_array().unwrap().len(), 200);
}

#[test]
fn a_backup_that_is_killed_leaves_no_file_of_its_name() {
    if only_for_files("a server's own tools back it up") {
        return;
    }
    let place = Place::new();
    run(&place, "r", &json!([]), &[]).ok_json();
    // The system kills whoever writes a larger file.
    let backup = |blocks: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(place.path(".")).args(["-c", "ulimit -f $0; exec \"$@\"", blocks]);
        let binary = place.wfhost([] as [&str; 0]).get_program().to_owned();
        let database = place.db().display().to_string();
        shell.arg(binary).args(["--db", &database, "db", "backup", "copy.db"]).status().expect("a shell")
    };
    let left = || {
        let files = std::fs::read_dir(place.path(".")).expect("the directory").flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains("copy.db")).collect::<Vec<_>>()
    };
    assert!(!backup("128").success());
    assert!(!place.path("copy.db").exists());
    assert!(!left().is_empty());
    assert!(backup("unlimited").success());
    // What the killed one left behind is taken away.
    assert_eq!(left(), ["copy.db"]);
    let copy = place.path("copy.db").display().to_string();
    assert!(place.run(["--db", &copy, "show", "r"]).code() == Some(0));
}

#[test]
fn a_backup_that_cannot_be_written_says_so_of_the_new_file() {
    if only_for_files("a server's own tools back it up") {
        return;
    }
    let place = Place::new();
    run(&place, "r", &json!([]), &[]).ok_json();
    let nowhere = place.path("nowhere/copy.db").display().to_string();
    let error = place.run(["db", "backup", &nowhere]).error(2, &place);
    assert!(error.starts_with("error[WF0004]: DIR/nowhere/copy.db cannot be written"), "{error}");
    assert!(!error.contains("--db"), "{error}");
}

#[test]
fn of_two_copies_into_the_same_new_file_one_is_whole() {
    if only_for_files("it is about files") {
        return;
    }
    let place = Place::new();
    run(&place, "r", &json!([]), &[]).ok_json();
    let (from, to) = (place.db().display().to_string(), place.path("to.db").display().to_string());
    let copies: Vec<_> = (0..4).map(|_| place.spawn(["db", "copy", &from, &to])).collect();
    let codes: Vec<_> = copies.into_iter().map(|copy| finish(copy).code()).collect();
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert_eq!(place.run(["--db", &to, "show", "r"]).code(), Some(0));
}

#[test]
fn runs_are_listed_by_state_workflow_label_and_time() {
    let place = Place::new();
    for (id, label) in [("a", "team=x"), ("b", "team=y"), ("c", "team=x")] {
        run(&place, id, &json!([]), &["--label", label]).ok_json();
    }
    run(&place, "w", &json!([{ "wait": { "name": "go" } }]), &["--no-wait", "--label", "team=x"]);
    run(&place, "f", &json!([{ "fail": "no" }]), &[]);
    place.run(["run", &module("counter"), "-i", r#"{"steps":1}"#, "--agent", "echo", "--id", "n"]).ok_json();
    assert_eq!(ids(&place, &[]), ["n", "f", "w", "c", "b", "a"]);
    assert_eq!(ids(&place, &["--label", "team=x"]), ["w", "c", "a"]);
    assert_eq!(ids(&place, &["--label", "team=x", "--state", "completed"]), ["c", "a"]);
    assert_eq!(ids(&place, &["--workflow", "counter"]), ["n"]);
    assert_eq!(ids(&place, &["--state", "failed,waiting"]), ["f", "w"]);
    assert_eq!(ids(&place, &["--since", "1h"]).len(), 6);
    let earlier = "UPDATE runs SET created_at = created_at - 7200000 WHERE name IN ('a', 'b')";
    place.change(earlier, earlier);
    assert_eq!(ids(&place, &["--since", "1h"]), ["n", "f", "w", "c"]);
    // Page by page, while new ones come in.
    let page = |args: &[&str]| place.run(["ps", "-o", "json", "-n", "2"].iter().chain(args)).ok_json();
    let first = page(&[]);
    run(&place, "later", &json!([]), &[]).ok_json();
    let cursor = first["next"].as_str().unwrap().to_owned();
    let second = page(&["--before", &cursor]);
    let seen: Vec<_> = second["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect();
    assert_eq!(seen, ["w", "c"]);
}

#[test]
fn why_names_what_keeps_a_run_and_what_would_move_it() {
    let place = Place::new();
    let why = |run: &str| place.run(["why", run]).stdout();
    let wait = json!({ "wait": { "name": "go" } });
    run(
        &place,
        "two",
        &json!([{ "parallel": [wait, { "ask": { "prompt": "Go?", "choices": ["yes"] } }] }]),
        &["--no-wait"],
    );
    let text = why("two");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("step 1 has been waiting for the signal `go` for "), "{text}");
    assert!(lines[0].ends_with("do  wfhost signal two go -i JSON"), "{text}");
    assert!(
        lines[1].contains("waiting for a person's answer")
            && lines[1].ends_with("do  wfhost answer two 2 -i '\"yes\"'"),
        "{text}"
    );

    run(&place, "sleeps", &json!([{ "sleep": 3_600_000 }]), &["--no-wait"]);
    assert!(why("sleeps").starts_with("step 1 sleeps until "), "{}", why("sleeps"));
    place.run(["run", &module("probe"), "-i", r#"{"do":[]}"#, "--id", "queued", "-d"]);
    assert_eq!(why("queued"), "no process has picked it up yet  do  wfhost serve\n");
    run(&place, "done", &json!([]), &[]).ok_json();
    assert_eq!(why("done"), "it completed  do  wfhost show done\n");
    run(&place, "broken", &json!([{ "panic": "oh" }]), &[]);
    assert!(why("broken").ends_with("do  wfhost resume broken --module FIXED.wasm\n"), "{}", why("broken"));
    run(&place, "nobody", &json!([{ "agent_of": { "provider": "psychic", "prompt": "?" } }]), &[]);
    let text = why("nobody");
    assert!(text.contains("psychic") && text.contains("do  wfhost resume nobody"), "{text}");
    let script = place.script(json!({ "default": { "reply": "x", "delay_ms": 600_000 } }));
    let mut child = spawn(&place, "calls", &json!([{ "agent": "think" }]), &["--agents", &script]);
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    assert!(why("calls").starts_with("step 1 has been calling the agent"), "{}", why("calls"));
    child.kill().unwrap();
    child.wait().unwrap();
    let text = why("calls");
    assert!(text.starts_with("no process advances it  do  wfhost resume calls\n"), "{text}");
    // As data, for programs.
    let view = place.run(["why", "two", "-o", "json"]).ok_json();
    assert_eq!(view["blockers"].as_array().unwrap().len(), 2);
    assert_eq!(view["blockers"][0]["do"], "wfhost signal two go -i JSON");
}

#[test]
fn events_are_gapless_and_ordered_across_processes() {
    let place = Place::new();
    place.run(["ps"]);
    let mut all = place.spawn(["events", "--follow", "-o", "jsonl"]);
    let program: Vec<_> = (0..30).map(|n| json!({ "agent": n.to_string() })).collect();
    let children: Vec<_> = ["a", "b", "c"]
        .map(|id| spawn(&place, id, &json!(program), &["--agent", "echo"]))
        .into_iter()
        .collect();
    children.into_iter().for_each(|child| drop(finish(child).ok_json()));
    let wanted: usize = ["a", "b", "c"].map(|id| place.journal(id).len()).iter().sum();
    // What the follower has printed so far, up to the last end.
    let reader = all.stdout.take().unwrap();
    let mut seen = Vec::new();
    for line in std::io::BufRead::lines(std::io::BufReader::new(reader)).take(wanted) {
        seen.push(serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    }
    all.kill().unwrap();
    all.wait().unwrap();
    assert!(seen.is_sorted_by_key(|event| event["event"].as_u64()));
    for id in ["a", "b", "c"] {
        let own: Vec<_> = seen.iter().filter(|event| event["run"] == id).collect();
        let positions: Vec<_> = own.iter().map(|event| event["position"].as_u64().unwrap()).collect();
        assert_eq!(positions, (0..place.journal(id).len() as u64).collect::<Vec<_>>(), "{id}");
    }
    // From any point on, and the same each time.
    let middle = seen[seen.len() / 2]["event"].as_u64().unwrap();
    let rest = place.run(["events", "--after", &middle.to_string(), "-o", "jsonl"]).stdout();
    let rest: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let behind = seen.iter().position(|event| event["event"].as_u64() > Some(middle)).unwrap();
    assert_eq!(rest, seen[behind..]);
    let own = place.run(["events", "a", "--after", "3", "-o", "jsonl"]).stdout();
    assert_eq!(own.lines().count(), place.journal("a").len() - 4);
}

#[test]
fn resuming_with_a_module_that_departs_is_refused_and_changes_nothing() {
    let place = Place::new();
    let research = place.script(json!({ "default": { "reply": "x" } }));
    run(
        &place,
        "r",
        &json!([{ "agent": "x" }, { "wait": { "name": "go" } }]),
        &["--agents", &research, "--no-wait"],
    );
    let before = place.journal("r");
    let error =
        place.run(["resume", "r", "--module", &module("counter"), "--agents", &research]).error(5, &place);
    assert!(error.starts_with("error[WF0201]: r is non-deterministic at entry 1\n"), "{error}");
    assert!(error.contains("cause: the module changed (recorded blake3:"), "{error}");
    assert_eq!(place.journal("r"), before);
    assert_eq!(place.show("r")["state"], "waiting");
    assert_eq!(place.calls().len(), 1);
    place.run(["signal", "r", "go"]);
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!(["x", null]));
}

#[test]
fn the_reason_of_a_cancellation_has_a_limit() {
    let place = Place::new();
    assert_eq!(run(&place, "r", &json!([{ "wait": { "name": "go" } }]), &["--no-wait"]).code(), Some(3));
    let long = "x".repeat((64 << 10) + 1);
    let error = place.run(["cancel", "r", "--reason", &long]).error(2, &place);
    assert!(error.contains("the reason has 65537 bytes, more than the 65536 that are allowed"), "{error}");
    assert_eq!(place.show("r")["state"], "waiting");
    assert_eq!(place.run(["cancel", "r", "--reason", &long[1..]]).code(), Some(0));
}

/// A run that goes on does much before the first look at it.
#[test]
fn a_run_that_is_resumed_shows_all_lines_from_there_and_none_from_before() {
    let place = Place::new();
    let program = json!([{ "log": "old line" }, { "wait": { "name": "go" } }, { "log": "new line" }]);
    for number in 0..10 {
        let id = format!("r{number}");
        assert_eq!(run(&place, &id, &program, &["--no-wait"]).code(), Some(3));
        assert_eq!(place.run(["signal", &id, "go"]).code(), Some(0));
        let said = place.run(["resume", &id]).stderr();
        assert!(said.contains("new line") && !said.contains("old line"), "{id}: {said}");
    }
    // A fork writes the lines that it took over once more, and does not show them either.
    let said = place.run(["fork", "r0", "--id", "f"]).stderr();
    assert!(!said.contains("old line"), "{said}");
}

/// Agents may have written gigabytes.
#[test]
fn what_agents_wrote_is_not_read_to_go_on_with_a_run_or_to_follow_it() {
    if only_for_files("a line of a transcript is damaged") {
        return;
    }
    let place = Place::new();
    let program = json!([{ "wait": { "name": "go" } }, { "fail": "now" }]);
    assert_eq!(run(&place, "r", &program, &["--no-wait"]).code(), Some(3));
    let damaged = format!(
        "INSERT INTO transcripts (run, step, attempt, at, kind, text)
         SELECT id, 1, 1, 1, {}, CAST(x'ff' AS TEXT) FROM runs WHERE name = 'r'",
        TranscriptKind::Answer as u8
    );
    place.change(&damaged, &damaged);
    assert!(place.run(["transcript", "r"]).stderr().contains("WF0317"), "whoever reads the line is told");
    assert_eq!(place.run(["signal", "r", "go"]).code(), Some(0));
    for (verb, code) in [(&["resume", "r"][..], 1), (&["events", "r", "-f"], 0), (&["logs", "r", "-f"], 0)] {
        let ran = place.run(verb);
        assert_eq!(ran.code(), Some(code), "{verb:?}: {}", ran.stderr());
    }
    assert_eq!(place.show("r")["failure"]["message"], "now");
}

#[test]
fn a_run_that_is_queued_says_who_advances_it() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "x", "delay_ms": 600_000 } }));
    let mut child = spawn(&place, "r", &json!([{ "agent": "slow" }]), &["--agents", &script]);
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    let ran = place.run(["resume", "r", "-d"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let holder = format!("process {} on ", child.id());
    assert!(ran.stderr().contains(&holder) && !ran.stderr().contains("wfhost serve"), "{}", ran.stderr());
    assert_eq!(place.run(["resume", "r", "-d", "-o", "json"]).ok_json()["id"], "r");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let module = module("probe");
    let added = place.run(["schedule", "add", "daily", &module, "--every", "1d", "-i", r#"{"do":[]}"#]);
    assert_eq!(added.code(), Some(0), "{}", added.stderr());
    let fired = place.run(["schedule", "fire", "daily", "-o", "json"]).ok_json();
    assert_eq!((&fired["state"], &fired["workflow"]), (&json!("queued"), &json!("probe")), "{fired}");
}

#[test]
fn what_is_asked_for_has_limits() {
    let place = Place::new();
    assert_eq!(run(&place, "r", &json!([{ "wait": { "name": "go" } }]), &["--no-wait"]).code(), Some(3));
    for args in [&["ps", "-n", "0"][..], &["inbox", "-n", "0"], &["ps", "-n", "many"]] {
        let error = place.run(args).error(2, &place);
        assert!(error.contains("a number of at least 1"), "{args:?}: {error}");
    }
    let long = "x".repeat((64 << 10) + 1);
    for verb in ["cancel", "terminate"] {
        let error = place.run([verb, "r", "--reason", &long]).error(2, &place);
        assert!(error.starts_with("error[WF0003]: the reason"), "{verb}: {}", &error[..error.len().min(200)]);
    }
    assert_eq!(place.show("r")["state"], "waiting");
}

/// Nothing may be written for hours, by which it would notice that nobody reads any more.
#[test]
fn who_follows_ends_when_its_reader_does() {
    let place = Place::new();
    let program = json!([{ "log": "the line" }, { "wait": { "name": "go" } }]);
    assert_eq!(run(&place, "r", &program, &["--no-wait"]).code(), Some(3));
    let mut child = place.spawn(["logs", "-f", "r"]);
    let mut reader = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reader, &mut line).expect("the only line");
    assert!(line.contains("the line"), "{line}");
    drop(reader);
    let ended = eventually("it ends", || child.try_wait().expect("a child can be asked"));
    assert_eq!(ended.code(), Some(0));
}
