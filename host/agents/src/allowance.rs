//! How long an attempt may take, and which of its parts count.
//!
//! What an attempt *does* counts against the limit of an attempt, all of it together: making its workspace, taking
//! note of what is in it, reading its schema and its conversation, and asking, with all corrections. What it *waits for* does not:
//! a repository of which another work tree is being made, programs of an earlier attempt that are being ended, slots,
//! the budget, a turn, the lease. Both count against the limit of the step. What is done when the provider has answered
//! counts against neither: an answer that is there is never given up for a limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use wfhost_core::policy::limits::{Bound, TimeLimits};
use wfhost_core::{FailureKind, Timestamp, spell_millis};
use wfhost_world::World;

use super::CallFailure;

/// The time that an attempt may take, and has taken.
#[derive(Debug)]
pub struct Allowance {
    limits: TimeLimits,
    /// When the step began.
    since: Timestamp,
    world: Arc<dyn World>,
    /// How long that took which counts against the limit of the attempt.
    spent: Duration,
}

impl Allowance {
    /// That of an attempt at a step which began at `since`.
    pub fn new(limits: TimeLimits, since: Timestamp, world: Arc<dyn World>) -> Self {
        Self { limits, since, world, spent: Duration::ZERO }
    }

    /// When the whole step has to be done.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.limits.deadline(self.since)
    }

    /// The longest time without a sign of life.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.limits.heartbeat_ms.map(Duration::from_millis)
    }

    /// How long the next part may take, and which limit that is.
    pub(crate) fn left(&self) -> (Duration, Bound) {
        let attempt_ms = self.limits.attempt_ms.saturating_sub(millis(self.spent));
        let limits = TimeLimits { attempt_ms, ..self.limits };
        let (millis, bound) = limits.attempt_at(self.since, self.world.now());
        (Duration::from_millis(millis), bound)
    }

    /// Does a part of the attempt.
    pub(crate) async fn spend<T>(
        &mut self,
        part: impl Future<Output = Result<T, CallFailure>>,
    ) -> Result<T, CallFailure> {
        let (left, bound) = self.left();
        let began = Instant::now();
        let done = timeout(left, part).await;
        self.spent += began.elapsed();
        done.unwrap_or_else(|_| Err(self.out_of_time(bound)))
    }

    /// Waits for something, as long as the step has time.
    pub(crate) async fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, CallFailure> {
        let Some(deadline) = self.deadline() else { return Ok(what.await) };
        let left = Duration::from_millis(deadline.since(self.world.now()));
        timeout(left, what).await.map_err(|_| self.out_of_time(Bound::Total))
    }

    /// That a limit was exceeded.
    pub(crate) fn out_of_time(&self, bound: Bound) -> CallFailure {
        let spell = |millis: Option<u64>| spell_millis(millis.unwrap_or_default());
        CallFailure::new(
            FailureKind::TimedOut,
            match bound {
                Bound::Attempt => format!("no answer within {}", spell(Some(self.limits.attempt_ms))),
                Bound::Total => {
                    format!("the step did not complete within {}", spell(self.limits.total_ms))
                }
                Bound::Heartbeat => format!("no sign of life for {}", spell(self.limits.heartbeat_ms)),
            },
        )
    }
}

pub(crate) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::sleep;
    use wfhost_world::Owner;

    use super::*;

    /// A world whose time is that of the runtime.
    #[derive(Debug)]
    struct Still(Instant);

    impl World for Still {
        fn now(&self) -> Timestamp {
            Timestamp(1_000 + millis(self.0.elapsed()))
        }

        fn owner(&self) -> Owner {
            unreachable!("nobody asks who the host is")
        }

        fn is_dead(&self, _: &Owner) -> bool {
            unreachable!("nobody asks for other processes")
        }
    }

    fn of(attempt_ms: u64, total_ms: Option<u64>) -> Allowance {
        let limits = TimeLimits { attempt_ms, total_ms, heartbeat_ms: None };
        Allowance::new(limits, Timestamp(1_000), Arc::new(Still(Instant::now())))
    }

    fn said(failure: CallFailure) -> String {
        failure.failure.message
    }

    #[tokio::test(start_paused = true)]
    async fn the_parts_of_an_attempt_share_its_limit() {
        let mut time = of(1_000, None);
        let part = async |millis| {
            sleep(Duration::from_millis(millis)).await;
            Ok(())
        };
        time.spend(part(800)).await.unwrap();
        assert_eq!(time.left(), (Duration::from_millis(200), Bound::Attempt));
        assert_eq!(said(time.spend(part(300)).await.unwrap_err()), "no answer within 1s");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_counts_against_the_limit_of_the_step_only() {
        let mut time = of(1_000, Some(5_000));
        time.wait(sleep(Duration::from_millis(3_000))).await.unwrap();
        assert_eq!(time.left(), (Duration::from_millis(1_000), Bound::Attempt));
        time.spend(ready(Ok(()))).await.unwrap();
        time.wait(sleep(Duration::from_millis(1_500))).await.unwrap();
        assert_eq!(time.left(), (Duration::from_millis(500), Bound::Total));
        let late = time.wait(pending::<()>()).await.unwrap_err();
        assert_eq!(said(late), "the step did not complete within 5s");
    }
}
