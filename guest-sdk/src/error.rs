//! The error type of workflows.

use std::{any::Any, error::Error as StdError, fmt};

use serde::Serialize;

use crate::failure::{Failure, FailureKind};

/// The result of an operation that can fail in a workflow.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error: a failure reported by the host, an error of the workflow, or a standard error.
///
/// `?` turns every [`std::error::Error`] into it. A [`Failure`] is preserved, so that a program can
/// ask for its [`kind`](Error::kind); if the workflow returns the error, the run fails with it. Every other error is of the kind [`FailureKind::Failed`].
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// use wfhost::{Error, FailureKind};
///
/// fn parse(text: &str) -> wfhost::Result<u32> {
///     Ok(text.parse()?)
/// }
///
/// assert_eq!(parse("x").unwrap_err().kind(), FailureKind::Failed);
/// assert_eq!(Error::rejected("no").kind(), FailureKind::Rejected);
/// ```
///
/// Errors are printed like this:
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// use wfhost::{Context, Error};
///
/// let error = Err::<(), _>(Error::failed("no paper")).context("cannot print").unwrap_err();
/// assert_eq!(format!("{error}"), "cannot print");
/// assert_eq!(format!("{error:#}"), "cannot print: no paper");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    /// The contexts, the innermost first.
    contexts: Vec<String>,
    cause: Cause,
}

enum Cause {
    Failure(Failure),
    Other(Box<dyn StdError>),
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure::new(kind, message).into()
    }

    /// An error of the kind [`FailureKind::Failed`]. [`bail!`](crate::bail) returns one.
    ///
    /// ```
    /// # extern crate wfhost_sdk as wfhost;
    /// let error = wfhost::Error::failed("nobody approved it");
    /// assert_eq!(error.to_string(), "nobody approved it");
    /// ```
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Failed, message)
    }

    /// An error of the kind [`FailureKind::Rejected`]: the request is invalid or refused.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Rejected, message)
    }

    /// Adds data for programs; it replaces what was there.
    ///
    /// Nothing is added if the value cannot be written as JSON.
    ///
    /// ```
    /// # extern crate wfhost_sdk as wfhost;
    /// let error = wfhost::Error::failed("3 sections are missing")
    ///     .with_details(wfhost::json!({"missing": [2, 5, 6]}));
    /// assert_eq!(error.into_failure().details.unwrap()["missing"][0], 2);
    /// ```
    #[must_use]
    pub fn with_details(mut self, details: impl Serialize) -> Self {
        let kind = self.kind();
        let failure = match &mut self.0.cause {
            Cause::Failure(failure) => failure,
            Cause::Other(error) => {
                let failure = Failure::new(kind, chain(error.as_ref()));
                self.0.cause = Cause::Failure(failure);
                return self.with_details(details);
            }
        };
        if let Ok(details) = serde_json::to_value(details) {
            failure.details = Some(details);
        }
        self
    }

    /// Adds what the program was doing when the error occurred. See also [`Context`].
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.contexts.push(context.to_string());
        self
    }

    /// The kind of the [`Failure`], or else [`FailureKind::Failed`].
    ///
    /// ```no_run
    /// # extern crate wfhost_sdk as wfhost;
    /// # use std::time::Duration;
    /// # use wfhost::{FailureKind, Result, signal};
    /// # async fn example() -> Result<()> {
    /// let approved = match signal("approve").timeout(Duration::from_secs(60)).await {
    ///     Ok(_) => true,
    ///     Err(error) if error.kind() == FailureKind::TimedOut => false,
    ///     Err(error) => return Err(error),
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub fn kind(&self) -> FailureKind {
        self.failure().map_or(FailureKind::Failed, |failure| failure.kind)
    }

    /// The failure, if it came from the host or was made by this type.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.0.cause {
            Cause::Failure(failure) => Some(failure),
            Cause::Other(_) => None,
        }
    }

    /// The standard error, if it is one of this type.
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        match &self.0.cause {
            Cause::Failure(failure) => (failure as &dyn Any).downcast_ref(),
            Cause::Other(error) => error.downcast_ref(),
        }
    }

    /// The failure of the run if the workflow returns this error: the failure itself, or one of the
    /// kind [`FailureKind::Failed`] with the whole error in its message.
    pub fn into_failure(self) -> Failure {
        let message = format!("{self:#}");
        match self.0.cause {
            Cause::Failure(failure) => Failure { message, ..failure },
            Cause::Other(_) => Failure::new(FailureKind::Failed, message),
        }
    }
}

impl<E: StdError + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        // A `Failure` is recognised by its type, so that this one implementation serves all.
        let mut error = Some(error);
        let failure = (&mut error as &mut dyn Any).downcast_mut::<Option<Failure>>();
        let cause = match failure.and_then(Option::take) {
            Some(failure) => Cause::Failure(failure),
            None => match error {
                Some(error) => Cause::Other(Box::new(error)),
                None => unreachable!("it is taken only if it is a failure"),
            },
        };
        Self(Box::new(Inner { contexts: Vec::new(), cause }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contexts = self.0.contexts.iter().rev();
        let cause = || match &self.0.cause {
            Cause::Failure(failure) => failure.to_string(),
            Cause::Other(error) => chain(error.as_ref()),
        };
        if f.alternate() {
            for context in contexts {
                write!(f, "{context}: ")?;
            }
            return f.write_str(&cause());
        }
        match (self.0.contexts.last(), &self.0.cause) {
            (Some(context), _) => f.write_str(context),
            (None, Cause::Failure(failure)) => failure.fmt(f),
            (None, Cause::Other(error)) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#}")?;
        match self.failure() {
            Some(failure) => write!(f, " ({})", failure.kind),
            None => Ok(()),
        }
    }
}

/// An error and its sources in one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        // Many errors say what their source says.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}

/// Adds to an error what the program was doing.
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// use wfhost::{Context, Result};
///
/// fn section(text: &str) -> Result<u32> {
///     text.parse::<u32>().with_context(|| format!("`{text}` is not the number of a section"))
/// }
///
/// assert_eq!(section("x").unwrap_err().to_string(), "`x` is not the number of a section");
/// ```
pub trait Context<T> {
    /// Adds a text.
    ///
    /// # Errors
    ///
    /// The original error with the text as its context; for `None` the text alone.
    fn context(self, context: impl fmt::Display) -> Result<T>;

    /// Adds a text that is computed only if there is an error.
    ///
    /// # Errors
    ///
    /// The original error with the text as its context; for `None` the text alone.
    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(context))
    }

    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|error| error.into().context(context()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::failed(context.to_string()))
    }

    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.ok_or_else(|| Error::failed(context().to_string()))
    }
}

/// Returns from the function with an error of the kind [`FailureKind::Failed`].
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// fn check(sections: u32) -> wfhost::Result<()> {
///     if sections == 0 {
///         wfhost::bail!("a report of {sections} sections says nothing");
///     }
///     Ok(())
/// }
/// assert!(check(0).is_err());
/// ```
#[macro_export]
macro_rules! bail {
    ($($message:tt)+) => {
        return ::core::result::Result::Err(
            $crate::Error::failed(::std::format!($($message)+)).into(),
        )
    };
}

/// Returns from the function with an error if the condition does not hold.
///
/// ```
/// # extern crate wfhost_sdk as wfhost;
/// fn check(sections: u32) -> wfhost::Result<()> {
///     wfhost::ensure!(sections > 0, "a report needs sections");
///     Ok(())
/// }
/// assert!(check(0).is_err());
/// ```
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::bail!($($message)+);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stays_a_failure_through_the_question_mark() {
        fn inner() -> Result<(), Failure> {
            Err(Failure { attempts: 2, ..Failure::new(FailureKind::TimedOut, "too slow") })
        }
        fn outer() -> Result<()> {
            inner()?;
            Ok(())
        }
        let error = outer().unwrap_err();
        assert_eq!(error.kind(), FailureKind::TimedOut);
        assert_eq!(error.failure().unwrap().attempts, 2);
        assert_eq!(error.downcast_ref::<Failure>().unwrap().message, "too slow");
    }

    #[test]
    fn any_other_error_fails_the_run_with_its_whole_chain() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no number")
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        let error = Error::from(Outer("x".parse::<u8>().unwrap_err())).context("line 3");
        assert!(error.downcast_ref::<Outer>().is_some());
        assert_eq!(error.to_string(), "line 3");
        let failure = error.into_failure();
        assert_eq!(failure.kind, FailureKind::Failed);
        assert_eq!(failure.message, "line 3: no number: invalid digit found in string");
    }

    #[test]
    fn context_does_not_change_the_kind_of_a_failure() {
        let error = Error::rejected("closed").context("order 7");
        let failure = error.into_failure();
        assert_eq!(failure.kind, FailureKind::Rejected);
        assert_eq!(failure.message, "order 7: closed");
    }

    #[test]
    fn details_can_be_added_to_any_error() {
        let error = Error::from("x".parse::<u8>().unwrap_err()).with_details([1, 2]);
        let failure = error.into_failure();
        assert_eq!(failure.message, "invalid digit found in string");
        assert_eq!(failure.details, Some(serde_json::json!([1, 2])));
    }
}
