//! How the others set endpoints aside for what they do to requests.
//!
//! - nginx: `max_fails` 1, `fail_timeout` 10 s: a connection refused or reset, or a deadline passed; not a 5xx.
//! - Envoy's outlier detection: 5 failures or 5xx in a row, or a success rate below the mean less 1.9 deviations (looked at every
//!   10 s, endpoints with 100 requests, at least 5 of them); for 30 s times the times ejected; at most 10 % of the endpoints, but one
//!   always.
//! - Finagle's failure accrual: 5 failures in a row, for 5 s, doubled each time, up to 300 s; nobody is left: all are taken.

use super::PerEndpoint;
use crate::balancer::Member;
use crate::server::{SECOND, Seen, Time};

/// Who sets aside, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Never,
    Nginx,
    Envoy,
    Finagle,
}

#[derive(Default)]
struct Known {
    in_a_row: u32,
    times: u32,
    until: Time,
    good: u32,
    bad: u32,
}

/// What is known of the endpoints' failures.
pub struct Health {
    kind: Kind,
    known: PerEndpoint<Known>,
    looked_at: Time,
}

impl Health {
    pub fn never() -> Self {
        Self::of(Kind::Never)
    }

    pub fn nginx() -> Self {
        Self::of(Kind::Nginx)
    }

    pub fn envoy() -> Self {
        Self::of(Kind::Envoy)
    }

    pub fn finagle() -> Self {
        Self::of(Kind::Finagle)
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            known: PerEndpoint::default(),
            looked_at: 0,
        }
    }

    /// Those that may take a request: not set aside, not tried; the second is dropped first, then the first.
    pub fn fit<'a>(&mut self, members: &'a [Member], tried: &[u32], now: Time) -> Vec<&'a Member> {
        let untried = |member: &&Member| !tried.contains(&member.endpoint);
        let out = |member: &Member| {
            self.known
                .0
                .get(member.endpoint as usize)
                .is_some_and(|known| known.until > now)
        };
        let fit: Vec<&Member> = members
            .iter()
            .filter(untried)
            .filter(|member| !out(member))
            .collect();
        // Envoy's panic threshold: with half of them out, health is ignored.
        let panic = match self.kind {
            Kind::Envoy => members.iter().filter(|member| out(member)).count() * 2 > members.len(),
            _ => fit.is_empty(),
        };
        if !panic && !fit.is_empty() {
            return fit;
        }
        let fit: Vec<&Member> = members.iter().filter(untried).collect();
        if fit.is_empty() {
            members.iter().collect()
        } else {
            fit
        }
    }

    pub fn ended(&mut self, members: &[Member], endpoint: u32, now: Time, seen: Seen) {
        let known = self.known.get(endpoint);
        let bad = match (self.kind, seen) {
            (Kind::Never, _) | (_, Seen::GivenUp) => return,
            (Kind::Nginx, Seen::ServerError) | (_, Seen::Answered) => false,
            (_, Seen::ServerError | Seen::Failed) => true,
        };
        if !bad {
            known.in_a_row = 0;
            known.good += 1;
            if self.kind == Kind::Finagle {
                known.times = 0;
            }
        } else {
            known.in_a_row += 1;
            known.bad += 1;
            let most = if self.kind == Kind::Nginx { 1 } else { 5 };
            if known.in_a_row >= most && known.until <= now {
                self.eject(members, endpoint, now);
            }
        }
        if self.kind == Kind::Envoy && now >= self.looked_at + 10 * SECOND {
            self.looked_at = now;
            self.compare(members, now);
        }
    }

    fn eject(&mut self, members: &[Member], endpoint: u32, now: Time) {
        let out = members
            .iter()
            .filter(|member| self.known.get(member.endpoint).until > now)
            .count();
        if self.kind == Kind::Envoy && out > 0 && (out + 1) * 10 > members.len() {
            return;
        }
        let kind = self.kind;
        let known = self.known.get(endpoint);
        known.times += 1;
        known.in_a_row = 0;
        let times = u64::from(known.times);
        known.until = now
            + match kind {
                Kind::Never => 0,
                Kind::Nginx => 10 * SECOND,
                Kind::Envoy => (30 * SECOND * times).min(300 * SECOND),
                Kind::Finagle => ((5 * SECOND) << times.min(7).saturating_sub(1)).min(300 * SECOND),
            };
    }

    /// Envoy's success rates, and the forgiving of those that did well.
    fn compare(&mut self, members: &[Member], now: Time) {
        let mut rates = Vec::new();
        for member in members {
            let known = self.known.get(member.endpoint);
            let all = known.good + known.bad;
            if all >= 100 {
                rates.push((member.endpoint, f64::from(known.good) / f64::from(all)));
            }
            if known.until <= now && known.bad == 0 {
                known.times = known.times.saturating_sub(1);
            }
            (known.good, known.bad) = (0, 0);
        }
        if rates.len() >= 5 {
            let count = rates.len() as f64;
            let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
            let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
            for (endpoint, rate) in rates {
                if rate < mean - 1.9 * variance.sqrt() && self.known.get(endpoint).until <= now {
                    self.eject(members, endpoint, now);
                }
            }
        }
    }
}
