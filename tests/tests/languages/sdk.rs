//! The Rust SDK and the builder, as a user meets them: futures and their
//! combinators on the real host, and a project of one's own.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, module};

fn count(place: &Place, kind: &str) -> usize {
    place.journal("r").iter().filter(|entry| entry["kind"] == kind).count()
}

#[test]
fn combinators_of_futures_do_what_they_say_and_do_it_again_on_replay() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}" } }));
    let program = json!([
        { "unordered": [{ "sleep": 2_000 }, { "sleep": 1 }, { "each": [{ "sleep": 20 }, { "agent": "a" }] }] },
        { "race": [{ "sleep": 60_000 }, { "agent": "b" }, { "wait": { "name": "never" } }] },
        { "timeout": { "millis": 5, "operation": { "wait": { "name": "never" } } } },
        { "timeout": { "millis": 60_000, "operation": { "agent": "in time" } } },
        { "start_then_drop": { "parallel": [{ "sleep": 60_000 }, { "wait": { "name": "go" } }] } },
        { "meanwhile": { "sleep": 20, "operation": { "agent": "c" } } },
        { "wait": { "name": "go" } },
    ]);
    let input = json!({ "do": program }).to_string();
    let mut child = place.spawn(["run", &module("probe"), "-i", &input, "--id", "r", "--agents", &script]);
    eventually("the last wait", || {
        let waits = place.run(["show", "r", "-o", "json"]).code() == Some(0)
            && place.show("r")["waiting_for"] == json!([{ "kind": "signal", "name": "go" }]);
        (waits && count(&place, "cancelled") == 6).then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let before = place.journal("r");
    let calls = place.calls().len();
    place.run(["signal", "r", "go", "-i", "7"]);
    let results = place.run(["resume", "r"]).ok_json();
    assert_eq!(results[0], json!([[1, null], [2, [null, "a"]], [0, null]]));
    assert_eq!(results[1], json!([1, "b"]));
    assert_eq!(results[2]["failure"], "timed-out");
    assert_eq!(results.as_array().unwrap()[3..], [json!("in time"), Value::Null, json!("c"), json!(7)]);
    assert_eq!(place.journal("r")[..before.len()], before);
    assert_eq!(place.calls().len(), calls);
}

#[test]
fn a_failure_has_the_kind_the_message_and_the_details_that_the_program_gave_it() {
    let place = Place::new();
    let details = json!({ "missing": [1, 2] });
    let fail = json!({ "fail_with": { "kind": "rejected", "message": "no", "details": details } });
    let input = json!({ "do": [fail] }).to_string();
    place.run(["run", &module("probe"), "-i", &input, "--id", "r"]).error(1, &place);
    let failure = &place.show("r")["failure"];
    assert_eq!((&failure["kind"], &failure["message"]), (&json!("rejected"), &json!("no")));
    assert_eq!(failure["details"], details);
}

#[test]
fn what_a_language_leaves_to_the_machine_is_the_same_in_every_run() {
    let place = Place::new();
    let input = json!({ "do": ["hash_order", "nan_bits", "addresses"] }).to_string();
    let run = || place.run(["run", &module("probe"), "-i", &input]).ok_json();
    let first = run();
    assert_eq!(
        first[1],
        json!(["7ff8000000000000", "7ff8000000000000", "7ff8000000000000", "7ff8000000000000"])
    );
    assert_eq!(first, run());
}

#[test]
fn a_new_project_builds_and_a_crate_without_a_workflow_is_told_so() {
    let place = Place::new();
    let dir = place.path("flow").display().to_string();
    assert_eq!(place.run(["new", &dir]).code(), Some(0));
    let out = place.path("out.wasm").display().to_string();
    let built = place.run(["build", &dir, "--out", &out, "-o", "json"]).ok_json();
    assert_eq!((&built["name"], &built["path"]), (&json!("flow"), &json!(out)));
    let script = place.path("flow/agents.json").display().to_string();
    let greeting = place.run(["run", &out, "-i", r#"{"name":"Ada"}"#, "--agents", &script]).ok_json();
    assert_eq!(greeting, json!({ "greeting": "Hello, Ada!" }));

    let source = place.path("flow/src/lib.rs");
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("#[wfhost::workflow]", "#[allow(dead_code)]")).unwrap();
    let error = place.run(["build", &dir]).error(2, &place);
    assert!(
        error.ends_with(
            "error[WF0612]: flow exports neither a workflow nor an agent\n   hint: put `#[wfhost::workflow]` on the `async fn` \
             that is the workflow, or `#[wfhost::agent]` on the `fn` of a plugin\n"
        ),
        "{error}"
    );
    let error = place.run(["build", &dir, "-p", "flaw"]).error(2, &place);
    assert!(
        error.contains("error[WF0611]: DIR/flow does not contain the package `flaw`, but `flow`"),
        "{error}"
    );
}
