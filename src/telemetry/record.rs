//! The record of one ended exchange: plain data that the data plane fills from what it has at hand,
//! borrowed for the moment in which the metrics and the access log read it.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Outcome;

/// What is known of an exchange when it has ended. Text is as the client sent it: whoever writes it
/// down escapes it.
#[derive(Clone, Debug)]
pub struct ExchangeRecord<'a> {
    /// Why it ended.
    pub outcome: Outcome,
    /// The status sent to the client; 0: none was.
    pub status: u16,
    /// The HTTP version that the client speaks.
    pub version: http::Version,
    /// The client's address (after PROXY protocol and trusted `X-Forwarded-For`, if those are in use).
    pub client: SocketAddr,
    /// The method.
    pub method: &'a http::Method,
    /// The host that was asked for, without interpretation; empty when there was none.
    pub host: &'a str,
    /// Path and query as received.
    pub path: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The route's name; empty when none was found.
    pub route: &'a str,
    /// The backend's name; empty when none was chosen.
    pub backend: &'a str,
    /// Who the client is, as its sidecar has shown by mTLS; empty when it has not.
    pub identity: &'a str,
    /// The endpoint of the last attempt.
    pub endpoint: Option<SocketAddr>,
    /// Attempts made, the first included; 0 when nothing was sent upstream.
    pub attempts: u8,
    /// Whether one of them was made beside another.
    pub hedge: Hedge,
    /// Bytes of the request's body that came from the client.
    pub request_bytes: u64,
    /// Bytes of the response's body that were passed to the client.
    pub response_bytes: u64,
    /// When the request's head was complete: microseconds since 1970 ([`unix_us`]).
    pub started_unix_us: u64,
    /// From there to the end of the response's body, in microseconds.
    pub duration_us: u64,
    /// From there to the head of the response from an endpoint, in microseconds. None: none came.
    pub head_us: Option<u32>,
    /// The `User-Agent` field.
    pub user_agent: Option<&'a str>,
    /// The identity of the request, taken from the client or made by Tidegate.
    pub request_id: Option<&'a str>,
}

/// Whether an attempt was made beside another, and which of the two counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedge {
    /// There was none.
    #[default]
    None,
    /// The first attempt counted.
    Lost,
    /// The second attempt counted.
    Won,
}

impl Hedge {
    /// The word for it; empty when there was none.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Lost => "lost",
            Self::Won => "won",
        }
    }
}

/// What is known of a relayed connection, or a session of datagrams, when it has ended.
#[derive(Clone, Debug)]
pub struct RelayRecord<'a> {
    /// Why it ended.
    pub outcome: Outcome,
    /// What carried it: `tcp`, `tls`, `mtls`, `tls-passthrough`, `udp`.
    pub protocol: &'static str,
    /// The client's address (after PROXY protocol, if that is in use).
    pub client: SocketAddr,
    /// The name that the client asked for in its TLS handshake; empty when there was none.
    pub host: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The route's name; empty when none was found.
    pub route: &'a str,
    /// The backend's name; empty when none was chosen.
    pub backend: &'a str,
    /// Who the client is, as its sidecar has shown by mTLS; empty when it has not.
    pub identity: &'a str,
    /// The endpoint of the last attempt.
    pub endpoint: Option<SocketAddr>,
    /// Attempts to connect, the first included.
    pub attempts: u8,
    /// Bytes that came from the client.
    pub request_bytes: u64,
    /// Bytes that came from the endpoint.
    pub response_bytes: u64,
    /// When it began: microseconds since 1970.
    pub started_unix_us: u64,
    /// How long it lasted, in microseconds.
    pub duration_us: u64,
    /// The connecting to the endpoint, in microseconds. None: there was no connection.
    pub connect_us: Option<u32>,
    /// From the client's first bytes (or the connection's start, if the endpoint spoke first) to the endpoint's first, in
    /// microseconds. None: none came.
    pub head_us: Option<u32>,
}

/// Microseconds since 1970; 0 for times before.
pub fn unix_us(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
