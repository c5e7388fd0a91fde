//! `wfhost db copy`: from one machine to many, and back.

use serde_json::json;
use wfhost_tests::{Place, Ran, module};

/// A database with everything that one can have.
fn filled() -> Place {
    let place = Place::in_file();
    let run = |id: &str, program: serde_json::Value, more: &[&str]| {
        let (module, input) = (module("probe"), json!({ "do": program }).to_string());
        let mut args = vec!["run", &module, "-i", &input, "--id", id, "--agent", "echo"];
        args.extend(more);
        place.run(args)
    };
    let ok = |ran: Ran, code: i32| assert_eq!(ran.code(), Some(code), "{}", ran.stderr());
    let all = json!([
        { "agent": "nul \u{0} and one \u{1}" }, { "log": "line" }, { "publish": { "key": "k", "value": [1, "é"] } },
        { "post": { "name": "m", "payload": 2 } },
        { "child": { "module": "probe", "input": { "do": [{ "agent": "c" }] } } },
    ]);
    ok(run("done", all, &["--label", "team=red", "--key", "order-1"]), 0);
    ok(run("fails", json!([{ "fail": "no" }]), &[]), 1);
    ok(run("asks", json!([{ "ask": { "prompt": "Go?" } }]), &["--no-wait"]), 3);
    ok(run("waits", json!([{ "wait": { "name": "go" } }, { "agent": "after" }]), &["--no-wait"]), 3);
    ok(run("rounds", json!([{ "continue_as_new": { "do": [{ "agent": "2" }] } }]), &[]), 0);
    ok(run("sleeps", json!([{ "sleep": 3_600_000 }]), &["--no-wait"]), 3);
    ok(run("paused", json!([{ "wait": { "name": "go" } }]), &["--no-wait"]), 3);
    ok(run("gone", json!([]), &[]), 0);
    ok(run("queued", json!([{ "agent": "q" }]), &["-d"]), 0);
    ok(place.run(["pause", "paused"]), 0);
    ok(place.run(["signal", "paused", "go", "-i", "1", "--id", "first"]), 0);
    ok(place.run(["signal", "waits", "other", "-i", "2", "--id", "second"]), 0);
    ok(place.run(["delete", "gone", "--yes"]), 0);
    let probe = module("probe");
    ok(place.run(["schedule", "add", "hourly", "--every", "1h", &probe, "-i", r#"{"do":[]}"#]), 0);
    ok(place.run(["token", "new", "ci", "--scope", "runs:read"]), 0);
    place
}

/// What can be seen of a database.
fn seen(place: &Place, database: &str) -> Vec<String> {
    let mut views = Vec::new();
    let mut look = |args: &[&str]| {
        let ran = Ran(place.wfhost(args).env("WFHOST_DB", database).output().expect("the binary starts"));
        assert_eq!(ran.code(), Some(0), "{args:?}: {}", ran.stderr());
        views.push(format!("{args:?}\n{}", ran.stdout()));
    };
    look(&["ps", "-o", "json", "-n", "100"]);
    look(&["events", "-o", "jsonl"]);
    look(&["modules", "-o", "json"]);
    look(&["schedule", "ls", "-o", "json"]);
    look(&["token", "ls", "-o", "json"]);
    look(&["token", "audit", "-o", "json"]);
    look(&["inbox", "-o", "json"]);
    for run in ["done", "fails", "asks", "waits", "rounds", "sleeps", "paused", "queued", "done.1"] {
        for verb in ["show", "journal", "logs", "messages", "state", "transcript"] {
            let known = place.wfhost([verb, run, "-o", "json"]).env("WFHOST_DB", database).output();
            let known = known.expect("the binary starts");
            views.push(format!("{verb} {run}\n{}", String::from_utf8_lossy(&known.stdout)));
        }
    }
    views
}

#[test]
fn everything_is_copied_to_a_server_and_back() {
    let place = filled();
    let file = place.database();
    let server = private_postgres::fresh_url();
    let normal = |args: &[&str]| {
        let mut command = place.wfhost(args);
        Ran(command.env("WFHOST_SYNCHRONOUS", "normal").output().expect("the binary starts"))
    };
    let ran = normal(&["db", "copy", &file, &server]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!(ran.stderr().contains("all journals match"), "{}", ran.stderr());
    let back = place.path("back.db").display().to_string();
    let ran = normal(&["db", "copy", &server, &back]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let there = Place::at(&server);
    let before = seen(&place, &file);
    assert!(before.iter().any(|view| view.contains("order-1") && view.contains("team")), "{before:?}");
    for (name, other) in [("the server", seen(&there, &server)), ("back", seen(&place, &back))] {
        for (one, other) in before.iter().zip(&other) {
            assert_eq!(one, other, "{name}");
        }
    }
    for database in [&server, &back] {
        let on = |args: &[&str]| {
            let command = &mut place.wfhost(args);
            Ran(command
                .env("WFHOST_DB", database)
                .env("WFHOST_SYNCHRONOUS", "normal")
                .output()
                .expect("it starts"))
        };
        let check = on(&["db", "check", "--deep"]);
        assert_eq!(check.code(), Some(0), "{database}: {}", check.stderr());
        // What was known is known: keys, ids of signals, ids that were deleted, questions, what waits.
        let (probe, input) = (module("probe"), r#"{"do":[]}"#);
        let again = on(&["run", &probe, "-i", input, "--key", "order-1", "--agent", "echo"]);
        assert!(again.stderr().contains("WF0304"), "{}", again.stderr());
        let gone = on(&["run", &probe, "-i", input, "--id", "gone"]);
        assert!(gone.stderr().contains("was deleted"), "{}", gone.stderr());
        assert_eq!(on(&["signal", "waits", "go", "-i", "3", "--id", "second"]).code(), Some(0));
        assert_eq!(on(&["signal", "waits", "go", "-i", "5"]).code(), Some(0));
        assert_eq!(on(&["approve", "asks"]).code(), Some(0));
        assert_eq!(on(&["resume", "paused", "-d"]).code(), Some(0));
        let served = on(&["serve", "--idle", "500ms", "--agent", "echo"]);
        assert_eq!(served.code(), Some(0), "{}", served.stderr());
        for run in ["waits", "asks", "paused", "queued"] {
            let show = on(&["show", run, "-o", "json"]).ok_json();
            assert_eq!(show["state"], "completed", "{database}: {show}");
        }
        // The signal with an id that was used before was none.
        assert_eq!(on(&["show", "waits", "-o", "json"]).ok_json()["output"][0], 5);
        let check = on(&["db", "check", "--deep"]);
        assert_eq!(check.code(), Some(0), "{database}: {}", check.stderr());
        // New events come behind the old ones.
        let events = on(&["events", "-o", "jsonl"]).stdout();
        let places: Vec<u64> = events
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["place"].as_u64())
            .collect();
        assert!(places.is_sorted(), "{database}: {places:?}");
    }
    // Neither is empty any more.
    for (from, to) in [(&file, &server), (&server, &back)] {
        let error = normal(&["db", "copy", from, to]);
        assert_eq!(error.code(), Some(2), "{}", error.stderr());
        assert!(error.stderr().starts_with("error[WF0340]"), "{}", error.stderr());
    }
}

#[test]
fn a_database_whose_last_run_was_deleted_is_copied() {
    let place = Place::in_file();
    for id in ["first", "last"] {
        let ran = place.run(["run", &module("probe"), "-i", r#"{"do":[]}"#, "--id", id]);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    }
    assert_eq!(place.run(["delete", "last", "--yes"]).code(), Some(0));
    let (copy, server) = (place.path("copy.db").display().to_string(), private_postgres::fresh_url());
    for (from, to) in [(place.database(), copy.clone()), (copy, server)] {
        let ran = place.run(["--synchronous", "normal", "db", "copy", &from, &to]);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        assert!(ran.stderr().contains("all journals match"), "{}", ran.stderr());
    }
}

#[test]
fn a_database_in_use_is_not_copied() {
    let place = Place::in_file();
    let mut host = place.spawn(["serve", "--idle", "60s"]);
    let server = private_postgres::fresh_url();
    wfhost_tests::eventually("the session", || {
        let ran = place.run(["--synchronous", "normal", "db", "copy", &place.database(), &server]);
        ran.stderr().starts_with("error[WF0341]").then_some(())
    });
    host.kill().expect("it is there");
    host.wait().expect("it was killed");
    let missing = place.path("missing.db").display().to_string();
    let error = place.run(["db", "copy", &missing, &server]).error(2, &place);
    assert!(error.starts_with("error[WF0321]"), "{error}");
    assert!(!place.path("missing.db").exists());
}
