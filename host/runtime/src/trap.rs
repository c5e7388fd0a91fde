//! Why a program came to a bad end, as its author wants to read it.

use wasmtime::WasmBacktrace;
use wfhost_core::{Failure, FailureKind};

use super::instance::{OutOfMemory, Shared, limit_message};
use super::source::{self, Frame, Sources};
use crate::imports::Misuse;

/// What the failure of a program's execution means. `module` gives the bytes of the program's
/// module, and is asked for them only if they are needed.
///
/// # Errors
///
/// Those of reading the module, which tells where in the source it happened.
pub async fn explain<E>(
    error: &wasmtime::Error,
    shared: &Shared,
    module: impl Future<Output = Result<Option<Vec<u8>>, E>>,
) -> Result<Failure, E> {
    if let Some(Misuse(failure)) = error.downcast_ref::<Misuse>() {
        return Ok(failure.clone());
    }
    if let Some((message, place)) = shared.lock().panic.take() {
        let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
        return Ok(Failure::new(FailureKind::Failed, format!("the program panicked{place}: {message}")));
    }
    if let Some(memory) = error.root_cause().downcast_ref::<OutOfMemory>() {
        return Ok(Failure::new(FailureKind::Failed, memory.to_string()));
    }
    let is_unreachable =
        matches!(error.downcast_ref::<wasmtime::Trap>(), Some(wasmtime::Trap::UnreachableCodeReached));
    if let Some((place, message)) = shared.lock().last_words.take().filter(|_| is_unreachable) {
        let place = if place.is_empty() { place } else { format!(" at {place}") };
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        return Ok(Failure::new(FailureKind::Failed, format!("the program panicked{place}{message}")));
    }
    let place = place_of(error, module).await?;
    let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
    let root = error.root_cause();
    let message = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::OutOfFuel) => {
            if let Some(failure) = shared.lock().last_fuel.take() {
                return Ok(failure);
            }
            let fuel = shared.lock().machine.started().config.fuel;
            format!("the program used up its {fuel} units of fuel between two steps{place}")
        }
        Some(wasmtime::Trap::StackOverflow) => format!("the program ran out of stack{place}"),
        Some(trap) => format!("the program trapped{place}: {trap}"),
        None => limit_message(&root.to_string(), &shared.lock().machine.started().config)
            .unwrap_or_else(|| format!("the program was stopped{place}: {root}")),
    };
    Ok(Failure::new(FailureKind::Failed, message))
}

/// The innermost frame that has debug information.
async fn place_of<E>(
    error: &wasmtime::Error,
    module: impl Future<Output = Result<Option<Vec<u8>>, E>>,
) -> Result<Option<Frame>, E> {
    let offsets = error.downcast_ref::<WasmBacktrace>().map(source::offsets).unwrap_or_default();
    if offsets.is_empty() {
        return Ok(None);
    }
    let bytes = module.await?.unwrap_or_default();
    Ok(Sources::read(&bytes).frames(&offsets).into_iter().next())
}
