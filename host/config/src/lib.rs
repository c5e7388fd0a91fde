//! Configuration: `wfhost.toml` of the project and of the user.
//!
//! ```toml
//! [store]
//! url = "wfhost.db"              # the database, relative to the file
//!
//! [agents]
//! default = "claude"             # who answers calls that name nobody
//! retry = { max_attempts = 3, initial = "1s", factor = 2.0, max = "60s", jitter = 0.1, fatal = [] }
//! limits = { attempt = "30m", total = "2h", heartbeat = "5m" }
//! budget = { tokens = 200000, usd = 2.5, time = "1h" }   # of each run that is begun
//!
//! [agents.concurrency]
//! host = 16                      # calls under way in this process
//! run = 8                        # of each run
//! group = 4                      # of each group without a number of its own
//! groups = { tickets = 2 }
//!
//! [providers.NAME]               # see the providers
//! kind = "openai"
//! max_parallel = 4
//! rate = { per_minute = 60, burst = 5 }
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
//! ```
//!
//! A flag goes before the environment, that before the project's file (found
//! upward from the working directory), that before the user's
//! (`~/.config/wfhost/config.toml`), that before the defaults. Keys that are
//! not known are errors.

mod error;
mod file;
mod providers;
mod show;
pub mod units;

use std::path::{Path, PathBuf};

use toml::{Table, Value};
use wfhost_agents::{Policy, Providers};
use wfhost_core::policy::budget::Budget;

pub use self::error::ConfigError;
use self::file::FileConfig;
pub use self::show::{Origin, Setting};

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
    data: PathBuf,
}

/// Where configuration is looked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// This file instead of the project's.
    pub file: Option<PathBuf>,
    /// Where the search for the project's file begins.
    pub from: Option<PathBuf>,
    pub user: Option<PathBuf>,
    /// Where workspaces are made.
    pub data: Option<PathBuf>,
}

impl Config {
    /// Reads the files that there are.
    pub fn load(places: &Places) -> Result<Self, ConfigError> {
        let project = match &places.file {
            Some(file) => Some(file.clone()),
            None => places.from.as_deref().and_then(find_upward),
        };
        let user = places.user.clone().filter(|path| path.is_file());
        let mut config = Self { data: places.data.clone().unwrap_or_default(), ..Self::default() };
        let files = [(user, true), (project, false)];
        for (path, is_user) in files.into_iter().filter_map(|(path, is_user)| Some((path?, is_user))) {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let (table, file) = file::parse(&path, &text)?;
            config.file = std::mem::take(&mut config.file).overlaid(file);
            let origin = if is_user { Origin::User(path) } else { Origin::Project(path) };
            config.sources.push(Source { origin, table });
        }
        Ok(config)
    }

    /// The database that the files name.
    pub fn store(&self) -> Option<PathBuf> {
        self.file.store.clone()
    }

    /// Who answers calls that name nobody, if the files say it.
    pub fn default_agent(&self) -> Option<&str> {
        self.file.agents.default.as_deref()
    }

    /// What a run that is begun may spend, as far as the files say it.
    pub fn budget(&self) -> Option<Budget> {
        self.file.agents.budget
    }

    /// The providers that are there without configuration, and the configured
    /// ones, with all that holds for their calls.
    pub fn providers(&self) -> Result<Providers, ConfigError> {
        providers::make(&self.file, self.policy())
    }

    /// The names of the providers that were configured.
    pub fn configured_providers(&self) -> impl Iterator<Item = &str> {
        self.file.providers.keys().map(String::as_str)
    }

    fn policy(&self) -> Policy {
        self.file.policy(&self.data.join("workspaces"))
    }

    /// Every value that holds, and where it comes from.
    pub fn settings(&self) -> Vec<Setting> {
        show::settings(&self.sources)
    }
}

/// The project's file in a directory or the nearest one above it.
fn find_upward(from: &Path) -> Option<PathBuf> {
    from.ancestors().map(|dir| dir.join(PROJECT_FILE)).find(|path| path.is_file())
}

/// Calls `see` with every value below a table and its key: `agents.retry.max`.
fn walk(prefix: &str, table: &Table, see: &mut impl FnMut(String, &Value)) {
    for (name, value) in table {
        let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        let name = if bare { name.clone() } else { format!("{name:?}") };
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(table) => walk(&key, table, see),
            value => see(key, value),
        }
    }
}
