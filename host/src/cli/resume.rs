//! `wfhost resume`

use wfhost_core::Outcome;

use super::diagnostic::{Exit, Trouble};
use super::place::{AgentArgs, find_run};
use super::{Common, follow};
use crate::Evict;

/// Go on with a run
///
/// What it has done is replayed from its journal, nothing of it is done again.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost resume @last
  wfhost resume run_01k9 --agents answers.json")]
pub(crate) struct Resume {
    /// An id, the beginning of one, @last, @last:2
    #[arg(default_value = "@last")]
    run: String,
    #[command(flatten)]
    agents: AgentArgs,
    /// Stop when the run only waits, with exit code 3
    #[arg(long)]
    no_wait: bool,
}

impl Resume {
    pub async fn execute(&self, common: &Common) -> Result<Exit, Trouble> {
        let store = common.store()?;
        let info = find_run(store.as_ref(), &self.run).await?;
        if let (true, Some(outcome)) = (info.state.is_final(), &info.outcome) {
            follow::say(common, "Ended", &format!("{}  {}; nothing to do", info.id, info.state.as_str()));
            return Ok(self.ended(common, &info, outcome));
        }
        let providers = Providers::of(&self.agents, store.as_ref(), &info).await?;
        let evict = if self.no_wait { Evict::Always } else { self.agents.evict.into() };
        let host = common.host(store, providers.0, evict)?;
        let handle = host.resume(&info.id).await?;
        follow::follow(common, &host, handle, follow::Beginning::Resumed(info.entries), self.no_wait).await
    }

    fn ended(&self, common: &Common, info: &crate::store::RunInfo, outcome: &Outcome) -> Exit {
        follow::result(common, info, outcome)
    }
}

/// The providers of a run that was begun before.
pub(super) struct Providers(pub crate::agents::Providers);

impl Providers {
    pub async fn of(
        args: &AgentArgs,
        store: &dyn crate::store::Store,
        info: &crate::store::RunInfo,
    ) -> Result<Self, Trouble> {
        let rows = store.journal(&info.id).await?;
        // Only the first entry matters here; a journal that is damaged is reported when it is opened.
        let first = rows.first().and_then(|row| {
            wfhost_core::Entry::decode(&row.bytes, wfhost_core::Position(0))
                .ok()
                .map(|(entry, _)| entry.event)
        });
        let config = match first {
            Some(wfhost_core::Event::Started(started)) => Some(started.config),
            _ => None,
        };
        let config = config.unwrap_or_default();
        let mut providers = args.providers(config.script.as_deref())?;
        if let Some(fallback) = args.default_provider().or(config.agent)
            && let Some(provider) = providers.get(&fallback)
        {
            providers.set_default(provider);
        }
        Ok(Self(providers))
    }
}
