//! What a plugin asks for beyond what was accepted.

use wfhost_core::{WantedHttp, Wants};

use crate::PluginConfig;
use crate::grant::HttpGrant;

/// What of `wants` goes beyond `accepted`. What is only said in other words, or narrower, does not.
pub fn beyond(wants: &Wants, accepted: &Wants) -> Wants {
    // Addresses that cannot be read accept nothing.
    let granted = accepted.http.iter().filter_map(|one| {
        let alone = Wants { http: vec![one.clone()], ..Wants::default() };
        PluginConfig::wanted("", &alone).ok()
    });
    let granted: Vec<HttpGrant> = granted.flat_map(|config| config.http).collect();
    let widens = |wanted: &&WantedHttp| {
        let has_secret = |name: &String| {
            // A secret that goes somewhere else is another one.
            let same = accepted.http.iter().filter(|before| before.url == wanted.url);
            same.flat_map(|before| &before.inject).any(|before| before.eq_ignore_ascii_case(name))
        };
        !HttpGrant::covers(&granted, wanted) || !wanted.inject.iter().all(has_secret)
    };
    Wants {
        http: wants.http.iter().filter(widens).cloned().collect(),
        directories: (wants.directories.iter())
            .filter(|wanted| {
                !accepted
                    .directories
                    .iter()
                    .any(|one| one.path == wanted.path && (one.write || !wanted.write))
            })
            .cloned()
            .collect(),
        env: (wants.env.iter())
            .filter(|wanted| !accepted.env.iter().any(|one| one.name == wanted.name))
            .cloned()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wants(value: Value) -> Wants {
        serde_json::from_value(value).unwrap()
    }

    fn http(url: &str, methods: &[&str], inject: &[&str]) -> Value {
        json!({ "http": [{ "url": url, "methods": methods, "inject": inject, "reason": "r" }] })
    }

    #[test]
    fn what_is_narrower_is_accepted_and_what_is_wider_is_not() {
        let old = wants(http("https://a.org/v1/", &["GET", "POST"], &["x-key"]));
        for (new, wider) in [
            (http("https://a.org/v1/", &["GET"], &["X-Key"]), false),
            (http("https://a.org/v1/ask", &["GET"], &[]), false),
            (http("https://a.org/v1/ask", &["GET"], &["x-key"]), true),
            (http("https://a.org/v1/", &["GET"], &["authorization"]), true),
            (http("https://a.org/v1/", &["DELETE"], &[]), true),
            (http("https://a.org/", &["GET"], &[]), true),
            (http("https://a.org:444/v1/", &["GET"], &[]), true),
            (http("http://a.org/v1/", &["GET"], &[]), true),
            (http("https://*.a.org/v1/", &["GET"], &[]), true),
            (http("https://*/v1/", &["GET"], &[]), true),
            (http("nonsense", &["GET"], &[]), true),
            (json!({ "directories": [{ "path": "/data", "reason": "r" }] }), true),
            (json!({ "env": [{ "name": "LANG", "reason": "r" }] }), true),
            (json!({}), false),
        ] {
            assert_eq!(!beyond(&wants(new.clone()), &old).is_empty(), wider, "{new}");
        }
        let reads = wants(json!({ "directories": [{ "path": "/data", "reason": "r" }] }));
        let writes = wants(json!({ "directories": [{ "path": "/data", "write": true, "reason": "r" }] }));
        assert!(beyond(&reads, &writes).is_empty() && !beyond(&writes, &reads).is_empty());
        // One that cannot be read takes nothing from the others.
        let odd = wants(json!({ "http": [
            { "url": "nonsense", "methods": ["GET"], "reason": "r" },
            { "url": "https://a.org/", "methods": ["GET"], "reason": "r" },
        ] }));
        assert!(beyond(&wants(http("https://a.org/", &["GET"], &[])), &odd).is_empty());
    }
}
