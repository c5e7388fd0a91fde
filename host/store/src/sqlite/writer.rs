//! Group commit: one connection writes for the whole process.
//!
//! A write is a job that runs inside a transaction. Whoever finds the writer
//! free commits at once, on his own thread, for all whose jobs are queued; a
//! lone run so pays no thread switch. What queued up meanwhile is left to the
//! writer's thread, which goes on until the queue is empty.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::errors::classify;
use crate::{Result, StoreError};

/// Pages in the write-ahead log after which it is checkpointed in the background, whichever process wrote them:
/// some MiB.
const CHECKPOINT_PAGES: usize = 1_500;
/// If a reader keeps the log from being restarted, that is tried again after this many more pages.
const AGAIN_AFTER_PAGES: usize = 500;
/// The writer waits for the end of a checkpoint once so few commits came during the part before,
/// or after so many parts.
const FEW_COMMITS: u64 = 16;
const PARTS: usize = 4;
/// `PRAGMA synchronous` as a number.
const FULL: i64 = 2;

/// What a write has to survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Survives {
    /// Whatever the database is opened for.
    All,
    /// The death of the process. It is synced to the disk with the next write that has to survive more; one that a loss
    /// of power takes along is of processes that it takes along, too.
    Process,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    path: String,
    connection: Mutex<Connection>,
    /// Whether commits survive a loss of power, if not said otherwise.
    full: bool,
    /// Whether those of its next transaction do not, as it is set now.
    lightly: AtomicBool,
    queue: Mutex<Queue>,
    /// The writer's thread waits for jobs that were left to it.
    handed_over: Condvar,
    commits: AtomicU64,
    /// Pages in the write-ahead log after the last commit of this process.
    logged: Arc<AtomicUsize>,
    /// How many there were when a checkpoint was asked for the last time.
    asked_at: AtomicUsize,
    checkpoint: Mutex<Checkpoint>,
    checkpoint_due: Condvar,
    /// A checkpoint has copied nearly all of the log; whoever uses the connection next finishes it.
    nearly_copied: AtomicBool,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Box<dyn Job>>,
    /// Somebody commits.
    busy: bool,
    /// He is the writer's thread.
    thread_is_on: bool,
    /// Where those wait whose jobs are left to the thread.
    waiters: Waiters,
    closed: bool,
}

/// Where those who wait for some jobs do so.
#[derive(Default)]
enum Waiters {
    #[default]
    Nobody,
    /// All of them in one runtime.
    In(Handle),
    /// In several, or in none.
    Elsewhere,
}

impl Waiters {
    /// One more comes, who waits here.
    fn and_here(self) -> Self {
        match (self, Handle::try_current()) {
            (Self::Nobody, Ok(here)) => Self::In(here),
            (Self::In(there), Ok(here)) if there.id() == here.id() => Self::In(there),
            _ => Self::Elsewhere,
        }
    }
}

#[derive(Default)]
struct Checkpoint {
    due: bool,
    closed: bool,
}

/// A write with a place to put its result.
trait Job: Send {
    /// Does it. Is done again if the transaction was rolled back because of another one.
    fn execute(&mut self, connection: &Connection) -> Did;
    /// The transaction was committed, or failed with this.
    fn settle(self: Box<Self>, failure: Option<&StoreError>);
    fn survives(&self) -> Survives;
}

/// What a job did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Did {
    /// It has to be committed.
    Changed,
    /// It was refused before it changed anything.
    Nothing,
    /// It failed in the middle.
    Part,
}

/// Jobs that are done. Whoever waits for them is told when this is dropped, wherever that is.
struct Settled {
    jobs: Vec<Box<dyn Job>>,
    failure: Option<StoreError>,
}

impl Drop for Settled {
    fn drop(&mut self) {
        for job in self.jobs.drain(..) {
            job.settle(self.failure.as_ref());
        }
    }
}

struct Typed<T, F> {
    work: F,
    survives: Survives,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Connection) -> Result<T> + Send> Job for Typed<T, F> {
    fn execute(&mut self, connection: &Connection) -> Did {
        let before = connection.total_changes();
        // A job that panics rolls back only itself; the others wait for the thread that holds the writer.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.work)(connection)));
        let panicked = done.is_err();
        let result = done.unwrap_or_else(|_| {
            let place = connection.path().unwrap_or_default().to_owned();
            Err(StoreError::Failed { place, reason: "a write panicked".to_owned() })
        });
        let did = match &result {
            Ok(_) => Did::Changed,
            Err(_) if panicked => Did::Part,
            // SQLite ends the whole transaction by itself when the disk is full.
            Err(_) if connection.total_changes() == before && !connection.is_autocommit() => Did::Nothing,
            Err(_) => Did::Part,
        };
        self.result = Some(result);
        did
    }

    fn settle(self: Box<Self>, failure: Option<&StoreError>) {
        let result = match (self.result, failure) {
            (Some(Err(own)), _) => Err(own),
            (_, Some(failure)) => Err(failure.clone()),
            (Some(ok), None) => ok,
            (None, None) => return,
        };
        // Nobody waits if the caller was dropped; the write stands all the same.
        let _ = self.reply.send(result);
    }

    fn survives(&self) -> Survives {
        self.survives
    }
}

impl Writer {
    /// `path`: the file of `connection`, which is opened a second time when its log has to be checkpointed.
    /// What commits survive is as it is set on the connection.
    pub(super) fn new(path: String, mut connection: Connection) -> rusqlite::Result<Self> {
        let full = connection.query_row("PRAGMA synchronous", [], |row| Ok(row.get::<_, i64>(0)? >= FULL))?;
        let logged = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&logged);
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
            counted.store(usize::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let shared = Arc::new(Shared {
            path,
            connection: Mutex::new(connection),
            full,
            lightly: AtomicBool::new(false),
            queue: Mutex::default(),
            handed_over: Condvar::new(),
            commits: AtomicU64::new(0),
            logged,
            asked_at: AtomicUsize::new(0),
            checkpoint: Mutex::default(),
            checkpoint_due: Condvar::new(),
            nearly_copied: AtomicBool::new(false),
        });
        let (writer, checkpoints) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || writer.commit_what_is_left()),
            std::thread::spawn(move || checkpoints.checkpoint()),
        ];
        Ok(Self { shared, threads })
    }

    /// Runs `work` inside a transaction, and returns once that is committed.
    /// If `work` fails nothing of it stays.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        survives: Survives,
        work: impl FnMut(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Typed { work, survives, result: None, reply });
        let mine = {
            let mut queue = lock(&self.shared.queue);
            queue.jobs.push(job);
            let free = !std::mem::replace(&mut queue.busy, true);
            if !free {
                queue.waiters = std::mem::take(&mut queue.waiters).and_here();
            }
            free.then(|| std::mem::take(&mut queue.jobs))
        };
        if let Some(jobs) = mine {
            drop(self.shared.commit(jobs));
            let mut queue = lock(&self.shared.queue);
            if queue.jobs.is_empty() {
                queue.busy = false;
            } else {
                queue.thread_is_on = true;
                self.shared.handed_over.notify_one();
            }
        }
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Failed {
                place: self.shared.path.clone(),
                reason: "the store was closed".to_owned(),
            })
        })
    }

    pub(super) fn commits(&self) -> u64 {
        self.shared.commits()
    }

    /// The connection that writes, while it does not.
    pub(super) fn connection(&self) -> Option<MutexGuard<'_, Connection>> {
        self.shared.connection.try_lock().ok()
    }

    /// `PRAGMA data_version` as the writing connection sees it, so that the
    /// commits of this process do not count; none while it is committing.
    pub(super) fn foreign_version(&self) -> Option<rusqlite::Result<u64>> {
        let connection = self.connection()?;
        let mut statement = match connection.prepare_cached("PRAGMA data_version") {
            Ok(statement) => statement,
            Err(error) => return Some(Err(error)),
        };
        Some(statement.query_row([], |row| row.get::<_, i64>(0)).map(|version| version as u64))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.queue).closed = true;
        lock(&self.shared.checkpoint).closed = true;
        self.shared.handed_over.notify_all();
        self.shared.checkpoint_due.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to do.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn commit_what_is_left(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.thread_is_on {
                if queue.closed {
                    return;
                }
                queue = self.handed_over.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let jobs = std::mem::take(&mut queue.jobs);
            if jobs.is_empty() {
                queue.thread_is_on = false;
                queue.busy = false;
                continue;
            }
            let waiters = std::mem::take(&mut queue.waiters);
            drop(queue);
            let settled = self.commit(jobs);
            match waiters {
                // One wake-up of another thread instead of one for each job. Nobody else may drive that runtime, so
                // that it tells none but its own.
                Waiters::In(runtime) if settled.jobs.len() > 4 => {
                    drop(runtime.spawn(async { drop(settled) }));
                }
                _ => drop(settled),
            }
            queue = lock(&self.queue);
        }
    }

    fn commit(&self, mut jobs: Vec<Box<dyn Job>>) -> Settled {
        let committed = self.transaction(&mut jobs);
        if jobs.len() > 1 && matches!(committed, Ok(false)) {
            // One that fails takes only itself back.
            for mut job in std::mem::take(&mut jobs) {
                let failure = self.transaction(std::slice::from_mut(&mut job)).err();
                job.settle(failure.as_ref());
            }
        }
        Settled { jobs, failure: committed.err() }
    }

    /// Executes jobs in one transaction. False if it was rolled back because one of them failed.
    fn transaction(&self, jobs: &mut [Box<dyn Job>]) -> Result<bool> {
        let mut connection = lock(&self.connection);
        let run = |sql: &str| -> Result<()> {
            let done = connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
            done.map(drop).map_err(|error| classify(&self.path, error))
        };
        let lightly = jobs.iter().all(|job| job.survives() == Survives::Process);
        if self.full && lightly != self.lightly.load(Ordering::Relaxed) {
            run(if lightly { "PRAGMA synchronous = NORMAL" } else { "PRAGMA synchronous = FULL" })?;
            self.lightly.store(lightly, Ordering::Relaxed);
        }
        run("BEGIN IMMEDIATE")?;
        let mut changed = false;
        for job in jobs.iter_mut() {
            match job.execute(&connection) {
                Did::Changed => changed = true,
                Did::Nothing => {}
                Did::Part => {
                    self.roll_back(&connection);
                    return Ok(false);
                }
            }
        }
        if !changed {
            self.roll_back(&connection);
            return Ok(true);
        }
        abort_at("before", self.commits() + 1);
        run("COMMIT").inspect_err(|_| self.roll_back(&connection))?;
        let commits = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        abort_at("after", commits);
        if self.nearly_copied.load(Ordering::Relaxed) {
            self.restart_log(&mut connection);
        }
        let (logged, asked_at) = (self.logged.load(Ordering::Relaxed), self.asked_at.load(Ordering::Relaxed));
        if logged < asked_at {
            // The log was restarted.
            self.asked_at.store(0, Ordering::Relaxed);
        } else if logged - asked_at >= CHECKPOINT_PAGES {
            self.asked_at.store(logged, Ordering::Relaxed);
            lock(&self.checkpoint).due = true;
            self.checkpoint_due.notify_one();
        }
        Ok(true)
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn roll_back(&self, connection: &Connection) {
        if !connection.is_autocommit() {
            // There is nothing to do if it fails: the next BEGIN reports it.
            let _ = connection.execute_batch("ROLLBACK");
        }
    }

    /// Restarts the log: the next commit writes from its beginning, so the file keeps its size. On many file
    /// systems, growing it takes half of the time of a commit.
    fn restart_log(&self, connection: &mut Connection) {
        self.nearly_copied.store(false, Ordering::Relaxed);
        // Copies the rest, and waits for readers of the log. Most reads take microseconds; longer ones are not
        // waited for, because commits have to wait meanwhile.
        let patient = connection.busy_handler(Some(wait_briefly));
        let done = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0));
        if patient.and_then(|()| connection.busy_handler(Some(wait_for_turn))).is_err() || done != Ok(0) {
            let logged = self.logged.load(Ordering::Relaxed);
            let asked_at = logged.saturating_sub(CHECKPOINT_PAGES - AGAIN_AFTER_PAGES);
            self.asked_at.store(asked_at, Ordering::Relaxed);
        }
    }

    fn checkpoint(&self) {
        // Most processes write less than has to be checkpointed, and have no use for another connection.
        let mut connection = None;
        let mut state = lock(&self.checkpoint);
        loop {
            // What is due is done also by a process that ends: it may be that all are short ones.
            if std::mem::take(&mut state.due) {
                drop(state);
                connection = connection.or_else(|| super::connect(Path::new(&self.path)).ok());
                for _ in 0..PARTS {
                    let before = self.commits();
                    // Passive: takes what no reader needs, and stops nobody.
                    if let Some(connection) = &connection {
                        let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                    }
                    // What is written meanwhile becomes less with each part.
                    if self.commits() - before <= FEW_COMMITS {
                        break;
                    }
                }
                self.nearly_copied.store(true, Ordering::Relaxed);
                // A process that commits without a pause could keep this thread waiting for the lock.
                if let Ok(mut connection) = self.connection.try_lock() {
                    self.restart_log(&mut connection);
                }
                state = lock(&self.checkpoint);
            } else if state.closed {
                return;
            } else {
                state = self.checkpoint_due.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Lets a test kill the process at a chosen commit: `WFHOST_ABORT_AT=after-commit:7`.
#[cfg(debug_assertions)]
fn abort_at(point: &str, commit: u64) {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("WFHOST_ABORT_AT").ok());
    if wanted.as_ref().is_some_and(|wanted| *wanted == format!("{point}-commit:{commit}")) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
fn abort_at(_point: &str, _commit: u64) {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for current readers, for about two milliseconds.
fn wait_briefly(tries: i32) -> bool {
    std::thread::sleep(Duration::from_micros(100));
    tries < 10
}

/// Waits for another process to finish its transaction. SQLite's own handler
/// sleeps longer and longer, so that of several busy processes one gets all
/// turns; short, equally long sleeps are fair.
pub(super) fn wait_for_turn(tries: i32) -> bool {
    const PATIENCE: Duration = Duration::from_secs(30);
    thread_local!(static SINCE: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) });
    let now = Instant::now();
    if tries == 0 {
        SINCE.set(Some(now));
    }
    if SINCE.get().is_some_and(|since| now - since > PATIENCE) {
        return false;
    }
    let jitter = u64::from(std::process::id().wrapping_mul(2_654_435_761).wrapping_add(tries as u32) % 100);
    std::thread::sleep(Duration::from_micros(100 + jitter));
    true
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    /// Does something while a write has the writer, until it is told to go on. What is written meanwhile queues up,
    /// and shares a transaction.
    fn while_busy(writer: &Writer, then: impl FnOnce(&mpsc::Sender<()>)) {
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let slow = writer.write(Survives::All, move |_| {
                    let _ = begun.send(());
                    let _ = may_go_on.recv();
                    Ok(())
                });
                assert_eq!(slow.now_or_never(), Some(Ok(())));
            });
            has_begun.recv().unwrap();
            then(&go_on);
        });
    }

    #[tokio::test]
    async fn the_log_is_restarted_while_commits_follow_each_other_without_a_pause() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("t.db");
        let first = Connection::open(&path).unwrap();
        first.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
        first.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        first.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)").unwrap();
        let writer = Writer::new(path.display().to_string(), first).unwrap();
        let (mut before, mut restarts) = (0, 0);
        // How soon depends on who else wants the processor.
        for n in 0..40 * CHECKPOINT_PAGES {
            let write = writer.write(Survives::All, move |connection| {
                let mut insert = connection.prepare_cached("INSERT INTO t VALUES (?1, ?2)").unwrap();
                insert.execute((n as i64, "0".repeat(2_000))).unwrap();
                Ok(())
            });
            assert_eq!(write.await, Ok(()));
            let logged = writer.shared.logged.load(Ordering::Relaxed);
            restarts += u32::from(logged < before);
            before = logged;
            if restarts == 2 {
                return;
            }
            // About as long as a sync takes.
            std::thread::sleep(Duration::from_micros(20));
        }
        panic!("{before} pages, and {restarts} restarts");
    }

    #[tokio::test]
    async fn what_has_to_survive_a_loss_of_power_is_synced_also_behind_and_beside_what_has_not() {
        let directory = tempfile::TempDir::new().unwrap();
        for (mode, wanted) in [("FULL", [1, 2, 1, 1, 2]), ("NORMAL", [1; 5]), ("OFF", [0; 5])] {
            let path = directory.path().join(mode);
            let first = Connection::open(&path).unwrap();
            first.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER)").unwrap();
            first.pragma_update(None, "synchronous", mode).unwrap();
            let writer = Writer::new(path.display().to_string(), first).unwrap();
            let (lightly, fully) = (Survives::Process, Survives::All);
            let mut levels = Vec::new();
            for (survives, fails) in
                [(lightly, false), (fully, false), (lightly, false), (lightly, true), (fully, false)]
            {
                let (tell, told) = mpsc::channel();
                let write = writer.write(survives, move |connection| {
                    let level = connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
                    let _ = tell.send(level.unwrap());
                    connection.execute("INSERT INTO t VALUES (1)", []).unwrap();
                    match fails {
                        true => Err(StoreError::SessionOver),
                        false => Ok(()),
                    }
                });
                assert_eq!(write.await.is_err(), fails);
                levels.push(told.recv().unwrap());
            }
            assert_eq!(levels, wanted, "{mode}");
            // Of those that share a transaction one is enough.
            let level = Arc::new(AtomicUsize::new(0));
            let mut others = std::pin::pin!(join_all([lightly, fully].map(|survives| {
                let level = Arc::clone(&level);
                writer.write(survives, move |connection| {
                    let now = connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
                    level.store(now.unwrap() as usize, Ordering::Relaxed);
                    Ok(())
                })
            })));
            while_busy(&writer, |go_on| {
                assert!((&mut others).now_or_never().is_none());
                go_on.send(()).unwrap();
            });
            assert!(others.await.iter().all(Result::is_ok));
            assert_eq!(level.load(Ordering::Relaxed) as i64, wanted[1], "{mode}");
        }
    }

    #[tokio::test]
    async fn a_write_that_panics_takes_only_itself_back() {
        let directory = tempfile::TempDir::new().unwrap();
        let open = || Connection::open(directory.path().join("t.db")).unwrap();
        let first = open();
        first.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
        let path = directory.path().join("t.db").display().to_string();
        let writer = Writer::new(path, first).unwrap();
        let insert = |n: u32| {
            writer.write(Survives::All, move |connection| {
                connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
                assert_ne!(n, 5, "the sixth panics in its middle");
                Ok(())
            })
        };
        let mut others = std::pin::pin!(join_all((0..10).map(insert)));
        while_busy(&writer, |go_on| {
            assert!((&mut others).now_or_never().is_none());
            go_on.send(()).unwrap();
        });
        for (n, written) in (0..).zip(others.await) {
            match written {
                Err(StoreError::Failed { reason, .. }) if n == 5 => assert_eq!(reason, "a write panicked"),
                other => assert_eq!((n, other), (n, Ok(()))),
            }
        }
        assert_eq!(insert(11).await, Ok(()), "the writer goes on");
        let there: u32 = open().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(there, 10);
    }

    #[test]
    fn answers_need_no_runtime_that_wrote_before() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("t.db");
        let writer = Writer::new(path.display().to_string(), Connection::open(&path).unwrap()).unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // Nobody drives it any more, and it is there.
        let first = runtime();
        assert_eq!(first.block_on(writer.write(Survives::All, |_| Ok(()))), Ok(()));
        while_busy(&writer, |go_on| {
            let second = runtime();
            second.block_on(async {
                let mut others =
                    std::pin::pin!(join_all((0..10).map(|_| writer.write(Survives::All, |_| Ok(())))));
                assert!((&mut others).now_or_never().is_none());
                // One that waits elsewhere.
                let mut elsewhere = std::pin::pin!(writer.write(Survives::All, |_| Ok(())));
                let entered = first.enter();
                assert!((&mut elsewhere).now_or_never().is_none());
                drop(entered);
                go_on.send(()).unwrap();
                let answered = tokio::time::timeout(Duration::from_secs(30), others).await;
                assert_eq!(answered.expect("they are told"), vec![Ok(()); 10]);
                assert_eq!(elsewhere.await, Ok(()));
            });
        });
    }
}
