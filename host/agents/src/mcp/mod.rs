//! The provider `mcp`: calls a tool of a server of the Model Context Protocol
//! (revision 2025-06-18), over stdio or streamable HTTP.
//!
//! ```toml
//! [providers.files]
//! kind = "mcp"
//! argv = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv"]   # stdio; or
//! # url = "https://mcp.example.com/mcp"                                     # streamable HTTP
//! tool = "read_text_file"
//! tools = ["read_text_file", "list"]   # those that a call may name; only `tool` by default
//! arguments = { path = "${prompt}" }   # see below for the default
//! output = "/result"                   # a JSON pointer into the answer
//! env = ["NODE_PATH"]                  # stdio: as for programs, also set, secrets, directory
//! api_key_env = "MCP_TOKEN"            # HTTP: sent as a bearer token; or api_key_file
//! headers = { x-team = "docs" }        # HTTP
//! ```
//!
//! A call may name the tool itself by its option `tool`, if that is one of
//! `tools`; without `tool` and `tools` it may name any. Without `arguments` the
//! tool gets the input of the call if that is an object, else `{"prompt": ...}`.
//!
//! The structured content of the result is the answer, else its JSON if all of
//! it is one JSON text, else its text. A result with other content (images,
//! sound, resources, links) is `{"text", "content", "structuredContent"}`, with
//! the content as the server gave it.
//!
//! A server lives as long as one call. One that is a program is ended by
//! closing its stdin first, then as programs are. A call that is stopped is
//! cancelled (`notifications/cancelled`), and its session is deleted.

mod http;
mod stdio;

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Failure, FailureKind, Json, Reply};

use super::http::{fill, values};
use super::{
    Call, CallFailure, CallOptions, CallOutput, Check, CommandConfig, Provider, SecretSource, Stream,
    without_escapes,
};

/// The revision of the protocol that is asked for.
const PROTOCOL: &str = "2025-06-18";
/// Those that are the same in what is used here.
const KNOWN: [&str; 4] = ["2024-11-05", "2025-03-26", PROTOCOL, "2025-11-25"];

/// Which server is asked, and how. See the module for the form in a file.
#[derive(Clone, Debug)]
pub struct McpConfig {
    pub server: McpServer,
    pub tool: Option<String>,
    /// The tools that a call may name.
    pub tools: CallOptions,
    pub arguments: Option<Value>,
    /// A JSON pointer to the answer within the result (RFC 6901).
    pub output: Option<String>,
}

/// Where a server is.
#[derive(Clone, Debug)]
pub enum McpServer {
    /// A program; of its settings `argv`, `env`, `set`, `secrets` and `directory` count.
    Stdio(CommandConfig),
    Http {
        url: String,
        key: Option<SecretSource>,
        headers: BTreeMap<String, String>,
    },
}

/// Asks a tool of a server.
#[derive(Debug)]
pub struct Mcp {
    name: String,
    config: McpConfig,
    client: super::web::LazyClient,
}

impl Mcp {
    pub fn new(name: impl Into<String>, config: McpConfig) -> Self {
        Self { name: name.into(), config, client: super::web::LazyClient::default() }
    }

    fn tool(&self, call: &Call) -> Result<String, CallFailure> {
        let rejected = |message: String| CallFailure::new(FailureKind::Rejected, message);
        let options = call.request.options.as_ref().map(Json::value).unwrap_or_default();
        match (options["tool"].as_str(), &self.config.tool) {
            (Some(tool), _) if !self.config.tools.allows(tool) => Err(rejected(format!(
                "a call may not use the tool `{}` (`tools` of the provider)",
                super::web::shorten(tool)
            ))),
            (Some(tool), _) => Ok(tool.to_owned()),
            (None, Some(tool)) => Ok(tool.clone()),
            (None, None) => Err(rejected(
                "neither the call (option `tool`) nor its provider's configuration names a tool".to_owned(),
            )),
        }
    }

    fn arguments(&self, call: &Call) -> Value {
        match (&self.config.arguments, &call.request.input) {
            (Some(template), _) => fill(template, &values(call)),
            (None, Some(input)) if input.value().is_object() => input.value(),
            (None, _) => json!({ "prompt": call.message() }),
        }
    }

    async fn answer(&self, call: Call, out: CallOutput) -> Result<Reply, CallFailure> {
        let tool = self.tool(&call)?;
        let request = json!({
            "name": tool,
            "arguments": self.arguments(&call),
            "_meta": { "progressToken": call.key },
        });
        let result = match &self.config.server {
            McpServer::Stdio(config) => stdio::call(config, &call, request, &out).await?,
            McpServer::Http { url, key, headers } => {
                let client = self.client.get(url)?;
                http::Server::new(client, url, key.as_ref(), headers)?.call(request, &out).await?
            }
        };
        let answer = output(&tool, &result)?;
        let answer = match self.config.output.as_deref() {
            None | Some("") => answer,
            Some(pointer) => {
                let value = answer.value();
                let found = value.pointer(pointer).or_else(|| result.pointer(pointer)).ok_or_else(|| {
                    let message = format!(
                        "the result of the tool `{tool}` has nothing at `{pointer}`: {}",
                        super::web::shorten(answer.as_str())
                    );
                    CallFailure::new(FailureKind::InvalidOutput, message)
                })?;
                Json::from(found.clone())
            }
        };
        Ok(Reply { model: call.request.model.clone(), ..Reply::new(&self.name, answer) })
    }
}

/// The answer within the result of a tool.
fn output(tool: &str, result: &Value) -> Result<Json, CallFailure> {
    let content = result["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_text = |block: &&Value| block["type"] == "text" || block["type"].is_null();
    let texts: Vec<_> = content.iter().filter(is_text).filter_map(|block| block["text"].as_str()).collect();
    let text = texts.join("\n");
    if result["isError"] == true {
        let said = if text.is_empty() { "without a message".to_owned() } else { super::web::shorten(&text) };
        let failure = Failure::new(FailureKind::Failed, format!("the tool `{tool}` failed: {said}"));
        return Err(Failure { details: Some(Json::from(result.clone())), ..failure }.into());
    }
    let structured = &result["structuredContent"];
    if !content.iter().all(|block| is_text(&block)) {
        let mut answer = json!({ "text": text, "content": content });
        if !structured.is_null() {
            answer["structuredContent"] = structured.clone();
        }
        return Ok(Json::from(answer));
    }
    if !structured.is_null() {
        return Ok(Json::from(structured.clone()));
    }
    if texts.is_empty() {
        // Some tools have nothing to say.
        if result["content"].is_array() {
            return Ok(Json::from(Value::Null));
        }
        let message = format!("the tool `{tool}` returned no content");
        return Err(CallFailure::new(FailureKind::InvalidOutput, message));
    }
    // Data is often given as text.
    let data = text.trim_start().starts_with(['{', '[']).then(|| Json::parse(text.clone()));
    Ok(data.and_then(Result::ok).unwrap_or_else(|| Json::string(&text)))
}

impl Provider for Mcp {
    fn name(&self) -> &str {
        &self.name
    }

    fn configuration(&self) -> String {
        format!("{:?}", self.config)
    }

    fn tells(&self) -> Tells {
        Tells::NOTHING
    }

    fn check(&self) -> Vec<Check> {
        match &self.config.server {
            McpServer::Stdio(config) => {
                let program = config.argv.first().map_or("", String::as_str);
                let secrets = config.secrets.values().map(Check::secret);
                std::iter::once(Check::program(program)).chain(secrets).collect()
            }
            McpServer::Http { key, .. } => key.iter().map(Check::secret).collect(),
        }
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(self.answer(call, out))
    }
}

/// The number of the request that begins a session.
const BEGIN: u32 = 1;
/// The number of the request that calls the tool.
const CALL: u32 = 2;

fn initialize() -> Value {
    let params = json!({
        "protocolVersion": PROTOCOL,
        "capabilities": {},
        "clientInfo": { "name": "wfhost", "version": env!("CARGO_PKG_VERSION") },
    });
    request(BEGIN, "initialize", params)
}

fn request(id: u32, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn initialized() -> Value {
    json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })
}

/// Tells the server that nothing waits for the tool any more.
fn cancelled() -> Value {
    json!({
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": { "requestId": CALL, "reason": "the call was stopped" },
    })
}

/// The revision that a server chose.
fn revision(begun: &Value) -> Result<String, CallFailure> {
    let chosen = begun["protocolVersion"].as_str().unwrap_or(PROTOCOL);
    if KNOWN.contains(&chosen) {
        return Ok(chosen.to_owned());
    }
    let message =
        format!("the server uses an unsupported revision of the protocol: {}", super::web::shorten(chosen));
    Err(CallFailure { exhausted: true, ..CallFailure::new(FailureKind::Unavailable, message) })
}

/// What a message of the server means for request `id`.
enum Heard {
    /// The result of the request.
    Result(Value),
    /// A request of the server, and what it is answered.
    Asked(Value),
    /// Anything else.
    Nothing,
}

/// Looks at a message of the server.
fn hear(message: &Value, id: u32, out: &CallOutput) -> Result<Heard, CallFailure> {
    if let Some(method) = message["method"].as_str() {
        let params = &message["params"];
        match method {
            "notifications/progress" => {
                let total = match &params["total"] {
                    Value::Null => String::new(),
                    total => format!(" of {total}"),
                };
                let said = params["message"].as_str().map(without_escapes);
                out.line(
                    Stream::Progress,
                    said.unwrap_or_else(|| format!("progress {}{total}", params["progress"])),
                );
            }
            "notifications/message" => {
                let data = &params["data"];
                out.line(Stream::Progress, data.as_str().map_or_else(|| data.to_string(), without_escapes));
            }
            _ => {}
        }
        let asked = &message["id"];
        if asked.is_null() {
            return Ok(Heard::Nothing);
        }
        return Ok(Heard::Asked(match method {
            "ping" => json!({ "jsonrpc": "2.0", "id": asked, "result": {} }),
            _ => json!({
                "jsonrpc": "2.0", "id": asked,
                "error": { "code": -32601, "message": "not supported by the client" },
            }),
        }));
    }
    if message["id"] != json!(id) {
        return Ok(Heard::Nothing);
    }
    if message["error"].is_object() {
        let error = &message["error"];
        let said = super::web::shorten(error["message"].as_str().unwrap_or("without a message"));
        // Invalid requests stay so.
        let kind = match error["code"].as_i64() {
            Some(-32602..=-32600) => FailureKind::Rejected,
            _ => FailureKind::Failed,
        };
        return Err(CallFailure::new(kind, format!("the server reported an error: {said}")));
    }
    Ok(Heard::Result(message["result"].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_structured_content_or_data_or_text() {
        let content = |text: &str| json!({"content": [{"type": "text", "text": text}]});
        let of = |result: Value| output("t", &result).map(|json| json.value());
        assert_eq!(of(content("hello")).unwrap(), "hello");
        assert_eq!(of(content("{\"a\":1}")).unwrap(), json!({"a": 1}));
        assert_eq!(of(content("{broken")).unwrap(), "{broken");
        let both = json!({"content": [{"type": "text", "text": "x"}], "structuredContent": {"b": 2}});
        assert_eq!(of(both).unwrap(), json!({"b": 2}));
        let failed = json!({"isError": true, "content": [{"type": "text", "text": "no such file"}]});
        assert_eq!(of(failed).unwrap_err().to_string(), "failed: the tool `t` failed: no such file");
        assert_eq!(of(json!({})).unwrap_err().failure.kind, FailureKind::InvalidOutput);
        assert_eq!(of(json!({"content": []})).unwrap(), Value::Null);
    }

    #[test]
    fn content_of_all_kinds_is_kept() {
        let blocks = json!([
            {"type": "text", "text": "see"},
            {"type": "image", "data": "aGk=", "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inner"}},
            {"type": "resource_link", "uri": "file:///b", "name": "b"},
        ]);
        let answer = output("t", &json!({"content": blocks, "structuredContent": {"n": 1}})).unwrap().value();
        assert_eq!(answer, json!({"text": "see", "content": blocks, "structuredContent": {"n": 1}}));
    }

    #[test]
    fn an_unknown_revision_is_refused() {
        assert!(revision(&json!({"protocolVersion": "2025-11-25"})).is_ok());
        assert!(revision(&json!({"protocolVersion": "1999-01-01"})).is_err());
    }

    #[test]
    fn requests_of_the_server_are_answered() {
        let out = CallOutput::none();
        let ping = json!({"jsonrpc": "2.0", "id": "p", "method": "ping"});
        let Ok(Heard::Asked(answer)) = hear(&ping, 1, &out) else { panic!("an answer") };
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
        let sampling = json!({"jsonrpc": "2.0", "id": 9, "method": "sampling/createMessage"});
        let Ok(Heard::Asked(answer)) = hear(&sampling, 1, &out) else { panic!("an answer") };
        assert_eq!(answer["error"]["code"], -32601);
        let other = json!({"jsonrpc": "2.0", "id": 7, "result": {}});
        assert!(matches!(hear(&other, 1, &out), Ok(Heard::Nothing)));
    }
}
