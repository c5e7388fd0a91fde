//! Replaying without effects: does a module agree with a journal?

use std::sync::Arc;

use wfhost_core::{Machine, Mismatch, Stop};

use super::instance::Shared;
use super::{DriveError, Engine, Module, instance};
use crate::imports::returned;
use crate::world::World;

/// Lets the module repeat a journal. Nothing is carried out and nothing
/// stored. `Ok(Ok)`: the module agrees with all of it and would go on from
/// there, or has come to the same end.
pub(crate) async fn replay(
    engine: &Engine,
    module: &Module,
    machine: Machine,
    world: &Arc<dyn World>,
) -> Result<Result<(), Box<Mismatch>>, DriveError> {
    let shared = Shared::new(machine, Arc::clone(world));
    let (run, config, input) = {
        let inner = shared.lock();
        let started = inner.machine.started();
        (started.run.clone(), started.config.clone(), started.input.as_str().to_owned())
    };
    let unfit = |error: wasmtime::Error| DriveError::Instance(format!("{error:#}"));
    let grants = engine.grants(&config).await.map_err(|source| DriveError::Grant { run, source })?;
    let mut store = instance::store(engine, shared.clone(), &config, grants).map_err(unfit)?;
    let program = async {
        let workflow = module.pre.instantiate_async(&mut store).await?;
        let result = workflow.call_run(&mut store, &input).await?;
        returned(result)
    };
    let mut program = Box::pin(program);
    let ended = loop {
        if let std::task::Poll::Ready(ended) = futures_util::poll!(&mut program) {
            break ended;
        }
        let inner = shared.lock();
        if inner.machine.has_unsaved() || inner.blocked && inner.machine.is_live() {
            return Ok(Ok(()));
        }
        drop(inner);
        // Pre-empted in the middle of a computation.
        tokio::task::yield_now().await;
    };
    let stop = match ended {
        Ok(outcome) => shared.lock().machine.finish(outcome, world.now()).err(),
        Err(error) => error.downcast_ref::<Stop>().cloned(),
    };
    Ok(match stop {
        Some(Stop::Mismatch(mismatch)) => Err(mismatch),
        _ => Ok(()),
    })
}
