//! Where things are: the database, the cache, and which run is meant.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wfhost::agents::{Providers, Scripted, Suggested, suggested};
use wfhost::engine::check_stack;
use wfhost::store::{MemStore, RunInfo, SharedStore};
use wfhost::world::environment;
use wfhost::world::private::{self, NotPrivate};
use wfhost::world::text::quoted;
use wfhost::{Adopt, Evict, Host, HostOptions};
use wfhost_config::{Config, Consent, Places, units};
use wfhost_core::policy::budget::Budget;
use wfhost_core::{Digest, Json, Timestamp, limits};

pub(super) use wfhost_view::{find_run, latest, nearest, read_journal, started};

use super::database::{Database, Opened};
use super::diagnostic::{UserError, section};
use super::{Common, Format, printer};

impl Common {
    /// Which project files the user trusts.
    pub fn consent(&self) -> Consent {
        let given = environment::get(environment::TRUST);
        let all = self.trust || given.as_ref().is_some_and(|given| given == "1");
        Consent {
            records: environment::state_dir().map(|dir| dir.join("trusted")),
            all,
            below: given.iter().flat_map(std::env::split_paths).filter(|path| path.is_absolute()).collect(),
        }
    }

    /// Where configuration and data are, as seen from a directory.
    fn places_from(&self, from: Option<PathBuf>) -> Places {
        Places {
            from,
            home: environment::home(),
            consent: self.consent(),
            user: environment::config_dir().map(|dir| dir.join("config.toml")),
            data: environment::data_dir(),
            ..Places::default()
        }
    }

    /// Where configuration and data are.
    pub fn places(&self) -> Places {
        Places { file: self.config.clone(), ..self.places_from(std::env::current_dir().ok()) }
    }

    /// What the files of the project and of the user say.
    pub fn config(&self) -> Result<Config, UserError> {
        Ok(Config::load(&self.places())?)
    }

    /// The same of the project of a directory.
    pub fn config_of(&self, dir: &Path) -> Result<Config, UserError> {
        Ok(Config::load(&self.places_from(Some(dir.to_owned())))?)
    }

    /// The configuration that a run is executed with: that of its project, or what `--config` names; for
    /// one that belongs to none, what holds here.
    pub fn config_for(&self, info: &RunInfo) -> Result<Config, UserError> {
        let project = info.project.as_ref().filter(|_| self.config.is_none());
        let Some(project) = project.map(PathBuf::from) else { return self.config() };
        // Who else writes the database could name any project that the user trusts.
        if let Some(strange) = self.strange_database() {
            let said = format!(
                "the project of {} is not used, because the database is not trusted: {strange}",
                info.id
            );
            let config = quoted(&project.to_string_lossy()).into_owned();
            return Err(UserError::usage("WF0711", said)
                .hint(format!("to continue the run with it, name it explicitly: `--config {config}`")));
        }
        if !project.is_file() {
            let missing = format!("the project of {} was not found: {}", info.id, project.display());
            return Err(UserError::usage("WF0710", missing)
                .hint("name the configuration to continue with: --config FILE"));
        }
        self.config_of_project(project)
    }

    /// The configuration of a project, by its file.
    pub fn config_of_project(&self, file: PathBuf) -> Result<Config, UserError> {
        Ok(Config::load(&Places { project: Some(file), ..self.places_from(None) })?)
    }

    /// The database that the flags, the environment or the defaults name. A file is made if it is not there.
    pub async fn store(&self) -> Result<SharedStore, UserError> {
        Ok(self.open(&self.place()?).await?.shared())
    }

    /// The same to look into: none is made. A file that is not there has no runs.
    pub async fn reader(&self) -> Result<SharedStore, UserError> {
        let place = self.place()?;
        if !place.is_there() {
            if self.db.is_some() && self.output == Format::Text {
                printer::say(self, "Note", &format!("the database {place} does not exist yet"));
            }
            return Ok(Arc::new(MemStore::default()));
        }
        Ok(self.open(&place).await?.shared())
    }

    /// The database, which has to be there.
    pub async fn existing(&self) -> Result<Opened, UserError> {
        let place = self.place()?;
        if !place.is_there() {
            return Err(UserError::usage("WF0321", format!("the database {place} does not exist"))
                .hint("name another one with --db FILE; `wfhost run` creates one"));
        }
        self.open(&place).await
    }

    /// Where the database is.
    pub fn place(&self) -> Result<Database, UserError> {
        if let Some(database) = &self.db {
            return Ok(database.clone());
        }
        if let Some(named) = self.config()?.store()? {
            return Ok(Database::from(named));
        }
        environment::data_dir().map(|dir| Database::File(dir.join("wfhost.db"))).ok_or_else(|| {
            UserError::host("WF0310", "there is no directory for the database: HOME is not set")
                .hint("name one with --db FILE or WFHOST_DB")
        })
    }

    /// Why the database, which was named, is not only the user's. Who may write to a server is for that to decide.
    fn strange_database(&self) -> Option<NotPrivate> {
        match &self.db {
            Some(Database::File(path)) => private::check_place(path).err(),
            _ => None,
        }
    }

    /// A host over `store`.
    pub fn host(
        &self,
        store: SharedStore,
        providers: Providers,
        evict: Evict,
        adopt: Adopt,
    ) -> Result<Host, UserError> {
        Ok(Host::new(self.host_options(store, providers, evict, adopt)?)?)
    }

    /// How such a host is set up.
    pub fn host_options(
        &self,
        store: SharedStore,
        providers: Providers,
        evict: Evict,
        adopt: Adopt,
    ) -> Result<HostOptions, UserError> {
        let cache = environment::cache_dir();
        let scripts = self.strange_database().is_none();
        let mut options = HostOptions { cache, providers, evict, adopt, scripts, ..HostOptions::new(store) };
        let expected = "a number of milliseconds from 100 to 86400000";
        if let Some(lease) = environment::number(environment::LEASE_MS, 100..=86_400_000, expected)? {
            options.lease_ms = lease;
        }
        Ok(options)
    }
}

/// Who answers the agent calls of a run.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// The default provider of agent calls: a configured one, or echo, human,
    /// openai, anthropic, claude, codex, ... [env: WFHOST_AGENT]
    #[arg(long, value_name = "PROVIDER")]
    pub agent: Option<String>,
    /// Answer agent calls from a file of rules (provider `scripted`)
    #[arg(long, value_name = "FILE")]
    pub agents: Option<PathBuf>,
    /// When a waiting program is dropped from memory
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN", env = environment::EVICT, hide = true)]
    pub evict: EvictArg,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum EvictArg {
    Auto,
    Always,
}

impl From<EvictArg> for Evict {
    fn from(arg: EvictArg) -> Self {
        match arg {
            EvictArg::Auto => Self::AfterGrace,
            EvictArg::Always => Self::Always,
        }
    }
}

impl AgentArgs {
    /// The providers there are: those that need no configuration, the configured
    /// ones and the script's. Runs that were begun without one are answered by
    /// the one that the configuration names or the environment suggests.
    pub fn providers(&self, config: &Config) -> Result<Providers, UserError> {
        let mut providers = config.providers()?;
        if let Some(path) = &self.agents {
            providers.add(Arc::new(Scripted::read(path)?));
        }
        if let Some(name) = &self.agent
            && providers.get(name).is_none()
        {
            return Err(no_provider(name, &providers));
        }
        let fallback = match config.default_agent() {
            Some(name) => Some(providers.get(name).ok_or_else(|| no_provider(name, &providers))?),
            None => suggested().and_then(|suggested| providers.get(suggested.provider)),
        };
        if let Some(provider) = fallback {
            providers.set_fallback(provider);
        }
        Ok(providers)
    }

    /// The providers of one run that is resumed, if others are named
    /// than those that it was started with.
    pub fn other_providers(&self, config: &Config) -> Result<Option<Providers>, UserError> {
        let Some(name) = self.default_provider() else { return Ok(None) };
        let mut providers = self.providers(config)?;
        if let Some(provider) = providers.get(&name) {
            providers.set_default(provider);
        }
        Ok(Some(providers))
    }

    /// Where the script stands, so that a run finds it wherever it goes on.
    pub fn script(&self) -> Option<String> {
        let path = self.agents.as_ref()?.canonicalize().ok()?;
        Some(path.to_string_lossy().into_owned())
    }

    /// The provider that flags name.
    pub fn default_provider(&self) -> Option<String> {
        self.agent.clone().or_else(|| self.agents.is_some().then(|| "scripted".to_owned()))
    }

    /// The provider that a new run is started with: what a flag, the environment
    /// or the configuration names, else what the environment suggests.
    pub fn new_run_provider(
        &self,
        common: &Common,
        config: &Config,
        providers: &Providers,
    ) -> Result<Option<String>, UserError> {
        if let Some(name) = self.default_provider() {
            return Ok(Some(name));
        }
        if let Some(name) = environment::text(environment::AGENT) {
            return match providers.get(&name) {
                Some(_) => Ok(Some(name)),
                None => Err(no_provider(&name, providers)),
            };
        }
        if let Some(name) = config.default_agent() {
            return Ok(Some(name.to_owned()));
        }
        Ok(suggested().map(|Suggested { provider, why }| {
            printer::say(common, "Agent", &format!("{provider}, because {why}"));
            provider.to_owned()
        }))
    }
}

fn no_provider(name: &str, providers: &Providers) -> UserError {
    let known: Vec<_> = providers.names().collect();
    UserError::usage("WF0401", format!("unknown provider `{name}`"))
        .hint(nearest(name, known.iter().copied()).map_or_else(
            || format!("known providers: {}; `scripted` needs --agents FILE", known.join(", ")),
            |nearest| format!("did you mean `{nearest}`?"),
        ))
        .hint(format!("configure it: {} in wfhost.toml", section(name)))
}

/// JSON from an argument: the text itself, `@FILE`, or `-` for stdin.
pub(crate) fn json_arg(what: &str, arg: &str) -> Result<Json, UserError> {
    let unreadable = |error: std::io::Error| {
        UserError::usage("WF0004", format!("{what} cannot be read from `{arg}`: {error}")).because(&error)
    };
    // More than may be, so that the limit that refuses it says by how much.
    let most = 2 * limits::INPUT_BYTES as u64;
    let text = match arg.strip_prefix('@') {
        Some(file) => std::fs::File::open(file).and_then(|file| private::read_at_most(most, file)),
        None if arg == "-" => private::read_at_most(most, std::io::stdin()),
        None => Ok(arg.to_owned()),
    };
    let text = text.map_err(unreadable)?;
    Json::parse(text.clone()).map_err(|error| {
        let trouble = UserError::bad_json(what, &text, &error);
        match arg {
            _ if error.to_string().starts_with("number out of range") => trouble.hint(
                "a number has to be in the range of a double, below 1.8e308; pass a larger one as a string",
            ),
            // A word without quotes is the most frequent mistake.
            _ if !text.trim_start().starts_with(['{', '[', '"']) && !text.trim().is_empty() => trouble
                .hint(format!("text has to be a JSON string: '{}'", serde_json::Value::from(text.trim()))),
            _ => trouble.hint("pass JSON as '{\"key\":\"value\"}', as @FILE, or as - for stdin"),
        }
    })
}

/// `key=value` of `--label`.
pub(crate) fn label_arg(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label has the form key=value".to_owned()),
    }
}

/// `NAME=VALUE` of `--env`.
pub(crate) fn env_arg(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| "a variable has the form NAME=VALUE".to_owned())?;
    if name.is_empty() || text.contains('\0') {
        return Err("a variable needs a name, and must not contain zero bytes".to_owned());
    }
    limits::check("a variable", text.len(), limits::ENV_BYTES).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `HOST::GUEST` of `--dir`.
pub(crate) fn dir_arg(text: &str) -> Result<(PathBuf, String), String> {
    let (host, guest) =
        text.split_once("::").ok_or_else(|| "a directory has the form HOST::GUEST".to_owned())?;
    Ok((PathBuf::from(host), guest.to_owned()))
}

/// The seed of a run's random numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(pub [u8; 32]);

/// 64 hexadecimal digits of `--seed`.
pub(crate) fn seed_arg(text: &str) -> Result<Seed, String> {
    let digest = Digest::parse(text).ok_or_else(|| "a seed has 64 hexadecimal digits".to_owned())?;
    Ok(Seed(digest.0))
}

/// The MiB of `--stack`.
pub(crate) fn stack_arg(text: &str) -> Result<u64, String> {
    let mib: u64 = text.parse().map_err(|error| format!("{error}"))?;
    check_stack(mib.saturating_mul(1 << 20)).map_err(|error| error.to_string())?;
    Ok(mib)
}

/// At most so many, of `-n`.
pub(crate) fn count_arg(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it has to be a number of at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

/// A duration like `90s`, `15m`, `2h`, `7d`, in milliseconds.
pub(crate) fn length_arg(text: &str) -> Result<u64, String> {
    units::millis(text)
}

/// `tokens=20k,usd=0.50,time=5m` of `--budget`.
pub(crate) fn budget_arg(text: &str) -> Result<Budget, String> {
    let mut budget = Budget::default();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name.trim() {
            "tokens" => budget.tokens = Some(units::count(value)?),
            "usd" => budget.micros = Some(units::micros(value)?),
            "time" => budget.time_ms = Some(units::millis(value)?),
            _ => return Err("a budget has the form tokens=20k,usd=0.50,time=5m, or some of these".to_owned()),
        }
    }
    Ok(budget)
}

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Since {
    At(Timestamp),
    /// So many milliseconds before now.
    Before(u64),
}

impl Since {
    /// `now`: of the store that is asked, by which its runs are judged.
    pub fn time(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Before(millis) => Timestamp(now.0.saturating_sub(millis)),
        }
    }
}

/// A point in time: RFC 3339, or a duration before now.
pub(crate) fn since_arg(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Since::At(Timestamp(u64::try_from(time.as_millisecond()).unwrap_or(0))));
    }
    length_arg(text)
        .map(Since::Before)
        .map_err(|error| format!("neither a time like 2026-01-31T12:00:00Z nor a duration: {error}"))
}
