//! Following a run to its end, whichever process advances it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wfhost_core::{Mismatch, Outcome, RunId};
use wfhost_store::StoreError;
use wfhost_world::lock;

use crate::host::HostError;
use crate::worker::{Follower, Inner, Watched};

/// Something may have changed that nobody told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Commits within this time of a look are looked at together.
const GATHER: Duration = Duration::from_millis(10);

/// How following a run came to an end.
#[derive(Clone, Debug)]
pub enum Ending {
    Finished(Outcome),
    /// Its module diverges from its journal. Nothing was executed.
    Refused {
        reason: String,
        /// None if another process found out.
        mismatch: Option<Box<Mismatch>>,
    },
    /// It continues as that run: see [`RunHandle::follow_on`].
    Continued(RunId),
    /// Somebody asked for it to be left alone.
    Paused,
    /// It was left where it is, by [`RunHandle::stop`].
    Stopped,
}

/// A run that is followed. While this lives, its host takes the run up
/// whenever it is due. Several may follow the same run, and each is told all.
#[derive(Debug)]
pub struct RunHandle {
    pub id: RunId,
    /// The run was started for this handle. If not, it was there before, for example by its key.
    pub is_new: bool,
    inner: Arc<Inner>,
    watched: Arc<Watched>,
    changes: watch::Receiver<u64>,
    /// The run may have ended.
    over: watch::Receiver<u64>,
    /// The endings that were told before this follower came, or that it has taken.
    heard: u64,
    /// When something was looked at last.
    looked: Option<Instant>,
}

impl RunHandle {
    pub(crate) fn new(id: RunId, inner: Arc<Inner>, follower: Follower) -> Self {
        let Follower { watched, changes, over, heard } = follower;
        Self { id, is_new: false, inner, watched, changes, over, heard, looked: None }
    }

    /// Waits until something may have been committed. What follows closely comes together, a
    /// hundred times a second at most; the end comes at once.
    pub async fn changed(&mut self) {
        let changes = async {
            if let Some(looked) = self.looked {
                tokio::time::sleep_until(looked + GATHER).await;
            }
            // An error means that the sender is gone, which this handle keeps.
            let _ = self.changes.changed().await;
        };
        tokio::select! {
            _ = self.over.changed() => {}
            _ = tokio::time::timeout(LOOK_EVERY, changes) => {}
        }
        self.looked = Some(Instant::now());
    }

    /// How it ended, if it has.
    pub async fn ended(&mut self) -> Result<Option<Ending>, HostError> {
        if let Some(moved @ StoreError::Moved { .. }) = &*self.inner.trouble.borrow() {
            return Err(moved.clone().into());
        }
        let ended = self.look().await?;
        if ended.is_some() {
            // Nothing is done in a database that is not there any more.
            self.inner.store.check_place()?;
        }
        Ok(ended)
    }

    async fn look(&mut self) -> Result<Option<Ending>, HostError> {
        if let Some(ending) = self.told() {
            return ending.map(Some);
        }
        if self.inner.is_live(&self.id) {
            return Ok(None);
        }
        // What the last driver said may have come in just now.
        if let Some(ending) = self.told() {
            return ending.map(Some);
        }
        let left = self.inner.is_left(&self.id).then_some(Ending::Stopped);
        Ok(self.inner.recorded_end(&self.id).await?.or(left))
    }

    /// What the last driver said, if this follower has not heard it.
    fn told(&mut self) -> Option<Result<Ending, HostError>> {
        let endings = lock(&self.watched.endings);
        let heard = std::mem::replace(&mut self.heard, endings.count);
        endings.last.clone().filter(|_| heard < endings.count)
    }

    /// Waits until the run may have ended, whatever is committed before.
    pub async fn may_have_ended(&mut self) {
        let _ = tokio::time::timeout(LOOK_EVERY, self.over.changed()).await;
    }

    /// Waits for the end.
    pub async fn ending(&mut self) -> Result<Ending, HostError> {
        loop {
            if let Some(ending) = self.ended().await? {
                return Ok(ending);
            }
            self.may_have_ended().await;
        }
    }

    /// Follows the run that this one continues as, in the same way.
    #[must_use]
    pub fn follow_on(self, next: RunId) -> Self {
        let follower = self.inner.watch(&next, self.watched.providers());
        self.inner.work.notify_one();
        Self::new(next, self.inner, follower)
    }

    /// Leaves the run as soon as what it has is committed; calls in flight are
    /// dropped. It can be resumed at any time.
    pub fn stop(&self) {
        self.inner.leave(&self.id);
    }
}
