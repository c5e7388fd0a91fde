//! One execution of a plugin: a store of its own with what is granted.

use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, Trap};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wfhost_core::limits;

use crate::http::{Hooks, Requests};
use crate::progress::{Progress, Stdio};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/plugin",
        world: "wfhost:plugin/agent-plugin",
        imports: {
            "wfhost:plugin/http.send": async | trappable,
            "wfhost:plugin/http.[method]response.read": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        with: { "wfhost:plugin/http.response": crate::web::Response },
    });
}

pub(crate) use self::bindings::AgentPluginPre;
pub(crate) use self::bindings::wfhost::plugin::http as wit_http;
pub(crate) use self::bindings::wfhost::plugin::types as wit;

/// A plugin that computes is looked at so often, in units of fuel.
const YIELD_INTERVAL: u64 = 100_000;
/// Resources that a plugin holds at the same time: files, streams, requests.
const HANDLES: usize = 1_000;
/// Random bytes at once.
const RANDOM_BYTES: u64 = 64 << 10;

/// The data of a plugin's store.
pub(crate) struct PluginCtx {
    pub table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub hooks: Hooks,
    limiter: Limiter,
    progress: Progress,
}

impl WasiView for PluginCtx {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for PluginCtx {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

impl bindings::wfhost::plugin::types::Host for PluginCtx {}

impl bindings::wfhost::plugin::progress::Host for PluginCtx {
    fn chunk(&mut self, text: String) -> wasmtime::Result<()> {
        self.progress.chunk(&text);
        Ok(())
    }

    fn line(&mut self, text: String) -> wasmtime::Result<()> {
        self.progress.line(&text);
        Ok(())
    }

    fn transcript(&mut self, event: String) -> wasmtime::Result<()> {
        self.progress.transcript(event);
        Ok(())
    }

    fn heartbeat(&mut self, at: String) -> wasmtime::Result<()> {
        match self.progress.heartbeat(at) {
            true => Ok(()),
            false => Err(wasmtime::Error::msg("a heartbeat has to be JSON")),
        }
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.progress.is_cancelled())
    }
}

/// What plugins import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<PluginCtx>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    bindings::AgentPlugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |ctx| ctx)?;
    Ok(linker)
}

/// A plugin wanted more memory than it may have.
#[derive(Debug, thiserror::Error)]
#[error("the plugin exceeded its memory limit of {0} bytes (`memory`)")]
struct OutOfMemory(u64);

struct Limiter {
    memory_bytes: u64,
    used: u64,
    table_elements: u64,
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
            return Err(wasmtime::Error::from(OutOfMemory(self.memory_bytes)));
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.used += growth;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
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

/// What one execution may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    pub memory_bytes: u64,
    pub fuel: u64,
}

/// Executes a plugin.
///
/// # Errors
///
/// It came to a bad end: see [`explain`].
pub(crate) async fn execute(
    plugin: &AgentPluginPre<PluginCtx>,
    mut wasi: wasmtime_wasi::WasiCtxBuilder,
    requests: Arc<Requests>,
    progress: Progress,
    bounds: Bounds,
    call: wit::Call,
) -> wasmtime::Result<Result<wit::Reply, wit::Failure>> {
    let (stdout, stderr) = (Stdio::new(progress.clone()), Stdio::new(progress.clone()));
    wasi.stdout(stdout.clone()).stderr(stderr.clone());
    wasi.allow_tcp(false).allow_udp(false).max_random_size(RANDOM_BYTES);
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES);
    let ctx = PluginCtx {
        table,
        wasi: wasi.build(),
        http: WasiHttpCtx::new(),
        hooks: Hooks(requests),
        limiter: Limiter { memory_bytes: bounds.memory_bytes, used: 0, table_elements: 0 },
        progress: progress.clone(),
    };
    let mut store = Store::new(plugin.engine(), ctx);
    store.limiter(|ctx| &mut ctx.limiter);
    store.set_max_component_handles(HANDLES);
    store.set_hostcall_fuel(limits::TRANSFER_BYTES);
    store.set_fuel(bounds.fuel)?;
    store.fuel_async_yield_interval(Some(YIELD_INTERVAL))?;
    let ended = async {
        let instance = plugin.instantiate_async(&mut store).await?;
        instance.wfhost_plugin_agent().call_run(&mut store, &call).await
    };
    let ended = ended.await;
    stdout.finish();
    stderr.finish();
    progress.finish();
    ended
}

/// Why a plugin came to a bad end.
pub(crate) fn explain(error: &wasmtime::Error, bounds: Bounds, progress: &Progress) -> String {
    let root = error.root_cause();
    if let Some(memory) = root.downcast_ref::<OutOfMemory>() {
        return memory.to_string();
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return format!("the plugin exited with {code} instead of answering");
    }
    let text = root.to_string();
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => {
            format!("the plugin used up its {} units of fuel (`fuel`)", bounds.fuel)
        }
        Some(Trap::StackOverflow) => "the plugin ran out of stack".to_owned(),
        Some(trap) => match progress.last_words() {
            Some(words) => format!("the plugin {}", words.trim_start_matches("the plugin ")),
            None => format!("the plugin trapped: {trap}"),
        },
        None if text.contains("fuel allocated for hostcalls") => {
            format!("the plugin passed more than {} bytes in one call", limits::TRANSFER_BYTES)
        }
        None if text.contains("handle limit") || text.contains("table has no free keys") => {
            format!("the plugin reached the limit of {HANDLES} handles")
        }
        None => format!("the plugin was stopped: {text}"),
    }
}
