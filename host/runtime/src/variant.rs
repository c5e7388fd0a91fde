//! The same programs in an engine with other settings than the usual one. The code of a component is the same for both:
//! it is compiled once, and loaded again.

use std::sync::{Mutex, PoisonError};

use wasmtime::Engine as Wasmtime;
use wasmtime::component::{Component, Linker};

use super::instance::RunCtx;
use super::recent::Recent;
use super::{Module, linker};
use crate::imports::WorkflowPre;
use crate::sandbox::link_denied;

pub(super) struct Variant {
    pub wasmtime: Wasmtime,
    linker: Linker<RunCtx>,
    programs: Mutex<Recent<WorkflowPre<RunCtx>>>,
}

impl Variant {
    pub fn new(wasmtime: Wasmtime) -> wasmtime::Result<Self> {
        let linker = linker(&wasmtime)?;
        Ok(Self { wasmtime, linker, programs: Mutex::default() })
    }

    /// The program of a module in this engine.
    ///
    /// # Errors
    ///
    /// The engine does not take it.
    pub fn program(&self, module: &Module) -> wasmtime::Result<WorkflowPre<RunCtx>> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(module.digest) {
            return Ok(program);
        }
        let program = self.load(module)?;
        programs.put(module.digest, program.clone(), module.bytes());
        Ok(program)
    }

    fn load(&self, module: &Module) -> wasmtime::Result<WorkflowPre<RunCtx>> {
        let code = module.pre.instance_pre().component().serialize()?;
        // SAFETY: the bytes were made by `Component::serialize` just now.
        let component = unsafe { Component::deserialize(&self.wasmtime, code) }?;
        let mut linker = self.linker.clone();
        link_denied(&mut linker, &self.wasmtime, &component)?;
        WorkflowPre::new(linker.instantiate_pre(&component)?)
    }
}
