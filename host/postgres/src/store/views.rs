//! Looking at runs.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row;
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Json, RunId, Step, Timestamp};
use wfhost_store::*;

use super::most;
use crate::PostgresStore;
use crate::args::{Columns, args_of, strange};
use crate::read;

impl PostgresStore {
    async fn snapshot_of(&self, run: &RunId) -> Result<Option<Snapshot>> {
        use crate::connect::{query, within};
        use crate::errors::Fault;
        use crate::pool::Silence;
        let name = || args_of![run.as_str()];
        let all = i64::MAX;
        let attempt = async |silence: Duration| {
            self.pool
                .with(async |conn| {
                    let ask = async |sql: &str, args| {
                        let sql = self.pool.sql(sql);
                        within(self.place(), conn, silence, &[], query(conn, &sql, args)).await
                    };
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
                .await
        };
        let read = match attempt(Silence::READS.first).await {
            // A connection that lay idle while the server began anew says so only when it is used.
            Err(Fault::Lost(_)) => attempt(Silence::READS.later).await,
            read => read,
        };
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

impl PostgresStore {
    /// What a statement about the runs of a filter gives; `statement`: made of the one that selects them.
    async fn found(&self, filter: &RunFilter, statement: fn(&str) -> String) -> Result<Vec<Row>> {
        let sql = statement(&read::runs(filter).0);
        let args = || {
            let mut args = args_of![self.ticks()];
            args.extend(read::runs(filter).1);
            args
        };
        match filter.patience_ms {
            Some(millis) => self.pool.read_within(millis, &sql, &args).await,
            None => self.pool.read_anew(&sql, &args).await,
        }
    }
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

    fn list_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Listed>> {
        async move {
            let mut listed = Listed::default();
            let mut filter = filter;
            loop {
                let rows = self.found(&filter, str::to_owned).await?;
                let (is_all, unreadable) = (rows.len() < filter.limit, listed.unreadable.len());
                for row in &rows {
                    let number = read::run_number(row).map_err(|strange| self.damaged(strange))?;
                    filter.before = Some(number);
                    match read::run_info(row) {
                        Ok(info) => listed.known.push(info),
                        Err(strange) => listed.unreadable.push((number, strange.0)),
                    }
                }
                // In the place of those that cannot be read come others.
                filter.limit = listed.unreadable.len() - unreadable;
                if is_all || filter.limit == 0 {
                    return Ok(listed);
                }
            }
        }
        .boxed()
    }

    fn count_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<u64>> {
        async move {
            let counted = |runs: &str| format!("SELECT count(*) FROM ({runs}) found");
            let rows = self.found(&filter, counted).await?;
            self.number(&rows).map(|count| count as u64)
        }
        .boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>> {
        async move {
            let sql = "SELECT state, count(*) FROM wf.hot GROUP BY state";
            let rows = self.pool.read_anew(sql, &|| Vec::new()).await?;
            Ok(Self::readable(&rows, |row| Ok((read::state(row, 0)?, row.int(1)? as u64))))
        }
        .boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Load>> {
        async move {
            let sql = "SELECT d.count, d.oldest, q.count, q.oldest, wf.now_1($1),
                              pg_database_size(current_database())
                       FROM (SELECT count(*) AS count, min(due_at) FILTER (WHERE due_at > 0) AS oldest
                             FROM wf.hot WHERE due_at IS NOT NULL AND due_at <= wf.now_1($1)) d,
                            (SELECT count(*) AS count, min(at) AS oldest FROM wf.questions WHERE NOT answered) q";
            let rows = self.pool.read_anew(sql, &|| args_of![self.set_now()]).await?;
            let loads = self.all(&rows, |row| {
                let now = row.int(4)?;
                let since = |at: Option<i64>| at.map(|at| now.saturating_sub(at).max(0) as u64);
                Ok(Load {
                    due: row.int(0)? as u64,
                    lag_ms: since(row.maybe_int(1)?),
                    questions: row.int(2)? as u64,
                    question_ms: since(row.maybe_int(3)?),
                    bytes: row.int(5)? as u64,
                    wal_bytes: 0,
                })
            })?;
            Ok(loads.into_iter().next().unwrap_or_default())
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
            let steps: Vec<_> = steps.iter().map(|step| stored(step.0)).collect();
            let sql = format!(
                "{} AND r.parent = $2 AND r.parent_step = ANY ($3) AND h.state IN (5, 6, 7)
                 ORDER BY array_position($3, r.parent_step)",
                read::run_columns()
            );
            let rows =
                self.pool.read_anew(&sql, &|| args_of![self.ticks(), parent.as_str(), steps.clone()]).await?;
            Ok(Self::readable(&rows, read::run_info))
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
            let args = || args_of![run.as_str(), stored(from), most(limit)];
            self.all(&self.pool.read_anew(read::LOGS, &args).await?, read::log)
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
            let args = || args_of![run.as_str(), after.map_or(-1, stored), most(limit)];
            self.all(&self.pool.read_anew(read::MESSAGES, &args).await?, read::message_out)
        }
        .boxed()
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        open_at: Option<Timestamp>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        async move {
            const OPEN: &str = "AND ($2 IS NULL OR q.deadline IS NULL OR q.deadline > $2)";
            let open_at = open_at.map(|at| stored(at.0));
            let rows = match run {
                Some(run) => {
                    let sql =
                        format!("{} AND r.name = $3 {OPEN} ORDER BY q.at, q.step LIMIT $1", read::QUESTION);
                    let args = || args_of![most(limit), open_at, run.as_str()];
                    self.pool.read_anew(&sql, &args).await?
                }
                None => {
                    let sql = format!("{} {OPEN} ORDER BY q.at, q.run, q.step LIMIT $1", read::QUESTION);
                    self.pool.read_anew(&sql, &|| args_of![most(limit), open_at]).await?
                }
            };
            Ok(Self::readable(&rows, read::question))
        }
        .boxed()
    }

    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>> {
        async move {
            let sql = format!("{} AND r.name = $1 AND q.step = $2", read::QUESTION);
            let rows = self.pool.read_anew(&sql, &|| args_of![run.as_str(), stored(step.0)]).await?;
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
            let rows = self.pool.read_anew(sql, &|| args_of![run.as_str()]).await?;
            let latest = self.all(&rows, read::published)?;
            Ok(latest.into_iter().map(|published| (published.key, published.value)).collect())
        }
        .boxed()
    }

    fn latest<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move {
            let args = || args_of![run.as_str(), key, after.map_or(-1, stored), most(limit)];
            self.all(&self.pool.read_anew(read::LATEST, &args).await?, read::published)
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
            let args = || args_of![run.as_str(), key, after.map_or(-1, stored), most(limit)];
            self.all(&self.pool.read_anew(read::PUBLISHED, &args).await?, read::published)
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
                    stored(filter.after),
                    filter.step.map(|step| stored(step.0)),
                    kinds.clone(),
                    most(limit)
                ]
            };
            self.all(&self.pool.read_anew(read::TRANSCRIPT, &args).await?, read::transcript)
        }
        .boxed()
    }

    fn transcript_end<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<u64>> {
        async move {
            let sql =
                "SELECT (SELECT t.id FROM wf.transcripts t WHERE t.run = r.run ORDER BY t.id DESC LIMIT 1)
                       FROM wf.runs r WHERE r.name = $1";
            let rows = self.pool.read(sql, &|| args_of![run.as_str()]).await?;
            Ok(self.one(&rows, |row| row.maybe_int(0))?.flatten().unwrap_or_default() as u64)
        }
        .boxed()
    }

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>> {
        async move {
            let sql = "SELECT t.text FROM wf.runs r JOIN wf.transcripts t ON t.run = r.run
                       WHERE r.name = $1 AND t.step = $2 AND t.kind = $3 ORDER BY t.id DESC LIMIT 1";
            let args = || args_of![run.as_str(), stored(step.0), TranscriptKind::Heartbeat as i16];
            self.one(&self.pool.read_anew(sql, &args).await?, |row| row.text(0))
        }
        .boxed()
    }
}
