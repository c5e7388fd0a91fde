//! Schedules.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::HostError;
use wfhost::schedule::{CatchUp, Overlap, Schedule, When};
use wfhost_core::policy::budget::Budget;
use wfhost_core::{Json, RunConfig, RunId, Timestamp, limits};
use wfhost_view::{ScheduleView, SchedulesView, UserError, nearest};

use super::acts::ActView;
use super::runs::{Anything, BudgetAsked, module, time};
use super::{At, Refusals, Sent, View};
use crate::app::App;
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(show, put, remove))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(fire))
}

/// Without the input, for those who may not see it.
fn shown(mut view: ScheduleView, caller: &Identity) -> ScheduleView {
    if !caller.may(Scope::PayloadsRead) {
        let mut input = Some(view.input);
        wfhost_view::hide(&mut input);
        view.input = input.unwrap_or_else(Json::null);
    }
    view
}

/// List schedules
#[utoipa::path(get, path = "/schedules", tag = "schedules", operation_id = "listSchedules",
    security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "By name", body = SchedulesView), Refusals))]
async fn list(State(app): State<App>, Caller(caller): Caller) -> Result<View<SchedulesView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let found = app.read(async |store| store.schedules().await).await?.known;
    let mut view = SchedulesView::of(&found);
    view.schedules = view.schedules.into_iter().map(|schedule| shown(schedule, &caller)).collect();
    Ok(View(view))
}

pub(crate) async fn find(app: &App, name: &str) -> Result<Schedule, Problem> {
    let schedules = app.read(async |store| store.schedules().await).await?;
    if let Some((name, why)) = schedules.unreadable.iter().find(|(known, _)| known == name) {
        return Err(UserError::host("WF0315", format!("the schedule `{name}` cannot be read: {why}")).into());
    }
    let mut known = schedules.known;
    if let Some(index) = known.iter().position(|schedule| schedule.name == name) {
        return Ok(known.swap_remove(index));
    }
    let nearest = nearest(name, known.iter().map(|schedule| schedule.name.as_str()));
    let trouble = UserError::usage("WF0513", format!("unknown schedule `{name}`"));
    Err(nearest
        .map_or_else(|| trouble.clone(), |near| trouble.clone().hint(format!("did you mean `{near}`?")))
        .into())
}

/// Show a schedule and its next times
#[utoipa::path(get, path = "/schedules/{name}", tag = "schedules", operation_id = "getSchedule",
    params(("name" = String, Path)), security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "The schedule", body = ScheduleView), Refusals))]
async fn show(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
) -> Result<View<ScheduleView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let found = find(&app, &name).await?;
    Ok(View(shown(ScheduleView::of(&found), &caller)))
}

/// When runs begin, and of what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScheduleAsked {
    /// The name of the module: the newest of that name now.
    workflow: Option<String>,
    /// The digest of the module, in the place of `workflow`.
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    module: Option<String>,
    /// Minute, hour, day of the month, month, day of the week.
    cron: Option<String>,
    /// The time zone of `cron` [default: UTC].
    tz: Option<String>,
    /// In the place of `cron`: a length of time like `15m`.
    every: Option<String>,
    /// The first time of `every`, RFC 3339 [default: now].
    from: Option<String>,
    #[schema(value_type = Option<Anything>)]
    input: Option<Json>,
    /// If the last run goes on when the next is to begin: skip, queue, cancel, allow [default: skip].
    overlap: Option<String>,
    /// What becomes of times that no host was there for: none, last, all [default: last].
    catch_up: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    budget: Option<BudgetAsked>,
    /// Who answers agent calls that name no provider.
    agent: Option<String>,
    /// Put it in the place of one of the same name.
    #[serde(default)]
    replace: bool,
}

/// Add a schedule, or change one
#[utoipa::path(put, path = "/schedules/{name}", tag = "schedules", operation_id = "putSchedule",
    params(("name" = String, Path)), request_body = ScheduleAsked, security(("bearer" = ["schedules:write"])),
    responses((status = 201, description = "The schedule was stored", body = ScheduleView), Refusals))]
async fn put(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
    Sent(asked): Sent<ScheduleAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::SchedulesWrite)?;
    let name: RunId = name.parse().map_err(|error: wfhost_core::BadRunId| {
        Problem::unfit(format!("the name of a schedule begins the ids of its runs: {error}"))
    })?;
    // Hosts fire it by the clock of the store.
    let now = app.store().now();
    let from = asked.from.as_deref().map(|text| time("from", text, now)).transpose()?;
    let when = match (&asked.cron, &asked.every) {
        (Some(cron), None) => When::cron(cron, asked.tz.as_deref().unwrap_or("UTC")),
        (None, Some(every)) => {
            let millis = wfhost_config::units::millis(every)
                .map_err(|error| Problem::unfit(format!("`every` has to be a duration like 15m: {error}")))?;
            When::every(millis, from.unwrap_or(now))
        }
        _ => return Err(Problem::unfit("use either `cron` or `every`")),
    };
    let when = when.map_err(Problem::from_error)?;
    let overlap = asked.overlap.as_deref().map_or(Some(Overlap::default()), Overlap::parse);
    let overlap =
        overlap.ok_or_else(|| Problem::unfit("`overlap` has to be skip, queue, cancel or allow"))?;
    let catch_up = asked.catch_up.as_deref().map_or(Some(CatchUp::default()), CatchUp::parse);
    let catch_up = catch_up.ok_or_else(|| Problem::unfit("`catch_up` has to be none, last or all"))?;
    let input = asked.input.unwrap_or_else(Json::null);
    limits::check("the input", input.as_str().len(), limits::INPUT_BYTES).map_err(HostError::from)?;
    let labels: Vec<_> = asked.labels.into_iter().collect();
    limits::check_labels(&labels).map_err(HostError::from)?;
    let module = module(&app, asked.workflow.as_deref(), asked.module.as_deref()).await?;
    app.host().check(&module, wfhost::Part::Input, &input).await?;
    let defaults = &app.options().defaults;
    let schedule = Schedule {
        name: name.to_string(),
        next_at: first(&when, now),
        when,
        overlap,
        catch_up,
        workflow: module.name.to_string(),
        module: module.digest,
        input,
        labels,
        config: RunConfig {
            agent: asked.agent.or_else(|| defaults.agent.clone()),
            budget: Budget::merged(asked.budget.map(Into::into), defaults.budget),
            project: defaults.project.clone(),
            ..RunConfig::default()
        },
        created_at: now,
        fired: 0,
        last: None,
    };
    if !app.store().put_schedule(schedule.clone(), asked.replace).await? {
        let trouble = UserError::usage("WF0514", format!("the schedule `{name}` already exists"));
        return Err(trouble.hint("set `replace` to replace it").into());
    }
    app.record(&caller, "schedules.put", name.as_str(), "put").await?;
    // It goes on from the runs of one that it replaces.
    let kept = app.store().schedules().await?.named(&schedule.name).unwrap_or(schedule);
    Ok((StatusCode::CREATED, View(shown(ScheduleView::of(&kept), &caller))).into_response())
}

/// The first time from now on.
fn first(when: &When, now: Timestamp) -> Option<Timestamp> {
    match when {
        When::Every { from, .. } if *from >= now => Some(*from),
        when => when.next_after(now),
    }
}

/// What became of an act on a schedule.
#[derive(Debug, Serialize, ToSchema)]
struct RemovedView {
    name: String,
    /// Always `removed`.
    result: &'static str,
    #[schema(example = "wfhost/act/1")]
    schema: &'static str,
}

/// Remove a schedule; its runs stay
#[utoipa::path(delete, path = "/schedules/{name}", tag = "schedules", operation_id = "deleteSchedule",
    params(("name" = String, Path)), security(("bearer" = ["schedules:write"])),
    responses((status = 200, description = "The schedule was removed", body = RemovedView), Refusals))]
async fn remove(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
) -> Result<View<RemovedView>, Problem> {
    caller.need(&app, Scope::SchedulesWrite)?;
    // Also one that cannot be read.
    if !app.store().delete_schedule(&name).await? {
        find(&app, &name).await?;
    }
    app.record(&caller, "schedules.delete", &name, "removed").await?;
    Ok(View(RemovedView { name, result: "removed", schema: "wfhost/act/1" }))
}

/// Does something with a schedule: whoever asks may, it is there, and what became of it is written down.
async fn acting<T, R>(
    app: &App,
    caller: &Identity,
    name: &str,
    act: &str,
    work: impl FnOnce(Schedule) -> R,
) -> Result<T, Problem>
where
    R: Future<Output = Result<(T, String), Problem>>,
{
    caller.need(app, Scope::SchedulesWrite)?;
    let (made, result) = work(find(app, name).await?).await?;
    app.record(caller, act, name, &result).await?;
    app.host().wake();
    Ok(made)
}

/// Sets when a schedule begins its next run, or that it begins none.
async fn set_next(
    app: &App,
    caller: &Identity,
    name: &str,
    (act, result): (&str, &str),
    next: impl FnOnce(&When) -> Option<Timestamp>,
) -> Result<View<ScheduleView>, Problem> {
    let set = acting(app, caller, name, act, async |found: Schedule| {
        let next_at = next(&found.when);
        app.store().set_schedule(&found.name, next_at).await?;
        Ok((Schedule { next_at, ..found }, result.to_owned()))
    });
    Ok(View(shown(ScheduleView::of(&set.await?), caller)))
}

/// Leave out all times from now on
#[utoipa::path(post, path = "/schedules/{name}/pause", tag = "schedules", operation_id = "pauseSchedule",
    params(("name" = String, Path)), security(("bearer" = ["schedules:write"])),
    responses((status = 200, description = "The schedule is paused; its runs continue", body = ScheduleView), Refusals))]
pub(crate) async fn pause(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
) -> Result<View<ScheduleView>, Problem> {
    set_next(&app, &caller, &name, ("schedules.pause", "paused"), |_| None).await
}

/// Go on with a schedule, from now
#[utoipa::path(post, path = "/schedules/{name}/resume", tag = "schedules", operation_id = "resumeSchedule",
    params(("name" = String, Path)), security(("bearer" = ["schedules:write"])),
    responses((status = 200, description = "The schedule is active again", body = ScheduleView), Refusals))]
pub(crate) async fn resume(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
) -> Result<View<ScheduleView>, Problem> {
    let next = |when: &When| when.next_after(app.store().now());
    set_next(&app, &caller, &name, ("schedules.resume", "resumed"), next).await
}

/// Begin a run of a schedule now, besides those of its times
#[utoipa::path(post, path = "/schedules/{name}/fire", tag = "schedules", operation_id = "fireSchedule",
    params(("name" = String, Path)), security(("bearer" = ["schedules:write"])),
    responses((status = 201, description = "The run", body = ActView), Refusals))]
pub(crate) async fn fire(
    State(app): State<App>,
    Caller(caller): Caller,
    At(name): At<String>,
) -> Result<Response, Problem> {
    let fired = acting(&app, &caller, &name, "schedules.fire", async |found: Schedule| {
        let run = found.run_now(app.store().now()).map_err(HostError::from)?;
        let id = run.id.clone();
        app.store().create(run).await?;
        Ok((id.clone(), id.to_string()))
    });
    Ok((StatusCode::CREATED, View(ActView::new(&fired.await?, "started"))).into_response())
}
