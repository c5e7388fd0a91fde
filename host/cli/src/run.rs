//! `wfhost run`

use std::path::PathBuf;
use std::time::Duration;

use wfhost::engine::Denied;
use wfhost::world::{environment, fresh_id};
use wfhost::{Adopt, Evict, Host, HostError, HostOptions, Part, StartOptions, Submitted};
use wfhost_core::policy::budget::Budget;
use wfhost_core::trace::parse_traceparent;
use wfhost_core::{Digest, Json, RunConfig, RunId, Sandbox};
use wfhost_view::RunView;

use super::database::Database;
use super::diagnostic::{Exit, UserError};
use super::place::{
    AgentArgs, Seed, budget_arg, dir_arg, env_arg, json_arg, label_arg, length_arg, seed_arg, stack_arg,
};
use super::registry::Fetch;
use super::{Common, Format, follow, module_arg, plugin_add, printer};

/// The label that says which reference a run's module came by, and what that stood for.
const ORIGIN: &str = "origin";
/// The label that says who signed it.
const SIGNER: &str = "signer";
/// The label of a run whose time was skipped where nothing could go on.
pub(super) const VIRTUAL_TIME: (&str, &str) = ("time", "virtual");

/// Run a workflow
///
/// Advances the run until it ends, and prints its result. Ctrl-C suspends it:
/// `wfhost resume` continues from there.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost run hello.wasm -i '{\"name\":\"Ada\"}' --agent echo
  wfhost run research.wasm -i @input.json --agents answers.json
  wfhost run hello.wasm --key order-17      the same key never runs twice
  wfhost run . --virtual-time --signal 'approve={\"ok\":true}@3d'    a week in milliseconds")]
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
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
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
    /// Do not check the input against the module's schema
    #[arg(long, hide_short_help = true)]
    no_check: bool,
    /// Let `wfhost serve` advance the run, and print its id
    #[arg(short, long)]
    detach: bool,
    /// Skip waiting time: a wait of a week takes milliseconds
    #[arg(long, conflicts_with_all = ["detach", "no_wait"])]
    virtual_time: bool,
    /// Send a signal to the run after this virtual time, like 'approve={"ok":true}@3d' (repeatable)
    #[arg(long = "signal", value_name = "NAME[=JSON]@LENGTH", hide_short_help = true, requires = "virtual_time", conflicts_with = "key", value_parser = planned_arg)]
    signals: Vec<PlannedSignal>,
    /// The program's memory limit in MiB
    #[arg(long, value_name = "MIB", hide_short_help = true, default_value_t = RunConfig::default().memory_bytes >> 20, value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory: u64,
    /// The program's stack size in MiB: 1, 2, 4, 8 or 16
    #[arg(long, value_name = "MIB", hide_short_help = true, default_value_t = RunConfig::default().stack_bytes >> 20, value_parser = stack_arg)]
    stack: u64,
    /// The maximum number of instructions between two steps
    #[arg(long, value_name = "N", hide_short_help = true, default_value_t = RunConfig::default().fuel, value_parser = clap::value_parser!(u64).range(1..))]
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
    #[arg(long, hide_short_help = true)]
    trap_denied: bool,
    /// The seed of the random numbers, as 64 hexadecimal digits
    #[arg(long, value_name = "HEX", hide = true, value_parser = seed_arg)]
    seed: Option<Seed>,
    /// The span of the caller, in W3C Trace Context format; the trace of the run links to it
    /// [default: $TRACEPARENT]
    #[arg(long, value_name = "TRACEPARENT", hide_short_help = true)]
    traceparent: Option<String>,
    #[command(flatten)]
    fetch: Fetch,
}

/// A signal that is sent at a virtual time.
#[derive(Clone, Debug)]
struct PlannedSignal {
    name: String,
    payload: Json,
    after: Duration,
}

/// `NAME@LENGTH` or `NAME=JSON@LENGTH`.
fn planned_arg(text: &str) -> Result<PlannedSignal, String> {
    let (signal, after) = text.rsplit_once('@').ok_or("it says after which time: NAME=JSON@3d")?;
    let after = Duration::from_millis(length_arg(after)?);
    let (name, payload) = match signal.split_once('=') {
        Some((name, payload)) => (name, Json::parse(payload.to_owned()).map_err(|error| error.to_string())?),
        None => (signal, Json::null()),
    };
    if name.is_empty() {
        return Err("a signal has a name".to_owned());
    }
    Ok(PlannedSignal { name: name.to_owned(), payload, after })
}

/// Says that the input is not checked, as what the module says cannot be read.
async fn note_unreadable(common: &Common, host: &Host, module: Digest) -> Result<(), UserError> {
    let fault = match host.described(module).await? {
        Err(error) => error.to_string(),
        Ok(None) => return Ok(()),
        Ok(Some(said)) => match said.schema(&Part::Input).await {
            Err(error) => format!("its input schema cannot be used: {error}"),
            Ok(_) => return Ok(()),
        },
    };
    printer::say(
        common,
        "Note",
        &format!("the input is not checked, because the module's description is invalid: {fault}"),
    );
    Ok(())
}

impl Run {
    /// Virtual time is that of one process, and the label that tells of it is not somebody else's.
    fn check_virtual_time(&self, common: &Common) -> Result<(), UserError> {
        if let Database::Server(_) = common.place()? {
            return Err(UserError::usage("WF0829", "time cannot be virtual in a database on a server")
                .hint("its hosts use the clock of the server; use a file: --db try.db"));
        }
        if self.labels.iter().any(|(key, _)| key == VIRTUAL_TIME.0) {
            let text = format!("the label `{}` is reserved for runs with virtual time", VIRTUAL_TIME.0);
            return Err(UserError::usage("WF0829", text).hint("choose another key for the label"));
        }
        Ok(())
    }

    /// Who asks for the run. What the environment has and nobody can read is ignored, as the standard says.
    fn caller(&self) -> Result<Option<String>, UserError> {
        let is_one = |text: &str| parse_traceparent(text).is_some();
        match &self.traceparent {
            Some(given) if is_one(given) => Ok(Some(given.trim().to_owned())),
            Some(given) => Err(UserError::usage("WF0007", format!("`{given}` is not a traceparent"))
                .hint("like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            None => Ok(environment::text(environment::TRACEPARENT).filter(|text| is_one(text))),
        }
    }

    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let input = json_arg("the input", &self.input)?;
        let mut config = common.config()?;
        config.set_pull(self.fetch.pull());
        let providers = self.agents.providers(&config)?;
        let agent = self.agents.new_run_provider(common, &config, &providers)?;
        let budget = Budget::merged(self.budget, config.budget());
        if self.virtual_time {
            self.check_virtual_time(common)?;
        }
        let store = common.store().await?;
        let found = module_arg::find(common, Some(store.as_ref()), &self.module, self.fetch).await?;
        let evict = if self.no_wait { Evict::Always } else { self.agents.evict.into() };
        let options = common.host_options(store, providers.clone(), evict, Adopt::Own)?;
        let host = Host::new(HostOptions { virtual_time: self.virtual_time, ..options })?;
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
        if self.virtual_time {
            labels.push((VIRTUAL_TIME.0.to_owned(), VIRTUAL_TIME.1.to_owned()));
        }
        let mut grants = Vec::new();
        for (path, guest) in &self.dirs {
            grants.push(host.grant(path, guest).await?);
        }
        // Signals are planned for a run that is known before it begins.
        let id = match &self.id {
            None if !self.signals.is_empty() => Some(fresh_id().map_err(HostError::from)?),
            id => id.clone(),
        };
        if let Some(id) = &id {
            for PlannedSignal { name, payload, after } in &self.signals {
                host.plan_signal(id, *after, name, payload.clone())?;
            }
        }
        let options = StartOptions {
            input,
            id,
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
                caller: self.caller()?,
                script_digest: None,
            },
            seed: self.seed.map(|Seed(seed)| seed),
            unchecked: self.no_check,
        };
        if !self.no_check {
            note_unreadable(common, &host, module.digest).await?;
        }
        if self.detach {
            // The same key gives the same run, also if that began long ago.
            let Submitted { run: id, is_new } = host.submit(&module, options).await?;
            match is_new {
                false => printer::say(common, "Duplicate", &format!("{id} already has this key")),
                true => printer::say(common, "Queued", &format!("{id}; `wfhost serve` advances it")),
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
        let beginning = match handle.is_new {
            false => follow::Beginning::Known,
            true => follow::Beginning::Started,
        };
        follow::follow(common, &host, signals, handle, beginning, self.no_wait).await
    }
}
