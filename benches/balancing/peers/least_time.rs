//! nginx's `least_time` with `inflight` (open source since 1.31): of all the least of `rt * (1 + in flight) / weight`.
//!
//! `rt` is 0.95 of what it was and 0.05 of the answer's milliseconds, rounded up to 20 ms, 5 s at the most; the mean age of what is in
//! flight if that is more; halved for each 10 s without a request. Failed attempts do not count.

use fastrand::Rng;

use super::{Health, PerEndpoint};
use crate::balancer::{Attempt, Balancer, Member};
use crate::server::{SECOND, Seen, Time};

#[derive(Default)]
struct Known {
    rt_ms: f64,
    seen: bool,
    in_flight: u32,
    begins: f64,
    last: Time,
}

pub struct LeastTime {
    members: Vec<Member>,
    known: PerEndpoint<Known>,
    health: Health,
}

impl LeastTime {
    pub fn new(health: Health) -> Self {
        Self {
            members: Vec::new(),
            known: PerEndpoint::default(),
            health,
        }
    }
}

impl Balancer for LeastTime {
    fn members(&mut self, members: &[Member], _now: Time) {
        self.members = members.to_vec();
    }

    fn pick(&mut self, now: Time, tried: &[u32], rng: &mut Rng) -> Option<u32> {
        let mut least = (f64::INFINITY, f64::INFINITY);
        let mut best = None;
        for member in self.health.fit(&self.members, tried, now) {
            let known = self.known.get(member.endpoint);
            let idle = (now - known.last) / (10 * SECOND);
            let mut rt = known.rt_ms / f64::from(1 << idle.min(20));
            let flying = f64::from(known.in_flight);
            if known.in_flight > 0 {
                rt = rt.max((now as f64 - known.begins / flying) / 1000.0);
            }
            let rt = rt.floor().min(5000.0);
            let bucket = rt + 20.0 - rt % 20.0;
            let weight = f64::from(member.weight);
            let cost = (bucket * (1.0 + flying) / weight, rng.f64() / weight);
            if cost < least {
                (least, best) = (cost, Some(member.endpoint));
            }
        }
        best
    }

    fn begin(&mut self, attempt: Attempt) {
        let known = self.known.get(attempt.endpoint);
        known.in_flight += 1;
        known.begins += attempt.began as f64;
        known.last = attempt.began;
    }

    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, _load: Option<&str>) {
        self.health.ended(&self.members, attempt.endpoint, now, seen);
        let known = self.known.get(attempt.endpoint);
        known.in_flight -= 1;
        known.begins -= attempt.began as f64;
        if seen == Seen::Answered {
            let took = (now - attempt.began) as f64 / 1000.0;
            known.rt_ms = if known.seen {
                0.95 * known.rt_ms + 0.05 * took
            } else {
                took
            };
            known.seen = true;
        }
    }
}
