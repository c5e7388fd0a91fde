//! What agent calls keep and look up, in a store.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_agents::{AnswerCache, Conversations, Origin, Origins, Transcripts};
use wfhost_core::{Digest, Failure, FailureKind, Json, Position, Row, RunId, Step, Timestamp};
use wfhost_store::{NewTranscript, RunFilter, SharedStore, StoreError};

/// Parents and rounds that are looked through for a conversation, of each so many.
const RELATIVES: usize = 16;

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
    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>, Failure>> {
        self.0.journal(run, from).map(|rows| rows.map_err(unavailable)).boxed()
    }

    fn root_of<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunId>, Failure>> {
        let info = self.0.run(run);
        info.map(|info| Ok(info.map_err(unavailable)?.map(|info| info.links.root))).boxed()
    }

    fn relatives<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<RunId>, Failure>> {
        async move {
            let Some(own) = self.0.run(run).await.map_err(unavailable)? else { return Ok(Vec::new()) };
            let mut relatives = Vec::new();
            if own.links.chain.is_some() {
                let rounds = RunFilter { chain: own.links.chain, limit: RELATIVES, ..RunFilter::default() };
                let rounds = self.0.runs(rounds).await.map_err(unavailable)?;
                relatives.extend(rounds.into_iter().map(|round| round.id).filter(|round| round != run));
            }
            let mut parent = own.parent;
            for _ in 0..RELATIVES {
                let Some(above) = parent.take() else { break };
                parent = self.0.run(&above).await.map_err(unavailable)?.and_then(|info| info.parent);
                relatives.push(above);
            }
            Ok(relatives)
        }
        .boxed()
    }
}

impl Origins for StoredRecords {
    fn origin<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Origin, Failure>> {
        async move {
            let info = self.0.run(run).await.map_err(unavailable)?;
            let database = self.0.identity().await.map_err(unavailable)?;
            // A run that is being advanced is there.
            let begun_at = info.map(|info| info.created_at).unwrap_or_default();
            Ok(Origin { run: run.clone(), database, begun_at })
        }
        .boxed()
    }
}

fn unavailable(error: StoreError) -> Failure {
    Failure::new(FailureKind::Unavailable, error.to_string())
}
