//! Calls into the run, to which the program replies.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    error::{Context, Result},
    signal::{post, signal},
};

/// Waits for the next call of this name: `wfhost call RUN NAME -i INPUT`, or
/// `POST /api/v1/runs/RUN/calls/NAME`. The caller waits for [`Call::reply`] or [`Call::refuse`].
///
/// Early calls are kept, first in, first out for each name.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # async fn example() -> wfhost::Result<()> {
/// let mut total = 0;
/// loop {
///     let call = wfhost::call("add").await?;
///     match call.json::<i64>() {
///         Ok(n) => {
///             total += n;
///             call.reply(total)?;
///         }
///         Err(error) => call.refuse(error.to_string())?,
///     }
/// }
/// # }
/// ```
///
/// # Errors
///
/// [`Cancelled`](crate::FailureKind::Cancelled) when the run is cancelled.
pub async fn call(name: impl AsRef<str>) -> Result<Call> {
    signal(format!("call:{}", name.as_ref())).json().await
}

/// A call that waits for a reply.
#[derive(Clone, Debug, Deserialize)]
#[must_use = "somebody waits for the answer"]
pub struct Call {
    id: String,
    /// The input of the call.
    pub input: Value,
}

impl Call {
    /// The input as this type.
    ///
    /// # Errors
    ///
    /// If the input does not match the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.input.clone()).context("the input of a call")
    }

    /// Replies to the call.
    ///
    /// # Errors
    ///
    /// If the reply cannot be written as JSON, or is too large.
    pub fn reply(self, output: impl Serialize) -> Result<()> {
        let output = serde_json::to_value(output).context("the answer to a call")?;
        post(&format!("reply:{}", self.id), json!({ "ok": output }))
    }

    /// Refuses the call: the caller gets this message as an error.
    ///
    /// # Errors
    ///
    /// If the message is too large.
    pub fn refuse(self, message: impl AsRef<str>) -> Result<()> {
        post(&format!("reply:{}", self.id), json!({ "error": message.as_ref() }))
    }
}
