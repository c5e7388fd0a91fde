//! What agent calls keep and look up, in a store.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_agents::{AnswerCache, Conversations, Transcripts};
use wfhost_core::{Digest, Failure, FailureKind, Json, Position, Row, RunId, Step, Timestamp};
use wfhost_store::{NewTranscript, SharedStore};

/// The records of a host's agent calls are in its store.
pub(crate) struct StoredRecords(pub SharedStore);

impl AnswerCache for StoredRecords {
    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Option<(Timestamp, Json)>> {
        async move { self.0.kept_answer(key).await.ok().flatten() }.boxed()
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, ()> {
        self.0.keep_answer(key, at, reply).map(drop).boxed()
    }
}

impl Transcripts for StoredRecords {
    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, ()> {
        self.0.transcribe(run, lines).map(drop).boxed()
    }

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Option<String>> {
        async move { self.0.last_heartbeat(run, step).await.ok().flatten() }.boxed()
    }
}

impl Conversations for StoredRecords {
    fn journal<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<Row>, Failure>> {
        let unavailable =
            |error: wfhost_store::StoreError| Failure::new(FailureKind::Unavailable, error.to_string());
        self.0.journal(run, Position(0)).map(move |rows| rows.map_err(unavailable)).boxed()
    }
}
