//! Fleets of several parts: by priority, and by whether an endpoint is near.
//!
//! Most fleets have one part, and then nothing here is asked. A part is a fleet of its own, with the policy of the whole;
//! first the part is chosen, then the part's policy chooses among its endpoints. What cookies name, ejections and their
//! share go by the whole.
//!
//! **Priority** (Envoy's priority levels): the health of a level is `min(1, 1.4 * available / all)`; 1.4 is Envoy's
//! overprovisioning factor: a level that has lost less than about 28 % of its endpoints still takes all requests.
//! Level 0 takes its health of all requests, level 1 its health of what is left, and so on. Only if the healths of all levels
//! together do not reach 1 can a level panic: when fewer of its endpoints are available than `panic` says, it ignores
//! availability, and levels share by their healths.
//!
//! **Near** is what is in the process's own zone (`locality: zone`), or what the EndpointSlices hint at for that zone
//! (`locality: hints`; as kube-proxy has it, only if every endpoint has hints and one is for the zone). Near endpoints go first;
//! requests spill over to the others
//! - by capacity: near ones take `min(1, 1.4 * available / all)` of the requests of their level, and all endpoints that are at
//!   their bound of exchanges in flight are passed over;
//! - by latency, under least-latency: when the near endpoint that was chosen would cost [`SPILL`] times what the others
//!   cost on the mean. One in 128 requests goes to the others anyway, so that there is something to compare with.
//!
//! Envoy compares shares of zones instead, for which all proxies must know of each other. A proxy that knows only itself sees
//! too much load nearby as latency, whoever causes it.
//!
//! **Subset** (gRPC's A68): of each part the `subset` endpoints count whose hash with the process's identity is the
//! lowest. Rendezvous hashing: a process keeps its endpoints when others come and go, and all processes together spread
//! evenly. The identity is the host's name, so a restart changes nothing.
//!
//! Availability is counted with every pick in parts of up to [`SMALL`], in larger ones at most every [`NOTE_EVERY_US`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use fastrand::Rng;

use super::cost::{self, TRIAL_ONE_IN};
use super::fleet::Fleet;
use super::hash::{hash_of, hash_of_endpoint, mix};
use super::members::Candidate;
use super::tie::{How, Picked};
use super::{Micros, Pick};
use crate::model::{self, Balance, Endpoint, Locality};

/// Where a process stands among the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vantage {
    /// Its zone, if known.
    pub zone: Option<Arc<str>>,
    /// What tells it from other processes, hashed.
    pub identity: u64,
}

impl Vantage {
    /// In this zone, with this name among other processes.
    pub fn new(zone: Option<&str>, identity: &str) -> Self {
        Self {
            zone: zone.map(Arc::from),
            identity: hash_of(identity.as_bytes()),
        }
    }
}

/// Some endpoints of a fleet, with the same priority and nearness.
pub(super) struct Part {
    pub class: Class,
    pub fleet: Fleet,
    noted: Noted,
}

/// What the endpoints of a part have in common; in the order in which parts are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    /// 0 is asked first.
    pub priority: u8,
    /// Whether others are nearer.
    pub far: bool,
}

/// How a part stands, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct PartView {
    /// 0 is asked first.
    pub priority: u8,
    /// Whether it is near, where that makes a difference.
    pub near: bool,
    /// Its share of requests that are tied to nothing, 0 to 1; what spills over by latency or load is not in it.
    pub share: f32,
    /// Whether its availability is ignored.
    pub panic: bool,
    /// The ids of its endpoints' cells.
    pub members: Vec<u64>,
}

impl Part {
    pub fn new(class: Class, fleet: Fleet) -> Self {
        Self {
            class,
            fleet,
            noted: Noted::default(),
        }
    }
}

impl Fleet {
    /// As [`Fleet::pick`], where there are parts.
    pub(super) fn pick_parts(
        &self,
        now: Micros,
        rng: &mut Rng,
        tried: &[u64],
        key: Option<u64>,
    ) -> Picked<'_> {
        let levels = self.levels(now);
        // All requests of a key go to the same part, as long as the parts stand as they are.
        let roll = key.map_or_else(
            || rng.f32(),
            |key| (mix(!key) >> 40) as f32 / (1_u64 << 24) as f32,
        );
        let (first, trial) = self.first_part(now, rng, &levels, roll);
        let mut saturated = false;
        for tried in [tried, &[]].iter().take(if tried.is_empty() { 1 } else { 2 }) {
            for index in std::iter::once(first).chain((0..self.parts.len()).filter(|other| *other != first)) {
                let Some(part) = self.parts.get(index) else { break };
                let is_panic = levels.of(part.class.priority).panic;
                let panic_percent = if is_panic { ALWAYS } else { 0 };
                let picked = part.fleet.pick_once(now, rng, tried, key, panic_percent);
                match picked.pick {
                    Pick::Endpoint(candidate) => {
                        if let Some(far) = self.nearer_in_time(index, candidate, rng, now, tried) {
                            return Picked {
                                pick: Pick::Endpoint(far),
                                how: How::SpillOver,
                            };
                        }
                        let how = match self.how(part, is_panic) {
                            _ if trial => How::Trial,
                            How::Policy => picked.how,
                            how => how,
                        };
                        return Picked {
                            pick: Pick::Endpoint(candidate),
                            how,
                        };
                    }
                    Pick::Saturated => saturated = true,
                    Pick::None => {}
                }
            }
            if saturated {
                return Pick::Saturated.into();
            }
        }
        Pick::None.into()
    }

    /// How the parts stand; none where there is only one.
    pub fn parts(&self, now: Micros) -> Vec<PartView> {
        let levels = self.levels(now);
        self.parts
            .iter()
            .enumerate()
            .map(|(index, part)| {
                let level = levels.of(part.class.priority);
                let near = self.near_share(index, now);
                PartView {
                    priority: part.class.priority,
                    near: !part.class.far,
                    share: level.load * near,
                    panic: level.panic,
                    members: part.fleet.lanes.iter().map(|lane| lane.cell.id()).collect(),
                }
            })
            .collect()
    }

    /// Whether availability is ignored somewhere.
    pub fn is_panicking(&self, now: Micros) -> bool {
        match self.parts.is_empty() {
            true => !self.lanes.is_empty() && self.is_panic(now, self.policy.panic_percent),
            false => self.levels(now).levels.iter().any(|level| level.panic),
        }
    }

    /// The part that a request goes to first, by index, and whether only to learn how it does.
    fn first_part(&self, now: Micros, rng: &mut Rng, levels: &Levels, roll: f32) -> (usize, bool) {
        let mut rest = roll;
        for (index, part) in self.parts.iter().enumerate() {
            let load = levels.of(part.class.priority).load * self.near_share(index, now);
            if rest < load {
                let learns = !part.class.far
                    && self.policy.balance == Balance::LeastLatency
                    && rng.u8(..TRIAL_ONE_IN) == 0
                    && self.beside(index).is_some();
                return if learns { (index + 1, true) } else { (index, false) };
            }
            rest -= load;
        }
        (0, false)
    }

    /// The share of its level's requests that a part takes by capacity.
    fn near_share(&self, index: usize, now: Micros) -> f32 {
        let Some(part) = self.parts.get(index) else {
            return 0.0;
        };
        let health = |part: &Part| {
            let standing = part.standing(now);
            health(standing.available, standing.all)
        };
        if !part.class.far {
            return match self.beside(index) {
                // Where nobody is well, all are alike.
                Some(far) if far.standing(now).available > 0 => health(part),
                _ => 1.0,
            };
        }
        match index.checked_sub(1).and_then(|before| self.parts.get(before)) {
            Some(near) if near.class.priority == part.class.priority => {
                if part.standing(now).available > 0 {
                    1.0 - health(near)
                } else {
                    0.0
                }
            }
            _ => 1.0,
        }
    }

    /// The far part of the same level, behind the near one.
    fn beside(&self, near: usize) -> Option<&Part> {
        let part = self.parts.get(near)?;
        let far = self.parts.get(near + 1)?;
        (!part.class.far && far.class.far && far.class.priority == part.class.priority).then_some(far)
    }

    /// An endpoint of the far part, if the one chosen nearby would answer so late.
    fn nearer_in_time(
        &self,
        near: usize,
        chosen: &Candidate,
        rng: &mut Rng,
        now: Micros,
        tried: &[u64],
    ) -> Option<&Candidate> {
        if self.policy.balance != Balance::LeastLatency {
            return None;
        }
        let far = self.beside(near)?;
        let mean = far.standing(now).cost_us;
        let expected = cost::least_latency(&chosen.cell, 1.0, now, 0.0);
        let cost = expected.latency * (1.0 + expected.load);
        if mean == 0.0 || cost <= SPILL * mean {
            return None;
        }
        match far.fleet.pick_once(now, rng, tried, None, 0).pick {
            Pick::Endpoint(candidate) => Some(candidate),
            Pick::Saturated | Pick::None => None,
        }
    }

    fn how(&self, part: &Part, is_panic: bool) -> How {
        let first = self.parts.first().map_or(part.class, |first| first.class);
        let near = Class {
            far: false,
            ..part.class
        };
        if is_panic {
            How::Panic
        } else if part.class.priority > first.priority {
            How::Failover
        } else if part.class.far && self.parts.iter().any(|other| other.class == near) {
            How::SpillOver
        } else {
            How::Policy
        }
    }

    fn levels(&self, now: Micros) -> Levels {
        let mut counts = [(0, 0); MOST_LEVELS];
        for part in &self.parts {
            if let Some((available, all)) = counts.get_mut(usize::from(part.class.priority)) {
                let standing = part.standing(now);
                *available += standing.available;
                *all += standing.all;
            }
        }
        Levels::of_counts(&counts, self.policy.panic_percent)
    }
}

/// Priorities there are.
pub(super) const MOST_LEVELS: usize = model::backend::MAX_PRIORITY as usize + 1;
/// Endpoints that a level can lose before it gives up load: the inverse (Envoy's overprovisioning factor).
const OVERPROVISIONING: f32 = 1.4;
/// So many times what far endpoints cost, a near one is left.
const SPILL: f32 = 2.0;
/// Parts up to this size are counted with each pick.
const SMALL: usize = 16;
/// Least time between two counts of a larger part, in microseconds.
const NOTE_EVERY_US: u64 = 10_000;
/// A panic threshold that is always missed.
const ALWAYS: u8 = 101;

/// Who takes how much, by priority.
#[derive(Debug, PartialEq)]
struct Levels {
    levels: [Level; MOST_LEVELS],
}

/// What one priority takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Level {
    /// 0 to 1; 1 over all.
    load: f32,
    panic: bool,
}

impl Levels {
    fn of(&self, priority: u8) -> Level {
        self.levels
            .get(usize::from(priority))
            .copied()
            .unwrap_or_default()
    }

    /// From available and all endpoints of each priority, and the panic threshold in percent.
    fn of_counts(counts: &[(u32, u32); MOST_LEVELS], panic_percent: u8) -> Self {
        let healths = counts.map(|(available, all)| health(available, all));
        let sum: f32 = healths.iter().sum();
        let mut levels = [Level::default(); MOST_LEVELS];
        let all: u32 = counts.iter().map(|(_, all)| all).sum();
        let mut left = 1.0_f32;
        for ((level, health), (available, members)) in levels.iter_mut().zip(healths).zip(counts) {
            if sum >= 1.0 {
                level.load = health.min(left);
                left -= level.load;
            } else {
                level.panic = u64::from(*available) * 100 < u64::from(*members) * u64::from(panic_percent);
                level.load = if sum > 0.0 {
                    health / sum
                } else {
                    *members as f32 / all.max(1) as f32
                };
            }
        }
        Self { levels }
    }
}

fn health(available: u32, all: u32) -> f32 {
    (OVERPROVISIONING * available as f32 / all.max(1) as f32).min(1.0)
}

/// How a part stood when it was last counted.
#[derive(Default)]
struct Noted {
    when: AtomicU64,
    available: AtomicU32,
    /// The bits of an `f32`.
    cost_us: AtomicU32,
}

/// How a part stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    available: u32,
    all: u32,
    /// The mean of what its endpoints would cost, in microseconds; 0 when nothing is known.
    cost_us: f32,
}

impl Part {
    fn standing(&self, now: Micros) -> Standing {
        let lanes = &self.fleet.lanes;
        let all = lanes.len() as u32;
        let when = self.noted.when.load(Relaxed);
        if lanes.len() > SMALL && when != 0 && now.0.saturating_sub(when) < NOTE_EVERY_US {
            return Standing {
                available: self.noted.available.load(Relaxed),
                all,
                cost_us: f32::from_bits(self.noted.cost_us.load(Relaxed)),
            };
        }
        let (mut available, mut known, mut sum) = (0, 0.0_f32, 0.0);
        for lane in lanes.iter().filter(|lane| lane.cell.is_available(now)) {
            available += 1;
            if let Some(mean) = lane.cell.mean_us() {
                known += 1.0;
                sum += lane.cell.raise(mean) * (1.0 + lane.cell.in_flight() as f32 * lane.per_weight);
            }
        }
        let cost_us = if known > 0.0 { sum / known } else { 0.0 };
        if lanes.len() > SMALL {
            self.noted.available.store(available, Relaxed);
            self.noted.cost_us.store(cost_us.to_bits(), Relaxed);
            self.noted.when.store(now.0, Relaxed);
        }
        Standing {
            available,
            all,
            cost_us,
        }
    }
}

/// The classes of endpoints that take requests, and who is in each; those that this process leaves to others are in none.
pub(super) fn classes(
    policy: &model::Backend,
    takers: &[Candidate],
    vantage: &Vantage,
) -> BTreeMap<Class, Vec<usize>> {
    let near = nearness(policy.locality, takers, vantage);
    let mut classes: BTreeMap<Class, Vec<usize>> = BTreeMap::new();
    for ((index, taker), near) in takers.iter().enumerate().zip(near) {
        let class = Class {
            priority: taker.endpoint.priority,
            far: !near,
        };
        classes.entry(class).or_default().push(index);
    }
    if let Some(most) = policy.subset {
        for members in classes.values_mut() {
            let score = |index: &usize| {
                let address = takers.get(*index).map(|taker| taker.endpoint.address);
                address.map(|address| mix(hash_of_endpoint(address) ^ mix(vantage.identity)))
            };
            members.sort_by_key(score);
            members.truncate(most as usize);
            members.sort_unstable();
        }
    }
    classes
}

/// Which are near; all, where there is no difference.
fn nearness(locality: Locality, takers: &[Candidate], vantage: &Vantage) -> Vec<bool> {
    let all = vec![true; takers.len()];
    let Some(own) = &vantage.zone else { return all };
    let hinted = |endpoint: &Endpoint| {
        let hints = endpoint.hints.as_ref();
        hints.map(|zones| zones.iter().any(|zone| zone == own))
    };
    let near: Option<Vec<bool>> = match locality {
        Locality::Off => None,
        Locality::Hints => takers.iter().map(|taker| hinted(&taker.endpoint)).collect(),
        Locality::Zone => Some(
            takers
                .iter()
                .map(|taker| taker.endpoint.zone.as_ref() == Some(own))
                .collect(),
        ),
    };
    near.filter(|near| near.contains(&true)).unwrap_or(all)
}

#[cfg(test)]
mod tests;
