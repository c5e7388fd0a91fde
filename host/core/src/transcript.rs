//! What agents said.

use crate::{Step, Timestamp};

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
    /// That the attempt waits for its turn ([`TURN_AWAITED`]), or got it ([`TURN_TAKEN`]). Nothing is said of one that
    /// got it at once.
    Queue,
}

/// A call waits for a slot, the budget or a rate.
pub const TURN_AWAITED: &str = "waits for its turn";
/// It waited, and the provider is asked now.
pub const TURN_TAKEN: &str = "got its turn";

impl TranscriptKind {
    pub const ALL: [Self; 6] =
        [Self::Answer, Self::Progress, Self::Event, Self::Heartbeat, Self::Diff, Self::Queue];

    /// The word that people see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Progress => "progress",
            Self::Event => "event",
            Self::Heartbeat => "heartbeat",
            Self::Diff => "diff",
            Self::Queue => "queue",
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
