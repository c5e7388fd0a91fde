//! Carrying out what a program asked for.

use std::sync::Arc;

use wfhost_core::{Failure, FailureKind, Json, Op, Outcome, Reply, RunId, Step, Timestamp, limits};

use super::DriveError;
use super::drive::Driver;
use crate::agents::Call;
use crate::store::{MessageBody, NewMessage, Posted, SharedStore};

impl Driver<'_> {
    /// Begins a step.
    pub(super) fn execute(&mut self, step: Step, attempt: u32, op: Op) -> Result<(), DriveError> {
        let unavailable = |what: &str| {
            let message = format!("`{what}` is unavailable in this version of wfhost");
            Failure::new(FailureKind::Unavailable, message)
        };
        let failure = match op {
            Op::Agent(request) => {
                let (key, default) = {
                    let inner = self.shared.lock();
                    let config = &inner.machine.started().config;
                    (inner.machine.idempotency_key(step), config.agent.clone())
                };
                let run = self.drive.run.clone();
                // Attempt n goes to the n-th of the list, the last one to the rest.
                let listed = request.providers.len().min(attempt as usize).checked_sub(1);
                let named = listed.map(|index| request.providers[index].clone());
                let providers = self.drive.providers;
                let chosen = match named {
                    Some(name) => providers.get(&name).ok_or(Some(name)),
                    None => providers.choose(default.as_deref()),
                };
                let provider = match chosen {
                    Ok(provider) => provider,
                    Err(Some(provider)) => return Err(DriveError::NoProvider { run, provider }),
                    Err(None) => return Err(DriveError::NoDefaultProvider { run }),
                };
                let call = Call { run, step, attempt, key, request: *request };
                self.begin(step, async move {
                    let reply = provider.call(call).await;
                    let outcome = reply
                        .and_then(|reply| answer(&reply))
                        .map_err(|failure| Failure { attempts: failure.attempts.max(attempt), ..failure });
                    (step, outcome)
                });
                return Ok(());
            }
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
                    (step, outcome)
                });
                return Ok(());
            }
            Op::Child { .. } => unavailable("child"),
            Op::ContinueAsNew { .. } => unavailable("context.continue-as-new"),
            Op::Sleep { .. } | Op::SleepUntil { .. } | Op::Signal { .. } | Op::Ask { .. } => return Ok(()),
        };
        self.begin(step, std::future::ready((step, Err(failure))));
        Ok(())
    }
}

/// What the journal keeps of an answer.
fn answer(reply: &Reply) -> Outcome {
    let invalid = |error: String| Failure::new(FailureKind::InvalidOutput, error);
    limits::check("an agent's answer", reply.output.as_str().len(), limits::ANSWER_BYTES)
        .map_err(|error| invalid(error.to_string()))?;
    let text = serde_json::to_string(reply).map_err(|error| invalid(error.to_string()))?;
    Json::parse(text).map_err(|error| invalid(error.to_string()))
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
