//! Programs made of random acts, and their execution.

use proptest::prelude::*;

use super::World;
use crate::machine::*;
use crate::{AgentRequest, limits};

/// One thing that a program does. Numbers that name a step it holds are taken
/// modulo the number of these.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Starts an operation and keeps the step.
    Start(Ask),
    /// Starts an operation, waits for it and lets it go.
    Run(Ask),
    /// Waits for one step and keeps it.
    Get(usize),
    /// Waits for the first of all that it holds; lets it go or not.
    Any {
        keep: bool,
    },
    /// Lets a step go.
    Drop(usize),
    /// Waits for so many of all that it holds through a set. Some tags are
    /// removed or replaced before, and a step may be let go meanwhile.
    Set {
        takes: usize,
        remove: Option<usize>,
        replace: Option<usize>,
        release: Option<usize>,
    },
    /// Does the acts if the place is patched.
    Patched(u8, Vec<Act>),
    /// Does one thing or the other, as what it saw last is odd or even.
    Branch(Vec<Act>, Vec<Act>),
    Repeat(u8, Vec<Act>),
    Random(usize),
    Look,
    Emit,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Agent(u8),
    Sleep(u64),
    SleepUntil(u64),
    Signal(u8, Option<u64>),
    Send,
    Child(u8),
}

impl Ask {
    fn op(&self) -> Op {
        match *self {
            Self::Agent(n) => {
                Op::Agent(Box::new(AgentRequest { prompt: format!("prompt {n}"), ..Default::default() }))
            }
            Self::Sleep(length_ms) => Op::Sleep { length_ms },
            Self::SleepUntil(after) => Op::SleepUntil { at: super::DAWN.0 + after },
            Self::Signal(n, timeout_ms) => Op::Signal { name: format!("signal-{n}"), timeout_ms },
            Self::Child(n) => Op::Child { module: format!("module {n}"), input: Json::null(), options: None },
            Self::Send => Op::Send { run: "other".to_owned(), name: "go".to_owned(), payload: Json::null() },
        }
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Ask::Agent),
        2 => (0..60_u64).prop_map(Ask::Sleep),
        1 => (0..200_u64).prop_map(Ask::SleepUntil),
        2 => (0..2_u8, prop::option::of(0..50_u64)).prop_map(|(name, timeout)| Ask::Signal(name, timeout)),
        1 => Just(Ask::Send),
        2 => (0..2_u8).prop_map(Ask::Child),
    ]
}

pub(super) fn program() -> impl Strategy<Value = Vec<Act>> {
    let some = || prop::option::of(0..5_usize);
    let act = prop_oneof![
        6 => ask().prop_map(Act::Start),
        3 => ask().prop_map(Act::Run),
        2 => (0..5_usize).prop_map(Act::Get),
        4 => any::<bool>().prop_map(|keep| Act::Any { keep }),
        3 => (0..5_usize).prop_map(Act::Drop),
        3 => (1..4_usize, some(), some(), some())
            .prop_map(|(takes, remove, replace, release)| Act::Set { takes, remove, replace, release }),
        1 => (1..20_usize).prop_map(Act::Random),
        1 => Just(Act::Look),
        1 => Just(Act::Emit),
    ];
    let act = act.prop_recursive(2, 20, 4, |act| {
        let acts = || prop::collection::vec(act.clone(), 1..4);
        prop_oneof![
            (0..3_u8, acts()).prop_map(|(id, acts)| Act::Patched(id, acts)),
            (acts(), acts()).prop_map(|(odd, even)| Act::Branch(odd, even)),
            (1..4_u8, acts()).prop_map(|(times, acts)| Act::Repeat(times, acts)),
        ]
    });
    prop::collection::vec(act, 1..14)
}

/// What a program observed, and the last entry that this depends on.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Seen {
    pub observed: Position,
    what: What,
}

#[derive(Clone, PartialEq, Debug)]
enum What {
    Step(Step),
    Outcome(Outcome),
    Index(usize),
    Tag(u64),
    Patched(bool),
    Random(Vec<u8>),
    Look { now: Timestamp, started: Timestamp, cancelled: bool, tokens: u64 },
    Emitted,
}

/// What a program is executed over: the machine, or the model of it.
pub(super) trait Subject {
    /// The machine, if the world can do something to it.
    fn machine(&mut self) -> Option<&mut Machine>;
    fn schedule(&mut self, op: &Op, clock: Timestamp) -> Result<Step, Stop>;
    fn poll_step(&mut self, step: Step) -> Result<Option<Outcome>, Stop>;
    fn poll_any(&mut self, steps: &[Step]) -> Result<Option<usize>, Stop>;
    fn drop_step(&mut self, step: Step, clock: Timestamp) -> Result<(), Stop>;
    fn set_new(&mut self) -> SetId;
    fn set_add(&mut self, set: SetId, step: Step, tag: u64) -> Result<(), Stop>;
    fn set_remove(&mut self, set: SetId, tag: u64);
    fn set_drop(&mut self, set: SetId);
    fn poll_set(&mut self, set: SetId) -> Result<Option<u64>, Stop>;
    fn patched(&mut self, id: &str, clock: Timestamp) -> Result<bool, Stop>;
    fn random(&mut self, bytes: &mut [u8]);
    fn give_out(&mut self, gift: Gift) -> bool;
    fn finish(&mut self, outcome: Outcome, clock: Timestamp) -> Result<(), Stop>;
    /// The latest entry that the program has observed.
    fn position(&self) -> Position;
    /// The time of it, when the run began, whether it is asked to stop, and the tokens that it has
    /// spent, as the program may know them.
    fn look(&self) -> (Timestamp, Timestamp, bool, u64);
}

impl Subject for Machine {
    fn machine(&mut self) -> Option<&mut Machine> {
        Some(self)
    }
    fn schedule(&mut self, op: &Op, clock: Timestamp) -> Result<Step, Stop> {
        self.schedule(op, clock)
    }
    fn poll_step(&mut self, step: Step) -> Result<Option<Outcome>, Stop> {
        self.poll_step(step)
    }
    fn poll_any(&mut self, steps: &[Step]) -> Result<Option<usize>, Stop> {
        self.poll_any(steps)
    }
    fn drop_step(&mut self, step: Step, clock: Timestamp) -> Result<(), Stop> {
        self.drop_step(step, clock)
    }
    fn set_new(&mut self) -> SetId {
        self.set_new()
    }
    fn set_add(&mut self, set: SetId, step: Step, tag: u64) -> Result<(), Stop> {
        self.set_add(set, step, tag)
    }
    fn set_remove(&mut self, set: SetId, tag: u64) {
        self.set_remove(set, tag);
    }
    fn set_drop(&mut self, set: SetId) {
        self.set_drop(set);
    }
    fn poll_set(&mut self, set: SetId) -> Result<Option<u64>, Stop> {
        self.poll_set(set)
    }
    fn patched(&mut self, id: &str, clock: Timestamp) -> Result<bool, Stop> {
        self.patched(id, clock)
    }
    fn random(&mut self, bytes: &mut [u8]) {
        self.random(bytes);
    }
    fn give_out(&mut self, gift: Gift) -> bool {
        self.give_out(gift)
    }
    fn finish(&mut self, outcome: Outcome, clock: Timestamp) -> Result<(), Stop> {
        self.finish(outcome, clock)
    }
    fn position(&self) -> Position {
        self.observed
    }
    fn look(&self) -> (Timestamp, Timestamp, bool, u64) {
        let seen = self.observed();
        (seen.now(), seen.started_at(), seen.cancelled(), seen.spent().tokens)
    }
}

/// One execution of a program: it, its machine and the world.
pub(super) struct Execution<S> {
    pub machine: S,
    pub seen: Vec<Seen>,
    world: World,
    with_patches: bool,
    held: Vec<Step>,
    /// What was given out that had not been before: how much had been seen then.
    pub given: Vec<usize>,
}

impl<S: Subject> Execution<S> {
    pub(super) fn new(machine: S, world: World, with_patches: bool) -> Self {
        Self { machine, seen: Vec::new(), world, with_patches, held: Vec::new(), given: Vec::new() }
    }

    /// In a world that stands still: does all acts up to the first wait behind the journal's end. Gives what was given out until then.
    pub(super) fn run_until_live(&mut self, acts: &[Act]) -> Vec<usize> {
        let _ = self.run(acts);
        std::mem::take(&mut self.given)
    }

    /// Does all acts and returns.
    pub(super) fn run(&mut self, acts: &[Act]) -> Result<(), Stop> {
        self.all(acts)?;
        self.something();
        let result = Json::from(serde_json::Value::from(format!("{:?}", self.seen)));
        self.machine.finish(Ok(result), self.world.clock)
    }

    /// Something may happen while the program computes.
    fn something(&mut self) {
        if let Some(machine) = self.machine.machine() {
            self.world.something(machine);
        }
    }

    fn all(&mut self, acts: &[Act]) -> Result<(), Stop> {
        acts.iter().try_for_each(|act| self.act(act))
    }

    fn act(&mut self, act: &Act) -> Result<(), Stop> {
        self.something();
        let now = self.machine.look().0;
        match act {
            Act::Start(ask) => {
                let step = self.start(ask)?;
                self.held.push(step);
            }
            Act::Run(ask) => {
                let step = self.start(ask)?;
                self.wait(|machine| machine.poll_step(step))
                    .map(|outcome| self.see(What::Outcome(outcome)))?;
                self.release(step)?;
            }
            Act::Get(n) => {
                if let Some(step) = self.pick(*n) {
                    let outcome = self.wait(|machine| machine.poll_step(step))?;
                    self.see(What::Outcome(outcome));
                }
            }
            Act::Any { keep } => {
                if !self.held.is_empty() {
                    let held = self.held.clone();
                    let index = self.wait(|machine| machine.poll_any(&held))?;
                    self.see(What::Index(index));
                    if !keep {
                        self.let_go(index)?;
                    }
                }
            }
            Act::Drop(n) => {
                if !self.held.is_empty() {
                    self.let_go(n % self.held.len())?;
                }
            }
            Act::Set { takes, remove, replace, release } => {
                self.through_a_set(*takes, *remove, *replace, *release)?;
            }
            Act::Patched(id, acts) => {
                let place = format!("place {id}");
                if self.with_patches {
                    let patched = self.machine.patched(&place, self.world.clock)?;
                    self.see(What::Patched(patched));
                    if patched {
                        self.all(acts)?;
                    }
                }
            }
            Act::Branch(odd, even) => {
                let odd_one = match self.seen.last().map(|seen| &seen.what) {
                    Some(What::Outcome(Ok(json))) => json.as_str().len() % 2 == 1,
                    Some(What::Outcome(Err(failure))) => failure.kind == FailureKind::TimedOut,
                    Some(What::Index(index)) => index % 2 == 1,
                    Some(What::Look { now, cancelled, .. }) => *cancelled || now.0 % 2 == 1,
                    _ => false,
                };
                self.all(if odd_one { odd } else { even })?;
            }
            Act::Repeat(times, acts) => {
                for _ in 0..*times {
                    self.all(acts)?;
                }
            }
            Act::Random(length) => {
                let mut bytes = vec![0; *length];
                self.machine.random(&mut bytes);
                self.see(What::Random(bytes));
            }
            Act::Look => self.look(),
            Act::Emit => {
                let new = self.machine.give_out(Gift::Line);
                self.see(What::Emitted);
                if new {
                    self.given.push(self.seen.len());
                }
            }
        }
        assert!(now <= self.machine.look().0, "time goes on");
        self.look();
        Ok(())
    }

    fn start(&mut self, ask: &Ask) -> Result<Step, Stop> {
        let step = self.machine.schedule(&ask.op(), self.world.clock)?;
        self.see(What::Step(step));
        Ok(step)
    }

    fn pick(&self, n: usize) -> Option<Step> {
        self.held.get(n % self.held.len().max(1)).copied()
    }

    fn let_go(&mut self, index: usize) -> Result<(), Stop> {
        let step = self.held.remove(index);
        self.release(step)
    }

    fn release(&mut self, step: Step) -> Result<(), Stop> {
        self.machine.drop_step(step, self.world.clock)
    }

    fn through_a_set(
        &mut self,
        takes: usize,
        remove: Option<usize>,
        replace: Option<usize>,
        release: Option<usize>,
    ) -> Result<(), Stop> {
        let set = self.machine.set_new();
        // Which step the program means by a tag: what the set has to agree with.
        let mut members = HashMap::new();
        for (&step, tag) in self.held.iter().zip(100_u64..) {
            self.machine.set_add(set, step, tag)?;
            members.insert(tag, step);
        }
        self.something();
        let tag_of = |n: usize, held: usize| 100 + (n % held.max(1)) as u64;
        if let Some(tag) = remove.map(|n| tag_of(n, self.held.len())) {
            self.machine.set_remove(set, tag);
            members.remove(&tag);
        }
        if let (Some(n), Some(&step)) = (replace, self.held.last()) {
            let tag = tag_of(n, self.held.len());
            self.machine.set_add(set, step, tag)?;
            members.insert(tag, step);
        }
        if let Some(n) = release.filter(|_| !self.held.is_empty()) {
            let index = n % self.held.len();
            let step = self.held[index];
            members.retain(|_, member| *member != step);
            self.let_go(index)?;
        }
        for _ in 0..takes.min(members.len()) {
            let tag = self.wait(|machine| machine.poll_set(set))?;
            let step = members.remove(&tag).expect("a tag comes once, and only if it is in the set");
            assert!(self.machine.poll_step(step)?.is_some(), "a step that comes is done");
            self.see(What::Tag(tag));
        }
        self.machine.set_drop(set);
        Ok(())
    }

    /// Waits while the world goes on.
    fn wait<T>(&mut self, poll: impl Fn(&mut S) -> Result<Option<T>, Stop>) -> Result<T, Stop> {
        const PATIENCE: usize = 10_000;
        for _ in 0..PATIENCE {
            if let Some(found) = poll(&mut self.machine)? {
                return Ok(found);
            }
            let machine = self.machine.machine().expect("a model does not wait");
            assert!(machine.is_live(), "a replay does not wait");
            if self.world.is_still() {
                return Err(Stop::Ended);
            }
            self.world.go_on(machine);
        }
        panic!("the program waits for ever");
    }

    fn look(&mut self) {
        let (now, started, cancelled, tokens) = self.machine.look();
        self.see(What::Look { now, started, cancelled, tokens });
    }

    fn see(&mut self, what: What) {
        assert!(self.held.len() < limits::OPEN_STEPS);
        self.seen.push(Seen { observed: self.machine.position(), what });
    }
}
