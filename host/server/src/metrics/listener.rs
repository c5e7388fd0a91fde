//! Metrics at an address of their own, for every client that can reach it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use wfhost::Host;

use super::{Metrics, answer};
use crate::listen::{Address, Listener};
use crate::{Drainer, Ending, ServeError};

/// A database, and its figures.
type Counted = (Host, Arc<Metrics>);

/// Answers with the figures, and nothing else, without a token: at `/metrics`, and of each namespace at
/// `/ns/NAME/metrics`.
#[derive(Debug)]
pub struct MetricsServer {
    own: Counted,
    spaces: BTreeMap<String, Counted>,
    listener: Listener,
    ending: Ending,
}

impl MetricsServer {
    /// Takes the address. Nothing is answered before [`MetricsServer::run`].
    pub async fn bind(host: Host, metrics: Arc<Metrics>, address: &Address) -> Result<Self, ServeError> {
        let listener = Listener::bind(address, None).await?;
        Ok(Self { own: (host, metrics), spaces: BTreeMap::new(), listener, ending: Ending::default() })
    }

    /// Has it answer with the figures of a namespace, too.
    pub fn add(&mut self, name: &str, host: Host, metrics: Arc<Metrics>) {
        self.spaces.insert(name.to_owned(), (host, metrics));
    }

    /// Where the figures are.
    pub fn url(&self) -> String {
        format!("{}/metrics", self.listener.url())
    }

    /// Tells it to end.
    pub fn drainer(&self) -> Drainer {
        Drainer(self.ending.clone())
    }

    /// Answers until it is told to end.
    pub async fn run(self) {
        let Self { own, spaces, listener, ending } = self;
        let router = Router::new()
            .route("/metrics", get(figures).with_state(own))
            .route("/ns/{name}/metrics", get(figures_of).with_state(Arc::new(spaces)));
        listener.serve(router, &ending).await;
    }
}

async fn figures(State((host, metrics)): State<Counted>, headers: HeaderMap) -> Response {
    answer(&metrics, &host, &headers).await
}

async fn figures_of(
    State(spaces): State<Arc<BTreeMap<String, Counted>>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    match spaces.get(&name) {
        Some((host, metrics)) => answer(metrics, host, &headers).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
