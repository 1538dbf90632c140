//! The way to the authority: HTTP/1.1 over TLS, one connection for each request. An order is a dozen requests a few times
//! a year; connections that are kept would only be there to go stale.
//!
//! Bounds: a deadline for the whole request, the size of an answer, and `Retry-After`, which is cut to a day before anybody
//! calculates with it. What an answer that refuses said in it is remembered ([`Way::heard`]): the library above drops it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode, Uri, uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::model::BackendProtocol;
use crate::model::acme::Acme;

/// For a whole request: finding the address, connecting, handshake, answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Bytes of an answer; the largest is a chain of certificates.
const MAX_ANSWER: usize = 256 * 1024;
/// The longest time that an authority is believed to want to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The way to an authority.
#[derive(Clone)]
pub(super) struct Way {
    tls: Arc<ClientConfig>,
    heard: Arc<Mutex<Option<Duration>>>,
}

impl Way {
    /// That trusts whom the settings say.
    pub(super) fn new(settings: &Acme) -> Self {
        Self {
            tls: Arc::clone(settings.tls.config(BackendProtocol::Http1)),
            heard: Arc::default(),
        }
    }

    /// How long the last answer that refused asked to be left alone; told once.
    pub(super) fn heard(&self) -> Option<Duration> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl HttpClient for Way {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let way = self.clone();
        Box::pin(async move {
            let answer = tokio::time::timeout(DEADLINE, way.ask(request)).await;
            answer
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
                .and_then(|answer| answer)
                .map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

impl Way {
    async fn ask(&self, request: Request<BodyWrapper<Bytes>>) -> io::Result<BytesResponse> {
        let (mut head, body) = request.into_parts();
        let (host, authority) = (host_of(&head.uri)?, authority_of(&head.uri)?);
        let port = head.uri.port_u16().unwrap_or(443);
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);

        head.uri = origin_form(&head.uri);
        head.headers.insert(HOST, authority);
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let answer = sender.send_request(Request::from_parts(head, body)).await;
        let (mut parts, body) = answer.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        driver.abort();
        let body = body.map_err(io::Error::other)?.to_bytes();
        let retry_after = tame(&mut parts.headers, SystemTime::now());
        if refuses_for_now(parts.status) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = retry_after;
        }
        Ok(BytesResponse {
            parts,
            body: Box::new(body),
        })
    }
}

/// Whether `Retry-After` of such an answer is about all that we want, not about what is being worked on.
fn refuses_for_now(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE
}

/// Reads `Retry-After` (RFC 9110 §10.2.3), and leaves in its place seconds that can be calculated with, or nothing.
fn tame(headers: &mut HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.remove(RETRY_AFTER)?;
    let text = text.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has room for are a long time, too.
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        until.duration_since(now).unwrap_or_default()
    };
    let wait = wait.min(MAX_RETRY_AFTER);
    headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    Some(wait)
}

fn host_of(uri: &Uri) -> io::Result<String> {
    if uri.scheme_str() != Some("https") {
        return Err(io::Error::other(format!("{uri} is not https")));
    }
    let host = uri.host().unwrap_or_default();
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn authority_of(uri: &Uri) -> io::Result<HeaderValue> {
    let authority = uri.authority().map_or("", uri::Authority::as_str);
    HeaderValue::from_str(authority).map_err(io::Error::other)
}

fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query()
        .cloned()
        .map_or_else(|| Uri::from_static("/"), Uri::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_and_cut() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (text, expected) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("99999999", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Tue, 31 Dec 2999 23:59:59 GMT", Some(86_400)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            let found = tame(&mut headers, now);
            assert_eq!(found, expected.map(Duration::from_secs), "{text}");
            let left = headers
                .get(RETRY_AFTER)
                .map(|value| value.to_str().unwrap().parse().unwrap());
            assert_eq!(left, expected, "{text}");
        }
        assert_eq!(tame(&mut HeaderMap::new(), now), None);
    }

    #[test]
    fn requests_go_to_https_alone() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let good = uri("https://[::1]:14000/dir?a=1");
        assert_eq!(host_of(&good).unwrap(), "::1");
        assert_eq!(authority_of(&good).unwrap(), "[::1]:14000");
        assert_eq!(origin_form(&good).to_string(), "/dir?a=1");
        assert!(host_of(&uri("http://ca.example/")).is_err() && host_of(&uri("/dir")).is_err());
    }
}
