//! Programs with a stack of their own size.
//!
//! wasmtime has one size for all programs of an engine, so each size has an engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wfhost_core::limits;

use super::variant::Variant;
use super::{Fitted, Module, address_space_is_limited, wasmtime};

/// An unsupported stack size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a stack has 1, 2, 4, 8 or 16 MiB, not {0} bytes")]
pub struct StackError(pub u64);

/// Whether programs can have a stack of so many bytes: a power of two from 1 to 16 MiB. They are few,
/// because each costs an engine and a copy of the code of its programs.
///
/// # Errors
///
/// They cannot.
pub fn check_stack(bytes: u64) -> Result<(), StackError> {
    let fits = bytes.is_power_of_two() && (1 << 20..=16 << 20).contains(&bytes);
    if fits { Ok(()) } else { Err(StackError(bytes)) }
}

/// The engines for other sizes than the usual one, made when they are needed.
#[derive(Default)]
pub(super) struct Stacks {
    engines: Mutex<HashMap<u64, Arc<Variant>>>,
}

impl Stacks {
    /// The module with a stack of so many bytes, which is not the usual size.
    pub fn fit(&self, module: &Module, bytes: u64) -> wasmtime::Result<Fitted> {
        check_stack(bytes)?;
        debug_assert_ne!(bytes, limits::STACK_BYTES);
        let sized = self.engine(bytes)?;
        Ok(Fitted { program: sized.program(module)?, wasmtime: sized.wasmtime.clone(), place: None })
    }

    fn engine(&self, bytes: u64) -> wasmtime::Result<Arc<Variant>> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&bytes) {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Variant::new(wasmtime(bytes, address_space_is_limited())?)?);
        engines.insert(bytes, Arc::clone(&engine));
        Ok(engine)
    }
}
