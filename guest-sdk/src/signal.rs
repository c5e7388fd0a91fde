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

/// Waits for a signal of this name. Anybody can send one, by `wfhost signal RUN NAME` or from
/// another workflow by [`send`].
///
/// Signals that come early are kept, first in, first out for each name. Each is taken by one wait.
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

/// A wait for a signal that is being put together: see [`signal()`].
#[derive(Clone, Debug)]
#[must_use = "a wait does nothing until it is awaited"]
pub struct Signal {
    name: String,
    timeout: Option<Duration>,
}

impl Signal {
    /// Gives up after this time with [`TimedOut`](crate::FailureKind::TimedOut). A signal that
    /// comes later is kept for the next wait.
    pub fn timeout(mut self, length: Duration) -> Self {
        self.timeout = Some(length);
        self
    }

    /// Waits, and reads the payload as this type.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::FailureKind::TimedOut), [`Cancelled`](crate::FailureKind::Cancelled)
    /// when the run is asked to stop, and [`InvalidOutput`](crate::FailureKind::InvalidOutput) if
    /// the payload does not fit the type. The signal is consumed then: wait again for a better one.
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
/// [`Rejected`](crate::FailureKind::Rejected) if there is no such run or if it has ended.
pub fn send(run: &str, name: &str, payload: impl Serialize) -> Result<()> {
    let payload = write(payload, "payload")?;
    host::send(run, name, &payload).map_err(|failure| Error::from(Failure::from(failure)))
}

/// Appends to the messages of this run, which outsiders read in order and with a cursor.
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
