//! Everything out of a file, and into an empty one.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Row as SqlRow, ToSql};

use super::{SqliteStore, classify, connect};
use crate::copy::{BEYOND_PLACES, Batch, Cell, Gather, Part, TABLES, Table, cut_short};
use crate::{Result, StoreError};

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Int(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

fn cell(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Cell> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        ValueRef::Real(_) => return Err(rusqlite::Error::IntegralValueOutOfRange(column, 0)),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cell::Text(text.to_owned()),
            Err(error) => {
                let kind = rusqlite::types::Type::Text;
                return Err(rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error)));
            }
        },
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    })
}

/// Where the rows of a table are here, what their columns are called, and which belong to it.
fn source(table: &Table) -> (&'static str, fn(&'static str) -> &'static str, &'static str) {
    fn same(column: &'static str) -> &'static str {
        column
    }
    match table.name {
        "store" => (
            "identity",
            |column| match column {
                "identity" => "id",
                "place" => "(SELECT ifnull(max(id), 0) FROM commits)",
                other => other,
            },
            "",
        ),
        "runs" => (
            "runs",
            |column| match column {
                "run" => "id",
                // Whoever had it is not in the copy.
                "due_at" => "iif(session IS NULL, due_at, 0)",
                other => other,
            },
            "",
        ),
        // The last place of all may be kept by a row that belongs to no run any more.
        "journal" => ("commits", |column| if column == "place" { "id" } else { column }, " WHERE run <> 0"),
        name => (name, same, ""),
    }
}

fn select(table: &Table) -> String {
    let (from, name, condition) = source(table);
    let columns: Vec<_> = table.columns.iter().map(|(column, _)| name(column)).collect();
    let order: Vec<_> = table.order.split(", ").map(name).collect();
    format!("SELECT {} FROM {from}{condition} ORDER BY {}", columns.join(", "), order.join(", "))
}

fn insert(table: &Table) -> String {
    if table.name == "store" {
        // The place is kept by the commits.
        return "INSERT INTO identity (id, secret) SELECT ?1, ?2 WHERE ?3 NOT NULL".to_owned();
    }
    let (into, name, _) = source(table);
    let mut columns: Vec<_> = table
        .columns
        .iter()
        .map(|(column, _)| if *column == "due_at" { "due_at" } else { name(column) })
        .collect();
    let mut values: Vec<_> = (1..=columns.len()).map(|number| format!("?{number}")).collect();
    match table.name {
        "journal" => {
            // The first commit of a run within a block of places is the one that is found by an index.
            columns.push("first");
            values.push(
                "iif((SELECT max(id) FROM commits WHERE run = ?2 AND id BETWEEN ?1 / 32 * 32 AND ?1) IS NULL, 1, NULL)"
                    .to_owned(),
            );
        }
        "deleted" => {
            columns.push("at");
            values.push("unixepoch() * 1000".to_owned());
        }
        _ => {}
    }
    format!("INSERT INTO {into} ({}) VALUES ({})", columns.join(", "), values.join(", "))
}

impl SqliteStore {
    /// Gives all that there is, as it is at one moment, as long as `give` says that it is wanted. It blocks.
    pub fn copy_out(&self, give: &mut dyn FnMut(Part) -> bool) -> Result<()> {
        let failed = |error| classify(&self.path, error);
        let c = connect(Path::new(&self.path)).map_err(failed)?;
        c.execute_batch("BEGIN").map_err(failed)?;
        for (number, table) in TABLES.iter().enumerate() {
            let mut gather = Gather::of(number);
            let mut statement = c.prepare(&select(table)).map_err(failed)?;
            let mut rows = statement.query([]).map_err(failed)?;
            while let Some(row) = rows.next().map_err(failed)? {
                let cells = (0..table.columns.len()).map(|column| cell(row, column));
                let cells = cells.collect::<rusqlite::Result<_>>().map_err(failed)?;
                if gather.add(cells).is_some_and(|part| !give(part)) {
                    return Ok(());
                }
            }
            if gather.take().is_some_and(|part| !give(part)) {
                return Ok(());
            }
        }
        give(Part::End);
        Ok(())
    }

    /// Takes all that another store has, in one transaction. [`StoreError::NotEmpty`] if anything is here. It blocks.
    pub fn copy_in(&self, take: &mut dyn FnMut() -> Option<Part>) -> Result<()> {
        let failed = |error| classify(&self.path, error);
        let c = connect(Path::new(&self.path)).map_err(failed)?;
        c.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let copied = self.copy_within(&c, take);
        let end = if copied.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = c.execute_batch(end).map_err(failed);
        copied.and(ended)
    }

    fn copy_within(&self, c: &Connection, take: &mut dyn FnMut() -> Option<Part>) -> Result<()> {
        let failed = |error| classify(&self.path, error);
        for table in TABLES.iter().filter(|table| table.name != "store") {
            let (from, ..) = source(table);
            let any = c.prepare(&format!("SELECT 1 FROM {from}")).and_then(|mut all| all.exists([]));
            if any.map_err(failed)? {
                return Err(StoreError::NotEmpty { place: self.path.clone() });
            }
        }
        c.execute("DELETE FROM identity", []).map_err(failed)?;
        let mut last = 0;
        loop {
            let Batch { table, rows } = match take() {
                Some(Part::Rows(batch)) => batch,
                Some(Part::End) => break,
                None => return Err(cut_short(&self.path)),
            };
            let table = &TABLES[table];
            if let ("store", Some(place)) = (table.name, table.column("place")) {
                let told = rows.iter().filter_map(|row| match row[place] {
                    Cell::Int(last) => Some(last),
                    _ => None,
                });
                last = told.max().unwrap_or(0).min(BEYOND_PLACES);
            }
            let mut statement = c.prepare_cached(&insert(table)).map_err(failed)?;
            for row in rows {
                statement.execute(rusqlite::params_from_iter(row)).map_err(failed)?;
            }
        }
        // Whoever has read all goes on behind that, and finds what is committed here: so the last place is kept as when
        // the run of the last commit is deleted.
        c.execute(
            "INSERT INTO commits (id, run, seq, count, at, first, head, body)
             SELECT last, 0, last, 0, 0, 1, zeroblob(32), x'' FROM (
                 SELECT max(?1, ifnull((SELECT max(place) FROM cursors WHERE place < ?2), 0)) AS last)
             WHERE last > ifnull((SELECT max(id) FROM commits), 0)",
            [last, BEYOND_PLACES],
        )
        .map_err(failed)?;
        c.execute_batch(
            "INSERT OR IGNORE INTO labels SELECT l.value ->> 0, l.value ->> 1, r.id
             FROM runs r, json_each(r.labels) l WHERE r.labels <> '[]'",
        )
        .map_err(failed)
    }
}
