//! What shapes the behaviour of a run besides its module and its input. It is
//! recorded at the start, so that a resume elsewhere finds the same limits.

use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::policy::budget::Budget;

/// The configuration of one run.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
pub struct RunConfig {
    /// Who answers agent calls that name no provider.
    #[n(0)]
    pub agent: Option<String>,
    /// The greatest size of the program's linear memories together, in bytes.
    #[n(1)]
    pub memory_bytes: u64,
    /// Wasm instructions, about, that the program may execute between two steps.
    #[n(2)]
    pub fuel: u64,
    /// Bytes of the program's stack.
    #[n(3)]
    pub stack_bytes: u64,
    /// Where the rules of the provider `scripted` stand, so that a resume finds them.
    #[n(4)]
    pub script: Option<String>,
    /// What the run may spend; no limit if none.
    #[n(5)]
    pub budget: Option<Budget>,
    /// Agent calls of the run that are under way at the same time; no limit if none.
    #[n(6)]
    pub max_parallel: Option<u32>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            agent: None,
            memory_bytes: 512 << 20,
            fuel: 20_000_000_000,
            stack_bytes: 1 << 20,
            script: None,
            budget: None,
            max_parallel: None,
        }
    }
}
