//! What holds for calls that do not say, and what all calls share: limits of
//! concurrency and rate, prices, workspaces.

use std::collections::BTreeMap;

use wfhost_core::policy::budget::Prices;
use wfhost_core::policy::limits::TimeLimits;
use wfhost_core::policy::rate::Rate;
use wfhost_core::policy::retry::default_retry;
use wfhost_core::policy::share;
use wfhost_core::{Retry, RunId};

use super::gate::{ProviderRate, Slot};
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
    /// Of all hosts of a store together.
    pub fleet: Option<u32>,
    /// Of groups, of all hosts together: in the place of the limits above.
    pub fleet_groups: BTreeMap<String, u32>,
}

/// What holds for one provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProviderPolicy {
    /// Calls in flight at the same time; no limit if none.
    pub max_parallel: Option<u32>,
    pub rate: Option<Rate>,
    /// Whether both hold for all hosts of a store together.
    pub of_fleet: bool,
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
        let configured = self.providers.get(provider).copied().unwrap_or_default();
        let of_provider = configured.max_parallel.filter(|_| !configured.of_fleet);
        let of_group = |name: &str| {
            let own = limits.groups.get(name).copied().or(limits.group);
            own.filter(|_| !limits.fleet_groups.contains_key(name))
        };
        let fleet = self.fleet_limits(group, provider);
        let slots = [
            limits.host.map(|limit| (Slot::Host, limit)),
            run_limit.or(limits.run).map(|limit| (Slot::Run(run.clone()), limit)),
            group.and_then(|name| Some((Slot::Group(name.to_owned()), of_group(name)?))),
            of_provider.map(|limit| (Slot::Provider(provider.to_owned()), limit)),
            // The last one: who waits for it has room at all others.
            (!fleet.is_empty()).then(|| (Slot::Fleet(fleet.into()), u32::MAX)),
        ];
        slots.into_iter().flatten().collect()
    }

    /// The limits of a call that hold for all hosts of a store together, by name.
    pub fn fleet_limits(&self, group: Option<&str>, provider: &str) -> Vec<(String, u32)> {
        let limits = &self.concurrency;
        let of_provider = self.providers.get(provider).filter(|policy| policy.of_fleet);
        let of_group = group.and_then(|name| Some((share::of_group(name), *limits.fleet_groups.get(name)?)));
        let fleet = [
            limits.fleet.map(|limit| (share::ALL.to_owned(), limit)),
            of_group,
            of_provider.and_then(|policy| Some((share::of_provider(provider), policy.max_parallel?))),
        ];
        fleet.into_iter().flatten().map(|(name, limit)| (name, limit.max(1))).collect()
    }

    /// Whether there is a rate that holds for all hosts of a store together.
    pub fn shares_rates(&self) -> bool {
        self.providers.values().any(|policy| policy.of_fleet && policy.rate.is_some())
    }

    /// How many calls of a provider may begin in a length of time.
    pub fn rate(&self, provider: &str) -> ProviderRate {
        let policy = self.providers.get(provider).copied().unwrap_or_default();
        ProviderRate { rate: policy.rate, of_fleet: policy.of_fleet }
    }
}
