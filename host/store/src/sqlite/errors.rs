//! SQLite's errors in the store's words.

use std::os::unix::fs::MetadataExt;

use rusqlite::{Error, ErrorCode, ffi};

use crate::StoreError;

/// What a failure of SQLite means to the user of the database at `path`.
pub(super) fn classify(path: &str, error: Error) -> StoreError {
    let place = path.to_owned();
    let reason = error.to_string();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Locked { by: who_locks(path), place }
        }
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { place },
        Some(ErrorCode::DiskFull) => StoreError::Full { place },
        // The file that is shared by those who have the database open cannot grow.
        _ if extended == Some(ffi::SQLITE_IOERR_SHMSIZE) => StoreError::Full { place },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { place, reason },
        Some(ErrorCode::NotADatabase) => StoreError::Foreign { place },
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => StoreError::CannotOpen { place, reason },
        _ => StoreError::Failed { place, reason },
    }
}

/// The byte of the `-shm` file that a writer locks (`WALINDEX_LOCK_OFFSET` in SQLite's wal.c).
const WRITE_LOCK: &str = "120";

/// The process that keeps others from writing, as far as the system tells.
///
/// The list of locks is read instead of asking by `fcntl`: to open and close a file of the database
/// would give up the locks that SQLite has on it.
fn who_locks(path: &str) -> Option<String> {
    let shared = std::fs::metadata(format!("{path}-shm")).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locker(&locks, shared.ino())?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

/// Who has the write lock of the file with that inode, from a text like /proc/locks (proc(5)).
fn locker(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        // 1: POSIX  ADVISORY  WRITE 1234 fd:01:5678 120 120
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "POSIX", _, "WRITE", pid, file, first, ..] = fields[..] else { return None };
        let of_file = file.rsplit(':').next()?.parse() == Ok(inode);
        // Waiting ones have an arrow; a process of another PID namespace has the number 0.
        (of_file && first == WRITE_LOCK).then(|| pid.parse().ok()).flatten().filter(|pid| *pid > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_whichever_file_needs_room() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            let error = classify("a.db", Error::SqliteFailure(ffi::Error::new(code), None));
            assert!(matches!(error, StoreError::Full { .. }), "{error}");
        }
        let other = classify("a.db", Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_READ), None));
        assert!(matches!(other, StoreError::Failed { .. }), "{other}");
    }

    #[test]
    fn who_holds_the_lock_of_writers_is_found() {
        let locks = "1: POSIX  ADVISORY  READ 11 08:01:77 124 124\n\
                     2: FLOCK  ADVISORY  WRITE 12 08:01:77 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 13 08:01:78 120 120\n\
                     4: POSIX  ADVISORY  WRITE 14 08:01:77 120 120\n\
                     4: -> POSIX  ADVISORY  WRITE 15 08:01:77 120 120\n";
        assert_eq!(locker(locks, 77), Some(14));
        assert_eq!(locker(locks, 79), None);
    }
}
