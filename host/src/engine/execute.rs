//! Carrying out what a program asked for.

use std::sync::Arc;

use wfhost_core::{Failure, FailureKind, Json, Op, Outcome, RunId, Step, Timestamp};

use super::DriveError;
use super::drive::{Done, Driver};
use crate::store::{MessageBody, NewMessage, Posted, SharedStore};

impl Driver<'_> {
    /// Begins a step.
    pub(super) fn execute(&mut self, step: Step, attempt: u32, op: Op) -> Result<(), DriveError> {
        let unavailable = |what: &str| {
            let message = format!("`{what}` is unavailable in this version of wfhost");
            Failure::new(FailureKind::Unavailable, message)
        };
        let failure = match op {
            Op::Agent(request) => return self.call_agent(step, attempt, *request),
            Op::Send { run, name, payload } => {
                let store = Arc::clone(self.drive.store);
                let id = format!("{}/{step}", self.drive.run);
                let target = run.parse::<RunId>();
                let wake = Arc::clone(&self.drive.wake);
                let now = self.drive.world.now();
                self.begin(step, async move {
                    let outcome = match target {
                        Ok(run) => {
                            let sent = send(&store, run.clone(), name, payload, id, now).await;
                            wake(&run);
                            sent
                        }
                        Err(error) => Err(Failure::new(FailureKind::Rejected, error.to_string())),
                    };
                    (step, Done::Step(outcome))
                });
                return Ok(());
            }
            Op::Child { .. } => unavailable("child"),
            Op::ContinueAsNew { .. } => unavailable("context.continue-as-new"),
            Op::Sleep { .. } | Op::SleepUntil { .. } | Op::Signal { .. } | Op::Ask { .. } => return Ok(()),
        };
        self.begin(step, std::future::ready((step, Done::Step(Err(failure)))));
        Ok(())
    }
}

/// Puts a signal into another run's inbox. The id makes a repetition harmless.
async fn send(
    store: &SharedStore,
    run: RunId,
    name: String,
    payload: Json,
    id: String,
    at: Timestamp,
) -> Outcome {
    let body = MessageBody::Signal { name, payload, id: Some(id) };
    let rejected = |message| Err(Failure::new(FailureKind::Rejected, message));
    match store.post(NewMessage { run: run.clone(), at, body }).await {
        Ok(Posted::Added | Posted::Duplicate) => Ok(Json::null()),
        Ok(Posted::Ended) => rejected(format!("{run} has ended")),
        Ok(Posted::NoSuchRun | Posted::NoQuestion) => rejected(format!("there is no run {run}")),
        Err(error) => Err(Failure::new(FailureKind::Unavailable, error.to_string())),
    }
}
