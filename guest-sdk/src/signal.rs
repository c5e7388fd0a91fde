//! Messages to and from the run.

use std::{future::IntoFuture, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    bindings::wfhost::workflow::signal as host,
    error::{Context, Error, Result},
    failure::Failure,
    step::{Step, decode},
    time::millis,
};

/// Waits for a signal of this name. Signals are sent with `wfhost signal RUN NAME`, over the API, or
/// from another workflow with [`send`].
///
/// Early signals are kept, first in, first out for each name. Each signal is consumed by one wait.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use std::time::Duration;
/// # use wfhost::{Result, signal};
/// #[derive(serde::Deserialize)]
/// struct Approval {
///     ok: bool,
/// }
///
/// # async fn example() -> Result<()> {
/// let approval: Approval = signal("approve")
///     .timeout(Duration::from_secs(24 * 3600))
///     .json()
///     .await?;
/// let whatever = signal("go").await?; // any JSON
/// # Ok(())
/// # }
/// ```
pub fn signal(name: impl Into<String>) -> Signal {
    Signal { name: name.into(), timeout: None }
}

/// A builder of a wait for a signal: see [`signal()`].
#[derive(Clone, Debug)]
#[must_use = "a wait does nothing until it is awaited"]
pub struct Signal {
    name: String,
    timeout: Option<Duration>,
}

impl Signal {
    /// Fails after this time with [`TimedOut`](crate::FailureKind::TimedOut). A later signal is kept
    /// for the next wait.
    pub fn timeout(mut self, length: Duration) -> Self {
        self.timeout = Some(length);
        self
    }

    /// Waits, and parses the payload as this type.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::FailureKind::TimedOut), [`Cancelled`](crate::FailureKind::Cancelled)
    /// when the run is cancelled, and [`InvalidOutput`](crate::FailureKind::InvalidOutput) if
    /// the payload does not match the type. The signal is then consumed: wait again for another one.
    pub fn json<T: DeserializeOwned>(self) -> Step<T> {
        Step::new(move || Ok(host::start(&self.name, self.timeout.map(millis))), decode)
    }
}

impl IntoFuture for Signal {
    type Output = Result<Value>;
    type IntoFuture = Step<Value>;

    fn into_future(self) -> Step<Value> {
        self.json()
    }
}

/// Sends a signal to another run, exactly once.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # fn example(parent: &str) -> wfhost::Result<()> {
/// wfhost::send(parent, "progress", wfhost::json!({"done": 3}))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Rejected`](crate::FailureKind::Rejected) if the run does not exist or has ended.
pub fn send(run: &str, name: &str, payload: impl Serialize) -> Result<()> {
    let payload = write(payload, "payload")?;
    host::send(run, name, &payload).map_err(|failure| Error::from(Failure::from(failure)))
}

/// Appends to the messages of this run, which are read in order with a cursor.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # fn example() -> wfhost::Result<()> {
/// wfhost::post("chapter", wfhost::json!({"title": "The beginning"}))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The payload cannot be written as JSON.
pub fn post(name: &str, payload: impl Serialize) -> Result<()> {
    host::post(name, &write(payload, "payload")?);
    Ok(())
}

/// A value as JSON for the host.
pub(crate) fn write(value: impl Serialize, what: &str) -> Result<String> {
    serde_json::to_string(&value).with_context(|| format!("the {what} cannot be written as JSON"))
}
