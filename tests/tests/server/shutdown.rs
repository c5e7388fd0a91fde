//! How a server ends: who is still answered, and what a second signal does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use wfhost_tests::{Place, eventually};

use crate::client::{Server, add_probe, program};

/// A request whose body does not come to its end.
fn half_a_request(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 1000\r\n\r\n{{",
        server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[test]
fn a_server_that_ends_answers_until_its_calls_are_done() {
    let place = Place::new();
    add_probe(&place);
    let script = place.script(json!({ "default": { "reply": "late", "delay_ms": 600_000 } }));
    let server = Server::start(&place, &["--agents", &script, "--grace", "10m"]);
    let mut asked = program(&json!([{ "agent_of": { "provider": "scripted", "prompt": "slow" } }]));
    asked["id"] = "r".into();
    server.post("/api/v1/runs", &asked);
    eventually("it calls", || (place.calls().len() == 1).then_some(()));
    server.signal(Signal::TERM);
    let draining = eventually("it says that it is ending", || {
        let answer = server.try_ask("GET", "/readyz", &[], b"").ok()?;
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(
        (draining.json()["status"].as_str(), draining.header("connection")),
        (Some("draining"), Some("close"))
    );
    assert_eq!(server.try_ask("GET", "/healthz", &[], b"").unwrap().status, 200);
    assert_eq!(server.ask("GET", "/api/v1/runs", None).error(503), "WF0816");
    // Whoever only connects does not hold it up.
    let silent = TcpStream::connect(&server.address).unwrap();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(143));
    drop(silent);
    assert_eq!(place.show("r")["state"], "running");
}

#[test]
fn a_second_signal_ends_a_server_that_only_waits_for_its_clients() {
    let (place, other) = (Place::new(), Place::new());
    let (mut once, mut twice) = (Server::start(&place, &[]), Server::start(&other, &[]));
    let held = [half_a_request(&once), half_a_request(&twice)];
    // Both have the request in hand.
    for server in [&once, &twice] {
        eventually("it answers", || {
            (server.try_ask("GET", "/healthz", &[], b"").ok()?.status == 200).then_some(())
        });
    }
    // They have no calls to wait for, and say why they answer nothing else.
    for server in [&twice, &once] {
        server.signal(Signal::TERM);
        eventually("it is ending", || {
            let answer = server.try_ask("GET", "/readyz", &[], b"").ok()?;
            (answer.status == 503).then_some(())
        });
    }
    eventually("the second one ends", || {
        twice.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
        twice.has_ended().then_some(())
    });
    assert!(!once.has_ended(), "nobody was waited for");
    assert_eq!(twice.wait().code(), Some(143));
    assert_eq!(once.wait().code(), Some(143), "clients are not waited for without end");
    for mut stream in held {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced_by_one() {
    let place = Place::new();
    let file = place.file("precious.txt", "precious");
    let at = format!("unix:{file}");
    for args in [&["serve", "--listen", &at][..], &["serve", "--metrics", &at]] {
        let error = place.run(args).error(4, &place);
        assert!(error.starts_with("error[WF0810]") && error.contains("not a socket"), "{error}");
        assert!(error.contains("hint:"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
    // Nor is what a symbolic link leads to, or the link.
    let link = place.path("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let at = format!("unix:{}", link.display());
    assert!(place.run(["serve", "--listen", &at]).error(4, &place).starts_with("error[WF0810]"));
    assert!(link.is_symlink());
    // A socket that nobody listens on any more is.
    let old = place.path("old.sock");
    drop(std::os::unix::net::UnixListener::bind(&old).unwrap());
    let at = format!("unix:{}", old.display());
    let child = place.spawn(["serve", "--listen", &at]);
    eventually("it listens", || UnixStream::connect(&old).ok());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(wfhost_tests::finish(child).code(), Some(143));
    assert!(!old.exists());
}
