//! Downstream: where clients arrive.
//!
//! [`socket`] binds, [`workers`] runs the data-plane threads, [`accept`] takes connections, [`connection`] serves one of
//! them, of which `handshake` makes TLS before, and `mtls` asks other sidecars who they are; `watch` looks after it meanwhile.
//! [`gate`] and [`framing`] stand between an HTTP/1 client's bytes and the HTTP library.

pub mod accept;
pub mod connection;
pub mod framing;
pub mod gate;
mod handshake;
mod introduce;
mod mtls;
mod redirected;
pub mod socket;
mod watch;
pub mod workers;
