//! What is done inside a transaction to runs as a whole. Each function checks before it changes.

use rusqlite::{Connection, OptionalExtension, named_params, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Digest, Epoch, Failure, FailureKind, Json, Outcome, Recorded, Row, RunId, Timestamp};

use super::append::{change_questions, emit, insert_log, insert_published, start_child};
use super::inbox::{cancel_children, insert_message, tell_parent};
use super::journal::{self, End, last_place};
use super::read;
use crate::{
    ClaimHow, Claimed, Created, Deleted, ImportedRun, NewRun, NewTranscript, Owner, Published, Rebuilt,
    RunState, StoreError,
};

/// Why a write did nothing.
pub(super) enum Fault {
    Refused(StoreError),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Lists of pairs and names are kept as JSON.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| unreachable!("texts are always JSON: {e}"))
}

pub(super) fn outcome_bytes(outcome: &Outcome) -> Vec<u8> {
    minicbor::to_vec(Recorded::from(outcome.clone()))
        .unwrap_or_else(|e| unreachable!("encoding to memory: {e}"))
}

pub(super) fn put_module(
    c: &Connection,
    digest: Digest,
    name: &str,
    bytes: &[u8],
    now: Timestamp,
) -> Result<()> {
    c.prepare_cached(
        "INSERT OR IGNORE INTO modules (digest, name, added_at, bytes) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![digest.0, name, now.0 as i64, bytes])?;
    Ok(())
}

pub(super) fn create(c: &Connection, run: &NewRun) -> Result<Created> {
    if let Some(key) = &run.key {
        let known: Option<String> = c
            .prepare_cached("SELECT name FROM runs WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?;
        if let Some(id) = known.and_then(|id| id.parse().ok()) {
            return Ok(Created::Known(id));
        }
    }
    check_new(c, &run.id, run.module)?;
    insert_run(c, run)?;
    Ok(Created::New)
}

/// Creates a run whose id is free. Gives its number.
pub(super) fn insert_run(c: &Connection, run: &NewRun) -> Result<i64> {
    let (state, due) = match run.lease {
        Some((_, until)) => (RunState::Running, until),
        None => (RunState::Queued, run.created_at),
    };
    let owner = run.lease.as_ref().map(|(owner, _)| owner);
    c.prepare_cached(
        "INSERT INTO runs (name, key, workflow, module, labels, parent, created_at, updated_at, state, epoch,
                           owner_host, owner_pid, owner_start, lease_until, due_at, starts,
                           parent_step, on_close, root, chain, budget)
         VALUES (:name, :key, :workflow, :module, :labels, :parent, :created_at, :updated_at, :state, 1,
                 :host, :pid, :start, :until, :due, 0, :step, :on_close, :root, :chain, :budget)",
    )?
    .execute(named_params! {
        ":name": run.id.as_str(), ":key": run.key, ":workflow": run.workflow, ":module": run.module.0,
        ":labels": to_json(&run.labels), ":parent": run.parent.as_ref().map(RunId::as_str),
        ":created_at": run.created_at.0 as i64, ":updated_at": run.updated_at.0 as i64,
        ":state": state.as_str(),
        ":host": owner.map(|owner| &owner.host), ":pid": owner.map(|owner| owner.pid),
        ":start": owner.map(|owner| owner.started as i64),
        ":until": run.lease.as_ref().map(|(_, until)| until.0 as i64), ":due": due.0 as i64,
        ":step": run.links.step.map(|step| step.0 as i64),
        ":on_close": run.links.on_close.map(|on_close| on_close as i64),
        ":root": run.links.root.as_str(), ":chain": run.links.chain.as_ref().map(RunId::as_str),
        ":budget": budget_bytes(run.budget),
    })?;
    let id = c.last_insert_rowid();
    append_rows(c, id, &run.id, &run.rows, run.updated_at)?;
    for body in &run.inbox {
        insert_message(c, id, run.created_at, body)?;
    }
    change_questions(c, id, &run.questions)?;
    for child in &run.children {
        start_child(c, id, &run.id, child)?;
    }
    Ok(id)
}

/// Commits that a new run brings along.
pub(super) fn append_rows(c: &Connection, id: i64, run: &RunId, rows: &[Row], at: Timestamp) -> Result<()> {
    let mut end = End::find(c, id)?;
    for row in rows {
        if !end.append(c, id, row, at)? {
            return Err(Fault::Refused(StoreError::Fenced { run: run.clone() }));
        }
    }
    Ok(())
}

/// No budget is no value.
pub(super) fn budget_bytes(budget: Budget) -> Option<Vec<u8>> {
    let bytes = |budget| minicbor::to_vec(budget).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
    (budget != Budget::default()).then(|| bytes(budget))
}

/// Refuses an id that is or was somebody's, and a module that is not there.
pub(super) fn check_new(c: &Connection, id: &RunId, module: Digest) -> Result<()> {
    if c.prepare_cached("SELECT 1 FROM runs WHERE name = ?1")?.exists([id.as_str()])? {
        return Err(Fault::Refused(StoreError::IdTaken { id: id.clone() }));
    }
    if c.prepare_cached("SELECT 1 FROM deleted WHERE name = ?1")?.exists([id.as_str()])? {
        return Err(Fault::Refused(StoreError::IdUsed { id: id.clone() }));
    }
    if !c.prepare_cached("SELECT 1 FROM modules WHERE digest = ?1")?.exists([module.0])? {
        return Err(Fault::Refused(StoreError::NoSuchModule(module)));
    }
    Ok(())
}

pub(super) fn claim(
    c: &Connection,
    run: &RunId,
    owner: &Owner,
    now: Timestamp,
    until: Timestamp,
    dead: Option<&Owner>,
    how: ClaimHow,
) -> Result<Claimed> {
    struct Found {
        id: i64,
        epoch: i64,
        emissions: i64,
        state: RunState,
        starts: u32,
        module: Digest,
        due_at: Option<i64>,
        lease: Option<(Owner, Timestamp)>,
    }
    let found = c
        .prepare_cached(
            "SELECT id, epoch, emissions, state, starts, module, due_at,
                    owner_host, owner_pid, owner_start, lease_until
             FROM runs WHERE name = ?1",
        )?
        .query_row([run.as_str()], |row| {
            Ok(Found {
                id: row.get(0)?,
                epoch: row.get(1)?,
                emissions: row.get(2)?,
                state: read::state_word(row, 3)?,
                starts: row.get(4)?,
                module: Digest(row.get(5)?),
                due_at: row.get(6)?,
                lease: lease(row, 7)?,
            })
        })
        .optional()?;
    let Some(Found { id, epoch, emissions, state, starts, module, due_at, lease }) = found else {
        return Ok(Claimed::NoSuchRun);
    };
    let reopens = how == ClaimHow::Reopen && matches!(state, RunState::Failed | RunState::Cancelled);
    if state.is_final() && !reopens {
        return Ok(Claimed::Ended);
    }
    if let Some((holder, lease_until)) = lease {
        if lease_until > now && dead != Some(&holder) {
            return Ok(Claimed::Held { owner: holder, until: lease_until });
        }
    } else if how == ClaimHow::Due && due_at.is_none_or(|due| due > now.0 as i64) {
        return Ok(Claimed::NotDue);
    }
    c.prepare_cached(
        "UPDATE runs SET epoch = epoch + 1, state = ?2, wait_until = NULL, wait_for = NULL, people = 0,
                         outcome = NULL, starts = starts + 1, due_at = ?6, trouble = NULL,
                         owner_host = ?3, owner_pid = ?4, owner_start = ?5, lease_until = ?6
         WHERE id = ?1",
    )?
    .execute(params![
        id,
        RunState::Running.as_str(),
        owner.host,
        owner.pid,
        owner.started as i64,
        until.0 as i64
    ])?;
    Ok(Claimed::Yes {
        epoch: Epoch(epoch as u64 + 1),
        emissions: emissions as u64,
        starts: starts + 1,
        module,
    })
}

/// The owner and the end of a lease, from four columns that begin at `first`.
pub(super) fn lease(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Option<(Owner, Timestamp)>> {
    let Some(host) = row.get::<_, Option<String>>(first)? else {
        return Ok(None);
    };
    let owner = Owner { host, pid: row.get(first + 1)?, started: row.get::<_, i64>(first + 2)? as u64 };
    Ok(Some((owner, Timestamp(row.get::<_, i64>(first + 3)? as u64))))
}

pub(super) fn renew(c: &Connection, leases: &[(RunId, Epoch)], until: Timestamp) -> Result<Vec<RunId>> {
    let mut lost = Vec::new();
    let mut statement = c.prepare_cached(
        "UPDATE runs SET lease_until = ?3, due_at = ?3 WHERE name = ?1 AND epoch = ?2 AND owner_host NOT NULL",
    )?;
    for (run, epoch) in leases {
        if statement.execute(params![run.as_str(), epoch.0 as i64, until.0 as i64])? == 0 {
            lost.push(run.clone());
        }
    }
    Ok(lost)
}

pub(super) fn release(c: &Connection, run: &RunId, epoch: Epoch, trouble: Option<&str>) -> Result<()> {
    c.prepare_cached(
        "UPDATE runs SET owner_host = NULL, owner_pid = NULL, owner_start = NULL, lease_until = NULL,
                         due_at = 0, starts = 0, trouble = ?3
         WHERE name = ?1 AND epoch = ?2 AND owner_host NOT NULL",
    )?
    .execute(params![run.as_str(), epoch.0 as i64, trouble])?;
    Ok(())
}

pub(super) fn unpause(c: &Connection, run: &RunId) -> Result<bool> {
    let changed = c
        .prepare_cached(
            "UPDATE runs SET state = 'running', due_at = 0, outcome = NULL
             WHERE name = ?1 AND state IN ('paused', 'refused')",
        )?
        .execute([run.as_str()])?;
    Ok(changed > 0)
}

pub(super) fn transcribe(c: &Connection, run: &RunId, lines: &[NewTranscript]) -> Result<()> {
    let Some(id) = read::number(c, run)? else { return Ok(()) };
    let mut insert = c.prepare_cached(
        "INSERT INTO transcripts (run, step, attempt, at, kind, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for NewTranscript { step, attempt, at, kind, text } in lines {
        insert.execute(params![id, step.0 as i64, attempt, at.0 as i64, *kind as i64, text])?;
    }
    Ok(())
}

pub(super) fn keep_answer(c: &Connection, key: Digest, at: Timestamp, reply: &Json) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO answers (key, at, reply) VALUES (?1, ?2, ?3)")?
        .execute(params![key.0, at.0 as i64, reply.as_str()])?;
    Ok(())
}

pub(super) fn import(c: &Connection, run: &ImportedRun) -> Result<()> {
    let info = &run.info;
    check_new(c, &info.id, info.module)?;
    let ended = info.state.is_final();
    let state = if ended { info.state } else { RunState::Paused };
    let outcome = info.outcome.as_ref().filter(|_| ended).map(outcome_bytes);
    c.prepare_cached(
        "INSERT INTO runs (name, key, workflow, module, labels, parent, created_at, updated_at, state, outcome,
                           phase, emissions, epoch, head, parent_step, on_close, root, chain, next, tokens,
                           micros, budget)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
                 ?21, ?22)",
    )?
    .execute(params![
        info.id.as_str(),
        // A key that is somebody else's here stays his.
        info.key.as_ref().filter(|key| !key_is_taken(c, key).unwrap_or(true)),
        info.workflow,
        info.module.0,
        to_json(&info.labels),
        info.parent.as_ref().map(RunId::as_str),
        info.created_at.0 as i64,
        info.updated_at.0 as i64,
        state.as_str(),
        outcome,
        info.phase,
        run.emissions as i64,
        info.epoch.0 as i64,
        run.rows.last().map(|row| row.head.0),
        info.links.step.map(|step| step.0 as i64),
        info.links.on_close.map(|on_close| on_close as i64),
        info.links.root.as_str(),
        info.links.chain.as_ref().map(RunId::as_str),
        info.links.next.as_ref().map(RunId::as_str),
        info.spent.tokens as i64,
        info.spent.micros as i64,
        budget_bytes(info.budget),
    ])?;
    let id = c.last_insert_rowid();
    append_rows(c, id, &info.id, &run.rows, info.updated_at)?;
    for line in &run.logs {
        insert_log(c, id, line)?;
    }
    for message in &run.messages {
        let (at, payload) = (message.at.0 as i64, message.payload.as_str());
        c.prepare_cached(
            "INSERT INTO messages (run, number, at, name, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id, message.number as i64, at, message.name, payload])?;
    }
    for published in &run.state {
        let Published { number, at, key, value } = published;
        insert_published(c, id, *number, *at, key, value)?;
    }
    for message in &run.inbox {
        insert_message(c, id, message.at, &message.body)?;
    }
    change_questions(c, id, &run.questions)
}

pub(super) fn rebuild(c: &Connection, run: &Rebuilt) -> Result<bool> {
    let info = &run.info;
    let waiting = info.waiting.as_ref();
    let changed = c
        .prepare_cached(concat!(
            "UPDATE runs SET workflow = :workflow, module = :module, labels = :labels, parent = :parent,
                             created_at = :created_at, updated_at = :updated_at, state = :state,
                             outcome = :outcome, wait_until = :until, wait_for = :signals, people = :people,
                             due_at = :due, head = :head, parent_step = :step, on_close = :on_close,
                             root = :root, chain = :chain, next = :next, tokens = :tokens, micros = :micros,
                             budget = :budget
             WHERE name = :name AND owner_host IS NULL
             AND :entries = (SELECT seq + count FROM journal WHERE id = ",
            last_place!("runs.id"),
            ")"
        ))?
        .execute(named_params! {
            ":name": info.id.as_str(), ":entries": info.entries.0 as i64, ":workflow": info.workflow,
            ":module": info.module.0, ":labels": to_json(&info.labels),
            ":parent": info.parent.as_ref().map(RunId::as_str), ":created_at": info.created_at.0 as i64,
            ":updated_at": info.updated_at.0 as i64, ":state": info.state.as_str(),
            ":outcome": info.outcome.as_ref().map(outcome_bytes),
            ":until": waiting.and_then(|waiting| waiting.until).map(|at| at.0 as i64),
            ":signals": waiting.map(|waiting| to_json(&waiting.signals)),
            ":people": waiting.is_some_and(|waiting| waiting.people),
            ":due": info.due_at.map(|at| at.0 as i64), ":head": info.head.map(|head| head.0),
            ":step": info.links.step.map(|step| step.0 as i64),
            ":on_close": info.links.on_close.map(|on_close| on_close as i64),
            ":root": info.links.root.as_str(), ":chain": info.links.chain.as_ref().map(RunId::as_str),
            ":next": info.links.next.as_ref().map(RunId::as_str),
            ":tokens": info.spent.tokens as i64, ":micros": info.spent.micros as i64,
            ":budget": budget_bytes(info.budget),
        })?;
    let Some(id) = read::number(c, &info.id)?.filter(|_| changed > 0) else { return Ok(false) };
    c.prepare_cached("DELETE FROM questions WHERE run = ?1")?.execute([id])?;
    change_questions(c, id, &run.questions)?;
    if let Some(emissions) = &run.emissions {
        for table in ["logs", "messages", "published"] {
            c.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?.execute([id])?;
        }
        c.prepare_cached("UPDATE runs SET emissions = 0, phase = NULL WHERE id = ?1")?.execute([id])?;
        emit(c, id, 0, 0, emissions)?;
    }
    Ok(true)
}

fn key_is_taken(c: &Connection, key: &str) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT 1 FROM runs WHERE key = ?1")?.exists([key])
}

pub(super) fn delete(c: &Connection, run: &RunId, now: Timestamp) -> Result<Deleted> {
    let found = c
        .prepare_cached(
            "SELECT id, owner_host, owner_pid, owner_start, lease_until FROM runs WHERE name = ?1",
        )?
        .query_row([run.as_str()], |row| Ok((row.get::<_, i64>(0)?, lease(row, 1)?)))
        .optional()?;
    let Some((id, lease)) = found else { return Ok(Deleted::NoSuchRun) };
    if let Some((owner, until)) = lease
        && until > now
    {
        return Ok(Deleted::Held { owner, until });
    }
    let state = c
        .prepare_cached("SELECT state FROM runs WHERE id = ?1")?
        .query_row([id], |row| read::state_word(row, 0))?;
    if !state.is_final() {
        let failure = Failure::new(FailureKind::Cancelled, format!("{run} was deleted"));
        tell_parent(c, id, &Err(failure), Spent::default(), now)?;
        cancel_children(c, run, None, now)?;
    }
    journal::delete(c, id)?;
    for table in ["inbox", "logs", "published", "questions", "messages", "transcripts"] {
        c.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?.execute([id])?;
    }
    c.prepare_cached("DELETE FROM runs WHERE id = ?1")?.execute([id])?;
    c.prepare_cached("INSERT INTO deleted (name, at) VALUES (?1, ?2)")?
        .execute(params![run.as_str(), now.0 as i64])?;
    Ok(Deleted::Yes)
}

pub(super) fn delete_unused_modules(c: &Connection, before: Timestamp) -> Result<usize> {
    Ok(c.prepare_cached(
        "DELETE FROM modules WHERE added_at < ?1 AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.module = digest)
         AND NOT EXISTS (SELECT 1 FROM schedules s WHERE s.module = digest)",
    )?
    .execute([before.0 as i64])?)
}
