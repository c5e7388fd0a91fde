//! Questions to people, messages to outsiders, by the real binary.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish, module};

/// Begins a program of the probe that comes to a wait, and leaves it there.
fn parked(place: &Place, id: &str, program: &Value) {
    let (module, input) = (module("probe"), json!({ "do": program }).to_string());
    let ran = place.run(["run", &module, "-i", &input, "--id", id, "--no-wait", "--agent", "echo"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
}

fn inbox(place: &Place) -> Vec<Value> {
    place.run(["inbox", "-o", "json"]).ok_json()["questions"].as_array().unwrap().clone()
}

#[test]
fn a_question_stays_open_until_a_fitting_answer_comes() {
    let place = Place::new();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "minimum": 1 } }, "required": ["n"] });
    parked(
        &place,
        "older",
        &json!([{ "ask": { "prompt": "How many?", "schema": schema, "details": { "stock": 7 } } }]),
    );
    parked(&place, "newer", &json!([{ "ask": { "prompt": "Which colour?", "choices": ["red", "green"] } }]));
    let open = inbox(&place);
    let runs: Vec<_> = open.iter().map(|question| question["run"].as_str().unwrap()).collect();
    assert_eq!(runs, ["older", "newer"]);
    assert_eq!((&open[0]["schema"], &open[0]["details"]), (&schema, &json!({ "stock": 7 })));
    let text = place.run(["inbox"]).stdout();
    assert!(text.contains("    How many?\n") && text.contains("choices  red, green"), "{text}");

    let error = place.run(["answer", "older", "-i", r#"{"n":0}"#]).error(2, &place);
    assert!(error.starts_with("error[WF0508]: the answer does not match"), "{error}");
    assert!(error.contains("0 is less than the minimum of 1"), "{error}");
    let error = place.run(["answer", "newer", "-i", "\"blue\""]).error(2, &place);
    assert!(error.contains("red") && error.contains("green"), "{error}");
    assert_eq!(inbox(&place).len(), 2);

    assert_eq!(place.run(["answer", "older", "-i", r#"{"n":3}"#, "--by", "ada"]).code(), Some(0));
    let error = place.run(["answer", "older", "-i", r#"{"n":4}"#]).error(2, &place);
    assert!(error.starts_with("error[WF0507]: older has no open question"), "{error}");
    assert_eq!(inbox(&place).len(), 1);
    // The command that the inbox shows works as it stands.
    let shown =
        text.lines().filter_map(|line| line.trim().strip_prefix("do       wfhost ")).next_back().unwrap();
    let args: Vec<_> = shown.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect();
    assert_eq!(place.run(args).code(), Some(0), "{shown}");
    assert_eq!(place.run(["resume", "older"]).ok_json(), json!([{ "n": 3 }]));
    assert_eq!(place.run(["resume", "newer"]).ok_json(), json!(["red"]));
    let error = place.run(["answer", "newer", "-i", "\"red\""]).error(2, &place);
    assert!(error.starts_with("error[WF0502]: newer has ended"), "{error}");
}

#[test]
fn an_answer_wakes_the_run_wherever_it_waits() {
    let place = Place::new();
    let (module, input) = (module("probe"), json!({ "do": [{ "ask": { "prompt": "Go on?" } }] }).to_string());
    let child = place.spawn(["run", &module, "-i", &input, "--id", "r"]);
    eventually("the question", || (inbox(&place).len() == 1).then_some(()));
    assert_eq!(place.run(["approve", "r"]).code(), Some(0));
    let ran = finish(child);
    assert_eq!(ran.ok_json(), json!([true]));
    assert!(ran.stderr().contains("wfhost answer r 1"), "{}", ran.stderr());
    // And one that no process holds, while somebody serves.
    parked(&place, "p", &json!([{ "ask": { "prompt": "Go on?" } }]));
    let mut server = place.spawn(["serve"]);
    place.run(["approve", "p", "-i", r#"{"ok":true}"#]);
    eventually("the end", || (place.show("p")["state"] == "completed").then_some(()));
    assert_eq!(place.show("p")["output"], json!([{ "ok": true }]));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn who_decided_is_recorded_and_a_refusal_is_a_value() {
    let place = Place::new();
    parked(&place, "r", &json!([{ "ask": { "prompt": "Ship?" } }, { "ask": { "prompt": "Really?" } }]));
    assert_eq!(place.run(["approve", "r", "--by", "ada", "--note", "looks fine"]).code(), Some(0));
    assert_eq!(place.run(["resume", "r", "--no-wait"]).code(), Some(3));
    let ran = place.run(["deny", "r", "--by", "bob", "--note", "too late"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let output = place.run(["resume", "r"]).ok_json();
    assert_eq!((&output[0], &output[1]["failure"]), (&json!(true), &json!("rejected")));
    assert!(output[1]["message"].as_str().unwrap().contains("bob"), "{output}");
    let answered: Vec<_> =
        place.journal("r").into_iter().filter(|entry| entry["kind"] == "answered").collect();
    assert_eq!((&answered[0]["by"], &answered[0]["note"]), (&json!("ada"), &json!("looks fine")));
    assert_eq!((&answered[1]["by"], &answered[1]["note"]), (&json!("bob"), &json!("too late")));
}

#[test]
fn a_question_without_an_answer_times_out() {
    let place = Place::new();
    let ask = json!({ "ask": { "prompt": "Anyone?", "timeout_ms": 300 } });
    let (module, input) = (module("probe"), json!({ "do": [ask] }).to_string());
    let output = place.run(["run", &module, "-i", &input, "--id", "r"]).ok_json();
    assert_eq!(output[0]["failure"], "timed-out");
    assert!(inbox(&place).is_empty());
    let error = place.run(["answer", "r", "-i", "1"]).error(2, &place);
    assert!(error.starts_with("error[WF0502]"), "{error}");
}

#[test]
fn a_question_whose_time_is_over_is_not_offered_to_anybody() {
    let place = Place::new();
    parked(&place, "q", &json!([{ "ask": { "prompt": "Anyone?", "timeout_ms": 4_000 } }]));
    eventually("the deadline", || inbox(&place).is_empty().then_some(()));
    let why = place.run(["why", "q"]).stdout();
    assert!(
        why.contains("the time limit for an answer has expired") && !why.contains("wfhost answer"),
        "{why}"
    );
    assert_eq!(place.run(["answer", "q", "-i", "1"]).code(), Some(2));
    assert_eq!(place.run(["resume", "q"]).ok_json()[0]["failure"], "timed-out");
}

#[test]
fn a_question_with_a_bad_schema_is_the_programs_error() {
    let place = Place::new();
    let ask = json!({ "ask": { "prompt": "?", "schema": { "type": "no such type" } } });
    let (module, input) = (module("probe"), json!({ "do": [ask] }).to_string());
    let ran = place.run(["run", &module, "-i", &input]);
    assert_eq!(ran.code(), Some(1));
    let expected =
        "rejected: the program asks with a JSON Schema that cannot be used: \"no such type\" is not valid";
    assert!(ran.stderr().contains(expected), "{}", ran.stderr());
    assert!(inbox(&place).is_empty());
}

#[test]
fn messages_come_in_order_behind_a_cursor() {
    let place = Place::new();
    let post = |n: u32| json!({ "post": { "name": "chapter", "payload": { "n": n } } });
    parked(
        &place,
        "r",
        &json!([post(1), post(2), { "agent": "x" }, post(3), { "wait": { "name": "go" } }, post(4)]),
    );
    let page = |args: &[&str]| {
        let page = place.run(["messages", "r", "-o", "json"].iter().chain(args)).ok_json();
        let numbers: Vec<_> =
            page["messages"].as_array().unwrap().iter().map(|m| m["payload"]["n"].clone()).collect();
        (numbers, page["after"].clone())
    };
    let (numbers, after) = page(&["--limit", "2"]);
    assert_eq!(numbers, [1, 2]);
    let (numbers, after) = page(&["--after", &after.to_string()]);
    assert_eq!(numbers, [3]);
    place.run(["signal", "r", "go"]);
    place.run(["resume", "r"]).ok_json();
    // Replaying posts nothing again.
    assert_eq!(page(&["--after", &after.to_string()]).0, [4]);
    assert_eq!(page(&[]).0, [1, 2, 3, 4]);
}

/// A run that nobody advances has not been told yet that the time of its question is over.
#[test]
fn a_question_whose_time_is_over_hides_no_other() {
    let place = Place::new();
    let both = json!([{ "parallel": [{ "ask": { "prompt": "First?", "timeout_ms": 3_600_000 } }, { "ask": { "prompt": "Second?" } }] }]);
    parked(&place, "r", &both);
    let over = "UPDATE questions SET deadline = 1 WHERE deadline IS NOT NULL";
    place.change(over, over);
    let open = place.run(["inbox", "-n", "1", "-o", "json"]).ok_json()["questions"].clone();
    assert_eq!((open.as_array().map(Vec::len), &open[0]["prompt"]), (Some(1), &json!("Second?")), "{open}");
    let ran = place.run(["answer", "r", "-i", "2"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let open = inbox(&place);
    assert!(open.is_empty(), "{open:?}");
    let ran = place.run(["verify", "r"]);
    assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout(), ran.stderr());
}
