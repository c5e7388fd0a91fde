//! How an agent call is repeated, and how long it may take.

use std::time::Duration;

use crate::{bindings::wfhost::workflow::agent as host, error::Error, failure::FailureKind, time::millis};

/// When and how often a failed attempt is retried.
///
/// The number of attempts and the time of the next one survive crashes of the host.
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// use std::time::Duration;
/// use wfhost::Retry;
///
/// let patient = Retry::attempts(8)
///     .initial(Duration::from_secs(2))
///     .factor(3.0)
///     .max(Duration::from_secs(600))
///     .fatal(["authentication"]);
/// let once = Retry::never();
/// # let _ = (patient, once);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Retry {
    max_attempts: u32,
    initial: Duration,
    factor: f32,
    max: Duration,
    jitter: f32,
    fatal: Vec<String>,
}

impl Retry {
    /// This many attempts in total, including the first one. The delay before the second attempt is
    /// 1 second; it doubles for each further one, up to a minute, and varies by up to a tenth.
    pub fn attempts(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(60),
            jitter: 0.1,
            fatal: Vec::new(),
        }
    }

    /// One attempt.
    pub fn never() -> Self {
        Self::attempts(1)
    }

    /// The delay before the second attempt.
    #[must_use]
    pub fn initial(mut self, delay: Duration) -> Self {
        self.initial = delay;
        self
    }

    /// Each further delay is this many times longer.
    #[must_use]
    pub fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// The longest delay.
    #[must_use]
    pub fn max(mut self, delay: Duration) -> Self {
        self.max = delay;
        self
    }

    /// Each delay varies by up to this fraction, from 0 to 1.
    #[must_use]
    pub fn jitter(mut self, fraction: f32) -> Self {
        self.jitter = fraction;
        self
    }

    /// Kinds of failure that are not retried.
    #[must_use]
    pub fn fatal(mut self, kinds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.fatal = kinds.into_iter().map(Into::into).collect();
        self
    }
}

impl Retry {
    /// Whether the policy allows another attempt after the `attempt`-th (from 1) failed with this
    /// error. The rules are the host's rules for agent calls.
    pub(crate) fn allows_another(&self, attempt: u32, error: &Error) -> bool {
        let kind = error.kind();
        let never =
            matches!(kind, FailureKind::Cancelled | FailureKind::Rejected | FailureKind::BudgetExceeded);
        let reason = error.failure().and_then(|failure| failure.details.as_ref()?["reason"].as_str());
        let fatal = self.fatal.iter().any(|fatal| {
            fatal.eq_ignore_ascii_case(kind.as_str())
                || reason.is_some_and(|reason| fatal.eq_ignore_ascii_case(reason))
        });
        attempt < self.max_attempts && !never && !fatal
    }

    /// The delay after the `attempt`-th attempt (from 1), varied by a random number.
    pub(crate) fn delay(&self, attempt: u32, random: u64) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let max = self.max.as_secs_f64();
        let grown = self.initial.as_secs_f64() * f64::from(self.factor).max(0.0).powi(exponent);
        // Nothing times infinity is no number, and means no delay.
        let capped = if grown.is_nan() { 0.0 } else { grown.min(max) };
        // 53 bits, as many as a float holds, make a number from -1 to 1.
        let unit = 2.0 * ((random >> 11) as f64 / (1_u64 << 53) as f64) - 1.0;
        let varied = capped * (1.0 + f64::from(self.jitter).clamp(0.0, 1.0) * unit);
        Duration::try_from_secs_f64(varied.min(max)).unwrap_or(self.max)
    }
}

impl From<Retry> for host::Retry {
    fn from(retry: Retry) -> Self {
        Self {
            max_attempts: retry.max_attempts,
            initial: millis(retry.initial),
            factor: retry.factor,
            max: millis(retry.max),
            jitter: retry.jitter,
            fatal: retry.fatal,
        }
    }
}

/// Time limits of an agent call. The host stops what exceeds them.
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// use std::time::Duration;
/// use wfhost::Limits;
///
/// let limits = Limits::new()
///     .attempt(Duration::from_secs(120))
///     .total(Duration::from_secs(900))
///     .heartbeat(Duration::from_secs(30));
/// # let _ = limits;
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    attempt: Option<Duration>,
    total: Option<Duration>,
    heartbeat: Option<Duration>,
}

impl Limits {
    /// Only the host's limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// The limit of one attempt.
    #[must_use]
    pub fn attempt(mut self, length: Duration) -> Self {
        self.attempt = Some(length);
        self
    }

    /// The limit of the whole step, with all attempts and the delays between them.
    #[must_use]
    pub fn total(mut self, length: Duration) -> Self {
        self.total = Some(length);
        self
    }

    /// The longest time without a sign of life.
    #[must_use]
    pub fn heartbeat(mut self, length: Duration) -> Self {
        self.heartbeat = Some(length);
        self
    }
}

impl From<Limits> for host::Limits {
    fn from(limits: Limits) -> Self {
        Self {
            attempt: limits.attempt.map(millis),
            total: limits.total.map(millis),
            heartbeat: limits.heartbeat.map(millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_one_and_vary_by_the_jitter() {
        let retry = Retry::attempts(9).initial(Duration::from_secs(1)).factor(3.0).jitter(0.0);
        let delays = [1, 2, 3, 4, 5, 2000].map(|attempt| retry.delay(attempt, 7).as_secs());
        assert_eq!(delays, [1, 3, 9, 27, 60, 60]);
        let retry = retry.jitter(0.5);
        assert_eq!(retry.delay(1, 0), Duration::from_millis(500));
        assert!(retry.delay(1, u64::MAX) > Duration::from_millis(1_499));
        assert_eq!(retry.delay(5, u64::MAX), Duration::from_secs(60));
        let never = Retry::attempts(9).initial(Duration::ZERO).factor(f32::INFINITY);
        assert_eq!(never.delay(3, 7), Duration::ZERO);
        let long = Retry::attempts(9).initial(Duration::MAX).max(Duration::MAX);
        assert_eq!(long.delay(1, 7).max(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn what_would_come_again_is_not_tried_again() {
        let retry = Retry::attempts(3).fatal(["Timed-Out", "closed"]);
        let another = |attempt, kind| retry.allows_another(attempt, &Error::new(kind, "x"));
        assert!(another(2, FailureKind::Failed));
        assert!(!another(3, FailureKind::Failed));
        assert!(!another(1, FailureKind::TimedOut));
        assert!(!another(1, FailureKind::Cancelled));
        let closed = Error::failed("x").with_details(serde_json::json!({ "reason": "closed" }));
        assert!(!retry.allows_another(1, &closed));
    }
}
