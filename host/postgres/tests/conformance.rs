//! The contract of stores over PostgreSQL.

use std::sync::Arc;

use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{
    Hands, Shop, enqueue, runs_to_be_listed, what_can_be_read_is_claimed, what_can_be_read_is_listed,
};
use wfhost_store::{Clock, Synchronous};

async fn stores() -> Vec<Shop> {
    vec![shop(&private_postgres::fresh_url()).await]
}

async fn shop(url: &str) -> Shop {
    let clock = Arc::new(Hands::default());
    let hands: Arc<dyn Clock> = clock.clone();
    let options = PostgresOptions {
        clock: Some(hands),
        synchronous: Synchronous::Normal,
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open(url, &options).await.expect("the store opens");
    Shop::open(Arc::new(store), clock).await
}

wfhost_store::conformance!(stores);

#[tokio::test]
async fn a_row_that_cannot_be_read_holds_up_no_others() {
    let url = private_postgres::fresh_url();
    let store = shop(&url).await;
    for run in ["given", "module", "nameless", "state", "whole"] {
        enqueue(&store, run, None).await;
    }
    for (table, change, name) in [
        ("hot", r"given = '\xff'", "given"),
        ("runs", r"module = '\x00'", "module"),
        ("hot", "state = 77", "state"),
        ("runs", "name = 'no name'", "nameless"),
    ] {
        change_run(&url, table, change, name);
    }
    what_can_be_read_is_claimed(&store, &["given", "module", "state"]).await;
}

fn change_run(url: &str, table: &str, change: &str, name: &str) {
    let of = format!("run = (SELECT run FROM runs WHERE name = '{name}')");
    private_postgres::query(url, &format!("UPDATE {table} SET {change} WHERE {of} RETURNING 1"));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_others() {
    let url = private_postgres::fresh_url();
    let store = shop(&url).await;
    runs_to_be_listed(&store).await;
    for (table, change, name) in [
        ("hot", "state = 77", "odd"),
        ("runs", "name = 'no name'", "nameless"),
        ("runs", "name = 'a/b'", "held"),
    ] {
        change_run(&url, table, change, name);
    }
    what_can_be_read_is_listed(&store).await;
}
