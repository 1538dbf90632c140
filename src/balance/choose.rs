//! Ways to choose among endpoints that are comparable by a cost: all of them, or some at random.
//!
//! Small fleets are read whole: that is as good as a choice can be, and costs some nanoseconds per
//! endpoint. In large ones some are drawn at random and the best of them is taken. Two are enough to
//! avoid piles (Mitzenmacher 2001), but not to avoid the sick: with half of the endpoints slow, two
//! draws give a slow one to a quarter of the requests, eight to 0.4 %. And near the limit of what endpoints can do, all are better than
//! eight: with 100 endpoints 90 % busy, p99 is 50 ms by a full scan, 60 by eight, 90 by two (`docs/balancing`).
//!
//! Who may be chosen at all: an endpoint that is available (not ejected, not sick by active checks),
//! below its bound of exchanges in flight, and not tried by this exchange before. If fewer are available than
//! the backend's `panic` says (half of them), availability is ignored (Envoy's panic threshold): that many do not fall ill at
//! once, more likely the check is wrong or the load is too high for the few that are left.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::clock::micros;
use super::rotation::Places;
use super::{EndpointCell, Micros};
use crate::model::SlowStartShape;

/// An endpoint as the choice sees it.
#[derive(Debug)]
pub(super) struct Lane {
    pub cell: Arc<EndpointCell>,
    /// Relative to the mean of the fleet.
    pub weight: f32,
    /// 1 by the weight.
    pub per_weight: f32,
}

/// Who may be chosen now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub lanes: &'a [Lane],
    pub now: Micros,
    /// Cells that this exchange has tried.
    pub tried: &'a [u64],
    /// Whether this exchange has tried none.
    pub is_first: bool,
    /// Bound of exchanges in flight.
    pub limit: u32,
    pub slow_start: SlowStart,
    /// Below this percentage of available endpoints availability is ignored; 0: never.
    pub panic_percent: u8,
}

/// How the weight of an endpoint grows that is new or was set aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    /// 0 when there is none.
    window_us: u64,
    /// 1 by the aggression.
    power: f32,
    /// The part of its weight that it begins with; above 0.
    least: f32,
}

impl SlowStart {
    pub fn new(window: Duration, shape: &SlowStartShape) -> Self {
        Self {
            window_us: micros(window),
            power: 1.0 / shape.aggression.max(1) as f32,
            least: f32::from(shape.minimum_percent.clamp(1, 100)) / 100.0,
        }
    }

    /// The part of its weight that an endpoint has after a time; 1 when its slow start is over.
    pub fn share(&self, ready_us: u64) -> f32 {
        if ready_us >= self.window_us {
            1.0
        } else {
            self.part(ready_us)
        }
    }

    /// The part of its weight that an endpoint has after a time; within the window.
    fn part(&self, ready_us: u64) -> f32 {
        let part = ready_us as f32 / self.window_us as f32;
        let grown = if self.power == 1.0 {
            part
        } else {
            part.powf(self.power)
        };
        grown.max(self.least)
    }
}

/// What a choice comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The lane with this index.
    Lane(usize),
    /// There are some, all of them at their bound.
    Saturated,
    /// There is none (left).
    None,
}

impl Sight<'_> {
    /// Whether an endpoint may be chosen. `panic` is asked when all that is against it is that it is not available.
    pub fn may_take(&self, lane: &Lane, panic: impl Fn() -> bool) -> bool {
        !self.was_tried(lane)
            && lane.cell.in_flight() < self.limit
            && (lane.cell.is_available(self.now) || panic())
    }

    /// 1 by the weight. While a slow start lasts, the weight grows as Envoy has it: it is multiplied by
    /// `max(minimum, (age / window)^(1 / aggression))`.
    pub fn per_weight(&self, lane: &Lane) -> f32 {
        if self.slow_start.window_us == 0 {
            lane.per_weight
        } else {
            lane.per_weight / self.slow_start(lane)
        }
    }

    /// The share of its weight that an endpoint has; 1 when its slow start is over.
    pub fn slow_start(&self, lane: &Lane) -> f32 {
        if self.slow_start.window_us == 0 {
            return 1.0;
        }
        self.slow_start.share(lane.cell.ready_us(self.now))
    }

    fn was_tried(&self, lane: &Lane) -> bool {
        // Nearly always none was: then the cell's other line is not read.
        !self.tried.is_empty() && self.tried.contains(&lane.cell.id())
    }
}

/// What an endpoint is expected to cost an exchange: `latency * (1 + load + typical/2)`, `typical` being the mean load of those
/// that are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// In any unit.
    pub latency: f32,
    /// Exchanges that it has, for its weight.
    pub load: f32,
}

impl Cost {
    /// Of an endpoint that is not to be chosen: above every number, infinity too, in the order of the bits.
    const NONE: Self = Self {
        latency: f32::NAN,
        load: 0.0,
    };
}

/// Reads all: the least cost. A cost gets the lane and a chance ([`draw`]) to be divided by the weight.
pub(super) fn scan(sight: &Sight<'_>, rng: &mut Rng, cost: impl Fn(&Lane, f32) -> Cost) -> Choice {
    if sight.lanes.len() <= FEW {
        scan_by::<FEW>(sight, rng, &cost)
    } else {
        scan_by::<MANY>(sight, rng, &cost)
    }
}

fn scan_by<const BLOCK: usize>(
    sight: &Sight<'_>,
    rng: &mut Rng,
    cost: &impl Fn(&Lane, f32) -> Cost,
) -> Choice {
    let available = |lane: &Lane| lane.cell.is_available(sight.now);
    let (out, choice) = scan_those::<BLOCK>(sight, rng, available, cost);
    if is_panic(out, sight.lanes.len(), sight.panic_percent) {
        scan_those::<BLOCK>(sight, rng, |_| true, cost).1
    } else {
        choice
    }
}

/// How many are not `available`, and the choice among the others.
fn scan_those<const BLOCK: usize>(
    sight: &Sight<'_>,
    rng: &mut Rng,
    available: impl Fn(&Lane) -> bool,
    cost: &impl Fn(&Lane, f32) -> Cost,
) -> (usize, Choice) {
    let mut out = 0;
    let mut best = Best::default();
    let mut costs = [Cost::default(); BLOCK];
    for (block, lanes) in sight.lanes.chunks(BLOCK).enumerate() {
        let mut typical = Typical::default();
        for (place, lane) in costs.iter_mut().zip(lanes) {
            *place = Cost::NONE;
            if !available(lane) {
                out += 1;
            } else if sight.was_tried(lane) {
                // Not again.
            } else if lane.cell.in_flight() >= sight.limit {
                best.saturated = true;
            } else {
                *place = cost(lane, draw(rng));
                typical.add(place.load);
            }
        }
        best.settle(costs.iter().take(lanes.len()), typical, |place| {
            block * BLOCK + place
        });
    }
    (out, best.choice())
}

/// Draws until `choices` of them may be chosen: the least cost. Reads all if the draws find none.
pub(super) fn sample(
    sight: &Sight<'_>,
    places: &Places,
    rng: &mut Rng,
    choices: usize,
    panic: impl Fn() -> bool,
    cost: impl Fn(&Lane, f32) -> Cost,
) -> Choice {
    let mut costs = [Cost::NONE; FEW];
    let mut indexes = [0; FEW];
    let mut typical = Typical::default();
    let mut found = 0;
    for _ in 0..choices + MOST_MISSES {
        let index = places.any(rng);
        let Some(lane) = sight.lanes.get(index) else { break };
        if sight.may_take(lane, &panic)
            && let (Some(place), Some(of)) = (costs.get_mut(found), indexes.get_mut(found))
        {
            // The draw was by weight, so the chance must not be once more.
            *place = cost(lane, draw(rng) * lane.weight);
            *of = index;
            typical.add(place.load);
            found += 1;
            if found == choices {
                break;
            }
        }
    }
    let mut best = Best::default();
    best.settle(costs.iter().take(found), typical, |place| {
        indexes.get(place).copied().unwrap_or_default()
    });
    match best.choice() {
        Choice::None => scan(sight, rng, cost),
        choice => choice,
    }
}

/// Takes the given place; another one by chance, if its endpoint may not be chosen, so that its share falls
/// on all others alike. Reads all if that finds none.
pub(super) fn take(
    sight: &Sight<'_>,
    places: &Places,
    rng: &mut Rng,
    place: u64,
    panic: impl Fn() -> bool,
) -> Choice {
    let mut index = places.at(place);
    for _ in 0..MOST_MISSES {
        let Some(lane) = sight.lanes.get(index) else { break };
        if sight.may_take(lane, &panic) {
            let slow_start = sight.slow_start(lane);
            if slow_start >= 1.0 || rng.f32() < slow_start {
                return Choice::Lane(index);
            }
        }
        index = places.any(rng);
    }
    scan(sight, rng, |lane, chance| Cost {
        latency: chance * sight.per_weight(lane),
        load: 0.0,
    })
}

/// Exponential with mean 1 (within 9 %: the logarithm is that of the float's exponent and a straight line
/// between), from 0 to 22.2. The least of such draws, each divided by a weight, falls on each by its weight.
pub(super) fn draw(rng: &mut Rng) -> f32 {
    const PER_OCTAVE: f32 = 1.0 / (1 << 23) as f32;
    let uniform = (rng.u32(..) | 1) as f32;
    let log2 = uniform.to_bits() as f32 * PER_OCTAVE - 127.0;
    (32.0 - log2) * std::f32::consts::LN_2
}

/// Whether so few are available that it is ignored.
pub(super) fn is_panic(out: usize, lanes: usize, percent: u8) -> bool {
    lanes.saturating_sub(out) * 100 < lanes * usize::from(percent)
}

/// Draws in vain before all are read: with half of the endpoints out, fewer than one pick in 65,000.
const MOST_MISSES: usize = 16;

/// Costs that are compared at a time: so many, or else so many. With more endpoints than that (a large fleet's draws found none) each
/// block has its own typical load.
const FEW: usize = 16;
const MANY: usize = 128;
/// Part of the typical load that every endpoint is reckoned to have besides its own.
const TYPICAL: f32 = 0.5;

/// The mean load of those that are compared; it must be known before costs are, hence two passes. Summed up while costs are
/// read: a sum of its own would be a chain of additions that each wait for the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Typical {
    loads: f32,
    count: f32,
}

impl Typical {
    fn add(&mut self, load: f32) {
        self.loads += load;
        self.count += 1.0;
    }

    /// What is added to the load of each.
    fn base(self) -> f32 {
        1.0 + TYPICAL * self.loads / self.count.max(1.0)
    }
}

/// The least cost so far.
#[derive(Clone, Copy, Debug)]
struct Best {
    /// The cost in the high half, and whose it is. The bits of floats that are not negative have the order of the floats, so
    /// that one comparison without a branch decides: which of 16 is the least, no processor foretells.
    least: u64,
    /// Whether one was at its bound.
    saturated: bool,
}

impl Best {
    fn settle<'a>(
        &mut self,
        costs: impl Iterator<Item = &'a Cost>,
        typical: Typical,
        index_of: impl Fn(usize) -> usize,
    ) {
        let base = typical.base();
        for (place, cost) in costs.enumerate() {
            let cost = cost.latency * (base + cost.load);
            let index = index_of(place) as u64 & u64::from(u32::MAX);
            self.least = self.least.min((u64::from(cost.to_bits()) << 32) | index);
        }
    }

    fn choice(self) -> Choice {
        // What is not a number is above infinity, or, by its sign, above all.
        if self.least >> 32 <= u64::from(f32::INFINITY.to_bits()) {
            Choice::Lane((self.least & u64::from(u32::MAX)) as usize)
        } else if self.saturated {
            Choice::Saturated
        } else {
            Choice::None
        }
    }
}

impl Default for Best {
    fn default() -> Self {
        Self {
            least: u64::MAX,
            saturated: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_divided_by_weights_fall_by_weight() {
        let mut rng = Rng::with_seed(11);
        let draws: Vec<f32> = (0..100_000).map(|_| draw(&mut rng)).collect();
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        assert!((mean - 1.0).abs() < 0.1, "{mean}");
        assert!(draws.iter().all(|draw| (0.0..22.3).contains(draw)));

        let heavy = (0..100_000)
            .filter(|_| draw(&mut rng) / 3.0 < draw(&mut rng))
            .count();
        assert!((73_000..77_000).contains(&heavy), "{heavy}");
    }

    #[test]
    fn the_best_is_the_least_cost() {
        // Latency and load of each.
        for (costs, expected) in [
            (&[][..], Choice::None),
            (&[(5.0, 0.0)], Choice::Lane(0)),
            (&[(5.0, 0.0), (0.25, 0.0), (3e9, 0.0)], Choice::Lane(1)),
            (&[(f32::INFINITY, 0.0), (1e-6, 0.0), (0.0, 0.0)], Choice::Lane(2)),
            (&[(f32::INFINITY, 0.0)], Choice::Lane(0)),
            (&[(5.0, 1.0), (5.0, 2.0)], Choice::Lane(0)),
            (&[(5.0, 1.0), (8.0, 0.0)], Choice::Lane(1)), // 5 * 2.25 and 8 * 1.25
            (&[(5.0, 9.0), (5.0, 9.0), (40.0, 0.0)], Choice::Lane(0)), // 5 * 13 and 40 * 4
        ] {
            assert_eq!(least(&[costs]), expected, "{costs:?}");
        }
    }

    #[test]
    fn blocks_are_compared() {
        let block = [(2.0, 1.0), (2.0, 1.0), (2.0, 1.0), (2.0, 1.0)];
        let better = [(2.0, 1.0), (2.0, 1.0), (1.0, 1.0), (2.0, 1.0)];
        assert_eq!(least(&[&block, &better, &block[..3]]), Choice::Lane(6));
        assert_eq!(least(&[&block, &block[..3]]), Choice::Lane(0));
        assert_eq!(least(&[&block[..2], &[(0.5, 1.0)]]), Choice::Lane(4));
    }

    #[test]
    fn none_is_above_all() {
        let mut best = Best::default();
        let none = [Cost::NONE; 3];
        best.settle(none.iter(), Typical::default(), |place| place);
        assert_eq!(best.choice(), Choice::None);
        best.saturated = true;
        assert_eq!(best.choice(), Choice::Saturated);
        let infinite = Cost {
            latency: f32::INFINITY,
            load: 0.0,
        };
        best.settle([infinite].iter(), Typical::default(), |_| 7);
        assert_eq!(best.choice(), Choice::Lane(7));
    }

    /// The choice among blocks of four: latency and load of each.
    fn least(blocks: &[&[(f32, f32)]]) -> Choice {
        let mut best = Best::default();
        for (block, costs) in blocks.iter().enumerate() {
            let costs: Vec<Cost> = costs
                .iter()
                .map(|(latency, load)| Cost {
                    latency: *latency,
                    load: *load,
                })
                .collect();
            let mut typical = Typical::default();
            costs.iter().for_each(|cost| typical.add(cost.load));
            best.settle(costs.iter(), typical, |place| block * 4 + place);
        }
        best.choice()
    }

    #[test]
    fn a_slow_start_grows_as_it_is_shaped() {
        // Aggression, minimum, part of the window, part of the weight.
        for (aggression, minimum_percent, age, expected) in [
            (1, 10, 0.0, 0.1),
            (1, 10, 0.05, 0.1),
            (1, 10, 0.5, 0.5),
            (2, 10, 0.25, 0.5),
            (2, 10, 0.0001, 0.1),
            (3, 1, 0.125, 0.5),
            (1, 0, 0.0, 0.01),
            (1, 100, 0.3, 1.0),
        ] {
            let shape = SlowStartShape {
                aggression,
                minimum_percent,
            };
            let slow_start = SlowStart::new(Duration::from_secs(10), &shape);
            let part = slow_start.part((age * 1e7) as u64);
            assert!((part - expected).abs() < 1e-4, "{shape:?} {age}: {part}");
        }
    }

    #[test]
    fn panic_begins_below_its_percentage() {
        // Not available, endpoints, percent, whether it is ignored.
        for (out, lanes, percent, panic) in [
            (1, 2, 50, false),
            (2, 3, 50, true),
            (3, 3, 0, false),
            (1, 3, 100, true),
            (0, 3, 100, false),
            (8, 10, 25, true),
            (7, 10, 25, false),
        ] {
            assert_eq!(
                is_panic(out, lanes, percent),
                panic,
                "{out} of {lanes}, {percent} %"
            );
        }
    }
}
