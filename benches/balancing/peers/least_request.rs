//! Least request: the fewest in flight for the weight, among two at random (Envoy, Mitzenmacher 2001) or all (nginx `least_conn`,
//! HAProxy `leastconn`); between equals any.

use fastrand::Rng;

use super::{Health, PerEndpoint, some};
use crate::balancer::{Attempt, Balancer, Member};
use crate::server::{Seen, Time};

pub struct LeastRequest {
    members: Vec<Member>,
    in_flight: PerEndpoint<u32>,
    choices: usize,
    health: Health,
}

impl LeastRequest {
    pub fn new(choices: usize, health: Health) -> Self {
        Self {
            members: Vec::new(),
            in_flight: PerEndpoint::default(),
            choices,
            health,
        }
    }
}

impl Balancer for LeastRequest {
    fn members(&mut self, members: &[Member], _now: Time) {
        self.members = members.to_vec();
    }

    fn pick(&mut self, now: Time, tried: &[u32], rng: &mut Rng) -> Option<u32> {
        let fit = self.health.fit(&self.members, tried, now);
        // A full scan sees the weights; two draws by weight have seen them.
        let all = self.choices >= fit.len();
        let mut least = (f64::INFINITY, f64::INFINITY);
        let mut best = None;
        for member in some(&fit, self.choices, rng) {
            let in_flight = f64::from(*self.in_flight.get(member.endpoint));
            let weight = f64::from(member.weight);
            let load = if all {
                (in_flight + 1.0) / weight
            } else {
                in_flight / weight
            };
            let cost = (load, rng.f64() / weight);
            if cost < least {
                (least, best) = (cost, Some(member.endpoint));
            }
        }
        best
    }

    fn begin(&mut self, attempt: Attempt) {
        *self.in_flight.get(attempt.endpoint) += 1;
    }

    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, _load: Option<&str>) {
        *self.in_flight.get(attempt.endpoint) -= 1;
        self.health.ended(&self.members, attempt.endpoint, now, seen);
    }
}
