//! The store's contract in memory, as plainly as can be: for tests and
//! experiments, and as what the other implementations are compared with.

mod access;
mod data;
mod extras;
mod journals;
mod limits;
mod outbox;
mod views;
mod work;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Given, Json, Position, QuestionChange, Row, RunId, Step, Timestamp,
};

use super::append::rest_ms;
use super::*;

/// Runs in memory. Nothing survives the process.
#[derive(Debug)]
pub struct MemStore {
    data: Mutex<Data>,
    commits: AtomicU64,
    /// Tells those who wait for changes, in the order in which they came.
    changed: Notify,
    clock: Arc<dyn Clock>,
}

impl Default for MemStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }
}

/// A session, and when it is over in ticks of the clock.
#[derive(Debug)]
struct Begun {
    owner: Owner,
    lease_ms: u64,
    over_at: u64,
}

#[derive(Debug, Default)]
struct Data {
    /// With the time when each was put there the last time.
    modules: HashMap<Digest, (ModuleInfo, Timestamp, Arc<[u8]>)>,
    blobs: HashMap<Digest, (Timestamp, Arc<[u8]>)>,
    sessions: BTreeMap<SessionId, Begun>,
    /// How many sessions were begun.
    begun: u64,
    /// In the order of their creation.
    runs: Vec<Run>,
    /// How many there ever were.
    created: u64,
    inbox: i64,
    /// What was committed, in order: the run and the index of its row.
    commits: Vec<(RunId, usize)>,
    deleted: Vec<RunId>,
    /// Ids of signals, by the first round of the run that they were sent to.
    seen: BTreeSet<(RunId, String)>,
    /// What families spent, by their roots.
    ledgers: BTreeMap<RunId, Spent>,
    schedules: BTreeMap<String, Schedule>,
    transcribed: u64,
    answers: HashMap<Digest, (Timestamp, Json)>,
    /// What they take together.
    answers_bytes: u64,
    secret: Option<[u8; 32]>,
    tokens: BTreeMap<String, Token>,
    acts: Vec<Act>,
    /// What came by addresses that work once.
    used: HashMap<Digest, Digest>,
    cursors: BTreeMap<String, Reading>,
    deliveries: Vec<Delivery>,
    /// How many deliveries there were.
    delivered: u64,
    /// Counts claims of what is due.
    looks: usize,
    /// By session and limits.
    slots: Vec<SlotShare>,
    turns: limits::Queues,
}

/// How far the commits were read, and who reads them until when.
#[derive(Debug)]
struct Reading {
    place: u64,
    at: Timestamp,
    holder: Option<String>,
    until: Timestamp,
}

#[derive(Debug)]
struct Run {
    info: RunInfo,
    session: Option<SessionId>,
    rows: Vec<Row>,
    given: Given,
    starts: u32,
    troubles: u32,
    /// What the clock showed when it was parked.
    parked_at: Option<Timestamp>,
    /// It was asked to stop.
    stopping: bool,
    messages: Vec<OutMessage>,
    questions: BTreeMap<Step, (OpenQuestion, bool)>,
    logs: Vec<LogLine>,
    published: Vec<Published>,
    inbox: Vec<Message>,
    transcript: Vec<TranscriptLine>,
}

impl Data {
    fn run(&self, id: &RunId) -> Option<&Run> {
        self.runs.iter().find(|run| run.info.id == *id)
    }

    fn run_mut(&mut self, id: &RunId) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.info.id == *id)
    }

    fn session(&self, id: SessionId, clock: &dyn Clock) -> Option<Session> {
        let begun = self.sessions.get(&id)?;
        let left_ms = begun.over_at.saturating_sub(clock.ticks_ms());
        Some(Session { id, owner: begun.owner.clone(), left_ms })
    }

    /// What is known of a run, with who advances it.
    fn info(&self, run: &Run, clock: &dyn Clock) -> RunInfo {
        let lease = run.session.and_then(|session| self.session(session, clock));
        RunInfo { lease, ..run.info.clone() }
    }

    /// Ends a session. Gives how many runs it had.
    fn fence(&mut self, session: SessionId) -> u64 {
        self.sessions.remove(&session);
        self.slots.retain(|share| share.session != session);
        let mut count = 0;
        for run in self.runs.iter_mut().filter(|run| run.session == Some(session)) {
            run.session = None;
            run.info.due_at = Some(Timestamp(0));
            count += 1;
        }
        count
    }

    fn check_session(&self, session: SessionId) -> Result<()> {
        if self.sessions.contains_key(&session) { Ok(()) } else { Err(StoreError::SessionOver) }
    }

    fn spend(&mut self, root: &RunId, before: Spent, after: Spent) {
        let sum = self.ledgers.entry(root.clone()).or_default();
        sum.tokens = family_sum(sum.tokens, before.tokens, after.tokens);
        sum.micros = family_sum(sum.micros, before.micros, after.micros);
    }
}

impl MemStore {
    /// A store that judges by that time.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { data: Mutex::default(), commits: AtomicU64::new(0), changed: Notify::new(), clock }
    }

    /// Puts a module there whose digest is known. Who makes many stores neither copies nor hashes it for each.
    pub fn share_module(&self, name: &str, digest: Digest, bytes: &Arc<[u8]>) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, size) = (name.to_owned(), bytes.len() as u64);
        let now = self.clock.now();
        let info = ModuleInfo { digest, name, bytes: size, added_at: now };
        data.modules.entry(digest).or_insert_with(|| (info, now, Arc::clone(bytes)));
    }

    /// The state of the latest round of a run, without a copy of all that is known of it.
    pub fn state_of_latest(&self, run: &RunId) -> Option<RunState> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let rounds = |known: &&Run| known.info.links.chain.as_ref() == Some(run);
        let latest = data.runs.iter().rev().find(rounds).or_else(|| data.run(run));
        latest.map(|run| run.info.state)
    }

    fn look<T: Send + 'static>(&self, look: impl FnOnce(&Data) -> T) -> BoxFuture<'_, Result<T>> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        std::future::ready(Ok(look(&data))).boxed()
    }

    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Data) -> Result<T>,
    ) -> BoxFuture<'_, Result<T>> {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut data);
        drop(data);
        if result.is_ok() {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
        std::future::ready(result).boxed()
    }

    /// Removes the oldest answers beyond `bytes`.
    #[cfg(test)]
    pub(super) fn bound_answers(&self, bytes: u64) {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).bound_answers(bytes);
    }

    /// Loses the last rows of a journal, as a disk does that lies.
    #[cfg(test)]
    pub(super) fn lose_tail(&self, run: &RunId) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = data.run_mut(run)
            && let Some(row) = run.rows.pop()
        {
            run.info.entries.0 -= u64::from(row.count);
        }
    }
}

impl Sessions for MemStore {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, Result<SessionId>> {
        self.change(|data| {
            // Nobody else gives out numbers here.
            data.begun += 1;
            let id = SessionId(data.begun);
            let over_at = self.clock.ticks_ms().saturating_add(lease_ms);
            data.sessions.insert(id, Begun { owner: owner.clone(), lease_ms, over_at });
            Ok(id)
        })
    }

    fn keep(&self, session: SessionId) -> BoxFuture<'_, Result<Kept>> {
        self.change(|data| {
            let Some(begun) = data.sessions.get_mut(&session) else { return Ok(Kept::Fenced) };
            begun.over_at = self.clock.ticks_ms().saturating_add(begun.lease_ms);
            let now = self.clock.now();
            Ok(Kept::Until { until: now.after(begun.lease_ms), now })
        })
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Session>>> {
        self.look(|data| {
            data.sessions.keys().filter_map(|id| data.session(*id, self.clock.as_ref())).collect()
        })
    }

    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            let lives = data.session(session, self.clock.as_ref()).is_some_and(|session| session.left_ms > 0);
            Ok(if fence == Fence::IfOver && lives { 0 } else { data.fence(session) })
        })
    }

    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            let mut count = 0;
            let runs = data.runs.iter_mut().filter(|run| run.session == Some(session));
            for run in runs.filter(|run| !keep.contains(&run.info.id)) {
                run.starts = run.starts.saturating_sub(1);
                run.session = None;
                run.info.due_at = Some(Timestamp(0));
                count += 1;
            }
            Ok(count)
        })
    }

    fn held(&self, session: SessionId) -> BoxFuture<'_, Result<Vec<(RunId, Epoch)>>> {
        self.look(|data| {
            let held = data.runs.iter().filter(|run| run.session == Some(session));
            held.map(|run| (run.info.id.clone(), run.info.epoch)).collect()
        })
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            for run in data.runs.iter_mut().filter(|run| run.session == Some(session)) {
                run.starts = run.starts.saturating_sub(1);
            }
            Ok(data.fence(session))
        })
    }
}
