//! Durable workflows in ordinary async Rust, for the host `wfhost`.
//!
//! A workflow is an `async fn` that is compiled to a WebAssembly component. The host journals
//! every request to the outside world, so a run can be killed at any instant and continues where
//! it was: a completed step is never executed again, a sleep keeps its deadline, a signal is not
//! lost. All that a program has to do is to use this crate for access to the outside world.
//!
//! Workflows call it `wfhost`: `wfhost = { package = "wfhost-sdk", .. }` in their `Cargo.toml`.
//!
//! ```no_run
//! # extern crate wfhost_sdk as wfhost;
//! use std::time::Duration;
//!
//! use serde::{Deserialize, Serialize};
//! use wfhost::{Result, agent, sleep};
//!
//! #[derive(Deserialize)]
//! struct Input {
//!     topic: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Report {
//!     text: String,
//! }
//!
//! #[wfhost::workflow]
//! async fn report(input: Input) -> Result<Report> {
//!     let draft = agent(format!("Write about {}", input.topic)).text().await?;
//!     sleep(Duration::from_secs(3600)).await?;
//!     let text = agent("Improve this text").input(&draft).text().await?;
//!     Ok(Report { text })
//! }
//! # fn main() {}
//! ```
//!
//! # Concurrency
//!
//! Every operation that takes time is a [`Step`], a future. It starts when it is first polled and
//! is cancelled when it is dropped, so the combinators of the `futures` crate work as usual:
//! `join!` and `join_all` run steps concurrently and start them in the order of their arguments,
//! `select!` cancels the losers, `FuturesUnordered` returns results as they arrive. Which step
//! finishes first is recorded, and is the same in every replay.
//!
//! ```no_run
//! # extern crate wfhost_sdk as wfhost;
//! # use wfhost::{Result, agent};
//! # async fn example() -> Result<()> {
//! let (pro, con) = futures::join!(agent("Argue for it").text(), agent("Argue against it").text());
//! wfhost::info!("{} / {}", pro?, con?);
//! # Ok(())
//! # }
//! ```
//!
//! # Determinism
//!
//! There are no rules to follow. The sandbox has no clock, no random numbers, no files and no
//! network except those of the host, which are the same in every replay. Use [`now`] and
//! [`random`] where the standard library has no equivalent on `wasm32-unknown-unknown`.
//!
//! # Overview
//!
//! | to | use |
//! | --- | --- |
//! | ask an agent | [`agent()`] |
//! | wait for a time | [`sleep()`], [`sleep_until`], [`timeout`] |
//! | wait for a message | [`signal()`], [`ask()`], [`call()`] |
//! | send a message | [`send`], [`post`], [`publish`], [`phase`], [`info!`] |
//! | start other runs | [`child()`], [`continue_as_new`] |
//! | run many tasks with bounded concurrency | [`parallel_map`], [`try_parallel_map`], [`Semaphore`] |
//! | race | [`race`], [`first_ok`], [`quorum`] |
//! | retry and repeat | [`retry()`], [`loop_until`] |
//! | compensate (sagas) | [`saga()`] |
//! | inspect the run | [`info()`], [`now`], [`random`], [`budget`], [`cancelled`], [`patched`] |
//! | fail | [`Error`], [`bail!`], [`Failure`] |
//! | test it in simulated worlds | [`scenarios!`] |

#![warn(missing_docs)]

mod agent;
mod ask;
mod call;
#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, missing_docs, dead_code, unused, reason = "generated")]
#[doc(hidden)]
pub mod bindings;
mod child;
mod choice;
mod context;
#[cfg(feature = "schemars")]
#[doc(hidden)]
#[allow(missing_docs, reason = "for the code that the macro writes")]
pub mod describe;
mod entry;
mod error;
mod executor;
mod failure;
mod logging;
mod panics;
mod parallel;
#[cfg(feature = "plugin")]
pub mod plugin;
mod policy;
mod repeat;
mod reply;
mod saga;
mod signal;
mod sleep;
mod step;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod time;

pub use agent::{Agent, agent};
pub use ask::{Ask, ask};
pub use call::{Call, call};
pub use child::{Child, OnParentClose, child};
pub use choice::{first_ok, quorum, race};
pub use context::{
    Budget, RunInfo, budget, cancelled, continue_as_new, info, patched, phase, publish, random,
};
pub use error::{Context, Error, Result};
pub use failure::{Failure, FailureKind};
pub use parallel::{Semaphore, parallel_map, try_parallel_map};
pub use policy::{Limits, Retry};
pub use repeat::{loop_until, retry, rounds};
pub use reply::{Reply, Usage};
pub use saga::{Saga, saga};
pub use signal::{Signal, post, send, signal};
pub use sleep::{Timeout, sleep, sleep_until, timeout};
pub use step::Step;
pub use time::{Timestamp, now};

/// The `log` crate, whose records become the log of the run.
pub use log;
pub use log::{debug, error, info, trace, warn};
/// The JSON library that inputs, answers and results go through.
pub use serde_json;
pub use serde_json::{Value, json};
/// Makes an `async fn` the workflow of this crate.
///
/// The function takes the run's input, any `serde::Deserialize` type (or nothing), and returns
/// [`Result`] of any `serde::Serialize` type. There is one workflow in a crate.
///
/// Input that does not fit fails the run as [`FailureKind::Rejected`] before the function is
/// called. A run without input has the input `null`; a struct whose fields all have defaults takes
/// that as `{}`.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # use wfhost::Result;
/// #[derive(serde::Deserialize)]
/// struct Input {
///     #[serde(default)]
///     name: Option<String>,
/// }
///
/// #[wfhost::workflow]
/// async fn hello(input: Input) -> Result<String> {
///     Ok(format!("Hello {}", input.name.as_deref().unwrap_or("world")))
/// }
/// # fn main() {}
/// ```
///
/// With the feature `schemars` a module can say what it takes and gives, so that `wfhost inspect` shows it and
/// `wfhost run` refuses an input that does not fit before there is a run. `wfhost build` makes the schemas of the
/// types, for which it compiles the crate a second time; nothing of that is in the module but its description. The
/// documentation of the function is its description.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// # #[cfg(feature = "schemars")]
/// # mod example {
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Input {
///     /// What to write about
///     topic: String,
/// }
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct Approval {
///     ok: bool,
/// }
///
/// /// Writes a report.
/// #[wfhost::workflow(
///     describe,
///     signal("approve": Approval, "Lets it be published"),
///     state("draft": String),
///     example(r#"{"topic": "bees"}"#),
///     provider("reviewer"),
///     workspace("repository"),
/// )]
/// async fn report(input: Input) -> wfhost::Result<String> {
///     let approval: Approval = wfhost::signal("approve").json().await?;
///     Ok(format!("{} {}", input.topic, approval.ok))
/// }
/// # }
/// # fn main() {}
/// ```
///
/// A workflow waits for things, so it has to be `async`:
///
/// ```compile_fail
/// # extern crate wfhost_sdk as wfhost;
/// #[wfhost::workflow]
/// fn hello() -> wfhost::Result<()> {
///     Ok(())
/// }
/// ```
///
/// and it can fail, so it returns a `Result`:
///
/// ```compile_fail
/// # extern crate wfhost_sdk as wfhost;
/// #[wfhost::workflow]
/// async fn hello() -> String {
///     String::new()
/// }
/// ```
pub use wfhost_sdk_macros::workflow;

/// Makes a test of each scenario of this project, for `cargo test`.
///
/// A file `tests/scenarios.rs` with the one line
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// wfhost::scenarios!();
/// ```
///
/// has a test for `wfhost-test.toml` and for each file `scenarios/*.toml` beside `Cargo.toml`; without any, one
/// of what every workflow has to keep. Each runs `wfhost test`, and shows the story of what went wrong. The
/// binary is the `wfhost` on the `PATH`, or the one that `WFHOST_BIN` names. Scenarios that are added are
/// noticed when the file is compiled the next time.
pub use wfhost_sdk_macros::scenarios;

/// Makes a function the agent of this crate: see [`plugin`].
///
/// The function takes a [`plugin::Call`] and returns [`plugin::Result`] of a [`plugin::Reply`] or of any
/// `serde::Serialize` type. There is one agent in a crate.
///
/// ```no_run
/// # extern crate wfhost_sdk as wfhost;
/// use wfhost::plugin::{Call, Result};
///
/// #[wfhost::agent]
/// fn shout(call: Call) -> Result<String> {
///     Ok(call.prompt.to_uppercase())
/// }
/// # fn main() {}
/// ```
#[cfg(feature = "plugin")]
pub use wfhost_sdk_macros::agent;

/// For the code that the macros write; not part of the interface.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "schemars")]
    pub use crate::describe;
    #[cfg(feature = "plugin")]
    pub use crate::plugin::{bindings as plugin_bindings, run as run_agent};
    pub use crate::{
        bindings,
        entry::{run, run_without_input},
    };

    /// What `#[workflow(describe)]` writes is there with the feature only.
    #[cfg(feature = "schemars")]
    #[macro_export]
    #[doc(hidden)]
    macro_rules! __described {
        ($($code:tt)*) => { $($code)* };
    }
    #[cfg(not(feature = "schemars"))]
    #[macro_export]
    #[doc(hidden)]
    macro_rules! __described {
        ($($code:tt)*) => {
            compile_error!(
                "a workflow that describes itself needs schemas of its types: switch on the feature `schemars` of \
                 wfhost-sdk, or put them into a describe.toml"
            );
        };
    }
    pub use crate::__described as described;
}
