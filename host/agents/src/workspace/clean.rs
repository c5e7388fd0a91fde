//! Removes the directories of runs that are gone.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use wfhost_core::RunId;

use super::{git, of_database};

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CleanedWorkspaces {
    /// Directories of runs.
    pub runs: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Removes the scratch directories and work trees below `root` (`workspaces` in
/// the data directory) of all runs of a database that `keep` does not want to keep.
/// What is no directory of a run stays; so does what cannot be removed. With `dry_run`
/// nothing is removed, and the result says what would be.
pub async fn clean_workspaces(
    root: &Path,
    database: &str,
    dry_run: bool,
    keep: impl AsyncFn(&RunId) -> bool,
) -> io::Result<CleanedWorkspaces> {
    let mut cleaned = CleanedWorkspaces::default();
    let entries = match std::fs::read_dir(root.join(of_database(database))) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(cleaned),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(run) = name.to_str().and_then(|name| name.parse::<RunId>().ok()) else { continue };
        if !entry.file_type()?.is_dir() || keep(&run).await {
            continue;
        }
        let directory = entry.path();
        let bytes = size(directory.clone()).await;
        if !dry_run {
            for tree in trees(&directory) {
                // The repository forgets it. Without a repository it is a directory like others.
                let _ = git::remove(&tree).await;
            }
            // Links are removed, not followed.
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
            if !removed.is_ok_and(|removed| removed.is_ok()) {
                continue;
            }
        }
        cleaned.runs += 1;
        cleaned.bytes += bytes;
    }
    Ok(cleaned)
}

/// The work trees within the directory of a run, also those that are not whole.
fn trees(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| git::tree_at(&entry.path())).collect()
}

async fn size(directory: PathBuf) -> u64 {
    fn of(directory: &Path) -> u64 {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.metadata() {
                Ok(data) if data.is_dir() => of(&entry.path()),
                Ok(data) => data.len(),
                Err(_) => 0,
            })
            .sum()
    }
    tokio::task::spawn_blocking(move || of(&directory)).await.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open, repository};
    use super::super::{Origin, WorkspaceConfig};
    use super::*;
    use wfhost_core::{Step, Timestamp};

    #[tokio::test]
    async fn directories_of_runs_that_are_gone_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        let scratch = WorkspaceConfig::Scratch { root: root.clone() };
        for (database, run) in [("d1", "gone"), ("d1", "kept"), ("d2", "gone")] {
            let run = run.parse().unwrap();
            let origin = Origin { run, database: database.to_owned(), begun_at: Timestamp(1) };
            let workspace = open(&scratch, "s", &origin, Step(1)).await.unwrap();
            std::fs::write(workspace.directory().unwrap().join("a"), "12345").unwrap();
        }
        let others = root.join("@d2/gone/s/a");
        let root = root.join("@d1");
        std::os::unix::fs::symlink(dir.path(), root.join("gone/s/link")).unwrap();
        std::fs::write(root.join("note"), "").unwrap();
        let keep = async |run: &RunId| run.as_str() == "kept";
        let clean =
            async |dry_run| clean_workspaces(&dir.path().join("w"), "d1", dry_run, keep).await.unwrap();
        let would = clean(true).await;
        assert!(would.runs == 1 && root.join("gone").is_dir());
        assert_eq!(clean(false).await, would);
        assert!(
            !root.join("gone").exists() && root.join("kept/s/a").is_file() && root.join("note").is_file()
        );
        assert!(dir.path().is_dir() && others.is_file());
        let nothing = clean_workspaces(&dir.path().join("nowhere"), "d1", false, keep).await.unwrap();
        assert_eq!(nothing, CleanedWorkspaces::default());
    }

    #[tokio::test]
    async fn a_repository_forgets_work_trees_that_are_gone_also_those_that_were_never_whole() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        let root = dir.path().join("w");
        let config =
            WorkspaceConfig::Worktree { repository: repository.clone(), base: None, root: root.clone() };
        let known = || std::fs::read_dir(repository.join(".git/worktrees")).into_iter().flatten().count();
        // The second one was begun, and of the third one there is nothing yet but the mark.
        for (run, is_marked, is_there) in
            [("whole", false, true), ("half", true, true), ("begun", true, false)]
        {
            let origin =
                Origin { run: run.parse().unwrap(), database: "d1".to_owned(), begun_at: Timestamp(1) };
            let workspace = open(&config, "tree", &origin, Step(1)).await.unwrap();
            let tree = workspace.directory().unwrap();
            if is_marked {
                std::fs::write(git::mark_of(tree), repository.join(".git").to_str().unwrap()).unwrap();
            }
            if !is_there {
                std::fs::remove_dir_all(tree).unwrap();
            }
        }
        assert_eq!(known(), 3);
        assert_eq!(clean_workspaces(&root, "d1", false, async |_| false).await.unwrap().runs, 3);
        assert_eq!((known(), std::fs::read_dir(root.join("@d1")).unwrap().count()), (0, 0));
    }
}
