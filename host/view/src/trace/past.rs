//! What a retry may take up again, and who waits for signals.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use wfhost_core::Step;

use super::tracer::Open;

/// Waits that got a signal, of which is known what it was called. One that was dropped before the program read it gives it
/// back, usually at once.
const GIVEN: usize = 256;

/// Who waits for signals, and how many came before anybody did.
#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    /// Of each name that is waited for. Who was begun first gets the first.
    waits: HashMap<Arc<str>, BTreeSet<Step>>,
    early: HashMap<Arc<str>, u64>,
    given: VecDeque<(Step, Arc<str>)>,
}

impl Mail {
    /// A step waits. True if a signal is there already.
    pub fn wait(&mut self, name: Arc<str>, step: Step) -> bool {
        match self.early.get_mut(&name) {
            Some(count) => {
                *count -= 1;
                if *count == 0 {
                    self.early.remove(&name);
                }
                self.remember(step, name);
                true
            }
            None => {
                self.waits.entry(name).or_default().insert(step);
                false
            }
        }
    }

    /// A signal is there: for that step, or until somebody waits for it.
    pub fn give(&mut self, name: Arc<str>) -> Option<Step> {
        let first = self.waits.get(&name).and_then(|waits| waits.first().copied());
        match first {
            Some(step) => {
                self.leave(&name, step);
                self.remember(step, name);
            }
            None => *self.early.entry(name).or_default() += 1,
        }
        first
    }

    /// A step waits no more.
    pub fn leave(&mut self, name: &Arc<str>, step: Step) {
        if let Some(waits) = self.waits.get_mut(name) {
            waits.remove(&step);
            if waits.is_empty() {
                self.waits.remove(name);
            }
        }
    }

    pub fn waits_for(&self, name: &Arc<str>, step: Step) -> bool {
        self.waits.get(name).is_some_and(|waits| waits.contains(&step))
    }

    fn remember(&mut self, step: Step, name: Arc<str>) {
        self.given.push_back((step, name));
        if self.given.len() > GIVEN {
            self.given.pop_front();
        }
    }

    /// What the signal is called that a step got and did not read. None if it got none, or if that is long ago.
    pub fn take_back(&mut self, step: Step) -> Option<Arc<str>> {
        let place = self.given.iter().rposition(|(given, _)| *given == step)?;
        self.given.remove(place).map(|(_, name)| name)
    }

    pub fn bytes(&self) -> usize {
        const EACH: usize = 64;
        let waits = self.waits.iter().map(|(name, steps)| EACH + name.len() + EACH * steps.len());
        let early = self.early.keys().map(|name| EACH + name.len());
        let given = self.given.iter().map(|(_, name)| EACH + name.len());
        waits.chain(early).chain(given).sum()
    }
}

/// What an entry says of signals.
#[derive(Clone, Debug)]
pub(super) enum Note {
    Wait(Step, Arc<str>),
    Came(Arc<str>),
    /// A step gives back what it got.
    Back(Step),
    /// A step waits no more: it has another outcome, or was dropped.
    Gone(Step, By),
}

/// By what a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    Outcome {
        unaffordable: bool,
    },
    Signal,
    /// By what the program or the run did.
    Program,
}

#[derive(Clone, Debug)]
struct Ended {
    open: Open,
    position: u64,
    by: By,
}

/// Of steps that ended what a retry may need.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    ended: BTreeMap<Step, Ended>,
    notes: Vec<(u64, Note)>,
}

impl Past {
    pub fn note(&mut self, position: u64, note: Note) {
        self.notes.push((position, note));
    }

    pub fn end(&mut self, step: Step, open: Open, position: u64, by: By) {
        self.ended.insert(step, Ended { open, position, by });
    }

    /// What a step waits for, or waited.
    pub fn signal_of(&self, step: Step) -> Option<Arc<str>> {
        self.ended.get(&step)?.open.signal().cloned()
    }

    /// What is open again if what the program did from `from` on is void, as the machine has it: what the program began
    /// there is gone, with what became of it. What came from outside stays, except for the outcome of the step that is
    /// `retried`, and with one that could not be afforded that of all such. And who waits for signals then.
    pub fn retry(&mut self, from: u64, retried: Option<Step>) -> (Mail, Vec<(Step, Open)>) {
        self.ended.retain(|_, ended| ended.open.begun < from);
        let pays = retried
            .and_then(|step| self.ended.get(&step))
            .is_some_and(|ended| ended.position >= from && ended.by == By::Outcome { unaffordable: true });
        let is_void = |position: u64, step: Step, by: By| {
            position >= from
                && match by {
                    By::Outcome { unaffordable } => Some(step) == retried || pays && unaffordable,
                    By::Signal => false,
                    By::Program => true,
                }
        };
        self.notes.retain(|(position, note)| match note {
            Note::Came(_) => true,
            Note::Gone(step, by) => !is_void(*position, *step, *by),
            Note::Wait(..) | Note::Back(_) => *position < from,
        });
        let mail = self.mail();
        let is_open = |step: Step, ended: &Ended| match ended.open.signal() {
            Some(name) => mail.waits_for(name, step),
            None => is_void(ended.position, step, ended.by),
        };
        let again = self.ended.iter().filter(|(step, ended)| is_open(**step, ended));
        let again: Vec<_> = again.map(|(step, _)| *step).collect();
        let again =
            again.into_iter().filter_map(|step| self.ended.remove(&step).map(|ended| (step, ended.open)));
        let again = again.collect();
        (mail, again)
    }

    /// Who waits, by what is noted.
    fn mail(&self) -> Mail {
        let mut mail = Mail::default();
        let mut names: HashMap<Step, Arc<str>> = HashMap::new();
        let mut got: BTreeSet<Step> = BTreeSet::new();
        for (_, note) in &self.notes {
            match note {
                Note::Wait(step, name) => {
                    names.insert(*step, Arc::clone(name));
                    if mail.wait(Arc::clone(name), *step) {
                        got.insert(*step);
                    }
                }
                Note::Came(name) => got.extend(mail.give(Arc::clone(name))),
                Note::Back(step) => {
                    if let (true, Some(name)) = (got.remove(step), names.get(step)) {
                        mail.take_back(*step);
                        got.extend(mail.give(Arc::clone(name)));
                    }
                }
                Note::Gone(step, _) => {
                    if let Some(name) = names.get(step) {
                        mail.leave(name, *step);
                    }
                }
            }
        }
        mail
    }
}
