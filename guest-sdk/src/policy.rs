//! How an agent call is repeated, and how long it may take.

use std::time::Duration;

use crate::{bindings::wfhost::workflow::agent as host, time::millis};

/// When and how often a failed attempt is repeated.
///
/// Attempts and the time of the next one survive crashes of the host.
///
/// ```
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
    /// That many attempts in all, the first one included; 1 second before the second one, twice as
    /// long before each further one but at most a minute, varied by up to a tenth.
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

    /// Each further delay is this many times the one before.
    #[must_use]
    pub fn factor(mut self, factor: f32) -> Self {
        self.factor = factor;
        self
    }

    /// No delay is longer.
    #[must_use]
    pub fn max(mut self, delay: Duration) -> Self {
        self.max = delay;
        self
    }

    /// Each delay is varied by up to this fraction, 0 to 1.
    #[must_use]
    pub fn jitter(mut self, fraction: f32) -> Self {
        self.jitter = fraction;
        self
    }

    /// Kinds of failure that are not worth another attempt.
    #[must_use]
    pub fn fatal(mut self, kinds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.fatal = kinds.into_iter().map(Into::into).collect();
        self
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
    /// No limits but those of the host.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of one attempt.
    #[must_use]
    pub fn attempt(mut self, length: Duration) -> Self {
        self.attempt = Some(length);
        self
    }

    /// Of the whole step, with all attempts and the delays between them.
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
