//! Many seeds, and what is made of a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use wfhost::HostError;
use wfhost::engine::{Denied, Engine};
use wfhost::schema::on_one_thread;
use wfhost::world::lock;
use wfhost_core::Digest;

use crate::execution::{Event, Execution, Program, execute};
use crate::numbers::Numbers;
use crate::processes::{Helper, WORTH_A_PROCESS};
use crate::scenario::Scenario;
use crate::tally::Tally;
use crate::verdict::{Fault, judge};

/// Executions that shrinking a failure may take.
const SHRINKING: usize = 400;

/// A simulation that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Which seeds are tried.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub first: u64,
    pub count: u64,
    /// After this time no more are begun, but the first one.
    pub time: Option<Duration>,
    /// How many are tried at once.
    pub threads: usize,
}

/// What was reached, over all executions.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// How runs ended.
    pub ends: BTreeMap<String, u64>,
    /// Labels or kinds of steps that were asked for.
    pub steps: BTreeMap<String, u64>,
    /// Kinds of failures that steps ended with.
    pub failures: BTreeMap<String, u64>,
    /// In how many different orders things happened.
    pub orders: usize,
    /// Deaths of hosts.
    pub deaths: u64,
    /// How each step ended: `completed`, `cancelled`, `open`, or the kind of its failure.
    pub paths: BTreeMap<String, BTreeMap<String, u64>>,
    /// Rules, signals and expectations of the scenario that never applied.
    pub unused: Vec<String>,
}

/// A failure, as short as it could be made.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub seed: u64,
    pub fault: Fault,
    /// What happened, in order.
    pub story: Vec<Event>,
    /// How many unusual decisions there were, and how many are left.
    pub unusual: usize,
    pub left: usize,
    /// The run as `wfhost db import` takes it.
    #[serde(skip)]
    pub export: Option<String>,
}

/// What came of all.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub scenario: String,
    pub executions: u64,
    pub seconds: f64,
    /// One for each kind of fault, that of the smallest seed.
    pub findings: Vec<Finding>,
    /// How many executions failed.
    pub failed: u64,
    pub coverage: Coverage,
}

/// A program with an engine that has compiled it.
#[derive(Clone, Debug)]
pub struct Simulator {
    program: Program,
    engine: Arc<Engine>,
}

impl Simulator {
    /// Compiles a program, once for all executions.
    ///
    /// # Errors
    ///
    /// If it is no workflow.
    pub async fn new(
        engine: Arc<Engine>,
        name: &str,
        bytes: Vec<u8>,
        modules: Option<std::path::PathBuf>,
        agent: Option<String>,
    ) -> Result<Self, SimulatorError> {
        // Loaded before any execution: in virtual time nobody may wait for what takes real time.
        let owned = async { Ok::<_, HostError>(bytes.clone()) };
        let module = engine.load(name, Digest::of(&bytes), Denied::Trap, owned).await?;
        let program = Program { name: name.to_owned(), module, bytes: bytes.into(), modules, agent };
        Ok(Self { program, engine })
    }

    fn execute(
        &self,
        scenario: &Arc<Scenario>,
        seed: u64,
        undone: BTreeSet<String>,
        export: bool,
    ) -> Result<Execution, SimulatorError> {
        Ok(execute(&self.program, &self.engine, scenario, seed, undone, export)?)
    }

    /// Executes one seed. Gives what it is that was broken, if something was, and the story.
    pub fn once(
        &self,
        scenario: &Arc<Scenario>,
        seed: u64,
    ) -> Result<(Execution, Option<Fault>), SimulatorError> {
        on_one_thread(|| {
            let execution = self.execute(scenario, seed, BTreeSet::new(), true)?;
            let fault = judge(scenario, &execution).err();
            Ok((execution, fault))
        })
    }

    /// Executes seeds one after the other, on a thread that [`on_one_thread`] made. After that time no more are begun,
    /// but the first one.
    pub(crate) fn execute_some(
        &self,
        scenario: &Arc<Scenario>,
        first: u64,
        count: u64,
        within: Duration,
    ) -> Result<Tally, SimulatorError> {
        let began = Instant::now();
        let mut tally = Tally::default();
        while tally.executions < count && (tally.executions == 0 || began.elapsed() < within) {
            let seed = first.wrapping_add(tally.executions);
            let execution = self.execute(scenario, seed, BTreeSet::new(), false)?;
            tally.add(scenario, &execution);
            if let Err(fault) = judge(scenario, &execution) {
                tally.fails(seed, fault);
            }
        }
        Ok(tally)
    }

    /// Executes many seeds: on several threads, or in as many processes if that may be
    /// ([`crate::execute_in_processes`]). `progress` hears how many were done, and how many failed.
    pub fn explore(
        &self,
        scenario: &Arc<Scenario>,
        wanted: Wanted,
        stop: &AtomicBool,
        progress: impl Fn(u64, u64) + Sync,
    ) -> Result<Report, SimulatorError> {
        let began = Instant::now();
        let numbers = Numbers::new(wanted.count);
        // One at least: what was never executed has passed no test.
        let is_late = |number| number > 0 && wanted.time.is_some_and(|time| began.elapsed() > time);
        let is_over = |number| is_late(number) || stop.load(Ordering::Relaxed);
        let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let all = Mutex::new(Tally::default());
        let error = Mutex::new(None);
        let work = |mut helper: Option<Helper>| {
            let mut own = Tally::default();
            while let Some(mut part) = numbers.take(helper.as_ref().map_or(1, Helper::at_a_time), is_over) {
                let (number, count) = (part.first(), part.count());
                let first = wanted.first.wrapping_add(number);
                let tally = match &mut helper {
                    Some(asked) => match asked.execute(first, count, || is_over(number)) {
                        Some(tally) => tally,
                        // One that does not answer is not asked again, and others have its seeds.
                        None => {
                            helper = None;
                            continue;
                        }
                    },
                    None => match self.execute_some(scenario, first, count, Duration::ZERO) {
                        Ok(tally) => tally,
                        Err(trouble) => {
                            *lock(&error) = Some(trouble);
                            stop.store(true, Ordering::Relaxed);
                            break;
                        }
                    },
                };
                part.did(tally.executions);
                let executions = tally.executions;
                let failed = failed.fetch_add(tally.failed, Ordering::Relaxed) + tally.failed;
                own.join(tally);
                progress(done.fetch_add(executions, Ordering::Relaxed) + executions, failed);
            }
            lock(&all).join(own);
        };
        let threads = wanted.threads.max(1);
        let helps = wanted.count / threads as u64 >= WORTH_A_PROCESS;
        let helper = || helps.then(|| Helper::begin(&self.program, scenario)).flatten();
        std::thread::scope(|scope| {
            scope.spawn(|| on_one_thread(|| work(None)));
            for _ in 1..threads {
                // A process ends with the thread that started it.
                scope.spawn(|| on_one_thread(|| work(helper())));
            }
        });
        if let Some(error) = lock(&error).take() {
            return Err(error);
        }
        let seconds = began.elapsed().as_secs_f64();
        let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        let shrink = |(seed, fault): &(u64, Fault)| {
            let fault = fault.clone();
            on_one_thread(|| self.shrink(scenario, *seed, fault, stop))
        };
        let findings = all.found.values().map(shrink).collect::<Result<_, _>>()?;
        Ok(Report {
            scenario: scenario.name.clone(),
            executions: done.into_inner(),
            seconds,
            findings,
            failed: failed.into_inner(),
            coverage: all.coverage(scenario),
        })
    }

    /// Undoes unusual decisions as long as the fault stays of its kind: first halves of them, then each.
    /// Somebody who wants all to stop has it as it is by then.
    fn shrink(
        &self,
        scenario: &Arc<Scenario>,
        seed: u64,
        fault: Fault,
        stop: &AtomicBool,
    ) -> Result<Finding, SimulatorError> {
        let fails = |undone: &BTreeSet<String>| -> Result<Option<BTreeSet<String>>, SimulatorError> {
            let execution = self.execute(scenario, seed, undone.clone(), false)?;
            let same = judge(scenario, &execution).is_err_and(|other| other.kind == fault.kind);
            Ok(same.then_some(execution.made))
        };
        let mut undone = BTreeSet::new();
        let mut left = self.execute(scenario, seed, BTreeSet::new(), false)?.made;
        let unusual = left.len();
        let mut tries = 0;
        let may_try = |tries| tries < SHRINKING && !stop.load(Ordering::Relaxed);
        let mut size = left.len().div_ceil(2);
        while size > 0 && may_try(tries) {
            let mut smaller = false;
            let names: Vec<String> = left.iter().cloned().collect();
            for part in names.chunks(size) {
                tries += 1;
                let mut tried = undone.clone();
                tried.extend(part.iter().cloned());
                if let Some(made) = fails(&tried)? {
                    undone = tried;
                    left = made;
                    smaller = true;
                }
                if !may_try(tries) {
                    break;
                }
            }
            size = if size == 1 && !smaller { 0 } else { (size / 2).max(1) };
        }
        let execution = self.execute(scenario, seed, undone, true)?;
        let fault = judge(scenario, &execution).err().unwrap_or(fault);
        Ok(Finding {
            seed,
            fault,
            story: execution.story,
            unusual,
            left: left.len(),
            export: execution.export,
        })
    }
}
