//! What large inboxes cost whoever claims their runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use private_postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wfhost_postgres::{PostgresOptions, PostgresStore};
use wfhost_store::conformance::{Shop, create, id, park};
use wfhost_store::*;

/// Passes connections on to the server, and counts the bytes that it sends.
async fn counting(port: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("it has one").port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server is there");
            let (mut asks, mut answers) = client.into_split();
            let (mut says, mut hears) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut hears).await });
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = says.read(&mut buffer).await {
                    counted.fetch_add(read as u64, Ordering::Relaxed);
                    if answers.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (own, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_of_an_inbox_is_sent_than_is_taken_at_once() {
    const RUNS: u64 = 5;
    let server = Postgres::start(&["fsync=off", "full_page_writes=off"]);
    let (port, sent) = counting(server.port()).await;
    let url = server.tcp_url();
    let url = url.replace(&format!(":{}", server.port()), &format!(":{port}"));
    let options = PostgresOptions { synchronous: Synchronous::Normal, ..PostgresOptions::default() };
    let store = Arc::new(PostgresStore::open(&url, &options).await.expect("the store opens"));
    let store = Shop::open(store, Arc::default()).await;
    for n in 0..RUNS {
        create(&store, &format!("r{n}"), None).await.1.expect("it begins");
        park(&store, &format!("r{n}"), None, &["go"]).await;
    }
    private_postgres::query(
        &url,
        "INSERT INTO inbox (run, at, calm, kind, name, text)
             SELECT run, 1, true, 'signal', 'go', '\"' || repeat('x', 1000000) || '\"' FROM runs, generate_series(1, 70);
         UPDATE hot SET due_at = 0",
    );
    let before = sent.load(Ordering::Relaxed);
    let due = store.claim_due(store.other, 9, Wanted::default()).await.expect("they can be claimed");
    let claimed = sent.load(Ordering::Relaxed) - before;
    assert_eq!(due.runs.len() as u64, RUNS);
    for run in due.runs {
        let Inbox { messages, more } = run.expect("it can be read").inbox;
        assert_eq!((messages.len(), more), (INBOX_BYTES / 1_000_002, true));
    }
    let most = RUNS * (INBOX_BYTES as u64 + 3_000_000);
    assert!(claimed < most, "{claimed} bytes were sent");
    let before = sent.load(Ordering::Relaxed);
    let mut all = 0;
    let mut part = Part::Behind(None);
    loop {
        let Inbox { messages, more } = store.inbox(&id("r1"), part).await.expect("it can be read");
        all += messages.len();
        part = Part::Behind(messages.last().map(|message| message.id));
        if !more {
            break;
        }
    }
    assert_eq!(all, 70);
    let read = sent.load(Ordering::Relaxed) - before;
    assert!(read < 2 * 70 * 1_000_002, "{read} bytes were sent");
}
