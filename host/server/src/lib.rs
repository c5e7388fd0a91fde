//! The HTTP server of wfhost: the API, live events, and pages.
//!
//! The server is a reader of the store: whatever it answers is a function of what is committed, by
//! whichever process. So any server on a database continues what another one began to tell.

mod api;
mod app;
mod auth;
mod callbacks;
mod changes;
mod guard;
mod hooks;
mod listen;
mod mcp;
mod metrics;
mod openapi;
mod pages;
mod problem;
mod reads;
mod spaces;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wfhost::Host;

use self::app::At;
pub use self::app::{App, Defaults, Options};
pub use self::auth::{Minted, Scope, Scopes, mint};
pub use self::listen::{Address, Tls, TlsError};
pub use self::mcp::{Mcp, McpOptions};
pub use self::metrics::{Metrics, MetricsServer};
pub use self::openapi::document as openapi;
pub use self::problem::Problem;

use self::listen::Listener;

/// Why a server cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Host(#[from] wfhost::HostError),
    /// A namespace that cannot be had.
    #[error("the namespace `{name}` {why}")]
    Namespace { name: String, why: &'static str },
}

impl From<wfhost::store::StoreError> for ServeError {
    fn from(error: wfhost::store::StoreError) -> Self {
        Self::Host(error.into())
    }
}

/// Another database of a server.
#[derive(Debug)]
struct Space {
    app: App,
    login: Option<String>,
}

/// How a namespace is reached.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    pub name: &'a str,
    pub url: &'a str,
    /// The address with which a browser gets in, once.
    pub login: Option<&'a str>,
    /// A token that may do everything in it as long as the server runs.
    pub token: Option<&'a str>,
}

/// A server that has its address.
#[derive(Debug)]
pub struct Server {
    app: App,
    listener: Listener,
    /// The other databases.
    spaces: Vec<Space>,
    at: At,
    ending: Ending,
    /// The address with which a browser gets in, once.
    login: Option<String>,
    url: String,
}

impl Server {
    /// Takes the address. Nothing is answered before [`Server::run`].
    pub async fn bind(host: Host, options: Options) -> Result<Self, ServeError> {
        let listener = Listener::bind(&options.listen, options.tls.as_ref()).await?;
        let url = options.public_url.clone().unwrap_or_else(|| listener.url());
        let identity = host.store().identity().await?;
        let ending = Ending::default();
        let draining = ending.draining();
        let at = if listener.is_unix() { At::User } else { At::Port(listener.port()) };
        // Those of a namespace are its own.
        let webhooks = options.webhooks.iter().filter(|hook| hook.namespace.is_none()).cloned().collect();
        let options = Options { webhooks, ..options };
        let app = App::new(host, options, at, None, url.clone(), identity, draining).await?;
        let login = login_of(&app).await?;
        Ok(Self { app, listener, spaces: Vec::new(), at, ending, login, url })
    }

    /// Serves another database, too: below `/ns/NAME`, with tokens of its own. Of `options` only what is
    /// said of runs and deliveries counts.
    pub async fn add(&mut self, name: &str, host: Host, options: Options) -> Result<(), ServeError> {
        let refused = |why| ServeError::Namespace { name: name.to_owned(), why };
        if !spaces::is_name(name) {
            return Err(refused("is not named with small letters, digits and `-`, 40 at most"));
        }
        if self.spaces.iter().any(|known| known.app.space() == Some(name)) {
            return Err(refused("is named twice"));
        }
        let identity = host.store().identity().await?;
        let apps = std::iter::once(&self.app).chain(self.spaces.iter().map(|space| &space.app));
        if apps.map(App::identity).any(|known| known == identity) {
            return Err(refused("has a database that is served already"));
        }
        let of_it = |hook: &&wfhost_config::Webhook| hook.namespace.as_deref() == Some(name);
        let webhooks = options.webhooks.iter().filter(of_it).cloned().collect();
        let options = Options { webhooks, ..options };
        let url = format!("{}{}", self.url, spaces::base(name));
        let (at, draining) = (self.at, self.ending.draining());
        let app = App::new(host, options, at, Some(name.to_owned()), url, identity, draining).await?;
        let login = login_of(&app).await?;
        self.spaces.push(Space { app, login });
        Ok(())
    }

    /// The other databases.
    pub fn namespaces(&self) -> impl Iterator<Item = Namespace<'_>> {
        self.spaces.iter().map(|space| Namespace {
            name: space.app.space().unwrap_or_default(),
            url: space.app.url(),
            login: space.login.as_deref(),
            token: space.app.own_token(),
        })
    }

    /// Where it is, for people and clients.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address with which a browser gets in, once.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// A token that may do everything as long as this server runs; none over a Unix socket, which needs none.
    pub fn token(&self) -> Option<&str> {
        self.app.own_token()
    }

    /// Tells the server to end.
    pub fn drainer(&self) -> Drainer {
        Drainer(self.ending.clone())
    }

    /// Answers until it is told to end.
    pub async fn run(self) {
        let spaces: Vec<_> = self.spaces.into_iter().map(|space| space.app).collect();
        let router = router(&self.app, &spaces);
        // What the changes of the stores are told by ends with the server.
        let mut watching = tokio::task::JoinSet::new();
        for app in spaces.into_iter().chain([self.app.clone()]) {
            watching.spawn(changes::watch(app));
        }
        self.listener.serve(router, &self.ending).await;
        watching.abort_all();
    }
}

/// What the API does, for the user of this process: without an address.
#[derive(Debug)]
pub struct Local {
    app: App,
    drain: watch::Sender<bool>,
    watching: tokio::task::JoinHandle<()>,
}

impl Local {
    /// Over a host.
    pub async fn new(host: Host, options: Options) -> Result<Self, ServeError> {
        let identity = host.store().identity().await?;
        let (drain, draining) = watch::channel(false);
        let url = options.public_url.clone().unwrap_or_default();
        let app = App::new(host, options, At::User, None, url, identity, draining).await?;
        let watching = tokio::spawn(changes::watch(app.clone()));
        Ok(Self { app, drain, watching })
    }

    /// A server of the Model Context Protocol for the user.
    pub fn mcp(&self, read_only: bool, options: McpOptions) -> Mcp {
        Mcp::of_user(&self.app, read_only, options)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.drain.send_replace(true);
        self.watching.abort();
    }
}

/// How far a server has come on its way to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    draining: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
}

impl Ending {
    /// Becomes true when nothing new is let in any more.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Becomes true when nothing but connections is waited for.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

/// Ends a server.
#[derive(Clone, Debug)]
pub struct Drainer(Ending);

impl Drainer {
    /// Requests under way are answered; new ones are told that the server is shutting down, and so is `/readyz`.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// It ends as soon as the connections have ended that were there when it began to: within ten seconds of that.
    pub fn stop(&self) {
        self.drain();
        self.0.stopping.send_replace(true);
    }
}

/// How long requests under way are waited for when a server ends.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// The address with which a browser gets in; none where whoever can open the socket is the user.
async fn login_of(app: &App) -> Result<Option<String>, wfhost::HostError> {
    match app.is_unix() {
        true => Ok(None),
        false => app.login_address().await.map(Some),
    }
}

/// Everything that is answered.
fn router(app: &App, spaces: &[App]) -> axum::Router {
    let mut router = answers(app);
    for space in spaces {
        let below = answers(space).layer(axum::middleware::from_fn_with_state(space.clone(), spaces::rebase));
        router = router.nest(space.base(), below);
    }
    guard::around(router, app, spaces)
}

/// What is answered for one database.
fn answers(app: &App) -> axum::Router {
    let (api, document) = openapi::parts(app.base());
    let document = Arc::<str>::from(document);
    axum::Router::new()
        .merge(api)
        .merge(pages::router())
        .merge(callbacks::router())
        .merge(hooks::router())
        .merge(api::health::router(document))
        .route("/metrics", axum::routing::get(metrics::serve))
        .route("/mcp", axum::routing::post(mcp::over_http))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .with_state(app.clone())
}
