//! `wfhost:workflow/types`: steps and waiting for them.

use wasmtime::component::Resource;
use wfhost_core::{Failure as CoreFailure, FailureKind, SetId, Step, limits};

use super::wit::types::{Failure, Host, HostStep, HostWaitSet};
use super::{Misuse, SetHandle, StepHandle, outcome_to_wit};
use crate::RunCtx;
use crate::sandbox::cost;

fn step(handle: &Resource<StepHandle>) -> Step {
    Step(handle.rep().into())
}

fn set(handle: &Resource<SetHandle>) -> SetId {
    SetId(handle.rep())
}

impl Host for RunCtx {
    async fn wait_any(&mut self, steps: Vec<Resource<StepHandle>>) -> wasmtime::Result<u32> {
        self.charge(cost::CALL + cost::MEMBER * steps.len() as u64).await;
        if steps.len() > limits::OPEN_STEPS {
            let limit = limits::OPEN_STEPS;
            let message = format!("the program waits for more than {limit} steps, as many as are allowed");
            return Err(Misuse(CoreFailure::new(FailureKind::Failed, message)).into());
        }
        let steps: Vec<_> = steps.iter().map(step).collect();
        let index = self.shared.wait(|machine| machine.poll_any(&steps)).await?;
        // The index of a list that came from 32-bit memory.
        Ok(index as u32)
    }
}

impl HostStep for RunCtx {
    fn id(&mut self, handle: Resource<StepHandle>) -> wasmtime::Result<u64> {
        Ok(step(&handle).0)
    }

    async fn get(&mut self, handle: Resource<StepHandle>) -> wasmtime::Result<Result<String, Failure>> {
        let step = step(&handle);
        let outcome = self.shared.wait(|machine| machine.poll_step(step)).await?;
        self.charge_outcome(&outcome).await;
        Ok(outcome_to_wit(outcome))
    }

    fn drop(&mut self, handle: Resource<StepHandle>) -> wasmtime::Result<()> {
        let clock = self.clock();
        Ok(self.shared.lock().machine.drop_step(step(&handle), clock)?)
    }
}

impl HostWaitSet for RunCtx {
    async fn new(&mut self) -> wasmtime::Result<Resource<SetHandle>> {
        self.charge(cost::CALL).await;
        Ok(Resource::new_own(self.shared.lock().machine.set_new().0))
    }

    async fn add(
        &mut self,
        handle: Resource<SetHandle>,
        member: Resource<StepHandle>,
        tag: u64,
    ) -> wasmtime::Result<()> {
        self.charge(cost::CALL).await;
        Ok(self.shared.lock().machine.set_add(set(&handle), step(&member), tag)?)
    }

    fn remove(&mut self, handle: Resource<SetHandle>, tag: u64) -> wasmtime::Result<()> {
        self.shared.lock().machine.set_remove(set(&handle), tag);
        Ok(())
    }

    async fn next(&mut self, handle: Resource<SetHandle>) -> wasmtime::Result<u64> {
        let set = set(&handle);
        Ok(self.shared.wait(|machine| machine.poll_set(set)).await?)
    }

    fn drop(&mut self, handle: Resource<SetHandle>) -> wasmtime::Result<()> {
        self.shared.lock().machine.set_drop(set(&handle));
        Ok(())
    }
}
