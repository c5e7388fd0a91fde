//! Appends: what is committed of a run, and all that goes into the same transaction.

use rusqlite::{Connection, OptionalExtension, params};
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Failure, FailureKind, Json, QuestionChange, RunId, Timestamp};

use super::inbox::{cancel_children, insert_message, tell_parent};
use super::journal::{End, last_place};
use super::write::{Fault, Result, budget_bytes, check_new, insert_run, outcome_bytes, to_json};
use crate::{Append, Appended, Emission, LogLine, MessageBody, NewRun, Next, RunState, StoreError, Waiting};

/// What an append has to know of its run.
struct Held {
    id: i64,
    epoch: i64,
    emissions: i64,
    owned: bool,
    starts: i64,
    /// If it was looked up.
    end: Option<End>,
}

impl Held {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            epoch: row.get(1)?,
            emissions: row.get(2)?,
            owned: row.get(3)?,
            starts: row.get(4)?,
            end: None,
        })
    }

    /// `after`: the place of the run's last commit, if it is known.
    fn find(c: &Connection, run: &RunId, after: Option<u64>) -> rusqlite::Result<Option<Self>> {
        if let Some(place) = after {
            let held = c
                .prepare_cached(
                    "SELECT r.id, r.epoch, r.emissions, r.owner_host NOT NULL, r.starts,
                            l.id, l.seq + l.count, (SELECT max(id) FROM journal)
                     FROM journal l CROSS JOIN runs r WHERE l.id = ?2 AND r.id = l.run AND r.name = ?1",
                )?
                .query_row(params![run.as_str(), place as i64], |row| {
                    Ok(Self { end: Some(End::read(row, 5)?), ..Self::read(row)? })
                })
                .optional()?;
            if held.is_some() {
                return Ok(held);
            }
        }
        c.prepare_cached(
            "SELECT id, epoch, emissions, owner_host NOT NULL, starts FROM runs WHERE name = ?1",
        )?
        .query_row([run.as_str()], Self::read)
        .optional()
    }
}

pub(super) fn append(c: &Connection, append: &Append) -> Result<Appended> {
    let fenced = || Fault::Refused(StoreError::Fenced { run: append.run.clone() });
    let held = Held::find(c, &append.run, append.after)?;
    let Some(Held { id, epoch, emissions: emitted, owned, starts, end }) = held else {
        return Err(fenced());
    };
    if epoch as u64 != append.epoch.0 || !owned {
        return Err(fenced());
    }
    if let Next::Continue { run } = &append.next {
        check_new(c, &run.id, run.module)?;
    }
    let mut place = append.after;
    if let Some(row) = &append.row {
        let mut end = end.map_or_else(|| End::find(c, id), Ok)?;
        if !end.append(c, id, row, append.at)? {
            return Err(fenced());
        }
        place = end.place();
    }
    if starts > 0 {
        c.prepare_cached("UPDATE runs SET starts = 0 WHERE id = ?1")?.execute([id])?;
    }
    if let Some(module) = append.module {
        c.prepare_cached("UPDATE runs SET module = ?2 WHERE id = ?1")?.execute(params![id, module.0])?;
    }
    for message in &append.consumed {
        c.prepare_cached("UPDATE inbox SET taken = 1, text = NULL, body = NULL WHERE id = ?1 AND run = ?2")?
            .execute(params![message.0, id])?;
        c.prepare_cached("DELETE FROM inbox WHERE id = ?1 AND run = ?2 AND dedupe IS NULL")?
            .execute(params![message.0, id])?;
    }
    change_questions(c, id, &append.questions)?;
    emit(c, id, emitted as u64, append.first_emission, &append.emissions)?;
    if let Some((spent, budget)) = append.ledger {
        c.prepare_cached("UPDATE runs SET tokens = ?2, micros = ?3, budget = ?4 WHERE id = ?1")?
            .execute(params![id, spent.tokens as i64, spent.micros as i64, budget_bytes(budget)])?;
    }
    let mut due = false;
    for child in &append.children {
        due |= !start_child(c, id, &append.run, child)?;
    }
    for step in &append.dropped {
        cancel_children(c, &append.run, Some(*step), append.at)?;
    }
    due |= settle(c, id, append)?;
    Ok(Appended { due, place })
}

/// Creates a child. False if its id is somebody else's: the parent is told.
pub(super) fn start_child(c: &Connection, parent: i64, name: &RunId, child: &NewRun) -> Result<bool> {
    let step = child.links.step.unwrap_or_default();
    let is_there = c
        .prepare_cached("SELECT 1 FROM runs WHERE name = ?1 AND parent = ?2 AND parent_step = ?3")?
        .exists(params![child.id.as_str(), name.as_str(), step.0 as i64])?;
    if is_there {
        return Ok(true);
    }
    match check_new(c, &child.id, child.module) {
        Ok(()) => insert_run(c, child).map(|_| true),
        Err(Fault::Refused(error)) => {
            let outcome = Err(Failure::new(FailureKind::Rejected, error.to_string()));
            let body = MessageBody::Child { step, run: child.id.clone(), outcome, spent: Spent::default() };
            insert_message(c, parent, child.created_at, &body)?;
            Ok(false)
        }
        Err(fault) => Err(fault),
    }
}

pub(super) fn change_questions(c: &Connection, id: i64, changes: &[QuestionChange]) -> Result<()> {
    for change in changes {
        match change {
            QuestionChange::Asked { step, at, deadline, question } => {
                let body =
                    minicbor::to_vec(question).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
                c.prepare_cached(
                    "INSERT OR REPLACE INTO questions (run, step, at, deadline, body)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    id,
                    step.0 as i64,
                    at.0 as i64,
                    deadline.map(|at| at.0 as i64),
                    body
                ])?;
            }
            QuestionChange::Closed { step } => {
                c.prepare_cached("DELETE FROM questions WHERE run = ?1 AND step = ?2")?
                    .execute(params![id, step.0 as i64])?;
            }
        }
    }
    Ok(())
}

/// Stores what the program gave out, numbered from `first`, without what is `stored` already.
pub(super) fn emit(c: &Connection, id: i64, stored: u64, first: u64, emissions: &[Emission]) -> Result<()> {
    let numbered = (first..).zip(emissions).filter(|(number, _)| *number >= stored);
    let mut next = stored;
    for (number, emission) in numbered {
        next = number + 1;
        match emission {
            Emission::Log(line) => insert_log(c, id, &LogLine { number, ..line.clone() })?,
            Emission::State { key, value, at } => insert_published(c, id, number, *at, key, value)?,
            Emission::Phase { title, at } => {
                insert_log(c, id, &LogLine::phase(number, *at, title))?;
                c.prepare_cached("UPDATE runs SET phase = ?2 WHERE id = ?1")?.execute(params![id, title])?
            }
            Emission::Message { name, payload, at } => {
                let (at, payload) = (at.0 as i64, payload.as_str());
                c.prepare_cached(
                    "INSERT INTO messages (run, number, at, name, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![id, number as i64, at, name, payload])?
            }
        };
    }
    if next > stored {
        c.prepare_cached("UPDATE runs SET emissions = ?2 WHERE id = ?1")?
            .execute(params![id, next as i64])?;
    }
    Ok(())
}

pub(super) fn insert_log(c: &Connection, id: i64, line: &LogLine) -> Result<usize> {
    let (number, at, level) = (line.number as i64, line.at.0 as i64, line.level as i64);
    Ok(c.prepare_cached(
        "INSERT INTO logs (run, number, at, level, message, fields) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![id, number, at, level, line.message, to_json(&line.fields)])?)
}

pub(super) fn insert_published(
    c: &Connection,
    id: i64,
    number: u64,
    at: Timestamp,
    key: &str,
    value: &Json,
) -> Result<usize> {
    Ok(c.prepare_cached("INSERT INTO published (run, key, number, at, value) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id, key, number as i64, at.0 as i64, value.as_str()])?)
}

/// What becomes of the run. True if it was to be parked but something for it has come in.
fn settle(c: &Connection, id: i64, append: &Append) -> Result<bool> {
    let end = |state: RunState, outcome: Option<Vec<u8>>, waiting: Option<&Waiting>| {
        let until = waiting.and_then(|waiting| waiting.until).map(|at| at.0 as i64);
        let signals = waiting.map(|waiting| to_json(&waiting.signals));
        let people = waiting.is_some_and(|waiting| waiting.people);
        c.prepare_cached(concat!(
            "UPDATE runs SET state = ?2, outcome = ?3, wait_until = ?4, wait_for = ?5, people = ?6, due_at = ?4,
                             starts = 0, owner_host = NULL, owner_pid = NULL, owner_start = NULL,
                             lease_until = NULL,
                             (head, updated_at) = (SELECT head, at FROM journal WHERE id = ",
            last_place!("?1"),
            ") WHERE id = ?1"
        ))?
        .execute(params![id, state.as_str(), outcome, until, signals, people])
        .map(drop)
    };
    match &append.next {
        Next::Go => {}
        Next::Park(waiting) => {
            // In this very transaction, so that nothing slips in between.
            let signals = to_json(&waiting.signals);
            let due = c
                .prepare_cached(
                    "SELECT 1 FROM inbox WHERE run = ?1 AND taken = 0
                     AND (kind <> 'signal' OR name IN (SELECT value FROM json_each(?2)))",
                )?
                .exists(params![id, signals])?;
            if due {
                return Ok(true);
            }
            end(RunState::Waiting, None, Some(waiting))?;
        }
        Next::Pause => end(RunState::Paused, None, None)?,
        Next::Refuse { reason } => {
            let outcome = Err(Failure::new(FailureKind::Rejected, reason.as_str()));
            end(RunState::Refused, Some(outcome_bytes(&outcome)), None)?;
        }
        Next::End { outcome, spent } => {
            let state = RunState::of(Some(outcome));
            end(state, Some(outcome_bytes(outcome)), None)?;
            c.prepare_cached("DELETE FROM questions WHERE run = ?1")?.execute([id])?;
            tell_parent(c, id, outcome, *spent, append.at)?;
            cancel_children(c, &append.run, None, append.at)?;
        }
        Next::Continue { run } => {
            end(RunState::Continued, None, None)?;
            c.prepare_cached("UPDATE runs SET next = ?2, chain = ifnull(chain, name) WHERE id = ?1")?
                .execute(params![id, run.id.as_str()])?;
            c.prepare_cached("DELETE FROM questions WHERE run = ?1")?.execute([id])?;
            cancel_children(c, &append.run, None, append.at)?;
            let next = insert_run(c, run)?;
            c.prepare_cached(
                "UPDATE inbox SET run = ?2 WHERE run = ?1 AND taken = 0 AND kind IN ('signal', 'cancel', 'pause')",
            )?
            .execute([id, next])?;
            c.prepare_cached("DELETE FROM inbox WHERE run = ?1 AND taken = 0")?.execute([id])?;
        }
    }
    Ok(false)
}
