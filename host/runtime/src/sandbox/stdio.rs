//! Standard input, which is empty, and standard output and error: lines of the
//! run's log.

use wasmtime::component::Resource;
use wfhost_core::LogLevel;
use wfhost_core::limits;

use super::bindings::wasi::cli::{stderr, stdin, stdout};
use super::streams::{InputStream, OutputStream};
use crate::{Inner, RunCtx};

/// One of the two outputs. All handles to it continue the same line.
#[derive(Clone, Copy, Debug)]
pub enum Stdio {
    Stdout,
    Stderr,
}

impl Stdio {
    pub(super) fn print(self, inner: &mut Inner, bytes: &[u8]) {
        let (index, name, level) = match self {
            Self::Stdout => (0, "stdout", LogLevel::Info),
            Self::Stderr => (1, "stderr", LogLevel::Warn),
        };
        for &byte in bytes {
            let line = &mut inner.partial_lines[index];
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() >= limits::LOG_LINE_BYTES {
                let line = std::mem::take(line);
                let message = String::from_utf8_lossy(&line).into_owned();
                if matches!(self, Self::Stderr) {
                    inner.hear(&message);
                }
                inner.log(level, message, vec![("stream".to_owned(), name.to_owned())]);
            }
        }
    }
}

/// The program is over: what it printed without ending the line is a line, too.
pub fn end_lines(inner: &mut Inner) {
    for (index, stdio) in [Stdio::Stdout, Stdio::Stderr].into_iter().enumerate() {
        if !inner.partial_lines[index].is_empty() {
            stdio.print(inner, b"\n");
        }
    }
}

impl stdin::Host for RunCtx {
    async fn get_stdin(&mut self) -> wasmtime::Result<Resource<InputStream>> {
        Ok(self.table.push(InputStream::Empty)?)
    }
}

impl stdout::Host for RunCtx {
    async fn get_stdout(&mut self) -> wasmtime::Result<Resource<OutputStream>> {
        Ok(self.table.push(OutputStream::Log(Stdio::Stdout))?)
    }
}

impl stderr::Host for RunCtx {
    async fn get_stderr(&mut self) -> wasmtime::Result<Resource<OutputStream>> {
        Ok(self.table.push(OutputStream::Log(Stdio::Stderr))?)
    }
}
