//! The host that a request is for (RFC 9112 §3.2, RFC 9113 §8.3.1): one, or the request is refused.

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Uri, Version};

use super::HeaderRefusal;

/// The host a request is for: the field's value as the endpoint will get it, and the part that routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHost {
    /// With port, as sent. None: an HTTP/1.0 request without one.
    pub value: Option<HeaderValue>,
    /// Where in the value the name ends.
    end: usize,
    /// The name, when it is not to be found in the value as it is to be compared.
    folded: Option<Box<str>>,
}

impl RequestHost {
    /// Lower case, without port and trailing dot; empty if there is none.
    pub fn name(&self) -> &str {
        match (&self.folded, &self.value) {
            (Some(folded), _) => folded,
            (None, Some(value)) => value
                .to_str()
                .ok()
                .and_then(|text| text.get(..self.end))
                .unwrap_or_default(),
            (None, None) => "",
        }
    }

    #[cfg(test)]
    pub(in crate::l7) fn named(name: &'static str) -> Self {
        Self {
            value: Some(HeaderValue::from_static(name)),
            end: name.len(),
            folded: None,
        }
    }
}

/// Reads the host of a request (RFC 9112 §3.2, RFC 9113 §8.3.1).
pub fn host_of(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<RequestHost, HeaderRefusal> {
    let mut fields = headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(HeaderRefusal::Host);
    }
    let value = match (uri.authority(), field) {
        (Some(authority), Some(field)) if version >= Version::HTTP_2 => {
            if !authority
                .as_str()
                .as_bytes()
                .eq_ignore_ascii_case(field.as_bytes())
            {
                return Err(HeaderRefusal::Host);
            }
            Some(field.clone())
        }
        // An absolute target wins over the field (RFC 9112 §3.2.2).
        (Some(authority), _) => {
            Some(HeaderValue::from_str(authority.as_str()).map_err(|_| HeaderRefusal::Host)?)
        }
        (None, Some(field)) => Some(field.clone()),
        (None, None) if version == Version::HTTP_10 => None,
        (None, None) => return Err(HeaderRefusal::Host),
    };
    let Some(text) = &value else {
        return Ok(RequestHost {
            value,
            end: 0,
            folded: None,
        });
    };
    let name = host_name(text.as_bytes()).ok_or(HeaderRefusal::Host)?;
    let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
    let folded = upper.then(|| name.to_ascii_lowercase().into_boxed_str());
    let end = name.len();
    Ok(RequestHost { value, end, folded })
}

/// The name in a `Host` field: `name[:port]` or `[v6][:port]`, nothing else (RFC 3986 §3.2.2 without userinfo).
fn host_name(value: &[u8]) -> Option<&str> {
    let (name, port) = match value {
        [b'[', rest @ ..] => {
            let end = memchr::memchr(b']', rest)?;
            let inside = std::str::from_utf8(&rest[..end]).ok()?;
            inside.parse::<std::net::Ipv6Addr>().ok()?;
            (&value[..end + 2], rest.get(end + 1..)?)
        }
        _ => {
            let end = memchr::memchr(b':', value).unwrap_or(value.len());
            (&value[..end], &value[end..])
        }
    };
    let port_ok = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let name = name.strip_suffix(b".").unwrap_or(name);
    // No escapes: nobody uses them, and an HTTP/2 authority has none.
    let byte_ok = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte);
    let address = name.first() == Some(&b'[');
    if !port_ok || name.is_empty() || !(address || name.iter().all(byte_ok)) {
        return None;
    }
    std::str::from_utf8(name).ok()
}
