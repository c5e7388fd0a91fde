//! What a run names by its path on the machine where it was begun.

use std::path::PathBuf;

use serde_json::json;
use wfhost_tests::{Place, module};

#[test]
fn a_child_whose_module_is_on_another_machine_is_no_failure_of_its_parent() {
    let place = Place::at(&private_postgres::fresh_url());
    assert_eq!(place.run(["--synchronous", "normal", "db", "init"]).code(), Some(0));
    let there = place.path("there");
    std::fs::create_dir(&there).expect("a directory");
    for name in ["probe", "counter"] {
        std::fs::copy(module(name), there.join(format!("{name}.wasm"))).expect("a module");
    }
    let program = json!([{ "agent": "a" }, { "child": { "module": "counter", "input": { "steps": 1 } } }]);
    let input = json!({ "do": program }).to_string();
    let run = there.join("probe.wasm").display().to_string();
    let begun = place.run(["run", &run, "-q", "-d", "--id", "r", "-i", &input, "--agent", "echo"]);
    assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
    // For the host that comes now it is another machine's.
    let elsewhere = place.path("elsewhere");
    std::fs::rename(&there, &elsewhere).expect("it can be renamed");
    let served = place.run(["serve", "-q", "--idle", "500ms", "--agent", "echo"]);
    assert_eq!(served.code(), Some(0), "{}", served.stderr());
    let why = place.run(["why", "r"]).stdout();
    assert!(why.contains("counter") && why.contains(&there.display().to_string()), "{why}");
    let error = place.run(["resume", "r", "-q", "--agent", "echo"]).error(4, &place);
    assert!(error.starts_with("error[WF0415]") && error.contains("wfhost add"), "{error}");
    // The program has not been told of a failure.
    assert!(place.journal("r").iter().all(|entry| entry["kind"] != "ended"), "{:?}", place.journal("r"));
    let added = place.run(["add", &elsewhere.join("counter.wasm").display().to_string()]);
    assert_eq!(added.code(), Some(0), "{}", added.stderr());
    let resumed = place.run(["resume", "r", "-q", "--agent", "echo"]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    assert_eq!(place.show("r.2")["state"], "completed");
}

/// A directory of the machine where a run is begun.
fn there(place: &Place) -> PathBuf {
    let there = place.path("there");
    std::fs::create_dir(&there).expect("a directory");
    there
}

#[test]
fn a_script_is_kept_with_the_run_and_answers_on_a_machine_that_has_no_such_file() {
    for place in [Place::in_file(), Place::on_server(private_postgres::fresh_url())] {
        let there = there(&place);
        let script = there.join("agents.json");
        std::fs::write(&script, json!({ "default": { "reply": "as it was: ${prompt}" } }).to_string())
            .expect("a test's own file");
        let input =
            json!({ "do": [{ "agent": "a" }, { "wait": { "name": "go" } }, { "agent": "b" }] }).to_string();
        let agents = script.display().to_string();
        let begun =
            place.run(["run", &module("probe"), "-q", "-d", "--id", "r", "-i", &input, "--agents", &agents]);
        assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
        // Another file stands there by then.
        std::fs::write(&script, json!({ "default": { "reply": "changed" } }).to_string()).expect("its own");
        let served = place.run(["serve", "-q", "--idle", "300ms"]);
        assert_eq!(served.code(), Some(0), "{}", served.stderr());
        assert_eq!(place.show("r")["steps"][0]["output"]["output"], "as it was: a");
        // And then none.
        std::fs::remove_dir_all(&there).expect("it is there");
        assert_eq!(place.run(["signal", "r", "go", "-q", "-i", "1"]).code(), Some(0));
        // What no run needs is removed, and nothing else.
        assert_eq!(place.run(["db", "gc", "--older-than", "0s", "--yes"]).code(), Some(0));
        let served = place.run(["serve", "-q", "--idle", "300ms"]);
        assert_eq!(served.code(), Some(0), "{}", served.stderr());
        let shown = place.show("r");
        assert_eq!(
            (&shown["state"], &shown["steps"][2]["output"]["output"]),
            (&json!("completed"), &json!("as it was: b"))
        );
    }
}

#[test]
fn what_a_script_names_on_another_machine_is_told_and_the_run_goes_on_with_other_rules() {
    let place = Place::on_server(private_postgres::fresh_url());
    let there = there(&place);
    let script = there.join("agents.json");
    let rules = json!({ "default": { "reply": "x" }, "calls": "calls.jsonl" });
    std::fs::write(&script, rules.to_string()).expect("a test's own file");
    let input = json!({ "do": [{ "agent": "a" }] }).to_string();
    let agents = script.display().to_string();
    let begun =
        place.run(["run", &module("probe"), "-q", "-d", "--id", "r", "-i", &input, "--agents", &agents]);
    assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
    std::fs::rename(&there, place.path("elsewhere")).expect("it can be renamed");
    assert_eq!(place.run(["serve", "-q", "--idle", "500ms"]).code(), Some(0));
    let why = place.run(["why", "r"]).stdout();
    assert!(why.contains("calls.jsonl"), "{why}");
    let error = place.run(["resume", "r", "-q"]).error(4, &place);
    assert!(error.starts_with("error[WF0418]") && error.contains("calls.jsonl"), "{error}");
    assert!(error.contains("hint: name other rules: `wfhost resume r --agents FILE`"), "{error}");
    let other = place.file("other.json", json!({ "default": { "reply": "y" } }).to_string());
    let resumed = place.run(["resume", "r", "-q", "--agents", &other]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    assert_eq!(place.show("r")["state"], "completed");
}

#[test]
fn a_script_that_the_database_has_lost_is_not_taken_for_what_its_file_has_become() {
    for place in [Place::in_file(), Place::on_server(private_postgres::fresh_url())] {
        let rules = json!({ "default": { "reply": "as it was" } }).to_string();
        let agents = place.file("agents.json", &rules);
        let input = json!({ "do": [{ "agent": "a" }] }).to_string();
        let begun =
            place.run(["run", &module("probe"), "-q", "-d", "--id", "r", "-i", &input, "--agents", &agents]);
        assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
        place.change("DELETE FROM blobs", "DELETE FROM blobs");
        place.file("agents.json", json!({ "default": { "reply": "changed" } }).to_string());
        let error = place.run(["resume", "r", "-q"]).error(4, &place);
        assert!(error.starts_with("error[WF0418]") && error.contains("has another text now"), "{error}");
        place.file("agents.json", &rules);
        let resumed = place.run(["resume", "r", "-q"]);
        assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
        assert_eq!(place.show("r")["steps"][0]["output"]["output"], "as it was");
    }
}

#[test]
fn a_directory_that_another_machine_lacks_or_has_otherwise_is_told_and_the_run_waits_for_it() {
    let place = Place::on_server(private_postgres::fresh_url());
    let there = there(&place);
    std::fs::write(there.join("data.txt"), "one").expect("a test's own file");
    let input = json!({ "do": [{ "wait": { "name": "go" } }] }).to_string();
    let grant = format!("{}::/data", there.display());
    let begun = place.run(["run", &module("probe"), "-q", "-d", "--id", "r", "-i", &input, "--dir", &grant]);
    assert_eq!(begun.code(), Some(0), "{}", begun.stderr());
    let elsewhere = place.path("elsewhere");
    std::fs::rename(&there, &elsewhere).expect("it can be renamed");
    assert_eq!(place.run(["signal", "r", "go", "-q", "-i", "1"]).code(), Some(0));
    assert_eq!(place.run(["serve", "-q", "--idle", "500ms"]).code(), Some(0));
    let error = place.run(["resume", "r", "-q"]).error(4, &place);
    assert!(error.starts_with("error[WF0405]") && error.contains("DIR/there"), "{error}");
    assert!(error.contains("hint: "), "{error}");
    // With other content it is not the directory that the run was granted.
    std::fs::rename(&elsewhere, &there).expect("it can be renamed");
    std::fs::write(there.join("data.txt"), "two").expect("its own");
    let error = place.run(["resume", "r", "-q"]).error(4, &place);
    assert!(error.starts_with("error[WF0405]") && error.contains("hint: restore "), "{error}");
    std::fs::write(there.join("data.txt"), "one").expect("its own");
    let resumed = place.run(["resume", "r", "-q"]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    assert_eq!(place.show("r")["state"], "completed");
}
