//! Work trees of git repositories, by the program `git`.

use std::path::Path;

use tokio::process::Command;

use super::{Changes, summary};

/// Bytes of a diff that are kept.
const DIFF_BYTES: usize = 8 << 20;

async fn git(directory: &Path, index: Option<&Path>, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory).args(args).kill_on_drop(true);
    // Settings of a repository around the host mean another one.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    let output = command.stdin(std::process::Stdio::null()).output().await;
    let output = output.map_err(|error| format!("git cannot be started: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git {}: {}", args.first().unwrap_or(&""), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes sure that there is a work tree of the repository.
pub(super) async fn worktree(repository: &Path, directory: &Path, base: &str) -> Result<(), String> {
    if directory.join(".git").exists() {
        return Ok(());
    }
    let path = directory.to_str().ok_or("its path is not UTF-8")?;
    git(repository, None, &["worktree", "add", "--quiet", "--detach", path, base]).await.map(drop)
}

/// The tree of all that is in the work tree and not ignored.
pub(super) async fn tree(directory: &Path, index: &Path) -> Result<String, String> {
    git(directory, Some(index), &["add", "--all"]).await?;
    let tree = git(directory, Some(index), &["write-tree"]).await;
    let _ = std::fs::remove_file(index);
    Ok(tree?.trim().to_owned())
}

/// What changed since `before`.
pub(super) async fn changes(directory: &Path, before: &str) -> Result<Changes, String> {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".after.index");
    let after = tree(directory, &directory.with_file_name(name)).await?;
    let names = git(directory, None, &["diff", "--name-status", "--no-renames", before, &after]).await?;
    let counts = git(directory, None, &["diff", "--numstat", "--no-renames", before, &after]).await?;
    let mut diff = git(directory, None, &["diff", "--no-color", "--no-renames", before, &after]).await?;
    diff.truncate(diff.floor_char_boundary(DIFF_BYTES));
    let paths = names.lines().filter_map(|line| line.split_once('\t'));
    let paths = paths.map(|(kind, path)| format!("{kind} {path}")).collect();
    let (mut added, mut removed) = (0, 0);
    for line in counts.lines() {
        // Binary files have `-`.
        let mut numbers = line.split('\t').map(|number| number.parse::<usize>().unwrap_or(0));
        added += numbers.next().unwrap_or(0);
        removed += numbers.next().unwrap_or(0);
    }
    Ok(Changes { summary: summary(paths, added, removed), diff })
}
