//! Counts the instructions of a few paths that everything depends on, and
//! compares them with those that are recorded in `instructions.txt`.
//!
//!     tests/guard/run             fails if one has grown
//!     tests/guard/run --record    records them anew, on purpose
//!
//! Valgrind counts. Each path is executed with two numbers of repetitions in
//! processes of their own; the difference is what the repetitions took, without
//! the start of the process. No time is measured, so the load of the machine
//! does not matter. Another compiler makes other instructions: the record says
//! by which one it was made, and under another one growth is only reported.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use wfhost_core::{
    AgentRequest, Digest, Entry, Epoch, Journal, Json, Machine, Op, Position, Row, RunConfig, Started,
    Timestamp, Work,
};
use wfhost_store::{
    Append, MessageBody, NewMessage, NewRun, Next, Owner, SessionId, SharedStore, SqliteOptions, SqliteStore,
    Synchronous, Wanted,
};

/// A path grows if it takes more than this part more.
const TOLERANCE: f64 = 0.03;

/// One path: prepares itself, then executes so many repetitions.
struct GuardedPath {
    name: &'static str,
    execute: fn(u64),
    /// Few enough for a second or two under valgrind.
    repetitions: u64,
}

const PATHS: [GuardedPath; 8] = [
    GuardedPath { name: "live step", execute: live_steps, repetitions: 1_000 },
    GuardedPath { name: "replayed step", execute: replayed_steps, repetitions: 1_000 },
    GuardedPath { name: "entry read and checked", execute: entries_read, repetitions: 2_000 },
    GuardedPath { name: "entry written and read", execute: entries_coded, repetitions: 2_000 },
    GuardedPath { name: "JSON of 10 kB checked", execute: json_checked, repetitions: 20 },
    GuardedPath { name: "JSON of 10 kB compared", execute: json_compared, repetitions: 20 },
    GuardedPath { name: "append to SQLite", execute: appends, repetitions: 200 },
    GuardedPath { name: "signal and claim in SQLite", execute: claims, repetitions: 100 },
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => check(false),
        ["--record"] => check(true),
        ["--execute", name, repetitions] => {
            let path = PATHS.iter().find(|path| path.name == name).expect("a path of this program");
            (path.execute)(repetitions.parse().expect("a number"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: tests/guard/run [--record]");
            ExitCode::from(2)
        }
    }
}

/// Counts all paths and compares, or records.
fn check(record: bool) -> ExitCode {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt");
    let recorded = std::fs::read_to_string(&file).unwrap_or_default();
    let compiler = compiler();
    let same_compiler = recorded.lines().any(|line| line == format!("# {compiler}"));
    let mut text = format!("# Instructions of each path; see main.rs. Recorded with\n# {compiler}\n");
    let mut grown = 0;
    for path in &PATHS {
        let count = count(path);
        writeln!(text, "{:>10}  {}", count, path.name).expect("memory");
        let before = recorded.lines().find_map(|line| {
            let (number, name) = line.trim().split_once("  ")?;
            number.parse::<u64>().ok().filter(|_| name == path.name)
        });
        let change = before.map(|before| count as f64 / before as f64 - 1.0);
        let verdict = match change {
            None => "not recorded",
            Some(change) if change > TOLERANCE => "GROWN",
            Some(change) if change < -TOLERANCE => "less: worth recording",
            Some(_) => "",
        };
        grown += u32::from(change.is_none_or(|change| change > TOLERANCE));
        let change = change.map_or(String::new(), |change| format!("{:+.1} %", change * 100.0));
        println!("{:<28} {count:>10} {change:>9}  {verdict}", path.name);
    }
    if record {
        std::fs::write(&file, text).expect("the record can be written");
        return ExitCode::SUCCESS;
    }
    match (grown, same_compiler) {
        (0, _) => ExitCode::SUCCESS,
        (_, true) => {
            eprintln!("Paths that everything depends on take more instructions than they did.");
            eprintln!("If that is meant: tests/guard/run --record");
            ExitCode::FAILURE
        }
        (_, false) => {
            eprintln!("The record was made by another compiler than {compiler}: nothing can be said.");
            ExitCode::SUCCESS
        }
    }
}

/// What decides about the instructions besides the source.
fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().expect("a compiler");
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    format!("{}, profile {profile}", String::from_utf8_lossy(&version.stdout).trim())
}

/// The instructions of one repetition.
fn count(path: &GuardedPath) -> u64 {
    let of = |repetitions: u64| {
        let this = std::env::current_exe().expect("a program knows its file");
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--read-inline-info=no"]);
        // A path may come before a thread that it waits for, or after: not so many rounds of waiting.
        valgrind.arg("--fair-sched=yes").arg(this).args(["--execute", path.name, &repetitions.to_string()]);
        let said = valgrind.output().expect("valgrind, which tests/setup installs");
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{text}");
        let collected = text.lines().find_map(|line| line.split_once("Collected : "));
        let (_, number) = collected.expect("what callgrind has collected");
        number.trim().parse::<u64>().expect("a number")
    };
    (of(2 * path.repetitions) - of(path.repetitions)) / path.repetitions
}

// The paths.

fn started() -> Started {
    Started {
        run: "run_01k9guard".parse().expect("an id"),
        workflow: "guard".to_owned(),
        module: Digest::of(b"guard"),
        input: Json::null(),
        seed: [7; 32],
        config: RunConfig::default(),
        labels: Vec::new(),
        parent: None,
        child: None,
        origin: None,
    }
}

fn call(number: u64) -> Op {
    let prompt = format!("step {number}: summarise what was found so far, and say what is to be done next");
    Op::Agent(Box::new(AgentRequest { prompt, ..AgentRequest::default() }))
}

fn answer() -> Json {
    let text =
        r#"{"output":"an answer of ordinary length, that says what there is to say","provider":"echo"}"#;
    Json::parse(text.to_owned()).expect("JSON")
}

fn row(machine: &mut Machine) -> Row {
    Row::from(machine.take_unsaved().expect("entries"))
}

/// One step as a program and its driver make it. Gives what is committed before it is carried out.
fn live_step(machine: &mut Machine, number: u64, answer: &Json) -> Row {
    let at = Timestamp(1_000 + number);
    let step = machine.schedule(&call(number), at).expect("a step");
    let work = machine.take_work(at);
    assert!(matches!(work[..], [Work::Execute { .. }]));
    let row = row(machine);
    assert!(machine.complete(step, Ok(answer.clone()), at));
    assert!(machine.poll_step(step).expect("a step").is_some());
    machine.drop_step(step, at).expect("a step");
    row
}

fn live_steps(repetitions: u64) {
    let (mut machine, answer) = (Machine::start(started(), Timestamp(0)), answer());
    for number in 0..repetitions {
        live_step(&mut machine, number, &answer);
    }
}

fn rows(steps: u64) -> Vec<Row> {
    let (mut machine, answer) = (Machine::start(started(), Timestamp(0)), answer());
    let mut rows: Vec<_> = (0..steps).map(|number| live_step(&mut machine, number, &answer)).collect();
    machine.finish(Ok(Json::null()), Timestamp(u64::MAX >> 1)).expect("an end");
    rows.push(row(&mut machine));
    rows
}

/// Twice as many repetitions record twice as many steps as well: that is counted with them.
fn replayed_steps(repetitions: u64) {
    let journal = Journal::read(rows(repetitions)).expect("a journal");
    let mut machine = Machine::open(journal, wfhost_core::Given::default()).expect("a run");
    for number in 0..repetitions {
        let step = machine.schedule(&call(number), Timestamp(0)).expect("the same step");
        assert!(machine.poll_step(step).expect("a step").is_some());
        machine.drop_step(step, Timestamp(0)).expect("a step");
    }
}

fn entries_read(repetitions: u64) {
    let rows = rows(10);
    for _ in 0..repetitions / 20 {
        assert_eq!(Journal::read(rows.iter().cloned()).expect("a journal").entries.len(), 22);
    }
}

fn entries_coded(repetitions: u64) {
    let rows = rows(1);
    let (_, entry) = rows[1].entries().next().expect("an entry").expect("a whole entry");
    let mut bytes = Vec::new();
    for _ in 0..repetitions {
        bytes.clear();
        entry.encode_to(&mut bytes);
        assert_eq!(Entry::decode(&bytes, Position(0)).expect("the same entry").1, bytes.len());
    }
}

/// Objects in a list, 10 kB, with the keys in one order or the other.
fn document(turned: bool) -> String {
    let object = match turned {
        false => r#"{"name":"a part","number":12345,"tags":["x","y"],"done":true}"#,
        true => r#"{"done":true,"tags":["x","y"],"number":12345,"name":"a part"}"#,
    };
    format!("[{}]", vec![object; 160].join(","))
}

fn json_checked(repetitions: u64) {
    let text = document(false);
    for _ in 0..repetitions {
        Json::parse(text.clone()).expect("JSON");
    }
}

fn json_compared(repetitions: u64) {
    let (one, other) = (document(false), document(true));
    let (one, other) = (Json::parse(one).expect("JSON"), Json::parse(other).expect("JSON"));
    for _ in 0..repetitions {
        assert!(one.means(&other));
    }
}

/// A database in memory as far as possible, and a run in it that is owned here.
struct Kept {
    store: SharedStore,
    machine: Machine,
    session: SessionId,
    /// Of the last row.
    head: Digest,
    /// Of the last commit, as a driver knows it.
    place: Option<u64>,
    dir: PathBuf,
}

impl Kept {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("wfhost-guard-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
        let store = SqliteStore::open(&dir.join("guard.db"), &options).expect("a database");
        let owner = Owner { host: "guard".to_owned(), realm: "guard".to_owned(), pid: 1, started: 1 };
        let mut machine = Machine::start(started(), Timestamp(0));
        let rows = vec![row(&mut machine)];
        let store: SharedStore = Arc::new(store);
        let session = wait(store.begin_session(&owner, u64::MAX >> 2)).expect("a session");
        let head = machine.head();
        let new = NewRun { session: Some(session), ..NewRun::new(&machine, rows) };
        let kept = Self { store, machine, session, head, place: None, dir };
        wait(kept.store.put_module("guard", b"guard")).expect("a module");
        wait(kept.store.create(new)).expect("a run");
        kept
    }

    fn append(&mut self, epoch: u64, row: Option<Row>, next: Next) {
        let at = self.machine.last_at();
        let (before, head) = (self.head, row.as_ref().map(|row| row.head));
        let append = Append {
            before,
            row,
            after: self.place,
            ..Append::new(started().run, self.session, Epoch(epoch), at, next)
        };
        self.head = head.unwrap_or(self.head);
        self.place = wait(self.store.append(append)).expect("an append").place;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Open files can be removed.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

fn appends(repetitions: u64) {
    let (mut kept, answer) = (Kept::new(), answer());
    for number in 0..repetitions {
        let row = live_step(&mut kept.machine, number, &answer);
        kept.append(1, Some(row), Next::Go);
    }
}

/// A parked run is sent a signal, found due, and claimed.
fn claims(repetitions: u64) {
    let mut kept = Kept::new();
    let waiting = || {
        let mut waiting = wfhost_store::Waiting::default();
        waiting.signals.push("go".to_owned());
        Next::Park(waiting)
    };
    kept.append(1, None, waiting());
    for number in 0..repetitions {
        let run = started().run;
        let body = MessageBody::Signal { name: "go".to_owned(), payload: Json::null(), id: None };
        wait(kept.store.post(NewMessage { run: run.clone(), body })).expect("a signal");
        let due = wait(kept.store.claim_due(kept.session, 10, Wanted::default())).expect("a list");
        let [Ok(opened)] = &due.runs[..] else { panic!("one run is due: {due:?}") };
        let epoch = Epoch(2 + number);
        let consumed = opened.inbox.messages.iter().map(|message| message.id).collect();
        let at = Timestamp(2_000 + number);
        let append = Append { consumed, ..Append::new(run, kept.session, epoch, at, waiting()) };
        assert!(!wait(kept.store.append(append)).expect("an append").due);
    }
}
