//! One execution of a scenario from one seed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use wfhost::agents::Providers;
use wfhost::engine::{Engine, Module};
use wfhost::store::{Fence, MemStore, RunFilter, RunInfo, RunState, Seen, SharedStore};
use wfhost::world::lock;
use wfhost::{Adopt, Evict, Host, HostError, HostOptions, StartOptions, archive};
use wfhost_core::{Given, Json, RunConfig, RunId};

use crate::chance::Chance;
use crate::outside::{Agent, Cancel, Extent, Outside, Process, Reached, VirtualClock, line};
use crate::scenario::Scenario;
use crate::verdict::came_to;

/// Longer than any execution: nobody has to look whether a session is over, since deaths are told.
const LEASE_MS: u64 = 1 << 40;
/// A host looks so seldom for what nobody tells it of, or only when the run has to have ended: a look would make up for
/// a wake-up that was lost, and hide that.
const LOOK_EVERY: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Children that nothing waits for, and requests to stop, have so long after the end of the run.
const SETTLES: Duration = Duration::from_secs(60);

/// Something that happened, with the virtual time from the beginning in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    pub at: u64,
    pub what: String,
}

/// A program that is tested.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    pub module: Module,
    pub bytes: Arc<[u8]>,
    /// Where the modules of children are looked for.
    pub modules: Option<PathBuf>,
    pub agent: Option<String>,
}

/// A run at its end.
#[derive(Debug)]
pub struct Ended {
    pub info: RunInfo,
    pub journal: wfhost_core::Journal,
    /// What differs when its journal is repeated, if something does.
    pub differs: Option<String>,
}

/// What came of one seed.
#[derive(Debug)]
pub struct Execution {
    /// The latest round of the run; none if it could not even begin.
    pub main: RunInfo,
    pub runs: Vec<Ended>,
    pub published: Vec<(String, Json)>,
    pub reached: Vec<Reached>,
    pub story: Vec<Event>,
    /// Something went wrong outside because of which the run may end badly.
    pub excused: bool,
    /// How long the run was, what came after its end not included.
    pub extent: Extent,
    /// Deaths of hosts.
    pub deaths: u32,
    /// Rules of the scenario that answered.
    pub used: BTreeSet<String>,
    /// The names of the decisions that made something unusual happen.
    pub made: BTreeSet<String>,
    /// The run as `wfhost db import` takes it.
    pub export: Option<String>,
}

/// The run that is tested: its first round.
pub fn id() -> RunId {
    "test".parse().unwrap_or_else(|_| unreachable!("it is an id"))
}

/// Executes a scenario in virtual time. The same seed gives the same execution.
pub fn execute(
    program: &Program,
    engine: &Arc<Engine>,
    scenario: &Arc<Scenario>,
    seed: u64,
    undone: BTreeSet<String>,
    export: bool,
) -> Result<Execution, HostError> {
    let chance = Chance::new(seed, undone.clone());
    let cancel = match chance.happens(Cancel::DECISION.to_owned(), scenario.world.cancel.0) {
        false => None,
        // When a run can be stopped is known once it has been executed without that: up to there both are the same.
        true => {
            let whole = Chance::new(seed, undone);
            let whole = in_virtual_time(run(program, engine, scenario, whole, None, false))?;
            Some(Cancel::within(whole.extent, &chance))
        }
    };
    in_virtual_time(run(program, engine, scenario, chance, cancel, export))
}

fn in_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("a runtime needs threads and memory: {error}"));
    let done = runtime.block_on(work);
    // What still runs belongs to hosts that are dead.
    runtime.shutdown_background();
    done
}

fn host(outside: &Arc<Outside>, engine: &Arc<Engine>) -> Result<Host, HostError> {
    let pid = outside.next_process();
    let mut providers = Providers::builtin();
    providers.set_any(Arc::new(Agent { outside: Arc::clone(outside), pid }));
    let evicts = outside.chance.happens(format!("host {pid} evicts"), outside.scenario.world.evict.0);
    let host = Host::new(HostOptions {
        engine: Some(Arc::clone(engine)),
        providers,
        evict: if evicts { Evict::Always } else { Evict::AfterGrace },
        adopt: Adopt::Due,
        lease_ms: LEASE_MS,
        look_every: LOOK_EVERY.max(Duration::from_millis(outside.scenario.within)),
        world: Arc::new(Process { outside: Arc::clone(outside), pid }),
        ..HostOptions::new(Arc::clone(&outside.store))
    })?;
    Ok(host)
}

async fn run(
    program: &Program,
    engine: &Arc<Engine>,
    scenario: &Arc<Scenario>,
    chance: Chance,
    cancel: Option<Cancel>,
    export: bool,
) -> Result<Execution, HostError> {
    let began = Instant::now();
    let store = MemStore::with_clock(Arc::new(VirtualClock(began)));
    store.share_module(&program.name, program.module.digest, &program.bytes);
    let memory = Arc::new(store);
    let store: SharedStore = Arc::clone(&memory) as _;
    let seed = chance.seed_of_run();
    let outside = Arc::new(Outside::new(Arc::clone(scenario), chance, cancel, Arc::clone(&store), began));
    let mut living = host(&outside, engine)?;
    let config = RunConfig {
        agent: program.agent.clone(),
        modules: program.modules.as_ref().map(|path| path.to_string_lossy().into_owned()),
        ..RunConfig::default()
    };
    let options = StartOptions {
        input: Json::from(scenario.input.clone()),
        id: Some(id()),
        config,
        seed: Some(seed),
        // Schemas are read by another thread, for which virtual time does not wait. The program looks itself.
        unchecked: true,
        ..StartOptions::default()
    };
    living.enqueue(&program.module, options).await?;
    outside.cancel_in_time(&id()).await;
    living.serve();
    outside.send_signals(&id());
    let people = tokio::spawn(Arc::clone(&outside).answer_questions());
    let mut until = began + Duration::from_millis(scenario.within);
    let mut is_over = false;
    let mut extent = outside.extent();
    let mut ended = std::pin::pin!(end_of(&store, &memory));
    loop {
        tokio::select! {
            biased;
            // Also while children settle: a host that dies then has a successor, too.
            () = outside.dies.notified() => {
                for session in store.sessions().await? {
                    store.fence(session.id, Fence::Dead).await?;
                }
                let dead = std::mem::replace(&mut living, host(&outside, engine)?);
                living.serve();
                // Whatever it still does is refused by the store.
                tokio::spawn(async move { dead.close(None).await });
                continue;
            }
            ended = &mut ended, if !is_over => {
                ended?;
                let ended = latest(&store).await?;
                let why = match &ended.outcome {
                    Some(Err(failure)) => format!(": {}", line(&failure.to_string())),
                    _ => String::new(),
                };
                outside.tell(format!("{}{why}", came_to(&ended)));
            }
            () = tokio::time::sleep_until(until) => {
                if is_over {
                    break;
                }
                outside.tell(came_to(&latest(&store).await?));
            }
        }
        is_over = true;
        extent = outside.extent();
        until = Instant::now() + SETTLES;
    }
    people.abort();
    let main = latest(&store).await?;
    let mut runs = Vec::new();
    for info in store.runs(RunFilter { limit: 1_000, ..RunFilter::default() }).await? {
        let journal = living.journal(&info.id).await?;
        let module = living.module_of(&info).await?;
        let replayed = living.replay(&info.id, journal.clone(), &module, Given::Everything).await?;
        runs.push(Ended { differs: replayed.departs.map(|mismatch| mismatch.to_string()), info, journal });
    }
    let export = match export {
        true => archive::export(store.as_ref(), &main).await.ok(),
        false => None,
    };
    let reached = lock(&outside.reached).clone();
    Ok(Execution {
        published: store.state(&main.id).await?,
        main,
        runs,
        reached,
        story: lock(&outside.story).clone(),
        excused: outside.excused.load(Ordering::Relaxed),
        extent,
        deaths: outside.deaths.load(Ordering::Relaxed),
        used: std::mem::take(&mut *lock(&outside.used)),
        made: outside.chance.made(),
        export,
    })
}

/// The latest round of the run.
async fn latest(store: &SharedStore) -> Result<RunInfo, HostError> {
    let newest = RunFilter { chain: Some(id()), limit: 1, ..RunFilter::default() };
    if let Some(info) = store.runs(newest).await?.pop() {
        return Ok(info);
    }
    store.run(&id()).await?.ok_or_else(|| HostError::NoSuchRun(id()))
}

/// Waits until the run has ended for good, or is refused.
async fn end_of(store: &SharedStore, memory: &MemStore) -> Result<(), HostError> {
    let (run, mut seen) = (id(), Seen::default());
    loop {
        store.wakes(&mut seen).await?;
        let state = memory.state_of_latest(&run).ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        if state == RunState::Refused || state.is_final() && state != RunState::Continued {
            return Ok(());
        }
    }
}
