//! What a journal tells of the steps of a run.

use crate::machine::Void;
use crate::{
    Entry, Event, FailedCall, Journal, Json, Op, Outcome, Position, Question, Step, Timestamp, decode_op,
};

/// The entries of a journal that tell how each step went; for `show`.
#[derive(Clone, Debug)]
pub struct StepInfo {
    pub step: Step,
    pub op: Op,
    pub attempts: u32,
    pub started_at: Timestamp,
    /// When the current attempt began, or the step was begun again by a retry: time limits count from there. What is
    /// said of the turn of an agent call is about that attempt if it is not older.
    pub attempt_at: Timestamp,
    pub ended: Option<(Timestamp, Option<Outcome>)>,
    /// Attempts at an agent call that failed or were dropped, as far as another one followed
    /// or they consumed something.
    pub failed: Vec<FailedCall>,
    /// When the next attempt begins, and why not before.
    pub waits: Option<(Timestamp, String)>,
    /// What a person is asked, if an agent call is put to one.
    pub delegated: Option<Question>,
}

/// The steps of the entries that were looked at.
#[derive(Default)]
struct Steps {
    /// In order, with whether the step is void.
    all: Vec<(StepInfo, bool)>,
    /// Void steps that the entry which makes them so is still to come for: where they were begun, and where they are.
    doomed: Vec<(u64, usize)>,
    /// Waits for signals, in order.
    waits: Vec<(String, usize)>,
    /// Signals that nothing waited for, in order.
    early: Vec<(String, Json)>,
}

impl Steps {
    fn find(&self, step: Step) -> Option<usize> {
        self.all.binary_search_by_key(&step, |(info, _)| info.step).ok()
    }

    fn find_mut(&mut self, step: Step) -> Option<&mut StepInfo> {
        let index = self.find(step)?;
        Some(&mut self.all[index].0)
    }

    fn schedule(&mut self, step: Step, op: Op, at: Timestamp, position: u64, is_void: bool) {
        let index = self.all.len();
        let mut ended = None;
        if is_void {
            self.doomed.push((position, index));
        } else if let Op::Signal { name, .. } = &op {
            match self.early.iter().position(|(early, _)| early == name) {
                Some(first) => ended = Some((at, Some(Ok(self.early.remove(first).1)))),
                None => self.waits.push((name.clone(), index)),
            }
        }
        let attempts = u32::from(matches!(op, Op::Agent(_)));
        let info = StepInfo {
            step,
            op,
            attempts,
            started_at: at,
            attempt_at: at,
            ended,
            failed: Vec::new(),
            waits: None,
            delegated: None,
        };
        self.all.push((info, is_void));
    }

    /// A step ended. Gives how it had ended before.
    fn end(
        &mut self,
        step: Step,
        at: Timestamp,
        outcome: Option<Outcome>,
        is_void: bool,
    ) -> Option<(Timestamp, Option<Outcome>)> {
        let index = self.find(step)?;
        let (info, step_is_void) = &mut self.all[index];
        // The step stands, and is open again: only how it ended is void. Of a void step all is told.
        if is_void && !*step_is_void {
            return None;
        }
        self.waits.retain(|(_, wait)| *wait != index);
        info.ended.replace((at, outcome))
    }

    /// Gives a signal to the wait that came first, or keeps it; before the others if it was `returned`.
    fn give(&mut self, name: &str, payload: Json, at: Timestamp, returned: bool) {
        match self.waits.iter().position(|(wait, _)| wait == name) {
            Some(first) => {
                let (_, index) = self.waits.remove(first);
                self.all[index].0.ended = Some((at, Some(Ok(payload))));
            }
            None if returned => self.early.insert(0, (name.to_owned(), payload)),
            None => self.early.push((name.to_owned(), payload)),
        }
    }
}

/// What a journal says of each step, in order. What a retry made void is left out as the machine leaves it out, except
/// that the steps which it made void are told as what they were.
pub fn steps(journal: &Journal) -> Vec<StepInfo> {
    let void = Void::of(&journal.entries);
    let mut steps = Steps::default();
    for (position, Entry { at, event, .. }) in (0..).zip(&journal.entries) {
        let (at, is_void) = (*at, void.has(Position(position)));
        match event {
            Event::Scheduled { step, op } => {
                if let Ok(op) = decode_op(op, Position(position)) {
                    steps.schedule(*step, op, at, position, is_void);
                }
            }
            Event::Attempted { step, attempt, .. } => {
                if let Some(info) = steps.find_mut(*step) {
                    info.attempts = *attempt;
                    info.attempt_at = at;
                    info.waits = None;
                }
            }
            Event::AttemptFailed(failed) => {
                if let Some(info) = steps.find_mut(failed.step) {
                    info.failed.push(failed.as_ref().clone());
                    if !failed.is_dropped() {
                        info.waits =
                            failed.again_at.map(|at| (at, format!("retries after: {}", failed.failure)));
                    }
                }
            }
            Event::Postponed { step, until, reason } => {
                if let Some(info) = steps.find_mut(*step) {
                    info.attempts = info.attempts.saturating_sub(1);
                    info.waits = Some((*until, reason.clone()));
                }
            }
            Event::Delegated { step, question, .. } => {
                if let Some(info) = steps.find_mut(*step) {
                    info.delegated = Some(question.as_ref().clone());
                }
            }
            event if let Some((step, outcome)) = event.ended_step() => {
                steps.end(step, at, Some(outcome.clone().into()), is_void);
            }
            // The signal is the next one of its name again.
            Event::Returned { step } => {
                let name = steps.find(*step).and_then(|index| match &steps.all[index].0.op {
                    Op::Signal { name, .. } => Some(name.clone()),
                    _ => None,
                });
                let taken = steps.end(*step, at, None, is_void);
                if let (Some(name), Some((_, Some(Ok(payload)))), false) = (name, taken, is_void) {
                    steps.give(&name, payload, at, true);
                }
            }
            Event::Cancelled { step } => {
                steps.end(*step, at, None, is_void);
            }
            Event::Received { name, payload, .. } => steps.give(name, payload.clone(), at, false),
            Event::CancelRequested { .. } => {
                for (info, step_is_void) in &mut steps.all {
                    if !is_void || *step_is_void {
                        info.ended.get_or_insert((at, None));
                    }
                }
                if !is_void {
                    steps.waits.clear();
                }
            }
            // The steps that the program began there are void, that one is open again.
            Event::Retried { from, step, .. } => {
                while let Some((_, index)) = steps.doomed.pop_if(|(begun, _)| *begun >= from.0) {
                    steps.all[index].0.ended.get_or_insert((at, None));
                }
                if let Some(info) = step.and_then(|step| steps.find_mut(step)) {
                    info.attempt_at = at;
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
    steps.all.into_iter().map(|(info, _)| info).collect()
}
