//! The chat completions API.

use reqwest::Response;
use serde_json::{Value, json};
use wfhost_core::{FailureKind, Usage};

use super::{Answer, OpenAiConfig, cut_off, failed, model, native_schema, refused, with_options};
use crate::web::{self, Progress};
use crate::{Call, CallFailure, CallOutput, Lines, Stream};

pub(super) fn body(config: &OpenAiConfig, call: &Call) -> Result<Value, CallFailure> {
    let mut messages = Vec::new();
    if let Some(system) = &config.system {
        messages.push(json!({ "role": "system", "content": system }));
    }
    for (asked, answered) in &call.history {
        messages.push(json!({ "role": "user", "content": **asked }));
        messages.push(json!({ "role": "assistant", "content": **answered }));
    }
    messages.push(json!({ "role": "user", "content": call.opening() }));
    for turn in &call.turns {
        messages.push(json!({ "role": "assistant", "content": turn.answer }));
        messages.push(json!({ "role": "user", "content": turn.correction }));
    }
    let mut body = json!({ "model": model(config, call)?, "messages": messages, "stream": config.stream });
    if config.stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    if let Some(max) = config.max_tokens {
        body["max_completion_tokens"] = json!(max);
    }
    if let Some(schema) = call.request.schema.as_ref().filter(|_| config.native_schema) {
        let format = native_schema(schema);
        body["response_format"] = json!({
            "type": "json_schema",
            "json_schema": { "name": format["name"], "schema": format["schema"] },
        });
    }
    with_options(&mut body, config, call)?;
    Ok(body)
}

fn usage(value: &Value) -> Option<Usage> {
    let count = |place: &str| value.pointer(place).and_then(Value::as_u64);
    Some(Usage {
        input_tokens: count("/prompt_tokens")?,
        output_tokens: count("/completion_tokens").unwrap_or(0),
        cached_tokens: count("/prompt_tokens_details/cached_tokens").unwrap_or(0),
        cost_micros: super::cost(value),
    })
}

/// An answer in one piece.
pub(super) fn whole(body: &Value) -> Result<Answer, CallFailure> {
    let usage = usage(&body["usage"]);
    if body["error"].is_object() {
        return Err(failed(&body["error"]).with_usage(usage));
    }
    let choice = &body["choices"][0];
    let message = &choice["message"];
    // Some servers send an empty text where there is none.
    if let Some(refusal) = message["refusal"].as_str().filter(|refusal| !refusal.is_empty()) {
        return Err(refused(refusal, usage));
    }
    end(choice["finish_reason"].as_str().unwrap_or("stop"), usage)?;
    let Some(text) = message["content"].as_str() else {
        let message = "the answer of the service has no `choices[0].message.content`";
        return Err(CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage));
    };
    let model = body["model"].as_str().map(str::to_owned);
    Ok(Answer { text: text.to_owned(), model, usage, session: None })
}

/// An answer in pieces. It is complete with a reason to finish; the usage
/// comes after that.
pub(super) async fn streamed(response: Response, out: &CallOutput) -> Result<Answer, CallFailure> {
    let mut answer = Answer::default();
    let mut refusal = String::new();
    let mut finish: Option<String> = None;
    let mut lines = Lines::new(out.clone(), Stream::Answer);
    let ended = web::events(response, out, |event| {
        if event.data.trim() == "[DONE]" {
            return Ok(Progress::Done);
        }
        let chunk = web::json(&event.data)?;
        if let Some(known) = usage(&chunk["usage"]) {
            answer.usage = Some(known);
            out.usage(answer.usage);
        }
        if chunk["error"].is_object() {
            return Err(failed(&chunk["error"]));
        }
        if answer.model.is_none() {
            answer.model = chunk["model"].as_str().map(str::to_owned);
        }
        let choice = &chunk["choices"][0];
        if let Some(piece) = choice["delta"]["content"].as_str() {
            answer.text.push_str(piece);
            lines.push(piece);
        }
        if let Some(piece) = choice["delta"]["refusal"].as_str() {
            refusal.push_str(piece);
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            finish = Some(reason.to_owned());
        }
        Ok(Progress::More)
    })
    .await;
    lines.finish();
    // Some servers end without saying `[DONE]`.
    match (ended, &finish) {
        (Ok(()), _) | (Err(_), Some(_)) => {}
        (Err(failure), None) => return Err(failure.with_usage(answer.usage)),
    }
    if !refusal.is_empty() {
        return Err(refused(&refusal, answer.usage));
    }
    end(finish.as_deref().unwrap_or("stop"), answer.usage)?;
    Ok(answer)
}

fn end(reason: &str, usage: Option<Usage>) -> Result<(), CallFailure> {
    match reason {
        "length" => Err(cut_off(usage)),
        "content_filter" => Err(refused("the service's content filter stopped it", usage)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(message: &Value) -> Result<String, String> {
        let body = json!({ "choices": [{ "message": message, "finish_reason": "stop" }] });
        whole(&body).map(|answer| answer.text).map_err(|failure| failure.failure.message)
    }

    #[test]
    fn an_error_does_not_hide_what_was_consumed() {
        let usage = json!({ "prompt_tokens": 7, "completion_tokens": 2 });
        let body = json!({ "error": { "message": "no" }, "usage": usage });
        assert_eq!(whole(&body).unwrap_err().usage.map(|usage| usage.input_tokens), Some(7));
    }

    #[test]
    fn an_empty_refusal_is_none() {
        for refusal in [json!(""), Value::Null] {
            let message = json!({ "content": "yes", "refusal": refusal });
            assert_eq!(answered(&message), Ok("yes".to_owned()), "{message}");
        }
        let refused = answered(&json!({ "content": null, "refusal": "not that" })).unwrap_err();
        assert!(refused.contains("not that"), "{refused}");
    }
}
