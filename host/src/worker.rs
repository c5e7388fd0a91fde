//! Finds the runs that can be advanced, and advances them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use wfhost_agents::{Gate, Providers};
use wfhost_core::{
    Digest, End, Epoch, Failure, FailureKind, Journal, Machine, Origin, Position, RunId, Timestamp,
    plan_retry,
};
use wfhost_runtime::{Denied, Engine, Module};
use wfhost_store::schedule::{Firing, LastRun, Schedule};
use wfhost_store::{
    Append, ClaimHow, Claimed, Fence, Fire, Inbox, Kept, Next, Opened, Owner, Projects, RunFilter, RunInfo,
    RunState, Seen, SessionId, SharedStore, StoreError, Unreadable, Wake, Wanted,
};
use wfhost_world::{Lease, World, lock};

use crate::calls::Registry;
use crate::drive::{Control, Done, Drive, DriveError, Driven, Leave, Pace};
use crate::family::Modules;
use crate::handle::Ending;
use crate::host::{Adopt, Configurations, Evict, HostError};

/// How often a session is renewed while its lease runs.
const RENEWALS: u32 = 3;
/// A store that could not be reached, or has no room, is tried again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// One that fails for another reason is tried again after twice the time each time, up to this.
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// How often is looked whether the owners of sessions still live.
const OWNERS_EVERY: Duration = Duration::from_millis(200);
/// How often is looked whether the database is still the one that was opened.
const PLACE_EVERY: Duration = Duration::from_secs(1);
/// Runs that were parked by a clock that was ahead are looked for after this time.
const PUT_RIGHT_EVERY: Duration = Duration::from_secs(30);
/// What is due is looked up again after this time, in case the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What becomes due within this time of a look is taken up together.
const GATHER: Duration = Duration::from_millis(1);
/// Runs that are claimed together at most.
const CLAIMS_AT_ONCE: usize = 256;
/// Schedules that are fired between two looks for runs.
const FIRINGS_AT_ONCE: usize = 64;
/// How long a run may only wait before its program is dropped from memory.
const PARK_GRACE: Duration = Duration::from_secs(2);
/// A run that was claimed more often without coming forward is given up.
const MAX_STARTS: u32 = 5;

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
    /// Runs that are driven at the same time.
    pub max_live: usize,
    pub state: Mutex<State>,
    /// What programs mean by the names of modules.
    pub named: Modules,
    /// The session under which this host advances runs, once it does.
    pub current: tokio::sync::Mutex<Option<Current>>,
    /// Calls under way, which survive whoever began them.
    pub calls: Arc<Registry<Done>>,
    /// What keeps this host from its work, if something does.
    pub trouble: watch::Sender<Option<StoreError>>,
    /// Others wait for a place in memory.
    pub crowded: AtomicBool,
    /// A claim failed, and it is not known whether it was made: this host may have runs that nobody drives.
    pub unsure: AtomicBool,
    /// The tasks that end with this.
    pub tasks: Mutex<Vec<AbortHandle>>,
    /// There may be work.
    pub work: Arc<Notify>,
    /// A run is driven no more.
    pub left: Notify,
    pub going: Once,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The runs that are driven here.
    live: BTreeMap<RunId, Arc<Live>>,
    /// Those that somebody of this process follows.
    watched: BTreeMap<RunId, Weak<Watched>>,
    /// Those that were left on request.
    left: BTreeSet<RunId>,
    closing: bool,
}

impl State {
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
    control: Control,
}

/// A run that somebody follows.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Counts what was committed.
    pub changed: watch::Sender<u64>,
    /// The run may have ended: it is not driven here any more, or another process wrote something.
    pub over: Notify,
    pub ending: Mutex<Option<Result<Ending, HostError>>>,
    /// Who answers its calls here, if not those of the host.
    pub providers: Option<Providers>,
    /// The top of its family, once that is known.
    root: OnceLock<RunId>,
}

impl Watched {
    /// Has those who follow the run look whether it has ended.
    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
        self.over.notify_one();
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
}

impl Inner {
    /// Begins the tasks that keep a host going, until it is dropped.
    pub fn set_going(self: &Arc<Self>) {
        self.going.call_once(|| {
            let inner = || Arc::downgrade(self);
            let (store, seen) = (Arc::clone(&self.store), Seen::default());
            self.spawn(find_work(inner()));
            self.spawn(watch_owners(inner()));
            self.spawn(watch_others(inner(), store, seen));
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    /// The session of this host, which begins if there is none.
    pub async fn session(self: &Arc<Self>) -> Result<Current, StoreError> {
        let mut current = self.current.lock().await;
        if let Some(current) = current.as_ref().filter(|current| !current.lease.is_lost()) {
            return Ok(current.clone());
        }
        let asked = Instant::now();
        let session = self.store.begin_session(&self.owner, self.lease_ms).await?;
        let begun = Current { session, lease: Lease::default() };
        begun.lease.extend(asked + self.term());
        *current = Some(begun.clone());
        self.spawn(keep(Arc::downgrade(self), begun.clone()));
        Ok(begun)
    }

    /// How long this host counts on a session from before it asked for its renewal: less than the
    /// others do.
    fn term(&self) -> Duration {
        Duration::from_millis(self.lease_ms - self.lease_ms / 10)
    }

    /// Another process has ended the session.
    fn lose(&self, lost: &Current) {
        lost.lease.lose();
        for live in lock(&self.state).live.values().filter(|live| live.session == lost.session) {
            live.control.leave(Leave::Lost);
        }
    }

    /// The database is not where it was: what would be done in it would be lost, so nothing is.
    async fn has_moved(&self, error: StoreError) {
        self.trouble.send_replace(Some(error));
        let current = self.current.lock().await.clone();
        current.iter().for_each(|current| self.lose(current));
        for watched in lock(&self.state).watched.values().filter_map(Weak::upgrade) {
            watched.tell();
        }
    }

    /// A claim failed, and it may have been made.
    pub fn doubt(&self) {
        self.unsure.store(true, Ordering::Relaxed);
        self.work.notify_one();
    }

    /// Gives up what this host has and does not drive.
    async fn settle_doubt(&self, current: &Current) -> Result<(), StoreError> {
        if !self.unsure.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let driven = lock(&self.state).live.keys().cloned().collect();
        let shed = self.store.shed(current.session, driven).await;
        shed.map(drop).inspect_err(|_| self.unsure.store(true, Ordering::Relaxed))
    }

    /// Gives up all that this host has, for others.
    pub async fn end_session(&self) {
        let current = self.current.lock().await.take();
        if let Some(current) = current {
            self.lose(&current);
            // Else the others find out that this process is gone.
            let _ = self.store.end_session(current.session).await;
        }
    }

    pub fn watch(&self, run: &RunId, providers: Option<Providers>) -> (Arc<Watched>, watch::Receiver<u64>) {
        let (changed, changes) = watch::channel(0);
        let (over, ending, root) = (Notify::new(), Mutex::default(), OnceLock::new());
        let watched = Arc::new(Watched { changed, over, ending, providers, root });
        let mut state = lock(&self.state);
        // Now and then, so that following many costs no more for each.
        if state.watched.len().is_power_of_two() {
            state.watched.retain(|_, watched| watched.strong_count() > 0);
        }
        state.watched.insert(run.clone(), Arc::downgrade(&watched));
        state.left.remove(run);
        (watched, changes)
    }

    pub fn is_live(&self, run: &RunId) -> bool {
        lock(&self.state).live.contains_key(run)
    }

    pub fn live(&self) -> usize {
        lock(&self.state).live.len()
    }

    /// Whether a run more may be driven here.
    pub fn has_room(&self) -> bool {
        self.live() < self.max_live
    }

    /// Waits until a run more may be driven here.
    pub async fn room(&self) {
        loop {
            let left = self.left.notified();
            if self.has_room() || lock(&self.state).closing {
                return;
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

    /// Drives a run in a task of its own, as soon as it is not driven here any more.
    pub fn begin(self: &Arc<Self>, run: &RunId, from: From) {
        let current = from.current();
        let control = Control::under(current.lease.clone());
        if self.crowded.load(Ordering::Relaxed) {
            control.crowd();
        }
        let live = Arc::new(Live {
            session: current.session,
            epoch: AtomicU64::new(0),
            doubtful: AtomicBool::new(false),
            control,
        });
        {
            let mut state = lock(&self.state);
            if state.closing {
                // It is given up with the session.
                return;
            }
            if state.live.contains_key(run) {
                drop(state);
                let (inner, run) = (Arc::clone(self), run.clone());
                tokio::spawn(async move {
                    loop {
                        let left = inner.left.notified();
                        if !inner.is_live(&run) {
                            break;
                        }
                        left.await;
                    }
                    inner.begin(&run, from);
                });
                return;
            }
            state.live.insert(run.clone(), Arc::clone(&live));
        }
        let entered = Entered { inner: Arc::clone(self), run: run.clone() };
        tokio::spawn(async move {
            let Entered { inner, run } = &entered;
            let driven = inner.drive(run, &live, from).await;
            inner.report(run, driven);
        });
    }

    /// Tells those who follow the run how driving it ended.
    fn report(&self, run: &RunId, driven: Result<Driven, HostError>) {
        let ending = match driven {
            Ok(Driven::Ended(outcome)) => Some(Ok(Ending::Finished(outcome))),
            Ok(Driven::Refused(mismatch)) => {
                Some(Ok(Ending::Refused { reason: mismatch.to_string(), mismatch: Some(mismatch) }))
            }
            Ok(Driven::Paused) => Some(Ok(Ending::Paused)),
            Ok(Driven::Left) => Some(Ok(Ending::Stopped)),
            Ok(Driven::Continued(next)) => Some(Ok(Ending::Continued(next))),
            Ok(Driven::HandedOver(error)) => Some(Err(error.into())),
            Ok(Driven::Parked | Driven::Lost) => None,
            Err(error) => Some(Err(error)),
        };
        if let (Some(watched), Some(ending)) = (self.watched(run), ending) {
            *lock(&watched.ending) = Some(ending);
        }
    }

    fn watched(&self, run: &RunId) -> Option<Arc<Watched>> {
        lock(&self.state).watched.get(run).and_then(Weak::upgrade)
    }

    /// Drives a run as far as it goes.
    async fn drive(self: &Arc<Self>, run: &RunId, live: &Live, from: From) -> Result<Driven, HostError> {
        let mut from = Some(from);
        let mut wait = AGAIN_AFTER;
        loop {
            let driven = match from.take() {
                Some(from) => self.advance(run, live, from).await,
                None => match self.reopen(run, live).await {
                    Ok(Some(opened)) => {
                        let current = Current { session: live.session, lease: live.control.lease.clone() };
                        from = Some(From::Opened(opened, current));
                        continue;
                    }
                    Ok(None) => return Ok(Driven::Lost),
                    Err(error) => Err(error.into()),
                },
            };
            let error = match driven {
                Err(HostError::Store(error) | HostError::Drive(DriveError::Store(error))) => error,
                other => return other,
            };
            self.trouble.send_if_modified(|trouble| {
                let news = error.is_passing() && trouble.as_ref() != Some(&error);
                if news {
                    *trouble = Some(error.clone());
                }
                news
            });
            let goes_on = match error {
                StoreError::Raced { .. } => true,
                // Who follows it is told, and decides.
                _ if self.watched(run).is_some() => false,
                _ if error.is_passing()
                    || matches!(error, StoreError::Failed { .. } | StoreError::Unknown { .. }) =>
                {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(wait) => {}
                        () = live.control.left() => {}
                    }
                    if !error.is_passing() {
                        wait = (2 * wait).min(AGAIN_AT_MOST);
                    }
                    true
                }
                _ => false,
            };
            // One that is left gently has time for its calls, which go on.
            if !goes_on || live.control.leaving() >= Leave::Now {
                let epoch = Epoch(live.epoch.load(Ordering::Relaxed));
                self.release(run, live.session, epoch, error.to_string()).await;
                return Err(error.into());
            }
        }
    }

    /// A trouble that passes is over.
    fn is_over(&self) {
        self.trouble.send_if_modified(|trouble| {
            let is_over = trouble.as_ref().is_some_and(StoreError::is_passing);
            if is_over {
                *trouble = None;
            }
            is_over
        });
    }

    /// Claims a run once more that this host has. None if it has lost it.
    async fn reopen(self: &Arc<Self>, run: &RunId, live: &Live) -> Result<Option<Box<Opened>>, StoreError> {
        match self.store.claim(live.session, run, ClaimHow::AsItIs).await {
            Ok(Claimed::Yes(opened)) => {
                self.is_over();
                Ok(Some(opened))
            }
            Ok(Claimed::Unreadable(unreadable)) => {
                let Unreadable { epoch, error, .. } = *unreadable;
                self.release(run, live.session, epoch, error.to_string()).await;
                Err(error)
            }
            Ok(Claimed::NotDue | Claimed::Held { .. } | Claimed::Ended | Claimed::NoSuchRun)
            | Err(StoreError::SessionOver | StoreError::Fenced { .. }) => Ok(None),
            Err(error) => {
                live.doubtful.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Gives a run up that cannot be advanced here, whatever this execution did. If the store is in
    /// trouble itself it is asked again and again, while others go on.
    async fn release(self: &Arc<Self>, run: &RunId, session: SessionId, epoch: Epoch, trouble: String) {
        let next = Next::Release { waiting: None, trouble: Some(trouble) };
        let append = Append::new(run.clone(), session, epoch, Timestamp(0), next);
        if self.is_released(&append).await {
            return;
        }
        let inner = Arc::downgrade(self);
        self.spawn(async move {
            loop {
                tokio::time::sleep(AGAIN_AFTER).await;
                let Some(inner) = inner.upgrade() else { return };
                if inner.is_released(&append).await {
                    return;
                }
            }
        });
    }

    /// Whether the run is not this host's any more after that append.
    async fn is_released(&self, append: &Append) -> bool {
        // A session that ends gives everything up.
        lock(&self.state).closing
            || matches!(
                self.store.append(append.clone()).await,
                Ok(_) | Err(StoreError::Fenced { .. } | StoreError::SessionOver)
            )
    }

    /// Drives a run once.
    async fn advance(self: &Arc<Self>, run: &RunId, live: &Live, from: From) -> Result<Driven, HostError> {
        let watched = self.watched(run);
        let ready = match from {
            From::Ready(ready) => *ready,
            From::Opened(opened, current) => {
                let epoch = opened.epoch;
                live.epoch.store(epoch.0, Ordering::Relaxed);
                match self.open(*opened, current, None).await {
                    Ok(ready) => ready,
                    Err(error) => {
                        if !is_of_store(&error) {
                            self.release(run, live.session, epoch, error.to_string()).await;
                        }
                        return Err(error);
                    }
                }
            }
        };
        let Ready {
            current: Current { session, .. },
            epoch,
            starts,
            mut machine,
            module,
            project,
            imported,
            place,
            inbox,
        } = ready;
        live.epoch.store(epoch.0, Ordering::Relaxed);
        if starts > MAX_STARTS {
            return self.give_up(run, session, epoch, starts, machine).await;
        }
        machine.move_to(module.digest);
        let providers = match watched.as_ref().and_then(|watched| watched.providers.clone()) {
            Some(providers) => providers,
            None => {
                let configured = project.as_ref().and_then(|project| self.configured.providers(project));
                let providers = configured.as_ref().unwrap_or(&self.providers);
                // A script writes to the file of calls that it names: one of strangers is not opened.
                match self.scripts && !imported {
                    true => providers.for_run(&machine.started().config),
                    false => providers.clone(),
                }
            }
        };
        let weak = Arc::downgrade(self);
        let committed = Arc::new({
            let watched = watched.clone();
            move || {
                if let Some(watched) = &watched {
                    watched.changed.send_modify(|count| *count += 1);
                }
            }
        });
        let calls = self.calls.of(run);
        let driven = Drive {
            engine: &self.engine,
            store: &self.store,
            world: &self.world,
            providers: &providers,
            gate: &self.gate,
            run,
            session,
            epoch,
            starts,
            module: &module,
            pace: match self.evict {
                Evict::AfterGrace => Pace::ParkAfter(PARK_GRACE),
                Evict::Always => Pace::ParkAtOnce,
            },
            control: &live.control,
            committed,
            wake: Arc::new(move |wakes: &[Wake]| {
                if let Some(inner) = Weak::upgrade(&weak) {
                    inner.wake_all(wakes);
                }
            }),
            modules: &self.named,
            project,
            imported,
            calls: Arc::clone(&calls),
            place,
            inbox,
        }
        .run(machine)
        .await;
        match driven {
            Ok(driven) => {
                self.calls.forget(run);
                Ok(driven)
            }
            Err(error) => {
                self.calls.keep(run, calls);
                let error = HostError::from(error);
                // The run stays as it was committed; somebody else may take it up.
                if !is_of_store(&error) {
                    self.release(run, session, epoch, error.to_string()).await;
                }
                Err(error)
            }
        }
    }

    /// A run that never comes forward, because its program brings down the host, is ended.
    async fn give_up(
        &self,
        run: &RunId,
        session: SessionId,
        epoch: Epoch,
        starts: u32,
        machine: Machine,
    ) -> Result<Driven, HostError> {
        let message = format!(
            "no-progress: the run was begun {} times without one new entry, so its program seems to \
             bring down the host",
            starts - 1
        );
        let outcome = Err(Failure::new(FailureKind::Failed, message));
        let now = self.world.now();
        let (row, at) = machine.with_end(End::Finished { outcome: &outcome, stopped: true }, now);
        let next = Next::End { outcome: outcome.clone(), spent: machine.spent(now) };
        let append = Append {
            before: machine.head(),
            row: Some(row.into()),
            ..Append::new(run.clone(), session, epoch, at, next)
        };
        match self.store.append(append).await {
            Ok(appended) => {
                self.wake_all(&appended.wake);
                Ok(Driven::Ended(outcome))
            }
            Err(StoreError::Fenced { .. }) => Ok(Driven::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Claims a run and reads it; or says why it cannot be had.
    pub async fn claim_and_open(
        self: &Arc<Self>,
        run: &RunId,
        how: ClaimHow,
        module: Option<&Module>,
    ) -> Result<Result<Ready, Claimed>, HostError> {
        let current = self.session().await?;
        let opened = match self.claim(run, how).await? {
            Claimed::Yes(opened) => opened,
            other => return Ok(Err(other)),
        };
        let epoch = opened.epoch;
        match self.open(*opened, current.clone(), module).await {
            Ok(ready) => Ok(Ok(ready)),
            Err(error) => {
                self.release(run, current.session, epoch, error.to_string()).await;
                Err(error)
            }
        }
    }

    /// Takes a run over if nobody living has it. One that cannot be read is an error.
    pub async fn claim(self: &Arc<Self>, run: &RunId, how: ClaimHow) -> Result<Claimed, HostError> {
        let current = self.session().await?;
        let session = current.session;
        if self.is_live(run) {
            return Ok(Claimed::Held { session, owner: self.owner.clone(), left_ms: self.lease_ms });
        }
        let mut dead: Option<SessionId> = None;
        loop {
            let claimed = self.store.claim(session, run, how).await;
            match &claimed {
                Err(StoreError::SessionOver) => self.lose(&current),
                Err(_) => self.doubt(),
                Ok(_) => {}
            }
            match claimed? {
                Claimed::Held { session: holder, ref owner, .. }
                    if dead != Some(holder) && self.world.is_dead(owner) =>
                {
                    self.store.fence(holder, Fence::Dead).await?;
                    dead = Some(holder);
                }
                Claimed::Unreadable(unreadable) => {
                    let Unreadable { epoch, error, .. } = *unreadable;
                    self.release(run, session, epoch, error.to_string()).await;
                    return Err(error.into());
                }
                claimed => return Ok(claimed),
            }
        }
    }

    /// Makes a claimed run ready to be driven.
    async fn open(
        &self,
        opened: Opened,
        current: Current,
        moved: Option<&Module>,
    ) -> Result<Ready, HostError> {
        let Opened {
            run,
            epoch,
            starts,
            module: digest,
            emissions,
            given,
            rows,
            mut place,
            inbox,
            project,
            imported,
            ..
        } = opened;
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let mut journal = Journal::read(rows).map_err(unusable)?;
        // A run that had ended goes on from there.
        if let Ok(retry) = plan_retry(&journal, None, true) {
            let before = journal.head;
            let row = retry.append(&mut journal, emissions, self.world.now());
            let machine = Machine::open(journal.clone(), given).map_err(unusable)?;
            place = self.append_retry(&run, &current, epoch, before, row, &machine).await?;
        }
        let mut machine = Machine::open(journal, given).map_err(unusable)?;
        if let Some(Origin::Reused { from }) = machine.started().origin.clone() {
            // If it was deleted everything is asked afresh.
            let rows = self.store.journal(&from, Position(0)).await?;
            if let Ok(journal) = Journal::read(rows) {
                machine.take_answers_from(&journal);
            }
        }
        let module = match moved {
            Some(module) => module.clone(),
            None => {
                let name = machine.started().workflow.clone();
                match self.engine.ready(&name, digest).await {
                    Some(module) => module,
                    None => {
                        // Whoever dies while it is compiled says nothing about the program.
                        let count = |starts| self.store.set_starts(current.session, &run, epoch, starts);
                        count(starts.saturating_sub(1)).await?;
                        let module = self.module(&run, digest, &name).await?;
                        count(starts).await?;
                        module
                    }
                }
            }
        };
        let inbox = Some(inbox);
        Ok(Ready { current, epoch, starts, machine, module, project, imported, place, inbox })
    }

    /// Commits that a run which had ended goes on. Gives the place of that.
    pub async fn append_retry(
        &self,
        run: &RunId,
        current: &Current,
        epoch: Epoch,
        before: Digest,
        row: wfhost_core::Row,
        machine: &Machine,
    ) -> Result<Option<u64>, HostError> {
        let append = Append {
            before,
            row: Some(row),
            questions: machine.open_questions(),
            ..Append::new(run.clone(), current.session, epoch, machine.last_at(), Next::Go)
        };
        Ok(self.store.append(append).await?.place)
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        let rows = self.store.journal(run, Position(0)).await?;
        Journal::read(rows).map_err(|source| HostError::Journal { run: run.clone(), source })
    }

    pub async fn module(&self, run: &RunId, digest: Digest, name: &str) -> Result<Module, HostError> {
        let bytes = async {
            let bytes = self.store.module(digest).await?;
            bytes.ok_or_else(|| HostError::NoModule { run: run.clone(), digest })
        };
        // It was accepted when the run began.
        self.engine.load(name, digest, Denied::Trap, bytes).await
    }

    /// Something was sent to a run.
    pub fn wake(&self, run: &RunId) {
        if let Some(live) = lock(&self.state).live.get(run) {
            live.control.inbox.notify_one();
        }
        self.work.notify_one();
    }

    /// The same of several, and what else may be due.
    pub fn wake_all(&self, wakes: &[Wake]) {
        if wakes.is_empty() {
            return;
        }
        let state = lock(&self.state);
        for wake in wakes {
            match wake {
                Wake::Run(run) => {
                    if let Some(live) = state.live.get(run) {
                        live.control.inbox.notify_one();
                    }
                }
                Wake::Due => {}
                Wake::Gap => state.live.values().for_each(|live| live.control.inbox.notify_one()),
            }
        }
        self.work.notify_one();
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

    /// Takes up what is due. Gives the time until something else is.
    async fn adopt_due(self: &Arc<Self>) -> Result<Duration, StoreError> {
        let (room, except) = {
            let state = lock(&self.state);
            if state.closing {
                return Ok(LOOK_EVERY);
            }
            (self.max_live.saturating_sub(state.live.len()), state.left.iter().cloned().collect())
        };
        let current = self.session().await?;
        self.settle_doubt(&current).await?;
        let families = match self.adopt {
            Adopt::Due => None,
            Adopt::Own => Some(self.own_families().await?),
        };
        if families.as_ref().is_some_and(Vec::is_empty) {
            return Ok(LOOK_EVERY);
        }
        // One schedule that fails holds up nothing.
        let fires = match self.adopt {
            Adopt::Due => self.fire_schedules().await.unwrap_or(None),
            Adopt::Own => None,
        };
        let limit = room.min(CLAIMS_AT_ONCE);
        let wanted = Wanted { projects: self.projects.clone(), families, except };
        let due = match self.store.claim_due(current.session, limit, wanted).await {
            Err(StoreError::SessionOver) => {
                // It was stopped for too long: another session begins.
                self.lose(&current);
                return Ok(GATHER);
            }
            due => due.inspect_err(|_| self.doubt())?,
        };
        if !due.runs.is_empty() {
            // Something was written.
            self.is_over();
        }
        for claimed in due.runs {
            match claimed {
                Ok(opened) => {
                    let run = opened.run.clone();
                    self.begin(&run, From::Opened(Box::new(opened), current.clone()));
                }
                Err(Unreadable { run, epoch, error }) => {
                    self.release(&run, current.session, epoch, error.to_string()).await;
                }
            }
        }
        if room == 0 && due.more {
            self.crowd();
        } else {
            self.crowded.store(false, Ordering::Relaxed);
        }
        if room > 0 && due.more {
            return Ok(GATHER);
        }
        let next = [fires, due.next_in_ms].into_iter().flatten().min();
        Ok(next.map_or(LOOK_EVERY, Duration::from_millis).min(LOOK_EVERY))
    }

    /// Begins the runs of schedules that are due. Gives in how many milliseconds there is more to do.
    async fn fire_schedules(&self) -> Result<Option<u64>, StoreError> {
        let schedules = self.store.due_schedules(FIRINGS_AT_ONCE).await?;
        let now = self.world.now();
        let mut fired = false;
        for schedule in schedules.due {
            // One that cannot be fired is tried again at the next look; the others are not kept from it.
            fired |= self.fire(&schedule, now).await.unwrap_or(false);
        }
        // One that is behind may be due again, after what else is.
        Ok(if fired { Some(0) } else { schedules.next_in_ms })
    }

    /// Fires a schedule, unless another host has. False if nothing changed.
    async fn fire(&self, schedule: &Schedule, now: Timestamp) -> Result<bool, StoreError> {
        let Some(due) = schedule.next_at else { return Ok(false) };
        let last = match &schedule.last {
            Some(run) => self.latest(run).await?,
            None => None,
        };
        let last_run = match &last {
            None => LastRun::None,
            Some(info) if info.state.is_final() => LastRun::Ended(info.updated_at),
            Some(_) => LastRun::GoesOn,
        };
        let fire = |next, run, cancel| Fire { schedule: schedule.name.clone(), due, next, run, cancel };
        let (at, next, cancel) = match schedule.firing(due, now, last_run) {
            Firing::Wait => return Ok(false),
            Firing::Skip { next } => return self.store.fire(fire(next, None, None)).await,
            Firing::Run { at, next, cancel } => (at, next, cancel),
        };
        let cancel = last.filter(|_| cancel).map(|info| info.id);
        for again in [false, true] {
            // Without random numbers no run can begin anywhere; the next look tries again.
            let Ok(run) = schedule.run(at, now, again) else { return Ok(false) };
            match self.store.fire(fire(next, Some(run), cancel.clone())).await {
                Err(StoreError::IdTaken { .. } | StoreError::IdUsed { .. }) if !again => {}
                fired => {
                    if let Some(run) = &cancel {
                        self.wake(run);
                    }
                    return fired;
                }
            }
        }
        Ok(false)
    }

    /// The run that this one goes on as in the end, which may be itself.
    async fn latest(&self, run: &RunId) -> Result<Option<RunInfo>, StoreError> {
        let info = self.store.run(run).await?;
        let Some(chain) = info.as_ref().and_then(|info| info.links.chain.clone()) else { return Ok(info) };
        let newest = RunFilter { chain: Some(chain), limit: 1, ..RunFilter::default() };
        Ok(self.store.runs(newest).await?.pop().or(info))
    }

    /// The families of the runs that somebody follows here.
    async fn own_families(&self) -> Result<Vec<RunId>, StoreError> {
        let followed: Vec<_> = {
            let state = lock(&self.state);
            let followed =
                state.watched.iter().filter_map(|(run, watched)| Some((run.clone(), watched.upgrade()?)));
            followed.collect()
        };
        let mut roots = BTreeSet::new();
        for (run, watched) in followed {
            if watched.root.get().is_none()
                && let Some(info) = self.store.run(&run).await?
            {
                // Two looks find the same.
                let _ = watched.root.set(info.links.root);
            }
            roots.extend(watched.root.get().cloned());
        }
        Ok(roots.into_iter().collect())
    }

    /// Ends the sessions of processes that are no more.
    async fn fence_dead(&self) -> Result<(), StoreError> {
        let own = self.current.lock().await.as_ref().map(|current| current.session);
        for session in self.store.sessions().await? {
            let fence = match session.left_ms {
                _ if Some(session.id) == own => continue,
                0 => Fence::IfOver,
                _ if self.world.is_dead(&session.owner) => Fence::Dead,
                _ => continue,
            };
            if self.store.fence(session.id, fence).await? > 0 {
                self.work.notify_one();
            }
        }
        Ok(())
    }

    /// What became of a run that somebody else advances, or nobody.
    pub async fn recorded_end(&self, run: &RunId) -> Result<Option<Ending>, HostError> {
        let info = self.store.run(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        if let Some(next) = info.links.next {
            return Ok(Some(Ending::Continued(next)));
        }
        Ok(match (info.state, info.outcome) {
            (RunState::Paused, _) => Some(Ending::Paused),
            (RunState::Refused, Some(Err(failure))) => {
                Some(Ending::Refused { reason: failure.message, mismatch: None })
            }
            (state, Some(outcome)) if state.is_final() => Some(Ending::Finished(outcome)),
            _ => None,
        })
    }
}

/// A run is driven here as long as this lives.
struct Entered {
    inner: Arc<Inner>,
    run: RunId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        let left = state.live.remove(&self.run);
        if left.is_some_and(|live| live.doubtful.load(Ordering::Relaxed)) {
            self.inner.unsure.store(true, Ordering::Relaxed);
        }
        state.tell(&self.run);
        drop(state);
        self.inner.left.notify_waiters();
        self.inner.work.notify_one();
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

/// Whether the store failed, not the run.
fn is_of_store(error: &HostError) -> bool {
    matches!(error, HostError::Store(_) | HostError::Drive(DriveError::Store(_)))
}

/// Takes up what is due, whenever that is.
async fn find_work(inner: Weak<Inner>) {
    let Some(work) = inner.upgrade().map(|inner| Arc::clone(&inner.work)) else { return };
    loop {
        let Some(strong) = inner.upgrade() else { return };
        // A store that fails shows it where it is used.
        let adopted = strong.adopt_due().await;
        let wait = match adopted {
            Ok(wait) => wait,
            Err(error) if error.is_passing() => {
                strong.trouble.send_if_modified(|trouble| trouble.replace(error.clone()) != Some(error));
                AGAIN_AFTER
            }
            Err(_) => AGAIN_AFTER,
        };
        drop(strong);
        let looked = Instant::now();
        tokio::select! {
            biased;
            () = work.notified() => {}
            () = tokio::time::sleep_until(looked + wait) => {}
        }
        // Runs that end one after the other make room one after the other.
        tokio::time::sleep_until(looked + GATHER).await;
    }
}

/// Notices which processes die, and that the database is gone.
async fn watch_owners(inner: Weak<Inner>) {
    let mut place_at = Instant::now();
    let mut right_at = Instant::now();
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            let _ = inner.fence_dead().await;
            if right_at <= Instant::now() {
                right_at = Instant::now() + PUT_RIGHT_EVERY;
                // If it fails, the next look makes up for it.
                if inner.store.put_right().await.is_ok_and(|runs| runs > 0) {
                    inner.work.notify_one();
                }
            }
            if place_at <= Instant::now() {
                place_at = Instant::now() + PLACE_EVERY;
                if let Err(error) = inner.store.check_place() {
                    inner.has_moved(error).await;
                }
            }
        }
        tokio::time::sleep(OWNERS_EVERY).await;
    }
}

/// Notices what other processes write.
async fn watch_others(inner: Weak<Inner>, store: SharedStore, mut seen: Seen) {
    loop {
        let wakes = store.wakes(&mut seen).await;
        let Some(inner) = inner.upgrade() else { return };
        match wakes {
            Ok(wakes) => {
                inner.wake_all(&wakes);
                // What is driven here tells its followers by itself.
                let state = lock(&inner.state);
                for (run, watched) in &state.watched {
                    if !state.live.contains_key(run)
                        && let Some(watched) = watched.upgrade()
                    {
                        watched.tell();
                    }
                }
            }
            Err(_) => {
                drop(inner);
                // What was seen is not known: everything is looked at the next time.
                seen = Seen::default();
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// Keeps a session of this host.
async fn keep(inner: Weak<Inner>, current: Current) {
    let Some(every) = inner.upgrade().map(|inner| Duration::from_millis(inner.lease_ms) / RENEWALS) else {
        return;
    };
    let mut wait = every;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            // A process that was stopped renews at once, and then decides.
            () = current.lease.wanted() => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        if current.lease.is_lost() {
            return;
        }
        let asked = Instant::now();
        match inner.store.keep(current.session).await {
            Ok(Kept::Until { .. }) => {
                current.lease.extend(asked + inner.term());
                inner.is_over();
                wait = every;
            }
            Ok(Kept::Fenced) => {
                inner.lose(&current);
                inner.work.notify_one();
                return;
            }
            // It is over if this does not pass in time.
            Err(_) => {
                drop(inner);
                wait = every.min(AGAIN_AFTER);
                tokio::time::sleep(wait.min(Duration::from_millis(50))).await;
            }
        }
    }
}
