//! The server's errors in the store's words.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use wfhost_store::StoreError;

/// Why a statement did not give what it should.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The server said so, and nothing was changed.
    Refused(StoreError),
    /// Others were in the way; the same at once may succeed.
    Again(StoreError),
    /// The connection is gone: it is not known whether it was done.
    Lost(StoreError),
    /// There was none.
    NoConnection(StoreError),
}

impl Fault {
    pub fn into_error(self) -> StoreError {
        match self {
            Self::Refused(error) | Self::Again(error) | Self::Lost(error) | Self::NoConnection(error) => {
                error
            }
        }
    }
}

/// All that an error says, without what it repeats.
pub(crate) fn spelled(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}

/// What a failure of a statement means to the user of the database at `place`.
pub(crate) fn classify(place: &str, error: &Error) -> Fault {
    let place = place.to_owned();
    let Some(said) = error.as_db_error() else {
        let reason = spelled(error);
        // What could not be sent or read is no failure of the connection.
        let is_ours = ["serializing", "deserializing", "converting"].iter().any(|kind| reason.contains(kind));
        return match is_ours {
            true => Fault::Refused(StoreError::Failed { place, reason }),
            false => Fault::Lost(StoreError::Unreachable { place, reason }),
        };
    };
    let reason = said.message().to_owned();
    let code = said.code();
    let class = code.code().get(..2).unwrap_or_default();
    match code {
        &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::T_R_DEADLOCK_DETECTED
        | &SqlState::LOCK_NOT_AVAILABLE => Fault::Again(StoreError::Locked { place, by: None }),
        // Two created the same at the same time: the one that comes second looks again.
        &SqlState::UNIQUE_VIOLATION => Fault::Again(StoreError::Failed { place, reason }),
        &SqlState::DISK_FULL => Fault::Refused(StoreError::Full { place }),
        // It may not be the primary any more: the next connection finds out.
        &SqlState::READ_ONLY_SQL_TRANSACTION => Fault::NoConnection(StoreError::ReadOnly { place }),
        &SqlState::INSUFFICIENT_PRIVILEGE => Fault::Refused(StoreError::Refused { place, reason }),
        &SqlState::TOO_MANY_CONNECTIONS => Fault::NoConnection(StoreError::Crowded { place, reason }),
        &SqlState::CANNOT_CONNECT_NOW => Fault::NoConnection(StoreError::Unreachable { place, reason }),
        _ if class == "57" || class == "08" => Fault::Lost(StoreError::Unreachable { place, reason }),
        _ if class == "53" => Fault::Lost(StoreError::Crowded { place, reason }),
        _ if class == "XX" => Fault::Refused(StoreError::Damaged { place, reason }),
        _ => {
            let reason = format!("{reason} ({})", code.code());
            Fault::Refused(StoreError::Failed { place, reason })
        }
    }
}

/// Why no connection could be made.
pub(crate) fn no_connection(place: &str, error: &Error) -> StoreError {
    let place = place.to_owned();
    if let Some(said) = error.as_db_error() {
        let reason = said.message().to_owned();
        return match said.code() {
            // pg_hba.conf takes only what is encrypted from there.
            &SqlState::INVALID_AUTHORIZATION_SPECIFICATION if reason.contains("no encryption") => {
                StoreError::Insecure { place, reason }
            }
            &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                StoreError::Refused { place, reason }
            }
            &SqlState::INVALID_CATALOG_NAME => StoreError::CannotOpen { place, reason },
            &SqlState::TOO_MANY_CONNECTIONS => StoreError::Crowded { place, reason },
            &SqlState::CANNOT_CONNECT_NOW => StoreError::Unreachable { place, reason },
            _ => classify(&place, error).into_error(),
        };
    }
    let reason = spelled(error);
    let mut cause = error.source();
    let mut is_system = false;
    while let Some(next) = cause {
        is_system |= next.downcast_ref::<std::io::Error>().is_some_and(|error| error.get_ref().is_none());
        cause = next.source();
    }
    if reason.contains("password missing") {
        return StoreError::Refused {
            place,
            reason: "it requires a password, but the URL has none".to_owned(),
        };
    }
    if reason.contains("does not allow writes") || reason.contains("read only") {
        return StoreError::Standby { place };
    }
    let tls = ["TLS", "certificate", "Certificate", "CA ", "handshake"];
    if !is_system && tls.iter().any(|word| reason.contains(word)) {
        return StoreError::Insecure { place, reason };
    }
    StoreError::Unreachable { place, reason }
}
