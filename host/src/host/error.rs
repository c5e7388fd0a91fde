//! Why a host does not do what it is asked for.

use wfhost_agents::ScriptError;
use wfhost_core::{CannotRetry, Digest, JournalError, Mismatch, RunId, Step, limits};
use wfhost_runtime::{GrantError, ModuleError, StackError};
use wfhost_schema::BadAnswer;
use wfhost_store::{Owner, StoreError};
use wfhost_world::NoRandom;

use crate::described::Unfit;
use crate::drive::DriveError;
use crate::script::CannotKeep;

/// Why the host did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error("the journal of {run} cannot be read: {source}")]
    Journal { run: RunId, source: JournalError },
    #[error("unknown run {0}")]
    NoSuchRun(RunId),
    #[error("{run} has ended")]
    Ended { run: RunId },
    #[error("{run} is advanced by process {} on {}", .owner.pid, .owner.host)]
    Held { run: RunId, owner: Owner },
    #[error("{run} is advanced by this process already, and takes no other budget meanwhile")]
    Driven { run: RunId },
    #[error("the module of {run} ({digest}) is not in the store")]
    NoModule { run: RunId, digest: Digest },
    #[error("{run} is not compatible with the module {new}: {mismatch}")]
    Departs { run: RunId, old: Digest, new: Digest, mismatch: Box<Mismatch> },
    #[error("{run} cannot be retried: {reason}")]
    CannotRetry { run: RunId, reason: CannotRetry },
    #[error("{run} has no open question{}", .step.map(|step| format!(" at step {step}")).unwrap_or_default())]
    NoQuestion { run: RunId, step: Option<Step> },
    #[error("the answer does not match: {0}")]
    BadAnswer(#[from] BadAnswer),
    #[error("the id `{id}` is that of another call of {run}: `{name}`")]
    OtherCall { run: RunId, id: String, name: String },
    #[error("{0}")]
    Unfit(Box<Unfit>),
    #[error(transparent)]
    TooLarge(#[from] limits::TooLarge),
    #[error(transparent)]
    Random(#[from] NoRandom),
}

impl From<CannotKeep> for HostError {
    fn from(error: CannotKeep) -> Self {
        match error {
            CannotKeep::Store(error) => Self::Store(error),
            CannotKeep::Script(error) => Self::Script(error),
        }
    }
}

impl From<Box<Unfit>> for HostError {
    fn from(unfit: Box<Unfit>) -> Self {
        Self::Unfit(unfit)
    }
}
