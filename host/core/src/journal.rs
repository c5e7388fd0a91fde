//! Journals as they are stored: rows of entries, and the chain through them.

use std::cmp::Ordering;

use crate::entry::{Entry, EntryError};
use crate::{Digest, Position};

/// The head of the chain before the first entry.
pub const GENESIS: Digest = Digest([0; 32]);

/// The head of the chain after an entry: BLAKE3 of the entry's bytes, keyed
/// with the head before it. So a head stands for all entries up to it.
pub fn extend_chain(head: &Digest, entry: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(&head.0, entry).as_bytes())
}

/// What one commit appended to a journal.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The position of its first entry.
    pub first: Position,
    /// How many entries there are.
    pub count: u32,
    /// Their bytes, one after the other.
    pub bytes: Vec<u8>,
    /// The head of the chain after the last of them.
    pub head: Digest,
}

impl Row {
    /// Its entries with their positions. The chain is not checked: [`Journal::read`] does that.
    /// Ends behind the first entry that cannot be read.
    pub fn entries(&self) -> impl Iterator<Item = Result<(Position, Entry), EntryError>> {
        let (mut rest, mut position) = (self.bytes.as_slice(), self.first);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let at = position;
            let read = Entry::decode(rest, at);
            rest = read.as_ref().map_or(&[][..], |(_, length)| &rest[*length..]);
            position.0 += 1;
            Some(read.map(|(entry, _)| (at, entry)))
        })
    }

    /// The row that this one and the one behind it are together.
    pub fn with(mut self, next: Self) -> Self {
        self.bytes.extend(next.bytes);
        Self { count: self.count + next.count, head: next.head, ..self }
    }

    /// The position behind its last entry.
    pub fn end(&self) -> Position {
        Position(self.first.0 + u64::from(self.count))
    }
}

/// A journal that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("entries {expected} to {found} are missing", found = .found.0.saturating_sub(1))]
    Gap { expected: Position, found: Position },
    #[error("the row at entry {found} follows entry {last}", last = .expected.0.saturating_sub(1))]
    Repeated { expected: Position, found: Position },
    #[error("entries {first} to {last} are damaged: their digest differs")]
    Chain { first: Position, last: Position },
    #[error("the row at entry {first} does not contain the number of entries that it declares")]
    Count { first: Position },
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("entry {position} is invalid at its position: {reason}")]
    Illegal { position: Position, reason: String },
}

/// A journal that was read and checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Journal {
    pub entries: Vec<Entry>,
    /// The head of the chain after the last entry.
    pub head: Digest,
}

impl Journal {
    /// Reads rows in their order, and checks that nothing is missing, added or altered.
    pub fn read(rows: impl IntoIterator<Item = Row>) -> Result<Self, JournalError> {
        let rows: Vec<_> = rows.into_iter().collect();
        // An entry has at least a byte, whatever a damaged row says.
        let count = rows.iter().map(|row| (row.count as usize).min(row.bytes.len())).sum();
        let mut entries = Vec::with_capacity(count);
        let mut head = GENESIS;
        for row in rows {
            let expected = Position(entries.len() as u64);
            match row.first.cmp(&expected) {
                Ordering::Equal => {}
                Ordering::Greater => return Err(JournalError::Gap { expected, found: row.first }),
                Ordering::Less => return Err(JournalError::Repeated { expected, found: row.first }),
            }
            let before = head;
            let mut rest = row.bytes.as_slice();
            while !rest.is_empty() {
                let position = Position(entries.len() as u64);
                let (entry, length) = Entry::decode(rest, position).map_err(|error| {
                    // Bytes that were altered need no further explanation.
                    match chain_of(before, &row.bytes) == Some(row.head) {
                        true => JournalError::Entry(error),
                        false => JournalError::Chain { first: row.first, last: position },
                    }
                })?;
                let (bytes, after) = rest.split_at(length);
                head = extend_chain(&head, bytes);
                entries.push(entry);
                rest = after;
            }
            let last = Position((entries.len() as u64).saturating_sub(1));
            if head != row.head {
                return Err(JournalError::Chain { first: row.first, last });
            }
            if entries.len() as u64 != row.first.0 + u64::from(row.count) {
                return Err(JournalError::Count { first: row.first });
            }
        }
        Ok(Self { entries, head })
    }
}

/// Entries, from the first of a journal on, as rows.
pub fn rows(entries: &[Entry]) -> Vec<Row> {
    /// Bytes of a row, about.
    const ROW: usize = 1 << 20;
    let mut rows = Vec::new();
    let mut row = Row { first: Position(0), count: 0, bytes: Vec::new(), head: GENESIS };
    for entry in entries {
        let start = row.bytes.len();
        entry.encode_to(&mut row.bytes);
        row.head = extend_chain(&row.head, &row.bytes[start..]);
        row.count += 1;
        if row.bytes.len() >= ROW {
            let next = Row { first: row.end(), count: 0, bytes: Vec::new(), head: row.head };
            rows.push(std::mem::replace(&mut row, next));
        }
    }
    rows.extend(Some(row).filter(|row| row.count > 0));
    rows
}

/// The head after the entries in `bytes`, whatever their kinds; none if they are no CBOR.
fn chain_of(mut head: Digest, mut bytes: &[u8]) -> Option<Digest> {
    while !bytes.is_empty() {
        let mut decoder = minicbor::Decoder::new(bytes);
        decoder.skip().ok()?;
        let (entry, rest) = bytes.split_at(decoder.position());
        head = extend_chain(&head, entry);
        bytes = rest;
    }
    Some(head)
}
