//! The run itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{bindings::wfhost::workflow::context as host, error::Result, signal::write, time::Timestamp};

/// What is known about this run.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RunInfo {
    /// Its id.
    pub run: String,
    /// The name of the workflow.
    pub workflow: String,
    /// The BLAKE3 digest of the module that the run began with.
    pub digest: String,
    /// The run that started this one.
    pub parent: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// How often the run as a whole was begun again; 1 is the first time.
    pub attempt: u32,
    /// What it was labelled with.
    pub labels: BTreeMap<String, String>,
}

/// What is known about this run: its id, its workflow, when it began.
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

/// The next random number of this run. A replay gets the same ones.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// let side = ["heads", "tails"][(wfhost::random() % 2) as usize];
/// ```
pub fn random() -> u64 {
    host::random()
}

/// What a run may use and has used, in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Budget {
    /// None: there is no limit.
    pub total: Option<u64>,
    /// By this run and its children.
    pub spent: u64,
}

impl Budget {
    /// What is left; None if there is no limit.
    pub fn remaining(self) -> Option<u64> {
        self.total.map(|total| total.saturating_sub(self.spent))
    }
}

/// What this run may use and has used.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// let detailed = wfhost::budget().remaining().is_none_or(|tokens| tokens > 10_000);
/// ```
pub fn budget() -> Budget {
    let host::Spending { total, spent } = host::budget();
    Budget { total, spent }
}

/// For changes of a workflow while runs of it are under way: true for runs that reach this place
/// for the first time under code that has it, false for those that passed it before.
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

/// True once the program has seen that somebody asked the run to stop. There is some time to
/// clean up.
pub fn cancelled() -> bool {
    host::cancelled()
}

/// Names what is being done now, for people who watch.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// wfhost::phase("writing");
/// ```
pub fn phase(title: impl AsRef<str>) {
    host::phase(title.as_ref());
}

/// State that outsiders can read at any time. The latest value of a key holds.
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

/// Ends this run and goes on as a fresh one of the same module with this input, so that the
/// journal of a workflow that never ends stays short. It does not return.
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
