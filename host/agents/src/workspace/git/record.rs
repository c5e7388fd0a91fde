//! What is in a work tree, and what changed in it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::super::{Changes, Paths};
use super::{Index, Overrides, Own, command, git, without_programs};

/// Bytes of a diff that are kept.
const DIFF_BYTES: usize = 8 << 20;
/// Bytes of a path with what stands before it, at most.
const LINE_BYTES: u64 = 64 << 10;

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
    let failed = |error: io::Error| format!("git {}: {error}", args.first().unwrap_or(&""));
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

/// The tree of all that is in the work tree and not ignored. `index` is a file that nobody else uses.
pub(in crate::workspace) async fn tree(directory: &Path, index: PathBuf) -> Result<String, String> {
    let off = without_programs(directory).await?;
    let own = Own::Index(Arc::new(Index(index)));
    git(directory, &own, &off, &["add", "--all"]).await?;
    let tree = git(directory, &own, &off, &["write-tree"]).await?;
    Ok(String::from_utf8_lossy(&tree).trim().to_owned())
}

/// What changed since `before`. `index` is a file that nobody else uses.
pub(in crate::workspace) async fn changes(
    directory: &Path,
    before: &str,
    index: PathBuf,
) -> Result<Changes, String> {
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
    use super::*;
    use crate::workspace::tests::peak;

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
            (&0.into(), crate::workspace::PATHS)
        );
        assert!(summary["files"][0].as_str().unwrap().starts_with("D ddd"), "{}", summary["files"][0]);
        assert_eq!(summary["diff_truncated"], true);
        assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    }
}
