//! What SQLite does for an operation, in instructions of its machine: for tests of what may not grow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

/// The databases that are counted.
static COUNTED: Mutex<BTreeMap<PathBuf, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

/// Has all that is done in a database counted, if it is opened after this.
pub(crate) fn of(path: &Path) -> Arc<AtomicU64> {
    let mut counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(counted.entry(path.to_owned()).or_default())
}

pub(super) fn count(connection: &mut Connection, path: &Path) -> rusqlite::Result<()> {
    let counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(counter) = counted.get(path).map(Arc::clone) else { return Ok(()) };
    let count = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    connection.progress_handler(1, Some(count))
}
