//! Compiled components for others than workflows: compiled once, by the same means and into the same cache.

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::Engine as Wasmtime;
use wasmtime::component::Component;
use wfhost_core::{Digest, limits};

use super::loads::Loads;
use super::{Cache, ModuleError, address_space_is_limited, blocking, bounds, compile, wasmtime};

/// Compiles components, and keeps what it compiled.
pub struct Components {
    wasmtime: Wasmtime,
    cache: Arc<Cache>,
    loads: Loads<Component>,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Components").field("cache", &self.cache).finish_non_exhaustive()
    }
}

impl Components {
    /// Keeps compiled components below `cache`, or nowhere.
    pub fn new(cache: Option<PathBuf>) -> Result<Self, ModuleError> {
        let wasmtime = wasmtime(limits::STACK_BYTES, address_space_is_limited())
            .map_err(|error| ModuleError::Engine(format!("{error:#}")))?;
        let cache = Arc::new(Cache::new(cache, &wasmtime));
        Ok(Self { wasmtime, cache, loads: Loads::default() })
    }

    /// The engine that the components are compiled for.
    pub fn engine(&self) -> &Wasmtime {
        &self.wasmtime
    }

    /// The component with this digest, compiled beside the runtime's workers if it has to be. `bytes` are asked for
    /// only if they are needed.
    ///
    /// # Errors
    ///
    /// Those of `bytes`, and those of a component that cannot be compiled.
    pub async fn load<E: From<ModuleError>>(
        &self,
        digest: Digest,
        bytes: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Component, E> {
        if let Some(known) = self.loads.known(digest) {
            return Ok(known);
        }
        self.loads.one_at_a_time(digest, self.load_now(digest, bytes)).await
    }

    async fn load_now<E: From<ModuleError>>(
        &self,
        digest: Digest,
        bytes: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Component, E> {
        if let Some(known) = self.loads.known(digest) {
            return Ok(known);
        }
        let (wasmtime, cache) = (self.wasmtime.clone(), Arc::clone(&self.cache));
        let component = match blocking(move || cache.load(&wasmtime, digest)).await {
            Some(component) => component,
            None => {
                let bytes = bytes.await?;
                let _turn = self.loads.turn().await;
                let (wasmtime, cache) = (self.wasmtime.clone(), Arc::clone(&self.cache));
                blocking(move || make(&wasmtime, &cache, digest, &bytes)).await?
            }
        };
        self.loads.keep(digest, component.clone(), size(&component));
        Ok(component)
    }
}

/// Compiles a component and keeps what came of it.
pub(super) fn make(
    wasmtime: &Wasmtime,
    cache: &Cache,
    digest: Digest,
    bytes: &[u8],
) -> Result<Component, ModuleError> {
    bounds::check(bytes)?;
    let artifact = compile::compile(wasmtime, bytes)?;
    cache.keep(digest, &artifact);
    // SAFETY: the bytes were made by wasmtime just now: here, or in a process of this very
    // program that nobody else can write to.
    unsafe { Component::deserialize(wasmtime, artifact) }
        .map_err(|error| ModuleError::Invalid(format!("{error:#}")))
}

/// The size of its code in memory, about.
pub(super) fn size(component: &Component) -> usize {
    let code = component.image_range();
    code.end.addr() - code.start.addr()
}
