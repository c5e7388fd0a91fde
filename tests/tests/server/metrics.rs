//! Figures for Prometheus, and the log as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually};

use crate::client::{Answer, Server, add_probe, token};

/// The samples of a text, by name with labels. Each line is checked to be of the format.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut helped, mut types) = (BTreeSet::new(), BTreeMap::new());
    let mut samples = BTreeMap::new();
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with('_')
    };
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(is_name(name) && !help.is_empty() && helped.insert(name.to_owned()), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind) && helped.contains(name), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            types.insert(name.to_owned(), kind.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let suffixes = ["_bucket", "_sum", "_count"].into_iter();
            let base =
                suffixes.filter_map(|suffix| name.strip_suffix(suffix)).find(|b| types.contains_key(*b));
            assert_eq!(types.contains_key(name), base.is_none(), "{line}");
            if let Some((_, labels)) = series.split_once('{') {
                assert!(labels.ends_with("\"}"), "{line}");
            }
            assert!(
                !["\"run_", "\"r\"", "\"done\""].iter().any(|run| series.contains(run)),
                "no run is a label: {line}"
            );
            let value = value.parse().expect("a number");
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

/// What promtool says, where it is there.
fn check_by_promtool(text: &str) {
    let Ok(mut tool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return;
    };
    tool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let checked = tool.wait_with_output().expect("it ends");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// The answer with the figures once they are these: they are written after the commit that they are about.
#[track_caller]
fn settled(server: &Server, expected: &[(&str, f64)]) -> Answer {
    let others = |found: &BTreeMap<String, f64>| {
        let others = expected.iter().filter(|(name, value)| found.get(*name) != Some(value));
        others
            .map(|(name, value)| format!("{name} is {:?}, not {value}", found.get(*name)))
            .collect::<Vec<_>>()
    };
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = server.ask("GET", "/metrics", None);
        let others = others(&samples(&answer.text()));
        if others.is_empty() {
            return answer;
        }
        assert!(Instant::now() < patience, "{others:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn figures_tell_what_the_process_did_and_what_the_database_holds() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    add_probe(&place);
    let runs = [
        ("done", json!({ "do": [{ "agent": "hi" }, { "sleep": 1 }, { "agent": "you" }] })),
        ("fails", json!({ "do": [{ "agent_or_fail": { "prompt": "x", "providers": ["nobody"] } }] })),
        ("asks", json!({ "do": [{ "ask": { "prompt": "may I?" } }] })),
        ("waits", json!({ "do": [{ "wait": { "name": "go" } }, { "agent": "later" }] })),
    ];
    for (id, input) in &runs {
        server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": id, "input": input }));
    }
    server.get("/api/v1/runs/done?wait=30s");
    eventually("it is parked", || {
        let run = server.get("/api/v1/runs/waits");
        (run["state"] == "waiting" && server.get("/api/v1/runs/asks")["state"] == "waiting").then_some(())
    });
    server.post("/api/v1/runs/waits/signals/go", &json!(1));
    assert_eq!(server.get("/api/v1/runs/waits?wait=30s")["state"], "completed");

    // `fails` asks for a provider that is not here: it waits for a host that has it.
    settled(&server, &[("wfhost_drives_total{end=\"handed-over\"}", 1.0)]);
    let entries: u64 = runs
        .iter()
        .map(|(id, _)| server.get(&format!("/api/v1/runs/{id}"))["entries"].as_u64().unwrap())
        .sum();
    let answer = settled(
        &server,
        &[
            ("wfhost_runs_started_total{workflow=\"probe\"}", 4.0),
            ("wfhost_runs_ended_total{workflow=\"probe\",state=\"completed\"}", 2.0),
            ("wfhost_run_duration_seconds_count{workflow=\"probe\"}", 2.0),
            ("wfhost_steps_total{kind=\"agent\",outcome=\"completed\"}", 3.0),
            ("wfhost_steps_total{kind=\"sleep\",outcome=\"completed\"}", 1.0),
            ("wfhost_steps_total{kind=\"signal\",outcome=\"completed\"}", 1.0),
            ("wfhost_signals_total{outcome=\"posted\"}", 1.0),
            ("wfhost_signals_total{outcome=\"received\"}", 1.0),
            ("wfhost_attempts_total{provider=\"echo\",outcome=\"answered\"}", 3.0),
            ("wfhost_attempt_duration_seconds_count{provider=\"echo\",model=\"unknown\"}", 3.0),
            ("wfhost_calls_in_flight{provider=\"echo\"}", 0.0),
            ("wfhost_runs{state=\"completed\"}", 2.0),
            ("wfhost_questions_open", 1.0),
            ("wfhost_database_up", 1.0),
            ("wfhost_run_queue_seconds_count", 4.0),
            ("wfhost_drives_total{end=\"handed-over\"}", 1.0),
            // Those of creations are no appends.
            ("wfhost_entries_total", (entries - 4) as f64),
            ("wfhost_http_requests_total{route=\"/api/v1/runs\",status=\"201\"}", 4.0),
        ],
    );
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let text = answer.text();
    check_by_promtool(&text);
    let found = samples(&text);
    let get = |name: &str| found.get(name).copied().unwrap_or_else(|| panic!("no {name}\n{text}"));
    assert!(get("wfhost_parked_total") >= 2.0);
    assert!(get("wfhost_database_bytes") > 4_096.0);
    // The parked one was repeated: what it had until then.
    assert!(get("wfhost_replayed_entries_total") >= 2.0);
    assert!(get("wfhost_commits_total") > 4.0);

    // Who asks for OpenMetrics gets that.
    let bearer = format!("Bearer {}", server.token);
    let headers =
        [("Authorization", bearer.as_str()), ("Accept", "application/openmetrics-text;version=1.0.0")];
    let open = server.try_ask("GET", "/metrics", &headers, b"").unwrap();
    assert!(open.text().ends_with("# EOF\n") && open.head.contains("application/openmetrics-text"));
}

#[test]
fn figures_need_their_scope_and_are_free_at_their_own_address() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    assert_eq!(server.try_ask("GET", "/metrics", &[], b"").unwrap().status, 401);
    let token = |scope: &str| token(&place, scope, scope);
    assert_eq!(server.ask_as(&token("runs:read"), "GET", "/metrics", None).status, 403);
    assert_eq!(server.ask_as(&token("metrics:read"), "GET", "/metrics", None).status, 200);
    assert!(server.stop().stderr().contains("Serving"));

    let port = wfhost_tests::free_port();
    let address = format!("127.0.0.1:{port}");
    let child = place.spawn(["serve", "--listen", "off", "--metrics", &address]);
    let read = |path: &str| {
        let mut stream = TcpStream::connect(&address).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: anybody\r\nConnection: close\r\n\r\n").ok()?;
        Answer::read(stream).ok()
    };
    let answer = eventually("figures", || read("/metrics"));
    assert_eq!(answer.status, 200);
    samples(&answer.text());
    // Nothing else is there.
    assert_eq!(read("/api/v1/runs").unwrap().status, 404);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    let ran = wfhost_tests::finish(child);
    assert!(ran.stderr().contains(&format!("http://{address}/metrics")), "{}", ran.stderr());
    assert!(ran.stderr().contains("without a token"), "{}", ran.stderr());
}

#[test]
fn who_takes_a_run_over_counts_what_it_repeats() {
    let place = Place::new();
    // The call goes on until it is told to end: the first host is killed while it waits for that.
    let go = place.path("go").display().to_string();
    let script = format!("while [ ! -e {go} ]; do sleep 0.02; done; echo done");
    let config = format!("[providers.slow]\nkind = 'command'\nargv = ['sh', '-c', '{script}']\n");
    let file = place.file("wfhost.toml", config);
    let server = Server::start(&place, &["--config", &file]);
    add_probe(&place);
    let slow = json!({ "agent_of": { "provider": "slow", "prompt": "x" } });
    let input = json!({ "do": [{ "agent": "a" }, { "agent": "b" }, slow, { "agent": "c" }] });
    server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": "r", "input": input }));
    eventually("it works", || (server.get("/api/v1/runs/r")["entries"].as_u64() >= Some(6)).then_some(()));
    server.kill();
    let next = Server::start(&place, &["--config", &file]);
    std::fs::write(&go, "").unwrap();
    assert_eq!(next.get("/api/v1/runs/r?wait=30s")["state"], "completed");
    let expected = [
        ("wfhost_takeovers_total{why=\"dead\"}", 1.0),
        ("wfhost_replayed_entries_total", 6.0),
        // What was done before was done by another one; the call that was lost ends here, and the last one.
        ("wfhost_steps_total{kind=\"agent\",outcome=\"completed\"}", 2.0),
    ];
    let found = samples(&settled(&next, &expected).text());
    assert!(!found.contains_key("wfhost_runs_started_total{workflow=\"probe\"}"));
}

#[test]
fn the_log_as_json_tells_runs_and_steps_and_no_payloads() {
    let place = Place::new();
    let server = Server::start(&place, &["--log-format", "json", "-v"]);
    add_probe(&place);
    let input = json!({ "do": [{ "agent": "the secret prompt" }] });
    server.post("/api/v1/runs", &json!({ "workflow": "probe", "id": "r", "input": input }));
    assert_eq!(server.get("/api/v1/runs/r?wait=30s")["state"], "completed");
    let said = server.stop().stderr();
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert!(!said.contains("secret prompt") && !said.contains("code="), "{said}");
    let of = |event: &str| {
        let found = lines.iter().find(|line| line["event"] == event);
        found.unwrap_or_else(|| panic!("no {event}: {said}"))
    };
    assert_eq!((&of("run-created")["run"], &of("run-created")["level"]), (&json!("r"), &json!("info")));
    assert_eq!(of("run-ended")["state"], "completed");
    let step = of("step-ended");
    assert_eq!((&step["run"], &step["step"], &step["kind"]), (&json!("r"), &json!(1), &json!("agent")));
    assert_eq!(of("attempt-ended")["outcome"], "answered");
    assert!(of("serving")["message"].as_str().is_some_and(|text| text.contains("wfhost.db")));
    for line in &lines {
        assert!(line["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
    }
}
