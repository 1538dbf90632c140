//! A backend's endpoints and policy, and the pick among them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use fastrand::Rng;

use super::cell::MOST_IN_FLIGHT;
use super::choose::{self, Choice, Lane, Sight};
use super::clock::micros;
use super::cost::{self, TRIAL_IDLE_US, TRIAL_ONE_IN};
use super::rotation::Places;
use super::{EndpointCell, Micros, ejection};
use crate::model::{self, Balance, Endpoint, EndpointState};

/// A backend's endpoints and policy as the data plane sees them; immutable, replaced whole.
pub struct Fleet {
    policy: Arc<model::Backend>,
    /// The active ones first.
    candidates: Box<[Candidate]>,
    /// Those candidates that take requests, which are the first ones: the active, or all if none is.
    lanes: Box<[Lane]>,
    /// Lanes by their weights.
    places: Places,
    limit: u32,
    slow_start_us: u64,
    shared: Arc<Shared>,
}

/// One endpoint of a fleet.
#[derive(Debug)]
pub struct Candidate {
    /// What is known of it.
    pub cell: Arc<EndpointCell>,
    /// What the model says of it.
    pub endpoint: Endpoint,
}

/// What a pick comes to.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// This one.
    Endpoint(&'a Candidate),
    /// All that could be taken have `max_in_flight` exchanges.
    Saturated,
    /// No endpoint takes requests.
    None,
}

impl Fleet {
    /// A backend without endpoints.
    pub fn empty(policy: Arc<model::Backend>) -> Self {
        Self::build(policy, &[], None, Micros(0))
    }

    /// The endpoints of a backend; `previous` gives the cells of addresses that it had. A new endpoint's slow
    /// start begins now. Of two endpoints with one address the active one counts, otherwise the first.
    pub fn build(
        policy: Arc<model::Backend>,
        endpoints: &[Endpoint],
        previous: Option<&Self>,
        now: Micros,
    ) -> Self {
        let candidates = candidates(endpoints, previous, now);
        let lanes = lanes(&candidates);
        let weights: Vec<u32> = candidates
            .iter()
            .take(lanes.len())
            .map(|candidate| candidate.endpoint.weight)
            .collect();
        Self {
            limit: policy.limits.max_in_flight.min(MOST_IN_FLIGHT),
            slow_start_us: micros(policy.slow_start),
            shared: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.shared)),
            policy,
            candidates,
            lanes,
            places: Places::new(&weights),
        }
    }

    /// The backend's policy.
    pub fn policy(&self) -> &Arc<model::Backend> {
        &self.policy
    }

    /// All endpoints, the active ones first; each address once.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Chooses an endpoint for an exchange that has tried these cells before. One that was tried is given
    /// again only when there is no other to be had.
    ///
    /// `max_in_flight` is looked at here and counted by [`EndpointCell::start`]: workers that pick at the
    /// same moment may together exceed it by one each.
    pub fn pick(&self, now: Micros, rng: &mut Rng, tried: &[u64]) -> Pick<'_> {
        let mut sight = Sight {
            lanes: &self.lanes,
            now,
            tried,
            limit: self.limit,
            slow_start_us: self.slow_start_us,
        };
        let mut choice = self.choose(&sight, rng);
        if choice == Choice::None && !tried.is_empty() {
            sight.tried = &[];
            choice = self.choose(&sight, rng);
        }
        match choice {
            Choice::Lane(index) => self.candidates.get(index).map_or(Pick::None, Pick::Endpoint),
            Choice::Saturated => Pick::Saturated,
            Choice::None => Pick::None,
        }
    }

    /// To be called after a failure was observed: sets the endpoint aside if it fails only. Costs next to
    /// nothing when there is nothing to do.
    pub fn judge(&self, cell: &EndpointCell, now: Micros) {
        let Some(policy) = &self.policy.ejection else {
            return;
        };
        if cell.failed_in_a_row() < policy.consecutive_failures.max(1) || cell.is_ejected(now) {
            return;
        }
        // Two workers that judge at once could together eject more than may go. The one that comes second leaves
        // it: the next failure asks again.
        if self.shared.judging.swap(true, Relaxed) {
            return;
        }
        let others = || self.lanes.iter().filter(|lane| lane.cell.id() != cell.id());
        let out = others().filter(|lane| lane.cell.is_ejected(now)).count();
        let left = others().filter(|lane| lane.cell.is_available(now)).count();
        if ejection::may_go(policy, self.lanes.len(), out, left) && !cell.is_ejected(now) {
            let (until, strikes) = ejection::sentence(policy, cell.strikes(), cell.ejected_until(), now);
            cell.eject(until, strikes);
        }
        self.shared.judging.store(false, Relaxed);
    }

    fn choose(&self, sight: &Sight<'_>, rng: &mut Rng) -> Choice {
        let now = sight.now;
        let panic = || self.is_panic(now);
        if self.lanes.is_empty() {
            return Choice::None;
        }
        match self.policy.balance {
            Balance::LeastLatency => {
                if rng.u8(..TRIAL_ONE_IN) == 0
                    && let Some(index) = self.trial(sight, rng)
                {
                    return Choice::Lane(index);
                }
                self.least(sight, rng, LATENCY_DRAWS, |lane, chance| {
                    cost::least_latency(&lane.cell, sight.weight(lane), now, chance)
                })
            }
            Balance::LeastRequest => self.least(sight, rng, REQUEST_DRAWS, |lane, chance| {
                cost::least_request(&lane.cell, sight.weight(lane), chance)
            }),
            Balance::Random => {
                let place = rng.u64(..);
                choose::take(sight, &self.places, rng, place, panic)
            }
            Balance::RoundRobin => {
                let place = self.shared.cursor.fetch_add(1, Relaxed);
                choose::take(sight, &self.places, rng, place, panic)
            }
        }
    }

    fn least(
        &self,
        sight: &Sight<'_>,
        rng: &mut Rng,
        draws: u32,
        cost: impl Fn(&Lane, f32) -> f32,
    ) -> Choice {
        if self.lanes.len() <= SMALL {
            choose::scan(sight, rng, cost)
        } else {
            let panic = || self.is_panic(sight.now);
            choose::sample(sight, &self.places, rng, draws, panic, cost)
        }
    }

    /// The endpoint that is due for a trial, if there is one: the one that was idle longest, of all or of some.
    fn trial(&self, sight: &Sight<'_>, rng: &mut Rng) -> Option<usize> {
        let panic = || self.is_panic(sight.now);
        let idle = |index: usize| {
            let lane = self.lanes.get(index)?;
            let may = sight.may_take(lane, panic);
            may.then(|| (lane.cell.idle_us(sight.now), index))
        };
        let (idle_us, index) = if self.lanes.len() <= SMALL {
            (0..self.lanes.len()).filter_map(idle).max()
        } else {
            (0..LATENCY_DRAWS)
                .filter_map(|_| idle(self.places.any(rng)))
                .max()
        }?;
        let lane = self.lanes.get(index)?;
        (idle_us >= TRIAL_IDLE_US && lane.cell.claim_trial(TRIAL_IDLE_US, sight.now)).then_some(index)
    }

    /// Whether so many endpoints are not available that this is ignored. Counts small fleets at once; large ones
    /// at most once in [`COUNT_EVERY_US`], and only when someone asks because an endpoint is not available: a
    /// millisecond for 100,000 endpoints.
    fn is_panic(&self, now: Micros) -> bool {
        let count = || {
            let out = self
                .lanes
                .iter()
                .filter(|lane| !lane.cell.is_available(now))
                .count();
            choose::is_panic(out, self.lanes.len())
        };
        if self.lanes.len() <= SMALL {
            return count();
        }
        let counted = self.shared.counted.load(Relaxed);
        if now.saturating_since(Micros(counted >> 1)) >= COUNT_EVERY_US {
            let claim = (now.0 << 1) | (counted & 1);
            let claimed = self
                .shared
                .counted
                .compare_exchange(counted, claim, Relaxed, Relaxed);
            if claimed.is_ok() {
                let panic = count();
                self.shared
                    .counted
                    .store((now.0 << 1) | u64::from(panic), Relaxed);
                return panic;
            }
        }
        counted & 1 == 1
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Fleet");
        debug
            .field("backend", &self.policy.name)
            .field("candidates", &self.candidates)
            .finish_non_exhaustive()
    }
}

/// Fleets up to this size are read whole by each pick.
const SMALL: usize = 16;
/// Endpoints drawn from a larger fleet by least-latency.
const LATENCY_DRAWS: u32 = 8;
/// Endpoints drawn from a larger fleet by least-request.
const REQUEST_DRAWS: u32 = 2;
/// Least time between two counts of what is not available in a large fleet, in microseconds.
const COUNT_EVERY_US: u64 = 1_000_000;

/// What outlasts a fleet, beside the cells.
struct Shared {
    /// Of round robin.
    cursor: AtomicU64,
    /// Whether someone judges.
    judging: AtomicBool,
    /// When available endpoints were last counted, in microseconds times two, and in the lowest bit whether too many
    /// were not. Large fleets only.
    counted: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            cursor: AtomicU64::new(u64::from(fastrand::u32(..))),
            judging: AtomicBool::new(false),
            counted: AtomicU64::new(0),
        }
    }
}

fn candidates(endpoints: &[Endpoint], previous: Option<&Fleet>, now: Micros) -> Box<[Candidate]> {
    let known: HashMap<SocketAddr, &Arc<EndpointCell>> = previous
        .into_iter()
        .flat_map(|fleet| &fleet.candidates)
        .map(|candidate| (candidate.endpoint.address, &candidate.cell))
        .collect();
    let mut places: HashMap<SocketAddr, usize> = HashMap::with_capacity(endpoints.len());
    let mut chosen: Vec<&Endpoint> = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        match places.entry(endpoint.address) {
            Entry::Vacant(place) => {
                place.insert(chosen.len());
                chosen.push(endpoint);
            }
            Entry::Occupied(place) => {
                if let Some(other) = chosen.get_mut(*place.get())
                    && is_draining(other)
                {
                    *other = endpoint;
                }
            }
        }
    }
    chosen.sort_by_key(|endpoint| is_draining(endpoint));
    chosen
        .into_iter()
        .map(|endpoint| Candidate {
            cell: known.get(&endpoint.address).map_or_else(
                || EndpointCell::new(endpoint.address, now),
                |cell| Arc::clone(cell),
            ),
            endpoint: endpoint.clone(),
        })
        .collect()
}

fn lanes(candidates: &[Candidate]) -> Box<[Lane]> {
    let active = candidates
        .iter()
        .take_while(|candidate| !is_draining(&candidate.endpoint))
        .count();
    let takers = candidates
        .get(..active)
        .filter(|active| !active.is_empty())
        .unwrap_or(candidates);
    let sum: f64 = takers
        .iter()
        .map(|taker| f64::from(taker.endpoint.weight.max(1)))
        .sum();
    let mean = sum / takers.len() as f64;
    takers
        .iter()
        .map(|taker| Lane {
            cell: Arc::clone(&taker.cell),
            weight: (f64::from(taker.endpoint.weight.max(1)) / mean) as f32,
        })
        .collect()
}

fn is_draining(endpoint: &Endpoint) -> bool {
    endpoint.state == EndpointState::Draining
}
