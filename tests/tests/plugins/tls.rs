//! Servers with TLS: one that nobody certifies is not asked, one that the configuration's file certifies is.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use wfhost_tests::{Place, eventually};

use crate::certificates::certify;
use crate::{first, grant, http, puppet, shown};

/// A server of OpenSSL's with certificates of its own, which ends with the test.
struct Server {
    url: String,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(place: &Place, name: &str) -> Self {
        let port = wfhost_tests::free_port();
        place.file("hello", "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhello over TLS");
        let (certificate, key) = (format!("{name}-server.pem"), format!("{name}-server.key"));
        let port_arg = port.to_string();
        let mut command = Command::new("openssl");
        command.args([
            "s_server",
            "-HTTP",
            "-quiet",
            "-accept",
            &port_arg,
            "-cert",
            &certificate,
            "-key",
            &key,
        ]);
        command.current_dir(place.path("")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("openssl is installed: tests/setup");
        eventually("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { url: format!("https://localhost:{port}/"), child }
    }
}

#[test]
fn only_servers_that_are_certified_are_asked() {
    let place = Place::new();
    certify(&place, "ours");
    certify(&place, "theirs");
    let server = Server::start(&place, "ours");
    let fetch = json!({ "fetch": { "url": format!("{}hello", server.url) } });
    // By nobody whom the machine knows.
    grant(&place, &http(&server.url, &["GET"], ""));
    let refused = first(&place, fetch.clone());
    assert!(refused["error"].is_string(), "{refused}");
    let told = shown(&place);
    assert!(told.contains("no answer of ") && told.contains("UnknownIssuer"), "{told}");
    // By somebody else than the configuration says.
    let place_of = |ca: &str| {
        let other = Place::new();
        for file in ["ours.pem", "theirs.pem"] {
            std::fs::copy(place.path(file), other.path(file)).unwrap();
        }
        grant(&other, &http(&server.url, &["GET"], &format!("ca = \"{ca}\"")));
        other
    };
    let theirs = place_of("theirs.pem");
    let refused = first(&theirs, fetch.clone());
    assert!(refused["error"].is_string() && shown(&theirs).contains("UnknownIssuer"), "{refused}");
    let answered = first(&place_of("ours.pem"), fetch.clone());
    assert_eq!(
        (&answered["status"], &answered["body"]),
        (&json!(200), &json!("hello over TLS")),
        "{answered}"
    );
    // A name that the certificate does not have.
    let named = place_of("ours.pem");
    let by_address = server.url.replace("localhost", "127.0.0.2");
    grant(&named, &http(&by_address, &["GET"], "ca = \"ours.pem\"\nprivate = true"));
    let refused = first(&named, json!({ "fetch": { "url": format!("{by_address}hello") } }));
    assert!(refused["error"].is_string(), "{refused}");
    // Files that certify nobody.
    for (name, text) in [("missing.pem", None), ("none.pem", Some("no certificate"))] {
        let bad = place_of(name);
        if let Some(text) = text {
            bad.file(name, text);
        }
        let answer = puppet(&bad, json!([fetch]));
        let said = answer["message"].as_str().unwrap_or_default();
        assert!(said.contains("WF1208") && said.contains(name), "{answer}");
        let doctor = bad.run(["doctor", "--config", &bad.path("wfhost.toml").display().to_string()]).stdout();
        assert!(doctor.contains("certificates"), "{doctor}");
    }
    let plain = place_of("ours.pem");
    grant(&plain, &http("http://localhost:1/", &["GET"], "ca = \"ours.pem\""));
    let config = plain.path("wfhost.toml").display().to_string();
    let error = plain.run(["plugin", "ls", "--config", &config]).error(2, &plain);
    assert!(error.contains("error[WF0704]") && error.contains("it needs an https:// URL"), "{error}");
}
