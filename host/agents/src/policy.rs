//! What holds for calls that do not say, and what all calls share: limits of
//! concurrency and rate, prices, workspaces.

use std::collections::BTreeMap;

use wfhost_core::policy::budget::Prices;
use wfhost_core::policy::limits::TimeLimits;
use wfhost_core::policy::rate::Rate;
use wfhost_core::policy::retry::default_retry;
use wfhost_core::{Retry, RunId};

use super::gate::Slot;
use super::workspace::WorkspaceConfig;

/// How agent calls are made by a host.
#[derive(Clone, Debug)]
pub struct Policy {
    /// For calls without a `retry` of their own.
    pub retry: Retry,
    /// For the limits that a call leaves open.
    pub limits: TimeLimits,
    pub concurrency: Concurrency,
    /// By the name of the provider.
    pub providers: BTreeMap<String, ProviderPolicy>,
    pub prices: Prices,
    /// By their name.
    pub workspaces: BTreeMap<String, WorkspaceConfig>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry: default_retry(),
            limits: TimeLimits::default(),
            concurrency: Concurrency::default(),
            providers: BTreeMap::new(),
            prices: Prices::default(),
            workspaces: BTreeMap::new(),
        }
    }
}

/// How many calls may be under way at the same time. None means no limit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Concurrency {
    /// Of this process.
    pub host: Option<u32>,
    /// Of each run.
    pub run: Option<u32>,
    /// Of each group that has no limit of its own; runs share groups.
    pub group: Option<u32>,
    pub groups: BTreeMap<String, u32>,
}

/// What holds for one provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProviderPolicy {
    /// Calls in flight at the same time; no limit if none.
    pub max_parallel: Option<u32>,
    pub rate: Option<Rate>,
}

impl Policy {
    /// The slots that a call has to have, with their limits. `run_limit`: what
    /// the run was started with.
    pub fn slots(
        &self,
        run: &RunId,
        run_limit: Option<u32>,
        group: Option<&str>,
        provider: &str,
    ) -> Vec<(Slot, u32)> {
        let limits = &self.concurrency;
        let of_provider = self.providers.get(provider).and_then(|policy| policy.max_parallel);
        let of_group = |name: &str| limits.groups.get(name).copied().or(limits.group);
        let slots = [
            limits.host.map(|limit| (Slot::Host, limit)),
            run_limit.or(limits.run).map(|limit| (Slot::Run(run.clone()), limit)),
            group.and_then(|name| Some((Slot::Group(name.to_owned()), of_group(name)?))),
            of_provider.map(|limit| (Slot::Provider(provider.to_owned()), limit)),
        ];
        slots.into_iter().flatten().collect()
    }

    /// How many calls of a provider may begin in a length of time.
    pub fn rate(&self, provider: &str) -> Option<Rate> {
        self.providers.get(provider)?.rate
    }
}
