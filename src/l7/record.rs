//! The record of an exchange: what is told about it once, when it ends, however it ends.
//!
//! It is opened with the request and written when dropped. An exchange that is simply dropped was given up by the
//! client: that is its outcome unless another was set.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::downstream::Downstream;
use super::failure::Failure;
use super::load_report;
use super::refusal::{Refusal, refused_method};
use super::upload::{Upload, UploadFailure};
use super::worker::Worker;
use crate::balance::{InFlight, Micros, Permit};
use crate::model::ListenerName;
use crate::snapshot::{Backend, CompiledRule};
use crate::telemetry::Outcome;
use crate::telemetry::record::{ExchangeRecord, Hedge, unix_us};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One exchange's record.
pub struct Record {
    worker: Rc<Worker>,
    from: Rc<Downstream>,
    started: Micros,
    outcome: Outcome,
    status: u16,
    attempts: u8,
    hedge: Hedge,
    head_us: Option<u32>,
    request_bytes: u64,
    response_bytes: u64,
    upload: Option<Rc<Upload>>,
    backend: Option<Arc<Backend>>,
    endpoint: Option<SocketAddr>,
    /// The last attempt's place among those in flight at its endpoint.
    in_flight: Option<InFlight>,
    /// Its place among those that wait for a head, where the backend has a limit.
    permit: Option<Permit>,
    /// Kept only when there is an access log.
    detail: Option<Box<Detail>>,
}

struct Detail {
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    listener: Option<ListenerName>,
    rule: Option<Arc<CompiledRule>>,
}

impl Record {
    /// Opens the record of a request.
    pub fn open<B>(worker: &Rc<Worker>, from: &Rc<Downstream>, request: &Request<B>, now: Micros) -> Self {
        worker.count(true);
        from.pace.begin();
        let detail = worker.logs_access().then(|| {
            let (mut host, mut user_agent, mut request_id) = (None, None, None);
            // One look at each field is less than three searches.
            for (name, value) in request.headers() {
                let wanted = match name {
                    name if name == HOST => &mut host,
                    name if name == USER_AGENT => &mut user_agent,
                    name if *name == REQUEST_ID => &mut request_id,
                    _ => continue,
                };
                if wanted.is_none() {
                    *wanted = Some(value.clone());
                }
            }
            Box::new(Detail {
                method: request.method().clone(),
                uri: request.uri().clone(),
                version: request.version(),
                host,
                user_agent,
                request_id,
                listener: None,
                rule: None,
            })
        });
        Self {
            worker: Rc::clone(worker),
            from: Rc::clone(from),
            started: now,
            outcome: Outcome::ClientGone,
            status: 0,
            attempts: 0,
            hedge: Hedge::None,
            head_us: None,
            request_bytes: 0,
            response_bytes: 0,
            upload: None,
            backend: None,
            endpoint: None,
            in_flight: None,
            permit: None,
            detail,
        }
    }

    /// Records a request that never became an exchange: refused before there was anything to plan.
    pub fn refused(worker: &Rc<Worker>, from: &Rc<Downstream>, refusal: Refusal) {
        let mut request = Request::new(());
        *request.method_mut() = refused_method();
        let failure = Failure::Framing(refusal);
        let mut record = Self::open(worker, from, &request, worker.now());
        record.head(failure.status().as_u16(), None);
        record.end(failure.outcome());
    }

    /// The worker that the exchange runs on.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Whom the exchange is with.
    pub fn from(&self) -> &Rc<Downstream> {
        &self.from
    }

    /// When the exchange began.
    pub fn started(&self) -> Micros {
        self.started
    }

    /// The rule that was chosen, and the listener that it was chosen for.
    pub fn set_rule(&mut self, listener: &ListenerName, rule: &Arc<CompiledRule>) {
        if let Some(detail) = &mut self.detail {
            detail.listener = Some(listener.clone());
            detail.rule = Some(Arc::clone(rule));
        }
    }

    /// The backend that was chosen.
    pub fn set_backend(&mut self, backend: &Arc<Backend>) {
        self.backend = Some(Arc::clone(backend));
    }

    /// Trailers of the response came: what the endpoint says in them of its load is heard.
    pub fn trailers(&mut self, trailers: &mut HeaderMap) {
        if let Some(backend) = &self.backend {
            load_report::take(&self.worker, backend, self.in_flight.as_mut(), trailers);
        }
    }

    /// The request's body, for its size.
    pub fn set_upload(&mut self, upload: &Rc<Upload>) {
        self.upload = Some(Rc::clone(upload));
    }

    /// Why the request's body ended before its end, if it did.
    pub fn upload_failure(&self) -> Option<UploadFailure> {
        self.upload.as_ref().and_then(|upload| upload.failure())
    }

    /// It may go to the backend; with a permit, if the backend has a limit.
    pub fn admit(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    /// Another attempt, at the endpoint that it is in flight at.
    pub fn attempt(&mut self, in_flight: InFlight) {
        self.attempts = self.attempts.saturating_add(1);
        self.endpoint = Some(in_flight.cell().address());
        if let Some(permit) = &mut self.permit {
            permit.begin(in_flight.started());
        }
        self.in_flight = Some(in_flight);
    }

    /// The last attempt is over and another may follow: its place in flight is free for it.
    pub fn leave_endpoint(&mut self) {
        self.in_flight = None;
    }

    /// A second attempt beside the last one.
    pub fn hedge(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.hedge = Hedge::Lost;
    }

    /// The second attempt is the one that counts. Gives the place in flight of the other.
    pub fn hedge_won(&mut self, in_flight: InFlight) -> Option<InFlight> {
        self.hedge = Hedge::Won;
        self.endpoint = Some(in_flight.cell().address());
        self.in_flight.replace(in_flight)
    }

    /// The last attempt's place among those in flight.
    pub fn in_flight(&mut self) -> Option<&mut InFlight> {
        self.in_flight.as_mut()
    }

    /// The response's status; with the time to its head if an endpoint gave it.
    pub fn head(&mut self, status: u16, from_endpoint: Option<Micros>) {
        self.status = status;
        self.head_us =
            from_endpoint.map(|now| u32::try_from(now.saturating_since(self.started)).unwrap_or(u32::MAX));
        if let Some(permit) = self.permit.take() {
            let now = from_endpoint.unwrap_or_else(|| self.worker.now());
            permit.end(now, from_endpoint.is_some() && status < 500);
        }
    }

    /// Bytes of the response's body that were passed on.
    pub fn passed(&mut self, bytes: u64) {
        self.response_bytes += bytes;
    }

    /// Bytes of an upgraded connection that came from the client.
    pub fn took(&mut self, bytes: u64) {
        self.request_bytes += bytes;
    }

    /// Why the exchange ends. The last word counts.
    pub fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.count(false);
        let now = worker.now();
        if self.outcome == Outcome::ClientGone && worker.stopping() {
            self.outcome = Outcome::Drained;
        } else if self.outcome == Outcome::ClientGone && self.from.pace.stalled() {
            self.outcome = Outcome::ClientStalled;
        }
        self.from.pace.end(now, self.outcome == Outcome::ClientGone);
        if self.outcome == Outcome::ClientGone
            && let Some(in_flight) = self.in_flight.take()
        {
            in_flight.give_up(now);
        }
        if let Some(permit) = self.permit.take() {
            permit.end(now, false);
        }
        let duration_us = now.saturating_since(self.started);
        let request_bytes = self.request_bytes + self.upload.as_ref().map_or(0, |upload| upload.bytes());
        let metrics = self
            .backend
            .as_ref()
            .map_or(&worker.unrouted, |backend| &backend.metrics);
        metrics.record(
            worker.index,
            self.outcome,
            self.status,
            duration_us,
            self.head_us,
            request_bytes,
            self.response_bytes,
        );
        let (Some(detail), Some(mut log)) = (&self.detail, worker.access_log()) else {
            return;
        };
        let unix_us = unix_us(SystemTime::now());
        log.write(&ExchangeRecord {
            outcome: self.outcome,
            status: self.status,
            version: detail.version,
            client: self.from.peer,
            method: &detail.method,
            host: match text(&detail.host) {
                Some(host) => host,
                None => detail.uri.authority().map_or("", |authority| authority.as_str()),
            },
            path: detail.uri.path_and_query().map_or("", |path| path.as_str()),
            listener: detail.listener.as_ref().map_or("", |listener| listener.as_str()),
            route: detail.rule.as_ref().map_or("", |rule| rule.route.as_str()),
            backend: self.backend.as_ref().map_or("", |backend| backend.name.as_str()),
            identity: self.from.known.as_ref().map_or("", |known| known.id.as_str()),
            endpoint: self.endpoint,
            attempts: self.attempts,
            hedge: self.hedge,
            request_bytes,
            response_bytes: self.response_bytes,
            started_unix_us: unix_us.saturating_sub(duration_us),
            duration_us,
            head_us: self.head_us,
            user_agent: text(&detail.user_agent),
            request_id: text(&detail.request_id),
        });
    }
}

fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref().and_then(|value| value.to_str().ok())
}
