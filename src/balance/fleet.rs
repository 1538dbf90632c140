//! A backend's endpoints and policy, and the pick among them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use fastrand::Rng;

use super::choose::{self, Choice, Cost, Lane, Sight, SlowStart};
use super::cost::{self, TRIAL_ONE_IN};
use super::members::{self, Candidate};
use super::parts::{self, Part, Vantage};
use super::rotation::Places;
use super::table::Table;
use super::tie::{How, Picked};
use super::waiting::MOST_IN_FLIGHT;
use super::{EndpointCell, Micros, Reason, ejection, tie};
use crate::model::{self, Balance, Endpoint};

/// A backend's endpoints and policy as the data plane sees them; immutable, replaced whole.
pub struct Fleet {
    pub(super) policy: Arc<model::Backend>,
    /// The active ones first.
    pub(super) candidates: Box<[Candidate]>,
    /// Those candidates that take requests, which are the first ones: the active, or all if none is.
    pub(super) lanes: Box<[Lane]>,
    /// Lanes by their weights.
    places: Places,
    /// Lanes by hashes, where the policy asks for it.
    table: Option<Table>,
    /// Candidates by what cookies call them, where the policy asks for it.
    pub(super) tags: Box<[(u64, u32)]>,
    /// Percent of the mean load at which a tie is not followed.
    pub(super) bound: Option<u32>,
    /// By priority and nearness; empty when all are alike.
    pub(super) parts: Box<[Part]>,
    pub(super) limit: u32,
    slow_start: SlowStart,
    pub(super) shared: Arc<Shared>,
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
        Self::build_at(&Vantage::default(), policy, endpoints, previous, now)
    }

    /// As [`Self::build`], seen from a place: of some endpoints, and near to some.
    pub fn build_at(
        vantage: &Vantage,
        policy: Arc<model::Backend>,
        endpoints: &[Endpoint],
        previous: Option<&Self>,
        now: Micros,
    ) -> Self {
        let known = previous.map(Self::candidates);
        let candidates = members::candidates(endpoints, known, now);
        if policy.check.as_ref().is_some_and(|check| check.before_use) {
            members::hold_back(&candidates, known.unwrap_or_default(), now);
        }
        let takers = candidates.get(..members::takers(&candidates)).unwrap_or_default();
        let classes = parts::classes(&policy, takers, vantage);
        let count: usize = classes.values().map(Vec::len).sum();
        if classes.len() <= 1 && count == takers.len() {
            let shared = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.shared));
            let count = takers.len();
            return Self::whole(policy, candidates, count, shared);
        }
        let copies = |indexes: &[usize]| -> Box<[Candidate]> {
            indexes
                .iter()
                .filter_map(|index| takers.get(*index).cloned())
                .collect()
        };
        let built = classes.iter().map(|(class, indexes)| {
            let before =
                previous.and_then(|previous| previous.parts.iter().find(|part| part.class == *class));
            let shared = before.map_or_else(Arc::default, |part| Arc::clone(&part.fleet.shared));
            let part = Self::whole(Arc::clone(&policy), copies(indexes), indexes.len(), shared);
            Part::new(*class, part)
        });
        let parts = built.collect();
        // Those that take requests first, as without parts.
        let chosen: Vec<usize> = classes.into_values().flatten().collect();
        let mut ordered = copies(&chosen).into_vec();
        let mut is_chosen = vec![false; candidates.len()];
        for index in &chosen {
            if let Some(is_chosen) = is_chosen.get_mut(*index) {
                *is_chosen = true;
            }
        }
        let rest = candidates
            .iter()
            .zip(&is_chosen)
            .filter(|(_, is_chosen)| !**is_chosen);
        ordered.extend(rest.map(|(candidate, _)| candidate.clone()));
        let shared = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.shared));
        Self {
            parts,
            table: None,
            ..Self::whole(policy, ordered.into(), chosen.len(), shared)
        }
    }

    /// Without parts; the first candidates take requests.
    fn whole(
        policy: Arc<model::Backend>,
        candidates: Box<[Candidate]>,
        takers: usize,
        shared: Arc<Shared>,
    ) -> Self {
        let takers = candidates.get(..takers).unwrap_or_default();
        let lanes = members::lanes(takers);
        let weights: Vec<u32> = takers.iter().map(|candidate| candidate.endpoint.weight).collect();
        Self {
            limit: policy.limits.max_in_flight.min(MOST_IN_FLIGHT),
            slow_start: SlowStart::new(policy.slow_start, &policy.slow_start_shape),
            table: tie::table_of(&policy, takers),
            tags: tie::tags_of(&policy, &candidates),
            bound: tie::bound_of(&policy),
            shared,
            policy,
            candidates,
            lanes,
            places: Places::new(&weights),
            parts: Box::default(),
        }
    }

    /// The backend's policy.
    pub fn policy(&self) -> &Arc<model::Backend> {
        &self.policy
    }

    /// The part of its weight that an endpoint's slow start leaves it; 1 when it is over.
    pub fn slow_start_share(&self, cell: &EndpointCell, now: Micros) -> f32 {
        self.slow_start.share(cell.ready_us(now))
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
        self.pick_keyed(now, rng, tried, None).pick
    }

    /// As [`Self::pick`], for a request that may have a key.
    pub(super) fn pick_keyed(
        &self,
        now: Micros,
        rng: &mut Rng,
        tried: &[u64],
        key: Option<u64>,
    ) -> Picked<'_> {
        if !self.parts.is_empty() {
            return self.pick_parts(now, rng, tried, key);
        }
        let percent = self.policy.panic_percent;
        let picked = self.pick_once(now, rng, tried, key, percent);
        match picked.pick {
            Pick::None if !tried.is_empty() => self.pick_again(now, rng, key, percent),
            _ => picked,
        }
    }

    /// Among those that were not tried.
    pub(super) fn pick_once(
        &self,
        now: Micros,
        rng: &mut Rng,
        tried: &[u64],
        key: Option<u64>,
        panic_percent: u8,
    ) -> Picked<'_> {
        self.pick_in(&self.sight(now, tried, tried.is_empty(), panic_percent), rng, key)
    }

    /// Among those that were tried, because there are no others.
    fn pick_again(&self, now: Micros, rng: &mut Rng, key: Option<u64>, panic_percent: u8) -> Picked<'_> {
        self.pick_in(&self.sight(now, &[], false, panic_percent), rng, key)
    }

    fn sight<'a>(&'a self, now: Micros, tried: &'a [u64], is_first: bool, panic_percent: u8) -> Sight<'a> {
        Sight {
            lanes: &self.lanes,
            now,
            tried,
            is_first,
            limit: self.limit,
            slow_start: self.slow_start,
            panic_percent,
        }
    }

    fn pick_in(&self, sight: &Sight<'_>, rng: &mut Rng, key: Option<u64>) -> Picked<'_> {
        let (choice, how) = self.choose(sight, rng, key);
        let candidate = match choice {
            Choice::Lane(index) => self.candidates.get(index),
            Choice::Saturated => return Pick::Saturated.into(),
            Choice::None => None,
        };
        let Some(candidate) = candidate else {
            return Pick::None.into();
        };
        let how = if candidate.cell.is_available(sight.now) {
            how
        } else {
            How::Panic
        };
        let pick = Pick::Endpoint(candidate);
        Picked { pick, how }
    }

    /// To be called after a failure was observed: sets the endpoint aside if it fails only, and says why. Costs next to
    /// nothing when there is nothing to do.
    pub fn judge(&self, cell: &EndpointCell, now: Micros) -> Option<Reason> {
        let policy = self.policy.ejection.as_ref()?;
        let too_many = |count: u32, most: u32| count >= most.max(1);
        let reason = if too_many(cell.failed_in_a_row(), policy.consecutive_failures) {
            Reason::Failures
        } else if policy
            .gateway_failures
            .is_some_and(|most| too_many(cell.gateway_in_a_row(), most))
        {
            Reason::GatewayFailures
        } else {
            self.suspect(cell, now);
            return None;
        };
        self.eject(policy, cell, reason, now).then_some(reason)
    }

    /// Sets an endpoint aside if one more may go. True: it went.
    pub(super) fn eject(
        &self,
        policy: &model::Ejection,
        cell: &EndpointCell,
        reason: Reason,
        now: Micros,
    ) -> bool {
        if cell.is_ejected(now) {
            return false;
        }
        // Two threads that judge at once could together eject more than may go. The one that comes second leaves it:
        // the next failure, or the next interval, asks again.
        if self.shared.judging.swap(true, Acquire) {
            return false;
        }
        let others = || self.lanes.iter().filter(|lane| lane.cell.id() != cell.id());
        let out = others().filter(|lane| lane.cell.is_ejected(now)).count();
        let left = others().filter(|lane| lane.cell.is_available(now)).count();
        let goes = ejection::may_go(policy, self.lanes.len(), out, left) && !cell.is_ejected(now);
        if goes {
            let (until, strikes) = ejection::sentence(policy, cell.strikes(), cell.ejected_until(), now);
            cell.eject(until, strikes, reason);
        }
        self.shared.judging.store(false, Release);
        goes
    }

    fn choose(&self, sight: &Sight<'_>, rng: &mut Rng, key: Option<u64>) -> (Choice, How) {
        let now = sight.now;
        let panic = || self.is_panic(now, sight.panic_percent);
        if self.lanes.is_empty() {
            return (Choice::None, How::Policy);
        }
        if let Some(table) = &self.table
            && let Some(choice) = self.by_key(table, sight, rng, key, panic)
        {
            return (choice, How::Key);
        }
        let choice = match self.policy.balance {
            Balance::LeastLatency => {
                if let Some(index) = self.to_learn(sight, rng) {
                    return (Choice::Lane(index), How::Trial);
                }
                self.least(sight, rng, LATENCY_DRAWS, |lane, chance| {
                    cost::least_latency(&lane.cell, sight.per_weight(lane), now, chance)
                })
            }
            // A hash has decided before, or there is nobody.
            Balance::LeastRequest | Balance::Maglev | Balance::RingHash => {
                self.least(sight, rng, REQUEST_DRAWS, |lane, chance| {
                    cost::least_request(&lane.cell, sight.per_weight(lane), chance)
                })
            }
            Balance::Random => {
                let place = rng.u64(..);
                choose::take(sight, &self.places, rng, place, panic)
            }
            Balance::RoundRobin => {
                // Another try takes any place: the turn is that of the next request.
                let place = if sight.is_first {
                    self.shared.cursor.fetch_add(1, Relaxed)
                } else {
                    rng.u64(..)
                };
                choose::take(sight, &self.places, rng, place, panic)
            }
        };
        (choice, How::Policy)
    }

    fn least(
        &self,
        sight: &Sight<'_>,
        rng: &mut Rng,
        draws: usize,
        cost: impl Fn(&Lane, f32) -> Cost,
    ) -> Choice {
        if self.lanes.len() <= SMALL {
            choose::scan(sight, rng, cost)
        } else {
            let panic = || self.is_panic(sight.now, sight.panic_percent);
            choose::sample(sight, &self.places, rng, draws, panic, cost)
        }
    }

    /// An endpoint to be asked for what there is to learn of it, now and then.
    fn to_learn(&self, sight: &Sight<'_>, rng: &mut Rng) -> Option<usize> {
        let trial = (rng.u8(..TRIAL_ONE_IN) == 0)
            .then(|| self.trial(sight, rng))
            .flatten();
        trial.or_else(|| {
            let asks = self.has_suspects(sight.now) && rng.u8(..SUSPECT_ONE_IN) == 0;
            asks.then(|| self.suspected(sight)).flatten()
        })
    }

    /// An endpoint has failed, too seldom to be judged by it. Under least-latency it would hardly be asked again, because a
    /// failure makes it expensive; so it is, soon, until it is judged or has answered (`cost`).
    fn suspect(&self, cell: &EndpointCell, now: Micros) {
        if self.policy.balance != Balance::LeastLatency {
            return;
        }
        for part in &self.parts {
            part.fleet.suspect(cell, now);
        }
        let is_it = |lane: &Lane| std::ptr::eq(Arc::as_ptr(&lane.cell), cell);
        let lanes = self.lanes.get(..MOST_SUSPECTED).unwrap_or(&self.lanes);
        if let Some(index) = lanes.iter().position(is_it) {
            let second = now.0 / 1_000_000 + 1;
            self.shared
                .suspected
                .store((second << 32) | index as u64, Relaxed);
        }
    }

    fn has_suspects(&self, now: Micros) -> bool {
        let second = self.shared.suspected.load(Relaxed) >> 32;
        second != 0 && now.0 / 1_000_000 < second + SUSPECTED_FOR_S
    }

    /// The suspect that was idle longest; in large fleets the last one.
    fn suspected(&self, sight: &Sight<'_>) -> Option<usize> {
        let judged_after = self.policy.ejection.as_ref()?.consecutive_failures;
        let due = |index: usize| {
            let lane = self.lanes.get(index)?;
            let idle_us = lane.cell.suspect_due(sight.now, judged_after)?;
            sight.may_take(lane, || false).then_some((idle_us, index))
        };
        let (_, index) = if self.lanes.len() <= SMALL {
            (0..self.lanes.len()).filter_map(due).max()
        } else {
            due((self.shared.suspected.load(Relaxed) & u64::from(u32::MAX)) as usize)
        }?;
        self.lanes
            .get(index)?
            .cell
            .claim_suspect(sight.now)
            .then_some(index)
    }

    /// The endpoint that is due for a trial, if there is one: the one that was idle longest, of all or of some.
    fn trial(&self, sight: &Sight<'_>, rng: &mut Rng) -> Option<usize> {
        let panic = || self.is_panic(sight.now, sight.panic_percent);
        let due = |index: usize| {
            let lane = self.lanes.get(index)?;
            let idle_us = lane.cell.trial_due(sight.now)?;
            sight.may_take(lane, panic).then_some((idle_us, index))
        };
        let (_, index) = if self.lanes.len() <= SMALL {
            (0..self.lanes.len()).filter_map(due).max()
        } else {
            (0..LATENCY_DRAWS).filter_map(|_| due(self.places.any(rng))).max()
        }?;
        self.lanes
            .get(index)?
            .cell
            .claim_trial(sight.now)
            .then_some(index)
    }

    /// Whether so many endpoints are not available that this is ignored. Counts small fleets at once; large ones
    /// at most once in [`COUNT_EVERY_US`], and only when someone asks because an endpoint is not available: a
    /// millisecond for 100,000 endpoints.
    pub(super) fn is_panic(&self, now: Micros, percent: u8) -> bool {
        if percent == 0 || percent > 100 {
            return percent > 0;
        }
        let count = || {
            let out = self
                .lanes
                .iter()
                .filter(|lane| !lane.cell.is_available(now))
                .count();
            choose::is_panic(out, self.lanes.len(), percent)
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
const SMALL: usize = 128;
/// Endpoints drawn from a larger fleet by least-latency.
const LATENCY_DRAWS: usize = 8;
/// Endpoints drawn from a larger fleet by least-request.
const REQUEST_DRAWS: usize = 2;
/// Of this many picks one may go to a suspect.
const SUSPECT_ONE_IN: u8 = 8;
/// So long after the last failure there is a suspect, in seconds.
const SUSPECTED_FOR_S: u64 = 60;
/// Suspects are looked for among so many endpoints.
const MOST_SUSPECTED: usize = 4096;
/// Least time between two counts of what is not available in a large fleet, in microseconds.
const COUNT_EVERY_US: u64 = 1_000_000;

/// What outlasts a fleet, beside the cells.
pub(super) struct Shared {
    /// Of round robin.
    cursor: AtomicU64,
    /// Whether someone judges.
    judging: AtomicBool,
    /// When available endpoints were last counted, in microseconds times two, and in the lowest bit whether too many
    /// were not. Large fleets only.
    counted: AtomicU64,
    /// The last lane that failed and was not judged by it, in the low half, and in the high half when, in seconds and one more; 0: none.
    suspected: AtomicU64,
    /// Exchanges in flight at all lanes, in the low half, and in the high half when they were summed up. Large fleets only.
    pub(super) in_flight: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            cursor: AtomicU64::new(u64::from(fastrand::u32(..))),
            judging: AtomicBool::new(false),
            counted: AtomicU64::new(0),
            suspected: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests;
