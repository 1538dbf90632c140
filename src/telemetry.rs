//! Telemetry: why every exchange ended, and where that is written: metrics, the access log.
//!
//! This room knows no other. The data plane fills its plain structs; nothing here decides anything.

pub mod outcome;

pub use outcome::Outcome;
