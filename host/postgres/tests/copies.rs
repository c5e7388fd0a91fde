//! Copies from a server to a file, and to another server.

use std::path::Path;
use std::sync::Arc;

use private_postgres::Postgres;
use tokio::sync::mpsc;
use wfhost_core::{OnParentClose, Step};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{Shop, child, create, end, id};
use wfhost_store::*;

async fn server(url: &str) -> Arc<PostgresStore> {
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    Arc::new(PostgresStore::open(url, &options).await.expect("the store opens"))
}

/// What is there now, in a new file.
async fn to_file(from: &Arc<PostgresStore>, path: &Path) -> Shop {
    let (give, mut parts) = mpsc::channel(1_000);
    from.copy_out(give).await.expect("it can be copied");
    let file = SqliteStore::open(path, &SqliteOptions::default()).expect("it opens");
    file.copy_in(&mut || parts.try_recv().ok()).expect("it takes it");
    Shop::open(Arc::new(file), Arc::default()).await
}

/// What is there now, in another schema.
async fn to_server(from: &Arc<PostgresStore>) -> Shop {
    let (give, mut parts) = mpsc::channel(1_000);
    from.copy_out(give).await.expect("it can be copied");
    let url = private_postgres::fresh_url();
    server(&url).await.copy_in(&mut parts).await.expect("it takes it");
    Shop::open(server(&url).await, Arc::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_read_all_commits_reads_those_that_a_copy_makes() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let source = server(&private_postgres::fresh_url()).await;
    let store = Shop::open(source.clone(), Arc::default()).await;
    create(&store, "stays", None).await.1.expect("it begins");
    // Many transactions lie between the commit that stays and the one that goes.
    for n in 0..20 {
        create(&store, &format!("gone-{n}"), None).await.1.expect("it begins");
        store.append(end(store.mine, &format!("gone-{n}"), 1)).await.expect("it ends");
    }
    let last = store.last_place().await.expect("there is one");
    assert_eq!(store.hold_cursor("sink", "me", 5).await, Ok(Some(last)));
    for n in 0..20 {
        assert_eq!(store.delete(&id(&format!("gone-{n}"))).await, Ok(Deleted::Yes));
    }
    for copied in [to_file(&source, &dir.path().join("copy.db")).await, to_server(&source).await] {
        create(&copied, "new", None).await.1.expect("it begins");
        let news = copied.changes(last, 9).await.expect("they can be read");
        assert_eq!(news.iter().map(|change| change.run.as_str()).collect::<Vec<_>>(), ["new"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_of_children_that_nobody_has_taken_are_those_of_their_steps() {
    let dir = tempfile::TempDir::new().expect("a directory");
    let source = server(&private_postgres::fresh_url()).await;
    let store = Shop::open(source.clone(), Arc::default()).await;
    let (mut parent, _) = create(&store, "p", None).await;
    let children = [5, 6].map(|step| child(&mut parent, step, None, OnParentClose::Abandon)).to_vec();
    store.append(Append { children, ..store.with("p", None) }).await.expect("they begin");
    let opened = store.opened(store.mine, "p.5").await;
    store.append(end(store.mine, "p.5", opened.epoch.0)).await.expect("it ends");
    assert_eq!(store.delete(&id("p.6")).await, Ok(Deleted::Yes));
    let copies = [to_file(&source, &dir.path().join("copy.db")).await, to_server(&source).await];
    for shop in [&store].into_iter().chain(&copies) {
        let steps: Vec<_> = shop
            .bodies("p")
            .await
            .into_iter()
            .map(|body| match body {
                MessageBody::Child { step, run, .. } => (step, run),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(steps, [(Step(5), id("p.5")), (Step(6), id("p.6"))]);
    }
}

/// Roles of hosted servers often have them; what serves runs takes far less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_its_time_is_cut_off_by_no_time_limit_of_the_server() {
    let postgres = Postgres::start(&["fsync=off", "full_page_writes=off"]);
    let (from, to) = (postgres.url(), format!("{}?schema=other", postgres.url()));
    let store = Shop::open(server(&from).await, Arc::default()).await;
    create(&store, "r", None).await.1.expect("it begins");
    // Four batches, of which each takes longer than the limit.
    private_postgres::query(
        &from,
        "INSERT INTO inbox (run, at, calm, kind, name, text)
             SELECT run, 1, true, 'signal', 'go', '\"' || repeat('x', 1000000) || '\"' FROM runs, generate_series(1, 20)",
    );
    drop(server(&to).await);
    private_postgres::query(
        &to,
        "CREATE FUNCTION takes_its_time() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(1.2); RETURN NULL; END $$;
         CREATE TRIGGER slow AFTER INSERT ON inbox EXECUTE FUNCTION takes_its_time()",
    );
    for limit in ["statement_timeout", "transaction_timeout"] {
        postgres.sql(&format!(
            "DO $$ BEGIN IF EXISTS (SELECT 1 FROM pg_settings WHERE name = '{limit}') THEN
                 ALTER ROLE wf SET {limit} = '1s'; END IF; END $$"
        ));
    }
    let (source, target) = (server(&from).await, server(&to).await);
    let (give, mut parts) = mpsc::channel(1);
    let copied = tokio::join!(source.copy_out(give), target.copy_in(&mut parts));
    assert_eq!(copied, (Ok(()), Ok(())));
    private_postgres::query(
        &from,
        "ALTER TABLE sessions RENAME TO all_sessions;
         CREATE VIEW sessions AS SELECT s.* FROM pg_sleep(1.2), all_sessions s",
    );
    assert_eq!(source.check().await, Ok(Vec::new()));
}
