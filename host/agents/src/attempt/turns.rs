//! The turns of an attempt: asking again as long as the answer does not fit the schema.

use std::sync::Arc;

use wfhost_core::policy::retry::is_once;
use wfhost_core::policy::structured::{self, CORRECTIONS, SchemaError, candidates};
use wfhost_core::{Failure, FailureKind, Json, Reply, TranscriptKind};
use wfhost_schema::{self as schema, Fault, Schema};

use super::Attempt;
use crate::{Call, CallEvent, CallFailure, CallOutput, Turn};

impl Attempt {
    /// Asks, and asks again as long as the answer does not fit the schema.
    pub(super) async fn turns(&self, validator: Option<&Arc<Schema>>) -> Result<Reply, CallFailure> {
        let mut turns = Vec::new();
        // A correction is another call.
        let corrections = if is_once(&self.call.request) { 0 } else { CORRECTIONS as usize };
        loop {
            let call = Call { turns: turns.clone(), ..self.call.clone() };
            let reply = match self.provider.call(call, self.output()).await {
                Ok(reply) => reply,
                Err(failure) => {
                    self.used.end_turn(failure.usage);
                    return Err(failure);
                }
            };
            self.used.end_turn(reply.usage);
            let (Some(schema), Some(validator)) = (&self.call.request.schema, validator) else {
                return Ok(reply);
            };
            let output = reply.output.clone();
            let (answer, errors) = match schema::with(validator, move |schema| fit(schema, &output)).await {
                Ok(output) => return Ok(Reply { output, ..reply }),
                Err(unfit) => unfit,
            };
            if turns.len() >= corrections {
                let tried = match corrections {
                    0 => String::new(),
                    corrections => format!(", even after {corrections} corrections"),
                };
                let message = format!(
                    "the answer does not match the schema{tried}: {}",
                    errors.first().map_or("it contains no JSON".to_owned(), |error| {
                        let place = error.path.as_str();
                        let separator = if place.is_empty() { "" } else { ": " };
                        format!("{place}{separator}{}", error.message)
                    })
                );
                let details = Some(structured::details(&answer, &errors));
                let failure = Failure { details, ..Failure::new(FailureKind::InvalidOutput, message) };
                return Err(CallFailure { exhausted: true, ..failure.into() });
            }
            let correction = structured::correction(schema, &errors);
            self.recorder.note(
                TranscriptKind::Progress,
                format!("the answer does not match the schema: correction {}", turns.len() + 1),
            );
            turns.push(Turn { answer, session: reply.session, correction });
            self.lease.held().await;
        }
    }

    /// Takes the events of the provider.
    fn output(&self) -> CallOutput {
        let (out, used) = (self.recorder.output(), self.used.clone());
        CallOutput::new(move |event| {
            if let CallEvent::Usage(usage) = event {
                used.lock().turn = Some(usage);
            }
            out.send(event);
        })
    }
}

/// The JSON of an answer that fits the schema; else the answer as text and
/// what is wrong with it.
fn fit(schema: &Schema, output: &Json) -> Result<Json, (String, Vec<SchemaError>)> {
    let errors = |json: &Json| {
        let faults = schema.faults(json, 100).into_iter();
        faults.map(|Fault { path, message, .. }| SchemaError { path, message }).collect::<Vec<_>>()
    };
    let serde_json::Value::String(text) = output.value() else {
        let errors = errors(output);
        return if errors.is_empty() { Ok(output.clone()) } else { Err((output.to_string(), errors)) };
    };
    let mut first = None;
    for json in candidates(&text) {
        let errors = errors(&json);
        if errors.is_empty() {
            return Ok(json);
        }
        first.get_or_insert(errors);
    }
    // A schema of text.
    if errors(output).is_empty() {
        return Ok(output.clone());
    }
    Err((text, first.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(schema: serde_json::Value, answer: &str) -> Result<String, usize> {
        let validator = Schema::compile(&Json::from(schema)).unwrap();
        match fit(&validator, &Json::string(answer)) {
            Ok(json) => Ok(json.into_string()),
            Err((text, errors)) => {
                assert_eq!(text, answer);
                Err(errors.len())
            }
        }
    }

    #[test]
    fn of_several_candidates_the_first_that_fits_is_taken() {
        let object = json!({"type": "object", "required": ["ok"]});
        let answer = "```json\n{\"draft\": 1}\n```\nfinally {\"ok\": true}";
        assert_eq!(fits(object.clone(), answer), Ok("{\"ok\": true}".to_owned()));
        assert_eq!(fits(object.clone(), "```\n{\"draft\": 1}\n```"), Err(1));
        assert_eq!(fits(object, "nothing"), Err(0));
    }

    #[test]
    fn text_fits_a_schema_of_text() {
        assert_eq!(fits(json!({"type": "string"}), "hello"), Ok("\"hello\"".to_owned()));
        assert_eq!(fits(json!({"type": "string"}), "\"hello\""), Ok("\"hello\"".to_owned()));
        assert_eq!(fits(json!({"type": "integer"}), "7"), Ok("7".to_owned()));
    }
}
