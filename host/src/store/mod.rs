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
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    Digest, Epoch, FailureKind, Json, Machine, OnParentClose, Outcome, Position, Question, QuestionChange,
    Row, RunId, Step, Timestamp,
};

use crate::schedule::Schedule;

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
#[derive(Clone, PartialEq, Debug)]
pub struct NewRun {
    pub id: RunId,
    /// The same key gives the same run.
    pub key: Option<String>,
    pub workflow: String,
    /// Has to be in the store.
    pub module: Digest,
    pub labels: Vec<(String, String)>,
    pub parent: Option<RunId>,
    pub links: Links,
    pub budget: Budget,
    pub created_at: Timestamp,
    /// The time of the last entry.
    pub updated_at: Timestamp,
    /// Who advances it, until when; if nobody does, it is due at once.
    pub lease: Option<(Owner, Timestamp)>,
    /// The first entries of the journal, from position 0 on.
    pub rows: Vec<Row>,
    /// What is in its inbox from the beginning.
    pub inbox: Vec<MessageBody>,
    /// The questions that it asks already, and the children that it waits for.
    pub questions: Vec<QuestionChange>,
    pub children: Vec<NewRun>,
}

impl NewRun {
    /// A run as its first entries make it.
    pub fn new(machine: &Machine, rows: Vec<Row>) -> Self {
        let started = machine.started();
        Self {
            id: machine.run().clone(),
            key: None,
            workflow: started.workflow.clone(),
            module: machine.module(),
            labels: started.labels.clone(),
            parent: machine.parent().cloned(),
            links: Links::of(machine),
            budget: machine.budget(),
            created_at: machine.last_at(),
            updated_at: machine.last_at(),
            lease: None,
            rows,
            inbox: Vec::new(),
            questions: Vec::new(),
            children: Vec::new(),
        }
    }
}

/// How a run belongs to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Links {
    /// The step of its parent, if it has one, that waits for it.
    pub step: Option<Step>,
    /// What becomes of it when its parent ends first.
    pub on_close: Option<OnParentClose>,
    /// The run at the top of its family, which may be itself.
    pub root: RunId,
    /// The first round, if it is one of several.
    pub chain: Option<RunId>,
    /// The run that it goes on as.
    pub next: Option<RunId>,
}

impl Links {
    /// What a journal says.
    pub fn of(machine: &Machine) -> Self {
        let next = machine.continued_as().cloned();
        let is_round = next.is_some() || machine.round().1 > 1;
        Self {
            step: machine.child().map(|child| child.step),
            on_close: machine.child().map(|child| child.on_close),
            root: machine.root().clone(),
            chain: is_round.then(|| machine.round().0.clone()),
            next,
        }
    }
}

/// One firing of a schedule.
#[derive(Clone, PartialEq, Debug)]
pub struct Fire {
    pub schedule: String,
    /// The time that it was due at.
    pub due: Timestamp,
    /// The time that it is due at next.
    pub next: Option<Timestamp>,
    /// The run that begins, if one does.
    pub run: Option<NewRun>,
    /// The run that is cancelled.
    pub cancel: Option<(RunId, Timestamp)>,
}

/// What the runs of a family may spend and have spent together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Family {
    pub budget: Budget,
    pub spent: Spent,
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
    pub how: ClaimHow,
}

/// Which runs a claim is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimHow {
    /// Those that are due.
    Due,
    /// Any that has not ended: somebody asked for it.
    Asked,
    /// Also those that failed or were cancelled.
    Reopen,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Claimed {
    /// The run is the caller's.
    Yes {
        epoch: Epoch,
        /// How many are stored.
        emissions: u64,
        /// Claims since the last entry that did not end in order, this one included.
        starts: u32,
        /// The module that it is executed with.
        module: Digest,
    },
    /// It is paused, refused, or waits for something that has not happened.
    NotDue,
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
    /// Nobody has advanced it yet.
    Queued,
    /// Somebody advances it, or did when he died.
    Running,
    /// It waits for time or signals only.
    Waiting,
    /// Somebody asked for it to be left alone.
    Paused,
    /// Its module departs from its journal; nothing is lost.
    Refused,
    Completed,
    Failed,
    Cancelled,
    /// It ended and goes on as another run.
    Continued,
}

impl RunState {
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Paused,
        Self::Refused,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Continued,
    ];

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Refused => "refused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Continued => "continued",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The state of a run that ended so; `Running` if it has not.
    pub fn of(outcome: Option<&Outcome>) -> Self {
        match outcome {
            None => Self::Running,
            Some(Ok(_)) => Self::Completed,
            Some(Err(failure)) if failure.kind == FailureKind::Cancelled => Self::Cancelled,
            Some(Err(_)) => Self::Failed,
        }
    }

    /// Whether nothing can change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Continued)
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
    /// Questions that these entries ask or close.
    pub questions: Vec<QuestionChange>,
    /// The module that the run is executed with from now on.
    pub module: Option<Digest>,
    /// Children that these entries start. One whose id is somebody else's is
    /// not created: its failure is put into the inbox of this run.
    pub children: Vec<NewRun>,
    /// Steps whose children nobody waits for any more: those that are to be
    /// cancelled then are.
    pub dropped: Vec<Step>,
    /// What the run has spent by itself and what it may spend, if one of the two changed.
    pub ledger: Option<(Spent, Budget)>,
    /// What becomes of the run.
    pub next: Next,
}

impl Append {
    /// An append of nothing.
    pub fn new(run: RunId, epoch: Epoch, at: Timestamp, next: Next) -> Self {
        Self {
            run,
            epoch,
            at,
            row: None,
            consumed: Vec::new(),
            first_emission: 0,
            emissions: Vec::new(),
            questions: Vec::new(),
            module: None,
            children: Vec::new(),
            dropped: Vec::new(),
            ledger: None,
            next,
        }
    }
}

/// What a program gives out without an entry of its own.
#[derive(Clone, PartialEq, Debug)]
pub enum Emission {
    Log(LogLine),
    State {
        key: String,
        value: Json,
        at: Timestamp,
    },
    /// Also a line of the log, with the field `phase`.
    Phase {
        title: String,
        at: Timestamp,
    },
    Message {
        name: String,
        payload: Json,
        at: Timestamp,
    },
}

/// What a run posted for outsiders.
#[derive(Clone, PartialEq, Debug)]
pub struct OutMessage {
    /// Its number among the run's emissions: greater for later ones.
    pub number: u64,
    /// Virtual time.
    pub at: Timestamp,
    pub name: String,
    pub payload: Json,
}

/// A value that a run published.
#[derive(Clone, PartialEq, Debug)]
pub struct Published {
    /// Its number among the run's emissions: greater for later ones.
    pub number: u64,
    /// Virtual time.
    pub at: Timestamp,
    pub key: String,
    pub value: Json,
}

/// A question that waits for an answer.
#[derive(Clone, PartialEq, Debug)]
pub struct OpenQuestion {
    pub run: RunId,
    pub workflow: String,
    pub step: Step,
    pub asked_at: Timestamp,
    pub deadline: Option<Timestamp>,
    pub question: Question,
}

/// What one commit appended to one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The place among all commits: later ones are greater.
    pub place: u64,
    pub run: RunId,
    pub row: Row,
}

/// A run as it is taken from one store to another.
#[derive(Clone, PartialEq, Debug)]
pub struct ImportedRun {
    /// The lease is not taken along.
    pub info: RunInfo,
    pub rows: Vec<Row>,
    pub emissions: u64,
    pub logs: Vec<LogLine>,
    pub messages: Vec<OutMessage>,
    pub state: Vec<Published>,
    pub inbox: Vec<Message>,
    pub questions: Vec<QuestionChange>,
}

/// What is kept of a run besides its journal, derived from that.
#[derive(Clone, PartialEq, Debug)]
pub struct Rebuilt {
    /// The key, the epoch, the lease and the trouble are not changed.
    pub info: RunInfo,
    /// All that the program gave out, from number 0; left as it is if none.
    pub emissions: Option<Vec<Emission>>,
    pub questions: Vec<QuestionChange>,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Deleted {
    Yes,
    /// Somebody advances it.
    Held {
        owner: Owner,
        until: Timestamp,
    },
    NoSuchRun,
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

impl LogLine {
    /// The line that a phase leaves in the log.
    pub fn phase(number: u64, at: Timestamp, title: &str) -> Self {
        let fields = vec![("phase".to_owned(), title.to_owned())];
        Self { number, at, level: LogLevel::Info, message: format!("phase: {title}"), fields }
    }
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

/// What a line of a transcript is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum TranscriptKind {
    /// A line of the answer, for people who watch.
    Answer,
    /// A line about the work, for people who watch.
    Progress,
    /// One event as the provider sent it.
    Event,
    /// How far the work was: the payload of a heartbeat.
    Heartbeat,
    /// What the attempt changed in its workspace, as a unified diff.
    Diff,
}

impl TranscriptKind {
    pub const ALL: [Self; 5] = [Self::Answer, Self::Progress, Self::Event, Self::Heartbeat, Self::Diff];

    /// The word that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Progress => "progress",
            Self::Event => "event",
            Self::Heartbeat => "heartbeat",
            Self::Diff => "diff",
        }
    }

    /// Whether it is a line for people who watch.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Answer | Self::Progress)
    }
}

/// A line of a transcript that is to be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTranscript {
    pub step: Step,
    pub attempt: u32,
    pub at: Timestamp,
    pub kind: TranscriptKind,
    pub text: String,
}

/// A line of a transcript.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TranscriptLine {
    /// Greater for later ones.
    pub number: u64,
    pub line: NewTranscript,
}

/// Which lines of a run's transcripts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TranscriptFilter {
    /// Only with a greater number.
    pub after: u64,
    pub step: Option<Step>,
    /// Only these kinds; all if empty.
    pub kinds: Vec<TranscriptKind>,
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
    /// It is left alone until somebody asks for it; the lease is given up.
    Pause,
    /// The module departs from the journal; the lease is given up.
    Refuse { reason: String },
    /// It has ended; the lease is given up, its parent is told, and children
    /// that are to end with it are cancelled. `spent`: with its children.
    End { outcome: Outcome, spent: Spent },
    /// It has ended and goes on as that run, which is created and takes over
    /// what is in its inbox.
    Continue { run: Box<NewRun> },
}

/// What a parked run waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Waiting {
    /// The earliest deadline.
    pub until: Option<Timestamp>,
    /// The names of signals, sorted. Requests to stop and answers always wake a run.
    pub signals: Vec<String>,
    /// Whether it waits for answers of people.
    pub people: bool,
}

impl Waiting {
    /// Whether this wakes the run.
    pub fn is_for(&self, body: &MessageBody) -> bool {
        match body {
            MessageBody::Signal { name, .. } => self.signals.contains(name),
            MessageBody::Cancel { .. }
            | MessageBody::Pause
            | MessageBody::Answer { .. }
            | MessageBody::Child { .. } => true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Something for it has come in: it was not parked if it was to be, or a
    /// child could not be started.
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
    Signal {
        name: String,
        payload: Json,
        id: Option<String>,
    },
    Cancel {
        reason: Option<String>,
    },
    /// Begins nothing new.
    Pause,
    /// Ends a question.
    Answer {
        step: Step,
        outcome: Outcome,
        by: Option<String>,
        note: Option<String>,
    },
    /// A child ended, or could not be started. `spent`: by it and its children.
    Child {
        step: Step,
        run: RunId,
        outcome: Outcome,
        spent: Spent,
    },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    pub id: MessageId,
    /// When it was posted.
    pub at: Timestamp,
    pub body: MessageBody,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Posted {
    Added,
    /// A signal with this id was posted to the run before.
    Duplicate,
    /// The run has ended.
    Ended,
    /// The run goes on as this one, which is the latest: it is to be posted there.
    Continued(RunId),
    /// The run does not ask that, or it was answered.
    NoQuestion,
    NoSuchRun,
}

/// What is known of a run without reading its journal.
#[derive(Clone, PartialEq, Debug)]
pub struct RunInfo {
    pub id: RunId,
    pub key: Option<String>,
    pub workflow: String,
    /// What it is executed with.
    pub module: Digest,
    pub state: RunState,
    pub labels: Vec<(String, String)>,
    pub parent: Option<RunId>,
    pub links: Links,
    /// What its own calls have consumed.
    pub spent: Spent,
    /// What it and its children may spend.
    pub budget: Budget,
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
    /// When it can be advanced by whoever is there.
    pub due_at: Option<Timestamp>,
    /// Why the host that tried last could not advance it.
    pub trouble: Option<String>,
    /// The number of its emissions.
    pub emissions: u64,
    /// The head of the chain when the run was left the last time.
    pub head: Option<Digest>,
}

/// Why a child is cancelled that ends with its parent.
const PARENT_GONE: &str = "its parent does not wait for it any more";

/// Why a run is cancelled whose schedule begins another one.
const OVERTAKEN: &str = "the next run of its schedule begins";

/// Which runs to list.
#[derive(Clone, PartialEq, Debug)]
pub struct RunFilter {
    pub states: Vec<RunState>,
    pub workflow: Option<String>,
    /// All of these.
    pub labels: Vec<(String, String)>,
    /// Ids that begin with this.
    pub prefix: Option<String>,
    /// Only children of this run.
    pub parent: Option<RunId>,
    /// Only runs of the family of this one.
    pub root: Option<RunId>,
    /// Only rounds of the chain that begins with this one.
    pub chain: Option<RunId>,
    /// Only runs that nobody started.
    pub top: bool,
    /// Only runs created before this one.
    pub before: Option<RunId>,
    /// Only runs created at this time or later.
    pub since: Option<Timestamp>,
    /// Only runs whose latest entry is older.
    pub idle_since: Option<Timestamp>,
    pub limit: usize,
}

impl Default for RunFilter {
    fn default() -> Self {
        Self {
            states: Vec::new(),
            workflow: None,
            labels: Vec::new(),
            prefix: None,
            parent: None,
            root: None,
            chain: None,
            top: false,
            before: None,
            since: None,
            idle_since: None,
            limit: 50,
        }
    }
}

/// Why the store could not do what it was asked for. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process advances {run} by now")]
    Fenced { run: RunId },
    #[error("there is a run {id} already")]
    IdTaken { id: RunId },
    #[error("the id {id} belonged to a run that was deleted")]
    IdUsed { id: RunId },
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
            Self::IdTaken { .. } | Self::IdUsed { .. } => "WF0302",
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
