//! What has to hold whatever went wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use serde_json::Value;
use wfhost::store::{Journals, RunFilter, RunInfo, RunState, Views};
use wfhost_core::{Digest, Entry, Event, Journal, Op, Position, RunId, Step, decode_op};

use super::universe::{Committed, Made, Universe};

/// What happened in one simulation.
#[derive(Clone, PartialEq, Debug)]
pub struct History {
    runs: BTreeMap<RunId, RunInfo>,
    /// As the store has them at the end; an error as text.
    journals: BTreeMap<RunId, Result<Vec<Entry>, String>>,
    /// The heads of the rows in the store.
    heads: BTreeSet<Digest>,
    calls: Vec<Made>,
    commits: Vec<Committed>,
    expected: BTreeMap<RunId, Value>,
    /// Whether clocks were set.
    clocks_jumped: bool,
    figures: [u64; 4],
}

impl History {
    pub async fn of(universe: &Universe, expected: BTreeMap<RunId, Value>) -> Self {
        let (mut runs, mut journals, mut heads) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let all = RunFilter { limit: 1_000, ..RunFilter::default() };
        for info in universe.memory.runs(all).await.unwrap() {
            let id = &info.id;
            let rows = universe.memory.journal(id, Position(0)).await.unwrap();
            heads.extend(rows.iter().map(|row| row.head));
            let journal =
                Journal::read(rows).map(|journal| journal.entries).map_err(|error| error.to_string());
            journals.insert(id.clone(), journal);
            runs.insert(id.clone(), info);
        }
        let calls = universe.calls.lock().unwrap().clone();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let figures =
            [count(&universe.deaths), count(&universe.stalls), count(&universe.faults), calls.len() as u64];
        let commits = universe.commits.lock().unwrap().clone();
        let clocks_jumped = universe.clocks_jump;
        Self { runs, journals, heads, calls, commits, expected, clocks_jumped, figures }
    }

    /// Deaths, stops, faults of the store, calls.
    pub fn figures(&self) -> [u64; 4] {
        self.figures
    }

    /// Panics where another one differs first.
    #[track_caller]
    pub fn expect_same(&self, other: &Self) {
        assert_eq!(self.figures, other.figures);
        for (n, (one, two)) in self.commits.iter().zip(&other.commits).enumerate() {
            assert_eq!(one, two, "commit {n}");
        }
        for (n, (one, two)) in self.calls.iter().zip(&other.calls).enumerate() {
            assert_eq!(one, two, "call {n}");
        }
        for (run, one) in &self.journals {
            assert_eq!(Some(one), other.journals.get(run), "the journal of {run}");
        }
        assert_eq!(self, other);
    }

    fn entries(&self) -> impl Iterator<Item = (&RunId, usize, &Entry)> {
        let journals = self.journals.iter().filter_map(|(run, journal)| Some((run, journal.as_ref().ok()?)));
        journals
            .flat_map(|(run, entries)| entries.iter().enumerate().map(move |(at, entry)| (run, at, entry)))
    }
}

pub trait Property: Sync {
    fn name(&self) -> &'static str;
    fn check(&self, history: &History) -> Result<(), String>;
    /// Makes a good history a bad one.
    fn spoil(&self, history: &mut History);
}

pub const PROPERTIES: &[&dyn Property] = &[
    &EveryRunEndsRight,
    &JournalsAreWhole,
    &NothingCommittedIsLost,
    &AStepIsCompletedOnce,
    &NoCallAfterItsAnswer,
    &AnAttemptIsMadeOnce,
    &NoTimerIsEarly,
    &ASignalArrivesOnce,
    &FamiliesAreWhole,
];

struct EveryRunEndsRight;

impl Property for EveryRunEndsRight {
    fn name(&self) -> &'static str {
        "every run ends with the right result"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for (run, expected) in &history.expected {
            let Some(info) = history.runs.get(run) else { return Err(format!("{run} vanished")) };
            let result =
                info.outcome.as_ref().and_then(|outcome| outcome.as_ref().ok()).map(|json| json.value());
            if info.state != RunState::Completed || result.as_ref() != Some(expected) {
                return Err(format!("{run} is {:?} with {:?}, {:?}", info.state, info.outcome, info.trouble));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        history.runs.values_mut().for_each(|info| info.state = RunState::Waiting);
    }
}

struct JournalsAreWhole;

impl Property for JournalsAreWhole {
    fn name(&self) -> &'static str {
        "every journal can be read, with its chain"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        history.journals.iter().try_for_each(|(run, journal)| match journal {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{run}: {error}")),
        })
    }

    fn spoil(&self, history: &mut History) {
        history.journals.values_mut().for_each(|journal| *journal = Err("spoilt".to_owned()));
    }
}

struct NothingCommittedIsLost;

impl Property for NothingCommittedIsLost {
    fn name(&self) -> &'static str {
        "whatever was committed is in the journal at the end"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let lost = history.commits.iter().find(|committed| !history.heads.contains(&committed.head));
        lost.map_or(Ok(()), |lost| Err(format!("{lost:?}")))
    }

    fn spoil(&self, history: &mut History) {
        history.heads.clear();
    }
}

struct AStepIsCompletedOnce;

impl Property for AStepIsCompletedOnce {
    fn name(&self) -> &'static str {
        "no step is completed twice"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for (run, at, entry) in history.entries() {
            if let Event::Completed { step, .. } = &entry.event
                && !seen.insert((run, *step))
            {
                return Err(format!("step {step} of {run}, the second time at entry {at}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        for entries in history.journals.values_mut().filter_map(|journal| journal.as_mut().ok()) {
            let all = entries.clone();
            entries.extend(all);
        }
    }
}

struct NoCallAfterItsAnswer;

impl Property for NoCallAfterItsAnswer {
    fn name(&self) -> &'static str {
        "nothing is called whose answer is in the journal"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let answered: BTreeMap<(&RunId, Step), u64> = history
            .commits
            .iter()
            .flat_map(|commit| commit.completes.iter().map(|step| ((&commit.run, *step), commit.place)))
            .collect();
        if history.clocks_jumped {
            // Who is ahead of all others may take a run from somebody who is about to call.
            return Ok(());
        }
        let late = history.calls.iter().find(|call| {
            answered.get(&(&call.run, call.step)).is_some_and(|answered| call.place > *answered)
        });
        late.map_or(Ok(()), |late| Err(format!("{late:?}")))
    }

    fn spoil(&self, history: &mut History) {
        history.clocks_jumped = false;
        history.calls.iter_mut().for_each(|call| call.place += 1_000_000);
    }
}

struct AnAttemptIsMadeOnce;

impl Property for AnAttemptIsMadeOnce {
    fn name(&self) -> &'static str {
        "no attempt is made twice, and all have the key of their step"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let (mut seen, mut keys) = (BTreeSet::new(), BTreeMap::new());
        for call in &history.calls {
            let key = keys.entry((&call.run, call.step)).or_insert(&call.key);
            if !seen.insert((&call.run, call.step, call.attempt)) || **key != call.key {
                return Err(format!("{call:?}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        let again = history.calls[0].clone();
        history.calls.push(again);
    }
}

struct NoTimerIsEarly;

impl Property for NoTimerIsEarly {
    fn name(&self) -> &'static str {
        "no sleep ends before its time"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let mut deadlines = BTreeMap::new();
        // What the clocks showed that passed in each run; setting them back is no time.
        let mut clocks = BTreeMap::new();
        for (run, at, entry) in history.entries() {
            let (last, passed) = clocks.entry(run).or_insert((entry.clock(), 0));
            *passed += entry.clock().since(*last);
            *last = entry.clock();
            match &entry.event {
                Event::Scheduled { step, op } => {
                    if let Ok(Op::Sleep { length_ms }) = decode_op(op, Position(at as u64)) {
                        deadlines.insert((run, *step), *passed + length_ms);
                    }
                }
                Event::Completed { step, .. } => {
                    if let Some(deadline) =
                        deadlines.get(&(run, *step)).filter(|deadline| **deadline > *passed)
                    {
                        return Err(format!("step {step} of {run} after {passed} ms, not {deadline} ms"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        for entries in history.journals.values_mut().filter_map(|journal| journal.as_mut().ok()) {
            let begin = entries[0].at;
            entries.iter_mut().for_each(|entry| (entry.at, entry.behind_ms) = (begin, None));
        }
    }
}

struct ASignalArrivesOnce;

impl Property for ASignalArrivesOnce {
    fn name(&self) -> &'static str {
        "a signal that is sent several times arrives once"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for run in history.expected.keys() {
            let received = history
                .entries()
                .filter(|(of, _, entry)| *of == run && matches!(entry.event, Event::Received { .. }));
            let count = received.count();
            if count != 1 {
                return Err(format!("{run} has received {count}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        for entries in history.journals.values_mut().filter_map(|journal| journal.as_mut().ok()) {
            entries.retain(|entry| !matches!(entry.event, Event::Received { .. }));
        }
    }
}

struct FamiliesAreWhole;

impl Property for FamiliesAreWhole {
    fn name(&self) -> &'static str {
        "each child that was asked for began once and ended, and what it ended with is what its parent got"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        // One child of two rounds and one that is dropped.
        const MEMBERS: usize = 4;
        if history.runs.len() != MEMBERS * history.expected.len() {
            return Err(format!("there are {} runs", history.runs.len()));
        }
        if let Some(open) = history.runs.values().find(|info| !info.state.is_final()) {
            return Err(format!("{} is still {:?}", open.id, open.state));
        }
        for (run, at, entry) in history.entries() {
            if let Event::ChildEnded(ended) = &entry.event {
                let (child, outcome) = (&ended.run, &ended.outcome);
                let ended = history.runs.get(child).and_then(|info| info.outcome.clone());
                if ended != Some(outcome.clone().into()) {
                    return Err(format!("entry {at} of {run} says of {child} what is not so: {ended:?}"));
                }
            }
        }
        let told = history.entries().filter(|(.., entry)| matches!(entry.event, Event::ChildEnded(_)));
        match told.count() == history.expected.len() {
            true => Ok(()),
            false => Err("a parent was not told, or told twice".to_owned()),
        }
    }

    fn spoil(&self, history: &mut History) {
        let child = history.runs.keys().find(|run| run.as_str().ends_with("-2")).cloned();
        history.runs.remove(&child.expect("there are second rounds"));
    }
}
