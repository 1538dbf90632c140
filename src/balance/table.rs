//! Tables of consistent hashing: which endpoint a key belongs to, so that few keys move when endpoints change.
//!
//! **Ring** (Karger et al. 1997; ketama): each endpoint stands at [`POINTS`] pseudo-random places of a circle, fewer by
//! its weight; a key belongs to the first place at or behind its hash. An endpoint that goes gives up its own keys and
//! no others move. Shares of equal endpoints differ by about `1/sqrt(POINTS)`, 8 %.
//!
//! **Maglev** (Eisenbud et al., NSDI 2016, §3.4): each endpoint has a permutation of the table's slots,
//! `(offset + j * skip) mod size`, and they take turns to claim the next free one of theirs; with weights, an endpoint's turn
//! comes when `iteration * weight >= claimed * heaviest` (Envoy's way). A lookup is one division. With 100 slots for each
//! endpoint shares differ by 1 %; when an endpoint goes, about twice as many keys move as have to. The size is a prime that
//! gives 100 slots for each endpoint, in three steps; keys are dealt anew when a fleet grows over a step.
//!
//! Both go by addresses alone, not by order or time, so that all proxies agree.

use super::hash::{hash_of_endpoint, mix};
use super::members::Candidate;

/// Which endpoint a key belongs to.
#[derive(Debug)]
pub(super) struct Table {
    /// On a ring, where each owner stands, in order. Empty: every slot is one number wide.
    marks: Box<[u64]>,
    /// Indexes of endpoints; the table goes round.
    owners: Box<[u32]>,
}

impl Table {
    /// A ring.
    pub fn ring(members: &[Candidate]) -> Self {
        let heaviest = heaviest(members);
        let most = most_points(members.len());
        let mut points: Vec<(u64, u32)> = Vec::new();
        for (index, member) in (0_u32..).zip(members) {
            let seed = hash_of_endpoint(member.endpoint.address);
            let count = (most * u64::from(member.endpoint.weight) / heaviest).max(1);
            points.extend((0..count).map(|nth| (mix(seed ^ mix(nth)), index)));
        }
        // Two at one place have an order that does not depend on that of the endpoints.
        points.sort_by_key(|(mark, index)| {
            let owner = members.get(*index as usize).map(|member| member.endpoint.address);
            (*mark, owner)
        });
        Self {
            marks: points.iter().map(|(mark, _)| *mark).collect(),
            owners: points.into_iter().map(|(_, index)| index).collect(),
        }
    }

    /// Maglev's table.
    pub fn maglev(members: &[Candidate]) -> Self {
        let Some(size) = maglev_size(members.len()) else {
            return Self {
                marks: Box::default(),
                owners: Box::default(),
            };
        };
        let heaviest = heaviest(members);
        // By address, so that the order in which they were given does not matter.
        let mut turns: Vec<Turn> = (0_u32..)
            .zip(members)
            .map(|(index, member)| Turn::new(index, member, size))
            .collect();
        turns.sort_by_key(|turn| {
            members
                .get(turn.index as usize)
                .map(|member| member.endpoint.address)
        });
        let mut owners = vec![FREE; size as usize].into_boxed_slice();
        let mut free = size;
        let mut iteration = 0_u64;
        while free > 0 {
            iteration += 1;
            for turn in &mut turns {
                if free == 0 || iteration * turn.weight < turn.claimed * heaviest {
                    continue;
                }
                turn.claimed += 1;
                // Each permutation has every slot, so a free one is found.
                while let Some(slot) = owners.get_mut(turn.next_slot(size) as usize) {
                    if *slot == FREE {
                        *slot = turn.index;
                        free -= 1;
                        break;
                    }
                }
            }
        }
        Self {
            marks: Box::default(),
            owners,
        }
    }

    /// The endpoints that a key belongs to: its own, then those that it goes to when that one is not to be had. One may
    /// come several times; [`MOST_STEPS`] at the most.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let length = self.owners.len();
        let start = match self.marks.is_empty() {
            true => (key % (length as u64).max(1)) as usize,
            false => self.marks.partition_point(|mark| *mark < key),
        };
        (0..MOST_STEPS.min(length))
            .filter_map(move |step| self.owners.get((start + step) % length))
            .map(|owner| *owner as usize)
    }
}

/// Places of the heaviest endpoint on a ring (ketama's number).
const POINTS: u64 = 160;
/// Places on a ring, as long as each endpoint has one.
const MOST_POINTS: u64 = 1 << 20;
/// Slots of a table for up to so many endpoints; the last one is for all others as well. Primes.
const MAGLEV_SIZES: [(usize, u64); 3] = [(50, 5_003), (655, 65_537), (6_553, 655_373)];
/// Slots or places that are looked at for one key.
const MOST_STEPS: usize = 512;
/// A slot that nobody has claimed.
const FREE: u32 = u32::MAX;

/// An endpoint as it claims slots.
struct Turn {
    index: u32,
    weight: u64,
    /// The next slot of its permutation.
    slot: u64,
    skip: u64,
    claimed: u64,
}

impl Turn {
    fn new(index: u32, member: &Candidate, size: u64) -> Self {
        let seed = hash_of_endpoint(member.endpoint.address);
        Self {
            index,
            weight: u64::from(member.endpoint.weight.max(1)),
            slot: seed % size,
            skip: mix(seed) % (size - 1) + 1,
            claimed: 0,
        }
    }

    fn next_slot(&mut self, size: u64) -> u64 {
        let slot = self.slot;
        self.slot = (self.slot + self.skip) % size;
        slot
    }
}

/// Places of the heaviest endpoint: a number that hardly ever changes with the size of the fleet, because all keys of
/// the places that go would move.
fn most_points(members: usize) -> u64 {
    let each = MOST_POINTS / (members as u64).max(1);
    if each >= POINTS {
        return POINTS;
    }
    1 << each.max(1).ilog2()
}

fn maglev_size(members: usize) -> Option<u64> {
    let step = MAGLEV_SIZES.iter().find(|(most, _)| members <= *most);
    (members > 0).then(|| step.or(MAGLEV_SIZES.last()).map(|(_, size)| *size))?
}

fn heaviest(members: &[Candidate]) -> u64 {
    members
        .iter()
        .map(|member| u64::from(member.endpoint.weight))
        .max()
        .unwrap_or(1)
        .max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Micros;
    use super::super::members::candidates;
    use super::*;
    use crate::model::Endpoint;

    type Build = fn(&[Candidate]) -> Table;

    const KINDS: [(&str, Build); 2] = [("ring", Table::ring), ("maglev", Table::maglev)];

    fn members(ports: impl IntoIterator<Item = u16>) -> Box<[Candidate]> {
        let endpoints: Vec<Endpoint> = ports
            .into_iter()
            .map(|port| Endpoint::at(([10, 0, 0, 1], port).into()))
            .collect();
        candidates(&endpoints, None, Micros(0))
    }

    fn weighted(weights: &[u32]) -> Box<[Candidate]> {
        let mut members = members(1..=weights.len() as u16);
        for (member, weight) in members.iter_mut().zip(weights) {
            member.endpoint.weight = *weight;
        }
        members
    }

    /// The port that each of many keys belongs to.
    fn owners(table: &Table, members: &[Candidate]) -> Vec<u16> {
        (0..20_000_u64)
            .map(|key| {
                members[table.walk(mix(key)).next().unwrap()]
                    .endpoint
                    .address
                    .port()
            })
            .collect()
    }

    #[test]
    fn nobody_owns_a_key_of_an_empty_table() {
        for (name, build) in KINDS {
            assert_eq!(build(&[]).walk(7).count(), 0, "{name}");
        }
    }

    #[test]
    fn keys_are_shared_by_weight() {
        // Weights, and how far a share may be off, on a ring and in Maglev's table.
        for (weights, tolerances) in [
            (&[1; 10][..], [0.25, 0.03]),
            (&[1, 2, 3], [0.25, 0.03]),
            (&[100, 100, 50], [0.25, 0.03]),
            (&[1; 100], [0.35, 0.15]),
        ] {
            let members = weighted(weights);
            let sum: u32 = weights.iter().sum();
            for ((name, build), tolerance) in KINDS.into_iter().zip(tolerances) {
                let table = build(&members);
                let mut counts = vec![0_u32; members.len()];
                for owner in table.owners_by_key() {
                    counts[owner] += 1;
                }
                let all: u32 = counts.iter().sum();
                for (count, weight) in counts.iter().zip(weights) {
                    let share = f64::from(*count) / f64::from(all) * f64::from(sum) / f64::from(*weight);
                    assert!((share - 1.0).abs() < tolerance, "{name} {weights:?}: {share}");
                }
            }
        }
    }

    impl Table {
        /// The owners of keys that are evenly spread.
        fn owners_by_key(&self) -> Vec<usize> {
            (0..200_000_u64)
                .map(|key| self.walk(mix(key)).next().unwrap())
                .collect()
        }
    }

    #[test]
    fn sizes_are_primes_with_slots_for_all() {
        for (most, size) in MAGLEV_SIZES {
            assert!(size >= 100 * most as u64);
            assert!(
                (2..size).take_while(|n| n * n <= size).all(|n| size % n != 0),
                "{size}"
            );
        }
        assert_eq!(maglev_size(0), None);
        assert_eq!(maglev_size(50), Some(5_003));
        assert_eq!(maglev_size(100_000), Some(655_373));
    }

    #[test]
    fn places_are_bounded() {
        for (members, each) in [(1, 160), (6_553, 160), (6_554, 128), (100_000, 8), (1 << 21, 1)] {
            assert_eq!(most_points(members), each, "{members}");
        }
    }

    #[test]
    fn a_walk_reaches_another_endpoint() {
        for (name, build) in KINDS {
            let members = members(1..=3);
            let table = build(&members);
            for key in 0..1000 {
                let mut seen: Vec<usize> = table.walk(mix(key)).collect();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), 3, "{name} {key}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn an_endpoint_that_goes_moves_few_other_keys(count in 3_u16..60, gone in 0_u16..60) {
            let gone = gone % count + 1;
            let (before, after) = (members(1..=count), members((1..=count).filter(|port| *port != gone)));
            for (name, build) in KINDS {
                let (old, new) = (owners(&build(&before), &before), owners(&build(&after), &after));
                let kept = old.iter().zip(&new).filter(|(old, _)| **old != gone);
                let moved = kept.clone().filter(|(old, new)| old != new).count() as f64;
                // None on a ring. In Maglev's table some, but hardly more than had to; a step of its size would move all.
                let may_move = if name == "ring" { 0.0 } else { 0.10 + 2.0 / f64::from(count) };
                let step = name == "maglev" && maglev_size(before.len()) != maglev_size(after.len());
                prop_assert!(step || moved / kept.count() as f64 <= may_move, "{name} {count}: {moved}");
            }
        }

        #[test]
        fn the_order_of_the_endpoints_does_not_matter(mut ports in prop::collection::hash_set(1_u16..500, 1..40)) {
            let one = members(ports.iter().copied());
            let mut sorted: Vec<u16> = ports.drain().collect();
            sorted.sort_unstable();
            let other = members(sorted);
            for (name, build) in KINDS {
                prop_assert_eq!(owners(&build(&one), &one), owners(&build(&other), &other), "{}", name);
            }
        }
    }
}
