//! Cross-origin requests of browsers (CORS, <https://fetch.spec.whatwg.org/#http-cors-protocol>): who may read what.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// What scripts of other origins may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Whose scripts.
    pub origins: Vec<OriginPattern>,
    /// Whether they may send what identifies the user.
    pub credentials: bool,
    /// With which methods, beside GET, HEAD and POST.
    pub methods: Allowed<Method>,
    /// With which fields, beside the safelisted ones.
    pub headers: Allowed<HeaderName>,
    /// Which fields of a response they may read, beside the safelisted ones.
    pub expose: Allowed<HeaderName>,
    /// How long a browser may remember the answer.
    pub max_age: Duration,
}

impl Cors {
    /// Whether this origin's scripts are meant; `null` never is, unless all are.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().ok().map(Origin::parse);
        self.origins.iter().any(|pattern| match (pattern, &origin) {
            (OriginPattern::Any, _) => true,
            (OriginPattern::Those(pattern), Some(Some(origin))) => pattern.takes(origin),
            (OriginPattern::Those(_), _) => false,
        })
    }
}

/// Values that are allowed.
#[derive(Clone, Debug, PartialEq)]
pub enum Allowed<T> {
    /// All there are.
    All,
    /// These.
    These(Vec<T>),
}

/// Origins: all, or those of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub enum OriginPattern {
    /// All.
    Any,
    /// Those of one scheme, host pattern and port.
    Those(HostsOfScheme),
}

/// Origins of one scheme and port, by their hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct HostsOfScheme {
    is_https: bool,
    /// In lower case.
    host: Hosts,
    port: u16,
}

#[derive(Clone, Debug, PartialEq)]
enum Hosts {
    Any,
    Exact(Arc<str>),
    /// All that end so, whatever number of labels stands before; begins with a dot.
    Below(Arc<str>),
    /// All that end so with one label before; begins with a dot.
    OneBelow(Arc<str>),
}

/// An origin as a browser sends it.
struct Origin<'text> {
    is_https: bool,
    host: &'text str,
    port: u16,
}

impl<'text> Origin<'text> {
    fn parse(text: &'text str) -> Option<Self> {
        let (is_https, rest) = match text.split_once("://")? {
            (scheme, rest) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            (scheme, rest) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return None,
        };
        // The colons of an IPv6 address are within brackets.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (rest, if is_https { 443 } else { 80 }),
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*[]:".contains(&byte);
        (!host.is_empty() && port > 0 && host.bytes().all(is_host)).then_some(Self { is_https, host, port })
    }
}

impl OriginPattern {
    /// Reads `*`, `https://a.example`, `https://*.example:8443`, `https://*`. None: it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let Origin { is_https, host, port } = Origin::parse(text)?;
        let host = host.to_ascii_lowercase();
        let host = match host.strip_prefix('*') {
            None if !host.contains('*') => Hosts::Exact(host.into()),
            Some("") => Hosts::Any,
            Some(rest) if rest.starts_with('.') && rest.len() > 1 && !rest.contains('*') => {
                Hosts::Below(rest.into())
            }
            _ => return None,
        };
        Some(Self::Those(HostsOfScheme { is_https, host, port }))
    }

    /// The same, where a wildcard stands for one label only.
    pub fn of_one_label(self) -> Self {
        match self {
            Self::Those(HostsOfScheme {
                is_https,
                host: Hosts::Below(end),
                port,
            }) => Self::Those(HostsOfScheme {
                is_https,
                host: Hosts::OneBelow(end),
                port,
            }),
            other => other,
        }
    }
}

impl HostsOfScheme {
    fn takes(&self, origin: &Origin<'_>) -> bool {
        let ends_with = |host: &str, end: &str| {
            let at = host.len().checked_sub(end.len()).filter(|at| *at > 0);
            at.and_then(|at| host.get(at..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        };
        self.is_https == origin.is_https
            && self.port == origin.port
            && match &self.host {
                Hosts::Any => true,
                Hosts::Exact(host) => origin.host.eq_ignore_ascii_case(host),
                Hosts::Below(end) => ends_with(origin.host, end),
                Hosts::OneBelow(end) => {
                    let labels = |host: &str| host.split('.').count();
                    ends_with(origin.host, end) && labels(origin.host) == labels(end)
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_by_scheme_host_and_port() {
        for (pattern, origin, expected) in [
            ("*", "https://a.example", true),
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.example:443", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "null", false),
            ("https://a.example", "https://a.example.evil", false),
            ("https://*.example", "https://b.a.example", true),
            ("https://*.example", "https://example", false),
            ("https://*.example", "https://.example", false),
            ("https://*.example", "https://notexample", false),
            ("https://*.example", "https://a.example/", false),
            ("http://*", "http://anything:80", true),
            ("http://*", "http://anything:81", false),
            ("https://[::1]:8443", "https://[::1]:8443", true),
        ] {
            let cors = Cors {
                origins: vec![OriginPattern::parse(pattern).unwrap()],
                credentials: false,
                methods: Allowed::All,
                headers: Allowed::All,
                expose: Allowed::All,
                max_age: Duration::ZERO,
            };
            let origin_value = HeaderValue::from_static(origin);
            assert_eq!(cors.allows(&origin_value), expected, "{pattern} {origin}");
        }
        let one = OriginPattern::parse("https://*.a.example")
            .unwrap()
            .of_one_label();
        let OriginPattern::Those(one) = one else {
            panic!("{one:?}");
        };
        for (origin, expected) in [
            ("https://b.a.example", true),
            ("https://c.b.a.example", false),
            ("https://a.example", false),
            ("https://.a.example", false),
        ] {
            let origin = Origin::parse(origin).unwrap();
            assert_eq!(one.takes(&origin), expected, "{}", origin.host);
        }
        for bad in [
            "",
            "a.example",
            "ftp://a",
            "https://",
            "https://*a.example",
            "https://a.*",
            "https://a:0",
            "https://a b",
        ] {
            assert_eq!(OriginPattern::parse(bad), None, "{bad}");
        }
    }
}
