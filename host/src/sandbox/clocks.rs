//! `wasi:clocks`: virtual time, and durable sleeps.

use wasmtime::component::Resource;
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wfhost_core::{Op, Step};

use crate::engine::{RunCtx, Shared};

const NANOS_PER_MILLI: u64 = 1_000_000;

impl wall_clock::Host for RunCtx {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        let millis = self.shared.lock().machine.now().0;
        Ok(wall_clock::Datetime {
            seconds: millis / 1_000,
            nanoseconds: (millis % 1_000 * NANOS_PER_MILLI) as u32,
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: NANOS_PER_MILLI as u32 })
    }
}

impl monotonic_clock::Host for RunCtx {
    /// Nanoseconds since the run began.
    fn now(&mut self) -> wasmtime::Result<u64> {
        let inner = self.shared.lock();
        let millis = inner.machine.now().since(inner.machine.started_at());
        Ok(millis.saturating_mul(NANOS_PER_MILLI))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(NANOS_PER_MILLI)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = monotonic_clock::Host::now(self)?;
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, nanos: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let op = Op::Sleep { length_ms: nanos.div_ceil(NANOS_PER_MILLI) };
        let now = self.clock();
        let step = {
            let mut inner = self.shared.lock();
            inner.refuel = true;
            inner.machine.schedule(&op, now)?
        };
        let timer = Timer { step, shared: self.shared.clone() };
        let table = WasiView::ctx(self).table;
        let timer = table.push(timer)?;
        subscribe(table, timer)
    }
}

/// A sleep that a program's standard library asked for.
struct Timer {
    step: Step,
    shared: Shared,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        let step = self.step;
        // A stop of the machine is final: the next call of the program reports it.
        let _ = self.shared.wait(|machine| machine.poll_step(step)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // Also when the whole execution is dropped: then the machine is not used any more.
        let now = self.shared.clock();
        let _ = self.shared.lock().machine.drop_step(self.step, now);
    }
}
