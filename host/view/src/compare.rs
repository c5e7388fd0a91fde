//! Where two runs differ.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use similar::{Algorithm, DiffOp};
use utoipa::ToSchema;
use wfhost::StepInfo;
use wfhost::store::RunInfo;
use wfhost_core::{Json, Outcome};

use crate::exact::Exact;

/// How long the best alignment of the steps is looked for; after that, one that is good enough is taken. The time that
/// it takes grows with the square of what differs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that differs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Difference {
    /// Null if that run does not have it.
    #[schema(value_type = Option<Value>)]
    pub a: Option<Json>,
    /// The same of the other one.
    #[schema(value_type = Option<Value>)]
    pub b: Option<Json>,
    pub what: String,
}

/// A run with what its journal tells.
#[derive(Clone, Debug)]
pub struct Told {
    pub info: RunInfo,
    pub input: Json,
    pub steps: Vec<StepInfo>,
}

fn spell(outcome: Option<&Outcome>) -> Exact {
    match outcome {
        Some(Ok(json)) => Exact::read(json.as_str()),
        Some(Err(failure)) => Exact::of(&BTreeMap::from([("failure", failure)])),
        None => Exact::Null,
    }
}

fn difference(what: impl Into<String>, a: &Exact, b: &Exact) -> Difference {
    Difference { what: what.into(), a: Some(a.json()), b: Some(b.json()) }
}

/// The number of steps that are the same, and all that differs.
pub fn compare(a: &Told, b: &Told) -> (usize, Vec<Difference>) {
    let mut differences = Vec::new();
    let mut note = |what: &str, a: Exact, b: Exact| {
        if a != b {
            differences.push(difference(what, &a, &b));
        }
    };
    note("workflow", Exact::string(&a.info.workflow), Exact::string(&b.info.workflow));
    note("module", Exact::string(&a.info.module.to_string()), Exact::string(&b.info.module.to_string()));
    note("input", Exact::read(a.input.as_str()), Exact::read(b.input.as_str()));
    let asked = |told: &Told| -> Vec<Exact> { told.steps.iter().map(|step| Exact::of(&step.op)).collect() };
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
    let keys = |asked: &[Exact]| asked.iter().map(Exact::key).collect::<Vec<_>>();
    for op in align(&keys(&asked_a), &keys(&asked_b), Instant::now() + PATIENCE) {
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
                let (whole_a, whole_b) = (&asked_a[old_index], &asked_b[new_index]);
                // They may differ by a member that is null and one that is not there.
                let found = whole_a.difference(whole_b);
                let (field, left, right) = found.unwrap_or_else(|| (String::new(), whole_a, whole_b));
                let what = format!("step {} requests something else: {field}", numbers(of_a, of_b));
                differences.push(difference(what, left, right));
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
        differences.push(difference("result", &end_a, &end_b));
    }
    let (state_a, state_b) = (a.info.state.as_str(), b.info.state.as_str());
    if state_a != state_b {
        differences.push(difference("state", &Exact::string(state_a), &Exact::string(state_b)));
    }
    (same, differences)
}

/// Aligns what is the same in both, as well as it can be done until that time.
fn align(a: &[String], b: &[String], until: Instant) -> Vec<DiffOp> {
    similar::capture_diff_slices_deadline(Algorithm::Myers, a, b, Some(until))
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
        None => Exact::string("open"),
    };
    let (answer_a, answer_b) = (answer(a), answer(b));
    let (path, left, right) = answer_a.difference(&answer_b)?;
    let place = if path.is_empty() { String::new() } else { format!(" at {path}") };
    let what =
        format!("step {} ({} {}) was answered differently{place}", numbers(a, b), a.op.kind(), a.op.label());
    Some(difference(what, left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best alignment of so many would take minutes.
    #[test]
    fn an_alignment_that_takes_too_long_is_cut_short_and_leaves_nothing_out() {
        let side = |name: &str| {
            let steps = (0..60_000).map(|n| if n % 100 == 0 { n.to_string() } else { format!("{name}{n}") });
            steps.collect::<Vec<_>>()
        };
        let (a, b) = (side("a"), side("b"));
        let (mut at_a, mut at_b) = (0, 0);
        for op in align(&a, &b, Instant::now()) {
            assert_eq!((op.old_range().start, op.new_range().start), (at_a, at_b));
            (at_a, at_b) = (op.old_range().end, op.new_range().end);
            if matches!(op, DiffOp::Equal { .. }) {
                assert_eq!(a[op.old_range()], b[op.new_range()]);
            }
        }
        assert_eq!((at_a, at_b), (a.len(), b.len()));
    }
}
