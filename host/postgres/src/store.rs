//! The contract of stores.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio_postgres::Row as SqlRow;
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Given, Json, Outcome, Position, Row, RunId, Step, Timestamp,
};
use wfhost_store::schedule::Schedule;
use wfhost_store::*;

use crate::PostgresStore;
use crate::args::{Columns, Read, args_of, millis, strange};
use crate::jobs::Jobs;
use crate::lanes::{LANES, lane_of, new_refused};
use crate::notify::Told;
use crate::read;

/// Of how many claims one is kept for runs that have not begun.
const NEW_SHARE: usize = 4;
/// What was posted is remembered so long, in milliseconds, in case somebody does not know whether it was.
const POSTS_MS: i64 = 3_600_000;

/// A run that was claimed and is to be read.
struct Taken {
    number: i64,
    run: RunId,
    epoch: Epoch,
    starts: u32,
    module: Digest,
    emissions: u64,
    given: Given,
    was: RunState,
    waited: Option<Waiting>,
    trouble: Option<String>,
    /// Of the chain, when the run was given up the last time.
    head: Option<Digest>,
    project: Option<String>,
    imported: bool,
    outcome: Option<Outcome>,
}

impl Taken {
    /// The columns of `take_1`, from `first` on.
    fn read(row: &SqlRow, first: usize) -> Read<Self> {
        let emissions = row.int(first + 5)? as u64;
        Ok(Self {
            number: row.int(first)?,
            run: read::id(row, first + 1)?,
            epoch: Epoch(row.int(first + 2)? as u64),
            starts: row.value::<i32>(first + 3)? as u32,
            module: row.digest(first + 4)?,
            emissions,
            given: match row.maybe_bytes(first + 6)? {
                Some(given) => minicbor::decode(&given).map_err(|_| strange("what was given out"))?,
                None => Given::Counted(emissions),
            },
            was: read::state(row, first + 7)?,
            waited: read::waiting(row, first + 8, first + 9, first + 10)?,
            head: row.maybe_digest(first + 11)?,
            project: row.maybe_text(first + 12)?,
            outcome: read::outcome(row, first + 13)?,
            trouble: row.maybe_text(first + 14)?,
            imported: row.value(first + 15)?,
        })
    }
}

/// What a run that was claimed has.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    place: Option<u64>,
    messages: Vec<SqlRow>,
}

impl PostgresStore {
    fn ticks(&self) -> Option<i64> {
        self.pool.connector.time.set_ticks()
    }

    pub(crate) fn set_now(&self) -> Option<i64> {
        self.pool.connector.time.set_now()
    }

    pub(crate) fn all<T>(&self, rows: &[SqlRow], read: impl Fn(&SqlRow) -> Read<T>) -> Result<Vec<T>> {
        rows.iter().map(read).collect::<Read<_>>().map_err(|strange| self.damaged(strange))
    }

    pub(crate) fn one<T>(&self, rows: &[SqlRow], read: impl Fn(&SqlRow) -> Read<T>) -> Result<Option<T>> {
        rows.first().map(read).transpose().map_err(|strange| self.damaged(strange))
    }

    /// The single value of the single row.
    pub(crate) fn number(&self, rows: &[SqlRow]) -> Result<i64> {
        Ok(self.one(rows, |row| row.maybe_int(0))?.flatten().unwrap_or_default())
    }

    pub(crate) fn flag(&self, rows: &[SqlRow]) -> Result<Option<bool>> {
        Ok(self.one(rows, |row| row.value::<Option<bool>>(0))?.flatten())
    }

    /// Wakes whom a function says.
    async fn tell(&self, wake: Option<String>) {
        let told = wake.and_then(|wake| serde_json::from_str::<Value>(&wake).ok());
        if let Some(told) = told.as_ref().and_then(Told::read) {
            self.shared.notices.tell(told, true);
            self.shared.notices.flush().await;
        }
    }

    /// Has all hosts look for what is due.
    async fn tell_due(&self) {
        self.shared.notices.tell(Told { run: None, to: None }, true);
        self.shared.notices.flush().await;
    }

    /// Now and then, removes tokens that nobody asks for any more.
    pub(crate) async fn forget_tokens(&self, token: &[u8]) {
        if token[0] == 0 {
            let old = "DELETE FROM wf.posts WHERE at < wf.now_1($1) - $2";
            // The next one makes up for it.
            let _ = self.pool.read(old, &|| args_of![self.set_now(), POSTS_MS]).await;
        }
    }

    /// A session that nobody has ended.
    async fn session(&self, id: i64) -> Result<Option<Session>> {
        let sql = format!("SELECT {} FROM wf.sessions s WHERE s.id = $2", read::SESSION);
        let rows = self.pool.read(&sql, &|| args_of![self.ticks(), id]).await?;
        Ok(self.one(&rows, |row| read::session(row, 0))?.flatten())
    }

    async fn end(&self, session: SessionId, if_over: bool, in_order: bool) -> Result<u64> {
        let (rows, _) = self
            .pool
            .write("SELECT wf.fence_1($1, $2, $3, $4)", &|| {
                args_of![session.0 as i64, if_over, in_order, self.ticks()]
            })
            .await?;
        let runs = self.number(&rows)? as u64;
        if runs > 0 {
            self.tell_due().await;
        }
        Ok(runs)
    }

    /// Reads runs that were claimed, all of one state of the database.
    async fn open_runs(
        &self,
        session: SessionId,
        taken: Vec<Taken>,
    ) -> Result<Vec<Result<Opened, Unreadable>>> {
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<_> = taken.iter().map(|taken| taken.number).collect();
        let rows = self
            .pool
            .read(
                "SELECT run, seq, count, body, head, place FROM wf.journal WHERE run = ANY ($1) ORDER BY run, seq",
                &|| args_of![numbers.clone()],
            )
            .await?;
        let sql = format!(
            "SELECT m.* FROM unnest($1) w(run), LATERAL (
                 SELECT i.run, {} FROM wf.inbox i WHERE i.run = w.run ORDER BY i.calm, i.id LIMIT $2) m",
            read::MESSAGE
        );
        let limit = INBOX_MESSAGES as i64 + 1;
        let messages = self.pool.read(&sql, &|| args_of![numbers.clone(), limit]).await?;
        let mut found: std::collections::HashMap<i64, Found> = std::collections::HashMap::new();
        for row in rows {
            let of = |row: &SqlRow| Read::Ok((row.int(0)?, read::journal_row(row, 1)?, row.int(5)? as u64));
            // A row that cannot be read is one that is missing: it is noticed as that.
            if let Ok((number, entries, place)) = of(&row) {
                let found = found.entry(number).or_default();
                found.rows.push(entries);
                found.place = Some(place);
            }
        }
        for row in messages {
            if let Ok(number) = row.int(0) {
                found.entry(number).or_default().messages.push(row);
            }
        }
        let opened = taken.into_iter().map(|taken| {
            let found = found.remove(&taken.number).unwrap_or_default();
            self.shared.numbers.put(taken.run.clone(), taken.number);
            let (run, epoch) = (taken.run.clone(), taken.epoch);
            self.open_run(session, taken, found).map_err(|error| Unreadable { run, epoch, error })
        });
        Ok(opened.collect())
    }

    /// Looks whether a run is what it was left as.
    fn open_run(&self, session: SessionId, taken: Taken, found: Found) -> Result<Opened> {
        let damaged = |reason: String| StoreError::Damaged {
            place: self.place().to_owned(),
            reason: format!("the journal of {}: {reason}", taken.run),
        };
        let Found { rows, place, messages } = found;
        let mut end = Position(0);
        for row in &rows {
            if row.first != end || row.count == 0 {
                return Err(damaged(format!("a row begins at entry {} where {end} is due", row.first)));
            }
            end = row.end();
        }
        if rows.is_empty() {
            return Err(damaged("it is empty".to_owned()));
        }
        if let Some(head) = taken.head {
            // Whoever died went on behind the place where the run was given up last.
            let is_there = match taken.was {
                RunState::Running => rows.iter().any(|row| row.head == head),
                _ => rows.last().is_some_and(|row| row.head == head),
            };
            if !is_there {
                return Err(damaged(format!("its last entries are missing, up to the head {head}")));
            }
        }
        let inbox = read::inbox(messages.iter(), 1).map_err(|strange| damaged(strange.0))?;
        Ok(Opened {
            run: taken.run.clone(),
            session,
            epoch: taken.epoch,
            starts: taken.starts,
            module: taken.module,
            emissions: taken.emissions,
            given: taken.given,
            rows,
            place,
            inbox,
            project: taken.project.clone(),
            imported: taken.imported,
            was: taken.was,
            waited: taken.waited.clone(),
            trouble: taken.trouble.clone(),
            outcome: taken.outcome.clone(),
        })
    }

    /// The head of the first commits of a run.
    async fn first_rows(&self, run: &RunId, limit: i64) -> Result<Vec<Row>> {
        let sql = "SELECT j.seq, j.count, j.body, j.head FROM wf.runs r JOIN wf.journal j ON j.run = r.run
                   WHERE r.name = $1 AND NOT r.gone ORDER BY j.seq LIMIT $2";
        let rows = self.pool.read(sql, &|| args_of![run.as_str(), limit]).await?;
        self.all(&rows, |row| read::journal_row(row, 0))
    }

    /// Whether a run is the very one that was to be created.
    async fn is_there(&self, run: &RunId, rows: &[Row]) -> Result<bool> {
        let limit = i64::try_from(rows.len().max(1)).unwrap_or(i64::MAX);
        let found = self.first_rows(run, limit).await?;
        Ok(found.last().map(|row| row.head) == rows.last().map(|row| row.head))
    }

    /// Names of projects, and whether runs that belong to none are wanted.
    fn projects(wanted: &Wanted) -> (Option<Vec<String>>, bool) {
        match &wanted.projects {
            Projects::All => (None, true),
            Projects::Only(only) => (Some(only.iter().flatten().cloned().collect()), only.contains(&None)),
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
            .read(&sql, &|| {
                args_of![projects.clone(), no_project, except.clone(), families.clone(), self.set_now()]
            })
            .await?;
        let found = self.one(&rows, |row| Ok((row.int(0)?, row.maybe_int(1)?, row.maybe_int(2)?)))?;
        let (now, due, next) = found.unwrap_or_default();
        Ok((due.is_some(), next.map(|next| next.abs_diff(now))))
    }

    async fn snapshot_of(&self, run: &RunId) -> Result<Option<Snapshot>> {
        use crate::connect::ask;
        use crate::errors::Fault;
        let place = self.place().to_owned();
        let name = || args_of![run.as_str()];
        let all = i64::MAX;
        let read = self
            .pool
            .with(async |conn| {
                let ask = async |sql: &str, args| ask(&place, conn, &self.pool.sql(sql), args).await;
                ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", Vec::new()).await?;
                let read = async {
                    let info = format!("{} AND r.name = $2", read::run_columns());
                    let info = ask(&info, args_of![self.ticks(), run.as_str()]).await?;
                    let rows = "SELECT j.seq, j.count, j.body, j.head FROM wf.runs r JOIN wf.journal j
                                ON j.run = r.run WHERE r.name = $1 AND NOT r.gone ORDER BY j.seq";
                    let rows = ask(rows, name()).await?;
                    let logs = ask(read::LOGS, args_of![run.as_str(), 0_i64, all]).await?;
                    let messages = ask(read::MESSAGES, args_of![run.as_str(), -1_i64, all]).await?;
                    let published =
                        ask(read::PUBLISHED, args_of![run.as_str(), None::<&str>, -1_i64, all]).await?;
                    let inbox = format!(
                        "SELECT {} FROM wf.runs r JOIN wf.inbox i ON i.run = r.run
                         WHERE r.name = $1 AND NOT r.gone ORDER BY i.id",
                        read::MESSAGE
                    );
                    let inbox = ask(&inbox, name()).await?;
                    Ok::<_, Fault>((info, rows, logs, messages, published, inbox))
                }
                .await;
                // Nothing was changed: either end is the same.
                ask("ROLLBACK", Vec::new()).await?;
                read
            })
            .await;
        let (info, rows, logs, messages, published, inbox) = read.map_err(Fault::into_error)?;
        let Some(info) = self.one(&info, read::run_info)? else { return Ok(None) };
        let mut taken = Vec::new();
        for row in &inbox {
            let part = read::inbox(std::iter::once(row), 0).map_err(|strange| self.damaged(strange))?;
            taken.extend(part.messages);
        }
        Ok(Some(Snapshot {
            info,
            rows: self.all(&rows, |row| read::journal_row(row, 0))?,
            logs: self.all(&logs, read::log)?,
            messages: self.all(&messages, read::message_out)?,
            published: self.all(&published, read::published)?,
            inbox: taken,
        }))
    }
}

impl Sessions for PostgresStore {
    fn now(&self) -> Timestamp {
        self.pool.connector.time.now()
    }

    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, Result<SessionId>> {
        async move {
            let id = SessionId::fresh()?;
            let lease = i64::try_from(lease_ms).unwrap_or(i64::MAX >> 1);
            self.shared.leases.lock().unwrap_or_else(PoisonError::into_inner).insert(id, lease_ms);
            self.pool
                .write("SELECT wf.begin_session_1($1, $2, $3, $4, $5, $6, $7, $8, $9)", &|| {
                    args_of![
                        id.0 as i64,
                        owner.host.as_str(),
                        owner.realm.as_str(),
                        i64::from(owner.pid),
                        owner.started as i64,
                        lease,
                        env!("CARGO_PKG_VERSION"),
                        LANES as i32,
                        self.ticks(),
                    ]
                })
                .await?;
            self.pool.be_patient(lease_ms);
            self.shared.notices.began(id);
            self.hear();
            Ok(id)
        }
        .boxed()
    }

    fn keep(&self, session: SessionId) -> BoxFuture<'_, Result<Kept>> {
        async move {
            let asked = std::time::Instant::now();
            let (rows, _) = self
                .pool
                .write(
                    "SELECT k.until, k.now, (extract(epoch FROM clock_timestamp()) * 1000000)::int8
                     FROM wf.keep_1($1, $2) k",
                    &|| args_of![session.0 as i64, self.ticks()],
                )
                .await?;
            let kept = self.one(&rows, |row| Ok((row.int(0)?, row.int(1)?, row.int(2)?)))?;
            let Some((until, now, micros)) = kept else {
                self.shared.notices.ended(session);
                return Ok(Kept::Fenced);
            };
            self.pool.connector.time.saw(asked, micros);
            let (until, now) = match self.set_now() {
                // The clock of a test has two hands.
                Some(set) => (Timestamp((set + until - now) as u64), Timestamp(set as u64)),
                None => (Timestamp(until as u64), Timestamp(now as u64)),
            };
            Ok(Kept::Until { until, now })
        }
        .boxed()
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Session>>> {
        async move {
            let sql = format!("SELECT {} FROM wf.sessions s ORDER BY s.id", read::SESSION);
            let rows = self.pool.read(&sql, &|| args_of![self.ticks()]).await?;
            Ok(self.all(&rows, |row| read::session(row, 0))?.into_iter().flatten().collect())
        }
        .boxed()
    }

    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, Result<u64>> {
        async move { self.end(session, fence == Fence::IfOver, false).await }.boxed()
    }

    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, Result<u64>> {
        async move {
            let keep: Vec<_> = keep.iter().map(RunId::to_string).collect();
            let sql = "SELECT wf.shed_1($1, $2)";
            let (rows, _) = self.pool.write(sql, &|| args_of![session.0 as i64, keep.clone()]).await?;
            let runs = self.number(&rows)? as u64;
            if runs > 0 {
                self.tell_due().await;
            }
            Ok(runs)
        }
        .boxed()
    }

    fn held(&self, session: SessionId) -> BoxFuture<'_, Result<Vec<RunId>>> {
        async move {
            let sql = "SELECT r.name FROM wf.hot x JOIN wf.runs r USING (run) WHERE x.session = $1";
            let rows = self.pool.read(sql, &|| args_of![session.0 as i64]).await?;
            self.all(&rows, |row| read::id(row, 0))
        }
        .boxed()
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>> {
        async move {
            self.shared.notices.ended(session);
            let runs = self.end(session, false, true).await?;
            self.shared.leases.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
            Ok(runs)
        }
        .boxed()
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
                let (rows, _) = self
                    .pool
                    .write("SELECT * FROM wf.claim_1($1, $2, $3, $4, $5)", &|| {
                        args_of![session.0 as i64, lane, run.as_str(), how, self.set_now()]
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
                        // Before the row is locked: whoever is fenced may wait for it.
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
                return Ok(Due { runs: Vec::new(), more: any, next_in_ms });
            }
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let share = (limit + turn % NEW_SHARE) / NEW_SHARE;
            let (projects, no_project) = Self::projects(&wanted);
            let names = |runs: &[RunId]| runs.iter().map(RunId::to_string).collect::<Vec<_>>();
            let rows = self
                .pool
                .write_once("SELECT * FROM wf.claim_due_1($1, $2, $3, $4, $5, $6, $7, $8, $9)", &|| {
                    args_of![
                        session.0 as i64,
                        0_i16,
                        limit as i32,
                        share as i32,
                        projects.clone(),
                        no_project,
                        wanted.families.as_deref().map(names),
                        names(&wanted.except),
                        self.set_now(),
                    ]
                })
                .await?;
            if self.flag(&rows)? == Some(true) {
                return Err(StoreError::SessionOver);
            }
            let mut taken = self.all(&rows, |row| Ok((row.value::<i32>(1)?, Taken::read(row, 2)?)))?;
            taken.sort_by_key(|(turn, _)| *turn);
            let taken: Vec<_> = taken.into_iter().map(|(_, taken)| taken).collect();
            let more = taken.len() == limit;
            let runs = self.open_runs(session, taken).await.map_err(|error| match error {
                // They are claimed, and nobody knows.
                StoreError::Unreachable { .. } => self.pool.unknown(&error),
                error => error,
            })?;
            Ok(Due { runs, more, next_in_ms })
        }
        .boxed()
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        async move {
            const AHEAD: &str = "h.state = 2 AND h.session IS NULL AND h.due_at > n.now
                                 AND h.parked_at > n.now + 1000";
            // Hardly ever are there any: then nothing is written.
            let look = format!(
                "SELECT 1 FROM (SELECT wf.now_1($1) AS now) n, wf.hot h
                 WHERE h.due_at IS NOT NULL AND h.state <> 0 AND {AHEAD} LIMIT 1"
            );
            if self.pool.read(&look, &|| args_of![self.set_now()]).await?.is_empty() {
                return Ok(0);
            }
            let sql = format!(
                "WITH c AS (SELECT h.run FROM (SELECT wf.now_1($1) AS now) n, wf.hot h
                     WHERE h.due_at IS NOT NULL AND h.state <> 0 AND {AHEAD} ORDER BY h.run
                     FOR NO KEY UPDATE OF h SKIP LOCKED)
                 UPDATE wf.hot h SET due_at = 0 FROM c WHERE h.run = c.run RETURNING 1"
            );
            let (rows, _) = self.pool.write(&sql, &|| args_of![self.set_now()]).await?;
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
                    "UPDATE wf.hot h SET starts = $4 FROM wf.runs r WHERE r.name = $1 AND h.run = r.run
                     AND h.session = $2 AND h.epoch = $3",
                    &|| args_of![run.as_str(), session.0 as i64, epoch.0 as i64, starts as i32],
                )
                .await?;
            Ok(())
        }
        .boxed()
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        async move {
            let (rows, doubt) =
                self.pool.write("SELECT wf.unpause_1($1)", &|| args_of![run.as_str()]).await?;
            let done = self.flag(&rows)? == Some(true) || doubt;
            if done {
                self.tell_due().await;
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

impl PostgresStore {
    /// Reads a run that a claim gave.
    async fn committed_claim(&self, session: SessionId, rows: &[SqlRow]) -> Result<Claimed> {
        let taken = self.all(rows, |row| Taken::read(row, 2))?;
        match self.open_runs(session, taken).await?.pop() {
            Some(Ok(opened)) => Ok(Claimed::Yes(Box::new(opened))),
            Some(Err(unreadable)) => Ok(Claimed::Unreadable(Box::new(unreadable))),
            None => Ok(Claimed::NoSuchRun),
        }
    }
}

impl Journals for PostgresStore {
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        async move {
            let mut jobs = Jobs::default();
            let job = jobs.new_run(&run)?;
            let blobs = jobs.blobs;
            let lane = lane_of(&run.id) as i16;
            let (rows, doubt) = self
                .pool
                .write("SELECT code, run, known FROM wf.create_1($1::jsonb, $2, $3, $4)", &|| {
                    args_of![job.clone(), blobs.clone(), lane, self.set_now()]
                })
                .await?;
            let read = |row: &SqlRow| Ok((row.value::<i32>(0)?, row.maybe_int(1)?, row.maybe_text(2)?));
            let Some((code, number, known)) = self.one(&rows, read)? else {
                return Err(self.damaged(strange("what was created")));
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
            let from = i64::try_from(from.0).unwrap_or(i64::MAX);
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
                "SELECT j.seq, j.count, j.body, j.head FROM wf.runs r JOIN wf.journal j ON j.run = r.run
                WHERE r.name = $1 AND NOT r.gone AND j.seq + j.count > $2
                  AND j.seq >= coalesce((SELECT o.seq FROM wf.journal o WHERE o.run = r.run AND o.seq <= $2
                                         ORDER BY o.seq DESC LIMIT 1), 0)
                ORDER BY j.seq LIMIT $3";
            let from = i64::try_from(from.0).unwrap_or(i64::MAX);
            let rows = self.pool.read(sql, &|| args_of![run.as_str(), from, most(limit)]).await?;
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
            let sql = "SELECT j.place, r.name, j.seq, j.count, j.body, j.head
                FROM wf.journal j JOIN wf.runs r ON r.run = j.run
                WHERE j.place > $1 AND j.place < $2 ORDER BY j.place LIMIT $3";
            let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), most(limit));
            let until = self.settled(after).await?;
            let rows = self.pool.read(sql, &|| args_of![after, until, limit]).await?;
            self.all(&rows, |row| {
                Ok(Change {
                    place: row.int(0)? as u64,
                    run: read::id(row, 1)?,
                    row: read::journal_row(row, 2)?,
                })
            })
        }
        .boxed()
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        async move {
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

    fn delete<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Deleted>> {
        async move {
            let failure = Failure::new(FailureKind::Cancelled, format!("{run} was deleted"));
            let mut ever_doubt = false;
            loop {
                let info = self.run(run).await?;
                let mut jobs = Jobs::default();
                let spent = info.map(|info| info.spent).unwrap_or_default();
                let told = jobs.told(run, Step(0), &Err(failure.clone()), Spent { time_ms: 0, ..spent });
                let blobs = jobs.blobs;
                let (rows, doubt) = self
                    .pool
                    .write("SELECT code, holder FROM wf.delete_1($1, $2::jsonb, $3, $4, $5)", &|| {
                        args_of![run.as_str(), told.clone(), blobs.clone(), PARENT_GONE, self.set_now()]
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
                    _ if ever_doubt => Ok(Deleted::Yes),
                    _ => Ok(Deleted::NoSuchRun),
                };
            }
        }
        .boxed()
    }
}

impl Mail for PostgresStore {
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        async move {
            let mut jobs = Jobs::default();
            let body = jobs.message(&message.body);
            let blobs = jobs.blobs;
            let token = token()?;
            let (rows, _) = self
                .pool
                .write("SELECT code, latest, wake FROM wf.post_1($1, $2::jsonb, $3, $4, $5, $5)", &|| {
                    args_of![message.run.as_str(), body.clone(), blobs.clone(), token.clone(), self.set_now()]
                })
                .await?;
            self.forget_tokens(&token).await;
            let read = |row: &SqlRow| Ok((row.value::<i32>(0)?, row.maybe_text(1)?, row.maybe_text(2)?));
            let Some((code, latest, wake)) = self.one(&rows, read)? else {
                return Err(self.damaged(strange("what was posted")));
            };
            self.tell(wake).await;
            Ok(match code {
                0 => Posted::Added,
                2 => {
                    let latest = latest.and_then(|latest| latest.parse().ok());
                    Posted::Continued(latest.ok_or_else(|| self.damaged(strange("an id")))?)
                }
                3 => Posted::Duplicate,
                4 => Posted::Ended,
                5 => Posted::Stopping,
                6 => Posted::NoQuestion,
                _ => Posted::NoSuchRun,
            })
        }
        .boxed()
    }

    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, Result<Inbox>> {
        async move {
            let (condition, after) = match part {
                Part::Next => ("$2::int8 = -1 ORDER BY i.calm, i.id", -1),
                Part::Behind(after) => ("i.id > $2 ORDER BY i.id", after.map_or(-1, |after| after.0)),
            };
            let sql = format!(
                "SELECT {} FROM wf.runs r JOIN wf.inbox i ON i.run = r.run
                 WHERE r.name = $1 AND NOT r.gone AND {condition} LIMIT $3",
                read::MESSAGE
            );
            let limit = INBOX_MESSAGES as i64 + 1;
            let rows = self.pool.read(&sql, &|| args_of![run.as_str(), after, limit]).await?;
            read::inbox(rows.iter(), 0).map_err(|strange| self.damaged(strange))
        }
        .boxed()
    }
}

/// What is told by, when it comes twice, that it was done before.
pub(crate) fn token() -> Result<Vec<u8>> {
    let mut token = vec![0; 16];
    getrandom::fill(&mut token).map_err(|error| StoreError::Failed {
        place: "the system".to_owned(),
        reason: format!("no random numbers: {error}"),
    })?;
    Ok(token)
}

/// A limit as the server knows it.
pub(crate) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl Views for PostgresStore {
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        async move {
            let sql = format!("{} AND r.name = $2", read::run_columns());
            let rows = self.pool.read(&sql, &|| args_of![self.ticks(), run.as_str()]).await?;
            self.one(&rows, read::run_info)
        }
        .boxed()
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>> {
        async move {
            let (sql, _) = read::runs(&filter);
            let args = || {
                let mut args = args_of![self.ticks()];
                args.extend(read::runs(&filter).1);
                args
            };
            let rows = match filter.patience_ms {
                Some(millis) => self.pool.read_within(millis, &sql, &args).await?,
                None => self.pool.read(&sql, &args).await?,
            };
            self.all(&rows, read::run_info)
        }
        .boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>> {
        async move {
            let sql = "SELECT state, count(*) FROM wf.hot GROUP BY state";
            let rows = self.pool.read(sql, &|| Vec::new()).await?;
            self.all(&rows, |row| Ok((read::state(row, 0)?, row.int(1)? as u64)))
        }
        .boxed()
    }

    fn busy_relatives<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        async move {
            let sql = "SELECT EXISTS (SELECT 1 FROM wf.runs r JOIN wf.hot h ON h.run = r.run
                       WHERE r.root = $1 AND (h.session IS NOT NULL OR h.due_at <= wf.now_1($2)))";
            let rows = self.pool.read(sql, &|| args_of![root.as_str(), self.set_now()]).await?;
            Ok(self.flag(&rows)? == Some(true))
        }
        .boxed()
    }

    fn ended_children<'a>(
        &'a self,
        parent: &'a RunId,
        steps: &'a [Step],
    ) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        async move {
            let steps: Vec<_> = steps.iter().map(|step| step.0 as i64).collect();
            let sql = format!(
                "{} AND r.parent = $2 AND r.parent_step = ANY ($3) AND h.state IN (5, 6, 7)
                 ORDER BY array_position($3, r.parent_step)",
                read::run_columns()
            );
            let rows =
                self.pool.read(&sql, &|| args_of![self.ticks(), parent.as_str(), steps.clone()]).await?;
            self.all(&rows, read::run_info)
        }
        .boxed()
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        async move {
            // The latest round of the one at the top.
            let sql = "SELECT coalesce((SELECT tokens FROM wf.ledgers WHERE root = $1), 0),
                    coalesce((SELECT micros FROM wf.ledgers WHERE root = $1), 0),
                    CASE WHEN EXISTS (SELECT 1 FROM wf.runs WHERE chain = $1)
                    THEN (SELECT budget FROM wf.runs WHERE chain = $1 ORDER BY run DESC LIMIT 1)
                    ELSE (SELECT budget FROM wf.runs WHERE name = $1) END";
            let rows = self.pool.read(sql, &|| args_of![root.as_str()]).await?;
            let family = self.one(&rows, |row| {
                let budget = match row.maybe_bytes(2)? {
                    Some(bytes) => minicbor::decode(&bytes).map_err(|_| strange("a budget"))?,
                    None => Budget::default(),
                };
                let spent = Spent { tokens: row.int(0)? as u64, micros: row.int(1)? as u64, time_ms: 0 };
                Ok(Family { budget, spent })
            })?;
            Ok(family.unwrap_or_default())
        }
        .boxed()
    }

    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>> {
        async move {
            let args = || args_of![run.as_str(), i64::try_from(from).unwrap_or(i64::MAX), most(limit)];
            self.all(&self.pool.read(read::LOGS, &args).await?, read::log)
        }
        .boxed()
    }

    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>> {
        async move {
            let args = || args_of![run.as_str(), after.map_or(-1, |after| after as i64), most(limit)];
            self.all(&self.pool.read(read::MESSAGES, &args).await?, read::message_out)
        }
        .boxed()
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        async move {
            let rows = match run {
                Some(run) => {
                    let sql = format!("{} AND r.name = $1 ORDER BY q.at, q.step LIMIT $2", read::QUESTION);
                    self.pool.read(&sql, &|| args_of![run.as_str(), most(limit)]).await?
                }
                None => {
                    let sql = format!("{} ORDER BY q.at, q.run, q.step LIMIT $1", read::QUESTION);
                    self.pool.read(&sql, &|| args_of![most(limit)]).await?
                }
            };
            self.all(&rows, read::question)
        }
        .boxed()
    }

    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>> {
        async move {
            let sql = format!("{} AND r.name = $1 AND q.step = $2", read::QUESTION);
            let rows = self.pool.read(&sql, &|| args_of![run.as_str(), step.0 as i64]).await?;
            self.one(&rows, read::question)
        }
        .boxed()
    }

    fn snapshot<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        self.snapshot_of(run).boxed()
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        async move {
            let sql = "SELECT DISTINCT ON (p.key) p.number, p.at, p.key, p.value
                       FROM wf.runs r JOIN wf.published p ON p.run = r.run
                       WHERE r.name = $1 ORDER BY p.key, p.number DESC";
            let rows = self.pool.read(sql, &|| args_of![run.as_str()]).await?;
            let latest = self.all(&rows, read::published)?;
            Ok(latest.into_iter().map(|published| (published.key, published.value)).collect())
        }
        .boxed()
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move {
            let args = || args_of![run.as_str(), key, after.map_or(-1, |after| after as i64), most(limit)];
            self.all(&self.pool.read(read::PUBLISHED, &args).await?, read::published)
        }
        .boxed()
    }

    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>> {
        async move {
            let kinds: Vec<_> = filter.kinds.iter().map(|kind| *kind as i16).collect();
            let kinds = (!kinds.is_empty()).then_some(kinds);
            let args = || {
                args_of![
                    run.as_str(),
                    filter.after as i64,
                    filter.step.map(|step| step.0 as i64),
                    kinds.clone(),
                    most(limit)
                ]
            };
            self.all(&self.pool.read(read::TRANSCRIPT, &args).await?, read::transcript)
        }
        .boxed()
    }

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>> {
        async move {
            let sql = "SELECT t.text FROM wf.runs r JOIN wf.transcripts t ON t.run = r.run
                       WHERE r.name = $1 AND t.step = $2 AND t.kind = $3 ORDER BY t.id DESC LIMIT 1";
            let args = || args_of![run.as_str(), step.0 as i64, TranscriptKind::Heartbeat as i16];
            self.one(&self.pool.read(sql, &args).await?, |row| row.text(0))
        }
        .boxed()
    }
}

impl Extras for PostgresStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let digest = Digest::of(bytes);
            let known = "SELECT 1 FROM wf.modules WHERE digest = $1";
            if !self.pool.read(known, &|| args_of![digest]).await?.is_empty() {
                return Ok(digest);
            }
            self.pool
                .write(
                    "INSERT INTO wf.modules (digest, name, added_at, length, bytes)
                     VALUES ($1, $2, wf.now_1($3), $4, $5) ON CONFLICT DO NOTHING",
                    &|| args_of![digest, name, self.set_now(), bytes.len() as i64, bytes.to_vec()],
                )
                .await?;
            Ok(digest)
        }
        .boxed()
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let rows = self
                .pool
                .read("SELECT bytes FROM wf.modules WHERE digest = $1", &|| args_of![digest])
                .await?;
            match self.one(&rows, |row| row.bytes(0))? {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    place: self.place().to_owned(),
                    reason: format!("module {digest} has other bytes than it had"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>> {
        async move {
            let sql = format!("{} WHERE digest = $1", read::MODULE);
            self.one(&self.pool.read(&sql, &|| args_of![digest]).await?, read::module)
        }
        .boxed()
    }

    fn module_named<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<ModuleInfo>>> {
        async move {
            let sql = format!("{} WHERE name = $1 ORDER BY added_at DESC, digest LIMIT 1", read::MODULE);
            self.one(&self.pool.read(&sql, &|| args_of![name]).await?, read::module)
        }
        .boxed()
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        async move {
            let sql = format!("{} ORDER BY name COLLATE \"C\", added_at DESC, digest", read::MODULE);
            self.all(&self.pool.read(&sql, &|| Vec::new()).await?, read::module)
        }
        .boxed()
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        async move {
            let sql = "SELECT wf.delete_unused_modules_1($1)";
            let (rows, _) = self.pool.write(sql, &|| args_of![before]).await?;
            Ok(self.number(&rows)? as usize)
        }
        .boxed()
    }

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        async move {
            let numbers =
                |number: &dyn Fn(&NewTranscript) -> i64| lines.iter().map(number).collect::<Vec<_>>();
            let token = token()?;
            self.pool
                .write("SELECT wf.transcribe_1($1, $2, $3, $4, $5, $6, $7, $8, $9)", &|| {
                    args_of![
                        run.as_str(),
                        numbers(&|line| line.step.0 as i64),
                        numbers(&|line| millis(line.at)),
                        numbers(&|line| i64::from(line.attempt)),
                        lines.iter().map(|line| line.kind as i16).collect::<Vec<_>>(),
                        lines.iter().map(|line| line.text.clone()).collect::<Vec<_>>(),
                        TranscriptKind::Heartbeat as i16,
                        token.clone(),
                        self.set_now(),
                    ]
                })
                .await?;
            self.forget_tokens(&token).await;
            Ok(())
        }
        .boxed()
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        async move {
            let text = reply.as_str();
            self.pool
                .write(
                    "INSERT INTO wf.answers (key, at, reply, bytes) VALUES ($1, $2, $3, $4) ON CONFLICT (key)
                     DO UPDATE SET at = excluded.at, reply = excluded.reply, bytes = excluded.bytes",
                    &|| args_of![key, at, text, text.len() as i64],
                )
                .await?;
            // The sum reads an index; it is not worth that each time.
            if key.0[0].is_multiple_of(32) {
                let bytes = KEPT_ANSWERS_BYTES as i64;
                self.pool.write("SELECT wf.bound_answers_1($1)", &|| args_of![bytes]).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        async move {
            let sql = "SELECT at, reply FROM wf.answers WHERE key = $1";
            let rows = self.pool.read(sql, &|| args_of![key]).await?;
            self.one(&rows, |row| Ok((row.time(0)?, Json::parse(row.text(1)?).map_err(|_| strange("JSON"))?)))
        }
        .boxed()
    }

    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        async move {
            let sql = "WITH d AS (DELETE FROM wf.answers WHERE at < $1 RETURNING 1) SELECT count(*) FROM d";
            let (rows, _) = self.pool.write(sql, &|| args_of![before]).await?;
            Ok(self.number(&rows)? as usize)
        }
        .boxed()
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        async move {
            let (rows, doubt) = self
                .pool
                .write(
                    "SELECT wf.put_schedule_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                    &|| read::schedule_args(&schedule, replace),
                )
                .await?;
            self.tell_due().await;
            match self.flag(&rows)? {
                None => Err(StoreError::NoSuchModule(schedule.module)),
                // It may be the one of the first try.
                Some(false) if doubt => Ok(self.schedules().await?.known.contains(&schedule)),
                Some(done) => Ok(done),
            }
        }
        .boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>> {
        async move {
            let sql = format!("{} ORDER BY name", read::SCHEDULE);
            let rows = self.pool.read(&sql, &|| Vec::new()).await?;
            let mut schedules = Schedules::default();
            for row in &rows {
                match read::schedule(row) {
                    Ok(schedule) => schedules.known.push(schedule),
                    Err(strange) => {
                        let name = row.text(0).map_err(|strange| self.damaged(strange))?;
                        schedules.unreadable.push((name, strange.0));
                    }
                }
            }
            Ok(schedules)
        }
        .boxed()
    }

    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>> {
        async move {
            let sql = "UPDATE wf.schedules SET next_at = $2 WHERE name = $1 RETURNING 1";
            let (rows, _) = self.pool.write(sql, &|| args_of![name, next.map(millis)]).await?;
            self.tell_due().await;
            Ok(!rows.is_empty())
        }
        .boxed()
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let sql = "DELETE FROM wf.schedules WHERE name = $1 RETURNING 1";
            let (rows, doubt) = self.pool.write(sql, &|| args_of![name]).await?;
            Ok(!rows.is_empty() || doubt)
        }
        .boxed()
    }

    fn due_schedules(&self, limit: usize) -> BoxFuture<'_, Result<DueSchedules>> {
        async move {
            let sql = format!(
                "{} WHERE next_at IS NOT NULL AND next_at <= wf.now_1($1) ORDER BY next_at LIMIT $2",
                read::SCHEDULE
            );
            let rows = self.pool.read(&sql, &|| args_of![self.set_now(), most(limit)]).await?;
            let mut schedules = DueSchedules::default();
            for row in &rows {
                match read::schedule(row) {
                    Ok(schedule) => schedules.due.push(schedule),
                    // One that cannot be read stops none of the others.
                    Err(strange) => {
                        let name = row.text(0).map_err(|strange| self.damaged(strange))?;
                        schedules.unreadable.push((name, strange.0));
                    }
                }
            }
            let next = "SELECT min(s.next_at) - n.now FROM (SELECT wf.now_1($1) AS now) n JOIN wf.schedules s
                        ON s.next_at IS NOT NULL AND s.next_at > n.now GROUP BY n.now";
            let rows = self.pool.read(next, &|| args_of![self.set_now()]).await?;
            schedules.next_in_ms = self.one(&rows, |row| row.int(0))?.map(|next| next as u64);
            Ok(schedules)
        }
        .boxed()
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        async move {
            let mut jobs = Jobs::default();
            let run = fire.run.as_ref().map(|run| jobs.new_run(run)).transpose()?;
            let blobs = jobs.blobs;
            let (rows, doubt) = self
                .pool
                .write("SELECT code, wake FROM wf.fire_1($1, $2, $3, $4::jsonb, $5, $6, $7, $8)", &|| {
                    args_of![
                        fire.schedule.as_str(),
                        fire.due,
                        fire.next.map(millis),
                        run.clone(),
                        blobs.clone(),
                        fire.cancel.as_ref().map(RunId::as_str),
                        OVERTAKEN,
                        self.set_now(),
                    ]
                })
                .await?;
            let done = self.one(&rows, |row| Ok((row.value::<i32>(0)?, row.maybe_text(1)?)))?;
            let (code, wake) = done.unwrap_or_default();
            self.tell(wake).await;
            match (code, &fire.run) {
                (0, run) => {
                    if run.is_some() {
                        self.tell_due().await;
                    }
                    Ok(true)
                }
                (1, Some(run)) if doubt => self.is_there(&run.id, &run.rows).await,
                (1, _) => Ok(false),
                (code, Some(run)) => Err(new_refused(i64::from(code), &run.id, run.module)),
                (_, None) => Ok(false),
            }
        }
        .boxed()
    }

    fn commits(&self) -> u64 {
        self.pool.connector.commits.count()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String>> {
        async move { Ok(self.identity.clone()) }.boxed()
    }

    fn check_place(&self) -> Result<()> {
        match self.pool.connector.moved.load(Ordering::Relaxed) {
            true => Err(StoreError::Moved { place: self.place().to_owned() }),
            false => Ok(()),
        }
    }
}
