//! What all requests share.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wfhost::store::{Act, RunState, SharedStore, Token, TokenKind};
use wfhost::world::lock;
use wfhost::{Host, HostError};
use wfhost_config::{Config, Setting, Sink, Webhook};
use wfhost_core::Timestamp;
use wfhost_core::policy::budget::Budget;
use wfhost_view::UserError;

use crate::api::Hub;
use crate::auth::{Identity, Minted, Scope, Scopes, USER, mint};
use crate::listen::{Address, Tls};
use crate::metrics::{Metrics, Streams};
use crate::problem::Problem;
use crate::reads::{NotRead, Reads};
use crate::spaces;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: Address,
    pub tls: Option<Tls>,
    /// Where others reach it, if it is behind a proxy: `https://wf.example.org`.
    pub public_url: Option<String>,
    /// Names that requests may be addressed to, besides those of this machine and `public_url`.
    pub hosts: Vec<String>,
    /// Nothing is changed through it.
    pub read_only: bool,
    pub defaults: Defaults,
    /// Whether clients of the Model Context Protocol have each module as a tool.
    pub mcp_workflows: bool,
    /// What holds where the server runs, and who says so: for people.
    pub settings: Vec<Setting>,
    /// What is done with deliveries of others.
    pub webhooks: Vec<Webhook>,
    /// Who is told of events.
    pub sinks: Vec<Sink>,
    /// What it counts, and shows. The host should have it as its observer.
    pub metrics: Arc<Metrics>,
}

/// What runs get that are started through the server and say nothing else.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Who answers calls that name no provider.
    pub agent: Option<String>,
    pub budget: Option<Budget>,
    pub project: Option<String>,
    /// What holds where the server runs.
    pub config: Config,
}

/// Reads of the store that are done at the same time; the others wait.
const READS: usize = 8;
/// Reads of whole journals that are under way at the same time.
const LONG_READS: usize = 2;
/// How long one may take, waiting included.
pub(crate) const READ_PATIENCE: Duration = Duration::from_secs(10);
/// Streams and long polls that one token has at the same time.
const STREAMS: usize = 100;
/// Streams and long polls of all.
const ALL_STREAMS: usize = 2_000;

/// What all requests share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: Host,
    options: Options,
    url: String,
    /// The namespace, if it is one, and what its addresses begin with.
    space: Option<String>,
    base: String,
    /// Of the database.
    identity: String,
    secret: [u8; 32],
    is_tls: bool,
    is_unix: bool,
    port: u16,
    /// What this server lets in as long as it runs.
    own: Option<Minted>,
    draining: watch::Receiver<bool>,
    changed: watch::Sender<u64>,
    /// Somebody waits for changes.
    awaited: Notify,
    reads: Reads,
    /// For what may take minutes.
    long_reads: Reads,
    hub: Hub,
    /// How many runs are in each state, and whether somebody counts.
    counted: Mutex<Counted>,
    streams: Mutex<HashMap<String, usize>>,
    /// When the use of a token was written down last.
    used: Mutex<HashMap<String, Timestamp>>,
}

/// Runs by state, as they were counted last.
#[derive(Clone, Debug, Default)]
struct Counted {
    counts: Option<Arc<[(RunState, u64)]>>,
    at: Option<Instant>,
    /// How long it took.
    took: Duration,
    is_counting: bool,
}

/// Counting that takes no longer is done anew each time.
const QUICK_COUNT: Duration = Duration::from_millis(15);
/// What was counted is good for so many times as long as it took.
const COUNTED_FOR: u32 = 20;

/// Where requests come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// Where only the user of this process can send any.
    User,
    Port(u16),
}

impl App {
    pub(crate) async fn new(
        host: Host,
        options: Options,
        at: At,
        space: Option<String>,
        url: String,
        identity: String,
        draining: watch::Receiver<bool>,
    ) -> Result<Self, HostError> {
        let secret = host.store().secret().await?;
        let is_unix = at == At::User;
        let own = match is_unix {
            true => None,
            false => Some(mint("this server", TokenKind::Bearer, Scopes::all(), host.store().now(), None)?),
        };
        Ok(Self(Arc::new(Shared {
            host,
            base: space.as_deref().map(spaces::base).unwrap_or_default(),
            space,
            url,
            identity,
            secret,
            is_tls: options.tls.is_some()
                || options.public_url.as_ref().is_some_and(|url| url.starts_with("https:")),
            is_unix,
            port: match at {
                At::User => 0,
                At::Port(port) => port,
            },
            own,
            draining,
            changed: watch::Sender::new(0),
            awaited: Notify::new(),
            reads: Reads::new(READS, READ_PATIENCE),
            long_reads: Reads::new(LONG_READS, READ_PATIENCE),
            hub: Hub::new(),
            counted: Mutex::default(),
            streams: Mutex::default(),
            used: Mutex::default(),
            options,
        })))
    }

    pub fn host(&self) -> &Host {
        &self.0.host
    }

    pub fn store(&self) -> &SharedStore {
        self.0.host.store()
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Where others reach it.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The namespace, if it is one of several databases.
    pub(crate) fn space(&self) -> Option<&str> {
        self.0.space.as_deref()
    }

    /// What its addresses begin with, below that of the server: nothing, or `/ns/NAME`.
    pub(crate) fn base(&self) -> &str {
        &self.0.base
    }

    /// What the database is told by.
    pub fn identity(&self) -> &str {
        &self.0.identity
    }

    /// What addresses for callbacks are made of.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.0.secret
    }

    /// Whether browsers reach it by TLS.
    pub fn is_tls(&self) -> bool {
        self.0.is_tls
    }

    /// Whether only those come who may open a socket of the user.
    pub(crate) fn is_unix(&self) -> bool {
        self.0.is_unix
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port
    }

    pub(crate) fn own_token(&self) -> Option<&str> {
        self.0.own.as_ref().map(|own| own.text.as_str())
    }

    pub(crate) fn own(&self) -> Option<&Token> {
        self.0.own.as_ref().map(|own| &own.token)
    }

    /// Becomes true when the server ends.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.0.draining.clone()
    }

    /// Counts what was committed, by whomever. Subscribe first, read then, and nothing is missed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let changes = self.0.changed.subscribe();
        self.0.awaited.notify_one();
        changes
    }

    /// Waits until somebody waits for changes.
    pub(crate) async fn awaited(&self) {
        while self.0.changed.receiver_count() == 0 {
            self.0.awaited.notified().await;
        }
    }

    pub(crate) fn changed(&self) -> &watch::Sender<u64> {
        &self.0.changed
    }

    /// Reads from the store, beside the workers that advance runs.
    pub async fn read<T, F, R, E>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<UserError> + Send + 'static,
        F: FnOnce(SharedStore) -> R + Send + 'static,
        R: Future<Output = Result<T, E>> + Send,
    {
        let store = Arc::clone(self.store());
        outcome(self.0.reads.run(move || work(store)).await)
    }

    /// The same for what takes as long as a journal is: however long, and without a place that other reads need.
    pub async fn read_whole<T, F, R, E>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<UserError> + Send + 'static,
        F: FnOnce(SharedStore) -> R + Send + 'static,
        R: Future<Output = Result<T, E>> + Send,
    {
        let store = Arc::clone(self.store());
        outcome(self.0.long_reads.run_to_its_end(move || work(store)).await)
    }

    /// The same, however long it takes.
    pub(crate) async fn read_to_its_end<T, R>(
        &self,
        work: impl FnOnce(SharedStore) -> R + Send + 'static,
    ) -> Result<T, NotRead>
    where
        T: Send + 'static,
        R: Future<Output = T> + Send,
    {
        let store = Arc::clone(self.store());
        self.0.reads.run_to_its_end(move || work(store)).await
    }

    /// Where streams of events share what is read.
    pub(crate) fn hub(&self) -> &Hub {
        &self.0.hub
    }

    /// How many runs are in each state. Where counting takes long, as it does from some hundred thousand
    /// runs on, what is told was counted some seconds ago.
    pub(crate) async fn counts(&self) -> Result<Arc<[(RunState, u64)]>, Problem> {
        let known = lock(&self.0.counted).clone();
        let Some(counts) = known.counts.filter(|_| known.took > QUICK_COUNT) else {
            return self.count().await;
        };
        let is_old = known.at.is_none_or(|at| at.elapsed() > COUNTED_FOR * known.took);
        if is_old && !std::mem::replace(&mut lock(&self.0.counted).is_counting, true) {
            let app = self.clone();
            tokio::spawn(async move {
                let counted = app.count().await;
                // Whoever asks next tries again.
                if counted.is_err() {
                    lock(&app.0.counted).is_counting = false;
                }
            });
        }
        Ok(counts)
    }

    async fn count(&self) -> Result<Arc<[(RunState, u64)]>, Problem> {
        let began = Instant::now();
        let counts: Arc<[_]> = self.read(async |store| store.counts().await).await?.into();
        let (at, took) = (Some(Instant::now()), began.elapsed());
        *lock(&self.0.counted) = Counted { counts: Some(Arc::clone(&counts)), at, took, is_counting: false };
        Ok(counts)
    }

    /// Waits so long that all who look for news together do not look too often: a hundredth of a second
    /// for few, more for many.
    pub(crate) async fn breathe(&self) {
        let many = self.0.changed.receiver_count().div_ceil(50);
        tokio::time::sleep(Duration::from_millis(10 * many as u64)).await;
    }

    /// Takes one of the places for those that wait.
    pub(crate) fn stream(&self, who: &Identity) -> Result<Stream, Problem> {
        let mut streams = lock(&self.0.streams);
        let all: usize = streams.values().sum();
        if streams.get(&who.id).is_some_and(|own| *own >= STREAMS) || all >= ALL_STREAMS {
            return Err(Problem::too_many_streams(STREAMS));
        }
        *streams.entry(who.id.clone()).or_default() += 1;
        Ok(Stream { app: self.clone(), who: who.id.clone(), _open: self.0.options.metrics.stream() })
    }

    /// Whether the use of a token is to be written down again: once a minute.
    pub(crate) fn is_used_anew(&self, id: &str, now: Timestamp) -> bool {
        let mut used = lock(&self.0.used);
        let anew = used.get(id).is_none_or(|at| now.since(*at) >= 60_000);
        if anew {
            used.retain(|_, at| now.since(*at) < 3_600_000);
            used.insert(id.to_owned(), now);
        }
        anew
    }

    /// Writes down what somebody did.
    pub async fn record(&self, who: &Identity, act: &str, target: &str, result: &str) -> Result<(), Problem> {
        let cut = |text: &str| text[..text.floor_char_boundary(512)].to_owned();
        let act = Act {
            number: 0,
            at: self.store().now(),
            who: who.spelled(),
            act: act.to_owned(),
            target: cut(target),
            result: cut(result),
        };
        self.store().record_act(act).await.map_err(Problem::from_error)
    }

    /// An address with which a browser gets in as who may do everything, once, within an hour.
    pub(crate) async fn login_address(&self) -> Result<String, HostError> {
        const HOUR: u64 = 3_600_000;
        let all = Scopes::all();
        let now = self.store().now();
        let minted = mint("the terminal", TokenKind::Login, all, now, Some(now.after(HOUR)))?;
        self.store().put_token(minted.token).await?;
        Ok(format!("{}/ui/login?code={}", self.0.url, minted.text))
    }

    /// Who comes by the socket of the user.
    pub(crate) fn user(&self) -> Identity {
        Identity { id: USER.to_owned(), name: "the user".to_owned(), scopes: Scopes::all(), by_cookie: false }
    }

    /// Refuses what changes something, if this server only shows.
    pub(crate) fn check_writable(&self, scope: Scope) -> Result<(), Problem> {
        match self.0.options.read_only && !scope.is_reading() {
            true => Err(Problem::read_only()),
            false => Ok(()),
        }
    }
}

/// Waits until the server ends.
pub(crate) async fn ended(draining: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// A place among those that wait, until it is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    app: App,
    who: String,
    _open: Streams,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = lock(&self.app.0.streams);
        if let Some(count) = streams.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.who);
            }
        }
    }
}

/// What whoever asked is told of a read.
fn outcome<T, E: Into<UserError>>(read: Result<Result<T, E>, NotRead>) -> Result<T, Problem> {
    match read {
        Ok(read) => read.map_err(|error| Problem::from(error.into())),
        Err(NotRead::Failed) => Err(Problem::internal("a read failed")),
        Err(NotRead::Late) => Err(Problem::busy("the database is overloaded")),
    }
}
