//! Which runs are to be advanced, and what wakes those who wait for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::Connection;
use wfhost_core::{Epoch, RunId};

use super::claims::{self, Claim, Taken};
use super::errors::classify;
use super::{SqliteStore, read, write};
use crate::claims::Fitting;
use crate::*;

/// How often is looked whether another process wrote something.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// The same, for this many looks after another process sent something to a run.
const WATCH_SOON: Duration = Duration::from_millis(2);
const WATCH_SOON_TIMES: u8 = 20;

impl Work for SqliteStore {
    fn claim<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        how: ClaimHow,
    ) -> BoxFuture<'a, Result<Claimed>> {
        let (run, clock) = (run.clone(), Arc::clone(&self.clock));
        async move {
            let claimed = self.write(move |c| claims::claim(c, session, &run, how, clock.as_ref())).await?;
            match claimed {
                Claim::No(claimed) => Ok(claimed),
                Claim::Yes(taken) => match self.read_at_once(|c| Ok(self.open_run(c, &taken)))? {
                    Ok(opened) => Ok(Claimed::Yes(Box::new(opened))),
                    Err(unreadable) => Ok(Claimed::Unreadable(Box::new(unreadable))),
                },
            }
        }
        .boxed()
    }

    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>> {
        async move {
            // Most looks find nothing: those write nothing.
            let (any, next_in_ms) = self.read(|c| claims::look(c, &wanted, self.clock.as_ref()))?;
            if !any || limit == 0 {
                return Ok(Due { runs: Vec::new(), any, more: any, next_in_ms });
            }
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let clock = Arc::clone(&self.clock);
            let Fitting { runs: taken, more } = self
                .write(move |c| claims::claim_due(c, session, limit, turn, &wanted, clock.as_ref()))
                .await?;
            let runs =
                self.read_at_once(|c| Ok(taken.iter().map(|taken| self.open_run(c, taken)).collect()))?;
            Ok(Due { runs, any, more, next_in_ms })
        }
        .boxed()
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        async move {
            // Hardly ever are there any: then nothing is written.
            if !self.read(|c| claims::any_ahead(c, self.clock.as_ref()))? {
                return Ok(0);
            }
            let clock = Arc::clone(&self.clock);
            self.write(move |c| claims::put_right(c, clock.as_ref())).await
        }
        .boxed()
    }

    fn set_starts<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        epoch: Epoch,
        starts: u32,
    ) -> BoxFuture<'a, Result<()>> {
        let run = run.clone();
        self.write(move |c| claims::set_starts(c, session, &run, epoch, starts)).boxed()
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        let run = run.clone();
        self.write(move |c| write::unpause(c, &run)).boxed()
    }

    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>> {
        async move {
            loop {
                let version = match self.writer.foreign_version() {
                    Some(version) => Some(version.map_err(|error| classify(&self.path, error))?),
                    // The writer is busy; what others wrote shows the next time.
                    None => seen.version,
                };
                if version != seen.version {
                    let (runs, last) = self.read_at_once(|c| read::addressed(c, seen.message))?;
                    let first = seen.version.is_none();
                    // Messages often come in series, and their senders wait for answers.
                    let soon = if runs.is_empty() { seen.soon } else { WATCH_SOON_TIMES };
                    *seen = Seen { version, message: last, soon };
                    if first {
                        return Ok(vec![Wake::Gap]);
                    }
                    let runs = runs.into_iter().map(Wake::Run);
                    return Ok(runs.chain([Wake::Due]).collect());
                }
                let wait = if seen.soon > 0 { WATCH_SOON } else { WATCH_EVERY };
                seen.soon = seen.soon.saturating_sub(1);
                tokio::time::sleep(wait).await;
            }
        }
        .boxed()
    }
}

impl SqliteStore {
    /// Reads a run that was claimed.
    fn open_run(&self, c: &Connection, taken: &Taken) -> Result<Opened, Unreadable> {
        claims::open(c, taken, &self.path).map_err(|fault| Unreadable {
            run: taken.run.clone(),
            epoch: taken.epoch,
            error: self.explain(fault),
        })
    }
}
