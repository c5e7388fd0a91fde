//! The store in one SQLite file.

mod access;
mod append;
mod claims;
mod copy;
#[cfg(test)]
pub(crate) mod costs;
#[cfg(target_os = "linux")]
mod create;
mod errors;
mod extras;
mod format;
mod inbox;
mod journal;
mod journals;
mod limits;
#[cfg(test)]
mod migrations;
mod open;
mod outbox;
mod read;
mod schedules;
mod sessions;
mod views;
mod work;
mod write;
mod writer;

use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use wfhost_core::RunId;

use self::errors::classify;
use self::open::{FileId, connect};
pub use self::open::{SqliteOptions, Synchronous};
use self::writer::{Survives, Writer};
use crate::{Clock, Result, StoreError};

/// Steps of SQLite's machine between two looks at the time, where it is limited: some ten microseconds.
const LOOKS_AT_TIME_EVERY: std::ffi::c_int = 4_000;

/// So many short reads are left to the connection that writes: more than a process makes that lives for milliseconds.
const BRIEF_READS: usize = 32;

/// Runs in an SQLite file. Any number of processes may share it.
pub struct SqliteStore {
    path: String,
    readers: Mutex<Vec<Connection>>,
    /// Counts short reads.
    brief: AtomicUsize,
    /// Closed behind the readers: the last connection copies the log into the file, and one that has written to it need
    /// not sync the folder for that once more.
    writer: Writer,
    clock: Arc<dyn Clock>,
    /// Counts claims of what is due.
    turns: AtomicUsize,
    /// The files of the database and of its write-ahead log, once that is there.
    files: Mutex<(Option<FileId>, Option<FileId>)>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore({})", self.path)
    }
}

impl SqliteStore {
    /// Copies the database, as it is at one moment and while it is in use, into a file that is not there or is empty;
    /// another one is an error. Gives the size of the copy in bytes.
    pub fn backup(&self, file: &Path) -> Result<u64> {
        let text = file.display().to_string();
        let refused =
            |error: std::io::Error| StoreError::CannotOpen { place: text.clone(), reason: error.to_string() };
        let mut options = std::fs::OpenOptions::new();
        let there = options.write(true).create(true).truncate(false).mode(0o600).open(file);
        let there = there.and_then(|there| there.metadata()).map_err(refused)?;
        // SQLite fills an empty file that is there, and so keeps its mode.
        if there.len() > 0 {
            return Err(refused(std::io::ErrorKind::AlreadyExists.into()));
        }
        let copied = self.read(|c| c.execute("VACUUM INTO ?1", [&text]));
        if let Err(error) = copied {
            let _ = std::fs::remove_file(file);
            return Err(error);
        }
        let copy = std::fs::File::open(file).map_err(refused)?;
        copy.sync_all().and_then(|()| copy.metadata()).map(|data| data.len()).map_err(refused)
    }

    /// What SQLite finds wrong with the file; empty if nothing is.
    pub fn check(&self) -> Result<Vec<String>> {
        let found = self.read(|c| {
            let mut statement = c.prepare("PRAGMA integrity_check")?;
            statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// Whether a run of this id was here and was deleted.
    pub fn was_deleted(&self, run: &RunId) -> Result<bool> {
        self.read(|c| c.prepare_cached("SELECT 1 FROM deleted WHERE name = ?1")?.exists([run.as_str()]))
    }

    /// Reads what takes microseconds. In the beginning, and while nothing else is read beside it, the writer does that as
    /// long as it is free: most processes live for milliseconds, and each connection parses the whole schema. Those
    /// that live longer have a connection to read with, so that commits never wait for reads.
    fn read_briefly<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let is_alone = self.readers.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_alone
            && self.brief.fetch_add(1, Ordering::Relaxed) < BRIEF_READS
            && let Some(connection) = self.writer.connection()
        {
            return work(&connection).map_err(|error| classify(&self.path, error));
        }
        self.read(work)
    }

    /// Reads with a connection of the pool: never waits for the writer.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let failed = |error| classify(&self.path, error);
        let pooled = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect(Path::new(&self.path)).map_err(failed)?,
        };
        let result = work(&connection).map_err(failed);
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    /// The same, given up after that time.
    fn read_within<T>(
        &self,
        millis: u64,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let failed = |error| classify(&self.path, error);
        let pooled = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => connect(Path::new(&self.path)).map_err(failed)?,
        };
        let until = Instant::now() + Duration::from_millis(millis);
        connection
            .progress_handler(LOOKS_AT_TIME_EVERY, Some(move || Instant::now() > until))
            .map_err(failed)?;
        let result = work(&connection).map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => StoreError::TooLong { millis },
            _ => failed(error),
        });
        connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    /// The same, with all statements of `work` over one state of the database.
    fn read_at_once<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.read(|c| {
            c.prepare_cached("BEGIN")?.execute([])?;
            let result = work(c);
            // Nothing was changed: either end is the same.
            c.prepare_cached("COMMIT")?.execute([])?;
            result
        })
    }

    /// Writes by group commit; `work` reports SQLite's errors as its own.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        self.write_that(Survives::All, work).await
    }

    /// The same, of a session: when power is lost, whoever has it is gone with it.
    async fn write_session<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        self.write_that(Survives::Process, work).await
    }

    async fn write_that<T: Send + 'static>(
        &self,
        survives: Survives,
        mut work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.writer
            .write(survives, move |connection| {
                work(connection).map_err(|fault| match fault {
                    write::Fault::Refused(error) => error,
                    write::Fault::Sqlite(error) => classify(&path, error),
                })
            })
            .await
    }

    fn explain(&self, fault: write::Fault) -> StoreError {
        match fault {
            write::Fault::Refused(error) => error,
            write::Fault::Sqlite(error) => classify(&self.path, error),
        }
    }
}

/// Removes the oldest answers beyond `bytes`.
#[cfg(test)]
pub(super) fn bound_answers(c: &Connection, bytes: u64) {
    assert!(write::bound_answers(c, bytes).is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brief_read_takes_a_connection_of_its_own_only_if_the_writer_has_none_to_spare() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(&dir.path().join("w.db"), &SqliteOptions::default()).unwrap();
        let readers = || store.readers.lock().unwrap().len();
        let run = || store.read_briefly(|c| c.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)));
        assert_eq!((run(), readers()), (Ok(0), 0));
        let writing = store.writer.connection().unwrap();
        assert_eq!((run(), readers()), (Ok(0), 1), "it does not wait for the writer");
        drop(writing);
        assert_eq!((run(), readers()), (Ok(0), 1));
    }

    #[test]
    fn brief_reads_of_a_process_that_lives_on_have_a_connection_of_their_own() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = SqliteStore::open(&dir.path().join("w.db"), &SqliteOptions::default()).unwrap();
        for n in 0..=BRIEF_READS {
            assert_eq!(store.readers.lock().unwrap().len(), 0, "after {n}");
            store.read_briefly(|c| c.query_row("SELECT 1", [], |_| Ok(()))).unwrap();
        }
        assert_eq!(store.readers.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_backup_takes_the_place_of_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let [path, copy] = ["w.db", "copy.db"].map(|name| dir.path().join(name));
        let store = SqliteStore::open(&path, &SqliteOptions::default()).unwrap();
        store.backup(&copy).unwrap();
        let bytes = std::fs::read(&copy).unwrap();
        for there in [&copy, &path] {
            assert!(matches!(store.backup(there), Err(StoreError::CannotOpen { .. })));
        }
        assert_eq!(std::fs::read(&copy).unwrap(), bytes);
        assert!(path.exists());
    }
}
