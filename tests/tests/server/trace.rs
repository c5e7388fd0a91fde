//! Runs as traces: the same whenever they are made.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually};

use crate::client::{Server, add_probe};

/// The spans of a trace in the JSON of OTLP, by id. Each is checked to be whole, and below another one.
fn spans(otlp: &Value) -> BTreeMap<String, Value> {
    let told = otlp["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans");
    let mut spans = BTreeMap::new();
    for span in told {
        let id = span["spanId"].as_str().expect("an id").to_owned();
        assert_eq!((id.len(), span["traceId"].as_str().map(str::len)), (16, Some(32)), "{span}");
        assert_eq!(span["traceId"], told[0]["traceId"]);
        let nanos = |name: &str| span[name].as_str().expect("nanoseconds").parse::<u64>().expect("a number");
        assert!(nanos("startTimeUnixNano") <= nanos("endTimeUnixNano"), "{span}");
        match span["parentSpanId"].as_str() {
            Some(parent) => assert!(spans.contains_key(parent), "its parent comes before it: {span}"),
            None => assert!(spans.is_empty(), "one has no parent: {span}"),
        }
        assert!(spans.insert(id, span.clone()).is_none(), "an id is used once: {span}");
    }
    spans
}

fn trace(place: &Place, run: &str, more: &[&str]) -> Value {
    let ran = place.run(["trace", run, "-o", "json"].into_iter().chain(more.iter().copied()));
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    serde_json::from_str(&ran.stdout()).expect("JSON")
}

fn attribute<'a>(span: &'a Value, name: &str) -> Option<&'a Value> {
    let attributes = span["attributes"].as_array().expect("attributes").iter();
    let value = attributes.filter(|one| one["key"] == name).map(|one| &one["value"]).next()?;
    value.as_object()?.values().next()
}

fn named<'a>(spans: &'a BTreeMap<String, Value>, name: &str) -> Vec<&'a Value> {
    spans.values().filter(|span| span["name"] == name).collect()
}

#[test]
fn a_trace_is_the_same_each_time_also_when_its_host_was_killed() {
    let place = Place::new();
    add_probe(&place);
    let input = json!({ "do": [
        { "agent": "the first prompt" }, { "sleep": 1_000 }, { "wait": { "name": "go" } },
        { "child": { "module": "probe", "input": { "do": [{ "agent": "of the child" }] } } }, { "agent": "last" },
    ] });
    let server = Server::start(&place, &[]);
    server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": "r", "input": input }));
    eventually("it sleeps", || (server.get("/api/v1/runs/r")["entries"].as_u64() >= Some(4)).then_some(()));
    server.kill();
    let early = spans(&trace(&place, "r", &[]));
    let server = Server::start(&place, &[]);
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    assert_eq!(server.get("/api/v1/runs/r?wait=30s")["state"], "completed");
    let whole = trace(&place, "r", &[]);
    assert_eq!(whole, trace(&place, "r", &[]), "twice the same");
    let found = spans(&whole);
    // What was told before is told again under the same ids.
    for (id, span) in &early {
        assert_eq!(found[id]["name"], span["name"]);
        assert_eq!(found[id]["startTimeUnixNano"], span["startTimeUnixNano"]);
    }
    for (name, count) in [
        ("start probe", 1),
        ("invoke_workflow probe", 1),
        ("agent", 2),
        ("invoke_agent echo", 2),
        ("sleep", 1),
        ("wait_for_signal go", 1),
        ("child probe", 1),
    ] {
        assert_eq!(named(&found, name).len(), count, "{name}: {:?}", found.values());
    }
    let attempt = named(&found, "invoke_agent echo")[0];
    assert_eq!(attribute(attempt, "gen_ai.operation.name"), Some(&json!("invoke_agent")));
    assert_eq!((&attempt["kind"], attribute(attempt, "wfhost.attempt")), (&json!(3), Some(&json!("1"))));
    let workflow = named(&found, "invoke_workflow probe")[0];
    assert_eq!(attribute(workflow, "wfhost.state"), Some(&json!("completed")));
    // Nothing of what it works on, unless that is asked for.
    assert!(!whole.to_string().contains("the first prompt"));
    assert!(trace(&place, "r", &["--content"]).to_string().contains("the first prompt"));
    // The child has a trace of its own, and both say so.
    let child = trace(&place, "r.4", &[]);
    let link = &child["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["links"][0];
    let step = named(&found, "child probe")[0];
    assert_eq!((&link["traceId"], &link["spanId"]), (&step["traceId"], &step["spanId"]), "{child}");
    let root = &child["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(
        (&step["links"][0]["traceId"], &step["links"][0]["spanId"]),
        (&root["traceId"], &root["spanId"])
    );
    let text = place.run(["trace", "r"]).stdout();
    assert!(text.starts_with("trace ") && text.contains("    invoke_agent echo"), "{text}");
}

#[test]
fn attempts_and_the_delays_between_them_are_spans_and_programs_are_told_theirs() {
    let place = Place::new();
    add_probe(&place);
    let config = "[providers.tells]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \
        \"if [ $WFHOST_ATTEMPT = 1 ]; then exit 1; fi; printf %s $TRACEPARENT\"]\n";
    let file = place.file("wfhost.toml", config);
    let request = json!({ "prompt": "x", "providers": ["tells"], "retry": {
        "max_attempts": 3, "initial": 50, "factor": 1.0, "max": 50, "jitter": 0.0, "fatal": [],
    } });
    let input = json!({ "do": [{ "agent_with": request }] }).to_string();
    let ran =
        place.run(["run", &wfhost_tests::module("probe"), "--id", "r", "--config", &file, "-i", &input]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let found = spans(&trace(&place, "r", &[]));
    let mut attempts = named(&found, "invoke_agent tells");
    attempts.sort_by_key(|span| attribute(span, "wfhost.attempt").cloned().unwrap().to_string());
    assert_eq!(attempts.len(), 2, "{found:?}");
    assert_eq!(
        (&attempts[0]["status"]["code"], attribute(attempts[0], "error.type")),
        (&json!(2), Some(&json!("failed")))
    );
    assert_eq!(named(&found, "retry_delay").len(), 1);
    // The program's own spans hang below its attempt.
    let told = format!(
        "00-{}-{}-01",
        attempts[1]["traceId"].as_str().unwrap(),
        attempts[1]["spanId"].as_str().unwrap()
    );
    assert!(ran.stdout().contains(&told), "{told}: {}", ran.stdout());
}

#[test]
fn a_trace_is_sent_to_a_collector_and_a_refusal_is_told() {
    let place = Place::new();
    let input = json!({ "do": [{ "agent": "x" }] }).to_string();
    let ran =
        place.run(["run", &wfhost_tests::module("probe"), "--id", "r", "--agent", "echo", "-i", &input]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", collector.local_addr().unwrap());
    let answers = std::thread::spawn(move || {
        let statuses = ["200 OK", "503 Service Unavailable"];
        statuses.map(|status| {
            let (mut stream, _) = collector.accept().unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 65_536];
            loop {
                let read = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
                let whole = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
                let length = head.to_ascii_lowercase();
                let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                if body.len() >= length.and_then(|text| text.parse().ok()).unwrap_or(0) {
                    let answer =
                        format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy");
                    stream.write_all(answer.as_bytes()).unwrap();
                    return (head.to_owned(), serde_json::from_str::<Value>(body).expect("JSON"));
                }
            }
        })
    });
    let mut command = place.wfhost(["trace", "r", "--otlp"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &address).env("OTEL_SERVICE_NAME", "reviews");
    let sent = command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-team=red").output().unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let refused = place.run(["trace", "r", "--otlp", &address]);
    assert_eq!(refused.code(), Some(4), "{}", refused.stderr());
    assert!(refused.stderr().contains("WF0824") && refused.stderr().contains("503"), "{}", refused.stderr());
    let [(head, first), (_, second)] = answers.join().unwrap();
    assert!(head.starts_with("POST /v1/traces") && head.contains("x-team: red"), "{head}");
    assert!(first["resourceSpans"][0]["resource"].to_string().contains("reviews"), "{first}");
    assert_eq!(spans(&first).keys().collect::<Vec<_>>(), spans(&second).keys().collect::<Vec<_>>());
}

/// A collector keeps the first of two spans with one id.
#[test]
fn a_run_that_ends_again_after_a_retry_has_another_span() {
    let place = Place::new();
    let fails =
        json!({ "match": "flaky", "reply": "well", "fail": { "times": 1_000, "kind": "unavailable" } });
    let script = place.script(json!({ "rules": [fails] }));
    let once = json!({ "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } });
    let (module, input) = (wfhost_tests::module("probe"), json!({ "do": [once] }).to_string());
    let ran = place.run(["run", &module, "-i", &input, "--id", "r", "--agents", &script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    let whole = || {
        let trace = place.run(["trace", "r", "-o", "json"]).ok_json();
        let spans = trace["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
        let whole = spans.iter().filter(|span| span["name"] == "invoke_workflow probe");
        whole.map(|span| span["spanId"].clone()).collect::<Vec<_>>()
    };
    let first = whole();
    assert_eq!(first.len(), 1, "{first:?}");
    let script = place.script(json!({ "default": { "reply": "ok" } }));
    assert_eq!(place.run(["retry", "r", "--agents", &script]).code(), Some(0));
    let both = whole();
    assert_eq!((both.len(), &both[0]), (2, &first[0]), "{both:?}");
    assert_ne!(both[1], first[0]);
}
