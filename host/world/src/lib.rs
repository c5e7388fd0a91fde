//! What a host of workflows takes from the machine that it runs on: the time, who it is, which
//! other processes live, random numbers. And until when a run is its own.

pub mod clock;
mod ids;
mod lease;
mod lock;
pub mod owner;
mod world;

pub use self::ids::{NoRandom, fresh_id, fresh_seed};
pub use self::lease::Lease;
pub use self::lock::lock;
pub use self::owner::Owner;
pub use self::world::{System, World};
