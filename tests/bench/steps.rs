//! Steps and runs a second.

use std::path::Path;
use std::time::Instant;

use rusqlite::Connection;
use serde_json::{Value, json};
use wfhost::store::{RunFilter, RunState, Synchronous};

use crate::limits::{self, STEP_BYTES};
use crate::place::{Place, program, steps};
use crate::report::{Reading, Target};

/// Runs of the probe side by side in a fresh database; gives seconds.
fn seconds(place: &Place, synchronous: Synchronous, runs: u64, operations: &Value) -> f64 {
    let db = place.fresh("wfhost.db");
    let seconds = seconds_in(place, &db, synchronous, runs, operations);
    place.discard(&db);
    seconds
}

fn seconds_in(place: &Place, db: &Path, synchronous: Synchronous, runs: u64, operations: &Value) -> f64 {
    place.runtime.block_on(async {
        let bench = place.bench(db, synchronous).await;
        let begin = Instant::now();
        bench.run_all(runs, operations).await;
        let seconds = begin.elapsed().as_secs_f64();
        bench.host.close(None).await;
        seconds
    })
}

/// One run, one step after the other.
pub fn serial(place: &Place) -> Vec<Reading> {
    let full = place.many(5_000);
    let append = limits::append_and_sync(place, full, STEP_BYTES);
    let rate = full as f64 / seconds(place, Synchronous::Full, 1, &steps(full, 8));
    let overwrite = limits::overwrite_and_sync(place, full, STEP_BYTES);
    let bare = limits::batched_inserts(place, 1, full, "FULL", STEP_BYTES);
    let normal = place.many(20_000);
    let bare_normal = limits::batched_inserts(place, 1, normal, "NORMAL", STEP_BYTES);
    let db = place.fresh("wfhost.db");
    let fast = normal as f64 / seconds_in(place, &db, Synchronous::Normal, 1, &steps(normal, 8));
    let mut readings = vec![
        Reading::new("serial steps, FULL", "1/s", rate)
            .beside("append + fdatasync", append)
            .target(Target::OfLimit(0.7)),
        Reading::new("the same, against a file of its full size", "1/s", rate)
            .beside("overwrite + fdatasync", overwrite),
        Reading::new("the same, against bare SQLite", "1/s", rate).beside("insert + commit", bare),
        Reading::new("serial steps, NORMAL", "1/s", fast)
            .beside("insert + commit", bare_normal)
            .target(Target::AtLeast(25_000.0)),
    ];
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |data| data.len());
    let wal = bytes(&db.with_extension("db-wal"));
    let checkpoint =
        Connection::open(&db).and_then(|db| db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    checkpoint.expect("a checkpoint");
    let size = bytes(&db) - bytes(Path::new(&wfhost_tests::module("probe")));
    place.discard(&db);
    readings.push(Reading::new("bytes of a serial step, in the file", "B", size as f64 / normal as f64));
    readings.push(Reading::new("the write-ahead log after them", "MiB", wal as f64 / 1_048_576.0));
    readings
}

/// Many runs side by side.
pub fn concurrent(place: &Place) -> Vec<Reading> {
    let measure = |runs: u64, count: u64, target: Option<f64>| {
        let (runs, all) = (place.many(runs), (place.many(runs) * count) as f64);
        let limit = limits::batched_inserts(place, runs, all as u64, "FULL", STEP_BYTES);
        let rate = all / seconds(place, Synchronous::Full, runs, &steps(count, 8));
        let reading = Reading::new(format!("{runs} runs of {count} steps, FULL"), "steps/s", rate)
            .beside("batched inserts", limit);
        match target {
            Some(target) => reading.target(Target::AtLeast(target)),
            None => reading,
        }
    };
    vec![
        measure(50, 100, Some(20_000.0)),
        measure(1_000, 100, Some(40_000.0)),
        queued(place, place.many(10_000), 10),
    ]
}

/// Runs that wait in the database until there is room for them.
fn queued(place: &Place, runs: u64, count: u64) -> Reading {
    let all = runs * count;
    let limit = limits::batched_inserts(place, runs.min(2_000), all, "FULL", STEP_BYTES);
    let db = place.fresh("wfhost.db");
    let seconds = place.runtime.block_on(async {
        let bench = place.bench(&db, Synchronous::Full).await;
        let begin = Instant::now();
        let operations = steps(count, 8);
        let new = (0..runs).map(|_| bench.host.enqueue(&bench.probe, program(&operations)));
        futures_util::future::try_join_all(new).await.expect("runs");
        bench.host.serve();
        let left = RunFilter {
            states: vec![RunState::Queued, RunState::Running, RunState::Waiting],
            limit: 1,
            ..RunFilter::default()
        };
        while !bench.store.runs(left.clone()).await.expect("a list").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        bench.host.close(None).await;
        seconds
    });
    place.discard(&db);
    Reading::new(format!("{runs} queued runs of {count} steps, FULL"), "steps/s", all as f64 / seconds)
        .beside("batched inserts", limit)
}

/// One run that joins many steps.
pub fn parallel(place: &Place) -> Vec<Reading> {
    let count = place.many(1_000);
    let operations = json!([{ "agent_many": { "count": count, "bytes": 8 } }]);
    let limit = limits::batched_inserts(place, 1, count, "FULL", STEP_BYTES);
    let rate = count as f64 / seconds(place, Synchronous::Full, 1, &operations);
    let name = format!("one run that joins {count} steps, FULL");
    vec![Reading::new(name, "steps/s", rate).beside("a commit for each", limit)]
}

/// Steps that hand over much.
pub fn payload(place: &Place) -> Vec<Reading> {
    let measure = |name: &str, count: u64, bytes: usize| {
        let count = place.many(count);
        // The question and the answer.
        let limit = limits::append_and_sync(place, count, STEP_BYTES + 2 * bytes);
        let rate = count as f64 / seconds(place, Synchronous::Full, 1, &steps(count, bytes));
        Reading::new(format!("serial steps of {name}, FULL"), "1/s", rate).beside("append + fdatasync", limit)
    };
    vec![measure("100 B", 2_000, 100), measure("10 kB", 2_000, 10_000), measure("1 MB", 50, 1_000_000)]
}

/// Runs that do nothing but begin and end.
pub fn runs(place: &Place) -> Vec<Reading> {
    let (one, side_by_side) = (place.many(1_000), place.many(5_000));
    let append = limits::append_and_sync(place, 2 * one, STEP_BYTES);
    let db = place.fresh("wfhost.db");
    let rate = place.runtime.block_on(async {
        let bench = place.bench(&db, Synchronous::Full).await;
        let begin = Instant::now();
        for _ in 0..one {
            bench.run(&json!([])).await;
        }
        one as f64 / begin.elapsed().as_secs_f64()
    });
    place.discard(&db);
    let db = place.fresh("wfhost.db");
    let together = place.runtime.block_on(async {
        let bench = place.bench(&db, Synchronous::Full).await;
        in_lanes(&bench, side_by_side).await
    });
    place.discard(&db);
    vec![
        Reading::new("start and finish of a run, one after the other, FULL", "runs/s", rate)
            .beside("two appends + fdatasync", append / 2.0),
        Reading::new("the same, 100 at a time", "runs/s", together),
    ]
}

/// So many runs that do nothing, 100 at a time; gives runs a second.
async fn in_lanes(bench: &crate::place::Bench, runs: u64) -> f64 {
    const LANES: u64 = 100;
    let begin = Instant::now();
    let lanes = (0..LANES).map(|lane| async move {
        for _ in (lane..runs).step_by(LANES as usize) {
            bench.run(&json!([])).await;
        }
    });
    futures_util::future::join_all(lanes).await;
    runs as f64 / begin.elapsed().as_secs_f64()
}

/// Twice the steps take twice the time.
pub fn linear(place: &Place) -> Vec<Reading> {
    let measure = |count: u64| {
        let count = place.many(count);
        (count, seconds(place, Synchronous::Normal, 1, &steps(count, 8)) / count as f64 * 1e6)
    };
    let (half, per_half) = measure(50_000);
    let (whole, per_whole) = measure(100_000);
    vec![
        Reading::new(format!("a step of {half} in one run, NORMAL"), "µs", per_half),
        Reading::new(format!("a step of {whole} in one run, NORMAL"), "µs", per_whole)
            .beside("of half as many", per_half),
    ]
}

/// A database that has seen much.
pub fn finished(place: &Place) -> Vec<Reading> {
    let ended = place.many(100_000);
    let (serial, many) = (place.many(2_000), place.many(50));
    let (empty, full) = (place.fresh("wfhost.db"), place.fresh("wfhost.db"));
    place.runtime.block_on(async {
        let bench = place.bench(&full, Synchronous::Normal).await;
        in_lanes(&bench, ended).await;
        bench.host.close(None).await;
    });
    let measure = |db: &Path, runs: u64, count: u64| {
        (runs * count) as f64 / seconds_in(place, db, Synchronous::Full, runs, &steps(count, 8))
    };
    let mut readings = Vec::new();
    let name = format!("serial steps beside {ended} finished runs, FULL");
    let limit = measure(&empty, 1, serial);
    readings.push(Reading::new(name, "1/s", measure(&full, 1, serial)).beside("without them", limit));
    let name = format!("{many} runs of 100 steps beside them, FULL");
    let limit = measure(&empty, many, 100);
    readings.push(Reading::new(name, "steps/s", measure(&full, many, 100)).beside("without them", limit));
    let lanes = |db: &Path| {
        place.runtime.block_on(async {
            let bench = place.bench(db, Synchronous::Full).await;
            let rate = in_lanes(&bench, place.many(2_000)).await;
            bench.host.close(None).await;
            rate
        })
    };
    let limit = lanes(&empty);
    let name = "start and finish beside them, 100 at a time, FULL";
    readings.push(Reading::new(name, "runs/s", lanes(&full)).beside("without them", limit));
    place.discard(&empty);
    place.discard(&full);
    readings
}
