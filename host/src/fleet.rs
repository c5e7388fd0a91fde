//! Limits of agent calls that hold for all hosts of a store, as people are told of them.

use std::collections::BTreeMap;

use wfhost_core::policy::share::spell;
use wfhost_core::{RunId, Step};
use wfhost_store::{RunInfo, SlotShare};

/// How one limit is used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// What it lets through at a time, by those who ask for most.
    pub limit: u32,
    /// Slots that hosts have.
    pub used: u32,
    /// Calls that wait for one, as far as nothing else holds them up.
    pub waiting: u32,
    /// Slots by machine and process.
    pub holders: BTreeMap<(String, u32), u32>,
}

/// How all limits are used that somebody needs, by name.
pub fn usage(shares: &[SlotShare]) -> BTreeMap<&str, Usage> {
    let mut limits: BTreeMap<&str, Usage> = BTreeMap::new();
    for share in shares {
        for (name, limit) in &share.need.limits {
            let usage = limits.entry(name).or_default();
            usage.limit = usage.limit.max(*limit);
            usage.used += share.need.has;
            usage.waiting += share.need.wants.saturating_sub(share.need.has);
            if share.need.has > 0 {
                let owner = (share.owner.host.clone(), share.owner.pid);
                *usage.holders.entry(owner).or_default() += share.need.has;
            }
        }
    }
    limits
}

impl Usage {
    /// Who has how many slots.
    pub fn spell_holders(&self) -> String {
        let holders = self.holders.iter().map(|((host, pid), slots)| {
            let calls = if *slots == 1 { "call" } else { "calls" };
            format!("{slots} {calls} on {host} (process {pid})")
        });
        holders.collect::<Vec<_>>().join(", ")
    }
}

/// Whether a call of a host waits for a slot, by its name `RUN#STEP`. The first ones that wait may have begun since
/// the host told of them.
fn waits(share: &SlotShare, is_meant: impl Fn(&str) -> bool) -> bool {
    let begun = share.need.has.saturating_sub(share.used) as usize;
    share.need.waits() && share.waiting.iter().skip(begun).any(|who| is_meant(who))
}

/// The limits that hold up a call for which `share` waits.
fn full<'a>(share: &'a SlotShare, usage: &BTreeMap<&str, Usage>) -> Vec<(&'a str, u32)> {
    let limits = share.need.limits.iter().map(|(name, limit)| (name.as_str(), *limit));
    limits.filter(|(name, limit)| usage.get(name).is_some_and(|usage| usage.used >= *limit)).collect()
}

/// Why a call of a run has not begun, if it waits for a slot that other calls of the fleet have.
pub(crate) fn holds_up(shares: &[SlotShare], run: &RunId, step: Step) -> Option<String> {
    let who = format!("{run}#{step}");
    let share = shares.iter().find(|share| waits(share, |waiting| waiting == who))?;
    let usage = usage(shares);
    let full = full(share, &usage).into_iter().filter_map(|(name, limit)| {
        let calls = if limit == 1 { "call" } else { "calls" };
        let holders = usage.get(name)?.spell_holders();
        Some(format!("a slot of {} (fleet), {limit} {calls} at a time: {holders}", spell(name)))
    });
    Some(full.collect::<Vec<_>>().join("; and for ")).filter(|text| !text.is_empty())
}

/// What a run waits for, if one of its calls waits for a slot that other calls of the fleet have, in a few words.
pub fn waits_for_slot(shares: &[SlotShare], info: &RunInfo) -> Option<String> {
    let session = info.lease.as_ref()?.id;
    let own = shares.iter().filter(|share| share.session == session);
    let is_own = |who: &str| who.rsplit_once('#').is_some_and(|(run, _)| run == info.id.as_str());
    let share = own.into_iter().find(|share| waits(share, is_own))?;
    let (name, _) = *full(share, &usage(shares)).first()?;
    Some(format!("a slot of {} (fleet)", spell(name)))
}

#[cfg(test)]
mod tests {
    use wfhost_core::Timestamp;
    use wfhost_core::policy::share::Need;
    use wfhost_store::{Owner, SessionId};

    use super::*;

    fn share(session: u64, has: u32, wants: u32, waiting: &[&str]) -> SlotShare {
        let limits = vec![("group:g".to_owned(), 9), ("provider:p".to_owned(), 2)];
        SlotShare {
            session: SessionId(session),
            owner: Owner { host: format!("host{session}"), realm: String::new(), pid: 7, started: 1 },
            need: Need { limits, has, wants, since: Timestamp(0) },
            used: has,
            calls: Vec::new(),
            waiting: waiting.iter().map(|who| (*who).to_owned()).collect(),
        }
    }

    #[test]
    fn a_call_that_waits_is_told_who_has_the_slots() {
        let run: RunId = "r".parse().unwrap();
        let shares = [share(1, 1, 1, &[]), share(2, 1, 3, &["r#1", "s#1"])];
        let text = holds_up(&shares, &run, Step(1)).unwrap();
        assert_eq!(
            text,
            "a slot of the provider p (fleet), 2 calls at a time: 1 call on host1 (process 7), 1 call on host2 \
             (process 7)"
        );
        assert_eq!(holds_up(&shares, &run, Step(2)), None);
        // It was given one since.
        let given = SlotShare { used: 0, ..share(2, 1, 2, &["r#1", "s#1"]) };
        let shares = [share(1, 1, 1, &[]), given];
        assert_eq!(holds_up(&shares, &run, Step(1)), None);
        assert!(holds_up(&shares, &"s".parse().unwrap(), Step(1)).is_some());
    }
}
