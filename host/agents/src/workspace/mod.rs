//! Where agents work: nowhere in particular, in a directory of the run's own,
//! in a directory of the user, or in a work tree of a git repository.

mod clean;
mod git;
mod snapshot;

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use wfhost_core::{FailureKind, Json, Step, Timestamp};

pub use self::clean::{CleanedWorkspaces, clean_workspaces};
use self::snapshot::Snapshot;
use super::guarded::clean_json;
use super::{CallFailure, Origin, Redactor, command};

/// How a workspace is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WorkspaceConfig {
    /// The directory of the host; nothing is recorded.
    None,
    /// An empty directory below `root` for each run; its steps share it.
    Scratch { root: PathBuf },
    /// A directory of the user, as it is.
    Dir { path: PathBuf },
    /// A work tree of a git repository below `root` for each run, with a
    /// detached head at `base` (`HEAD` if none).
    Worktree { repository: PathBuf, base: Option<String>, root: PathBuf },
}

/// A workspace during an attempt.
#[derive(Debug)]
pub(crate) struct Workspace {
    directory: Option<PathBuf>,
    before: Before,
    /// The name of this attempt: no other one of this machine has it.
    token: String,
}

/// What the workspace was like when the attempt began.
#[derive(Debug)]
enum Before {
    Unknown,
    Files(Arc<Snapshot>),
    Tree(String),
}

/// What an attempt changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Changes {
    /// `{files, changed, added, removed}`: some paths with `A`, `M` or `D` before them, how many they are, and lines; with
    /// `diff_truncated` if the diff is not all.
    pub summary: Json,
    /// A unified diff of what is text.
    pub diff: String,
}

/// Paths that a summary names.
const PATHS: usize = 200;

/// A workspace that is there, before an attempt.
#[derive(Debug)]
pub struct Site {
    name: String,
    place: Place,
    token: String,
}

#[derive(Debug)]
enum Place {
    None,
    Files(PathBuf),
    Worktree(PathBuf),
}

fn unusable(name: &str, error: impl std::fmt::Display) -> CallFailure {
    CallFailure::new(FailureKind::Unavailable, format!("the workspace `{name}` cannot be used: {error}"))
}

/// Makes the workspace `name` of a run, if it is not there. That may take long.
pub(crate) async fn make(
    config: &WorkspaceConfig,
    name: &str,
    origin: &Origin,
    step: Step,
) -> Result<Site, CallFailure> {
    let unusable = |error: String| unusable(name, error);
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| unusable(error.to_string()))?;
    let token = format!("{step}.{:016x}", u64::from_le_bytes(random));
    let place = match config {
        WorkspaceConfig::None => Place::None,
        WorkspaceConfig::Scratch { root } => Place::Files(below(root, origin, name).map_err(unusable)?),
        WorkspaceConfig::Dir { path } => Place::Files(path.clone()),
        WorkspaceConfig::Worktree { repository, base, root } => {
            let directory = below(root, origin, "").map_err(unusable)?.join(name);
            // What an attempt before it left behind may be making it.
            command::settled(&directory).await;
            let base = base.as_deref().unwrap_or("HEAD");
            git::worktree(repository, &directory, base).await.map_err(unusable)?;
            Place::Worktree(directory)
        }
    };
    Ok(Site { name: name.to_owned(), place, token })
}

impl Site {
    /// Takes note of what is in it. From here on changes are those of the attempt.
    pub(crate) async fn open(self) -> Result<Workspace, CallFailure> {
        let Self { name, place, token } = self;
        let unusable = |error: String| unusable(&name, error);
        if let Place::Files(directory) | Place::Worktree(directory) = &place {
            // What an attempt before it left behind changes nothing any more.
            command::settled(directory).await;
        }
        let (directory, before) = match place {
            Place::None => (None, Before::Unknown),
            Place::Files(directory) => {
                let before = snapshot::take(directory.clone()).await.map_err(unusable)?;
                (Some(directory), Before::Files(Arc::new(before)))
            }
            Place::Worktree(directory) => {
                let index = index(&directory, &format!("{token}.before"));
                let tree = git::tree(&directory, &index).await.map_err(unusable)?;
                (Some(directory), Before::Tree(tree))
            }
        };
        Ok(Workspace { directory, before, token })
    }
}

/// What the directory of a database is called, below which those of its runs are. No run is called so.
fn of_database(identity: &str) -> String {
    format!("@{identity}")
}

/// Makes the directory of a run below `root`, for its user alone. Nothing that
/// a run or a workspace is called leads out of it.
fn below(root: &Path, origin: &Origin, name: &str) -> Result<PathBuf, String> {
    let text = |error: std::io::Error| error.to_string();
    let make = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    make(root).map_err(text)?;
    // One that was made by an earlier version is everybody's to read.
    if root.metadata().map_err(text)?.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(PRIVATE)).map_err(text)?;
    }
    let root_dir = Dir::open_ambient_dir(root, ambient_authority()).map_err(text)?;
    let mut builder = cap_std::fs::DirBuilder::new();
    cap_std::fs::DirBuilderExt::mode(builder.recursive(true), PRIVATE);
    let mut root = root.canonicalize().map_err(text)?;
    let mut runs = root_dir;
    if !is_of_earlier_version(&runs, origin) {
        let database = of_database(&origin.database);
        runs.create_dir_with(&database, &builder).map_err(text)?;
        runs = runs.open_dir(&database).map_err(text)?;
        root.push(database);
    }
    let relative = Path::new(origin.run.as_str()).join(name);
    runs.create_dir_with(&relative, &builder).map_err(text)?;
    // Through the capability, so that a link that somebody put there is not followed out of it.
    runs.open_dir(&relative).map_err(text)?;
    Ok(root.join(relative))
}

/// Whether an earlier version made the directory of a run, which goes on in it. It kept the runs of
/// all databases in one place, so one that is older than the run is that of another one of the name.
fn is_of_earlier_version(root: &Dir, origin: &Origin) -> bool {
    let Ok(found) = root.symlink_metadata(origin.run.as_str()) else { return false };
    let made = found.created().or_else(|_| found.modified()).map(cap_std::time::SystemTime::into_std);
    let since = made.ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    found.is_dir() && since.is_some_and(|since| Timestamp(since.as_millis() as u64) >= origin.begun_at)
}

/// The mode of directories that only their user may enter.
const PRIVATE: u32 = 0o700;

/// An index beside a work tree that neither its own git nor another attempt uses.
fn index(directory: &Path, token: &str) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{token}.index"));
    directory.with_file_name(name)
}

impl Changes {
    /// The changes without secrets.
    pub fn redacted(self, redactor: &Redactor) -> Self {
        Self { summary: clean_json(redactor, self.summary), diff: redactor.clean(self.diff) }
    }
}

impl Workspace {
    /// Where a program works.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// What changed since it was opened; none if nothing is recorded. What
    /// cannot be found out is not worth the answer.
    pub async fn changes(&self) -> Option<Changes> {
        let directory = self.directory.clone()?;
        // An agent that was stopped goes on for a moment.
        command::settled(&directory).await;
        match &self.before {
            Before::Unknown => None,
            Before::Files(before) => snapshot::changes(Arc::clone(before), directory).await.ok(),
            Before::Tree(before) => {
                let index = index(&directory, &format!("{}.after", self.token));
                git::changes(&directory, before, &index).await.ok()
            }
        }
    }
}

/// What changed, as it is found.
#[derive(Debug, Default)]
struct Paths {
    /// Only those that are named.
    shown: Vec<String>,
    count: usize,
    added: usize,
    removed: usize,
}

impl Paths {
    fn add(&mut self, path: impl FnOnce() -> String) {
        self.count += 1;
        if self.shown.len() < PATHS {
            self.shown.push(path());
        }
    }

    fn summary(self, diff_is_cut: bool) -> Json {
        let mut summary = serde_json::json!({
            "files": self.shown, "changed": self.count, "added": self.added, "removed": self.removed,
        });
        if diff_is_cut {
            summary["diff_truncated"] = true.into();
        }
        Json::from(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) async fn open(
        config: &WorkspaceConfig,
        name: &str,
        origin: &Origin,
        step: Step,
    ) -> Result<Workspace, CallFailure> {
        make(config, name, origin, step).await?.open().await
    }

    fn id(run: &str) -> Origin {
        Origin { run: run.parse().unwrap(), database: "d1".to_owned(), begun_at: Timestamp(1) }
    }

    #[tokio::test]
    async fn runs_of_different_databases_share_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let config = WorkspaceConfig::Scratch { root: dir.path().join("w") };
        let opened = async |origin: &Origin| {
            let workspace = open(&config, "s", origin, Step(1)).await.unwrap();
            workspace.directory().unwrap().to_owned()
        };
        let (here, there) = (id("r1"), Origin { database: "d2".to_owned(), ..id("r1") });
        assert_ne!(opened(&here).await, opened(&there).await);
        // A run of an earlier version goes on where it was; a new one of the same name does not.
        std::fs::create_dir(dir.path().join("w/r2")).unwrap();
        let later = Origin { begun_at: Timestamp(u64::MAX), ..id("r2") };
        assert!(opened(&later).await.ends_with("w/@d1/r2/s"));
        assert!(opened(&id("r2")).await.ends_with("w/r2/s"));
    }

    #[tokio::test]
    async fn a_scratch_directory_is_the_run_s_own_and_its_changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let config = WorkspaceConfig::Scratch { root: dir.path().join("w") };
        let workspace = open(&config, "s", &id("r1"), Step(1)).await.unwrap();
        let place = workspace.directory().unwrap().to_owned();
        std::fs::create_dir(place.join("sub")).unwrap();
        std::fs::write(place.join("sub/a.txt"), "one\ntwo\n").unwrap();
        let changes = workspace.changes().await.unwrap();
        assert_eq!(changes.summary.value()["files"], serde_json::json!(["A sub/a.txt"]));
        assert_eq!(changes.summary.value()["added"], 2);
        assert!(changes.diff.contains("+one\n+two\n"), "{}", changes.diff);

        let again = open(&config, "s", &id("r1"), Step(2)).await.unwrap();
        std::fs::write(place.join("sub/a.txt"), "one\n2\n").unwrap();
        std::fs::write(place.join("raw"), [0xff, 0]).unwrap();
        let changes = again.changes().await.unwrap();
        assert_eq!(changes.summary.value()["files"], serde_json::json!(["A raw", "M sub/a.txt"]));
        assert!(changes.diff.contains("-two\n+2\n"), "{}", changes.diff);
        let other = open(&config, "s", &id("r2"), Step(1)).await.unwrap();
        assert_ne!(other.directory(), Some(place.as_path()));
    }

    #[tokio::test]
    async fn no_name_and_no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        let config = WorkspaceConfig::Scratch { root: root.clone() };
        assert!(
            open(&config, "../x", &id("r1"), Step(1))
                .await
                .is_ok_and(|w| { w.directory().unwrap().starts_with(root.canonicalize().unwrap()) })
        );
        assert!("..".parse::<wfhost_core::RunId>().is_err());
        std::os::unix::fs::symlink(dir.path(), root.join("@d1/r9")).unwrap();
        assert!(open(&config, "s", &id("r9"), Step(1)).await.is_err());
        // A link within is recorded as a link.
        let workspace = open(&config, "s", &id("r3"), Step(1)).await.unwrap();
        std::os::unix::fs::symlink("/etc", workspace.directory().unwrap().join("out")).unwrap();
        let changes = workspace.changes().await.unwrap();
        assert_eq!(changes.summary.value()["files"], serde_json::json!(["A out"]));
    }

    #[tokio::test]
    async fn a_work_tree_leaves_the_repository_alone() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repo");
        std::fs::create_dir(&repository).unwrap();
        let git = |args: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
            assert!(git.current_dir(&repository).output().unwrap().status.success(), "{args:?}");
        };
        git(&["init", "-q"]);
        std::fs::write(repository.join("a.txt"), "one\n").unwrap();
        git(&["add", "."]);
        git(&["commit", "-qm", "first"]);
        let config = WorkspaceConfig::Worktree {
            repository: repository.clone(),
            base: None,
            root: dir.path().join("w"),
        };
        let workspace = open(&config, "tree", &id("r1"), Step(1)).await.unwrap();
        let place = workspace.directory().unwrap();
        std::fs::write(place.join("a.txt"), "one\ntwo\n").unwrap();
        std::fs::write(place.join("b.txt"), "new\n").unwrap();
        let changes = workspace.changes().await.unwrap();
        assert_eq!(changes.summary.value()["files"], serde_json::json!(["M a.txt", "A b.txt"]));
        assert_eq!(changes.summary.value()["added"], 2);
        assert!(changes.diff.contains("+two"), "{}", changes.diff);
        assert_eq!(std::fs::read_to_string(repository.join("a.txt")).unwrap(), "one\n");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.path().join("w")), mode(&dir.path().join("w/@d1/r1"))), (0o700, 0o700));
        // A later step sees only what it changed itself.
        let again = open(&config, "tree", &id("r1"), Step(2)).await.unwrap();
        assert_eq!(again.changes().await.unwrap().diff, "");
    }

    fn repository(dir: &Path) -> PathBuf {
        let repository = dir.join("repo");
        std::fs::create_dir(&repository).unwrap();
        let git = |args: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
            assert!(git.current_dir(&repository).output().unwrap().status.success(), "{args:?}");
        };
        git(&["init", "-q"]);
        for number in 0..50 {
            std::fs::write(repository.join(format!("{number}.txt")), "one\n").unwrap();
        }
        git(&["add", "."]);
        git(&["commit", "-qm", "first"]);
        repository
    }

    #[tokio::test]
    async fn steps_at_the_same_time_record_what_changed_during_each() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        let config = WorkspaceConfig::Worktree { repository, base: None, root: dir.path().join("w") };
        // The first ones make the work tree at the same time.
        let steps = futures_util::future::join_all((1..=6).map(|step| {
            let (config, run) = (config.clone(), id("r1"));
            async move { open(&config, "tree", &run, Step(step)).await.unwrap() }
        }))
        .await;
        let place = steps[0].directory().unwrap().to_owned();
        std::fs::write(place.join("new.txt"), "new\n").unwrap();
        let changes = futures_util::future::join_all(steps.iter().map(Workspace::changes)).await;
        for change in changes {
            assert_eq!(change.unwrap().summary.value()["files"], serde_json::json!(["A new.txt"]));
        }
        let left: Vec<_> =
            std::fs::read_dir(place.parent().unwrap()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["tree"]);
    }

    /// The most memory that this process ever took.
    pub(super) fn peak() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    #[tokio::test]
    async fn of_a_long_diff_only_the_part_that_is_kept_is_read() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        let config = WorkspaceConfig::Worktree { repository, base: None, root: dir.path().join("w") };
        let workspace = open(&config, "tree", &id("r1"), Step(1)).await.unwrap();
        let file = std::fs::File::create(workspace.directory().unwrap().join("big.txt")).unwrap();
        let mut file = std::io::BufWriter::new(file);
        let line = format!("{}\n", "x".repeat(99));
        (0..1_500_000).for_each(|_| file.write_all(line.as_bytes()).unwrap());
        drop(file);
        let before = peak();
        let changes = workspace.changes().await.unwrap();
        assert_eq!(changes.summary.value()["added"], 1_500_000);
        assert_eq!(changes.summary.value()["diff_truncated"], true);
        assert!(changes.diff.ends_with("x\n") && changes.diff.len() > 8_000_000, "{}", changes.diff.len());
        assert!(peak() - before < 64 << 20, "{} MiB", (peak() - before) >> 20);
    }

    #[tokio::test]
    async fn what_a_user_configured_for_git_changes_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        // In the repository's own configuration, which an agent can write as well.
        for (key, value) in [
            ("diff.external", "echo pwned; true"),
            ("diff.noprefix", "true"),
            ("diff.mnemonicPrefix", "true"),
            ("core.quotePath", "false"),
            ("core.fsmonitor", "touch pwned; false"),
            ("diff.upper.textconv", "tr a-z A-Z <"),
            ("filter.a=b.c.clean", "touch pwned; tr a-z A-Z"),
            ("filter.a=b.c.required", "true"),
            ("color.ui", "always"),
        ] {
            let set = std::process::Command::new("git")
                .args(["config", key, value])
                .current_dir(&repository)
                .status();
            assert!(set.unwrap().success());
        }
        let config = WorkspaceConfig::Worktree { repository, base: None, root: dir.path().join("w") };
        let workspace = open(&config, "tree", &id("r1"), Step(1)).await.unwrap();
        let place = workspace.directory().unwrap();
        std::fs::write(place.join("0.txt"), "two\n").unwrap();
        std::fs::write(place.join(".gitattributes"), "*.txt diff=upper filter=a=b.c\n").unwrap();
        std::fs::write(place.join("tab\tand\nline.txt"), "x\n").unwrap();
        let changes = workspace.changes().await.unwrap();
        let files = changes.summary.value()["files"].clone();
        assert_eq!(files, serde_json::json!(["A .gitattributes", "M 0.txt", "A tab\tand\nline.txt"]));
        assert!(
            changes.diff.contains("--- a/0.txt\n+++ b/0.txt\n") && changes.diff.contains("-one\n+two\n"),
            "{}",
            changes.diff
        );
        assert!(!changes.diff.contains("pwned") && !place.join("pwned").exists(), "{}", changes.diff);
    }
}
