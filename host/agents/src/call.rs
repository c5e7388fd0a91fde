//! One attempt at an agent call, and how it fails.

use std::path::PathBuf;
use std::sync::Arc;

use wfhost_core::{AgentRequest, Failure, FailureKind, Json, RunId, Step, Usage, policy};

use super::workspace::Workspace;

/// One attempt at a call.
#[derive(Clone, Debug)]
pub struct Call {
    pub run: RunId,
    pub step: Step,
    /// Counted from 1; greater if the host died during the attempts before.
    pub attempt: u32,
    /// Who is asked: the name in the request's list whose turn it is, which one provider may answer to for many.
    pub provider: String,
    /// The same for every attempt at this step, and for no other step.
    pub key: String,
    pub request: Arc<AgentRequest>,
    /// What was said before in this attempt: answers that did not fit the
    /// schema, each with the correction that was asked for. The last
    /// correction is what is to be answered.
    pub turns: Vec<Turn>,
    /// What the attempt before reported last about its progress.
    pub heartbeat: Option<Json>,
    /// Where a program works. The host's own directory if none.
    pub directory: Option<PathBuf>,
    /// The conversation to continue, by the provider's own id. Another
    /// provider's is none.
    pub session: Option<String>,
    /// What was asked and answered before in the conversation of the request's
    /// session, for providers that do not have it.
    pub history: Vec<(Arc<str>, Arc<str>)>,
    pub(crate) workspace: Option<Arc<Workspace>>,
}

/// An answer that did not do, and what was said to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    pub answer: String,
    /// The conversation of that answer, if the provider keeps conversations.
    pub session: Option<String>,
    pub correction: String,
}

impl Call {
    /// A call without anything before it.
    pub fn new(run: RunId, step: Step, attempt: u32, key: String, request: AgentRequest) -> Self {
        Self {
            run,
            step,
            attempt,
            provider: String::new(),
            key,
            session: request.session.clone(),
            request: Arc::new(request),
            turns: Vec::new(),
            heartbeat: None,
            directory: None,
            history: Vec::new(),
            workspace: None,
        }
    }

    /// The first message of the conversation for agents that read text: the
    /// prompt, the input, and what form the answer has to have.
    pub fn opening(&self) -> String {
        opening(&self.request)
    }

    /// The conversation to continue: the one of the last turn, else the one
    /// of the request.
    pub fn session(&self) -> Option<&str> {
        let last = self.turns.last().and_then(|turn| turn.session.as_deref());
        last.or(self.session.as_deref())
    }

    /// The message to send into [`Self::session`], or to an agent without a
    /// memory: then everything that was said before is in it.
    pub fn message(&self) -> String {
        match self.turns.last() {
            None => self.retold(),
            Some(turn) if turn.session.is_some() => turn.correction.clone(),
            Some(_) => {
                let mut text = self.retold();
                for turn in &self.turns {
                    text.push_str("\n\nYou answered:\n");
                    text.push_str(&turn.answer);
                    text.push_str("\n\n");
                    text.push_str(&turn.correction);
                }
                text
            }
        }
    }
}

impl Call {
    /// The first message with what was said before, if the agent does not know it.
    fn retold(&self) -> String {
        if self.history.is_empty() || self.session.is_some() {
            return self.opening();
        }
        let mut text = "This conversation goes on:\n".to_owned();
        for (asked, answered) in &self.history {
            text.push_str("\nUser:\n");
            text.push_str(asked);
            text.push_str("\n\nYou:\n");
            text.push_str(answered);
            text.push('\n');
        }
        text.push_str("\nUser:\n");
        text.push_str(&self.opening());
        text
    }
}

/// The first message for a request: see [`Call::opening`].
pub(super) fn opening(request: &AgentRequest) -> String {
    let mut text = request.prompt.clone();
    if let Some(input) = &request.input {
        text.push_str("\n\nInput:\n```json\n");
        text.push_str(input.as_str());
        text.push_str("\n```");
    }
    if let Some(schema) = &request.schema {
        text.push_str("\n\n");
        text.push_str(&policy::structured::instruction(schema));
    }
    text
}

/// An attempt that failed, with what decides about the next one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{failure}")]
pub struct CallFailure {
    pub failure: Failure,
    /// Authentication or billing failed: the provider is disabled for this run
    /// any more.
    pub auth: bool,
    /// The provider asks not to be called again before that much time is over.
    pub retry_after_ms: Option<u64>,
    /// The same provider would do no better another time.
    pub exhausted: bool,
    /// What the attempt consumed all the same.
    pub usage: Option<Usage>,
}

impl CallFailure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Failure::new(kind, message).into()
    }

    /// Authentication or billing failed.
    pub fn auth(message: impl Into<String>) -> Self {
        Self { auth: true, ..Self::new(FailureKind::Rejected, message) }
    }

    #[must_use]
    pub fn with_usage(self, usage: Option<Usage>) -> Self {
        Self { usage, ..self }
    }
}

impl From<Failure> for CallFailure {
    fn from(failure: Failure) -> Self {
        Self { failure, auth: false, retry_after_ms: None, exhausted: false, usage: None }
    }
}
