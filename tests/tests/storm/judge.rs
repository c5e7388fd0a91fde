//! What has to hold after a storm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use wfhost::store::{RunFilter, RunInfo, SharedStore, SqliteOptions, SqliteStore};
use wfhost_core::{Entry, Event, Journal, Op, Outcome, Position, RunId, decode_op};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_tests::Place;

use super::fleet::{Call, Lives};
use super::outside::{Sent, Told, Wish};
use super::programs::{self, LAST};

/// What came out of a storm.
#[derive(Debug, Default)]
pub struct Judged {
    pub runs: usize,
    pub calls: usize,
    /// How many of the calls were not the first of their step.
    pub again: usize,
    pub faults: Vec<String>,
}

type Runs = BTreeMap<RunId, (RunInfo, Vec<Entry>)>;

pub fn judge(place: &Place, lives: &Lives<'_>, begun: &BTreeSet<String>, sent: &[Sent]) -> Judged {
    let mut judged = Judged::default();
    let runs = read(place, &mut judged.faults);
    judged.runs = runs.len();
    results(&runs, begun, &mut judged.faults);
    for sent in sent {
        if let Err(why) = kept(&runs, sent) {
            judged.faults.push(format!("{why}: {sent:?}"));
        }
    }
    calls(&runs, lives, &mut judged);
    judged
}

fn read(place: &Place, faults: &mut Vec<String>) -> Runs {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store: SharedStore = match place.on_a_server() {
            true => {
                let store = PostgresStore::open(&place.database(), &PostgresOptions::default()).await;
                Arc::new(store.expect("the database"))
            }
            false => {
                let store = SqliteStore::open(&place.db(), &SqliteOptions::default());
                Arc::new(store.expect("the database"))
            }
        };
        let mut runs = Runs::new();
        let all = RunFilter { limit: usize::MAX >> 1, ..RunFilter::default() };
        for info in store.runs(all).await.expect("the runs") {
            let rows = store.journal(&info.id, Position(0)).await.expect("a journal");
            match Journal::read(rows) {
                Ok(journal) => {
                    runs.insert(info.id.clone(), (info, journal.entries));
                }
                Err(error) => faults.push(format!("{}: {error}", info.id)),
            }
        }
        runs
    })
}

/// Runs that were begun are there, have ended, and with what they have to come to.
fn results(runs: &Runs, begun: &BTreeSet<String>, faults: &mut Vec<String>) {
    for (info, _) in runs.values().filter(|(info, _)| !info.state.is_final()) {
        faults.push(format!("{} is {:?}, {:?}", info.id, info.state, info.trouble));
    }
    for id in begun {
        let Some((info, _)) = runs.get(&id.parse::<RunId>().expect("an id")) else {
            faults.push(format!("{id} is not there"));
            continue;
        };
        let result = info.outcome.as_ref().and_then(|outcome| outcome.as_ref().ok()).map(|json| json.value());
        if let Some(expected) = programs::results(id)
            && !result.as_ref().is_some_and(|result| expected.contains(result))
        {
            faults.push(format!("{id} is {:?} with {:?}", info.state, info.outcome));
        }
    }
}

/// The rounds of a run, the first one first.
fn rounds<'a>(runs: &'a Runs, chain: &str) -> Vec<&'a (RunInfo, Vec<Entry>)> {
    let first = chain.parse().ok();
    let next = |round: &&(RunInfo, Vec<Entry>)| round.0.links.next.as_ref().and_then(|next| runs.get(next));
    std::iter::successors(first.and_then(|first| runs.get(&first)), next).collect()
}

fn ops(entries: &[Entry]) -> impl Iterator<Item = (u64, Op)> {
    (0..).zip(entries).filter_map(|(at, entry)| match &entry.event {
        Event::Scheduled { step, op } => Some((step.0, decode_op(op, Position(at)).ok()?)),
        _ => None,
    })
}

/// How often the program has asked an agent about a text, which is how it reads it.
fn reads(entries: &[Entry], text: &str) -> usize {
    ops(entries).filter(|(_, op)| matches!(op, Op::Agent(request) if request.prompt.contains(text))).count()
}

fn has_signal(entries: &[Entry], text: &str) -> bool {
    let own =
        |entry: &Entry| matches!(&entry.event, Event::Received { payload, .. } if payload.value() == text);
    entries.iter().any(own)
}

fn has_answer(entries: &[Entry], asked: u64, text: &str) -> bool {
    entries.iter().any(|entry| match &entry.event {
        Event::Answered { step, outcome, .. } => {
            step.0 == asked && Outcome::from(outcome.clone()) == Ok(json!(text).into())
        }
        _ => false,
    })
}

fn is_cancelled(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry.event, Event::CancelRequested { .. }))
}

/// What was accepted is in a journal and was read once, if the program came to that, or handed to
/// each round after it; what was refused is in none.
fn kept(runs: &Runs, sent: &Sent) -> Result<(), &'static str> {
    let rounds = rounds(runs, &sent.chain);
    let text = &sent.text;
    let has = |(info, entries): &(RunInfo, Vec<Entry>)| match sent.wish {
        Wish::Signal => has_signal(entries, text),
        Wish::Answer { step } => info.id.as_str() == sent.run && has_answer(entries, step, text),
        _ => false,
    };
    let first = rounds.iter().position(|round| has(round));
    if rounds.iter().map(|(_, entries)| reads(entries, text)).sum::<usize>() > 1 {
        return Err("read twice");
    }
    match (sent.told, &sent.wish) {
        (Told::No, Wish::Signal | Wish::Answer { .. }) if first.is_some() => Err("refused and taken"),
        (Told::Yes, Wish::Signal | Wish::Answer { .. }) => {
            let behind = &rounds[first.ok_or("accepted and lost")?..];
            match sent.wish {
                Wish::Answer { step } => {
                    let entries = &behind[0].1;
                    let last = |(of, op): (u64, Op)| matches!(op, Op::Ask { question, .. } if of == step && question.prompt == LAST);
                    let read = reads(entries, text) == 1 || is_cancelled(entries) || ops(entries).any(last);
                    read.then_some(()).ok_or("an answer that was not read")
                }
                _ => {
                    let read =
                        |round: &&&(RunInfo, Vec<Entry>)| reads(&round.1, text) > 0 || is_cancelled(&round.1);
                    let mut unread = behind.iter().take_while(|round| !read(round));
                    unread.all(|round| has(round)).then_some(()).ok_or("not handed to the next round")
                }
            }
        }
        (Told::Yes, Wish::Cancel) => {
            let mut from = rounds.iter().skip_while(|(info, _)| info.id.as_str() != sent.run);
            from.any(|(_, entries)| is_cancelled(entries)).then_some(()).ok_or("stopped in vain")
        }
        _ => Ok(()),
    }
}

/// Each call is that of a step, and of an attempt that was committed before; each that was made
/// again follows something that befell a process.
fn calls(runs: &Runs, lives: &Lives<'_>, judged: &mut Judged) {
    let mut steps: BTreeMap<(RunId, u64), Vec<Call>> = BTreeMap::new();
    for call in lives.calls() {
        judged.calls += 1;
        steps.entry((call.run.parse().expect("an id"), call.step)).or_default().push(call);
    }
    for ((run, step), mut calls) in steps {
        let Some((_, entries)) = runs.get(&run) else {
            judged.faults.push(format!("{run} has made calls and is not there"));
            continue;
        };
        calls.sort_by_key(|call| call.attempt);
        // What no journal says was called all the same; or after the step had ended.
        let mut committed = BTreeSet::new();
        let (mut ended, mut late) = (false, false);
        for entry in entries {
            match &entry.event {
                Event::Scheduled { step: of, .. } if of.0 == step => committed.extend([1]),
                Event::Attempted { step: of, attempt, .. } if of.0 == step => {
                    late |= ended;
                    committed.extend([u64::from(*attempt)]);
                }
                Event::Cancelled { step: of } if of.0 == step => ended = true,
                event => ended |= event.ended_step().is_some_and(|(of, _)| of.0 == step),
            }
        }
        if late || calls.iter().any(|call| !committed.contains(&call.attempt)) {
            judged
                .faults
                .push(format!("called without a reason in the journal, which has {committed:?}: {calls:?}"));
        }
        for pair in calls.windows(2) {
            judged.again += 1;
            if pair[0].attempt == pair[1].attempt {
                judged.faults.push(format!("one attempt made twice: {pair:?}"));
            } else if !lives.explain(&pair[0], &pair[1]) {
                judged.faults.push(format!("called again for no reason: {pair:?}"));
            }
        }
    }
}
