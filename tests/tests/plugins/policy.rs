//! A plugin through everything that holds for agent calls.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, module};

use crate::server::Server;
use crate::{acts, args, entries, first, gave, grant, http, puppet, run, shown};

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
fn directories_and_variables_are_those_that_are_granted() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("in")).unwrap();
    std::fs::create_dir_all(place.path("out")).unwrap();
    place.file("in/a.txt", "hello");
    place.file("secret.txt", "not for plugins");
    std::os::unix::fs::symlink(place.path("secret.txt"), place.path("in/link")).unwrap();
    grant(
        &place,
        "set = { LANG = \"en\" }\nenv = [\"GRANTED\"]\n\
         directories = { \"/in\" = { path = \"in\" }, \"/out\" = { path = \"out\", write = true } }",
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let acts = acts(
        json!([{ "read": "/in/a.txt" }, { "write": ["/out/b.txt", "made"] }, { "write": ["/in/c.txt", "no"] },
               { "list": "/in" }, { "read": "/in/../secret.txt" }, { "read": "/in/link" }, { "read": "/etc/passwd" },
               { "list": "/" }, "env", { "connect": port }]),
        json!({}),
    );
    let mut command = place.wfhost(args(&place, &acts));
    let output = command.env("GRANTED", "yes").env("HIDDEN", "no").output().unwrap();
    let answer = gave(&wfhost_tests::Ran(output));
    let output = &answer["output"];
    assert_eq!((&output[0], &output[1]), (&json!("hello"), &Value::Null), "{answer}");
    assert_eq!(std::fs::read_to_string(place.path("out/b.txt")).unwrap(), "made");
    for denied in [2, 4, 5, 6, 7, 9] {
        assert!(output[denied]["error"].is_string(), "{denied}: {output}");
    }
    assert!(!place.path("in/c.txt").exists());
    assert_eq!(output[3], json!(["a.txt", "link"]));
    assert_eq!(output[8], json!({ "GRANTED": "yes", "LANG": "en" }));
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
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
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
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
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

#[test]
fn what_is_no_plugin_is_explained() {
    let place = Place::new();
    let refusal = |plugin: &str, more: &str, id: &str| {
        place.file(
            "wfhost.toml",
            format!("[providers.puppet]\nkind = \"plugin\"\nplugin = {plugin:?}\n{more}\n"),
        );
        let config = place.path("wfhost.toml").display().to_string();
        let input = acts(json!([]), json!({ "retry": quick(3) }));
        let ran =
            place.run(["run", &module("probe"), "-i", &input.to_string(), "--id", id, "--config", &config]);
        let failure = gave(&ran);
        assert_eq!(
            (failure["failure"].as_str(), failure["attempts"].as_u64()),
            (Some("rejected"), Some(1)),
            "{failure}"
        );
        failure["message"].as_str().unwrap().to_owned()
    };
    assert!(refusal("nowhere.wasm", "", "a").contains("WF1201"));
    assert!(refusal(&module("hello"), "", "b").contains("this is a workflow, not a plugin"));
    let digest = format!("digest = \"blake3:{}\"", "0".repeat(64));
    assert!(refusal(&module("puppet"), &digest, "c").contains("WF1202"));
    let text = place.file("text.wasm", "text");
    assert!(refusal(&text, "", "d").contains("a text file, not WebAssembly"));
    let directory = "directories = { \"/d\" = { path = \"nowhere\" } }";
    assert!(refusal(&module("puppet"), directory, "e").contains("WF1206"));
    // And before anybody is called.
    let config = place.path("wfhost.toml").display().to_string();
    let doctor = place.run(["doctor", "--config", &config]).stdout();
    assert!(doctor.contains("provider puppet") && doctor.contains("nowhere is not a directory"), "{doctor}");
}

#[test]
fn configuration_that_grants_nonsense_is_refused() {
    let place = Place::new();
    for (more, code, expected) in [
        ("http = [{ url = \"https://x.org/\" }]", "WF0704", "list the allowed methods"),
        ("http = [{ url = \"x.org\", methods = [\"GET\"] }]", "WF0704", "not a URL"),
        ("http = [{ url = \"https://x.org/\", methods = [\"CONNECT\"] }]", "WF0704", "CONNECT"),
        ("http = [{ url = \"https://x.org/\", methods = [\"get\"] }]", "WF0704", "use GET"),
        (
            "http = [{ url = \"https://*.x.org/\", methods = [\"GET\"], inject = { authorization = { env = \"K\" } } }]",
            "WF0704",
            "one host",
        ),
        (
            "http = [{ url = \"https://x.org/\", methods = [\"GET\"], inject = { host = { env = \"K\" } } }]",
            "WF0704",
            "not the name of a header",
        ),
        (
            "http = [{ url = \"https://x.org/\", methods = [\"GET\"], metods = 1 }]",
            "WF0702",
            "did you mean `methods`",
        ),
        ("set = { API_KEY = \"x\" }", "WF0703", "inject"),
        ("env = [\"API_KEY\"]", "WF0704", "the name of a secret"),
        ("memory = \"64MB\"", "WF0704", "MiB"),
        ("fuel = 0", "WF0704", "greater than 0"),
        ("grace = \"2h\"", "WF0704", "a minute"),
        ("digest = \"x\"", "WF0704", "64 hexadecimal"),
    ] {
        grant(&place, more);
        let error = run(&place, &acts(json!([]), json!({}))).error(2, &place);
        assert!(error.contains(code) && error.contains(expected), "{more}: {error}");
    }
}

/// What stands in a project's file is obeyed once the user has agreed.
#[test]
fn a_plugin_of_a_project_has_to_be_trusted() {
    let place = Place::new();
    grant(&place, "");
    let mut command = place.wfhost(["run", &module("probe"), "-i", "{\"do\":[]}", "--id", "r"]);
    let ran = wfhost_tests::Ran(command.current_dir(place.path("")).output().unwrap());
    assert!(
        ran.stderr().contains("WF0707") && ran.stderr().contains("providers.puppet.plugin"),
        "{}",
        ran.stderr()
    );
}
