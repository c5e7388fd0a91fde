//! `wfhost serve`

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::future::join_all;
use tokio::sync::watch;
use wfhost::agents::Providers;
use wfhost::store::{Projects, RunFilter, StoreError, TokenKind};
use wfhost::world::environment;
use wfhost::{Adopt, Configurations};
use wfhost_config::{Config, Origin, Setting, Sink};
use wfhost_core::counted;
use wfhost_server::{Address, Defaults, Drainer, Metrics, MetricsServer, ServeError, Server};

use super::config::in_force;
use super::database::Database;
use super::diagnostic::{Exit, UserError};
use super::log::{Log, LogFormat, Watch};
use super::notify::{State, notify};
use super::place::{AgentArgs, length_arg};
use super::{Common, follow, printer, tell};

/// Advance all due runs, and serve the API and the web pages
///
/// Runs are due because of timers, signals, answers, cancellation requests, or because
/// they are new or their process died. Serves the runs of the project here, of each
/// --project, and of no project, each with its project's configuration. Any number of
/// processes can serve one database. On Ctrl-C or SIGTERM it claims no more runs and
/// waits for the calls in flight; a second signal stops them, and the next process
/// makes them again.
///
/// Over HTTP it serves an API, live events and web pages. Every client needs a token,
/// also on this machine; the printed URL logs a browser in, once. https://github.com/wfhost/wfhost/blob/main/docs/server.md
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost serve
  wfhost serve --max-live 200 --grace 5m
  wfhost serve --listen unix:/run/wfhost.sock
  wfhost serve --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem --allow-host wf.example.org
  wfhost serve --project ~/src/reviews --project ~/src/reports
  wfhost serve --namespace red=/srv/red.db --namespace blue=/srv/blue.db")]
pub(crate) struct Serve {
    #[command(flatten)]
    agents: AgentArgs,
    /// Serve this project, a directory with a wfhost.toml, with its own
    /// configuration; may be repeated [default: the one here]
    #[arg(long = "project", value_name = "DIR", conflicts_with = "all")]
    projects: Vec<PathBuf>,
    /// Serve the runs of all projects, each with its project's configuration
    #[arg(long)]
    all: bool,
    /// Also serve this database below /ns/NAME, with its own tokens and its own
    /// programs in memory; may be repeated
    #[arg(long = "namespace", value_name = "NAME=DB", value_parser = OsStringValueParser::new().try_map(namespace_arg))]
    namespaces: Vec<Namespace>,
    /// The maximum number of programs in memory; the other runs wait
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    max_live: u32,
    /// How long to wait for calls in flight on shutdown
    #[arg(long, value_name = "LENGTH", default_value = "30s", value_parser = length_arg)]
    grace: u64,
    /// Exit after being idle for this long
    #[arg(long, value_name = "LENGTH", value_parser = length_arg)]
    idle: Option<u64>,
    /// Send trace spans to this collector with OTLP over HTTP [default:
    /// OTEL_EXPORTER_OTLP_ENDPOINT, if it is set]
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Include prompts, answers and failure messages in spans
    #[arg(long)]
    otlp_content: bool,
    /// The format of the log on stderr
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT", env = environment::LOG_FORMAT)]
    log_format: LogFormat,
    #[command(flatten)]
    network: Network,
}

/// Where and to whom the server answers.
#[derive(clap::Args)]
pub(super) struct Network {
    /// The address to listen on: HOST:PORT, unix:PATH, or off [default: 127.0.0.1:7777, if it is free]
    #[arg(long, value_name = "ADDRESS", env = environment::LISTEN)]
    listen: Option<String>,
    /// The public URL behind a proxy: https://wf.example.org
    #[arg(long, value_name = "URL", value_parser = url_arg)]
    public_url: Option<String>,
    /// An accepted host name besides localhost; may be repeated
    #[arg(long = "allow-host", value_name = "NAME")]
    hosts: Vec<String>,
    /// The TLS certificate with its chain, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Reject all changes through the server
    #[arg(long)]
    read_only: bool,
    /// Offer each module to MCP clients as a tool of its own
    #[arg(long)]
    mcp_workflows: bool,
    /// Serve Prometheus metrics at this address without a token, to every client that
    /// can reach it; with a token they are at /metrics of the server
    #[arg(long, value_name = "ADDRESS", value_parser = address_arg)]
    metrics: Option<Address>,
}

/// A database of a namespace.
#[derive(Clone, Debug)]
struct Namespace {
    name: String,
    database: Database,
}

/// The same once it is open.
struct Space {
    name: String,
    common: Common,
    host: wfhost::Host,
    observed: Observed,
}

/// What is known of a host that advances the runs of a database.
#[derive(Clone)]
struct Observed {
    metrics: Arc<Metrics>,
    /// See [`Watch::quiet`].
    quiet: watch::Receiver<Option<Duration>>,
}

impl Observed {
    /// With what fills it and writes the log.
    fn begin(log: Option<Log>) -> (Self, Option<Arc<dyn wfhost::Observer>>) {
        let metrics = Arc::<Metrics>::default();
        let (sender, quiet) = watch::channel(None);
        let watch = Watch { metrics: Arc::clone(&metrics), log, quiet: sender };
        (Self { metrics, quiet }, Some(Arc::new(watch)))
    }
}

fn namespace_arg(given: OsString) -> Result<Namespace, String> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = given.as_bytes();
    let parts = bytes.iter().position(|byte| *byte == b'=').map(|at| (&bytes[..at], &bytes[at + 1..]));
    match parts.and_then(|(name, place)| Some((std::str::from_utf8(name).ok()?, place))) {
        Some((name, place)) if !name.is_empty() && !place.is_empty() => Ok(Namespace {
            name: name.to_owned(),
            database: Database::from(OsString::from_vec(place.to_vec())),
        }),
        _ => Err("a name and a database, like red=/srv/red.db".to_owned()),
    }
}

fn address_arg(text: &str) -> Result<Address, String> {
    text.parse()
}

fn url_arg(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => Ok(text.to_owned()),
        _ => Err("a URL without a path, like https://wf.example.org".to_owned()),
    }
}

/// What is said of a path where something else is than a socket.
const NOT_REPLACED: &str = "only a socket is replaced: name a path where nothing is, or remove what is there";

/// Where it answers if nothing else is said.
const USUAL: &str = "127.0.0.1:7777";

impl Network {
    /// The server; none if there is to be none, or if another one has the usual address.
    pub async fn bind(
        &self,
        common: &Common,
        host: &wfhost::Host,
        defaults: Defaults,
        sinks: &[Sink],
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Server>, UserError> {
        if self.listen.as_deref() == Some("off") {
            return Ok(None);
        }
        let asked = self.listen.as_deref();
        let listen: Address = asked.unwrap_or(USUAL).parse().map_err(|error| {
            UserError::usage("WF0811", format!("invalid address for `--listen`: {error}"))
                .hint("omit it for 127.0.0.1:7777, which is reachable only from this machine")
        })?;
        if !listen.is_local() {
            let tokens = host.store().tokens().await?;
            if !tokens.iter().any(|token| token.kind == TokenKind::Bearer) {
                return Err(UserError::usage(
                    "WF0811",
                    format!("{listen} is reachable from other machines, but there are no tokens"),
                )
                .hint("create one first: `wfhost token new NAME --scope admin`")
                .hint("or listen on this machine only: `wfhost serve`"));
            }
            let is_tls = self.tls_cert.is_some()
                || self.public_url.as_ref().is_some_and(|url| url.starts_with("https:"));
            if !is_tls {
                printer::say(common, "Note", "connections are not encrypted: use --tls-cert or a TLS proxy");
            }
        }
        let options = self.options(common, listen, defaults, sinks, metrics)?;
        for hook in &options.webhooks {
            if let Err(error) = hook.secret.read() {
                let text = format!("the webhook {} accepts no deliveries: {error}", hook.name);
                printer::say(common, "Note", &text);
            }
        }
        match Server::bind(host.clone(), options).await {
            Ok(server) => Ok(Some(server)),
            // Another process serves already, most likely this database: both advance runs.
            Err(ServeError::Listen { source, .. })
                if asked.is_none() && source.kind() == ErrorKind::AddrInUse =>
            {
                printer::say(
                    common,
                    "Note",
                    &format!("{USUAL} is in use, so this process only advances runs"),
                );
                Ok(None)
            }
            Err(ServeError::Host(error)) => Err(error.into()),
            Err(error @ ServeError::Tls(_)) => Err(UserError::usage("WF0811", error.to_string())
                .hint("both have to be PEM files: the certificate with its chain, and its key")),
            Err(error @ ServeError::Namespace { .. }) => Err(UserError::usage("WF0811", error.to_string())),
            Err(ref error @ ServeError::Listen { ref source, .. }) => {
                let trouble = UserError::host("WF0810", error.to_string()).because(error);
                let trouble = match source.kind() {
                    ErrorKind::AlreadyExists => trouble.hint(NOT_REPLACED),
                    _ => trouble,
                };
                Err(trouble.hint("choose another address with --listen, or `--listen off`"))
            }
        }
    }

    /// How a server is set up that listens there.
    fn options(
        &self,
        common: &Common,
        listen: Address,
        defaults: Defaults,
        sinks: &[Sink],
        metrics: &Arc<Metrics>,
    ) -> Result<wfhost_server::Options, UserError> {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        let (settings, webhooks) = (self.settings(common, &defaults.config)?, defaults.config.webhooks()?);
        Ok(wfhost_server::Options {
            listen,
            tls: tls.map(|(certificate, key)| wfhost_server::Tls { certificate, key }),
            public_url: self.public_url.clone(),
            hosts: self.hosts.clone(),
            read_only: self.read_only,
            defaults,
            mcp_workflows: self.mcp_workflows,
            settings,
            webhooks,
            sinks: sinks.to_vec(),
            metrics: Arc::clone(metrics),
        })
    }

    /// What holds, for the page of settings: what `wfhost config show` says, and how the server is set up.
    fn settings(&self, common: &Common, here: &Config) -> Result<Vec<Setting>, UserError> {
        let mut settings = in_force(common, here)?;
        let by_environment = environment::text(environment::LISTEN);
        let listen = match &self.listen {
            None => (USUAL.to_owned(), Origin::Default),
            Some(listen) if by_environment.as_ref() == Some(listen) => {
                (listen.clone(), Origin::Environment(environment::LISTEN.to_owned()))
            }
            Some(listen) => (listen.clone(), Origin::Flag("--listen".to_owned())),
        };
        let flag = |name: &str| Origin::Flag(format!("--{name}"));
        let given = [
            ("public-url", self.public_url.clone()),
            ("allow-host", Some(self.hosts.join(" ")).filter(|hosts| !hosts.is_empty())),
            ("tls-cert", self.tls_cert.as_ref().map(|path| path.display().to_string())),
            ("read-only", self.read_only.then(|| "true".to_owned())),
            ("metrics", self.metrics.as_ref().map(ToString::to_string)),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, (value?, flag(name)))));
        for (name, (value, origin)) in std::iter::once(("listen", listen)).chain(given) {
            let key = format!("server.{}", name.replace('-', "_"));
            settings.push(Setting { key, value: format!("{value:?}"), origin });
        }
        settings.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(settings)
    }

    /// Shows the figures at their own address, if they have one.
    pub async fn show_metrics(
        &self,
        common: &Common,
        host: &wfhost::Host,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<MetricsServer>, UserError> {
        let Some(address) = &self.metrics else { return Ok(None) };
        let server = match MetricsServer::bind(host.clone(), Arc::clone(metrics), address).await {
            Ok(server) => server,
            Err(ServeError::Host(error)) => return Err(error.into()),
            Err(error) => {
                let mut trouble = UserError::host("WF0810", error.to_string()).because(&error);
                if matches!(&error, ServeError::Listen { source, .. } if source.kind() == ErrorKind::AlreadyExists)
                {
                    trouble = trouble.hint(NOT_REPLACED);
                }
                return Err(trouble.hint("choose another address with --metrics, or omit it"));
            }
        };
        let whom = if address.is_local() { "this machine" } else { "every client that can reach it" };
        printer::say(common, "Metrics", &format!("{} for {whom}, without a token", server.url()));
        Ok(Some(server))
    }
}

/// Tells the user's own programs where the server is and lets them in, as long as it runs.
pub(super) struct Told(Option<PathBuf>);

impl Told {
    pub fn of(server: &Server) -> Self {
        Self(tell(server).ok().flatten())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn tell(server: &Server) -> std::io::Result<Option<PathBuf>> {
    use std::io::Write;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let Some(dir) = environment::state_dir().map(|dir| dir.join("servers")) else { return Ok(None) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let path = dir.join(format!("{}.json", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let spaces = server.namespaces();
    let spaces =
        spaces.map(|space| (space.name, serde_json::json!({ "url": space.url, "token": space.token })));
    let told = serde_json::json!({
        "url": server.url(), "token": server.token(), "pid": std::process::id(),
        "namespaces": spaces.collect::<BTreeMap<_, _>>(),
    });
    file.write_all(told.to_string().as_bytes())?;
    Ok(Some(path))
}

/// How long others are told of what happened, once everything else has come to its end.
const LAST_WORDS: Duration = Duration::from_secs(3);

impl Serve {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        if self.log_format == LogFormat::Json {
            printer::say_as_log();
        }
        let store = common.store().await?;
        let here = common.config()?;
        let mut served = vec![None, here.project_name()];
        let (mut configured, mut others) = (BTreeMap::new(), Vec::new());
        for dir in &self.projects {
            let dir = dir.canonicalize().map_err(|error| {
                UserError::usage("WF0004", format!("{} cannot be read: {error}", dir.display()))
            })?;
            let config = common.config_of(&dir)?;
            let name = config.project_name().ok_or_else(|| {
                UserError::usage("WF0709", format!("{} does not belong to a project", dir.display()))
                    .hint("a project is a directory with a wfhost.toml, and everything below it")
            })?;
            configured.insert(name.clone(), providers_of(&self.agents, &config)?);
            served.push(Some(name));
            others.push(config);
        }
        if self.all && common.config.is_none() {
            others.extend(trusted_projects(common));
        }
        let sinks = tell::sinks(std::iter::once(&here).chain(&others))?;
        let export = tell::export(self.otlp.as_deref(), self.otlp_content)?;
        let projects = if self.all { Projects::All } else { Projects::Only(served) };
        let defaults = defaults(&self.agents, &here);
        let providers = providers_of(&self.agents, &here)?;
        // A configuration that was named holds for all.
        let configured: Arc<dyn Configurations> = match self.all && common.config.is_none() {
            true => {
                configured.extend(here.project_name().map(|name| (name, providers.clone())));
                let known = Mutex::new(configured.into_iter().map(|(name, own)| (name, Ok(own))).collect());
                Arc::new(EachItsOwn { common: common.clone(), agents: self.agents.clone(), known })
            }
            false => Arc::new(configured),
        };
        let options = common.host_options(store, providers, self.agents.evict.into(), Adopt::Due)?;
        let max_live = self.max_live as usize;
        let log = (self.log_format == LogFormat::Json).then_some(Log { verbose: common.verbose });
        let (observed, observer) = Observed::begin(log);
        let options = wfhost::HostOptions { max_live, projects, configured, observer, ..options };
        let spaces = self.spaces(common, &options, log).await?;
        let host = wfhost::Host::new(options)?;
        // Errors of the database show here and not as silence.
        host.store().runs(RunFilter { limit: 1, ..RunFilter::default() }).await?;
        let mut signals = follow::Signals::new()?;
        let mut server =
            self.network.bind(common, &host, defaults.clone(), &sinks, &observed.metrics).await?;
        if let Some(server) = &mut server {
            self.add_spaces(server, &spaces, &defaults, &sinks).await?;
        }
        let mut figures = self.network.show_metrics(common, &host, &observed.metrics).await?;
        if let Some(figures) = &mut figures {
            for Space { name, host, observed, .. } in &spaces {
                figures.add(name, host.clone(), Arc::clone(&observed.metrics));
            }
        }
        let spaces = spaces.into_iter().map(|space| (space.host, space.observed));
        let (hosts, observed): (Vec<_>, Vec<_>) =
            std::iter::once((host.clone(), observed)).chain(spaces).unzip();
        let _told = server.as_ref().map(Told::of);
        hosts.iter().for_each(wfhost::Host::serve);
        let url = server.as_ref().map(|server| server.url().to_owned());
        // Each database has sinks and a collector of its own; the pages of others have longer addresses.
        let tellers: Vec<_> = hosts
            .iter()
            .zip(&observed)
            .enumerate()
            .map(|(number, (host, observed))| {
                let url = url.clone().filter(|_| number == 0);
                let metrics = Some(Arc::clone(&observed.metrics));
                let report = tell::Reports { common: common.clone(), metrics, log };
                tell::start(host.store(), sinks.clone(), export.clone(), report, url)
            })
            .collect();
        printer::say(common, "Serving", &format!("{}; Ctrl-C stops", common.place()?));
        if let Some(server) = &server {
            // A log is kept; the code of the address lets somebody in.
            let login = server.login().filter(|_| self.log_format == LogFormat::Text);
            printer::say(common, "Open", login.unwrap_or(server.url()));
            for space in server.namespaces() {
                let login = space.login.filter(|_| self.log_format == LogFormat::Text);
                printer::say(common, "Open", &format!("{}: {}", space.name, login.unwrap_or(space.url)));
            }
        }
        let drainers = server.as_ref().map(Server::drainer).into_iter();
        let drainers: Vec<_> = drainers.chain(figures.as_ref().map(MetricsServer::drainer)).collect();
        let mut answering = tokio::task::JoinSet::new();
        if let Some(server) = server {
            answering.spawn(server.run());
        }
        if let Some(figures) = figures {
            answering.spawn(figures.run());
        }
        notify(State::Ready);
        let number = tokio::select! {
            number = signals.next() => Some(number),
            () = idle(&hosts, &observed, self.idle) => None,
            error = any_gone(common, &hosts) => {
                close(&hosts, None).await;
                return Err(error.into());
            }
        };
        notify(State::Stopping);
        // Nothing new is let in while calls in flight come to their ends.
        drainers.iter().for_each(Drainer::drain);
        let live: usize = hosts.iter().map(wfhost::Host::live).sum();
        if live > 0 {
            printer::say(common, "Leaving", &format!("{}, when the calls are done", counted(live, "run")));
        }
        let (dropped, hurried) = {
            let patient = close(&hosts, Some(Duration::from_millis(self.grace)));
            tokio::pin!(patient);
            tokio::select! {
                dropped = &mut patient => (dropped, false),
                _ = signals.next() => (close(&hosts, None).await, true),
            }
        };
        // Clients are told that the server is shutting down until the last request of before is answered.
        drainers.iter().for_each(Drainer::stop);
        if !hurried {
            let rest = async {
                while answering.join_next().await.is_some() {}
                // What ended just now is told, if that is soon; else by the next host.
                join_all(tellers.into_iter().map(|teller| teller.stop(LAST_WORDS))).await;
            };
            // A second signal waits for nobody.
            tokio::select! {
                () = rest => {}
                _ = signals.next() => {}
            }
        }
        answering.shutdown().await;
        let text = match dropped {
            0 => "nothing is lost".to_owned(),
            dropped => {
                format!("the calls of {} will be made again; nothing is lost", counted(dropped, "run"))
            }
        };
        printer::say(common, "Stopped", &text);
        Ok(number.map_or(Exit::Done, Exit::Signalled))
    }
}

impl Serve {
    /// The hosts of the other databases, set up as the first one is.
    async fn spaces(
        &self,
        common: &Common,
        like: &wfhost::HostOptions,
        log: Option<Log>,
    ) -> Result<Vec<Space>, UserError> {
        let mut spaces = Vec::new();
        for Namespace { name, database } in &self.namespaces {
            let common = Common { db: Some(database.clone()), ..common.clone() };
            let store = common.store().await?;
            let own = common.host_options(store, like.providers.clone(), like.evict, Adopt::Due)?;
            // What one database does is nothing that those who may see the figures of another one are told.
            let (observed, observer) = Observed::begin(log);
            let options = wfhost::HostOptions {
                max_live: like.max_live,
                projects: like.projects.clone(),
                configured: Arc::clone(&like.configured),
                observer,
                ..own
            };
            let host = wfhost::Host::new(options)?;
            host.store().runs(RunFilter { limit: 1, ..RunFilter::default() }).await?;
            spaces.push(Space { name: name.clone(), common, host, observed });
        }
        Ok(spaces)
    }

    /// Has the server answer for them.
    async fn add_spaces(
        &self,
        server: &mut Server,
        spaces: &[Space],
        defaults: &Defaults,
        sinks: &[Sink],
    ) -> Result<(), UserError> {
        let refused = |text: String| UserError::usage("WF0811", text);
        for Space { name, common, host, observed } in spaces {
            // Where it listens is known already.
            let nowhere = Address::Unix(PathBuf::new());
            let options =
                self.network.options(common, nowhere, defaults.clone(), sinks, &observed.metrics)?;
            server.add(name, host.clone(), options).await.map_err(|error| match error {
                ServeError::Host(error) => UserError::from(error),
                error => refused(error.to_string()),
            })?;
        }
        for hook in defaults.config.webhooks()? {
            if let Some(name) = hook.namespace.filter(|name| spaces.iter().all(|known| known.name != *name)) {
                return Err(refused(format!("the webhook {} is of the namespace `{name}`", hook.name))
                    .hint(format!("serve it, too: --namespace {name}=DB")));
            }
        }
        Ok(())
    }
}

/// Ends all, each within the grace: how many runs have calls that will be made again.
async fn close(hosts: &[wfhost::Host], grace: Option<Duration>) -> usize {
    join_all(hosts.iter().map(|host| host.close(grace))).await.into_iter().sum()
}

/// Waits until one of the hosts has no database any more.
async fn any_gone(common: &Common, hosts: &[wfhost::Host]) -> StoreError {
    let mut watching: Vec<_> = hosts.iter().map(|host| Box::pin(gone(common, host))).collect();
    std::future::poll_fn(|context| {
        let mut polled = watching.iter_mut().map(|one| one.as_mut().poll(context));
        polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// What runs are started with that are started through the server.
pub(super) fn defaults(agents: &AgentArgs, here: &Config) -> Defaults {
    Defaults {
        agent: agents.default_provider().or_else(|| here.default_agent().map(str::to_owned)),
        budget: here.budget(),
        project: here.project_name(),
        config: here.clone(),
    }
}

/// The configurations of all projects that may have sinks: those that the user trusts. One that cannot be used now is
/// said to be and left out, as it is when one of its runs is advanced.
fn trusted_projects(common: &Common) -> Vec<Config> {
    let files = common.consent().files().into_iter().filter(|file| file.is_file());
    let usable = files.filter_map(|file| {
        let config = common.config_of_project(file.clone());
        match config.and_then(|config| config.sinks().map(|_| config).map_err(UserError::from)) {
            Ok(config) => Some(config),
            Err(error) => {
                let text = format!("the sinks of {} are told nothing: {}", file.display(), error.message);
                printer::say(common, "Project", &text);
                None
            }
        }
    });
    usable.collect()
}

/// The providers of one configuration.
fn providers_of(agents: &AgentArgs, config: &Config) -> Result<Providers, UserError> {
    let mut providers = agents.providers(config)?;
    if let Some(provider) = agents.default_provider().and_then(|name| providers.get(&name)) {
        providers.set_fallback(provider);
    }
    Ok(providers)
}

/// For the runs of each project the configuration of that project.
#[derive(Debug)]
struct EachItsOwn {
    common: Common,
    agents: AgentArgs,
    /// Those that were read, and what is wrong with those that cannot be used.
    known: Mutex<BTreeMap<String, Result<Providers, String>>>,
}

impl Configurations for EachItsOwn {
    fn providers(&self, project: &str) -> Option<Providers> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(providers)) = known.get(project) {
            return Some(providers.clone());
        }
        let config = self.common.config_of_project(PathBuf::from(project));
        let read =
            config.and_then(|config| providers_of(&self.agents, &config)).map_err(|error| error.message);
        if let Err(problem) = &read
            && known.get(project).and_then(|before| before.as_ref().err()) != Some(problem)
        {
            let text = format!("runs of {project} cannot call its providers: {problem}");
            printer::say(&self.common, "Project", &text);
        }
        // Nobody else's providers answer for it: its calls wait for a host that has its own.
        let providers = read.clone().unwrap_or_else(|_| Providers::builtin());
        known.insert(project.to_owned(), read);
        Some(providers)
    }
}

/// Tells what keeps the host from its work, and waits until it has no database any more.
async fn gone(common: &Common, host: &wfhost::Host) -> StoreError {
    let mut known = None;
    loop {
        known = host.store_error(&known).await;
        match &known {
            Some(error @ StoreError::Moved { .. }) => return error.clone(),
            Some(error) => {
                printer::say(common, "Waiting", &format!("{error}; runs continue when this is resolved"));
            }
            None => printer::say(common, "Serving", "again"),
        }
    }
}

/// Waits until the hosts have had nothing to do for so long; for ever without a length.
async fn idle(hosts: &[wfhost::Host], observed: &[Observed], millis: Option<u64>) {
    let Some(millis) = millis else { return std::future::pending().await };
    let length = Duration::from_millis(millis);
    loop {
        for (host, observed) in hosts.iter().zip(observed) {
            is_quiet(host, observed.quiet.clone(), length).await;
        }
        // While one was waited for, another one may have found something.
        let is_idle = |(host, observed): (&wfhost::Host, &Observed)| {
            host.live() == 0 && observed.quiet.borrow().is_some_and(|quiet| quiet >= length)
        };
        if hosts.iter().zip(observed).all(is_idle) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for a look for work that shows that a host has had nothing to do for so long. What does not come to an end, be
/// it because the database is slow or out of reach, shows nothing.
async fn is_quiet(host: &wfhost::Host, mut quiet: watch::Receiver<Option<Duration>>, length: Duration) {
    loop {
        let rest = quiet.borrow_and_update().map(|quiet| length.saturating_sub(quiet));
        let changed = match rest {
            Some(Duration::ZERO) => return,
            // Looks are seldom while nothing happens, and the last one has to be made after that time.
            Some(rest) => match tokio::time::timeout(rest, quiet.changed()).await {
                Ok(changed) => changed,
                Err(_) => {
                    host.wake();
                    quiet.changed().await
                }
            },
            None => quiet.changed().await,
        };
        if changed.is_err() {
            // The host is no more.
            return;
        }
    }
}
