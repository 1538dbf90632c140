//! Routes: hostnames and rules; a rule's matches, filters, weighted backends, deadlines and retries.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::{BackendName, Criticality, Filter, GrpcStatus, HostPattern, ListenerName, RouteName};

/// Hostnames and rules, attached to listeners.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Unique among all sources.
    pub name: RouteName,
    /// The listeners it is attached to.
    pub listeners: Vec<ListenerName>,
    /// The hostnames it is for; never empty ([`HostPattern::Any`] stands for all).
    pub hostnames: Vec<HostPattern>,
    /// What is done; the most specific match of all routes of a hostname wins.
    pub rules: Vec<Arc<Rule>>,
    /// Seconds since 1970 when the route was made; between equal matches the older route wins.
    pub created: u64,
    /// Its place among the routes of its source; decides when age is equal too (Kubernetes: the name does).
    pub order: u32,
}

/// Which requests, and what is done with them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// A name to show; not needed to be unique.
    pub name: Option<Arc<str>>,
    /// Any of these; never empty.
    pub matches: Vec<Match>,
    /// In the order given.
    pub filters: Vec<Filter>,
    /// Where to; empty when a filter answers (or else: 500).
    pub backends: Vec<WeightedBackend>,
    /// Deadlines of the exchange.
    pub timeouts: Timeouts,
    /// When another endpoint is tried.
    pub retry: RetryPolicy,
    /// How much its requests matter at the most; a field of theirs can only say less. None: what that field says.
    pub criticality: Option<Criticality>,
}

/// Everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Match {
    /// The path.
    pub path: PathMatch,
    /// The method.
    pub method: Option<Method>,
    /// Fields of the request; all must match.
    pub headers: Vec<HeaderMatch>,
    /// Parameters of the query; all must match, the first of a repeated name counts.
    pub queries: Vec<QueryMatch>,
}

/// A condition on the path (without the query).
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Equal, case-sensitive.
    Exact(Arc<str>),
    /// Equal, or continued after a `/`: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`. Kept without trailing `/`,
    /// so that the prefix of everything is the empty text.
    Prefix(Arc<str>),
    /// The whole path, from its first character to its last; linear time.
    Regex(regex::Regex),
}

impl PathMatch {
    /// A prefix, with trailing slashes taken off.
    pub fn prefix(text: &str) -> Self {
        Self::Prefix(Arc::from(text.trim_end_matches('/')))
    }

    /// A regular expression over the whole path; at most 1 MiB when compiled.
    pub fn regex(pattern: &str) -> Result<Self, regex::Error> {
        Ok(Self::Regex(
            regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
                .size_limit(1 << 20)
                .build()?,
        ))
    }

    /// Whether a path is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *path,
            Self::Prefix(text) => path
                .strip_prefix(&**text)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix(Arc::from(""))
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Exact(_) | Self::Prefix(_) | Self::Regex(_), _) => false,
        }
    }
}

/// A condition on a text.
#[derive(Clone, Debug)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Matches somewhere; linear time.
    Regex(regex::Regex),
    /// There at all.
    Present,
}

impl StringMatch {
    /// Whether a value is meant.
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *value,
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

impl PartialEq for StringMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Present, Self::Present) => true,
            (Self::Exact(_) | Self::Regex(_) | Self::Present, _) => false,
        }
    }
}

/// A condition on a field of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The field's name.
    pub name: HeaderName,
    /// Its value; several fields of the name are compared joined by `,` (RFC 9110 §5.3).
    pub value: StringMatch,
}

/// A condition on a parameter of the query.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryMatch {
    /// The parameter's name, compared as sent.
    pub name: Arc<str>,
    /// Its value, compared as sent.
    pub value: StringMatch,
}

/// A share of a rule's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackend {
    /// Where the share goes.
    pub target: BackendTarget,
    /// Its part of the sum of all weights; 0 takes none.
    pub weight: u32,
    /// Filters for this share only, after the rule's.
    pub filters: Vec<Filter>,
}

/// Where a share of requests goes.
#[derive(Clone, Debug, PartialEq)]
pub enum BackendTarget {
    /// To a backend. One that nobody has defined has no endpoints: 503.
    Backend(BackendName),
    /// Nowhere, because the reference is wrong or not granted: 500 (Gateway API `ResolvedRefs=False`).
    Invalid(Arc<str>),
}

/// Deadlines of an exchange. None means unbounded.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From the request's head to the response's head, all attempts together.
    pub request: Option<Duration>,
    /// From sending an attempt to its response's head.
    pub per_try: Option<Duration>,
    /// Silence allowed within an endpoint's response body.
    pub idle: Option<Duration>,
    /// Silence allowed in an upgraded connection, both directions together.
    pub upgrade_idle: Option<Duration>,
}

impl Timeouts {
    /// None at all: for clients that have their own, and know of nobody who stands between.
    pub const NONE: Self = Self {
        request: None,
        per_try: None,
        idle: None,
        upgrade_idle: None,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Some(Duration::from_secs(60)),
            per_try: None,
            idle: Some(Duration::from_secs(300)),
            upgrade_idle: Some(Duration::from_secs(3600)),
        }
    }
}

/// When a failed attempt is tried on another endpoint.
///
/// What was never sent may always go elsewhere (within `attempts`); these are the conditions for
/// what was. The backend's retry budget bounds all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries at the most, the first included; 1 means none again.
    pub attempts: u8,
    /// What is worth another try.
    pub on: RetryOn,
    /// Bytes of a request's body kept for sending it again; longer bodies are sent once.
    pub max_replay_bytes: u32,
    /// Least pause before a try; doubles with each, and up to half as much is added at random. None means at once.
    pub backoff: Option<Duration>,
    /// The longest pause that an endpoint may ask for; if it asks for more, there is no other try.
    pub max_wait: Duration,
    /// Whether a second attempt may be made beside a slow one, where the backend does that.
    pub hedge: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            on: RetryOn::default(),
            max_replay_bytes: 64 * 1024,
            backoff: None,
            max_wait: Duration::from_secs(5),
            hedge: true,
        }
    }
}

/// What is worth another try.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryOn {
    /// The connection could not be made, or the request provably never left.
    pub connect_failure: bool,
    /// The connection ended before the response's head. Only idempotent methods (RFC 9110 §9.2.2).
    pub reset: bool,
    /// The attempt's deadline passed. Only idempotent methods.
    pub timeout: bool,
    /// Statuses, 5xx or 4xx. Only idempotent methods.
    pub statuses: Vec<http::StatusCode>,
    /// Statuses of gRPC calls that come with the response's head. Any method: every call is a POST.
    pub grpc_statuses: Vec<GrpcStatus>,
}

impl RetryOn {
    /// Nothing is: what a list of conditions begins with.
    pub fn nothing() -> Self {
        Self {
            connect_failure: false,
            reset: false,
            timeout: false,
            statuses: Vec::new(),
            grpc_statuses: Vec::new(),
        }
    }
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            connect_failure: true,
            reset: true,
            ..Self::nothing()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_an_element() {
        let prefix = PathMatch::prefix("/foo/");
        for (path, matches) in [
            ("/foo", true),
            ("/foo/", true),
            ("/foo/bar", true),
            ("/foobar", false),
            ("/", false),
        ] {
            assert_eq!(prefix.matches(path), matches, "{path}");
        }
        assert!(PathMatch::default().matches("/anything"));
    }

    #[test]
    fn a_regex_means_the_whole_path() {
        let regex = PathMatch::regex("/v[0-9]+|/x").unwrap();
        for (path, matches) in [("/v1", true), ("/x", true), ("/v1/a", false), ("/a/v1", false)] {
            assert_eq!(regex.matches(path), matches, "{path}");
        }
        assert!(PathMatch::regex("(").is_err());
    }
}
