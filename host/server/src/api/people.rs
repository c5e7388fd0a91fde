//! Questions of runs, and the answers of people.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::HostError;
use wfhost::store::{MessageBody, OpenQuestion};
use wfhost_core::{Failure, FailureKind, Json, Outcome, RunId, Step, limits};
use wfhost_view::InboxView;

use super::acts::ActView;
use super::runs::Anything;
use super::{Asked, At, Refusals, Sent, View, limit, run_id};
use crate::app::App;
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(answer_step)).routes(routes!(deny_step))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListAsked {
    /// Only those of this run.
    run: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// The questions that can be answered, oldest first.
pub(crate) async fn open(app: &App, run: Option<RunId>, most: usize) -> Result<Vec<OpenQuestion>, Problem> {
    let now = app.store().now();
    app.read(async move |store| store.questions(run.as_ref(), Some(now), most).await).await
}

/// List the questions that runs ask people, oldest first
#[utoipa::path(get, path = "/questions", tag = "people", operation_id = "listQuestions", params(ListAsked),
    security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "Open questions", body = InboxView), Refusals))]
async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Asked(asked): Asked<ListAsked>,
) -> Result<View<InboxView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let run = asked.run.as_deref().map(run_id).transpose()?;
    let found = open(&app, run, limit(asked.limit, 100, 1_000)?).await?;
    Ok(View(InboxView::of(&found)))
}

/// Ends a question, and records who did.
pub(crate) async fn end(
    app: &App,
    caller: &Identity,
    run: &RunId,
    step: Step,
    outcome: Outcome,
    note: Option<String>,
) -> Result<RunId, Problem> {
    limits::check("a note", note.as_ref().map_or(0, String::len), 64 << 10).map_err(HostError::from)?;
    let word = if outcome.is_ok() { "answered" } else { "denied" };
    // Who it is says the token, not who has it.
    let by = Some(caller.name.clone());
    let (_, run) = app.host().post(run, MessageBody::Answer { step, outcome, by, note }).await?;
    app.record(caller, "people.answer", &format!("{run} step {step}"), word).await?;
    Ok(run)
}

/// An answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AnswerAsked {
    #[schema(value_type = Anything)]
    answer: Json,
    /// For the record.
    #[schema(max_length = 65536)]
    note: Option<String>,
}

/// Answer a question of a run
///
/// The answer has to be one of the choices and to fit the schema, if the question has them; if not, it
/// is 422 and the question stays open.
#[utoipa::path(post, path = "/runs/{run}/steps/{step}/answer", tag = "people", operation_id = "answerStep",
    params(("run" = String, Path), ("step" = u64, Path)), request_body = AnswerAsked,
    security(("bearer" = ["people:answer"])),
    responses((status = 202, description = "The question is answered", body = ActView), Refusals))]
async fn answer_step(
    State(app): State<App>,
    Caller(caller): Caller,
    At((run, step)): At<(String, u64)>,
    Sent(asked): Sent<AnswerAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::PeopleAnswer)?;
    let run = end(&app, &caller, &run_id(&run)?, Step(step), Ok(asked.answer), asked.note).await?;
    Ok((StatusCode::ACCEPTED, View(ActView::new(&run, "answered"))).into_response())
}

/// Why a question is refused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DenyAsked {
    /// For the program, and for the record.
    #[schema(max_length = 65536)]
    note: Option<String>,
}

/// What the program is told.
pub(crate) fn denial(by: &str, note: Option<&str>) -> Outcome {
    let why = note.map(|note| format!(": {note}")).unwrap_or_default();
    Err(Failure::new(FailureKind::Rejected, format!("{by} denied it{why}")))
}

/// Refuse a question: the program gets the failure `rejected`
#[utoipa::path(post, path = "/runs/{run}/steps/{step}/deny", tag = "people", operation_id = "denyStep",
    params(("run" = String, Path), ("step" = u64, Path)), request_body = DenyAsked,
    security(("bearer" = ["people:answer"])),
    responses((status = 202, description = "The question is rejected", body = ActView), Refusals))]
async fn deny_step(
    State(app): State<App>,
    Caller(caller): Caller,
    At((run, step)): At<(String, u64)>,
    Sent(asked): Sent<DenyAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::PeopleAnswer)?;
    let outcome = denial(&caller.name, asked.note.as_deref());
    let run = end(&app, &caller, &run_id(&run)?, Step(step), outcome, asked.note).await?;
    Ok((StatusCode::ACCEPTED, View(ActView::new(&run, "denied"))).into_response())
}
