//! Drives runs, each in a task of its own, and tells those who follow them how that ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use wfhost_core::{Epoch, Failure, FailureKind, Machine, Outcome, RunId};
use wfhost_store::{RunState, SessionId, StoreError, Wake};
use wfhost_world::lock;

use super::claims::Opening;
use super::{AGAIN_AFTER, Current, From, InHand, Inner, Live, Ready, Room};
use crate::calls::{Calls, Registry};
use crate::drive::{Control, Done, Drive, DriveError, Driven, Leave, Pace};
use crate::handle::Ending;
use crate::host::{Evict, Host, HostError};
use crate::observer::Notice;
use crate::script::with_script;

/// One that fails for another reason is tried again after twice the time each time, up to this.
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// How long a run may only wait before its program is dropped from memory.
const PARK_GRACE: Duration = Duration::from_secs(2);
/// What is recorded of a run whose driver panicked.
const PANICKED: &str = "the host panicked while it advanced the run; its standard error says where";
/// A run that was claimed more often without coming forward is given up.
const MAX_STARTS: u32 = 5;

impl Inner {
    /// Drives a run in a task of its own, as soon as it is not driven here any more.
    pub fn begin(self: &Arc<Self>, in_hand: InHand, from: From) {
        let run = in_hand.run().clone();
        let current = from.current();
        let control = Control::under(current.lease.clone());
        if self.crowded.load(Ordering::Relaxed) {
            control.crowd();
        }
        let live = Arc::new(Live {
            session: current.session,
            epoch: AtomicU64::new(from.epoch().0),
            doubtful: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            control,
        });
        {
            let mut state = lock(&self.state);
            if state.closing {
                // It is given up with the session.
                return;
            }
            if let Some(before) = state.live.get(&run) {
                before.reclaimed_at(from.epoch());
                // Its place is kept while the driver before it leaves.
                state.reserved += 1;
                drop(state);
                let room = Room { inner: Arc::clone(self), places: 1 };
                let inner = Arc::clone(self);
                tokio::spawn(async move {
                    inner.is_not_live(in_hand.run()).await;
                    inner.begin(in_hand, from);
                    drop(room);
                });
                return;
            }
            if state.in_hand.get(&run).is_some_and(|hand| hand.woken) {
                // What was read with the claim is not all.
                self.tell(&run, &live);
            }
            state.live.insert(run.clone(), Arc::clone(&live));
        }
        in_hand.let_go();
        let entered = Entered { inner: Arc::clone(self), run };
        tokio::spawn(async move {
            let Entered { inner, run } = &entered;
            let driven = inner.drive(run, &live, from).await;
            inner.gate.leave_turns(run);
            let is_lost =
                matches!(driven, Ok(Driven::Lost | Driven::Reclaimed)) && !live.control.lease.is_lost();
            inner.report(run, &live, driven);
            if is_lost {
                // If nobody else has it after all, it is not to stay with this session.
                let inner = Arc::clone(inner);
                drop(entered);
                inner.doubt();
            }
        });
    }

    /// Tells those who follow the run how driving it ended.
    fn report(&self, run: &RunId, live: &Live, driven: Result<Driven, HostError>) {
        let ending = match driven {
            Ok(Driven::Ended(outcome)) => Some(Ok(Ending::Finished(outcome))),
            Ok(Driven::Refused(mismatch)) => {
                Some(Ok(Ending::Refused { reason: mismatch.to_string(), mismatch: Some(mismatch) }))
            }
            Ok(Driven::Paused) => Some(Ok(Ending::Paused)),
            // What that one makes of it is what counts.
            Ok(Driven::Left) if live.taken.load(Ordering::Relaxed) && !lock(&self.state).closing => None,
            Ok(Driven::Left) => Some(Ok(Ending::Stopped)),
            Ok(Driven::Continued(next)) => Some(Ok(Ending::Continued(next))),
            Ok(Driven::HandedOver(error)) => Some(Err(error.into())),
            Ok(Driven::Parked | Driven::Lost | Driven::Reclaimed) => None,
            Err(error) => Some(Err(error)),
        };
        if let (Some(watched), Some(ending)) = (self.watched(run), ending) {
            watched.end(ending);
        }
    }

    /// Drives a run as far as it goes.
    pub(super) async fn drive(
        self: &Arc<Self>,
        run: &RunId,
        live: &Live,
        from: From,
    ) -> Result<Driven, HostError> {
        let mut from = Some(from);
        let mut wait = AGAIN_AFTER;
        // Whether an append was refused because something had come in, and how far the journal went the last time.
        let (mut raced, mut raced_behind) = (false, None);
        loop {
            let driven = match from.take() {
                Some(from) => self.advance(run, live, from).await,
                None => match self.reopen(run, live).await {
                    Ok(Some(opened)) => {
                        live.epoch.store(opened.epoch.0, Ordering::Relaxed);
                        let rows = opened.rows.len();
                        // What is refused again and again is not to keep a processor busy.
                        if std::mem::take(&mut raced) && raced_behind.replace(rows) == Some(rows) {
                            live.rest(AGAIN_AFTER).await;
                        }
                        let current = Current { session: live.session, lease: live.control.lease.clone() };
                        from = Some(From::Opened(opened, current));
                        continue;
                    }
                    Ok(None) => return Ok(Driven::Lost),
                    Err(error) => Err(error.into()),
                },
            };
            let error = match driven {
                Err(HostError::Store(error) | HostError::Drive(DriveError::Store(error))) => error,
                other => return other,
            };
            self.trouble.send_if_modified(|trouble| {
                let news = error.is_passing() && trouble.as_ref() != Some(&error);
                if news {
                    *trouble = Some(error.clone());
                }
                news
            });
            let goes_on = match error {
                // Nobody is to claim it again behind the claim that another drive is to begin with.
                StoreError::Raced { .. } if live.control.leaving() == Leave::Reclaimed => {
                    return Ok(Driven::Reclaimed);
                }
                StoreError::Raced { .. } => {
                    raced = true;
                    true
                }
                // Who follows it is told, and decides.
                _ if self.watched(run).is_some() => false,
                _ if error.is_passing()
                    || matches!(error, StoreError::Failed { .. } | StoreError::Unknown { .. }) =>
                {
                    live.rest(wait).await;
                    if !error.is_passing() {
                        wait = (2 * wait).min(AGAIN_AT_MOST);
                    }
                    true
                }
                _ => false,
            };
            // One that is left gently has time for its calls, which go on.
            if !goes_on || live.control.leaving() >= Leave::Now {
                let epoch = Epoch(live.epoch.load(Ordering::Relaxed));
                self.release(run, live.session, epoch, error.to_string()).await;
                return Err(error.into());
            }
        }
    }

    /// A trouble that passes is over.
    pub(super) fn is_over(&self) {
        self.trouble.send_if_modified(|trouble| {
            let is_over = trouble.as_ref().is_some_and(StoreError::is_passing);
            if is_over {
                *trouble = None;
            }
            is_over
        });
    }

    /// Drives a run once.
    pub(super) async fn advance(
        self: &Arc<Self>,
        run: &RunId,
        live: &Live,
        from: From,
    ) -> Result<Driven, HostError> {
        let watched = self.watched(run);
        let ready = match from {
            From::Ready(ready) => *ready,
            From::Opened(opened, current) => {
                let epoch = opened.epoch;
                match self.open(*opened, current, None).await {
                    Ok(Opening::Ready(ready)) => *ready,
                    Ok(Opening::Stopped(outcome)) => {
                        self.calls.forget(run);
                        return Ok(Driven::Ended(outcome));
                    }
                    Err(error) => {
                        if !is_of_store(&error) {
                            self.release(run, live.session, epoch, error.to_string()).await;
                        }
                        return Err(error);
                    }
                }
            }
        };
        let Ready {
            current: Current { session, .. },
            epoch,
            starts,
            mut machine,
            module,
            project,
            imported,
            place,
            inbox,
        } = ready;
        if starts > MAX_STARTS {
            return self.give_up(run, session, epoch, starts, &machine).await;
        }
        machine.move_to(module.digest);
        let providers = match watched.as_ref().and_then(|watched| watched.providers()) {
            Some(providers) => providers,
            None => {
                let configured = project.as_ref().and_then(|project| self.configured.providers(project));
                let providers = configured.as_ref().unwrap_or(&self.providers);
                // A script writes to the file of calls that it names: one of strangers is not opened.
                match self.scripts && !imported {
                    true => {
                        let config = machine.started().config.clone();
                        with_script(self.store.as_ref(), providers, &config).await?
                    }
                    false => providers.clone(),
                }
            }
        };
        let (weak, host) = (Arc::downgrade(self), Arc::downgrade(self));
        let committed = Arc::new({
            let watched = watched.clone();
            move || {
                if let Some(watched) = &watched {
                    watched.changed.send_modify(|count| *count += 1);
                }
            }
        });
        let workflow = self.observer.as_ref().map(|_| machine.started().workflow.clone());
        if let Some(workflow) = &workflow {
            let entries = machine.entries();
            let queued = (entries == 1).then(|| self.world.now().since(machine.started_at()));
            let queued = queued.map(Duration::from_millis);
            self.see(Notice::Opened { run, workflow, entries, queued });
        }
        let calls = self.calls.of(run);
        let _kept = KeptOnPanic { registry: &self.calls, run, calls: Arc::clone(&calls) };
        let driven = Drive {
            engine: &self.engine,
            store: &self.store,
            world: &self.world,
            providers: &providers,
            gate: &self.gate,
            run,
            session,
            epoch,
            starts,
            module: &module,
            pace: match self.evict {
                _ if self.time.is_some() => Pace::WithoutDeadline(PARK_GRACE),
                Evict::AfterGrace => Pace::ParkAfter(PARK_GRACE),
                Evict::Always => Pace::ParkAtOnce,
            },
            control: &live.control,
            committed,
            wake: Arc::new(move |wakes: &[Wake]| {
                if let Some(inner) = Weak::upgrade(&weak) {
                    inner.wake_all(wakes);
                }
            }),
            child_goes_on: Arc::new(move |child: RunId, outcome: Outcome| {
                let host = Weak::upgrade(&host).map(Host::over);
                async move {
                    match host {
                        Some(host) => host.child_goes_on(&child, &outcome).await,
                        None => Err(StoreError::SessionOver.into()),
                    }
                }
                .boxed()
            }),
            modules: &self.named,
            project,
            imported,
            calls: Arc::clone(&calls),
            place,
            inbox,
            observer: self.observer.as_ref(),
            time: self.time.as_deref(),
        }
        .run(machine)
        .await;
        if let Some(workflow) = &workflow {
            let trouble = match &driven {
                Ok(Driven::HandedOver(error)) | Err(error) => Some(error.to_string()),
                // The text of a divergence quotes data of the run.
                Ok(_) => None,
            };
            let how = driven.as_ref().map_or("failed", Driven::word);
            self.see(Notice::Left { run, workflow, how, trouble: trouble.as_deref() });
        }
        match driven {
            Ok(Driven::Reclaimed) => {
                self.calls.keep(run, calls);
                // Those that are not made yet are made if the next drive still wants them.
                self.calls.leave(run);
                Ok(Driven::Reclaimed)
            }
            Ok(Driven::Lost) => {
                self.calls.keep(run, calls);
                Ok(Driven::Lost)
            }
            Ok(driven) => {
                self.calls.forget(run);
                Ok(driven)
            }
            Err(error) => {
                self.calls.keep(run, calls);
                let error = HostError::from(error);
                // The run stays as it was committed; somebody else may take it up.
                if !is_of_store(&error) {
                    self.release(run, session, epoch, error.to_string()).await;
                }
                Err(error)
            }
        }
    }

    /// A run that never comes forward, because its program brings down the host, is ended.
    pub(super) async fn give_up(
        &self,
        run: &RunId,
        session: SessionId,
        epoch: Epoch,
        starts: u32,
        machine: &Machine,
    ) -> Result<Driven, HostError> {
        let message = format!(
            "no-progress: the run was begun {} times without one new entry, so its program seems to \
             bring down the host",
            starts - 1
        );
        let outcome = Err(Failure::new(FailureKind::Failed, message));
        match self.end_where_it_stands(run, session, epoch, machine, &outcome).await {
            Ok(_) => Ok(Driven::Ended(machine.outcome().cloned().unwrap_or(outcome))),
            Err(StoreError::Fenced { .. } | StoreError::SessionOver) => Ok(Driven::Lost),
            Err(error) => Err(error.into()),
        }
    }

    /// What became of a run that somebody else advances, or nobody.
    pub async fn recorded_end(&self, run: &RunId) -> Result<Option<Ending>, HostError> {
        let info = self.store.run(run).await?.ok_or_else(|| HostError::NoSuchRun(run.clone()))?;
        if let Some(next) = info.links.next {
            return Ok(Some(Ending::Continued(next)));
        }
        Ok(match (info.state, info.outcome) {
            (RunState::Paused, _) => Some(Ending::Paused),
            (RunState::Refused, Some(Err(failure))) => {
                Some(Ending::Refused { reason: failure.message, mismatch: None })
            }
            (state, Some(outcome)) if state.is_final() => Some(Ending::Finished(outcome)),
            _ => None,
        })
    }
}

impl Live {
    /// This host has the run under a later claim than the one that it is driven under: for another process had it in
    /// between, nothing is committed under the earlier one any more. The next drive takes the calls over.
    pub(super) fn reclaimed_at(&self, epoch: Epoch) {
        if epoch.0 > self.epoch.load(Ordering::Relaxed) {
            self.control.leave(Leave::Reclaimed);
        }
    }

    /// Waits for so long, or until somebody wants the run to be left.
    async fn rest(&self, time: Duration) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(time) => {}
            () = self.control.left() => {}
        }
    }
}

/// A run is driven here as long as this lives.
struct Entered {
    inner: Arc<Inner>,
    run: RunId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = lock(&self.inner.state);
        let left = state.live.remove(&self.run);
        if let Some(time) = &self.inner.time {
            time.stirs(&self.run);
        }
        if let Some(live) = left {
            let epoch = Epoch(live.epoch.load(Ordering::Relaxed));
            if live.doubtful.load(Ordering::Relaxed) {
                self.inner.unsure.store(true, Ordering::Relaxed);
            } else if std::thread::panicking() {
                // Nobody else has given the run up, and the session would hold it as long as the host lives.
                let (inner, run) = (Arc::clone(&self.inner), self.run.clone());
                tokio::spawn(async move {
                    inner.release(&run, live.session, epoch, PANICKED.to_owned()).await;
                    inner.work.notify_one();
                });
            }
        }
        state.tell(&self.run);
        drop(state);
        self.inner.left.notify_waiters();
        self.inner.work.notify_one();
    }
}

/// Leaves the calls of a drive that panics to the next one, which gets their answers.
struct KeptOnPanic<'a> {
    registry: &'a Arc<Registry<Done>>,
    run: &'a RunId,
    calls: Arc<Calls<Done>>,
}

impl Drop for KeptOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.registry.keep(self.run, Arc::clone(&self.calls));
        }
    }
}

/// Whether the store failed, not the run.
pub(super) fn is_of_store(error: &HostError) -> bool {
    matches!(error, HostError::Store(_) | HostError::Drive(DriveError::Store(_)))
}
