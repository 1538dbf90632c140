//! Tidegate: a low-latency L4/L7 load-balancing proxy.
//!
//! The rooms, and which may know which, are drawn in `ARCHITECTURE.md`; `tests/rooms.rs` holds the line.

pub mod acme;
pub mod admin;
pub mod app;
pub mod balance;
pub mod cli;
pub mod config;
pub mod demo;
pub mod downstream;
pub mod inject;
pub mod kubernetes;
pub mod l4;
pub mod l7;
pub mod model;
pub mod runtime;
pub mod sidecar;
pub mod snapshot;
pub mod telemetry;
pub mod upstream;
