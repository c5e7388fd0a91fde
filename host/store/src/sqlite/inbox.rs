//! What is sent to runs: by outsiders, by their children, by the host.

use rusqlite::{Connection, OptionalExtension, params};
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Outcome, Recorded, RunId, Step, Timestamp};

use super::write::Result;
use crate::{MessageBody, NewMessage, PARENT_GONE, Posted, RunState};

/// Cancels the children of a run that are to end with it: that of a step, or all.
pub(super) fn cancel_children(
    c: &Connection,
    parent: &RunId,
    step: Option<Step>,
    at: Timestamp,
) -> Result<()> {
    let mut statement = c.prepare_cached(
        "SELECT name FROM runs WHERE parent = ?1 AND (?2 IS NULL OR parent_step = ?2) AND on_close = 0
         AND state NOT IN ('completed', 'failed', 'cancelled', 'continued')",
    )?;
    let lost = statement
        .query_map(params![parent.as_str(), step.map(|step| step.0 as i64)], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for name in lost {
        let body = MessageBody::Cancel { reason: Some(PARENT_GONE.to_owned()) };
        deliver(c, &name, at, &body)?;
    }
    Ok(())
}

/// Tells the parent of a run, if it has one, that this one has ended.
pub(super) fn tell_parent(
    c: &Connection,
    id: i64,
    outcome: &Outcome,
    spent: Spent,
    at: Timestamp,
) -> Result<()> {
    let child = c
        .prepare_cached("SELECT name, parent, parent_step FROM runs WHERE id = ?1 AND parent_step NOT NULL")?
        .query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((name, parent, step)) = child else { return Ok(()) };
    let Ok(run) = name.parse() else { return Ok(()) };
    let body = MessageBody::Child { step: Step(step as u64), run, outcome: outcome.clone(), spent };
    deliver(c, &parent, at, &body)
}

/// A run that something is sent to.
struct Addressee {
    id: i64,
    state: RunState,
    /// JSON: the names of the signals that it waits for.
    waits: Option<String>,
    free: bool,
    chain: Option<String>,
}

fn addressee(c: &Connection, name: &str) -> Result<Option<Addressee>> {
    let found = c
        .prepare_cached("SELECT id, state, wait_for, owner_host IS NULL, chain FROM runs WHERE name = ?1")?
        .query_row([name], |row| {
            Ok(Addressee {
                id: row.get(0)?,
                state: super::read::state_word(row, 1)?,
                waits: row.get(2)?,
                free: row.get(3)?,
                chain: row.get(4)?,
            })
        })
        .optional()?;
    Ok(found)
}

pub(super) fn post(c: &Connection, message: &NewMessage) -> Result<Posted> {
    let Some(to) = addressee(c, message.run.as_str())? else { return Ok(Posted::NoSuchRun) };
    if to.state == RunState::Continued && !matches!(message.body, MessageBody::Answer { .. }) {
        let latest: Option<String> = c
            .prepare_cached("SELECT name FROM runs WHERE chain = ?1 ORDER BY id DESC LIMIT 1")?
            .query_row([&to.chain], |row| row.get(0))
            .optional()?;
        let latest = latest.and_then(|name| name.parse().ok()).filter(|latest| *latest != message.run);
        return Ok(latest.map_or(Posted::Ended, Posted::Continued));
    }
    // Before the end is looked at: one that was delivered stays delivered, to whichever round.
    if let MessageBody::Signal { id: Some(id), .. } = &message.body
        && c.prepare_cached(
            "SELECT 1 FROM inbox WHERE dedupe = ?2
             AND (run = ?1 OR run IN (SELECT id FROM runs WHERE chain NOT NULL AND chain = ?3))",
        )?
        .exists(params![to.id, id, to.chain])?
    {
        return Ok(Posted::Duplicate);
    }
    if to.state.is_final() {
        return Ok(Posted::Ended);
    }
    match &message.body {
        MessageBody::Pause if to.free => {
            c.prepare_cached("UPDATE runs SET state = 'paused', due_at = NULL WHERE id = ?1")?
                .execute([to.id])?;
            return Ok(Posted::Added);
        }
        MessageBody::Answer { step, .. } => {
            let open = c
                .prepare_cached(
                    "UPDATE questions SET answered = 1 WHERE run = ?1 AND step = ?2 AND answered = 0",
                )?
                .execute(params![to.id, step.0 as i64])?;
            if open == 0 {
                return Ok(Posted::NoQuestion);
            }
        }
        _ => {}
    }
    hand_over(c, &to, message.at, &message.body)?;
    Ok(Posted::Added)
}

/// Puts a message of the host into the inbox of a run, unless that has ended.
pub(super) fn deliver(c: &Connection, name: &str, at: Timestamp, body: &MessageBody) -> Result<()> {
    match addressee(c, name)? {
        Some(to) if !to.state.is_final() => hand_over(c, &to, at, body),
        _ => Ok(()),
    }
}

/// Puts a message into an inbox. A run that nobody advances and that waits for this is due now.
fn hand_over(c: &Connection, to: &Addressee, at: Timestamp, body: &MessageBody) -> Result<()> {
    insert_message(c, to.id, at, body)?;
    let wanted = match (to.state, body) {
        (RunState::Waiting | RunState::Paused | RunState::Refused, MessageBody::Cancel { .. }) => true,
        (RunState::Waiting, MessageBody::Signal { name, .. }) => c
            .prepare_cached("SELECT 1 FROM json_each(?1) WHERE value = ?2")?
            .exists(params![to.waits.as_deref().unwrap_or("[]"), name])?,
        (RunState::Waiting, _) => true,
        _ => false,
    };
    if wanted {
        c.prepare_cached("UPDATE runs SET due_at = 0 WHERE id = ?1")?.execute([to.id])?;
    }
    Ok(())
}

/// The body of a child's end in the inbox.
pub(super) type ChildBody = (Step, RunId, Recorded, Spent);

/// The body of an answer in the inbox.
pub(super) type AnswerBody = (Step, Recorded, Option<String>, Option<String>);

pub(super) fn insert_message(c: &Connection, run: i64, at: Timestamp, body: &MessageBody) -> Result<()> {
    let (kind, name, text, dedupe, answer) = match body {
        MessageBody::Signal { name, payload, id } => {
            ("signal", Some(name.as_str()), Some(payload.as_str()), id.as_deref(), None)
        }
        MessageBody::Cancel { reason } => ("cancel", None, reason.as_deref(), None, None),
        MessageBody::Pause => ("pause", None, None, None, None),
        MessageBody::Answer { step, outcome, by, note } => {
            let body: AnswerBody = (*step, outcome.clone().into(), by.clone(), note.clone());
            let bytes = minicbor::to_vec(body).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
            ("answer", None, None, None, Some(bytes))
        }
        MessageBody::Child { step, run, outcome, spent } => {
            let body: ChildBody = (*step, run.clone(), outcome.clone().into(), *spent);
            let bytes = minicbor::to_vec(body).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
            ("child", None, None, None, Some(bytes))
        }
    };
    c.prepare_cached(
        "INSERT INTO inbox (run, at, kind, name, text, dedupe, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![run, at.0 as i64, kind, name, text, dedupe, answer])?;
    Ok(())
}
