//! Upstream: connections to endpoints, kept and shared by the exchanges of one worker.
//!
//! [`connect`] makes them, [`pool`] keeps them, [`lease`] sends one request on one. [`probe`] asks endpoints whether
//! they are well, beside the traffic. Nothing here chooses an endpoint (that is `balance`) or decides on a retry (that
//! is `l7`); what is here says precisely whether a request had left.

pub mod connect;
pub mod lease;
pub mod pool;
pub mod probe;

pub use connect::ConnectError;
pub use lease::{Lease, SendError};
pub use pool::Pool;
