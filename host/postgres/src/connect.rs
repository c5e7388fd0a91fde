//! Connections to the server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, RowStream, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use wfhost_store::StoreError;

use crate::args::{Arg, Columns, size_of_all};
use crate::clock::Time;
use crate::errors::{Fault, classify, no_connection, spelled};
use crate::url::{Tls, Url};

/// Connections for what is no append, at most.
const POOLED: usize = 6;
/// Bytes of the largest row, about: a module, or what one commit of a run appends.
const LARGEST_ROW: usize = 64 << 20;
/// How long a server is waited for by who has no runs to lose, in milliseconds.
const PATIENCE: u64 = 2_000;
/// A statement has failed if the server says nothing for so long, neither how it was done nor another row of its
/// answer.
const STATEMENT: Duration = Duration::from_secs(15);
/// Bytes that pass in a millisecond, at least: what is large is on its way for longer.
const PASS: usize = 1 << 10;
/// The same for what a host cannot do without, which has a lease to lose: a part of that, between these. A connection
/// may lead nowhere without anybody being told.
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
const SOON_PART: u32 = 6;
/// What is done again because others were in the way is so up to this often.
pub(crate) const TRIES: u32 = 5;
/// Statements that a connection has prepared, at most.
const PREPARED: usize = 256;
/// The oldest server that has all that is used.
const OLDEST_SERVER: i32 = 140_000;

/// What is asked of the server for each connection. Plans do not depend on how large tables were when they
/// were made.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; SET enable_seqscan = off; \
    SET plan_cache_mode = force_generic_plan; SET jit = off; SET idle_in_transaction_session_timeout = '5s'; \
    SET lock_timeout = '10s'; SET client_min_messages = warning; SET bytea_output = hex";

/// Has a transaction take as long as it takes, whatever limits the role or the server has; not all servers have each of
/// them.
pub(crate) const UNHURRIED: &str = "SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')";

/// How the server behind a connection is told from others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub store: String,
}

/// Makes connections.
pub(crate) struct Connector {
    pub url: Url,
    tls: Option<MakeRustlsConnect>,
    pub time: Time,
    /// The identity of the store that was opened: a connection to another one is refused.
    known: Mutex<Option<Identity>>,
    /// Whether the store that answers is another one by now.
    pub moved: AtomicBool,
    /// How often one of the servers was made the primary, as far as that was seen.
    timeline: AtomicI64,
    /// What was committed by this handle.
    pub commits: Commits,
    /// Whether a server that may lose what it says is kept is good enough.
    pub relaxed: bool,
    /// See [`Connector::soon`], in milliseconds.
    soon: AtomicU64,
    /// A connection heard what another one said: they are connections of the server's, not of a pooler.
    direct: AtomicBool,
    /// Statements that were prepared were not there: connections are shared with others.
    shares: AtomicBool,
}

/// Counts what a handle commits.
#[derive(Debug, Default)]
pub(crate) struct Commits(AtomicU64);

impl Commits {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn about_to_be_made(&self) {
        abort_at("before", self.count() + 1);
    }

    pub fn made(&self) {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        abort_at("after", number);
    }
}

/// Lets a test kill the process at a chosen commit: `WFHOST_ABORT_AT=after-commit:7`.
#[cfg(debug_assertions)]
fn abort_at(point: &str, commit: u64) {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("WFHOST_ABORT_AT").ok());
    if wanted.as_ref().is_some_and(|wanted| *wanted == format!("{point}-commit:{commit}")) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
fn abort_at(_point: &str, _commit: u64) {}

/// A connection, which ends with this.
pub(crate) struct Conn {
    pub client: Client,
    pub pid: i32,
    /// Counts rows of answers.
    came: AtomicU64,
    driver: JoinHandle<()>,
    sent: Mutex<HashMap<String, Sent>>,
}

/// What a connection knows of a statement.
#[derive(Clone)]
enum Sent {
    Once,
    Prepared(Statement),
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a connection hears besides answers.
pub(crate) type Hear = Box<dyn Fn(tokio_postgres::Notification) + Send>;

impl Conn {
    fn sent(&self) -> std::sync::MutexGuard<'_, HashMap<String, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a statement; from now on that it was sent, if nothing is.
    fn sent_before(&self, sql: &str) -> Option<Sent> {
        let mut sent = self.sent();
        let known = sent.get(sql).cloned();
        if known.is_none() && sent.len() < PREPARED {
            sent.insert(sql.to_owned(), Sent::Once);
        }
        known
    }

    fn keep(&self, sql: &str, statement: &Statement) {
        self.sent().insert(sql.to_owned(), Sent::Prepared(statement.clone()));
    }

    fn forget(&self, sql: &str) {
        self.sent().remove(sql);
    }

    /// All rows of an answer.
    async fn all(&self, rows: RowStream) -> Result<Vec<Row>, tokio_postgres::Error> {
        let mut rows = std::pin::pin!(rows);
        let mut all = Vec::new();
        while let Some(row) = rows.try_next().await? {
            self.came.fetch_add(1, Ordering::Relaxed);
            all.push(row);
        }
        Ok(all)
    }

    /// What is done by this connection, unless nothing comes for so long; rows of an answer are something.
    async fn unless_silent<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        let mut before = self.came.load(Ordering::Relaxed);
        loop {
            if let Ok(answer) = tokio::time::timeout(limit, &mut answer).await {
                return Some(answer);
            }
            let came = self.came.load(Ordering::Relaxed);
            if std::mem::replace(&mut before, came) == came {
                return None;
            }
        }
    }
}

impl Connector {
    pub fn new(url: Url, time: Time, relaxed: bool) -> Result<Self, StoreError> {
        let tls = (url.tls != Tls::Disable)
            .then(|| tls_config(&url))
            .transpose()
            .map_err(|reason| StoreError::Insecure { place: url.place.clone(), reason })?;
        let moved = AtomicBool::new(false);
        let known = Mutex::default();
        let commits = Commits::default();
        let (tls, timeline) = (tls.map(MakeRustlsConnect::new), AtomicI64::new(0));
        let soon = AtomicU64::new(STATEMENT.as_millis() as u64);
        let (direct, shares) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { url, tls, time, known, moved, timeline, commits, relaxed, soon, direct, shares })
    }

    /// Within which time what a host cannot do without is answered, or the connection is given up.
    pub fn soon(&self) -> Duration {
        Duration::from_millis(self.soon.load(Ordering::Relaxed))
    }

    /// Whether connections are those of the server, as far as is known.
    pub fn set_direct(&self, direct: bool) {
        self.direct.store(direct, Ordering::Relaxed);
    }

    /// Sends a statement like [`query`]. What a connection sends again is prepared, unless others may use it as well,
    /// as behind a pooler: to plan a call anew takes the server as long as the rest of a lone step.
    pub async fn send(
        &self,
        conn: &Conn,
        sql: &str,
        args: &[Arg],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        if !self.direct.load(Ordering::Relaxed) || self.shares.load(Ordering::Relaxed) {
            return query_with(conn, sql, args).await;
        }
        let Some(known) = conn.sent_before(sql) else {
            return query_with(conn, sql, args).await;
        };
        let answer = async {
            let statement = match known {
                Sent::Prepared(statement) => statement,
                Sent::Once => {
                    let types: Vec<Type> = args.iter().map(|arg| arg.kind.clone()).collect();
                    let statement = conn.client.prepare_typed(sql, &types).await?;
                    conn.keep(sql, &statement);
                    statement
                }
            };
            let values = args.iter().map(|arg| &*arg.value as &(dyn ToSql + Sync));
            conn.all(conn.client.query_raw(&statement, values).await?).await
        };
        let error = match answer.await {
            Ok(rows) => return Ok(rows),
            Err(error) => error,
        };
        // If the statement is not there, or is to be planned anew, nothing was done.
        match error.code() {
            Some(&SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::DUPLICATE_PSTATEMENT) => {
                self.shares.store(true, Ordering::Relaxed);
            }
            Some(&SqlState::FEATURE_NOT_SUPPORTED) => conn.forget(sql),
            _ => return Err(error),
        }
        query_with(conn, sql, args).await
    }

    /// The store that connections have to lead to from now on.
    pub fn know(&self, identity: Identity) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// A connection to a server that can be written to.
    pub async fn connect(&self, hear: Option<Hear>) -> Result<Conn, StoreError> {
        let place = &self.url.place;
        let failed = |error| no_connection(place, &error);
        let patience = Duration::from_secs(10);
        let connecting = async {
            match &self.tls {
                None => {
                    let (client, connection) = self.url.config.connect(NoTls).await.map_err(failed)?;
                    Ok(driven(client, connection, hear))
                }
                Some(tls) => self.connect_tls(tls.clone(), hear).await,
            }
        };
        let conn = tokio::time::timeout(patience, connecting).await.map_err(|_| {
            StoreError::Unreachable { place: place.clone(), reason: "it does not answer".to_owned() }
        })??;
        let checking = async {
            conn.client.batch_execute(SETTINGS).await.map_err(failed)?;
            self.check(&conn).await
        };
        tokio::time::timeout(patience, checking)
            .await
            .map_err(|_| StoreError::Unreachable {
                place: place.clone(),
                reason: "it does not answer".to_owned(),
            })?
            .map(|pid| {
                let mut conn = conn;
                conn.pid = pid;
                conn
            })
    }

    async fn connect_tls<T>(&self, tls: T, hear: Option<Hear>) -> Result<Conn, StoreError>
    where
        T: MakeTlsConnect<Socket> + Send,
        T::TlsConnect: Send,
        T::Stream: Send + 'static,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let connected = self.url.config.connect(tls).await;
        let (client, connection) = connected.map_err(|error| no_connection(&self.url.place, &error))?;
        Ok(driven(client, connection, hear))
    }

    /// Looks whether the server is one that can be trusted with runs. Gives the number of its process.
    async fn check(&self, conn: &Conn) -> Result<i32, StoreError> {
        let place = &self.url.place;
        let unfit = |reason: String| StoreError::Unfit { place: place.clone(), reason };
        let asked = Instant::now();
        let row = query(
            conn,
            "SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('server_version_num')::int4,
                    current_setting('transaction_isolation'), current_setting('fsync'),
                    current_setting('full_page_writes'), current_setting('default_transaction_read_only'),
                    (extract(epoch FROM clock_timestamp()) * 1000000)::int8, current_setting('server_encoding'),
                    CASE WHEN pg_is_in_recovery() THEN 0
                         ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int8 END",
            Vec::new(),
        )
        .await
        .map_err(|error| classify(place, &error).into_error())?;
        let strange = |strange: crate::args::Strange| unfit(strange.0);
        let row = row.first().ok_or_else(|| unfit("it does not identify itself".to_owned()))?;
        let text = |column| row.text(column).map_err(strange);
        let version: i32 = row.value(2).map_err(strange)?;
        if version < OLDEST_SERVER {
            return Err(unfit(format!(
                "it is PostgreSQL {}; version 14 or later is required",
                version / 10_000
            )));
        }
        if row.value(1).map_err(strange)? {
            return Err(StoreError::Standby { place: place.clone() });
        }
        // After a failover the old primary may come back as if nothing had happened.
        let timeline = row.int(9).map_err(strange)?;
        if self.timeline.fetch_max(timeline, Ordering::Relaxed) > timeline {
            return Err(StoreError::Standby { place: place.clone() });
        }
        if text(6)? == "on" {
            return Err(StoreError::ReadOnly { place: place.clone() });
        }
        if text(3)? != "read committed" {
            return Err(unfit(format!("its transactions are `{}`, not `read committed`", text(3)?)));
        }
        if text(8)? != "UTF8" {
            return Err(unfit(format!("its encoding is {}, not UTF8", text(8)?)));
        }
        for (column, name) in [(4, "fsync"), (5, "full_page_writes")] {
            if !self.relaxed && text(column)? == "off" {
                return Err(unfit(format!("its `{name}` is off, so a crash could damage it")));
            }
        }
        self.time.saw(asked, row.int(7).map_err(strange)?);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known {
            let sql = format!("SELECT store FROM \"{}\".meta", self.url.schema);
            let store = match query(conn, &sql, Vec::new()).await {
                Ok(rows) => rows.first().and_then(|row| row.text(0).ok()),
                Err(error) if matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE)) => None,
                Err(error) => return Err(classify(place, &error).into_error()),
            };
            if store.as_ref() != Some(&known.store) {
                self.moved.store(true, Ordering::Relaxed);
                return Err(StoreError::Moved { place: place.clone() });
            }
        }
        row.value(0).map_err(strange)
    }
}

fn driven<S, T>(client: Client, mut connection: Connection<S, T>, hear: Option<Hear>) -> Conn
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let driver = tokio::spawn(async move {
        let mut messages =
            std::pin::pin!(futures_util::stream::poll_fn(move |cx| connection.poll_message(cx)));
        while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
            if let (AsyncMessage::Notification(notification), Some(hear)) = (message, &hear) {
                hear(notification);
            }
        }
    });
    Conn { client, pid: 0, came: AtomicU64::new(0), driver, sent: Mutex::default() }
}

/// Sends a statement and reads its answer, in one round trip.
pub(crate) async fn query(conn: &Conn, sql: &str, args: Vec<Arg>) -> Result<Vec<Row>, tokio_postgres::Error> {
    query_with(conn, sql, &args).await
}

async fn query_with(conn: &Conn, sql: &str, args: &[Arg]) -> Result<Vec<Row>, tokio_postgres::Error> {
    let typed = args.iter().map(|arg| (&*arg.value as &(dyn ToSql + Sync), arg.kind.clone()));
    conn.all(conn.client.query_typed_raw(sql, typed).await?).await
}

/// Reads in a transaction that may take any time. Behind a pooler a setting lasts for a transaction only.
async fn read_unhurried(conn: &Conn, sql: &str, args: &[Arg]) -> Result<Vec<Row>, tokio_postgres::Error> {
    conn.client.batch_execute(&format!("BEGIN READ ONLY; {UNHURRIED}")).await?;
    let read = query_with(conn, sql, args).await;
    // Nothing was changed: either end is the same. A connection that is lost has ended it.
    if read.as_ref().map_or_else(|error| error.as_db_error().is_some(), |_| true) {
        conn.client.batch_execute("ROLLBACK").await?;
    }
    read
}

/// For how long so many bytes are on their way, at most.
const fn on_its_way(bytes: usize) -> Duration {
    Duration::from_millis((bytes / PASS) as u64)
}

/// Gives an answer up if nothing of it comes for some time, besides that which the parameters take.
pub(crate) async fn within<T>(
    place: &str,
    conn: &Conn,
    limit: Duration,
    args: &[Arg],
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Fault> {
    let limit = limit.saturating_add(on_its_way(size_of_all(args)));
    match conn.unless_silent(limit, answer).await {
        Some(Ok(rows)) => Ok(rows),
        Some(Err(error)) => Err(classify(place, &error)),
        None => {
            let reason = format!("it did not answer within {} s", limit.as_secs_f32());
            Err(Fault::Lost(StoreError::Unreachable { place: place.to_owned(), reason }))
        }
    }
}

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

/// Puts names of tables and functions into a schema: `wf` stands for it.
pub(crate) fn in_schema(sql: &str, schema: &str) -> String {
    sql.replace("wf.", &format!("\"{schema}\"."))
}

/// Up to so many, so that those who were in each other's way are not again.
pub(crate) fn jitter(most: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers all wait alike.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % most.max(1)
}

fn tls_config(url: &Url) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| spelled(&error))?;
    let builder = builder.dangerous();
    let verifier: Arc<dyn ServerCertVerifier> = match (url.tls, &url.root_certificate) {
        (Tls::Prefer, None) => Arc::new(Unverified(provider)),
        (_, Some(file)) => {
            let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let certificates = rustls::pki_types::pem::PemObject::pem_slice_iter(&pem)
                .collect::<Result<Vec<CertificateDer<'static>>, _>>()
                .map_err(|error| format!("{}: {error}", file.display()))?;
            let mut roots = rustls::RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(certificates);
            if added == 0 {
                return Err(format!("{} has no certificate", file.display()));
            }
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| spelled(&error))?
        }
        (_, None) => Arc::new(Verifier::new(provider).map_err(|error| spelled(&error))?),
    };
    Ok(builder.with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Encrypts without verifying the server: `sslmode=prefer` promises no more.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
