//! Downstream: where clients arrive.
//!
//! [`socket`] binds, [`workers`] runs the data-plane threads, [`accept`] takes connections, [`connection`] serves one of
//! them. `handshake` makes TLS of one, which is a [`stream`] then. [`gate`] and [`framing`] stand between an HTTP/1 client's bytes and the HTTP library.

pub mod accept;
pub mod connection;
pub mod framing;
pub mod gate;
mod handshake;
pub mod socket;
pub mod stream;
pub mod workers;
