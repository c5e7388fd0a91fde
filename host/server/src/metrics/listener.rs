//! Metrics at an address of their own, for every client that can reach it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use tokio::sync::watch;
use wfhost::Host;

use super::{Metrics, answer};
use crate::listen::{Address, Listener};
use crate::{Drainer, ServeError};

/// Answers with the figures, and nothing else, without a token.
#[derive(Debug)]
pub struct MetricsServer {
    host: Host,
    metrics: Arc<Metrics>,
    listener: Listener,
    drain: watch::Sender<bool>,
}

impl MetricsServer {
    /// Takes the address. Nothing is answered before [`MetricsServer::run`].
    pub async fn bind(host: Host, metrics: Arc<Metrics>, address: &Address) -> Result<Self, ServeError> {
        let listener = Listener::bind(address, None).await?;
        Ok(Self { host, metrics, listener, drain: watch::Sender::new(false) })
    }

    /// Where the figures are.
    pub fn url(&self) -> String {
        format!("{}/metrics", self.listener.url())
    }

    /// Tells it to end.
    pub fn drainer(&self) -> Drainer {
        Drainer(self.drain.clone())
    }

    /// Answers until it is told to end.
    pub async fn run(self) {
        let Self { host, metrics, listener, drain } = self;
        let draining = drain.subscribe();
        let router = Router::new().route("/metrics", get(figures)).with_state((metrics, host));
        listener.serve(router, draining).await;
    }
}

async fn figures(State((metrics, host)): State<(Arc<Metrics>, Host)>, headers: HeaderMap) -> Response {
    answer(&metrics, &host, &headers).await
}
