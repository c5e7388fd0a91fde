//! What several hosts do at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use wfhost_core::{Digest, Epoch, Json, Machine, Position, Row, RunId, Step, Timestamp};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{LEASE, id, machine, owner, signal};
use wfhost_store::schedule::{CatchUp, Overlap, Schedule, When};
use wfhost_store::*;

async fn open(url: &str) -> Arc<PostgresStore> {
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    Arc::new(PostgresStore::open(url, &options).await.expect("the store opens"))
}

async fn create(store: &PostgresStore, session: SessionId, run: &str) -> Machine {
    let module = store.put_module("w", b"module").await.expect("a module is kept");
    let mut machine = machine(run, module);
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    let new = NewRun { session: Some(session), ..NewRun::new(&machine, rows) };
    assert_eq!(store.create(new).await, Ok(Created::New));
    machine
}

/// The next commit of a run, and the head before it.
fn step(machine: &mut Machine) -> (Digest, Option<Row>) {
    let before = machine.head();
    machine.receive("s".to_owned(), Json::null(), None, Timestamp(20));
    (before, machine.take_unsaved().map(Row::from))
}

fn go(session: SessionId, run: &str, epoch: u64, machine: &mut Machine) -> Append {
    let (before, row) = step(machine);
    Append { before, row, ..Append::new(id(run), session, Epoch(epoch), Timestamp(20), Next::Go) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_posted_while_a_run_is_parked_wakes_it() {
    let url = private_postgres::fresh_url();
    let (one, other) = (open(&url).await, open(&url).await);
    let session = one.begin_session(&owner(1), 600_000).await.unwrap();
    create(&one, session, "r").await;
    let mut epoch = 1;
    for _ in 0..500 {
        let waiting = Waiting { signals: vec!["go".to_owned()], ..Waiting::default() };
        let park = Append::new(id("r"), session, Epoch(epoch), Timestamp(20), Next::Park(waiting));
        let post = NewMessage { run: id("r"), body: signal("go", None) };
        let (parked, posted) = tokio::join!(one.append(park), other.post(post));
        assert_eq!(posted, Ok(Posted::Added));
        if !parked.unwrap().due {
            // It was parked before the signal came: that has made it due.
            let due = one.claim_due(session, 1, Wanted::default()).await.unwrap();
            assert_eq!(due.runs.len(), 1, "a wake-up was lost");
            epoch = due.runs[0].as_ref().unwrap().epoch.0;
        }
        let inbox = one.inbox(&id("r"), Part::Next).await.unwrap();
        let consumed: Vec<_> = inbox.messages.iter().map(|message| message.id).collect();
        assert_eq!(consumed.len(), 1);
        let take = Append::new(id("r"), session, Epoch(epoch), Timestamp(20), Next::Go);
        one.append(Append { consumed, ..take }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_of_changes_misses_none_beside_six_writers() {
    let url = private_postgres::fresh_url();
    let done = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for writer in 0..6 {
        let store = open(&url).await;
        let session = store.begin_session(&owner(writer), 600_000).await.unwrap();
        let run = format!("r{writer}");
        let mut machine = create(&store, session, &run).await;
        let done = Arc::clone(&done);
        writers.push(tokio::spawn(async move {
            for _ in 0..300 {
                store.append(go(session, &run, 1, &mut machine)).await.unwrap();
            }
            done.fetch_add(1, Ordering::Relaxed);
        }));
    }
    let reader = open(&url).await;
    let (mut after, mut seen) = (0, BTreeMap::<RunId, u64>::new());
    let begin = std::time::Instant::now();
    loop {
        let all_written = done.load(Ordering::Relaxed) == 6;
        let changes = reader.changes(after, 50).await.unwrap();
        for change in &changes {
            assert!(change.place > after, "places only grow");
            after = change.place;
            let next = seen.entry(change.run.clone()).or_default();
            assert_eq!(change.row.first.0, *next, "a commit of {} was passed over", change.run);
            *next = change.row.end().0;
        }
        // Another program's long transaction on the server holds changes back, and loses none.
        let all_seen = seen.len() == 6 && seen.values().all(|count| *count == 301);
        if changes.is_empty() && all_written && (all_seen || begin.elapsed() > Duration::from_secs(60)) {
            break;
        }
    }
    assert_eq!(seen.values().copied().collect::<Vec<_>>(), [301; 6]);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_appended_behind_the_fence_of_a_writing_owner() {
    let url = private_postgres::fresh_url();
    let (writing, taking) = (open(&url).await, open(&url).await);
    for round in 0..40 {
        let session = writing.begin_session(&owner(1), 600_000).await.unwrap();
        let run = format!("r{round}");
        let mut machine = create(&writing, session, &run).await;
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (store, run, stop) = (Arc::clone(&writing), run.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                loop {
                    let written = machine.entries();
                    let behind = stop.load(Ordering::Relaxed);
                    match store.append(go(session, &run, 1, &mut machine)).await {
                        Ok(_) => assert!(!behind, "it goes on behind the fence"),
                        Err(StoreError::Fenced { .. }) => return written,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(3 + round % 5)).await;
        assert_eq!(taking.fence(session, Fence::Dead).await.unwrap(), 1);
        let at_the_fence = taking.journal(&id(&run), Position(0)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        stop.store(true, Ordering::Relaxed);
        let told = writer.await.unwrap();
        let later = taking.journal(&id(&run), Position(0)).await.unwrap();
        assert_eq!(later.len(), at_the_fence.len());
        assert_eq!(later.last().map(|row| row.end().0), Some(told), "what it was told is what is there");
    }
}

/// Numbers are given before they are committed: of two agents, the one that began first may come second.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_follows_what_agents_say_misses_none_of_those_that_speak_at_the_same_time() {
    let url = private_postgres::fresh_url();
    let store = open(&url).await;
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    create(&store, session, "r").await;
    create(&store, session, "other").await;
    let said = |text: &str| NewTranscript {
        step: Step(2),
        attempt: 1,
        at: Timestamp(20),
        kind: TranscriptKind::Answer,
        text: text.to_owned(),
    };
    let (server, schema) = url.split_once("schema=").expect("a schema of its own");
    let (first, connection) =
        tokio_postgres::connect(server.trim_end_matches(['?', '&']), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = format!(
        "BEGIN; SELECT {schema}.transcribe_1('r', '{{1}}', '{{20}}', '{{1}}', '{{0}}', '{{first}}', 9::int2,
             '\\x01'::bytea, NULL)"
    );
    first.batch_execute(&sql).await.unwrap();
    let second = {
        let (store, said) = (Arc::clone(&store), said("second"));
        tokio::spawn(async move { store.transcribe(&id("r"), vec![said]).await })
    };
    // Whether it waits or not, that is what happens.
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{schema}%transcribe_1%'"
    );
    while !second.is_finished() && first.query_one(&waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    // Agents of other runs do not.
    store.transcribe(&id("other"), vec![said("other")]).await.unwrap();
    let (mut after, mut told) = (0, Vec::new());
    for _ in 0..2 {
        let filter = TranscriptFilter { after, ..TranscriptFilter::default() };
        for line in store.transcript(&id("r"), filter, 10).await.unwrap() {
            after = line.number;
            told.push(line.line.text);
        }
        // Between the two looks all is committed.
        first.batch_execute("COMMIT").await.unwrap();
        while !second.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    second.await.unwrap().unwrap();
    assert_eq!(told, ["first", "second"]);
    assert_eq!(store.transcript_end(&id("r")).await, Ok(after));
}

/// Whoever sends a claim and hears nothing does not know whether it was made. It is over before the next one is sent,
/// and one that comes later still is refused: it would take runs away from whoever advances them by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_claim_that_nobody_heard_of_is_over_before_the_next_and_never_comes_late() {
    let url = private_postgres::fresh_url();
    let store = open(&url).await;
    let host = store.begin_session(&owner(1), 600_000).await.unwrap();
    create(&store, host, "r").await;
    create(&store, host, "q").await;
    store.end_session(host).await.unwrap();
    // Answers are waited for for a second.
    let session = store.begin_session(&owner(1), 6_000).await.unwrap();
    let other = open(&url).await;
    tokio::spawn(async move {
        while other.keep(session).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let turn = async || {
        let sql = format!("SELECT turn FROM lanes WHERE session = {} AND lane = -1", session.0);
        private_postgres::query(&url, &sql).parse::<i64>().unwrap()
    };
    assert_eq!(turn().await, 0);
    let held = holds_lanes(&url, session).await;
    let claimed = store.claim(session, &id("r"), ClaimHow::Asked).await.unwrap();
    let Claimed::Yes(opened) = claimed else { panic!("nobody else has it: {claimed:?}") };
    held.await.unwrap();
    assert!(turn().await > 0, "another turn has begun");
    let info = store.run(&id("r")).await.unwrap().unwrap();
    assert_eq!(info.epoch, opened.epoch, "none came behind the one that was answered");
    // What is due is claimed by what nobody heard of, and given up by who does not drive it.
    let held = holds_lanes(&url, session).await;
    let unheard = store.claim_due(session, 10, Wanted::default()).await;
    assert!(matches!(unheard, Err(StoreError::Unknown { .. })), "{unheard:?}");
    held.await.unwrap();
    assert_eq!(store.shed(session, vec![id("r")]).await, Ok(1));
    let due = store.claim_due(session, 10, Wanted::default()).await.unwrap();
    assert_eq!(due.runs.len(), 1, "{due:?}");
    // A copy of an early one comes at last.
    for late in [
        format!("SELECT code FROM claim_2({}, 0, 0::int2, 'r', 'as-it-is', NULL)", session.0),
        format!("SELECT code FROM claim_due_2({}, 0, 9, 9, NULL, true, NULL, '{{}}', NULL)", session.0),
        format!("SELECT code FROM shed_2({}, 0, '{{}}')", session.0),
    ] {
        // Functions know the schema of their tables; the path is for psql.
        assert_eq!(private_postgres::query(&url, &late), "6", "{late}");
    }
    assert_eq!(store.run(&id("r")).await.unwrap().unwrap().epoch, opened.epoch);
    assert_eq!(store.held(session).await.unwrap().len(), 2, "they are this session's still");
}

/// Keeps all lanes of a session locked for longer than an answer is waited for.
async fn holds_lanes(url: &str, session: SessionId) -> tokio::task::JoinHandle<String> {
    let (url, number) = (url.to_owned(), session.0);
    let looks = url.clone();
    let held = tokio::task::spawn_blocking(move || {
        let sql = format!(
            "BEGIN; SELECT 1 FROM lanes WHERE session = {number} FOR UPDATE; SELECT pg_sleep(2.5); COMMIT"
        );
        private_postgres::query(&url, &sql)
    });
    // Other tests have it sleep, too.
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%session = {number} %'"
    );
    let sleeps = move || private_postgres::query(&looks, &sql) != "0";
    tokio::task::spawn_blocking(move || while !sleeps() {}).await.unwrap();
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_that_create_the_same_one_does() {
    let url = private_postgres::fresh_url();
    let (one, other) = (open(&url).await, open(&url).await);
    let module = one.put_module("w", b"module").await.unwrap();
    let new = |run: &str, key: Option<String>| {
        let mut machine = machine(run, module);
        let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
        NewRun { key, ..NewRun::new(&machine, rows) }
    };
    for round in 0..100 {
        let run = format!("r{round}");
        let results = tokio::join!(one.create(new(&run, None)), other.create(new(&run, None)));
        let taken = Err(StoreError::IdTaken { id: id(&run) });
        assert!(
            results == (Ok(Created::New), taken.clone()) || results == (taken, Ok(Created::New)),
            "{results:?}"
        );
        let key = Some(format!("k{round}"));
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let results = tokio::join!(one.create(new(&a, key.clone())), other.create(new(&b, key)));
        assert!(
            results == (Ok(Created::New), Ok(Created::Known(id(&a))))
                || results == (Ok(Created::Known(id(&b))), Ok(Created::New)),
            "{results:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_schedule_fires_once_however_many_try() {
    let url = private_postgres::fresh_url();
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(open(&url).await);
    }
    let module = stores[0].put_module("w", b"module").await.unwrap();
    let schedule = Schedule {
        name: "s".to_owned(),
        when: When::Every { millis: 1_000, from: Timestamp(0) },
        overlap: Overlap::Allow,
        catch_up: CatchUp::All,
        workflow: "w".to_owned(),
        module,
        input: Json::null(),
        labels: Vec::new(),
        config: wfhost_core::RunConfig::default(),
        created_at: Timestamp(0),
        next_at: Some(Timestamp(1_000)),
        fired: 0,
        last: None,
    };
    assert!(stores[0].put_schedule(schedule.clone(), false).await.unwrap());
    for round in 1..=20 {
        let due = Timestamp(round * 1_000);
        let fires = stores.iter().map(|store| {
            let run = schedule.run(due, due, true).unwrap();
            let next = Some(Timestamp(due.0 + 1_000));
            store.fire(Fire { schedule: "s".to_owned(), due, next, run: Some(run), cancel: None })
        });
        let fired = futures_util::future::join_all(fires).await;
        assert_eq!(fired.iter().filter(|fired| **fired == Ok(true)).count(), 1, "{fired:?}");
    }
    assert_eq!(stores[0].schedules().await.unwrap().known[0].fired, 20);
    assert_eq!(stores[0].runs(RunFilter::default()).await.unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_runs_share_commits_and_due_ones_are_claimed_once() {
    let url = private_postgres::fresh_url();
    let (one, other) = (open(&url).await, open(&url).await);
    let session = one.begin_session(&owner(1), 600_000).await.unwrap();
    let mut machines = Vec::new();
    for number in 0..100 {
        let run = format!("r{number}");
        machines.push((run.clone(), create(&one, session, &run).await));
    }
    let before = one.commits();
    let tasks = machines.into_iter().map(|(run, mut machine)| {
        let store = Arc::clone(&one);
        tokio::spawn(async move {
            for _ in 0..20 {
                store.append(go(session, &run, 1, &mut machine)).await.unwrap();
            }
            let release = Next::Release { waiting: None, trouble: None };
            store.append(Append::new(id(&run), session, Epoch(1), Timestamp(20), release)).await.unwrap();
        })
    });
    futures_util::future::join_all(tasks.collect::<Vec<_>>()).await;
    let commits = one.commits() - before;
    assert!(commits < 1_000, "2,100 appends took {commits} commits");
    let second = other.begin_session(&owner(2), 600_000).await.unwrap();
    let mut claimed = Vec::new();
    for _ in 0..20 {
        let (a, b) = tokio::join!(
            one.claim_due(session, 7, Wanted::default()),
            other.claim_due(second, 7, Wanted::default())
        );
        for due in [a.unwrap(), b.unwrap()] {
            claimed.extend(due.runs.into_iter().map(|run| run.unwrap().run));
        }
    }
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 100, "each is claimed, and once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_host_is_told_of_what_concerns_it() {
    let url = private_postgres::fresh_url();
    let (one, other) = (open(&url).await, open(&url).await);
    let session = one.begin_session(&owner(1), LEASE).await.unwrap();
    create(&one, session, "mine").await;
    let mut seen = Seen::default();
    assert_eq!(one.wakes(&mut seen).await.unwrap(), [Wake::Gap]);
    let mut hears = async |wanted: Wake, except: Option<Wake>| {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while tokio::time::Instant::now() < end {
            let wakes = one.wakes(&mut seen).await.unwrap();
            assert!(except.as_ref().is_none_or(|except| !wakes.contains(except)), "{wakes:?}");
            if wakes.contains(&wanted) {
                return;
            }
        }
        panic!("{wanted:?} was not heard");
    };
    while !one.listens() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.post(NewMessage { run: id("mine"), body: signal("s", None) }).await.unwrap();
    hears(Wake::Run(id("mine")), None).await;
    // It was to be paused, and is not any more: nothing is left in its inbox to be found by a look.
    create(&one, session, "calm").await;
    other.post(NewMessage { run: id("calm"), body: MessageBody::Pause }).await.unwrap();
    hears(Wake::Run(id("calm")), None).await;
    assert_eq!(other.unpause(&id("calm")).await, Ok(true));
    hears(Wake::Run(id("calm")), None).await;
    // It waits for a slot, and is given one.
    let giver = other.begin_session(&owner(3), 600_000).await.unwrap();
    let ask = |used, wants| {
        vec![SlotAsk { limits: vec![("all".to_owned(), 1)], used, wants, ..SlotAsk::default() }]
    };
    assert_eq!(other.share_slots(giver, ask(0, 1)).await.unwrap(), [1]);
    assert_eq!(one.share_slots(session, ask(0, 1)).await.unwrap(), [0]);
    other.share_slots(giver, Vec::new()).await.unwrap();
    hears(Wake::Limits, None).await;
    let theirs = other.begin_session(&owner(2), LEASE).await.unwrap();
    create(&other, theirs, "theirs").await;
    other.post(NewMessage { run: id("theirs"), body: signal("s", None) }).await.unwrap();
    let release = Next::Release { waiting: None, trouble: None };
    other.append(Append::new(id("theirs"), theirs, Epoch(1), Timestamp(20), release)).await.unwrap();
    other.end_session(theirs).await.unwrap();
    let module = Digest::of(b"module");
    let mut new = machine("new", module);
    let rows = new.take_unsaved().map(Row::from).into_iter().collect();
    other.create(NewRun::new(&new, rows)).await.unwrap();
    hears(Wake::Due, Some(Wake::Run(id("theirs")))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_of_others_and_of_a_later_format_is_refused() {
    let url = private_postgres::fresh_url();
    let store = open(&url).await;
    assert!(store.identity().await.unwrap().len() == 16);
    drop(store);
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    let fresh = private_postgres::fresh_url();
    let no = PostgresOptions { migrate: wfhost_postgres::Migrate::No, ..options.clone() };
    assert!(matches!(PostgresStore::open(&fresh, &no).await, Err(StoreError::NoTables { .. })));
    let looked = PostgresStore::look(&url, &options).await.unwrap();
    let formats = looked.formats.unwrap();
    assert_eq!(formats.found, Some(formats.newest));
    assert_eq!(PostgresStore::look(&fresh, &options).await.unwrap().formats.unwrap().found, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_works_once_works_for_one_of_many() {
    let url = private_postgres::fresh_url();
    let stores = [open(&url).await, open(&url).await, open(&url).await];
    let secret = stores[0].secret().await.unwrap();
    for store in &stores {
        assert_eq!(store.secret().await.unwrap(), secret, "it is the database's, not a host's");
    }
    for round in 0..50_u8 {
        let token = Token {
            id: format!("t{round}"),
            name: String::new(),
            kind: TokenKind::Login,
            hash: Digest([round; 32]),
            scopes: Vec::new(),
            created_at: Timestamp(1),
            expires_at: None,
            used_at: None,
        };
        stores[0].put_token(token).await.unwrap();
        let tries = stores.iter().enumerate().map(|(n, store)| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let taken = store.delete_token(&format!("t{round}")).await.unwrap();
                let body = Digest([u8::try_from(n).unwrap(); 32]);
                (taken, store.use_once(Digest([round; 32]), body).await.unwrap())
            })
        });
        let (mut taken, mut first) = (0, 0);
        for tried in tries.collect::<Vec<_>>() {
            let (has_it, used) = tried.await.unwrap();
            taken += u32::from(has_it);
            first += u32::from(used == Used::First);
            assert_ne!(used, Used::Again, "each came with something else");
        }
        assert_eq!((taken, first), (1, 1));
    }
}

#[tokio::test]
async fn the_last_acts_are_kept_and_older_ones_go() {
    let url = private_postgres::fresh_url();
    let store = open(&url).await;
    let act = |n: u64| Act {
        number: 0,
        at: Timestamp(n),
        who: "ada".to_owned(),
        act: "runs.cancel".to_owned(),
        target: "r\0".to_owned(),
        result: "asked".to_owned(),
    };
    private_postgres::query(
        &url,
        &format!(
            "INSERT INTO audit (at, who, act, target, result)
             SELECT n, 'ada', 'runs.cancel', 'r', 'asked' FROM generate_series(1, {}) n",
            KEPT_ACTS + 100
        ),
    );
    for n in 0..200 {
        store.record_act(act(KEPT_ACTS + 101 + n)).await.unwrap();
    }
    let count: u64 = private_postgres::query(&url, "SELECT count(*) FROM audit").parse().unwrap();
    assert!((KEPT_ACTS..KEPT_ACTS + 128).contains(&count), "{count} are there");
    let last = store.acts(None, 1).await.unwrap().remove(0);
    assert_eq!(Act { number: 0, ..last }, act(KEPT_ACTS + 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_slot_is_given_twice_and_none_is_lost_among_hosts_that_ask_at_the_same_time() {
    const LIMIT: u32 = 5;
    let url = private_postgres::fresh_url();
    let used = Arc::new(AtomicU64::new(0));
    let mut hosts = Vec::new();
    for n in 1..=4 {
        let (store, used) = (open(&url).await, Arc::clone(&used));
        let session = store.begin_session(&owner(n), 600_000).await.unwrap();
        hosts.push(tokio::spawn(async move {
            let limits = vec![("all".to_owned(), 9), ("provider:p".to_owned(), LIMIT)];
            let ask =
                |used, wants| vec![SlotAsk { limits: limits.clone(), used, wants, ..SlotAsk::default() }];
            let (mut left, mut has) = (60, 0);
            while left > 0 {
                has = store.share_slots(session, ask(has, 3.min(left))).await.unwrap()[0];
                let now = used.fetch_add(u64::from(has), Ordering::SeqCst) + u64::from(has);
                assert!(now <= u64::from(LIMIT), "{now}");
                tokio::time::sleep(Duration::from_millis(1)).await;
                used.fetch_sub(u64::from(has), Ordering::SeqCst);
                left -= has;
                has = 0;
            }
            store.share_slots(session, Vec::new()).await.unwrap();
        }));
    }
    for host in hosts {
        host.await.unwrap();
    }
    assert_eq!(open(&url).await.slots().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn turns_that_several_hosts_ask_for_at_the_same_time_are_all_different() {
    let url = private_postgres::fresh_url();
    let rate = wfhost_core::policy::rate::Rate { per_minute: 600, burst: 1 };
    let mut hosts = Vec::new();
    for host in 0..4 {
        let store = open(&url).await;
        hosts.push(tokio::spawn(async move {
            let mut turns = Vec::new();
            for step in 0..50 {
                let run = id(&format!("r{host}"));
                let word = TurnWord::Pass {
                    name: "provider:p".to_owned(),
                    rate,
                    run,
                    step: wfhost_core::Step(step),
                };
                turns.extend(store.take_turns(vec![word]).await.unwrap()[0]);
            }
            turns
        }));
    }
    let mut turns = Vec::new();
    for host in hosts {
        turns.extend(host.await.unwrap());
    }
    turns.sort();
    assert!(turns.len() >= 100, "most had to wait: {}", turns.len());
    assert!(turns.windows(2).all(|pair| pair[1].since(pair[0]) >= 99), "{turns:?}");
}

/// A backup, or a session that somebody forgot: what hosts write must not leave more behind with every step.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_that_is_held_open_makes_the_tables_that_change_no_larger_with_each_step() {
    let url = private_postgres::fresh_url();
    let (server, schema) = url.split_once("schema=").expect("a schema of its own");
    let (server, schema) = (server.trim_end_matches(['?', '&']), schema.split('&').next().unwrap_or(schema));
    let store = open(&url).await;
    let session = store.begin_session(&owner(1), 600_000).await.unwrap();
    let mut machines = Vec::new();
    for number in 0..20 {
        let run = format!("r{number}");
        machines.push((run.clone(), create(&store, session, &run).await));
    }
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let (holder, other) = (connect().await, connect().await);
    let look = format!("SELECT count(*) FROM \"{schema}\".hot");
    holder.batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {look}")).await.unwrap();
    let size = async || {
        let sql = format!(
            "SELECT pg_total_relation_size('\"{schema}\".hot') + pg_total_relation_size('\"{schema}\".lanes')
                + pg_total_relation_size('\"{schema}\".sessions')"
        );
        other.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = size().await;
    for _ in 0..100 {
        let all = machines.iter_mut().map(|(run, machine)| store.append(go(session, run, 1, machine)));
        futures_util::future::try_join_all(all).await.unwrap();
    }
    // 2,000 steps that left a row each would have left 100 KiB and more.
    let after = size().await;
    assert!(after < before + (64 << 10), "{before} bytes became {after}");
    // What it reads is what was there, and what others read is all.
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.journal(&id("r7"), Position(0)).await.unwrap().len(), 101);
}
