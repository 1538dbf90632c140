//! The fields of messages that are passed on: what belongs to one hop only, who the client is, where the request goes.
//!
//! One pass over the fields finds what there is ([`Survey`]); only what was found is touched. Rules: RFC 9110 §7.6
//! (forwarding), RFC 9112 §3 (targets), RFC 9113 §8 (HTTP/2), RFC 7239 (`Forwarded`).

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPECT, FORWARDED, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

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
    pub(super) fn named(name: &'static str) -> Self {
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

fn forwarded(headers: &mut HeaderMap, survey: Survey, host: &RequestHost, by: &ForwardedBy<'_>) {
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

/// Makes a response's fields those of the next hop; a missing `Date` is added (RFC 9110 §6.6.1).
pub fn forward_response(headers: &mut HeaderMap, date: impl FnOnce() -> HeaderValue) {
    let mut connection = false;
    let mut hop = false;
    let mut lengths = (false, false);
    let mut dated = false;
    for name in headers.keys() {
        let text = name.as_str().as_bytes();
        match text.len() {
            4 => dated |= text == b"date",
            7 => hop |= text == b"upgrade",
            10 => {
                connection |= text == b"connection";
                hop |= text == b"keep-alive";
            }
            14 => lengths.0 |= text == b"content-length",
            16 => hop |= text == b"proxy-connection",
            17 => lengths.1 |= text == b"transfer-encoding",
            _ => {}
        }
    }
    if connection && remove_listed(headers).is_err() {
        headers.remove(CONNECTION);
    }
    if hop {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, UPGRADE] {
            headers.remove(name);
        }
    }
    if lengths.1 {
        headers.remove(TRANSFER_ENCODING);
        // Both: the coding was followed, the length would lie (RFC 9112 §6.3).
        headers.remove(CONTENT_LENGTH);
    }
    if !dated {
        headers.insert(DATE, date());
    }
}

/// Makes an interim response's fields those of the next hop. It has no body, whatever it says.
pub fn forward_interim(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) && remove_listed(headers).is_err() {
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        UPGRADE,
        TRANSFER_ENCODING,
        CONTENT_LENGTH,
    ] {
        headers.remove(name);
    }
}

/// Trailers that may be passed on: none that frame, route or are trusted (RFC 9110 §6.5.1).
pub fn forward_trailers(trailers: &mut HeaderMap) {
    let refused: Vec<_> = trailers
        .keys()
        .filter(|name| {
            let text = name.as_str();
            [
                CONTENT_LENGTH,
                TRANSFER_ENCODING,
                HOST,
                CONNECTION,
                TE,
                UPGRADE,
                FORWARDED,
                MAX_FORWARDS,
                EXPECT,
            ]
            .contains(name)
                || text.starts_with("x-forwarded-")
                || [http::header::AUTHORIZATION, COOKIE, http::header::SET_COOKIE].contains(name)
                || is_alias(text.as_bytes())
        })
        .cloned()
        .collect();
    for name in refused {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            (
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    fn forward(fields: &[(&str, &str)], trusted: bool) -> Result<HeaderMap, HeaderRefusal> {
        let mut headers = map(fields);
        let client = HeaderValue::from_static("192.0.2.1");
        let by = ForwardedBy {
            client: &client,
            address: "192.0.2.1".parse().unwrap(),
            trusted,
            scheme: "http",
            identity: None,
        };
        let survey = Survey::of(&headers);
        let host = host_of(&Uri::from_static("/"), Version::HTTP_11, &headers)?;
        forward_request(&mut headers, survey, &host, &by, Version::HTTP_11)?;
        Ok(headers)
    }

    fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn hosts_are_read_strictly() {
        let read = |uri: &str, version, fields: &[(&str, &str)]| {
            host_of(&uri.parse().unwrap(), version, &map(fields)).map(|host| host.name().to_owned())
        };
        let (v10, v11, v2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let refused = Err(HeaderRefusal::Host);
        for (uri, version, fields, expected) in [
            ("/", v11, &[("host", "A.Example:80")][..], Ok("a.example")),
            ("/", v11, &[("host", "a.example.")], Ok("a.example")),
            ("/", v11, &[("host", "[::1]:8080")], Ok("[::1]")),
            (
                "http://b.example/",
                v11,
                &[("host", "a.example")],
                Ok("b.example"),
            ),
            ("http://b.example/", v2, &[], Ok("b.example")),
            ("http://b.example/", v2, &[("host", "B.example")], Ok("b.example")),
            ("/", v10, &[], Ok("")),
            ("http://b.example/", v2, &[("host", "a.example")], refused),
            ("/", v11, &[], refused),
            ("/", v11, &[("host", "a"), ("host", "a")], refused),
            ("/", v11, &[("host", "a,b")], refused),
            ("/", v11, &[("host", "u@a")], refused),
            ("/", v11, &[("host", "a/b")], refused),
            ("/", v11, &[("host", "a:x")], refused),
            ("/", v11, &[("host", "a:123456")], refused),
            ("/", v11, &[("host", "[::1")], refused),
            ("/", v11, &[("host", "[zz]")], refused),
            ("/", v11, &[("host", "a[b]")], refused),
            ("/", v11, &[("host", "a%41")], refused),
            ("/", v11, &[("host", "")], refused),
        ] {
            assert_eq!(
                read(uri, version, fields),
                expected.map(str::to_owned),
                "{uri} {version:?} {fields:?}"
            );
        }
    }

    #[test]
    fn what_belongs_to_one_hop_stays_there() {
        let headers = forward(
            &[
                ("host", "a"),
                ("connection", "close, X-Mine"),
                ("x-mine", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip, trailers"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQAAP__"),
                ("transfer-encoding", "chunked"),
                ("expect", "100-Continue"),
                ("x-kept", "1"),
            ],
            false,
        )
        .unwrap();
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "host",
                "te",
                "via",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-kept"
            ]
        );
        assert_eq!(all(&headers, "te"), ["trailers"]);
        assert_eq!(all(&headers, "via"), ["1.1 tidegate"]);
    }

    #[test]
    fn what_could_confuse_the_endpoint_is_refused() {
        let looping = "1.1 tidegate, ".repeat(9) + "1.1 tidegate";
        for (field, refusal) in [
            (("connection", "content-length"), HeaderRefusal::Connection),
            (("connection", "x-forwarded-for"), HeaderRefusal::Connection),
            (("connection", "host"), HeaderRefusal::Connection),
            (("connection", "a b"), HeaderRefusal::Connection),
            (("content_length", "1"), HeaderRefusal::Alias),
            (("x_forwarded_for", "1"), HeaderRefusal::Alias),
            (("expect", "200-ok"), HeaderRefusal::Expect),
            (("via", looping.as_str()), HeaderRefusal::Loop),
        ] {
            assert_eq!(forward(&[("host", "a"), field], false), Err(refusal), "{field:?}");
        }
        assert!(
            forward(
                &[("host", "a"), ("my_field", "1"), ("via", "1.1 tidegate")],
                false
            )
            .is_ok()
        );
    }

    #[test]
    fn a_field_of_trust_is_taken_off_whatever_its_length_and_whatever_else_is_there() {
        for name in [
            "x-forwarded-a",
            "x-forwarded-prefix",
            "x-forwarded-client-cert",
            "x-forwarded-tls-client-cert-info",
        ] {
            let headers = forward(&[("host", "a"), (name, "forged")], false).unwrap();
            assert!(!headers.contains_key(name), "{name}");
        }
        let own = [("host", "a"), ("x-forwarded-client-cert", "forged")];
        assert!(
            !forward(&own, true)
                .unwrap()
                .contains_key("x-forwarded-client-cert")
        );
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let fields = [
            ("host", "a"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-user", "root"),
            ("x-real-ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
        ];
        let headers = forward(&fields, false).unwrap();
        assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.1"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["a"]);
        for gone in ["x-forwarded-port", "x-forwarded-user", "x-real-ip", "forwarded"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        let headers = forward(&fields, true).unwrap();
        assert_eq!(all(&headers, "x-forwarded-for"), ["203.0.113.9, 192.0.2.1"]);
        assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&headers, "x-forwarded-host"), ["shop"]);
        assert_eq!(
            all(&headers, "forwarded"),
            ["for=203.0.113.9", "for=192.0.2.1;host=\"a\";proto=http"]
        );
    }

    #[test]
    fn an_upgrade_is_asked_for_by_the_rules_or_not_at_all() {
        let good = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        let asked =
            |method, version, fields: &[(&str, &str)]| upgrade_of(&method, version, &map(fields)).is_some();
        assert!(asked(Method::GET, Version::HTTP_11, &good));
        assert!(!asked(Method::POST, Version::HTTP_11, &good));
        assert!(!asked(Method::GET, Version::HTTP_10, &good));
        assert!(!asked(Method::GET, Version::HTTP_11, &[good[1]]));
        assert!(!asked(
            Method::GET,
            Version::HTTP_11,
            &[good[0], good[1], ("content-length", "1")]
        ));
        assert!(!asked(
            Method::GET,
            Version::HTTP_11,
            &[good[0], ("upgrade", "h2c")]
        ));
        assert!(!asked(
            Method::GET,
            Version::HTTP_11,
            &[good[0], good[1], ("upgrade", "h2c")]
        ));
    }

    #[test]
    fn a_websocket_is_named_by_the_rules_or_not_at_all() {
        for (upgrade, connection, expected) in [
            (&["websocket"][..], "Upgrade", true),
            (&["WebSocket"], "keep-alive, upgrade", true),
            (&["websocket"], "keep-alive", false),
            (&["h2c"], "upgrade", false),
            (&["websocket", "h2c"], "upgrade", false),
            (&[], "upgrade", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static(connection));
            for protocol in upgrade {
                headers.append(UPGRADE, HeaderValue::from_static(protocol));
            }
            assert_eq!(websocket_of(&headers).is_some(), expected, "{headers:?}");
        }
    }

    #[test]
    fn responses_lose_what_belongs_to_one_hop_and_gain_a_date() {
        let mut headers = map(&[
            ("connection", "close, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("etag", "a"),
        ]);
        forward_response(&mut headers, || HeaderValue::from_static("now"));
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["date", "etag"]);
        let mut headers = map(&[("date", "then"), ("content-length", "5")]);
        forward_response(&mut headers, || unreachable!("it is dated"));
        assert_eq!(headers, map(&[("date", "then"), ("content-length", "5")]));
    }

    #[test]
    fn trailers_carry_no_framing_and_no_trust() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("content-length", "1"),
            ("x-forwarded-for", "1"),
            ("x_forwarded_for", "1"),
            ("set-cookie", "a=1"),
        ]);
        forward_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("grpc-status", "0")]));
    }
}
