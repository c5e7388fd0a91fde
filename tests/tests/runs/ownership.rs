//! Who advances a run, and what happens when he dies, stops or loses it: by
//! real processes that share one real database.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually, finish, module};

fn begin(place: &Place, id: &str, program: &Value, more: &[&str]) -> Child {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let mut args = vec!["run", &module, "-i", &input, "--id", id];
    args.extend(more);
    place.spawn(args)
}

/// A run that nobody advances: it waits for the signal `go`, then does the rest.
fn parked(place: &Place, id: &str, rest: &[Value], more: &[&str]) {
    let mut program = vec![json!({ "wait": { "name": "go" } })];
    program.extend_from_slice(rest);
    let more: Vec<_> = more.iter().copied().chain(["--no-wait", "-q"]).collect();
    assert_eq!(finish(begin(place, id, &json!(program), &more)).code(), Some(3));
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn interrupt(child: Child) -> Ran {
    send(&child, Signal::INT);
    finish(child)
}

fn count(place: &Place, run: &str, kind: &str) -> usize {
    place.journal(run).iter().filter(|entry| entry["kind"] == kind).count()
}

#[test]
fn of_eight_processes_that_try_to_advance_a_run_one_does() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "never", "delay_ms": 600_000 } }));
    parked(&place, "r", &[json!({ "agent": "work" })], &["--agents", &script]);
    place.run(["signal", "r", "go"]);
    let mut racing: Vec<_> = (0..8).map(|_| place.spawn(["resume", "r", "--agents", &script])).collect();
    // The one that has it stays, for its call takes long.
    let winner = eventually("seven are refused", || {
        let ended: Vec<_> = racing.iter_mut().map(|child| child.try_wait().unwrap()).collect();
        let alive = ended.iter().position(Option::is_none);
        (ended.iter().filter(|status| status.is_some()).count() == 7).then_some(alive).flatten()
    });
    let winner = racing.remove(winner);
    for refused in racing {
        let error = finish(refused).error(6, &place);
        assert!(error.contains(&format!("r is advanced by process {}", winner.id())), "{error}");
    }
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    assert_eq!(interrupt(winner).code(), Some(130));
    let quick = place.file("quick.json", r#"{"default":{"reply":"done"}}"#);
    assert_eq!(place.run(["resume", "r", "--agents", &quick]).ok_json(), json!([null, "done"]));
}

#[test]
fn a_process_that_was_stopped_past_its_lease_writes_nothing() {
    let place = Place::new();
    let late = place.script(json!({ "default": { "reply": "late", "delay_ms": 5_000 } }));
    let (module, input) =
        (module("probe"), json!({ "do": [{ "agent": "x" }, { "agent": "y" }] }).to_string());
    let first = ["run", &module, "-i", &input, "--id", "r", "--agents", &late];
    let spawn = |args: &[&str]| {
        let mut command = place.wfhost(args);
        command.env("WFHOST_LEASE_MS", "500");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let stopped = spawn(&first);
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    send(&stopped, Signal::STOP);
    std::thread::sleep(Duration::from_millis(700));
    let other = Place::new();
    let prompt = other.script(json!({ "default": { "reply": "prompt" } }));
    let ran = finish(spawn(&["resume", "r", "--agents", &prompt]));
    assert_eq!(ran.ok_json(), json!(["prompt", "prompt"]));
    let journal = place.journal("r");
    send(&stopped, Signal::CONT);
    let ran = finish(stopped);
    // Its answer is dropped; what it shows is what became of the run.
    assert_eq!(ran.ok_json(), json!(["prompt", "prompt"]));
    assert!(!ran.stderr().contains("late"), "{}", ran.stderr());
    assert_eq!(place.journal("r"), journal);
    assert_eq!(count(&place, "r", "completed"), 2);
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn the_runs_of_a_dead_process_are_taken_over_at_once() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "never", "delay_ms": 600_000 } }));
    let quick = place.file("quick.json", r#"{"default":{"reply":"soon"}}"#);
    let spawn = |args: &[&str]| {
        let mut command = place.wfhost(args);
        // The lease outlives this test by far.
        command.env("WFHOST_LEASE_MS", "36000000");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let server = spawn(&["serve", "--agents", &quick]);
    let (module, input) = (module("probe"), json!({ "do": [{ "agent": "slow" }] }).to_string());
    for run in ["a", "b"] {
        let args = ["run", &module, "-i", &input, "--id", run, "--agents", &script];
        let mut command = place.wfhost(args);
        command.env("WFHOST_LEASE_MS", "36000000");
        let owner = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let owner = owner.spawn().unwrap();
        eventually("the call", || (count_if_there(&place, run, "scheduled") == 1).then_some(()));
        // While it lives nobody gets it.
        let error = place.run(["resume", run]).error(6, &place);
        assert!(error.contains(&format!("process {}", owner.id())), "{error}");
        kill(owner);
        // Nobody has to ask for it.
        eventually("the end", || (place.show(run)["state"] == "completed").then_some(()));
        assert_eq!(count(&place, run, "attempted"), 1);
    }
    assert_eq!(interrupt(server).code(), Some(130));
}

fn count_if_there(place: &Place, run: &str, kind: &str) -> usize {
    let ran = place.run(["journal", run, "-o", "jsonl"]);
    let entries = ran.stdout();
    entries.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count()
}

#[test]
fn a_call_that_takes_longer_than_the_lease_is_not_stolen() {
    let place = Place::new();
    let held = place.held();
    // Processes may be kept from running for a while.
    let lease = Duration::from_secs(3);
    let spawn = |args: &[&str]| {
        let mut command = place.wfhost(args);
        command.env("WFHOST_LEASE_MS", lease.as_millis().to_string());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let server = spawn(&["serve", "--config", &held]);
    let (module, input) = (module("probe"), json!({ "do": [{ "agent": "slow" }] }).to_string());
    let args = ["run", &module, "-i", &input, "--id", "r", "--config", &held, "--agent", "held"];
    let runs = spawn(&args);
    eventually("the call", || (place.held_calls() == 1).then_some(()));
    // So that a host that looks five times a second would have had it by now.
    std::thread::sleep(lease + Duration::from_secs(1));
    place.let_go();
    assert_eq!(finish(runs).ok_json(), json!(["slow"]));
    assert_eq!(place.held_calls(), 1);
    interrupt(server);
}

#[test]
fn runs_with_different_delays_share_a_database() {
    let place = Place::new();
    let children: Vec<_> = (0..6)
        .map(|n| {
            let step = json!({ "sleep": 100 + 150 * n });
            let program = json!([step, { "agent": n.to_string() }, step, { "agent": n.to_string() }]);
            begin(&place, &format!("r{n}"), &program, &["--agent", "echo"])
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let ran = finish(child);
        let n = n.to_string();
        assert_eq!(ran.ok_json(), json!([null, n, null, n]));
        assert!(!ran.stderr().contains("locked") && !ran.stderr().contains("busy"), "{}", ran.stderr());
    }
    let spans: Vec<_> = (0..6)
        .map(|n| {
            let show = place.show(&format!("r{n}"));
            ["created_at", "updated_at"].map(|key| show[key].as_str().unwrap().to_owned())
        })
        .collect();
    let last_start = spans.iter().map(|span| &span[0]).max();
    let last_end = spans.iter().map(|span| &span[1]).max();
    assert!(last_start < last_end);
}

/// A run whose program has brought down five hosts, one after the other. Gives the script of its agent.
fn brings_down_hosts(place: &Place, first: &[Value]) -> String {
    let script = place.script(json!({ "default": { "reply": "ok" } }));
    let program: Vec<_> = first.iter().cloned().chain([json!({ "agent": "x" }), json!("spin")]).collect();
    let fuel = u64::MAX.to_string();
    let mut child = begin(place, "r", &json!(program), &["--agents", &script, "--fuel", &fuel]);
    eventually("the step", || (count_if_there(place, "r", "completed") == 1).then_some(()));
    for epoch in 1..=5 {
        kill(child);
        child = place.spawn(["resume", "r", "--agents", &script]);
        eventually("the lease", || {
            let held = place.query(
                "SELECT r.epoch, s.pid FROM runs r LEFT JOIN sessions s ON s.id = r.session",
                "SELECT r.epoch, s.pid FROM hot r LEFT JOIN sessions s ON s.id = r.session",
            );
            (held == format!("{}|{}", epoch + 1, child.id())).then_some(())
        });
    }
    kill(child);
    script
}

#[test]
fn a_run_that_never_comes_forward_is_given_up() {
    let place = Place::new();
    let script = brings_down_hosts(&place, &[]);
    // Also if it is given another budget with that, which no commit has stored.
    let ran = place.run(["resume", "r", "--agents", &script, "--budget", "tokens=50k"]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.stderr().contains("no-progress: the run was begun 5 times"), "{}", ran.stderr());
    assert_eq!(place.show("r")["state"], "failed");
    assert_eq!(place.calls().len(), 1);
}

/// Nobody takes what was sent to it any more: it is lost with the rest, and keeps nothing from its end.
#[test]
fn a_run_that_never_comes_forward_is_given_up_whatever_was_sent_to_it() {
    let place = Place::new();
    let script = brings_down_hosts(&place, &[json!({ "hold": { "ask": { "prompt": "may I?" } } })]);
    for sent in [&["signal", "r", "go"][..], &["answer", "r", "-i", "1"]] {
        let ran = place.run(sent);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    }
    // It takes the run up, as `resume` does.
    let mut cancels = place.spawn(["cancel", "r", "--agents", &script]);
    let patience = Instant::now() + Duration::from_secs(30);
    while cancels.try_wait().unwrap().is_none() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    // One that goes on for ever does not outlive the test.
    cancels.kill().unwrap();
    let ran = finish(cancels);
    assert!(ran.stderr().contains("no-progress: the run was begun 5 times"), "{}", ran.stderr());
    assert_eq!(ran.code(), Some(0));
    assert_eq!(place.show("r")["state"], "failed");
    assert_eq!(place.run(["inbox", "-o", "json"]).ok_json()["questions"], json!([]));
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn due_runs_are_advanced_by_whichever_process_is_there() {
    let place = Place::new();
    for n in 0..20 {
        let program = json!([{ "sleep": 3_000 + 20 * n }, { "agent": "x" }]);
        let child = begin(&place, &format!("r{n}"), &program, &["--no-wait", "-q", "--agent", "echo"]);
        assert_eq!(finish(child).code(), Some(3));
    }
    let servers: Vec<_> = (0..2).map(|_| place.spawn(["serve", "--agent", "echo"])).collect();
    eventually("all ends", || {
        let ended = place.run(["ps", "--state", "completed", "--limit", "100", "-o", "json"]).ok_json();
        (ended["runs"].as_array().unwrap().len() == 20).then_some(())
    });
    for server in servers {
        let ran = interrupt(server);
        assert_eq!(ran.code(), Some(130), "{}", ran.stderr());
    }
    for n in 0..20 {
        let show = place.show(&format!("r{n}"));
        assert_eq!((&show["state"], show["steps"].as_array().unwrap().len()), (&json!("completed"), 2));
    }
}

#[test]
fn a_signal_wakes_a_parked_run_while_any_host_serves() {
    let place = Place::new();
    parked(&place, "r", &[json!({ "wait": { "name": "then" } })], &[]);
    let server = place.spawn(["serve"]);
    for (name, payload) in [("go", "1"), ("then", "2")] {
        assert_eq!(place.run(["signal", "r", name, "-i", payload]).code(), Some(0));
    }
    eventually("the end", || (place.show("r")["state"] == "completed").then_some(()));
    assert_eq!(place.show("r")["output"], json!([1, 2]));
    let ran = interrupt(server);
    assert_eq!(ran.code(), Some(130));
    assert!(ran.stderr().contains("Stopped  nothing is lost"), "{}", ran.stderr());
}

/// Two places in memory and sixty runs that only wait: none keeps its place while others queue.
#[test]
fn runs_that_only_wait_make_room_for_those_that_queue() {
    let place = Place::new();
    for n in 0..60 {
        let input = json!({ "do": [{ "sleep": 3_600_000 }] }).to_string();
        let ran = place.run(["run", &module("probe"), "-i", &input, "-d", "-q", "--id", &format!("r{n}")]);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    }
    let serve = place.spawn(["serve", "--max-live", "2"]);
    // With the grace that a run alone has to be dropped from memory, they would take a minute.
    eventually("all wait", || {
        let waiting = place.run(["ps", "--state", "waiting", "--limit", "100", "-o", "json"]).ok_json();
        (waiting["runs"].as_array().unwrap().len() == 60).then_some(())
    });
    kill(serve);
}

/// What one of them plans before it has the run may be over when it has it.
#[test]
fn of_eight_who_try_a_run_again_one_does_and_nothing_is_paid_for_twice() {
    let place = Place::new();
    let script = place.script(json!({
        "rules": [{ "match": "flaky", "reply": "well", "fail": { "kind": "rejected" } }],
        "default": { "reply": "paid" },
    }));
    let program = json!([{ "agent": "one" }, { "agent_or_fail": { "prompt": "flaky" } }, { "agent": "two" }]);
    let ran = finish(begin(&place, "r", &program, &["--agents", &script]));
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    let script = place.script(json!({ "default": { "reply": "paid" } }));
    let racing: Vec<_> = (0..8).map(|_| place.spawn(["retry", "r", "--agents", &script])).collect();
    for child in racing {
        let ran = finish(child);
        assert!([Some(0), Some(2), Some(3), Some(6)].contains(&ran.code()), "{}", ran.stderr());
    }
    assert_eq!(count(&place, "r", "retried"), 1);
    assert_eq!(place.show("r")["state"], "completed");
    let prompts: Vec<_> = place.calls().iter().map(|call| call["prompt"].clone()).collect();
    assert_eq!(prompts, ["one", "flaky", "flaky", "two"]);
}

#[test]
fn a_cancel_succeeds_also_if_a_server_is_quicker_with_it() {
    let place = Place::new();
    for n in 0..30 {
        parked(&place, &format!("r{n}"), &[], &[]);
    }
    let server = place.spawn(["serve"]);
    for n in 0..30 {
        let ran = place.run(["cancel", &format!("r{n}")]);
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    }
    eventually("the ends", || {
        (0..30).all(|n| place.show(&format!("r{n}"))["state"] != "waiting").then_some(())
    });
    interrupt(server);
}

#[test]
fn a_server_that_is_asked_to_end_waits_for_its_calls() {
    let place = Place::new();
    let held = place.held();
    let program = json!({ "do": [{ "agent": "a" }, { "agent": "b" }] }).to_string();
    let agent = ["--config", &held, "--agent", "held"];
    let args = ["run", &module("probe"), "-i", &program, "--id", "r", "-d"];
    assert_eq!(place.run(args.iter().chain(&agent)).stdout().trim(), "r");
    assert_eq!(place.show("r")["state"], "queued");
    let mut server = place.spawn(["serve"].iter().chain(&agent));
    eventually("the first call", || (place.held_calls() == 1).then_some(()));
    send(&server, Signal::TERM);
    let mut said = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("Leaving  1 run, when the calls are done")));
    place.let_go();
    assert_eq!(finish(server).code(), Some(143));
    // The answer is kept, and the second call was never made.
    assert_eq!(count(&place, "r", "completed"), 1);
    assert_eq!(place.held_calls(), 1);
    assert_eq!(place.run(["resume", "r", "--config", &held]).ok_json(), json!(["a", "b"]));
    assert_eq!(place.held_calls(), 2);
}

#[test]
fn a_second_signal_leaves_the_calls_at_once() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "x", "delay_ms": 600_000 } }));
    let program = json!({ "do": [{ "agent": "a" }] }).to_string();
    place.run(["run", &module("probe"), "-i", &program, "--id", "r", "-d", "--agents", &script]);
    let mut server = place.spawn(["serve", "--agents", &script, "--grace", "10m"]);
    eventually("the call", || (place.calls().len() == 1).then_some(()));
    eventually("the end", || {
        send(&server, Signal::INT);
        std::thread::sleep(Duration::from_millis(100));
        server.try_wait().unwrap()
    });
    let ran = finish(server);
    assert!(ran.stderr().contains("the calls of 1 run will be made again"), "{}", ran.stderr());
    assert_eq!(place.show("r")["state"], "running");
}

#[test]
fn a_run_started_in_the_background_is_found_by_its_key() {
    let place = Place::new();
    let start = |more: &[&str]| {
        let (module, program) = (module("hello"), r#"{"name":"Ada"}"#);
        let mut args = vec!["run", &module, "-i", program, "--key", "order-17", "--agent", "echo"];
        args.extend(more);
        place.run(args)
    };
    let id = start(&["-d"]).stdout().trim().to_owned();
    assert_eq!(start(&["-d"]).stdout().trim(), id);
    // Whoever starts it once more in the foreground advances it.
    let greeting = start(&[]).ok_json();
    assert_eq!(start(&[]).ok_json(), greeting);
    assert_eq!(place.run(["ps", "-o", "json"]).ok_json()["runs"].as_array().unwrap().len(), 1);
}

/// The same command in a PID namespace of its own, where it is process 1, as in a container.
fn contained(command: &std::process::Command) -> std::process::Command {
    let mut contained = std::process::Command::new("unshare");
    contained.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(command.get_program());
    contained.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => contained.env(name, value),
            None => contained.env_remove(name),
        };
    }
    contained.stdin(std::process::Stdio::null());
    contained.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    contained
}

#[test]
fn two_hosts_in_two_pid_namespaces_take_nothing_from_each_other() {
    let may =
        std::process::Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: this user cannot make PID namespaces");
        return;
    }
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "done", "delay_ms": 2_000 } }));
    let serve = ["serve", "--agents", &script];
    let mut servers: Vec<_> =
        (0..2).map(|_| contained(&place.wfhost(serve)).spawn().expect("unshare")).collect();
    let (module, input) = (module("probe"), json!({ "do": [{ "agent": "x" }] }).to_string());
    for n in 0..4 {
        let id = format!("r{n}");
        let args = ["run", &module, "-d", "-i", &input, "--id", &id, "--agents", &script];
        assert_eq!(place.run(args).code(), Some(0));
    }
    for n in 0..4 {
        let id = format!("r{n}");
        eventually("the end", || (place.show(&id)["state"] == "completed").then_some(()));
        assert_eq!(count(&place, &id, "attempted"), 0, "{id} changed hands");
    }
    assert_eq!(place.calls().len(), 4);
    for server in &mut servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}
