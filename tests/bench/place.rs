//! Where measuring happens: a directory beside what cargo builds, on the disk
//! that it is on; modules; hosts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use wfhost::agents::Providers;
use wfhost::engine::Module;
use wfhost::store::{SharedStore, SqliteOptions, SqliteStore, Synchronous};
use wfhost::{Ending, Host, HostOptions, RunHandle, StartOptions};
use wfhost_core::{Json, RunConfig};

pub struct Place {
    dir: TempDir,
    pub runtime: Runtime,
    /// Everything a hundred times smaller, to see that it works.
    tiny: bool,
}

impl Place {
    pub fn new(tiny: bool) -> Self {
        let dir = TempDir::new_in(wfhost_tests::target()).expect("a directory for databases");
        Self { dir, runtime: runtime(), tiny }
    }

    pub fn is_tiny(&self) -> bool {
        self.tiny
    }

    /// So many, or a hundredth of it.
    pub fn many(&self, count: u64) -> u64 {
        if self.tiny { count.div_ceil(100) } else { count }
    }

    /// A path that nobody has used before.
    pub fn fresh(&self, name: &str) -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = self.dir.path().join(number.to_string());
        std::fs::create_dir(&dir).expect("a directory");
        dir.join(name)
    }

    /// Compiled components that all measures share.
    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Removes a database with everything beside it.
    pub fn discard(&self, db: &Path) {
        if let Some(dir) = db.parent() {
            std::fs::remove_dir_all(dir).expect("nobody uses it any more");
        }
    }

    /// A host over the database, with the probe.
    pub async fn bench(&self, db: &Path, synchronous: Synchronous) -> Bench {
        Bench::open(db, &self.cache(), synchronous, |_| {}).await
    }

    /// `wfhost ARGS` as built beside this program.
    pub fn wfhost<'a>(&self, db: &Path, args: impl IntoIterator<Item = &'a str>) -> Command {
        let this = std::env::current_exe().expect("a program knows its file");
        let binary = this.ancestors().nth(2).expect("cargo's layout").join("wfhost");
        let mut command = Command::new(binary);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("WFHOST_DB", db).env("WFHOST_CACHE", self.cache()).env_remove("WFHOST_AGENT");
        command.env("XDG_CONFIG_HOME", self.dir.path()).current_dir(self.dir.path());
        command
    }
}

/// As the program `wfhost` has it.
pub fn runtime() -> Runtime {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all().build().expect("threads")
}

/// A host with its database.
pub struct Bench {
    pub host: Host,
    pub store: SharedStore,
    pub probe: Module,
}

impl Bench {
    pub async fn open(
        db: &Path,
        cache: &Path,
        synchronous: Synchronous,
        set: impl FnOnce(&mut HostOptions),
    ) -> Self {
        let options = SqliteOptions { synchronous, ..SqliteOptions::default() };
        Self::over(Arc::new(SqliteStore::open(db, &options).expect("a database")), cache, set).await
    }

    /// The same over a database that is open.
    pub async fn over(store: SharedStore, cache: &Path, set: impl FnOnce(&mut HostOptions)) -> Self {
        let mut options = HostOptions::new(Arc::clone(&store));
        options.cache = Some(cache.to_owned());
        options.providers = Providers::builtin();
        set(&mut options);
        let host = Host::new(options).expect("a host");
        let bytes = std::fs::read(wfhost_tests::module("probe")).expect("the probe");
        let probe = host.add_module("probe", &bytes).await.expect("the probe is a workflow");
        Self { host, store, probe }
    }

    /// Begins a run of the probe that does these operations.
    pub async fn start(&self, operations: &Value) -> RunHandle {
        self.host.start(&self.probe, program(operations), None).await.expect("a run")
    }

    /// Runs so many at the same time to their ends.
    pub async fn run_all(&self, count: u64, operations: &Value) {
        let mut handles = Vec::new();
        for _ in 0..count {
            handles.push(self.start(operations).await);
        }
        for ending in join_all(handles.iter_mut().map(RunHandle::ending)).await {
            assert!(matches!(ending, Ok(Ending::Finished(Ok(_)))), "{ending:?}");
        }
    }

    /// Runs one to its end.
    pub async fn run(&self, operations: &Value) {
        self.run_all(1, operations).await;
    }
}

/// How a run of the probe is begun that does these operations.
pub fn program(operations: &Value) -> StartOptions {
    StartOptions {
        input: Json::from(json!({ "do": operations })),
        config: RunConfig { agent: Some("echo".to_owned()), ..RunConfig::default() },
        ..StartOptions::default()
    }
}

/// Serial steps with prompts of so many bytes.
pub fn steps(count: u64, bytes: usize) -> Value {
    json!([{ "agent_series": { "count": count, "bytes": bytes } }])
}
