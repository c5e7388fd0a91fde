//! What is asked of the server: how much it has to read, how often it plans, and how many commits it makes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use private_postgres::Postgres;
use wfhost_core::policy::budget::Spent;
use wfhost_core::{Digest, Epoch, Json, Machine, Position, Row, RunId, Timestamp};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{id, machine, owner, signal};
use wfhost_store::*;

async fn open(url: &str) -> PostgresStore {
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    PostgresStore::open(url, &options).await.expect("the store opens")
}

fn new(run: &str, session: Option<SessionId>) -> (Machine, NewRun) {
    let mut machine = machine(run, Digest::of(b"module"));
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    let new = NewRun { session, ..NewRun::new(&machine, rows) };
    (machine, new)
}

async fn create(store: &PostgresStore, session: SessionId, run: &str) -> Machine {
    let (machine, new) = new(run, Some(session));
    assert_eq!(store.create(new).await, Ok(Created::New));
    machine
}

fn step(session: SessionId, run: &RunId, epoch: Epoch, machine: &mut Machine, next: Next) -> Append {
    let before = machine.head();
    machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
    let row = machine.take_unsaved().map(Row::from);
    Append { before, row, ..Append::new(run.clone(), session, epoch, Timestamp(20), next) }
}

fn end() -> Next {
    Next::End { outcome: Ok(Json::null()), spent: Spent::default() }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..3_000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

/// What a host does with runs: they begin, go on side by side, are parked, sent something, claimed, and end.
async fn work(store: &PostgresStore, session: SessionId, prefix: &str, runs: usize, rounds: usize) {
    let names: Vec<_> = (0..runs).map(|number| format!("{prefix}{number}")).collect();
    let mut machines = Vec::new();
    // Half of them alone, the others several at once.
    let (alone, others) = names.split_at(runs / 2);
    for name in alone {
        machines.push((id(name), create(store, session, name).await));
    }
    for others in others.chunks(10) {
        let all = others.iter().map(async |name| (id(name), create(store, session, name).await));
        machines.extend(join_all(all).await);
    }
    for _ in 0..rounds {
        let all = machines
            .iter_mut()
            .map(|(run, machine)| store.append(step(session, run, Epoch(1), machine, Next::Go)));
        try_join_all(all).await.unwrap();
    }
    // Alone, as well.
    for (run, machine) in &mut machines {
        store.append(step(session, run, Epoch(1), machine, Next::Go)).await.unwrap();
    }
    let waiting = Waiting { signals: vec!["go".to_owned()], ..Waiting::default() };
    let all = machines.iter_mut().map(|(run, machine)| {
        store.append(step(session, run, Epoch(1), machine, Next::Park(waiting.clone())))
    });
    try_join_all(all).await.unwrap();
    for (run, _) in &machines {
        let post = NewMessage { run: run.clone(), body: signal("go", None) };
        assert_eq!(store.post(post).await, Ok(Posted::Added));
    }
    let mut claimed = BTreeMap::new();
    while claimed.len() < runs {
        for run in store.claim_due(session, 10, Wanted::default()).await.unwrap().runs {
            let run = run.unwrap();
            store.set_starts(session, &run.run, run.epoch, run.starts).await.unwrap();
            claimed.insert(run.run.clone(), run);
        }
    }
    let all = machines.iter_mut().map(|(run, machine)| {
        let opened = &claimed[run];
        let consumed = opened.inbox.messages.iter().map(|message| message.id).collect();
        store.append(Append { consumed, ..step(session, run, opened.epoch, machine, Next::Go) })
    });
    try_join_all(all).await.unwrap();
    let all = machines
        .iter_mut()
        .map(|(run, machine)| store.append(step(session, run, claimed[run].epoch, machine, end())));
    try_join_all(all).await.unwrap();
}

/// How many rows and entries of indexes the server reads for that, beside so many others. All plans are made before
/// the others are there, as in a host that was begun with the database.
async fn reads_beside(others: usize) -> i64 {
    let url = private_postgres::fresh_url();
    let schema = url.split_once("schema=").expect("a schema of its own").1.to_owned();
    let store = open(&url).await;
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    store.put_module("w", b"module").await.unwrap();
    // Who plans anew has other plans.
    private_postgres::query(
        &url,
        "ALTER TABLE hot SET (autovacuum_enabled = off); ALTER TABLE runs SET (autovacuum_enabled = off);
         ALTER TABLE journal SET (autovacuum_enabled = off); ALTER TABLE inbox SET (autovacuum_enabled = off)",
    );
    until("they hear each other", async || store.listens().then_some(())).await;
    work(&store, session, "first", 10, 5).await;
    // A third is advanced, a third is parked, a third has ended.
    private_postgres::query(
        &url,
        &format!(
            "INSERT INTO runs (name, imported, workflow, module, root, created_at, labels)
                 SELECT 'other' || n, false, 'w', '\\x00', 'other' || n, 1, '[]' FROM generate_series(1, {others}) n;
             INSERT INTO hot (run, epoch, session, state, due_at)
                 SELECT run, 1, CASE run % 3 WHEN 0 THEN {0} END, CASE run % 3 WHEN 0 THEN 1 WHEN 1 THEN 2 ELSE 5 END,
                        CASE run % 3 WHEN 1 THEN 9000000000000 END FROM runs WHERE name LIKE 'other%';
             INSERT INTO journal (run, seq, at, place, count, head, body)
                 SELECT run, 0, 1, 1, 1, '\\xaa', '\\xbb' FROM runs WHERE name LIKE 'other%'",
            session.0 as i64
        ),
    );
    let read = || {
        let sql = format!(
            "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) + (
                SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = '{schema}')
             FROM pg_stat_user_tables WHERE schemaname = '{schema}'"
        );
        private_postgres::query(&url, &sql).parse::<i64>().unwrap()
    };
    work(&store, session, "second", 60, 20).await;
    drop(store);
    // Processes of the server tell what they have read when they end.
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{schema}%' AND pid <> pg_backend_pid()"
    );
    until("connections end", async || (private_postgres::query(&url, &sql) == "0").then_some(())).await;
    read()
}

/// A plan that was made when the tables were empty may read all live runs of a session for each row.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_server_reads_for_a_run_does_not_grow_with_the_runs_beside_it() {
    let (few, many) = (reads_beside(20).await, reads_beside(2_000).await);
    // A third of the 2,000 is read with each look for what the host did not hear, every 5 s. All of them once for each
    // step would be more than a million.
    assert!(many < few + 200_000, "{few} rows and entries beside 20 runs, {many} beside 2,000");
}

/// How many rows the server reads for the first ten of so many commits.
async fn reads_for_a_page(commits: usize) -> i64 {
    let url = private_postgres::fresh_url();
    let schema = url.split_once("schema=").expect("a schema of its own").1.to_owned();
    let store = open(&url).await;
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    store.put_module("w", b"module").await.unwrap();
    create(&store, session, "r").await;
    // Behind a long time in which others worked on the server.
    private_postgres::query(
        &url,
        &format!(
            "ALTER TABLE journal SET (autovacuum_enabled = off); DELETE FROM journal;
             UPDATE meta SET xid_base = 1000000000;
             INSERT INTO journal (run, seq, at, place, count, head, body)
                 SELECT run, n, 1, ((500000000 + n / 5)::int8 << 20) + n % 5, 1, decode(repeat('aa', 32), 'hex'), '\\xbb'
                 FROM runs, generate_series(1, {commits}) n;
             SELECT brin_summarize_new_values('journal_place'); ANALYZE journal"
        ),
    );
    let read = || {
        let sql = format!(
            "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) FROM pg_stat_user_tables
             WHERE schemaname = '{schema}' AND relname = 'journal'"
        );
        private_postgres::query(&url, &sql).parse::<i64>().unwrap()
    };
    drop(store);
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{schema}%' AND pid <> pg_backend_pid()"
    );
    let gone = async || {
        until("connections end", async || (private_postgres::query(&url, &sql) == "0").then_some(())).await;
    };
    gone().await;
    let before = read();
    let store = open(&url).await;
    let mut place = 0;
    for _ in 0..3 {
        let changes = store.changes(place, 10).await.unwrap();
        assert_eq!(changes.len(), 10);
        assert!(changes.is_sorted_by(|one, next| one.place < next.place));
        place = changes.last().unwrap().place;
    }
    drop(store);
    gone().await;
    read() - before
}

/// Whoever is far behind reads the commits page by page, and not all that are left for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_server_reads_for_a_page_of_commits_does_not_grow_with_those_behind_it() {
    let (few, many) = (reads_for_a_page(2_000).await, reads_for_a_page(200_000).await);
    assert!(many < few + 60_000, "{few} rows of 2,000 commits, {many} of 200,000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_sent_again_is_prepared_unless_connections_may_be_shared() {
    let server = Postgres::start(&["fsync=off", "full_page_writes=off", "log_statement=all"]);
    let count = |what: &str, function: &str| {
        server.log().lines().filter(|line| line.contains(what) && line.contains(function)).count()
    };
    for (schema, listens) in [("direct", true), ("pooled", false)] {
        let off = if listens { "" } else { "&listen=off" };
        let store = open(&format!("{}?schema={schema}{off}", server.url())).await;
        let session = store.begin_session(&owner(1), 600_000).await.unwrap();
        store.put_module("w", b"module").await.unwrap();
        if listens {
            until("it hears itself", async || store.listens().then_some(())).await;
        }
        work(&store, session, "r", 20, 5).await;
        for function in ["begin_5", "commit_5", "append_1", "post_1", "set_starts"] {
            let of = match function {
                "set_starts" => format!("UPDATE \"{schema}\".hot h SET starts"),
                function => format!("\"{schema}\".{function}"),
            };
            let (anew, kept) = (count("execute <unnamed>", &of), count("execute s", &of));
            if listens {
                // Each connection plans what it sends for the first time.
                assert!(kept > anew && anew <= 8, "{function}: {anew} were planned, {kept} were prepared");
            } else {
                assert!(kept == 0 && anew > 0, "{function}: {anew} were planned, {kept} were prepared");
            }
        }
    }
}

/// The runs of a batch are answered at the same moment, and come back one after the other: the first of them does not
/// go alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_that_come_back_soon_share_a_commit_and_a_lone_one_waits_for_nobody() {
    const ROUNDS: usize = 40;
    let url = private_postgres::fresh_url();
    let store = Arc::new(open(&url).await);
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    store.put_module("w", b"module").await.unwrap();
    // As on a slow disk.
    private_postgres::query(
        &url,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END';
         CREATE TRIGGER slow AFTER INSERT ON journal FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    );
    let mut machines = Vec::new();
    for number in 0..16 {
        let run = format!("r{number}");
        machines.push((id(&run), create(&store, session, &run).await));
    }
    let lone = machines.pop();
    let before = store.commits();
    let tasks = machines.into_iter().enumerate().map(|(number, (run, mut machine))| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                store.append(step(session, &run, Epoch(1), &mut machine, Next::Go)).await.unwrap();
                // Others have the processor in between.
                for _ in 0..number {
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    for task in join_all(tasks.collect::<Vec<_>>()).await {
        task.unwrap();
    }
    // Two lanes: one commit of each for a round. If the first went alone there would be two.
    let commits = store.commits() - before;
    assert!(commits < ROUNDS as u64 * 3, "{ROUNDS} rounds took {commits} commits");
    let (before, (run, mut machine)) = (store.commits(), lone.unwrap());
    for _ in 0..10 {
        store.append(step(session, &run, Epoch(1), &mut machine, Next::Go)).await.unwrap();
    }
    assert_eq!(store.commits() - before, 10);
}

/// Whatever has the lanes of a session, as long as a commit lasts: runs begin meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_begin_while_the_lanes_of_their_session_commit() {
    let url = private_postgres::fresh_url();
    let store = open(&url).await;
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    store.put_module("w", b"module").await.unwrap();
    let (holder, schema) = connect(&url).await;
    holder
        .batch_execute(&format!("BEGIN; SELECT 1 FROM \"{schema}\".lanes FOR NO KEY UPDATE"))
        .await
        .unwrap();
    // One of each kind.
    let bare = new("bare", Some(session)).1;
    let labelled =
        NewRun { labels: vec![("a".to_owned(), "b".to_owned())], ..new("labelled", Some(session)).1 };
    for run in [bare, labelled] {
        let created = tokio::time::timeout(Duration::from_secs(8), store.create(run)).await;
        assert_eq!(created, Ok(Ok(Created::New)), "it waits for a lane");
    }
    holder.batch_execute("COMMIT").await.unwrap();
}

/// How many wait for the lock that whoever begins a run shares.
async fn wait_for_beginnings(url: &str, count: usize) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                   AND objid = 'modules'::regclass::oid";
    until("they wait", async || (private_postgres::query(url, waiting) == count.to_string()).then_some(()))
        .await;
}

/// Runs that are asked for while calls are under way begin by one call, each with an answer of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_that_are_asked_for_at_the_same_time_begin_together() {
    let url = private_postgres::fresh_url();
    let store = Arc::new(open(&url).await);
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    let over = store.begin_session(&owner(2), 600_000).await.unwrap();
    store.end_session(over).await.unwrap();
    let module = store.put_module("w", b"module").await.unwrap();
    let run = |name: &str| new(name, Some(session)).1;
    let keyed = |name: &str, key: &str| NewRun { key: Some(key.to_owned()), ..run(name) };
    assert_eq!(store.create(keyed("known", "k")).await, Ok(Created::New));
    assert_eq!(store.create(new("gone", None).1).await, Ok(Created::New));
    assert_eq!(store.delete(&id("gone")).await, Ok(Deleted::Yes));

    let (holder, schema) = connect(&url).await;
    let hold = format!("BEGIN; SELECT pg_advisory_xact_lock('\"{schema}\".modules'::regclass::oid::int8)");
    let occupy = async |prefix: &str| {
        holder.batch_execute(&hold).await.unwrap();
        let mut first = Vec::new();
        for number in 0..2 {
            let (store, run) = (Arc::clone(&store), run(&format!("{prefix}{number}")));
            first.push(tokio::spawn(async move { store.create(run).await }));
            wait_for_beginnings(&url, number + 1).await;
        }
        first
    };
    let first = occupy("first").await;
    let other = Digest::of(b"other");
    let mut runs: Vec<_> = (0..100).map(|number| (run(&format!("r{number}")), Ok(Created::New))).collect();
    runs.extend([
        (run("known"), Err(StoreError::IdTaken { id: id("known") })),
        (run("gone"), Err(StoreError::IdUsed { id: id("gone") })),
        (NewRun { module: other, ..run("strange") }, Err(StoreError::NoSuchModule(other))),
        (keyed("k2", "k"), Ok(Created::Known(id("known")))),
        (keyed("one", "both"), Ok(Created::New)),
        (keyed("two", "both"), Ok(Created::Known(id("one")))),
        (run("same"), Ok(Created::New)),
        (run("same"), Err(StoreError::IdTaken { id: id("same") })),
        (NewRun { session: Some(over), ..run("late") }, Err(StoreError::SessionOver)),
        (NewRun { session: None, ..run("queued") }, Ok(Created::New)),
    ]);
    let (runs, expected): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    let before = store.commits();
    let mut all = Box::pin(join_all(runs.into_iter().map(|run| store.create(run))));
    assert!(futures_util::poll!(&mut all).is_pending());
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(all.await, expected);
    for created in first {
        assert_eq!(created.await.unwrap(), Ok(Created::New));
    }
    // The two that were first, all others, and those that are the same as one of these.
    let commits = store.commits() - before;
    assert!(commits <= 6, "{commits} commits");

    let changes = store.changes(0, 1_000).await.unwrap();
    let begun: BTreeSet<_> = changes.iter().map(|change| change.run.to_string()).collect();
    assert_eq!((changes.len(), begun.len()), (106, 106), "{begun:?}");
    assert!(changes.is_sorted_by(|one, next| one.place < next.place));
    let (mut machine, whole) = new("r7", Some(session));
    let info = store.run(&id("r7")).await.unwrap().unwrap();
    assert_eq!((info.state, info.epoch, info.module), (RunState::Running, Epoch(1), module));
    assert_eq!(info.lease.map(|lease| lease.id), Some(session));
    assert_eq!(info.links, whole.links);
    assert_eq!(
        (info.created_at, info.updated_at, info.head),
        (whole.created_at, whole.updated_at, whole.rows.first().map(|row| row.head))
    );
    assert_eq!(store.journal(&id("r7"), Position(0)).await.unwrap(), whole.rows);
    store.append(step(session, &id("r7"), Epoch(1), &mut machine, Next::Go)).await.unwrap();
    let due = store.claim_due(session, 9, Wanted::default()).await.unwrap();
    assert_eq!(due.runs.into_iter().map(|run| run.unwrap().run).collect::<Vec<_>>(), [id("queued")]);

    // One that the server cannot keep takes only itself back.
    let first = occupy("again").await;
    let mut dice = 7_u64;
    let long = (0..20_000).map(|_| {
        dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        char::from(b'!' + (dice >> 33) as u8 % 90)
    });
    let runs = [run("before"), keyed("long", &long.collect::<String>()), run("behind")];
    let mut all = Box::pin(join_all(runs.into_iter().map(|run| store.create(run))));
    assert!(futures_util::poll!(&mut all).is_pending());
    holder.batch_execute("COMMIT").await.unwrap();
    let all = all.await;
    assert_eq!((&all[0], &all[2]), (&Ok(Created::New), &Ok(Created::New)));
    assert!(matches!(all[1], Err(StoreError::Failed { .. })), "{all:?}");
    assert_eq!(store.run(&id("long")).await, Ok(None));
    for created in first {
        assert_eq!(created.await.unwrap(), Ok(Created::New));
    }
}

async fn connect(url: &str) -> (tokio_postgres::Client, String) {
    let (server, schema) = url.split_once("schema=").expect("a schema of its own");
    let (server, schema) = (server.trim_end_matches(['?', '&']), schema.split('&').next().unwrap_or(schema));
    let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    (client, schema.to_owned())
}

/// A run that is being created while its session ends is either not there, or due for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_run_is_left_to_a_session_that_ended_while_it_was_created() {
    let url = private_postgres::fresh_url();
    let (one, other) = (Arc::new(open(&url).await), open(&url).await);
    one.put_module("w", b"module").await.unwrap();
    for round in 0..30 {
        let session = one.begin_session(&owner(1), 600_000).await.unwrap();
        let creating = (0..4).map(|task| {
            let store = Arc::clone(&one);
            tokio::spawn(async move {
                for number in 0.. {
                    let run = new(&format!("r{round}-{task}-{number}"), Some(session)).1;
                    match store.create(run).await {
                        Ok(Created::New) => {}
                        Err(StoreError::SessionOver) => return number,
                        other => panic!("{other:?}"),
                    }
                }
                0
            })
        });
        let creating: Vec<_> = creating.collect();
        tokio::time::sleep(Duration::from_millis(2 + round % 7)).await;
        let fenced = other.fence(session, Fence::Dead).await.unwrap();
        let created: u64 = join_all(creating).await.into_iter().map(|created| created.unwrap()).sum();
        assert_eq!(fenced, created, "all that were created before are due, and none was later");
        let sql = format!("SELECT count(*) FROM hot WHERE session = {}", session.0 as i64);
        assert_eq!(private_postgres::query(&url, &sql), "0");
    }
}

/// The end of a run that has relatives, or mail, together with others that have none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ends_of_one_batch_tell_relatives_and_lose_no_mail() {
    let url = private_postgres::fresh_url();
    let store = open(&url).await;
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    store.put_module("w", b"module").await.unwrap();
    // The tasks of lanes take all that is queued at once.
    private_postgres::query(
        &url,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END';
         CREATE TRIGGER slow AFTER INSERT ON journal FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    );
    let mut machines = BTreeMap::new();
    for name in ["parent", "lone", "mail", "abandoned", "a", "b", "c", "d"] {
        machines.insert(name, create(&store, session, name).await);
    }
    // Two that the parent waits for: one ends with it, and one before.
    private_postgres::query(
        &url,
        "UPDATE runs SET parent = 'parent', parent_step = 1, on_close = 0 WHERE name IN ('a', 'b');
         UPDATE runs SET parent = 'parent', parent_step = 2, on_close = 1 WHERE name = 'abandoned';
         UPDATE runs SET parent = 'c', parent_step = 3, on_close = 0 WHERE name = 'd'",
    );
    let post = NewMessage { run: id("mail"), body: signal("go", None) };
    assert_eq!(store.post(post).await, Ok(Posted::Added));
    let mut ends = Vec::new();
    for name in ["lone", "mail", "a", "c"] {
        let machine = machines.get_mut(name).unwrap();
        ends.push(store.append(step(session, &id(name), Epoch(1), machine, end())));
    }
    let ended = join_all(ends).await;
    assert!(ended[0].is_ok() && ended[2].is_ok() && ended[3].is_ok(), "{ended:?}");
    assert_eq!(ended[1], Err(StoreError::Raced { run: id("mail") }), "a signal would be lost");
    let state = |run: &str| {
        private_postgres::query(
            &url,
            &format!(
                "SELECT h.state, h.session IS NULL, h.due_at IS NULL,
                     (SELECT string_agg(kind, ',' ORDER BY id) FROM inbox i WHERE i.run = h.run)
                 FROM hot h JOIN runs USING (run) WHERE name = '{run}'"
            ),
        )
    };
    assert_eq!(state("lone"), "5|t|t|");
    assert_eq!(state("mail"), "1|f|t|signal", "it goes on");
    assert_eq!(state("parent"), "1|f|t|child", "it is told of a");
    assert_eq!(state("d"), "1|f|t|cancel", "it ends with c");
    // Both at the same time: neither is told of the other.
    let mut ends = Vec::new();
    for name in ["parent", "b"] {
        let machine = machines.get_mut(name).unwrap();
        ends.push(store.append(step(session, &id(name), Epoch(1), machine, end())));
    }
    for ended in join_all(ends).await {
        // On different lanes, b was told first, or the parent was.
        assert!(matches!(ended, Ok(_) | Err(StoreError::Raced { .. })), "{ended:?}");
    }
    assert_eq!(state("parent"), "5|t|t|");
    let b = state("b");
    assert!(b == "5|t|t|" || b == "1|f|t|cancel", "{b}");
    assert_eq!(state("abandoned"), "1|f|t|", "nobody asks it to end");
    // What was refused left nothing.
    let journal = store.journal(&id("mail"), wfhost_core::Position(0)).await.unwrap();
    assert_eq!(journal.len(), 1);
}
