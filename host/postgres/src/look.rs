//! Looking at a server and its tables without changing them.

use std::time::{Duration, Instant};

use tokio_postgres::Row as SqlRow;
use wfhost_store::{Clock, Result, StoreError, SystemClock};

use crate::args::{Columns, Read, Strange, args_of, strange};
use crate::format::{Formats, found};
use crate::pool::Pool;
use crate::{PostgresOptions, PostgresStore, notify, pool};

/// What a server says of itself, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// The URL without its password.
    pub place: String,
    /// Like `15.18`.
    pub version: String,
    /// None if the user may not look at them.
    pub formats: Option<Formats>,
    pub encrypted: bool,
    /// How long a question and its answer take.
    pub round_trip: Duration,
    /// By how much the server's clock is ahead of this machine's, in milliseconds.
    pub ahead_ms: i64,
    /// Connections that it takes, and that there are.
    pub connections: (u32, u32),
    /// Whether one connection hears what another one says; not so behind a pooler, where hosts look more often.
    pub hears: bool,
    /// What the user may not do that hosts have to.
    pub missing_rights: Vec<String>,
    /// What one should know though nothing is wrong.
    pub notes: Vec<String>,
}

/// What hosts have to be allowed, as SQL that is true if they are not, for the schema $1.
const RIGHTS: &str = "
    SELECT 'use the schema ' || nspname FROM pg_catalog.pg_namespace
        WHERE nspname = $1 AND NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT lower(p) || ' rows of ' || c.relname FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
        WHERE n.nspname = $1 AND c.relkind = 'r' AND NOT has_table_privilege(c.oid, p)
    UNION ALL
    SELECT 'call ' || p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = $1 AND NOT has_function_privilege(p.oid, 'EXECUTE')
    UNION ALL
    SELECT 'create the schema ' || $1::text
        WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)
          AND NOT has_database_privilege(current_database(), 'CREATE')";

/// What can be wrong with tables besides journals: a name, and SQL that gives what is.
const CHECKS: [(&str, &str); 8] = [
    (
        "the run has no state",
        "SELECT r.name FROM wf.runs r LEFT JOIN wf.hot h ON h.run = r.run WHERE NOT r.gone AND h.run IS NULL",
    ),
    (
        "the state belongs to no run",
        "SELECT h.run::text FROM wf.hot h LEFT JOIN wf.runs r ON r.run = h.run AND NOT r.gone WHERE r.run IS NULL",
    ),
    (
        "the run belongs to a session that does not exist",
        "SELECT r.name FROM wf.hot h JOIN wf.runs r ON r.run = h.run
         WHERE h.session IS NOT NULL AND NOT EXISTS (SELECT 1 FROM wf.sessions s WHERE s.id = h.session)",
    ),
    (
        "no host owns the run or will claim it: it is neither due nor waiting",
        "SELECT r.name FROM wf.hot h JOIN wf.runs r ON r.run = h.run
         WHERE h.session IS NULL AND h.due_at IS NULL AND h.state IN (0, 1)",
    ),
    (
        "the run waits for something that is in its inbox, but is not due",
        "SELECT r.name FROM wf.hot h JOIN wf.runs r ON r.run = h.run
         WHERE h.session IS NULL AND h.due_at IS NULL AND h.state = 2 AND EXISTS (SELECT 1 FROM wf.inbox i
             WHERE i.run = h.run AND (i.kind <> 'signal' OR i.name = ANY (h.wait_for)))",
    ),
    (
        "entries belong to no run",
        "SELECT DISTINCT j.run::text FROM wf.journal j WHERE NOT EXISTS (
             SELECT 1 FROM wf.runs r WHERE r.run = j.run AND NOT r.gone)",
    ),
    (
        "the session has no lanes",
        "SELECT s.id::text FROM wf.sessions s WHERE NOT EXISTS (SELECT 1 FROM wf.lanes l WHERE l.session = s.id)",
    ),
    (
        "the index is not valid",
        "SELECT c.relname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
         JOIN pg_catalog.pg_class r ON r.oid = 'wf.runs'::regclass AND r.relnamespace = c.relnamespace
         WHERE NOT i.indisvalid",
    ),
];
/// Of each kind, so many are named.
const NAMED: i64 = 20;

impl PostgresStore {
    /// Looks at a server without changing anything. To be called within a runtime of tokio.
    pub async fn look(url: &str, options: &PostgresOptions) -> Result<Server> {
        let pool = pool(url, options)?;
        let damaged = |strange: Strange| StoreError::Damaged {
            place: pool.connector.url.place.clone(),
            reason: strange.0,
        };
        let missing_rights = missing_rights(&pool).await?;
        let formats = match found(&pool).await {
            Ok(formats) => Some(formats),
            Err(StoreError::Refused { .. }) if !missing_rights.is_empty() => None,
            Err(error) => return Err(error),
        };
        let sql = "SELECT current_setting('server_version'),
                coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false),
                current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
                (SELECT count(*) FROM pg_catalog.pg_stat_replication),
                current_setting('max_connections')::int8,
                (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')";
        let rows = pool.read_anew(sql, &|| Vec::new()).await?;
        let row = rows.first().ok_or_else(|| damaged(strange("the server")))?;
        let text = |column| row.text(column).map_err(damaged);
        let number = |column| row.int(column).map_err(damaged);
        let mut notes = Vec::new();
        if text(2)? == "off" {
            notes.push(
                "its `synchronous_commit` is off: a crash of the server loses the last commits".to_owned(),
            );
        }
        if text(3)?.is_empty() && number(4)? > 0 {
            notes.push(
                "its standbys are not synchronous: a failover can lose the last commits, which runs then repeat"
                    .to_owned(),
            );
        }
        let encrypted: bool = row.value(1).map_err(damaged)?;
        if !encrypted && !pool.connector.url.place.contains("@%2F") {
            notes.push("the connection is not encrypted".to_owned());
        }
        let (round_trip, ahead_ms) = clock(&pool).await?;
        let hears = pool.connector.url.listen && notify::hears(&pool).await?;
        let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Server {
            place: pool.connector.url.place.clone(),
            version: text(0)?.split(' ').next().unwrap_or_default().to_owned(),
            formats,
            encrypted,
            round_trip,
            ahead_ms,
            connections: (count(number(5)?), count(number(6)?)),
            hears,
            missing_rights,
            notes,
        })
    }

    /// What is wrong with the tables, besides the journals; empty if nothing is.
    pub async fn check(&self) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        for (fault, sql) in CHECKS {
            let sql = format!("{sql} LIMIT {NAMED}");
            // Each reads a whole table.
            let rows = self.pool.read_at_leisure(&sql, &|| Vec::new()).await?;
            let names = self.all(&rows, |row| row.text(0))?;
            faults.extend(names.into_iter().map(|name| format!("{name}: {fault}")));
        }
        Ok(faults)
    }
}

/// The best of some round trips, and by how much the server's clock is ahead in it.
async fn clock(pool: &Pool) -> Result<(Duration, i64)> {
    let mut best = (Duration::MAX, 0);
    for _ in 0..5 {
        let (asked, here) = (Instant::now(), SystemClock.now());
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        let rows = pool.read_anew(sql, &|| Vec::new()).await?;
        let took = asked.elapsed();
        let there = rows.first().and_then(|row| row.int(0).ok()).unwrap_or_default();
        let here = i64::try_from(here.0).unwrap_or(i64::MAX) + took.as_millis() as i64 / 2;
        if took < best.0 {
            best = (took, there - here);
        }
    }
    Ok(best)
}

async fn missing_rights(pool: &Pool) -> Result<Vec<String>> {
    let schema = pool.connector.url.schema.as_str();
    let read = |row: &SqlRow| -> Read<String> { row.text(0) };
    let rows = pool.read_anew(RIGHTS, &|| args_of![schema]).await?;
    rows.iter()
        .map(read)
        .collect::<Read<_>>()
        .map_err(|strange| StoreError::Damaged { place: pool.connector.url.place.clone(), reason: strange.0 })
}
