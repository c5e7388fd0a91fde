//! The machine again, slow and obvious: it keeps nothing but the journal and what the program has
//! asked for, and computes everything else anew, from the whole journal, whenever it is asked.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::program::Subject;
use crate::entry::encode_op;
use crate::machine::*;

/// A program over a journal that is not added to.
pub(super) struct Model {
    /// All of them, those included that a retry made void.
    entries: Vec<Entry>,
    /// How many of the entries that the program originated it has come to again.
    matched: usize,
    observed: Position,
    /// What the program holds, with what it knows the outcome of.
    held: BTreeMap<Step, bool>,
    patches: BTreeMap<String, bool>,
    sets: BTreeMap<u32, BTreeMap<u64, Step>>,
    sets_made: u32,
    drawn: usize,
}

/// How steps stand after some entries.
#[derive(Default)]
struct State {
    open: BTreeMap<Step, Op>,
    done: BTreeMap<Step, (Position, Outcome)>,
    /// Signals that nobody waited for, by name.
    early: BTreeMap<String, VecDeque<Json>>,
}

impl State {
    fn close(&mut self, step: Step, position: Position, outcome: Outcome) {
        self.open.remove(&step);
        self.done.insert(step, (position, outcome));
    }

    fn give(&mut self, name: &str, payload: Json, position: Position, front: bool) {
        let waits = |op: &Op| matches!(op, Op::Signal { name: wanted, .. } if wanted == name);
        let first = self.open.iter().find(|(_, op)| waits(op)).map(|(step, _)| *step);
        match first {
            Some(step) => self.close(step, position, Ok(payload)),
            None if front => self.early.entry(name.to_owned()).or_default().push_front(payload),
            None => self.early.entry(name.to_owned()).or_default().push_back(payload),
        }
    }
}

impl Model {
    pub fn of(journal: Journal) -> Self {
        Self {
            entries: journal.entries,
            matched: 0,
            observed: Position(0),
            held: BTreeMap::new(),
            patches: BTreeMap::new(),
            sets: BTreeMap::new(),
            sets_made: 0,
            drawn: 0,
        }
    }

    /// The entries that count, with their positions.
    fn standing(&self) -> Vec<(Position, &Entry)> {
        let mut void = HashSet::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let Event::Retried { from, step: retried, .. } = &entry.event else { continue };
            let range = from.0 as usize..index;
            let begun: HashSet<Step> = self.entries[range.clone()]
                .iter()
                .filter_map(|entry| match &entry.event {
                    Event::Scheduled { step, .. } => Some(*step),
                    _ => None,
                })
                .collect();
            void.extend(range.filter(|&index| {
                match &self.entries[index].event {
                    Event::Scheduled { .. }
                    | Event::Cancelled { .. }
                    | Event::Returned { .. }
                    | Event::Patched { .. }
                    | Event::Finished { .. }
                    | Event::CancelRequested { .. } => true,
                    Event::Attempted { step, .. } => begun.contains(step),
                    event => event
                        .ended_step()
                        .is_some_and(|(step, _)| begun.contains(&step) || *retried == Some(step)),
                }
            }));
        }
        let numbered = self.entries.iter().enumerate().filter(|(index, _)| !void.contains(index));
        numbered.map(|(index, entry)| (Position(index as u64), entry)).collect()
    }

    /// The next entry that the program originated the last time and has not come to.
    fn next(&self) -> Option<(Position, Event)> {
        let originated = self.standing().into_iter().filter(|(_, entry)| {
            matches!(
                entry.event,
                Event::Scheduled { .. }
                    | Event::Cancelled { .. }
                    | Event::Returned { .. }
                    | Event::Patched { .. }
                    | Event::Finished { .. }
            )
        });
        originated.map(|(position, entry)| (position, entry.event.clone())).nth(self.matched)
    }

    fn matches(&mut self, position: Position) {
        self.matched += 1;
        self.observe(position);
    }

    fn observe(&mut self, position: Position) {
        self.observed = self.observed.max(position);
    }

    /// How all steps stand at the end of the journal.
    fn state(&self) -> State {
        let mut state = State::default();
        for (position, entry) in self.standing() {
            match &entry.event {
                Event::Scheduled { step, op } => {
                    let op = decode_op(op, position).unwrap();
                    let early = match &op {
                        Op::Signal { name, .. } => state.early.get_mut(name).and_then(VecDeque::pop_front),
                        _ => None,
                    };
                    state.open.insert(*step, op);
                    if let Some(payload) = early {
                        state.close(*step, position, Ok(payload));
                    }
                }
                Event::Cancelled { step } => {
                    state.open.remove(step);
                }
                Event::Received { name, payload, .. } => state.give(name, payload.clone(), position, false),
                Event::Returned { step } => {
                    let Some((_, Ok(payload))) = state.done.get(step).cloned() else { panic!("no signal") };
                    let name = self.signal_name(*step);
                    state.give(&name, payload, position, true);
                }
                Event::CancelRequested { .. } => {
                    let failure =
                        Failure::new(FailureKind::Cancelled, "the run was asked to stop".to_owned());
                    let open: Vec<_> = state.open.keys().copied().collect();
                    for step in open {
                        state.close(step, position, Err(failure.clone()));
                    }
                }
                event => {
                    if let Some((step, outcome)) = event.ended_step() {
                        state.close(step, position, outcome.clone().into());
                    }
                }
            }
        }
        state
    }

    fn signal_name(&self, asked: Step) -> String {
        let name = self.entries.iter().find_map(|entry| match &entry.event {
            Event::Scheduled { step, op } if *step == asked => match decode_op(op, Position(0)) {
                Ok(Op::Signal { name, .. }) => Some(name),
                _ => None,
            },
            _ => None,
        });
        name.expect("a wait")
    }

    /// When the step was done, if that is before the next entry that the program originated.
    fn done(&self, step: Step) -> Option<(Position, Outcome)> {
        let ahead = |position: Position| self.next().is_some_and(|(next, _)| next < position);
        self.state().done.get(&step).filter(|(position, _)| !ahead(*position)).cloned()
    }
}

impl Subject for Model {
    fn machine(&mut self) -> Option<&mut Machine> {
        None
    }

    fn schedule(&mut self, op: &Op, _clock: Timestamp) -> Result<Step, Stop> {
        match self.next() {
            Some((position, Event::Scheduled { step, op: recorded })) => {
                assert_eq!(recorded.as_slice(), encode_op(op), "the same is asked for");
                self.matches(position);
                self.held.insert(step, false);
                Ok(step)
            }
            next => panic!("the program asks for a step, the journal has {next:?}"),
        }
    }

    fn poll_step(&mut self, step: Step) -> Result<Option<Outcome>, Stop> {
        let Some((position, outcome)) = self.done(step) else { return Ok(None) };
        self.observe(position);
        *self.held.get_mut(&step).expect("the step is held") = true;
        Ok(Some(outcome))
    }

    fn poll_any(&mut self, steps: &[Step]) -> Result<Option<usize>, Stop> {
        let done = steps.iter().enumerate().filter_map(|(index, step)| Some((self.done(*step)?.0, index)));
        let Some((position, index)) = done.min() else { return Ok(None) };
        self.observe(position);
        Ok(Some(index))
    }

    fn drop_step(&mut self, step: Step, _clock: Timestamp) -> Result<(), Stop> {
        match self.next() {
            Some((position, Event::Cancelled { step: dropped } | Event::Returned { step: dropped }))
                if dropped == step =>
            {
                self.matches(position);
            }
            _ => {
                let (position, _) = self.done(step).expect("a step that is dropped was done");
                self.observe(position);
            }
        }
        self.held.remove(&step);
        for set in self.sets.values_mut() {
            set.retain(|_, member| *member != step);
        }
        Ok(())
    }

    fn set_new(&mut self) -> SetId {
        self.sets_made += 1;
        self.sets.insert(self.sets_made, BTreeMap::new());
        SetId(self.sets_made)
    }

    fn set_add(&mut self, set: SetId, step: Step, tag: u64) -> Result<(), Stop> {
        self.sets.get_mut(&set.0).expect("a set").insert(tag, step);
        Ok(())
    }

    fn set_remove(&mut self, set: SetId, tag: u64) {
        self.sets.get_mut(&set.0).expect("a set").remove(&tag);
    }

    fn set_drop(&mut self, set: SetId) {
        self.sets.remove(&set.0);
    }

    fn poll_set(&mut self, set: SetId) -> Result<Option<u64>, Stop> {
        let members = &self.sets[&set.0];
        let done = members.iter().filter_map(|(tag, step)| Some((self.done(*step)?.0, *tag)));
        let Some((position, tag)) = done.min() else { return Ok(None) };
        self.observe(position);
        self.sets.get_mut(&set.0).expect("a set").remove(&tag);
        Ok(Some(tag))
    }

    fn patched(&mut self, id: &str, _clock: Timestamp) -> Result<bool, Stop> {
        if let Some(known) = self.patches.get(id) {
            return Ok(*known);
        }
        let new_way = match self.next() {
            Some((position, Event::Patched { id: recorded })) if recorded == id => {
                self.matches(position);
                true
            }
            _ => false,
        };
        self.patches.insert(id.to_owned(), new_way);
        Ok(new_way)
    }

    fn random(&mut self, bytes: &mut [u8]) {
        let Event::Started(started) = &self.entries[0].event else { panic!("a beginning") };
        let mut all = vec![0; self.drawn + bytes.len()];
        Random::new(&started.seed).fill(&mut all);
        bytes.copy_from_slice(&all[self.drawn..]);
        self.drawn = all.len();
    }

    fn give_out(&mut self, _gift: Gift) -> bool {
        false
    }

    fn finish(&mut self, outcome: Outcome, _clock: Timestamp) -> Result<(), Stop> {
        match self.next() {
            Some((position, Event::Finished { outcome: recorded, stopped: false })) => {
                assert_eq!(Outcome::from(recorded), outcome);
                self.matches(position);
                Ok(())
            }
            next => panic!("the program returns, the journal has {next:?}"),
        }
    }

    fn position(&self) -> Position {
        self.observed
    }

    fn look(&self) -> (Timestamp, Timestamp, bool, u64) {
        let seen = &self.entries[..=self.observed.0 as usize];
        let forked = seen.iter().rposition(|entry| matches!(entry.event, Event::Forked { .. }));
        let calls: BTreeSet<Step> = seen
            .iter()
            .filter_map(|entry| match &entry.event {
                Event::Scheduled { step, op } => {
                    matches!(decode_op(op, Position(0)), Ok(Op::Agent(_))).then_some(*step)
                }
                _ => None,
            })
            .collect();
        let tokens = seen[forked.unwrap_or(0)..].iter().filter_map(|entry| match &entry.event {
            Event::AttemptFailed(failed) => {
                failed.usage.map(|usage| usage.input_tokens + usage.output_tokens)
            }
            event => match event.ended_step() {
                Some((step, Recorded::Ok(json))) if calls.contains(&step) => {
                    let usage = json.value()["usage"].clone();
                    Some(usage["input_tokens"].as_u64()? + usage["output_tokens"].as_u64()?)
                }
                _ => None,
            },
        });
        let cancelled = self.standing().iter().any(|(position, entry)| {
            *position <= self.observed && matches!(entry.event, Event::CancelRequested { .. })
        });
        let tokens = tokens.sum();
        (seen[seen.len() - 1].at, seen[forked.unwrap_or(0)].at, cancelled, tokens)
    }
}
