//! HTTP that was written down: for tests of plugins, without a network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::Value;

/// One request and its answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    pub request: RecordedRequest,
    pub response: RecordedResponse,
}

/// A request as it is expected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedRequest {
    #[serde(default = "get")]
    pub method: String,
    pub url: String,
    /// Those that have to be there.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Text, or JSON. None: any.
    #[serde(default)]
    pub body: Option<Value>,
}

/// An answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedResponse {
    #[serde(default = "ok")]
    pub status: u16,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Text, or JSON.
    #[serde(default)]
    pub body: Value,
    /// The pieces of a body that comes in some.
    #[serde(default)]
    pub pieces: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn ok() -> u16 {
    200
}

/// A request that was made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What was written down, each once, and what was asked for besides. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    open: Vec<Exchange>,
    unexpected: Vec<String>,
}

impl Recording {
    pub fn new(exchanges: Vec<Exchange>) -> Self {
        Self(Arc::new(Mutex::new(State { open: exchanges, unexpected: Vec::new() })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a request: of the first exchange that fits and was not had yet.
    pub(crate) fn answer(&self, made: &Made) -> Option<RecordedResponse> {
        let mut state = self.lock();
        match state.open.iter().position(|exchange| exchange.request.fits(made)) {
            Some(at) => Some(state.open.remove(at).response),
            None => {
                let near = state.open.iter().find(|exchange| exchange.request.url == made.url);
                let why = match near {
                    Some(near) => near.request.difference(made),
                    None => "no exchange matches this address".to_owned(),
                };
                state.unexpected.push(format!("{} {}: {why}", made.method, made.url));
                None
            }
        }
    }

    /// What went otherwise than it was written down.
    pub fn faults(&self) -> Vec<String> {
        let state = self.lock();
        let unmade = state
            .open
            .iter()
            .map(|Exchange { request, .. }| format!("{} {} was not requested", request.method, request.url));
        state.unexpected.iter().cloned().chain(unmade).collect()
    }
}

impl RecordedRequest {
    fn fits(&self, made: &Made) -> bool {
        self.method == made.method && self.url == made.url && self.difference(made).is_empty()
    }

    /// What is not as it is expected; empty if nothing.
    fn difference(&self, made: &Made) -> String {
        if self.method != made.method {
            return format!("the method is not {}", self.method);
        }
        for (name, value) in &self.headers {
            let found = made.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            match found {
                Some((_, found)) if found == value => {}
                Some((_, found)) => return format!("the header {name} is {found:?}, not {value:?}"),
                None => return format!("the header {name} is missing"),
            }
        }
        match &self.body {
            None => String::new(),
            Some(Value::String(text)) if *text == made.body => String::new(),
            Some(expected) => match serde_json::from_str::<Value>(&made.body) {
                Ok(found) if found == *expected => String::new(),
                _ => format!("the body is {}, not {expected}", made.body),
            },
        }
    }
}

impl RecordedResponse {
    /// The pieces of the body.
    pub(crate) fn body(&self) -> Vec<Vec<u8>> {
        match (&self.body, self.pieces.is_empty()) {
            (_, false) => self.pieces.iter().map(|piece| piece.clone().into_bytes()).collect(),
            (Value::Null, true) => Vec::new(),
            (Value::String(text), true) => vec![text.clone().into_bytes()],
            (json, true) => vec![json.to_string().into_bytes()],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(method: &str, body: &str) -> Made {
        let headers = vec![("X-A".to_owned(), "1".to_owned())];
        Made { method: method.to_owned(), url: "https://x.org/".to_owned(), headers, body: body.to_owned() }
    }

    #[test]
    fn each_exchange_is_had_once_and_what_differs_is_told() {
        let exchange = json!({
            "request": { "method": "POST", "url": "https://x.org/", "headers": { "x-a": "1" }, "body": { "a": 1 } },
            "response": { "body": "fine" },
        });
        let recording = Recording::new(vec![serde_json::from_value(exchange).unwrap()]);
        assert!(recording.answer(&made("POST", "{\"a\":2}")).is_none());
        assert!(recording.answer(&made("GET", "")).is_none());
        assert_eq!(recording.answer(&made("POST", "{ \"a\": 1 }")).unwrap().body(), [b"fine".to_vec()]);
        assert!(recording.answer(&made("POST", "{\"a\":1}")).is_none());
        assert_eq!(
            recording.faults(),
            [
                "POST https://x.org/: the body is {\"a\":2}, not {\"a\":1}",
                "GET https://x.org/: the method is not POST",
                "POST https://x.org/: no exchange matches this address",
            ]
        );
    }
}
