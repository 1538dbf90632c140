//! A worker.
pub mod timers;
