//! Describing how a program diverges from its journal.

use std::fmt;

use serde_json::{Value, json};

use super::{Scripted, ScriptedEvent};
use crate::entry::decode_op;
use crate::json::first_difference;
use crate::{Op, Outcome, Position, Step};

/// The program asks for something else than what the journal says it asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Mismatch {
    /// The entry that does not agree.
    pub position: Position,
    /// What the journal has, as people call it: `agent`, `sleep`, `return`, ...
    pub recorded: String,
    /// What the program asks for now.
    pub asked: String,
    /// The first field that differs, like `options.tools[0]`; none if they are
    /// of different kinds, or if one is a result and the other a failure.
    pub field: Option<String>,
    /// That field's values, or what there is to say about the two.
    pub recorded_value: Value,
    pub asked_value: Value,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |f: &mut fmt::Formatter<'_>, kind: &str, value: &Value| {
            write!(f, "{kind}")?;
            match (&self.field, value) {
                (None, Value::Null) => Ok(()),
                (None, Value::String(text)) => write!(f, " {text}"),
                (None, value) => write!(f, " {value}"),
                (Some(field), value) => write!(f, " with {field} {value}"),
            }
        };
        write!(f, "entry {} has ", self.position)?;
        side(f, &self.recorded, &self.recorded_value)?;
        write!(f, ", the program asks for ")?;
        side(f, &self.asked, &self.asked_value)
    }
}

/// What the program does now.
pub(super) enum Asked<'a> {
    Op(&'a Op),
    Drop(Step),
    Finish(&'a Outcome),
    Wait,
    /// It ended without returning, and how.
    End(&'a str),
}

impl Mismatch {
    /// The program stops of itself where the run goes on, behind all that is recorded.
    pub fn stopped(position: Position, how: &str) -> Self {
        Self {
            position,
            recorded: "nothing".to_owned(),
            asked: "stop".to_owned(),
            field: None,
            recorded_value: Value::from("yet: the run goes on here"),
            asked_value: Value::from(format!("because {how}")),
        }
    }

    /// `op`: the operation that was recorded, if it is one.
    pub(super) fn between(recorded: &Scripted, op: Option<&[u8]>, asked: Asked<'_>) -> Self {
        let op = decode_op(op.unwrap_or_default(), recorded.position);
        let alike = match (&recorded.event, &asked) {
            (ScriptedEvent::Scheduled { .. }, Asked::Op(asked)) => {
                op.as_ref().is_ok_and(|op| std::mem::discriminant(op) == std::mem::discriminant(*asked))
            }
            (ScriptedEvent::Finished { outcome, .. }, Asked::Finish(asked)) => {
                outcome.is_ok() == asked.is_ok()
            }
            _ => false,
        };
        let (recorded_kind, recorded_value, fields) = match &recorded.event {
            ScriptedEvent::Scheduled { .. } => match &op {
                Ok(op) => (op.kind().to_owned(), Value::from(op.label()), value_of(op)),
                Err(error) => ("an operation".to_owned(), Value::from(error.to_string()), Value::Null),
            },
            ScriptedEvent::Cancelled { step } => {
                ("cancel".to_owned(), Value::from(format!("of step {step}")), Value::Null)
            }
            ScriptedEvent::Returned { step } => {
                ("cancel".to_owned(), Value::from(format!("of step {step}")), Value::Null)
            }
            ScriptedEvent::Patched { id } => ("patch".to_owned(), Value::from(id.as_str()), Value::Null),
            ScriptedEvent::Finished { outcome, .. } => {
                ("return".to_owned(), outcome_label(outcome), outcome_value(outcome))
            }
            ScriptedEvent::Continued => ("continue-as-new".to_owned(), Value::Null, Value::Null),
        };
        let (asked_kind, asked_value, asked_fields) = match asked {
            Asked::Op(op) => (op.kind(), Value::from(op.label()), value_of(op)),
            Asked::Drop(step) => ("cancel", Value::from(format!("of step {step}")), Value::Null),
            Asked::Finish(outcome) => ("return", outcome_label(outcome), outcome_value(outcome)),
            Asked::Wait => ("wait", Value::from("for a step that was not done then"), Value::Null),
            Asked::End(how) => ("stop", Value::from(format!("because {how}")), Value::Null),
        };
        let difference = alike.then(|| first_difference(&fields, &asked_fields)).flatten();
        let (field, recorded_value, asked_value) = match difference {
            Some(found) => (Some(found.path), found.left, found.right),
            None => (None, recorded_value, asked_value),
        };
        Self {
            position: recorded.position,
            recorded: recorded_kind,
            asked: asked_kind.to_owned(),
            field,
            recorded_value,
            asked_value,
        }
    }
}

/// The fields of an operation, JSON texts among them by what they say.
fn value_of(op: &Op) -> Value {
    serde_json::to_value(op).unwrap_or(Value::Null)
}

fn outcome_label(outcome: &Outcome) -> Value {
    match outcome {
        Ok(_) => Value::from("of a result"),
        Err(failure) => Value::from(format!("of a failure ({failure})")),
    }
}

fn outcome_value(outcome: &Outcome) -> Value {
    match outcome {
        Ok(json) => json!({ "result": json.value() }),
        Err(failure) => json!({ "failure": { "kind": failure.kind, "message": failure.message } }),
    }
}

/// Whether the recorded bytes mean this operation though they are not equal:
/// another order of keys, say.
pub(super) fn same_op(recorded: &[u8], op: &Op, position: Position) -> bool {
    decode_op(recorded, position)
        .is_ok_and(|recorded| first_difference(&value_of(&recorded), &value_of(op)).is_none())
}

pub(super) fn same_outcome(recorded: &Outcome, outcome: &Outcome) -> bool {
    match (recorded, outcome) {
        (Ok(recorded), Ok(json)) => recorded.means(json),
        (Err(recorded), Err(failure)) => recorded.kind == failure.kind && recorded.message == failure.message,
        _ => false,
    }
}
