//! Tells an observer what the driver commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wfhost_core::{Glance, Machine, RunId, Step, Timestamp};
use wfhost_store::{Append, Next, RunState, StoreError};

use crate::observer::{Notice, Observer, StepEnd};

/// What is needed to tell what happens to a run.
pub(super) struct Watching {
    observer: Arc<dyn Observer>,
    run: RunId,
    workflow: String,
    began: Instant,
    /// None once the program has come through.
    replays: Option<u64>,
    started_at: Timestamp,
    /// The steps that are not done, as they are committed.
    open: HashMap<Step, (&'static str, Timestamp)>,
}

/// What an append will be, once it is committed.
pub(super) struct Pending {
    since: Instant,
    entries: u32,
    glances: Vec<Glance>,
    created: Vec<(RunId, String)>,
    end: Option<(RunState, Timestamp)>,
}

fn length(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(to.since(from))
}

impl Watching {
    pub fn new(observer: &Arc<dyn Observer>, machine: &Machine) -> Self {
        let open = machine.open_kinds().into_iter().map(|(step, kind, at)| (step, (kind, at)));
        Self {
            observer: Arc::clone(observer),
            run: machine.run().clone(),
            workflow: machine.started().workflow.clone(),
            began: Instant::now(),
            replays: Some(machine.entries()),
            started_at: machine.started_at(),
            open: open.collect(),
        }
    }

    /// The program is live.
    pub fn came_through(&mut self) {
        let Some(entries) = self.replays.take() else { return };
        let (run, workflow, took) = (&self.run, self.workflow.as_str(), self.began.elapsed());
        self.observer.see(Notice::CameThrough { run, workflow, entries, took });
    }

    pub fn failed(&self, error: &StoreError) {
        self.observer.see(Notice::Failed { run: Some(&self.run), error });
    }

    /// Reads what is about to be appended.
    pub fn read(append: &Append) -> Pending {
        let created = append.children.iter().map(|child| (child.id.clone(), child.workflow.clone()));
        let mut created: Vec<_> = created.collect();
        let end = match &append.next {
            Next::End { outcome, .. } => Some(RunState::of(Some(outcome))),
            Next::Continue { run } => {
                created.push((run.id.clone(), run.workflow.clone()));
                Some(RunState::Continued)
            }
            Next::Go | Next::Park(_) | Next::Release { .. } | Next::Pause { .. } | Next::Refuse { .. } => {
                None
            }
        };
        Pending {
            since: Instant::now(),
            entries: append.row.as_ref().map_or(0, |row| row.count),
            glances: append.row.iter().flat_map(|row| row.glances()).collect(),
            created,
            end: end.map(|state| (state, append.at)),
        }
    }

    /// It is committed. `is_open`: whether the machine has a step as open.
    pub fn tell(&mut self, pending: Pending, is_open: impl Fn(Step) -> bool) {
        let Pending { since, entries, glances, created, end } = pending;
        let see = |seen| self.observer.see(seen);
        let (run, workflow) = (&self.run, self.workflow.as_str());
        see(Notice::Appended { run, entries, took: since.elapsed() });
        let step = |step, (kind, from): (&'static str, Timestamp), end, at| {
            see(Notice::Step { run, workflow, step, kind, end, after: length(from, at) });
        };
        // A signal that came in, or that was there before it was waited for, ends a step without saying which.
        let mut signals = None;
        for glance in glances {
            match glance {
                Glance::Scheduled { step, kind, at } => {
                    self.open.insert(step, (kind, at));
                    if kind == "signal" {
                        signals = Some(at);
                    }
                }
                Glance::Ended { step: id, ok, at } => {
                    if let Some(known) = self.open.remove(&id) {
                        step(id, known, if ok { StepEnd::Completed } else { StepEnd::Failed }, at);
                    }
                }
                Glance::Cancelled { step: id, at } => {
                    if let Some(known) = self.open.remove(&id) {
                        step(id, known, StepEnd::Cancelled, at);
                    }
                }
                Glance::AllCancelled { at } => {
                    for (id, known) in self.open.drain() {
                        step(id, known, StepEnd::Cancelled, at);
                    }
                }
                Glance::Received { at } => {
                    see(Notice::Received { run });
                    signals = Some(at);
                }
                Glance::Other => {}
            }
        }
        if let Some(at) = signals {
            self.open.retain(|id, known| {
                let waits = known.0 != "signal" || is_open(*id);
                if !waits {
                    step(*id, *known, StepEnd::Completed, at);
                }
                waits
            });
        }
        for (run, workflow) in &created {
            see(Notice::Created { run, workflow });
        }
        if let Some((state, at)) = end {
            see(Notice::Ended { run, workflow, state, after: length(self.started_at, at) });
        }
    }
}
