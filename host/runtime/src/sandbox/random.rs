//! `wasi:random`: the run's random stream.

use wfhost_core::limits;

use super::bindings::wasi::random::{insecure, insecure_seed, random};
use super::cost;
use crate::RunCtx;

impl RunCtx {
    async fn random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        if length > limits::RANDOM_BYTES {
            wasmtime::bail!(
                "the program asks for {length} random bytes at once, {} are allowed",
                limits::RANDOM_BYTES
            );
        }
        self.charge(cost::CALL + length).await;
        let mut bytes = vec![0; length as usize];
        self.shared.lock().machine.random(&mut bytes);
        Ok(bytes)
    }

    async fn random_number(&mut self) -> u64 {
        self.charge(cost::CALL).await;
        let mut bytes = [0; 8];
        self.shared.lock().machine.random(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl random::Host for RunCtx {
    async fn get_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length).await
    }

    async fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random_number().await)
    }
}

impl insecure::Host for RunCtx {
    async fn get_insecure_random_bytes(&mut self, length: u64) -> wasmtime::Result<Vec<u8>> {
        self.random_bytes(length).await
    }

    async fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random_number().await)
    }
}

impl insecure_seed::Host for RunCtx {
    async fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.random_number().await, self.random_number().await))
    }
}
