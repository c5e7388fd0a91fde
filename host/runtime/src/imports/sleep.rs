//! `wfhost:workflow/sleep`

use wasmtime::component::Resource;
use wfhost_core::Op;

use super::wit::sleep::{Failure, Host};
use super::{StepHandle, failure_to_wit};
use crate::RunCtx;

impl Host for RunCtx {
    async fn sleep(&mut self, length: u64) -> wasmtime::Result<Result<(), Failure>> {
        let outcome = self.perform(&Op::Sleep { length_ms: length }).await?;
        Ok(outcome.map(drop).map_err(failure_to_wit))
    }

    async fn sleep_until(&mut self, at: u64) -> wasmtime::Result<Result<(), Failure>> {
        let outcome = self.perform(&Op::SleepUntil { at }).await?;
        Ok(outcome.map(drop).map_err(failure_to_wit))
    }

    async fn start(&mut self, at: u64) -> wasmtime::Result<Resource<StepHandle>> {
        RunCtx::start(self, &Op::SleepUntil { at }).await
    }

    async fn start_for(&mut self, length: u64) -> wasmtime::Result<Resource<StepHandle>> {
        RunCtx::start(self, &Op::Sleep { length_ms: length }).await
    }
}
