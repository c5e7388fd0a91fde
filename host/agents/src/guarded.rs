//! A provider whose secrets do not get out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use serde_json::Value;
use wfhost_core::policy::budget::Tells;
use wfhost_core::{Failure, Json, Reply};

use super::secret::{MASK, Redactor, SecretSource};
use super::{Call, CallEvent, CallFailure, CallOutput, Check, Provider, Stream};

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
/// secret in it is found although no event has all of it. The lines for people
/// are such a text as well.
struct Held {
    redactor: Redactor,
    out: CallOutput,
    waiting: VecDeque<CallEvent>,
    /// How many events came.
    number: u64,
    /// The texts that end with what may be the beginning of a secret, by their place in the events.
    begun: BTreeMap<String, Begun>,
}

/// The end of a text, which may be the beginning of a secret.
#[derive(Default)]
struct Begun {
    text: String,
    /// How many pieces it is made of.
    pieces: usize,
    /// The number of the event that the last one was in.
    at: u64,
}

/// Events that wait at most; then a secret would be a strange one.
const WAITING: usize = 1_000;
/// Places of events that are followed; there are few of them in a stream.
const PLACES: usize = 256;
/// So many events without a piece at its place, and a secret does not go on there.
const PATIENCE: u64 = 8;

impl Held {
    fn new(redactor: Redactor, out: CallOutput) -> Self {
        Self { redactor, out, waiting: VecDeque::new(), number: 0, begun: BTreeMap::new() }
    }

    fn shared(held: &Arc<Mutex<Self>>) -> Arc<Mutex<Self>> {
        Arc::clone(held)
    }

    fn take(&mut self, event: CallEvent) {
        // It has no text, and must not be late.
        if let CallEvent::Usage(_) = event {
            return self.out.send(event);
        }
        self.number += 1;
        let mut split = Vec::new();
        match &event {
            CallEvent::Line { stream, text } => self.piece(line_place(*stream), text, &mut split),
            CallEvent::Transcript(text) => match serde_json::from_str::<Value>(text) {
                Ok(value) => each_text(&value, &mut String::new(), &mut |place, piece| {
                    self.piece(place, piece, &mut split);
                }),
                Err(_) => self.piece(TEXT_PLACE, text, &mut split),
            },
            CallEvent::Heartbeat(_) | CallEvent::Usage(_) | CallEvent::Alive => {}
        }
        self.waiting.push_back(clean_event(&self.redactor, event));
        for (place, pieces) in split {
            self.mask(&place, pieces);
        }
        let number = self.number;
        self.begun.retain(|_, begun| number - begun.at <= PATIENCE);
        if self.begun.is_empty() || self.waiting.len() > WAITING {
            self.release();
        } else {
            // Something was heard, whatever is shown of it later.
            self.out.alive();
        }
    }

    /// Adds a piece to the text at a place. If a secret in it began in earlier ones, the place is `split`, with
    /// how many pieces have a part of it.
    fn piece(&mut self, place: &str, piece: &str, split: &mut Vec<(String, usize)>) {
        let Begun { mut text, mut pieces, .. } = self.begun.remove(place).unwrap_or_default();
        let before = text.len();
        text.push_str(piece);
        pieces += 1;
        if let Some(found) = self.redactor.places(&text) {
            if found.start < before {
                split.push((place.to_owned(), pieces));
            }
            text.drain(..found.end);
        }
        let begun = self.redactor.begun(&text);
        text.drain(..text.len() - begun);
        if begun > 0 && self.begun.len() < PLACES {
            pieces = if begun <= piece.len() { 1 } else { pieces };
            self.begun.insert(place.to_owned(), Begun { text, pieces, at: self.number });
        }
    }

    /// Masks the last pieces at a place of the events that wait, so many.
    fn mask(&mut self, place: &str, pieces: usize) {
        self.waiting
            .iter_mut()
            .rev()
            .filter_map(|event| mask_piece(event, place).then_some(()))
            .nth(pieces - 1);
    }

    /// Sends what waits.
    fn release(&mut self) {
        self.begun.clear();
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

/// The place of events of the transcript that are no JSON. No JSON pointer begins like that.
const TEXT_PLACE: &str = "text";

/// The place of the lines for people.
fn line_place(stream: Stream) -> &'static str {
    match stream {
        Stream::Answer => "answer",
        Stream::Progress => "progress",
    }
}

/// Masks what an event has at a place. Whether it has anything there.
fn mask_piece(event: &mut CallEvent, place: &str) -> bool {
    match event {
        CallEvent::Line { stream, text } if line_place(*stream) == place => *text = MASK.to_owned(),
        CallEvent::Transcript(text) => match serde_json::from_str::<Value>(text) {
            Ok(mut value) => match value.pointer_mut(place) {
                Some(piece @ Value::String(_)) => {
                    *piece = Value::from(MASK);
                    *text = value.to_string();
                }
                _ => return false,
            },
            Err(_) if place == TEXT_PLACE => *text = MASK.to_owned(),
            Err(_) => return false,
        },
        _ => return false,
    }
    true
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
        event @ (CallEvent::Usage(_) | CallEvent::Alive) => event,
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

    /// What is seen of events, but for signs of life.
    fn seen(events: impl IntoIterator<Item = CallEvent>) -> Vec<CallEvent> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, KEY).unwrap();
        let (out, seen) = crate::output::recorded();
        let mut held = Held::new(Redactor::of(&[SecretSource::File(path)]), out);
        events.into_iter().for_each(|event| held.take(event));
        drop(held);
        let seen = seen.lock().unwrap();
        seen.iter().filter(|event| **event != CallEvent::Alive).cloned().collect()
    }

    fn transcript(events: &[Value]) -> Vec<String> {
        let events = events.iter().map(|event| CallEvent::Transcript(event.to_string()));
        seen(events)
            .iter()
            .map(|event| match event {
                CallEvent::Transcript(text) => text.clone(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    fn line(text: &str) -> CallEvent {
        CallEvent::Line { stream: Stream::Answer, text: text.to_owned() }
    }

    #[test]
    fn a_secret_that_is_split_over_lines_is_found() {
        let other = || CallEvent::Line { stream: Stream::Progress, text: "works".to_owned() };
        for at in 1..KEY.len() {
            let (first, second) = KEY.split_at(at);
            // Lines come with the events that they are made of, and between those of others.
            let of = |text: &str| [CallEvent::Transcript(json!({ "line": text }).to_string()), line(text)];
            let events = [of("begins").to_vec(), of(first).to_vec(), vec![other()], of(second).to_vec()];
            let seen = seen(events.concat());
            assert_eq!(seen.len(), 7);
            let text = format!("{seen:?}");
            assert!(!text.contains(second) && text.contains("begins") && text.contains("works"), "{text}");
            assert_eq!(text.matches(MASK).count(), 4, "{text}");
        }
        // One behind another.
        let seen = seen([line(&format!("{KEY} {}", &KEY[..5])), line(&KEY[5..]), line("end")]);
        assert!(!format!("{seen:?}").contains(&KEY[5..]), "{seen:?}");
    }

    #[test]
    fn lines_without_a_secret_are_shown_at_once_and_in_order() {
        let (out, seen) = crate::output::recorded();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, KEY).unwrap();
        let mut held = Held::new(Redactor::of(&[SecretSource::File(path)]), out);
        held.take(line("one"));
        assert_eq!(*seen.lock().unwrap(), [line("one")]);
        // It could begin here, and does not.
        held.take(line("sk-"));
        assert_eq!(*seen.lock().unwrap(), [line("one"), CallEvent::Alive]);
        held.take(line("learn"));
        let shown = [line("one"), CallEvent::Alive, line("sk-"), line("learn")];
        assert_eq!(*seen.lock().unwrap(), shown);
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
