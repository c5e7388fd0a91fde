//! Sessions of hosts.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::{Epoch, RunId, Timestamp};

use super::write::{Fault, Result, millis, to_json};
use super::{SqliteStore, read};
use crate::{Clock, Fence, Kept, Owner, Result as StoreResult, Session, SessionId, Sessions, StoreError};

impl Sessions for SqliteStore {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, StoreResult<SessionId>> {
        let (owner, clock) = (owner.clone(), Arc::clone(&self.clock));
        async move {
            let id = SessionId::fresh()?;
            self.write_session(move |c| begin(c, id, &owner, lease_ms, clock.as_ref())).await?;
            Ok(id)
        }
        .boxed()
    }

    fn keep(&self, session: SessionId) -> BoxFuture<'_, StoreResult<Kept>> {
        let clock = Arc::clone(&self.clock);
        self.write_session(move |c| keep(c, session, clock.as_ref())).boxed()
    }

    fn sessions(&self) -> BoxFuture<'_, StoreResult<Vec<Session>>> {
        async move { self.read_briefly(|c| all(c, self.clock.as_ref())) }.boxed()
    }

    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, StoreResult<u64>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| fence_if(c, session, fence, clock.as_ref())).boxed()
    }

    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, StoreResult<u64>> {
        self.write(move |c| shed(c, session, &keep)).boxed()
    }

    fn held(&self, session: SessionId) -> BoxFuture<'_, StoreResult<Vec<(RunId, Epoch)>>> {
        async move { self.read_briefly(|c| held(c, session)) }.boxed()
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, StoreResult<u64>> {
        self.write_session(move |c| end(c, session)).boxed()
    }
}

/// The columns of [`session`], of the table `s`.
pub(super) const SESSION: &str = "s.id, s.host, s.realm, s.pid, s.started, s.source, s.ticks, s.until";

/// A session from eight columns that begin at `first`; none if they are null.
pub(super) fn session(
    row: &SqlRow<'_>,
    first: usize,
    clock: &dyn Clock,
) -> rusqlite::Result<Option<Session>> {
    let Some(id) = row.get::<_, Option<i64>>(first)? else { return Ok(None) };
    let owner = Owner {
        host: row.get(first + 1)?,
        realm: row.get(first + 2)?,
        pid: row.get(first + 3)?,
        started: row.get::<_, i64>(first + 4)? as u64,
    };
    let left_ms = match row.get_ref(first + 5)?.as_str()? == clock.source() {
        true => (row.get::<_, i64>(first + 6)? as u64).saturating_sub(clock.ticks_ms()),
        false => (row.get::<_, i64>(first + 7)? as u64).saturating_sub(clock.now().0),
    };
    Ok(Some(Session { id: SessionId(id as u64), owner, left_ms }))
}

fn begin(c: &Connection, id: SessionId, owner: &Owner, lease_ms: u64, clock: &dyn Clock) -> Result<()> {
    c.prepare_cached(
        "INSERT INTO sessions (id, host, realm, pid, started, lease_ms, source, ticks, until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        id.0 as i64,
        owner.host,
        owner.realm,
        owner.pid,
        owner.started as i64,
        lease_ms.min(i64::MAX as u64) as i64,
        clock.source(),
        millis(Timestamp(clock.ticks_ms().saturating_add(lease_ms))),
        millis(clock.now().after(lease_ms)),
    ])?;
    Ok(())
}

fn keep(c: &Connection, id: SessionId, clock: &dyn Clock) -> Result<Kept> {
    let lease = c
        .prepare_cached("SELECT lease_ms FROM sessions WHERE id = ?1")?
        .query_row([id.0 as i64], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(lease_ms) = lease.map(|lease| lease as u64) else { return Ok(Kept::Fenced) };
    let now = clock.now();
    let until = now.after(lease_ms);
    c.prepare_cached("UPDATE sessions SET source = ?2, ticks = ?3, until = ?4 WHERE id = ?1")?.execute(
        params![
            id.0 as i64,
            clock.source(),
            millis(Timestamp(clock.ticks_ms().saturating_add(lease_ms))),
            millis(until),
        ],
    )?;
    Ok(Kept::Until { until, now })
}

fn all(c: &Connection, clock: &dyn Clock) -> rusqlite::Result<Vec<Session>> {
    let sql = format!("SELECT {SESSION} FROM sessions s ORDER BY s.id");
    let sessions = c
        .prepare_cached(&sql)?
        .query_map([], |row| session(row, 0, clock))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(sessions.into_iter().flatten().collect())
}

fn find(c: &Connection, id: i64, clock: &dyn Clock) -> rusqlite::Result<Option<Session>> {
    let sql = format!("SELECT {SESSION} FROM sessions s WHERE s.id = ?1");
    Ok(c.prepare_cached(&sql)?.query_row([id], |row| session(row, 0, clock)).optional()?.flatten())
}

/// A session, if it is not over.
pub(super) fn living(c: &Connection, id: i64, clock: &dyn Clock) -> rusqlite::Result<Option<Session>> {
    Ok(find(c, id, clock)?.filter(|session| session.left_ms > 0))
}

/// Refuses a session that was ended.
pub(super) fn check(c: &Connection, id: SessionId) -> Result<()> {
    match c.prepare_cached("SELECT 1 FROM sessions WHERE id = ?1")?.exists([id.0 as i64])? {
        true => Ok(()),
        false => Err(Fault::Refused(StoreError::SessionOver)),
    }
}

/// Ends a session in the place of its owner. Gives how many runs it had.
pub(super) fn fence(c: &Connection, id: i64) -> Result<u64> {
    let runs =
        c.prepare_cached("UPDATE runs SET session = NULL, due_at = 0 WHERE session = ?1")?.execute([id])?;
    c.prepare_cached("DELETE FROM slots WHERE session = ?1")?.execute([id])?;
    c.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id])?;
    Ok(runs as u64)
}

fn fence_if(c: &Connection, id: SessionId, fence_: Fence, clock: &dyn Clock) -> Result<u64> {
    match fence_ {
        Fence::IfOver if living(c, id.0 as i64, clock)?.is_some() => Ok(0),
        _ => fence(c, id.0 as i64),
    }
}

fn shed(c: &Connection, id: SessionId, keep: &[RunId]) -> Result<u64> {
    let keep: Vec<_> = keep.iter().map(RunId::as_str).collect();
    let runs = c
        .prepare_cached(
            "UPDATE runs SET session = NULL, due_at = 0, starts = max(starts - 1, 0)
             WHERE session = ?1 AND name NOT IN (SELECT value FROM json_each(?2))",
        )?
        .execute(params![id.0 as i64, to_json(&keep)])?;
    Ok(runs as u64)
}

fn held(c: &Connection, id: SessionId) -> rusqlite::Result<Vec<(RunId, Epoch)>> {
    let mut statement = c.prepare_cached("SELECT name, epoch FROM runs WHERE session = ?1")?;
    let held = statement
        .query_map([id.0 as i64], |row| Ok((read::id(row, 0)?, Epoch(row.get::<_, i64>(1)? as u64))))?;
    read::readable(held).collect()
}

fn end(c: &Connection, id: SessionId) -> Result<u64> {
    c.prepare_cached("UPDATE runs SET starts = max(starts - 1, 0) WHERE session = ?1")?
        .execute([id.0 as i64])?;
    fence(c, id.0 as i64)
}
