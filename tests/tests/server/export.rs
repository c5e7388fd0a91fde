//! A server sends spans as they end, and loses none: whoever dies, and however long the collector is away.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually};

use crate::client::{Server, add_probe};
use crate::receiver::Receiver;

/// The spans that were taken, by trace and id, with how often each was. One that comes again is the same.
fn spans(receiver: &Receiver) -> BTreeMap<(String, String), (Value, usize)> {
    let mut found: BTreeMap<(String, String), (Value, usize)> = BTreeMap::new();
    for got in receiver.got().into_iter().filter(|got| got.status == 200) {
        assert_eq!(got.path, "/v1/traces");
        for span in got.json()["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans") {
            let id = |name: &str| span[name].as_str().expect("an id").to_owned();
            let known = found.entry((id("traceId"), id("spanId"))).or_insert_with(|| (span.clone(), 0));
            assert_eq!(known.0, *span, "what comes again is the same");
            known.1 += 1;
        }
    }
    found
}

/// The spans of a run as `wfhost trace` has them now, by trace and id.
fn told(place: &Place, run: &str) -> BTreeMap<(String, String), Value> {
    let trace = place.run(["trace", run, "-o", "json"]).ok_json();
    let spans = trace["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans").clone();
    let id = |span: &Value, name: &str| span[name].as_str().expect("an id").to_owned();
    spans.into_iter().map(|span| ((id(&span, "traceId"), id(&span, "spanId")), span)).collect()
}

fn place() -> Place {
    let place = Place::new();
    add_probe(&place);
    place
}

fn serve(place: &Place, receiver: &Receiver) -> Server {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_SERVICE_NAME", "reviews"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=red"),
    ];
    Server::start_in(place, &[], &variables)
}

fn start(server: &Server, id: &str, operations: Value) {
    server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": id, "input": { "do": operations } }));
}

/// Waits until all spans of a run came as they are.
#[track_caller]
fn all_came(place: &Place, receiver: &Receiver, run: &str) {
    let wanted = told(place, run);
    eventually("all spans come", || {
        let came = spans(receiver);
        let all = wanted.iter().all(|(id, span)| came.get(id).is_some_and(|(came, _)| came == span));
        all.then_some(())
    });
}

#[test]
fn spans_come_as_they_end_each_once_with_what_belongs_to_them() {
    let receiver = Receiver::start();
    let place = place();
    let server = serve(&place, &receiver);
    let child = json!({ "module": "probe", "input": { "do": [{ "agent": "the secret of the child" }] } });
    start(
        &server,
        "r",
        json!([{ "agent": "x" }, { "child": child }, { "wait": { "name": "go" } }, { "agent": "y" }]),
    );
    // While it waits, what ended is there, and above it its root; what is open is not.
    eventually("the first step comes", || {
        let came = spans(&receiver);
        let names: BTreeSet<_> = came.values().filter_map(|(span, _)| span["name"].as_str()).collect();
        (names.contains("child probe")).then_some(())
    });
    let came = spans(&receiver);
    assert!(came.values().any(|(span, _)| span["name"] == "start probe"));
    assert!(!came.values().any(|(span, _)| span["name"] == "wait_for_signal go"));
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    assert_eq!(server.get("/api/v1/runs/r?wait=30s")["state"], "completed");
    for run in ["r", "r.2"] {
        all_came(&place, &receiver, run);
    }
    assert_eq!(server.stop().code(), Some(143));
    let came = spans(&receiver);
    assert!(came.values().all(|(_, times)| *times == 1), "each came once: {came:?}");
    assert_eq!(came.len(), told(&place, "r").len() + told(&place, "r.2").len(), "and nothing else");
    // Each has its parent, which came too.
    for ((trace, id), (span, _)) in &came {
        if let Some(parent) = span["parentSpanId"].as_str() {
            assert!(came.contains_key(&(trace.clone(), parent.to_owned())), "{id} {span}");
        }
    }
    let first = &receiver.got()[0];
    assert_eq!(first.header("x-team"), "red");
    assert!(
        first.body.contains("reviews") && !receiver.got().iter().any(|got| got.body.contains("the secret"))
    );
    // Nothing is told again by the next one.
    let before = receiver.got().len();
    let server = serve(&place, &receiver);
    start(&server, "next", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "next");
    let came: BTreeSet<String> = receiver.got()[before..]
        .iter()
        .flat_map(|got| {
            got.json()["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().expect("spans")
        })
        .map(|span| span["traceId"].to_string())
        .collect();
    assert_eq!(came.len(), 1, "{came:?}");
}

#[test]
fn a_collector_that_is_away_and_hosts_that_are_killed_lose_nothing() {
    let receiver = Receiver::start();
    let place = place();
    receiver.always(Some((503, "")));
    // What is under way when the first collector comes is told from its beginning.
    let early = Server::start(&place, &[]);
    start(&early, "early", json!([{ "agent": "x" }, { "wait": { "name": "go" } }]));
    start(&early, "over", json!([{ "agent": "x" }]));
    assert_eq!(early.get("/api/v1/runs/over?wait=30s")["state"], "completed");
    early.kill();
    let server = serve(&place, &receiver);
    eventually("it is tried", || (!receiver.got().is_empty()).then_some(()));
    receiver.always(None);
    eventually("it is taken", || (spans(&receiver).len() >= 3).then_some(()));
    receiver.always(Some((503, "")));
    for n in 0..5 {
        start(&server, &format!("r{n}"), json!([{ "agent": "x" }, { "agent": "y" }]));
    }
    server.get("/api/v1/runs/r4?wait=30s");
    server.kill();
    // One that dies as the collector takes it: it may come twice, and is the same.
    let server = serve(&place, &receiver);
    receiver.always(None);
    server.kill();
    let server = serve(&place, &receiver);
    server.post("/api/v1/runs/early/signals/go", &json!(1));
    assert_eq!(server.get("/api/v1/runs/early?wait=30s")["state"], "completed");
    for run in ["early", "r0", "r1", "r2", "r3", "r4"] {
        all_came(&place, &receiver, run);
    }
    // What had ended before anybody was told is not.
    let over = told(&place, "over");
    assert!(spans(&receiver).keys().all(|id| !over.contains_key(id)));
    let figures = server.ask("GET", "/metrics", None).text();
    assert!(figures.contains("wfhost_spans_total{outcome=\"sent\"}"), "{figures}");
}

/// What was under way when the first collector came is told from its beginning, also if whoever noticed that it had come
/// dies before the collector takes anything.
#[test]
fn what_was_under_way_when_the_first_collector_came_is_told_whoever_dies_meanwhile() {
    let receiver = Receiver::start();
    let place = place();
    receiver.always(Some((503, "")));
    let early = Server::start(&place, &[]);
    start(&early, "goes-on", json!([{ "agent": "x" }, { "wait": { "name": "go" } }]));
    start(&early, "ends", json!([{ "agent": "x" }, { "wait": { "name": "go" } }]));
    eventually("both wait", || {
        let runs = early.get("/api/v1/runs?state=waiting");
        (runs["runs"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    early.kill();
    // The first host with a collector: it is tried, and takes nothing. One of the runs ends meanwhile.
    let first = serve(&place, &receiver);
    eventually("it is tried", || (!receiver.got().is_empty()).then_some(()));
    first.post("/api/v1/runs/ends/signals/go", &json!(1));
    assert_eq!(first.get("/api/v1/runs/ends?wait=30s")["state"], "completed");
    first.kill();
    receiver.forget();
    receiver.always(None);
    let second = serve(&place, &receiver);
    all_came(&place, &receiver, "ends");
    second.post("/api/v1/runs/goes-on/signals/go", &json!(1));
    assert_eq!(second.get("/api/v1/runs/goes-on?wait=30s")["state"], "completed");
    all_came(&place, &receiver, "goes-on");
    // From then on what was told is not told again.
    assert_eq!(second.stop().code(), Some(143));
    let told = receiver.got().len();
    let third = serve(&place, &receiver);
    start(&third, "new", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "new");
    let again = receiver.got()[told..].iter().any(|got| got.body.contains("goes-on"));
    assert!(!again, "what was told is not told again");
}

/// A collector keeps the first of two spans with one id: what a retry does is told by others.
#[test]
fn a_step_that_a_retry_takes_up_again_is_told_by_another_span() {
    let receiver = Receiver::start();
    let place = place();
    let server = serve(&place, &receiver);
    start(&server, "first", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "first");
    let fails =
        json!({ "match": "flaky", "reply": "well", "fail": { "times": 1_000, "kind": "unavailable" } });
    let script = place.script(json!({ "rules": [fails], "default": { "reply": "ok" } }));
    let once = json!({ "agent_or_fail": { "prompt": "flaky", "retry": { "max_attempts": 1 } } });
    let input = json!({ "do": [{ "agent": "before" }, once] }).to_string();
    let probe = wfhost_tests::module("probe");
    let ran = place.run(["run", &probe, "-i", &input, "--id", "r", "--agents", &script]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr());
    all_came(&place, &receiver, "r");
    let before = told(&place, "r");
    // Another server goes on, which knows nothing of the run.
    assert_eq!(server.stop().code(), Some(143));
    let _server = serve(&place, &receiver);
    let script = place.script(json!({ "default": { "reply": "ok" } }));
    assert_eq!(place.run(["retry", "r", "--agents", &script]).code(), Some(0));
    all_came(&place, &receiver, "r");
    let after = told(&place, "r");
    assert!(before.iter().all(|(id, span)| after.get(id) == Some(span)), "what was told stands");
    let of = |spans: &BTreeMap<(String, String), Value>, name: &str| {
        let named = spans.values().filter(|span| span["name"] == name).cloned();
        named.collect::<Vec<_>>()
    };
    let steps = of(&after, "agent");
    assert_eq!((of(&before, "agent").len(), steps.len()), (2, 3), "one is told twice: {after:?}");
    let again =
        steps.iter().find(|span| span["links"][0]["attributes"][0]["value"]["stringValue"] == "retry-of");
    let again = again.expect("a span that says of which it is a retry");
    let first = &after[&(
        again["traceId"].as_str().unwrap().to_owned(),
        again["links"][0]["spanId"].as_str().unwrap().to_owned(),
    )];
    assert_eq!((&first["parentSpanId"], &first["name"]), (&again["parentSpanId"], &again["name"]));
    assert_eq!((&first["status"]["code"], &again["status"]["code"]), (&json!(2), &Value::Null));
    let came = spans(&receiver);
    assert!(after.keys().all(|id| came[id].1 == 1), "each came once: {came:?}");
}

#[test]
fn a_run_of_days_is_told_like_others() {
    let receiver = Receiver::start();
    let place = place();
    let server = serve(&place, &receiver);
    start(&server, "first", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "first");
    const DAYS: u64 = 3 * 86_400_000;
    let input = json!({ "do": [{ "agent": "before" }, { "sleep": DAYS }, { "agent": "after" }] }).to_string();
    let probe = wfhost_tests::module("probe");
    let ran = place.run(["run", &probe, "--agent", "echo", "--virtual-time", "--id", "long", "-i", &input]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    all_came(&place, &receiver, "long");
    let spans = told(&place, "long");
    let length = |name: &str| {
        let span = spans.values().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        let nanos = |name: &str| span[name].as_str().expect("a time").parse::<u64>().expect("a number");
        (nanos("endTimeUnixNano") - nanos("startTimeUnixNano")) / 1_000_000
    };
    assert!(length("sleep") >= DAYS && length("invoke_workflow probe") >= DAYS, "{spans:?}");
    assert_eq!(length("start probe"), 0, "what is above all others was there at once");
}

#[test]
fn of_several_hosts_one_sends_and_what_a_collector_does_not_want_holds_up_nothing() {
    let receiver = Receiver::start();
    let place = place();
    let servers = [serve(&place, &receiver), serve(&place, &receiver)];
    start(&servers[0], "a", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "a");
    // One span that it does not want takes no other one with it, and is not tried for ever.
    receiver.refuse("wait_for_signal unwanted", (400, ""));
    let mut operations = vec![json!({ "agent": "x" }); 60];
    operations.push(json!({ "wait": { "name": "unwanted" } }));
    operations.extend(vec![json!({ "agent": "y" }); 60]);
    start(&servers[1], "bad", json!(operations));
    servers[1].post("/api/v1/runs/bad/signals/unwanted", &json!(1));
    assert_eq!(servers[1].get("/api/v1/runs/bad?wait=60s")["state"], "completed");
    start(&servers[1], "b", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "b");
    let unwanted = |span: &Value| span["name"] == "wait_for_signal unwanted";
    let wanted: BTreeSet<_> =
        told(&place, "bad").into_iter().filter(|(_, span)| !unwanted(span)).map(|(id, _)| id).collect();
    assert!(wanted.len() > 200, "{}", wanted.len());
    eventually("all others come", || {
        let came: BTreeSet<_> = spans(&receiver).into_keys().collect();
        wanted.is_subset(&came).then_some(())
    });
    let rejected = |server: &Server| {
        let figures = server.ask("GET", "/metrics", None).text();
        figures.contains("wfhost_spans_total{outcome=\"rejected\"} 1\n")
    };
    eventually("the one is counted", || servers.iter().any(rejected).then_some(()));
    // The other one goes on, once the first one has left.
    let [one, two] = servers;
    assert_eq!(one.stop().code(), Some(143));
    start(&two, "c", json!([{ "agent": "x" }]));
    all_came(&place, &receiver, "c");
    // Where one takes over from the other, spans may come twice; if both sent, all would.
    let came = spans(&receiver);
    let twice = came.values().filter(|(_, times)| *times > 1).count();
    assert!(2 * twice < came.len(), "{came:?}");
}

#[test]
fn a_run_links_to_the_span_of_who_asked_for_it() {
    let place = place();
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = Server::start(&place, &[]);
    let body = json!({ "workflow": "probe", "id": "api", "input": { "do": [{ "agent": "x" }] } }).to_string();
    let bearer = format!("Bearer {}", server.token);
    let ask = |id: &str, traceparent: &str| {
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
            ("traceparent", traceparent),
        ];
        let body = body.replace("\"api\"", &format!("\"{id}\""));
        server.try_ask("POST", "/api/v1/runs", &headers, body.as_bytes()).expect("an answer").status
    };
    assert_eq!((ask("api", caller), ask("none", "nonsense")), (201, 201));
    let input = json!({ "do": [{ "child": { "module": "probe", "input": { "do": [] } } }] }).to_string();
    let probe = wfhost_tests::module("probe");
    let ran = place.run(["run", &probe, "--id", "flag", "--traceparent", caller, "-i", &input]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
    let mut command = place.wfhost(["run", &probe, "--id", "variable", "-i", &input]);
    assert!(command.env("TRACEPARENT", caller).output().expect("it starts").status.success());
    let links = |run: &str| {
        let trace = place.run(["trace", run, "-o", "json"]).ok_json();
        let root = trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone();
        let callers = root["links"]
            .as_array()
            .expect("links")
            .iter()
            .filter(|link| link["attributes"][0]["value"]["stringValue"] == "caller");
        callers.map(|link| (link["traceId"].clone(), link["spanId"].clone())).collect::<Vec<_>>()
    };
    let expected = vec![(json!("0af7651916cd43dd8448eb211c80319c"), json!("b7ad6b7169203331"))];
    for run in ["api", "flag", "variable"] {
        assert_eq!(links(run), expected, "{run}");
    }
    // What a run begins was not asked for by its caller.
    assert_eq!((links("none"), links("flag.1")), (Vec::new(), Vec::new()));
    let refused = place.run(["run", &probe, "--traceparent", "x", "-i", &input]);
    assert_eq!(refused.code(), Some(2), "{}", refused.stderr());
}
