//! The store in one SQLite file.

mod append;
mod errors;
mod inbox;
mod journal;
mod read;
mod schedules;
mod write;
mod writer;

use std::fmt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use wfhost_core::{Digest, Epoch, Json, Row, RunId, Step, Timestamp};
use wfhost_world::clock;

use self::errors::classify;
use self::writer::Writer;
use super::*;

/// `wfho`, which tells our files from other programs'.
const APPLICATION_ID: i32 = 0x7766_686f;
/// Numbered migrations: the n-th makes format n of format n - 1.
const MIGRATIONS: [&str; 6] = [
    include_str!("schema.sql"),
    include_str!("schema-2.sql"),
    include_str!("schema-3.sql"),
    include_str!("schema-4.sql"),
    include_str!("schema-5.sql"),
    include_str!("schema-6.sql"),
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
#[derive(Clone, Debug, Default)]
pub struct SqliteOptions {
    pub synchronous: Synchronous,
    /// The greatest size of the file in pages of 4 KiB; no limit if none.
    pub max_pages: Option<u32>,
}

/// Runs in an SQLite file. Any number of processes may share it.
pub struct SqliteStore {
    path: String,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
    version: AtomicU64,
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
            |error: std::io::Error| StoreError::CannotOpen { path: text.clone(), reason: error.to_string() };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(refused)?;
        }
        // SQLite gives the files beside it the mode of the database.
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(refused(error)),
            _ => {}
        }
        let failed = |error| classify(&text, error);
        let connection = connect(path).map_err(failed)?;
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
        let checkpointer = connect(path).map_err(failed)?;
        Ok(Self {
            writer: Writer::new(text.clone(), connection, checkpointer),
            path: text,
            readers: Mutex::default(),
            version: AtomicU64::new(0),
        })
    }

    /// Copies the database, as it is at one moment, into a new file while it
    /// is in use. Gives the size of the copy in bytes.
    pub fn backup(&self, file: &Path) -> Result<u64> {
        let text = file.display().to_string();
        let refused =
            |error: std::io::Error| StoreError::CannotOpen { path: text.clone(), reason: error.to_string() };
        // SQLite fills an empty file that is there, and so keeps its mode.
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(refused)?;
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

    /// Writes by group commit; `work` reports SQLite's errors as its own.
    async fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Connection) -> Result<T, write::Fault> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        self.writer
            .write(move |connection| {
                work(connection).map_err(|fault| match fault {
                    write::Fault::Refused(error) => error,
                    write::Fault::Sqlite(error) => classify(&path, error),
                })
            })
            .await
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(writer::wait_for_turn))?;
    connection.set_prepared_statement_cache_capacity(64);
    // A plan does not depend on the values: no statement is compiled again because they differ.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
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
    connection.pragma_update(None, "cache_size", -16_384)?;
    Ok(connection)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

fn check_format(connection: &Connection, path: &str) -> Result<()> {
    let failed = |error| classify(path, error);
    let number = |pragma: &str| {
        connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0)).map_err(failed)
    };
    let known = MIGRATIONS.len() as u32;
    let current = |format: u32| (format as usize).min(MIGRATIONS.len());
    let mut format = number("user_version")? as u32;
    if format > 0 && number("application_id")? != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if format > known {
        return Err(StoreError::Newer { path: path.to_owned(), found: format, known });
    }
    if format == known {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let mut migrate = || -> Result<()> {
        // Another process may have been quicker.
        format = number("user_version")? as u32;
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed)?;
        if format == 0 && tables > 0 {
            return Err(StoreError::Foreign { path: path.to_owned() });
        }
        for migration in &MIGRATIONS[current(format)..] {
            connection.execute_batch(migration).map_err(failed)?;
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

impl Store for SqliteStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let digest = Digest::of(bytes);
            if self.read(|c| read::has_module(c, digest))? {
                return Ok(digest);
            }
            let (name, bytes) = (name.to_owned(), bytes.to_owned());
            self.write(move |c| write::put_module(c, digest, &name, &bytes, clock::now())).await?;
            Ok(digest)
        }
        .boxed()
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let bytes = self.read(|c| read::module(c, digest))?;
            match bytes {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    path: self.path.clone(),
                    reason: format!("module {digest} has other bytes than it had"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        async move { self.read(read::modules) }.boxed()
    }

    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        self.write(move |c| write::create(c, &run)).boxed()
    }

    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed>> {
        let Claim { run, owner, now, until, dead, how } = claim;
        let (run, owner, dead) = (run.clone(), owner.clone(), dead.cloned());
        self.write(move |c| write::claim(c, &run, &owner, now, until, dead.as_ref(), how)).boxed()
    }

    fn renew<'a>(
        &'a self,
        leases: &'a [(RunId, Epoch)],
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<RunId>>> {
        let leases = leases.to_vec();
        self.write(move |c| write::renew(c, &leases, until)).boxed()
    }

    fn release<'a>(
        &'a self,
        run: &'a RunId,
        epoch: Epoch,
        trouble: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        let (run, trouble) = (run.clone(), trouble.map(str::to_owned));
        self.write(move |c| write::release(c, &run, epoch, trouble.as_deref())).boxed()
    }

    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        let run = run.clone();
        self.write(move |c| write::unpause(c, &run)).boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        // It is passed on several times.
        let append = Box::new(append);
        self.write(move |c| append::append(c, &append)).boxed()
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move { self.read(|c| journal::read(c, run, from)) }.boxed()
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| write::import(c, &run)).boxed()
    }

    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| write::rebuild(c, &run)).boxed()
    }

    fn delete<'a>(&'a self, run: &'a RunId, now: Timestamp) -> BoxFuture<'a, Result<Deleted>> {
        let run = run.clone();
        self.write(move |c| write::delete(c, &run, now)).boxed()
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_unused_modules(c, before)).boxed()
    }

    fn due(&self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<RunId>>> {
        async move { self.read(|c| read::due(c, now, limit)) }.boxed()
    }

    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>>> {
        async move { self.read(|c| read::next_due(c, now)) }.boxed()
    }

    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>>> {
        async move { self.read(read::owners) }.boxed()
    }

    fn owned<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<RunId>>> {
        async move { self.read(|c| read::owned(c, owner)) }.boxed()
    }

    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        self.write(move |c| inbox::post(c, &message)).boxed()
    }

    fn inbox<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<Message>>> {
        async move { self.read(|c| read::inbox(c, run)) }.boxed()
    }

    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        async move { self.read(|c| read::run(c, run)) }.boxed()
    }

    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>> {
        async move { self.read(|c| read::runs(c, &filter)) }.boxed()
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

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        let run = run.clone();
        self.write(move |c| write::transcribe(c, &run, &lines)).boxed()
    }

    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>> {
        async move { self.read(|c| read::transcript(c, run, &filter, limit)) }.boxed()
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| write::keep_answer(c, key, at, &reply)).boxed()
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        async move { self.read(|c| read::kept_answer(c, key)) }.boxed()
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        async move { self.read(|c| read::questions(c, run, limit)) }.boxed()
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        async move { self.read(|c| journal::changes(c, after, limit)) }.boxed()
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        async move { self.read(|c| read::state(c, run)) }.boxed()
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        async move { self.read(|c| read::published(c, run, key)) }.boxed()
    }

    fn ended_children<'a>(&'a self, parent: &'a RunId, from: Step) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        async move { self.read(|c| read::ended_children(c, parent, from)) }.boxed()
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        async move { self.read(|c| read::family(c, root)) }.boxed()
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| schedules::put_schedule(c, &schedule, replace)).boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Vec<Schedule>>> {
        async move { self.read(|c| read::schedules(c, None)) }.boxed()
    }

    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| schedules::set_schedule(c, &name, next)).boxed()
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| schedules::delete_schedule(c, &name)).boxed()
    }

    fn due_schedules(&self, now: Timestamp) -> BoxFuture<'_, Result<(Vec<Schedule>, Option<Timestamp>)>> {
        async move { self.read(|c| Ok((read::schedules(c, Some(now))?, read::next_schedule(c, now)?))) }
            .boxed()
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| schedules::fire(c, &fire)).boxed()
    }

    fn version(&self) -> Result<u64> {
        match self.writer.foreign_version() {
            Some(version) => {
                let version = version.map_err(|error| classify(&self.path, error))?;
                self.version.store(version, Ordering::Relaxed);
                Ok(version)
            }
            // The writer is busy; what others wrote shows the next time.
            None => Ok(self.version.load(Ordering::Relaxed)),
        }
    }

    fn commits(&self) -> u64 {
        self.writer.commits()
    }
}
