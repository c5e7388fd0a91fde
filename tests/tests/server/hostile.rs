//! What others try, and what stops them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use wfhost_tests::{Place, eventually};

use crate::client::{Server, add_probe, program, token};

/// A page of another site had its own name lead to this machine.
#[test]
fn requests_that_are_addressed_to_another_name_are_refused() {
    let place = Place::new();
    let server = Server::start(&place, &["--allow-host", "wf.example.org"]);
    let bearer = format!("Bearer {}", server.token);
    let ask = |host: &str| {
        server.try_ask("GET", "/api/v1/runs", &[("Host", host), ("Authorization", &bearer)], b"").unwrap()
    };
    for host in ["evil.example", "evil.example:7777", "localhost.evil.example", "127.0.0.1.evil.example", ""]
    {
        assert_eq!(ask(host).error(421), "WF0904", "{host}");
    }
    for host in
        ["localhost", "localhost:1", "127.0.0.1:9", "[::1]:7777", "wf.example.org", "WF.example.org:443"]
    {
        assert_eq!(ask(host).status, 200, "{host}");
    }
    // Also what needs no token tells such a page nothing, and neither do two names.
    for path in ["/healthz", "/openapi.json", "/ui/login"] {
        let refused = server.try_ask("GET", path, &[("Host", "evil.example")], b"").unwrap();
        assert_eq!(refused.error(421), "WF0904", "{path}");
    }
    let two = [("Host", "localhost"), ("Host", "evil.example"), ("Authorization", bearer.as_str())];
    let status = server.try_ask("GET", "/api/v1/runs", &two, b"").unwrap().status;
    assert!(status == 421 || status == 400, "{status}");
}

/// A page of another site sends requests with the cookie of its visitor.
#[test]
fn requests_from_pages_of_other_sites_change_nothing() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let code = place.run(["token", "new", "me", "--scope", "admin", "--browser"]).stdout();
    let cookie = server.log_in(code.trim().split_once("code=").unwrap().1);
    let body = program(&json!([])).to_string();
    let send = |headers: &[(&str, &str)]| {
        let mut all = vec![("Cookie", cookie.as_str()), ("Content-Type", "application/json")];
        all.extend(headers);
        server.try_ask("POST", "/api/v1/runs", &all, body.as_bytes()).unwrap()
    };
    for headers in [
        &[("Sec-Fetch-Site", "cross-site")][..],
        &[("Sec-Fetch-Site", "same-site")],
        &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")],
        &[("Origin", "https://evil.example")],
        &[("Origin", "null")],
    ] {
        assert_eq!(send(headers).error(403), "WF0905", "{headers:?}");
    }
    // Nor does a form of such a page, which can send no JSON.
    let form =
        [("Cookie", cookie.as_str()), ("Content-Type", "text/plain"), ("Origin", "https://evil.example")];
    assert_eq!(server.try_ask("POST", "/api/v1/runs", &form, body.as_bytes()).unwrap().error(403), "WF0905");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    let own = format!("http://{}", server.address);
    assert_eq!(send(&[("Origin", &own), ("Sec-Fetch-Site", "same-origin")]).status, 201);
    // No other site is let in by CORS, nor may it frame or read anything.
    let answer = server.ask("GET", "/api/v1/runs", None);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let policy = answer.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-frame-options", "deny"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
}

#[test]
fn tokens_in_addresses_are_refused() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let secret = server.token.clone();
    // Names of others may begin as tokens do.
    for path in ["/api/v1/runs?text=wf_report", "/api/v1/runs?key=wf_order_17"] {
        assert_eq!(server.ask("GET", path, None).status, 200, "{path}");
    }
    for path in [
        format!("/api/v1/runs?token={secret}"),
        format!("/api/v1/runs?access_token={secret}"),
        format!("/api/v1/runs?x={secret}"),
    ] {
        assert_eq!(server.try_ask("GET", &path, &[], b"").unwrap().error(400), "WF0906");
        // Also beside a good one, so that nobody gets used to it.
        assert_eq!(server.ask("GET", &path, None).error(400), "WF0906");
    }
}

/// Something that follows every link, before a person does; and people who send twice.
#[test]
fn callbacks_act_on_post_only_once_and_cannot_be_made_up() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "wait": { "name": "paid" } }, { "ask": { "prompt": "Ship?" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    let make = |asked: &Value| {
        let view = server.ask("POST", "/api/v1/callbacks", Some(asked)).ok();
        let url = view["url"].as_str().unwrap().to_owned();
        url.split_once(&server.address).unwrap().1.to_owned()
    };
    let signal = make(&json!({ "run": "r", "signal": "paid" }));
    let answer = make(&json!({ "run": "r", "step": 2 }));
    let start = make(&json!({ "workflow": "probe" }));
    // Scanners and previews: nothing happens.
    for path in [&signal, &answer, &start] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let _ = server.try_ask(method, path, &[], b"").unwrap();
        }
    }
    assert_eq!(server.get("/api/v1/runs")["runs"].as_array().unwrap().len(), 1);
    assert_eq!(place.journal("r").iter().filter(|entry| entry["kind"] == "received").count(), 0);
    let send = |path: &str, body: &str| {
        server.try_ask("POST", path, &[("Content-Type", "application/json")], body.as_bytes()).unwrap()
    };
    // A changed address, that of another kind, one without its end.
    let (text, mac) = signal.split_once('.').unwrap();
    let (other, _) = answer.split_once('.').unwrap();
    for bad in [
        format!("{other}.{mac}"),
        text.to_owned(),
        format!("{text}.AAAA"),
        "/c/x".to_owned(),
        format!("{signal}A"),
    ] {
        assert_eq!(send(&bad, "1").error(404), "WF0908", "{bad}");
    }
    assert_eq!(send(&signal, r#"{"amount":5}"#).ok()["result"], "taken");
    assert_eq!(send(&signal, r#"{"amount":5}"#).ok()["result"], "taken before");
    assert_eq!(send(&signal, r#"{"amount":6}"#).error(409), "WF0909");
    eventually("the question", || server.get("/api/v1/questions")["questions"].as_array()?.first().cloned());
    assert_eq!(send(&answer, "true").ok()["result"], "taken");
    assert_eq!(send(&answer, "true").ok()["result"], "taken before");
    assert_eq!(send(&answer, "false").error(409), "WF0909");
    eventually("the end", || (server.get("/api/v1/runs/r")["state"] == "completed").then_some(()));
    assert_eq!(server.get("/api/v1/runs/r")["output"], json!([{ "amount": 5 }, true]));
    assert_eq!(place.journal("r").iter().filter(|entry| entry["kind"] == "received").count(), 1);
    // One that starts runs does so for each thing that comes, once.
    let first = send(&start, r#"{"do":[]}"#).ok();
    assert_eq!(
        (&first["result"], &send(&start, r#"{"do":[]}"#).ok()["run"]),
        (&json!("taken"), &first["run"])
    );
    assert_ne!(send(&start, r#"{"do":[{"agent":"x"}]}"#).ok()["run"], first["run"]);
    // After the end, and after its time.
    let late = server.ask("POST", "/api/v1/callbacks", Some(&json!({ "run": "r", "signal": "late" }))).ok();
    let late = late["url"].as_str().unwrap().split_once(&server.address).unwrap().1.to_owned();
    assert_eq!(send(&late, "1").error(410), "WF0910");
    let short = make(&json!({ "run": "r", "signal": "x", "expires": "1ms" }));
    eventually("has expired", || (send(&short, "1").status == 410).then_some(()));
    // What the journal shows does not tell the address.
    let reader = token(&place, "reader", "runs:read,payloads:read");
    let seen = server.ask_as(&reader, "GET", "/api/v1/runs/r/journal", None).text();
    assert!(!seen.contains(mac) && !seen.contains(text.trim_start_matches("/c/")));
    // Who may neither signal, answer nor start makes none.
    let made =
        server.ask_as(&reader, "POST", "/api/v1/callbacks", Some(&json!({ "run": "r", "signal": "x" })));
    assert_eq!(made.error(403), "WF0903");
}

/// The answer and that it was given are written one after the other: the database fails in between.
#[test]
fn an_answer_by_a_callback_is_known_again_whatever_fails_meanwhile() {
    if wfhost_tests::only_for_files("a trigger has a write fail") {
        return;
    }
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "ask": { "prompt": "Ship?", "choices": ["yes", "no"] } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("the question", || server.get("/api/v1/questions")["questions"].as_array()?.first().cloned());
    let made = server.ask("POST", "/api/v1/callbacks", Some(&json!({ "run": "r", "step": 1 }))).ok();
    let path = made["url"].as_str().unwrap().split_once(&server.address).unwrap().1.to_owned();
    let send = |body: &str| {
        server.try_ask("POST", &path, &[("Content-Type", "application/json")], body.as_bytes()).unwrap()
    };
    // One that does not fit leaves the address as it is.
    assert_eq!(send("\"perhaps\"").error(422), "WF0508");
    let database = rusqlite::Connection::open(place.db()).expect("the database");
    let broken = "CREATE TRIGGER broken BEFORE INSERT ON callbacks BEGIN SELECT RAISE(ABORT, 'broken'); END";
    database.execute_batch(broken).expect("a trigger");
    let failed = send("\"yes\"");
    assert!(failed.status >= 500, "{}", failed.text());
    database.execute_batch("DROP TRIGGER broken").expect("there is one");
    // Whoever does not know whether it was taken sends it again.
    assert_eq!(send("\"yes\"").status, 200);
    assert_eq!(send("\"yes\"").ok()["result"], "taken before");
    assert_eq!(send("\"no\"").error(409), "WF0909");
    assert_eq!(server.get("/api/v1/runs/r?wait=30s")["output"], json!(["yes"]));
}

/// What is recorded of it is the reply to the call, and not the answer alone.
#[test]
fn an_answer_by_a_callback_to_a_call_that_people_answer_is_known_again() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let call = json!({ "agent_with": { "prompt": "Ship?", "providers": ["human"] } });
    let mut asked = program(&json!([call, { "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("the question", || server.get("/api/v1/questions")["questions"].as_array()?.first().cloned());
    let made = server.ask("POST", "/api/v1/callbacks", Some(&json!({ "run": "r", "step": 1 }))).ok();
    let path = made["url"].as_str().unwrap().split_once(&server.address).unwrap().1.to_owned();
    let send = |body: &str| {
        server.try_ask("POST", &path, &[("Content-Type", "application/json")], body.as_bytes()).unwrap()
    };
    // As a file with a line in it is sent.
    assert_eq!(send("{\"ok\": true}\n").ok()["result"], "taken");
    let has = |kind: &str| place.journal("r").iter().any(|entry| entry["kind"] == kind);
    eventually("it is recorded", || has("answered").then_some(()));
    assert_eq!(send("{\"ok\": true}\n").ok()["result"], "taken before");
    assert_eq!(send("false").error(409), "WF0909");
    server.post("/api/v1/runs/r/signals/go", &json!(1));
    let view = server.get("/api/v1/runs/r?wait=30s");
    assert_eq!(
        (&view["output"][0]["output"], &view["output"][1]),
        (&json!({ "ok": true }), &json!(1)),
        "{view}"
    );
    assert_eq!(send("{\"ok\": true}\n").ok()["result"], "taken before");
}

/// Whoever took it wrote down that the address was used, and died before there was an answer.
#[test]
fn a_callback_whose_answer_was_not_taken_does_not_say_that_it_was() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let mut asked = program(&json!([{ "ask": { "prompt": "Ship?" } }, { "wait": { "name": "go" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("the question", || server.get("/api/v1/questions")["questions"].as_array()?.first().cloned());
    let made = server.ask("POST", "/api/v1/callbacks", Some(&json!({ "run": "r", "step": 1 }))).ok();
    let path = made["url"].as_str().unwrap().split_once(&server.address).unwrap().1.to_owned();
    let digest = |text: &str| wfhost_core::Digest::of(text.as_bytes()).hex();
    let (token, body) = (digest(path.strip_prefix("/c/").unwrap()), digest("\"yes\""));
    place.change(
        &format!("INSERT INTO callbacks (token, body, at) VALUES (x'{token}', x'{body}', 1)"),
        &format!(r"INSERT INTO callbacks (token, body, at) VALUES ('\x{token}', '\x{body}', 1)"),
    );
    // Somebody else answers otherwise in the meantime.
    let other = server.ask("POST", "/api/v1/runs/r/steps/1/answer", Some(&json!({ "answer": "no" })));
    assert_eq!(other.status, 202, "{}", other.text());
    let send = || server.try_ask("POST", &path, &[("Content-Type", "application/json")], b"\"yes\"").unwrap();
    assert_eq!(send().error(410), "WF0910");
    eventually("it goes on", || (place.journal("r").len() >= 4).then_some(()));
    assert_eq!(send().error(410), "WF0910");
}

#[test]
fn bodies_that_are_too_large_are_not_read() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = memory();
    const SIZE: usize = 100 << 20;
    for path in ["/api/v1/runs", "/api/v1/runs/r/signals/go", "/api/v1/modules?name=x", "/c/x", "/ui/login"] {
        // One that says how long it is, and one that does not.
        for head in [format!("Content-Length: {SIZE}"), "Transfer-Encoding: chunked".to_owned()] {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{head}\r\n\r\n",
                server.address, server.token
            );
            stream.write_all(request.as_bytes()).unwrap();
            let part = vec![b'1'; 1 << 20];
            let mut sent = 0;
            while sent < SIZE {
                let sending = if head.starts_with('T') {
                    stream
                        .write_all(format!("{:x}\r\n", part.len()).as_bytes())
                        .and_then(|()| stream.write_all(&part))
                        .and_then(|()| stream.write_all(b"\r\n"))
                } else {
                    stream.write_all(&part)
                };
                if sending.is_err() {
                    break;
                }
                sent += part.len();
            }
            assert!(sent < SIZE, "{path}, {head}: all of it was taken");
        }
    }
    let grown = memory() - before;
    // A module is held in memory, and may have 64 MiB.
    assert!(grown < 256_000, "{grown} kB for what is refused");
    assert_eq!(server.ask("GET", "/api/v1/runs", None).status, 200);
}

#[test]
fn slow_clients_and_many_connections_keep_nobody_out() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    // Heads that do not end, bodies that do not come.
    let mut slow = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = match n % 4 {
            0 => "G".to_owned(),
            // It needs no token.
            3 => "POST /ui/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                  Content-Length: 1000\r\n\r\ncode="
                .to_owned(),
            1 => "GET /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nX-A: ".to_owned(),
            _ => format!(
                "POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 1000\r\n\r\n{{",
                server.token
            ),
        };
        stream.write_all(head.as_bytes()).unwrap();
        slow.push(stream);
    }
    let mut asked = program(&json!([{ "agent": "x" }]));
    asked["key"] = "beside".into();
    assert_eq!(server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).ok()["state"], "completed");
    // All of them are sent away in the end.
    for (n, mut stream) in slow.into_iter().enumerate() {
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(read.is_ok() || !answer.is_empty(), "{n}: {read:?}");
        if n % 4 >= 2 {
            assert!(answer.starts_with(b"HTTP/1.1 408"), "{n}: {}", String::from_utf8_lossy(&answer));
        }
    }
}

#[test]
fn one_token_has_so_many_streams_and_no_more() {
    let place = Place::new();
    add_probe(&place);
    let server = Server::start(&place, &[]);
    let one = token(&place, "one", "runs:read");
    let mut streams: Vec<_> =
        (0..100).map(|_| server.stream(&one, "/api/v1/events?kinds=commit", None)).collect();
    let more = server.ask_as(&one, "GET", "/api/v1/events?wait=10s", None);
    assert_eq!((more.error(429), more.header("retry-after").is_some()), ("WF0815".to_owned(), true));
    // Others are not kept out, and all are told.
    let mut asked = program(&json!([{ "agent": "x" }]));
    asked["id"] = "r".into();
    assert_eq!(server.ask("POST", "/api/v1/runs?wait=30s", Some(&asked)).status, 201);
    for stream in &mut streams {
        assert_eq!(stream.next().expect("an event").data["run"], "r");
    }
    drop(streams);
    eventually("the places are free again", || {
        (server.ask_as(&one, "GET", "/api/v1/events?wait=10ms", None).status == 200).then_some(())
    });
}
