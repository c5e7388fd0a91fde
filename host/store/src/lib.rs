//! What is kept of runs, and the contract of keeping it.
//!
//! A [`Store`] holds modules, runs with their journals, and what was sent to
//! runs. Each method says what is true after it returned `Ok`, also when the
//! process or the machine dies right then. A method that returns an error, or
//! whose future is dropped, has either done all of it or nothing;
//! [`StoreError::Unknown`] alone leaves open which.
//!
//! Everything but journals and inboxes is a projection of journals.
//!
//! Hosts on several machines may share a store. Each begins a session, renews
//! it, and claims runs under it. Whoever finds that a session is over fences
//! it: from then on nothing is appended under it any more, and all its runs
//! are due. Time is the store's: callers give lengths, never points of their
//! own clock, except for what is part of a journal.

mod access;
mod append;
pub mod claims;
mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(test)]
mod contract;
pub mod copy;
mod cron;
mod error;
mod limits;
mod mem;
mod message;
mod numbers;
mod outbox;
mod runs;
pub mod schedule;
mod session;
mod sqlite;
mod wake;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Digest, Epoch, FailureKind, Given, Json, Machine, OnParentClose, Outcome, Position, Question,
    QuestionChange, Row, RunId, Step, Timestamp,
};

use crate::schedule::Schedule;

pub use self::access::*;
pub use self::append::*;
pub use self::clock::{Clock, SystemClock};
pub use self::error::StoreError;
pub use self::limits::*;
pub use self::mem::MemStore;
pub use self::message::*;
pub use self::numbers::*;
pub use self::outbox::*;
pub use self::runs::*;
pub use self::session::*;
pub use self::sqlite::{SqliteOptions, SqliteStore, Synchronous};
pub use self::wake::*;
pub use wfhost_core::{
    Emission, LogLevel, LogLine, NewTranscript, TranscriptFilter, TranscriptKind, TranscriptLine,
};
pub use wfhost_world::Owner;

/// A place where runs are kept. Cheap to clone behind an [`Arc`]; one for each
/// process and database.
///
/// Crash contract in general: what a method reports as done survives the death
/// of the process, and with [`Synchronous::Full`] that of the machine.
///
/// Writes that concern one run happen one after the other, whichever process makes them:
/// what is posted is either seen by the append that parks or ends the run, or
/// makes the run due, or is refused.
pub trait Store:
    Sessions + Work + Journals + Mail + Views + Extras + Access + Outbox + Limits + fmt::Debug
{
}

impl<T> Store for T where
    T: Sessions + Work + Journals + Mail + Views + Extras + Access + Outbox + Limits + fmt::Debug
{
}

/// Who may write: hosts, each for as long as it renews its session.
pub trait Sessions: Send + Sync {
    /// The present time of the store, by which deadlines are judged.
    fn now(&self) -> Timestamp;

    /// Begins a session of `owner`, which is over when it was not renewed for
    /// `lease_ms` milliseconds.
    fn begin_session<'a>(&'a self, owner: &'a Owner, lease_ms: u64) -> BoxFuture<'a, Result<SessionId>>;

    /// Renews a session, for all its runs, also one that is over if nobody has
    /// fenced it. [`Kept::Fenced`]: its runs are lost, and it does not come back.
    fn keep(&self, session: SessionId) -> BoxFuture<'_, Result<Kept>>;

    /// The sessions that nobody has ended or fenced.
    fn sessions(&self) -> BoxFuture<'_, Result<Vec<Session>>>;

    /// Ends a session in the place of its owner: nothing is appended under it
    /// any more, and all its runs are due. With [`Fence::IfOver`] only if it was
    /// not renewed in time. Gives how many runs it had.
    fn fence(&self, session: SessionId, fence: Fence) -> BoxFuture<'_, Result<u64>>;

    /// Gives up the runs of one's own session, all but these: for a claim of which it is not known
    /// whether it was made. They are due for others, and it does not count as a failure of theirs.
    fn shed(&self, session: SessionId, keep: Vec<RunId>) -> BoxFuture<'_, Result<u64>>;

    /// The runs that a session has, and the epoch of each, in no order.
    fn held(&self, session: SessionId) -> BoxFuture<'_, Result<Vec<(RunId, Epoch)>>>;

    /// Ends one's own session; runs that it still has are due for others, and
    /// it does not count as a failure of theirs.
    fn end_session(&self, session: SessionId) -> BoxFuture<'_, Result<u64>>;
}

/// Which runs are to be advanced, and by whom.
pub trait Work: Send + Sync {
    /// Claims one run: makes the session the one that advances it, under a new
    /// epoch, unless `how` forbids it or another session has it that is not
    /// over (which only [`ClaimHow::Seize`] overrules). A run that the session has already is given to it once more. The claim is counted as a start until the run comes forward or is
    /// given up in order; see [`Work::set_starts`].
    fn claim<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        how: ClaimHow,
    ) -> BoxFuture<'a, Result<Claimed>>;

    /// Claims up to `limit` runs that are due: they wait for nobody, their
    /// deadline has come, something was sent to them, or whoever had them is
    /// gone. Those that have begun come before those that have not, except for
    /// a share of at least a quarter over time, so that neither holds up the
    /// other for ever; among each, those that were due first.
    fn claim_due(&self, session: SessionId, limit: usize, wanted: Wanted) -> BoxFuture<'_, Result<Due>>;

    /// Makes runs due that were parked, or put off because of a trouble, by a clock which was ahead of this one: by that
    /// they would wait too long. So does it with deliveries, and with cursors that are held. Gives how many runs these were.
    fn put_right(&self) -> BoxFuture<'_, Result<u64>>;

    /// Sets how often a run that the session has was started without coming
    /// forward. For a claim that is held up before the program begins: whoever
    /// dies meanwhile says nothing about the program.
    fn set_starts<'a>(
        &'a self,
        session: SessionId,
        run: &'a RunId,
        epoch: Epoch,
        starts: u32,
    ) -> BoxFuture<'a, Result<()>>;

    /// A run that nobody advances because it is paused or refused is due again, and requests to pause
    /// are void, also those that the host which advances it has read. That host looks for it now and then; some stores
    /// tell it at once. False if it neither is in such a state nor is to be.
    fn unpause<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<bool>>;

    /// Waits for something that other users of the database did, and gives it:
    /// see [`Wake`]. `seen` is where the last call stopped; a fresh one sees
    /// [`Wake::Gap`] first. Several may wait, each with its own place.
    fn wakes<'a>(&'a self, seen: &'a mut Seen) -> BoxFuture<'a, Result<Vec<Wake>>>;
}

/// Runs with their journals.
pub trait Journals: Send + Sync {
    /// Creates a run with its first entries, advanced by `run.session` under
    /// epoch 1. If its workflow has a run with that key, that one is reported
    /// instead and nothing is created; [`StoreError::KeyUsed`] if it was started
    /// with another module or input. An id that is taken is
    /// [`StoreError::IdTaken`].
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>>;

    /// Appends to a journal, in one transaction with everything that goes with
    /// it. [`StoreError::Fenced`], and nothing changed, if the run is not the
    /// session's under that epoch, or if the journal does not end at
    /// `append.row.first` with the head `append.before`. [`StoreError::Raced`],
    /// and nothing changed, if it would make void what was sent to the run and
    /// not taken: see [`Next`].
    ///
    /// Whoever appends, if only an empty set, has come forward: claims are
    /// counted anew ([`Opened::starts`]).
    ///
    /// Appends of several runs that arrive while a commit is under way share
    /// the next one. Several implementations try an append again by themselves;
    /// they lock a parent before its children.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>>;

    /// The rows of a journal in their order, from the one that begins at or
    /// behind `from`.
    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>>;

    /// At most `limit` rows of a journal in their order, from the one that holds `from` on, until they have
    /// [`CHANGES_BYTES`] together: the journal ends where the next part is empty.
    fn journal_part<'a>(
        &'a self,
        run: &'a RunId,
        from: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>>>;

    /// The position of the last commit of all runs; 0 if there are no commits.
    fn last_place(&self) -> BoxFuture<'_, Result<u64>>;

    /// What was committed behind the place `after`, of all runs, in order: at most `limit` commits, until they have
    /// [`CHANGES_BYTES`] together; see [`Change::may_go_on`]. A
    /// place appears only when all before it have. Commits that cannot be read are left out.
    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>>;

    /// Puts a run with all that belongs to it into the store, as it was taken
    /// out of another one. A run that has not ended is paused.
    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>>;

    /// Replaces what is kept of a run besides its journal and its inbox. False, and nothing is
    /// changed, if somebody advances it or its journal has another end.
    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>>;

    /// Removes a run with everything that belongs to it; turns that its steps wait
    /// for are given back. Its id is not given to another one. Earlier rounds of a run that has not ended are kept:
    /// what is sent to them is passed on.
    fn delete<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Deleted>> {
        self.delete_if(run, DeleteIf::default())
    }

    /// The same, if the run still is what it was when somebody chose it: [`Deleted::Changed`] if not.
    fn delete_if<'a>(&'a self, run: &'a RunId, only: DeleteIf) -> BoxFuture<'a, Result<Deleted>>;
}

/// What comes from outside.
pub trait Mail: Send + Sync {
    /// Puts a message into the inbox of a run, where the host that advances it
    /// will find it, and makes the run due if it waits for that. With a signal's
    /// id that was used before for this run, or another round of it, nothing is
    /// added. An answer has to come before the deadline of its question. A run
    /// that nobody advances is paused at once, without a message; one that was
    /// asked to stop is not paused any more. A request to pause stays in the
    /// inbox until [`Next::Pause`], or until somebody asks for the run to go on.
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>>;

    /// A part of the messages that a run has not taken yet.
    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, Result<Inbox>>;
}

/// Looking at runs.
pub trait Views: Send + Sync {
    /// What is known of one run.
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>>;

    /// Runs, newest first, and which of them cannot be read. [`StoreError::TooLong`] if that takes longer than the
    /// filter has patience.
    fn list_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Listed>>;

    /// Only those that can be read.
    fn runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Vec<RunInfo>>> {
        Box::pin(async move { Ok(self.list_runs(filter).await?.known) })
    }

    /// How many runs that would be, at most the filter's limit. [`StoreError::TooLong`] as for them.
    fn count_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<u64>>;

    /// How many runs are in each state; states without any may be left out.
    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>>;

    /// How much there is to do, and how large the store is.
    fn load(&self) -> BoxFuture<'_, Result<Load>>;

    /// Whether a run of this family can be advanced now, or is advanced.
    fn busy_relatives<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<bool>>;

    /// The children of a run that belong to these steps and have ended.
    fn ended_children<'a>(
        &'a self,
        parent: &'a RunId,
        steps: &'a [Step],
    ) -> BoxFuture<'a, Result<Vec<RunInfo>>>;

    /// What all runs of a family have spent, those included that were deleted,
    /// and what they may spend together.
    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>>;

    /// Lines of a run's log with a number of at least `from`, in order.
    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>>;

    /// What a run has posted for outsiders, with a number greater than `after`, in order.
    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>>;

    /// Questions that nobody has answered, oldest first; of one run or of all. With `open_at` only those whose
    /// deadline is later: of the others the run has only not been told yet that their time is over.
    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        open_at: Option<Timestamp>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>>;

    /// The question that a run asks at a step, if nobody has answered it.
    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>>;

    /// A run with all that is kept of it, as it is at one moment: for what is copied elsewhere.
    fn snapshot<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<Snapshot>>>;

    /// What a run has published: the latest value of each key, by key.
    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>>;

    /// What a run has published, with a number greater than `after`: the latest value of one key, or of each, by
    /// key. The values before are not read.
    fn latest<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>>;

    /// What a run has published with a number greater than `after`, of one key
    /// or of all, in order.
    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>>;

    /// What the agents of a run said while they worked, with a number greater
    /// than `after`, in order; of one step or of all.
    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>>;

    /// The number of the last line of a run's transcript, of whichever kind; 0 if there is none. All with smaller
    /// numbers can be read, too.
    fn transcript_end<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<u64>>;

    /// The payload of the last heartbeat that was kept of a step.
    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>>;
}

/// What is kept besides runs.
pub trait Extras: Send + Sync {
    /// Keeps a module's bytes under their BLAKE3 digest. Putting them again changes nothing, but they are not removed as
    /// unused for a while.
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>>;

    /// The bytes of a module. [`StoreError::Damaged`] if they do not have this digest any more.
    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// What is known of a module.
    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>>;

    /// The newest module of that name.
    fn module_named<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<ModuleInfo>>>;

    /// All modules, by name and then newest first.
    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>>;

    /// Removes modules that no run is executed with and that were put there before
    /// `before`, the last time within [`BLOB_RENEWED_MS`]. Gives how many.
    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>>;

    /// Keeps bytes that runs need besides their modules under their BLAKE3 digest. Putting them again changes
    /// nothing but when they were added, if that was longer ago than [`BLOB_RENEWED_MS`].
    fn put_blob<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>>;

    /// Such bytes. [`StoreError::Damaged`] if they do not have this digest any more.
    fn blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// Whether any were added before `before`. A store that cannot tell says so of any.
    fn has_blobs(&self, before: Timestamp) -> BoxFuture<'_, Result<bool>> {
        let _ = before;
        Box::pin(std::future::ready(Ok(true)))
    }

    /// Removes those that were added before `before`, except for some. Gives how many.
    fn delete_blobs(&self, before: Timestamp, except: Vec<Digest>) -> BoxFuture<'_, Result<usize>>;

    /// Adds to the transcripts of a run. Nothing happens if the run is gone.
    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>>;

    /// Keeps an answer for calls that ask the same; one that is there is
    /// replaced. Answers take [`KEPT_ANSWERS_BYTES`] together: beyond that the
    /// oldest go.
    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>>;

    /// The answer that was kept, and when it was given.
    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>>;

    /// Removes kept answers that were given before `before`. Gives how many.
    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>>;

    /// Keeps a schedule. False if there is one of that name, unless it is to be `replace`d: then the new one goes on from
    /// the runs that the old one has begun, so that its last run is not overlooked.
    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>>;

    /// All schedules, by name.
    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>>;

    /// Sets when a schedule fires next; with none it is paused. False if the schedule does not exist.
    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>>;

    /// Removes a schedule; its runs stay. False if the schedule does not exist.
    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>>;

    /// Up to `limit` schedules that are due at the store's time, behind the one of that time and name.
    fn due_schedules(
        &self,
        behind: Option<(Timestamp, String)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DueSchedules>>;

    /// Carries out one firing of a schedule, if nobody did so before. False if somebody did.
    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>>;

    /// What the store is told by, wherever it is moved to; a copy has the same. Letters and digits.
    fn identity(&self) -> BoxFuture<'_, Result<String>>;

    /// The number of write transactions that this handle has committed.
    fn commits(&self) -> u64;

    /// Whether the store is still the one that was opened:
    /// [`StoreError::Moved`] if not.
    fn check_place(&self) -> Result<()>;
}

/// A store shared by all who use it.
pub type SharedStore = Arc<dyn Store>;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Bytes that are put again count as added anew if they were added longer ago than this, in milliseconds. So one who
/// removes what was added before that, and that no run needs, takes nothing from a run that begins at this moment.
pub const BLOB_RENEWED_MS: u64 = 3_600_000;

/// Of commits no more are read at once when they take this together, in bytes. The last may be as large as one can be.
pub const CHANGES_BYTES: usize = 8 << 20;

/// What kept answers take together at most, in bytes.
pub const KEPT_ANSWERS_BYTES: u64 = 1 << 30;
