//! `wfhost plugin`, and what a plugin says of itself.

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

use crate::server::Server;
use crate::{grant, http};

fn options(acts: Value) -> String {
    json!({ "do": acts }).to_string()
}

#[test]
fn a_plugin_is_called_by_hand_with_what_is_granted() {
    let place = Place::new();
    let server = Server::start(|_, answer| answer.json(json!({ "a": 1 })));
    grant(&place, &http(&format!("{}/v1/", server.url), &["GET"], ""));
    let config = place.path("wfhost.toml").display().to_string();
    let fetch =
        |path: &str| json!([{ "line": "begins" }, { "fetch": { "url": format!("{}{path}", server.url) } }]);
    let ran =
        place.run(["plugin", "call", "puppet", "--options", &options(fetch("/v1/")), "--config", &config]);
    assert_eq!(ran.ok_json()[1]["status"], 200);
    assert!(ran.stderr().contains("begins"), "{}", ran.stderr());
    // A denial says what would allow it, and that allows it.
    let ran =
        place.run(["plugin", "call", "puppet", "--options", &options(fetch("/v2/")), "--config", &config]);
    assert!(ran.ok_json()[1]["error"].is_string());
    assert!(ran.stderr().contains("[[providers.puppet.http]]"), "{}", ran.stderr());
    // A file is granted nothing.
    let ran = place.run(["plugin", "call", &module("puppet"), "--options", &options(fetch("/v1/"))]);
    assert!(ran.ok_json()[1]["error"].as_str().unwrap().contains("denies"), "{}", ran.stdout());
    // Its failure is one of the command.
    let fail = options(json!([{ "fail": { "kind": "rejected", "message": "no" } }]));
    let error = place.run(["plugin", "call", &module("puppet"), "--options", &fail]).error(1, &place);
    assert!(error.contains("WF1210") && error.contains("no"), "{error}");
    assert!(place.run(["plugin", "call", "nobody"]).error(2, &place).contains("WF1211"));
}

#[test]
fn a_plugin_says_what_it_wants_and_what_it_lacks() {
    let place = Place::new();
    let inspected = place.run(["inspect", &module("messages")]).stdout();
    assert!(
        inspected
            .contains("wants    POST https://api.anthropic.com/v1/messages with x-api-key  asks the model"),
        "{inspected}"
    );
    let json = place.run(["inspect", &module("files"), "-o", "json"]).ok_json();
    assert_eq!(json["wants"]["directories"][0]["path"], "/", "{json}");
    let doctor = |more: &str| {
        let text = format!("[providers.m]\nkind = \"plugin\"\nplugin = {:?}\n{more}\n", module("messages"));
        let config = place.file("wfhost.toml", text);
        place.run(["doctor", "--config", &config]).stdout()
    };
    let lacks = doctor("");
    assert!(
        lacks.contains("it requests POST https://api.anthropic.com/v1/messages (asks the model)"),
        "{lacks}"
    );
    place.file("key", "sk-test-0123456789");
    let line = lacks.split("http = ").nth(1).unwrap().split("]; ").next().unwrap();
    let granted =
        format!("env = [\"MESSAGES_URL\"]\nhttp = {}]", line.replace("env = \"..\"", "file = \"key\""));
    let has = doctor(&granted);
    assert!(!has.contains("it wants"), "{has}");
    let ls =
        place.run(["plugin", "ls", "--config", &place.path("wfhost.toml").display().to_string()]).stdout();
    assert!(ls.contains("may  POST https://api.anthropic.com/v1/messages  with x-api-key"), "{ls}");
}

#[test]
fn a_plugin_is_tested_without_a_network() {
    let place = Place::new();
    let file = place.path("messages.wasm").display().to_string();
    std::fs::copy(module("messages"), &file).unwrap();
    let event = |event: Value| format!("data: {event}\n\n");
    let stream = [
        event(
            json!({ "type": "message_start", "message": { "model": "m-1", "usage": { "input_tokens": 2 } } }),
        ),
        event(json!({ "type": "content_block_delta", "delta": { "text": "hello" } })),
        event(
            json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": 1 } }),
        ),
        event(json!({ "type": "message_stop" })),
    ];
    let case = |prompt: &str, expect: Value| {
        let body = json!({ "model": "m", "max_tokens": 8192, "stream": true, "messages": [{ "role": "user", "content": "hi" }] });
        json!({
            "name": prompt, "call": { "prompt": prompt, "model": "m" },
            "exchanges": [{
                "request": { "method": "POST", "url": "https://api.anthropic.com/v1/messages", "body": body },
                "response": { "status": 200, "headers": { "content-type": "text/event-stream" }, "pieces": stream },
            }],
            "expect": expect,
        })
    };
    let test = |cases: Value| {
        place.file("messages.test.json", json!({ "cases": cases }).to_string());
        place.run(["plugin", "test", &file])
    };
    let usage = json!({ "input_tokens": 2, "output_tokens": 1, "cached_tokens": 0, "cost_micros": 0 });
    let good = test(json!([case("hi", json!({ "output": "hello", "model": "m-1", "usage": usage }))]));
    assert_eq!((good.code(), good.stdout().as_str()), (Some(0), "✓ hi\n"), "{}", good.stderr());
    let bad = test(json!([
        case("hi", json!({ "output": "bye" })),
        case("ho", json!({ "failure": "unavailable" }))
    ]));
    let text = bad.stdout();
    assert_eq!(bad.code(), Some(1), "{text}");
    assert!(text.contains("the output is \"hello\", not \"bye\"") && text.contains("the body is"), "{text}");
    assert!(text.contains("POST https://api.anthropic.com/v1/messages was not requested"), "{text}");
    assert!(test(json!([])).error(2, &place).contains("WF1212"));
    assert!(test(json!([{ "nme": 1 }])).error(2, &place).contains("WF1212"));
}

/// A new project of a plugin: builds it, and has it pass its test.
fn passes_its_test(place: &Place, template: &str) {
    let dir = place.path("helper").display().to_string();
    assert_eq!(place.run(["new", &dir, "-t", template]).code(), Some(0));
    if template == "plugin-js" {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let tools = root.join("examples/weather-js/node_modules");
        std::os::unix::fs::symlink(tools, place.path("helper/node_modules")).unwrap();
        let tsc = place.path("helper/node_modules/.bin/tsc");
        let checked = std::process::Command::new(tsc).current_dir(&dir).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
    let built = place.run(["build", &dir, "-o", "json"]).ok_json();
    let file = built["path"].as_str().unwrap();
    let cases = place.path("helper/test.json").display().to_string();
    let tested = place.run(["plugin", "test", file, "--cases", &cases]);
    assert_eq!(
        (tested.code(), tested.stdout().as_str()),
        (Some(0), "✓ reads the page\n"),
        "{}",
        tested.stderr()
    );
    // Its configuration grants what it wants.
    let config = place.path("helper/wfhost.toml").display().to_string();
    let doctor = place.run(["doctor", "--config", &config]).stdout();
    assert!(doctor.contains("✓ provider helper") && !doctor.contains("it requests"), "{doctor}");
}

#[test]
fn a_new_plugin_builds_and_passes_its_test() {
    passes_its_test(&Place::new(), "plugin");
}

#[test]
fn a_new_plugin_in_typescript_builds_and_passes_its_test() {
    let place = Place::new();
    passes_its_test(&place, "plugin-js");
    // What it asks for has a form.
    place.file("helper/plugin.toml", "http = [{ url = \"https://example.com/\" }]\n");
    let error = place.run(["build", &place.path("helper").display().to_string()]).error(2, &place);
    assert!(error.contains("error[WF0620]") && error.contains("missing field"), "{error}");
}

#[test]
fn a_new_plugin_in_go_builds_and_passes_its_test() {
    passes_its_test(&Place::new(), "plugin-go");
}
