//! Work trees of git repositories, by the program `git`.
//!
//! Neither the user's configuration nor that of the repository, which an agent
//! can write, decides what is recorded: `git` reads no configuration of the
//! user or the machine, and runs no programs that a repository names. So files
//! that a filter stores elsewhere (git-lfs) are pointers in a work tree.

mod making;
mod record;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use self::making::Held;
#[cfg(test)]
pub(super) use self::making::mark_of;
pub(super) use self::making::{common_of, hold, is_whole, make, remove, tree_at};
pub(super) use self::record::{changes, tree};
use crate::farewell;

/// Bytes of what git writes that are read as a whole: names of settings, of which a repository has a few.
const OUTPUT_BYTES: usize = 1 << 20;
/// Bytes of its complaints that are read; the rest is thrown away.
const SAID_BYTES: usize = 4 << 10;

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

#[cfg(test)]
mod tests {
    use super::*;

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
