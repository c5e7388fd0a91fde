//! `wfhost diff`

use serde_json::{Value, json};
use similar::{Algorithm, DiffOp};
use wfhost::store::{RunInfo, Store};
use wfhost::{StepInfo, steps};
use wfhost_core::{Outcome, first_difference};

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, read_journal};
use super::{Common, Format, printer};

/// Show where two runs differ
///
/// Steps that ask for the same are put side by side; those that only one of
/// the runs has, and answers that differ, are shown. Times do not count.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost diff @last:2 @last
  wfhost diff run_01k9 run_01ka -o json")]
pub(crate) struct Diff {
    /// An id, the beginning of one, @last, @last:2
    a: String,
    /// The other one
    b: String,
}

/// Something that differs.
struct Difference {
    what: String,
    /// None if that run does not have it.
    a: Option<Value>,
    b: Option<Value>,
}

/// A run with what its journal tells.
struct Told {
    info: RunInfo,
    input: Value,
    steps: Vec<StepInfo>,
}

async fn told(store: &dyn Store, run: &str) -> Result<Told, Trouble> {
    let info = find_run(store, run).await?;
    let journal = read_journal(store, &info.id).await?;
    let input = match journal.entries.first().map(|entry| &entry.event) {
        Some(wfhost_core::Event::Started(started)) => started.input.value(),
        _ => Value::Null,
    };
    Ok(Told { info, input, steps: steps(&journal) })
}

impl Diff {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.reader()?;
        let (a, b) = (told(store.as_ref(), &self.a).await?, told(store.as_ref(), &self.b).await?);
        let (same, differences) = compare(&a, &b);
        if common.output != Format::Text {
            let differences: Vec<_> =
                differences.iter().map(|d| json!({ "what": d.what, "a": d.a, "b": d.b })).collect();
            let view = json!({
                "schema": "wfhost/diff/1", "a": a.info.id, "b": b.info.id, "same_steps": same,
                "differences": differences,
            });
            printer::json(&view);
            return Ok(Exit::Done);
        }
        printer::line(format!("a  {}", a.info.id));
        printer::line(format!("b  {}", b.info.id));
        printer::line(format!("{same} steps are the same"));
        for Difference { what, a, b } in differences {
            printer::line(&what);
            for (side, value) in [("a", a), ("b", b)] {
                if let Some(value) = value {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    printer::line(format!("  {side}  {}", shortened(&text)));
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// The first line of a text, as far as it is no longer than a line of a terminal.
fn shortened(text: &str) -> String {
    const WIDTH: usize = 100;
    let line = text.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(WIDTH).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}

fn spell(outcome: Option<&Outcome>) -> Value {
    match outcome {
        Some(Ok(json)) => json.value(),
        Some(Err(failure)) => json!({ "failure": failure }),
        None => Value::Null,
    }
}

/// The number of steps that are the same, and all that differs.
fn compare(a: &Told, b: &Told) -> (usize, Vec<Difference>) {
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
            let what = format!("step {} of {side} only: {} {}", info.step, info.op.kind(), info.op.label());
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
                let what = format!("step {numbers} asks for something else: {field}");
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
