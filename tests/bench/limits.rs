//! What the machine gives without wfhost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use rusqlite::{Connection, params};

use crate::place::Place;

/// What a serial step of the measures takes in the journal, in bytes, about.
pub const STEP_BYTES: usize = 200;

/// Appends of `bytes` to a file with fdatasync after each, in 1/s: a durable
/// program that does nothing else.
pub fn append_and_sync(place: &Place, count: u64, bytes: usize) -> f64 {
    let path = place.fresh("log");
    let mut file = File::create(&path).expect("a file");
    let record = vec![b'x'; bytes];
    let begin = Instant::now();
    for _ in 0..count {
        file.write_all(&record).and_then(|()| file.sync_data()).expect("the disk takes it");
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    place.discard(&path);
    rate
}

/// The same over bytes that the file has already, as in a log that is used again, in 1/s.
pub fn overwrite_and_sync(place: &Place, count: u64, bytes: usize) -> f64 {
    let path = place.fresh("log");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).expect("a file");
    let record = vec![b'x'; bytes];
    file.write_all_at(&vec![b'-'; bytes * count as usize], 0).and_then(|()| file.sync_all()).expect("room");
    let begin = Instant::now();
    for index in 0..count {
        let at = index * bytes as u64;
        file.write_all_at(&record, at).and_then(|()| file.sync_data()).expect("the disk takes it");
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    place.discard(&path);
    rate
}

/// Rows into a bare table like the journal's, `batch` of them in a
/// transaction, each of another run, in 1/s.
pub fn batched_inserts(place: &Place, batch: u64, count: u64, synchronous: &str, bytes: usize) -> f64 {
    let path = place.fresh("bare.db");
    let db = Connection::open(&path).expect("a database");
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 0;
         CREATE TABLE journal (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL,
                               head BLOB NOT NULL, body BLOB NOT NULL, UNIQUE (run, seq)) STRICT;"
    ))
    .expect("a table");
    let body = vec![b'x'; bytes];
    let begin = Instant::now();
    for sequence in 0..count / batch {
        db.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).expect("a transaction");
        for run in 0..batch {
            db.prepare_cached("INSERT INTO journal (run, seq, head, body) VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut insert| insert.execute(params![run as i64, sequence as i64, [0u8; 32], body]))
                .expect("a row");
        }
        db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).expect("a commit");
    }
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    drop(db);
    place.discard(&path);
    rate
}
