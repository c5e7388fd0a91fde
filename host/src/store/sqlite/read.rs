//! Looking things up.

use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Row as SqlRow, params};
use wfhost_core::{Digest, Epoch, Json, Outcome, Position, Recorded, Row, RunId, Timestamp};

use super::write::lease;
use crate::store::{
    LogLevel, LogLine, Message, MessageBody, MessageId, ModuleInfo, RunFilter, RunInfo, RunState, Waiting,
};

type Result<T> = rusqlite::Result<T>;

/// A value that this program never writes.
fn strange(column: usize, what: &str) -> Error {
    let reason = format!("{what} cannot be read");
    Error::FromSqlConversionFailure(column, Type::Text, reason.into())
}

fn time(row: &SqlRow<'_>, column: usize) -> Result<Timestamp> {
    Ok(Timestamp(row.get::<_, i64>(column)? as u64))
}

fn digest(row: &SqlRow<'_>, column: usize) -> Result<Digest> {
    row.get::<_, [u8; 32]>(column).map(Digest)
}

fn json(row: &SqlRow<'_>, column: usize) -> Result<Json> {
    let text: Option<String> = row.get(column)?;
    Json::parse(text.unwrap_or_else(|| "null".to_owned())).map_err(|_| strange(column, "JSON"))
}

fn from_json<T: serde::de::DeserializeOwned>(row: &SqlRow<'_>, column: usize) -> Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|_| strange(column, "a list"))
}

pub(super) fn has_module(c: &Connection, digest: Digest) -> Result<bool> {
    c.prepare_cached("SELECT 1 FROM modules WHERE digest = ?1")?.exists([digest.0])
}

pub(super) fn module(c: &Connection, digest: Digest) -> Result<Option<Vec<u8>>> {
    c.prepare_cached("SELECT bytes FROM modules WHERE digest = ?1")?
        .query_row([digest.0], |row| row.get(0))
        .optional()
}

pub(super) fn modules(c: &Connection) -> Result<Vec<ModuleInfo>> {
    let sql =
        "SELECT digest, name, length(bytes), added_at FROM modules ORDER BY name, added_at DESC, digest";
    c.prepare_cached(sql)?
        .query_map([], |row| {
            Ok(ModuleInfo {
                digest: digest(row, 0)?,
                name: row.get(1)?,
                bytes: row.get::<_, i64>(2)? as u64,
                added_at: time(row, 3)?,
            })
        })?
        .collect()
}

pub(super) fn journal(c: &Connection, run: &RunId) -> Result<Vec<Row>> {
    c.prepare_cached(
        "SELECT j.seq, j.count, j.body, j.head FROM runs r JOIN journal j ON j.run = r.id
         WHERE r.name = ?1 ORDER BY j.seq",
    )?
    .query_map([run.as_str()], |row| {
        Ok(Row {
            first: Position(row.get::<_, i64>(0)? as u64),
            count: row.get(1)?,
            bytes: row.get(2)?,
            head: digest(row, 3)?,
        })
    })?
    .collect()
}

pub(super) fn inbox(c: &Connection, run: &RunId) -> Result<Vec<Message>> {
    c.prepare_cached(
        "SELECT i.id, i.at, i.kind, i.name, i.text, i.dedupe FROM runs r JOIN inbox i ON i.run = r.id
         WHERE r.name = ?1 AND i.taken = 0 ORDER BY i.id",
    )?
    .query_map([run.as_str()], |row| {
        let body = match row.get_ref(2)?.as_str()? {
            "signal" => MessageBody::Signal { name: row.get(3)?, payload: json(row, 4)?, id: row.get(5)? },
            "cancel" => MessageBody::Cancel { reason: row.get(4)? },
            _ => return Err(strange(2, "a message")),
        };
        Ok(Message { id: MessageId(row.get(0)?), at: time(row, 1)?, body })
    })?
    .collect()
}

/// The columns of [`run_info`].
const RUN: &str = "SELECT r.name, r.key, r.workflow, r.module, r.state, r.labels, r.parent, r.created_at,
    r.phase, r.outcome, r.wait_until, r.wait_for, r.epoch,
    r.owner_host, r.owner_pid, r.owner_start, r.lease_until,
    (SELECT j.at FROM journal j WHERE j.run = r.id ORDER BY j.seq DESC LIMIT 1),
    (SELECT j.seq + j.count FROM journal j WHERE j.run = r.id ORDER BY j.seq DESC LIMIT 1)
    FROM runs r";

fn run_info(row: &SqlRow<'_>) -> Result<RunInfo> {
    let id = |column| -> Result<Option<RunId>> {
        let text: Option<String> = row.get(column)?;
        text.map(|text| text.parse().map_err(|_| strange(column, "an id"))).transpose()
    };
    let outcome: Option<Vec<u8>> = row.get(9)?;
    let outcome = outcome
        .map(|bytes| minicbor::decode::<Recorded>(&bytes).map(Outcome::from))
        .transpose()
        .map_err(|_| strange(9, "an outcome"))?;
    let waiting = match row.get::<_, Option<String>>(11)? {
        Some(_) => Some(Waiting {
            until: row.get::<_, Option<i64>>(10)?.map(|at| Timestamp(at as u64)),
            signals: from_json(row, 11)?,
        }),
        None => None,
    };
    Ok(RunInfo {
        id: id(0)?.ok_or_else(|| strange(0, "an id"))?,
        key: row.get(1)?,
        workflow: row.get(2)?,
        module: digest(row, 3)?,
        state: RunState::parse(row.get_ref(4)?.as_str()?).ok_or_else(|| strange(4, "a state"))?,
        labels: from_json(row, 5)?,
        parent: id(6)?,
        created_at: time(row, 7)?,
        updated_at: time(row, 17)?,
        entries: Position(row.get::<_, i64>(18)? as u64),
        phase: row.get(8)?,
        outcome,
        waiting,
        epoch: Epoch(row.get::<_, i64>(12)? as u64),
        lease: lease(row, 13)?,
    })
}

pub(super) fn run(c: &Connection, run: &RunId) -> Result<Option<RunInfo>> {
    c.prepare_cached(&format!("{RUN} WHERE r.name = ?1"))?.query_row([run.as_str()], run_info).optional()
}

pub(super) fn runs(c: &Connection, filter: &RunFilter) -> Result<Vec<RunInfo>> {
    let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
    let sql = format!(
        "{RUN} WHERE (?1 = '[]' OR r.state IN (SELECT value FROM json_each(?1)))
           AND (?2 IS NULL OR r.workflow = ?2)
           AND NOT EXISTS (SELECT 1 FROM json_each(?3) wanted WHERE NOT EXISTS (
                 SELECT 1 FROM json_each(r.labels) label
                 WHERE label.value ->> 0 = wanted.value ->> 0 AND label.value ->> 1 = wanted.value ->> 1))
           AND (?4 IS NULL OR (r.name >= ?4 AND r.name < ?4 || char(0x10FFFF)))
           AND (?5 IS NULL OR r.id < (SELECT id FROM runs WHERE name = ?5))
         ORDER BY r.id DESC LIMIT ?6"
    );
    c.prepare_cached(&sql)?
        .query_map(
            params![
                super::write::to_json(&states),
                filter.workflow,
                super::write::to_json(&filter.labels),
                filter.prefix,
                filter.before.as_ref().map(RunId::as_str),
                filter.limit as i64
            ],
            run_info,
        )?
        .collect()
}

pub(super) fn logs(c: &Connection, run: &RunId, from: u64, limit: usize) -> Result<Vec<LogLine>> {
    c.prepare_cached(
        "SELECT l.number, l.at, l.level, l.message, l.fields FROM runs r JOIN logs l ON l.run = r.id
         WHERE r.name = ?1 AND l.number >= ?2 ORDER BY l.number LIMIT ?3",
    )?
    .query_map(params![run.as_str(), from as i64, limit as i64], |row| {
        let level = LogLevel::ALL.get(usize::from(row.get::<_, u8>(2)?));
        Ok(LogLine {
            number: row.get::<_, i64>(0)? as u64,
            at: time(row, 1)?,
            level: *level.ok_or_else(|| strange(2, "a level"))?,
            message: row.get(3)?,
            fields: from_json(row, 4)?,
        })
    })?
    .collect()
}

pub(super) fn state(c: &Connection, run: &RunId) -> Result<Vec<(String, Json)>> {
    c.prepare_cached(
        "SELECT s.key, s.value FROM runs r JOIN state s ON s.run = r.id WHERE r.name = ?1 ORDER BY s.key",
    )?
    .query_map([run.as_str()], |row| Ok((row.get(0)?, json(row, 1)?)))?
    .collect()
}
