//! Peak-EWMA: Finagle's `PeakEwma`, with linkerd's penalty for failures (2026) and brpc's choice of how many are compared.
//!
//! ```text
//! answer after rtt:   rtt > ewma: ewma = rtt ("peak");   otherwise w = exp(-dt / 10 s), ewma = rtt (1 - w) + ewma w
//! read:               ewma * exp(-dt / 10 s) * (in flight + 1) / weight
//! failure:            an answer after 5 s
//! ```
//!
//! An endpoint that was never seen has 30 ms (linkerd).

use fastrand::Rng;

use super::{Health, PerEndpoint, seconds, some};
use crate::balancer::{Attempt, Balancer, Member};
use crate::server::{SECOND, Seen, Time};

const TAU_S: f64 = 10.0;
const DEFAULT: f64 = 30_000.0;

struct Known {
    ewma: f64,
    at: Time,
    in_flight: u32,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            ewma: DEFAULT,
            at: 0,
            in_flight: 0,
        }
    }
}

pub struct PeakEwma {
    members: Vec<Member>,
    known: PerEndpoint<Known>,
    choices: usize,
    health: Health,
}

impl PeakEwma {
    pub fn new(choices: usize, health: Health) -> Self {
        Self {
            members: Vec::new(),
            known: PerEndpoint::default(),
            choices,
            health,
        }
    }
}

impl Balancer for PeakEwma {
    fn members(&mut self, members: &[Member], _now: Time) {
        self.members = members.to_vec();
    }

    fn pick(&mut self, now: Time, tried: &[u32], rng: &mut Rng) -> Option<u32> {
        let fit = self.health.fit(&self.members, tried, now);
        let all = self.choices >= fit.len();
        let mut drawn = some(&fit, self.choices, rng);
        if all && !drawn.is_empty() {
            // brpc begins its scan anywhere.
            let first = rng.usize(..drawn.len());
            drawn.rotate_left(first);
        }
        let mut least = f64::INFINITY;
        let mut best = None;
        for member in drawn {
            let known = self.known.get(member.endpoint);
            let faded = known.ewma * (-seconds(now.saturating_sub(known.at)) / TAU_S).exp();
            let weight = if all { f64::from(member.weight) } else { 1.0 };
            let cost = faded.max(1.0) * f64::from(known.in_flight + 1) / weight;
            if cost < least {
                (least, best) = (cost, Some(member.endpoint));
            }
        }
        best
    }

    fn begin(&mut self, attempt: Attempt) {
        self.known.get(attempt.endpoint).in_flight += 1;
    }

    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, _load: Option<&str>) {
        self.health.ended(&self.members, attempt.endpoint, now, seen);
        let known = self.known.get(attempt.endpoint);
        known.in_flight -= 1;
        let took = now - attempt.began;
        let rtt = match seen {
            Seen::Answered => took,
            Seen::ServerError | Seen::Failed => took.max(5 * SECOND),
            Seen::GivenUp => return,
        } as f64;
        let w = (-seconds(now.saturating_sub(known.at)) / TAU_S).exp();
        let faded = known.ewma * w;
        known.ewma = if rtt > faded {
            rtt
        } else {
            rtt * (1.0 - w) + known.ewma * w
        };
        known.at = now;
    }
}
