//! All that a store keeps, as rows that each kind of store gives and takes.
//!
//! What belongs to one place only is left out: sessions of hosts with the slots that they have, what was posted lately,
//! and the rates of calls with the turns that steps wait for, so that a service that asked to be left alone for a while is
//! asked again. Runs that a session has are due in the copy.

use crate::StoreError;

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Int,
    /// 0 or 1.
    Flag,
    Text,
    Bytes,
}

/// A value of a row.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Cell {
    /// About what it takes, in bytes.
    pub fn size(&self) -> usize {
        8 + match self {
            Self::Null | Self::Int(_) => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// Rows of one form.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Kind)],
    /// By what rows are ordered.
    pub order: &'static str,
}

impl Table {
    /// Where a column is.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|(column, _)| *column == name)
    }
}

/// Some rows of a table, by its place in [`TABLES`].
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    pub table: usize,
    pub rows: Vec<Vec<Cell>>,
}

/// What passes from one store to the other.
#[derive(Clone, PartialEq, Debug)]
pub enum Part {
    Rows(Batch),
    /// That was all: without it a copy was cut short.
    End,
}

/// Rows of a batch, at most.
pub const BATCH_ROWS: usize = 200;
/// And what they take, about, in bytes, unless a single row takes more.
pub const BATCH_BYTES: usize = 4 << 20;

const fn table(name: &'static str, order: &'static str, columns: &'static [(&'static str, Kind)]) -> Table {
    Table { name, columns, order }
}

use Kind::{Bytes, Flag, Int, Text};

/// What there is, in the order in which it is copied. Numbers of runs are the same everywhere, as are places of
/// commits, so that followers continue where they were.
pub const TABLES: [Table; 21] = [
    // Behind the place, everything is new: that of the last commit, also of one that is not there any more.
    table("store", "identity", &[("identity", Text), ("secret", Bytes), ("place", Int)]),
    table("modules", "digest", &[("digest", Bytes), ("name", Text), ("added_at", Int), ("bytes", Bytes)]),
    table("blobs", "digest", &[("digest", Bytes), ("added_at", Int), ("bytes", Bytes)]),
    table(
        "runs",
        "run",
        &[
            ("run", Int),
            ("name", Text),
            ("epoch", Int),
            ("emissions", Int),
            ("starts", Int),
            ("troubles", Int),
            ("stopping", Flag),
            // As RunState::as_str has it.
            ("state", Text),
            ("due_at", Int),
            ("wait_until", Int),
            ("parked_at", Int),
            ("people", Flag),
            ("tokens", Int),
            ("micros", Int),
            ("created_at", Int),
            ("updated_at", Int),
            ("head", Bytes),
            ("module", Bytes),
            ("workflow", Text),
            ("key", Text),
            ("project", Text),
            ("imported", Flag),
            ("parent", Text),
            ("parent_step", Int),
            ("on_close", Int),
            ("root", Text),
            ("chain", Text),
            ("next", Text),
            // JSON: [signal name, ...]
            ("wait_for", Text),
            ("phase", Text),
            ("trouble", Text),
            ("given", Bytes),
            ("budget", Bytes),
            // JSON: [[key, value], ...]
            ("labels", Text),
            ("outcome", Bytes),
        ],
    ),
    table("deleted", "name", &[("name", Text)]),
    table(
        "journal",
        "place",
        &[
            ("place", Int),
            ("run", Int),
            ("seq", Int),
            ("count", Int),
            ("at", Int),
            ("head", Bytes),
            ("body", Bytes),
        ],
    ),
    table(
        "inbox",
        "id",
        &[
            ("id", Int),
            ("run", Int),
            ("calm", Flag),
            ("at", Int),
            ("kind", Text),
            ("name", Text),
            ("step", Int),
            ("text", Text),
            ("dedupe", Text),
            ("body", Bytes),
        ],
    ),
    table("seen", "chain, dedupe", &[("chain", Text), ("dedupe", Text)]),
    table(
        "questions",
        "run, step",
        &[("run", Int), ("step", Int), ("at", Int), ("deadline", Int), ("answered", Flag), ("body", Bytes)],
    ),
    table(
        "logs",
        "run, number",
        &[("run", Int), ("number", Int), ("at", Int), ("level", Int), ("message", Text), ("fields", Text)],
    ),
    table(
        "published",
        "run, number, key",
        &[("run", Int), ("number", Int), ("at", Int), ("key", Text), ("value", Text)],
    ),
    table(
        "messages",
        "run, number",
        &[("run", Int), ("number", Int), ("at", Int), ("name", Text), ("payload", Text)],
    ),
    table(
        "transcripts",
        "id",
        &[
            ("id", Int),
            ("run", Int),
            ("step", Int),
            ("attempt", Int),
            ("at", Int),
            ("kind", Int),
            ("text", Text),
        ],
    ),
    table("ledgers", "root", &[("root", Text), ("tokens", Int), ("micros", Int)]),
    table("answers", "key", &[("key", Bytes), ("at", Int), ("bytes", Int), ("reply", Text)]),
    table(
        "schedules",
        "name",
        &[
            ("name", Text),
            ("times", Text),
            ("overlap", Text),
            ("catch_up", Text),
            ("workflow", Text),
            ("module", Bytes),
            ("input", Text),
            ("labels", Text),
            ("config", Bytes),
            ("created_at", Int),
            ("next_at", Int),
            ("fired", Int),
            ("last", Text),
        ],
    ),
    table(
        "tokens",
        "id",
        &[
            ("id", Text),
            ("name", Text),
            ("kind", Text),
            ("hash", Bytes),
            ("scopes", Text),
            ("created_at", Int),
            ("expires_at", Int),
            ("used_at", Int),
        ],
    ),
    table(
        "audit",
        "id",
        &[("id", Int), ("at", Int), ("who", Text), ("act", Text), ("target", Text), ("result", Text)],
    ),
    table("callbacks", "token", &[("token", Bytes), ("body", Bytes), ("at", Int)]),
    // Who reads is not in the copy.
    table("cursors", "name", &[("name", Text), ("place", Int), ("at", Int)]),
    table(
        "deliveries",
        "id",
        &[
            ("id", Int),
            ("sink", Text),
            ("message", Text),
            ("event", Text),
            ("run", Text),
            ("state", Int),
            ("tries", Int),
            ("created_at", Int),
            ("next_at", Int),
            ("ended_at", Int),
            ("said", Text),
            ("body", Text),
        ],
    ),
];

/// Greater than any place of a commit, and small enough to be counted on from.
pub const BEYOND_PLACES: i64 = 1 << 62;

/// A copy that was cut short.
pub fn cut_short(place: &str) -> StoreError {
    let reason = "what was to be copied ended too early".to_owned();
    StoreError::Failed { place: place.to_owned(), reason }
}

/// Gathers rows to batches.
#[derive(Debug)]
pub struct Gather {
    table: usize,
    rows: Vec<Vec<Cell>>,
    bytes: usize,
}

impl Gather {
    pub fn of(table: usize) -> Self {
        Self { table, rows: Vec::new(), bytes: 0 }
    }

    /// Adds a row. Gives a batch when it is large enough.
    pub fn add(&mut self, row: Vec<Cell>) -> Option<Part> {
        self.bytes += row.iter().map(Cell::size).sum::<usize>();
        self.rows.push(row);
        let full = self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES;
        full.then(|| self.take()).flatten()
    }

    /// What is left.
    pub fn take(&mut self) -> Option<Part> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        (!rows.is_empty()).then_some(Part::Rows(Batch { table: self.table, rows }))
    }
}
