//! What is committed of a run, and what it gives out.

use super::*;

/// Entries and all that goes into the same transaction.
#[derive(Clone, Debug)]
pub struct Append {
    pub run: RunId,
    /// Who appends.
    pub session: SessionId,
    pub epoch: Epoch,
    /// The time of the last entry.
    pub at: Timestamp,
    /// The head of the chain before `row`; without one, the last head. Whoever gives up a run that it
    /// could not read gives zeros: then what is known of its end stays.
    pub before: Digest,
    /// None if only the rest changes.
    pub row: Option<Row>,
    /// What [`Appended::place`] of the append before it in the same epoch was, or
    /// [`Opened::place`], if it is known: then the end of the journal need not be looked up.
    pub after: Option<u64>,
    /// Messages of the run's inbox that these entries record.
    pub consumed: Vec<MessageId>,
    /// What the program gave out, in order; numbered from the run's emissions on.
    pub emissions: Vec<Emission>,
    /// What the program has given out with these, if that changed.
    pub given: Option<Given>,
    /// Questions that these entries ask or close.
    pub questions: Vec<QuestionChange>,
    /// The module that the run is executed with from now on.
    pub module: Option<Digest>,
    /// Children that these entries start. One whose id is somebody else's is
    /// not created: its failure is put into the inbox of this run.
    pub children: Vec<NewRun>,
    /// Steps whose children nothing waits for any more: those that are to be
    /// cancelled then are.
    pub dropped: Vec<Step>,
    /// What the run has spent by itself and what it may spend, if one of the two changed.
    pub ledger: Option<(Spent, Budget)>,
    /// What becomes of the run.
    pub next: Next,
}

impl Append {
    /// An append of nothing.
    pub fn new(run: RunId, session: SessionId, epoch: Epoch, at: Timestamp, next: Next) -> Self {
        Self {
            run,
            session,
            epoch,
            at,
            before: Digest([0; 32]),
            row: None,
            after: None,
            consumed: Vec::new(),
            emissions: Vec::new(),
            given: None,
            questions: Vec::new(),
            module: None,
            children: Vec::new(),
            dropped: Vec::new(),
            ledger: None,
            next,
        }
    }
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

impl Change {
    /// Whether these, of which no more than `limit` were wanted, may have others behind them: else they were all.
    pub fn may_go_on(changes: &[Self], limit: usize) -> bool {
        changes.len() >= limit
            || changes.iter().map(|change| change.row.bytes.len()).sum::<usize>() >= CHANGES_BYTES
    }
}

/// What becomes of a run with an append.
///
/// With all but `Go` the session gives the run up. What was sent to the run and
/// not taken is looked up in the same transaction: an end with an untaken
/// signal, answer or request to stop, another round with an untaken answer, and
/// an untaken answer to a question that [`Append::questions`] closes are
/// [`StoreError::Raced`].
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    /// It goes on, and stays with the session.
    Go,
    /// It waits, unless a message that could wake it is in its inbox: then it
    /// continues as with `Go`, and [`Appended::due`] says so.
    Park(Waiting),
    /// It is given up without being at rest. Without `trouble` it is due at
    /// once, for the next host. With `trouble`, which is why it could not
    /// be advanced, it is due after [`AGAIN_AFTER_MS`], doubled with each trouble
    /// since it came forward last, or when `waiting` says, if that is sooner.
    /// Messages wake it as if it was parked with `waiting`.
    Release { waiting: Option<Waiting>, trouble: Option<String> },
    /// It is left alone until somebody asks for it, and requests to pause are
    /// taken; an untaken request to stop makes it due. `if_asked`: unless none of these requests is left, as
    /// somebody wants it to go on: then it continues as with `Go`, and [`Appended::due`] says so.
    Pause { if_asked: bool },
    /// The module diverges from the journal; a pending cancellation request makes it due.
    Refuse { reason: String },
    /// It has ended; its parent is told, and children that are to end with it
    /// are cancelled. `spent`: with its children.
    End { outcome: Outcome, spent: Spent },
    /// It has ended and continues as that run, which is created and takes over
    /// untaken signals and requests.
    Continue { run: Box<NewRun> },
}

/// A run that could not be advanced is tried again after this time, doubled
/// with each trouble in a row up to 32 times it. In milliseconds.
pub const AGAIN_AFTER_MS: u64 = 30_000;

/// How long a run rests after so many troubles in a row, this one included.
pub fn rest_ms(troubles: u32) -> u64 {
    AGAIN_AFTER_MS << troubles.saturating_sub(1).min(5)
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
    /// What a run waits for that only waits.
    pub fn of(machine: &Machine) -> Self {
        Self {
            until: machine.next_deadline(),
            signals: machine.wanted_signals(),
            people: machine.asks_people(),
        }
    }

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

/// A run that could not be advanced and to which something was sent comes back to life no sooner than this:
/// else it would be tried again and again. In milliseconds.
pub const AT_ONCE_MS: u64 = 1_000;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Appended {
    /// Something for it has come in: it was not parked if it was to be, or a
    /// child could not be started.
    pub due: bool,
    /// The place of the run's last commit, if it is known.
    pub place: Option<u64>,
    /// Relatives that something was sent to, and whether runs are due that were not.
    pub wake: Vec<Wake>,
}
