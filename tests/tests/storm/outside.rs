//! Those who begin runs, send something to them, pause them, go on with them, and stop them.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use wfhost::store::RunState;
use wfhost_tests::Place;

use super::clock::Library;
use super::fleet::{Ended, Lives, finish};
use super::{Dice, programs};

/// What somebody wanted of a run.
#[derive(Clone, PartialEq, Debug)]
pub enum Wish {
    Signal,
    Answer { step: u64 },
    Cancel,
    Pause,
    Resume,
}

/// What he was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// That something failed: it may have been done.
    Unknown,
    Yes,
    No,
}

#[derive(Clone, Debug)]
pub struct Sent {
    /// Of all rounds the first.
    pub chain: String,
    pub run: String,
    pub wish: Wish,
    /// What a signal or an answer says.
    pub text: String,
    pub told: Told,
}

#[derive(Debug)]
pub struct Outside<'a> {
    place: &'a Place,
    lives: &'a Lives<'a>,
    library: Option<&'a Library>,
    pub sent: Mutex<Vec<Sent>>,
    pub begun: Mutex<BTreeSet<String>>,
    pub faults: Mutex<Vec<String>>,
    number: AtomicU64,
    /// How long a command takes, in milliseconds, by which others are aimed.
    takes_ms: AtomicU64,
    calm: AtomicBool,
}

/// A run at the moment before one of its questions closes, or at any.
struct Aim {
    run: String,
    chain: String,
    question: Option<(u64, u64)>,
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

impl<'a> Outside<'a> {
    pub fn new(place: &'a Place, lives: &'a Lives<'a>, library: Option<&'a Library>) -> Self {
        Self {
            place,
            lives,
            library,
            sent: Mutex::default(),
            begun: Mutex::default(),
            faults: Mutex::default(),
            number: AtomicU64::new(0),
            takes_ms: AtomicU64::new(30),
            calm: AtomicBool::new(false),
        }
    }

    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// The number of runs that have not ended.
    pub fn open(&self) -> u64 {
        let count = self.place.query(
            "SELECT count(*) FROM runs WHERE state NOT IN ('completed', 'failed', 'cancelled', 'continued')",
            "SELECT count(*) FROM hot WHERE state < 5",
        );
        count.parse().expect("a number")
    }

    fn command(&self, args: &[&str]) -> Told {
        self.told(args, finish(self.place, self.place.wfhost(args), None, || {}))
    }

    /// The same by somebody whose clock may be wrong, and who may be killed meanwhile.
    fn rashly(&self, args: &[&str], dice: &mut Dice) -> Told {
        let mut command = self.place.wfhost(args);
        let takes_ms = self.takes_ms.load(Ordering::Relaxed);
        self.mislead(&mut command, dice);
        let killed = dice.roll(10) == 0;
        let end = killed.then(|| (Duration::from_millis(dice.roll(2 * takes_ms + 1)), Signal::KILL));
        let begin = Instant::now();
        let ended = finish(self.place, command, end, || {});
        if ended != Ended::Told {
            // Those that had to wait for the database are no measure.
            let took_ms = (begin.elapsed().as_millis() as u64).min(200);
            self.takes_ms.store((takes_ms * 7 + took_ms) / 8, Ordering::Relaxed);
        }
        self.told(args, ended)
    }

    /// Gives one of eight processes a clock that is wrong from the beginning.
    fn mislead(&self, command: &mut Command, dice: &mut Dice) {
        if let Some(library) = self.library.filter(|_| dice.roll(8) == 0) {
            let name = format!("guest-{}", self.number.fetch_add(1, Ordering::Relaxed));
            library.clock(self.place, &name, command).set(dice.wrong());
        }
    }

    fn told(&self, args: &[&str], ended: Ended) -> Told {
        match ended {
            Ended::By(Some(0)) => Told::Yes,
            Ended::By(Some(2)) => Told::No,
            Ended::By(Some(4 | 6)) | Ended::Told => Told::Unknown,
            other => {
                self.faults.lock().unwrap().push(format!("{args:?}: {other:?}"));
                Told::Unknown
            }
        }
    }

    /// Goes on with a run here, for a short time.
    fn pass_by(&self, run: &str, dice: &mut Dice) {
        let (life, script) = self.lives.begin();
        let mut command = self.place.wfhost(["resume", "-q", run, "--agents", &script]);
        self.mislead(&mut command, dice);
        if dice.roll(2) == 0 {
            command.env("WFHOST_EVICT", "always");
        }
        let signal = if dice.roll(2) == 0 { Signal::KILL } else { Signal::TERM };
        let end = Some((Duration::from_millis(dice.roll(2_000)), signal));
        let ended = finish(self.place, command, end, || self.lives.killed(life));
        // It ended, failed, waits or was paused, had spent all, or somebody else has it.
        if !matches!(ended, Ended::Told | Ended::By(Some(0..=4 | 6))) {
            self.faults.lock().unwrap().push(format!("going on with {run}: {ended:?}"));
        }
    }

    /// Begins runs, so that always so many have not ended.
    pub fn begin_runs(&self, runs: u64, mut dice: Dice) {
        for n in 0.. {
            while !self.is_calm() && self.open() >= runs {
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.is_calm() {
                return;
            }
            let new = programs::new(n);
            let input = new.input.to_string();
            let begin = ["run", &new.module, "-q", "-d", "--id", &new.id, "-i", &input];
            // Refused is what is there already: the one before was killed.
            while self.rashly(&begin, &mut dice) == Told::Unknown {}
            self.begun.lock().unwrap().insert(new.id.clone());
            if let Some((name, payload)) = &new.signal {
                let payload = payload.to_string();
                let send = ["signal", &new.id, name, "-q", "-i", &payload, "--id", "once"];
                while self.rashly(&send, &mut dice) == Told::Unknown {}
            }
        }
    }

    /// Disturbs runs that read what they are sent, at the worst moments if possible.
    pub fn disturb(&self, mut dice: Dice) {
        while !self.is_calm() {
            let worst = if dice.roll(4) > 0 { closing(self.place) } else { None };
            let Some(aim) = worst.or_else(|| any(self.place)) else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            if let Some((_, deadline)) = aim.question {
                let lead = dice.roll(2 * self.takes_ms.load(Ordering::Relaxed) + 10);
                let rest = deadline.saturating_sub(millis() + lead);
                std::thread::sleep(Duration::from_millis(rest));
            }
            self.act(&aim, &mut dice);
        }
    }

    fn act(&self, aim: &Aim, dice: &mut Dice) {
        let text = format!("no. {}.", self.number.fetch_add(1, Ordering::Relaxed));
        let quoted = format!("{text:?}");
        let run = aim.run.clone();
        let (run, wish, told) = match dice.roll(22) {
            0..6 => match aim.question {
                Some((step, _)) => {
                    let told = self.rashly(&["answer", &run, &step.to_string(), "-q", "-i", &quoted], dice);
                    (run, Wish::Answer { step }, told)
                }
                None => return,
            },
            6..14 => {
                // To the round itself, or to the first one of all.
                let to = if dice.roll(2) == 0 { &run } else { &aim.chain };
                let mut args = vec!["signal", to, "note", "-q", "-i", &quoted];
                if dice.roll(2) == 0 {
                    args.extend(["--id", &text]);
                }
                let told = self.rashly(&args, dice);
                (run, Wish::Signal, told)
            }
            14..16 => {
                let told = self.rashly(&["pause", "-q", &run], dice);
                (run, Wish::Pause, told)
            }
            16..19 => {
                let Some(paused) = one_that_is("paused", self.place) else { return };
                let told = self.rashly(&["resume", "-q", "-d", &paused], dice);
                (paused, Wish::Resume, told)
            }
            19 => {
                let (_, script) = self.lives.begin();
                let told = self.rashly(&["cancel", "-q", &run, "--agents", &script], dice);
                (run, Wish::Cancel, told)
            }
            _ => {
                // One that nobody advances at the moment, whatever it does.
                let parked = one_that_is("waiting", self.place);
                return self.pass_by(parked.as_ref().unwrap_or(&run), dice);
            }
        };
        self.sent.lock().unwrap().push(Sent { chain: aim.chain.clone(), run, wish, text, told });
    }

    /// Goes on with all that is paused.
    pub fn resume_all(&self) {
        while let Some(run) = one_that_is("paused", self.place) {
            if self.command(&["resume", "-q", "-d", &run]) != Told::Yes {
                return;
            }
        }
    }
}

/// A question that is about to close.
fn closing(place: &Place) -> Option<Aim> {
    let (from, to) = (millis() + 20, millis() + 1_000);
    let found = place.query(
        &format!(
            "SELECT r.name, ifnull(r.chain, r.name), q.step, q.deadline FROM questions q JOIN runs r ON r.id = q.run
             WHERE q.answered = 0 AND q.deadline BETWEEN {from} AND {to} AND r.name GLOB 's*'
             ORDER BY random() LIMIT 1"
        ),
        &format!(
            "SELECT r.name, coalesce(r.chain, r.name), q.step, q.deadline FROM questions q JOIN runs r USING (run)
             WHERE NOT q.answered AND q.deadline BETWEEN {from} AND {to} AND r.name LIKE 's%'
             ORDER BY random() LIMIT 1"
        ),
    );
    let mut values = found.split('|').map(str::to_owned);
    let (run, chain) = (values.next().filter(|run| !run.is_empty())?, values.next()?);
    let question = (values.next()?.parse().ok()?, values.next()?.parse().ok()?);
    Some(Aim { run, chain, question: Some(question) })
}

fn any(place: &Place) -> Option<Aim> {
    let found = place.query(
        "SELECT name, ifnull(chain, name) FROM runs WHERE name GLOB 's*'
         AND state IN ('queued', 'running', 'waiting', 'paused') ORDER BY random() LIMIT 1",
        "SELECT name, coalesce(chain, name) FROM runs JOIN hot USING (run) WHERE name LIKE 's%' AND state < 4
         ORDER BY random() LIMIT 1",
    );
    let (run, chain) = found.split_once('|')?;
    Some(Aim { run: run.to_owned(), chain: chain.to_owned(), question: None })
}

fn one_that_is(state: &str, place: &Place) -> Option<String> {
    let number = RunState::ALL.iter().position(|known| known.as_str() == state).expect("a state");
    let found = place.query(
        &format!("SELECT name FROM runs WHERE state = '{state}' ORDER BY random() LIMIT 1"),
        &format!(
            "SELECT name FROM runs JOIN hot USING (run) WHERE state = {number} ORDER BY random() LIMIT 1"
        ),
    );
    (!found.is_empty()).then_some(found)
}
