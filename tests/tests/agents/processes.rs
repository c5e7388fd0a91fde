//! Programs end with their calls, with all that they started.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish};

use crate::{ask, gave, quick, run, run_args, shell};

/// A tool that leaves the group, the session, the parent and the environment of
/// its agent behind, and writes `late` if it lives long enough. Its number goes to `pid`.
fn tool(place: &Place) -> String {
    let (pid, late) = (place.path("pid"), place.path("late"));
    let command =
        format!("echo $$ > {}.new; mv {0}.new {0}; sleep 8; echo late > {}", pid.display(), late.display());
    format!("env -i PATH=\"$PATH\" setsid sh -c '{command}' &")
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Waits for the tool's number.
fn begun(place: &Place) -> String {
    eventually("the tool", || std::fs::read_to_string(place.path("pid")).ok())
}

/// Waits until the tool is gone. Then it did not come to write.
fn gone(place: &Place, pid: &str) {
    eventually("the end of the tool", || (!is_alive(pid)).then_some(()));
    assert!(!place.path("late").exists());
}

fn request(more: Value) -> Value {
    let mut request = json!({"prompt": "p", "providers": ["agent"], "retry": quick(1)});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask(request)
}

fn limited(millis: u64) -> Value {
    json!({"limits": {"attempt": millis}})
}

#[test]
fn a_tool_that_left_its_group_ends_with_the_time_limit() {
    let place = Place::new();
    shell(&place, "text", &format!("{}\nsleep 600", tool(&place)));
    assert_eq!(gave(&run(&place, &request(limited(4_000)), &[]))["failure"], "timed-out");
    gone(&place, &begun(&place));
}

#[test]
fn a_tool_that_left_its_group_ends_with_the_run() {
    let place = Place::new();
    shell(&place, "text", &format!("{}\nsleep 600", tool(&place)));
    let child = place.spawn(run_args(&place, &request(json!({})), &[]));
    let pid = begun(&place);
    assert_eq!(place.run(["cancel", "r"]).code(), Some(0));
    finish(child);
    gone(&place, &pid);
}

#[test]
fn a_tool_that_left_its_group_does_not_outlive_a_host_that_was_killed() {
    let place = Place::new();
    shell(&place, "text", &format!("{}\nsleep 600", tool(&place)));
    let mut child = place.spawn(run_args(&place, &request(json!({})), &[]));
    let pid = begun(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&place, &pid);
}

#[test]
fn an_agent_that_kills_its_supervisor_does_not_get_away() {
    let place = Place::new();
    let pid = place.path("pid");
    shell(&place, "text", &format!("kill -9 $PPID\necho $$ > {}\nsleep 600", pid.display()));
    let failure = gave(&run(&place, &request(json!({})), &[]));
    assert_eq!(failure["failure"], "unavailable");
    assert!(failure["message"].as_str().unwrap().contains("supervisor"), "{failure}");
    gone(&place, &begun(&place));
}

#[test]
fn an_answer_is_taken_when_its_program_has_ended_whoever_holds_its_pipes() {
    for holder in ["setsid sleep 600 &", "setsid sh -c 'trap \"\" TERM; sleep 600' &"] {
        let place = Place::new();
        shell(&place, "text", &format!("{holder}\necho done"));
        let reply = gave(&run(&place, &request(limited(25_000)), &[]));
        assert_eq!(reply["output"], "done", "{holder}");
    }
}

#[test]
fn a_program_may_clean_up_before_it_is_killed() {
    let place = Place::new();
    let clean = place.path("clean");
    let script = format!(
        "trap 'echo clean > {}; exit 0' TERM\necho $$ > {}\nwhile :; do sleep 0.05; done",
        clean.display(),
        place.path("pid").display()
    );
    shell(&place, "text", &script);
    assert_eq!(gave(&run(&place, &request(limited(4_000)), &[]))["failure"], "timed-out");
    gone(&place, &begun(&place));
    assert!(clean.exists());
}

#[test]
fn an_attempt_begins_after_the_one_before_it_is_gone() {
    let place = Place::new();
    let order = place.path("order");
    let script = format!(
        "if [ $WFHOST_ATTEMPT = 2 ]; then echo begun >> {0}; echo done; exit; fi\n\
         trap 'sleep 0.3; echo ended >> {0}; exit' TERM\nwhile :; do sleep 0.05; done",
        order.display()
    );
    shell(&place, "text", &script);
    let request = request(json!({"limits": {"attempt": 5_000}, "retry": quick(2)}));
    assert_eq!(gave(&run(&place, &request, &[]))["output"], "done");
    assert_eq!(std::fs::read_to_string(order).unwrap(), "ended\nbegun\n");
}

/// Numbers of the processes that descend from another one.
fn children(of: u32) -> Vec<u32> {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let numbers = tasks.flat_map(|task| {
        text(&task.path().join("children"))
            .split(' ')
            .filter_map(|pid| pid.trim().parse().ok())
            .collect::<Vec<u32>>()
    });
    numbers.collect()
}

#[test]
fn a_program_that_waits_costs_no_second_process_after_its_end() {
    let place = Place::new();
    shell(&place, "text", "echo done");
    let mut program = vec![json!({"agent_with": {"prompt": "p", "providers": ["agent"]}}); 20];
    program.push(json!({"wait": {"name": "go"}}));
    let mut child = place.spawn(run_args(&place, &json!({"do": program}), &[]));
    eventually("all calls", || (crate::calls(&place).len() == 20).then_some(()));
    eventually("the end of all supervisors", || children(child.id()).is_empty().then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
}
