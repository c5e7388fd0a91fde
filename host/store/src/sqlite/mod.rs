//! The store in one SQLite file.

mod access;
mod append;
mod claims;
mod copy;
#[cfg(test)]
pub(crate) mod costs;
mod errors;
mod inbox;
mod journal;
mod limits;
#[cfg(test)]
mod migrations;
mod outbox;
mod read;
mod schedules;
mod sessions;
mod write;
mod writer;

use std::fmt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use wfhost_core::{Digest, Epoch, Journal, Json, Machine, Position, Row, RunId, Step, Timestamp};

use self::claims::{Claim, Taken};
use self::errors::classify;
use self::writer::{Survives, Writer};
use super::*;

/// `wfho`, which tells our files from other programs'.
const APPLICATION_ID: i32 = 0x7766_686f;
/// Numbered migrations: the n-th makes format n of format n - 1.
const MIGRATIONS: [&str; 10] = [
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

/// What a commit survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Synchronous {
    /// The loss of power.
    #[default]
    Full,
    /// The death of the process; a loss of power takes the last commits.
    Normal,
}

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub synchronous: Synchronous,
    /// The greatest size of the file in pages of 4 KiB; no limit if none.
    pub max_pages: Option<u32>,
    /// The time by which it judges.
    pub clock: Arc<dyn Clock>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { synchronous: Synchronous::default(), max_pages: None, clock: Arc::new(SystemClock) }
    }
}

/// Steps of SQLite's machine between two looks at the time, where it is limited: some ten microseconds.
const LOOKS_AT_TIME_EVERY: std::ffi::c_int = 4_000;

/// How often is looked whether another process wrote something.
const WATCH_EVERY: Duration = Duration::from_millis(10);
/// The same, for this many looks after another process sent something to a run.
const WATCH_SOON: Duration = Duration::from_millis(2);
const WATCH_SOON_TIMES: u8 = 20;

/// Removes the oldest answers beyond `bytes`.
#[cfg(test)]
pub(super) fn bound_answers(c: &Connection, bytes: u64) {
    assert!(write::bound_answers(c, bytes).is_ok());
}

/// Which file something is, whatever its name: its device and its inode.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

/// Runs in an SQLite file. Any number of processes may share it.
pub struct SqliteStore {
    path: String,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    clock: Arc<dyn Clock>,
    /// Counts claims of what is due.
    turns: AtomicUsize,
    /// The files of the database and of its write-ahead log, once that is there.
    files: Mutex<(Option<FileId>, Option<FileId>)>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore({})", self.path)
    }
}

impl SqliteStore {
    /// Opens a database, and makes it if it is not there: readable for its
    /// owner only, as are the directories that have to be made.
    pub fn open(path: &Path, options: &SqliteOptions) -> Result<Self> {
        let text = path.display().to_string();
        let refused =
            |error: std::io::Error| StoreError::CannotOpen { place: text.clone(), reason: error.to_string() };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(refused)?;
        }
        // SQLite gives the files beside it the mode of the database.
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refused(error)),
            // A pipe would block, and a device never end.
            Err(_) if !path.metadata().map_err(refused)?.is_file() => {
                return Err(StoreError::Foreign { place: text.clone() });
            }
            _ => {}
        }
        let failed = |error| classify(&text, error);
        let connection = open_file(path).map_err(failed)?;
        look_first(&connection, &text)?;
        keep_log(&connection).map_err(failed)?;
        check_format(&connection, &text)?;
        let synchronous = match options.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
        if let Some(pages) = options.max_pages {
            connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
                .map_err(failed)?;
        }
        let writer = Writer::new(text.clone(), connection).map_err(failed)?;
        let files = Mutex::new((file_id(path), None));
        let (readers, clock, turns) = (Mutex::default(), Arc::clone(&options.clock), AtomicUsize::new(0));
        Ok(Self { writer, path: text, readers, clock, turns, files })
    }

    /// Copies the database, as it is at one moment, into a new file while it
    /// is in use. Gives the size of the copy in bytes.
    pub fn backup(&self, file: &Path) -> Result<u64> {
        let text = file.display().to_string();
        let refused =
            |error: std::io::Error| StoreError::CannotOpen { place: text.clone(), reason: error.to_string() };
        // SQLite fills an empty file that is there, and so keeps its mode; it refuses one that is not empty.
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).open(file).map_err(refused)?;
        let copied = self.read(|c| c.execute("VACUUM INTO ?1", [&text]));
        if let Err(error) = copied {
            let _ = std::fs::remove_file(file);
            return Err(error);
        }
        let copy = std::fs::File::open(file).map_err(refused)?;
        copy.sync_all().and_then(|()| copy.metadata()).map(|data| data.len()).map_err(refused)
    }

    /// What SQLite finds wrong with the file; empty if nothing is.
    pub fn check(&self) -> Result<Vec<String>> {
        let found = self.read(|c| {
            let mut statement = c.prepare("PRAGMA integrity_check")?;
            statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// Whether a run of this id was here and was deleted.
    pub fn was_deleted(&self, run: &RunId) -> Result<bool> {
        self.read(|c| c.prepare_cached("SELECT 1 FROM deleted WHERE name = ?1")?.exists([run.as_str()]))
    }

    /// Reads with a connection of the pool: never waits for the writer.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let failed = |error| classify(&self.path, error);
        let pooled = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => connect(Path::new(&self.path)).map_err(failed)?,
        };
        let result = work(&connection).map_err(failed);
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    /// The same, given up after that time.
    fn read_within<T>(
        &self,
        millis: u64,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let failed = |error| classify(&self.path, error);
        let pooled = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => connect(Path::new(&self.path)).map_err(failed)?,
        };
        let until = Instant::now() + Duration::from_millis(millis);
        connection
            .progress_handler(LOOKS_AT_TIME_EVERY, Some(move || Instant::now() > until))
            .map_err(failed)?;
        let result = work(&connection).map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => StoreError::TooLong { millis },
            _ => failed(error),
        });
        connection.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }

    /// The same, with all statements of `work` over one state of the database.
    fn read_at_once<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.read(|c| {
            c.prepare_cached("BEGIN")?.execute([])?;
            let result = work(c);
            // Nothing was changed: either end is the same.
            c.prepare_cached("COMMIT")?.execute([])?;
            result
        })
    }

    /// Reads a run that was claimed.
    fn open_run(&self, c: &Connection, taken: &Taken) -> Result<Opened, Unreadable> {
        claims::open(c, taken, &self.path).map_err(|fault| Unreadable {
            run: taken.run.clone(),
            epoch: taken.epoch,
            error: self.explain(fault),
        })
    }

    fn explain(&self, fault: write::Fault) -> StoreError {
        match fault {
            write::Fault::Refused(error) => error,
            write::Fault::Sqlite(error) => classify(&self.path, error),
        }
    }

    /// Writes by group commit; `work` reports SQLite's errors as its own.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        self.write_that(Survives::All, work).await
    }

    /// The same, of a session: when power is lost, whoever has it is gone with it.
    async fn write_session<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        self.write_that(Survives::Process, work).await
    }

    async fn write_that<T: Send + 'static>(
        &self,
        survives: Survives,
        mut work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.writer
            .write(survives, move |connection| {
                work(connection).map_err(|fault| match fault {
                    write::Fault::Refused(error) => error,
                    write::Fault::Sqlite(error) => classify(&path, error),
                })
            })
            .await
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = open_file(path)?;
    keep_log(&connection)?;
    Ok(connection)
}

/// Opens the file without changing it.
fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(writer::wait_for_turn))?;
    #[cfg(test)]
    costs::count(&mut connection, path)?;
    connection.set_prepared_statement_cache_capacity(64);
    // A plan does not depend on the values: no statement is compiled again because they differ.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Has the file have a write-ahead log.
fn keep_log(connection: &Connection) -> rusqlite::Result<()> {
    // SQLite does not ask the busy handler while the mode of a new file changes.
    let mut tries = 0;
    loop {
        let switched = connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()));
        match switched {
            Err(error) if is_busy(&error) && writer::wait_for_turn(tries) => tries += 1,
            other => break other?,
        }
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -16_384)
}

/// Refuses a file that is not ours before anything is changed in it: with the first connection it comes to have a
/// write-ahead log, which it keeps, and which other programs may not expect.
fn look_first(connection: &Connection, path: &str) -> Result<()> {
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

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
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

fn check_format(connection: &Connection, path: &str) -> Result<()> {
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

impl Sessions for SqliteStore {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, Result<SessionId>> {
        let (owner, clock) = (owner.clone(), Arc::clone(&self.clock));
        async move {
            let id = SessionId::fresh()?;
            self.write_session(move |c| sessions::begin(c, id, &owner, lease_ms, clock.as_ref())).await?;
            Ok(id)
        }
        .boxed()
    }

    fn keep(&self, session: SessionId) -> BoxFuture<'_, Result<Kept>> {
        let clock = Arc::clone(&self.clock);
        self.write_session(move |c| sessions::keep(c, session, clock.as_ref())).boxed()
    }

    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Session>>> {
        async move { self.read(|c| sessions::all(c, self.clock.as_ref())) }.boxed()
    }

    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, Result<u64>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| sessions::fence_if(c, session, fence, clock.as_ref())).boxed()
    }

    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, Result<u64>> {
        self.write(move |c| sessions::shed(c, session, &keep)).boxed()
    }

    fn held(&self, session: SessionId) -> BoxFuture<'_, Result<Vec<(RunId, Epoch)>>> {
        async move { self.read(|c| sessions::held(c, session)) }.boxed()
    }

    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>> {
        self.write_session(move |c| sessions::end(c, session)).boxed()
    }
}

impl Work for SqliteStore {
    fn claim<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        how: ClaimHow,
    ) -> BoxFuture<'a, Result<Claimed>> {
        let (run, clock) = (run.clone(), Arc::clone(&self.clock));
        async move {
            let claimed = self.write(move |c| claims::claim(c, session, &run, how, clock.as_ref())).await?;
            match claimed {
                Claim::No(claimed) => Ok(claimed),
                Claim::Yes(taken) => match self.read_at_once(|c| Ok(self.open_run(c, &taken)))? {
                    Ok(opened) => Ok(Claimed::Yes(Box::new(opened))),
                    Err(unreadable) => Ok(Claimed::Unreadable(Box::new(unreadable))),
                },
            }
        }
        .boxed()
    }

    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>> {
        async move {
            // Most looks find nothing: those write nothing.
            let (any, next_in_ms) = self.read(|c| claims::look(c, &wanted, self.clock.as_ref()))?;
            if !any || limit == 0 {
                return Ok(Due { runs: Vec::new(), more: any, next_in_ms });
            }
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            let clock = Arc::clone(&self.clock);
            let taken = self
                .write(move |c| claims::claim_due(c, session, limit, turn, &wanted, clock.as_ref()))
                .await?;
            let more = taken.len() == limit;
            let runs =
                self.read_at_once(|c| Ok(taken.iter().map(|taken| self.open_run(c, taken)).collect()))?;
            Ok(Due { runs, more, next_in_ms })
        }
        .boxed()
    }

    fn put_right(&self) -> BoxFuture<'_, Result<u64>> {
        async move {
            // Hardly ever are there any: then nothing is written.
            if !self.read(|c| claims::any_ahead(c, self.clock.as_ref()))? {
                return Ok(0);
            }
            let clock = Arc::clone(&self.clock);
            self.write(move |c| claims::put_right(c, clock.as_ref())).await
        }
        .boxed()
    }

    fn set_starts<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        epoch: Epoch,
        starts: u32,
    ) -> BoxFuture<'a, Result<()>> {
        let run = run.clone();
        self.write(move |c| claims::set_starts(c, session, &run, epoch, starts)).boxed()
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        let run = run.clone();
        self.write(move |c| write::unpause(c, &run)).boxed()
    }

    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>> {
        async move {
            loop {
                let version = match self.writer.foreign_version() {
                    Some(version) => Some(version.map_err(|error| classify(&self.path, error))?),
                    // The writer is busy; what others wrote shows the next time.
                    None => seen.version,
                };
                if version != seen.version {
                    let (runs, last) = self.read_at_once(|c| read::addressed(c, seen.message))?;
                    let first = seen.version.is_none();
                    // Messages often come in series, and their senders wait for answers.
                    let soon = if runs.is_empty() { seen.soon } else { WATCH_SOON_TIMES };
                    *seen = Seen { version, message: last, soon };
                    if first {
                        return Ok(vec![Wake::Gap]);
                    }
                    let runs = runs.into_iter().map(Wake::Run);
                    return Ok(runs.chain([Wake::Due]).collect());
                }
                let wait = if seen.soon > 0 { WATCH_SOON } else { WATCH_EVERY };
                seen.soon = seen.soon.saturating_sub(1);
                tokio::time::sleep(wait).await;
            }
        }
        .boxed()
    }
}

impl Journals for SqliteStore {
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| write::create(c, &run, clock.as_ref())).boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        // It is passed on several times.
        let append = Box::new(append);
        let clock = Arc::clone(&self.clock);
        self.write(move |c| append::append(c, &append, clock.as_ref())).boxed()
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move { self.read(|c| journal::read(c, run, from)) }.boxed()
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        async move { self.read(|c| journal::changes(c, after, limit)) }.boxed()
    }

    fn journal_part<'a>(
        &'a self,
        run: &'a RunId,
        from: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move { self.read(|c| journal::part(c, run, from, limit)) }.boxed()
    }

    fn last_place(&self) -> BoxFuture<'_, Result<u64>> {
        async move { self.read(journal::last) }.boxed()
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| write::import(c, &run)).boxed()
    }

    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| write::rebuild(c, &run)).boxed()
    }

    fn delete_if<'a>(&'a self, run: &'a RunId, only: DeleteIf) -> BoxFuture<'a, Result<Deleted>> {
        let (run, clock) = (run.clone(), Arc::clone(&self.clock));
        self.write(move |c| write::delete(c, &run, &only, clock.as_ref())).boxed()
    }
}

impl Mail for SqliteStore {
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| inbox::post(c, &message, clock.now())).boxed()
    }

    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, Result<Inbox>> {
        async move { self.read(|c| read::inbox_of(c, run, part)) }.boxed()
    }
}

impl Views for SqliteStore {
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        async move { self.read(|c| read::run(c, run, self.clock.as_ref())) }.boxed()
    }

    fn list_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Listed>> {
        async move {
            let work = |c: &Connection| read::runs(c, &filter, self.clock.as_ref());
            match filter.patience_ms {
                Some(millis) => self.read_within(millis, work),
                None => self.read(work),
            }
        }
        .boxed()
    }

    fn count_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<u64>> {
        async move {
            let work = |c: &Connection| read::count_runs(c, &filter);
            match filter.patience_ms {
                Some(millis) => self.read_within(millis, work),
                None => self.read(work),
            }
        }
        .boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>> {
        async move { self.read(read::counts) }.boxed()
    }

    fn load(&self) -> BoxFuture<'_, Result<Load>> {
        async move {
            let load = self.read_at_once(|c| read::load(c, write::millis(self.clock.now())))?;
            // There is none before the first write.
            let wal = std::fs::metadata(format!("{}-wal", self.path));
            Ok(Load { wal_bytes: wal.map_or(0, |wal| wal.len()), ..load })
        }
        .boxed()
    }

    fn busy_relatives<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        async move { self.read_at_once(|c| read::busy_relatives(c, root, write::millis(self.clock.now()))) }
            .boxed()
    }

    fn ended_children<'a>(
        &'a self,
        parent: &'a RunId,
        steps: &'a [Step],
    ) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        async move { self.read(|c| read::ended_children(c, parent, steps, self.clock.as_ref())) }.boxed()
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        async move { self.read(|c| read::family(c, root)) }.boxed()
    }

    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>> {
        async move { self.read(|c| read::logs(c, run, from, limit)) }.boxed()
    }

    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>> {
        async move { self.read(|c| read::messages(c, run, after, limit)) }.boxed()
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        open_at: Option<Timestamp>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        async move { self.read(|c| read::questions(c, run, open_at, limit)) }.boxed()
    }

    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>> {
        async move { self.read(|c| read::question(c, run, step)) }.boxed()
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        async move { self.read(|c| read::state(c, run)) }.boxed()
    }

    fn snapshot<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        async move { self.read_at_once(|c| read::snapshot(c, run, self.clock.as_ref())) }.boxed()
    }

    fn latest<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move { self.read(|c| read::latest(c, run, key, after, limit)) }.boxed()
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move { self.read(|c| read::published(c, run, key, after, limit)) }.boxed()
    }

    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>> {
        async move { self.read(|c| read::transcript(c, run, &filter, limit)) }.boxed()
    }

    fn transcript_end<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<u64>> {
        async move { self.read(|c| read::transcript_end(c, run)) }.boxed()
    }

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.read(|c| read::last_heartbeat(c, run, step)) }.boxed()
    }
}

impl Extras for SqliteStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let (digest, now) = (Digest::of(bytes), self.clock.now());
            let lately = write::millis(Timestamp(now.0.saturating_sub(BLOB_RENEWED_MS)));
            if self.read(|c| read::has_module(c, digest, lately))? {
                return Ok(digest);
            }
            let (name, bytes) = (name.to_owned(), bytes.to_owned());
            self.write(move |c| write::put_module(c, digest, &name, &bytes, now)).await?;
            Ok(digest)
        }
        .boxed()
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let bytes = self.read(|c| read::module(c, digest))?;
            match bytes {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    place: self.path.clone(),
                    reason: format!("the content of module {digest} has changed"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>> {
        async move { self.read(|c| read::module_info(c, digest)) }.boxed()
    }

    fn module_named<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<ModuleInfo>>> {
        async move { self.read(|c| read::module_named(c, name)) }.boxed()
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        async move { self.read(read::modules) }.boxed()
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_unused_modules(c, before)).boxed()
    }

    fn put_blob<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let (digest, now) = (Digest::of(bytes), self.clock.now());
            let lately = write::millis(Timestamp(now.0.saturating_sub(BLOB_RENEWED_MS)));
            if self.read(|c| read::has_blob(c, digest, lately))? {
                return Ok(digest);
            }
            let bytes = bytes.to_owned();
            self.write(move |c| write::put_blob(c, digest, &bytes, now)).await?;
            Ok(digest)
        }
        .boxed()
    }

    fn blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let bytes = self.read(|c| read::blob(c, digest))?;
            match bytes {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    place: self.path.clone(),
                    reason: format!("the content stored under {digest} has changed"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn has_blobs(&self, before: Timestamp) -> BoxFuture<'_, Result<bool>> {
        async move {
            self.read(|c| {
                c.prepare_cached("SELECT 1 FROM blobs WHERE added_at < ?1")?.exists([write::millis(before)])
            })
        }
        .boxed()
    }

    fn delete_blobs(&self, before: Timestamp, except: Vec<Digest>) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_blobs(c, before, &except)).boxed()
    }

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        let run = run.clone();
        self.write(move |c| write::transcribe(c, &run, &lines)).boxed()
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| write::keep_answer(c, key, at, &reply)).boxed()
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        async move { self.read(|c| read::kept_answer(c, key)) }.boxed()
    }

    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_old_answers(c, before)).boxed()
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| schedules::put_schedule(c, &schedule, replace)).boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>> {
        async move { self.read(read::schedules) }.boxed()
    }

    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| schedules::set_schedule(c, &name, next)).boxed()
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| schedules::delete_schedule(c, &name)).boxed()
    }

    fn due_schedules(
        &self,
        behind: Option<(Timestamp, String)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DueSchedules>> {
        async move {
            self.read(|c| read::due_schedules(c, write::millis(self.clock.now()), behind.as_ref(), limit))
        }
        .boxed()
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| schedules::fire(c, &fire, clock.as_ref())).boxed()
    }

    fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String>> {
        let read = || self.read(|c| c.query_row("SELECT id FROM identity", [], |row| row.get(0)));
        async move { read() }.boxed()
    }

    fn check_place(&self) -> Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = || StoreError::Moved { place: self.path.clone() };
        if file_id(Path::new(&self.path)) != files.0 {
            return Err(moved());
        }
        let log = file_id(Path::new(&format!("{}-wal", self.path)));
        match files.1 {
            Some(known) if log != Some(known) => Err(moved()),
            _ => {
                files.1 = log;
                Ok(())
            }
        }
    }
}

impl Access for SqliteStore {
    fn secret(&self) -> BoxFuture<'_, Result<[u8; 32]>> {
        async move { self.read(access::secret) }.boxed()
    }

    fn put_token(&self, token: Token) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| access::put_token(c, &token)).boxed()
    }

    fn token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Token>>> {
        async move { self.read(|c| access::token(c, id)) }.boxed()
    }

    fn tokens(&self) -> BoxFuture<'_, Result<Vec<Token>>> {
        async move { self.read(access::tokens) }.boxed()
    }

    fn delete_token<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<bool>> {
        let id = id.to_owned();
        self.write(move |c| access::delete_token(c, &id)).boxed()
    }

    fn set_token_used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<()>> {
        let id = id.to_owned();
        self.write(move |c| access::set_token_used(c, &id, at)).boxed()
    }

    fn record_act(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| access::record_act(c, &act)).boxed()
    }

    fn acts(&self, before: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Act>>> {
        async move { self.read(|c| access::acts(c, before, limit)) }.boxed()
    }

    fn use_once(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<Used>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| access::use_once(c, token, body, clock.now())).boxed()
    }

    fn release_use(&self, token: Digest, body: Digest) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| access::release_use(c, token, body)).boxed()
    }
}

impl Outbox for SqliteStore {
    fn hold_cursor<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        hold_ms: u64,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        let (name, holder, clock) = (name.to_owned(), holder.to_owned(), Arc::clone(&self.clock));
        self.write(move |c| outbox::hold_cursor(c, &name, &holder, hold_ms, clock.now())).boxed()
    }

    fn advance_cursor(&self, advance: Advance) -> BoxFuture<'_, Result<bool>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| outbox::advance_cursor(c, &advance, clock.now())).boxed()
    }

    fn cursors(&self) -> BoxFuture<'_, Result<Vec<Cursor>>> {
        async move { self.read(|c| outbox::cursors(c, self.clock.now())) }.boxed()
    }

    fn drop_cursor<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| outbox::drop_cursor(c, &name)).boxed()
    }

    fn put_deliveries(&self, deliveries: Vec<NewDelivery>) -> BoxFuture<'_, Result<u64>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| outbox::put_deliveries(c, &deliveries, clock.now())).boxed()
    }

    fn claim_deliveries<'a>(
        &'a self,
        sink: &'a str,
        hold_ms: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        async move {
            if !self.read(|c| outbox::any_due(c, sink, self.clock.now()))? {
                return Ok(Vec::new());
            }
            let (sink, clock) = (sink.to_owned(), Arc::clone(&self.clock));
            self.write(move |c| outbox::claim_deliveries(c, &sink, hold_ms, limit, clock.now())).await
        }
        .boxed()
    }

    fn settle_delivery(&self, number: u64, tries: u32, settled: Settled) -> BoxFuture<'_, Result<bool>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| outbox::settle_delivery(c, number, tries, &settled, clock.now())).boxed()
    }

    fn deliveries(&self, filter: DeliveryFilter, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        async move { self.read(|c| outbox::deliveries(c, &filter, limit)) }.boxed()
    }

    fn redeliver(&self, numbers: Vec<u64>) -> BoxFuture<'_, Result<u64>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| outbox::redeliver(c, &numbers, clock.now())).boxed()
    }

    fn sink_loads(&self) -> BoxFuture<'_, Result<Vec<SinkLoad>>> {
        async move { self.read(|c| outbox::sink_loads(c, self.clock.now())) }.boxed()
    }

    fn delete_old_deliveries(&self, before: Timestamp) -> BoxFuture<'_, Result<u64>> {
        self.write(move |c| outbox::delete_old_deliveries(c, before)).boxed()
    }
}

impl Limits for SqliteStore {
    fn share_slots(&self, session: SessionId, asks: Vec<SlotAsk>) -> BoxFuture<'_, Result<Vec<u32>>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| limits::share_slots(c, session, &asks, clock.as_ref())).boxed()
    }

    fn slots(&self) -> BoxFuture<'_, Result<Vec<SlotShare>>> {
        async move { self.read(|c| limits::slots(c, self.clock.as_ref())) }.boxed()
    }

    fn take_turns(&self, words: Vec<TurnWord>) -> BoxFuture<'_, Result<Vec<Option<Timestamp>>>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| limits::take_turns(c, &words, clock.now())).boxed()
    }

    fn turns(&self) -> BoxFuture<'_, Result<Vec<TurnsInfo>>> {
        async move { self.read(limits::turns) }.boxed()
    }
}
