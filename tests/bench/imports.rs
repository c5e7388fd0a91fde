//! What a call of the host costs.

use std::time::Instant;

use serde_json::json;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};
use wfhost::store::Synchronous;

use crate::place::Place;
use crate::report::Reading;

/// A call without an entry, beside a call of a function that does nothing.
pub fn import_call(place: &Place) -> Vec<Reading> {
    let count = place.many(2_000_000);
    let bare = bare_call(count);
    let db = place.fresh("wfhost.db");
    let nanos = place.runtime.block_on(async {
        let bench = place.bench(&db, Synchronous::Normal).await;
        let time = async |count: u64| {
            let begin = Instant::now();
            bench.run(&json!([{ "random_many": count }])).await;
            begin.elapsed().as_nanos() as f64
        };
        let empty = time(0).await;
        (time(count).await - empty) / count as f64
    });
    place.discard(&db);
    vec![Reading::new("an import call (`random`)", "ns", nanos).beside("an empty call", bare)]
}

/// An asynchronous import that does nothing, by wasmtime alone, with the
/// settings that matter here; in ns.
fn bare_call(count: u64) -> f64 {
    const TEXT: &str = r#"(component
        (import "empty" (func $empty (result u64)))
        (core func $lowered (canon lower (func $empty)))
        (core module $m
            (import "" "empty" (func $empty (result i64)))
            (func (export "run") (param i64)
                (loop $next
                    (drop (call $empty))
                    (br_if $next
                        (i64.ne (local.tee 0 (i64.sub (local.get 0) (i64.const 1))) (i64.const 0))))))
        (core instance $i (instantiate $m (with "" (instance (export "empty" (func $lowered))))))
        (func (export "run") (param "n" u64) (canon lift (core func $i "run"))))"#;
    let mut config = Config::new();
    config.consume_fuel(true).concurrency_support(false);
    let engine = Engine::new(&config).expect("an engine");
    let bytes = wat::parse_str(TEXT).expect("valid text");
    let component = Component::new(&engine, bytes).expect("a component");
    let mut linker = Linker::<()>::new(&engine);
    linker.root().func_wrap_async("empty", |_, (): ()| Box::new(async { Ok((0u64,)) })).expect("an import");
    let mut store = Store::new(&engine, ());
    store.set_fuel(u64::MAX).expect("fuel");
    store.fuel_async_yield_interval(Some(100_000)).expect("an interval");
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
        let instance = linker.instantiate_async(&mut store, &component).await.expect("an instance");
        let run = instance.get_typed_func::<(u64,), ()>(&mut store, "run").expect("its export");
        let begin = Instant::now();
        run.call_async(&mut store, (count,)).await.expect("an end");
        begin.elapsed().as_nanos() as f64 / count as f64
    })
}
