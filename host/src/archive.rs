//! Runs as files: one JSON document a line, every byte of a run and its module.
//!
//! The first line describes the run, then come its module, the rows of its
//! journal, what it gave out, and what it has not taken from its inbox. The
//! last line has the number of lines before it and the BLAKE3 digest of their
//! bytes. Bytes are in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use wfhost_core::policy::budget::Spent;
use wfhost_core::{
    Digest, Epoch, Given, Journal, Json, Machine, Outcome, Position, Recorded, Row, RunId, Step, Timestamp,
};
use wfhost_store::{
    ImportedRun, LogLevel, LogLine, Message, MessageBody, OutMessage, Published, RunInfo, Snapshot, Store,
};
use wfhost_world::text::excerpt;

use crate::HostError;

/// A file that is no exported run, or not all of one.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("line {line} cannot be read: {reason}")]
    Line { line: usize, reason: String },
    #[error("the file is damaged: {0}")]
    Damaged(String),
}

impl From<wfhost_store::StoreError> for ArchiveError {
    fn from(error: wfhost_store::StoreError) -> Self {
        Self::Host(error.into())
    }
}

const SCHEMA: &str = "wfhost/export/1";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Run {
        schema: String,
        id: RunName,
        key: Option<String>,
        phase: Option<String>,
        emissions: u64,
        epoch: u64,
    },
    Module {
        digest: String,
        name: String,
        bytes: String,
    },
    Row {
        first: u64,
        count: u32,
        head: String,
        bytes: String,
    },
    Log {
        number: u64,
        at: u64,
        level: usize,
        message: String,
        fields: Vec<(String, String)>,
    },
    Message {
        number: u64,
        at: u64,
        name: String,
        payload: Json,
    },
    State {
        key: String,
        value: Json,
        /// Archives of the first version have only the latest values.
        #[serde(default)]
        number: u64,
        #[serde(default)]
        at: u64,
    },
    Signal {
        at: u64,
        name: String,
        payload: Json,
        id: Option<String>,
    },
    Cancel {
        at: u64,
        reason: Option<String>,
    },
    Answer {
        at: u64,
        step: u64,
        outcome: String,
        by: Option<String>,
        note: Option<String>,
    },
    Child {
        at: u64,
        step: u64,
        run: RunName,
        outcome: String,
        tokens: u64,
        micros: u64,
    },
    End {
        lines: usize,
        digest: String,
    },
}

/// An id, checked when it is read.
type RunName = String;

/// Writes a run with all that belongs to it.
pub async fn export(store: &dyn Store, info: &RunInfo) -> Result<String, ArchiveError> {
    let run = &info.id;
    // What it is at one moment: it may be going on.
    let snapshot = store.snapshot(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
    let Snapshot { info, rows, logs, messages, published, inbox } = snapshot;
    let mut lines = vec![Line::Run {
        schema: SCHEMA.to_owned(),
        id: run.to_string(),
        key: info.key.clone(),
        phase: info.phase.clone(),
        emissions: info.emissions,
        epoch: info.epoch.0,
    }];
    // What is damaged is not spread.
    let journal =
        Journal::read(rows.clone()).map_err(|source| HostError::Journal { run: run.clone(), source })?;
    let machine = Machine::open(journal, Given::Everything)
        .map_err(|source| HostError::Journal { run: run.clone(), source })?;
    let digest = machine.module();
    let bytes = store.module(digest).await?;
    let bytes = bytes.ok_or_else(|| HostError::NoModule { run: run.clone(), digest })?;
    lines.push(Line::Module {
        digest: digest.to_string(),
        name: info.workflow.clone(),
        bytes: STANDARD.encode(bytes),
    });
    lines.extend(rows.into_iter().map(|Row { first, count, bytes, head }| Line::Row {
        first: first.0,
        count,
        head: head.to_string(),
        bytes: STANDARD.encode(bytes),
    }));
    lines.extend(logs.into_iter().map(|line| Line::Log {
        number: line.number,
        at: line.at.0,
        level: line.level as usize,
        message: line.message,
        fields: line.fields,
    }));
    lines.extend(messages.into_iter().map(|message| Line::Message {
        number: message.number,
        at: message.at.0,
        name: message.name,
        payload: message.payload,
    }));
    lines.extend(published.into_iter().map(|published| Line::State {
        key: published.key,
        value: published.value,
        number: published.number,
        at: published.at.0,
    }));
    lines.extend(inbox.into_iter().filter_map(inbox_line));
    let mut text = String::new();
    for line in &lines {
        text.push_str(&to_json(line));
        text.push('\n');
    }
    let end = Line::End { lines: lines.len(), digest: Digest::of(text.as_bytes()).to_string() };
    text.push_str(&to_json(&end));
    text.push('\n');
    Ok(text)
}

fn to_json(line: &Line) -> String {
    serde_json::to_string(line).unwrap_or_else(|e| unreachable!("texts and numbers are always JSON: {e}"))
}

fn inbox_line(message: Message) -> Option<Line> {
    let at = message.at.0;
    Some(match message.body {
        MessageBody::Signal { name, payload, id } => Line::Signal { at, name, payload, id },
        MessageBody::Cancel { reason } => Line::Cancel { at, reason },
        MessageBody::Answer { step, outcome, by, note } => {
            Line::Answer { at, step: step.0, outcome: outcome_text(outcome), by, note }
        }
        MessageBody::Child { step, run, outcome, spent } => Line::Child {
            at,
            step: step.0,
            run: run.to_string(),
            outcome: outcome_text(outcome),
            tokens: spent.tokens,
            micros: spent.micros,
        },
        // An imported run is paused anyway.
        MessageBody::Pause => return None,
    })
}

fn outcome_text(outcome: Outcome) -> String {
    let bytes = minicbor::to_vec(Recorded::from(outcome));
    STANDARD.encode(bytes.unwrap_or_else(|e| unreachable!("encoding to memory: {e}")))
}

/// A run as a file has it.
pub struct Archive {
    pub run: ImportedRun,
    /// Its module, by name.
    pub module: (String, Vec<u8>),
}

/// Takes in a run that was exported. Gives its id.
pub async fn import(store: &dyn Store, text: &str) -> Result<RunId, ArchiveError> {
    let Archive { run, module: (name, module) } = read(text)?;
    let id = run.info.id.clone();
    store.put_module(&name, &module).await?;
    store.import(run).await?;
    Ok(id)
}

/// Reads an exported run, and checks that it is whole.
pub fn read(text: &str) -> Result<Archive, ArchiveError> {
    let damaged = |reason: &str| ArchiveError::Damaged(reason.to_owned());
    let mut lines = Vec::new();
    let mut offset = 0;
    let mut end = None;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if end.is_some() {
            return Err(damaged("there is data after its end"));
        }
        let parsed: Line = serde_json::from_str(line)
            .map_err(|error| ArchiveError::Line { line: index + 1, reason: excerpt(&error.to_string()) })?;
        match parsed {
            Line::End { lines, digest } => end = Some((lines, digest, offset)),
            other => lines.push(other),
        }
        offset += line.len();
    }
    let (count, digest, length) = end.ok_or_else(|| damaged("its end is missing"))?;
    if count != lines.len() || digest != Digest::of(&text.as_bytes()[..length]).to_string() {
        return Err(damaged("its digest differs"));
    }
    let mut lines = lines.into_iter();
    let (
        Some(Line::Run { schema, id, key, phase, emissions, epoch }),
        Some(Line::Module { digest, name, bytes }),
    ) = (lines.next(), lines.next())
    else {
        return Err(damaged("it does not start with a run and its module"));
    };
    if schema != SCHEMA {
        return Err(damaged("it has an unsupported version"));
    }
    let id: RunId = id.parse().map_err(|_| damaged("its id is invalid"))?;
    let decode = |text: &str| STANDARD.decode(text).map_err(|_| damaged("bytes are not base64"));
    let module = decode(&bytes)?;
    if Digest::of(&module).to_string() != digest {
        return Err(damaged("the content of the module does not match its digest"));
    }
    let contents = Contents::read(lines)?;
    let unusable = |source| HostError::Journal { run: id.clone(), source };
    let journal = Journal::read(contents.rows.clone()).map_err(unusable)?;
    let machine = Machine::open(journal, Given::Everything).map_err(unusable)?;
    if *machine.run() != id || machine.module().to_string() != digest {
        return Err(damaged("its journal belongs to another run"));
    }
    let run = ImportedRun {
        // Its project and its script are files of another machine.
        info: RunInfo {
            key,
            phase,
            epoch: Epoch(epoch),
            emissions,
            project: None,
            imported: true,
            ..RunInfo::of(&machine)
        },
        rows: contents.rows,
        emissions,
        // Where they were given out is not in the file.
        given: Given::Counted(emissions),
        logs: contents.logs,
        messages: contents.messages,
        state: contents.state,
        inbox: contents.inbox,
        questions: machine.open_questions(),
    };
    Ok(Archive { run, module: (name, module) })
}

fn read_outcome(bytes: &[u8]) -> Result<Outcome, ArchiveError> {
    let recorded = minicbor::decode::<Recorded>(bytes);
    recorded.map(Outcome::from).map_err(|_| ArchiveError::Damaged("an outcome cannot be read".to_owned()))
}

/// What a file has behind the run and its module.
#[derive(Default)]
struct Contents {
    rows: Vec<Row>,
    logs: Vec<LogLine>,
    messages: Vec<OutMessage>,
    state: Vec<Published>,
    inbox: Vec<(Timestamp, MessageBody)>,
}

impl Contents {
    fn read(lines: impl Iterator<Item = Line>) -> Result<Self, ArchiveError> {
        let strange = |what: &str| ArchiveError::Damaged(format!("{what} cannot be read"));
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| strange("base64"));
        let mut contents = Self::default();
        let message = |at, body| (Timestamp(at), body);
        for line in lines {
            match line {
                Line::Row { first, count, head, bytes } => contents.rows.push(Row {
                    first: Position(first),
                    count,
                    bytes: decode(&bytes)?,
                    head: Digest::parse(&head).ok_or_else(|| strange("a digest"))?,
                }),
                Line::Log { number, at, level, message, fields } => contents.logs.push(LogLine {
                    number,
                    at: Timestamp(at),
                    level: *LogLevel::ALL.get(level).ok_or_else(|| strange("a level"))?,
                    message,
                    fields,
                }),
                Line::Message { number, at, name, payload } => {
                    contents.messages.push(OutMessage { number, at: Timestamp(at), name, payload });
                }
                Line::State { key, value, number, at } => {
                    contents.state.push(Published { number, at: Timestamp(at), key, value });
                }
                Line::Signal { at, name, payload, id } => {
                    contents.inbox.push(message(at, MessageBody::Signal { name, payload, id }));
                }
                Line::Cancel { at, reason } => {
                    contents.inbox.push(message(at, MessageBody::Cancel { reason }));
                }
                Line::Child { at, step, run, outcome, tokens, micros } => {
                    let run = run.parse().map_err(|_| strange("an id"))?;
                    let (step, outcome) = (Step(step), read_outcome(&decode(&outcome)?)?);
                    let spent = Spent { tokens, micros, time_ms: 0 };
                    contents.inbox.push(message(at, MessageBody::Child { step, run, outcome, spent }));
                }
                Line::Answer { at, step, outcome, by, note } => {
                    let (step, outcome) = (Step(step), read_outcome(&decode(&outcome)?)?);
                    contents.inbox.push(message(at, MessageBody::Answer { step, outcome, by, note }));
                }
                Line::Run { .. } | Line::Module { .. } | Line::End { .. } => {
                    return Err(strange("a second run"));
                }
            }
        }
        Ok(contents)
    }
}
