//! Places for programs that come and go quickly.
//!
//! The system takes longer to map the memory and the stack of a short program, to fill their pages one by one and to
//! unmap them again, than the program computes. A simulation executes programs thousands of times a second: there a
//! program takes the place of an earlier one, whose pages stay and get their first contents back (wasmtime's pooling
//! allocator). A program that needs more than a place has, or comes when all are taken, is executed as usual. No
//! program can observe the difference, fuel included.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::{Enabled, Engine as Wasmtime, InstanceAllocationStrategy, PoolingAllocationConfig};
use wfhost_core::{Digest, limits};

use super::variant::Variant;
use super::{Fitted, Module, address_space_is_limited, settings};

/// Programs that have a place at the same time. Each memory reserves address space, so there are not more than are
/// used: the runs of a family, on each thread.
const PLACES: u32 = 64;
/// What a place has. Components of the usual tools have one memory, two tables and a few core instances.
const MEMORIES: u32 = 2;
const TABLES: u32 = 4;
const CORE_INSTANCES: u32 = 128;
/// Bytes of a memory that stay with its place.
const KEPT_BYTES: usize = 8 << 20;
const KEPT_TABLE_BYTES: usize = 64 << 10;

pub(super) struct Pool {
    variant: Variant,
    places: Arc<Semaphore>,
    /// Those that need more than a place has.
    unfit: Mutex<BTreeSet<Digest>>,
    taken: AtomicU64,
}

impl Pool {
    /// None where the system does not give so much address space.
    pub fn new() -> Option<Self> {
        if address_space_is_limited() {
            return None;
        }
        // Each program that is dropped while it waits ends with an error of wasmtime's. Where `RUST_BACKTRACE` is set,
        // as in many a CI, it would hold a backtrace of this program's own functions, which nobody reads, and which
        // takes longer than starting the next one; threads would make it one after the other.
        wasmtime::error::disable_backtrace();
        let mut places = PoolingAllocationConfig::new();
        places
            .total_component_instances(PLACES)
            .total_core_instances(PLACES * CORE_INSTANCES)
            .max_core_instances_per_component(CORE_INSTANCES)
            .total_memories(PLACES * MEMORIES)
            .max_memories_per_component(MEMORIES)
            .max_memories_per_module(MEMORIES)
            .total_tables(PLACES * TABLES)
            .max_tables_per_component(TABLES)
            .max_tables_per_module(TABLES)
            .table_elements(usize::try_from(limits::TABLE_ELEMENTS).unwrap_or(usize::MAX))
            // With one to spare for each, should its first not be free yet.
            .total_stacks(2 * PLACES);
        // Without it the system would have to be asked for fresh pages, or all pages be written.
        if PoolingAllocationConfig::is_pagemap_scan_available() {
            places.pagemap_scan(Enabled::Yes);
            places.linear_memory_keep_resident(KEPT_BYTES).table_keep_resident(KEPT_TABLE_BYTES);
        }
        let mut config = settings(limits::STACK_BYTES, false).ok()?;
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(places));
        let variant = Variant::new(Wasmtime::new(&config).ok()?).ok()?;
        let places = Arc::new(Semaphore::new(PLACES as usize));
        Some(Self { variant, places, unfit: Mutex::default(), taken: AtomicU64::new(0) })
    }

    /// The module with a place, which is free again when that of the result is dropped.
    pub fn fit(&self, module: &Module) -> Option<Fitted> {
        let mut unfit = self.unfit.lock().unwrap_or_else(PoisonError::into_inner);
        if unfit.contains(&module.digest) {
            return None;
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let Ok(program) = self.variant.program(module) else {
            unfit.insert(module.digest);
            return None;
        };
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(Fitted { wasmtime: self.variant.wasmtime.clone(), program, place: Some(place) })
    }

    /// How often a place was taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}
