//! From an event to what the program does next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, try_join_all};
use serde_json::json;
use wfhost::agents::{Call, CallFailure, CallOutput, Provider};
use wfhost::store::{MessageBody, RunFilter, RunState, SharedStore, SqliteOptions, SqliteStore, Synchronous};
use wfhost::{Evict, HostOptions};
use wfhost_core::{Json, Reply};

use crate::limits::{self, STEP_BYTES};
use crate::place::{Bench, Place, program};
use crate::report::{Reading, Target, median, quantile};

/// Remembers when it was called, with what prompt: the first thing after an
/// event that others can see.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    calls: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Provider for Watch {
    fn name(&self) -> &str {
        "watch"
    }

    fn call(&self, call: Call, _: CallOutput) -> BoxFuture<'_, Result<Reply, CallFailure>> {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((Instant::now(), call.request.prompt.clone()));
        Box::pin(std::future::ready(Ok(Reply::new("watch", Json::null()))))
    }
}

impl Watch {
    pub fn install(&self, options: &mut HostOptions) {
        options.providers.add(Arc::new(self.clone()));
    }

    fn take(&self) -> Vec<(Instant, String)> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for so many calls.
    pub async fn calls(&self, count: usize) -> Vec<(Instant, String)> {
        while self.calls.lock().unwrap_or_else(PoisonError::into_inner).len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.take()
    }
}

fn milliseconds(length: Duration) -> f64 {
    length.as_secs_f64() * 1e3
}

/// From posting a signal to the call that the program makes then: both commits are within.
pub fn signal(place: &Place) -> Vec<Reading> {
    let count = place.many(100);
    let two_commits = 2e3 / limits::append_and_sync(place, place.many(500), STEP_BYTES);
    let program = json!([
        { "wait": { "name": "go" } },
        { "agent_of": { "provider": "watch", "prompt": "" } },
    ]);
    let cache = place.cache();
    let mut readings = Vec::new();
    for (name, evict, foreign) in [
        ("a signal to a run in memory", Evict::AfterGrace, false),
        ("a signal to a parked run", Evict::Always, false),
        ("a signal of another process to a run in memory", Evict::AfterGrace, true),
        ("a signal of another process to a parked run", Evict::Always, true),
    ] {
        let db = place.fresh("wfhost.db");
        let lengths = place.runtime.block_on(async {
            let watch = Watch::default();
            let bench = Bench::open(&db, &cache, Synchronous::Full, |options| {
                options.evict = evict;
                watch.install(options);
            });
            let bench = bench.await;
            // Another connection is to the host what another process is.
            let other: SharedStore =
                Arc::new(SqliteStore::open(&db, &SqliteOptions::default()).expect("the database"));
            let mut lengths = Vec::new();
            for _ in 0..count {
                let mut handle = bench.start(&program).await;
                loop {
                    let info = bench.store.run(&handle.id).await.expect("the run").expect("the run");
                    let waits = match evict {
                        Evict::Always => info.state == RunState::Waiting,
                        Evict::AfterGrace => info.entries.0 >= 2,
                    };
                    if waits {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let body = MessageBody::Signal { name: "go".to_owned(), payload: Json::null(), id: None };
                let begin = Instant::now();
                match foreign {
                    true => wfhost::post(&other, &handle.id, body).await.map(drop),
                    false => bench.host.post(&handle.id, body).await.map(drop),
                }
                .expect("a signal");
                lengths.push(milliseconds(watch.calls(1).await[0].0 - begin));
                handle.ending().await.expect("an end");
            }
            bench.host.close(None).await;
            lengths
        });
        place.discard(&db);
        readings.push(
            Reading::new(format!("{name}, p50"), "ms", median(lengths.clone()))
                .beside("two appends + fdatasync", two_commits),
        );
        readings.push(Reading::new(format!("{name}, p99"), "ms", quantile(lengths, 0.99)));
    }
    readings
}

/// Parked runs whose deadlines lie within ten seconds: from each deadline to
/// the call that the program makes then.
pub fn timers(place: &Place) -> Vec<Reading> {
    let (count, spread_ms) = (place.many(10_000), place.many(10_000));
    let ready_in = Duration::from_millis(if place.is_tiny() { 500 } else { 15_000 });
    let (db, cache) = (place.fresh("wfhost.db"), place.cache());
    let (lateness, parked) = place.runtime.block_on(async {
        let watch = Watch::default();
        let bench = Bench::open(&db, &cache, Synchronous::Full, |options| {
            options.evict = Evict::Always;
            watch.install(options);
        });
        let bench = bench.await;
        let (clock, wall) = (Instant::now(), wfhost::clock::now().0);
        let first = ready_in.as_millis() as u64;
        let new = (0..count).map(|index| {
            let after = first + index * spread_ms / count;
            let operations = json!([
                { "sleep_until": wall + after },
                { "agent_of": { "provider": "watch", "prompt": after.to_string() } },
            ]);
            let (host, probe) = (&bench.host, &bench.probe);
            async move { host.enqueue(probe, program(&operations)).await }
        });
        try_join_all(new).await.expect("runs");
        bench.host.serve();
        let unparked = RunFilter {
            states: vec![RunState::Queued, RunState::Running],
            limit: usize::MAX >> 1,
            ..RunFilter::default()
        };
        tokio::time::sleep(ready_in.saturating_sub(clock.elapsed())).await;
        let unparked = bench.store.runs(unparked).await.expect("a list").len();
        let calls = watch.calls(count as usize).await;
        bench.host.close(None).await;
        let lateness = calls.into_iter().map(|(at, after)| {
            let after = Duration::from_millis(after.parse().expect("a number"));
            // Deadlines are whole milliseconds of another clock.
            (milliseconds(at - clock) - milliseconds(after)).max(0.0)
        });
        (lateness.collect::<Vec<_>>(), count as usize - unparked)
    });
    place.discard(&db);
    vec![
        Reading::new(
            format!("lateness of {count} timers within {spread_ms} ms, p50"),
            "ms",
            median(lateness.clone()),
        ),
        Reading::new("the same, p99", "ms", quantile(lateness, 0.99)).target(Target::Under(20.0)),
        Reading::new(
            "of the runs, parked before the first deadline",
            "%",
            parked as f64 / count as f64 * 100.0,
        ),
    ]
}
