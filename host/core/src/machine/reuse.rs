//! Answers of another run for steps that ask for the same.

use std::collections::{HashMap, VecDeque};

use super::retry::Void;
use crate::entry::{Event, Origin, Recorded, Started};
use crate::journal::Journal;
use crate::{Digest, Json, Op, Position, Reply, Step, decode_op};

/// What a run was answered, by what it asked for: the n-th step that asks for
/// something takes the answer of the n-th that did.
#[derive(Debug, Default)]
pub struct Reuse {
    /// Whether the run takes answers at all, so that its steps are counted.
    on: bool,
    counts: HashMap<Digest, usize>,
    /// None for those that were not answered well.
    answers: HashMap<Digest, Vec<Option<Json>>>,
}

impl Reuse {
    pub(super) fn new(started: &Started) -> Self {
        let on = matches!(started.origin, Some(Origin::Reused { .. }));
        Self { on, ..Self::default() }
    }

    /// A step was asked for.
    pub(super) fn count(&mut self, op: &[u8]) {
        if self.on {
            *self.counts.entry(Digest::of(op)).or_default() += 1;
        }
    }

    /// The answer for the next step that asks for this, if there is one.
    pub(super) fn answer(&self, op: &[u8]) -> Option<Json> {
        if self.answers.is_empty() {
            return None;
        }
        let op = Digest::of(op);
        let occurrence = self.counts.get(&op).copied().unwrap_or(0);
        self.answers.get(&op)?.get(occurrence).cloned().flatten()
    }

    /// Takes in what a run was answered.
    pub(super) fn read(&mut self, journal: &Journal) {
        if !self.on {
            return;
        }
        let void = Void::of(&journal.entries);
        let mut asked: HashMap<Step, Asked> = HashMap::new();
        let mut signals: HashMap<String, Queue> = HashMap::new();
        for (index, entry) in journal.entries.iter().enumerate() {
            let position = Position(index as u64);
            if void.has(position) {
                continue;
            }
            match &entry.event {
                Event::Scheduled { step, op } => {
                    let digest = Digest::of(op);
                    let answers = self.answers.entry(digest).or_default();
                    let op = decode_op(op, position).ok();
                    let is_call = matches!(op, Some(Op::Agent(_)));
                    let occurrence = answers.len();
                    answers.push(None);
                    let signal = match op {
                        Some(Op::Signal { name, .. }) => Some(name),
                        _ => None,
                    };
                    asked.insert(*step, Asked { digest, occurrence, is_call, signal: signal.clone() });
                    if let Some(name) = signal {
                        let queue = signals.entry(name).or_default();
                        match queue.early.pop_front() {
                            Some(payload) => self.answered(asked.get(step), &payload),
                            None => queue.waits.push_back(*step),
                        }
                    }
                }
                Event::Received { name, payload, .. } => {
                    let queue = signals.entry(name.clone()).or_default();
                    match queue.waits.pop_front() {
                        Some(step) => self.answered(asked.get(&step), payload),
                        None => queue.early.push_back(payload.clone()),
                    }
                }
                event if let Some((step, outcome)) = event.ended_step() => {
                    for queue in signals.values_mut() {
                        queue.waits.retain(|wait| *wait != step);
                    }
                    if let Recorded::Ok(json) = outcome {
                        self.answered(asked.get(&step), json);
                    }
                }
                Event::Returned { step } => {
                    let place = asked.get(step).and_then(|asked| self.place(asked));
                    let payload = place.and_then(Option::take);
                    let name = asked.get(step).and_then(|asked| asked.signal.clone());
                    if let (Some(payload), Some(name)) = (payload, name) {
                        let queue = signals.entry(name).or_default();
                        match queue.waits.pop_front() {
                            Some(wait) => self.answered(asked.get(&wait), &payload),
                            None => queue.early.push_front(payload),
                        }
                    }
                }
                Event::Cancelled { step } => {
                    for queue in signals.values_mut() {
                        queue.waits.retain(|wait| wait != step);
                    }
                }
                Event::CancelRequested { .. } => signals.values_mut().for_each(|queue| queue.waits.clear()),
                _ => {}
            }
        }
    }

    fn answered(&mut self, asked: Option<&Asked>, json: &Json) {
        let Some(asked) = asked else { return };
        if let Some(place) = self.place(asked) {
            *place = Some(if asked.is_call { free(json) } else { json.clone() });
        }
    }

    fn place(&mut self, asked: &Asked) -> Option<&mut Option<Json>> {
        self.answers.get_mut(&asked.digest)?.get_mut(asked.occurrence)
    }
}

/// What a step of that run asked for.
struct Asked {
    digest: Digest,
    occurrence: usize,
    is_call: bool,
    /// The name of the signal that it waits for, if it does.
    signal: Option<String>,
}

/// Signals and waits of one name that have not met.
#[derive(Default)]
struct Queue {
    early: VecDeque<Json>,
    waits: VecDeque<Step>,
}

/// The reply of a call as one that costs nothing and says that it was made before.
fn free(json: &Json) -> Json {
    let reply = serde_json::from_str::<Reply>(json.as_str());
    let free = reply.and_then(|reply| serde_json::to_value(Reply { usage: None, cached: true, ..reply }));
    free.map_or_else(|_| json.clone(), Json::from)
}
