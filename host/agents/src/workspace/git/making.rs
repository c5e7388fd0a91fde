//! Making a work tree of a repository, all of it or none, and taking it away.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::{Overrides, Own, beside, git, read, without_programs};

/// How often is looked whether another process has done with a repository.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A repository of which no other work tree is made or taken away at this time: `git worktree add` fails beside another
/// one.
pub(in crate::workspace) struct Held {
    /// Where all of its work trees are recorded.
    common: PathBuf,
    /// Locked for this process (flock(2)), and for the programs that it starts: one that outlives its host still has
    /// it. None where the file system has no locks.
    file: Option<File>,
    /// Attempts of this process are let in one after another. It ends after the lock, for which the next one need not
    /// wait then.
    _turn: OwnedMutexGuard<()>,
}

impl Held {
    /// The lock, as what a program of git inherits and does not touch.
    pub(super) fn stdin(&self) -> Stdio {
        let file = self.file.as_ref().and_then(|file| file.try_clone().ok());
        file.map_or_else(Stdio::null, Stdio::from)
    }
}

fn lock_of(common: &Path) -> Arc<tokio::sync::Mutex<()>> {
    static LOCKS: Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(locks.entry(common.to_owned()).or_default())
}

/// The directory that a repository shares with all of its work trees. Its path is absolute.
pub(in crate::workspace) async fn common_of(directory: &Path) -> Result<PathBuf, String> {
    let mut path = read(directory, &["rev-parse", "--path-format=absolute", "--git-common-dir"]).await?;
    path.pop_if(|last| *last == b'\n');
    Ok(OsString::from_vec(path).into())
}

/// Waits until nobody else makes a work tree of a repository, however long that takes.
pub(in crate::workspace) async fn hold(common: PathBuf) -> Arc<Held> {
    let turn = lock_of(&common).lock_owned().await;
    let mut file = File::open(&common).ok();
    while let Some(locking) = &file {
        match locking.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK_EVERY).await,
            Err(TryLockError::Error(_)) => file = None,
        }
    }
    Arc::new(Held { common, file, _turn: turn })
}

/// The end of the name of what stands beside a work tree as long as it is not whole. In it is where its repository is.
const MARK: &str = ".making";

pub(in crate::workspace) fn mark_of(directory: &Path) -> PathBuf {
    beside(directory, MARK)
}

/// The work tree that is at a path, or that a mark there is of.
pub(in crate::workspace) fn tree_at(path: &Path) -> Option<PathBuf> {
    if path.join(".git").is_file() {
        return Some(path.to_owned());
    }
    let name = path.file_name()?.as_bytes().strip_suffix(MARK.as_bytes())?;
    is_marked(path).then(|| path.with_file_name(OsStr::from_bytes(name)))
}

fn is_marked(mark: &Path) -> bool {
    mark.symlink_metadata().is_ok_and(|found| found.is_file())
}

/// Whether there is a work tree, and all of it.
pub(in crate::workspace) fn is_whole(directory: &Path) -> bool {
    // In this order: the mark is there before the tree is begun, and goes only when that is whole.
    directory.join(".git").exists() && !is_marked(&mark_of(directory))
}

/// Whether a work tree can be made at a path. What else is there is nobody's to throw away.
fn is_free(directory: &Path) -> bool {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => directory.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound),
    }
}

/// Makes a work tree, unless somebody else did so meanwhile. Whoever stops this may do so at any time: what is there
/// by then is thrown away by the next one.
pub(in crate::workspace) async fn make(
    held: &Arc<Held>,
    repository: &Path,
    directory: &Path,
    base: &str,
) -> Result<(), String> {
    if is_whole(directory) {
        return Ok(());
    }
    let path = directory.to_str().ok_or("its path is not UTF-8")?;
    if base.starts_with('-') {
        return Err(format!("`{base}` is not a commit"));
    }
    let mark = mark_of(directory);
    if is_marked(&mark) {
        discard(held, directory).await?;
    }
    if !is_free(directory) {
        return Err(format!("{path} is there and no work tree"));
    }
    let failed = |error: io::Error| format!("{}: {error}", mark.display());
    std::fs::write(&mark, held.common.as_os_str().as_bytes()).map_err(failed)?;
    let made = async {
        let own = Own::Repository(Arc::clone(held));
        let add = ["worktree", "add", "--quiet", "--no-checkout", "--detach", "--", path, base];
        git(repository, &own, &Overrides::new(), &add).await?;
        // What the repository's configuration includes may depend on the directory: so it is asked there.
        let off = without_programs(directory).await?;
        git(directory, &own, &off, &["reset", "--hard", "--quiet"]).await
    };
    if let Err(error) = made.await {
        // The mark stays: nobody takes what may be left for a work tree.
        let _ = discard(held, directory).await;
        return Err(error);
    }
    std::fs::remove_file(&mark).map_err(failed)
}

/// Throws a work tree away that is not whole: git itself may not know it.
async fn discard(held: &Arc<Held>, directory: &Path) -> Result<(), String> {
    let (owned, held) = (directory.to_owned(), Arc::clone(held));
    // This goes on if nobody waits for it any more, and keeps the repository as long.
    let removed = tokio::task::spawn_blocking(move || {
        let removed = std::fs::remove_dir_all(&owned);
        (held, removed)
    });
    let (held, removed) = removed.await.map_err(|error| error.to_string())?;
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    // The repository may not have it either.
    let _ = forget(&held, directory).await;
    Ok(())
}

/// Has a repository take away a work tree, or forget one that is not there any more.
async fn forget(held: &Arc<Held>, directory: &Path) -> Result<(), String> {
    let path = directory.to_str().ok_or("its path is not UTF-8")?;
    let own = Own::Repository(Arc::clone(held));
    let remove = ["worktree", "remove", "--force", "--force", "--", path];
    git(&held.common, &own, &Overrides::new(), &remove).await.map(drop)
}

/// Takes a work tree away, also one that is not whole. Its repository may be gone.
pub(in crate::workspace) async fn remove(directory: &Path) -> Result<(), String> {
    match std::fs::read(mark_of(directory)) {
        Ok(common) => discard(&hold(OsString::from_vec(common).into()).await, directory).await,
        Err(_) => forget(&hold(common_of(directory).await?).await, directory).await,
    }
}
