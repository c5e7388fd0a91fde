//! Repeating a journal without effects: does a module agree with it, what did
//! it write, and where does it ask for its steps?

use std::sync::Arc;

use wfhost_core::{Failure, FailureKind, Machine, Mismatch, Outcome, Position, Step, Stop};
use wfhost_runtime::{Engine, Frame, HostFault, Module, Shared, Sources, end_lines, trap};
use wfhost_store::{Emission, SharedStore};
use wfhost_world::World;

use super::DriveError;

/// A step, and where in the program's source it was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub step: Step,
    /// The innermost first. Empty without debug information.
    pub frames: Vec<Frame>,
}

/// What came of repeating a journal.
#[derive(Debug, Default)]
pub struct Replayed {
    /// None: the module agrees with all of it and would go on from there, or has come to the same
    /// end.
    pub departs: Option<Box<Mismatch>>,
    /// How the program ended; none if it would go on behind the journal's end.
    pub outcome: Option<Outcome>,
    /// It did not return: it trapped, reached a limit, or waits for nothing.
    pub stopped: bool,
    /// Behind the journal's end it only waits, for what the journal says.
    pub only_waits: bool,
    /// The position behind the last entry.
    pub entries: Position,
    /// What the program gave out, from the number on that the machine was opened with.
    pub emissions: Vec<Emission>,
    /// Its steps in order, if it was traced.
    pub trace: Vec<Asked>,
}

impl Replayed {
    /// Why a run may not be executed with this module from now on: it diverges from the journal, or
    /// it comes to its end and stops there of itself, where the run goes on today.
    pub fn refusal(self) -> Option<Box<Mismatch>> {
        let stops = match (&self.outcome, self.stopped) {
            (Some(Err(failure)), true) => Some(Mismatch::stopped(self.entries, &failure.message)),
            _ => None,
        };
        self.departs.or(stops.map(Box::new))
    }
}

/// Lets the module repeat a journal. Nothing is carried out and nothing
/// stored. `store` has the module; `trace`: find out where each step is asked for.
pub(crate) async fn replay(
    engine: &Engine,
    store: &SharedStore,
    module: &Module,
    machine: Machine,
    world: &Arc<dyn World>,
    trace: bool,
) -> Result<Replayed, DriveError> {
    let shared = Shared::new(machine, Arc::clone(world));
    let run = {
        let mut inner = shared.lock();
        inner.trace = trace.then(Vec::new);
        inner.machine.started().run.clone()
    };
    let cannot = |error| DriveError::cannot_execute(&run, error);
    let mut program = engine.execute(module, &shared).await.map_err(cannot)?;
    let ended = loop {
        if let std::task::Poll::Ready(ended) = futures_util::poll!(&mut program) {
            break Some(ended);
        }
        let came_through = {
            let inner = shared.lock();
            inner.machine.has_unsaved() || inner.blocked && inner.machine.is_live()
        };
        if came_through {
            break None;
        }
        // Pre-empted in the middle of a computation.
        tokio::task::yield_now().await;
    };
    let mut replayed = {
        let machine = &shared.lock().machine;
        let only_waits = ended.is_none() && !machine.has_unsaved();
        Replayed { entries: Position(machine.entries()), only_waits, ..Replayed::default() }
    };
    if ended.is_some() {
        end_lines(&mut shared.lock());
    }
    match ended {
        None => {}
        Some(Ok(outcome)) => {
            if let Err(Stop::Mismatch(mismatch)) = shared.lock().machine.returns(&outcome) {
                replayed.departs = Some(mismatch);
            }
            replayed.outcome = Some(outcome);
        }
        Some(Err(error)) => match error.downcast_ref::<Stop>() {
            Some(Stop::Mismatch(mismatch)) => replayed.departs = Some(mismatch.clone()),
            // The journal has an end there.
            Some(Stop::Ended) => {}
            Some(stop) => {
                replayed.stopped = true;
                replayed.outcome = Some(Err(Failure::new(FailureKind::Failed, stop.to_string())));
            }
            None => {
                if let Some(source) = HostFault::of(&error) {
                    return Err(DriveError::Host { run, source });
                }
                let failure = trap::explain(&error, &shared, store.module(module.digest)).await?;
                replayed.departs = shared.lock().machine.departure(&failure.message);
                replayed.stopped = true;
                replayed.outcome = Some(Err(failure));
            }
        },
    }
    let traced = {
        let mut inner = shared.lock();
        replayed.emissions = std::mem::take(&mut inner.emissions);
        inner.trace.take().unwrap_or_default()
    };
    if !traced.is_empty() {
        let bytes = store.module(module.digest).await?.unwrap_or_default();
        let sources = Sources::read(&bytes);
        let asked = |(step, offsets): (Step, Vec<_>)| Asked { step, frames: sources.frames(&offsets) };
        replayed.trace = traced.into_iter().map(asked).collect();
    }
    Ok(replayed)
}
