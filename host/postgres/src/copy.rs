//! Everything out of a schema, and into an empty one.

use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::{ToSql, Type};
use wfhost_store::copy::{BEYOND_PLACES, Batch, Cell, Gather, Kind, Part, TABLES, Table, cut_short};
use wfhost_store::{Result, RunState, StoreError};

use crate::PostgresStore;
use crate::args::{Arg, Columns, IntoArg, Read, escaped, plain, strange};
use crate::connect::{Conn, UNHURRIED, query};
use crate::errors::classify;
use crate::jobs::label_key;

/// Values for the columns of one kind.
type Texts = Vec<Option<String>>;

/// A state by its number, as SQL.
fn states() -> String {
    let names: Vec<_> = RunState::ALL.iter().map(|state| format!("'{}'", state.as_str())).collect();
    format!("ARRAY[{}]", names.join(", "))
}

/// The column of the table of states, of those of runs.
const HOT: [&str; 21] = [
    "epoch",
    "emissions",
    "starts",
    "troubles",
    "stopping",
    "state",
    "due_at",
    "wait_until",
    "parked_at",
    "people",
    "tokens",
    "micros",
    "updated_at",
    "head",
    "given",
    "outcome",
    "wait_for",
    "trouble",
    "phase",
    "session",
    "run",
];

fn select(table: &Table) -> String {
    let of_runs = |column: &str| if HOT.contains(&column) { "h." } else { "r." };
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|(column, kind)| {
            let prefix = if table.name == "runs" { of_runs(column) } else { "" };
            match (table.name, *column) {
                ("store", "identity") => "store".to_owned(),
                // Those of all transactions that have ended are smaller.
                ("store", "place") => "greatest((SELECT max(place) FROM wf.journal),
                    ((pg_snapshot_xmin(pg_current_snapshot())::text::int8 + xid_base) << 20) - 1)"
                    .to_owned(),
                ("runs", "state") => format!("({})[h.state + 1]", states()),
                ("runs", "wait_for") => "array_to_json(h.wait_for)::text".to_owned(),
                // Whoever had it is not in the copy.
                ("runs", "due_at") => "CASE WHEN h.session IS NULL THEN h.due_at ELSE 0 END".to_owned(),
                _ if *kind == Kind::Int => format!("{prefix}{column}::int8"),
                _ if *kind == Kind::Flag => format!("{prefix}{column}::int4::int8"),
                _ => format!("{prefix}{column}"),
            }
        })
        .collect();
    let (from, order) = match table.name {
        "store" => ("wf.meta", "1"),
        "runs" => ("wf.runs r JOIN wf.hot h ON h.run = r.run WHERE NOT r.gone", "r.run"),
        "deleted" => ("wf.runs WHERE gone", "name"),
        _ => ("", table.order),
    };
    let own = format!("wf.{}", table.name);
    let from = if from.is_empty() { own.as_str() } else { from };
    format!("SELECT {} FROM {from} ORDER BY {order}", columns.join(", "))
}

/// Rows are arrays, one for each column.
fn insert(table: &Table) -> String {
    let names: Vec<_> = table.columns.iter().map(|(column, _)| *column).collect();
    let arrays = (1..).zip(table.columns).map(|(number, (_, kind))| {
        let kind = match kind {
            Kind::Int | Kind::Flag => "int8",
            Kind::Text => "text",
            Kind::Bytes => "bytea",
        };
        format!("${number}::{kind}[]")
    });
    let rows = format!("unnest({}) AS a({})", arrays.collect::<Vec<_>>().join(", "), names.join(", "));
    let value = |column: &str, kind: Kind| match (table.name, column) {
        ("runs", "state") => format!("array_position({}, a.state) - 1", states()),
        ("runs", "wait_for") => "CASE WHEN a.wait_for IS NOT NULL THEN
            ARRAY(SELECT jsonb_array_elements_text(a.wait_for::jsonb)) END"
            .to_owned(),
        _ if kind == Kind::Flag => format!("a.{column} <> 0"),
        _ => format!("a.{column}"),
    };
    let into = |name: &str, wanted: &dyn Fn(&str) -> bool| {
        let columns = table.columns.iter().filter(|(column, _)| wanted(column));
        let (columns, values): (Vec<_>, Vec<_>) =
            columns.map(|(column, kind)| (*column, value(column, *kind))).unzip();
        format!(
            "INSERT INTO wf.{name} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM a",
            columns.join(", "),
            values.join(", ")
        )
    };
    match table.name {
        // Places of later transactions are greater than all that were there.
        "store" => format!(
            "UPDATE wf.meta SET store = a.identity, secret = a.secret, xid_base = greatest(xid_base,
                 (least(a.place, {BEYOND_PLACES}) >> 20) + 1 - pg_current_xact_id()::text::int8) FROM {rows}"
        ),
        "runs" => format!(
            "WITH a AS MATERIALIZED (SELECT * FROM {rows}), r AS ({}) {}",
            into("runs", &|column| column == "run" || !HOT.contains(&column)),
            into("hot", &|column| HOT.contains(&column))
        ),
        "deleted" => format!(
            "INSERT INTO wf.runs (name, gone, imported, workflow, module, root, created_at, labels)
             SELECT a.name, true, false, '', '', '', 0, '[]' FROM {rows}"
        ),
        "modules" => format!(
            "INSERT INTO wf.modules (digest, name, added_at, bytes, length)
             SELECT a.digest, a.name, a.added_at, a.bytes, octet_length(a.bytes) FROM {rows}"
        ),
        name => format!("WITH a AS MATERIALIZED (SELECT * FROM {rows}) {}", into(name, &|_| true)),
    }
}

/// What numbers rows, which goes on behind what was copied.
const SEQUENCES: [(&str, &str); 5] =
    [("runs", "run"), ("inbox", "id"), ("transcripts", "id"), ("audit", "id"), ("deliveries", "id")];

impl PostgresStore {
    /// Gives all that there is, as it is at one moment.
    pub async fn copy_out(&self, give: mpsc::Sender<Part>) -> Result<()> {
        let conn = self.pool.connector.connect(None).await?;
        self.run(&conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        // A table is one statement, which lasts until the last row is taken, and whoever takes it may be slow.
        self.run(&conn, UNHURRIED).await?;
        for (number, table) in TABLES.iter().enumerate() {
            let failed = |error| classify(self.place(), &error).into_error();
            let none: [(&(dyn ToSql + Sync), Type); 0] = [];
            let rows = conn.client.query_typed_raw(&self.pool.sql(&select(table)), none).await;
            let mut rows = std::pin::pin!(rows.map_err(failed)?);
            let mut gather = Gather::of(number);
            // The server sends no more of them than are taken here, however large they are.
            while let Some(row) = rows.try_next().await.map_err(failed)? {
                let cells = cells(table, &row).map_err(|strange| self.damaged(strange))?;
                // Whoever takes no more says why.
                if let Some(batch) = gather.add(cells)
                    && give.send(batch).await.is_err()
                {
                    return Ok(());
                }
            }
            if let Some(batch) = gather.take()
                && give.send(batch).await.is_err()
            {
                return Ok(());
            }
        }
        self.run(&conn, "COMMIT").await?;
        // Whoever takes no more says why.
        let _ = give.send(Part::End).await;
        Ok(())
    }

    /// Takes all that another store has, in one transaction. [`StoreError::NotEmpty`] if anything is here. The store
    /// has to be opened anew afterwards.
    pub async fn copy_in(&self, take: &mut mpsc::Receiver<Part>) -> Result<()> {
        let conn = self.pool.connector.connect(None).await?;
        self.run(&conn, "BEGIN").await?;
        // Whoever gives it may be slow, and a batch is one statement.
        self.run(&conn, UNHURRIED).await?;
        // A second copy waits, and finds that it is not empty.
        self.run(&conn, "SELECT 1 FROM wf.meta FOR UPDATE").await?;
        for table in TABLES.iter().filter(|table| !["store", "deleted"].contains(&table.name)) {
            let any =
                self.ask(&conn, &format!("SELECT 1 FROM wf.{} LIMIT 1", table.name), Vec::new()).await?;
            if !any.is_empty() {
                return Err(StoreError::NotEmpty { place: self.place().to_owned() });
            }
        }
        loop {
            let Batch { table, rows } = match take.recv().await {
                Some(Part::Rows(batch)) => batch,
                Some(Part::End) => break,
                None => return Err(cut_short(self.place())),
            };
            let table = &TABLES[table];
            match table.name {
                "runs" => self.label(&conn, table, &rows).await?,
                // They get numbers here, behind those of the runs.
                "deleted" => self.go_on_behind(&conn).await?,
                _ => {}
            }
            let arrays = arrays(table, rows).map_err(|strange| self.damaged(strange))?;
            self.ask(&conn, &insert(table), arrays).await?;
        }
        self.go_on_behind(&conn).await?;
        self.run(&conn, crate::format::PLACES_GROW).await?;
        // All statements before it succeeded, so that this is no end of a failed transaction.
        self.run(&conn, "COMMIT").await
    }

    async fn run(&self, conn: &Conn, sql: &str) -> Result<()> {
        let done = conn.client.batch_execute(&self.pool.sql(sql)).await;
        done.map_err(|error| classify(self.place(), &error).into_error())
    }

    async fn ask(&self, conn: &Conn, sql: &str, args: Vec<Arg>) -> Result<Vec<SqlRow>> {
        let rows = query(conn, &self.pool.sql(sql), args).await;
        rows.map_err(|error| classify(self.place(), &error).into_error())
    }

    /// Has numbers go on behind those that were copied.
    async fn go_on_behind(&self, conn: &Conn) -> Result<()> {
        for (table, column) in SEQUENCES {
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence('wf.{table}', '{column}'), coalesce(max({column}), 0) + 1, false)
                 FROM wf.{table}"
            );
            self.run(conn, &sql).await?;
        }
        Ok(())
    }

    /// Has runs be found by their labels.
    async fn label(&self, conn: &Conn, table: &Table, rows: &[Vec<Cell>]) -> Result<()> {
        let (Some(run), Some(labels)) = (table.column("run"), table.column("labels")) else { return Ok(()) };
        let (mut runs, mut keys) = (Vec::new(), Vec::new());
        for row in rows {
            let (Cell::Int(run), Cell::Text(labels)) = (&row[run], &row[labels]) else { continue };
            let labels: Vec<(String, String)> =
                serde_json::from_str(labels).map_err(|_| self.damaged(strange("the labels of a run")))?;
            for label in &labels {
                runs.push(*run);
                keys.push(label_key(label));
            }
        }
        let sql = "INSERT INTO wf.labels (run, label) SELECT * FROM unnest($1::int8[], $2::bytea[])
                   ON CONFLICT DO NOTHING";
        self.ask(conn, sql, vec![runs.arg(), keys.arg()]).await.map(drop)
    }
}

/// Names of signals as JSON, each as it is written and read.
fn each(json: &str, written: impl Fn(&str) -> String) -> Read<String> {
    let names: Vec<String> = serde_json::from_str(json).map_err(|_| strange("a list of signals"))?;
    let names: Vec<_> = names.iter().map(|name| written(name)).collect();
    serde_json::to_string(&names).map_err(|_| strange("a list of signals"))
}

fn cells(table: &Table, row: &SqlRow) -> Read<Vec<Cell>> {
    let cell = |(at, (column, kind)): (usize, &(&str, Kind))| {
        Ok(match kind {
            Kind::Int | Kind::Flag => row.maybe_int(at)?.map_or(Cell::Null, Cell::Int),
            Kind::Bytes => row.maybe_bytes(at)?.map_or(Cell::Null, Cell::Bytes),
            Kind::Text if *column == "wait_for" => match row.value::<Option<String>>(at)? {
                Some(json) => Cell::Text(each(&json, |name| plain(name.to_owned()))?),
                None => Cell::Null,
            },
            Kind::Text => row.maybe_text(at)?.map_or(Cell::Null, Cell::Text),
        })
    };
    table.columns.iter().enumerate().map(cell).collect()
}

/// An array for each column.
fn arrays(table: &Table, rows: Vec<Vec<Cell>>) -> Read<Vec<Arg>> {
    let mut columns: Vec<Vec<Cell>> = table.columns.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row) {
            column.push(cell);
        }
    }
    let odd = || strange("a value of a copy");
    let array = |(cells, (column, kind)): (Vec<Cell>, &(&str, Kind))| match kind {
        Kind::Int | Kind::Flag => {
            let numbers = cells.into_iter().map(|cell| match cell {
                Cell::Null => Ok(None),
                Cell::Int(number) => Ok(Some(number)),
                _ => Err(odd()),
            });
            Ok(numbers.collect::<Read<Vec<Option<i64>>>>()?.arg())
        }
        Kind::Text => {
            let texts = cells.into_iter().map(|cell| match cell {
                Cell::Null => Ok(None),
                Cell::Text(json) if *column == "wait_for" => Ok(Some(each(&json, escaped)?)),
                Cell::Text(text) => Ok(Some(escaped(&text))),
                _ => Err(odd()),
            });
            Ok(texts.collect::<Read<Texts>>()?.arg())
        }
        Kind::Bytes => {
            let bytes = cells.into_iter().map(|cell| match cell {
                Cell::Null => Ok(None),
                Cell::Bytes(bytes) => Ok(Some(bytes)),
                _ => Err(odd()),
            });
            Ok(bytes.collect::<Read<Vec<Option<Vec<u8>>>>>()?.arg())
        }
    };
    columns.into_iter().zip(table.columns).map(array).collect()
}
