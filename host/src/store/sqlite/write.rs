//! What is done inside a transaction. Each function checks before it changes.

use rusqlite::{Connection, OptionalExtension, named_params, params};
use wfhost_core::{Digest, Epoch, FailureKind, Outcome, Recorded, RunId, Timestamp};

use crate::store::{
    Append, Appended, Claimed, Created, Emission, MessageBody, NewMessage, NewRun, Next, Owner, Posted,
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

type Result<T> = std::result::Result<T, Fault>;

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
    if c.prepare_cached("SELECT 1 FROM runs WHERE name = ?1")?.exists([run.id.as_str()])? {
        return Err(Fault::Refused(StoreError::IdTaken { id: run.id.clone() }));
    }
    if !c.prepare_cached("SELECT 1 FROM modules WHERE digest = ?1")?.exists([run.module.0])? {
        return Err(Fault::Refused(StoreError::NoSuchModule(run.module)));
    }
    c.prepare_cached(
        "INSERT INTO runs (name, key, workflow, module, labels, parent, created_at, state, epoch,
                           owner_host, owner_pid, owner_start, lease_until)
         VALUES (:name, :key, :workflow, :module, :labels, :parent, :created_at, :state, 1,
                 :host, :pid, :start, :until)",
    )?
    .execute(named_params! {
        ":name": run.id.as_str(), ":key": run.key, ":workflow": run.workflow, ":module": run.module.0,
        ":labels": to_json(&run.labels), ":parent": run.parent.as_ref().map(RunId::as_str),
        ":created_at": run.created_at.0 as i64, ":state": RunState::Running.as_str(),
        ":host": run.owner.host, ":pid": run.owner.pid, ":start": run.owner.started as i64,
        ":until": run.lease_until.0 as i64,
    })?;
    insert_row(c, c.last_insert_rowid(), &run.row, run.created_at)?;
    Ok(Created::New)
}

fn insert_row(c: &Connection, run: i64, row: &wfhost_core::Row, at: Timestamp) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO journal (run, seq, count, at, head, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![run, row.first.0 as i64, row.count, at.0 as i64, row.head.0, row.bytes])?;
    Ok(())
}

pub(super) fn claim(
    c: &Connection,
    run: &RunId,
    owner: &Owner,
    now: Timestamp,
    until: Timestamp,
    dead: Option<&Owner>,
) -> Result<Claimed> {
    let found = c
        .prepare_cached(
            "SELECT id, epoch, emissions, state, owner_host, owner_pid, owner_start, lease_until
             FROM runs WHERE name = ?1",
        )?
        .query_row([run.as_str()], |row| {
            let lease = lease(row, 4)?;
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, String>(3)?,
                lease,
            ))
        })
        .optional()?;
    let Some((id, epoch, emissions, state, lease)) = found else {
        return Ok(Claimed::NoSuchRun);
    };
    if RunState::parse(&state).is_some_and(RunState::is_final) {
        return Ok(Claimed::Ended);
    }
    if let Some((holder, lease_until)) = lease
        && lease_until > now
        && dead != Some(&holder)
    {
        return Ok(Claimed::Held { owner: holder, until: lease_until });
    }
    c.prepare_cached(
        "UPDATE runs SET epoch = epoch + 1, state = ?2, wait_until = NULL, wait_for = NULL, outcome = NULL,
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
    Ok(Claimed::Yes { epoch: Epoch(epoch as u64 + 1), emissions: emissions as u64 })
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
        "UPDATE runs SET lease_until = ?3 WHERE name = ?1 AND epoch = ?2 AND owner_host NOT NULL",
    )?;
    for (run, epoch) in leases {
        if statement.execute(params![run.as_str(), epoch.0 as i64, until.0 as i64])? == 0 {
            lost.push(run.clone());
        }
    }
    Ok(lost)
}

pub(super) fn release(c: &Connection, run: &RunId, epoch: Epoch) -> Result<()> {
    c.prepare_cached(
        "UPDATE runs SET owner_host = NULL, owner_pid = NULL, owner_start = NULL, lease_until = NULL
         WHERE name = ?1 AND epoch = ?2",
    )?
    .execute(params![run.as_str(), epoch.0 as i64])?;
    Ok(())
}

pub(super) fn append(c: &Connection, append: &Append) -> Result<Appended> {
    let fenced = || Fault::Refused(StoreError::Fenced { run: append.run.clone() });
    let found = c
        .prepare_cached("SELECT id, epoch, emissions, owner_host NOT NULL FROM runs WHERE name = ?1")?
        .query_row([append.run.as_str()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, bool>(3)?))
        })
        .optional()?;
    let Some((id, epoch, emitted, owned)) = found else { return Err(fenced()) };
    if epoch as u64 != append.epoch.0 || !owned {
        return Err(fenced());
    }
    if let Some(row) = &append.row {
        let end: i64 = c
            .prepare_cached("SELECT seq + count FROM journal WHERE run = ?1 ORDER BY seq DESC LIMIT 1")?
            .query_row([id], |row| row.get(0))
            .optional()?
            .unwrap_or(0);
        if end as u64 != row.first.0 {
            return Err(fenced());
        }
        insert_row(c, id, row, append.at)?;
    }
    for message in &append.consumed {
        c.prepare_cached("UPDATE inbox SET taken = 1, text = NULL WHERE id = ?1 AND run = ?2")?
            .execute(params![message.0, id])?;
        c.prepare_cached("DELETE FROM inbox WHERE id = ?1 AND run = ?2 AND dedupe IS NULL")?
            .execute(params![message.0, id])?;
    }
    emit(c, id, emitted as u64, append)?;
    settle(c, id, &append.next)
}

/// Stores what the program gave out, once.
fn emit(c: &Connection, id: i64, stored: u64, append: &Append) -> Result<()> {
    let numbered = (append.first_emission..).zip(&append.emissions).filter(|(number, _)| *number >= stored);
    let mut next = stored;
    for (number, emission) in numbered {
        next = number + 1;
        match emission {
            Emission::Log(line) => c
                .prepare_cached(
                    "INSERT INTO logs (run, number, at, level, message, fields) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![
                    id,
                    number as i64,
                    line.at.0 as i64,
                    line.level as i64,
                    line.message,
                    to_json(&line.fields)
                ])?,
            Emission::State { key, value } => c
                .prepare_cached(
                    "INSERT INTO state (run, key, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET value = excluded.value",
                )?
                .execute(params![id, key, value.as_str()])?,
            Emission::Phase { title, .. } => c
                .prepare_cached("UPDATE runs SET phase = ?2 WHERE id = ?1")?
                .execute(params![id, title])?,
        };
    }
    if next > stored {
        c.prepare_cached("UPDATE runs SET emissions = ?2 WHERE id = ?1")?
            .execute(params![id, next as i64])?;
    }
    Ok(())
}

fn settle(c: &Connection, id: i64, next: &Next) -> Result<Appended> {
    let end =
        |state: RunState, outcome: Option<Vec<u8>>, until: Option<Timestamp>, signals: Option<String>| {
            c.prepare_cached(
                "UPDATE runs SET state = ?2, outcome = ?3, wait_until = ?4, wait_for = ?5, owner_host = NULL,
                             owner_pid = NULL, owner_start = NULL, lease_until = NULL
             WHERE id = ?1",
            )?
            .execute(params![id, state.as_str(), outcome, until.map(|at| at.0 as i64), signals])
            .map(drop)
        };
    match next {
        Next::Go => {}
        Next::Park(waiting) => {
            // In this very transaction, so that nothing slips in between.
            let signals = to_json(&waiting.signals);
            let due = c
                .prepare_cached(
                    "SELECT 1 FROM inbox WHERE run = ?1 AND taken = 0
                     AND (kind = 'cancel' OR name IN (SELECT value FROM json_each(?2)))",
                )?
                .exists(params![id, signals])?;
            if due {
                return Ok(Appended { due: true });
            }
            end(RunState::Waiting, None, waiting.until, Some(signals))?;
        }
        Next::Refuse { reason } => {
            let outcome = Err(wfhost_core::Failure::new(FailureKind::Rejected, reason.as_str()));
            end(RunState::Refused, Some(outcome_bytes(&outcome)), None, None)?;
        }
        Next::End { outcome } => {
            let state = match outcome {
                Ok(_) => RunState::Completed,
                Err(failure) if failure.kind == FailureKind::Cancelled => RunState::Cancelled,
                Err(_) => RunState::Failed,
            };
            end(state, Some(outcome_bytes(outcome)), None, None)?;
        }
    }
    Ok(Appended { due: false })
}

pub(super) fn post(c: &Connection, message: &NewMessage) -> Result<Posted> {
    let found = c
        .prepare_cached("SELECT id, state FROM runs WHERE name = ?1")?
        .query_row([message.run.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((run, state)) = found else { return Ok(Posted::NoSuchRun) };
    let (kind, name, text, dedupe) = match &message.body {
        MessageBody::Signal { name, payload, id } => {
            ("signal", Some(name.as_str()), Some(payload.as_str()), id.as_deref())
        }
        MessageBody::Cancel { reason } => ("cancel", None, reason.as_deref(), None),
    };
    // Before the end is looked at: one that was delivered stays delivered.
    if let Some(dedupe) = dedupe
        && c.prepare_cached("SELECT 1 FROM inbox WHERE run = ?1 AND dedupe = ?2")?
            .exists(params![run, dedupe])?
    {
        return Ok(Posted::Duplicate);
    }
    if RunState::parse(&state).is_some_and(RunState::is_final) {
        return Ok(Posted::Ended);
    }
    c.prepare_cached(
        "INSERT INTO inbox (run, at, kind, name, text, dedupe) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![run, message.at.0 as i64, kind, name, text, dedupe])?;
    Ok(Posted::Added)
}
