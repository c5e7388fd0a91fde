//! Runs that begin at certain times.

use rusqlite::{Connection, params};
use wfhost_core::{RunId, Timestamp};

use super::inbox::{deliver, latest_round};
use super::write::{Fault, Result, check_new, insert_run, millis, to_json};
use crate::schedule::Schedule;
use crate::{Clock, Fire, MessageBody, OVERTAKEN, StoreError};

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
    // What it has begun stays known of one that is replaced.
    c.prepare_cached(
        "INSERT INTO schedules (name, times, overlap, catch_up, workflow, module, input, labels,
                                config, created_at, next_at, fired, last)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (name) DO UPDATE SET times = excluded.times, overlap = excluded.overlap,
             catch_up = excluded.catch_up, workflow = excluded.workflow, module = excluded.module,
             input = excluded.input, labels = excluded.labels, config = excluded.config,
             created_at = excluded.created_at, next_at = excluded.next_at",
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
        millis(schedule.created_at),
        schedule.next_at.map(millis),
        schedule.fired as i64,
        schedule.last.as_ref().map(RunId::as_str),
    ])?;
    Ok(true)
}

pub(super) fn set_schedule(c: &Connection, name: &str, next: Option<Timestamp>) -> Result<bool> {
    let changed = c
        .prepare_cached("UPDATE schedules SET next_at = ?2 WHERE name = ?1")?
        .execute(params![name, next.map(millis)])?;
    Ok(changed > 0)
}

pub(super) fn delete_schedule(c: &Connection, name: &str) -> Result<bool> {
    Ok(c.prepare_cached("DELETE FROM schedules WHERE name = ?1")?.execute([name])? > 0)
}

pub(super) fn fire(c: &Connection, fire: &Fire, clock: &dyn Clock) -> Result<bool> {
    let due = c
        .prepare_cached("SELECT 1 FROM schedules WHERE name = ?1 AND next_at = ?2")?
        .exists(params![fire.schedule, millis(fire.due)])?;
    if !due {
        return Ok(false);
    }
    if let Some(run) = &fire.run {
        check_new(c, &run.id, run.module)?;
        insert_run(c, run, clock)?;
    }
    // It may have continued since it was looked at.
    if let Some(run) = &fire.cancel
        && let Some(latest) = latest_round(c, run.as_str())?
    {
        deliver(c, &latest, clock.now(), &MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) })?;
    }
    let run = fire.run.as_ref().map(|run| run.id.as_str());
    c.prepare_cached(
        "UPDATE schedules SET next_at = ?2, fired = fired + (?3 NOT NULL), last = ifnull(?3, last)
         WHERE name = ?1",
    )?
    .execute(params![fire.schedule, fire.next.map(millis), run])?;
    Ok(true)
}
