//! Who may do what.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::client::{Server, add_probe, program, token};

pub const SCOPES: [&str; 10] = [
    "runs:read",
    "payloads:read",
    "runs:start",
    "runs:signal",
    "people:answer",
    "runs:control",
    "modules:write",
    "schedules:write",
    "metrics:read",
    "admin",
];

/// All operations of the API: method, path, and the sets of scopes of which one is needed.
fn operations(server: &Server) -> Vec<(String, String, Vec<BTreeSet<String>>)> {
    let document = server.try_ask("GET", "/openapi.json", &[], b"").unwrap().ok();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security =
                operation["security"].as_array().unwrap_or_else(|| panic!("{method} {path} names no scope"));
            let needs = security.iter().map(|need| {
                let scopes = need["bearer"].as_array().unwrap().iter();
                scopes.map(|scope| scope.as_str().unwrap().to_owned()).collect()
            });
            operations.push((method.to_uppercase(), path.clone(), needs.collect()));
        }
    }
    assert!(operations.len() > 45, "{}", operations.len());
    operations
}

#[test]
fn every_route_needs_exactly_the_scopes_that_it_names() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([]));
    asked["id"] = "r".into();
    server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok();
    let one: Vec<_> = SCOPES.iter().map(|scope| (*scope, token(&place, scope, scope))).collect();
    for (method, path, needs) in operations(&server) {
        let address = path.replace("{run}", "r").replace("{other}", "r").replace("{step}", "1");
        let address =
            address.replace("{name}", "n").replace("{digest}", &"0".repeat(64)).replace("{id}", "none");
        // A stream is not waited for.
        let address = if path.ends_with("/modules") && method == "POST" {
            format!("{address}?name=x")
        } else {
            address
        };
        let body = json!({});
        let body = (method != "GET").then_some(&body);
        let nobody = server.try_ask(&method, &address, &[], b"").unwrap();
        assert_eq!(nobody.error(401), "WF0901", "{method} {path}");
        let strange = server.ask_as("wf_abc_def", &method, &address, body);
        assert_eq!(strange.error(401), "WF0902", "{method} {path}");
        for (scope, token) in &one {
            let has: BTreeSet<String> = [(*scope).to_owned()].into();
            let lets_in = *scope == "admin" || needs.iter().any(|needed| needed.is_subset(&has));
            let answer = server.ask_as(token, &method, &address, body);
            if lets_in {
                assert!(
                    answer.status != 401 && answer.json()["code"] != "WF0903",
                    "{method} {path} with {scope}: {}",
                    answer.text()
                );
            } else {
                // Whoever may not is told so before anything of the request is looked at.
                let code = answer.json()["code"].clone();
                assert!(
                    code == "WF0903" || (answer.status == 422 && code == "WF0812"),
                    "{method} {path} with {scope}: {} {}",
                    answer.status,
                    answer.text()
                );
            }
        }
        // All that is named together is enough.
        for needed in needs.iter().filter(|needed| !needed.is_empty()) {
            let all = needed.iter().cloned().collect::<Vec<_>>().join(",");
            let token = token(&place, "all", &all);
            let answer = server.ask_as(&token, &method, &address, body);
            assert!(answer.json()["code"] != "WF0903", "{method} {path} with {all}: {}", answer.text());
        }
    }
}

/// All texts in a value.
fn texts(value: &Value, found: &mut String) {
    match value {
        Value::String(text) => found.push_str(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(members) => members.iter().for_each(|(name, item)| {
            found.push_str(name);
            texts(item, found);
        }),
        _ => {}
    }
}

#[test]
fn without_the_scope_for_payloads_nothing_of_them_is_shown() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    const SECRET: &str = "xyzzy";
    let mut asked = program(&json!([
        { "agent": format!("the prompt {SECRET}") },
        { "wait": { "name": "go" } },
        { "fail": format!("it broke: {SECRET}") },
    ]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    let mut asked = program(&json!([{ "ask": { "prompt": format!("{SECRET}?") } }]));
    asked["id"] = "q".into();
    server.post("/api/v1/runs", &asked);
    server.post("/api/v1/runs/r/signals/go", &json!(SECRET));
    let input = json!({ "workflow": "probe", "every": "1h", "input": SECRET });
    assert_eq!(server.ask("PUT", "/api/v1/schedules/s", Some(&input)).status, 201);
    wfhost_tests::eventually("it fails", || {
        (server.get("/api/v1/runs/r")["state"] == "failed").then_some(())
    });
    let reader = token(&place, "reader", "runs:read");
    let everybody = [
        "/runs",
        "/runs/r",
        "/runs/r?steps=true",
        "/runs/r/steps",
        "/runs/r/steps/1",
        "/runs/r/journal",
        "/runs/r/family",
        "/runs/r/events",
        "/events?after=0",
        "/schedules",
        "/schedules/s",
        "/modules",
        "/workers",
    ];
    for path in everybody {
        let path = format!("/api/v1{path}");
        let (mut shown, mut hidden) = (String::new(), String::new());
        texts(&server.get(&path), &mut shown);
        texts(&server.ask_as(&reader, "GET", &path, None).ok(), &mut hidden);
        assert!(!hidden.contains(SECRET), "{path}: {hidden}");
        let about_runs = !path.ends_with("modules") && !path.ends_with("workers");
        assert_eq!(shown.contains(SECRET), about_runs, "{path}: else this test finds nothing");
    }
    for path in [
        "/runs/r/logs",
        "/runs/r/messages",
        "/runs/r/state",
        "/runs/r/transcript",
        "/runs/r/why",
        "/questions",
        "/runs/r/compare/q",
    ] {
        assert_eq!(
            server.ask_as(&reader, "GET", &format!("/api/v1{path}"), None).error(403),
            "WF0903",
            "{path}"
        );
    }
    let told: Vec<_> = server.stream(&reader, "/api/v1/runs/r/events", None).collect();
    assert!(told.len() > 5 && !format!("{told:?}").contains(SECRET), "{told:?}");
}

#[test]
fn how_a_program_differs_from_its_journal_is_told_to_those_who_may_see_payloads() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let prompt = |word: &str| json!([{ "agent": format!("the xyzzy prompt {word}") }]);
    let mut asked =
        program(&json!([{ "by_version": [prompt("a"), prompt("b")] }, { "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    wfhost_tests::eventually("it waits", || {
        (server.get("/api/v1/runs/r")["state"] == "waiting").then_some(())
    });
    let bearer = format!("Bearer {}", server.token);
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/octet-stream")];
    let other = wfhost_tests::bytes_of_version(1);
    let other = server.try_ask("POST", "/api/v1/modules?name=probe", &headers, &other).unwrap().ok();
    let other = other["digest"].as_str().unwrap();
    let blind = token(&place, "blind", "runs:read,runs:start,runs:control");
    for (path, body) in [
        ("fork", json!({ "module": other, "dry_run": true })),
        ("fork", json!({ "module": other })),
        ("resume", json!({ "module": other })),
    ] {
        let path = format!("/api/v1/runs/r/{path}");
        let seen = server.ask("POST", &path, Some(&body));
        assert_eq!(seen.error(409), "WF0201", "{path}");
        assert!(seen.text().contains("xyzzy"), "{path}: else this test finds nothing: {}", seen.text());
        let hidden = server.ask_as(&blind, "POST", &path, Some(&body));
        assert_eq!(hidden.error(409), "WF0201", "{path}");
        assert!(!hidden.text().contains("xyzzy"), "{path}: {}", hidden.text());
        assert!(hidden.text().contains("payloads:read"), "{path}: {}", hidden.text());
    }
}

#[test]
fn tokens_are_shown_once_end_and_can_be_taken_back() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let made = server.ask(
        "POST",
        "/api/v1/tokens",
        Some(&json!({ "name": "ci", "scopes": ["runs:read"], "expires": "90d" })),
    );
    let made = (made.status, made.ok());
    let (secret, id) = (made.1["secret"].as_str().unwrap(), made.1["token"]["id"].as_str().unwrap());
    assert_eq!(made.0, 201);
    assert_eq!(server.ask_as(secret, "GET", "/api/v1/runs", None).status, 200);
    let listed = place.run(["token", "ls", "-o", "json"]).ok_json();
    let ci = listed["tokens"].as_array().unwrap().iter().find(|token| token["name"] == "ci").unwrap().clone();
    assert!(ci["used_at"].is_string() && ci["expires_at"].is_string(), "{ci}");
    // Neither the list nor the file has it.
    let hidden = secret.rsplit('_').next().unwrap();
    assert!(!listed.to_string().contains(hidden));
    for file in [place.db(), place.path("wfhost.db-wal")] {
        let bytes = std::fs::read(file).unwrap_or_default();
        assert!(!bytes.windows(hidden.len()).any(|window| window == hidden.as_bytes()));
    }
    assert_eq!(place.run(["token", "rm", "ci"]).code(), Some(0));
    assert_eq!(server.ask_as(secret, "GET", "/api/v1/runs", None).error(401), "WF0902");
    assert_eq!(server.ask("DELETE", &format!("/api/v1/tokens/{id}"), None).error(404), "WF0907");
    // One whose time is over.
    let short = place.run(["token", "new", "short", "--scope", "runs:read", "--expires", "1s"]).stdout();
    wfhost_tests::eventually("has expired", || {
        (server.ask_as(short.trim(), "GET", "/api/v1/runs", None).status == 401).then_some(())
    });
    for (asked, status) in [
        (json!({ "name": "x", "scopes": [] }), 422),
        (json!({ "name": "x", "scopes": ["everything"] }), 422),
        (json!({ "name": "", "scopes": ["admin"] }), 422),
        (json!({ "name": "x", "scopes": ["admin"], "expires": "soon" }), 422),
    ] {
        server.ask("POST", "/api/v1/tokens", Some(&asked)).error(status);
    }
    let audit = place.run(["token", "audit", "-o", "json"]).ok_json();
    let acts: Vec<_> =
        audit["acts"].as_array().unwrap().iter().map(|act| act["act"].as_str().unwrap()).collect();
    assert_eq!(acts, ["tokens.create", "tokens.delete", "tokens.create"], "the latest first");
}

#[test]
fn a_browser_gets_in_by_a_code_once_and_only_by_a_button() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let path = place.run(["token", "new", "phone", "--scope", "runs:read", "--browser"]).stdout();
    let code = path.trim().split_once("code=").unwrap().1.to_owned();
    // Whoever only follows the link changes nothing.
    for _ in 0..3 {
        let page = server.try_ask("GET", path.trim(), &[], b"").unwrap();
        assert!(page.status == 200 && page.text().contains("<form method=\"post\""), "{}", page.text());
    }
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let log_in = || server.try_ask("POST", "/ui/login", &form, format!("code={code}").as_bytes()).unwrap();
    let first = log_in();
    assert_eq!(first.status, 303, "{}", first.text());
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    assert_eq!(log_in().status, 401, "it works once");
    // Headers are compared in lower case here, so the cookie is taken from the bytes of another login.
    let ran = place.run(["token", "new", "laptop", "--scope", "runs:read", "--browser"]).stdout();
    let code = ran.trim().split_once("code=").unwrap().1.to_owned();
    let cookie = server.log_in(&code);
    let with = |headers: &[(&str, &str)]| {
        let mut all = vec![("Cookie", cookie.as_str())];
        all.extend(headers);
        server.try_ask("GET", "/api/v1/runs", &all, b"").unwrap().status
    };
    assert_eq!(with(&[]), 200);
    assert_eq!(with(&[("Sec-Fetch-Site", "same-origin")]), 200);
    assert_eq!(
        with(&[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")]),
        401,
        "a script of another site"
    );
    assert_eq!(
        with(&[("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "cors")]),
        401,
        "another port of this machine"
    );
    let out = server.try_ask("POST", "/ui/logout", &[("Cookie", &cookie)], b"").unwrap();
    assert_eq!(out.status, 303);
    assert_eq!(with(&[]), 401);
}

#[test]
fn a_session_and_a_stream_end_with_the_token_that_they_were_made_with() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let status =
        |cookie: &str| server.try_ask("GET", "/api/v1/runs", &[("Cookie", cookie)], b"").unwrap().status;
    // Removed by the command line, which knows nothing of sessions, and by the API, which removes them, too.
    for by_api in [false, true] {
        let secret = token(&place, "ci", "runs:read");
        let (cookie, other) = (server.log_in(&secret), server.log_in(&server.token));
        assert_eq!((status(&cookie), status(&other)), (200, 200));
        let mut stream = server.stream(&secret, "/api/v1/events?kinds=commit", None);
        if by_api {
            let id = secret.split('_').nth(1).unwrap();
            server.ask("DELETE", &format!("/api/v1/tokens/{id}"), None).ok();
            let left = server.ask("GET", "/api/v1/tokens", None).text();
            assert!(!left.contains("browser of ci"), "{left}");
        } else {
            assert_eq!(place.run(["token", "rm", "ci"]).code(), Some(0));
        }
        assert_eq!((status(&cookie), status(&other)), (401, 200), "by the API: {by_api}");
        // One that is open notices it, though nothing happens.
        let told: Vec<_> = stream.by_ref().map(|event| event.event).collect();
        assert_eq!(told.last().map(String::as_str), Some("bye"), "{told:?}");
    }
    // One of a token that expires does so with it, and one that was made with a code does not need that any more.
    let code = place.run(["token", "new", "phone", "--scope", "runs:read", "--browser"]).stdout();
    let code = code.trim().split_once("code=").unwrap().1.to_owned();
    let phone = server.log_in(&code);
    // Long enough to log in with it, on a slow machine, too.
    let short = place.run(["token", "new", "short", "--scope", "runs:read", "--expires", "10s"]).stdout();
    let short = server.log_in(short.trim());
    wfhost_tests::eventually("it has expired", || (status(&short) == 401).then_some(()));
    assert_eq!(status(&phone), 200);
    assert_eq!(server.try_ask("POST", "/ui/logout", &[("Cookie", &phone)], b"").unwrap().status, 303);
    let audit = place.run(["token", "audit", "-o", "json"]).ok_json();
    let acts: Vec<_> = audit["acts"].as_array().unwrap().iter().collect();
    assert_eq!(acts[0]["act"], "sessions.delete", "{audit}");
    let made: Vec<_> = acts.iter().filter(|act| act["act"] == "sessions.create").collect();
    assert_eq!(made.len(), 6, "{audit}");
    let target = made[1]["target"].as_str().unwrap();
    assert!(
        target.starts_with("browser of phone (") && made[1]["who"].as_str().unwrap().contains("phone"),
        "{audit}"
    );
}

#[test]
fn addresses_that_others_reach_need_tokens_and_sockets_need_none() {
    let place = Place::new();
    let error = place.run(["serve", "--listen", "0.0.0.0:0"]).error(2, &place);
    assert!(error.starts_with("error[WF0811]: 0.0.0.0:0 is reachable from other machines"), "{error}");
    let error = place.run(["serve", "--listen", "nowhere"]).error(2, &place);
    assert!(error.starts_with("error[WF0811]"), "{error}");
    let error = place
        .run(["serve", "--listen", "127.0.0.1:0", "--tls-cert", "/none", "--tls-key", "/none"])
        .error(2, &place);
    assert!(error.starts_with("error[WF0811]: /none cannot be used"), "{error}");
    let server = Server::start(&place, &[]);
    let taken = place.run(["serve", "--listen", &server.address]).error(4, &place);
    assert!(taken.starts_with("error[WF0810]"), "{taken}");
    // Whoever may open the socket is the user.
    let socket = place.path("s.sock");
    let child = place.spawn(["serve", "--listen", &format!("unix:{}", socket.display())]);
    let mut stream =
        wfhost_tests::eventually("the socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    stream.write_all(b"GET /api/v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"admin\""), "{answer}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(wfhost_tests::finish(child).code(), Some(143));
    assert!(!socket.exists());
}

#[test]
fn a_server_that_only_shows_changes_nothing() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &["--read-only"]);
    assert_eq!(server.ask("POST", "/api/v1/runs", Some(&program(&json!([])))).error(403), "WF0817");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    // What administrators only look at is shown, what they would change is not.
    for path in ["tokens", "audit", "sinks", "settings", "plugins"] {
        assert_eq!(server.ask("GET", &format!("/api/v1/{path}"), None).status, 200, "{path}");
    }
    let asked = json!({ "name": "x", "scopes": ["runs:read"] });
    assert_eq!(server.ask("POST", "/api/v1/tokens", Some(&asked)).error(403), "WF0817");
    assert_eq!(server.ask("DELETE", "/api/v1/tokens/none", None).error(403), "WF0817");
    let browser = crate::pages::Browser::new(&server, &server.token);
    for path in ["settings", "plugins", "sinks"] {
        browser.page(&format!("/ui/{path}"));
    }
    let tokens = browser.page("/ui/tokens");
    assert!(!tokens.contains("action=\"/ui/tokens"), "{tokens}");
    assert_eq!(browser.send("/ui/tokens", &[("name", "x"), ("scope", "admin")]).status, 403);
}
