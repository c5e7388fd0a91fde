//! Who advances a run.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};
use wfhost_core::{Digest, Epoch, Given, Outcome, RunId, Timestamp};

use super::inbox::{drop_pauses, insert_message};
use super::write::{Fault, Result, millis, to_json};
use super::{journal, outbox, read, sessions};
use crate::claims::{Fitting, check_epoch, check_rows, share_of_new, that_fit};
use crate::{
    ClaimHow, Claimed, Clock, INBOX_BYTES, MessageBody, Opened, Part, Projects, RunState, SessionId,
    StoreError, Waiting, Wanted, rest_ms, stored,
};

/// A run that was claimed and is to be read.
pub(super) struct Taken {
    id: i64,
    pub(super) run: RunId,
    pub(super) epoch: Epoch,
    session: Option<i64>,
    due_at: Option<i64>,
    /// The state that it was in, unless that is none.
    state: Option<RunState>,
    /// What else is known of it, or why that cannot be read.
    known: std::result::Result<Known, String>,
}

/// What a row says besides who has the run.
struct Known {
    starts: u32,
    module: Digest,
    emissions: u64,
    given: Given,
    was: RunState,
    waited: Option<Waiting>,
    trouble: Option<String>,
    /// Of the chain, when the run was given up the last time.
    head: Option<[u8; 32]>,
    project: Option<String>,
    imported: bool,
    outcome: Option<Outcome>,
}

/// The columns of [`Taken::read`].
const RUN: &str = "r.id, r.name, r.epoch, r.starts, r.module, r.emissions, r.given, r.state, r.wait_until,
                   r.wait_for, r.people, r.head, r.session, r.due_at, r.project,
                   r.outcome, r.trouble, r.imported";

impl Taken {
    /// One that cannot be read holds up no others: it is claimed like them, and what is wrong with it is told.
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            run: read::id(row, 1)?,
            epoch: Epoch(row.get::<_, i64>(2)? as u64),
            session: row.get(12)?,
            due_at: row.get(13)?,
            state: read::state_word(row, 7).ok(),
            known: Known::read(row).map_err(|strange| strange.to_string()),
        })
    }

    /// How many bytes are read when it is opened: of its journal and its inbox.
    fn bytes_to_read(&self, c: &Connection) -> rusqlite::Result<u64> {
        c.prepare_cached(concat!(
            "SELECT ",
            journal::journal_bytes!("?1"),
            " + min(?2, (SELECT ifnull(sum(ifnull(octet_length(text), 0) + ifnull(length(body), 0)), 0)
                         FROM inbox INDEXED BY inbox_next WHERE run = ?1))"
        ))?
        .query_row(params![self.id, INBOX_BYTES as i64], |row| Ok(row.get::<_, i64>(0)? as u64))
    }

    /// Gives the run to a session.
    fn take(&mut self, c: &Connection, session: SessionId) -> Result<()> {
        let ended = self.state.is_some_and(RunState::is_final);
        // Whoever has it and begins again has not been brought down by it.
        self.epoch = c
            .prepare_cached(
                "UPDATE runs SET epoch = epoch + (epoch < 9223372036854775807), session = ?2, state = 'running',
                                 wait_until = NULL, wait_for = NULL, people = 0, outcome = NULL, due_at = NULL,
                                 starts = min(max(starts, 0), 4294967294) + (session IS NOT ?2),
                                 trouble = NULL, stopping = iif(?3, 0, stopping)
                 WHERE id = ?1 RETURNING epoch",
            )?
            .query_row(params![self.id, session.0 as i64, ended], |row| {
                Ok(Epoch(row.get::<_, i64>(0)? as u64))
            })?;
        if let Ok(known) = &mut self.known {
            known.starts = known.starts.saturating_add(u32::from(self.session != Some(session.0 as i64)));
        }
        self.session = Some(session.0 as i64);
        Ok(())
    }
}

impl Known {
    fn read(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        let emissions = row.get::<_, i64>(5)? as u64;
        let given = row.get::<_, Option<Vec<u8>>>(6)?;
        Ok(Self {
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
            project: row.get(14)?,
            outcome: read::outcome(row, 15)?,
            trouble: row.get(16)?,
            imported: row.get(17)?,
        })
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
    let was = found.state;
    let reopens = how == ClaimHow::Reopen && matches!(was, Some(RunState::Failed | RunState::Cancelled));
    if was.is_some_and(RunState::is_final) && !reopens {
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
        ClaimHow::Asked | ClaimHow::Reopen => _ = drop_pauses(c, found.id)?,
        ClaimHow::AsItIs | ClaimHow::Seize if was == Some(RunState::Paused) => {
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
        let mut statement = c.prepare_cached(&sql)?;
        let parameters = params![now, limit as i64, self.projects, self.families, self.except];
        let found = statement.query_map(parameters, |row| Ok(Taken::read(row).map_err(|_| row.get(0))))?;
        let (mut taken, mut nameless) = (Vec::new(), Vec::new());
        for run in found {
            match run? {
                Ok(run) => taken.push(run),
                Err(id) => nameless.push(id?),
            }
        }
        for id in nameless {
            put_off(c, id, now)?;
        }
        Ok(taken)
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

/// A run without a name that can be read can be given to nobody: it rests, so that it is not in the way of others.
fn put_off(c: &Connection, id: i64, now: i64) -> Result<()> {
    let until = millis(Timestamp(now.max(0) as u64).after(rest_ms(u32::MAX)));
    c.prepare_cached("UPDATE runs SET due_at = ?2, trouble = 'its name cannot be read' WHERE id = ?1")?
        .execute([id, until])?;
    Ok(())
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

/// Runs that wait or rest by a clock that was ahead of this one.
const AHEAD: &str =
    "state IN ('waiting', 'running') AND session IS NULL AND due_at > ?1 AND parked_at > ?1 + 1000";

pub(super) fn any_ahead(c: &Connection, clock: &dyn Clock) -> rusqlite::Result<bool> {
    let now = clock.now();
    let runs = format!("SELECT 1 FROM runs WHERE {AHEAD}");
    Ok(c.prepare_cached(&runs)?.exists([millis(now)])? || outbox::any_ahead(c, now)?)
}

pub(super) fn put_right(c: &Connection, clock: &dyn Clock) -> Result<u64> {
    let now = clock.now();
    outbox::put_right(c, now)?;
    let sql = format!("UPDATE runs SET due_at = 0 WHERE {AHEAD}");
    Ok(c.prepare_cached(&sql)?.execute([millis(now)])? as u64)
}

/// Claims what is due, and tells whether there may be more. `turn` counts the claims, so that small ones share fairly, too.
pub(super) fn claim_due(
    c: &Connection,
    session: SessionId,
    limit: usize,
    turn: usize,
    wanted: &Wanted,
    clock: &dyn Clock,
) -> Result<Fitting<Taken>> {
    sessions::check(c, session)?;
    let now = millis(clock.now());
    let filter = Filter::of(wanted);
    let share = share_of_new(limit, turn);
    let new = filter.find(c, wanted, true, now, limit)?;
    let begun = filter.find(c, wanted, false, now, limit - share.min(new.len()).min(limit))?;
    let room = limit - begun.len();
    let size = |run: &Taken| run.bytes_to_read(c);
    let mut fitting = that_fit(begun, new.into_iter().take(room), share, size)?;
    for run in &mut fitting.runs {
        run.take(c, session)?;
    }
    fitting.more |= fitting.runs.len() == limit;
    Ok(fitting)
}

/// Reads a run that was claimed, and looks whether it is what it was left as.
pub(super) fn open(c: &Connection, taken: &Taken, place: &str) -> Result<Opened> {
    let damaged = |reason: String| {
        let reason = format!("the journal of {}: {reason}", taken.run);
        Fault::Refused(StoreError::Damaged { place: place.to_owned(), reason })
    };
    let odd = |reason: &str| {
        let reason = format!("what is kept of {}: {reason}", taken.run);
        Fault::Refused(StoreError::Damaged { place: place.to_owned(), reason })
    };
    let known = taken.known.as_ref().map_err(|reason| odd(reason))?;
    check_epoch(taken.epoch).map_err(|reason| odd(&reason))?;
    let (rows, last) = journal::whole(c, taken.id)?;
    check_rows(&rows, known.was, known.head.map(Digest)).map_err(damaged)?;
    Ok(Opened {
        run: taken.run.clone(),
        session: SessionId(taken.session.unwrap_or_default() as u64),
        epoch: taken.epoch,
        starts: known.starts,
        module: known.module,
        emissions: known.emissions,
        given: known.given,
        rows,
        place: last,
        inbox: read::inbox(c, taken.id, Part::Next)?,
        project: known.project.clone(),
        imported: known.imported,
        was: known.was,
        waited: known.waited.clone(),
        trouble: known.trouble.clone(),
        outcome: known.outcome.clone(),
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
        .execute(params![run.as_str(), session.0 as i64, stored(epoch.0), starts])?;
    Ok(())
}
