//! The provider `plugin`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use wasmtime_wasi::{Deterministic, FsPerms, HostMonotonicClock, HostWallClock, WasiCtxBuilder};
use wfhost_agents::{
    Call, CallFailure, CallOutput, Check, Provider, SecretSource, farewell, is_secret_name, looks_secret,
};
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Digest, Failure, FailureKind, Json, Reply, Usage, Wants, limits};
use wfhost_runtime::{Components, Considerate, ModuleError};

use crate::artifact::{self, Artifact, PluginError};
use crate::grant::{BadPattern, DirectoryGrant, HttpGrant, wanted_lines};
use crate::http::{Network, Requests};
use crate::instance::{self, AgentPluginPre, Bounds, PluginCtx, wit};
use crate::progress::Progress;
use crate::recorded::Recording;
use crate::source::{PluginSource, Supplied, Supply};

/// Bytes of memory, if nothing else is said.
const MEMORY_BYTES: u64 = 256 << 20;
/// Units of fuel of one attempt, if nothing else is said: some ten seconds of computing.
const FUEL: u64 = 20_000_000_000;
/// How long a plugin that asks whether it was cancelled may go on, if nothing else is said.
const GRACE: Duration = Duration::from_secs(2);

/// How a plugin is run, and what it is granted.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// Where its component comes from.
    pub source: PluginSource,
    /// For calls that name none.
    pub model: Option<String>,
    /// It goes on with conversations by ids of its own.
    pub keeps_conversations: bool,
    pub memory_bytes: u64,
    /// Of one attempt.
    pub fuel: u64,
    pub grace: Duration,
    /// Variables with a value.
    pub set: BTreeMap<String, String>,
    /// Variables of the host.
    pub env: Vec<String>,
    /// By their paths for the plugin.
    pub directories: BTreeMap<String, DirectoryGrant>,
    pub http: Vec<HttpGrant>,
    /// Requests that nothing grants are sent, and listed.
    pub audit: bool,
    /// Where compiled components are kept.
    pub cache: Option<PathBuf>,
}

impl PluginConfig {
    /// A component in a file, with nothing granted.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::of(PluginSource::File { path: path.into(), digest: None })
    }

    /// With nothing granted.
    pub fn of(source: PluginSource) -> Self {
        Self {
            source,
            model: None,
            keeps_conversations: false,
            memory_bytes: MEMORY_BYTES,
            fuel: FUEL,
            grace: GRACE,
            set: BTreeMap::new(),
            env: Vec::new(),
            directories: BTreeMap::new(),
            http: Vec::new(),
            audit: false,
            cache: None,
        }
    }

    /// With the addresses that a plugin asks for, for tests without a network: no secret is put into requests.
    ///
    /// # Errors
    ///
    /// What it asks for is no pattern of addresses.
    pub fn wanted(path: impl Into<PathBuf>, wants: &Wants) -> Result<Self, BadPattern> {
        let mut config = Self::new(path);
        for wanted in &wants.http {
            let methods =
                wanted.methods.iter().filter_map(|method| http::Method::from_bytes(method.as_bytes()).ok());
            let mut grant = HttpGrant::new(wanted.url.parse()?, methods);
            grant.reserved = wanted.inject.iter().cloned().collect();
            // Nothing is looked up.
            grant.private = true;
            config.http.push(grant);
        }
        Ok(config)
    }

    /// What the host puts into requests.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        self.http.iter().flat_map(HttpGrant::secrets)
    }

    fn bounds(&self) -> Bounds {
        Bounds { memory_bytes: self.memory_bytes, fuel: self.fuel }
    }
}

/// The engine of all plugins of a process. It is made when the first one is called.
static COMPONENTS: OnceLock<Components> = OnceLock::new();

fn components(cache: Option<PathBuf>) -> Result<&'static Components, ModuleError> {
    if let Some(components) = COMPONENTS.get() {
        return Ok(components);
    }
    let made = Components::new(cache)?;
    Ok(COMPONENTS.get_or_init(|| made))
}

/// A plugin that is ready to be executed.
#[derive(Clone)]
struct Ready {
    /// Which component its source gave, in the source's words.
    pinned: String,
    digest: Digest,
    signer: Option<String>,
    pre: AgentPluginPre<PluginCtx>,
    /// It asks whether it was cancelled.
    looks: bool,
}

/// Answers calls by a component.
pub struct Plugin {
    name: String,
    config: PluginConfig,
    from: Where,
    network: Arc<Network>,
    /// Clock and random numbers are the same each time.
    repeatable: bool,
    ready: Mutex<Option<Ready>>,
    /// Whoever fetches it does so for all.
    fetching: tokio::sync::Mutex<()>,
}

/// Where it is looked for.
#[derive(Clone)]
enum Where {
    File(Arc<Artifact>),
    Supply(Arc<dyn Supply>),
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    pub fn new(name: impl Into<String>, config: PluginConfig) -> Self {
        Self::over(name.into(), config, None)
    }

    /// One without a network: its requests are answered by what was written down, its clock stands, and its random
    /// numbers are the same each time.
    pub fn recorded(name: impl Into<String>, config: PluginConfig, recording: Recording) -> Self {
        Self::over(name.into(), config, Some(recording))
    }

    fn over(name: String, config: PluginConfig, recording: Option<Recording>) -> Self {
        let from = match &config.source {
            PluginSource::File { path, digest } => {
                Where::File(Arc::new(Artifact::new(path.clone(), *digest)))
            }
            PluginSource::Supply(supply) => Where::Supply(Arc::clone(supply)),
        };
        let repeatable = recording.is_some();
        let network = Network::new(name.clone(), config.http.clone(), config.audit, recording);
        let (network, ready, fetching) = (Arc::new(network), Mutex::default(), tokio::sync::Mutex::default());
        Self { name, config, from, network, repeatable, ready, fetching }
    }

    pub fn config(&self) -> &PluginConfig {
        &self.config
    }

    /// What it is now. One that comes from elsewhere and is not on this machine is not known: none.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not to be used.
    pub fn digest(&self) -> Result<Option<Digest>, PluginError> {
        match &self.from {
            Where::File(artifact) => artifact.digest().map(|(digest, _)| Some(digest)),
            Where::Supply(supply) => Ok(supply.kept()?.map(|bytes| Digest::of(&bytes))),
        }
    }

    /// Its component as far as it is on this machine.
    fn here(&self) -> Result<Option<(Digest, Vec<u8>)>, PluginError> {
        match &self.from {
            Where::File(artifact) => artifact.read().map(Some),
            Where::Supply(supply) => Ok(supply.kept()?.map(|bytes| (Digest::of(&bytes), bytes))),
        }
    }

    /// The one that was made ready, if it is still the one that is meant.
    fn known(&self, pinned: &str) -> Option<Ready> {
        let known = self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|ready| ready.pinned == pinned)
    }

    /// The plugin as it is now, fetched and compiled if it has to be. The attempt that this is for is told what is
    /// wrong with its signatures.
    async fn ready(&self, progress: &Progress) -> Result<Ready, PluginError> {
        match &self.from {
            Where::File(artifact) => self.ready_file(artifact).await,
            Where::Supply(supply) => {
                let pinning = Arc::clone(supply);
                let pinned = blocking(move || pinning.pinned()).await?;
                if let Some(ready) = self.known(&pinned) {
                    return Ok(ready);
                }
                let _fetching = self.fetching.lock().await;
                if let Some(ready) = self.known(&pinned) {
                    return Ok(ready);
                }
                let Supplied { bytes, signer, warning } = supply.supply().await?;
                if let Some(warning) = warning {
                    progress.note(format!("signature: {warning}"));
                }
                let digest = Digest::of(&bytes);
                self.compiled(pinned, digest, bytes, signer).await
            }
        }
    }

    async fn ready_file(&self, artifact: &Arc<Artifact>) -> Result<Ready, PluginError> {
        let reading = Arc::clone(artifact);
        let (digest, bytes) = blocking(move || reading.digest()).await?;
        let pinned = digest.to_string();
        if let Some(ready) = self.known(&pinned) {
            return Ok(ready);
        }
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => {
                let reading = Arc::clone(artifact);
                let (found, bytes) = blocking(move || reading.read()).await?;
                if found != digest {
                    let source = std::io::Error::other("it changed while it was read");
                    return Err(PluginError::Read { path: artifact.path().to_owned(), source });
                }
                bytes
            }
        };
        self.compiled(pinned, digest, bytes, None).await
    }

    async fn compiled(
        &self,
        pinned: String,
        digest: Digest,
        bytes: Vec<u8>,
        signer: Option<String>,
    ) -> Result<Ready, PluginError> {
        let bytes = blocking(move || artifact::imports(&bytes).map(|_| bytes)).await?;
        let components = components(self.config.cache.clone())?;
        let component = components.load(digest, async { Ok::<_, PluginError>(bytes) }).await?;
        let unfit = |error: wasmtime::Error| PluginError::Unfit(format!("{error:#}"));
        let engine = components.engine();
        let looks = looks(&component, engine);
        let linked = instance::linker(engine).and_then(|linker| linker.instantiate_pre(&component));
        let pre = linked.and_then(AgentPluginPre::new).map_err(unfit)?;
        let ready = Ready { pinned, digest, signer, pre, looks };
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(ready.clone());
        Ok(ready)
    }

    /// WASI with what is granted.
    fn wasi(&self) -> Result<WasiCtxBuilder, CallFailure> {
        let mut wasi = WasiCtxBuilder::new();
        if self.repeatable {
            wasi.wall_clock(Standing).monotonic_clock(Ticking::default());
            let numbers: Vec<u8> = (0..128u32).flat_map(|n| Digest::of(&n.to_le_bytes()).0).collect();
            wasi.secure_random(Deterministic::new(numbers.clone()))
                .insecure_random(Deterministic::new(numbers));
            wasi.insecure_random_seed(0);
        }
        for name in &self.config.env {
            let Ok(value) = std::env::var(name) else { continue };
            if looks_secret(&value) {
                let message = format!(
                    "the variable {name} contains a secret, which plugins do not receive (WF0703); add it to requests with \
                     `inject`"
                );
                return Err(CallFailure {
                    exhausted: true,
                    ..CallFailure::new(FailureKind::Rejected, message)
                });
            }
            wasi.env(name, value);
        }
        for (name, value) in &self.config.set {
            wasi.env(name, value);
        }
        for (guest, DirectoryGrant { path, write }) in &self.config.directories {
            let perms = if *write { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            let opened = wasi.preopened_dir(path, guest, perms).map(drop);
            opened.map_err(|error| {
                let source = std::io::Error::other(error.root_cause().to_string());
                unusable(&PluginError::Directory { path: path.clone(), source })
            })?;
        }
        Ok(wasi)
    }

    async fn answer(&self, call: Call, out: CallOutput) -> Result<Reply, CallFailure> {
        let progress = Progress::new(out);
        let Ready { digest, signer, pre, looks, .. } =
            self.ready(&progress).await.map_err(|error| unusable(&error))?;
        let requests = Arc::new(Requests::new(Arc::clone(&self.network), progress.clone())?);
        let wasi = self.wasi()?;
        let (asked, bounds) = (self.asked(&call), self.config.bounds());
        let running = {
            let progress = progress.clone();
            let program =
                async move { instance::execute(&pre, wasi, requests, progress, bounds, asked).await };
            tokio::spawn(Considerate::new(Box::pin(program)))
        };
        let grace = if looks { self.config.grace } else { Duration::ZERO };
        let mut running = Running { task: Some(running), progress: progress.clone(), grace };
        let Some(task) = &mut running.task else { unreachable!("it was put there just now") };
        let ended = task.await;
        running.task = None;
        match ended {
            Ok(Ok(Ok(reply))) => {
                let reply = self.reply(&call, digest, reply)?;
                Ok(Reply { signer, ..reply })
            }
            Ok(Ok(Err(failure))) => Err(failed(failure)),
            Ok(Err(error)) => {
                let message = instance::explain(&error, bounds, &progress);
                Err(CallFailure::new(FailureKind::Failed, message))
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(CallFailure::new(FailureKind::Cancelled, "the plugin was stopped")),
        }
    }

    /// What it asks for and is not granted, each with the line that would grant it.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not a plugin.
    pub fn lacks(&self) -> Result<Vec<String>, PluginError> {
        match self.here()? {
            Some((_, bytes)) => Ok(self.missing(&artifact::wants(&bytes)?)),
            None => Ok(Vec::new()),
        }
    }

    fn missing(&self, wants: &Wants) -> Vec<String> {
        let PluginConfig { http, directories, set, env, .. } = &self.config;
        let http = wants.http.iter().filter(|wanted| !HttpGrant::covers(http, wanted));
        let http = http.map(|wanted| wanted_lines(&self.name, wanted));
        let missing = wants.directories.iter().filter(|wanted| {
            directories.get(&wanted.path).is_none_or(|granted| wanted.write && !granted.write)
        });
        let missing = missing.map(|wanted| {
            let write = if wanted.write { ", write = true" } else { "" };
            format!(
                "it requests the directory {} ({}): directories = {{ {:?} = {{ path = \"..\"{write} }} }}",
                wanted.path, wanted.reason, wanted.path
            )
        });
        let variables =
            wants.env.iter().filter(|wanted| !set.contains_key(&wanted.name) && !env.contains(&wanted.name));
        let variables = variables.map(|wanted| {
            format!("it requests the variable {} ({}): env = [{:?}]", wanted.name, wanted.reason, wanted.name)
        });
        http.chain(missing).chain(variables).collect()
    }

    /// The call as the plugin sees it.
    fn asked(&self, call: &Call) -> wit::Call {
        let text = |json: &Option<Json>| json.as_ref().map(|json| json.as_str().to_owned());
        let request = &call.request;
        wit::Call {
            message: call.message(),
            prompt: request.prompt.clone(),
            input: text(&request.input),
            schema: text(&request.schema),
            options: text(&request.options),
            model: request.model.clone().or_else(|| self.config.model.clone()),
            session: call.session().map(str::to_owned),
            history: call
                .history
                .iter()
                .map(|(said, answered)| wit::Exchange {
                    said: String::from(&**said),
                    answered: String::from(&**answered),
                })
                .collect(),
            key: format!("{}-{}", call.key, call.turns.len()),
            run: call.run.to_string(),
            step: call.step.0,
            attempt: call.attempt,
            heartbeat: text(&call.heartbeat),
        }
    }

    fn reply(&self, call: &Call, digest: Digest, reply: wit::Reply) -> Result<Reply, CallFailure> {
        let usage = reply.usage.map(usage);
        let invalid =
            |message: String| CallFailure::new(FailureKind::InvalidOutput, message).with_usage(usage);
        if reply.output.len() > limits::ANSWER_BYTES {
            let most = limits::ANSWER_BYTES >> 20;
            return Err(invalid(format!("the answer exceeds the limit of {most} MiB")));
        }
        let output = Json::parse(reply.output).map_err(|error| {
            invalid(format!("the plugin answered with something that is not JSON: {error}"))
        })?;
        if reply.session.as_ref().is_some_and(|session| session.len() > limits::KEY_BYTES) {
            let most = limits::KEY_BYTES;
            return Err(invalid(format!("the id of the conversation is longer than {most} bytes")));
        }
        let cut = |text: Option<String>| text.map(|text| limits::cut(text, limits::NAME_BYTES));
        Ok(Reply {
            session: reply.session.filter(|_| self.config.keeps_conversations),
            model: cut(reply.model)
                .or_else(|| call.request.model.clone())
                .or_else(|| self.config.model.clone()),
            usage,
            plugin: Some(digest.to_string()),
            ..Reply::new(&self.name, output)
        })
    }
}

impl Provider for Plugin {
    fn name(&self) -> &str {
        &self.name
    }

    fn model(&self) -> Option<&str> {
        self.config.model.as_deref()
    }

    fn keeps_conversations(&self) -> bool {
        self.config.keeps_conversations
    }

    fn configuration(&self) -> String {
        let digest = match &self.from {
            Where::File(artifact) => artifact.digest().map(|(digest, _)| digest.to_string()),
            Where::Supply(supply) => supply.pinned(),
        };
        let digest = digest.unwrap_or_default();
        let PluginConfig { set, env, directories, http, .. } = &self.config;
        let env: Vec<_> = env.iter().map(|name| (name, std::env::var(name).ok())).collect();
        format!("{digest} {set:?} {env:?} {directories:?} {http:?}")
    }

    fn tells(&self) -> Tells {
        Tells::default()
    }

    fn takes_heartbeats(&self) -> bool {
        true
    }

    fn check(&self) -> Vec<Check> {
        let here = self.here().and_then(|here| {
            let Some((digest, bytes)) = here else { return Ok(None) };
            artifact::imports(&bytes)?;
            Ok(Some((digest, artifact::wants(&bytes)?)))
        });
        let what = format!("plugin {}", self.config.source);
        let mut checks = vec![match here {
            Ok(Some((digest, wants))) => {
                let missing = self.missing(&wants).join("; ");
                let note =
                    if missing.is_empty() { digest.to_string() } else { format!("{digest}; {missing}") };
                Check { what, problem: None, note: Some(note) }
            }
            Ok(None) => {
                let note = "it is not in the local store yet: the first call fetches it".to_owned();
                Check { what, problem: None, note: Some(note) }
            }
            Err(error) => {
                let problem = Some(format!("{error} ({}); {}", error.code(), error.hint()));
                Check { what, problem, note: None }
            }
        }];
        checks.extend(self.config.secrets().map(Check::secret));
        checks.extend(self.config.http.iter().filter_map(|grant| grant.ca.as_ref()).map(|ca| Check {
            what: format!("certificates {}", ca.display()),
            problem: crate::certificates::read(ca).err().map(|error| error.to_string()),
            note: None,
        }));
        checks.extend(self.config.directories.values().map(|DirectoryGrant { path, .. }| Check {
            what: format!("directory {}", path.display()),
            problem: (!path.is_dir()).then(|| format!("{} is not a directory", path.display())),
            note: None,
        }));
        let audits =
            self.config.audit.then(|| "`audit` lets it send requests that are not granted".to_owned());
        checks.extend(audits.map(|note| Check { what: "audit".to_owned(), problem: None, note: Some(note) }));
        let secret = |name: &&String| {
            is_secret_name(name) || std::env::var(name.as_str()).is_ok_and(|value| looks_secret(&value))
        };
        checks.extend(self.config.env.iter().filter(secret).map(|name| Check {
            what: format!("variable {name}"),
            problem: Some(format!("the variable {name} contains a secret, which plugins do not receive")),
            note: None,
        }));
        checks
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        Box::pin(self.answer(call, out))
    }
}

/// A clock that stands: at the beginning of 2026.
struct Standing;

const STANDING: Duration = Duration::from_secs(1_767_225_600);

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        STANDING
    }
}

/// A clock that advances by a millisecond whenever somebody looks at it: who waits for it comes to an end, and Go
/// does not start at zero.
struct Ticking(AtomicU64);

const TICK_NANOS: u64 = 1_000_000;

impl Default for Ticking {
    fn default() -> Self {
        Self(AtomicU64::new(TICK_NANOS))
    }
}

impl HostMonotonicClock for Ticking {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.0.fetch_add(TICK_NANOS, Ordering::Relaxed)
    }
}

/// An execution that ends with the call: at once, or after the grace if the plugin looks for that.
struct Running<T: Send + 'static> {
    task: Option<JoinHandle<T>>,
    progress: Progress,
    grace: Duration,
}

impl<T: Send + 'static> Drop for Running<T> {
    fn drop(&mut self) {
        let Some(mut task) = self.task.take() else { return };
        self.progress.cancel();
        if self.grace.is_zero() {
            task.abort();
            return;
        }
        let grace = self.grace;
        farewell(async move {
            if tokio::time::timeout(grace, &mut task).await.is_err() {
                task.abort();
            }
        });
    }
}

/// Whether a component imports the function that tells of cancellation.
fn looks(component: &wasmtime::component::Component, engine: &wasmtime::Engine) -> bool {
    use wasmtime::component::types::ComponentItem;
    let ty = component.component_type();
    let progress = ty.imports(engine).find(|(name, _)| name.starts_with("wfhost:plugin/progress@"));
    match progress {
        Some((_, item)) => match item.ty {
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(engine).any(|(name, _)| name == "cancelled")
            }
            _ => false,
        },
        None => false,
    }
}

/// A plugin that cannot be executed. It would do no better another time, unless it is somewhere that cannot be reached.
pub(crate) fn unusable(error: &PluginError) -> CallFailure {
    let message = format!("{error} ({}); {}", error.code(), error.hint());
    if matches!(error, PluginError::Supply { passes: true, .. }) {
        return CallFailure::new(FailureKind::Unavailable, message);
    }
    CallFailure { exhausted: true, ..CallFailure::new(FailureKind::Rejected, message) }
}

fn usage(usage: wit::Usage) -> Usage {
    let wit::Usage { input_tokens, output_tokens, cached_tokens, cost_micros } = usage;
    Usage { input_tokens, output_tokens, cached_tokens, cost_micros }
}

fn failed(failure: wit::Failure) -> CallFailure {
    let kind = match failure.kind {
        wit::FailureKind::Failed => FailureKind::Failed,
        wit::FailureKind::TimedOut => FailureKind::TimedOut,
        wit::FailureKind::Cancelled => FailureKind::Cancelled,
        wit::FailureKind::InvalidOutput => FailureKind::InvalidOutput,
        wit::FailureKind::Unavailable => FailureKind::Unavailable,
        wit::FailureKind::Rejected => FailureKind::Rejected,
    };
    let message = limits::cut(failure.message, limits::MESSAGE_BYTES);
    let details = failure.details.filter(|details| details.len() <= limits::DETAILS_BYTES);
    let details =
        details.map(|details| Json::parse(details.clone()).unwrap_or_else(|_| Json::string(&details)));
    CallFailure {
        auth: failure.auth,
        retry_after_ms: failure.retry_after,
        usage: failure.usage.map(usage),
        ..Failure { details, ..Failure::new(kind, message) }.into()
    }
}

/// Does what takes its time with files.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
