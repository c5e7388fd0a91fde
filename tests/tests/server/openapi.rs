//! The description of the API.

use std::path::Path;

use serde_json::Value;
use wfhost_tests::Place;

use crate::client::Server;

/// The file is for those who make clients of it, and for looking at changes of the API.
#[test]
fn the_description_that_is_served_is_the_one_that_is_checked_in() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let served = server.try_ask("GET", "/openapi.json", &[], b"").unwrap();
    assert_eq!(served.status, 200);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    if written != served.text() {
        let new = std::env::temp_dir().join("openapi.json");
        std::fs::write(&new, served.text()).unwrap();
        panic!("{} is not up to date: look at the changes and copy {}", file.display(), new.display());
    }
}

#[test]
fn every_operation_says_what_it_does_needs_and_answers() {
    let place = Place::new();
    let server = Server::start(&place, &[]);
    let document = server.try_ask("GET", "/openapi.json", &[], b"").unwrap().ok();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{what}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            assert!(operation["security"].is_array(), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{what}");
            for status in ["400", "401", "403", "404", "422", "503"] {
                let name = responses[status]["$ref"].as_str().unwrap().trim_start_matches('#');
                let kinds = document.pointer(name).unwrap()["content"].as_object().unwrap();
                assert!(kinds.contains_key("application/problem+json"), "{what}");
            }
            for response in responses.values().filter(|response| response.get("$ref").is_none()) {
                assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
            }
        }
    }
    // All that is named is there.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}
