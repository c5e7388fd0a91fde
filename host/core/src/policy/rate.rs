//! How many calls may begin in a length of time.

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

/// A token bucket (the generic cell rate algorithm of ITU-T I.371): all its
/// state is one point in time, so it can be kept and shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    /// When the bucket will be full again, in microseconds since 1970.
    full_at_us: u64,
}

/// Whether a call may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It may; the bucket then is this.
    Go(Bucket),
    /// Not before this time.
    Wait(Timestamp),
}

impl Bucket {
    /// Asks for one call at `now`.
    pub fn take(self, rate: Rate, now: Timestamp) -> Decision {
        let interval_us = 60_000_000 / u64::from(rate.per_minute.max(1));
        let allowance_us = interval_us.saturating_mul(u64::from(rate.burst.max(1)));
        let now_us = now.0.saturating_mul(1_000);
        let full_at_us = self.full_at_us.max(now_us).saturating_add(interval_us);
        match full_at_us.checked_sub(now_us.saturating_add(allowance_us)) {
            None | Some(0) => Decision::Go(Self { full_at_us }),
            Some(early_us) => Decision::Wait(Timestamp(now.0.saturating_add(early_us.div_ceil(1_000)))),
        }
    }

    /// A bucket that gives nothing before `until`: the provider asked for it.
    #[must_use]
    pub fn blocked(self, rate: Rate, until: Timestamp) -> Self {
        let interval_us = 60_000_000 / u64::from(rate.per_minute.max(1));
        let burst = u64::from(rate.burst.max(1)).saturating_sub(1);
        let full_at_us = until.0.saturating_mul(1_000).saturating_add(interval_us.saturating_mul(burst));
        Self { full_at_us: self.full_at_us.max(full_at_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn go(bucket: Bucket, rate: Rate, at: u64) -> Bucket {
        match bucket.take(rate, Timestamp(at)) {
            Decision::Go(bucket) => bucket,
            Decision::Wait(until) => panic!("waits until {until:?}"),
        }
    }

    #[test]
    fn a_burst_goes_at_once_and_then_one_after_the_other() {
        let rate = Rate { per_minute: 60, burst: 2 };
        let bucket = go(go(Bucket::default(), rate, 10_000), rate, 10_000);
        assert_eq!(bucket.take(rate, Timestamp(10_000)), Decision::Wait(Timestamp(11_000)));
        let bucket = go(bucket, rate, 11_000);
        assert_eq!(bucket.take(rate, Timestamp(11_500)), Decision::Wait(Timestamp(12_000)));
    }

    #[test]
    fn a_provider_s_wish_blocks() {
        let rate = Rate { per_minute: 60, burst: 3 };
        let bucket = go(Bucket::default(), rate, 0).blocked(rate, Timestamp(30_000));
        assert_eq!(bucket.take(rate, Timestamp(1_000)), Decision::Wait(Timestamp(30_000)));
        go(bucket, rate, 30_000);
    }

    proptest! {
        #[test]
        fn no_minute_has_more_than_its_share(
            per_minute in 1_u32..200, burst in 1_u32..10, steps in prop::collection::vec(0_u64..2_000, 1..300),
        ) {
            let rate = Rate { per_minute, burst };
            let mut bucket = Bucket::default();
            let mut now = 1_000_000;
            let mut begun = Vec::new();
            for step in steps {
                now += step;
                match bucket.take(rate, Timestamp(now)) {
                    Decision::Go(next) => {
                        bucket = next;
                        begun.push(now);
                    }
                    Decision::Wait(until) => {
                        prop_assert!(until > Timestamp(now));
                        // Waiting exactly so long is enough.
                        prop_assert!(matches!(bucket.take(rate, until), Decision::Go(_)));
                    }
                }
            }
            for (i, from) in begun.iter().enumerate() {
                let within = begun[i..].iter().filter(|at| **at < from + 60_000).count();
                prop_assert!(within <= (per_minute + burst) as usize);
            }
        }
    }
}
