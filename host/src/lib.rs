//! wfhost as a library: a [`Host`] runs workflows that cannot be lost.
//!
//! What it is made of is here, too: the [`store`] that runs are kept in, the [`agents`] that they
//! call, the [`engine`] that executes them.

pub mod advice;
pub mod archive;
pub mod call;
mod calls;
mod described;
mod drive;
mod family;
pub mod fleet;
mod fork;
mod handle;
mod host;
mod observer;
mod records;
mod script;
mod surroundings;
pub mod verify;
mod virtual_time;
pub mod why;
mod worker;

pub use wfhost_agents as agents;
pub use wfhost_core as core;
pub use wfhost_core::{StepInfo, steps};
pub use wfhost_schema as schema;
pub use wfhost_store as store;
pub use wfhost_store::schedule;
pub use wfhost_world as world;
pub use wfhost_world::{clock, owner};

/// WebAssembly: what modules are, and how they are executed.
pub mod engine {
    pub use wfhost_runtime::{
        Cache, Denied, Engine, Frame, HostFault, Import, ImportClass, Module, ModuleError, ModuleSummary,
        StackError, check_stack, compile_in_processes, inspect, summarize,
    };

    pub use crate::drive::{Asked, DriveError, Replayed};
}

pub use described::{Described, Part, Said, Unfit, check_signal, described, latest};
pub use family::latest_round;
pub use fork::{Checked, ForkError, ForkOptions, ForkPreview, Upgraded};
pub use handle::{Ending, RunHandle};
pub use host::{
    Adopt, Configurations, Evict, Host, HostError, HostOptions, ResumeOptions, StartOptions, Submitted,
    check_reason, is_held, post,
};
pub use observer::{Notice, Observer, StepEnd};
pub use script::{CannotKeep, keep_script};
pub use surroundings::Surroundings;
pub use wfhost_runtime::GrantError;
