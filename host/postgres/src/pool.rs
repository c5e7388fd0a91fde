//! Connections that are shared by all that is no append, and what is tried again when one is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use wfhost_store::StoreError;

use crate::args::{Arg, size_of_all};
use crate::connect::{
    Conn, Connector, STATEMENT, TRIES, in_schema, jitter, on_its_way, query, query_with, read_unhurried,
    within,
};
use crate::errors::{Fault, classify, spelled};

/// Connections for what is no append, at most.
const POOLED: usize = 6;
/// Bytes of the largest row, about: a module, or what one commit of a run appends.
const LARGEST_ROW: usize = 64 << 20;
/// How long a server is waited for by who has no runs to lose, in milliseconds.
const PATIENCE: u64 = 2_000;
/// How long the server may say nothing to what a host cannot do without, which has a lease to lose: a part of that, between these. A connection
/// may lead nowhere without anybody being told.
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const SOON_PART: u32 = 6;

/// How long the server may say nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    pub first: Duration,
    /// At further tries.
    pub later: Duration,
}

impl Silence {
    fn of(limit: Duration) -> Self {
        Self { first: limit, later: limit }
    }

    /// A row is told of when it is there as a whole. That a connection which was just made leads somewhere is known,
    /// so that it is given the time that the largest row takes.
    pub const READS: Self =
        Self { first: STATEMENT, later: STATEMENT.saturating_add(on_its_way(LARGEST_ROW)) };

    /// For a person who waits, and can do something else.
    const ANY: Self = Self { first: Duration::MAX, later: Duration::MAX };
}

/// Which plan a statement is carried out by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// That which the connection made before: for what is looked up by keys, or done by a function.
    Kept,
    /// One for the tables as they are: for lists, where the best way depends on how many there are of what.
    Anew,
    /// The same, and without a limit of time on the side of the server.
    Unhurried,
}

/// Connections for reads, and for writes that are no appends.
pub(crate) struct Pool {
    pub connector: Arc<Connector>,
    idle: Mutex<Vec<Conn>>,
    permits: Semaphore,
    /// How long a server that cannot be reached is waited for, in milliseconds.
    patience: AtomicU64,
}

impl Pool {
    pub fn new(connector: Arc<Connector>) -> Self {
        Self {
            connector,
            idle: Mutex::default(),
            permits: Semaphore::new(POOLED),
            patience: AtomicU64::new(PATIENCE),
        }
    }

    fn place(&self) -> &str {
        &self.connector.url.place
    }

    /// Puts names of tables into the schema.
    pub fn sql(&self, sql: &str) -> String {
        in_schema(sql, &self.connector.url.schema)
    }

    fn take(&self) -> Option<Conn> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|conn| !conn.client.is_closed());
        idle.pop()
    }

    fn put(&self, conn: Conn) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }

    /// Waits for the server as long as a session lasts, but not for an answer of one connection.
    pub fn be_patient(&self, lease_ms: u64) {
        self.patience.fetch_max(lease_ms.min(30_000), Ordering::Relaxed);
        let soon = Duration::from_millis(lease_ms) / SOON_PART;
        let soon = soon.clamp(SOON.0, SOON.1).as_millis() as u64;
        self.connector.soon.fetch_min(soon, Ordering::Relaxed);
    }

    /// Until when the server is waited for.
    pub fn until(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.patience.load(Ordering::Relaxed))
    }

    /// Does something with a connection.
    pub async fn with<T>(&self, work: impl AsyncFnOnce(&Conn) -> Result<T, Fault>) -> Result<T, Fault> {
        let Ok(_permit) = self.permits.acquire().await else {
            let (place, reason) = (self.place().to_owned(), "it was closed".to_owned());
            return Err(Fault::NoConnection(StoreError::Unreachable { place, reason }));
        };
        let conn = match self.take() {
            Some(conn) => conn,
            None => self.connector.connect(None).await.map_err(Fault::NoConnection)?,
        };
        let done = work(&conn).await;
        match done {
            // The others may lead nowhere, too; each would be waited for.
            Err(Fault::Lost(_) | Fault::NoConnection(_)) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            _ => self.put(conn),
        }
        done
    }

    /// Asks once.
    pub async fn once(
        &self,
        limit: Duration,
        plan: Plan,
        sql: &str,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, Fault> {
        let asking = async |conn: &Conn| match plan {
            Plan::Kept => {
                within(self.place(), conn, limit, &args, self.connector.send(conn, sql, &args)).await
            }
            Plan::Anew => within(self.place(), conn, limit, &args, query_with(conn, sql, &args)).await,
            Plan::Unhurried => {
                within(self.place(), conn, limit, &args, read_unhurried(conn, sql, &args)).await
            }
        };
        self.with(asking).await
    }

    /// Tries again what does no harm if it is done twice. `args` are made for each try. Tells besides whether it
    /// is unknown what became of an earlier one, also if the last one failed.
    async fn persist(
        &self,
        silence: Silence,
        plan: Plan,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<(Vec<Row>, bool), (StoreError, bool)> {
        let sql = self.sql(sql);
        let until = self.until();
        let (mut doubt, mut lost, mut raced) = (false, 0_u32, 0);
        loop {
            let limit = if lost == 0 { silence.first } else { silence.later };
            let wait = match self.once(limit, plan, &sql, args()).await {
                Ok(rows) => return Ok((rows, doubt)),
                Err(Fault::Refused(error)) => return Err((error, doubt)),
                Err(Fault::Again(error)) => {
                    raced += 1;
                    if raced >= TRIES {
                        return Err((error, doubt));
                    }
                    Duration::from_millis(jitter(20))
                }
                Err(Fault::Lost(error)) => {
                    // What a server says that it has no room for is not done.
                    doubt |= !matches!(error, StoreError::Crowded { .. });
                    lost += 1;
                    if lost > 1 && Instant::now() > until {
                        return Err((error, doubt));
                    }
                    // A connection that lay idle while the server began anew says so only when it is used.
                    Duration::from_millis(if lost == 1 { 0 } else { 100 + jitter(100) })
                }
                Err(Fault::NoConnection(error)) => {
                    lost += 1;
                    if !error.is_passing() || Instant::now() > until {
                        return Err((error, doubt));
                    }
                    Duration::from_millis((50 << lost.min(4)) + jitter(100))
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// It is not known what became of a write.
    pub fn unknown(&self, error: &StoreError) -> StoreError {
        StoreError::Unknown { place: self.place().to_owned(), reason: spelled(error) }
    }

    /// Reads.
    pub async fn read(
        &self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>, StoreError> {
        self.read_in(Silence::READS, Plan::Kept, sql, args).await
    }

    /// Reads, by the plan that suits the tables as they are now.
    pub async fn read_anew(
        &self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>, StoreError> {
        self.read_in(Silence::READS, Plan::Anew, sql, args).await
    }

    /// The same for what somebody waits for however long it takes the server.
    pub async fn read_at_leisure(
        &self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>, StoreError> {
        self.read_in(Silence::ANY, Plan::Unhurried, sql, args).await
    }

    /// Reads what takes the server no time.
    pub async fn read_soon(
        &self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>, StoreError> {
        self.read_in(Silence::of(self.connector.soon()), Plan::Kept, sql, args).await
    }

    async fn read_in(
        &self,
        silence: Silence,
        plan: Plan,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>, StoreError> {
        // Nothing was to be changed: whether an earlier try was carried out does not matter.
        let read = self.persist(silence, plan, sql, args).await;
        read.map(|(rows, _)| rows).map_err(|(error, _)| error)
    }

    /// Reads, unless that takes the server longer than so many milliseconds.
    pub async fn read_within(
        &self,
        millis: u64,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<Vec<Row>, StoreError> {
        let sql = self.sql(sql);
        // Zero were no limit. Behind a pooler a setting lasts for a transaction only.
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {}",
            millis.clamp(1, i32::MAX.unsigned_abs().into())
        );
        let place = self.place();
        let attempt = async |silence: Duration| {
            self.with(async |conn| {
                let reading = async {
                    let failed = |error| classify(place, &error);
                    conn.client.batch_execute(&begin).await.map_err(failed)?;
                    let read = query(conn, &sql, args()).await;
                    if read.as_ref().is_err_and(|error| error.as_db_error().is_none()) {
                        return read.map_err(failed);
                    }
                    // Nothing was changed: either end is the same.
                    conn.client.batch_execute("ROLLBACK").await.map_err(failed)?;
                    read.map_err(|error| match error.code() {
                        Some(&SqlState::QUERY_CANCELED) => Fault::Refused(StoreError::TooLong { millis }),
                        _ => failed(error),
                    })
                };
                let limit = silence.saturating_add(Duration::from_millis(millis));
                conn.unless_silent(limit, reading).await.unwrap_or_else(|| {
                    let reason = "it does not answer".to_owned();
                    Err(Fault::Lost(StoreError::Unreachable { place: place.to_owned(), reason }))
                })
            })
            .await
        };
        match attempt(Silence::READS.first).await {
            // A connection that lay idle while the server began anew says so only when it is used.
            Err(Fault::Lost(_)) => attempt(Silence::READS.later).await.map_err(Fault::into_error),
            read => read.map_err(Fault::into_error),
        }
    }

    /// A write that does no harm if it is done twice. The flag tells that it may have been.
    pub async fn write(
        &self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<(Vec<Row>, bool), StoreError> {
        self.write_in(STATEMENT, sql, args).await
    }

    /// Until when, by the server's clock, somebody waits for what becomes of a write with these parameters.
    pub fn in_time(&self, args: &[Arg]) -> Option<i64> {
        self.connector.time.server_in(STATEMENT.saturating_add(on_its_way(size_of_all(args))))
    }

    /// The same for what takes the server no time.
    pub async fn write_soon(
        &self,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<(Vec<Row>, bool), StoreError> {
        self.write_in(self.connector.soon(), sql, args).await
    }

    async fn write_in(
        &self,
        limit: Duration,
        sql: &str,
        args: &(dyn Fn() -> Vec<Arg> + Sync),
    ) -> Result<(Vec<Row>, bool), StoreError> {
        self.connector.commits.about_to_be_made();
        let written = self.persist(Silence::of(limit), Plan::Kept, sql, args).await;
        let written = written.map_err(|(error, doubt)| match error {
            StoreError::Unreachable { .. } => self.unknown(&error),
            // An earlier try may have succeeded, whatever is said of the last one.
            error if doubt => self.unknown(&error),
            error => error,
        })?;
        self.connector.commits.made();
        Ok(written)
    }
}
