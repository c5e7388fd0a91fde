//! What has to hold whatever went wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use serde_json::Value;
use wfhost::store::{RunFilter, RunInfo, RunState, Store};
use wfhost_core::{Digest, Entry, Event, Journal, Op, Outcome, Position, RunId, Step, decode_op};

use super::outside::{Sent, Told, Wish};
use super::programs::{RETURNS, TRAPS, may_be_terminated};
use super::universe::{Committed, Crowd, Made, Universe};
use super::{RATE, SLOTS};

/// What is known of a simulation that has come to its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Ended {
    /// What the runs have to come to, as far as that is known.
    pub expected: BTreeMap<RunId, Option<Value>>,
    /// The states of the latest rounds when everything had come to rest, before those that were
    /// paused went on.
    pub rested: BTreeMap<RunId, RunState>,
    /// The versions of the program.
    pub digests: BTreeMap<u8, Digest>,
}

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
    /// Calls that were dropped without a reason.
    dropped: Vec<Made>,
    sent: Vec<Sent>,
    crowd: Crowd,
    ended: Ended,
    /// Whether clocks were set.
    clocks_jumped: bool,
    figures: [u64; 4],
}

impl History {
    pub async fn of(universe: &Universe, store: &dyn Store, ended: Ended) -> Self {
        let (mut runs, mut journals, mut heads) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let all = RunFilter { limit: 1_000, ..RunFilter::default() };
        for info in store.runs(all).await.unwrap() {
            let id = &info.id;
            let rows = store.journal(id, Position(0)).await.unwrap();
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
        let dropped = universe.dropped.lock().unwrap().clone();
        let sent = universe.sent.lock().unwrap().clone();
        let crowd = universe.crowd();
        Self { runs, journals, heads, calls, commits, dropped, sent, crowd, ended, clocks_jumped, figures }
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

    /// The runs whose result is known.
    fn expected(&self) -> impl Iterator<Item = (&RunId, &Value)> {
        self.ended.expected.iter().filter_map(|(run, expected)| Some((run, expected.as_ref()?)))
    }

    /// Those that have children.
    fn parents(&self) -> impl Iterator<Item = &RunId> {
        self.ended.expected.keys().filter(|run| run.as_str().starts_with('r'))
    }

    /// The rounds of a run, with their journals.
    fn rounds<'a>(&'a self, chain: &'a RunId) -> impl Iterator<Item = (&'a RunInfo, &'a [Entry])> {
        let mut next = Some(chain);
        std::iter::from_fn(move || {
            let info = self.runs.get(next?)?;
            next = info.links.next.as_ref();
            Some((info, self.journals.get(&info.id)?.as_deref().ok()?))
        })
    }

    fn was_cancelled(&self, chain: &RunId) -> bool {
        self.sent
            .iter()
            .any(|sent| sent.chain == *chain && sent.wish == Wish::Cancel && sent.told != Told::No)
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
    &WhatIsAcceptedIsTaken,
    &WhatIsReadIsReadOnce,
    &WhatIsRefusedIsNotTaken,
    &APauseHolds,
    &NoCallIsDropped,
    &LimitsHoldForAll,
    &OtherCodeHasToAgree,
    &WhoTerminatesIsToldTheTruth,
];

struct EveryRunEndsRight;

impl Property for EveryRunEndsRight {
    fn name(&self) -> &'static str {
        "every run ends with the right result"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for (run, expected) in history.expected() {
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
            if let Event::Completed { step, .. } | Event::Answered { step, .. } = &entry.event
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
                // It ends all that is open.
                Event::CancelRequested { .. } => deadlines.retain(|(of, _), _| *of != run),
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
        for run in history.parents() {
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
        let parents: BTreeSet<_> = history.parents().collect();
        let members = history.runs.values().filter(|info| parents.contains(&info.links.root)).count();
        if members != MEMBERS * parents.len() {
            return Err(format!("they have {members} members"));
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
        match told.count() == parents.len() {
            true => Ok(()),
            false => Err("a parent was not told, or told twice".to_owned()),
        }
    }

    fn spoil(&self, history: &mut History) {
        let child = history.runs.values().find(|info| info.parent.is_some()).map(|info| info.id.clone());
        history.runs.remove(&child.expect("there are children"));
    }
}

/// What a program asks its agents, which is what it has read.
fn prompts(entries: &[Entry]) -> impl Iterator<Item = String> {
    (0..).zip(entries).filter_map(|(at, entry)| match &entry.event {
        Event::Scheduled { op, .. } => match decode_op(op, Position(at)) {
            Ok(Op::Agent(request)) => Some(request.prompt),
            _ => None,
        },
        _ => None,
    })
}

fn has_signal(entries: &[Entry], text: &str) -> bool {
    let text = Value::from(text);
    entries
        .iter()
        .any(|entry| matches!(&entry.event, Event::Received { payload, .. } if payload.value() == text))
}

fn answer_to(entries: &[Entry], asked: Step) -> Option<Outcome> {
    entries.iter().find_map(|entry| match &entry.event {
        Event::Answered { step, outcome, .. } if *step == asked => Some(outcome.clone().into()),
        _ => None,
    })
}

fn is_cancelled(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry.event, Event::CancelRequested { .. }))
}

struct WhatIsAcceptedIsTaken;

impl Property for WhatIsAcceptedIsTaken {
    fn name(&self) -> &'static str {
        "what was accepted is in the journal, and goes on to the next round until the program reads it"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for sent in history.sent.iter().filter(|sent| sent.told == Told::Yes) {
            let rounds: Vec<_> = history.rounds(&sent.chain).collect();
            let taken = match &sent.wish {
                Wish::Signal { text } => {
                    let from = rounds.iter().position(|(_, entries)| has_signal(entries, text));
                    let behind = from.map(|from| &rounds[from..]).unwrap_or_default();
                    let read = |(_, entries): &&(&RunInfo, &[Entry])| {
                        prompts(entries).any(|prompt| prompt.contains(text)) || is_cancelled(entries)
                    };
                    let unread: Vec<_> = behind.iter().take_while(|round| !read(round)).collect();
                    from.is_some() && unread.iter().all(|(_, entries)| has_signal(entries, text))
                }
                Wish::Answer { step, text, prompt } => rounds.iter().any(|(info, entries)| {
                    let reads = || prompts(entries).any(|prompt| prompt.contains(text));
                    info.id == sent.run
                        && answer_to(entries, *step) == Some(Ok(Value::from(text.as_str()).into()))
                        && (prompt == "dropped" || is_cancelled(entries) || reads())
                }),
                Wish::Cancel => {
                    rounds.iter().skip_while(|(info, _)| info.id != sent.run).any(|(_, it)| is_cancelled(it))
                }
                Wish::Pause | Wish::Resume | Wish::Upgrade { .. } | Wish::Terminate { .. } => true,
            };
            if !taken {
                return Err(format!("{sent:?}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        for entries in history.journals.values_mut().filter_map(|journal| journal.as_mut().ok()) {
            entries.retain(|entry| !matches!(entry.event, Event::Answered { .. } | Event::Received { .. }));
        }
    }
}

struct WhatIsReadIsReadOnce;

impl Property for WhatIsReadIsReadOnce {
    fn name(&self) -> &'static str {
        "nothing that was sent is read twice"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for sent in &history.sent {
            let (Wish::Signal { text } | Wish::Answer { text, .. }) = &sent.wish else { continue };
            let rounds = history.rounds(&sent.chain).flat_map(|(_, entries)| prompts(entries));
            if rounds.filter(|prompt| prompt.contains(text)).count() > 1 {
                return Err(format!("{sent:?}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        for entries in history.journals.values_mut().filter_map(|journal| journal.as_mut().ok()) {
            let again = entries.clone();
            entries.extend(again);
        }
    }
}

struct WhatIsRefusedIsNotTaken;

impl Property for WhatIsRefusedIsNotTaken {
    fn name(&self) -> &'static str {
        "what was refused is in no journal"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for sent in history.sent.iter().filter(|sent| sent.told == Told::No) {
            let mut rounds = history.rounds(&sent.chain);
            let taken = match &sent.wish {
                Wish::Signal { text } => rounds.any(|(_, entries)| has_signal(entries, text)),
                Wish::Answer { step, text, .. } => rounds.any(|(info, entries)| {
                    let own = Some(Ok(Value::from(text.as_str()).into()));
                    info.id == sent.run && answer_to(entries, *step) == own
                }),
                _ => false,
            };
            if taken {
                return Err(format!("{sent:?}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        history.sent.iter_mut().for_each(|sent| sent.told = Told::No);
    }
}

struct APauseHolds;

impl Property for APauseHolds {
    fn name(&self) -> &'static str {
        "a run that was paused stays so until somebody goes on with it"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for (chain, state) in &history.ended.rested {
            let mut of = history.sent.iter().filter(|sent| sent.chain == *chain);
            let last = of.rfind(|sent| matches!(sent.wish, Wish::Pause | Wish::Resume));
            let paused = last.is_some_and(|last| last.wish == Wish::Pause && last.told == Told::Yes);
            // A request to stop goes before a pause.
            if paused && !history.was_cancelled(chain) && *state != RunState::Paused && !state.is_final() {
                return Err(format!("{chain} is {state:?}"));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        history.ended.rested.values_mut().for_each(|state| *state = RunState::Running);
    }
}

struct NoCallIsDropped;

impl Property for NoCallIsDropped {
    fn name(&self) -> &'static str {
        "nothing that is under way is dropped by a host that lives and has its lease"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let cancelled = |run: &RunId| {
            let journal = history.journals.get(run).and_then(|journal| journal.as_deref().ok());
            journal.is_some_and(is_cancelled)
        };
        let wanted = |run: &RunId| cancelled(run) || may_be_terminated(run);
        let lost = history.dropped.iter().find(|call| !wanted(&call.run));
        lost.map_or(Ok(()), |lost| Err(format!("{lost:?}")))
    }

    fn spoil(&self, history: &mut History) {
        let call = history.calls.iter().find(|call| call.run.as_str() == "p0").cloned();
        history.dropped.extend(call);
    }
}

struct LimitsHoldForAll;

impl Property for LimitsHoldForAll {
    fn name(&self) -> &'static str {
        "what is limited for all hosts together is never more at once or faster, of hosts that live"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        /// A turn may be used so much later, and what is asked of the store in between takes time, too.
        const SLACK_MS: u64 = 5_000 + 2_000;
        let crowd = &history.crowd;
        if crowd.most > SLOTS as usize {
            return Err(format!("{} at once", crowd.most));
        }
        for (at, from) in crowd.began.iter().enumerate() {
            for (count, to) in (1..).zip(&crowd.began[at..]) {
                let most =
                    u64::from(RATE.burst) + (to.since(*from) + SLACK_MS) / (RATE.interval_us() / 1_000);
                if count > most {
                    return Err(format!("{count} of at most {most} from {from:?} to {to:?}"));
                }
            }
        }
        match crowd.began.is_empty() {
            true => Err("there were none".to_owned()),
            false => Ok(()),
        }
    }

    fn spoil(&self, history: &mut History) {
        let begin = history.crowd.began[0];
        history.crowd.began.iter_mut().for_each(|at| *at = begin);
    }
}

struct OtherCodeHasToAgree;

impl Property for OtherCodeHasToAgree {
    fn name(&self) -> &'static str {
        "a run is moved to code that agrees with its journal, and to no other"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        let bad = [TRAPS, RETURNS].map(|version| history.ended.digests[&version]);
        for (run, at, entry) in history.entries() {
            if matches!(&entry.event, Event::Moved { module } if bad.contains(module)) {
                return Err(format!("{run} was moved by entry {at}"));
            }
        }
        let moved = |sent: &&Sent| {
            matches!(&sent.wish, Wish::Upgrade { version: TRAPS | RETURNS }) && sent.told == Told::Yes
        };
        match history.sent.iter().find(moved) {
            Some(sent) => Err(format!("{sent:?}")),
            None => Ok(()),
        }
    }

    fn spoil(&self, history: &mut History) {
        let module = history.ended.digests[&TRAPS];
        let journal = history.journals.values_mut().find_map(|journal| journal.as_mut().ok());
        let entries = journal.expect("there are journals");
        let moved = Entry { event: Event::Moved { module }, ..entries[0].clone() };
        entries.push(moved);
    }
}

struct WhoTerminatesIsToldTheTruth;

impl Property for WhoTerminatesIsToldTheTruth {
    fn name(&self) -> &'static str {
        "whoever terminates a run is told that it is done, by him and nobody else, or that it had ended"
    }

    fn check(&self, history: &History) -> Result<(), String> {
        for sent in &history.sent {
            let Wish::Terminate { text } = &sent.wish else { continue };
            let info = &history.runs[&sent.run];
            let by_him = matches!(&info.outcome, Some(Err(failure)) if failure.message.contains(text));
            let fits = match sent.told {
                Told::Yes => info.state == RunState::Cancelled && by_him,
                Told::No => !by_him,
                Told::Beaten => false,
                Told::Unknown => true,
            };
            if !fits {
                return Err(format!("{sent:?}: {:?}", info.outcome));
            }
        }
        Ok(())
    }

    fn spoil(&self, history: &mut History) {
        let (run, told) = ("t0".parse::<RunId>().expect("an id"), Told::Beaten);
        let wish = Wish::Terminate { text: "no. 0.".to_owned() };
        history.sent.push(Sent { chain: run.clone(), run, wish, told });
    }
}
