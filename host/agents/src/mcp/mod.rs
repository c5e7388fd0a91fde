//! The provider `mcp`: calls a tool of a server of the Model Context Protocol
//! (revision 2025-06-18), over stdio or streamable HTTP.
//!
//! ```toml
//! [providers.files]
//! kind = "mcp"
//! argv = ["npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv"]   # stdio; or
//! # url = "https://mcp.example.com/mcp"                                     # streamable HTTP
//! tool = "read_text_file"
//! arguments = { path = "${prompt}" }   # see below for the default
//! env = ["NODE_PATH"]                  # stdio: as for programs, also set, secrets, directory
//! api_key_env = "MCP_TOKEN"            # HTTP: sent as a bearer token; or api_key_file
//! headers = { x-team = "docs" }        # HTTP
//! ```
//!
//! A call may name the tool itself: its option `tool`. Without `arguments` the
//! tool gets the input of the call if that is an object, else `{"prompt": ...}`.
//! The structured content of the result is the answer, else its JSON if all of
//! it is one JSON text, else its text. A server lives as long as one call.

mod http;
mod stdio;

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wfhost_core::policy::budget::Tells;
use wfhost_core::{FailureKind, Json, Reply};

use super::http::{fill, values};
use super::{Call, CallFailure, CallOutput, Check, CommandConfig, Provider, SecretSource, Stream};

/// The revision of the protocol that is asked for.
const PROTOCOL: &str = "2025-06-18";

/// Which server is asked, and how. See the module for the form in a file.
#[derive(Clone, Debug)]
pub struct McpConfig {
    pub server: McpServer,
    pub tool: Option<String>,
    pub arguments: Option<Value>,
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
        let option = call
            .request
            .options
            .as_ref()
            .and_then(|options| options.value()["tool"].as_str().map(str::to_owned));
        option.or_else(|| self.config.tool.clone()).ok_or_else(|| {
            let message =
                "the call names no tool (option `tool`), and the configuration of its provider has none";
            CallFailure::new(FailureKind::Rejected, message)
        })
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
                http::Session::new(client, url, key.as_ref(), headers)?.call(request, &out).await?
            }
        };
        Ok(Reply { model: call.request.model.clone(), ..Reply::new(&self.name, output(&tool, &result)?) })
    }
}

/// The answer within the result of a tool.
fn output(tool: &str, result: &Value) -> Result<Json, CallFailure> {
    let texts = result["content"].as_array().into_iter().flatten();
    let texts: Vec<_> = texts.filter_map(|content| content["text"].as_str()).collect();
    let text = texts.join("\n");
    if result["isError"] == true {
        let message = format!("the tool `{tool}` failed: {}", super::web::shorten(&text));
        return Err(CallFailure::new(FailureKind::Failed, message));
    }
    let structured = &result["structuredContent"];
    if !structured.is_null() {
        return Ok(Json::from(structured.clone()));
    }
    if texts.is_empty() {
        let message = format!("the tool `{tool}` gave neither text nor structured content");
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

fn initialize() -> Value {
    json!({
        "protocolVersion": PROTOCOL,
        "capabilities": {},
        "clientInfo": { "name": "wfhost", "version": env!("CARGO_PKG_VERSION") },
    })
}

fn request(id: u32, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn notification(method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "method": method })
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
                let said = params["message"].as_str().map_or_else(
                    || format!("progress {} of {}", params["progress"], params["total"]),
                    str::to_owned,
                );
                out.line(Stream::Progress, said);
            }
            "notifications/message" => {
                let data = &params["data"];
                out.line(Stream::Progress, data.as_str().map_or_else(|| data.to_string(), str::to_owned));
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
                "error": { "code": -32601, "message": "the client cannot do that" },
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
