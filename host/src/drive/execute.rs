//! Carrying out what a program asked for.

use std::sync::Arc;

use futures_util::FutureExt;
use wfhost_core::{Failure, FailureKind, Json, Op, Outcome, RunId, Step};
use wfhost_store::{MessageBody, NewMessage, Posted, SharedStore, StoreError, Wake};

use super::{Done, Driver};

impl Driver<'_> {
    /// Begins a step.
    pub(super) fn execute(&mut self, step: Step, attempt: u32, op: Op) {
        match op {
            Op::Agent(request) => self.call_agent(step, attempt, *request),
            Op::Send { run, name, payload } => {
                let store = Arc::clone(self.drive.store);
                let id = format!("{}/{step}", self.drive.run);
                let target = run.parse::<RunId>();
                let wake = Arc::clone(&self.drive.wake);
                let sending = async move {
                    let run = match target {
                        Ok(run) => run,
                        Err(error) => {
                            let failure = Failure::new(FailureKind::Rejected, error.to_string());
                            return Done::Step(Err(failure));
                        }
                    };
                    match send(&store, run, name, payload, id).await {
                        Ok((sent, run)) => {
                            wake(&[Wake::Run(run)]);
                            Done::Step(sent)
                        }
                        // It may have been delivered: the next host tries again, under the same id.
                        Err(error) => Done::Unknown(error),
                    }
                };
                self.calls.begin((step, attempt), sending.boxed());
            }
            // The driver does this one itself; the others are waited for.
            Op::ContinueAsNew { .. }
            | Op::Child { .. }
            | Op::Sleep { .. }
            | Op::SleepUntil { .. }
            | Op::Signal { .. }
            | Op::Ask { .. } => {}
        }
    }
}

/// Puts a signal into another run's inbox, or that of the run that it goes on
/// as, and tells which. The id makes a repetition harmless.
async fn send(
    store: &SharedStore,
    mut run: RunId,
    name: String,
    payload: Json,
    id: String,
) -> Result<(Outcome, RunId), StoreError> {
    let body = MessageBody::Signal { name, payload, id: Some(id) };
    let rejected = |message| Err(Failure::new(FailureKind::Rejected, message));
    let sent = loop {
        match store.post(NewMessage { run: run.clone(), body: body.clone() }).await? {
            Posted::Added | Posted::Duplicate => break Ok(Json::null()),
            Posted::Continued(next) => run = next,
            Posted::Ended => break rejected(format!("{run} has ended")),
            Posted::NoSuchRun | Posted::NoQuestion | Posted::Stopping => {
                break rejected(format!("unknown run {run}"));
            }
        }
    };
    Ok((sent, run))
}
