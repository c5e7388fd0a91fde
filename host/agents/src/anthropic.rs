//! The provider `anthropic`: the messages API.
//!
//! ```toml
//! [providers.claude-api]
//! kind = "anthropic"
//! base_url = "https://api.anthropic.com"   # the default
//! api_key_env = "ANTHROPIC_API_KEY"        # the default; or api_key_file
//! model = "claude-sonnet-4-5"              # for calls that name none
//! system = "Be brief."
//! max_tokens = 8192                        # the default
//! stream = true                            # the default
//! headers = { anthropic-beta = "..." }
//! options = { temperature = 0.2 }          # members of the request's body
//! ```
//!
//! A call's `options` are members of the body too, as far as `call_options` of
//! the configuration allows them: by default what shapes the answer
//! (`temperature`, `top_p`, `top_k`, `stop_sequences`, `thinking`). The API keeps no
//! conversations; the host does. Tools are off.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use reqwest::Response;
use serde_json::{Map, Value, json};
use wfhost_core::policy::budget::Tells;
use wfhost_core::{FailureKind, Json, Reply, Usage};

use super::web::{self, LazyClient, Progress};
use super::{Call, CallFailure, CallOptions, CallOutput, Check, Lines, Provider, SecretSource, Stream};

/// The version of the API that this was written for.
const VERSION: &str = "2023-06-01";

/// How the API is used. See the module for the form in a file.
#[derive(Clone, Debug)]
pub struct AnthropicConfig {
    /// Without a slash at its end.
    pub base_url: String,
    /// None if the service wants no key.
    pub key: Option<SecretSource>,
    pub model: Option<String>,
    pub system: Option<String>,
    pub max_tokens: u64,
    pub stream: bool,
    pub headers: BTreeMap<String, String>,
    pub options: Map<String, Value>,
    /// The options that a call may set.
    pub call_options: CallOptions,
}

impl AnthropicConfig {
    /// Options that shape an answer.
    pub const CALL_OPTIONS: [&str; 6] =
        ["output_config", "stop_sequences", "temperature", "thinking", "top_k", "top_p"];
    pub const BASE_URL: &'static str = "https://api.anthropic.com";
    pub const KEY_ENV: &'static str = "ANTHROPIC_API_KEY";
    pub const MAX_TOKENS: u64 = 8_192;
}

impl Default for AnthropicConfig {
    fn default() -> Self {
        Self {
            base_url: Self::BASE_URL.to_owned(),
            key: Some(SecretSource::Env(Self::KEY_ENV.to_owned())),
            model: None,
            system: None,
            max_tokens: Self::MAX_TOKENS,
            stream: true,
            headers: BTreeMap::new(),
            options: Map::new(),
            call_options: CallOptions::of(&Self::CALL_OPTIONS),
        }
    }
}

/// Asks a model through the messages API.
#[derive(Debug)]
pub struct Anthropic {
    name: String,
    config: AnthropicConfig,
    client: LazyClient,
}

/// What one answer was, gathered from a body or from a stream.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    model: Option<String>,
    usage: Option<Usage>,
    stop: Option<String>,
}

impl Anthropic {
    pub fn new(name: impl Into<String>, config: AnthropicConfig) -> Self {
        Self { name: name.into(), config, client: LazyClient::default() }
    }

    fn body(&self, call: &Call) -> Result<Value, CallFailure> {
        let rejected = |message: &str| CallFailure::new(FailureKind::Rejected, message);
        let model = call
            .request
            .model
            .as_deref()
            .or(self.config.model.as_deref())
            .ok_or_else(|| rejected("neither the call nor its provider's configuration names a model"))?;
        // The API takes no empty messages.
        let said = |text: &str| match text.trim_end() {
            "" => "(nothing)".to_owned(),
            text => text.to_owned(),
        };
        let mut messages = Vec::new();
        for (asked, answered) in &call.history {
            messages.push(json!({ "role": "user", "content": said(asked) }));
            messages.push(json!({ "role": "assistant", "content": said(answered) }));
        }
        messages.push(json!({ "role": "user", "content": call.opening() }));
        for turn in &call.turns {
            messages.push(json!({ "role": "assistant", "content": said(&turn.answer) }));
            messages.push(json!({ "role": "user", "content": turn.correction }));
        }
        let mut body = json!({ "model": model, "max_tokens": self.config.max_tokens, "messages": messages });
        if let Some(system) = &self.config.system {
            body["system"] = json!(system);
        }
        let options = self.config.call_options.take(call)?;
        if let Value::Object(members) = &mut body {
            members.extend(self.config.options.clone());
            members.extend(options);
            members.insert("stream".to_owned(), json!(self.config.stream));
        }
        Ok(body)
    }

    async fn answer(&self, call: Call, out: CallOutput) -> Result<Reply, CallFailure> {
        let body = self.body(&call)?;
        let url = format!("{}/v1/messages", self.config.base_url.trim_end_matches('/'));
        let mut request = self
            .client
            .get(&url)?
            .post(&url)
            .header("content-type", "application/json")
            .header("anthropic-version", VERSION)
            .header("idempotency-key", format!("{}-{}", call.key, call.turns.len()));
        if let Some(source) = &self.config.key {
            let key = source.read().map_err(|error| CallFailure::auth(error.to_string()))?;
            let mut value = reqwest::header::HeaderValue::from_str(key.expose()).map_err(|_| {
                CallFailure::auth(format!("{source} does not contain a key: it has line breaks"))
            })?;
            value.set_sensitive(true);
            request = request.header("x-api-key", value);
        }
        for (name, value) in &self.config.headers {
            request = request.header(name, value);
        }
        let response = web::send(request.body(body.to_string()), &out).await?;
        let answer = match web::is_event_stream(&response) {
            true => streamed(response, &out).await?,
            false => {
                let text = web::read(response, &out).await?;
                out.transcript(&text);
                whole(&web::json(&text)?)?
            }
        };
        let failure = match answer.stop.as_deref() {
            Some("max_tokens" | "model_context_window_exceeded") => {
                Some(CallFailure::new(FailureKind::InvalidOutput, "the answer was truncated at max_tokens"))
            }
            Some("refusal") => Some(CallFailure::new(FailureKind::Rejected, "the model refused to answer")),
            _ => None,
        };
        if let Some(failure) = failure {
            return Err(failure.with_usage(answer.usage));
        }
        Ok(Reply {
            model: answer.model.or_else(|| call.request.model.clone()),
            usage: answer.usage,
            ..Reply::new(&self.name, Json::string(&answer.text))
        })
    }
}

impl Provider for Anthropic {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&str> {
        self.config.model.as_deref()
    }

    fn check(&self) -> Vec<Check> {
        self.config.key.iter().map(Check::secret).collect()
    }

    fn keeps_conversations(&self) -> bool {
        false
    }

    fn configuration(&self) -> String {
        format!("{:?}", self.config)
    }

    fn tells(&self) -> Tells {
        Tells::TOKENS
    }

    fn most_tokens(&self) -> Option<u64> {
        Some(self.config.max_tokens)
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(self.answer(call, out))
    }
}

/// Takes what a `usage` object says; a later one has newer numbers. The API
/// counts cached input apart.
fn note_usage(known: &mut Option<Usage>, value: &Value) {
    if !value.is_object() {
        return;
    }
    let usage = known.get_or_insert_default();
    let count = |name: &str| value[name].as_u64();
    if let Some(fresh) = count("input_tokens") {
        let read = count("cache_read_input_tokens").unwrap_or(0);
        let written = count("cache_creation_input_tokens").unwrap_or(0);
        usage.input_tokens = fresh.saturating_add(read).saturating_add(written);
        usage.cached_tokens = read;
    }
    if let Some(output) = count("output_tokens") {
        usage.output_tokens = output;
    }
}

/// An answer in one piece.
fn whole(body: &Value) -> Result<Answer, CallFailure> {
    let mut answer = Answer {
        model: body["model"].as_str().map(str::to_owned),
        stop: body["stop_reason"].as_str().map(str::to_owned),
        ..Answer::default()
    };
    note_usage(&mut answer.usage, &body["usage"]);
    if body["error"].is_object() {
        return Err(failed(&body["error"]).with_usage(answer.usage));
    }
    let Some(blocks) = body["content"].as_array() else {
        let message = "the answer of the service has no `content`";
        return Err(CallFailure::new(FailureKind::InvalidOutput, message).with_usage(answer.usage));
    };
    answer.text = blocks.iter().filter_map(|block| block["text"].as_str()).collect();
    Ok(answer)
}

/// An answer in pieces, which ends with `message_stop`.
async fn streamed(response: Response, out: &CallOutput) -> Result<Answer, CallFailure> {
    let mut answer = Answer::default();
    let mut lines = Lines::new(out.clone(), Stream::Answer);
    let ended = web::events(response, out, |event| {
        let event = web::json(&event.data)?;
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                answer.model = event["message"]["model"].as_str().map(str::to_owned);
                note_usage(&mut answer.usage, &event["message"]["usage"]);
                out.usage(answer.usage);
            }
            "content_block_delta" => {
                if let Some(piece) = event["delta"]["text"].as_str() {
                    answer.text.push_str(piece);
                    lines.push(piece);
                }
            }
            "message_delta" => {
                answer.stop = event["delta"]["stop_reason"].as_str().map(str::to_owned);
                note_usage(&mut answer.usage, &event["usage"]);
                out.usage(answer.usage);
            }
            "message_stop" => return Ok(Progress::Done),
            "error" => return Err(failed(&event["error"])),
            _ => {}
        }
        Ok(Progress::More)
    })
    .await;
    lines.finish();
    match ended {
        Ok(()) => Ok(answer),
        Err(failure) => Err(failure.with_usage(answer.usage)),
    }
}

/// The failure that an `error` object means.
fn failed(error: &Value) -> CallFailure {
    let message = error["message"].as_str().unwrap_or("without a message");
    let message = format!("the service reported an error: {}", web::shorten(message));
    match error["type"].as_str().unwrap_or_default() {
        "authentication_error" | "permission_error" | "billing_error" => CallFailure::auth(message),
        "invalid_request_error" | "not_found_error" | "request_too_large" => {
            CallFailure::new(FailureKind::Rejected, message)
        }
        "timeout_error" => CallFailure::new(FailureKind::TimedOut, message),
        _ => web::unavailable(message),
    }
}
