//! The Model Context Protocol, by a small client of our own over standard input and output and over HTTP.
//! `tests/mcp/client.py` does the same with the official client for Python.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use wfhost_tests::{Place, Ran, eventually};

use crate::client::{Answer, Server, add_probe, token};

const NEW: &str = "2026-07-28";

/// What a request says of a client that knows everything.
fn knows_all() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": NEW,
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {
            "elicitation": { "form": {} }, "extensions": { "io.modelcontextprotocol/tasks": {} },
        },
    })
}

/// A way to a server.
enum Way<'a> {
    Stdio { child: Child, input: ChildStdin, output: BufReader<ChildStdout> },
    Http { server: &'a Server, token: String },
}

pub struct Client<'a> {
    way: Way<'a>,
    /// What each request says, if it says something.
    meta: Option<Value>,
    last: u64,
}

impl<'a> Client<'a> {
    pub fn stdio(place: &Place, more: &[&str], meta: Option<Value>) -> Self {
        let args = ["mcp", "--agent", "echo"].iter().chain(more);
        let mut command = place.wfhost(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("wfhost");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let output = BufReader::new(output);
        Self { way: Way::Stdio { child, input, output }, meta, last: 0 }
    }

    fn http(server: &'a Server, token: &str, meta: Option<Value>) -> Self {
        Self { way: Way::Http { server, token: token.to_owned() }, meta, last: 0 }
    }

    /// Sends a request, and gives the whole answer.
    fn ask(&mut self, method: &str, mut params: Value) -> Value {
        self.last += 1;
        if let Some(meta) = &self.meta {
            params["_meta"] = meta.clone();
        }
        let request = json!({ "jsonrpc": "2.0", "id": self.last, "method": method, "params": params });
        let answer = match &mut self.way {
            Way::Stdio { input, output, .. } => {
                writeln!(input, "{request}").expect("it reads");
                let mut line = String::new();
                output.read_line(&mut line).expect("it answers");
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
            }
            Way::Http { server, token } => {
                let bearer = format!("Bearer {token}");
                let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
                let body = request.to_string();
                server.try_ask("POST", "/mcp", &headers, body.as_bytes()).expect("an answer").json()
            }
        };
        assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
        assert_eq!(answer["id"], self.last, "{answer}");
        answer
    }

    #[track_caller]
    pub fn ok(&mut self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params);
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].clone()
    }

    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ok("tools/call", json!({ "name": tool, "arguments": arguments }))
    }

    fn tools(&mut self) -> Vec<String> {
        let listed = self.ok("tools/list", json!({}));
        let tools = listed["tools"].as_array().expect("tools").iter();
        tools.map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        if let Way::Stdio { child, .. } = &mut self.way {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn asks() -> Value {
    json!({ "do": [{ "agent": "first" }, { "ask": { "prompt": "May I?", "choices": ["yes", "no"] } }, { "agent": "last" }] })
}

/// Starts a run as a task, by one client; the next one sees its question, the one after that answers it.
fn walk<'a>(connect: &mut dyn FnMut() -> Client<'a>) {
    let started =
        connect().call("run_start", json!({ "workflow": "probe", "id": "r", "key": "k", "input": asks() }));
    assert_eq!(started["resultType"], "task", "{started}");
    assert_eq!((&started["taskId"], &started["status"]), (&json!("r"), &json!("working")));

    // Both sides are others now.
    let mut client = connect();
    let task = eventually("it asks", || {
        let task = client.ok("tasks/get", json!({ "taskId": "r" }));
        (task["status"] == "input_required").then_some(task)
    });
    let asked = &task["inputRequests"]["r/2"];
    assert_eq!(asked["method"], "elicitation/create", "{task}");
    assert!(asked["params"]["message"].as_str().is_some_and(|text| text.starts_with("May I?")));
    assert_eq!(asked["params"]["requestedSchema"]["properties"]["answer"]["enum"], json!(["yes", "no"]));
    drop(client);

    let mut client = connect();
    let answer = |content: &str| json!({ "r/2": { "action": "accept", "content": { "answer": content } } });
    // What does not fit leaves the question open.
    let refused = client.ask("tasks/update", json!({ "taskId": "r", "inputResponses": answer("perhaps") }));
    assert!(
        refused["error"]["data"]["code"].as_str().is_some_and(|code| code.starts_with("WF")),
        "{refused}"
    );
    client.ok("tasks/update", json!({ "taskId": "r", "inputResponses": answer("yes") }));
    let task = eventually("it ends", || {
        let task = client.ok("tasks/get", json!({ "taskId": "r" }));
        (task["status"] == "completed").then_some(task)
    });
    let result = &task["result"];
    assert_eq!(result["isError"], false, "{task}");
    assert_eq!(result["structuredContent"]["output"], json!(["first", "yes", "last"]), "{task}");
    assert_eq!(result["structuredContent"]["schema"], "wfhost/run/1");
    // Again, as somebody who missed that: nothing is done twice.
    client.ok("tasks/update", json!({ "taskId": "r", "inputResponses": answer("yes") }));
    client.ok("tasks/cancel", json!({ "taskId": "r" }));
    assert_eq!(client.ok("tasks/get", json!({ "taskId": "r" }))["status"], "completed");
}

#[test]
fn a_run_is_a_task_and_its_question_an_elicitation_over_stdio() {
    let place = Place::new();
    add_probe(&place);
    walk(&mut || Client::stdio(&place, &[], Some(knows_all())));
    // Who answered is in the journal.
    let journal = place.run(["journal", "r"]).stdout();
    assert!(journal.contains("by=\"mcp\""), "{journal}");
}

#[test]
fn a_run_is_a_task_and_its_question_an_elicitation_over_http_also_when_the_server_is_killed() {
    let place = Place::new();
    add_probe(&place);
    let agent = token(&place, "agent", "runs:read,payloads:read,runs:start,runs:control,people:answer");
    let started = {
        let server = Server::start(&place, &[]);
        let mut client = Client::http(&server, &agent, Some(knows_all()));
        let started =
            client.call("run_start", json!({ "workflow": "probe", "id": "r", "key": "k", "input": asks() }));
        drop(client);
        server.kill();
        started
    };
    assert_eq!(started["resultType"], "task", "{started}");
    let server = Server::start(&place, &[]);
    walk(&mut || Client::http(&server, &agent, Some(knows_all())));
    // Requests of clients are counted.
    let figures = server.ask("GET", "/metrics", None).text();
    assert!(figures.contains("wfhost_mcp_requests_total{method=\"tasks/get\"}"), "{figures}");
}

#[test]
fn who_waits_is_asked_the_question_and_may_put_it_aside() {
    let place = Place::new();
    add_probe(&place);
    let mut client = Client::stdio(&place, &[], Some(knows_all()));
    client.call("run_start", json!({ "workflow": "probe", "id": "r", "input": asks() }));
    let wait = json!({ "name": "run_wait", "arguments": { "run": "r", "seconds": 20 } });
    let asked = client.ok("tools/call", wait.clone());
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert_eq!(asked["inputRequests"]["r/2"]["method"], "elicitation/create");
    let with = |action: Value, seconds: u64| {
        let mut wait = wait.clone();
        wait["arguments"]["seconds"] = seconds.into();
        wait["inputResponses"] = json!({ "r/2": action });
        wait["requestState"] = asked["requestState"].clone();
        wait
    };
    let aside = client.ok("tools/call", with(json!({ "action": "cancel" }), 0));
    assert!(
        ["waiting", "running"].map(Value::from).contains(&aside["structuredContent"]["state"]),
        "{aside}"
    );
    let declined = client.ok("tools/call", with(json!({ "action": "decline" }), 20));
    assert_eq!(declined["structuredContent"]["state"], "completed", "{declined}");
    assert!(declined["structuredContent"]["output"][1].to_string().contains("rejected"), "{declined}");
}

/// What a request says of a client that can do nothing for its user.
fn asks_nobody() -> Value {
    let mut meta = knows_all();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    meta
}

#[test]
fn a_client_that_cannot_ask_its_user_gets_the_question_and_where_people_answer_it() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let reader = token(&place, "reader", "runs:read,payloads:read,runs:start");
    let mut client = Client::http(&server, &reader, Some(asks_nobody()));
    let start = json!({ "workflow": "probe", "id": "r", "input": asks(), "wait_seconds": 0 });
    client.call("run_start", start);
    // Whether it asks already or will: the question is there when the wait is over.
    let told = eventually("it asks", || {
        let told = client.call("run_wait", json!({ "run": "r", "seconds": 1 }));
        told["structuredContent"]["questions"][0].is_object().then_some(told)
    });
    assert_eq!(told["isError"], false, "{told}");
    let question = &told["structuredContent"]["questions"][0];
    assert_eq!((&question["prompt"], &question["choices"]), (&json!("May I?"), &json!(["yes", "no"])));
    let text = told["content"][1]["text"].as_str().expect("a text for models");
    let page = format!("http://{}/ui/runs/r/steps/2", server.address);
    for wanted in ["May I?", "[\"yes\",\"no\"]", page.as_str(), "wfhost answer r 2 -i JSON"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // This one may not answer, so no tool is named.
    assert!(!text.contains("run_answer"), "{text}");
    let grants = token(&place, "grants", "runs:read,payloads:read,people:answer");
    let mut answers = Client::http(&server, &grants, None);
    let told = answers.call("run_wait", json!({ "run": "r", "seconds": 0 }));
    let text = told["content"][1]["text"].as_str().expect("a text for models");
    assert!(text.contains("run_answer with {\"run\": \"r\", \"step\": 2"), "{text}");
    // One that only opens addresses cannot show a form either.
    let mut opens = asks_nobody();
    opens["io.modelcontextprotocol/clientCapabilities"] = json!({ "elicitation": { "url": {} } });
    let told =
        Client::http(&server, &grants, Some(opens)).call("run_wait", json!({ "run": "r", "seconds": 0 }));
    assert!(told["content"][1]["text"].as_str().is_some_and(|text| text.contains("run_answer")), "{told}");
    // Somebody answers while it is waited for.
    answers.call("run_answer", json!({ "run": "r", "step": 2, "answer": "yes" }));
    let done = client.call("run_wait", json!({ "run": "r", "seconds": 20 }));
    assert_eq!(done["structuredContent"]["output"], json!(["first", "yes", "last"]), "{done}");
    assert!(done["structuredContent"]["questions"].is_null() && done["content"][1].is_null(), "{done}");
    // Who may not see what runs work on sees no question.
    client.call("run_start", json!({ "workflow": "probe", "id": "hidden", "input": asks() }));
    eventually("it asks", || (server.get("/api/v1/runs/hidden")["state"] == "waiting").then_some(()));
    let blind = token(&place, "blind", "runs:read");
    let told = Client::http(&server, &blind, None).call("run_wait", json!({ "run": "hidden", "seconds": 0 }));
    assert!(!told.to_string().contains("May I?"), "{told}");
}

#[test]
fn who_waits_for_a_run_is_answered_when_the_server_ends() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let waits = json!({ "do": [{ "wait": { "name": "go" } }] });
    server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": "r", "input": waits }));
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    let (address, token) = (server.address.clone(), server.token.clone());
    let waiting = std::thread::spawn(move || {
        let call = json!({ "name": "run_wait", "arguments": { "run": "r", "seconds": 60 } });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call }).to_string();
        let mut stream = std::net::TcpStream::connect(&address).expect("it listens");
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        Answer::read(stream).expect("an answer")
    });
    eventually("it is waited for", || {
        let figures = server.ask("GET", "/metrics", None).text();
        figures.contains("wfhost_event_streams 1\n").then_some(())
    });
    // It is answered as the server ends: requests that are still open a while later are cut off.
    assert_eq!(server.stop().code(), Some(143));
    let answer = waiting.join().expect("it ends").ok();
    assert_eq!(answer["result"]["structuredContent"]["state"], "waiting", "{answer}");
}

#[test]
fn a_run_links_to_the_span_of_the_client_that_called_the_tool() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let input = json!({ "do": [{ "agent": "x" }] });
    let mut with = knows_all();
    with["traceparent"] = caller.into();
    let mut bad = knows_all();
    bad["traceparent"] = "nonsense".into();
    for (id, meta) in [("modern", with), ("older", json!({ "traceparent": caller })), ("bad", bad)] {
        let mut client = Client::http(&server, &server.token, Some(meta));
        client.call("run_start", json!({ "workflow": "probe", "id": id, "input": input }));
        server.get(&format!("/api/v1/runs/{id}?wait=30s"));
    }
    let links = |run: &str| {
        let trace = place.run(["trace", run, "-o", "json"]).ok_json();
        let root = trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone();
        let links = root["links"].as_array().expect("links").iter();
        links.map(|link| (link["traceId"].clone(), link["spanId"].clone())).collect::<Vec<_>>()
    };
    let expected = vec![(json!("0af7651916cd43dd8448eb211c80319c"), json!("b7ad6b7169203331"))];
    assert_eq!((links("modern"), links("older")), (expected.clone(), expected));
    assert_eq!(links("bad"), []);
}

#[test]
fn older_clients_get_along_by_a_handshake_and_plain_results() {
    let place = Place::new();
    add_probe(&place);
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = Client::stdio(&place, &[], None);
        let info = client
            .ok("initialize", json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": {} }));
        assert_eq!(info["protocolVersion"], version);
        assert_eq!(info["serverInfo"]["name"], "wfhost");
        assert!(info["resultType"].is_null() && info["capabilities"]["extensions"].is_null(), "{info}");
        assert_eq!(client.ok("ping", json!({})), json!({}));
        let id = format!("r-{version}");
        let input = json!({ "do": [{ "agent": "hi" }] });
        let done = client
            .call("run_start", json!({ "workflow": "probe", "id": id, "input": input, "wait_seconds": 20 }));
        assert_eq!(done["structuredContent"]["output"], json!(["hi"]), "{done}");
        let text = done["content"][0]["text"].as_str().expect("a text");
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), done["structuredContent"]);
        // Tasks are nothing that they know.
        assert_eq!(client.ask("tasks/get", json!({ "taskId": id }))["error"]["code"], -32_601);
    }
    let mut client = Client::stdio(&place, &[], None);
    let info = client.ok("initialize", json!({ "protocolVersion": "1999-01-01" }));
    assert_eq!(info["protocolVersion"], "2025-11-25");
}

#[test]
fn versions_and_messages_that_are_not_known_are_refused_as_the_protocol_wants() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut unknown = knows_all();
    unknown["io.modelcontextprotocol/protocolVersion"] = "2031-01-01".into();
    let refused = Client::http(&server, &server.token, Some(unknown)).ask("tools/list", json!({}));
    assert_eq!(refused["error"]["code"], -32_022, "{refused}");
    assert!(refused["error"]["data"]["supported"].as_array().expect("versions").contains(&json!(NEW)));
    let mut client = Client::http(&server, &server.token, Some(knows_all()));
    let found = client.ok("server/discover", json!({}));
    assert_eq!(found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "wfhost");
    assert_eq!((&found["resultType"], &found["cacheScope"]), (&json!("complete"), &json!("private")));
    assert_eq!(client.ask("nothing/here", json!({}))["error"]["code"], -32_601);
    assert_eq!(client.ask("tools/call", json!({}))["error"]["code"], -32_602);
    assert_eq!(client.ask("tools/call", json!({ "name": "run_eat" }))["error"]["code"], -32_602);
    assert_eq!(
        client.ask("tools/call", json!({ "name": "run_show", "arguments": { "run": 1 } }))["error"]["code"],
        -32_602
    );

    let bearer = format!("Bearer {}", server.token);
    let mut headers = vec![("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let send = |headers: &[(&str, &str)], body: &str| {
        server.try_ask("POST", "/mcp", headers, body.as_bytes()).expect("an answer")
    };
    assert_eq!(send(&headers, "{").json()["error"]["code"], -32_700);
    assert_eq!(send(&headers, "7").json()["error"]["code"], -32_600);
    // What asks for nothing gets nothing.
    let told = send(&headers, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    assert_eq!((told.status, told.body.len()), (202, 0));
    let both = send(
        &headers,
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":"b","method":"ping"}]"#,
    );
    assert_eq!(both.json().as_array().map(Vec::len), Some(2));
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    let many = |count: usize| send(&headers, &json!(vec![ping.clone(); count]).to_string()).json();
    assert_eq!(many(100).as_array().map(Vec::len), Some(100));
    assert_eq!(many(101)["error"]["code"], -32_600);
    // Pages of other sites get nothing done, whatever they have.
    headers.push(("Origin", "https://evil.example"));
    assert_eq!(send(&headers, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).status, 403);
    headers.pop();
    headers.extend([("MCP-Protocol-Version", NEW), ("Mcp-Method", "tools/list")]);
    let other =
        send(&headers, r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_list"}}"#);
    assert_eq!((other.status, &other.json()["error"]["code"]), (400, &json!(-32_020)));
    assert_eq!(server.try_ask("POST", "/mcp", &[], b"{}").unwrap().status, 401);
    assert_eq!(server.ask("GET", "/mcp", None).status, 405);
}

#[test]
fn tools_are_those_that_the_client_may_use() {
    let place = Place::new();
    add_probe(&place);
    let reads = ["run_list", "run_show", "run_why", "run_wait", "question_list", "run_replay_check"];
    let acts = ["run_start", "run_signal", "run_cancel", "run_retry", "run_fork"];
    let has =
        |tools: &[String], names: &[&str]| names.iter().all(|name| tools.iter().any(|tool| tool == name));
    let has_none =
        |tools: &[String], names: &[&str]| !names.iter().any(|name| tools.iter().any(|tool| tool == name));

    let all = Client::stdio(&place, &[], None).tools();
    assert!(has(&all, &reads) && has(&all, &acts) && has_none(&all, &["run_answer"]), "{all:?}");
    let only = Client::stdio(&place, &["--read-only"], None).tools();
    assert!(has(&only, &reads) && has_none(&only, &acts) && has_none(&only, &["run_answer"]), "{only:?}");
    let may = Client::stdio(&place, &["--allow-answers"], None).tools();
    assert!(has(&may, &["run_answer"]), "{may:?}");
    let named = Client::stdio(&place, &["--workflows"], None).tools();
    assert!(has(&named, &["workflow_run_probe"]), "{named:?}");

    // A tool that is not offered is not there either.
    let mut client = Client::stdio(&place, &["--read-only"], None);
    let refused =
        client.ask("tools/call", json!({ "name": "run_start", "arguments": { "workflow": "probe" } }));
    assert!(refused["error"]["message"].as_str().is_some_and(|why| why.contains("not granted")), "{refused}");

    let server = Server::start(&place, &[]);
    let reader = token(&place, "reader", "runs:read");
    let tools = Client::http(&server, &reader, None).tools();
    assert!(
        has(&tools, &["run_list", "run_show"])
            && has_none(&tools, &acts)
            // Why a run waits may quote what it works on.
            && has_none(&tools, &["run_transcript", "run_why"])
    );
    let templates = |token: &str| {
        let mut client = Client::http(&server, token, None);
        client.ok("resources/templates/list", json!({}))["resourceTemplates"].to_string()
    };
    assert!(!templates(&reader).contains("/why") && templates(&reader).contains("/journal"));
    assert!(templates(&server.token).contains("/why"));
    // Who may do everything was not told to answer for people; who has that scope was.
    assert!(has_none(&Client::http(&server, &server.token, None).tools(), &["run_answer"]));
    let grants = token(&place, "grants", "runs:read,payloads:read,people:answer");
    assert!(has(&Client::http(&server, &grants, None).tools(), &["run_answer"]));
}

#[test]
fn tools_do_what_the_api_does_and_tell_its_errors() {
    let place = Place::new();
    add_probe(&place);
    let mut client = Client::stdio(&place, &["--workflows", "--allow-answers"], None);
    assert_eq!(client.call("workflow_list", json!({}))["structuredContent"]["modules"][0]["name"], "probe");
    let input =
        json!({ "do": [{ "agent": "a" }, { "wait": { "name": "go" } }, { "ask": { "prompt": "?" } }] });
    let started =
        client.call("run_start", json!({ "workflow": "probe", "id": "r", "key": "k", "input": input }));
    assert_eq!(started["structuredContent"]["id"], "r");
    // The same key with another input is refused, with the code and what mends it.
    let other = client.call("run_start", json!({ "workflow": "probe", "key": "k", "input": 1 }));
    assert_eq!(other["isError"], true);
    let text = other["content"][0]["text"].as_str().expect("a text");
    assert!(text.starts_with("error[WF0304]") && other["structuredContent"]["code"] == "WF0304", "{other}");
    eventually("it waits", || {
        let why = client.call("run_why", json!({ "run": "r" }));
        why["content"][0]["text"].as_str().expect("a text").contains("go").then_some(())
    });
    let sent =
        client.call("run_signal", json!({ "run": "r", "name": "go", "payload": { "n": 1 }, "id": "s" }));
    assert_eq!(sent["isError"], false, "{sent}");
    let question = eventually("it asks", || {
        let listed = client.call("question_list", json!({ "run": "r" }));
        listed["structuredContent"]["questions"].get(0).cloned()
    });
    assert_eq!(question["step"], 3);
    let answered =
        client.call("run_answer", json!({ "run": "r", "step": 3, "answer": true, "note": "fine" }));
    assert_eq!(answered["isError"], false, "{answered}");
    let shown = client.call("run_wait", json!({ "run": "r", "seconds": 20 }));
    assert_eq!(shown["structuredContent"]["output"], json!(["a", { "n": 1 }, true]), "{shown}");
    let steps = client.call("run_show", json!({ "run": "r", "steps": true }));
    assert_eq!(steps["structuredContent"]["steps"].as_array().map(Vec::len), Some(3));
    assert_eq!(client.call("run_step", json!({ "run": "r", "step": 1 }))["isError"], false);
    assert_eq!(client.call("run_transcript", json!({ "run": "r" }))["isError"], false);
    let events = client.call("run_events", json!({ "run": "r", "kinds": "entry" }));
    assert!(events["structuredContent"]["next"].is_string(), "{events}");
    assert_eq!(client.call("run_replay_check", json!({ "run": "r" }))["isError"], false);
    let fork = client.call("run_fork", json!({ "run": "r", "at": 3 }));
    assert_eq!(fork["structuredContent"]["dry_run"], true, "{fork}");
    let fork = client.call("run_fork", json!({ "run": "r", "at": 3, "dry_run": false }));
    let fork = fork["structuredContent"]["run"]["id"].as_str().expect("a run").to_owned();
    assert_eq!(client.call("run_cancel", json!({ "run": fork, "reason": "enough" }))["isError"], false);
    let listed = client.call("run_list", json!({ "workflow": "probe", "limit": 10 }));
    assert_eq!(listed["structuredContent"]["runs"].as_array().map(Vec::len), Some(2));
    // The address of another thing than a run leads nowhere.
    let odd = client.call("run_show", json!({ "run": "../modules" }));
    assert_eq!(
        (&odd["isError"], &odd["structuredContent"]["code"]),
        (&json!(true), &json!("WF0501")),
        "{odd}"
    );

    let own = client.call("workflow_run_probe", json!({ "input": { "do": [{ "agent": "x" }] } }));
    assert_eq!(own["structuredContent"]["output"], json!(["x"]), "{own}");

    let listed = client.ok("resources/list", json!({}));
    let uris: Vec<_> =
        listed["resources"].as_array().expect("resources").iter().map(|one| &one["uri"]).collect();
    assert!(uris.contains(&&json!("wfhost://runs/r")), "{uris:?}");
    for uri in uris {
        let read = client.ok("resources/read", json!({ "uri": uri }));
        let text = read["contents"][0]["text"].as_str().expect("a text");
        assert!(serde_json::from_str::<Value>(text).is_ok(), "{uri}");
    }
    for uri in ["wfhost://runs/r/journal", "wfhost://runs/r/why"] {
        client.ok("resources/read", json!({ "uri": uri }));
    }
    let missing = client.ask("resources/read", json!({ "uri": "wfhost://runs/nobody" }));
    assert_eq!(missing["error"]["data"]["code"], "WF0501", "{missing}");
    assert_eq!(
        client.ask("resources/read", json!({ "uri": "file:///etc/passwd" }))["error"]["code"],
        -32_602
    );
    assert!(
        client
            .ok("prompts/get", json!({ "name": "debug_run", "arguments": { "run": "r" } }))
            .to_string()
            .contains("run_why")
    );
    assert_eq!(client.ask("prompts/get", json!({ "name": "debug_run" }))["error"]["code"], -32_602);
}

/// What models and people are told has the digits that were written, and so has what they write.
#[test]
fn numbers_keep_their_digits_on_their_way() {
    const BIG: &str = "12345678901234567890123";
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let agent =
        token(&place, "agent", "runs:read,payloads:read,runs:start,runs:signal,runs:control,people:answer");
    let bearer = format!("Bearer {agent}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    let meta = knows_all();
    let ask = |method: &str, params: &str| {
        let request =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{meta},{params}}}}}"#);
        let answer = server.try_ask("POST", "/mcp", &headers, request.as_bytes()).expect("an answer").text();
        assert!(!answer.contains("\"error\"") && !answer.contains("e22"), "{answer}");
        answer
    };
    let call = |tool: &str, arguments: &str| {
        ask("tools/call", &format!(r#""name":"{tool}","arguments":{arguments}"#))
    };
    // As structured content, and as the text of the same.
    let tells = |answer: &str| assert!(answer.matches(BIG).count() >= 2, "{answer}");
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;
    let input = format!(
        r#"{{"do":[{{"wait":{{"name":"go"}}}},{{"ask":{{"prompt":"How many?","schema":{schema}}}}},{{"ask":{{"prompt":"Again?"}}}}],"more":{BIG}}}"#
    );
    call("run_start", &format!(r#"{{"workflow":"probe","id":"r","input":{input}}}"#));
    let journal = || server.ask("GET", "/api/v1/runs/r/journal", None).text();
    assert!(journal().contains(&format!("\"more\":{BIG}")), "{}", journal());
    tells(&call("run_show", r#"{"run":"r","steps":true}"#));
    call("run_signal", &format!(r#"{{"run":"r","name":"go","payload":[{BIG}]}}"#));
    eventually("it asks", || server.get("/api/v1/questions")["questions"].get(0).cloned());
    assert!(journal().contains(&format!("[{BIG}]")), "{}", journal());
    tells(&call("run_step", r#"{"run":"r","step":1}"#));
    tells(&call("run_events", r#"{"run":"r","kinds":"entry"}"#));
    ask(
        "tasks/update",
        &format!(r#""taskId":"r","inputResponses":{{"r/2":{{"action":"accept","content":{{"n":{BIG}}}}}}}"#),
    );
    eventually("it asks again", || {
        let questions = server.get("/api/v1/questions");
        (questions["questions"][0]["step"] == 3).then_some(())
    });
    assert!(journal().contains(&format!("\"n\":{BIG}")), "{}", journal());
    call("run_answer", &format!(r#"{{"run":"r","step":3,"answer":{{"sure":{BIG}}}}}"#));
    server.get("/api/v1/runs/r?wait=30s");
    assert!(journal().contains(&format!("\"sure\":{BIG}")), "{}", journal());
    let read = ask("resources/read", r#""uri":"wfhost://runs/r/journal""#);
    assert!(read.contains(BIG), "{read}");
    let entries = server.get("/api/v1/runs/r/journal")["entries"].clone();
    let answered = entries.as_array().expect("entries").iter().find(|entry| entry["kind"] == "answered");
    let entry = answered.and_then(|entry| entry["position"].as_u64()).unwrap_or_else(|| panic!("{entries}"));
    let edits = format!(
        r#"{{"run":"r","at":{},"edits":[{{"entry":{entry},"answer":{{"n":{BIG}1}}}}],"dry_run":false}}"#,
        entry + 1
    );
    let fork = call("run_fork", &edits);
    let fork: Value = serde_json::from_str(&fork).unwrap();
    let fork = fork["result"]["structuredContent"]["run"]["id"].as_str().unwrap_or_else(|| panic!("{fork}"));
    let forked = server.ask("GET", &format!("/api/v1/runs/{fork}/journal"), None).text();
    assert!(forked.contains(&format!("\"n\":{BIG}1")), "{forked}");
    // As deep as JSON may be here, in a message that is deeper.
    let deep = format!("{}{BIG}{}", "[".repeat(126), "]".repeat(126));
    call("run_start", &format!(r#"{{"workflow":"probe","id":"deep","input":{{"do":{deep}}}}}"#));
    assert!(server.ask("GET", "/api/v1/runs/deep/journal", None).text().contains(&deep));
    let shown = call("run_show", r#"{"run":"deep","steps":true}"#);
    assert!(shown.contains(&format!("\"input\":{{\"do\":{deep}}}")), "{shown}");
}

#[test]
fn who_waits_for_a_run_that_goes_on_as_another_one_is_told_of_the_latest() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let third = json!({ "do": [{ "ask": { "prompt": "May I?", "choices": ["yes"] } }] });
    let second = json!({ "do": [{ "continue_as_new": third }] });
    let input = json!({ "do": [{ "continue_as_new": second }] });
    server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": "r", "input": input }));
    let latest = eventually("the last round asks", || {
        let questions = server.get("/api/v1/questions");
        questions["questions"][0]["run"].as_str().map(str::to_owned)
    });
    let middle = server.get("/api/v1/runs/r")["continued_as"].as_str().unwrap().to_owned();
    assert_ne!(middle, latest);
    assert_eq!(server.get("/api/v1/runs/r?wait=0s")["id"], *latest);
    let bearer = &server.token;
    let agent = token(&place, "agent", "runs:read,payloads:read,runs:control,people:answer");
    let mut client = Client::http(&server, &agent, Some(knows_all()));
    let question = format!("{latest}/1");
    let task = client.ok("tasks/get", json!({ "taskId": "r" }));
    assert!(task["inputRequests"][&question].is_object(), "{task}");
    let asked =
        client.ok("tools/call", json!({ "name": "run_wait", "arguments": { "run": "r", "seconds": 0 } }));
    assert!(asked["inputRequests"][&question].is_object(), "{asked}");
    // Who names the first one means the latest.
    let paused = server.ask_as(bearer, "POST", "/api/v1/runs/r/pause", Some(&json!({}))).ok();
    assert_eq!(paused["run"], *latest, "{paused}");
    eventually("it is paused", || {
        (server.get(&format!("/api/v1/runs/{latest}"))["state"] == "paused").then_some(())
    });
    let resumed = server.ask_as(bearer, "POST", "/api/v1/runs/r/resume", Some(&json!({}))).ok();
    assert_eq!(resumed["run"], *latest, "{resumed}");
    eventually("it goes on", || {
        (server.get(&format!("/api/v1/runs/{latest}"))["state"] == "waiting").then_some(())
    });
    let answer = json!({ (question): { "action": "accept", "content": { "answer": "yes" } } });
    client.ok("tasks/update", json!({ "taskId": "r", "inputResponses": answer }));
    assert_eq!(server.get(&format!("/api/v1/runs/{latest}?wait=30s"))["output"], json!(["yes"]));
    // A round in the middle may be gone by then: nobody looks at one after the other.
    let gone = server.ask("DELETE", &format!("/api/v1/runs/{middle}"), None);
    assert!((200..300).contains(&gone.status), "{}", gone.text());
    assert_eq!(server.get("/api/v1/runs/r?wait=0s")["id"], *latest);
    assert_eq!(client.ok("tasks/get", json!({ "taskId": "r" }))["status"], "completed");
    let waited = client.call("run_wait", json!({ "run": "r", "seconds": 0 }));
    assert_eq!(waited["structuredContent"]["id"], *latest, "{waited}");
}

#[test]
fn what_clients_are_told_is_shown_and_written_after_asking() {
    let place = Place::new();
    let shown = place.run(["mcp", "install"]);
    assert_eq!(shown.code(), Some(0), "{}", shown.stderr());
    for text in ["Claude Code: .mcp.json", "[mcp_servers.wfhost]", "settings.json", "opencode.json"] {
        assert!(shown.stdout().contains(text), "{}", shown.stdout());
    }
    // Codex has its configuration where its own variable says.
    let mut install = place.wfhost(["mcp", "install", "--write", "codex", "--yes"]);
    install.env("CODEX_HOME", place.path("codex")).env("HOME", place.path("home"));
    let written = Ran(install.output().unwrap());
    assert_eq!(written.code(), Some(0), "{}", written.stderr());
    let text = std::fs::read_to_string(place.path("codex/config.toml")).expect("the file of codex");
    assert!(text.contains("[mcp_servers.wfhost]") && !place.path("home").exists(), "{text}");
    // Nobody is there to be asked.
    assert_eq!(place.run(["mcp", "install", "--write", "claude-code"]).code(), Some(2));
    assert!(!std::path::Path::new(&place.path(".mcp.json")).exists());
}

#[test]
fn the_configuration_of_a_client_is_replaced_as_a_whole_or_not_at_all() {
    let place = Place::new();
    let (file, link) = (place.path("of-claude.json"), place.path(".mcp.json"));
    let others = json!({ "mcpServers": { "other": { "command": "x".repeat(8_000) } } }).to_string();
    std::fs::write(&file, &others).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut install = place.wfhost(["mcp", "install", "--write", "claude-code", "--yes"]);
    install.current_dir(place.path(""));
    // Where only a part of it can be written it stays as it is.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -f 4; exec \"$0\" \"$@\""])
        .arg(install.get_program())
        .args(install.get_args());
    limited.current_dir(place.path(""));
    assert!(!limited.output().unwrap().status.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), others);
    let mut run = || Ran(install.output().unwrap());
    let written = run();
    assert_eq!(written.code(), Some(0), "{}", written.stderr());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"wfhost\"") && text.contains("\"other\""), "{text}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(run().stderr().contains("already has wfhost"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}
