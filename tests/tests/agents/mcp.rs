//! The provider `mcp`: a server that is a program, and one that is at a URL.

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::server::Server;
use crate::{ask, gave, program, quick, run, run_args};

/// A server of the Model Context Protocol over stdio.
const SERVER: &str = r#"#!/usr/bin/env python3
import json, os, sys

def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()

def result(request, value):
    send({"jsonrpc": "2.0", "id": request["id"], "result": value})

initialized = False
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        assert message["params"]["protocolVersion"], message
        send({"jsonrpc": "2.0", "id": "ping-1", "method": "ping"})
        result(message, {"protocolVersion": message["params"]["protocolVersion"],
                         "capabilities": {"tools": {}}, "serverInfo": {"name": "test", "version": "1"}})
    elif method == "notifications/initialized":
        initialized = True
    elif message.get("id") == "ping-1":
        assert message["result"] == {}, message
    elif method == "tools/call":
        assert initialized
        params = message["params"]
        token = params["_meta"]["progressToken"]
        send({"jsonrpc": "2.0", "method": "notifications/progress",
              "params": {"progressToken": token, "progress": 1, "total": 2, "message": "half way"}})
        arguments = params["arguments"]
        if params["name"] == "add":
            total = arguments["a"] + arguments["b"]
            result(message, {"content": [{"type": "text", "text": str(total)}],
                             "structuredContent": {"sum": total}})
        elif params["name"] == "say":
            result(message, {"content": [{"type": "text", "text": "you said " + arguments["prompt"]}]})
        elif params["name"] == "fail":
            result(message, {"isError": True, "content": [{"type": "text", "text": "the disk is gone"}]})
        elif params["name"] == "die":
            sys.stderr.write("out of ideas\n")
            sys.exit(3)
        else:
            send({"jsonrpc": "2.0", "id": message["id"],
                  "error": {"code": -32602, "message": "Unknown tool: " + params["name"]}})
"#;

fn asked(place: &Place, request: Value, id: &str) -> Value {
    let mut call = json!({"providers": ["tools"], "prompt": "hello", "retry": quick(1)});
    call.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    gave(&run(place, &ask(call), &["--id", id]))
}

#[test]
fn a_tool_of_a_server_over_stdio_answers() {
    let place = Place::new();
    let server = program(&place, "server.py", SERVER);
    place.file(
        "wfhost.toml",
        format!(
            "[providers.tools]\nkind = \"mcp\"\nargv = [{server:?}]\ntool = \"say\"\n\
             tools = [\"add\", \"fail\", \"die\", \"nothing\"]\n"
        ),
    );
    assert_eq!(asked(&place, json!({}), "say")["output"], "you said hello");
    let add = json!({"options": {"tool": "add"}, "input": {"a": 2, "b": 40}});
    assert_eq!(asked(&place, add, "add")["output"], json!({"sum": 42}));
    let shown = place.run(["transcript", "add", "1"]).stdout();
    assert_eq!(shown, "half way\n");
    let failure = asked(&place, json!({"options": {"tool": "fail"}}), "fail");
    assert_eq!(failure["message"], "the tool `fail` failed: the disk is gone");
    let failure = asked(&place, json!({"options": {"tool": "die"}}), "die");
    assert_eq!(failure["failure"], "unavailable");
    assert_eq!(failure["message"], "the server ended with exit code 3: out of ideas before it answered");
    let failure = asked(&place, json!({"options": {"tool": "nothing"}}), "nothing");
    assert_eq!(failure["failure"], "rejected");
    assert_eq!(failure["message"], "the server reported an error: Unknown tool: nothing");
}

#[test]
fn a_tool_of_a_server_over_http_answers() {
    let place = Place::new();
    let server = Server::start(|request, mut answer| {
        let id = request.body["id"].clone();
        let result = |value: Value| json!({"jsonrpc": "2.0", "id": id, "result": value});
        match request.body["method"].as_str() {
            Some("initialize") => {
                let value = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
                answer.with("200 OK", "mcp-session-id: s-1\r\n", &result(value).to_string());
            }
            Some("notifications/initialized") => answer.with("202 Accepted", "", ""),
            Some("tools/call") => {
                answer.stream();
                answer.event(
                    &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "busy"}}),
                );
                let said = request.body["params"]["arguments"]["q"].clone();
                answer.event(&result(json!({"content": [{"type": "text", "text": said}]})));
            }
            _ => answer.with("200 OK", "", ""),
        }
    });
    place.file(
        "wfhost.toml",
        format!("[providers.tools]\nkind = \"mcp\"\nurl = \"{}/mcp\"\ntool = \"echo\"\narguments = {{ q = \"<${{prompt}}>\" }}\n", server.url),
    );
    assert_eq!(asked(&place, json!({}), "r")["output"], "<hello>");
    let requests = server.requests();
    let lines: Vec<_> = requests.iter().map(|request| request.line.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["POST", "POST", "POST", "DELETE"]);
    for request in &requests[1..] {
        assert_eq!(request.headers["mcp-session-id"], "s-1");
        assert_eq!(request.headers["mcp-protocol-version"], "2025-06-18");
    }
}

/// A server over stdio that keeps a record of what it hears, and whose tool does
/// as its name says.
const RECORDING: &str = r#"#!/usr/bin/env python3
import json, os, signal, sys

log = open(sys.argv[1], "a", buffering=1)
# On a slow machine it may be asked to end before it has read that its input has.
signal.signal(signal.SIGTERM, signal.SIG_IGN)

def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()

for line in sys.stdin:
    message = json.loads(line)
    log.write(message.get("method", "answer") + "\n")
    if message.get("method") == "initialize":
        send({"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": "2025-06-18", "capabilities": {}}})
    elif message.get("method") == "tools/call":
        name = message["params"]["name"]
        if name == "content":
            content = [{"type": "image", "data": "aGk=", "mimeType": "image/png"}]
            send({"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}})
        elif name == "wrapped":
            send({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [], "structuredContent": {"result": [1, 2]}}})
        elif name == "asks":
            # It answers only after its own question was answered.
            send({"jsonrpc": "2.0", "id": "p", "method": "ping"})
            answer = json.loads(sys.stdin.readline())
            send({"jsonrpc": "2.0", "id": message["id"], "result": {"content": [{"type": "text", "text": str(answer["result"])}]}})
        # Others never answer.
log.write("end of stdin\n")
"#;

fn recording(place: &Place, more: &str) {
    let server = program(place, "server.py", RECORDING);
    let log = place.path("log").display().to_string();
    place.file(
        "wfhost.toml",
        format!("[providers.tools]\nkind = \"mcp\"\nargv = [{server:?}, {log:?}]\n{more}"),
    );
}

fn log(place: &Place) -> Vec<String> {
    std::fs::read_to_string(place.path("log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_server_over_stdio_ends_by_itself_and_is_answered_while_it_works() {
    let place = Place::new();
    recording(&place, "");
    assert_eq!(asked(&place, json!({"options": {"tool": "asks"}}), "r")["output"], json!({}));
    let heard = ["initialize", "notifications/initialized", "tools/call", "end of stdin"];
    assert_eq!(log(&place), heard);
}

#[test]
fn a_tool_over_stdio_that_is_stopped_is_told_so() {
    let place = Place::new();
    recording(&place, "");
    let request = json!({"options": {"tool": "hang"}, "limits": {"attempt": 5_000}});
    assert_eq!(asked(&place, request, "r")["failure"], "timed-out");
    let heard =
        ["initialize", "notifications/initialized", "tools/call", "notifications/cancelled", "end of stdin"];
    wfhost_tests::eventually("the end of the server", || (log(&place) == heard).then_some(()));
}

#[test]
fn content_of_all_kinds_is_kept_and_a_pointer_takes_the_answer_out() {
    let place = Place::new();
    recording(&place, "");
    let content = json!([{"type": "image", "data": "aGk=", "mimeType": "image/png"}]);
    let reply = asked(&place, json!({"options": {"tool": "content"}}), "c");
    assert_eq!(reply["output"], json!({"text": "", "content": content}));
    recording(&place, "output = \"/result\"\n");
    assert_eq!(asked(&place, json!({"options": {"tool": "wrapped"}}), "w")["output"], json!([1, 2]));
    let failure = asked(&place, json!({"options": {"tool": "content"}}), "n");
    assert!(failure["message"].as_str().unwrap().contains("has nothing at `/result`"), "{failure}");
}

/// A server at a URL whose tool waits for its own ping (and may know nothing of the session when that is answered),
/// forgets its first session, or never answers.
fn remote(tool: &'static str) -> Server {
    let pong = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    Server::start(move |request, mut answer| {
        let id = request.body["id"].clone();
        let result = |value: Value| json!({"jsonrpc": "2.0", "id": id, "result": value});
        match request.body["method"].as_str() {
            Some("initialize") => {
                let value = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
                let session = format!("mcp-session-id: s-{}\r\n", request.number);
                answer.with("200 OK", &session, &result(value).to_string());
            }
            Some("tools/call") if tool == "forgets" && request.headers["mcp-session-id"] == "s-0" => {
                answer.with("404 Not Found", "", "{\"error\": \"Session not found\"}");
            }
            Some("tools/call") => {
                answer.stream();
                if tool == "hang" {
                    std::thread::sleep(std::time::Duration::from_secs(30));
                }
                if tool == "pings" || tool == "loses" {
                    answer.event(&json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
                    let mut heard = pong.0.lock().unwrap();
                    while !*heard {
                        heard = pong.1.wait(heard).unwrap();
                    }
                }
                answer.event(&result(json!({"content": [{"type": "text", "text": "fine"}]})));
            }
            None if request.body["id"] == "p" && tool == "loses" => {
                answer.with("404 Not Found", "", "{\"error\": \"Session not found\"}");
            }
            None if request.body["id"] == "p" => {
                *pong.0.lock().unwrap() = true;
                pong.1.notify_all();
                answer.with("202 Accepted", "", "");
            }
            _ => answer.with("202 Accepted", "", ""),
        }
    })
}

fn heard(server: &Server) -> Vec<String> {
    let word = |request: &crate::server::Request| match request.body["method"].as_str() {
        Some(method) => method.to_owned(),
        None => request.line.split(' ').next().unwrap().to_owned(),
    };
    server.requests().iter().map(word).collect()
}

fn asked_remote(tool: &'static str, request: Value) -> (Value, Server) {
    let place = Place::new();
    let server = remote(tool);
    place.file(
        "wfhost.toml",
        format!("[providers.tools]\nkind = \"mcp\"\nurl = \"{}/mcp\"\ntool = \"t\"\n", server.url),
    );
    (asked(&place, request, "r"), server)
}

#[test]
fn a_ping_over_http_is_answered_while_the_tool_works() {
    let (reply, server) = asked_remote("pings", json!({"limits": {"attempt": 20_000}}));
    assert_eq!(reply["output"], "fine");
    assert_eq!(heard(&server), ["initialize", "notifications/initialized", "tools/call", "POST", "DELETE"]);
}

#[test]
fn a_forgotten_session_is_begun_anew() {
    let (reply, server) = asked_remote("forgets", json!({}));
    assert_eq!(reply["output"], "fine");
    let session = ["initialize", "notifications/initialized", "tools/call"];
    let heard = heard(&server);
    assert_eq!(heard, [&session[..], &session[..], &["DELETE"]].concat());
    assert_eq!(server.requests().last().unwrap().headers["mcp-session-id"], "s-3");
}

/// The tool has begun and may have had its effect: whether it is called again is up to the call.
#[test]
fn a_session_that_is_forgotten_while_the_tool_works_has_it_called_once() {
    let once = json!({"max_attempts": 3, "initial": 5, "fatal": ["unknown-outcome"]});
    for (retry, made) in [(once, 1), (quick(2), 2)] {
        let (failure, server) = asked_remote("loses", json!({"retry": retry}));
        assert_eq!(failure["failure"], "unavailable", "{failure}");
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains("forgot the session while the tool worked"), "{message}");
        let session = ["initialize", "notifications/initialized", "tools/call", "POST"];
        assert_eq!(heard(&server), vec![session; made].concat(), "there is no session to end");
    }
}

#[test]
fn a_tool_over_http_that_is_stopped_is_cancelled_and_its_session_deleted() {
    let (failure, server) = asked_remote("hang", json!({"limits": {"attempt": 4_000}}));
    assert_eq!(failure["failure"], "timed-out");
    let wanted =
        ["initialize", "notifications/initialized", "tools/call", "notifications/cancelled", "DELETE"];
    wfhost_tests::eventually("the end of the session", || (heard(&server) == wanted).then_some(()));
    let cancelled = &server.requests()[3];
    assert_eq!(cancelled.body["params"]["requestId"], server.requests()[2].body["id"]);
}

#[test]
fn cancelling_a_run_cancels_its_tool() {
    let place = Place::new();
    recording(&place, "");
    let request = json!({"prompt": "p", "providers": ["tools"], "options": {"tool": "hang"}});
    let child = place.spawn(run_args(&place, &ask(request), &[]));
    wfhost_tests::eventually("the call", || log(&place).contains(&"tools/call".to_owned()).then_some(()));
    assert_eq!(place.run(["cancel", "r"]).code(), Some(0));
    wfhost_tests::finish(child);
    wfhost_tests::eventually("the cancellation", || {
        log(&place).contains(&"notifications/cancelled".to_owned()).then_some(())
    });
}
