//! Deliveries of others: signed, once, and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::json;
use wfhost_tests::{Place, eventually};

use crate::client::{Answer, Server, add_probe, program};

pub const SECRET: &str = "a secret that nobody else has";

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn serve(place: &Place, config: &str, more: &[&str]) -> Server {
    add_probe(place);
    let file = place.file("hooks.toml", config);
    let args: Vec<_> = ["--config", &file].into_iter().chain(more.iter().copied()).collect();
    Server::start_in(place, &args, &[("HOOK_SECRET", SECRET)])
}

#[track_caller]
fn deliver(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    server.try_ask("POST", path, headers, body.as_bytes()).expect("an answer")
}

#[track_caller]
pub fn github(server: &Server, event: &str, delivery: &str, secret: &str, body: &str) -> Answer {
    let tag = format!("sha256={}", hex(&mac(secret.as_bytes(), body.as_bytes())));
    let headers = [
        ("Content-Type", "application/json"),
        ("X-GitHub-Event", event),
        ("X-GitHub-Delivery", delivery),
        ("X-Hub-Signature-256", tag.as_str()),
    ];
    deliver(server, "/hooks/pushes", &headers, body)
}

#[test]
fn a_delivery_that_is_signed_starts_one_run_however_often_it_comes() {
    let place = Place::new();
    let config = "[webhooks.pushes]\nverify = 'github'\nsecret_env = 'HOOK_SECRET'\nevents = ['push']\nworkflow = 'probe'\n";
    let server = serve(&place, config, &[]);
    // Numbers and order stay as they were written.
    let body = r#"{"ref": "refs/heads/main", "size": 12345678901234567890, "a": [1.50]}"#;
    let taken = github(&server, "push", "d-1", SECRET, body).ok();
    assert_eq!(taken["result"], "taken");
    let run = taken["run"].as_str().unwrap().to_owned();
    // Its id is in a header that is not signed: what is the same is told by what is signed.
    for delivery in ["d-1", "d-2"] {
        let again = github(&server, "push", delivery, SECRET, body).ok();
        assert_eq!((again["result"].as_str(), again["run"].as_str()), (Some("taken before"), Some(&*run)));
    }
    let other = github(&server, "push", "d-1", SECRET, &body.replace("main", "next")).ok();
    assert!(other["result"] == "taken" && other["run"] != *run);
    let shown = server.get(&format!("/api/v1/runs/{run}"));
    assert_eq!(shown["labels"], json!({ "webhook": "pushes", "event": "push" }));
    let input = server.ask("GET", &format!("/api/v1/runs/{run}/journal"), None).text();
    assert!(input.contains("12345678901234567890") && input.contains("1.50"), "{input}");
    // What is not wanted, and what is not signed.
    assert_eq!(github(&server, "issues", "d-3", SECRET, body).ok()["result"], "left out");
    assert_eq!(github(&server, "push", "d-4", "another secret", body).error(401), "WF0912");
    let unsigned = deliver(&server, "/hooks/pushes", &[("X-GitHub-Event", "push")], body);
    assert_eq!(unsigned.error(401), "WF0912");
    let tag = format!("sha256={}", hex(&mac(SECRET.as_bytes(), b"payload=%7B%7D")));
    let form = [("X-GitHub-Event", "push"), ("X-Hub-Signature-256", tag.as_str())];
    assert_eq!(deliver(&server, "/hooks/pushes", &form, "payload=%7B%7D").error(400), "WF0002");
    assert_eq!(deliver(&server, "/hooks/none", &form, "{}").error(404), "WF0813");
    let looked = server.try_ask("GET", "/hooks/pushes", &[], b"").unwrap();
    assert_eq!(looked.error(405), "WF0813");
    assert_eq!(server.get("/api/v1/runs")["runs"].as_array().unwrap().len(), 2);
    let audit = server.ask("GET", "/api/v1/audit", None).text();
    assert!(audit.contains("the webhook pushes") && audit.contains("webhook.start"), "{audit}");
    // Also after the server was killed.
    server.kill();
    let server = serve(&place, config, &[]);
    assert_eq!(github(&server, "push", "d-5", SECRET, body).ok()["result"], "taken before");
    let settings = server.ask("GET", "/api/v1/settings", None).text();
    assert!(settings.contains("webhooks.pushes.secret_env") && !settings.contains(SECRET), "{settings}");
}

/// What is handed to the program has the delivery in it, so that it is one level deeper: no repetition changes that.
#[test]
fn a_delivery_that_is_too_deep_is_refused_for_good() {
    let place = Place::new();
    let config = "[webhooks.pushes]\nverify = 'github'\nsecret_env = 'HOOK_SECRET'\nworkflow = 'probe'\n";
    let server = serve(&place, config, &[]);
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(github(&server, "push", "d-1", SECRET, &nested(127)).error(422), "WF0003");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    assert_eq!(github(&server, "push", "d-2", SECRET, &nested(126)).ok()["result"], "taken");
}

#[test]
fn a_signed_time_has_to_be_near_and_signals_come_once() {
    let place = Place::new();
    let config = "[webhooks.paid]\nverify = 'stripe'\nsecret_env = 'HOOK_SECRET'\nsignal = 'paid'\nrun_at = '/data/object/metadata/run'\n\
                  [webhooks.told]\nverify = 'standard'\nsecret_env = 'HOOK_SECRET'\nsignal = 'told'\nrun = 'order'\ntolerance = '1m'\n";
    let server = serve(&place, config, &[]);
    let mut asked = program(&json!([{ "wait": { "name": "paid" } }, { "wait": { "name": "told" } }]));
    asked["id"] = "order".into();
    server.post("/api/v1/runs", &asked);
    let body = |run: &str| {
        json!({ "id": "evt_1", "type": "paid", "data": { "object": { "metadata": { "run": run } } } })
            .to_string()
    };
    let stripe = |time: u64, body: &str| {
        let tag = hex(&mac(SECRET.as_bytes(), format!("{time}.{body}").as_bytes()));
        let signature = format!("t={time},v1={tag}");
        let headers = [("Content-Type", "application/json"), ("Stripe-Signature", signature.as_str())];
        deliver(&server, "/hooks/paid", &headers, body)
    };
    assert_eq!(stripe(now() - 3_600, &body("order")).error(401), "WF0912", "it was kept, and sent again");
    assert_eq!(stripe(now() + 3_600, &body("order")).error(401), "WF0912");
    assert_eq!(stripe(now(), &body("a b")).ok()["result"], "left out");
    // It may begin yet: the service delivers again.
    assert_eq!(stripe(now(), &body("later")).status, 404);
    assert_eq!(stripe(now(), &body("order")).ok()["result"], "taken");
    assert_eq!(stripe(now() - 1, &body("order")).ok()["result"], "taken before", "the event is the same");
    let standard = |id: &str, time: u64| {
        let body = r#"{"type":"told"}"#;
        let tag = STANDARD.encode(mac(SECRET.as_bytes(), format!("{id}.{time}.{body}").as_bytes()));
        let (time, signature) = (time.to_string(), format!("v1,{tag}"));
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", time.as_str()),
            ("webhook-signature", signature.as_str()),
        ];
        deliver(&server, "/hooks/told", &headers, body)
    };
    assert_eq!(standard("m-1", now() - 300).error(401), "WF0912", "the tolerance is a minute");
    assert_eq!(standard("m-1", now()).ok()["result"], "taken");
    let ended = eventually("the run has both", || {
        let run = server.get("/api/v1/runs/order");
        (run["state"] == "completed").then_some(run)
    });
    let output = ended["output"].to_string();
    assert!(output.contains("evt_1") && output.contains("m-1"), "{output}");
    // A run that has ended is no reason to stop delivering.
    assert_eq!(standard("m-2", now()).ok()["result"], "left out");
}

#[test]
fn what_cannot_verify_or_only_shows_takes_nothing() {
    let place = Place::new();
    let config = "[webhooks.pushes]\nverify = 'github'\nsecret_env = 'NOBODY_SET_THIS'\nworkflow = 'probe'\n";
    let server = serve(&place, config, &[]);
    assert_eq!(github(&server, "push", "d", SECRET, "{}").error(503), "WF0913");
    assert_eq!(server.get("/api/v1/runs")["runs"], json!([]));
    drop(server);
    let config = config.replace("NOBODY_SET_THIS", "HOOK_SECRET");
    let server = serve(&place, &config, &["--read-only"]);
    assert_eq!(github(&server, "push", "d", SECRET, "{}").error(403), "WF0817");
    drop(server);
    // A file that holds the secret itself is not used.
    let file = place.file("bad.toml", "[webhooks.x]\nverify = 'github'\nsecret = 'abc'\nworkflow = 'w'\n");
    let ran = place.run(["serve", "--listen", "off", "--idle", "0s", "--config", &file]);
    assert!(ran.code() == Some(2) && ran.stderr().contains("WF0703"), "{}", ran.stderr());
    assert!(!ran.stderr().contains("abc"), "{}", ran.stderr());
}
