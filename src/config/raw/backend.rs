//! Backends in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::{DurationText, EndpointAddress, PercentText, StatusRange};
use super::tls::RawUpstreamTls;
use crate::config::place::{Placed, TextOr};

/// A group of endpoints with one policy.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawBackend {
    /// Its endpoints: `10.0.0.1:3000`, or `{address: 10.0.0.1:3000, weight: 2, zone: a}`.
    pub endpoints: Vec<Placed<TextOr<RawEndpoint>>>,
    /// What is spoken with the endpoints. Default: h1, with `tls` auto.
    pub protocol: Option<Placed<RawBackendProtocol>>,
    /// How connections use TLS. Default: clear text.
    pub tls: Option<Placed<RawUpstreamTls>>,
    /// How an endpoint is chosen. Default: least-latency.
    pub balance: Option<RawBalance>,
    /// Time to make a connection, per attempt. Default: 2s.
    pub connect_timeout: Option<DurationText>,
    /// Bounds on each endpoint.
    pub limits: Option<RawEndpointLimits>,
    /// When an endpoint is set aside for what it does to requests.
    pub ejection: Option<RawEjection>,
    /// Questions asked of each endpoint beside the traffic. Default: none.
    pub check: Option<Placed<RawCheck>>,
    /// A new or healed endpoint's share grows over this time. Default: 0s, at once.
    pub slow_start: Option<DurationText>,
    /// Bound on retries, as a share of requests.
    pub retry_budget: Option<RawRetryBudget>,
}

/// An endpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEndpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// Its share beside the others. Default: 1.
    pub weight: Option<Placed<u32>>,
    /// `active`, or `draining`: used only when no endpoint is active. Default: active.
    pub state: Option<RawEndpointState>,
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
    /// Any, by weight.
    Random,
    /// One after the other, by weight.
    RoundRobin,
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

/// When an endpoint is set aside for what it does to requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEjection {
    /// Whether it is done at all. Default: true.
    pub enabled: Option<Placed<bool>>,
    /// So many failures in a row. Default: 5.
    pub consecutive_failures: Option<Placed<u32>>,
    /// The first time out; the n-th time lasts n times as long. Default: 10s.
    pub base: Option<DurationText>,
    /// The longest time out. Default: 5m.
    pub max: Option<DurationText>,
    /// Never more than this share of the endpoints, in whole percent. Default: 50%.
    pub max_percent: Option<PercentText>,
}

/// Questions asked of each endpoint beside the traffic. Either `http` or `tcp`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCheck {
    /// Ask `GET path`.
    pub http: Option<RawHttpCheck>,
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
}

/// Ask `GET path`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHttpCheck {
    /// The path.
    pub path: Placed<String>,
    /// The Host field. Default: the endpoint's address.
    pub host: Option<Placed<String>>,
    /// Good statuses. Default: 200-299.
    pub statuses: Option<StatusRange>,
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
