//! Finds the runs that can be advanced, and advances them.

mod claims;
mod driving;
mod ending;
mod finding;
mod firing;
mod limits;
mod quiet;
mod sessions;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use wfhost_agents::{Gate, Providers};
use wfhost_core::{Epoch, Machine, RunId, Timestamp};
use wfhost_runtime::{Engine, Module};
use wfhost_store::{Inbox, Opened, Owner, Projects, Seen, SessionId, SharedStore, StoreError};
use wfhost_world::{Lease, World, lock};

pub(crate) use self::claims::Back;
use self::finding::{find_work, watch_others};
use self::limits::keep_limits;
use self::quiet::Quiet;
use self::sessions::watch_owners;
use crate::calls::Registry;
use crate::described::Descriptions;
use crate::drive::{Control, Done, Leave};
use crate::family::Modules;
use crate::handle::Ending;
use crate::host::{Adopt, Configurations, Evict, HostError};
use crate::observer::{Notice, Observer};
use crate::virtual_time::VirtualTime;

/// A store that could not be reached, or has no room, is tried again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What all tasks of a host share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub engine: Arc<Engine>,
    pub store: SharedStore,
    pub world: Arc<dyn World>,
    pub owner: Owner,
    pub providers: Providers,
    /// Where agent calls wait for their turn.
    pub gate: Arc<Gate>,
    pub evict: Evict,
    pub adopt: Adopt,
    pub projects: Projects,
    pub configured: Arc<dyn Configurations>,
    pub scripts: bool,
    pub lease_ms: u64,
    /// See [`HostOptions::look_every`](crate::HostOptions::look_every).
    pub look_every: Duration,
    /// Runs that are driven at the same time.
    pub max_live: usize,
    pub state: Mutex<State>,
    /// What programs mean by the names of modules.
    pub named: Modules,
    /// What modules say of themselves.
    pub descriptions: Descriptions,
    /// The session under which this host advances runs, once it does.
    pub current: tokio::sync::Mutex<Option<Current>>,
    /// Calls in flight, which outlive the drive that started them.
    pub calls: Arc<Registry<Done>>,
    /// What keeps this host from its work, if something does.
    pub trouble: watch::Sender<Option<StoreError>>,
    /// Others wait for a place in memory.
    pub crowded: AtomicBool,
    /// A claim failed, and it is not known whether it was made: this host may have runs that nobody drives.
    pub unsure: AtomicBool,
    /// When what this host has and does not drive is to be given up once more.
    pub settle_again: Mutex<Option<tokio::time::Instant>>,
    /// The time and the name of the schedule that was looked at last, if there are more behind it.
    pub schedules_behind: Mutex<Option<(Timestamp, String)>>,
    /// Written while that is given up: a run that is taken in hand meanwhile would be given up with it.
    pub settling: tokio::sync::RwLock<()>,
    /// The tasks that end with this.
    pub tasks: Mutex<Vec<AbortHandle>>,
    /// There may be work.
    pub work: Arc<Notify>,
    /// If time is virtual.
    pub time: Option<Arc<VirtualTime>>,
    /// A run is driven no more.
    pub left: Notify,
    pub going: Once,
    /// Is told what the host does.
    pub observer: Option<Arc<dyn Observer>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The runs that are driven here.
    live: BTreeMap<RunId, Arc<Live>>,
    /// Those that a task has in hand.
    in_hand: BTreeMap<RunId, Hand>,
    /// What was sent while runs are claimed together.
    heard: Option<Heard>,
    /// Those that somebody of this process follows.
    watched: BTreeMap<RunId, Weak<Watched>>,
    /// Places for runs that are about to be driven.
    reserved: usize,
    /// Those that were left on request.
    left: BTreeSet<RunId>,
    quiet: Quiet,
    closing: bool,
}

/// What happened to a run while a task has it in hand.
#[derive(Clone, Copy, Debug, Default)]
struct Hand {
    /// It was claimed for another one.
    contested: bool,
    /// Something was sent to it, perhaps after the claim: whoever drives it is to look.
    woken: bool,
}

/// Runs that something was sent to while it is not known here yet which were claimed.
#[derive(Debug, Default)]
struct Heard {
    runs: BTreeSet<RunId>,
    /// Any may be among them.
    all: bool,
}

impl State {
    /// Something was sent to a run: if it is claimed just now, nobody can be told who drives it.
    fn hear(&mut self, run: &RunId) {
        if let Some(hand) = self.in_hand.get_mut(run) {
            hand.woken = true;
        }
        if let Some(heard) = &mut self.heard {
            heard.runs.insert(run.clone());
        }
    }

    /// The same of any run.
    fn hear_of_all(&mut self) {
        self.in_hand.values_mut().for_each(|hand| hand.woken = true);
        if let Some(heard) = &mut self.heard {
            heard.all = true;
        }
    }

    /// Has those who follow a run look at it.
    fn tell(&self, run: &RunId) {
        if let Some(watched) = self.watched.get(run).and_then(Weak::upgrade) {
            watched.tell();
        }
    }
}

/// The session of a host.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub session: SessionId,
    pub lease: Lease,
}

/// A run that is driven here.
#[derive(Debug)]
struct Live {
    session: SessionId,
    /// Of the latest claim.
    epoch: AtomicU64,
    /// Another claim may have been made.
    doubtful: AtomicBool,
    /// Another task of this host wants it.
    taken: AtomicBool,
    control: Control,
}

/// Places for runs that are about to be driven, until this is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    inner: Arc<Inner>,
    places: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        // Else who finds no place would wake himself to look again.
        if self.places > 0 {
            lock(&self.inner.state).reserved -= self.places;
            self.inner.left.notify_waiters();
        }
    }
}

/// A run that one task of this host has to itself, from before it claims the run until the run is driven or
/// was given back. What is in hand is neither begun nor given up by others of this host.
///
/// Whoever drops it without a word has failed, or was dropped himself: the run may be claimed, and is given up.
#[derive(Debug)]
pub(crate) struct InHand {
    inner: Arc<Inner>,
    run: RunId,
    in_doubt: bool,
}

impl InHand {
    fn new(inner: &Arc<Inner>, run: &RunId) -> Self {
        Self { inner: Arc::clone(inner), run: run.clone(), in_doubt: true }
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// The run is not claimed by this any more.
    pub fn let_go(mut self) {
        self.in_doubt = false;
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let (contested, is_live) = {
            let mut state = lock(&self.inner.state);
            state.tell(&self.run);
            let hand = state.in_hand.remove(&self.run);
            (hand.is_some_and(|hand| hand.contested), state.live.contains_key(&self.run))
        };
        // Of two claims the other one may have come last.
        if contested || (self.in_doubt && !is_live) {
            self.inner.doubt();
        } else if !is_live {
            // Looks that were made meanwhile left it out.
            self.inner.work.notify_one();
        }
        self.inner.left.notify_waiters();
    }
}

/// A run that somebody follows; all who do share it.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Counts what was committed.
    pub changed: watch::Sender<u64>,
    /// Counts how often the run may have ended: it is not driven here any more, or another process wrote something.
    over: watch::Sender<u64>,
    pub endings: Mutex<Endings>,
    /// Who answers its calls here, if not those of the host.
    providers: Mutex<Option<Providers>>,
    /// The top of its family, once that is known.
    root: OnceLock<RunId>,
}

/// How drives of a run ended.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    /// How many there were.
    pub count: u64,
    pub last: Option<Result<Ending, HostError>>,
}

/// One who follows a run.
#[derive(Debug)]
pub(crate) struct Follower {
    pub watched: Arc<Watched>,
    pub changes: watch::Receiver<u64>,
    pub over: watch::Receiver<u64>,
    /// The endings that are older than this.
    pub heard: u64,
}

impl Watched {
    /// Has those who follow the run look whether it has ended.
    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
        self.over.send_modify(|count| *count += 1);
    }

    /// Tells each of those who follow the run how driving it ended.
    fn end(&self, ending: Result<Ending, HostError>) {
        let mut endings = lock(&self.endings);
        endings.count += 1;
        endings.last = Some(ending);
    }

    pub fn providers(&self) -> Option<Providers> {
        lock(&self.providers).clone()
    }
}

/// A run that is this host's, and a machine that has its journal.
pub(crate) struct Ready {
    pub current: Current,
    pub epoch: Epoch,
    pub starts: u32,
    pub machine: Machine,
    pub module: Module,
    pub project: Option<String>,
    pub imported: bool,
    /// Of the last commit, if it is known.
    pub place: Option<u64>,
    /// What was in the inbox, if that was looked up.
    pub inbox: Option<Inbox>,
}

/// From where a run is driven.
pub(crate) enum From {
    Ready(Box<Ready>),
    /// It was claimed.
    Opened(Box<Opened>, Current),
}

impl From {
    fn current(&self) -> &Current {
        match self {
            Self::Ready(ready) => &ready.current,
            Self::Opened(_, current) => current,
        }
    }

    fn epoch(&self) -> Epoch {
        match self {
            Self::Ready(ready) => ready.epoch,
            Self::Opened(opened, _) => opened.epoch,
        }
    }
}

impl Inner {
    /// Tells who observes this host.
    pub fn see(&self, notice: Notice<'_>) {
        if let Some(observer) = &self.observer {
            observer.see(notice);
        }
    }

    /// Begins the tasks that keep a host going, until it is dropped.
    pub fn set_going(self: &Arc<Self>) {
        self.going.call_once(|| {
            let inner = || Arc::downgrade(self);
            let (store, seen) = (Arc::clone(&self.store), Seen::default());
            self.spawn(find_work(inner()));
            self.spawn(watch_owners(inner()));
            self.spawn(keep_limits(inner()));
            self.spawn(watch_others(inner(), store, seen));
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    /// Follows a run, beside those who do already. Who only looks on changes nothing for those who brought their own
    /// providers.
    pub fn watch(&self, run: &RunId, providers: Option<Providers>) -> Follower {
        let mut state = lock(&self.state);
        let watched = match state.watched.get(run).and_then(Weak::upgrade) {
            Some(watched) => watched,
            None => {
                // Now and then, so that following many costs no more for each.
                if state.watched.len().is_power_of_two() {
                    state.watched.retain(|_, watched| watched.strong_count() > 0);
                }
                let watched = Arc::new(Watched {
                    changed: watch::channel(0).0,
                    over: watch::channel(0).0,
                    endings: Mutex::default(),
                    providers: Mutex::default(),
                    root: OnceLock::new(),
                });
                state.watched.insert(run.clone(), Arc::downgrade(&watched));
                watched
            }
        };
        state.left.remove(run);
        drop(state);
        if providers.is_some() {
            *lock(&watched.providers) = providers;
        }
        let (changes, over) = (watched.changed.subscribe(), watched.over.subscribe());
        let heard = lock(&watched.endings).count;
        Follower { watched, changes, over, heard }
    }

    pub fn is_live(&self, run: &RunId) -> bool {
        lock(&self.state).live.contains_key(run)
    }

    /// Has a run to itself, as soon as no other task of this host has.
    pub async fn take_in_hand(self: &Arc<Self>, run: &RunId) -> InHand {
        loop {
            let left = self.left.notified();
            {
                let _nothing_is_given_up = self.settling.read().await;
                let mut state = lock(&self.state);
                if !state.in_hand.contains_key(run) {
                    state.in_hand.insert(run.clone(), Hand::default());
                    state.quiet.stir();
                    return InHand::new(self, run);
                }
            }
            left.await;
        }
    }

    /// The same for a run that was claimed with others. None if another task has it in hand, which is told.
    fn try_in_hand(self: &Arc<Self>, run: &RunId) -> Option<InHand> {
        let mut state = lock(&self.state);
        let woken = state.heard.as_ref().is_some_and(|heard| heard.all || heard.runs.contains(run));
        match state.in_hand.entry(run.clone()) {
            Entry::Occupied(mut hand) => {
                hand.get_mut().contested = true;
                None
            }
            Entry::Vacant(free) => {
                free.insert(Hand { contested: false, woken });
                state.quiet.stir();
                Some(InHand::new(self, run))
            }
        }
    }

    pub fn live(&self) -> usize {
        lock(&self.state).live.len()
    }

    /// A place for a run more that is driven here, if there is one.
    pub fn try_room(self: &Arc<Self>) -> Option<Room> {
        let room = self.rooms(1);
        (room.places > 0).then_some(room)
    }

    /// As many places as there are, up to `most`.
    fn rooms(self: &Arc<Self>, most: usize) -> Room {
        let mut state = lock(&self.state);
        let taken = state.live.len() + state.reserved;
        let places = self.max_live.saturating_sub(taken).min(most);
        state.reserved += places;
        Room { inner: Arc::clone(self), places }
    }

    /// Waits for a free slot for a run. None if no more runs are claimed.
    pub async fn room(self: &Arc<Self>) -> Option<Room> {
        loop {
            let left = self.left.notified();
            if let Some(room) = self.try_room() {
                return Some(room);
            }
            if lock(&self.state).closing {
                return None;
            }
            self.crowd();
            left.await;
        }
    }

    /// Has runs that only wait give up their places.
    fn crowd(&self) {
        self.crowded.store(true, Ordering::Relaxed);
        for live in lock(&self.state).live.values() {
            live.control.crowd();
        }
    }

    fn watched(&self, run: &RunId) -> Option<Arc<Watched>> {
        lock(&self.state).watched.get(run).and_then(Weak::upgrade)
    }

    /// Leaves a run, and does not take it up again.
    pub fn leave(&self, run: &RunId) {
        let mut state = lock(&self.state);
        state.left.insert(run.clone());
        match state.live.get(run) {
            Some(live) => live.control.leave(Leave::Now),
            None => state.tell(run),
        }
    }

    /// Waits until a run is not driven here.
    pub async fn is_not_live(&self, run: &RunId) {
        loop {
            let left = self.left.notified();
            if !self.is_live(run) {
                return;
            }
            left.await;
        }
    }

    /// Has a run that is in hand driven here no more. Who follows it goes on doing so.
    pub async fn take_from_driver(&self, in_hand: &InHand) {
        if let Some(live) = lock(&self.state).live.get(&in_hand.run) {
            live.taken.store(true, Ordering::Relaxed);
            live.control.leave(Leave::Now);
        }
        self.is_not_live(&in_hand.run).await;
    }
    pub fn is_left(&self, run: &RunId) -> bool {
        lock(&self.state).left.contains(run)
    }

    /// Takes up nothing new, and leaves all runs.
    pub fn close(&self, how: Leave) {
        let mut state = lock(&self.state);
        state.closing = true;
        for live in state.live.values() {
            live.control.leave(how);
        }
        self.left.notify_waiters();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        // Nothing is driven any more. Without a runtime the process is about to end, which others notice.
        if let (Some(current), Ok(runtime)) =
            (self.current.get_mut().take(), tokio::runtime::Handle::try_current())
        {
            let store = Arc::clone(&self.store);
            runtime.spawn(async move { store.end_session(current.session).await });
        }
    }
}
