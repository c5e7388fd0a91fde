//! `wasi:io/streams` and `wasi:io/error`. Every stream is ready at all times:
//! standard input is at its end, files are in memory, what is printed is taken
//! at once.

use wasmtime::component::Resource;

use super::bindings::wasi::filesystem::types::ErrorCode;
use super::bindings::wasi::io::{error, streams};
use super::cost;
use super::filesystem::Held;
use super::poll::Pollable;
use super::stdio::Stdio;
use crate::RunCtx;

use super::bindings::wasi::io::streams::StreamError;

/// Bytes that a stream takes at once, as it tells those who ask.
const WRITE_BYTES: u64 = 64 << 10;

/// Where a program reads from.
#[derive(Debug)]
pub enum InputStream {
    /// Standard input.
    Empty,
    File {
        node: Held,
        at: u64,
    },
}

/// Where a program writes to.
#[derive(Debug)]
pub enum OutputStream {
    Log(Stdio),
    /// A file; at its end if `at` is none.
    File {
        node: Held,
        at: Option<u64>,
    },
}

/// Why a stream failed.
#[derive(Debug)]
pub struct StreamFault(pub(super) ErrorCode);

type Answer<T> = wasmtime::Result<Result<T, StreamError>>;

impl RunCtx {
    fn fault<T>(&mut self, code: ErrorCode) -> Answer<T> {
        Ok(Err(StreamError::LastOperationFailed(self.table.push(StreamFault(code))?)))
    }

    async fn read_stream(&mut self, stream: &Resource<InputStream>, length: u64) -> Answer<Vec<u8>> {
        let InputStream::File { node, at } = *self.table.get(stream)? else {
            return Ok(Err(StreamError::Closed));
        };
        if length == 0 {
            return Ok(Ok(Vec::new()));
        }
        let bytes = match self.files().read(node, at, length) {
            Ok([]) => return Ok(Err(StreamError::Closed)),
            Ok(bytes) => bytes.to_vec(),
            Err(code) => return self.fault(code),
        };
        self.charge(cost::FILE + bytes.len() as u64).await;
        if let InputStream::File { at, .. } = self.table.get_mut(stream)? {
            *at += bytes.len() as u64;
        }
        Ok(Ok(bytes))
    }

    async fn write_stream(&mut self, stream: &Resource<OutputStream>, bytes: &[u8]) -> Answer<()> {
        self.charge(cost::FILE + bytes.len() as u64).await;
        let (node, at) = match self.table.get(stream)? {
            OutputStream::Log(stdio) => {
                let stdio = *stdio;
                stdio.print(&mut self.shared.lock(), bytes);
                return Ok(Ok(()));
            }
            OutputStream::File { node, at } => (*node, *at),
        };
        if let Some(at) = at {
            // Between its end and there are zeros.
            let zeros = self.zeros(node, at);
            self.charge(zeros).await;
        }
        let now = self.shared.lock().machine.observed().now();
        let files = self.files();
        let written = match at {
            Some(at) => files.write(node, at, bytes, now),
            None => files.end(node).and_then(|end| files.write(node, end, bytes, now)),
        };
        if let Err(code) = written {
            return self.fault(code);
        }
        if let OutputStream::File { at: Some(at), .. } = self.table.get_mut(stream)? {
            *at += bytes.len() as u64;
        }
        Ok(Ok(()))
    }

    async fn write_zeros(&mut self, stream: &Resource<OutputStream>, length: u64) -> Answer<()> {
        if length > WRITE_BYTES {
            wasmtime::bail!("the program writes {length} zeros at once, {WRITE_BYTES} are allowed");
        }
        self.write_stream(stream, &vec![0; length as usize]).await
    }

    async fn copy(
        &mut self,
        to: &Resource<OutputStream>,
        from: &Resource<InputStream>,
        length: u64,
    ) -> Answer<u64> {
        match self.read_stream(from, length.min(WRITE_BYTES)).await? {
            Ok(bytes) => {
                let written = self.write_stream(to, &bytes).await?;
                Ok(written.map(|()| bytes.len() as u64))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}

impl streams::Host for RunCtx {}

impl streams::HostInputStream for RunCtx {
    async fn read(&mut self, stream: Resource<InputStream>, length: u64) -> Answer<Vec<u8>> {
        self.read_stream(&stream, length).await
    }

    async fn blocking_read(&mut self, stream: Resource<InputStream>, length: u64) -> Answer<Vec<u8>> {
        self.read_stream(&stream, length).await
    }

    async fn skip(&mut self, stream: Resource<InputStream>, length: u64) -> Answer<u64> {
        Ok(self.read_stream(&stream, length).await?.map(|bytes| bytes.len() as u64))
    }

    async fn blocking_skip(&mut self, stream: Resource<InputStream>, length: u64) -> Answer<u64> {
        Ok(self.read_stream(&stream, length).await?.map(|bytes| bytes.len() as u64))
    }

    async fn subscribe(&mut self, _: Resource<InputStream>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.table.push(Pollable::Ready)?)
    }

    async fn drop(&mut self, stream: Resource<InputStream>) -> wasmtime::Result<()> {
        if let InputStream::File { node, .. } = self.table.delete(stream)? {
            self.files().release(node);
        }
        Ok(())
    }
}

impl streams::HostOutputStream for RunCtx {
    async fn check_write(&mut self, _: Resource<OutputStream>) -> Answer<u64> {
        Ok(Ok(WRITE_BYTES))
    }

    async fn write(&mut self, stream: Resource<OutputStream>, bytes: Vec<u8>) -> Answer<()> {
        self.write_stream(&stream, &bytes).await
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<OutputStream>,
        bytes: Vec<u8>,
    ) -> Answer<()> {
        self.write_stream(&stream, &bytes).await
    }

    async fn flush(&mut self, _: Resource<OutputStream>) -> Answer<()> {
        Ok(Ok(()))
    }

    async fn blocking_flush(&mut self, _: Resource<OutputStream>) -> Answer<()> {
        Ok(Ok(()))
    }

    async fn subscribe(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.table.push(Pollable::Ready)?)
    }

    async fn write_zeroes(&mut self, stream: Resource<OutputStream>, length: u64) -> Answer<()> {
        self.write_zeros(&stream, length).await
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<OutputStream>,
        length: u64,
    ) -> Answer<()> {
        self.write_zeros(&stream, length).await
    }

    async fn splice(
        &mut self,
        to: Resource<OutputStream>,
        from: Resource<InputStream>,
        length: u64,
    ) -> Answer<u64> {
        self.copy(&to, &from, length).await
    }

    async fn blocking_splice(
        &mut self,
        to: Resource<OutputStream>,
        from: Resource<InputStream>,
        length: u64,
    ) -> Answer<u64> {
        self.copy(&to, &from, length).await
    }

    async fn drop(&mut self, stream: Resource<OutputStream>) -> wasmtime::Result<()> {
        if let OutputStream::File { node, .. } = self.table.delete(stream)? {
            self.files().release(node);
        }
        Ok(())
    }
}

impl error::Host for RunCtx {}

impl error::HostError for RunCtx {
    async fn to_debug_string(&mut self, error: Resource<StreamFault>) -> wasmtime::Result<String> {
        Ok(format!("{:?}", self.table.get(&error)?.0))
    }

    async fn drop(&mut self, error: Resource<StreamFault>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}
