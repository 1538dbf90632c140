//! Prequal (NSDI 2024): probes ahead of time, and the rule of hot and cold.
//!
//! Each request sends 3 probes to endpoints at random. Their answers (requests in flight there over all proxies, and the median latency
//! of recent ones under that load) wait in a pool of 16 for 1 s at the most, used `b_reuse` times, and one is removed per request, by turns the
//! oldest and the worst. Hot is who has more in flight than 0.84 of the recent probes said. The cold one with the least latency is taken; if
//! all are hot, the one with the least in flight; any endpoint, if the pool has fewer than two. For endpoints that fail: Finagle's failure
//! accrual, because the paper leaves it open.

use std::collections::VecDeque;

use fastrand::Rng;

use super::{Health, any, some};
use crate::balancer::{Attempt, Balancer, Member, Probed};
use crate::server::{SECOND, Seen, Time};

const POOL: usize = 16;
const PROBES: usize = 3;
const REMOVED: f64 = 1.0;
const DELTA: f64 = 1.0;
const HOT: f64 = 0.84;
/// Where the formula has no answer, because the pool is as large as the fleet.
const MOST_USES: u32 = 2;

struct Entry {
    probed: Probed,
    at: Time,
    uses: u32,
}

pub struct Prequal {
    members: Vec<Member>,
    pool: Vec<Entry>,
    recent: VecDeque<u32>,
    health: Health,
    oldest_next: bool,
}

impl Prequal {
    pub fn new(health: Health) -> Self {
        Self {
            members: Vec::new(),
            pool: Vec::new(),
            recent: VecDeque::new(),
            health,
            oldest_next: false,
        }
    }

    fn hot_above(&self) -> u32 {
        let mut sorted: Vec<u32> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let place = (sorted.len() as f64 * HOT) as usize;
        sorted
            .get(place.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }

    fn reuse(&self, rng: &mut Rng) -> u32 {
        let free = 1.0 - POOL as f64 / self.members.len() as f64;
        let spare = free * PROBES as f64 - REMOVED;
        if spare <= 0.0 {
            return MOST_USES;
        }
        let uses = ((1.0 + DELTA) / spare).max(1.0);
        uses as u32 + u32::from(rng.f64() < uses.fract())
    }

    fn remove_one(&mut self) {
        if self.pool.len() < 2 {
            return;
        }
        let hot = self.hot_above();
        self.oldest_next = !self.oldest_next;
        let oldest = self.oldest_next;
        let place = |entry: &Entry| {
            let rif = entry.probed.in_flight;
            let badness = if rif > hot {
                f64::from(rif) * 1e12
            } else {
                entry.probed.latency
            };
            if oldest { -(entry.at as f64) } else { badness }
        };
        let worst =
            (0..self.pool.len()).max_by(|a, b| place(&self.pool[*a]).total_cmp(&place(&self.pool[*b])));
        if let Some(worst) = worst {
            self.pool.swap_remove(worst);
        }
    }
}

impl Balancer for Prequal {
    fn members(&mut self, members: &[Member], _now: Time) {
        self.members = members.to_vec();
        self.pool.retain(|entry| {
            members
                .iter()
                .any(|member| member.endpoint == entry.probed.endpoint)
        });
    }

    fn pick(&mut self, now: Time, tried: &[u32], rng: &mut Rng) -> Option<u32> {
        self.pool
            .retain(|entry| entry.uses > 0 && now - entry.at < SECOND);
        let fit = self.health.fit(&self.members, tried, now);
        let known: Vec<usize> = (0..self.pool.len())
            .filter(|index| {
                fit.iter()
                    .any(|member| member.endpoint == self.pool[*index].probed.endpoint)
            })
            .collect();
        if known.len() < 2 {
            return any(&fit, rng).map(|member| member.endpoint);
        }
        let hot = self.hot_above();
        let cost = |index: usize| {
            let probed = self.pool[index].probed;
            if probed.in_flight > hot {
                (1, f64::from(probed.in_flight))
            } else {
                (0, probed.latency)
            }
        };
        let best = known.into_iter().min_by(|a, b| {
            let (a, b) = (cost(*a), cost(*b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        })?;
        let chosen = &mut self.pool[best];
        chosen.uses -= 1;
        chosen.probed.in_flight += 1;
        let endpoint = chosen.probed.endpoint;
        self.remove_one();
        Some(endpoint)
    }

    fn begin(&mut self, _attempt: Attempt) {}

    fn end(&mut self, attempt: Attempt, now: Time, seen: Seen, _load: Option<&str>) {
        self.health.ended(&self.members, attempt.endpoint, now, seen);
    }

    fn probes(&mut self, rng: &mut Rng) -> Vec<u32> {
        let members: Vec<&Member> = self.members.iter().collect();
        some(&members, PROBES, rng)
            .into_iter()
            .map(|member| member.endpoint)
            .collect()
    }

    fn probed(&mut self, probed: Probed, now: Time) {
        self.recent.push_back(probed.in_flight);
        if self.recent.len() > 128 {
            self.recent.pop_front();
        }
        let uses = {
            let mut rng = Rng::with_seed(now ^ u64::from(probed.endpoint));
            self.reuse(&mut rng)
        };
        self.pool.retain(|entry| entry.probed.endpoint != probed.endpoint);
        if self.pool.len() >= POOL {
            let oldest = (0..self.pool.len()).min_by_key(|index| self.pool[*index].at);
            if let Some(oldest) = oldest {
                self.pool.swap_remove(oldest);
            }
        }
        self.pool.push(Entry {
            probed,
            at: now,
            uses,
        });
    }
}
