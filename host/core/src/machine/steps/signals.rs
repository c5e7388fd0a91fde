//! Signals, and the waits for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::kind::Kind;
use super::{Done, SetId, State, Steps};
use crate::{Json, Position, Step, Timestamp};

/// Signals and waits of one name that have not met. One of the two is empty; a queue is dropped when both are.
#[derive(Debug, Default)]
pub(super) struct Queue {
    early: VecDeque<Json>,
    pub(super) waits: BTreeSet<Step>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.early.is_empty() && self.waits.is_empty()
    }
}

impl State {
    fn has_unread_signal(&self) -> bool {
        let signal = self.done.as_ref().is_some_and(|done| done.given().is_some());
        signal && !self.read && matches!(self.kind, Kind::Signal { .. })
    }
}

impl Steps {
    /// The first signal of that name that nothing waited for.
    pub(super) fn take_early(&mut self, name: &str) -> Option<Json> {
        let queue = self.signals.get_mut(name)?;
        let payload = queue.early.pop_front()?;
        if queue.is_empty() {
            self.signals.remove(name);
        }
        Some(payload)
    }

    /// Gives the signal to the wait that came first, or keeps it; before those
    /// that are kept already if it was `returned`.
    pub(in crate::machine) fn give(
        &mut self,
        name: String,
        payload: Json,
        position: Position,
        at: Timestamp,
        returned: bool,
    ) -> Option<(Step, Vec<(SetId, u64)>)> {
        let first = self.signals.get(&name).and_then(|queue| queue.waits.first().copied());
        let Some(step) = first else {
            let early = &mut self.signals.entry(name).or_default().early;
            match returned {
                true => early.push_front(payload),
                false => early.push_back(payload),
            }
            return None;
        };
        Some((step, self.close(step, Some(Done::new(position, at, Ok(payload))))))
    }

    /// The signal of a step that is dropped. Until then the program may see that it is done.
    pub(in crate::machine) fn return_signal(&self, step: Step) -> Result<(String, Json), String> {
        let taken = self.states.get(&step).and_then(|state| match (&state.kind, &state.done) {
            (Kind::Signal { name, .. }, Some(done)) => Some((name.clone(), done.given()?.clone())),
            _ => None,
        });
        taken.ok_or_else(|| format!("it returns the signal of step {step}, which has none"))
    }

    /// Whether the step was given a signal that the program does not know.
    pub(in crate::machine) fn has_unread_signal(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(State::has_unread_signal)
    }

    /// The signals that the program has not read: first those that were given to waits which it
    /// began, as they were given, then those that nothing waits for, of each name as they came.
    pub(in crate::machine) fn unread_signals(&self) -> Vec<(String, Json)> {
        let given = self.states.iter().filter(|(_, state)| state.has_unread_signal());
        let mut given: Vec<_> = given
            .filter_map(|(_, state)| match (&state.kind, &state.done) {
                (Kind::Signal { name, .. }, Some(done)) => Some((done.position, name, done.given()?)),
                _ => None,
            })
            .collect();
        given.sort_by_key(|(position, ..)| *position);
        let queues: BTreeMap<_, _> = self.signals.iter().collect();
        let early =
            queues.into_iter().flat_map(|(name, queue)| queue.early.iter().map(move |json| (name, json)));
        let all = given.into_iter().map(|(_, name, payload)| (name, payload)).chain(early);
        all.map(|(name, payload)| (name.clone(), payload.clone())).collect()
    }

    pub(in crate::machine) fn wanted_signals(&self) -> Vec<String> {
        let wanted = self.signals.iter().filter(|(_, queue)| !queue.waits.is_empty());
        let mut names: Vec<_> = wanted.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// The names of which signals are kept, or waits.
    #[cfg(test)]
    pub(in crate::machine) fn names_of_signals(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.signals.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}
