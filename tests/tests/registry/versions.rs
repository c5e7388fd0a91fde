//! The newest version that fits: `hello@^1.2`.

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

use super::fake::Fake;
use super::{greets, hello, ok, run};

/// A registry with several versions of `me/hello`; only those of 1 greet.
fn published() -> (Fake, Place, String) {
    let (fake, publisher) = (Fake::new(), Place::new());
    let place = format!("{}/me/hello", fake.host);
    for (tag, example) in
        [("1.2.0", "counter"), ("1.10.0", "hello"), ("2.0.0", "saga"), ("2.1.0-rc.1", "saga")]
    {
        ok(&publisher, &["push", &format!("{place}:{tag}"), &module(example)]);
    }
    ok(&publisher, &["push", &format!("{place}:latest"), &module("saga")]);
    fake.log();
    (fake, publisher, place)
}

#[test]
fn the_newest_version_that_fits_is_run_pulled_and_locked() {
    let (fake, publisher, at) = published();
    let place = Place::new();
    let reference = format!("{at}@^1.2");
    let ran = hello(&place, &reference, &["--id", "r"]);
    greets(&ran);
    assert!(ran.stderr().contains(&format!("{reference} -> 1.10.0 -> sha256:")), "{}", ran.stderr());
    let origin = place.show("r")["labels"]["origin"].as_str().unwrap().to_owned();
    assert!(origin.starts_with(&format!("{at}:1.10.0@sha256:")), "{origin}");
    let pulled = ok(&place, &["pull", &format!("{at}@~1.2")]).stdout();
    assert!(pulled.starts_with(&format!("{at}:1.2.0@sha256:")), "{pulled}");
    // What none fits, and what is none.
    let error = run(&place, &["pull", &format!("{at}@^3")]).error(2, &place);
    assert!(
        error.contains("error[WF0949]") && error.contains("available: 2.1.0-rc.1, 2.0.0, 1.10.0"),
        "{error}"
    );
    let error = run(&place, &["pull", &format!("{at}@newest")]).error(2, &place);
    assert!(error.contains("error[WF0920]") && error.contains("a version requirement"), "{error}");
    // By its name alone only where it is known which place is meant.
    let error = hello(&Place::new(), "hello@^1.2", &[]).error(2, &place);
    assert!(error.contains("error[WF0110]") && error.contains("REGISTRY/hello@^1.2"), "{error}");
    greets(&hello(&place, "hello@^1.2", &[]));
    // Without a network: of what is here.
    fake.log();
    greets(&hello(&place, &reference, &["--offline"]));
    greets(&hello(&place, "hello@^1.2", &["--pull", "missing"]));
    let error = hello(&place, &format!("{at}@^2"), &["--offline"]).error(4, &place);
    assert!(error.contains("error[WF0932]"), "{error}");
    assert_eq!(fake.log(), Vec::<String>::new());
    // Locked it stays what it was; `update` takes what is newer and fits.
    ok(&place, &["add", &reference]);
    let lock = std::fs::read_to_string(place.path("wfhost.lock")).unwrap();
    assert!(
        lock.contains(&format!("reference = \"{reference}\"")) && lock.contains("release = \"1.10.0\""),
        "{lock}"
    );
    ok(&publisher, &["push", &format!("{at}:1.11.0"), &module("counter")]);
    let ran = hello(&place, &reference, &["--locked"]);
    greets(&ran);
    let outdated = |place: &Place| -> Value {
        serde_json::from_str(&ok(place, &["modules", "--outdated", "-o", "json"]).stdout()).unwrap()
    };
    let told = outdated(&place);
    assert_eq!(
        (&told["moved"], &told["fits"], &told["newest"]),
        (&json!(true), &json!("1.11.0"), &json!("2.0.0"))
    );
    let updated = ok(&place, &["update", "hello@^1.2"]).stdout();
    assert!(updated.contains("version   1.10.0 -> 1.11.0"), "{updated}");
    let told = outdated(&place);
    assert_eq!((&told["moved"], &told["newest"]), (&json!(false), &json!("2.0.0")));
    let error = run(&place, &["update", "hello@^1.3"]).error(2, &place);
    assert!(error.contains("error[WF0946]"), "{error}");
}

#[test]
fn a_name_of_the_configuration_says_where_versions_are_looked_for() {
    let (fake, _publisher, at) = published();
    let place = Place::new();
    place.file(
        "wfhost.toml",
        format!("[modules]\nours = \"{at}@^1\"\nfixed = \"{at}:1.2.0\"\nlocal = \"x.wasm\"\n"),
    );
    ok(&place, &["trust"]);
    greets(&hello(&place, "ours", &[]));
    greets(&hello(&place, "ours@~1.10", &[]));
    greets(&hello(&place, "fixed@1", &[]));
    let error = hello(&place, "local@1", &[]).error(2, &place);
    assert!(error.contains("error[WF0920]") && error.contains("has no versions"), "{error}");
    drop(fake);
}
