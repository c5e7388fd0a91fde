//! What is kept besides runs.

use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row as SqlRow;
use wfhost_core::{Digest, Json, RunId, Timestamp};
use wfhost_store::schedule::Schedule;
use wfhost_store::*;

use super::{most, token};
use crate::PostgresStore;
use crate::args::{Arg, Columns, IntoArg, args_of, millis, strange};
use crate::jobs::Jobs;
use crate::lanes::new_refused;
use crate::read;

impl PostgresStore {
    /// These parameters, and until when somebody waits for what becomes of them.
    pub(super) fn in_time(&self, mut args: Vec<Arg>) -> Vec<Arg> {
        args.push(self.pool.in_time(&args).arg());
        args
    }
}

impl Extras for PostgresStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let digest = Digest::of(bytes);
            // What is there is not sent, and it is written down that it was put only if that was long ago.
            let known =
                "SELECT greatest(added_at, put_at) >= wf.now_1($2) - $3 FROM wf.modules WHERE digest = $1";
            let lately = BLOB_RENEWED_MS as i64;
            let rows = self.pool.read(known, &|| args_of![digest, self.set_now(), lately]).await?;
            match self.flag(&rows)? {
                Some(true) => return Ok(digest),
                Some(false) => {
                    let renew =
                        "UPDATE wf.modules SET put_at = greatest(put_at, wf.now_1($2)) WHERE digest = $1
                                 RETURNING 1";
                    let (rows, _) = self.pool.write(renew, &|| args_of![digest, self.set_now()]).await?;
                    if !rows.is_empty() {
                        return Ok(digest);
                    }
                }
                None => {}
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
                    reason: format!("the content of module {digest} has changed"),
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

    fn put_blob<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let (digest, lately) = (Digest::of(bytes), BLOB_RENEWED_MS as i64);
            let known = "SELECT 1 FROM wf.blobs WHERE digest = $1 AND added_at >= wf.now_1($2) - $3";
            if !self.pool.read(known, &|| args_of![digest, self.set_now(), lately]).await?.is_empty() {
                return Ok(digest);
            }
            let sql = "INSERT INTO wf.blobs AS b (digest, added_at, bytes) VALUES ($1, wf.now_1($2), $3)
                ON CONFLICT (digest) DO UPDATE SET added_at = greatest(b.added_at, excluded.added_at)";
            self.pool.write(sql, &|| args_of![digest, self.set_now(), bytes.to_vec()]).await?;
            Ok(digest)
        }
        .boxed()
    }

    fn blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let sql = "SELECT bytes FROM wf.blobs WHERE digest = $1";
            let rows = self.pool.read(sql, &|| args_of![digest]).await?;
            match self.one(&rows, |row| row.bytes(0))? {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    place: self.place().to_owned(),
                    reason: format!("the content stored under {digest} has changed"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn has_blobs(&self, before: Timestamp) -> BoxFuture<'_, Result<bool>> {
        async move {
            let sql = "SELECT 1 FROM wf.blobs WHERE added_at < $1 LIMIT 1";
            Ok(!self.pool.read(sql, &|| args_of![before]).await?.is_empty())
        }
        .boxed()
    }

    fn delete_blobs(&self, before: Timestamp, except: Vec<Digest>) -> BoxFuture<'_, Result<usize>> {
        async move {
            let except: Vec<_> = except.iter().map(|digest| digest.0.to_vec()).collect();
            let sql = "WITH gone AS (DELETE FROM wf.blobs WHERE added_at < $1 AND NOT digest = ANY ($2) RETURNING 1)
                SELECT count(*) FROM gone";
            let (rows, _) = self.pool.write(sql, &|| args_of![before, except.clone()]).await?;
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
                        numbers(&|line| stored(line.step.0)),
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
                    "SELECT wf.put_schedule_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                     WHERE wf.in_time_5($15)",
                    &|| self.in_time(read::schedule_args(&schedule, replace)),
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
            let sql = "UPDATE wf.schedules SET next_at = $2 WHERE name = $1 AND wf.in_time_5($3) RETURNING 1";
            let args = || self.in_time(args_of![name, next.map(millis)]);
            let (rows, _) = self.pool.write(sql, &args).await?;
            self.tell_due().await;
            Ok(!rows.is_empty())
        }
        .boxed()
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        async move {
            let sql = "DELETE FROM wf.schedules WHERE name = $1 AND wf.in_time_5($2) RETURNING 1";
            let (rows, doubt) = self.pool.write(sql, &|| self.in_time(args_of![name])).await?;
            Ok(!rows.is_empty() || doubt)
        }
        .boxed()
    }

    fn due_schedules(
        &self,
        behind: Option<(Timestamp, String)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DueSchedules>> {
        async move {
            let sql = format!(
                "{} WHERE next_at IS NOT NULL AND next_at <= wf.now_1($1) AND (next_at, name) > ($3, $4)
                 ORDER BY next_at, name LIMIT $2",
                read::SCHEDULE
            );
            let behind = behind.as_ref().map_or((-1, ""), |(at, name)| (millis(*at), name.as_str()));
            let args = || args_of![self.set_now(), most(limit), behind.0, behind.1];
            let rows = self.pool.read(&sql, &args).await?;
            let mut schedules = DueSchedules::default();
            if let Some(last) = rows.last().filter(|_| rows.len() == limit) {
                let place = |row: &SqlRow| Ok((Timestamp(row.int(10)? as u64), row.text(0)?));
                schedules.more = Some(place(last).map_err(|strange| self.damaged(strange))?);
            }
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
