//! Backends: a named group of endpoints with one policy of balancing, health and limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Affinity, BackendName, Concurrency, HashKey, NamedEndpoint, Peers, UpstreamTls};

/// The policy of a backend; its endpoints travel apart, because they change far more often.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique among all sources.
    pub name: BackendName,
    /// What is spoken with the endpoints, unless an endpoint says otherwise.
    pub protocol: BackendProtocol,
    /// How connections use TLS. None: clear text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Who endpoints' sidecars have to be, if connections go to them by mTLS. With what is known of ourselves the compiled
    /// snapshot makes [`Self::tls`] of it; where that is missing there is no connection.
    pub mtls: Option<Peers>,
    /// What connections begin with, to tell endpoints who the client is. None: nothing.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Which part of a request decides under [`Balance::RingHash`] and [`Balance::Maglev`].
    pub hash: HashKey,
    /// Percent of the mean load above which a hash or balanced affinity passes an endpoint over; more than 100.
    /// None: never.
    pub hash_bound: Option<u32>,
    /// Requests that belong together go to one endpoint. None: they need not.
    pub affinity: Option<Affinity>,
    /// Below this percentage of available endpoints availability is ignored; 0: never.
    pub panic_percent: u8,
    /// Which endpoints are near and go first.
    pub locality: Locality,
    /// At most so many endpoints of each priority and nearness are used by one process. None: all.
    pub subset: Option<u32>,
    /// Time to make a connection, per attempt.
    pub connect_timeout: Duration,
    /// Bounds on each endpoint.
    pub limits: EndpointLimits,
    /// How many requests may wait for their response's head at once, over all endpoints. None: no such bound.
    pub concurrency: Option<Concurrency>,
    /// The field of requests that says how much they matter. None: none does.
    pub criticality: Option<HeaderName>,
    /// When an endpoint is set aside for what it does to requests. None: never.
    pub ejection: Option<Ejection>,
    /// Questions asked of each endpoint beside the traffic. None: none.
    pub check: Option<ActiveCheck>,
    /// A new or healed endpoint's share grows to its full size over this time; zero: at once.
    pub slow_start: Duration,
    /// How it grows.
    pub slow_start_shape: SlowStartShape,
    /// Bound on retries, as a share of requests.
    pub retry_budget: RetryBudget,
    /// Second attempts beside those that take unusually long. None: none.
    pub hedge: Option<HedgePolicy>,
    /// What becomes of what endpoints say of their load.
    pub load_reports: LoadReports,
    /// Endpoints beside those that travel apart: those under names, for each address that a name has at the moment.
    pub named: Vec<NamedEndpoint>,
    /// Addresses by which clients know it: redirected connections that were meant for one of them go to it.
    pub virtual_addresses: Vec<SocketAddr>,
    /// Whether nobody looks into redirected connections for it.
    pub opaque: bool,
}

impl Backend {
    /// A backend with the policy that needs no tuning.
    pub fn new(name: BackendName) -> Self {
        Self {
            name,
            protocol: BackendProtocol::Http1,
            tls: None,
            mtls: None,
            proxy_protocol: None,
            balance: Balance::LeastLatency,
            hash: HashKey::Source,
            hash_bound: Some(150),
            affinity: None,
            panic_percent: 50,
            locality: Locality::Hints,
            subset: None,
            connect_timeout: Duration::from_secs(2),
            limits: EndpointLimits::default(),
            concurrency: None,
            criticality: None,
            ejection: Some(Ejection::default()),
            check: None,
            slow_start: Duration::ZERO,
            slow_start_shape: SlowStartShape::default(),
            retry_budget: RetryBudget::default(),
            hedge: None,
            load_reports: LoadReports::default(),
            named: Vec::new(),
            virtual_addresses: Vec::new(),
            opaque: false,
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

/// A form of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text, with the addresses.
    V1,
    /// Bytes, with the addresses and what is known of the client's TLS.
    V2,
}

impl ProxyVersion {
    /// The header of a connection that is the proxy's own, or of nobody in particular.
    pub const fn own(self) -> &'static [u8] {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n",
            Self::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        }
    }

    /// The word for it in configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
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

impl Balance {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LeastLatency,
        Self::LeastRequest,
        Self::Maglev,
        Self::Random,
        Self::RingHash,
        Self::RoundRobin,
    ];

    /// The word for it in configuration, annotations and views.
    pub fn word(self) -> &'static str {
        match self {
            Self::LeastLatency => "least-latency",
            Self::LeastRequest => "least-request",
            Self::Maglev => "maglev",
            Self::Random => "random",
            Self::RingHash => "ring-hash",
            Self::RoundRobin => "round-robin",
        }
    }

    /// The one that a word stands for.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|balance| balance.word() == word)
    }

    /// Whether a hash of the request decides.
    pub fn hashes(self) -> bool {
        matches!(self, Self::Maglev | Self::RingHash)
    }
}

/// Which endpoints are near and go first, for a process that knows its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// Those that Kubernetes hints at for the zone.
    Hints,
    /// All alike.
    Off,
    /// Those in the zone.
    Zone,
}

impl Locality {
    /// The word for it in configuration and annotations.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hints => "hints",
            Self::Off => "off",
            Self::Zone => "zone",
        }
    }
}

/// The last priority that an endpoint may have.
pub const MAX_PRIORITY: u8 = 7;

/// How a slow start grows: `weight * max(minimum, (age / slow_start)^(1 / aggression))` (Envoy's formula).
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStartShape {
    /// 1: in a straight line; more: sooner.
    pub aggression: u32,
    /// Percent of its weight that an endpoint begins with.
    pub minimum_percent: u8,
}

impl Default for SlowStartShape {
    fn default() -> Self {
        Self {
            aggression: 1,
            minimum_percent: 10,
        }
    }
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
    /// So many failures in a row that are no answer of the endpoint itself: no connection, reset, deadline passed, or
    /// 502, 503, 504. None: they are not counted apart.
    pub gateway_failures: Option<u32>,
    /// How often endpoints are compared with each other, for what follows.
    pub interval: Duration,
    /// Those go that succeed clearly less often than the others. None: none.
    pub success_rate: Option<SuccessRateOutlier>,
    /// Those go that fail too large a share of their requests. None: none.
    pub failure_share: Option<FailureShareOutlier>,
    /// Those go that are slower than the others by a factor. None: none.
    pub latency: Option<LatencyOutlier>,
    /// Whether active checks that go well end an ejection before its time.
    pub ends_on_check: bool,
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
            gateway_failures: None,
            interval: Duration::from_secs(10),
            success_rate: Some(SuccessRateOutlier::default()),
            failure_share: None,
            latency: None,
            ends_on_check: true,
            base: Duration::from_secs(10),
            max: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

/// Which endpoints can be compared: enough of them, with enough requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparable {
    /// Endpoints with enough requests, at the least.
    pub min_endpoints: u32,
    /// Requests within an interval, at the least.
    pub min_requests: u32,
}

/// Endpoints that succeed clearly less often than the others.
#[derive(Clone, Debug, PartialEq)]
pub struct SuccessRateOutlier {
    /// Which are compared.
    pub among: Comparable,
    /// Thousandths of a standard deviation below the mean.
    pub deviation: u32,
}

impl Default for SuccessRateOutlier {
    fn default() -> Self {
        Self {
            among: Comparable {
                min_endpoints: 5,
                min_requests: 100,
            },
            deviation: 1900,
        }
    }
}

/// Endpoints that fail too large a share of their requests.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureShareOutlier {
    /// Which are looked at.
    pub among: Comparable,
    /// The share in percent.
    pub percent: u8,
}

impl Default for FailureShareOutlier {
    fn default() -> Self {
        Self {
            among: Comparable {
                min_endpoints: 5,
                min_requests: 50,
            },
            percent: 85,
        }
    }
}

/// Endpoints that are slower than the others.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyOutlier {
    /// Which are compared.
    pub among: Comparable,
    /// So many times the median.
    pub times: u32,
}

impl Default for LatencyOutlier {
    fn default() -> Self {
        Self {
            among: Comparable {
                min_endpoints: 5,
                min_requests: 50,
            },
            times: 5,
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
    /// Whether an endpoint that comes later than the backend takes requests only after a good answer.
    pub before_use: bool,
}

/// What an active check asks.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// `GET path`, in what is spoken with the endpoint.
    Http(HttpCheck),
    /// `grpc.health.v1.Health/Check` over HTTP/2; good is `SERVING`.
    Grpc {
        /// Which service is asked for; empty: the server as a whole.
        service: Arc<str>,
    },
    /// A connection that can be made.
    Tcp,
}

/// A check by `GET`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpCheck {
    /// The path.
    pub path: Arc<str>,
    /// The `Host` field; the endpoint's address when not given.
    pub host: Option<Arc<str>>,
    /// Other fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Lowest and highest good status, of each range.
    pub statuses: Vec<(StatusCode, StatusCode)>,
    /// What the first 64 KiB of a good answer contain. None: anything.
    pub body: Option<Arc<str>>,
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

/// Bounds on second attempts beside those that take unusually long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HedgePolicy {
    /// Hedges per hundred requests.
    pub percent: u32,
    /// Hedges per second that are always allowed.
    pub per_second: u32,
    /// Never sooner than this.
    pub least_delay: Duration,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self {
            percent: 2,
            per_second: 1,
            least_delay: Duration::from_millis(1),
        }
    }
}

/// What becomes of what endpoints say of their load (ORCA, the field `endpoint-load-metrics` of responses).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadReports {
    /// Whether it counts in the choice.
    pub read: bool,
    /// Whether endpoints are asked for it.
    pub ask: bool,
    /// Whether clients get it too.
    pub pass_on: bool,
}

impl Default for LoadReports {
    fn default() -> Self {
        Self {
            read: true,
            ask: false,
            pass_on: false,
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
    /// The zones that it is meant for, if Kubernetes gives hints.
    pub hints: Option<Arc<[Arc<str>]>>,
    /// 0 is used first; later ones only when too few of the earlier ones are available. Up to [`MAX_PRIORITY`].
    pub priority: u8,
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
            hints: None,
            priority: 0,
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
