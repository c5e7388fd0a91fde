//! JSON-RPC, and the versions of the protocol.

use axum::http::StatusCode;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wfhost_core::trace::parse_traceparent;
use wfhost_view::{document, raw};

use super::tasks;

/// Versions that begin with a handshake, oldest first.
const HANDSHAKE: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The version from which each request says who asks.
const MODERN: &str = "2026-07-28";

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// All versions that are known here.
pub(super) fn versions() -> Vec<&'static str> {
    HANDSHAKE.into_iter().chain([MODERN]).collect()
}

/// The version that is spoken with a client that asks for this one.
pub(super) fn handshake_version(asked: &str) -> &'static str {
    HANDSHAKE.into_iter().find(|known| *known == asked).unwrap_or(HANDSHAKE[HANDSHAKE.len() - 1])
}

/// Whether a version is one from which each request says who asks.
pub(super) fn is_modern(version: &str) -> bool {
    version == MODERN
}

/// An error of the protocol.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct RpcError {
    code: i64,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    pub fn parse(error: &serde_json::Error) -> Self {
        Self::new(-32_700, format!("the message is not valid JSON: {error}"))
    }

    pub fn request(message: impl Into<String>) -> Self {
        Self::new(-32_600, message)
    }

    pub fn method(method: &str) -> Self {
        Self::new(-32_601, format!("unknown method `{method}`"))
    }

    pub fn params(message: impl Into<String>) -> Self {
        Self::new(-32_602, message)
    }

    pub fn header(message: impl Into<String>) -> Self {
        Self::new(-32_020, message)
    }

    pub fn version(asked: &str) -> Self {
        let data = json!({ "requested": asked, "supported": versions() });
        Self { data: Some(data), ..Self::new(-32_022, "Unsupported protocol version") }
    }

    /// What the API refused, with its code and hints.
    pub fn of_problem(status: StatusCode, problem: &Value) -> Self {
        let code = if status.is_server_error() { -32_603 } else { -32_602 };
        let title = problem["title"].as_str().unwrap_or("it cannot be answered");
        Self { data: Some(problem.clone()), ..Self::new(code, title) }
    }

    pub fn answer(self, id: &RawValue) -> Box<RawValue> {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            error["data"] = data;
        }
        raw(&document! { "jsonrpc": "2.0", "id": id, "error": error })
    }
}

/// What a request says of who sent it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Client {
    modern: bool,
    tasks: bool,
    elicits: bool,
    /// The span that the request belongs to, if it names one that can be read.
    traceparent: Option<String>,
}

impl Client {
    pub fn of(method: &str, params: &Map<String, Value>) -> Result<Self, RpcError> {
        let meta = params.get("_meta").and_then(Value::as_object);
        // In any version: it is a convention of clients with traces, and others leave it out.
        let traceparent = meta.and_then(|meta| meta.get("traceparent")).and_then(Value::as_str);
        let traceparent = traceparent.map(str::trim).filter(|text| parse_traceparent(text).is_some());
        let traceparent = traceparent.map(str::to_owned);
        let Some(version) = meta.and_then(|meta| meta.get(VERSION)) else {
            return match method {
                "server/discover" => Err(RpcError::params(format!("`_meta` has no `{VERSION}`"))),
                _ => Ok(Self { traceparent, ..Self::default() }),
            };
        };
        let version = version.as_str().ok_or_else(|| RpcError::params(format!("`{VERSION}` is not text")))?;
        if !versions().contains(&version) {
            return Err(RpcError::version(version));
        }
        let capabilities = meta.and_then(|meta| meta.get(CAPABILITIES)).and_then(Value::as_object);
        let modern = is_modern(version);
        if modern && capabilities.is_none() {
            return Err(RpcError::params(format!("`_meta` has no `{CAPABILITIES}`")));
        }
        let elicitation = capabilities.and_then(|known| known.get("elicitation")).and_then(Value::as_object);
        // One that says nothing more shows forms; one may only open addresses.
        let forms = elicitation.is_some_and(|modes| modes.is_empty() || modes.contains_key("form"));
        let tasks = capabilities.and_then(|known| known.get("extensions")?.get(tasks::EXTENSION));
        Ok(Self { modern, tasks: modern && tasks.is_some(), elicits: modern && forms, traceparent })
    }

    /// Whether each of its requests stands for itself.
    pub fn is_modern(&self) -> bool {
        self.modern
    }

    pub fn knows_tasks(&self) -> bool {
        self.tasks
    }

    /// The span that its request belongs to.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    /// Whether it can put a question to its user.
    pub fn elicits(&self) -> bool {
        self.elicits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(meta: Value) -> Result<Client, RpcError> {
        let Value::Object(params) = json!({ "_meta": meta }) else { unreachable!() };
        Client::of("tools/list", &params)
    }

    #[test]
    fn what_a_client_can_is_told_by_each_request() {
        assert_eq!(Client::of("tools/list", &Map::new()), Ok(Client::default()));
        assert!(Client::of("server/discover", &Map::new()).is_err());
        let all = json!({
            (VERSION): MODERN,
            (CAPABILITIES): { "elicitation": {}, "extensions": { (tasks::EXTENSION): {} } },
        });
        assert_eq!(client(all), Ok(Client { modern: true, tasks: true, elicits: true, traceparent: None }));
        let opens = json!({ (VERSION): MODERN, (CAPABILITIES): { "elicitation": { "url": {} } } });
        assert!(!client(opens).unwrap().elicits());
        let both = json!({ (VERSION): MODERN, (CAPABILITIES): { "elicitation": { "form": {}, "url": {} } } });
        assert!(client(both).unwrap().elicits());
        let span = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(client(json!({ "traceparent": span })).unwrap().traceparent(), Some(span));
        assert_eq!(client(json!({ "traceparent": "nonsense" })).unwrap().traceparent(), None);
        let none = json!({ (VERSION): MODERN, (CAPABILITIES): {} });
        assert_eq!(client(none), Ok(Client { modern: true, ..Client::default() }));
        assert_eq!(client(json!({ (VERSION): MODERN })).unwrap_err().code, -32_602);
        assert_eq!(client(json!({ (VERSION): "2027-01-01" })).unwrap_err().code, -32_022);
        assert_eq!(client(json!({ (VERSION): 1 })).unwrap_err().code, -32_602);
    }

    #[test]
    fn an_unknown_version_is_answered_with_the_newest_that_has_a_handshake() {
        assert_eq!(handshake_version("2024-11-05"), "2024-11-05");
        assert_eq!(handshake_version("1999-01-01"), "2025-11-25");
        assert_eq!(handshake_version(MODERN), "2025-11-25");
    }
}
