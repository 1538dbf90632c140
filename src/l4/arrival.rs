//! Who a relayed connection comes from.

use std::net::SocketAddr;
use std::rc::Rc;

use http::HeaderValue;

use super::proxy_protocol::Header;
use super::redirected::Redirected;
use crate::model::tls::SpiffeId;

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
    /// What a proxy in front has said of it beside addresses.
    pub introduced: Option<Box<Header>>,
    /// What carries it.
    pub carrier: Carrier,
    /// Where it goes, if it was redirected; else the listener's rules say it.
    pub redirected: Option<Rc<Redirected>>,
    /// Who the client is, if its sidecar has shown it.
    pub known: Option<Rc<KnownPeer>>,
}

/// A client whose sidecar has shown by mTLS who it is.
#[derive(Clone, Debug)]
pub struct KnownPeer {
    /// Its name.
    pub id: SpiffeId,
    /// The same for an app that speaks HTTP: `X-Forwarded-Client-Cert`.
    pub field: HeaderValue,
}

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A connection in clear text, or of which nothing is known.
    Tcp,
    /// A connection whose TLS ends here.
    Tls,
    /// A connection whose TLS is that of a sidecar, and ends here.
    Mtls,
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
            Self::Mtls => "mtls",
            Self::Passthrough => "tls-passthrough",
            Self::Udp => "udp",
        }
    }
}

impl Arrival {
    /// A connection of which nothing is known but its addresses.
    pub fn unknown(bind: SocketAddr, local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            bind,
            local,
            peer,
            name: None,
            alpn: None,
            introduced: None,
            carrier: Carrier::Tcp,
            redirected: None,
            known: None,
        }
    }

    /// What endpoints are told of it by the PROXY protocol.
    pub fn header(&self) -> Header {
        let said = self.introduced.as_deref();
        Header {
            addresses: Some((self.peer, self.local)),
            authority: self
                .name
                .clone()
                .or_else(|| said.and_then(|said| said.authority.clone())),
            alpn: self
                .alpn
                .clone()
                .or_else(|| said.and_then(|said| said.alpn.clone())),
            unique_id: said.and_then(|said| said.unique_id.clone()),
        }
    }

    /// The name that it asked for; empty when there is none.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}
