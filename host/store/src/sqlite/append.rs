//! Appends: what is committed of a run, and all that goes into the same transaction.

use rusqlite::{Connection, OptionalExtension, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Digest, Failure, FailureKind, Given, Json, QuestionChange, RunId, Timestamp};

use super::inbox::{cancel_children, drop_pauses, insert_message, is_to_pause, tell_parent, wakes};
use super::journal::{End, last_place};
use super::read;
use super::write::{Fault, Result, budget_bytes, check_new, insert_run, millis, outcome_bytes, to_json};
use crate::{
    AT_ONCE_MS, Append, Appended, Clock, Emission, LogLine, MessageBody, NewRun, Next, RunState, StoreError,
    Waiting, Wake, family_sum, rest_ms, storable, stored,
};

/// What an append has to know of its run.
struct Held {
    id: i64,
    epoch: i64,
    session: Option<i64>,
    emissions: i64,
    /// Starts and troubles are to be counted anew.
    stumbled: bool,
    /// If it was looked up.
    end: Option<End>,
}

impl Held {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            epoch: row.get(1)?,
            session: row.get(2)?,
            emissions: row.get(3)?,
            stumbled: row.get(4)?,
            end: None,
        })
    }

    /// `after`: the place of the run's last commit, if it is known.
    fn find(c: &Connection, run: &RunId, after: Option<u64>) -> rusqlite::Result<Option<Self>> {
        if let Some(place) = after {
            // Statements are found by all of their text, so that of each step has no white space.
            let held = c
                .prepare_cached(
                    "SELECT r.id,epoch,session,emissions,starts>0 OR troubles>0,l.id,seq+count,\
                     (SELECT max(id) FROM commits),l.head \
                     FROM commits l CROSS JOIN runs r WHERE l.id=?2 AND r.id=run AND name=?1",
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
            "SELECT id, epoch, session, emissions, starts > 0 OR troubles > 0 FROM runs WHERE name = ?1",
        )?
        .query_row([run.as_str()], Self::read)
        .optional()
    }
}

pub(super) fn append(c: &Connection, append: &Append, clock: &dyn Clock) -> Result<Appended> {
    let fenced = || Fault::Refused(StoreError::Fenced { run: append.run.clone() });
    let held = Held::find(c, &append.run, append.after)?;
    let Some(Held { id, epoch, session, emissions, stumbled, end }) = held else {
        return Err(fenced());
    };
    if epoch as u64 != append.epoch.0 || session != Some(append.session.0 as i64) {
        return Err(fenced());
    }
    if let Next::Continue { run } = &append.next {
        check_new(c, &run.id, run.module)?;
    }
    if races(c, id, append)? {
        return Err(Fault::Refused(StoreError::Raced { run: append.run.clone() }));
    }
    let mut appended = Appended { place: append.after, ..Appended::default() };
    if let Some(row) = &append.row {
        let mut end = end.map_or_else(|| End::find(c, id), Ok)?;
        if !end.append(c, id, row, append.before, append.at)? {
            return Err(fenced());
        }
        appended.place = end.place();
    }
    if stumbled {
        // A trouble in spite of progress is the first one again.
        c.prepare_cached("UPDATE runs SET starts = 0, troubles = iif(?2, 0, troubles) WHERE id = ?1")?
            .execute(params![id, append.row.is_some()])?;
    }
    if let Some(module) = append.module {
        c.prepare_cached("UPDATE runs SET module = ?2 WHERE id = ?1")?.execute(params![id, module.0])?;
    }
    for message in &append.consumed {
        c.prepare_cached("DELETE FROM inbox WHERE id = ?1 AND run = ?2")?.execute(params![message.0, id])?;
    }
    change_questions(c, id, &append.questions)?;
    emit(c, id, emissions as u64, &append.emissions, append.given)?;
    if let Some((spent, budget)) = append.ledger {
        set_ledger(c, id, spent, budget)?;
    }
    let began = |name: &str| name.parse().map(Wake::Run);
    for child in &append.children {
        match start_child(c, id, &append.run, child, clock)? {
            true => appended.wake.push(Wake::Due),
            false => appended.due = true,
        }
    }
    for step in &append.dropped {
        let told = cancel_children(c, &append.run, Some(*step), clock.now())?;
        appended.wake.extend(told.iter().flat_map(|name| began(name)));
    }
    settle(c, id, append, clock, &mut appended)?;
    Ok(appended)
}

/// Whether something that was sent to the run and not taken would become void.
fn races(c: &Connection, id: i64, append: &Append) -> Result<bool> {
    let untaken = |kinds: &str| -> Result<bool> {
        let consumed: Vec<_> = append.consumed.iter().map(|message| message.0).collect();
        Ok(c.prepare_cached(
            "SELECT 1 FROM inbox WHERE run = ?1 AND kind IN (SELECT value FROM json_each(?2))
             AND id NOT IN (SELECT value FROM json_each(?3))",
        )?
        .exists(params![id, kinds, to_json(&consumed)])?)
    };
    let ends = match &append.next {
        Next::End { .. } => untaken(r#"["signal","answer","cancel"]"#)?,
        Next::Continue { .. } => untaken(r#"["answer"]"#)?,
        _ => false,
    };
    if ends {
        return Ok(true);
    }
    for change in &append.questions {
        let QuestionChange::Closed { step } = change else { continue };
        let answers = c
            .prepare_cached(
                "SELECT id FROM inbox WHERE run = ?1 AND calm = 1 AND kind = 'answer' AND step = ?2",
            )?
            .query_map(params![id, stored(step.0)], |row| row.get::<_, i64>(0))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        if answers.iter().any(|answer| !append.consumed.iter().any(|message| message.0 == *answer)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Creates a child. False if its id is somebody else's: the parent is told.
pub(super) fn start_child(
    c: &Connection,
    parent: i64,
    name: &RunId,
    child: &NewRun,
    clock: &dyn Clock,
) -> Result<bool> {
    let step = child.links.step.unwrap_or_default();
    let is_there = c
        .prepare_cached("SELECT 1 FROM runs WHERE name = ?1 AND parent = ?2 AND parent_step = ?3")?
        .exists(params![child.id.as_str(), name.as_str(), stored(step.0)])?;
    if is_there {
        return Ok(true);
    }
    match check_new(c, &child.id, child.module) {
        Ok(()) => insert_run(c, child, clock).map(|_| true),
        Err(Fault::Refused(error)) => {
            let outcome = Err(Failure::new(FailureKind::Rejected, error.to_string()));
            let body = MessageBody::Child { step, run: child.id.clone(), outcome, spent: Spent::default() };
            insert_message(c, parent, clock.now(), &body)?;
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
                // One whose answer waits to be taken is not asked again.
                c.prepare_cached(
                    "INSERT OR REPLACE INTO questions (run, step, at, deadline, body, answered)
                     VALUES (?1, ?2, ?3, ?4, ?5,
                             EXISTS (SELECT 1 FROM inbox WHERE run = ?1 AND calm = 1 AND kind = 'answer' AND step = ?2))",
                )?
                .execute(params![
                    id,
                    stored(step.0),
                    millis(*at),
                    deadline.map(millis),
                    body
                ])?;
            }
            QuestionChange::Closed { step } => {
                c.prepare_cached("DELETE FROM questions WHERE run = ?1 AND step = ?2")?
                    .execute(params![id, stored(step.0)])?;
            }
        }
    }
    Ok(())
}

/// Sets what a run has spent and may spend, and what its family has spent with it.
pub(super) fn set_ledger(c: &Connection, id: i64, spent: Spent, budget: Budget) -> Result<()> {
    let spent = storable(spent);
    let (root, before, sum) = c
        .prepare_cached(
            "SELECT r.root, r.tokens, r.micros, ifnull(l.tokens, 0), ifnull(l.micros, 0)
             FROM runs r LEFT JOIN ledgers l ON l.root = r.root WHERE r.id = ?1",
        )?
        .query_row([id], |row| Ok((row.get::<_, String>(0)?, read::spent(row, 1)?, read::spent(row, 3)?)))?;
    if (before.tokens, before.micros) != (spent.tokens, spent.micros) {
        let tokens = family_sum(sum.tokens, before.tokens, spent.tokens);
        let micros = family_sum(sum.micros, before.micros, spent.micros);
        c.prepare_cached("INSERT OR REPLACE INTO ledgers (root, tokens, micros) VALUES (?1, ?2, ?3)")?
            .execute(params![root, stored(tokens), stored(micros)])?;
    }
    c.prepare_cached("UPDATE runs SET tokens = ?2, micros = ?3, budget = ?4 WHERE id = ?1")?
        .execute(params![id, stored(spent.tokens), stored(spent.micros), budget_bytes(budget)])?;
    Ok(())
}

pub(super) fn given_bytes(given: Given) -> Vec<u8> {
    minicbor::to_vec(given).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"))
}

/// Stores what the program gave out behind what is `stored`.
pub(super) fn emit(
    c: &Connection,
    id: i64,
    stored: u64,
    emissions: &[Emission],
    given: Option<Given>,
) -> Result<()> {
    let mut next = stored;
    for (number, emission) in (stored..).zip(emissions) {
        next = number + 1;
        match emission {
            Emission::Log(line) => insert_log(c, id, &LogLine { number, ..line.clone() })?,
            Emission::State { key, value, at } => insert_published(c, id, number, *at, key, value)?,
            Emission::Phase { title, at } => {
                insert_log(c, id, &LogLine::phase(number, *at, title))?;
                c.prepare_cached("UPDATE runs SET phase = ?2 WHERE id = ?1")?.execute(params![id, title])?
            }
            Emission::Message { name, payload, at } => {
                let (at, payload) = (millis(*at), payload.as_str());
                c.prepare_cached(
                    "INSERT INTO messages (run, number, at, name, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![id, number as i64, at, name, payload])?
            }
        };
    }
    match given.map(given_bytes) {
        Some(given) => drop(
            c.prepare_cached("UPDATE runs SET emissions = ?2, given = ?3 WHERE id = ?1")?
                .execute(params![id, next as i64, given])?,
        ),
        None if next > stored => drop(
            c.prepare_cached("UPDATE runs SET emissions = ?2 WHERE id = ?1")?
                .execute(params![id, next as i64])?,
        ),
        None => {}
    }
    Ok(())
}

pub(super) fn insert_log(c: &Connection, id: i64, line: &LogLine) -> Result<usize> {
    let (number, at, level) = (line.number as i64, millis(line.at), line.level as i64);
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
        .execute(params![id, key, number as i64, millis(at), value.as_str()])?)
}

/// How a session gives a run up.
struct GivenUp<'a> {
    state: RunState,
    outcome: Option<Vec<u8>>,
    waiting: Option<&'a Waiting>,
    due_at: Option<i64>,
    trouble: Option<&'a str>,
    /// Whoever gives it up knows its journal.
    knows: bool,
    /// What the clock shows by which it waits or rests.
    parked_at: Option<Timestamp>,
}

impl GivenUp<'_> {
    fn new(state: RunState, append: &Append) -> Self {
        let knows = append.before != Digest([0; 32]);
        Self { state, outcome: None, waiting: None, due_at: None, trouble: None, knows, parked_at: None }
    }

    fn store(&self, c: &Connection, id: i64) -> Result<()> {
        let until = self.waiting.and_then(|waiting| waiting.until).map(millis);
        let signals = self.waiting.map(|waiting| to_json(&waiting.signals));
        let people = self.waiting.is_some_and(|waiting| waiting.people);
        c.prepare_cached(concat!(
            "UPDATE runs SET state = ?2, outcome = ?3, wait_until = ?4, wait_for = ?5, people = ?6, due_at = ?7,
                             trouble = ?8, troubles = iif(?8 IS NULL, 0, troubles + 1),
                             starts = 0, session = NULL, parked_at = ?10,
                             (head, updated_at) = (SELECT iif(?9, l.head, runs.head), l.at FROM commits l
                                                   WHERE l.id = ",
            last_place!("?1"),
            ") WHERE id = ?1"
        ))?
        .execute(params![
            id,
            self.state.as_str(),
            self.outcome,
            until,
            signals,
            people,
            self.due_at,
            self.trouble,
            // What is missing at the end of a journal that cannot be read would be forgotten.
            self.knows,
            self.parked_at.map(millis)
        ])?;
        Ok(())
    }
}

/// What becomes of the run.
fn settle(
    c: &Connection,
    id: i64,
    append: &Append,
    clock: &dyn Clock,
    appended: &mut Appended,
) -> Result<()> {
    let wake = |name: String| name.parse().ok().map(Wake::Run);
    // In this very transaction, so that nothing slips in between.
    let stop_due = || -> Result<Option<i64>> {
        let asked = c
            .prepare_cached("SELECT 1 FROM inbox WHERE run = ?1 AND calm = 0 AND kind = 'cancel'")?
            .exists([id])?;
        Ok(asked.then_some(0))
    };
    match &append.next {
        Next::Go => {}
        Next::Park(waiting) => {
            if wakes(c, id, Some(waiting))? {
                appended.due = true;
                return Ok(());
            }
            let due_at = waiting.until.map(millis);
            let parked_at = Some(clock.now());
            GivenUp { waiting: Some(waiting), due_at, parked_at, ..GivenUp::new(RunState::Waiting, append) }
                .store(c, id)?;
        }
        Next::Release { waiting, trouble } => {
            let due_at = match trouble {
                None => Timestamp(0),
                Some(_) => {
                    let troubles: u32 = c
                        .prepare_cached("SELECT min(max(troubles, 0), 1000) FROM runs WHERE id = ?1")?
                        .query_row([id], |row| row.get(0))?;
                    let rest = clock.now().after(rest_ms(troubles + 1));
                    let until = waiting.as_ref().and_then(|waiting| waiting.until);
                    let due_at = until.map_or(rest, |until| until.min(rest));
                    match wakes(c, id, waiting.as_ref())? {
                        true => due_at.min(clock.now().after(AT_ONCE_MS)),
                        false => due_at,
                    }
                }
            };
            let state = if waiting.is_some() { RunState::Waiting } else { RunState::Running };
            let trouble = trouble.as_deref();
            let (due_at, parked_at) = (Some(millis(due_at)), trouble.map(|_| clock.now()));
            let waiting = waiting.as_ref();
            GivenUp { waiting, due_at, trouble, parked_at, ..GivenUp::new(state, append) }.store(c, id)?;
        }
        Next::Pause { if_asked: true } if !is_to_pause(c, id)? => appended.due = true,
        Next::Pause { .. } => {
            drop_pauses(c, id)?;
            GivenUp { due_at: stop_due()?, ..GivenUp::new(RunState::Paused, append) }.store(c, id)?;
        }
        Next::Refuse { reason } => {
            let outcome = Err(Failure::new(FailureKind::Rejected, reason.as_str()));
            let (outcome, due_at) = (Some(outcome_bytes(&outcome)), stop_due()?);
            GivenUp { outcome, due_at, ..GivenUp::new(RunState::Refused, append) }.store(c, id)?;
        }
        Next::End { outcome, spent } => {
            let state = RunState::of(Some(outcome));
            GivenUp { outcome: Some(outcome_bytes(outcome)), ..GivenUp::new(state, append) }.store(c, id)?;
            c.prepare_cached("DELETE FROM questions WHERE run = ?1")?.execute([id])?;
            c.prepare_cached("DELETE FROM inbox WHERE run = ?1")?.execute([id])?;
            let parent = tell_parent(c, id, outcome, *spent, clock.now())?;
            let children = cancel_children(c, &append.run, None, clock.now())?;
            appended.wake.extend(parent.into_iter().chain(children).filter_map(wake));
        }
        Next::Continue { run } => {
            GivenUp::new(RunState::Continued, append).store(c, id)?;
            c.prepare_cached("UPDATE runs SET next = ?2, chain = ifnull(chain, name) WHERE id = ?1")?
                .execute(params![id, run.id.as_str()])?;
            c.prepare_cached("DELETE FROM questions WHERE run = ?1")?.execute([id])?;
            let children = cancel_children(c, &append.run, None, clock.now())?;
            appended.wake.extend(children.into_iter().filter_map(wake));
            let next = insert_run(c, run, clock)?;
            c.prepare_cached(
                "UPDATE inbox SET run = ?2 WHERE run = ?1 AND kind IN ('signal', 'cancel', 'pause')",
            )?
            .execute([id, next])?;
            c.prepare_cached(
                "UPDATE runs SET stopping = 1 WHERE id = ?1
                 AND EXISTS (SELECT 1 FROM inbox WHERE run = ?1 AND calm = 0 AND kind = 'cancel')",
            )?
            .execute([next])?;
            c.prepare_cached("DELETE FROM inbox WHERE run = ?1")?.execute([id])?;
            appended.wake.push(Wake::Due);
        }
    }
    Ok(())
}
