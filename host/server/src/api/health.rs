//! Whether the server lives, and whether it is of use. Without a token: for balancers and supervisors.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::api::View;
use crate::app::App;
use crate::problem::Problem;

pub(crate) fn router(document: Arc<str>) -> Router<App> {
    Router::new().route("/healthz", get(health)).route("/readyz", get(ready)).route(
        "/openapi.json",
        get(async move || ([(header::CONTENT_TYPE, "application/json")], document.to_string())),
    )
}

/// The process answers.
async fn health() -> View<serde_json::Value> {
    View(json!({ "status": "ok" }))
}

/// The store answers, and the server is not about to end.
async fn ready(State(app): State<App>) -> Response {
    if *app.draining().borrow() {
        let body = View(json!({ "status": "draining" }));
        return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    }
    match app.read(async |store| store.last_place().await).await {
        Ok(_) => View(json!({ "status": "ready", "live": app.host().live() })).into_response(),
        Err(problem) => Problem::busy(&problem.error().message).into_response(),
    }
}
