//! Why a program came to a bad end, as its author wants to read it.

use std::fmt;

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

/// A place in the source of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The function as its author wrote it, if its name is known.
    pub function: Option<String>,
    /// As the compiler was given it.
    pub file: String,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Frame {
    /// `file:line:column`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The frames that have debug information, the innermost first. The standard
/// library's own lines help nobody and are left out.
pub(super) fn frames(backtrace: &wasmtime::WasmBacktrace) -> Vec<Frame> {
    let symbols = backtrace.frames().iter().flat_map(|frame| frame.symbols());
    symbols
        .filter_map(|symbol| {
            let (file, line) = (symbol.file()?, symbol.line()?);
            (!is_standard_library(file)).then(|| Frame {
                function: symbol.name().map(|name| rustc_free(name).to_owned()),
                file: file.to_owned(),
                line,
                column: symbol.column().unwrap_or(1),
            })
        })
        .collect()
}

/// Rust's, as the different distributions of the compiler spell its place.
fn is_standard_library(file: &str) -> bool {
    file.starts_with("library/")
        || ["/rustc/", "/rust/library/", "/rustc-"].iter().any(|place| file.contains(place))
}

/// A demangled name without the digest that rustc appends.
fn rustc_free(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, digest)) if digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            path
        }
        _ => name,
    }
}

/// The innermost frame that has debug information.
fn place_of(error: &wasmtime::Error) -> Option<Frame> {
    frames(error.downcast_ref::<wasmtime::WasmBacktrace>()?).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_standard_library_is_left_out() {
        assert!(is_standard_library("/rustc/59807616e1/library/std/src/panicking.rs"));
        assert!(is_standard_library("/usr/lib/rustlib/src/rust/library/core/src/future.rs"));
        assert!(!is_standard_library("/home/ada/library/src/lib.rs"));
    }

    #[test]
    fn names_lose_the_digest_that_only_the_linker_needs() {
        assert_eq!(rustc_free("probe::perform::h0123456789abcdef"), "probe::perform");
        assert_eq!(rustc_free("probe::hello"), "probe::hello");
        assert_eq!(rustc_free("main"), "main");
    }
}
