//! Who the client is, told to the endpoint: `X-Forwarded-*`, and `Forwarded` (RFC 7239) where it is in use.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    RequestHost, Survey, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP,
};

/// Who sent a request, for the fields that say so.
#[derive(Debug)]
pub struct ForwardedBy<'a> {
    /// The client's address as a field's value.
    pub client: &'a HeaderValue,
    /// The client's address.
    pub address: IpAddr,
    /// Whether the client is a proxy whose own word is believed.
    pub trusted: bool,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Who the client is by its certificate.
    pub identity: Option<&'a HeaderValue>,
}

pub(super) fn forwarded(headers: &mut HeaderMap, survey: Survey, host: &RequestHost, by: &ForwardedBy<'_>) {
    if survey.forwarded && by.trusted {
        if headers.contains_key(FORWARDED) {
            headers.append(FORWARDED, forwarded_element(by, host));
        }
        let chain = joined(headers, &X_FORWARDED_FOR, by.client);
        headers.insert(X_FORWARDED_FOR, chain);
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(by.scheme));
        }
        if !headers.contains_key(X_FORWARDED_HOST)
            && let Some(value) = &host.value
        {
            headers.insert(X_FORWARDED_HOST, value.clone());
        }
        return;
    }
    if survey.forwarded {
        for name in [FORWARDED, X_FORWARDED_PORT, X_REAL_IP, X_FORWARDED_HOST] {
            headers.remove(name);
        }
        let others: Vec<_> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-forwarded-"))
            .cloned()
            .collect();
        for name in others {
            headers.remove(name);
        }
    }
    headers.insert(X_FORWARDED_FOR, by.client.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(by.scheme));
    if let Some(value) = &host.value {
        headers.insert(X_FORWARDED_HOST, value.clone());
    }
}

/// All values of a field and one more, as one list.
fn joined(headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> HeaderValue {
    let mut text = Vec::new();
    for value in headers.get_all(name).iter().chain([last]) {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| last.clone())
}

/// RFC 7239 §4: IPv6 addresses are quoted and bracketed.
fn forwarded_element(by: &ForwardedBy<'_>, host: &RequestHost) -> HeaderValue {
    let client = match by.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    let host = match host.value.as_ref().and_then(|value| value.to_str().ok()) {
        Some(host) => format!(";host=\"{host}\""),
        None => String::new(),
    };
    let element = format!("for={client}{host};proto={}", by.scheme);
    HeaderValue::from_str(&element).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}
