//! The race of two attempts: a second one beside a first that takes unusually long, and the first good answer wins.
//!
//! ```text
//! first   ├────── delay ──────┼─────────────────────► given up: its stream is reset, its HTTP/1 connection closed
//! second                      ├───────────► wins
//! ```
//!
//! When it is time, and how many may be sent, is known in `src/balance/hedge.rs`. Here is what becomes of them. Hedged is what
//! may be sent twice: an idempotent method (RFC 9110 §9.2.2), with no body or one that has come whole and was kept, once per
//! exchange. Either attempt has its own `per_try`; the request's deadline is for both.
//!
//! An answer is good unless it is a 5xx or the rule's retries name it. As long as one attempt is under way, the other's failure
//! or bad answer ends nothing; a bad answer is held until it is known whether there is a better one. What is left in the end goes
//! the way of every attempt, to retries too. The loser has been waited for longer than is usual, and its endpoint's cell learns that.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::attempt::{Picked, Tried, earlier, learn, send};
use super::outgoing::Outgoing;
use super::plan::Forward;
use super::record::Record;
use super::retry::Ended;
use super::worker::Worker;
use crate::balance::{EndpointCell, InFlight, Micros};
use crate::model::RetryPolicy;
use crate::runtime::timers::Timer;

/// Whether a request may be hedged at all, its body aside.
pub fn may_hedge(backend_hedges: bool, method: &Method, policy: &RetryPolicy, upgrade: bool) -> bool {
    backend_hedges && policy.hedge && method.is_idempotent() && !upgrade
}

/// When an attempt must have its answer.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// When the first attempt began.
    pub started: Micros,
    /// The whole request's.
    pub request: Option<Instant>,
    /// From the start of each attempt.
    pub per_try: Option<Duration>,
}

impl Deadlines {
    /// The deadline of an attempt that begins now.
    pub fn of_try(&self, worker: &Worker, now: Micros) -> Option<Instant> {
        let per_try = self.per_try.map(|timeout| worker.clock.instant_of(now) + timeout);
        earlier(self.request, per_try)
    }
}

/// What came of one or two attempts.
pub struct Raced {
    /// The attempt that counts.
    pub tried: Tried,
    /// The endpoint of the second attempt, if there was one.
    pub second: Option<Picked>,
    /// Whether the attempt that counts is the second one.
    pub second_won: bool,
}

/// Makes an attempt, and a second one at the endpoint that `pick` gives if the first takes unusually long.
pub async fn race(
    worker: &Worker,
    forward: &Forward<'_>,
    outgoing: &Outgoing,
    record: &mut Record,
    endpoint: &Picked,
    deadlines: Deadlines,
    timer: &mut Timer,
    pick: impl FnOnce() -> Option<Picked>,
) -> Raced {
    let started = deadlines.started;
    let delay = forward.backend.with_hedging(|hedging| {
        hedging.on_request(started);
        hedging.delay()
    });
    let first_deadline = deadlines.of_try(worker, started);
    let interim = outgoing.interim.as_deref();
    let mut first = pin!(send(
        worker,
        forward,
        endpoint,
        outgoing,
        interim,
        first_deadline,
        timer
    ));
    let mut patience = worker.timers.lease();
    let quick = match delay.flatten() {
        None => Some(first.as_mut().await),
        Some(delay) => {
            let end = worker.clock.instant_of(started) + delay;
            patience.within(Some(end), first.as_mut()).await
        }
    };
    let second = match quick {
        Some(_) => None,
        None => Second::begin(worker, forward, outgoing, record, pick),
    };
    let Some(mut second) = second else {
        let sent = match quick {
            Some(sent) => sent,
            None => first.await,
        };
        let now = worker.now();
        let in_flight = record.in_flight();
        let tried = learn(worker, forward, outgoing, in_flight, deadlines.request, sent, now);
        note(forward, started, &tried);
        return Raced {
            tried,
            second: None,
            second_won: false,
        };
    };

    let mut second_timer = worker.timers.lease();
    let second_deadline = deadlines.of_try(worker, worker.now());
    let second_endpoint = second.endpoint.clone();
    let mut hedge = pin!(send(
        worker,
        forward,
        &second_endpoint,
        outgoing,
        None,
        second_deadline,
        &mut second_timer
    ));
    let policy = &forward.rule.rule.retry;
    let (mut one, mut other): (Option<Tried>, Option<Tried>) = (None, None);
    loop {
        let (which, sent) = poll_fn(|cx| {
            if one.is_none()
                && let Poll::Ready(sent) = first.as_mut().poll(cx)
            {
                return Poll::Ready((Which::First, sent));
            }
            if other.is_none()
                && let Poll::Ready(sent) = hedge.as_mut().poll(cx)
            {
                return Poll::Ready((Which::Second, sent));
            }
            Poll::Pending
        })
        .await;
        let (in_flight, tried) = match which {
            Which::First => (record.in_flight(), &mut one),
            Which::Second => (second.in_flight.as_mut(), &mut other),
        };
        let now = worker.now();
        *tried = Some(learn(
            worker,
            forward,
            outgoing,
            in_flight,
            deadlines.request,
            sent,
            now,
        ));
        let winner = winner(Stand::of(one.as_ref(), policy), Stand::of(other.as_ref(), policy));
        let (tried, second_won) = match winner {
            Some(Which::First) => (one.take(), false),
            Some(Which::Second) => (other.take(), true),
            None => continue,
        };
        let Some(tried) = tried else { continue };
        note(forward, started, &tried);
        if second_won && let Some(in_flight) = second.in_flight.take() {
            forward.backend.metrics.hedge_won(worker.index);
            if let Some(loser) = record.hedge_won(in_flight) {
                loser.give_up(now);
            }
        }
        return Raced {
            tried,
            second: Some(second_endpoint.clone()),
            second_won,
        };
    }
}

/// The second attempt's place in flight: given up when dropped, also when the client goes away.
struct Second<'w> {
    worker: &'w Worker,
    endpoint: Picked,
    in_flight: Option<InFlight>,
}

impl<'w> Second<'w> {
    /// None if it may not be, there is no other endpoint, or the budget is spent.
    fn begin(
        worker: &'w Worker,
        forward: &Forward<'_>,
        outgoing: &Outgoing,
        record: &mut Record,
        pick: impl FnOnce() -> Option<Picked>,
    ) -> Option<Self> {
        if !outgoing.is_whole() {
            return None;
        }
        let endpoint = pick()?;
        let now = worker.now();
        let metrics = &forward.backend.metrics;
        if !forward.backend.with_hedging(|hedging| hedging.try_hedge(now))? {
            metrics.hedge_denied(worker.index);
            return None;
        }
        metrics.hedge(worker.index);
        record.hedge();
        Some(Self {
            worker,
            in_flight: Some(EndpointCell::start(&endpoint.cell, now)),
            endpoint,
        })
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.in_flight.take() {
            in_flight.give_up(self.worker.now());
        }
    }
}

/// Tells the backend's hedging how long a request waited for its answer. What fails fast says nothing of that.
fn note(forward: &Forward<'_>, started: Micros, tried: &Tried) {
    let answered = tried.got.as_ref();
    if answered.is_some_and(|got| !got.response.status.is_server_error()) {
        let latency = tried.at.saturating_since(started);
        forward
            .backend
            .with_hedging(|hedging| hedging.on_answer(tried.at, latency));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    First,
    Second,
}

/// How one of two attempts stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It has not ended.
    Running,
    /// Its answer is what the client gets.
    Good,
    /// There is an answer, for want of a better one.
    Bad,
    /// There is none.
    Failed,
}

impl Stand {
    fn of(tried: Option<&Tried>, policy: &RetryPolicy) -> Self {
        match tried.map(|tried| tried.ended) {
            None => Self::Running,
            Some(Ended::Unsent(_) | Ended::Sent(_)) => Self::Failed,
            Some(Ended::Answered(status)) => {
                match status.http.is_server_error() || status.is_named(&policy.on) {
                    true => Self::Bad,
                    false => Self::Good,
                }
            }
        }
    }
}

/// Which of two attempts counts; none while that is not known.
fn winner(first: Stand, second: Stand) -> Option<Which> {
    match (first, second) {
        (Stand::Good, _) => Some(Which::First),
        (_, Stand::Good) => Some(Which::Second),
        (Stand::Running, _) | (_, Stand::Running) => None,
        (Stand::Failed, Stand::Bad) => Some(Which::Second),
        (Stand::Bad | Stand::Failed, Stand::Bad | Stand::Failed) => Some(Which::First),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_good_answer_wins_and_a_failure_ends_nothing_while_the_other_runs() {
        use Stand::{Bad, Failed, Good, Running};
        use Which::{First, Second};
        for (first, second, expected) in [
            (Running, Running, None),
            (Good, Running, Some(First)),
            (Running, Good, Some(Second)),
            (Failed, Running, None),
            (Bad, Running, None),
            (Running, Failed, None),
            (Running, Bad, None),
            (Failed, Good, Some(Second)),
            (Bad, Good, Some(Second)),
            (Good, Failed, Some(First)),
            (Good, Bad, Some(First)),
            (Failed, Failed, Some(First)),
            (Bad, Failed, Some(First)),
            (Failed, Bad, Some(Second)),
            (Bad, Bad, Some(First)),
        ] {
            assert_eq!(winner(first, second), expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn hedged_is_only_what_may_be_sent_twice() {
        let policy = RetryPolicy::default();
        let without = RetryPolicy {
            hedge: false,
            ..RetryPolicy::default()
        };
        for (backend, method, policy, upgrade, expected) in [
            (true, Method::GET, &policy, false, true),
            (true, Method::PUT, &policy, false, true),
            (true, Method::POST, &policy, false, false),
            (true, Method::PATCH, &policy, false, false),
            (true, Method::GET, &policy, true, false),
            (true, Method::GET, &without, false, false),
            (false, Method::GET, &policy, false, false),
        ] {
            assert_eq!(
                may_hedge(backend, &method, policy, upgrade),
                expected,
                "{backend} {method} {upgrade}"
            );
        }
    }
}
