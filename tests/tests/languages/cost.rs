//! What a workflow costs in each language: the figures in docs/languages.md.
//!
//!     cargo nextest run --workspace --run-ignored only -E 'test(/^cost::/)' --no-capture -j 1
//!
//! Each language is measured in a process of its own, as nextest does it: memory is that of the
//! process. The program is the example `research`. Nothing is asserted about time.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost::agents::{Providers, Scripted};
use wfhost::engine::{Denied, Engine, Module};
use wfhost::store::{SqliteOptions, SqliteStore};
use wfhost::{Evict, Host, HostOptions, StartOptions};
use wfhost_core::{Digest, Json, RunId};
use wfhost_tests::{Place, lines, module};

/// Runs that are begun together. The first ones do not count: what a process takes once is not a run's.
const BATCH: usize = 50;
/// Runs that are alive at the same time.
const LIVE: usize = 200;
/// Runs that are parked.
const PARKED: usize = 400;

/// Private memory of this process, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") << 10
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let value = work();
    (begin.elapsed(), value)
}

/// A host whose agents answer by these rules, over the database and the cache of the place.
fn host(place: &Place, evict: Evict, rules: Value) -> Host {
    let path = place.script(rules);
    let mut providers = Providers::builtin();
    providers.set_default(Arc::new(Scripted::read(Path::new(&path)).expect("a script")));
    let store = SqliteStore::open(&place.db(), &SqliteOptions::default()).expect("a database");
    let mut options = HostOptions::new(Arc::new(store));
    options.cache = Some(place.path("cache"));
    options.providers = providers;
    options.evict = evict;
    Host::new(options).expect("a host")
}

/// Begins so many runs and gives the last one.
async fn begin(host: &Host, module: &Module, count: usize) -> Option<RunId> {
    let mut last = None;
    for _ in 0..count {
        let input = Json::parse(json!({ "topic": "cats", "sections": 2 }).to_string()).expect("JSON");
        let options = StartOptions { input, ..StartOptions::default() };
        last = Some(host.enqueue(module, options).await.expect("a run"));
    }
    last
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The memory of a run, in bytes: of `count` that are there more than at first. They are begun a
/// batch at a time, so that what they need on the way is there before.
async fn memory_of_each(host: &Host, module: &Module, count: usize, there: impl Fn(usize) -> bool) -> u64 {
    host.serve();
    let mut first = 0;
    let mut begun = 0;
    while begun < BATCH + count {
        begin(host, module, BATCH).await;
        begun += BATCH;
        until(|| there(begun)).await;
        if begun == BATCH {
            first = memory();
        }
    }
    memory().saturating_sub(first) / count as u64
}

async fn measure(language: &str, name: &str) {
    let bytes = std::fs::read(module(name)).expect("examples/build made it");
    let digest = Digest::of(&bytes);
    let new = || Engine::new(None).expect("an engine");
    let (compile, _) = timed(|| new().module(name, digest, &bytes, Denied::Trap).expect("a workflow"));

    // A run that waits for its approval and is parked.
    let place = Place::new();
    let parking = host(&place, Evict::Always, json!({ "default": { "reply": "ok" } }));
    let module = parking.add_module_with(name, &bytes, Denied::Trap).await.expect("a workflow");
    let (load, _) = timed(|| {
        let engine = Engine::new(Some(place.path("cache"))).expect("an engine");
        engine.cached(name, digest).expect("it is in the cache")
    });
    // An outline, two sections, a review.
    let calls = place.path("calls.jsonl");
    let parked =
        memory_of_each(&parking, &module, PARKED, |runs| lines(&calls) == 4 * runs && parking.live() == 0)
            .await;

    // From nothing to the program's first step, as at every wake-up of a parked run.
    parking.close(None).await;
    let run = begin(&parking, &module, 1).await.expect("one was begun");
    // The best of many: the machine may be busy with other things.
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let journal = parking.journal(&run).await.expect("a journal");
        let begin = Instant::now();
        parking
            .replay(&run, journal, &module, wfhost_core::Given::default())
            .await
            .expect("it agrees with itself");
        best = best.min(begin.elapsed());
    }

    // One whose agent is thinking.
    let place = Place::new();
    let hour = json!({ "default": { "reply": "", "delay_ms": 3_600_000 } });
    let thinking = host(&place, Evict::AfterGrace, hour);
    let module = thinking.add_module_with(name, &bytes, Denied::Trap).await.expect("a workflow");
    let calls = place.path("calls.jsonl");
    let live = memory_of_each(&thinking, &module, LIVE, |runs| lines(&calls) == runs).await;

    let kb = |bytes: u64| bytes.div_ceil(1_000);
    println!(
        "| {language} | {} kB | {} kB | {:.2} s | {:.1} ms | {:.2} ms | {} kB | {} kB |",
        kb(bytes.len() as u64),
        kb(artifact_bytes(&place.path("cache"))),
        compile.as_secs_f64(),
        load.as_secs_f64() * 1e3,
        best.as_secs_f64() * 1e3,
        kb(live),
        kb(parked),
    );
}

/// The size of the compiled component, which is alone in its cache.
fn artifact_bytes(cache: &Path) -> u64 {
    let files = std::fs::read_dir(cache.join("components")).expect("a cache");
    files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn rust() {
    measure("Rust", "research").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn c() {
    measure("C", "research-c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn go() {
    measure("Go", "research-go").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn javascript() {
    measure("JavaScript", "research-js").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn python() {
    measure("Python", "research-python").await;
}
