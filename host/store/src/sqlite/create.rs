//! A new database comes to its place whole, and with one sync of the disk instead of one for each of its steps.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, MAIN_DB};
use rustix::fs::{AtFlags, CWD, OFlags, linkat};

/// Where the header of a database says by which versions of its format it is written and read
/// (<https://sqlite.org/fileformat2.html#file_format_version_numbers>).
const VERSIONS: std::ops::Range<usize> = 18..20;
/// Those with a write-ahead log.
const WITH_LOG: [u8; 2] = [2, 2];

/// Makes what `fill` makes of an empty database where there is no file yet. An error says that it has to be made in its
/// place; one that another process has made meanwhile is none.
pub(super) fn create(path: &Path, fill: impl FnOnce(&Connection) -> crate::Result<()>) -> Result<()> {
    // Logs that were left of a database that somebody removed would be taken for those of this one. SQLite removes them
    // itself beside an empty file.
    for log in ["-wal", "-journal"] {
        let mut beside = OsString::from(path);
        beside.push(log);
        if std::fs::symlink_metadata(beside).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = nameless(folder.unwrap_or(Path::new(".")))?;
    file.write_all(&image(fill).map_err(Error::other)?)?;
    file.sync_all()?;
    // SQLite syncs the folder with the first commit.
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        done => Ok(done?),
    }
}

/// A file without a name, of which nothing is left if the process is killed.
fn nameless(folder: &Path) -> Result<File> {
    let flags = i32::try_from(OFlags::TMPFILE.bits()).map_err(Error::other)?;
    OpenOptions::new().write(true).mode(0o600).custom_flags(flags).open(folder)
}

/// The bytes of a new database.
fn image(fill: impl FnOnce(&Connection) -> crate::Result<()>) -> Result<Vec<u8>> {
    let mut memory = Connection::open_in_memory().map_err(Error::other)?;
    fill(&memory).map_err(Error::other)?;
    let mut bytes = memory.serialize(MAIN_DB).map_err(Error::other)?.to_vec();
    // One in memory has no log.
    let versions = bytes.get_mut(VERSIONS).ok_or(ErrorKind::UnexpectedEof)?;
    versions.copy_from_slice(&WITH_LOG);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Extras;
    use crate::sqlite::{SqliteOptions, SqliteStore};

    fn open(path: &Path) -> SqliteStore {
        SqliteStore::open(path, &SqliteOptions::default()).unwrap()
    }

    #[test]
    fn a_new_database_is_whole_before_anything_is_written_to_its_log() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("w.db");
        create(&path, |c| crate::sqlite::format::check_format(c, "w.db")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let c = Connection::open(&path).unwrap();
        let mode: String = c.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        let sound: String = c.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), sound.as_str()), ("wal", "ok"));
    }

    #[tokio::test]
    async fn the_log_of_a_database_that_was_removed_is_not_taken_for_that_of_the_new_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let [path, log, copy] = ["w.db", "w.db-wal", "copy"].map(|name| dir.path().join(name));
        let store = open(&path);
        let old = store.put_blob(b"old").await.unwrap();
        // As a process leaves it that is killed.
        std::fs::copy(&log, &copy).unwrap();
        assert!(copy.metadata().unwrap().len() > 0);
        drop(store);
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&copy, &log).unwrap();
        let store = open(&path);
        assert_eq!(store.blob(old).await.unwrap(), None);
        assert_eq!(store.check().unwrap(), [""; 0]);
    }

    #[test]
    fn processes_that_make_a_database_at_the_same_time_make_one() {
        let dir = tempfile::TempDir::new().unwrap();
        for round in 0..20 {
            let path = dir.path().join(format!("{round}.db"));
            let known = std::thread::scope(|scope| {
                let opening =
                    || futures_util::FutureExt::now_or_never(open(&path).identity()).unwrap().unwrap();
                let all: Vec<_> = (0..8).map(|_| scope.spawn(opening)).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
            });
            assert_eq!(known.len(), 1, "{known:?}");
        }
    }
}
