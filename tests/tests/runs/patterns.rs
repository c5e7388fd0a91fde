//! Sagas and the other patterns of the Rust SDK, on the real host: what is undone and when, what
//! runs at the same time, who wins, and that all of it is so again after a kill.

use std::collections::BTreeMap;
use std::process::Child;

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish, module};

fn begin(place: &Place, program: &Value, script: &str) -> Child {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    place.spawn(["run", &module, "-i", &input, "--id", "r", "--agents", script])
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A program that is a saga only; its failure is that of the run.
fn saga(steps: &[Value]) -> Value {
    json!([{ "pattern_or_fail": { "saga": steps } }])
}

/// A step of a saga that asks an agent, and asks another one to undo it.
fn booking(name: &str) -> Value {
    json!({ "name": name, "do": { "agent": format!("book {name}") }, "undo": [{ "agent": format!("cancel {name}") }] })
}

/// A step that fails.
fn payment() -> Value {
    json!({ "name": "payment", "do": { "agent": "pay" } })
}

/// A script in which `pay` fails, with further rules that go before.
fn broke(place: &Place, more: &[Value]) -> String {
    let mut rules = more.to_vec();
    rules.push(json!({ "match": "^pay", "reply": "", "fail": { "times": 99, "kind": "rejected", "message": "no money" } }));
    place.script(json!({ "rules": rules, "default": { "reply": "${prompt}" } }))
}

fn prompts(place: &Place) -> Vec<String> {
    place.calls().iter().map(|call| call["prompt"].as_str().unwrap().to_owned()).collect()
}

fn called(place: &Place, prompt: &str) -> usize {
    prompts(place).iter().filter(|asked| *asked == prompt).count()
}

/// How often the program has waited for that signal.
fn waits(place: &Place, signal: &str) -> usize {
    place.journal("r").iter().filter(|entry| entry["op"]["name"] == signal).count()
}

fn waits_for(place: &Place, signal: &str) -> bool {
    waits(place, signal) == 1
}

fn cancelled(place: &Place) -> usize {
    place.journal("r").iter().filter(|entry| entry["kind"] == "cancelled").count()
}

#[test]
fn what_was_done_is_undone_in_reverse_and_the_run_fails_with_the_cause() {
    let place = Place::new();
    let script = broke(&place, &[]);
    let child = begin(&place, &saga(&[booking("flight"), booking("hotel"), payment()]), &script);
    let error = finish(child).error(1, &place);
    assert!(error.contains("no money"), "{error}");
    assert_eq!(prompts(&place), ["book flight", "book hotel", "pay", "cancel hotel", "cancel flight"]);
    let failure = place.show("r")["failure"].clone();
    assert_eq!((&failure["kind"], &failure["message"]), (&json!("rejected"), &json!("no money")));
    assert_eq!(failure["details"]["saga"], json!({ "undone": ["hotel", "flight"], "not_undone": [] }));
    // The flight that was cancelled is not taken for a booked one by a second try.
    let error = place.run(["retry", "r"]).error(2, &place);
    assert!(error.starts_with("error[WF0506]"), "{error}");
    assert!(error.contains("the run was compensated; start a new one"), "{error}");
    assert_eq!(place.calls().len(), 5);
}

#[test]
fn a_saga_that_succeeds_undoes_nothing() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}" } }));
    let child = begin(&place, &saga(&[booking("flight"), booking("hotel")]), &script);
    assert_eq!(finish(child).ok_json(), json!([["book flight", "book hotel"]]));
    assert_eq!(prompts(&place), ["book flight", "book hotel"]);
}

#[test]
fn each_is_undone_once_although_the_host_is_killed_before_during_and_after_it() {
    let names = ["flight", "hotel", "car"];
    // The undoing of each is a call, a wait, and a call.
    let step = |name: &str| {
        json!({ "name": name, "do": { "agent": format!("book {name}") }, "undo": [
            { "agent": format!("cancel {name}") }, { "wait": { "name": name } }, { "agent": format!("bill {name}") },
        ] })
    };
    let steps: Vec<_> = names.map(step).into_iter().chain([payment()]).collect();
    for in_flight in [None, Some("cancel car"), Some("bill hotel"), Some("cancel flight")] {
        let place = Place::new();
        let hanging =
            in_flight.map(|prompt| json!({ "match": prompt, "reply": "late", "delay_ms": 600_000 }));
        let script = broke(&place, hanging.as_slice());
        let mut child = begin(&place, &saga(&steps), &script);
        for name in names.into_iter().rev() {
            // In the middle of a call, if it is the one.
            for prompt in [format!("cancel {name}"), format!("bill {name}")] {
                if in_flight == Some(prompt.as_str()) {
                    eventually("the call", || (called(&place, &prompt) == 1).then_some(()));
                    kill(child);
                    broke(&place, &[]);
                    child = place.spawn(["resume", "r", "--agents", &script]);
                }
                if prompt.starts_with("cancel") {
                    // Between the calls, always.
                    eventually("the wait", || waits_for(&place, name).then_some(()));
                    kill(child);
                    assert_eq!(place.run(["signal", "r", name]).code(), Some(0));
                    child = place.spawn(["resume", "r", "--agents", &script]);
                }
            }
        }
        finish(child).error(1, &place);
        let mut counts = BTreeMap::new();
        for prompt in prompts(&place) {
            *counts.entry(prompt).or_insert(0) += 1;
        }
        for (prompt, count) in counts {
            // The one in flight nobody heard an answer of; it is made again with its key.
            let expected = if in_flight == Some(prompt.as_str()) { 2 } else { 1 };
            assert_eq!(count, expected, "{prompt} with {in_flight:?}");
        }
        let mut answered = prompts(&place);
        answered.dedup();
        let undone = ["cancel car", "bill car", "cancel hotel", "bill hotel", "cancel flight", "bill flight"];
        assert_eq!(answered[4..], undone, "{in_flight:?}");
        let saga = &place.show("r")["failure"]["details"]["saga"];
        assert_eq!(*saga, json!({ "undone": ["car", "hotel", "flight"], "not_undone": [] }));
    }
}

#[test]
fn an_undoing_that_fails_is_recorded_and_the_rest_are_undone() {
    let place = Place::new();
    let refuses = json!({ "match": "^cancel hotel", "reply": "", "fail": { "times": 99, "kind": "rejected", "message": "too late" } });
    let script = broke(&place, &[refuses]);
    let steps = [booking("flight"), booking("hotel"), booking("car"), payment()];
    finish(begin(&place, &saga(&steps), &script)).error(1, &place);
    assert_eq!(prompts(&place)[4..], ["cancel car", "cancel hotel", "cancel flight"]);
    let failure = &place.show("r")["failure"];
    assert_eq!(failure["message"], "no money");
    let hotel = json!({ "step": "hotel", "kind": "rejected", "message": "too late" });
    assert_eq!(failure["details"]["saga"], json!({ "undone": ["car", "flight"], "not_undone": [hotel] }));
    let log = place.run(["logs", "r"]).stdout();
    assert!(log.contains("`hotel` could not be undone: too late"), "{log}");
}

#[test]
fn what_is_registered_before_a_step_is_undone_although_that_step_failed() {
    let place = Place::new();
    let mut pay = payment();
    pay["before"] = json!(true);
    pay["undo"] = json!([{ "agent": "pay back" }]);
    let rule = json!({ "match": "^pay back", "reply": "paid back" });
    let script = broke(&place, &[rule]);
    finish(begin(&place, &saga(&[booking("flight"), pay]), &script)).error(1, &place);
    assert_eq!(prompts(&place), ["book flight", "pay", "pay back", "cancel flight"]);
}

#[test]
fn a_run_that_is_cancelled_undoes_what_it_did_also_when_it_is_killed_meanwhile() {
    for killed in [false, true] {
        let place = Place::new();
        let hangs = |prompt: &str| json!({ "match": prompt, "reply": "late", "delay_ms": 600_000 });
        let slow =
            if killed { vec![hangs("^book car"), hangs("^cancel flight")] } else { vec![hangs("^book car")] };
        let script = broke(&place, &slow);
        let steps = [booking("flight"), booking("hotel"), booking("car"), payment()];
        let mut child = begin(&place, &saga(&steps), &script);
        eventually("the call", || (called(&place, "book car") == 1).then_some(()));
        // It waits for the end of the run.
        let cancel = place.spawn(["cancel", "r", "--reason", "enough"]);
        if killed {
            eventually("the undoing", || (called(&place, "cancel flight") == 1).then_some(()));
            kill(child);
            broke(&place, &[]);
            child = place.spawn(["resume", "r", "--agents", &script]);
        }
        assert_ne!(finish(child).code(), Some(0));
        finish(cancel);
        let shown = place.show("r");
        assert_eq!(shown["state"], "cancelled");
        assert_eq!(shown["failure"]["message"], "the run was asked to stop: enough");
        let saga = json!({ "undone": ["hotel", "flight"], "not_undone": [] });
        assert_eq!(shown["failure"]["details"]["saga"], saga);
        let mut prompts = prompts(&place);
        assert_eq!(prompts.len(), if killed { 6 } else { 5 });
        prompts.dedup();
        assert_eq!(prompts, ["book flight", "book hotel", "book car", "cancel hotel", "cancel flight"]);
        // What is gone is not gone on with.
        let error = place.run(["retry", "r"]).error(2, &place);
        assert!(error.contains("the run was compensated"), "{error}");
    }
}

#[test]
fn an_undoing_that_the_request_to_stop_interrupts_is_begun_again() {
    let place = Place::new();
    let script = broke(&place, &[]);
    let mut hotel = booking("hotel");
    hotel["undo"] = json!([{ "wait": { "name": "reception" } }, { "agent": "cancel hotel" }]);
    let child = begin(&place, &saga(&[booking("flight"), hotel, payment()]), &script);
    eventually("the wait", || waits_for(&place, "reception").then_some(()));
    let cancel = place.spawn(["cancel", "r"]);
    // The wait ended with the request, and is there again.
    eventually("the second wait", || (waits(&place, "reception") == 2).then_some(()));
    place.run(["signal", "r", "reception"]);
    assert_ne!(finish(child).code(), Some(0));
    finish(cancel);
    assert_eq!(prompts(&place)[3..], ["cancel hotel", "cancel flight"]);
    let shown = place.show("r");
    assert_eq!(shown["failure"]["message"], "no money");
    assert_eq!(
        shown["failure"]["details"]["saga"],
        json!({ "undone": ["hotel", "flight"], "not_undone": [] })
    );
}

#[test]
fn a_saga_that_is_dropped_is_undone_beside_what_comes_next_and_before_the_end() {
    let place = Place::new();
    let script = place.script(json!({ "default": { "reply": "${prompt}" } }));
    let mut flight = booking("flight");
    flight["undo"] = json!([{ "wait": { "name": "airline" } }, { "agent": "cancel flight" }]);
    let never = json!({ "name": "hotel", "do": { "wait": { "name": "never" } } });
    let dropped = json!({ "pattern": { "saga": [flight, never] } });
    let program = json!([{ "timeout": { "millis": 30, "operation": dropped } }, { "agent": "next" }]);
    let child = begin(&place, &program, &script);
    eventually("the program's end", || {
        (called(&place, "next") == 1 && waits_for(&place, "airline")).then_some(())
    });
    kill(child);
    place.run(["signal", "r", "airline"]);
    let results = place.run(["resume", "r"]).ok_json();
    assert_eq!((&results[0]["failure"], &results[1]), (&json!("timed-out"), &json!("next")));
    assert_eq!(prompts(&place), ["book flight", "next", "cancel flight"]);
}

/// How many agent calls of each word were open at most, by the journal.
fn most_open(journal: &[Value]) -> BTreeMap<String, usize> {
    let mut open = BTreeMap::<String, usize>::new();
    let mut most = BTreeMap::<String, usize>::new();
    let mut words = BTreeMap::new();
    for entry in journal {
        let step = entry["step"].as_u64();
        match entry["kind"].as_str() {
            Some("scheduled") => {
                let prompt = entry["op"]["prompt"].as_str().expect("an agent call");
                let word = prompt.split(' ').next().unwrap().to_owned();
                let count = open.entry(word.clone()).or_default();
                *count += 1;
                let peak = most.entry(word.clone()).or_default();
                *peak = (*peak).max(*count);
                words.insert(step, word);
            }
            Some("completed" | "cancelled") => *open.get_mut(&words[&step]).unwrap() -= 1,
            _ => {}
        }
    }
    most
}

#[test]
fn a_bounded_map_keeps_its_bound_and_the_order_of_its_items() {
    let place = Place::new();
    // The earlier ones take longer.
    let rules: Vec<_> = (0..8)
        .map(|item| json!({ "match": format!("^item {item}"), "reply": item, "delay_ms": 90 - 10 * item }))
        .collect();
    let script = place.script(json!({ "rules": rules }));
    let operations: Vec<_> = (0..8).map(|item| json!({ "agent": format!("item {item}") })).collect();
    let program = json!([{ "pattern": { "map": { "limit": 3, "operations": operations } } }]);
    let child = begin(&place, &program, &script);
    eventually("half of it", || (place.calls().len() >= 4).then_some(()));
    kill(child);
    let results = place.run(["resume", "r", "--agents", &script]).ok_json();
    assert_eq!(results[0], json!(["0", "1", "2", "3", "4", "5", "6", "7"]));
    assert_eq!(most_open(&place.journal("r")), BTreeMap::from([("item".to_owned(), 3)]));
}

#[test]
fn the_first_failure_of_a_map_cancels_what_is_under_way() {
    let place = Place::new();
    let script = broke(&place, &[json!({ "match": "^hang", "reply": "", "delay_ms": 600_000 })]);
    let operations = ["hang 1", "pay", "hang 2", "never"].map(|prompt| json!({ "agent": prompt }));
    let program = json!([{ "pattern": { "try_map": { "limit": 3, "operations": operations } } }]);
    let results = finish(begin(&place, &program, &script)).ok_json();
    assert_eq!(results[0]["failure"], "rejected");
    assert_eq!((cancelled(&place), called(&place, "never")), (2, 0));
}

#[test]
fn items_of_a_pipeline_go_on_at_their_own_pace() {
    let place = Place::new();
    let slow = json!({ "match": "^draft a$", "reply": "a", "delay_ms": 600_000 });
    let script = place.script(json!({ "rules": [slow, { "match": "^draft (.)", "reply": "$1" }, { "match": "^review (.)", "reply": "$1!" }] }));
    let stages = json!([["draft", 2], ["review", 1]]);
    let items = ["a", "b", "c", "d", "e"];
    let program = json!([{ "pattern": { "pipeline": { "stages": stages, "items": items } } }]);
    let child = begin(&place, &program, &script);
    // All others come through although the first one is in its first stage.
    eventually("the others", || {
        (prompts(&place).iter().filter(|prompt| prompt.starts_with("review")).count() == 4).then_some(())
    });
    eventually("their answers", || {
        (place.journal("r").iter().filter(|entry| entry["kind"] == "completed").count() == 8).then_some(())
    });
    kill(child);
    let script = place.script(json!({ "rules": [{ "match": "^draft (.)", "reply": "$1" }, { "match": "^review (.)", "reply": "$1!" }] }));
    let results = place.run(["resume", "r", "--agents", &script]).ok_json();
    assert_eq!(results[0], json!(["a!", "b!", "c!", "d!", "e!"]));
    assert_eq!(
        most_open(&place.journal("r")),
        BTreeMap::from([("draft".to_owned(), 2), ("review".to_owned(), 1)])
    );
    assert_eq!(place.calls().len(), 11);
}

#[test]
fn winners_are_the_same_on_replay_and_losers_are_cancelled() {
    let place = Place::new();
    let script = broke(
        &place,
        &[
            json!({ "match": "^hang", "reply": "", "delay_ms": 600_000 }),
            json!({ "match": "^second", "reply": "second", "delay_ms": 1_000 }),
        ],
    );
    let ask = |prompt: &str| json!({ "agent": prompt });
    let program = json!([
        { "pattern": { "race": [ask("hang 1"), ask("quick"), ask("hang 2")] } },
        { "pattern": { "first_ok": [ask("pay"), ask("hang 3"), ask("second")] } },
        { "pattern": { "quorum": { "count": 2, "operations": [ask("second"), ask("hang 4"), ask("pay"), ask("quick")] } } },
        { "pattern": { "quorum": { "count": 2, "operations": [ask("pay"), ask("hang 5"), ask("pay")] } } },
        { "wait": { "name": "go" } },
    ]);
    let child = begin(&place, &program, &script);
    eventually("the wait", || waits_for(&place, "go").then_some(()));
    kill(child);
    let (before, calls) = (place.journal("r"), place.calls().len());
    assert_eq!(cancelled(&place), 5);
    place.run(["signal", "r", "go", "-i", "7"]);
    let results = place.run(["resume", "r"]).ok_json();
    assert_eq!(results[0], json!([1, "quick"]));
    assert_eq!(results[1], json!("second"));
    assert_eq!(results[2], json!([[3, "quick"], [0, "second"]]));
    assert_eq!(results[3]["failure"], "rejected");
    assert_eq!(results[3]["message"], "2 of 3 tries failed, 2 have to succeed: no money");
    let failed: Vec<_> = results[3]["details"]["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| &failure["index"])
        .collect();
    assert_eq!(failed, [0, 2]);
    assert_eq!(results[4], 7);
    assert_eq!(place.journal("r")[..before.len()], before);
    assert_eq!(place.calls().len(), calls);
}

#[test]
fn a_block_is_tried_again_with_durable_delays_and_a_loop_has_a_last_round() {
    let place = Place::new();
    let fails = |prompt: &str, times: u32, kind: &str| json!({ "match": prompt, "reply": "done", "fail": { "times": times, "kind": kind, "message": "not yet" } });
    let rules = json!([
        fails("^build", 2, "failed"),
        fails("^refused", 99, "rejected"),
        { "match": "^good\\?", "replies": ["no", "no", "yes"] },
        { "match": "^ever\\?", "reply": "no" },
    ]);
    let script = place.script(json!({ "rules": rules, "default": { "reply": "${prompt}" } }));
    let once = |prompt: &str| json!({ "agent_with": { "prompt": prompt, "retry": { "max_attempts": 1 } } });
    let again = |attempts: u32, last: Value| json!({ "pattern": { "retry": { "attempts": attempts, "initial": 20, "operations": [{ "agent": "prepare" }, last] } } });
    let until = |prompt: &str| json!({ "pattern": { "loop_until": { "max": 4, "operation": { "agent": prompt }, "value": "yes" } } });
    let program =
        json!([again(3, once("build")), again(3, once("refused")), until("good?"), until("ever?"),]);
    let results = finish(begin(&place, &program, &script)).ok_json();
    assert_eq!(results[0][0], "prepare");
    assert_eq!(results[0][1]["output"], "done");
    assert_eq!(results[1]["failure"], "rejected");
    assert_eq!(results.as_array().unwrap()[2..], [json!([3, true]), json!([4, false])]);
    let count = |prompt| called(&place, prompt);
    assert_eq!([count("prepare"), count("build"), count("refused")], [4, 3, 1]);
    assert_eq!([count("good?"), count("ever?")], [3, 4]);
    let sleeps = place.journal("r").iter().filter(|entry| entry["op"]["kind"] == "sleep").count();
    assert_eq!(sleeps, 2);
}
