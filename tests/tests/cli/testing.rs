//! `wfhost test`: mistakes in workflows are found, with a story that says why.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, finish, module};

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
    let ended = "the run failed: rejected: the simulated agent fails";
    assert_eq!(story(&finding), ["agent `book hotel` answers", "agent `charge` fails: rejected", ended]);
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
    assert_eq!(finding["fault"]["what"], "2 calls match `^charge`; expected: at most 1");
    // The one that lost is the other one that pays.
    let lost =
        story(&finding).iter().filter(|what| what.contains("though the run no longer waits for it")).count();
    assert_eq!(lost, 1, "{finding}");
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
    let [never, answered, stands] = story(&finding).try_into().unwrap();
    assert_eq!(never, "signal `revised` is never sent");
    assert!(answered.starts_with("a person answers `go on?`: "), "{answered}");
    assert_eq!(stands, "the run is waiting for the signal `revised`");
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

/// Many executions of an example, in so many at once.
fn many(place: &Place, jobs: &str, more: &[&str]) -> Child {
    // One in a hundred fails.
    let scenario = "input = { topic = \"bees\" }\n[[agents]]\nreply = \"ok\"\nfails = 0.2\n\
                    [expect]\nstates = [\"completed\"]\n";
    let file = place.file("often.toml", scenario);
    let kept = place.path(&format!("kept-{jobs}")).display().to_string();
    let research = module("research");
    let args = ["test", &research, "--scenario", &file, "--keep", &kept];
    let args = args.into_iter().chain(["--executions", "600", "-o", "json", "--jobs", jobs]);
    place.spawn(args.chain(more.iter().copied()))
}

/// What a process said, which ends soon.
fn ends_soon(mut child: Child) -> Ran {
    let patience = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > patience {
            child.kill().unwrap();
            panic!("it does not end: {}", finish(child).stderr());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    finish(child)
}

/// What came of it, but for the time that it took.
fn report_of(child: Child) -> Value {
    report(&finish(child))
}

fn report(ran: &Ran) -> Value {
    let mut report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
    let report = report["reports"][0].as_object_mut().expect("a report");
    report.remove("seconds");
    json!(report)
}

/// The processes that execute for another one.
fn helpers_of(parent: u32) -> Vec<Pid> {
    let pids = std::fs::read_dir("/proc").expect("processes").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let helps = |pid: &i32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        let is_child = status.lines().any(|line| line.split_whitespace().eq(["PPid:", &parent.to_string()]));
        is_child && read("cmdline").contains("\u{1}simulate")
    };
    pids.filter(helps).filter_map(Pid::from_raw).collect()
}

#[test]
fn the_same_seeds_give_the_same_report_however_many_are_tried_at_once() {
    let place = Place::new();
    let alone = report_of(many(&place, "1", &[]));
    assert_eq!(alone["executions"], 600, "{alone}");
    assert!(alone["failed"].as_u64() > Some(0) && alone["findings"][0]["left"].is_u64(), "{alone}");
    let mut children = many(&place, "3", &[]);
    let helpers = || match children.try_wait() {
        Ok(None) => Some(helpers_of(children.id())).filter(|helpers| helpers.len() == 2),
        ended => panic!("it ended without them: {ended:?}"),
    };
    eventually("two processes that help", helpers);
    assert_eq!(alone, report_of(children));
}

/// The process that executes for another one, when it is there.
fn helper_of(child: &mut Child) -> Pid {
    let helpers = || match child.try_wait() {
        Ok(None) => helpers_of(child.id()).first().copied(),
        ended => panic!("it ended without one: {ended:?}"),
    };
    eventually("a process that helps", helpers)
}

#[test]
fn a_process_that_executes_for_another_one_can_be_missed() {
    let place = Place::new();
    let alone = report_of(many(&place, "1", &[]));
    let mut child = many(&place, "2", &[]);
    kill_process(helper_of(&mut child), Signal::KILL).expect("it is there");
    assert_eq!(alone, report_of(child));
}

/// Neither when somebody interrupts, nor when the time is over.
#[test]
fn nobody_waits_at_the_end_for_a_process_that_executes_for_another_one() {
    let place = Place::new();
    for time in [None, Some("1s")] {
        let more = time.map(|time| ["--time", time]);
        let mut child = many(&place, "2", more.as_ref().map_or(&[], |more| &more[..]));
        kill_process(helper_of(&mut child), Signal::STOP).expect("it is there");
        if time.is_none() {
            kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
        }
        let report = report(&ends_soon(child));
        // What was executed until then is told.
        assert!(report["executions"].as_u64() < Some(600), "{report}");
    }
}

/// One seed in thirty computes for long: its neighbours are executed by whoever is free.
#[test]
fn seeds_that_take_much_longer_than_others_change_no_report() {
    let place = Place::new();
    let slow = json!({ "each": [{ "sleep": 97_000 }, { "floats": 50_000 }] });
    let program = json!([{ "race": [{ "agent": "quick" }, slow] }, { "agent_or_fail": { "prompt": "x" } }]);
    let rest = r#"
        [[agents]]
        match = "^quick"
        delay = "1s..100s"
        [[agents]]
        fails = 0.02
        kinds = ["rejected"]
        [expect]
        states = ["completed"]
    "#;
    let scenario = format!("{}{rest}", input(&program));
    let report = |jobs: &str| {
        let args = ["--executions", "600", "-o", "json", "--jobs", jobs];
        let ran = test(&place, &module("probe"), &scenario, &args);
        let mut report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
        report["reports"][0].as_object_mut().unwrap().remove("seconds");
        report
    };
    let alone = report("1");
    assert!(alone["reports"][0]["failed"].as_u64() > Some(0), "{alone}");
    assert_eq!(alone, report("3"));
}

/// An execution that computes for long is waited for, unless somebody insists.
#[test]
fn a_second_interrupt_ends_the_process() {
    let place = Place::new();
    // Each step may compute for some seconds.
    let program: Vec<_> =
        (0..100).flat_map(|_| [json!({ "sleep": 1 }), json!({ "floats": 3_000_000 })]).collect();
    let input = json!({ "do": program }).to_string();
    let (module, one) = (module("probe"), ["--executions", "1", "--jobs", "1"]);
    let mut child = place.spawn(["test", &module, "-i", &input].into_iter().chain(one));
    eventually("that it takes interrupts", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        (u64::from_str_radix(caught, 16).unwrap() & 2 != 0).then_some(())
    });
    for _ in 0..100 {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        kill_process(Pid::from_child(&child), Signal::INT).expect("it is there");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(ends_soon(child).code(), Some(130));
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
    let unused = |rule: &str| told.contains(&format!("scenario: never applied: {rule}\n"));
    assert!(unused("agents, rule 2, `^never`") && unused("people, rule 1"), "{told}");
    assert!(!told.contains("`^outline`"), "{told}");
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

/// A mistake in a pattern is no success that nobody looks at.
#[test]
fn expectations_that_never_apply_are_told() {
    let place = Place::new();
    let charge = json!({ "agent_or_fail": { "prompt": "charge" } });
    let program = json!([{ "agent": "book" }, { "wait": { "name": "go" } }, charge]);
    let unused = |states: &str, when: &str, typo: &str| {
        let rest = format!(
            r#"
            [[agents]]
            provider = "nobody"
            [[agents]]
            match = "^charge"
            fails = 0.3
            kinds = ["rejected"]
            [[agents]]
            reply = "ok"
            [[signals]]
            name = "go{typo}"
            [expect]
            states = [{states}]
            [[expect.calls]]
            match = "^charge{typo}"
            at_most = 1
            [[expect.calls]]
            match = "^refund"
            at_most = 0
            [[expect.calls]]
            match = "^book"
            when = ["{when}"]
            [[expect.owed]]
            done = "^book{typo}"
            undone = "^book"
            [[expect.order]]
            first = "^book"
            then = "^charge{typo}"
            [[expect.alone]]
            match = "^(book|charge){typo}"
            "#
        );
        let scenario = format!("{}{rest}", input(&program));
        let ran = test(&place, &module("probe"), &scenario, &["--executions", "60", "-o", "json"]);
        let report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
        assert_eq!(report["reports"][0]["failed"], 0, "{report}");
        report["reports"][0]["coverage"]["unused"].clone()
    };
    let right = unused(r#""completed", "failed""#, "completed", "");
    assert_eq!(right, json!(["agents, rule 1"]));
    // The run waits for ever.
    let wrong = unused(r#""completed", "waiting""#, "cancelled", "_");
    let expected = json!([
        "agents, rule 1",
        "agents, rule 2, `^charge`",
        "signals, rule 1, `go_`",
        "expect.states, `completed`",
        "expect.calls, rule 1, `^charge_`",
        "expect.calls, rule 3, `^book`",
        "expect.owed, rule 1, `^book_`",
        "expect.order, rule 1, `^charge_`",
        "expect.alone, rule 1, `^(book|charge)_`",
    ]);
    assert_eq!(wrong, expected);
}

/// A host that dies while children settle is followed by another one, as at any other time.
#[test]
fn a_child_that_is_stopped_compensates_although_the_host_dies_then() {
    let place = Place::new();
    let step = json!({ "name": "trip", "do": { "agent": "book" }, "undo": [{ "agent": "cancel" }] });
    let wait = json!({ "name": "wait", "do": { "wait": { "name": "never" } } });
    let booking = json!({ "do": [{ "pattern_or_fail": { "saga": [step, wait] } }] });
    let child = json!({ "hold": { "child": { "module": "probe", "input": booking } } });
    let program = json!([child, { "sleep": 3_600_000 }, { "fail": "no" }]);
    let rest = r#"
        [[agents]]
        reply = "ok"
        delay = "1s"
        [world]
        kills = 0.2
        dropped = 0
        [expect]
        states = ["failed"]
        [[expect.calls]]
        match = "^book"
        at_least = 1
        [[expect.owed]]
        done = "^book"
        undone = "^cancel"
    "#;
    let scenario = format!("{}{rest}", input(&program));
    let ran = test(&place, &module("probe"), &scenario, &["--executions", "200", "-o", "json"]);
    let report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
    assert_eq!(report["reports"][0]["failed"], 0, "{report}");
}

#[test]
fn what_was_undone_before_it_was_done_again_is_found() {
    let place = Place::new();
    let program = json!([{ "agent": "book" }, { "agent": "cancel" }, { "agent": "book" }, { "fail": "no" }]);
    let rest = r#"
        [[agents]]
        reply = "ok"
        [expect]
        states = ["failed"]
        [[expect.owed]]
        done = "^book"
        undone = "^cancel"
    "#;
    let finding = found(&place, &program, rest);
    assert_eq!(finding["fault"]["kind"], "owed", "{finding}");
    let program = json!([{ "agent": "book" }, { "agent": "book" }, { "agent": "cancel" }, { "fail": "no" }]);
    let finding = found(&place, &program, rest);
    let what = finding["fault"]["what"].as_str().unwrap();
    assert!(what.contains("of 2 such calls, only 1 can be undone"), "{what}");
}

/// The run of a seed does not take the place of the shrunk one, and one that passes is no failure.
#[test]
fn a_single_seed_keeps_what_fails_under_a_name_of_its_own() {
    let place = Place::new();
    let scenario = |program: Value| format!("{}[[agents]]\nfails = 0.5\n", input(&program));
    let failing = scenario(json!([{ "agent": "a" }, { "wait": { "name": "never" } }]));
    // A link that came with the project is not written through.
    let mine = place.file("mine", "mine");
    std::fs::create_dir(place.path("kept")).unwrap();
    std::os::unix::fs::symlink(&mine, place.path("kept/scenario-0.jsonl")).unwrap();
    let ran = test(&place, &module("probe"), &failing, &["--executions", "3"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    let shrunk = std::fs::read(place.path("kept/scenario-0.jsonl")).unwrap();
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine");
    let ran = test(&place, &module("probe"), &failing, &["--seed", "0"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(ran.stdout().contains("kept/scenario-0.whole.jsonl"), "{}", ran.stdout());
    assert_eq!(std::fs::read(place.path("kept/scenario-0.jsonl")).unwrap(), shrunk);
    let whole = place.path("kept/scenario-0.whole.jsonl");
    assert_eq!(place.run(["db", "import", &whole.display().to_string()]).code(), Some(0));
    let passing = scenario(json!([{ "agent": "a" }]));
    let ran = test(&place, &module("probe"), &passing, &["--seed", "1"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stdout());
    assert_eq!(names_in(&place.path("kept")), ["scenario-0.jsonl", "scenario-0.whole.jsonl"]);
    for flag in [&["--coverage"][..], &["--junit", "x.xml"]] {
        let args = [&["--seed", "0"][..], flag].concat();
        let refused = test(&place, &module("probe"), &passing, &args);
        assert_eq!(refused.code(), Some(2), "{}", refused.stdout());
    }
}

fn names_in(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Nothing passes that was never executed.
#[test]
fn one_execution_at_least_is_made_in_whatever_time() {
    let place = Place::new();
    let scenario = format!("{}[[agents]]\n", input(&json!([{ "wait": { "name": "never" } }])));
    let ran = test(&place, &module("probe"), &scenario, &["--time", "0s"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stdout());
    assert!(ran.stdout().contains("the run never ends"), "{}", ran.stdout());
}

#[test]
fn failures_of_scenarios_with_the_same_file_name_are_kept_apart() {
    let place = Place::new();
    let scenario = format!("{}[[agents]]\n", input(&json!([{ "wait": { "name": "never" } }])));
    let mut args = vec!["test".to_owned(), module("probe"), "--executions".to_owned(), "1".to_owned()];
    for dir in ["a", "b"] {
        std::fs::create_dir(place.path(dir)).unwrap();
        args.extend(["--scenario".to_owned(), place.file(&format!("{dir}/x.toml"), &scenario)]);
    }
    args.extend(["--keep".to_owned(), place.path("kept").display().to_string()]);
    let ran = place.run(&args);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert_eq!(names_in(&place.path("kept")), ["x-0.jsonl", "x-2-0.jsonl"]);
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

/// A rule for a provider answers what goes to that provider, not each call in whose list it stands.
#[test]
fn a_rule_for_a_provider_answers_the_attempts_that_go_to_it() {
    let place = Place::new();
    let rules =
        ["[[agents]]\nprovider = \"a\"\nfails = 1\n", "[[agents]]\nprovider = \"b\"\nreply = \"from b\"\n"];
    let [fails, answers] = ["agent `x` fails: unavailable", "agent `x` answers"];
    for (providers, expected) in [(["a", "b"], &[fails, answers][..]), (["b", "a"], &[answers])] {
        let program = input(&json!([{ "agent_with": { "prompt": "x", "providers": providers } }]));
        for (first, second) in [(0, 1), (1, 0)] {
            let scenario = format!("{program}{}{}[world]\nkills = 0\n", rules[first], rules[second]);
            let ran = test(&place, &module("probe"), &scenario, &["--seed", "3", "-o", "json"]);
            let report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
            let story = story(&report["executions"][0]);
            let calls: Vec<_> = story.into_iter().filter(|what| what.starts_with("agent")).collect();
            assert_eq!(calls, expected, "{scenario}");
        }
    }
}

/// However few calls a run makes, it is cancelled in the share of executions that the scenario names.
#[test]
fn runs_of_any_length_are_cancelled_as_often_as_the_scenario_says() {
    let place = Place::new();
    // A step that is cancelled fails the run.
    let step = |work: Value| json!({ "pattern_or_fail": { "saga": [{ "name": "s", "do": work }] } });
    let (call, sleep) = (step(json!({ "agent": "x" })), step(json!({ "sleep": 3_600_000 })));
    for program in [
        json!([call]),
        json!([call, sleep, call]),
        json!([sleep]),
        json!([step(json!({ "wait": { "name": "never" } }))]),
    ] {
        for (share, least, most) in [(1.0, 200, 200), (0.3, 30, 90)] {
            let world = format!("[world]\nkills = 0\ncancel = {share:?}\n");
            let scenario = format!("{}[[agents]]\nreply = 1\n{world}", input(&program));
            let ran = test(&place, &module("probe"), &scenario, &["--executions", "200", "-o", "json"]);
            let report: Value = serde_json::from_str(&ran.stdout()).expect("JSON");
            let cancelled = report["reports"][0]["coverage"]["ends"]["cancelled"].as_u64().unwrap_or(0);
            assert!((least..=most).contains(&cancelled), "{program} {share}: {report}");
        }
    }
}
