//! Sessions of hosts: the right to advance runs.

use super::*;

/// Names a session: 63 random bits, never given out twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl SessionId {
    /// A fresh one.
    pub fn fresh() -> Result<Self> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| StoreError::Failed {
            place: "the system".to_owned(),
            reason: format!("no random numbers: {error}"),
        })?;
        Ok(Self(u64::from_le_bytes(bytes) >> 1))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A session that nobody has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    pub id: SessionId,
    pub owner: Owner,
    /// Milliseconds until it is over; 0 if it is.
    pub left_ms: u64,
}

/// What became of a session that was to be renewed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Nobody ends it before `until`, in the store's time, at which it is `now`.
    Until { until: Timestamp, now: Timestamp },
    /// It was ended; all its runs are lost.
    Fenced,
}

/// When a session may be ended by another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// It was not renewed in time.
    IfOver,
    /// The caller knows that its owner is dead.
    Dead,
}
