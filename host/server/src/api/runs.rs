//! Runs as a whole: list, start, count, act on many.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wfhost::store::{DeleteIf, MessageBody, RunFilter, RunInfo, RunState, WaitsFor};
use wfhost::{Part, StartOptions};
use wfhost_core::policy::budget::Budget;
use wfhost_core::{Digest, Json, RunConfig, RunId, Sandbox, Timestamp, counted};
use wfhost_view::{RunView, RunsView, UserError};

use super::{Asked, Refusals, Sent, View, acts, find, latest, limit, wait};
use crate::app::{App, ended};
use crate::auth::{Caller, Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list, start)).routes(routes!(counts)).routes(routes!(batch))
}

/// How long a list is searched for.
const PATIENCE_MS: u64 = 2_000;

/// Any JSON.
pub(super) type Anything = serde_json::Value;

/// A run as who asks may see it.
pub(crate) fn shown(view: RunView, caller: &Identity) -> RunView {
    if caller.may(Scope::PayloadsRead) { view } else { view.hidden() }
}

/// Which runs.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// States, separated by commas: queued, running, waiting, paused, refused, completed, failed, cancelled, continued.
    pub state: Option<String>,
    pub workflow: Option<String>,
    /// `key=value`; several are separated by commas, and all have to be there.
    pub label: Option<String>,
    /// Created at this time or later: RFC 3339, or a length of time before now like `2h`.
    pub since: Option<String>,
    /// Created before this time.
    pub until: Option<String>,
    /// Contained in the id, the workflow, the key, the labels or the phase.
    pub text: Option<String>,
    /// What it waits for: `people`, `time`, `signal`, or `signal:NAME`.
    pub waits: Option<String>,
    /// With this key.
    pub key: Option<String>,
    /// Executed with the module of this digest.
    #[param(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    pub module: Option<String>,
    /// Children of this run.
    pub parent: Option<String>,
    /// Only runs that nobody started.
    pub top: Option<bool>,
}

/// A time: RFC 3339, or a length of time before now, which is that of the store.
pub(crate) fn time(name: &str, text: &str, now: Timestamp) -> Result<Timestamp, Problem> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp(u64::try_from(time.as_millisecond()).unwrap_or(0)));
    }
    let millis = wfhost_config::units::millis(text).map_err(|_| {
        Problem::unfit(format!(
            "`{name}` has to be a time like 2026-01-31T12:00:00Z, or a duration before now like 2h"
        ))
    })?;
    Ok(Timestamp(now.0.saturating_sub(millis)))
}

/// The digest of a module.
pub(super) fn digest(text: &str) -> Result<Digest, Problem> {
    Digest::parse(text)
        .ok_or_else(|| Problem::bad(format!("invalid digest `{text}`: a digest has 64 hexadecimal digits")))
}

impl Wanted {
    /// Pages hand it to the list.
    pub fn filter(&self, now: Timestamp) -> Result<RunFilter, Problem> {
        let words = |text: &Option<String>| {
            let words = text.iter().flat_map(|text| text.split(',')).map(str::trim);
            words.filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let state = |word: &String| {
            RunState::parse(word).ok_or_else(|| {
                let known: Vec<_> = RunState::ALL.iter().map(|state| state.as_str()).collect();
                Problem::unfit(format!("unknown state `{word}`; known states: {}", known.join(", ")))
            })
        };
        let label = |word: &String| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Problem::unfit(format!("invalid label `{word}`: the form is key=value"))),
        };
        let waits = |text: &String| match text.as_str() {
            "people" => Ok(WaitsFor::People),
            "time" => Ok(WaitsFor::Time),
            "signal" => Ok(WaitsFor::Signal(None)),
            text => match text.strip_prefix("signal:").filter(|name| !name.is_empty()) {
                Some(name) => Ok(WaitsFor::Signal(Some(name.to_owned()))),
                None => Err(Problem::unfit("`waits` has to be people, time, signal, or signal:NAME")),
            },
        };
        Ok(RunFilter {
            states: words(&self.state).iter().map(state).collect::<Result<_, _>>()?,
            workflow: self.workflow.clone(),
            labels: words(&self.label).iter().map(label).collect::<Result<_, _>>()?,
            since: self.since.as_deref().map(|text| time("since", text, now)).transpose()?,
            until: self.until.as_deref().map(|text| time("until", text, now)).transpose()?,
            text: self.text.clone().filter(|text| !text.is_empty()),
            waits: self.waits.as_ref().map(waits).transpose()?,
            key: self.key.clone(),
            module: self.module.as_deref().map(digest).transpose()?,
            parent: self.parent.as_deref().map(super::run_id).transpose()?,
            top: self.top.unwrap_or(false),
            patience_ms: Some(PATIENCE_MS),
            ..RunFilter::default()
        })
    }
}

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// What `next` of the page before said.
    pub cursor: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// Both in one, so that what is neither is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListAsked {
    state: Option<String>,
    workflow: Option<String>,
    label: Option<String>,
    since: Option<String>,
    until: Option<String>,
    text: Option<String>,
    waits: Option<String>,
    key: Option<String>,
    module: Option<String>,
    parent: Option<String>,
    top: Option<bool>,
    cursor: Option<String>,
    limit: Option<u32>,
}

impl ListAsked {
    fn split(self) -> (Wanted, Page) {
        let Self {
            state,
            workflow,
            label,
            since,
            until,
            text,
            waits,
            key,
            module,
            parent,
            top,
            cursor,
            limit,
        } = self;
        let wanted = Wanted { state, workflow, label, since, until, text, waits, key, module, parent, top };
        (wanted, Page { cursor, limit })
    }
}

/// A cursor of a list tells nothing but where to go on, also when the last run before it is deleted meanwhile.
fn cursor_behind(run: &RunInfo) -> String {
    URL_SAFE_NO_PAD.encode(format!("n:{}", run.number))
}

fn number_of(cursor: &str) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    std::str::from_utf8(&bytes).ok()?.strip_prefix("n:")?.parse().ok()
}

/// A cursor of a bulk action tells the run that it goes on with.
fn cursor_of(run: &RunId) -> String {
    URL_SAFE_NO_PAD.encode(format!("r:{run}"))
}

fn run_of(cursor: &str) -> Option<RunId> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    std::str::from_utf8(&bytes).ok()?.strip_prefix("r:")?.parse().ok()
}

/// A page of runs, newest first, and the cursor of the next one.
pub(crate) async fn page(
    app: &App,
    wanted: &Wanted,
    page: &Page,
) -> Result<(Vec<RunInfo>, Option<String>), Problem> {
    let most = limit(page.limit, 50, 1_000)?;
    let before = match &page.cursor {
        Some(cursor) => {
            Some(number_of(cursor).ok_or_else(|| Problem::unfit("invalid cursor: use one from a page"))?)
        }
        None => None,
    };
    let filter = RunFilter { before, limit: most + 1, ..wanted.filter(app.store().now())? };
    let mut runs = app.read(async move |store| store.runs(filter).await).await?;
    let more = runs.len() > most;
    runs.truncate(most);
    let next = runs.last().filter(|_| more).map(cursor_behind);
    Ok((runs, next))
}

/// List runs, newest first
#[utoipa::path(get, path = "/runs", tag = "runs", operation_id = "listRuns", params(Wanted, Page),
    security(("bearer" = ["runs:read"])), responses((status = 200, description = "A page of runs", body = RunsView), Refusals))]
async fn list(
    State(app): State<App>,
    Caller(caller): Caller,
    Asked(asked): Asked<ListAsked>,
) -> Result<View<RunsView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    let (wanted, asked) = asked.split();
    let (runs, next) = page(&app, &wanted, &asked).await?;
    let mut view = RunsView::new(&runs, next);
    view.runs = view.runs.into_iter().map(|run| shown(run, &caller)).collect();
    Ok(View(view))
}

/// How many runs are in each state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountsView {
    pub counts: BTreeMap<&'static str, u64>,
    #[schema(example = "wfhost/counts/1")]
    schema: &'static str,
}

/// How many runs there are, by state.
pub(crate) async fn count(app: &App) -> Result<CountsView, Problem> {
    let mut counts: BTreeMap<_, _> = RunState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    let found = app.counts().await?;
    counts.extend(found.iter().map(|(state, count)| (state.as_str(), *count)));
    Ok(CountsView { counts, schema: "wfhost/counts/1" })
}

/// Count runs by state
#[utoipa::path(get, path = "/runs/counts", tag = "runs", operation_id = "countRuns", security(("bearer" = ["runs:read"])),
    responses((status = 200, description = "The number of runs", body = CountsView), Refusals))]
async fn counts(State(app): State<App>, Caller(caller): Caller) -> Result<View<CountsView>, Problem> {
    caller.need(&app, Scope::RunsRead)?;
    count(&app).await.map(View)
}

/// What a run may spend.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BudgetAsked {
    tokens: Option<u64>,
    /// Millionths of a US dollar.
    cost_micros: Option<u64>,
    /// Milliseconds since the run began.
    time_ms: Option<u64>,
}

impl From<BudgetAsked> for Budget {
    fn from(asked: BudgetAsked) -> Self {
        Self { tokens: asked.tokens, micros: asked.cost_micros, time_ms: asked.time_ms }
    }
}

/// A signal that is sent to the run.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FirstSignal {
    #[schema(min_length = 1, max_length = 256)]
    pub name: String,
    #[schema(value_type = Option<Anything>)]
    pub payload: Option<Json>,
    /// Signals with the same id are delivered once.
    pub id: Option<String>,
    /// Do not check the payload against the module's schema.
    #[serde(default)]
    pub no_check: bool,
}

/// A run that is to begin.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartAsked {
    /// The name of its module: the newest of that name.
    workflow: Option<String>,
    /// The digest of its module, in the place of `workflow`.
    #[schema(pattern = "^(blake3:)?[0-9a-f]{64}$")]
    module: Option<String>,
    #[schema(value_type = Option<Anything>)]
    input: Option<Json>,
    /// Do not check the input against the module's schema: the program refuses what it cannot take.
    #[serde(default)]
    no_check: bool,
    /// An id of one's own: letters, digits, `_`, `-`, `.`.
    #[schema(min_length = 1, max_length = 128)]
    id: Option<String>,
    /// The same key gives the same run of the workflow. The header `Idempotency-Key` is the same.
    #[schema(max_length = 256)]
    key: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Who answers agent calls that name no provider.
    agent: Option<String>,
    budget: Option<BudgetAsked>,
    /// Agent calls in flight at the same time.
    #[schema(minimum = 1)]
    max_parallel: Option<u32>,
    /// The program's memory.
    #[schema(minimum = 1, maximum = 4096)]
    memory_mib: Option<u64>,
    /// Instructions between two steps.
    #[schema(minimum = 1)]
    fuel: Option<u64>,
    /// Instructions in its whole life.
    #[schema(minimum = 1)]
    total_fuel: Option<u64>,
    /// Entries that its journal may have.
    #[schema(minimum = 1)]
    max_entries: Option<u64>,
    /// The program's environment; it is kept in the journal.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Sent to the run, whether it is new or not: with an id both can be asked for again.
    signal: Option<FirstSignal>,
    /// The span of who asks; it comes in a header.
    #[serde(skip)]
    #[schema(ignore)]
    caller: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitAsked {
    /// Wait so long for the run to end, like `30s`; a minute at most.
    #[param(pattern = "^[0-9]{1,12}(ms|s|m|h|d)$")]
    pub wait: Option<String>,
}

/// The span of who asks, as W3C Trace Context has it. What nobody can read is ignored, as the standard says.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut all = headers.get_all("traceparent").iter();
    let text = all.next()?.to_str().ok()?.trim();
    let one = all.next().is_none() && wfhost_core::trace::parse_traceparent(text).is_some();
    one.then(|| text.to_owned())
}

/// The header that makes a request the same as one before.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().map_err(|_| Problem::bad("the header `Idempotency-Key` is not ASCII"))?.trim();
    // RFC 8941 writes it as a string.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    if key.is_empty() {
        Err(Problem::bad("the header `Idempotency-Key` is empty"))
    } else {
        Ok(Some(key.to_owned()))
    }
}

impl StartAsked {
    /// The same with this input, as it was written.
    pub(crate) fn with_input(self, input: Json) -> Self {
        Self { input: Some(input), ..self }
    }

    /// What is asked for is within bounds.
    fn check(&self) -> Result<(), Problem> {
        let positive = [
            ("max_parallel", self.max_parallel.map(u64::from)),
            ("memory_mib", self.memory_mib),
            ("fuel", self.fuel),
            ("total_fuel", self.total_fuel),
            ("max_entries", self.max_entries),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, number)| *number == Some(0)) {
            return Err(Problem::unfit(format!("`{name}` has to be at least 1")));
        }
        if self.memory_mib.is_some_and(|mib| mib > 4_096) {
            return Err(Problem::unfit("`memory_mib` has to be at most 4096"));
        }
        if let Some(signal) = &self.signal {
            acts::check_signal_name(&signal.name)?;
        }
        if let Some((name, _)) = self
            .env
            .iter()
            .find(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'))
        {
            return Err(Problem::unfit(format!(
                "`{name}` is not a valid variable name, or its value contains zero bytes"
            )));
        }
        Ok(())
    }

    fn options(self, app: &App, key: Option<String>) -> Result<StartOptions, Problem> {
        let defaults = &app.options().defaults;
        let usual = RunConfig::default();
        let sandbox = Sandbox::default();
        let budget = Budget::merged(self.budget.map(Budget::from), defaults.budget);
        let bad_id = |error: wfhost_core::BadRunId| Problem::unfit(format!("invalid id: {error}"));
        Ok(StartOptions {
            input: self.input.unwrap_or_else(Json::null),
            id: self.id.map(|id| id.parse().map_err(bad_id)).transpose()?,
            key: match self.key {
                Some(key) if key.is_empty() => return Err(Problem::unfit("`key` is empty")),
                own => own.or(key),
            },
            labels: self.labels.into_iter().collect(),
            config: RunConfig {
                agent: self.agent.or_else(|| defaults.agent.clone()),
                budget,
                max_parallel: self.max_parallel,
                memory_bytes: self.memory_mib.map_or(usual.memory_bytes, |mib| mib << 20),
                fuel: self.fuel.unwrap_or(usual.fuel),
                project: defaults.project.clone(),
                sandbox: Some(Sandbox {
                    total_fuel: self.total_fuel.unwrap_or(sandbox.total_fuel),
                    entries: self.max_entries.unwrap_or(sandbox.entries),
                    env: self.env.into_iter().collect(),
                    ..sandbox
                }),
                caller: self.caller,
                ..usual
            },
            unchecked: self.no_check,
            ..StartOptions::default()
        })
    }
}

/// The module of that name, else of that digest.
pub(crate) async fn module(
    app: &App,
    name: Option<&str>,
    by: Option<&str>,
) -> Result<wfhost::engine::Module, Problem> {
    let missing = |what: &str| {
        let trouble = UserError::usage("WF0110", format!("unknown module {what}"));
        Problem::from(trouble.hint("add it with `POST /api/v1/modules` or `wfhost add FILE`"))
    };
    let info = match (name, by) {
        (_, Some(by)) => {
            let wanted = digest(by)?;
            app.read(async move |store| store.module_info(wanted).await).await?.ok_or_else(|| missing(by))?
        }
        (Some(name), None) => {
            let wanted = name.to_owned();
            app.read(async move |store| store.module_named(&wanted).await)
                .await?
                .ok_or_else(|| missing(name))?
        }
        (None, None) => return Err(Problem::unfit("name a `workflow`, or a `module` by its digest")),
    };
    Ok(app.host().stored_module(&info).await?)
}

/// Start a run
///
/// With a key this can be repeated: the same key gives the same run, and another input or module under
/// it is refused. With `wait` the answer has the result, if the run ends in time.
#[utoipa::path(post, path = "/runs", tag = "runs", operation_id = "startRun", request_body = StartAsked, params(WaitAsked,
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, description = "The idempotency key, if the body has none"),
        ("traceparent" = Option<String>, Header, description = "The caller's span (W3C Trace Context): the trace of the run links to it")),
    security(("bearer" = ["runs:start"])),
    responses((status = 200, description = "A run with the key already existed", body = RunView),
        (status = 201, description = "It began", body = RunView),
        (status = 202, description = "The run has not ended within the wait", body = RunView), Refusals))]
async fn start(
    State(app): State<App>,
    Caller(caller): Caller,
    headers: HeaderMap,
    Asked(asked): Asked<WaitAsked>,
    Sent(start): Sent<StartAsked>,
) -> Result<Response, Problem> {
    caller.need(&app, Scope::RunsStart)?;
    if start.signal.is_some() {
        caller.need(&app, Scope::RunsSignal)?;
    }
    let patience = wait(asked.wait.as_deref())?;
    let signal = start.signal.clone();
    let start = StartAsked { caller: traceparent(&headers), ..start };
    let submitted = begin(&app, &caller, start, idempotency_key(&headers)?).await?;
    let mut run = submitted.run;
    if let Some(FirstSignal { name, payload, id, .. }) = signal {
        let body = MessageBody::Signal { name, payload: payload.unwrap_or_else(Json::null), id };
        run = app.host().post(&run, body).await?.1;
        app.record(&caller, "runs.signal", run.as_str(), "sent").await?;
    }
    let (info, status) = match patience {
        Some(patience) => {
            let _place = app.stream(&caller)?;
            let info = await_end(&app, run, patience).await?;
            let ended = info.state.is_final();
            (info, if !ended { StatusCode::ACCEPTED } else { new_or_known(submitted.is_new) })
        }
        None => (find(&app, run.as_str()).await?, new_or_known(submitted.is_new)),
    };
    let place = HeaderValue::from_str(&format!("/api/v1/runs/{}", info.id));
    let mut response = (status, View(shown(RunView::of(&info), &caller))).into_response();
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// Begins a run, or finds the one of its key, and records who asked. What it is signalled is not sent.
pub(crate) async fn begin(
    app: &App,
    caller: &Identity,
    start: StartAsked,
    key: Option<String>,
) -> Result<wfhost::Submitted, Problem> {
    start.check()?;
    let module = module(app, start.workflow.as_deref(), start.module.as_deref()).await?;
    if let (Some(workflow), true) = (&start.workflow, start.module.is_some())
        && *workflow != *module.name
    {
        return Err(Problem::unfit(format!("the module is one of `{}`, not of `{workflow}`", module.name)));
    }
    if let Some(FirstSignal { name, payload, no_check: false, .. }) = &start.signal {
        let payload = payload.clone().unwrap_or_else(Json::null);
        app.host().check(&module, Part::Signal(name.clone()), &payload).await?;
    }
    let submitted = app.host().submit(&module, start.options(app, key)?).await?;
    let word = if submitted.is_new { "started" } else { "known" };
    app.record(caller, "runs.start", submitted.run.as_str(), word).await?;
    Ok(submitted)
}

fn new_or_known(is_new: bool) -> StatusCode {
    if is_new { StatusCode::CREATED } else { StatusCode::OK }
}

/// Waits until a run ends, or the latest round of it; for so long at most.
pub(super) async fn await_end(app: &App, run: RunId, patience: Duration) -> Result<RunInfo, Problem> {
    let until = tokio::time::Instant::now() + patience;
    let mut changes = app.changes();
    let mut draining = app.draining();
    loop {
        changes.borrow_and_update();
        let info = latest(app, &run).await?;
        if info.state.is_final() {
            return Ok(info);
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => return Ok(info),
            () = ended(&mut draining) => return Ok(info),
            _ = changes.changed() => {}
        }
        app.breathe().await;
    }
}

/// What is to be done with many runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    Pause,
    Resume,
    Cancel,
    Terminate,
    Retry,
    Signal,
    Delete,
}

/// Something that is to be done with many runs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchAsked {
    /// Which runs. At least one condition is needed.
    pub filter: Wanted,
    pub act: Act,
    /// Only tell which runs it would be: the default.
    pub dry_run: Option<bool>,
    /// How many the preview found. If there are more or fewer by now, nothing is done.
    pub expected: Option<u64>,
    /// The `fingerprint` of the preview. If other runs match by now, be they as many, nothing is done.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub fingerprint: Option<String>,
    /// Why, for the record of the runs.
    #[schema(max_length = 65536)]
    pub reason: Option<String>,
    /// The signal to send.
    pub signal: Option<FirstSignal>,
    /// The `next` of the request before: the act goes on with the runs that are left, and `expected` is not needed.
    pub cursor: Option<String>,
    /// How many runs this request acts on at most, and the preview lists [default: 1000].
    #[schema(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// What became of one run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    pub error: Option<String>,
    pub run: String,
}

/// What was done with many runs, or would be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchView {
    /// How many runs matched: those below, and those that are left.
    pub count: u64,
    dry_run: bool,
    /// Stands for the runs that match: their number, and which are the newest 1,000 of them. Null in the response to a
    /// request with `cursor`.
    pub fingerprint: Option<String>,
    /// How many are left for further requests.
    pub left: u64,
    /// The cursor with which the next request goes on; null if none is left.
    pub next: Option<String>,
    /// The runs, newest first.
    pub runs: Vec<Done>,
    #[schema(example = "wfhost/batch/1")]
    schema: &'static str,
}

/// Runs that one request acts on at most.
const BATCH: u32 = 1_000;
/// How long the runs that match are counted.
const COUNT_PATIENCE_MS: u64 = 8_000;

/// Act on many runs
///
/// First as a preview, which says how many runs it would be, and which; then with that number as `expected`, and with
/// its `fingerprint`. A request acts on at most 1,000 runs, newest first. If more match, `left` says how many, and the same request with `next` as `cursor`
/// goes on with them. A server that shuts down stops between two runs, and says so in the same way. An earlier round of a
/// run that continued as new stands for itself: nothing that is done to it reaches the latest one.
#[utoipa::path(post, path = "/runs/batch", tag = "runs", operation_id = "actOnRuns", request_body = BatchAsked,
    security(("bearer" = ["runs:control"])),
    responses((status = 200, description = "What was done, or its preview", body = BatchView), Refusals))]
async fn batch(
    State(app): State<App>,
    Caller(caller): Caller,
    Sent(asked): Sent<BatchAsked>,
) -> Result<View<BatchView>, Problem> {
    act_on(&app, &caller, &asked).await.map(View)
}

/// Runs that match, newest first.
pub(crate) struct Matching {
    /// Those of one request, and the first one of the next.
    pub runs: Vec<RunInfo>,
    /// How many there are, these and the rest.
    pub count: u64,
    /// Stands for all of them; none of those that a cursor leads to.
    pub fingerprint: Option<String>,
}

/// What stands for runs: how many there are, and which are the first. Of more than [`BATCH`] no more are looked at,
/// since all would have to be read.
fn fingerprint(runs: &[RunInfo], count: u64) -> String {
    let ids = runs.iter().take(BATCH as usize).map(|info| info.id.as_str());
    let text = std::iter::once(count.to_string().as_str()).chain(ids).collect::<Vec<_>>().join(" ");
    Digest::of(text.as_bytes()).hex()
}

/// The runs of a filter from a cursor on, newest first, at most `most` and one more, and how many there are. A cursor is
/// the first run of the next part: it has not been acted on yet, so it is there even if the others were deleted.
async fn part_of(
    app: &App,
    filter: RunFilter,
    cursor: Option<&str>,
    most: usize,
) -> Result<Matching, Problem> {
    let mut first = None;
    let mut before = None;
    if let Some(cursor) = cursor {
        let run =
            run_of(cursor).ok_or_else(|| Problem::unfit("invalid cursor: use the `next` of a response"))?;
        let wanted = run.clone();
        let info = app.read(async move |store| store.run(&wanted).await).await?.ok_or_else(|| {
            let message =
                format!("{run}, the first of the runs that are left, was deleted; request the preview again");
            Problem::new(StatusCode::CONFLICT, UserError::usage("WF0819", message))
        })?;
        let at = info.created_at;
        if filter.since.is_none_or(|since| since <= at) && filter.until.is_none_or(|until| at < until) {
            // It alone, if it matches still.
            let (since, until) = (Some(at), Some(at.after(1)));
            let alone =
                RunFilter { prefix: Some(run.to_string()), since, until, limit: most, ..filter.clone() };
            let found = app.read(async move |store| store.runs(alone).await).await?;
            first = found.into_iter().find(|found| found.id == run);
        }
        before = Some(info.number);
    }
    // All that the fingerprint is of, which does not depend on how many are acted on at once.
    let reads = if cursor.is_some() { most } else { BATCH as usize };
    let (rest, all) = (
        RunFilter { before, limit: reads + 1, ..filter.clone() },
        RunFilter { before, limit: usize::MAX, patience_ms: Some(COUNT_PATIENCE_MS), ..filter },
    );
    let mut rest = app.read(async move |store| store.runs(rest).await).await?;
    let is_all = rest.len() <= reads;
    let mut count = match is_all {
        true => rest.len() as u64,
        false => app.read(async move |store| store.count_runs(all).await).await?,
    };
    count += u64::from(first.is_some());
    let fingerprint = cursor.is_none().then(|| fingerprint(&rest, count));
    rest.truncate(most + 1);
    Ok(Matching { runs: first.into_iter().chain(rest).collect(), count, fingerprint })
}

/// On which runs it would act.
pub(crate) async fn matching(app: &App, caller: &Identity, asked: &BatchAsked) -> Result<Matching, Problem> {
    caller.need(app, Scope::RunsControl)?;
    if asked.act == Act::Signal {
        caller.need(app, Scope::RunsSignal)?;
    }
    let filter = asked.filter.filter(app.store().now())?;
    if (RunFilter { patience_ms: None, ..filter.clone() }) == RunFilter::default() {
        return Err(Problem::unfit("the filter has no condition: it would match all runs"));
    }
    if let Some(signal) = &asked.signal {
        acts::check_signal_name(&signal.name)?;
    }
    wfhost::check_reason(asked.reason.as_deref())?;
    let is_digest = |text: &String| {
        text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if asked.fingerprint.as_ref().is_some_and(|known| !is_digest(known)) {
        return Err(Problem::unfit("`fingerprint` has to be that of the preview: 64 hexadecimal digits"));
    }
    part_of(app, filter, asked.cursor.as_deref(), asked.most()?).await
}

impl BatchAsked {
    /// Runs that one request acts on.
    fn most(&self) -> Result<usize, Problem> {
        limit(self.limit, BATCH, BATCH)
    }

    /// Refuses to act if others match than those that the preview showed.
    fn check(&self, found: &Matching) -> Result<(), Problem> {
        let count = found.count;
        let message = match (self.expected, &self.fingerprint) {
            (Some(expected), _) if expected != count => {
                let (are, runs) = (if count == 1 { "is" } else { "are" }, counted(count, "matching run"));
                format!("there {are} now {runs}, not {expected}; nothing was done")
            }
            (Some(_), Some(known)) if found.fingerprint.as_ref() != Some(known) => {
                "other runs match now than in the preview; nothing was done".to_owned()
            }
            (Some(_), _) => return Ok(()),
            (None, _) => format!("confirm the number of runs with `expected`: there are {count}"),
        };
        Err(Problem::new(StatusCode::CONFLICT, UserError::usage("WF0819", message)))
    }
}

/// Acts on many runs, or tells on which it would.
pub(crate) async fn act_on(app: &App, caller: &Identity, asked: &BatchAsked) -> Result<BatchView, Problem> {
    let found = matching(app, caller, asked).await?;
    let (most, dry_run) = (asked.most()?, asked.dry_run.unwrap_or(true));
    if !dry_run && asked.cursor.is_none() {
        asked.check(&found)?;
    }
    let Matching { runs: found, count, fingerprint } = found;
    let draining = app.draining();
    let mut runs = Vec::new();
    let mut next = None;
    for info in found {
        if runs.len() == most || (!dry_run && *draining.borrow()) {
            next = Some(cursor_of(&info.id));
            break;
        }
        let error = match dry_run {
            true => None,
            false => {
                act(app, caller, &info, asked).await.err().map(|problem| problem.error().message.clone())
            }
        };
        runs.push(Done { run: info.id.to_string(), error });
    }
    let left = if next.is_some() { count.saturating_sub(runs.len() as u64).max(1) } else { 0 };
    Ok(BatchView { count, dry_run, fingerprint, left, next, runs, schema: "wfhost/batch/1" })
}

async fn act(app: &App, caller: &Identity, info: &RunInfo, asked: &BatchAsked) -> Result<(), Problem> {
    let run = &info.id;
    // An earlier round that matches stands for itself: the latest one, which would get it, is none that was asked for.
    let is_over = match asked.act {
        Act::Retry | Act::Delete => false,
        Act::Terminate => info.state.is_final(),
        Act::Pause | Act::Resume | Act::Cancel | Act::Signal => info.state == RunState::Continued,
    };
    if is_over {
        return Err(wfhost::HostError::Ended { run: run.clone() }.into());
    }
    match asked.act {
        Act::Pause => acts::pause(app, caller, run).await.map(drop),
        Act::Resume => acts::resume(app, caller, run).await.map(drop),
        Act::Cancel => acts::cancel(app, caller, run, asked.reason.clone()).await.map(drop),
        Act::Terminate => acts::terminate(app, caller, run, asked.reason.as_deref()).await.map(drop),
        Act::Retry => acts::retry(app, caller, run, None).await,
        Act::Delete => {
            // Others are deleted before it, which may take a while: one that was retried since stays.
            let filter = asked.filter.filter(app.store().now())?;
            let only = DeleteIf { states: filter.states, idle_since: None };
            acts::delete(app, caller, run, only).await
        }
        Act::Signal => {
            let Some(FirstSignal { name, payload, id, no_check }) = asked.signal.clone() else {
                return Err(Problem::unfit("the action is to send a signal, but `signal` is missing"));
            };
            if !no_check {
                acts::check_signal(app, run, &name, payload.as_ref()).await?;
            }
            acts::signal(app, caller, run, &name, payload.unwrap_or_else(Json::null), id).await.map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_and_others_are_none() {
        let run: RunId = "run_01k9.2".parse().unwrap();
        assert_eq!(run_of(&cursor_of(&run)), Some(run));
        let cursor = URL_SAFE_NO_PAD.encode("n:17");
        assert_eq!(number_of(&cursor), Some(17));
        assert_eq!((number_of(&cursor_of(&"17".parse().unwrap())), run_of(&cursor)), (None, None));
        for text in ["", "x", "cjo", "cjoh", "bjo", "bjotMQ"] {
            assert_eq!((run_of(text).map(|run| run.to_string()), number_of(text)), (None, None), "{text}");
        }
    }

    #[test]
    fn filters_are_understood_or_refused() {
        let wanted = |text: &str| serde_json::from_str::<Wanted>(text).unwrap().filter(Timestamp(9_000_000));
        let filter = wanted(
            r#"{"state":"waiting,failed","label":"team=red,a=","waits":"signal:go","since":"2h","top":true}"#,
        )
        .unwrap();
        assert_eq!(filter.states, [RunState::Waiting, RunState::Failed]);
        assert_eq!(filter.labels, [("team".to_owned(), "red".to_owned()), ("a".to_owned(), String::new())]);
        assert_eq!(filter.waits, Some(WaitsFor::Signal(Some("go".to_owned()))));
        assert!(filter.since == Some(Timestamp(1_800_000)) && filter.top);
        for (bad, status) in [
            (r#"{"state":"dead"}"#, 422),
            (r#"{"label":"team"}"#, 422),
            (r#"{"waits":"rain"}"#, 422),
            (r#"{"waits":"signal:"}"#, 422),
            (r#"{"since":"yesterday"}"#, 422),
            (r#"{"module":"abc"}"#, 400),
            (r#"{"parent":"a b"}"#, 404),
        ] {
            assert_eq!(wanted(bad).unwrap_err().status().as_u16(), status, "{bad}");
        }
    }
}
