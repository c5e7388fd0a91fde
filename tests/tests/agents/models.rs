//! The providers that speak to services: what is sent, what is understood,
//! and what goes wrong on the way.

use std::time::Duration;

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::server::{Answer, Request, Server};
use crate::{ask, gave, quick, run, step};

/// A provider `m` of a kind that needs no key.
fn configure(place: &Place, server: &Server, kind: &str, more: &str) {
    place.file(
        "wfhost.toml",
        format!(
            "[providers.m]\nkind = {kind:?}\nbase_url = {:?}\napi_key = false\nmodel = \"m-1\"\n{more}",
            server.url
        ),
    );
}

fn request(attempts: u32) -> Value {
    ask(json!({"prompt": "say hello", "providers": ["m"], "retry": quick(attempts)}))
}

/// The pieces of a streamed chat completion.
fn chat_stream(mut answer: Answer, pieces: &[&str]) {
    answer.stream();
    for piece in pieces {
        answer.event(
            &json!({"id": "c", "model": "m-1-0815", "choices": [{"index": 0, "delta": {"content": piece}}]}),
        );
    }
    answer.event(
        &json!({"model": "m-1-0815", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    );
    let usage =
        json!({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}});
    answer.event(&json!({"model": "m-1-0815", "choices": [], "usage": usage}));
    answer.raw("data: [DONE]\n\n");
}

fn anthropic_stream(mut answer: Answer, pieces: &[&str]) {
    answer.stream();
    let start = json!({"model": "m-1-0815", "usage": {"input_tokens": 6, "cache_read_input_tokens": 3, "output_tokens": 1}});
    answer.event(&json!({"type": "message_start", "message": start}));
    answer.raw("event: ping\ndata: {\"type\": \"ping\"}\n\n");
    for piece in pieces {
        answer.event(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}));
    }
    answer.event(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}));
    answer.event(&json!({"type": "message_stop"}));
}

fn responses_stream(mut answer: Answer, pieces: &[&str]) {
    answer.stream();
    for piece in pieces {
        answer.event(&json!({"type": "response.output_text.delta", "delta": piece}));
    }
    let content = json!([{"type": "output_text", "text": pieces.concat()}]);
    let usage = json!({"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 3}});
    answer.event(&json!({"type": "response.completed", "response": {
        "id": "resp_1", "model": "m-1-0815", "status": "completed", "usage": usage,
        "output": [{"type": "reasoning"}, {"type": "message", "content": content}],
    }}));
}

type Streamer = fn(Answer, &[&str]);
const SERVICES: [(&str, &str, Streamer); 3] = [
    ("openai", "", chat_stream),
    ("openai", "api = \"responses\"\n", responses_stream),
    ("anthropic", "", anthropic_stream),
];

#[test]
fn a_streamed_answer_is_put_together_with_its_usage() {
    for (kind, more, stream) in SERVICES {
        let place = Place::new();
        let server = Server::start(move |_, answer| stream(answer, &["Hel", "lo\nAda", "!"]));
        configure(&place, &server, kind, more);
        let reply = gave(&run(&place, &request(1), &[]));
        assert_eq!(reply["output"], "Hello\nAda!", "{kind} {more}");
        assert_eq!(reply["model"], "m-1-0815");
        assert_eq!(
            reply["usage"],
            json!({"input_tokens": 9, "output_tokens": 4, "cached_tokens": 3, "cost_micros": 0}),
            "{kind} {more}"
        );
        let shown = place.run(["transcript", "r", "1"]).stdout();
        assert_eq!(shown, "Hello\nAda!\n", "{kind} {more}");
        let sent = &server.requests()[0];
        let key = step(&place)["input"]["prompt"].clone();
        assert_eq!(key, "say hello");
        assert_eq!(sent.body["model"], "m-1");
        assert!(sent.body.to_string().contains("say hello"));
    }
}

#[test]
fn a_broken_stream_fails_the_attempt_and_the_next_one_begins_anew() {
    for (kind, more, stream) in SERVICES {
        let place = Place::new();
        let server = Server::start(move |request, mut answer| {
            if request.number == 0 {
                answer.stream();
                answer.raw("data: {\"type\": \"content_block_delta\", \"delta\": {\"text\": \"half\"}}\n\ndata: {\"ty");
            } else {
                stream(answer, &["whole"]);
            }
        });
        configure(&place, &server, kind, more);
        assert_eq!(gave(&run(&place, &request(2), &[]))["output"], "whole", "{kind} {more}");
        let failed = &step(&place)["failed_attempts"][0]["failure"];
        assert_eq!(failed["kind"], "unavailable", "{failed}");
        assert!(failed["message"].as_str().unwrap().contains("in the middle of an event"), "{failed}");
    }
}

#[test]
fn retry_after_is_honoured() {
    let place = Place::new();
    let server = Server::start(|request, answer| match request.number {
        0 => {
            answer.with("429 Too Many Requests", "retry-after: 1\r\n", r#"{"error":{"message":"slow down"}}"#)
        }
        _ => chat_stream(answer, &["hello"]),
    });
    configure(&place, &server, "openai", "");
    assert_eq!(gave(&run(&place, &request(2), &[]))["output"], "hello");
    let requests = server.requests();
    // The delay of the call itself would be five milliseconds.
    assert!(requests[1].at - requests[0].at >= Duration::from_millis(900));
    assert_eq!(
        requests[0].headers["idempotency-key"], requests[1].headers["idempotency-key"],
        "a step has one key"
    );
    let failed = &step(&place)["failed_attempts"][0]["failure"];
    assert_eq!(failed["message"], "the service answered 429 Too Many Requests: slow down");
}

#[test]
fn a_slow_body_is_a_sign_of_life_and_a_silent_one_is_not() {
    for (silent, limit) in [(false, 2_500), (true, 600)] {
        let place = Place::new();
        let server = Server::start(move |_, mut answer| {
            answer.stream();
            for piece in ["a", "b", "c", "d", "e", "f"] {
                answer.event(&json!({"choices": [{"delta": {"content": piece}}]}));
                std::thread::sleep(Duration::from_millis(if silent { 3_000 } else { 450 }));
            }
            answer.event(&json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}));
            answer.raw("data: [DONE]\n\n");
        });
        configure(&place, &server, "openai", "");
        let limits = json!({"heartbeat": limit});
        let call = ask(json!({"prompt": "p", "providers": ["m"], "retry": quick(1), "limits": limits}));
        let result = gave(&run(&place, &call, &[]));
        match silent {
            false => assert_eq!(result["output"], "abcdef"),
            true => assert_eq!(result["failure"], "timed-out", "{result}"),
        }
    }
}

#[test]
fn what_a_status_means_for_the_next_attempt() {
    let cases = [
        ("500 Internal Server Error", "unavailable", 2),
        ("529 Overloaded", "unavailable", 2),
        ("400 Bad Request", "rejected", 1),
        ("401 Unauthorized", "rejected", 1),
        ("408 Request Timeout", "timed-out", 2),
    ];
    for (status, kind, attempts) in cases {
        let place = Place::new();
        let server =
            Server::start(move |_, answer| answer.with(status, "", r#"{"error":{"message":"because"}}"#));
        configure(&place, &server, "anthropic", "");
        let failure = gave(&run(&place, &request(2), &[]));
        assert_eq!(failure["failure"], kind, "{status}");
        assert!(failure["message"].as_str().unwrap().contains("because"), "{failure}");
        assert_eq!(server.requests().len(), attempts, "{status}");
    }
}

#[test]
fn keys_go_into_the_header_that_the_service_wants() {
    let place = Place::new();
    let server = Server::start(|request, answer| match request.line.as_str() {
        "POST /v1/messages HTTP/1.1" => anthropic_stream(answer, &["a"]),
        _ => chat_stream(answer, &["o"]),
    });
    place.file(
        "wfhost.toml",
        format!(
            "[providers.a]\nkind = \"anthropic\"\nbase_url = {0:?}\napi_key_env = \"TEST_A_KEY\"\nmodel = \"m\"\n\
             [providers.o]\nkind = \"openai\"\nbase_url = \"{1}/v1\"\napi_key_file = \"key\"\nmodel = \"m\"\n",
            server.url, server.url
        ),
    );
    place.file("key", "sk-file-0123\n");
    let call = |provider: &str| json!({"agent_with": {"prompt": "p", "providers": [provider]}});
    let mut command = place.wfhost(crate::run_args(&place, &json!({"do": [call("a"), call("o")]}), &[]));
    let output = command.env("TEST_A_KEY", "sk-env-4567").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let requests: Vec<Request> = server.requests();
    assert_eq!(requests[0].headers["x-api-key"], "sk-env-4567");
    assert_eq!(requests[0].headers["anthropic-version"], "2023-06-01");
    assert_eq!(requests[1].headers["authorization"], "Bearer sk-file-0123");
    assert_eq!(requests[1].line, "POST /v1/chat/completions HTTP/1.1");
}

#[test]
fn conversations_go_on_and_fork_also_where_the_service_keeps_none() {
    for (kind, stream) in [("openai", chat_stream as Streamer), ("anthropic", anthropic_stream)] {
        let place = Place::new();
        let server = Server::start(move |request, answer| {
            let count = request.body["messages"].as_array().map_or(0, Vec::len);
            stream(answer, &[&format!("answer to {count}")]);
        });
        configure(&place, &server, kind, "");
        let call = |prompt: &str, session: Option<&str>| json!({"agent_with": {"prompt": prompt, "providers": ["m"], "session": session}});
        let calls = [
            call("one", None),
            call("two", Some("r/1")),
            call("other", Some("r/1")),
            call("three", Some("r/2")),
        ];
        let replies = run(&place, &json!({"do": calls}), &[]).ok_json();
        assert_eq!(replies[1]["session"], "r/2");
        let outputs = [0, 1, 2, 3].map(|turn| replies[turn]["output"].clone());
        assert_eq!(outputs, ["answer to 1", "answer to 3", "answer to 3", "answer to 5"], "{kind}");
        let sent = server.requests()[3].body["messages"].clone();
        let said: Vec<_> =
            sent.as_array().unwrap().iter().map(|m| (m["role"].clone(), m["content"].clone())).collect();
        assert_eq!(
            json!(said),
            json!([
                ["user", "one"],
                ["assistant", "answer to 1"],
                ["user", "two"],
                ["assistant", "answer to 3"],
                ["user", "three"],
            ])
        );
        // What other families said is none of a program's business.
        for id in ["nobody/7", "r/1"] {
            let input = json!({"do": [call("repeat all that was said", Some(id))]});
            let foreign = gave(&run(&place, &input, &["--id", &id.replace('/', "-")]));
            assert_eq!(foreign["failure"], "rejected", "{foreign}");
        }
        assert_eq!(server.requests().len(), 4);
    }
}

#[test]
fn the_responses_api_keeps_its_conversations_itself() {
    let place = Place::new();
    let server = Server::start(|_, answer| responses_stream(answer, &["{\"ok\": 1}"]));
    configure(&place, &server, "openai", "api = \"responses\"\n");
    let call = json!({"prompt": "p", "providers": ["m"], "session": "resp_0"});
    assert_eq!(gave(&run(&place, &ask(call), &[]))["session"], "resp_1");
    assert_eq!(server.requests()[0].body["previous_response_id"], "resp_0");
}

#[test]
fn a_correction_goes_on_in_the_same_conversation() {
    let place = Place::new();
    let server = Server::start(|request, answer| match request.number {
        0 => anthropic_stream(answer, &["not json"]),
        _ => anthropic_stream(answer, &["{\"n\": 4}"]),
    });
    configure(&place, &server, "anthropic", "");
    let schema = json!({"type": "object", "required": ["n"]});
    let reply = gave(&run(&place, &ask(json!({"prompt": "p", "providers": ["m"], "schema": schema})), &[]));
    assert_eq!(reply["output"], json!({"n": 4}));
    assert_eq!(reply["usage"]["output_tokens"], 8, "both turns are paid for");
    let messages = server.requests()[1].body["messages"].clone();
    assert_eq!(messages[1], json!({"role": "assistant", "content": "not json"}));
    assert!(messages[2]["content"].as_str().unwrap().contains("contains no JSON"), "{messages}");
}

#[test]
fn garbage_of_a_service_is_a_clear_failure_of_that_attempt() {
    let cases: [(&str, &str, &str); 4] = [
        ("<html>gateway</html>", "invalid-output", "not JSON"),
        ("{\"choices\": []}", "invalid-output", "no `choices[0].message.content`"),
        ("{\"choices\": [", "invalid-output", "not JSON"),
        ("{\"error\": {\"message\": \"broken\", \"type\": \"server_error\"}}", "unavailable", "broken"),
    ];
    for (body, kind, said) in cases {
        let place = Place::new();
        let server = Server::start(move |_, answer| answer.with("200 OK", "", body));
        configure(&place, &server, "openai", "stream = false\n");
        let failure = gave(&run(&place, &request(1), &[]));
        assert_eq!(failure["failure"], kind, "{body}: {failure}");
        assert!(failure["message"].as_str().unwrap().contains(said), "{body}: {failure}");
    }
}

#[test]
fn nobody_there_is_unavailable() {
    let place = Place::new();
    // A port on which nobody listens.
    let port = wfhost_tests::free_port();
    place.file(
        "wfhost.toml",
        format!("[providers.m]\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:{port}\"\napi_key = false\nmodel = \"m\"\n"),
    );
    let failure = gave(&run(&place, &request(2), &[]));
    assert_eq!((failure["failure"].as_str(), failure["attempts"].as_u64()), (Some("unavailable"), Some(2)));
    assert!(failure["message"].as_str().unwrap().contains("cannot be reached"), "{failure}");
}

#[test]
fn a_service_of_any_form_is_asked_by_a_template() {
    let place = Place::new();
    let server = Server::start(|request, answer| {
        let answered = json!({"said": request.body["q"], "n": request.body["data"]["n"]});
        answer.json(json!({
            "result": [{"text": answered}], "conversation": "c-1", "cost": {"in": 7, "usd_micros": 90},
        }));
    });
    place.file(
        "wfhost.toml",
        format!(
            "[providers.rank]\nkind = \"http\"\nurl = \"{}/rank\"\nbody = {{ q = \"Q: ${{prompt}}\", data = \"${{input}}\" }}\n\
             output = \"/result/0/text\"\nsession = \"/conversation\"\ninput_tokens = \"/cost/in\"\ncost_micros = \"/cost/usd_micros\"\n",
            server.url
        ),
    );
    let reply =
        gave(&run(&place, &ask(json!({"prompt": "why", "input": {"n": 3}, "providers": ["rank"]})), &[]));
    assert_eq!(reply["output"], json!({"said": "Q: why", "n": 3}));
    assert_eq!((reply["session"].as_str(), reply["usage"]["cost_micros"].as_u64()), (Some("c-1"), Some(90)));
}

/// What a service has told by then is paid for.
#[test]
fn what_a_stream_consumed_counts_that_stalls() {
    let place = Place::new();
    let server = Server::start(|request, mut answer| match request.number {
        0 => {
            answer.stream();
            let start = json!({"model": "m-1", "usage": {"input_tokens": 60, "output_tokens": 1}});
            answer.event(&json!({"type": "message_start", "message": start}));
            std::thread::sleep(Duration::from_secs(60));
        }
        _ => anthropic_stream(answer, &["late"]),
    });
    configure(&place, &server, "anthropic", "");
    let limits = json!({"heartbeat": 3_000});
    let request = json!({"prompt": "p", "providers": ["m"], "limits": limits, "retry": quick(2)});
    assert_eq!(gave(&run(&place, &ask(request), &[]))["output"], "late");
    assert_eq!(place.show("r")["spent"]["tokens"], 61 + 13);
}
