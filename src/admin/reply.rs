//! Replies: from a request's head to a response, without a socket.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode, Version, request};
use http_body_util::Full;
use serde::Serialize;

use super::view::Ask;
use super::{AdminState, host, stats};
use crate::telemetry::exposition;
use crate::telemetry::process::ProcessTotals;
use crate::telemetry::record::unix_us;

/// Entries of a list, unless `?limit=` says otherwise.
const LIMIT: usize = 1000;

/// Entries of a list that may be asked for.
const MAX_LIMIT: usize = 100_000;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// The page may load nothing, speak with nobody but this listener, and be framed by nobody.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("dashboard.html");

const PATHS: &str = "/  /metrics  /livez  /readyz  /stats.json  /backends  /routes  /listeners  /rejects  /certificates  /objects";

/// A response with all of its body.
pub(super) type Reply = Response<Full<Bytes>>;

/// The reply to a request. `loopback`: the listener is bound to a loopback address. May take some milliseconds when the world
/// is large.
pub(super) fn reply(state: &Arc<AdminState>, loopback: bool, head: &request::Parts) -> Reply {
    if let Some(refusal) = refusal(loopback, head) {
        return refusal;
    }
    let path = head.uri.path();
    let Some(what) = What::at(path) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("nothing at {path:?}; there is: {PATHS}\n"),
        );
    };
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut reply = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD: nothing can be changed here\n".to_owned(),
        );
        reply
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    let query = head.uri.query().unwrap_or_default();
    match what {
        What::Page => page(),
        What::Metrics => metrics(state),
        What::Live => text(StatusCode::OK, "ok\n".to_owned()),
        What::Ready => ready(state, query),
        What::Stats => json(&stats::stats(
            &state.window,
            stats::Present {
                now: Instant::now(),
                now_unix_us: unix_us(SystemTime::now()),
                totals: state.metrics.totals(),
                process: ProcessTotals::read(),
                gates: &state.gates,
                view: &*state.view,
            },
        )),
        What::Backends => list(query, |ask| json(&state.view.backends(ask))),
        What::Routes => list(query, |ask| json(&state.view.routes(ask))),
        What::Listeners => list(query, |ask| json(&state.view.listeners(ask))),
        What::Objects => list(query, |ask| json(&state.view.objects(ask))),
        What::Rejects => list(query, |ask| json(&state.view.rejects(ask))),
        What::Certificates => list(query, |ask| json(&state.view.certificates(ask))),
    }
}

#[derive(Clone, Copy)]
enum What {
    Page,
    Metrics,
    Live,
    Ready,
    Stats,
    Backends,
    Routes,
    Listeners,
    Objects,
    Rejects,
    Certificates,
}

impl What {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/metrics" => Self::Metrics,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/stats.json" => Self::Stats,
            "/backends" => Self::Backends,
            "/routes" => Self::Routes,
            "/listeners" => Self::Listeners,
            "/objects" => Self::Objects,
            "/rejects" => Self::Rejects,
            "/certificates" => Self::Certificates,
            _ => return None,
        })
    }
}

/// What is said to a request that bears a foreign name on a loopback address; see [`host`].
fn refusal(loopback: bool, head: &request::Parts) -> Option<Reply> {
    if !loopback {
        return None;
    }
    let mut fields = head.headers.get_all(header::HOST).iter();
    let named = match (fields.next(), fields.next()) {
        (_, Some(_)) => {
            return Some(text(
                StatusCode::BAD_REQUEST,
                "more than one Host field\n".to_owned(),
            ));
        }
        // No browser speaks HTTP/1.0.
        (None, None) if head.version == Version::HTTP_10 => return None,
        (None, None) => return Some(text(StatusCode::BAD_REQUEST, "no Host field\n".to_owned())),
        (Some(field), None) => field.to_str().unwrap_or_default(),
    };
    let target = head.uri.authority().map(http::uri::Authority::as_str);
    if host::is_loopback(named) && target.is_none_or(host::is_loopback) {
        return None;
    }
    Some(text(
        StatusCode::FORBIDDEN,
        "this listener is bound to a loopback address and answers only to its names: localhost, 127.0.0.1, [::1]\n"
            .to_owned(),
    ))
}

fn page() -> Reply {
    let mut reply = with_type(StatusCode::OK, HTML, Bytes::from_static(PAGE.as_bytes()));
    reply.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
    reply
}

fn metrics(state: &AdminState) -> Reply {
    match state.exposition.text() {
        Ok(body) => with_type(StatusCode::OK, exposition::CONTENT_TYPE, body.into()),
        Err(error) => failed(&error),
    }
}

fn ready(state: &AdminState, query: &str) -> Reply {
    let gates = state.gates.list();
    let ready = gates.iter().all(|gate| gate.open);
    let verdict = if ready { "ready" } else { "not ready" };
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = String::new();
    for gate in &gates {
        if gate.open {
            if !gate.reason.is_empty() {
                body.push_str(&format!("[+] {}: {}\n", gate.name, gate.reason));
            } else if parameter(query, "verbose").is_some() {
                body.push_str(&format!("[+] {}\n", gate.name));
            }
        } else {
            body.push_str(&format!("[-] {}: {}\n", gate.name, gate.reason));
        }
    }
    text(status, format!("{body}{verdict}\n"))
}

fn list(query: &str, answer: impl Fn(&Ask) -> Reply) -> Reply {
    let limit = match parameter(query, "limit").map(|limit| limit.parse::<usize>()) {
        None => LIMIT,
        Some(Ok(limit)) if limit <= MAX_LIMIT => limit,
        Some(_) => {
            return text(
                StatusCode::BAD_REQUEST,
                format!("limit is a number from 0 to {MAX_LIMIT}\n"),
            );
        }
    };
    answer(&Ask {
        names: parameter(query, "name").map(|name| BTreeSet::from([name])),
        ..Ask::up_to(limit)
    })
}

/// The first value of a parameter, decoded; empty when it has none.
fn parameter(query: &str, name: &str) -> Option<String> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| decode(value))
}

/// Decodes `%20` and `+`; what is no escape stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = (byte == b'%')
            .then(|| after.first_chunk::<2>().and_then(hex))
            .flatten();
        match (escaped, byte) {
            (Some(decoded), _) => {
                out.push(decoded);
                rest = &after[2..];
            }
            (None, b'+') => out.push(b' '),
            (None, byte) => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digits: &[u8; 2]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}

fn json(value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            with_type(StatusCode::OK, JSON, body.into())
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Reply {
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
}

fn text(status: StatusCode, body: String) -> Reply {
    with_type(status, TEXT, body.into())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        for (query, expected) in [
            ("", None),
            ("names=x", None),
            ("name", Some("")),
            ("limit=3&name=a%2Fb%3A80", Some("a/b:80")),
            ("name=a+b", Some("a b")),
            ("name=%zz%4", Some("%zz%4")),
            ("name=%ff", Some("\u{fffd}")),
            ("name=1&name=2", Some("1")),
        ] {
            assert_eq!(parameter(query, "name").as_deref(), expected, "{query}");
        }
    }
}
