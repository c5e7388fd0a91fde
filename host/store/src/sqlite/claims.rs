//! Who advances a run.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::{Digest, Epoch, Given, Outcome, RunId};

use super::inbox::{drop_pauses, insert_message};
use super::write::{Fault, Result, millis, to_json};
use super::{journal, read, sessions};
use crate::claims::{check_rows, share_of_new};
use crate::{
    ClaimHow, Claimed, Clock, MessageBody, Opened, Part, Projects, RunState, SessionId, StoreError, Waiting,
    Wanted,
};

/// A run that was claimed and is to be read.
pub(super) struct Taken {
    id: i64,
    pub(super) run: RunId,
    pub(super) epoch: Epoch,
    starts: u32,
    module: Digest,
    emissions: u64,
    given: Given,
    was: RunState,
    waited: Option<Waiting>,
    trouble: Option<String>,
    /// Of the chain, when the run was given up the last time.
    head: Option<[u8; 32]>,
    session: Option<i64>,
    due_at: Option<i64>,
    project: Option<String>,
    imported: bool,
    outcome: Option<Outcome>,
}

/// The columns of [`Taken::read`].
const RUN: &str = "r.id, r.name, r.epoch, r.starts, r.module, r.emissions, r.given, r.state, r.wait_until,
                   r.wait_for, r.people, r.head, r.session, r.due_at, r.project,
                   r.outcome, r.trouble, r.imported";

impl Taken {
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        let emissions = row.get::<_, i64>(5)? as u64;
        let given = row.get::<_, Option<Vec<u8>>>(6)?;
        Ok(Self {
            id: row.get(0)?,
            run: read::id(row, 1)?,
            epoch: Epoch(row.get::<_, i64>(2)? as u64),
            starts: row.get(3)?,
            module: Digest(row.get(4)?),
            emissions,
            given: match given {
                Some(given) => {
                    minicbor::decode(&given).map_err(|_| read::strange(6, "what was given out"))?
                }
                None => Given::Counted(emissions),
            },
            was: read::state_word(row, 7)?,
            waited: read::waiting(row, 8, 9, 10)?,
            head: row.get(11)?,
            session: row.get(12)?,
            due_at: row.get(13)?,
            project: row.get(14)?,
            outcome: read::outcome(row, 15)?,
            trouble: row.get(16)?,
            imported: row.get(17)?,
        })
    }

    /// Gives the run to a session.
    fn take(&mut self, c: &Connection, session: SessionId) -> Result<()> {
        c.prepare_cached(
            "UPDATE runs SET epoch = epoch + 1, session = ?2, state = 'running', wait_until = NULL,
                             wait_for = NULL, people = 0, outcome = NULL, starts = starts + (session IS NOT ?2), due_at = NULL,
                             trouble = NULL, stopping = iif(?3, 0, stopping)
             WHERE id = ?1",
        )?
        .execute(params![self.id, session.0 as i64, self.was.is_final()])?;
        self.epoch.0 += 1;
        // Whoever has it and begins again has not been brought down by it.
        self.starts += u32::from(self.session != Some(session.0 as i64));
        self.session = Some(session.0 as i64);
        Ok(())
    }
}

/// What became of a claim, before the run is read.
pub(super) enum Claim {
    Yes(Box<Taken>),
    No(Claimed),
}

pub(super) fn claim(
    c: &Connection,
    session: SessionId,
    run: &RunId,
    how: ClaimHow,
    clock: &dyn Clock,
) -> Result<Claim> {
    sessions::check(c, session)?;
    let sql = format!("SELECT {RUN} FROM runs r WHERE r.name = ?1");
    let Some(mut found) = c.prepare_cached(&sql)?.query_row([run.as_str()], Taken::read).optional()? else {
        return Ok(Claim::No(Claimed::NoSuchRun));
    };
    let reopens = how == ClaimHow::Reopen && matches!(found.was, RunState::Failed | RunState::Cancelled);
    if found.was.is_final() && !reopens {
        return Ok(Claim::No(Claimed::Ended));
    }
    if how == ClaimHow::Seize {
        // Whoever has it, its epoch is over.
    } else if let Some(holder) = found.session.filter(|holder| *holder != session.0 as i64) {
        if let Some(held) = sessions::living(c, holder, clock)? {
            let crate::Session { id: session, owner, left_ms } = held;
            return Ok(Claim::No(Claimed::Held { session, owner, left_ms }));
        }
        sessions::fence(c, holder)?;
    } else if found.session.is_none()
        && how == ClaimHow::Due
        && found.due_at.is_none_or(|due| due > millis(clock.now()))
    {
        return Ok(Claim::No(Claimed::NotDue));
    }
    match how {
        ClaimHow::Asked | ClaimHow::Reopen => drop_pauses(c, found.id)?,
        ClaimHow::AsItIs | ClaimHow::Seize if found.was == RunState::Paused => {
            insert_message(c, found.id, clock.now(), &MessageBody::Pause)?;
        }
        ClaimHow::AsItIs | ClaimHow::Due | ClaimHow::Seize => {}
    }
    found.take(c, session)?;
    Ok(Claim::Yes(Box::new(found)))
}

/// Conditions that what is wanted adds, beside the parameters 3 to 5.
struct Filter {
    sql: String,
    projects: String,
    families: String,
    except: String,
}

impl Filter {
    fn of(wanted: &Wanted) -> Self {
        // Also what is not asked for has to be a parameter.
        let mut sql = " AND ?3 NOT NULL AND ?4 NOT NULL AND ?5 NOT NULL".to_owned();
        let mut projects = "[]".to_owned();
        if let Projects::Only(only) = &wanted.projects {
            projects = to_json(&only.iter().flatten().collect::<Vec<_>>());
            sql.push_str(" AND (r.project IN (SELECT value FROM json_each(?3))");
            sql.push_str(if only.contains(&None) { " OR r.project IS NULL)" } else { ")" });
        }
        if !wanted.except.is_empty() {
            sql.push_str(" AND r.name NOT IN (SELECT value FROM json_each(?5))");
        }
        let ids = |ids: &[RunId]| to_json(&ids.iter().map(RunId::as_str).collect::<Vec<_>>());
        Self {
            sql,
            projects,
            families: ids(wanted.families.as_deref().unwrap_or_default()),
            except: ids(&wanted.except),
        }
    }

    /// Where new runs or others are found that are due some time, and which of them are wanted.
    fn from(&self, wanted: &Wanted, new: bool) -> String {
        let (index, is) = if new { ("runs_new", "=") } else { ("runs_due", "<>") };
        let from = match wanted.families {
            None => format!("runs r INDEXED BY {index} WHERE"),
            Some(_) => {
                "json_each(?4) f CROSS JOIN runs r INDEXED BY runs_family_due WHERE r.root = f.value AND"
                    .to_owned()
            }
        };
        format!("{from} r.due_at NOT NULL AND r.state {is} 'queued'{}", self.sql)
    }

    /// The runs that are due, new ones or others.
    fn find(&self, c: &Connection, wanted: &Wanted, new: bool, now: i64, limit: usize) -> Result<Vec<Taken>> {
        let from = self.from(wanted, new);
        let sql = format!("SELECT {RUN} FROM {from} AND r.due_at <= ?1 ORDER BY r.due_at LIMIT ?2");
        Ok(c.prepare_cached(&sql)?
            .query_map(params![now, limit as i64, self.projects, self.families, self.except], Taken::read)?
            .collect::<rusqlite::Result<Vec<_>>>()?)
    }

    /// When the next run is due that is not so `now`.
    fn next(&self, c: &Connection, wanted: &Wanted, now: i64) -> rusqlite::Result<Option<i64>> {
        let mut next = None::<i64>;
        for new in [true, false] {
            let from = self.from(wanted, new);
            let sql = format!("SELECT r.due_at FROM {from} AND r.due_at > ?1 ORDER BY r.due_at LIMIT ?2");
            let due: Option<i64> = c
                .prepare_cached(&sql)?
                .query_row(params![now, 1, self.projects, self.families, self.except], |row| row.get(0))
                .optional()?;
            next = [next, due].into_iter().flatten().min();
        }
        Ok(next)
    }
}

/// Whether anything that is wanted is due, and else when the next is, in milliseconds.
pub(super) fn look(
    c: &Connection,
    wanted: &Wanted,
    clock: &dyn Clock,
) -> rusqlite::Result<(bool, Option<u64>)> {
    let now = millis(clock.now());
    let filter = Filter::of(wanted);
    let due = filter.next(c, wanted, -1)?.is_some_and(|due| due <= now);
    let next = filter.next(c, wanted, now)?;
    Ok((due, next.map(|next| next.abs_diff(now))))
}

/// Runs that were parked by a clock that was ahead of this one.
const AHEAD: &str = "state = 'waiting' AND session IS NULL AND due_at > ?1 AND parked_at > ?1 + 1000";

pub(super) fn any_ahead(c: &Connection, clock: &dyn Clock) -> rusqlite::Result<bool> {
    c.prepare_cached(&format!("SELECT 1 FROM runs WHERE {AHEAD}"))?.exists([millis(clock.now())])
}

pub(super) fn put_right(c: &Connection, clock: &dyn Clock) -> Result<u64> {
    let sql = format!("UPDATE runs SET due_at = 0 WHERE {AHEAD}");
    Ok(c.prepare_cached(&sql)?.execute([millis(clock.now())])? as u64)
}

/// Claims what is due. `turn` counts the claims, so that small ones share fairly, too.
pub(super) fn claim_due(
    c: &Connection,
    session: SessionId,
    limit: usize,
    turn: usize,
    wanted: &Wanted,
    clock: &dyn Clock,
) -> Result<Vec<Taken>> {
    sessions::check(c, session)?;
    let now = millis(clock.now());
    let filter = Filter::of(wanted);
    let share = share_of_new(limit, turn);
    let new = filter.find(c, wanted, true, now, limit)?;
    let begun = filter.find(c, wanted, false, now, limit - share.min(new.len()).min(limit))?;
    let room = limit - begun.len();
    let mut taken: Vec<_> = begun.into_iter().chain(new.into_iter().take(room)).collect();
    for run in &mut taken {
        run.take(c, session)?;
    }
    Ok(taken)
}

/// Reads a run that was claimed, and looks whether it is what it was left as.
pub(super) fn open(c: &Connection, taken: &Taken, place: &str) -> Result<Opened> {
    let damaged = |reason: String| {
        let reason = format!("the journal of {}: {reason}", taken.run);
        Fault::Refused(StoreError::Damaged { place: place.to_owned(), reason })
    };
    let (rows, last) = journal::whole(c, taken.id)?;
    check_rows(&rows, taken.was, taken.head.map(Digest)).map_err(damaged)?;
    Ok(Opened {
        run: taken.run.clone(),
        session: SessionId(taken.session.unwrap_or_default() as u64),
        epoch: taken.epoch,
        starts: taken.starts,
        module: taken.module,
        emissions: taken.emissions,
        given: taken.given,
        rows,
        place: last,
        inbox: read::inbox(c, taken.id, Part::Next)?,
        project: taken.project.clone(),
        imported: taken.imported,
        was: taken.was,
        waited: taken.waited.clone(),
        trouble: taken.trouble.clone(),
        outcome: taken.outcome.clone(),
    })
}

pub(super) fn set_starts(
    c: &Connection,
    session: SessionId,
    run: &RunId,
    epoch: Epoch,
    starts: u32,
) -> Result<()> {
    c.prepare_cached("UPDATE runs SET starts = ?4 WHERE name = ?1 AND session = ?2 AND epoch = ?3")?
        .execute(params![run.as_str(), session.0 as i64, epoch.0 as i64, starts])?;
    Ok(())
}
