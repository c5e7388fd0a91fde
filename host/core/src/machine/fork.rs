//! The beginning of a journal as the beginning of another one.

use crate::entry::{Entry, Event, Recorded, decode_op};
use crate::journal::Journal;
use crate::{Json, Op, Position, Reply, Step};

/// What a fork takes over of a journal.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ForkPlan {
    /// The first entry that is not taken over. Without it that is the one
    /// behind the last edit, else the end of the run, else nothing is left out.
    pub at: Option<Position>,
    /// Answers that are to be others: that of a step, or a signal's payload.
    pub edits: Vec<(Position, Json)>,
    pub input: Option<Json>,
}

/// Why a run cannot be forked so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotFork {
    #[error("a fork copies at least 1 and at most {most} entries of this run, not {at}")]
    OutOfRange { at: Position, most: Position },
    #[error("entry {at} is `{kind}`, which has no answer")]
    NoAnswer { at: Position, kind: &'static str },
    #[error("entry {0} is not copied, so it cannot be edited")]
    NotTaken(Position),
}

impl ForkPlan {
    /// The entries of the fork.
    pub fn entries(&self, journal: &Journal) -> Result<Vec<Entry>, CannotFork> {
        let entries = &journal.entries;
        let ended = entries.last().is_some_and(|entry| {
            matches!(entry.event, Event::Finished { .. } | Event::ContinuedAsNew { .. })
        });
        let most = Position((entries.len() - usize::from(ended)) as u64);
        let behind = self.edits.iter().map(|(edit, _)| Position(edit.0.saturating_add(1))).max();
        let at = self.at.or(behind).unwrap_or(most);
        if at.0 == 0 || at > most {
            return Err(CannotFork::OutOfRange { at, most });
        }
        let mut taken = entries[..at.0 as usize].to_vec();
        if let (Some(input), Some(Entry { event: Event::Started(started), .. })) =
            (&self.input, taken.first_mut())
        {
            started.input = input.clone();
        }
        for (position, answer) in &self.edits {
            if *position >= at {
                return Err(CannotFork::NotTaken(*position));
            }
            let index = position.0 as usize;
            let new = match taken[index].event.ended_step() {
                Some((step, outcome)) if is_call(&taken, step) => reply(outcome, answer),
                _ => answer.clone(),
            };
            match &mut taken[index].event {
                Event::Completed { outcome, .. } | Event::Answered { outcome, .. } => {
                    *outcome = Recorded::Ok(new);
                }
                Event::ChildEnded(child) => child.outcome = Recorded::Ok(new),
                Event::Received { payload, .. } => *payload = new,
                other => return Err(CannotFork::NoAnswer { at: *position, kind: other.kind() }),
            }
        }
        Ok(taken)
    }
}

fn is_call(entries: &[Entry], asked: Step) -> bool {
    entries.iter().enumerate().any(|(index, entry)| match &entry.event {
        Event::Scheduled { step, op } if *step == asked => {
            matches!(decode_op(op, Position(index as u64)), Ok(Op::Agent(_)))
        }
        _ => false,
    })
}

/// A call is answered with a reply: that of before, but for what it says.
fn reply(before: &Recorded, output: &Json) -> Json {
    let before = match before {
        Recorded::Ok(json) => serde_json::from_str::<Reply>(json.as_str()).ok(),
        Recorded::Err(_) => None,
    };
    let edited = match before {
        Some(reply) => Reply { output: output.clone(), ..reply },
        None => Reply::new("edited", output.clone()),
    };
    serde_json::to_value(edited).map_or_else(|_| output.clone(), Json::from)
}
