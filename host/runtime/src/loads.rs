//! Loading what takes long, for many at once: nothing twice at the same time, few concurrently, and what
//! was used last is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use wfhost_core::Digest;

use super::recent::Recent;

/// Components that are compiled at the same time. Each has threads of its own.
const COMPILING: usize = 2;

pub(crate) struct Loads<T> {
    /// Those that were used last.
    known: Mutex<Recent<T>>,
    /// Those that are being loaded, so that nobody loads them twice.
    loading: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    compiling: Semaphore,
}

impl<T> Default for Loads<T> {
    fn default() -> Self {
        let compiling = Semaphore::new(COMPILING);
        Self { known: Mutex::default(), loading: Mutex::default(), compiling }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone> Loads<T> {
    pub fn known(&self, digest: Digest) -> Option<T> {
        lock(&self.known).get(digest)
    }

    /// Keeps one of about so many bytes.
    pub fn keep(&self, digest: Digest, value: T, bytes: usize) {
        lock(&self.known).put(digest, value, bytes);
    }

    /// Waits until nobody else loads the same, then does `load`, which has to look again whether it is there.
    pub async fn one_at_a_time<R>(&self, digest: Digest, load: impl Future<Output = R>) -> R {
        let turn = Arc::clone(lock(&self.loading).entry(digest).or_default());
        let mine = turn.lock().await;
        let loaded = load.await;
        drop(mine);
        let mut loading = lock(&self.loading);
        // Whoever waits has one as well.
        if Arc::strong_count(&turn) == 2 {
            loading.remove(&digest);
        }
        loaded
    }

    /// Waits for the right to compile, which ends when it is dropped.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.compiling.acquire().await.ok()
    }
}
