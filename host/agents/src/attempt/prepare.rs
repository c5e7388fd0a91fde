//! What an attempt needs besides the request: a workspace, a conversation, the last heartbeat.

use std::sync::Arc;
use std::time::Duration;

use wfhost_core::{FailureKind, Json};

use super::Attempt;
use crate::CallFailure;
use crate::session::{Asks, GoesOn};
use crate::workspace::{self, Site};

impl Attempt {
    /// Whether there is something to [prepare](Self::prepare).
    pub(super) fn wants_more_than_its_request(&self) -> bool {
        let request = &self.call.request;
        request.workspace.is_some() || request.session.is_some() || self.call.attempt > 1
    }

    /// Finds what the attempt needs besides the request, within its time limits.
    pub(super) async fn prepare(&mut self) -> Result<(), CallFailure> {
        let (millis, bound) = self.limits.attempt_at(self.since, self.world.now());
        let found = tokio::time::timeout(Duration::from_millis(millis), self.find()).await;
        found.unwrap_or_else(|_| Err(self.out_of_time(bound)))
    }

    async fn find(&mut self) -> Result<(), CallFailure> {
        if let Some(name) = &self.call.request.workspace {
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
            let origin = self.records.origin(&self.call.run).await?;
            self.site = Some(workspace::make(config, name, &origin, self.call.step).await?);
        }
        if let Some(id) = self.call.request.session.clone() {
            let listed = &self.call.request.providers;
            let asks = Asks {
                run: &self.call.run,
                provider: self.provider.name(),
                keeps: self.provider.keeps_conversations(),
                is_first: listed.first().is_none_or(|first| first == self.provider.name()),
            };
            let resumed = self.gate.conversations.resume(self.records.as_ref(), asks, &id).await?;
            let GoesOn { session, history } = resumed;
            (self.call.session, self.call.history) = (session, history);
        }
        if self.provider.takes_heartbeats() && self.call.attempt > 1 && self.call.heartbeat.is_none() {
            // The host died before the attempt ended.
            let last = self.records.last_heartbeat(&self.call.run, self.call.step).await;
            self.call.heartbeat = last.and_then(|text| Json::parse(text).ok());
        }
        Ok(())
    }

    /// Opens the workspace within the time limits: what is in it now is what the agent finds.
    pub(super) async fn open(&mut self, site: Site) -> Result<(), CallFailure> {
        let (millis, bound) = self.limits.attempt_at(self.since, self.world.now());
        let opened = tokio::time::timeout(Duration::from_millis(millis), site.open()).await;
        let workspace = opened.unwrap_or_else(|_| Err(self.out_of_time(bound)))?;
        self.call.directory = workspace.directory().map(ToOwned::to_owned);
        self.call.workspace = Some(Arc::new(workspace));
        Ok(())
    }
}
