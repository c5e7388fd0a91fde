//! What the simulated processes share: time, chance, who lives, where runs are kept, and the agents
//! that they call.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;
use tokio::time::Instant;
use wfhost::agents::{Call, CallFailure, CallOutput, Provider};
use wfhost::store::{
    Clock, MemStore, Owner, Seen, SharedStore, SqliteOptions, SqliteStore, Synchronous, Wake,
};
use wfhost::world::World;
use wfhost_core::{Digest, Json, Reply, RunId, Step, Timestamp};
use wfhost_postgres::{PostgresOptions, PostgresStore};

use super::outside::{Sent, Told};
use super::store::Faulty;

/// When every simulation begins, in milliseconds since 1970.
const BEGINNING: u64 = 1_800_000_000_000;

/// The agent whose calls are limited for all hosts together.
pub const NARROW: &str = "narrow";

/// The process that looks on: nothing happens to it.
pub const OBSERVER: u32 = 0;

/// The true time, as a store sees it.
#[derive(Debug)]
struct Time {
    began: Instant,
    runtime: Handle,
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        Timestamp(BEGINNING + self.ticks_ms())
    }

    fn ticks_ms(&self) -> u64 {
        // A store asks on threads of its own, too, which know no virtual time by themselves.
        let _entered = self.runtime.enter();
        self.began.elapsed().as_millis() as u64
    }

    fn source(&self) -> &str {
        "universe"
    }
}

/// Which store the processes share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Memory,
    /// A file, which each process opens for itself.
    Sqlite,
    /// A schema on a server, to which each process connects for itself. The server and the connections live in real
    /// time, the rest of the store by the universe's clock, which stands still while a statement is under way.
    Postgres,
}

/// Where the tasks of stores on a server run: in real time.
fn real() -> &'static Runtime {
    static REAL: OnceLock<Runtime> = OnceLock::new();
    REAL.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime")
    })
}

/// What a store on a server does, which is done within the runtime of its tasks: whatever it waits for takes real
/// time.
struct InRealTime<'a, T>(BoxFuture<'a, T>);

impl<T> Future for InRealTime<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let _entered = real().enter();
        self.0.as_mut().poll(context)
    }
}

/// Where runs are kept.
#[derive(Debug)]
enum Place {
    Memory(Arc<MemStore>),
    Sqlite(TempDir, Arc<Time>),
    Postgres(String, Arc<Time>),
}

impl Place {
    fn new(kind: Kind) -> Self {
        let time = Arc::new(Time { began: Instant::now(), runtime: Handle::current() });
        match kind {
            Kind::Memory => Self::Memory(Arc::new(MemStore::with_clock(time))),
            Kind::Sqlite => Self::Sqlite(TempDir::new().expect("a temporary directory"), time),
            // Who was told what is the universe's affair: notices take real time.
            Kind::Postgres => Self::Postgres(format!("{}&listen=off", private_postgres::fresh_url()), time),
        }
    }

    /// As one process opens it.
    fn open(&self) -> SharedStore {
        match self {
            Self::Memory(memory) => Arc::clone(memory) as SharedStore,
            Self::Sqlite(dir, time) => {
                let clock = Arc::clone(time) as Arc<dyn Clock>;
                let options = SqliteOptions { synchronous: Synchronous::Normal, clock, ..Default::default() };
                let store = SqliteStore::open(&dir.path().join("runs.db"), &options);
                Arc::new(store.expect("a database can be opened"))
            }
            Self::Postgres(url, time) => {
                let clock = Arc::clone(time) as Arc<dyn Clock>;
                let options = PostgresOptions {
                    synchronous: Synchronous::Normal,
                    clock: Some(clock),
                    ..PostgresOptions::default()
                };
                // This thread is a runtime's, which must not be blocked by another one.
                let open = || real().block_on(PostgresStore::open(url, &options));
                let opened = std::thread::scope(|scope| scope.spawn(open).join());
                Arc::new(opened.expect("no panic").expect("the server takes one more"))
            }
        }
    }
}

/// Numbers that look random, the same for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds have nothing in common after this.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Less than `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }
}

/// A call that reached an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// Its place among calls and commits.
    pub place: u64,
    pub run: RunId,
    pub step: Step,
    pub attempt: u32,
    pub key: String,
}

/// What is known of the agent whose calls are limited for all hosts together.
#[derive(Debug, Default)]
struct Narrow {
    /// The processes whose calls are under way, by the place of the call.
    under_way: BTreeMap<u64, u32>,
    met: Crowd,
}

/// How many calls the agent met whose calls are limited for all hosts together: of processes that live and have what
/// they believe to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Crowd {
    /// The most at once.
    pub most: usize,
    /// When each began.
    pub began: Vec<Timestamp>,
}

/// A row that was committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    pub place: u64,
    pub run: RunId,
    pub head: Digest,
    /// The steps that it completes.
    pub completes: Vec<Step>,
}

#[derive(Debug)]
struct Life {
    alive: bool,
    stalled_until: Option<Instant>,
    /// Its calls may have to be dropped from now on: it was stopped, or has lost what it had.
    disturbed: bool,
    /// It leaves, and waits for its calls until then.
    leaves_at: Option<Instant>,
    /// How far its clock is ahead, in milliseconds.
    ahead: i64,
    latest: Timestamp,
}

#[derive(Debug)]
pub struct Universe {
    place: Place,
    /// All that was told to hosts.
    wakes: Mutex<Vec<Wake>>,
    woken: Notify,
    dice: Mutex<Dice>,
    began: Instant,
    lives: Mutex<BTreeMap<u32, Life>>,
    places: AtomicU64,
    pub calls: Mutex<Vec<Made>>,
    pub commits: Mutex<Vec<Committed>>,
    /// Calls that were dropped by a process that had no reason to.
    pub dropped: Mutex<Vec<Made>>,
    pub sent: Mutex<Vec<Sent>>,
    narrow: Mutex<Narrow>,
    calm: AtomicBool,
    /// Whether clocks are set in this one.
    pub clocks_jump: bool,
    pub deaths: AtomicU64,
    pub stalls: AtomicU64,
    pub faults: AtomicU64,
}

impl Universe {
    pub fn new(seed: u64, kind: Kind) -> Arc<Self> {
        let mut dice = Dice::new(seed);
        Arc::new(Self {
            place: Place::new(kind),
            wakes: Mutex::default(),
            woken: Notify::new(),
            clocks_jump: dice.roll(3) == 0,
            dice: Mutex::new(dice),
            began: Instant::now(),
            lives: Mutex::default(),
            places: AtomicU64::new(0),
            calls: Mutex::default(),
            commits: Mutex::default(),
            dropped: Mutex::default(),
            sent: Mutex::default(),
            narrow: Mutex::default(),
            calm: AtomicBool::new(false),
            deaths: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        })
    }

    pub fn roll(&self, sides: u64) -> u64 {
        self.dice.lock().unwrap().roll(sides)
    }

    /// The true time.
    pub fn now(&self) -> Timestamp {
        Timestamp(BEGINNING + self.began.elapsed().as_millis() as u64)
    }

    /// What a store does, if its time is not the universe's.
    pub fn in_its_time<'a, T: Send + 'a>(&self, work: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        match self.place {
            Place::Postgres(..) => InRealTime(work).boxed(),
            Place::Memory(_) | Place::Sqlite(..) => work,
        }
    }

    /// Whether hosts hear of each other's commits by the universe, and not by their store.
    pub fn tells(&self) -> bool {
        matches!(self.place, Place::Postgres(..))
    }

    /// Something was committed.
    pub fn committed(&self, wakes: impl IntoIterator<Item = Wake>) {
        self.wakes.lock().unwrap().extend(wakes);
        self.woken.notify_waiters();
    }

    /// What was committed by anybody since.
    pub async fn heard(&self, seen: &mut Seen) -> Vec<Wake> {
        loop {
            let woken = self.woken.notified();
            {
                let wakes = self.wakes.lock().unwrap();
                let from = seen.version.replace(wakes.len() as u64);
                match from.map(|from| &wakes[from as usize..]) {
                    None => return vec![Wake::Gap],
                    Some([]) => {}
                    Some(news) => return news.to_vec(),
                }
            }
            woken.await;
        }
    }

    /// The store as a process sees it.
    pub fn store(self: &Arc<Self>, pid: u32) -> SharedStore {
        Arc::new(Faulty { universe: Arc::clone(self), store: self.place.open(), pid })
    }

    /// Somebody hears what became of his wish.
    pub fn tell(&self, note: usize, told: Told) {
        self.sent.lock().unwrap()[note].told = told;
    }

    /// A place among calls and commits.
    pub fn count(&self) -> u64 {
        self.places.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on nothing goes wrong any more.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
        for life in self.lives.lock().unwrap().values_mut() {
            life.stalled_until = None;
        }
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub fn start_process(&self) -> u32 {
        let mut lives = self.lives.lock().unwrap();
        let pid = lives.len() as u32 + 1;
        let life = Life {
            alive: true,
            stalled_until: None,
            disturbed: false,
            leaves_at: None,
            ahead: 0,
            latest: Timestamp(0),
        };
        lives.insert(pid, life);
        pid
    }

    pub fn is_alive(&self, pid: u32) -> bool {
        pid == OBSERVER || self.lives.lock().unwrap()[&pid].alive
    }

    /// It has left in order.
    pub fn end(&self, pid: u32) {
        self.change(pid, |life| life.alive = false);
    }

    /// A process leaves, and waits so long for its calls.
    pub fn leave(&self, pid: u32, grace: Duration) {
        self.change(pid, |life| life.leaves_at = Some(Instant::now() + grace));
    }

    pub fn disturb(&self, pid: u32) {
        self.change(pid, |life| life.disturbed = true);
    }

    /// Whether a process has a reason to drop a call.
    fn may_drop(&self, pid: u32) -> bool {
        let lives = self.lives.lock().unwrap();
        let life = &lives[&pid];
        !life.alive || life.disturbed || life.leaves_at.is_some_and(|at| at <= Instant::now())
    }

    /// A call of the agent with limits begins.
    fn enter(&self, place: u64, pid: u32) {
        let lives = self.lives.lock().unwrap();
        let is_sound = |pid: &u32| lives[pid].alive && !lives[pid].disturbed;
        let mut narrow = self.narrow.lock().unwrap();
        narrow.under_way.insert(place, pid);
        let count = narrow.under_way.values().filter(|pid| is_sound(pid)).count();
        narrow.met.most = narrow.met.most.max(count);
        if is_sound(&pid) {
            narrow.met.began.push(self.now());
        }
    }

    pub fn crowd(&self) -> Crowd {
        self.narrow.lock().unwrap().met.clone()
    }

    fn change(&self, pid: u32, change: impl FnOnce(&mut Life)) {
        change(self.lives.lock().unwrap().get_mut(&pid).expect("a process"));
    }

    pub fn kill(&self, pid: u32) {
        self.deaths.fetch_add(1, Ordering::Relaxed);
        self.change(pid, |life| life.alive = false);
    }

    /// Stops a process for some time.
    pub fn stall(&self, pid: u32, length: Duration) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.change(pid, |life| {
            life.stalled_until = Some(Instant::now() + length);
            life.disturbed = true;
        });
    }

    /// Sets the clock of a process forward, or back.
    pub fn jump(&self, pid: u32, millis: i64) {
        self.change(pid, |life| life.ahead += millis);
    }

    /// Ends the task of a process that is dead.
    pub fn live_or_die(&self, pid: u32) {
        if !self.is_alive(pid) {
            std::panic::resume_unwind(Box::new("the process was killed"));
        }
    }

    /// Waits as long as a process is stopped.
    pub async fn run_on(&self, pid: u32) {
        loop {
            let until = self.lives.lock().unwrap()[&pid].stalled_until;
            match until.filter(|until| *until > Instant::now()) {
                // In short steps: it may be that everything becomes calm.
                Some(until) => {
                    let step = Instant::now() + Duration::from_millis(50);
                    tokio::time::sleep_until(until.min(step)).await;
                }
                None => return self.live_or_die(pid),
            }
        }
    }
}

/// One process's view of it.
#[derive(Clone, Debug)]
pub struct Process {
    pub universe: Arc<Universe>,
    pub pid: u32,
}

fn owner(pid: u32) -> Owner {
    Owner { host: "sim".to_owned(), realm: "sim".to_owned(), pid, started: 1 }
}

impl World for Process {
    fn now(&self) -> Timestamp {
        let now = self.universe.now();
        let mut lives = self.universe.lives.lock().unwrap();
        let life = lives.get_mut(&self.pid).expect("a process");
        life.latest = life.latest.max(Timestamp(now.0.saturating_add_signed(life.ahead)));
        life.latest
    }

    fn owner(&self) -> Owner {
        owner(self.pid)
    }

    fn is_dead(&self, other: &Owner) -> bool {
        !self.universe.is_alive(other.pid)
    }
}

/// An agent that says what it is asked, after a while.
#[derive(Debug)]
pub struct Agent {
    pub universe: Arc<Universe>,
    pub pid: u32,
    pub name: &'static str,
}

/// A call that has reached the agent and is not answered.
struct UnderWay<'a> {
    agent: &'a Agent,
    place: u64,
    made: Option<Made>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let universe = &self.agent.universe;
        universe.narrow.lock().unwrap().under_way.remove(&self.place);
        if let Some(made) = self.made.take().filter(|_| !universe.may_drop(self.agent.pid)) {
            universe.dropped.lock().unwrap().push(made);
        }
    }
}

impl Provider for Agent {
    fn name(&self) -> &str {
        self.name
    }

    fn call(&self, call: Call, _out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        async move {
            let universe = &self.universe;
            // A dead process calls nobody. One that is stopped just here does: the host has looked at
            // its lease a moment ago.
            if !universe.is_alive(self.pid) {
                return std::future::pending().await;
            }
            let Call { run, step, attempt, key, .. } = call;
            let made = Made { place: universe.count(), run, step, attempt, key };
            universe.calls.lock().unwrap().push(made.clone());
            if self.name == NARROW {
                universe.enter(made.place, self.pid);
            }
            let mut under_way = UnderWay { agent: self, place: made.place, made: Some(made) };
            tokio::time::sleep(Duration::from_millis(universe.roll(2_500))).await;
            universe.run_on(self.pid).await;
            under_way.made = None;
            let said = format!("{}: {}", self.name, call.request.prompt);
            Ok(Reply::new(self.name, Json::string(&said)))
        }
        .boxed()
    }
}
