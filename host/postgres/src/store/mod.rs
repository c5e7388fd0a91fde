//! The contract of stores, a file for each part of it.

mod extras;
mod journals;
mod limits;
mod mail;
mod open;
mod outbox;
mod sessions;
mod views;
mod work;

use serde_json::Value;
use tokio_postgres::Row as SqlRow;
use wfhost_core::RunId;
use wfhost_store::*;

use crate::PostgresStore;
use crate::args::{Columns, Read, args_of};
use crate::notify::Told;

/// What was posted is remembered so long, in milliseconds, in case somebody does not know whether it was.
const POSTS_MS: i64 = 3_600_000;

impl PostgresStore {
    pub(super) fn ticks(&self) -> Option<i64> {
        self.pool.connector.time.set_ticks()
    }

    pub(crate) fn set_now(&self) -> Option<i64> {
        self.pool.connector.time.set_now()
    }

    pub(crate) fn all<T>(&self, rows: &[SqlRow], read: impl Fn(&SqlRow) -> Read<T>) -> Result<Vec<T>> {
        rows.iter().map(read).collect::<Read<_>>().map_err(|strange| self.damaged(strange))
    }

    /// The same without those that cannot be read: they hide no others.
    pub(crate) fn readable<T>(rows: &[SqlRow], read: impl Fn(&SqlRow) -> Read<T>) -> Vec<T> {
        rows.iter().filter_map(|row| read(row).ok()).collect()
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
    pub(super) async fn tell(&self, wake: Option<String>) {
        let told = wake.and_then(|wake| serde_json::from_str::<Value>(&wake).ok());
        if let Some(told) = told.as_ref().and_then(Told::read) {
            self.shared.notices.tell(told, true);
            self.shared.notices.flush().await;
        }
    }

    /// Has whoever has the run look at it, or all hosts if nobody has it.
    pub(super) async fn tell_of(&self, run: &RunId, to: Option<u64>) {
        self.shared.notices.tell(Told { run: Some(run.clone()), to }, true);
        self.shared.notices.flush().await;
    }

    /// Has all hosts look for what is due.
    pub(super) async fn tell_due(&self) {
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
