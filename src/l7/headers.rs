//! The fields of messages that are passed on: what belongs to one hop only, who the client is, where the request goes.
//!
//! One pass over the fields finds what there is ([`Survey`]); only what was found is touched. Rules: RFC 9110 §7.6
//! (forwarding), RFC 9112 §3 (targets), RFC 9113 §8 (HTTP/2), RFC 7239 (`Forwarded`).

mod forwarded;
mod host;
mod response;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

pub use self::forwarded::ForwardedBy;
use self::forwarded::forwarded;
pub use self::host::{RequestHost, host_of};
pub use self::response::{ResponseSurvey, forward_interim, forward_response, forward_trailers};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Who the client is by its certificate (`l7/client_certificate.rs`).
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// How Tidegate names itself in `Via`.
const PSEUDONYM: &str = "tidegate";
/// So many of our names in `Via` are a loop; an edge, a gateway and two sidecars are not.
const MAX_HOPS: usize = 10;

/// What is there among a request's fields, of what matters to a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    connection: bool,
    keep_alive: bool,
    proxy_connection: bool,
    http2_settings: bool,
    te: bool,
    transfer_encoding: bool,
    content_length: bool,
    upgrade: bool,
    expect: bool,
    host: bool,
    cookie: bool,
    via: bool,
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP`.
    forwarded: bool,
    /// `Endpoint-Load-Metrics-Format`.
    load_format: bool,
    /// A name like `content_length`, which some servers read as the one with hyphens.
    alias: bool,
}

/// Why a request's fields are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRefusal {
    /// No host, two hosts, two that differ, or one that is no host.
    Host,
    /// `Connection` lists a field that frames or is trusted.
    Connection,
    /// A field's name imitates one that frames or is trusted.
    Alias,
    /// `Expect` asks for something unknown.
    Expect,
    /// Our name is in `Via` too often.
    Loop,
    /// A body's announced length and its end differ.
    Length,
}

impl Survey {
    /// Looks at every field once.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            let text = name.as_str().as_bytes();
            // The length tells most names apart before anything is compared.
            match text.len() {
                2 => survey.te |= text == b"te",
                3 => survey.via |= text == b"via",
                4 => survey.host |= text == b"host",
                6 => {
                    survey.expect |= text == b"expect";
                    survey.cookie |= text == b"cookie";
                }
                7 => survey.upgrade |= text == b"upgrade",
                9 => survey.forwarded |= text == b"forwarded" || text == b"x-real-ip",
                10 => {
                    survey.connection |= text == b"connection";
                    survey.keep_alive |= text == b"keep-alive";
                }
                14 => {
                    survey.forwarded |= text.starts_with(b"x-forwarded-");
                    survey.content_length |= text == b"content-length";
                    survey.http2_settings |= text == b"http2-settings";
                }
                15..=17 => {
                    survey.forwarded |= text.starts_with(b"x-forwarded-");
                    survey.proxy_connection |= text == b"proxy-connection";
                    survey.transfer_encoding |= text == b"transfer-encoding";
                }
                28 => {
                    survey.forwarded |= text.starts_with(b"x-forwarded-");
                    survey.load_format |= text == b"endpoint-load-metrics-format";
                }
                13 | 18.. => survey.forwarded |= text.starts_with(b"x-forwarded-"),
                _ => {}
            }
            survey.alias |= memchr::memchr(b'_', text).is_some() && is_alias(text);
        }
        survey
    }

    /// Whether an upgrade is asked for.
    pub fn upgrade(&self) -> bool {
        self.upgrade
    }

    /// Whether the form is named in which a report of load is wanted.
    pub fn load_format(&self) -> bool {
        self.load_format
    }
}

/// Whether a name reads as a field that frames, routes or is trusted once `_` is taken for `-`.
fn is_alias(name: &[u8]) -> bool {
    let plain: Vec<u8> = name
        .iter()
        .map(|byte| if *byte == b'_' { b'-' } else { *byte })
        .collect();
    plain.starts_with(b"x-forwarded-")
        || [
            &b"content-length"[..],
            b"transfer-encoding",
            b"host",
            b"connection",
            b"upgrade",
            b"expect",
            b"te",
            b"forwarded",
            b"x-real-ip",
        ]
        .contains(&plain.as_slice())
}

/// Makes a request's fields those of the next hop; `Host` is left to the caller.
pub fn forward_request(
    headers: &mut HeaderMap,
    survey: Survey,
    host: &RequestHost,
    by: &ForwardedBy<'_>,
    version: Version,
) -> Result<(), HeaderRefusal> {
    if survey.alias {
        return Err(HeaderRefusal::Alias);
    }
    if survey.expect {
        // Answered here: the library sends `100 Continue` when the body is first asked for.
        let known = headers
            .get_all(EXPECT)
            .iter()
            .all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        headers.remove(EXPECT);
        if !known {
            return Err(HeaderRefusal::Expect);
        }
    }
    if survey.connection {
        remove_listed(headers)?;
    }
    if survey.te {
        let trailers = headers.get_all(TE).iter().any(wants_trailers);
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    remove_hop_by_hop(headers, survey);
    if survey.cookie && version >= Version::HTTP_2 {
        join_crumbs(headers);
    }
    if survey.via && hops(headers) >= MAX_HOPS {
        return Err(HeaderRefusal::Loop);
    }
    headers.append(VIA, via(version));
    forwarded(headers, survey, host, by);
    // Nobody but this proxy has seen the client's certificate: no other's word for it is passed on.
    if survey.forwarded {
        headers.remove(X_FORWARDED_CLIENT_CERT);
    }
    if let Some(identity) = by.identity {
        headers.insert(X_FORWARDED_CLIENT_CERT, identity.clone());
    }
    Ok(())
}

fn remove_hop_by_hop(headers: &mut HeaderMap, survey: Survey) {
    for (there, name) in [
        (survey.keep_alive, KEEP_ALIVE),
        (survey.proxy_connection, PROXY_CONNECTION),
        (survey.http2_settings, HTTP2_SETTINGS),
        (survey.upgrade, UPGRADE),
        (survey.transfer_encoding, TRANSFER_ENCODING),
    ] {
        if there {
            headers.remove(name);
        }
    }
}

/// Removes the fields that `Connection` lists, and itself (RFC 9110 §7.6.1).
fn remove_listed(headers: &mut HeaderMap) -> Result<(), HeaderRefusal> {
    let mut values = headers.get_all(CONNECTION).iter();
    if let (Some(only), None) = (values.next(), values.next())
        && [&b"keep-alive"[..], b"close"].contains(&only.as_bytes())
    {
        // Nearly all are one of these.
        headers.remove(CONNECTION);
        return Ok(());
    }
    let mut listed = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let text = value.to_str().map_err(|_| HeaderRefusal::Connection)?;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if ["close", "keep-alive", "upgrade", "te", "http2-settings"]
                .iter()
                .any(|own| name.eq_ignore_ascii_case(own))
            {
                continue;
            }
            listed.push(HeaderName::try_from(name).map_err(|_| HeaderRefusal::Connection)?);
        }
    }
    for name in listed {
        let framing_or_trusted = name == HOST
            || name == CONTENT_LENGTH
            || name == TRANSFER_ENCODING
            || name == FORWARDED
            || name == http::header::AUTHORIZATION
            || name == COOKIE
            || name.as_str().starts_with("x-forwarded-");
        if framing_or_trusted {
            return Err(HeaderRefusal::Connection);
        }
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    Ok(())
}

/// HTTP/2 clients may send a cookie in crumbs, to compress them better; HTTP/1 has one field (RFC 9113 §8.2.3).
fn join_crumbs(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

fn wants_trailers(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn hops(headers: &HeaderMap) -> usize {
    let values = headers
        .get_all(VIA)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .filter(|hop| hop.trim().ends_with(PSEUDONYM))
        .count()
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_09 | Version::HTTP_10 => "1.0 tidegate",
        Version::HTTP_2 => "2 tidegate",
        Version::HTTP_3 => "3 tidegate",
        _ => "1.1 tidegate",
    })
}

/// The protocol a request wants to upgrade to, if it does so by the rules (RFC 9110 §7.8): `Connection: upgrade`,
/// one `Upgrade`, a GET without a body. Anything else is served as if it had not asked.
pub fn upgrade_of(method: &Method, version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = websocket_of(headers)?;
    let bodiless = !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING);
    (bodiless && method == Method::GET && version == Version::HTTP_11).then(|| protocol.clone())
}

/// The protocol that a request or a response with status 101 names, if it is a WebSocket's and is named by the rules:
/// listed in `Connection`, and alone. h2c by upgrade would make us carry a protocol unseen (RFC 9113 §3.1 took it back).
pub fn websocket_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(UPGRADE).iter();
    let protocol = values.next()?;
    let listed = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    (websocket && listed && values.next().is_none()).then_some(protocol)
}

#[cfg(test)]
mod tests;
