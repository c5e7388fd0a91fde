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
use futures_util::TryFutureExt;
use wfhost_core::{FailureKind, Json, Step, Timestamp};

pub use self::clean::{CleanedWorkspaces, clean_workspaces};
use self::snapshot::Snapshot;
use super::allowance::Allowance;
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

/// Makes the workspace `name` of a run, if it is not there. That may take long, and may be stopped at any time.
pub(crate) async fn make(
    config: &WorkspaceConfig,
    name: &str,
    origin: &Origin,
    step: Step,
    time: &mut Allowance,
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
            if !git::is_whole(&directory) {
                let common = time.spend(git::common_of(repository).map_err(unusable)).await?;
                // Work trees of other runs are made before it, or this one is by another step.
                let held = time.wait(git::hold(common)).await?;
                let base = base.as_deref().unwrap_or("HEAD");
                time.spend(git::make(&held, repository, &directory, base).map_err(unusable)).await?;
            }
            Place::Worktree(directory)
        }
    };
    Ok(Site { name: name.to_owned(), place, token })
}

impl Site {
    /// Takes note of what is in it. From here on changes are those of the attempt.
    pub(crate) async fn open(&self, time: &mut Allowance) -> Result<Workspace, CallFailure> {
        let unusable = |error: String| unusable(&self.name, error);
        if let Place::Files(directory) | Place::Worktree(directory) = &self.place {
            // What an attempt before it left behind changes nothing any more.
            time.wait(command::settled(directory)).await?;
        }
        let (directory, before) = match &self.place {
            Place::None => (None, Before::Unknown),
            Place::Files(directory) => {
                let files = time.spend(snapshot::take(directory.clone()).map_err(unusable)).await?;
                (Some(directory), Before::Files(Arc::new(files)))
            }
            Place::Worktree(directory) => {
                let index = index(directory, &format!("{}.before", self.token));
                let tree = time.spend(git::tree(directory, index).map_err(unusable)).await?;
                (Some(directory), Before::Tree(tree))
            }
        };
        Ok(Workspace { directory: directory.cloned(), before, token: self.token.clone() })
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
    git::beside(directory, &format!(".{token}.index"))
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
                git::changes(&directory, before, index).await.ok()
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
    use std::time::Duration;

    use wfhost_core::policy::limits::TimeLimits;
    use wfhost_world::System;

    use super::*;

    fn time(attempt_ms: u64) -> Allowance {
        let limits = TimeLimits { attempt_ms, ..TimeLimits::default() };
        Allowance::new(limits, Timestamp(0), Arc::new(System))
    }

    pub(super) async fn open(
        config: &WorkspaceConfig,
        name: &str,
        origin: &Origin,
        step: Step,
    ) -> Result<Workspace, CallFailure> {
        let mut time = time(600_000);
        make(config, name, origin, step, &mut time).await?.open(&mut time).await
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
        let repository = with_files(dir.path(), [("a.txt".to_owned(), "one\n")]);
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

    /// A repository with a commit of such files.
    fn with_files(dir: &Path, files: impl IntoIterator<Item = (String, &'static str)>) -> PathBuf {
        let repository = dir.join("repo");
        std::fs::create_dir(&repository).unwrap();
        let git = |args: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
            assert!(git.current_dir(&repository).output().unwrap().status.success(), "{args:?}");
        };
        git(&["init", "-q"]);
        for (name, text) in files {
            std::fs::write(repository.join(name), text).unwrap();
        }
        git(&["add", "."]);
        git(&["commit", "-qm", "first"]);
        repository
    }

    pub(super) fn repository(dir: &Path) -> PathBuf {
        with_files(dir, (0..50).map(|number| (format!("{number}.txt"), "one\n")))
    }

    /// The names of what is in a directory.
    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }

    /// A repository with so many files that git does nothing with all of them within a moment, and its workspace.
    fn large(dir: &Path) -> WorkspaceConfig {
        let repository = with_files(dir, (0..LARGE).map(|number| (format!("{number}.txt"), "one\n")));
        WorkspaceConfig::Worktree { repository, base: None, root: dir.join("w") }
    }

    const LARGE: usize = 2_000;

    /// Stops something as soon as that is seen; false if it has ended before.
    async fn stop(what: impl Future, when: impl Fn() -> bool) -> bool {
        let seen = async {
            while !when() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            biased;
            _ = what => false,
            () = seen => true,
        }
    }

    #[tokio::test]
    async fn a_work_tree_whose_making_was_stopped_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let config = large(dir.path());
        let stages: [fn(&Path) -> bool; 3] = [
            |tree| tree.exists(),
            |tree| tree.join(".git").exists(),
            |tree| std::fs::read_dir(tree).is_ok_and(|entries| entries.count() > 1),
        ];
        for (number, stage) in stages.into_iter().enumerate() {
            let run = id(&format!("r{number}"));
            let made = async || make(&config, "tree", &run, Step(1), &mut time(600_000)).await.unwrap();
            let tree = dir.path().join(format!("w/@d1/r{number}/tree"));
            assert!(stop(made(), || stage(&tree)).await, "stage {number}: it has ended before");
            made().await;
            assert_eq!(names(&tree).len(), LARGE + 1, "stage {number}");
            let git = |args: &[&str]| {
                let git = std::process::Command::new("git").args(args).current_dir(&tree).output().unwrap();
                assert!(git.status.success(), "{git:?}");
                String::from_utf8(git.stdout).unwrap()
            };
            assert_eq!(git(&["status", "--porcelain"]), "", "stage {number}");
            assert!(!Path::new(git(&["rev-parse", "--git-path", "index.lock"]).trim()).exists());
            assert_eq!(names(tree.parent().unwrap()), ["tree"]);
        }
    }

    /// As when the kind of a workspace was changed while a run was under way.
    #[tokio::test]
    async fn what_is_in_the_place_of_a_work_tree_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        let scratch = WorkspaceConfig::Scratch { root: root.clone() };
        let workspace = open(&scratch, "s", &id("r1"), Step(1)).await.unwrap();
        let file = workspace.directory().unwrap().join("a");
        std::fs::write(&file, "work").unwrap();
        let config = WorkspaceConfig::Worktree { repository: repository(dir.path()), base: None, root };
        for _ in 0..2 {
            let failure = open(&config, "s", &id("r1"), Step(2)).await.unwrap_err();
            assert_eq!(failure.failure.kind, FailureKind::Unavailable, "{failure}");
        }
        assert_eq!(std::fs::read_to_string(file).unwrap(), "work");
    }

    /// A host was killed while it made the work tree. Its git goes on, and what it makes is not taken for all.
    #[tokio::test]
    async fn a_git_that_outlives_its_host_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        let config = WorkspaceConfig::Worktree {
            repository: repository.clone(),
            base: None,
            root: dir.path().join("w"),
        };
        let begun = make(&config, "tree", &id("r1"), Step(1), &mut time(600_000)).await.unwrap();
        let Place::Worktree(tree) = begun.place else { panic!("a work tree") };
        // As it is in the middle of it.
        let common = repository.canonicalize().unwrap().join(".git");
        std::fs::write(git::mark_of(&tree), common.to_str().unwrap()).unwrap();
        let lock = std::fs::File::open(&common).unwrap();
        lock.lock().unwrap();
        let outlives = std::process::Command::new("sh")
            .args(["-c", "sleep 0.5; rm tree/?.txt; touch done"])
            .current_dir(tree.parent().unwrap())
            .stdin(lock)
            .spawn();
        make(&config, "tree", &id("r1"), Step(1), &mut time(600_000)).await.unwrap();
        assert!(tree.with_file_name("done").exists(), "it was not waited for");
        assert_eq!(names(&tree).len(), 50 + 1);
        assert!(git::is_whole(&tree) && outlives.unwrap().wait().unwrap().success());
    }

    /// The wait for a repository is none of the time that the attempt has.
    #[tokio::test]
    async fn waiting_for_a_repository_takes_no_time_of_the_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        let config = WorkspaceConfig::Worktree {
            repository: repository.clone(),
            base: None,
            root: dir.path().join("w"),
        };
        let held = git::hold(git::common_of(&repository).await.unwrap()).await;
        const ATTEMPT_MS: u64 = 3_000;
        let waiting = tokio::spawn(async move {
            make(&config, "tree", &id("r1"), Step(1), &mut time(ATTEMPT_MS)).await.map(drop)
        });
        tokio::time::sleep(Duration::from_millis(ATTEMPT_MS + 200)).await;
        assert!(!waiting.is_finished(), "it waits");
        drop(held);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_record_that_is_given_up_leaves_no_index_behind() {
        let dir = tempfile::tempdir().unwrap();
        let config = large(dir.path());
        let workspace = open(&config, "tree", &id("r1"), Step(1)).await.unwrap();
        let tree = workspace.directory().unwrap();
        let place = tree.parent().unwrap();
        // All of them are to be looked at.
        (0..LARGE).for_each(|number| std::fs::write(tree.join(format!("{number}.txt")), "two\n").unwrap());
        assert!(stop(workspace.changes(), || names(place).len() > 1).await, "it has ended before");
        crate::settle(Duration::from_secs(60)).await;
        assert_eq!(names(place), ["tree"]);
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
        assert_eq!(names(place.parent().unwrap()), ["tree"]);
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
