//! Filters in the file's shape.

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::PercentText;
use crate::config::place::{Placed, PlacedMap};

/// One step: exactly one of these keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawFilter {
    /// Edit the request's fields.
    RequestHeaders(RawHeaderEdits),
    /// Edit the response's fields.
    ResponseHeaders(RawHeaderEdits),
    /// Change the host or path that the endpoint sees.
    Rewrite(RawRewrite),
    /// Answer with a redirection.
    Redirect(RawRedirect),
    /// Send a copy to another backend; its response is thrown away.
    Mirror(RawMirror),
    /// Answer with this.
    Direct(RawDirect),
}

/// Edits of fields: removed first, then set, then added.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHeaderEdits {
    /// There with this value alone.
    pub set: Option<PlacedMap<Placed<String>>>,
    /// There with this value too.
    pub add: Option<PlacedMap<Placed<String>>>,
    /// Gone.
    pub remove: Option<Vec<Placed<String>>>,
}

/// What the endpoint sees.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRewrite {
    /// The Host field: a hostname, also with a port.
    pub hostname: Option<Placed<String>>,
    /// The path; the query stays.
    pub path: Option<Placed<RawPathRewrite>>,
}

/// Another path.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawPathRewrite {
    /// This path altogether.
    Full(Placed<String>),
    /// This in the place of the prefix that matched; the rest stays.
    Prefix(Placed<String>),
    /// This, with `$1` and `${name}` from the path's regular expression.
    Captures(Placed<String>),
}

/// A redirection; what is not given stays as the client sent it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRedirect {
    /// `http` or `https`.
    pub scheme: Option<RawScheme>,
    /// The hostname, without a port.
    pub hostname: Option<Placed<String>>,
    /// The port.
    pub port: Option<Placed<u16>>,
    /// The path.
    pub path: Option<Placed<RawPathRewrite>>,
    /// 301, 302, 303, 307 or 308. Default: 302.
    pub status: Option<Placed<u16>>,
}

/// A scheme.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawScheme {
    /// In clear text.
    Http,
    /// Over TLS.
    Https,
}

/// A copy for another backend.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMirror {
    /// Who gets the copy: a backend's name or an IP address with a port.
    pub to: Placed<String>,
    /// How many of the requests. Default: 100%.
    pub percent: Option<PercentText>,
}

/// A response without an endpoint.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDirect {
    /// 200 to 599. Default: 200.
    pub status: Option<Placed<u16>>,
    /// Fields of the response.
    pub headers: Option<PlacedMap<Placed<String>>>,
    /// The body, at most 64 KiB. Default: empty.
    pub body: Option<Placed<String>>,
}
