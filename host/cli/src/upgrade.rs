//! `wfhost upgrade`

use wfhost::agents::Providers;
use wfhost::store::{RunFilter, RunState};
use wfhost::{Adopt, Evict, Upgraded};
use wfhost_core::counted;
use wfhost_view::UpgradeView;

use super::diagnostic::{Exit, UserError};
use super::place::find_run;
use super::registry::Fetch;
use super::{Common, Format, module_arg, printer};

/// Migrate the runs of a workflow to new code
///
/// The journal of each run is replayed against the module first. A compatible run
/// uses the module when it is advanced the next time; any other run stays exactly
/// where it is, and the difference is shown.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost upgrade --workflow research --module new.wasm
  wfhost upgrade run_01k9 run_01ka --module new.wasm
  wfhost check new.wasm --all               what it would do")]
pub(crate) struct Upgrade {
    /// These runs: ids, beginnings of ids, @last
    #[arg(required_unless_present = "workflow")]
    runs: Vec<String>,
    /// All runs of this workflow that have not ended
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// The new code: a file, a directory, a name or a digest
    #[arg(long, value_name = "MODULE")]
    module: String,
    #[command(flatten)]
    fetch: Fetch,
}

impl Upgrade {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let mut runs = Vec::new();
        for run in &self.runs {
            runs.push(find_run(store.as_ref(), run).await?);
        }
        if let Some(workflow) = &self.workflow {
            let states = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
            let workflow = Some(workflow.clone());
            let filter = RunFilter { states, workflow, limit: usize::MAX >> 1, ..RunFilter::default() };
            runs.extend(store.runs(filter).await?);
        }
        let host = common.host(store, Providers::builtin(), Evict::default(), Adopt::Own)?;
        let (name, bytes) =
            module_arg::load(common, Some(host.store().as_ref()), &self.module, self.fetch).await?;
        let module = host.add_module(&name, &bytes).await?;
        let mut departs = 0;
        let mut moved = 0;
        for info in &runs {
            let upgraded = host.upgrade(info, &module).await?;
            moved += usize::from(matches!(upgraded, Upgraded::Moved));
            departs += usize::from(matches!(upgraded, Upgraded::Departs(_)));
            show(common, &UpgradeView::upgraded(&info.id, &upgraded));
        }
        printer::say(
            common,
            "Upgraded",
            &format!("{moved} of {} to {}", counted(runs.len(), "run"), module.digest),
        );
        Ok(if departs > 0 { Exit::Mismatch } else { Exit::Done })
    }
}

/// Shows a run and what became of it.
pub(super) fn show(common: &Common, view: &UpgradeView) {
    let UpgradeView { result, run, why, .. } = view;
    match (common.output, why) {
        (Format::Json | Format::Jsonl, _) => printer::json(view),
        (Format::Text, Some(why)) => printer::line(format!("{result:<10} {run}  {why}")),
        (Format::Text, None) => printer::line(format!("{result:<10} {run}")),
    }
}
