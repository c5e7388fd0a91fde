//! The world of a random program: it answers the same to the same step, but
//! when, and what else happens, are choices.

use std::collections::{BTreeMap, BTreeSet};

use crate::Usage;
use crate::machine::*;

/// What is under way outside, and a clock that does not only go forward.
pub(super) struct World {
    pub clock: Timestamp,
    choices: Vec<u8>,
    next: usize,
    /// What was begun; of calls the attempt, whose number no other one of the same step has.
    running: BTreeMap<Step, Option<u32>>,
    /// Children that this execution started.
    children: BTreeSet<Step>,
    /// Nothing happens by itself.
    still: bool,
}

impl World {
    pub(super) fn new(choices: &[u8]) -> Self {
        let choices = choices.to_vec();
        Self {
            clock: super::DAWN,
            choices,
            next: 0,
            running: BTreeMap::new(),
            children: BTreeSet::new(),
            still: false,
        }
    }

    /// One in which nothing happens.
    pub(super) fn still() -> Self {
        Self { still: true, ..Self::new(&[0]) }
    }

    pub(super) fn is_still(&self) -> bool {
        self.still
    }

    fn choose(&mut self) -> u8 {
        let choice = self.choices.get(self.next).copied();
        self.next += 1;
        // When they are used up, a fixed sequence in which everything comes up.
        choice.unwrap_or_else(|| ((self.next as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
    }

    /// Something may happen while the program computes.
    pub(super) fn something(&mut self, machine: &mut Machine) {
        if !self.still && self.choose().is_multiple_of(3) {
            self.happen(machine);
        }
    }

    /// The program waits, so something has to happen at last.
    pub(super) fn go_on(&mut self, machine: &mut Machine) {
        assert!(!self.still, "a program that waits has something to come");
        self.begin(machine);
        self.happen(machine);
    }

    /// Takes up what is to be done, and checks that it may be.
    fn begin(&mut self, machine: &mut Machine) {
        for child in machine.take_children() {
            assert!(
                machine.open_children().contains(&child.step),
                "only children that are wanted are started"
            );
            assert!(self.children.insert(child.step), "a child is started once");
        }
        for step in machine.take_dropped_children() {
            assert!(!machine.open_children().contains(&step), "a child that is dropped is not waited for");
        }
        for work in machine.take_work(self.clock) {
            match work {
                Work::Execute { step, attempt, op } => {
                    assert!(machine.open_steps().any(|open| open.step == step), "only open steps are begun");
                    let attempt = matches!(op, Op::Agent(_)).then_some(attempt);
                    assert_eq!(self.running.insert(step, attempt), None, "a step is begun once");
                }
                Work::Fail { step, .. } => panic!("step {step} can be carried out"),
                Work::Abort { step } => {
                    let attempt = self.running.remove(&step).expect("only what was begun is stopped");
                    // Nothing else consumes anything.
                    let Some(attempt) = attempt else { continue };
                    let usage = Usage { input_tokens: step.0 % 3, ..Usage::default() };
                    let dropped = DroppedAttempt { step, attempt, provider: "p".to_owned(), usage };
                    assert_eq!(machine.drop_attempt(dropped, self.clock), !step.0.is_multiple_of(3));
                }
            }
        }
        let open: Vec<_> = machine.open_steps().map(|open| open.step).collect();
        assert!(self.running.keys().all(|step| open.contains(step)), "what is no longer wanted was stopped");
    }

    fn happen(&mut self, machine: &mut Machine) {
        let clock = self.clock;
        match self.choose() % 16 {
            0..6 => self.answer(machine),
            6..8 => {
                self.clock = clock.after(u64::from(self.choose()));
                machine.fire_timers(self.clock);
            }
            8 => self.clock = Timestamp(clock.0.saturating_sub(u64::from(self.choose()))),
            // To the very deadline.
            9..11 => {
                self.clock = machine.next_deadline().unwrap_or(clock).max(clock);
                machine.fire_timers(self.clock);
            }
            11 => {
                let name = format!("signal-{}", self.choose() % 3);
                self.signal(machine, name);
            }
            // One that is waited for, so that every wait ends.
            12..15 => {
                if let Some(name) = machine.wanted_signals().into_iter().next() {
                    self.signal(machine, name);
                }
            }
            _ => {
                if self.choose().is_multiple_of(8) {
                    machine.request_cancel(None, clock);
                }
            }
        }
    }

    fn answer(&mut self, machine: &mut Machine) {
        self.begin(machine);
        let children = machine.open_children();
        let nth = usize::from(self.choose()) % (self.running.len() + children.len()).max(1);
        let Some(step) = self.running.keys().chain(&children).copied().nth(nth) else { return };
        self.running.remove(&step);
        let outcome = match step.0 % 5 {
            0 => Err(Failure::new(FailureKind::Failed, format!("no answer to {step}"))),
            1 => {
                let usage = serde_json::json!({ "input_tokens": step, "output_tokens": 1 });
                Ok(Json::from(serde_json::json!({ "answer": step, "usage": usage })))
            }
            _ => Ok(Json::from(serde_json::json!({ "answer": step }))),
        };
        let ended = match children.contains(&step) {
            true => {
                let child = machine.run().child(step);
                machine.end_child(step, child, outcome, Spent::default(), self.clock)
            }
            false => machine.complete(step, outcome, self.clock),
        };
        assert!(ended, "what is under way is open");
    }

    fn signal(&mut self, machine: &mut Machine, name: String) {
        let payload = Json::from(serde_json::Value::from(self.choose()));
        machine.receive(name, payload, None, self.clock);
    }
}
