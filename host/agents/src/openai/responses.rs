//! The responses API.

use reqwest::Response;
use serde_json::{Value, json};
use wfhost_core::{FailureKind, Usage};

use super::{Answer, OpenAiConfig, cut_off, failed, model, native_schema, refused, with_options};
use crate::web::{self, Progress};
use crate::{Call, CallFailure, CallOutput, Lines, Stream};

pub(super) fn body(config: &OpenAiConfig, call: &Call) -> Result<Value, CallFailure> {
    let mut body = json!({
        "model": model(config, call)?,
        "input": [{ "role": "user", "content": call.message() }],
        "stream": config.stream,
    });
    if let Some(session) = call.session() {
        body["previous_response_id"] = json!(session);
    }
    if let Some(system) = &config.system {
        body["instructions"] = json!(system);
    }
    if let Some(max) = config.max_tokens {
        body["max_output_tokens"] = json!(max);
    }
    if let Some(schema) = call.request.schema.as_ref().filter(|_| config.native_schema) {
        body["text"] = json!({ "format": native_schema(schema) });
    }
    with_options(&mut body, config, call)?;
    Ok(body)
}

fn usage(value: &Value) -> Option<Usage> {
    let count = |place: &str| value.pointer(place).and_then(Value::as_u64);
    Some(Usage {
        input_tokens: count("/input_tokens")?,
        output_tokens: count("/output_tokens").unwrap_or(0),
        cached_tokens: count("/input_tokens_details/cached_tokens").unwrap_or(0),
        cost_micros: super::cost(value),
    })
}

/// A response object that is complete.
pub(super) fn whole(body: &Value) -> Result<Answer, CallFailure> {
    let usage = usage(&body["usage"]);
    if body["error"].is_object() {
        return Err(failed(&body["error"]).with_usage(usage));
    }
    match body["status"].as_str() {
        Some("incomplete") => {
            return Err(match body.pointer("/incomplete_details/reason").and_then(Value::as_str) {
                Some("content_filter") => refused("the service's content filter stopped it", usage),
                _ => cut_off(usage),
            });
        }
        Some("failed" | "cancelled") => {
            return Err(web::unavailable("the service abandoned the answer").with_usage(usage));
        }
        _ => {}
    }
    let contents = body["output"].as_array().into_iter().flatten();
    let contents = contents.filter(|item| item["type"] == "message");
    let contents = contents.flat_map(|item| item["content"].as_array().into_iter().flatten());
    let mut text = String::new();
    let mut any = false;
    for content in contents {
        // Some servers send an empty text where there is none.
        if let Some(refusal) = content["refusal"].as_str().filter(|refusal| !refusal.is_empty()) {
            return Err(refused(refusal, usage));
        }
        if let Some(piece) = content["text"].as_str() {
            text.push_str(piece);
            any = true;
        }
    }
    if !any {
        let message = "the answer of the service has no message in `output`";
        return Err(CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage));
    }
    let field = |name: &str| body[name].as_str().map(str::to_owned);
    Ok(Answer { text, model: field("model"), usage, session: field("id") })
}

/// An answer in pieces, which ends with the whole response object.
pub(super) async fn streamed(response: Response, out: &CallOutput) -> Result<Answer, CallFailure> {
    let (mut last, mut used) = (None, None);
    let mut lines = Lines::new(out.clone(), Stream::Answer);
    let ended = web::events(response, out, |event| {
        let event = web::json(&event.data)?;
        if let Some(known) = usage(&event["response"]["usage"]) {
            used = Some(known);
            out.usage(used);
        }
        match event["type"].as_str().unwrap_or_default() {
            "response.output_text.delta" => lines.push(event["delta"].as_str().unwrap_or_default()),
            "response.completed" | "response.incomplete" | "response.failed" => {
                last = Some(event["response"].clone());
                return Ok(Progress::Done);
            }
            "error" => {
                // The fields stand in the event or in an object of their own.
                let error = if event["error"].is_object() { &event["error"] } else { &event };
                return Err(failed(error));
            }
            _ => {}
        }
        Ok(Progress::More)
    })
    .await;
    lines.finish();
    ended.map_err(|failure| failure.with_usage(used))?;
    whole(&last.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(content: &Value) -> Result<String, String> {
        let body = json!({ "status": "completed", "output": [{ "type": "message", "content": [content] }] });
        whole(&body).map(|answer| answer.text).map_err(|failure| failure.failure.message)
    }

    #[test]
    fn an_error_does_not_hide_what_was_consumed() {
        let body =
            json!({ "error": { "message": "no" }, "usage": { "input_tokens": 7, "output_tokens": 2 } });
        assert_eq!(whole(&body).unwrap_err().usage.map(|usage| usage.input_tokens), Some(7));
    }

    #[test]
    fn an_empty_refusal_is_none() {
        let content = json!({ "type": "output_text", "text": "yes", "refusal": "" });
        assert_eq!(answered(&content), Ok("yes".to_owned()));
        let refused = answered(&json!({ "type": "refusal", "refusal": "not that" })).unwrap_err();
        assert!(refused.contains("not that"), "{refused}");
    }
}
