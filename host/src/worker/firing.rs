//! Begins the runs of schedules.

use wfhost_core::Timestamp;
use wfhost_store::schedule::{Firing, LastRun, Schedule};
use wfhost_store::{Fire, StoreError};
use wfhost_world::lock;

use super::Inner;
use crate::family::latest_round;
use crate::observer::Notice;

/// Schedules that are looked at between two looks for runs.
const FIRINGS_AT_ONCE: usize = 64;

impl Inner {
    /// Begins the runs of schedules that are due. Gives in how many milliseconds there is more to do.
    pub(super) async fn fire_schedules(&self) -> Result<Option<u64>, StoreError> {
        // Behind those that were looked at the last time: some may wait for long.
        let behind = lock(&self.schedules_behind).take();
        let schedules = self.store.due_schedules(behind, FIRINGS_AT_ONCE).await?;
        let more = schedules.more.is_some();
        *lock(&self.schedules_behind) = schedules.more;
        let now = self.world.now();
        let mut fired = false;
        for schedule in schedules.due {
            // One that cannot be fired is tried again at the next look; the others are not kept from it.
            fired |= self.fire(&schedule, now).await.unwrap_or(false);
        }
        // One that is behind may be due again, after what else is.
        Ok(if fired || more { Some(0) } else { schedules.next_in_ms })
    }

    /// Fires a schedule, unless another host has. False if nothing changed.
    pub(super) async fn fire(&self, schedule: &Schedule, now: Timestamp) -> Result<bool, StoreError> {
        let Some(due) = schedule.next_at else { return Ok(false) };
        let last = match &schedule.last {
            Some(run) => match self.store.run(run).await? {
                Some(info) => Some(latest_round(self.store.as_ref(), info).await?),
                None => None,
            },
            None => None,
        };
        let last_run = match &last {
            None => LastRun::None,
            Some(info) if info.state.is_final() => LastRun::Ended(info.updated_at),
            Some(_) => LastRun::GoesOn,
        };
        let fire = |next, run, cancel| Fire { schedule: schedule.name.clone(), due, next, run, cancel };
        let (at, next, cancel) = match schedule.firing(due, now, last_run) {
            Firing::Wait => return Ok(false),
            Firing::Skip { next } => return self.store.fire(fire(next, None, None)).await,
            Firing::Run { at, next, cancel } => (at, next, cancel),
        };
        let cancel = last.filter(|_| cancel).map(|info| info.id);
        for again in [false, true] {
            // Without random numbers no run can begin anywhere; the next look tries again.
            let Ok(run) = schedule.run(at, now, again) else { return Ok(false) };
            let (id, workflow) = (run.id.clone(), run.workflow.clone());
            match self.store.fire(fire(next, Some(run), cancel.clone())).await {
                Err(StoreError::IdTaken { .. } | StoreError::IdUsed { .. }) if !again => {}
                fired => {
                    if fired == Ok(true) {
                        self.see(Notice::Created { run: &id, workflow: &workflow });
                    }
                    if let Some(run) = &cancel {
                        self.wake(run);
                        // It may have continued since it was looked at.
                        if let Ok(Some(info)) = self.store.run(run).await
                            && let Ok(latest) = latest_round(self.store.as_ref(), info).await
                        {
                            self.wake(&latest.id);
                        }
                    }
                    return fired;
                }
            }
        }
        Ok(false)
    }
}
