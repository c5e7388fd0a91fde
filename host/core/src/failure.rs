//! How steps and runs end.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::Json;

/// Why a step or a run did not end well. The kinds of `wfhost:workflow/types`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Encode, Decode, Serialize, Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    #[n(0)]
    Failed,
    #[n(1)]
    TimedOut,
    #[n(2)]
    Cancelled,
    #[n(3)]
    InvalidOutput,
    #[n(4)]
    BudgetExceeded,
    #[n(5)]
    Unavailable,
    #[n(6)]
    Rejected,
}

impl FailureKind {
    /// The word for it.
    pub fn word(self) -> &'static str {
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
        f.write_str(self.word())
    }
}

/// A step or a run that did not end well.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Failure {
    #[n(0)]
    pub kind: FailureKind,
    /// For people.
    #[n(1)]
    pub message: String,
    /// For programs.
    #[n(2)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Json>,
    /// How often it was tried; 0 if it never was.
    #[n(3)]
    pub attempts: u32,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: None, attempts: 0 }
    }
}

/// How a step or a run ended.
pub type Outcome = Result<Json, Failure>;
