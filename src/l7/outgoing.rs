//! The request as it goes to endpoints: made once, sent once or, if it is safe, again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use hyper::body::{Body, Incoming};

use super::downstream::Downstream;
use super::failure::Failure;
use super::headers::{ForwardedBy, forward_request, upgrade_of};
use super::interim::Interim;
use super::plan::{Forward, check_length};
use super::upload::{RequestBody, Upload};
use super::worker::Worker;
use super::{filters, hedge, load_report, retry, upgrade};
use crate::l4::proxy_protocol::write;
use crate::model::BackendProtocol;
use crate::upstream::Whose;
use crate::upstream::http1::{BodyLength, RequestHead};

/// A request ready for endpoints.
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// The client's body, if there is one.
    pub upload: Option<Rc<Upload>>,
    /// Whether an upgrade is asked for.
    pub upgrade: bool,
    /// Whether a second attempt may be made beside the first, once the body has come whole.
    pub may_hedge: bool,
    /// Where interim responses go, if the client can have them.
    pub interim: Option<Rc<Interim>>,
    path: PathAndQuery,
    /// An HTTP/1.0 client need not name a host: then it is the endpoint's address.
    host: Option<HeaderValue>,
    /// With the client's own host, which is not sent.
    headers: RefCell<HeaderMap>,
    /// The fields went with an attempt on HTTP/2 that cannot be repeated.
    spent: Cell<bool>,
    /// How HTTP/1 tells the body from what follows.
    length: BodyLength,
    /// Whether an attempt may come after one that was sent.
    may_repeat: bool,
    /// Where endpoints are told who the client is: the number of its connection, and what they are told.
    introduction: Option<(u64, Vec<u8>)>,
}

impl Outgoing {
    /// For whom connections to endpoints are: for all, unless endpoints are told who the client is.
    pub fn whose(&self) -> Whose<'_> {
        match &self.introduction {
            Some((owner, header)) => Whose {
                owner: *owner,
                header,
            },
            None => Whose::default(),
        }
    }

    /// Takes a client's request over. `stream_upgrade`: it is a WebSocket's extended CONNECT.
    pub fn prepare(
        worker: &Worker,
        from: &Downstream,
        forward: &Forward<'_>,
        request: Request<Incoming>,
        stream_upgrade: bool,
    ) -> Result<Self, Failure> {
        let (parts, incoming) = request.into_parts();
        let mut headers = parts.headers;
        let protocol = match forward.survey.upgrade() {
            true => upgrade_of(&parts.method, parts.version, &headers),
            false => None,
        };
        let by = ForwardedBy {
            client: &from.peer_text,
            address: from.peer.ip(),
            trusted: from.trusted,
            scheme: from.scheme(),
            identity: from.identity(),
        };
        forward_request(&mut headers, forward.survey, &forward.host, &by, parts.version)
            .map_err(Failure::Headers)?;
        if forward.survey.load_format() && from.limits.load_reports {
            load_report::keep_question(&mut headers);
        }
        if forward.backend.asks_load() {
            load_report::ask(&mut headers);
        }
        let ends_now = stream_upgrade || incoming.is_end_stream();
        check_length(&headers, ends_now)?;
        if forward.rule.does.changes_request || forward.share.does.changes_request {
            filters::on_request(
                forward.rule.rule.filters.iter().chain(&forward.share.filters),
                &mut headers,
            );
        }
        let upgrade = stream_upgrade || protocol.is_some();
        match protocol {
            Some(protocol) => upgrade::ask(&mut headers, protocol),
            None if stream_upgrade => {
                worker.with_random(|random| upgrade::ask_for_stream(&mut headers, random))
            }
            None => {}
        }
        let method = if stream_upgrade { Method::GET } else { parts.method };
        let policy = &forward.rule.rule.retry;
        // On HTTP/2 an endpoint may say of what was sent that it has not touched it.
        let may_be_untouched = policy.attempts > 1
            && policy.on.connect_failure
            && forward.backend.with_fleet(|fleet| fleet.policy().protocol) != BackendProtocol::Http1;
        let may_hedge = hedge::may_hedge(forward.backend.hedges(), &method, policy, upgrade);
        let may_repeat = may_hedge || may_be_untouched || retry::may_send_again(&method, policy);
        let keeps = may_repeat || forward.rule.does.mirrors || forward.share.does.mirrors;
        let keep = if keeps { policy.max_replay_bytes } else { 0 };
        let upload = (!ends_now).then(|| Upload::new(incoming, &worker.timers, from.limits.body_idle, keep));
        let path = match &forward.new_path {
            Some(path) => path.clone(),
            None => parts
                .uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
        };
        // A filter may have set the host; the rewrite goes before it, the client's own comes last.
        let host = forward.new_host.clone().or_else(|| forward.host.value.clone());
        let length = match upload {
            Some(_) => length_of(&mut headers),
            None => BodyLength::Empty,
        };
        let told = forward.backend.with_fleet(|fleet| fleet.policy().proxy_protocol);
        Ok(Self {
            introduction: told.map(|version| (from.number, write(version, &from.header()))),
            method,
            upload,
            upgrade,
            may_hedge,
            interim: from
                .interim
                .as_ref()
                .filter(|_| parts.version == Version::HTTP_11)
                .map(Rc::clone),
            path,
            host,
            headers: RefCell::new(headers),
            spent: Cell::new(false),
            length,
            may_repeat,
        })
    }

    /// Whether another attempt can be made at all.
    pub fn replayable(&self) -> bool {
        !self.spent.get() && self.upload.as_ref().is_none_or(|upload| upload.replayable())
    }

    /// Whether it has no body, or one that has come whole and was kept.
    pub fn is_whole(&self) -> bool {
        self.replayable() && self.upload.as_ref().is_none_or(|upload| upload.is_whole())
    }

    /// Whether it can be sent again within one attempt without harm (RFC 9110 §9.2.2).
    pub fn may_repeat_unnoticed(&self) -> bool {
        let upload_good = self
            .upload
            .as_ref()
            .is_none_or(|upload| upload.failure().is_none());
        self.method.is_idempotent() && self.replayable() && upload_good
    }

    /// The host to name to an endpoint: the request's, else the endpoint's own address.
    pub fn host_or(&self, address: std::net::SocketAddr) -> HeaderValue {
        let named = self.host.clone();
        named.unwrap_or_else(|| {
            HeaderValue::from_str(&address.to_string())
                .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        })
    }

    /// Sends the head for an attempt on HTTP/1.1; `host` as [`Outgoing::host_or`] gives it.
    pub fn http1<T>(&self, host: &HeaderValue, send: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        send(&RequestHead {
            method: &self.method,
            path: &self.path,
            host: Some(host),
            headers: &self.headers.borrow(),
            length: self.length,
        })
    }

    /// The body for one attempt.
    pub fn body(&self) -> Option<RequestBody> {
        self.upload.as_ref().map(RequestBody::of)
    }

    /// The request for an attempt on HTTP/2.
    pub fn http2(&self, host: &HeaderValue, is_tls: bool) -> Request<RequestBody> {
        let headers = match self.may_repeat {
            true => self.headers.borrow().clone(),
            false => {
                self.spent.set(true);
                self.headers.take()
            }
        };
        self.as_http2(headers, host, is_tls)
    }

    fn as_http2(&self, mut headers: HeaderMap, host: &HeaderValue, is_tls: bool) -> Request<RequestBody> {
        headers.remove(HOST);
        let mut request = Request::new(self.body().unwrap_or_default());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = http2_target(host, self.path.clone(), is_tls);
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        request
    }

    /// A copy of the request as it would go to an endpoint, without its body.
    pub fn copy(
        &self,
        protocol: BackendProtocol,
        address: std::net::SocketAddr,
        is_tls: bool,
    ) -> Request<()> {
        let host = self.host_or(address);
        match protocol {
            BackendProtocol::H2c => {
                let headers = self.headers.borrow().clone();
                self.as_http2(headers, &host, is_tls).map(|_| ())
            }
            BackendProtocol::Http1 | BackendProtocol::Auto => {
                let mut copy = Request::new(());
                *copy.method_mut() = self.method.clone();
                *copy.uri_mut() = Uri::from(self.path.clone());
                *copy.headers_mut() = self.headers.borrow().clone();
                copy.headers_mut().insert(HOST, host);
                copy
            }
        }
    }

    /// Takes back a request that never left.
    pub fn take_back(&self, request: Request<RequestBody>) {
        if self.spent.get() {
            self.headers.replace(request.into_parts().0.headers);
            self.spent.set(false);
        }
    }
}

/// How a body goes over HTTP/1: as long as the fields say, else in chunks.
pub(super) fn length_of(headers: &mut HeaderMap) -> BodyLength {
    let length = headers.get(CONTENT_LENGTH).map(|length| {
        let text = length.to_str().ok()?;
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse().ok())?
    });
    match length {
        Some(Some(length)) => BodyLength::Sized(length),
        Some(None) => {
            // A filter's doing: the framing of ours must be the only one.
            headers.remove(CONTENT_LENGTH);
            BodyLength::Chunked
        }
        None => BodyLength::Chunked,
    }
}

/// Makes an HTTP/1 request one of HTTP/2, where the endpoint turned out to speak that.
pub fn to_http2<B>(request: &mut Request<B>, is_tls: bool) {
    let host = request.headers_mut().remove(HOST);
    let path = request.uri().path_and_query().cloned();
    if let (Some(host), Some(path)) = (host, path) {
        *request.uri_mut() = http2_target(&host, path, is_tls);
    }
    *request.version_mut() = Version::HTTP_2;
}

fn http2_target(host: &HeaderValue, path: PathAndQuery, is_tls: bool) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = host.to_str().ok().and_then(|host| host.parse().ok());
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).unwrap_or_default()
}
