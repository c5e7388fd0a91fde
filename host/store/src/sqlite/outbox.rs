//! What is told to others.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::Timestamp;

use super::read::{readable, strange};
use super::write::{Result as WriteResult, millis, to_json};
use super::{SqliteStore, journal};
use crate::{
    Advance, Cursor, Delivery, DeliveryFilter, DeliveryState, LONGEST_HOLD_MS, LONGEST_REST_MS, NewDelivery,
    Outbox, REFUSED_EVENT, Result as StoreResult, RunState, Settled, SinkLoad, stored,
};

type Result<T> = rusqlite::Result<T>;

impl Outbox for SqliteStore {
    fn hold_cursor<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        hold_ms: u64,
    ) -> BoxFuture<'a, StoreResult<Option<u64>>> {
        let (name, holder, clock) = (name.to_owned(), holder.to_owned(), Arc::clone(&self.clock));
        self.write(move |c| hold_cursor(c, &name, &holder, hold_ms, clock.now())).boxed()
    }

    fn advance_cursor(&self, advance: Advance) -> BoxFuture<'_, StoreResult<bool>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| advance_cursor(c, &advance, clock.now())).boxed()
    }

    fn cursors(&self) -> BoxFuture<'_, StoreResult<Vec<Cursor>>> {
        async move { self.read_briefly(|c| cursors(c, self.clock.now())) }.boxed()
    }

    fn drop_cursor<'a>(&'a self, name: &'a str) -> BoxFuture<'a, StoreResult<bool>> {
        let name = name.to_owned();
        self.write(move |c| drop_cursor(c, &name)).boxed()
    }

    fn put_deliveries(&self, deliveries: Vec<NewDelivery>) -> BoxFuture<'_, StoreResult<u64>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| put_deliveries(c, &deliveries, clock.now())).boxed()
    }

    fn claim_deliveries<'a>(
        &'a self,
        sink: &'a str,
        hold_ms: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<Delivery>>> {
        async move {
            if !self.read_briefly(|c| any_due(c, sink, self.clock.now()))? {
                return Ok(Vec::new());
            }
            let (sink, clock) = (sink.to_owned(), Arc::clone(&self.clock));
            self.write(move |c| claim_deliveries(c, &sink, hold_ms, limit, clock.now())).await
        }
        .boxed()
    }

    fn settle_delivery(&self, number: u64, tries: u32, settled: Settled) -> BoxFuture<'_, StoreResult<bool>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| settle_delivery(c, number, tries, &settled, clock.now())).boxed()
    }

    fn deliveries(&self, filter: DeliveryFilter, limit: usize) -> BoxFuture<'_, StoreResult<Vec<Delivery>>> {
        async move { self.read(|c| deliveries(c, &filter, limit)) }.boxed()
    }

    fn redeliver(&self, numbers: Vec<u64>) -> BoxFuture<'_, StoreResult<u64>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| redeliver(c, &numbers, clock.now())).boxed()
    }

    fn sink_loads(&self) -> BoxFuture<'_, StoreResult<Vec<SinkLoad>>> {
        async move { self.read(|c| sink_loads(c, self.clock.now())) }.boxed()
    }

    fn delete_old_deliveries(&self, before: Timestamp) -> BoxFuture<'_, StoreResult<u64>> {
        self.write(move |c| delete_old_deliveries(c, before)).boxed()
    }
}

fn time(at: i64) -> Timestamp {
    Timestamp(at as u64)
}

fn hold_cursor(
    c: &Connection,
    name: &str,
    holder: &str,
    hold_ms: u64,
    now: Timestamp,
) -> WriteResult<Option<u64>> {
    let last = journal::last(c)?;
    let held = millis(now.after(hold_ms.min(LONGEST_HOLD_MS)));
    let place: Option<i64> = c
        .prepare_cached(
            "INSERT INTO cursors (name, place, at, holder, until) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
             WHERE holder IS NULL OR holder = excluded.holder OR until <= ?3
             RETURNING place",
        )?
        .query_row(params![name, stored(last), millis(now), holder, held], |row| row.get(0))
        .optional()?;
    Ok(place.map(|place| place as u64))
}

/// Deliveries that rest, and cursors that are held, by a clock that was ahead of this one; `?1` is the time.
const RESTS: &str = "state = 0 AND next_at > ?1 AND (created_at > ?1 + 1000 OR next_at > ?1 + ?2)";
const HELD: &str = "holder NOT NULL AND until > ?1 AND (at > ?1 + 1000 OR until > ?1 + ?2)";

pub(super) fn any_ahead(c: &Connection, now: Timestamp) -> Result<bool> {
    let now = millis(now);
    let deliveries = format!("SELECT 1 FROM deliveries WHERE {RESTS}");
    let cursors = format!("SELECT 1 FROM cursors WHERE {HELD}");
    Ok(c.prepare_cached(&deliveries)?.exists([now, LONGEST_REST_MS as i64])?
        || c.prepare_cached(&cursors)?.exists([now, LONGEST_HOLD_MS as i64])?)
}

/// Has them be tried, and taken over, now.
pub(super) fn put_right(c: &Connection, now: Timestamp) -> WriteResult<()> {
    let now = millis(now);
    let deliveries =
        format!("UPDATE deliveries SET next_at = ?1, created_at = min(created_at, ?1) WHERE {RESTS}");
    c.prepare_cached(&deliveries)?.execute([now, LONGEST_REST_MS as i64])?;
    let cursors = format!("UPDATE cursors SET until = ?1, at = min(at, ?1) WHERE {HELD}");
    c.prepare_cached(&cursors)?.execute([now, LONGEST_HOLD_MS as i64])?;
    Ok(())
}

fn advance_cursor(c: &Connection, advance: &Advance, now: Timestamp) -> WriteResult<bool> {
    let moved = c
        .prepare_cached(
            "UPDATE cursors SET place = max(place, ?3), at = ?4, until = ?5, holder = iif(?6, holder, NULL)
             WHERE name = ?1 AND holder = ?2",
        )?
        .execute(params![
            advance.name,
            advance.holder,
            stored(advance.place),
            millis(now),
            millis(now.after(advance.hold_ms.min(LONGEST_HOLD_MS))),
            advance.hold_ms > 0
        ])?;
    if moved == 0 {
        return Ok(false);
    }
    put_deliveries(c, &advance.deliveries, now)?;
    Ok(true)
}

fn cursors(c: &Connection, now: Timestamp) -> Result<Vec<Cursor>> {
    c.prepare_cached(
        "SELECT name, place, at, ifnull(until > ?1 AND holder NOT NULL, 0), holder FROM cursors ORDER BY name",
    )?
    .query_map([millis(now)], |row| {
        Ok(Cursor {
            name: row.get(0)?,
            place: row.get::<_, i64>(1)? as u64,
            at: time(row.get(2)?),
            is_held: row.get(3)?,
            holder: row.get(4)?,
        })
    })?
    .collect()
}

fn drop_cursor(c: &Connection, name: &str) -> WriteResult<bool> {
    let cursors = c.prepare_cached("DELETE FROM cursors WHERE name = ?1")?.execute([name])?;
    let deliveries = c.prepare_cached("DELETE FROM deliveries WHERE sink = ?1")?.execute([name])?;
    Ok(cursors + deliveries > 0)
}

fn put_deliveries(c: &Connection, deliveries: &[NewDelivery], now: Timestamp) -> WriteResult<u64> {
    let mut new = 0;
    for one in deliveries {
        new += c
            .prepare_cached(
                "INSERT INTO deliveries (sink, message, event, run, state, tries, created_at, next_at, body)
                 VALUES (?1, ?2, ?3, ?4, 0, 0, ?5, ?5, ?6) ON CONFLICT (sink, message) DO NOTHING",
            )?
            .execute(params![one.sink, one.message, one.event, one.run.as_str(), millis(now), one.body])?;
    }
    Ok(new as u64)
}

/// The columns of [`delivery`].
const COLUMNS: &str =
    "id, sink, message, event, run, body, created_at, state, tries, next_at, ended_at, said";

fn delivery(row: &SqlRow<'_>) -> Result<Delivery> {
    Ok(Delivery {
        number: row.get::<_, i64>(0)? as u64,
        what: NewDelivery {
            sink: row.get(1)?,
            message: row.get(2)?,
            event: row.get(3)?,
            run: row.get_ref(4)?.as_str()?.parse().map_err(|_| strange(4, "the id of a run"))?,
            body: row.get(5)?,
        },
        created_at: time(row.get(6)?),
        state: DeliveryState::of_number(row.get(7)?).ok_or_else(|| strange(7, "a state"))?,
        tries: row.get(8)?,
        next_at: row.get::<_, Option<i64>>(9)?.map(time),
        ended_at: row.get::<_, Option<i64>>(10)?.map(time),
        said: row.get(11)?,
    })
}

/// Whether there is anything to claim: a look costs no transaction.
fn any_due(c: &Connection, sink: &str, now: Timestamp) -> Result<bool> {
    c.prepare_cached("SELECT 1 FROM deliveries WHERE state = 0 AND sink = ?1 AND next_at <= ?2")?
        .exists(params![sink, millis(now)])
}

fn claim_deliveries(
    c: &Connection,
    sink: &str,
    hold_ms: u64,
    limit: usize,
    now: Timestamp,
) -> WriteResult<Vec<Delivery>> {
    let sql = format!(
        "UPDATE deliveries SET tries = tries + 1, next_at = ?3 WHERE id IN (SELECT id FROM deliveries
             WHERE state = 0 AND sink = ?1 AND next_at <= ?2 ORDER BY next_at, id LIMIT ?4)
         RETURNING {COLUMNS}"
    );
    let held = millis(now.after(hold_ms.min(LONGEST_REST_MS)));
    let mut statement = c.prepare_cached(&sql)?;
    let claimed = statement.query_map(params![sink, millis(now), held, limit as i64], delivery)?;
    let mut claimed = readable(claimed).collect::<Result<Vec<_>>>()?;
    claimed.sort_by_key(|delivery| delivery.number);
    Ok(claimed)
}

fn settle_delivery(
    c: &Connection,
    number: u64,
    tries: u32,
    settled: &Settled,
    now: Timestamp,
) -> WriteResult<bool> {
    let number = stored(number);
    let changed = match settled {
        // Whoever else tries it by now need not have: it is there.
        Settled::Delivered => c
            .prepare_cached(
                "UPDATE deliveries SET state = 1, next_at = NULL, ended_at = ?2, said = NULL
                 WHERE id = ?1 AND state <> 1",
            )?
            .execute(params![number, millis(now)])?,
        Settled::Again { in_ms, said } => c
            .prepare_cached(
                "UPDATE deliveries SET next_at = ?3, said = ?4 WHERE id = ?1 AND tries = ?2 AND state = 0",
            )?
            .execute(params![number, tries, millis(now.after((*in_ms).min(LONGEST_REST_MS))), said])?,
        Settled::GivenUp { said } => c
            .prepare_cached(
                "UPDATE deliveries SET state = 2, next_at = NULL, ended_at = ?3, said = ?4
                 WHERE id = ?1 AND tries = ?2 AND state = 0",
            )?
            .execute(params![number, tries, millis(now), said])?,
    };
    Ok(changed > 0)
}

fn deliveries(c: &Connection, filter: &DeliveryFilter, limit: usize) -> Result<Vec<Delivery>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deliveries WHERE (?1 IS NULL OR sink = ?1) AND (?2 IS NULL OR state = ?2)
         AND (?3 IS NULL OR run = ?3) AND id < ?4 AND (?5 IS NULL OR message = ?5) ORDER BY id DESC LIMIT ?6"
    );
    let mut statement = c.prepare_cached(&sql)?;
    let found = statement.query_map(
        params![
            filter.sink,
            filter.state.map(DeliveryState::number),
            filter.run.as_ref().map(|run| run.as_str()),
            filter.before.map_or(i64::MAX, stored),
            filter.message,
            limit as i64
        ],
        delivery,
    )?;
    readable(found).collect()
}

fn redeliver(c: &Connection, numbers: &[u64], now: Timestamp) -> WriteResult<u64> {
    let changed = c
        .prepare_cached(
            "UPDATE deliveries SET state = 0, tries = 0, next_at = ?2, ended_at = NULL, said = NULL,
                 created_at = ?2
             WHERE id IN (SELECT value FROM json_each(?1))",
        )?
        .execute(params![to_json(&numbers), millis(now)])?;
    Ok(changed as u64)
}

fn sink_loads(c: &Connection, now: Timestamp) -> Result<Vec<SinkLoad>> {
    let mut loads: Vec<SinkLoad> = Vec::new();
    let mut statement = c.prepare_cached(
        "SELECT sink, state, count(*), min(created_at) FROM deliveries GROUP BY state, sink ORDER BY sink",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (sink, state, count): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let load = match loads.iter().position(|load| load.sink == sink) {
            Some(known) => &mut loads[known],
            None => {
                loads.push(SinkLoad { sink, pending: 0, delivered: 0, given_up: 0, oldest_ms: None });
                loads.last_mut().ok_or(rusqlite::Error::QueryReturnedNoRows)?
            }
        };
        let count = count as u64;
        match DeliveryState::of_number(state).ok_or_else(|| strange(1, "a state"))? {
            DeliveryState::Pending => {
                load.pending = count;
                load.oldest_ms = Some(now.since(time(row.get(3)?)));
            }
            DeliveryState::Delivered => load.delivered = count,
            DeliveryState::GivenUp => load.given_up = count,
        }
    }
    Ok(loads)
}

fn delete_old_deliveries(c: &Connection, before: Timestamp) -> WriteResult<u64> {
    let gone = c
        .prepare_cached(
            "DELETE FROM deliveries WHERE ended_at < ?1 AND NOT (event = ?2 AND EXISTS
                 (SELECT 1 FROM runs r WHERE r.name = deliveries.run AND r.state = ?3))",
        )?
        .execute(params![millis(before), REFUSED_EVENT, RunState::Refused.as_str()])?;
    Ok(gone as u64)
}
