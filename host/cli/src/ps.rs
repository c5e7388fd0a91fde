//! `wfhost ps`

use std::collections::BTreeMap;

use wfhost::fleet::waits_for_slot;
use wfhost::is_held;
use wfhost::owner::this_process;
use wfhost::store::{Listed, RunFilter, RunInfo, RunState, SlotShare, Store};
use wfhost_core::{RunId, Timestamp, counted};
use wfhost_view::{RunView, RunsView, ago, waits};

use super::diagnostic::{Exit, UserError};
use super::place::{Since, count_arg, find_run, label_arg, since_arg};
use super::printer::{Column, left, right};
use super::{Common, Format, printer};

/// List runs, newest first
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost ps --state waiting
  wfhost ps --workflow research --label team=red -o json
  wfhost ps --tree
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
    /// Only runs started since then: a time, or a duration like 2h or 7d
    #[arg(long, value_name = "WHEN", value_parser = since_arg)]
    since: Option<Since>,
    /// Show children as a tree; -n counts only runs without a parent
    #[arg(long)]
    tree: bool,
    /// The maximum number of runs
    #[arg(short = 'n', long, default_value_t = 50, value_parser = count_arg)]
    limit: usize,
}

fn state_arg(text: &str) -> Result<RunState, String> {
    RunState::parse(text).ok_or_else(|| {
        let known: Vec<_> = RunState::ALL.iter().map(|state| state.as_str()).collect();
        format!("the states are {}", known.join(", "))
    })
}

impl Ps {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let before = match &self.before {
            Some(text) => Some(find_run(store.as_ref(), text).await?.number),
            None => None,
        };
        let filter = RunFilter {
            states: self.states.clone(),
            workflow: self.workflow.clone(),
            labels: self.labels.clone(),
            before,
            since: self.since.map(|since| since.time(store.now())),
            idle_since: None,
            limit: self.limit,
            top: self.tree,
            ..RunFilter::default()
        };
        let Listed { known: mut runs, unreadable } = store.list_runs(filter).await?;
        if !unreadable.is_empty() {
            let rows = counted(unreadable.len(), "row");
            printer::warn(common, &format!("{rows} cannot be read; `wfhost db check` tells which"));
        }
        // For --before, if there may be more.
        let next = runs.last().filter(|_| runs.len() == self.limit).map(|info| info.id.clone());
        let shares = store.slots().await?;
        if !self.tree {
            print_runs(common, &runs, &shares, next.as_ref(), store.now());
            return Ok(Exit::Done);
        }
        let mut lines = Vec::new();
        for info in std::mem::take(&mut runs) {
            lines.extend(family(store.as_ref(), info).await?);
        }
        let (depths, runs): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
        match common.output {
            Format::Text => print_table(&runs, &depths, &shares, store.now()),
            _ => print_runs(common, &runs, &shares, next.as_ref(), store.now()),
        }
        Ok(Exit::Done)
    }
}

/// A run and all its descendants, each behind the one that started it, with its generation.
async fn family(store: &dyn Store, info: RunInfo) -> Result<Vec<(usize, RunInfo)>, UserError> {
    let root = Some(info.links.root.clone());
    let filter = RunFilter { root, limit: usize::MAX >> 1, ..RunFilter::default() };
    let mut children: BTreeMap<RunId, Vec<RunInfo>> = BTreeMap::new();
    // Newest first, so that the oldest is taken off the end.
    for member in store.runs(filter).await? {
        if let Some(parent) = member.parent.clone() {
            children.entry(parent).or_default().push(member);
        }
    }
    let mut lines = Vec::new();
    let mut open = vec![(0, info)];
    while let Some((depth, info)) = open.pop() {
        let next = children.remove(&info.id).unwrap_or_default();
        lines.push((depth, info));
        open.extend(next.into_iter().map(|child| (depth + 1, child)));
    }
    Ok(lines)
}

/// The descendants of a run, if it has any, as a tree.
pub(super) async fn print_descendants(store: &dyn Store, info: &RunInfo) -> Result<(), UserError> {
    let (depths, runs): (Vec<_>, Vec<_>) = family(store, info.clone()).await?.into_iter().skip(1).unzip();
    if !runs.is_empty() {
        print_table(&runs, &depths, &store.slots().await?, store.now());
    }
    Ok(())
}

/// Runs in the format that is asked for.
/// `shares`: what hosts have of limits that hold for all of them. `now`: of their store.
pub(super) fn print_runs(
    common: &Common,
    runs: &[RunInfo],
    shares: &[SlotShare],
    next: Option<&RunId>,
    now: Timestamp,
) {
    match common.output {
        Format::Json => {
            printer::json(&RunsView::new(runs, next.map(ToString::to_string)));
        }
        Format::Jsonl => {
            for info in runs {
                printer::json(&RunView::of(info));
            }
        }
        Format::Text if runs.is_empty() => {
            printer::note("no runs found; start one with `wfhost run FILE.wasm`");
        }
        Format::Text => print_table(runs, &[], shares, now),
    }
}

/// The name of a project's directory.
fn directory(project: &str) -> String {
    let dir = std::path::Path::new(project).parent().and_then(|dir| dir.file_name());
    dir.map_or_else(|| project.to_owned(), |dir| dir.to_string_lossy().into_owned())
}

/// The machine whose process has a run.
fn host(info: &RunInfo) -> Option<&str> {
    info.lease.as_ref().filter(|_| is_held(info)).map(|session| session.owner.host.as_str())
}

/// A line for each run, indented by its generation.
fn print_table(runs: &[RunInfo], depths: &[usize], shares: &[SlotShare], now: Timestamp) {
    const COLUMNS: [Column; 8] = [
        left("RUN"),
        left("WORKFLOW"),
        left("STATE"),
        right("ENTRIES"),
        right("AGE"),
        left("PROJECT"),
        left("HOST"),
        left("WAITS FOR"),
    ];
    // Without any there is no column.
    let projects = runs.iter().any(|info| info.project.is_some());
    // Where all is done on this machine, that need not be said.
    let here = this_process().host;
    let hosts = runs.iter().any(|info| host(info).is_some_and(|host| host != here));
    let depths = depths.iter().copied().chain(std::iter::repeat(0));
    let rows = runs.iter().zip(depths).map(|(info, depth)| {
        vec![
            format!("{}{}", "  ".repeat(depth), info.id),
            info.workflow.clone(),
            info.state.as_str().to_owned(),
            info.entries.to_string(),
            ago(info.created_at, now),
            info.project.as_deref().map(directory).unwrap_or_default(),
            host(info).unwrap_or_default().to_owned(),
            waits_for_slot(shares, info).unwrap_or_else(|| waits(info)),
        ]
    });
    let shown = |index: usize| match COLUMNS[index].title {
        "PROJECT" => projects,
        "HOST" => hosts,
        _ => true,
    };
    let columns: Vec<_> =
        (0..COLUMNS.len()).filter(|index| shown(*index)).map(|index| &COLUMNS[index]).collect();
    let rows =
        rows.map(|row| row.into_iter().enumerate().filter(|(index, _)| shown(*index)).map(|(_, cell)| cell));
    printer::table(&columns, rows.map(Iterator::collect));
}
