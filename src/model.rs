//! The model: what the user asked for, as plain data that is valid because it exists.
//!
//! Sources (the configuration file, a manifest directory, later an API server) parse their own
//! formats and build these types; nothing below this room knows where a model came from. Shapes
//! and words are those of the Gateway API: a listener takes traffic, a route has hostnames and
//! rules, a rule has matches, filters and weighted backends, a backend is a named group of
//! endpoints with one policy.
//!
//! A model travels as a [`Delta`]: what was added, changed or removed. The first delta of a source
//! is its whole world. That keeps the cost of a change proportional to the change.

pub mod acme;
pub mod admission;
pub mod affinity;
pub mod backend;
pub mod cors;
pub mod delta;
pub mod filter;
pub mod grpc;
pub mod host;
pub mod listener;
pub mod name;
pub mod named;
pub mod route;
pub mod tls;

pub use acme::Acme;
pub use admission::{AdaptiveConcurrency, Concurrency, Criticality};
pub use affinity::{Affinity, AffinityBy, AffinityCookie, AffinityMode, HashKey, SameSite};
pub use backend::{
    ActiveCheck, Backend, BackendProtocol, Balance, CheckKind, Comparable, Ejection, Endpoint,
    EndpointLimits, EndpointState, FailureShareOutlier, HedgePolicy, HttpCheck, LatencyOutlier, LoadReports,
    Locality, ProxyVersion, RetryBudget, SlowStartShape, SuccessRateOutlier,
};
pub use cors::{Allowed, Cors, OriginPattern};
pub use delta::{Delta, Reject, World};
pub use filter::{DirectResponse, Filter, Fraction, HeaderEdits, Mirror, PathRewrite, Redirect, Rewrite};
pub use grpc::GrpcStatus;
pub use host::HostPattern;
pub use listener::{
    Direction, Listener, ListenerKind, ListenerLimits, Opening, Protocols, ProxyProtocol, Socket, Transport,
};
pub use name::{BackendName, ListenerName, RouteName, SourceName};
pub use named::{DnsName, NamedEndpoint};
pub use route::{
    BackendTarget, HeaderMatch, Match, PathMatch, QueryMatch, RetryOn, RetryPolicy, Route, Rule, StringMatch,
    Timeouts, WeightedBackend,
};
pub use tls::{
    Certificate, Challenges, ClientAuth, Identity, InboundMtls, Inner, ListenerTls, ManagedName, MtlsMode,
    PeerName, Peers, UpstreamTls,
};
