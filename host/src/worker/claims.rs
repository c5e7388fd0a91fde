//! From a run in the store to a machine that has its journal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wfhost_core::{
    Digest, Epoch, Failure, FailureKind, Journal, Machine, Origin, Outcome, Position, RetryPlan, RunId, Step,
    Timestamp, plan_retry,
};
use wfhost_runtime::{Denied, Module};
use wfhost_store::{
    Append, ClaimHow, Claimed, Fence, NewRun, Next, Opened, SessionId, StoreError, Unreadable,
};
use wfhost_world::lock;

use super::driving::is_of_store;
use super::ending::LOOK_AGAIN_AFTER;
use super::{AGAIN_AFTER, Current, Inner, Live, Ready};
use crate::drive::asks_to_stop;
use crate::family::{self, Wanted};
use crate::host::HostError;

/// How long a driver that has committed its last, or whose run another process has, is waited for.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// What became of a run that was to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Back {
    Given,
    /// It was another's already.
    Lost,
    /// The store is in trouble: it is not known.
    Later,
}

/// What became of a claimed run that was to be made ready.
pub(super) enum Opening {
    Ready(Box<Ready>),
    /// It has ended.
    Stopped(Outcome),
}

impl Inner {
    /// Claims a run once more that this host has. None if it has lost it.
    pub(super) async fn reopen(
        self: &Arc<Self>,
        run: &RunId,
        live: &Live,
    ) -> Result<Option<Box<Opened>>, StoreError> {
        match self.store.claim(live.session, run, ClaimHow::AsItIs).await {
            Ok(Claimed::Yes(opened)) => {
                self.is_over();
                Ok(Some(opened))
            }
            Ok(Claimed::Unreadable(unreadable)) => {
                let Unreadable { epoch, error, .. } = *unreadable;
                match self.release(run, live.session, epoch, error.to_string()).await {
                    Back::Lost => Ok(None),
                    Back::Given | Back::Later => Err(error),
                }
            }
            Ok(Claimed::NotDue | Claimed::Held { .. } | Claimed::Ended | Claimed::NoSuchRun)
            | Err(StoreError::SessionOver | StoreError::Fenced { .. }) => Ok(None),
            Err(error) => {
                live.doubtful.store(true, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Gives a run up that cannot be advanced here, whatever this execution did. If the store is in
    /// trouble itself it is asked again and again, while others go on.
    pub(super) async fn release(
        self: &Arc<Self>,
        run: &RunId,
        session: SessionId,
        epoch: Epoch,
        trouble: String,
    ) -> Back {
        self.calls.leave(run);
        let next = Next::Release { waiting: None, trouble: Some(trouble) };
        let append = Append::new(run.clone(), session, epoch, Timestamp(0), next);
        let back = self.give_back(&append).await;
        if back == Back::Later {
            let inner = Arc::downgrade(self);
            self.spawn(async move {
                loop {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    let Some(inner) = inner.upgrade() else { return };
                    if inner.give_back(&append).await != Back::Later {
                        // When it is due again is known only now.
                        inner.work.notify_one();
                        return;
                    }
                }
            });
        }
        back
    }

    /// Gives a run up by that append.
    pub async fn give_back(&self, append: &Append) -> Back {
        // A session that ends gives everything up.
        if lock(&self.state).closing {
            return Back::Given;
        }
        let mut append = append.clone();
        loop {
            match self.store.append(append.clone()).await {
                Ok(_) => return Back::Given,
                Err(StoreError::Fenced { .. } | StoreError::SessionOver) => return Back::Lost,
                // One that had ended took what came in since it was claimed; it is lost with the rest.
                Err(StoreError::Raced { run }) if matches!(append.next, Next::End { .. }) => {
                    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
                    let Ok(all) = self.all_in_inbox(&run).await else { return Back::Later };
                    append.consumed = all;
                }
                Err(_) => return Back::Later,
            }
        }
    }

    /// Claims a run and reads it; or says why it cannot be had.
    pub async fn claim_and_open(
        self: &Arc<Self>,
        run: &RunId,
        how: ClaimHow,
        module: Option<&Module>,
    ) -> Result<Result<Ready, Claimed>, HostError> {
        let current = self.session().await?;
        let opened = match self.claim(run, how).await? {
            Claimed::Yes(opened) => opened,
            other => return Ok(Err(other)),
        };
        let epoch = opened.epoch;
        match self.open(*opened, current.clone(), module).await {
            Ok(Opening::Ready(ready)) => Ok(Ok(*ready)),
            Ok(Opening::Stopped(_)) => Ok(Err(Claimed::Ended)),
            Err(error) => {
                self.release(run, current.session, epoch, error.to_string()).await;
                Err(error)
            }
        }
    }

    /// Takes a run over if nobody living has it. One that cannot be read is an error.
    pub async fn claim(self: &Arc<Self>, run: &RunId, how: ClaimHow) -> Result<Claimed, HostError> {
        let current = self.session().await?;
        let session = current.session;
        if self.is_driven(run, session).await? {
            return Ok(Claimed::Held { session, owner: self.owner.clone(), left_ms: self.lease_ms });
        }
        let mut dead: Option<SessionId> = None;
        loop {
            let claimed = self.store.claim(session, run, how).await;
            match &claimed {
                Err(StoreError::SessionOver) => self.lose(&current),
                Err(_) => self.doubt(),
                Ok(_) => {}
            }
            match claimed? {
                Claimed::Held { session: holder, ref owner, .. }
                    if dead != Some(holder) && self.world.is_dead(owner) =>
                {
                    let runs = self.store.fence(holder, Fence::Dead).await?;
                    self.took_over(Fence::Dead, runs);
                    dead = Some(holder);
                }
                Claimed::Unreadable(unreadable) => {
                    let Unreadable { epoch, error, .. } = *unreadable;
                    let back = self.release(run, session, epoch, error.to_string()).await;
                    // Whoever took it from this host before it was read has changed it.
                    let lost = (back == Back::Lost).then(|| StoreError::Fenced { run: run.clone() });
                    return Err(lost.unwrap_or(error).into());
                }
                claimed => return Ok(claimed),
            }
        }
    }

    /// Whether this host drives a run and goes on to. A driver that has committed that it leaves is waited for: whoever
    /// reads in the store that nobody has the run is not told otherwise.
    async fn is_driven(&self, run: &RunId, session: SessionId) -> Result<bool, StoreError> {
        if !self.is_live(run) {
            return Ok(false);
        }
        let lease = self.store.run(run).await?.and_then(|info| info.lease);
        if lease.is_some_and(|lease| lease.id == session) {
            return Ok(true);
        }
        let left = tokio::time::timeout(LEAVES_WITHIN, self.is_not_live(run)).await;
        Ok(left.is_err())
    }

    /// Makes a claimed run ready to be driven. One that was asked to stop and whose module cannot be had is ended.
    pub(super) async fn open(
        &self,
        mut opened: Opened,
        current: Current,
        moved: Option<&Module>,
    ) -> Result<Opening, HostError> {
        let rows = std::mem::take(&mut opened.rows);
        let unusable = |source| HostError::Journal { run: opened.run.clone(), source };
        let journal = Journal::read(rows).map_err(unusable)?;
        let (mut machine, more_came) = match plan_retry(&journal, None, true) {
            // A run that had ended goes on from there.
            Ok(retry) => {
                let (machine, append) = self.take_up(&opened, &current, &retry, journal).await?;
                (machine, self.append_taken_up(&mut opened, append).await?)
            }
            Err(_) => (Machine::open(journal, opened.given).map_err(unusable)?, false),
        };
        let Opened { run, epoch, starts, module: digest, place, inbox, project, imported, .. } = opened;
        self.take_answers(&mut machine).await?;
        let module = match moved {
            Some(module) => module.clone(),
            None => {
                let name = machine.started().workflow.clone();
                match self.engine.ready(&name, digest).await {
                    Some(module) => module,
                    None => {
                        // Whoever dies while it is compiled says nothing about the program.
                        let count = |starts| self.store.set_starts(current.session, &run, epoch, starts);
                        count(starts.saturating_sub(1)).await?;
                        let module = match self.module(&run, digest, &name).await {
                            Ok(module) => module,
                            Err(error) if is_of_store(&error) => return Err(error),
                            Err(error) => {
                                if !machine.cancel_requested() && !asks_to_stop(&inbox) {
                                    return Err(error);
                                }
                                let message = "the run was asked to stop while its module could not be had";
                                let outcome = Err(Failure::new(FailureKind::Cancelled, message));
                                let session = current.session;
                                self.end_where_it_stands(&run, session, epoch, &machine, &outcome).await?;
                                return Ok(Opening::Stopped(machine.outcome().cloned().unwrap_or(outcome)));
                            }
                        };
                        count(starts).await?;
                        module
                    }
                }
            }
        };
        let inbox = (!more_came).then_some(inbox);
        let ready = Ready { current, epoch, starts, machine, module, project, imported, place, inbox };
        Ok(Opening::Ready(Box::new(ready)))
    }

    /// The machine of a claimed run that had ended and goes on, and what is to be committed for that: with the entry
    /// that says so the children begin which it waits for and never had.
    pub async fn take_up(
        &self,
        opened: &Opened,
        current: &Current,
        retry: &RetryPlan,
        mut journal: Journal,
    ) -> Result<(Machine, Append), HostError> {
        let Opened { run, epoch, emissions, given, project, imported, .. } = opened;
        let (before, now) = (journal.head, self.world.now());
        let ended = journal.entries.iter().filter_map(|entry| entry.event.ended_step());
        let ended: BTreeSet<Step> = ended.map(|(step, _)| step).collect();
        let row = retry.append(&mut journal, *emissions, now);
        let unusable = |source| HostError::Journal { run: run.clone(), source };
        let mut machine = Machine::open(journal, *given).map_err(unusable)?;
        machine.take_up(now);
        let mut children = Vec::new();
        if let Some(mut wanted) = Wanted::take(&mut machine) {
            if *imported {
                // What it still waits for may be on another machine, and be imported later.
                wanted.retain(|step| ended.contains(&step));
            }
            let lacking = wanted.lacking(self.store.as_ref(), run).await?;
            let found = self.named.find_all(self.store.as_ref(), lacking).await;
            let found = found.map_err(|error| error.into_error(run))?;
            let begun = family::start(&mut machine, found, now).into_iter();
            children.extend(begun.map(|child| NewRun {
                project: project.clone(),
                imported: *imported,
                ..child
            }));
        }
        let row = match machine.take_unsaved() {
            Some(more) => row.with(more.into()),
            None => row,
        };
        let append = Append {
            before,
            row: Some(row),
            questions: machine.open_questions(),
            children,
            ..Append::new(run.clone(), current.session, *epoch, machine.last_at(), Next::Go)
        };
        Ok((machine, append))
    }

    /// A run that was begun with the answers of another one is given them.
    pub async fn take_answers(&self, machine: &mut Machine) -> Result<(), StoreError> {
        if let Some(Origin::Reused { from }) = machine.started().origin.clone() {
            // If it was deleted everything is asked afresh.
            let rows = self.store.journal(&from, Position(0)).await?;
            if let Ok(journal) = Journal::read(rows) {
                machine.take_answers_from(&journal);
            }
        }
        Ok(())
    }

    /// Commits that. True if more came in since the claim than was opened: what says of a child that it could not be
    /// started.
    pub async fn append_taken_up(&self, opened: &mut Opened, append: Append) -> Result<bool, HostError> {
        let appended = self.store.append(append).await?;
        opened.place = appended.place.or(opened.place);
        self.wake_all(&appended.wake);
        Ok(appended.due)
    }

    /// A run's journal, read and checked.
    pub async fn journal(&self, run: &RunId) -> Result<Journal, HostError> {
        let rows = self.store.journal(run, Position(0)).await?;
        Journal::read(rows).map_err(|source| HostError::Journal { run: run.clone(), source })
    }

    pub async fn module(&self, run: &RunId, digest: Digest, name: &str) -> Result<Module, HostError> {
        let bytes = async {
            let bytes = self.store.module(digest).await?;
            bytes.ok_or_else(|| HostError::NoModule { run: run.clone(), digest })
        };
        // It was accepted when the run began.
        self.engine.load(name, digest, Denied::Trap, bytes).await
    }
}
