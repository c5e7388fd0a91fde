//! Journals as text files that diff well: a line for each row, with its first
//! position, its count and its head, and below it a line of hexadecimal digits
//! for each entry. `#` begins a comment.

use std::fmt::Write;
use std::path::PathBuf;

use wfhost_core::journal::{GENESIS, extend_chain};
use wfhost_core::{Digest, Entry, Position, Row};

pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2), "an odd number of digits: {digits}");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Rows of so many of the entries each.
pub fn rows(entries: &[Entry], counts: &[usize]) -> Vec<Row> {
    let mut rest = entries;
    let mut head = GENESIS;
    let mut rows = Vec::new();
    let mut first = Position(0);
    for &count in counts {
        let (these, after) = rest.split_at(count);
        rest = after;
        let mut bytes = Vec::new();
        for entry in these {
            let start = bytes.len();
            entry.encode_to(&mut bytes);
            head = extend_chain(&head, &bytes[start..]);
        }
        rows.push(Row { first, count: count as u32, bytes, head });
        first.0 += count as u64;
    }
    assert!(rest.is_empty(), "the counts leave entries over");
    rows
}

pub fn write(rows: &[Row]) -> String {
    let mut text = String::from("# A journal of format 1: see docs/journal-format.md.\n");
    for row in rows {
        writeln!(text, "row {} {} {}", row.first, row.count, row.head.hex()).unwrap();
        let mut rest = row.bytes.as_slice();
        let mut position = row.first;
        while !rest.is_empty() {
            let (entry, length) = Entry::decode(rest, position).unwrap();
            writeln!(text, "# {position} {}\n{}", entry.event.kind(), hex(&rest[..length])).unwrap();
            rest = &rest[length..];
            position.0 += 1;
        }
    }
    text
}

pub fn read(name: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("row ") {
            Some(row) => {
                let fields: Vec<_> = row.split(' ').collect();
                let [first, count, head] = fields[..] else { panic!("no row: {line}") };
                rows.push(Row {
                    first: Position(first.parse().unwrap()),
                    count: count.parse().unwrap(),
                    bytes: Vec::new(),
                    head: Digest::parse(head).unwrap(),
                });
            }
            None => rows.last_mut().unwrap().bytes.extend(unhex(line)),
        }
    }
    rows
}
