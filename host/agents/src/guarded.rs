//! A provider whose secrets do not get out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use serde_json::Value;
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Failure, Json, Reply};

use super::secret::{MASK, Redactor, SecretSource};
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

    fn redactor(&self) -> Redactor {
        Redactor::of(&self.secrets)
    }

    fn call(&self, call: Call, out: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        let redactor = self.redactor();
        if redactor.is_empty() {
            return self.inner.call(call, out);
        }
        let held = Arc::new(Mutex::new(Held::new(redactor.clone(), out)));
        let sink = {
            let held = Held::shared(&held);
            CallOutput::new(move |event| held.lock().unwrap_or_else(PoisonError::into_inner).take(event))
        };
        Box::pin(async move {
            let made = self.inner.call(call, sink).await;
            held.lock().unwrap_or_else(PoisonError::into_inner).release();
            match made {
                Ok(reply) => Ok(clean_reply(&redactor, reply)),
                Err(failure) => {
                    Err(CallFailure { failure: clean_failure(&redactor, failure.failure), ..failure })
                }
            }
        })
    }
}

/// Events that wait until it is known that no secret goes on in the next one.
///
/// Streams hand an answer out in pieces, each in an event of its own. So what
/// stands at one place of the events, one after the other, is one text: a
/// secret in it is found although no event has all of it.
struct Held {
    redactor: Redactor,
    out: CallOutput,
    waiting: VecDeque<CallEvent>,
    /// The end of the text at each place of the events for the transcript.
    texts: BTreeMap<String, String>,
}

/// Events that wait at most; then a secret would be a strange one.
const WAITING: usize = 1_000;
/// Places of events that are followed; there are few of them in a stream.
const PLACES: usize = 256;

impl Held {
    fn new(redactor: Redactor, out: CallOutput) -> Self {
        Self { redactor, out, waiting: VecDeque::new(), texts: BTreeMap::new() }
    }

    fn shared(held: &Arc<Mutex<Self>>) -> Arc<Mutex<Self>> {
        Arc::clone(held)
    }

    fn take(&mut self, event: CallEvent) {
        let CallEvent::Transcript(text) = event else {
            let event = clean_event(&self.redactor, event);
            match self.waiting.is_empty() {
                true => self.out.send(event),
                // In their order.
                false => self.waiting.push_back(event),
            }
            return;
        };
        self.waiting.push_back(CallEvent::Transcript(clean_text(&self.redactor, text.clone())));
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            if !self.redactor.may_go_on(&text) {
                self.release();
            }
            return;
        };
        let mut goes_on = false;
        let mut split = Vec::new();
        let (texts, redactor) = (&mut self.texts, &self.redactor);
        each_text(&value, &mut String::new(), &mut |place, piece| {
            if !texts.contains_key(place) && texts.len() >= PLACES {
                return;
            }
            let text = texts.entry(place.to_owned()).or_default();
            let before = text.len();
            text.push_str(piece);
            if redactor.finds(text) {
                // Not within one piece: those were cleaned.
                if before > 0 {
                    split.push(place.to_owned());
                }
                text.clear();
            } else if redactor.may_go_on(text) {
                goes_on = true;
            } else {
                text.clear();
            }
            let from = text.len().saturating_sub(redactor.longest());
            let from = text.ceil_char_boundary(from);
            text.drain(..from);
        });
        for place in split {
            self.mask(&place);
        }
        if !goes_on || self.waiting.len() > WAITING {
            self.release();
        }
    }

    /// Masks the pieces at a place of the events that wait.
    fn mask(&mut self, place: &str) {
        for event in &mut self.waiting {
            let CallEvent::Transcript(text) = event else { continue };
            let Ok(mut value) = serde_json::from_str::<Value>(text) else { continue };
            if let Some(piece @ Value::String(_)) = value.pointer_mut(place) {
                *piece = Value::from(MASK);
                *text = value.to_string();
            }
        }
    }

    /// Sends what waits.
    fn release(&mut self) {
        for event in self.waiting.drain(..) {
            self.out.send(event);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The call was stopped.
        self.release();
    }
}

/// Calls `see` with each text within a value and its place, a JSON pointer.
fn each_text(value: &Value, place: &mut String, see: &mut dyn FnMut(&str, &str)) {
    let mut below = |name: &str, value: &Value| {
        let length = place.len();
        place.push('/');
        place.push_str(&name.replace('~', "~0").replace('/', "~1"));
        each_text(value, place, see);
        place.truncate(length);
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| below(&at.to_string(), item)),
        Value::Object(members) => members.iter().for_each(|(name, member)| below(name, member)),
        Value::String(text) => see(place, text),
        _ => {}
    }
}

/// Text of the transcript: its strings are looked at if it is JSON, which may
/// write a secret in other ways.
fn clean_text(redactor: &Redactor, text: String) -> String {
    let text = redactor.clean(text);
    match text.contains("\\u").then(|| Json::parse(text.clone())) {
        Some(Ok(json)) => clean_json(redactor, json).as_str().to_owned(),
        _ => text,
    }
}

fn clean_event(redactor: &Redactor, event: CallEvent) -> CallEvent {
    match event {
        CallEvent::Line { stream, text } => CallEvent::Line { stream, text: redactor.clean(text) },
        CallEvent::Transcript(text) => CallEvent::Transcript(clean_text(redactor, text)),
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
pub(super) fn clean_json(redactor: &Redactor, json: Json) -> Json {
    // Most answers have none: what is to be found is there as it is, or written with a backslash.
    if !redactor.finds(json.as_str()) && !json.as_str().contains('\\') {
        return json;
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "sk-0123456789abcdef";

    fn transcript(events: &[Value]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, KEY).unwrap();
        let (out, seen) = crate::output::recorded();
        let mut held = Held::new(Redactor::of(&[SecretSource::File(path)]), out);
        for event in events {
            held.take(CallEvent::Transcript(event.to_string()));
        }
        drop(held);
        let seen = seen.lock().unwrap();
        seen.iter()
            .map(|event| match event {
                CallEvent::Transcript(text) => text.clone(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_secret_that_is_split_over_events_is_found() {
        let piece = |text: &str| json!({"type": "delta", "choices": [{"delta": {"content": text}}]});
        for at in 1..KEY.len() {
            let (first, second) = KEY.split_at(at);
            let events = [piece("the key is "), piece(first), piece(second), piece(" and more")];
            let seen = transcript(&events);
            assert_eq!(seen.len(), 4);
            let text: String = seen
                .iter()
                .map(|event| serde_json::from_str::<Value>(event).unwrap())
                .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
                .collect();
            assert!(!text.contains(KEY), "{text}");
            assert!(text.starts_with("the key is [redacted]") && text.ends_with(" and more"), "{text}");
        }
    }

    #[test]
    fn events_without_a_secret_stay_as_they_are() {
        let events = [json!({"a": "sk-"}), json!({"a": "learn"}), json!({"b": 1}), json!("s")];
        let seen = transcript(&events);
        assert_eq!(seen, events.map(|event| event.to_string()));
    }
}
