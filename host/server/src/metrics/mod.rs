//! Figures for Prometheus. Counters count what this process did; what the database holds is looked up
//! when somebody asks, now and then. No label is the id of a run.

mod figures;
mod listener;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use tokio::task::JoinHandle;
use wfhost::agents::{CallObserver, CallPhase, SeenCall, SeenEnd};
use wfhost::store::{Cursor, Load, RunState, SharedStore, SinkLoad, StoreError};
use wfhost::{Host, Notice, Observer};

use self::figures::Figures;
pub(crate) use self::figures::Streams;
pub use self::listener::MetricsServer;
use crate::app::App;
use crate::auth::{Caller, Scope};
use crate::problem::Problem;

/// What the database holds is not looked up more often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long that may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// The figures of a process for one database. Observes its host.
#[derive(Debug, Default)]
pub struct Metrics {
    figures: Figures,
    looking: tokio::sync::Mutex<Looking>,
}

/// How the database is looked at.
#[derive(Debug, Default)]
struct Looking {
    /// When it was the last time.
    at: Option<Instant>,
    /// A look that took too long and goes on: another one beside it would make a slow database slower.
    reading: Option<JoinHandle<Result<Looked, StoreError>>>,
}

impl Metrics {
    /// The names of all figures.
    pub fn names(&self) -> &[String] {
        &self.figures.names
    }

    /// The figures as text: of the format of Prometheus, or OpenMetrics.
    pub async fn text(&self, host: &Host, open: bool) -> String {
        self.look(host).await;
        let mut out = String::new();
        let encode = if open { text::encode } else { prometheus_text::encode };
        // Writing to memory does not fail.
        let _ = encode(&mut out, &self.figures.registry);
        out
    }

    /// Looks up what the database holds, if that was not done just before.
    async fn look(&self, host: &Host) {
        self.figures.live.set(host.live() as i64);
        raise(&self.figures.commits, host.store().commits());
        let mut looking = self.looking.lock().await;
        if looking.at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        let reading = looking.reading.get_or_insert_with(|| {
            let (store, runtime) = (host.store().clone(), tokio::runtime::Handle::current());
            // Reading takes its time, and the workers advance runs meanwhile.
            tokio::task::spawn_blocking(move || runtime.block_on(Looked::of(&store)))
        });
        let read = tokio::time::timeout(LOOK_PATIENCE, reading).await;
        if read.is_ok() {
            looking.reading = None;
        }
        match read {
            Ok(Ok(Ok(looked))) => {
                self.figures.up.set(1);
                self.show(&looked.counts, &looked.load);
                self.show_outbox(&looked);
            }
            Ok(Ok(Err(error))) => {
                self.figures.up.set(0);
                self.figures.store_errors.get_or_create(&[("code", error.code())]).inc();
            }
            // What was found before is old, and says so.
            Ok(Err(_)) | Err(_) => drop(self.figures.up.set(0)),
        }
        looking.at = Some(Instant::now());
    }

    fn show(&self, counts: &[(RunState, u64)], load: &Load) {
        let figures = &self.figures;
        for state in RunState::ALL {
            let count = counts.iter().find(|(known, _)| *known == state).map_or(0, |(_, count)| *count);
            figures.runs.get_or_create(&[("state", state.as_str())]).set(count as i64);
        }
        let seconds = |ms: Option<u64>| ms.unwrap_or(0) as f64 / 1_000.0;
        figures.due.set(load.due as i64);
        figures.due_lag.set(seconds(load.lag_ms));
        figures.questions.set(load.questions as i64);
        figures.question_age.set(seconds(load.question_ms));
        figures.database_bytes.set(load.bytes as i64);
        figures.wal_bytes.set(load.wal_bytes as i64);
    }

    fn show_outbox(&self, looked: &Looked) {
        let figures = &self.figures;
        // A sink that is gone has no figures any more.
        figures.pending.clear();
        figures.given_up.clear();
        figures.oldest.clear();
        // Those of several projects may have one name.
        let mut sinks: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
        for load in &looked.sinks {
            let name = load.sink.split('@').next().unwrap_or_default();
            let sum = sinks.entry(name).or_default();
            *sum =
                (sum.0 + load.pending, sum.1 + load.given_up, sum.2.max(load.oldest_ms.unwrap_or_default()));
        }
        for (name, (pending, given_up, oldest_ms)) in sinks {
            let labels = vec![("sink", figures.sink(name))];
            figures.pending.get_or_create(&labels).set(pending as i64);
            figures.given_up.get_or_create(&labels).set(given_up as i64);
            figures.oldest.get_or_create(&labels).set(oldest_ms as f64 / 1_000.0);
        }
        let exported = looked.cursors.iter().find(|cursor| cursor.name == OTLP_CURSOR);
        let behind = exported.filter(|cursor| cursor.place < looked.last_place);
        let lag = behind.map_or(0, |cursor| looked.now.since(cursor.at));
        figures.export_lag.set(lag as f64 / 1_000.0);
    }

    /// A try to tell somebody of an event ended.
    pub fn count_delivery(&self, sink: &str, outcome: &str) {
        let labels = vec![("sink", self.figures.sink(sink)), ("outcome", outcome.to_owned())];
        self.figures.deliveries.get_or_create(&labels).inc();
    }

    /// A collector was sent spans: `sent` are those that it took, `rejected` those that it does not want.
    pub fn count_spans(&self, outcome: &'static str, count: u64) {
        self.figures.spans.get_or_create(&[("outcome", outcome)]).inc_by(count);
    }

    /// A client of the Model Context Protocol asked something.
    pub(crate) fn asked_by_mcp(&self, method: &str) {
        let known = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.figures.mcp.get_or_create(&[("method", known)]).inc();
    }

    pub(crate) fn stream(&self) -> Streams {
        Streams::open(&self.figures)
    }

    /// The database is read for streams of events.
    pub(crate) fn stream_read(&self) {
        self.figures.stream_reads.inc();
    }
}

/// Brings a counter to what was counted elsewhere, if it is not there yet. Any number of threads may do that at once.
fn raise(counter: &Counter, to: u64) {
    counter.inner().fetch_max(to, Ordering::Relaxed);
}

/// The cursor of who sends spans.
const OTLP_CURSOR: &str = "otlp";

/// What a database holds.
#[derive(Debug)]
struct Looked {
    counts: Vec<(RunState, u64)>,
    load: Load,
    sinks: Vec<SinkLoad>,
    cursors: Vec<Cursor>,
    last_place: u64,
    now: wfhost_core::Timestamp,
}

impl Looked {
    async fn of(store: &SharedStore) -> Result<Self, StoreError> {
        let cursors = store.cursors().await?;
        Ok(Self {
            counts: store.counts().await?,
            load: store.load().await?,
            sinks: store.sink_loads().await?,
            last_place: if cursors.is_empty() { 0 } else { store.last_place().await? },
            cursors,
            now: store.now(),
        })
    }
}

/// What clients of the Model Context Protocol may ask.
const METHODS: [&str; 13] = [
    "initialize",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "server/discover",
    "tasks/cancel",
    "tasks/get",
    "tasks/update",
    "tools/call",
    "tools/list",
];

/// The model of calls of which none is known.
const NO_MODEL: &str = "unknown";

impl CallObserver for Metrics {
    fn see_call(&self, seen: SeenCall<'_>) {
        let figures = &self.figures;
        match seen {
            SeenCall::Entered { provider, phase } => drop(figures.in_phase(provider, phase).inc()),
            SeenCall::Left { provider, phase, after } => {
                figures.in_phase(provider, phase).dec();
                if phase == CallPhase::Waiting {
                    let labels = vec![("provider", figures.provider(provider))];
                    figures.slot_wait.get_or_create(&labels).observe(after.as_secs_f64());
                }
            }
            SeenCall::Ended(SeenEnd { provider, model, outcome, took, first, usage, .. }) => {
                let (name, model) = figures.model(provider, model.unwrap_or(NO_MODEL));
                let one = vec![("provider", name.clone())];
                let labels = vec![("provider", name.clone()), ("outcome", outcome.to_owned())];
                figures.attempts.get_or_create(&labels).inc();
                let both = vec![("provider", name), ("model", model)];
                if let Some(took) = took {
                    figures.attempt.get_or_create(&both).observe(took.as_secs_f64());
                }
                if let Some(first) = first {
                    figures.first_chunk.get_or_create(&one).observe(first.as_secs_f64());
                }
                let Some(usage) = usage else { return };
                let kinds = [
                    ("input", usage.input_tokens),
                    ("cached", usage.cached_tokens),
                    ("output", usage.output_tokens),
                ];
                for (kind, tokens) in kinds {
                    let mut labels = both.clone();
                    labels.push(("type", kind.to_owned()));
                    figures.tokens.get_or_create(&labels).inc_by(tokens);
                }
                figures.cost.get_or_create(&both).inc_by(usage.cost_micros as f64 / 1e6);
            }
        }
    }
}

impl Observer for Metrics {
    fn see(&self, notice: Notice<'_>) {
        let figures = &self.figures;
        match notice {
            Notice::Created { workflow, .. } => {
                let labels = vec![("workflow", figures.workflow(workflow))];
                figures.started.get_or_create(&labels).inc();
            }
            Notice::Opened { queued, .. } => {
                if let Some(queued) = queued {
                    figures.queued.observe(queued.as_secs_f64());
                }
            }
            Notice::CameThrough { entries, took, .. } => {
                // The first entry of a run that begins is no replay.
                if entries > 1 {
                    figures.replayed.inc_by(entries);
                    figures.replay.observe(took.as_secs_f64());
                }
            }
            Notice::Appended { entries, took, .. } => {
                figures.appends.inc();
                figures.entries.inc_by(u64::from(entries));
                figures.commit.observe(took.as_secs_f64());
            }
            Notice::Step { kind, end, .. } => {
                figures.steps.get_or_create(&[("kind", kind), ("outcome", end.word())]).inc();
            }
            Notice::Received { .. } => {
                figures.signals.get_or_create(&[("outcome", "received")]).inc();
            }
            Notice::Ended { workflow, state, after, .. } => {
                let workflow = figures.workflow(workflow);
                let labels = vec![("workflow", workflow.clone()), ("state", state.as_str().to_owned())];
                figures.ended.get_or_create(&labels).inc();
                figures.run.get_or_create(&vec![("workflow", workflow)]).observe(after.as_secs_f64());
            }
            Notice::Left { how, .. } => {
                figures.drives.get_or_create(&[("end", how)]).inc();
                if how == "parked" {
                    figures.parked.inc();
                }
            }
            Notice::Failed { error, .. } => {
                // What came in meanwhile, and who has the run now, are no errors of the store.
                if !matches!(
                    error,
                    StoreError::Raced { .. } | StoreError::Fenced { .. } | StoreError::SessionOver
                ) {
                    figures.store_errors.get_or_create(&[("code", error.code())]).inc();
                }
            }
            Notice::Looked { .. } => {}
            Notice::TookOver { why, runs } => {
                figures.takeovers.get_or_create(&[("why", why)]).inc_by(runs);
            }
            Notice::Signal { outcome, .. } => {
                figures.signals.get_or_create(&[("outcome", outcome)]).inc();
            }
        }
    }
}

/// For those who may read figures.
pub(crate) async fn serve(
    State(app): State<App>,
    Caller(who): Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    who.need(&app, Scope::MetricsRead)?;
    Ok(answer(&app.options().metrics, app.host(), &headers).await)
}

async fn answer(metrics: &Metrics, host: &Host, headers: &HeaderMap) -> Response {
    let asked = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let open = asked.contains("application/openmetrics-text");
    let kind = match open {
        true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        false => "text/plain; version=0.0.4; charset=utf-8",
    };
    ([(header::CONTENT_TYPE, kind)], metrics.text(host, open).await).into_response()
}

/// Whose figures requests are counted in: of a namespace those that were for it, of the server all others.
#[derive(Clone, Debug)]
pub(crate) struct Counting {
    own: Arc<Metrics>,
    /// By what their routes begin with.
    spaces: Arc<[(String, Arc<Metrics>)]>,
}

impl Counting {
    pub fn new(app: &App, spaces: &[App]) -> Self {
        let of = |app: &App| Arc::clone(&app.options().metrics);
        Self {
            own: of(app),
            spaces: spaces.iter().map(|space| (space.base().to_owned(), of(space))).collect(),
        }
    }

    /// The figures for a route, and the route within what they are of.
    fn find<'a>(&'a self, route: &'a str) -> (&'a Metrics, &'a str) {
        let below = |base: &str| route.strip_prefix(base).filter(|rest| rest.starts_with('/'));
        let mut found =
            self.spaces.iter().filter_map(|(base, metrics)| Some((metrics.as_ref(), below(base)?)));
        found.next().unwrap_or((self.own.as_ref(), route))
    }
}

/// Counts the requests by the routes that they were for.
pub(crate) async fn count(State(counting): State<Counting>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let (metrics, route) = counting.find(&route);
    let (figures, route) = (&metrics.figures, route.to_owned());
    let status = response.status().as_u16().to_string();
    figures.requests.get_or_create(&vec![("route", route.clone()), ("status", status)]).inc();
    figures.request.get_or_create(&vec![("route", route)]).observe(since.elapsed().as_secs_f64());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_twice_by_two_that_ask_at_once() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..=100_000).for_each(|to| raise(&counter, to)));
            }
        });
        assert_eq!(counter.get(), 100_000);
        raise(&counter, 7);
        assert_eq!(counter.get(), 100_000);
    }
}
