//! A server of the Model Context Protocol: what coding agents and other clients of models speak.
//!
//! Each tool is a request of the API, made within the process by the same routes: what it needs, what
//! it hides, what it refuses and how is decided there. A run is a task for clients that know tasks, and
//! its questions reach people as elicitations. Nothing is remembered between two requests.
//!
//! What programs are given and what they give is handed on as it was written: a [`Value`] would round large numbers,
//! so it is only what is looked at.

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
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tower::ServiceExt;
use wfhost_core::{Json, RunId};
use wfhost_view::{Document, document, raw};

pub(crate) use self::http::answer as over_http;
use self::rpc::{Client, RpcError};
use crate::api;
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
    /// As it was written, on one line.
    text: Box<RawValue>,
    /// What it says.
    body: Value,
}

/// What a text says, numbers rounded. Members that are too deep to be read are null.
fn outline(text: &RawValue) -> Value {
    serde_json::from_str(text.get()).unwrap_or_else(|_| {
        let members = serde_json::from_str::<Document>(text.get()).unwrap_or_default();
        let read = |part: &RawValue| serde_json::from_str::<Value>(part.get()).unwrap_or_default();
        members.iter().map(|(name, part)| (name.clone(), read(part))).collect()
    })
}

/// The members of an object.
fn members(object: Value) -> Document {
    match object {
        Value::Object(members) => members.iter().map(|(name, part)| (name.clone(), raw(part))).collect(),
        _ => Document::new(),
    }
}

/// What a request says.
struct Params {
    /// What is looked at here.
    plain: Map<String, Value>,
    /// What is handed on: the arguments of a tool or a prompt, and answers of people.
    arguments: Option<Box<RawValue>>,
    responses: Option<Box<RawValue>>,
}

impl Params {
    fn of(text: Option<&RawValue>) -> Result<Self, RpcError> {
        let read = text.map_or(Ok(None), |text| serde_json::from_str::<Option<Document>>(text.get()));
        let all = read.map_err(|_| RpcError::params("`params` has to be an object"))?;
        let mut all = all.unwrap_or_default();
        let (arguments, responses) = (all.remove("arguments"), all.remove("inputResponses"));
        let plain = all.into_iter().map(|(name, part)| (name, outline(&part))).collect();
        Ok(Self { plain, arguments, responses })
    }
}

/// What the API is asked.
struct Asked {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    /// JSON.
    body: Option<String>,
    key: Option<String>,
    /// The span of who asks.
    traceparent: Option<String>,
}

impl Asked {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), body: None, key: None, traceparent: None }
    }

    fn post(path: String, body: &impl Serialize) -> Self {
        Self { method: Method::POST, body: Some(raw(body).get().to_owned()), ..Self::get(path) }
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
        let answer = match serde_json::from_str::<&RawValue>(message) {
            // It is valid JSON, whatever its members are.
            Ok(whole) if whole.get().starts_with('[') => {
                match serde_json::from_str::<Vec<&RawValue>>(whole.get()).unwrap_or_default() {
                    messages if messages.is_empty() => self.one(whole).await,
                    messages if messages.len() > BATCH => {
                        let why =
                            format!("at most {BATCH} messages can be sent at once, not {}", messages.len());
                        Some(RpcError::request(why).answer(&raw(&())))
                    }
                    messages => {
                        let mut answers = Vec::new();
                        for message in messages {
                            answers.extend(self.one(message).await);
                        }
                        (!answers.is_empty()).then(|| raw(&answers))
                    }
                }
            }
            Ok(message) => self.one(message).await,
            Err(error) => Some(RpcError::parse(&error).answer(&raw(&()))),
        };
        answer.map(|answer| answer.get().to_owned())
    }

    async fn one(&self, message: &RawValue) -> Option<Box<RawValue>> {
        let Ok(mut message) = serde_json::from_str::<Document>(message.get()) else {
            return Some(RpcError::request("a message has to be an object").answer(&raw(&())));
        };
        let id = message.remove("id");
        let method =
            message.remove("method").and_then(|text| serde_json::from_str::<String>(text.get()).ok());
        let Some(method) = method else {
            // An answer to something: nothing is asked here.
            let answers = message.contains_key("result") || message.contains_key("error");
            return (!answers)
                .then(|| RpcError::request("a request needs a `method`").answer(&id.unwrap_or_default()));
        };
        // A notification: cancelled, initialized. None changes anything.
        let id = id?;
        self.app.options().metrics.asked_by_mcp(&method);
        let answered = match Params::of(message.get("params").map(|params| &**params)) {
            Ok(params) => self.request(&method, params).await,
            Err(error) => Err(error),
        };
        Some(match answered {
            Ok(result) => raw(&document! { "jsonrpc": "2.0", "id": id, "result": result }),
            Err(error) => error.answer(&id),
        })
    }

    async fn request(&self, method: &str, params: Params) -> Result<Document, RpcError> {
        let plain = &params.plain;
        let client = Client::of(method, plain)?;
        let mut result = match method {
            "initialize" => members(self.initialize(plain)),
            "server/discover" => members(self.discover()),
            "ping" if !client.is_modern() => Document::new(),
            "tools/list" => document! { "tools": self.tools().await },
            "tools/call" => self.call(&client, &params).await?,
            "resources/list" => document! { "resources": self.resources().await? },
            "resources/templates/list" => {
                document! { "resourceTemplates": resources::templates(self.may(&[Scope::PayloadsRead])) }
            }
            "resources/read" => self.read_resource(plain).await?,
            "prompts/list" => document! { "prompts": prompts::list() },
            "prompts/get" => members(prompts::get(&params)?),
            "tasks/get" if client.knows_tasks() => self.task(plain).await?,
            "tasks/update" if client.knows_tasks() => self.update_task(&params).await?,
            "tasks/cancel" if client.knows_tasks() => self.cancel_task(plain).await?,
            _ => return Err(RpcError::method(method)),
        };
        if client.is_modern() || method == "server/discover" {
            result.entry("resultType".to_owned()).or_insert_with(|| raw(&"complete"));
            if method.ends_with("/list") || matches!(method, "resources/read" | "server/discover") {
                // What there is changes with every run.
                result.insert("ttlMs".to_owned(), raw(&0));
                result.insert("cacheScope".to_owned(), raw(&"private"));
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
                Body::from(body)
            }
            None => Body::empty(),
        };
        let failed = |why: String| {
            let body = json!({ "code": "WF0812", "title": why, "hints": [], "details": [] });
            Answered { status: StatusCode::UNPROCESSABLE_ENTITY, text: raw(&body), body }
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
        let text = serde_json::from_slice::<Box<RawValue>>(&bytes).map(|text| raw(&text)).unwrap_or_default();
        Answered { status, body: outline(&text), text }
    }

    /// The same, for what is no tool: an error is one of the protocol.
    async fn fetch(&self, path: String) -> Result<Answered, RpcError> {
        let answered = self.ask(Asked::get(path)).await;
        match answered.status.is_success() {
            true => Ok(answered),
            false => Err(RpcError::of_problem(answered.status, &answered.body)),
        }
    }

    /// The run that this one goes on as: of its rounds the latest. What cannot be told is told by the API.
    async fn latest(&self, run: &str) -> String {
        let Ok(id) = run.parse::<RunId>() else { return run.to_owned() };
        api::latest(&self.app, &id).await.map_or_else(|_| run.to_owned(), |info| info.id.to_string())
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
type Arguments = BTreeMap<String, Json>;

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
