//! What shapes the behaviour of a run besides its module and its input. It is
//! recorded at the start, so that a resume elsewhere finds the same limits.

use minicbor::{Decode, Encode};
use serde::Serialize;

use crate::policy::budget::Budget;
use crate::{Digest, limits};

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
    /// Bytes of the program's stack: WebAssembly frames, as the compiler of this version lays them
    /// out. [`limits::STACK_BYTES`] unless something else is asked for.
    #[n(3)]
    pub stack_bytes: u64,
    /// Where the rules of the provider `scripted` stand, so that a resume finds them.
    #[n(4)]
    pub script: Option<String>,
    /// What the run may spend; no limit if none.
    #[n(5)]
    pub budget: Option<Budget>,
    /// Agent calls of the run in flight; no limit if none.
    #[n(6)]
    pub max_parallel: Option<u32>,
    /// Journals of the first versions have none: then the defaults hold.
    #[n(7)]
    pub sandbox: Option<Sandbox>,
    /// The directory where the modules of children are looked for by name.
    #[n(8)]
    pub modules: Option<String>,
    /// The project that the run belongs to, and its children with it: the canonical path of its
    /// configuration file. Only hosts that serve that project take the run up.
    #[n(9)]
    pub project: Option<String>,
    /// The span of whoever asked for the run, as a `traceparent` of W3C Trace Context. What the run begins
    /// has others.
    #[n(10)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The digest of these rules, under which the store keeps them: a host that has no such file, or another
    /// one, answers by them as well.
    #[n(11)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_digest: Option<Digest>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            agent: None,
            memory_bytes: 512 << 20,
            fuel: 20_000_000_000,
            stack_bytes: limits::STACK_BYTES,
            script: None,
            budget: None,
            max_parallel: None,
            sandbox: Some(Sandbox::default()),
            modules: None,
            project: None,
            caller: None,
            script_digest: None,
        }
    }
}

/// A limit, as people are told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Limit {
    pub name: &'static str,
    pub value: u64,
    pub meaning: &'static str,
}

impl RunConfig {
    /// Every limit that holds for a run with this configuration.
    pub fn limits(&self) -> Vec<Limit> {
        let sandbox = self.sandbox.clone().unwrap_or_default();
        let limit = |name, value, meaning| Limit { name, value, meaning };
        vec![
            limit("memory_bytes", self.memory_bytes, "linear memory"),
            limit("stack_bytes", self.stack_bytes, "stack"),
            limit("table_elements", limits::TABLE_ELEMENTS, "elements of all tables"),
            limit("fuel", self.fuel, "instructions between two steps"),
            limit("total_fuel", sandbox.total_fuel, "instructions in total"),
            limit("entries", sandbox.entries, "entries of the journal"),
            limit("open_steps", limits::OPEN_STEPS as u64, "steps open at the same time"),
            limit("set_members", limits::SET_MEMBERS as u64, "members of all wait sets"),
            limit("children", limits::CHILDREN as u64, "children of one run"),
            limit("child_depth", limits::CHILD_DEPTH.into(), "depth of nested children"),
            limit("handles", sandbox.handles.into(), "handles open at the same time"),
            limit("call_bytes", sandbox.call_bytes, "bytes of all requests"),
            limit("one_call_bytes", limits::CALL_BYTES as u64, "bytes of one request"),
            limit("transfer_bytes", limits::TRANSFER_BYTES as u64, "bytes passed in one call"),
            limit("output_bytes", sandbox.output_bytes, "bytes logged and published"),
            limit("log_line_bytes", limits::LOG_LINE_BYTES as u64, "bytes of a line; the rest is truncated"),
            limit("input_bytes", limits::INPUT_BYTES as u64, "bytes of the input, and of the result"),
            limit("answer_bytes", limits::ANSWER_BYTES as u64, "bytes of an agent's answer"),
            limit("signal_bytes", limits::SIGNAL_BYTES as u64, "bytes of a signal"),
            limit(
                "message_bytes",
                limits::MESSAGE_BYTES as u64,
                "bytes of a failure's text; the rest is truncated",
            ),
            limit("details_bytes", limits::DETAILS_BYTES as u64, "bytes of a failure's details"),
            limit("held_bytes", limits::HELD_BYTES, "bytes of answers held at the same time"),
            limit("state_bytes", limits::STATE_BYTES as u64, "bytes of a published value"),
            limit("name_bytes", limits::NAME_BYTES as u64, "bytes of a name"),
            limit("random_bytes", limits::RANDOM_BYTES, "random bytes at once"),
            limit("env_bytes", limits::ENV_BYTES as u64, "bytes of the environment"),
            limit("file_bytes", sandbox.file_bytes, "bytes in private files"),
            limit("files", sandbox.files.into(), "private files and directories"),
            limit("grant_bytes", limits::GRANT_BYTES, "bytes in a granted directory"),
        ]
    }
}

/// What a program may use up in its whole life, and what it is given besides
/// its input. Memory and the fuel of one slice are older and stand beside it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Sandbox {
    /// Wasm instructions, about, in the whole run. A replay has to execute them
    /// again, so this bounds how long a replay computes.
    #[n(0)]
    pub total_fuel: u64,
    /// Entries of the journal, after which the program gets no further step.
    #[n(1)]
    pub entries: u64,
    /// Bytes of everything that the program's steps ask for, together.
    #[n(2)]
    pub call_bytes: u64,
    /// Bytes of what the program logs, prints and publishes, together.
    #[n(3)]
    pub output_bytes: u64,
    /// Handles that are open at the same time: steps, wait sets, files, streams.
    #[n(4)]
    pub handles: u32,
    /// Bytes in the program's private files.
    #[n(5)]
    pub file_bytes: u64,
    /// Private files, directories and links.
    #[n(6)]
    pub files: u32,
    /// Variables of the program's environment.
    #[n(7)]
    pub env: Vec<(String, String)>,
    /// Directories of the host that the program may read.
    #[n(8)]
    pub grants: Vec<Grant>,
}

/// A directory of the host that a program may read. It has to be the same
/// whenever the run goes on.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct Grant {
    /// Its absolute path on the host.
    #[n(0)]
    pub host: String,
    /// Where the program sees it: an absolute path.
    #[n(1)]
    pub guest: String,
    /// Of all that was in it when the run began.
    #[n(2)]
    pub digest: Digest,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            total_fuel: 1_000_000_000_000,
            entries: 1_000_000,
            call_bytes: 256 << 20,
            output_bytes: 64 << 20,
            handles: 131_072,
            file_bytes: 64 << 20,
            files: 10_000,
            env: Vec::new(),
            grants: Vec::new(),
        }
    }
}
