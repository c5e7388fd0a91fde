//! What the API does.

use serde_json::{Value, json};
use wfhost_tests::{Place, bytes_of_version, eventually};

use crate::client::{Server, add_probe, program, token};

/// Waits until a run is in a state.
fn comes_to(server: &Server, run: &str, state: &str) -> Value {
    eventually(&format!("{run} is {state}"), || {
        let view = server.get(&format!("/api/v1/runs/{run}"));
        (view["state"] == state).then_some(view)
    })
}

#[test]
fn a_run_is_started_once_for_a_key_and_its_result_waited_for() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "agent": "hi" }]));
    asked["key"] = "order-17".into();
    asked["labels"] = json!({ "team": "red" });
    let first = server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked));
    assert_eq!(first.status, 201, "{}", first.text());
    let view = first.ok();
    assert_eq!((&view["state"], &view["output"]), (&json!("completed"), &json!(["hi"])), "{view}");
    let run = view["id"].as_str().unwrap();
    assert_eq!(first.header("location"), Some(format!("/api/v1/runs/{run}").as_str()));
    // The same again is the same run; something else under the key is refused.
    let again = server.ask("POST", "/api/v1/runs", Some(&asked));
    assert_eq!((again.status, again.ok()["id"].as_str()), (200, Some(run)));
    let mut other = program(&json!([{ "agent": "ho" }]));
    other["key"] = "order-17".into();
    assert_eq!(server.ask("POST", "/api/v1/runs", Some(&other)).error(422), "WF0304");
    // The header is the same as the key.
    let bearer = format!("Bearer {}", server.token);
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "order-17")];
    asked.as_object_mut().unwrap().remove("key");
    let by_header = server.try_ask("POST", "/api/v1/runs", &headers, asked.to_string().as_bytes()).unwrap();
    assert_eq!((by_header.status, by_header.ok()["id"].as_str()), (200, Some(run)));
    // The command line says the same of it, member by member.
    assert_eq!(
        place.run(["show", run, "-o", "json"]).ok_json(),
        server.get(&format!("/api/v1/runs/{run}?steps=true"))
    );
    // What goes on longer than is waited for.
    let slow =
        server.ask("POST", "/api/v1/runs?wait=100ms", Some(&program(&json!([{ "wait": { "name": "go" } }]))));
    assert_eq!(slow.status, 202, "{}", slow.text());
}

#[test]
fn starts_that_cannot_be_are_refused_and_nothing_begins() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    for (asked, status, code) in [
        (json!({ "workflow": "nobody" }), 404, "WF0110"),
        (json!({}), 422, "WF0812"),
        (json!({ "workflow": "probe", "id": "a b" }), 422, "WF0812"),
        (json!({ "workflow": "probe", "inputs": 1 }), 422, "WF0812"),
        (json!({ "workflow": "probe", "memory_mib": 0 }), 422, "WF0812"),
        (json!({ "workflow": "probe", "module": "abc" }), 400, "WF0812"),
        (json!({ "workflow": "probe", "key": "k".repeat(300) }), 422, "WF0003"),
        (json!({ "workflow": "probe", "signal": { "name": "" } }), 422, "WF0505"),
    ] {
        assert_eq!(server.ask("POST", "/api/v1/runs", Some(&asked)).error(status), code, "{asked}");
    }
    let bearer = format!("Bearer {}", server.token);
    let send = |body: &str, kind: &str| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", kind)];
        server.try_ask("POST", "/api/v1/runs", &headers, body.as_bytes()).unwrap()
    };
    assert_eq!(send("{", "application/json").error(400), "WF0002");
    assert_eq!(send("workflow=probe", "application/x-www-form-urlencoded").error(400), "WF0812");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    assert_eq!(server.ask("GET", "/api/v1/nothing", None).error(404), "WF0813");
    assert_eq!(server.ask("PATCH", "/api/v1/runs", None).error(405), "WF0813");
    assert_eq!(server.ask("GET", "/api/v1/runs/nobody", None).error(404), "WF0501");
    assert_eq!(server.ask("GET", "/api/v1/runs?sate=failed", None).error(400), "WF0812");
}

#[test]
fn lists_are_filtered_and_read_by_pages() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    for n in 0..7 {
        let waits = json!([{ "wait": { "name": if n % 2 == 0 { "even" } else { "odd" } } }]);
        let calls = json!([{ "agent": "x" }]);
        let mut asked = program(if n == 6 { &calls } else { &waits });
        asked["id"] = format!("n{n}").into();
        asked["labels"] = json!({ "n": n.to_string(), "all": "yes" });
        server.post("/api/v1/runs", &asked);
    }
    for n in 0..6 {
        comes_to(&server, &format!("n{n}"), "waiting");
    }
    comes_to(&server, "n6", "completed");
    let ids = |query: &str| -> Vec<String> {
        let view = server.get(&format!("/api/v1/runs?{query}"));
        view["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("state=completed"), ["n6"]);
    assert_eq!(ids("state=waiting,completed&limit=2"), ["n6", "n5"]);
    assert_eq!(ids("label=n=3"), ["n3"]);
    assert_eq!(ids("label=all=yes,n=4"), ["n4"]);
    assert_eq!(ids("label=all=no"), [""; 0]);
    assert_eq!(ids("waits=signal:odd"), ["n5", "n3", "n1"]);
    assert_eq!(ids("waits=signal").len(), 6);
    assert_eq!(ids("waits=people").len(), 0);
    assert_eq!(ids("text=N2"), ["n2"]);
    assert_eq!(ids("workflow=probe&since=1h").len(), 7);
    assert_eq!(ids("until=1h").len(), 0);
    let counts = server.get("/api/v1/runs/counts")["counts"].clone();
    assert_eq!(
        (&counts["waiting"], &counts["completed"], &counts["failed"]),
        (&json!(6), &json!(1), &json!(0))
    );
    // All pages together are all runs, each once, also if new ones come meanwhile.
    let (mut seen, mut late) = (Vec::new(), Vec::new());
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/api/v1/runs?limit=3{cursor}"));
        seen.extend(
            page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()),
        );
        let mut more = program(&json!([]));
        late.push(format!("late{}", seen.len()));
        more["id"] = late[late.len() - 1].clone().into();
        server.post("/api/v1/runs", &more);
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["n6", "n5", "n4", "n3", "n2", "n1", "n0"]);
    // A page that ends with a run that is deleted is followed by the older ones all the same, which change no more.
    for run in &late {
        comes_to(&server, run, "completed");
    }
    let newest = server.get("/api/v1/runs?limit=1");
    let last = newest["runs"][0]["id"].as_str().unwrap();
    assert_eq!(server.ask("DELETE", &format!("/api/v1/runs/{last}"), None).status, 200);
    let older = server.get(&format!("/api/v1/runs?cursor={}", newest["next"].as_str().unwrap()));
    let all = server.get("/api/v1/runs");
    assert!(older["runs"].as_array().is_some_and(|runs| runs.len() > 7), "{older}");
    assert_eq!(older["runs"], all["runs"]);
    assert_eq!(server.ask("GET", "/api/v1/runs?cursor=abc", None).error(422), "WF0812");
}

#[test]
fn signals_questions_and_callbacks_reach_their_runs() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    // A signal with the start, by one request.
    let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
    asked["signal"] = json!({ "name": "go", "payload": { "n": 12345678901234567890123_u128.to_string() } });
    let view = server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    assert_eq!(view["output"], json!([{ "n": "12345678901234567890123" }]), "{view}");
    // A signal with an id is delivered once.
    let mut asked = program(&json!([{ "wait": { "name": "go" } }, { "wait": { "name": "go" } }]));
    asked["id"] = "twice".into();
    server.post("/api/v1/runs", &asked);
    let bearer = format!("Bearer {}", server.token);
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "s1")];
    let send = || server.try_ask("POST", "/api/v1/runs/twice/signals/go", &headers, b"1").unwrap();
    assert_eq!([send().status, send().status], [202, 200]);
    server.post("/api/v1/runs/twice/signals/go", &json!(2));
    assert_eq!(comes_to(&server, "twice", "completed")["output"], json!([1, 2]));
    assert_eq!(server.ask("POST", "/api/v1/runs/twice/signals/go", Some(&json!(3))).error(409), "WF0502");
    // A question, its schema, and who answered.
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    let mut asked = program(&json!([{ "ask": { "prompt": "How many?", "schema": schema } }]));
    asked["id"] = "asks".into();
    server.post("/api/v1/runs", &asked);
    let question = eventually("the question", || {
        server.get("/api/v1/questions")["questions"].as_array()?.first().cloned()
    });
    assert_eq!(
        (&question["run"], &question["step"], &question["schema"]),
        (&json!("asks"), &json!(1), &schema)
    );
    let wrong =
        server.ask("POST", "/api/v1/runs/asks/steps/1/answer", Some(&json!({ "answer": { "n": "x" } })));
    assert_eq!(wrong.error(422), "WF0508");
    let ada = token(&place, "ada", "people:answer");
    let answered = server.ask_as(
        &ada,
        "POST",
        "/api/v1/runs/asks/steps/1/answer",
        Some(&json!({ "answer": { "n": 3 }, "note": "ok" })),
    );
    assert_eq!(answered.status, 202, "{}", answered.text());
    comes_to(&server, "asks", "completed");
    let entry = place.journal("asks").into_iter().find(|entry| entry["kind"] == "answered").unwrap();
    assert_eq!((&entry["by"], &entry["note"]), (&json!("ada"), &json!("ok")));
    assert_eq!(server.ask("POST", "/api/v1/runs/asks/steps/1/deny", Some(&json!({}))).error(404), "WF0507");
}

#[test]
fn runs_are_paused_resumed_cancelled_terminated_and_tried_again() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let begin = |id: &str, operations: &Value| {
        let mut asked = program(operations);
        asked["id"] = id.into();
        server.post("/api/v1/runs", &asked);
    };
    let waits = json!([{ "wait": { "name": "go" } }]);
    for id in ["p", "c", "t", "d"] {
        begin(id, &waits);
        comes_to(&server, id, "waiting");
    }
    server.post("/api/v1/runs/p/pause", &json!({}));
    comes_to(&server, "p", "paused");
    server.post("/api/v1/runs/p/signals/go", &json!(1));
    server.post("/api/v1/runs/p/resume", &json!({}));
    assert_eq!(comes_to(&server, "p", "completed")["output"], json!([1]));
    let cancelled = server.ask("POST", "/api/v1/runs/c/cancel", Some(&json!({ "reason": "no need" })));
    assert_eq!(cancelled.status, 202);
    // The program sees it, and this one comes to its end all the same.
    let seen = comes_to(&server, "c", "completed");
    assert_eq!(seen["output"][0]["failure"], "cancelled", "{seen}");
    let ended = server.post("/api/v1/runs/t/terminate", &json!({ "reason": "now" }));
    assert_eq!(ended["result"], "terminated");
    let view = server.get("/api/v1/runs/t?steps=true");
    assert_eq!(
        (&view["state"], &view["failure"]["message"]),
        (&json!("cancelled"), &json!("terminated: now")),
        "{view}"
    );
    let last = place.journal("t").pop().unwrap();
    assert_eq!((&last["kind"], &last["stopped"]), (&json!("finished"), &json!(true)), "{last}");
    assert_eq!(server.ask("POST", "/api/v1/runs/t/terminate", Some(&json!({}))).error(409), "WF0502");
    assert_eq!(place.run(["verify", "t"]).code(), Some(0));
    // A run that computes is ended, too.
    begin("spins", &json!([{ "sleep": 600_000 }]));
    eventually("it runs", || (server.get("/api/v1/runs/spins")["state"] != "queued").then_some(()));
    server.post("/api/v1/runs/spins/terminate", &json!({}));
    assert_eq!(server.get("/api/v1/runs/spins")["state"], "cancelled");
    // Deleted with everything.
    server.post("/api/v1/runs/d/terminate", &json!({}));
    assert_eq!(server.ask("DELETE", "/api/v1/runs/d", None).ok()["result"], "deleted");
    assert_eq!(server.ask("GET", "/api/v1/runs/d", None).error(404), "WF0501");
    // One that failed is tried again where it failed.
    begin("f", &json!([{ "agent_of": { "provider": "scripted", "prompt": "x" } }]));
    let why = eventually("why it does not go on", || {
        let why = server.get("/api/v1/runs/f/why");
        why["blockers"].as_array().is_some_and(|blockers| !blockers.is_empty()).then_some(why)
    });
    assert_eq!(why["schema"], "wfhost/why/1");
    // Who did what.
    let audit = server.get("/api/v1/audit?limit=500")["acts"].as_array().unwrap().clone();
    let page = |limit: usize| server.get(&format!("/api/v1/audit?limit={limit}"))["before"].clone();
    assert_eq!(
        (page(audit.len()), page(audit.len() - 1)),
        (json!(null), audit[audit.len() - 2]["number"].clone())
    );
    for act in [
        "runs.start",
        "runs.pause",
        "runs.resume",
        "runs.cancel",
        "runs.terminate",
        "runs.delete",
        "runs.signal",
    ] {
        let found =
            audit.iter().find(|found| found["act"] == act).unwrap_or_else(|| panic!("{act}: {audit:?}"));
        assert!(found["who"].as_str().unwrap().starts_with("this server ("), "{found}");
    }
}

#[test]
fn many_runs_are_acted_on_after_a_preview() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    for n in 0..5 {
        let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
        asked["id"] = format!("b{n}").into();
        asked["labels"] = json!({ "batch": if n < 3 { "a" } else { "b" } });
        server.post("/api/v1/runs", &asked);
        comes_to(&server, &format!("b{n}"), "waiting");
    }
    let mut asked = json!({ "filter": { "label": "batch=a" }, "act": "signal", "signal": { "name": "go", "payload": 7 } });
    let preview = server.post("/api/v1/runs/batch", &asked);
    assert_eq!((&preview["count"], &preview["dry_run"]), (&json!(3), &json!(true)));
    asked["dry_run"] = false.into();
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&asked)).error(409), "WF0819");
    asked["expected"] = 2.into();
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&asked)).error(409), "WF0819");
    assert_eq!(server.get("/api/v1/runs/counts")["counts"]["waiting"], 5);
    asked["expected"] = 3.into();
    let done = server.post("/api/v1/runs/batch", &asked);
    assert!(done["runs"].as_array().unwrap().iter().all(|run| run["error"].is_null()), "{done}");
    for n in 0..3 {
        assert_eq!(comes_to(&server, &format!("b{n}"), "completed")["output"], json!([7]));
    }
    // Where counting takes long, numbers are shown that were counted before.
    eventually("two wait", || (server.get("/api/v1/runs/counts")["counts"]["waiting"] == 2).then_some(()));
    let all = json!({ "filter": {}, "act": "cancel" });
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&all)).error(422), "WF0812");
}

#[test]
fn acts_on_many_runs_are_for_those_that_the_preview_found() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let start = |id: &str| {
        let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
        asked["id"] = id.into();
        server.post("/api/v1/runs", &asked);
        comes_to(&server, id, "waiting");
    };
    start("old");
    start("kept");
    let mut asked = json!({ "filter": { "state": "waiting" }, "act": "terminate" });
    let preview = server.post("/api/v1/runs/batch", &asked);
    // How many are listed is nothing that they differ by.
    let mut short = asked.clone();
    short["limit"] = 1.into();
    assert_eq!(server.post("/api/v1/runs/batch", &short)["fingerprint"], preview["fingerprint"]);
    // One ends and another one comes: as many, and others.
    server.post("/api/v1/runs/old/signals/go", &json!(1));
    comes_to(&server, "old", "completed");
    start("new");
    asked["dry_run"] = false.into();
    asked["expected"] = preview["count"].clone();
    asked["fingerprint"] = preview["fingerprint"].clone();
    let refused = server.ask("POST", "/api/v1/runs/batch", Some(&asked));
    assert_eq!(refused.error(409), "WF0819");
    assert!(refused.text().contains("other runs match now"), "{}", refused.text());
    for run in ["kept", "new"] {
        assert_eq!(server.get(&format!("/api/v1/runs/{run}"))["state"], "waiting");
    }
    let again =
        server.post("/api/v1/runs/batch", &json!({ "filter": { "state": "waiting" }, "act": "terminate" }));
    assert_ne!(again["fingerprint"], preview["fingerprint"]);
    asked["fingerprint"] = again["fingerprint"].clone();
    assert_eq!(server.post("/api/v1/runs/batch", &asked)["count"], 2);
    // What no preview gives is refused, also where nothing is done.
    asked["dry_run"] = true.into();
    asked["fingerprint"] = "".into();
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&asked)).error(422), "WF0812");
    // A reason that no run can keep is refused once, and not of each run.
    let reason = json!({ "filter": { "state": "cancelled" }, "act": "cancel", "reason": "x".repeat(70_000) });
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&reason)).error(422), "WF0003");
}

#[test]
fn acts_on_many_runs_go_on_part_after_part_with_what_is_left() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &["--evict", "always"]);
    for n in 0..7 {
        let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
        asked["id"] = format!("p{n}").into();
        asked["labels"] = json!({ "team": "red" });
        server.post("/api/v1/runs", &asked);
        comes_to(&server, &format!("p{n}"), "waiting");
    }
    let ids = |view: &Value| -> Vec<String> {
        let runs = view["runs"].as_array().unwrap();
        assert!(runs.iter().all(|run| run["error"].is_null()), "{view}");
        runs.iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect()
    };
    // An act after which the runs do not match any more, and one after which they are not there.
    for (act, filter) in [
        ("terminate", json!({ "label": "team=red", "state": "waiting" })),
        ("delete", json!({ "label": "team=red", "state": "cancelled" })),
    ] {
        let mut asked = json!({ "filter": filter, "act": act, "limit": 3 });
        let preview = server.post("/api/v1/runs/batch", &asked);
        assert_eq!((&preview["count"], &preview["left"]), (&json!(7), &json!(4)), "{preview}");
        asked["dry_run"] = false.into();
        asked["expected"] = 6.into();
        assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&asked)).error(409), "WF0819");
        asked["expected"] = 7.into();
        let mut handled = Vec::new();
        for (left, handles) in [(4, 3), (1, 3), (0, 1)] {
            let view = server.post("/api/v1/runs/batch", &asked);
            assert_eq!(
                (&view["left"], view["runs"].as_array().unwrap().len()),
                (&json!(left), handles),
                "{view}"
            );
            assert_eq!(view["next"].is_null(), left == 0, "{view}");
            handled.extend(ids(&view));
            asked["cursor"] = view["next"].clone();
        }
        assert_eq!(handled, ["p6", "p5", "p4", "p3", "p2", "p1", "p0"], "newest first, each once");
    }
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    // What comes while it goes on is left alone, and the first of the rest may be gone.
    for n in 0..4 {
        let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
        asked["id"] = format!("q{n}").into();
        server.post("/api/v1/runs", &asked);
        comes_to(&server, &format!("q{n}"), "waiting");
    }
    let filter = json!({ "workflow": "probe" });
    let mut asked = json!({ "filter": filter, "act": "pause", "limit": 2, "dry_run": false, "expected": 4 });
    let view = server.post("/api/v1/runs/batch", &asked);
    assert_eq!((ids(&view), &view["left"]), (vec!["q3".to_owned(), "q2".to_owned()], &json!(2)));
    let mut new = program(&json!([{ "wait": { "name": "go" } }]));
    new["id"] = "new".into();
    server.post("/api/v1/runs", &new);
    comes_to(&server, "new", "waiting");
    asked["cursor"] = view["next"].clone();
    let view = server.post("/api/v1/runs/batch", &asked);
    assert_eq!((ids(&view), &view["next"]), (vec!["q1".to_owned(), "q0".to_owned()], &json!(null)));
    assert_eq!(server.get("/api/v1/runs/new")["state"], "waiting");
    server.post("/api/v1/runs/q1/terminate", &json!({}));
    assert_eq!(server.ask("DELETE", "/api/v1/runs/q1", None).status, 200);
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&asked)).error(409), "WF0819");
    asked["cursor"] = "nonsense".into();
    assert_eq!(server.ask("POST", "/api/v1/runs/batch", Some(&asked)).error(422), "WF0812");
}

/// Of rounds that match, each is a run of its own; what is done to the first ones does not reach the last one again.
#[test]
fn acts_on_many_runs_leave_a_round_alone_that_does_not_match() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let go = json!({ "wait": { "name": "go" } });
    let third = json!({ "do": [go.clone(), go.clone()] });
    let second = json!({ "do": [{ "sleep": 20 }, { "continue_as_new": third }] });
    let mut asked = program(&json!([{ "continue_as_new": second }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("the third round", || {
        (server.ask("GET", "/api/v1/runs/r-3", None).status == 200).then_some(())
    });
    comes_to(&server, "r-3", "waiting");
    let act = |asked: &mut Value| {
        let preview = server.post("/api/v1/runs/batch", asked);
        asked["dry_run"] = false.into();
        asked["expected"] = preview["count"].clone();
        let done = server.post("/api/v1/runs/batch", asked);
        let runs = done["runs"].as_array().unwrap().iter();
        runs.map(|run| (run["run"].as_str().unwrap().to_owned(), run["error"].is_null())).collect::<Vec<_>>()
    };
    let begun = server.get("/api/v1/runs/r-3")["created_at"].clone();
    for what in ["cancel", "pause", "resume", "terminate", "signal"] {
        let mut asked = json!({ "filter": { "workflow": "probe", "until": begun }, "act": what });
        if what == "signal" {
            asked["signal"] = json!({ "name": "go" });
        }
        let done = act(&mut asked);
        assert!(!done.is_empty() && done.iter().all(|(run, is_done)| run != "r-3" && !is_done), "{done:?}");
    }
    let mut all = json!({ "filter": { "workflow": "probe" }, "act": "signal", "signal": { "name": "go", "payload": 7 } });
    let done = act(&mut all);
    assert_eq!(done, [("r-3", true), ("r-2", false), ("r", false)].map(|(run, ok)| (run.to_owned(), ok)));
    eventually("the signal", || {
        let taken = place.journal("r-3").iter().filter(|entry| entry["kind"] == "received").count();
        (taken == 1).then_some(())
    });
    let view = comes_to(&server, "r-3", "waiting");
    assert_eq!(view["output"], Value::Null, "{view}");
}

/// Whoever asks for what is beyond all numbers that there are gets nothing, and not what is at the beginning.
#[test]
fn beyond_the_end_there_is_nothing() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked =
        program(&json!([{ "agent": "one" }, { "log": "line" }, { "publish": { "key": "k", "value": 1 } }]));
    asked["id"] = "r".into();
    server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    for wrong in [json!({ "key": "" }), json!({ "id": "." }), json!({ "id": ".." })] {
        let mut asked = program(&json!([]));
        asked.as_object_mut().unwrap().append(&mut wrong.as_object().unwrap().clone());
        assert_eq!(server.ask("POST", "/api/v1/runs", Some(&asked)).status, 422, "{asked}");
    }
    for beyond in [100_000, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        for (path, list) in [
            (format!("steps?after={beyond}"), "steps"),
            (format!("journal?from={beyond}"), "entries"),
            (format!("logs?from={beyond}"), "lines"),
            (format!("messages?after={beyond}"), "messages"),
            (format!("state?history=true&after={beyond}"), "published"),
            (format!("state?after={beyond}"), "published"),
            (format!("transcript?after={beyond}"), "lines"),
        ] {
            let found = server.get(&format!("/api/v1/runs/r/{path}"));
            assert_eq!(found[list], json!([]), "{path}: {found}");
        }
        let last = server.get(&format!("/api/v1/runs/r/journal?last={beyond}"));
        assert_eq!(last["entries"][0]["kind"], "started", "{last}");
        let replayed = server.post("/api/v1/runs/r/replay", &json!({ "to": beyond }));
        assert_eq!(replayed["ended"], true, "{replayed}");
        let number = beyond.to_string();
        for verb in [&["events", "--after", &number][..], &["events", "r", "--after", &number]] {
            let ran = place.run(verb);
            assert_eq!((ran.code(), ran.stdout().as_str()), (Some(0), ""), "{verb:?}: {}", ran.stderr());
        }
        let ran = place.run(["messages", "r", "--after", &number]);
        assert_eq!((ran.code(), ran.stdout().as_str()), (Some(0), ""), "{}", ran.stderr());
        for flag in ["--at", "--edit"] {
            let value = if flag == "--at" { number.clone() } else { format!("{number}=1") };
            let error = place.run(["fork", "r", flag, &value]).error(2, &place);
            assert!(error.contains("error[WF0205]"), "{error}");
        }
        assert_eq!(place.run(["replay", "r", "--to", &number]).code(), Some(0));
        assert_eq!(place.run(["ps", "-n", &number]).code(), Some(0));
    }
}

#[test]
fn a_run_is_forked_replayed_moved_and_compared() {
    let place = Place::new();
    let digest = add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "agent": "one" }, { "agent": "two" }]));
    asked["id"] = "r".into();
    server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    let journal = server.get("/api/v1/runs/r/journal")["entries"].as_array().unwrap().clone();
    let answer = journal.iter().position(|entry| entry["kind"] == "completed").unwrap();
    // What it would be; nothing is made.
    let edit = json!([{ "entry": answer, "answer": "edited" }]);
    let mut fork = json!({ "at": answer + 1, "edits": edit, "dry_run": true });
    let preview = server.post("/api/v1/runs/r/fork", &fork);
    assert_eq!((&preview["dry_run"], &preview["run"]), (&json!(true), &Value::Null), "{preview}");
    assert_eq!(server.get("/api/v1/runs")["runs"].as_array().unwrap().len(), 1);
    fork["dry_run"] = false.into();
    fork["id"] = "f".into();
    let made = server.ask("POST", "/api/v1/runs/r/fork", Some(&fork));
    assert_eq!((made.status, &made.ok()["run"]["id"]), (201, &json!("f")));
    let view = comes_to(&server, "f", "completed");
    assert_eq!(view["output"], json!(["edited", "two"]), "{view}");
    let beyond = [100, i64::MAX as u64, u64::MAX];
    let wrong = beyond.map(|at| json!({ "at": at })).into_iter().chain([json!({ "at": 0 })]);
    let wrong = wrong.chain(beyond.map(|entry| json!({ "edits": [{ "entry": entry, "answer": 1 }] })));
    for fork in wrong {
        let code = server.ask("POST", "/api/v1/runs/r/fork", Some(&fork)).error(422);
        assert_eq!(code, "WF0205", "{fork}");
    }
    let differs = server.get("/api/v1/runs/r/compare/f");
    assert_eq!(differs, place.run(["diff", "r", "f", "-o", "json"]).ok_json());
    assert!(differs["differences"].as_array().unwrap().iter().any(|d| d["what"] == "result"), "{differs}");
    // Replayed as it was, and under other code.
    let replayed = server.post("/api/v1/runs/r/replay", &json!({}));
    assert_eq!((&replayed["ended"], &replayed["output"]), (&json!(true), &json!(["one", "two"])));
    let bearer = format!("Bearer {}", server.token);
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/octet-stream")];
    let upload =
        server.try_ask("POST", "/api/v1/modules?name=probe", &headers, &bytes_of_version(1)).unwrap();
    assert_eq!(upload.status, 201, "{}", upload.text());
    let other = upload.ok()["digest"].as_str().unwrap().to_owned();
    assert_ne!(other, digest);
    let module = server.get(&format!("/api/v1/modules/{other}"));
    assert!(
        module["imports"]
            .as_array()
            .unwrap()
            .iter()
            .any(|import| import["name"].as_str().unwrap().contains("agent")),
        "{module}"
    );
    assert_eq!(server.post("/api/v1/runs/r/replay", &json!({ "module": other }))["ended"], true);
    // Two runs that wait: one fits the new code, one does not.
    let start = |id: &str, operations: &Value| {
        let asked = json!({ "module": digest, "input": { "do": operations }, "id": id });
        server.post("/api/v1/runs", &asked);
        comes_to(&server, id, "waiting");
    };
    start("fits", &json!([{ "wait": { "name": "go" } }]));
    start("not", &json!([{ "by_version": [[{ "wait": { "name": "a" } }], [{ "wait": { "name": "b" } }]] }]));
    let preview = server.post(&format!("/api/v1/modules/{other}/upgrade"), &json!({}));
    let result = |view: &Value, run: &str| {
        let runs = view["runs"].as_array().unwrap();
        runs.iter().find(|found| found["run"] == run).unwrap()["result"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (result(&preview, "fits"), result(&preview, "not")),
        ("compatible".to_owned(), "diverges".to_owned())
    );
    assert_eq!(server.get("/api/v1/runs/fits")["module"], digest.as_str());
    let moved = server.post(&format!("/api/v1/modules/{other}/upgrade"), &json!({ "dry_run": false }));
    assert_eq!(
        (result(&moved, "fits"), result(&moved, "not")),
        ("migrated".to_owned(), "diverges".to_owned())
    );
    assert_eq!(server.get("/api/v1/runs/fits")["module"], other.as_str());
    assert_eq!(
        server.ask("POST", "/api/v1/runs/not/replay", Some(&json!({ "module": other }))).error(409),
        "WF0201"
    );
    assert_eq!(server.post("/api/v1/runs/r/verify", &json!({}))["faults"], json!([]));
    let not_wasm = server.try_ask("POST", "/api/v1/modules?name=x", &headers, b"\x7fELF").unwrap();
    assert_eq!(not_wasm.error(422), "WF0102");
}

#[test]
fn journals_logs_state_messages_and_transcripts_are_read_by_parts() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let many: Vec<_> = (0..30).map(|n| json!({ "agent": format!("a{n}") })).collect();
    let mut asked = program(&json!(many));
    asked["id"] = "r".into();
    server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    let whole = place.journal("r");
    let (mut read, mut from) = (Vec::new(), json!(0));
    while let Some(at) = from.as_u64() {
        let page = server.get(&format!("/api/v1/runs/r/journal?from={at}&limit=7"));
        assert!(page["entries"].as_array().unwrap().len() <= 7);
        read.extend(page["entries"].as_array().unwrap().clone());
        from = page["next"].clone();
    }
    assert_eq!(read, whole, "as the command line has it");
    let last = server.get("/api/v1/runs/r/journal?last=2");
    assert_eq!(last["entries"].as_array().unwrap(), &whole[whole.len() - 2..]);
    assert!(last["head"].as_str().is_some());
    let steps = server.get("/api/v1/runs/r/steps?after=10&limit=5");
    let numbers: Vec<_> =
        steps["steps"].as_array().unwrap().iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!((numbers, &steps["next"]), (vec![11, 12, 13, 14, 15], &json!(15)));
    assert_eq!(server.get("/api/v1/runs/r/steps/30")["label"], "a29");
    assert_eq!(server.ask("GET", "/api/v1/runs/r/steps/31", None).error(404), "WF0705");
    for part in ["logs", "messages", "state", "transcript", "family", "why"] {
        let view = server.get(&format!("/api/v1/runs/r/{part}"));
        assert!(view["schema"].as_str().unwrap().starts_with("wfhost/"), "{view}");
    }
}

#[test]
fn schedules_are_made_fired_paused_and_removed() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let asked =
        json!({ "workflow": "probe", "cron": "0 9 * * 1-5", "tz": "Europe/Berlin", "input": { "do": [] } });
    let made = server.ask("PUT", "/api/v1/schedules/report", Some(&asked));
    assert_eq!((made.status, made.ok()["next"].as_array().unwrap().len()), (201, 5));
    assert_eq!(server.ask("PUT", "/api/v1/schedules/report", Some(&asked)).error(409), "WF0514");
    assert_eq!(server.get("/api/v1/schedules"), place.run(["schedule", "ls", "-o", "json"]).ok_json());
    let run =
        server.ask("POST", "/api/v1/schedules/report/fire", None).ok()["run"].as_str().unwrap().to_owned();
    comes_to(&server, &run, "completed");
    assert_eq!(server.ask("POST", "/api/v1/schedules/report/pause", None).ok()["paused"], true);
    assert_eq!(server.ask("POST", "/api/v1/schedules/report/resume", None).ok()["paused"], false);
    let bad = json!({ "workflow": "probe", "cron": "61 * * * *" });
    assert_eq!(server.ask("PUT", "/api/v1/schedules/bad", Some(&bad)).error(422), "WF0515");
    assert_eq!(server.ask("DELETE", "/api/v1/schedules/report", None).status, 200);
    assert_eq!(server.ask("GET", "/api/v1/schedules/report", None).error(404), "WF0513");
}

/// Waits until so many requests wait.
#[track_caller]
fn waited_for(server: &Server, requests: usize) {
    wfhost_tests::eventually("they wait", || {
        let figures = server.ask("GET", "/metrics", None).text();
        figures.contains(&format!("wfhost_event_streams {requests}\n")).then_some(())
    });
}

#[test]
fn long_polls_come_back_when_something_changed_or_the_server_ends() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &["--grace", "1s"]);
    let mut asked = program(&json!([{ "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    let entries = comes_to(&server, "r", "waiting")["entries"].as_u64().unwrap();
    let same = server.get(&format!("/api/v1/runs/r?wait=50ms&until=change&after={entries}"));
    assert_eq!(same["entries"], entries);
    std::thread::scope(|scope| {
        let changed =
            scope.spawn(|| server.get(&format!("/api/v1/runs/r?wait=60s&until=change&after={entries}")));
        let ended = scope.spawn(|| server.get("/api/v1/runs/r?wait=60s"));
        waited_for(&server, 2);
        server.post("/api/v1/runs/r/signals/go", &json!(1));
        // It is told that somebody has taken the run up, or that there are new entries, whichever is seen first.
        let changed = changed.join().unwrap();
        assert!(changed["state"] != "waiting" || changed["entries"].as_u64().unwrap() > entries, "{changed}");
        assert_eq!(ended.join().unwrap()["state"], "completed");
    });
    // One that nobody ends does not hold the server up.
    asked["id"] = "held".into();
    server.post("/api/v1/runs", &asked);
    comes_to(&server, "held", "waiting");
    let (address, token) = (server.address.clone(), server.token.clone());
    let waits = std::thread::spawn(move || {
        let stream = std::net::TcpStream::connect(&address).unwrap();
        let request = format!(
            "GET /api/v1/runs/held?wait=60s HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        use std::io::{Read, Write};
        let mut stream = stream;
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    waited_for(&server, 1);
    // It is answered as the server ends: requests that are still open a while later are cut off.
    assert_eq!(server.stop().code(), Some(143));
    assert!(waits.join().unwrap().starts_with("HTTP/1.1 200"));
}

#[test]
fn what_is_no_json_is_told_from_json_that_does_not_fit() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let bearer = format!("Bearer {}", server.token);
    let send = |path: &str, body: &str| {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        server.try_ask("POST", path, &headers, body.as_bytes()).unwrap()
    };
    // As docs/server.md says.
    for body in ["{", "{\"workflow\": probe}", "{} {}"] {
        assert_eq!(send("/api/v1/runs", body).error(400), "WF0002", "{body}");
    }
    for body in [
        "[]",
        "7",
        r#"{"workflow":1}"#,
        r#"{"workflow":"probe","more":1}"#,
        r#"{"workflow":"probe","labels":"x"}"#,
    ] {
        assert_eq!(send("/api/v1/runs", body).error(422), "WF0812", "{body}");
    }
    assert_eq!(send("/api/v1/runs?wait=long", r#"{"workflow":"probe"}"#).error(400), "WF0812");
    let docs = std::fs::read_to_string(wfhost_tests::target().join("../docs/server.md")).unwrap();
    for text in ["400 for a request that cannot be read", "422 for JSON of another type"] {
        assert!(docs.contains(text), "{text}");
    }
}

#[test]
fn positions_that_are_too_large_are_refused_or_behind_everything() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "agent": "x" }]));
    asked["id"] = "r".into();
    assert_eq!(server.post("/api/v1/runs?wait=30s", &asked)["state"], "completed");
    let most = u64::MAX.to_string();
    for args in [&["events", "--after", &most][..], &["events", "r", "--after", &most]] {
        let ran = place.run(args);
        assert_eq!((ran.code(), ran.stdout()), (Some(0), String::new()), "{args:?}: {}", ran.stderr());
    }
    let browser = crate::pages::Browser::new(&server, &server.token);
    for fields in [
        &[("entry", most.as_str()), ("step", "1"), ("answer", "1")][..],
        &[("entry", &most), ("step", "1"), ("answer", "1"), ("preview", "1")],
        &[("at", &most), ("preview", "1")],
    ] {
        let answer = browser.send("/ui/runs/r/fork", fields);
        assert!((400..500).contains(&answer.status), "{fields:?}: {}", answer.text());
    }
    for path in [
        format!("/ui/runs/r/at?entry={most}"),
        format!("/ui/runs/r/journal?from={most}"),
        format!("/ui/runs/r?after={most}"),
        format!("/ui/runs/r/logs?after={most}"),
        format!("/ui/runs/r/steps/{most}"),
        format!("/ui/runs/r/chart?after={most}"),
    ] {
        let answer = browser.get(&path);
        assert!(answer.status < 500, "{path}: {}", answer.text());
    }
    for path in [
        "journal?from=",
        "journal?last=",
        "steps?after=",
        "logs?after=",
        "events?after=",
        "transcript?after=",
        "steps/",
    ] {
        let answer = server.ask("GET", &format!("/api/v1/runs/r/{path}{most}"), None);
        assert!(answer.status < 500, "{path}: {}", answer.text());
    }
    let answer = server.ask("GET", &format!("/api/v1/events?after={most}"), None);
    assert!(answer.status < 500, "{}", answer.text());
    let answer = server.ask("GET", &format!("/api/v1/runs/r?wait=1ms&until=change&after={most}"), None);
    assert!(answer.status < 500, "{}", answer.text());
}

/// A parameter that is misspelt would have no effect.
#[test]
fn query_parameters_that_an_operation_has_not_are_refused() {
    let place = Place::new();
    add_probe(&place);
    let red = format!("red={}", place.path("red.db").display());
    let server = Server::start(&place, &["--namespace", &red]);
    let nothing = program(&json!([]));
    let ask = |method: &str, path: &str| {
        let body = (method == "POST").then_some(&nothing);
        server.ask(method, path, body)
    };
    for (method, path, hint) in [
        ("POST", "/api/v1/runs?unknown=1", "`wait`"),
        ("POST", "/api/v1/runs?wiat=30s", "did you mean `wait`?"),
        ("POST", "/api/v1/runs/r/pause?wait=1s", "no query parameters"),
        ("DELETE", "/api/v1/runs/r?force=true", "no query parameters"),
        ("GET", "/api/v1/runs/counts?state=failed", "no query parameters"),
        ("GET", "/api/v1/runs?stat=failed", "did you mean `state`?"),
        ("GET", "/ns/red/api/v1/runs?stat=failed", "did you mean `state`?"),
    ] {
        let refused = ask(method, path);
        assert_eq!(refused.error(400), "WF0812", "{path}");
        assert!(
            refused.text().contains("unknown query parameter") && refused.text().contains(hint),
            "{}",
            refused.text()
        );
    }
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]), "nothing was started");
    assert_eq!(ask("POST", "/api/v1/runs?wait=30s").ok()["state"], "completed");
}
