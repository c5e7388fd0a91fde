//! Runs with their journals.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_core::{Position, Row, RunId};

use super::{SqliteStore, append, journal, write};
use crate::*;

impl Journals for SqliteStore {
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| write::create(c, &run, clock.as_ref())).boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        // It is passed on several times.
        let append = Box::new(append);
        let clock = Arc::clone(&self.clock);
        self.write(move |c| append::append(c, &append, clock.as_ref())).boxed()
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move { self.read(|c| journal::read(c, run, from)) }.boxed()
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        async move { self.read(|c| journal::changes(c, after, limit)) }.boxed()
    }

    fn journal_part<'a>(
        &'a self,
        run: &'a RunId,
        from: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>>> {
        async move { self.read(|c| journal::part(c, run, from, limit)) }.boxed()
    }

    fn last_place(&self) -> BoxFuture<'_, Result<u64>> {
        async move { self.read_briefly(journal::last) }.boxed()
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| write::import(c, &run)).boxed()
    }

    fn rebuild(&self, run: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| write::rebuild(c, &run)).boxed()
    }

    fn delete_if<'a>(&'a self, run: &'a RunId, only: DeleteIf) -> BoxFuture<'a, Result<Deleted>> {
        let (run, clock) = (run.clone(), Arc::clone(&self.clock));
        self.write(move |c| write::delete(c, &run, &only, clock.as_ref())).boxed()
    }
}
