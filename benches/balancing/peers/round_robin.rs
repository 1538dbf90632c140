//! Round robin, smooth by weights, as nginx does it.

use fastrand::Rng;

use super::{Health, PerEndpoint};
use crate::balancer::{Attempt, Balancer, Member};
use crate::server::{Seen, Time};

pub struct RoundRobin {
    members: Vec<Member>,
    current: PerEndpoint<i64>,
    health: Health,
}

impl RoundRobin {
    pub fn new(health: Health) -> Self {
        Self {
            members: Vec::new(),
            current: PerEndpoint::default(),
            health,
        }
    }
}

impl Balancer for RoundRobin {
    fn members(&mut self, members: &[Member], _now: Time) {
        self.members = members.to_vec();
    }

    fn pick(&mut self, now: Time, tried: &[u32], _rng: &mut Rng) -> Option<u32> {
        let fit = self.health.fit(&self.members, tried, now);
        let weights: i64 = fit.iter().map(|member| i64::from(member.weight)).sum();
        let mut best: Option<(i64, u32)> = None;
        for member in fit {
            let current = self.current.get(member.endpoint);
            *current += i64::from(member.weight);
            if best.is_none_or(|(most, _)| *current > most) {
                best = Some((*current, member.endpoint));
            }
        }
        let (_, endpoint) = best?;
        *self.current.get(endpoint) -= weights;
        Some(endpoint)
    }

    fn begin(&mut self, _attempt: Attempt) {}

    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, _load: Option<&str>) {
        self.health.ended(&self.members, attempt.endpoint, now, seen);
    }
}
