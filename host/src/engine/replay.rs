//! Repeating a journal without effects: does a module agree with it, what did
//! it write, and where does it ask for its steps?

use std::sync::Arc;

use wfhost_core::{Machine, Mismatch, Outcome, Step, Stop};

use super::instance::Shared;
use super::source::{Frame, Sources};
use super::stack::{Fitted, check_stack};
use super::{DriveError, Engine, Module, instance, trap};
use crate::imports::returned;
use crate::store::{Emission, SharedStore};
use crate::world::World;

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
    /// What the program gave out, from the number on that the machine was opened with.
    pub emissions: Vec<Emission>,
    /// Its steps in order, if it was traced.
    pub trace: Vec<Asked>,
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
    let (run, config, input) = {
        let mut inner = shared.lock();
        inner.trace = trace.then(Vec::new);
        let started = inner.machine.started();
        (started.run.clone(), started.config.clone(), started.input.as_str().to_owned())
    };
    let unfit = |error: wasmtime::Error| DriveError::Instance(format!("{error:#}"));
    check_stack(config.stack_bytes).map_err(|source| DriveError::Stack { run: run.clone(), source })?;
    let grants = engine.grants(&config).await.map_err(|source| DriveError::Grant { run, source })?;
    let Fitted { wasmtime, program } = engine.fit(module, &config).map_err(unfit)?;
    let mut instance = instance::store(&wasmtime, shared.clone(), &config, grants).map_err(unfit)?;
    let program = async {
        let workflow = program.instantiate_async(&mut instance).await?;
        let result = workflow.call_run(&mut instance, &input).await?;
        returned(result)
    };
    let mut program = Box::pin(program);
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
    let mut replayed = Replayed::default();
    let stop = match ended {
        None => None,
        Some(Ok(outcome)) => {
            crate::sandbox::end_lines(&mut shared.lock());
            replayed.outcome = Some(outcome.clone());
            shared.lock().machine.finish(outcome, world.now()).err()
        }
        Some(Err(error)) => match error.downcast_ref::<Stop>() {
            Some(stop) => Some(stop.clone()),
            None => {
                crate::sandbox::end_lines(&mut shared.lock());
                replayed.outcome = Some(Err(trap::explain(&error, &shared, store, module.digest).await?));
                None
            }
        },
    };
    if let Some(Stop::Mismatch(mismatch)) = stop {
        replayed.departs = Some(mismatch);
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
