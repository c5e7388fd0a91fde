//! What is in a work tree, and what changed in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncReadExt;

use super::super::{Changes, summary};
use super::{Index, Overrides, Own, command, git, read, without_programs};

/// Bytes of a diff that are kept.
const DIFF_BYTES: usize = 8 << 20;

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
