//! Retries of runs with children that have not ended yet, of runs that came from elsewhere, and with other code.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wfhost::agents::{Call, CallFailure, CallOutput, Provider};
use wfhost::{Adopt, Ending, Host, HostError, HostOptions, ResumeOptions};
use wfhost_core::{Failure, FailureKind, Json, Reply, RunId};
use wfhost_tests::{Place, bytes_of_version, eventually, finish, version};

use super::families::{child, probe, spawn, state, wait_for_state};
use super::moments::{self, Held, calling, ending, host, starting, until};
use super::outages::execute;

/// An agent that fails the first time, when it may.
#[derive(Debug)]
struct FailsOnce {
    name: &'static str,
    kind: FailureKind,
    called: AtomicUsize,
    may: Semaphore,
}

impl FailsOnce {
    fn new(name: &'static str, kind: FailureKind, may: usize) -> Arc<Self> {
        Arc::new(Self { name, kind, called: AtomicUsize::new(0), may: Semaphore::new(may) })
    }
}

impl Provider for FailsOnce {
    fn name(&self) -> &str {
        self.name
    }

    fn call(&self, _: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(async move {
            self.may.acquire().await.expect("it is never closed").forget();
            match self.called.fetch_add(1, Ordering::SeqCst) {
                0 => Err(Failure::new(self.kind, "the first time").into()),
                _ => Ok(Reply::new(self.name, Json::null())),
            }
        })
    }
}

fn once(agent: &str) -> Value {
    json!({ "prompt": "p", "providers": [agent], "retry": { "max_attempts": 1 } })
}

/// Where the child runs that cleans up, and who retries its parent.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Family {
    Child,
    Grandchild,
    ChildOfAnotherHost,
}

/// What cleans up is a child that has been told to stop as its parent failed. It ends as cancelled, and the parent
/// waits for it again by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_takes_up_a_child_that_is_still_cleaning_up_when_it_has_ended() {
    for family in [Family::Child, Family::Grandchild, Family::ChildOfAnotherHost] {
        let place = Place::in_file();
        let (work, undo) = (Held::new("work"), Held::new("undo"));
        let flaky = FailsOnce::new("flaky", FailureKind::Unavailable, 0);
        let last = FailsOnce::new("last", FailureKind::Cancelled, 2);
        let another = || -> Host {
            host(&place, &[&work, &undo], |options| {
                options.providers.add(Arc::clone(&flaky) as _);
                options.providers.add(Arc::clone(&last) as _);
            })
        };
        let first = another();
        let module = moments::probe(&first).await;
        let step = json!({ "name": "s", "do": calling("work"), "before": true, "undo": [calling("undo")] });
        let cleans = json!([{ "pattern": { "saga": [step] } }, { "agent_or_fail": once("last") }]);
        let program = match family {
            Family::Grandchild => {
                json!([{ "must_child": { "module": "probe", "input": { "do": cleans } } }])
            }
            _ => cleans,
        };
        let operations = json!([child(program), { "agent_with": once("flaky") }]);
        let program = json!([{ "pattern_or_fail": { "try_map": { "limit": 2, "operations": operations } } }]);
        let mut handle = first.start(&module, starting("p", program), None).await.expect("a run");
        until("the work", async || work.begun() == 1).await;
        flaky.may.add_permits(1);
        let ended = ending(&mut handle).await;
        assert!(matches!(&ended, Ok(Ending::Finished(Err(_)))), "{family:?}: {ended:?}");
        until("the cleaning up", async || undo.begun() == 1).await;

        let second = (family == Family::ChildOfAnotherHost).then(another);
        let retries = second.as_ref().unwrap_or(&first);
        let retried = retries.retry(&handle.id, None, ResumeOptions::default()).await;
        let mut retried = retried.expect("nobody has it");
        flaky.may.add_permits(1);
        until("the other call", async || flaky.called.load(Ordering::SeqCst) == 2).await;
        work.may.add_permits(1);
        undo.may.add_permits(1);
        let ended = ending(&mut retried).await;
        assert!(matches!(&ended, Ok(Ending::Finished(Ok(_)))), "{family:?}: {ended:?}");
        assert_eq!((work.begun(), undo.begun(), work.ended()), (2, 1, 1), "{family:?}");
    }
}

/// A run `p` that has ended, whose child `p.1` is told to stop, and nobody there who would end it.
fn left_alone(place: &Place) {
    let slow = json!({ "match": "slow", "reply": "", "delay_ms": 600_000 });
    let script = place.script(json!({ "rules": [slow], "default": { "reply": "ok" } }));
    let must = json!({ "must_child": { "module": "probe", "input": { "do": [{ "must_agent": "slow" }] } } });
    let mut running = spawn(place, "p", json!([must]), &["--agents", &script]);
    eventually("the call", || (!place.calls().is_empty()).then_some(()));
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(place.run(["terminate", "p"]).code(), Some(0));
    assert_ne!(state(place, "p.1").as_deref(), Some("cancelled"));
}

#[test]
fn a_retry_takes_up_a_cancelled_child_that_has_yet_to_end() {
    let place = Place::new();
    left_alone(&place);
    let quick = place.script(json!({ "default": { "reply": "ok" } }));
    let ran = place.run(["retry", "p", "--agents", &quick]);
    assert_eq!(ran.ok_json(), json!([["ok"]]), "{}", ran.stderr());
    for run in ["p", "p.1"] {
        assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
        assert_eq!(place.run(["replay", run]).code(), Some(0), "{run}");
    }
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

/// Its results are no longer valid, so it may not go on with them.
#[test]
fn a_child_that_has_undone_its_work_is_not_tried_again_with_its_parent() {
    let place = Place::new();
    let fails = json!({ "match": "flaky", "reply": "", "fail": { "times": 1_000, "kind": "unavailable" } });
    let slow = json!({ "match": "slow", "reply": "", "delay_ms": 600_000 });
    let script = place.script(json!({ "rules": [fails, slow], "default": { "reply": "ok" } }));
    let books = json!([{ "pattern_or_fail": { "saga": [
        { "name": "s", "do": { "agent": "book" }, "undo": [{ "agent": "cancel" }] },
        { "name": "t", "do": { "agent": "slow" } }
    ] } }]);
    let flaky = json!({ "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } });
    let operations = json!([child(books), child(json!([{ "wait": { "name": "go" } }, flaky]))]);
    let program = json!([{ "pattern_or_fail": { "try_map": { "limit": 2, "operations": operations } } }]);
    let mut server = place.spawn(["serve"]);
    assert_eq!(probe(&place, "p", program, &["--agents", &script, "--detach"]).code(), Some(0));
    eventually("the call", || asked(&place).contains(&"slow".to_owned()).then_some(()));
    assert_eq!(place.run(["signal", "p.2", "go"]).code(), Some(0));
    wait_for_state(&place, "p", "failed");
    wait_for_state(&place, "p.1", "cancelled");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(place.show("p.1")["failure"]["details"]["saga"]["undone"], json!(["s"]));
    let undone = place.journal("p.1");

    let quick = place.script(json!({ "default": { "reply": "ok" } }));
    let ran = place.run(["retry", "p", "--agents", &quick]);
    assert_ne!(ran.code(), Some(0), "{}", ran.stdout());
    assert_eq!(state(&place, "p").as_deref(), Some("cancelled"));
    // The parent failed of that now, which no retry changes.
    let ran = place.run(["retry", "p", "--agents", &quick]);
    assert!(ran.stderr().contains("p cannot be retried: the run was compensated"), "{}", ran.stderr());
    assert_eq!(place.journal("p.1"), undone);
}

fn import(from: &Place, to: &Place, run: &str) {
    let file = from.path(&format!("{run}.jsonl")).display().to_string();
    assert_eq!(from.run(["db", "export", run, &file]).code(), Some(0));
    let ran = to.run(["db", "import", &file]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
}

fn asked(place: &Place) -> Vec<String> {
    place.calls().iter().map(|call| call["prompt"].as_str().unwrap().to_owned()).collect()
}

/// The script that an imported run names may be any file here.
#[test]
fn a_retry_of_an_imported_run_does_not_open_the_script_that_it_names() {
    let (theirs, mine) = (Place::new(), Place::new());
    let fails = json!({ "match": "flaky", "reply": "", "fail": { "times": 1_000, "kind": "unavailable" } });
    let script = theirs.script(json!({ "rules": [fails], "default": { "reply": "theirs" } }));
    let program = json!([{ "agent": "before" }, { "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } }]);
    assert_eq!(probe(&theirs, "r", program, &["--agents", &script]).code(), Some(1));
    import(&theirs, &mine, "r");
    let profile = mine.file("profile", "");
    let rules = json!({ "calls": profile, "default": { "reply": "mine" } });
    std::fs::write(&script, rules.to_string()).unwrap();
    assert_eq!(state(&mine, "r").as_deref(), Some("failed"));
    let ran = mine.run(["retry", "r"]);
    assert_eq!(ran.code(), Some(4), "{}", ran.stderr());
    assert!(ran.stderr().contains("WF0401") && ran.stderr().contains("--agents FILE"), "{}", ran.stderr());
    assert_eq!(std::fs::read_to_string(&profile).unwrap(), "");
    // What was done is not done again, and what is left by whom the user names.
    let own = mine.script(json!({ "default": { "reply": "own" } }));
    let results = mine.run(["resume", "r", "--agents", &own]).ok_json();
    assert_eq!((&results[0], &results[1]["output"]), (&json!("theirs"), &json!("own")));
    assert_eq!((asked(&mine), asked(&theirs).len()), (vec!["flaky".to_owned()], 2));
    for verb in ["verify", "replay"] {
        assert_eq!(mine.run([verb, "r"]).code(), Some(0), "{verb}");
    }
}

#[test]
fn a_retry_of_an_imported_parent_tries_its_imported_child_or_begins_another_one() {
    let theirs = Place::new();
    let fails = json!({ "match": "flaky", "reply": "", "fail": { "times": 1_000, "kind": "unavailable" } });
    let script = theirs.script(json!({ "rules": [fails], "default": { "reply": "theirs" } }));
    let flaky = json!({ "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } });
    let program =
        json!([{ "must_child": { "module": "probe", "input": { "do": [{ "agent": "before" }, flaky] } } }]);
    assert_eq!(probe(&theirs, "p", program, &["--agents", &script]).code(), Some(1));
    for (came, prompts) in [(&["p.1", "p"][..], &["flaky"][..]), (&["p"], &["before", "flaky"])] {
        let mine = Place::new();
        came.iter().for_each(|run| import(&theirs, &mine, run));
        let own = mine.script(json!({ "default": { "reply": "own" } }));
        let ran = mine.run(["retry", "p", "--agents", &own]);
        assert_eq!(ran.ok_json()[0][1]["output"], "own", "{}", ran.stderr());
        assert_eq!(asked(&mine), prompts);
        assert_eq!(mine.run(["db", "check", "--deep"]).code(), Some(0));
    }
}

/// It may be on its way.
#[test]
fn a_retry_of_an_imported_parent_begins_no_child_that_had_not_ended() {
    let (theirs, mine) = (Place::new(), Place::new());
    left_alone(&theirs);
    import(&theirs, &mine, "p");
    let own = mine.script(json!({ "default": { "reply": "own" } }));
    let mut retried = mine.spawn(["retry", "p", "--agents", &own]);
    wait_for_state(&mine, "p", "waiting");
    assert_eq!(state(&mine, "p.1"), None);
    retried.kill().unwrap();
    retried.wait().unwrap();
    // Where it went on, it came to its end as a child whose parent was gone.
    theirs.run(["resume", "p.1"]);
    assert_eq!(state(&theirs, "p.1").as_deref(), Some("cancelled"));
    import(&theirs, &mine, "p.1");
    let ran = mine.run(["resume", "p", "--agents", &own]);
    assert_eq!(ran.ok_json(), json!([["own"]]), "{}", ran.stderr());
    assert_eq!(asked(&mine), ["slow"]);
    assert_eq!(mine.run(["db", "check", "--deep"]).code(), Some(0));
}

/// A run of version 0 that fails by its own fault, and waits for the signal `go` in version 1.
fn with_fault(place: &Place, before: Value, script: &str) {
    let versions = json!({ "by_version": [[{ "fail": "a fault" }], [{ "wait": { "name": "go" } }]] });
    let input = json!({ "do": [before, { "agent": "quick" }, versions] }).to_string();
    let ran = place.run(["run", &version(place, 0), "-i", &input, "--id", "p", "--agents", script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
}

fn child_of_version_0(program: &Value) -> Value {
    json!({ "child": { "module": "probe-0", "input": { "do": program } } })
}

#[test]
fn a_failed_run_that_goes_on_with_other_code_takes_its_cancelled_child_along() {
    for has_ended in [true, false] {
        let place = Place::new();
        let slow = json!({ "match": "slow", "reply": "", "delay_ms": 600_000 });
        // The child has begun its call when its parent ends.
        let later = json!({ "match": "quick", "reply": "ok", "delay_ms": 1_000 });
        let script = place.script(json!({ "rules": [slow, later], "default": { "reply": "ok" } }));
        with_fault(
            &place,
            json!({ "hold": child_of_version_0(&json!([{ "must_agent": "slow" }])) }),
            &script,
        );
        if has_ended {
            place.run(["resume", "p.1"]);
            assert_eq!(state(&place, "p.1").as_deref(), Some("cancelled"));
        }
        let quick = place.script(json!({ "default": { "reply": "ok" } }));
        let resumed = place.spawn(["resume", "p", "--module", &version(&place, 1), "--agents", &quick]);
        wait_for_state(&place, "p.1", "completed");
        assert_eq!(place.run(["signal", "p", "go", "-i", "7"]).code(), Some(0));
        assert_eq!(finish(resumed).ok_json(), json!([null, "ok", 7]), "{has_ended}");
        for run in ["p", "p.1"] {
            assert_eq!(place.run(["verify", run]).code(), Some(0), "{run}");
            assert_eq!(place.run(["replay", run]).code(), Some(0), "{run}");
        }
    }
}

/// They would work, and be paid, for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn the_cancelled_child_of_a_failed_run_stays_so_if_that_does_not_go_on_with_other_code() {
    let place = Place::in_file();
    let slow = json!({ "match": "slow", "reply": "", "delay_ms": 600_000 });
    // The child has begun its call when its parent ends.
    let later = json!({ "match": "quick", "reply": "ok", "delay_ms": 1_000 });
    let script = place.script(json!({ "rules": [slow, later], "default": { "reply": "ok" } }));
    with_fault(&place, json!({ "hold": child_of_version_0(&json!([{ "must_agent": "slow" }])) }), &script);
    place.run(["resume", "p.1"]);
    assert_eq!(state(&place, "p.1").as_deref(), Some("cancelled"));
    let journals = ["p", "p.1"].map(|run| place.journal(run));

    let host = host(&place, &[], |options| options.adopt = Adopt::Own);
    let fixed = host.add_module("probe", &bytes_of_version(1)).await.expect("a workflow");
    let run: RunId = "p".parse().expect("an id");
    let of_run = "(SELECT id FROM runs WHERE name = 'p')";
    for (what, happens) in [
        ("the claim", "UPDATE OF session ON runs WHEN NEW.name = 'p'".to_owned()),
        ("the commit", format!("INSERT ON commits WHEN NEW.run = {of_run}")),
    ] {
        let outage =
            format!("CREATE TRIGGER outage BEFORE {happens} BEGIN SELECT RAISE(ABORT, 'an outage'); END");
        execute(&place, &outage);
        let options = ResumeOptions { module: Some(fixed.clone()), ..ResumeOptions::default() };
        let refused = host.resume(&run, options).await.expect_err("the database does not take it");
        assert!(refused.to_string().contains("an outage"), "{what}: {refused}");
        execute(&place, "DROP TRIGGER outage");
        let states = ["p", "p.1"].map(|run| state(&place, run));
        assert_eq!(states.each_ref().map(Option::as_deref), [Some("failed"), Some("cancelled")], "{what}");
        assert_eq!(["p", "p.1"].map(|run| place.journal(run)), journals, "{what}");
    }
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
}

/// As long as it is not known that it goes on: its module can be had nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_failed_child_of_a_run_stays_so_if_that_cannot_be_tried_again() {
    let place = Place::in_file();
    let program = json!([{ "must_child": { "module": "probe", "input": { "do": [
        { "agent_or_fail": { "prompt": "p", "providers": ["flaky"], "retry": { "max_attempts": 1 } } }
    ] } } }]);
    let flaky = FailsOnce::new("flaky", FailureKind::Unavailable, 9);
    let with_flaky = |options: &mut HostOptions| options.providers.add(Arc::clone(&flaky) as _);
    let first = host(&place, &[], with_flaky);
    let module = moments::probe(&first).await;
    let mut handle = first.start(&module, starting("p", program), None).await.expect("a run");
    let ended = ending(&mut handle).await;
    assert!(matches!(&ended, Ok(Ending::Finished(Err(_)))), "{ended:?}");
    first.close(None).await;
    let journals = ["p", "p.1"].map(|run| place.journal(run));

    // What the first one compiled it has for itself.
    let second = host(&place, &[], with_flaky);
    execute(&place, "CREATE TABLE kept AS SELECT * FROM modules; DELETE FROM modules");
    let refused = second.retry(&handle.id, None, ResumeOptions::default()).await;
    assert!(matches!(&refused, Err(HostError::NoModule { .. })), "{refused:?}");
    let states = ["p", "p.1"].map(|run| state(&place, run));
    assert_eq!(states.each_ref().map(Option::as_deref), [Some("failed"); 2]);
    assert_eq!(["p", "p.1"].map(|run| place.journal(run)), journals);

    execute(&place, "INSERT INTO modules SELECT * FROM kept; DROP TABLE kept");
    let mut retried = second.retry(&handle.id, None, ResumeOptions::default()).await.expect("it is there");
    let ended = ending(&mut retried).await;
    assert!(matches!(&ended, Ok(Ending::Finished(Ok(_)))), "{ended:?}");
    assert_eq!(flaky.called.load(Ordering::SeqCst), 2);
}

/// The program has taken it into account, and other code may depend on it.
#[test]
fn a_failed_run_that_goes_on_with_other_code_keeps_the_end_of_its_failed_child() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "ok" } }));
    with_fault(&place, child_of_version_0(&json!([{ "fail": "no" }])), &script);
    let journal = place.journal("p.1");
    let resumed = place.spawn(["resume", "p", "--module", &version(&place, 1), "--agents", &script]);
    wait_for_state(&place, "p", "waiting");
    assert_eq!(place.run(["signal", "p", "go", "-i", "7"]).code(), Some(0));
    let results = finish(resumed).ok_json();
    assert_eq!((&results[0]["message"], &results[2]), (&json!("no"), &json!(7)));
    assert_eq!(place.journal("p.1"), journal);
}
