//! What modules say of themselves, in the API, in the pages and in MCP.

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, module};

use crate::client::Server;
use crate::mcp::Client;
use crate::pages::Browser;

/// Keeps the probe as a workflow `told` that says what it takes.
fn add_told(place: &Place) -> String {
    let says = json!({
        "schema": "wfhost/describe/1",
        "description": "Does <b>what</b> it is told",
        "input": { "type": "object", "required": ["do"], "properties": {
            "do": { "type": "array", "items": { "$ref": "#/$defs/step" }, "description": "One after the other" },
            "by": { "type": ["string", "null"], "maxLength": 9 } },
            "$defs": { "step": { "type": ["object", "string"] } } },
        "signals": { "go": { "description": "Lets it go on", "schema": { "type": "object", "required": ["ok"],
            "properties": { "ok": { "type": "boolean" }, "n": { "type": "integer" } } } } },
    });
    let mut bytes = std::fs::read(module("probe")).expect("the probe");
    let says = says.to_string();
    let name = "wfhost:describe";
    let length = 1 + name.len() + says.len();
    let number = [(length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
    assert!(length < 1 << 14);
    bytes.extend([&[0][..], &number, &[name.len() as u8], name.as_bytes(), says.as_bytes()].concat());
    let path = place.file("told.wasm", bytes);
    let ran = place.run(["add", &path]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    ran.stdout().trim().to_owned()
}

#[test]
fn the_api_refuses_what_does_not_fit_before_there_is_anything() {
    let place = Place::new();
    let digest = add_told(&place);
    let server = Server::start(&place, &[]);
    let shown = server.get(&format!("/api/v1/modules/{digest}"));
    assert_eq!(shown["describes"]["signals"]["go"]["description"], "Lets it go on");
    assert_eq!(shown["describes_error"], Value::Null);
    let post = |path: &str, body: Value| server.ask("POST", path, Some(&body));
    let refused = post("/api/v1/runs", json!({ "workflow": "told", "input": { "do": 7 }, "id": "r" }));
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("WF0521")));
    let details = refused.json()["details"].to_string();
    assert!(details.contains("7 is not of type") && details.contains("^"), "{details}");
    let go = json!({ "wait": { "name": "go" } });
    // A signal that comes along is looked at before the run is created.
    let with_signal = |payload: Value| {
        let signal = json!({ "name": "go", "payload": payload });
        json!({ "workflow": "told", "input": { "do": [go] }, "id": "r", "signal": signal })
    };
    assert_eq!(post("/api/v1/runs", with_signal(json!(1))).json()["code"], "WF0522");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    assert_eq!(
        post("/api/v1/runs", json!({ "workflow": "told", "input": { "do": [go, go] }, "id": "r" })).status,
        201
    );
    let signal = |payload: Value| post("/api/v1/runs/r/signals/go", payload);
    let refused = signal(json!({ "ok": 1 }));
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("WF0522")));
    assert_eq!(signal(json!({ "ok": true })).status, 202);
    assert_eq!(signal(json!({ "ok": false, "n": 2 })).status, 202);
    let run = server.get("/api/v1/runs/r?wait=30s");
    assert_eq!(run["output"], json!([{ "ok": true }, { "ok": false, "n": 2 }]), "{run}");
    // Who says so leaves the refusal to the program.
    let unfit = json!({ "workflow": "told", "input": { "do": [], "by": "ten letters" }, "id": "u", "no_check": true });
    let started = post("/api/v1/runs?wait=30s", unfit);
    assert_eq!((started.status, &started.json()["output"]), (201, &json!([])), "{}", started.text());
    let mut waits = with_signal(json!(1));
    waits["id"] = json!("v");
    waits["signal"]["no_check"] = json!(true);
    waits["input"]["do"] = json!([go, go]);
    assert_eq!(post("/api/v1/runs", waits).status, 201);
    assert_eq!(post("/api/v1/runs/v/signals/go?no_check=true", json!("x")).status, 202);
    assert_eq!(post("/api/v1/runs/v/signals/go?no_check=maybe", json!("x")).status, 400);
    let run = server.get("/api/v1/runs/v?wait=30s");
    assert_eq!(run["output"], json!([1, "x"]), "{run}");
    // Signals to nobody are told so.
    assert_eq!(post("/api/v1/runs/nobody/signals/go", json!(1)).status, 404);
}

#[test]
fn a_callback_that_does_not_fit_is_refused_and_its_address_stays_good() {
    let place = Place::new();
    add_told(&place);
    let server = Server::start(&place, &[]);
    let go = json!({ "wait": { "name": "go" } });
    server.post("/api/v1/runs", &json!({ "workflow": "told", "input": { "do": [go] }, "id": "r" }));
    let made = server.ask("POST", "/api/v1/callbacks", Some(&json!({ "run": "r", "signal": "go" }))).ok();
    let path = made["url"].as_str().unwrap().split_once(&server.address).unwrap().1.to_owned();
    let send = |body: &str| {
        server.try_ask("POST", &path, &[("Content-Type", "application/json")], body.as_bytes()).unwrap()
    };
    assert_eq!(send(r#"{"ok":"certainly"}"#).error(422), "WF0522");
    // The form of a browser comes again, with what was filled in and what is wrong with it.
    let by_form = |body: &str| {
        let body: String = body.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        server.try_ask("POST", &path, &headers, format!("body={body}").as_bytes()).unwrap()
    };
    for (body, shown) in [(r#"{"ok":1}"#, "{&quot;ok&quot;:1}"), ("{<b>", "{&lt;b&gt;")] {
        let refused = by_form(body);
        let text = refused.text();
        assert_eq!(
            (refused.status, refused.header("content-type")),
            (422, Some("text/html; charset=utf-8")),
            "{text}"
        );
        assert!(
            text.contains("role=\"alert\"") && text.contains(shown) && text.contains("<textarea"),
            "{text}"
        );
    }
    let taken = by_form(r#"{"ok":true}"#);
    assert!(taken.status == 200 && taken.text().contains("Thank you"), "{}", taken.text());
    assert_eq!(server.get("/api/v1/runs/r?wait=30s")["output"], json!([{ "ok": true }]));
    // Programs are told as programs, people as people.
    assert_eq!(send(r#"{"ok":false}"#).error(409), "WF0909");
    let gone = by_form(r#"{"ok":false}"#);
    assert!(gone.status == 409 && gone.text().contains("already used"), "{}", gone.text());
    let bad = format!("{path}x");
    assert_eq!(server.try_ask("GET", &bad, &[], b"").unwrap().error(404), "WF0908");
    let page = server.try_ask("GET", &bad, &[("Accept", "text/html,*/*;q=0.8")], b"").unwrap();
    assert!(page.status == 404 && page.text().contains("unknown callback URL"), "{}", page.text());
}

#[test]
fn a_delivery_that_does_not_fit_is_refused_and_taken_when_the_run_has_code_that_takes_it() {
    let place = Place::new();
    add_told(&place);
    let probe = crate::client::add_probe(&place);
    let config =
        "[webhooks.pushes]\nverify = 'github'\nsecret_env = 'HOOK_SECRET'\nsignal = 'go'\nrun = 'r'\n";
    let server = crate::hooks::serve(&place, config, &[]);
    let go = json!({ "wait": { "name": "go" } });
    server.post("/api/v1/runs", &json!({ "workflow": "told", "input": { "do": [go] }, "id": "r" }));
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    let deliver = || crate::hooks::github(&server, "push", "d", crate::hooks::SECRET, r#"{"ref":"main"}"#);
    for _ in 0..2 {
        let refused = deliver();
        assert_eq!(refused.error(422), "WF0522");
        assert!(
            refused.text().contains("`ok`") || refused.text().contains("\\\"ok\\\""),
            "{}",
            refused.text()
        );
    }
    assert_eq!(place.journal("r").iter().filter(|entry| entry["kind"] == "received").count(), 0);
    // The same program, which does not say what it takes.
    server.post("/api/v1/runs/r/resume", &json!({ "module": probe }));
    eventually("it has the other code", || (server.get("/api/v1/runs/r")["module"] == *probe).then_some(()));
    assert_eq!(deliver().ok()["result"], "taken");
    assert_eq!(deliver().ok()["result"], "taken before");
    let run = server.get("/api/v1/runs/r?wait=30s");
    assert_eq!(run["output"][0]["body"], json!({ "ref": "main" }), "{run}");
    // One that has ended takes nothing, whatever it is.
    server.post("/api/v1/runs", &json!({ "workflow": "told", "input": { "do": [] }, "id": "s" }));
    eventually("its end", || (server.get("/api/v1/runs/s")["state"] == "completed").then_some(()));
    let to_s = config.replace("'r'", "'s'");
    let file = place.file("other.toml", to_s);
    drop(server);
    let server = Server::start_in(&place, &["--config", &file], &[("HOOK_SECRET", crate::hooks::SECRET)]);
    let left = crate::hooks::github(&server, "push", "d", crate::hooks::SECRET, r#"{"ref":"main"}"#).ok();
    assert_eq!(left["result"], "left out", "{left}");
}

#[test]
fn pages_have_fields_for_what_a_workflow_takes() {
    let place = Place::new();
    add_told(&place);
    crate::client::add_probe(&place);
    let server = Server::start(&place, &[]);
    let browser = Browser::new(&server, &server.token);
    let page = browser.page("/ui/start?workflow=told");
    assert!(page.contains("Does &lt;b&gt;what&lt;/b&gt; it is told"), "{page}");
    assert!(
        page.contains("name=\"f.do\"")
            && page.contains("name=\"f.by\"")
            && page.contains("One after the other"),
        "{page}"
    );
    assert!(!browser.page("/ui/start?workflow=probe").contains("name=\"f."));
    let fields = |of: &'static str, told: &'static str| {
        [("workflow", told), ("of", of), ("input", ""), ("f.do", r#"[{"wait":{"name":"go"}}]"#), ("f.by", "")]
    };
    // The workflow was changed, and the fields are those of the other.
    let other = browser.send("/ui/start", &fields("told", "probe"));
    assert!(other.status == 422 && other.text().contains("role=\"alert\""), "{}", other.text());
    let mut bad = fields("told", "told");
    bad[4].1 = "ten letters";
    let refused = browser.send("/ui/start", &bad);
    assert_eq!(refused.status, 422);
    let text = refused.text();
    assert!(
        text.contains("does not match the schema of `told`") && text.contains("value=\"ten letters\""),
        "{text}"
    );
    // The line and what is wrong with it stand in one box, below each other.
    let alert = text.split_once("role=\"alert\"").unwrap().1.split_once("</div>").unwrap().0;
    assert_eq!(alert.matches("<pre").count(), 1, "{alert}");
    let (line, below) = alert.split_once("</pre>").unwrap().0.split_once('\n').unwrap();
    assert!(line.contains("ten letters") && below.contains("^^^^"), "{alert}");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    let run = browser.act("/ui/start", &fields("told", "told"));
    let path = run.split('?').next().unwrap().to_owned();
    eventually("it waits", || browser.page(&path).contains("Lets it go on").then_some(()));
    let page = browser.page(&path);
    assert!(page.contains("name=\"f.ok\"") && page.contains("name=\"f.n\""), "{page}");
    let signal = format!("{path}/signal");
    // What was filled in is still there, above it what is wrong.
    let refused = browser.send(&signal, &[("name", "go"), ("payload", "[12345]")]);
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains(">[12345]</textarea>") && text.contains("role=\"alert\""), "{text}");
    let refused = browser.send(&signal, &[("name", "go"), ("fields", "1"), ("f.n", "many")]);
    let text = refused.text();
    assert_eq!(refused.status, 422, "{text}");
    assert!(text.contains("value=\"many\"") && text.contains("`n` has to be a number"), "{text}");
    browser.act(&signal, &[("name", "go"), ("fields", "1"), ("f.ok", "true"), ("f.n", "3")]);
    let id = path.strip_prefix("/ui/runs/").unwrap();
    let run = server.get(&format!("/api/v1/runs/{id}?wait=30s"));
    assert_eq!(run["output"], json!([{ "ok": true, "n": 3 }]), "{run}");
}

#[test]
fn models_are_told_what_each_workflow_takes() {
    let place = Place::new();
    add_told(&place);
    let mut client = Client::stdio(&place, &["--workflows"], None);
    let tools = client.ok("tools/list", json!({}));
    let tool =
        tools["tools"].as_array().unwrap().iter().find(|tool| tool["name"] == "workflow_run_told").unwrap();
    assert!(tool["description"].as_str().unwrap().contains("Does <b>what</b> it is told"), "{tool}");
    let input = &tool["inputSchema"]["properties"]["input"];
    assert_eq!(input["required"], json!(["do"]));
    assert_eq!(input["properties"]["do"]["items"], json!({ "$ref": "#/properties/input/$defs/step" }));
    assert_eq!(tool["inputSchema"]["required"], json!(["input"]));
    let refused = client.call("workflow_run_told", json!({ "input": { "do": [1] } }));
    assert_eq!(
        (&refused["isError"], &refused["structuredContent"]["code"]),
        (&json!(true), &json!("WF0521"))
    );
    assert!(refused["content"][0]["text"].as_str().unwrap().contains("1 is not of type"), "{refused}");
    let done = client.call("workflow_run_told", json!({ "input": { "do": [{ "agent": "x" }] } }));
    assert_eq!(done["structuredContent"]["output"], json!(["x"]), "{done}");
}
