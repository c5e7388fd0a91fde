//! The contract over the stores of this crate, and what only one of them has to do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wfhost_core::policy::rate::Rate;
use wfhost_core::{Digest, Epoch, Json, Machine, OnParentClose, Position, Step, Timestamp};

use super::conformance::*;
use super::*;

/// A store in a file, and where that is.
async fn sqlite() -> (Shop, std::path::PathBuf) {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let clock = Arc::new(Hands::default());
    let hands: Arc<dyn Clock> = clock.clone();
    let options = SqliteOptions { clock: hands, ..SqliteOptions::default() };
    let store = SqliteStore::open(&path, &options).unwrap();
    (Shop { kept: Box::new(dir), ..Shop::open(Arc::new(store), clock).await }, path)
}

async fn mem() -> Shop {
    let clock = Arc::new(Hands::default());
    Shop::open(Arc::new(MemStore::with_clock(clock.clone())), clock).await
}

async fn stores() -> Vec<Shop> {
    vec![mem().await, sqlite().await.0]
}

crate::conformance!(stores);

#[test]
fn many_can_open_a_database_that_is_not_there_yet() {
    for _ in 0..20 {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("w.db");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| SqliteStore::open(&path, &SqliteOptions::default()).map(drop).unwrap());
            }
        });
    }
}

#[test]
fn the_files_are_readable_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("sub/w.db");
    let _store = SqliteStore::open(&path, &SqliteOptions::default()).unwrap();
    for name in ["sub/w.db", "sub/w.db-wal", "sub/w.db-shm"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_journal_whose_end_is_missing_is_not_gone_on_with() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let sqlite: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
    let sqlite = Shop::open(sqlite, Arc::default()).await;
    let mem = Arc::new(MemStore::default());
    let mem_shop = Shop::open(mem.clone(), Arc::default()).await;
    for store in [&sqlite, &mem_shop] {
        for run in ["lost", "odd"] {
            let (mut machine, _) = create(store, run, None).await;
            let row = received(&mut machine);
            store.append(store.with(run, Some(row))).await.unwrap();
            park(store, run, Some(0), &[]).await;
        }
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    let of = |run: &str| format!("run = (SELECT id FROM runs WHERE name = '{run}')");
    raw.execute_batch(&format!(
        "DELETE FROM commits WHERE {} AND seq = 1; UPDATE commits SET seq = -70 WHERE {} AND seq = 1",
        of("lost"),
        of("odd")
    ))
    .unwrap();
    mem.lose_tail(&id("lost"));
    for (store, run) in [(&sqlite, "lost"), (&sqlite, "odd"), (&mem_shop, "lost")] {
        // Nor does it become whole by being given up.
        for _ in 0..2 {
            let claimed = store.claim_as(store.other, run, ClaimHow::Asked).await;
            let Claimed::Unreadable(unreadable) = claimed else { panic!("{run}: {claimed:?}") };
            assert!(matches!(&unreadable.error, StoreError::Damaged { .. }), "{:?}", unreadable.error);
            let trouble = Next::Release { waiting: None, trouble: Some("damaged".to_owned()) };
            let release = Append::new(id(run), store.other, unreadable.epoch, Timestamp(0), trouble);
            store.append(release).await.unwrap();
            assert_eq!(store.run(&id("lost")).await.unwrap().unwrap().lease, None);
        }
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_holds_up_no_others() {
    let (store, path) = sqlite().await;
    for run in ["given", "module", "nameless", "starts", "whole"] {
        enqueue(&store, run, None).await;
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "UPDATE runs SET given = x'ff' WHERE name = 'given'; UPDATE runs SET module = x'00' WHERE name = 'module';
         UPDATE runs SET starts = -1 WHERE name = 'starts'; UPDATE runs SET name = 'no name' WHERE name = 'nameless'",
    )
    .unwrap();
    what_can_be_read_is_claimed(&store, &["given", "module", "starts"]).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_others() {
    let (store, path) = sqlite().await;
    runs_to_be_listed(&store).await;
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "UPDATE runs SET state = 'strange' WHERE name = 'odd'; UPDATE runs SET name = 'no name' WHERE name = 'nameless';
         UPDATE runs SET name = 'a/b' WHERE name = 'held'",
    )
    .unwrap();
    what_can_be_read_is_listed(&store).await;
    let mut seen = Seen { version: Some(0), ..Seen::default() };
    raw.execute_batch(
        "INSERT INTO inbox (run, calm, at, kind, name, text) SELECT id, 1, 1, 'signal', 's', 'null' FROM runs",
    )
    .unwrap();
    let told = store.wakes(&mut seen).await.unwrap();
    assert_eq!(told.iter().filter(|wake| matches!(wake, Wake::Run(_))).count(), 4, "{told:?}");
}

/// A copy of a store in a file.
async fn copy(from: &std::path::Path, to: &std::path::Path) -> Shop {
    let open = |path| SqliteStore::open(path, &SqliteOptions::default()).unwrap();
    let mut parts = std::collections::VecDeque::new();
    open(from)
        .copy_out(&mut |part| {
            parts.push_back(part);
            true
        })
        .unwrap();
    let copied = open(to);
    copied.copy_in(&mut || parts.pop_front()).unwrap();
    Shop::open(Arc::new(copied), Arc::default()).await
}

#[tokio::test]
async fn whoever_has_read_all_commits_reads_those_that_a_copy_makes() {
    let (store, path) = sqlite().await;
    for run in ["stays", "gone"] {
        create(&store, run, None).await.1.unwrap();
    }
    let last = store.last_place().await.unwrap();
    assert_eq!(store.hold_cursor("sink", "me", 5).await, Ok(Some(last)));
    store.append(end(store.mine, "gone", 1)).await.unwrap();
    assert_eq!(store.delete(&id("gone")).await, Ok(Deleted::Yes));
    let copied = copy(&path, &path.with_file_name("copy.db")).await;
    assert_eq!(copied.last_place().await, Ok(last));
    create(&copied, "new", None).await.1.unwrap();
    let news = copied.changes(last, 9).await.unwrap();
    assert_eq!(news.iter().map(|change| change.run.as_str()).collect::<Vec<_>>(), ["new"]);
    // Also if no run is left, or a cursor is beyond all that is there.
    let beyond = Advance {
        name: "sink".to_owned(),
        holder: "me".to_owned(),
        place: last + 100,
        hold_ms: 0,
        deliveries: Vec::new(),
    };
    assert_eq!(store.advance_cursor(beyond).await, Ok(true));
    store.append(end(store.mine, "stays", 1)).await.unwrap();
    assert_eq!(store.delete(&id("stays")).await, Ok(Deleted::Yes));
    let copied = copy(&path, &path.with_file_name("other.db")).await;
    create(&copied, "new", None).await.1.unwrap();
    assert_eq!(copied.changes(last + 100, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_of_another_program_is_left_as_it_is() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("places.sqlite");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "PRAGMA journal_mode = DELETE; CREATE TABLE places (url TEXT); INSERT INTO places VALUES ('x')",
    )
    .unwrap();
    drop(raw);
    let versioned = dir.path().join("versioned.sqlite");
    std::fs::copy(&path, &versioned).unwrap();
    rusqlite::Connection::open(&versioned).unwrap().execute_batch("PRAGMA user_version = 3").unwrap();
    let newer = dir.path().join("newer.sqlite");
    std::fs::copy(&path, &newer).unwrap();
    let ours = "PRAGMA application_id = 0x7766686f; PRAGMA user_version = 1000";
    rusqlite::Connection::open(&newer).unwrap().execute_batch(ours).unwrap();
    let list = || {
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = list();
    for path in [&path, &versioned, &newer] {
        let bytes = std::fs::read(path).unwrap();
        let opened = SqliteStore::open(path, &SqliteOptions::default());
        assert!(
            matches!(opened, Err(StoreError::Foreign { .. } | StoreError::Newer { found: 1_000, .. })),
            "{opened:?}"
        );
        assert!(std::fs::read(path).unwrap() == bytes, "{} was changed", path.display());
        assert_eq!(list(), before);
    }
}

#[tokio::test]
async fn a_store_in_memory_keeps_no_more_than_others() {
    let store = MemStore::default();
    let act = |at| Act {
        number: 0,
        at: Timestamp(at),
        who: "ada".to_owned(),
        act: "runs.cancel".to_owned(),
        target: "r".to_owned(),
        result: "asked".to_owned(),
    };
    for at in 0..KEPT_ACTS + 300 {
        store.record_act(act(at)).await.unwrap();
    }
    let acts = store.acts(None, usize::MAX).await.unwrap();
    assert!((KEPT_ACTS..KEPT_ACTS + 200).contains(&(acts.len() as u64)), "{}", acts.len());
    assert_eq!((acts[0].at, acts[0].number), (Timestamp(KEPT_ACTS + 299), KEPT_ACTS + 300));
    for n in 0..10_u8 {
        let reply = Json::string(&"x".repeat(98));
        store.keep_answer(Digest([n; 32]), Timestamp(u64::from(n)), reply).await.unwrap();
    }
    store.bound_answers(350);
    let mut left = Vec::new();
    for n in 0..10 {
        left.extend(store.kept_answer(Digest([n; 32])).await.unwrap().map(|_| n));
    }
    assert_eq!(left, [7, 8, 9]);
}

#[tokio::test]
async fn wake_ups_name_the_runs_that_something_was_sent_to() {
    let dir = tempfile::TempDir::new().unwrap();
    let open = || -> SharedStore {
        Arc::new(SqliteStore::open(&dir.path().join("w.db"), &SqliteOptions::default()).unwrap())
    };
    let store = Shop::open(open(), Arc::default()).await;
    let others = Shop::open(open(), Arc::default()).await;
    let mut seen = Seen::default();
    assert_eq!(store.wakes(&mut seen).await.unwrap(), [Wake::Gap]);
    for run in ["a", "b"] {
        create(&store, run, None).await.1.unwrap();
    }
    let patience = std::time::Duration::from_millis(100);
    let own = tokio::time::timeout(patience, store.wakes(&mut seen)).await;
    assert!(own.is_err(), "one's own commits wake nobody: {own:?}");
    post(&others, "b", signal("s", None)).await;
    assert_eq!(store.wakes(&mut seen).await.unwrap(), [Wake::Run(id("b")), Wake::Due]);
    // A commit that sends nothing names nobody.
    create(&others, "c", None).await.1.unwrap();
    assert_eq!(store.wakes(&mut seen).await.unwrap(), [Wake::Due]);
    let mem = mem().await;
    let mut seen = Seen::default();
    assert_eq!(mem.wakes(&mut seen).await.unwrap(), [Wake::Gap]);
    create(&mem, "a", None).await.1.unwrap();
    post(&mem, "a", signal("s", None)).await;
    // It is somebody's, so nothing is due.
    assert_eq!(mem.wakes(&mut seen).await.unwrap(), [Wake::Run(id("a"))]);
    enqueue(&mem, "d", None).await;
    assert_eq!(mem.wakes(&mut seen).await.unwrap(), [Wake::Due]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_runs_share_commits_and_a_lone_one_makes_one_each() {
    let (store, _) = sqlite().await;
    let mut machines = Vec::new();
    for n in 0..100 {
        machines.push((format!("r{n}"), create(&store, &format!("r{n}"), None).await.0));
    }
    let before = store.commits();
    for _ in 0..10 {
        let row = received(&mut machines[0].1);
        store.append(store.with("r0", Some(row))).await.unwrap();
    }
    assert_eq!(store.commits() - before, 10);
    let before = store.commits();
    let store = Arc::new(store);
    let tasks: Vec<_> = machines
        .into_iter()
        .map(|(run, mut machine)| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..20 {
                    let row = received(&mut machine);
                    store.append(store.with(&run, Some(row))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let commits = store.commits() - before;
    assert!(commits < 1_000, "2,000 appends took {commits} commits");
}

#[tokio::test]
async fn a_database_that_was_moved_or_replaced_is_noticed() {
    let (store, path) = sqlite().await;
    create(&store, "r", None).await.1.unwrap();
    store.check_place().unwrap();
    let log = path.with_file_name("w.db-wal");
    std::fs::rename(&log, path.with_file_name("gone")).unwrap();
    assert!(matches!(store.check_place(), Err(StoreError::Moved { .. })));
    std::fs::rename(path.with_file_name("gone"), &log).unwrap();
    store.check_place().unwrap();
    std::fs::rename(&path, path.with_file_name("other.db")).unwrap();
    assert!(matches!(store.check_place(), Err(StoreError::Moved { .. })));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(store.check_place(), Err(StoreError::Moved { .. })));
}

#[tokio::test]
async fn a_full_database_takes_nothing_and_goes_on_when_there_is_room() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let limited = SqliteOptions { max_pages: Some(56), ..SqliteOptions::default() };
    let store: SharedStore = Arc::new(SqliteStore::open(&path, &limited).unwrap());
    let store = Shop::open(store, Arc::default()).await;
    let (mut machine, _) = create(&store, "r", None).await;
    let big = Json::string(&"x".repeat(400_000));
    machine.receive("s".to_owned(), big, None, Timestamp(20));
    let append = store.with("r", Some(row(&mut machine)));
    let refused = store.append(append.clone()).await;
    assert!(matches!(&refused, Err(error @ StoreError::Full { .. }) if error.is_passing()), "{refused:?}");
    assert_eq!(post(&store, "r", signal("s", None)).await, Posted::Added);
    drop(store);
    let store: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
    store.append(append).await.unwrap();
    assert_eq!(store.run(&id("r")).await.unwrap().unwrap().entries, Position(2));
}

#[tokio::test]
async fn the_write_ahead_log_stays_bounded_whoever_writes() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let open = || -> SharedStore {
        let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
        Arc::new(SqliteStore::open(&path, &options).unwrap())
    };
    // One that is there all the time and does nothing, and many that come and go.
    let idle = open();
    for n in 0..60 {
        let store = Shop::open(open(), Arc::default()).await;
        let (mut machine, _) = create(&store, &format!("r{n}"), None).await;
        for _ in 0..5 {
            machine.receive("s".to_owned(), Json::string(&"x".repeat(100_000)), None, Timestamp(20));
            let row = row(&mut machine);
            store.append(store.with(&format!("r{n}"), Some(row))).await.unwrap();
        }
    }
    let log = std::fs::metadata(path.with_file_name("w.db-wal")).unwrap().len();
    assert!(log < 16 << 20, "30 MB were written, the log has {log} bytes");
    drop(idle);
}

#[tokio::test]
async fn the_oldest_answers_go_beyond_a_size() {
    let (store, path) = sqlite().await;
    for n in 0..10_u8 {
        let reply = Json::string(&"x".repeat(98));
        store.keep_answer(Digest([n; 32]), Timestamp(u64::from(n)), reply).await.unwrap();
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    super::sqlite::bound_answers(&raw, 350);
    let mut left = Vec::new();
    for n in 0..10 {
        left.extend(store.kept_answer(Digest([n; 32])).await.unwrap().map(|_| n));
    }
    assert_eq!(left, [7, 8, 9]);
    assert_eq!(store.delete_old_answers(Timestamp(9)).await.unwrap(), 2);
}

/// What operations cost, in instructions of SQLite's machine, with so many children, rounds,
/// questions, modules, schedules and lines of transcripts there.
async fn costs(many: u64) -> Vec<(&'static str, u64)> {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let counted = crate::sqlite::costs::of(&path);
    let clock = Arc::new(Hands::default());
    let hands: Arc<dyn Clock> = clock.clone();
    let options =
        SqliteOptions { clock: hands, synchronous: Synchronous::Normal, ..SqliteOptions::default() };
    let store = Shop::open(Arc::new(SqliteStore::open(&path, &options).unwrap()), clock).await;

    let (mut parent, _) = create(&store, "p", None).await;
    let children = (1..=many).map(|step| child(&mut parent, step, None, OnParentClose::Cancel)).collect();
    store.append(Append { children, ..store.with("p", None) }).await.unwrap();
    for step in 1..=many / 2 {
        let opened = store.opened(store.mine, &format!("p.{step}")).await;
        store.append(end(store.mine, &format!("p.{step}"), opened.epoch.0)).await.unwrap();
    }
    let (mut round, _) = create(&store, "c", None).await;
    for n in 2..=many {
        let next = format!("c-{n}");
        let goes_on = Next::Continue { run: Box::new(next_round(&round, &next)) };
        let last = round.run().to_string();
        let epoch = match n {
            2 => Epoch(1),
            _ => store.opened(store.mine, &last).await.epoch,
        };
        store.append(Append { epoch, next: goes_on, ..store.with(&last, None) }).await.unwrap();
        round = Machine::start(round_after(&round, &next), Timestamp(15));
    }
    let last = round.run().clone();
    for n in 0..many {
        create(&store, &format!("q{n}"), Some(&format!("key{n}"))).await.1.unwrap();
        let questions = vec![question(n)];
        store.append(Append { questions, ..store.with(&format!("q{n}"), None) }).await.unwrap();
        let module = store.put_module(&format!("m{n}"), &n.to_le_bytes()).await.unwrap();
        let far = Timestamp(1 << 40);
        let schedule = crate::schedule::Schedule {
            when: crate::schedule::When::Every { millis: 1_000, from: far },
            next_at: Some(far),
            ..every_second(&format!("s{n}"), module)
        };
        store.put_schedule(schedule, false).await.unwrap();
        let kind = TranscriptKind::Heartbeat;
        let line = NewTranscript { step: Step(n), attempt: 1, at: Timestamp(1), kind, text: "x".to_owned() };
        store.transcribe(&id("q0"), vec![line]).await.unwrap();
    }

    let rate = Rate { per_minute: 60, burst: 1 };
    let waits = (0..=many).map(|step| pass("provider:p", rate, "q0", step)).collect();
    let given = store.take_turns(waits).await.unwrap();
    store
        .take_turns((1..many).map(|step| release("provider:p", "q0", step, Epoch(1))).collect())
        .await
        .unwrap();

    let mut costs = Vec::new();
    let mut begin = counted.load(Ordering::Relaxed);
    let mut took = |what| {
        let end = counted.load(Ordering::Relaxed);
        costs.push((what, end - std::mem::replace(&mut begin, end)));
    };
    store.run(&id("p")).await.unwrap();
    took("a look at a run");
    assert!(store.family(&id("c")).await.unwrap().spent.tokens == 0);
    took("what a chain has spent");
    store.family(&id("p")).await.unwrap();
    took("what a family has spent");
    store.busy_relatives(&id("p")).await.unwrap();
    took("whether a family is at work");
    assert_eq!(store.ended_children(&id("p"), &[Step(1)]).await.unwrap().len(), 1);
    took("one child of many");
    assert_eq!(post(&store, "c", signal("s", Some("1"))).await, Posted::Continued(last.clone()));
    took("a signal to the first round");
    assert_eq!(post(&store, last.as_str(), signal("s", Some("1"))).await, Posted::Added);
    took("a signal to the last round");
    store.append(Append { dropped: vec![Step(many)], ..store.with("p", None) }).await.unwrap();
    took("a child that is dropped");
    assert!(store.question(&id("q1"), Step(1)).await.unwrap().is_some());
    took("a look at a question");
    let outcome = Ok(Json::null());
    let answer = MessageBody::Answer { step: Step(1), outcome, by: None, note: None };
    assert_eq!(post(&store, "q1", answer).await, Posted::Added);
    took("an answer");
    assert!(store.module_named("m1").await.unwrap().is_some());
    took("a module by its name");
    assert!(store.due_schedules(None, 9).await.unwrap().due.is_empty());
    took("which schedules are due");
    assert_eq!(store.due(1, Wanted::default()).await.0.len(), 1);
    took("a claim of what is due");
    let filter = TranscriptFilter { step: Some(Step(1)), ..TranscriptFilter::default() };
    assert_eq!(store.transcript(&id("q0"), filter, 9).await.unwrap().len(), 1);
    took("the transcript of a step");
    assert!(store.last_heartbeat(&id("q0"), Step(1)).await.unwrap().is_some());
    took("the last heartbeat of a step");
    assert!(matches!(create(&store, "new", Some("key1")).await.1.unwrap(), Created::Known(_)));
    took("a start with a key that is known");
    create(&store, "newer", None).await.1.unwrap();
    took("a start");
    park(&store, "newer", Some(1 << 40), &["s"]).await;
    took("a run that is parked");
    store.append(end(store.mine, "q2", 1)).await.unwrap();
    took("an end");
    store.keep(store.mine).await.unwrap();
    took("a renewal");
    let turn = store.take_turns(vec![pass("provider:p", rate, "q1", 1)]).await.unwrap();
    took("a turn that another call gave back");
    assert_eq!(turn, [given[1]]);
    store.take_turns(vec![release("provider:p", "q1", 1, Epoch(1))]).await.unwrap();
    took("a turn that is given back");
    costs
}

/// With twenty times as much of everything there, nothing is looked at that does not concern it.
#[tokio::test]
async fn no_cost_grows_with_what_is_there() {
    let (few, many) = (costs(20).await, costs(400).await);
    let grown: Vec<_> =
        few.iter().zip(&many).filter(|((_, few), (_, many))| *many > few + few / 2 + 50).collect();
    assert!(grown.is_empty(), "{grown:?}");
}

#[tokio::test]
async fn a_search_that_takes_too_long_is_given_up_and_harms_nobody() {
    let (store, path) = sqlite().await;
    create(&store, "r", None).await.1.unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "INSERT INTO runs (name, epoch, state, created_at, module, workflow, root, labels)
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 60000)
         SELECT 'many' || n, 1, 'completed', 5, zeroblob(32), 'w', 'many' || n, '[]' FROM n",
    )
    .unwrap();
    let text = Some("nobody has this".to_owned());
    let filter = RunFilter { text, patience_ms: Some(0), ..RunFilter::default() };
    assert_eq!(store.runs(filter.clone()).await, Err(StoreError::TooLong { millis: 0 }));
    assert_eq!(store.runs(RunFilter { patience_ms: None, ..filter }).await.unwrap(), []);
    // What is found by an index is found at once, whatever else there is.
    let labels = vec![("run".to_owned(), "r".to_owned())];
    let quick = RunFilter { labels, patience_ms: Some(1_000), ..RunFilter::default() };
    assert_eq!(store.runs(quick).await.unwrap().len(), 1);
}
