//! WASI 0.2 for workflows: ordinary standard libraries work, and see nothing
//! that is not a pure function of the journal.
//!
//! Clocks show virtual time and their subscriptions are durable sleeps, random
//! numbers come from the run's stream, what is printed goes to the run's log;
//! there are no arguments, no environment, no files. Everything else is
//! refused before compilation (see [`crate::engine::inspect`]).

mod clocks;
mod random;
mod stdio;

use wasmtime::component::{HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiView};
use wasmtime_wasi_io::bindings::wasi::io;

use self::stdio::{Stdio, Stream};
use crate::engine::{RunCtx, Shared};

/// `wasi:io` works on the table of an execution.
struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// Adds what workflows have of WASI to a linker.
pub(crate) fn link(linker: &mut Linker<RunCtx>) -> wasmtime::Result<()> {
    io::error::add_to_linker::<_, Io>(linker, |ctx| ctx.ctx().table)?;
    io::poll::add_to_linker::<_, Io>(linker, |ctx| ctx.ctx().table)?;
    io::streams::add_to_linker::<_, Io>(linker, |ctx| ctx.ctx().table)?;
    bindings::clocks::wall_clock::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)?;
    bindings::clocks::monotonic_clock::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)?;
    bindings::random::random::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)?;
    bindings::random::insecure::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)?;
    bindings::random::insecure_seed::add_to_linker::<_, HasSelf<_>>(linker, |ctx| ctx)?;
    bindings::cli::exit::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::environment::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::stdin::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::stdout::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::stderr::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::terminal_input::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::terminal_output::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::terminal_stdin::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::terminal_stdout::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    bindings::cli::terminal_stderr::add_to_linker::<_, WasiCli>(linker, RunCtx::cli)?;
    // No directory is ever opened for the program, so these have nothing to work on.
    bindings::filesystem::preopens::add_to_linker::<_, WasiFilesystem>(linker, RunCtx::filesystem)?;
    bindings::filesystem::types::add_to_linker::<_, WasiFilesystem>(linker, RunCtx::filesystem)?;
    Ok(())
}

/// What one execution has of WASI.
pub(crate) fn context(shared: &Shared) -> WasiCtx {
    WasiCtxBuilder::new()
        .stdout(Stdio::new(shared, Stream::Stdout))
        .stderr(Stdio::new(shared, Stream::Stderr))
        .build()
}
