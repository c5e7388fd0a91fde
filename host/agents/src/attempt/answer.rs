//! Asking within the time limits, and what is recorded of the answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::time::Instant;
use wfhost_core::policy::limits::Bound;
use wfhost_core::{FailureKind, Reply, TranscriptKind, limits, spell_millis};
use wfhost_schema::Schema;

use super::Attempt;
use crate::allowance::millis;
use crate::{CallFailure, session};

/// How long is looked for what changed in a workspace. The answer is there by then, and no limit of the call takes
/// it away.
const CHANGES_WITHIN: Duration = Duration::from_secs(60);

impl Attempt {
    /// Asks within the time limits.
    pub(super) async fn answer(&self, validator: Option<&Arc<Schema>>) -> Result<Reply, CallFailure> {
        self.recorder.begin();
        let (left, bound) = self.time.left();
        let too_late = async {
            tokio::select! {
                () = tokio::time::sleep(left) => bound,
                () = self.silence() => Bound::Heartbeat,
            }
        };
        // The call is made before anything else can happen.
        let reply = match select(pin!(self.turns(validator)), pin!(too_late)).await {
            Either::Left((reply, _)) => reply,
            Either::Right((bound, _)) => Err(self.time.out_of_time(bound)),
        };
        // All turns are paid for, however the last one ended.
        let used = self.used.get();
        let changes = match &self.call.workspace {
            Some(workspace) => {
                let changes = tokio::time::timeout(CHANGES_WITHIN, workspace.changes().boxed()).await;
                if changes.is_err() {
                    let within = spell_millis(millis(CHANGES_WITHIN));
                    let text = format!("what changed in the workspace could not be found within {within}");
                    self.recorder.note(TranscriptKind::Progress, text);
                }
                // An agent may have written down what it was given.
                changes.ok().flatten().map(|changes| changes.redacted(&self.provider.redactor()))
            }
            None => None,
        };
        if let Some(changes) = &changes
            && !changes.diff.is_empty()
        {
            self.recorder.note(TranscriptKind::Diff, changes.diff.clone());
        }
        let name = self.provider.name();
        let priced = |model: Option<&str>| {
            let models = model.into_iter().chain(self.models());
            used.map(|usage| self.policy.prices.priced(name, models, usage))
        };
        match reply {
            Ok(reply) => {
                let usage = priced(reply.model.as_deref());
                let session = match reply.session.clone() {
                    None if !self.provider.keeps_conversations() => {
                        Some(session::id(&self.call.run, self.call.step))
                    }
                    Some(session) if session.len() > limits::KEY_BYTES => {
                        let most = limits::KEY_BYTES;
                        let text = format!(
                            "the conversation cannot be continued: its id is longer than {most} bytes"
                        );
                        self.recorder.note(TranscriptKind::Progress, text);
                        None
                    }
                    session => session,
                };
                let model = reply.model.clone().map(|model| limits::cut(model, limits::NAME_BYTES));
                let size = reply.output.as_str().len();
                limits::check("an agent's answer", size, limits::ANSWER_BYTES).map_err(|error| {
                    CallFailure::new(FailureKind::InvalidOutput, error.to_string()).with_usage(usage)
                })?;
                Ok(Reply { usage, session, model, changes: changes.map(|changes| changes.summary), ..reply })
            }
            Err(failure) => Err(failure.with_usage(priced(None))),
        }
    }

    /// Ends when nothing was heard for too long; never without such a limit.
    async fn silence(&self) {
        let Some(silence) = self.time.silence() else { return std::future::pending().await };
        loop {
            let until = self.recorder.last_heard() + silence;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
