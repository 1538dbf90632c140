//! The request as it goes to endpoints: made once, sent once or, if it is safe, again.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
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
use super::{filters, retry, upgrade};
use crate::model::BackendProtocol;

/// A request ready for endpoints.
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// The client's body, if there is one.
    pub upload: Option<Rc<Upload>>,
    /// Whether an upgrade is asked for.
    pub upgrade: bool,
    /// Where interim responses go, if the client can have them.
    pub interim: Option<Arc<Interim>>,
    path: PathAndQuery,
    host: Option<HeaderValue>,
    /// Gone while an attempt has it that cannot be repeated.
    headers: Option<HeaderMap>,
    /// Whether an attempt may come after one that was sent.
    may_repeat: bool,
}

impl Outgoing {
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
            scheme: "http",
        };
        forward_request(&mut headers, forward.survey, &forward.host, &by, parts.version)
            .map_err(Failure::Headers)?;
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
            && forward.backend.with_fleet(|fleet| fleet.policy().protocol) == BackendProtocol::H2c;
        let may_repeat = may_be_untouched || retry::may_send_again(&method, policy);
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
        headers.remove(HOST);
        Ok(Self {
            method,
            upload,
            upgrade,
            interim: from
                .interim
                .as_ref()
                .filter(|_| parts.version == Version::HTTP_11)
                .map(Arc::clone),
            path,
            host,
            headers: Some(headers),
            may_repeat,
        })
    }

    /// Whether another attempt can be made at all.
    pub fn replayable(&self) -> bool {
        self.headers.is_some() && self.upload.as_ref().is_none_or(|upload| upload.replayable())
    }

    /// Whether it can be sent again within one attempt without harm (RFC 9110 §9.2.2).
    pub fn may_repeat_unnoticed(&self) -> bool {
        let upload_good = self
            .upload
            .as_ref()
            .is_none_or(|upload| upload.failure().is_none());
        self.method.is_idempotent() && self.replayable() && upload_good
    }

    /// The request for one attempt at an endpoint.
    pub fn request(
        &mut self,
        protocol: BackendProtocol,
        address: std::net::SocketAddr,
    ) -> Request<RequestBody> {
        let mut headers = match self.may_repeat {
            true => self.headers.clone().unwrap_or_default(),
            false => self.headers.take().unwrap_or_default(),
        };
        let host = match &self.host {
            Some(host) => host.clone(),
            // An HTTP/1.0 client need not name a host, an HTTP/1.1 server wants one.
            None => HeaderValue::from_str(&address.to_string())
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
        };
        let body = match &self.upload {
            Some(upload) => RequestBody::of(upload),
            None => RequestBody::default(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        match protocol {
            BackendProtocol::Http1 => {
                if self.upload.is_some() && !headers.contains_key(CONTENT_LENGTH) {
                    // Said outright, because the library sends no body of unknown length with a GET.
                    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                headers.insert(HOST, host);
                *request.uri_mut() = Uri::from(self.path.clone());
                *request.version_mut() = Version::HTTP_11;
            }
            BackendProtocol::H2c => {
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(Scheme::HTTP);
                parts.authority = host.to_str().ok().and_then(|host| host.parse().ok());
                parts.path_and_query = Some(self.path.clone());
                *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
                *request.version_mut() = Version::HTTP_2;
            }
        }
        *request.headers_mut() = headers;
        request
    }

    /// A copy of the request's head.
    pub fn copy(&mut self, protocol: BackendProtocol, address: std::net::SocketAddr) -> Request<()> {
        let may_repeat = std::mem::replace(&mut self.may_repeat, true);
        let copy = self.request(protocol, address).map(|_| ());
        self.may_repeat = may_repeat;
        copy
    }

    /// Takes back a request that never left.
    pub fn take_back(&mut self, request: Request<RequestBody>) {
        if self.headers.is_none() {
            let mut headers = request.into_parts().0.headers;
            headers.remove(TRANSFER_ENCODING);
            self.headers = Some(headers);
        }
    }
}
