//! Finds the runs that can be advanced, and advances them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use wfhost_agents::{Gate, Providers};
use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Journal, Machine, Origin, Position, RunId, Timestamp, plan_retry,
};
use wfhost_runtime::{Denied, Engine, Module};
use wfhost_store::schedule::{Firing, Schedule};
use wfhost_store::{
    Append, Claim, ClaimHow, Claimed, Fire, Next, Owner, RunFilter, RunInfo, RunState, SharedStore,
    StoreError,
};
use wfhost_world::{World, lock};

use crate::drive::{Control, Drive, Driven, Leave, Pace};
use crate::family::Modules;
use crate::handle::Ending;
use crate::host::{Adopt, Evict, HostError};

/// How often a lease is renewed while it runs.
const RENEWALS: u32 = 3;
/// How often the store is asked whether another process wrote something.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// How often is looked whether the owners of leases still live.
const OWNERS_EVERY: Duration = Duration::from_millis(200);
/// What is due is looked up again after this time, in case the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What becomes due within this time of a look is taken up together.
const GATHER: Duration = Duration::from_millis(1);
/// Runs that are being claimed at the same time: enough for large commits.
const CLAIMS_AT_ONCE: usize = 256;
/// How long a run may only wait before its program is dropped from memory.
const PARK_GRACE: Duration = Duration::from_secs(2);
/// A run that was claimed more often without coming forward is given up.
const MAX_STARTS: u32 = 5;
/// A run that this host cannot advance is tried again after this time, doubled each time.
const AGAIN_AFTER_MS: u64 = 30_000;

/// What all tasks of a host share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub engine: Engine,
    pub store: SharedStore,
    pub world: Arc<dyn World>,
    pub owner: Owner,
    pub providers: Providers,
    /// Where agent calls wait for their turn.
    pub gate: Arc<Gate>,
    pub evict: Evict,
    pub adopt: Adopt,
    pub lease_ms: u64,
    /// Runs that are driven at the same time.
    pub max_live: usize,
    pub state: Mutex<State>,
    pub modules: Mutex<HashMap<Digest, Module>>,
    /// What programs mean by the names of modules.
    pub named: Modules,
    /// Runs that are being claimed.
    pub claiming: AtomicUsize,
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
    /// Those that this host could not advance: when to try again, and how often it did.
    failed: BTreeMap<RunId, (Timestamp, u32)>,
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

/// A run that is driven here.
#[derive(Debug, Default)]
struct Live {
    control: Control,
    lease: Mutex<Option<Epoch>>,
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
}

impl Watched {
    /// Has those who follow the run look whether it has ended.
    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
        self.over.notify_one();
    }
}

/// A run that was claimed and read.
pub(crate) struct Ready {
    pub epoch: Epoch,
    /// Of the lease.
    pub until: Timestamp,
    pub starts: u32,
    pub machine: Machine,
    pub module: Module,
}

impl Inner {
    /// Begins the tasks that keep a host going, until it is dropped.
    pub fn set_going(self: &Arc<Self>) {
        self.going.call_once(|| {
            tokio::spawn(find_work(Arc::downgrade(self)));
            tokio::spawn(watch_others(Arc::downgrade(self)));
            tokio::spawn(renew(Arc::downgrade(self)));
        });
    }

    pub fn watch(&self, run: &RunId, providers: Option<Providers>) -> (Arc<Watched>, watch::Receiver<u64>) {
        let (changed, changes) = watch::channel(0);
        let watched = Watched { changed, over: Notify::new(), ending: Mutex::default(), providers };
        let watched = Arc::new(watched);
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

    /// Drives a run in a task of its own, unless that is going on already.
    /// What is ready is driven as it is; else the run is claimed first. False if it is going on.
    pub fn begin(self: &Arc<Self>, run: &RunId, ready: Option<Ready>, how: ClaimHow) -> bool {
        let live = Arc::new(Live::default());
        {
            let mut state = lock(&self.state);
            if state.closing || state.live.contains_key(run) {
                return false;
            }
            *lock(&live.lease) = ready.as_ref().map(|ready| ready.epoch);
            state.live.insert(run.clone(), Arc::clone(&live));
        }
        let entered = Entered { inner: Arc::clone(self), run: run.clone() };
        let claiming = ready.is_none().then(|| Claiming::new(self));
        tokio::spawn(async move {
            let Entered { inner, run } = &entered;
            let driven = inner.advance(run, &live, ready, how, claiming).await;
            inner.report(run, driven);
        });
        true
    }

    /// Tells those who follow the run how driving it ended.
    fn report(&self, run: &RunId, driven: Result<Option<Driven>, HostError>) {
        let ending = match driven {
            Ok(Some(Driven::Ended(outcome))) => Some(Ok(Ending::Finished(outcome))),
            Ok(Some(Driven::Refused(mismatch))) => {
                Some(Ok(Ending::Refused { reason: mismatch.to_string(), mismatch: Some(mismatch) }))
            }
            Ok(Some(Driven::Paused)) => Some(Ok(Ending::Paused)),
            Ok(Some(Driven::Left)) => Some(Ok(Ending::Stopped)),
            Ok(Some(Driven::Continued(next))) => Some(Ok(Ending::Continued(next))),
            Ok(Some(Driven::Parked | Driven::Lost) | None) => None,
            Err(error) => {
                let mut state = lock(&self.state);
                let (_, times) = state.failed.get(run).copied().unwrap_or_default();
                let wait = AGAIN_AFTER_MS << times.min(5);
                state.failed.insert(run.clone(), (self.world.now().after(wait), times + 1));
                Some(Err(error))
            }
        };
        let watched = lock(&self.state).watched.get(run).and_then(Weak::upgrade);
        if let (Some(watched), Some(ending)) = (watched, ending) {
            *lock(&watched.ending) = Some(ending);
        }
    }

    /// Claims a run and drives it as far as it goes. `None`: there is nothing to do for it.
    async fn advance(
        self: &Arc<Self>,
        run: &RunId,
        live: &Live,
        ready: Option<Ready>,
        how: ClaimHow,
        claiming: Option<Claiming>,
    ) -> Result<Option<Driven>, HostError> {
        let watched = lock(&self.state).watched.get(run).and_then(Weak::upgrade);
        let ready = match ready {
            Some(ready) => ready,
            None => match self.claim_and_open(run, how, None).await {
                Ok(Ok(ready)) => ready,
                Ok(Err(Claimed::Ended | Claimed::Held { .. } | Claimed::NotDue)) => return Ok(None),
                Ok(Err(_)) => return Err(HostError::NoSuchRun(run.clone())),
                Err(error) => return Err(error),
            },
        };
        drop(claiming);
        let Ready { epoch, until, starts, mut machine, module } = ready;
        live.control.lease.extend(until);
        *lock(&live.lease) = Some(epoch);
        if starts > MAX_STARTS {
            return self.give_up(run, epoch, starts, machine).await.map(Some);
        }
        machine.move_to(module.digest);
        let providers = match watched.as_ref().and_then(|watched| watched.providers.clone()) {
            Some(providers) => providers,
            None => self.providers.for_run(&machine.started().config),
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
        let driven = Drive {
            engine: &self.engine,
            store: &self.store,
            world: &self.world,
            providers: &providers,
            gate: &self.gate,
            run,
            epoch,
            starts,
            module: &module,
            pace: match self.evict {
                Evict::AfterGrace => Pace::ParkAfter(PARK_GRACE),
                Evict::Always => Pace::ParkAtOnce,
            },
            control: &live.control,
            committed,
            wake: Arc::new(move |run| {
                let Some(inner) = Weak::upgrade(&weak) else { return };
                match run {
                    Some(run) => inner.wake(run),
                    None => inner.wake_all(),
                }
            }),
            modules: &self.named,
        }
        .run(machine)
        .await;
        *lock(&live.lease) = None;
        match driven {
            Ok(driven) => {
                lock(&self.state).failed.remove(run);
                Ok(Some(driven))
            }
            Err(error) => {
                // The run stays as it was committed; somebody else may take it up at once.
                let _ = self.store.release(run, epoch, Some(&error.to_string())).await;
                Err(error.into())
            }
        }
    }

    /// A run that never comes forward, because its program brings down the host, is ended.
    async fn give_up(
        &self,
        run: &RunId,
        epoch: Epoch,
        starts: u32,
        mut machine: Machine,
    ) -> Result<Driven, HostError> {
        let message = format!(
            "no-progress: the run was begun {} times without one new entry, so its program seems to \
             bring down the host",
            starts - 1
        );
        machine.terminate(Failure::new(FailureKind::Failed, message), self.world.now());
        let Some(outcome) = machine.outcome().cloned() else { return Ok(Driven::Lost) };
        let row = machine.take_unsaved();
        let next = Next::End { outcome: outcome.clone(), spent: machine.spent(self.world.now()) };
        let append = Append {
            row: row.map(wfhost_core::Row::from),
            questions: machine.take_questions(),
            ..Append::new(run.clone(), epoch, machine.last_at(), next)
        };
        match self.store.append(append).await {
            Ok(_) => {
                self.wake_all();
                Ok(Driven::Ended(outcome))
            }
            Err(StoreError::Fenced { .. }) => Ok(Driven::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// Claims a run and reads it; or says why it cannot be had.
    pub async fn claim_and_open(
        &self,
        run: &RunId,
        how: ClaimHow,
        module: Option<&Module>,
    ) -> Result<Result<Ready, Claimed>, HostError> {
        let until = self.world.now().after(self.lease_ms);
        let (epoch, emissions, starts, digest) = match self.claim(run, how).await? {
            Claimed::Yes { epoch, emissions, starts, module } => (epoch, emissions, starts, module),
            other => return Ok(Err(other)),
        };
        let opened = self.open(run, epoch, emissions, digest, module).await;
        match opened {
            Ok((machine, module)) => Ok(Ok(Ready { epoch, until, starts, machine, module })),
            Err(error) => {
                self.store.release(run, epoch, Some(&error.to_string())).await?;
                Err(error)
            }
        }
    }

    /// Takes a run over if nobody living has it.
    pub async fn claim(&self, run: &RunId, how: ClaimHow) -> Result<Claimed, HostError> {
        let mut dead: Option<Owner> = None;
        loop {
            let now = self.world.now();
            let until = now.after(self.lease_ms);
            let claim = Claim { run, owner: &self.owner, now, until, dead: dead.as_ref(), how };
            let claimed = self.store.claim(claim).await?;
            match &claimed {
                Claimed::Held { owner, .. } if dead.as_ref() != Some(owner) && self.world.is_dead(owner) => {
                    dead = Some(owner.clone());
                }
                _ => return Ok(claimed),
            }
        }
    }

    async fn open(
        &self,
        run: &RunId,
        epoch: Epoch,
        emissions: u64,
        digest: Digest,
        moved: Option<&Module>,
    ) -> Result<(Machine, Module), HostError> {
        let mut journal = self.journal(run).await?;
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        // A run that had ended goes on from there.
        if let Ok(retry) = plan_retry(&journal, None, true) {
            let row = retry.append(&mut journal, emissions, self.world.now());
            let machine = Machine::open(journal.clone(), emissions).map_err(unusable)?;
            self.append_retry(run, epoch, row, &machine).await?;
        }
        let mut machine = Machine::open(journal, emissions).map_err(unusable)?;
        if let Some(Origin::Reused { from }) = machine.started().origin.clone() {
            // If it was deleted everything is asked afresh.
            let rows = self.store.journal(&from, Position(0)).await?;
            if let Ok(journal) = Journal::read(rows) {
                machine.take_answers_from(&journal);
            }
        }
        let module = match moved {
            Some(module) => module.clone(),
            None => self.module(run, digest, &machine.started().workflow).await?,
        };
        Ok((machine, module))
    }

    /// Commits that a run which had ended goes on.
    pub async fn append_retry(
        &self,
        run: &RunId,
        epoch: Epoch,
        row: wfhost_core::Row,
        machine: &Machine,
    ) -> Result<(), HostError> {
        let append = Append {
            row: Some(row),
            questions: machine.open_questions(),
            ..Append::new(run.clone(), epoch, machine.last_at(), Next::Go)
        };
        self.store.append(append).await?;
        Ok(())
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        let rows = self.store.journal(run, Position(0)).await?;
        Journal::read(rows).map_err(|source| HostError::Journal { run: run.clone(), source })
    }

    pub async fn module(&self, run: &RunId, digest: Digest, name: &str) -> Result<Module, HostError> {
        let known = lock(&self.modules).get(&digest).cloned().or_else(|| self.engine.cached(name, digest));
        let module = match known {
            Some(module) => module,
            None => {
                let bytes = self.store.module(digest).await?;
                let bytes = bytes.ok_or_else(|| HostError::NoModule { run: run.clone(), digest })?;
                // It was accepted when the run began.
                self.engine.module(name, digest, &bytes, Denied::Trap)?
            }
        };
        lock(&self.modules).insert(digest, module.clone());
        Ok(module)
    }

    /// Something was sent to a run.
    pub fn wake(&self, run: &RunId) {
        if let Some(live) = lock(&self.state).live.get(run) {
            live.control.inbox.notify_one();
        }
        self.work.notify_one();
    }

    /// Something was sent to several runs.
    pub fn wake_all(&self) {
        for live in lock(&self.state).live.values() {
            live.control.inbox.notify_one();
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
        let now = self.world.now();
        // What is being claimed is still due in the store.
        let claiming = self.claiming.load(Ordering::Relaxed);
        let (room, passed_over) = {
            let state = lock(&self.state);
            if state.closing {
                return Ok(LOOK_EVERY);
            }
            (self.max_live.saturating_sub(state.live.len()), state.failed.len() + state.left.len())
        };
        let room = room.min(CLAIMS_AT_ONCE.saturating_sub(claiming));
        // A look costs about as much for one run as for many.
        if room == 0 || claiming > CLAIMS_AT_ONCE / 2 {
            return Ok(if claiming > 0 { GATHER } else { LOOK_EVERY });
        }
        let limit = room + claiming + passed_over;
        let (due, next) = match self.adopt {
            Adopt::Due => {
                let fires = self.fire_schedules(now).await?;
                let due = self.store.due(now, limit).await?;
                let next = self.store.next_due(now).await?;
                (due, [fires, next].into_iter().flatten().min())
            }
            Adopt::Own => self.own_due(now).await?,
        };
        let new = due.iter().filter(|run| !self.is_passed_over(run, now));
        new.filter(|run| self.begin(run, None, ClaimHow::Due)).take(room).for_each(drop);
        if due.len() >= limit {
            return Ok(GATHER);
        }
        let wait = next.map_or(LOOK_EVERY, |next| Duration::from_millis(next.since(now)));
        Ok(wait.min(LOOK_EVERY))
    }

    /// Begins the runs of schedules that are due. Gives when the next one is.
    async fn fire_schedules(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        loop {
            let (due, next) = self.store.due_schedules(now).await?;
            let mut fired = false;
            for schedule in due {
                fired |= self.fire(&schedule, now).await?;
            }
            // One that is behind may be due again.
            if !fired {
                return Ok(next);
            }
        }
    }

    /// Fires a schedule, unless another host has. False if nothing changed.
    async fn fire(&self, schedule: &Schedule, now: Timestamp) -> Result<bool, StoreError> {
        let Some(due) = schedule.next_at else { return Ok(false) };
        let last = match &schedule.last {
            Some(run) => self.latest(run).await?.filter(|info| !info.state.is_final()),
            None => None,
        };
        let fire = |next, run, cancel| Fire { schedule: schedule.name.clone(), due, next, run, cancel };
        let (at, next, cancel) = match schedule.firing(due, now, last.is_some()) {
            Firing::Wait => return Ok(false),
            Firing::Skip { next } => return self.store.fire(fire(next, None, None)).await,
            Firing::Run { at, next, cancel } => (at, next, cancel),
        };
        let cancel = last.filter(|_| cancel).map(|info| (info.id, now));
        for again in [false, true] {
            // Without random numbers no run can begin anywhere; the next look tries again.
            let Ok(run) = schedule.run(at, now, again) else { return Ok(false) };
            match self.store.fire(fire(next, Some(run), cancel.clone())).await {
                Err(StoreError::IdTaken { .. } | StoreError::IdUsed { .. }) if !again => {}
                fired => {
                    if let Some((run, _)) = &cancel {
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

    fn is_passed_over(&self, run: &RunId, now: Timestamp) -> bool {
        let state = lock(&self.state);
        state.left.contains(run) || state.failed.get(run).is_some_and(|(again, _)| *again > now)
    }

    /// The same among the runs that somebody follows here.
    async fn own_due(&self, now: Timestamp) -> Result<(Vec<RunId>, Option<Timestamp>), StoreError> {
        let own: Vec<_> = {
            let state = lock(&self.state);
            let followed = state.watched.iter().filter(|(_, watched)| watched.strong_count() > 0);
            followed.map(|(run, _)| run.clone()).collect()
        };
        let mut due = Vec::new();
        let mut next = None::<Timestamp>;
        for run in own {
            let Some(info) = self.store.run(&run).await? else { continue };
            // Its children belong to it.
            let family = RunFilter {
                root: Some(info.links.root),
                states: vec![RunState::Queued, RunState::Running, RunState::Waiting],
                limit: usize::MAX >> 1,
                ..RunFilter::default()
            };
            for info in self.store.runs(family).await? {
                match info.due_at {
                    Some(at) if at <= now => due.push(info.id),
                    Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                    None => {}
                }
            }
        }
        Ok((due, next))
    }

    /// Takes up the runs of processes that are no more.
    async fn adopt_orphans(self: &Arc<Self>) -> Result<(), StoreError> {
        let owners = self.store.owners().await?;
        let dead = owners.into_iter().filter(|owner| *owner != self.owner && self.world.is_dead(owner));
        for owner in dead {
            for run in self.store.owned(&owner).await? {
                if lock(&self.state).live.len() >= self.max_live {
                    return Ok(());
                }
                let mine = self.adopt == Adopt::Due || lock(&self.state).watched.contains_key(&run);
                if mine && !self.is_passed_over(&run, self.world.now()) {
                    self.begin(&run, None, ClaimHow::Due);
                }
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
        state.live.remove(&self.run);
        state.tell(&self.run);
        drop(state);
        self.inner.left.notify_waiters();
        self.inner.work.notify_one();
    }
}

/// A run is being claimed as long as this lives.
struct Claiming(Arc<Inner>);

impl Claiming {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.claiming.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(inner))
    }
}

impl Drop for Claiming {
    fn drop(&mut self) {
        self.0.claiming.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes up what is due, whenever that is.
async fn find_work(inner: Weak<Inner>) {
    let Some(work) = inner.upgrade().map(|inner| Arc::clone(&inner.work)) else { return };
    loop {
        let Some(strong) = inner.upgrade() else { return };
        // A store that fails shows it where it is used.
        let wait = strong.adopt_due().await.unwrap_or(LOOK_EVERY);
        drop(strong);
        let looked = tokio::time::Instant::now();
        tokio::select! {
            biased;
            () = work.notified() => {}
            () = tokio::time::sleep_until(looked + wait) => {}
        }
        // Runs that end one after the other make room one after the other.
        tokio::time::sleep_until(looked + GATHER).await;
    }
}

/// Notices what other processes write, and which of them die.
async fn watch_others(inner: Weak<Inner>) {
    let mut seen = None;
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut owners_at = tokio::time::Instant::now();
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        if owners_at <= tokio::time::Instant::now() {
            owners_at = tokio::time::Instant::now() + OWNERS_EVERY;
            let _ = inner.adopt_orphans().await;
        }
        let Ok(version) = inner.store.version() else { continue };
        // The first time, too: something may have come in since the first look for work.
        if seen.replace(version) != Some(version) {
            let state = lock(&inner.state);
            for live in state.live.values() {
                live.control.inbox.notify_one();
            }
            for watched in state.watched.values().filter_map(Weak::upgrade) {
                watched.tell();
            }
            inner.work.notify_one();
        }
    }
}

/// Keeps the leases of the runs of this host.
async fn renew(inner: Weak<Inner>) {
    let Some(every) = inner.upgrade().map(|inner| Duration::from_millis(inner.lease_ms) / RENEWALS) else {
        return;
    };
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let leases: Vec<_> = {
            let state = lock(&inner.state);
            let live = state.live.iter();
            live.filter_map(|(run, live)| Some((run.clone(), (*lock(&live.lease))?))).collect()
        };
        if leases.is_empty() {
            continue;
        }
        let until = inner.world.now().after(inner.lease_ms);
        // A lease that cannot be renewed shows at the next append.
        let Ok(lost) = inner.store.renew(&leases, until).await else { continue };
        let state = lock(&inner.state);
        for (run, epoch) in &leases {
            match state.live.get(run).filter(|live| *lock(&live.lease) == Some(*epoch)) {
                // Somebody else has it: its calls are for nothing.
                Some(live) if lost.contains(run) => live.control.leave(Leave::Lost),
                Some(live) => live.control.lease.extend(until),
                None => {}
            }
        }
    }
}
