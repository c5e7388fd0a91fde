//! The log of a host as JSON, a line for each thing that happens: `wfhost serve --log-format json`.
//! It says which run and step something is about, never what they work on.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use wfhost::agents::{CallObserver, SeenCall};
use wfhost::{Notice, Observer, StepEnd};
use wfhost_server::Metrics;

use super::printer::{self, Level};

/// How `wfhost serve` says what happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people, and only what they have to know
    Text,
    /// A JSON document a line; -v has steps and waits, too
    Json,
}

/// Counts what a host does, and writes it down if that is wanted.
#[derive(Debug)]
pub(super) struct Watch {
    pub metrics: Arc<Metrics>,
    pub log: Option<Log>,
    /// For how long the host had had nothing to do when it looked for work the last time.
    pub quiet: watch::Sender<Option<Duration>>,
}

impl CallObserver for Watch {
    fn see_call(&self, seen: SeenCall<'_>) {
        self.metrics.see_call(seen);
        if let Some(log) = &self.log {
            log.call(seen);
        }
    }
}

impl Observer for Watch {
    fn see(&self, notice: Notice<'_>) {
        self.metrics.see(notice);
        if let Notice::Looked { quiet } = notice {
            self.quiet.send_replace(quiet);
        }
        if let Some(log) = &self.log {
            log.write(notice);
        }
    }
}

/// The log as JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    pub verbose: bool,
}

fn millis(length: Duration) -> u64 {
    length.as_millis().try_into().unwrap_or(u64::MAX)
}

impl Log {
    pub fn line(&self, level: Level, event: &str, fields: Value) {
        if self.verbose || level != Level::Debug {
            printer::log(level, event, fields);
        }
    }

    fn write(&self, notice: Notice<'_>) {
        use Level::{Debug, Info, Warn};
        match notice {
            Notice::Created { run, workflow } => {
                self.line(Info, "run-created", json!({ "run": run, "workflow": workflow }));
            }
            Notice::Opened { run, workflow, entries, .. } => {
                let fields = json!({ "run": run, "workflow": workflow, "entries": entries });
                self.line(Debug, "run-opened", fields);
            }
            Notice::CameThrough { run, workflow, entries, took } => {
                let fields =
                    json!({ "run": run, "workflow": workflow, "entries": entries, "ms": millis(took) });
                self.line(Debug, "run-replayed", fields);
            }
            Notice::Step { run, workflow, step, kind, end, after } => {
                let level = if end == StepEnd::Failed { Info } else { Debug };
                let fields = json!({
                    "run": run, "workflow": workflow, "step": step.0, "kind": kind, "outcome": end.word(),
                    "ms": millis(after),
                });
                self.line(level, "step-ended", fields);
            }
            Notice::Ended { run, workflow, state, after } => {
                let fields = json!({
                    "run": run, "workflow": workflow, "state": state.as_str(), "ms": millis(after),
                });
                self.line(Info, "run-ended", fields);
            }
            Notice::Left { run, workflow, how, trouble } => {
                let level = match how {
                    "refused" | "handed-over" | "lost" | "failed" => Warn,
                    _ => Debug,
                };
                let mut fields = json!({ "run": run, "workflow": workflow, "how": how });
                if let Some(trouble) = trouble {
                    fields["error"] = trouble.into();
                }
                self.line(level, "run-left", fields);
            }
            Notice::Failed { run: Some(run), error } => {
                let fields = json!({ "run": run, "code": error.code(), "error": error.to_string() });
                self.line(Warn, "append-failed", fields);
            }
            Notice::Failed { run: None, error } => {
                let fields = json!({ "code": error.code(), "error": error.to_string() });
                self.line(Warn, "limits-failed", fields);
            }
            Notice::TookOver { why, runs } => {
                self.line(Warn, "took-over", json!({ "why": why, "runs": runs }));
            }
            Notice::Signal { run, outcome } => {
                self.line(Debug, "signal", json!({ "run": run, "outcome": outcome }));
            }
            Notice::Appended { .. } | Notice::Received { .. } | Notice::Looked { .. } => {}
        }
    }

    fn call(&self, seen: SeenCall<'_>) {
        let SeenCall::Ended(end) = seen else { return };
        let level = match end.outcome {
            "answered" | "cached" | "postponed" | "delegated" => Level::Debug,
            _ => Level::Warn,
        };
        let fields = json!({
            "run": end.run, "step": end.step.0, "attempt": end.attempt, "provider": end.provider,
            "model": end.model, "outcome": end.outcome, "ms": end.took.map(millis),
        });
        self.line(level, "attempt-ended", fields);
    }
}
