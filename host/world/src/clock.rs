//! The system clock, read in one place.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wfhost_core::Timestamp;

/// The present time. It never goes back within a process: if the system clock
/// is set back, time goes on from where it was, so that deadlines, which count
/// from earlier entries, are not put off. Before 1970 it is 1970.
pub fn now() -> Timestamp {
    static BEGINNING: OnceLock<(Instant, Duration)> = OnceLock::new();
    /// The millisecond since the beginning in which the wall clock was read last, counted from 1.
    static READ_IN: AtomicU64 = AtomicU64::new(0);
    static LATEST_MS: AtomicU64 = AtomicU64::new(0);
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (began, at) = BEGINNING.get_or_init(|| (Instant::now(), wall()));
    let elapsed = began.elapsed();
    let this = millis(elapsed).saturating_add(1);
    if READ_IN.load(Ordering::Acquire) == this {
        return Timestamp(LATEST_MS.load(Ordering::Relaxed));
    }
    // The wall clock leads when it was set forward or the machine slept.
    let now = millis(wall().max(*at + elapsed));
    let now = LATEST_MS.fetch_max(now, Ordering::Relaxed).max(now);
    READ_IN.store(this, Ordering::Release);
    Timestamp(now)
}

/// A time as people and other programs read it: RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{} ms after 1970", at.0),
    }
}
