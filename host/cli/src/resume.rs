//! `wfhost resume`

use wfhost::engine::Denied;
use wfhost::owner::Owner;
use wfhost::{Adopt, Evict, HostError, ResumeOptions};
use wfhost_core::FailureKind;
use wfhost_core::policy::budget::Budget;
use wfhost_view::RunView;

use super::diagnostic::{Exit, UserError};
use super::place::{AgentArgs, budget_arg, find_run, latest};
use super::registry::Fetch;
use super::{Common, Format, follow, module_arg, printer};

/// Resume a run
///
/// Completed steps are replayed from the journal and not executed again. With --module
/// the run continues with other code, if that is compatible with the journal; a failed
/// run continues where it failed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost resume @last
  wfhost resume run_01k9 --agents answers.json
  wfhost resume run_01k9 --module fixed.wasm")]
pub(crate) struct Resume {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    /// Continue with this module: a file, a directory, a name or a digest
    #[arg(long, value_name = "MODULE")]
    module: Option<String>,
    /// Accept a module that imports sockets or HTTP; a call to them fails the run
    #[arg(long, requires = "module")]
    trap_denied: bool,
    #[command(flatten)]
    agents: AgentArgs,
    /// The new budget of the run, like tokens=50k; other limits are unchanged. A run
    /// that failed because it exceeded its budget continues
    #[arg(long, value_name = "BUDGET", value_parser = budget_arg)]
    budget: Option<Budget>,
    /// Stop when the run only waits, with exit code 3
    #[arg(long, conflicts_with = "detach")]
    no_wait: bool,
    /// Do not advance the run here: a paused or refused run is due again, and `wfhost
    /// serve` advances it
    #[arg(short, long, conflicts_with_all = ["module", "budget"])]
    detach: bool,
    #[command(flatten)]
    fetch: Fetch,
}

impl Resume {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = latest(store.as_ref(), find_run(store.as_ref(), &self.run).await?).await?;
        let can_pay = self.budget.is_some()
            && matches!(&info.outcome, Some(Err(failure)) if failure.kind == FailureKind::BudgetExceeded);
        if let (true, None, Some(outcome)) = (info.state.is_final() && !can_pay, &self.module, &info.outcome)
        {
            printer::say(common, "Ended", &format!("{}  {}; nothing to do", info.id, info.state.as_str()));
            return Ok(follow::result(common, &info, outcome));
        }
        if self.detach {
            store.unpause(&info.id).await?;
            let info = store.run(&info.id).await?.ok_or_else(|| HostError::NoSuchRun(info.id.clone()))?;
            match info.lease.as_ref().filter(|_| wfhost::is_held(&info)) {
                Some(held) => {
                    let Owner { pid, host, .. } = &held.owner;
                    let text = format!("{}; process {pid} on {host} advances it", info.id);
                    printer::say(common, "Running", &text);
                }
                None => {
                    printer::say(common, "Queued", &format!("{}; `wfhost serve` advances it", info.id));
                }
            }
            if common.output != Format::Text {
                printer::json(&RunView::of(&info));
            }
            return Ok(Exit::Done);
        }
        let config = common.config_for(&info)?;
        let providers = self.agents.other_providers(&config)?;
        let evict = if self.no_wait { Evict::Always } else { self.agents.evict.into() };
        let host = common.host(store, self.agents.providers(&config)?, evict, Adopt::Own)?;
        let module = match &self.module {
            Some(module) => {
                let (name, bytes) =
                    module_arg::load(common, Some(host.store().as_ref()), module, self.fetch).await?;
                let denied = if self.trap_denied { Denied::Trap } else { Denied::Refuse };
                Some(host.add_module_with(&name, &bytes, denied).await?)
            }
            None => None,
        };
        let signals = follow::Signals::new()?;
        let before = follow::Before::of(host.store().as_ref(), &info).await?;
        let handle = host.resume(&info.id, ResumeOptions { providers, module, budget: self.budget }).await?;
        follow::follow(common, &host, signals, handle, follow::Beginning::Resumed(before), self.no_wait).await
    }
}
