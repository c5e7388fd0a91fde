//! Carrying out what a program asked for.

use std::sync::Arc;

use futures_util::FutureExt;
use wfhost_core::{Failure, FailureKind, Json, Op, Outcome, RunId, Step, Timestamp};
use wfhost_store::{MessageBody, NewMessage, Posted, SharedStore};

use super::{Done, DriveError, Driver};

impl Driver<'_> {
    /// Begins a step.
    pub(super) fn execute(&mut self, step: Step, attempt: u32, op: Op) -> Result<(), DriveError> {
        match op {
            Op::Agent(request) => self.call_agent(step, attempt, *request)?,
            Op::Send { run, name, payload } => {
                let store = Arc::clone(self.drive.store);
                let id = format!("{}/{step}", self.drive.run);
                let target = run.parse::<RunId>();
                let wake = Arc::clone(&self.drive.wake);
                let now = self.drive.world.now();
                let sending = async move {
                    let outcome = match target {
                        Ok(run) => {
                            let (sent, run) = send(&store, run, name, payload, id, now).await;
                            wake(Some(&run));
                            sent
                        }
                        Err(error) => Err(Failure::new(FailureKind::Rejected, error.to_string())),
                    };
                    (step, Done::Step(outcome))
                };
                self.begin(step, sending.boxed());
            }
            // The driver does this one itself; the others are waited for.
            Op::ContinueAsNew { .. }
            | Op::Child { .. }
            | Op::Sleep { .. }
            | Op::SleepUntil { .. }
            | Op::Signal { .. }
            | Op::Ask { .. } => {}
        }
        Ok(())
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
    at: Timestamp,
) -> (Outcome, RunId) {
    let body = MessageBody::Signal { name, payload, id: Some(id) };
    let rejected = |message| Err(Failure::new(FailureKind::Rejected, message));
    let sent = loop {
        match store.post(NewMessage { run: run.clone(), at, body: body.clone() }).await {
            Ok(Posted::Added | Posted::Duplicate) => break Ok(Json::null()),
            Ok(Posted::Continued(next)) => run = next,
            Ok(Posted::Ended) => break rejected(format!("{run} has ended")),
            Ok(Posted::NoSuchRun | Posted::NoQuestion) => break rejected(format!("there is no run {run}")),
            Err(error) => break Err(Failure::new(FailureKind::Unavailable, error.to_string())),
        }
    };
    (sent, run)
}
