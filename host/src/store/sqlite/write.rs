//! What is done inside a transaction. Each function checks before it changes.

use rusqlite::{Connection, OptionalExtension, named_params, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Json, Outcome, QuestionChange, Recorded, Row, RunId, Step, Timestamp,
};

use super::journal::{self, End, last_place};
use crate::schedule::Schedule;
use crate::store::{
    Append, Appended, ClaimHow, Claimed, Created, Deleted, Emission, Fire, ImportedRun, LogLine, MessageBody,
    NewMessage, NewRun, NewTranscript, Next, OVERTAKEN, Owner, PARENT_GONE, Posted, Published, Rebuilt,
    RunState, StoreError, Waiting,
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
    check_new(c, &run.id, run.module)?;
    insert_run(c, run)?;
    Ok(Created::New)
}

/// Creates a run whose id is free. Gives its number.
fn insert_run(c: &Connection, run: &NewRun) -> Result<i64> {
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
fn append_rows(c: &Connection, id: i64, run: &RunId, rows: &[Row], at: Timestamp) -> Result<()> {
    let mut end = End::find(c, id)?;
    for row in rows {
        if !end.append(c, id, row, at)? {
            return Err(Fault::Refused(StoreError::Fenced { run: run.clone() }));
        }
    }
    Ok(())
}

/// No budget is no value.
fn budget_bytes(budget: Budget) -> Option<Vec<u8>> {
    let bytes = |budget| minicbor::to_vec(budget).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
    (budget != Budget::default()).then(|| bytes(budget))
}

/// Refuses an id that is or was somebody's, and a module that is not there.
fn check_new(c: &Connection, id: &RunId, module: Digest) -> Result<()> {
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
                state: super::read::state_word(row, 3)?,
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
fn start_child(c: &Connection, parent: i64, name: &RunId, child: &NewRun) -> Result<bool> {
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

/// Cancels the children of a run that are to end with it: that of a step, or all.
fn cancel_children(c: &Connection, parent: &RunId, step: Option<Step>, at: Timestamp) -> Result<()> {
    let mut statement = c.prepare_cached(
        "SELECT name FROM runs WHERE parent = ?1 AND (?2 IS NULL OR parent_step = ?2) AND on_close = 0
         AND state NOT IN ('completed', 'failed', 'cancelled', 'continued')",
    )?;
    let lost = statement
        .query_map(params![parent.as_str(), step.map(|step| step.0 as i64)], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for name in lost {
        let body = MessageBody::Cancel { reason: Some(PARENT_GONE.to_owned()) };
        deliver(c, &name, at, &body)?;
    }
    Ok(())
}

/// Tells the parent of a run, if it has one, that this one has ended.
fn tell_parent(c: &Connection, id: i64, outcome: &Outcome, spent: Spent, at: Timestamp) -> Result<()> {
    let child = c
        .prepare_cached("SELECT name, parent, parent_step FROM runs WHERE id = ?1 AND parent_step NOT NULL")?
        .query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((name, parent, step)) = child else { return Ok(()) };
    let Ok(run) = name.parse() else { return Ok(()) };
    let body = MessageBody::Child { step: Step(step as u64), run, outcome: outcome.clone(), spent };
    deliver(c, &parent, at, &body)
}

fn change_questions(c: &Connection, id: i64, changes: &[QuestionChange]) -> Result<()> {
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
fn emit(c: &Connection, id: i64, stored: u64, first: u64, emissions: &[Emission]) -> Result<()> {
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

fn insert_log(c: &Connection, id: i64, line: &LogLine) -> Result<usize> {
    let (number, at, level) = (line.number as i64, line.at.0 as i64, line.level as i64);
    Ok(c.prepare_cached(
        "INSERT INTO logs (run, number, at, level, message, fields) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![id, number, at, level, line.message, to_json(&line.fields)])?)
}

fn insert_published(
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

/// A run that something is sent to.
struct Addressee {
    id: i64,
    state: RunState,
    /// JSON: the names of the signals that it waits for.
    waits: Option<String>,
    free: bool,
    chain: Option<String>,
}

fn addressee(c: &Connection, name: &str) -> Result<Option<Addressee>> {
    let found = c
        .prepare_cached("SELECT id, state, wait_for, owner_host IS NULL, chain FROM runs WHERE name = ?1")?
        .query_row([name], |row| {
            Ok(Addressee {
                id: row.get(0)?,
                state: super::read::state_word(row, 1)?,
                waits: row.get(2)?,
                free: row.get(3)?,
                chain: row.get(4)?,
            })
        })
        .optional()?;
    Ok(found)
}

pub(super) fn post(c: &Connection, message: &NewMessage) -> Result<Posted> {
    let Some(to) = addressee(c, message.run.as_str())? else { return Ok(Posted::NoSuchRun) };
    if to.state == RunState::Continued && !matches!(message.body, MessageBody::Answer { .. }) {
        let latest: Option<String> = c
            .prepare_cached("SELECT name FROM runs WHERE chain = ?1 ORDER BY id DESC LIMIT 1")?
            .query_row([&to.chain], |row| row.get(0))
            .optional()?;
        let latest = latest.and_then(|name| name.parse().ok()).filter(|latest| *latest != message.run);
        return Ok(latest.map_or(Posted::Ended, Posted::Continued));
    }
    // Before the end is looked at: one that was delivered stays delivered, to whichever round.
    if let MessageBody::Signal { id: Some(id), .. } = &message.body
        && c.prepare_cached(
            "SELECT 1 FROM inbox WHERE dedupe = ?2
             AND (run = ?1 OR run IN (SELECT id FROM runs WHERE chain NOT NULL AND chain = ?3))",
        )?
        .exists(params![to.id, id, to.chain])?
    {
        return Ok(Posted::Duplicate);
    }
    if to.state.is_final() {
        return Ok(Posted::Ended);
    }
    match &message.body {
        MessageBody::Pause if to.free => {
            c.prepare_cached("UPDATE runs SET state = 'paused', due_at = NULL WHERE id = ?1")?
                .execute([to.id])?;
            return Ok(Posted::Added);
        }
        MessageBody::Answer { step, .. } => {
            let open = c
                .prepare_cached(
                    "UPDATE questions SET answered = 1 WHERE run = ?1 AND step = ?2 AND answered = 0",
                )?
                .execute(params![to.id, step.0 as i64])?;
            if open == 0 {
                return Ok(Posted::NoQuestion);
            }
        }
        _ => {}
    }
    hand_over(c, &to, message.at, &message.body)?;
    Ok(Posted::Added)
}

/// Puts a message of the host into the inbox of a run, unless that has ended.
fn deliver(c: &Connection, name: &str, at: Timestamp, body: &MessageBody) -> Result<()> {
    match addressee(c, name)? {
        Some(to) if !to.state.is_final() => hand_over(c, &to, at, body),
        _ => Ok(()),
    }
}

/// Puts a message into an inbox. A run that nobody advances and that waits for this is due now.
fn hand_over(c: &Connection, to: &Addressee, at: Timestamp, body: &MessageBody) -> Result<()> {
    insert_message(c, to.id, at, body)?;
    let wanted = match (to.state, body) {
        (RunState::Waiting | RunState::Paused | RunState::Refused, MessageBody::Cancel { .. }) => true,
        (RunState::Waiting, MessageBody::Signal { name, .. }) => c
            .prepare_cached("SELECT 1 FROM json_each(?1) WHERE value = ?2")?
            .exists(params![to.waits.as_deref().unwrap_or("[]"), name])?,
        (RunState::Waiting, _) => true,
        _ => false,
    };
    if wanted {
        c.prepare_cached("UPDATE runs SET due_at = 0 WHERE id = ?1")?.execute([to.id])?;
    }
    Ok(())
}

/// The body of a child's end in the inbox.
pub(super) type ChildBody = (Step, RunId, Recorded, Spent);
/// The body of an answer in the inbox.
pub(super) type AnswerBody = (Step, Recorded, Option<String>, Option<String>);

fn insert_message(c: &Connection, run: i64, at: Timestamp, body: &MessageBody) -> Result<()> {
    let (kind, name, text, dedupe, answer) = match body {
        MessageBody::Signal { name, payload, id } => {
            ("signal", Some(name.as_str()), Some(payload.as_str()), id.as_deref(), None)
        }
        MessageBody::Cancel { reason } => ("cancel", None, reason.as_deref(), None, None),
        MessageBody::Pause => ("pause", None, None, None, None),
        MessageBody::Answer { step, outcome, by, note } => {
            let body: AnswerBody = (*step, outcome.clone().into(), by.clone(), note.clone());
            let bytes = minicbor::to_vec(body).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
            ("answer", None, None, None, Some(bytes))
        }
        MessageBody::Child { step, run, outcome, spent } => {
            let body: ChildBody = (*step, run.clone(), outcome.clone().into(), *spent);
            let bytes = minicbor::to_vec(body).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
            ("child", None, None, None, Some(bytes))
        }
    };
    c.prepare_cached(
        "INSERT INTO inbox (run, at, kind, name, text, dedupe, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![run, at.0 as i64, kind, name, text, dedupe, answer])?;
    Ok(())
}

pub(super) fn transcribe(c: &Connection, run: &RunId, lines: &[NewTranscript]) -> Result<()> {
    let id: Option<i64> = c
        .prepare_cached("SELECT id FROM runs WHERE name = ?1")?
        .query_row([run.as_str()], |row| row.get(0))
        .optional()?;
    let Some(id) = id else { return Ok(()) };
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
    if changed == 0 {
        return Ok(false);
    }
    let id = c
        .prepare_cached("SELECT id FROM runs WHERE name = ?1")?
        .query_row([info.id.as_str()], |row| row.get::<_, i64>(0))?;
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
        .query_row([id], |row| super::read::state_word(row, 0))?;
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

pub(super) fn put_schedule(c: &Connection, schedule: &Schedule, replace: bool) -> Result<bool> {
    if !c.prepare_cached("SELECT 1 FROM modules WHERE digest = ?1")?.exists([schedule.module.0])? {
        return Err(Fault::Refused(StoreError::NoSuchModule(schedule.module)));
    }
    let known = c.prepare_cached("SELECT 1 FROM schedules WHERE name = ?1")?.exists([&schedule.name])?;
    if known && !replace {
        return Ok(false);
    }
    let config =
        minicbor::to_vec(&schedule.config).unwrap_or_else(|e| unreachable!("encoding to memory: {e}"));
    c.prepare_cached(
        "INSERT OR REPLACE INTO schedules (name, times, overlap, catch_up, workflow, module, input, labels,
                                           config, created_at, next_at, fired, last)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        schedule.name,
        schedule.when.to_string(),
        schedule.overlap.as_str(),
        schedule.catch_up.as_str(),
        schedule.workflow,
        schedule.module.0,
        schedule.input.as_str(),
        to_json(&schedule.labels),
        config,
        schedule.created_at.0 as i64,
        schedule.next_at.map(|at| at.0 as i64),
        schedule.fired as i64,
        schedule.last.as_ref().map(RunId::as_str),
    ])?;
    Ok(true)
}

pub(super) fn set_schedule(c: &Connection, name: &str, next: Option<Timestamp>) -> Result<bool> {
    let changed = c
        .prepare_cached("UPDATE schedules SET next_at = ?2 WHERE name = ?1")?
        .execute(params![name, next.map(|at| at.0 as i64)])?;
    Ok(changed > 0)
}

pub(super) fn delete_schedule(c: &Connection, name: &str) -> Result<bool> {
    Ok(c.prepare_cached("DELETE FROM schedules WHERE name = ?1")?.execute([name])? > 0)
}

pub(super) fn fire(c: &Connection, fire: &Fire) -> Result<bool> {
    let due = c
        .prepare_cached("SELECT 1 FROM schedules WHERE name = ?1 AND next_at = ?2")?
        .exists(params![fire.schedule, fire.due.0 as i64])?;
    if !due {
        return Ok(false);
    }
    if let Some(run) = &fire.run {
        check_new(c, &run.id, run.module)?;
        insert_run(c, run)?;
    }
    if let Some((run, at)) = &fire.cancel {
        deliver(c, run.as_str(), *at, &MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) })?;
    }
    let run = fire.run.as_ref().map(|run| run.id.as_str());
    c.prepare_cached(
        "UPDATE schedules SET next_at = ?2, fired = fired + (?3 NOT NULL), last = ifnull(?3, last)
         WHERE name = ?1",
    )?
    .execute(params![fire.schedule, fire.next.map(|at| at.0 as i64), run])?;
    Ok(true)
}

pub(super) fn delete_unused_modules(c: &Connection, before: Timestamp) -> Result<usize> {
    Ok(c.prepare_cached(
        "DELETE FROM modules WHERE added_at < ?1 AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.module = digest)
         AND NOT EXISTS (SELECT 1 FROM schedules s WHERE s.module = digest)",
    )?
    .execute([before.0 as i64])?)
}
