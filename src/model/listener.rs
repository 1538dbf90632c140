//! Listeners: an address, what is spoken there, which hostnames, and the bounds on what a client may do.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::{HostPattern, InboundMtls, ListenerName, ListenerTls};

/// One place where clients arrive.
///
/// Several listeners may share an address when their hostnames differ; a request goes to the one
/// with the most specific hostname (Gateway API, "HTTP listener isolation").
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Unique among all sources.
    pub name: ListenerName,
    /// Where the socket is bound. Port 0 asks the kernel for a free one.
    pub address: SocketAddr,
    /// The port that clients come to, where something in front leads them here to another one: the Service of a Gateway. None: the
    /// address's own. Listeners that share an address have the same.
    pub public_port: Option<NonZeroU16>,
    /// The hostnames that belong to this listener.
    pub hostname: HostPattern,
    /// What is done with what clients send.
    pub kind: ListenerKind,
    /// What may be spoken, where requests are read.
    pub protocols: Protocols,
    /// How TLS is ended. None: clear text. Listeners that share an address all have it or none.
    pub tls: Option<Arc<ListenerTls>>,
    /// What a client may do. Listeners that share an address use the limits of the first by name.
    pub limits: ListenerLimits,
}

/// What is done with what clients send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerKind {
    /// Requests are read, and each goes its own way.
    #[default]
    Http,
    /// Bytes are relayed as they come, in clear text.
    Tcp,
    /// TLS is ended if the listener has any, else passed on unopened; then bytes are relayed as they come. The name that
    /// the client asks for (SNI) says where to.
    Tls,
    /// Datagrams are relayed, by session.
    Udp,
    /// Connections that the kernel redirected here: each goes where its client wanted to go, or to the backend that is
    /// known by that address; requests one by one, other bytes as they come.
    Redirected(Direction),
    /// Requests of connections that were redirected on their way from the app, and that were meant for this address: a
    /// Service's, say. Nothing is bound there.
    Destination,
}

/// Which way redirected connections go, as seen by the app beside which Tidegate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the app.
    Inbound,
    /// From the app.
    Outbound,
}

impl Direction {
    /// The word for it in configuration and views.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl ListenerKind {
    /// The word for it in configuration and views.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Redirected(_) => "redirected",
            Self::Destination => "destination",
        }
    }

    /// What its socket is for.
    pub const fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Tcp | Self::Tls | Self::Redirected(_) => Transport::Tcp,
            Self::Udp => Transport::Udp,
            Self::Destination => Transport::Redirected,
        }
    }
}

impl Listener {
    /// What has to come first on a connection. Listeners share an address only if this is the same for all.
    pub fn opening(&self) -> Opening {
        match self.kind {
            ListenerKind::Http if self.tls.is_none() => Opening::Http,
            ListenerKind::Http | ListenerKind::Tls => Opening::Tls,
            ListenerKind::Destination => Opening::Http,
            ListenerKind::Tcp | ListenerKind::Udp => Opening::Anything,
            ListenerKind::Redirected(direction) => Opening::Redirected(direction),
        }
    }

    /// What tells its socket from others: where it is, and what it is for.
    pub fn socket(&self) -> Socket {
        (self.address, self.transport())
    }

    /// The port that clients come to.
    pub fn port(&self) -> u16 {
        self.public_port.map_or(self.address.port(), NonZeroU16::get)
    }

    /// What its socket is for.
    pub fn transport(&self) -> Transport {
        self.kind.transport()
    }
}

/// What has to come first on a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Opening {
    /// A request in clear text.
    Http,
    /// A TLS handshake.
    Tls,
    /// Anything: nobody looks.
    Anything,
    /// Anything, and it is looked at.
    Redirected(Direction),
}

impl Opening {
    /// In words, for complaints.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Http => "clear text",
            Self::Tls => "TLS",
            Self::Anything => "bytes that nobody looks into",
            Self::Redirected(Direction::Inbound) => "what others send to the app",
            Self::Redirected(Direction::Outbound) => "what the app sends",
        }
    }
}

/// Where a socket is, and what it is for.
pub type Socket = (SocketAddr, Transport);

/// What a socket is for. An address may be taken once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// Connections that come in elsewhere and were meant for the address: there is no socket.
    Redirected,
}

impl Transport {
    /// Whether a socket is bound for it.
    pub const fn is_bound(self) -> bool {
        match self {
            Self::Tcp | Self::Udp => true,
            Self::Redirected => false,
        }
    }

    /// The word for it in the log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Redirected => "redirected",
        }
    }
}

/// HTTP versions a listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.0 and HTTP/1.1.
    pub http1: bool,
    /// HTTP/2: in clear text with prior knowledge (RFC 9113 §3.3), over TLS by ALPN (§3.2).
    pub http2: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self {
            http1: true,
            http2: true,
        }
    }
}

/// Bounds on what a client may do; every one is on by default.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerLimits {
    /// Open connections on the address, over all workers; more are accepted and closed at once.
    pub max_connections: u32,
    /// Bytes of a request's head (request line and fields).
    pub max_head_bytes: u32,
    /// Fields of a request's head.
    pub max_headers: u16,
    /// From the connection's start, or the first byte of a later request, to the end of the head.
    pub head_deadline: Duration,
    /// Silence allowed within a request or response body, towards or from the client.
    pub body_idle: Duration,
    /// Silence allowed between two requests of a connection.
    pub keep_alive_idle: Duration,
    /// Streams open at once on an HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2 flow-control window of a stream, in bytes.
    pub stream_window: u32,
    /// HTTP/2 flow-control window of a connection, in bytes.
    pub connection_window: u32,
    /// From a connection's start to the end of its TLS handshake.
    pub handshake_deadline: Duration,
    /// TLS handshakes under way on the address, over all workers; more connections are closed at once.
    pub max_handshakes: u32,
    /// Silence of both sides allowed in a relayed connection or a session of datagrams. None: any.
    pub relay_idle: Option<Duration>,
    /// Datagrams of an endpoint after which a session ends. None: any.
    pub responses: Option<u32>,
    /// What connections have to begin with. None: with the client's own bytes.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether other sidecars show who they are. None: nobody is asked. It has no say where the listener has TLS.
    pub mtls: Option<InboundMtls>,
    /// How long the first bytes of a redirected connection are waited for, to see what is spoken.
    pub detect: Duration,
    /// Ports of destinations whose redirected connections are relayed without a look.
    pub opaque_ports: Vec<u16>,
    /// Networks whose `X-Forwarded-*` and `Forwarded` fields are believed and extended, not replaced.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Whether clients that ask for it are told how many exchanges are in flight.
    pub load_reports: bool,
}

/// Every connection begins with a header of the PROXY protocol, in which a proxy in front says who the client is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyProtocol {
    /// Networks that may say it; connections from elsewhere are refused. Never empty.
    pub from: Vec<ipnet::IpNet>,
    /// From the connection's start to the header's end.
    pub deadline: Duration,
}

impl ListenerLimits {
    /// The silence allowed where bytes are relayed, unless something else is asked for: long for connections, which end by
    /// themselves, short for sessions of datagrams, which do not.
    pub const fn relay_idle_of(kind: ListenerKind) -> Option<Duration> {
        match kind {
            ListenerKind::Udp => Some(Duration::from_secs(60)),
            ListenerKind::Http
            | ListenerKind::Tcp
            | ListenerKind::Tls
            | ListenerKind::Redirected(_)
            | ListenerKind::Destination => Some(Duration::from_secs(3600)),
        }
    }
}

/// Ports of protocols in which the server speaks first, or that are not HTTP for sure: SMTP twice, MySQL, its cluster's
/// replication, PostgreSQL, Redis, Elasticsearch's transport, memcached. The list is Linkerd's, which its users know.
pub const OPAQUE_PORTS: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            max_head_bytes: 32 * 1024,
            max_headers: 100,
            head_deadline: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive_idle: Duration::from_secs(75),
            max_concurrent_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            handshake_deadline: Duration::from_secs(10),
            max_handshakes: 4096,
            relay_idle: Self::relay_idle_of(ListenerKind::Tcp),
            responses: None,
            proxy_protocol: None,
            mtls: None,
            detect: Duration::from_millis(250),
            opaque_ports: OPAQUE_PORTS.to_vec(),
            trusted_proxies: Vec::new(),
            load_reports: false,
        }
    }
}
