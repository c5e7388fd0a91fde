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

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OwnedMutexGuard;

use super::{Changes, Paths};
use crate::farewell;

/// Bytes of a diff that are kept.
const DIFF_BYTES: usize = 8 << 20;
/// Bytes of what git writes that are read as a whole: names of settings, of which a repository has a few.
const OUTPUT_BYTES: usize = 1 << 20;
/// Bytes of its complaints that are read; the rest is thrown away.
const SAID_BYTES: usize = 4 << 10;
/// Bytes of a path with what stands before it, at most.
const LINE_BYTES: u64 = 64 << 10;

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

async fn git(directory: &Path, own: &Own, overrides: &Overrides, args: &[&str]) -> Result<Vec<u8>, String> {
    let name = args.first().unwrap_or(&"");
    let failed = |error: io::Error| format!("git {name}: {error}");
    let mut command = command(directory, own, overrides, args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running =
        Running::start(command, own.clone()).map_err(|error| format!("git cannot be started: {error}"))?;
    let pipes = running.child.as_mut().map(|child| (child.stdout.take(), child.stderr.take()));
    let (stdout, stderr) = pipes.unwrap_or_default();
    // What is too long is read to its end all the same: git waits until somebody does.
    let done = tokio::try_join!(begin(stdout, OUTPUT_BYTES + 1), begin(stderr, SAID_BYTES), running.wait());
    let (output, said, status) = done.map_err(failed)?;
    if !status.success() {
        return Err(format!("git {name}: {}", String::from_utf8_lossy(&said).trim()));
    }
    if output.len() > OUTPUT_BYTES {
        return Err(format!("git {name} wrote more than {} MiB", OUTPUT_BYTES >> 20));
    }
    Ok(output)
}

/// What git says about a repository or a work tree.
async fn read(directory: &Path, args: &[&str]) -> Result<Vec<u8>, String> {
    git(directory, &Own::Nothing, &Overrides::new(), args).await
}

/// The beginning of a stream. The rest is thrown away.
async fn begin(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if let Some(stream) = stream {
        let mut stream = stream.take(limit as u64);
        stream.read_to_end(&mut text).await?;
        tokio::io::copy(&mut stream.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(text)
}

/// Looks at each of the words that git writes, which end with a NUL, as they come.
async fn each_word(directory: &Path, args: &[&str], mut look: impl FnMut(&[u8])) -> Result<(), String> {
    let name = args.first().unwrap_or(&"");
    let failed = |error: io::Error| format!("git {name}: {error}");
    let mut command = command(directory, &Own::Nothing, &Overrides::new(), args);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let mut stdout = BufReader::new(child.stdout.take().ok_or("git has no output")?);
    let mut word = Vec::new();
    loop {
        word.clear();
        (&mut stdout).take(LINE_BYTES).read_until(0, &mut word).await.map_err(failed)?;
        match word.pop() {
            Some(0) => look(&word),
            Some(_) => return Err(format!("git {name} wrote a path that is too long")),
            None => break,
        }
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(format!("git {name}: {status}")) }
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
    let diff = |form: &[&'static str]| {
        let args = ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames"];
        let args = args.into_iter().chain(form.iter().copied()).map(str::to_owned);
        args.chain([before.to_owned(), after.clone(), "--".to_owned()]).collect::<Vec<_>>()
    };
    fn borrowed(args: &[String]) -> Vec<&str> {
        args.iter().map(String::as_str).collect()
    }
    // All of these may be as long as what the agent wrote: nothing is kept but what is told.
    let mut paths = Paths::default();
    let mut kind = None;
    let names = diff(&["--name-status", "-z"]);
    let each = |word: &[u8]| match kind.take() {
        None => kind = Some(String::from_utf8_lossy(word).into_owned()),
        Some(kind) => paths.add(|| format!("{kind} {}", String::from_utf8_lossy(word))),
    };
    each_word(directory, &borrowed(&names), each).await?;
    let counts = diff(&["--numstat", "-z"]);
    each_word(directory, &borrowed(&counts), |line| {
        // Binary files have `-`.
        let mut numbers = line.split(|byte| *byte == b'\t').map(|number| {
            std::str::from_utf8(number).ok().and_then(|number| number.parse::<usize>().ok()).unwrap_or(0)
        });
        paths.added += numbers.next().unwrap_or(0);
        paths.removed += numbers.next().unwrap_or(0);
    })
    .await?;
    let mut text = beginning(directory, &borrowed(&diff(&["-p"])), DIFF_BYTES + 1).await?;
    let is_cut = text.len() > DIFF_BYTES;
    if is_cut {
        // Whole lines, so that nothing is cut that would be known as a whole.
        let end = text[..DIFF_BYTES].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        text.truncate(end);
    }
    Ok(Changes { summary: paths.summary(is_cut), diff: String::from_utf8_lossy(&text).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::tests::peak;
    use super::*;

    /// A repository whose work tree is empty, and a tree with so many files of long names.
    fn many_files(repository: &Path, count: usize) -> String {
        use std::io::Write;
        let git = |args: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.args(args).current_dir(repository).stdin(Stdio::piped()).stdout(Stdio::piped());
            git.spawn().unwrap()
        };
        assert!(git(&["init", "-q"]).wait().unwrap().success());
        let mut import = git(&["fast-import", "--quiet", "--force"]);
        let mut input = std::io::BufWriter::new(import.stdin.take().unwrap());
        write!(input, "blob\nmark :1\ndata 2\nx\n\ncommit refs/heads/many\n").unwrap();
        write!(input, "committer t <t@example.com> 0 +0000\ndata 0\n").unwrap();
        let directory = "d".repeat(200);
        for number in 0..count {
            let within = format!("{directory}/{directory}/{directory}/{directory}/{}", number / 300);
            writeln!(input, "M 100644 :1 {within}/{number}").unwrap();
        }
        drop(input);
        assert!(import.wait().unwrap().success());
        let tree = git(&["rev-parse", "refs/heads/many^{tree}"]).wait_with_output().unwrap();
        String::from_utf8(tree.stdout).unwrap().trim().to_owned()
    }

    #[tokio::test]
    async fn of_many_changed_files_those_are_kept_that_are_told() {
        const COUNT: usize = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let before = many_files(dir.path(), COUNT);
        let peak_before = peak();
        let changes = changes(dir.path(), &before, dir.path().join(".git/i")).await.unwrap();
        let grown = peak() - peak_before;
        let summary = changes.summary.value();
        assert_eq!((&summary["changed"], &summary["removed"]), (&COUNT.into(), &COUNT.into()));
        assert_eq!(
            (&summary["added"], summary["files"].as_array().unwrap().len()),
            (&0.into(), super::super::PATHS)
        );
        assert!(summary["files"][0].as_str().unwrap().starts_with("D ddd"), "{}", summary["files"][0]);
        assert_eq!(summary["diff_truncated"], true);
        assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    }

    /// A warning for each of many files, say.
    #[tokio::test]
    async fn of_what_git_says_on_the_side_the_beginning_is_kept() {
        let text = "x".repeat(100);
        assert_eq!(begin(Some(text.as_bytes()), 10).await.unwrap().len(), 10);
        let mut long = tokio::io::repeat(b'x').take(64 << 20);
        assert_eq!(begin(Some(&mut long), SAID_BYTES).await.unwrap().len(), SAID_BYTES);
        assert_eq!(long.limit(), 0, "all of it is read, else git would wait");
    }
}
