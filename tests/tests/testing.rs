//! `wfhost test`: mistakes in workflows are found, with a story that says why.

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, module};

fn test(place: &Place, module: &str, scenario: &str, more: &[&str]) -> Ran {
    let file = place.file("scenario.toml", scenario);
    let kept = place.path("kept").display().to_string();
    let args = ["test", module, "--scenario", &file, "--keep", &kept];
    place.run(args.iter().chain(more))
}

/// A program of the probe, as the input of a scenario.
fn input(program: &Value) -> String {
    // JSON of these programs is TOML but for the colons.
    let toml = toml_of(&json!({ "do": program }));
    format!("input = {toml}\n")
}

fn toml_of(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name} = {}", toml_of(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// What was found: the report as JSON, after a look at the text and the exit code.
fn found(place: &Place, program: &Value, rest: &str) -> Value {
    let scenario = format!("{}{rest}", input(program));
    let ran = test(place, &module("probe"), &scenario, &["--executions", "300", "-o", "json"]);
    assert_eq!(ran.code(), Some(1), "{}{}", ran.stdout(), ran.stderr());
    let report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
    report["reports"][0]["findings"][0].clone()
}

fn story(finding: &Value) -> Vec<&str> {
    finding["story"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect()
}

#[test]
fn a_compensation_that_is_forgotten_is_found() {
    let place = Place::new();
    let program = json!([
        { "agent_or_fail": { "prompt": "book hotel" } },
        { "agent_or_fail": { "prompt": "charge" } },
    ]);
    let rest = r#"
        [[agents]]
        reply = "ok"
        fails = 0.2
        kinds = ["rejected"]
        [[expect.owed]]
        done = "^book (\\w+)"
        undone = "^cancel $1"
    "#;
    let finding = found(&place, &program, rest);
    assert_eq!(finding["fault"]["kind"], "owed", "{finding}");
    // Nothing is left that has nothing to do with it.
    assert_eq!(story(&finding), ["agent `book hotel` answers", "agent `charge` fails: rejected"]);
    // The seed repeats it, and the run can be looked into.
    let seed = finding["seed"].to_string();
    let file = place.path(&format!("kept/scenario-{seed}.jsonl"));
    assert_eq!(place.run(["db", "import", &file.display().to_string()]).code(), Some(0));
    assert_eq!(place.run(["replay", "test"]).code(), Some(0));
    let scenario = format!("{}{rest}", input(&program));
    let again = test(&place, &module("probe"), &scenario, &["--seed", &seed]);
    assert_eq!(again.code(), Some(1));
    assert!(again.stdout().contains("agent `charge` fails: rejected"), "{}", again.stdout());
}

#[test]
fn a_race_that_pays_twice_is_found() {
    let place = Place::new();
    let again = json!({ "each": [{ "sleep": 5_000 }, { "agent": "charge again" }] });
    let program = json!([{ "race": [{ "agent": "charge" }, again] }]);
    let rest = r#"
        [[agents]]
        reply = "ok"
        delay = "1s..1h"
        [[expect.calls]]
        match = "^charge"
        at_most = 1
    "#;
    let finding = found(&place, &program, rest);
    assert_eq!(finding["fault"]["what"], "2 calls match `^charge`, but at most 1 are expected");
}

#[test]
fn a_wait_for_what_may_never_come_is_found() {
    let place = Place::new();
    let program = json!([{ "ask": { "prompt": "go on?" } }, { "wait": { "name": "revised" } }]);
    let rest = r#"
        [[people]]
        answers = ["yes", "no"]
        [[signals]]
        name = "revised"
        never = 0.1
    "#;
    let finding = found(&place, &program, rest);
    assert_eq!(finding["fault"]["what"], "the run never ends: it is waiting for the signal `revised`");
    assert_eq!(story(&finding), [r#"a person answers `go on?`: "yes""#]);
}

#[test]
fn panics_and_forgotten_waits_need_no_scenario() {
    let place = Place::new();
    for (program, expected) in [
        (json!([{ "agent": "x" }, { "panic": "oh" }]), "oh"),
        (json!([{ "wait": { "name": "never" } }]), "the run never ends"),
    ] {
        let input = json!({ "do": program }).to_string();
        let junit = place.path("junit.xml").display().to_string();
        let kept = place.path("kept").display().to_string();
        let ran = place.run([
            "test",
            &module("probe"),
            "-i",
            &input,
            "--executions",
            "20",
            "--junit",
            &junit,
            "--keep",
            &kept,
        ]);
        assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
        assert!(ran.stdout().contains(expected), "{}", ran.stdout());
        let xml = std::fs::read_to_string(&junit).unwrap();
        assert!(xml.contains("<failure message=") && xml.contains(expected), "{xml}");
    }
}

/// The scenario of the documentation, over the example that it is for, and what is said of it there.
#[test]
fn the_example_saga_undoes_what_it_owes_whatever_happens() {
    let place = Place::new();
    let docs = std::fs::read_to_string(wfhost_tests::target().join("../docs/testing.md")).unwrap();
    let scenario = docs.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let report = |scenario: &str| {
        let ran = test(&place, &module("saga"), scenario, &["--executions", "600", "-o", "json"]);
        let report: Value = serde_json::from_str(&ran.stdout()).unwrap();
        report["reports"][0].clone()
    };
    let killed = report(scenario);
    assert_eq!(killed["failed"], 0, "{killed}");
    assert!(killed["coverage"]["deaths"].as_u64() > Some(50), "{killed}");
    assert!(killed["coverage"]["orders"].as_u64() > Some(20), "{killed}");
    let cancelled = report(&scenario.replace("kills = 0.05", "kills = 0\ncancel = 0.3"));
    assert_eq!(cancelled["failed"], 0, "{cancelled}");
    for end in ["completed", "failed", "cancelled"] {
        assert!(cancelled["coverage"]["ends"][end].as_u64() > Some(0), "{cancelled}");
    }
    let both = report(&scenario.replace("kills = 0.05", "kills = 0.05\ncancel = 0.3"));
    assert_eq!(both["findings"][0]["fault"]["kind"], "owed", "{both}");
}

#[test]
fn the_same_seeds_give_the_same_report_however_many_are_tried_at_once() {
    let place = Place::new();
    let report = |jobs: &str| {
        let input = r#"{"topic":"bees"}"#;
        let args =
            ["test", &module("research"), "-i", input, "--executions", "60", "-o", "json", "--jobs", jobs];
        let mut report: Value = serde_json::from_str(&place.run(args).stdout()).unwrap();
        report["reports"][0].as_object_mut().unwrap().remove("seconds");
        report
    };
    let alone = report("1");
    assert_eq!(alone["reports"][0]["failed"], 0, "{alone}");
    assert_eq!(alone, report("3"));
}

/// Answers are compared with their schemas in no virtual time, and in the same order each time.
#[test]
fn answers_of_a_type_take_no_time() {
    let place = Place::new();
    let schema =
        json!({ "type": "object", "required": ["ok"], "properties": { "ok": { "type": "boolean" } } });
    let call = |prompt: &str| json!({ "agent_with": { "prompt": prompt, "schema": schema } });
    let program = json!([{ "each": [call("a"), call("b"), call("c")] }, call("d")]);
    let rest = r#"
        within = "1h"
        [[agents]]
        replies = [{ ok = true }, { ok = false }, { ok = "perhaps" }]
        delay = "1s"
        [expect]
        states = ["completed"]
    "#;
    let scenario = format!("{}{rest}", input(&program));
    let report = || {
        let args = ["--executions", "60", "-o", "json", "--jobs", "6"];
        let ran = test(&place, &module("probe"), &scenario, &args);
        let mut report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
        report["reports"][0].as_object_mut().unwrap().remove("seconds");
        report
    };
    let first = report();
    assert_eq!(first["reports"][0]["failed"], 0, "{first}");
    assert_eq!(first, report());
}

#[test]
fn calls_in_the_wrong_order_or_side_by_side_are_found() {
    let place = Place::new();
    let program = json!([{ "parallel": [{ "agent": "review" }, { "agent": "publish" }] }]);
    let agents = "[[agents]]\nreply = \"ok\"\ndelay = \"1s..10m\"\n";
    let order = format!("{agents}[[expect.order]]\nfirst = \"^review\"\nthen = \"^publish\"\n");
    let finding = found(&place, &program, &order);
    assert_eq!(finding["fault"]["what"], "`publish` was made before any call that matches `^review`");
    let alone = format!("{agents}[[expect.alone]]\nmatch = \"^review|^publish\"\n");
    let finding = found(&place, &program, &alone);
    assert_eq!(finding["fault"]["kind"], "order", "{finding}");
    // One after the other both hold.
    let program = json!([{ "agent": "review" }, { "agent": "publish" }]);
    let both = format!("{}{order}{}", input(&program), alone.replace(agents, ""));
    let ran = test(&place, &module("probe"), &both, &["--executions", "100"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stdout());
}

#[test]
fn coverage_tells_how_steps_ended_and_which_rules_never_applied() {
    let place = Place::new();
    let program = json!([{ "agent": "outline" }]);
    let scenario = format!(
        "{}[[agents]]\nmatch = \"^outline\"\nfails = 0.5\nkinds = [\"rejected\"]\n[[agents]]\nmatch = \"^never\"\n[[people]]\n",
        input(&program)
    );
    let ran = test(&place, &module("probe"), &scenario, &["--executions", "50", "--coverage"]);
    let told = ran.stdout() + &ran.stderr();
    assert!(told.contains("outline") && told.contains(" rejected") && told.contains(" completed"), "{told}");
    assert!(told.contains("agents `^never`") && told.contains("people, the 1. rule"), "{told}");
    assert!(!told.contains("agents `^outline`"), "{told}");
    // All scenarios of a project are taken if none is named.
    let dir = place.path("project");
    std::fs::create_dir_all(dir.join("scenarios")).unwrap();
    let probe = dir.join("probe.wasm");
    std::fs::copy(module("probe"), &probe).unwrap();
    let usual = format!("{}[[agents]]\nreply = 1\n", input(&program));
    for name in ["wfhost-test.toml", "scenarios/b.toml", "scenarios/a.toml"] {
        std::fs::write(dir.join(name), &usual).unwrap();
    }
    let args = ["test", &probe.display().to_string(), "-o", "json"];
    let mut command = place.wfhost(args);
    let output = command.env("WFHOST_EXECUTIONS", "5").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reports = report["reports"].as_array().unwrap();
    let names: Vec<_> = reports.iter().map(|report| report["scenario"].as_str().unwrap()).collect();
    assert_eq!(names, ["wfhost-test", "a", "b"]);
    assert_eq!(reports[0]["executions"], 5);
}

#[test]
fn what_is_no_scenario_is_refused_with_its_place() {
    let place = Place::new();
    let ran = test(&place, &module("probe"), "[[agents]]\nfails = 7\n", &[]);
    let error = ran.error(2, &place);
    assert!(error.starts_with("error[WF0820]") && error.contains("a number from 0 to 1"), "{error}");
    assert!(error.contains("2 | fails = 7"), "{error}");
    let missing = place.run(["test", &module("probe"), "--scenario", "/no/such.toml"]);
    assert!(missing.error(2, &place).starts_with("error[WF0820]"));
}

/// What was found is not lost because it cannot be written.
#[test]
fn a_finding_that_cannot_be_kept_is_told() {
    let place = Place::new();
    let input = json!({ "do": [{ "wait": { "name": "never" } }] }).to_string();
    let keep = place.file("taken", "a file");
    let ran = place.run(["test", &module("probe"), "-i", &input, "--executions", "3", "--keep", &keep]);
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    assert!(ran.stdout().contains("the run never ends"), "{}", ran.stdout());
    assert!(ran.stderr().contains("error[WF0822]"), "{}", ran.stderr());
}
