//! Points in time and lengths of time.

use std::{
    fmt,
    ops::{Add, Sub},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::bindings::wfhost::workflow::context as host;

/// The virtual time of the run: the time of the latest event that the program has observed.
///
/// It is the same in every replay. It stands still while the program computes.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # async fn example() -> wfhost::Result<()> {
/// let tomorrow = wfhost::now() + Duration::from_secs(24 * 3600);
/// wfhost::sleep_until(tomorrow).await?;
/// # Ok(())
/// # }
/// ```
pub fn now() -> Timestamp {
    Timestamp::from_millis(host::now())
}

/// A point in time, in milliseconds since 1970-01-01 UTC.
///
/// In JSON it is that number. Arithmetic saturates.
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// use std::time::Duration;
/// use wfhost::Timestamp;
///
/// let start = Timestamp::from_millis(1_790_000_000_000);
/// assert_eq!(start.to_string(), "2026-09-21T14:13:20.000Z");
/// assert_eq!((start + Duration::from_secs(1)) - start, Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time that many milliseconds after 1970-01-01 UTC.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time elapsed since then; zero if that is in the future.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, length: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(millis(length)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, length: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(millis(length)))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// The same as [`Timestamp::since`].
    fn sub(self, earlier: Timestamp) -> Duration {
        self.since(earlier)
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become 1970.
    fn from(time: SystemTime) -> Self {
        Self(millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, in UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
        // for days since 1970-01-01 that are not negative.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

/// A duration in the host's unit, rounded up, so that a short duration does not become zero.
pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
        }
    }

    #[test]
    fn lengths_are_rounded_up_and_never_overflow() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_micros(2_001)), 3);
        assert_eq!(millis(Duration::MAX), u64::MAX);
        assert_eq!((Timestamp::from_millis(1) + Duration::MAX).as_millis(), u64::MAX);
    }

    #[test]
    fn in_json_it_is_a_number() {
        let time = Timestamp::from_millis(7);
        assert_eq!(serde_json::to_string(&time).unwrap(), "7");
        assert_eq!(serde_json::from_str::<Timestamp>("7").unwrap(), time);
    }
}
