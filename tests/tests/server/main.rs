//! The HTTP server, by the real binary over real sockets.

mod access;
mod api;
mod client;
mod docs;
mod events;
mod hostile;
mod mcp;
mod metrics;
mod openapi;
mod pages;
mod trace;
mod verbs;
