//! Limits that all processes share which use the file.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::policy::rate::{Rate, Turn, Turns};
use wfhost_core::policy::share::{Need, share};
use wfhost_core::{RunId, Step, Timestamp};

use super::read::strange;
use super::write::{Result as WriteResult, millis, to_json};
use super::{SqliteStore, sessions};
use crate::{
    Clock, Limits, Result as StoreResult, SessionId, SlotAsk, SlotShare, TurnWord, TurnsInfo, stored,
};

type Result<T> = rusqlite::Result<T>;

impl Limits for SqliteStore {
    fn share_slots(&self, session: SessionId, asks: Vec<SlotAsk>) -> BoxFuture<'_, StoreResult<Vec<u32>>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| share_slots(c, session, &asks, clock.as_ref())).boxed()
    }

    fn slots(&self) -> BoxFuture<'_, StoreResult<Vec<SlotShare>>> {
        async move { self.read(|c| slots(c, self.clock.as_ref())) }.boxed()
    }

    fn take_turns(&self, words: Vec<TurnWord>) -> BoxFuture<'_, StoreResult<Vec<Option<Timestamp>>>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| take_turns(c, &words, clock.now())).boxed()
    }

    fn turns(&self) -> BoxFuture<'_, StoreResult<Vec<TurnsInfo>>> {
        async move { self.read(turns) }.boxed()
    }
}

fn list<T: serde::de::DeserializeOwned>(row: &SqlRow<'_>, column: usize) -> Result<Vec<T>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|_| strange(column, "a list"))
}

/// What all sessions have that nobody has ended.
fn slots(c: &Connection, clock: &dyn Clock) -> Result<Vec<SlotShare>> {
    let sql = format!(
        "SELECT {}, l.limits, l.used, l.wants, l.has, l.since, l.calls, l.waiting
         FROM slots l JOIN sessions s ON s.id = l.session ORDER BY l.session, l.limits",
        sessions::SESSION
    );
    let mut statement = c.prepare_cached(&sql)?;
    let shares = statement.query_map([], |row| {
        let session = sessions::session(row, 0, clock)?.ok_or_else(|| strange(0, "a session"))?;
        let need = Need {
            limits: list(row, 8)?,
            wants: row.get(10)?,
            has: row.get(11)?,
            since: Timestamp(row.get::<_, i64>(12)? as u64),
        };
        let (used, calls, waiting) = (row.get(9)?, list(row, 13)?, list(row, 14)?);
        Ok(SlotShare { session: session.id, owner: session.owner, need, used, calls, waiting })
    })?;
    shares.collect()
}

fn share_slots(
    c: &Connection,
    session: SessionId,
    asks: &[SlotAsk],
    clock: &dyn Clock,
) -> WriteResult<Vec<u32>> {
    sessions::check(c, session)?;
    let now = clock.now();
    // A process of an earlier version that ends a session leaves its slots.
    c.prepare_cached(
        "DELETE FROM slots WHERE session = ?1 OR NOT EXISTS (SELECT 1 FROM sessions WHERE id = session)",
    )?
    .execute([session.0 as i64])?;
    for ask in asks {
        let since = Timestamp(now.0.saturating_sub(ask.waited_ms));
        c.prepare_cached(
            "INSERT INTO slots (session, limits, used, wants, has, since, calls, waiting)
             VALUES (?1, ?2, ?3, ?4, ?3, ?5, ?6, ?7)",
        )?
        .execute(params![
            session.0 as i64,
            to_json(&ask.limits),
            ask.used,
            ask.wants.max(ask.used),
            millis(since),
            to_json(&ask.calls),
            to_json(&ask.waiting)
        ])?;
    }
    let shares = slots(c, clock)?;
    let mut needs: Vec<Need> = shares.iter().map(|share| share.need.clone()).collect();
    for place in share(&mut needs, now) {
        if let (Some(given), Some(need)) = (shares.get(place), needs.get(place)) {
            c.prepare_cached("UPDATE slots SET has = ?3, since = ?4 WHERE session = ?1 AND limits = ?2")?
                .execute(params![
                    given.session.0 as i64,
                    to_json(&need.limits),
                    need.has,
                    millis(need.since)
                ])?;
        }
    }
    let own = shares.iter().zip(&needs).filter(|(share, _)| share.session == session);
    let own: Vec<&Need> = own.map(|(_, need)| need).collect();
    let has = |ask: &SlotAsk| own.iter().find(|need| need.limits == ask.limits).map_or(0, |need| need.has);
    Ok(asks.iter().map(has).collect())
}

/// Turns of a rate, and as they were read. Those that calls hold or gave back stay in their table, of which only the
/// first ones and the last ones are looked at.
struct Book {
    turns: Turns,
    read: Option<Turns>,
}

fn turn(row: &SqlRow<'_>, first: usize) -> Result<Turn> {
    Ok(Turn {
        full_at_us: row.get::<_, i64>(first)? as u64,
        at_us: row.get::<_, i64>(first + 1)? as u64,
        interval_us: row.get::<_, i64>(first + 2)? as u64,
    })
}

impl Book {
    fn open(c: &Connection, name: &str) -> Result<Self> {
        let known = c
            .prepare_cached("SELECT full_at, behind, blocked_until, seen FROM rates WHERE name = ?1")?
            .query_row([name], |row| {
                Ok(Turns {
                    full_at_us: row.get::<_, i64>(0)? as u64,
                    behind_us: row.get::<_, i64>(1)?.into(),
                    blocked_until_us: row.get::<_, i64>(2)? as u64,
                    seen_us: row.get::<_, i64>(3)? as u64,
                    ..Turns::default()
                })
            })
            .optional()?;
        Ok(Self { turns: known.clone().unwrap_or_default(), read: known })
    }

    /// The same as [`Turns::take`], over what is stored.
    fn take(&mut self, c: &Connection, name: &str, rate: Rate, now: Timestamp) -> Result<Turn> {
        while let Some(turn) = returned(c, name, "ASC")? {
            forget(c, name, RETURNED, Step(turn.full_at_us))?;
            if !self.turns.has_passed(turn, now) {
                return Ok(turn);
            }
        }
        Ok(self.turns.take_last(rate, now))
    }

    /// The same as [`Turns::give_back`], over what is stored.
    fn give_back(&mut self, c: &Connection, name: &str, turn: Turn) -> Result<()> {
        if turn.interval_us == 0 {
            return Ok(());
        }
        hold(c, name, RETURNED, Step(turn.full_at_us), turn)?;
        while let Some(last) = returned(c, name, "DESC")?
            && self.turns.take_back(last)
        {
            forget(c, name, RETURNED, Step(last.full_at_us))?;
        }
        Ok(())
    }

    fn save(&self, c: &Connection, name: &str) -> Result<()> {
        if self.read.as_ref() != Some(&self.turns) {
            let Turns { full_at_us, behind_us, blocked_until_us, seen_us, .. } = &self.turns;
            let behind = (*behind_us).clamp(i64::MIN.into(), i64::MAX.into()) as i64;
            c.prepare_cached("INSERT OR REPLACE INTO rates VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                params![name, stored(*full_at_us), behind, stored(*blocked_until_us), stored(*seen_us)],
            )?;
        }
        Ok(())
    }
}

/// Whose turns are that were given back: their step is their place.
const RETURNED: &str = "";

/// The first or the last of those that were given back.
fn returned(c: &Connection, name: &str, order: &str) -> Result<Option<Turn>> {
    let sql = format!(
        "SELECT full_at, at, interval FROM turns WHERE name = ?1 AND run = ?2 ORDER BY step {order} LIMIT 1"
    );
    c.prepare_cached(&sql)?.query_row([name, RETURNED], |row| turn(row, 0)).optional()
}

fn hold(c: &Connection, name: &str, run: &str, step: Step, turn: Turn) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO turns VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        name,
        run,
        stored(step.0),
        stored(turn.full_at_us),
        stored(turn.at_us),
        stored(turn.interval_us)
    ])?;
    Ok(())
}

/// Removes the turn of a call, and gives it.
fn forget(c: &Connection, name: &str, run: &str, step: Step) -> Result<Option<Turn>> {
    c.prepare_cached(
        "DELETE FROM turns WHERE name = ?1 AND run = ?2 AND step = ?3 RETURNING full_at, at, interval",
    )?
    .query_row(params![name, run, stored(step.0)], |row| turn(row, 0))
    .optional()
}

/// The same as `Queue::pass`, over what is stored of the queue.
fn pass(
    c: &Connection,
    name: &str,
    rate: Rate,
    (run, step): (&RunId, Step),
    now: Timestamp,
) -> Result<Option<Timestamp>> {
    let mut book = Book::open(c, name)?;
    book.turns.see(now);
    let until_us = book.turns.lapsed_until_us(rate, now);
    loop {
        // The index has all that finds the first one.
        let first = c
            .prepare_cached(
                "SELECT run, step, full_at, at, interval FROM turns WHERE (name, run, step) =
                 (SELECT name, run, step FROM turns INDEXED BY turns_order
                  WHERE name = ?1 AND run <> ?2 AND full_at <= ?3 ORDER BY full_at LIMIT 1)",
            )?
            .query_row(params![name, RETURNED, stored(until_us)], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, turn(row, 2)?))
            })
            .optional()?;
        let Some((run, step, turn)) = first else { break };
        if !book.turns.has_lapsed(turn, Some(rate), now) {
            break;
        }
        forget(c, name, &run, Step(step as u64))?;
    }
    let held = c
        .prepare_cached("SELECT full_at, at, interval FROM turns WHERE name = ?1 AND run = ?2 AND step = ?3")?
        .query_row(params![name, run.as_str(), stored(step.0)], |row| turn(row, 0))
        .optional()?;
    let turn = match held {
        Some(turn) => turn,
        None => book.take(c, name, rate, now)?,
    };
    let at = book.turns.at(turn);
    if at <= now {
        forget(c, name, run.as_str(), step)?;
    } else if held.is_none() {
        hold(c, name, run.as_str(), step, turn)?;
    }
    book.save(c, name)?;
    Ok(Some(at).filter(|at| *at > now))
}

fn release(c: &Connection, name: &str, run: &str, step: Step) -> Result<()> {
    if let Some(turn) = forget(c, name, run, step)? {
        let mut book = Book::open(c, name)?;
        book.give_back(c, name, turn)?;
        book.save(c, name)?;
    }
    Ok(())
}

/// Gives back all turns of a run.
pub(super) fn release_run(c: &Connection, run: &RunId) -> Result<()> {
    // The last ones first: so nothing has to be kept of them.
    let held = c
        .prepare_cached("SELECT name, step FROM turns WHERE run = ?1 ORDER BY full_at DESC")?
        .query_map([run.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<Result<Vec<_>>>()?;
    for (name, step) in held {
        release(c, &name, run.as_str(), Step(step as u64))?;
    }
    Ok(())
}

fn take_turns(c: &Connection, words: &[TurnWord], now: Timestamp) -> WriteResult<Vec<Option<Timestamp>>> {
    let mut answers = Vec::with_capacity(words.len());
    for word in words {
        answers.push(match word {
            TurnWord::Pass { name, rate, run, step } => pass(c, name, *rate, (run, *step), now)?,
            TurnWord::Release { name, run, step, epoch } => {
                let is_anothers = c
                    .prepare_cached("SELECT 1 FROM runs WHERE name = ?1 AND epoch > ?2")?
                    .exists(params![run.as_str(), stored(epoch.0)])?;
                if !is_anothers {
                    release(c, name, run.as_str(), *step)?;
                }
                None
            }
            TurnWord::ReleaseRun { run } => {
                release_run(c, run)?;
                None
            }
            TurnWord::Block { name, rate, millis } => {
                let mut book = Book::open(c, name)?;
                book.turns.block(Some(*rate), now, now.after(*millis));
                book.save(c, name)?;
                None
            }
        });
    }
    Ok(answers)
}

fn turns(c: &Connection) -> Result<Vec<TurnsInfo>> {
    c.prepare_cached(
        "SELECT r.name, count(t.at), min(t.at) + r.behind FROM rates r
         LEFT JOIN turns t ON t.name = r.name AND t.run <> '' GROUP BY r.name ORDER BY r.name",
    )?
    .query_map([], |row| {
        let next = row.get::<_, Option<i64>>(2)?.map(|at| Timestamp((at.max(0) as u64).div_ceil(1_000)));
        Ok(TurnsInfo { name: row.get(0)?, waiting: row.get::<_, i64>(1)? as u64, next })
    })?
    .collect()
}
