//! Repeating journals without any effect.

use wfhost_core::{Given, Journal, Machine, RunId};
use wfhost_runtime::Module;

use super::{Host, HostError};
use crate::drive::{self, Replayed};

impl Host {
    /// Lets a module repeat a journal, without any effect. Gives what it gives out beside what is
    /// stored according to `given`.
    pub async fn replay(
        &self,
        id: &RunId,
        journal: Journal,
        module: &Module,
        given: Given,
    ) -> Result<Replayed, HostError> {
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let machine = Machine::open(journal, given).map_err(unusable)?;
        Ok(drive::replay(&self.inner.engine, self.store(), module, machine, &self.inner.world, false).await?)
    }

    /// The same with all emissions, and where in its source the program asks
    /// for each step.
    pub async fn trace(&self, id: &RunId, journal: Journal, module: &Module) -> Result<Replayed, HostError> {
        let unusable = |source| HostError::Journal { run: id.clone(), source };
        let machine = Machine::open(journal, Given::Nothing).map_err(unusable)?;
        Ok(drive::replay(&self.inner.engine, self.store(), module, machine, &self.inner.world, true).await?)
    }
}
