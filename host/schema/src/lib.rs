//! JSON Schemas: of the answers that people give.

use wfhost_core::{Json, Question};

/// An answer that does not fit the question.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadAnswer {
    #[error("it is one of {}, as a JSON string", .choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(", "))]
    Choice { choices: Vec<String> },
    /// What the schema finds wrong: a place in the answer and what is wrong there.
    #[error("{}", .faults.join("; "))]
    Schema { faults: Vec<String> },
}

/// Faults of one answer that are told; the first ones are enough.
const MAX_FAULTS: usize = 5;

/// Reads a schema. References to other documents are not followed.
pub fn compile(schema: &Json) -> Result<jsonschema::Validator, String> {
    jsonschema::validator_for(&schema.value()).map_err(|error| error.to_string())
}

/// Checks an answer against the choices and the schema of a question.
pub fn check(question: &Question, answer: &Json) -> Result<(), BadAnswer> {
    let value = answer.value();
    let is_choice = value.as_str().is_some_and(|text| question.choices.iter().any(|choice| choice == text));
    if !question.choices.is_empty() && !is_choice {
        return Err(BadAnswer::Choice { choices: question.choices.clone() });
    }
    let Some(schema) = &question.schema else { return Ok(()) };
    let validator = compile(schema).map_err(|error| BadAnswer::Schema {
        faults: vec![format!("the question has a schema that cannot be used: {error}")],
    })?;
    let faults: Vec<_> = validator
        .iter_errors(&value)
        .take(MAX_FAULTS)
        .map(|error| match error.instance_path().to_string() {
            place if place.is_empty() => error.to_string(),
            place => format!("{place}: {error}"),
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(BadAnswer::Schema { faults }) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(choices: &[&str], schema: Option<serde_json::Value>) -> Question {
        Question {
            prompt: "?".to_owned(),
            schema: schema.map(Json::from),
            choices: choices.iter().map(|&choice| choice.to_owned()).collect(),
            details: None,
        }
    }

    #[test]
    fn choices_are_checked() {
        let question = question(&["red", "green"], None);
        assert_eq!(check(&question, &Json::from(json!("red"))), Ok(()));
        let error = check(&question, &Json::from(json!("blue"))).unwrap_err();
        assert_eq!(error.to_string(), r#"it is one of "red", "green", as a JSON string"#);
    }

    #[test]
    fn a_schema_says_where_an_answer_is_wrong() {
        let schema = json!({"type": "object", "required": ["ok"], "properties": {"n": {"maximum": 3}}});
        let question = question(&[], Some(schema));
        assert_eq!(check(&question, &Json::from(json!({"ok": true}))), Ok(()));
        let error = check(&question, &Json::from(json!({"n": 4}))).unwrap_err().to_string();
        assert!(error.contains("\"ok\" is a required property"), "{error}");
        assert!(error.contains("/n: 4 is greater than the maximum of 3"), "{error}");
    }

    #[test]
    fn a_schema_that_is_none_is_an_error() {
        assert!(compile(&Json::from(json!({"type": 7}))).is_err());
        assert!(compile(&Json::from(json!({"$ref": "https://example.com/x"}))).is_err());
    }
}
