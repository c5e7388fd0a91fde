//! The format of a database: whose it is, and how it is brought to that of now.

use rusqlite::Connection;
use wfhost_core::{Digest, Given, Journal, Machine, Position, Row};

use super::errors::classify;
use super::{write, writer};
use crate::{Result, StoreError};

/// `wfho`, which tells our files from other programs'.
pub(super) const APPLICATION_ID: i32 = 0x7766_686f;
/// Numbered migrations: the n-th makes format n of format n - 1.
pub(super) const MIGRATIONS: [&str; 10] = [
    include_str!("schema.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
    include_str!("schema-6.sql"),
    include_str!("schema-7.sql"),
    include_str!("schema-8.sql"),
    include_str!("schema-9.sql"),
    include_str!("schema-10.sql"),
];

/// Refuses a file that is not ours before anything is changed in it: with the first connection it comes to have a
/// write-ahead log, which it keeps, and which other programs may not expect.
pub(super) fn look_first(connection: &Connection, path: &str) -> Result<()> {
    let mut tries = 0;
    loop {
        let mode = connection.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0));
        let known = match mode {
            Ok(mode) if mode == "wal" => Ok(()),
            Ok(_) => format_now(connection, path).map(drop),
            Err(error) => Err(classify(path, error)),
        };
        match known {
            // Another process makes it one of ours at this moment.
            Err(StoreError::Locked { .. }) if writer::wait_for_turn(tries) => tries += 1,
            known => return known,
        }
    }
}

pub(super) fn check_format(connection: &Connection, path: &str) -> Result<()> {
    let failed = |error| classify(path, error);
    let known = MIGRATIONS.len() as u32;
    if format_now(connection, path)? == known {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let migrate = || -> Result<()> {
        // Another process may have been quicker.
        let format = known_format(connection, path)?;
        for to in format + 1..=known {
            connection.execute_batch(MIGRATIONS[to as usize - 1]).map_err(failed)?;
            // Earlier versions of format 4 left this to `db check --repair`.
            if to == 6 && (1..4).contains(&format) {
                fill_ledgers(connection).map_err(failed)?;
            }
        }
        connection.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        connection.pragma_update(None, "user_version", known).map_err(failed)
    };
    match migrate() {
        Ok(()) => connection.execute_batch("COMMIT").map_err(failed),
        Err(error) => {
            // The first error is the one to report.
            let _ = connection.execute_batch("ROLLBACK");
            Err(error)
        }
    }
}

/// The format of a database that is ours and that this version knows; 0 of one that is empty.
fn known_format(connection: &Connection, path: &str) -> Result<u32> {
    let failed = |error| classify(path, error);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i32>(0)).map_err(failed);
    let (format, known) = (number("PRAGMA user_version")? as u32, MIGRATIONS.len() as u32);
    let foreign = match format {
        0 => number("SELECT count(*) FROM sqlite_schema")? > 0,
        _ => number("PRAGMA application_id")? != APPLICATION_ID,
    };
    if foreign {
        return Err(StoreError::Foreign { place: path.to_owned() });
    }
    if format > known {
        return Err(StoreError::Newer { place: path.to_owned(), found: format, known });
    }
    Ok(format)
}

/// The same, of one moment: another process may bring it to another format.
fn format_now(connection: &Connection, path: &str) -> Result<u32> {
    connection.execute_batch("BEGIN").map_err(|error| classify(path, error))?;
    let format = known_format(connection, path);
    // Nothing was changed, and the first error is the one to report.
    let _ = connection.execute_batch("ROLLBACK");
    format
}

/// Fills in what the runs of a database of format 6 have spent and may spend, from their journals.
fn fill_ledgers(c: &Connection) -> rusqlite::Result<()> {
    let runs = c
        .prepare("SELECT id, emissions FROM runs")?
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (run, emissions) in runs {
        let rows = c
            .prepare_cached("SELECT seq, count, body, head FROM journal WHERE run = ?1 ORDER BY seq")?
            .query_map([run], |row| {
                Ok(Row {
                    first: Position(row.get::<_, i64>(0)? as u64),
                    count: row.get(1)?,
                    bytes: row.get(2)?,
                    head: Digest(row.get(3)?),
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        // One that is damaged is told of when it is opened.
        let Ok(journal) = Journal::read(rows) else { continue };
        let Ok(machine) = Machine::open(journal, Given::Counted(emissions as u64)) else { continue };
        let spent = machine.spent_itself();
        c.prepare_cached("UPDATE runs SET tokens = ?2, micros = ?3, budget = ?4 WHERE id = ?1")?.execute(
            rusqlite::params![
                run,
                spent.tokens as i64,
                spent.micros as i64,
                write::budget_bytes(machine.budget())
            ],
        )?;
    }
    Ok(())
}
