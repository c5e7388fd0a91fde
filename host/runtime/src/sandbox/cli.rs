//! `wasi:cli`, but for the standard streams: the environment that the run was
//! given, the name of the workflow as the only argument, no terminal.

use wasmtime::component::Resource;
use wfhost_core::{Failure, FailureKind};

use super::bindings::wasi::cli::{
    environment, exit, terminal_input, terminal_output, terminal_stderr, terminal_stdin, terminal_stdout,
};
use crate::RunCtx;
use crate::imports::Misuse;

/// There is none, so a program never holds one.
pub enum Terminal {}

impl environment::Host for RunCtx {
    async fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.sandbox.env.clone())
    }

    async fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(vec![self.shared.lock().machine.started().workflow.clone()])
    }

    async fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(Some("/".to_owned()))
    }
}

/// A program ends by returning from `run`; leaving it in another way is a failure.
fn exited(code: u8) -> wasmtime::Result<()> {
    let message = format!("the program called exit({code}) instead of returning from `run`");
    Err(Misuse(Failure::new(FailureKind::Failed, message)).into())
}

impl exit::Host for RunCtx {
    async fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        exited(u8::from(status.is_err()))
    }

    async fn exit_with_code(&mut self, code: u8) -> wasmtime::Result<()> {
        exited(code)
    }
}

impl terminal_input::Host for RunCtx {}

impl terminal_input::HostTerminalInput for RunCtx {
    async fn drop(&mut self, terminal: Resource<Terminal>) -> wasmtime::Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}

impl terminal_output::Host for RunCtx {}

impl terminal_output::HostTerminalOutput for RunCtx {
    async fn drop(&mut self, terminal: Resource<Terminal>) -> wasmtime::Result<()> {
        self.table.delete(terminal)?;
        Ok(())
    }
}

impl terminal_stdin::Host for RunCtx {
    async fn get_terminal_stdin(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

impl terminal_stdout::Host for RunCtx {
    async fn get_terminal_stdout(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}

impl terminal_stderr::Host for RunCtx {
    async fn get_terminal_stderr(&mut self) -> wasmtime::Result<Option<Resource<Terminal>>> {
        Ok(None)
    }
}
