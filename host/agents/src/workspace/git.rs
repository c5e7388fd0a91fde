//! Work trees of git repositories, by the program `git`.
//!
//! Neither the user's configuration nor that of the repository, which an agent
//! can write, decides what is recorded: `git` reads no configuration of the
//! user or the machine, and runs no programs that a repository names. So files
//! that a filter stores elsewhere (git-lfs) are pointers in a work tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{Changes, summary};

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

/// What switches off the programs that the configuration of a repository names for its files: its own
/// one, and what that includes for this very directory.
async fn without_programs(directory: &Path) -> Result<Overrides, String> {
    let listed =
        git(directory, None, &Overrides::new(), &["config", "--null", "--name-only", "--list"]).await?;
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

fn command(directory: &Path, index: Option<&Path>, overrides: &Overrides, args: &[&str]) -> Command {
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
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    command.stdin(Stdio::null());
    command
}

async fn git(
    directory: &Path,
    index: Option<&Path>,
    overrides: &Overrides,
    args: &[&str],
) -> Result<Vec<u8>, String> {
    let output = command(directory, index, overrides, args).output().await;
    let output = output.map_err(|error| format!("git cannot be started: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git {}: {}", args.first().unwrap_or(&""), said.trim()));
    }
    Ok(output.stdout)
}

/// The beginning of what git writes, of so many bytes at most. It is stopped then.
async fn beginning(directory: &Path, args: &[&str], limit: usize) -> Result<Vec<u8>, String> {
    let mut command = command(directory, None, &Overrides::new(), args);
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

/// One work tree of a repository is made at a time: `git worktree add` fails beside another one.
fn lock_of(repository: &Path) -> Arc<tokio::sync::Mutex<()>> {
    static LOCKS: Mutex<BTreeMap<PathBuf, Arc<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(locks.entry(repository.to_owned()).or_default())
}

/// Makes sure that there is a work tree of the repository.
pub(super) async fn worktree(repository: &Path, directory: &Path, base: &str) -> Result<(), String> {
    let lock = lock_of(repository);
    let _held = lock.lock().await;
    if directory.join(".git").exists() {
        return Ok(());
    }
    let path = directory.to_str().ok_or("its path is not UTF-8")?;
    if base.starts_with('-') {
        return Err(format!("`{base}` is not a commit"));
    }
    let none = Overrides::new();
    let add = ["worktree", "add", "--quiet", "--no-checkout", "--detach", "--", path, base];
    git(repository, None, &none, &add).await?;
    // What the repository's configuration includes may depend on the directory: so it is asked there.
    let filled = match without_programs(directory).await {
        Ok(off) => git(directory, None, &off, &["reset", "--hard", "--quiet"]).await,
        Err(error) => Err(error),
    };
    if let Err(error) = filled {
        // Half of a work tree would be taken for all of it the next time.
        let _ = remove(directory).await;
        return Err(error);
    }
    Ok(())
}

/// Takes a work tree away. Its repository may be gone.
pub(super) async fn remove(directory: &Path) -> Result<(), String> {
    let path = directory.to_str().ok_or("its path is not UTF-8")?;
    let none = Overrides::new();
    let common = ["rev-parse", "--path-format=absolute", "--git-common-dir"];
    let common = git(directory, None, &none, &common).await?;
    let common = PathBuf::from(String::from_utf8_lossy(&common).trim());
    git(&common, None, &none, &["worktree", "remove", "--force", "--force", "--", path]).await.map(drop)
}

/// The tree of all that is in the work tree and not ignored.
pub(super) async fn tree(directory: &Path, index: &Path) -> Result<String, String> {
    let off = without_programs(directory).await?;
    let added = git(directory, Some(index), &off, &["add", "--all"]).await;
    let tree = match added {
        Ok(_) => git(directory, Some(index), &off, &["write-tree"]).await,
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_file(index);
    Ok(String::from_utf8_lossy(&tree?).trim().to_owned())
}

/// What changed since `before`. `index` is a file that nobody else uses.
pub(super) async fn changes(directory: &Path, before: &str, index: &Path) -> Result<Changes, String> {
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
                _ => git(directory, None, &Overrides::new(), &args).await,
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
