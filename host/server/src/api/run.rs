//! One run, and what is known of it.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::store::{LogLevel, RunFilter, RunInfo, TranscriptFilter, TranscriptKind};
use wfhost::why::Parallel;
use wfhost::{HostError, StepInfo, steps};
use wfhost_core::{Json, Position, Step};
use wfhost_view::{
    Difference, EntryView, JournalView, LogView, MessagesView, PublishedView, RunView, RunsView, StepView,
    Told, TranscriptView, UserError, WhyView, compare, entries, parallel, read_journal, started,
};

use super::runs::shown;
use super::{Asked, At, Refusals, View, find, limit, run_id, wait};
use crate::app::{App, ended};
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default()
        .routes(routes!(show, super::acts::delete_run))
        .routes(routes!(list_steps))
        .routes(routes!(show_step))
        .routes(routes!(journal))
        .routes(routes!(logs))
        .routes(routes!(messages))
        .routes(routes!(state))
        .routes(routes!(transcript))
        .routes(routes!(explain))
        .routes(routes!(family))
        .routes(routes!(compare_runs))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ShowAsked {
    /// Wait so long, like `30s`; a minute at most. The header `Prefer: wait=30` is the same.
    #[param(pattern = "^[0-9]{1,12}(ms|s|m|h|d)$")]
    wait: Option<String>,
    /// What to wait for: `end`, or `change` of anything behind entry `after`.
    #[param(example = "end", pattern = "^(end|change)$")]
    until: Option<String>,
    /// The number of entries that are known already.
    after: Option<u64>,
    /// Also its input, its steps, and what it published.
    steps: Option<bool>,
}

/// The time of `Prefer: wait=30` (RFC 7240).
fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split([',', ';'])).map(str::trim);
    let seconds = preferences.find_map(|preference| preference.strip_prefix("wait="))?.parse::<u64>().ok()?;
    Some(Duration::from_millis(seconds.saturating_mul(1_000).min(super::LONGEST_WAIT_MS)))
}

/// Show a run
///
/// With `wait` the answer comes when the run has ended or changed, or when that time is over.
#[utoipa::path(get, path = "/runs/{run}", tag = "run", operation_id = "getRun", params(("run" = String, Path), ShowAsked),
    security(("bearer" = ["runs:read"])), responses((status = 200, description = "The run", body = RunView), Refusals))]
async fn show(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    headers: HeaderMap,
    Asked(asked): Asked<ShowAsked>,
) -> Result<View<RunView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let patience = wait(asked.wait.as_deref())?.or_else(|| preferred(&headers));
    let info = match (patience, asked.until.as_deref()) {
        (_, Some(other)) if !matches!(other, "end" | "change") => {
            return Err(Problem::bad("`until` has to be end or change"));
        }
        (None, _) => find(&app, &run).await?,
        (Some(patience), Some("change")) => {
            let _place = app.stream(&caller)?;
            await_change(&app, &run, asked.after, patience).await?
        }
        (Some(patience), _) => {
            let _place = app.stream(&caller)?;
            super::runs::await_end(&app, run_id(&run)?, patience).await?
        }
    };
    let view = match asked.steps.unwrap_or(false) {
        true => whole(&app, info).await?,
        false => RunView::of(&info),
    };
    Ok(View(shown(view, &caller)))
}

/// A run with its input, its steps, and what it published.
pub(crate) async fn whole(app: &App, info: RunInfo) -> Result<RunView, Problem> {
    app.read(async move |store| {
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let input = started(&journal).map(|started| started.input.clone());
        let published = Some(store.state(&info.id).await?.into_iter().collect());
        let view = RunView::of(&info).with_steps(&steps(&journal));
        Ok::<_, UserError>(RunView { input, published, ..view })
    })
    .await
}

/// What of a run can be seen to change.
fn seen(info: &RunInfo) -> impl PartialEq + use<> {
    (info.state, info.entries, info.phase.clone(), info.emissions, info.waiting.clone())
}

async fn await_change(
    app: &App,
    run: &str,
    after: Option<u64>,
    patience: Duration,
) -> Result<RunInfo, Problem> {
    let until = tokio::time::Instant::now() + patience;
    let (mut changes, mut draining) = (app.changes(), app.draining());
    changes.borrow_and_update();
    let first = find(app, run).await?;
    let mut info = first.clone();
    loop {
        let known = after.is_none_or(|after| info.entries.0 <= after);
        if !known || info.state.is_final() || seen(&info) != seen(&first) {
            return Ok(info);
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => return Ok(info),
            () = ended(&mut draining) => return Ok(info),
            _ = changes.changed() => {}
        }
        app.breathe().await;
        changes.borrow_and_update();
        info = find(app, run).await?;
    }
}

/// The steps of a run.
#[derive(Debug, Serialize, ToSchema)]
struct StepsView {
    /// The number of the last one, to go on behind; null if there are no more.
    next: Option<u64>,
    run: String,
    #[schema(example = "wfhost/steps/1")]
    schema: &'static str,
    steps: Vec<StepView>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StepsAsked {
    /// Only steps behind this one.
    after: Option<u64>,
    /// Only those in this state: open, cancelled, completed, failed.
    #[param(pattern = "^(open|cancelled|completed|failed)$")]
    state: Option<String>,
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
}

fn step_shown(view: StepView, caller: &Identity) -> StepView {
    if caller.may(Scope::PayloadsRead) { view } else { view.hidden() }
}

/// List the steps of a run
#[utoipa::path(get, path = "/runs/{run}/steps", tag = "run", operation_id = "listSteps",
    params(("run" = String, Path), StepsAsked), security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "The steps in order", body = StepsView), Refusals))]
async fn list_steps(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Asked(asked): Asked<StepsAsked>,
) -> Result<View<StepsView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    if let Some(state) =
        asked.state.as_deref().filter(|s| !["open", "cancelled", "completed", "failed"].contains(s))
    {
        return Err(Problem::bad(format!(
            "unknown state of a step `{state}`; known states: open, cancelled, completed, failed"
        )));
    }
    let info = find(&app, &run).await?;
    let most = limit(asked.limit, 1_000, 10_000)?;
    let known =
        app.read(async move |store| read_journal(store.as_ref(), &info.id).await.map(|j| steps(&j))).await?;
    let wanted = known.iter().filter(|step| asked.after.is_none_or(|after| step.step.0 > after));
    let views =
        wanted.map(StepView::of).filter(|view| asked.state.as_deref().is_none_or(|s| view.state == s));
    let mut views: Vec<_> = views.take(most + 1).map(|view| step_shown(view, &caller)).collect();
    let more = views.len() > most;
    views.truncate(most);
    let next = views.last().filter(|_| more).map(|view| view.step);
    Ok(View(StepsView { next, run, schema: "wfhost/steps/1", steps: views }))
}

/// Show one step of a run
#[utoipa::path(get, path = "/runs/{run}/steps/{step}", tag = "run", operation_id = "getStep",
    params(("run" = String, Path), ("step" = u64, Path)), security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "The step", body = StepView), Refusals))]
async fn show_step(
    State(app): State<App>,
    Caller(caller): Caller,
    At((run, step)): At<(String, u64)>,
) -> Result<View<StepView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let info = find(&app, &run).await?;
    let known =
        app.read(async move |store| read_journal(store.as_ref(), &info.id).await.map(|j| steps(&j))).await?;
    let found = known.iter().find(|info| info.step == Step(step)).ok_or_else(|| no_step(&run, step))?;
    Ok(View(step_shown(StepView::of(found), &caller)))
}

pub(super) fn no_step(run: &str, step: u64) -> Problem {
    UserError::usage("WF0705", format!("{run} has no step {step}")).into()
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct JournalAsked {
    /// The position of the first entry [default: 0].
    from: Option<u64>,
    /// In the place of `from`: so many of the last entries.
    last: Option<u64>,
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
}

/// Read the journal of a run, by pages
#[utoipa::path(get, path = "/runs/{run}/journal", tag = "run", operation_id = "readJournal",
    params(("run" = String, Path), JournalAsked), security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "Entries in order", body = JournalView), Refusals))]
async fn journal(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Asked(asked): Asked<JournalAsked>,
) -> Result<View<JournalView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let info = find(&app, &run).await?;
    let most = limit(asked.limit, 1_000, 10_000)?;
    let from = match asked.last {
        Some(last) => info.entries.0.saturating_sub(last),
        None => asked.from.unwrap_or(0),
    };
    let id = info.id.clone();
    // A row has at least one entry.
    let rows = app.read(async move |store| store.journal_part(&id, Position(from), most).await).await?;
    let unreadable =
        |error: wfhost_core::EntryError| HostError::Journal { run: info.id.clone(), source: error.into() };
    let mut found = entries(&rows, Position(from)).map_err(unreadable)?;
    found.truncate(most);
    let end = found.last().map_or(from, |(position, _)| position.0 + 1);
    let whole = rows.last().filter(|row| row.end().0 == end);
    let view = |(position, entry): &(Position, wfhost_core::Entry)| {
        let view = EntryView::of(*position, entry);
        if caller.may(Scope::PayloadsRead) { view } else { view.hidden() }
    };
    Ok(View(JournalView {
        entries: found.iter().map(view).collect(),
        head: whole.map(|row| row.head.to_string()),
        next: (end < info.entries.0).then_some(end),
        run,
        schema: "wfhost/journal/1",
    }))
}

/// What a run wrote to its log.
#[derive(Debug, Serialize, ToSchema)]
struct LogsView {
    lines: Vec<LogView>,
    /// To go on from; the same as asked for if there was nothing.
    next: u64,
    run: String,
    #[schema(example = "wfhost/logs/1")]
    schema: &'static str,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct LogsAsked {
    /// The number of the first line.
    from: Option<u64>,
    /// Only lines that matter so much: trace, debug, info, warn, error.
    #[param(pattern = "^(trace|debug|info|warn|error)$")]
    level: Option<String>,
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
}

/// Read the log of a run
#[utoipa::path(get, path = "/runs/{run}/logs", tag = "run", operation_id = "readLogs",
    params(("run" = String, Path), LogsAsked), security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "Lines in order", body = LogsView), Refusals))]
async fn logs(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Asked(asked): Asked<LogsAsked>,
) -> Result<View<LogsView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let level = match asked.level.as_deref() {
        None => LogLevel::ALL[0],
        Some(text) => LogLevel::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| Problem::bad("`level` has to be trace, debug, info, warn or error"))?,
    };
    let info = find(&app, &run).await?;
    let (from, most) = (asked.from.unwrap_or(0), limit(asked.limit, 1_000, 10_000)?);
    let lines = app.read(async move |store| store.logs(&info.id, from, most).await).await?;
    let next = lines.last().map_or(from, |line| line.number + 1);
    let lines = lines.iter().filter(|line| line.level >= level).map(LogView::of).collect();
    Ok(View(LogsView { lines, next, run, schema: "wfhost/logs/1" }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct MessagesAsked {
    /// Only messages behind this one.
    after: Option<u64>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Read what a run posted for outsiders
#[utoipa::path(get, path = "/runs/{run}/messages", tag = "run", operation_id = "readMessages",
    params(("run" = String, Path), MessagesAsked), security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "Messages in order", body = MessagesView), Refusals))]
async fn messages(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Asked(asked): Asked<MessagesAsked>,
) -> Result<View<MessagesView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let info = find(&app, &run).await?;
    let (id, most) = (info.id.clone(), limit(asked.limit, 100, 1_000)?);
    let found = app.read(async move |store| store.messages(&id, asked.after, most).await).await?;
    Ok(View(MessagesView::new(&info.id, asked.after, &found)))
}

/// What a run published.
#[derive(Debug, Serialize, ToSchema)]
struct StateView {
    published: Vec<PublishedView>,
    run: String,
    #[schema(example = "wfhost/published/1")]
    schema: &'static str,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StateAsked {
    /// Only values of this key.
    key: Option<String>,
    /// Also the values before, oldest first.
    history: Option<bool>,
    /// Only those behind this number.
    after: Option<u64>,
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<u32>,
}

/// Read what a run published
#[utoipa::path(get, path = "/runs/{run}/state", tag = "run", operation_id = "readState",
    params(("run" = String, Path), StateAsked), security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "The latest value of each key", body = StateView), Refusals))]
async fn state(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Asked(asked): Asked<StateAsked>,
) -> Result<View<StateView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let info = find(&app, &run).await?;
    let (id, most) = (info.id.clone(), limit(asked.limit, 1_000, 10_000)?);
    let (key, after, history) = (asked.key.clone(), asked.after, asked.history.unwrap_or(false));
    let found = app.read(async move |store| match history {
        true => store.published(&id, key.as_deref(), after, most).await,
        false => store.latest(&id, key.as_deref(), after, most).await,
    });
    let found = found.await?;
    if let (Some(key), true) = (&asked.key, found.is_empty() && asked.after.is_none()) {
        return Err(UserError::usage("WF0512", format!("{run} has published nothing as `{key}`")).into());
    }
    let published = found.iter().map(|published| PublishedView::of(&info.id, published)).collect();
    Ok(View(StateView { published, run, schema: "wfhost/published/1" }))
}

/// What agents said while they worked.
#[derive(Debug, Serialize, ToSchema)]
struct TranscriptsView {
    lines: Vec<TranscriptView>,
    /// To go on behind; the same as asked for if there was nothing.
    next: u64,
    run: String,
    #[schema(example = "wfhost/transcript/1")]
    schema: &'static str,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TranscriptAsked {
    /// Only those of this step.
    step: Option<u64>,
    /// Only these kinds, separated by commas; `diff` is what an agent changed in its workspace, `queue` that a call
    /// waits for its turn, or got it after a wait.
    #[param(
        pattern = "^(answer|progress|event|heartbeat|diff|queue)(,(answer|progress|event|heartbeat|diff|queue))*$"
    )]
    kind: Option<String>,
    /// Only lines behind this number.
    after: Option<u64>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Read what agents said, and what they changed in their workspaces
#[utoipa::path(get, path = "/runs/{run}/transcript", tag = "run", operation_id = "readTranscript",
    params(("run" = String, Path), TranscriptAsked), security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "Lines in order", body = TranscriptsView), Refusals))]
async fn transcript(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
    Asked(asked): Asked<TranscriptAsked>,
) -> Result<View<TranscriptsView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let words =
        asked.kind.iter().flat_map(|kinds| kinds.split(',')).map(str::trim).filter(|word| !word.is_empty());
    let kind = |word: &str| {
        let known = TranscriptKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
        let found = TranscriptKind::ALL.iter().copied().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| Problem::bad(format!("unknown kind `{word}`; known kinds: {known}")))
    };
    let kinds = words.map(kind).collect::<Result<Vec<_>, _>>()?;
    let info = find(&app, &run).await?;
    let (after, most) = (asked.after.unwrap_or(0), limit(asked.limit, 200, 1_000)?);
    let filter = TranscriptFilter { after, step: asked.step.map(Step), kinds };
    let found = app.read(async move |store| store.transcript(&info.id, filter, most).await).await?;
    let next = found.last().map_or(after, |line| line.number);
    let lines = found.iter().map(TranscriptView::of).collect();
    Ok(View(TranscriptsView { lines, next, run, schema: "wfhost/transcript/1" }))
}

/// What keeps a run.
pub(crate) async fn blockers(app: &App, info: RunInfo) -> Result<WhyView, Problem> {
    let (config, id) = (app.options().defaults.config.clone(), info.id.clone());
    let (steps, parallel) = app
        .read(async move |store| {
            let journal = read_journal(store.as_ref(), &id).await?;
            Ok::<_, UserError>((steps(&journal), parallel(&config, started(&journal))))
        })
        .await?;
    why(app, &info, steps, parallel).await
}

/// The same, of steps that are known.
pub(crate) async fn why(
    app: &App,
    info: &RunInfo,
    steps: Vec<StepInfo>,
    parallel: Parallel,
) -> Result<WhyView, Problem> {
    let info = info.clone();
    app.read(async move |store| WhyView::of(store.as_ref(), &info, &steps, parallel).await).await
}

/// Say what keeps a run, and what would move it
#[utoipa::path(get, path = "/runs/{run}/why", tag = "run", operation_id = "explainRun", params(("run" = String, Path)),
    security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "What blocks the run", body = WhyView), Refusals))]
async fn explain(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
) -> Result<View<WhyView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    let info = find(&app, &run).await?;
    blockers(&app, info).await.map(View)
}

/// List the family of a run: its children and theirs, newest first
#[utoipa::path(get, path = "/runs/{run}/family", tag = "run", operation_id = "listFamily", params(("run" = String, Path)),
    security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "All runs with the same root, at most a thousand", body = RunsView), Refusals))]
async fn family(
    State(app): State<App>,
    Caller(caller): Caller,
    At(run): At<String>,
) -> Result<View<RunsView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let root = find(&app, &run).await?.links.root;
    let filter = RunFilter { root: Some(root), limit: 1_000, ..RunFilter::default() };
    let found = app.read(async move |store| store.runs(filter).await).await?;
    let mut view = RunsView::new(&found, None);
    view.runs = view.runs.into_iter().map(|run| shown(run, &caller)).collect();
    Ok(View(view))
}

/// Where two runs differ.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiffView {
    a: String,
    b: String,
    pub differences: Vec<Difference>,
    pub same_steps: u64,
    #[schema(example = "wfhost/diff/1")]
    schema: &'static str,
}

/// A run with what its journal tells.
async fn told(app: &App, run: &str) -> Result<Told, Problem> {
    let info = find(app, run).await?;
    app.read(async move |store| {
        let journal = read_journal(store.as_ref(), &info.id).await?;
        let input = started(&journal).map_or_else(Json::null, |started| started.input.clone());
        Ok::<_, UserError>(Told { info, input, steps: steps(&journal) })
    })
    .await
}

/// Where two runs differ.
pub(crate) async fn differences(app: &App, a: &str, b: &str) -> Result<DiffView, Problem> {
    let (told_a, told_b) = (told(app, a).await?, told(app, b).await?);
    let compared = tokio::task::spawn_blocking(move || compare(&told_a, &told_b)).await;
    let (same, differences) = compared.map_err(|_| Problem::internal("the runs could not be compared"))?;
    let (a, b) = (a.to_owned(), b.to_owned());
    Ok(DiffView { a, b, differences, same_steps: same as u64, schema: "wfhost/diff/1" })
}

/// Compare two runs
#[utoipa::path(get, path = "/runs/{run}/compare/{other}", tag = "run", operation_id = "compareRuns",
    params(("run" = String, Path), ("other" = String, Path)), security(("bearer" = ["runs:read", "payloads:read"])),
    responses((status = 200, description = "The differences", body = DiffView), Refusals))]
async fn compare_runs(
    State(app): State<App>,
    Caller(caller): Caller,
    At((run, other)): At<(String, String)>,
) -> Result<View<DiffView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    caller.need(&app, Scope::PayloadsRead)?;
    differences(&app, &run, &other).await.map(View)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_read_from_the_header() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", value.parse().unwrap());
            preferred(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(
            [read("wait=30"), read("respond-async, wait=5"), read("wait=9999"), read("wait=x")],
            [Some(30), Some(5), Some(60), None]
        );
    }
}
