//! Looking things up.

use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Row as SqlRow, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Digest, Epoch, Json, OnParentClose, Outcome, Position, Recorded, RunId, Step, Timestamp};

use super::inbox::{AnswerBody, ChildBody};
use super::journal::last_place;
use super::write::lease;
use crate::schedule::{CatchUp, Overlap, Schedule};
use crate::{
    Family, Links, LogLevel, LogLine, Message, MessageBody, MessageId, ModuleInfo, NewTranscript,
    OpenQuestion, OutMessage, Owner, Published, RunFilter, RunInfo, RunState, TranscriptFilter,
    TranscriptKind, TranscriptLine, Waiting,
};

type Result<T> = rusqlite::Result<T>;

/// A value that this program never writes.
fn strange(column: usize, what: &str) -> Error {
    let reason = format!("{what} cannot be read");
    Error::FromSqlConversionFailure(column, Type::Text, reason.into())
}

pub(super) fn id(row: &SqlRow<'_>, column: usize) -> Result<RunId> {
    row.get::<_, String>(column)?.parse().map_err(|_| strange(column, "an id"))
}

fn optional_id(row: &SqlRow<'_>, column: usize) -> Result<Option<RunId>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| strange(column, "an id"))).transpose()
}

/// Two columns from `first` on.
fn spent(row: &SqlRow<'_>, first: usize) -> Result<Spent> {
    let amount = |column| row.get::<_, i64>(column).map(|amount| amount as u64);
    Ok(Spent { tokens: amount(first)?, micros: amount(first + 1)?, time_ms: 0 })
}

fn budget(row: &SqlRow<'_>, column: usize) -> Result<Budget> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    let budget = bytes.map(|bytes| minicbor::decode(&bytes).map_err(|_| strange(column, "a budget")));
    Ok(budget.transpose()?.unwrap_or_default())
}

pub(super) fn state_word(row: &SqlRow<'_>, column: usize) -> Result<RunState> {
    RunState::parse(row.get_ref(column)?.as_str()?).ok_or_else(|| strange(column, "a state"))
}

fn cbor<T: for<'b> minicbor::Decode<'b, ()>>(row: &SqlRow<'_>, column: usize) -> Result<T> {
    minicbor::decode(&row.get::<_, Vec<u8>>(column)?).map_err(|_| strange(column, "CBOR"))
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

/// The number by which the tables know a run.
pub(super) fn number(c: &Connection, run: &RunId) -> Result<Option<i64>> {
    c.prepare_cached("SELECT id FROM runs WHERE name = ?1")?
        .query_row([run.as_str()], |row| row.get(0))
        .optional()
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

pub(super) fn due(c: &Connection, now: Timestamp, limit: usize) -> Result<Vec<RunId>> {
    let mut due = Vec::new();
    for which in [
        "SELECT name FROM runs INDEXED BY runs_due
         WHERE due_at <= ?1 AND state <> 'queued' ORDER BY due_at LIMIT ?2",
        "SELECT name FROM runs INDEXED BY runs_new
         WHERE due_at <= ?1 AND state = 'queued' ORDER BY due_at LIMIT ?2",
    ] {
        let room = limit.saturating_sub(due.len());
        let mut statement = c.prepare_cached(which)?;
        for name in statement.query_map(params![now.0 as i64, room as i64], |row| id(row, 0))? {
            due.push(name?);
        }
    }
    Ok(due)
}

pub(super) fn next_due(c: &Connection, now: Timestamp) -> Result<Option<Timestamp>> {
    let mut statement = c.prepare_cached(
        "SELECT min(due_at) FROM runs INDEXED BY runs_due WHERE due_at > ?1 AND state <> 'queued'
         UNION ALL
         SELECT min(due_at) FROM runs INDEXED BY runs_new WHERE due_at > ?1 AND state = 'queued'",
    )?;
    let next = statement.query_map([now.0 as i64], |row| row.get::<_, Option<i64>>(0))?;
    let next = next.collect::<Result<Vec<_>>>()?.into_iter().flatten().min();
    Ok(next.map(|at| Timestamp(at as u64)))
}

pub(super) fn owners(c: &Connection) -> Result<Vec<Owner>> {
    c.prepare_cached(
        "SELECT DISTINCT owner_host, owner_pid, owner_start FROM runs WHERE owner_host NOT NULL",
    )?
    .query_map([], |row| {
        Ok(Owner { host: row.get(0)?, pid: row.get(1)?, started: row.get::<_, i64>(2)? as u64 })
    })?
    .collect()
}

pub(super) fn owned(c: &Connection, owner: &Owner) -> Result<Vec<RunId>> {
    c.prepare_cached(
        "SELECT name FROM runs WHERE owner_host = ?1 AND owner_pid = ?2 AND owner_start = ?3 ORDER BY id",
    )?
    .query_map(params![owner.host, owner.pid, owner.started as i64], |row| id(row, 0))?
    .collect()
}

pub(super) fn questions(c: &Connection, run: Option<&RunId>, limit: usize) -> Result<Vec<OpenQuestion>> {
    c.prepare_cached(
        "SELECT r.name, r.workflow, q.step, q.at, q.deadline, q.body
         FROM questions q JOIN runs r ON r.id = q.run
         WHERE q.answered = 0 AND (?1 IS NULL OR r.name = ?1) ORDER BY q.at, q.run, q.step LIMIT ?2",
    )?
    .query_map(params![run.map(RunId::as_str), limit as i64], |row| {
        Ok(OpenQuestion {
            run: id(row, 0)?,
            workflow: row.get(1)?,
            step: Step(row.get::<_, i64>(2)? as u64),
            asked_at: time(row, 3)?,
            deadline: row.get::<_, Option<i64>>(4)?.map(|at| Timestamp(at as u64)),
            question: cbor(row, 5)?,
        })
    })?
    .collect()
}

pub(super) fn messages(
    c: &Connection,
    run: &RunId,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<OutMessage>> {
    c.prepare_cached(
        "SELECT m.number, m.at, m.name, m.payload FROM runs r JOIN messages m ON m.run = r.id
         WHERE r.name = ?1 AND m.number > ?2 ORDER BY m.number LIMIT ?3",
    )?
    .query_map(params![run.as_str(), after.map_or(-1, |after| after as i64), limit as i64], |row| {
        Ok(OutMessage {
            number: row.get::<_, i64>(0)? as u64,
            at: time(row, 1)?,
            name: row.get(2)?,
            payload: json(row, 3)?,
        })
    })?
    .collect()
}

pub(super) fn transcript(
    c: &Connection,
    run: &RunId,
    filter: &TranscriptFilter,
    limit: usize,
) -> Result<Vec<TranscriptLine>> {
    let kinds: Vec<_> = filter.kinds.iter().map(|kind| *kind as u8).collect();
    let kinds = serde_json::to_string(&kinds).unwrap_or_default();
    c.prepare_cached(
        "SELECT t.id, t.step, t.attempt, t.at, t.kind, t.text FROM runs r JOIN transcripts t ON t.run = r.id
         WHERE r.name = ?1 AND t.id > ?2 AND (?3 IS NULL OR t.step = ?3)
           AND (?4 = '[]' OR t.kind IN (SELECT value FROM json_each(?4))) ORDER BY t.id LIMIT ?5",
    )?
    .query_map(
        params![
            run.as_str(),
            filter.after as i64,
            filter.step.map(|step| step.0 as i64),
            kinds,
            limit as i64
        ],
        |row| {
            let kind: i64 = row.get(4)?;
            let kind = TranscriptKind::ALL.get(kind as usize).copied();
            let line = NewTranscript {
                step: Step(row.get::<_, i64>(1)? as u64),
                attempt: row.get(2)?,
                at: time(row, 3)?,
                // One of a later version is shown as it is.
                kind: kind.unwrap_or(TranscriptKind::Event),
                text: row.get(5)?,
            };
            Ok(TranscriptLine { number: row.get::<_, i64>(0)? as u64, line })
        },
    )?
    .collect()
}

pub(super) fn kept_answer(c: &Connection, key: Digest) -> Result<Option<(Timestamp, Json)>> {
    c.prepare_cached("SELECT at, reply FROM answers WHERE key = ?1")?
        .query_row([key.0], |row| Ok((time(row, 0)?, json(row, 1)?)))
        .optional()
}

pub(super) fn inbox(c: &Connection, run: &RunId) -> Result<Vec<Message>> {
    c.prepare_cached(
        "SELECT i.id, i.at, i.kind, i.name, i.text, i.dedupe, i.body FROM runs r JOIN inbox i ON i.run = r.id
         WHERE r.name = ?1 AND i.taken = 0 ORDER BY i.id",
    )?
    .query_map([run.as_str()], |row| {
        let body = match row.get_ref(2)?.as_str()? {
            "signal" => MessageBody::Signal { name: row.get(3)?, payload: json(row, 4)?, id: row.get(5)? },
            "cancel" => MessageBody::Cancel { reason: row.get(4)? },
            "pause" => MessageBody::Pause,
            "answer" => {
                let (step, outcome, by, note): AnswerBody = cbor(row, 6)?;
                MessageBody::Answer { step, outcome: outcome.into(), by, note }
            }
            "child" => {
                let (step, run, outcome, spent): ChildBody = cbor(row, 6)?;
                MessageBody::Child { step, run, outcome: outcome.into(), spent }
            }
            _ => return Err(strange(2, "a message")),
        };
        Ok(Message { id: MessageId(row.get(0)?), at: time(row, 1)?, body })
    })?
    .collect()
}

/// The columns of [`run_info`].
const RUN: &str = concat!(
    "SELECT r.name, r.key, r.workflow, r.module, r.state, r.labels, r.parent, r.created_at,
    r.phase, r.outcome, r.wait_until, r.wait_for, r.epoch,
    r.owner_host, r.owner_pid, r.owner_start, r.lease_until,
    r.people, r.due_at, r.trouble, r.emissions, r.head,
    r.parent_step, r.on_close, r.root, r.chain, r.next, r.tokens, r.micros, r.budget, l.at, l.seq + l.count
    FROM runs r LEFT JOIN journal l ON l.id = ",
    last_place!("r.id")
);

fn run_info(row: &SqlRow<'_>) -> Result<RunInfo> {
    let outcome: Option<Vec<u8>> = row.get(9)?;
    let outcome = outcome
        .map(|bytes| minicbor::decode::<Recorded>(&bytes).map(Outcome::from))
        .transpose()
        .map_err(|_| strange(9, "an outcome"))?;
    let waiting = match row.get::<_, Option<String>>(11)? {
        Some(_) => Some(Waiting {
            until: row.get::<_, Option<i64>>(10)?.map(|at| Timestamp(at as u64)),
            signals: from_json(row, 11)?,
            people: row.get(17)?,
        }),
        None => None,
    };
    Ok(RunInfo {
        id: id(row, 0)?,
        key: row.get(1)?,
        workflow: row.get(2)?,
        module: digest(row, 3)?,
        state: state_word(row, 4)?,
        labels: from_json(row, 5)?,
        parent: optional_id(row, 6)?,
        created_at: time(row, 7)?,
        updated_at: time(row, 30)?,
        entries: Position(row.get::<_, i64>(31)? as u64),
        phase: row.get(8)?,
        outcome,
        waiting,
        epoch: Epoch(row.get::<_, i64>(12)? as u64),
        lease: lease(row, 13)?,
        due_at: row.get::<_, Option<i64>>(18)?.map(|at| Timestamp(at as u64)),
        trouble: row.get(19)?,
        emissions: row.get::<_, i64>(20)? as u64,
        head: row.get::<_, Option<[u8; 32]>>(21)?.map(Digest),
        links: Links {
            step: row.get::<_, Option<i64>>(22)?.map(|step| Step(step as u64)),
            on_close: row.get::<_, Option<i64>>(23)?.map(|on_close| match on_close {
                0 => OnParentClose::Cancel,
                _ => OnParentClose::Abandon,
            }),
            root: id(row, 24)?,
            chain: optional_id(row, 25)?,
            next: optional_id(row, 26)?,
        },
        spent: spent(row, 27)?,
        budget: budget(row, 29)?,
    })
}

pub(super) fn run(c: &Connection, run: &RunId) -> Result<Option<RunInfo>> {
    c.prepare_cached(&format!("{RUN} WHERE r.name = ?1"))?.query_row([run.as_str()], run_info).optional()
}

pub(super) fn runs(c: &Connection, filter: &RunFilter) -> Result<Vec<RunInfo>> {
    let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
    // Relatives are looked up often, among many runs: by an index, which an `OR` would not use.
    let given = |value: &Option<RunId>, given, none| if value.is_some() { given } else { none };
    let relatives = [
        given(&filter.parent, "AND r.parent = ?9", "AND ?9 IS NULL"),
        given(&filter.root, "AND r.root = ?10", "AND ?10 IS NULL"),
        given(&filter.chain, "AND r.chain = ?11", "AND ?11 IS NULL"),
    ]
    .join(" ");
    let sql = format!(
        "{RUN} WHERE (?1 = '[]' OR r.state IN (SELECT value FROM json_each(?1)))
           AND (?2 IS NULL OR r.workflow = ?2)
           AND NOT EXISTS (SELECT 1 FROM json_each(?3) wanted WHERE NOT EXISTS (
                 SELECT 1 FROM json_each(r.labels) label
                 WHERE label.value ->> 0 = wanted.value ->> 0 AND label.value ->> 1 = wanted.value ->> 1))
           AND (?4 IS NULL OR (r.name >= ?4 AND r.name < ?4 || char(0x10FFFF)))
           AND (?5 IS NULL OR r.id < (SELECT id FROM runs WHERE name = ?5))
           AND (?6 IS NULL OR r.created_at >= ?6) AND (?7 IS NULL OR r.updated_at < ?7)
           AND (?12 = 0 OR r.parent IS NULL) {relatives}
         ORDER BY r.id DESC LIMIT ?8"
    );
    c.prepare_cached(&sql)?
        .query_map(
            params![
                super::write::to_json(&states),
                filter.workflow,
                super::write::to_json(&filter.labels),
                filter.prefix,
                filter.before.as_ref().map(RunId::as_str),
                filter.since.map(|at| at.0 as i64),
                filter.idle_since.map(|at| at.0 as i64),
                filter.limit as i64,
                filter.parent.as_ref().map(RunId::as_str),
                filter.root.as_ref().map(RunId::as_str),
                filter.chain.as_ref().map(RunId::as_str),
                filter.top
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

pub(super) fn ended_children(c: &Connection, parent: &RunId, from: Step) -> Result<Vec<RunInfo>> {
    let sql = format!(
        "{RUN} WHERE r.parent = ?1 AND r.parent_step >= ?2
         AND r.state IN ('completed', 'failed', 'cancelled') ORDER BY r.parent_step"
    );
    c.prepare_cached(&sql)?.query_map(params![parent.as_str(), from.0 as i64], run_info)?.collect()
}

pub(super) fn family(c: &Connection, root: &RunId) -> Result<Family> {
    let spent = c
        .prepare_cached("SELECT total(tokens), total(micros) FROM runs WHERE root = ?1")?
        .query_row([root.as_str()], |row| {
            let amount = |column| row.get::<_, f64>(column).map(|amount| amount as u64);
            Ok(Spent { tokens: amount(0)?, micros: amount(1)?, time_ms: 0 })
        })?;
    let head = "SELECT budget FROM runs WHERE root = ?1 AND parent IS NULL ORDER BY id DESC LIMIT 1";
    let budget = c.prepare_cached(head)?.query_row([root.as_str()], |row| budget(row, 0)).optional()?;
    Ok(Family { budget: budget.unwrap_or_default(), spent })
}

/// All schedules, or those that are due at a time.
pub(super) fn schedules(c: &Connection, due: Option<Timestamp>) -> Result<Vec<Schedule>> {
    c.prepare_cached(
        "SELECT name, times, overlap, catch_up, workflow, module, input, labels, config, created_at, next_at,
                fired, last
         FROM schedules WHERE ?1 IS NULL OR next_at <= ?1 ORDER BY name",
    )?
    .query_map([due.map(|at| at.0 as i64)], |row| {
        let word = |column| row.get::<_, String>(column);
        Ok(Schedule {
            name: row.get(0)?,
            when: word(1)?.parse().map_err(|()| strange(1, "times"))?,
            overlap: Overlap::parse(&word(2)?).ok_or_else(|| strange(2, "a word"))?,
            catch_up: CatchUp::parse(&word(3)?).ok_or_else(|| strange(3, "a word"))?,
            workflow: row.get(4)?,
            module: digest(row, 5)?,
            input: json(row, 6)?,
            labels: from_json(row, 7)?,
            config: cbor(row, 8)?,
            created_at: time(row, 9)?,
            next_at: row.get::<_, Option<i64>>(10)?.map(|at| Timestamp(at as u64)),
            fired: row.get::<_, i64>(11)? as u64,
            last: optional_id(row, 12)?,
        })
    })?
    .collect()
}

pub(super) fn next_schedule(c: &Connection, now: Timestamp) -> Result<Option<Timestamp>> {
    let next: Option<i64> = c
        .prepare_cached("SELECT min(next_at) FROM schedules WHERE next_at > ?1")?
        .query_row([now.0 as i64], |row| row.get(0))?;
    Ok(next.map(|at| Timestamp(at as u64)))
}

pub(super) fn published(c: &Connection, run: &RunId, key: Option<&str>) -> Result<Vec<Published>> {
    c.prepare_cached(
        "SELECT p.number, p.at, p.key, p.value FROM runs r JOIN published p ON p.run = r.id
         WHERE r.name = ?1 AND (?2 IS NULL OR p.key = ?2) ORDER BY p.number, p.key",
    )?
    .query_map(params![run.as_str(), key], |row| {
        Ok(Published {
            number: row.get::<_, i64>(0)? as u64,
            at: time(row, 1)?,
            key: row.get(2)?,
            value: json(row, 3)?,
        })
    })?
    .collect()
}

pub(super) fn state(c: &Connection, run: &RunId) -> Result<Vec<(String, Json)>> {
    // SQLite gives the other columns of the row that has the greatest number.
    c.prepare_cached(
        "SELECT p.key, p.value, max(p.number) FROM runs r JOIN published p ON p.run = r.id
         WHERE r.name = ?1 GROUP BY p.key ORDER BY p.key",
    )?
    .query_map([run.as_str()], |row| Ok((row.get(0)?, json(row, 1)?)))?
    .collect()
}
