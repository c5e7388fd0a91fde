//! The embedding API: a host advances runs and keeps them in a store.

mod error;
mod modules;
mod options;
mod post;
mod replay;
mod resume;
mod retry;
mod start;
mod terminate;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use tokio::sync::Notify;
use wfhost_agents::Gate;
use wfhost_core::{Journal, RunId, Timestamp};
use wfhost_runtime::Engine;
use wfhost_store::{Append, ClaimHow, Claimed, RunInfo, SharedStore, StoreError};
use wfhost_world::owner;

pub use self::error::HostError;
pub use self::options::{Adopt, Configurations, Evict, HostOptions};
pub use self::post::{check_reason, post};
pub use self::resume::ResumeOptions;
pub use self::start::{StartOptions, Submitted};
use crate::described::Descriptions;
use crate::drive::Leave;
use crate::family::Modules;
use crate::handle::RunHandle;
use crate::observer::Notice;
use crate::virtual_time::{Ahead, VirtualTime};
use crate::worker::{Back, InHand, Inner, State};

/// Advances runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

impl Host {
    /// A host over a store. Has to be called within a tokio runtime.
    pub fn new(mut options: HostOptions) -> Result<Self, HostError> {
        let work: Arc<Notify> = Arc::default();
        let time = options.virtual_time.then(|| Arc::new(VirtualTime::new(Arc::clone(&work))));
        if let Some(time) = &time {
            options.world = Arc::new(Ahead { world: options.world, time: Arc::clone(time) });
        }
        let inner = Arc::new(Inner {
            engine: match options.engine {
                Some(engine) => engine,
                None => Arc::new(Engine::new(options.cache)?),
            },
            store: options.store,
            owner: options.world.owner(),
            world: options.world,
            providers: options.providers,
            gate: match &options.observer {
                Some(observer) => Arc::new(Gate::observed(Arc::clone(observer) as _)),
                None => Arc::default(),
            },
            observer: options.observer,
            evict: options.evict,
            adopt: options.adopt,
            projects: options.projects,
            configured: options.configured,
            scripts: options.scripts,
            lease_ms: options.lease_ms,
            look_every: options.look_every,
            max_live: options.max_live,
            state: Mutex::new(State::default()),
            named: Modules::default(),
            descriptions: Descriptions::default(),
            current: tokio::sync::Mutex::default(),
            calls: Arc::default(),
            trouble: tokio::sync::watch::channel(None).0,
            crowded: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            settle_again: Mutex::default(),
            schedules_behind: Mutex::default(),
            settling: tokio::sync::RwLock::default(),
            tasks: Mutex::default(),
            work,
            time,
            left: Notify::new(),
            going: Once::new(),
        });
        Ok(Self { inner })
    }

    pub(crate) fn over(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Takes up what is due from now on, as [`HostOptions::adopt`] says. The first run that is
    /// started, resumed or watched does so too.
    pub fn serve(&self) {
        self.inner.set_going();
    }

    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    pub(crate) fn descriptions(&self) -> &Descriptions {
        &self.inner.descriptions
    }

    /// The number of runs that are driven at this moment.
    pub fn live(&self) -> usize {
        self.inner.live()
    }

    /// Has the host look at once for what is due.
    pub fn wake(&self) {
        self.look_for_work();
    }

    /// Has the host look for work at once.
    pub(crate) fn look_for_work(&self) {
        self.inner.work.notify_one();
    }

    /// Follows a run to its end without claiming it.
    pub fn watch(&self, id: &RunId) -> RunHandle {
        let follower = self.inner.watch(id, None);
        self.serve();
        self.inner.work.notify_one();
        RunHandle::new(id.clone(), Arc::clone(&self.inner), follower)
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        self.inner.journal(run).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.world.now()
    }

    pub(crate) fn see(&self, notice: Notice<'_>) {
        self.inner.see(notice);
    }

    pub(crate) async fn take_in_hand(&self, id: &RunId) -> InHand {
        self.inner.take_in_hand(id).await
    }

    pub(crate) async fn claim(&self, id: &RunId, how: ClaimHow) -> Result<Claimed, HostError> {
        self.inner.claim(id, how).await
    }

    fn refused(&self, id: &RunId, claimed: Claimed) -> HostError {
        let run = id.clone();
        match claimed {
            Claimed::Held { owner, .. } => HostError::Held { run, owner },
            Claimed::NoSuchRun => HostError::NoSuchRun(run),
            Claimed::Unreadable(unreadable) => unreadable.error.into(),
            Claimed::Ended | Claimed::NotDue | Claimed::Yes(_) => HostError::Ended { run },
        }
    }

    /// Gives a run back that was claimed for a moment only.
    async fn give_up_claim(&self, back: Append) {
        if self.inner.give_back(&back).await == Back::Later {
            self.doubt();
        }
    }

    /// A run that was claimed could not be given back: what is not driven here is given up.
    pub(crate) fn doubt(&self) {
        self.inner.doubt();
    }

    /// Takes up nothing new and leaves all runs. With a grace, calls in flight
    /// are waited for so long; what is left then is dropped, and made again by
    /// whoever goes on. Gives the number of runs that had to be left so.
    pub async fn close(&self, grace: Option<Duration>) -> usize {
        if let Some(grace) = grace {
            self.inner.close(Leave::Gently);
            let _ = tokio::time::timeout(grace, self.empty()).await;
        }
        let dropped = self.live();
        self.inner.close(Leave::Now);
        self.empty().await;
        // What was claimed and not driven is for others now.
        self.inner.end_session().await;
        dropped
    }

    /// Waits until something keeps this host from its work, or does no more, and gives it: a full
    /// disk, a database that is locked, or gone. Each is told once.
    pub async fn store_error(&self, known: &Option<StoreError>) -> Option<StoreError> {
        let mut troubles = self.inner.trouble.subscribe();
        // The sender lives as long as this.
        match troubles.wait_for(|trouble| trouble != known).await {
            Ok(trouble) => trouble.clone(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until no run is driven.
    async fn empty(&self) {
        loop {
            let left = self.inner.left.notified();
            if self.live() == 0 {
                return;
            }
            left.await;
        }
    }
}

/// Whether somebody living advances the run.
pub fn is_held(info: &RunInfo) -> bool {
    info.lease.as_ref().is_some_and(|session| session.left_ms > 0 && !owner::is_dead(&session.owner))
}
