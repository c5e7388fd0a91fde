//! `wfhost:workflow/context`

use wfhost_core::{Emission, Gift, Op, limits};

use super::wit::context::{Host, RunInfo, Spending};
use super::{Misuse, json};
use crate::RunCtx;
use crate::sandbox::cost;

impl Host for RunCtx {
    async fn info(&mut self) -> wasmtime::Result<RunInfo> {
        let bytes = {
            let inner = self.shared.lock();
            let labels = &inner.machine.started().labels;
            labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        };
        self.charge(cost::CALL + bytes as u64).await;
        let inner = self.shared.lock();
        let seen = inner.machine.observed();
        Ok(RunInfo {
            run: seen.run().to_string(),
            workflow: seen.workflow().to_owned(),
            digest: seen.module().to_string(),
            parent: seen.parent().map(ToString::to_string),
            started: seen.started_at().0,
            attempt: 1,
            labels: seen.labels().to_vec(),
        })
    }

    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.shared.lock().machine.observed().now().0)
    }

    async fn random(&mut self) -> wasmtime::Result<u64> {
        self.charge(cost::CALL).await;
        let mut bytes = [0; 8];
        self.shared.lock().machine.random(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn budget(&mut self) -> wasmtime::Result<Spending> {
        let inner = self.shared.lock();
        let seen = inner.machine.observed();
        Ok(Spending { total: seen.budget().tokens, spent: seen.spent().tokens })
    }

    async fn patched(&mut self, id: String) -> wasmtime::Result<bool> {
        // A first time is an entry.
        self.charge_entry(id.len() as u64).await?;
        let clock = self.clock();
        Ok(self.shared.lock().machine.patched(&id, clock)?)
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.shared.lock().machine.observed().cancelled())
    }

    async fn phase(&mut self, mut title: String) -> wasmtime::Result<()> {
        self.charge(cost::CALL + title.len() as u64).await;
        title.truncate(title.floor_char_boundary(limits::NAME_BYTES));
        // Whoever watches can do without one when the run has said too much.
        self.shared.lock().emit(title.len(), Gift::Line, |at| Emission::Phase { title, at });
        Ok(())
    }

    async fn publish(&mut self, key: String, value: String) -> wasmtime::Result<()> {
        limits::check("a published key", key.len(), limits::NAME_BYTES)?;
        limits::check("a published value", value.len(), limits::STATE_BYTES)?;
        let bytes = key.len() + value.len();
        self.charge(cost::CALL + bytes as u64).await;
        let value = json("a published value", value)?;
        self.give_out(bytes, Gift::Value, |at| Emission::State { key, value, at })
    }

    async fn continue_as_new(&mut self, input: String) -> wasmtime::Result<()> {
        let op = Op::ContinueAsNew { input: json("an input", input)? };
        match self.perform(&op).await? {
            Ok(_) => Ok(()),
            Err(failure) => Err(Misuse(failure).into()),
        }
    }
}
