//! The form of a file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::{Table, Value};
use wfhost_agents::{Concurrency, Policy, ProviderPolicy, WorkspaceConfig, hide_credentials};
use wfhost_core::policy::budget::{Budget, Price, Prices};
use wfhost_core::policy::limits::TimeLimits;
use wfhost_core::policy::rate::Rate;
use wfhost_core::policy::retry::default_retry;
use wfhost_registry::Reference;

use super::sinks::SinkFile;
use super::webhooks::{self, Webhook};
use super::{ConfigError, modules};
use crate::units;

/// What one file says, or several together.
#[derive(Clone, Debug, Default)]
pub(super) struct FileConfig {
    /// A path from the root, or a URL as it stands.
    pub store: Option<OsString>,
    pub agents: Agents,
    /// With the file that each stands in.
    pub providers: BTreeMap<String, (PathBuf, ProviderFile)>,
    pub prices: BTreeMap<String, Price>,
    pub workspaces: BTreeMap<String, (PathBuf, WorkspaceFile)>,
    /// What names of modules stand for: references, or paths.
    pub modules: BTreeMap<String, String>,
    pub registries: BTreeMap<String, RegistryFile>,
    pub webhooks: BTreeMap<String, Webhook>,
    /// Those of all files.
    pub signatures: Vec<(PathBuf, modules::SignaturesFile)>,
    /// Those of all files, with the file and the name of each.
    pub sinks: Vec<(PathBuf, String, SinkFile)>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct StoreFile {
    url: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agents {
    pub default: Option<String>,
    #[serde(default)]
    pub retry: RetryFile,
    #[serde(default)]
    pub limits: LimitsFile,
    #[serde(default, deserialize_with = "budget")]
    pub budget: Option<Budget>,
    #[serde(default)]
    pub concurrency: ConcurrencyFile,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryFile {
    max_attempts: Option<u32>,
    #[serde(default, deserialize_with = "length")]
    initial: Option<u64>,
    factor: Option<f32>,
    #[serde(default, deserialize_with = "length")]
    max: Option<u64>,
    jitter: Option<f32>,
    fatal: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsFile {
    #[serde(default, deserialize_with = "length")]
    attempt: Option<u64>,
    #[serde(default, deserialize_with = "length")]
    total: Option<u64>,
    #[serde(default, deserialize_with = "length")]
    heartbeat: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConcurrencyFile {
    host: Option<u32>,
    run: Option<u32>,
    group: Option<u32>,
    #[serde(default)]
    groups: BTreeMap<String, GroupFile>,
    /// Of all hosts of a database together.
    fleet: Option<u32>,
}

/// The limit of a group, and for whom it holds.
#[derive(Clone, Copy, Debug)]
struct GroupFile {
    limit: u32,
    scope: Scope,
}

impl<'de> Deserialize<'de> for GroupFile {
    /// A number, or a table with more.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            limit: u32,
            #[serde(default)]
            scope: Scope,
        }
        let value = Value::deserialize(deserializer)?;
        if value.is_integer() {
            let limit = value.try_into().map_err(serde::de::Error::custom)?;
            return Ok(Self { limit, scope: Scope::Host });
        }
        let Table { limit, scope } = value.try_into().map_err(|error: toml::de::Error| {
            let form = "it has to be a number, or like { limit = 1, scope = \"fleet\" }";
            serde::de::Error::custom(format!("{form}: {}", error.message().trim()))
        })?;
        Ok(Self { limit, scope })
    }
}

/// For whom a limit holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    /// Each process.
    #[default]
    Host,
    /// All that share a database.
    Fleet,
}

/// What all providers have, and the rest for their kinds.
#[derive(Clone, Debug)]
pub(super) struct ProviderFile {
    pub kind: String,
    pub policy: ProviderPolicy,
    pub rest: Table,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateFile {
    per_minute: u32,
    burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    #[serde(deserialize_with = "dollars")]
    input: u64,
    #[serde(deserialize_with = "dollars")]
    output: u64,
    #[serde(default, deserialize_with = "some_dollars")]
    cached: Option<u64>,
}

/// How a registry is spoken to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistryFile {
    #[serde(default)]
    pub plain_http: bool,
    /// Who certifies it, instead of those that the machine knows: a path, relative to the file.
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkspaceFile {
    kind: WorkspaceKind,
    path: Option<PathBuf>,
    repository: Option<PathBuf>,
    base: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WorkspaceKind {
    None,
    Scratch,
    Dir,
    Worktree,
}

/// A length of time like `90s`, in milliseconds.
fn length<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    units::millis(&text).map(Some).map_err(serde::de::Error::custom)
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Integer(number) => Ok(number as f64),
        Value::Float(number) => Ok(number),
        _ => Err(serde::de::Error::custom("an amount of US dollars has to be a number")),
    }
}

/// US dollars, in millionths.
fn dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    units::micros(&number(deserializer)?.to_string()).map_err(serde::de::Error::custom)
}

fn some_dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    dollars(deserializer).map(Some)
}

fn budget<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Budget>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct BudgetFile {
        tokens: Option<u64>,
        #[serde(default, deserialize_with = "some_dollars")]
        usd: Option<u64>,
        #[serde(default, deserialize_with = "length")]
        time: Option<u64>,
    }
    let BudgetFile { tokens, usd, time } = BudgetFile::deserialize(deserializer)?;
    Ok(Some(Budget { tokens, micros: usd, time_ms: time }))
}

/// Characters of a line that an error shows.
const SHOWN_CHARS: usize = 160;

/// Reads the text of a file.
pub(super) fn parse(path: &Path, text: &str) -> Result<(Table, FileConfig), ConfigError> {
    let table: Table = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text[..start].matches('\n').count() + 1;
        // It may be an address with a password.
        let whole = hide_credentials(text.lines().nth(line - 1).unwrap_or_default());
        let mut shown: String = whole.chars().take(SHOWN_CHARS).collect();
        if shown.len() < whole.len() {
            shown.push_str(" ...");
        }
        ConfigError::Syntax { path: path.to_owned(), line, text: shown, reason: error.message().to_owned() }
    })?;
    // The sections one by one, so that an error knows which it is about.
    let section = |name: &str| table.get(name).cloned();
    for name in table.keys() {
        let known = [
            "store",
            "agents",
            "providers",
            "prices",
            "workspaces",
            "webhooks",
            "modules",
            "registries",
            "signatures",
            "sinks",
        ];
        if !known.contains(&name.as_str()) {
            let message = format!("unknown field `{name}`, expected one of `{}`", known.join("`, `"));
            return Err(ConfigError::of(path, "", &message));
        }
    }
    fn read<T: serde::de::DeserializeOwned + Default>(
        path: &Path,
        name: &str,
        value: Option<Value>,
    ) -> Result<T, ConfigError> {
        match value {
            Some(value) => value
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::of(path, name, error.message())),
            None => Ok(T::default()),
        }
    }
    let store: StoreFile = read(path, "store", section("store"))?;
    let mut agents = Agents::default();
    if let Some(Value::Table(mut given)) = section("agents") {
        agents.retry = read(path, "agents.retry", given.remove("retry"))?;
        agents.limits = read(path, "agents.limits", given.remove("limits"))?;
        agents.concurrency = read(path, "agents.concurrency", given.remove("concurrency"))?;
        let rest: Agents = read(path, "agents", Some(Value::Table(given)))?;
        agents.default = rest.default;
        agents.budget = rest.budget;
    } else if let Some(other) = section("agents") {
        agents = read(path, "agents", Some(other))?;
    }
    let mut config =
        FileConfig { store: store.url.map(|url| database(path, &url)), agents, ..FileConfig::default() };
    let tables: BTreeMap<String, Table> = read(path, "providers", section("providers"))?;
    for (name, table) in tables {
        let provider = provider(path, &name, table)?;
        config.providers.insert(name, (path.to_owned(), provider));
    }
    let prices: BTreeMap<String, Value> = read(path, "prices", section("prices"))?;
    for (pattern, price) in prices {
        let place = format!("prices.{pattern:?}");
        let price =
            price.try_into().map_err(|error: toml::de::Error| ConfigError::of(path, &place, error.message()));
        let PriceFile { input, output, cached } = price?;
        config.prices.insert(pattern, Price { input, output, cached });
    }
    let workspaces: BTreeMap<String, Value> = read(path, "workspaces", section("workspaces"))?;
    for (name, value) in workspaces {
        let place = format!("workspaces.{name}");
        let workspace: Result<WorkspaceFile, _> = value.try_into();
        let workspace = workspace.map_err(|error| ConfigError::of(path, &place, error.message()))?;
        workspace.check().map_err(|reason| ConfigError::Value {
            path: path.to_owned(),
            key: place,
            reason: reason.to_owned(),
        })?;
        config.workspaces.insert(name, (path.to_owned(), workspace));
    }
    let webhooks: BTreeMap<String, Table> = read(path, "webhooks", section("webhooks"))?;
    for (name, table) in webhooks {
        config.webhooks.insert(name.clone(), webhooks::read(path, &name, table)?);
    }
    let modules: BTreeMap<String, String> = read(path, "modules", section("modules"))?;
    for (name, module) in modules {
        config.modules.insert(name.clone(), modules::module(path, &name, &module)?);
    }
    let registries: BTreeMap<String, RegistryFile> = read(path, "registries", section("registries"))?;
    for (host, mut registry) in registries {
        let wrong = |reason: &str| ConfigError::Value {
            path: path.to_owned(),
            key: format!("registries.{host:?}"),
            reason: reason.to_owned(),
        };
        let Some(canonical) = Reference::canonical_registry(&host) else {
            return Err(wrong("it has to be the host of a registry, with its port if there is one"));
        };
        let has_port = |host: &str| host.rsplit(':').next().is_some_and(|port| port.parse() == Ok(443_u16));
        if registry.plain_http && has_port(&host) && !has_port(&canonical) {
            return Err(wrong("port 443 is that of registries with TLS, so `plain_http` cannot hold for it"));
        }
        if registry.plain_http && registry.ca.is_some() {
            return Err(wrong("`ca` and `plain_http` exclude each other"));
        }
        registry.ca = registry.ca.map(|ca| beside(path, &ca));
        config.registries.insert(canonical, registry);
    }
    if let Some(signatures) = section("signatures") {
        config.signatures.push((path.to_owned(), read(path, "signatures", Some(signatures))?));
    }
    let sinks: BTreeMap<String, Value> = read(path, "sinks", section("sinks"))?;
    for (name, sink) in sinks {
        let place = format!("sinks.{name}");
        let sink: Result<SinkFile, toml::de::Error> = sink.try_into();
        let sink = sink.map_err(|error| ConfigError::of(path, &place, error.message()))?;
        config.sinks.push((path.to_owned(), name, sink));
    }
    Ok((table, config))
}

/// Takes what all providers have out of a table.
fn provider(path: &Path, name: &str, mut rest: Table) -> Result<ProviderFile, ConfigError> {
    let place = format!("providers.{name}");
    let wrong = |key: &str, reason: &str| ConfigError::Value {
        path: path.to_owned(),
        key: format!("{place}.{key}"),
        reason: reason.to_owned(),
    };
    let kind = match rest.remove("kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(wrong("kind", "it has to be text")),
        None => return Err(wrong("kind", "it is missing")),
    };
    let max_parallel = match rest.remove("max_parallel") {
        None => None,
        Some(value) => {
            let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
            Some(
                number
                    .filter(|number| *number > 0)
                    .ok_or_else(|| wrong("max_parallel", "it has to be a number of at least 1"))?,
            )
        }
    };
    let rate = match rest.remove("rate") {
        None => None,
        Some(value) => {
            let rate: Result<RateFile, toml::de::Error> = value.try_into();
            let place = format!("{place}.rate");
            let RateFile { per_minute, burst } =
                rate.map_err(|error| ConfigError::of(path, &place, error.message()))?;
            if per_minute == 0 || burst == Some(0) {
                return Err(wrong("rate", "its numbers have to be greater than 0"));
            }
            Some(Rate { per_minute, burst: burst.unwrap_or(1) })
        }
    };
    let scope: Scope = match rest.remove("scope") {
        None => Scope::Host,
        Some(value) => {
            value.try_into().map_err(|_: toml::de::Error| wrong("scope", "it has to be `host` or `fleet`"))?
        }
    };
    if scope == Scope::Fleet && max_parallel.is_none() && rate.is_none() {
        return Err(wrong(
            "scope",
            "it needs `max_parallel` or `rate`: it says whether they hold for each host or for the whole fleet",
        ));
    }
    let policy = ProviderPolicy { max_parallel, rate, of_fleet: scope == Scope::Fleet };
    Ok(ProviderFile { kind, policy, rest })
}

/// A path of a file, which is relative to it.
pub(super) fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Whether a database is on a server, and not in a file.
pub fn is_url(database: &str) -> bool {
    let scheme = database.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The database that a file names.
fn database(file: &Path, url: &Path) -> OsString {
    match url.to_str().is_some_and(is_url) {
        true => url.to_owned().into_os_string(),
        false => beside(file, url).into_os_string(),
    }
}

impl WorkspaceFile {
    fn check(&self) -> Result<(), &'static str> {
        match self.kind {
            WorkspaceKind::Dir if self.path.is_none() => Err("a workspace of kind `dir` needs a `path`"),
            WorkspaceKind::Worktree if self.repository.is_none() => {
                Err("a workspace of kind `worktree` needs a `repository`")
            }
            _ => Ok(()),
        }
    }

    fn config(&self, file: &Path, root: &Path) -> WorkspaceConfig {
        let path = |path: &Option<PathBuf>| beside(file, path.as_deref().unwrap_or(Path::new(".")));
        match self.kind {
            WorkspaceKind::None => WorkspaceConfig::None,
            WorkspaceKind::Scratch => WorkspaceConfig::Scratch { root: root.to_owned() },
            WorkspaceKind::Dir => WorkspaceConfig::Dir { path: path(&self.path) },
            WorkspaceKind::Worktree => WorkspaceConfig::Worktree {
                repository: path(&self.repository),
                base: self.base.clone(),
                root: root.to_owned(),
            },
        }
    }
}

impl FileConfig {
    /// This with what `over` says in the place of it.
    pub fn overlaid(self, over: Self) -> Self {
        let (below, above) = (self.agents, over.agents);
        let (r, s) = (below.retry, above.retry);
        let (l, m) = (below.limits, above.limits);
        let (c, d) = (below.concurrency, above.concurrency);
        let budget = Budget::merged(above.budget, below.budget);
        fn joined<T>(mut below: BTreeMap<String, T>, above: BTreeMap<String, T>) -> BTreeMap<String, T> {
            below.extend(above);
            below
        }
        Self {
            store: over.store.or(self.store),
            agents: Agents {
                default: above.default.or(below.default),
                retry: RetryFile {
                    max_attempts: s.max_attempts.or(r.max_attempts),
                    initial: s.initial.or(r.initial),
                    factor: s.factor.or(r.factor),
                    max: s.max.or(r.max),
                    jitter: s.jitter.or(r.jitter),
                    fatal: s.fatal.or(r.fatal),
                },
                limits: LimitsFile {
                    attempt: m.attempt.or(l.attempt),
                    total: m.total.or(l.total),
                    heartbeat: m.heartbeat.or(l.heartbeat),
                },
                budget,
                concurrency: ConcurrencyFile {
                    host: d.host.or(c.host),
                    run: d.run.or(c.run),
                    group: d.group.or(c.group),
                    groups: joined(c.groups, d.groups),
                    fleet: d.fleet.or(c.fleet),
                },
            },
            providers: joined(self.providers, over.providers),
            prices: joined(self.prices, over.prices),
            workspaces: joined(self.workspaces, over.workspaces),
            webhooks: joined(self.webhooks, over.webhooks),
            modules: joined(self.modules, over.modules),
            registries: joined(self.registries, over.registries),
            signatures: [self.signatures, over.signatures].concat(),
            sinks: [self.sinks, over.sinks].concat(),
        }
    }

    /// What holds for agent calls. Workspaces are made below `root`.
    pub fn policy(&self, root: &Path) -> Policy {
        let mut retry = default_retry();
        let given = &self.agents.retry;
        retry.max_attempts = given.max_attempts.unwrap_or(retry.max_attempts);
        retry.initial_ms = given.initial.unwrap_or(retry.initial_ms);
        retry.factor = given.factor.unwrap_or(retry.factor);
        retry.max_ms = given.max.unwrap_or(retry.max_ms);
        retry.jitter = given.jitter.unwrap_or(retry.jitter);
        retry.fatal = given.fatal.clone().unwrap_or(retry.fatal);
        let limits = &self.agents.limits;
        let default = TimeLimits::default();
        let mut prices = Prices::default();
        for (pattern, price) in &self.prices {
            prices.set(pattern, *price);
        }
        let ConcurrencyFile { host, run, group, groups, fleet } = self.agents.concurrency.clone();
        let within = |scope: Scope| {
            let groups = groups.iter();
            let groups = groups.filter(|(_, group)| group.scope == scope);
            groups.map(|(name, group)| (name.clone(), group.limit)).collect()
        };
        Policy {
            retry,
            limits: TimeLimits {
                attempt_ms: limits.attempt.unwrap_or(default.attempt_ms),
                total_ms: limits.total,
                heartbeat_ms: limits.heartbeat,
            },
            concurrency: Concurrency {
                host,
                run,
                group,
                groups: within(Scope::Host),
                fleet,
                fleet_groups: within(Scope::Fleet),
            },
            providers: self
                .providers
                .iter()
                .map(|(name, (_, provider))| (name.clone(), provider.policy))
                .collect(),
            prices,
            workspaces: self
                .workspaces
                .iter()
                .map(|(name, (file, workspace))| (name.clone(), workspace.config(file, root)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is written there is read, or refused with the line that it stands in.
        #[test]
        fn any_text_is_read_or_refused(
            lines in proptest::collection::vec(
                prop_oneof![
                    "\\[(agents|providers|workspaces|prices|store|limits)(\\.[a-z\"*]{1,4})?\\]",
                    "(kind|argv|base_url|model|input|path|default|rate|per_minute|max_parallel|scope) = .{0,30}",
                    "[a-z_.]{1,12} = (\"[a-z]*\"|[0-9]{1,25}|-?[0-9.e]{1,9}|true|\\[.{0,9}\\]|\\{.{0,9}\\})",
                    ".{0,40}",
                ],
                0..10,
            ),
        ) {
            let text = lines.join("\n");
            if let Err(error) = parse(Path::new("wfhost.toml"), &text) {
                prop_assert!(error.to_string().len() < 2_000);
            }
        }
    }
}
