//! What is kept besides runs: modules, transcripts, answers, schedules.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wfhost_core::{Digest, Json, RunId, Timestamp};

use super::open::file_id;
use super::{SqliteStore, read, schedules, write};
use crate::schedule::Schedule;
use crate::*;

impl Extras for SqliteStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let (digest, now) = (Digest::of(bytes), self.clock.now());
            let lately = write::millis(Timestamp(now.0.saturating_sub(BLOB_RENEWED_MS)));
            if self.read_briefly(|c| read::has_module(c, digest, lately))? {
                return Ok(digest);
            }
            let (name, bytes) = (name.to_owned(), bytes.to_owned());
            self.write(move |c| write::put_module(c, digest, &name, &bytes, now)).await?;
            Ok(digest)
        }
        .boxed()
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let bytes = self.read(|c| read::module(c, digest))?;
            match bytes {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    place: self.path.clone(),
                    reason: format!("the content of module {digest} has changed"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>> {
        async move { self.read_briefly(|c| read::module_info(c, digest)) }.boxed()
    }

    fn module_named<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<ModuleInfo>>> {
        async move { self.read_briefly(|c| read::module_named(c, name)) }.boxed()
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        async move { self.read(read::modules) }.boxed()
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_unused_modules(c, before)).boxed()
    }

    fn put_blob<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        async move {
            let (digest, now) = (Digest::of(bytes), self.clock.now());
            let lately = write::millis(Timestamp(now.0.saturating_sub(BLOB_RENEWED_MS)));
            if self.read_briefly(|c| read::has_blob(c, digest, lately))? {
                return Ok(digest);
            }
            let bytes = bytes.to_owned();
            self.write(move |c| write::put_blob(c, digest, &bytes, now)).await?;
            Ok(digest)
        }
        .boxed()
    }

    fn blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async move {
            let bytes = self.read(|c| read::blob(c, digest))?;
            match bytes {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Damaged {
                    place: self.path.clone(),
                    reason: format!("the content stored under {digest} has changed"),
                }),
                bytes => Ok(bytes),
            }
        }
        .boxed()
    }

    fn has_blobs(&self, before: Timestamp) -> BoxFuture<'_, Result<bool>> {
        async move {
            self.read(|c| {
                c.prepare_cached("SELECT 1 FROM blobs WHERE added_at < ?1")?.exists([write::millis(before)])
            })
        }
        .boxed()
    }

    fn delete_blobs(&self, before: Timestamp, except: Vec<Digest>) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_blobs(c, before, &except)).boxed()
    }

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        let run = run.clone();
        self.write(move |c| write::transcribe(c, &run, &lines)).boxed()
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.write(move |c| write::keep_answer(c, key, at, &reply)).boxed()
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        async move { self.read_briefly(|c| read::kept_answer(c, key)) }.boxed()
    }

    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.write(move |c| write::delete_old_answers(c, before)).boxed()
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.write(move |c| schedules::put_schedule(c, &schedule, replace)).boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>> {
        async move { self.read(read::schedules) }.boxed()
    }

    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| schedules::set_schedule(c, &name, next)).boxed()
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        let name = name.to_owned();
        self.write(move |c| schedules::delete_schedule(c, &name)).boxed()
    }

    fn due_schedules(
        &self,
        behind: Option<(Timestamp, String)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DueSchedules>> {
        async move {
            self.read_briefly(|c| {
                read::due_schedules(c, write::millis(self.clock.now()), behind.as_ref(), limit)
            })
        }
        .boxed()
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        let clock = Arc::clone(&self.clock);
        self.write(move |c| schedules::fire(c, &fire, clock.as_ref())).boxed()
    }

    fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn identity(&self) -> BoxFuture<'_, Result<String>> {
        let read = || self.read_briefly(|c| c.query_row("SELECT id FROM identity", [], |row| row.get(0)));
        async move { read() }.boxed()
    }

    fn check_place(&self) -> Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = || StoreError::Moved { place: self.path.clone() };
        if file_id(Path::new(&self.path)) != files.0 {
            return Err(moved());
        }
        let log = file_id(Path::new(&format!("{}-wal", self.path)));
        match files.1 {
            Some(known) if log != Some(known) => Err(moved()),
            _ => {
                files.1 = log;
                Ok(())
            }
        }
    }
}
