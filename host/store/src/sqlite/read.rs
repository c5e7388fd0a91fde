//! Looking things up.

use rusqlite::types::Type;
use rusqlite::{Connection, Error, OptionalExtension, Row as SqlRow, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{Digest, Epoch, Json, OnParentClose, Outcome, Position, Recorded, RunId, Step, Timestamp};

use super::inbox::{AnswerBody, ChildBody};
use super::journal::{self, last_place};
use super::sessions;
use crate::schedule::{CatchUp, Overlap, Schedule};
use crate::{
    Clock, DueSchedules, Family, INBOX_BYTES, INBOX_MESSAGES, Inbox, Links, Listed, Load, LogLevel, LogLine,
    Message, MessageBody, MessageId, ModuleInfo, NewTranscript, OpenQuestion, OutMessage, Part, Published,
    RunFilter, RunInfo, RunState, Schedules, Snapshot, TranscriptFilter, TranscriptKind, TranscriptLine,
    Waiting, WaitsFor, stored,
};

type Result<T> = rusqlite::Result<T>;

/// A value that this program never writes.
pub(super) fn strange(column: usize, what: &str) -> Error {
    let reason = format!("{what} cannot be read");
    Error::FromSqlConversionFailure(column, Type::Text, reason.into())
}

/// Whether it was a value that could not be read, not the database.
pub(super) fn is_strange(error: &Error) -> bool {
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
    )
}

/// Rows without those that cannot be read: they hide no others.
pub(super) fn readable<T>(rows: impl Iterator<Item = Result<T>>) -> impl Iterator<Item = Result<T>> {
    rows.filter(|row| !row.as_ref().is_err_and(is_strange))
}

pub(super) fn id(row: &SqlRow<'_>, column: usize) -> Result<RunId> {
    row.get::<_, String>(column)?.parse().map_err(|_| strange(column, "an id"))
}

fn optional_id(row: &SqlRow<'_>, column: usize) -> Result<Option<RunId>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| strange(column, "an id"))).transpose()
}

/// Two columns from `first` on.
pub(super) fn spent(row: &SqlRow<'_>, first: usize) -> Result<Spent> {
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

/// Whether a module was put there at or after that time.
pub(super) fn has_module(c: &Connection, digest: Digest, since: i64) -> Result<bool> {
    c.prepare_cached(
        "SELECT 1 FROM modules m WHERE m.digest = ?1
         AND (m.added_at >= ?2 OR EXISTS (SELECT 1 FROM puts p WHERE p.digest = m.digest AND p.at >= ?2))",
    )?
    .exists(params![digest.0, since])
}

pub(super) fn module(c: &Connection, digest: Digest) -> Result<Option<Vec<u8>>> {
    c.prepare_cached("SELECT bytes FROM modules WHERE digest = ?1")?
        .query_row([digest.0], |row| row.get(0))
        .optional()
}

pub(super) fn blob(c: &Connection, digest: Digest) -> Result<Option<Vec<u8>>> {
    c.prepare_cached("SELECT bytes FROM blobs WHERE digest = ?1")?
        .query_row([digest.0], |row| row.get(0))
        .optional()
}

/// Whether a blob was added at or after that time.
pub(super) fn has_blob(c: &Connection, digest: Digest, since: i64) -> Result<bool> {
    c.prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1 AND added_at >= ?2")?
        .exists(params![digest.0, since])
}

/// The columns of [`module_row`].
const MODULE: &str = "SELECT digest, name, length(bytes), added_at FROM modules";

fn module_row(row: &SqlRow<'_>) -> Result<ModuleInfo> {
    Ok(ModuleInfo {
        digest: digest(row, 0)?,
        name: row.get(1)?,
        bytes: row.get::<_, i64>(2)? as u64,
        added_at: time(row, 3)?,
    })
}

pub(super) fn modules(c: &Connection) -> Result<Vec<ModuleInfo>> {
    let sql = format!("{MODULE} ORDER BY name, added_at DESC, digest");
    c.prepare_cached(&sql)?.query_map([], module_row)?.collect()
}

pub(super) fn module_info(c: &Connection, digest: Digest) -> Result<Option<ModuleInfo>> {
    let sql = format!("{MODULE} WHERE digest = ?1");
    c.prepare_cached(&sql)?.query_row([digest.0], module_row).optional()
}

pub(super) fn module_named(c: &Connection, name: &str) -> Result<Option<ModuleInfo>> {
    let sql =
        format!("{MODULE} INDEXED BY modules_name WHERE name = ?1 ORDER BY added_at DESC, digest LIMIT 1");
    c.prepare_cached(&sql)?.query_row([name], module_row).optional()
}

/// The columns of [`question_row`].
const QUESTION: &str = "SELECT r.name, r.workflow, q.step, q.at, q.deadline, q.body
                        FROM questions q JOIN runs r ON r.id = q.run WHERE q.answered = 0";

fn question_row(row: &SqlRow<'_>) -> Result<OpenQuestion> {
    Ok(OpenQuestion {
        run: id(row, 0)?,
        workflow: row.get(1)?,
        step: Step(row.get::<_, i64>(2)? as u64),
        asked_at: time(row, 3)?,
        deadline: row.get::<_, Option<i64>>(4)?.map(|at| Timestamp(at as u64)),
        question: cbor(row, 5)?,
    })
}

pub(super) fn questions(
    c: &Connection,
    run: Option<&RunId>,
    open_at: Option<Timestamp>,
    limit: usize,
) -> Result<Vec<OpenQuestion>> {
    const OPEN: &str = "AND (?2 IS NULL OR q.deadline IS NULL OR q.deadline > ?2)";
    let (limit, open_at) = (limit as i64, open_at.map(super::write::millis));
    match run {
        Some(run) => {
            let sql = format!(
                "{QUESTION} AND q.run = (SELECT id FROM runs WHERE name = ?3) {OPEN}
                 ORDER BY q.at, q.step LIMIT ?1"
            );
            let mut statement = c.prepare_cached(&sql)?;
            readable(statement.query_map(params![limit, open_at, run.as_str()], question_row)?).collect()
        }
        None => {
            let sql = format!("{QUESTION} {OPEN} ORDER BY q.at, q.run, q.step LIMIT ?1");
            let mut statement = c.prepare_cached(&sql)?;
            readable(statement.query_map(params![limit, open_at], question_row)?).collect()
        }
    }
}

pub(super) fn question(c: &Connection, run: &RunId, step: Step) -> Result<Option<OpenQuestion>> {
    let sql = format!("{QUESTION} AND q.run = (SELECT id FROM runs WHERE name = ?1) AND q.step = ?2");
    c.prepare_cached(&sql)?.query_row(params![run.as_str(), stored(step.0)], question_row).optional()
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
    .query_map(params![run.as_str(), after.map_or(-1, stored), limit as i64], |row| {
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
    // A statement for each index, so that one step of many is not looked for among the lines of all.
    let (index, of_step) = match filter.step {
        None => ("transcripts_run", "?3 IS NULL"),
        Some(_) => ("transcripts_step", "t.step = ?3"),
    };
    c.prepare_cached(&format!(
        "SELECT t.id, t.step, t.attempt, t.at, t.kind, t.text
         FROM runs r JOIN transcripts t INDEXED BY {index} ON t.run = r.id
         WHERE r.name = ?1 AND t.id > ?2 AND {of_step}
           AND (?4 = '[]' OR t.kind IN (SELECT value FROM json_each(?4))) ORDER BY t.id LIMIT ?5"
    ))?
    .query_map(
        params![
            run.as_str(),
            stored(filter.after),
            filter.step.map(|step| stored(step.0)),
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

/// A part of the inbox of the run with that number.
pub(super) fn inbox(c: &Connection, run: i64, part: Part) -> Result<Inbox> {
    const MESSAGE: &str =
        "SELECT id, at, kind, name, text, dedupe, body, step FROM inbox INDEXED BY inbox_next";
    // One more, which is not given, tells that there are more.
    let limit = INBOX_MESSAGES as i64 + 1;
    let (sql, parameters) = match part {
        Part::Next => (format!("{MESSAGE} WHERE run = ?1 ORDER BY calm, id LIMIT ?2"), vec![run, limit]),
        // Of each kind in the order of the index, and merged.
        Part::Behind(after) => (
            format!(
                "{MESSAGE} WHERE run = ?1 AND calm = 0 AND id > ?3 UNION ALL
                 {MESSAGE} WHERE run = ?1 AND calm = 1 AND id > ?3 ORDER BY 1 LIMIT ?2"
            ),
            vec![run, limit, after.map_or(-1, |after| after.0)],
        ),
    };
    let mut statement = c.prepare_cached(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
    let mut inbox = Inbox::default();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if inbox.messages.len() == INBOX_MESSAGES {
            inbox.more = true;
            break;
        }
        let length = |column| -> Result<usize> {
            Ok(row.get_ref(column)?.as_bytes_or_null().ok().flatten().map_or(0, <[u8]>::len))
        };
        bytes += length(4)? + length(6)?;
        if bytes > INBOX_BYTES && !inbox.messages.is_empty() {
            inbox.more = true;
            break;
        }
        inbox.messages.push(message(row)?);
    }
    Ok(inbox)
}

pub(super) fn inbox_of(c: &Connection, run: &RunId, part: Part) -> Result<Inbox> {
    match number(c, run)? {
        Some(run) => inbox(c, run, part),
        None => Ok(Inbox::default()),
    }
}

fn message(row: &SqlRow<'_>) -> Result<Message> {
    let body = match row.get_ref(2)?.as_str()? {
        "signal" => MessageBody::Signal { name: row.get(3)?, payload: json(row, 4)?, id: row.get(5)? },
        "cancel" => MessageBody::Cancel { reason: row.get(4)? },
        "pause" => MessageBody::Pause,
        "answer" => {
            let (step, outcome, by, note): AnswerBody = cbor(row, 6)?;
            MessageBody::Answer { step, outcome: outcome.into(), by, note }
        }
        "child" => {
            let (known, run, outcome, spent): ChildBody = cbor(row, 6)?;
            // On a server, who ends does not know which step of its parent waits for it, and such messages are copied to
            // here; before format 7 there was no column.
            let step = row.get::<_, Option<i64>>(7)?.map_or(known, |step| Step(step as u64));
            MessageBody::Child { step, run, outcome: outcome.into(), spent }
        }
        _ => return Err(strange(2, "a message")),
    };
    Ok(Message { id: MessageId(row.get(0)?), at: time(row, 1)?, body })
}

/// The number of the last message to a run; 0 if there was none.
pub(super) fn last_message(c: &Connection) -> Result<i64> {
    let last = c
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'inbox'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

/// The runs with messages behind that one, and the last of these.
pub(super) fn addressed(c: &Connection, after: i64) -> Result<(Vec<RunId>, i64)> {
    let last = last_message(c)?;
    let mut statement = c.prepare_cached(
        "SELECT DISTINCT r.name FROM inbox i CROSS JOIN runs r ON r.id = i.run WHERE i.id > ?1 AND i.id <= ?2",
    )?;
    let runs = readable(statement.query_map([after, last], |row| id(row, 0))?).collect::<Result<Vec<_>>>()?;
    Ok((runs, last))
}

/// The columns of [`run_info`].
const RUN: &str = concat!(
    "SELECT r.name, r.key, r.workflow, r.module, r.state, r.labels, r.parent, r.created_at,
    r.phase, r.outcome, r.wait_until, r.wait_for, r.epoch, r.people, r.due_at, r.trouble, r.emissions, r.head,
    r.parent_step, r.on_close, r.root, r.chain, r.next, r.tokens, r.micros, r.budget, r.project,
    l.at, l.seq + l.count, s.id, s.host, s.realm, s.pid, s.started, s.source, s.ticks, s.until,
    r.imported, r.id
    FROM runs r LEFT JOIN sessions s ON s.id = r.session LEFT JOIN commits l ON l.id = ",
    last_place!("r.id")
);

/// What a run waits for, from three columns.
pub(super) fn waiting(
    row: &SqlRow<'_>,
    until: usize,
    signals: usize,
    people: usize,
) -> Result<Option<Waiting>> {
    if row.get_ref(signals)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(Waiting {
        until: row.get::<_, Option<i64>>(until)?.map(|at| Timestamp(at as u64)),
        signals: from_json(row, signals)?,
        people: row.get(people)?,
    }))
}

pub(super) fn outcome(row: &SqlRow<'_>, column: usize) -> Result<Option<Outcome>> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    let outcome = bytes.map(|bytes| minicbor::decode::<Recorded>(&bytes).map(Outcome::from));
    outcome.transpose().map_err(|_| strange(column, "an outcome"))
}

/// A run that cannot be read does not hide the others: little is said of it but that.
fn run_info(row: &SqlRow<'_>, clock: &dyn Clock) -> Result<RunInfo> {
    let strange = match whole_info(row, clock) {
        Err(error) if is_strange(&error) => error,
        read => return read,
    };
    let id = id(row, 0)?;
    Ok(RunInfo {
        number: row.get::<_, i64>(38)? as u64,
        key: None,
        project: None,
        imported: true,
        workflow: String::new(),
        module: Digest([0; 32]),
        state: state_word(row, 4).unwrap_or(RunState::Running),
        labels: Vec::new(),
        parent: None,
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
        entries: Position(0),
        phase: None,
        outcome: None,
        waiting: None,
        epoch: Epoch(0),
        lease: None,
        due_at: None,
        trouble: Some(format!("its row in the database cannot be read: {strange}")),
        emissions: 0,
        head: None,
        links: Links { step: None, on_close: None, root: id.clone(), chain: None, next: None },
        spent: Spent::default(),
        budget: Budget::default(),
        id,
    })
}

fn whole_info(row: &SqlRow<'_>, clock: &dyn Clock) -> Result<RunInfo> {
    Ok(RunInfo {
        number: row.get::<_, i64>(38)? as u64,
        id: id(row, 0)?,
        key: row.get(1)?,
        project: row.get(26)?,
        imported: row.get(37)?,
        workflow: row.get(2)?,
        module: digest(row, 3)?,
        state: state_word(row, 4)?,
        labels: from_json(row, 5)?,
        parent: optional_id(row, 6)?,
        created_at: time(row, 7)?,
        updated_at: time(row, 27)?,
        // Whoever reads the journal is told what is wrong with it.
        entries: Position(row.get::<_, i64>(28)?.try_into().unwrap_or(0)),
        phase: row.get(8)?,
        outcome: outcome(row, 9)?,
        waiting: waiting(row, 10, 11, 13)?,
        epoch: Epoch(row.get::<_, i64>(12)? as u64),
        lease: sessions::session(row, 29, clock)?,
        due_at: row.get::<_, Option<i64>>(14)?.map(|at| Timestamp(at as u64)),
        trouble: row.get(15)?,
        emissions: row.get::<_, i64>(16)? as u64,
        head: row.get::<_, Option<[u8; 32]>>(17)?.map(Digest),
        links: Links {
            step: row.get::<_, Option<i64>>(18)?.map(|step| Step(step as u64)),
            on_close: row.get::<_, Option<i64>>(19)?.map(|on_close| match on_close {
                0 => OnParentClose::Cancel,
                _ => OnParentClose::Abandon,
            }),
            root: id(row, 20)?,
            chain: optional_id(row, 21)?,
            next: optional_id(row, 22)?,
        },
        spent: spent(row, 23)?,
        budget: budget(row, 25)?,
    })
}

pub(super) fn run(c: &Connection, run: &RunId, clock: &dyn Clock) -> Result<Option<RunInfo>> {
    c.prepare_cached(&format!("{RUN} WHERE r.name = ?1"))?
        .query_row([run.as_str()], |row| run_info(row, clock))
        .optional()
}

pub(super) fn snapshot(c: &Connection, name: &RunId, clock: &dyn Clock) -> Result<Option<Snapshot>> {
    let (Some(info), Some(number)) = (run(c, name, clock)?, number(c, name)?) else { return Ok(None) };
    let all = usize::MAX >> 1;
    let mut taken = Vec::new();
    loop {
        let Inbox { messages, more } = inbox(c, number, Part::Behind(taken.last().map(|m: &Message| m.id)))?;
        taken.extend(messages);
        if !more {
            break;
        }
    }
    Ok(Some(Snapshot {
        info,
        rows: journal::whole(c, number)?.0,
        logs: logs(c, name, 0, all)?,
        messages: messages(c, name, None, all)?,
        published: published(c, name, None, None, all)?,
        inbox: taken,
    }))
}

pub(super) fn runs(c: &Connection, filter: &RunFilter, clock: &dyn Clock) -> Result<Listed> {
    let mut listed = Listed::default();
    let mut filter = filter.clone();
    loop {
        let rows = found(
            c,
            &filter,
            |sql| sql,
            |row| {
                let number = row.get::<_, i64>(38)? as u64;
                match run_info(row, clock) {
                    Err(error) if is_strange(&error) => Ok((number, Err(error.to_string()))),
                    info => Ok((number, Ok(info?))),
                }
            },
        )?;
        filter.before = rows.last().map(|(number, _)| *number);
        let is_all = rows.len() < filter.limit;
        let unreadable = listed.unreadable.len();
        for (number, row) in rows {
            match row {
                Ok(info) => listed.known.push(info),
                Err(why) => listed.unreadable.push((number, why)),
            }
        }
        // In the place of those that cannot be read come others.
        filter.limit = listed.unreadable.len() - unreadable;
        if is_all || filter.limit == 0 {
            return Ok(listed);
        }
    }
}

pub(super) fn count_runs(c: &Connection, filter: &RunFilter) -> Result<u64> {
    let count = |sql| format!("SELECT count(*) FROM ({sql})");
    Ok(found(c, filter, count, |row| row.get::<_, i64>(0))?.into_iter().sum::<i64>() as u64)
}

/// What `about` makes of the query for the runs that a filter finds.
fn found<T>(
    c: &Connection,
    filter: &RunFilter,
    about: impl FnOnce(String) -> String,
    read: impl FnMut(&SqlRow<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let states: Vec<_> = filter.states.iter().map(|state| state.as_str()).collect();
    // The runs with a label are found by that: the others are not looked at.
    let (from, order) = match filter.labels.is_empty() {
        true => (RUN.to_owned(), "r.id"),
        false => (RUN.replacen("FROM runs r", "FROM labels w CROSS JOIN runs r ON r.id = w.run", 1), "w.run"),
    };
    // An `OR` would not use an index, so the conditions are those that are asked for. All parameters
    // are there.
    let mut sql = format!(
        "{from} WHERE ?1 NOT NULL AND ?3 NOT NULL AND coalesce(?2, ?4, ?5, ?6, ?7, ?9, ?10, ?11, ?12, ?13, ?14, ?15,
                                                               ?16, ?17, ?18, 0) NOT NULL"
    );
    let mut given = |is_given: bool, condition: &str| {
        if is_given {
            sql.push_str(" AND ");
            sql.push_str(condition);
        }
    };
    // One alone is found by the index, in order.
    given(filter.states.len() == 1, "r.state = (?1 ->> 0)");
    given(filter.states.len() > 1, "r.state IN (SELECT value FROM json_each(?1))");
    given(filter.ids.is_some(), "r.name IN (SELECT value FROM json_each(?18))");
    given(filter.workflow.is_some(), "r.workflow = ?2");
    given(!filter.labels.is_empty(), "w.key = (?3 ->> '$[0][0]') AND w.value = (?3 ->> '$[0][1]')");
    given(
        filter.labels.len() > 1,
        "NOT EXISTS (SELECT 1 FROM json_each(?3) wanted WHERE NOT EXISTS (
             SELECT 1 FROM labels l WHERE l.key = wanted.value ->> 0 AND l.value = wanted.value ->> 1
             AND l.run = r.id))",
    );
    given(filter.prefix.is_some(), "r.name >= ?4 AND r.name < ?4 || char(0x10FFFF)");
    let before = format!("{order} < ?5");
    given(filter.before.is_some(), &before);
    given(filter.since.is_some(), "r.created_at >= ?6");
    given(filter.until.is_some(), "r.created_at < ?13");
    given(filter.key.is_some(), "r.key = ?14");
    given(filter.module.is_some(), "r.module = ?15");
    given(
        filter.text.is_some(),
        // Labels are JSON: the texts in it are looked at, one by one.
        "(instr(lower(r.name), lower(?16)) > 0 OR instr(lower(r.workflow), lower(?16)) > 0
          OR ifnull(instr(lower(r.key), lower(?16)), 0) > 0 OR ifnull(instr(lower(r.phase), lower(?16)), 0) > 0
          OR CASE WHEN r.labels <> '[]' AND json_valid(r.labels) THEN EXISTS (
                 SELECT 1 FROM json_tree(r.labels) t WHERE t.type = 'text' AND instr(lower(t.value), lower(?16)) > 0)
             ELSE 0 END)",
    );
    let (waits, name) = match &filter.waits {
        None => ("", None),
        Some(WaitsFor::Signal(None)) => ("r.wait_for <> '[]'", None),
        Some(WaitsFor::Signal(Some(name))) => {
            ("EXISTS (SELECT 1 FROM json_each(r.wait_for) WHERE value = ?17)", Some(name))
        }
        Some(WaitsFor::People) => ("r.people = 1", None),
        Some(WaitsFor::Time) => ("r.wait_until NOT NULL", None),
    };
    // What is parked is in one of few states, mostly the first.
    given(filter.waits.is_some() && filter.states.is_empty(), "r.state = 'waiting'");
    given(filter.waits.is_some(), "r.wait_for NOT NULL");
    given(filter.waits.is_some(), waits);
    given(filter.idle_since.is_some(), "r.updated_at < ?7");
    given(filter.parent.is_some(), "r.parent = ?9");
    given(filter.root.is_some(), "r.root = ?10");
    given(filter.chain.is_some(), "r.chain = ?11");
    given(filter.project.is_some(), "r.project = ?12");
    given(filter.top, "r.parent IS NULL");
    sql.push_str(&format!(" ORDER BY {order} DESC LIMIT ?8"));
    c.prepare_cached(&about(sql))?
        .query_map(
            params![
                super::write::to_json(&states),
                filter.workflow,
                super::write::to_json(&filter.labels),
                filter.prefix,
                filter.before.map(|before| i64::try_from(before).unwrap_or(i64::MAX)),
                filter.since.map(super::write::millis),
                filter.idle_since.map(super::write::millis),
                i64::try_from(filter.limit).unwrap_or(i64::MAX),
                filter.parent.as_ref().map(RunId::as_str),
                filter.root.as_ref().map(RunId::as_str),
                filter.chain.as_ref().map(RunId::as_str),
                filter.project,
                filter.until.map(super::write::millis),
                filter.key,
                filter.module.map(|digest| digest.0),
                filter.text,
                name,
                filter.ids.as_ref().map(super::write::to_json)
            ],
            read,
        )?
        .collect()
}

pub(super) fn counts(c: &Connection) -> Result<Vec<(RunState, u64)>> {
    let mut statement = c.prepare_cached("SELECT state, count(*) FROM runs GROUP BY state")?;
    let counts = statement.query_map([], |row| Ok((state_word(row, 0)?, row.get::<_, i64>(1)? as u64)))?;
    readable(counts).collect()
}

pub(super) fn load(c: &Connection, now: i64) -> Result<Load> {
    let number = |sql: &str| {
        let mut statement = c.prepare_cached(sql)?;
        let parameters = &[&now][..statement.parameter_count()];
        statement.query_row(rusqlite::params_from_iter(parameters), |row| row.get::<_, Option<i64>>(0))
    };
    // Each by an index of its own.
    const BEGUN: &str = "FROM runs INDEXED BY runs_due WHERE due_at NOT NULL AND state <> 'queued'";
    const NEW: &str = "FROM runs INDEXED BY runs_new WHERE due_at NOT NULL AND state = 'queued'";
    let (mut due, mut oldest) = (0, None);
    for which in [BEGUN, NEW] {
        due += number(&format!("SELECT count(*) {which} AND due_at <= ?1"))?.unwrap_or(0);
        // What is due at once has the time 0.
        let first = number(&format!("SELECT min(due_at) {which} AND due_at > 0 AND due_at <= ?1"))?;
        oldest = [oldest, first].into_iter().flatten().min();
    }
    let asked = number("SELECT min(at) FROM questions WHERE answered = 0")?;
    let questions = number("SELECT count(*) FROM questions WHERE answered = 0")?;
    let [pages, size] = [number("PRAGMA page_count")?, number("PRAGMA page_size")?];
    let since = |at: i64| now.saturating_sub(at).max(0) as u64;
    Ok(Load {
        due: due as u64,
        lag_ms: oldest.map(since),
        questions: questions.unwrap_or(0) as u64,
        question_ms: asked.map(since),
        bytes: (pages.unwrap_or(0) * size.unwrap_or(0)) as u64,
        wal_bytes: 0,
    })
}

pub(super) fn busy_relatives(c: &Connection, root: &RunId, now: i64) -> Result<bool> {
    let due = c
        .prepare_cached(
            "SELECT 1 FROM runs INDEXED BY runs_family_due WHERE root = ?1 AND due_at NOT NULL AND due_at <= ?2",
        )?
        .exists(params![root.as_str(), now])?;
    // Of what is advanced there is little.
    Ok(due
        || c.prepare_cached(
            "SELECT 1 FROM runs INDEXED BY runs_session WHERE session NOT NULL AND root = ?1",
        )?
        .exists([root.as_str()])?)
}

pub(super) fn logs(c: &Connection, run: &RunId, from: u64, limit: usize) -> Result<Vec<LogLine>> {
    c.prepare_cached(
        "SELECT l.number, l.at, l.level, l.message, l.fields FROM runs r JOIN logs l ON l.run = r.id
         WHERE r.name = ?1 AND l.number >= ?2 ORDER BY l.number LIMIT ?3",
    )?
    .query_map(params![run.as_str(), stored(from), limit as i64], |row| {
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

pub(super) fn ended_children(
    c: &Connection,
    parent: &RunId,
    steps: &[Step],
    clock: &dyn Clock,
) -> Result<Vec<RunInfo>> {
    let sql = format!(
        "{RUN} WHERE r.parent = ?1 AND r.parent_step = ?2 AND r.state IN ('completed', 'failed', 'cancelled')"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let mut ended = Vec::new();
    for step in steps {
        let found =
            statement.query_map(params![parent.as_str(), stored(step.0)], |row| run_info(row, clock))?;
        ended.extend(readable(found).collect::<Result<Vec<_>>>()?);
    }
    Ok(ended)
}

pub(super) fn family(c: &Connection, root: &RunId) -> Result<Family> {
    let spent = c
        .prepare_cached("SELECT tokens, micros FROM ledgers WHERE root = ?1")?
        .query_row([root.as_str()], |row| spent(row, 0))
        .optional()?;
    // The latest round of the one at the top.
    let latest = "SELECT budget FROM runs WHERE chain = ?1 ORDER BY id DESC LIMIT 1";
    let mut head = c.prepare_cached(latest)?.query_row([root.as_str()], |row| budget(row, 0)).optional()?;
    if head.is_none() {
        let first = "SELECT budget FROM runs WHERE name = ?1";
        head = c.prepare_cached(first)?.query_row([root.as_str()], |row| budget(row, 0)).optional()?;
    }
    Ok(Family { budget: head.unwrap_or_default(), spent: spent.unwrap_or_default() })
}

pub(super) fn transcript_end(c: &Connection, run: &RunId) -> Result<u64> {
    c.prepare_cached(
        "SELECT coalesce(max(id), 0) FROM transcripts INDEXED BY transcripts_run
         WHERE run = (SELECT id FROM runs WHERE name = ?1)",
    )?
    .query_row([run.as_str()], |row| Ok(row.get::<_, i64>(0)? as u64))
}

pub(super) fn last_heartbeat(c: &Connection, run: &RunId, step: Step) -> Result<Option<String>> {
    c.prepare_cached(
        "SELECT t.text FROM runs r JOIN transcripts t INDEXED BY transcripts_step ON t.run = r.id
         WHERE r.name = ?1 AND t.step = ?2 AND t.kind = ?3 ORDER BY t.id DESC LIMIT 1",
    )?
    .query_row(params![run.as_str(), stored(step.0), TranscriptKind::Heartbeat as i64], |row| row.get(0))
    .optional()
}

/// The columns of [`schedule_row`].
const SCHEDULE: &str =
    "SELECT name, times, overlap, catch_up, workflow, module, input, labels, config, created_at,
                               next_at, fired, last FROM schedules";

fn schedule_row(row: &SqlRow<'_>) -> Result<Schedule> {
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
}

pub(super) fn schedules(c: &Connection) -> Result<Schedules> {
    let sql = format!("{SCHEDULE} ORDER BY name");
    let mut statement = c.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut schedules = Schedules::default();
    while let Some(row) = rows.next()? {
        match schedule_row(row) {
            Ok(schedule) => schedules.known.push(schedule),
            Err(error) => schedules.unreadable.push((row.get(0)?, error.to_string())),
        }
    }
    Ok(schedules)
}

pub(super) fn due_schedules(
    c: &Connection,
    now: i64,
    behind: Option<&(Timestamp, String)>,
    limit: usize,
) -> Result<DueSchedules> {
    let sql = format!(
        "{SCHEDULE} INDEXED BY schedules_due WHERE next_at NOT NULL AND next_at <= ?1
         AND (next_at, name) > (?3, ?4) ORDER BY next_at, name LIMIT ?2"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let behind = behind.map_or((-1, ""), |(at, name)| (at.0 as i64, name));
    let mut rows = statement.query(params![now, limit as i64, behind.0, behind.1])?;
    let mut schedules = DueSchedules::default();
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        if count == limit {
            schedules.more = Some((time(row, 10)?, row.get(0)?));
        }
        match schedule_row(row) {
            Ok(schedule) => schedules.due.push(schedule),
            // One that cannot be read stops none of the others.
            Err(error) => schedules.unreadable.push((row.get(0)?, error.to_string())),
        }
    }
    let next: Option<i64> = c
        .prepare_cached("SELECT min(next_at) FROM schedules INDEXED BY schedules_due WHERE next_at NOT NULL AND next_at > ?1")?
        .query_row([now], |row| row.get(0))?;
    schedules.next_in_ms = next.map(|next| next.abs_diff(now));
    Ok(schedules)
}

pub(super) fn published(
    c: &Connection,
    run: &RunId,
    key: Option<&str>,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<Published>> {
    let of_key = if key.is_some() { "AND p.key = ?2" } else { "AND ?2 IS NULL" };
    let sql = format!(
        "SELECT p.number, p.at, p.key, p.value FROM runs r JOIN published p ON p.run = r.id
         WHERE r.name = ?1 {of_key} AND p.number > ?3 ORDER BY p.number, p.key LIMIT ?4"
    );
    let after = after.map_or(-1, stored);
    c.prepare_cached(&sql)?
        .query_map(params![run.as_str(), key, after, limit as i64], published_row)?
        .collect()
}

fn published_row(row: &SqlRow<'_>) -> Result<Published> {
    Ok(Published {
        number: row.get::<_, i64>(0)? as u64,
        at: time(row, 1)?,
        key: row.get(2)?,
        value: json(row, 3)?,
    })
}

pub(super) fn latest(
    c: &Connection,
    run: &RunId,
    key: Option<&str>,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<Published>> {
    let of_key = if key.is_some() { "AND key = ?2" } else { "AND ?2 IS NULL" };
    // Of the values before, the index alone is read.
    let sql = format!(
        "WITH this AS (SELECT id FROM runs WHERE name = ?1),
              newest AS (SELECT key, max(number) AS number FROM published WHERE run = (SELECT id FROM this) {of_key}
                         GROUP BY key HAVING max(number) > ?3 ORDER BY key LIMIT ?4)
         SELECT p.number, p.at, p.key, p.value FROM newest n
         JOIN published p ON p.run = (SELECT id FROM this) AND p.key = n.key AND p.number = n.number ORDER BY p.key"
    );
    let after = after.map_or(-1, stored);
    c.prepare_cached(&sql)?
        .query_map(params![run.as_str(), key, after, limit as i64], published_row)?
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
