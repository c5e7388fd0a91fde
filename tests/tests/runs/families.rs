//! Children, runs that continue as new, forks, and new code for old runs.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, bytes_of_version, eventually, finish, module};

/// A run of the probe in the foreground.
pub(super) fn probe(place: &Place, id: &str, program: Value, more: &[&str]) -> Ran {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    place.run(["run", &module, "-i", &input, "--id", id].into_iter().chain(more.iter().copied()))
}

pub(super) fn spawn(place: &Place, id: &str, program: Value, more: &[&str]) -> Child {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    place.spawn(["run", &module, "-i", &input, "--id", id].into_iter().chain(more.iter().copied()))
}

/// A child of the probe that is a probe itself.
pub(super) fn child(program: Value) -> Value {
    json!({ "child": { "module": "probe", "input": { "do": program } } })
}

fn kinds(place: &Place, run: &str) -> Vec<String> {
    place.journal(run).iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect()
}

pub(super) fn state(place: &Place, run: &str) -> Option<String> {
    let ran = place.run(["show", run, "-o", "json"]);
    (ran.code() == Some(0)).then(|| ran.ok_json()["state"].as_str().unwrap().to_owned())
}

pub(super) fn wait_for_state(place: &Place, run: &str, wanted: &str) {
    eventually(&format!("{run} is {wanted}"), || {
        (state(place, run).as_deref() == Some(wanted)).then_some(())
    });
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How often a run was begun at most without having come forward since.
fn starts(place: &Place) -> u32 {
    let sql = |table: &str| format!("SELECT coalesce(max(starts), 0) FROM {table}");
    place.query(&sql("runs"), &sql("hot")).trim().parse().unwrap()
}

/// Runs the program as `p`, and kills and resumes it, each time a little later, until it comes to
/// its end. Gives how often that was.
fn killed_until_it_ends(place: &Place, program: Value, more: &[&str]) -> (Ran, u64) {
    // What a host claims more often without coming forward is given up: that is another behaviour. The process that is
    // to be killed may be about to claim, and so is the next one.
    const STARTS: u32 = 5 - 2;
    let mut running = spawn(place, "p", program, more);
    let mut kills = 0;
    eventually("the run", || state(place, "p"));
    loop {
        std::thread::sleep(std::time::Duration::from_millis(70 + 17 * kills));
        let is_over = eventually("progress", || {
            let is_over = running.try_wait().unwrap().is_some();
            (is_over || starts(place) <= STARTS).then_some(is_over)
        });
        if is_over {
            return (finish(running), kills);
        }
        kill(running);
        kills += 1;
        running = place.spawn(["resume", "p"].iter().chain(more));
    }
}

fn echo() -> [&'static str; 2] {
    ["--agent", "echo"]
}

#[test]
fn a_child_is_a_run_of_its_own_and_gives_its_result_or_failure() {
    let place = Place::new();
    let program = json!([
        child(json!([{ "agent": "hello" }, "info_all"])),
        { "child": { "module": "probe", "id": "named", "labels": { "k": "v" }, "input": { "do": [{ "fail": "no" }] } } },
        { "child": { "module": "probe", "id": "named" } },
        { "child": { "module": "no-such" } },
        { "child": { "module": "../probe" } },
    ]);
    let results = probe(&place, "p", program, &echo()).ok_json();
    assert_eq!(results[0][0], "hello");
    assert_eq!((&results[0][1]["run"], &results[0][1]["parent"]), (&json!("p.1"), &json!("p")));
    assert_eq!((&results[1]["failure"], &results[1]["message"]), (&json!("failed"), &json!("no")));
    assert_eq!(results[2]["failure"], "rejected");
    assert!(results[2]["message"].as_str().unwrap().contains("the run named already exists"), "{results}");
    assert!(
        results[3]["message"].as_str().unwrap().contains("the module `no-such` is not in the store"),
        "{results}"
    );
    assert!(results[4]["message"].as_str().unwrap().contains("invalid module name"), "{results}");
    let shown = place.show("p.1");
    assert_eq!((&shown["parent"], &shown["root"]), (&json!("p"), &json!("p")));
    assert_eq!(place.show("named")["labels"], json!({ "k": "v" }));
    // People see the family; what is last is what they began.
    let tree = place.run(["ps", "--tree"]).stdout();
    let names: Vec<_> =
        tree.lines().skip(1).map(|line| line.split("  prob").next().unwrap().trim_end()).collect();
    assert_eq!(names, ["p", "  p.1", "  named"]);
    let shown = place.run(["show", "@last"]).stdout();
    assert!(shown.contains("run       p\n") && shown.contains("p.1  "), "{shown}");
    assert!(place.run(["show", "p.1"]).stdout().contains("parent    p, step 1\n"));
    for run in ["p", "p.1", "named"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
        assert_eq!(place.run(["replay", run]).code(), Some(0), "{run}");
    }
}

#[test]
fn a_file_beside_the_parent_is_found_by_its_name() {
    let place = Place::new();
    std::fs::copy(module("probe"), place.path("parent.wasm")).unwrap();
    std::fs::copy(module("hello"), place.path("helper.wasm")).unwrap();
    place.file("broken.wasm", "no module");
    let input = json!({ "do": [
        { "child": { "module": "helper", "input": { "name": "Ada" } } },
        { "child": { "module": "broken" } },
    ] });
    let parent = place.path("parent.wasm").display().to_string();
    let results = place.run(["run", &parent, "-i", &input.to_string(), "--agent", "echo"]).ok_json();
    assert_eq!(results[0], json!({ "greeting": "greet Ada" }));
    assert!(results[1]["message"].as_str().unwrap().contains("is not a workflow"), "{results}");
    // Also when the files are gone, for it is in the store now.
    assert!(place.run(["modules"]).stdout().contains("helper  blake3:"));
    assert_eq!(place.run(["add", &module("counter")]).code(), Some(0));
    assert_eq!(place.run(["run", "counter", "-i", r#"{"steps":0}"#]).ok_json(), json!({ "steps": 0 }));
    std::fs::remove_file(place.path("helper.wasm")).unwrap();
    let results = place.run(["run", "parent", "-i", &input.to_string(), "--agent", "echo"]).ok_json();
    assert_eq!(results[0], json!({ "greeting": "greet Ada" }));
}

#[test]
fn a_crash_at_any_time_loses_neither_parent_nor_child() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "done ${prompt}", "delay_ms": 60 } }));
    let ask = |name: &str| child(json!([{ "agent": format!("{name} 1") }, { "agent": format!("{name} 2") }]));
    let program =
        json!([{ "agent": "first" }, { "parallel": [ask("a"), ask("b"), ask("c")] }, { "agent": "last" }]);
    let (ran, kills) = killed_until_it_ends(&place, program, &["--agents", &script]);
    let answers = |name: &str| json!([format!("done {name} 1"), format!("done {name} 2")]);
    assert_eq!(ran.ok_json(), json!(["done first", [answers("a"), answers("b"), answers("c")], "done last"]));
    assert!(kills > 0);
    // One run for each, however often the parent came by, and each call made once unless it was interrupted.
    let runs = place.run(["ps", "-o", "json"]).ok_json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 4);
    let calls = place.calls();
    for prompt in ["first", "a 1", "a 2", "b 1", "b 2", "c 1", "c 2", "last"] {
        let made: Vec<_> = calls.iter().filter(|call| call["prompt"] == prompt).collect();
        let mut keys: Vec<_> = made.iter().map(|call| &call["key"]).collect();
        keys.dedup();
        assert_eq!(keys.len(), 1, "{prompt}: {made:?}");
        assert!(made.len() as u64 <= 1 + kills, "{prompt}: {made:?}");
    }
    for run in ["p", "p.2", "p.3", "p.4"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
    }
}

#[test]
fn a_parent_costs_nothing_while_it_waits_and_any_host_ends_it() {
    let place = Place::new();
    let program = json!([child(json!([{ "wait": { "name": "go" } }]))]);
    let ran = probe(&place, "p", program, &["--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert_eq!(
        (state(&place, "p").as_deref(), state(&place, "p.1").as_deref()),
        (Some("waiting"), Some("waiting"))
    );
    let why = place.run(["why", "p"]).stdout();
    assert!(
        why.contains("step 1 has been waiting for its child p.1 (probe)")
            && why.contains("do  wfhost why p.1"),
        "{why}"
    );
    let server = place.spawn(["serve"]);
    place.run(["signal", "p.1", "go", "-i", "5"]);
    wait_for_state(&place, "p", "completed");
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(finish(server).code(), Some(143));
    assert_eq!(place.show("p")["output"], json!([[5]]));
}

#[test]
fn cancelling_a_parent_cancels_its_children_or_leaves_them() {
    let place = Place::new();
    let wait = json!([{ "wait": { "name": "never" } }]);
    let program = json!([{ "parallel": [
        child(wait.clone()),
        { "child": { "module": "probe", "id": "left", "abandon": true, "input": { "do": wait } } },
    ] }, "cancelled"]);
    let ran = probe(&place, "p", program, &["--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let ran = place.run(["cancel", "p"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    // A cancelled child is a value for its parent, which may go on.
    let shown = place.show("p");
    assert_eq!(shown["state"], "completed", "{shown}");
    assert_eq!(shown["output"][0][0]["failure"], "cancelled");
    assert_eq!(shown["output"][1], json!(true));
    // The probe takes a cancelled wait for a value, too.
    let child = place.show("p.1");
    assert_eq!(child["output"][0]["failure"], "cancelled", "{child}");
    assert_eq!(state(&place, "left").as_deref(), Some("waiting"));
}

#[test]
fn a_child_that_its_parent_drops_is_cancelled_and_one_that_is_cancelled_is_a_failure() {
    let place = Place::new();
    let wait = || child(json!([{ "wait": { "name": "never" } }, { "must_agent": "x" }]));
    let server = place.spawn(["serve", "--agent", "echo"]);
    let dropped = json!([{ "race": [wait(), { "sleep": 300 }] }]);
    assert_eq!(probe(&place, "a", dropped, &[]).ok_json(), json!([[1, null]]));
    wait_for_state(&place, "a.1", "completed");
    assert_eq!(place.show("a.1")["output"][0]["failure"], "cancelled");
    let parent = spawn(&place, "b", json!([wait()]), &echo());
    wait_for_state(&place, "b.1", "waiting");
    assert_eq!(place.run(["delete", "b.1", "--yes"]).code(), Some(0));
    let results = finish(parent).ok_json();
    assert_eq!(
        (&results[0]["failure"], &results[0]["message"]),
        (&json!("cancelled"), &json!("b.1 was deleted"))
    );
    kill(server);
}

#[test]
fn a_budget_is_shared_with_children() {
    let place = Place::new();
    let usage = json!({ "input_tokens": 30, "output_tokens": 10 });
    let script = place.script(json!({ "default": { "reply": "ok", "usage": usage } }));
    let twice = || child(json!([{ "agent": "x" }, { "agent": "y" }]));
    let program = json!([twice(), "budget", twice(), "budget"]);
    let ran = probe(&place, "p", program, &["--agents", &script, "--budget", "tokens=100"]);
    let results = ran.ok_json();
    assert_eq!(results[0], json!(["ok", "ok"]));
    assert_eq!(results[1], json!({ "total": 100, "spent": 80 }));
    assert_eq!((&results[2][0], &results[2][1]["failure"]), (&json!("ok"), &json!("budget-exceeded")));
    assert_eq!(results[3], json!({ "total": 100, "spent": 120 }));
    assert_eq!(place.calls().len(), 3);
    // A child may itself be told what is left.
    let program = json!([{ "agent": "x" }, child(json!(["budget", { "agent": "y" }, "budget"]))]);
    let results = probe(&place, "q", program, &["--agents", &script, "--budget", "tokens=100"]).ok_json();
    assert_eq!(results[1], json!([{ "total": 60, "spent": 0 }, "ok", { "total": 60, "spent": 40 }]));
}

#[test]
fn a_family_has_its_limits() {
    let place = Place::new();
    // Each generation starts the next one.
    let mut program = json!(["info"]);
    for _ in 0..17 {
        program = json!([child(program)]);
    }
    let results = probe(&place, "p", program, &[]).ok_json();
    let mut innermost = &results;
    while innermost[0].is_array() {
        innermost = &innermost[0];
    }
    assert_eq!(innermost[0]["failure"], "rejected", "{results}");
    assert!(innermost[0]["message"].as_str().unwrap().contains("of generation 16"), "{results}");
    assert_eq!(place.run(["ps", "-o", "json"]).ok_json()["runs"].as_array().unwrap().len(), 17);
}

#[test]
fn retrying_a_parent_tries_the_child_that_failed_again() {
    let place = Place::new();
    let default = json!({ "reply": "ok" });
    let fails =
        json!({ "match": "flaky", "reply": "well", "fail": { "times": 1_000, "kind": "unavailable" } });
    let script = place.script(json!({ "rules": [fails], "default": default }));
    let once = json!({ "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } });
    let program =
        json!([{ "agent": "before" }, { "must_child": { "module": "probe", "input": { "do": [once] } } }]);
    let ran = probe(&place, "p", program, &["--agents", &script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    for _ in 0..2 {
        assert_eq!(place.run(["retry", "p", "--agents", &script]).code(), Some(1));
    }
    let script = place.script(json!({ "default": default }));
    let ran = place.run(["retry", "p", "--agents", &script]);
    assert_eq!(ran.ok_json()[0], "ok", "{}", ran.stderr());
    let asked = |prompt: &str| place.calls().iter().filter(|call| call["prompt"] == prompt).count();
    assert_eq!((asked("before"), asked("flaky")), (1, 4));
}

#[test]
fn retrying_a_parent_starts_the_child_that_it_could_not_have_before() {
    let place = Place::new();
    let program =
        json!([{ "agent": "before" }, { "must_child": { "module": "later", "input": { "do": ["info"] } } }]);
    let ran = probe(&place, "p", program, &echo());
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    // Without it nothing is different.
    let ran = place.run(["retry", "p", "--agent", "echo"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(ran.stderr().contains("the module `later` is not in the store"), "{}", ran.stderr());
    let later = place.file("later.wasm", bytes_of_version(1));
    assert_eq!(place.run(["add", &later]).code(), Some(0));
    let ran = place.run(["retry", "p", "--agent", "echo"]);
    assert_eq!(ran.ok_json(), json!(["before", ["p.2"]]), "{}", ran.stderr());
    for run in ["p", "p.2"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
        assert_eq!(place.run(["replay", run]).code(), Some(0), "{run}");
    }
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

#[test]
fn retrying_a_parent_whose_child_may_not_be_fails_again() {
    let place = Place::new();
    probe(&place, "taken", json!(["info"]), &[]).ok_json();
    let program = json!([{ "must_child": { "module": "probe", "id": "taken", "input": { "do": [] } } }]);
    assert_eq!(probe(&place, "p", program, &[]).code(), Some(1));
    let ran = place.run(["retry", "p"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(ran.stderr().contains("the run taken already exists"), "{}", ran.stderr());
    // Nor is one there that was deleted.
    let program = json!([{ "must_child": { "module": "probe", "input": { "do": [{ "fail": "no" }] } } }]);
    assert_eq!(probe(&place, "q", program, &[]).code(), Some(1));
    assert_eq!(place.run(["delete", "q.1", "--yes"]).code(), Some(0));
    let ran = place.run(["retry", "q"]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    assert!(ran.stderr().contains("the id q.1 belonged to a run that was deleted"), "{}", ran.stderr());
}

#[test]
fn retrying_a_parent_takes_up_the_children_that_ended_with_it() {
    let place = Place::new();
    let default = json!({ "reply": "ok" });
    let fails = json!({ "match": "flaky", "reply": "", "fail": { "times": 1_000, "kind": "unavailable", "message": "busy" } });
    let slow = json!({ "match": "slow", "reply": "", "delay_ms": 600_000 });
    let script = place.script(json!({ "rules": [fails, slow], "default": default }));
    let asks =
        |prompt: &str| json!({ "agent_or_fail": { "prompt": prompt, "retry": { "max_attempts": 1 } } });
    let grandchild = json!({ "must_child": { "module": "probe", "input": { "do": [asks("slow")] } } });
    let operations = json!([
        child(json!([{ "wait": { "name": "go" } }, asks("flaky")])),
        child(json!([asks("first"), grandchild])),
        child(json!([asks("slow")]))
    ]);
    let program = json!([{ "pattern_or_fail": { "try_map": { "limit": 3, "operations": operations } } }]);
    let asked = |prompt: &str| place.calls().iter().filter(|call| call["prompt"] == prompt).count();
    let server = place.spawn(["serve"]);
    assert_eq!(probe(&place, "p", program, &["--agents", &script, "--detach"]).code(), Some(0));
    eventually("the calls", || (asked("slow") == 2).then_some(()));
    assert_eq!(place.run(["signal", "p.1", "go"]).code(), Some(0));
    wait_for_state(&place, "p", "failed");
    for run in ["p.2", "p.2.2", "p.3"] {
        wait_for_state(&place, run, "cancelled");
    }
    kill(server);
    let script = place.script(json!({ "default": default }));
    let ran = place.run(["retry", "p", "--agents", &script]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert_eq!((asked("first"), asked("flaky"), asked("slow")), (1, 2, 4));
}

#[test]
fn retrying_a_cancelled_parent_takes_up_its_child() {
    let place = Place::new();
    let slow = json!({ "match": "slow", "reply": "", "delay_ms": 600_000 });
    let script = place.script(json!({ "rules": [slow], "default": { "reply": "ok" } }));
    let must = json!({ "must_child": { "module": "probe", "input": { "do": [{ "must_agent": "slow" }] } } });
    let server = place.spawn(["serve"]);
    // Both, or the child alone: then the parent fails of that, and can be tried again with it.
    for (run, cancelled) in [("p", "p"), ("q", "q.1")] {
        let child = format!("{run}.1");
        let begun = place.calls().len();
        assert_eq!(probe(&place, run, json!([must]), &["--agents", &script, "--detach"]).code(), Some(0));
        eventually("the call", || (place.calls().len() > begun).then_some(()));
        assert_eq!(place.run(["cancel", cancelled]).code(), Some(0));
        wait_for_state(&place, run, "cancelled");
        wait_for_state(&place, &child, "cancelled");
    }
    kill(server);
    let quick = place.script(json!({ "default": { "reply": "ok" } }));
    for run in ["p", "q"] {
        let ran = place.run(["retry", run, "--agents", &quick]);
        assert_eq!(ran.ok_json(), json!([["ok"]]), "{}", ran.stderr());
    }
}

#[test]
fn a_run_continues_as_new_with_state_and_signals() {
    let place = Place::new();
    let wait = json!({ "wait": { "name": "s" } });
    let third = json!({ "do": [wait.clone(), "info"] });
    let second = json!({ "do": [wait.clone(), { "continue_as_new": third }] });
    let first = json!([wait, { "sleep": 400 }, { "continue_as_new": second }]);
    let running = spawn(&place, "r", first, &[]);
    eventually("the run", || state(&place, "r"));
    // One that is waited for, one that comes in while it sleeps, one that comes later and to the old id.
    place.run(["signal", "r", "s", "-i", "1", "--id", "one"]);
    eventually("the sleep", || kinds(&place, "r").contains(&"received".to_owned()).then_some(()));
    place.run(["signal", "r", "s", "-i", "2", "--id", "two"]);
    wait_for_state(&place, "r", "continued");
    eventually("the third round", || state(&place, "r-3"));
    // What was delivered is not delivered again, whichever round it went to.
    assert!(place.run(["signal", "r", "s", "--id", "two"]).stderr().contains("Duplicate  r-3 "));
    assert!(place.run(["signal", "r", "s", "-i", "3"]).stderr().contains("Sent  s to r-3\n"));
    let ran = finish(running);
    assert_eq!(ran.ok_json(), json!([3, "r-3"]));
    assert!(ran.stderr().contains("Continued  as r-2\n"), "{}", ran.stderr());
    assert_eq!(place.show("r-2")["steps"][0]["output"], json!(2));
    assert_eq!(kinds(&place, "r").last().map(String::as_str), Some("continued-as-new"));
    let chain = place.run(["show", "r-2", "--chain"]).stdout();
    let names: Vec<_> = chain.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["r", "r-2", "r-3"]);
    assert!(place.run(["show", "r-3"]).stdout().contains("chain     begins with r\n"));
    assert!(place.run(["why", "r"]).stdout().contains("it continues as r-2"));
    for run in ["r", "r-2", "r-3"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
        assert_eq!(place.run(["replay", run]).code(), Some(0), "{run}");
    }
    // A result of the last round is that of the run.
    assert_eq!(place.run(["resume", "r"]).ok_json(), json!([3, "r-3"]));
}

#[test]
fn continuing_survives_kills_and_counts_as_one_child() {
    let place = Place::new();
    let mut rounds = json!({ "do": [{ "sleep": 20 }, "info"] });
    for _ in 0..12 {
        rounds = json!({ "do": [{ "sleep": 20 }, { "continue_as_new": rounds }] });
    }
    let program = json!([{ "child": { "module": "probe", "id": "c", "input": rounds } }]);
    let (ran, kills) = killed_until_it_ends(&place, program, &[]);
    assert!(kills > 0);
    assert_eq!(ran.ok_json(), json!([[null, "c-13"]]));
    let runs = place.run(["ps", "-n", "100", "-o", "json"]).ok_json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 14);
    assert_eq!(runs["runs"].as_array().unwrap().iter().filter(|run| run["state"] == "continued").count(), 12);
}

#[test]
fn a_cancel_is_not_lost_by_continuing_and_large_state_is_refused() {
    let place = Place::new();
    let large = json!({ "do": [], "text": "x".repeat(10 << 20) });
    let input = place.file("input.json", json!({ "do": [{ "continue_as_new": large }] }).to_string());
    let ran = place.run(["run", &module("probe"), "-i", &format!("@{input}"), "--id", "big"]);
    assert_eq!(ran.code(), Some(2), "{}", ran.stderr());
    assert!(ran.stderr().contains("more than the 10485760 that are allowed"), "{}", ran.stderr());
    let forever = json!({ "do": [{ "wait": { "name": "never" } }] });
    let program = json!([{ "wait": { "name": "never" } }, { "continue_as_new": forever }]);
    assert_eq!(probe(&place, "r", program, &["--no-wait"]).code(), Some(3));
    assert_eq!(place.run(["cancel", "r"]).code(), Some(0));
    eventually("the second round", || {
        place.run(["resume", "r"]);
        (place.show("r-2")["output"][0]["failure"] == "cancelled").then_some(())
    });
}

#[test]
fn a_fork_shares_what_was_done_before() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}!" } }));
    let program = json!([{ "agent": "a" }, "random", { "agent": "b" }, { "agent_about": { "agent": "c" } }]);
    let original = probe(&place, "r", program.clone(), &["--agents", &script]).ok_json();
    let journal = place.journal("r");
    assert_eq!(place.calls().len(), 4);
    let completed: Vec<_> = journal.iter().filter(|entry| entry["kind"] == "completed").collect();
    let at = |index: usize| completed[index]["position"].to_string();
    // Behind the first answer: the other three are asked again, with other keys.
    let behind = (completed[0]["position"].as_u64().unwrap() + 1).to_string();
    let ran = place.run(["fork", "r", "--at", &behind, "--id", "f", "--agents", &script]);
    assert_eq!(ran.ok_json(), original, "{}", ran.stderr());
    let calls = place.calls();
    assert_eq!(calls.iter().map(|call| call["prompt"].as_str().unwrap()).collect::<String>(), "abcc!bcc!");
    assert_ne!(calls[1]["key"], calls[4]["key"]);
    assert_eq!(place.journal("r"), journal);
    // Another answer: what follows is about that.
    let edit = format!("{}=\"d\"", at(2));
    let ran = place.run(["fork", "r", "--edit", &edit, "--id", "g", "--agents", &script]);
    assert_eq!(ran.ok_json()[3], "d!", "{}", ran.stderr());
    assert_eq!(place.calls().len(), 8);
    let diff = place.run(["diff", "r", "g"]).stdout();
    assert!(
        diff.contains("2 steps are the same")
            && diff.contains("step 3 (agent c) was answered differently at output"),
        "{diff}"
    );
    assert!(diff.contains("step 4 requests something else: prompt\n  a  c!\n  b  d\n"), "{diff}");
    // Another input, with which the program asks for something else than it did.
    let other = json!({ "do": [{ "agent": "z" }] }).to_string();
    let error = place.run(["fork", "r", "--at", "3", "-i", &other]).error(5, &place);
    assert!(error.contains("a fork of r would be non-deterministic at entry 1"), "{error}");
    assert_eq!(
        place.run(["fork", "r", "--at", "1", "-i", &other, "--agents", &script]).ok_json(),
        json!(["z!"])
    );
    for (args, reason) in [
        (&["--at", "0"][..], "a fork copies at least 1"),
        (&["--at", "99"], "not 99"),
        (&["--edit", "1=2"], "entry 1 is `scheduled`, which has no answer"),
        (&["--edit", "4=2", "--at", "3"], "entry 4 is not copied"),
    ] {
        let error = place.run(["fork", "r"].iter().chain(args)).error(2, &place);
        assert!(error.contains("error[WF0205]: invalid fork of r") && error.contains(reason), "{error}");
    }
    for run in ["f", "g"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
        assert_eq!(place.run(["replay", run]).code(), Some(0), "{run}");
    }
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

#[test]
fn a_fork_has_children_and_questions_of_its_own() {
    let place = Place::new();
    let asks = json!({ "ask": { "prompt": "well?" } });
    let program = json!([{ "parallel": [child(json!([{ "wait": { "name": "go" } }])), asks] }]);
    assert_eq!(probe(&place, "p", program, &["--no-wait"]).code(), Some(3));
    let ran = place.run(["fork", "p", "--id", "f", "--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert_eq!(place.run(["inbox", "-o", "jsonl"]).stdout().lines().count(), 2);
    for (run, answer) in [("p", "1"), ("f", "2")] {
        assert_eq!(place.run(["answer", run, "-i", answer]).code(), Some(0));
        place.run(["signal", &format!("{run}.1"), "go", "-i", answer]);
        let answer: Value = answer.parse().unwrap();
        assert_eq!(place.run(["resume", run]).ok_json(), json!([[[answer], answer]]));
    }
    assert_eq!(place.show("f.1")["root"], "f");
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

#[test]
fn a_fork_of_answers_asks_only_what_was_not_asked() {
    let place = Place::new();
    let usage = json!({ "input_tokens": 5, "output_tokens": 5 });
    let script = place.script(json!({ "default": { "reply": "${prompt}!", "usage": usage } }));
    let program = json!([{ "agent": "a" }, { "agent": "a" }, { "agent": "b" }, { "child": { "module": "probe", "input": { "do": [] } } }]);
    probe(&place, "r", program, &["--agents", &script]).ok_json();
    // Another order, more of one, one left out.
    let new = json!({ "do": [{ "agent": "b" }, { "parallel": [{ "agent": "a" }, { "agent": "a" }, { "agent": "a" }] },
        { "child": { "module": "probe", "input": { "do": [] } } }, { "agent_with": { "prompt": "b" } }] });
    let args = ["fork", "r", "--reuse", "-i", &new.to_string(), "--id", "f", "--agents", &script];
    let results = place.run(args).ok_json();
    assert_eq!((&results[0], &results[1]), (&json!("b!"), &json!(["a!", "a!", "a!"])));
    assert_eq!(place.calls().len(), 5, "{:?}", place.calls());
    assert_eq!(state(&place, "f.5"), None, "the child's result was taken over, too");
    assert_eq!(place.show("f")["spent"]["tokens"], 20);
    assert_eq!(place.run(["replay", "f"]).code(), Some(0));
}

#[test]
fn a_retry_of_a_fork_of_answers_takes_them_too() {
    let place = Place::new();
    let fails = json!({ "match": "flaky", "reply": "", "fail": { "times": 1_000, "kind": "unavailable" } });
    let default = json!({ "reply": "ok" });
    let script = place.script(json!({ "rules": [fails], "default": default }));
    probe(&place, "r", json!([{ "agent": "a" }, { "agent": "b" }]), &["--agents", &script]).ok_json();
    let flaky = json!({ "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } });
    let new = json!({ "do": [{ "agent": "a" }, flaky, { "agent": "b" }] }).to_string();
    let ran = place.run(["fork", "r", "--reuse", "-i", &new, "--id", "f", "--agents", &script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    let script = place.script(json!({ "default": default }));
    let ran = place.run(["retry", "f", "--agents", &script]);
    assert_eq!(ran.ok_json()[2], "ok", "{}", ran.stderr());
    let asked: Vec<_> = place.calls().iter().map(|call| call["prompt"].clone()).collect();
    assert_eq!(asked, ["a", "b", "flaky", "flaky"]);
    assert_eq!(place.run(["replay", "f"]).code(), Some(0));
}

#[test]
fn an_exported_journal_tests_new_code() {
    let place = Place::new();
    let program = json!([{ "agent": "a" }, { "wait": { "name": "go" } }]);
    assert_eq!(probe(&place, "r", program, &["--no-wait", "--agent", "echo"]).code(), Some(3));
    let file = place.path("r.jsonl").display().to_string();
    assert_eq!(place.run(["db", "export", "r", &file]).code(), Some(0));
    let ran = place.run(["check", &module("probe"), "--replay", &file, "--replay", "r"]);
    assert_eq!(
        (ran.code(), ran.stdout().as_str()),
        (Some(0), "compatible r\ncompatible r\n"),
        "{}",
        ran.stderr()
    );
    assert_eq!(place.run(["check", &module("probe"), "--all"]).stdout(), "compatible r\n");
    let ran = place.run(["check", &module("hello"), "--replay", &file]);
    assert_eq!(ran.code(), Some(5), "{}", ran.stderr());
    assert!(ran.stdout().starts_with("diverges   r  entry 1 has agent"), "{}", ran.stdout());
    let error =
        place.run(["check", &module("hello"), "--replay", &place.file("x", "garbage")]).error(2, &place);
    assert!(error.contains("WF0510"), "{error}");
}

#[test]
fn waiting_runs_are_moved_to_new_code_if_it_agrees() {
    let place = Place::new();
    // The same program in other bytes, and another one.
    let mut bytes = std::fs::read(module("probe")).unwrap();
    bytes.extend([0, 4, 1, b'x', 1, 2]);
    let new = place.file("probe.wasm", &bytes);
    let script = place.script(json!({ "default": { "reply": "ok" } }));
    let wait = json!([{ "agent": "a" }, { "wait": { "name": "go" } }, { "agent": "b" }]);
    for run in ["one", "two"] {
        assert_eq!(probe(&place, run, wait.clone(), &["--no-wait", "--agents", &script]).code(), Some(3));
    }
    assert_eq!(place.run(["pause", "two"]).code(), Some(0));
    let (before, journal) = (place.show("one"), place.journal("one"));
    let ran = place.run(["upgrade", "--workflow", "probe", "--module", &module("hello")]);
    assert_eq!(ran.code(), Some(5), "{}", ran.stderr());
    assert!(ran.stdout().starts_with("diverges   two  entry 1 has agent"), "{}", ran.stdout());
    let after = place.show("one");
    assert_eq!(
        (place.journal("one"), &after["state"], &after["module"]),
        (journal, &json!("waiting"), &before["module"])
    );
    let ran = place.run(["upgrade", "--workflow", "probe", "--module", &new]);
    assert_eq!(
        (ran.code(), ran.stdout().as_str()),
        (Some(0), "migrated   two\nmigrated   one\n"),
        "{}",
        ran.stderr()
    );
    assert_ne!(place.show("one")["module"], before["module"]);
    assert_eq!(
        (state(&place, "one").as_deref(), state(&place, "two").as_deref()),
        (Some("waiting"), Some("paused"))
    );
    assert_eq!(place.run(["upgrade", "one", "--module", &new]).stdout(), "same       one\n");
    place.run(["signal", "one", "go", "-i", "7"]);
    assert_eq!(place.run(["resume", "one", "--agents", &script]).ok_json(), json!(["ok", 7, "ok"]));
    assert_eq!(place.calls().iter().filter(|call| call["prompt"] == "a").count(), 2);
    for run in ["one", "two"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
    }
}

#[test]
fn a_schedule_begins_each_run_once_however_many_hosts_there_are() {
    let place = Place::new();
    let input = json!({ "do": [{ "wait": { "name": "go", "timeout_ms": 300 } }] }).to_string();
    let add = |name: &str, more: &[&str]| {
        let module = module("probe");
        let args = ["schedule", "add", name, &module, "-i", &input];
        place.run(args.into_iter().chain(more.iter().copied()))
    };
    let ran = add("often", &["--every", "1s", "--overlap", "allow", "--label", "k=v"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!(ran.stdout().contains("when      every 1s\n"), "{}", ran.stdout());
    assert!(add("often", &["--every", "5s"]).error(2, &place).contains("WF0514"));
    assert_eq!(add("daily", &["--cron", "0 9 * * *", "--tz", "Europe/Berlin"]).code(), Some(0));
    assert!(add("bad", &["--cron", "0 25 * * *"]).error(2, &place).contains("invalid cron expression"));
    assert!(
        add("bad", &["--cron", "0 9 * * *", "--tz", "Mars/Base"])
            .error(2, &place)
            .contains("unknown time zone")
    );
    let servers: Vec<_> = (0..4).map(|_| place.spawn(["serve"])).collect();
    let fired = || {
        let shown = place.run(["schedule", "show", "often", "-o", "json"]).ok_json();
        shown["fired"].as_u64().unwrap()
    };
    eventually("three firings", || (fired() >= 3).then_some(()));
    place.run(["schedule", "pause", "often"]);
    let fired = fired();
    let shown = place.run(["schedule", "show", "often"]).stdout();
    assert!(shown.contains("next      never: it is paused"), "{shown}");
    let runs = || place.run(["ps", "--label", "schedule=often", "--label", "k=v", "-o", "json"]).ok_json();
    assert_eq!(runs()["runs"].as_array().unwrap().len() as u64, fired);
    eventually("their ends", || {
        runs()["runs"].as_array().unwrap().iter().all(|run| run["state"] == "completed").then_some(())
    });
    let id = place.run(["schedule", "fire", "daily"]).stdout().trim().to_owned();
    wait_for_state(&place, &id, "completed");
    for server in servers {
        kill(server);
    }
    let listed = place.run(["schedule", "ls"]).stdout();
    assert!(listed.contains("0 9 * * * Europe/Berlin") && listed.contains("  paused  "), "{listed}");
    assert_eq!(place.run(["schedule", "resume", "often"]).code(), Some(0));
    assert_eq!(place.run(["schedule", "rm", "often"]).code(), Some(0));
    assert!(
        place
            .run(["schedule", "rm", "ofen"])
            .error(2, &place)
            .contains("`wfhost schedule ls` lists all schedules")
    );
}

#[test]
fn a_schedule_waits_for_its_run_or_cancels_it() {
    let place = Place::new();
    let input = json!({ "do": [{ "wait": { "name": "go" } }] }).to_string();
    for (name, overlap) in [("queue", "queue"), ("cancel", "cancel"), ("skip", "skip")] {
        let args =
            ["schedule", "add", name, &module("probe"), "-i", &input, "--every", "1s", "--overlap", overlap];
        assert_eq!(place.run(args).code(), Some(0));
    }
    let server = place.spawn(["serve"]);
    let runs = |name: &str| {
        let label = format!("schedule={name}");
        let listed = place.run(["ps", "--label", &label, "-o", "json"]).ok_json();
        listed["runs"].as_array().unwrap().clone()
    };
    eventually("the third of those that are cancelled", || (runs("cancel").len() >= 3).then_some(()));
    assert_eq!((runs("queue").len(), runs("skip").len()), (1, 1));
    eventually("the end of the first", || (runs("cancel").last()?["state"] == "completed").then_some(()));
    assert_eq!(runs("cancel").last().unwrap()["output"][0]["failure"], "cancelled");
    place.run(["signal", runs("queue")[0]["id"].as_str().unwrap(), "go"]);
    eventually("the next in the queue", || (runs("queue").len() == 2).then_some(()));
    kill(server);
}

#[test]
fn what_a_run_publishes_is_kept_with_its_history() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "ok", "delay_ms": 5 } }));
    let publish = |value: u64| json!({ "publish": { "key": "progress", "value": value } });
    let program = json!([publish(1), { "agent": "x" }, publish(2), { "publish": { "key": "other", "value": {} } }, { "wait": { "name": "go" } }]);
    assert_eq!(probe(&place, "r", program, &["--no-wait", "--agents", &script]).code(), Some(3));
    assert_eq!(place.run(["state", "r"]).stdout(), "other = {}\nprogress = 2\n");
    assert_eq!(place.run(["state", "r", "progress"]).stdout(), "2\n");
    let history = place.run(["state", "r", "progress", "--history", "-o", "jsonl"]).stdout();
    let values: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.iter().map(|value| &value["value"]).collect::<Vec<_>>(), [&json!(1), &json!(2)]);
    assert!(values[0]["at"].as_str().unwrap() < values[1]["at"].as_str().unwrap());
    let error = place.run(["state", "r", "progres"]).error(2, &place);
    assert!(error.contains("it has published other, progress"), "{error}");
}

#[test]
fn monitor_goes_on_for_ever_in_short_journals() {
    let place = Place::new();
    let rules = json!([{ "match": "check", "replies": ["ok", "ok", "down"] }]);
    let script = place.script(json!({ "rules": rules }));
    let input = json!({ "target": "db", "interval_ms": 0, "rounds": 600 }).to_string();
    let args = ["run", &module("monitor"), "-i", &input, "--id", "m", "--agents", &script, "-q"];
    assert_eq!(place.run(args).ok_json()["rounds"], 600);
    let chain = place.run(["show", "m", "--chain", "-o", "json"]).ok_json();
    let chain = chain["runs"].as_array().unwrap();
    assert_eq!(chain.len(), 3, "{chain:?}");
    assert!(chain.iter().all(|run| run["entries"].as_u64().unwrap() < 3_000), "{chain:?}");
    assert_eq!(place.run(["state", "m-3", "monitor"]).ok_json()["done"], 600);

    // Signals reach whichever round there is.
    let input = json!({ "target": "db", "interval_ms": 3_600_000 }).to_string();
    let args = ["run", &module("monitor"), "-i", &input, "--id", "s", "--agents", &script];
    let running = place.spawn(args);
    wait_for_state(&place, "s", "waiting");
    place.run(["signal", "s", "interval", "-i", "1"]);
    eventually("a hundred rounds", || {
        let state = place.run(["state", "s", "monitor"]);
        (state.code() == Some(0) && state.ok_json()["done"].as_u64() > Some(100)).then_some(())
    });
    place.run(["signal", "s", "stop"]);
    assert!(finish(running).ok_json()["rounds"].as_u64() > Some(100));
}

#[test]
fn batch_does_each_item_once_though_it_is_killed() {
    let place = Place::new();
    let fails = json!({ "match": "draft i7", "reply": "", "fail": { "times": 100, "kind": "rejected", "message": "no i7" } });
    let script = json!({ "rules": [fails], "default": { "reply": "${prompt}!", "delay_ms": 30 } });
    let script = place.script(script);
    let items: Vec<_> = (0..20).map(|n| format!("i{n}")).collect();
    let input = json!({ "items": items, "at_once": 5 }).to_string();
    let running = place.spawn(["run", &module("batch"), "-i", &input, "--id", "b", "--agents", &script]);
    eventually("some of them", || (place.calls().len() > 8).then_some(()));
    kill(running);
    let result = place.run(["resume", "b", "--agents", &script]).ok_json();
    let done: Vec<_> = result["done"].as_array().unwrap().iter().map(|done| done.as_str().unwrap()).collect();
    let expected: Vec<_> = (0..20).filter(|n| *n != 7).map(|n| format!("check draft i{n}!!")).collect();
    assert_eq!(done, expected);
    assert_eq!(result["failed"][0]["item"], "i7");
    assert_eq!(
        place.run(["ps", "--label", "item=i3", "-o", "json"]).ok_json()["runs"].as_array().unwrap().len(),
        1
    );
    // At most those that were under way when it was killed are made again.
    assert!(place.calls().len() <= 39 + 5, "{}", place.calls().len());
}

/// Kills the command at one commit after the other, before and after it, and has `check` look at
/// each place after `go_on` went on with it. Gives how often it was killed.
fn killed_at_every_commit(
    prepare: impl Fn(&Place),
    args: &[&str],
    go_on: impl Fn(&Place),
    check: impl Fn(&Place, &str),
) -> usize {
    let mut killed = 0;
    for point in ["before", "after"] {
        for number in 1..100 {
            let place = Place::new();
            prepare(&place);
            let at = format!("{point}-commit:{number}");
            let ran = place.wfhost(args).env("WFHOST_ABORT_AT", &at).output().unwrap();
            if ran.status.code().is_some() {
                break;
            }
            killed += 1;
            go_on(&place);
            check(&place, &at);
        }
    }
    killed
}

fn count_runs(place: &Place) -> usize {
    place.run(["ps", "-n", "100", "-o", "json"]).ok_json()["runs"].as_array().unwrap().len()
}

/// Resumes the run, or begins it if it is not there.
fn resume_or_run(place: &Place, args: &[&str]) {
    let exists = place.run(["show", "p"]).code() == Some(0);
    let ran = if exists { place.run(["resume", "p"]) } else { place.run(args) };
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
}

#[test]
fn killed_at_every_commit_of_a_hand_off() {
    let grandchild = child(json!([{ "agent": "deep" }]));
    let next = json!({ "do": [{ "agent": "second round" }] });
    let continues = child(json!([grandchild, { "continue_as_new": next }]));
    let input = json!({ "do": [{ "parallel": [continues, child(json!([{ "agent": "b" }]))] }] }).to_string();
    let module = module("probe");
    let args = ["run", &module, "-i", &input, "--agent", "echo", "--id", "p"];
    let killed = killed_at_every_commit(
        |_| {},
        &args,
        |place| resume_or_run(place, &args),
        |place, at| {
            assert_eq!(place.show("p")["output"], json!([[["second round"], ["b"]]]), "{at}");
            assert_eq!(count_runs(place), 5, "{at}");
            assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0), "{at}");
        },
    );
    assert!(killed > 20, "{killed}");
}

#[test]
fn killed_at_every_commit_of_a_fork_and_of_an_upgrade() {
    let program = json!([{ "agent": "a" }, { "agent": "b" }, { "wait": { "name": "go" } }]);
    let begin = |place: &Place| {
        let ran = probe(place, "p", program.clone(), &["--no-wait", "--agent", "echo"]);
        assert_eq!(ran.code(), Some(3));
    };
    let killed = killed_at_every_commit(
        begin,
        &["fork", "p", "--at", "3", "--id", "f", "--no-wait"],
        |place| {
            // It is there as a whole or not at all.
            if place.run(["show", "f"]).code() != Some(0) {
                place.run(["fork", "p", "--at", "3", "--id", "f", "--no-wait"]);
            }
            place.run(["signal", "f", "go"]);
            place.run(["signal", "p", "go"]);
            assert_eq!(place.run(["resume", "f"]).ok_json(), json!(["a", "b", null]));
            assert_eq!(place.run(["resume", "p"]).ok_json(), json!(["a", "b", null]));
        },
        |place, at| assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0), "{at}"),
    );
    assert!(killed >= 4, "{killed}");

    let mut bytes = std::fs::read(module("probe")).unwrap();
    bytes.extend([0, 4, 1, b'x', 1, 2]);
    let dir = Place::new();
    let new = dir.file("probe.wasm", &bytes);
    let upgrade = ["upgrade", "p", "--module", &new];
    let killed = killed_at_every_commit(
        begin,
        &upgrade,
        |place| {
            let ran = place.run(upgrade);
            assert!(
                ["migrated   p\n", "same       p\n"].contains(&ran.stdout().as_str()),
                "{}",
                ran.stderr()
            );
            place.run(["signal", "p", "go"]);
            assert_eq!(place.run(["resume", "p"]).ok_json(), json!(["a", "b", null]));
        },
        |place, at| {
            let moved = kinds(place, "p").iter().filter(|kind| *kind == "moved").count();
            assert_eq!(moved, 1, "{at}");
            assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0), "{at}");
        },
    );
    assert!(killed >= 4, "{killed}");
}

/// Runs are checked one after the other: nothing is kept of those before, and what was found is shown.
#[test]
fn a_journal_that_cannot_be_read_hides_no_check_of_another() {
    let place = Place::new();
    for id in ["damaged", "good"] {
        probe(&place, id, json!([{ "agent": "x" }]), &["--agent", "echo"]).ok_json();
    }
    place.change(
        "UPDATE commits SET body = CAST(replace(body, 'x', 'z') AS BLOB) WHERE run = (SELECT id FROM runs WHERE name = 'damaged')",
        "UPDATE journal SET body = set_byte(body, length(body) - 1, get_byte(body, length(body) - 1) # 1)
         WHERE run = (SELECT run FROM runs WHERE name = 'damaged')",
    );
    let ran = place.run(["check", &module("probe"), "--all"]);
    assert_eq!((ran.code(), ran.stdout().as_str()), (Some(4), "compatible good\n"), "{}", ran.stderr());
}

#[test]
fn the_latest_round_is_terminated_whichever_is_named() {
    let place = Place::new();
    let next = json!({ "do": [{ "wait": { "name": "go" } }] });
    let ran = probe(&place, "r", json!([{ "continue_as_new": next }]), &["--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let ran = place.run(["terminate", "r"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    assert!(ran.stderr().contains("Ended  r-2\n"), "{}", ran.stderr());
    assert_eq!(place.show("r-2")["state"], "cancelled");
    assert_eq!(place.show("r")["state"], "continued");
}
