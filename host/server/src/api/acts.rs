//! What is done to runs. Each act is recorded with who did it.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::engine::Module;
use wfhost::store::{DeleteIf, Deleted, Fence, LogLevel, MessageBody, Posted, RunInfo};
use wfhost::{ForkError, ForkOptions, HostError, ResumeOptions, steps};
use wfhost_core::{ForkPlan, Given, Json, Position, RunId, Step, limits};
use wfhost_view::{ReplayView, RunView, StepView, UpgradeView, UserError, log_lines};

use super::runs::{Anything, BudgetAsked, WaitAsked, idempotency_key, module, shown};
use super::{Asked, At, Payload, Refusals, Sent, View, find, latest, run_id, wait};
use crate::app::App;
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(send_signal))
        .routes(routes!(call_run))
        .routes(routes!(pause_run))
        .routes(routes!(resume_run))
        .routes(routes!(cancel_run))
        .routes(routes!(terminate_run))
        .routes(routes!(retry_run))
        .routes(routes!(fork_run))
        .routes(routes!(replay_run))
        .routes(routes!(upgrade_run))
        .routes(routes!(verify_run))
        .routes(routes!(create_callback))
}

/// What became of an act.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ActView {
    /// What became of it: `sent`, `duplicate`, `asked`, `paused`, `stopping`, `resumed`, `retried`, `terminated`, `deleted`.
    pub result: String,
    /// The run that it concerns: of several rounds the latest.
    pub run: String,
    #[schema(example = "wfhost/act/1")]
    pub schema: &'static str,
}

impl ActView {
    pub fn new(run: &RunId, result: &str) -> Self {
        Self { result: result.to_owned(), run: run.to_string(), schema: "wfhost/act/1" }
    }
}

/// Checks a signal against what the module of the run says of it.
pub(crate) async fn check_signal(
    app: &App,
    run: &RunId,
    name: &str,
    payload: Option<&Json>,
) -> Result<(), Problem> {
    let none = Json::null();
    app.host().check_signal(run, name, payload.unwrap_or(&none)).await?;
    Ok(())
}

/// Refuses a name that no signal can have.
pub(crate) fn check_signal_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Err(UserError::usage("WF0505", "the name of a signal is empty").into());
    }
    let fits = limits::check("the name of a signal", name.len(), limits::NAME_BYTES);
    fits.map_err(|error| UserError::usage("WF0003", error.to_string()).into())
}

/// Sends a signal, whatever its payload.
pub(crate) async fn signal(
    app: &App,
    caller: &Identity,
    run: &RunId,
    name: &str,
    payload: Json,
    id: Option<String>,
) -> Result<(bool, RunId), Problem> {
    check_signal_name(name)?;
    let body = MessageBody::Signal { name: name.to_owned(), payload, id };
    let (posted, run) = app.host().post(run, body).await?;
    let is_new = posted != Posted::Duplicate;
    app.record(caller, "runs.signal", &format!("{run} {name}"), if is_new { "sent" } else { "duplicate" })
        .await?;
    Ok((is_new, run))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SignalAsked {
    /// Do not check the payload against the module's schema.
    #[serde(default)]
    #[param(required = false)]
    no_check: bool,
}

/// Send a signal to a run
///
/// It is kept until the run waits for one of this name. The body is its payload. Signals with the same
/// `Idempotency-Key` are delivered once.
#[utoipa::path(post, path = "/runs/{run}/signals/{name}", tag = "acts", operation_id = "sendSignal",
    params(("run" = String, Path), ("name" = String, Path), SignalAsked,
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, description = "The id of the signal")),
    request_body(content = Anything, description = "The payload", content_type = "application/json"),
    security(("bearer" = ["runs:signal"])),
    responses((status = 200, description = "The signal was sent before", body = ActView),
        (status = 202, description = "The signal is in the inbox of the run", body = ActView), Refusals))]
async fn send_signal(
    State(app): State<App>,
    Caller(caller): Caller,
    At((run, name)): At<(String, String)>,
    headers: HeaderMap,
    Asked(asked): Asked<SignalAsked>,
    Payload(payload): Payload,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsSignal)?;
    let run = run_id(&run)?;
    if !asked.no_check {
        check_signal(&app, &run, &name, Some(&payload)).await?;
    }
    let (is_new, run) = signal(&app, &caller, &run, &name, payload, idempotency_key(&headers)?).await?;
    let (status, word) = if is_new { (StatusCode::ACCEPTED, "sent") } else { (StatusCode::OK, "duplicate") };
    Ok((status, View(ActView::new(&run, word))).into_response())
}

/// The answer of a run to a call.
#[derive(Debug, Serialize, ToSchema)]
struct ReplyView {
    /// What the program answered.
    #[schema(value_type = Anything)]
    output: Json,
    run: String,
    #[schema(example = "wfhost/reply/1")]
    schema: &'static str,
}

/// Call a run, and wait for its answer
///
/// The program takes calls of this name and answers each (`wfhost::calls` in the SDK for Rust). Repeated
/// with the same `Idempotency-Key`, the call is made once and the answer comes again.
#[utoipa::path(post, path = "/runs/{run}/calls/{name}", tag = "acts", operation_id = "callRun",
    params(("run" = String, Path), ("name" = String, Path), WaitAsked,
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, description = "The id of the call")),
    request_body(content = Anything, description = "The payload", content_type = "application/json"),
    security(("bearer" = ["runs:signal", "payloads:read"])),
    responses((status = 200, description = "The reply", body = ReplyView),
        (status = 202, description = "The run has not replied in time; repeat the request with the same key", body = ActView), Refusals))]
async fn call_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At((run, name)): At<(String, String)>,
    headers: HeaderMap,
    Asked(asked): Asked<WaitAsked>,
    Payload(payload): Payload,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsSignal)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let patience = wait(asked.wait.as_deref())?.unwrap_or(std::time::Duration::from_secs(30));
    let run = run_id(&run)?;
    let _place = app.stream(&caller)?;
    let id = match idempotency_key(&headers)? {
        Some(id) => id,
        None => wfhost::world::fresh_id().map_err(HostError::from)?.to_string(),
    };
    let call = wfhost::call::Call { name, id, input: payload };
    match call.make(app.host(), &run, app.changes(), app.draining(), patience).await? {
        wfhost::call::Called::Answered { run, output } => {
            app.record(&caller, "runs.call", &format!("{run} {}", call.name), "answered").await?;
            let view = ReplyView { output, run: run.to_string(), schema: "wfhost/reply/1" };
            Ok(View(view).into_response())
        }
        wfhost::call::Called::Open { run } => {
            app.record(&caller, "runs.call", &format!("{run} {}", call.name), "open").await?;
            let mut response = (StatusCode::ACCEPTED, View(ActView::new(&run, "asked"))).into_response();
            if let Ok(id) = call.id.parse() {
                response.headers_mut().insert("idempotency-key", id);
            }
            Ok(response)
        }
        wfhost::call::Called::Refused { run, message } => {
            app.record(&caller, "runs.call", &format!("{run} {}", call.name), "refused").await?;
            Err(UserError::usage("WF0518", format!("{run} refused the call: {message}")).into())
        }
    }
}

pub(crate) async fn pause(
    app: &App,
    caller: &Identity,
    run: &RunId,
) -> Result<(&'static str, RunId), Problem> {
    let (posted, run) = app.host().post(run, MessageBody::Pause).await?;
    // Of several rounds it is the latest that is paused, whichever was named.
    let info = find(app, run.as_str()).await?;
    let word = match posted {
        Posted::Stopping => "stopping",
        _ if wfhost::is_held(&info) => "asked",
        _ => "paused",
    };
    app.record(caller, "runs.pause", run.as_str(), word).await?;
    Ok((word, run))
}

/// Leave a run alone until it is resumed
#[utoipa::path(post, path = "/runs/{run}/pause", tag = "acts", operation_id = "pauseRun", params(("run" = String, Path)),
    security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The run is paused, or will be when its calls are done", body = ActView), Refusals))]
async fn pause_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
) -> Result<View<ActView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let (word, run) = pause(&app, &caller, &run_id(&run)?).await?;
    Ok(View(ActView::new(&run, word)))
}

/// Has a run go on; of several rounds the latest, whichever is named.
pub(crate) async fn resume(app: &App, caller: &Identity, run: &RunId) -> Result<RunId, Problem> {
    let info = latest(app, run).await?;
    if info.state.is_final() {
        return Err(HostError::Ended { run: info.id }.into());
    }
    // Whoever is there goes on with it.
    app.host().unpause(&info.id).await?;
    app.record(caller, "runs.resume", info.id.as_str(), "resumed").await?;
    Ok(info.id)
}

/// How a run is resumed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ResumeAsked {
    /// What it may spend from now on; what is not said stays. One that failed because it had spent all goes on.
    budget: Option<BudgetAsked>,
    /// The digest of other code to continue, if that agrees with the journal.
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    module: Option<String>,
}

/// Go on with a run
#[utoipa::path(post, path = "/runs/{run}/resume", tag = "acts", operation_id = "resumeRun", params(("run" = String, Path)),
    request_body = ResumeAsked, security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The run continues", body = ActView), Refusals))]
async fn resume_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<ResumeAsked>,
) -> Result<View<ActView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let mut run = run_id(&run)?;
    if asked.budget.is_none() && asked.module.is_none() {
        run = resume(&app, &caller, &run).await?;
    } else {
        run = latest(&app, &run).await?.id;
        let module = other_module(&app, asked.module.as_deref()).await?;
        let budget = asked.budget.map(Into::into);
        let options = ResumeOptions { module, budget, ..ResumeOptions::default() };
        let resumed = app.host().resume(&run, options).await;
        resumed.map_err(|error| Problem::from(error).shown_to(&caller))?;
        app.record(&caller, "runs.resume", run.as_str(), "resumed").await?;
    }
    Ok(View(ActView::new(&run, "resumed")))
}

/// The module of a digest, if one is named.
async fn other_module(app: &App, digest: Option<&str>) -> Result<Option<Module>, Problem> {
    match digest {
        Some(digest) => Ok(Some(module(app, None, Some(digest)).await?)),
        None => Ok(None),
    }
}

pub(crate) async fn cancel(
    app: &App,
    caller: &Identity,
    run: &RunId,
    reason: Option<String>,
) -> Result<RunId, Problem> {
    let (_, run) = app.host().post(run, MessageBody::Cancel { reason }).await?;
    app.record(caller, "runs.cancel", run.as_str(), "asked").await?;
    Ok(run)
}

/// Why something is done.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReasonAsked {
    /// For the record of the run.
    #[schema(max_length = 65536)]
    reason: Option<String>,
}

/// Ask a run to stop
///
/// Its open steps end as cancelled; the program sees it and has ten seconds to clean up.
#[utoipa::path(post, path = "/runs/{run}/cancel", tag = "acts", operation_id = "cancelRun", params(("run" = String, Path)),
    request_body = ReasonAsked, security(("bearer" = ["runs:control"])),
    responses((status = 202, description = "The cancellation was requested", body = ActView), Refusals))]
async fn cancel_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<ReasonAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let run = cancel(&app, &caller, &run_id(&run)?, asked.reason).await?;
    Ok((StatusCode::ACCEPTED, View(ActView::new(&run, "asked"))).into_response())
}

pub(crate) async fn terminate(
    app: &App,
    caller: &Identity,
    run: &RunId,
    reason: Option<&str>,
) -> Result<RunId, Problem> {
    let run = app.host().terminate(run, reason).await?;
    app.record(caller, "runs.terminate", run.as_str(), "terminated").await?;
    Ok(run)
}

/// End a run where it stands
///
/// The program does not notice and cannot clean up: try to cancel it first. A run that another process
/// advances is taken from that one, which commits nothing of it any more.
#[utoipa::path(post, path = "/runs/{run}/terminate", tag = "acts", operation_id = "terminateRun",
    params(("run" = String, Path)), request_body = ReasonAsked, security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The run has ended", body = ActView), Refusals))]
async fn terminate_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<ReasonAsked>,
) -> Result<View<ActView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let run = terminate(&app, &caller, &run_id(&run)?, asked.reason.as_deref()).await?;
    Ok(View(ActView::new(&run, "terminated")))
}

pub(crate) async fn retry(
    app: &App,
    caller: &Identity,
    run: &RunId,
    step: Option<Step>,
) -> Result<(), Problem> {
    app.host().retry(run, step, ResumeOptions::default()).await?;
    app.record(caller, "runs.retry", run.as_str(), "retried").await
}

/// Where a run is tried again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RetryAsked {
    /// The step; the one that it failed of if none.
    step: Option<u64>,
}

/// Try a run that failed again
#[utoipa::path(post, path = "/runs/{run}/retry", tag = "acts", operation_id = "retryRun", params(("run" = String, Path)),
    request_body = RetryAsked, security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The run continues", body = ActView), Refusals))]
async fn retry_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<RetryAsked>,
) -> Result<View<ActView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let run = run_id(&run)?;
    find(&app, run.as_str()).await?;
    retry(&app, &caller, &run, asked.step.map(Step)).await?;
    Ok(View(ActView::new(&run, "retried")))
}

/// Another answer at an entry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EditAsked {
    /// The position of the entry that holds the answer.
    entry: u64,
    #[schema(value_type = Anything)]
    answer: Json,
}

/// How a run is forked.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ForkAsked {
    /// The first entry that is left out; none is if none.
    at: Option<u64>,
    /// Other answers than the recorded ones.
    #[serde(default)]
    edits: Vec<EditAsked>,
    /// Another input.
    #[schema(value_type = Option<Anything>)]
    input: Option<Json>,
    /// The digest of other code.
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    module: Option<String>,
    /// Take over answers and not entries.
    #[serde(default)]
    reuse: bool,
    /// The id of the fork.
    id: Option<String>,
    /// Only tell whether it can be, and what it would do next: the default is to make it.
    #[serde(default)]
    dry_run: bool,
}

/// A fork, or what it would be.
#[derive(Debug, Serialize, ToSchema)]
struct ForkView {
    dry_run: bool,
    /// How many entries it begins with.
    entries: u64,
    module: String,
    /// What it would wait for, or ask again; only of a dry run.
    open: Vec<StepView>,
    /// The fork; null of a dry run.
    run: Option<RunView>,
    #[schema(example = "wfhost/fork/1")]
    schema: &'static str,
}

/// Make a new run out of what another one did, which stays as it is
#[utoipa::path(post, path = "/runs/{run}/fork", tag = "acts", operation_id = "forkRun", params(("run" = String, Path)),
    request_body = ForkAsked, security(("bearer" = ["runs:control", "runs:start"])),
    responses((status = 200, description = "The preview of the fork", body = ForkView),
        (status = 201, description = "The fork", body = ForkView), Refusals))]
async fn fork_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<ForkAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    caller.need(&app, Scope::RunsStart)?;
    let run = run_id(&run)?;
    if asked.reuse && (asked.at.is_some() || !asked.edits.is_empty()) {
        return Err(Problem::unfit(
            "`reuse` starts from the beginning: it cannot be combined with `at` and `edits`",
        ));
    }
    let bad_id = |error: wfhost_core::BadRunId| Problem::unfit(format!("invalid id: {error}"));
    let options = ForkOptions {
        plan: ForkPlan {
            at: asked.at.map(Position),
            edits: asked.edits.into_iter().map(|edit| (Position(edit.entry), edit.answer)).collect(),
            input: asked.input,
        },
        reuse: asked.reuse,
        module: other_module(&app, asked.module.as_deref()).await?,
        id: asked.id.map(|id| id.parse().map_err(bad_id)).transpose()?,
    };
    let refused = |error: ForkError| Problem::from(error).shown_to(&caller);
    if asked.dry_run {
        let preview = app.host().preview_fork(&run, options).await.map_err(refused)?;
        let open = preview.open.iter().map(StepView::of);
        let may = caller.may(Scope::PayloadsRead);
        let view = ForkView {
            dry_run: true,
            entries: preview.entries,
            module: preview.module.to_string(),
            open: open.map(|step| if may { step } else { step.hidden() }).collect(),
            run: None,
            schema: "wfhost/fork/1",
        };
        return Ok(View(view).into_response());
    }
    let fork = app.host().fork(&run, options).await.map_err(refused)?;
    app.record(&caller, "runs.fork", run.as_str(), fork.as_str()).await?;
    let info = find(&app, fork.as_str()).await?;
    let view = ForkView {
        dry_run: false,
        entries: info.entries.0,
        module: info.module.to_string(),
        open: Vec::new(),
        run: Some(shown(RunView::of(&info), &caller)),
        schema: "wfhost/fork/1",
    };
    Ok((StatusCode::CREATED, View(view)).into_response())
}

/// How a run is repeated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayAsked {
    /// The digest of other code.
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    module: Option<String>,
    /// Stop behind this entry.
    to: Option<u64>,
    /// Also where in its source the program asks for each step.
    #[serde(default)]
    trace: bool,
}

/// Repeat a run without any effect, and check that it does the same
///
/// A program that does something else is 409 with the difference. Nothing is asked, sent or stored.
#[utoipa::path(post, path = "/runs/{run}/replay", tag = "acts", operation_id = "replayRun", params(("run" = String, Path)),
    request_body = ReplayAsked, security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "The replay did the same", body = ReplayView), Refusals))]
async fn replay_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<ReplayAsked>,
) -> Result<View<ReplayView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let info = find(&app, &run).await?;
    replay(&app, &info, asked.module.as_deref(), asked.to, asked.trace).await.map(View)
}

/// Repeats a run without effects, up to an entry if one is named.
pub(crate) async fn replay(
    app: &App,
    info: &RunInfo,
    other: Option<&str>,
    to: Option<u64>,
    trace: bool,
) -> Result<ReplayView, Problem> {
    let module = match other_module(app, other).await? {
        Some(module) => module,
        None => app.host().module_of(info).await?,
    };
    let mut journal = app.host().journal(&info.id).await?;
    let whole = journal.entries.len() as u64;
    let entries = to.map_or(whole, |to| whole.min(to.saturating_add(1)));
    drop(journal.entries.split_off(entries as usize));
    let known = steps(&journal);
    let replayed = match trace {
        true => app.host().trace(&info.id, journal, &module).await?,
        false => app.host().replay(&info.id, journal, &module, Given::Nothing).await?,
    };
    if let Some(mismatch) = &replayed.departs {
        let moved = (module.digest != info.module).then_some((info.module, module.digest));
        return Err(UserError::mismatch(&info.id, mismatch, moved).into());
    }
    let recorded = info.outcome.as_ref().filter(|_| entries == whole && info.state.is_final());
    if let (Some(recorded), Some(found)) = (recorded, &replayed.outcome)
        && recorded != found
    {
        let message = format!("{} ended differently than before", info.id);
        let details = vec![
            format!("recorded  {}", wfhost_view::outcome(recorded)),
            format!("now       {}", wfhost_view::outcome(found)),
        ];
        let trouble = UserError { details, ..UserError::host("WF0203", message) };
        return Err(Problem::new(StatusCode::CONFLICT, trouble));
    }
    let lines = log_lines(&replayed, LogLevel::ALL[0]);
    Ok(ReplayView::new(&info.id, entries, &replayed, &lines, &known))
}

/// To what a run is moved.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpgradeAsked {
    /// The digest of the new code.
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    module: String,
    /// Only tell whether it can be.
    #[serde(default)]
    dry_run: bool,
}

/// Move a run to new code, if that agrees with its journal
#[utoipa::path(post, path = "/runs/{run}/upgrade", tag = "acts", operation_id = "upgradeRun",
    params(("run" = String, Path)), request_body = UpgradeAsked, security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The result for the run, or its preview", body = UpgradeView), Refusals))]
async fn upgrade_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Sent(asked): Sent<UpgradeAsked>,
) -> Result<View<UpgradeView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let info = find(&app, &run).await?;
    let module = module(&app, None, Some(&asked.module)).await?;
    upgrade(&app, &caller, &info, &module, asked.dry_run).await.map(View)
}

/// Moves a run, or tells whether it can be. What differs is told to those who may see it.
pub(super) async fn upgrade(
    app: &App,
    caller: &Identity,
    info: &RunInfo,
    module: &Module,
    dry_run: bool,
) -> Result<UpgradeView, Problem> {
    let mut view = if dry_run {
        let journal = app.host().journal(&info.id).await?;
        let checked = app.host().check_against(&info.id, journal, module).await?;
        UpgradeView::checked(&info.id, &checked)
    } else {
        let upgraded = app.host().upgrade(info, module).await?;
        let view = UpgradeView::upgraded(&info.id, &upgraded);
        app.record(caller, "runs.upgrade", info.id.as_str(), view.result).await?;
        view
    };
    if !caller.may(Scope::PayloadsRead) {
        view.why = view.why.map(|_| "(hidden: it needs the scope payloads:read)".to_owned());
    }
    Ok(view)
}

/// Whether a journal is complete and unaltered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerifyView {
    pub entries: u64,
    pub faults: Vec<String>,
    pub head: String,
    run: String,
    #[schema(example = "wfhost/verify/1")]
    schema: &'static str,
}

/// Looks whether a journal is complete and unaltered.
pub(crate) async fn verify(app: &App, info: RunInfo) -> Result<VerifyView, Problem> {
    let report = app
        .read_whole(async move |store| {
            wfhost::verify::verify(store.as_ref(), &info).await.map(|report| (info.id, report))
        })
        .await?;
    let (run, report) = report;
    Ok(VerifyView {
        entries: report.entries,
        faults: report.faults,
        head: report.head.to_string(),
        run: run.to_string(),
        schema: "wfhost/verify/1",
    })
}

/// Prove that the journal of a run is complete and unaltered
#[utoipa::path(post, path = "/runs/{run}/verify", tag = "acts", operation_id = "verifyRun", params(("run" = String, Path)),
    security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "What was found", body = VerifyView), Refusals))]
async fn verify_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
) -> Result<View<VerifyView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let info = find(&app, &run).await?;
    verify(&app, info).await.map(View)
}

/// `only`: what the run still has to be, if it was chosen by that.
pub(super) async fn delete(app: &App, caller: &Identity, run: &RunId, only: DeleteIf) -> Result<(), Problem> {
    let info = find(app, run.as_str()).await?;
    // A dead process does not hold it.
    if let Some(session) = info.lease.filter(|session| wfhost::owner::is_dead(&session.owner)) {
        app.store().fence(session.id, Fence::Dead).await?;
    }
    match app.store().delete_if(run, only).await? {
        Deleted::Yes => app.record(caller, "runs.delete", run.as_str(), "deleted").await,
        Deleted::Held { owner, .. } => Err(HostError::Held { run: run.clone(), owner }.into()),
        Deleted::Needed => {
            Err(UserError::usage("WF0516", format!("{run} is an earlier round of a run that has not ended"))
                .hint("its messages are passed on to the latest round; delete it when that has ended")
                .into())
        }
        Deleted::Changed => {
            let message = format!("{run} is not in one of the chosen states any more: it was not deleted");
            Err(Problem::new(StatusCode::CONFLICT, UserError::usage("WF0819", message)))
        }
        Deleted::NoSuchRun => Err(HostError::NoSuchRun(run.clone()).into()),
    }
}

/// Delete a run with everything that belongs to it
#[utoipa::path(delete, path = "/runs/{run}", tag = "acts", operation_id = "deleteRun", params(("run" = String, Path)),
    security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "The run was deleted", body = ActView), Refusals))]
pub(super) async fn delete_run(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
) -> Result<View<ActView>, Problem> {
    caller.need(&app, Scope::RunsControl)?;
    let run = run_id(&run)?;
    delete(&app, &caller, &run, DeleteIf::default()).await?;
    Ok(View(ActView::new(&run, "deleted")))
}

/// What an address is to be for: a signal or a step of a run, or a workflow to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CallbackAsked {
    run: Option<String>,
    /// The signal that is sent to the run.
    signal: Option<String>,
    /// The step of the run whose question is answered.
    step: Option<u64>,
    /// The workflow that is started.
    workflow: Option<String>,
    /// A length of time like `7d`, after which it is of no use; for ever if none.
    expires: Option<String>,
}

/// An address for others.
#[derive(Debug, Serialize, ToSchema)]
struct CallbackView {
    expires_at: Option<String>,
    #[schema(example = "wfhost/callback/1")]
    schema: &'static str,
    /// Whoever has it can do this one thing by a POST to it. A GET does nothing.
    url: String,
}

/// Make an address by which others can send a signal, answer a question, or start runs
///
/// It works without a token. One for a signal or an answer works once.
#[utoipa::path(post, path = "/callbacks", tag = "acts", operation_id = "createCallback", request_body = CallbackAsked,
    security(("bearer" = ["runs:signal"]), ("bearer" = ["people:answer"]), ("bearer" = ["runs:start"])),
    responses((status = 201, description = "The address", body = CallbackView), Refusals))]
async fn create_callback(
    State(app): State<App>,
    Caller(caller): Caller,
    Sent(asked): Sent<CallbackAsked>,
) -> Result<Response, Problem> {
    use crate::callbacks::{Purpose, token};
    let nonce = || wfhost::world::fresh_id().map(|id| id.to_string()).map_err(HostError::from);
    let CallbackAsked { run, signal, step, workflow, expires } = asked;
    let purpose = match (run, signal, step, workflow) {
        (Some(run), Some(name), None, None) => {
            caller.need(&app, Scope::RunsSignal)?;
            check_signal_name(&name)?;
            let run = find(&app, &run).await?.id.to_string();
            Purpose::Signal { run, name, nonce: nonce()? }
        }
        (Some(run), None, Some(step), None) => {
            caller.need(&app, Scope::PeopleAnswer)?;
            let run = find(&app, &run).await?.id.to_string();
            Purpose::Answer { run, step }
        }
        (None, None, None, Some(workflow)) => {
            caller.need(&app, Scope::RunsStart)?;
            super::module_named(&app, &workflow).await?;
            Purpose::Start { workflow, nonce: nonce()? }
        }
        _ => {
            // Whoever may do nothing of it is not told more.
            let scopes = [Scope::RunsSignal, Scope::PeopleAnswer, Scope::RunsStart];
            if !scopes.iter().any(|scope| caller.may(*scope)) {
                caller.need(&app, Scope::RunsSignal)?;
            }
            return Err(Problem::unfit("set `run` with `signal` or `step`, or `workflow` alone"));
        }
    };
    let expires = expires.as_deref().map(wfhost_config::units::millis).transpose();
    let expires =
        expires.map_err(|error| Problem::unfit(format!("`expires` has to be a duration: {error}")))?;
    let expires_at = expires.map(|millis| app.store().now().after(millis));
    let token = token(app.secret(), purpose.clone(), expires_at);
    app.record(&caller, "callbacks.create", &format!("{purpose:?}"), "made").await?;
    let view = CallbackView {
        expires_at: expires_at.map(wfhost::clock::rfc3339),
        schema: "wfhost/callback/1",
        url: format!("{}/c/{token}", app.url()),
    };
    Ok((StatusCode::CREATED, View(view)).into_response())
}
