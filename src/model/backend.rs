//! Backends: a named group of endpoints with one policy of balancing, health and limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{BackendName, UpstreamTls};

/// The policy of a backend; its endpoints travel apart, because they change far more often.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique among all sources.
    pub name: BackendName,
    /// What is spoken with the endpoints, unless an endpoint says otherwise.
    pub protocol: BackendProtocol,
    /// How connections use TLS. None: clear text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Time to make a connection, per attempt.
    pub connect_timeout: Duration,
    /// Bounds on each endpoint.
    pub limits: EndpointLimits,
    /// When an endpoint is set aside for what it does to requests. None: never.
    pub ejection: Option<Ejection>,
    /// Questions asked of each endpoint beside the traffic. None: none.
    pub check: Option<ActiveCheck>,
    /// A new or healed endpoint's share grows to its full size over this time; zero: at once.
    pub slow_start: Duration,
    /// Bound on retries, as a share of requests.
    pub retry_budget: RetryBudget,
}

impl Backend {
    /// A backend with the policy that needs no tuning.
    pub fn new(name: BackendName) -> Self {
        Self {
            name,
            protocol: BackendProtocol::Http1,
            tls: None,
            balance: Balance::LeastLatency,
            connect_timeout: Duration::from_secs(2),
            limits: EndpointLimits::default(),
            ejection: Some(Ejection::default()),
            check: None,
            slow_start: Duration::ZERO,
            retry_budget: RetryBudget::default(),
        }
    }
}

/// What is spoken with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendProtocol {
    /// HTTP/2: in clear text with prior knowledge, over TLS by ALPN.
    H2c,
    /// HTTP/1.1.
    Http1,
    /// Over TLS, HTTP/2 if the endpoint agrees to it, else HTTP/1.1. In clear text nobody is asked: HTTP/1.1.
    Auto,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
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
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointLimits {
    /// Open connections, over all workers.
    pub max_connections: u32,
    /// Exchanges in flight, over all workers.
    pub max_in_flight: u32,
    /// How long a request may wait for a free endpoint when all are at their bounds.
    pub queue_timeout: Duration,
    /// Idle connections kept per endpoint and worker.
    pub max_idle: u32,
    /// How long a connection may be idle before it is closed.
    pub idle_timeout: Duration,
    /// Streams at once on an HTTP/2 connection, below the endpoint's own bound.
    pub max_streams: u32,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_in_flight: 10_000,
            queue_timeout: Duration::from_secs(1),
            max_idle: 256,
            idle_timeout: Duration::from_secs(50),
            max_streams: 100,
        }
    }
}

/// When an endpoint is set aside for what it does to requests ("passive" health).
#[derive(Clone, Debug, PartialEq)]
pub struct Ejection {
    /// So many failures in a row: no connection, reset, deadline passed, or a 5xx.
    pub consecutive_failures: u32,
    /// The first time out; the n-th time lasts n times as long.
    pub base: Duration,
    /// The longest time out.
    pub max: Duration,
    /// Never more than this share of the endpoints, in percent (but one may always go, if others are left).
    pub max_percent: u8,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base: Duration::from_secs(10),
            max: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

/// Questions asked of each endpoint beside the traffic ("active" health).
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between two questions to one endpoint; ±10 % at random.
    pub interval: Duration,
    /// Time for an answer.
    pub timeout: Duration,
    /// Good answers in a row that make it healthy.
    pub healthy_after: u32,
    /// Bad answers in a row that make it sick.
    pub unhealthy_after: u32,
    /// Another port to ask, on the endpoint's address.
    pub port: Option<u16>,
}

/// What an active check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// `GET path`; good is a status in `statuses` (inclusive).
    Http {
        /// The path.
        path: Arc<str>,
        /// The `Host` field; the endpoint's address when not given.
        host: Option<Arc<str>>,
        /// Lowest and highest good status.
        statuses: (StatusCode, StatusCode),
    },
    /// A connection that can be made.
    Tcp,
}

/// Bound on retries: a share of requests, and a floor for quiet times (Finagle's `RetryBudget`).
#[derive(Clone, Debug, PartialEq)]
pub struct RetryBudget {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries per second that are always allowed.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            percent: 20,
            per_second: 10,
        }
    }
}

/// One address that answers for a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share beside the others; never 0.
    pub weight: u32,
    /// Whether it takes new requests.
    pub state: EndpointState,
    /// What it speaks, when it differs from the backend's.
    pub protocol: Option<BackendProtocol>,
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
    /// A name to show (a pod's); the address otherwise.
    pub label: Option<Arc<str>>,
}

impl Endpoint {
    /// An endpoint with nothing but its address.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            state: EndpointState::Active,
            protocol: None,
            zone: None,
            label: None,
        }
    }
}

/// Whether an endpoint takes new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// It does.
    Active,
    /// It is ending but still answers: used only when no endpoint is active (as kube-proxy does).
    Draining,
}
