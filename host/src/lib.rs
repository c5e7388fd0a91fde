//! wfhost as a library: a [`Host`] runs workflows that cannot be lost.

pub mod agents;
pub mod build;
pub mod cli;
pub mod clock;
pub mod engine;
mod host;
mod imports;
pub mod owner;
mod sandbox;
pub mod store;

pub(crate) use host::fresh_id;
pub use host::{
    Ending, Evict, Host, HostError, HostOptions, RunHandle, StartOptions, StepInfo, is_held, steps,
};
