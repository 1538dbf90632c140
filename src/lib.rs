//! Tidegate: a low-latency L4/L7 load-balancing proxy.
//!
//! The rooms, and which may know which, are drawn in `ARCHITECTURE.md`; `tests/rooms.rs` holds the line.

pub mod admin;
pub mod model;
pub mod telemetry;
