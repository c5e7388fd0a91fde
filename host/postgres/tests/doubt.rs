//! What is said of writes of which nobody knows whether they were done.

use wfhost_core::Row;
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{id, machine, owner, signal};
use wfhost_store::*;

/// A server that refuses each message with an error of that code, besides those whose connections it cuts: of those
/// nobody knows from outside what became of them.
async fn refusing(url: &str, code: &str) -> PostgresStore {
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    let store = PostgresStore::open(url, &options).await.unwrap();
    let session = store.begin_session(&owner(1), 2_000).await.unwrap();
    let mut machine = machine("r", store.put_module("w", b"module").await.unwrap());
    let rows = machine.take_unsaved().map(Row::from).into_iter().collect();
    let new = NewRun { session: Some(session), ..NewRun::new(&machine, rows) };
    assert_eq!(store.create(new).await, Ok(Created::New));
    let sql = format!(
        "CREATE TABLE cuts (many int8 NOT NULL); INSERT INTO cuts VALUES (0); CREATE SEQUENCE tries;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE
             v_many int8;
         BEGIN
             EXECUTE format('SELECT many FROM %I.cuts', TG_TABLE_SCHEMA) INTO v_many;
             IF nextval(format('%I.tries', TG_TABLE_SCHEMA)::regclass) <= v_many THEN
                 PERFORM pg_terminate_backend(pg_backend_pid());
                 PERFORM pg_sleep(60);
             END IF;
             RAISE EXCEPTION 'refused' USING ERRCODE = '{code}';
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON posts FOR EACH ROW EXECUTE FUNCTION refuse()"
    );
    private_postgres::query(url, &sql);
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_may_have_been_done_by_an_earlier_try_is_not_reported_as_refused() {
    for (code, says) in [("53100", "WF0312"), ("40001", "WF0313"), ("53200", "WF0334"), ("22023", "WF0317")] {
        let url = private_postgres::fresh_url();
        let store = refusing(&url, code).await;
        let post = async || {
            let message = NewMessage { run: id("r"), body: signal("go", None) };
            store.post(message).await.map_err(|error| error.code())
        };
        assert_eq!(post().await, Err(says), "nothing was done, and the server says so");
        private_postgres::query(&url, "SELECT setval('tries', 1); UPDATE cuts SET many = 2");
        assert_eq!(post().await, Err("WF0319"), "{code}");
    }
}
