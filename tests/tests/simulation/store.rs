//! The store as one process sees it: with faults.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, poll};
use wfhost::schedule::Schedule;
use wfhost::store::*;
use wfhost_core::{Digest, Epoch, Json, Position, Row, RunId, Step, Timestamp};

use super::universe::{Committed, OBSERVER, Universe};

#[derive(Clone, Debug)]
pub struct Faulty {
    pub universe: Arc<Universe>,
    pub store: SharedStore,
    pub pid: u32,
}

/// Does something in a store. No virtual time passes, also if the store has it done by a thread.
async fn at_once<T>(mut work: BoxFuture<'_, T>) -> T {
    if let Poll::Ready(done) = poll!(&mut work) {
        return done;
    }
    // Paused time is not advanced as long as there is a blocking task.
    let (over, held) = mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    let done = work.await;
    drop(over);
    done
}

impl Faulty {
    fn with<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        self.troubled(at_once(self.universe.in_its_time(work)).boxed())
    }

    /// The same for what others may have to hear of: these wake-ups and others follow from it.
    fn told<'a, T: Send + 'a>(
        &'a self,
        work: BoxFuture<'a, Result<T>>,
        wakes: impl FnOnce(&T) -> Vec<Wake> + Send + 'a,
    ) -> BoxFuture<'a, Result<T>> {
        let work = async move {
            let done = work.await?;
            self.universe.committed(wakes(&done).into_iter().chain([Wake::Due]));
            Ok(done)
        };
        self.with(work.boxed())
    }

    /// Does something in the store, or not, or does it and says that it did not, or dies of it.
    fn troubled<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        async move {
            let universe = &self.universe;
            if self.pid == OBSERVER {
                return work.await;
            }
            let failed = || {
                universe.faults.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::Failed { place: "sim".to_owned(), reason: "a fault".to_owned() })
            };
            let slow = async || match universe.roll(8) {
                0 => tokio::time::sleep(Duration::from_millis(universe.roll(400))).await,
                _ => tokio::task::yield_now().await,
            };
            universe.run_on(self.pid).await;
            if universe.is_calm() {
                return self.noted(work.await);
            }
            slow().await;
            match universe.roll(300) {
                0..3 => return failed(),
                3 => universe.kill(self.pid),
                _ => {}
            }
            universe.run_on(self.pid).await;
            let done = self.noted(work.await);
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

    /// Whoever is told that a run is not his any more may have to drop its calls.
    fn noted<T>(&self, done: Result<T>) -> Result<T> {
        if matches!(done, Err(StoreError::Fenced { .. } | StoreError::SessionOver)) {
            self.universe.disturb(self.pid);
        }
        done
    }
}

/// Methods that only pass on what they are given.
macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name<'a>(&'a self, $($argument: $type),*) -> BoxFuture<'a, Result<$result>> {
            self.with(async move { self.store.$name($($argument),*).await }.boxed())
        })*
    };
}

impl Sessions for Faulty {
    pass_on! {
        begin_session(owner: &'a Owner, lease_ms: u64) -> SessionId;
    }

    fn now(&self) -> Timestamp {
        self.store.now()
    }

    fn keep(&self, session: SessionId) -> BoxFuture<'_, Result<Kept>> {
        self.with(async move { self.store.keep(session).await }.boxed())
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Session>>> {
        self.with(async move { self.store.sessions().await }.boxed())
    }

    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, Result<u64>> {
        self.told(async move { self.store.fence(session, fence).await }.boxed(), |_| vec![])
    }

    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, Result<u64>> {
        self.told(async move { self.store.shed(session, keep).await }.boxed(), |_| vec![])
    }

    fn held(&self, session: SessionId) -> BoxFuture<'_, Result<Vec<(RunId, Epoch)>>> {
        self.with(async move { self.store.held(session).await }.boxed())
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>> {
        self.told(async move { self.store.end_session(session).await }.boxed(), |_| vec![])
    }
}

impl Work for Faulty {
    pass_on! {
        claim(session: SessionId, run: &'a RunId, how: ClaimHow) -> Claimed;
        set_starts(session: SessionId, run: &'a RunId, epoch: Epoch, starts: u32) -> ();
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        self.told(async move { self.store.unpause(run).await }.boxed(), |_| vec![Wake::Run(run.clone())])
    }

    /// Time passes meanwhile: it may take long until there is something.
    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>> {
        match self.universe.tells() {
            true => self.troubled(async { Ok(self.universe.heard(seen).await) }.boxed()),
            false => self.troubled(self.store.wakes(seen)),
        }
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        self.told(async move { self.store.put_right().await }.boxed(), |_| vec![])
    }

    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>> {
        self.with(async move { self.store.claim_due(session, limit, wanted).await }.boxed())
    }
}

impl Journals for Faulty {
    pass_on! {
        journal(run: &'a RunId, from: Position) -> Vec<Row>;
        journal_part(run: &'a RunId, from: Position, limit: usize) -> Vec<Row>;
        delete_if(run: &'a RunId, only: DeleteIf) -> Deleted;
    }

    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        self.told(async move { self.store.create(run).await }.boxed(), |_| vec![])
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        let work = async move {
            let universe = &self.universe;
            let (run, row) = (append.run.clone(), append.row.clone());
            let appended = self.store.append(append).await?;
            if let Some(row) = row {
                let events = row.entries().map(|entry| entry.expect("what was just written").1.event);
                let completes = events.filter_map(|event| event.ended_step().map(|(step, _)| step)).collect();
                let committed = Committed { place: universe.count(), run, head: row.head, completes };
                universe.commits.lock().unwrap().push(committed);
            }
            Ok(appended)
        };
        self.told(work.boxed(), |appended| appended.wake.clone())
    }

    fn last_place(&self) -> BoxFuture<'_, Result<u64>> {
        self.with(async move { self.store.last_place().await }.boxed())
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        self.with(async move { self.store.changes(after, limit).await }.boxed())
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.told(async move { self.store.import(run).await }.boxed(), |_| vec![])
    }

    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.told(async move { self.store.rebuild(run).await }.boxed(), |_| vec![])
    }
}

impl Mail for Faulty {
    pass_on! {
        inbox(run: &'a RunId, part: Part) -> Inbox;
    }

    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        let run = message.run.clone();
        let wakes = |posted: &Posted| match posted {
            Posted::Continued(next) => vec![Wake::Run(run), Wake::Run(next.clone())],
            _ => vec![Wake::Run(run)],
        };
        self.told(async move { self.store.post(message).await }.boxed(), wakes)
    }
}

impl Views for Faulty {
    pass_on! {
        run(run: &'a RunId) -> Option<RunInfo>;
        busy_relatives(root: &'a RunId) -> bool;
        ended_children(parent: &'a RunId, steps: &'a [Step]) -> Vec<RunInfo>;
        family(root: &'a RunId) -> Family;
        logs(run: &'a RunId, from: u64, limit: usize) -> Vec<LogLine>;
        messages(run: &'a RunId, after: Option<u64>, limit: usize) -> Vec<OutMessage>;
        questions(run: Option<&'a RunId>, open_at: Option<Timestamp>, limit: usize) -> Vec<OpenQuestion>;
        question(run: &'a RunId, step: Step) -> Option<OpenQuestion>;
        snapshot(run: &'a RunId) -> Option<Snapshot>;
        state(run: &'a RunId) -> Vec<(String, Json)>;
        latest(run: &'a RunId, key: Option<&'a str>, after: Option<u64>, limit: usize) -> Vec<Published>;
        published(run: &'a RunId, key: Option<&'a str>, after: Option<u64>, limit: usize) -> Vec<Published>;
        transcript(run: &'a RunId, filter: TranscriptFilter, limit: usize) -> Vec<TranscriptLine>;
        transcript_end(run: &'a RunId) -> u64;
        last_heartbeat(run: &'a RunId, step: Step) -> Option<String>;
    }

    fn count_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<u64>> {
        self.with(async move { self.store.count_runs(filter).await }.boxed())
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>> {
        self.with(async move { self.store.counts().await }.boxed())
    }

    fn load(&self) -> BoxFuture<'_, Result<Load>> {
        self.with(async move { self.store.load().await }.boxed())
    }

    fn list_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Listed>> {
        self.with(async move { self.store.list_runs(filter).await }.boxed())
    }
}

impl Access for Faulty {
    pass_on! {
        token(id: &'a str) -> Option<Token>;
        delete_token(id: &'a str) -> bool;
        set_token_used(id: &'a str, at: Timestamp) -> ();
    }

    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32]>> {
        self.store.secret()
    }

    fn put_token(&self, token: Token) -> BoxFuture<'_, Result<()>> {
        self.with(async move { self.store.put_token(token).await }.boxed())
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<Token>>> {
        self.with(async move { self.store.tokens().await }.boxed())
    }

    fn record_act(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        self.with(async move { self.store.record_act(act).await }.boxed())
    }

    fn acts(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Act>>> {
        self.with(async move { self.store.acts(before, limit).await }.boxed())
    }

    fn release_use(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<()>> {
        self.with(async move { self.store.release_use(token, body).await }.boxed())
    }

    fn use_once(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<Used>> {
        self.with(async move { self.store.use_once(token, body).await }.boxed())
    }
}

impl Outbox for Faulty {
    fn hold_cursor<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        hold_ms: u64,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        self.store.hold_cursor(name, holder, hold_ms)
    }

    fn advance_cursor(&self, advance: Advance) -> BoxFuture<'_, Result<bool>> {
        self.store.advance_cursor(advance)
    }

    fn cursors(&self) -> BoxFuture<'_, Result<Vec<Cursor>>> {
        self.store.cursors()
    }

    fn drop_cursor<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.store.drop_cursor(name)
    }

    fn put_deliveries(&self, deliveries: Vec<NewDelivery>) -> BoxFuture<'_, Result<u64>> {
        self.store.put_deliveries(deliveries)
    }

    fn claim_deliveries<'a>(
        &'a self,
        sink: &'a str,
        hold_ms: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        self.store.claim_deliveries(sink, hold_ms, limit)
    }

    fn settle_delivery(&self, number: u64, tries: u32, settled: Settled) -> BoxFuture<'_, Result<bool>> {
        self.store.settle_delivery(number, tries, settled)
    }

    fn deliveries(&self, filter: DeliveryFilter, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        self.store.deliveries(filter, limit)
    }

    fn redeliver(&self, numbers: Vec<u64>) -> BoxFuture<'_, Result<u64>> {
        self.store.redeliver(numbers)
    }

    fn sink_loads(&self) -> BoxFuture<'_, Result<Vec<SinkLoad>>> {
        self.store.sink_loads()
    }

    fn delete_old_deliveries(&self, before: Timestamp) -> BoxFuture<'_, Result<u64>> {
        self.store.delete_old_deliveries(before)
    }
}

impl Limits for Faulty {
    fn share_slots(&self, session: SessionId, asks: Vec<SlotAsk>) -> BoxFuture<'_, Result<Vec<u32>>> {
        self.told(async move { self.store.share_slots(session, asks).await }.boxed(), |_| vec![Wake::Limits])
    }

    fn slots(&self) -> BoxFuture<'_, Result<Vec<SlotShare>>> {
        self.with(async move { self.store.slots().await }.boxed())
    }

    fn take_turns(&self, words: Vec<TurnWord>) -> BoxFuture<'_, Result<Vec<Option<Timestamp>>>> {
        self.with(async move { self.store.take_turns(words).await }.boxed())
    }

    fn turns(&self) -> BoxFuture<'_, Result<Vec<TurnsInfo>>> {
        self.with(async move { self.store.turns().await }.boxed())
    }
}

impl Extras for Faulty {
    pass_on! {
        put_module(name: &'a str, bytes: &'a [u8]) -> Digest;
        module_named(name: &'a str) -> Option<ModuleInfo>;
        modules() -> Vec<ModuleInfo>;
        transcribe(run: &'a RunId, lines: Vec<NewTranscript>) -> ();
        set_schedule(name: &'a str, next: Option<Timestamp>) -> bool;
        delete_schedule(name: &'a str) -> bool;
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.with(self.store.module(digest))
    }

    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>> {
        self.with(self.store.module_info(digest))
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.with(self.store.delete_unused_modules(before))
    }

    fn put_blob<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        self.with(self.store.put_blob(bytes))
    }

    fn blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.with(self.store.blob(digest))
    }

    fn delete_blobs(&self, before: Timestamp, except: Vec<Digest>) -> BoxFuture<'_, Result<usize>> {
        self.with(self.store.delete_blobs(before, except))
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.with(async move { self.store.keep_answer(key, at, reply).await }.boxed())
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        self.with(async move { self.store.kept_answer(key).await }.boxed())
    }

    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.with(async move { self.store.delete_old_answers(before).await }.boxed())
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.told(async move { self.store.put_schedule(schedule, replace).await }.boxed(), |_| vec![])
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>> {
        self.with(async move { self.store.schedules().await }.boxed())
    }

    fn due_schedules(
        &self,
        behind: Option<(Timestamp, String)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DueSchedules>> {
        self.with(async move { self.store.due_schedules(behind, limit).await }.boxed())
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        self.told(async move { self.store.fire(fire).await }.boxed(), |_| vec![])
    }

    fn identity(&self) -> BoxFuture<'_, Result<String>> {
        self.store.identity()
    }

    fn commits(&self) -> u64 {
        self.store.commits()
    }

    fn check_place(&self) -> Result<()> {
        self.store.check_place()
    }
}
