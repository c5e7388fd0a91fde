//! What is sent to runs: by outsiders, by their children, by the host.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params};
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Outcome, Recorded, RunId, Step, Timestamp};

use super::write::{Result, millis, to_json};
use super::{SqliteStore, read};
use crate::{
    Inbox, Mail, MessageBody, NewMessage, PARENT_GONE, Part, Posted, Result as StoreResult, RunState,
    Waiting, stored,
};

impl Mail for SqliteStore {
    fn post(&self, message: NewMessage) -> BoxFuture<'_, StoreResult<Posted>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| post(c, &message, clock.now())).boxed()
    }

    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, StoreResult<Inbox>> {
        async move { self.read_briefly(|c| read::inbox_of(c, run, part)) }.boxed()
    }
}

/// Cancels the children of a run that are to end with it: that of a step, or all. Gives their names.
pub(super) fn cancel_children(
    c: &Connection,
    parent: &RunId,
    step: Option<Step>,
    at: Timestamp,
) -> Result<Vec<String>> {
    let name = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let lost = match step {
        Some(step) => c
            .prepare_cached(
                "SELECT name FROM runs WHERE parent = ?1 AND parent_step = ?2 AND on_close = 0
                 AND state NOT IN ('completed', 'failed', 'cancelled', 'continued')",
            )?
            .query_map(params![parent.as_str(), stored(step.0)], name)?
            .collect::<rusqlite::Result<Vec<_>>>()?,
        None => c
            .prepare_cached(
                "SELECT name FROM runs WHERE parent = ?1 AND on_close = 0
                 AND state NOT IN ('completed', 'failed', 'cancelled', 'continued')",
            )?
            .query_map([parent.as_str()], name)?
            .collect::<rusqlite::Result<Vec<_>>>()?,
    };
    for name in &lost {
        let body = MessageBody::Cancel { reason: Some(PARENT_GONE.to_owned()) };
        deliver(c, name, at, &body)?;
    }
    Ok(lost)
}

/// Tells the parent of a run, if it has one, that this one has ended. Gives its name.
pub(super) fn tell_parent(
    c: &Connection,
    id: i64,
    outcome: &Outcome,
    spent: Spent,
    at: Timestamp,
) -> Result<Option<String>> {
    let child = c
        .prepare_cached("SELECT name, parent, parent_step FROM runs WHERE id = ?1 AND parent_step NOT NULL")?
        .query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((name, parent, step)) = child else { return Ok(None) };
    let Ok(run) = name.parse() else { return Ok(None) };
    let body = MessageBody::Child { step: Step(step as u64), run, outcome: outcome.clone(), spent };
    deliver(c, &parent, at, &body)?;
    Ok(Some(parent))
}

/// A run that something is sent to.
struct Addressee {
    id: i64,
    state: RunState,
    /// JSON: the names of the signals that it waits for.
    waits: Option<String>,
    free: bool,
    stopping: bool,
    chain: Option<String>,
}

fn addressee(c: &Connection, name: &str) -> Result<Option<Addressee>> {
    let found = c
        .prepare_cached(
            "SELECT id, state, wait_for, session IS NULL, stopping, chain FROM runs WHERE name = ?1",
        )?
        .query_row([name], |row| {
            Ok(Addressee {
                id: row.get(0)?,
                state: super::read::state_word(row, 1)?,
                waits: row.get(2)?,
                free: row.get(3)?,
                stopping: row.get(4)?,
                chain: row.get(5)?,
            })
        })
        .optional()?;
    Ok(found)
}

fn post(c: &Connection, message: &NewMessage, now: Timestamp) -> Result<Posted> {
    let Some(to) = addressee(c, message.run.as_str())? else { return Ok(Posted::NoSuchRun) };
    if to.state == RunState::Continued && !matches!(message.body, MessageBody::Answer { .. }) {
        let latest: Option<String> = c
            .prepare_cached("SELECT name FROM runs WHERE chain = ?1 ORDER BY id DESC LIMIT 1")?
            .query_row([&to.chain], |row| row.get(0))
            .optional()?;
        let latest = latest.and_then(|name| name.parse().ok()).filter(|latest| *latest != message.run);
        return Ok(latest.map_or(Posted::Ended, Posted::Continued));
    }
    let chain = to.chain.as_deref().unwrap_or(message.run.as_str());
    // Before the end is looked at: one that was delivered stays delivered, to whichever round.
    if let MessageBody::Signal { id: Some(id), .. } = &message.body
        && c.prepare_cached("SELECT 1 FROM seen WHERE chain = ?1 AND dedupe = ?2")?
            .exists(params![chain, id])?
    {
        return Ok(Posted::Duplicate);
    }
    if to.state.is_final() {
        return Ok(Posted::Ended);
    }
    match &message.body {
        MessageBody::Pause if to.stopping => return Ok(Posted::Stopping),
        MessageBody::Pause if to.free => {
            c.prepare_cached("UPDATE runs SET state = 'paused', due_at = NULL WHERE id = ?1")?
                .execute([to.id])?;
            return Ok(Posted::Added);
        }
        // However often it was asked.
        MessageBody::Pause => _ = drop_pauses(c, to.id)?,
        MessageBody::Answer { step, .. } => {
            let open = c
                .prepare_cached(
                    "UPDATE questions SET answered = 1 WHERE run = ?1 AND step = ?2 AND answered = 0
                     AND (deadline IS NULL OR deadline > ?3)",
                )?
                .execute(params![to.id, stored(step.0), millis(now)])?;
            if open == 0 {
                return Ok(Posted::NoQuestion);
            }
        }
        MessageBody::Signal { id: Some(id), .. } => {
            c.prepare_cached("INSERT INTO seen (chain, dedupe) VALUES (?1, ?2)")?
                .execute(params![chain, id])?;
        }
        _ => {}
    }
    hand_over(c, &to, now, &message.body)?;
    Ok(Posted::Added)
}

/// Requests to pause are void, or carried out.
pub(super) fn drop_pauses(c: &Connection, run: i64) -> Result<bool> {
    let mut drop = c.prepare_cached("DELETE FROM inbox WHERE run = ?1 AND calm = 0 AND kind = 'pause'")?;
    Ok(drop.execute([run])? > 0)
}

/// Whether somebody asks for the run to be paused.
pub(super) fn is_to_pause(c: &Connection, run: i64) -> Result<bool> {
    let mut asked = c.prepare_cached("SELECT 1 FROM inbox WHERE run = ?1 AND calm = 0 AND kind = 'pause'")?;
    Ok(asked.exists([run])?)
}

/// Whether somebody asks for the run to be stopped.
pub(super) fn is_to_stop(c: &Connection, run: i64) -> Result<bool> {
    let mut asked =
        c.prepare_cached("SELECT 1 FROM inbox WHERE run = ?1 AND calm = 0 AND kind = 'cancel'")?;
    Ok(asked.exists([run])?)
}

/// The latest round of a run: that which it is, if it never continued.
pub(super) fn latest_round(c: &Connection, name: &str) -> Result<Option<String>> {
    let latest = "SELECT ifnull((SELECT l.name FROM runs l WHERE l.chain = r.chain ORDER BY l.id DESC LIMIT 1), r.name)
                  FROM runs r WHERE r.name = ?1";
    Ok(c.prepare_cached(latest)?.query_row([name], |row| row.get(0)).optional()?)
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
    let wanted = to.free
        && match (to.state, body) {
            (RunState::Paused | RunState::Refused, MessageBody::Cancel { .. }) => true,
            (RunState::Waiting, MessageBody::Signal { name, .. }) => c
                .prepare_cached("SELECT 1 FROM json_each(?1) WHERE value = ?2")?
                .exists(params![to.waits.as_deref().unwrap_or("[]"), name])?,
            (RunState::Running, MessageBody::Signal { .. }) => false,
            (RunState::Waiting | RunState::Running, _) => true,
            _ => false,
        };
    if wanted {
        c.prepare_cached("UPDATE runs SET due_at = 0 WHERE id = ?1 AND due_at IS NOT 0")?.execute([to.id])?;
    }
    Ok(())
}

/// Whether something is in the inbox that wakes a run which waits for this.
pub(super) fn wakes(c: &Connection, run: i64, waiting: Option<&Waiting>) -> Result<bool> {
    let signals = waiting.map_or_else(|| "[]".to_owned(), |waiting| to_json(&waiting.signals));
    Ok(c.prepare_cached(
        "SELECT 1 FROM inbox WHERE run = ?1
         AND (kind <> 'signal' OR name IN (SELECT value FROM json_each(?2)))",
    )?
    .exists(params![run, signals])?)
}

/// The body of a child's end in the inbox.
pub(super) type ChildBody = (Step, RunId, Recorded, Spent);

/// The body of an answer in the inbox.
pub(super) type AnswerBody = (Step, Recorded, Option<String>, Option<String>);

pub(super) fn insert_message(c: &Connection, run: i64, at: Timestamp, body: &MessageBody) -> Result<()> {
    let (mut calm, mut step) = (true, None);
    let (kind, name, text, dedupe, bytes) = match body {
        MessageBody::Signal { name, payload, id } => {
            ("signal", Some(name.as_str()), Some(payload.as_str()), id.as_deref(), None)
        }
        MessageBody::Cancel { reason } => {
            calm = false;
            c.prepare_cached("UPDATE runs SET stopping = 1 WHERE id = ?1")?.execute([run])?;
            ("cancel", None, reason.as_deref(), None, None)
        }
        MessageBody::Pause => {
            calm = false;
            ("pause", None, None, None, None)
        }
        MessageBody::Answer { step: asked, outcome, by, note } => {
            step = Some(stored(asked.0));
            let body: AnswerBody = (*asked, outcome.clone().into(), by.clone(), note.clone());
            let bytes = minicbor::to_vec(body).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
            ("answer", None, None, None, Some(bytes))
        }
        MessageBody::Child { step: began, run, outcome, spent } => {
            step = Some(stored(began.0));
            let body: ChildBody = (*began, run.clone(), outcome.clone().into(), *spent);
            let bytes = minicbor::to_vec(body).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
            ("child", None, None, None, Some(bytes))
        }
    };
    c.prepare_cached(
        "INSERT INTO inbox (run, calm, at, kind, name, step, text, dedupe, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![run, calm, millis(at), kind, name, step, text, dedupe, bytes])?;
    Ok(())
}
