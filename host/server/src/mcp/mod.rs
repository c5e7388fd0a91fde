//! A server of the Model Context Protocol: what coding agents and other clients of models speak.
//!
//! Each tool is a request of the API, made within the process by the same routes: what it needs, what
//! it hides, what it refuses and how is decided there. A run is a task for clients that know tasks, and
//! its questions reach people as elicitations. Nothing is remembered between two requests.

mod http;
mod interact;
mod prompts;
mod resources;
mod rpc;
mod tasks;
mod tools;

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

pub(crate) use self::http::answer as over_http;
use self::rpc::{Client, RpcError};
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::openapi;

/// Messages that are taken at once.
const BATCH: usize = 100;

/// What a client of this server may, besides what its scopes say.
#[derive(Clone, Debug)]
pub struct McpOptions {
    /// Whether there is a tool to answer questions. Without, only people do, when their client asks them.
    pub answers: bool,
    /// Whether each module is a tool of its own.
    pub workflows: bool,
}

/// A server for one client.
#[derive(Clone, Debug)]
pub struct Mcp {
    app: App,
    api: Router,
    who: Identity,
    options: McpOptions,
}

/// What the API answered.
struct Answered {
    status: StatusCode,
    body: Value,
}

/// What the API is asked.
struct Asked {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    key: Option<String>,
    /// The span of who asks.
    traceparent: Option<String>,
}

impl Asked {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), body: None, key: None, traceparent: None }
    }

    fn post(path: String, body: Value) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(path) }
    }

    fn with(mut self, name: &'static str, value: Option<String>) -> Self {
        self.query.extend(value.map(|value| (name, value)));
        self
    }
}

/// A part of an address, with what has a meaning there written out.
fn part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => out.push(char::from(byte)),
            // Alone it would be a way up.
            b'.' if text.len() > 2 => out.push('.'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl Mcp {
    /// A server for the user of this process, over standard input and output or the like.
    pub fn of_user(app: &App, read_only: bool, options: McpOptions) -> Self {
        let mut who = app.user();
        "mcp".clone_into(&mut who.name);
        if read_only {
            who.scopes = Scope::ALL.iter().copied().filter(|scope| scope.is_reading()).collect();
        }
        Self::new(app, who, options)
    }

    pub(crate) fn new(app: &App, who: Identity, options: McpOptions) -> Self {
        let api = openapi::parts(app.base()).0.with_state(app.clone());
        Self { app: app.clone(), api, who, options }
    }

    /// Takes a message, and gives what is to be sent back: nothing for what asks for nothing.
    pub async fn take(&self, message: &str) -> Option<String> {
        let answer = match serde_json::from_str(message) {
            Ok(Value::Array(messages)) if messages.len() > BATCH => {
                let why = format!("at most {BATCH} messages can be sent at once, not {}", messages.len());
                Some(RpcError::request(why).answer(Value::Null))
            }
            Ok(Value::Array(messages)) if !messages.is_empty() => {
                let mut answers = Vec::new();
                for message in messages {
                    answers.extend(self.one(message).await);
                }
                (!answers.is_empty()).then_some(Value::Array(answers))
            }
            Ok(message) => self.one(message).await,
            Err(error) => Some(RpcError::parse(&error).answer(Value::Null)),
        };
        answer.map(|answer| answer.to_string())
    }

    async fn one(&self, message: Value) -> Option<Value> {
        let Value::Object(mut message) = message else {
            return Some(RpcError::request("a message has to be an object").answer(Value::Null));
        };
        let id = message.remove("id");
        let Some(Value::String(method)) = message.remove("method") else {
            // An answer to something: nothing is asked here.
            let answers = message.contains_key("result") || message.contains_key("error");
            return (!answers)
                .then(|| RpcError::request("a request needs a `method`").answer(id.unwrap_or_default()));
        };
        // A notification: cancelled, initialized. None changes anything.
        let id = id?;
        self.app.options().metrics.asked_by_mcp(&method);
        let params = match message.remove("params") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Some(RpcError::params("`params` has to be an object").answer(id)),
        };
        Some(match self.request(&method, params).await {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => error.answer(id),
        })
    }

    async fn request(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
        let client = Client::of(method, &params)?;
        let mut result = match method {
            "initialize" => self.initialize(&params),
            "server/discover" => self.discover(),
            "ping" if !client.is_modern() => json!({}),
            "tools/list" => json!({ "tools": self.tools().await }),
            "tools/call" => self.call(&client, params).await?,
            "resources/list" => json!({ "resources": self.resources().await? }),
            "resources/templates/list" => {
                json!({ "resourceTemplates": resources::templates(self.may(&[Scope::PayloadsRead])) })
            }
            "resources/read" => self.read_resource(&params).await?,
            "prompts/list" => json!({ "prompts": prompts::list() }),
            "prompts/get" => prompts::get(&params)?,
            "tasks/get" if client.knows_tasks() => self.task(&params).await?,
            "tasks/update" if client.knows_tasks() => self.update_task(&params).await?,
            "tasks/cancel" if client.knows_tasks() => self.cancel_task(&params).await?,
            _ => return Err(RpcError::method(method)),
        };
        if client.is_modern() || method == "server/discover" {
            let has_kind = result.get("resultType").is_some();
            if !has_kind {
                result["resultType"] = "complete".into();
            }
            if method.ends_with("/list") || matches!(method, "resources/read" | "server/discover") {
                // What there is changes with every run.
                result["ttlMs"] = 0.into();
                result["cacheScope"] = "private".into();
            }
        }
        Ok(result)
    }

    fn capabilities(&self, modern: bool) -> Value {
        let mut capabilities = json!({ "tools": {}, "resources": {}, "prompts": {} });
        if modern {
            capabilities["extensions"] = json!({ (tasks::EXTENSION): {} });
        }
        capabilities
    }

    fn instructions(&self) -> &'static str {
        "wfhost runs durable workflows. workflow_list lists the workflows; run_start starts one, and is safe to \
         repeat with a `key`; run_wait waits for the end; run_why says what blocks a run and how to unblock it. Runs \
         continue without this server. Questions of runs are for people."
    }

    fn initialize(&self, params: &Map<String, Value>) -> Value {
        let asked = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        json!({
            "protocolVersion": rpc::handshake_version(asked),
            "capabilities": self.capabilities(false),
            "serverInfo": info(),
            "instructions": self.instructions(),
        })
    }

    fn discover(&self) -> Value {
        json!({
            "supportedVersions": rpc::versions(),
            "capabilities": self.capabilities(true),
            "instructions": self.instructions(),
            "_meta": { "io.modelcontextprotocol/serverInfo": info() },
        })
    }

    /// Asks the API.
    async fn ask(&self, asked: Asked) -> Answered {
        let query: Vec<_> =
            asked.query.iter().map(|(name, value)| format!("{name}={}", part(value))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder()
            .method(asked.method)
            .uri(format!("/api/v1{}{mark}{}", asked.path, query.join("&")))
            // Only within the process: from outside nobody can set it.
            .extension(self.who.clone());
        if let Some(key) = &asked.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(traceparent) = &asked.traceparent {
            request = request.header("traceparent", traceparent);
        }
        let body = match asked.body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        let failed = |why: String| Answered {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            body: json!({ "code": "WF0812", "title": why, "hints": [], "details": [] }),
        };
        let request = match request.body(body) {
            Ok(request) => request,
            Err(error) => return failed(format!("invalid request: {error}")),
        };
        let response = match self.api.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let bytes = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return failed(format!("the response is incomplete: {error}")),
        };
        Answered { status, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    /// The same, for what is no tool: an error is one of the protocol.
    async fn fetch(&self, path: String) -> Result<Value, RpcError> {
        let Answered { status, body } = self.ask(Asked::get(path)).await;
        match status.is_success() {
            true => Ok(body),
            false => Err(RpcError::of_problem(status, &body)),
        }
    }

    fn may(&self, scopes: &[Scope]) -> bool {
        let read_only = self.app.options().read_only;
        scopes.iter().all(|scope| self.who.may(*scope) && (scope.is_reading() || !read_only))
    }
}

fn info() -> Value {
    json!({ "name": "wfhost", "title": "wfhost", "version": env!("CARGO_PKG_VERSION") })
}

/// The arguments of a tool or a prompt.
type Arguments = BTreeMap<String, Value>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_addresses_stay_parts() {
        assert_eq!(part("run_01k9"), "run_01k9");
        assert_eq!(part("batch.4"), "batch.4");
        assert_eq!(part(".."), "%2E%2E");
        assert_eq!(part("a/b?c#d ä"), "a%2Fb%3Fc%23d%20%C3%A4");
    }
}
