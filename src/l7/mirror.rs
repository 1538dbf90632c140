//! Mirrors: copies of requests for other backends, whose responses nobody waits for.
//!
//! A copy is sent when the request's body is known: at once when there is none, else when it has passed to the endpoint
//! and was small enough to be kept. A copy is never worth delaying or failing the exchange for.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body::Body;

use super::outgoing::{Outgoing, length_of, to_http2};
use super::plan::Forward;
use super::upload::{RequestBody, Upload};
use super::worker::Worker;
use crate::balance::{EndpointCell, Observed, Permit, Pick};
use crate::model::BackendProtocol;
use crate::snapshot::Backend;
use crate::upstream::http1::{BodyLength, RequestHead};
use crate::upstream::{Lease, Whose};

/// Time that a copy has, body and response included.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a copy looks whether the body it waits for has passed.
const LOOK: Duration = Duration::from_millis(10);

/// Sends the copies that the rule asks for.
pub fn send_copies(worker: &Rc<Worker>, forward: &Forward<'_>, outgoing: &Outgoing) {
    for (backend, fraction) in forward.rule.mirrors.iter().chain(&forward.share.mirrors) {
        if !fraction.takes(worker.random() as u32) || outgoing.upgrade {
            continue;
        }
        let Some(endpoint) = pick(worker, backend) else {
            continue;
        };
        let head = outgoing.copy(endpoint.protocol, endpoint.cell.address(), endpoint.is_tls);
        let upload = outgoing.upload.clone();
        let worker = Rc::clone(worker);
        let backend = Arc::clone(backend);
        tokio::task::spawn_local(async move {
            let copy = send(worker, backend, endpoint, head, upload);
            let _ = tokio::time::timeout(DEADLINE, copy).await;
        });
    }
}

/// Where a copy goes.
struct Endpoint {
    cell: Arc<EndpointCell>,
    protocol: BackendProtocol,
    is_tls: bool,
    /// Where the backend has a limit: a copy is the first to be left out.
    permit: Option<Permit>,
}

fn pick(worker: &Worker, backend: &Backend) -> Option<Endpoint> {
    let fleet = backend.fleet();
    let permit = match backend.limiter() {
        Some(limiter) => Some(limiter.enter_if_idle(worker.now())?),
        None => None,
    };
    worker.with_random(|random| match fleet.pick(worker.now(), random, &[]) {
        Pick::Endpoint(candidate) => {
            let policy = fleet.policy();
            Some(Endpoint {
                cell: Arc::clone(&candidate.cell),
                protocol: candidate.endpoint.protocol.unwrap_or(policy.protocol),
                is_tls: policy.tls.is_some(),
                permit,
            })
        }
        Pick::Saturated | Pick::None => None,
    })
}

async fn send(
    worker: Rc<Worker>,
    backend: Arc<Backend>,
    endpoint: Endpoint,
    head: Request<()>,
    upload: Option<Rc<Upload>>,
) -> Option<()> {
    let body = match upload {
        None => RequestBody::default(),
        Some(upload) => RequestBody::whole(body_of(&upload).await?),
    };
    let Endpoint {
        cell,
        protocol,
        is_tls,
        permit,
    } = endpoint;
    let mut head = head;
    let mut in_flight = EndpointCell::start(&cell, worker.now());
    let fleet = backend.fleet();
    let whose = Whose::everybodys(fleet.policy());
    let leased = worker.pool.lease(&cell, protocol, fleet.policy(), whose).await;
    let mut lease = leased.ok()?;
    let sent = match &mut lease {
        Lease::Exclusive(lease) => {
            let (mut head, ()) = head.into_parts();
            let request = RequestHead {
                method: &head.method,
                path: head.uri.path_and_query()?,
                host: None,
                length: match body.is_end_stream() {
                    true => BodyLength::Empty,
                    false => length_of(&mut head.headers),
                },
                headers: &head.headers,
            };
            lease.send(&request, Some(body), |_, _, _| {}).await.is_ok()
        }
        Lease::Shared(lease) => {
            if protocol == BackendProtocol::Auto {
                to_http2(&mut head, is_tls);
            }
            lease.send(head.map(|()| body)).await.is_ok()
        }
    };
    let seen = if sent {
        Observed::Answered
    } else {
        Observed::Failed
    };
    in_flight.head(worker.now(), seen);
    if let Some(permit) = permit {
        permit.end(worker.now(), sent);
    }
    if sent {
        while poll_fn(|cx| lease.poll_body(cx))
            .await
            .transpose()
            .ok()?
            .is_some()
        {}
        lease.finish();
    }
    Some(())
}

/// The body, once it has passed to the endpoint; none if it was too large to keep or broke off.
async fn body_of(upload: &Upload) -> Option<Vec<bytes::Bytes>> {
    loop {
        if upload.failure().is_some() || !upload.keeps() {
            return None;
        }
        if let Some(frames) = upload.whole() {
            return Some(frames);
        }
        tokio::time::sleep(LOOK).await;
    }
}
