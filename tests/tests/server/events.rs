//! Events: none is lost and none comes twice, whatever dies.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually, only_for_files};

use crate::client::{Event, Server, add_probe, program, token};

/// The entries among events, as the command line shows them.
fn entries(events: &[Event]) -> Vec<Value> {
    events.iter().filter(|event| event.event == "entry").map(|event| event.data.clone()).collect()
}

#[test]
fn a_stream_tells_a_run_to_its_end_and_goes_on_behind_any_event() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "agent": "a" }, { "agent": "b" }, { "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    let stream = server.stream(&server.token, "/api/v1/runs/r/events", None);
    let (mut told, mut sent) = (Vec::new(), false);
    for event in stream {
        let waits = event.event == "run" && event.data["state"] == "waiting";
        told.push(event);
        // It may say so more than once.
        if waits && !std::mem::replace(&mut sent, true) {
            server.post("/api/v1/runs/r/signals/go", &json!(1));
        }
    }
    assert_eq!(told.last().unwrap().event, "end");
    let listed = place.run(["events", "r", "-o", "jsonl"]).stdout();
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries(&told), listed);
    // From behind each event what is left comes, whoever is asked.
    for (index, event) in told.iter().enumerate().filter(|(_, event)| event.event == "entry") {
        let rest: Vec<_> = server.stream(&server.token, "/api/v1/runs/r/events", Some(&event.id)).collect();
        assert_eq!(entries(&rest), entries(&told[index + 1..]), "behind {}", event.id);
    }
    // What cannot be read in the header is as if it was not sent; in the query it is a mistake.
    let all: Vec<_> = server.stream(&server.token, "/api/v1/runs/r/events", Some("what?")).collect();
    assert_eq!(entries(&all), listed);
    assert_eq!(server.ask("GET", "/api/v1/runs/r/events?after=what", None).error(422), "WF0812");
    // The same page by page.
    let (mut pages, mut next) = (Vec::new(), "0.0.0".to_owned());
    loop {
        let page = server.get(&format!("/api/v1/runs/r/events?after={next}&limit=3&kinds=entry"));
        pages.extend(page["events"].as_array().unwrap().iter().map(|event| event["data"].clone()));
        next = page["next"].as_str().unwrap().to_owned();
        if page["ended"] == true {
            break;
        }
    }
    assert_eq!(pages, listed);
}

#[test]
fn all_runs_are_told_in_one_stream() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut stream = server.stream(&server.token, "/api/v1/events?after=0&kinds=commit", None);
    for n in 0..3 {
        let mut asked = program(&json!([{ "agent": "x" }]));
        asked["id"] = format!("r{n}").into();
        server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    }
    let mut ended = BTreeSet::new();
    let mut last = 0;
    while ended.len() < 3 {
        let event = stream.next().expect("more");
        if event.event != "commit" {
            continue;
        }
        let place: u64 = event.id.parse().unwrap();
        assert!(place > last, "in order");
        last = place;
        let run = event.data["run"].as_str().unwrap().to_owned();
        if server.get(&format!("/api/v1/runs/{run}"))["entries"] == event.data["entries"] {
            ended.insert(run);
        }
    }
}

#[test]
fn a_commit_is_told_behind_its_entries_and_whoever_goes_on_in_between_misses_none() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "agent": "a" }, { "agent": "b" }]));
    asked["id"] = "r".into();
    server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    let page = server.get("/api/v1/events?after=0&kinds=commit,entry&limit=1000");
    let seen = |event: &Value| {
        (event["event"].clone(), event["data"]["position"].clone(), event["data"]["entries"].clone())
    };
    let all: Vec<_> = page["events"].as_array().unwrap().iter().map(seen).collect();
    let positions: Vec<_> = all.iter().filter_map(|(_, position, _)| position.as_u64()).collect();
    assert_eq!(positions, (0..place.journal("r").len() as u64).collect::<Vec<_>>());
    let mut told = 0;
    for (event, position, entries) in &all {
        match position.as_u64() {
            Some(position) => told = position + 1,
            None => assert_eq!((event, entries.as_u64()), (&json!("commit"), Some(told)), "{all:?}"),
        }
    }
    // One by one, each from behind the last one.
    let (mut one_by_one, mut next) = (Vec::new(), "0".to_owned());
    loop {
        let page = server.get(&format!("/api/v1/events?after={next}&kinds=commit,entry&limit=1"));
        let events = page["events"].as_array().unwrap();
        if events.is_empty() {
            break;
        }
        one_by_one.extend(events.iter().map(seen));
        page["next"].as_str().unwrap().clone_into(&mut next);
    }
    assert_eq!(one_by_one, all);
    // How a run shows now is told by streams: a page that asks for it would wait for nothing.
    assert_eq!(server.ask("GET", "/api/v1/runs/r/events?kinds=run", None).error(422), "WF0812");
    let told: Vec<_> = server.stream(&server.token, "/api/v1/runs/r/events?kinds=run", None).collect();
    assert_eq!(told.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(), ["run", "end"]);
}

/// Servers are killed while a run goes on and clients follow; each client comes again to whichever
/// server is there, with the last cursor that it had.
#[test]
fn nothing_is_lost_or_doubled_while_servers_are_killed_and_others_take_over() {
    const STEPS: usize = 120;
    let place = Place::new();
    add_probe(&place);
    let mut servers = vec![Server::start(&place, &[]), Server::start(&place, &[])];
    let steps: Vec<_> = (0..STEPS)
        .map(|n| if n % 3 == 0 { json!({ "sleep": 15 }) } else { json!({ "agent": format!("a{n}") }) })
        .collect();
    let mut asked = program(&json!(steps));
    asked["id"] = "r".into();
    servers[0].post("/api/v1/runs", &asked);
    let (mut told, mut all) = (Vec::new(), Vec::new());
    let (mut cursor, mut place_of_all) = (None::<String>, "0".to_owned());
    let mut kills = 0;
    'run: loop {
        let server = servers.last().expect("one is left");
        let mut stream = server.stream(&server.token, "/api/v1/runs/r/events", cursor.as_deref());
        // Some events, then the server dies in the middle.
        let until = 12 + 9 * kills;
        for _ in 0..until {
            let Some(event) = stream.next() else { break };
            cursor = Some(event.id.clone());
            let is_end = event.event == "end";
            told.push(event);
            if is_end {
                break 'run;
            }
        }
        let page = server.get(&format!("/api/v1/events?after={place_of_all}&limit=1000"));
        all.extend(page["events"].as_array().unwrap().iter().map(|event| event["data"].clone()));
        page["next"].as_str().unwrap().clone_into(&mut place_of_all);
        if kills < 6 {
            servers.pop().expect("one is left").kill();
            servers.insert(0, Server::start(&place, &[]));
            kills += 1;
        }
    }
    assert!(kills >= 4, "{kills}");
    let positions: Vec<_> = entries(&told).iter().map(|entry| entry["position"].as_u64().unwrap()).collect();
    let whole = place.journal("r");
    assert_eq!(positions, (0..whole.len() as u64).collect::<Vec<_>>());
    // The stream of all runs, by another way, told the same.
    let server = servers.last().expect("one is left");
    loop {
        let page = server.get(&format!("/api/v1/events?after={place_of_all}&limit=50"));
        let events = page["events"].as_array().unwrap();
        if events.is_empty() {
            break;
        }
        all.extend(events.iter().map(|event| event["data"].clone()));
        page["next"].as_str().unwrap().clone_into(&mut place_of_all);
    }
    let of_all: Vec<_> = all.iter().map(|entry| entry["position"].as_u64().unwrap()).collect();
    assert_eq!(of_all, positions);
}

#[test]
fn a_server_that_ends_says_so_to_its_streams() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    let mut stream = server.stream(&server.token, "/api/v1/runs/r/events", None);
    let first = stream.next().expect("an event");
    assert_eq!(first.event, "entry");
    let ending = std::thread::spawn(move || server.stop());
    let rest: Vec<_> = stream.collect();
    assert_eq!(rest.last().map(|event| event.event.as_str()), Some("bye"), "{rest:?}");
    assert_eq!(ending.join().unwrap().code(), Some(143));
}

/// How often the database was read for streams.
fn readings(server: &Server) -> u64 {
    let text = server.ask("GET", "/metrics", None).text();
    let line = text.lines().find(|line| line.starts_with("wfhost_event_stream_reads_total"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn streams_that_tell_the_same_share_what_is_read() {
    const STREAMS: usize = 40;
    const SIGNALS: u64 = 10;
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "wait_many": { "name": "go", "count": SIGNALS } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    let open = |path: &str, last: Option<&str>| {
        (0..STREAMS).map(|_| server.stream(&server.token, path, last)).collect::<Vec<_>>()
    };
    let mut streams = open("/api/v1/runs/r/events?kinds=entry", None);
    streams.extend(open("/api/v1/events?kinds=entry", Some("0")));
    // Each is told of a signal before the next one is sent.
    let mut told = vec![Vec::new(); streams.len()];
    let before = readings(&server);
    for signal in 0..SIGNALS {
        server.post("/api/v1/runs/r/signals/go", &json!(signal));
        for (stream, told) in streams.iter_mut().zip(&mut told) {
            loop {
                let event = stream.next().expect("more");
                let is_signal = event.data["kind"] == "received" && event.data["payload"] == signal;
                told.push((event.event.clone(), event.data["position"].clone()));
                if is_signal {
                    break;
                }
            }
        }
    }
    let readings = readings(&server) - before;
    assert!(readings < SIGNALS * STREAMS as u64 / 2, "{readings} readings");
    let first = &told[0];
    assert!(told.iter().all(|told| told == first), "{told:?}");
    let positions: Vec<_> = first.iter().map(|(_, position)| position.as_u64().unwrap()).collect();
    assert_eq!(positions, (0..positions.len() as u64).collect::<Vec<_>>());
}

/// Adds lines of a thousand bytes to the transcript of a run, at once.
fn transcribe(place: &Place, run: &str, lines: usize) {
    place.change(
        &format!(
            "INSERT INTO transcripts (run, step, attempt, at, kind, text)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {lines})
             SELECT r.id, 1, 1, 1, 0, printf('%01000d', i) FROM n, runs r WHERE r.name = '{run}'"
        ),
        &format!(
            "INSERT INTO transcripts (run, step, attempt, at, kind, text)
             SELECT r.run, 1, 1, 1, 0, lpad(i::text, 1000, '0') FROM generate_series(1, {lines}) i, runs r
             WHERE r.name = '{run}'"
        ),
    );
}

/// Where a stream of a run that was told all goes on.
fn whole(server: &Server, place: &Place, run: &str) -> String {
    let lines = "SELECT coalesce(max(id), 0) FROM transcripts";
    format!("{}.0.{}", server.get(&format!("/api/v1/runs/{run}"))["entries"], place.query(lines, lines))
}

fn waiting(server: &Server, run: &str) {
    let mut asked = program(&json!([{ "wait_many": { "name": "go", "count": 100 } }]));
    asked["id"] = run.into();
    server.post("/api/v1/runs", &asked);
    let path = format!("/api/v1/runs/{run}");
    eventually("it waits", || (server.get(&path)["state"] == "waiting").then_some(()));
}

#[test]
fn a_stream_has_nothing_read_that_its_client_was_told_before() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    waiting(&server, "long");
    transcribe(&place, "long", 20_000);
    let last = whole(&server, &place, "long");
    let before = readings(&server);
    // Each is the only one, and comes back.
    for _ in 0..5 {
        let mut stream = server.stream(&server.token, "/api/v1/runs/long/events", Some(&last));
        assert_eq!(stream.next().expect("an event").event, "run");
        drop(stream);
        let streams = || server.ask("GET", "/metrics", None).text();
        let is_none = |text: String| text.lines().any(|line| line == "wfhost_event_streams 0");
        eventually("it is gone", || is_none(streams()).then_some(()));
    }
    let readings = readings(&server) - before;
    assert!(readings < 50, "{readings} readings");
    // One that comes from the beginning is told all of it, and so is one that comes in between.
    let begun = server.stream(&server.token, "/api/v1/runs/long/events?kinds=live", None);
    let told: Vec<_> = begun.filter(|event| event.event == "live").take(20_000).collect();
    let number = |event: &Event| event.data["text"].as_str().unwrap().parse::<usize>().unwrap();
    assert_eq!(told.iter().map(number).collect::<Vec<_>>(), (1..=20_000).collect::<Vec<_>>());
    let rest = server.stream(&server.token, "/api/v1/runs/long/events?kinds=live", Some(&told[14_999].id));
    let rest: Vec<_> = rest.filter(|event| event.event == "live").take(5_000).collect();
    assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), (15_001..=20_000).collect::<Vec<_>>());
}

#[test]
fn much_to_tell_of_one_run_holds_up_no_stream_of_another() {
    const LINES: usize = 40_000;
    if only_for_files("a server that has no statistics yet takes its time to read so much") {
        return;
    }
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    waiting(&server, "long");
    waiting(&server, "other");
    let last = whole(&server, &place, "long");
    let mut long = server.stream(&server.token, "/api/v1/runs/long/events?kinds=live,run", Some(&last));
    assert_eq!(long.next().expect("an event").event, "run");
    let last = whole(&server, &place, "other");
    let mut other = server.stream(&server.token, "/api/v1/runs/other/events?kinds=entry,run", Some(&last));
    assert_eq!(other.next().expect("an event").event, "run");
    transcribe(&place, "long", LINES);
    let before = readings(&server);
    server.post("/api/v1/runs/other/signals/go", &json!(1));
    assert_eq!(other.find(|event| event.event == "entry").expect("more").data["kind"], "received");
    // All lines take more than twice as many.
    let readings = readings(&server) - before;
    assert!(readings < 70, "{readings} readings");
    // Those are told as well, each once, to those who were there and to who comes meanwhile.
    let meanwhile = server.stream(&server.token, "/api/v1/runs/long/events?kinds=live,run", None);
    // At the same time: a client that reads nothing for long is left.
    std::thread::scope(|scope| {
        for stream in [long, meanwhile] {
            scope.spawn(move || {
                let told = stream.filter(|event| event.event == "live").take(LINES);
                let told: Vec<_> = told
                    .map(|event| event.data["text"].as_str().unwrap().parse::<usize>().unwrap())
                    .collect();
                assert_eq!(told, (1..=LINES).collect::<Vec<_>>());
            });
        }
    });
}

#[test]
fn a_run_that_cannot_be_read_ends_no_streams_of_others() {
    if only_for_files("a row that cannot be read") {
        return;
    }
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    waiting(&server, "bad");
    waiting(&server, "good");
    let open = |run: &str| {
        let mut stream = server.stream(&server.token, &format!("/api/v1/runs/{run}/events"), None);
        assert!(stream.any(|event| event.event == "run"));
        stream
    };
    let (bad, mut good) = (open("bad"), open("good"));
    let mut all = server.stream(&server.token, "/api/v1/events?kinds=entry", None);
    let sql = "INSERT INTO transcripts (run, step, attempt, at, kind, text)
               SELECT id, 1, -1, 1, 0, 'x' FROM runs WHERE name = 'bad'";
    place.change(sql, sql);
    let told: Vec<_> = bad.collect();
    assert_eq!(told.last().map(|event| event.event.as_str()), Some("bye"), "{told:?}");
    server.post("/api/v1/runs/good/signals/go", &json!(1));
    for stream in [&mut good, &mut all] {
        let is_signal = |event: &Event| event.data["kind"] == "received";
        let told = stream.find(|event| event.event == "bye" || is_signal(event)).expect("more");
        assert_eq!(told.event, "entry", "{told:?}");
    }
}

#[test]
fn clients_that_do_not_read_hold_little_however_much_there_is_for_them() {
    const ANSWERS: usize = 16;
    const BYTES: usize = 200_000;
    const CLIENTS: usize = 40;
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(
        &json!([{ "agent_series": { "count": ANSWERS, "bytes": BYTES } }, { "wait": { "name": "go" } }]),
    );
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
    };
    // What one client costs, whose pages are read as they come.
    let whole = || {
        let mut told = Vec::new();
        for event in server.stream(&server.token, "/api/v1/runs/r/events?follow=false", None) {
            told.push((event.id, event.event, event.data.to_string().len()));
        }
        told
    };
    let told = whole();
    assert!(told.iter().map(|(.., bytes)| bytes).sum::<usize>() > ANSWERS * BYTES);
    let before = memory();
    // From the beginning, and each from a place of its own.
    let stuck: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let last = told.get(n % told.len()).filter(|_| n % 2 == 1).map(|(id, ..)| id.as_str());
            server.stream(&server.token, "/api/v1/runs/r/events", last)
        })
        .collect();
    // Others are told meanwhile.
    assert_eq!(whole(), told);
    let grown = memory() - before;
    // All that there is for them would be far more: forty times the answers and what was asked.
    assert!(grown < CLIENTS * BYTES * 8, "{grown} bytes for {CLIENTS} clients");
    // Who reads at last has missed nothing.
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    for (n, stream) in stuck.into_iter().enumerate().take(4) {
        let from = if n % 2 == 1 { n % told.len() + 1 } else { 0 };
        let mut late: Vec<_> = stream.collect();
        // One that took too long was sent away, and comes again.
        if late.last().is_none_or(|event| event.event != "end") {
            let last = late.iter().map(|event| event.id.as_str()).next_back();
            let last = last.or((from > 0).then(|| told[from - 1].0.as_str())).map(str::to_owned);
            late.extend(server.stream(&server.token, "/api/v1/runs/r/events", last.as_deref()));
        }
        let positions =
            entries(&late).iter().map(|entry| entry["position"].as_u64().unwrap()).collect::<Vec<_>>();
        assert_eq!(late.last().map(|event| event.event.as_str()), Some("end"), "{n}");
        assert_eq!(positions, (from as u64..place.journal("r").len() as u64).collect::<Vec<_>>(), "{n}");
    }
}

#[test]
fn a_page_goes_on_behind_what_is_not_wanted() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([
        { "repeat": { "times": 1_200, "operation": { "log": "x" } } },
        { "post": { "name": "m", "payload": "here" } },
    ]));
    asked["id"] = "r".into();
    server.ask("POST", "/api/v1/runs?wait=60s", Some(&asked)).ok();
    eventually("the end", || (server.get("/api/v1/runs/r")["state"] == "completed").then_some(()));
    let page = server.get("/api/v1/runs/r/events?kinds=message");
    assert_eq!(page["events"][0]["data"]["payload"], "here", "{page}");
}

#[test]
fn what_others_did_is_told_also_if_a_run_that_was_told_in_part_is_deleted() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let start = |id: &str| {
        let mut asked = program(&json!([{ "parallel": [{ "agent": "a" }, { "agent": "b" }] }]));
        asked["id"] = id.into();
        server.ask("POST", "/api/v1/runs?wait=60s", Some(&asked)).ok();
    };
    start("gone");
    let page = server.get("/api/v1/events?after=0&limit=1000");
    let events = page["events"].as_array().unwrap();
    // The last one within a commit.
    let within = events.iter().rev().find_map(|event| event["id"].as_str().filter(|id| id.contains('.')));
    let within = within.expect("a commit with several entries").to_owned();
    server.ask("DELETE", "/api/v1/runs/gone", None).ok();
    start("here");
    let page = server.get(&format!("/api/v1/events?after={within}&limit=1000"));
    let told: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| &event["data"]).collect();
    assert!(told.iter().all(|entry| entry["run"] == "here"), "{page}");
    let positions: Vec<_> = told.iter().map(|entry| entry["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (0..place.journal("here").len() as u64).collect::<Vec<_>>());
}

#[test]
fn streams_of_a_run_that_is_terminated_and_deleted_end() {
    const STREAMS: usize = 30;
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    for (id, ends) in [("ended", true), ("deleted", false)] {
        let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
        asked["id"] = id.into();
        server.post("/api/v1/runs", &asked);
        let path = format!("/api/v1/runs/{id}/events");
        let mut streams: Vec<_> = (0..STREAMS).map(|_| server.stream(&server.token, &path, None)).collect();
        for stream in &mut streams {
            assert!(stream.any(|event| event.event == "run" && event.data["state"] == "waiting"));
        }
        if ends {
            server.post(&format!("/api/v1/runs/{id}/terminate"), &json!({ "reason": "enough" }));
        } else {
            let ran = place.run(["terminate", id]);
            assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        }
        server.ask("DELETE", &format!("/api/v1/runs/{id}"), None).ok();
        for stream in streams {
            let told: Vec<_> = stream.collect();
            let last = told.last().expect("an end");
            // Whichever was seen first.
            assert!(last.event == "end" || last.event == "bye" && last.data["code"] == "WF0501", "{told:?}");
        }
    }
    eventually("all streams are gone", || {
        let text = server.ask("GET", "/metrics", None).text();
        text.lines().any(|line| line == "wfhost_event_streams 0").then_some(())
    });
}

/// Cursors that no server gave, and those of another stream.
#[test]
fn strange_cursors_keep_nothing_from_others() {
    const FAR: &str = "4611686018427387903";
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "wait": { "name": "go" } }, { "log": "x" }, { "agent": "a" }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("it waits", || (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(()));
    let other = token(&place, "other", "runs:read,payloads:read");
    // They come first, so that others find what they began.
    let strange: Vec<_> = [
        ("/api/v1/runs/r/events", format!("{FAR}.{FAR}.{FAR}")),
        ("/api/v1/runs/r/events", format!("0.0.{FAR}")),
        ("/api/v1/runs/r/events", format!("{FAR}.0.0")),
        ("/api/v1/events", FAR.to_owned()),
        ("/api/v1/events", format!("0.{FAR}")),
    ]
    .map(|(path, last)| server.stream(&other, path, Some(&last)))
    .into();
    let ours = server.stream(&server.token, "/api/v1/runs/r/events", None);
    let mut all = server.stream(&server.token, "/api/v1/events", Some("0"));
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    let told: Vec<_> = ours.collect();
    let kinds: BTreeSet<_> = told.iter().map(|event| event.event.as_str()).collect();
    assert!(["entry", "log", "run", "end"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    let whole = place.journal("r").len() as u64;
    let positions: Vec<_> = entries(&told).iter().map(|entry| entry["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (0..whole).collect::<Vec<_>>());
    for position in 0..whole {
        assert_eq!(all.next().expect("more").data["position"], position);
    }
    drop(strange);
}
