//! The watch over a served connection.
//!
//! While served, a connection is looked at once a second: has the head come in time, does the client still take what it
//! is given, has it been idle long enough to be parked or closed, does it open streams only to give them up? One timer
//! and no work per request.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::Micros;
use crate::l7::downstream::Downstream;
use crate::l7::worker::Worker;
use crate::model::ListenerLimits;
use crate::runtime::timers::Timer;

/// How often a served connection is looked at.
const WATCH: Duration = Duration::from_secs(1);
/// Idle time after which an HTTP/1 connection is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// So many exchanges given up by the client, and more than half of all, end the connection ("Rapid Reset").
const MAX_GIVEN_UP: u64 = 500;

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It ended by itself.
    Over,
    /// It speaks HTTP/2.
    Preface,
    /// It has been idle for a moment.
    Idle,
    /// It said nothing at all, or nothing more, for too long.
    Silent,
    /// A head did not come in time.
    HeadTooSlow,
    /// The client takes nothing of a response.
    Stalled,
    /// The client opens exchanges only to give them up.
    Abusive,
}

/// Looks at a connection once a second.
pub(super) struct Watch<'a> {
    worker: &'a Worker,
    from: &'a Downstream,
    timer: Timer,
    next: Option<Instant>,
    head_since: Option<Micros>,
}

impl<'a> Watch<'a> {
    /// From now on.
    pub(super) fn new(worker: &'a Worker, from: &'a Downstream) -> Self {
        Self {
            worker,
            from,
            timer: worker.timers.lease(),
            next: None,
            head_since: None,
        }
    }

    /// Ready when something is to be done. `holding`: the start of a head is held. `first`: no head has come yet.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, holding: bool, first: bool) -> Poll<Verdict> {
        // Between looks this costs one load: the timer was asked once to wake this task.
        if self.next.is_some() && !self.timer.has_fired() {
            return Poll::Pending;
        }
        loop {
            let next = *self.next.get_or_insert_with(|| Instant::now() + WATCH);
            if self.timer.poll_passed(cx, next).is_pending() {
                return Poll::Pending;
            }
            self.next = None;
            let now = self.worker.now();
            self.head_since = if holding {
                self.head_since.or(Some(now))
            } else {
                None
            };
            let view = View {
                idle: self.from.pace.idle_since().map(|since| elapsed(now, since)),
                holding: self.head_since.map(|since| elapsed(now, since)),
                unheard: first && self.from.pace.totals().0 == 0,
                stalled: self.from.stalls.oldest().map(|since| elapsed(now, since)),
                totals: self.from.pace.totals(),
            };
            if let Some(verdict) = judge(&view, &self.from.limits) {
                if verdict == Verdict::Stalled {
                    self.from.pace.set_stalled();
                }
                self.head_since = None;
                return Poll::Ready(verdict);
            }
        }
    }

    /// Whether there has been no exchange for so long.
    pub(super) fn idle_for(&self, time: Duration) -> bool {
        let now = self.worker.now();
        self.from
            .pace
            .idle_since()
            .is_some_and(|since| elapsed(now, since) >= time)
    }
}

/// What is seen of a connection when it is looked at.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    /// How long there has been no exchange; none while there is one.
    idle: Option<Duration>,
    /// How long the start of a head has been held.
    holding: Option<Duration>,
    /// No request has come yet.
    unheard: bool,
    /// How long the client has taken nothing.
    stalled: Option<Duration>,
    /// Exchanges begun and given up.
    totals: (u64, u64),
}

/// What is to be done about what is seen; none: nothing.
fn judge(view: &View, limits: &ListenerLimits) -> Option<Verdict> {
    if view.stalled.is_some_and(|time| time >= limits.body_idle) {
        return Some(Verdict::Stalled);
    }
    let (begun, given_up) = view.totals;
    if given_up >= MAX_GIVEN_UP && given_up * 2 > begun {
        return Some(Verdict::Abusive);
    }
    let idle = view.idle?;
    match view.holding {
        Some(time) if time >= limits.head_deadline || (view.unheard && idle >= limits.head_deadline) => {
            Some(Verdict::HeadTooSlow)
        }
        Some(_) => None,
        None if view.unheard => (idle >= limits.head_deadline).then_some(Verdict::Silent),
        None => (idle >= PARK_AFTER).then_some(Verdict::Idle),
    }
}

fn elapsed(now: Micros, since: Micros) -> Duration {
    Duration::from_micros(now.saturating_since(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_judged_by_what_is_seen() {
        let limits = ListenerLimits::default();
        let seconds = |count| Some(Duration::from_secs(count));
        let nothing = View::default();
        for (view, verdict) in [
            (nothing, None),
            (
                View {
                    idle: seconds(0),
                    ..nothing
                },
                None,
            ),
            (
                View {
                    idle: seconds(2),
                    ..nothing
                },
                Some(Verdict::Idle),
            ),
            (
                View {
                    idle: seconds(2),
                    unheard: true,
                    ..nothing
                },
                None,
            ),
            (
                View {
                    idle: seconds(10),
                    unheard: true,
                    ..nothing
                },
                Some(Verdict::Silent),
            ),
            (
                View {
                    idle: seconds(10),
                    unheard: true,
                    holding: seconds(9),
                    ..nothing
                },
                Some(Verdict::HeadTooSlow),
            ),
            (
                View {
                    idle: seconds(50),
                    holding: seconds(9),
                    ..nothing
                },
                None,
            ),
            (
                View {
                    idle: seconds(50),
                    holding: seconds(10),
                    ..nothing
                },
                Some(Verdict::HeadTooSlow),
            ),
            (
                View {
                    stalled: seconds(30),
                    ..nothing
                },
                Some(Verdict::Stalled),
            ),
            (
                View {
                    totals: (900, 500),
                    ..nothing
                },
                Some(Verdict::Abusive),
            ),
            (
                View {
                    totals: (1100, 500),
                    ..nothing
                },
                None,
            ),
        ] {
            assert_eq!(judge(&view, &limits), verdict, "{view:?}");
        }
    }
}
