//! What comes from outside.

use super::*;

/// Names a message that was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MessageId(pub i64);

#[derive(Clone, PartialEq, Debug)]
pub struct NewMessage {
    pub run: RunId,
    pub body: MessageBody,
}

/// Which part of an inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What is to be taken next: requests to stop and to pause first, then by age.
    Next,
    /// From the oldest message on, or from behind that one, by age alone: to look through all.
    Behind(Option<MessageId>),
}

/// Messages of one part of an inbox, at most.
pub const INBOX_MESSAGES: usize = 64;
/// What they take together, in bytes; at least one message is given.
pub const INBOX_BYTES: usize = 8 << 20;

/// A part of an inbox.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inbox {
    pub messages: Vec<Message>,
    /// Whether there are more than these.
    pub more: bool,
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

impl MessageBody {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let outcome = |outcome: &Outcome| match outcome {
            Ok(json) => json.as_str().len(),
            Err(failure) => failure.message.len(),
        };
        match self {
            Self::Signal { name, payload, id } => {
                name.len() + payload.as_str().len() + id.as_ref().map_or(0, String::len)
            }
            Self::Cancel { reason } => reason.as_ref().map_or(0, String::len),
            Self::Pause => 0,
            Self::Answer { outcome: answer, by, note, .. } => {
                let texts = [by, note].into_iter().flatten().map(String::len).sum::<usize>();
                outcome(answer) + texts
            }
            Self::Child { outcome: end, .. } => outcome(end),
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    pub id: MessageId,
    /// When it was posted, in the store's time.
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
    /// The run continues as this one, which is the latest: it is to be posted there.
    Continued(RunId),
    /// The run does not ask that, it was answered, or its deadline has passed.
    NoQuestion,
    /// The run was asked to stop, so it is not paused.
    Stopping,
    NoSuchRun,
}
