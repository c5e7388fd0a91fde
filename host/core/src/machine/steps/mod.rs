//! The table of steps: which are open, what they wait for, how they ended.

mod calls;
mod children;
mod end;
mod held;
mod kind;
mod questions;
mod signals;
mod timers;
mod work;

use std::collections::{BTreeSet, HashMap};

use minicbor::bytes::ByteVec;

pub use self::calls::CallState;
pub use self::children::NewChild;
pub(super) use self::end::Done;
use self::kind::{Kind, Peeked, kind_of};
pub use self::questions::QuestionChange;
use self::signals::Queue;
pub(super) use self::work::Interrupted;
use super::table::Table;
use super::{Refusal, SetId};
use crate::{Op, Position, Step, Timestamp};

/// A step that is not done, for those who look at a run.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenStep<'a> {
    pub step: Step,
    /// When it is done at the latest, if it has a deadline.
    pub deadline: Option<Timestamp>,
    /// The name of the signal that it waits for, if it does.
    pub signal: Option<&'a str>,
    /// How often it was tried; 0 for what is not tried but waited for.
    pub attempts: u32,
}

#[derive(Debug)]
struct State {
    kind: Kind,
    scheduled: Position,
    at: Timestamp,
    attempts: u32,
    call: CallState,
    /// When the next attempt begins.
    delay: Option<Timestamp>,
    /// How long that is after the entry that says so.
    delay_ms: u64,
    /// Whether that is when its turn is.
    put_off: bool,
    done: Option<Done>,
    cancelled: bool,
    /// Whether the program of this execution holds it.
    held: bool,
    /// Whether an earlier execution asked for it.
    recorded: bool,
    /// Whether the driver was told to carry it out.
    begun: bool,
    /// Whether it may be begun though it was before: how it had ended then is void, or that was in another run.
    anew: bool,
    /// Whether the program of this execution knows its outcome.
    read: bool,
    op: ByteVec,
    /// The sets and tags under which it is a member.
    watchers: BTreeSet<(SetId, u64)>,
}

impl State {
    fn is_open(&self) -> bool {
        self.done.is_none() && !self.cancelled
    }

    /// What was asked for is needed as long as it may be asked for again or carried out.
    fn forget_op(&mut self) {
        if self.held && !self.is_open() {
            self.op = ByteVec::from(Vec::new());
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Steps {
    last: Step,
    states: Table<State>,
    held: usize,
    /// Bytes of the outcomes that are kept.
    outcome_bytes: u64,
    /// Open steps that the host carries out.
    working: BTreeSet<Step>,
    timers: BTreeSet<(Timestamp, Step)>,
    /// Agent calls whose next attempt begins at a time; they are among `working`.
    delayed: BTreeSet<(Timestamp, Step)>,
    /// Agent calls whose next attempt is due and cannot be made here; they are among `working`.
    withheld: BTreeSet<Step>,
    signals: HashMap<String, Queue>,
    /// Open steps that a person ends.
    questions: BTreeSet<Step>,
    question_changes: Vec<QuestionChange>,
    /// Open steps that another run ends.
    children: BTreeSet<Step>,
    /// How many there ever were.
    children_ever: usize,
    new_children: Vec<Step>,
    dropped_children: Vec<Step>,
    starts: Vec<Step>,
    aborts: Vec<Step>,
}

impl Steps {
    pub(super) fn next_step(&self) -> Step {
        Step(self.last.0 + 1)
    }

    /// Bytes of the outcomes of steps that the program has not dropped.
    pub(super) fn outcome_bytes(&self) -> u64 {
        self.outcome_bytes
    }

    pub(super) fn schedule(
        &mut self,
        step: Step,
        op: ByteVec,
        position: Position,
        (at, from): (Timestamp, Timestamp),
        recorded: bool,
    ) -> Result<(), Refusal> {
        if step != self.next_step() {
            return Err(format!("step {step} follows step {}", self.last).into());
        }
        self.last = step;
        let mut done = None;
        let kind = match kind_of(&op, position)? {
            Peeked::Work { repeat } => {
                self.working.insert(step);
                if !recorded {
                    self.starts.push(step);
                }
                Kind::Work { repeat }
            }
            Peeked::Waits(Op::Ask { question, timeout_ms }) => {
                let deadline = timeout_ms.map(|millis| (from.after(millis), millis));
                self.timers.extend(deadline.map(|(deadline, _)| (deadline, step)));
                self.questions.insert(step);
                if !recorded {
                    let deadline = deadline.map(|(deadline, _)| deadline);
                    self.question_changes.push(QuestionChange::Asked { step, at: from, deadline, question });
                }
                Kind::Question { deadline, delegated: None }
            }
            Peeked::Waits(Op::Child { .. }) => {
                self.children.insert(step);
                self.children_ever += 1;
                if !recorded {
                    self.new_children.push(step);
                }
                Kind::Child
            }
            Peeked::Waits(Op::SleepUntil { at }) => self.timer(step, Timestamp(at), None),
            Peeked::Waits(Op::Sleep { length_ms }) => {
                self.timer(step, from.after(length_ms), Some(length_ms))
            }
            Peeked::Waits(Op::Signal { name, timeout_ms }) => {
                let deadline = timeout_ms.map(|millis| (from.after(millis), millis));
                match self.take_early(&name) {
                    Some(payload) => done = Some(Done::new(position, at, Ok(payload))),
                    None => {
                        self.signals.entry(name.clone()).or_default().waits.insert(step);
                        self.timers.extend(deadline.map(|(deadline, _)| (deadline, step)));
                    }
                }
                Kind::Signal { name, deadline }
            }
            Peeked::Waits(other) => {
                return Err(format!("`{}` is nothing that is waited for", other.kind()).into());
            }
        };
        let attempts = u32::from(matches!(kind, Kind::Work { .. }));
        let state = State {
            kind,
            scheduled: position,
            at: from,
            attempts,
            call: CallState { since: from, failures: 0, auth_failures: 0, heartbeat: None },
            delay: None,
            delay_ms: 0,
            put_off: false,
            done,
            cancelled: false,
            held: false,
            recorded,
            begun: false,
            anew: false,
            read: false,
            op,
            watchers: BTreeSet::new(),
        };
        self.states.insert(step, state);
        Ok(())
    }

    /// The number of a step that is void. Numbers have no gaps: what is kept of steps lies in a row.
    pub(super) fn skip(&mut self, step: Step) -> Result<(), String> {
        if step != self.next_step() {
            return Err(format!("step {step} follows step {}", self.last));
        }
        self.last = step;
        Ok(())
    }

    pub(super) fn is_open(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(State::is_open)
    }

    pub(super) fn open(&self) -> impl Iterator<Item = OpenStep<'_>> {
        let waits = self.signals.values().flat_map(|queue| &queue.waits);
        let timers = self.timers.iter().map(|(_, step)| step);
        let open: BTreeSet<_> = self
            .working
            .iter()
            .chain(waits)
            .chain(timers)
            .chain(&self.questions)
            .chain(&self.children)
            .collect();
        open.into_iter().filter_map(|step| {
            let state = self.states.get(step)?;
            let (deadline, signal) = match &state.kind {
                Kind::Work { .. } | Kind::Child => (None, None),
                Kind::Timer { deadline, .. } => (Some(*deadline), None),
                Kind::Signal { name, deadline } => {
                    (deadline.map(|(deadline, _)| deadline), Some(name.as_str()))
                }
                Kind::Question { deadline, .. } => (deadline.map(|(deadline, _)| deadline), None),
            };
            Some(OpenStep { step: *step, deadline, signal, attempts: state.attempts })
        })
    }

    /// Open steps that are no agent calls, with where they were scheduled and whether how they had ended is void.
    pub(super) fn open_but_calls(&self) -> Vec<(Step, Position, bool)> {
        let open = self.open().filter_map(|open| {
            let state = self.states.get(&open.step)?;
            (!matches!(state.kind, Kind::Work { repeat: true })).then_some((
                open.step,
                state.scheduled,
                state.anew,
            ))
        });
        open.collect()
    }

    pub(super) fn scheduled_at(&self, step: Step) -> Option<Timestamp> {
        self.states.get(&step).map(|state| state.at)
    }
}
