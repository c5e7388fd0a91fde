//! Going on with a run that had ended.
//!
//! A journal only grows. To try something again, an entry declares a part of
//! the journal void: what the program did from some position on. What came
//! from outside meanwhile (signals, answers to steps that were begun before)
//! stays where it is, and the program meets it when it gets there.

use std::collections::{BTreeMap, HashSet};

use crate::entry::{Entry, Event, Recorded};
use crate::journal::{Journal, extend_chain};
use crate::{Digest, FailureKind, Outcome, Position, Row, RunId, Step, Timestamp};

/// What the entries of a journal say is void.
#[derive(Debug, Default)]
pub(crate) struct Void {
    entries: HashSet<Position>,
    /// Steps that are tried again, and since when.
    pub reopened: BTreeMap<Step, Timestamp>,
}

impl Void {
    /// One look at each entry, however many declare others void.
    pub fn of(entries: &[Entry]) -> Self {
        let mut void = Self::default();
        if !entries.iter().any(|entry| matches!(entry.event, Event::Retried { .. })) {
            return void;
        }
        let mut begun_at = BTreeMap::new();
        // Where the step of each entry was begun, and the calls that could not be afforded.
        let mut begun = Vec::with_capacity(entries.len());
        let mut unaffordable = BTreeMap::<Step, Vec<u64>>::new();
        for (at, entry) in (0..).zip(entries) {
            if let Event::Scheduled { step, .. } = &entry.event {
                begun_at.insert(*step, at);
            }
            begun.push(step_of(&entry.event).and_then(|step| begun_at.get(&step).copied()));
            if let Event::Completed { step, outcome, .. } = &entry.event
                && is_unaffordable(outcome)
            {
                unaffordable.entry(*step).or_default().push(at);
            }
        }
        // From the end: the earliest place from which some later entry declares what the program
        // did void; what a certain step did; what could not be afforded.
        let mut from_all = u64::MAX;
        let mut from_step = BTreeMap::<Step, u64>::new();
        let mut from_unaffordable = u64::MAX;
        for (index, entry) in entries.iter().enumerate().rev() {
            let at = index as u64;
            if let Event::Retried { from, step, .. } = &entry.event {
                from_all = from_all.min(from.0);
                if let Some(step) = step {
                    let of_step = from_step.entry(*step).or_insert(u64::MAX);
                    *of_step = from.0.min(*of_step);
                    void.reopened.entry(*step).or_insert(entry.clock());
                    // Whoever pays for one call that could not be afforded pays for all of them.
                    let refused = unaffordable.get(step).map_or(&[][..], Vec::as_slice);
                    let before = refused.partition_point(|&refused| refused < at);
                    if before > 0 && refused[before - 1] >= from.0 {
                        from_unaffordable = from_unaffordable.min(from.0);
                    }
                }
                continue;
            }
            let of_begun = begun[index].is_some_and(|begun| from_all <= begun);
            let of_retried = |step: &Step| from_step.get(step).is_some_and(|&from| from <= at);
            let is_void = match &entry.event {
                Event::Scheduled { .. }
                | Event::Cancelled { .. }
                | Event::Returned { .. }
                | Event::Patched { .. }
                | Event::Finished { .. }
                | Event::CancelRequested { .. } => from_all <= at,
                Event::Completed { step, outcome, .. } => {
                    of_begun || of_retried(step) || from_unaffordable <= at && is_unaffordable(outcome)
                }
                Event::Answered { step, .. } => of_begun || of_retried(step),
                Event::ChildEnded(child) => of_begun || of_retried(&child.step),
                Event::Attempted { .. }
                | Event::Postponed { .. }
                | Event::Delegated { .. }
                | Event::AttemptFailed(_) => of_begun,
                Event::Started(_)
                | Event::Received { .. }
                | Event::Retried { .. }
                | Event::Moved { .. }
                | Event::BudgetChanged { .. }
                | Event::ClockSet
                | Event::ContinuedAsNew { .. }
                | Event::Forked { .. } => false,
            };
            if is_void {
                void.entries.insert(Position(at));
            }
        }
        void
    }

    pub fn has(&self, position: Position) -> bool {
        self.entries.contains(&position)
    }
}

/// The step that an entry says something of, after it was begun.
fn step_of(event: &Event) -> Option<Step> {
    match event {
        Event::Completed { step, .. }
        | Event::Answered { step, .. }
        | Event::Attempted { step, .. }
        | Event::Postponed { step, .. }
        | Event::Delegated { step, .. } => Some(*step),
        Event::ChildEnded(child) => Some(child.step),
        Event::AttemptFailed(failed) => Some(failed.step),
        _ => None,
    }
}

fn is_unaffordable(outcome: &Recorded) -> bool {
    matches!(outcome, Recorded::Err(failure) if failure.kind == FailureKind::BudgetExceeded)
}

/// Where a run that had ended is resumed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    pub from: Position,
    pub step: Option<Step>,
}

/// Why there is nothing to try again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotRetry {
    #[error("the run has not ended")]
    NotEnded,
    #[error("the run completed")]
    Completed,
    #[error("the run continues as {0}")]
    Continued(RunId),
    #[error("step {0} did not fail")]
    NotFailed(Step),
    #[error("the run has no step {0}")]
    NoSuchStep(Step),
    /// The program failed by itself: it would do so again.
    #[error("no step failed; the program failed by itself, and would fail again")]
    OwnFault,
    /// What the steps did is gone: their results may not be used again.
    #[error("the run was compensated; start a new one")]
    Undone,
}

/// Whether the program says that it has undone what its steps did: the details of its failure have
/// a member `saga`, as the SDK's sagas give it.
fn is_undone(failure: &crate::Failure) -> bool {
    let details = failure.details.as_ref().and_then(|details| serde_json::from_str(details.as_str()).ok());
    details.is_some_and(|details: serde_json::Value| !details["saga"].is_null())
}

/// Finds where to take up a run that failed: at the step that is named, else
/// at the one whose failure the run ended with; if it was cancelled,
/// where that was asked for, and if it was ended where it stood, there. A compensated run is resumed only at a named step. With `end_only` nothing but the end is void, which
/// serves a fixed program.
pub fn plan_retry(journal: &Journal, step: Option<Step>, end_only: bool) -> Result<Retry, CannotRetry> {
    let void = Void::of(&journal.entries);
    let standing = || {
        let numbered = journal.entries.iter().enumerate();
        numbered
            .map(|(index, entry)| (Position(index as u64), &entry.event))
            .filter(|(position, _)| !void.entries.contains(position))
    };
    if let Some(Entry { event: Event::ContinuedAsNew { run }, .. }) = journal.entries.last() {
        return Err(CannotRetry::Continued(run.clone()));
    }
    let end = standing().find_map(|(position, event)| match event {
        Event::Finished { outcome, stopped } => Some((position, Outcome::from(outcome.clone()), *stopped)),
        _ => None,
    });
    let Some((end, outcome, stopped)) = end else { return Err(CannotRetry::NotEnded) };
    let Err(failure) = outcome else { return Err(CannotRetry::Completed) };
    let failed = standing().filter_map(|(position, event)| {
        let (step, outcome) = event.ended_step()?;
        Some((position, step, Outcome::from(outcome.clone()).err()?))
    });
    let failed: Vec<_> = failed.collect();
    if let Some(wanted) = step {
        let exists =
            standing().any(|(_, event)| matches!(event, Event::Scheduled { step, .. } if *step == wanted));
        return match failed.iter().find(|(_, step, _)| *step == wanted) {
            Some((from, step, _)) => Ok(Retry { from: *from, step: Some(*step) }),
            None if exists => Err(CannotRetry::NotFailed(wanted)),
            None => Err(CannotRetry::NoSuchStep(wanted)),
        };
    }
    if end_only {
        return Ok(Retry { from: end, step: None });
    }
    if is_undone(&failure) {
        return Err(CannotRetry::Undone);
    }
    if failure.kind == FailureKind::Cancelled {
        let request = standing().find(|(_, event)| matches!(event, Event::CancelRequested { .. }));
        if let Some((from, _)) = request {
            return Ok(Retry { from, step: None });
        }
        // Somebody ended it where it stood, and no step of it is the cause, whatever that one says.
        if stopped {
            return Ok(Retry { from: end, step: None });
        }
    }
    let same = |own: &crate::Failure| {
        let told = match own.message.as_str() {
            // This is in every text. Programs tell it as such, or as its kind.
            "" => failure.message.is_empty() || failure.message == own.kind.word(),
            message => failure.message.contains(message),
        };
        told && own.kind == failure.kind
    };
    // After the first call that could not be afforded none could.
    let first = failed.iter().find(|(_, _, own)| own.kind == FailureKind::BudgetExceeded);
    let first = first.filter(|_| failure.kind == FailureKind::BudgetExceeded);
    match first.or_else(|| failed.iter().rev().find(|(_, _, own)| same(own))) {
        Some((from, step, _)) => Ok(Retry { from: *from, step: Some(*step) }),
        None => Err(CannotRetry::OwnFault),
    }
}

impl Retry {
    /// Adds the entry to a journal that was read, and gives the row to be stored.
    /// `emissions` is the number of the run's emissions that are stored.
    pub fn append(&self, journal: &mut Journal, emissions: u64, clock: Timestamp) -> Row {
        let last = journal.entries.last().map_or(Timestamp(0), |entry| entry.at);
        let event = Event::Retried { from: self.from, step: self.step, emissions };
        let entry = Entry::behind(last, clock, event);
        let mut bytes = Vec::new();
        entry.encode_to(&mut bytes);
        let head: Digest = extend_chain(&journal.head, &bytes);
        let first = Position(journal.entries.len() as u64);
        journal.entries.push(entry);
        journal.head = head;
        Row { first, count: 1, bytes, head }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Failure;

    /// What is void, by its definition: each entry that declares others void is looked at for itself.
    fn by_definition(entries: &[Entry]) -> HashSet<Position> {
        let mut void = HashSet::new();
        for (index, entry) in entries.iter().enumerate() {
            let Event::Retried { from, step: retried, .. } = &entry.event else { continue };
            let start = usize::try_from(from.0).unwrap_or(index).min(index);
            let entries = &entries[start..index];
            let mut begun = HashSet::new();
            let unaffordable = entries.iter().any(|entry| {
                matches!(&entry.event, Event::Completed { step, outcome, .. }
                    if *retried == Some(*step) && is_unaffordable(outcome))
            });
            for (offset, entry) in entries.iter().enumerate() {
                let is_void = match &entry.event {
                    Event::Scheduled { step, .. } => begun.insert(*step),
                    Event::Finished { .. } => true,
                    Event::Completed { step, outcome, .. } => {
                        let unpaid = unaffordable && is_unaffordable(outcome);
                        begun.contains(step) || *retried == Some(*step) || unpaid
                    }
                    Event::Attempted { step, .. } => begun.contains(step),
                    _ => false,
                };
                if is_void {
                    void.insert(Position(from.0 + offset as u64));
                }
            }
        }
        void
    }

    /// Steps begin in order; everything else is about those that have begun.
    fn entries(choices: &[(u8, u8, u8)]) -> Vec<Entry> {
        let mut last = 0;
        let events = choices.iter().enumerate().map(|(index, &(kind, step, from))| {
            let step = Step(u64::from(step) % (last + 1));
            match kind % 6 {
                0 | 1 => {
                    last += 1;
                    Event::Scheduled { step: Step(last), op: Vec::new().into() }
                }
                2 => {
                    let failure = Failure::new(FailureKind::BudgetExceeded, String::new());
                    let outcome = if from % 2 == 0 { Ok(crate::Json::null()) } else { Err(failure) };
                    Event::Completed { step, outcome: outcome.into(), timing: None }
                }
                3 => Event::Attempted { step, attempt: 2, after: None },
                4 => Event::Finished { outcome: Ok(crate::Json::null()).into(), stopped: false },
                _ => Event::Retried {
                    from: Position(u64::from(from) % (index as u64 + 2)),
                    step: (from % 3 > 0).then_some(step),
                    emissions: 0,
                },
            }
        });
        events.map(|event| Entry { at: Timestamp(1), event, behind_ms: None }).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn one_look_finds_what_is_void(choices in prop::collection::vec(any::<(u8, u8, u8)>(), 0..40)) {
            let entries = entries(&choices);
            prop_assert_eq!(Void::of(&entries).entries, by_definition(&entries));
        }
    }
}
