//! Hosts of an earlier format, while the tables come to have a later one.

use tokio_postgres::{Client, NoTls};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{id, owner};
use wfhost_store::*;

/// Makes tables of format 4, and gives a connection as a host of that format has it.
async fn format_4(url: &str) -> Client {
    let (server, schema) = url.split_once("schema=").expect("a schema of its own");
    let (client, connection) =
        tokio_postgres::connect(server.trim_end_matches(['?', '&']), NoTls).await.unwrap();
    tokio::spawn(connection);
    let parts = [
        include_str!("../src/schema-1.sql"),
        include_str!("../src/functions-1.sql"),
        include_str!("../src/appends.sql"),
        include_str!("../src/schema-3.sql"),
        include_str!("../src/schema-4.sql"),
    ];
    let sql = format!(
        "SET client_min_messages = warning; CREATE SCHEMA {schema}; {};
         INSERT INTO wf.meta (format, oldest_host, store, secret, xid_base) VALUES (4, 1, 'x', '\\x00', 0);
         INSERT INTO wf.modules VALUES ('\\x01', 'm', 1, 1, '\\x00'); SET search_path = {schema}",
        parts.concat()
    );
    client.batch_execute(&sql.replace("wf.", &format!("{schema}."))).await.unwrap();
    client
}

const SESSION: u64 = 77;

async fn one(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn create(client: &Client, run: &str) -> i64 {
    let sql = format!(
        "SELECT coalesce(run, -1) FROM create_1(jsonb_build_object('name', '{run}', 'imported', false, 'workflow', 'w',
             'module', 1, 'labels', 2, 'root', '{run}', 'created_at', 1, 'updated_at', 1, 'state', 1,
             'session', {SESSION}, 'head', 3, 'given', 1, 'rows', '[{{\"seq\": 0, \"count\": 1, \"n\": 1, \"head\": 3,
             \"body\": 4}}]'::jsonb, 'inbox', '[]'::jsonb, 'children', '[]'::jsonb),
             ARRAY['\\x01'::bytea, '[]', '\\xaa', '\\xbb'], 0::int2, NULL)"
    );
    one(client, &sql).await
}

/// How many are accepted of one step of that run; -1 if the session is over.
async fn step(client: &Client, run: i64, seq: i64) -> i64 {
    let sql = format!(
        "SELECT CASE WHEN min(idx) = -1 THEN -1 ELSE count(*) END FROM commit_1({SESSION}, 0::int2, NULL, NULL,
             ARRAY[{run}], ARRAY[1], ARRAY[{seq}], ARRAY['\\xaa'::bytea], ARRAY[1], ARRAY[1], ARRAY['\\xaa'::bytea],
             ARRAY['\\xbb'::bytea], NULL, NULL, 0)"
    );
    one(client, &sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_of_format_4_goes_on_while_the_tables_come_to_have_a_later_one() {
    let url = private_postgres::fresh_url();
    let older = format_4(&url).await;
    let begin = format!("SELECT begin_session_2({SESSION}, 'h', '', 1, 1, 600000, 'v', 2, NULL)::text");
    older.query_one(&begin, &[]).await.unwrap();
    let run = create(&older, "r").await;
    assert_eq!(step(&older, run, 1).await, 1);
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    let newer = PostgresStore::open(&url, &options).await.unwrap();
    let formats = PostgresStore::look(&url, &options).await.unwrap().formats.unwrap();
    assert!(formats.newest > 4 && formats.found == Some(formats.newest), "{formats:?}");
    // The older one calls what it called before.
    assert_eq!(step(&older, run, 2).await, 1);
    assert_eq!(step(&older, run, 2).await, 0, "it is there already");
    let alone =
        format!("SELECT append_1({SESSION}, 0::int2, 0, {run}, 1, 3, '\\xaa', 1, 1, '\\xaa', '\\xbb')");
    assert!(one(&older, &alone).await > 0);
    assert!(create(&older, "q").await > run);
    // Both are told apart, and each ends the sessions of the other.
    let session = newer.begin_session(&owner(2), 600_000).await.unwrap();
    assert_eq!(newer.held(SessionId(SESSION)).await.unwrap().len(), 2);
    assert_eq!(newer.fence(SessionId(SESSION), Fence::Dead).await, Ok(2));
    assert_eq!(step(&older, run, 4).await, -1);
    assert_eq!(create(&older, "late").await, -1);
    assert!(matches!(newer.run(&id("late")).await, Ok(None)));
    let fence = format!("SELECT fence_1({}, false, false, NULL)", session.0 as i64);
    assert_eq!(one(&older, &fence).await, 0);
    assert!(matches!(newer.keep(session).await, Ok(Kept::Fenced)));
}
