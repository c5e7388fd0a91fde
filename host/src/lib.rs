//! wfhost as a library: a [`Host`] runs workflows that cannot be lost.

pub mod agents;
pub mod archive;
pub mod build;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
mod family;
mod fork;
mod handle;
mod history;
mod host;
mod imports;
pub mod owner;
mod sandbox;
pub mod schedule;
pub mod schema;
pub mod store;
pub mod units;
pub mod verify;
pub mod why;
mod worker;
pub mod world;

pub use crate::sandbox::GrantError;
pub use fork::{Checked, ForkError, ForkOptions, Upgraded};
pub use handle::{Ending, RunHandle};
pub use history::{StepInfo, steps};
pub(crate) use host::fresh_id;
pub use host::{Adopt, Evict, Host, HostError, HostOptions, ResumeOptions, StartOptions, is_held, post};
