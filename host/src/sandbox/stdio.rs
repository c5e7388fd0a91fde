//! Standard output and error: lines of the run's log.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wfhost_core::limits;

use crate::engine::Shared;
use crate::store::LogLevel;

#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One of the two streams. All handles to it continue the same line.
#[derive(Clone, Debug)]
pub(super) struct Stdio {
    shared: Shared,
    stream: Stream,
}

impl Stdio {
    pub(super) fn new(shared: &Shared, stream: Stream) -> Self {
        Self { shared: shared.clone(), stream }
    }

    fn print(&self, bytes: &[u8]) {
        let (index, name, level) = match self.stream {
            Stream::Stdout => (0, "stdout", LogLevel::Info),
            Stream::Stderr => (1, "stderr", LogLevel::Warn),
        };
        let mut inner = self.shared.lock();
        for &byte in bytes {
            let line = &mut inner.partial_lines[index];
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() >= limits::LOG_LINE_BYTES {
                let line = std::mem::take(line);
                let message = String::from_utf8_lossy(&line).into_owned();
                inner.log(level, message, vec![("stream".to_owned(), name.to_owned())]);
            }
        }
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(limits::LOG_LINE_BYTES)
    }
}
