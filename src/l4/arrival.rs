//! Who a relayed connection comes from.

use std::net::SocketAddr;

/// A client's connection, or a session of datagrams, as far as it is known before a byte of it is passed on.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The address of the listener as configured: the key into the snapshot.
    pub bind: SocketAddr,
    /// Where the client connected to.
    pub local: SocketAddr,
    /// The client.
    pub peer: SocketAddr,
    /// The name that it asked for in its TLS handshake (SNI), in lower case.
    pub name: Option<Box<str>>,
    /// The application protocol that was agreed on in it (ALPN).
    pub alpn: Option<Box<[u8]>>,
    /// What carries it.
    pub carrier: Carrier,
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A connection in clear text, or of which nothing is known.
    Tcp,
    /// A connection whose TLS ends here.
    Tls,
    /// A connection whose TLS is passed on unopened.
    Passthrough,
    /// Datagrams.
    Udp,
}

impl Carrier {
    /// The word for it in the access log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Passthrough => "tls-passthrough",
            Self::Udp => "udp",
        }
    }
}

impl Arrival {
    /// The name that it asked for; empty when there is none.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}
