//! Runs started by this run.

use std::future::IntoFuture;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    bindings::wfhost::workflow::child as host,
    error::{Error, Result},
    signal::write,
    step::{Step, decode},
};

/// Runs a module as a durable run of its own and waits for its result.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, child};
/// # async fn example() -> Result<()> {
/// let pages: Vec<String> = child("crawler")
///     .input(wfhost::json!({"site": "https://example.org"}))
///     .label("site", "example.org")
///     .json()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn child(module: impl Into<String>) -> Child {
    Child {
        module: module.into(),
        input: Ok("null".to_owned()),
        options: host::Options { id: None, on_close: OnParentClose::Cancel.into(), labels: Vec::new() },
    }
}

/// What happens to a child when its parent ends first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnParentClose {
    /// The child is cancelled.
    #[default]
    Cancel,
    /// The child continues on its own.
    Abandon,
}

impl From<OnParentClose> for host::OnParentClose {
    fn from(on_close: OnParentClose) -> Self {
        match on_close {
            OnParentClose::Cancel => Self::Cancel,
            OnParentClose::Abandon => Self::Abandon,
        }
    }
}

/// A builder of a child run: see [`child()`].
#[derive(Clone, Debug)]
#[must_use = "a child is not started until it is awaited"]
pub struct Child {
    module: String,
    /// JSON, or why it is none.
    input: Result<String, String>,
    options: host::Options,
}

impl Child {
    /// The child's input; by default, `null`.
    pub fn input(mut self, input: impl Serialize) -> Self {
        self.input = write(input, "input").map_err(|error| format!("{error:#}"));
        self
    }

    /// The child's id; by default, derived from the parent's id and the step.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.options.id = Some(id.into());
        self
    }

    /// What happens to the child when this run ends first; by default, it is cancelled.
    pub fn on_parent_close(mut self, on_close: OnParentClose) -> Self {
        self.options.on_close = on_close.into();
        self
    }

    /// Adds a label, by which the run can be found.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.labels.push((key.into(), value.into()));
        self
    }

    /// Runs the child, and parses its result as this type.
    ///
    /// # Errors
    ///
    /// The child's failure, and [`InvalidOutput`](crate::FailureKind::InvalidOutput) if its
    /// result does not match the type.
    pub fn json<T: DeserializeOwned>(self) -> Step<T> {
        Step::new(
            move || {
                let input = self.input.map_err(Error::rejected)?;
                Ok(host::start(&self.module, &input, Some(&self.options)))
            },
            decode,
        )
    }
}

impl IntoFuture for Child {
    type Output = Result<Value>;
    type IntoFuture = Step<Value>;

    fn into_future(self) -> Step<Value> {
        self.json()
    }
}
