//! When two calls ask the same.

use serde_json::Value;

use crate::{AgentRequest, Caching, Digest, Timestamp};

/// The key under which the answer of a request is kept: the BLAKE3 digest of
/// what the answer depends on. `providers` are those that may answer, the
/// run's default included, each with its configuration. Labels, groups, retries and limits do not matter,
/// nor do white space and the order of keys within JSON.
pub fn key(request: &AgentRequest, caching: &Caching, providers: &[(String, String)]) -> Digest {
    let json = |json: &Option<crate::Json>| json.as_ref().map_or(Value::Null, crate::Json::value);
    let parts = [
        Value::from("wfhost cache 2"),
        Value::from(caching.version.as_str()),
        Value::from(request.prompt.as_str()),
        json(&request.input),
        providers
            .iter()
            .map(|(name, configuration)| Value::from(vec![name.as_str(), configuration]))
            .collect(),
        Value::from(request.model.as_deref()),
        json(&request.schema),
        Value::from(request.session.as_deref()),
        Value::from(request.workspace.as_deref()),
        json(&request.options),
    ];
    let mut text = String::new();
    canonical(&Value::from(parts.to_vec()), &mut text);
    Digest::of(text.as_bytes())
}

/// Whether an answer that was given at `answered` may still be used.
pub fn is_fresh(caching: &Caching, answered: Timestamp, now: Timestamp) -> bool {
    caching.ttl_ms.is_none_or(|ttl| now.since(answered) < ttl)
}

/// Writes JSON with sorted keys and without white space, whatever the map type
/// of `serde_json` was configured to be.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
            }
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    fn request() -> AgentRequest {
        AgentRequest {
            prompt: "sum".to_owned(),
            input: Some(Json::parse(r#"{"a": 1, "b": [2]}"#.to_owned()).unwrap()),
            ..AgentRequest::default()
        }
    }

    fn caching(version: &str) -> Caching {
        Caching { version: version.to_owned(), ttl_ms: Some(1_000) }
    }

    #[test]
    fn the_same_question_has_the_same_key() {
        let same = AgentRequest {
            input: Some(Json::parse(r#"{"b":[2],"a":1}"#.to_owned()).unwrap()),
            label: Some("other".to_owned()),
            group: Some("g".to_owned()),
            ..request()
        };
        assert_eq!(key(&request(), &caching("1"), &[]), key(&same, &caching("1"), &[]));
    }

    #[test]
    fn another_version_model_or_provider_asks_afresh() {
        let base = key(&request(), &caching("1"), &[]);
        assert_ne!(base, key(&request(), &caching("2"), &[]));
        let by = |configuration: &str| {
            key(&request(), &caching("1"), &[("a".to_owned(), configuration.to_owned())])
        };
        assert_ne!(base, by(""));
        assert_ne!(by("model a"), by("model b"));
        let other = AgentRequest { model: Some("m".to_owned()), ..request() };
        assert_ne!(base, key(&other, &caching("1"), &[]));
        // Nothing can slip from one field into the next.
        let moved = AgentRequest { model: None, session: Some("m".to_owned()), ..request() };
        assert_ne!(key(&other, &caching("1"), &[]), key(&moved, &caching("1"), &[]));
    }

    #[test]
    fn answers_age() {
        assert!(is_fresh(&caching("1"), Timestamp(0), Timestamp(999)));
        assert!(!is_fresh(&caching("1"), Timestamp(0), Timestamp(1_000)));
        assert!(is_fresh(&Caching { ttl_ms: None, ..caching("1") }, Timestamp(0), Timestamp(u64::MAX)));
    }
}
