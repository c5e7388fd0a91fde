//! `wfhost dev`

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use wfhost::engine::Module;
use wfhost::store::{Projects, RunFilter, RunInfo, RunState};
use wfhost::{Adopt, Evict, Host, StartOptions, Upgraded};
use wfhost_core::{Digest, Json, Mismatch, RunConfig, RunId, spell_millis};

use super::db::for_each_run;
use super::diagnostic::{self, Exit, UserError};
use super::follow::{Progress, Signals};
use super::place::{AgentArgs, json_arg};
use super::printer::{DIM, ERROR, Line, say};
use super::serve::{Network, Told};
use super::{Common, Format, build, printer, tell};

/// Rebuild a workflow on every change, and migrate its runs
///
/// Watches a project and builds it when a file changes. Waiting runs of the workflow
/// are migrated to the new build if it is compatible with their journals; otherwise
/// they stay as they are, and the difference is shown. With -i a run is started with
/// the first build, and again when the previous run has ended or was left behind.
/// When a build fails, runs continue on the previous one.
///
/// Meanwhile it advances due runs and answers over HTTP, as `wfhost serve` does.
/// Ctrl-C leaves runs where they are.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost dev -i '{\"name\":\"Ada\"}' --agents agents.json
  wfhost dev my-workflow --agent echo")]
pub(crate) struct Dev {
    /// The project directory
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Start runs with this input: JSON, or @FILE
    #[arg(short, long, value_name = "JSON", allow_negative_numbers = true)]
    input: Option<String>,
    #[command(flatten)]
    agents: AgentArgs,
    #[command(flatten)]
    network: Network,
}

/// The interval between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The interval between two looks at new commits.
const SHOW_EVERY: Duration = Duration::from_millis(30);
/// Directories that hold what was made, and not what it was made of.
const MADE: [&str; 6] = ["target", "node_modules", "__pycache__", "dist", "build", "venv"];
/// Files that are looked at, at most.
const FILES: usize = 20_000;
/// Commits that are read at once.
const PAGE: usize = 1_000;

impl Dev {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        if !self.dir.is_dir() {
            return Err(UserError::usage("WF0004", format!("{} is not a directory", self.dir.display()))
                .hint("name a project directory; `wfhost new NAME` creates one"));
        }
        let input = self.input.as_deref().map(|input| json_arg("the input", input)).transpose()?;
        let config = common.config_of(&self.dir)?;
        let store = common.store().await?;
        let mut providers = self.agents.providers(&config)?;
        let agent = self.agents.new_run_provider(common, &config, &providers)?;
        if let Some(provider) = agent.as_deref().and_then(|name| providers.get(name)) {
            providers.set_fallback(provider);
        }
        // Waiting runs are evicted immediately, so that they can be migrated.
        let mut options = common.host_options(store, providers, Evict::Always, Adopt::Due)?;
        options.projects = Projects::Only(vec![None, config.project_name()]);
        let metrics = std::sync::Arc::<wfhost_server::Metrics>::default();
        options.observer = Some(std::sync::Arc::clone(&metrics) as _);
        let host = Host::new(options)?;
        let mut signals = Signals::new()?;
        let figures = self.network.show_metrics(common, &host, &metrics).await?;
        // They end with the process.
        if let Some(figures) = figures {
            tokio::spawn(figures.run());
        }
        let defaults = super::serve::defaults(&self.agents, &config);
        let (sinks, export) = (tell::sinks([&config])?, tell::export(None, false)?);
        let server = self.network.bind(common, &host, defaults, &sinks, &metrics).await?;
        let _told = server.as_ref().map(Told::of);
        host.serve();
        let report = tell::Reports { common: common.clone(), metrics: Some(metrics), log: None };
        let url = server.as_ref().map(|server| server.url().to_owned());
        let teller = tell::start(host.store(), sinks, export, report, url);
        say(common, "Watching", &format!("{}; Ctrl-C stops", self.dir.display()));
        if let Some(server) = &server {
            say(common, "Open", server.login().unwrap_or(server.url()));
        }
        let drainer = server.as_ref().map(wfhost_server::Server::drainer);
        let answering = server.map(|server| tokio::spawn(server.run()));
        let begin = StartOptions {
            config: RunConfig {
                agent,
                script: self.agents.script(),
                budget: config.budget(),
                project: config.project_name(),
                ..RunConfig::default()
            },
            ..StartOptions::default()
        };
        let mut session = Session {
            common,
            place: host.store().last_place().await?,
            host: &host,
            input,
            begin,
            module: None,
            begun: None,
            behind: Vec::new(),
            shown: BTreeMap::new(),
            last: None,
        };
        let number = tokio::select! {
            number = signals.next() => number,
            failed = session.go_on(&self.dir) => {
                host.close(None).await;
                return failed.map(|never| match never {});
            }
        };
        if let Some(drainer) = &drainer {
            drainer.drain();
        }
        host.close(None).await;
        if let Some(drainer) = &drainer {
            drainer.stop();
        }
        if let Some(answering) = answering {
            let _ = answering.await;
        }
        teller.stop(std::time::Duration::from_secs(1)).await;
        say(common, "Stopped", "nothing is lost");
        Ok(Exit::Signalled(number))
    }
}

/// What `wfhost dev` has before it.
struct Session<'a> {
    common: &'a Common,
    host: &'a Host,
    input: Option<Json>,
    begin: StartOptions,
    /// The last build that could be used.
    module: Option<Module>,
    /// The run that was started with it.
    begun: Option<RunId>,
    /// Runs that are to move to it, once their calls are done.
    behind: Vec<RunId>,
    /// How far runs have been shown.
    shown: BTreeMap<RunId, Progress>,
    /// Up to which commit.
    place: u64,
    /// The run of the last line.
    last: Option<RunId>,
}

impl Session<'_> {
    /// Builds, moves and shows until it fails.
    async fn go_on(&mut self, dir: &Path) -> Result<std::convert::Infallible, UserError> {
        let mut built = None;
        let mut before = None;
        let mut building = None;
        let mut look_at = tokio::time::Instant::now();
        loop {
            if look_at <= tokio::time::Instant::now() {
                look_at = tokio::time::Instant::now() + LOOK_EVERY;
                let files = {
                    let dir = dir.to_owned();
                    tokio::task::spawn_blocking(move || fingerprint(&dir)).await.unwrap_or_default()
                };
                // Who saves several files is waited for.
                let settled = before == Some(files) || built.is_none();
                before = Some(files);
                if building.is_none() && settled && built != Some(files) {
                    built = Some(files);
                    let (dir, began) = (dir.to_owned(), tokio::time::Instant::now());
                    say(self.common, "Building", &dir.display().to_string());
                    building = Some((tokio::task::spawn_blocking(move || build::only(&dir)), began));
                }
                self.move_those_behind().await?;
            }
            if let Some((task, began)) = building.take_if(|(task, _)| task.is_finished()) {
                let took = spell_millis(began.elapsed().as_millis() as u64);
                match task.await.unwrap_or_else(|error| Err(failed(&error.to_string()))) {
                    Ok(path) => self.take(&path, &took).await?,
                    Err(trouble) => self.complain(&trouble),
                }
            }
            self.show().await?;
            tokio::time::sleep(SHOW_EVERY).await;
        }
    }

    /// Reports a failed build, and that it can be fixed.
    fn complain(&self, trouble: &UserError) {
        diagnostic::print(trouble, self.common.output != Format::Text, self.common.verbose);
        let goes_on = if self.module.is_some() { "; runs continue on the previous build" } else { "" };
        say(self.common, "Watching", &format!("for the next change{goes_on}"));
    }

    /// Goes on with a new build.
    async fn take(&mut self, path: &Path, took: &str) -> Result<(), UserError> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.complain(&failed(&format!("{} cannot be read: {error}", path.display())));
                return Ok(());
            }
        };
        let digest = Digest::of(&bytes);
        if self.module.as_ref().is_some_and(|module| module.digest == digest) {
            say(self.common, "Built", &format!("{name} in {took}: the same as before"));
            return Ok(());
        }
        let module = match self.host.add_module(&name, &bytes).await {
            Ok(module) => module,
            Err(error) => {
                self.complain(&error.into());
                return Ok(());
            }
        };
        say(self.common, "Built", &format!("{name} in {took}: {}…", &digest.to_string()[..13]));
        self.module = Some(module);
        let states = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = RunFilter { states, workflow: Some(name), ..RunFilter::default() };
        let mut behind = Vec::new();
        for_each_run(self.host.store().as_ref(), filter, async |info| {
            if info.module != digest && self.is_ours(&info) {
                behind.push(info.id);
            }
            Ok(())
        })
        .await?;
        self.behind = behind;
        self.move_those_behind().await?;
        self.begin_if_due().await
    }

    /// Whether a run is advanced here: one of this project, or of none.
    fn is_ours(&self, info: &RunInfo) -> bool {
        info.project.is_none() || info.project == self.begin.config.project
    }

    /// Begins a run if there is to be one and the one before does not go on.
    async fn begin_if_due(&mut self) -> Result<(), UserError> {
        let (Some(module), Some(input)) = (&self.module, &self.input) else { return Ok(()) };
        if let Some(begun) = &self.begun
            && let Some(info) = self.host.store().run(begun).await?
            && !info.state.is_final()
            && (info.module == module.digest || self.behind.contains(begun))
        {
            return Ok(());
        }
        let options = StartOptions { input: input.clone(), ..self.begin.clone() };
        let run = self.host.enqueue(module, options).await?;
        self.begun = Some(run);
        Ok(())
    }

    /// Tries runs again that could not be moved yet.
    async fn move_those_behind(&mut self) -> Result<(), UserError> {
        let Some(module) = self.module.clone() else { return Ok(()) };
        for run in std::mem::take(&mut self.behind) {
            let Some(info) = self.host.store().run(&run).await?.filter(|info| !info.state.is_final()) else {
                continue;
            };
            match self.host.upgrade(&info, &module).await {
                Ok(Upgraded::Moved) => say(self.common, "Migrated", &format!("{run} to this build")),
                Ok(Upgraded::Departs(mismatch)) => self.departs(&run, &mismatch),
                // It calls somebody just now, here or elsewhere.
                Ok(Upgraded::Left(wfhost::HostError::Held { .. })) => self.behind.push(run),
                Ok(Upgraded::Same | Upgraded::Left(_)) => {}
                Err(error) => self.complain(&error.into()),
            }
        }
        Ok(())
    }

    /// A run stays with the code that it has.
    fn departs(&self, run: &RunId, mismatch: &Mismatch) {
        Line::word(ERROR, "Diverges").plain(format!("{run} stays on its build: {mismatch}")).show();
        let hint = "wrap the change in `patched`, or start a new run".to_owned();
        Line::new().plain("    ").styled(DIM, "hint:").plain(" ").plain(hint).show();
    }

    /// Shows what was committed.
    async fn show(&mut self) -> Result<(), UserError> {
        loop {
            let changes = self.host.store().changes(self.place, PAGE).await?;
            let Some(last) = changes.last() else { return Ok(()) };
            self.place = last.place;
            let mut runs: Vec<_> = Vec::new();
            for change in changes {
                if !runs.contains(&change.run) {
                    runs.push(change.run);
                }
            }
            for run in runs {
                self.show_run(&run).await?;
            }
        }
    }

    async fn show_run(&mut self, run: &RunId) -> Result<(), UserError> {
        let info = self.host.store().run(run).await?.filter(|info| self.is_ours(info));
        let Some(info) = info else { return Ok(()) };
        let progress = self.shown.entry(run.clone()).or_insert_with(|| Progress::new(self.common, run));
        if self.last.as_ref() != Some(run) {
            say(self.common, "Run", &format!("{run}  {}", info.workflow));
            self.last = Some(run.clone());
        }
        progress.catch_up(self.host).await?;
        let Some(outcome) = info.outcome.as_ref().filter(|_| info.state.is_final()) else { return Ok(()) };
        self.shown.remove(run);
        let took = spell_millis(info.updated_at.since(info.created_at));
        match outcome {
            Ok(output) => {
                say(self.common, "Done", &format!("{run}  after {took}"));
                match self.common.output {
                    Format::Text => printer::value(output),
                    Format::Json | Format::Jsonl => printer::json(&wfhost_view::RunView::of(&info)),
                }
            }
            Err(failure) => Line::word(ERROR, "Failed").plain(format!("{run}  {failure}")).show(),
        }
        Ok(())
    }
}

fn failed(message: &str) -> UserError {
    UserError::host("WF0608", message)
}

/// What the files of a project are like: their paths, sizes and times.
fn fingerprint(dir: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut open = vec![dir.to_owned()];
    let mut count = 0;
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Not through links: they may lead in a circle.
            let Ok(kind) = entry.file_type() else { continue };
            if name.starts_with('.') || kind.is_dir() && MADE.contains(&name.as_ref()) {
                continue;
            }
            count += 1;
            if count > FILES {
                return hasher.finish();
            }
            if kind.is_dir() {
                open.push(entry.path());
            } else if let Ok(meta) = std::fs::metadata(entry.path())
                && !is_ours(&name)
            {
                let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                (entry.path(), meta.len(), changed).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

/// Files that change without being what a workflow is built of: databases, components, lock files.
fn is_ours(name: &str) -> bool {
    [".wasm", ".db", ".db-wal", ".db-shm", ".lock", ".jsonl", "package-lock.json"]
        .iter()
        .any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn only_what_is_built_of_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir_all(dir.path().join("src/deep")).unwrap();
        std::fs::create_dir_all(dir.path().join("target")).unwrap();
        write("src/deep/lib.rs", "a");
        let mut known = fingerprint(dir.path());
        for made in ["target/x.rs", "out.wasm", ".hidden", "wfhost.db-wal", "Cargo.lock"] {
            write(made, "b");
            assert_eq!(fingerprint(dir.path()), known, "{made}");
        }
        for own in ["src/deep/lib.rs", "src/more.rs", "agents.json"] {
            write(own, "changed");
            let now = fingerprint(dir.path());
            assert_ne!(now, known, "{own}");
            known = now;
        }
        std::fs::remove_file(dir.path().join("src/more.rs")).unwrap();
        assert_ne!(fingerprint(dir.path()), known);
        // A circle of links is no endless way.
        std::os::unix::fs::symlink(dir.path(), dir.path().join("src/self")).unwrap();
        fingerprint(dir.path());
    }
}
