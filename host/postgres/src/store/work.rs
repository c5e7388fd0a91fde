//! Which runs are to be advanced.

use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_core::{Epoch, RunId};
use wfhost_store::claims::share_of_new;
use wfhost_store::*;

use crate::PostgresStore;
use crate::args::{Columns, args_of};
use crate::lanes::lane_of;

/// The column of a claim of what is due that says whether there may be more: behind those of a run.
const MORE: usize = 18;

impl PostgresStore {
    /// Names of projects, and whether runs that belong to none are wanted.
    fn projects(wanted: &Wanted) -> (Option<Vec<String>>, bool) {
        match &wanted.projects {
            Projects::All => (None, true),
            Projects::Only(only) => (Some(only.iter().flatten().cloned().collect()), only.contains(&None)),
        }
    }

    /// Whether anything that is wanted is due, and else when the next is, in milliseconds.
    async fn look_due(&self, wanted: &Wanted) -> Result<(bool, Option<u64>)> {
        let (projects, no_project) = Self::projects(wanted);
        let names = |runs: &[RunId]| runs.iter().map(RunId::to_string).collect::<Vec<_>>();
        let families = wanted.families.as_deref().map(names);
        let except = names(&wanted.except);
        let picky = projects.is_some() || !except.is_empty();
        let mut condition = String::new();
        if picky || families.is_some() {
            condition.push_str(
                " AND EXISTS (SELECT 1 FROM wf.runs r WHERE r.run = h.run AND NOT r.name = ANY ($3)
                   AND ($1::text[] IS NULL OR r.project = ANY ($1) OR $2 AND r.project IS NULL))",
            );
        }
        let from = match families {
            None => "wf.hot h WHERE",
            Some(_) => "wf.runs f JOIN wf.hot h ON h.run = f.run WHERE f.root = ANY ($4) AND",
        };
        let next = |is: &str, than: &str| {
            format!(
                "(SELECT h.due_at FROM {from} h.due_at IS NOT NULL AND h.state {is} 0 AND h.due_at {than} n.now
                  {condition} ORDER BY h.due_at LIMIT 1)"
            )
        };
        let sql = format!(
            "SELECT n.now, coalesce({}, {}), least({}, {}), $1::text[] IS NULL, $2::bool, $3::text[] IS NULL,
                    $4::text[] IS NULL FROM (SELECT wf.now_1($5) AS now) n",
            next("<>", "<="),
            next("=", "<="),
            next("<>", ">"),
            next("=", ">")
        );
        let rows = self
            .pool
            .read_soon(&sql, &|| {
                args_of![projects.clone(), no_project, except.clone(), families.clone(), self.set_now()]
            })
            .await?;
        let found = self.one(&rows, |row| Ok((row.int(0)?, row.maybe_int(1)?, row.maybe_int(2)?)))?;
        let (now, due, next) = found.unwrap_or_default();
        Ok((due.is_some(), next.map(|next| next.abs_diff(now))))
    }
}

impl Work for PostgresStore {
    fn claim<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        how: ClaimHow,
    ) -> BoxFuture<'a, Result<Claimed>> {
        let how = match how {
            ClaimHow::Due => "due",
            ClaimHow::Asked => "asked",
            ClaimHow::AsItIs => "as-it-is",
            ClaimHow::Reopen => "reopen",
            ClaimHow::Seize => "seize",
        };
        async move {
            loop {
                let lane = lane_of(run) as i16;
                let rows = self
                    .in_turn(session, true, "SELECT * FROM wf.claim_2($1, $2, $3, $4, $5, $6)", &|turn| {
                        args_of![session.0 as i64, turn, lane, run.as_str(), how, self.set_now()]
                    })
                    .await?;
                let code = self.one(&rows, |row| Ok((row.value::<i32>(0)?, row.maybe_int(1)?)))?;
                match code {
                    Some((0, _)) => break self.committed_claim(session, &rows).await,
                    Some((1, _)) => break Ok(Claimed::NoSuchRun),
                    Some((2, _)) => break Ok(Claimed::Ended),
                    Some((4, _)) => break Ok(Claimed::NotDue),
                    Some((3, Some(holder))) => match self.session(holder).await? {
                        Some(Session { id: session, owner, left_ms }) if left_ms > 0 => {
                            break Ok(Claimed::Held { session, owner, left_ms });
                        }
                        // Before the row is locked: a fenced process may wait for it.
                        _ => drop(self.end(SessionId(holder as u64), true, false).await?),
                    },
                    _ => break Err(StoreError::SessionOver),
                }
            }
        }
        .boxed()
    }

    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>> {
        async move {
            // Most looks find nothing: those write nothing.
            let (any, next_in_ms) = self.look_due(&wanted).await?;
            if !any || limit == 0 {
                return Ok(Due { runs: Vec::new(), any, more: any, next_in_ms });
            }
            let look = self.looks.fetch_add(1, Ordering::Relaxed);
            let share = share_of_new(limit, look);
            let (projects, no_project) = Self::projects(&wanted);
            let names = |runs: &[RunId]| runs.iter().map(RunId::to_string).collect::<Vec<_>>();
            let sql = "SELECT * FROM wf.claim_due_6($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
            let rows = self
                .in_turn(session, false, sql, &|turn| {
                    args_of![
                        session.0 as i64,
                        turn,
                        limit as i32,
                        share as i32,
                        CLAIM_BYTES as i64,
                        INBOX_BYTES as i64,
                        projects.clone(),
                        no_project,
                        wanted.families.as_deref().map(names),
                        names(&wanted.except),
                        self.set_now(),
                    ]
                })
                .await?;
            if self.one(&rows, |row| row.value::<i32>(0))?.is_some_and(|code| code != 0) {
                return Err(StoreError::SessionOver);
            }
            let more = self.one(&rows, |row| row.value::<bool>(MORE))?.unwrap_or_default();
            let mut rows: Vec<_> = rows.iter().collect();
            rows.sort_by_key(|row| row.value::<i32>(1).unwrap_or_default());
            let taken = self.taken(session, rows).await?;
            let runs = self.open_runs(session, taken).await.map_err(|error| match error {
                // They are claimed, and nobody knows.
                StoreError::Unreachable { .. } => self.pool.unknown(&error),
                error => error,
            })?;
            Ok(Due { runs, any, more, next_in_ms })
        }
        .boxed()
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        async move {
            const AHEAD: &str = "h.state IN (1, 2) AND h.session IS NULL AND h.due_at > n.now
                                 AND h.parked_at > n.now + 1000";
            const RESTS: &str = "d.state = 0 AND d.next_at > n.now
                                 AND (d.created_at > n.now + 1000 OR d.next_at > n.now + $2)";
            const HELD: &str = "c.holder IS NOT NULL AND c.until > n.now
                                AND (c.at > n.now + 1000 OR c.until > n.now + $3)";
            let (rest, hold) = (LONGEST_REST_MS as i64, LONGEST_HOLD_MS as i64);
            // Hardly ever are there any: then nothing is written.
            let look = format!(
                "SELECT EXISTS (SELECT 1 FROM wf.hot h WHERE h.due_at IS NOT NULL AND h.state <> 0 AND {AHEAD})
                     OR EXISTS (SELECT 1 FROM wf.deliveries d WHERE {RESTS})
                     OR EXISTS (SELECT 1 FROM wf.cursors c WHERE {HELD})
                 FROM (SELECT wf.now_1($1) AS now) n"
            );
            let rows = self.pool.read(&look, &|| args_of![self.set_now(), rest, hold]).await?;
            if self.flag(&rows)? != Some(true) {
                return Ok(0);
            }
            let sql = format!(
                "WITH n AS MATERIALIZED (SELECT wf.now_1($1) AS now),
                 a AS (SELECT h.run FROM n, wf.hot h
                     WHERE h.due_at IS NOT NULL AND h.state <> 0 AND {AHEAD} ORDER BY h.run
                     FOR NO KEY UPDATE OF h SKIP LOCKED),
                 d AS (UPDATE wf.deliveries d SET next_at = n.now, created_at = least(d.created_at, n.now)
                     FROM n WHERE {RESTS}),
                 c AS (UPDATE wf.cursors c SET until = n.now, at = least(c.at, n.now) FROM n WHERE {HELD})
                 UPDATE wf.hot h SET due_at = 0 FROM a WHERE h.run = a.run RETURNING 1"
            );
            let (rows, _) = self.pool.write(&sql, &|| args_of![self.set_now(), rest, hold]).await?;
            Ok(rows.len() as u64)
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
        async move {
            self.pool
                .write(
                    // By its number: the index of sessions is not to be taken for this.
                    "UPDATE wf.hot h SET starts = $4 WHERE h.run = (SELECT r.run FROM wf.runs r WHERE r.name = $1)
                     AND NOT h.session IS DISTINCT FROM $2 AND h.epoch = $3",
                    &|| {
                        let starts = i32::try_from(starts).unwrap_or(i32::MAX);
                        args_of![run.as_str(), session.0 as i64, stored(epoch.0), starts]
                    },
                )
                .await?;
            Ok(())
        }
        .boxed()
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        async move {
            // Whoever advances it may be about to pause it.
            let sql =
                "SELECT wf.unpause_1($1), (SELECT h.session FROM wf.runs r JOIN wf.hot h ON h.run = r.run
                           WHERE r.name = $1 AND NOT r.gone) WHERE wf.in_time_5($2)";
            let (rows, doubt) = self.pool.write(sql, &|| self.in_time(args_of![run.as_str()])).await?;
            let done = self.flag(&rows)? == Some(true) || doubt;
            if done {
                let session = self.one(&rows, |row| row.maybe_int(1))?.flatten();
                self.tell_of(run, session.map(|session| session as u64)).await;
            }
            Ok(done)
        }
        .boxed()
    }

    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>> {
        async move {
            self.hear();
            Ok(self.shared.notices.wait(seen).await)
        }
        .boxed()
    }
}
