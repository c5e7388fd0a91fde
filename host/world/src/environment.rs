//! Every environment variable that wfhost reads or sets, in one place. `docs/environment.md` is made
//! of this list, and a test keeps it so.

use std::ffi::OsString;
use std::path::PathBuf;

/// A variable, as people are told of it.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    pub name: &'static str,
    /// In Markdown.
    pub meaning: &'static str,
}

macro_rules! variables {
    ($list:ident: $($(#[doc = $meaning:literal])+ $id:ident = $name:literal;)*) => {
        $($(#[doc = $meaning])+ pub const $id: &str = $name;)*
        /// All of them.
        pub const $list: &[Variable] =
            &[$(Variable { name: $name, meaning: concat!($($meaning),+) }),*];
    };
}

variables! { READ:
    /// The database: a file, or a PostgreSQL URL; same as `--db`.
    DB = "WFHOST_DB";
    /// The configuration file; same as `--config`.
    CONFIG = "WFHOST_CONFIG";
    /// The default provider of agent calls; same as `--agent`.
    AGENT = "WFHOST_AGENT";
    /// Project files to trust in addition to those of `wfhost trust`: `1` for all files that only you
    /// or root can write, or a list of directories separated by `:`, regardless of who owns the files
    /// below them. For CI.
    TRUST = "WFHOST_TRUST";
    /// What a commit survives: `full` or `normal`; same as `--synchronous`.
    SYNCHRONOUS = "WFHOST_SYNCHRONOUS";
    /// When waiting programs are evicted from memory: `auto`, or `always` to test that they behave
    /// the same after a replay.
    EVICT = "WFHOST_EVICT";
    /// The cache directory for compiled modules \[default: `wfhost` in the user's cache directory\].
    CACHE = "WFHOST_CACHE";
    /// The address that the server listens on, or `off`; same as `wfhost serve --listen`.
    LISTEN = "WFHOST_LISTEN";
    /// The socket on which `wfhost serve` notifies systemd that it is ready or stopping; set by systemd for
    /// services with `Type=notify`.
    NOTIFY_SOCKET = "NOTIFY_SOCKET";
    /// The log format of `wfhost serve`: `text` or `json`; same as `--log-format`.
    LOG_FORMAT = "WFHOST_LOG_FORMAT";
    /// The duration of a lease, in milliseconds, from 100 to 86,400,000 \[default: 30000\].
    LEASE_MS = "WFHOST_LEASE_MS";
    /// The number of executions of each scenario in `wfhost test`; same as `--executions`.
    EXECUTIONS = "WFHOST_EXECUTIONS";
    /// The maximum size of a database file, in pages of 4 KiB.
    MAX_PAGES = "WFHOST_MAX_PAGES";
    /// The password for PostgreSQL, if the URL has none.
    PGPASSWORD = "PGPASSWORD";
    /// The API key for Anthropic. If it is set, `anthropic` is the default provider.
    ANTHROPIC_API_KEY = "ANTHROPIC_API_KEY";
    /// The API key for OpenAI, for the provider `openai`.
    OPENAI_API_KEY = "OPENAI_API_KEY";
    /// The passphrase of an encrypted signing key.
    KEY_PASSPHRASE = "WFHOST_KEY_PASSPHRASE";
    /// The directory with Docker's registry logins \[default: `~/.docker`\].
    DOCKER_CONFIG = "DOCKER_CONFIG";
    /// The file with podman's registry logins \[default: `containers/auth.json` in the runtime directory\].
    REGISTRY_AUTH_FILE = "REGISTRY_AUTH_FILE";
    /// The runtime directory, where podman stores logins.
    XDG_RUNTIME_DIR = "XDG_RUNTIME_DIR";
    /// The directory of the WASI SDK, for building programs in C.
    WASI_SDK_PATH = "WASI_SDK_PATH";
    /// The user's directories \[default: `~/.config`, `~/.local/share`, `~/.local/state`, `~/.cache`\].
    XDG_CONFIG_HOME = "XDG_CONFIG_HOME";
    /// See `XDG_CONFIG_HOME`.
    XDG_DATA_HOME = "XDG_DATA_HOME";
    /// See `XDG_CONFIG_HOME`.
    XDG_STATE_HOME = "XDG_STATE_HOME";
    /// See `XDG_CONFIG_HOME`.
    XDG_CACHE_HOME = "XDG_CACHE_HOME";
    /// The collector to which spans are sent. If set, `wfhost serve` sends them continuously.
    OTEL_EXPORTER_OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT";
    /// The full URL for traces; takes precedence over the endpoint above.
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    /// Headers for the collector: `name=value,name=value`.
    OTEL_EXPORTER_OTLP_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS";
    /// The same for traces only; takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_HEADERS = "OTEL_EXPORTER_OTLP_TRACES_HEADERS";
    /// The protocol: `http/json` or `http/protobuf` \[default: `http/json`\].
    OTEL_EXPORTER_OTLP_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL";
    /// The same for traces only; takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
    /// The timeout for a request to the collector, in milliseconds \[default: 10000\].
    OTEL_EXPORTER_OTLP_TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT";
    /// The same for traces only; takes precedence.
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT";
    /// The interval at which ended spans are sent, in milliseconds \[default: 5000\].
    OTEL_BSP_SCHEDULE_DELAY = "OTEL_BSP_SCHEDULE_DELAY";
    /// `none`: no spans are sent, whatever else is set.
    OTEL_TRACES_EXPORTER = "OTEL_TRACES_EXPORTER";
    /// `true`: same as `OTEL_TRACES_EXPORTER=none`.
    OTEL_SDK_DISABLED = "OTEL_SDK_DISABLED";
    /// The service name in spans \[default: `wfhost`\].
    OTEL_SERVICE_NAME = "OTEL_SERVICE_NAME";
    /// Additional resource attributes: `name=value,name=value`.
    OTEL_RESOURCE_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES";
    /// The directory with the configuration of Codex, for `wfhost mcp install` \[default: `~/.codex`\].
    CODEX_HOME = "CODEX_HOME";
    /// The home directory. wfhost does not search for projects above it.
    HOME = "HOME";
    /// The user who answers a question, unless `--by` names one.
    USER = "USER";
    /// The directories that are searched for programs.
    PATH = "PATH";
    /// If set and not empty, output has no colours.
    NO_COLOR = "NO_COLOR";
    /// If set and not `0`, output has colours even if it does not go to a terminal.
    CLICOLOR_FORCE = "CLICOLOR_FORCE";
}

variables! { SET:
    /// The run that calls the agent, or that the event is about.
    RUN = "WFHOST_RUN";
    /// The step within the run.
    STEP = "WFHOST_STEP";
    /// The number of the attempt, from 1.
    ATTEMPT = "WFHOST_ATTEMPT";
    /// The idempotency key: the same for all attempts of a step.
    KEY = "WFHOST_KEY";
    /// A file with the latest heartbeat of the previous attempt, if it reported one.
    HEARTBEAT_FILE = "WFHOST_HEARTBEAT_FILE";
    /// The span of the attempt, for the program's own traces (W3C Trace Context).
    TRACEPARENT = "TRACEPARENT";
    /// For programs of sinks: the message id, the same for each delivery attempt.
    MESSAGE = "WFHOST_MESSAGE";
    /// For programs of sinks: the kind of the event.
    EVENT = "WFHOST_EVENT";
    /// An id of the call, by which the host finds the call's processes.
    CALL = "WFHOST_CALL";
}

/// A variable that is set and not empty.
pub fn get(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The same as text; what is not UTF-8 is not set.
pub fn text(name: &str) -> Option<String> {
    get(name)?.into_string().ok()
}

/// A variable whose value cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the environment variable {name} is `{value}`, which is not {expected}")]
pub struct BadVariable {
    pub name: &'static str,
    pub value: String,
    pub expected: &'static str,
}

/// A whole number in a range, if the variable is set.
pub fn number(
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
    expected: &'static str,
) -> Result<Option<u64>, BadVariable> {
    let Some(value) = get(name) else { return Ok(None) };
    let value = value.to_string_lossy();
    match value.trim().parse().ok().filter(|number| range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(BadVariable { name, value: value.into_owned(), expected }),
    }
}

/// The user's home directory.
pub fn home() -> Option<PathBuf> {
    get(HOME).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A directory of the user: `$VARIABLE/wfhost`, else `~/FALLBACK/wfhost`.
fn user_dir(variable: &str, fallback: &str) -> Option<PathBuf> {
    let base = get(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    Some(base.or_else(|| home().map(|home| home.join(fallback)))?.join("wfhost"))
}

/// Where the user's configuration is.
pub fn config_dir() -> Option<PathBuf> {
    user_dir(XDG_CONFIG_HOME, ".config")
}

/// Where the database and workspaces are.
pub fn data_dir() -> Option<PathBuf> {
    user_dir(XDG_DATA_HOME, ".local/share")
}

/// Where it is kept which projects are trusted.
pub fn state_dir() -> Option<PathBuf> {
    user_dir(XDG_STATE_HOME, ".local/state")
}

/// Where compiled modules and what builds need is kept.
pub fn cache_dir() -> Option<PathBuf> {
    get(CACHE).map(PathBuf::from).or_else(|| user_dir(XDG_CACHE_HOME, ".cache"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn page() -> String {
        let table = |variables: &[Variable]| {
            let lines = variables.iter().map(|Variable { name, meaning }| {
                let meaning = meaning.replace("\\[", "[").replace("\\]", "]").replace("  ", " ");
                format!("| `{name}` | {} |\n", meaning.trim())
            });
            format!("| variable | meaning |\n| --- | --- |\n{}", lines.collect::<String>())
        };
        format!(
            "# Environment variables\n\nFlags take precedence over environment variables, and these over configuration files. \
             This page is generated from\n`host/world/src/environment.rs`.\n\n## Read by wfhost\n\n{}\nProviders read \
             other variables, which the configuration names: [Providers](providers.md).\n\n## Set for programs of agents and sinks\n\n{}",
            table(READ),
            table(SET)
        )
    }

    #[test]
    fn the_page_is_made_of_the_list() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/environment.md");
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        if written != page() {
            let new = std::env::temp_dir().join("environment.md");
            std::fs::write(&new, page()).unwrap();
            panic!("{} is not up to date: copy {}", path.display(), new.display());
        }
    }

    /// Variables that tests set, and that a release does not know.
    const TESTS: [&str; 2] = ["WFHOST_ABORT_AT", "WFHOST_NO_SUCH"];

    /// In the sources of all crates of the host.
    #[test]
    fn no_variable_is_read_that_is_not_listed() {
        fn names(directory: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    names(&path, found);
                } else if let Ok(text) = std::fs::read_to_string(&path) {
                    for (at, _) in text.match_indices("WFHOST_") {
                        let name = |c: &char| c.is_ascii_uppercase() || *c == '_';
                        found.push(text[at..].chars().take_while(name).collect());
                    }
                }
            }
        }
        let host = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let crates = std::fs::read_dir(host).unwrap().map(|entry| entry.unwrap().path().join("src"));
        let mut found = Vec::new();
        for src in crates.chain([host.join("src")]).filter(|src| src.is_dir()) {
            names(&src, &mut found);
        }
        let known: Vec<_> = READ.iter().chain(SET).map(|variable| variable.name).collect();
        let passes = |name: &&String| {
            known.contains(&name.as_str())
                || TESTS.iter().any(|test| name.starts_with(test))
                || *name == "WFHOST_"
        };
        let unknown: Vec<_> = found.iter().filter(|name| !passes(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_value_that_cannot_be_used_is_an_error() {
        // Cargo sets it for its tests.
        let wrong = number("CARGO_PKG_NAME", 1..=2, "a number").unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "the environment variable CARGO_PKG_NAME is `wfhost-world`, which is not a number"
        );
        assert_eq!(number("WFHOST_NO_SUCH_VARIABLE", 1..=2, "a number"), Ok(None));
    }
}
