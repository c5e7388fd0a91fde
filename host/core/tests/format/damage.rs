//! Journals that are damaged, forged or of the future.

use crate::rows;
use proptest::prelude::*;
use wfhost_core::journal::{GENESIS, extend_chain};
use wfhost_core::{
    Digest, Entry, EntryError, Event, Given, Journal, JournalError, Machine, Op, Position, Row, Step,
    Timestamp, decode_op, encode_op,
};

fn golden() -> Vec<Row> {
    rows::read("every-kind.journal")
}

fn refused(rows: Vec<Row>) -> JournalError {
    Journal::read(rows).expect_err("a damaged journal is refused")
}

/// A row of these bytes whose digest is right.
fn forged(entries: &[&[u8]]) -> Row {
    let head = entries.iter().fold(GENESIS, |head, entry| extend_chain(&head, entry));
    Row { first: Position(0), count: entries.len() as u32, bytes: entries.concat(), head }
}

/// The first entry of the golden journal, `started`.
fn started() -> Vec<u8> {
    golden().swap_remove(0).bytes
}

#[test]
fn every_flipped_bit_is_found() {
    let rows = golden();
    for (i, row) in rows.iter().enumerate() {
        for at in 0..row.bytes.len() {
            for bit in 0..8 {
                let mut rows = rows.clone();
                rows[i].bytes[at] ^= 1 << bit;
                let JournalError::Chain { first, .. } = refused(rows) else {
                    panic!("bit {bit} of byte {at} of row {i} is called something else")
                };
                assert_eq!(first, row.first, "the row that is damaged is named");
            }
        }
        for at in 0..32 {
            let mut rows = rows.clone();
            rows[i].head.0[at] ^= 1;
            assert!(matches!(refused(rows), JournalError::Chain { .. }));
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let rows = golden();
    for i in 0..rows.len() {
        for length in 0..rows[i].bytes.len() {
            let mut rows = rows.clone();
            rows[i].bytes.truncate(length);
            let JournalError::Chain { first, .. } = refused(rows) else { panic!("row {i} cut to {length}") };
            assert_eq!(first, golden()[i].first);
        }
    }
}

#[test]
fn a_missing_row_is_found() {
    let rows = golden();
    for missing in 0..rows.len() - 1 {
        let mut rows = rows.clone();
        let gone = rows.remove(missing);
        let found = rows[missing].first;
        assert_eq!(refused(rows), JournalError::Gap { expected: gone.first, found });
    }
    let error = JournalError::Gap { expected: Position(3), found: Position(6) };
    assert_eq!(error.to_string(), "entries 3 to 5 are missing");
}

/// That the last rows are missing shows only in the head, which is kept with the run.
#[test]
fn a_missing_end_shows_in_the_head() {
    let rows = golden();
    let whole = Journal::read(rows.clone()).unwrap();
    let beginning = Journal::read(rows[..rows.len() - 1].to_vec()).unwrap();
    assert_ne!(beginning.head, whole.head);
    assert_eq!(Journal::read([]).unwrap().head, GENESIS);
}

#[test]
fn rows_in_another_order_or_twice_are_found() {
    let rows = golden();
    let mut swapped = rows.clone();
    swapped.swap(1, 2);
    let (one, two) = (rows[1].first, rows[2].first);
    assert_eq!(refused(swapped), JournalError::Gap { expected: one, found: two });
    let mut twice = rows;
    twice.insert(2, twice[1].clone());
    let error = refused(twice);
    assert_eq!(error, JournalError::Repeated { expected: two, found: one });
    assert_eq!(error.to_string(), "the row at entry 1 follows entry 13");
}

#[test]
fn a_row_put_in_the_place_of_another_is_found() {
    // Two runs: the same entries in another row, so that the places agree.
    let mut rows = golden();
    let other = rows::read("conversation.journal");
    let (first, count) = (rows[1].first, rows[1].count);
    rows[1] = Row { first, count, ..other[1].clone() };
    assert!(matches!(refused(rows), JournalError::Chain { .. }));
}

#[test]
fn a_wrong_count_is_found() {
    for count in [0, 12, 14, u32::MAX] {
        let mut rows = golden();
        rows[1].count = count;
        let error = refused(rows);
        assert_eq!(error, JournalError::Count { first: Position(1) });
        assert_eq!(
            error.to_string(),
            "the row at entry 1 does not contain the number of entries that it declares"
        );
    }
}

#[test]
fn damage_says_which_entries_it_concerns() {
    let mut rows = golden();
    let last = rows[1].bytes.len() - 1;
    rows[1].bytes[last] ^= 1;
    let text = refused(rows).to_string();
    assert_eq!(text, "entries 1 to 13 are damaged: their digest differs");
}

#[test]
fn an_entry_of_a_future_kind_says_so() {
    // [at, [200, [1, "x"]]]
    let future = rows::unhex("82 00 82 18c8 82 01 6178".replace(' ', "").as_str());
    let error = refused(vec![forged(&[&started(), &future])]);
    assert_eq!(error.to_string(), "entry 1 has the unknown kind 200: it was written by a newer wfhost");
}

#[test]
fn the_first_unknown_kind_is_the_next_number() {
    for (kind, op, known) in [(19, 7, true), (21, 8, false)] {
        let entry = [0x82, 0x00, 0x82, kind, 0x80];
        let unknown = EntryError::UnknownKind { position: Position(7), kind: u32::from(kind) };
        let error = Entry::decode(&entry, Position(7)).unwrap_err();
        assert_eq!(error == unknown, !known, "{error}");
        let unknown_op = EntryError::UnknownOp { position: Position(7), kind: u32::from(op) };
        let op = [0x82, op, 0x80];
        let error = decode_op(&op, Position(7)).unwrap_err();
        assert_eq!(error == unknown_op, !known, "{error}");
    }
}

#[test]
fn an_operation_of_a_future_kind_says_so() {
    // [at, [1, [1, h'82 18c8 80']]]: step 1 asks for [200, []]
    let at = "1b 00000197 74d6ac00";
    let future = rows::unhex(format!("82 {at} 82 01 82 01 44 82 18c8 80").replace(' ', "").as_str());
    let journal = Journal::read([forged(&[&started(), &future])]).unwrap();
    let error = Machine::open(journal, wfhost_core::Given::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 1 contains an operation of the unknown kind 200: it was written by a newer wfhost"
    );
}

#[test]
fn fields_that_later_versions_add_are_passed_over() {
    // `cancelled` with a second field and a fourth part of the entry: [5, [4, [2, "new"]], null, "more"]
    let entry = rows::unhex("84 05 82 04 82 02 63 6e6577 f6 64 6d6f7265".replace(' ', "").as_str());
    let (read, length) = Entry::decode(&entry, Position(0)).unwrap();
    assert_eq!((read.at, read.event.kind(), length), (Timestamp(5), "cancelled", entry.len()));
}

#[test]
fn an_optional_field_that_an_earlier_version_did_not_write_is_none() {
    // `received` with two fields: ["go", "1"]
    let entry = rows::unhex("82 05 82 05 82 62 676f 61 31".replace(' ', "").as_str());
    let (read, _) = Entry::decode(&entry, Position(0)).unwrap();
    assert_eq!(read.event.kind(), "received");
}

#[test]
fn an_id_that_is_none_cannot_come_in_with_a_journal() {
    let id = b"run-golden.1";
    let mut entry = started();
    let at = entry.windows(id.len()).position(|window| window == id).unwrap();
    entry[at..at + 3].copy_from_slice(b"../");
    let error = refused(vec![forged(&[&entry])]);
    assert!(matches!(error, JournalError::Entry(EntryError::Damaged { .. })), "{error}");
}

fn encoded(event: Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    Entry { at: Timestamp(u64::MAX >> 1), event, behind_ms: None }.encode_to(&mut bytes);
    bytes
}

fn scheduled(step: u64) -> Vec<u8> {
    let op = encode_op(&Op::Sleep { length_ms: 1 });
    encoded(Event::Scheduled { step: Step(step), op: op.into() })
}

fn retried(from: u64) -> Vec<u8> {
    encoded(Event::Retried { from: Position(from), step: None, emissions: 0 })
}

/// What is kept of steps lies in a row: a gap would be as much memory as a forger likes.
#[test]
fn numbers_of_steps_have_no_gaps_not_even_void_ones() {
    for number in [3, 1 << 62, u64::MAX] {
        let entries =
            [started(), scheduled(1), scheduled(number), retried(2), scheduled(number.wrapping_add(1))];
        let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
        let journal = Journal::read(vec![forged(&entries)]).unwrap();
        let error = Machine::open(journal, Given::Nothing).expect_err("it is refused");
        let reason = format!("step {number} follows step 1");
        assert_eq!(error, JournalError::Illegal { position: Position(2), reason });
    }
}

/// With a look at all entries before it for each of them this would take hours.
#[test]
fn a_hundred_thousand_entries_that_declare_all_before_them_void_are_read_at_once() {
    let mut entries = vec![started(), scheduled(1)];
    entries.extend((0..100_000).map(|_| retried(1)));
    let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
    let journal = Journal::read(vec![forged(&entries)]).unwrap();
    assert!(Machine::open(journal, Given::Nothing).is_ok());
}

/// Reads rows and, if that works, opens them; whatever comes, it does not panic.
fn attempt(rows: Vec<Row>) {
    if let Ok(journal) = Journal::read(rows)
        && let Ok(mut machine) = Machine::open(journal, wfhost_core::Given::default())
    {
        machine.fire_timers(Timestamp(u64::MAX));
        machine.take_work(Timestamp(0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // These end at once if the first byte is not that of an array.
        let mut array = vec![0x82, 0x00, 0x82];
        array.extend(&bytes);
        for bytes in [bytes, array] {
            if let Ok((_, length)) = Entry::decode(&bytes, Position(0)) {
                prop_assert!(length <= bytes.len());
            }
            drop(decode_op(&bytes, Position(0)));
            let head = Digest([1; 32]);
            attempt(vec![Row { first: Position(0), count: 1, bytes: bytes.clone(), head }]);
            attempt(vec![forged(&[&started(), &bytes])]);
        }
    }

    /// The chain does not help against somebody who writes it anew.
    #[test]
    fn a_forger_who_gets_the_chain_right_makes_nothing_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes: Vec<u8> = golden().into_iter().flat_map(|row| row.bytes).collect();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut entries = Vec::new();
        let mut rest = bytes.as_slice();
        while let Ok((_, length)) = Entry::decode(rest, Position(0)) {
            let (entry, after) = rest.split_at(length);
            entries.push(entry);
            rest = after;
        }
        attempt(vec![forged(&entries)]);
    }
}
