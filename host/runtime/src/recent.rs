//! What was used last, by digests, within bounds.

use std::collections::HashMap;

use wfhost_core::Digest;

/// Entries that are kept, and bytes of all of them. What is in use is held by who uses it.
const ENTRIES: usize = 128;
const BYTES: usize = 512 << 20;

#[derive(Debug)]
pub(crate) struct Recent<T> {
    entries: HashMap<Digest, Entry<T>>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    bytes: usize,
    used: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), bytes: 0, uses: 0 }
    }
}

impl<T: Clone> Recent<T> {
    pub fn get(&mut self, key: Digest) -> Option<T> {
        self.uses += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.uses;
        Some(entry.value.clone())
    }

    /// Keeps something of about so many bytes, and lets go of what was not used for the longest time.
    pub fn put(&mut self, key: Digest, value: T, bytes: usize) {
        self.uses += 1;
        let before = self.entries.insert(key, Entry { value, bytes, used: self.uses });
        self.bytes = self.bytes + bytes - before.map_or(0, |before| before.bytes);
        while self.entries.len() > ENTRIES || self.bytes > BYTES && self.entries.len() > 1 {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
            let Some(oldest) = oldest.and_then(|oldest| self.entries.remove(&oldest)) else { break };
            self.bytes -= oldest.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let key = |n: usize| Digest::of(&n.to_le_bytes());
        let mut recent = Recent::default();
        for n in 0..ENTRIES {
            recent.put(key(n), n, 1);
        }
        assert_eq!(recent.get(key(0)), Some(0));
        recent.put(key(ENTRIES), ENTRIES, 1);
        assert_eq!((recent.get(key(0)), recent.get(key(1)), recent.get(key(2))), (Some(0), None, Some(2)));
        // By size: all but the newest.
        recent.put(key(1), 1, BYTES + 1);
        assert_eq!((recent.entries.len(), recent.bytes, recent.get(key(1))), (1, BYTES + 1, Some(1)));
        recent.put(key(1), 1, 7);
        assert_eq!(recent.bytes, 7);
    }
}
