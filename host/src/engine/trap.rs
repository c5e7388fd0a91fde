//! Why a program came to a bad end, as its author wants to read it.

use wfhost_core::{Failure, FailureKind};

use super::instance::{OutOfMemory, Shared, limit_message};
use crate::imports::Misuse;

/// What the failure of a program's execution means.
pub(super) fn explain(error: &wasmtime::Error, shared: &Shared) -> Failure {
    if let Some(Misuse(failure)) = error.downcast_ref::<Misuse>() {
        return failure.clone();
    }
    if let Some((message, place)) = shared.lock().panic.take() {
        let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
        return Failure::new(FailureKind::Failed, format!("the program panicked{place}: {message}"));
    }
    let root = error.root_cause();
    if let Some(memory) = root.downcast_ref::<OutOfMemory>() {
        return Failure::new(FailureKind::Failed, memory.to_string());
    }
    let place = place_of(error).map(|place| format!(" at {place}")).unwrap_or_default();
    let message = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::OutOfFuel) => {
            if let Some(failure) = shared.lock().last_fuel.take() {
                return failure;
            }
            let fuel = shared.lock().machine.started().config.fuel;
            format!("the program used up its {fuel} units of fuel between two steps{place}")
        }
        Some(wasmtime::Trap::StackOverflow) => format!("the program ran out of stack{place}"),
        Some(trap) => format!("the program trapped{place}: {trap}"),
        None => limit_message(&root.to_string(), &shared.lock().machine.started().config)
            .unwrap_or_else(|| format!("the program was stopped{place}: {root}")),
    };
    Failure::new(FailureKind::Failed, message)
}

/// `file:line:column` of the innermost frame that has debug information.
fn place_of(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>()?;
    let symbols = backtrace.frames().iter().flat_map(|frame| frame.symbols());
    symbols
        .filter_map(|symbol| Some((symbol.file()?, symbol.line()?, symbol.column().unwrap_or(1))))
        .find_map(|(file, line, column)| {
            // The standard library's own lines help nobody.
            let own = !file.contains("/rustc/") && !file.contains("/library/");
            own.then(|| format!("{file}:{line}:{column}"))
        })
}
