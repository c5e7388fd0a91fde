//! The run itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{bindings::wfhost::workflow::context as host, error::Result, signal::write, time::Timestamp};

/// Information about this run.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RunInfo {
    /// The id of this run.
    pub run: String,
    /// The name of the workflow.
    pub workflow: String,
    /// The BLAKE3 digest of the module that the run started with.
    pub digest: String,
    /// The run that started this one.
    pub parent: Option<String>,
    /// When the run started.
    pub started: Timestamp,
    /// The attempt at the whole run, from 1.
    pub attempt: u32,
    /// The labels of the run.
    pub labels: BTreeMap<String, String>,
}

/// Information about this run: its id, its workflow, its start time.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// let key = format!("invoice-{}", wfhost::info().run);
/// ```
pub fn info() -> RunInfo {
    let info = host::info();
    RunInfo {
        run: info.run,
        workflow: info.workflow,
        digest: info.digest,
        parent: info.parent,
        started: Timestamp::from_millis(info.started),
        attempt: info.attempt,
        labels: info.labels.into_iter().collect(),
    }
}

/// The next random number of this run. A replay returns the same numbers.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// let side = ["heads", "tails"][(wfhost::random() % 2) as usize];
/// ```
pub fn random() -> u64 {
    host::random()
}

/// The budget of a run and what has been spent of it, in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Budget {
    /// The limit; None if there is none.
    pub total: Option<u64>,
    /// Spent by this run and its children.
    pub spent: u64,
}

impl Budget {
    /// The remaining budget; None if there is no limit.
    pub fn remaining(self) -> Option<u64> {
        self.total.map(|total| total.saturating_sub(self.spent))
    }
}

/// The budget of this run and what has been spent of it.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// let detailed = wfhost::budget().remaining().is_none_or(|tokens| tokens > 10_000);
/// ```
pub fn budget() -> Budget {
    let host::Spending { total, spent } = host::budget();
    Budget { total, spent }
}

/// Makes a change of the code conditional while runs are in progress: false for runs that passed
/// this place before the code contained the call, true for all others.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::{Result, agent};
/// # async fn example() -> Result<()> {
/// let text = agent("Write it").text().await?;
/// if wfhost::patched("proof-reading") {
///     agent("Read the proofs").input(&text).text().await?;
/// }
/// # Ok(())
/// # }
/// ```
pub fn patched(id: &str) -> bool {
    host::patched(id)
}

/// True once the program has observed that its cancellation was requested. It has some time to
/// clean up.
pub fn cancelled() -> bool {
    host::cancelled()
}

/// Names the current phase of the run, for people.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// wfhost::phase("writing");
/// ```
pub fn phase(title: impl AsRef<str>) {
    host::phase(title.as_ref());
}

/// Publishes state, which can be read at any time. A new value replaces the previous value of
/// its key.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # fn example() -> wfhost::Result<()> {
/// wfhost::publish("progress", wfhost::json!({"done": 3, "of": 10}))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The value cannot be written as JSON.
pub fn publish(key: &str, value: impl Serialize) -> Result<()> {
    host::publish(key, &write(value, "value")?);
    Ok(())
}

/// Ends this run and continues as a new run of the same module with this input, so that the
/// journal of a long-running workflow stays short. Does not return.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # async fn example(mut round: u64) -> wfhost::Result<()> {
/// loop {
///     wfhost::signal("order").await?;
///     round += 1;
///     if round.is_multiple_of(1000) {
///         wfhost::continue_as_new(round);
///     }
/// }
/// # }
/// ```
///
/// # Panics
///
/// If the input cannot be written as JSON.
pub fn continue_as_new(input: impl Serialize) -> ! {
    match write(input, "input") {
        Ok(input) => host::continue_as_new(&input),
        Err(error) => panic!("continue_as_new: {error:#}"),
    }
    unreachable!("the host ends the run")
}
