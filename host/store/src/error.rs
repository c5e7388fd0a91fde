//! Why the store could not do it.

use super::*;

/// Why the store could not do what it was asked for. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process advances {run} by now")]
    Fenced { run: RunId },
    #[error("there is a run {id} already")]
    IdTaken { id: RunId },
    #[error("the id {id} belonged to a run that was deleted")]
    IdUsed { id: RunId },
    #[error("module {0} is not in the store")]
    NoSuchModule(Digest),
    #[error("the database {path} cannot be opened: {reason}")]
    CannotOpen { path: String, reason: String },
    #[error("the database {path} cannot be written to")]
    ReadOnly { path: String },
    #[error("the disk that holds {path} is full")]
    Full { path: String },
    #[error("the database {path} is locked by another program")]
    Locked { path: String },
    #[error("the database {path} has format {found}, this wfhost knows formats up to {known}")]
    Newer { path: String, found: u32, known: u32 },
    #[error("{path} is damaged: {reason}")]
    Damaged { path: String, reason: String },
    #[error("{path} is no database of wfhost")]
    Foreign { path: String },
    #[error("the database {path} failed: {reason}")]
    Failed { path: String, reason: String },
}

impl StoreError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "WF0301",
            Self::IdTaken { .. } | Self::IdUsed { .. } => "WF0302",
            Self::NoSuchModule(_) => "WF0303",
            Self::CannotOpen { .. } => "WF0310",
            Self::ReadOnly { .. } => "WF0311",
            Self::Full { .. } => "WF0312",
            Self::Locked { .. } => "WF0313",
            Self::Newer { .. } => "WF0314",
            Self::Damaged { .. } => "WF0315",
            Self::Foreign { .. } => "WF0316",
            Self::Failed { .. } => "WF0317",
        }
    }
}
