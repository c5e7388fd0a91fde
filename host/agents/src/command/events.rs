//! What programs say in lines of JSON.

use serde_json::Value;
use wfhost_core::{Failure, FailureKind, Json, Usage};

use crate::{CallEvent, CallFailure, CallOutput, Stream};

/// What was gathered from the lines of a program.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The answer as text.
    pub text: Option<String>,
    /// The answer as JSON.
    pub output: Option<Json>,
    pub session: Option<String>,
    pub model: Option<String>,
    pub usage: Option<Usage>,
    pub failure: Option<CallFailure>,
    /// The first line that was no event, where such lines may be.
    pub stray: Option<String>,
    /// What is wrong with the first line that was no event, where there may be none.
    pub garbage: Option<String>,
}

/// Whether a message says that somebody has to log in, or pay.
pub(super) fn is_auth(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let words = [
        "invalid api key",
        "api key not",
        "authentication",
        "unauthorized",
        "401",
        "not logged in",
        "/login",
        "please log in",
        "credit balance",
    ];
    words.iter().any(|word| message.contains(word))
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn failed(message: &str) -> CallFailure {
    let message = format!("the agent reported an error: {}", crate::web::shorten(message));
    match is_auth(&message) {
        true => CallFailure::auth(message),
        false => CallFailure::new(FailureKind::Failed, message),
    }
}

fn show(text: &str, out: &CallOutput) {
    for line in text.lines() {
        out.line(Stream::Answer, line);
    }
}

/// The lines of the format `jsonl`.
pub(super) fn own(said: &mut Said, event: &Value, out: &CallOutput) -> Result<(), CallFailure> {
    if let Some(line) = event["line"].as_str() {
        out.line(Stream::Answer, line);
    }
    if let Some(line) = event["progress"].as_str() {
        out.line(Stream::Progress, line);
    }
    if let Some(heartbeat) = event.get("heartbeat") {
        out.send(CallEvent::Heartbeat(Json::from(heartbeat.clone())));
    }
    if let Some(output) = event.get("output") {
        said.output = Some(Json::from(output.clone()));
    }
    said.session = text(&event["session"]).or(said.session.take());
    said.model = text(&event["model"]).or(said.model.take());
    if let Some(usage) = event.get("usage") {
        let usage = serde_json::from_value::<Usage>(usage.clone()).map_err(|error| {
            CallFailure::new(
                FailureKind::InvalidOutput,
                format!("the program's usage cannot be read: {error}"),
            )
        })?;
        said.usage = Some(usage);
    }
    if let Some(error) = event.get("error") {
        let message = text(error).unwrap_or_else(|| error.to_string());
        let kind = serde_json::from_value(event["kind"].clone()).unwrap_or(FailureKind::Failed);
        let details = event.get("details").cloned().map(Json::from);
        let failure = Failure { details, ..Failure::new(kind, message) };
        let auth = event["auth"].as_bool().unwrap_or(false);
        said.failure =
            Some(CallFailure { auth, retry_after_ms: event["retry_after_ms"].as_u64(), ..failure.into() });
    }
    Ok(())
}

/// The `stream-json` lines of Claude Code, which Cursor's and Amp's programs write as well.
pub(super) fn claude(said: &mut Said, event: &Value, out: &CallOutput) {
    said.session = text(&event["session_id"]).or(said.session.take());
    match event["type"].as_str().unwrap_or_default() {
        "system" => said.model = text(&event["model"]).or(said.model.take()),
        "assistant" => {
            for block in event["message"]["content"].as_array().into_iter().flatten() {
                if let Some(text) = block["text"].as_str() {
                    show(text, out);
                }
                if let Some(tool) = block["name"].as_str() {
                    out.line(Stream::Progress, format!("uses {tool}"));
                }
            }
        }
        "result" => {
            let cost = event["total_cost_usd"].as_f64().map(|usd| (usd * 1e6).round().max(0.0) as u64);
            let count = |name: &str| event["usage"][name].as_u64().unwrap_or(0);
            if event["usage"].is_object() || cost.is_some() {
                let cached = count("cache_read_input_tokens");
                said.usage = Some(Usage {
                    input_tokens: count("input_tokens")
                        .saturating_add(cached)
                        .saturating_add(count("cache_creation_input_tokens")),
                    output_tokens: count("output_tokens"),
                    cached_tokens: cached,
                    cost_micros: cost.unwrap_or(0),
                });
            }
            let result = event["result"].as_str();
            let subtype = event["subtype"].as_str().unwrap_or("success");
            if event["is_error"] == true || subtype != "success" {
                said.failure = Some(failed(result.or(event["error"].as_str()).unwrap_or(subtype)));
            } else {
                said.text = result.map(str::to_owned);
            }
        }
        _ => {}
    }
}

/// The lines of `codex exec --json`.
pub(super) fn codex(said: &mut Said, event: &Value, out: &CallOutput) {
    match event["type"].as_str().unwrap_or_default() {
        "thread.started" => said.session = text(&event["thread_id"]),
        "item.completed" => {
            let item = &event["item"];
            match item["type"].as_str().or(item["item_type"].as_str()).unwrap_or_default() {
                // The last message is the answer.
                "agent_message" | "assistant_message" => {
                    said.text = text(&item["text"]);
                    show(item["text"].as_str().unwrap_or_default(), out);
                }
                "command_execution" => {
                    let command = item["command"].as_str().unwrap_or_default();
                    out.line(Stream::Progress, format!("runs {command}"));
                }
                _ => {}
            }
        }
        "turn.completed" => {
            let count = |name: &str| event["usage"][name].as_u64().unwrap_or(0);
            let usage = Usage {
                input_tokens: count("input_tokens"),
                output_tokens: count("output_tokens"),
                cached_tokens: count("cached_input_tokens"),
                cost_micros: 0,
            };
            said.usage = Some(said.usage.unwrap_or_default().plus(usage));
            // An error before it was overcome.
            said.failure = None;
        }
        "turn.failed" => {
            said.failure = Some(failed(event["error"]["message"].as_str().unwrap_or("the turn failed")))
        }
        "error" => said.failure = Some(failed(event["message"].as_str().unwrap_or("an error"))),
        _ => {}
    }
}

/// The `stream-json` lines of Gemini's program.
pub(super) fn gemini(said: &mut Said, event: &Value, out: &CallOutput) {
    match event["type"].as_str().unwrap_or_default() {
        "init" => {
            said.session = text(&event["session_id"]);
            said.model = text(&event["model"]);
        }
        "message" if event["role"] == "assistant" => {
            let piece = event["content"].as_str().unwrap_or_default();
            show(piece, out);
            match &mut said.text {
                Some(text) if event["delta"] == true => text.push_str(piece),
                text => *text = Some(piece.to_owned()),
            }
        }
        // What follows is said after it saw what the tool did.
        "tool_use" => {
            let tool = event["tool_name"].as_str().unwrap_or_default();
            out.line(Stream::Progress, format!("uses {tool}"));
            said.text = None;
        }
        "error" => {
            let message = event["message"].as_str().unwrap_or_default();
            out.line(Stream::Progress, message);
        }
        "result" => {
            let count = |name: &str| event["stats"][name].as_u64().unwrap_or(0);
            if event["stats"].is_object() {
                said.usage = Some(Usage {
                    input_tokens: count("input_tokens"),
                    output_tokens: count("output_tokens"),
                    cached_tokens: count("cached"),
                    cost_micros: 0,
                });
            }
            if event["status"].as_str().is_some_and(|status| status != "success") {
                said.failure =
                    Some(failed(event["error"]["message"].as_str().unwrap_or("it did not succeed")));
            }
        }
        _ => {}
    }
}

/// The lines of `opencode run --format json`.
pub(super) fn opencode(said: &mut Said, event: &Value, out: &CallOutput) {
    said.session = text(&event["sessionID"]).or(said.session.take());
    let part = &event["part"];
    match event["type"].as_str().unwrap_or_default() {
        "step_start" => said.text = None,
        "text" => {
            let piece = part["text"].as_str().unwrap_or_default();
            show(piece, out);
            said.text.get_or_insert_default().push_str(piece);
        }
        "tool_use" => {
            let tool = part["tool"].as_str().unwrap_or_default();
            out.line(Stream::Progress, format!("uses {tool}"));
        }
        "step_finish" => {
            let count = |place: &str| part["tokens"].pointer(place).and_then(Value::as_u64).unwrap_or(0);
            let cached = count("/cache/read");
            let usage = Usage {
                input_tokens: count("/input").saturating_add(cached).saturating_add(count("/cache/write")),
                output_tokens: count("/output").saturating_add(count("/reasoning")),
                cached_tokens: cached,
                cost_micros: (part["cost"].as_f64().unwrap_or(0.0) * 1e6).round().max(0.0) as u64,
            };
            said.usage = Some(said.usage.unwrap_or_default().plus(usage));
        }
        "error" => {
            let error = &event["error"];
            let message = error["data"]["message"].as_str().or(error["message"].as_str());
            said.failure = Some(failed(message.or(error["name"].as_str()).unwrap_or("an error")));
        }
        _ => {}
    }
}
