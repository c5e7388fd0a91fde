//! Panics tell the host what happened before they trap.

use std::panic::PanicHookInfo;

use crate::bindings::wfhost::workflow::log as host;

/// Without it a panic on `wasm32-unknown-unknown` is a trap that says nothing.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!("{}:{}:{}", at.file(), at.line(), at.column()));
        host::panicked(message(info), place.as_deref());
    }));
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic whose payload is no text")
}
