//! `wasi:clocks`: virtual time.

use wasmtime::component::Resource;
use wfhost_core::Timestamp;

use super::bindings::wasi::clocks::{monotonic_clock, wall_clock};
use super::poll::Pollable;
use crate::RunCtx;

pub(super) const NANOS_PER_MILLI: u64 = 1_000_000;

pub(super) fn datetime(at: Timestamp) -> wall_clock::Datetime {
    wall_clock::Datetime { seconds: at.0 / 1_000, nanoseconds: (at.0 % 1_000 * NANOS_PER_MILLI) as u32 }
}

impl RunCtx {
    /// Nanoseconds since the journal begins, and one millisecond: Go takes zero for a clock that stands.
    pub(super) fn monotonic_now(&self) -> u64 {
        let millis = self.shared.lock().machine.observed().elapsed_ms();
        millis.saturating_add(1).saturating_mul(NANOS_PER_MILLI)
    }
}

impl wall_clock::Host for RunCtx {
    async fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(datetime(self.shared.lock().machine.observed().now()))
    }

    async fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(datetime(Timestamp(1)))
    }
}

impl monotonic_clock::Host for RunCtx {
    async fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.monotonic_now())
    }

    async fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(NANOS_PER_MILLI)
    }

    async fn subscribe_instant(&mut self, deadline: u64) -> wasmtime::Result<Resource<Pollable>> {
        Ok(self.table.push(Pollable::Timer { deadline })?)
    }

    async fn subscribe_duration(&mut self, length: u64) -> wasmtime::Result<Resource<Pollable>> {
        let deadline = self.monotonic_now().saturating_add(length);
        Ok(self.table.push(Pollable::Timer { deadline })?)
    }
}
