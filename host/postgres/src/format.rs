//! The format of the tables, and how they come to have it.
//!
//! Migrations only add: hosts of an earlier version go on while later ones begin. What they call has the number of
//! its format in its name and stays.

use tokio_postgres::Row;
use wfhost_store::StoreError;

use crate::args::{Columns, args_of};
use crate::connect::{Conn, Identity, UNHURRIED, in_schema, query};
use crate::errors::{Fault, classify};
use crate::pool::Pool;

/// The n-th makes format n of format n - 1.
const MIGRATIONS: [&[&str]; 5] = [
    &[include_str!("schema-1.sql"), include_str!("functions-1.sql")],
    // Functions only.
    &[include_str!("appends.sql")],
    &[include_str!("schema-3.sql")],
    &[include_str!("schema-4.sql")],
    &[include_str!("schema-5.sql")],
];

/// The newest format.
pub(crate) const FORMAT: i32 = MIGRATIONS.len() as i32;

/// Numbers of transactions of another server, or places of a file: places have to grow all the same, also beyond those
/// that somebody has read whose runs were deleted. No place is greater than 2^62.
pub(crate) const PLACES_GROW: &str = "
    WITH p AS (SELECT greatest((SELECT max(place) FROM wf.journal),
        (SELECT max(place) FROM wf.cursors WHERE place < 4611686018427387904), 0) >> 20 AS last)
    UPDATE wf.meta SET xid_base = greatest(xid_base, p.last + 1 - pg_current_xact_id()::text::int8)
    FROM p WHERE p.last >= pg_current_xact_id()::text::int8 + xid_base";

/// Whether the server has come to numbers of transactions that are smaller than those of places, as when a dump was
/// restored on another one: of the run that was begun last and of what was read, and of all. The first look takes no
/// time.
const BEHIND: [&str; 2] = [
    "SELECT coalesce(greatest((SELECT place FROM wf.journal ORDER BY run DESC, seq DESC LIMIT 1),
            (SELECT max(place) FROM wf.cursors WHERE place < 4611686018427387904))
        >= (pg_snapshot_xmax(pg_current_snapshot())::text::int8 + m.xid_base) << 20, false) FROM wf.meta m",
    "SELECT EXISTS (SELECT 1 FROM wf.journal WHERE place
        >= (SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::int8 + m.xid_base) << 20 FROM wf.meta m))",
];

/// Has places grow, if the server is behind them. `all`: also if that takes a longer look.
pub(crate) async fn catch_up(pool: &Pool, all: bool) -> Result<(), StoreError> {
    for behind in &BEHIND[..if all { 2 } else { 1 }] {
        let rows = pool.read(behind, &|| Vec::new()).await?;
        if rows.first().is_some_and(|row| row.value::<bool>(0).unwrap_or_default()) {
            pool.write(PLACES_GROW, &|| Vec::new()).await?;
        }
    }
    Ok(())
}

/// What is to be done if the tables are not there, or are of an earlier format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migrate {
    /// They are made.
    Yes,
    /// It is an error.
    No,
}

/// What a database has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Formats {
    /// The format of the tables; none if there are no tables.
    pub found: Option<u32>,
    pub newest: u32,
}

/// Reads the format.
pub(crate) async fn found(pool: &Pool) -> Result<Formats, StoreError> {
    let found = pool.with(async |conn| meta(pool, conn).await).await.map_err(Fault::into_error)?;
    let found =
        found.map(|row| row.value::<i32>(0)).transpose().map_err(|strange| damaged(pool, strange.0))?;
    Ok(Formats { found: found.map(|format| format as u32), newest: FORMAT as u32 })
}

fn damaged(pool: &Pool, reason: String) -> StoreError {
    StoreError::Damaged { place: pool.connector.url.place.clone(), reason }
}

/// The row about the tables, if they are there.
async fn meta(pool: &Pool, conn: &Conn) -> Result<Option<Row>, Fault> {
    let url = &pool.connector.url;
    let failed = |error| classify(&url.place, &error);
    let sql =
        "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'meta'),
                      EXISTS (SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1)";
    let rows = query(conn, sql, args_of![url.schema.as_str()]).await.map_err(failed)?;
    let flag = |column| rows.first().and_then(|row| row.value::<bool>(column).ok()).unwrap_or_default();
    if !flag(0) {
        return match flag(1) {
            true => Err(Fault::Refused(StoreError::Foreign { place: url.place.clone() })),
            false => Ok(None),
        };
    }
    let sql = in_schema("SELECT format, oldest_host, store FROM wf.meta", &url.schema);
    let rows = query(conn, &sql, Vec::new()).await.map_err(failed)?;
    Ok(rows.into_iter().next())
}

/// Brings the tables to the newest format, if this is allowed, and tells which store it is.
pub(crate) async fn prepare(pool: &Pool, migrate: Migrate) -> Result<Identity, StoreError> {
    let mut tries = 0;
    loop {
        let prepared = pool.with(async |conn| prepare_with(pool, conn, migrate).await).await;
        match prepared {
            Err(Fault::Again(_)) if tries < 20 => {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            Ok(identity) => {
                catch_up(pool, false).await?;
                return Ok(identity);
            }
            Err(fault) => return Err(fault.into_error()),
        }
    }
}

async fn prepare_with(pool: &Pool, conn: &Conn, migrate: Migrate) -> Result<Identity, Fault> {
    let url = &pool.connector.url;
    let place = url.place.clone();
    let failed = |error| classify(&url.place, &error);
    let mut row = meta(pool, conn).await?;
    let format = |row: &Option<Row>| row.as_ref().map_or(Ok(0), |row| row.value::<i32>(0));
    let strange = |strange: crate::args::Strange| Fault::Refused(damaged(pool, strange.0));
    if format(&row).map_err(strange)? < FORMAT {
        if migrate == Migrate::No {
            let found = format(&row).map_err(strange)? as u32;
            return Err(Fault::Refused(match row {
                None => StoreError::NoTables { place },
                Some(_) => StoreError::Older { place, found, known: FORMAT as u32 },
            }));
        }
        // What is made anew of large tables takes its time.
        let begin = format!("BEGIN; SET LOCAL lock_timeout = '2s'; {UNHURRIED}");
        conn.client.batch_execute(&begin).await.map_err(failed)?;
        let migrated = migrate_locked(pool, conn).await;
        // What a commit says is believed only if nothing failed before: that of a failed one succeeds as well.
        let end = if migrated.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = conn.client.batch_execute(end).await.map_err(failed);
        migrated.and(ended)?;
        row = meta(pool, conn).await?;
    }
    let Some(row) = row else {
        return Err(Fault::Refused(damaged(pool, "its tables do not declare their format".to_owned())));
    };
    let oldest: i32 = row.value(1).map_err(strange)?;
    if oldest > FORMAT {
        return Err(Fault::Refused(StoreError::Newer { place, found: oldest as u32, known: FORMAT as u32 }));
    }
    Ok(Identity { store: row.text(2).map_err(strange)? })
}

async fn migrate_locked(pool: &Pool, conn: &Conn) -> Result<(), Fault> {
    let url = &pool.connector.url;
    let failed = |error| classify(&url.place, &error);
    // One at a time; a second process finds it done.
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('wfhost migrate ' || $1, 0))";
    query(conn, lock, args_of![url.schema.as_str()]).await.map_err(failed)?;
    let row = meta(pool, conn).await?;
    let strange = |strange: crate::args::Strange| Fault::Refused(damaged(pool, strange.0));
    let from: i32 = row.as_ref().map_or(Ok(0), |row| row.value(0)).map_err(strange)?;
    if from == 0 {
        let sql = format!("CREATE SCHEMA IF NOT EXISTS \"{}\"", url.schema);
        conn.client.batch_execute(&sql).await.map_err(failed)?;
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)).flat_map(|parts| parts.iter())
    {
        conn.client.batch_execute(&in_schema(migration, &url.schema)).await.map_err(failed)?;
    }
    if from == 0 {
        // Small rows are read more often than large ones are written.
        let lz4 = "SELECT 1 FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression'
                   AND 'lz4' = ANY (enumvals)";
        if !query(conn, lz4, Vec::new()).await.map_err(failed)?.is_empty() {
            let sql = "ALTER TABLE wf.journal ALTER body SET COMPRESSION lz4;
                       ALTER TABLE wf.transcripts ALTER text SET COMPRESSION lz4;
                       ALTER TABLE wf.logs ALTER message SET COMPRESSION lz4;
                       ALTER TABLE wf.published ALTER value SET COMPRESSION lz4;
                       ALTER TABLE wf.inbox ALTER text SET COMPRESSION lz4";
            conn.client.batch_execute(&in_schema(sql, &url.schema)).await.map_err(failed)?;
        }
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|error| Fault::Refused(damaged(pool, error.to_string())))?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut secret = vec![0; 32];
        getrandom::fill(&mut secret).map_err(|error| Fault::Refused(damaged(pool, error.to_string())))?;
        let sql = in_schema(
            "INSERT INTO wf.meta (format, oldest_host, store, secret, xid_base) VALUES ($1, 1, $2, $3, 0)",
            &url.schema,
        );
        query(conn, &sql, args_of![FORMAT, id, secret]).await.map_err(failed)?;
    } else {
        let sql = in_schema("UPDATE wf.meta SET format = $1", &url.schema);
        query(conn, &sql, args_of![FORMAT]).await.map_err(failed)?;
    }
    query(conn, &in_schema(PLACES_GROW, &url.schema), Vec::new()).await.map_err(failed)?;
    Ok(())
}
