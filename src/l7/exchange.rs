//! The life of an exchange, top to bottom: one request of a client, and its response.
//!
//! ```text
//! request ─► plan ─► filters ─► pick an endpoint ─► lease a connection ─► send ─► response filters ─► body ─► record
//!              │                    ▲                                       │
//!              └─► reply            └───────────── try another ◄────────────┘
//! ```

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::CONNECTION;
use http::response::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::attempt::{Got, Picked, Tried, learn, send};
use super::body::{Body, Relay};
use super::downstream::Downstream;
use super::failure::Failure;
use super::headers::{forward_response, websocket_of};
use super::hedge::{self, Deadlines};
use super::outgoing::Outgoing;
use super::plan::{self, Forward, Head, Plan};
use super::record::Record;
use super::reply::Reply;
use super::retry::{self, Attempt, Ended};
use super::sticky::Sticky;
use super::upgrade::{self, Tunnel};
use super::worker::Worker;
use super::{admit, cors, filters, load_report, mirror};
use crate::balance::{EndpointCell, Micros, Pick, Tie, pause};
use crate::model::Criticality;
use crate::upstream::tls_of;

/// Serves one request. Whatever happens, there is a response or the client has gone, and one record is written.
pub async fn exchange(worker: Rc<Worker>, from: Rc<Downstream>, mut request: Request<Incoming>) -> Answer {
    let snapshot = worker.snapshot();
    let started = worker.now();
    let mut record = Record::open(&worker, &from, &request, started);
    let mut client = Client::of(&from, &mut request);

    let forward = match decide(&worker, &from, &request, &client, &snapshot) {
        Plan::Forward(forward) => forward,
        Plan::Reply(reply) => return answer(record, reply, &client),
        Plan::Fail(failure) => return fail(record, failure, &client),
    };
    record.set_rule(forward.listener, forward.rule);
    record.set_backend(forward.backend);
    client.class = admit::class_of(&forward, request.headers());

    let sticky = Sticky::of(&forward, &request, &from);
    let on_upgrade = client.stream_upgrade.then(|| hyper::upgrade::on(&mut request));
    let outgoing = match Outgoing::prepare(&worker, &from, &forward, request, client.stream_upgrade) {
        Ok(outgoing) => outgoing,
        Err(failure) => return fail(record, failure, &client),
    };
    if let Some(upload) = &outgoing.upload {
        record.set_upload(upload);
    }
    let timeouts = &forward.rule.rule.timeouts;
    let deadline = timeouts
        .request
        .map(|timeout| worker.clock.instant_of(started) + timeout);
    // Whoever has waited begins later than it came: time in a queue of ours is no latency of an endpoint's.
    let mut waited = forward.backend.is_limited();
    if waited {
        match Box::pin(admit::admit(&worker, &forward, client.class, deadline)).await {
            Ok(permit) => record.admit(permit),
            Err(failure) => return fail(record, failure, &client),
        }
    }
    mirror::send_copies(&worker, &forward, &outgoing);
    forward.backend.with_budget(|budget| budget.on_request(started));

    let mut timer = worker.timers.lease();
    let mut tries = Tries::default();
    loop {
        let mut endpoint = match pick(&worker, &forward, sticky.as_ref(), &tries, started, deadline) {
            Ok(Some(endpoint)) => endpoint,
            Ok(None) if !admit::may_queue(client.class) => {
                let failure = admit::refuse(&worker, &forward, client.class);
                return fail(record, failure, &client);
            }
            Ok(None) => match Box::pin(queue(&worker, &forward, sticky.as_ref(), &tries, deadline)).await {
                Ok(endpoint) => {
                    waited = true;
                    endpoint
                }
                Err(failure) => return fail(record, failure, &client),
            },
            // What went wrong before says more than that nobody is left.
            Err(failure) => return fail(record, tries.last_failure.unwrap_or(failure), &client),
        };
        let now = if tries.made == 0 && !waited {
            started
        } else {
            worker.now()
        };
        record.attempt(EndpointCell::start(&endpoint.cell, now));
        tries.add(&endpoint.cell);
        let deadlines = Deadlines {
            started: now,
            request: deadline,
            per_try: timeouts.per_try,
        };
        let Tried { got, ended, at: now } = if outgoing.may_hedge && tries.made == 1 {
            let other = || another(&worker, &forward, sticky.as_ref(), &tries, deadline);
            let race = hedge::race(
                &worker,
                &forward,
                &outgoing,
                &mut record,
                &endpoint,
                deadlines,
                &mut timer,
                other,
            );
            let raced = Box::pin(race).await;
            if let Some(second) = raced.second {
                tries.add(&second.cell);
                if raced.second_won {
                    endpoint = second;
                }
            }
            raced.tried
        } else {
            let sent = send(
                &worker,
                &forward,
                &endpoint,
                &outgoing,
                outgoing.interim.as_deref(),
                deadlines.of_try(&worker, now),
                &mut timer,
            )
            .await;
            let now = worker.now();
            let in_flight = record.in_flight();
            learn(&worker, &forward, &outgoing, in_flight, deadline, sent, now)
        };

        if let Some(pause) = again(
            &worker,
            &forward,
            &outgoing,
            &tries,
            ended,
            got.as_ref(),
            deadline,
            now,
        ) {
            tries.last_failure = failure_of(ended).or(tries.last_failure);
            record.leave_endpoint();
            if let Some(got) = got {
                got.discard();
            }
            if !pause.is_zero() {
                Box::pin(tokio::time::sleep(pause)).await;
            }
            continue;
        }
        let Some(mut got) = got else {
            return fail(record, failure_of(ended).unwrap_or(Failure::Reset), &client);
        };
        if let Some(sticky) = &sticky {
            sticky.mark(&mut got.response.headers, &endpoint.cell);
        }

        let status = got.response.status;
        record.head(status.as_u16(), Some(now));
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let switch = switch(record, &forward, outgoing, got, &client, on_upgrade);
            return Box::pin(switch).await;
        }
        if client.stream_upgrade && status.is_success() {
            // To this client it would say that the WebSocket is open (RFC 8441 §5).
            return fail(record, Failure::Upgrade, &client);
        }
        return respond(record, &forward, got, &client);
    }
}

/// What the HTTP library wants of a service; there is always a response.
pub type Answer = Result<Response<Body>, Infallible>;

/// What the exchange needs to know of the client's side of the protocol.
struct Client {
    http1: bool,
    grpc: bool,
    head: bool,
    /// How much the request matters.
    class: Criticality,
    /// A WebSocket by extended CONNECT (RFC 8441).
    stream_upgrade: bool,
    /// It wants to know how many exchanges are in flight, and may.
    asks_load: bool,
}

impl Client {
    fn of(from: &Downstream, request: &mut Request<Incoming>) -> Self {
        let http1 = request.version() < Version::HTTP_2;
        let content_type = request.headers().get(http::header::CONTENT_TYPE);
        Self {
            http1,
            head: request.method() == Method::HEAD,
            class: Criticality::default(),
            grpc: !http1
                && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")),
            stream_upgrade: request.method() == Method::CONNECT
                && request
                    .extensions()
                    .get::<hyper::ext::Protocol>()
                    .is_some_and(|protocol| protocol.as_str() == "websocket"),
            asks_load: from.limits.load_reports && load_report::is_asked_for(request.headers()),
        }
    }
}

fn decide<'s>(
    worker: &Worker,
    from: &'s Downstream,
    request: &Request<Incoming>,
    client: &Client,
    snapshot: &'s crate::snapshot::Snapshot,
) -> Plan<'s> {
    let head = Head {
        method: if client.stream_upgrade {
            &Method::GET
        } else {
            request.method()
        },
        uri: request.uri(),
        version: request.version(),
        headers: request.headers(),
        port: from.local.port(),
        tls: from.tls.as_deref(),
    };
    let redirected = from.redirected.as_deref();
    let bind = match redirected {
        None => snapshot.bind(&from.bind),
        Some(redirected) => redirected
            .address
            .and_then(|address| snapshot.bind_meant(&address)),
    };
    plan::decide(
        bind.map(|bind| &**bind),
        redirected,
        snapshot.challenges(),
        head,
        from.limits.max_headers,
        || worker.random(),
    )
}

/// The endpoints tried so far.
#[derive(Default)]
struct Tries {
    made: u8,
    /// Their ids, the last [`REMEMBERED`] of them.
    cells: [u64; REMEMBERED],
    last_failure: Option<Failure>,
}

/// Endpoints that an exchange does not go back to while there are others.
const REMEMBERED: usize = 4;

impl Tries {
    fn add(&mut self, cell: &EndpointCell) {
        self.cells[usize::from(self.made) % REMEMBERED] = cell.id();
        self.made = self.made.saturating_add(1);
    }

    fn cells(&self) -> &[u64] {
        &self.cells[..REMEMBERED.min(usize::from(self.made))]
    }
}

/// Chooses an endpoint; none when every one is at its bound.
fn pick(
    worker: &Worker,
    forward: &Forward<'_>,
    sticky: Option<&Sticky>,
    tries: &Tries,
    started: Micros,
    deadline: Option<Instant>,
) -> Result<Option<Picked>, Failure> {
    let now = if tries.made == 0 { started } else { worker.now() };
    if tries.made > 0 && deadline.is_some_and(|deadline| worker.clock.instant_of(now) >= deadline) {
        return Err(Failure::RequestTimeout);
    }
    forward.backend.with_fleet(|fleet| {
        let tie = sticky.map_or_else(Tie::default, |sticky| sticky.tie);
        let picked = worker.with_random(|random| fleet.pick_tied(now, random, tries.cells(), &tie));
        if matches!(picked.pick, Pick::Endpoint(_)) {
            forward.backend.metrics.picked(worker.index, picked.how as usize);
        }
        match picked.pick {
            Pick::Endpoint(candidate) => Ok(Some(Picked {
                cell: Arc::clone(&candidate.cell),
                protocol: match forward.speaks.filter(|_| fleet.policy().tls.is_none()) {
                    Some(protocol) => protocol,
                    None => candidate.endpoint.protocol.unwrap_or(fleet.policy().protocol),
                },
                tls: tls_of(fleet.policy()),
            })),
            Pick::Saturated => Ok(None),
            Pick::None => Err(Failure::NoEndpoint),
        }
    })
}

/// An endpoint that was not tried yet; none if there is no such or it is at its bound.
fn another(
    worker: &Worker,
    forward: &Forward<'_>,
    sticky: Option<&Sticky>,
    tries: &Tries,
    deadline: Option<Instant>,
) -> Option<Picked> {
    let picked = pick(worker, forward, sticky, tries, worker.now(), deadline);
    let picked = picked.ok().flatten()?;
    (!tries.cells().contains(&picked.cell.id())).then_some(picked)
}

/// Whether the exchange is to try once more, and after what pause. What is asked of the budget is taken from it.
fn again(
    worker: &Worker,
    forward: &Forward<'_>,
    outgoing: &Outgoing,
    tries: &Tries,
    ended: Ended,
    got: Option<&Got>,
    deadline: Option<Instant>,
    now: Micros,
) -> Option<Duration> {
    let attempt = Attempt {
        tries: tries.made,
        method: &outgoing.method,
        replayable: outgoing.replayable(),
        policy: &forward.rule.rule.retry,
    };
    if !retry::wants_another(attempt, ended) {
        return None;
    }
    let asked = got.and_then(|got| retry::asked(&got.response.headers, SystemTime::now()));
    let left = deadline.map(|deadline| deadline.saturating_duration_since(worker.clock.instant_of(now)));
    let chance = worker.with_random(|random| random.f32());
    let pause = retry::pause(attempt, asked, left, chance)?;
    if forward.backend.with_budget(|budget| budget.try_retry(now)) {
        forward.backend.metrics.retry(worker.index);
        Some(pause)
    } else {
        forward.backend.metrics.retry_denied(worker.index);
        None
    }
}

/// How often a request that waits for a free endpoint looks again. The bound is shared by all workers, so that no one
/// worker sees every place that becomes free.
pub(super) const QUEUE_LOOK: Duration = Duration::from_millis(2);

/// Waits for an endpoint below its bound, for as long as the backend's queue allows.
async fn queue(
    worker: &Worker,
    forward: &Forward<'_>,
    sticky: Option<&Sticky>,
    tries: &Tries,
    deadline: Option<Instant>,
) -> Result<Picked, Failure> {
    let patience = forward
        .backend
        .with_fleet(|fleet| fleet.policy().limits.queue_timeout);
    let give_up = Instant::now() + patience;
    loop {
        tokio::time::sleep(QUEUE_LOOK).await;
        if let Some(picked) = pick(worker, forward, sticky, tries, worker.now(), deadline)? {
            return Ok(picked);
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Failure::RequestTimeout);
        }
        if now >= give_up {
            return Err(Failure::Overloaded);
        }
    }
}

fn failure_of(ended: Ended) -> Option<Failure> {
    match ended {
        Ended::Unsent(failure) | Ended::Sent(failure) => Some(failure),
        Ended::Answered(_) => None,
    }
}

/// Passes an endpoint's response on.
fn respond(record: Record, forward: &Forward<'_>, got: Got, client: &Client) -> Answer {
    let Got {
        response: mut parts,
        survey,
        lease,
    } = got;
    let worker = Rc::clone(record.worker());
    forward_response(&mut parts.headers, survey, || worker.date());
    if client.asks_load {
        load_report::tell(&mut parts.headers, worker.in_flight());
    }
    edit_response(forward, &mut parts.headers);
    parts.version = Version::HTTP_11;
    if client.http1 && worker.draining() {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let relay = Relay::new(lease, record, forward.rule.rule.timeouts.idle);
    Ok(Response::from_parts(parts, Body::Relay(relay)))
}

/// The endpoint has switched protocols: the exchange becomes bytes both ways.
#[allow(clippy::too_many_arguments)]
async fn switch(
    record: Record,
    forward: &Forward<'_>,
    outgoing: Outgoing,
    got: Got,
    client: &Client,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Answer {
    let Got {
        response: Parts { mut headers, .. },
        lease,
        ..
    } = got;
    if !outgoing.upgrade || websocket_of(&headers).is_none() {
        // Nobody asked for it, or for something else.
        return fail(record, Failure::Protocol, client);
    }
    let Some(upstream) = lease.into_socket() else {
        return fail(record, Failure::Upgrade, client);
    };
    let from = Rc::clone(record.from());
    let tunnel = Tunnel {
        upstream,
        idle: forward.rule.rule.timeouts.upgrade_idle,
        record,
    };
    edit_response(forward, &mut headers);
    let mut reply = Response::new(Body::Empty);
    match on_upgrade {
        None => {
            *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *from.tunnel.borrow_mut() = Some(tunnel);
        }
        Some(on_upgrade) => {
            upgrade::answer_stream(&mut headers);
            tokio::task::spawn_local(async move {
                if let Ok(stream) = on_upgrade.await {
                    tunnel
                        .run(hyper_util::rt::TokioIo::new(stream), bytes::Bytes::new())
                        .await;
                }
            });
        }
    }
    *reply.headers_mut() = headers;
    Ok(reply)
}

fn edit_response(forward: &Forward<'_>, headers: &mut http::HeaderMap) {
    if forward.rule.does.changes_response || forward.share.does.changes_response {
        filters::on_response(
            forward.rule.rule.filters.iter().chain(&forward.share.filters),
            headers,
        );
    }
    if let Some((cors, origin)) = &forward.cors {
        cors::on_response(cors, origin.as_ref(), headers);
    }
}

fn fail(record: Record, failure: Failure, client: &Client) -> Answer {
    // Whoever is sent away because there is too much to do comes back later, and not with all others.
    let may_return = matches!(failure, Failure::Overloaded | Failure::Shed)
        .then(|| pause(client.class, record.worker().random()));
    answer(record, Reply::failure(failure, client.grpc, may_return), client)
}

/// Answers with a response of Tidegate's own; the exchange ends here.
fn answer(mut record: Record, reply: Reply, client: &Client) -> Answer {
    let reply = reply.head_only(client.head);
    record.end(reply.outcome);
    record.head(reply.status().as_u16(), None);
    record.passed(reply.body_bytes());
    let worker = Rc::clone(record.worker());
    Ok(reply.into_response(&worker, client.http1))
}
