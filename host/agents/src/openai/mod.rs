//! The provider `openai`: the chat completions or the responses API of OpenAI,
//! or of anything that speaks one of them.
//!
//! ```toml
//! [providers.gpt]
//! kind = "openai"
//! api = "responses"                        # or "chat" (the default)
//! base_url = "https://api.openai.com/v1"   # the default
//! api_key_env = "OPENAI_API_KEY"           # the default; or api_key_file; or api_key = false
//! model = "gpt-5-mini"                     # for calls that name none
//! system = "Be brief."                     # instructions before the prompt
//! max_tokens = 4096
//! stream = true                            # the default
//! native_schema = false                    # hand the schema to the API as well
//! headers = { OpenAI-Organization = "org-1" }
//! options = { temperature = 0.2 }          # members of the request's body
//! call_options = ["temperature"]          # what a call may set; see below
//! ```
//!
//! A call's `options` are members of the body too, as far as they are allowed:
//! by default what shapes the answer (`temperature`, `top_p`, `seed`, `stop`,
//! `reasoning_effort` and the like), and nothing that hands the model tools or
//! makes it dearer. Sessions: the responses API
//! keeps conversations (`previous_response_id`); for the chat API the host does.
//! Tools are off. The step's idempotency key goes along as `Idempotency-Key`.

mod chat;
mod responses;

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use wfhost_core::policy::budget::Tells;
use wfhost_core::{FailureKind, Json, Reply, Usage};

use super::web::{self, LazyClient};
use super::{Call, CallFailure, CallOptions, CallOutput, Check, Provider, SecretSource};

/// Which of the two APIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenAiApi {
    #[default]
    Chat,
    Responses,
}

/// How the API is used. See the module for the form in a file.
#[derive(Clone, Debug)]
pub struct OpenAiConfig {
    pub api: OpenAiApi,
    /// Without a slash at its end.
    pub base_url: String,
    /// None if the service wants no key.
    pub key: Option<SecretSource>,
    pub model: Option<String>,
    pub system: Option<String>,
    pub max_tokens: Option<u64>,
    pub stream: bool,
    pub native_schema: bool,
    pub headers: BTreeMap<String, String>,
    pub options: Map<String, Value>,
    /// The options that a call may set.
    pub call_options: CallOptions,
}

impl OpenAiConfig {
    /// Options that shape an answer and cost nothing else.
    pub const CALL_OPTIONS: [&str; 15] = [
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "presence_penalty",
        "reasoning",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "temperature",
        "text",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    ];

    pub const BASE_URL: &'static str = "https://api.openai.com/v1";
    pub const KEY_ENV: &'static str = "OPENAI_API_KEY";
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            api: OpenAiApi::Chat,
            base_url: Self::BASE_URL.to_owned(),
            key: Some(SecretSource::Env(Self::KEY_ENV.to_owned())),
            model: None,
            system: None,
            max_tokens: None,
            stream: true,
            native_schema: false,
            headers: BTreeMap::new(),
            options: Map::new(),
            call_options: CallOptions::of(&Self::CALL_OPTIONS),
        }
    }
}

/// Asks a model through an API of OpenAI's form.
#[derive(Debug)]
pub struct OpenAi {
    name: String,
    config: OpenAiConfig,
    client: LazyClient,
}

/// What one answer was, gathered from a body or from a stream.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    model: Option<String>,
    usage: Option<Usage>,
    session: Option<String>,
}

impl OpenAi {
    pub fn new(name: impl Into<String>, config: OpenAiConfig) -> Self {
        Self { name: name.into(), config, client: LazyClient::default() }
    }

    async fn answer(&self, call: Call, out: CallOutput) -> Result<Reply, CallFailure> {
        let (path, body) = match self.config.api {
            OpenAiApi::Chat => ("chat/completions", chat::body(&self.config, &call)?),
            OpenAiApi::Responses => ("responses", responses::body(&self.config, &call)?),
        };
        let url = format!("{}/{path}", self.config.base_url.trim_end_matches('/'));
        let mut request = self
            .client
            .get(&url)?
            .post(&url)
            .header("content-type", "application/json")
            .header("idempotency-key", format!("{}-{}", call.key, call.turns.len()));
        if let Some(source) = &self.config.key {
            let key = source.read().map_err(|error| CallFailure::auth(error.to_string()))?;
            request = request.bearer_auth(key.expose());
        }
        for (name, value) in &self.config.headers {
            request = request.header(name, value);
        }
        let response = web::send(request.body(body.to_string()), &out).await?;
        let answer = match (self.config.api, web::is_event_stream(&response)) {
            (OpenAiApi::Chat, true) => chat::streamed(response, &out).await?,
            (OpenAiApi::Responses, true) => responses::streamed(response, &out).await?,
            (api, false) => {
                let text = web::read(response, &out).await?;
                out.transcript(&text);
                let body = web::json(&text)?;
                match api {
                    OpenAiApi::Chat => chat::whole(&body)?,
                    OpenAiApi::Responses => responses::whole(&body)?,
                }
            }
        };
        Ok(Reply {
            session: answer.session,
            model: answer.model.or_else(|| call.request.model.clone()),
            usage: answer.usage,
            ..Reply::new(&self.name, Json::string(&answer.text))
        })
    }
}

impl Provider for OpenAi {
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
        self.config.api == OpenAiApi::Responses
    }

    fn configuration(&self) -> String {
        format!("{:?}", self.config)
    }

    fn tells(&self) -> Tells {
        Tells::TOKENS
    }

    fn most_tokens(&self) -> Option<u64> {
        self.config.max_tokens
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(self.answer(call, out))
    }
}

/// The model that a call goes to.
fn model<'a>(config: &'a OpenAiConfig, call: &'a Call) -> Result<&'a str, CallFailure> {
    call.request.model.as_deref().or(config.model.as_deref()).ok_or_else(|| {
        CallFailure::new(
            FailureKind::Rejected,
            "neither the call nor its provider's configuration names a model",
        )
    })
}

/// Puts the configured options and those of the call into the body. How the
/// answer comes is not theirs to say: it would not be understood.
fn with_options(body: &mut Value, config: &OpenAiConfig, call: &Call) -> Result<(), CallFailure> {
    let fixed = body["stream"].clone();
    let options = config.call_options.take(call)?;
    if let Value::Object(members) = body {
        members.extend(config.options.clone());
        members.extend(options);
        members.insert("stream".to_owned(), fixed);
    }
    Ok(())
}

/// What a service says that an answer cost, in millionths of a US dollar; 0 if
/// it says nothing. OpenAI does not; services that resell models do.
fn cost(usage: &Value) -> u64 {
    usage["cost"].as_f64().map_or(0, |usd| (usd * 1e6).round().max(0.0) as u64)
}

/// The failure that an `error` object within an answer means.
fn failed(error: &Value) -> CallFailure {
    let text = |name: &str| error[name].as_str().unwrap_or_default();
    let message = match text("message") {
        "" => format!("the service reported an error: {}", web::shorten(&error.to_string())),
        message => format!("the service reported an error: {}", web::shorten(message)),
    };
    let code = format!("{} {}", text("type"), text("code"));
    let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if has(&["authentication", "invalid_api_key", "permission", "insufficient_quota"]) {
        return CallFailure::auth(message);
    }
    let kind = match has(&["invalid_request", "invalid_prompt", "content_policy", "context_length"]) {
        true => FailureKind::Rejected,
        false => FailureKind::Unavailable,
    };
    CallFailure::new(kind, message)
}

/// The answer ended before the model was done with it.
fn cut_off(usage: Option<Usage>) -> CallFailure {
    let message = "the answer was truncated at max_tokens";
    CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage)
}

/// The model or a filter refused to answer.
fn refused(text: &str, usage: Option<Usage>) -> CallFailure {
    let message = format!("the model refused to answer: {}", web::shorten(text));
    CallFailure::new(FailureKind::Rejected, message).with_usage(usage)
}

/// The format parameter that hands a schema to the API.
fn native_schema(schema: &Json) -> Value {
    json!({ "type": "json_schema", "name": "answer", "schema": schema.value() })
}
