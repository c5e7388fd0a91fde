//! What a host of workflows takes from the machine that it runs on: the time, who it is, which
//! other processes live, random numbers, the environment, files that only its user has written. How
//! text gets to terminals and shells. And until when a run is its own.

pub mod clock;
pub mod environment;
mod ids;
mod lease;
mod lock;
pub mod owner;
pub mod private;
pub mod text;
mod world;

pub use self::ids::{NoRandom, fresh_id, fresh_seed};
pub use self::lease::{LatestLease, Lease};
pub use self::lock::lock;
pub use self::owner::Owner;
pub use self::world::{System, World};
