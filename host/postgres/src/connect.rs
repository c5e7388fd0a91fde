//! Connections to the server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, RowStream, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use wfhost_store::StoreError;

use crate::args::{Arg, Columns, size_of_all};
use crate::clock::Time;
use crate::errors::{Fault, classify, no_connection};
use crate::tls::tls_config;
use crate::url::{Tls, Url};

/// A statement has failed if the server says nothing for so long, neither how it was done nor another row of its
/// answer.
pub(crate) const STATEMENT: Duration = Duration::from_secs(15);
/// Bytes that pass in a millisecond, at least: what is large is on its way for longer.
const PASS: usize = 1 << 10;
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
    pub soon: AtomicU64,
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
    pub async fn unless_silent<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
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

pub(crate) async fn query_with(
    conn: &Conn,
    sql: &str,
    args: &[Arg],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let typed = args.iter().map(|arg| (&*arg.value as &(dyn ToSql + Sync), arg.kind.clone()));
    conn.all(conn.client.query_typed_raw(sql, typed).await?).await
}

/// Reads in a transaction that may take any time. Behind a pooler a setting lasts for a transaction only.
pub(crate) async fn read_unhurried(
    conn: &Conn,
    sql: &str,
    args: &[Arg],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    conn.client.batch_execute(&format!("BEGIN READ ONLY; {UNHURRIED}")).await?;
    let read = query_with(conn, sql, args).await;
    // Nothing was changed: either end is the same. A connection that is lost has ended it.
    if read.as_ref().map_or_else(|error| error.as_db_error().is_some(), |_| true) {
        conn.client.batch_execute("ROLLBACK").await?;
    }
    read
}

/// For how long so many bytes are on their way, at most.
pub(crate) const fn on_its_way(bytes: usize) -> Duration {
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
