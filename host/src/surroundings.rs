//! What a host takes from its surroundings if nothing else is said.

use wfhost_core::Timestamp;
use wfhost_store::{Owner, SharedStore};
use wfhost_world::{System, World};

/// The system that this process runs on, with the time of its store: hosts on many machines judge
/// deadlines by one clock, whatever theirs show.
#[derive(Clone, Debug)]
pub struct Surroundings(pub SharedStore);

impl World for Surroundings {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn owner(&self) -> Owner {
        System.owner()
    }

    fn is_dead(&self, owner: &Owner) -> bool {
        System.is_dead(owner)
    }
}
