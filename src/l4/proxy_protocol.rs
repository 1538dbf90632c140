//! The PROXY protocol: what a proxy in front says of a client before the client's own bytes, and what we say to endpoints.
//!
//! After <https://www.haproxy.org/download/3.3/doc/proxy-protocol.txt>, versions 1 and 2. Who may say it is decided by the listener's
//! networks before a byte is read; here is only the form. Reading is strict: a header that is not exactly as the text has it is
//! refused, because what two programs read differently tells one of them a false address.
//!
//! A header is read piece by piece, never a byte beyond it ([`Reader::wants`]), so that what follows stays in the socket.

mod read;
mod write;

use std::net::SocketAddr;

pub use read::{HeaderError, Reader, Want};
pub use write::write;

pub use crate::model::ProxyVersion as Version;

/// Bytes of a header of version 2. Addresses take 36 at the most; the rest is room for what proxies add.
pub const MAX_HEADER: usize = 4096;
/// Bytes of a header of version 1, its line's end included (§2.1).
pub const MAX_LINE: usize = 107;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The client, and where it connected to. None: the connection is the proxy's own (a check, `LOCAL`), or it does not
    /// know (`UNKNOWN`, `UNSPEC`): what the socket says counts.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The name that the client asked for, in TLS (SNI).
    pub authority: Option<Box<str>>,
    /// The application protocol that was agreed on with it (ALPN).
    pub alpn: Option<Box<[u8]>>,
    /// A name for the connection.
    pub unique_id: Option<Box<[u8]>>,
}

/// Types of what may follow the addresses in version 2 (§2.2.4 and below).
mod types {
    pub const ALPN: u8 = 0x01;
    pub const AUTHORITY: u8 = 0x02;
    pub const CRC32C: u8 = 0x03;
    pub const UNIQUE_ID: u8 = 0x05;
}

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The Castagnoli CRC of RFC 4960 appendix B, by which a header may protect itself.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// The polynomial, its bits turned around.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ POLYNOMIAL,
        })
    })
}

#[cfg(test)]
mod tests;
