//! What keeps a run.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::StepInfo;
use wfhost::store::{Part, RunInfo, Store, StoreError};
use wfhost::why::{Blocker, Parallel, why};
use wfhost_config::Config;
use wfhost_core::Started;

use crate::turns::{Turn, open_calls, turns};

/// What keeps a run, and what would move it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WhyView {
    pub blockers: Vec<BlockerView>,
    pub project: Option<String>,
    pub run: String,
    #[schema(example = "wfhost/why/1")]
    pub schema: &'static str,
    pub state: &'static str,
}

/// One thing that keeps a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BlockerView {
    /// The command that would move it.
    #[serde(rename = "do")]
    pub remedy: Option<String>,
    pub what: String,
}

impl WhyView {
    pub fn new(info: &RunInfo, blockers: Vec<Blocker>) -> Self {
        let blockers = blockers.into_iter();
        Self {
            blockers: blockers.map(|b| BlockerView { what: b.what, remedy: b.remedy }).collect(),
            project: info.project.clone(),
            run: info.id.to_string(),
            schema: "wfhost/why/1",
            state: info.state.as_str(),
        }
    }
}

impl WhyView {
    /// The same with what blocks it, the calls that wait for their turn among it.
    pub async fn of(
        store: &dyn Store,
        info: &RunInfo,
        steps: &[StepInfo],
        parallel: Parallel,
    ) -> Result<Self, StoreError> {
        let inbox = store.inbox(&info.id, Part::Next).await?.messages;
        let known = turns(store, &info.id, &open_calls(steps)).await?;
        let began: BTreeMap<_, _> = steps.iter().map(|info| (info.step, info.attempt_at)).collect();
        let is_queued =
            |turn: &&Turn| turn.is_queued && began.get(&turn.step).is_some_and(|at| turn.at >= *at);
        let queued = known.iter().filter(is_queued).map(|turn| turn.step).collect();
        let parallel = Parallel { queued, ..parallel };
        let shares = store.slots().await?;
        Ok(Self::new(info, why(info, steps, &inbox, &parallel, &shares, store.now())))
    }
}

/// How many calls may be under way, by the run and by the configuration that holds here.
pub fn parallel(here: &Config, started: Option<&Started>) -> Parallel {
    let config = started.map(|started| started.config.clone()).unwrap_or_default();
    let default = config.agent.or_else(|| here.default_agent().map(str::to_owned));
    let run = [config.max_parallel, here.parallel_calls()].into_iter().flatten().min();
    Parallel { run, providers: here.parallel_by_provider(), default, ..Parallel::default() }
}
