//! Journal format 1: what an entry is, and its bytes.
//!
//! An entry is a CBOR array (RFC 8949) `[at, [kind, [field, ...]]]`, its kind
//! a number that never changes its meaning. New fields are only ever added
//! at the end of an array and are optional, so both older and newer readers
//! agree about those they know; a kind that a reader does not know is an
//! error, because it could not replay the run. `docs/journal-format.md`
//! describes the layout for people.

use minicbor::bytes::ByteVec;
use minicbor::data::Type;
use minicbor::{Decode, Decoder, Encode};
use serde::Serialize;

use crate::policy::budget::{Budget, Spent};
use crate::{
    Digest, Failure, Json, OnParentClose, Op, Outcome, Position, Question, RunConfig, RunId, Step, Timestamp,
    Usage,
};

/// One record of a journal.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct Entry {
    /// When it was appended; never earlier than the entry before.
    #[n(0)]
    pub at: Timestamp,
    #[n(1)]
    pub event: Event,
    /// By how much the system clock was behind `at`, in milliseconds, if it was
    /// by more than a little: it had been ahead at an entry before, and was put right.
    #[n(2)]
    pub behind_ms: Option<u64>,
}

/// Clocks of hosts differ by so much without having been set, in milliseconds.
pub(crate) const TOLERATED_MS: u64 = 1_000;

/// What happened.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub enum Event {
    /// The run began. Always the first entry, and only that.
    #[n(0)]
    Started(#[n(0)] Box<Started>),
    /// The program asked for something.
    #[n(1)]
    Scheduled {
        #[n(0)]
        step: Step,
        /// The CBOR of the [`Op`]: kept as bytes so that a replay compares
        /// without decoding.
        #[n(1)]
        op: ByteVec,
    },
    /// A further attempt at an agent call is about to be made. The first one
    /// has no entry of its own, unless it was postponed: it follows from `Scheduled`.
    #[n(2)]
    Attempted {
        #[n(0)]
        step: Step,
        /// Counted from 1.
        #[n(1)]
        attempt: u32,
        /// How the attempt before ended; none if its host died.
        #[n(2)]
        after: Option<Failure>,
    },
    /// A step is done.
    #[n(3)]
    Completed {
        #[n(0)]
        step: Step,
        #[n(1)]
        outcome: Recorded,
        /// Of an agent call: how its last attempt went, if it waited or was heard of.
        #[n(2)]
        timing: Option<Timing>,
    },
    /// The program dropped a step that was not done.
    #[n(4)]
    Cancelled {
        #[n(0)]
        step: Step,
    },
    /// A signal came in.
    #[n(5)]
    Received {
        #[n(0)]
        name: String,
        #[n(1)]
        payload: Json,
        /// What it was deduplicated by.
        #[n(2)]
        id: Option<String>,
    },
    /// Cancellation of the run was requested. All open steps end as cancelled.
    #[n(6)]
    CancelRequested {
        #[n(0)]
        reason: Option<String>,
    },
    /// The program reached `context.patched` for the first time under code that has it.
    #[n(7)]
    Patched {
        #[n(0)]
        id: String,
    },
    /// The run ended. Always the last entry.
    #[n(8)]
    Finished {
        #[n(0)]
        outcome: Recorded,
        /// The host ended it where it stood; the program would have gone on.
        #[n(1)]
        stopped: bool,
    },
    /// A person answered a question: the step is done.
    #[n(9)]
    Answered {
        #[n(0)]
        step: Step,
        #[n(1)]
        outcome: Recorded,
        /// Who, as far as he said so.
        #[n(2)]
        by: Option<String>,
        #[n(3)]
        note: Option<String>,
    },
    /// The run had ended and goes on. What the program did from `from` on is
    /// void: its own entries, and what became of the steps that it began
    /// there. What came from outside stays.
    #[n(10)]
    Retried {
        #[n(0)]
        from: Position,
        /// The step that is tried again; its outcome is void too.
        #[n(1)]
        step: Option<Step>,
        /// The number that the next emission of the program gets.
        #[n(2)]
        emissions: u64,
    },
    /// From here on the run is executed with another module.
    #[n(11)]
    Moved {
        #[n(0)]
        module: Digest,
    },
    /// An attempt at an agent call failed. If another one is to follow, it
    /// begins at [`FailedCall::again_at`] at the earliest; else the step's
    /// `Completed` follows. One that [was dropped](FailedCall::is_dropped) may be
    /// any attempt at any step, also at one that is not open any more.
    #[n(12)]
    AttemptFailed(#[n(0)] Box<FailedCall>),
    /// The attempt at an agent call that was due was not made: it has to wait,
    /// for a quota or for a provider that asked to be left alone.
    #[n(13)]
    Postponed {
        #[n(0)]
        step: Step,
        #[n(1)]
        until: Timestamp,
        /// For people.
        #[n(2)]
        reason: String,
    },
    /// An agent call was put to a person. It is answered like a question.
    #[n(14)]
    Delegated {
        #[n(0)]
        step: Step,
        /// Whose name the reply bears.
        #[n(1)]
        provider: String,
        #[n(2)]
        question: Box<Question>,
        #[n(3)]
        deadline: Option<Timestamp>,
    },
    /// The run's budget was changed.
    #[n(15)]
    BudgetChanged {
        #[n(0)]
        budget: Budget,
    },
    /// A child ended, or could not be started: the step is done.
    #[n(16)]
    ChildEnded(#[n(0)] Box<EndedChild>),
    /// The run ended and continues as another one. Always the last entry.
    #[n(17)]
    ContinuedAsNew {
        #[n(0)]
        run: RunId,
    },
    /// What stands before was taken over from another run; from here on it is
    /// a run of its own.
    #[n(18)]
    Forked {
        /// The id of the fork.
        #[n(0)]
        run: RunId,
        #[n(1)]
        from: RunId,
        /// Its idempotency keys and delays are made of this.
        #[cbor(n(2), with = "minicbor::bytes")]
        seed: [u8; 32],
    },
    /// The program dropped a wait for a signal that had come in, without
    /// having read it: the signal is the next one of its name again.
    #[n(19)]
    Returned {
        #[n(0)]
        step: Step,
    },
    /// The system clock had been ahead at an entry before: what lasts has no more
    /// than its length left from here.
    #[n(20)]
    ClockSet,
}

/// How a child ended.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct EndedChild {
    #[n(0)]
    pub step: Step,
    #[n(1)]
    pub run: RunId,
    #[n(2)]
    pub outcome: Recorded,
    /// By the child and its children.
    #[n(3)]
    pub spent: Spent,
}

/// How an attempt at an agent call failed.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub struct FailedCall {
    #[n(0)]
    pub step: Step,
    /// Counted from 1.
    #[n(1)]
    pub attempt: u32,
    #[n(2)]
    pub provider: String,
    #[n(3)]
    pub failure: Failure,
    /// The provider did not accept who was asking; the run asks it no more.
    #[n(4)]
    pub auth: bool,
    /// When the next attempt starts; none if there is no further attempt.
    #[n(5)]
    pub again_at: Option<Timestamp>,
    /// What the attempt consumed.
    #[n(6)]
    pub usage: Option<Usage>,
    /// What it reported last about its progress, for the next attempt.
    #[n(7)]
    pub heartbeat: Option<Json>,
    /// None if it neither waited nor was heard of.
    #[n(8)]
    pub timing: Option<Timing>,
}

impl FailedCall {
    /// Whether it was dropped and only tells what it consumed: it may stand behind the end of its step.
    pub fn is_dropped(&self) -> bool {
        self.failure.kind == crate::FailureKind::Cancelled && self.again_at.is_none()
    }
}

/// When what happened during an attempt at an agent call. For people: nothing is derived from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode, Serialize)]
pub struct Timing {
    /// Milliseconds from the beginning of the attempt until the provider was asked: it waited for a
    /// slot, for what was set aside of the budget, for its turn.
    #[n(0)]
    pub waited_ms: u64,
    /// Milliseconds from then until the provider was heard of first; none if it only answered.
    #[n(1)]
    pub first_ms: Option<u64>,
}

/// The number of kinds that this version knows.
const KINDS: u32 = 21;

impl Event {
    /// The step that this entry ends, and how; none if it ends none, or if that
    /// follows from other entries (a signal that came in).
    pub fn ended_step(&self) -> Option<(Step, &Recorded)> {
        match self {
            Self::Completed { step, outcome, .. } | Self::Answered { step, outcome, .. } => {
                Some((*step, outcome))
            }
            Self::ChildEnded(child) => Some((child.step, &child.outcome)),
            _ => None,
        }
    }

    /// The word that people see for this kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::Scheduled { .. } => "scheduled",
            Self::Attempted { .. } => "attempted",
            Self::Completed { .. } => "completed",
            Self::Cancelled { .. } => "cancelled",
            Self::Received { .. } => "received",
            Self::CancelRequested { .. } => "cancel-requested",
            Self::Patched { .. } => "patched",
            Self::Finished { .. } => "finished",
            Self::Answered { .. } => "answered",
            Self::Retried { .. } => "retried",
            Self::Moved { .. } => "moved",
            Self::AttemptFailed(_) => "attempt-failed",
            Self::Postponed { .. } => "postponed",
            Self::Delegated { .. } => "delegated",
            Self::BudgetChanged { .. } => "budget-changed",
            Self::ChildEnded(_) => "child-ended",
            Self::ContinuedAsNew { .. } => "continued-as-new",
            Self::Forked { .. } => "forked",
            Self::Returned { .. } => "returned",
            Self::ClockSet => "clock-set",
        }
    }
}

/// An [`Outcome`] in the journal: `[0, [json]]` or `[1, [failure]]`.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub enum Recorded {
    #[n(0)]
    Ok(#[n(0)] Json),
    #[n(1)]
    Err(#[n(0)] Failure),
}

impl From<Outcome> for Recorded {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(json) => Self::Ok(json),
            Err(failure) => Self::Err(failure),
        }
    }
}

impl From<Recorded> for Outcome {
    fn from(recorded: Recorded) -> Self {
        match recorded {
            Recorded::Ok(json) => Ok(json),
            Recorded::Err(failure) => Err(failure),
        }
    }
}

/// Everything that shapes a run from outside.
#[derive(Clone, PartialEq, Debug, Encode, Decode, Serialize)]
pub struct Started {
    #[n(0)]
    pub run: RunId,
    /// The name of the workflow.
    #[n(1)]
    pub workflow: String,
    #[n(2)]
    pub module: Digest,
    #[n(3)]
    pub input: Json,
    /// Of everything random in this run.
    #[cbor(n(4), with = "minicbor::bytes")]
    #[serde(skip)]
    pub seed: [u8; 32],
    #[n(5)]
    pub config: RunConfig,
    #[n(6)]
    pub labels: Vec<(String, String)>,
    #[n(7)]
    pub parent: Option<RunId>,
    /// What it is to its parent, if it has one.
    #[n(8)]
    pub child: Option<ChildOf>,
    /// The run that it goes on from, if it was not begun by itself.
    #[n(9)]
    pub origin: Option<Origin>,
}

/// What a child is to the run that started it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
pub struct ChildOf {
    /// The step of the parent that waits for it.
    #[n(0)]
    pub step: Step,
    /// The run at the top, which nobody started.
    #[n(1)]
    pub root: RunId,
    /// Its generation: 1 for a child of the root.
    #[n(2)]
    pub depth: u32,
    #[n(3)]
    pub on_close: OnParentClose,
}

/// A run that another one takes something over from.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It is the next round of a run that continued as new.
    #[n(0)]
    Continued {
        /// The first run of the chain.
        #[n(0)]
        first: RunId,
        /// The run before this one.
        #[n(1)]
        from: RunId,
        /// Counted from 1, which is `first`.
        #[n(2)]
        round: u64,
        /// By all rounds before.
        #[n(3)]
        spent: Spent,
    },
    /// Steps that ask for what that run was answered take its answers.
    #[n(1)]
    Reused {
        #[n(0)]
        from: RunId,
    },
}

/// Bytes that are no entry of format 1.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    #[error("entry {position} has the unknown kind {kind}: it was written by a newer wfhost")]
    UnknownKind { position: Position, kind: u32 },
    #[error(
        "entry {position} contains an operation of the unknown kind {kind}: it was written by a newer wfhost"
    )]
    UnknownOp { position: Position, kind: u32 },
    #[error("entry {position} is damaged: {reason}")]
    Damaged { position: Position, reason: String },
}

impl Entry {
    /// An entry at `clock` behind one at `last`.
    pub fn behind(last: Timestamp, clock: Timestamp, event: Event) -> Self {
        let at = clock.max(last);
        let behind = at.since(clock);
        Self { at, event, behind_ms: (behind > TOLERATED_MS).then_some(behind) }
    }

    /// What the system clock showed: what lasts from this entry on counts from there.
    pub fn clock(&self) -> Timestamp {
        Timestamp(self.at.0.saturating_sub(self.behind_ms.unwrap_or(0)))
    }

    /// Appends the bytes of the entry to `bytes`.
    pub fn encode_to(&self, bytes: &mut Vec<u8>) {
        // Writing to memory cannot fail, and no encoder of ours reports errors of its own.
        minicbor::encode(self, bytes).unwrap_or_else(|e| unreachable!("encoding an entry: {e}"));
    }

    /// Reads the entry at the start of `bytes` and tells how long it was.
    /// `position` is for the error.
    pub fn decode(bytes: &[u8], position: Position) -> Result<(Self, usize), EntryError> {
        let mut decoder = Decoder::new(bytes);
        match decoder.decode() {
            Ok(entry) => Ok((entry, decoder.position())),
            Err(error) => Err(match unknown_kind(bytes) {
                Some(kind) => EntryError::UnknownKind { position, kind },
                None => EntryError::Damaged { position, reason: error.to_string() },
            }),
        }
    }
}

/// The kind of the entry at the start of `bytes`, if it is unknown.
fn unknown_kind(bytes: &[u8]) -> Option<u32> {
    let mut decoder = Decoder::new(bytes);
    decoder.array().ok()?;
    decoder.u64().ok()?;
    leading_number(&mut decoder).filter(|&kind| kind >= KINDS)
}

fn leading_number(decoder: &mut Decoder<'_>) -> Option<u32> {
    if decoder.datatype().ok()? != Type::Array {
        return None;
    }
    decoder.array().ok()?;
    decoder.u32().ok()
}

/// The bytes of an operation, as `Scheduled` keeps them.
pub fn encode_op(op: &Op) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_op_to(op, &mut bytes);
    bytes
}

/// Appends the bytes of an operation.
pub(crate) fn encode_op_to(op: &Op, bytes: &mut Vec<u8>) {
    // As above: memory does not fail.
    minicbor::encode(op, bytes).unwrap_or_else(|e| unreachable!("encoding an operation to memory: {e}"));
}

/// Reads the bytes of an operation; `position` is that of its entry.
pub fn decode_op(bytes: &[u8], position: Position) -> Result<Op, EntryError> {
    /// The number of operations that this version knows.
    const OPS: u32 = 8;
    minicbor::decode(bytes).map_err(|error| {
        match leading_number(&mut Decoder::new(bytes)).filter(|&kind| kind >= OPS) {
            Some(kind) => EntryError::UnknownOp { position, kind },
            None => EntryError::Damaged { position, reason: error.to_string() },
        }
    })
}
