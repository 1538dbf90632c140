//! The runtime's leaf parts: timers, tasks and memory in the shape that a worker needs. This room knows no other.

pub mod allocator;
pub mod local;
pub mod pace;
pub mod scratch;
pub mod stream;
pub mod timers;
