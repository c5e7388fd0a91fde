//! `wasi:io/poll`: waiting is a durable sleep.
//!
//! Streams are always ready, so the only thing to wait for is time. A timer is
//! ready once virtual time has reached its deadline, which is a pure function
//! of the journal; a program that has to wait sleeps until the earliest
//! deadline, which is one step. So several timers come ready in the same order
//! in every execution, and a timer that is never waited for costs no entry.

use wasmtime::component::Resource;
use wfhost_core::{Op, limits};

use super::bindings::wasi::io::poll::{Host, HostPollable};
use super::clocks::NANOS_PER_MILLI;
use super::cost;
use crate::RunCtx;

/// Something that a program may wait for.
#[derive(Clone, Copy, Debug)]
pub enum Pollable {
    Ready,
    /// Nanoseconds since the run began.
    Timer {
        deadline: u64,
    },
}

impl Pollable {
    /// When it is ready.
    fn deadline(self) -> u64 {
        match self {
            Self::Ready => 0,
            Self::Timer { deadline } => deadline,
        }
    }
}

impl RunCtx {
    /// Sleeps until a deadline, which lies ahead.
    async fn sleep_until(&mut self, deadline: u64) -> wasmtime::Result<()> {
        let length_ms = (deadline - self.monotonic_now()).div_ceil(NANOS_PER_MILLI);
        // A program that was asked to stop wakes early, as from any sleep.
        let _ = self.perform(&Op::Sleep { length_ms: length_ms.min(limits::SLEEP_MS) }).await?;
        Ok(())
    }
}

impl Host for RunCtx {
    async fn poll(&mut self, pollables: Vec<Resource<Pollable>>) -> wasmtime::Result<Vec<u32>> {
        self.charge(cost::CALL * pollables.len() as u64).await;
        let mut deadlines = Vec::with_capacity(pollables.len());
        for pollable in &pollables {
            deadlines.push(self.table.get(pollable)?.deadline());
        }
        let Some(&earliest) = deadlines.iter().min() else {
            wasmtime::bail!("the program polls nothing at all, for ever");
        };
        if earliest > self.monotonic_now() {
            self.sleep_until(earliest).await?;
            // Also when it was woken early: they count as reached from now on.
            for pollable in &pollables {
                let pollable = self.table.get_mut(pollable)?;
                if pollable.deadline() <= earliest {
                    *pollable = Pollable::Ready;
                }
            }
        }
        let now = self.monotonic_now().max(earliest);
        let indices = (0u32..).zip(deadlines);
        Ok(indices.filter(|(_, deadline)| *deadline <= now).map(|(index, _)| index).collect())
    }
}

impl HostPollable for RunCtx {
    async fn ready(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<bool> {
        self.charge(cost::CALL).await;
        Ok(self.table.get(&pollable)?.deadline() <= self.monotonic_now())
    }

    async fn block(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<()> {
        let deadline = self.table.get(&pollable)?.deadline();
        if deadline > self.monotonic_now() {
            self.sleep_until(deadline).await?;
            *self.table.get_mut(&pollable)? = Pollable::Ready;
        }
        Ok(())
    }

    async fn drop(&mut self, pollable: Resource<Pollable>) -> wasmtime::Result<()> {
        self.table.delete(pollable)?;
        Ok(())
    }
}
