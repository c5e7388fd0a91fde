//! `wasi:random`: the run's random stream.

use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};

use crate::engine::RunCtx;

/// Bytes that a program may ask for at once.
const MAX_BYTES: u64 = 1 << 20;

impl RunCtx {
    fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > MAX_BYTES {
            wasmtime::bail!("the program asks for {length} random bytes at once, {MAX_BYTES} are allowed");
        }
        let mut bytes = vec![0; length as usize];
        self.shared.lock().machine.random(&mut bytes);
        Ok(bytes)
    }

    fn random_number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.shared.lock().machine.random(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl random::Host for RunCtx {
    fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random_number())
    }
}

impl insecure::Host for RunCtx {
    fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random_number())
    }
}

impl insecure_seed::Host for RunCtx {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.random_number(), self.random_number()))
    }
}
