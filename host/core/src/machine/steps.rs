//! The table of steps: which are open, what they wait for, how they ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use minicbor::Decoder;
use minicbor::bytes::ByteVec;

use super::table::Table;
use super::{Refusal, SetId};
use crate::entry::{FailedCall, decode_op};
use crate::{
    ChildOptions, Failure, FailureKind, Json, Op, Outcome, Position, Question, Step, Timestamp, spell_millis,
};

/// What changes in the list of open questions.
#[derive(Clone, PartialEq, Debug)]
pub enum QuestionChange {
    /// The program asks; nobody may answer before that is committed.
    Asked { step: Step, at: Timestamp, deadline: Option<Timestamp>, question: Question },
    /// It was answered, timed out, or is not asked any more.
    Closed { step: Step },
}

/// How a step ended, and where in the journal that stands.
#[derive(Debug)]
pub(super) struct Done {
    pub position: Position,
    pub at: Timestamp,
    end: HowDone,
}

#[derive(Debug)]
enum HowDone {
    Itself(Outcome),
    /// With all that was open when the run was asked to stop: what it was told is kept once for all of them.
    WithAll(Arc<Failure>),
}

impl Done {
    pub fn new(position: Position, at: Timestamp, outcome: Outcome) -> Self {
        Self { position, at, end: HowDone::Itself(outcome) }
    }

    pub fn outcome(&self) -> Outcome {
        match &self.end {
            HowDone::Itself(outcome) => outcome.clone(),
            HowDone::WithAll(failure) => Err(failure.as_ref().clone()),
        }
    }

    /// What it gave, if it did not fail.
    fn given(&self) -> Option<&Json> {
        match &self.end {
            HowDone::Itself(outcome) => outcome.as_ref().ok(),
            HowDone::WithAll(_) => None,
        }
    }

    fn is_cancelled(&self) -> bool {
        match &self.end {
            HowDone::Itself(outcome) => {
                matches!(outcome, Err(failure) if failure.kind == FailureKind::Cancelled)
            }
            HowDone::WithAll(_) => true,
        }
    }

    /// The bytes that are kept for it alone.
    fn bytes(&self) -> u64 {
        match &self.end {
            HowDone::Itself(Ok(json)) => json.as_str().len() as u64,
            HowDone::Itself(Err(failure)) => failure_bytes(failure),
            HowDone::WithAll(_) => 0,
        }
    }
}

fn failure_bytes(failure: &Failure) -> u64 {
    (failure.message.len() + failure.details.as_ref().map_or(0, |json| json.as_str().len())) as u64
}

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
enum Kind {
    /// Something that the host carries out: a call, a message to another run, ...
    /// `repeat`: whether it counts attempts.
    Work {
        repeat: bool,
    },
    Timer {
        deadline: Timestamp,
        /// None if it is a point in time.
        length: Option<u64>,
    },
    Signal {
        name: String,
        deadline: Option<(Timestamp, u64)>,
    },
    /// Another run ends it.
    Child,
    /// A person answers it.
    Question {
        deadline: Option<(Timestamp, u64)>,
        /// The question of an agent call, and whose name its reply bears.
        delegated: Option<Box<(String, Question)>>,
    },
}

/// A run that the program wants to be started.
#[derive(Clone, PartialEq, Debug)]
pub struct NewChild {
    pub step: Step,
    /// As the program names it.
    pub module: String,
    pub input: Json,
    pub options: Option<ChildOptions>,
}

/// A call that was under way when the last execution ended.
pub(super) struct Interrupted {
    pub step: Step,
    /// The number of the attempt that is due.
    pub attempt: u32,
    pub scheduled: Position,
    pub op: ByteVec,
    /// Whether it may be begun whatever became of earlier attempts.
    pub anew: bool,
}

/// What decides about the next attempt at an agent call.
#[derive(Clone, PartialEq, Debug)]
pub struct CallState {
    /// When the step was scheduled, or begun again.
    pub since: Timestamp,
    /// Attempts that failed since then.
    pub failures: u32,
    /// Those of them that failed for authentication.
    pub auth_failures: u32,
    /// What the last attempt that failed reported about its progress.
    pub heartbeat: Option<Json>,
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

    fn has_unread_signal(&self) -> bool {
        let signal = self.done.as_ref().is_some_and(|done| done.given().is_some());
        signal && !self.read && matches!(self.kind, Kind::Signal { .. })
    }

    /// What was asked for is needed as long as it may be asked for again or carried out.
    fn forget_op(&mut self) {
        if self.held && !self.is_open() {
            self.op = ByteVec::from(Vec::new());
        }
    }
}

/// Signals and waits of one name that have not met. One of the two is empty; a queue is dropped when both are.
#[derive(Debug, Default)]
struct Queue {
    early: VecDeque<Json>,
    waits: BTreeSet<Step>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.early.is_empty() && self.waits.is_empty()
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

    /// The number of steps that the program holds.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    // Entries.

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

    /// The first signal of that name that nothing waited for.
    fn take_early(&mut self, name: &str) -> Option<Json> {
        let queue = self.signals.get_mut(name)?;
        let payload = queue.early.pop_front()?;
        if queue.is_empty() {
            self.signals.remove(name);
        }
        Some(payload)
    }

    fn timer(&mut self, step: Step, deadline: Timestamp, length: Option<u64>) -> Kind {
        self.timers.insert((deadline, step));
        Kind::Timer { deadline, length }
    }

    /// The clock had been ahead and now shows `clock`. What has a length has no
    /// more than that left, wherever its deadline was.
    pub(super) fn put_right(&mut self, clock: Timestamp) {
        for (deadline, step) in std::mem::take(&mut self.timers) {
            let mut deadline = deadline;
            if let Some(state) = self.states.get_mut(&step) {
                let limit = match &mut state.kind {
                    Kind::Timer { deadline, length: Some(length) } => Some((deadline, *length)),
                    Kind::Signal { deadline: Some((deadline, length)), .. }
                    | Kind::Question { deadline: Some((deadline, length)), .. } => Some((deadline, *length)),
                    _ => None,
                };
                if let Some((until, length)) = limit {
                    *until = (*until).min(clock.after(length));
                    deadline = *until;
                }
            }
            self.timers.insert((deadline, step));
        }
        for (until, step) in std::mem::take(&mut self.delayed) {
            let mut until = until;
            if let Some(state) = self.states.get_mut(&step) {
                until = until.min(clock.after(state.delay_ms));
                state.delay = Some(until);
            }
            self.delayed.insert((until, step));
        }
    }

    /// The number of a step that is void. Numbers have no gaps: what is kept of steps lies in a row.
    pub(super) fn skip(&mut self, step: Step) -> Result<(), String> {
        if step != self.next_step() {
            return Err(format!("step {step} follows step {}", self.last));
        }
        self.last = step;
        Ok(())
    }

    pub(super) fn attempt(&mut self, step: Step, attempt: u32) -> Result<(), String> {
        match self.states.get_mut(&step) {
            Some(State {
                kind: Kind::Timer { .. } | Kind::Signal { .. } | Kind::Question { .. } | Kind::Child,
                ..
            }) => Err(format!("it is an attempt at step {step}, which is waited for and not tried")),
            Some(state) if state.is_open() && attempt == state.attempts + 1 => {
                state.anew = false;
                state.attempts = attempt;
                state.put_off = false;
                if let Some(at) = state.delay.take() {
                    self.delayed.remove(&(at, step));
                }
                self.withheld.remove(&step);
                Ok(())
            }
            Some(state) if state.is_open() => {
                Err(format!("attempt {attempt} of step {step} follows attempt {}", state.attempts))
            }
            _ => Err(format!("it is an attempt at step {step}, which is not open")),
        }
    }

    /// The open agent call that is carried out, or is to be.
    fn open_call(&mut self, step: Step) -> Result<&mut State, String> {
        match self.states.get_mut(&step) {
            Some(state) if state.is_open() && matches!(state.kind, Kind::Work { repeat: true }) => Ok(state),
            _ => Err(format!("step {step} is no open agent call")),
        }
    }

    pub(super) fn attempt_failed(&mut self, failed: FailedCall, clock: Timestamp) -> Result<(), String> {
        let is_dropped = failed.is_dropped();
        let FailedCall { step, attempt, auth, again_at, heartbeat, .. } = failed;
        let is_known = step <= self.last;
        let under_way =
            self.open_call(step).and_then(|state| match attempt == state.attempts && state.delay.is_none() {
                true => Ok(state),
                false => Err(format!("attempt {attempt} of step {step} was not under way")),
            });
        let state = match under_way {
            Ok(state) => state,
            // It only tells what was consumed.
            Err(_) if is_dropped && is_known => return Ok(()),
            Err(reason) => return Err(reason),
        };
        // Whoever drops an attempt does not say that it failed.
        state.call.failures += u32::from(!is_dropped);
        state.call.auth_failures += u32::from(auth);
        state.call.heartbeat = heartbeat.or_else(|| state.call.heartbeat.take());
        state.begun = false;
        state.delay = again_at;
        state.delay_ms = again_at.map_or(0, |at| at.since(clock));
        self.delayed.extend(again_at.map(|at| (at, step)));
        Ok(())
    }

    /// The attempt that was to begin is put off, as if it had not been meant to.
    pub(super) fn postpone(&mut self, step: Step, until: Timestamp, clock: Timestamp) -> Result<(), String> {
        let state = self.open_call(step)?;
        if state.attempts == 0 || state.delay.is_some() {
            return Err(format!("step {step} was to begin no attempt"));
        }
        state.attempts -= 1;
        state.begun = false;
        state.delay = Some(until);
        state.delay_ms = until.since(clock);
        state.put_off = true;
        self.delayed.insert((until, step));
        Ok(())
    }

    /// A person is to answer the call.
    pub(super) fn delegate(
        &mut self,
        step: Step,
        provider: String,
        question: Question,
        deadline: Option<Timestamp>,
        at: Timestamp,
    ) -> Result<(), String> {
        let state = self.open_call(step)?;
        if state.delay.is_some() {
            return Err(format!("step {step} was to begin no attempt"));
        }
        let limit = deadline.map(|deadline| (deadline, deadline.since(state.call.since)));
        state.begun = false;
        state.kind =
            Kind::Question { deadline: limit, delegated: Some(Box::new((provider, question.clone()))) };
        self.working.remove(&step);
        self.timers.extend(deadline.map(|deadline| (deadline, step)));
        self.questions.insert(step);
        self.question_changes.push(QuestionChange::Asked { step, at, deadline, question });
        Ok(())
    }

    /// Whose name the reply of a call bears that a person answers.
    pub(super) fn delegated_to(&self, step: Step) -> Option<&str> {
        match &self.states.get(&step)?.kind {
            Kind::Question { delegated: Some(delegated), .. } => Some(&delegated.0),
            _ => None,
        }
    }

    pub(super) fn call(&self, step: Step) -> Option<&CallState> {
        self.states.get(&step).map(|state| &state.call)
    }

    pub(super) fn attempts(&self, step: Step) -> u32 {
        self.states.get(&step).map_or(0, |state| state.attempts)
    }

    /// Whether the step is an agent call that the host carries out.
    pub(super) fn is_call(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(|state| matches!(state.kind, Kind::Work { repeat: true }))
    }

    /// The agent calls whose next attempt is to begin and that is not after `clock`, with their operations.
    pub(super) fn due_calls(&self, clock: Timestamp) -> Vec<(Step, Position, ByteVec)> {
        let due = self.delayed.iter().take_while(|(at, _)| *at <= clock);
        due.filter_map(|(_, step)| {
            let state = self.states.get(step)?;
            Some((*step, state.scheduled, state.op.clone()))
        })
        .collect()
    }

    /// The next attempt of a call cannot be made here.
    pub(super) fn withhold(&mut self, step: Step) {
        if let Some(at) = self.states.get(&step).and_then(|state| state.delay)
            && self.delayed.remove(&(at, step))
        {
            self.withheld.insert(step);
        }
    }

    /// Whether the driver was told to carry out the step.
    pub(super) fn is_begun(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(|state| state.begun)
    }

    pub(super) fn withholds(&self) -> bool {
        !self.withheld.is_empty()
    }

    /// The attempt at a call that an earlier execution began is under way. False if it is not the
    /// one that is due.
    pub(super) fn adopt(&mut self, step: Step, attempt: u32) -> bool {
        match self.states.get_mut(&step) {
            Some(state)
                if state.is_open()
                    && state.recorded
                    && !state.begun
                    && state.delay.is_none()
                    && state.attempts == attempt
                    && matches!(state.kind, Kind::Work { .. }) =>
            {
                state.begun = true;
                true
            }
            _ => false,
        }
    }

    /// The agent call whose next attempt is to begin, if that is not after `clock`.
    pub(super) fn delay_over(&self, clock: Timestamp) -> Option<Step> {
        self.delayed.first().filter(|(at, _)| *at <= clock).map(|(_, step)| *step)
    }

    /// The step is not to be carried out.
    pub(super) fn leave_unstarted(&mut self, step: Step) {
        self.starts.retain(|start| *start != step);
    }

    /// Takes the agent calls out of what is to be carried out and has not begun.
    pub(super) fn take_unstarted_calls(&mut self) -> Vec<Step> {
        let is_call = |step: &Step| {
            let state = self.states.get(step).filter(|state| state.is_open() && !state.begun);
            state.is_some_and(|state| matches!(state.kind, Kind::Work { repeat: true }))
        };
        let (calls, others) = std::mem::take(&mut self.starts).into_iter().partition(is_call);
        self.starts = others;
        calls
    }

    /// The next attempt of the step begins.
    pub(super) fn start(&mut self, step: Step) {
        self.starts.push(step);
    }

    pub(super) fn complete(&mut self, step: Step, done: Done) -> Result<Vec<(SetId, u64)>, String> {
        if !self.is_open(step) {
            return Err(format!("it completes step {step}, which is not open"));
        }
        Ok(self.close(step, Some(done)))
    }

    /// A person ended it.
    pub(super) fn answer(&mut self, step: Step, done: Done) -> Result<Vec<(SetId, u64)>, String> {
        if !self.is_question(step) {
            return Err(format!("it answers step {step}, which is no open question"));
        }
        Ok(self.close(step, Some(done)))
    }

    /// The run that it waited for ended.
    pub(super) fn end_child(&mut self, step: Step, done: Done) -> Result<Vec<(SetId, u64)>, String> {
        if !self.children.remove(&step) {
            return Err(format!("it ends the child of step {step}, which waits for none"));
        }
        Ok(self.close(step, Some(done)))
    }

    pub(super) fn is_child(&self, step: Step) -> bool {
        self.children.contains(&step)
    }

    /// The number of children that the run ever had.
    pub(super) fn children(&self) -> usize {
        self.children_ever
    }

    pub(super) fn open_children(&self) -> Vec<Step> {
        self.children.iter().copied().collect()
    }

    pub(super) fn take_children(&mut self) -> Vec<NewChild> {
        let steps = std::mem::take(&mut self.new_children);
        let wanted = |step: Step| {
            let state = self.states.get(&step).filter(|state| state.is_open())?;
            match decode_op(&state.op, state.scheduled) {
                Ok(Op::Child { module, input, options }) => Some(NewChild { step, module, input, options }),
                _ => None,
            }
        };
        steps.into_iter().filter_map(wanted).collect()
    }

    /// All open children have to be started, though they were before.
    pub(super) fn start_children_again(&mut self) {
        self.new_children = self.children.iter().copied().collect();
    }

    pub(super) fn take_dropped_children(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.dropped_children)
    }

    pub(super) fn asks_people(&self) -> bool {
        !self.questions.is_empty()
    }

    pub(super) fn is_question(&self, step: Step) -> bool {
        self.questions.contains(&step)
    }

    /// The step is tried again: time limits count from `at`.
    pub(super) fn reopen(&mut self, step: Step, at: Timestamp) {
        let Some(state) = self.states.get_mut(&step).filter(|state| state.is_open()) else { return };
        if let Kind::Signal { deadline: Some(deadline), .. }
        | Kind::Question { deadline: Some(deadline), .. } = &mut state.kind
        {
            self.timers.remove(&(deadline.0, step));
            deadline.0 = at.after(deadline.1);
            self.timers.insert((deadline.0, step));
        }
    }

    /// The same for the attempts at an agent call: what failed before does not count.
    pub(super) fn begin_again(&mut self, step: Step, at: Timestamp) {
        if let Some(state) = self.states.get_mut(&step) {
            state.call = CallState { since: at, failures: 0, auth_failures: 0, heartbeat: None };
        }
    }

    /// How the step ended is void, so it may be begun once more.
    pub(super) fn end_is_void(&mut self, step: Step) {
        if let Some(state) = self.states.get_mut(&step) {
            state.anew = true;
        }
    }

    /// What was begun until now was begun by another run.
    pub(super) fn begin_all_anew(&mut self) {
        for step in &self.working {
            if let Some(state) = self.states.get_mut(step) {
                state.anew = true;
            }
        }
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

    pub(super) fn cancel(&mut self, step: Step) -> Result<(), String> {
        if !self.is_open(step) {
            return Err(format!("it cancels step {step}, which is not open"));
        }
        self.close(step, None);
        Ok(())
    }

    /// Gives the signal to the wait that came first, or keeps it; before those
    /// that are kept already if it was `returned`.
    pub(super) fn give(
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

    /// Ends all open steps with the same failure.
    pub(super) fn cancel_all(
        &mut self,
        failure: Failure,
        position: Position,
        at: Timestamp,
    ) -> Vec<(Step, Vec<(SetId, u64)>)> {
        let open: Vec<_> = self.open().map(|open| open.step).collect();
        self.outcome_bytes += failure_bytes(&failure);
        let failure = Arc::new(failure);
        open.into_iter()
            .map(|step| {
                let done = Done { position, at, end: HowDone::WithAll(Arc::clone(&failure)) };
                (step, self.close(step, Some(done)))
            })
            .collect()
    }

    /// The run has ended: nothing is waited for any more.
    pub(super) fn abort_all(&mut self) {
        for step in std::mem::take(&mut self.questions) {
            self.question_changes.push(QuestionChange::Closed { step });
        }
        for step in std::mem::take(&mut self.working) {
            if self.states.get(&step).is_some_and(|state| state.begun) {
                self.aborts.push(step);
            }
        }
        self.starts.clear();
        self.children.clear();
        self.new_children.clear();
        self.timers.clear();
        self.delayed.clear();
        self.withheld.clear();
        self.signals.clear();
    }

    /// The step is not open any more: done, or without `done` cancelled.
    fn close(&mut self, step: Step, done: Option<Done>) -> Vec<(SetId, u64)> {
        let Some(state) = self.states.get_mut(&step) else {
            return Vec::new();
        };
        if let Some(at) = state.delay.take() {
            self.delayed.remove(&(at, step));
        }
        match &state.kind {
            Kind::Work { .. } => {
                self.working.remove(&step);
                self.withheld.remove(&step);
                let by_itself = done.as_ref().is_some_and(|done| !done.is_cancelled());
                // One that was put off has a turn, which it needs no more.
                if state.put_off || state.begun && !by_itself {
                    self.aborts.push(step);
                }
            }
            Kind::Timer { deadline, .. } => {
                self.timers.remove(&(*deadline, step));
            }
            // One that ended by itself was taken out before.
            Kind::Child => {
                if self.children.remove(&step) {
                    self.dropped_children.push(step);
                }
            }
            Kind::Signal { name, deadline } => {
                if let Some((deadline, _)) = deadline {
                    self.timers.remove(&(*deadline, step));
                }
                if let Some(queue) = self.signals.get_mut(name) {
                    queue.waits.remove(&step);
                    if queue.is_empty() {
                        self.signals.remove(name);
                    }
                }
            }
            Kind::Question { deadline, .. } => {
                if let Some((deadline, _)) = deadline {
                    self.timers.remove(&(*deadline, step));
                }
                self.questions.remove(&step);
                self.question_changes.push(QuestionChange::Closed { step });
            }
        }
        state.cancelled = done.is_none();
        self.outcome_bytes += done.as_ref().map_or(0, Done::bytes);
        state.done = done;
        state.forget_op();
        state.watchers.iter().copied().collect()
    }

    // The program.

    /// The program of this execution has asked for the step.
    pub(super) fn claim(&mut self, step: Step) {
        if let Some(state) = self.states.get_mut(&step) {
            state.held = true;
            self.held += 1;
            state.forget_op();
        }
    }

    /// The bytes of the operation of a step that the program has not asked for, or that is open.
    pub(super) fn op(&self, step: Step) -> Option<&[u8]> {
        self.states.get(&step).map(|state| state.op.as_slice())
    }

    /// The program is told how the step ended.
    pub(super) fn read(&mut self, step: Step) {
        if let Some(state) = self.states.get_mut(&step) {
            state.read = true;
        }
    }

    /// Whether the step was given a signal that the program does not know.
    pub(super) fn has_unread_signal(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(State::has_unread_signal)
    }

    /// The signal of a step that is dropped. Until then the program may see that it is done.
    pub(super) fn return_signal(&self, step: Step) -> Result<(String, Json), String> {
        let taken = self.states.get(&step).and_then(|state| match (&state.kind, &state.done) {
            (Kind::Signal { name, .. }, Some(done)) => Some((name.clone(), done.given()?.clone())),
            _ => None,
        });
        taken.ok_or_else(|| format!("it returns the signal of step {step}, which has none"))
    }

    /// How the step ended, if it has; an error if the program does not hold it.
    pub(super) fn done(&self, step: Step) -> Result<Option<&Done>, ()> {
        match self.states.get(&step) {
            Some(state) if state.held => Ok(state.done.as_ref()),
            _ => Err(()),
        }
    }

    /// Whether the journal says that the program dropped the step before it was
    /// done; none if the program does not hold it.
    pub(super) fn cancelled(&self, step: Step) -> Option<bool> {
        self.states.get(&step).filter(|state| state.held).map(|state| state.cancelled)
    }

    /// The program lets go of the step. Gives the sets that it is in.
    pub(super) fn release(&mut self, step: Step) -> BTreeSet<(SetId, u64)> {
        self.held -= 1;
        let Some(state) = self.states.remove(&step) else { return BTreeSet::new() };
        let bytes = state.done.as_ref().map_or(0, Done::bytes);
        self.outcome_bytes = self.outcome_bytes.saturating_sub(bytes);
        state.watchers
    }

    /// The step was added to a set. Gives where it was done, if it was.
    pub(super) fn watch(&mut self, step: Step, set: SetId, tag: u64) -> Result<Option<Position>, ()> {
        match self.states.get_mut(&step) {
            Some(state) if state.held => {
                state.watchers.insert((set, tag));
                Ok(state.done.as_ref().map(|done| done.position))
            }
            _ => Err(()),
        }
    }

    /// The step is no member of the set any more, by that tag.
    pub(super) fn unwatch(&mut self, step: Step, set: SetId, tag: u64) {
        if let Some(state) = self.states.get_mut(&step) {
            state.watchers.remove(&(set, tag));
        }
    }

    // The driver.

    /// Whether the step is open, and how it ended; none if it is not known, as it is void.
    #[cfg(test)]
    pub(super) fn fate(&self, step: Step) -> Option<(bool, Option<Outcome>)> {
        let state = self.states.get(&step)?;
        Some((state.is_open(), state.done.as_ref().map(Done::outcome)))
    }

    /// The names of which signals are kept, or waits.
    #[cfg(test)]
    pub(super) fn names_of_signals(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.signals.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn is_open(&self, step: Step) -> bool {
        self.states.get(&step).is_some_and(State::is_open)
    }

    /// The timer with the earliest deadline, if that is not after `clock`, and
    /// how it ends. That of the step `but` is passed over.
    pub(super) fn due(&self, clock: Timestamp, but: Option<Step>) -> Option<(Step, Outcome)> {
        let mut due = self.timers.iter().take_while(|(deadline, _)| *deadline <= clock);
        let &(_, step) = due.find(|(_, step)| Some(*step) != but)?;
        let outcome = match self.states.get(&step).map(|state| &state.kind) {
            Some(Kind::Signal { name, deadline: Some((_, millis)) }) => {
                let message = format!("no signal `{name}` came within {}", spell_millis(*millis));
                Err(Failure::new(FailureKind::TimedOut, message))
            }
            Some(Kind::Question { deadline: Some((_, millis)), .. }) => {
                let message = format!("nobody answered within {}", spell_millis(*millis));
                Err(Failure::new(FailureKind::TimedOut, message))
            }
            _ => Ok(Json::null()),
        };
        Some((step, outcome))
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let delayed = self.delayed.first();
        self.timers.first().into_iter().chain(delayed).map(|(deadline, _)| *deadline).min()
    }

    /// Takes up the work that was under way when the last execution ended. Gives the calls among it.
    pub(super) fn take_interrupted(&mut self) -> Vec<Interrupted> {
        let mut calls = Vec::new();
        // Their delay ended in this execution.
        let begun: BTreeSet<_> = self.starts.iter().copied().collect();
        for &step in self.working.difference(&begun) {
            let interrupted = |state: &&State| state.recorded && state.delay.is_none() && !state.begun;
            if let Some(state) = self.states.get(&step).filter(interrupted) {
                self.starts.push(step);
                if matches!(state.kind, Kind::Work { repeat: true }) {
                    calls.push(Interrupted {
                        step,
                        attempt: state.attempts + 1,
                        scheduled: state.scheduled,
                        op: state.op.clone(),
                        anew: state.anew,
                    });
                }
            }
        }
        calls
    }

    /// What is to be carried out and has not begun, with its attempt and where it was scheduled.
    pub(super) fn take_starts(&mut self) -> Vec<(Step, u32, Position)> {
        let starts = std::mem::take(&mut self.starts);
        let begin = |step| {
            let state = self.states.get_mut(&step).filter(|state| state.is_open() && !state.begun)?;
            state.begun = true;
            Some((step, state.attempts, state.scheduled))
        };
        starts.into_iter().filter_map(begin).collect()
    }

    /// What is to be stopped.
    pub(super) fn take_aborts(&mut self) -> std::vec::IntoIter<Step> {
        std::mem::take(&mut self.aborts).into_iter()
    }

    pub(super) fn only_waits(&self) -> bool {
        self.working.len() == self.delayed.len() + self.withheld.len() && self.aborts.is_empty()
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

    pub(super) fn scheduled_at(&self, step: Step) -> Option<Timestamp> {
        self.states.get(&step).map(|state| state.at)
    }

    pub(super) fn take_questions(&mut self) -> Vec<QuestionChange> {
        std::mem::take(&mut self.question_changes)
    }

    pub(super) fn open_questions(&self) -> Vec<QuestionChange> {
        let open = self.questions.iter().filter_map(|&step| {
            let state = self.states.get(&step)?;
            let Kind::Question { deadline, delegated } = &state.kind else { return None };
            let question = match delegated {
                Some(delegated) => delegated.1.clone(),
                None => match decode_op(&state.op, state.scheduled) {
                    Ok(Op::Ask { question, .. }) => question,
                    _ => return None,
                },
            };
            let (deadline, at) = (deadline.map(|(deadline, _)| deadline), state.at);
            Some(QuestionChange::Asked { step, at, deadline, question })
        });
        open.collect()
    }

    /// The signals that the program has not read: first those that were given to waits which it
    /// began, as they were given, then those that nothing waits for, of each name as they came.
    pub(super) fn unread_signals(&self) -> Vec<(String, Json)> {
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

    pub(super) fn wanted_signals(&self) -> Vec<String> {
        let wanted = self.signals.iter().filter(|(_, queue)| !queue.waits.is_empty());
        let mut names: Vec<_> = wanted.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }
}

enum Peeked {
    Work {
        repeat: bool,
    },
    /// Something that time, a signal or a person ends.
    Waits(Op),
}

/// What kind of operation `bytes` are. Calls, by far the largest, are not decoded.
fn kind_of(bytes: &[u8], position: Position) -> Result<Peeked, Refusal> {
    const AGENT: u32 = 0;
    let mut decoder = Decoder::new(bytes);
    let number = decoder.array().and_then(|_| decoder.u32());
    if number.is_ok_and(|number| number == AGENT) {
        return Ok(Peeked::Work { repeat: true });
    }
    Ok(match decode_op(bytes, position).map_err(Refusal::Unreadable)? {
        op @ (Op::Sleep { .. }
        | Op::SleepUntil { .. }
        | Op::Signal { .. }
        | Op::Ask { .. }
        | Op::Child { .. }) => Peeked::Waits(op),
        Op::Agent(_) => Peeked::Work { repeat: true },
        Op::Send { .. } | Op::ContinueAsNew { .. } => Peeked::Work { repeat: false },
    })
}
