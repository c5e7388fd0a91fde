//! Why a step or a run did not end well.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bindings::wfhost::workflow::types as host;

/// The reason of a failure without a known outcome, in its details.
pub(crate) const UNKNOWN_OUTCOME: &str = "unknown-outcome";

/// What kind of failure it was, for programs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The other side reported that it could not do it.
    Failed,
    /// A time limit expired.
    TimedOut,
    /// The step or the run was cancelled.
    Cancelled,
    /// An answer does not match the schema of the request.
    InvalidOutput,
    /// It would exceed the budget.
    BudgetExceeded,
    /// No provider could be reached.
    Unavailable,
    /// The request is invalid, or it was refused.
    Rejected,
}

impl FailureKind {
    /// The name of the kind in journals and in JSON.
    ///
    /// ```
    /// # extern crate wfhost_sdk as wfhost;
    /// assert_eq!(wfhost::FailureKind::TimedOut.as_str(), "timed-out");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::InvalidOutput => "invalid-output",
            Self::BudgetExceeded => "budget-exceeded",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The failure of a step or a run, as the host reports it.
///
/// It is a standard error, so `?` turns it into an [`Error`](crate::Error), which gives it back
/// by [`Error::failure`](crate::Error::failure).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of the failure, for programs.
    pub kind: FailureKind,
    /// What happened, for people.
    pub message: String,
    /// What happened, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// The number of attempts; 0 if none was made.
    #[serde(default)]
    pub attempts: u32,
}

impl Failure {
    /// A failure without details and attempts.
    ///
    /// ```
    /// # extern crate wfhost_sdk as wfhost;
    /// use wfhost::{Failure, FailureKind};
    /// let failure = Failure::new(FailureKind::Rejected, "the order is closed");
    /// assert_eq!(failure.to_string(), "the order is closed");
    /// ```
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: None, attempts: 0 }
    }
}

impl Failure {
    /// Whether it is unknown if the call was carried out: the host died during a call that may be
    /// made only once ([`Agent::once`](crate::Agent::once)).
    pub fn is_outcome_unknown(&self) -> bool {
        self.details.as_ref().is_some_and(|details| details["reason"] == UNKNOWN_OUTCOME)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { f.write_str(self.kind.as_str()) } else { f.write_str(&self.message) }
    }
}

impl std::error::Error for Failure {}

impl From<host::FailureKind> for FailureKind {
    fn from(kind: host::FailureKind) -> Self {
        match kind {
            host::FailureKind::Failed => Self::Failed,
            host::FailureKind::TimedOut => Self::TimedOut,
            host::FailureKind::Cancelled => Self::Cancelled,
            host::FailureKind::InvalidOutput => Self::InvalidOutput,
            host::FailureKind::BudgetExceeded => Self::BudgetExceeded,
            host::FailureKind::Unavailable => Self::Unavailable,
            host::FailureKind::Rejected => Self::Rejected,
        }
    }
}

impl From<FailureKind> for host::FailureKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Failed => Self::Failed,
            FailureKind::TimedOut => Self::TimedOut,
            FailureKind::Cancelled => Self::Cancelled,
            FailureKind::InvalidOutput => Self::InvalidOutput,
            FailureKind::BudgetExceeded => Self::BudgetExceeded,
            FailureKind::Unavailable => Self::Unavailable,
            FailureKind::Rejected => Self::Rejected,
        }
    }
}

impl From<host::Failure> for Failure {
    fn from(failure: host::Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            message: failure.message,
            // The host sends JSON; should it ever not, the text is better than nothing.
            details: failure.details.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
            attempts: failure.attempts,
        }
    }
}

impl From<Failure> for host::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind.into(),
            message: failure.message,
            details: failure.details.map(|value| value.to_string()),
            attempts: failure.attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_everything_on_the_way_to_the_host_and_back() {
        let failure = Failure {
            kind: FailureKind::BudgetExceeded,
            message: "spent".to_owned(),
            details: Some(serde_json::json!({"tokens": 7})),
            attempts: 3,
        };
        assert_eq!(Failure::from(host::Failure::from(failure.clone())), failure);
    }

    #[test]
    fn kinds_have_the_same_name_in_json_and_in_text() {
        for kind in [
            FailureKind::Failed,
            FailureKind::TimedOut,
            FailureKind::Cancelled,
            FailureKind::InvalidOutput,
            FailureKind::BudgetExceeded,
            FailureKind::Unavailable,
            FailureKind::Rejected,
        ] {
            assert_eq!(serde_json::json!(kind), kind.as_str());
        }
    }
}
