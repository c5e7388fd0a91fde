//! Agents as components: a plugin answers the agent calls of workflows. Feature `plugin`.
//!
//! ```no_run
//! # extern crate wfhost_sdk as wfhost;
//! use wfhost::plugin::{Call, Result, http, line};
//!
//! #[wfhost::agent]
//! fn summarise(call: Call) -> Result<String> {
//!     line("asking");
//!     let response = http::post("https://api.example.com/v1/summaries")
//!         .json(&wfhost::json!({ "text": call.message }))
//!         .send()?
//!         .successful()?;
//!     let answer: wfhost::Value = response.json()?;
//!     Ok(answer["summary"].as_str().unwrap_or_default().to_owned())
//! }
//! # fn main() {}
//! ```
//!
//! A plugin runs once for each attempt at a call, in a sandbox of its own. Built for `wasm32-wasip2`, the standard
//! library's files, environment and clocks are those that the host's configuration grants; the network is reached
//! by [`http`]. What is not granted is denied when it is used.

#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, missing_docs, dead_code, unused, reason = "generated")]
#[doc(hidden)]
pub mod bindings;
mod call;
mod entry;
mod failure;
pub mod http;

pub use call::{Call, Exchange, Reply, Usage};
pub use entry::Answer;
#[doc(hidden)]
pub use entry::run;
pub use failure::{Failure, FailureKind, Result};

use bindings::wfhost::plugin::progress as host;

/// Shows a piece of the answer, as it comes.
pub fn chunk(text: &str) {
    host::chunk(text);
}

/// Shows a line about the work.
pub fn line(text: impl AsRef<str>) {
    host::line(text.as_ref());
}

/// Adds an event to the transcript of the call.
pub fn transcript(event: &serde_json::Value) {
    host::transcript(&event.to_string());
}

/// Says how far the work is. The next attempt finds the last one in [`Call::heartbeat`].
pub fn heartbeat(at: &serde_json::Value) {
    host::heartbeat(&at.to_string());
}

/// Whether the call was cancelled. A plugin that goes on all the same is stopped after a grace.
pub fn cancelled() -> bool {
    host::cancelled()
}
