//! The file's shape, as serde and the JSON schema see it; nothing is decided here.
//!
//! Every mapping refuses unknown keys. There is no `flatten`, no `untagged` and no inner tag:
//! those lose places and let typos pass. The comments of fields are the texts that editors show.

pub mod acme;
pub mod backend;
pub mod filter;
pub mod mtls;
pub mod route;
pub mod text;
pub mod tls;

use schemars::JsonSchema;
use serde::Deserialize;

use super::place::{Placed, PlacedMap};
use acme::RawAcme;
use backend::RawBackend;
use mtls::{RawIdentity, RawInboundMtls};
use route::RawRoute;
use text::{DurationOrNone, DurationText, ListenAddress, NetworkText, SizeText};
use tls::RawListenerTls;

/// A Tidegate configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tidegate configuration")]
pub struct RawConfig {
    /// Data-plane threads. Default: the cores that the process may use.
    pub workers: Option<Placed<u32>>,
    /// The read-only listener for metrics, readiness and the dashboard.
    pub admin: Option<RawAdmin>,
    /// What is written about exchanges.
    pub log: Option<RawLog>,
    /// What happens between SIGTERM and the end.
    pub drain: Option<RawDrain>,
    /// Whether responses that Tidegate made itself say why, in a Proxy-Status field. Default: true.
    pub proxy_status_header: Option<Placed<bool>>,
    /// The zone that the process is in, for backends that go by `locality`. `--zone` and the environment's TIDEGATE_ZONE go before it. Default: unknown.
    pub zone: Option<Placed<String>>,
    /// A directory of Kubernetes objects as YAML files, watched. Relative to this file.
    pub manifests: Option<Placed<String>>,
    /// How certificates are got by ACME, for listeners that leave names to it. Default: not at all.
    pub acme: Option<Placed<RawAcme>>,
    /// Who this process is towards other sidecars, for mTLS. Default: nobody.
    pub identity: Option<Placed<RawIdentity>>,
    /// How names of endpoints are resolved.
    pub dns: Option<RawDns>,
    /// Short for one listener called `http` with this address. Instead of `listeners`.
    pub listen: Option<ListenAddress>,
    /// Where clients arrive, by name.
    pub listeners: Option<Placed<PlacedMap<RawListener>>>,
    /// Which requests go where. The most specific match wins, whatever the order.
    pub routes: Option<Vec<Placed<RawRoute>>>,
    /// Groups of endpoints, by name.
    pub backends: Option<PlacedMap<Placed<RawBackend>>>,
}

impl RawConfig {
    /// Whether it says how the process shall be and nothing of what it serves, which then comes from elsewhere: a cluster.
    pub fn has_settings_alone(&self) -> bool {
        let listeners = self.listeners.as_ref();
        let serves = self.listen.is_some()
            || listeners.is_some_and(|listeners| !listeners.value.0.is_empty())
            || self.routes.as_ref().is_some_and(|routes| !routes.is_empty())
            || self
                .backends
                .as_ref()
                .is_some_and(|backends| !backends.0.is_empty());
        let sets = self.workers.is_some()
            || self.admin.is_some()
            || self.log.is_some()
            || self.drain.is_some()
            || self.proxy_status_header.is_some()
            || self.dns.is_some()
            || self.zone.is_some()
            || self.identity.is_some()
            || self.acme.is_some();
        sets && !serves
    }
}

/// The read-only listener for metrics, readiness and the dashboard.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAdmin {
    /// Whether it is there. Default: true.
    pub enabled: Option<Placed<bool>>,
    /// Where it listens. Default: 127.0.0.1:9901.
    pub address: Option<ListenAddress>,
}

/// What is written about exchanges.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLog {
    /// One line per exchange. Default: none.
    pub access: Option<RawAccessLog>,
}

/// One line per exchange.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAccessLog {
    /// How a line looks. Default: json.
    pub format: Option<RawLogFormat>,
    /// `stdout`, `stderr`, or a file's path (relative to this file, it contains a `/`). Default: stdout.
    pub to: Option<Placed<String>>,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawLogFormat {
    /// One JSON object per line.
    Json,
    /// Words separated by spaces.
    Text,
}

/// What happens between SIGTERM and the end.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDrain {
    /// New connections are still accepted for this long, while load balancers take notice. Default: 0s.
    pub lag: Option<DurationText>,
    /// Then exchanges have this long to end. Default: 30s.
    pub timeout: Option<DurationText>,
    /// Within that time, connections are accepted as long as an exchange is under way or the app beside holds a connection. Default: false.
    pub while_busy: Option<Placed<bool>>,
}

/// How names of endpoints are resolved.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDns {
    /// After how long the system's resolver is asked again for a name. Default: 5s.
    pub refresh: Option<DurationText>,
}

/// One place where clients arrive.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawListener {
    /// Where the socket is bound. `:80` is every IPv4 address, `[::]:80` every IPv6 (and, as Linux has it, IPv4) address.
    pub address: ListenAddress,
    /// The hostnames that belong to it: `shop.example.com`, "*.example.com". Default: all.
    pub hostname: Option<Placed<String>>,
    /// What is done with what clients send. Default: http.
    pub protocol: Option<Placed<RawListenerKind>>,
    /// Which way connections go that the kernel redirects here; each goes on to where its client wanted to go. Instead of `protocol`.
    pub transparent: Option<Placed<RawDirection>>,
    /// Where to, if not `http`: a backend's name or an IP address with a port. Instead of routes.
    pub to: Option<Placed<String>>,
    /// What may be spoken. Default: [h1, h2c], with `tls` [h1, h2].
    pub protocols: Option<Placed<Vec<RawListenerProtocol>>>,
    /// How TLS is ended. Default: clear text.
    pub tls: Option<Placed<RawListenerTls>>,
    /// Whether other sidecars show who they are. Default: nobody is asked.
    pub mtls: Option<Placed<RawInboundMtls>>,
    /// Bounds on what a client may do.
    pub limits: Option<RawListenerLimits>,
    /// Connections begin with a PROXY header (version 1 or 2), which says who the client is. Default: with the client's own bytes.
    pub proxy_protocol: Option<Placed<RawProxyProtocol>>,
    /// Networks whose X-Forwarded-* and Forwarded fields are believed. Default: none.
    pub trusted_proxies: Option<Vec<NetworkText>>,
    /// Whether clients that ask with `endpoint-load-metrics-format: TEXT` are told how many exchanges are in flight. Default: false.
    pub load_reports: Option<Placed<bool>>,
}

/// Connections begin with a PROXY header, which says who the client is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawProxyProtocol {
    /// Networks that may say it; connections from elsewhere are refused.
    pub from: Placed<Vec<NetworkText>>,
    /// Time for it to arrive. Default: 3s.
    pub deadline: Option<DurationText>,
}

/// What is done with what clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawListenerKind {
    /// Requests are read, and each goes its own way.
    Http,
    /// Bytes are relayed as they come.
    Tcp,
    /// TLS is ended if `tls` is there, else passed on unopened; then bytes are relayed as they come.
    Tls,
    /// Datagrams are relayed.
    Udp,
}

/// Which way redirected connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawDirection {
    /// To the app beside which Tidegate runs.
    Inbound,
    /// From the app.
    Outbound,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawListenerProtocol {
    /// HTTP/1.0 and HTTP/1.1.
    H1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 in clear text with prior knowledge.
    H2c,
}

/// Bounds on what a client may do.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawListenerLimits {
    /// Open connections on the address. Default: 50000.
    pub max_connections: Option<Placed<u32>>,
    /// Size of a request's head. Default: 32KiB.
    pub max_head: Option<SizeText>,
    /// Fields of a request's head. Default: 100.
    pub max_headers: Option<Placed<u32>>,
    /// Time for a request's head to arrive. Default: 10s.
    pub head_deadline: Option<DurationText>,
    /// Silence allowed within a body. Default: 30s.
    pub body_idle: Option<DurationText>,
    /// Silence allowed between two requests of a connection. Default: 75s.
    pub keep_alive_idle: Option<DurationText>,
    /// Streams open at once on an HTTP/2 connection. Default: 100.
    pub max_concurrent_streams: Option<Placed<u32>>,
    /// HTTP/2 flow-control window of a stream. Default: 64KiB.
    pub stream_window: Option<SizeText>,
    /// HTTP/2 flow-control window of a connection. Default: 1MiB.
    pub connection_window: Option<SizeText>,
    /// Datagrams of an endpoint after which a session of `udp` ends: 1 for DNS. Default: any number.
    pub responses: Option<Placed<u32>>,
    /// Silence of both sides allowed in a relayed connection or session. Default: 1h, with `udp` 1m.
    pub relay_idle: Option<DurationOrNone>,
    /// How long the first bytes of a redirected connection are waited for, to see what is spoken. Default: 250ms.
    pub detect: Option<DurationText>,
    /// Ports whose redirected connections are relayed without a look. Default: [25, 587, 3306, 4444, 5432, 6379, 9300, 11211].
    pub opaque_ports: Option<Vec<Placed<u32>>>,
    /// Time for a TLS handshake. Default: 10s.
    pub handshake_deadline: Option<DurationText>,
    /// TLS handshakes under way on the address. Default: 4096.
    pub max_handshakes: Option<Placed<u32>>,
}
