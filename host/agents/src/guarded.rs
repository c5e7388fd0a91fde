//! A provider whose secrets do not get out.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Failure, Json, Reply};

use super::secret::{Redactor, SecretSource};
use super::{Call, CallEvent, CallFailure, CallOutput, Check, Provider};

/// Wraps a provider: its secrets are taken out of its answers, failures, lines
/// and transcript, whatever the other side echoes.
#[derive(Debug)]
pub struct Guarded {
    inner: Arc<dyn Provider>,
    secrets: Vec<SecretSource>,
}

impl Guarded {
    pub fn new(inner: Arc<dyn Provider>, secrets: Vec<SecretSource>) -> Self {
        Self { inner, secrets }
    }
}

impl Provider for Guarded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn model(&self) -> Option<&str> {
        self.inner.model()
    }

    fn keeps_conversations(&self) -> bool {
        self.inner.keeps_conversations()
    }

    fn configuration(&self) -> String {
        self.inner.configuration()
    }

    fn tells(&self) -> Tells {
        self.inner.tells()
    }

    fn most_tokens(&self) -> Option<u64> {
        self.inner.most_tokens()
    }

    fn takes_heartbeats(&self) -> bool {
        self.inner.takes_heartbeats()
    }

    fn asks_people(&self) -> bool {
        self.inner.asks_people()
    }

    fn check(&self) -> Vec<Check> {
        self.inner.check()
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        let redactor = Redactor::of(&self.secrets);
        let sink = {
            let redactor = redactor.clone();
            CallOutput::new(move |event| out.send(clean_event(&redactor, event)))
        };
        Box::pin(async move {
            match self.inner.call(call, sink).await {
                Ok(reply) => Ok(clean_reply(&redactor, reply)),
                Err(failure) => {
                    Err(CallFailure { failure: clean_failure(&redactor, failure.failure), ..failure })
                }
            }
        })
    }
}

fn clean_event(redactor: &Redactor, event: CallEvent) -> CallEvent {
    match event {
        CallEvent::Line { stream, text } => CallEvent::Line { stream, text: redactor.clean(text) },
        CallEvent::Transcript(text) => CallEvent::Transcript(redactor.clean(text)),
        CallEvent::Heartbeat(json) => CallEvent::Heartbeat(clean_json(redactor, json)),
        CallEvent::Alive => CallEvent::Alive,
    }
}

fn clean_reply(redactor: &Redactor, reply: Reply) -> Reply {
    Reply {
        output: clean_json(redactor, reply.output),
        session: reply.session.map(|text| redactor.clean(text)),
        model: reply.model.map(|text| redactor.clean(text)),
        changes: reply.changes.map(|json| clean_json(redactor, json)),
        ..reply
    }
}

fn clean_failure(redactor: &Redactor, failure: Failure) -> Failure {
    Failure {
        message: redactor.clean(failure.message),
        details: failure.details.map(|json| clean_json(redactor, json)),
        ..failure
    }
}

/// The text of JSON may write a secret in other ways (`\u0073`), so its
/// strings are looked at. What has no secret is kept byte for byte.
fn clean_json(redactor: &Redactor, json: Json) -> Json {
    let mut value = json.value();
    if clean_value(redactor, &mut value) { Json::from(value) } else { json }
}

fn clean_value(redactor: &Redactor, value: &mut Value) -> bool {
    match value {
        Value::String(text) if redactor.finds(text) => {
            *text = redactor.clean(std::mem::take(text));
            true
        }
        // All of them, also behind one that had a secret.
        Value::Array(items) => {
            items.iter_mut().filter_map(|item| clean_value(redactor, item).then_some(())).count() > 0
        }
        Value::Object(members) => {
            let mut any = false;
            if members.keys().any(|key| redactor.finds(key)) {
                let old = std::mem::take(members);
                members.extend(old.into_iter().map(|(key, value)| (redactor.clean(key), value)));
                any = true;
            }
            members.values_mut().fold(any, |any, value| clean_value(redactor, value) || any)
        }
        _ => false,
    }
}
