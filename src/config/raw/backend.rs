//! Backends in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use super::mtls::RawOutboundMtls;
use super::text::{
    AffinityText, ConcurrencyText, DurationOrNone, DurationText, EndpointAddress, EndpointPlaceText,
    ExcessText, HashText, PercentText, StatusRanges,
};
use super::tls::RawUpstreamTls;
use crate::config::place::{Placed, PlacedMap, TextOr};

/// A group of endpoints with one policy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawBackend {
    /// Its endpoints: `10.0.0.1:3000`, `app.internal:3000`, or `{address: 10.0.0.1:3000, weight: 2, zone: a}`.
    pub endpoints: Vec<Placed<TextOr<RawEndpoint>>>,
    /// What is spoken with the endpoints. Default: h1, with `tls` auto.
    pub protocol: Option<Placed<RawBackendProtocol>>,
    /// How connections use TLS. Default: clear text.
    pub tls: Option<Placed<RawUpstreamTls>>,
    /// Connections go by mTLS to the endpoints' sidecars; without it there is no connection. Default: they do not.
    pub mtls: Option<Placed<RawOutboundMtls>>,
    /// Connections begin with a PROXY header, which tells endpoints who the client is. Default: they do not.
    pub proxy_protocol: Option<RawProxyVersion>,
    /// How an endpoint is chosen. Default: least-latency.
    pub balance: Option<RawBalance>,
    /// What `ring-hash` and `maglev` go by. Default: source.
    pub hash: Option<HashText>,
    /// An endpoint with more than this share of the mean load is passed over by hashes and balanced affinity. Default: 150%.
    pub hash_bound: Option<ExcessText>,
    /// Requests that belong together go to one endpoint. Default: none.
    pub affinity: Option<RawAffinity>,
    /// When fewer of the endpoints are available than this, availability is ignored; 0%: never. Default: 50%.
    pub panic: Option<PercentText>,
    /// Which endpoints are near and go first, where `zone` is known. Default: hints.
    pub locality: Option<RawLocality>,
    /// At most so many endpoints of each priority and nearness are used by one process. Default: all.
    pub subset: Option<Placed<u32>>,
    /// Time to make a connection, per attempt. Default: 2s.
    pub connect_timeout: Option<DurationText>,
    /// Bounds on each endpoint.
    pub limits: Option<RawEndpointLimits>,
    /// How many requests may wait for their response's head at once, over all endpoints: `200`, `adaptive`, `none`. Default: none.
    pub concurrency: Option<ConcurrencyText>,
    /// Bounds of an adaptive `concurrency`.
    pub concurrency_shape: Option<Placed<RawConcurrencyShape>>,
    /// The field of requests that says how much they matter: `x-criticality`, or `priority`. Default: none.
    pub criticality_field: Option<Placed<String>>,
    /// When an endpoint is set aside for what it does to requests.
    pub ejection: Option<RawEjection>,
    /// Questions asked of each endpoint beside the traffic. Default: none.
    pub check: Option<Placed<RawCheck>>,
    /// A new or healed endpoint's share grows over this time. Default: 0s, at once.
    pub slow_start: Option<DurationText>,
    /// How it grows.
    pub slow_start_shape: Option<RawSlowStartShape>,
    /// Bound on retries, as a share of requests.
    pub retry_budget: Option<RawRetryBudget>,
    /// A second attempt beside one that takes unusually long; the first good answer wins. Default: none.
    pub hedge: Option<Placed<RawHedge>>,
    /// What becomes of what endpoints say of their load.
    pub load_reports: Option<RawLoadReports>,
    /// Addresses by which clients know it: redirected connections that were meant for one of them go to it. Default: none.
    pub virtual_addresses: Option<Vec<EndpointAddress>>,
    /// Whether nobody looks into redirected connections for it. Default: false.
    pub opaque: Option<Placed<bool>>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawProxyVersion {
    /// A line of text, with the addresses.
    V1,
    /// Bytes, with the addresses and what is known of the client's TLS.
    V2,
}

/// An endpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEndpoint {
    /// Where it is, or under which name; of a name each address is an endpoint.
    pub address: EndpointPlaceText,
    /// Its share beside the others. Default: 1.
    pub weight: Option<Placed<u32>>,
    /// `active`, or `draining`: used only when no endpoint is active. Default: active.
    pub state: Option<RawEndpointState>,
    /// 0 is used first, later ones when too few of the earlier ones are available; up to 7. Default: 0.
    pub priority: Option<Placed<u32>>,
    /// What it speaks. Default: as its backend.
    pub protocol: Option<Placed<RawBackendProtocol>>,
    /// Its zone.
    pub zone: Option<Placed<String>>,
    /// A name to show. Default: its address.
    pub label: Option<Placed<String>>,
}

/// Whether an endpoint takes new requests.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawEndpointState {
    /// It does.
    Active,
    /// Only when no endpoint is active.
    Draining,
}

/// What is spoken with endpoints.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawBackendProtocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 over TLS.
    H2,
    /// HTTP/2 in clear text with prior knowledge.
    H2c,
    /// Over TLS: HTTP/2 if the endpoint agrees to it, else HTTP/1.1.
    Auto,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawBalance {
    /// The one expected to answer soonest.
    LeastLatency,
    /// The one with the fewest exchanges in flight for its weight.
    LeastRequest,
    /// By a hash of the request, from a table: quick and even.
    Maglev,
    /// Any, by weight.
    Random,
    /// By a hash of the request, on a ring: the fewest keys move when endpoints change.
    RingHash,
    /// One after the other, by weight.
    RoundRobin,
}

/// Which endpoints are near and go first.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawLocality {
    /// Those that EndpointSlices hint at for the process's zone.
    Hints,
    /// All alike.
    Off,
    /// Those in the process's zone.
    Zone,
}

/// Requests that belong together go to one endpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAffinity {
    /// What they have in common. Default: cookie.
    pub by: Option<AffinityText>,
    /// How far it goes. Default: strong.
    pub mode: Option<RawAffinityMode>,
    /// The cookie that is set.
    pub cookie: Option<Placed<RawAffinityCookie>>,
}

/// How far affinity goes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAffinityMode {
    /// As long as the endpoint is there, well, and below `max_in_flight`.
    Strong,
    /// Also not to an endpoint above `hash_bound`.
    Balanced,
}

/// The cookie that is set.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAffinityCookie {
    /// Its name. Default: tidegate.
    pub name: Option<Placed<String>>,
    /// How long the client keeps it; `none`: until the browser is closed. Default: none.
    pub ttl: Option<DurationOrNone>,
    /// Below which path the client sends it. Default: /.
    pub path: Option<Placed<String>>,
    /// Whether the client sends it over TLS only. Default: false.
    pub secure: Option<Placed<bool>>,
    /// Whether the client sends it with requests that other sites cause. Default: lax.
    pub same_site: Option<RawSameSite>,
}

/// Whether the client sends a cookie with requests that other sites cause.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawSameSite {
    /// Only when the user follows a link.
    Lax,
    /// Always; browsers then want it to be secure.
    None,
    /// Never.
    Strict,
}

/// How a slow start grows: weight * max(minimum, (age / slow_start)^(1 / aggression)).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSlowStartShape {
    /// 1: in a straight line; more: sooner. Default: 1.
    pub aggression: Option<Placed<u32>>,
    /// What an endpoint begins with, in whole percent of its weight. Default: 10%.
    pub minimum: Option<PercentText>,
}

/// Bounds on each endpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEndpointLimits {
    /// Open connections. Default: 10000.
    pub max_connections: Option<Placed<u32>>,
    /// Exchanges in flight. Default: 10000.
    pub max_in_flight: Option<Placed<u32>>,
    /// How long a request may wait when all endpoints are at their bounds. Default: 1s.
    pub queue_timeout: Option<DurationText>,
    /// Idle connections kept per endpoint and worker. Default: 256.
    pub max_idle: Option<Placed<u32>>,
    /// How long a connection may be idle. Default: 50s.
    pub idle_timeout: Option<DurationText>,
    /// Streams at once on an HTTP/2 connection. Default: 100.
    pub max_streams: Option<Placed<u32>>,
}

/// Bounds of an adaptive concurrency.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawConcurrencyShape {
    /// Never fewer requests. Default: 10.
    pub min: Option<Placed<u32>>,
    /// Never more requests. Default: 10000.
    pub max: Option<Placed<u32>>,
    /// Answers may take this share of what they usually take. Default: 150%.
    pub tolerance: Option<ExcessText>,
}

/// When an endpoint is set aside for what it does to requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEjection {
    /// Whether it is done at all. Default: true.
    pub enabled: Option<Placed<bool>>,
    /// So many failures in a row. Default: 5.
    pub consecutive_failures: Option<Placed<u32>>,
    /// So many failures in a row that are no answer of the endpoint itself: none at all, or 502, 503, 504. Default: not counted apart.
    pub gateway_failures: Option<Placed<u32>>,
    /// How often endpoints are compared with each other. Default: 10s.
    pub interval: Option<DurationText>,
    /// Those go that succeed clearly less often than the others.
    pub success_rate: Option<RawSuccessRate>,
    /// Those go that fail too large a share of their requests.
    pub failure_share: Option<RawFailureShare>,
    /// Those go that are slower than the others by a factor.
    pub latency: Option<RawLatencyOutlier>,
    /// Whether active checks that go well end an ejection before its time. Default: true.
    pub ends_on_check: Option<Placed<bool>>,
    /// The first time out; the n-th time lasts n times as long. Default: 10s.
    pub base: Option<DurationText>,
    /// The longest time out. Default: 5m.
    pub max: Option<DurationText>,
    /// Never more than this share of the endpoints, in whole percent. Default: 50%.
    pub max_percent: Option<PercentText>,
}

/// Those go that succeed clearly less often than the others.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSuccessRate {
    /// Whether it is done at all. Default: true.
    pub enabled: Option<Placed<bool>>,
    /// Endpoints with enough requests, at the least. Default: 5.
    pub min_endpoints: Option<Placed<u32>>,
    /// Requests within an interval, at the least. Default: 100.
    pub min_requests: Option<Placed<u32>>,
    /// How far below the mean, in thousandths of a standard deviation. Default: 1900.
    pub deviation: Option<Placed<u32>>,
}

/// Those go that fail too large a share of their requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawFailureShare {
    /// Whether it is done at all. Default: false.
    pub enabled: Option<Placed<bool>>,
    /// Endpoints with enough requests, at the least. Default: 5.
    pub min_endpoints: Option<Placed<u32>>,
    /// Requests within an interval, at the least. Default: 50.
    pub min_requests: Option<Placed<u32>>,
    /// Failures as a share of requests, in whole percent. Default: 85%.
    pub percent: Option<PercentText>,
}

/// Those go that are slower than the others by a factor.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLatencyOutlier {
    /// Whether it is done at all. Default: false.
    pub enabled: Option<Placed<bool>>,
    /// Endpoints with enough requests, at the least. Default: 5.
    pub min_endpoints: Option<Placed<u32>>,
    /// Requests within an interval, at the least. Default: 50.
    pub min_requests: Option<Placed<u32>>,
    /// So many times the median. Default: 5.
    pub times: Option<Placed<u32>>,
}

/// Questions asked of each endpoint beside the traffic. One of `http`, `grpc` and `tcp`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCheck {
    /// Ask `GET path`, in what is spoken with the endpoint.
    pub http: Option<RawHttpCheck>,
    /// Ask by the gRPC health protocol: `grpc: {}`.
    pub grpc: Option<RawGrpcCheck>,
    /// Only connect: `tcp: {}`.
    pub tcp: Option<RawTcpCheck>,
    /// Time between two questions. Default: 2s.
    pub interval: Option<DurationText>,
    /// Time for an answer. Default: 1s.
    pub timeout: Option<DurationText>,
    /// Good answers in a row that make an endpoint healthy. Default: 2.
    pub healthy_after: Option<Placed<u32>>,
    /// Bad answers in a row that make it sick. Default: 3.
    pub unhealthy_after: Option<Placed<u32>>,
    /// Another port to ask. Default: the endpoint's.
    pub port: Option<Placed<u16>>,
    /// Whether an endpoint that comes later takes requests only after a good answer. Default: false.
    pub before_use: Option<Placed<bool>>,
}

/// Ask `GET path`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHttpCheck {
    /// The path.
    pub path: Placed<String>,
    /// The Host field. Default: the endpoint's address.
    pub host: Option<Placed<String>>,
    /// Other fields.
    pub headers: Option<PlacedMap<Placed<String>>>,
    /// Good statuses. Default: 200-299.
    pub statuses: Option<StatusRanges>,
    /// What the first 64 KiB of a good answer contain. Default: anything.
    pub body: Option<Placed<String>>,
}

/// Ask by the gRPC health protocol.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawGrpcCheck {
    /// Which service is asked for. Default: the server as a whole.
    pub service: Option<Placed<String>>,
}

/// Only connect.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTcpCheck {}

/// Bound on retries, as a share of requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetryBudget {
    /// Retries as a share of requests, in whole percent. Default: 20%.
    pub percent: Option<PercentText>,
    /// Retries per second that are always allowed. Default: 10.
    pub per_second: Option<Placed<u32>>,
}

/// What becomes of what endpoints say of their load (ORCA).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLoadReports {
    /// Whether it counts in the choice. Default: true.
    pub read: Option<Placed<bool>>,
    /// Whether endpoints are asked for it, by `endpoint-load-metrics-format: TEXT`. Default: false.
    pub ask: Option<Placed<bool>>,
    /// Whether clients get it too. Default: false.
    pub pass_on: Option<Placed<bool>>,
}

/// A second attempt beside one that takes unusually long. `hedge: {}` has it with its defaults.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHedge {
    /// Second attempts as a share of requests, in whole percent. Default: 2%.
    pub percent: Option<PercentText>,
    /// Second attempts per second that are always allowed. Default: 1.
    pub per_second: Option<Placed<u32>>,
    /// Never sooner than this after the first. Default: 1ms.
    pub least_delay: Option<DurationText>,
}
