//! The rules of the machine, told as conversations between a program, the
//! machine and the world.

mod attempts;
mod calls;
mod ends;
mod families;
mod given;
mod mismatches;
mod people;
mod resuming;
mod retries;
mod sets;
mod signals;
mod time;

use serde_json::{Value, json};

use super::*;
use crate::journal::extend_chain;
use crate::{AgentRequest, Row, RunConfig, decode_op};

/// When the runs of these tests begin.
const DAWN: Timestamp = Timestamp(1_000_000);

fn started() -> Started {
    Started {
        run: "run-1".parse().unwrap(),
        workflow: "talk".to_owned(),
        module: Digest::of(b"the module"),
        input: Json::from(json!({"topic": "cats"})),
        seed: [7; 32],
        config: RunConfig::default(),
        labels: vec![],
        parent: None,
        child: None,
        origin: None,
    }
}

fn agent(prompt: &str) -> Op {
    Op::Agent(Box::new(AgentRequest { prompt: prompt.to_owned(), ..Default::default() }))
}

fn sleep(length_ms: u64) -> Op {
    Op::Sleep { length_ms }
}

fn signal(name: &str) -> Op {
    Op::Signal { name: name.to_owned(), timeout_ms: None }
}

fn signal_within(name: &str, millis: u64) -> Op {
    Op::Signal { name: name.to_owned(), timeout_ms: Some(millis) }
}

fn said(value: impl Into<Value>) -> Outcome {
    Ok(Json::from(value.into()))
}

fn failed(kind: FailureKind, message: &str) -> Outcome {
    Err(Failure::new(kind, message))
}

/// One machine after the other over one journal, with a clock to turn.
struct Talk {
    m: Machine,
    rows: Vec<Row>,
    clock: Timestamp,
    /// What is stored of what the program gave out.
    given: Given,
}

impl Talk {
    fn start() -> Self {
        Self { m: Machine::start(started(), DAWN), rows: vec![], clock: DAWN, given: Given::default() }
    }

    /// Commits what was appended. Gives the number of entries.
    fn save(&mut self) -> u32 {
        if let Some(given) = self.m.given() {
            self.m.gave_out(given);
            self.given = given;
        }
        let Some(Unsaved { first, count, bytes, head }) = self.m.take_unsaved() else { return 0 };
        self.rows.push(Row { first, count, bytes, head });
        count
    }

    fn journal(&mut self) -> Journal {
        self.save();
        Journal::read(self.rows.clone()).unwrap()
    }

    /// The host dies after a commit and another one goes on.
    fn reopen(&mut self) {
        self.m = Machine::open(self.journal(), self.given).unwrap();
    }

    /// The kinds of the entries after `started`, with their steps.
    fn told(&mut self) -> Vec<String> {
        let tell = |entry: &Entry| match &entry.event {
            Event::Scheduled { step, .. } | Event::Completed { step, .. } | Event::Cancelled { step } => {
                format!("{} {step}", entry.event.kind())
            }
            Event::Attempted { step, attempt, .. } => format!("attempted {step} {attempt}"),
            event => event.kind().to_owned(),
        };
        self.journal().entries[1..].iter().map(tell).collect()
    }

    fn pass(&mut self, millis: u64) {
        self.clock = self.clock.after(millis);
        self.m.fire_timers(self.clock);
    }

    fn ask(&mut self, op: Op) -> Step {
        self.m.schedule(&op, self.clock).unwrap()
    }

    fn agent(&mut self, prompt: &str) -> Step {
        self.ask(agent(prompt))
    }

    /// The answer to a step, which must be there.
    fn got(&mut self, step: Step) -> Outcome {
        self.m.poll_step(step).unwrap().expect("the step is done")
    }

    /// The step is done, however.
    fn see(&mut self, step: Step) {
        drop(self.got(step));
    }

    /// The program has to wait for the step.
    fn waits(&mut self, step: Step) {
        assert_eq!(self.m.poll_step(step), Ok(None), "the program waits");
    }

    fn any(&mut self, steps: &[Step]) -> Option<usize> {
        self.m.poll_any(steps).unwrap()
    }

    fn answer(&mut self, step: Step, text: &str) {
        assert!(self.m.complete(step, said(text), self.clock), "the step is open");
    }

    fn signal(&mut self, name: &str, payload: u64) {
        assert!(self.m.receive(name.to_owned(), Json::from(json!(payload)), None, self.clock));
    }

    fn cancel(&mut self) {
        assert!(self.m.request_cancel(Some("enough".to_owned()), self.clock));
    }

    fn drop(&mut self, step: Step) {
        self.m.drop_step(step, self.clock).unwrap();
    }

    /// The program writes so many lines. Gives how many of them are new.
    fn lines(&mut self, number: usize) -> usize {
        (0..number).filter(|_| self.m.give_out(Gift::Line)).count()
    }

    /// The program posts a message. True if it goes out.
    fn posts(&mut self) -> bool {
        self.m.give_out(Gift::Message)
    }

    fn patched(&mut self, id: &str) -> bool {
        self.m.patched(id, self.clock).unwrap()
    }

    fn finish(&mut self, result: impl Into<Value>) {
        self.m.finish(said(result), self.clock).unwrap();
    }

    /// What is to be done, as `call 1 #1 prompt`, `do 1 op` and `stop 1`.
    fn work(&mut self) -> Vec<String> {
        let tell = |work| match work {
            Work::Execute { step, attempt, op: Op::Agent(request) } => {
                format!("call {step} #{attempt} {}", request.prompt)
            }
            Work::Execute { step, attempt, op } => format!("do {step} #{attempt} {}", op.kind()),
            Work::Fail { step, failure } => format!("fail {step} {}", failure.message),
            Work::Abort { step } => format!("stop {step}"),
        };
        self.m.take_work(self.clock).into_iter().map(tell).collect()
    }

    /// Nothing was appended that is not committed.
    fn silent(&self) {
        assert!(!self.m.has_unsaved(), "nothing is appended");
    }

    /// The program replays a whole journal that has ended: nothing is appended and nothing to do.
    fn nothing_left(&mut self) {
        self.silent();
        assert_eq!(self.work(), [""; 0]);
        assert!(self.m.is_live());
    }
}
