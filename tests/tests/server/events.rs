//! Events: none is lost and none comes twice, whatever dies.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::client::{Event, Server, add_probe, program};

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
    let mut told = Vec::new();
    for event in stream {
        let waits = event.event == "run" && event.data["state"] == "waiting";
        told.push(event);
        if waits {
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
