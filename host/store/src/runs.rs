//! Runs: how they begin, who advances them, what is known of them.

use std::collections::BTreeSet;

use super::*;

/// A module in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleInfo {
    pub digest: Digest,
    pub name: String,
    pub bytes: u64,
    pub added_at: Timestamp,
}

/// A run that is to be created.
#[derive(Clone, PartialEq, Debug)]
pub struct NewRun {
    pub id: RunId,
    /// The same key gives the same run of a workflow.
    pub key: Option<String>,
    /// The project that it belongs to: the canonical path of its configuration file.
    pub project: Option<String>,
    /// Whether it came, or begins from one that came, from another machine: files that its journal names
    /// are not those of this one.
    pub imported: bool,
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
    /// Who advances it; if nobody does, it is due at once.
    pub session: Option<SessionId>,
    /// The first entries of the journal, from position 0 on.
    pub rows: Vec<Row>,
    /// What counts as given out already; none of it, if none.
    pub given: Option<Given>,
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
            project: started.config.project.clone(),
            imported: false,
            workflow: started.workflow.clone(),
            module: machine.module(),
            labels: started.labels.clone(),
            parent: machine.parent().cloned(),
            links: Links::of(machine),
            budget: machine.budget(),
            created_at: machine.last_at(),
            updated_at: machine.last_at(),
            session: None,
            rows,
            given: None,
            inbox: Vec::new(),
            questions: Vec::new(),
            children: Vec::new(),
        }
    }
}

impl NewRun {
    /// What a run with these first entries was started with that this one is not.
    pub fn differs_from(&self, first: &Row) -> Option<&'static str> {
        let started = |row: &Row| match row.entries().next() {
            Some(Ok((_, wfhost_core::Entry { event: wfhost_core::Event::Started(started), .. }))) => {
                Some(started)
            }
            _ => None,
        };
        let (Some(mine), Some(other)) = (self.rows.first().and_then(started), started(first)) else {
            return None;
        };
        if mine.module != other.module {
            return Some("module");
        }
        (!mine.input.means(&other.input)).then_some("input")
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
    /// The run that it continues as.
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
    pub cancel: Option<RunId>,
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

/// Which runs a claim is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimHow {
    /// Those that are due.
    Due,
    /// Any that has not ended: somebody asked for it to go on, so earlier requests to pause are void.
    Asked,
    /// Any that has not ended, by a host that had it already or only looks at it: one that is paused
    /// has a request to pause in its inbox again, for its next owner.
    AsItIs,
    /// Also those that failed or were cancelled.
    Reopen,
    /// As it is, also if another session has it: what that one appends from then on is stale. For
    /// terminating a run.
    Seize,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Claimed {
    /// The run is the caller's.
    Yes(Box<Opened>),
    /// It is the caller's, and cannot be read: to be released with that trouble.
    Unreadable(Box<Unreadable>),
    /// It is paused, refused, or waits for something that has not happened.
    NotDue,
    /// Another session has it.
    Held {
        session: SessionId,
        owner: Owner,
        left_ms: u64,
    },
    /// The run has ended.
    Ended,
    NoSuchRun,
}

/// A run that was claimed, and all that is needed to continue it.
#[derive(Clone, PartialEq, Debug)]
pub struct Opened {
    pub run: RunId,
    pub session: SessionId,
    pub epoch: Epoch,
    /// Sessions that had the run since it came forward last and did not give it up in order, this one included.
    pub starts: u32,
    /// The module that it is executed with.
    pub module: Digest,
    /// How many of its emissions are stored.
    pub emissions: u64,
    /// What the program has given out; in stores before format 7 only their number was known.
    pub given: Given,
    /// The whole journal, checked to be the one that the run was left with.
    pub rows: Vec<Row>,
    /// For [`Append::after`].
    pub place: Option<u64>,
    /// The first part of its inbox.
    pub inbox: Inbox,
    pub project: Option<String>,
    pub imported: bool,
    /// The state that it was in.
    pub was: RunState,
    /// What it waited for.
    pub waited: Option<Waiting>,
    /// Why it could not be advanced the last time.
    pub trouble: Option<String>,
    /// How it had ended, or why it was refused.
    pub outcome: Option<Outcome>,
}

impl Opened {
    /// What leaves the run as it was, if nothing was appended.
    pub fn as_it_was(&self) -> Next {
        match (self.was, &self.waited, &self.outcome) {
            // It is due again after a rest, whatever it waits for.
            (RunState::Waiting, Some(waiting), _) if self.trouble.is_some() => {
                Next::Release { waiting: Some(waiting.clone()), trouble: self.trouble.clone() }
            }
            (RunState::Waiting, Some(waiting), _) => Next::Park(waiting.clone()),
            (RunState::Paused, ..) => Next::Pause { if_asked: false },
            (RunState::Refused, _, Some(Err(failure))) => Next::Refuse { reason: failure.message.clone() },
            (state, _, Some(outcome)) if state.is_final() => {
                Next::End { outcome: outcome.clone(), spent: Spent::default() }
            }
            _ => Next::Release { waiting: None, trouble: None },
        }
    }
}

/// A run that was claimed and cannot be read.
#[derive(Clone, PartialEq, Debug)]
pub struct Unreadable {
    pub run: RunId,
    pub epoch: Epoch,
    pub error: StoreError,
}

/// Runs that were due.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Due {
    pub runs: Vec<Result<Opened, Unreadable>>,
    /// Some run was due, be it one that somebody else claimed first or has locked at this moment.
    pub any: bool,
    /// There may be more.
    pub more: bool,
    /// Milliseconds until the next one of the others is due; none if none is known.
    pub next_in_ms: Option<u64>,
}

/// Which of the due runs a host claims.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    pub projects: Projects,
    /// Only runs of the families with these roots.
    pub families: Option<Vec<RunId>>,
    /// None of these.
    pub except: Vec<RunId>,
}

/// Projects whose runs a host claims.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Projects {
    #[default]
    All,
    /// These; none stands for runs that belong to no project.
    Only(Vec<Option<String>>),
}

impl Projects {
    /// Whether runs of that project are among them.
    pub fn contain(&self, project: Option<&String>) -> bool {
        match self {
            Self::All => true,
            Self::Only(projects) => projects.iter().any(|known| known.as_ref() == project),
        }
    }
}

/// Runs of a list.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Listed {
    /// Not more than the limit of the filter.
    pub known: Vec<RunInfo>,
    /// The numbers of those between them whose names cannot be read, and why.
    pub unreadable: Vec<(u64, String)>,
}

/// Schedules by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Schedules {
    pub known: Vec<Schedule>,
    /// Names of those that cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
}

impl Schedules {
    /// The one of that name.
    pub fn named(self, name: &str) -> Option<Schedule> {
        self.known.into_iter().find(|schedule| schedule.name == name)
    }
}

/// Schedules that are due, in the order of their times and names.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DueSchedules {
    pub due: Vec<Schedule>,
    /// Names of those that are due and cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
    /// The time and the name of the last of both, if there may be more behind it.
    pub more: Option<(Timestamp, String)>,
    /// Milliseconds until the next one of the others is due.
    pub next_in_ms: Option<u64>,
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
    /// Its module diverges from its journal; nothing is lost.
    Refused,
    Completed,
    Failed,
    Cancelled,
    /// It ended and continues as another run.
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

/// A run as it is taken from one store to another.
#[derive(Clone, PartialEq, Debug)]
pub struct ImportedRun {
    /// The lease is not taken along.
    pub info: RunInfo,
    pub rows: Vec<Row>,
    pub emissions: u64,
    pub given: Given,
    pub logs: Vec<LogLine>,
    pub messages: Vec<OutMessage>,
    pub state: Vec<Published>,
    /// What it has not taken, and when that was posted.
    pub inbox: Vec<(Timestamp, MessageBody)>,
    pub questions: Vec<QuestionChange>,
}

impl ImportedRun {
    /// The ids of signals that it was sent, as far as they are known: those that its journal records, and those in its
    /// inbox. None of them is delivered again.
    pub fn signal_ids(&self) -> BTreeSet<String> {
        let entries = self.rows.iter().flat_map(Row::entries).filter_map(Result::ok);
        let recorded = entries.filter_map(|(_, entry)| match entry.event {
            wfhost_core::Event::Received { id, .. } => id,
            _ => None,
        });
        let untaken = self.inbox.iter().filter_map(|(_, body)| match body {
            MessageBody::Signal { id, .. } => id.clone(),
            _ => None,
        });
        recorded.chain(untaken).collect()
    }
}

/// What is kept of a run besides its journal, derived from that.
#[derive(Clone, PartialEq, Debug)]
pub struct Rebuilt {
    /// The key, the project, whether it was imported, the epoch, the lease and the trouble are not changed. Of a run
    /// that has not ended neither is the state, unless it was one of an end, nor why the run is refused: no entry
    /// says that, and it may have changed since. `waiting`: what it waits for if it waits; when it is due follows from
    /// that and from its inbox.
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
        session: SessionId,
        owner: Owner,
        left_ms: u64,
    },
    /// It is an earlier round of a run that has not ended.
    Needed,
    /// It is not what it had to be.
    Changed,
    NoSuchRun,
}

/// What a run still has to be, to be deleted: between a list of runs and what is done to them, any of them may have come
/// to life again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteIf {
    /// In one of these states; in any if there are none.
    pub states: Vec<RunState>,
    /// Its latest entry is older.
    pub idle_since: Option<Timestamp>,
}

impl DeleteIf {
    /// Whether a run of that state, whose latest entry is of that time, may go.
    pub(crate) fn allows(&self, state: RunState, updated_at: Option<Timestamp>) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && self.idle_since.is_none_or(|since| updated_at.is_some_and(|at| at < since))
    }
}

/// A run with all that is kept of it, as it was at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    pub info: RunInfo,
    pub rows: Vec<Row>,
    pub logs: Vec<LogLine>,
    pub messages: Vec<OutMessage>,
    pub published: Vec<Published>,
    /// What was sent to it and not taken yet.
    pub inbox: Vec<Message>,
}

/// What is known of a run without reading its journal.
#[derive(Clone, PartialEq, Debug)]
pub struct RunInfo {
    /// Its place in the order in which the runs of its store were created; no other run has it while this one is there.
    /// 0 if it is in no store.
    pub number: u64,
    pub id: RunId,
    pub key: Option<String>,
    pub project: Option<String>,
    /// See [`NewRun::imported`].
    pub imported: bool,
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
    /// Who advances it.
    pub lease: Option<Session>,
    /// When any host can advance it.
    pub due_at: Option<Timestamp>,
    /// Why the host that tried last could not advance it.
    pub trouble: Option<String>,
    /// The number of its emissions.
    pub emissions: u64,
    /// The head of the chain when the run was left the last time.
    pub head: Option<Digest>,
}

impl RunInfo {
    /// What a journal says of its run. What it says nothing of (the key, the lease, what the program
    /// gave out) is not known, and as if there was none of it.
    pub fn of(machine: &Machine) -> Self {
        let started = machine.started();
        let outcome = machine.outcome().cloned();
        Self {
            number: 0,
            id: machine.run().clone(),
            key: None,
            project: started.config.project.clone(),
            imported: false,
            workflow: started.workflow.clone(),
            module: machine.module(),
            state: match machine.continued_as() {
                Some(_) => RunState::Continued,
                None => RunState::of(outcome.as_ref()),
            },
            labels: started.labels.clone(),
            parent: machine.parent().cloned(),
            links: Links::of(machine),
            spent: storable(machine.spent_itself()),
            budget: machine.budget(),
            created_at: machine.started_at(),
            updated_at: machine.last_at(),
            entries: Position(machine.entries()),
            phase: None,
            outcome,
            waiting: None,
            epoch: Epoch(0),
            lease: None,
            due_at: None,
            trouble: None,
            emissions: 0,
            head: Some(machine.head()),
        }
    }
}

/// Why a child is cancelled that ends with its parent.
pub const PARENT_GONE: &str = "its parent does not wait for it any more";

/// Why a run is cancelled whose schedule begins another one.
pub const OVERTAKEN: &str = "the next run of its schedule begins";

/// How much there is to do, and how large the store is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Runs that could be advanced now and that nobody has.
    pub due: u64,
    /// How long the one that waits longest has been due, in milliseconds. Those that became due because
    /// something came in, or because their host is gone, are not among them: it is not known since when.
    pub lag_ms: Option<u64>,
    /// Questions that nobody has answered.
    pub questions: u64,
    /// How long the oldest of them is open, in milliseconds.
    pub question_ms: Option<u64>,
    /// Of the database; 0 if that is not known.
    pub bytes: u64,
    /// Of what is written ahead of it.
    pub wal_bytes: u64,
}

/// What parked runs wait for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WaitsFor {
    /// A signal, of that name if one is given.
    Signal(Option<String>),
    /// An answer of a person.
    People,
    /// A time.
    Time,
}

impl WaitsFor {
    /// Whether that is among what a run waits for.
    pub fn is_in(&self, waiting: &Waiting) -> bool {
        match self {
            Self::Signal(None) => !waiting.signals.is_empty(),
            Self::Signal(Some(name)) => waiting.signals.contains(name),
            Self::People => waiting.people,
            Self::Time => waiting.until.is_some(),
        }
    }
}

/// Which runs to list.
#[derive(Clone, PartialEq, Debug)]
pub struct RunFilter {
    pub states: Vec<RunState>,
    /// Only these runs.
    pub ids: Option<Vec<RunId>>,
    pub workflow: Option<String>,
    /// Only runs of this project.
    pub project: Option<String>,
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
    /// Only runs created before the one with this number ([`RunInfo::number`]), whether that is still there or not.
    pub before: Option<u64>,
    /// Only runs created at this time or later.
    pub since: Option<Timestamp>,
    /// Only runs created before this time.
    pub until: Option<Timestamp>,
    /// Only the runs with this key, of whatever workflow.
    pub key: Option<String>,
    /// Only runs that are executed with this module.
    pub module: Option<Digest>,
    /// Only runs that wait for this.
    pub waits: Option<WaitsFor>,
    /// Only runs whose id, workflow, key, labels or phase contain this, whatever the case of its ASCII letters.
    pub text: Option<String>,
    /// A search that takes longer is given up; none is if none.
    pub patience_ms: Option<u64>,
    /// Only runs whose latest entry is older.
    pub idle_since: Option<Timestamp>,
    pub limit: usize,
}

impl Default for RunFilter {
    fn default() -> Self {
        Self {
            states: Vec::new(),
            ids: None,
            workflow: None,
            project: None,
            labels: Vec::new(),
            prefix: None,
            parent: None,
            root: None,
            chain: None,
            top: false,
            before: None,
            since: None,
            until: None,
            key: None,
            module: None,
            waits: None,
            text: None,
            patience_ms: None,
            idle_since: None,
            limit: 50,
        }
    }
}
