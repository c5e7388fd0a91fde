//! The provider `http`: posts JSON to a service and takes the answer out of
//! the JSON that comes back.
//!
//! ```toml
//! [providers.ranker]
//! kind = "http"
//! url = "https://ranker.example.com/v1/rank"
//! body = { q = "${prompt}", data = "${input}" }   # see below for the default
//! output = "/result/answer"        # a JSON pointer; the whole body by default
//! session = "/conversation"        # where the answer has these; optional
//! model = "/model"
//! input_tokens = "/usage/in"
//! output_tokens = "/usage/out"
//! cost_micros = "/usage/cost_micros"
//! api_key_env = "RANKER_KEY"       # or api_key_file; sent as below
//! api_key_header = "authorization" # the default
//! api_key_prefix = "Bearer "       # the default
//! headers = { accept-language = "en" }
//! ```
//!
//! In the texts of `body`, `${prompt}`, `${input}`, `${schema}`, `${options}`,
//! `${model}`, `${session}`, `${key}`, `${run}`, `${step}`, `${attempt}` and
//! `${message}` (the prompt with all that an agent has to know) are filled in; a
//! text that is nothing but one of them becomes that JSON value. Without `body`
//! an object with all of them is sent, without those that the call lacks. An
//! answer that is not JSON is taken as text.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use wfhost_core::policy::budget::{Tells, Told};
use wfhost_core::{FailureKind, Json, Reply, Usage};

use super::web::{self, LazyClient};
use super::{Call, CallFailure, CallOutput, Check, Provider, SecretSource};

/// How the service is asked. See the module for the form in a file.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    pub url: String,
    pub body: Option<Value>,
    /// JSON pointers into the answer (RFC 6901).
    pub output: Option<String>,
    pub session: Option<String>,
    pub model: Option<String>,
    pub input_tokens: Option<String>,
    pub output_tokens: Option<String>,
    pub cost_micros: Option<String>,
    pub key: Option<SecretSource>,
    pub key_header: String,
    pub key_prefix: String,
    pub headers: BTreeMap<String, String>,
}

impl HttpConfig {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            body: None,
            output: None,
            session: None,
            model: None,
            input_tokens: None,
            output_tokens: None,
            cost_micros: None,
            key: None,
            key_header: "authorization".to_owned(),
            key_prefix: "Bearer ".to_owned(),
            headers: BTreeMap::new(),
        }
    }

    /// Whether anything but the output is taken out of an answer.
    fn looks_into_answers(&self) -> bool {
        let Self { session, model, input_tokens, output_tokens, cost_micros, .. } = self;
        [session, model, input_tokens, output_tokens, cost_micros].into_iter().any(Option::is_some)
    }
}

/// Asks a service with a JSON body.
#[derive(Debug)]
pub struct Http {
    name: String,
    config: HttpConfig,
    client: LazyClient,
}

impl Http {
    pub fn new(name: impl Into<String>, config: HttpConfig) -> Self {
        Self { name: name.into(), config, client: LazyClient::default() }
    }

    async fn answer(&self, call: Call, out: CallOutput) -> Result<Reply, CallFailure> {
        let config = &self.config;
        let values = values(&call);
        let body = match &config.body {
            Some(template) => fill(template, &values),
            None => Value::Object(values.clone().into_iter().filter(|(_, value)| !value.is_null()).collect()),
        };
        let mut request = self
            .client
            .get(&config.url)?
            .post(&config.url)
            .header("content-type", "application/json")
            .header("idempotency-key", format!("{}-{}", call.key, call.turns.len()))
            .header("traceparent", wfhost_core::trace::traceparent(&call.run, call.step, call.attempt));
        if let Some(source) = &config.key {
            let key = source.read().map_err(|error| CallFailure::auth(error.to_string()))?;
            let value = format!("{}{}", config.key_prefix, key.expose());
            let mut value = reqwest::header::HeaderValue::from_str(&value).map_err(|_| {
                CallFailure::auth(format!("{source} does not contain a key: it has line breaks"))
            })?;
            value.set_sensitive(true);
            request = request.header(&config.key_header, value);
        }
        for (name, value) in &config.headers {
            request = request.header(name, value);
        }
        let response = web::send(request.body(body.to_string()), &out).await?;
        let text = web::read(response, &out).await?;
        out.transcript(&text);
        self.reply(&call, text)
    }

    fn reply(&self, call: &Call, text: String) -> Result<Reply, CallFailure> {
        let config = &self.config;
        let whole = Json::parse(text.clone());
        let body = match (&whole, &config.output) {
            (Ok(body), None) if !config.looks_into_answers() => return Ok(self.bare(call, body.clone())),
            (Err(_), None) => return Ok(self.bare(call, Json::string(&text))),
            (Ok(body), _) => body.value(),
            (Err(_), Some(_)) => web::json(&text)?,
        };
        let at = |pointer: &Option<String>| pointer.as_deref().and_then(|pointer| body.pointer(pointer));
        let string = |pointer| at(pointer).and_then(Value::as_str).map(str::to_owned);
        let count = |pointer| at(pointer).and_then(Value::as_u64);
        let counts = [&config.input_tokens, &config.output_tokens, &config.cost_micros].map(count);
        let usage = counts.iter().any(Option::is_some).then(|| {
            let [input, output, cost] = counts.map(Option::unwrap_or_default);
            Usage { input_tokens: input, output_tokens: output, cached_tokens: 0, cost_micros: cost }
        });
        let output = match (whole, &config.output) {
            // The whole body is kept byte for byte.
            (Ok(body), None) => body,
            (_, pointer) => match at(pointer) {
                Some(output) => Json::from(output.clone()),
                None => {
                    let pointer = pointer.as_deref().unwrap_or_default();
                    let shown = web::shorten(&text);
                    let message = format!("the service's answer has nothing at `{pointer}`: {shown}");
                    return Err(CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage));
                }
            },
        };
        Ok(Reply {
            session: string(&config.session),
            model: string(&config.model).or_else(|| call.request.model.clone()),
            usage,
            ..self.bare(call, output)
        })
    }

    fn bare(&self, call: &Call, output: Json) -> Reply {
        Reply { model: call.request.model.clone(), ..Reply::new(&self.name, output) }
    }
}

impl Provider for Http {
    fn name(&self) -> &str {
        &self.name
    }

    fn configuration(&self) -> String {
        format!("{:?}", self.config)
    }

    fn tells(&self) -> Tells {
        let told = |asked: bool| if asked { Told::Maybe } else { Told::Never };
        let HttpConfig { input_tokens, output_tokens, cost_micros, .. } = &self.config;
        Tells {
            tokens: told(input_tokens.is_some() || output_tokens.is_some()),
            cost: told(cost_micros.is_some()),
        }
    }

    fn check(&self) -> Vec<Check> {
        self.config.key.iter().map(Check::secret).collect()
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(self.answer(call, out))
    }
}

/// What templates can name.
pub(super) fn values(call: &Call) -> Map<String, Value> {
    let request = &call.request;
    let inner = |json: &Option<Json>| json.as_ref().map_or(Value::Null, Json::value);
    let values = json!({
        "prompt": request.prompt,
        "input": inner(&request.input),
        "schema": inner(&request.schema),
        "options": inner(&request.options),
        "model": request.model,
        "session": call.session(),
        "message": call.message(),
        "key": call.key,
        "run": call.run,
        "step": call.step,
        "attempt": call.attempt,
    });
    match values {
        Value::Object(values) => values,
        _ => Map::new(),
    }
}

/// Puts values into the texts of a template.
pub(super) fn fill(template: &Value, values: &Map<String, Value>) -> Value {
    match template {
        Value::String(text) => fill_text(text, values),
        Value::Array(items) => items.iter().map(|item| fill(item, values)).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, value)| (key.clone(), fill(value, values))).collect()
        }
        other => other.clone(),
    }
}

fn fill_text(text: &str, values: &Map<String, Value>) -> Value {
    let alone = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if let Some(value) = alone.and_then(|name| values.get(name)) {
        return value.clone();
    }
    // One pass, so that a `${input}` within a prompt stays as it is.
    let mut filled = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let name = rest[start + 2..].split_once('}').map(|(name, _)| name);
        match name.and_then(|name| Some((name, values.get(name)?))) {
            Some((name, value)) => {
                filled.push_str(&rest[..start]);
                match value {
                    Value::String(text) => filled.push_str(text),
                    Value::Null => {}
                    other => filled.push_str(&other.to_string()),
                }
                rest = &rest[start + name.len() + 3..];
            }
            None => {
                filled.push_str(&rest[..start + 2]);
                rest = &rest[start + 2..];
            }
        }
    }
    filled.push_str(rest);
    Value::String(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Call {
        let request = wfhost_core::AgentRequest { prompt: "p".to_owned(), ..Default::default() };
        Call::new("r".parse().unwrap(), wfhost_core::Step(1), 1, "k".to_owned(), request)
    }

    #[test]
    fn what_an_answer_consumed_counts_wherever_the_output_is() {
        let pointers = HttpConfig {
            input_tokens: Some("/usage/in".to_owned()),
            output_tokens: Some("/usage/out".to_owned()),
            model: Some("/model".to_owned()),
            ..HttpConfig::new("http://localhost")
        };
        let text = r#"{"error":"busy","model":"m-1","usage":{"in":7,"out":2}}"#;
        let reply = |output: Option<&str>| {
            let config = HttpConfig { output: output.map(str::to_owned), ..pointers.clone() };
            Http::new("h", config).reply(&asked(), text.to_owned())
        };
        let tokens = |usage: Option<Usage>| usage.map(|usage| (usage.input_tokens, usage.output_tokens));
        let failure = reply(Some("/answer")).unwrap_err();
        assert!(failure.failure.message.contains("nothing at `/answer`"), "{failure}");
        assert_eq!(tokens(failure.usage), Some((7, 2)), "the output is missing");
        let whole = reply(None).unwrap();
        assert_eq!((tokens(whole.usage), whole.model.as_deref()), (Some((7, 2)), Some("m-1")));
        assert_eq!(whole.output.as_str(), text, "byte for byte");
    }

    #[test]
    fn templates_are_filled_in_one_pass() {
        let values = json!({"prompt": "say ${input}", "input": {"a": 1}, "model": null});
        let Value::Object(values) = values else { unreachable!() };
        let filled =
            fill(&json!({"q": "Q: ${prompt} ${model}!", "d": ["${input}"], "x": "${y} $", "n": 1}), &values);
        assert_eq!(filled, json!({"q": "Q: say ${input} !", "d": [{"a": 1}], "x": "${y} $", "n": 1}));
    }
}
