//! Configuration: `wfhost.toml` of the project and of the user.
//!
//! ```toml
//! [store]
//! url = "wfhost.db"              # the database, relative to the file; or postgres://...
//!
//! [agents]
//! default = "claude"             # who answers calls that name no provider
//! retry = { max_attempts = 3, initial = "1s", factor = 2.0, max = "60s", jitter = 0.1, fatal = [] }
//! limits = { attempt = "30m", total = "2h", heartbeat = "5m" }
//! budget = { tokens = 200000, usd = 2.5, time = "1h" }   # of each run that is begun
//!
//! [agents.concurrency]
//! host = 16                      # calls in flight in this process
//! run = 8                        # of each run
//! group = 4                      # of each group without a number of its own
//! groups = { tickets = 2, deploys = { limit = 1, scope = "fleet" } }
//! fleet = 64                     # of all hosts of the database together
//!
//! [providers.NAME]               # see the providers
//! kind = "openai"
//! max_parallel = 4
//! rate = { per_minute = 60, burst = 5 }
//! scope = "fleet"                # of all hosts of the database together; else of each
//!
//! [prices."gpt-5*"]              # US dollars for a million tokens; also "provider/model"
//! input = 1.25
//! output = 10.0
//! cached = 0.125
//!
//! [workspaces.NAME]
//! kind = "worktree"              # also none, scratch, dir (with `path`)
//! repository = "."               # relative to the file
//! base = "main"
//!
//! [webhooks.github]              # POST /hooks/github of `wfhost serve`
//! verify = "github"              # how deliveries are signed: also stripe, standard
//! secret_env = "GITHUB_WEBHOOK_SECRET"   # or secret_file
//! events = ["push"]              # others are left out
//! workflow = "on-push"           # each starts a run of it; or with `signal` and `run` or `run_at`
//!
//! [modules]                      # what names stand for
//! reviewer = "ghcr.io/acme/reviewer:1.4.2"
//!
//! [registries."registry.lan:5000"]
//! plain_http = true              # without TLS; those on this machine are
//! [registries."registry.corp"]
//! ca = "corp.pem"                # who certifies it, instead of those that the machine knows
//!
//! [signatures]
//! default = "warn"               # off, warn, require: what has no good signature
//! keys.acme = "keys/acme.pub"    # a file, or the key in Base64
//! [[signatures.rules]]
//! match = "ghcr.io/acme/*"       # nothing runs from there that is not signed by one of
//! signers = ["acme"]
//!
//! [sinks.ops]                 # who is told of what happens; or `argv`, a program
//! url = "https://example.org/hooks/wfhost"
//! secret_env = "OPS_WEBHOOK_SECRET"
//! events = ["run.failed", "question.asked", "budget.low"]
//! workflows = ["review*"]
//! ```
//!
//! A flag goes before the environment, that before the project's file (found
//! upward from the working directory, within the repository), that before the
//! user's (`~/.config/wfhost/config.toml`), that before the defaults. Keys that
//! are not known are errors. A project's file that names programs, addresses or
//! secrets is obeyed once the user has agreed to it: [`Consent`].

mod error;
mod file;
mod mask;
mod modules;
mod plugin;
mod providers;
mod show;
mod sinks;
mod supply;
mod trust;
pub mod units;
mod webhooks;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use wfhost_agents::{Policy, Providers};
use wfhost_core::policy::budget::Budget;
use wfhost_core::policy::rate::Rate;
use wfhost_core::policy::share;
use wfhost_registry::policy::Rules;
use wfhost_registry::{ClientOptions, Logins, Pull, Reference};
use wfhost_world::private;

pub use self::error::ConfigError;
use self::file::FileConfig;
pub use self::file::is_url;
pub use self::show::{Origin, Setting};
pub use self::sinks::{EVENTS, RESERVED, Sink, SinkTo};
pub use self::trust::{Agreed, Consent};
pub use self::webhooks::{Delivers, Scheme, Target, Webhook};
pub use wfhost_plugins::{DirectoryGrant, Plugin};

/// The name of a project's file.
pub const PROJECT_FILE: &str = "wfhost.toml";

/// One file that was read.
#[derive(Clone, Debug)]
struct Source {
    origin: Origin,
    table: Table,
}

/// What the files say.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Those that go before stand behind.
    sources: Vec<Source>,
    file: FileConfig,
    /// Where workspaces are made.
    workspaces: PathBuf,
    project: Option<Project>,
    /// Whether registries are asked for plugins.
    pull: Pull,
    /// Whether somebody named the project's file: it holds for all runs.
    named: bool,
}

/// The file of a project.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its canonical path.
    pub path: PathBuf,
    pub text: String,
    /// What in it the user has to agree to.
    pub keys: Vec<String>,
    pub agreed: Agreed,
}

/// Where configuration is looked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// This file instead of the project's.
    pub file: Option<PathBuf>,
    /// The project's file if it is known: nobody named it, so it has to be trusted.
    pub project: Option<PathBuf>,
    /// Where the search for the project's file begins.
    pub from: Option<PathBuf>,
    /// Above it nothing is looked for.
    pub home: Option<PathBuf>,
    /// What the user has agreed to.
    pub consent: Consent,
    pub user: Option<PathBuf>,
    /// The directory of the user's data.
    pub data: Option<PathBuf>,
}

impl Places {
    /// Where workspaces are made: a directory for each run.
    pub fn workspaces(&self) -> PathBuf {
        self.data.clone().unwrap_or_default().join("workspaces")
    }
}

impl Config {
    /// Reads the files that there are. One that is found and not named has to be only the user's.
    pub fn load(places: &Places) -> Result<Self, ConfigError> {
        let mut config = Self { workspaces: places.workspaces(), ..Self::default() };
        if let Some(path) = places.user.clone().filter(|path| path.is_file()) {
            let text = private::read_any(&path).map_err(|source| ConfigError::Read { source })?;
            config.add(&path, &text, Origin::User(path.clone()))?;
        }
        let found = || places.from.as_deref().and_then(|from| find_upward(from, places.home.as_deref()));
        let known = || places.project.clone().or_else(found);
        let Some(path) = places.file.clone().or_else(known) else { return Ok(config) };
        let real = path.canonicalize();
        let real = real.map_err(|source| private::NotPrivate::Io { path: path.clone(), source });
        let real = real.map_err(|source| ConfigError::Read { source })?;
        let named = places.file.is_some();
        config.named = named;
        let text = match named || places.consent.names(&real) {
            true => private::read_any(&real).map_err(|source| ConfigError::Read { source })?,
            false => {
                private::read(&path).map_err(|source| ConfigError::Stranger { path: path.clone(), source })?
            }
        };
        let own: Vec<String> = config.configured_providers().map(str::to_owned).collect();
        // What the user agreed to is the file at its real place, with what stands beside it there. Beside a
        // link to it anything may stand.
        let table = config.add(&real, &text, Origin::Project(real.clone()))?;
        if real.is_file() {
            let agreed = if named { Agreed::Yes } else { places.consent.agreed(&real, &text) };
            let keys = trust::keys_to_agree(&real, &table, &own);
            config.project = Some(Project { path: real, text, keys, agreed });
        }
        Ok(config)
    }

    /// Adds a file that goes before those that were added before.
    fn add(&mut self, path: &Path, text: &str, origin: Origin) -> Result<Table, ConfigError> {
        let (table, file) = file::parse(path, text)?;
        self.file = std::mem::take(&mut self.file).overlaid(file);
        self.sources.push(Source { origin, table: table.clone() });
        Ok(table)
    }

    /// The project's file, if there is one.
    pub fn project(&self) -> Option<&Project> {
        self.project.as_ref()
    }

    /// What runs of the project are told by: the canonical path of its file.
    pub fn project_name(&self) -> Option<String> {
        self.project.as_ref().map(|project| project.path.to_string_lossy().into_owned())
    }

    /// Fails if the project's file holds something that is asked about, and the user has not agreed.
    fn check_trust(&self, asked: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        let Some(Project { path, keys, agreed, .. }) = &self.project else { return Ok(()) };
        if *agreed == Agreed::Yes || !keys.iter().any(|key| asked(key)) {
            return Ok(());
        }
        Err(ConfigError::Untrusted {
            path: path.clone(),
            keys: keys.clone(),
            before: *agreed == Agreed::Before,
        })
    }

    /// The database that the files name: a path from the root, or the URL of a server.
    pub fn store(&self) -> Result<Option<OsString>, ConfigError> {
        self.check_trust(|key| key == "store.url")?;
        Ok(self.file.store.clone())
    }

    /// What names of modules stand for: references, or absolute paths.
    pub fn modules(&self) -> Result<&BTreeMap<String, String>, ConfigError> {
        self.check_trust(|key| key.starts_with("modules."))?;
        Ok(&self.file.modules)
    }

    /// How registries are spoken to.
    pub fn registries(&self, logins: Logins) -> Result<ClientOptions, ConfigError> {
        self.check_trust(|key| key.starts_with("registries."))?;
        Ok(modules::registries(&self.file.registries, logins))
    }

    /// Whose signatures modules need.
    pub fn signatures(&self) -> Result<Rules, ConfigError> {
        self.check_trust(|key| key == "signatures")?;
        modules::rules(&self.file.signatures)
    }

    /// Who is told of what happens to runs. Those of a project's file are told of its runs.
    pub fn sinks(&self) -> Result<Vec<Sink>, ConfigError> {
        self.check_trust(|key| key.starts_with("sinks."))?;
        let own = self.project.as_ref().filter(|_| !self.named);
        let sinks = self.file.sinks.iter().map(|(path, name, file)| {
            let project = own.filter(|project| project.path == *path).and_then(|_| self.project_name());
            sinks::sink(path, name, file, project.as_deref())
        });
        let mut sinks: Vec<Sink> = sinks.collect::<Result<_, _>>()?;
        // Of two with one name that are told of all runs, that of the file that was named counts.
        sinks.reverse();
        let mut known = std::collections::BTreeSet::new();
        sinks.retain(|sink| known.insert(sink.id.clone()));
        sinks.reverse();
        Ok(sinks)
    }

    /// Who answers calls that name no provider, if the files say it.
    pub fn default_agent(&self) -> Option<&str> {
        self.file.agents.default.as_deref()
    }

    /// What a run that is begun may spend, as far as the files say it.
    pub fn budget(&self) -> Option<Budget> {
        self.file.agents.budget
    }

    /// Whether registries are asked for plugins that are not on this machine.
    pub fn set_pull(&mut self, pull: Pull) {
        self.pull = pull;
    }

    /// The providers that are there without configuration, and the configured
    /// ones, with all that holds for their calls.
    pub fn providers(&self) -> Result<Providers, ConfigError> {
        self.check_trust(|_| true)?;
        providers::make(&self.file, self.policy(), self.pull)
    }

    /// What is done with deliveries of others. Their secrets are not read.
    pub fn webhooks(&self) -> Result<Vec<Webhook>, ConfigError> {
        self.check_trust(|key| key.starts_with("webhooks."))?;
        Ok(self.file.webhooks.values().cloned().collect())
    }

    /// The plugins that were configured.
    pub fn plugins(&self) -> Result<Vec<wfhost_plugins::Plugin>, ConfigError> {
        self.check_trust(|_| true)?;
        providers::plugins(&self.file, self.pull)
    }

    /// The references of plugins that were configured, by the name of the provider, with the file that each
    /// stands in.
    pub fn plugin_references(&self) -> impl Iterator<Item = (&str, &Path, Reference)> {
        self.file.providers.iter().filter(|(_, (_, provider))| provider.kind == "plugin").filter_map(
            |(name, (path, provider))| {
                let plugin = provider.rest.get("plugin")?.as_str()?;
                Some((name.as_str(), path.as_path(), plugin.parse().ok()?))
            },
        )
    }

    /// Whether a text can be a configuration file at that place.
    pub fn check_text(path: &Path, text: &str) -> Result<(), ConfigError> {
        let mut config = Self::default();
        config.add(path, text, Origin::Project(path.to_owned()))?;
        config.check()
    }

    /// Whether all can be used as the files say it. Nothing is, so nobody has to be asked.
    pub fn check(&self) -> Result<(), ConfigError> {
        providers::make(&self.file, self.policy(), self.pull)?;
        for (path, name, file) in &self.file.sinks {
            sinks::sink(path, name, file, None)?;
        }
        modules::rules(&self.file.signatures).map(drop)
    }

    /// The names of the providers that were configured.
    pub fn configured_providers(&self) -> impl Iterator<Item = &str> {
        self.file.providers.keys().map(String::as_str)
    }

    /// Agent calls of one run that may be under way at the same time.
    pub fn parallel_calls(&self) -> Option<u32> {
        self.policy().concurrency.run
    }

    /// The same of each provider, as far as that is a limit of each process.
    pub fn parallel_by_provider(&self) -> BTreeMap<String, u32> {
        let providers = self.policy().providers.into_iter().filter(|(_, policy)| !policy.of_fleet);
        providers.filter_map(|(name, policy)| Some((name, policy.max_parallel?))).collect()
    }

    /// The limits that hold for all hosts of a database together, by what they are about: calls that may be under
    /// way, and how many may begin.
    pub fn fleet_limits(&self) -> BTreeMap<String, (Option<u32>, Option<Rate>)> {
        let Policy { concurrency, providers, .. } = self.policy();
        let all = concurrency.fleet.map(|limit| (share::ALL.to_owned(), (Some(limit), None)));
        let groups = concurrency.fleet_groups.iter();
        let groups = groups.map(|(name, limit)| (share::of_group(name), (Some(*limit), None)));
        let providers = providers.iter().filter(|(_, policy)| policy.of_fleet);
        let providers =
            providers.map(|(name, policy)| (share::of_provider(name), (policy.max_parallel, policy.rate)));
        all.into_iter().chain(groups).chain(providers).collect()
    }

    fn policy(&self) -> Policy {
        self.file.policy(&self.workspaces)
    }

    /// Every value that holds, and where it comes from.
    pub fn settings(&self) -> Vec<Setting> {
        show::settings(&self.sources)
    }
}

/// The project's file in a directory or the nearest one above it, within the repository.
fn find_upward(from: &Path, home: Option<&Path>) -> Option<PathBuf> {
    private::upward(from, home).into_iter().map(|dir| dir.join(PROJECT_FILE)).find(|path| path.is_file())
}

/// A name as a part of a key: in quotes if TOML needs them.
fn part(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { format!("{name:?}") }
}

/// Calls `see` with every value below a table and its key: `agents.retry.max`.
fn walk(prefix: &str, table: &Table, see: &mut impl FnMut(String, &Value)) {
    for (name, value) in table {
        let name = part(name);
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(table) => walk(&key, table, see),
            value => see(key, value),
        }
    }
}
