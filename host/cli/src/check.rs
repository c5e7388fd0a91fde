//! `wfhost check`

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wfhost::agents::Providers;
use wfhost::engine::{Denied, Engine, summarize};
use wfhost::store::{MemStore, RunFilter, SharedStore};
use wfhost::world::environment;
use wfhost::{Adopt, Evict, HostError, archive, clock};
use wfhost_core::{Digest, Journal, RunId, Timestamp, counted};
use wfhost_view::UpgradeView;

use super::db::for_each_run;
use super::diagnostic::{Exit, UserError};
use super::place::{find_run, read_journal};
use super::registry::Fetch;
use super::{Common, Format, module_arg, printer, upgrade};

/// Sleeps up to this length are waited for in a check.
const PATIENCE: Duration = Duration::from_secs(60);

/// Check that a module can be run as a workflow: its imports, its exports, its code
///
/// With --twice the module is run, and then replayed by a second process that compiles
/// it again: everything that the program observes or computes has to be the same.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost check hello.wasm
  wfhost check hello.wasm --all             whether existing runs are compatible
  wfhost check hello.wasm --replay run.jsonl
  wfhost check hello.wasm --twice -i '{\"name\":\"Ada\"}' --agent echo")]
pub(crate) struct Check {
    /// A component's file, or a directory with a workflow
    module: String,
    /// Check that this run, or this exported run, is compatible: replay its journal
    /// against the module (may be repeated)
    #[arg(long, value_name = "RUN|FILE", conflicts_with = "twice")]
    replay: Vec<String>,
    /// Check all runs of the workflow with this name
    #[arg(long, conflicts_with = "twice")]
    all: bool,
    /// Run the module, and check that a second execution is identical
    #[arg(long)]
    twice: bool,
    /// The input of the run: JSON, @FILE
    #[arg(
        short,
        long,
        default_value = "null",
        value_name = "JSON",
        requires = "twice",
        allow_negative_numbers = true
    )]
    input: String,
    /// The default provider of agent calls
    #[arg(long, value_name = "PROVIDER", requires = "twice")]
    agent: Option<String>,
    /// Answer agent calls from a file of rules (provider `scripted`)
    #[arg(long, value_name = "FILE", requires = "twice")]
    agents: Option<String>,
    /// Accept a module that imports sockets or HTTP; a call to them fails the run
    #[arg(long)]
    trap_denied: bool,
    #[command(flatten)]
    fetch: Fetch,
}

/// The result of two equal executions.
struct Twice {
    entries: u64,
    /// The failure of both executions; null if they completed.
    failure: Value,
}

/// The cache of the first execution, in a directory of its own.
const FIRST: &str = "first";

impl Check {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let (name, bytes) = module_arg::load(common, None, &self.module, self.fetch).await?;
        let digest = Digest::of(&bytes);
        let summary = summarize(&bytes)?;
        let text = common.output == Format::Text;
        let denied = if self.trap_denied { Denied::Trap } else { Denied::Refuse };
        if self.all || !self.replay.is_empty() {
            return self.replay_runs(common, &name, &bytes, denied).await;
        }
        if text {
            for import in &summary.imports {
                printer::line(format!("{:<45}  {}", import.name, import.class.as_str()));
            }
        }
        let dir = self.twice.then(tempfile::tempdir).transpose().map_err(failed)?;
        // What is compiled here is what the first execution takes; the second one compiles by itself.
        let cache = dir.as_ref().map(|dir| dir.path().join(FIRST));
        Engine::new(cache)?.module(&name, digest, &bytes, denied)?;
        printer::say(common, "Valid", &format!("{name}  {digest}"));
        let entries = match &dir {
            Some(dir) => Some(self.run_twice(common, &bytes, dir.path())?),
            None => None,
        };
        let (entries, failure) = entries.map(|twice| (twice.entries, twice.failure)).unzip();
        let failure = failure.filter(|failure| !failure.is_null());
        if let Some(entries) = entries {
            printer::say(common, "Same", &format!("both executions agree in {}", counted(entries, "entry")));
        }
        if let Some(failure) = &failure {
            let text = |key: &str| failure[key].as_str().unwrap_or_default();
            let text = format!("{}: {}", text("kind"), text("message"));
            printer::Line::word(printer::ERROR, "Failed").plain(text).show();
        }
        if !text {
            let imports: Vec<_> = summary.imports.iter().map(super::inspect::import).collect();
            let view = json!({
                "schema": "wfhost/check/1", "name": name, "digest": digest, "imports": imports,
                "exports": summary.exports, "entries": entries, "failure": failure,
            });
            printer::json(&view);
        }
        // That both fail alike makes it no workflow that works.
        Ok(if failure.is_some() { Exit::RunFailed } else { Exit::Done })
    }

    /// Replays runs against the module.
    async fn replay_runs(
        &self,
        common: &Common,
        name: &str,
        bytes: &[u8],
        denied: Denied,
    ) -> Result<Exit, UserError> {
        // A database is asked for only if there is something to ask it for.
        let asks = self.all || self.replay.iter().any(|run| !Path::new(run).is_file());
        let store: SharedStore = if asks { common.reader().await? } else { Arc::new(MemStore::default()) };
        // The module is not put into the database: this looks and does not touch.
        let memory: SharedStore = Arc::new(MemStore::default());
        let host = common.host(memory, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let module = host.add_module_with(name, bytes, denied).await?;
        let (mut count, mut differ) = (0, 0);
        // One after the other: together the journals of all runs may be larger than the memory.
        let mut check = async |run: RunId, journal: Journal| {
            let checked = host.check_against(&run, journal, &module).await?;
            let view = UpgradeView::checked(&run, &checked);
            count += 1;
            differ += usize::from(view.why.is_some());
            upgrade::show(common, &view);
            Ok::<_, UserError>(())
        };
        for run in &self.replay {
            if Path::new(run).is_file() {
                let text = std::fs::read_to_string(run).map_err(|error| {
                    UserError::usage("WF0510", format!("{run} cannot be read: {error}"))
                        .hint("name a run by its id, or a file that `wfhost db export` wrote")
                })?;
                let archive = archive::read(&text)?;
                let unusable = |source| HostError::Journal { run: archive.run.info.id.clone(), source };
                let journal = Journal::read(archive.run.rows.clone()).map_err(unusable)?;
                check(archive.run.info.id, journal).await?;
            } else {
                let run = find_run(store.as_ref(), run).await?.id;
                let journal = read_journal(store.as_ref(), &run).await?;
                check(run, journal).await?;
            }
        }
        if self.all {
            let filter = RunFilter { workflow: Some(name.to_owned()), ..RunFilter::default() };
            let unreadable = for_each_run(store.as_ref(), filter, async |info| {
                let journal = read_journal(store.as_ref(), &info.id).await?;
                check(info.id, journal).await
            });
            for row in unreadable.await? {
                printer::warn(common, &format!("not checked: {row}"));
            }
        }
        printer::say(common, "Replayed", &format!("{}, {differ} with differences", counted(count, "run")));
        Ok(if differ > 0 { Exit::Mismatch } else { Exit::Done })
    }

    /// Runs the module in one process and repeats it in another.
    fn run_twice(&self, common: &Common, bytes: &[u8], dir: &Path) -> Result<Twice, UserError> {
        let module = dir.join("checked.wasm");
        std::fs::write(&module, bytes).map_err(failed)?;
        let module = module.to_string_lossy();
        let mut providers = Vec::new();
        for (option, value) in [("--agent", &self.agent), ("--agents", &self.agents)] {
            providers.extend(value.iter().flat_map(|value| [option, value.as_str()]));
        }
        // Dropped at every wait: what is rebuilt by replay on the way counts as well.
        providers.extend(["--evict", "always", "--no-wait"]);
        let config = common.config.as_ref().map(|config| config.to_string_lossy().into_owned());
        providers.extend(config.iter().flat_map(|config| ["--config", config.as_str()]));
        if common.trust {
            providers.push("--trust");
        }
        let mut args = vec!["run", &module, "--id", "checked", "-i", &self.input];
        if self.trap_denied {
            args.push("--trap-denied");
        }
        args.extend(&providers);
        let mut ran = wfhost(dir, FIRST, &args)?;
        let mut resume = vec!["resume", "checked"];
        resume.extend(&providers);
        while ran.status.code() == Some(3) && wait_for_timer(dir)? {
            ran = wfhost(dir, FIRST, &resume)?;
        }
        // It may have failed, or wait for something that does not come: both can be compared.
        if ![Some(0), Some(1), Some(3)].contains(&ran.status.code()) {
            return Err(passed_on(&ran, "the run"));
        }
        let replayed = wfhost(dir, "second", &["replay", "checked", "-o", "json"])?;
        if !replayed.status.success() {
            return Err(passed_on(&replayed, "the second execution"));
        }
        let second = json_of(&replayed)?;
        let first = json_of(&wfhost(dir, FIRST, &["show", "checked", "-o", "json"])?)?;
        let logged = wfhost(dir, FIRST, &["logs", "checked", "-o", "jsonl"])?;
        let lines = String::from_utf8_lossy(&logged.stdout);
        let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let pairs = [
            ("result", &first["output"], &second["output"]),
            ("failure", &first["failure"], &second["failure"]),
            ("published state", &first["published"], &second["published"]),
            ("log", &Value::Array(lines), &second["log"]),
        ];
        for (what, one, other) in pairs {
            if one != other {
                return Err(UserError {
                    details: vec![format!("first   {one}"), format!("second  {other}")],
                    exit: Exit::Mismatch,
                    ..UserError::host("WF0203", format!("the {what} of the two executions differs"))
                });
            }
        }
        let entries = second["entries"].as_u64().unwrap_or_default();
        Ok(Twice { entries, failure: first["failure"].clone() })
    }
}

/// Sleeps as long as the run does. False if it waits for something else, or too long.
fn wait_for_timer(dir: &Path) -> Result<bool, UserError> {
    let run = json_of(&wfhost(dir, FIRST, &["show", "checked", "-o", "json"])?)?;
    let waits = || run["waiting_for"].as_array().into_iter().flatten();
    // What it waited for has come already.
    if waits().any(|wait| wait["kind"] == "host") {
        return Ok(true);
    }
    let until = waits().find(|wait| wait["kind"] == "time");
    let Some(until) = until.and_then(|wait| wait["at"].as_str()?.parse::<jiff::Timestamp>().ok()) else {
        return Ok(false);
    };
    let until = Timestamp(u64::try_from(until.as_millisecond()).unwrap_or(0));
    let left = Duration::from_millis(until.since(clock::now()));
    if left > PATIENCE {
        return Ok(false);
    }
    std::thread::sleep(left);
    Ok(true)
}

/// Runs this program with a database of its own and with its own cache.
fn wfhost(dir: &Path, cache: &str, args: &[&str]) -> Result<Output, UserError> {
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(args).env(environment::DB, dir.join("wfhost.db")).env(environment::CACHE, dir.join(cache));
    command.stdin(Stdio::null()).output().map_err(failed)
}

fn json_of(output: &Output) -> Result<Value, UserError> {
    serde_json::from_slice(&output.stdout).map_err(|_| passed_on(output, "a part of the check"))
}

fn failed(error: std::io::Error) -> UserError {
    UserError::host("WF0204", format!("the module could not be run for a check: {error}"))
}

/// The error of another process, as it reported it.
fn passed_on(output: &Output, what: &str) -> UserError {
    let exit = match output.status.code() {
        Some(5) => Exit::Mismatch,
        _ => Exit::Host,
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    let details = errors.lines().map(str::to_owned).collect();
    UserError { details, exit, ..UserError::host("WF0204", format!("{what} failed")) }
}
