//! What ties a request to an endpoint: the key of hashing policies, and affinity.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// Which part of a request decides, where an endpoint is chosen by a hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address, without its port. Behind a trusted proxy, the address which that one saw.
    #[default]
    Source,
    /// The path as received, without the query.
    Path,
    /// The first value of this field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(Arc<str>),
}

impl HashKey {
    /// Reads `source`, `path`, `header:NAME` or `cookie:NAME`; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "source" => Some(Self::Source),
            None if text == "path" => Some(Self::Path),
            Some(("header", name)) => HeaderName::from_bytes(name.as_bytes()).ok().map(Self::Header),
            Some(("cookie", name)) => is_cookie_name(name).then(|| Self::Cookie(name.into())),
            _ => None,
        }
    }
}

impl fmt::Display for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => formatter.write_str("source"),
            Self::Path => formatter.write_str("path"),
            Self::Header(name) => write!(formatter, "header:{name}"),
            Self::Cookie(name) => write!(formatter, "cookie:{name}"),
        }
    }
}

/// Requests that belong together go to one endpoint, whatever the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Affinity {
    /// What they have in common.
    pub by: AffinityBy,
    /// How far it goes.
    pub mode: AffinityMode,
}

/// What requests have in common that go to one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum AffinityBy {
    /// A cookie that Tidegate sets, which says where the first of them went.
    Cookie(AffinityCookie),
    /// The value of a field; a hash of it says where.
    Header(HeaderName),
    /// The client's address; a hash of it says where.
    Source,
}

/// How far affinity goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AffinityMode {
    /// As long as the endpoint is there, well, and below its bound of exchanges in flight.
    #[default]
    Strong,
    /// Also not to an endpoint that has clearly more to do than the others (`hash_bound`).
    Balanced,
}

/// The cookie that Tidegate sets.
#[derive(Clone, Debug, PartialEq)]
pub struct AffinityCookie {
    /// Its name.
    pub name: Arc<str>,
    /// How long the client keeps it. None: until the browser is closed.
    pub ttl: Option<Duration>,
    /// Below which path the client sends it.
    pub path: Arc<str>,
    /// Whether the client sends it over TLS only.
    pub secure: bool,
    /// Whether the client sends it with requests that other sites cause.
    pub same_site: SameSite,
}

impl Default for AffinityCookie {
    fn default() -> Self {
        Self {
            name: "tidegate".into(),
            ttl: None,
            path: "/".into(),
            secure: false,
            same_site: SameSite::Lax,
        }
    }
}

/// Whether a client sends a cookie with requests that other sites cause (RFC 6265bis).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Only when the user follows a link.
    Lax,
    /// Always; browsers then want it to be secure.
    None,
    /// Never.
    Strict,
}

impl SameSite {
    /// As in `Set-Cookie`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lax => "Lax",
            Self::None => "None",
            Self::Strict => "Strict",
        }
    }
}

/// Whether a text may be a cookie's name: a token (RFC 6265 §4.1.1), which is what a field's name is.
pub fn is_cookie_name(name: &str) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok()
}

/// Whether a text may be a cookie's path: it begins with `/` and has nothing that ends an attribute.
pub fn is_cookie_path(path: &str) -> bool {
    path.starts_with('/')
        && path
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_shown() {
        for text in ["source", "path", "header:x-user", "cookie:Session_1"] {
            assert_eq!(HashKey::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            HashKey::parse("header:X-User"),
            Some(HashKey::Header(HeaderName::from_static("x-user")))
        );
        for text in [
            "",
            "header",
            "header:",
            "header:a b",
            "cookie:a;b",
            "query:a",
            "Source",
        ] {
            assert_eq!(HashKey::parse(text), None, "{text}");
        }
    }
}
