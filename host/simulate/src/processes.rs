//! Executions in further processes of this very program.
//!
//! Threads of one process hinder one another here: whenever a program takes memory or gives it back, the system
//! interrupts the processors that have other threads of the process. So each thread but the first has a process for it,
//! if that may be ([`execute_in_processes`]). A process that does not start, ends or hangs changes nothing but the speed:
//! its seeds are executed by others, and the sums of all seeds are the same whoever had them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wfhost::engine::Engine;
use wfhost::schema::on_one_thread;
use wfhost::world::environment;

use crate::execution::Program;
use crate::explore::Simulator;
use crate::scenario::Scenario;
use crate::tally::Tally;

/// What such a process is called with.
const VERB: &str = "\u{1}simulate";
/// A thread that has fewer executions has made them before a process is ready.
pub const WORTH_A_PROCESS: u64 = 200;
/// A process is asked for as many executions as take about so long, so that asking takes no time worth mentioning.
const AT_A_TIME: Duration = Duration::from_millis(20);
/// Executions that it is asked for at most.
const MOST_AT_A_TIME: u64 = 64;
/// If they take longer than the ones before did, it answers after this time what it has by then: the others are for
/// whoever is free.
const ANSWERS_WITHIN: Duration = Duration::from_millis(100);
/// One that does not answer for so long hangs. It may as well have only one execution that takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether an answer is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// From here on executions may be made in further processes. A program calls this first thing in its `main`: such a
/// process is the same program, and does not come back from here.
pub fn execute_in_processes() {
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(VERB)) {
        std::process::exit(i32::from(serve().is_err()));
    }
    ALLOWED.store(true, Ordering::Relaxed);
}

type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// What a process is told in the first line. The bytes of the module follow, then lines with seeds.
#[derive(Serialize, Deserialize)]
struct Begin {
    name: String,
    bytes: usize,
    modules: Option<PathBuf>,
    agent: Option<String>,
    scenario: String,
    /// JSON.
    input: String,
}

/// Seeds, one after the other.
#[derive(Serialize, Deserialize)]
struct Seeds {
    first: u64,
    count: u64,
}

/// Executes what stdin asks for, until it ends.
fn serve() -> Result<(), Trouble> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let begin: Begin = serde_json::from_str(&line)?;
    let mut bytes = vec![0; begin.bytes];
    std::io::stdin().read_exact(&mut bytes)?;
    let scenario = Scenario::parse(Path::new(""), &begin.scenario)?;
    let scenario = Scenario { input: serde_json::from_str(&begin.input)?, ..scenario };
    if serde_json::to_string(&scenario.input)? != begin.input {
        return Err("numbers of the input are read as others".into());
    }
    let engine = Arc::new(Engine::new(environment::cache_dir())?.pooled());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let simulator = Simulator::new(engine, &begin.name, bytes, begin.modules, begin.agent);
    let simulator = runtime.block_on(simulator)?;
    let scenario = Arc::new(scenario);
    on_one_thread(|| {
        for line in std::io::stdin().lines() {
            let Seeds { first, count } = serde_json::from_str(&line?)?;
            let tally = simulator.execute_some(&scenario, first, count, ANSWERS_WITHIN)?;
            let mut stdout = std::io::stdout().lock();
            serde_json::to_writer(&mut stdout, &tally)?;
            stdout.write_all(b"\n")?;
            stdout.flush()?;
        }
        Ok(())
    })
}

/// A process that executes for a thread of this one. It ends with that thread, or earlier.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    asks: Sender<Seeds>,
    answers: Receiver<Tally>,
    at_a_time: u64,
    patience: Duration,
}

impl Helper {
    /// None if there is none to be had.
    pub fn begin(program: &Program, scenario: &Scenario) -> Option<Self> {
        if !ALLOWED.load(Ordering::Relaxed) {
            return None;
        }
        // This very program, also if the file has been replaced by another.
        let file = match cfg!(target_os = "linux") {
            true => PathBuf::from("/proc/self/exe"),
            false => std::env::current_exe().ok()?,
        };
        let mut command = Command::new(file);
        command.arg(VERB);
        // Who interrupts this process at a terminal is told what was found until then.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let begin = Begin {
            name: program.name.clone(),
            bytes: program.bytes.len(),
            modules: program.modules.clone(),
            agent: program.agent.clone(),
            scenario: scenario.text.clone(),
            input: serde_json::to_string(&scenario.input).ok()?,
        };
        Self::spawn(command, begin, Arc::clone(&program.bytes))
    }

    fn spawn(mut command: Command, begin: Begin, bytes: Arc<[u8]>) -> Option<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (asks, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let helper = Self { child, asks, answers, at_a_time: 1, patience: PATIENCE };
        let (stdin, stdout) = pipes?;
        // Its pipes are for a thread that may wait: it goes on or ends when the process does.
        std::thread::spawn(move || talk(&begin, &bytes, stdin, BufReader::new(stdout), &asked, &answer));
        Some(helper)
    }

    /// For how many executions it is asked next.
    pub fn at_a_time(&self) -> u64 {
        self.at_a_time
    }

    /// What comes of the first of these seeds, of one at least. None if it does not answer, or nobody wants to know any
    /// more: then it is of no use.
    pub fn execute(&mut self, first: u64, count: u64, is_over: impl Fn() -> bool) -> Option<Tally> {
        let began = Instant::now();
        self.asks.send(Seeds { first, count }).ok()?;
        let tally = loop {
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(tally) => break tally,
                Err(RecvTimeoutError::Timeout) if !is_over() && began.elapsed() < self.patience => {}
                Err(_) => return None,
            }
        };
        if !(1..=count).contains(&tally.executions) {
            return None;
        }
        let each = began.elapsed().as_secs_f64() / tally.executions as f64;
        self.at_a_time = ((AT_A_TIME.as_secs_f64() / each) as u64).clamp(1, MOST_AT_A_TIME);
        Some(tally)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells a process what it is asked for, and gives on what it answers.
fn talk(
    begin: &Begin,
    bytes: &[u8],
    mut stdin: impl Write,
    mut stdout: impl BufRead,
    asked: &Receiver<Seeds>,
    answer: &Sender<Tally>,
) -> Result<(), Trouble> {
    let mut ask = |line: Vec<u8>, more: &[u8]| stdin.write_all(&[&line[..], b"\n", more].concat());
    ask(serde_json::to_vec(begin)?, bytes)?;
    for seeds in asked {
        ask(serde_json::to_vec(&seeds)?, &[])?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        answer.send(serde_json::from_str(&line)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A helper that is this shell script.
    fn helper(script: &str) -> Helper {
        let begin = Begin {
            name: "test".to_owned(),
            bytes: 3,
            modules: None,
            agent: None,
            scenario: String::new(),
            input: "null".to_owned(),
        };
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Helper::spawn(command, begin, Arc::from(*b"abc")).expect("there is a shell")
    }

    fn answer(executions: u64) -> String {
        let mut tally = serde_json::to_value(Tally::default()).unwrap();
        tally["executions"] = executions.into();
        tally.to_string()
    }

    #[test]
    fn a_process_may_answer_what_it_has_by_then() {
        // The seeds stand behind the bytes of the module.
        let answers = answer(2);
        let script = format!("read begin; while read seeds; do echo '{answers}'; done");
        let mut helper = helper(&script);
        assert_eq!(helper.execute(0, 5, || false).map(|tally| tally.executions), Some(2));
        assert_eq!(helper.execute(2, 2, || false).map(|tally| tally.executions), Some(2));
        assert!(helper.execute(4, 1, || false).is_none(), "more than it was asked for");
    }

    #[test]
    fn a_process_that_ends_or_talks_nonsense_is_of_no_use() {
        for script in ["exit 0", "echo nonsense", "echo '{}'; cat"] {
            assert!(helper(script).execute(0, 1, || false).is_none(), "{script}");
        }
    }

    #[test]
    fn a_process_that_hangs_is_waited_for_as_long_as_its_answer_is_wanted_or_patience_lasts() {
        let mut wanted = helper("exec sleep 1000");
        wanted.patience = Duration::from_millis(50);
        assert!(wanted.execute(0, 1, || false).is_none());
        assert!(helper("exec sleep 1000").execute(0, 1, || true).is_none());
    }
}
