//! How soon an endpoint of a relay answers: what the balancer learns of a connection whose protocol nobody knows.
//!
//! # What is measured
//! Two moments can be told apart without understanding a byte: the connection is there, and the endpoint has spoken for
//! the first time. The cost of an endpoint is their sum, without the time in which the *client* kept it waiting:
//!
//! ```text
//! the endpoint speaks first (MySQL, SMTP):  dial ──────────────────────► first byte
//! the client speaks first (Redis, TLS):     dial ─► there    asked ────► first byte
//!                                           └─────────┘  +   └─────────────────┘
//! nobody ever speaks:                       dial ─► there
//! ```
//! While the client is silent nothing waits, so that connections opened in advance do not make an endpoint look slow. A
//! protocol without answers (logs) is waited for [`PATIENCE`] and then no longer: "at least so long" is what is learnt.
//!
//! Later answers are not measured: without the protocol one cannot tell an answer from a message of the endpoint's own. What is
//! in flight at an endpoint are its connections, so that least-latency weighs them with how soon it answers.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::copy::Side;
use crate::balance::{EndpointCell, InFlight, Micros, Observed};
use crate::runtime::timers::Timer;

/// How long an answer to a client's first bytes is waited for, as far as the balancer is concerned.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection's place in flight, and what it says of its endpoint.
pub struct FirstAnswer {
    in_flight: RefCell<InFlight>,
    timer: RefCell<Timer>,
    dialed: Micros,
    /// How long the connecting took, in microseconds.
    connect_us: u64,
    state: Cell<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has spoken.
    Quiet,
    /// The client has; the endpoint is waited for until then.
    Asked(Micros, Instant),
    /// What is to be learnt is learnt.
    Known,
}

impl FirstAnswer {
    /// The connection of an attempt is there now. From here on nothing waits until the client speaks.
    pub fn connected(mut in_flight: InFlight, now: Micros, timer: Timer) -> Self {
        in_flight.hold();
        let dialed = in_flight.started();
        Self {
            dialed,
            connect_us: now.saturating_since(dialed),
            in_flight: RefCell::new(in_flight),
            timer: RefCell::new(timer),
            state: Cell::new(State::Quiet),
        }
    }

    /// The endpoint's cell.
    pub fn cell(&self) -> Arc<EndpointCell> {
        Arc::clone(self.in_flight.borrow().cell())
    }

    /// A side speaks for the first time. Gives how long the endpoint took since it was asked, in microseconds, if it is
    /// the endpoint.
    pub fn spoke(&self, side: Side, now: Micros) -> Option<u64> {
        match (side, self.state.get()) {
            (Side::First, State::Quiet) => {
                self.state.set(State::Asked(now, Instant::now() + PATIENCE));
                let since = Micros(now.0.saturating_sub(self.connect_us));
                self.in_flight.borrow_mut().resume(since);
                None
            }
            (Side::Second, State::Quiet) => {
                self.learn(self.dialed, now, Observed::Answered);
                Some(now.saturating_since(self.dialed) - self.connect_us)
            }
            (Side::Second, State::Asked(asked, _)) => {
                self.state.set(State::Known);
                self.in_flight.borrow_mut().head(now, Observed::Answered);
                Some(now.saturating_since(asked))
            }
            (Side::First | Side::Second, State::Known) | (Side::First, State::Asked(..)) => None,
        }
    }

    /// Looks whether the answer has been waited for long enough. To be called whenever the connection is looked at.
    pub fn poll(&self, cx: &mut Context<'_>, now: impl FnOnce() -> Micros) {
        if let State::Asked(_, until) = self.state.get()
            && let Poll::Ready(()) = self.timer.borrow_mut().poll_passed(cx, until)
        {
            self.state.set(State::Known);
            self.in_flight.borrow_mut().wait_no_longer(now());
        }
    }

    /// The connection has ended, and this is what its end says of the endpoint.
    pub fn ended(&self, now: Micros, seen: Observed) {
        match (self.state.get(), seen) {
            (State::Quiet, Observed::Answered) => {
                let there = Micros(self.dialed.0 + self.connect_us);
                self.learn(self.dialed, there, seen);
            }
            // The client has ended it before there was an answer.
            (State::Asked(..), Observed::Answered) => self.in_flight.borrow_mut().wait_no_longer(now),
            (State::Quiet, _) => self.learn(self.dialed, now, seen),
            (State::Asked(..), _) => self.in_flight.borrow_mut().head(now, seen),
            (State::Known, Observed::Answered) => {}
            (State::Known, _) => self.in_flight.borrow_mut().broke(),
        }
        self.state.set(State::Known);
    }

    fn learn(&self, since: Micros, now: Micros, seen: Observed) {
        self.state.set(State::Known);
        let mut in_flight = self.in_flight.borrow_mut();
        in_flight.resume(since);
        in_flight.head(now, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::timers::Timers;
    use std::rc::Rc;

    fn connected_after(micros: u64) -> (Arc<EndpointCell>, FirstAnswer) {
        let cell = EndpointCell::new("127.0.0.1:80".parse().unwrap(), Micros(0));
        let in_flight = EndpointCell::start(&cell, Micros(1000));
        let timer = Rc::new(Timers::default()).lease();
        let answer = FirstAnswer::connected(in_flight, Micros(1000 + micros), timer);
        (cell, answer)
    }

    fn latency(cell: &EndpointCell) -> Option<u64> {
        cell.view(Micros(10_000_000)).latency_us
    }

    #[test]
    fn the_cost_is_the_dial_and_the_first_answer() {
        // Who speaks when; what is learnt.
        use Side::{First, Second};
        for (speeches, learnt) in [
            (&[(Second, 5_000)][..], 4_000),
            (&[(First, 9_000), (Second, 9_700)], 200 + 700),
            (&[(First, 1_200), (Second, 1_900), (First, 90_000)], 200 + 700),
            (&[], 200),
        ] {
            let (cell, answer) = connected_after(200);
            assert_eq!(
                cell.view(Micros(5_000)).waiting,
                0,
                "nothing waits while nobody speaks"
            );
            for (side, at) in speeches {
                answer.spoke(*side, Micros(*at));
            }
            answer.ended(Micros(100_000), Observed::Answered);
            assert_eq!(latency(&cell), Some(learnt), "{speeches:?}");
            assert_eq!(cell.view(Micros(100_000)).in_flight, 1);
            drop(answer);
            assert_eq!(cell.view(Micros(100_000)).in_flight, 0);
        }
    }

    #[test]
    fn an_endpoint_that_breaks_off_has_failed() {
        let (cell, answer) = connected_after(200);
        answer.spoke(Side::First, Micros(2_000));
        assert_eq!(cell.view(Micros(3_000)).waiting, 1);
        answer.ended(Micros(3_000), Observed::Failed);
        assert_eq!(cell.view(Micros(3_000)).failures, 1);
        let (cell, answer) = connected_after(200);
        answer.spoke(Side::Second, Micros(2_000));
        answer.ended(Micros(3_000), Observed::Failed);
        assert_eq!(cell.view(Micros(3_000)).failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_protocol_without_answers_is_not_waited_for() {
        let (cell, answer) = connected_after(200);
        answer.spoke(Side::First, Micros(2_000));
        tokio::time::timeout(
            PATIENCE * 2,
            std::future::poll_fn::<(), _>(|cx| {
                answer.poll(cx, || Micros(5_002_000));
                Poll::Pending
            }),
        )
        .await
        .unwrap_err();
        assert_eq!(cell.view(Micros(9_000_000)).waiting, 0);
        assert!(latency(&cell).is_some_and(|latency| latency >= 5_000_000));
    }
}
