//! Limits that several hosts share: who gets the next free slot.

use std::collections::BTreeMap;

use super::rate::Rate;
use crate::{Epoch, RunId, Step, Timestamp};

/// What a host tells of the calls that need the same limits.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotAsk {
    /// The limits by name, each with the number of calls that it lets through, in one order for all hosts. A
    /// call needs a slot of each.
    pub limits: Vec<(String, u32)>,
    /// Calls under way.
    pub used: u32,
    /// With those that could begin if they had slots; at least `used`.
    pub wants: u32,
    /// How long the first of those that wait has waited, in milliseconds.
    pub waited_ms: u64,
    /// Some of the calls under way, as `RUN#STEP`.
    pub calls: Vec<String>,
    /// Some of those that wait.
    pub waiting: Vec<String>,
}

/// One thing that concerns the turns of a rate. Calls are told apart by run and step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TurnWord {
    /// A call would like to begin.
    Pass { name: String, rate: Rate, run: RunId, step: Step },
    /// It does not wait any more, says who has the run under that epoch. Whoever has it under a later one finds the
    /// turn, also if this is heard late.
    Release { name: String, run: RunId, step: Step, epoch: Epoch },
    /// No call of the run waits any more.
    ReleaseRun { run: RunId },
    /// Nobody is to begin for so long.
    Block { name: String, rate: Rate, millis: u64 },
}

/// The name of the limit of all calls together.
pub const ALL: &str = "all";

/// The name of the limit of a group of calls.
pub fn of_group(group: &str) -> String {
    format!("group:{group}")
}

/// The name of the limit of a provider.
pub fn of_provider(provider: &str) -> String {
    format!("provider:{provider}")
}

/// What a limit is about, as people are told.
pub fn spell(name: &str) -> String {
    match name.split_once(':') {
        Some((kind, name)) => format!("the {kind} {name}"),
        None => "all providers".to_owned(),
    }
}

/// What one host needs for the calls that need the same limits.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Need {
    /// The limits by name, each with the number of calls that it lets through. A call needs a slot of each.
    pub limits: Vec<(String, u32)>,
    /// Slots that the host has of each of them.
    pub has: u32,
    /// Slots that it could use.
    pub wants: u32,
    /// When its oldest waiting call began to wait.
    pub since: Timestamp,
}

impl Need {
    /// Whether it waits for slots.
    pub fn waits(&self) -> bool {
        self.has < self.wants
    }
}

/// Slots in use, by the name of the limit.
pub fn used<'a>(needs: impl IntoIterator<Item = &'a Need>) -> BTreeMap<String, u32> {
    let mut used = BTreeMap::new();
    for need in needs {
        for (name, _) in &need.limits {
            let slots: &mut u32 = used.entry(name.clone()).or_default();
            *slots = slots.saturating_add(need.has);
        }
    }
    used
}

/// Gives out what is free at `now`: to those who have waited longest, one slot to each in turn. Nobody is
/// held up by one who waits for another limit. Returns the places of those who were given something.
///
/// The order of `needs` decides between those who have waited equally long.
pub fn share(needs: &mut [Need], now: Timestamp) -> Vec<usize> {
    let mut used = used(needs.iter());
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|place| needs.get(*place).map(|need| need.since));
    let mut given = Vec::new();
    loop {
        let before = given.len();
        for place in &order {
            let Some(need) = needs.get_mut(*place).filter(|need| need.waits()) else { continue };
            let is_full = |(name, limit): &(String, u32)| used.get(name).is_some_and(|used| used >= limit);
            if need.limits.iter().any(is_full) {
                continue;
            }
            for (name, _) in &need.limits {
                *used.entry(name.clone()).or_default() += 1;
            }
            need.has += 1;
            // The host says how long its next call has waited when it hears of this.
            need.since = now;
            given.push(*place);
        }
        if given.len() == before {
            break;
        }
    }
    given.sort_unstable();
    given.dedup();
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(limits: &[(&str, u32)], has: u32, wants: u32, since: u64) -> Need {
        let limits = limits.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
        Need { limits, has, wants, since: Timestamp(since) }
    }

    #[test]
    fn the_longest_wait_ends_first_and_then_all_take_turns() {
        let mut needs =
            [need(&[("a", 3)], 0, 5, 20), need(&[("a", 3)], 0, 1, 30), need(&[("a", 3)], 0, 9, 10)];
        assert_eq!(share(&mut needs, Timestamp(40)), [0, 1, 2]);
        assert_eq!(needs.each_ref().map(|need| need.has), [1, 1, 1]);
        // One slot is free again: those that were given one have waited since then.
        needs[2].has = 0;
        needs[2].since = Timestamp(50);
        assert_eq!(share(&mut needs, Timestamp(60)), [0]);
    }

    #[test]
    fn one_who_waits_for_another_limit_holds_nobody_up() {
        let mut needs =
            [need(&[("a", 1)], 1, 1, 0), need(&[("a", 1), ("b", 1)], 0, 1, 1), need(&[("b", 1)], 0, 1, 2)];
        assert_eq!(share(&mut needs, Timestamp(9)), [2]);
        needs[0].has = 0;
        needs[0].wants = 0;
        assert_eq!(share(&mut needs, Timestamp(9)), [0; 0]);
        needs[2].has = 0;
        needs[2].wants = 0;
        assert_eq!(share(&mut needs, Timestamp(9)), [1]);
    }

    fn needs() -> impl Strategy<Value = Vec<Need>> {
        let limits = prop::sample::subsequence(vec![("a", 1), ("b", 2), ("c", 7)], 1..=3);
        let one = (limits, 0_u32..3, 0_u32..9, 0_u64..50)
            .prop_map(|(limits, has, more, since)| need(&limits, has, has + more, since));
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn nothing_is_exceeded_and_nothing_lies_idle(mut needs in needs()) {
            let before = used(&needs);
            let had: Vec<u32> = needs.iter().map(|need| need.has).collect();
            share(&mut needs, Timestamp(99));
            let after = used(&needs);
            for (need, had) in needs.iter().zip(had) {
                prop_assert!(need.has >= had && need.has <= need.wants);
                for (name, limit) in &need.limits {
                    prop_assert!(after[name] <= (*limit).max(before[name]));
                }
                let has_room = need.limits.iter().all(|(name, limit)| after[name] < *limit);
                prop_assert!(!need.waits() || !has_room);
            }
        }
    }
}
