//! Makes valid modules that nobody would write, for `tests/hostile.rs`.
//!
//!     cargo run -- DIRECTORY COUNT [SEED]
//!
//! Every third one is a core module or a component of any kind; the others export `run` and import
//! functions of the workflow world, so that they get as far as being executed. The same seed makes
//! the same files. `tests/corpus/smith` was made by `cargo run -- ../corpus/smith 150 1`; more of
//! them are tried with `WFHOST_FUZZ_MODULES=DIRECTORY cargo test --test sandbox hostile::`.

use std::error::Error;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use wasm_encoder::{CodeSection, Function, RawSection, Section};
use wasm_smith::{Component, Config, Module};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

/// What a workflow may import, as core functions of the canonical ABI.
const IMPORTS: &str = r#"(module
    (import "wfhost:workflow/types@0.1.0" "[resource-drop]step" (func (param i32)))
    (import "wfhost:workflow/types@0.1.0" "[resource-drop]wait-set" (func (param i32)))
    (import "wfhost:workflow/types@0.1.0" "[method]step.id" (func (param i32) (result i64)))
    (import "wfhost:workflow/types@0.1.0" "[method]step.get" (func (param i32 i32)))
    (import "wfhost:workflow/types@0.1.0" "wait-any" (func (param i32 i32) (result i32)))
    (import "wfhost:workflow/types@0.1.0" "[constructor]wait-set" (func (result i32)))
    (import "wfhost:workflow/types@0.1.0" "[method]wait-set.add" (func (param i32 i32 i64)))
    (import "wfhost:workflow/types@0.1.0" "[method]wait-set.remove" (func (param i32 i64)))
    (import "wfhost:workflow/types@0.1.0" "[method]wait-set.next" (func (param i32) (result i64)))
    (import "wfhost:workflow/agent@0.1.0" "run" (func (param i32 i32)))
    (import "wfhost:workflow/agent@0.1.0" "start" (func (param i32) (result i32)))
    (import "wfhost:workflow/sleep@0.1.0" "start" (func (param i64) (result i32)))
    (import "wfhost:workflow/sleep@0.1.0" "start-for" (func (param i64) (result i32)))
    (import "wfhost:workflow/signal@0.1.0" "start" (func (param i32 i32 i32 i64) (result i32)))
    (import "wfhost:workflow/signal@0.1.0" "post" (func (param i32 i32 i32 i32)))
    (import "wfhost:workflow/context@0.1.0" "info" (func (param i32)))
    (import "wfhost:workflow/context@0.1.0" "now" (func (result i64)))
    (import "wfhost:workflow/context@0.1.0" "random" (func (result i64)))
    (import "wfhost:workflow/context@0.1.0" "budget" (func (param i32)))
    (import "wfhost:workflow/context@0.1.0" "patched" (func (param i32 i32) (result i32)))
    (import "wfhost:workflow/context@0.1.0" "cancelled" (func (result i32)))
    (import "wfhost:workflow/context@0.1.0" "phase" (func (param i32 i32)))
    (import "wfhost:workflow/context@0.1.0" "publish" (func (param i32 i32 i32 i32)))
    (import "wfhost:workflow/log@0.1.0" "write" (func (param i32 i32 i32 i32 i32)))
    (import "wfhost:workflow/log@0.1.0" "panicked" (func (param i32 i32 i32 i32 i32))))"#;

/// What a workflow exports.
const EXPORTS: &str = r#"(module
    (memory (export "memory") 1 4)
    (func (export "run") (param i32 i32) (result i32) unreachable)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable))"#;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("wfhost-fuzz DIRECTORY COUNT [SEED]".into());
    };
    let (count, seed): (usize, u64) = (count.parse()?, arguments.next().as_deref().unwrap_or("1").parse()?);
    std::fs::create_dir_all(&directory)?;
    let mut random = Random(seed);
    let mut made = 0;
    while made < count {
        let bytes: Vec<u8> = (0..4_096).map(|_| random.next()).collect();
        // Now and then the bytes lead nowhere.
        let Ok(module) = make(made, &mut Unstructured::new(&bytes)) else { continue };
        std::fs::write(Path::new(&directory).join(format!("{made:05}.wasm")), module)?;
        made += 1;
    }
    Ok(())
}

fn make(index: usize, bytes: &mut Unstructured<'_>) -> Result<Vec<u8>, Box<dyn Error>> {
    match index % 6 {
        0 => Ok(Module::new(Config::arbitrary(bytes)?, bytes)?.to_bytes()),
        3 => Ok(Component::new(Config::arbitrary(bytes)?, bytes)?.to_bytes()),
        _ => answer(&Module::new(workflow()?, bytes)?.to_bytes()),
    }
}

/// A workflow, small enough to be kept by the hundred.
fn workflow() -> Result<Config, Box<dyn Error>> {
    Ok(Config {
        available_imports: Some(wat::parse_str(IMPORTS)?),
        exports: Some(wat::parse_str(EXPORTS)?),
        min_imports: 6,
        max_imports: 20,
        max_funcs: 12,
        max_instructions: 120,
        max_data_segments: 4,
        max_memory32_bytes: 4 << 16,
        max_memories: 1,
        max_table_elements: 1_000,
        gc_enabled: false,
        reference_types_enabled: false,
        exceptions_enabled: false,
        memory64_enabled: false,
        custom_page_sizes_enabled: false,
        threads_enabled: false,
        shared_everything_threads_enabled: false,
        wide_arithmetic_enabled: false,
        relaxed_simd_enabled: true,
        // Which traps come is of interest, but not only them.
        disallow_traps: true,
        ..Config::default()
    })
}

/// The same module with addresses that are aligned and within the memory for what `cabi_realloc` and
/// `run` give: random ones would end nearly all modules at the first or the last of their steps.
fn answer(bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let (mut realloc, mut run) = (None, None);
    let (mut imported, mut code) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    match (export.name, export.kind) {
                        ("cabi_realloc", ExternalKind::Func) => realloc = Some(export.index),
                        ("run", ExternalKind::Func) => run = Some(export.index),
                        _ => {}
                    }
                }
            }
            Payload::CodeSectionEntry(body) => code.push(body.as_bytes().to_vec()),
            _ => {}
        }
    }
    let own = |index: Option<u32>| index.and_then(|index| index.checked_sub(imported));
    let (realloc, run) = own(realloc).zip(own(run)).ok_or("an export is an import")?;
    let mut section = CodeSection::new();
    for (number, mut body) in (0..).zip(code) {
        if number == realloc {
            let mut function = Function::new([]);
            function.instructions().i32_const(1_024).end();
            section.function(&function);
            continue;
        }
        if number == run {
            // Before the last `end`: drop, i32.const 2048.
            body.splice(body.len() - 1..body.len() - 1, [0x1a, 0x41, 0x80, 0x10]);
        }
        section.raw(&body);
    }
    let mut module = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(bytes) {
        if let Some((id, range)) = payload?.as_section() {
            if id == section.id() {
                module.section(&section);
            } else {
                module.section(&RawSection { id, data: &bytes[range] });
            }
        }
    }
    Ok(module.finish())
}

/// splitmix64, https://prng.di.unimi.it/splitmix64.c
struct Random(u64);

impl Random {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u8
    }
}
