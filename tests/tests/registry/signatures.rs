//! Who signed a module, whose signatures count, and what is locked.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wfhost_registry::Sha256;
use wfhost_registry::manifest::MANIFEST;
use wfhost_tests::{Place, Ran, module};

use super::fake::{Fake, Reply, refusal};
use super::{command, greets, hello, kept, ok, push, run};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Makes a key, and gives its line for the configuration.
pub(super) fn key(place: &Place, name: &str) -> String {
    let made: Value = serde_json::from_str(&ok(place, &["key", "new", name, "-o", "json"]).stdout()).unwrap();
    format!("{name} = {}\n", made["key"])
}

/// The user's configuration.
pub(super) fn configure(place: &Place, text: &str) {
    std::fs::create_dir_all(place.path("config/wfhost")).unwrap();
    std::fs::write(place.path("config/wfhost/config.toml"), text).unwrap();
}

/// Rules by which what is at `localhost` has to be signed by `acme`.
fn require(place: &Place, keys: &str) {
    configure(
        place,
        &format!(
            "[signatures.keys]\n{keys}[[signatures.rules]]\nmatch = \"localhost:*/me/*\"\nsigners = [\"acme\"]\n"
        ),
    );
}

/// A registry with `me/hello:1`, the place of who publishes it, the line of the key, and the reference.
fn published(sign: Option<&str>) -> (Fake, Place, String, String) {
    let (fake, place) = (Fake::new(), Place::new());
    let reference = format!("{}/me/hello:1", fake.host);
    let line = key(&place, "acme") + &key(&place, "bob");
    let mut args = vec!["push".to_owned(), reference.clone(), module("hello")];
    args.extend(sign.iter().flat_map(|key| ["--sign".to_owned(), (*key).to_owned()]));
    ok(&place, &args.iter().map(String::as_str).collect::<Vec<_>>());
    fake.log();
    (fake, place, line, reference)
}

/// The bundle of the only signature in a registry.
fn bundle(fake: &Fake) -> (String, Value) {
    for version in fake.versions("me/hello") {
        let manifest = fake.manifest("me/hello", &version).unwrap();
        if manifest["artifactType"] == BUNDLE {
            let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
            let bytes = fake.blob(&digest).unwrap();
            return (digest, serde_json::from_slice(&bytes).unwrap());
        }
    }
    panic!("there is no signature");
}

/// Pulling and running are refused, before the module is fetched.
#[track_caller]
fn refused(fake: &Fake, place: &Place, reference: &str, code: &str, says: &str) {
    let layer = fake.manifest("me/hello", "1").unwrap()["layers"][0]["digest"].as_str().unwrap().to_owned();
    fake.log();
    for ran in [run(place, &["pull", reference]), hello(place, reference, &[])] {
        let error = ran.error(5, place);
        assert!(error.contains(&format!("error[{code}]")) && error.contains(says), "{error}");
        assert!(error.contains("hint: "), "{error}");
    }
    let log = fake.log();
    assert!(!log.iter().any(|line| line.contains(&layer)), "the module was fetched: {log:#?}");
    assert_eq!(kept(place), Vec::<Value>::new());
}

#[test]
fn what_is_not_signed_by_whom_it_has_to_be_is_not_fetched() {
    let (fake, _, keys, reference) = published(None);
    let place = Place::new();
    require(&place, &keys);
    refused(&fake, &place, &reference, "WF0940", "is not signed by acme");
    // By somebody who is known, but not wanted.
    let (fake, publisher, keys, reference) = published(Some("bob"));
    require(&place, &keys);
    refused(&fake, &place, &reference, "WF0941", "has 1 signature that cannot be accepted by acme");
    // The right one besides.
    ok(&publisher, &["sign", &reference, "--key", "acme"]);
    let ran = hello(&place, &reference, &["--id", "r"]);
    greets(&ran);
    assert!(ran.stderr().contains(", signed by acme, bob"), "{}", ran.stderr());
    assert_eq!(place.show("r")["labels"]["signer"], "acme");
    // Also without a network: what was fetched for the signatures is here.
    drop(fake);
    greets(&hello(&place, &reference, &["--offline"]));
    // And if the rule changes, what is here is refused.
    require(&place, &keys.replace("acme", "x").replace("bob", "acme"));
    greets(&hello(&place, &reference, &["--offline"]));
    let other = Place::new();
    require(&place, &key(&other, "acme"));
    let error = hello(&place, &reference, &["--offline"]).error(5, &place);
    assert!(error.contains("error[WF0941]") || error.contains("error[WF0942]"), "{error}");
}

/// However somebody writes the place that a rule is about, the rule holds or is refused.
#[test]
fn a_rule_holds_however_its_place_is_written() {
    let (fake, _publisher, keys, reference) = published(None);
    let place = Place::new();
    let rule = |places: &str| {
        let rule = format!("[[signatures.rules]]\nmatch = {places:?}\nsigners = [\"acme\"]\n");
        configure(&place, &format!("[signatures.keys]\n{keys}{rule}"));
    };
    for places in [
        fake.host.replace("localhost", "LOCALHOST") + "/me/*",
        format!("oci://{}/me/hello", fake.host),
        fake.host.replace(':', ":0") + "/*",
    ] {
        rule(&places);
        refused(&fake, &place, &reference, "WF0940", "is not signed");
    }
    for (places, reason) in [
        (reference.clone(), "leave out the tag or digest"),
        (format!("{}//me/*", fake.host), "no part of it is empty"),
        (format!("{}/me/", fake.host), "no part of it is empty"),
        (format!("{}/Me/*", fake.host), "lower-case"),
        (format!("http://{}/me/*", fake.host), "registry's name is invalid"),
    ] {
        rule(&places);
        for ran in [run(&place, &["pull", &reference]), hello(&place, &reference, &[])] {
            let error = ran.error(2, &place);
            assert!(error.contains("error[WF0704]") && error.contains(reason), "{places}: {error}");
        }
    }
    assert_eq!(kept(&place), Vec::<Value>::new());
}

#[test]
fn tampered_bundles_and_those_of_other_modules_are_refused() {
    let (fake, _, keys, reference) = published(Some("acme"));
    let place = Place::new();
    require(&place, &keys);
    let (digest, bundle) = bundle(&fake);
    let payload = STANDARD.decode(bundle["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    // Another digest in what is signed, and the manifest of the signature fits it again.
    let mut other = bundle.clone();
    let changed = statement.to_string().replace("in-toto.io", "in-t0to.io");
    other["dsseEnvelope"]["payload"] = STANDARD.encode(changed).into();
    let attach = |bundle: &Value| {
        let bytes = bundle.to_string();
        let layer = fake.put_blob(bytes.as_bytes());
        for version in fake.versions("me/hello") {
            let Some(mut manifest) = fake.manifest("me/hello", &version) else { continue };
            if manifest["artifactType"] == BUNDLE {
                manifest["layers"][0]["digest"] = layer.to_string().into();
                manifest["layers"][0]["size"] = bytes.len().into();
                fake.remove("me/hello", &version);
                let bytes = manifest.to_string();
                fake.put_manifest(
                    "me/hello",
                    &Sha256::of(bytes.as_bytes()).to_string(),
                    MANIFEST,
                    bytes.as_bytes(),
                );
            }
        }
    };
    attach(&other);
    refused(&fake, &place, &reference, "WF0941", "it was made with another key, or was changed");
    // A good signature of another module.
    attach(&bundle_of_another());
    refused(&fake, &place, &reference, "WF0941", "cannot be accepted");
    // Content that is not what its manifest says is no signature.
    attach(&bundle);
    fake.replace_blob(&digest, b"{}");
    let replaced = Sha256::of(bundle.to_string().as_bytes()).to_string();
    fake.replace_blob(&replaced, &vec![b' '; bundle.to_string().len()]);
    refused(&fake, &place, &reference, "WF0940", "is not signed by acme");
    fake.replace_blob(&replaced, bundle.to_string().as_bytes());
    greets(&hello(&place, &reference, &[]));
}

/// A bundle about something else by a key of its own.
fn bundle_of_another() -> Value {
    let (fake, place) = (Fake::new(), Place::new());
    key(&place, "acme");
    ok(&place, &["push", &format!("{}/me/hello:1", fake.host), &module("counter"), "--sign", "acme"]);
    bundle(&fake).1
}

#[test]
fn a_registry_that_hides_signatures_hides_the_module() {
    let (fake, _, keys, reference) = published(Some("acme"));
    let place = Place::new();
    require(&place, &keys);
    fake.rule(|request| request.path.contains("/referrers/").then(|| refusal(500, "BROKEN")));
    let error = run(&place, &["pull", &reference]).error(4, &place);
    assert!(error.contains("error[WF0921]"), "{error}");
    // Neither list nor tag.
    fake.rule(|request| request.path.contains("/referrers/").then(|| refusal(404, "UNKNOWN")));
    refused(&fake, &place, &reference, "WF0940", "is not signed by acme");
    fake.rule(|request| {
        let empty = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
        request.path.contains("/referrers/").then(|| Reply::new(200, empty))
    });
    refused(&fake, &place, &reference, "WF0940", "is not signed by acme");
    // Where it is not required it is said.
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    let ran = ok(&place, &["pull", &reference]);
    assert!(ran.stderr().contains("Warning  ") && ran.stderr().contains("is not signed"), "{}", ran.stderr());
    // Where nobody asks for signatures the registry is not asked for them.
    configure(&place, &format!("[signatures]\ndefault = \"off\"\n[signatures.keys]\n{keys}"));
    fake.log();
    let ran = ok(&place, &["pull", &reference]);
    assert!(!ran.stderr().contains("Warning"), "{}", ran.stderr());
    assert!(!fake.log().iter().any(|line| line.contains("/referrers/")));
    let error = run(&place, &["verify", &reference]).error(5, &place);
    assert!(error.contains("error[WF0940]"), "{error}");
}

/// Lists in parts, of which each names the next one: the last one is what the registry lists.
fn pages(fake: &Fake, parts: usize, to: impl Fn(usize) -> String + Send + 'static) {
    fake.rule(move |request| {
        let part: usize = request.query.strip_prefix("part=").map_or(0, |part| part.parse().unwrap());
        if !request.path.contains("/referrers/") || part + 1 >= parts {
            return None;
        }
        let empty = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
        let first = format!("<{}>; rel=\"first\"", request.path);
        let next = format!("<{}?part={}>; title=\"a, b\"; rel=\"next\"", to(part) + &request.path, part + 1);
        Some(Reply::new(200, empty).with("Link", format!("{first}, {next}")))
    });
}

#[test]
fn a_signature_on_a_later_page_of_the_list_is_found() {
    let (fake, _, keys, reference) = published(Some("acme"));
    let place = Place::new();
    require(&place, &keys);
    pages(&fake, 3, |_| String::new());
    ok(&place, &["pull", &reference]);
    let asked = fake.log().iter().filter(|line| line.contains("/referrers/")).count();
    assert!(asked > 0 && asked % 3 == 0, "{asked} requests for three pages");
}

#[test]
fn a_list_of_signatures_that_never_ends_or_leads_elsewhere_is_refused() {
    let (fake, _, keys, reference) = published(Some("acme"));
    let place = Place::new();
    require(&place, &keys);
    let refused = |says: &str| {
        let error = run(&place, &["pull", &reference]).error(4, &place);
        assert!(error.contains("error[WF0926]") && error.contains(says), "{error}");
        assert_eq!(kept(&place), Vec::<Value>::new());
    };
    pages(&fake, usize::MAX, |_| String::new());
    refused("100 pages of what refers to");
    pages(&fake, 3, |_| "http://127.0.0.1:1".to_owned());
    refused("goes on at another address, http://127.0.0.1:1");
}

/// Where a registry has no list of signatures, the list is a tag, which each signer writes.
#[test]
fn of_those_who_sign_at_the_same_time_each_is_found() {
    for conditional in [false, true] {
        let (fake, place) = (Fake::new().without_referrers(conditional), Place::new());
        let reference = format!("{}/me/hello:1", fake.host);
        let names = ["acme", "bob", "carol"];
        names.iter().for_each(|name| drop(key(&place, name)));
        push(&place, &reference);
        fake.writes_together(names.len());
        let signing = names.map(|name| {
            // Each on a machine of their own.
            let mut command = command(&place, &["sign", &reference, "--key", name]);
            command.env("XDG_DATA_HOME", place.path(name));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        for signer in signing {
            let ran = Ran(signer.wait_with_output().unwrap());
            assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        }
        let tag = fake.versions("me/hello").into_iter().find(|version| version.starts_with("sha256-"));
        let list = fake.manifest("me/hello", &tag.unwrap()).unwrap();
        let signatures = list["manifests"].as_array().unwrap();
        assert_eq!(signatures.len(), names.len(), "conditional: {conditional}: {list:#}");
        assert!(signatures.iter().all(|of| of["artifactType"] == BUNDLE), "{list:#}");
    }
}

/// However it was lost there.
#[test]
fn a_signature_that_the_registry_does_not_list_is_made_again() {
    let (fake, place) = (Fake::new().without_referrers(false), Place::new());
    let reference = format!("{}/me/hello:1", fake.host);
    key(&place, "acme");
    ok(&place, &["push", &reference, &module("hello"), "--sign", "acme"]);
    for version in fake.versions("me/hello") {
        if version.starts_with("sha256-") {
            fake.remove("me/hello", &version);
        }
    }
    let sign = || ok(&place, &["sign", &reference, "--key", "acme"]).stderr();
    assert!(sign().contains("Signed  "));
    assert!(!sign().contains("Signed  "));
    let public = place.path("config/wfhost/keys/acme.pub").display().to_string();
    ok(&Place::new(), &["verify", &reference, "--key", &public]);
}

/// Some registries name what they have in a way that they then do not accept.
#[test]
fn who_signs_is_not_kept_from_it_by_a_condition_that_nothing_meets() {
    let (fake, place) = (Fake::new().without_referrers(false), Place::new());
    let reference = format!("{}/me/hello:1", fake.host);
    ["acme", "bob"].iter().for_each(|name| drop(key(&place, name)));
    ok(&place, &["push", &reference, &module("hello"), "--sign", "acme"]);
    fake.rule(|request| {
        request.headers.contains_key("if-match").then(|| refusal(412, "PRECONDITION_FAILED"))
    });
    ok(&place, &["sign", &reference, "--key", "bob"]);
    for name in ["acme", "bob"] {
        let public = place.path(&format!("config/wfhost/keys/{name}.pub")).display().to_string();
        ok(&Place::new(), &["verify", &reference, "--key", &public]);
    }
}

#[test]
fn another_signer_than_before_has_to_be_accepted() {
    let (fake, publisher, keys, reference) = published(Some("acme"));
    let place = Place::new();
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    ok(&place, &["pull", &reference]);
    let second = reference.replace(":1", ":2");
    ok(&publisher, &["push", &second, &module("counter"), "--sign", "bob"]);
    let error = run(&place, &["pull", &second]).error(5, &place);
    assert!(
        error.contains("error[WF0942]") && error.contains("not signed by its previous signer acme"),
        "{error}"
    );
    assert!(error.contains("but by bob") && error.contains("--accept"), "{error}");
    // Nor is one that is not signed at all, or whose key is not configured any more.
    let third = reference.replace(":1", ":3");
    ok(&publisher, &["push", &third, &module("saga")]);
    let error = run(&place, &["pull", &third]).error(5, &place);
    assert!(error.contains("error[WF0942]"), "{error}");
    configure(&place, "");
    let error = run(&place, &["pull", &second]).error(5, &place);
    assert!(error.contains("error[WF0942]"), "{error}");
    greets(&hello(&place, &reference, &[]));
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    ok(&place, &["pull", &second, "--accept"]);
    ok(&place, &["pull", &second]);
    let error = hello(&place, &reference, &[]).error(5, &place);
    assert!(
        error.contains("error[WF0942]") && error.contains("not signed by its previous signer bob"),
        "{error}"
    );
    drop(fake);
}

#[test]
fn what_is_locked_stays_until_it_is_updated() {
    let (fake, publisher, keys, reference) = published(Some("acme"));
    let place = Place::new();
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    let error = hello(&place, &reference, &["--locked"]).error(2, &place);
    assert!(error.contains("error[WF0946]") && error.contains("wfhost add"), "{error}");
    ok(&place, &["add", &reference]);
    let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
    assert!(
        lock.contains(&format!("reference = \"{reference}\"")) && lock.contains("signer = \"acme\""),
        "{lock}"
    );
    // The tag is moved.
    ok(&publisher, &["push", &reference, &module("counter"), "--sign", "acme"]);
    ok(&publisher, &["push", &reference.replace(":1", ":2.0.0"), &module("saga"), "--sign", "acme"]);
    let ran = hello(&place, &reference, &["--locked"]);
    greets(&ran);
    assert!(ran.stderr().contains("as locked"), "{}", ran.stderr());
    let outdated: Value =
        serde_json::from_str(&ok(&place, &["modules", "--outdated", "-o", "json"]).stdout()).unwrap();
    assert_eq!((&outdated["moved"], &outdated["newest"]), (&json!(true), &json!("2.0.0")));
    let updated = ok(&place, &["update", "hello"]);
    assert!(
        updated.stdout().contains("manifest  sha256:") && updated.stdout().contains(" -> sha256:"),
        "{}",
        updated.stdout()
    );
    let moved = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
    assert_ne!(lock, moved);
    assert!(ok(&place, &["update"]).stderr().contains("Same  hello"));
    // By somebody else.
    ok(&publisher, &["push", &reference, &module("research"), "--sign", "bob"]);
    let error = run(&place, &["update"]).error(5, &place);
    assert!(error.contains("error[WF0942]"), "{error}");
    assert_eq!(std::fs::read_to_string(place.path("wfhost.lock")).unwrap(), moved);
    ok(&place, &["update", "--accept"]);
    assert!(std::fs::read_to_string(place.path("wfhost.lock")).unwrap().contains("signer = \"bob\""));
    // Lock files that cannot be used.
    let (before, hash) = lock.split_once("blake3 = \"").unwrap();
    let first = if hash.starts_with('0') { "1" } else { "0" };
    let other_bytes = format!("{before}blake3 = \"{first}{}", &hash[1..]);
    for (text, code, says) in [
        (
            lock.replace("version = 1", "version = 2"),
            "WF0945",
            "it has version 2, but this wfhost supports 1",
        ),
        ("<<<<<<< HEAD".to_owned(), "WF0945", "cannot be used"),
        (other_bytes, "WF0946", "differs from the locked module"),
    ] {
        std::fs::write(place.path("wfhost.lock"), text).unwrap();
        let ran = hello(&place, &reference, &[]);
        let error = Ran(ran.0).stderr();
        assert!(error.contains(&format!("error[{code}]")) && error.contains(says), "{error}");
    }
    drop(fake);
}

/// Whoever may push and change the lock file, but has no key, cannot have others use something else.
#[test]
fn a_lock_file_needs_the_signature_that_it_names() {
    let (fake, publisher, keys, reference) = published(Some("acme"));
    let place = Place::new();
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    ok(&place, &["add", &reference]);
    let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
    ok(&publisher, &["push", &reference, &module("counter")]);
    let stranger = Place::new();
    ok(&stranger, &["add", &reference]);
    let unsigned = std::fs::read_to_string(stranger.path("wfhost.lock")).unwrap();
    assert!(!unsigned.contains("signer"), "{unsigned}");
    // Somebody who has the project only now, and somebody who has used it before.
    let colleague = Place::new();
    configure(&colleague, &format!("[signatures.keys]\n{keys}"));
    for place in [&colleague, &place] {
        place.file("wfhost.lock", format!("{unsigned}signer = \"acme\"\n"));
        for verb in [&["run", &reference][..], &["pull", &reference], &["pull", &reference, "--accept"]] {
            let error = run(place, verb).error(5, place);
            assert!(error.contains("error[WF0942]"), "{verb:?}: {error}");
            assert!(error.contains("is not signed by acme, whom DIR/wfhost.lock names"), "{verb:?}: {error}");
            assert!(error.contains(&format!("`wfhost update {reference} --accept`")), "{verb:?}: {error}");
        }
    }
    // One that names nobody, or nobody who is known, takes back nothing of what was seen before.
    for text in [unsigned.clone(), format!("{unsigned}signer = \"nobody\"\n")] {
        place.file("wfhost.lock", text);
        let error = run(&place, &["pull", &reference]).error(5, &place);
        assert!(error.contains("error[WF0942]") && error.contains("its previous signer acme"), "{error}");
    }
    place.file("wfhost.lock", &lock);
    greets(&hello(&place, &reference, &[]));
    // Another signer that somebody has accepted and locked is accepted with the lock file.
    ok(&publisher, &["sign", &reference, "--key", "bob"]);
    ok(&colleague, &["update", "--accept"]);
    std::fs::copy(colleague.path("wfhost.lock"), place.path("wfhost.lock")).unwrap();
    assert!(ok(&place, &["pull", &reference]).stderr().contains("signed by bob"));
    drop(fake);
}

#[test]
fn what_nobody_signed_any_more_can_be_accepted_once_and_for_all() {
    let (fake, publisher, keys, reference) = published(Some("acme"));
    let place = Place::new();
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    ok(&place, &["pull", &reference]);
    ok(&publisher, &["push", &reference, &module("counter")]);
    let error = run(&place, &["pull", &reference]).error(5, &place);
    assert!(error.contains("error[WF0942]"), "{error}");
    ok(&place, &["pull", &reference, "--accept"]);
    ok(&place, &["pull", &reference]);
    drop(fake);
}

/// Accepting another signer is no reason to forget the first one if nobody has looked who signed.
#[test]
fn who_signed_first_is_not_forgotten_before_anybody_has_looked() {
    let (fake, publisher, keys, reference) = published(Some("acme"));
    let place = Place::new();
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    ok(&place, &["pull", &reference]);
    let signers = std::fs::read_to_string(place.path("state/wfhost/signers.json")).unwrap();
    assert!(signers.contains("acme"), "{signers}");
    // It comes here without its signature, and the registry cannot be asked for that.
    let second = reference.replace(":1", ":2");
    ok(&publisher, &["push", &second, &module("counter"), "--sign", "bob"]);
    fake.rule(|request| request.path.contains("/referrers/").then(|| refusal(500, "BROKEN")));
    ok(&place, &["pull", &second, "--accept"]);
    let kept = || std::fs::read_to_string(place.path("state/wfhost/signers.json")).unwrap();
    assert_eq!(kept(), signers);
    ok(&place, &["pull", &second, "--accept", "--offline"]);
    assert_eq!(kept(), signers);
    // Nor if it is signed by the first one, whose key is not in the configuration any more.
    configure(&place, "");
    ok(&place, &["pull", &reference, "--accept"]);
    assert_eq!(kept(), signers);
    drop(fake);
}

#[test]
fn a_further_signer_is_no_other_signer() {
    let (fake, publisher, keys, reference) = published(Some("bob"));
    let place = Place::new();
    configure(&place, &format!("[signatures.keys]\n{keys}"));
    ok(&place, &["add", &reference]);
    ok(&publisher, &["push", &reference, &module("counter"), "--sign", "bob"]);
    ok(&publisher, &["sign", &reference, "--key", "acme"]);
    ok(&place, &["update"]);
    let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
    assert!(lock.contains("signer = \"bob\""), "{lock}");
    drop(fake);
}

#[test]
fn saved_modules_run_where_there_is_no_network_with_their_signatures() {
    let (fake, publisher, keys, reference) = published(Some("acme"));
    let file = publisher.path("modules.tar").display().to_string();
    ok(&publisher, &["save", &file, &reference]);
    drop(fake);
    let place = Place::new();
    require(&place, &keys);
    ok(&place, &["load", &file]);
    let ran = hello(&place, &reference, &["--offline"]);
    greets(&ran);
    assert!(ran.stderr().contains("signed by acme"), "{}", ran.stderr());
    // skopeo reads it, too.
    let out = place.path("out").display().to_string();
    let copied = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            &format!("oci-archive:{file}:{reference}"),
            &format!("oci:{out}:x"),
        ])
        .output()
        .expect("skopeo is installed: tests/setup");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    // What was changed is not loaded, not even a part of it.
    let good = std::fs::read(&file).unwrap();
    let places = [good.len() / 2, good.len() / 3, good.len() / 4 * 3];
    for at in places {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let bad = place.file("bad.tar", bad);
        let other = Place::new();
        let ran = run(&other, &["load", &bad]);
        assert!(ran.code() != Some(0) || at < 2048, "{at}");
        assert!(ran.stderr().contains("error[WF09"), "{}", ran.stderr());
        assert_eq!(kept(&other), Vec::<Value>::new());
        assert!(!other.path("data/wfhost/modules").exists());
    }
    for bytes in [&b""[..], b"not a module archive", &good[..good.len() / 2]] {
        let bad = place.file("bad.tar", bytes);
        let error = run(&Place::new(), &["load", &bad]).error(2, &place);
        assert!(error.contains("error[WF0947]"), "{error}");
    }
}

#[test]
fn openssl_verifies_our_signatures_and_its_keys_sign() {
    let (fake, place, _, reference) = published(Some("acme"));
    let openssl = |args: &[&str]| {
        let ran = Command::new("openssl").args(args).current_dir(place.path("")).output().unwrap();
        assert!(ran.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let (_, bundle) = bundle(&fake);
    let envelope = &bundle["dsseEnvelope"];
    let kind = envelope["payloadType"].as_str().unwrap();
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    let signed =
        [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes(), payload.clone()].concat();
    place.file("signed", &signed);
    place.file("signature", STANDARD.decode(envelope["signatures"][0]["sig"].as_str().unwrap()).unwrap());
    let public = place.path("config/wfhost/keys/acme.pub").display().to_string();
    let said = openssl(&["dgst", "-sha256", "-verify", &public, "-signature", "signature", "signed"]);
    assert!(said.contains("Verified OK"), "{said}");
    // The statement is about the manifest.
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    let manifest = serde_json::to_vec(&fake.manifest("me/hello", "1").unwrap()).unwrap();
    let exact = ok(&place, &["sign", &reference, "--key", "acme"]).stdout();
    let hex = statement["subject"][0]["digest"]["sha256"].as_str().unwrap().to_owned();
    assert!(exact.trim().ends_with(&hex) && !manifest.is_empty(), "{exact}");
    assert!(openssl(&["pkey", "-in", "config/wfhost/keys/acme.key", "-noout", "-text"]).contains("P-256"));
    // Keys of OpenSSL, of both kinds.
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed.key"]);
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec.key"]);
    for name in ["ed", "ec"] {
        let (secret, public) = (format!("{name}.key"), format!("{name}.pub"));
        openssl(&["pkey", "-in", &secret, "-pubout", "-out", &public]);
        ok(&place, &["sign", &reference, "--key", &secret]);
        let verified = ok(&place, &["verify", &reference, "--key", &public]);
        assert!(verified.stdout().contains(&format!("signed by {public}")), "{}", verified.stdout());
    }
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "other.key"]);
    openssl(&["pkey", "-in", "other.key", "-pubout", "-out", "other.pub"]);
    let error = run(&place, &["verify", &reference, "--key", "other.pub"]).error(5, &place);
    assert!(error.contains("error[WF0941]"), "{error}");
    // Keys that cannot be used say why.
    openssl(&["pkcs8", "-topk8", "-in", "ec.key", "-passout", "pass:open sesame", "-out", "locked.key"]);
    let error = run(&place, &["sign", &reference, "--key", "locked.key"]).error(2, &place);
    assert!(error.contains("error[WF0943]") && error.contains("it is encrypted"), "{error}");
    assert!(error.contains("WFHOST_KEY_PASSPHRASE"), "{error}");
    let with = |passphrase: &str, args: &[&str]| {
        Ran(super::command(&place, args).env("WFHOST_KEY_PASSPHRASE", passphrase).output().unwrap())
    };
    let error = with("open", &["sign", &reference, "--key", "locked.key"]).error(2, &place);
    assert!(error.contains("the passphrase is wrong"), "{error}");
    let signed = with("open sesame", &["sign", &reference, "--key", "locked.key"]);
    assert!(signed.stderr().contains("Exists"), "the same key has signed: {}", signed.stderr());
    // And ours are read by OpenSSL.
    assert_eq!(with("tell nobody", &["key", "new", "sealed", "--encrypt"]).code(), Some(0));
    let sealed = "config/wfhost/keys/sealed.key";
    assert!(
        openssl(&["pkey", "-in", sealed, "-passin", "pass:tell nobody", "-noout", "-text"]).contains("P-256")
    );
    assert_eq!(with("tell nobody", &["sign", &reference, "--key", "sealed"]).code(), Some(0));
    ok(&place, &["verify", &reference, "--key", "config/wfhost/keys/sealed.pub"]);
    let error = run(&place, &["key", "new", "other", "--encrypt"]).error(2, &place);
    assert!(error.contains("error[WF0943]") && error.contains("no passphrase"), "{error}");
    let error = run(&place, &["sign", &reference, "--key", "nowhere"]).error(2, &place);
    assert!(error.contains("error[WF0943]"), "{error}");
    let error = run(&place, &["key", "new", "acme"]).error(2, &place);
    assert!(error.contains("error[WF0943]") && error.contains("it already exists"), "{error}");
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
    };
    assert_eq!(mode(&place.path("config/wfhost/keys/acme.key")), 0o600);
    assert_eq!(push(&place, &reference), exact.trim());
}

/// What is remembered of who signed first is no configuration.
#[test]
fn a_key_that_was_taken_out_of_the_configuration_does_not_count_where_a_signature_is_required() {
    let (fake, _publisher, keys, reference) = published(Some("acme"));
    let place = Place::new();
    let required = "[signatures]\ndefault = \"require\"\n";
    configure(&place, &format!("{required}[signatures.keys]\n{keys}"));
    ok(&place, &["add", &reference]);
    greets(&hello(&place, &reference, &[]));
    let bob = keys.lines().find(|line| line.starts_with("bob")).unwrap();
    for left in [String::new(), format!("[signatures.keys]\n{bob}\n")] {
        configure(&place, &format!("{required}{left}"));
        for ran in [run(&place, &["pull", &reference]), hello(&place, &reference, &[])] {
            let error = ran.error(5, &place);
            assert!(error.contains("error[WF0941]") || error.contains("error[WF0940]"), "{error}");
        }
    }
    configure(&place, &format!("{required}[signatures.keys]\n{keys}"));
    greets(&hello(&place, &reference, &[]));
    drop(fake);
}

/// Whoever changes the lock file can leave out the signer, or name somebody else.
#[test]
fn a_lock_file_that_names_no_known_signer_does_not_replace_those_of_the_rules() {
    let (fake, publisher, keys, reference) = published(None);
    let place = Place::new();
    ok(&place, &["add", &reference]);
    let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
    assert!(!lock.contains("signer"), "{lock}");
    let rule = "[[signatures.rules]]\nmatch = \"localhost:*/me/*\"\nsigners = [\"acme\"]\nlevel = \"warn\"\n";
    configure(&place, &format!("[signatures.keys]\n{keys}{rule}"));
    for text in [lock.clone(), format!("{lock}signer = \"nobody\"\n")] {
        place.file("wfhost.lock", text);
        for ran in [run(&place, &["pull", &reference]), hello(&place, &reference, &[])] {
            let error = ran.error(5, &place);
            assert!(error.contains("error[WF0940]") && error.contains("acme"), "{error}");
        }
    }
    ok(&publisher, &["sign", &reference, "--key", "acme"]);
    greets(&hello(&place, &reference, &[]));
    drop(fake);
}
