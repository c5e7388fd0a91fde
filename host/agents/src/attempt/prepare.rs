//! What an attempt needs besides the request: a workspace, a schema, a conversation, the last heartbeat.
//!
//! Only the workspace is made before the attempt has its slots and its part of the budget, for that may take long. What
//! takes memory, and what has to be as it is when the provider is asked, comes after them.

use std::sync::Arc;

use futures_util::{FutureExt, TryFutureExt};
use wfhost_core::{FailureKind, Json};
use wfhost_schema::Schema;

use super::Attempt;
use crate::CallFailure;
use crate::session::{Asks, GoesOn};
use crate::workspace;

impl Attempt {
    /// Makes the workspace. Others can use the slots and the budget meanwhile.
    pub(super) async fn prepare(&mut self) -> Result<(), CallFailure> {
        let Some(name) = &self.call.request.workspace else { return Ok(()) };
        let known = &self.policy.workspaces;
        let config = known.get(name).ok_or_else(|| {
            let known: Vec<_> = known.keys().map(String::as_str).collect();
            CallFailure::new(
                FailureKind::Rejected,
                format!(
                    "unknown workspace `{name}`; configured are: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ),
            )
        })?;
        let origin = self.records.origin(&self.call.run).map_err(CallFailure::from);
        let origin = self.time.spend(origin).await?;
        let site = workspace::make(config, name, &origin, self.call.step, &mut self.time).await?;
        self.site = Some(site);
        Ok(())
    }

    /// Whether there is something to [take up](Self::take_up).
    pub(super) fn wants_more_than_its_request(&self) -> bool {
        let request = &self.call.request;
        self.site.is_some() || request.schema.is_some() || request.session.is_some() || self.call.attempt > 1
    }

    /// Takes up what the call begins with: what was said in its conversation, the last heartbeat, and what is in its
    /// workspace. Gives what its answer is compared with.
    pub(super) async fn take_up(&mut self) -> Result<Option<Arc<Schema>>, CallFailure> {
        let validator = match &self.call.request.schema {
            Some(schema) => {
                let read = Schema::read(schema).map_err(|error| {
                    let message = format!("the schema of the call is invalid: {error}");
                    CallFailure::new(FailureKind::Rejected, message)
                });
                Some(self.time.spend(read).await?)
            }
            None => None,
        };
        if let Some(id) = self.call.request.session.clone() {
            let listed = &self.call.request.providers;
            let asks = Asks {
                run: &self.call.run,
                provider: self.provider.name(),
                keeps: self.provider.keeps_conversations(),
                is_first: listed.first().is_none_or(|first| first == self.provider.name()),
            };
            let resumed = self.gate.conversations.resume(self.records.as_ref(), asks, &id);
            let GoesOn { session, history } = self.time.spend(resumed).await?;
            (self.call.session, self.call.history) = (session, history);
        }
        if self.provider.takes_heartbeats() && self.call.attempt > 1 && self.call.heartbeat.is_none() {
            // The host died before the attempt ended.
            let last = self.records.last_heartbeat(&self.call.run, self.call.step).map(Ok);
            let last = self.time.spend(last).await?;
            self.call.heartbeat = last.and_then(|text| Json::parse(text).ok());
        }
        // The last: what is in it now is what the agent finds.
        if let Some(site) = &self.site {
            let workspace = site.open(&mut self.time).await?;
            self.call.directory = workspace.directory().map(ToOwned::to_owned);
            self.call.workspace = Some(Arc::new(workspace));
        }
        Ok(validator)
    }

    /// Lays down what was taken up, to wait once more.
    pub(super) fn lay_down(&mut self) {
        self.call.history = Vec::new();
        self.call.workspace = None;
    }
}
