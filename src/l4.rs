//! The fourth layer: bytes between two connections.

pub mod copy;
pub mod desk;
pub mod prefixed;
