//! What comes from outside.

use super::*;

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
