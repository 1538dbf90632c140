//! Filters: what a rule does to a request or response on its way.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{BackendName, Cors};

/// One step on the way of a request or response.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Say which scripts of other origins may read responses, and answer when browsers ask.
    Cors(Cors),
    /// Answer with this.
    Direct(DirectResponse),
    /// Send a copy of the request to another backend as well; its response is thrown away.
    Mirror(Mirror),
    /// Answer with a redirection.
    Redirect(Redirect),
    /// Edit the request's fields.
    RequestHeaders(HeaderEdits),
    /// Edit the response's fields.
    ResponseHeaders(HeaderEdits),
    /// Change the host or path that the endpoint sees.
    Rewrite(Rewrite),
}

/// Edits of fields: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Gone.
    pub remove: Vec<HeaderName>,
    /// There with this value alone.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// There with this value too.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// A response without an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Fields of the response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; at most 64 KiB.
    pub body: Bytes,
}

/// A redirection; what is not given stays as the client sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The hostname, without a port.
    pub hostname: Option<Arc<str>>,
    /// The port. None: the scheme's own when a scheme is given, else the listener's. 80 and 443 are left out with their scheme.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// Another path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRewrite {
    /// This path altogether.
    Full(Arc<str>),
    /// This in the place of the prefix that matched; the rest stays.
    Prefix(Arc<str>),
    /// This, with `$1` and `${name}` from the path's regular expression.
    Captures(Arc<str>),
}

/// What the endpoint sees in the place of the client's host and path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The `Host` field.
    pub hostname: Option<HeaderValue>,
    /// The path; the query stays.
    pub path: Option<PathRewrite>,
}

/// A copy for another backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Who gets the copy.
    pub backend: BackendName,
    /// How many of the requests.
    pub fraction: Fraction,
}

/// A share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// So many …
    pub numerator: u32,
    /// … of so many; never 0.
    pub denominator: u32,
}

impl Fraction {
    /// All of them.
    pub const ALL: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    /// Whether this request is one of them; `random` is evenly spread over all of `u32`.
    pub fn takes(self, random: u32) -> bool {
        u64::from(random) * u64::from(self.denominator) < u64::from(self.numerator) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_takes_its_share() {
        let half = Fraction {
            numerator: 1,
            denominator: 2,
        };
        assert!(
            half.takes(0)
                && half.takes(u32::MAX / 2)
                && !half.takes(u32::MAX / 2 + 1)
                && !half.takes(u32::MAX)
        );
        assert!(Fraction::ALL.takes(u32::MAX));
        assert!(
            !Fraction {
                numerator: 0,
                denominator: 1
            }
            .takes(0)
        );
    }
}
