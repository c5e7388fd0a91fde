//! Programs with a stack of their own size.
//!
//! wasmtime has one size for all programs of an engine, so each size has an engine. The code of a
//! component is the same for all of them: it is compiled once, and loaded again for another size.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::Engine as Wasmtime;
use wasmtime::component::{Component, Linker};
use wfhost_core::limits;

use super::instance::RunCtx;
use super::recent::Recent;
use super::{Module, address_space_is_limited, linker, wasmtime};
use crate::imports::WorkflowPre;
use crate::sandbox::link_denied;

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
    engines: Mutex<HashMap<u64, Arc<Sized>>>,
}

struct Sized {
    wasmtime: Wasmtime,
    linker: Linker<RunCtx>,
    programs: Mutex<Recent<WorkflowPre<RunCtx>>>,
}

/// A program in the engine that has its stack.
pub(super) struct Fitted {
    pub wasmtime: Wasmtime,
    pub program: WorkflowPre<RunCtx>,
}

impl Stacks {
    /// The module with a stack of so many bytes, which is not the usual size.
    pub fn fit(&self, module: &Module, bytes: u64) -> wasmtime::Result<Fitted> {
        check_stack(bytes)?;
        debug_assert_ne!(bytes, limits::STACK_BYTES);
        let sized = self.engine(bytes)?;
        let mut programs = sized.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let program = match programs.get(module.digest) {
            Some(program) => program,
            None => {
                let program = sized.load(module)?;
                programs.put(module.digest, program.clone(), module.bytes());
                program
            }
        };
        Ok(Fitted { wasmtime: sized.wasmtime.clone(), program })
    }

    fn engine(&self, bytes: u64) -> wasmtime::Result<Arc<Sized>> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&bytes) {
            return Ok(Arc::clone(engine));
        }
        let wasmtime = wasmtime(bytes, address_space_is_limited())?;
        let linker = linker(&wasmtime)?;
        let engine = Arc::new(Sized { wasmtime, linker, programs: Mutex::default() });
        engines.insert(bytes, Arc::clone(&engine));
        Ok(engine)
    }
}

impl Sized {
    fn load(&self, module: &Module) -> wasmtime::Result<WorkflowPre<RunCtx>> {
        let code = module.pre.instance_pre().component().serialize()?;
        // SAFETY: the bytes were made by `Component::serialize` just now.
        let component = unsafe { Component::deserialize(&self.wasmtime, code) }?;
        let mut linker = self.linker.clone();
        link_denied(&mut linker, &self.wasmtime, &component)?;
        WorkflowPre::new(linker.instantiate_pre(&component)?)
    }
}
