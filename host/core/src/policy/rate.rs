//! How many calls may begin in a length of time, and when each has its turn.

use std::collections::BTreeSet;

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
    fn interval_us(self) -> u64 {
        60_000_000 / u64::from(self.per_minute.max(1))
    }

    /// How much of the rate may be used at once, as a length of time.
    fn allowance_us(self) -> u64 {
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
    full_at_us: u64,
    /// On the same clock.
    at_us: u64,
    /// How much of the bucket it takes.
    interval_us: u64,
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
    full_at_us: u64,
    /// By how much the clock of the turns is behind that of the world.
    behind_us: i128,
    /// The end of the last block, in microseconds since 1970.
    blocked_until_us: u64,
    /// The latest time that was asked for.
    seen_us: u64,
    /// Turns that nobody wants any more, and that are not the last ones.
    returned: BTreeSet<Turn>,
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
            // One that was given back and has passed is lost.
            if turn.at_us >= earliest_us {
                return turn;
            }
        }
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
        let allowance_us = rate.map_or(0, Rate::allowance_us);
        let late_us = allowance_us.clamp(LATE_US, LATE_AT_MOST_US);
        self.at(turn).after(late_us / 1_000) < now
    }

    /// Gives back a turn that was not made use of. Those who got later ones keep them.
    pub fn give_back(&mut self, turn: Turn) {
        if turn.interval_us == 0 {
            return;
        }
        self.returned.insert(turn);
        // The last ones have nobody behind them.
        while let Some(last) = self.returned.last().copied()
            && last.full_at_us == self.full_at_us
        {
            self.returned.pop_last();
            self.full_at_us = last.full_at_us.saturating_sub(last.interval_us);
        }
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
        fn nothing_overflows(per_minute: u32, burst: u32, times in prop::collection::vec(any::<u64>(), 1..20)) {
            let rate = Some(Rate { per_minute, burst });
            let mut turns = Turns::default();
            for pair in times.windows(2) {
                let turn = turns.take(rate, Timestamp(pair[0]));
                turns.block(rate, Timestamp(pair[0]), Timestamp(pair[1]));
                turns.at(turn);
                turns.has_lapsed(turn, rate, Timestamp(pair[1]));
                turns.give_back(turn);
            }
        }
    }
}
