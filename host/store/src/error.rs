//! Why the store could not do it.

use super::*;

/// Why the store could not do what it was asked for. Nothing was changed, except
/// that it is not known after [`StoreError::Unknown`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another process advances {run} by now")]
    Fenced { run: RunId },
    #[error("another process ended the session of this one, which had not renewed it in time")]
    SessionOver,
    #[error("something was sent to {run} in the meantime")]
    Raced { run: RunId },
    #[error("there is a run {id} already")]
    IdTaken { id: RunId },
    #[error("the id {id} belonged to a run that was deleted")]
    IdUsed { id: RunId },
    #[error("the key {key} belongs to {run}, which was started with another {differs}")]
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
    #[error("the database {place} has format {found}, this wfhost knows formats up to {known}")]
    Newer { place: String, found: u32, known: u32 },
    #[error("{place} is damaged: {reason}")]
    Damaged { place: String, reason: String },
    #[error("{place} is no database of wfhost")]
    Foreign { place: String },
    #[error("the database {place} failed: {reason}")]
    Failed { place: String, reason: String },
    #[error("the database {place} cannot be reached: {reason}")]
    Unreachable { place: String, reason: String },
    #[error("it is not known whether {place} did what it was asked for: {reason}")]
    Unknown { place: String, reason: String },
    #[error("the search was given up after {millis} ms")]
    TooLong { millis: u64 },
    #[error("the database {place} does not let this user in: {reason}")]
    Refused { place: String, reason: String },
    #[error("there is no safe connection to the database {place}: {reason}")]
    Insecure { place: String, reason: String },
    #[error("the database {place} is a standby, which cannot be written to")]
    Standby { place: String },
    #[error("the database {place} takes no more connections: {reason}")]
    Crowded { place: String, reason: String },
    #[error("the database {place} has no tables of wfhost")]
    NoTables { place: String },
    #[error("the tables of the database {place} have format {found}, this wfhost needs format {known}")]
    Older { place: String, found: u32, known: u32 },
    #[error("the database {place} is not empty")]
    NotEmpty { place: String },
    #[error("the database {place} cannot be used: {reason}")]
    Unfit { place: String, reason: String },
    #[error("`{place}` is no URL of a database: {reason}")]
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
        matches!(
            self,
            Self::Full { .. }
                | Self::Locked { .. }
                | Self::Unreachable { .. }
                | Self::Standby { .. }
                | Self::Crowded { .. }
        )
    }
}
