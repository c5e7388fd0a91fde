//! Where two runs differ.

use serde::Serialize;
use serde_json::{Value, json};
use similar::{Algorithm, DiffOp};
use utoipa::ToSchema;
use wfhost::StepInfo;
use wfhost::store::RunInfo;
use wfhost_core::{Outcome, first_difference};

/// Something that differs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Difference {
    /// Null if that run does not have it.
    pub a: Option<Value>,
    /// The same of the other one.
    pub b: Option<Value>,
    pub what: String,
}

/// A run with what its journal tells.
#[derive(Clone, Debug)]
pub struct Told {
    pub info: RunInfo,
    pub input: Value,
    pub steps: Vec<StepInfo>,
}

fn spell(outcome: Option<&Outcome>) -> Value {
    match outcome {
        Some(Ok(json)) => json.value(),
        Some(Err(failure)) => json!({ "failure": failure }),
        None => Value::Null,
    }
}

/// The number of steps that are the same, and all that differs.
pub fn compare(a: &Told, b: &Told) -> (usize, Vec<Difference>) {
    let mut differences = Vec::new();
    let mut note = |what: &str, a: Value, b: Value| {
        if a != b {
            differences.push(Difference { what: what.to_owned(), a: Some(a), b: Some(b) });
        }
    };
    note("workflow", a.info.workflow.as_str().into(), b.info.workflow.as_str().into());
    note("module", a.info.module.to_string().into(), b.info.module.to_string().into());
    note("input", a.input.clone(), b.input.clone());
    let asked = |told: &Told| -> Vec<Value> {
        told.steps.iter().map(|step| serde_json::to_value(&step.op).unwrap_or_default()).collect()
    };
    let (asked_a, asked_b) = (asked(a), asked(b));
    let mut same = 0;
    let only = |steps: &[StepInfo], range: std::ops::Range<usize>, side: &str| {
        let step = |info: &StepInfo| {
            let what = format!("only {side} has step {}: {} {}", info.step, info.op.kind(), info.op.label());
            Difference { what, a: None, b: None }
        };
        steps[range].iter().map(step).collect::<Vec<_>>()
    };
    // By text: values have no order.
    let texts = |asked: &[Value]| asked.iter().map(Value::to_string).collect::<Vec<_>>();
    let aligned = similar::capture_diff_slices(Algorithm::Myers, &texts(&asked_a), &texts(&asked_b));
    for op in aligned {
        match op {
            DiffOp::Equal { old_index, new_index, len } => {
                for (of_a, of_b) in a.steps[old_index..][..len].iter().zip(&b.steps[new_index..][..len]) {
                    match answers_differ(of_a, of_b) {
                        None => same += 1,
                        Some(difference) => differences.push(difference),
                    }
                }
            }
            DiffOp::Replace { old_index, old_len, new_index, new_len } if (old_len, new_len) == (1, 1) => {
                let (of_a, of_b) = (&a.steps[old_index], &b.steps[new_index]);
                let found = first_difference(&asked_a[old_index], &asked_b[new_index]);
                let field = found.as_ref().map(|found| found.path.clone()).unwrap_or_default();
                let numbers = numbers(of_a, of_b);
                let what = format!("step {numbers} requests something else: {field}");
                let (left, right) = found.map(|found| (found.left, found.right)).unwrap_or_default();
                differences.push(Difference { what, a: Some(left), b: Some(right) });
            }
            DiffOp::Replace { old_index, old_len, new_index, new_len } => {
                differences.extend(only(&a.steps, old_index..old_index + old_len, "a"));
                differences.extend(only(&b.steps, new_index..new_index + new_len, "b"));
            }
            DiffOp::Delete { old_index, old_len, .. } => {
                differences.extend(only(&a.steps, old_index..old_index + old_len, "a"));
            }
            DiffOp::Insert { new_index, new_len, .. } => {
                differences.extend(only(&b.steps, new_index..new_index + new_len, "b"));
            }
        }
    }
    let (end_a, end_b) = (spell(a.info.outcome.as_ref()), spell(b.info.outcome.as_ref()));
    if end_a != end_b {
        differences.push(Difference { what: "result".to_owned(), a: Some(end_a), b: Some(end_b) });
    }
    let (state_a, state_b) = (a.info.state.as_str(), b.info.state.as_str());
    if state_a != state_b {
        let what = "state".to_owned();
        differences.push(Difference { what, a: Some(state_a.into()), b: Some(state_b.into()) });
    }
    (same, differences)
}

fn numbers(a: &StepInfo, b: &StepInfo) -> String {
    match a.step == b.step {
        true => a.step.to_string(),
        false => format!("{} of a, {} of b,", a.step, b.step),
    }
}

fn answers_differ(a: &StepInfo, b: &StepInfo) -> Option<Difference> {
    let answer = |info: &StepInfo| match &info.ended {
        Some((_, outcome)) => spell(outcome.as_ref()),
        None => Value::from("open"),
    };
    let (answer_a, answer_b) = (answer(a), answer(b));
    let found = first_difference(&answer_a, &answer_b)?;
    let place = if found.path.is_empty() { String::new() } else { format!(" at {}", found.path) };
    let what =
        format!("step {} ({} {}) was answered differently{place}", numbers(a, b), a.op.kind(), a.op.label());
    Some(Difference { what, a: Some(found.left), b: Some(found.right) })
}
