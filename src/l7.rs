//! x
pub mod interim;
pub mod refusal;
