//! What is done inside a transaction to runs as a whole. Each function checks before it changes.

use rusqlite::{Connection, OptionalExtension, named_params, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Digest, Failure, FailureKind, Json, Outcome, Recorded, Row, RunId, Timestamp};

use super::append::{
    change_questions, emit, given_bytes, insert_log, insert_published, set_ledger, start_child,
};
use super::inbox::{cancel_children, drop_pauses, insert_message, is_to_stop, tell_parent, wakes};
use super::journal::{self, End, last_place};
use super::{limits, read, sessions};
use crate::{
    Clock, Created, DeleteIf, Deleted, ImportedRun, KEPT_ANSWERS_BYTES, NewRun, NewTranscript, Published,
    Rebuilt, RunState, StoreError, TranscriptKind, stored,
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

/// A time as it is stored; beyond what can be stored is never.
pub(super) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// Lists of pairs and names are kept as JSON.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|e| unreachable!("texts are always JSON: {e}"))
}

pub(super) fn put_blob(c: &Connection, digest: Digest, bytes: &[u8], now: Timestamp) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO blobs (digest, added_at, bytes) VALUES (?1, ?2, ?3)
         ON CONFLICT (digest) DO UPDATE SET added_at = max(added_at, excluded.added_at)",
    )?
    .execute(params![digest.0, millis(now), bytes])?;
    Ok(())
}

pub(super) fn delete_blobs(c: &Connection, before: Timestamp, except: &[Digest]) -> Result<usize> {
    let except: Vec<_> = except.iter().map(Digest::hex).collect();
    let gone = c
        .prepare_cached(
            "DELETE FROM blobs WHERE added_at < ?1
             AND lower(hex(digest)) NOT IN (SELECT value FROM json_each(?2))",
        )?
        .execute(params![millis(before), to_json(&except)])?;
    Ok(gone)
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
    let new = c
        .prepare_cached(
            "INSERT OR IGNORE INTO modules (digest, name, added_at, bytes) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![digest.0, name, millis(now), bytes])?;
    if new == 0 {
        c.prepare_cached(
            "INSERT INTO puts (digest, at) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)",
        )?
        .execute(params![digest.0, millis(now)])?;
    }
    Ok(())
}

pub(super) fn create(c: &Connection, run: &NewRun, clock: &dyn Clock) -> Result<Created> {
    if let Some(key) = &run.key {
        let known = c
            .prepare_cached("SELECT id, name FROM runs WHERE workflow = ?1 AND key = ?2")?
            .query_row([&run.workflow, key], |row| Ok((row.get::<_, i64>(0)?, read::id(row, 1)?)))
            .optional()?;
        if let Some((number, known)) = known {
            let first = journal::first(c, number)?;
            return match first.as_ref().and_then(|first| run.differs_from(first)) {
                None => Ok(Created::Known(known)),
                Some(differs) => {
                    let error = StoreError::KeyUsed { key: key.clone(), run: known, differs };
                    Err(Fault::Refused(error))
                }
            };
        }
    }
    check_new(c, &run.id, run.module)?;
    if let Some(session) = run.session {
        sessions::check(c, session)?;
    }
    insert_run(c, run, clock)?;
    Ok(Created::New)
}

/// Creates a run whose id is free. Gives its number.
pub(super) fn insert_run(c: &Connection, run: &NewRun, clock: &dyn Clock) -> Result<i64> {
    let (state, due) = match run.session {
        Some(_) => (RunState::Running, None),
        // Whatever the clock showed that begins it.
        None => (RunState::Queued, Some(Timestamp(0))),
    };
    c.prepare_cached(
        "INSERT INTO runs (name, key, project, workflow, module, labels, parent, created_at, updated_at, state,
                           epoch, session, due_at, parent_step, on_close, root, chain, budget, head, given,
                           imported)
         VALUES (:name, :key, :project, :workflow, :module, :labels, :parent, :created_at, :updated_at, :state,
                 1, :session, :due, :step, :on_close, :root, :chain, :budget, :head, :given, :imported)",
    )?
    .execute(named_params! {
        ":name": run.id.as_str(), ":key": run.key, ":project": run.project, ":workflow": run.workflow,
        ":module": run.module.0, ":labels": to_json(&run.labels),
        ":parent": run.parent.as_ref().map(RunId::as_str),
        ":created_at": millis(run.created_at), ":updated_at": millis(run.updated_at),
        ":state": state.as_str(), ":session": run.session.map(|session| session.0 as i64),
        ":due": due.map(millis),
        ":step": run.links.step.map(|step| stored(step.0)),
        ":on_close": run.links.on_close.map(|on_close| on_close as i64),
        ":root": run.links.root.as_str(), ":chain": run.links.chain.as_ref().map(RunId::as_str),
        ":budget": budget_bytes(run.budget), ":head": run.rows.last().map(|row| row.head.0),
        ":given": given_bytes(run.given.unwrap_or_default()), ":imported": run.imported,
    })?;
    let id = c.last_insert_rowid();
    insert_labels(c, id, &run.labels)?;
    append_rows(c, id, &run.id, &run.rows, run.updated_at)?;
    for body in &run.inbox {
        insert_message(c, id, run.created_at, body)?;
    }
    change_questions(c, id, &run.questions)?;
    for child in &run.children {
        start_child(c, id, &run.id, child, clock)?;
    }
    Ok(id)
}

/// Makes a run to be found by its labels.
fn insert_labels(c: &Connection, id: i64, labels: &[(String, String)]) -> rusqlite::Result<()> {
    for (key, value) in labels {
        c.prepare_cached("INSERT OR IGNORE INTO labels (key, value, run) VALUES (?1, ?2, ?3)")?
            .execute(params![key, value, id])?;
    }
    Ok(())
}

/// Takes back that a run is found by the labels that it has.
fn delete_labels(c: &Connection, id: i64) -> rusqlite::Result<()> {
    let readable = c
        .prepare_cached("SELECT json_valid(labels) FROM runs WHERE id = ?1")?
        .query_row([id], |row| row.get::<_, bool>(0))
        .optional()?;
    let sql = match readable {
        Some(false) | None => "DELETE FROM labels WHERE run = ?1",
        Some(true) => {
            "DELETE FROM labels WHERE run = ?1 AND (key, value) IN
                 (SELECT l.value ->> 0, l.value ->> 1 FROM runs r, json_each(r.labels) l WHERE r.id = ?1)"
        }
    };
    c.prepare_cached(sql)?.execute([id])?;
    Ok(())
}

/// Commits that a new run brings along.
pub(super) fn append_rows(c: &Connection, id: i64, run: &RunId, rows: &[Row], at: Timestamp) -> Result<()> {
    let mut end = End::find(c, id)?;
    let mut before = Digest([0; 32]);
    for row in rows {
        if !end.append(c, id, row, before, at)? {
            return Err(Fault::Refused(StoreError::Fenced { run: run.clone() }));
        }
        before = row.head;
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

pub(super) fn unpause(c: &Connection, run: &RunId) -> Result<bool> {
    let changed = c
        .prepare_cached(
            "UPDATE runs SET state = 'running', due_at = 0, outcome = NULL
             WHERE name = ?1 AND state IN ('paused', 'refused')",
        )?
        .execute([run.as_str()])?;
    let dropped = match read::number(c, run)? {
        Some(id) => drop_pauses(c, id)?,
        None => false,
    };
    Ok(changed > 0 || dropped)
}

pub(super) fn transcribe(c: &Connection, run: &RunId, lines: &[NewTranscript]) -> Result<()> {
    let Some(id) = read::number(c, run)? else { return Ok(()) };
    let mut insert = c.prepare_cached(
        "INSERT INTO transcripts (run, step, attempt, at, kind, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    // A heartbeat takes the place of the one before. That is not far behind, so it is found at once.
    let mut replace = c.prepare_cached(
        "DELETE FROM transcripts WHERE id IN (
             SELECT id FROM transcripts WHERE run = ?1 AND step = ?2 AND kind = ?3 ORDER BY id DESC LIMIT 1)",
    )?;
    for NewTranscript { step, attempt, at, kind, text } in lines {
        if *kind == TranscriptKind::Heartbeat {
            replace.execute(params![id, stored(step.0), *kind as i64])?;
        }
        insert.execute(params![id, stored(step.0), attempt, millis(*at), *kind as i64, text])?;
    }
    Ok(())
}

pub(super) fn keep_answer(c: &Connection, key: Digest, at: Timestamp, reply: &Json) -> Result<()> {
    let text = reply.as_str();
    c.prepare_cached("INSERT OR REPLACE INTO answers (key, at, reply, bytes) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![key.0, millis(at), text, text.len() as i64])?;
    // The sum reads an index; it is not worth that each time.
    if key.0[0].is_multiple_of(ANSWERS_SUMMED_EVERY) {
        bound_answers(c, KEPT_ANSWERS_BYTES)?;
    }
    Ok(())
}

/// Of so many answers that are kept one looks how large all are.
const ANSWERS_SUMMED_EVERY: u8 = 32;

/// Removes the oldest answers beyond `bytes`.
pub(super) fn bound_answers(c: &Connection, bytes: u64) -> Result<()> {
    c.prepare_cached(
        "DELETE FROM answers WHERE at <= (SELECT at FROM
            (SELECT at, sum(bytes) OVER (ORDER BY at DESC, rowid_of) AS total FROM
                (SELECT at, bytes, key AS rowid_of FROM answers INDEXED BY answers_at))
            WHERE total > ?1 ORDER BY at DESC LIMIT 1)",
    )?
    .execute([bytes as i64])?;
    Ok(())
}

pub(super) fn delete_old_answers(c: &Connection, before: Timestamp) -> Result<usize> {
    Ok(c.prepare_cached("DELETE FROM answers WHERE at < ?1")?.execute([millis(before)])?)
}

pub(super) fn import(c: &Connection, run: &ImportedRun) -> Result<()> {
    let info = &run.info;
    check_new(c, &info.id, info.module)?;
    let ended = info.state.is_final();
    let state = if ended { info.state } else { RunState::Paused };
    let outcome = info.outcome.as_ref().filter(|_| ended).map(outcome_bytes);
    c.prepare_cached(
        "INSERT INTO runs (name, key, workflow, module, labels, parent, created_at, updated_at, state, outcome,
                           phase, emissions, epoch, head, parent_step, on_close, root, chain, next, budget,
                           project, given, imported)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
                 ?21, ?22, ?23)",
    )?
    .execute(params![
        info.id.as_str(),
        // A key that is somebody else's here stays his.
        info.key.as_ref().filter(|key| !key_is_taken(c, &info.workflow, key).unwrap_or(true)),
        info.workflow,
        info.module.0,
        to_json(&info.labels),
        info.parent.as_ref().map(RunId::as_str),
        millis(info.created_at),
        millis(info.updated_at),
        state.as_str(),
        outcome,
        info.phase,
        stored(run.emissions),
        stored(info.epoch.0),
        run.rows.last().map(|row| row.head.0),
        info.links.step.map(|step| stored(step.0)),
        info.links.on_close.map(|on_close| on_close as i64),
        info.links.root.as_str(),
        info.links.chain.as_ref().map(RunId::as_str),
        info.links.next.as_ref().map(RunId::as_str),
        budget_bytes(info.budget),
        info.project,
        given_bytes(run.given),
        info.imported,
    ])?;
    let id = c.last_insert_rowid();
    insert_labels(c, id, &info.labels)?;
    set_ledger(c, id, info.spent, info.budget)?;
    append_rows(c, id, &info.id, &run.rows, info.updated_at)?;
    for line in &run.logs {
        insert_log(c, id, line)?;
    }
    for message in &run.messages {
        let (at, payload) = (millis(message.at), message.payload.as_str());
        c.prepare_cached(
            "INSERT INTO messages (run, number, at, name, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id, message.number as i64, at, message.name, payload])?;
    }
    for published in &run.state {
        let Published { number, at, key, value } = published;
        insert_published(c, id, *number, *at, key, value)?;
    }
    for (at, body) in &run.inbox {
        insert_message(c, id, *at, body)?;
    }
    let chain = info.links.chain.as_ref().unwrap_or(&info.id);
    for signal in run.signal_ids() {
        c.prepare_cached("INSERT OR IGNORE INTO seen (chain, dedupe) VALUES (?1, ?2)")?
            .execute(params![chain.as_str(), signal])?;
    }
    change_questions(c, id, &run.questions)
}

pub(super) fn rebuild(c: &Connection, run: &Rebuilt) -> Result<bool> {
    let info = &run.info;
    let found = c
        .prepare_cached("SELECT id, state, outcome, due_at, trouble NOT NULL FROM runs WHERE name = ?1")?
        .query_row([info.id.as_str()], |row| {
            let (outcome, due_at) = (row.get::<_, Option<Vec<u8>>>(2)?, row.get::<_, Option<i64>>(3)?);
            Ok((row.get::<_, i64>(0)?, read::state_word(row, 1)?, outcome, due_at, row.get::<_, bool>(4)?))
        })
        .optional()?;
    let Some((id, was, refused_for, was_due_at, in_trouble)) = found else { return Ok(false) };
    let state = if was.is_final() || info.state.is_final() { info.state } else { was };
    let waiting = info.waiting.as_ref().filter(|_| state == RunState::Waiting);
    let outcome = match state {
        RunState::Refused => refused_for,
        state if state.is_final() => info.outcome.as_ref().map(outcome_bytes),
        _ => None,
    };
    let due_at = match state {
        state if state.is_final() => None,
        RunState::Paused | RunState::Refused => is_to_stop(c, id)?.then_some(0),
        _ if in_trouble => Some(was_due_at.unwrap_or(0)),
        RunState::Waiting if !wakes(c, id, waiting)? => waiting.and_then(|waiting| waiting.until).map(millis),
        _ => Some(0),
    };
    let changed = c
        .prepare_cached(concat!(
            "UPDATE runs SET workflow = :workflow, module = :module, labels = :labels, parent = :parent,
                             created_at = :created_at, updated_at = :updated_at, state = :state,
                             outcome = :outcome, wait_until = :until, wait_for = :signals, people = :people,
                             due_at = :due, head = :head, parent_step = :step, on_close = :on_close,
                             root = :root, chain = :chain, next = :next
             WHERE name = :name AND session IS NULL
             AND :entries = (SELECT seq + count FROM commits WHERE id = ",
            last_place!("runs.id"),
            ")"
        ))?
        .execute(named_params! {
            ":name": info.id.as_str(), ":entries": stored(info.entries.0), ":workflow": info.workflow,
            ":module": info.module.0, ":labels": to_json(&info.labels),
            ":parent": info.parent.as_ref().map(RunId::as_str), ":created_at": millis(info.created_at),
            ":updated_at": millis(info.updated_at), ":state": state.as_str(), ":outcome": outcome,
            ":until": waiting.and_then(|waiting| waiting.until).map(millis),
            ":signals": waiting.map(|waiting| to_json(&waiting.signals)),
            ":people": waiting.is_some_and(|waiting| waiting.people),
            ":due": due_at, ":head": info.head.map(|head| head.0),
            ":step": info.links.step.map(|step| stored(step.0)),
            ":on_close": info.links.on_close.map(|on_close| on_close as i64),
            ":root": info.links.root.as_str(), ":chain": info.links.chain.as_ref().map(RunId::as_str),
            ":next": info.links.next.as_ref().map(RunId::as_str),
        })?;
    if changed == 0 {
        return Ok(false);
    }
    // Whatever it is found by: this looks at all labels, and is done to few runs.
    c.prepare_cached("DELETE FROM labels WHERE run = ?1")?.execute([id])?;
    insert_labels(c, id, &info.labels)?;
    set_ledger(c, id, info.spent, info.budget)?;
    c.prepare_cached("DELETE FROM questions WHERE run = ?1")?.execute([id])?;
    change_questions(c, id, &run.questions)?;
    if let Some(emissions) = &run.emissions {
        for table in ["logs", "messages", "published"] {
            c.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?.execute([id])?;
        }
        c.prepare_cached("UPDATE runs SET emissions = 0, phase = NULL WHERE id = ?1")?.execute([id])?;
        emit(c, id, 0, emissions, None)?;
    }
    Ok(true)
}

fn key_is_taken(c: &Connection, workflow: &str, key: &str) -> rusqlite::Result<bool> {
    c.prepare_cached("SELECT 1 FROM runs WHERE workflow = ?1 AND key = ?2")?.exists([workflow, key])
}

pub(super) fn delete(c: &Connection, run: &RunId, only: &DeleteIf, clock: &dyn Clock) -> Result<Deleted> {
    let found = c
        .prepare_cached(
            "SELECT id, state, session, root, ifnull(chain, name), chain NOT NULL, updated_at FROM runs
             WHERE name = ?1",
        )?
        .query_row([run.as_str()], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                read::state_word(row, 1)?,
                row.get::<_, Option<i64>>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, String>(4)?,
                row.get::<_, bool>(5)?,
                row.get::<_, Option<i64>>(6)?.map(|at| Timestamp(at as u64)),
            ))
        })
        .optional()?;
    let Some((id, state, session, root, chain, is_round, updated_at)) = found else {
        return Ok(Deleted::NoSuchRun);
    };
    if !only.allows(state, updated_at) {
        return Ok(Deleted::Changed);
    }
    if let Some(session) = session {
        if let Some(session) = sessions::living(c, session, clock)? {
            let crate::Session { id: session, owner, left_ms } = session;
            return Ok(Deleted::Held { session, owner, left_ms });
        }
        sessions::fence(c, session)?;
    }
    if state == RunState::Continued && is_round {
        let lives = c
            .prepare_cached("SELECT state FROM runs WHERE chain = ?1 ORDER BY id DESC LIMIT 1")?
            .query_row([&chain], |row| read::state_word(row, 0))?;
        if !lives.is_final() {
            return Ok(Deleted::Needed);
        }
    }
    if !state.is_final() {
        let failure = Failure::new(FailureKind::Cancelled, format!("{run} was deleted"));
        let spent: Spent = c
            .prepare_cached("SELECT tokens, micros FROM runs WHERE id = ?1")?
            .query_row([id], |row| read::spent(row, 0))?;
        tell_parent(c, id, &Err(failure), spent, clock.now())?;
        cancel_children(c, run, None, clock.now())?;
    }
    journal::delete(c, id)?;
    delete_labels(c, id)?;
    for table in ["inbox", "logs", "published", "questions", "messages", "transcripts"] {
        c.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?.execute([id])?;
    }
    limits::release_run(c, run)?;
    c.prepare_cached("DELETE FROM runs WHERE id = ?1")?.execute([id])?;
    c.prepare_cached("INSERT INTO deleted (name, at) VALUES (?1, ?2)")?
        .execute(params![run.as_str(), millis(clock.now())])?;
    // What is known of all rounds, and of the family, goes with the last of them.
    if !c.prepare_cached("SELECT 1 FROM runs WHERE chain = ?1")?.exists([&chain])? {
        c.prepare_cached("DELETE FROM seen WHERE chain = ?1")?.execute([&chain])?;
    }
    if !c.prepare_cached("SELECT 1 FROM runs WHERE root = ?1")?.exists([&root])? {
        c.prepare_cached("DELETE FROM ledgers WHERE root = ?1")?.execute([&root])?;
    }
    Ok(Deleted::Yes)
}

pub(super) fn delete_unused_modules(c: &Connection, before: Timestamp) -> Result<usize> {
    let gone = c
        .prepare_cached(
            "DELETE FROM modules WHERE added_at < ?1 AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.module = digest)
             AND NOT EXISTS (SELECT 1 FROM schedules s WHERE s.module = digest)
             AND NOT EXISTS (SELECT 1 FROM puts p WHERE p.digest = modules.digest AND p.at >= ?1)",
        )?
        .execute([millis(before)])?;
    c.prepare_cached("DELETE FROM puts WHERE digest NOT IN (SELECT digest FROM modules)")?.execute([])?;
    Ok(gone)
}
