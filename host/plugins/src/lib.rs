//! Agents that are WebAssembly components.
