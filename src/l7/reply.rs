//! Responses that Tidegate makes itself: direct responses, redirections, failures.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::Body;
use super::failure::Failure;
use super::headers::RequestHost;
use super::worker::Worker;
use crate::model::{DirectResponse, Redirect};
use crate::telemetry::Outcome;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A response of Tidegate's own.
#[derive(Debug)]
pub struct Reply {
    /// Why it is given.
    pub outcome: Outcome,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    /// Whether the client's connection must end.
    close: bool,
    /// Whether `Proxy-Status` says why.
    explain: bool,
    /// Whether it answers HEAD: the fields of a body, and none.
    head_only: bool,
}

impl Reply {
    /// What a rule's filter says.
    pub fn direct(direct: &DirectResponse) -> Self {
        Self {
            outcome: Outcome::Direct,
            status: direct.status,
            headers: direct.headers.iter().cloned().collect(),
            body: direct.body.clone(),
            close: false,
            explain: false,
            head_only: false,
        }
    }

    /// Nothing but fields.
    pub fn fields(headers: HeaderMap) -> Self {
        Self {
            outcome: Outcome::Direct,
            status: StatusCode::NO_CONTENT,
            headers,
            body: Bytes::new(),
            close: false,
            explain: false,
            head_only: false,
        }
    }

    /// A redirection to a location.
    pub fn redirect(status: StatusCode, location: &str) -> Self {
        let location = HeaderValue::from_str(location).ok();
        Self {
            outcome: Outcome::Redirected,
            status,
            headers: location
                .map(|location| (LOCATION, location))
                .into_iter()
                .collect(),
            body: Bytes::new(),
            close: false,
            explain: false,
            head_only: false,
        }
    }

    /// What the client is told of a failure, and after which time it may come again, if that is known. A gRPC client is
    /// told in its own words.
    pub fn failure(failure: Failure, grpc: bool, may_return: Option<Duration>) -> Self {
        let outcome = failure.outcome();
        let mut headers = HeaderMap::new();
        let mut status = failure.status();
        let mut body = Bytes::new();
        if grpc {
            // Trailers-only (gRPC over HTTP/2): a 200 whose fields carry the status.
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", grpc_status(status));
            headers.insert("grpc-message", HeaderValue::from_static(outcome.code()));
            // gRPC's A6: so the server pushes back.
            if let Some(pause) = may_return {
                let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                headers.insert("grpc-retry-pushback-ms", HeaderValue::from(ms));
            }
            status = StatusCode::OK;
        } else {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            body = Bytes::from(format!(
                "{} {}: {}\n",
                status.as_u16(),
                status.canonical_reason().unwrap_or_default(),
                outcome.code()
            ));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let pause = may_return.unwrap_or(Duration::from_secs(1));
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(pause.as_millis().div_ceil(1000) as u64),
            );
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(
                ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"),
            );
        }
        Self {
            outcome,
            status,
            headers,
            body,
            close: failure.ends_connection(),
            explain: true,
            head_only: false,
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The same as an answer to HEAD: the HTTP library leaves the body out for HTTP/1 only.
    pub fn head_only(mut self, head_only: bool) -> Self {
        self.head_only = head_only;
        self
    }

    /// Bytes of the body.
    pub fn body_bytes(&self) -> u64 {
        if self.head_only { 0 } else { self.body.len() as u64 }
    }

    /// The response. `Connection` is only for HTTP/1.
    pub fn into_response(mut self, worker: &Worker, http1: bool) -> Response<Body> {
        self.headers.insert(DATE, worker.date());
        // These have no body by their nature, and no length of it (RFC 9110 §8.6).
        if !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            self.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        if self.explain && worker.proxy_status() {
            self.headers.insert(
                PROXY_STATUS,
                HeaderValue::from_static(self.outcome.proxy_status()),
            );
        }
        if http1 && (self.close || worker.draining()) {
            self.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let body = if self.head_only { Bytes::new() } else { self.body };
        let mut response = Response::new(Body::Full(body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// gRPC's status for an HTTP status ("HTTP to gRPC Status Code Mapping"), with UNAVAILABLE for what may be tried again.
fn grpc_status(status: StatusCode) -> HeaderValue {
    HeaderValue::from_static(match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 | 405 => "12",
        408 | 504 => "4",
        431 | 413 => "8",
        429 | 502 | 503 => "14",
        _ => "2",
    })
}

/// The location of a redirection (Gateway API `HTTPRequestRedirectFilter`): what is not given stays, the port of the
/// scheme is left out.
pub fn redirect_to(
    redirect: &Redirect,
    is_tls: bool,
    host: &RequestHost,
    port: u16,
    path: &str,
    query: Option<&str>,
) -> String {
    let own = if is_tls { &Scheme::HTTPS } else { &Scheme::HTTP };
    let scheme = redirect.scheme.as_ref().unwrap_or(own);
    let name = redirect.hostname.as_deref().unwrap_or(host.name());
    let own_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => own_port,
        (None, None) => port,
    };
    let port = if port == own_port {
        String::new()
    } else {
        format!(":{port}")
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{name}{port}{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_keeps_what_is_not_given() {
        let plain = Redirect {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        };
        let host = RequestHost::named("a.example");
        let https = Redirect {
            scheme: Some(Scheme::HTTPS),
            ..plain.clone()
        };
        let other = Redirect {
            hostname: Some("b.example".into()),
            port: Some(8443),
            ..https.clone()
        };
        for (redirect, is_tls, port, query, expected) in [
            (&plain, false, 80, None, "http://a.example/p"),
            (&plain, false, 8080, Some("q=1"), "http://a.example:8080/p?q=1"),
            (&plain, true, 443, None, "https://a.example/p"),
            (&plain, true, 8443, None, "https://a.example:8443/p"),
            (&https, false, 8080, None, "https://a.example/p"),
            (&other, false, 80, None, "https://b.example:8443/p"),
        ] {
            assert_eq!(redirect_to(redirect, is_tls, &host, port, "/p", query), expected);
        }
    }

    #[test]
    fn a_grpc_client_is_told_in_its_own_words() {
        let reply = Reply::failure(Failure::NoEndpoint, true, None);
        assert_eq!(
            (reply.status(), &reply.headers["grpc-status"]),
            (StatusCode::OK, &HeaderValue::from_static("14"))
        );
        assert!(!reply.headers.contains_key("grpc-retry-pushback-ms"));
        let pause = Some(Duration::from_millis(2345));
        let reply = Reply::failure(Failure::Shed, true, pause);
        assert_eq!(&reply.headers["grpc-status"], "14");
        assert_eq!(&reply.headers["grpc-retry-pushback-ms"], "2345");
        let reply = Reply::failure(Failure::Shed, false, pause);
        assert_eq!(&reply.headers[RETRY_AFTER], "3", "whole seconds, and not sooner");
        let reply = Reply::failure(Failure::NoEndpoint, false, None);
        assert_eq!(&reply.headers[RETRY_AFTER], "1");
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(&reply.body[..], b"503 Service Unavailable: no_endpoint\n");
    }
}
