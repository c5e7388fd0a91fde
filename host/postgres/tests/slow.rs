//! Slow connections, large answers, and servers that fail in the middle of something.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use private_postgres::{Postgres, Proxy};
use tokio::sync::mpsc;
use wfhost_core::{Epoch, Json, Machine, Position, Row, Started, Timestamp};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{every_second, id, machine, owner};
use wfhost_store::copy::{Part, TABLES};
use wfhost_store::schedule::Schedule;
use wfhost_store::*;

const MIB: usize = 1 << 20;

fn server() -> Postgres {
    Postgres::start(&["fsync=off", "full_page_writes=off"])
}

async fn open(url: &str) -> PostgresStore {
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    PostgresStore::open(url, &options).await.expect("the store opens")
}

fn through(proxy: &Proxy) -> String {
    format!("postgres://wf@127.0.0.1:{}/postgres?sslmode=disable", proxy.port())
}

/// A run with so many bytes of input.
async fn begin(store: &PostgresStore, run: &str, bytes: usize, session: Option<SessionId>) -> Machine {
    let module = store.put_module("w", b"module").await.unwrap();
    let input = Json::string(&"x".repeat(bytes));
    let started = Started { input, ..machine(run, module).started().clone() };
    let mut machine = Machine::start(started, Timestamp(10));
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    let new = NewRun { session, ..NewRun::new(&machine, rows) };
    assert_eq!(store.create(new).await, Ok(Created::New));
    machine
}

/// An append of a signal with so many bytes.
fn receive(session: SessionId, machine: &mut Machine, bytes: usize) -> Append {
    let before = machine.head();
    machine.receive("s".to_owned(), Json::string(&"x".repeat(bytes)), None, Timestamp(20));
    let row = machine.take_unsaved().map(Row::from);
    let run = machine.run().clone();
    Append { before, row, ..Append::new(run, session, Epoch(1), Timestamp(20), Next::Go) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_take_as_long_as_it_is_on_its_way() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let near = open(&server.url()).await;
    for run in ["a", "b", "c"] {
        begin(&near, run, 7 * MIB, None).await;
    }
    let far = open(&through(&proxy)).await;
    let session = far.begin_session(&owner(1), 600_000).await.unwrap();
    // All of them take longer than the server may keep silent, each of them does not.
    proxy.slow_down(1_300_000);
    let due = far.claim_due(session, 9, Wanted::default()).await.unwrap();
    let claimed: Vec<_> = due.runs.iter().map(|run| run.as_ref().unwrap().run.to_string()).collect();
    assert_eq!(claimed, ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_row_that_takes_long_is_read_at_the_second_try() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let near = open(&server.url()).await;
    begin(&near, "a", 10 * MIB, None).await;
    let far = open(&through(&proxy)).await;
    proxy.slow_down(600_000);
    assert_eq!(far.journal(&id("a"), Position(0)).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_may_take_as_long_as_it_is_large() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let far = open(&through(&proxy)).await;
    // A host that has to renew this in time gives an answer a sixth of it.
    let session = far.begin_session(&owner(1), 6_000).await.unwrap();
    let near = open(&server.url()).await;
    tokio::spawn(async move {
        while near.keep(session).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut machine = begin(&far, "a", 1, Some(session)).await;
    proxy.slow_down(1_500_000);
    let append = receive(session, &mut machine, 4 * MIB);
    assert!(far.append(append).await.is_ok());
    // Neither is what clients send.
    let message =
        MessageBody::Signal { name: "s".to_owned(), payload: Json::string(&"x".repeat(MIB)), id: None };
    assert_eq!(far.post(NewMessage { run: id("a"), body: message }).await, Ok(Posted::Added));
}

#[tokio::test]
async fn tables_are_checked_however_long_it_takes() {
    let server = server();
    let store = open(&server.url()).await;
    store.begin_session(&owner(1), 600_000).await.unwrap();
    assert_eq!(store.check().await, Ok(Vec::new()));
    server.sql(
        "SET search_path = wfhost; ALTER TABLE sessions RENAME TO all_sessions;
         CREATE VIEW sessions AS SELECT *, pg_sleep(16)::text AS slowly FROM all_sessions OFFSET 0",
    );
    assert_eq!(store.check().await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_reads_no_further_than_it_is_taken() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let near = open(&server.url()).await;
    for run in 0..60 {
        begin(&near, &format!("r{run}"), 2 * MIB, None).await;
    }
    let far = open(&through(&proxy)).await;
    let (give, mut take) = mpsc::channel(1);
    let copy = tokio::spawn(async move { far.copy_out(give).await });
    let journal = TABLES.iter().position(|table| table.name == "journal").unwrap();
    loop {
        match take.recv().await.expect("it goes on") {
            Part::Rows(batch) if batch.table == journal => break,
            Part::Rows(_) => {}
            Part::End => panic!("there are journals"),
        }
    }
    // Nobody takes more: what is on its way comes to rest.
    let (mut before, mut answered) = (0, proxy.answered());
    while before != answered {
        tokio::time::sleep(Duration::from_millis(300)).await;
        (before, answered) = (answered, proxy.answered());
    }
    assert!(answered < 60 << 20, "{answered} bytes of 120 MiB");
    let mut rows = 0;
    while let Some(part) = take.recv().await {
        if let Part::Rows(batch) = part
            && batch.table == journal
        {
            rows += batch.rows.len();
        }
    }
    assert_eq!(copy.await.unwrap(), Ok(()));
    assert!(rows > 50, "{rows}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_is_asked_by_lanes_and_not_for_each_append() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let store = open(&through(&proxy)).await;
    let session = store.begin_session(&owner(1), 1_000).await.unwrap();
    let mut appends = Vec::new();
    // By one that waits longer for its answers.
    let near = open(&server.url()).await;
    for run in 0..100 {
        let mut machine = begin(&near, &format!("r{run}"), 1, Some(session)).await;
        appends.push(receive(session, &mut machine, 1));
    }
    proxy.crowd();
    proxy.cut_all();
    let asked = proxy.asked();
    let outcomes = join_all(appends.into_iter().map(|append| store.append(append))).await;
    assert!(outcomes.iter().all(Result::is_err));
    let asked = proxy.asked() - asked;
    assert!(asked < 60, "{asked} connections were asked for");
}

#[tokio::test]
async fn a_snapshot_is_taken_by_another_connection_if_the_first_one_is_gone() {
    let server = server();
    let store = open(&server.url()).await;
    begin(&store, "a", 1, None).await;
    assert!(store.snapshot(&id("a")).await.unwrap().is_some());
    // While this thread waits, nobody is told that the idle connections are gone.
    server.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    );
    assert!(store.snapshot(&id("a")).await.unwrap().is_some());
}

/// The lane loses the connection by which it commits, and asks what became of that a server that is just being
/// replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_waits_for_the_new_primary_to_say_what_became_of_a_commit() {
    let server = server();
    let store = open(&server.url()).await;
    let session = store.begin_session(&owner(1), 20_000).await.unwrap();
    let mut machine = begin(&store, "a", 1, Some(session)).await;
    server.sql(
        "SET search_path = wfhost; CREATE SEQUENCE commits; CREATE SEQUENCE asked;
         CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('wfhost.commits') = 1 THEN
                 PERFORM pg_terminate_backend(pg_backend_pid());
                 PERFORM pg_sleep(60);
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER die BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION die();
         ALTER FUNCTION became_1 RENAME TO became;
         CREATE FUNCTION became_1(int8, int2, int8[], int8[], bytea[], int8)
         RETURNS TABLE (batch int8, there bool[]) LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('wfhost.asked') <= 2 THEN
                 RAISE EXCEPTION 'cannot execute UPDATE in a read-only transaction' USING ERRCODE = '25006';
             END IF;
             RETURN QUERY SELECT * FROM wfhost.became($1, $2, $3, $4, $5, $6);
         END $$",
    );
    let begin = Instant::now();
    let appended = store.append(receive(session, &mut machine, 1)).await;
    assert!(appended.is_ok(), "{appended:?} after {:?}", begin.elapsed());
    assert_eq!(server.sql("SELECT nextval('wfhost.asked')"), "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_late_undoes_nothing_that_was_said_since() {
    let server = server();
    let proxy = Proxy::to(server.port());
    let near = open(&server.url()).await;
    let far = open(&through(&proxy)).await;
    begin(&near, "a", 1, None).await;
    let module = near.put_module("w", b"module").await.unwrap();
    let schedule = every_second("s", module);
    assert_eq!(near.put_schedule(schedule.clone(), true).await, Ok(true));
    let pause = async || {
        let message = NewMessage { run: id("a"), body: MessageBody::Pause };
        assert_eq!(near.post(message).await, Ok(Posted::Added));
    };
    pause().await;
    // Two connections, which lie idle then.
    let (schedules, run) = (far.schedules(), id("a"));
    let (schedules, info) = tokio::join!(schedules, far.run(&run));
    assert_eq!(schedules.unwrap().known, std::slice::from_ref(&schedule));
    assert_eq!(info.unwrap().unwrap().state, RunState::Paused);
    // What is sent lies in their sockets; another try of each comes through.
    proxy.hold_all();
    let (set, unpaused) = tokio::join!(far.set_schedule("s", Some(Timestamp(1))), far.unpause(&run));
    assert_eq!((set, unpaused), (Ok(true), Ok(true)));
    assert_eq!(near.set_schedule("s", Some(Timestamp(2))).await, Ok(true));
    pause().await;
    proxy.let_go();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let then = Schedule { next_at: Some(Timestamp(2)), ..schedule };
    assert_eq!(near.schedules().await.unwrap().known, [then]);
    assert_eq!(near.run(&run).await.unwrap().unwrap().state, RunState::Paused);
}

#[tokio::test]
async fn a_run_with_more_commits_than_a_transaction_has_places_is_refused() {
    let server = server();
    let store = open(&server.url()).await;
    let module = store.put_module("w", b"module").await.unwrap();
    let mut machine = machine("r", module);
    let row = Row::from(machine.take_unsaved().unwrap());
    let run = NewRun { labels: vec![("a".to_owned(), "b".to_owned())], ..NewRun::new(&machine, Vec::new()) };
    let rows = (0..1 << 20).map(|first| Row { first: Position(first), ..row.clone() }).collect();
    match store.create(NewRun { rows, ..run }).await {
        Err(StoreError::Failed { reason, .. }) => assert!(reason.contains("1048575 commits"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
