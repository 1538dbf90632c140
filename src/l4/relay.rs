//! The life of a relayed connection, top to bottom: a client's bytes, an endpoint's bytes, and nobody who reads them.
//!
//! ```text
//! client ─► plan ─► pick an endpoint ─► connect ─► bytes both ways until they end ─► record
//!                         ▲                │
//!                         └─ try another ◄─┘
//! ```
//! Nothing of the client's is read before an endpoint is there, so a connection that cannot be made may always be tried
//! elsewhere. Once bytes flow there is no second try: nobody knows what they mean.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::answer::FirstAnswer;
use super::arrival::Arrival;
use super::copy::{CopyEnd, CopyPlan, Side, copy_both};
use super::desk::Desk;
use super::plan::{self, Forward, decide, refused, verdict, wants_another};
use super::proxy_protocol::write;
use super::record::Record;
use crate::balance::{ConnectionSlot, EndpointCell, How, InFlight, Observed, Pick};
use crate::runtime::stream::OnTcp;
use crate::telemetry::Outcome;
use crate::upstream::connect::{self, connect_opaque};

/// Relays a client's connection until it ends. `idle`: silence of both sides allowed. Whatever happens, one record is written.
pub async fn relay<C>(desk: &Rc<Desk>, from: Rc<Arrival>, mut client: C, idle: Option<Duration>)
where
    C: AsyncRead + AsyncWrite + OnTcp + Unpin,
{
    let mut record = Record::open(desk, &from);
    let decided = if let Some(redirected) = &from.redirected {
        Ok(plan::redirected(redirected))
    } else {
        let snapshot = desk.snapshot();
        let bind = snapshot.bind(&from.bind).map(|bind| &**bind);
        decide(bind, from.name(), || desk.random())
    };
    let forward = match decided {
        Ok(forward) => forward,
        Err(outcome) => return turn_away(record, outcome, &client),
    };
    record.set_forward(&forward);

    let found = Box::pin(reach(desk, &from, &forward, &mut record)).await;
    let Reached {
        mut endpoint,
        slot,
        in_flight,
    } = match found {
        Ok(reached) => reached,
        Err(outcome) => return turn_away(record, outcome, &client),
    };
    let now = desk.now();
    record.connected(now.saturating_since(in_flight.started()));
    let answer = FirstAnswer::connected(in_flight, now, desk.timers.lease());

    let mut answered = None;
    let end = {
        let copying = copy_both(
            &mut client,
            &mut endpoint,
            CopyPlan {
                idle,
                timer: desk.timers.lease(),
                scratch: &desk.scratch,
                meter: &record.meter,
                on_first: |side| answered = answer.spoke(side, desk.now()).or(answered),
            },
        );
        let mut copying = pin!(copying);
        std::future::poll_fn(|cx| match copying.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => {
                answer.poll(cx, || desk.now());
                Poll::Pending
            }
        })
        .await
    };
    if let Some(micros) = answered {
        record.answered(micros);
    }
    match end {
        CopyEnd::Broken(Side::First) => endpoint.reset_on_drop(),
        CopyEnd::Broken(Side::Second) => client.reset_on_drop(),
        CopyEnd::Finished(_) | CopyEnd::Idle => {}
    }
    let (outcome, seen) = verdict(end, record.meter.forth.get(), record.meter.back.get());
    answer.ended(desk.now(), seen);
    if seen == Observed::Failed {
        judge(desk, &forward, slot.cell());
    }
    record.end(outcome);
    drop(slot);
}

/// An endpoint that a connection was made to.
pub(super) struct Reached {
    endpoint: connect::Stream,
    slot: ConnectionSlot,
    in_flight: InFlight,
}

/// Ends a connection that nobody takes. The client sees a reset, as it would of an endpoint that is not there.
fn turn_away(mut record: Record, outcome: Outcome, client: &impl OnTcp) {
    record.end(outcome);
    client.reset_on_drop();
}

/// Makes a connection to an endpoint: the best one, and when there is none to be had, another.
async fn reach(
    desk: &Rc<Desk>,
    from: &Arrival,
    forward: &Forward,
    record: &mut Record,
) -> Result<Reached, Outcome> {
    let backend = &forward.backend;
    let retry = &forward.rule.rule.retry;
    backend.with_budget(|budget| budget.on_request(record.started()));
    let mut tries = Tries::default();
    loop {
        let cell = match pick(desk, from, forward, tries.cells()) {
            Ok(Some(cell)) => cell,
            Ok(None) => queue(desk, from, forward, tries.cells()).await?,
            // What went wrong before says more than that nobody is left.
            Err(outcome) => return Err(tries.last_failure.unwrap_or(outcome)),
        };
        let mut in_flight = EndpointCell::start(&cell, desk.now());
        record.attempt(&in_flight);
        tries.add(&cell);
        let policy = backend.with_fleet(|fleet| Arc::clone(fleet.policy()));
        let header = policy
            .proxy_protocol
            .map(|version| write(version, &from.header()));
        let header = header.unwrap_or_default();
        let redirected = from.redirected.as_ref();
        let may_be_tls = redirected.is_some_and(|redirected| redirected.may_be_tls);
        let error = match connect_opaque(&cell, &policy, &header, may_be_tls).await {
            Ok((endpoint, slot)) => {
                backend.metrics.connection_made(desk.index);
                return Ok(Reached {
                    endpoint,
                    slot,
                    in_flight,
                });
            }
            Err(error) => error,
        };
        backend.metrics.connection_failed(desk.index);
        let (outcome, is_the_endpoints) = refused(&error);
        if is_the_endpoints {
            in_flight.head(desk.now(), Observed::Failed);
            judge(desk, forward, &cell);
        }
        drop(in_flight);
        tracing::debug!(client = %from.peer, endpoint = %cell.address(), %error, "no connection");
        if !wants_another(retry, tries.made) {
            return Err(outcome);
        }
        if !backend.with_budget(|budget| budget.try_retry(desk.now())) {
            backend.metrics.retry_denied(desk.index);
            return Err(outcome);
        }
        backend.metrics.retry(desk.index);
        tries.last_failure = Some(outcome);
        if let Some(backoff) = retry.backoff {
            tokio::time::sleep(backoff * 2_u32.saturating_pow(u32::from(tries.made) - 1)).await;
        }
    }
}

/// The endpoints tried so far.
#[derive(Default)]
struct Tries {
    made: u8,
    /// Their ids, the last [`REMEMBERED`] of them.
    cells: [u64; REMEMBERED],
    last_failure: Option<Outcome>,
}

/// Endpoints that a connection does not go back to while there are others.
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
pub(super) fn pick(
    desk: &Desk,
    from: &Arrival,
    forward: &Forward,
    tried: &[u64],
) -> Result<Option<Arc<EndpointCell>>, Outcome> {
    forward.backend.with_fleet(|fleet| {
        let tie = plan::tie(fleet.policy(), from.peer.ip());
        let now = desk.now();
        let picked = desk.with_random(|random| fleet.pick_tied(now, random, tried, &tie));
        match picked.pick {
            Pick::Endpoint(candidate) => {
                if picked.how != How::Policy {
                    forward.backend.metrics.picked(desk.index, picked.how as usize);
                }
                Ok(Some(Arc::clone(&candidate.cell)))
            }
            Pick::Saturated => Ok(None),
            Pick::None => Err(Outcome::NoEndpoint),
        }
    })
}

/// How often a connection that waits for a free endpoint looks again; the bound is shared by all workers.
const QUEUE_LOOK: Duration = Duration::from_millis(2);

/// Waits for an endpoint below its bound, for as long as the backend's queue allows.
async fn queue(
    desk: &Desk,
    from: &Arrival,
    forward: &Forward,
    tried: &[u64],
) -> Result<Arc<EndpointCell>, Outcome> {
    let patience = forward
        .backend
        .with_fleet(|fleet| fleet.policy().limits.queue_timeout);
    let give_up = Instant::now() + patience;
    loop {
        tokio::time::sleep(QUEUE_LOOK).await;
        if let Some(cell) = pick(desk, from, forward, tried)? {
            return Ok(cell);
        }
        if Instant::now() >= give_up {
            return Err(Outcome::Overloaded);
        }
    }
}

/// Sets an endpoint aside if it only fails.
pub(super) fn judge(desk: &Desk, forward: &Forward, cell: &EndpointCell) {
    let now = desk.now();
    if let Some(reason) = forward.backend.with_fleet(|fleet| fleet.judge(cell, now)) {
        forward.backend.metrics.ejected(reason as usize);
        let (backend, endpoint, why) = (&forward.backend.name, cell.address(), reason.word());
        tracing::info!(worker = desk.index, %backend, %endpoint, why, "ejected");
    }
}
