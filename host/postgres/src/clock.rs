//! The time of the database, by which all hosts judge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wfhost_core::Timestamp;
use wfhost_store::Clock;

/// Samples of which the best is believed.
const SAMPLES: usize = 8;

/// The server's clock as seen from here; or another one, for tests.
#[derive(Debug)]
pub(crate) struct Time {
    fixed: Option<Arc<dyn Clock>>,
    began: Instant,
    samples: Mutex<Vec<Sample>>,
    /// The latest time that was told: it never goes back.
    told: AtomicU64,
}

/// What has to be added to the monotonic clock, in microseconds, and what it may be wrong by.
#[derive(Clone, Copy, Debug)]
struct Sample {
    offset: i64,
    error: Duration,
}

impl Time {
    pub fn new(fixed: Option<Arc<dyn Clock>>) -> Self {
        Self { fixed, began: Instant::now(), samples: Mutex::default(), told: AtomicU64::new(0) }
    }

    /// The server's clock showed `micros` at some moment between `asked` and now.
    pub fn saw(&self, asked: Instant, micros: i64) {
        let now = Instant::now();
        let error = now.duration_since(asked) / 2;
        let middle = asked.duration_since(self.began) + error;
        let offset = micros - i64::try_from(middle.as_micros()).unwrap_or(i64::MAX);
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        // The clock was set, or it is another server's: what was seen before says nothing.
        samples
            .retain(|old| old.offset.abs_diff(offset) < 1_000 + 2 * (old.error + error).as_micros() as u64);
        samples.push(Sample { offset, error });
        if samples.len() > SAMPLES {
            samples.remove(0);
        }
    }

    pub fn now(&self) -> Timestamp {
        if let Some(fixed) = &self.fixed {
            return fixed.now();
        }
        let best = {
            let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.iter().min_by_key(|sample| sample.error).copied()
        };
        let Some(best) = best else { return wfhost_store::SystemClock.now() };
        let since = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let now = u64::try_from((since + best.offset) / 1_000).unwrap_or(0);
        Timestamp(self.told.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// The time that the server is to take for its own; none if it is its own.
    pub fn set_now(&self) -> Option<i64> {
        self.fixed.as_ref().map(|clock| crate::args::millis(clock.now()))
    }

    /// The time on the server in so long; none if it is another clock by which it is to judge.
    pub fn server_in(&self, length: std::time::Duration) -> Option<i64> {
        let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        self.fixed.is_none().then(|| crate::args::millis(self.now()).saturating_add(length))
    }

    /// The same for what counts until when sessions last.
    pub fn set_ticks(&self) -> Option<i64> {
        self.fixed.as_ref().map(|clock| clock.ticks_ms() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_with_the_smallest_error_is_believed_and_time_never_goes_back() {
        let time = Time::new(None);
        let base = 1_800_000_000_000_000_i64;
        let now = Instant::now();
        time.saw(now - Duration::from_millis(80), base);
        time.saw(Instant::now(), base + 10_000);
        let first = time.now();
        assert!(first.0.abs_diff((base as u64 + 10_000) / 1_000) < 40, "{first:?}");
        // The clock of the server is set back: what was told stays until it has come there again.
        time.saw(Instant::now(), base - 5_000_000);
        assert!(time.now() >= first);
        // It is set forward: that holds at once.
        time.saw(Instant::now(), base + 60_000_000);
        assert!(time.now().0 >= first.0 + 50_000);
    }
}
