//! The replay machine of wfhost: what a workflow may ask for, the journal of
//! what happened, and the rules by which a program and its journal agree.
//!
//! Nothing here does I/O, reads a clock or draws a random number. The host
//! drives a [`Machine`] with calls of the program and events of the world,
//! and commits the bytes it is given.

mod config;
pub mod course;
mod described;
mod emission;
mod entry;
mod failure;
mod glance;
mod history;
mod ids;
pub mod journal;
mod json;
pub mod limits;
mod machine;
mod op;
mod pointer;
pub mod policy;
pub mod trace;
mod transcript;
mod wants;

pub use config::{Grant, Limit, RunConfig, Sandbox};
pub use described::{
    DESCRIBE_BYTES, DESCRIBE_FORM, DESCRIBE_SECTION, DescribeError, DescribedQuestion, DescribedValue,
    Description, Example, custom_sections,
};
pub use emission::{Emission, LogLevel, LogLine};
pub use entry::{
    ChildOf, EndedChild, Entry, EntryError, Event, FailedCall, Origin, Recorded, Started, Timing, decode_op,
    encode_op,
};
pub use failure::{Failure, FailureKind, Outcome};
pub use glance::Glance;
pub use history::{StepInfo, steps};
pub use ids::{BadRunId, Digest, Epoch, Position, RunId, Step, Timestamp};
pub use journal::{Journal, JournalError, Row};
pub use json::{Difference, Json, VALUES, first_difference};
pub use machine::{
    CallState, CannotFork, CannotRetry, DroppedAttempt, End, ForkPlan, Gift, Given, Machine, Mismatch,
    NewChild, Observed, OpenStep, QuestionChange, RetryPlan, Reuse, SetId, Stop, Unsaved, Work, plan_retry,
};
pub use op::{
    AgentRequest, Caching, CallLimits, ChildOptions, OnParentClose, Op, Question, Reply, Retry, Usage,
    counted, spell_millis, spell_seconds,
};
pub use pointer::locate;
pub use transcript::{
    NewTranscript, TURN_AWAITED, TURN_TAKEN, TranscriptFilter, TranscriptKind, TranscriptLine,
};
pub use wants::{WANTS_SECTION, WantedDirectory, WantedHttp, WantedVariable, Wants};
