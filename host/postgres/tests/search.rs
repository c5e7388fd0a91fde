//! How runs are searched where there are many.

use std::sync::Arc;

use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{Shop, create};
use wfhost_store::{RunFilter, SharedStore, StoreError, Synchronous};

/// A store with one run that was created in it, and so many that were not.
async fn many(count: u32) -> Shop {
    let url = private_postgres::fresh_url();
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    let store: SharedStore = Arc::new(PostgresStore::open(&url, &options).await.expect("the store opens"));
    let shop = Shop::open(store, Arc::default()).await;
    create(&shop, "r", None).await.1.expect("a run is created");
    private_postgres::query(
        &url,
        &format!(
            "WITH made AS (
                 INSERT INTO runs (name, imported, workflow, module, root, created_at, labels)
                 SELECT 'many' || n, false, 'w', ''::bytea, 'many' || n, 5, '[]'
                 FROM generate_series(1, {count}) n RETURNING run)
             INSERT INTO hot (run, epoch, state) SELECT run, 1, 5 FROM made"
        ),
    );
    shop
}

#[tokio::test]
async fn a_search_that_takes_too_long_is_given_up_and_harms_nobody() {
    let store = many(20_000).await;
    let text = Some("nobody has this".to_owned());
    let filter = RunFilter { text, patience_ms: Some(0), ..RunFilter::default() };
    // More often than there are connections: each is as it was.
    for _ in 0..8 {
        assert_eq!(store.runs(filter.clone()).await, Err(StoreError::TooLong { millis: 0 }));
    }
    assert_eq!(store.runs(RunFilter { patience_ms: None, ..filter }).await, Ok(Vec::new()));
    let labels = vec![("run".to_owned(), "r".to_owned())];
    let quick = RunFilter { labels, patience_ms: Some(10_000), ..RunFilter::default() };
    assert_eq!(store.runs(quick).await.map(|runs| runs.len()), Ok(1));
}
