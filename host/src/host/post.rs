//! What is sent to runs, by whoever it is.

use std::time::Duration;

use wfhost_core::{Json, RunId, limits};
use wfhost_schema as schema;
use wfhost_store::{MessageBody, NewMessage, Posted, SharedStore};

use super::{Host, HostError};
use crate::observer::Notice;
use crate::virtual_time::Planned;

impl Host {
    /// Sends a message to a run of this store, whichever process advances it, or to the
    /// run that it continues as. Tells which.
    pub async fn post(&self, run: &RunId, body: MessageBody) -> Result<(Posted, RunId), HostError> {
        let is_signal = matches!(body, MessageBody::Signal { .. });
        let posted = post(self.store(), run, body).await;
        if is_signal {
            let outcome = match &posted {
                Ok((Posted::Duplicate, _)) => "duplicate",
                Ok(_) => "posted",
                Err(_) => "refused",
            };
            self.inner.see(Notice::Signal { run, outcome });
        }
        let (posted, run) = posted?;
        self.inner.wake(&run);
        Ok((posted, run))
    }

    /// Has a paused or refused run go on, whichever process advances it then, and one that is about to be paused. False if
    /// it is neither.
    pub async fn unpause(&self, run: &RunId) -> Result<bool, HostError> {
        let changed = self.store().unpause(run).await?;
        self.inner.wake(run);
        Ok(changed)
    }

    /// Sends a signal to a run when so much virtual time has passed. Does nothing without
    /// [`HostOptions::virtual_time`].
    ///
    /// # Errors
    ///
    /// If the name or the payload is too large.
    pub fn plan_signal(
        &self,
        run: &RunId,
        after: Duration,
        name: &str,
        payload: Json,
    ) -> Result<(), HostError> {
        limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
        limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)?;
        if let Some(time) = &self.inner.time {
            let at = self.now().after(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            let body = MessageBody::Signal { name: name.to_owned(), payload, id: None };
            time.plan(Planned { at, run: run.clone(), body });
        }
        Ok(())
    }
}

/// Sends a message to a run of a store, or to the run that it continues as.
/// Tells which.
pub async fn post(store: &SharedStore, run: &RunId, body: MessageBody) -> Result<(Posted, RunId), HostError> {
    match &body {
        MessageBody::Signal { name, payload, id } => {
            limits::check("the name of a signal", name.len(), limits::NAME_BYTES)?;
            limits::check("a signal's payload", payload.as_str().len(), limits::SIGNAL_BYTES)?;
            limits::check("the id of a signal", id.as_ref().map_or(0, String::len), limits::KEY_BYTES)?;
        }
        MessageBody::Answer { step, outcome, .. } => {
            let missing = || HostError::NoQuestion { run: run.clone(), step: Some(*step) };
            let question = store.question(run, *step).await?.ok_or_else(missing)?;
            if let Ok(answer) = outcome {
                limits::check("an answer", answer.as_str().len(), limits::SIGNAL_BYTES)?;
                schema::check_answer(&question.question, answer).await?;
            }
        }
        MessageBody::Cancel { reason } => check_reason(reason.as_deref())?,
        MessageBody::Pause | MessageBody::Child { .. } => {}
    }
    let step = match &body {
        MessageBody::Answer { step, .. } => Some(*step),
        _ => None,
    };
    let mut run = run.clone();
    loop {
        return match store.post(NewMessage { run: run.clone(), body: body.clone() }).await? {
            Posted::Continued(next) => {
                run = next;
                continue;
            }
            Posted::Ended => Err(HostError::Ended { run }),
            Posted::NoSuchRun => Err(HostError::NoSuchRun(run)),
            Posted::NoQuestion => Err(HostError::NoQuestion { run, step }),
            posted @ (Posted::Added | Posted::Duplicate | Posted::Stopping) => Ok((posted, run)),
        };
    }
}

/// Refuses a reason that is too long for the record of a run.
pub fn check_reason(reason: Option<&str>) -> Result<(), HostError> {
    limits::check("the reason", reason.map_or(0, str::len), limits::MESSAGE_BYTES)?;
    Ok(())
}
