//! What one execution of a program carries with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::component::ResourceTable;
use wasmtime::{CallHook, Engine as Wasmtime, ResourceLimiter, Store, WasmBacktrace};
use wfhost_core::{
    Emission, Failure, FailureKind, Gift, LogLevel, LogLine, Machine, Op, RunConfig, Sandbox, Step, Stop,
    Timestamp, limits,
};
use wfhost_world::World;

use super::meter::{Meter, YIELD_INTERVAL};
use super::source::{self, Offset};
use crate::imports::Misuse;
use crate::sandbox::{Files, Granted, cost};

/// The part of an execution that the driver and the program's calls share.
#[derive(Clone, Debug)]
pub struct Shared {
    inner: Arc<Mutex<Inner>>,
    world: Arc<dyn World>,
}

#[derive(Debug)]
pub struct Inner {
    pub machine: Machine,
    /// The program waits for something that has not happened.
    pub blocked: bool,
    /// What was given out and is not stored yet.
    pub emissions: Vec<Emission>,
    /// What the panic hook of the program said last.
    pub panic: Option<(String, Option<String>)>,
    /// What a language without our hook wrote about a panic: where, and what.
    pub last_words: Option<(String, Option<String>)>,
    /// Bytes of lines that the program has not ended yet: stdout, stderr.
    pub partial_lines: [Vec<u8>; 2],
    /// Bytes that the program may still give out.
    output_left: u64,
    /// Set when the program runs out of the fuel of its whole life next.
    pub last_fuel: Option<Failure>,
    /// Where the program asked for each of its steps, if anybody wants to know.
    pub trace: Option<Vec<(Step, Vec<Offset>)>>,
}

impl Shared {
    pub fn new(machine: Machine, world: Arc<dyn World>) -> Self {
        let output_left = sandbox(&machine.started().config).output_bytes;
        let inner = Arc::new(Mutex::new(Inner {
            machine,
            blocked: false,
            emissions: Vec::new(),
            panic: None,
            last_words: None,
            partial_lines: [Vec::new(), Vec::new()],
            output_left,
            last_fuel: None,
            trace: None,
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

/// What a field of a line takes besides its texts, about.
const FIELD_BYTES: usize = 16;

/// What an emission takes besides its text, about.
const EMISSION_BYTES: usize = 64;

impl Inner {
    /// The program gives something out, unless that is stored already. False
    /// if it has given out as much as it may.
    pub fn emit(&mut self, bytes: usize, gift: Gift, emission: impl FnOnce(Timestamp) -> Emission) -> bool {
        let Some(left) = self.output_left.checked_sub((bytes + EMISSION_BYTES) as u64) else {
            return false;
        };
        self.output_left = left;
        self.push(gift, emission);
        true
    }

    fn push(&mut self, gift: Gift, emission: impl FnOnce(Timestamp) -> Emission) {
        if self.machine.give_out(gift) {
            let now = self.machine.observed().now();
            self.emissions.push(emission(now));
        }
    }

    /// Looks whether a line of standard error tells of a panic: that of Rust's standard library
    /// (`thread 'main' panicked at src/lib.rs:3:5:`, the message on the next line) or of Go
    /// (`panic: message`).
    pub fn hear(&mut self, line: &str) {
        let cut = |text: &str| text[..text.floor_char_boundary(limits::NAME_BYTES)].to_owned();
        if let Some((_, place)) = line.split_once(" panicked at ") {
            self.last_words = Some((cut(place.trim_end_matches(':')), None));
        } else if let Some(message) = line.strip_prefix("panic: ") {
            self.last_words = Some((String::new(), Some(cut(message))));
        } else if let Some((_, message @ None)) = &mut self.last_words {
            *message = Some(cut(line));
        }
    }

    /// Writes a line of the log. A program that has written too much goes on
    /// without its log, which says so at its end.
    pub fn log(&mut self, level: LogLevel, message: String, mut fields: Vec<(String, String)>) {
        let message = limits::cut(message, limits::LOG_LINE_BYTES);
        let mut left = limits::LOG_LINE_BYTES.saturating_sub(message.len());
        // A field whose name has no room is left out, and so are those after it.
        let mut kept = 0;
        for (name, value) in &mut fields {
            let Some(room) = left.checked_sub(name.len() + FIELD_BYTES) else { break };
            *value = limits::cut(std::mem::take(value), room);
            left = room.saturating_sub(value.len());
            kept += 1;
        }
        fields.truncate(kept);
        let bytes = message.len() + fields.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        // The store numbers what it keeps.
        let line = |at| Emission::Log(LogLine { number: 0, at, level, message, fields });
        if !self.emit(bytes, Gift::Line, line) && self.output_left > 0 {
            self.output_left = 0;
            let message = "the run has written as much as it may; what follows is left out".to_owned();
            let level = LogLevel::Warn;
            let fields = Vec::new();
            self.push(Gift::Line, |at| Emission::Log(LogLine { number: 0, at, level, message, fields }));
        }
    }
}

/// The part of the configuration that the sandbox is made of.
fn sandbox(config: &RunConfig) -> Sandbox {
    config.sandbox.clone().unwrap_or_default()
}

/// The data of a wasmtime store: one execution.
pub(crate) struct RunCtx {
    pub shared: Shared,
    /// What the program holds of the sandbox.
    pub table: ResourceTable,
    pub sandbox: Sandbox,
    /// Programs that never touch a file have none.
    pub files: Option<Files>,
    pub grants: Vec<Granted>,
    limiter: Limiter,
    meter: Meter,
    /// Bytes of what the program's steps asked for.
    asked_bytes: u64,
    /// Whether calls are traced, and where the one under way came from.
    tracing: bool,
    calling: Vec<Offset>,
}

impl RunCtx {
    /// The present time, for entries. While the program is replaying there are none, and the
    /// clock is not read.
    pub fn clock(&self) -> Timestamp {
        match self.shared.lock().machine.is_live() {
            true => self.shared.clock(),
            false => Timestamp(0),
        }
    }

    /// A step was asked for by the call in flight.
    pub fn trace(&mut self, step: Step) {
        if self.tracing
            && let Some(trace) = &mut self.shared.lock().trace
        {
            trace.push((step, std::mem::take(&mut self.calling)));
        }
    }

    /// Has the program pay for what a call makes the host do, and lets other
    /// runs go on if it has been busy for long.
    pub async fn charge(&mut self, units: u64) {
        if self.meter.charge(units) {
            yield_once().await;
        }
    }

    /// Pays for a step, which brings the next slice of fuel. A program that
    /// has used up what it may ask for in its life is stopped here.
    pub async fn charge_step(&mut self, op: &Op) -> wasmtime::Result<()> {
        let bytes = op.bytes() as u64;
        self.asked_bytes = self.asked_bytes.saturating_add(bytes);
        if self.asked_bytes > self.sandbox.call_bytes {
            return Err(life_limit("bytes in what its steps ask for", self.sandbox.call_bytes));
        }
        self.charge_entry(bytes).await?;
        self.meter.refuel();
        Ok(())
    }

    /// Pays for an entry of the journal. A program that has as many as it may have is stopped here,
    /// and so is one that holds too much of what it was answered.
    pub async fn charge_entry(&mut self, bytes: u64) -> wasmtime::Result<()> {
        let (at_end, entries, held) = {
            let machine = &self.shared.lock().machine;
            // While it is replaying the entries are those of the execution before. If that ended here, its
            // end is one of them.
            let ended_here = u64::from(machine.is_at_stop());
            let at_end = machine.is_live() || ended_here == 1;
            (at_end, machine.entries() - ended_here, machine.held_bytes())
        };
        if at_end && entries >= self.sandbox.entries {
            return Err(life_limit("entries in its journal", self.sandbox.entries));
        }
        if at_end && held > limits::HELD_BYTES {
            let limit = limits::HELD_BYTES;
            let message =
                format!("the program holds more than {limit} bytes of answers, as many as are allowed");
            return Err(Misuse(Failure::new(FailureKind::Failed, message)).into());
        }
        self.charge(cost::STEP + bytes).await;
        Ok(())
    }
}

/// A program reached a limit of its whole life.
fn life_limit(what: &str, limit: u64) -> wasmtime::Error {
    let message = format!(
        "the run has {limit} {what}, as many as are allowed; \
         a long-lived workflow goes on as a fresh run with `continue-as-new`"
    );
    Misuse(Failure::new(FailureKind::Failed, message)).into()
}

/// Lets the driver look around once. It polls again by itself.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| match std::mem::replace(&mut yielded, true) {
        true => std::task::Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        }
    })
    .await;
}

/// The limits of a program's memory: reaching one ends it, always at the same place.
struct Limiter {
    memory_bytes: u64,
    /// What all its memories have together.
    used: u64,
    /// By how much it is about to grow, or has grown.
    growth: u64,
    table_elements: u64,
}

/// A program wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("the program needs more than the {limit} bytes of memory that it may use")]
pub(crate) struct OutOfMemory {
    limit: u64,
}

/// This machine could not do what every machine has to do for a program. It says nothing of the
/// program: the execution is void, and the run stays as it is in its journal.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostFault(pub String);

impl HostFault {
    /// The trouble that ended an execution, if that is what did. What programs do themselves, also
    /// beyond their limits, is none.
    pub fn of(error: &wasmtime::Error) -> Option<Self> {
        if let Some(trouble) = error.downcast_ref::<Self>() {
            return Some(trouble.clone());
        }
        // What the system refuses when an instance is made: its memory, its stack.
        let refused = |cause: &(dyn std::error::Error + 'static)| {
            cause.is::<std::io::Error>() || cause.is::<rustix::io::Errno>()
        };
        error.chain().any(refused).then(|| Self(format!("memory refused by the system: {error:#}")))
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = (desired - current) as u64;
        if self.used + growth > self.memory_bytes {
            return Err(wasmtime::Error::from(OutOfMemory { limit: self.memory_bytes }));
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // So it says itself: the program is told.
            return Ok(false);
        }
        self.used += growth;
        self.growth = growth;
        Ok(true)
    }

    /// A program that were told would go another way than on other machines.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // Before it asks whether memory may grow, wasmtime looks at what its type can address.
        if error.to_string().contains("memory type's limits") {
            return Ok(());
        }
        self.used -= std::mem::take(&mut self.growth);
        Err(HostFault(format!("memory refused by the system: {error:#}")).into())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.table_elements - current as u64 + desired as u64;
        let fits = elements <= limits::TABLE_ELEMENTS;
        if fits {
            self.table_elements = elements;
        }
        Ok(fits)
    }

    fn instances(&self) -> usize {
        limits::INSTANCES
    }

    fn tables(&self) -> usize {
        limits::TABLES
    }

    fn memories(&self) -> usize {
        limits::MEMORIES
    }
}

/// A wasmtime store for one execution.
pub(super) fn store(
    wasmtime: &Wasmtime,
    shared: Shared,
    config: &RunConfig,
    grants: Vec<Granted>,
) -> wasmtime::Result<Store<RunCtx>> {
    let sandbox = sandbox(config);
    let handles = sandbox.handles as usize;
    let mut table = ResourceTable::new();
    table.set_max_capacity(handles);
    let meter = Meter::new(config, &sandbox);
    let fuel = meter.granted();
    let tracing = shared.lock().trace.is_some();
    let ctx = RunCtx {
        shared,
        table,
        sandbox,
        files: None,
        grants,
        limiter: Limiter { memory_bytes: config.memory_bytes, used: 0, growth: 0, table_elements: 0 },
        meter,
        asked_bytes: 0,
        tracing,
        calling: Vec::new(),
    };
    let mut store = Store::new(wasmtime, ctx);
    store.limiter(|ctx| &mut ctx.limiter);
    store.set_max_component_handles(handles);
    store.set_hostcall_fuel(limits::TRANSFER_BYTES);
    store.set_fuel(fuel)?;
    store.fuel_async_yield_interval(Some(YIELD_INTERVAL))?;
    store.call_hook(|mut ctx, hook| {
        if matches!(hook, CallHook::CallingHost) && ctx.data().tracing {
            let calling = source::offsets(&WasmBacktrace::force_capture(&ctx));
            ctx.data_mut().calling = calling;
        }
        if matches!(hook, CallHook::ReturningFromHost) && ctx.data().meter.is_due() {
            let remaining = ctx.get_fuel()?;
            let data = ctx.data_mut();
            let fuel = data.meter.settle(remaining)?;
            if data.meter.ends_with_total() {
                data.shared.lock().last_fuel = Some(data.meter.exhausted());
            }
            ctx.set_fuel(fuel)?;
        }
        Ok(())
    });
    Ok(store)
}

/// What wasmtime says of its own limits, in the words of these here.
pub(super) fn limit_message(error: &str, config: &RunConfig) -> Option<String> {
    if error.contains("fuel allocated for hostcalls") {
        let limit = limits::TRANSFER_BYTES;
        return Some(format!("the program hands over more than {limit} bytes in one call"));
    }
    if error.contains("handle limit") || error.contains("table has no free keys") {
        let handles = sandbox(config).handles;
        return Some(format!("the program holds {handles} handles, as many as are allowed"));
    }
    None
}
