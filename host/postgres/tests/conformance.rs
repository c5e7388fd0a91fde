//! The contract of stores over PostgreSQL.

use std::sync::Arc;

use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{Hands, Shop};
use wfhost_store::{Clock, Synchronous};

async fn stores() -> Vec<Shop> {
    let clock = Arc::new(Hands::default());
    let hands: Arc<dyn Clock> = clock.clone();
    let options = PostgresOptions {
        clock: Some(hands),
        synchronous: Synchronous::Normal,
        ..PostgresOptions::default()
    };
    let store = PostgresStore::open(&private_postgres::fresh_url(), &options).await.expect("the store opens");
    vec![Shop::open(Arc::new(store), clock).await]
}

wfhost_store::conformance!(stores);
