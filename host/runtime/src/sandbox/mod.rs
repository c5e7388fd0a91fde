//! WASI 0.2 for workflows: ordinary standard libraries work, and see nothing
//! that is not a pure function of the journal. One file for each package.
//!
//! ```text
//! clocks      virtual time
//! poll        waiting is a durable sleep
//! streams     always ready
//! random      the run's stream
//! stdio       no input; what is printed goes to the run's log
//! cli         the environment that the run was given, no terminal
//! filesystem  private files in memory
//! grants      directories of the host, to read only
//! denied      imports that are linked only to report that they are not available
//! ```
//!
//! Everything else is refused before compilation (see [`crate::inspect`]).

mod cli;
mod clocks;
mod denied;
mod filesystem;
mod grants;
mod poll;
mod random;
mod stdio;
mod streams;

use wasmtime::component::{HasSelf, Linker};

pub(crate) use self::denied::link_denied;
pub(crate) use self::filesystem::Files;
pub use self::grants::GrantError;
pub(crate) use self::grants::{Granted, Snapshots};
pub use self::stdio::end_lines;
use crate::RunCtx;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wfhost:sandbox/wasi",
        imports: { default: async | trappable },
        with: {
            "wasi:io/error.error": super::streams::StreamFault,
            "wasi:io/poll.pollable": super::poll::Pollable,
            "wasi:io/streams.input-stream": super::streams::InputStream,
            "wasi:io/streams.output-stream": super::streams::OutputStream,
            "wasi:cli/terminal-input.terminal-input": super::cli::Terminal,
            "wasi:cli/terminal-output.terminal-output": super::cli::Terminal,
            "wasi:filesystem/types.descriptor": super::filesystem::Descriptor,
            "wasi:filesystem/types.directory-entry-stream": super::filesystem::DirectoryListing,
        },
    });
}

/// What a call costs in units of fuel, so that a program cannot keep the host
/// busy for longer than it could keep itself. Bytes cost one unit each.
pub(crate) mod cost {
    /// Something small.
    pub const CALL: u64 = 200;
    /// A step: an entry or two, and what the host does with them.
    pub const STEP: u64 = 2_000;
    /// A step of a list that is waited for.
    pub const MEMBER: u64 = 10;
    /// An operation on a file or a stream.
    pub const FILE: u64 = 1_000;
    /// A name in a listing.
    pub const NAME: u64 = 100;
}

/// Adds what workflows have of WASI to a linker. It serves modules built for
/// any patch version of 0.2.
pub(crate) fn link(linker: &mut Linker<RunCtx>) -> wasmtime::Result<()> {
    bindings::Wasi::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)
}
