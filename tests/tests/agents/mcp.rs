//! The provider `mcp`: a server that is a program, and one that is at a URL.

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::server::Server;
use crate::{ask, gave, program, quick, run};

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
        format!("[providers.tools]\nkind = \"mcp\"\nargv = [{server:?}]\ntool = \"say\"\n"),
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
