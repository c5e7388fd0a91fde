//! Looking things up.

use tokio_postgres::Row as SqlRow;
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Digest, Epoch, Json, OnParentClose, Outcome, Position, Recorded, Row, RunId, Step, Timestamp,
};
use wfhost_store::schedule::{CatchUp, Overlap, Schedule};
use wfhost_store::{
    INBOX_BYTES, INBOX_MESSAGES, Inbox, Links, LogLevel, LogLine, Message, MessageBody, MessageId,
    ModuleInfo, NewTranscript, OpenQuestion, OutMessage, Owner, Published, RunFilter, RunInfo, RunState,
    Session, SessionId, TranscriptKind, TranscriptLine, Waiting, WaitsFor,
};

use crate::args::{Arg, Columns, IntoArg, Read, args_of, millis, strange};
use crate::jobs::{AnswerBody, ChildBody, label_key, number};

pub(crate) fn id(row: &SqlRow, column: usize) -> Read<RunId> {
    row.text(column)?.parse().map_err(|_| strange("an id"))
}

fn maybe_id(row: &SqlRow, column: usize) -> Read<Option<RunId>> {
    row.maybe_text(column)?.map(|text| text.parse().map_err(|_| strange("an id"))).transpose()
}

pub(crate) fn state(row: &SqlRow, column: usize) -> Read<RunState> {
    let number: i16 = row.value(column)?;
    RunState::ALL.get(number as usize).copied().ok_or_else(|| strange("a state"))
}

fn cbor<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8]) -> Read<T> {
    minicbor::decode(bytes).map_err(|_| strange("CBOR"))
}

fn json_text(text: Option<String>) -> Read<Json> {
    Json::parse(text.unwrap_or_else(|| "null".to_owned())).map_err(|_| strange("JSON"))
}

fn pairs(row: &SqlRow, column: usize) -> Read<Vec<(String, String)>> {
    serde_json::from_str(&row.text(column)?).map_err(|_| strange("a list"))
}

pub(crate) fn outcome(row: &SqlRow, column: usize) -> Read<Option<Outcome>> {
    row.maybe_bytes(column)?.map(|bytes| cbor::<Recorded>(&bytes).map(Outcome::from)).transpose()
}

/// What a run waits for, from three columns.
pub(crate) fn waiting(row: &SqlRow, until: usize, signals: usize, people: usize) -> Read<Option<Waiting>> {
    let Some(signals) = row.value::<Option<Vec<String>>>(signals)? else { return Ok(None) };
    let signals = signals.into_iter().map(crate::args::plain).collect();
    Ok(Some(Waiting { until: row.maybe_time(until)?, signals, people: row.value(people)? }))
}

pub(crate) const MODULE: &str = "SELECT digest, name, length, added_at FROM wf.modules";

pub(crate) fn module(row: &SqlRow) -> Read<ModuleInfo> {
    Ok(ModuleInfo {
        digest: row.digest(0)?,
        name: row.text(1)?,
        bytes: row.int(2)? as u64,
        added_at: row.time(3)?,
    })
}

pub(crate) const QUESTION: &str = "SELECT r.name, r.workflow, q.step, q.at, q.deadline, q.body
    FROM wf.questions q JOIN wf.runs r ON r.run = q.run WHERE NOT q.answered";

pub(crate) fn question(row: &SqlRow) -> Read<OpenQuestion> {
    Ok(OpenQuestion {
        run: id(row, 0)?,
        workflow: row.text(1)?,
        step: Step(row.int(2)? as u64),
        asked_at: row.time(3)?,
        deadline: row.maybe_time(4)?,
        question: cbor(&row.bytes(5)?)?,
    })
}

pub(crate) const MESSAGES: &str = "SELECT m.number, m.at, m.name, m.payload
    FROM wf.runs r JOIN wf.messages m ON m.run = r.run
    WHERE r.name = $1 AND m.number > $2 ORDER BY m.number LIMIT $3";

pub(crate) fn message_out(row: &SqlRow) -> Read<OutMessage> {
    Ok(OutMessage {
        number: row.int(0)? as u64,
        at: row.time(1)?,
        name: row.text(2)?,
        payload: json_text(row.maybe_text(3)?)?,
    })
}

pub(crate) const LOGS: &str = "SELECT l.number, l.at, l.level, l.message, l.fields
    FROM wf.runs r JOIN wf.logs l ON l.run = r.run
    WHERE r.name = $1 AND l.number >= $2 ORDER BY l.number LIMIT $3";

pub(crate) fn log(row: &SqlRow) -> Read<LogLine> {
    let level: i16 = row.value(2)?;
    Ok(LogLine {
        number: row.int(0)? as u64,
        at: row.time(1)?,
        level: *LogLevel::ALL.get(level as usize).ok_or_else(|| strange("a level"))?,
        message: row.text(3)?,
        fields: pairs(row, 4)?,
    })
}

pub(crate) const PUBLISHED: &str = "SELECT p.number, p.at, p.key, p.value
    FROM wf.runs r JOIN wf.published p ON p.run = r.run
    WHERE r.name = $1 AND ($2::text IS NULL OR p.key = $2) AND p.number > $3 ORDER BY p.number, p.key LIMIT $4";

pub(crate) const LATEST: &str = "SELECT DISTINCT ON (p.key) p.number, p.at, p.key, p.value
    FROM wf.runs r JOIN wf.published p ON p.run = r.run
    WHERE r.name = $1 AND ($2::text IS NULL OR p.key = $2) AND p.number > $3
    ORDER BY p.key, p.number DESC LIMIT $4";

pub(crate) fn published(row: &SqlRow) -> Read<Published> {
    Ok(Published {
        number: row.int(0)? as u64,
        at: row.time(1)?,
        key: row.text(2)?,
        value: json_text(row.maybe_text(3)?)?,
    })
}

pub(crate) const TRANSCRIPT: &str = "SELECT t.id, t.step, t.attempt, t.at, t.kind, t.text
    FROM wf.runs r JOIN wf.transcripts t ON t.run = r.run
    WHERE r.name = $1 AND t.id > $2 AND ($3::int8 IS NULL OR t.step = $3)
      AND ($4::int2[] IS NULL OR t.kind = ANY ($4)) ORDER BY t.id LIMIT $5";

pub(crate) fn transcript(row: &SqlRow) -> Read<TranscriptLine> {
    let kind: i16 = row.value(4)?;
    let line = NewTranscript {
        step: Step(row.int(1)? as u64),
        attempt: u32::try_from(row.int(2)?).unwrap_or(u32::MAX),
        at: row.time(3)?,
        // One of a later version is shown as it is.
        kind: TranscriptKind::ALL.get(kind as usize).copied().unwrap_or(TranscriptKind::Event),
        text: row.text(5)?,
    };
    Ok(TranscriptLine { number: row.int(0)? as u64, line })
}

/// The columns of [`inbox`]; `i` is the inbox.
pub(crate) const MESSAGE: &str = "i.id, i.at, i.kind, i.name, i.text, i.dedupe, i.body, i.step, true";

/// Selects the columns of [`inbox`] of one part of one inbox: of the messages of `which`, of which `o` is one, in this
/// `order`. Behind those that are given there is one without a content, if there are more: how much they take is known
/// without sending them. The first one is given however large it is, so that the second one is next or given.
pub(crate) fn part_of_inbox(which: &str, order: &str) -> String {
    format!(
        "SELECT i.id, i.at, i.kind, i.name, CASE WHEN i.fits THEN i.text END, i.dedupe,
             CASE WHEN i.fits THEN i.body END, i.step, i.fits
         FROM (SELECT s.*, s.n = 1 OR s.n <= {INBOX_MESSAGES} AND s.bytes <= {INBOX_BYTES} AS fits,
                   s.n = 2 OR s.bytes - s.own <= {INBOX_BYTES} AS is_near
               FROM (SELECT x.*, row_number() OVER w AS n, sum(x.own) OVER w AS bytes
                     FROM (SELECT o.*, coalesce(octet_length(o.text), 0) + coalesce(octet_length(o.body), 0) AS own
                           FROM wf.inbox o WHERE {which} ORDER BY {order} LIMIT {INBOX_MESSAGES} + 1) x
                     WINDOW w AS (ORDER BY {order})) s) i
         WHERE i.fits OR i.is_near ORDER BY i.n"
    )
}

/// A part of an inbox. One row more than is given tells that there are more.
pub(crate) fn inbox<'a>(rows: impl Iterator<Item = &'a SqlRow>, first: usize) -> Read<Inbox> {
    let mut inbox = Inbox::default();
    for row in rows {
        if !row.value::<bool>(first + 8)? {
            inbox.more = true;
            break;
        }
        inbox.messages.push(message(row, first)?);
    }
    Ok(inbox)
}

fn message(row: &SqlRow, first: usize) -> Read<Message> {
    let body = match row.text(first + 2)?.as_str() {
        "signal" => MessageBody::Signal {
            name: row.text(first + 3)?,
            payload: json_text(row.maybe_text(first + 4)?)?,
            id: row.maybe_text(first + 5)?,
        },
        "cancel" => MessageBody::Cancel { reason: row.maybe_text(first + 4)? },
        "pause" => MessageBody::Pause,
        "answer" => {
            let (step, outcome, by, note): AnswerBody = cbor(&row.bytes(first + 6)?)?;
            MessageBody::Answer { step, outcome: outcome.into(), by, note }
        }
        "child" => {
            let (known, run, outcome, spent): ChildBody = cbor(&row.bytes(first + 6)?)?;
            // Whoever ends does not know which step of its parent waits for it; the row does, unless it is of an old file.
            let step = row.maybe_int(first + 7)?.map_or(known, |step| Step(step as u64));
            MessageBody::Child { step, run, outcome: outcome.into(), spent }
        }
        _ => return Err(strange("a message")),
    };
    Ok(Message { id: MessageId(row.int(first)?), at: row.time(first + 1)?, body })
}

/// Columns of [`session`]; `s` is the table of sessions, and `$1` the time, if it is not the server's.
pub(crate) const SESSION: &str =
    "s.id, s.host, s.realm, s.pid, s.started, greatest(s.until - wf.now_1($1), 0)";

/// How many columns these are.
pub(crate) const SESSION_COLUMNS: usize = 6;

/// A session from six columns; none if they are null.
pub(crate) fn session(row: &SqlRow, first: usize) -> Read<Option<Session>> {
    let Some(id) = row.maybe_int(first)? else { return Ok(None) };
    let owner = Owner {
        host: row.text(first + 1)?,
        realm: row.text(first + 2)?,
        pid: u32::try_from(row.int(first + 3)?).unwrap_or(0),
        started: row.int(first + 4)? as u64,
    };
    Ok(Some(Session { id: SessionId(id as u64), owner, left_ms: row.int(first + 5)? as u64 }))
}

/// The columns of [`run_info`].
pub(crate) fn run_columns() -> String {
    format!(
        "SELECT r.name, r.key, r.workflow, r.module, h.state, r.labels, r.parent, r.created_at, h.phase, h.outcome,
            h.wait_until, h.wait_for, h.epoch, h.people, h.due_at, h.trouble, h.emissions, h.head, r.parent_step,
            r.on_close, r.root, r.chain, r.next, h.tokens, h.micros, r.budget, r.project, l.at, l.ends, r.imported,
            {SESSION}, r.run
         FROM wf.runs r JOIN wf.hot h ON h.run = r.run LEFT JOIN wf.sessions s ON s.id = h.session,
            LATERAL (SELECT (SELECT o.at FROM wf.journal o WHERE o.run = r.run ORDER BY o.seq DESC LIMIT 1) AS at,
                            (SELECT o.seq + o.count FROM wf.journal o WHERE o.run = r.run ORDER BY o.seq DESC
                             LIMIT 1) AS ends) l
         WHERE NOT r.gone"
    )
}

/// The number of the run of such a row.
pub(crate) fn run_number(row: &SqlRow) -> Read<u64> {
    Ok(row.int(30 + SESSION_COLUMNS)? as u64)
}

/// A run that cannot be read does not hide the others: little is said of it but that.
pub(crate) fn run_info(row: &SqlRow) -> Read<RunInfo> {
    let strange = match whole_info(row) {
        Err(strange) => strange,
        read => return read,
    };
    let id = id(row, 0)?;
    Ok(RunInfo {
        number: run_number(row)?,
        key: None,
        project: None,
        imported: true,
        workflow: String::new(),
        module: Digest([0; 32]),
        state: state(row, 4).unwrap_or(RunState::Running),
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
        trouble: Some(format!("its row in the database cannot be read: {}", strange.0)),
        emissions: 0,
        head: None,
        links: Links { step: None, on_close: None, root: id.clone(), chain: None, next: None },
        spent: Spent::default(),
        budget: Budget::default(),
        id,
    })
}

fn whole_info(row: &SqlRow) -> Read<RunInfo> {
    Ok(RunInfo {
        number: run_number(row)?,
        id: id(row, 0)?,
        key: row.maybe_text(1)?,
        project: row.maybe_text(26)?,
        imported: row.value(29)?,
        workflow: row.text(2)?,
        module: row.digest(3)?,
        state: state(row, 4)?,
        labels: pairs(row, 5)?,
        parent: maybe_id(row, 6)?,
        created_at: row.time(7)?,
        updated_at: row.time(27)?,
        // Whoever reads the journal is told what is wrong with it.
        entries: Position(row.int(28)?.try_into().unwrap_or(0)),
        phase: row.maybe_text(8)?,
        outcome: outcome(row, 9)?,
        waiting: waiting(row, 10, 11, 13)?,
        epoch: Epoch(row.int(12)? as u64),
        lease: session(row, 30)?,
        due_at: row.maybe_time(14)?,
        trouble: row.maybe_text(15)?,
        emissions: row.int(16)? as u64,
        head: row.maybe_digest(17)?,
        links: Links {
            step: row.maybe_int(18)?.map(|step| Step(step as u64)),
            on_close: row.value::<Option<i16>>(19)?.map(|close| match close {
                0 => OnParentClose::Cancel,
                _ => OnParentClose::Abandon,
            }),
            root: id(row, 20)?,
            chain: maybe_id(row, 21)?,
            next: maybe_id(row, 22)?,
        },
        spent: Spent { tokens: row.int(23)? as u64, micros: row.int(24)? as u64, time_ms: 0 },
        budget: match row.maybe_bytes(25)? {
            Some(bytes) => cbor(&bytes)?,
            None => Budget::default(),
        },
    })
}

/// A list of runs: the statement, and its parameters behind the first.
pub(crate) fn runs(filter: &RunFilter) -> (String, Vec<Arg>) {
    // The runs with a label are found by that: the others are not looked at.
    let (mut sql, order) = match filter.labels.is_empty() {
        true => (run_columns(), "r.run"),
        false => {
            let labelled = "FROM wf.labels w CROSS JOIN LATERAL (
                SELECT o.* FROM wf.runs o WHERE o.run = w.run OFFSET 0) r JOIN";
            (run_columns().replacen("FROM wf.runs r JOIN", labelled, 1), "w.run")
        }
    };
    let mut args: Vec<Arg> = Vec::new();
    let mut given = |condition: &str, arg: Option<Arg>| {
        if let Some(arg) = arg {
            args.push(arg);
            // The first parameter is the time.
            sql.push_str(&format!(" AND {}", condition.replace('?', &format!("${}", args.len() + 1))));
        }
    };
    let ids = filter.ids.as_ref().map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    given("r.name = ANY (?)", ids.map(IntoArg::arg));
    given("r.workflow = ?", filter.workflow.as_deref().map(IntoArg::arg));
    let mut labels = filter.labels.iter().map(|label| label_key(label).arg());
    given("w.label = ?", labels.next());
    for label in labels {
        given("EXISTS (SELECT 1 FROM wf.labels l WHERE l.run = w.run AND l.label = ?)", Some(label));
    }
    given("starts_with(r.name, ?)", filter.prefix.as_deref().map(IntoArg::arg));
    let before = filter.before.map(|before| i64::try_from(before).unwrap_or(i64::MAX));
    given(&format!("{order} < ?"), before.map(IntoArg::arg));
    given("r.created_at >= ?", filter.since.map(|at| millis(at).arg()));
    given("r.created_at < ?", filter.until.map(|at| millis(at).arg()));
    given("h.updated_at < ?", filter.idle_since.map(|at| millis(at).arg()));
    given("r.key = ?", filter.key.as_deref().map(IntoArg::arg));
    given("r.module = ?", filter.module.map(IntoArg::arg));
    given("r.parent = ?", filter.parent.as_ref().map(|run| run.as_str().arg()));
    given("r.root = ?", filter.root.as_ref().map(|run| run.as_str().arg()));
    given("r.chain = ?", filter.chain.as_ref().map(|run| run.as_str().arg()));
    given("r.project = ?", filter.project.as_deref().map(IntoArg::arg));
    // In this collation only letters of ASCII have a case.
    let text = filter.text.as_ref().map(|text| text.to_ascii_lowercase());
    let mut condition = "(r.labels <> '[]' AND wf.says_5(r.labels, ?)".to_owned();
    for column in ["r.name", "r.workflow", "r.key", "h.phase"] {
        condition.push_str(&format!(r#" OR strpos(lower({column} COLLATE "C"), ?) > 0"#));
    }
    given(&format!("{condition})"), text.map(IntoArg::arg));
    let signal = match &filter.waits {
        Some(WaitsFor::Signal(Some(name))) => Some(name.as_str().arg()),
        _ => None,
    };
    given("? = ANY (h.wait_for)", signal);
    if let Some(waits) = &filter.waits {
        sql.push_str(match waits {
            WaitsFor::Signal(_) => " AND cardinality(h.wait_for) > 0",
            WaitsFor::People => " AND h.wait_for IS NOT NULL AND h.people",
            WaitsFor::Time => " AND h.wait_for IS NOT NULL AND h.wait_until IS NOT NULL",
        });
    }
    // What is parked is in one of few states, mostly the first.
    let parked = (filter.waits.is_some() && filter.states.is_empty()).then_some(&RunState::Waiting);
    let states: Vec<_> = filter.states.iter().chain(parked).map(|state| number(*state).to_string()).collect();
    if !states.is_empty() {
        // Written out: only so the index is known to have them.
        sql.push_str(&format!(" AND h.state IN ({})", states.join(", ")));
    }
    if filter.top {
        sql.push_str(" AND r.parent IS NULL");
    }
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    sql.push_str(&format!(" ORDER BY {order} DESC LIMIT {limit}"));
    (sql, args)
}

/// Four columns of the journal.
pub(crate) fn journal_row(row: &SqlRow, first: usize) -> Read<Row> {
    Ok(Row {
        first: Position(row.int(first)? as u64),
        count: u32::try_from(row.value::<i32>(first + 1)?).map_err(|_| strange("a number of entries"))?,
        bytes: row.bytes(first + 2)?,
        head: row.digest(first + 3)?,
    })
}

pub(crate) const SCHEDULE: &str =
    "SELECT name, times, overlap, catch_up, workflow, module, input, labels, config,
    created_at, next_at, fired, last FROM wf.schedules";

pub(crate) fn schedule(row: &SqlRow) -> Read<Schedule> {
    Ok(Schedule {
        name: row.text(0)?,
        when: row.text(1)?.parse().map_err(|()| strange("times"))?,
        overlap: Overlap::parse(&row.text(2)?).ok_or_else(|| strange("a word"))?,
        catch_up: CatchUp::parse(&row.text(3)?).ok_or_else(|| strange("a word"))?,
        workflow: row.text(4)?,
        module: row.digest(5)?,
        input: json_text(row.maybe_text(6)?)?,
        labels: pairs(row, 7)?,
        config: cbor(&row.bytes(8)?)?,
        created_at: row.time(9)?,
        next_at: row.maybe_time(10)?,
        fired: row.int(11)? as u64,
        last: maybe_id(row, 12)?,
    })
}

pub(crate) fn schedule_args(schedule: &Schedule, replace: bool) -> Vec<Arg> {
    args_of![
        schedule.name.as_str(),
        schedule.when.to_string(),
        schedule.overlap.as_str(),
        schedule.catch_up.as_str(),
        schedule.workflow.as_str(),
        schedule.module,
        schedule.input.as_str(),
        serde_json::to_string(&schedule.labels).unwrap_or_default(),
        crate::jobs::cbor(&schedule.config),
        schedule.created_at,
        schedule.next_at.map(millis),
        schedule.fired as i64,
        schedule.last.as_ref().map(RunId::as_str),
        replace,
    ]
}
