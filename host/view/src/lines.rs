//! What runs give out: lines of the log, of transcripts, messages, published values.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::clock::rfc3339;
use wfhost::store::{LogLine, OutMessage, Published, TranscriptLine};
use wfhost_core::{Json, RunId};

use crate::Anything;

/// A line of a run's log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LogView {
    pub at: String,
    pub fields: BTreeMap<String, String>,
    pub level: &'static str,
    pub message: String,
    /// Its number among what the run gave out.
    pub number: u64,
}

impl LogView {
    pub fn of(line: &LogLine) -> Self {
        let LogLine { number, at, level, message, fields } = line;
        Self {
            at: rfc3339(*at),
            fields: fields.iter().cloned().collect(),
            level: level.as_str(),
            message: message.clone(),
            number: *number,
        }
    }
}

/// Something that an agent said while it worked.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TranscriptView {
    pub at: String,
    pub attempt: u32,
    pub kind: &'static str,
    /// Greater for later ones, of all runs.
    pub number: u64,
    pub step: u64,
    pub text: String,
}

impl TranscriptView {
    pub fn of(TranscriptLine { number, line }: &TranscriptLine) -> Self {
        Self {
            at: rfc3339(line.at),
            attempt: line.attempt,
            kind: line.kind.as_str(),
            number: *number,
            step: line.step.0,
            text: line.text.clone(),
        }
    }
}

/// Something that a run posted for outsiders.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessageView {
    pub at: String,
    /// Its number among what the run gave out.
    pub id: u64,
    pub name: String,
    #[schema(value_type = Anything)]
    pub payload: Json,
}

impl MessageView {
    pub fn of(message: &OutMessage) -> Self {
        let OutMessage { number, at, name, payload } = message;
        Self { at: rfc3339(*at), id: *number, name: name.clone(), payload: payload.clone() }
    }
}

/// Messages of a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessagesView {
    /// To go on behind the last one.
    pub after: Option<u64>,
    pub messages: Vec<MessageView>,
    pub run: String,
    #[schema(example = "wfhost/messages/1")]
    pub schema: &'static str,
}

impl MessagesView {
    pub fn new(run: &RunId, after: Option<u64>, messages: &[OutMessage]) -> Self {
        Self {
            after: messages.last().map(|message| message.number).or(after),
            messages: messages.iter().map(MessageView::of).collect(),
            run: run.to_string(),
            schema: "wfhost/messages/1",
        }
    }
}

/// A value that a run published.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PublishedView {
    pub at: String,
    pub key: String,
    /// Its number among what the run gave out.
    pub number: u64,
    pub run: String,
    #[schema(example = "wfhost/state/1")]
    pub schema: &'static str,
    #[schema(value_type = Anything)]
    pub value: Json,
}

impl PublishedView {
    pub fn of(run: &RunId, published: &Published) -> Self {
        Self {
            at: rfc3339(published.at),
            key: published.key.clone(),
            number: published.number,
            run: run.to_string(),
            schema: "wfhost/state/1",
            value: published.value.clone(),
        }
    }
}
