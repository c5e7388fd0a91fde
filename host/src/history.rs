//! What a journal tells of the steps of a run.

use std::collections::HashSet;

use wfhost_core::{
    Entry, Event, FailedCall, Journal, Json, Op, Outcome, Position, Question, Step, Timestamp, decode_op,
};

/// The entries of a journal that tell how each step went; for `show`.
#[derive(Clone, Debug)]
pub struct StepInfo {
    pub step: Step,
    pub op: Op,
    pub attempts: u32,
    pub started_at: Timestamp,
    /// When the current attempt at an agent call began; what is said of its turn is about that one if it is not older.
    pub attempt_at: Timestamp,
    pub ended: Option<(Timestamp, Option<Outcome>)>,
    /// Attempts at an agent call that failed, as far as another one followed
    /// or they consumed something.
    pub failed: Vec<FailedCall>,
    /// When the next attempt begins, and why not before.
    pub waits: Option<(Timestamp, String)>,
    /// What a person is asked, if an agent call is put to one.
    pub delegated: Option<Question>,
}

impl StepInfo {
    /// Whether it was dropped or cancelled behind that entry.
    fn ended_behind(&self, journal: &Journal, from: Position) -> bool {
        let begin = journal.entries.get(from.0 as usize).map(|entry| entry.at);
        matches!((&self.ended, begin), (Some((at, _)), Some(begin)) if *at >= begin)
    }
}

/// What a journal says of each step, in order.
pub fn steps(journal: &Journal) -> Vec<StepInfo> {
    let mut steps: Vec<StepInfo> = Vec::new();
    let mut waits: Vec<(String, usize)> = Vec::new();
    let mut early: Vec<(String, Json)> = Vec::new();
    for (position, Entry { at, event, .. }) in journal.entries.iter().enumerate() {
        let index = |step: &Step| (step.0 as usize).wrapping_sub(1);
        match event {
            Event::Scheduled { step, op } => {
                let Ok(op) = decode_op(op, Position(position as u64)) else {
                    continue;
                };
                let mut ended = None;
                if let Op::Signal { name, .. } = &op {
                    match early.iter().position(|(early, _)| early == name) {
                        Some(first) => ended = Some((*at, Some(Ok(early.remove(first).1)))),
                        None => waits.push((name.clone(), steps.len())),
                    }
                }
                let attempts = u32::from(matches!(op, Op::Agent(_)));
                steps.push(StepInfo {
                    step: *step,
                    op,
                    attempts,
                    started_at: *at,
                    attempt_at: *at,
                    ended,
                    failed: Vec::new(),
                    waits: None,
                    delegated: None,
                });
            }
            Event::Attempted { step, attempt, .. } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.attempts = *attempt;
                    info.attempt_at = *at;
                    info.waits = None;
                }
            }
            Event::AttemptFailed(failed) => {
                if let Some(info) = steps.get_mut(index(&failed.step)) {
                    info.failed.push(failed.as_ref().clone());
                    info.waits = failed.again_at.map(|at| (at, format!("retries after: {}", failed.failure)));
                }
            }
            Event::Postponed { step, until, reason } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.attempts = info.attempts.saturating_sub(1);
                    info.waits = Some((*until, reason.clone()));
                }
            }
            Event::Delegated { step, question, .. } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.delegated = Some(question.as_ref().clone());
                }
            }
            event if let Some((step, outcome)) = event.ended_step() => {
                if let Some(info) = steps.get_mut(index(&step)) {
                    info.ended = Some((*at, Some(outcome.clone().into())));
                }
                waits.retain(|(_, wait)| *wait != index(&step));
            }
            // The signal is the next one of its name again.
            Event::Returned { step } => {
                let taken =
                    steps.get_mut(index(step)).map(|info| (info.op.clone(), info.ended.replace((*at, None))));
                if let Some((Op::Signal { name, .. }, Some((_, Some(Ok(payload)))))) = taken {
                    match waits.iter().position(|(wait, _)| *wait == name) {
                        Some(first) => {
                            let (_, step) = waits.remove(first);
                            steps[step].ended = Some((*at, Some(Ok(payload))));
                        }
                        None => early.insert(0, (name, payload)),
                    }
                }
            }
            Event::Cancelled { step } => {
                if let Some(info) = steps.get_mut(index(step)) {
                    info.ended = Some((*at, None));
                }
                waits.retain(|(_, wait)| *wait != index(step));
            }
            Event::Received { name, payload, .. } => match waits.iter().position(|(wait, _)| wait == name) {
                Some(first) => {
                    let (_, step) = waits.remove(first);
                    steps[step].ended = Some((*at, Some(Ok(payload.clone()))));
                }
                None => early.push((name.clone(), payload.clone())),
            },
            Event::CancelRequested { .. } => {
                for info in steps.iter_mut().filter(|info| info.ended.is_none()) {
                    info.ended = Some((*at, None));
                }
                waits.clear();
            }
            // The steps that the program began there are void, that one is open again.
            Event::Retried { from, step, .. } => {
                let void: HashSet<_> = (journal.entries.iter().take(position).skip(from.0 as usize))
                    .filter_map(|entry| match &entry.event {
                        Event::Scheduled { step, .. } => Some(*step),
                        _ => None,
                    })
                    .collect();
                for info in &mut steps {
                    if void.contains(&info.step) {
                        info.ended.get_or_insert((*at, None));
                    } else if Some(info.step) == *step
                        || matches!(&info.ended, Some((_, None)) if info.ended_behind(journal, *from))
                    {
                        info.ended = None;
                    }
                }
            }
            Event::Started(_)
            | Event::Patched { .. }
            | Event::Finished { .. }
            | Event::Moved { .. }
            | Event::BudgetChanged { .. }
            | Event::ClockSet
            | Event::ContinuedAsNew { .. }
            | Event::Forked { .. }
            | Event::Completed { .. }
            | Event::Answered { .. }
            | Event::ChildEnded(_) => {}
        }
    }
    steps
}
