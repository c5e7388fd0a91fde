//! How many calls may begin in a length of time, and when each has its turn.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;

/// At most so many calls in a minute, evenly refilled, with bursts of up to
/// `burst` calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Greater than 0.
    pub per_minute: u32,
    /// Greater than 0.
    pub burst: u32,
}

impl Rate {
    /// The time from one call to the next.
    pub fn interval_us(self) -> u64 {
        60_000_000 / u64::from(self.per_minute.max(1))
    }

    /// How much of the rate may be used at once, as a length of time.
    pub fn allowance_us(self) -> u64 {
        self.interval_us().saturating_mul(u64::from(self.burst.max(1)))
    }
}

/// After a provider asked to be left alone, calls to one without a rate begin
/// at this pace, so that those that waited do not run into the next refusal together.
const AFTER_BLOCK: Rate = Rate { per_minute: 600, burst: 1 };
/// How long that pace is kept after the end of the block, in microseconds.
const PACED_US: u64 = 30_000_000;
/// A turn may be used this much later, in microseconds, before it lapses.
const LATE_US: u64 = 5_000_000;
const LATE_AT_MOST_US: u64 = 60_000_000;
/// Calls that ask at the same time may see it so much apart, in microseconds.
const SET_BACK_US: u64 = 1_000_000;

/// The turn of one call: when it may begin. Given out by [`Turns::take`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Turn {
    /// When the bucket is full again behind it, on the clock of the turns. Unique among turns.
    pub full_at_us: u64,
    /// On the same clock.
    pub at_us: u64,
    /// How much of the bucket it takes.
    pub interval_us: u64,
}

/// The turns at a provider, in the order of asking. A token bucket (the
/// generic cell rate algorithm of ITU-T I.371) whose tokens are given out
/// ahead: the k-th call that has to wait gets the k-th token and knows its
/// time at once.
///
/// The bucket runs on a clock of its own, which stands still while the provider
/// asks to be left alone. So a block moves all turns that were given out, and
/// changes neither their order nor their distances.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Turns {
    /// When the bucket will be full again.
    pub full_at_us: u64,
    /// By how much the clock of the turns is behind that of the world.
    pub behind_us: i128,
    /// The end of the last block, in microseconds since 1970.
    pub blocked_until_us: u64,
    /// The latest time that was asked for.
    pub seen_us: u64,
    /// Turns that nobody wants any more, and that are not the last ones.
    pub returned: BTreeSet<Turn>,
}

impl Turns {
    /// The next free turn for a call that asks at `now`. It may be now.
    pub fn take(&mut self, rate: Option<Rate>, now: Timestamp) -> Turn {
        self.see(now);
        let earliest_us = self.earliest_us(now);
        let Some(rate) = rate.or_else(|| self.pace(now)) else {
            return Turn { full_at_us: 0, at_us: earliest_us, interval_us: 0 };
        };
        while let Some(turn) = self.returned.pop_first() {
            if !self.has_passed(turn, now) {
                return turn;
            }
        }
        self.take_last(rate, now)
    }

    /// Whether a turn that was given back is lost: nobody can be in time for it.
    pub fn has_passed(&self, turn: Turn, now: Timestamp) -> bool {
        turn.at_us < self.earliest_us(now)
    }

    /// The turn behind all that were given out, for a call that asks at `now`.
    pub fn take_last(&mut self, rate: Rate, now: Timestamp) -> Turn {
        let earliest_us = self.earliest_us(now);
        let interval_us = rate.interval_us();
        let full_at_us = self.full_at_us.max(earliest_us).saturating_add(interval_us);
        self.full_at_us = full_at_us;
        let at_us = full_at_us.saturating_sub(rate.allowance_us()).max(earliest_us);
        Turn { full_at_us, at_us, interval_us }
    }

    /// When a turn is, after all blocks until now.
    pub fn at(&self, turn: Turn) -> Timestamp {
        let at_us = (i128::from(turn.at_us) + self.behind_us).max(0);
        Timestamp(u64::try_from(at_us).unwrap_or(u64::MAX).div_ceil(1_000))
    }

    /// Whether it is too late for a turn: late calls that all went at once would be too many.
    pub fn has_lapsed(&self, turn: Turn, rate: Option<Rate>, now: Timestamp) -> bool {
        self.at(turn).after(late_us(rate) / 1_000) < now
    }

    /// Turns of this rate that have lapsed are full at this time or before, on the clock of the turns: behind it none
    /// has to be looked for.
    pub fn lapsed_until_us(&self, rate: Rate, now: Timestamp) -> u64 {
        let until_us = self.of_turns(micros(now)).saturating_sub(late_us(Some(rate)));
        until_us.saturating_add(rate.allowance_us())
    }

    /// Gives back a turn that was not made use of. Those who got later ones keep them.
    pub fn give_back(&mut self, turn: Turn) {
        if turn.interval_us == 0 {
            return;
        }
        self.returned.insert(turn);
        while let Some(last) = self.returned.last().copied()
            && self.take_back(last)
        {
            self.returned.pop_last();
        }
    }

    /// Takes back a turn that nobody wants, if nobody has one behind it. Whether it was so.
    pub fn take_back(&mut self, turn: Turn) -> bool {
        let is_last = turn.full_at_us == self.full_at_us;
        if is_last {
            self.full_at_us = turn.full_at_us.saturating_sub(turn.interval_us);
        }
        is_last
    }

    /// The provider asks to be left alone until then: no turn is before, and
    /// then they go on one by one.
    pub fn block(&mut self, rate: Option<Rate>, now: Timestamp, until: Timestamp) {
        self.see(now);
        let (now_us, until_us) = (micros(now), micros(until));
        let from_us = now_us.max(self.blocked_until_us);
        if until_us <= from_us {
            return;
        }
        self.behind_us += i128::from(until_us - from_us);
        self.blocked_until_us = until_us;
        let rate = rate.unwrap_or(AFTER_BLOCK);
        let used_us = rate.allowance_us().saturating_sub(rate.interval_us());
        self.full_at_us = self.full_at_us.max(self.of_turns(until_us).saturating_add(used_us));
    }

    /// Whether a call may begin at `now` without a turn.
    pub fn is_open(&self, rate: Option<Rate>, now: Timestamp) -> bool {
        rate.or_else(|| self.pace(now)).is_none()
    }

    /// The pace of calls to a provider without a rate.
    fn pace(&self, now: Timestamp) -> Option<Rate> {
        let paced = self.blocked_until_us > 0 && micros(now) < self.blocked_until_us.saturating_add(PACED_US);
        paced.then_some(AFTER_BLOCK)
    }

    /// The earliest time of a turn that is asked for now, on the clock of the turns.
    fn earliest_us(&self, now: Timestamp) -> u64 {
        self.of_turns(micros(now).max(self.blocked_until_us))
    }

    /// A time of the world on the clock of the turns.
    fn of_turns(&self, at_us: u64) -> u64 {
        u64::try_from((i128::from(at_us) - self.behind_us).max(0)).unwrap_or(u64::MAX)
    }

    /// Time is so far. If that is before what it was, the clock was put right: turns keep
    /// their distance to now.
    pub fn see(&mut self, now: Timestamp) {
        let now_us = micros(now);
        let back_us = self.seen_us.saturating_sub(now_us);
        if back_us <= SET_BACK_US {
            self.seen_us = self.seen_us.max(now_us);
            return;
        }
        self.behind_us -= i128::from(back_us);
        self.blocked_until_us = self.blocked_until_us.saturating_sub(back_us);
        self.seen_us = now_us;
    }
}

/// The turns at one provider that were given to calls which are to come again, by what tells these apart.
#[derive(Clone, Debug)]
pub struct Queue<K> {
    turns: Turns,
    held: BTreeMap<K, Turn>,
    in_order: BTreeSet<(Turn, K)>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { turns: Turns::default(), held: BTreeMap::new(), in_order: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Whether a call may begin at `now`; else when its turn is. It keeps its turn until it comes back.
    pub fn pass(&mut self, call: &K, rate: Option<Rate>, now: Timestamp) -> Result<(), Timestamp> {
        self.turns.see(now);
        // Those who did not come.
        while let Some((turn, _)) = self.in_order.first()
            && self.turns.has_lapsed(*turn, rate, now)
            && let Some((_, call)) = self.in_order.pop_first()
        {
            self.held.remove(&call);
        }
        let turn = match self.held.get(call) {
            Some(turn) => *turn,
            None if self.turns.is_open(rate, now) => return Ok(()),
            None => self.turns.take(rate, now),
        };
        let at = self.turns.at(turn);
        if at > now {
            self.held.insert(call.clone(), turn);
            self.in_order.insert((turn, call.clone()));
            return Err(at);
        }
        self.forget(call);
        Ok(())
    }

    fn forget(&mut self, call: &K) -> Option<Turn> {
        let turn = self.held.remove(call)?;
        self.in_order.remove(&(turn, call.clone()));
        Some(turn)
    }

    /// A call does not wait for its turn any more.
    pub fn release(&mut self, call: &K) {
        if let Some(turn) = self.forget(call) {
            self.turns.give_back(turn);
        }
    }

    /// Does the same for several calls, which costs least when the last ones come first.
    pub fn release_from(&mut self, first: &K, is_meant: impl Fn(&K) -> bool) {
        let meant = self.held.range(first..).map(|(call, _)| call).take_while(|call| is_meant(call));
        let meant: Vec<K> = meant.cloned().collect();
        for call in meant.iter().rev() {
            self.release(call);
        }
    }

    /// The provider asks to be left alone until then.
    pub fn block(&mut self, rate: Option<Rate>, now: Timestamp, until: Timestamp) {
        self.turns.block(rate, now, until);
    }

    /// How many calls have turns that they wait for, and when the first of these is.
    pub fn waiting(&self) -> (usize, Option<Timestamp>) {
        (self.held.len(), self.in_order.first().map(|(turn, _)| self.turns.at(*turn)))
    }
}

/// How much later a turn may be used.
fn late_us(rate: Option<Rate>) -> u64 {
    rate.map_or(0, Rate::allowance_us).clamp(LATE_US, LATE_AT_MOST_US)
}

fn micros(at: Timestamp) -> u64 {
    at.0.saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIX: Option<Rate> = Some(Rate { per_minute: 6, burst: 1 });

    fn take(turns: &mut Turns, rate: Option<Rate>, now: u64) -> u64 {
        let turn = turns.take(rate, Timestamp(now));
        turns.at(turn).0
    }

    #[test]
    fn a_burst_goes_at_once_and_then_each_has_the_next_turn() {
        let rate = Some(Rate { per_minute: 60, burst: 2 });
        let mut turns = Turns::default();
        let at: Vec<_> = (0..5).map(|_| take(&mut turns, rate, 10_000)).collect();
        assert_eq!(at, [10_000, 10_000, 11_000, 12_000, 13_000]);
        assert_eq!(take(&mut turns, rate, 60_000), 60_000);
    }

    #[test]
    fn turns_that_are_given_back_are_given_out_again() {
        let mut turns = Turns::default();
        let now = Timestamp(0);
        let all: Vec<_> = (0..5).map(|_| turns.take(SIX, now)).collect();
        assert_eq!(turns.at(all[4]), Timestamp(40_000));
        turns.give_back(all[2]);
        assert_eq!(turns.take(SIX, now), all[2]);
        assert_eq!(take(&mut turns, SIX, 0), 50_000);
        // All that wait go away: the bucket is as if they had not come.
        let mut turns = Turns::default();
        let all: Vec<_> = (0..100).map(|_| turns.take(SIX, now)).collect();
        for turn in all.into_iter().skip(1) {
            turns.give_back(turn);
        }
        assert_eq!(take(&mut turns, SIX, 0), 10_000);
        // One whose time has passed is lost.
        let mut turns = Turns::default();
        let all: Vec<_> = (0..3).map(|_| turns.take(SIX, now)).collect();
        turns.give_back(all[1]);
        assert_eq!(take(&mut turns, SIX, 15_000), 30_000);
    }

    #[test]
    fn a_block_moves_all_turns_and_keeps_their_order() {
        let mut turns = Turns::default();
        let all: Vec<_> = (0..4).map(|_| turns.take(SIX, Timestamp(1_000))).collect();
        turns.block(SIX, Timestamp(5_000), Timestamp(35_000));
        let at: Vec<_> = all.iter().map(|turn| turns.at(*turn).0).collect();
        assert_eq!(at[1..], [41_000, 51_000, 61_000]);
        assert_eq!(take(&mut turns, SIX, 5_000), 71_000);
        // A shorter wish changes nothing, a longer one adds what is new.
        turns.block(SIX, Timestamp(6_000), Timestamp(20_000));
        assert_eq!(turns.at(all[1]).0, 41_000);
        turns.block(SIX, Timestamp(6_000), Timestamp(36_000));
        assert_eq!(turns.at(all[1]).0, 42_000);
    }

    #[test]
    fn after_a_block_no_burst_follows() {
        for rate in [Some(Rate { per_minute: 60, burst: 5 }), None] {
            let mut turns = Turns::default();
            assert_eq!(take(&mut turns, rate, 1_000), 1_000);
            turns.block(rate, Timestamp(2_000), Timestamp(32_000));
            let at: Vec<_> = (0..3).map(|_| take(&mut turns, rate, 3_000)).collect();
            let interval = rate.map_or(100, |_| 1_000);
            assert!(at[0] >= 32_000 && at[0] <= 33_000, "{at:?}");
            assert_eq!([at[1] - at[0], at[2] - at[1]], [interval; 2]);
        }
        let mut turns = Turns::default();
        turns.block(None, Timestamp(0), Timestamp(1_000));
        assert!(!turns.is_open(None, Timestamp(2_000)));
        assert!(turns.is_open(None, Timestamp(70_000)));
    }

    #[test]
    fn a_clock_that_is_put_right_holds_up_nobody() {
        let mut turns = Turns::default();
        let ahead = 600_000;
        turns.block(SIX, Timestamp(ahead), Timestamp(ahead + 1_000));
        let all: Vec<_> = (0..3).map(|_| turns.take(SIX, Timestamp(ahead + 1_000))).collect();
        turns.see(Timestamp(2_000));
        assert_eq!(turns.at(all[2]).0, 22_000);
        assert_eq!(take(&mut turns, SIX, 2_000), 32_000);
    }

    #[test]
    fn a_turn_that_is_long_over_lapses() {
        let mut turns = Turns::default();
        let turn = turns.take(SIX, Timestamp(0));
        assert!(!turns.has_lapsed(turn, SIX, Timestamp(10_000)));
        assert!(turns.has_lapsed(turn, SIX, Timestamp(10_001)));
        turns.block(SIX, Timestamp(0), Timestamp(60_000));
        assert!(!turns.has_lapsed(turn, SIX, Timestamp(60_000)));
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_its_share(
            per_minute in 1_u32..200, burst in 1_u32..10, steps in prop::collection::vec(0_u64..2_000, 1..300),
        ) {
            let rate = Some(Rate { per_minute, burst });
            let mut turns = Turns::default();
            let mut now = 1_000_000;
            let mut begun = Vec::new();
            for step in steps {
                now += step;
                let at = take(&mut turns, rate, now);
                prop_assert!(at >= now);
                prop_assert!(begun.last().is_none_or(|last| *last <= at), "in the order of asking");
                begun.push(at);
            }
            for (i, from) in begun.iter().enumerate() {
                let within = begun[i..].iter().filter(|at| **at < from + 60_000).count();
                prop_assert!(within <= (per_minute + burst) as usize);
            }
        }

        #[test]
        fn what_has_lapsed_is_found(
            per_minute in 1_u32..2_000, burst in 1_u32..400, steps in prop::collection::vec(0_u64..90_000, 1..40),
        ) {
            let rate = Rate { per_minute, burst };
            let mut turns = Turns::default();
            let (mut now, mut given) = (1_000_000, Vec::new());
            for step in steps {
                now += step;
                turns.block(Some(rate), Timestamp(now), Timestamp(now + step % 7));
                given.push(turns.take(Some(rate), Timestamp(now)));
                let until_us = turns.lapsed_until_us(rate, Timestamp(now));
                let lapsed = given.iter().filter(|turn| turns.has_lapsed(**turn, Some(rate), Timestamp(now)));
                prop_assert!(lapsed.into_iter().all(|turn| turn.full_at_us <= until_us));
            }
        }

        #[test]
        fn nothing_overflows(per_minute: u32, burst: u32, times in prop::collection::vec(any::<u64>(), 1..20)) {
            let rate = Some(Rate { per_minute, burst });
            let mut turns = Turns::default();
            for pair in times.windows(2) {
                let turn = turns.take(rate, Timestamp(pair[0]));
                turns.block(rate, Timestamp(pair[0]), Timestamp(pair[1]));
                turns.at(turn);
                turns.has_lapsed(turn, rate, Timestamp(pair[1]));
                turns.lapsed_until_us(Rate { per_minute, burst }, Timestamp(pair[1]));
                turns.give_back(turn);
            }
        }
    }
}
