//! Databases of every earlier format open and go on; processes of an earlier version notice.

use std::path::Path;

use rusqlite::{Connection, params};
use wfhost_core::policy::budget::{Budget, Spent};
use wfhost_core::{
    AgentRequest, Digest, Json, Machine, Op, Question, Reply, Row, RunConfig, RunId, Started, Step,
    Timestamp, Usage,
};

use super::format::{APPLICATION_ID, MIGRATIONS};
use super::{SqliteOptions, SqliteStore};
use crate::*;

/// The first format whose tables for runs are those of now.
const PRESENT_RUNS: usize = 7;

const NAMES: [&str; 4] = ["waits", "runs", "asks", "waits.1"];

fn id(text: &str) -> RunId {
    text.parse().unwrap()
}

/// A run that has made one call, and its rows.
fn machine(run: &str) -> (Machine, Vec<Row>) {
    let budget = Some(Budget { tokens: Some(500), ..Budget::default() });
    let started = Started {
        run: id(run),
        workflow: "w".to_owned(),
        module: Digest::of(b"module"),
        input: Json::null(),
        seed: [7; 32],
        config: RunConfig { budget, ..RunConfig::default() },
        labels: Vec::new(),
        parent: None,
        child: None,
        origin: None,
    };
    let mut machine = Machine::start(started, Timestamp(10));
    let mut rows = vec![Row::from(machine.take_unsaved().unwrap())];
    let request = AgentRequest { prompt: "?".to_owned(), ..AgentRequest::default() };
    let step = machine.schedule(&Op::Agent(Box::new(request)), Timestamp(11)).unwrap();
    let usage = Some(Usage { input_tokens: 30, output_tokens: 12, ..Usage::default() });
    let reply = Reply { usage, ..Reply::new("echo", Json::string("!")) };
    machine.complete(step, Ok(Json::of(&reply).unwrap()), Timestamp(12));
    rows.push(Row::from(machine.take_unsaved().unwrap()));
    (machine, rows)
}

/// A database of that format, as its program left it: one run waits, one was being advanced, one
/// asks a question, one is a child.
fn database(path: &Path, format: usize) -> Connection {
    let c = Connection::open(path).unwrap();
    c.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    for migration in &MIGRATIONS[..format] {
        c.execute_batch(migration).unwrap();
    }
    c.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    c.pragma_update(None, "user_version", format as i64).unwrap();
    c.execute("INSERT INTO modules VALUES (?1, 'w', 5, CAST('module' AS BLOB))", [Digest::of(b"module").0])
        .unwrap();
    let mut place = 0;
    for (index, name) in NAMES.iter().enumerate() {
        let number = index as i64 + 1;
        let (_, rows) = machine(name);
        let (state, wait_for) =
            if *name == "runs" { ("running", None) } else { ("waiting", Some("[\"go\"]")) };
        let (parent, owner) = ((*name == "waits.1").then_some("waits"), (*name == "runs").then_some("old/1"));
        c.execute(
            "INSERT INTO runs (id, name, key, workflow, module, labels, parent, created_at, state, wait_until,
                               wait_for, epoch, owner_host, owner_pid, owner_start, lease_until)
             VALUES (?1, ?2, ?3, 'w', ?4, '[]', ?5, 10, ?6, 700, ?7, 3, ?8, 1, 1, 99999999999999)",
            params![number, name, (index == 0).then_some("k"), Digest::of(b"module").0, parent, state, wait_for, owner],
        )
        .unwrap();
        if format >= 2 {
            let sql = "UPDATE runs SET due_at = iif(state = 'running', 99999999999999, 700), head = ?2,
                       updated_at = 12 WHERE id = ?1";
            c.execute(sql, params![number, rows[1].head.0]).unwrap();
        }
        if format >= 4 {
            let root = if *name == "waits.1" { "waits" } else { name };
            let sql = "UPDATE runs SET root = ?2, tokens = 42, budget = ?3,
                       parent_step = iif(parent IS NULL, NULL, 1), on_close = iif(parent IS NULL, NULL, 0)
                       WHERE id = ?1";
            let budget = minicbor::to_vec(Budget { tokens: Some(500), ..Budget::default() }).unwrap();
            c.execute(sql, params![number, root, budget]).unwrap();
        }
        for row in rows {
            let first = row.first.0 as i64;
            place += 1;
            if format >= 6 {
                let sql = "INSERT INTO journal (id, run, seq, count, at, first, head, body)
                           VALUES (?1, ?2, ?3, ?4, 12, ?5, ?6, ?7)";
                let mark = (first == 0).then_some(1);
                c.execute(sql, params![place, number, first, row.count, mark, row.head.0, row.bytes])
                    .unwrap();
            } else {
                let sql = "INSERT INTO journal (id, run, seq, count, at, head, body)
                           VALUES (?1, ?2, ?3, ?4, 12, ?5, ?6)";
                c.execute(sql, params![place, number, first, row.count, row.head.0, row.bytes]).unwrap();
            }
        }
    }
    c.execute_batch(
        "INSERT INTO inbox (run, at, kind, name, text, dedupe, taken) VALUES
             (1, 20, 'signal', 'later', '1', 'new', 0), (1, 20, 'signal', 'go', NULL, 'old', 1);
         INSERT INTO inbox (run, at, kind) VALUES (3, 20, 'cancel');
         UPDATE sqlite_sequence SET seq = 77 WHERE name IN ('inbox', 'runs');",
    )
    .unwrap();
    if format >= 2 {
        let question = Question { prompt: "?".to_owned(), schema: None, choices: Vec::new(), details: None };
        let body = minicbor::to_vec(question).unwrap();
        c.execute("INSERT INTO questions (run, step, at, body) VALUES (3, 1, 12, ?1)", [body]).unwrap();
    }
    if format >= 4 {
        let config = minicbor::to_vec(RunConfig::default()).unwrap();
        c.execute(
            "INSERT INTO schedules VALUES ('s', 'every 60000 from 0', 'skip', 'last', 'w', ?1, 'null', '[]', ?2,
                                           5, 60000, 0, NULL)",
            params![Digest::of(b"module").0, config],
        )
        .unwrap();
    }
    c
}

#[tokio::test]
async fn a_database_of_every_earlier_format_opens_and_goes_on() {
    for format in 1..PRESENT_RUNS {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("w.db");
        drop(database(&path, format));
        let store: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
        let owner = Owner { host: "h".to_owned(), realm: "m b s".to_owned(), pid: 1, started: 1 };
        let session = store.begin_session(&owner, 60_000).await.unwrap();
        // Before anything is taken up.
        for name in NAMES {
            let info = store.run(&id(name)).await.unwrap().unwrap();
            let (machine, _) = machine(name);
            assert_eq!(info.spent, Spent { tokens: 42, micros: 0, time_ms: 0 }, "format {format}: {name}");
            assert_eq!((info.budget, info.entries.0), (machine.budget(), machine.entries()), "{format}");
            assert_eq!((info.lease, info.emissions), (None, 0), "{format}");
        }
        let inbox = store.inbox(&id("waits"), Part::Next).await.unwrap();
        assert_eq!(inbox.messages.len(), 1, "{format}");
        let send = async |name: &str, dedupe: &str| {
            let dedupe = Some(dedupe.to_owned());
            let body = MessageBody::Signal { name: name.to_owned(), payload: Json::null(), id: dedupe };
            store.post(NewMessage { run: id("waits"), body }).await.unwrap()
        };
        for known in ["old", "new"] {
            assert_eq!(send("go", known).await, Posted::Duplicate, "format {format}");
        }
        assert_eq!(send("later", "other").await, Posted::Added);
        let pause = NewMessage { run: id("asks"), body: MessageBody::Pause };
        assert_eq!(store.post(pause).await.unwrap(), Posted::Stopping, "format {format}");
        if format >= 2 {
            let asked = store.question(&id("asks"), Step(1)).await.unwrap().unwrap();
            assert_eq!(asked.question.prompt, "?");
        }
        if format >= 4 {
            assert_eq!(store.family(&id("waits")).await.unwrap().spent.tokens, 84);
            assert_eq!(store.schedules().await.unwrap().known[0].next_at, Some(Timestamp(60_000)));
        }
        // All of them are due, and go on.
        let due = store.claim_due(session, 9, Wanted::default()).await.unwrap();
        assert_eq!(due.runs.len(), NAMES.len(), "format {format}: {due:?}");
        for opened in due.runs {
            let Opened { run, epoch, rows, emissions, given, place, .. } = opened.unwrap();
            assert_eq!((epoch.0, emissions, given), (4, 0, Given::Counted(0)));
            let journal = wfhost_core::Journal::read(rows).unwrap();
            let mut machine = Machine::open(journal, given).unwrap();
            let before = machine.head();
            machine.receive("s".to_owned(), Json::null(), None, Timestamp(30));
            let row = machine.take_unsaved().map(Row::from);
            let append = Append::new(run, session, epoch, Timestamp(30), Next::Go);
            store.append(Append { before, row, after: place, ..append }).await.unwrap();
        }
        // Numbers are not given out again.
        let raw = Connection::open(&path).unwrap();
        let next: i64 = raw
            .query_row("SELECT min(seq) FROM sqlite_sequence WHERE name IN ('runs', 'inbox')", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert!(next >= 77, "format {format}: {next}");
    }
}

#[tokio::test]
async fn runs_of_format_7_are_found_by_their_labels_and_the_database_has_a_secret() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut secrets = Vec::new();
    for name in ["a.db", "b.db"] {
        let path = dir.path().join(name);
        let c = Connection::open(&path).unwrap();
        MIGRATIONS[..7].iter().for_each(|migration| c.execute_batch(migration).unwrap());
        c.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        c.pragma_update(None, "user_version", 7).unwrap();
        c.execute_batch(
            r#"INSERT INTO runs (name, epoch, state, created_at, module, workflow, root, labels) VALUES
               ('x', 1, 'completed', 5, zeroblob(32), 'w', 'x', '[["team","red"],["n","1"],["n","1"]]'),
               ('y', 1, 'completed', 5, zeroblob(32), 'w', 'y', '[]');"#,
        )
        .unwrap();
        drop(c);
        let store: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
        let labels = vec![("team".to_owned(), "red".to_owned()), ("n".to_owned(), "1".to_owned())];
        let found = store.runs(RunFilter { labels, ..RunFilter::default() }).await.unwrap();
        assert_eq!(found.iter().map(|info| info.id.as_str()).collect::<Vec<_>>(), ["x"]);
        secrets.push(store.secret().await.unwrap());
    }
    assert_ne!(secrets[0], secrets[1]);
}

#[tokio::test]
async fn a_database_of_format_8_keeps_all_and_has_an_outbox_that_begins_at_its_end() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let c = Connection::open(&path).unwrap();
    MIGRATIONS[..8].iter().for_each(|migration| c.execute_batch(migration).unwrap());
    c.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    c.pragma_update(None, "user_version", 8).unwrap();
    let (machine, rows) = machine("waits");
    c.execute("INSERT INTO modules VALUES (?1, 'w', 5, CAST('module' AS BLOB))", [Digest::of(b"module").0])
        .unwrap();
    c.execute(
        "INSERT INTO runs (name, epoch, state, due_at, created_at, module, workflow, root, labels, head)
         VALUES ('waits', 3, 'waiting', 700, 10, ?1, 'w', 'waits', '[]', ?2)",
        params![Digest::of(b"module").0, machine.head().0],
    )
    .unwrap();
    for (place, row) in (1..).zip(&rows) {
        let sql = "INSERT INTO commits (id, run, seq, count, at, first, head, body)
                   VALUES (?1, 1, ?2, ?3, 12, iif(?1 = 1, 1, NULL), ?4, ?5)";
        c.execute(sql, params![place, row.first.0 as i64, row.count, row.head.0, row.bytes]).unwrap();
    }
    c.execute_batch(
        "INSERT INTO tokens VALUES ('t', 'ci', 'bearer', zeroblob(32), '[\"admin\"]', 1, NULL, NULL);
         INSERT INTO audit (at, who, act, target, result) VALUES (1, 'ada', 'runs.cancel', 'waits', 'asked');",
    )
    .unwrap();
    let secret: [u8; 32] = c.query_row("SELECT secret FROM identity", [], |row| row.get(0)).unwrap();
    drop(c);
    let store: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
    assert_eq!(store.secret().await.unwrap(), secret);
    assert_eq!((store.tokens().await.unwrap().len(), store.acts(None, 9).await.unwrap().len()), (1, 1));
    let info = store.run(&id("waits")).await.unwrap().unwrap();
    assert_eq!((info.entries.0, info.head), (machine.entries(), Some(machine.head())));
    // What was committed before is told to nobody.
    assert_eq!(store.hold_cursor("s", "me", 1_000).await.unwrap(), Some(rows.len() as u64));
    assert_eq!(store.sink_loads().await.unwrap(), []);
}

#[tokio::test]
async fn a_database_of_format_9_keeps_all_and_shares_limits_with_processes_that_know_none() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("w.db");
    let old = Connection::open(&path).unwrap();
    MIGRATIONS[..9].iter().for_each(|migration| old.execute_batch(migration).unwrap());
    old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    old.pragma_update(None, "user_version", 9).unwrap();
    old.execute_batch("INSERT INTO cursors VALUES ('s', 7, 1, NULL, NULL)").unwrap();
    let store: SharedStore = Arc::new(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
    assert_eq!(store.cursors().await.unwrap()[0].place, 7);
    let owner = Owner { host: "h".to_owned(), realm: "m b s".to_owned(), pid: 1, started: 1 };
    let (one, other) = (
        store.begin_session(&owner, 60_000).await.unwrap(),
        store.begin_session(&owner, 60_000).await.unwrap(),
    );
    let ask = SlotAsk { limits: vec![("all".to_owned(), 1)], wants: 1, ..SlotAsk::default() };
    assert_eq!(store.share_slots(one, vec![ask.clone()]).await.unwrap(), [1]);
    assert_eq!(store.share_slots(other, vec![ask.clone()]).await.unwrap(), [0]);
    // A process that was there before ends a session: it knows of no slots.
    old.execute("DELETE FROM sessions WHERE id = ?1", [one.0 as i64]).unwrap();
    assert_eq!(store.slots().await.unwrap().len(), 1);
    assert_eq!(store.share_slots(other, vec![ask]).await.unwrap(), [1]);
}

#[tokio::test]
async fn each_database_has_an_identity_of_its_own_and_keeps_it() {
    let dir = tempfile::TempDir::new().unwrap();
    let [old, new] = ["old.db", "new.db"].map(|name| dir.path().join(name));
    let c = Connection::open(&old).unwrap();
    MIGRATIONS[..6].iter().for_each(|migration| c.execute_batch(migration).unwrap());
    c.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
    c.pragma_update(None, "user_version", 6).unwrap();
    drop(c);
    let mut known = Vec::new();
    for path in [&old, &new, &old, &new] {
        let store = SqliteStore::open(path, &SqliteOptions::default()).unwrap();
        known.push(store.identity().await.unwrap());
    }
    assert_eq!((&known[0], &known[1]), (&known[2], &known[3]));
    assert!(known[0] != known[1] && known[0].len() == 16, "{known:?}");
}

#[test]
fn a_process_of_an_earlier_version_notices_that_the_database_was_migrated() {
    for format in 2..PRESENT_RUNS {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("w.db");
        let old = database(&path, format);
        // What it has prepared, and used.
        let appends = "INSERT INTO journal (run, seq, count, at, head, body) VALUES (1, 9, 1, 1, x'', x'')";
        let posts = "INSERT INTO inbox (run, at, kind, name, text, dedupe, body)
                     VALUES (1, 1, 'signal', 's', 'null', NULL, NULL)";
        let claims = "UPDATE runs SET epoch = epoch + 1, owner_host = 'me', lease_until = 1 WHERE id = 1";
        old.execute_batch("BEGIN").unwrap();
        for sql in [appends, posts, claims] {
            old.prepare_cached(sql).unwrap().execute([]).unwrap();
        }
        old.execute_batch("ROLLBACK").unwrap();
        drop(SqliteStore::open(&path, &SqliteOptions::default()).unwrap());
        for sql in [appends, posts, claims] {
            let done = old.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
            assert!(done.is_err(), "format {format}: {sql}");
        }
    }
}
