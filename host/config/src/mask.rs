//! Values that look like credentials are not shown: files should name secrets and not hold them, but
//! an address, an argument or a variable may.

use toml::Value;
use wfhost_agents::{MASK, hide_credentials, is_secret_name};

/// A value as it is shown under its key.
pub(super) fn masked(key: &str, value: &Value) -> Value {
    // The last part; one in quotes may have dots.
    let name = match key.strip_suffix('"') {
        Some(quoted) => quoted.rsplit('"').next().unwrap_or(quoted),
        None => key.rsplit('.').next().unwrap_or(key),
    };
    match value {
        Value::String(text) if names_a_secret(name) => Value::String(hidden(text)),
        Value::String(url) if key.starts_with("sinks.") && name == "url" => {
            Value::String(host_of(&hide_credentials(url)))
        }
        Value::String(text) => Value::String(hide_credentials(text)),
        Value::Array(values) => {
            let mut after_flag = false;
            let values = values.iter().map(|value| {
                let Value::String(text) = value else { return masked(key, value) };
                let shown =
                    if after_flag && !text.starts_with('-') { hidden(text) } else { hide_credentials(text) };
                after_flag = text.starts_with('-') && !text.contains('=') && names_a_secret(text);
                Value::String(shown)
            });
            Value::Array(values.collect())
        }
        Value::Table(table) => {
            Value::Table(table.iter().map(|(key, value)| (key.clone(), masked(key, value))).collect())
        }
        other => other.clone(),
    }
}

/// Whether what has this name is a secret, and not where one is: `api_key_env`.
fn names_a_secret(name: &str) -> bool {
    let name = name.trim_start_matches('-').replace('-', "_").to_ascii_lowercase();
    let place = ["_env", "_file", "max_tokens"].iter().any(|end| name.ends_with(end));
    !place && is_secret_name(&name)
}

/// An address without what follows its host: with many services whoever knows that may post.
fn host_of(url: &str) -> String {
    let begin = url.find("://").map_or(0, |at| at + 3);
    match url[begin..].find(['/', '?', '#']) {
        Some(end) if url.len() > begin + end + 1 => format!("{}/{MASK}", &url[..begin + end]),
        _ => url.to_owned(),
    }
}

fn hidden(text: &str) -> String {
    if text.is_empty() { String::new() } else { MASK.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_not_shown() {
        let shown = |key: &str, value: &str| {
            let table: toml::Table = format!("v = {value}").parse().unwrap();
            masked(key, &table["v"]).to_string()
        };
        for (key, value, expected) in [
            ("set.DATABASE_URL", "\"postgres://u:p@h/db\"", "\"postgres://u:[redacted]@h/db\""),
            ("p.base_url", "\"https://h/v1?api_key=abc&x=1\"", "\"https://h/v1?api_key=[redacted]&x=1\""),
            (
                "p.argv",
                "[\"x\", \"--api-key\", \"abc\", \"--token=abc\"]",
                "[\"x\", \"--api-key\", \"[redacted]\", \"--token=[redacted]\"]",
            ),
            ("p.args", "[\"sk-abcdefghijklm0123\", \"-v\"]", "[\"[redacted]\", \"-v\"]"),
            ("p.headers.x-note", "\"ghp_0123456789abcdef\"", "\"[redacted]\""),
            ("p.api_key_env", "\"OPENAI_API_KEY\"", "\"OPENAI_API_KEY\""),
            ("p.max_tokens", "4096", "4096"),
            ("p.argv", "[\"./review.sh\", \"--model\", \"m\"]", "[\"./review.sh\", \"--model\", \"m\"]"),
            ("set.API_TOKEN", "\"abc\"", "\"[redacted]\""),
            ("set.\"api.key\"", "\"abc\"", "\"[redacted]\""),
            ("providers.\"a secret\".model", "\"abc\"", "\"abc\""),
            ("sinks.w.url", "\"https://hooks.example/T0/B0/x\"", "\"https://hooks.example/[redacted]\""),
            ("sinks.w.url", "\"https://hooks.example/\"", "\"https://hooks.example/\""),
        ] {
            assert_eq!(shown(key, value), expected, "{key}");
        }
    }
}
