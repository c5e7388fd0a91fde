//! How a program ended, and what that makes of its run.

use wfhost_core::{End, Failure, FailureKind, Mismatch, Outcome, Stop};
use wfhost_runtime::{Ended, HostFault, end_lines, trap};
use wfhost_store::{Next, Part};

use super::inbox::asks_to_stop;
use super::{DriveError, Driven, Driver};

impl Driver<'_> {
    /// The program returned, trapped, or was stopped by the core.
    pub(super) async fn end(&mut self, ended: Ended) -> Result<Driven, DriveError> {
        end_lines(&mut self.shared.lock());
        let outcome = match ended {
            Ok(outcome) => Ok(outcome),
            Err(error) => match error.downcast_ref::<Stop>() {
                Some(stop) => Err(Stopped::By(stop.clone())),
                None => {
                    if let Some(source) = HostFault::of(&error) {
                        let why = "the run was asked to stop while it could not go on on this host";
                        let error = DriveError::Host { run: self.drive.run.clone(), source };
                        return self.stop_without_program(why).await?.ok_or(error);
                    }
                    let module = self.drive.store.module(self.drive.module.digest);
                    Err(Stopped::Failed(trap::explain(&error, &self.shared, module).await?))
                }
            },
        };
        let departs = |how: &str| self.shared.lock().machine.departure(how);
        match outcome {
            Ok(outcome) => {
                let returned = self.shared.lock().machine.returns(&outcome);
                match returned {
                    Ok(true) => self.commit_end(outcome, false).await,
                    Err(Stop::Mismatch(mismatch)) => self.refuse(mismatch).await,
                    // It has ended already, and agrees.
                    Ok(false) | Err(_) => self.ended_before(),
                }
            }
            Err(Stopped::By(Stop::Mismatch(mismatch))) => self.refuse(mismatch).await,
            Err(Stopped::By(Stop::Ended)) => self.ended_before(),
            Err(Stopped::By(stop)) => {
                let failure = Failure::new(FailureKind::Failed, stop.to_string());
                self.commit_end(Err(failure), true).await
            }
            // While there are entries left, that is no end of this run but another program.
            Err(Stopped::Failed(failure)) => match departs(&failure.message) {
                Some(mismatch) => self.refuse(mismatch).await,
                None => self.commit_end(Err(failure), true).await,
            },
        }
    }

    /// The journal has an end already.
    fn ended_before(&self) -> Result<Driven, DriveError> {
        let machine = &self.shared.lock().machine;
        match (machine.outcome(), machine.continued_as()) {
            (Some(outcome), _) => Ok(Driven::Ended(outcome.clone())),
            (None, Some(run)) => Ok(Driven::Continued(run.clone())),
            (None, None) => Err(DriveError::Instance("the program ended without an outcome".to_owned())),
        }
    }

    /// The program diverges from its journal: what it did in this execution is void. Only a
    /// request to stop can be carried out without it.
    async fn refuse(&mut self, mismatch: Box<Mismatch>) -> Result<Driven, DriveError> {
        self.shared.lock().emissions.clear();
        let why = "the run was asked to stop while its module diverged from its journal";
        if let Some(driven) = self.stop_without_program(why).await? {
            return Ok(driven);
        }
        self.append_bare(Next::Refuse { reason: mismatch.to_string() }).await?;
        Ok(Driven::Refused(mismatch))
    }

    /// Ends a run whose program cannot go on here, if it was asked to stop.
    pub(super) async fn stop_without_program(&mut self, why: &str) -> Result<Option<Driven>, DriveError> {
        let inbox = match self.inbox.take() {
            Some(inbox) => inbox,
            None => self.drive.store.inbox(self.drive.run, Part::Next).await?,
        };
        if !self.shared.lock().machine.cancel_requested() && !asks_to_stop(&inbox) {
            return Ok(None);
        }
        self.inbox = Some(inbox);
        self.read_inbox().await?;
        let driven = self.commit_end(Err(Failure::new(FailureKind::Cancelled, why)), true).await?;
        // Which steps had turns is known only of a program that has come through.
        self.give_back_turns().await;
        Ok(Some(driven))
    }

    /// Commits that the run ended so; `stopped` by the host, where the program stood.
    pub(super) async fn commit_end(&mut self, outcome: Outcome, stopped: bool) -> Result<Driven, DriveError> {
        self.append_end(|machine, now| {
            machine.settle_move(now);
            let (row, at) = machine.with_end(End::Finished { outcome: &outcome, stopped }, now);
            (Next::End { outcome: outcome.clone(), spent: machine.spent(now) }, row.into(), at)
        })
        .await?;
        Ok(Driven::Ended(outcome))
    }
}

/// How a program ended that did not return.
enum Stopped {
    /// The machine refused what it asked for.
    By(Stop),
    Failed(Failure),
}
