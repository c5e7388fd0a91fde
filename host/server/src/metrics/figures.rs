//! The figures there are, by name.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use wfhost::agents::CallPhase;
use wfhost::world::lock;

/// Labels with values that are all known.
type Fixed<const N: usize> = [(&'static str, &'static str); N];
/// Labels with values of others.
type Named = Vec<(&'static str, String)>;
type Histograms = Family<Named, Histogram>;

/// Names that a label has at most: what comes later is `other`. Names come from programs.
const NAMES: usize = 300;
/// The longest of them, in bytes.
const NAME_BYTES: usize = 128;

/// From a tenth of a millisecond to ten seconds: what a host does.
const SHORT: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];
/// From ten milliseconds to an hour: what agents do.
const LONG: [f64; 14] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0];
/// From a tenth of a second to a month: how long runs go on.
const RUNS: [f64; 12] =
    [0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0, 86_400.0, 604_800.0, 2_592_000.0];

fn short() -> Histogram {
    Histogram::new(SHORT)
}

fn long() -> Histogram {
    Histogram::new(LONG)
}

fn runs() -> Histogram {
    Histogram::new(RUNS)
}

/// Values of a label, of which there are not too many.
#[derive(Debug, Default)]
struct Names(Mutex<BTreeSet<String>>);

impl Names {
    fn get(&self, name: &str) -> String {
        let name = &name[..name.floor_char_boundary(NAME_BYTES)];
        let mut known = lock(&self.0);
        if !known.contains(name) {
            if known.len() >= NAMES {
                return "other".to_owned();
            }
            known.insert(name.to_owned());
        }
        name.to_owned()
    }
}

pub(super) struct Figures {
    pub registry: Registry,
    /// Of all, as they are written.
    pub names: Vec<String>,

    pub started: Family<Named, Counter>,
    pub ended: Family<Named, Counter>,
    pub run: Histograms,
    pub queued: Histogram,
    pub live: Gauge,
    pub drives: Family<Fixed<1>, Counter>,
    pub parked: Counter,
    pub replayed: Counter,
    pub replay: Histogram,
    pub takeovers: Family<Fixed<1>, Counter>,

    pub steps: Family<Fixed<2>, Counter>,
    pub signals: Family<Fixed<1>, Counter>,

    pub attempts: Family<Named, Counter>,
    pub attempt: Histograms,
    pub slot_wait: Histograms,
    pub first_chunk: Histograms,
    pub tokens: Family<Named, Counter>,
    pub cost: Family<Named, Counter<f64, AtomicU64>>,
    asking: Family<Named, Gauge>,
    waiting: Family<Named, Gauge>,

    pub commits: Counter,
    pub appends: Counter,
    pub entries: Counter,
    pub commit: Histogram,
    pub store_errors: Family<Fixed<1>, Counter>,

    pub up: Gauge,
    pub runs: Family<Fixed<1>, Gauge>,
    pub due: Gauge,
    pub due_lag: Gauge<f64, AtomicU64>,
    pub questions: Gauge,
    pub question_age: Gauge<f64, AtomicU64>,
    pub database_bytes: Gauge,
    pub wal_bytes: Gauge,

    pub requests: Family<Named, Counter>,
    pub request: Histograms,
    pub streams: Gauge,
    pub stream_reads: Counter,
    pub mcp: Family<Fixed<1>, Counter>,

    pub deliveries: Family<Named, Counter>,
    pub pending: Family<Named, Gauge>,
    pub given_up: Family<Named, Gauge>,
    pub oldest: Family<Named, Gauge<f64, AtomicU64>>,
    pub spans: Family<Fixed<1>, Counter>,
    pub export_lag: Gauge<f64, AtomicU64>,

    workflows: Names,
    providers: Names,
    models: Names,
    sinks: Names,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Default for Figures {
    fn default() -> Self {
        let mut registry = (Registry::with_prefix("wfhost"), Vec::new());
        let r = &mut registry;
        let build = Family::<Fixed<1>, Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        add(r, "build_info", "Always 1; the version is a label", build);
        Self {
            started: add(r, "runs_started", "Runs that this process created", Family::default()),
            ended: add(r, "runs_ended", "Runs that ended while this process drove them", Family::default()),
            run: add(
                r,
                "run_duration_seconds",
                "From the start of a run to its end",
                Family::new_with_constructor(runs as fn() -> Histogram),
            ),
            queued: add(r, "run_queue_seconds", "From the creation of a run to its first step", long()),
            live: add(r, "live_runs", "Runs that this process is driving", Gauge::default()),
            drives: add(
                r,
                "drives",
                "How often this process drove a run, by how that ended",
                Family::default(),
            ),
            parked: add(r, "parked", "How often a run was evicted to wait", Counter::default()),
            replayed: add(r, "replayed_entries", "Entries that were replayed", Counter::default()),
            replay: add(
                r,
                "replay_duration_seconds",
                "From opening a run to the end of its journal",
                short(),
            ),
            takeovers: add(
                r,
                "takeovers",
                "Runs that this process took from hosts that died or whose lease expired",
                Family::default(),
            ),
            steps: add(r, "steps", "Steps that ended", Family::default()),
            signals: add(
                r,
                "signals",
                "Signals posted here (posted, duplicate, refused), and taken into a journal (received)",
                Family::default(),
            ),
            attempts: add(r, "attempts", "Attempts at agent calls that ended", Family::default()),
            attempt: add(
                r,
                "attempt_duration_seconds",
                "Duration of an attempt at the provider",
                Family::new_with_constructor(long as fn() -> Histogram),
            ),
            slot_wait: add(
                r,
                "attempt_slot_wait_seconds",
                "How long an attempt waited for a slot, a budget or its turn",
                Family::new_with_constructor(long as fn() -> Histogram),
            ),
            first_chunk: add(
                r,
                "first_chunk_seconds",
                "Time from a call to the first output of the provider",
                Family::new_with_constructor(long as fn() -> Histogram),
            ),
            tokens: add(r, "tokens", "Tokens; cached tokens are part of the input", Family::default()),
            cost: add(r, "cost_usd", "Cost of calls, in US dollars", Family::default()),
            asking: add(r, "calls_in_flight", "Attempts in flight", Family::default()),
            waiting: add(
                r,
                "calls_waiting",
                "Attempts that are waiting for a slot, a budget or their turn",
                Family::default(),
            ),
            commits: add(r, "commits", "Write transactions of this process", Counter::default()),
            appends: add(
                r,
                "appends",
                "Appends to journals; several share a transaction",
                Counter::default(),
            ),
            entries: add(r, "entries", "Entries appended to journals", Counter::default()),
            commit: add(
                r,
                "commit_duration_seconds",
                "Duration of an append, including the wait for its transaction",
                short(),
            ),
            store_errors: add(r, "store_errors", "Errors of the database, by code", Family::default()),
            up: add(
                r,
                "database_up",
                "1 if the database could be read for the gauges below",
                Gauge::default(),
            ),
            runs: add(r, "runs", "Runs in the database, by state", Family::default()),
            due: add(r, "due_runs", "Due runs that no process owns", Gauge::default()),
            due_lag: add(r, "due_lag_seconds", "Time since the oldest deadline expired", Gauge::default()),
            questions: add(r, "questions_open", "Open questions", Gauge::default()),
            question_age: add(r, "question_age_seconds", "Age of the oldest open question", Gauge::default()),
            database_bytes: add(r, "database_bytes", "Size of the database", Gauge::default()),
            wal_bytes: add(r, "wal_bytes", "Size of its write-ahead log", Gauge::default()),
            requests: add(r, "http_requests", "Requests that were answered, by route", Family::default()),
            request: add(
                r,
                "http_request_duration_seconds",
                "Time from a request to the head of its response; includes the wait of long polls",
                Family::new_with_constructor(short as fn() -> Histogram),
            ),
            streams: add(r, "event_streams", "Open streams and long polls", Gauge::default()),
            stream_reads: add(
                r,
                "event_stream_reads",
                "Database reads for streams, which share them",
                Counter::default(),
            ),
            mcp: add(r, "mcp_requests", "Requests of MCP clients, by method", Family::default()),
            deliveries: add(
                r,
                "sink_deliveries",
                "Delivery attempts to sinks, by outcome",
                Family::default(),
            ),
            pending: add(r, "sink_pending", "Messages that are waiting for delivery", Family::default()),
            given_up: add(r, "sink_given_up", "Messages that were given up", Family::default()),
            oldest: add(
                r,
                "sink_oldest_seconds",
                "Age of the oldest message that is waiting for delivery",
                Family::default(),
            ),
            spans: add(r, "spans", "Spans that a collector accepted or rejected", Family::default()),
            export_lag: add(
                r,
                "export_lag_seconds",
                "Time that commits have been waiting for export as spans; 0 if none is",
                Gauge::default(),
            ),
            workflows: Names::default(),
            providers: Names::default(),
            models: Names::default(),
            sinks: Names::default(),
            registry: registry.0,
            names: registry.1,
        }
    }
}

/// Counters get `_total` when they are written.
fn add<M: Metric + Clone>(
    (registry, names): &mut (Registry, Vec<String>),
    name: &str,
    help: &str,
    metric: M,
) -> M {
    let suffix = if matches!(metric.metric_type(), MetricType::Counter) { "_total" } else { "" };
    names.push(format!("wfhost_{name}{suffix}"));
    registry.register(name, help, metric.clone());
    metric
}

impl Figures {
    pub fn workflow(&self, name: &str) -> String {
        self.workflows.get(name)
    }

    pub fn provider(&self, name: &str) -> String {
        self.providers.get(name)
    }

    pub fn sink(&self, name: &str) -> String {
        self.sinks.get(name)
    }

    /// A provider and its model. Programs name models.
    pub fn model(&self, provider: &str, model: &str) -> (String, String) {
        (self.provider(provider), self.models.get(model))
    }

    pub fn in_phase(&self, provider: &str, phase: CallPhase) -> Gauge {
        let family = match phase {
            CallPhase::Waiting => &self.waiting,
            CallPhase::Asking => &self.asking,
        };
        family.get_or_create_owned(&vec![("provider", self.provider(provider))])
    }
}

/// A stream that is open, until this is dropped.
#[derive(Debug)]
pub(crate) struct Streams(Gauge);

impl Streams {
    pub(super) fn open(figures: &Figures) -> Self {
        figures.streams.inc();
        Self(figures.streams.clone())
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of figures in a text.
    fn named(text: &str) -> BTreeSet<String> {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let parts = text.split(ends).filter(|word| word.starts_with("wfhost_"));
        let parts = parts.map(|word| {
            let suffixes = ["_bucket", "_sum", "_count"].into_iter();
            suffixes.fold(word, |word, suffix| word.strip_suffix(suffix).unwrap_or(word)).to_owned()
        });
        parts.collect()
    }

    fn document(name: &str) -> String {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
        std::fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn the_page_has_all_figures_and_the_dashboard_and_the_alerts_no_other() {
        let known: BTreeSet<_> = Figures::default().names.into_iter().collect();
        assert_eq!(named(&document("observability.md")), known);
        let dashboard = document("observability/dashboard.json");
        assert!(serde_json::from_str::<serde_json::Value>(&dashboard).unwrap()["panels"].is_array());
        for text in [dashboard, document("observability/alerts.yml")] {
            let used = named(&text);
            assert!(used.len() > 5);
            assert_eq!(used.difference(&known).collect::<Vec<_>>(), [""; 0]);
        }
    }

    #[test]
    fn labels_have_a_bounded_number_of_values() {
        let names = Names::default();
        for n in 0..NAMES {
            assert_eq!(names.get(&format!("m{n}")), format!("m{n}"));
        }
        assert_eq!(names.get("one more"), "other");
        assert_eq!(names.get("m7"), "m7");
        assert_eq!(Names::default().get(&"ä".repeat(200)).len(), NAME_BYTES);
    }
}
