//! One run.

use askama::Template;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use wfhost::store::{LogLevel, RunFilter, RunInfo};
use wfhost_core::{Entry, Json, Op, Position, RunId, Step, Timestamp, counted};
use wfhost_view::{EntryView, LogView, RunView, Turn, UserError, entries, open_calls};

use super::form::{self, Field};
use super::gantt::{Bar, Charted, Mark, chart, length};
use super::runs::Row;
use super::subject::Subject;
use super::text::{Time, address, dollars, part, pretty};
use super::{Error, Fault, Form, Shell, Visitor, is_of_form, need, page, shown, then};
use crate::api::run::why;
use crate::api::{acts, find, run_id, runs};
use crate::app::App;
use crate::auth::{Identity, Scope};
use crate::problem::Problem;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/ui/runs/{run}", get(show))
        .route("/ui/runs/{run}/chart", get(charted))
        .route("/ui/runs/{run}/turns", get(turns))
        .route("/ui/runs/{run}/journal", get(journal))
        .route("/ui/runs/{run}/logs", get(logs))
        .route("/ui/runs/{run}/at", get(at))
        .route("/ui/runs/{run}/act", post(act))
        .route("/ui/runs/{run}/signal", post(signal))
        .route("/ui/runs/{run}/verify", post(verify))
}

/// Steps in the table of the page. The chart has all.
const STEPS: usize = 200;
/// Lines of the log on the page.
const LINES: usize = 50;

pub(super) fn path(run: &str) -> String {
    format!("/ui/runs/{}", part(run))
}

/// A step in the table.
pub(super) struct StepRow {
    pub bar: Bar,
    pub href: String,
    pub length: String,
    /// Since the run began.
    pub offset: String,
}

impl StepRow {
    fn of(info: &RunInfo, bar: Bar) -> Self {
        Self {
            href: format!("{}/steps/{}", path(info.id.as_str()), bar.step),
            length: length(&bar),
            offset: wfhost_core::spell_millis(bar.from.saturating_sub(info.created_at.0)),
            bar,
        }
    }
}

/// What may be done with a run now.
#[derive(Clone, Copy, Default)]
struct Acts {
    pause: bool,
    resume: bool,
    cancel: bool,
    terminate: bool,
    retry: bool,
    signal: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ShowAsked {
    after: Option<u64>,
    /// The run as it was at this entry.
    at: Option<u64>,
    said: String,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunPage {
    shell: Shell,
    run: RunView,
    path: String,
    created: Time,
    updated: Time,
    cost: String,
    budget: String,
    why: Vec<(String, Option<String>)>,
    input: Option<String>,
    output: Option<String>,
    published: Vec<(String, String)>,
    relatives: Vec<(&'static str, String, String)>,
    /// Its children.
    rows: Vec<Row>,
    labels: Vec<(String, String, String)>,
    same: String,
    another: String,
    steps: Vec<StepRow>,
    count: usize,
    failed: Vec<StepRow>,
    next: Option<u64>,
    questions: Vec<super::inbox::Asked>,
    /// The end of its log.
    lines: Vec<LogView>,
    signals: Vec<String>,
    /// Those of them that the module says the payload of.
    declared: Vec<SignalForm>,
    /// What stands in the form for any signal.
    name: String,
    payload: String,
    error: Option<Error>,
    acts: Acts,
    may_answer: bool,
    /// The page that its forms lead back to.
    back: &'static str,
    cli: String,
    curl: String,
}

impl RunPage {
    /// Whether it shows a signal that was not sent.
    fn is_refused(&self) -> bool {
        self.error.is_some() || self.declared.iter().any(|form| form.error.is_some())
    }
}

/// A signal that a run waits for, with fields for what it carries.
struct SignalForm {
    name: String,
    about: Option<String>,
    fields: Vec<Field>,
    /// Why what was filled in was not sent.
    error: Option<Error>,
}

/// What was filled in for a signal.
struct Filled(Vec<(String, String)>);

impl Filled {
    fn given(&self, key: &str) -> &str {
        self.0.iter().find(|(known, _)| known == key).map_or("", |(_, value)| value.trim())
    }

    fn name(&self) -> &str {
        self.given("name")
    }

    /// Whether the form was one with fields for what the module says, and not that for any payload.
    fn has_fields(&self) -> bool {
        self.given("payload").is_empty() && !self.given("fields").is_empty()
    }

    /// What is to be sent.
    async fn payload(&self, app: &App, run: &str) -> Result<Json, Problem> {
        match self.given("payload") {
            "" if self.has_fields() => {
                let info = find(app, run).await?;
                let form = signal_fields(app, &info, self.name()).await?;
                let form =
                    form.ok_or_else(|| Problem::unfit("the module declares no payload for this signal"))?;
                form::fill(form.fields, &self.0).0.map_err(Problem::unfit)
            }
            "" => Ok(Json::null()),
            text => super::json_of("the payload", text),
        }
    }
}

/// The fields for the payload of a signal, if the module says it, and what is said of it.
async fn signal_fields(app: &App, info: &RunInfo, name: &str) -> Result<Option<SignalForm>, Problem> {
    let Ok(Some(said)) = app.host().described(info.module).await? else { return Ok(None) };
    let Some(signal) = said.description.signals.get(name) else { return Ok(None) };
    let Some(schema) = &signal.schema else { return Ok(None) };
    let fields = form::fields_of(schema, "Payload");
    Ok(Some(SignalForm { name: name.to_owned(), about: signal.description.clone(), fields, error: None }))
}

/// A run and what belongs to it: two runs that it has to do with, as addresses.
fn relatives(run: &RunView) -> Vec<(&'static str, String, String)> {
    let link = |what, id: &String| (what, id.clone(), path(id));
    let parent = run.parent.as_ref().map(|id| link("started by", id));
    let first = run.chain.as_ref().filter(|id| **id != run.id).map(|id| link("first round", id));
    let next = run.continued_as.as_ref().map(|id| link("continues as", id));
    [parent, first, next].into_iter().flatten().collect()
}

async fn show(subject: Subject, Query(asked): Query<ShowAsked>) -> Result<Response, Fault> {
    if let Some(entry) = asked.at {
        return Ok(Redirect::to(&format!("{}/at?entry={entry}", subject.path)).into_response());
    }
    page(&run_page(&subject, asked).await?)
}

async fn run_page(subject: &Subject, asked: ShowAsked) -> Result<RunPage, Fault> {
    let may = subject.may;
    let config = subject.app.options().defaults.config.clone();
    // The journal of a long run is read once for all that the page tells of it.
    let charted = subject.journal(move |journal| {
        let started = wfhost_view::started(&journal);
        let input = started.map(|started| started.input.clone());
        (chart(&journal, may), input, wfhost_view::parallel(&config, started))
    });
    let (chart, input, parallel) = charted.await?;
    let signals = awaited(&chart.infos);
    let Subject { app, who, info, run, .. } = subject;
    let view = RunView { input, ..RunView::of(info) };
    let (published, log) = if may { emitted(app, info).await? } else { (Vec::new(), Vec::new()) };
    let view = runs::shown(view, who);
    let why = match may {
        true => why(app, info, chart.infos, parallel).await?.blockers,
        false => Vec::new(),
    };
    let count = chart.bars.len();
    let failed = chart.bars.iter().filter(|bar| bar.state == "failed").take(5).cloned();
    let failed = failed.map(|bar| StepRow::of(info, bar)).collect();
    let wanted = chart.bars.into_iter().filter(|bar| asked.after.is_none_or(|after| bar.step > after));
    let steps: Vec<_> = wanted.take(STEPS).map(|bar| StepRow::of(info, bar)).collect();
    let next = steps.last().map(|row| row.bar.step).filter(|last| *last < count as u64);
    let filter = RunFilter { parent: Some(info.id.clone()), limit: 20, ..RunFilter::default() };
    let mut children = Vec::new();
    let mut left = 2_000;
    for child in app.read(async move |store| store.runs(filter).await).await? {
        children.push(Row::of(app, who, child, &mut left).await?);
    }
    let questions = match may {
        true => super::inbox::asked(app, Some(info.id.clone())).await?,
        false => Vec::new(),
    };
    let is_final = info.state.is_final();
    let controls = subject.can(Scope::RunsControl);
    let paused = info.state.as_str() == "paused";
    let acts = Acts {
        pause: controls && !is_final && !paused,
        resume: controls && !is_final && (paused || info.state.as_str() == "refused"),
        cancel: controls && !is_final,
        terminate: controls && !is_final,
        retry: controls && matches!(info.state.as_str(), "failed" | "cancelled"),
        signal: !is_final && subject.can(Scope::RunsSignal),
    };
    let (live, now) = (if is_final { String::new() } else { run.clone() }, app.store().now());
    let mut declared = Vec::new();
    for name in signals.iter().filter(|_| acts.signal).take(5) {
        declared.extend(signal_fields(app, info, name).await?);
    }
    Ok(RunPage {
        shell: Shell::new(app, who, format!("{} {}", view.workflow, view.id), "runs")
            .await?
            .live(live)
            .said(Some(&asked.said)),
        path: subject.path.clone(),
        created: Time::of(info.created_at, now),
        updated: Time::of(info.updated_at, now),
        cost: dollars(view.spent.cost_micros),
        budget: info.budget.micros.map(dollars).unwrap_or_default(),
        why: why.into_iter().map(|blocker| (blocker.what, blocker.remedy)).collect(),
        input: view.input.as_ref().map(|json| pretty(json.as_str())),
        output: view.output.as_ref().map(|json| pretty(json.as_str())),
        published,
        relatives: relatives(&view),
        rows: children,
        labels: super::runs::labels(&view),
        same: address("/ui", &[("workflow", &view.workflow)]),
        another: address("/ui/start", &[("workflow", &view.workflow)]),
        steps,
        count,
        failed,
        next,
        questions,
        lines: log,
        name: signals.first().cloned().unwrap_or_default(),
        payload: String::new(),
        error: None,
        signals: if is_final { Vec::new() } else { signals },
        declared,
        acts,
        may_answer: subject.can(Scope::PeopleAnswer),
        back: "run",
        cli: format!("wfhost show {}", view.id),
        curl: curl(app, &format!("/api/v1/runs/{}", view.id)),
        run: view,
    })
}

/// The signals that a run waits for, also while it is in memory.
fn awaited(steps: &[wfhost::StepInfo]) -> Vec<String> {
    let open = steps.iter().filter(|step| step.ended.is_none());
    let names = open.filter_map(|step| match &step.op {
        Op::Signal { name, .. } => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

/// A command that asks the API the same.
pub(super) fn curl(app: &App, path: &str) -> String {
    format!("curl -H \"Authorization: Bearer $TOKEN\" {}{path}", app.url())
}

/// What a run published, and the end of its log.
async fn emitted(app: &App, info: &RunInfo) -> Result<(Vec<(String, String)>, Vec<LogView>), Problem> {
    let (id, emissions) = (info.id.clone(), info.emissions);
    app.read(async move |store| {
        let state = store.state(&id).await?;
        // Lines are among what else was given out: a few numbers more hold enough of them.
        let lines = store.logs(&id, emissions.saturating_sub(10 * LINES as u64), 10 * LINES).await?;
        let last = lines.iter().skip(lines.len().saturating_sub(LINES)).map(LogView::of).collect();
        let state = state.into_iter().map(|(key, value)| (key, pretty(value.as_str()))).collect();
        Ok::<_, UserError>((state, last))
    })
    .await
}

#[derive(Serialize)]
struct Chart {
    /// Milliseconds since the beginning of time, by the clock of the database.
    now: u64,
    ended: bool,
    run: String,
    steps: Vec<Bar>,
    marks: Vec<Mark>,
}

async fn charted(subject: Subject) -> Result<Response, Fault> {
    let may = subject.may;
    let mut chart = subject.journal(move |journal| chart(&journal, may)).await?;
    let ended = subject.info.state.is_final();
    if !ended {
        let known = subject.turns(open_calls(&chart.infos)).await?;
        chart.take(&known);
    }
    let Charted { bars, marks, .. } = chart;
    let chart = Chart { now: subject.app.store().now().0, ended, run: subject.run, steps: bars, marks };
    Ok(crate::api::View(chart).into_response())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TurnsAsked {
    /// Numbers of steps, separated by commas.
    steps: String,
}

/// What is known of the turn of a step.
#[derive(Serialize)]
struct TurnView {
    step: u64,
    /// Milliseconds since the beginning of time.
    at: u64,
    queued: bool,
}

/// Whether these steps wait for their turn: a chart asks that while calls are open, as no commit says it.
async fn turns(subject: Subject, Query(asked): Query<TurnsAsked>) -> Result<Response, Fault> {
    let steps = asked.steps.split(',').filter_map(|step| step.parse().ok()).map(Step).collect();
    let turns = subject.turns(steps).await?;
    let view = |turn: &Turn| TurnView { step: turn.step.0, at: turn.at.0, queued: turn.is_queued };
    Ok(crate::api::View(turns.iter().map(view).collect::<Vec<_>>()).into_response())
}

/// An entry in the table.
struct EntryRow {
    position: u64,
    kind: String,
    at: Time,
    step: Option<u64>,
    rest: String,
}

impl EntryRow {
    fn of(position: Position, entry: &Entry, may: bool, now: Timestamp) -> Self {
        let view = EntryView::of(position, entry);
        let view = if may { view } else { view.hidden() };
        let json = serde_json::to_value(&view).unwrap_or_default();
        let mut object = json.as_object().cloned().unwrap_or_default();
        for known in ["position", "entry", "at", "kind", "event", "schema", "run"] {
            object.remove(known);
        }
        let step = object.get("step").and_then(serde_json::Value::as_u64);
        let rest = serde_json::to_string(&object).unwrap_or_default();
        let kind = entry.event.kind().to_owned();
        Self { position: position.0, kind, at: Time::of(entry.at, now), step, rest }
    }
}

#[derive(Template)]
#[template(path = "journal.html")]
struct JournalPage {
    shell: Shell,
    run: String,
    path: String,
    rows: Vec<EntryRow>,
    entries: u64,
    next: Option<u64>,
    before: Option<u64>,
    said: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JournalAsked {
    from: u64,
}

/// Entries on one page.
const ENTRIES: usize = 200;

async fn journal(subject: Subject, Query(asked): Query<JournalAsked>) -> Result<Response, Fault> {
    journal_page(&subject, asked.from, None).await
}

async fn journal_page(subject: &Subject, from: u64, said: Option<String>) -> Result<Response, Fault> {
    let Subject { app, who, info, run, may, .. } = subject;
    let (id, may) = (info.id.clone(), *may);
    let read = app.read(async move |store| store.journal_part(&id, Position(from), ENTRIES).await).await?;
    let unreadable = |error: wfhost_core::EntryError| {
        Problem::from(wfhost::HostError::Journal { run: info.id.clone(), source: error.into() })
    };
    let mut found = entries(&read, Position(from)).map_err(unreadable)?;
    found.truncate(ENTRIES);
    let now = app.store().now();
    let row = |(position, entry): &(Position, Entry)| EntryRow::of(*position, entry, may, now);
    let rows: Vec<_> = found.iter().map(row).collect();
    let end = rows.last().map_or(from, |row| row.position + 1);
    page(&JournalPage {
        shell: Shell::new(app, who, format!("Journal of {run}"), "runs").await?,
        path: subject.path.clone(),
        run: run.clone(),
        rows,
        entries: info.entries.0,
        next: (end < info.entries.0).then_some(end),
        before: (from > 0).then(|| from.saturating_sub(ENTRIES as u64)),
        said,
    })
}

async fn verify(subject: Subject) -> Result<Response, Fault> {
    let found = acts::verify(&subject.app, subject.info.clone()).await?;
    let said = match found.faults.is_empty() {
        true => {
            let entries = counted(found.entries, "entry");
            format!("The journal is complete and unaltered: {entries}, head {}.", found.head)
        }
        false => format!("The journal has faults: {}", found.faults.join("; ")),
    };
    journal_page(&subject, 0, Some(said)).await
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LogsAsked {
    from: u64,
    level: String,
    text: String,
}

#[derive(Template)]
#[template(path = "logs.html")]
struct LogsPage {
    shell: Shell,
    run: String,
    path: String,
    level: String,
    text: String,
    levels: Vec<&'static str>,
    lines: Vec<LogView>,
    next: Option<String>,
}

async fn logs(subject: Subject, Query(asked): Query<LogsAsked>) -> Result<Response, Fault> {
    const MOST: usize = 500;
    subject.need_payloads()?;
    let Subject { app, who, info, run, path, .. } = subject;
    let LogsAsked { from, level, text } = asked;
    let found = app.read(async move |store| store.logs(&info.id, from, MOST).await).await?;
    let least = LogLevel::ALL.into_iter().find(|known| known.as_str() == level).unwrap_or(LogLevel::ALL[0]);
    let wanted = found.iter().filter(|line| line.level >= least && line.message.contains(&text));
    let next = found.last().filter(|_| found.len() == MOST).map(|line| (line.number + 1).to_string());
    let next = next
        .map(|next| address(&format!("{path}/logs"), &[("from", &next), ("level", &level), ("text", &text)]));
    page(&LogsPage {
        shell: Shell::new(&app, &who, format!("Log of {run}"), "runs").await?,
        path,
        run,
        levels: LogLevel::ALL.iter().map(|level| level.as_str()).collect(),
        lines: wanted.map(LogView::of).collect(),
        next,
        level,
        text,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AtAsked {
    entry: Option<u64>,
    /// The same.
    at: Option<u64>,
}

/// A step as it was.
struct ThenStep {
    bar: Bar,
    source: String,
}

#[derive(Template)]
#[template(path = "at.html")]
struct AtPage {
    shell: Shell,
    run: String,
    path: String,
    entry: u64,
    last: u64,
    /// The entry itself.
    happened: Option<EntryRow>,
    open: Vec<ThenStep>,
    ended: usize,
    published: Vec<(String, String)>,
    lines: Vec<LogView>,
    problem: Option<String>,
    may_fork: bool,
}

/// The run as it was when an entry was the last one: the program is executed once more up to there, and
/// nothing of what it asks for happens.
async fn at(subject: Subject, Query(asked): Query<AtAsked>) -> Result<Response, Fault> {
    subject.need_payloads()?;
    let may_fork = subject.can_fork();
    let last = subject.info.entries.0.saturating_sub(1);
    let entry = asked.entry.or(asked.at).unwrap_or(last).min(last);
    let now = subject.app.store().now();
    let then = subject.journal(move |mut journal| {
        journal.entries.truncate(usize::try_from(entry).unwrap_or(usize::MAX).saturating_add(1));
        let happened = journal.entries.last().map(|last| EntryRow::of(Position(entry), last, true, now));
        (chart(&journal, true), happened)
    });
    let (chart, happened) = then.await?;
    let Subject { app, who, info, run, path, .. } = subject;
    let replayed = acts::replay(&app, &info, None, Some(entry), true).await;
    let (mut published, mut lines, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    let problem = match replayed {
        Ok(view) => {
            published =
                view.published.iter().map(|(key, value)| (key.clone(), pretty(value.as_str()))).collect();
            sources = view.steps;
            lines = view.log;
            lines = lines.split_off(lines.len().saturating_sub(LINES));
            None
        }
        Err(problem) => Some(problem.error().message.clone()),
    };
    let source = |step: u64| {
        let frames = sources.iter().find(|asked| asked.step == step).map(|asked| &asked.frames);
        // The innermost place that is not of the SDK is the program's own.
        let frame = frames.and_then(|frames| frames.iter().find(|frame| !frame.file.contains("/.cargo/")));
        frame.map(|frame| format!("{}:{}", frame.file, frame.line)).unwrap_or_default()
    };
    let ended = chart.bars.iter().filter(|bar| bar.to.is_some()).count();
    let open = chart.bars.into_iter().filter(|bar| bar.to.is_none());
    let open = open.map(|bar| ThenStep { source: source(bar.step), bar }).collect();
    page(&AtPage {
        shell: Shell::new(&app, &who, format!("{run} at entry {entry}"), "runs").await?,
        path,
        run,
        entry,
        last,
        happened,
        open,
        ended,
        published,
        lines,
        problem,
        may_fork,
    })
}

#[derive(Deserialize)]
struct ActAsked {
    act: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    step: Option<u64>,
}

async fn act(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(run): Path<String>,
    Form(asked): Form<ActAsked>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsControl])?;
    let id = run_id(&run)?;
    let reason = Some(asked.reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    let (said, run) = match asked.act.as_str() {
        "pause" => acts::pause(&app, &who, &id).await?,
        "resume" => ("resumed", acts::resume(&app, &who, &id).await?),
        "cancel" => ("asked", acts::cancel(&app, &who, &id, reason).await?),
        "terminate" => ("terminated", acts::terminate(&app, &who, &id, reason.as_deref()).await?),
        "retry" => acts::retry(&app, &who, &id, asked.step.map(Step)).await.map(|()| ("retried", id))?,
        other => return Err(Problem::bad(format!("unknown action `{other}`")).into()),
    };
    Ok(then(&path(run.as_str()), said))
}

async fn signal(
    State(app): State<App>,
    Visitor(who): Visitor,
    Path(run): Path<String>,
    Form(asked): Form<Vec<(String, String)>>,
) -> Result<Response, Fault> {
    need(&app, &who, &[Scope::RunsSignal])?;
    let filled = Filled(asked);
    match send(&app, &who, &run, &filled).await {
        Ok(run) => Ok(then(&path(run.as_str()), "sent")),
        Err(problem) if is_of_form(&problem) => again(&app, who, run, filled, problem).await,
        Err(problem) => Err(problem.into()),
    }
}

async fn send(app: &App, who: &Identity, run: &str, filled: &Filled) -> Result<RunId, Problem> {
    let id = run_id(run)?;
    let payload = filled.payload(app, run).await?;
    acts::check_signal(app, &id, filled.name(), Some(&payload)).await?;
    Ok(acts::signal(app, who, &id, filled.name(), payload, None).await?.1)
}

/// The page of the run once more, with what was filled in for the signal and what is wrong with it; the problem itself
/// if no such page can be shown.
async fn again(
    app: &App,
    who: Identity,
    run: String,
    filled: Filled,
    problem: Problem,
) -> Result<Response, Fault> {
    let page = match Subject::find(app, who, run).await {
        Ok(subject) => refused_page(&subject, &filled, &problem).await,
        Err(fault) => Err(fault),
    };
    match page {
        Ok(page) if page.acts.signal => shown(problem.status(), &page),
        Ok(_) | Err(_) => Err(problem.into()),
    }
}

async fn refused_page(subject: &Subject, filled: &Filled, problem: &Problem) -> Result<RunPage, Fault> {
    let page = run_page(subject, ShowAsked::default()).await?;
    let mut page = RunPage { shell: page.shell.answering(), ..page };
    let error = Some(Error::of(problem));
    if !filled.has_fields() {
        let (name, payload) = (filled.name().to_owned(), filled.given("payload").to_owned());
        return Ok(RunPage { name, payload, error, ..page });
    }
    // It may not wait for it any more, or for many others before.
    let declared = signal_fields(&subject.app, &subject.info, filled.name()).await?;
    page.declared.retain(|form| form.name != filled.name());
    page.declared.extend(declared.map(|form| SignalForm {
        fields: form::fill(form.fields, &filled.0).1,
        error: error.clone(),
        ..form
    }));
    // Of what the module says nothing there is only the other form.
    page.error = error.filter(|_| page.declared.iter().all(|form| form.error.is_none()));
    Ok(page)
}
