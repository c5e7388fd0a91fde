//! Conversations with agents that keep none themselves.
//!
//! The journal has every question and every answer. So the id of such a
//! conversation is just the step of its last answer, and what was said before
//! is found by going from there to the step that it went on from, and so on.
//! Nothing changes what an id stands for: to go on with one twice is to fork.

use std::collections::HashMap;

use wfhost_core::{Event, FailureKind, Journal, Json, Op, Outcome, Position, Reply, RunId, Step, decode_op};

use super::call::opening;
use super::{CallFailure, Records};

/// Turns of one conversation; what came before is left out.
const TURNS: usize = 200;

/// The id of the conversation that ends with the answer to a step.
pub(super) fn id(run: &RunId, step: Step) -> String {
    format!("{run}/{step}")
}

/// What was asked and answered in a conversation, oldest first.
pub(super) async fn history(records: &dyn Records, id: &str) -> Result<Vec<(String, String)>, CallFailure> {
    let gone = |id: &str| {
        CallFailure::new(FailureKind::Rejected, format!("there is no conversation `{id}` to go on with"))
    };
    let mut said = Vec::new();
    let mut journals: HashMap<RunId, HashMap<Step, Spoken>> = HashMap::new();
    let mut next = Some(id.to_owned());
    while let Some(id) = next.take() {
        let (run, step) = id.rsplit_once('/').ok_or_else(|| gone(&id))?;
        let run: RunId = run.parse().map_err(|_| gone(&id))?;
        let step = Step(step.parse().map_err(|_| gone(&id))?);
        if !journals.contains_key(&run) {
            let rows = records.journal(&run).await?;
            journals.insert(run.clone(), spoken(rows));
        }
        let spoken = journals.get_mut(&run).and_then(|steps| steps.remove(&step));
        let Some(Spoken { asked, answered: Some(answered), session }) = spoken else {
            return Err(gone(&id));
        };
        said.push((asked, answered));
        if said.len() < TURNS {
            next = session;
        }
    }
    said.reverse();
    Ok(said)
}

struct Spoken {
    asked: String,
    answered: Option<String>,
    session: Option<String>,
}

fn spoken(rows: Vec<wfhost_core::Row>) -> HashMap<Step, Spoken> {
    let mut steps = HashMap::new();
    let Ok(journal) = Journal::read(rows) else { return steps };
    for (position, entry) in journal.entries.iter().enumerate() {
        match &entry.event {
            Event::Scheduled { step, op } => {
                if let Ok(Op::Agent(request)) = decode_op(op, Position(position as u64)) {
                    let session = request.session.clone();
                    steps.insert(*step, Spoken { asked: opening(&request), answered: None, session });
                }
            }
            Event::Completed { step, outcome } | Event::Answered { step, outcome, .. } => {
                if let Ok(json) = Outcome::from(outcome.clone())
                    && let Some(spoken) = steps.get_mut(step)
                    && let Ok(reply) = serde_json::from_str::<Reply>(json.as_str())
                {
                    spoken.answered = Some(text(&reply.output));
                }
            }
            _ => {}
        }
    }
    steps
}

fn text(output: &Json) -> String {
    match output.value() {
        serde_json::Value::String(text) => text,
        _ => output.as_str().to_owned(),
    }
}
