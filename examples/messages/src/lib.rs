//! A plugin that asks a model by Anthropic's messages API, as a stream. Its key is put into the requests by the
//! host; nobody has to trust this program with it.
//!
//! ```toml
//! [providers.claude-plugin]
//! kind = "plugin"
//! plugin = "messages.wasm"
//! model = "claude-sonnet-4-5"
//! [[providers.claude-plugin.http]]
//! url = "https://api.anthropic.com/v1/messages"
//! methods = ["POST"]
//! inject = { x-api-key = { env = "ANTHROPIC_API_KEY" } }
//! ```
//!
//! `set = { MESSAGES_URL = ".." }` names another service that speaks the same.

use serde::Deserialize;
use wfhost::plugin::{Call, Failure, FailureKind, Reply, Result, Usage, cancelled, chunk, http};
use wfhost::{Value, json};

const URL: &str = "https://api.anthropic.com/v1/messages";

/// What a call may set.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    max_tokens: u64,
    temperature: Option<f64>,
    system: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_tokens: 8192, temperature: None, system: None }
    }
}

#[wfhost::agent]
fn messages(call: Call) -> Result<Reply> {
    let Options { max_tokens, temperature, system } = call.options_as()?;
    let model = call.model.clone().ok_or_else(|| Failure::rejected("the call names no model"))?;
    let mut said = Vec::new();
    for exchange in &call.history {
        said.push(json!({ "role": "user", "content": exchange.said }));
        said.push(json!({ "role": "assistant", "content": exchange.answered }));
    }
    said.push(json!({ "role": "user", "content": call.message }));
    let mut body = json!({ "model": model, "max_tokens": max_tokens, "stream": true, "messages": said });
    if let Some(temperature) = temperature {
        body["temperature"] = json!(temperature);
    }
    if let Some(system) = system {
        body["system"] = json!(system);
    }
    let url = std::env::var("MESSAGES_URL").unwrap_or_else(|_| URL.to_owned());
    let mut response = http::post(url)
        .header("anthropic-version", "2023-06-01")
        .header("accept", "text/event-stream")
        .json(&body)
        .send()?
        .successful()?;
    let mut answer = Answer { model, ..Answer::default() };
    let mut unread = Vec::new();
    while let Some(piece) = response.chunk()? {
        if cancelled() {
            return Err(Failure::new(FailureKind::Cancelled, "cancelled"));
        }
        unread.extend(piece);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            answer.line(&line)?;
        }
    }
    answer.finished()
}

/// An answer that comes in events.
#[derive(Default)]
struct Answer {
    text: String,
    model: String,
    usage: Usage,
    stopped: Option<String>,
    complete: bool,
}

impl Answer {
    fn line(&mut self, line: &[u8]) -> Result<()> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let event: Value = wfhost::serde_json::from_slice(data)?;
        let count = |usage: &Value, name: &str| usage[name].as_u64();
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                let message = &event["message"];
                if let Some(model) = message["model"].as_str() {
                    self.model = model.to_owned();
                }
                let usage = &message["usage"];
                let cached = count(usage, "cache_read_input_tokens").unwrap_or(0);
                self.usage.input_tokens = count(usage, "input_tokens").unwrap_or(0) + cached;
                self.usage.cached_tokens = cached;
            }
            "content_block_delta" => {
                if let Some(text) = event["delta"]["text"].as_str() {
                    chunk(text);
                    self.text.push_str(text);
                }
            }
            "message_delta" => {
                self.stopped = event["delta"]["stop_reason"].as_str().map(str::to_owned);
                if let Some(tokens) = count(&event["usage"], "output_tokens") {
                    self.usage.output_tokens = tokens;
                }
            }
            "message_stop" => self.complete = true,
            "error" => {
                let message = event["error"]["message"].as_str().unwrap_or("the service failed");
                return Err(Failure::unavailable(message).usage(self.usage));
            }
            _ => {}
        }
        Ok(())
    }

    fn finished(self) -> Result<Reply> {
        let failure = match self.stopped.as_deref() {
            _ if !self.complete => Failure::unavailable("the stream ended before the answer was complete"),
            Some("refusal") => Failure::rejected("the model refuses to answer"),
            Some("max_tokens") => Failure::new(
                FailureKind::InvalidOutput,
                "the answer was cut off at the greatest number of tokens",
            ),
            _ => {
                let reply = Reply { model: Some(self.model), ..Reply::new(self.text) };
                return Ok(reply.usage(self.usage));
            }
        };
        Err(failure.usage(self.usage))
    }
}
