//! Going on with runs, with a budget or a module of their own if so asked.

use std::sync::Arc;

use wfhost_agents::Providers;
use wfhost_core::policy::budget::Budget;
use wfhost_core::{FailureKind, Given, Machine, RunId};
use wfhost_runtime::Module;
use wfhost_store::{ClaimHow, Claimed};

use super::retry::Again;
use super::{Host, HostError};
use crate::handle::RunHandle;
use crate::worker::{From, InHand, Ready};

/// How a run is resumed.
#[derive(Clone, Debug, Default)]
pub struct ResumeOptions {
    /// Who answers its calls here, if not those that the host was given.
    pub providers: Option<Providers>,
    /// The module that it goes on with. Its journal has to agree.
    pub module: Option<Module>,
    /// What it may spend from now on; what is not said stays. A run that failed
    /// because it had spent its budget goes on with the calls that it could not pay for.
    /// One that this host advances already is to be paused before.
    pub budget: Option<Budget>,
}

impl Host {
    /// Goes on with a run, also one that is paused or refused. One that has
    /// ended, or that a living process advances, is an error; but a run that
    /// failed continues where it failed if it is given a fixed module.
    pub async fn resume(&self, id: &RunId, options: ResumeOptions) -> Result<RunHandle, HostError> {
        if options.budget.is_some() && options.module.is_none() && self.has_spent_all(id).await? {
            return self.retry(id, None, options).await;
        }
        let how = match &options.module {
            Some(module) => self.check_move(id, module).await?,
            None => ClaimHow::Asked,
        };
        if how == ClaimHow::Reopen {
            return self.again(id, Again::WithOtherCode, options).await;
        }
        let _room = self.inner.room().await;
        let in_hand = self.inner.take_in_hand(id).await;
        match self.inner.claim_and_open(id, how, options.module.as_ref()).await? {
            Ok(mut ready) => {
                self.change_budget(&mut ready.machine, options.budget);
                Ok(self.follow(in_hand, ready, options))
            }
            Err(refused) => {
                in_hand.let_go();
                match refused {
                    Claimed::Held { .. } if self.inner.is_live(id) && options.module.is_none() => {
                        match options.budget {
                            Some(_) => Err(HostError::Driven { run: id.clone() }),
                            None => {
                                // It may be about to be paused.
                                self.unpause(id).await?;
                                Ok(self.watch(id))
                            }
                        }
                    }
                    refused => Err(self.refused(id, refused)),
                }
            }
        }
    }

    /// Whether the run failed because it had spent its budget.
    async fn has_spent_all(&self, id: &RunId) -> Result<bool, HostError> {
        let info = self.inner.store.run(id).await?;
        let outcome = info.filter(|info| info.state.is_final()).and_then(|info| info.outcome);
        Ok(matches!(outcome, Some(Err(failure)) if failure.kind == FailureKind::BudgetExceeded))
    }

    /// Whether a run can be moved to a module, and how it has to be claimed then.
    async fn check_move(&self, id: &RunId, module: &Module) -> Result<ClaimHow, HostError> {
        let info = self.inner.store.run(id).await?.ok_or_else(|| HostError::NoSuchRun(id.clone()))?;
        let mut journal = self.inner.journal(id).await?;
        let how = if info.state.is_final() {
            // A fixed program continues where the old one failed.
            let retry = Again::WithOtherCode
                .plan(&journal)
                .map_err(|reason| HostError::CannotRetry { run: id.clone(), reason })?;
            retry.append(&mut journal, info.emissions, self.inner.world.now());
            ClaimHow::Reopen
        } else {
            ClaimHow::Asked
        };
        match self.replay(id, journal, module, Given::Everything).await?.refusal() {
            None => Ok(how),
            Some(mismatch) => {
                Err(HostError::Departs { run: id.clone(), old: info.module, new: module.digest, mismatch })
            }
        }
    }

    pub(super) fn change_budget(&self, machine: &mut Machine, budget: Option<Budget>) {
        if let Some(budget) = budget {
            machine.change_budget(budget.or(machine.budget()), self.inner.world.now());
        }
    }

    pub(super) fn follow(&self, in_hand: InHand, ready: Ready, options: ResumeOptions) -> RunHandle {
        let id = in_hand.run().clone();
        let follower = self.inner.watch(&id, options.providers);
        self.inner.begin(in_hand, From::Ready(Box::new(ready)));
        self.serve();
        RunHandle::new(id, Arc::clone(&self.inner), follower)
    }
}
