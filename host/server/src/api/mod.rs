//! The API, below `/api/v1`: a file for each noun.

pub(crate) mod acts;
mod body;
mod events;
pub(crate) mod health;
pub(crate) mod modules;
pub(crate) mod people;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod settings;
pub(crate) mod sinks;
pub(crate) mod tokens;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use utoipa::IntoResponses;
use utoipa_axum::router::OpenApiRouter;
use wfhost::HostError;
use wfhost::store::RunInfo;
use wfhost_core::RunId;

use crate::app::App;
use crate::problem::{Problem, ProblemView};

pub(crate) use self::body::{Payload, Sent, read as read_body, read_form};
pub(crate) use self::events::Hub;

/// All routes.
pub(crate) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .merge(runs::router())
        .merge(run::router())
        .merge(acts::router())
        .merge(people::router())
        .merge(events::router())
        .merge(modules::router())
        .merge(schedules::router())
        .merge(settings::router())
        .merge(sinks::router())
        .merge(tokens::router())
}

/// The errors of every operation.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers")]
enum Refusals {
    /// The request cannot be understood.
    #[response(status = 400, content_type = "application/problem+json")]
    Bad(#[to_schema] ProblemView),
    /// There is no token, or it is not known.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] ProblemView),
    /// The token has not the scope, or the request comes from another site.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] ProblemView),
    /// There is no such thing.
    #[response(status = 404, content_type = "application/problem+json")]
    Missing(#[to_schema] ProblemView),
    /// The request came too slowly.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(#[to_schema] ProblemView),
    /// It cannot be in the present state.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] ProblemView),
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] ProblemView),
    /// The request is addressed to another host.
    #[response(status = 421, content_type = "application/problem+json")]
    Misdirected(#[to_schema] ProblemView),
    /// The request is understood and cannot be.
    #[response(status = 422, content_type = "application/problem+json")]
    Unfit(#[to_schema] ProblemView),
    /// Too many at the same time.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] ProblemView),
    /// Something of the host failed.
    #[response(status = 500, content_type = "application/problem+json")]
    Failed(#[to_schema] ProblemView),
    /// The server is ending, or has too much to do.
    #[response(status = 503, content_type = "application/problem+json")]
    Busy(#[to_schema] ProblemView),
}

/// Parts of the address, as `T`.
#[derive(Debug)]
pub(crate) struct At<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Path(at) = Path::from_request_parts(parts, app).await?;
        Ok(Self(at))
    }
}

/// The query, as `T`.
#[derive(Debug)]
pub(crate) struct Asked<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Query(asked) = Query::from_request_parts(parts, app).await?;
        Ok(Self(asked))
    }
}

/// A view as JSON.
#[derive(Debug)]
pub(crate) struct View<T>(pub T);

impl<T: serde::Serialize> axum::response::IntoResponse for View<T> {
    fn into_response(self) -> axum::response::Response {
        use axum::http::header;
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(_) => Problem::internal("the response cannot be written").into_response(),
        }
    }
}

/// The id in an address. Here only whole ids count.
pub(crate) fn run_id(text: &str) -> Result<RunId, Problem> {
    let missing = |error: wfhost_core::BadRunId| {
        Problem::from(wfhost_view::UserError::usage("WF0501", format!("invalid run id `{text}`: {error}")))
    };
    text.parse().map_err(missing)
}

/// The run of an address.
pub(crate) async fn find(app: &App, text: &str) -> Result<RunInfo, Problem> {
    let id = run_id(text)?;
    app.read(async move |store| store.run(&id).await?.ok_or(HostError::NoSuchRun(id))).await
}

/// The run that this one goes on as: of its rounds the latest.
pub(crate) async fn latest(app: &App, run: &RunId) -> Result<RunInfo, Problem> {
    let id = run.clone();
    app.read(async move |store| wfhost::latest(&store, &id).await).await
}

/// How many are asked for, within bounds.
pub(crate) fn limit(asked: Option<u32>, usual: u32, most: u32) -> Result<usize, Problem> {
    match asked.unwrap_or(usual) {
        limit if (1..=most).contains(&limit) => Ok(limit as usize),
        _ => Err(Problem::bad(format!("`limit` has to be from 1 to {most}"))),
    }
}

/// The newest module of that name.
pub(crate) async fn module_named(app: &App, name: &str) -> Result<wfhost::engine::Module, Problem> {
    runs::module(app, Some(name), None).await
}

/// The longest that a request waits, in milliseconds.
pub(crate) const LONGEST_WAIT_MS: u64 = 60_000;

/// A length of time like `30s` that a request is to wait.
pub(crate) fn wait(text: Option<&str>) -> Result<Option<std::time::Duration>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let millis = wfhost_config::units::millis(text)
        .map_err(|error| Problem::bad(format!("`wait` has to be a duration like 30s: {error}")))?;
    Ok(Some(std::time::Duration::from_millis(millis.min(LONGEST_WAIT_MS))))
}
