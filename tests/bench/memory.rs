//! Memory of runs, in a process of their own.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde_json::json;
use wfhost::Evict;
use wfhost::store::{RunFilter, RunState, Synchronous};

use crate::place::{Bench, Place, program, runtime};
use crate::report::Reading;

/// The argument that makes this program such a process: then follow the kind,
/// the number of runs, the database and the cache.
pub const CHILD: &str = "--memory-of";

pub fn memory(place: &Place) -> Vec<Reading> {
    let (live, parked) = (place.many(1_000), place.many(10_000));
    let ask = |kind: &str, count: u64| {
        let db = place.fresh("wfhost.db");
        let this = std::env::current_exe().expect("a program knows its file");
        let mut child = Command::new(this);
        child.args([CHILD, kind, &count.to_string()]).arg(&db).arg(place.cache());
        let said = child.output().expect("the process starts");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        place.discard(&db);
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        text.parse::<f64>().expect("a number of bytes") / count as f64
    };
    vec![
        Reading::new(format!("memory of a live run, of {live}"), "kB", ask("live", live) / 1e3),
        Reading::new(format!("memory of a parked run, of {parked}"), "kB", ask("parked", parked) / 1e3),
    ]
}

/// Prints how much memory the runs took.
pub fn child(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let mut next = || arguments.next().expect("see CHILD");
    let (kind, count, db, cache) = (next(), next(), PathBuf::from(next()), PathBuf::from(next()));
    let count = count.parse().expect("a number");
    let grown = runtime().block_on(async {
        let bench = Bench::open(&db, &cache, Synchronous::Normal, |options| {
            if kind == "parked" {
                options.evict = Evict::Always;
            }
        });
        let bench = bench.await;
        // What the first runs bring into memory stays.
        bench.run_all(20, &json!([])).await;
        let waiting = program(&json!([{ "wait": { "name": "go" } }]));
        if kind == "live" {
            let before = resident();
            let mut handles = Vec::new();
            for _ in 0..count {
                handles.push(bench.host.start(&bench.probe, waiting.clone(), None).await.expect("a run"));
            }
            // Long before any of them is parked.
            tokio::time::sleep(Duration::from_millis(500)).await;
            return resident() - before;
        }
        for _ in 0..count {
            bench.host.enqueue(&bench.probe, waiting.clone()).await.expect("a run");
        }
        bench.host.serve();
        let unparked =
            RunFilter { states: vec![RunState::Queued, RunState::Running], limit: 1, ..RunFilter::default() };
        while !bench.store.runs(unparked.clone()).await.expect("a list").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bench.host.close(None).await;
        drop(bench);
        // A process that only serves them, beside one that serves none.
        let serve = async |db: PathBuf| {
            let bench = Bench::open(&db, &cache, Synchronous::Normal, |_| {}).await;
            bench.host.serve();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let resident = resident();
            bench.host.close(None).await;
            resident
        };
        let none = serve(db.with_file_name("empty.db")).await;
        serve(db).await - none
    });
    println!("{}", grown.max(0.0));
    ExitCode::SUCCESS
}

/// Bytes of this process that are in memory.
fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kilobytes.and_then(|number| number.trim().parse::<f64>().ok()).expect("a number") * 1024.0
}
