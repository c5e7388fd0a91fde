//! How long a call may take.

use crate::{CallLimits, Timestamp, limits};

/// One attempt of a call that does not say: half an hour, for coding agents
/// work that long.
pub const ATTEMPT_MS: u64 = 30 * 60_000;
/// Bytes of a heartbeat's payload.
pub const HEARTBEAT_BYTES: usize = 1 << 20;

/// The time limits of a call with nothing left open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeLimits {
    /// Of one attempt, in milliseconds.
    pub attempt_ms: u64,
    /// Of the whole step with all attempts and delays; none by default.
    pub total_ms: Option<u64>,
    /// The longest time without a sign of life; none by default.
    pub heartbeat_ms: Option<u64>,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self { attempt_ms: ATTEMPT_MS, total_ms: None, heartbeat_ms: None }
    }
}

impl TimeLimits {
    /// What the call says, for the rest what the configuration says.
    pub fn of(call: Option<&CallLimits>, configured: Self) -> Self {
        let call =
            call.cloned().unwrap_or(CallLimits { attempt_ms: None, total_ms: None, heartbeat_ms: None });
        // Deadlines are points in time, which have an end.
        let capped = |millis: u64| millis.min(limits::SLEEP_MS);
        Self {
            attempt_ms: capped(call.attempt_ms.unwrap_or(configured.attempt_ms)),
            total_ms: call.total_ms.or(configured.total_ms).map(capped),
            heartbeat_ms: call.heartbeat_ms.or(configured.heartbeat_ms).map(capped),
        }
    }

    /// When the whole step has to be done; it was scheduled at `scheduled`.
    pub fn deadline(&self, scheduled: Timestamp) -> Option<Timestamp> {
        self.total_ms.map(|total| Timestamp(scheduled.0.saturating_add(total)))
    }

    /// How long an attempt that begins at `now` may take, in milliseconds: its
    /// own limit, or what the step has left. And which of the two it is.
    pub fn attempt_at(&self, scheduled: Timestamp, now: Timestamp) -> (u64, Bound) {
        match self.deadline(scheduled) {
            Some(deadline) if deadline.since(now) < self.attempt_ms => (deadline.since(now), Bound::Total),
            _ => (self.attempt_ms, Bound::Attempt),
        }
    }
}

/// Which limit ends an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// That of one attempt: another may follow.
    Attempt,
    /// That of the whole step: none can follow.
    Total,
    /// Nothing was heard for too long: another may follow.
    Heartbeat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_goes_before_the_configuration() {
        let call = CallLimits { attempt_ms: Some(5), total_ms: None, heartbeat_ms: None };
        let configured = TimeLimits { attempt_ms: 9, total_ms: Some(20), heartbeat_ms: Some(3) };
        let limits = TimeLimits::of(Some(&call), configured);
        assert_eq!(limits, TimeLimits { attempt_ms: 5, total_ms: Some(20), heartbeat_ms: Some(3) });
        assert_eq!(TimeLimits::of(None, configured), configured);
    }

    #[test]
    fn no_deadline_is_beyond_the_end_of_time() {
        let most = Some(u64::MAX);
        let call = CallLimits { attempt_ms: most, total_ms: most, heartbeat_ms: most };
        let limits = TimeLimits::of(Some(&call), TimeLimits::default());
        let now = Timestamp(1_800_000_000_000);
        assert!(limits.deadline(now).is_some_and(|at| i64::try_from(at.0).is_ok()));
        assert_eq!(limits.attempt_at(now, now).0, crate::limits::SLEEP_MS);
    }

    #[test]
    fn an_attempt_ends_with_the_step() {
        let limits = TimeLimits { attempt_ms: 100, total_ms: Some(250), heartbeat_ms: None };
        assert_eq!(limits.attempt_at(Timestamp(1_000), Timestamp(1_000)), (100, Bound::Attempt));
        assert_eq!(limits.attempt_at(Timestamp(1_000), Timestamp(1_200)), (50, Bound::Total));
        assert_eq!(limits.attempt_at(Timestamp(1_000), Timestamp(9_000)), (0, Bound::Total));
    }
}
