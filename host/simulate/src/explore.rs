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
use crate::scenario::Scenario;
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
    /// No more are begun after this time.
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
    /// Rules of the scenario that never applied.
    pub unused: Vec<String>,
    #[serde(skip)]
    used: BTreeSet<String>,
    #[serde(skip)]
    seen: BTreeSet<u64>,
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

    /// Executes many seeds on several threads. `progress` hears how many were done, and how many failed.
    pub fn explore(
        &self,
        scenario: &Arc<Scenario>,
        wanted: Wanted,
        stop: &AtomicBool,
        progress: impl Fn(u64, u64) + Sync,
    ) -> Result<Report, SimulatorError> {
        let began = Instant::now();
        let next = AtomicU64::new(0);
        let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let found: Mutex<BTreeMap<_, (u64, Fault)>> = Mutex::default();
        let coverage = Mutex::new(Coverage::default());
        let error = Mutex::new(None);
        let work = || {
            let mut own = Coverage::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_late = wanted.time.is_some_and(|time| began.elapsed() > time);
                if number >= wanted.count || is_late || stop.load(Ordering::Relaxed) {
                    break;
                }
                let seed = wanted.first.wrapping_add(number);
                let execution = match self.execute(scenario, seed, BTreeSet::new(), false) {
                    Ok(execution) => execution,
                    Err(trouble) => {
                        *lock(&error) = Some(trouble);
                        stop.store(true, Ordering::Relaxed);
                        break;
                    }
                };
                own.add(&execution);
                if let Err(fault) = judge(scenario, &execution) {
                    failed.fetch_add(1, Ordering::Relaxed);
                    let mut found = lock(&found);
                    let known = found.entry(fault.kind).or_insert((seed, fault.clone()));
                    if seed < known.0 {
                        *known = (seed, fault);
                    }
                }
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, failed.load(Ordering::Relaxed));
            }
            lock(&coverage).join(own);
        };
        std::thread::scope(|scope| {
            for _ in 0..wanted.threads.max(1) {
                scope.spawn(|| on_one_thread(work));
            }
        });
        if let Some(error) = lock(&error).take() {
            return Err(error);
        }
        let seconds = began.elapsed().as_secs_f64();
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let shrink = |(seed, fault)| on_one_thread(|| self.shrink(scenario, seed, fault));
        let findings = found.into_values().map(shrink);
        let mut coverage = coverage.into_inner().unwrap_or_else(PoisonError::into_inner);
        coverage.orders = coverage.seen.len();
        coverage.unused = scenario.rules();
        coverage.unused.retain(|rule| !coverage.used.contains(rule));
        Ok(Report {
            scenario: scenario.name.clone(),
            executions: done.into_inner(),
            seconds,
            findings: findings.collect::<Result<_, _>>()?,
            failed: failed.into_inner(),
            coverage,
        })
    }

    /// Undoes unusual decisions as long as the fault stays of its kind: first halves of them, then each.
    fn shrink(&self, scenario: &Arc<Scenario>, seed: u64, fault: Fault) -> Result<Finding, SimulatorError> {
        let fails = |undone: &BTreeSet<String>| -> Result<Option<BTreeSet<String>>, SimulatorError> {
            let execution = self.execute(scenario, seed, undone.clone(), false)?;
            let same = judge(scenario, &execution).is_err_and(|other| other.kind == fault.kind);
            Ok(same.then_some(execution.made))
        };
        let mut undone = BTreeSet::new();
        let mut left = self.execute(scenario, seed, BTreeSet::new(), false)?.made;
        let unusual = left.len();
        let mut tries = 0;
        let mut size = left.len().div_ceil(2);
        while size > 0 && tries < SHRINKING {
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
                if tries >= SHRINKING {
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

impl Coverage {
    fn add(&mut self, execution: &Execution) {
        *self.ends.entry(execution.main.state.as_str().to_owned()).or_default() += 1;
        self.deaths += u64::from(execution.deaths);
        self.used.extend(execution.used.iter().cloned());
        let mut order = blake3::Hasher::new();
        for run in &execution.runs {
            for step in wfhost::steps(&run.journal) {
                let name = step.op.label();
                *self.steps.entry(name.clone()).or_default() += 1;
                let end = match &step.ended {
                    None => "open".to_owned(),
                    Some((_, None)) => "cancelled".to_owned(),
                    Some((_, Some(Ok(_)))) => "completed".to_owned(),
                    Some((_, Some(Err(failure)))) => {
                        *self.failures.entry(failure.kind.to_string()).or_default() += 1;
                        failure.kind.to_string()
                    }
                };
                *self.paths.entry(name).or_default().entry(end).or_default() += 1;
            }
            for entry in &run.journal.entries {
                order.update(entry.event.kind().as_bytes());
                if let Some((step, _)) = entry.event.ended_step() {
                    order.update(&step.0.to_le_bytes());
                }
            }
        }
        let hash: [u8; 8] = order.finalize().as_bytes()[..8].try_into().unwrap_or_default();
        self.seen.insert(u64::from_le_bytes(hash));
    }

    fn join(&mut self, other: Self) {
        let join = |into: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>| {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        };
        join(&mut self.ends, other.ends);
        join(&mut self.steps, other.steps);
        join(&mut self.failures, other.failures);
        self.deaths += other.deaths;
        self.used.extend(other.used);
        for (step, ends) in other.paths {
            join(self.paths.entry(step).or_default(), ends);
        }
        self.seen.extend(other.seen);
    }
}
