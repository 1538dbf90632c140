//! Certificates by ACME (RFC 8555): what listeners want is ordered, renewed and given to the snapshot.
//!
//! ```text
//! names that listeners want ─► plan (pure) ─► order ─► store ─► certificates, answers ─► snapshot
//!                               ▲                        │
//!                               └────────────────────────┘ what is there, read again every second
//! ```
//! The store is the only truth. What this replica serves and answers is what is in the store, whoever put it there; so
//! replicas that share it serve the same certificates and answer each other's challenges. Who orders holds a lock on it. Where
//! its bytes are is the affair of its [`vault`]: a directory, or what somebody else brings.
//!
//! Each name has a certificate of its own, so that a name whose DNS is wrong harms no other. What to do and when is
//! decided in [`plan`], on plain data. Everything here is on the control plane; nothing is on the path of a request but
//! a look at an empty pointer (`src/snapshot/challenges.rs`).

mod challenge;
mod directory;
mod hook;
mod order;
pub mod plan;
mod runner;
pub mod status;
pub mod store;
pub mod vault;

pub use runner::{Change, Runner, Vaults, Wanted};
pub use status::{CertificateStatus, State, Status};

/// The source of what comes from here.
pub const SOURCE: &str = "acme";
