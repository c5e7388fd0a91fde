//! The time of a store.

use std::fmt;
use std::sync::OnceLock;

use wfhost_core::Timestamp;

/// The clocks that a store judges by.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time of day, by which deadlines are met.
    fn now(&self) -> Timestamp;

    /// Milliseconds of a clock that nobody sets and that stands still while the
    /// machine sleeps, by which sessions are over.
    fn ticks_ms(&self) -> u64;

    /// Tells which clock [`Clock::ticks_ms`] is: figures of another one cannot be compared.
    fn source(&self) -> &str;
}

/// Those of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        wfhost_world::clock::now()
    }

    fn ticks_ms(&self) -> u64 {
        u64::try_from(wfhost_world::clock::awake().as_millis()).unwrap_or(u64::MAX)
    }

    fn source(&self) -> &str {
        // All processes of one boot have the same clock, unless they are in a time namespace.
        static SOURCE: OnceLock<String> = OnceLock::new();
        SOURCE.get_or_init(|| {
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let space = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
            format!("{} {}", boot.trim(), space.display())
        })
    }
}
