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
mod listen;
mod mcp;
mod metrics;
mod openapi;
mod pages;
mod problem;

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
}

impl From<wfhost::store::StoreError> for ServeError {
    fn from(error: wfhost::store::StoreError) -> Self {
        Self::Host(error.into())
    }
}

/// A server that has its address.
#[derive(Debug)]
pub struct Server {
    app: App,
    listener: Listener,
    drain: watch::Sender<bool>,
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
        let (drain, draining) = watch::channel(false);
        let at = if listener.is_unix() { At::User } else { At::Port(listener.port()) };
        let app = App::new(host, options, at, url.clone(), identity, draining).await?;
        let login = match listener.is_unix() {
            // Whoever can open the socket is the user.
            true => None,
            false => Some(app.login_address().await?),
        };
        Ok(Self { app, listener, drain, login, url })
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

    /// Tells the server to end: it takes no more requests, and those under way are answered.
    pub fn drainer(&self) -> Drainer {
        Drainer(self.drain.clone())
    }

    /// Answers until it is told to end.
    pub async fn run(self) {
        let router = router(&self.app);
        let app = self.app.clone();
        // What the changes of the store are told by ends with the server.
        let watching = tokio::spawn(changes::watch(app.clone()));
        self.listener.serve(router, app.draining()).await;
        watching.abort();
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
        let app = App::new(host, options, At::User, url, identity, draining).await?;
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

/// Ends a server.
#[derive(Clone, Debug)]
pub struct Drainer(watch::Sender<bool>);

impl Drainer {
    pub fn drain(&self) {
        self.0.send_replace(true);
    }
}

/// How long requests under way are waited for when a server ends.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// Everything that is answered.
fn router(app: &App) -> axum::Router {
    let (api, document) = openapi::parts();
    let document = Arc::<str>::from(document);
    let router = axum::Router::new()
        .merge(api)
        .merge(pages::router())
        .merge(callbacks::router())
        .merge(api::health::router(document))
        .route("/metrics", axum::routing::get(metrics::serve))
        .route("/mcp", axum::routing::post(mcp::over_http))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .with_state(app.clone());
    guard::around(router, app)
}
