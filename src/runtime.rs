//! The runtime's leaf parts: timers and tasks in the shape that a worker needs. This room knows no other.

pub mod local;
pub mod timers;
