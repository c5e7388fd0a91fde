//! `wfhost run`

use std::path::PathBuf;

use wfhost::clock;
use wfhost::engine::Denied;
use wfhost::{Adopt, Evict, HostError, StartOptions};
use wfhost_core::policy::budget::Budget;
use wfhost_core::{RunConfig, RunId, Sandbox};
use wfhost_view::RunView;

use super::diagnostic::{Exit, Trouble};
use super::place::{AgentArgs, Seed, budget_arg, dir_arg, env_arg, json_arg, label_arg, seed_arg, stack_arg};
use super::registry::Fetch;
use super::{Common, Format, follow, module_arg, plugin_add, printer};

/// The label that says which reference a run's module came by, and what that stood for.
const ORIGIN: &str = "origin";
/// The label that says who signed it.
const SIGNER: &str = "signer";

/// Run a workflow
///
/// Advances the run until it ends, and prints its result. Ctrl-C suspends it:
/// `wfhost resume` continues from there.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost run hello.wasm -i '{\"name\":\"Ada\"}' --agent echo
  wfhost run research.wasm -i @input.json --agents answers.json
  wfhost run hello.wasm --key order-17      the same key never runs twice")]
pub(crate) struct Run {
    /// A component file, a directory with a workflow project, the name or digest of a
    /// module in the database, or one in a registry: REGISTRY/NAME:TAG
    #[arg(default_value = ".")]
    module: String,
    /// The input: JSON, @FILE, or - for stdin
    #[arg(short, long, default_value = "null", value_name = "JSON", allow_negative_numbers = true)]
    input: String,
    /// The id of the run [default: a new one]
    #[arg(long)]
    id: Option<RunId>,
    /// An idempotency key: the same key returns the same run
    #[arg(long)]
    key: Option<String>,
    /// A label, for `ps`
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label_arg)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    agents: AgentArgs,
    /// The budget of the run, like tokens=20k,usd=0.50,time=5m
    #[arg(long, value_name = "BUDGET", value_parser = budget_arg)]
    budget: Option<Budget>,
    /// The maximum number of agent calls in flight
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_parallel: Option<u32>,
    /// Stop when the run only waits, with exit code 3
    #[arg(long, conflicts_with = "detach")]
    no_wait: bool,
    /// Let `wfhost serve` advance the run, and print its id
    #[arg(short, long)]
    detach: bool,
    /// The program's memory limit in MiB
    #[arg(long, value_name = "MIB", default_value_t = RunConfig::default().memory_bytes >> 20, value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory: u64,
    /// The program's stack size in MiB: 1, 2, 4, 8 or 16
    #[arg(long, value_name = "MIB", hide_short_help = true, default_value_t = RunConfig::default().stack_bytes >> 20, value_parser = stack_arg)]
    stack: u64,
    /// The maximum number of instructions between two steps
    #[arg(long, value_name = "N", default_value_t = RunConfig::default().fuel, value_parser = clap::value_parser!(u64).range(1..))]
    fuel: u64,
    /// The maximum number of instructions of the whole run
    #[arg(long, value_name = "N", hide_short_help = true, default_value_t = Sandbox::default().total_fuel, value_parser = clap::value_parser!(u64).range(1..))]
    total_fuel: u64,
    /// The maximum number of journal entries
    #[arg(long, value_name = "N", hide_short_help = true, default_value_t = Sandbox::default().entries, value_parser = clap::value_parser!(u64).range(1..))]
    max_entries: u64,
    /// An environment variable for the program; it is stored in the journal
    #[arg(long, value_name = "NAME=VALUE", value_parser = env_arg)]
    env: Vec<(String, String)>,
    /// Grant read access to a directory, as HOST::GUEST
    #[arg(long = "dir", value_name = "HOST::GUEST", value_parser = dir_arg)]
    dirs: Vec<(PathBuf, String)>,
    /// Accept a module that imports sockets or HTTP; a call to them fails the run
    #[arg(long)]
    trap_denied: bool,
    /// The seed of the random numbers, as 64 hexadecimal digits
    #[arg(long, value_name = "HEX", hide = true, value_parser = seed_arg)]
    seed: Option<Seed>,
    #[command(flatten)]
    fetch: Fetch,
}

impl Run {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let input = json_arg("the input", &self.input)?;
        let mut config = common.config()?;
        config.set_pull(self.fetch.pull());
        let providers = self.agents.providers(&config)?;
        let agent = self.agents.new_run_provider(common, &config, &providers)?;
        let budget = match (self.budget, config.budget()) {
            (Some(given), Some(configured)) => Some(given.or(configured)),
            (given, configured) => given.or(configured),
        };
        let store = common.store().await?;
        let found = module_arg::find(common, Some(store.as_ref()), &self.module, self.fetch).await?;
        let evict = if self.no_wait { Evict::Always } else { self.agents.evict.into() };
        let host = common.host(store, providers.clone(), evict, Adopt::Own)?;
        let denied = if self.trap_denied { Denied::Trap } else { Denied::Refuse };
        let module = match host.add_module_with(&found.name, &found.bytes, denied).await {
            Ok(module) => module,
            Err(error) => {
                plugin_add::is_workflow(&found.name, &found.bytes, &self.module)?;
                return Err(error.into());
            }
        };
        let mut labels = self.labels.clone();
        if let Some(origin) = &found.origin
            && labels.iter().all(|(key, _)| key != ORIGIN)
        {
            labels.push((ORIGIN.to_owned(), origin.exact()));
            labels.extend(origin.signers.iter().take(1).map(|signer| (SIGNER.to_owned(), signer.clone())));
        }
        let mut grants = Vec::new();
        for (path, guest) in &self.dirs {
            grants.push(host.grant(path, guest).await?);
        }
        let options = StartOptions {
            input,
            id: self.id.clone(),
            key: self.key.clone(),
            labels,
            config: RunConfig {
                agent,
                memory_bytes: self.memory << 20,
                stack_bytes: self.stack << 20,
                fuel: self.fuel,
                script: self.agents.script(),
                budget,
                max_parallel: self.max_parallel,
                modules: found.directory,
                project: config.project_name(),
                sandbox: Some(Sandbox {
                    total_fuel: self.total_fuel,
                    entries: self.max_entries,
                    env: self.env.clone(),
                    grants,
                    ..Sandbox::default()
                }),
            },
            seed: self.seed.map(|Seed(seed)| seed),
        };
        let now = clock::now();
        // The same key gives the same run, also if that began long ago.
        let is_known = async |id: &RunId| -> Result<bool, Trouble> {
            let info = host.store().run(id).await?;
            Ok(self.key.is_some() && info.is_some_and(|info| info.created_at < now))
        };
        if self.detach {
            let id = host.enqueue(&module, options).await?;
            match is_known(&id).await? {
                true => printer::say(common, "Duplicate", &format!("{id} already has this key")),
                false => printer::say(common, "Queued", &format!("{id}; `wfhost serve` advances it")),
            }
            match common.output {
                Format::Text => printer::line(id.as_str()),
                _ => {
                    let info = host.store().run(&id).await?.ok_or(HostError::NoSuchRun(id))?;
                    printer::json(&RunView::of(&info));
                }
            }
            return Ok(Exit::Done);
        }
        let signals = follow::Signals::new()?;
        let handle = host.start(&module, options, Some(providers)).await?;
        let beginning = match is_known(&handle.id).await? {
            true => follow::Beginning::Known,
            false => follow::Beginning::Started,
        };
        follow::follow(common, &host, signals, handle, beginning, self.no_wait).await
    }
}
