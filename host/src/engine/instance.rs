//! What one execution of a program carries with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::component::ResourceTable;
use wasmtime::{CallHook, ResourceLimiter, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wfhost_core::{Machine, RunConfig, Stop, Timestamp, limits};

use super::Engine;
use crate::store::{Emission, LogLevel, LogLine};
use crate::world::World;

/// Between pre-emptions a program executes about so many instructions.
const YIELD_INTERVAL: u64 = 100_000;

/// The part of an execution that the driver and the program's calls share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    inner: Arc<Mutex<Inner>>,
    world: Arc<dyn World>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub machine: Machine,
    /// The program waits for something that has not happened.
    pub blocked: bool,
    /// A journaled call was made: the next slice of fuel is due.
    pub refuel: bool,
    /// What was given out and is not stored yet, and the number of the first.
    pub emissions: Vec<Emission>,
    pub first_emission: u64,
    /// What the panic hook of the program said last.
    pub panic: Option<(String, Option<String>)>,
    /// Bytes of lines that the program has not ended yet: stdout, stderr.
    pub partial_lines: [Vec<u8>; 2],
}

impl Shared {
    pub fn new(machine: Machine, world: Arc<dyn World>) -> Self {
        let first_emission = machine.emissions();
        let inner = Arc::new(Mutex::new(Inner {
            machine,
            blocked: false,
            refuel: false,
            emissions: Vec::new(),
            first_emission,
            panic: None,
            partial_lines: [Vec::new(), Vec::new()],
        }));
        Self { inner, world }
    }

    /// The present time, for entries.
    pub fn clock(&self) -> Timestamp {
        self.world.now()
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something did, the machine is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `poll` has an answer. The driver polls the program again
    /// after each event, so no waker is kept.
    pub async fn wait<T>(
        &self,
        mut poll: impl FnMut(&mut Machine) -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        std::future::poll_fn(|_| {
            let mut inner = self.lock();
            let answer = poll(&mut inner.machine);
            inner.blocked = matches!(answer, Ok(None));
            match answer {
                Ok(Some(value)) => std::task::Poll::Ready(Ok(value)),
                Ok(None) => std::task::Poll::Pending,
                Err(stop) => std::task::Poll::Ready(Err(stop)),
            }
        })
        .await
    }
}

impl Inner {
    /// The program gives something out, unless that is stored already.
    pub fn emit(&mut self, emission: impl FnOnce(u64, Timestamp) -> Emission) {
        let now = self.machine.now();
        if let Some(number) = self.machine.emit() {
            self.emissions.push(emission(number, now));
        }
    }

    /// Writes a line of the log.
    pub fn log(&mut self, level: LogLevel, mut message: String, fields: Vec<(String, String)>) {
        if message.len() > limits::LOG_LINE_BYTES {
            let cut = message.floor_char_boundary(limits::LOG_LINE_BYTES);
            message.truncate(cut);
            message.push('…');
        }
        self.emit(|number, at| Emission::Log(LogLine { number, at, level, message, fields }));
    }
}

/// The data of a wasmtime store: one execution.
pub(crate) struct RunCtx {
    pub shared: Shared,
    table: ResourceTable,
    wasi: Option<WasiCtx>,
    limiter: Limiter,
    fuel: u64,
}

impl RunCtx {
    /// The present time, for entries.
    pub fn clock(&self) -> Timestamp {
        self.shared.clock()
    }
}

impl WasiView for RunCtx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let shared = &self.shared;
        // Programs without WASI imports, most in Rust, never need it.
        let ctx = self.wasi.get_or_insert_with(|| crate::sandbox::context(shared));
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// The limits of a program's memory: reaching one ends it, always at the same place.
struct Limiter {
    memory_bytes: u64,
    /// What all its memories have together.
    used: u64,
}

/// A program wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("the program needs more than the {limit} bytes of memory that it may use")]
pub(crate) struct OutOfMemory {
    limit: u64,
}

/// Elements of a table; a program built by an ordinary compiler has some thousands.
const TABLE_ELEMENTS: usize = 1 << 20;

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used - current as u64 + desired as u64;
        if used > self.memory_bytes {
            return Err(wasmtime::Error::from(OutOfMemory { limit: self.memory_bytes }));
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }
}

/// A wasmtime store for one execution.
pub(super) fn store(engine: &Engine, shared: Shared, config: &RunConfig) -> wasmtime::Result<Store<RunCtx>> {
    let ctx = RunCtx {
        shared,
        table: ResourceTable::new(),
        wasi: None,
        limiter: Limiter { memory_bytes: config.memory_bytes, used: 0 },
        fuel: config.fuel,
    };
    let mut store = Store::new(engine.wasmtime(), ctx);
    store.limiter(|ctx| &mut ctx.limiter);
    store.set_fuel(config.fuel)?;
    store.fuel_async_yield_interval(Some(YIELD_INTERVAL))?;
    // Each journaled call gives the program a new slice of fuel.
    store.call_hook(|mut ctx, hook| {
        if matches!(hook, CallHook::ReturningFromHost) {
            let refuel = std::mem::take(&mut ctx.data().shared.lock().refuel);
            if refuel {
                let fuel = ctx.data().fuel;
                ctx.set_fuel(fuel)?;
            }
        }
        Ok(())
    });
    Ok(store)
}
