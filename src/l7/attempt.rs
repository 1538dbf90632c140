//! One attempt at one endpoint: a connection, the request on it, the response's head, and what is learnt of the endpoint.

use std::pin::pin;
use std::sync::Arc;

use http::StatusCode;
use http::response::Parts;
use tokio::time::Instant;

use super::failure::{Blame, Failure};
use super::headers::ResponseSurvey;
use super::interim::Interim;
use super::load_report;
use super::outgoing::Outgoing;
use super::plan::Forward;
use super::retry::{Ended, Status};
use super::upload::{RequestBody, UploadFailure};
use super::worker::Worker;
use crate::balance::{EndpointCell, InFlight, Micros, Observed};
use crate::model::BackendProtocol;
use crate::runtime::timers::Timer;
use crate::upstream::{Fate, Lease, SendError, Whose};

/// The endpoint that an attempt is made at.
#[derive(Clone)]
pub struct Picked {
    /// What is known of it.
    pub cell: Arc<EndpointCell>,
    /// What it speaks.
    pub protocol: BackendProtocol,
    /// The number of the backend's TLS; 0 in clear text.
    pub tls: u64,
}

/// An endpoint's response.
pub struct Got {
    /// Its head.
    pub response: Parts,
    /// What is there among its fields.
    pub survey: ResponseSurvey,
    /// The connection that its body comes from.
    pub lease: Lease<RequestBody>,
}

impl Got {
    /// Throws it away. A connection on which nothing more comes is kept.
    pub fn discard(self) {
        if self.lease.is_end_of_body() {
            self.lease.finish();
        }
    }
}

/// What came of an attempt.
pub struct Tried {
    /// The response, if there is one.
    pub got: Option<Got>,
    /// How it ended.
    pub ended: Ended,
    /// When.
    pub at: Micros,
}

/// One attempt at one endpoint. A kept connection that turns out to be dead before anything was sent costs nothing: the
/// next one is taken, in the end a new one. One that the endpoint closed in the very moment of sending says nothing
/// about the endpoint either: what is safe to send twice is sent on a new one. Interim responses go to `interim`.
pub async fn send(
    worker: &Worker,
    forward: &Forward<'_>,
    endpoint: &Picked,
    outgoing: &Outgoing,
    interim: Option<&Interim>,
    deadline: Option<Instant>,
    timer: &mut Timer,
) -> Result<(Parts, Lease<RequestBody>), Ended> {
    let Picked { cell, protocol, tls } = endpoint;
    if outgoing.upgrade && *protocol == BackendProtocol::H2c {
        return Err(Ended::Unsent(Failure::Upgrade));
    }
    // An upgrade needs a connection of its own, which an endpoint that speaks both has to be asked for.
    let fresh_http1 = outgoing.upgrade && *protocol == BackendProtocol::Auto;
    let mut fresh = fresh_http1;
    let whose = outgoing.whose();
    loop {
        let kept = if fresh {
            None
        } else {
            worker.pool.take(cell, *protocol, *tls, whose.owner)
        };
        let mut lease = match kept {
            Some(lease) => {
                forward.backend.metrics.connection_reused(worker.index);
                lease
            }
            None => Box::pin(connect(worker, forward, endpoint, whose, fresh, deadline, timer)).await?,
        };
        let host = outgoing.host_or(cell.address());
        let sent = match &mut lease {
            Lease::Exclusive(lease) => {
                let sending = outgoing.http1(&host, |head| {
                    lease.send(head, outgoing.body(), |cx, status, headers| {
                        if let Some(interim) = interim {
                            interim.pass(cx, status, headers);
                        }
                    })
                });
                timer.within(deadline, pin!(sending)).await
            }
            // The HTTP library's HTTP/2 client leaves interim responses out.
            Lease::Shared(lease) => {
                timer
                    .within(deadline, pin!(lease.send(outgoing.http2(&host, *tls != 0))))
                    .await
            }
        };
        let error = match sent {
            Some(Ok(response)) => return Ok((response, lease)),
            Some(Err(error)) => error,
            None => return Err(Ended::Sent(Failure::TryTimeout)),
        };
        let fate = error.fate();
        if let SendError::Http2 {
            unsent: Some(request),
            ..
        } = error
        {
            outgoing.take_back(*request);
        }
        match fate {
            Fate::UnsentOnKept => {}
            Fate::Unsent | Fate::Untouched => return Err(Ended::Unsent(Failure::Reset)),
            Fate::ClosedWhileKept if outgoing.may_repeat_unnoticed() => fresh = true,
            Fate::ClosedWhileKept | Fate::Broken => return Err(Ended::Sent(Failure::Reset)),
            Fate::Malformed => return Err(Ended::Sent(Failure::Protocol)),
        }
    }
}

/// A connection where none was to be had from the pool.
async fn connect(
    worker: &Worker,
    forward: &Forward<'_>,
    endpoint: &Picked,
    whose: Whose<'_>,
    fresh: bool,
    deadline: Option<Instant>,
    timer: &mut Timer,
) -> Result<Lease<RequestBody>, Ended> {
    let fleet = forward.backend.fleet();
    let opened = match fresh {
        true => {
            let lease = worker.pool.lease_fresh(&endpoint.cell, fleet.policy(), whose);
            timer.within(deadline, pin!(lease)).await
        }
        false => {
            let lease = worker
                .pool
                .lease(&endpoint.cell, endpoint.protocol, fleet.policy(), whose);
            timer.within(deadline, pin!(lease)).await
        }
    };
    let metrics = &forward.backend.metrics;
    match opened {
        Some(Ok(lease)) => {
            // Another exchange's connection may have become free, or have room for a stream, meanwhile.
            if lease.reused() {
                metrics.connection_reused(worker.index);
            } else {
                metrics.connection_made(worker.index);
            }
            Ok(lease)
        }
        Some(Err(error)) => {
            metrics.connection_failed(worker.index);
            Err(Ended::Unsent(Failure::from(&error)))
        }
        None => {
            metrics.connection_failed(worker.index);
            Err(Ended::Unsent(Failure::ConnectTimeout))
        }
    }
}

/// Learns from an attempt that has ended: of the endpoint, what load it says it has and whether it fails; and why there is
/// no response, if there is none.
pub fn learn(
    worker: &Worker,
    forward: &Forward<'_>,
    outgoing: &Outgoing,
    mut in_flight: Option<&mut InFlight>,
    deadline: Option<Instant>,
    sent: Result<(Parts, Lease<RequestBody>), Ended>,
    now: Micros,
) -> Tried {
    let (got, ended) = match sent {
        Ok((mut response, lease)) => {
            let survey = ResponseSurvey::of(&response.headers);
            if survey.load() {
                load_report::take(
                    worker,
                    forward.backend,
                    in_flight.as_deref_mut(),
                    &mut response.headers,
                );
            }
            let on = &forward.rule.rule.retry.on;
            let ended = Ended::Answered(Status::of(response.status, &response.headers, on));
            let got = Got {
                response,
                survey,
                lease,
            };
            (Some(got), ended)
        }
        Err(ended) => (None, refine(ended, deadline, outgoing)),
    };
    if let Some(in_flight) = in_flight {
        observe(worker, forward, in_flight, ended, now);
    }
    Tried { got, ended, at: now }
}

/// Says more precisely why an attempt failed: the client's own failure comes first, then the whole request's deadline.
fn refine(ended: Ended, deadline: Option<Instant>, outgoing: &Outgoing) -> Ended {
    let client = outgoing.upload.as_ref().and_then(|upload| upload.failure());
    match (client, ended) {
        (Some(UploadFailure::Stalled), _) => Ended::Sent(Failure::ClientStalled),
        (Some(UploadFailure::Broken), _) => Ended::Sent(Failure::ClientBody),
        (None, Ended::Sent(Failure::TryTimeout) | Ended::Unsent(Failure::ConnectTimeout))
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) =>
        {
            Ended::Sent(Failure::RequestTimeout)
        }
        (None, ended) => ended,
    }
}

/// Tells the endpoint's cell how the attempt went, and judges the endpoint by it.
fn observe(worker: &Worker, forward: &Forward<'_>, in_flight: &mut InFlight, ended: Ended, now: Micros) {
    let seen = match ended {
        Ended::Answered(Status { http, .. }) => match http {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Observed::GatewayError
            }
            status if status.is_server_error() => Observed::ServerError,
            _ => Observed::Answered,
        },
        Ended::Unsent(failure) | Ended::Sent(failure) if failure.blame() == Blame::Endpoint => {
            Observed::Failed
        }
        // Not the endpoint's doing: nothing is learnt of it.
        Ended::Unsent(_) | Ended::Sent(_) => return,
    };
    in_flight.head(now, seen);
    if seen == Observed::Answered {
        return;
    }
    let cell = Arc::clone(in_flight.cell());
    let ejected = forward.backend.with_fleet(|fleet| fleet.judge(&cell, now));
    if let Some(reason) = ejected {
        forward.backend.metrics.ejected(reason as usize);
        let (backend, endpoint, why) = (&forward.backend.name, cell.address(), reason.word());
        tracing::info!(worker = worker.index, %backend, %endpoint, why, "ejected");
    }
}

/// The earlier of two deadlines.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
