//! WebAssembly: settings that make every execution the same, compiled
//! components and their cache, what programs import, and one execution.

mod answer;
mod bounds;
mod cache;
mod compile;
mod components;
mod considerate;
mod imports;
mod instance;
mod loads;
mod meter;
mod module;
mod pool;
mod recent;
mod sandbox;
mod source;
mod stack;
pub mod trap;
mod variant;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Config, Engine as Wasmtime, InstanceAllocationStrategy, RegallocAlgorithm};
use wfhost_core::{Digest, Grant, Outcome, RunConfig, limits};

use crate::sandbox::{Granted, Snapshots};

pub use self::answer::answer;
pub use self::cache::Cache;
pub use self::compile::compile_in_processes;
pub use self::components::Components;
pub use self::considerate::Considerate;
pub(crate) use self::instance::RunCtx;
pub use self::instance::{HostFault, Inner, Shared};
use self::loads::Loads;
pub use self::module::{Denied, Import, ImportClass, ModuleError, ModuleSummary, inspect, summarize};
pub(crate) use self::module::{classify, denial};
use self::pool::Pool;
pub use self::sandbox::{GrantError, end_lines};
pub use self::source::{Frame, Sources};
use self::stack::Stacks;
pub use self::stack::{StackError, check_stack};

/// What the native stack of one execution has beyond the program's, so that running out of stack is
/// a trap and never an abort.
const HOST_STACK_BYTES: usize = 2 << 20;
/// Address space of a linear memory. All that 32 bits can address, with as much after it as
/// programs add to an address: then no access needs a check, which is a quarter of a program's
/// instructions.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
const MEMORY_GUARD_BYTES: u64 = 32 << 20;
/// The same where the address space is limited (`ulimit -v`): thousands of programs are alive at
/// once. A memory that grows beyond it is moved.
const SMALL_MEMORY_RESERVATION_BYTES: u64 = 16 << 20;
const SMALL_MEMORY_GUARD_BYTES: u64 = 64 << 10;

/// Compiles and instantiates components. One for each process.
pub struct Engine {
    loader: Loader,
    stacks: Stacks,
    pool: Option<Pool>,
    snapshots: Arc<Snapshots>,
    loads: Loads<Module>,
}

/// A program in the engine that has what it is to be executed with.
struct Fitted {
    wasmtime: Wasmtime,
    program: crate::imports::WorkflowPre<RunCtx>,
    /// Its place in the pool, if it has one.
    place: Option<OwnedSemaphorePermit>,
}

/// What it takes to make a module of a component.
#[derive(Clone)]
struct Loader {
    wasmtime: Wasmtime,
    linker: Linker<RunCtx>,
    cache: Arc<Cache>,
}

/// A component that is ready to be instantiated.
#[derive(Clone)]
pub struct Module {
    pub digest: Digest,
    /// The name of the workflow.
    pub name: Arc<str>,
    pre: crate::imports::WorkflowPre<RunCtx>,
}

/// A program that is under way. It computes while it is polled.
pub type Execution = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// How an execution ended: with what the program returned, or with an error that is either a
/// [`wfhost_core::Stop`] or what [`trap::explain`] explains.
pub type Ended = wasmtime::Result<Outcome>;

/// Why a program cannot be executed here.
#[derive(Debug, thiserror::Error)]
pub enum CannotExecute {
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error("the program cannot be started: {0}")]
    Instance(String),
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Module({}, {})", self.name, self.digest)
    }
}

impl Module {
    /// The size of its code in memory, about.
    fn bytes(&self) -> usize {
        components::size(self.pre.instance_pre().component())
    }
}

impl Loader {
    fn module(
        &self,
        name: &str,
        digest: Digest,
        bytes: &[u8],
        denied: Denied,
    ) -> Result<Module, ModuleError> {
        inspect(bytes, denied)?;
        let component = match self.cache.load(&self.wasmtime, digest) {
            Some(component) => component,
            None => components::make(&self.wasmtime, &self.cache, digest, bytes)?,
        };
        self.prepare(name, digest, &component)
    }

    /// A component with this digest that is compiled already, so that its
    /// bytes are not needed to run it.
    fn cached(&self, name: &str, digest: Digest) -> Option<Module> {
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
}

impl Engine {
    /// An engine that keeps compiled components below `cache`, or nowhere.
    pub fn new(cache: Option<PathBuf>) -> Result<Self, ModuleError> {
        let broken = |error: wasmtime::Error| ModuleError::Engine(format!("{error:#}"));
        let wasmtime = wasmtime(limits::STACK_BYTES, address_space_is_limited()).map_err(broken)?;
        let linker = linker(&wasmtime).map_err(broken)?;
        let cache = Arc::new(Cache::new(cache, &wasmtime));
        Ok(Self {
            loader: Loader { wasmtime, linker, cache },
            stacks: Stacks::default(),
            pool: None,
            snapshots: Arc::default(),
            loads: Loads::default(),
        })
    }

    /// The same for programs that come and go quickly: their memories and stacks are used again, where the system
    /// allows that. Some of them stay in memory.
    #[must_use]
    pub fn pooled(self) -> Self {
        Self { pool: Pool::new(), ..self }
    }

    /// How many executions used the memories and stacks of earlier ones, or were the first to.
    pub fn executed_in_pool(&self) -> u64 {
        self.pool.as_ref().map_or(0, Pool::taken)
    }

    /// What was compiled before.
    pub fn cache(&self) -> &Cache {
        &self.loader.cache
    }

    /// Makes a module of a component's bytes, which may take minutes. What cannot be a workflow, or
    /// would take too much to compile, is recognised and explained before anything is compiled.
    pub fn module(
        &self,
        name: &str,
        digest: Digest,
        bytes: &[u8],
        denied: Denied,
    ) -> Result<Module, ModuleError> {
        self.loader.module(name, digest, bytes, denied)
    }

    /// The module with this digest if it was compiled before, so that its bytes are not needed to run it.
    pub fn cached(&self, name: &str, digest: Digest) -> Option<Module> {
        self.loader.cached(name, digest)
    }

    /// [`Engine::module`] beside the runtime's workers, for many at once: nothing is compiled twice at the same
    /// time, few are compiled concurrently, and those that were used last are kept. `bytes` are asked
    /// for only if they are needed.
    ///
    /// # Errors
    ///
    /// Those of `bytes`, and those of the module.
    pub async fn load<E: From<ModuleError>>(
        &self,
        name: &str,
        digest: Digest,
        denied: Denied,
        bytes: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Module, E> {
        if let Some(known) = self.known(name, digest) {
            return Ok(known);
        }
        self.loads.one_at_a_time(digest, self.load_now(name, digest, denied, bytes)).await
    }

    /// The module with this digest if it need not be compiled, read beside the runtime's workers.
    pub async fn ready(&self, name: &str, digest: Digest) -> Option<Module> {
        if let Some(known) = self.known(name, digest) {
            return Some(known);
        }
        let (loader, owned) = (self.loader.clone(), name.to_owned());
        let module = blocking(move || loader.cached(&owned, digest)).await?;
        self.loads.keep(digest, module.clone(), module.bytes());
        Some(module)
    }

    async fn load_now<E: From<ModuleError>>(
        &self,
        name: &str,
        digest: Digest,
        denied: Denied,
        bytes: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Module, E> {
        if let Some(ready) = self.ready(name, digest).await {
            return Ok(ready);
        }
        let bytes = bytes.await?;
        let _turn = self.loads.turn().await;
        let (loader, owned) = (self.loader.clone(), name.to_owned());
        let module = blocking(move || loader.module(&owned, digest, &bytes, denied)).await?;
        self.loads.keep(digest, module.clone(), module.bytes());
        Ok(module)
    }

    fn known(&self, name: &str, digest: Digest) -> Option<Module> {
        let known = self.loads.known(digest)?;
        Some(Module { name: name.into(), ..known })
    }

    /// Reads a directory that a new run is to be granted at `guest`.
    pub async fn grant(&self, host: PathBuf, guest: String) -> Result<Grant, GrantError> {
        let snapshots = Arc::clone(&self.snapshots);
        blocking(move || snapshots.grant(&host, &guest)).await
    }

    /// Begins to execute the program of a module, for the run that `shared` has the machine of.
    ///
    /// # Errors
    ///
    /// It cannot be executed here as its configuration wants it.
    pub async fn execute(&self, module: &Module, shared: &Shared) -> Result<Execution, CannotExecute> {
        let config = shared.lock().machine.started().config.clone();
        let input = shared.lock().machine.started().input.as_str().to_owned();
        let unfit = |error: wasmtime::Error| CannotExecute::Instance(format!("{error:#}"));
        let grants = self.grants(&config).await?;
        check_stack(config.stack_bytes)?;
        let Fitted { wasmtime, program, place } = self.fit(module, &config).map_err(unfit)?;
        let store = instance::store(&wasmtime, shared.clone(), &config, grants).map_err(unfit)?;
        let program = Box::pin(async move {
            // Free when the store is gone: what is declared last is dropped first.
            let _place = place;
            let mut store = store;
            let workflow = program.instantiate_async(&mut store).await?;
            let result = workflow.call_run(&mut store, &input).await?;
            imports::returned(result)
        });
        Ok(Box::pin(Considerate::new(program)))
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

    /// The module in the engine that has the stack of a run's configuration.
    fn fit(&self, module: &Module, config: &RunConfig) -> wasmtime::Result<Fitted> {
        match config.stack_bytes {
            limits::STACK_BYTES => {
                Ok(self.pool.as_ref().and_then(|pool| pool.fit(module)).unwrap_or_else(|| {
                    let (wasmtime, program) = (self.loader.wasmtime.clone(), module.pre.clone());
                    Fitted { wasmtime, program, place: None }
                }))
            }
            bytes => self.stacks.fit(module, bytes),
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cache", &self.loader.cache).finish_non_exhaustive()
    }
}

/// Does what takes its time with files.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What programs import.
fn linker(wasmtime: &Wasmtime) -> wasmtime::Result<Linker<RunCtx>> {
    let mut linker = Linker::new(wasmtime);
    crate::imports::link(&mut linker)?;
    crate::sandbox::link(&mut linker)?;
    Ok(linker)
}

/// Whether memories have to do with little address space.
fn address_space_is_limited() -> bool {
    getrlimit(Resource::As).current.is_some()
}

/// An engine whose programs have a stack of so many bytes. Everything that a program could observe
/// of its settings is the same on every machine.
/// `limited`: see [`address_space_is_limited`].
fn wasmtime(stack_bytes: u64, limited: bool) -> wasmtime::Result<Wasmtime> {
    Wasmtime::new(&settings(stack_bytes, limited)?)
}

fn settings(stack_bytes: u64, limited: bool) -> wasmtime::Result<Config> {
    let stack_bytes = usize::try_from(stack_bytes)?;
    let mut config = Config::new();
    // Determinism: one bit pattern for every NaN, one result for relaxed SIMD,
    // no threads, limits that hit at the same instruction everywhere.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    config.shared_memory(false);
    config.concurrency_support(false);
    config.consume_fuel(true);
    config.max_wasm_stack(stack_bytes);
    config.async_stack_size(stack_bytes + HOST_STACK_BYTES);
    // Thousands of instances concurrently.
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    let (reservation, guard) = if limited {
        (SMALL_MEMORY_RESERVATION_BYTES, SMALL_MEMORY_GUARD_BYTES)
    } else {
        (MEMORY_RESERVATION_BYTES, MEMORY_GUARD_BYTES)
    };
    config.memory_reservation(reservation);
    config.memory_reservation_for_growth(SMALL_MEMORY_RESERVATION_BYTES);
    config.memory_guard_size(guard);
    // See `source`.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    config.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking);
    Ok(config)
}
