//! What a host takes from the machine it runs on: the time, who it is, and
//! which other processes live. A simulation puts its own in the place.

use std::fmt;

use wfhost_core::Timestamp;

use crate::{Owner, clock, owner};

/// The surroundings of a host.
pub trait World: Send + Sync + fmt::Debug {
    /// The present time. It goes back only when the system clock was wrong for long.
    fn now(&self) -> Timestamp;

    /// The process that the host is.
    fn owner(&self) -> Owner;

    /// Whether a process is known to be no more.
    fn is_dead(&self, owner: &Owner) -> bool;
}

/// The system that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl World for System {
    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn owner(&self) -> Owner {
        owner::this_process()
    }

    fn is_dead(&self, owner: &Owner) -> bool {
        owner::is_dead(owner)
    }
}
