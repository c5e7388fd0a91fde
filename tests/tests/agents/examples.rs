//! The examples `review`, `triage` and `saga`.

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

/// A script that answers by what the prompt and the input say.
fn run(place: &Place, name: &str, id: &str, input: &Value, args: &[&str]) -> wfhost_tests::Ran {
    let mut all = vec![
        "run".to_owned(),
        module(name),
        "-i".to_owned(),
        input.to_string(),
        "--id".to_owned(),
        id.to_owned(),
    ];
    all.extend(args.iter().map(|&arg| arg.to_owned()));
    place.run(all)
}

#[test]
fn a_change_is_reviewed_judged_and_approved() {
    let place = Place::new();
    let script = place.script(json!({
        "rules": [
            {"match": "for correctness", "reply": {"accepted": true, "notes": []}},
            // A reviewer who talks too much.
            {"match": "for clarity", "reply": "Well: ```json\n{\"accepted\": false, \"notes\": [\"name it\"]}\n```"},
            {"match": "Decide", "reply": {"accepted": true, "reason": "a name is a detail"}},
        ]
    }));
    let input = json!({"diff": "+ let x = 1;"});
    let ran = run(&place, "review", "r", &input, &["--agents", &script, "--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let inbox = place.run(["inbox"]).stdout();
    assert!(inbox.contains("The judge says: a name is a detail"), "{inbox}");
    assert_eq!(place.run(["approve", "r"]).code(), Some(0));
    let outcome = place.run(["resume", "r"]).ok_json();
    assert_eq!((&outcome["accepted"], &outcome["approved"]), (&json!(true), &json!(true)));
    assert_eq!(outcome["reviews"][1], json!({"accepted": false, "notes": ["name it"]}));
    assert_eq!(place.calls().len(), 3);

    let ran = run(&place, "review", "s", &input, &["--agents", &script, "--no-wait"]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    assert_eq!(place.run(["deny", "s"]).code(), Some(0));
    assert_eq!(place.run(["resume", "s"]).ok_json()["approved"], false);
}

#[test]
fn a_judge_who_refuses_spares_the_person() {
    let place = Place::new();
    let script = place.script(json!({
        "rules": [
            {"match": "Review", "reply": {"accepted": false, "notes": ["no"]}},
            {"match": "Decide", "reply": {"accepted": false, "reason": "nobody likes it"}},
        ]
    }));
    let outcome = run(&place, "review", "r", &json!({"diff": "-"}), &["--agents", &script]).ok_json();
    assert_eq!((&outcome["accepted"], &outcome["approved"]), (&json!(false), &Value::Null));
}

#[test]
fn tickets_are_sorted_once_and_within_the_budget() {
    let place = Place::new();
    let script = place.script(json!({
        "default": {"reply": {"kind": "bug", "urgency": 3}, "usage": {"input_tokens": 100}}
    }));
    let ticket = |n: u32| json!({"id": format!("T-{n}"), "text": format!("it is broken {n}")});
    let input = |count: u32| json!({"tickets": (1..=count).map(ticket).collect::<Vec<_>>(), "at_once": 1});
    let report = run(&place, "triage", "a", &input(3), &["--agents", &script]).ok_json();
    assert_eq!((report["sorted"].as_array().map(Vec::len), &report["tokens"]), (Some(3), &json!(300)));
    assert_eq!(report["sorted"][0], json!(["T-1", {"kind": "bug", "urgency": 3}]));
    // The known ones cost nothing; of the others two can be paid.
    let report =
        run(&place, "triage", "b", &input(6), &["--agents", &script, "--budget", "tokens=150"]).ok_json();
    assert_eq!(report["sorted"].as_array().map(Vec::len), Some(5), "{report}");
    assert_eq!((&report["unpaid"], &report["tokens"]), (&json!(["T-6"]), &json!(200)));
    assert_eq!(place.calls().len(), 5);
}

/// An agency that answers each booking, and a bank that has something against it.
fn agency(place: &Place, payment: &Value) -> String {
    place.script(json!({
        "rules": [
            {"match": "^book a flight", "reply": {"reference": "F-1", "price": 300}},
            {"match": "^book a hotel", "reply": {"reference": "H-2", "price": 200}, "delay_ms": 20},
            {"match": "^charge", "reply": "receipt 3", "fail": payment},
        ],
        "default": {"reply": "${prompt}"},
    }))
}

#[test]
fn a_trip_that_cannot_be_paid_is_undone() {
    let place = Place::new();
    let input = json!({"traveller": "Ada", "to": "Oslo"});
    let script = agency(&place, &json!({"times": 0}));
    let trip = run(&place, "saga", "paid", &input, &["--agents", &script]).ok_json();
    assert_eq!((&trip["flight"]["reference"], &trip["receipt"]), (&json!("F-1"), &json!("receipt 3")));
    assert_eq!(place.calls().len(), 3);

    let script = agency(&place, &json!({"times": 1, "kind": "rejected", "message": "no money"}));
    run(&place, "saga", "unpaid", &input, &["--agents", &script]).error(1, &place);
    let calls = place.calls();
    let prompts: Vec<_> = calls[3..].iter().map(|call| call["prompt"].as_str().unwrap()).collect();
    let undone = ["pay back to Ada what was paid for the trip", "cancel booking H-2", "cancel booking F-1"];
    assert_eq!(prompts[..3], ["book a flight", "book a hotel", "charge Ada with 500 euros"]);
    assert_eq!(prompts[3..], undone);
    let failure = &place.show("unpaid")["failure"];
    assert_eq!(failure["message"], "no money");
    assert_eq!(failure["details"]["saga"]["undone"], json!(["payment", "hotel", "flight"]));
}
