//! Runs in a PostgreSQL database, which any number of hosts on any number of machines share.
//!
//! What is written is one call of a function on the server ([`functions-1.sql`]), each a transaction of its own:
//! whole, or not at all. Appends of many runs share a call. Nothing is committed under a session that was fenced, as
//! each batch locks a row that the one who fences removes.
//!
//! [`PostgresStore`] is a [`Store`](wfhost_store::Store) like the one in a file: `wfhost --db postgres://...` takes it,
//! and programs that embed wfhost give it to `wfhost::HostOptions::new`.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use wfhost_postgres::{PostgresOptions, PostgresStore};
//! use wfhost_store::{RunFilter, RunState, SharedStore};
//!
//! # async fn example() -> wfhost_store::Result<()> {
//! let url = "postgres://wfhost:secret@db.example.com/workflows?sslmode=verify-full";
//! let store: SharedStore = Arc::new(PostgresStore::open(url, &PostgresOptions::default()).await?);
//! // `wfhost::HostOptions::new(store)` is what a host that drives runs is made of. The store itself tells what there is.
//! let waiting = RunFilter { states: vec![RunState::Waiting], ..RunFilter::default() };
//! let waiting: Vec<_> = store.runs(waiting).await?.into_iter().map(|run| (run.id, run.waiting)).collect();
//! # Ok(())
//! # }
//! ```
//!
//! [`functions-1.sql`]: https://github.com/wfhost/wfhost/blob/main/host/postgres/src/functions-1.sql

mod access;
mod args;
mod beginnings;
mod clock;
mod company;
mod connect;
mod copy;
mod errors;
mod format;
mod jobs;
mod lanes;
mod look;
mod notify;
mod pool;
mod read;
mod store;
mod tls;
mod turns;
mod url;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, Once, PoisonError};

use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use wfhost_store::{Clock, Result, StoreError, Synchronous};

use crate::args::{Strange, args_of};
use crate::beginnings::Beginnings;
use crate::connect::Connector;
use crate::lanes::{Lanes, Shared};
use crate::notify::Notices;
use crate::pool::Pool;
use crate::turns::Turns;
use crate::url::Url;

pub use crate::format::{Formats, Migrate};
pub use crate::look::Server;
pub use crate::url::{is_url, without_password};

/// How a database is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// With [`Synchronous::Normal`] a server is taken, too, that may lose what it said was kept.
    pub synchronous: Synchronous,
    pub migrate: Migrate,
    /// If the URL has none.
    pub password: Option<String>,
    /// Another time than that of the server: for tests.
    pub clock: Option<Arc<dyn Clock>>,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { synchronous, migrate, password: _, clock: _ } = self;
        write!(f, "PostgresOptions({synchronous:?}, {migrate:?})")
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { synchronous: Synchronous::default(), migrate: Migrate::Yes, password: None, clock: None }
    }
}

/// Runs in a PostgreSQL database.
pub struct PostgresStore {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    lanes: Lanes,
    beginnings: Beginnings,
    identity: String,
    /// Counts claims of what is due.
    looks: AtomicUsize,
    claims: Turns,
    /// Counts what sessions tell of the slots that they need.
    slot_turns: AtomicU64,
    /// Whether it was looked that places only grow.
    caught_up: OnceCell<()>,
    tasks: Mutex<Vec<AbortHandle>>,
    hears: Once,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.place())
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl PostgresStore {
    /// Opens a database, and makes its tables if they are not there and this is allowed. To be called within a
    /// runtime of tokio, which has to go on as long as the store does.
    pub async fn open(url: &str, options: &PostgresOptions) -> Result<Self> {
        let pool = pool(url, options)?;
        let identity = format::prepare(&pool, options.migrate).await?;
        pool.connector.know(identity.clone());
        let (notices, told) = Notices::new();
        let shared = Arc::new(Shared::new(Arc::clone(&pool.connector), notices));
        let tells = notify::tell_others(Arc::clone(&pool), identity.store.clone(), told);
        let tasks = Mutex::new(vec![tokio::spawn(tells).abort_handle()]);
        let (lanes, beginnings) = (Lanes::new(&shared), Beginnings::new(&pool));
        let (looks, claims, slot_turns) = (AtomicUsize::new(0), Turns::default(), AtomicU64::new(1));
        let (identity, hears, caught_up) = (identity.store, Once::new(), OnceCell::new());
        Ok(Self {
            shared,
            pool,
            lanes,
            beginnings,
            identity,
            looks,
            claims,
            slot_turns,
            caught_up,
            tasks,
            hears,
        })
    }

    /// The URL without its password.
    pub fn place(&self) -> &str {
        &self.pool.connector.url.place
    }

    /// Whether other hosts are heard; else the database is asked what they did.
    pub fn listens(&self) -> bool {
        self.shared.notices.listens()
    }

    /// Begins to hear other hosts. Who only looks at something does not.
    fn hear(&self) {
        self.hears.call_once(|| {
            let notices = Arc::clone(&self.shared.notices);
            let hears = notify::hear_others(Arc::downgrade(&self.pool), notices, self.identity.clone());
            let task = tokio::spawn(hears).abort_handle();
            self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        });
    }

    /// Whether a run of this id was here and was deleted.
    pub async fn was_deleted(&self, run: &wfhost_core::RunId) -> Result<bool> {
        let sql = "SELECT 1 FROM wf.runs WHERE name = $1 AND gone";
        Ok(!self.pool.read(sql, &|| args_of![run.as_str()]).await?.is_empty())
    }

    fn damaged(&self, strange: Strange) -> StoreError {
        StoreError::Damaged { place: self.place().to_owned(), reason: strange.0 }
    }
}

fn pool(url: &str, options: &PostgresOptions) -> Result<Arc<Pool>> {
    let time = clock::Time::new(options.clock.clone());
    let relaxed = options.synchronous == Synchronous::Normal;
    let mut url = Url::parse(url)?;
    if let (None, Some(password)) = (url.config.get_password(), &options.password) {
        url.config.password(password);
    }
    let connector = Connector::new(url, time, relaxed)?;
    Ok(Arc::new(Pool::new(Arc::new(connector))))
}

#[cfg(test)]
mod tests {
    use wfhost_store::conformance::owner;
    use wfhost_store::{Fence, Kept, SessionId, Sessions};

    use super::*;

    #[tokio::test]
    async fn nothing_is_known_any_more_of_sessions_that_are_over() {
        let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
        let store = PostgresStore::open(&private_postgres::fresh_url(), &options).await.unwrap();
        let lost = |session: SessionId| store.shared.lose(session);
        let ended = store.begin_session(&owner(1), 60_000).await.unwrap();
        let fenced = store.begin_session(&owner(1), 60_000).await.unwrap();
        let lives = store.begin_session(&owner(1), 60_000).await.unwrap();
        // A connection of each was lost in the middle of an append.
        [ended, fenced, lives].into_iter().for_each(lost);
        assert_eq!(store.end_session(ended).await, Ok(0));
        assert_eq!(store.fence(fenced, Fence::Dead).await, Ok(0));
        for session in [ended, fenced] {
            assert_eq!(store.keep(session).await, Ok(Kept::Fenced));
        }
        assert!(matches!(store.keep(lives).await, Ok(Kept::Until { .. })));
        assert_eq!(store.shared.known_sessions(), [lives]);
    }
}
