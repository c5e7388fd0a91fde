//! Work trees of git repositories, by the program `git`.
//!
//! Neither the user's configuration nor that of the repository, which an agent
//! can write, decides what is recorded: `git` reads no configuration of the
//! user or the machine, and runs no programs that a repository names. So files
//! that a filter stores elsewhere (git-lfs) are pointers in a work tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::OwnedMutexGuard;

use super::{Changes, summary};
use crate::farewell;

/// Bytes of a diff that are kept.
const DIFF_BYTES: usize = 8 << 20;

/// Settings that go before those of the repository.
const SETTINGS: [&str; 11] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.quotePath=true",
    "core.pager=cat",
    "diff.noprefix=false",
    "diff.mnemonicPrefix=false",
    "diff.renames=false",
    "color.ui=never",
    "submodule.recurse=false",
    "protocol.allow=never",
    "gc.auto=0",
];

/// Settings that go before those of the repository, by names that it has chosen.
type Overrides = Vec<(OsString, &'static str)>;

/// What a program of git has to itself as long as it runs, also if nobody waits for it any more.
#[derive(Clone)]
enum Own {
    Nothing,
    Index(Arc<Index>),
    Repository(Arc<Held>),
}

/// An index that nobody else uses. It goes with the last one that uses it.
struct Index(PathBuf);

impl Drop for Index {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        // Of a program that was killed while it wrote the index.
        let _ = std::fs::remove_file(beside(&self.0, ".lock"));
    }
}

/// A path whose last name is longer.
pub(super) fn beside(path: &Path, more: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(more);
    path.with_file_name(name)
}

/// What switches off the programs that the configuration of a repository names for its files: its own
/// one, and what that includes for this very directory.
async fn without_programs(directory: &Path) -> Result<Overrides, String> {
    let listed = read(directory, &["config", "--null", "--name-only", "--list"]).await?;
    // A name has two dots around it, and any characters: other dots as well.
    let named = |section: &'static str, key: &[u8]| {
        let rest = key.strip_prefix(section.as_bytes())?.strip_prefix(b".")?;
        let end = rest.iter().rposition(|byte| *byte == b'.')?;
        Some((section, rest[..end].to_vec()))
    };
    let keys = listed.split(|byte| *byte == 0);
    let found: BTreeSet<_> =
        keys.filter_map(|key| named("filter", key).or_else(|| named("hook", key))).collect();
    let mut overrides = Overrides::new();
    for (section, name) in found {
        let off: &[(&str, &str)] = match section {
            "filter" => &[("smudge", ""), ("clean", ""), ("process", ""), ("required", "false")],
            _ => &[("enabled", "false")],
        };
        for &(variable, value) in off {
            let mut key = format!("{section}.").into_bytes();
            key.extend([&name, format!(".{variable}").as_bytes()].concat());
            overrides.push((OsString::from_vec(key), value));
        }
    }
    Ok(overrides)
}

fn command(directory: &Path, own: &Own, overrides: &Overrides, args: &[&str]) -> Command {
    let mut command = Command::new("git");
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.arg("-C").arg(directory).args(args).kill_on_drop(true);
    // Settings of a repository around the host mean another one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_")) {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0").env("LC_ALL", "C");
    // Nothing is fetched, whatever `protocol.NAME.allow` says: a remote can name a program.
    command.env("GIT_ALLOW_PROTOCOL", "").env("GIT_NO_LAZY_FETCH", "1");
    // As variables: `-c` ends the name of a setting at the first `=`.
    command.env("GIT_CONFIG_COUNT", overrides.len().to_string());
    for (number, (key, value)) in overrides.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    if let Own::Index(index) = own {
        command.env("GIT_INDEX_FILE", &index.0);
    }
    command.stdin(match own {
        Own::Repository(held) => held.stdin(),
        Own::Nothing | Own::Index(_) => Stdio::null(),
    });
    command
}

/// A program that runs. If nobody waits for it any more it is killed, and what it has to itself is kept until it is
/// gone.
struct Running {
    child: Option<Child>,
    own: Own,
}

impl Running {
    fn start(mut command: Command, own: Own) -> io::Result<Self> {
        Ok(Self { child: Some(command.spawn()?), own })
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let child = self.child.as_mut().ok_or(ErrorKind::NotFound)?;
        let status = child.wait().await;
        self.child = None;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let own = std::mem::replace(&mut self.own, Own::Nothing);
        let _ = child.start_kill();
        farewell(async move {
            let _ = child.wait().await;
            drop(own);
        });
    }
}

/// All that comes.
async fn all(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

async fn git(directory: &Path, own: &Own, overrides: &Overrides, args: &[&str]) -> Result<Vec<u8>, String> {
    let mut command = command(directory, own, overrides, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let unusable = |error: io::Error| format!("git cannot be started: {error}");
    let mut running = Running::start(command, own.clone()).map_err(unusable)?;
    let pipes = running.child.as_mut().map(|child| (child.stdout.take(), child.stderr.take()));
    let (stdout, stderr) = pipes.unwrap_or_default();
    let done = tokio::try_join!(all(stdout), all(stderr), running.wait());
    let (stdout, stderr, status) = done.map_err(unusable)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(format!("git {}: {}", args.first().unwrap_or(&""), said.trim()));
    }
    Ok(stdout)
}

/// What git says about a repository or a work tree.
async fn read(directory: &Path, args: &[&str]) -> Result<Vec<u8>, String> {
    git(directory, &Own::Nothing, &Overrides::new(), args).await
}

/// The beginning of what git writes, of so many bytes at most. It is stopped then.
async fn beginning(directory: &Path, args: &[&str], limit: usize) -> Result<Vec<u8>, String> {
    let mut command = command(directory, &Own::Nothing, &Overrides::new(), args);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let failed = |error: std::io::Error| format!("git {}: {error}", args.first().unwrap_or(&""));
    let mut child = command.spawn().map_err(failed)?;
    let stdout = child.stdout.take().ok_or("git has no output")?;
    let mut text = Vec::new();
    stdout.take(limit as u64).read_to_end(&mut text).await.map_err(failed)?;
    if text.len() >= limit {
        child.kill().await.map_err(failed)?;
        return Ok(text);
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(text) } else { Err(format!("git {}: {status}", args.first().unwrap_or(&""))) }
}

/// How often is looked whether another process has done with a repository.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A repository of which no other work tree is made or taken away at this time: `git worktree add` fails beside another
/// one.
pub(super) struct Held {
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
    fn stdin(&self) -> Stdio {
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
pub(super) async fn common_of(directory: &Path) -> Result<PathBuf, String> {
    let mut path = read(directory, &["rev-parse", "--path-format=absolute", "--git-common-dir"]).await?;
    path.pop_if(|last| *last == b'\n');
    Ok(OsString::from_vec(path).into())
}

/// Waits until nobody else makes a work tree of a repository, however long that takes.
pub(super) async fn hold(common: PathBuf) -> Arc<Held> {
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

pub(super) fn mark_of(directory: &Path) -> PathBuf {
    beside(directory, MARK)
}

/// The work tree that is at a path, or that a mark there is of.
pub(super) fn tree_at(path: &Path) -> Option<PathBuf> {
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
pub(super) fn is_whole(directory: &Path) -> bool {
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
pub(super) async fn make(
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
pub(super) async fn remove(directory: &Path) -> Result<(), String> {
    match std::fs::read(mark_of(directory)) {
        Ok(common) => discard(&hold(OsString::from_vec(common).into()).await, directory).await,
        Err(_) => forget(&hold(common_of(directory).await?).await, directory).await,
    }
}

/// The tree of all that is in the work tree and not ignored. `index` is a file that nobody else uses.
pub(super) async fn tree(directory: &Path, index: PathBuf) -> Result<String, String> {
    let off = without_programs(directory).await?;
    let own = Own::Index(Arc::new(Index(index)));
    git(directory, &own, &off, &["add", "--all"]).await?;
    let tree = git(directory, &own, &off, &["write-tree"]).await?;
    Ok(String::from_utf8_lossy(&tree).trim().to_owned())
}

/// What changed since `before`. `index` is a file that nobody else uses.
pub(super) async fn changes(directory: &Path, before: &str, index: PathBuf) -> Result<Changes, String> {
    let after = tree(directory, index).await?;
    let diff = |form: &'static str| {
        let args =
            ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", form, "-z", before];
        let args: Vec<String> =
            args.iter().map(|&arg| arg.to_owned()).chain([after.clone(), "--".to_owned()]).collect();
        async move {
            let args: Vec<_> =
                args.iter().map(String::as_str).filter(|arg| form != "-p" || *arg != "-z").collect();
            match form {
                // It may be as long as all that the agent wrote.
                "-p" => beginning(directory, &args, DIFF_BYTES + 1).await,
                _ => read(directory, &args).await,
            }
        }
    };
    let names = diff("--name-status").await?;
    let counts = diff("--numstat").await?;
    let mut text = diff("-p").await?;
    if text.len() > DIFF_BYTES {
        // Whole lines, so that nothing is cut that would be known as a whole.
        let end = text[..DIFF_BYTES].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        text.truncate(end);
    }
    let words = |bytes: &[u8]| {
        let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
    };
    let paths = words(&names).chunks_exact(2).map(|pair| format!("{} {}", pair[0], pair[1])).collect();
    let (mut added, mut removed) = (0, 0);
    for line in words(&counts) {
        // Binary files have `-`.
        let mut numbers = line.split('\t').map(|number| number.parse::<usize>().unwrap_or(0));
        added += numbers.next().unwrap_or(0);
        removed += numbers.next().unwrap_or(0);
    }
    Ok(Changes { summary: summary(paths, added, removed), diff: String::from_utf8_lossy(&text).into_owned() })
}
