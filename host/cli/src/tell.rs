//! Telling others of what is committed, by processes that stay: who is told, and what is said of it here.

use std::sync::Arc;

use serde_json::json;
use wfhost::store::SharedStore;
use wfhost_config::{Config, Sink};
use wfhost_core::counted;
use wfhost_notify::{ExportOptions, Options, Otlp, Report, Teller, Told};
use wfhost_server::Metrics;

use super::Common;
use super::diagnostic::UserError;
use super::log::Log;
use super::printer::{self, Level};
use super::trace::bad_collector;

/// Says what a teller does: counts it, and writes it down.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    pub common: Common,
    pub metrics: Option<Arc<Metrics>>,
    /// As JSON; for people if none.
    pub log: Option<Log>,
}

impl Report for Reports {
    fn told(&self, told: Told<'_>) {
        self.count(told);
        match &self.log {
            Some(log) => write(log, told),
            None => self.say(told),
        }
    }
}

impl Reports {
    fn count(&self, told: Told<'_>) {
        let Some(metrics) = &self.metrics else { return };
        match told {
            Told::Delivery { sink, outcome, .. } => metrics.count_delivery(sink, outcome),
            Told::Spans { count, refused: None } => metrics.count_spans("sent", count),
            Told::Rejected { count, .. } => metrics.count_spans("rejected", count),
            Told::Spans { .. } | Told::Failed { .. } => {}
        }
    }

    /// For people: what they have to know, and with -v the rest.
    fn say(&self, told: Told<'_>) {
        let say = |verb: &str, text: String| printer::say(&self.common, verb, &text);
        match told {
            Told::Delivery { sink, event, run, outcome: "given-up", said, .. } => {
                let said = said.unwrap_or_default();
                say("Given up", format!("{event} of {run} for {sink}: {said}; `wfhost sinks ls`"));
            }
            Told::Delivery { sink, event, run, outcome, said, tries, .. } if self.common.verbose => {
                let said = said.map(|said| format!(": {said}")).unwrap_or_default();
                say("Notifying", format!("{sink} of {event} of {run}, attempt {tries}: {outcome}{said}"));
            }
            Told::Spans { refused: Some(why), .. } => {
                say("Waiting", format!("for the collector, to send spans: {why}"));
            }
            Told::Rejected { count, said } => {
                say("Rejected", format!("{} by the collector: {said}", counted(count, "span")));
            }
            Told::Failed { what, why } => say("Waiting", format!("to export events ({what}): {why}")),
            Told::Delivery { .. } | Told::Spans { .. } => {}
        }
    }
}

fn write(log: &Log, told: Told<'_>) {
    use Level::{Debug, Info, Warn};
    match told {
        Told::Delivery { sink, event, run, message, tries, outcome, said } => {
            let level = match outcome {
                "delivered" => Info,
                _ => Warn,
            };
            let fields = json!({
                "sink": sink, "kind": event, "run": run, "message": message, "tries": tries, "outcome": outcome,
                "error": said,
            });
            log.line(level, "sink", fields);
        }
        Told::Spans { count, refused: None } => log.line(Debug, "spans-sent", json!({ "count": count })),
        Told::Spans { refused: Some(why), .. } => log.line(Warn, "collector-away", json!({ "error": why })),
        Told::Rejected { count, said } => {
            log.line(Warn, "spans-rejected", json!({ "count": count, "error": said }));
        }
        Told::Failed { what, why } => {
            log.line(Warn, "telling-failed", json!({ "what": what, "error": why }));
        }
    }
}

/// Who is told, by these configurations.
pub(super) fn sinks<'a>(configs: impl IntoIterator<Item = &'a Config>) -> Result<Vec<Sink>, UserError> {
    let mut sinks: Vec<Sink> = Vec::new();
    for config in configs {
        for sink in config.sinks()? {
            // The user's are told once, of the runs of all projects.
            if !sinks.iter().any(|known| known.id == sink.id) {
                sinks.push(sink);
            }
        }
    }
    Ok(sinks)
}

/// The collector that is `given`, else the one of the environment.
pub(super) fn export(given: Option<&str>, content: bool) -> Result<Option<ExportOptions>, UserError> {
    if given.is_none() && !Otlp::is_in_environment() {
        return Ok(None);
    }
    let to = Otlp::from_environment(given).map_err(bad_collector)?;
    let every = Otlp::every().map_err(bad_collector)?;
    Ok(Some(ExportOptions { to, content, every }))
}

/// Begins to tell others.
pub(super) fn start(
    store: &SharedStore,
    sinks: Vec<Sink>,
    export: Option<ExportOptions>,
    report: Reports,
    url: Option<String>,
) -> Teller {
    let report = Arc::new(report);
    Teller::start(Options { store: Arc::clone(store), sinks, export, report, url })
}
