//! Modules, and moving runs to them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::engine::{Denied, summarize};
use wfhost::store::{ModuleInfo, RunFilter, RunState};
use wfhost_core::{Description, limits};
use wfhost_view::{ModuleView, UpgradeView, UserError};

use super::body::Bytes;
use super::runs::{Anything, digest, module};
use super::{Asked, At, Refusals, Sent, View, acts};
use crate::app::App;
use crate::auth::{Caller, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list, upload)).routes(routes!(show)).routes(routes!(upgrade_all))
}

/// All modules, by name and then newest first.
#[derive(Debug, Serialize, ToSchema)]
struct ModulesView {
    modules: Vec<ModuleView>,
    #[schema(example = "wfhost/modules/1")]
    schema: &'static str,
}

/// List modules
#[utoipa::path(get, path = "/modules", tag = "modules", operation_id = "listModules", security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "By name, the newest of each first", body = ModulesView), Refusals))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<View<ModulesView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let found = app.read(async |store| store.modules().await).await?;
    Ok(View(ModulesView { modules: found.iter().map(ModuleView::of).collect(), schema: "wfhost/modules/1" }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct UploadAsked {
    /// The name of the workflow.
    #[param(min_length = 1, max_length = 256)]
    name: String,
    /// Accept imports of sockets or HTTP; a call to them fails the run.
    trap_denied: Option<bool>,
}

/// Upload a module
///
/// The body is a WebAssembly component. It is checked and compiled first. Uploading the same again changes nothing.
#[utoipa::path(post, path = "/modules", tag = "modules", operation_id = "uploadModule", params(UploadAsked),
    request_body(content = String, description = "The component", content_type = "application/octet-stream"),
    security(("bearer" = ["modules:write"])),
    responses((status = 201, description = "The module is in the database", body = ModuleView), Refusals))]
async fn upload(
    State(app): State<App>,
    Caller(caller): Caller,
    Asked(asked): Asked<UploadAsked>,
    Bytes(bytes): Bytes,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::ModulesWrite)?;
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    if !is_name(&asked.name) {
        return Err(Problem::unfit("the name of a workflow consists of letters, digits, `_`, `-` and `.`"));
    }
    if asked.name.len() > limits::NAME_BYTES {
        return Err(Problem::unfit("the name of a workflow has 256 bytes at most"));
    }
    let denied = if asked.trap_denied.unwrap_or(false) { Denied::Trap } else { Denied::Refuse };
    let added = app.host().add_module_with(&asked.name, &bytes, denied).await?;
    app.record(&caller, "modules.upload", &format!("{} {}", asked.name, added.digest), "added").await?;
    let info = app.store().module_info(added.digest).await?.ok_or_else(|| missing(&asked.name))?;
    Ok((StatusCode::CREATED, View(ModuleView::of(&info))).into_response())
}

fn missing(what: &str) -> Problem {
    UserError::usage("WF0110", format!("unknown module {what}")).into()
}

/// Something that a module imports.
#[derive(Debug, Serialize, ToSchema)]
struct ImportView {
    class: &'static str,
    name: String,
}

/// A module, and what it asks of its host.
#[derive(Debug, Serialize, ToSchema)]
struct InspectView {
    /// What it says of itself: JSON Schemas of input and output, signals, questions, published state, examples,
    /// what it needs. Null if it says nothing.
    #[schema(value_type = Anything)]
    describes: Option<Description>,
    /// Why that cannot be read, if it cannot.
    describes_error: Option<String>,
    exports: Vec<String>,
    imports: Vec<ImportView>,
    module: ModuleView,
    #[schema(example = "wfhost/inspect/1")]
    schema: &'static str,
}

async fn info(app: &App, text: &str) -> Result<ModuleInfo, Problem> {
    let wanted = digest(text).map_err(|_| missing(text))?;
    app.read(async move |store| store.module_info(wanted).await).await?.ok_or_else(|| missing(text))
}

/// Show a module: what it says of itself, and what it imports
#[utoipa::path(get, path = "/modules/{digest}", tag = "modules", operation_id = "getModule", params(("digest" = String, Path)),
    security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "The module", body = InspectView), Refusals))]
async fn show(
    State(app): State<App>,
    Caller(caller): Caller,
    At(digest): At<String>,
) -> Result<View<InspectView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let info = info(&app, &digest).await?;
    let wanted = info.digest;
    let bytes =
        app.read(async move |store| store.module(wanted).await).await?.ok_or_else(|| missing(&digest))?;
    let (describes, describes_error) = match Description::of(&bytes) {
        Ok(said) => (said, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let summary = tokio::task::spawn_blocking(move || summarize(&bytes)).await;
    let summary = summary.map_err(|_| Problem::internal("the module could not be read"))?;
    let summary = summary.map_err(Problem::from_error)?;
    let imports = summary.imports.iter();
    Ok(View(InspectView {
        describes,
        describes_error,
        exports: summary.exports.clone(),
        imports: imports.map(|i| ImportView { class: i.class.as_str(), name: i.name.to_string() }).collect(),
        module: ModuleView::of(&info),
        schema: "wfhost/inspect/1",
    }))
}

/// Which runs are moved to a module.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MoveAsked {
    /// Only tell what would become of each run: the default.
    dry_run: Option<bool>,
    /// The workflow whose runs that have not ended are moved; that of the module if none.
    workflow: Option<String>,
}

/// What became of runs, or would.
#[derive(Debug, Serialize, ToSchema)]
struct MovesView {
    dry_run: bool,
    runs: Vec<UpgradeView>,
    #[schema(example = "wfhost/upgrades/1")]
    schema: &'static str,
}

/// Runs that are moved at once.
const MOVES: usize = 200;

/// Move the runs of a workflow to new code, or preview that
///
/// The journal of each run is replayed against the module. One that diverges stays where it is.
#[utoipa::path(post, path = "/modules/{digest}/upgrade", tag = "modules", operation_id = "upgradeRuns",
    params(("digest" = String, Path)), request_body = MoveAsked, security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The result for each run, or its preview", body = MovesView), Refusals))]
async fn upgrade_all(
    State(app): State<App>,
    Caller(caller): Caller,
    At(digest): At<String>,
    Sent(asked): Sent<MoveAsked>,
) -> Result<View<MovesView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let known = info(&app, &digest).await?;
    let module = module(&app, None, Some(&digest)).await?;
    let states = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
    let workflow = Some(asked.workflow.unwrap_or(known.name));
    let filter = RunFilter { states, workflow, limit: MOVES + 1, ..RunFilter::default() };
    let found = app.read(async move |store| store.runs(filter).await).await?;
    if found.len() > MOVES {
        let message = format!("the workflow has more than {MOVES} runs that have not ended");
        return Err(Problem::unfit(format!(
            "{message}; migrate them one by one: POST /api/v1/runs/RUN/upgrade"
        )));
    }
    let dry_run = asked.dry_run.unwrap_or(true);
    let mut runs = Vec::new();
    for run in found {
        runs.push(acts::upgrade(&app, &caller, &run, &module, dry_run).await?);
    }
    Ok(View(MovesView { dry_run, runs, schema: "wfhost/upgrades/1" }))
}
