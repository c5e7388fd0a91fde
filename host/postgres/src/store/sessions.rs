//! Who may write.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_core::{Epoch, RunId, Timestamp};
use wfhost_store::*;

use crate::PostgresStore;
use crate::args::{Columns, args_of};
use crate::lanes::LANES;
use crate::read;

impl PostgresStore {
    /// A session that nobody has ended.
    pub(super) async fn session(&self, id: i64) -> Result<Option<Session>> {
        let sql = format!("SELECT {} FROM wf.sessions s WHERE s.id = $2", read::SESSION);
        let rows = self.pool.read(&sql, &|| args_of![self.ticks(), id]).await?;
        Ok(self.one(&rows, |row| read::session(row, 0))?.flatten())
    }

    pub(super) async fn end(&self, session: SessionId, if_over: bool, in_order: bool) -> Result<u64> {
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

    /// Nothing has to be known any more of a session that is over.
    fn over(&self, session: SessionId) {
        self.shared.notices.ended(session);
        self.shared.ended(session);
        self.claims.forget(session);
    }
}

impl Sessions for PostgresStore {
    fn now(&self) -> Timestamp {
        self.pool.connector.time.now()
    }

    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, Result<SessionId>> {
        async move {
            self.caught_up.get_or_try_init(|| crate::format::catch_up(&self.pool, true)).await?;
            let id = SessionId::fresh()?;
            let lease = i64::try_from(lease_ms).unwrap_or(i64::MAX >> 1);
            self.shared.began(id, lease_ms);
            self.pool
                .write("SELECT wf.begin_session_2($1, $2, $3, $4, $5, $6, $7, $8, $9)", &|| {
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
                .write_soon(
                    "SELECT k.until, k.now, (extract(epoch FROM clock_timestamp()) * 1000000)::int8
                     FROM wf.keep_1($1, $2) k",
                    &|| args_of![session.0 as i64, self.ticks()],
                )
                .await?;
            let kept = self.one(&rows, |row| Ok((row.int(0)?, row.int(1)?, row.int(2)?)))?;
            let Some((until, now, micros)) = kept else {
                self.over(session);
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
            let sql = "SELECT code, runs FROM wf.shed_2($1, $2, $3)";
            let args = |turn: i64| args_of![session.0 as i64, turn, keep.clone()];
            let rows = self.in_turn(session, true, sql, &args).await?;
            let runs = self.one(&rows, |row| row.int(1))?.unwrap_or_default() as u64;
            if runs > 0 {
                self.tell_due().await;
            }
            Ok(runs)
        }
        .boxed()
    }

    fn held(&self, session: SessionId) -> BoxFuture<'_, Result<Vec<(RunId, Epoch)>>> {
        async move {
            let sql = "SELECT r.name, x.epoch FROM wf.hot x JOIN wf.runs r USING (run) WHERE x.session = $1";
            let rows = self.pool.read(sql, &|| args_of![session.0 as i64]).await?;
            Ok(Self::readable(&rows, |row| Ok((read::id(row, 0)?, Epoch(row.int(1)? as u64)))))
        }
        .boxed()
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>> {
        async move {
            self.shared.notices.ended(session);
            let runs = self.end(session, false, true).await?;
            self.over(session);
            Ok(runs)
        }
        .boxed()
    }
}
