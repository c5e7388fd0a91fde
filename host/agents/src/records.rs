//! What calls keep and look up beside the journal of their run. Where it is kept is the host's
//! affair: the agents know no store.

use futures_util::future::BoxFuture;
use wfhost_core::{Digest, Failure, Json, NewTranscript, Position, Row, RunId, Step, Timestamp};

/// Answers for calls that ask the same.
pub trait AnswerCache: Send + Sync {
    /// The answer that was kept, and when it was given. A cache that cannot be read holds nothing.
    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Option<(Timestamp, Json)>>;

    /// Keeps an answer. It is there all the same if it cannot be kept for others.
    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, ()>;
}

/// What agents say while they work.
pub trait Transcripts: Send + Sync {
    /// Adds to the transcripts of a run. One that cannot be written must not bring the run down:
    /// the append that follows says what is wrong with the store.
    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, ()>;

    /// The payload of a step's last heartbeat, as far as it can be read.
    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Option<String>>;
}

/// Journals, which have all that was said in a conversation.
pub trait Conversations: Send + Sync {
    /// The rows of a run's journal in their order, from the one that begins at or behind `from`;
    /// none if there is no such run.
    ///
    /// # Errors
    ///
    /// `unavailable` if it cannot be read now. So of the others.
    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>, Failure>>;

    /// The run at the top of the family of a run; none if there is no such run.
    fn root_of<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunId>, Failure>>;

    /// The rounds of a run's chain and its parents, nearest first; not all if there are many.
    fn relatives<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<RunId>, Failure>>;
}

/// Which run it is, of all that there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    pub run: RunId,
    /// What the database of the run is told by: letters and digits.
    pub database: String,
    pub begun_at: Timestamp,
}

/// Where runs are kept.
pub trait Origins: Send + Sync {
    /// Where a run is from.
    ///
    /// # Errors
    ///
    /// `unavailable` if it cannot be read now.
    fn origin<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Origin, Failure>>;
}

/// All that calls keep and look up.
pub trait Records: AnswerCache + Transcripts + Conversations + Origins {}

impl<T: AnswerCache + Transcripts + Conversations + Origins> Records for T {}
