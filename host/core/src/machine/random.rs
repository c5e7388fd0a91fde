//! The random stream of a run.

use std::fmt;

/// BLAKE3's extendable output, keyed with the run's seed: `random` never needs
/// an entry, and every execution draws the same.
pub(super) struct Random(blake3::OutputReader);

impl Random {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(seed).update(b"wfhost random 1").finalize_xof())
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Random(at byte {})", self.0.position())
    }
}
