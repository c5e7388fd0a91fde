//! What is kept of runs, and the contract of keeping it.
//!
//! A [`Store`] holds modules, runs with their journals, and what was sent to
//! runs. Each method says what is true after it returned `Ok`, also when the
//! process or the machine dies right then. A method that returns an error, or
//! whose future is dropped, has either done all of it or nothing.
//!
//! Everything but journals and inboxes is a projection of journals.

mod append;
#[cfg(test)]
mod conformance;
mod error;
mod mem;
mod message;
mod runs;
pub mod schedule;
mod sqlite;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Digest, Epoch, FailureKind, Json, Machine, OnParentClose, Outcome, Position, Question, QuestionChange,
    Row, RunId, Step, Timestamp,
};

use crate::schedule::Schedule;

pub use self::append::*;
pub use self::error::StoreError;
pub use self::mem::MemStore;
pub use self::message::*;
pub use self::runs::*;
pub use self::sqlite::{SqliteOptions, SqliteStore, Synchronous};
pub use wfhost_core::{
    Emission, LogLevel, LogLine, NewTranscript, TranscriptFilter, TranscriptKind, TranscriptLine,
};
pub use wfhost_world::Owner;

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
    /// epoch, unless [`Claim::how`] forbids it or somebody else's lease is
    /// running at `now`. `dead`: an owner that the caller knows to have died;
    /// its lease counts as over. The claim is counted until it brings forth an
    /// entry or ends in order.
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Claimed>>;

    /// Extends the leases of these runs to `until`. Gives those whose epoch is
    /// not the current one any more: they are lost.
    fn renew<'a>(
        &'a self,
        leases: &'a [(RunId, Epoch)],
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<RunId>>>;

    /// Gives a lease up: the run is due at once, for whoever can advance it.
    /// `trouble` is why the caller could not. Nothing happens if the lease is
    /// lost already.
    fn release<'a>(
        &'a self,
        run: &'a RunId,
        epoch: Epoch,
        trouble: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>>;

    /// A run that nobody advances because it is paused or refused is due again. False if it is not
    /// in such a state.
    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>>;

    /// Appends to a journal, in one transaction with everything that goes with
    /// it. [`StoreError::Fenced`], and nothing changed, if the epoch is not the
    /// current one or the journal does not end at `append.row.first`.
    ///
    /// Whoever appends, if only an empty set, has come forward: claims are
    /// counted anew ([`Claimed::Yes`]).
    ///
    /// Appends of several runs that arrive while a commit is under way share
    /// the next one.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>>;

    /// The rows of a journal in their order, from the one that begins at or
    /// behind `from`.
    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>>;

    /// Puts a run with all that belongs to it into the store, as it was taken
    /// out of another one. A run that has not ended is paused.
    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>>;

    /// Replaces what is kept of a run besides its journal and its inbox. False, and nothing is
    /// changed, if somebody advances it or its journal has another end.
    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>>;

    /// Removes a run with everything that belongs to it. Its id is not given
    /// to another one.
    fn delete<'a>(&'a self, run: &'a RunId, now: Timestamp) -> BoxFuture<'a, Result<Deleted>>;

    /// Removes modules that no run is executed with and that were added before
    /// `before`. Gives how many.
    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>>;

    // Work.

    /// Runs that can be advanced at `now`: they wait for nobody, their deadline
    /// has come, something was sent to them, or their lease is over. Those that
    /// have begun come before those that have not, so that many new ones hold up
    /// nobody's deadline; among each, those that were due first.
    fn due(&self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<RunId>>>;

    /// When the next run will be due that is not so at `now`.
    fn next_due(&self, now: Timestamp) -> BoxFuture<'_, Result<Option<Timestamp>>>;

    /// The processes that have leases.
    fn owners(&self) -> BoxFuture<'_, Result<Vec<Owner>>>;

    /// The runs that a process has leases of.
    fn owned<'a>(&'a self, owner: &'a Owner) -> BoxFuture<'a, Result<Vec<RunId>>>;

    // What comes from outside.

    /// Puts a message into the inbox of a run, where the next host that
    /// advances it will find it, and makes the run due if it waits for that.
    /// With a signal's id that was used before for this run nothing is added.
    /// A run that nobody advances is paused at once, without a message.
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

    /// What a run has posted for outsiders, with a number greater than `after`, in order.
    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>>;

    /// Questions that nobody has answered, oldest first; of one run or of all.
    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>>;

    /// What was committed behind the place `after`, of all runs, in order.
    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>>;

    /// What a run has published: the latest value of each key, by key.
    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>>;

    /// All that a run has published, of one key or of all, in order.
    fn published<'a>(&'a self, run: &'a RunId, key: Option<&'a str>)
    -> BoxFuture<'a, Result<Vec<Published>>>;

    /// The children of a run that have ended and belong to this step or a later one.
    fn ended_children<'a>(&'a self, parent: &'a RunId, from: Step) -> BoxFuture<'a, Result<Vec<RunInfo>>>;

    /// What all runs of a family have spent, and what they may spend together.
    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>>;

    /// Adds to the transcripts of a run. Nothing happens if the run is gone.
    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>>;

    /// What the agents of a run said while they worked, with a number greater
    /// than `after`, in order; of one step or of all.
    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>>;

    /// Keeps an answer for calls that ask the same; one that is there is replaced.
    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>>;

    /// The answer that was kept, and when it was given.
    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>>;

    // Schedules.

    /// Keeps a schedule. False if there is one of that name, unless it is to be `replace`d.
    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>>;

    /// All schedules, by name.
    fn schedules(&self) -> BoxFuture<'_, Result<Vec<Schedule>>>;

    /// Sets when a schedule fires next; never while that is none. False if there is none of that name.
    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>>;

    /// Removes a schedule; its runs stay. False if there is none of that name.
    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// The schedules that are due at `now`, and when the next of the others is.
    fn due_schedules(&self, now: Timestamp) -> BoxFuture<'_, Result<(Vec<Schedule>, Option<Timestamp>)>>;

    /// Carries out one firing of a schedule, if nobody did so before. False if somebody did.
    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>>;

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
