//! Repeating journals.

use std::time::Instant;

use wfhost::store::Synchronous;
use wfhost_core::{Journal, Machine, Position};

use crate::place::{Place, steps};
use crate::report::{Reading, Target};

/// From opening the database to the end of the program, with the component compiled.
pub fn replay(place: &Place) -> Vec<Reading> {
    let mut readings = Vec::new();
    for entries in [1_000, 10_000, 100_000].map(|entries| place.many(entries)) {
        let db = place.fresh("wfhost.db");
        let id = place.runtime.block_on(async {
            let bench = place.bench(&db, Synchronous::Normal).await;
            let mut handle = bench.start(&steps(entries / 2, 8)).await;
            handle.ending().await.expect("an end");
            handle.id
        });
        let (whole, chain) = place.runtime.block_on(async {
            let begin = Instant::now();
            let bench = place.bench(&db, Synchronous::Full).await;
            let journal = bench.host.journal(&id).await.expect("a journal");
            let read = journal.entries.len() as f64;
            let replayed =
                bench.host.replay(&id, journal, &bench.probe, wfhost_core::Given::Everything).await;
            assert!(replayed.expect("a replay").departs.is_none());
            let whole = read / begin.elapsed().as_secs_f64();
            // What cannot be left out: reading, checking the chain, decoding, applying.
            let begin = Instant::now();
            let rows = bench.store.journal(&id, Position(0)).await.expect("rows");
            let journal = Journal::read(rows).expect("a whole journal");
            Machine::open(journal, wfhost_core::Given::default()).expect("a legal journal");
            (whole, read / begin.elapsed().as_secs_f64())
        });
        place.discard(&db);
        let reading = Reading::new(format!("replay of {entries} entries, all of it"), "entries/s", whole)
            .beside("reading and checking alone", chain);
        readings.push(match entries {
            // Of fewer, opening the database is the greater part.
            10_000.. => reading.target(Target::AtLeast(500_000.0)),
            _ => reading,
        });
    }
    readings
}
