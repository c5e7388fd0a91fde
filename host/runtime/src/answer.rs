//! What a core module answers by itself: asked at build time, for what can only be known by running code.

use wasmtime::{Config, Engine, Extern, Linker, Module, OptLevel, Store, StoreLimits, StoreLimitsBuilder};

/// Units of fuel for one answer: some seconds.
const FUEL: u64 = 5_000_000_000;
/// Bytes of memory.
const MEMORY: usize = 256 << 20;
/// Elements of a table.
const TABLE: usize = 1 << 20;

/// Calls `export`, which takes nothing and gives where its answer stands in memory: the address in the upper half
/// of its result, the length in bytes in the lower one. All imports answer zero, so nothing is reached from there.
///
/// The module is compiled in this process: it has to be one that the user has just built.
///
/// # Errors
///
/// It is no such module, it trapped, it took too long, or the answer has more than `most` bytes.
pub fn answer(core: &[u8], export: &str, most: usize) -> Result<Vec<u8>, String> {
    let said = |error: wasmtime::Error| format!("{error:#}");
    let mut config = Config::new();
    config.consume_fuel(true).cranelift_opt_level(OptLevel::None);
    let engine = Engine::new(&config).map_err(said)?;
    let module = Module::new(&engine, core).map_err(said)?;
    let limits = StoreLimitsBuilder::new().memory_size(MEMORY).table_elements(TABLE).instances(1).build();
    let mut store: Store<StoreLimits> = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    store.set_fuel(FUEL).map_err(said)?;
    let mut linker = Linker::new(&engine);
    linker.define_unknown_imports_as_default_values(&mut store, &module).map_err(said)?;
    let instance = linker.instantiate(&mut store, &module).map_err(said)?;
    if let Ok(begin) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
        begin.call(&mut store, ()).map_err(said)?;
    }
    let function = instance.get_typed_func::<(), u64>(&mut store, export).map_err(said)?;
    let place = function.call(&mut store, ()).map_err(said)?;
    let Some(Extern::Memory(memory)) = instance.get_export(&mut store, "memory") else {
        return Err("it exports no memory".to_owned());
    };
    let (from, length) = ((place >> 32) as usize, (place & 0xffff_ffff) as usize);
    if length > most {
        return Err(format!("it has {length} bytes, more than {most}"));
    }
    let answer = memory.data(&store).get(from..from.saturating_add(length));
    answer.map(<[u8]>::to_vec).ok_or_else(|| "its answer is outside of its memory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Result<String, String> {
        let text = format!(
            r#"(module (import "wfhost:x/y" "now" (func $now (result i64))) (memory (export "memory") 1 10000)
                (data (i32.const 8) "hello") (func (export "say") (result i64) {body}))"#
        );
        answer(&wat::parse_str(text).unwrap(), "say", 100).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_answer_is_read_and_nothing_reached() {
        assert_eq!(of("i64.const 0x800000005 call $now i64.add").unwrap(), "hello");
        for (body, why) in [
            ("i64.const 0x800000065", "more than 100"),
            ("i64.const 0xffffffff00000005", "outside of its memory"),
            ("unreachable", "unreachable"),
            ("loop br 0 end i64.const 0", "fuel"),
            (
                "i32.const 9000 memory.grow i32.const -1 i32.ne if unreachable end i64.const 0x800000009",
                "\u{0}",
            ),
        ] {
            let said = of(body);
            assert!(said.clone().unwrap_or_else(|error| error).contains(why), "{body}: {said:?}");
        }
        assert!(answer(b"\0asm\x01\0\0\0", "say", 9).is_err() && answer(b"", "say", 9).is_err());
    }
}
