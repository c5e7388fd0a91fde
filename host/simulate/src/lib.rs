//! Tests of workflows by simulation.
//!
//! A program observes nothing but its journal, so its whole world can be simulated: agents that are
//! slow and fail, people who answer late or never, signals that come early and twice, a host that is
//! killed at any moment. Each [`Execution`] follows from a [`Scenario`] and a seed, in virtual time: a
//! week's approval takes no longer than the program does.
//!
//! [`Simulator::explore`] tries many seeds on all processors. What it finds is a [`Finding`]: the
//! seed, a short story of what happened, and the run as `wfhost db import` takes it.

mod chance;
mod execution;
mod explore;
mod numbers;
mod outside;
mod processes;
mod scenario;
mod tally;
mod verdict;

pub use self::execution::{Event, Execution};
pub use self::explore::{Coverage, Finding, Report, Simulator, SimulatorError, Wanted};
pub use self::processes::execute_in_processes;
pub use self::scenario::{Scenario, ScenarioError};
pub use self::verdict::{Fault, FaultKind};
