//! Takes up what is due, and notices what other processes commit.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use wfhost_core::{Epoch, RunId};
use wfhost_store::{Seen, SharedStore, StoreError, Unreadable, Wake, Wanted};
use wfhost_world::lock;

use super::{AGAIN_AFTER, From, Heard, Inner, Live};
use crate::host::{Adopt, HostError, post};

/// What is due is looked up again after this time, in case the clock was set.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Runs that become due within this time of a look are claimed together.
const GATHER: Duration = Duration::from_millis(1);
/// This many looks may follow each other sooner, so that a run that receives a signal right after a look does
/// not wait for the next one.
const AT_ONCE: u32 = 4;
/// Runs that are claimed together at most.
const CLAIMS_AT_ONCE: usize = 256;

impl Inner {
    /// Something was sent to a run.
    pub fn wake(&self, run: &RunId) {
        let mut state = lock(&self.state);
        state.hear(run);
        if let Some(live) = state.live.get(run) {
            self.tell(run, live);
        }
        drop(state);
        self.work.notify_one();
    }

    /// The same of several, and what else may be due.
    pub fn wake_all(&self, wakes: &[Wake]) {
        if wakes.is_empty() {
            return;
        }
        self.gate.slots_may_be_free();
        if wakes.iter().all(|wake| *wake == Wake::Limits) {
            return;
        }
        let mut state = lock(&self.state);
        for wake in wakes {
            match wake {
                Wake::Run(run) => {
                    state.hear(run);
                    if let Some(live) = state.live.get(run) {
                        self.tell(run, live);
                    }
                }
                Wake::Due | Wake::Limits => {}
                Wake::Gap => {
                    state.hear_of_all();
                    state.live.iter().for_each(|(run, live)| self.tell(run, live));
                }
            }
        }
        self.work.notify_one();
    }

    /// Has a run that is driven here look into its inbox.
    pub(super) fn tell(&self, run: &RunId, live: &Live) {
        if let Some(time) = &self.time {
            time.stirs(run);
        }
        live.control.inbox.notify_one();
    }

    /// If time is virtual and nothing has gone on since `changes` was read, skips to the next deadline.
    async fn skip_time(&self, changes: u64) -> Result<(), StoreError> {
        let Some(time) = &self.time else { return Ok(()) };
        let (woken, sent) = {
            let state = lock(&self.state);
            if state.reserved > 0 {
                return Ok(());
            }
            time.skip(changes, self.world.now(), state.live.keys())
        };
        let mut failed = None;
        for planned in sent {
            match post(&self.store, &planned.run, planned.body.clone()).await {
                Ok((_, run)) => self.wake(&run),
                Err(HostError::Store(error)) => {
                    time.put_back(planned);
                    failed.get_or_insert(error);
                }
                // One that has ended needs no signal any more.
                Err(_) => {}
            }
        }
        let state = lock(&self.state);
        for run in &woken {
            if let Some(live) = state.live.get(run) {
                self.tell(run, live);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY.max(self.look_every)
    }

    /// Takes up what is due.
    pub(super) async fn adopt_due(self: &Arc<Self>) -> Result<Found, StoreError> {
        let except = {
            let state = lock(&self.state);
            if state.closing {
                return Ok(Found { any: false, next: self.look_every() });
            }
            state.left.iter().chain(state.in_hand.keys()).cloned().collect()
        };
        let current = self.session().await?;
        self.settle_doubt(&current).await?;
        let families = match self.adopt {
            Adopt::Due => None,
            Adopt::Own => Some(self.own_families().await?),
        };
        if families.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Found { any: false, next: self.look_every() });
        }
        let fires = match self.adopt {
            Adopt::Due => self.fire_schedules().await,
            Adopt::Own => Ok(None),
        };
        // One schedule that fails holds up nothing, but may be due.
        let fired = !matches!(fires, Ok(None | Some(1..)));
        let fires = fires.unwrap_or(None);
        // Held until what is claimed is among the runs that are driven.
        let room = self.rooms(CLAIMS_AT_ONCE);
        let limit = room.places;
        let wanted = Wanted { projects: self.projects.clone(), families, except };
        let _hears = Hears::begin(self);
        let due = match self.store.claim_due(current.session, limit, wanted).await {
            Err(StoreError::SessionOver) => {
                // It was stopped for too long: another session begins.
                self.lose(&current);
                return Ok(Found { any: true, next: GATHER });
            }
            due => due.inspect_err(|_| self.doubt())?,
        };
        if !due.runs.is_empty() {
            // Something was written.
            self.is_over();
        }
        for claimed in due.runs {
            match claimed {
                Ok(opened) => {
                    match self.try_in_hand(&opened.run) {
                        Some(in_hand) => {
                            self.begin(in_hand, From::Opened(Box::new(opened), current.clone()));
                        }
                        // Whoever has it in hand claims it after this, or has; if not, it is given up again.
                        None => self.reclaimed(&opened.run, opened.epoch),
                    }
                }
                Err(Unreadable { run, epoch, error }) => {
                    self.release(&run, current.session, epoch, error.to_string()).await;
                }
            }
        }
        if limit == 0 && due.more {
            self.crowd();
        } else {
            self.crowded.store(false, Ordering::Relaxed);
        }
        let any = due.any || fired;
        if limit > 0 && due.more {
            return Ok(Found { any, next: GATHER });
        }
        let next = [fires, due.next_in_ms].into_iter().flatten().min();
        let look = self.look_every();
        Ok(Found { any, next: next.map_or(look, Duration::from_millis).min(look) })
    }

    /// A run that may be driven here was claimed once more, and no other drive begins with that.
    fn reclaimed(&self, run: &RunId, epoch: Epoch) {
        if let Some(live) = lock(&self.state).live.get(run) {
            live.reclaimed_at(epoch);
        }
    }

    /// The families of the runs that somebody follows here.
    pub(super) async fn own_families(&self) -> Result<Vec<RunId>, StoreError> {
        let followed: Vec<_> = {
            let state = lock(&self.state);
            let followed =
                state.watched.iter().filter_map(|(run, watched)| Some((run.clone(), watched.upgrade()?)));
            followed.collect()
        };
        let mut roots = BTreeSet::new();
        for (run, watched) in followed {
            if watched.root.get().is_none()
                && let Some(info) = self.store.run(&run).await?
            {
                // Two looks find the same.
                let _ = watched.root.set(info.links.root);
            }
            roots.extend(watched.root.get().cloned());
        }
        Ok(roots.into_iter().collect())
    }
}

/// What a look for work found.
pub(super) struct Found {
    /// Something was due.
    any: bool,
    /// The time until something else is.
    next: Duration,
}

/// Keeps in mind what is sent while runs are claimed together, until this is dropped.
struct Hears<'a>(&'a Inner);

impl<'a> Hears<'a> {
    fn begin(inner: &'a Inner) -> Self {
        lock(&inner.state).heard = Some(Heard::default());
        Self(inner)
    }
}

impl Drop for Hears<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).heard = None;
    }
}

/// Takes up what is due, whenever that is.
pub(super) async fn find_work(inner: Weak<Inner>) {
    let Some(work) = inner.upgrade().map(|inner| Arc::clone(&inner.work)) else { return };
    let mut paced = Instant::now();
    loop {
        let Some(strong) = inner.upgrade() else { return };
        // A store that fails shows it where it is used.
        let changes = strong.time.as_ref().map(|time| time.changes());
        let look = strong.begin_look();
        let mut adopted = strong.adopt_due().await;
        if let (Some(changes), Ok(found)) = (changes, &adopted)
            && found.next > GATHER
            && let Err(error) = strong.skip_time(changes).await
        {
            adopted = Err(error);
        }
        strong.end_look(&look, adopted.as_ref().is_ok_and(|found| !found.any));
        let wait = match adopted {
            Ok(found) => found.next,
            Err(error) if error.is_passing() => {
                strong.trouble.send_if_modified(|trouble| trouble.replace(error.clone()) != Some(error));
                AGAIN_AFTER
            }
            Err(_) => AGAIN_AFTER,
        };
        drop(strong);
        let looked = Instant::now();
        tokio::select! {
            biased;
            () = work.notified() => {}
            () = tokio::time::sleep_until(looked + wait) => {}
        }
        // Runs that end one after the other make room one after the other.
        paced = pace(paced, looked);
        tokio::time::sleep_until(paced).await;
    }
}

/// When the next look may be, after one at `looked` that might be at `paced`.
fn pace(paced: Instant, looked: Instant) -> Instant {
    let earliest = looked.checked_sub(GATHER * (AT_ONCE - 1)).unwrap_or(looked);
    paced.max(earliest) + GATHER
}

/// Notices what other processes write.
pub(super) async fn watch_others(inner: Weak<Inner>, store: SharedStore, mut seen: Seen) {
    loop {
        let wakes = store.wakes(&mut seen).await;
        let Some(inner) = inner.upgrade() else { return };
        match wakes {
            Ok(wakes) => {
                inner.wake_all(&wakes);
                // What is driven here tells its followers by itself.
                let state = lock(&inner.state);
                for (run, watched) in &state.watched {
                    if !state.live.contains_key(run)
                        && let Some(watched) = watched.upgrade()
                    {
                        watched.tell();
                    }
                }
            }
            Err(_) => {
                drop(inner);
                // What was seen is not known: everything is looked at the next time.
                seen = Seen::default();
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
