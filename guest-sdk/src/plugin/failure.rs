//! Why an attempt did not end well.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

use serde_json::Value;

use super::bindings::wfhost::plugin::types as host;
use super::{Usage, http};

pub use host::FailureKind;

/// The result of whatever can fail in a plugin.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// An attempt that did not end well. `?` turns every [`std::error::Error`] into it.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    /// What kind of failure it was: it decides whether there is another attempt.
    pub kind: FailureKind,
    /// What happened, for people.
    pub message: String,
    /// What happened, for programs.
    pub details: Option<Value>,
    /// Who is asking is not accepted: the provider is of no use to this run any more.
    pub auth: bool,
    /// The other side asks to be left alone for so many milliseconds.
    pub retry_after_ms: Option<u64>,
    /// What the attempt consumed all the same.
    pub usage: Option<Usage>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: None, auth: false, retry_after_ms: None, usage: None }
    }

    /// It could not be done. Tried again, as the call says.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Failed, message)
    }

    /// The request itself is wrong, or somebody refused it. Not tried again.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Rejected, message)
    }

    /// Nobody could be reached who would do it. Tried again.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unavailable, message)
    }

    /// The other side does not accept who is asking.
    pub fn auth(message: impl Into<String>) -> Self {
        Self { auth: true, ..Self::rejected(message) }
    }

    /// Says what the attempt consumed all the same.
    #[must_use]
    pub fn usage(self, usage: Usage) -> Self {
        Self { usage: Some(usage), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: StdError + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        let kind = match any.downcast_ref::<http::Error>() {
            Some(error) => error.kind(),
            None => FailureKind::Failed,
        };
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Self::new(kind, message)
    }
}

impl From<Failure> for host::Failure {
    fn from(failure: Failure) -> Self {
        let Failure { kind, message, details, auth, retry_after_ms, usage } = failure;
        let details = details.map(|details| details.to_string());
        Self { kind, message, details, auth, retry_after: retry_after_ms, usage: usage.map(Into::into) }
    }
}
