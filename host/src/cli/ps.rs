//! `wfhost ps`

use serde_json::json;
use wfhost_core::Timestamp;

use super::diagnostic::{Exit, Trouble};
use super::place::{find_run, label_arg, since_arg};
use super::{Common, Format, print_line, view};
use crate::clock;
use crate::store::{RunFilter, RunState};

/// List runs, newest first
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost ps --state waiting
  wfhost ps --workflow research --label team=red -o json
  wfhost ps --before run_01k9 -n 20      the next page")]
pub(crate) struct Ps {
    /// Only runs in one of these states, separated by commas
    #[arg(long = "state", value_name = "STATES", value_parser = state_arg, value_delimiter = ',')]
    states: Vec<RunState>,
    /// Only runs of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only runs with this label (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label_arg)]
    labels: Vec<(String, String)>,
    /// Only runs older than this one
    #[arg(long, value_name = "RUN")]
    before: Option<String>,
    /// Only runs begun since then: a time, or a length of time like 2h or 7d
    #[arg(long, value_name = "WHEN", value_parser = since_arg)]
    since: Option<Timestamp>,
    /// At most so many
    #[arg(short = 'n', long, default_value_t = 50)]
    limit: usize,
}

fn state_arg(text: &str) -> Result<RunState, String> {
    RunState::parse(text).ok_or_else(|| {
        let known: Vec<_> = RunState::ALL.iter().map(|state| state.as_str()).collect();
        format!("the states are {}", known.join(", "))
    })
}

impl Ps {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let before = match &self.before {
            Some(text) => Some(find_run(store.as_ref(), text).await?.id),
            None => None,
        };
        let filter = RunFilter {
            states: self.states.clone(),
            workflow: self.workflow.clone(),
            labels: self.labels.clone(),
            prefix: None,
            before,
            since: self.since,
            idle_since: None,
            limit: self.limit,
        };
        let runs = store.runs(filter).await?;
        match common.output {
            Format::Json => {
                let views: Vec<_> = runs.iter().map(|info| view::run(info, None)).collect();
                // For --before, if there may be more.
                let next = runs.last().filter(|_| runs.len() == self.limit).map(|info| &info.id);
                print_line(&json!({ "schema": "wfhost/runs/1", "runs": views, "next": next }).to_string());
            }
            Format::Jsonl => {
                for info in &runs {
                    print_line(&view::run(info, None).to_string());
                }
            }
            Format::Text if runs.is_empty() => {
                anstream::eprintln!("there are no such runs; begin one with `wfhost run FILE.wasm`");
            }
            Format::Text => {
                let now = clock::now();
                let width = runs.iter().map(|info| info.id.as_str().len()).max().unwrap_or(0);
                let name = runs.iter().map(|info| info.workflow.len()).max().unwrap_or(0).max(8);
                print_line(&format!(
                    "{:width$}  {:name$}  {:<9}  {:>7}  {:>8}  WAITS FOR",
                    "RUN", "WORKFLOW", "STATE", "ENTRIES", "AGE"
                ));
                for info in &runs {
                    let line = format!(
                        "{:width$}  {:name$}  {:<9}  {:>7}  {:>8}  {}",
                        info.id.as_str(),
                        info.workflow,
                        info.state.as_str(),
                        info.entries.0,
                        view::ago(info.created_at, now),
                        view::waits(info)
                    );
                    print_line(line.trim_end());
                }
            }
        }
        Ok(Exit::Done)
    }
}
