//! A plugin through everything that holds for agent calls: the puppet in Rust and, once more (`calls_go`), the one in
//! Go.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually};

use crate::server::Server;
use crate::{acts, args, entries, first, gave, http, puppet, run, shown};

/// The component of the puppet.
fn module(name: &str) -> String {
    let is_go = name == "puppet" && module_path!().ends_with("go");
    wfhost_tests::module(if is_go { "puppet-go" } else { name })
}

/// The grants of the puppet.
fn grant(place: &Place, more: &str) {
    crate::grant_of(place, &module("puppet"), more);
}

fn quick(attempts: u32) -> Value {
    json!({ "max_attempts": attempts, "initial": 5, "jitter": 0.0 })
}

#[test]
fn a_plugin_answers_a_call_and_the_step_tells_which_one_it_was() {
    let place = Place::new();
    grant(&place, "model = \"m1\"");
    let answer = gave(&run(
        &place,
        &acts(json!([{"usage": {"input": 3, "output": 4}}, "call"]), json!({ "input": [1] })),
    ));
    let call = &answer["output"];
    assert_eq!(
        (call["prompt"].as_str(), &call["input"], call["attempt"].as_u64()),
        (Some("p"), &json!([1]), Some(1))
    );
    assert!(call["message"].as_str().unwrap().starts_with("p\n\nInput:\n"), "{call}");
    assert_eq!(
        (call["run"].as_str(), call["step"].as_u64(), call["model"].as_str()),
        (Some("r"), Some(1), Some("m1"))
    );
    assert_eq!(
        (answer["usage"]["input_tokens"].as_u64(), answer["provider"].as_str()),
        (Some(3), Some("puppet"))
    );
    let bytes = std::fs::read(module("puppet")).unwrap();
    let digest = place.run(["inspect", &module("puppet"), "-o", "json"]).ok_json()["digest"].clone();
    assert!(!bytes.is_empty());
    let show = place.show("r").to_string();
    assert!(show.contains(digest.as_str().unwrap()), "{show}");
}

#[test]
fn a_plugin_that_fails_is_tried_again_and_told_how_far_it_was() {
    let place = Place::new();
    grant(&place, "");
    let ways = json!([{ "by_attempt": [
        [{ "heartbeat": { "at": 7 } }, { "fail": { "kind": "unavailable", "message": "not now" } }],
        [{ "panic": "on the second" }],
        ["call"],
    ] }]);
    let answer = gave(&run(&place, &acts(ways, json!({ "retry": quick(3) }))));
    assert_eq!(
        (answer["output"]["attempt"].as_u64(), &answer["output"]["heartbeat"]),
        (Some(3), &json!({ "at": 7 }))
    );
    let failed: Vec<_> = entries(&place, "attempt-failed").iter().map(|entry| entry.to_string()).collect();
    assert!(failed[0].contains("not now") && failed[1].contains("on the second"), "{failed:?}");
    assert!(failed[1].contains("panicked"), "{failed:?}");
}

#[test]
fn a_refusal_is_final() {
    let place = Place::new();
    grant(&place, "");
    let answer = gave(&run(
        &place,
        &acts(json!([{ "fail": { "kind": "rejected", "message": "no" } }]), json!({ "retry": quick(5) })),
    ));
    assert_eq!(
        (answer["failure"].as_str(), answer["attempts"].as_u64()),
        (Some("rejected"), Some(1)),
        "{answer}"
    );
}

#[test]
fn an_answer_that_does_not_fit_is_corrected_within_the_attempt() {
    let place = Place::new();
    grant(&place, "");
    let ways = json!([{ "by_turn": [[{ "answer": { "n": "x" } }, { "usage": { "input": 1, "output": 1 } }],
                                    [{ "answer": { "n": 1 } }, { "usage": { "input": 2, "output": 2 } }]] }]);
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    let answer = gave(&run(&place, &acts(ways, json!({ "schema": schema }))));
    assert_eq!(answer["output"], json!({ "n": 1 }), "{answer}");
    assert_eq!(answer["usage"]["input_tokens"], 3);
    assert_eq!(entries(&place, "attempt-failed").len(), 0);
}

#[test]
fn what_a_plugin_shows_is_seen() {
    let place = Place::new();
    grant(&place, "");
    puppet(
        &place,
        json!([{ "chunk": "first half, " }, { "chunk": "second half" }, { "line": "a line" }, { "print": "printed" },
               { "transcript": { "tool": "hammer" } }]),
    );
    let shown = shown(&place);
    let events = place.run(["transcript", "r", "1", "-o", "json"]).stdout();
    assert!(events.contains("hammer"), "{events}");
    for text in ["first half, second half", "a line", "printed"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[test]
fn a_budget_counts_what_a_plugin_tells() {
    let place = Place::new();
    grant(&place, "");
    let request = |prompt: &str| {
        json!({ "agent_with": { "prompt": prompt, "providers": ["puppet"],
                                "options": { "do": [{ "usage": { "input": 600, "output": 600 } }] } } })
    };
    let input = json!({ "do": [request("a"), request("b"), request("c")] });
    let mut args = args(&place, &input);
    args.extend(["--budget", "tokens=2000"].map(str::to_owned));
    let ran = place.run(args);
    let results = ran.ok_json();
    assert!(results[0]["failure"].is_null(), "{results}");
    assert_eq!(results[2]["failure"], "budget-exceeded", "{results}");
}

#[test]
fn a_kept_answer_is_not_that_of_another_plugin_or_of_other_grants() {
    let place = Place::new();
    let ask = |id: &str, options: Value| {
        let request = json!({ "prompt": "p", "providers": ["puppet"], "options": options, "cache": { "version": "1" } });
        let input = json!({ "do": [{ "agent_with": request }] });
        let config = place.path("wfhost.toml").display().to_string();
        let ran =
            place.run(["run", &module("probe"), "-i", &input.to_string(), "--id", id, "--config", &config]);
        gave(&ran)
    };
    grant(&place, "");
    let cached = |id: &str| {
        ask(id, json!({ "do": ["env"] }));
        place.show(id)["steps"][0].to_string().contains("\"cached\":true")
    };
    assert!(!cached("a"));
    assert!(cached("b"));
    grant(&place, "set = { LANG = \"en\" }");
    assert!(!cached("c"));
    // The same program with a section more is another one.
    let mut bytes = std::fs::read(module("puppet")).unwrap();
    bytes.extend([0, 2, 1, b'x']);
    let other = place.file("other.wasm", bytes);
    place.file("wfhost.toml", format!("[providers.puppet]\nkind = \"plugin\"\nplugin = {other:?}\n"));
    assert!(!cached("d"));
}

#[test]
fn a_conversation_goes_on() {
    let place = Place::new();
    grant(&place, "");
    let say = |prompt: &str, session: Value, act: Value| json!({ "agent_with": { "prompt": prompt, "providers": ["puppet"], "session": session, "options": { "do": [act] } } });
    let input = json!({ "do": [say("one", Value::Null, json!({ "answer": "1" })), say("two", json!("r/1"), json!("call"))] });
    let results = run(&place, &input).ok_json();
    assert_eq!(results[0]["session"], "r/1", "{results}");
    assert_eq!(results[1]["output"]["history"], json!([["one", "1"]]), "{results}");
}

#[test]
fn an_answer_of_a_granted_service_is_read_as_it_comes() {
    let place = Place::new();
    let server = Server::start(|request, mut answer| {
        assert_eq!(request.headers["x-own"], "1");
        answer.stream();
        for piece in ["one", "two", "three"] {
            answer.raw(piece);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    grant(&place, &http(&format!("{}/v1/", server.url), &["POST"], ""));
    let url = format!("{}/v1/x?q=1", server.url);
    let fetch = json!({ "method": "POST", "url": url, "headers": [["x-own", "1"]], "body": "{\"a\":1}", "pieces": true });
    let got = first(&place, json!({ "fetch": fetch }));
    assert_eq!((&got["status"], &got["body"]), (&json!(200), &json!(["one", "two", "three"])), "{got}");
    let request = &server.requests()[0];
    assert_eq!((request.line.as_str(), &request.body), ("POST /v1/x?q=1 HTTP/1.1", &json!({ "a": 1 })));
    assert_eq!(request.headers["host"], server.url.trim_start_matches("http://"));
}

#[test]
fn a_cancelled_call_ends_the_plugin() {
    let place = Place::new();
    let server = Server::start(|_, answer| answer.json(json!({})));
    grant(&place, &http(&format!("{}/", server.url), &["GET"], ""));
    let child =
        place.spawn(args(&place, &acts(json!([{ "farewell": format!("{}/bye", server.url) }]), json!({}))));
    eventually("the plugin is at work", || {
        (place.db().exists() && shown(&place).contains("waits to be cancelled")).then_some(())
    });
    assert_eq!(place.run(["cancel", "r"]).code(), Some(0));
    let begin = Instant::now();
    let ran = wfhost_tests::finish(child);
    assert_eq!(gave(&ran)["failure"], "cancelled");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // It was told, and had the time to say so.
    eventually("its farewell", || (!server.requests().is_empty()).then_some(()));
}

#[test]
fn what_takes_too_long_is_stopped() {
    let place = Place::new();
    grant(&place, "grace = \"100ms\"");
    for act in [json!("spin"), json!({ "sleep": 60_000 })] {
        let begin = Instant::now();
        let id = if act.is_string() { "a" } else { "b" };
        let input =
            acts(json!([act]), json!({ "limits": { "attempt": 400 }, "retry": { "max_attempts": 1 } }));
        let config = place.path("wfhost.toml").display().to_string();
        let ran =
            place.run(["run", &module("probe"), "-i", &input.to_string(), "--id", id, "--config", &config]);
        assert_eq!(gave(&ran)["failure"], "timed-out");
        // One sleeps for a minute, the other one for ever.
        assert!(begin.elapsed() < Duration::from_secs(50), "{:?}", begin.elapsed());
    }
}

#[test]
fn a_killed_host_calls_the_plugin_again_with_the_same_key() {
    let place = Place::new();
    let server = Server::start(|request, answer| {
        if request.number == 0 {
            std::thread::sleep(Duration::from_secs(30));
        }
        answer.json(json!({ "number": request.number }));
    });
    grant(&place, &http(&format!("{}/", server.url), &["GET"], ""));
    let fetch = json!({ "fetch": { "url": format!("{}/", server.url) } });
    let input = json!({ "do": [
        { "agent_with": { "prompt": "a", "providers": ["puppet"], "options": { "do": ["call"] } } },
        { "agent_with": { "prompt": "b", "providers": ["puppet"], "options": { "do": [{ "heartbeat": 5 }, { "line": "is kept" }, fetch, "call"] } } },
    ] });
    let mut child = place.spawn(args(&place, &input));
    eventually("the second call", || (server.requests().len() == 1).then_some(()));
    // What comes together is kept together.
    eventually("its line", || place.run(["transcript", "r", "2"]).stdout().contains("is kept").then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let config = place.path("wfhost.toml").display().to_string();
    let results = place.run(["resume", "r", "--config", &config]).ok_json();
    // The first was not called again; the second was, and knows how far it had been.
    assert_eq!(
        (&results[0]["output"]["attempt"], &results[1]["output"]["attempt"]),
        (&json!(1), &json!(2)),
        "{results}"
    );
    assert_eq!(results[1]["output"]["heartbeat"], 5);
    assert_eq!(server.requests().len(), 2);
    assert_eq!(place.run(["verify", "r"]).code(), Some(0));
}
