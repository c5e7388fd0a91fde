//! Looking at runs.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use wfhost_core::{Json, RunId, Step, Timestamp};

use super::{SqliteStore, read, write};
use crate::*;

impl Views for SqliteStore {
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        async move { self.read_briefly(|c| read::run(c, run, self.clock.as_ref())) }.boxed()
    }

    fn list_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Listed>> {
        async move {
            let work = |c: &Connection| read::runs(c, &filter, self.clock.as_ref());
            match filter.patience_ms {
                Some(millis) => self.read_within(millis, work),
                None => self.read(work),
            }
        }
        .boxed()
    }

    fn count_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<u64>> {
        async move {
            let work = |c: &Connection| read::count_runs(c, &filter);
            match filter.patience_ms {
                Some(millis) => self.read_within(millis, work),
                None => self.read(work),
            }
        }
        .boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>> {
        async move { self.read(read::counts) }.boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Load>> {
        async move {
            let load = self.read_at_once(|c| read::load(c, write::millis(self.clock.now())))?;
            // There is none before the first write.
            let wal = std::fs::metadata(format!("{}-wal", self.path));
            Ok(Load { wal_bytes: wal.map_or(0, |wal| wal.len()), ..load })
        }
        .boxed()
    }

    fn busy_relatives<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        async move { self.read_at_once(|c| read::busy_relatives(c, root, write::millis(self.clock.now()))) }
            .boxed()
    }

    fn ended_children<'a>(
        &'a self,
        parent: &'a RunId,
        steps: &'a [Step],
    ) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        async move { self.read(|c| read::ended_children(c, parent, steps, self.clock.as_ref())) }.boxed()
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        async move { self.read(|c| read::family(c, root)) }.boxed()
    }

    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>> {
        async move { self.read(|c| read::logs(c, run, from, limit)) }.boxed()
    }

    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>> {
        async move { self.read(|c| read::messages(c, run, after, limit)) }.boxed()
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        open_at: Option<Timestamp>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        async move { self.read(|c| read::questions(c, run, open_at, limit)) }.boxed()
    }

    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>> {
        async move { self.read(|c| read::question(c, run, step)) }.boxed()
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        async move { self.read(|c| read::state(c, run)) }.boxed()
    }

    fn snapshot<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        async move { self.read_at_once(|c| read::snapshot(c, run, self.clock.as_ref())) }.boxed()
    }

    fn latest<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move { self.read(|c| read::latest(c, run, key, after, limit)) }.boxed()
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move { self.read(|c| read::published(c, run, key, after, limit)) }.boxed()
    }

    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>> {
        async move { self.read(|c| read::transcript(c, run, &filter, limit)) }.boxed()
    }

    fn transcript_end<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<u64>> {
        async move { self.read(|c| read::transcript_end(c, run)) }.boxed()
    }

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.read(|c| read::last_heartbeat(c, run, step)) }.boxed()
    }
}
