//! Runs with their journals.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row as SqlRow;
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Failure, FailureKind, Position, Row, RunId, Step};
use wfhost_store::*;

use super::{limits, most};
use crate::PostgresStore;
use crate::args::{Columns, Read, args_of, millis, strange};
use crate::beginnings::Begun;
use crate::jobs::{Jobs, check_rows, is_bare, number};
use crate::lanes::new_refused;
use crate::read;

/// Removes a run, and gives back the turns that its steps wait for.
const DELETE: &str = "SELECT code, holder,
        (SELECT count(*) FROM wf.take_turns_4(CASE code WHEN 0 THEN $6::jsonb ELSE '[]' END, $5))
    FROM wf.delete_5($1, $2::jsonb, $3, $4, $5, $7, $8)";

impl PostgresStore {
    /// The head of the first commits of a run.
    async fn first_rows(&self, run: &RunId, limit: i64) -> Result<Vec<Row>> {
        let sql = "SELECT j.seq, j.count, j.body, j.head FROM wf.runs r JOIN wf.journal j ON j.run = r.run
                   WHERE r.name = $1 AND NOT r.gone ORDER BY j.seq LIMIT $2";
        let rows = self.pool.read(sql, &|| args_of![run.as_str(), limit]).await?;
        self.all(&rows, |row| read::journal_row(row, 0))
    }

    /// Whether a run is the very one that was to be created.
    pub(super) async fn is_there(&self, run: &RunId, rows: &[Row]) -> Result<bool> {
        let limit = i64::try_from(rows.len().max(1)).unwrap_or(i64::MAX);
        let found = self.first_rows(run, limit).await?;
        Ok(found.last().map(|row| row.head) == rows.last().map(|row| row.head))
    }

    /// Places of a transaction are those of its number: behind them are those of others.
    fn check_places(&self, rows: usize) -> Result<()> {
        const PLACES: usize = (1 << 20) - 1;
        match rows > PLACES {
            true => Err(StoreError::Failed {
                place: self.place().to_owned(),
                reason: format!("a run can bring along up to {PLACES} commits, but this one has {rows}"),
            }),
            false => Ok(()),
        }
    }

    /// The place before which nothing is under way any more; `after` is that from which on it matters.
    async fn settled(&self, after: i64) -> Result<i64> {
        // What is under way may come to lie before what is there: that is given only behind it.
        let horizon = "SELECT (pg_snapshot_xmin(s.now)::text::int8 + m.xid_base) << 20,
            (pg_snapshot_xmax(s.now)::text::int8 + m.xid_base) << 20,
            EXISTS (SELECT 1 FROM wf.journal j WHERE j.place > $1
                    AND j.place >= (pg_snapshot_xmin(s.now)::text::int8 + m.xid_base) << 20)
            FROM wf.meta m, (SELECT pg_current_snapshot() AS now) s";
        let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        let mut enough = None;
        loop {
            let rows = self.pool.read(horizon, &|| args_of![after]).await?;
            let read = |row: &SqlRow| Ok((row.int(0)?, row.int(1)?, row.value::<bool>(2)?));
            let (until, begun, held_back) = self.one(&rows, read)?.unwrap_or_default();
            // What was there when this was asked is waited for: transactions are short, unless another program
            // has a long one.
            let enough = *enough.get_or_insert(if held_back { begun } else { until });
            if until >= enough || tokio::time::Instant::now() >= patience {
                return Ok(until);
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

impl Journals for PostgresStore {
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        async move {
            let run = Arc::new(run);
            let Begun { code, number, known, doubt } = if is_bare(&run) {
                check_rows(&run.id, &run.rows)?;
                self.beginnings.begin(Arc::clone(&run)).await?
            } else {
                self.check_places(
                    run.rows.len() + run.children.iter().map(|one| one.rows.len()).sum::<usize>(),
                )?;
                let mut jobs = Jobs::default();
                let job = jobs.new_run(&run)?;
                let blobs = jobs.blobs;
                let (rows, doubt) = self
                    .pool
                    .write("SELECT code, run, known FROM wf.create_5($1::jsonb, $2, $3)", &|| {
                        args_of![job.clone(), blobs.clone(), self.set_now()]
                    })
                    .await?;
                let read = |row: &SqlRow| Ok((row.value::<i32>(0)?, row.maybe_int(1)?, row.maybe_text(2)?));
                let Some((code, number, known)) = self.one(&rows, read)? else {
                    return Err(self.damaged(strange("what was created")));
                };
                Begun { code, number, known, doubt }
            };
            match code {
                0 => {
                    if let Some(number) = number {
                        self.shared.numbers.put(run.id.clone(), number);
                    }
                    if run.session.is_none() {
                        self.tell_due().await;
                    }
                    Ok(Created::New)
                }
                1 => {
                    let known = known.and_then(|known| known.parse::<RunId>().ok());
                    let known = known.ok_or_else(|| self.damaged(strange("an id")))?;
                    // The first try may have been this very run.
                    if known == run.id && doubt && self.is_there(&run.id, &run.rows).await? {
                        return Ok(Created::New);
                    }
                    let first = self.first_rows(&known, 1).await?;
                    match first.first().and_then(|first| run.differs_from(first)) {
                        None => Ok(Created::Known(known)),
                        Some(differs) => {
                            let key = run.key.clone().unwrap_or_default();
                            Err(StoreError::KeyUsed { key, run: known, differs })
                        }
                    }
                }
                3 if doubt && self.is_there(&run.id, &run.rows).await? => Ok(Created::New),
                6 => Err(StoreError::SessionOver),
                code => Err(new_refused(i64::from(code), &run.id, run.module)),
            }
        }
        .boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        self.lanes.append(append).boxed()
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move {
            let sql =
                "SELECT j.seq, j.count, j.body, j.head FROM wf.runs r JOIN wf.journal j ON j.run = r.run
                       WHERE r.name = $1 AND NOT r.gone AND j.seq >= $2 ORDER BY j.seq";
            let from = stored(from.0);
            let rows = self.pool.read(sql, &|| args_of![run.as_str(), from]).await?;
            self.all(&rows, |row| read::journal_row(row, 0))
        }
        .boxed()
    }

    fn journal_part<'a>(
        &'a self,
        run: &'a RunId,
        from: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move {
            let sql =
                "SELECT s.seq, s.count, s.body, s.head FROM (
                    SELECT p.*, sum(octet_length(p.body)) OVER (ORDER BY p.seq) - octet_length(p.body) AS before
                    FROM (SELECT j.seq, j.count, j.body, j.head FROM wf.runs r JOIN wf.journal j ON j.run = r.run
                        WHERE r.name = $1 AND NOT r.gone AND j.seq + j.count > $2
                          AND j.seq >= coalesce((SELECT o.seq FROM wf.journal o WHERE o.run = r.run AND o.seq <= $2
                                                 ORDER BY o.seq DESC LIMIT 1), 0)
                        ORDER BY j.seq LIMIT $3) p) s
                WHERE s.before < $4 ORDER BY s.seq";
            let (from, bytes) = (stored(from.0), CHANGES_BYTES as i64);
            let rows = self.pool.read(sql, &|| args_of![run.as_str(), from, most(limit), bytes]).await?;
            self.all(&rows, |row| read::journal_row(row, 0))
        }
        .boxed()
    }

    fn last_place(&self) -> BoxFuture<'_, Result<u64>> {
        async move {
            let until = self.settled(0).await?;
            let rows = self.pool.read("SELECT wf.last_place_1($1)", &|| args_of![until]).await?;
            Ok(self.number(&rows)? as u64)
        }
        .boxed()
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        async move {
            let sql = "SELECT * FROM wf.changes_5($1, $2, $3, $4)";
            let (mut after, limit) = (stored(after), most(limit));
            let until = self.settled(after).await?;
            let bytes = CHANGES_BYTES as i64;
            let change = |row: &SqlRow| {
                Read::Ok(Change {
                    place: row.int(0)? as u64,
                    run: read::id(row, 1)?,
                    row: read::journal_row(row, 2)?,
                })
            };
            loop {
                let rows = self.pool.read(sql, &|| args_of![after, until, limit, bytes]).await?;
                // Those that cannot be read hide nothing behind them.
                let changes = Self::readable(&rows, change);
                let Some(last) = rows.last().filter(|_| changes.is_empty()) else { return Ok(changes) };
                after = self.one(std::slice::from_ref(last), |row| row.int(0))?.unwrap_or(until);
            }
        }
        .boxed()
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        async move {
            self.check_places(run.rows.len())?;
            let mut jobs = Jobs::default();
            let job = jobs.imported(&run)?;
            let blobs = jobs.blobs;
            let (rows, doubt) = self
                .pool
                .write("SELECT wf.import_1($1::jsonb, $2, $3)", &|| {
                    args_of![job.clone(), blobs.clone(), self.set_now()]
                })
                .await?;
            let code = self.one(&rows, |row| row.value::<i32>(0))?.unwrap_or_default();
            match code {
                0 => Ok(()),
                3 if doubt && self.is_there(&run.info.id, &run.rows).await? => Ok(()),
                code => Err(new_refused(i64::from(code), &run.info.id, run.info.module)),
            }
        }
        .boxed()
    }

    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        async move {
            let mut jobs = Jobs::default();
            let job = jobs.rebuilt(&run);
            let blobs = jobs.blobs;
            let (rows, _) = self
                .pool
                .write("SELECT wf.rebuild_1($1::jsonb, $2)", &|| args_of![job.clone(), blobs.clone()])
                .await?;
            Ok(self.flag(&rows)? == Some(true))
        }
        .boxed()
    }

    fn delete_if<'a>(&'a self, run: &'a RunId, only: DeleteIf) -> BoxFuture<'a, Result<Deleted>> {
        async move {
            let states: Vec<_> = only.states.iter().map(|state| number(*state) as i16).collect();
            let idle_since = only.idle_since.map(millis);
            let failure = Failure::new(FailureKind::Cancelled, format!("{run} was deleted"));
            let mut ever_doubt = false;
            loop {
                let info = self.run(run).await?;
                let mut jobs = Jobs::default();
                let spent = info.map(|info| info.spent).unwrap_or_default();
                let told = jobs.told(run, Step(0), &Err(failure.clone()), Spent { time_ms: 0, ..spent });
                let blobs = jobs.blobs;
                let turns = limits::told(&[TurnWord::ReleaseRun { run: run.clone() }]);
                let (rows, doubt) = self
                    .pool
                    .write(DELETE, &|| {
                        let (told, turns) = (told.clone(), turns.clone());
                        args_of![
                            run.as_str(),
                            told,
                            blobs.clone(),
                            PARENT_GONE,
                            self.set_now(),
                            turns,
                            states.clone(),
                            idle_since,
                        ]
                    })
                    .await?;
                ever_doubt |= doubt;
                let done = self.one(&rows, |row| Ok((row.value::<i32>(0)?, row.maybe_int(1)?)))?;
                break match done {
                    Some((0, _)) => {
                        self.shared.numbers.forget(run);
                        self.tell_due().await;
                        Ok(Deleted::Yes)
                    }
                    Some((2, Some(holder))) => match self.session(holder).await? {
                        Some(Session { id: session, owner, left_ms }) if left_ms > 0 => {
                            Ok(Deleted::Held { session, owner, left_ms })
                        }
                        _ => {
                            self.end(SessionId(holder as u64), true, false).await?;
                            continue;
                        }
                    },
                    Some((3, _)) => Ok(Deleted::Needed),
                    Some((4, _)) => Ok(Deleted::Changed),
                    _ if ever_doubt => Ok(Deleted::Yes),
                    _ => Ok(Deleted::NoSuchRun),
                };
            }
        }
        .boxed()
    }
}
