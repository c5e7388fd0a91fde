//! What is committed of a run, and what it gives out.

use super::*;

/// Entries and all that goes into the same transaction.
#[derive(Clone, Debug)]
pub struct Append {
    pub run: RunId,
    pub epoch: Epoch,
    /// The time of the last entry.
    pub at: Timestamp,
    /// None if only the rest changes.
    pub row: Option<Row>,
    /// What [`Appended::place`] of the append before it in the same epoch was, if it is known: then
    /// the end of the journal need not be looked up.
    pub after: Option<u64>,
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
            after: None,
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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Something for it has come in: it was not parked if it was to be, or a
    /// child could not be started.
    pub due: bool,
    /// The place of the run's last commit, if it is known.
    pub place: Option<u64>,
}
