//! HTTP: the life of an exchange, and the rules of what is passed on.
pub mod headers;
pub mod interim;
pub mod path;
pub mod refusal;
