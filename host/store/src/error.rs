//! The errors of a store.

use super::*;

/// The error of a store operation. Nothing was changed, except that the outcome is
/// unknown after [`StoreError::Unknown`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process has taken over {run}")]
    Fenced { run: RunId },
    #[error("another process ended the session of this one, because its lease had expired")]
    SessionOver,
    #[error("a message for {run} arrived in the meantime")]
    Raced { run: RunId },
    #[error("the run {id} already exists")]
    IdTaken { id: RunId },
    #[error("the id {id} belonged to a run that was deleted")]
    IdUsed { id: RunId },
    #[error("the key {key} belongs to {run}, which was started with a different {differs}")]
    KeyUsed { key: String, run: RunId, differs: &'static str },
    #[error("module {0} is not in the store")]
    NoSuchModule(Digest),
    #[error("the database {place} cannot be opened: {reason}")]
    CannotOpen { place: String, reason: String },
    #[error("the database {place} cannot be written to")]
    ReadOnly { place: String },
    #[error("the disk that holds {place} is full")]
    Full { place: String },
    #[error("the database {place} is locked by {}", by.as_deref().unwrap_or("another program"))]
    Locked { place: String, by: Option<String> },
    #[error("the database {place} has format {found}, but this wfhost supports formats up to {known}")]
    Newer { place: String, found: u32, known: u32 },
    #[error("{place} is damaged: {reason}")]
    Damaged { place: String, reason: String },
    #[error("{place} is not a wfhost database")]
    Foreign { place: String },
    #[error("an operation of the database {place} failed: {reason}")]
    Failed { place: String, reason: String },
    #[error("the database {place} cannot be reached: {reason}")]
    Unreachable { place: String, reason: String },
    #[error("it is unknown whether the operation of {place} succeeded: {reason}")]
    Unknown { place: String, reason: String },
    #[error("the search was stopped after {millis} ms")]
    TooLong { millis: u64 },
    #[error("the database {place} denied access: {reason}")]
    Refused { place: String, reason: String },
    #[error("no secure connection to the database {place}: {reason}")]
    Insecure { place: String, reason: String },
    #[error("the database {place} is a standby, which is read-only")]
    Standby { place: String },
    #[error("the database {place} accepts no more connections: {reason}")]
    Crowded { place: String, reason: String },
    #[error("the database {place} does not contain wfhost's tables")]
    NoTables { place: String },
    #[error("the tables of the database {place} have format {found}, but this wfhost needs format {known}")]
    Older { place: String, found: u32, known: u32 },
    #[error("the database {place} is not empty")]
    NotEmpty { place: String },
    #[error("the database {place} cannot be used: {reason}")]
    Unfit { place: String, reason: String },
    #[error("invalid database URL `{place}`: {reason}")]
    BadUrl { place: String, reason: String },
    #[error("the database {place} was removed or replaced while it was in use")]
    Moved { place: String },
}

impl StoreError {
    /// The stable code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Fenced { .. } | Self::SessionOver => "WF0301",
            Self::IdTaken { .. } | Self::IdUsed { .. } => "WF0302",
            Self::NoSuchModule(_) => "WF0303",
            Self::KeyUsed { .. } => "WF0304",
            Self::Raced { .. } => "WF0305",
            Self::CannotOpen { .. } => "WF0310",
            Self::ReadOnly { .. } => "WF0311",
            Self::Full { .. } => "WF0312",
            Self::Locked { .. } => "WF0313",
            Self::Newer { .. } => "WF0314",
            Self::Damaged { .. } => "WF0315",
            Self::Foreign { .. } => "WF0316",
            Self::Failed { .. } => "WF0317",
            Self::Unreachable { .. } => "WF0318",
            Self::Unknown { .. } => "WF0319",
            Self::Moved { .. } => "WF0320",
            Self::TooLong { .. } => "WF0323",
            Self::Refused { .. } => "WF0331",
            Self::Insecure { .. } => "WF0332",
            Self::Standby { .. } => "WF0333",
            Self::Crowded { .. } => "WF0334",
            Self::Unfit { .. } => "WF0335",
            Self::BadUrl { .. } => "WF0336",
            Self::NoTables { .. } => "WF0337",
            Self::Older { .. } => "WF0338",
            Self::NotEmpty { .. } => "WF0340",
        }
    }

    /// Whether the same may succeed soon, without anybody's doing in the program.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::Locked { .. }
            | Self::Unreachable { .. }
            | Self::Standby { .. }
            | Self::Crowded { .. } => true,
            // Of a server, which others look after: it was the primary, or is kept from being written to for a while.
            Self::ReadOnly { place } => place.contains("://"),
            _ => false,
        }
    }
}
