//! The HTTP server, by the real binary over real sockets.

mod access;
mod api;
mod client;
mod deploy;
mod described;
mod docs;
mod events;
mod export;
mod hooks;
mod hostile;
mod mcp;
mod metrics;
mod openapi;
mod pages;
mod receiver;
mod shutdown;
mod sinks;
mod spaces;
mod trace;
mod verbs;
