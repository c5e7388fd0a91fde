//! `wfhost retry`

use wfhost::{Adopt, ResumeOptions};
use wfhost_core::Step;

use super::diagnostic::{Exit, UserError};
use super::place::{AgentArgs, find_run};
use super::{Common, follow};

/// Retry a failed run
///
/// The run continues from the given step, or else from the step that made it fail.
/// Everything after that step is void; all other steps keep their results. A
/// cancelled run continues where it was cancelled.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost retry @last
  wfhost retry run_01k9 4 --agent echo")]
pub(crate) struct Retry {
    /// An id, the beginning of one, @last, @last:2
    run: String,
    /// The number of the step, as `show` lists it
    step: Option<u64>,
    #[command(flatten)]
    agents: AgentArgs,
}

impl Retry {
    pub async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let store = common.reader().await?;
        let info = find_run(store.as_ref(), &self.run).await?;
        let config = common.config_for(&info)?;
        let providers = self.agents.other_providers(&config)?;
        let host =
            common.host(store, self.agents.providers(&config)?, self.agents.evict.into(), Adopt::Own)?;
        let options = ResumeOptions { providers, ..ResumeOptions::default() };
        let signals = follow::Signals::new()?;
        let before = follow::Before::of(host.store().as_ref(), &info).await?;
        let handle = host.retry(&info.id, self.step.map(Step), options).await?;
        follow::follow(common, &host, signals, handle, follow::Beginning::Resumed(before), false).await
    }
}
