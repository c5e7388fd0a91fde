//! Hosts that die while agents work: each call is counted.

use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, finish};

use crate::server::Server;
use crate::{ask, calls, config_args, entries, gave, quick, run_args, shell, step};

fn start(place: &Place, input: &Value) -> Child {
    place.spawn(run_args(place, input, &[]))
}

/// Kills the host as nothing can prevent it.
fn kill(mut child: Child) {
    child.kill().expect("it lives");
    child.wait().expect("it can be waited for");
}

fn resume(place: &Place) -> Value {
    let args = ["resume", "r"].map(str::to_owned).into_iter().chain(config_args(place));
    gave(&place.run(args.collect::<Vec<_>>()))
}

#[test]
fn killed_in_a_retry_delay_no_attempt_is_given_away_and_no_delay_starts_anew() {
    let place = Place::new();
    shell(&place, "jsonl", "[ \"$WFHOST_ATTEMPT\" = 1 ] && exit 1\necho '{\"output\":\"at last\"}'");
    let retry = json!({"max_attempts": 2, "initial": 6_000, "jitter": 0.0});
    let child = start(&place, &ask(json!({"prompt": "p", "providers": ["agent"], "retry": retry})));
    eventually("the first failure", || {
        place.has_begun().then(|| calls(&place)).filter(|calls| calls.len() == 1)
    });
    eventually("its entry", || (entries(&place, "attempt-failed").len() == 1).then_some(()));
    kill(child);
    let again_at = entries(&place, "attempt-failed")[0]["again_at"].clone();
    assert_eq!(resume(&place)["output"], "at last");
    let calls = calls(&place);
    assert_eq!((calls.len(), calls[0][1].as_str(), calls[1][1].as_str()), (2, "1", "2"));
    assert_eq!(calls[0][2], calls[1][2], "one idempotency key");
    assert_eq!(entries(&place, "attempt-failed").len(), 1);
    let attempted = entries(&place, "attempted");
    assert_eq!((attempted.len(), attempted[0]["attempt"].as_u64()), (1, Some(2)));
    assert!(attempted[0]["at"].as_str() >= again_at.as_str(), "not before its time");
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}

#[test]
fn a_delay_that_ended_while_nobody_was_there_is_over_at_once() {
    let place = Place::new();
    shell(&place, "jsonl", "[ \"$WFHOST_ATTEMPT\" = 1 ] && exit 1\necho '{\"output\":\"at last\"}'");
    let retry = json!({"max_attempts": 2, "initial": 4_000, "jitter": 0.0});
    let child = start(&place, &ask(json!({"prompt": "p", "providers": ["agent"], "retry": retry})));
    eventually("its entry", || {
        (place.has_begun()
            && place.run(["show", "r"]).code() == Some(0)
            && entries(&place, "attempt-failed").len() == 1)
            .then_some(())
    });
    kill(child);
    std::thread::sleep(Duration::from_millis(4_200));
    assert_eq!(resume(&place)["output"], "at last");
    assert_eq!(step(&place)["attempts"], 2);
}

/// A service whose first answer never ends.
fn hanging(begun: Arc<AtomicBool>) -> Server {
    Server::start(move |request, mut answer| {
        answer.stream();
        answer.event(&json!({"choices": [{"delta": {"content": "hel"}}]}));
        if request.number == 0 {
            begun.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(60));
        }
        answer.event(&json!({"choices": [{"delta": {"content": "lo"}, "finish_reason": "stop"}]}));
        answer.raw("data: [DONE]\n\n");
    })
}

fn model(place: &Place, server: &Server) {
    place.file(
        "wfhost.toml",
        format!(
            "[providers.m]\nkind = \"openai\"\nbase_url = {:?}\napi_key = false\nmodel = \"m\"\n",
            server.url
        ),
    );
}

#[test]
fn killed_in_a_streaming_answer_the_call_is_made_once_more_with_the_same_key() {
    let place = Place::new();
    let begun = Arc::new(AtomicBool::new(false));
    let server = hanging(Arc::clone(&begun));
    model(&place, &server);
    let child = start(&place, &ask(json!({"prompt": "p", "providers": ["m"], "retry": quick(1)})));
    eventually("the stream", || begun.load(Ordering::SeqCst).then_some(()));
    // What was said until then is kept.
    eventually("a transcript", || {
        place.run(["transcript", "r", "1", "--raw"]).stdout().contains("hel").then_some(())
    });
    kill(child);
    assert_eq!(resume(&place)["output"], "hello");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].headers["idempotency-key"], requests[1].headers["idempotency-key"]);
    assert_eq!(step(&place)["attempts"], 2, "the journal shows each attempt");
}

#[test]
fn killed_in_a_correction_turn_the_attempt_begins_anew() {
    let place = Place::new();
    let hangs = place.path("hangs");
    shell(
        &place,
        "text",
        &format!(
            "if grep -q 'contains no JSON'; then\n  if [ ! -e {0} ]; then touch {0}; sleep 600; fi\n  echo '{{\"ok\":true}}'\n\
             else echo 'no idea'; fi",
            hangs.display()
        ),
    );
    let schema = json!({"type": "object", "required": ["ok"]});
    let child = start(
        &place,
        &ask(json!({"prompt": "p", "providers": ["agent"], "schema": schema, "retry": quick(1)})),
    );
    eventually("the correction", || hangs.exists().then_some(()));
    kill(child);
    assert_eq!(resume(&place)["output"], json!({"ok": true}));
    let attempts: Vec<_> = calls(&place).into_iter().map(|[_, attempt, _]| attempt).collect();
    assert_eq!(attempts, ["1", "1", "2", "2"], "two turns each");
}

#[test]
fn killed_between_answer_and_commit_the_call_is_made_once_more() {
    let place = Place::new();
    shell(&place, "jsonl", "echo '{\"output\":7}'");
    // Each commit is tried: one of them has the answer.
    let mut repeated = 0;
    for number in 1..=8 {
        let id = format!("r{number}");
        let input = ask(json!({"prompt": "p", "providers": ["agent"]}));
        let before = calls(&place).len();
        let mut command = place.wfhost(run_args(&place, &input, &["--id", &id]));
        let output = command.env("WFHOST_ABORT_AT", format!("before-commit:{number}")).output().unwrap();
        if place.run(["show", &id]).code() == Some(0) {
            let args = ["resume", &id].map(str::to_owned).into_iter().chain(config_args(&place));
            let ran = place.run(args.collect::<Vec<_>>());
            assert_eq!(gave(&ran)["output"], 7, "commit {number}");
            let made = calls(&place).split_off(before);
            assert!((1..=2).contains(&made.len()), "commit {number}: {made:?}");
            assert!(made.iter().all(|call| call[2] == made[0][2]), "commit {number}: one key");
            if made.len() == 2 {
                assert_eq!(made[1][1], "2");
                repeated += 1;
            }
            assert_eq!(place.run(["verify", &id]).code(), Some(0));
        }
        if output.status.success() {
            break;
        }
    }
    assert!(repeated >= 1, "no kill hit between the answer and its commit");
}

#[test]
fn a_call_that_may_be_made_once_ends_with_an_unknown_outcome() {
    let place = Place::new();
    let go = place.path("go");
    shell(&place, "text", &format!("while [ ! -e {} ]; do sleep 0.05; done; echo done", go.display()));
    let mut retry = quick(1);
    retry["fatal"] = json!(["unknown-outcome"]);
    let child = start(&place, &ask(json!({"prompt": "p", "providers": ["agent"], "retry": retry})));
    eventually("the call", || (calls(&place).len() == 1).then_some(()));
    kill(child);
    std::fs::write(go, "").unwrap();
    let failure = resume(&place);
    assert_eq!((failure["failure"].as_str(), failure["attempts"].as_u64()), (Some("failed"), Some(1)));
    assert_eq!(failure["details"]["reason"], "unknown-outcome");
    assert_eq!(calls(&place).len(), 1);
    assert_eq!(finish(place.spawn(["verify", "r"])).code(), Some(0));
}

#[test]
fn a_heartbeat_survives_the_death_of_the_host() {
    let place = Place::new();
    shell(
        &place,
        "jsonl",
        "if [ \"$WFHOST_ATTEMPT\" = 1 ]; then echo '{\"heartbeat\":{\"page\":12}}'; sleep 600; fi\n\
         printf '{\"output\": %s}\\n' \"$(cat \"$WFHOST_HEARTBEAT_FILE\")\"",
    );
    let child = start(&place, &ask(json!({"prompt": "p", "providers": ["agent"]})));
    eventually("the heartbeat", || {
        (calls(&place).len() == 1
            && place.run(["transcript", "r", "1", "-o", "jsonl"]).stdout().contains("\"kind\":\"heartbeat\""))
        .then_some(())
    });
    kill(child);
    assert_eq!(resume(&place)["output"], json!({"page": 12}));
}
