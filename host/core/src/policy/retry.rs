//! Whether and when a failed attempt is repeated.

use crate::{AgentRequest, Failure, FailureKind, Json, Retry, Timestamp};

/// No delay is longer than this, whatever a program or a provider asks for: 30 days in milliseconds.
const LONGEST_MS: u64 = 30 * 86_400_000;

/// No provider is left alone for longer than a day because it asked for it.
const LONGEST_WISH_MS: u64 = 86_400_000;
/// What is longer cannot be meant: it is a point in time, or has another unit.
const MEANT_MS: u64 = 7 * 86_400_000;

/// For how long a provider is left alone that asks for it. None if it cannot mean that.
pub fn plausible_wish_ms(millis: u64) -> Option<u64> {
    (millis <= MEANT_MS).then_some(millis.min(LONGEST_WISH_MS))
}

/// What holds for calls that do not say: 3 attempts, 1 second before the second
/// one, twice as long before each further one but at most a minute, varied by
/// up to a tenth.
pub fn default_retry() -> Retry {
    Retry { max_attempts: 3, initial_ms: 1_000, factor: 2.0, max_ms: 60_000, jitter: 0.1, fatal: Vec::new() }
}

/// An attempt that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedAttempt {
    /// Counted from 1.
    pub attempt: u32,
    pub kind: FailureKind,
    /// The text `reason` in the details of the failure.
    pub reason: Option<String>,
    /// Authentication or billing failed at the provider.
    pub auth: bool,
    /// The provider asks not to be called again before that much time is over.
    pub retry_after_ms: Option<u64>,
}

/// What the step looks like after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Situation {
    /// When the attempt failed.
    pub now: Timestamp,
    /// How many attempts at this step failed, the latest one included, but
    /// without those that failed for authentication: their provider was of no
    /// use. Attempts that a dying host took along do not count either.
    pub failures: u32,
    /// Whether a provider is left without an authentication failure.
    pub provider_left: bool,
    /// When the step as a whole has to be done.
    pub deadline: Option<Timestamp>,
    /// A number of the run's random stream, for the jitter.
    pub random: u64,
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The step fails as the attempt did.
    GiveUp(Why),
    /// Attempt `attempt` begins at `at`.
    Retry { attempt: u32, at: Timestamp },
}

/// Why there is no further attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The kind of failure is not worth another attempt.
    Fatal,
    /// That was the last one.
    Exhausted,
    /// No provider is left.
    NoProvider,
    /// The next attempt would begin after the time limit of the step.
    TooLate,
}

/// Decides what comes after a failed attempt.
pub fn after_failure(retry: &Retry, failed: &FailedAttempt, situation: Situation) -> Next {
    let Situation { now, failures, provider_left, deadline, random } = situation;
    if !provider_left {
        return Next::GiveUp(Why::NoProvider);
    }
    if is_fatal(retry, failed) {
        return Next::GiveUp(Why::Fatal);
    }
    if !failed.auth && failures >= retry.max_attempts.max(1) {
        return Next::GiveUp(Why::Exhausted);
    }
    // The next provider has nothing to do with what the one before refused.
    let delay = match failed.auth {
        true => 0,
        false => delay_ms(retry, failures, failed.retry_after_ms, random),
    };
    let at = Timestamp(now.0.saturating_add(delay));
    if deadline.is_some_and(|deadline| at >= deadline) {
        return Next::GiveUp(Why::TooLate);
    }
    Next::Retry { attempt: failed.attempt.saturating_add(1), at }
}

fn is_fatal(retry: &Retry, failed: &FailedAttempt) -> bool {
    let named = |name: &str| retry.fatal.iter().any(|fatal| fatal.eq_ignore_ascii_case(name));
    if failed.reason.as_deref().is_some_and(named) {
        return true;
    }
    if failed.auth {
        return named("authentication") || named("auth");
    }
    let never =
        matches!(failed.kind, FailureKind::Rejected | FailureKind::Cancelled | FailureKind::BudgetExceeded);
    never || named(&failed.kind.to_string())
}

/// The reason in the details of a failure, by which a request can name what is not to be repeated.
pub fn reason_of(failure: &Failure) -> Option<String> {
    failure.details.as_ref()?.value()["reason"].as_str().map(str::to_owned)
}

/// The delay after the `failures`-th failure (counted from 1), in milliseconds:
/// `initial * factor^(failures-1)`, at most `max`, varied by up to `jitter` of
/// it in both directions (never beyond `max`); at least what the provider asks for.
pub fn delay_ms(retry: &Retry, failures: u32, retry_after_ms: Option<u64>, random: u64) -> u64 {
    let factor = f64::from(retry.factor);
    let factor = if factor.is_finite() { factor.max(0.0) } else { 1.0 };
    let jitter = f64::from(retry.jitter);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let max = retry.max_ms.min(LONGEST_MS);
    // Large powers are infinite, which the cap turns into the longest delay;
    // nothing times infinity is no number, and means no delay.
    let grown = retry.initial_ms as f64 * factor.powi(exponent);
    let capped = if grown.is_nan() { 0.0 } else { grown.min(max as f64) };
    // 53 bits, as many as a float holds, make a number from -1 to 1.
    let unit = (random >> 11) as f64 / (1_u64 << 53) as f64;
    let varied = capped * (1.0 + jitter * (2.0 * unit - 1.0));
    let delay = (varied.round() as u64).min(max);
    delay.max(retry_after_ms.and_then(plausible_wish_ms).unwrap_or(0))
}

/// The kind that a request names among its fatal ones so that a call is made
/// at most once: the outcome of a call in flight when its host dies is unknown.
pub const UNKNOWN_OUTCOME: &str = "unknown-outcome";

/// Whether the call may be made at most once.
pub fn is_once(request: &AgentRequest) -> bool {
    let fatal = request.retry.as_ref().map(|retry| retry.fatal.as_slice()).unwrap_or_default();
    fatal.iter().any(|kind| kind.eq_ignore_ascii_case(UNKNOWN_OUTCOME))
}

/// How often a call is tried: as it says, else as the configuration says. One
/// that may be made at most once is tried once, whatever the failure.
pub fn of_call(request: &AgentRequest, configured: &Retry) -> Retry {
    let retry = request.retry.as_ref().unwrap_or(configured).clone();
    match is_once(request) {
        false => retry,
        true => {
            let fatal = [UNKNOWN_OUTCOME, "authentication"].map(str::to_owned).to_vec();
            Retry { max_attempts: 1, fatal, ..retry }
        }
    }
}

/// How a call ends that may be made once and was in flight when its host died or its run was cancelled.
/// Its `details` have the reason `unknown-outcome`.
pub fn unknown_outcome(attempts: u32) -> Failure {
    let message =
        "unknown-outcome: the call was cut off while it was under way, and it may not be made twice";
    let details = Some(Json::from(serde_json::json!({ "reason": UNKNOWN_OUTCOME })));
    Failure { details, attempts, ..Failure::new(FailureKind::Failed, message) }
}

/// A step's failure after its last attempt, as the program sees it.
pub fn final_failure(last: Failure, attempts: u32, why: Why) -> Failure {
    let note = match why {
        Why::Fatal | Why::Exhausted => None,
        Why::NoProvider => Some("no other provider is left"),
        Why::TooLate => Some("the time limit of the step leaves no room for another attempt"),
    };
    let message = match note {
        Some(note) => format!("{} ({note})", last.message),
        None => last.message,
    };
    Failure { message, attempts: attempts.max(last.attempts), ..last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(attempt: u32, kind: FailureKind) -> FailedAttempt {
        FailedAttempt { attempt, kind, reason: None, auth: false, retry_after_ms: None }
    }

    fn situation(now: u64) -> Situation {
        Situation {
            now: Timestamp(now),
            failures: 1,
            provider_left: true,
            deadline: None,
            // The middle: no variation.
            random: 1 << 63,
        }
    }

    #[test]
    fn delays_double_up_to_the_cap() {
        let retry = default_retry();
        let delays: Vec<_> = (1..=8).map(|n| delay_ms(&retry, n, None, 1 << 63)).collect();
        assert_eq!(delays, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn jitter_goes_both_ways() {
        let retry = Retry { jitter: 0.5, ..default_retry() };
        assert_eq!(delay_ms(&retry, 1, None, 0), 500);
        assert_eq!(delay_ms(&retry, 1, None, u64::MAX), 1_500);
        let full = Retry { jitter: 1.0, ..default_retry() };
        assert_eq!(delay_ms(&full, 1, None, 0), 0);
        assert_eq!(delay_ms(&full, 1, None, u64::MAX), 2_000);
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let retry = default_retry();
        let next = |attempt| {
            let situation = Situation { failures: attempt, ..situation(5) };
            after_failure(&retry, &failed(attempt, FailureKind::Failed), situation)
        };
        assert_eq!(next(1), Next::Retry { attempt: 2, at: Timestamp(1_005) });
        assert_eq!(next(2), Next::Retry { attempt: 3, at: Timestamp(2_005) });
        assert_eq!(next(3), Next::GiveUp(Why::Exhausted));
    }

    #[test]
    fn an_attempt_that_a_dying_host_took_along_does_not_count() {
        let next = after_failure(&default_retry(), &failed(7, FailureKind::Failed), situation(5));
        assert_eq!(next, Next::Retry { attempt: 8, at: Timestamp(1_005) });
    }

    #[test]
    fn what_cannot_get_better_is_not_tried_again() {
        let retry = Retry { fatal: vec!["timed-out".to_owned()], ..default_retry() };
        for kind in [
            FailureKind::Rejected,
            FailureKind::Cancelled,
            FailureKind::BudgetExceeded,
            FailureKind::TimedOut,
        ] {
            let next = after_failure(&retry, &failed(1, kind), situation(0));
            assert_eq!(next, Next::GiveUp(Why::Fatal), "{kind}");
        }
    }

    #[test]
    fn a_reason_in_the_details_can_be_fatal() {
        let retry = Retry { fatal: vec!["no-such-user".to_owned()], ..default_retry() };
        let next = |details| {
            let failure = Failure { details, ..Failure::new(FailureKind::Failed, "no") };
            let reason = reason_of(&failure);
            let failed = FailedAttempt { reason, ..failed(1, failure.kind) };
            let refused = FailedAttempt { auth: true, ..failed.clone() };
            [failed, refused].map(|failed| after_failure(&retry, &failed, situation(0)))
        };
        let with = |details| Some(Json::from(details));
        let fatal = [Next::GiveUp(Why::Fatal); 2];
        assert_eq!(next(with(serde_json::json!({ "reason": "No-Such-User" }))), fatal);
        for other in [
            None,
            with(serde_json::json!({ "reason": "busy" })),
            with(serde_json::json!({ "reason": 7 })),
            with(serde_json::json!("no-such-user")),
        ] {
            let again = next(other.clone());
            assert!(again.iter().all(|next| matches!(next, Next::Retry { .. })), "{other:?}: {again:?}");
        }
    }

    #[test]
    fn an_authentication_failure_passes_to_the_next_provider_at_once_and_does_not_count() {
        let retry = Retry { max_attempts: 1, ..default_retry() };
        let refused = FailedAttempt { auth: true, ..failed(1, FailureKind::Rejected) };
        let after = Situation { failures: 0, ..situation(7) };
        assert_eq!(after_failure(&retry, &refused, after), Next::Retry { attempt: 2, at: Timestamp(7) });
        let one = Situation { failures: 1, ..after };
        let next = after_failure(&retry, &failed(2, FailureKind::Failed), one);
        assert_eq!(next, Next::GiveUp(Why::Exhausted));
        let alone = Situation { provider_left: false, ..after };
        assert_eq!(after_failure(&retry, &refused, alone), Next::GiveUp(Why::NoProvider));
        let fatal = Retry { fatal: vec!["authentication".to_owned()], ..retry };
        assert_eq!(after_failure(&fatal, &refused, after), Next::GiveUp(Why::Fatal));
    }

    #[test]
    fn a_call_that_may_be_made_once_is_tried_once() {
        let once = |max_attempts, fatal: &str| AgentRequest {
            retry: Some(Retry { max_attempts, fatal: vec![fatal.to_owned()], ..default_retry() }),
            ..AgentRequest::default()
        };
        let retry = of_call(&once(3, "unknown-outcome"), &default_retry());
        assert_eq!(retry.max_attempts, 1);
        let refused = FailedAttempt { auth: true, ..failed(1, FailureKind::Rejected) };
        for failed in [failed(1, FailureKind::TimedOut), refused] {
            let after = Situation { failures: u32::from(!failed.auth), ..situation(0) };
            assert!(matches!(after_failure(&retry, &failed, after), Next::GiveUp(_)), "{failed:?}");
        }
        assert_eq!(of_call(&once(3, "failed"), &default_retry()).max_attempts, 3);
        assert_eq!(of_call(&AgentRequest::default(), &default_retry()), default_retry());
    }

    #[test]
    fn the_provider_s_wish_is_the_least() {
        let wish = |ms| FailedAttempt { retry_after_ms: Some(ms), ..failed(1, FailureKind::Unavailable) };
        let retry = default_retry();
        let at = |ms| after_failure(&retry, &wish(ms), situation(0));
        assert_eq!(at(90_000), Next::Retry { attempt: 2, at: Timestamp(90_000) });
        assert_eq!(at(10), Next::Retry { attempt: 2, at: Timestamp(1_000) });
        // A day at most, and what cannot be meant is not heeded.
        assert_eq!(at(2 * 86_400_000), Next::Retry { attempt: 2, at: Timestamp(86_400_000) });
        assert_eq!(at(u64::MAX), Next::Retry { attempt: 2, at: Timestamp(1_000) });
        assert_eq!(at(1_800_000_000_000), Next::Retry { attempt: 2, at: Timestamp(1_000) });
    }

    #[test]
    fn no_attempt_begins_after_the_deadline() {
        let late = Situation { deadline: Some(Timestamp(1_000)), ..situation(0) };
        let failed = failed(1, FailureKind::Failed);
        assert_eq!(after_failure(&default_retry(), &failed, late), Next::GiveUp(Why::TooLate));
    }

    proptest! {
        #[test]
        fn a_delay_is_never_beyond_its_bounds(
            initial_ms: u64, max_ms: u64, factor: f32, jitter: f32, failures: u32,
            after: Option<u64>, random: u64,
        ) {
            let retry = Retry {
                max_attempts: 9, initial_ms, factor, max_ms, jitter, fatal: Vec::new(),
            };
            let delay = delay_ms(&retry, failures, after, random);
            let wish = after.and_then(plausible_wish_ms).unwrap_or(0);
            prop_assert!(delay >= wish);
            prop_assert!(delay <= max_ms.min(LONGEST_MS).max(wish));
        }

        #[test]
        fn attempts_are_bounded(max_attempts in 0_u32..20, auth in 0_u32..5, random: u64) {
            let retry = Retry { max_attempts, ..default_retry() };
            let mut attempt = 1;
            let mut now = Timestamp(0);
            let mut made = 0;
            loop {
                made += 1;
                let refused = attempt <= auth;
                let failed = FailedAttempt { auth: refused, ..failed(attempt, FailureKind::Failed) };
                let situation = Situation {
                    now, failures: attempt.saturating_sub(auth), provider_left: true, deadline: None, random,
                };
                match after_failure(&retry, &failed, situation) {
                    Next::Retry { attempt: next, at } => {
                        prop_assert_eq!(next, attempt + 1);
                        prop_assert!(at >= now);
                        (attempt, now) = (next, at);
                    }
                    Next::GiveUp(_) => break,
                }
            }
            prop_assert_eq!(made, max_attempts.max(1) + auth);
        }
    }
}
