//! Upstream: connections to endpoints, kept and shared by the exchanges of one worker.
//!
//! [`connect`] makes them, [`pool`] keeps them, [`lease`] carries one exchange on one, [`http1`] speaks HTTP/1.1 on it.
//! [`probe`] asks endpoints whether they are well, beside the traffic, [`resolve`] where those are that are known by name. Nothing here chooses an endpoint (that is `balance`) or decides on a retry (that
//! is `l7`); what is here says precisely whether a request had left.

pub mod connect;
pub mod http1;
pub mod lease;
pub mod pool;
pub mod probe;
pub mod resolve;

pub use connect::ConnectError;
pub use lease::{Fate, Lease, SendError};
pub use pool::{Pool, Whose, tls_of};
