//! The store as one process sees it: with faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost::schedule::Schedule;
use wfhost::store::*;
use wfhost_core::{Digest, Epoch, Json, Position, Row, RunId, Step, Timestamp};

use super::universe::{Committed, Universe};

#[derive(Clone, Debug)]
pub struct Faulty {
    pub universe: Arc<Universe>,
    pub pid: u32,
}

impl Faulty {
    /// Does something in the store, or not, or does it and says that it did not, or dies of it.
    fn with<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        async move {
            let universe = &self.universe;
            let failed = || {
                universe.faults.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::Failed { path: "sim".to_owned(), reason: "a fault".to_owned() })
            };
            let slow = async || match universe.roll(8) {
                0 => tokio::time::sleep(Duration::from_millis(universe.roll(400))).await,
                _ => tokio::task::yield_now().await,
            };
            universe.run_on(self.pid).await;
            if universe.is_calm() {
                return work.await;
            }
            slow().await;
            match universe.roll(300) {
                0..3 => return failed(),
                3 => universe.kill(self.pid),
                _ => {}
            }
            universe.run_on(self.pid).await;
            let done = work.await;
            slow().await;
            match universe.roll(300) {
                0..3 => return failed(),
                3 => universe.kill(self.pid),
                _ => {}
            }
            universe.run_on(self.pid).await;
            done
        }
        .boxed()
    }
}

/// Methods that only pass on what they are given.
macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name<'a>(&'a self, $($argument: $type),*) -> BoxFuture<'a, Result<$result>> {
            self.with(async move { self.universe.memory.$name($($argument),*).await }.boxed())
        })*
    };
}

impl Store for Faulty {
    pass_on! {
        put_module(name: &'a str, bytes: &'a [u8]) -> Digest;
        modules() -> Vec<ModuleInfo>;
        claim(claim: Claim<'a>) -> Claimed;
        renew(leases: &'a [(RunId, Epoch)], until: Timestamp) -> Vec<RunId>;
        release(run: &'a RunId, epoch: Epoch, trouble: Option<&'a str>) -> ();
        unpause(run: &'a RunId) -> bool;
        journal(run: &'a RunId, from: Position) -> Vec<Row>;
        delete(run: &'a RunId, now: Timestamp) -> Deleted;
        inbox(run: &'a RunId) -> Vec<Message>;
        run(run: &'a RunId) -> Option<RunInfo>;
        logs(run: &'a RunId, from: u64, limit: usize) -> Vec<LogLine>;
        messages(run: &'a RunId, after: Option<u64>, limit: usize) -> Vec<OutMessage>;
        questions(run: Option<&'a RunId>, limit: usize) -> Vec<OpenQuestion>;
        state(run: &'a RunId) -> Vec<(String, Json)>;
        published(run: &'a RunId, key: Option<&'a str>) -> Vec<Published>;
        ended_children(parent: &'a RunId, from: Step) -> Vec<RunInfo>;
        family(root: &'a RunId) -> Family;
        set_schedule(name: &'a str, next: Option<Timestamp>) -> bool;
        delete_schedule(name: &'a str) -> bool;
        owned(owner: &'a Owner) -> Vec<RunId>;
        transcribe(run: &'a RunId, lines: Vec<NewTranscript>) -> ();
        transcript(run: &'a RunId, filter: TranscriptFilter, limit: usize) -> Vec<TranscriptLine>;
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.with(self.universe.memory.module(digest))
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.with(async move { self.universe.memory.keep_answer(key, at, reply).await }.boxed())
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        self.with(async move { self.universe.memory.kept_answer(key).await }.boxed())
    }

    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        self.with(async move { self.universe.memory.create(run).await }.boxed())
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        let work = async move {
            let universe = &self.universe;
            let (run, row) = (append.run.clone(), append.row.clone());
            let appended = universe.memory.append(append).await?;
            if let Some(row) = row {
                let events = row.entries().map(|entry| entry.expect("what was just written").1.event);
                let completes = events.filter_map(|event| event.ended_step().map(|(step, _)| step)).collect();
                let committed = Committed { place: universe.place(), run, head: row.head, completes };
                universe.commits.lock().unwrap().push(committed);
            }
            Ok(appended)
        };
        self.with(work.boxed())
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.with(async move { self.universe.memory.put_schedule(schedule, replace).await }.boxed())
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Vec<Schedule>>> {
        self.with(async move { self.universe.memory.schedules().await }.boxed())
    }

    fn due_schedules(&self, now: Timestamp) -> BoxFuture<'_, Result<(Vec<Schedule>, Option<Timestamp>)>> {
        self.with(async move { self.universe.memory.due_schedules(now).await }.boxed())
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        self.with(async move { self.universe.memory.fire(fire).await }.boxed())
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.with(async move { self.universe.memory.import(run).await }.boxed())
    }

    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.with(async move { self.universe.memory.rebuild(run).await }.boxed())
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.with(self.universe.memory.delete_unused_modules(before))
    }

    fn due(&self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<RunId>>> {
        self.with(async move { self.universe.memory.due(now, limit).await }.boxed())
    }

    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        self.with(async move { self.universe.memory.next_due(now).await }.boxed())
    }

    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>>> {
        self.with(async move { self.universe.memory.owners().await }.boxed())
    }

    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        self.with(async move { self.universe.memory.post(message).await }.boxed())
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>> {
        self.with(async move { self.universe.memory.runs(filter).await }.boxed())
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        self.with(async move { self.universe.memory.changes(after, limit).await }.boxed())
    }

    fn version(&self) -> Result<u64> {
        self.universe.live_or_die(self.pid);
        Ok(self.universe.memory.commits())
    }

    fn commits(&self) -> u64 {
        self.universe.memory.commits()
    }
}
