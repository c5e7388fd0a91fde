//! WebAssembly: settings that make every execution the same, compiled
//! components and their cache, and the loop that drives one run.

mod agent;
mod cache;
mod control;
mod drive;
mod execute;
mod instance;
mod meter;
mod module;
mod replay;
mod trap;

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine as Wasmtime, InstanceAllocationStrategy, RegallocAlgorithm};
use wfhost_core::{Digest, Grant, RunConfig, limits};

use crate::sandbox::{GrantError, Granted, Snapshots};

pub use self::cache::Cache;
pub(crate) use self::control::{Control, Lease, Leave};
pub use self::drive::DriveError;
pub(crate) use self::drive::{Drive, Driven, Pace};
pub(crate) use self::instance::{Inner, RunCtx};
pub use self::module::{Denied, Import, ImportClass, ModuleError, ModuleSummary, inspect, summarize};
pub(crate) use self::module::{classify, denial};
pub(crate) use self::replay::replay;
pub use self::replay::{Asked, Replayed};
pub use self::trap::Frame;

/// The native stack of one execution; the wasm stack is bounded well below it,
/// so that running out of stack is a trap and never an abort.
const FIBER_STACK_BYTES: usize = 4 << 20;
/// Address space that is reserved for a linear memory. Small, because thousands
/// of programs are alive at once; a memory that grows beyond it is moved.
const MEMORY_RESERVATION_BYTES: u64 = 16 << 20;

/// Compiles and instantiates components. One for each process.
pub struct Engine {
    wasmtime: Wasmtime,
    linker: Linker<RunCtx>,
    snapshots: Arc<Snapshots>,
    cache: Cache,
}

/// A component that is ready to be instantiated.
#[derive(Clone)]
pub struct Module {
    pub digest: Digest,
    /// The name of the workflow.
    pub name: Arc<str>,
    pre: crate::imports::WorkflowPre<RunCtx>,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Module({}, {})", self.name, self.digest)
    }
}

impl Engine {
    /// An engine that keeps compiled components below `cache`, or nowhere.
    pub fn new(cache: Option<PathBuf>) -> Result<Self, ModuleError> {
        let broken = |error: wasmtime::Error| ModuleError::Engine(format!("{error:#}"));
        let wasmtime = Wasmtime::new(&config()).map_err(broken)?;
        let mut linker = Linker::new(&wasmtime);
        crate::imports::link(&mut linker).map_err(broken)?;
        crate::sandbox::link(&mut linker).map_err(broken)?;
        Ok(Self { cache: Cache::new(cache, &wasmtime), snapshots: Arc::default(), wasmtime, linker })
    }

    /// Makes a module of a component's bytes. What cannot be a workflow is
    /// recognised and explained before anything is compiled.
    pub fn module(
        &self,
        name: &str,
        digest: Digest,
        bytes: &[u8],
        denied: Denied,
    ) -> Result<Module, ModuleError> {
        inspect(bytes, denied)?;
        let component = match self.cache.load(&self.wasmtime, digest) {
            Some(component) => component,
            None => {
                let component = Component::new(&self.wasmtime, bytes)
                    .map_err(|error| ModuleError::Invalid(format!("{error:#}")))?;
                self.cache.keep(digest, &component);
                component
            }
        };
        self.prepare(name, digest, &component)
    }

    /// Whether a component with this digest is compiled already, so that its
    /// bytes are not needed to run it.
    pub fn cached(&self, name: &str, digest: Digest) -> Option<Module> {
        let component = self.cache.load(&self.wasmtime, digest)?;
        self.prepare(name, digest, &component).ok()
    }

    fn prepare(&self, name: &str, digest: Digest, component: &Component) -> Result<Module, ModuleError> {
        let unfit = |error: wasmtime::Error| ModuleError::Unfit(format!("{error:#}"));
        let mut linker = self.linker.clone();
        crate::sandbox::link_denied(&mut linker, &self.wasmtime, component).map_err(unfit)?;
        let pre: InstancePre<RunCtx> = linker.instantiate_pre(component).map_err(unfit)?;
        let pre = crate::imports::WorkflowPre::new(pre).map_err(unfit)?;
        Ok(Module { digest, name: name.into(), pre })
    }

    /// Reads a directory that a new run is to be granted at `guest`.
    pub async fn grant(&self, host: PathBuf, guest: String) -> Result<Grant, GrantError> {
        let snapshots = Arc::clone(&self.snapshots);
        blocking(move || snapshots.grant(&host, &guest)).await
    }

    /// What a run was granted.
    async fn grants(&self, config: &RunConfig) -> Result<Vec<Granted>, GrantError> {
        let grants = config.sandbox.as_ref().map(|sandbox| sandbox.grants.clone()).unwrap_or_default();
        if grants.is_empty() {
            return Ok(Vec::new());
        }
        let snapshots = Arc::clone(&self.snapshots);
        blocking(move || snapshots.open(&grants)).await
    }

    pub(crate) fn wasmtime(&self) -> &Wasmtime {
        &self.wasmtime
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// Does what takes its time with files.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// The settings that programs run under. Everything here that a program could
/// observe is the same on every machine.
fn config() -> Config {
    let mut config = Config::new();
    // Determinism: one bit pattern for every NaN, one result for relaxed SIMD,
    // no threads, limits that hit at the same instruction everywhere.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    config.shared_memory(false);
    config.concurrency_support(false);
    config.consume_fuel(true);
    config.max_wasm_stack(limits::STACK_BYTES as usize);
    config.async_stack_size(FIBER_STACK_BYTES);
    // Thousands of instances side by side.
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config.memory_reservation(MEMORY_RESERVATION_BYTES);
    config.memory_reservation_for_growth(MEMORY_RESERVATION_BYTES);
    config.memory_guard_size(64 << 10);
    // Traps name the line of the program if its debug information is there.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable);
    config.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking);
    config
}
