//! What is kept of runs, and the contract of keeping it.
//!
//! A [`Store`] holds modules, runs with their journals, and what was sent to
//! runs. Each method says what is true after it returned `Ok`, also when the
//! process or the machine dies right then. A method that returns an error, or
//! whose future is dropped, has either done all of it or nothing.
//!
//! Everything but journals and inboxes is a projection of journals.

#[cfg(test)]
mod conformance;
mod mem;
mod sqlite;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use wfhost_core::{Digest, Epoch, Json, Outcome, Position, Row, RunId, Timestamp};

pub use self::mem::MemStore;
pub use self::sqlite::{SqliteOptions, SqliteStore, Synchronous};

/// A place where runs are kept. Cheap to clone behind an [`Arc`]; one for each
/// process and database.
///
/// Crash contract in general: what a method reports as done survives the death
/// of the process, and with [`Synchronous::Full`] that of the machine.
pub trait Store: Send + Sync + fmt::Debug {
    // Modules.

    /// Keeps a module's bytes under their BLAKE3 digest. Putting them again changes nothing.
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>>;

    /// The bytes of a module. [`StoreError::Damaged`] if they do not have this digest any more.
    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// All modules, by name and then newest first.
    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>>;

    // Runs and their journals.

    /// Creates a run with its first entries, owned by `run.owner` with a lease
    /// of epoch 1. If the key is known the run that has it is reported instead
    /// and nothing is created; an id that is taken is [`StoreError::IdTaken`].
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>>;

    /// Makes `owner` the one that advances the run until `until`, under a new
    /// epoch, unless the run has ended or somebody else's lease is running at
    /// `now`. `dead`: an owner that the caller knows to have died; its lease
    /// counts as over.
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed>>;

    /// Extends the leases of these runs to `until`. Gives those whose epoch is
    /// not the current one any more: they are lost.
    fn renew<'a>(
        &'a self,
        leases: &'a [(RunId, Epoch)],
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<RunId>>>;

    /// Gives a lease up without another change. Nothing happens if it is lost already.
    fn release<'a>(&'a self, run: &'a RunId, epoch: Epoch) -> BoxFuture<'a, Result<()>>;

    /// Appends to a journal, in one transaction with everything that goes with
    /// it. [`StoreError::Fenced`], and nothing changed, if the epoch is not the
    /// current one or the journal does not end at `append.row.first`.
    ///
    /// Appends of several runs that arrive while a commit is under way share
    /// the next one.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>>;

    /// The rows of a journal in their order.
    fn journal<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<Row>>>;

    // What comes from outside.

    /// Puts a message into the inbox of a run, where the next host that
    /// advances it will find it. With a signal's id that was used before for
    /// this run nothing is added.
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>>;

    /// The messages that a run has not taken yet, oldest first.
    fn inbox<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<Message>>>;

    // Looking.

    /// What is known of one run.
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>>;

    /// Runs, newest first.
    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>>;

    /// Lines of a run's log with a number of at least `from`, in order.
    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>>;

    /// What a run has published, by key.
    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>>;

    /// A number that changes when something was committed by another process,
    /// or by another handle of this one. Cheap enough to ask for every few
    /// milliseconds.
    fn version(&self) -> Result<u64>;

    /// The number of write transactions that this handle has committed.
    fn commits(&self) -> u64;
}

/// A store shared by all who use it.
pub type SharedStore = Arc<dyn Store>;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A module in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleInfo {
    pub digest: Digest,
    pub name: String,
    pub bytes: u64,
    pub added_at: Timestamp,
}

/// The process that advances a run.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Owner {
    /// The machine, and which boot of it.
    pub host: String,
    pub pid: u32,
    /// When the process began, in the units of the operating system: tells it
    /// from a later one with the same pid.
    pub started: u64,
}

/// A run that is to be created.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub id: RunId,
    /// The same key gives the same run.
    pub key: Option<String>,
    pub workflow: String,
    /// Has to be in the store.
    pub module: Digest,
    pub labels: Vec<(String, String)>,
    pub parent: Option<RunId>,
    pub created_at: Timestamp,
    pub owner: Owner,
    pub lease_until: Timestamp,
    /// The first entries of the journal, at position 0.
    pub row: Row,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Created {
    New,
    /// The key belongs to this run already.
    Known(RunId),
}

/// A request to advance a run.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub run: &'a RunId,
    pub owner: &'a Owner,
    pub now: Timestamp,
    pub until: Timestamp,
    pub dead: Option<&'a Owner>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Claimed {
    /// The run is the caller's. `emissions`: how many are stored.
    Yes {
        epoch: Epoch,
        emissions: u64,
    },
    /// Somebody else's lease is running.
    Held {
        owner: Owner,
        until: Timestamp,
    },
    /// The run has ended.
    Ended,
    NoSuchRun,
}

/// The states of a run that are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RunState {
    /// Somebody advances it, or did when he died.
    Running,
    /// It waits for time or signals only.
    Waiting,
    /// Its module departs from its journal; nothing is lost.
    Refused,
    Completed,
    Failed,
    Cancelled,
}

impl RunState {
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Waiting, Self::Refused, Self::Completed, Self::Failed, Self::Cancelled];

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing can change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Entries and all that goes into the same transaction.
#[derive(Clone, Debug)]
pub struct Append {
    pub run: RunId,
    pub epoch: Epoch,
    /// The time of the last entry.
    pub at: Timestamp,
    /// None if only the rest changes.
    pub row: Option<Row>,
    /// Messages of the run's inbox that these entries record.
    pub consumed: Vec<MessageId>,
    /// What the program gave out, in order; `first_emission` numbers the first.
    pub first_emission: u64,
    pub emissions: Vec<Emission>,
    /// What becomes of the run.
    pub next: Next,
}

/// What a program gives out without an entry of its own.
#[derive(Clone, PartialEq, Debug)]
pub enum Emission {
    Log(LogLine),
    State { key: String, value: Json },
    Phase { title: String, at: Timestamp },
}

/// A line of a run's log.
#[derive(Clone, PartialEq, Debug)]
pub struct LogLine {
    /// Its number among the run's emissions.
    pub number: u64,
    /// Virtual time.
    pub at: Timestamp,
    pub level: LogLevel,
    pub message: String,
    pub fields: Vec<(String, String)>,
}

/// How much a line of the log matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What becomes of a run with an append.
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    /// It goes on; the lease stays.
    Go,
    /// It waits, and the lease is given up, unless a message that could wake
    /// it is in its inbox: then it goes on as with `Go`, and
    /// [`Appended::due`] says so.
    Park(Waiting),
    /// The module departs from the journal; the lease is given up.
    Refuse { reason: String },
    /// It has ended; the lease is given up.
    End { outcome: Outcome },
}

/// What a parked run waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// The earliest deadline.
    pub until: Option<Timestamp>,
    /// The names of signals, sorted. Requests to stop always wake a run.
    pub signals: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// The run was to be parked, but something for it has come in.
    pub due: bool,
}

/// The place of a message among all messages: later ones are greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub i64);

#[derive(Clone, PartialEq, Debug)]
pub struct NewMessage {
    pub run: RunId,
    pub at: Timestamp,
    pub body: MessageBody,
}

/// Something from outside to a run.
#[derive(Clone, PartialEq, Debug)]
pub enum MessageBody {
    Signal { name: String, payload: Json, id: Option<String> },
    Cancel { reason: Option<String> },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    pub id: MessageId,
    /// When it was posted.
    pub at: Timestamp,
    pub body: MessageBody,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Posted {
    Added,
    /// A signal with this id was posted to the run before.
    Duplicate,
    /// The run has ended.
    Ended,
    NoSuchRun,
}

/// What is known of a run without reading its journal.
#[derive(Clone, PartialEq, Debug)]
pub struct RunInfo {
    pub id: RunId,
    pub key: Option<String>,
    pub workflow: String,
    pub module: Digest,
    pub state: RunState,
    pub labels: Vec<(String, String)>,
    pub parent: Option<RunId>,
    pub created_at: Timestamp,
    /// The time of the latest entry.
    pub updated_at: Timestamp,
    /// The number of entries.
    pub entries: Position,
    /// The latest phase that the program named.
    pub phase: Option<String>,
    /// How it ended, if it has; why it is refused, if it is.
    pub outcome: Option<Outcome>,
    /// While it is parked.
    pub waiting: Option<Waiting>,
    pub epoch: Epoch,
    /// Who advances it, and until when the lease runs.
    pub lease: Option<(Owner, Timestamp)>,
}

/// Which runs to list.
#[derive(Clone, PartialEq, Debug)]
pub struct RunFilter {
    pub states: Vec<RunState>,
    pub workflow: Option<String>,
    /// All of these.
    pub labels: Vec<(String, String)>,
    /// Ids that begin with this.
    pub prefix: Option<String>,
    /// Only runs created before this one.
    pub before: Option<RunId>,
    pub limit: usize,
}

impl Default for RunFilter {
    fn default() -> Self {
        Self { states: Vec::new(), workflow: None, labels: Vec::new(), prefix: None, before: None, limit: 50 }
    }
}

/// Why the store could not do what it was asked for. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process advances {run} by now")]
    Fenced { run: RunId },
    #[error("there is a run {id} already")]
    IdTaken { id: RunId },
    #[error("module {0} is not in the store")]
    NoSuchModule(Digest),
    #[error("the database {path} cannot be opened: {reason}")]
    CannotOpen { path: String, reason: String },
    #[error("the database {path} cannot be written to")]
    ReadOnly { path: String },
    #[error("the disk that holds {path} is full")]
    Full { path: String },
    #[error("the database {path} is locked by another program")]
    Locked { path: String },
    #[error("the database {path} has format {found}, this wfhost knows formats up to {known}")]
    Newer { path: String, found: u32, known: u32 },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: String, reason: String },
    #[error("{path} is no database of wfhost")]
    Foreign { path: String },
    #[error("the database {path} failed: {reason}")]
    Failed { path: String, reason: String },
}

impl StoreError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "WF0301",
            Self::IdTaken { .. } => "WF0302",
            Self::NoSuchModule(_) => "WF0303",
            Self::CannotOpen { .. } => "WF0310",
            Self::ReadOnly { .. } => "WF0311",
            Self::Full { .. } => "WF0312",
            Self::Locked { .. } => "WF0313",
            Self::Newer { .. } => "WF0314",
            Self::Damaged { .. } => "WF0315",
            Self::Foreign { .. } => "WF0316",
            Self::Failed { .. } => "WF0317",
        }
    }
}
