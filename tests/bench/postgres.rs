//! Runs on a PostgreSQL server of their own, with fsync, beside what else can be done with that server by turns: a
//! loop of one INSERT for each step, and one that does for a step what DBOS does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use private_postgres::Postgres;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls, Statement};
use wfhost::Evict;
use wfhost::store::{
    ClaimHow, Claimed, MessageBody, Owner, RunFilter, RunState, SharedStore, Synchronous, Wanted,
};
use wfhost_core::{Json, RunId};
use wfhost_postgres::{PostgresOptions, PostgresStore};

use crate::limits::{self, STEP_BYTES};
use crate::place::{Bench, Place, program, steps};
use crate::report::{Reading, Target, median, quantile};
use crate::waking::Watch;

/// A server, with its data where the other measures have theirs.
fn server() -> Postgres {
    Postgres::start(&["fsync=on", "shared_buffers=256MB", "max_wal_size=2GB"])
}

/// A handle on a schema of the server.
async fn store(server: &Postgres, schema: &str) -> SharedStore {
    let url = format!("{}?schema={schema}", server.url());
    let options = PostgresOptions { synchronous: Synchronous::Full, ..PostgresOptions::default() };
    Arc::new(PostgresStore::open(&url, &options).await.expect("a database"))
}

async fn bench(place: &Place, server: &Postgres, schema: &str) -> Bench {
    Bench::over(store(server, schema).await, &place.cache(), |_| {}).await
}

/// How long something took, and what the server had of processors for it, both in seconds.
struct Took {
    seconds: f64,
    server: f64,
}

async fn took(server: &Postgres, work: impl Future<Output = ()>) -> Took {
    let (cpu, begin) = (server.cpu(), Instant::now());
    work.await;
    let seconds = begin.elapsed().as_secs_f64();
    Took { seconds, server: server.cpu().saturating_sub(cpu).as_secs_f64() }
}

impl Took {
    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }

    /// Microseconds of the server for each.
    fn each(&self, count: u64) -> f64 {
        self.server * 1e6 / count as f64
    }
}

/// So many runs of so many steps, until all have ended, with what is read before and after left out.
async fn side_by_side(server: &Postgres, bench: &Bench, runs: u64, operations: &Value) -> Took {
    took(server, bench.run_all(runs, operations)).await
}

/// A connection as programs have it that do everything by it alone.
struct Loop {
    client: Client,
    insert: Statement,
    status: Statement,
    output: Statement,
    executor: Statement,
    record: Statement,
}

impl Loop {
    async fn new(server: &Postgres) -> Self {
        let (client, connection) =
            tokio_postgres::connect(&server.url(), NoTls).await.expect("the server of the measures");
        tokio::spawn(async move {
            // It ends with the client.
            let _ = connection.await;
        });
        // The columns and keys that DBOS (6bc3032f, 2026-08) fills for a step, the foreign key among them.
        client
            .batch_execute(
                "SET client_min_messages = warning;
                 CREATE TABLE IF NOT EXISTS steps (run int8, seq int8, body bytea, PRIMARY KEY (run, seq));
                 CREATE TABLE IF NOT EXISTS workflow_status (
                     workflow_uuid text PRIMARY KEY, status text, executor_id text);
                 CREATE TABLE IF NOT EXISTS operation_outputs (
                     workflow_uuid text REFERENCES workflow_status ON UPDATE CASCADE ON DELETE CASCADE,
                     function_id int4, function_name text, started_at_epoch_ms int8, completed_at_epoch_ms int8,
                     output text, error text, serialization text, application_name text,
                     PRIMARY KEY (workflow_uuid, function_id))",
            )
            .await
            .expect("tables");
        let prepare = async |sql: &str| client.prepare(sql).await.expect("a statement");
        let insert = prepare("INSERT INTO steps VALUES ($1, $2, $3)").await;
        let status = prepare("SELECT status FROM workflow_status WHERE workflow_uuid = $1").await;
        let output = prepare(
            "SELECT output, error, function_name, serialization FROM operation_outputs
             WHERE workflow_uuid = $1 AND function_id = $2",
        )
        .await;
        let executor = prepare("SELECT executor_id FROM workflow_status WHERE workflow_uuid = $1").await;
        let record = prepare(
            "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, started_at_epoch_ms,
                 completed_at_epoch_ms, output, error, serialization, application_name)
             VALUES ($1, $2, 'step', 1, 2, $3, NULL, 'json', 'bench')
             ON CONFLICT (workflow_uuid, function_id)
             DO UPDATE SET completed_at_epoch_ms = operation_outputs.completed_at_epoch_ms
             RETURNING completed_at_epoch_ms",
        )
        .await;
        Self { client, insert, status, output, executor, record }
    }

    /// One INSERT for each step, each a transaction.
    async fn inserts(&self, run: i64, count: u64) {
        let body = vec![b'x'; STEP_BYTES];
        for seq in 0..count as i64 {
            self.client.execute(&self.insert, &[&run, &seq, &body]).await.expect("a row");
        }
    }

    async fn simple(&self, sql: &str) {
        self.client.batch_execute(sql).await.expect("a transaction");
    }

    /// What DBOS does: a transaction that looks whether the workflow was cancelled and the step was done, and one that
    /// looks whose it is and records the step. Each statement is a round trip, BEGIN and COMMIT are as well, as
    /// psycopg sends them; one of the commits has something to make durable.
    async fn dbos(&self, workflow: &str, count: u64) {
        let begin = "INSERT INTO workflow_status VALUES ($1, 'PENDING', 'bench') ON CONFLICT DO NOTHING";
        self.client.execute(begin, &[&workflow]).await.expect("a row");
        let output = "x".repeat(STEP_BYTES);
        for step in 0..count as i32 {
            self.simple("BEGIN").await;
            self.client.query(&self.status, &[&workflow]).await.expect("a row");
            self.client.query(&self.output, &[&workflow, &step]).await.expect("no row");
            self.simple("COMMIT").await;
            self.simple("BEGIN").await;
            self.client.query(&self.executor, &[&workflow]).await.expect("a row");
            self.client.query(&self.record, &[&workflow, &step, &output]).await.expect("a row");
            self.simple("COMMIT").await;
        }
    }
}

/// One run, one step after the other.
pub fn serial(place: &Place) -> Vec<Reading> {
    let count = place.many(4_000);
    let server = server();
    place.runtime.block_on(async {
        let append = limits::append_and_sync(place, count, STEP_BYTES);
        let bench = bench(place, &server, "serial").await;
        side_by_side(&server, &bench, 1, &steps(place.many(500), 8)).await;
        let ours = side_by_side(&server, &bench, 1, &steps(count, 8)).await;
        bench.host.close(None).await;
        let other = Loop::new(&server).await;
        let bare = took(&server, other.inserts(1, count)).await;
        let dbos = took(&server, other.dbos("serial", count)).await;
        vec![
            Reading::new("PostgreSQL: serial steps", "1/s", ours.rate(count))
                .beside("append + fdatasync", append)
                .target(Target::OfLimit(0.5)),
            Reading::new("the same, against an INSERT for each", "1/s", ours.rate(count))
                .beside("insert + commit", bare.rate(count)),
            Reading::new("the same, against what DBOS does for each", "1/s", ours.rate(count))
                .beside("DBOS-like loop", dbos.rate(count)),
            Reading::new("PostgreSQL: server CPU of a serial step", "µs", ours.each(count))
                .beside("insert + commit", bare.each(count))
                .target(Target::Under(110.0)),
            Reading::new(
                "PostgreSQL: server CPU of a serial step, against what DBOS does",
                "µs",
                ours.each(count),
            )
            .beside("DBOS-like loop", dbos.each(count)),
        ]
    })
}

/// Many runs side by side, also while somebody holds a transaction open.
pub fn concurrent(place: &Place) -> Vec<Reading> {
    const CONNECTIONS: u64 = 50;
    let server = server();
    place.runtime.block_on(async {
        // One after the other: the first creates the tables.
        let mut loops = Vec::new();
        for _ in 0..CONNECTIONS {
            loops.push(Loop::new(&server).await);
        }
        let loops = Arc::new(loops);
        let each = place.many(200);
        let dbos = took(&server, async {
            let all = (0..CONNECTIONS as usize).map(|number| {
                let loops = Arc::clone(&loops);
                tokio::spawn(async move { loops[number].dbos(&format!("c{number}"), each).await })
            });
            try_join_all(all).await.expect("they end");
        })
        .await;
        let all = CONNECTIONS * each;
        let (dbos_rate, dbos_cpu) = (dbos.rate(all), dbos.each(all));
        let bench = bench(place, &server, "concurrent").await;
        let operations = steps(100, 8);
        side_by_side(&server, &bench, 50, &operations).await;
        let mut readings = Vec::new();
        let mut quiet = 0.0;
        for (runs, rate, cpu) in [(50, 30_000.0, 10.0), (place.many(1_000), 45_000.0, 10.0)] {
            let ours = side_by_side(&server, &bench, runs, &operations).await;
            let count = runs * 100;
            if runs == 50 {
                quiet = ours.each(count);
            }
            readings.push(
                Reading::new(format!("PostgreSQL: {runs} runs of 100 steps"), "steps/s", ours.rate(count))
                    .beside("DBOS-like loop, 50 connections", dbos_rate)
                    .target(Target::AtLeast(rate)),
            );
            readings.push(
                Reading::new(format!("PostgreSQL: server CPU of a step, {runs} runs"), "µs", ours.each(count))
                    .beside("DBOS-like loop, 50 connections", dbos_cpu)
                    .target(Target::Under(cpu)),
            );
        }
        // What a backup or a forgotten session does to those who work.
        let holder = Loop::new(&server).await.client;
        holder
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM concurrent.hot")
            .await
            .expect("a transaction");
        for _ in 0..3 {
            side_by_side(&server, &bench, 50, &operations).await;
        }
        let held = side_by_side(&server, &bench, 50, &operations).await;
        holder.batch_execute("ROLLBACK").await.expect("its end");
        let name = "PostgreSQL: server CPU of a step, 50 runs, a transaction held open";
        readings.push(Reading::new(name, "µs", held.each(5_000)).beside("without it", quiet));
        let size = server.sql(
            "SELECT (pg_total_relation_size('concurrent.journal')) * 1.0 / (SELECT sum(count) / 2.0 FROM concurrent.journal)",
        );
        let name = "PostgreSQL: kept of a step, in tables and indexes";
        let target = Target::Under(270.0);
        readings.push(Reading::new(name, "B", size.parse().unwrap_or(f64::NAN)).target(target));
        bench.host.close(None).await;
        readings
    })
}

/// Runs that are due, claimed by hosts that all want them.
pub fn claims(place: &Place) -> Vec<Reading> {
    const HOSTS: usize = 4;
    let (server, count) = (server(), place.many(10_000));
    place.runtime.block_on(async {
        let bench = bench(place, &server, "claims").await;
        let idle = json!([{ "wait": { "name": "never" } }]);
        for chunk in (0..count).collect::<Vec<_>>().chunks(500) {
            let new = chunk.iter().map(|_| bench.host.enqueue(&bench.probe, program(&idle)));
            try_join_all(new).await.expect("runs");
        }
        let stores = join_all((0..HOSTS).map(|_| store(&server, "claims"))).await;
        let mut hosts = Vec::new();
        for (number, store) in stores.into_iter().enumerate() {
            let owner = Owner { host: format!("h{number}"), realm: String::new(), pid: 1, started: 1 };
            let session = store.begin_session(&owner, 60_000).await.expect("a session");
            hosts.push((store, session));
        }
        let claimed = took(&server, async {
            let all = hosts.iter().map(|(store, session)| {
                let (store, session) = (Arc::clone(store), *session);
                tokio::spawn(async move {
                    loop {
                        let due = store.claim_due(session, 256, Wanted::default()).await.expect("claims");
                        if due.runs.is_empty() && !due.more {
                            return;
                        }
                    }
                })
            });
            try_join_all(all).await.expect("they end");
        })
        .await;
        bench.host.close(None).await;
        vec![
            Reading::new(
                format!("PostgreSQL: claims of {count} due runs by {HOSTS} hosts"),
                "1/s",
                claimed.rate(count),
            )
            .target(Target::AtLeast(10_000.0)),
            Reading::new("PostgreSQL: server CPU of a claim, opened", "µs", claimed.each(count)),
        ]
    })
}

/// From a signal that another host commits to the call that the program makes then, and until the run has ended.
pub fn waking(place: &Place) -> Vec<Reading> {
    let (server, count) = (server(), place.many(100));
    let program =
        json!([{ "wait": { "name": "go" } }, { "agent_of": { "provider": "watch", "prompt": "" } }]);
    place.runtime.block_on(async {
        let two_commits = 2e3 / limits::append_and_sync(place, place.many(500), STEP_BYTES);
        let (watch, cache) = (Watch::default(), place.cache());
        let bench = Bench::over(store(&server, "waking").await, &cache, |options| {
            options.evict = Evict::Always;
            watch.install(options);
        })
        .await;
        let other = store(&server, "waking").await;
        // Hosts hear each other once they have said so.
        bench.host.serve();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut lengths = Vec::new();
        for _ in 0..count {
            let mut handle = bench.start(&program).await;
            waits_for(&bench, &handle.id).await;
            let body = MessageBody::Signal { name: "go".to_owned(), payload: Json::null(), id: None };
            let begin = Instant::now();
            wfhost::post(&other, &handle.id, body).await.expect("a signal");
            lengths.push((watch.calls(1).await[0].0 - begin).as_secs_f64() * 1e3);
            handle.ending().await.expect("an end");
        }
        bench.host.close(None).await;
        let (p50, p99) = (median(lengths.clone()), quantile(lengths, 0.99));
        vec![
            Reading::new("PostgreSQL: a signal of another host to a parked run, p50", "ms", p50)
                .beside("two appends + fdatasync", two_commits)
                .target(Target::Under(6.0)),
            Reading::new("the same on PostgreSQL, p99", "ms", p99).target(Target::Under(25.0)),
        ]
    })
}

async fn waits_for(bench: &Bench, run: &RunId) {
    loop {
        let info = bench.store.run(run).await.expect("the run").expect("the run");
        if info.state == RunState::Waiting {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A long run, taken up by a host that has only begun: from the first connection to its journal, read and checked.
pub fn open(place: &Place) -> Vec<Reading> {
    let server = server();
    let entries = place.many(10_000);
    place.runtime.block_on(async {
        let bench = bench(place, &server, "long").await;
        let mut operations = steps(entries / 2, 8);
        if let Some(list) = operations.as_array_mut() {
            list.push(json!({ "wait": { "name": "go" } }));
        }
        let handle = bench.start(&operations).await;
        waits_for(&bench, &handle.id).await;
        bench.host.close(None).await;
        let begin = Instant::now();
        let fresh = store(&server, "long").await;
        let connected = begin.elapsed().as_secs_f64() * 1e3;
        let owner = Owner { host: "new".to_owned(), realm: String::new(), pid: 1, started: 1 };
        let session = fresh.begin_session(&owner, 30_000).await.expect("a session");
        let claimed = fresh.claim(session, &handle.id, ClaimHow::Asked).await.expect("a claim");
        let Claimed::Yes(opened) = claimed else { panic!("nobody has it: {claimed:?}") };
        let journal = wfhost_core::Journal::read(opened.rows).expect("a whole journal");
        let whole = begin.elapsed().as_secs_f64() * 1e3;
        vec![
            Reading::new(
                format!("PostgreSQL: a run of {} entries, opened by a new host", journal.entries.len()),
                "ms",
                whole,
            )
            .beside("the connection", connected)
            .target(Target::Under(80.0)),
        ]
    })
}

/// Hosts that share what there is to do.
pub fn hosts(place: &Place) -> Vec<Reading> {
    let server = server();
    let (runs, operations) = (place.many(1_000), steps(50, 8));
    place.runtime.block_on(async {
        let mut rates = Vec::new();
        for hosts in [1, 4] {
            let schema = format!("hosts{hosts}");
            let bench = bench(place, &server, &schema).await;
            for chunk in (0..runs).collect::<Vec<_>>().chunks(500) {
                let new = chunk.iter().map(|_| bench.host.enqueue(&bench.probe, program(&operations)));
                try_join_all(new).await.expect("runs");
            }
            let mut all = Vec::new();
            for _ in 0..hosts {
                all.push(
                    Bench::over(store(&server, &schema).await, &place.cache(), |options| {
                        options.max_live = (runs as usize / hosts).max(1);
                    })
                    .await,
                );
            }
            let begin = Instant::now();
            for bench in &all {
                bench.host.serve();
            }
            let left = RunFilter {
                states: vec![RunState::Queued, RunState::Running, RunState::Waiting],
                limit: 1,
                ..RunFilter::default()
            };
            while !bench.store.runs(left.clone()).await.expect("a list").is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rates.push((runs * 50) as f64 / begin.elapsed().as_secs_f64());
            for bench in &all {
                bench.host.close(None).await;
            }
            bench.host.close(None).await;
        }
        vec![
            Reading::new(format!("PostgreSQL: {runs} queued runs of 50 steps, 4 hosts"), "steps/s", rates[1])
                .beside("one host", rates[0])
                .target(Target::OfLimit(0.9)),
        ]
    })
}
