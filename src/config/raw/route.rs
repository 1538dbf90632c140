//! Routes in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use super::filter::RawFilter;
use super::text::{DurationOrNone, DurationText, RetryCondition, SizeText};
use crate::config::place::{Placed, PlacedMap, TextOr};

/// Hostnames and what is done with their requests: one rule right here, or several under `rules`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRoute {
    /// Its name in logs and metrics. Default: `route-N`, by its place in the file.
    pub name: Option<Placed<String>>,
    /// The listeners it is attached to. Default: all of this file.
    pub listeners: Option<Placed<Vec<Placed<String>>>>,
    /// The hostnames it is for: `shop.example.com`, "*.example.com". Default: all.
    pub hostnames: Option<Placed<Vec<Placed<String>>>>,
    /// Several rules, instead of `match`, `filters`, `to` and so on right here.
    pub rules: Option<Placed<Vec<Placed<RawRule>>>>,
    /// Which requests. Default: all.
    #[serde(rename = "match")]
    pub only: Option<Placed<RawMatch>>,
    /// Any of these, instead of `match`.
    pub matches: Option<Placed<Vec<Placed<RawMatch>>>>,
    /// What is done to request and response, in order.
    pub filters: Option<Placed<Vec<Placed<RawFilter>>>>,
    /// Where to: a backend's name or an IP address with a port.
    pub to: Option<Placed<String>>,
    /// Where to, by weight. Instead of `to`.
    pub split: Option<Placed<Vec<Placed<RawShare>>>>,
    /// Deadlines.
    pub timeouts: Option<Placed<RawTimeouts>>,
    /// When another endpoint is tried.
    pub retry: Option<Placed<RawRetry>>,
    /// How much its requests matter at the most. Default: what their `criticality_field` says, else critical.
    pub criticality: Option<Placed<RawCriticality>>,
}

/// How much it matters that a request is answered; the last are refused first.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawCriticality {
    /// Users see it at once, and much of it, when it fails.
    CriticalPlus,
    /// Users see it when it fails.
    Critical,
    /// It may fail for some minutes: batches that are tried again.
    SheddablePlus,
    /// It may fail often, and for hours.
    Sheddable,
}

/// Which requests, and what is done with them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRule {
    /// A name to show.
    pub name: Option<Placed<String>>,
    /// Which requests. Default: all.
    #[serde(rename = "match")]
    pub only: Option<Placed<RawMatch>>,
    /// Any of these, instead of `match`.
    pub matches: Option<Placed<Vec<Placed<RawMatch>>>>,
    /// What is done to request and response, in order.
    pub filters: Option<Placed<Vec<Placed<RawFilter>>>>,
    /// Where to: a backend's name or an IP address with a port.
    pub to: Option<Placed<String>>,
    /// Where to, by weight. Instead of `to`.
    pub split: Option<Placed<Vec<Placed<RawShare>>>>,
    /// Deadlines.
    pub timeouts: Option<Placed<RawTimeouts>>,
    /// When another endpoint is tried.
    pub retry: Option<Placed<RawRetry>>,
    /// How much its requests matter at the most. Default: what their `criticality_field` says, else critical.
    pub criticality: Option<Placed<RawCriticality>>,
}

/// Which requests; everything given must hold. At most one of `prefix`, `exact`, `regex`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMatch {
    /// The path begins so, up to a `/`: `/a` is `/a` and `/a/b`, not `/ab`.
    pub prefix: Option<Placed<String>>,
    /// The path is this.
    pub exact: Option<Placed<String>>,
    /// The whole path matches this regular expression.
    pub regex: Option<Placed<String>>,
    /// The method: GET, POST, ...
    pub method: Option<Placed<String>>,
    /// Fields of the request: a value, `{regex: ...}` or `{present: true}`. All must match.
    pub headers: Option<PlacedMap<Placed<TextOr<RawValueMatch>>>>,
    /// Parameters of the query: a value, `{regex: ...}` or `{present: true}`. All must match.
    pub query: Option<PlacedMap<Placed<TextOr<RawValueMatch>>>>,
}

/// A condition on a value that is not plain equality.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawValueMatch {
    /// Matches somewhere.
    Regex(Placed<String>),
    /// Is there at all: `true`.
    Present(Placed<bool>),
}

/// A share of a rule's requests.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawShare {
    /// Where to: a backend's name or an IP address with a port.
    pub to: Placed<String>,
    /// Its part of the sum of all weights; 0 takes none. Default: 1.
    pub weight: Option<Placed<u32>>,
    /// Filters for this share only, after the rule's.
    pub filters: Option<Placed<Vec<Placed<RawFilter>>>>,
}

/// Deadlines of an exchange.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTimeouts {
    /// From the request's head to the response's head, all attempts together. Default: 60s.
    pub request: Option<DurationOrNone>,
    /// From sending an attempt to its response's head. Default: none.
    pub per_try: Option<DurationOrNone>,
    /// Silence allowed within an endpoint's response body. Default: 5m.
    pub idle: Option<DurationOrNone>,
    /// Silence allowed in an upgraded connection (WebSocket). Default: 1h.
    pub upgrade_idle: Option<DurationOrNone>,
}

/// When another endpoint is tried.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetry {
    /// Tries at the most, the first included. Default: 3.
    pub attempts: Option<Placed<u32>>,
    /// What is worth another try. Default: [connect-failure, reset].
    pub on: Option<Vec<RetryCondition>>,
    /// Size of a body that is kept for sending it again. Default: 64KiB.
    pub max_replay: Option<SizeText>,
    /// Least pause before a try; doubles with each, and up to half as much is added at random. Default: none.
    pub backoff: Option<DurationOrNone>,
    /// The longest pause that an endpoint may ask for, by Retry-After or grpc-retry-pushback-ms; more is no retry. Default: 5s.
    pub max_wait: Option<DurationText>,
    /// Whether a second attempt may be made beside a slow one, where the backend's `hedge` does that. Default: true.
    pub hedge: Option<Placed<bool>>,
}
