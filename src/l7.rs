//! HTTP: the life of an exchange, and the rules of what is passed on.
//!
//! [`exchange`] is the story; every other file is one step of it. Deciding is kept apart from doing: [`plan`],
//! [`headers`], [`path`], [`filters`], [`retry`] and [`failure`] are pure and tested in tables.

mod admit;
pub mod attempt;
pub mod body;
pub mod client_certificate;
pub mod cors;
pub mod downstream;
pub mod exchange;
pub mod failure;
pub mod filters;
pub mod headers;
pub mod hedge;
pub mod interim;
pub mod load_report;
pub mod mirror;
pub mod outgoing;
pub mod path;
pub mod plan;
pub mod record;
pub mod refusal;
pub mod reply;
pub mod retry;
pub mod sticky;
pub mod upgrade;
pub mod upload;
pub mod worker;
