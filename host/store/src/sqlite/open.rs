//! Opening a database.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::SqliteStore;
#[cfg(test)]
use super::costs;
#[cfg(target_os = "linux")]
use super::create;
use super::errors::classify;
use super::format::{check_format, look_first};
use super::writer::{self, Writer};
use crate::{Clock, Result, StoreError, SystemClock};

/// What a commit survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Synchronous {
    /// The loss of power.
    #[default]
    Full,
    /// The death of the process; a loss of power takes the last commits.
    Normal,
}

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub synchronous: Synchronous,
    /// The greatest size of the file in pages of 4 KiB; no limit if none.
    pub max_pages: Option<u32>,
    /// The time by which it judges.
    pub clock: Arc<dyn Clock>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { synchronous: Synchronous::default(), max_pages: None, clock: Arc::new(SystemClock) }
    }
}

impl SqliteStore {
    /// Opens a database, and makes it if it is not there: readable for its
    /// owner only, as are the directories that have to be made.
    pub fn open(path: &Path, options: &SqliteOptions) -> Result<Self> {
        let text = path.display().to_string();
        let refused =
            |error: std::io::Error| StoreError::CannotOpen { place: text.clone(), reason: error.to_string() };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(refused)?;
        }
        match make_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refused(error)),
            // A pipe would block, and a device never end.
            Err(_) if !path.metadata().map_err(refused)?.is_file() => {
                return Err(StoreError::Foreign { place: text.clone() });
            }
            _ => {}
        }
        let failed = |error| classify(&text, error);
        let connection = open_file(path).map_err(failed)?;
        look_first(&connection, &text)?;
        keep_log(&connection).map_err(failed)?;
        check_format(&connection, &text)?;
        let synchronous = match options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
        if let Some(pages) = options.max_pages {
            connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
                .map_err(failed)?;
        }
        let writer = Writer::new(text.clone(), connection).map_err(failed)?;
        let files = Mutex::new((file_id(path), None));
        let (readers, brief) = (Mutex::default(), AtomicUsize::new(0));
        let (clock, turns) = (Arc::clone(&options.clock), AtomicUsize::new(0));
        Ok(Self { writer, path: text, readers, brief, clock, turns, files })
    }
}

/// Makes the file of a database if there is none: whole where that can be had, else empty.
fn make_file(path: &Path) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    if std::fs::symlink_metadata(path).is_err() {
        let made = create::create(path, |c| check_format(c, &path.display().to_string()));
        if made.is_ok() {
            return Ok(());
        }
    }
    // SQLite gives the files beside it the mode of the database.
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

/// Which file something is, whatever its name: its device and its inode.
pub(super) type FileId = (u64, u64);

pub(super) fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open_file(path)?;
    keep_log(&connection)?;
    Ok(connection)
}

/// Opens the file without changing it.
fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(writer::wait_for_turn))?;
    #[cfg(test)]
    costs::count(&mut connection, path)?;
    connection.set_prepared_statement_cache_capacity(64);
    // A plan does not depend on the values: no statement is compiled again because they differ.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Has the file have a write-ahead log.
fn keep_log(connection: &Connection) -> rusqlite::Result<()> {
    // SQLite does not ask the busy handler while the mode of a new file changes.
    let mut tries = 0;
    loop {
        let switched = connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()));
        match switched {
            Err(error) if is_busy(&error) && writer::wait_for_turn(tries) => tries += 1,
            other => break other?,
        }
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -16_384)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}
