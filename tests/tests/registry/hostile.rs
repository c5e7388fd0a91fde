//! What a registry should not do: each is a clear error, and nothing of it is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use wfhost_registry::Sha256;
use wfhost_registry::manifest::{INDEX, MANIFEST};
use wfhost_tests::{Place, eventually, module};

use super::fake::{Fake, Reply, refusal};
use super::{greets, hello, kept, ok, push, run, with_stdin};

/// A registry with `me/hello:1`, its manifest, and the reference.
fn filled() -> (Fake, Value, String) {
    let (fake, place) = (Fake::new(), Place::new());
    let reference = format!("{}/me/hello:1", fake.host);
    push(&place, &reference);
    let manifest = fake.manifest("me/hello", "1").unwrap();
    fake.log();
    (fake, manifest, reference)
}

/// Blobs and names in the local store.
fn held(place: &Place) -> usize {
    let blobs = std::fs::read_dir(place.path("data/wfhost/modules/blobs/sha256"));
    blobs.map_or(0, Iterator::count) + kept(place).len()
}

/// Pulls and runs by somebody who has nothing: both have to be refused, and nothing is kept.
#[track_caller]
fn refused(reference: &str, exit: i32, code: &str, says: &str) {
    let place = Place::new();
    for args in
        [vec!["pull", reference], vec!["run", reference, "-i", r#"{"name":"Ada"}"#, "--agent", "echo"]]
    {
        let error = run(&place, &args).error(exit, &place);
        assert!(error.contains(&format!("error[{code}]")), "{args:?}: {error}");
        assert!(error.contains(says), "{error}");
        assert!(error.contains("hint: "), "{error}");
    }
    assert_eq!(held(&place), 0, "something was kept");
    assert_eq!(ok(&place, &["ps", "-o", "jsonl"]).stdout(), "");
}

fn layer_of(manifest: &Value) -> String {
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn wrong_truncated_and_over_long_content_is_refused() {
    let (fake, manifest, reference) = filled();
    let layer = layer_of(&manifest);
    let good = fake.blob(&layer).unwrap();
    let blob = format!("/v2/me/hello/blobs/{layer}");
    let answering = |reply: Reply| {
        let blob = blob.clone();
        fake.rule(move |request| (request.method == "GET" && request.path == blob).then(|| reply.clone()));
    };
    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    answering(Reply::new(200, wrong));
    refused(&reference, 5, "WF0927", "does not match its digest");
    let short = good[..good.len() - 1].to_vec();
    answering(Reply::new(200, short.clone()));
    refused(&reference, 5, "WF0927", "does not match its size");
    answering(Reply::new(200, short.clone()).endless());
    refused(&reference, 5, "WF0927", "does not match its size");
    let long = [good.clone(), vec![0; 100]].concat();
    answering(Reply::new(200, long.clone()));
    refused(&reference, 5, "WF0927", "does not match its size");
    answering(Reply::new(200, long).endless());
    refused(&reference, 5, "WF0927", "or more");
    // Broken off each time.
    answering(Reply::new(200, short).claiming(good.len()));
    refused(&reference, 4, "WF0921", "was interrupted after");
    // Broken off once: it is asked again.
    let tries = Arc::new(AtomicUsize::new(0));
    let (counted, once) = (tries.clone(), good.clone());
    fake.rule(move |request| {
        let first = request.path == blob && counted.fetch_add(1, Ordering::SeqCst) == 0;
        first.then(|| Reply::new(200, once[..10].to_vec()).claiming(once.len()))
    });
    greets(&hello(&Place::new(), &reference, &[]));
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[test]
fn manifests_that_lie_are_refused() {
    let (fake, manifest, reference) = filled();
    let layer = layer_of(&manifest);
    let good = fake.blob(&layer).unwrap();
    let put =
        |manifest: &Value| fake.put_manifest("me/hello", "1", MANIFEST, manifest.to_string().as_bytes());
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        put(&changed);
    };
    changed(&|m| m["layers"][0]["size"] = (good.len() - 1).into());
    refused(&reference, 5, "WF0927", "does not match its size");
    changed(&|m| m["layers"][0]["size"] = (200u64 << 20).into());
    refused(&reference, 5, "WF0928", "the limit is 134217728");
    changed(&|m| m["config"]["size"] = (200u64 << 20).into());
    refused(&reference, 5, "WF0928", "the configuration of");
    changed(&|m| {
        let layer = m["layers"][0].clone();
        m["layers"].as_array_mut().unwrap().push(layer);
    });
    refused(&reference, 5, "WF0929", "it has 2 layers instead of one");
    changed(&|m| m["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into());
    refused(&reference, 5, "WF0929", "its configuration is of the type");
    changed(&|m| m["manifests"] = json!([]));
    refused(&reference, 5, "WF0929", "an index of several manifests");
    // A configuration of another module.
    let config =
        json!({ "created": "x", "architecture": "wasm", "os": "wasip2", "layerDigests": [Sha256::of(b"x")] });
    let config = config.to_string();
    let digest = fake.put_blob(config.as_bytes());
    changed(&|m| {
        m["config"]["digest"] = digest.to_string().into();
        m["config"]["size"] = config.len().into();
    });
    refused(&reference, 5, "WF0929", "names different layers than its manifest");
    // An index where a manifest is expected.
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }).to_string();
    fake.put_manifest("me/hello", "1", INDEX, index.as_bytes());
    refused(&reference, 5, "WF0929", "an index of several manifests");
    for text in ["", "{", "[]", "null", "<html>", "{\"schemaVersion\":2}"] {
        fake.put_manifest("me/hello", "1", MANIFEST, text.as_bytes());
        refused(&reference, 5, "WF0929", "is not a module");
    }
    // Huge, with and without saying so.
    let huge = vec![b' '; 5 << 20];
    for reply in [Reply::new(200, huge.clone()), Reply::new(200, huge).endless()] {
        fake.rule(move |request| request.path.ends_with("/manifests/1").then(|| reply.clone()));
        refused(&reference, 5, "WF0928", "the limit is 4194304");
    }
}

#[test]
fn another_manifest_than_the_one_that_was_named_is_refused() {
    let (fake, manifest, reference) = filled();
    let exact = format!("{}/me/hello@{}", fake.host, Sha256::of(b"another"));
    let bytes = manifest.to_string();
    let reply = bytes.clone();
    fake.rule(move |request| {
        request
            .path
            .contains("/manifests/sha256:")
            .then(|| Reply::new(200, reply.clone()).with("content-type", MANIFEST))
    });
    refused(&exact, 5, "WF0927", "does not match its digest");
    // The digest beside a tag is another one.
    fake.rule(move |request| {
        request.path.ends_with("/manifests/1").then(|| {
            let reply = Reply::new(200, bytes.clone()).with("content-type", MANIFEST);
            reply.with("docker-content-digest", Sha256::of(b"another").to_string())
        })
    });
    refused(&reference, 5, "WF0927", "does not match its digest");
}

#[test]
fn what_is_no_component_is_not_kept() {
    let fake = Fake::new();
    for (bytes, says) in [
        (&b"\0asm\x01\0\0\0"[..], "it is a core module"),
        (b"\x7fELF\x02\x01\x01", "it is not WebAssembly"),
        (b"#!/bin/sh\necho hello\n", "it is not WebAssembly"),
    ] {
        let layer = fake.put_blob(bytes);
        let config =
            json!({ "created": "x", "architecture": "wasm", "os": "wasip2", "layerDigests": [layer] });
        let config = config.to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.wasm.config.v0+json", "digest": fake.put_blob(config.as_bytes()), "size": config.len() },
            "layers": [{ "mediaType": "application/wasm", "digest": layer, "size": bytes.len() }],
        });
        fake.put_manifest("me/bad", "1", MANIFEST, manifest.to_string().as_bytes());
        refused(&format!("{}/me/bad:1", fake.host), 5, "WF0929", says);
    }
}

#[test]
fn refusals_say_what_mends_them() {
    let (fake, _, reference) = filled();
    let place = Place::new();
    let cases = [
        (403, 4, "WF0923", "it says \"it is DENIED\""),
        (404, 2, "WF0924", "does not have"),
        (418, 4, "WF0926", "sent an invalid answer: 418"),
        (401, 4, "WF0926", "an unsupported kind of login"),
    ];
    for (status, exit, code, says) in cases {
        fake.rule(move |_| Some(refusal(status, "DENIED")));
        let error = run(&place, &["pull", &reference]).error(exit, &place);
        assert!(error.contains(&format!("error[{code}]")) && error.contains(says), "{error}");
        assert!(error.contains("hint: "), "{error}");
        fake.log();
    }
    // Another kind of server.
    fake.rule(|_| Some(Reply::new(200, "<html>Welcome</html>").with("content-type", "text/html")));
    let error = run(&place, &["pull", &reference]).error(5, &place);
    assert!(error.contains("error[WF0929]"), "{error}");
    // What others write does not steer the terminal.
    fake.rule(|_| Some(Reply::new(403, "{\"errors\":[{\"code\":\"X\",\"message\":\"a\\u001b[2Jb\"}]}")));
    let error = run(&place, &["pull", &reference]).error(4, &place);
    assert!(error.contains("a\\u{1b}[2Jb"), "{error}");
}

#[test]
fn busy_registries_are_asked_again() {
    let (fake, _, reference) = filled();
    let count = Arc::new(AtomicUsize::new(0));
    for (status, header) in [(429, Some("0")), (503, None), (500, None), (429, None)] {
        let counted = count.clone();
        count.store(0, Ordering::SeqCst);
        fake.rule(move |_| {
            let reply = refusal(status, "BUSY");
            let reply = match header {
                Some(after) => reply.with("retry-after", after),
                None => reply,
            };
            (counted.fetch_add(1, Ordering::SeqCst) < 2).then_some(reply)
        });
        ok(&Place::new(), &["pull", &reference]);
        assert!(count.load(Ordering::SeqCst) > 2);
    }
    let begin = Instant::now();
    fake.rule(|_| Some(refusal(429, "TOOMANYREQUESTS").with("retry-after", "3600")));
    refused(&reference, 4, "WF0925", "it asks to wait for 3600 s");
    fake.rule(|_| Some(refusal(503, "UNAVAILABLE")));
    refused(&reference, 4, "WF0921", "it answers 503");
    // An hour was asked for.
    assert!(begin.elapsed().as_secs() < 100);
}

#[test]
fn tokens_are_bought_and_bought_again_when_they_expire() {
    // Each token is good for two requests.
    let fake = Fake::new().with_login("ada", "secret", 2);
    let place = Place::new();
    let reference = format!("{}/me/hello:1", fake.host);
    let error = run(&place, &["push", &reference, &module("hello")]).error(4, &place);
    assert!(error.contains("error[WF0922]") && error.contains("requires a login"), "{error}");
    let login = ["login", &fake.host, "-u", "ada", "--password-stdin"];
    let wrong = with_stdin(&place, &login, "wrong").error(4, &place);
    assert!(wrong.contains("rejected the login"), "{wrong}");
    assert_eq!(with_stdin(&place, &login, "secret").code(), Some(0));
    fake.log();
    push(&place, &reference);
    let log = fake.log();
    assert!(log.iter().filter(|line| *line == "GET /token").count() >= 2, "{log:#?}");
    let bob = Place::new();
    assert_eq!(with_stdin(&bob, &login, "secret").code(), Some(0));
    greets(&hello(&bob, &reference, &[]));
    // A registry that never lets in is not asked for ever.
    fake.rule(|request| {
        let challenge = format!("Bearer realm=\"http://{}/token\"", request.headers["host"]);
        request
            .path
            .starts_with("/v2/")
            .then(|| refusal(401, "UNAUTHORIZED").with("www-authenticate", challenge))
    });
    fake.log();
    let error = run(&bob, &["pull", &reference]).error(4, &bob);
    assert!(error.contains("error[WF0922]") && error.contains("rejected the login"), "{error}");
    assert!(fake.log().len() < 6);
}

#[test]
fn logins_and_modules_go_nowhere_else() {
    let (fake, _, reference) = filled();
    let thief = Fake::new();
    let place = Place::new();
    fake.rule(|request| {
        (request.headers.contains_key("authorization"))
            .then(|| Reply::new(200, "{}"))
            .or(Some(refusal(401, "UNAUTHORIZED").with("www-authenticate", "Basic realm=\"x\"")))
    });
    let login = ["login", &fake.host, "-u", "ada", "--password-stdin"];
    assert_eq!(with_stdin(&place, &login, "secret").code(), Some(0));
    // Where tokens are given out without TLS, elsewhere than on this machine.
    fake.rule(|_| {
        let challenge = "Bearer realm=\"http://registry.example.com/token\"";
        Some(refusal(401, "UNAUTHORIZED").with("www-authenticate", challenge))
    });
    let error = run(&place, &["pull", &reference]).error(5, &place);
    assert!(
        error.contains("error[WF0935]") && error.contains("http://registry.example.com/token"),
        "{error}"
    );
    // What is read may come from elsewhere, but the login does not go there.
    let to = thief.host.clone();
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    thief.rule(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        request.headers.contains_key("authorization").then(|| Reply::new(500, "a login came"))
    });
    fake.rule(move |request| {
        if !request.headers.contains_key("authorization") {
            return Some(refusal(401, "UNAUTHORIZED").with("www-authenticate", "Basic realm=\"x\""));
        }
        let elsewhere = format!("http://{to}{}", request.path);
        request.path.contains("/blobs/").then(|| Reply::new(307, "").with("location", elsewhere))
    });
    let error = run(&place, &["pull", &reference]).error(2, &place);
    assert!(error.contains("error[WF0924]") && !error.contains("a login came"), "{error}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // What is pushed goes to the registry or nowhere.
    let to = thief.host.clone();
    fake.rule(move |request| {
        let elsewhere = format!("http://{to}/v2/x/blobs/uploads/1");
        (request.method == "POST").then(|| Reply::new(202, "").with("location", elsewhere))
    });
    let error = run(&place, &["push", &format!("{}/me/other:1", fake.host), &module("hello")]);
    // The layer is there already, the configuration is not.
    let error = error.error(5, &place);
    assert!(error.contains("error[WF0935]"), "{error}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // In a circle.
    fake.rule(|request| Some(Reply::new(302, "").with("location", request.path.clone())));
    let error = run(&place, &["pull", &reference]).error(4, &place);
    assert!(error.contains("error[WF0926]") && error.contains("more than 5 redirects"), "{error}");
    fake.rule(|_| Some(Reply::new(302, "").with("location", "file:///etc/passwd")));
    let error = run(&place, &["pull", &reference]).error(5, &place);
    assert!(error.contains("error[WF0935]"), "{error}");
}

#[test]
fn a_local_store_that_was_changed_is_not_run() {
    let (fake, manifest, reference) = filled();
    let place = Place::new();
    ok(&place, &["pull", &reference]);
    let layer = layer_of(&manifest);
    let path = place.path("data/wfhost/modules/blobs/sha256").join(layer.strip_prefix("sha256:").unwrap());
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bad).unwrap();
    let error = hello(&place, &reference, &["--offline"]).error(4, &place);
    assert!(error.contains("error[WF0931]") && error.contains("damaged"), "{error}");
    // With a registry it is fetched anew.
    greets(&hello(&place, &reference, &[]));
    assert_eq!(std::fs::read(&path).unwrap(), good);
    // An index that others may write.
    use std::os::unix::fs::PermissionsExt;
    let index = place.path("data/wfhost/modules/index.json");
    std::fs::set_permissions(&index, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = hello(&place, &reference, &["--offline"]).error(4, &place);
    assert!(error.contains("error[WF0931]") && error.contains("can be written by other users"), "{error}");
    drop(fake);
}

#[test]
fn a_pull_that_was_killed_leaves_nothing_that_counts() {
    let (fake, manifest, reference) = filled();
    let layer = layer_of(&manifest);
    let good = fake.blob(&layer).unwrap();
    let blob = layer.clone();
    fake.rule(move |request| {
        let half = Reply::new(200, good[..good.len() / 2].to_vec()).claiming(good.len());
        request.path.ends_with(&blob).then_some(Reply { stalls: true, ..half })
    });
    let place = Place::new();
    let mut child = super::command(&place, &["pull", &reference]).spawn().unwrap();
    let blobs = place.path("data/wfhost/modules/blobs/sha256");
    eventually("a part of it", || {
        let mut files = std::fs::read_dir(&blobs).ok()?.flatten();
        files.find(|file| file.metadata().is_ok_and(|metadata| metadata.len() > 0))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(kept(&place), Vec::<Value>::new());
    let error = hello(&place, &reference, &["--offline"]).error(4, &place);
    assert!(error.contains("error[WF0932]"), "{error}");
}
