//! Processes that serve one database, and what befalls them.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use wfhost_tests::Place;

use super::clock::{Clock, Library};
use super::{Dice, programs};

const LEASE: Duration = Duration::from_secs(3);
/// A clock that is wrong for longer than this is believed.
const BELIEVED_AFTER: Duration = Duration::from_secs(10);
/// How long a process may take to leave, waits for a lock that a stopped one holds included.
const LEAVES_WITHIN: Duration = Duration::from_secs(30);

/// A call that was made.
#[derive(Debug, Clone)]
pub struct Call {
    pub run: String,
    pub step: u64,
    pub attempt: u64,
    /// Who made it: the number of his life.
    pub by: usize,
    /// When it was noticed.
    pub seen: Instant,
}

/// What is known of a process, which may have ended.
#[derive(Debug)]
struct Life {
    calls: PathBuf,
    /// How much of the calls was read.
    read: usize,
    killed: Option<Instant>,
}

/// Everything that happened to processes, for all of them.
#[derive(Debug, Default)]
struct Happened {
    lives: Vec<Life>,
    calls: Vec<Call>,
    /// Those that were long.
    stops: Vec<(Instant, Instant)>,
    /// When calls were noticed the last time.
    watched: Option<Instant>,
}

#[derive(Debug)]
pub struct Lives<'a> {
    place: &'a Place,
    happened: Mutex<Happened>,
}

impl<'a> Lives<'a> {
    pub fn new(place: &'a Place) -> Self {
        Self { place, happened: Mutex::default() }
    }

    /// A new one, and the script of its agents, which records its own calls.
    pub fn begin(&self) -> (usize, String) {
        let lives = &mut self.happened.lock().unwrap().lives;
        let number = lives.len();
        let calls = format!("calls-{number}.jsonl");
        let script = programs::answers(&calls).to_string();
        lives.push(Life { calls: self.place.path(&calls), read: 0, killed: None });
        (number, self.place.file(&format!("agents-{number}.json"), script))
    }

    /// Notices the calls that were made since the last time, which is to be a moment ago: if it is not, this machine has
    /// kept everybody waiting, also those who have leases.
    pub fn watch(&self) {
        let watched = self.happened.lock().unwrap().watched.replace(Instant::now());
        watched.into_iter().for_each(|watched| self.stopped(watched));
        let Happened { lives, calls, .. } = &mut *self.happened.lock().unwrap();
        let over = |life: &Life| life.killed.is_some_and(|at| at.elapsed() > LEAVES_WITHIN);
        for (by, life) in lives.iter_mut().enumerate().filter(|(_, life)| !over(life)) {
            let Ok(text) = std::fs::read_to_string(&life.calls) else { continue };
            let seen = Instant::now();
            // The last line may have come in part.
            let end = text.rfind('\n').map_or(0, |last| last + 1);
            for line in text[life.read..end].lines() {
                let call: Value = serde_json::from_str(line).expect("a recorded call");
                let number = |name: &str| call[name].as_u64().expect("a number");
                let run = call["run"].as_str().expect("an id").to_owned();
                calls.push(Call { run, step: number("step"), attempt: number("attempt"), by, seen });
            }
            life.read = end;
        }
    }

    /// All calls that were noticed.
    pub fn calls(&self) -> Vec<Call> {
        self.happened.lock().unwrap().calls.clone()
    }

    /// Whether something befell a process that can be why a call was made again: that who made it
    /// ended, or that somebody was stopped for so long that a lease can run out. Who is stopped may
    /// hold the database's lock, so that nobody else can keep his lease.
    pub fn explain(&self, first: &Call, again: &Call) -> bool {
        const SLACK: Duration = Duration::from_millis(500);
        let happened = self.happened.lock().unwrap();
        let before = |at: &Instant| *at <= again.seen + SLACK;
        happened.lives[first.by].killed.as_ref().is_some_and(before)
            || happened.stops.iter().any(|(begin, end)| before(begin) && *end + SLACK >= first.seen)
    }

    /// Somebody is about to be told to end.
    pub fn killed(&self, number: usize) {
        self.happened.lock().unwrap().lives[number].killed = Some(Instant::now());
    }

    /// Somebody, or the database, did nothing since then.
    pub fn stopped(&self, since: Instant) {
        // A lease is renewed long before it is over.
        if since.elapsed() >= LEASE / 2 {
            self.happened.lock().unwrap().stops.push((since, Instant::now()));
        }
    }
}

#[derive(Debug)]
struct Server {
    child: Child,
    life: usize,
    clock: Option<Clock>,
    begun: Instant,
    /// Since when it is stopped, and until when it is to be.
    stopped: Option<(Instant, Instant)>,
    /// Until when its clock is wrong.
    wrong_until: Option<Instant>,
}

/// How often something happened.
#[derive(Debug, Default)]
pub struct Figures {
    pub processes: u64,
    pub kills: u64,
    pub stops: u64,
    pub long_stops: u64,
    pub terms: u64,
    pub jumps: u64,
}

#[derive(Debug)]
pub struct Fleet<'a> {
    place: &'a Place,
    lives: &'a Lives<'a>,
    library: Option<&'a Library>,
    dice: Dice,
    max_live: String,
    servers: Vec<Server>,
    /// They were told to end: since when.
    leaving: Vec<(Child, Instant)>,
    next: Instant,
    pub figures: Figures,
    pub faults: Vec<String>,
}

/// Where the processes of a place write what goes wrong.
fn log(place: &Place) -> File {
    let file = OpenOptions::new().create(true).append(true).open(place.path("log"));
    file.expect("a test writes its files")
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it is not waited for yet");
}

impl<'a> Fleet<'a> {
    pub fn new(
        lives: &'a Lives<'a>,
        library: Option<&'a Library>,
        dice: Dice,
        count: u64,
        runs: u64,
    ) -> Self {
        let mut fleet = Self {
            place: lives.place,
            lives,
            library,
            dice,
            // Each has its share and not much more, so that there always is work under way.
            max_live: (runs / count * 2).max(4).to_string(),
            servers: Vec::new(),
            leaving: Vec::new(),
            next: Instant::now(),
            figures: Figures::default(),
            faults: Vec::new(),
        };
        fleet.servers = (0..count).map(|_| fleet.serve()).collect();
        fleet
    }

    fn serve(&mut self) -> Server {
        self.figures.processes += 1;
        let (life, script) = self.lives.begin();
        let grace = ["0s", "1s", "5s"][self.dice.roll(3) as usize];
        let args = ["serve", "-q", "--agents", &script, "--max-live", &self.max_live, "--grace", grace];
        let mut command = self.place.wfhost(args);
        command.env("WFHOST_LEASE_MS", LEASE.as_millis().to_string());
        if self.dice.roll(3) == 0 {
            command.env("WFHOST_EVICT", "always");
        }
        let clock = self.library.map(|library| library.clock(self.place, &life.to_string(), &mut command));
        let mut wrong_until = None;
        if let Some(clock) = clock.as_ref().filter(|_| self.dice.roll(12) == 0) {
            // It knows no better when it begins.
            clock.set(self.dice.wrong());
            wrong_until = Some(Instant::now() + Duration::from_secs(5 + self.dice.roll(10)));
            self.figures.jumps += 1;
        }
        let child = command.stdout(Stdio::null()).stderr(log(self.place)).spawn().expect("the binary starts");
        Server { child, life, clock, begun: Instant::now(), stopped: None, wrong_until }
    }

    /// What is due at this moment. Things befall processes while the storm lasts.
    pub fn tick(&mut self, storm: bool) {
        self.lives.watch();
        let now = Instant::now();
        for server in &mut self.servers {
            if server.stopped.is_some_and(|(_, until)| until <= now || !storm) {
                server.go_on(self.lives);
            }
            if server.wrong_until.is_some_and(|until| until <= now || !storm) {
                server.wrong_until = None;
                server.clock.iter().for_each(|clock| clock.set(0));
            }
        }
        self.reap();
        if storm && self.next <= now {
            let pause = Duration::from_millis(50 + self.dice.roll(350));
            self.next = now + pause;
            let victim = self.dice.roll(self.servers.len() as u64) as usize;
            self.befall(victim);
        }
    }

    fn befall(&mut self, victim: usize) {
        let now = Instant::now();
        match self.dice.roll(12) {
            // Also one that is stopped.
            0..4 => {
                let mut server = self.replace(victim);
                server.child.kill().expect("it is not waited for yet");
                server.child.wait().expect("it was killed");
                if let Some((since, _)) = server.stopped {
                    self.lives.stopped(since);
                }
                self.figures.kills += 1;
            }
            4..6 if self.servers[victim].stopped.is_none() => {
                let server = self.replace(victim);
                send(&server.child, Signal::TERM);
                self.leaving.push((server.child, now));
                self.figures.terms += 1;
            }
            6..9 if self.servers[victim].stopped.is_none() => {
                let long = self.dice.roll(3) == 0;
                let millis =
                    if long { LEASE.as_millis() as u64 + self.dice.roll(2_000) } else { self.dice.roll(800) };
                let server = &mut self.servers[victim];
                send(&server.child, Signal::STOP);
                server.stopped = Some((now, now + Duration::from_millis(millis)));
                self.figures.stops += 1;
                self.figures.long_stops += u64::from(long);
            }
            9..12 if self.servers[victim].wrong_until.is_none() => {
                // One that has only begun may not have read its clock, and believes whatever it shows.
                let new = self.servers[victim].begun.elapsed() < Duration::from_secs(3);
                let believed = new || self.dice.roll(2) == 0;
                let length = match believed {
                    true => BELIEVED_AFTER + Duration::from_secs(3),
                    false => Duration::from_millis(100 + self.dice.roll(8_000)),
                };
                let ahead_ms = self.dice.wrong();
                let server = &mut self.servers[victim];
                if let Some(clock) = &server.clock {
                    clock.set(ahead_ms);
                    server.wrong_until = Some(now + length);
                    self.figures.jumps += 1;
                }
            }
            _ => {}
        }
    }

    /// Puts another process in the place of one that is about to end.
    fn replace(&mut self, victim: usize) -> Server {
        let new = self.serve();
        let old = std::mem::replace(&mut self.servers[victim], new);
        self.lives.killed(old.life);
        old
    }

    /// Waits for those that were told to end.
    fn reap(&mut self) {
        let faults = &mut self.faults;
        self.leaving.retain_mut(|(child, since)| {
            let status = match child.try_wait().expect("a child can be waited for") {
                Some(status) => status,
                None if since.elapsed() < LEAVES_WITHIN => return true,
                None => {
                    faults.push(format!("process {} was told to end and does not", child.id()));
                    child.kill().expect("it is not waited for yet");
                    child.wait().expect("it was killed")
                }
            };
            // One that had only begun may not know of signals yet.
            if status.code() != Some(128 + 15) && status.signal() != Some(15) {
                faults.push(format!("process {} was told to end: {status}", child.id()));
            }
            false
        });
        for place in 0..self.servers.len() {
            if let Some(status) = self.servers[place].child.try_wait().expect("a child can be waited for") {
                let gone = self.replace(place);
                // One that finds no server when it begins says so.
                if self.place.on_a_server()
                    && status.code() == Some(4)
                    && gone.begun.elapsed() < Duration::from_secs(10)
                {
                    continue;
                }
                self.faults.push(format!("process {} has left by itself: {status}", gone.child.id()));
            }
        }
    }

    /// Ends all, once they have shown that they rest.
    pub fn end(&mut self) {
        const MEASURED: Duration = Duration::from_secs(3);
        std::thread::sleep(Duration::from_secs(1));
        let before: Vec<_> = self.servers.iter().map(|server| cpu_ticks(&server.child)).collect();
        std::thread::sleep(MEASURED);
        for (server, before) in self.servers.iter().zip(before) {
            let used = cpu_ticks(&server.child).zip(before).map(|(after, before)| after - before);
            // A tick is a hundredth of a second: this is a tenth of a core.
            if used.is_some_and(|ticks| ticks > 10 * MEASURED.as_secs()) {
                self.faults.push(format!("process {} does not rest: {used:?} ticks", server.child.id()));
            }
        }
        for server in self.servers.drain(..) {
            send(&server.child, Signal::TERM);
            self.lives.killed(server.life);
            self.leaving.push((server.child, Instant::now()));
        }
        while !self.leaving.is_empty() {
            self.reap();
            std::thread::sleep(Duration::from_millis(10));
        }
        self.lives.watch();
    }
}

impl Server {
    fn go_on(&mut self, lives: &Lives<'_>) {
        if let Some((since, _)) = self.stopped.take() {
            send(&self.child, Signal::CONT);
            lives.stopped(since);
        }
    }
}

/// The time that a process has had of a processor, where the system says so.
fn cpu_ticks(child: &Child) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // After the name, which is in parentheses: the twelfth and the thirteenth field.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// How a command came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    By(Option<i32>),
    /// It was sent a signal before.
    Told,
    /// It did not come to one.
    Not,
}

/// Runs a command to its end, or sends it a signal after some time.
pub fn finish(
    place: &Place,
    mut command: Command,
    mut end: Option<(Duration, Signal)>,
    before: impl Fn(),
) -> Ended {
    let mut child = command.stdout(Stdio::null()).stderr(log(place)).spawn().expect("the binary starts");
    let (begin, told) = (Instant::now(), end.is_some());
    while begin.elapsed() < Duration::from_secs(60) {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return if told && end.is_none() { Ended::Told } else { Ended::By(status.code()) };
        }
        if let Some((_, signal)) = end.take_if(|(after, _)| *after <= begin.elapsed()) {
            before();
            send(&child, signal);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it is not waited for yet");
    child.wait().expect("it was killed");
    Ended::Not
}
