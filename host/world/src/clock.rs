//! The system clock, read in one place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wfhost_core::Timestamp;

/// A system clock that is off by more than this was set, or is wrong.
const TOLERATED: Duration = Duration::from_secs(1);
/// A clock that was set is believed when it has been off by the same for so long. One that is put right
/// before that was never wrong for us.
const BELIEVED_AFTER: Duration = Duration::from_secs(10);

/// The present time. It runs with the time since the machine was started, which
/// nobody sets, from where the system clock stood when it was read first; small
/// corrections of that are followed, large ones when they have lasted.
/// Before 1970 it is 1970.
pub fn now() -> Timestamp {
    static CLOCK: Mutex<Option<Anchored>> = Mutex::new(None);
    /// The millisecond of the machine in which the system clock was read last, counted from 1.
    static READ_IN: AtomicU64 = AtomicU64::new(0);
    static LATEST_MS: AtomicU64 = AtomicU64::new(0);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let running = since_start();
    let this = millis(running).saturating_add(1);
    if READ_IN.load(Ordering::Acquire) == this {
        return Timestamp(LATEST_MS.load(Ordering::Relaxed));
    }
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut clock = CLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let now = millis(clock.get_or_insert_with(|| Anchored::new(wall, running)).now(wall, running));
    LATEST_MS.store(now, Ordering::Relaxed);
    READ_IN.store(this, Ordering::Release);
    Timestamp(now)
}

/// The time since the machine was started, the time that it slept included.
fn since_start() -> Duration {
    #[cfg(target_os = "linux")]
    const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
    read(CLOCK)
}

/// The time since the machine was started in which it did not sleep. Nobody sets it, and all
/// processes of one boot and one time namespace see the same.
pub fn awake() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// By the C library, so that tools which stand in for the system see it.
fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the system writes to a structure of ours that outlives the call.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A clock that follows the system clock and is not misled by it.
#[derive(Debug)]
struct Anchored {
    /// What the system clock showed, and when.
    wall: Duration,
    running: Duration,
    /// The system clock was set: what it was off by, and since when.
    doubt: Option<(i128, Duration)>,
    last: Duration,
}

impl Anchored {
    fn new(wall: Duration, running: Duration) -> Self {
        Self { wall, running, doubt: None, last: wall }
    }

    /// The time, now that the system clock shows `wall` after so much `running`.
    fn now(&mut self, wall: Duration, running: Duration) -> Duration {
        let expected = self.wall + running.saturating_sub(self.running);
        let off = wall.as_nanos() as i128 - expected.as_nanos() as i128;
        let tolerated = TOLERATED.as_nanos() as i128;
        if off.abs() <= tolerated {
            // It drifts, or is adjusted little by little. Time does not go back for that.
            (self.wall, self.running, self.doubt) = (wall, running, None);
            self.last = self.last.max(wall);
            return self.last;
        }
        match self.doubt {
            Some((before, since)) if (off - before).abs() <= tolerated => {
                if running.saturating_sub(since) >= BELIEVED_AFTER {
                    *self = Self::new(wall, running);
                    return wall;
                }
            }
            _ => self.doubt = Some((off, running)),
        }
        self.last = self.last.max(expected);
        self.last
    }
}

/// A time as people and other programs read it: RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(at: Timestamp) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{} ms after 1970", at.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose system clock may be off.
    struct Machine {
        clock: Anchored,
        running: u64,
    }

    impl Machine {
        fn new() -> Self {
            let clock = Anchored::new(Duration::from_secs(1_000_000), Duration::from_secs(50));
            Self { clock, running: 0 }
        }

        /// After so many more milliseconds, with a system clock that is off by so many seconds, what
        /// the clock is off by in milliseconds.
        fn after(&mut self, millis: u64, off: i64) -> i64 {
            self.running += millis;
            let right = Duration::from_secs(1_000_000) + Duration::from_millis(self.running);
            let wall = Duration::from_millis((right.as_millis() as i64 + off * 1_000) as u64);
            let now = self.clock.now(wall, Duration::from_secs(50) + Duration::from_millis(self.running));
            now.as_millis() as i64 - right.as_millis() as i64
        }
    }

    #[test]
    fn a_clock_that_is_wrong_for_some_seconds_misleads_nobody() {
        for off in [600, -600, 86_400 * 365] {
            let mut machine = Machine::new();
            assert_eq!(machine.after(100, 0), 0);
            for _ in 0..70 {
                assert_eq!(machine.after(100, off), 0, "{off}");
            }
            for _ in 0..300 {
                assert_eq!(machine.after(100, 0), 0, "{off}");
            }
        }
    }

    #[test]
    fn a_clock_that_was_set_is_believed_when_it_lasts() {
        for off in [600, -600] {
            let mut machine = Machine::new();
            assert_eq!(machine.after(5_000, 0), 0);
            assert_eq!(machine.after(1, off), 0);
            assert_eq!(machine.after(9_000, off), 0);
            assert_eq!(machine.after(2_000, off), off * 1_000);
            // And put right the same way.
            assert_eq!(machine.after(1, 0), off * 1_000);
            assert_eq!(machine.after(11_000, 0), 0);
        }
    }

    #[test]
    fn a_clock_that_jumps_about_is_believed_never() {
        let mut machine = Machine::new();
        for turn in 0..100 {
            assert_eq!(machine.after(5_000, if turn % 2 == 0 { 100 } else { 5_000 }), 0);
        }
    }

    #[test]
    fn small_corrections_are_followed_and_time_does_not_go_back_for_them() {
        let mut clock = Anchored::new(Duration::from_secs(100), Duration::ZERO);
        let mut last = Duration::ZERO;
        let mut wall = 100_000;
        for step in 1..2_000_u64 {
            // Ten milliseconds of each second are taken away.
            wall += if step % 100 == 0 { 0 } else { 10 };
            let now = clock.now(Duration::from_millis(wall), Duration::from_millis(step * 10));
            assert!(now >= last);
            last = now;
        }
        assert_eq!(last.as_millis(), u128::from(wall));
    }

    #[test]
    fn the_system_s_clock_goes_on() {
        let before = now();
        assert!(now() >= before);
        assert!(before > Timestamp(1_700_000_000_000));
    }
}
