//! Places: an order of endpoints by their weights, fixed when the fleet is built. Round robin goes through it
//! with a cursor that all workers share; a random choice takes any place.
//!
//! An endpoint of weight `w` stands in the order `w` times, evenly spread: its j-th place is at
//! `(j + 1/2) / w` of the way, and all places are sorted. That is the order that smooth weighted round
//! robin (nginx) comes to as well, without a number per endpoint to be changed by each pick. Weights are
//! first divided by their greatest common divisor; if the places would still be more than one per
//! endpoint and [`MOST_EXTRA`], weights are scaled down, to 1 at the least: a share may then be off by
//! one part in about 4000 of the whole.
//!
//! The cursor begins at random and is carried from fleet to fleet, so that many proxies that see the same
//! change do not all begin with the same endpoint.

use fastrand::Rng;

/// Places beside one for each endpoint.
const MOST_EXTRA: u64 = 4096;

/// An order in which each endpoint stands as often as its weight demands.
#[derive(Debug)]
pub(super) struct Places {
    endpoints: usize,
    /// Indexes of endpoints; empty when all have the same weight, so that the order is that of the endpoints.
    order: Box<[u32]>,
}

impl Places {
    /// For endpoints of these weights.
    pub fn new(weights: &[u32]) -> Self {
        let equal = weights.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
        Self {
            endpoints: weights.len(),
            order: if equal { Box::default() } else { order(weights) },
        }
    }

    /// The endpoint at a place; places go round. 0 when there is none.
    pub fn at(&self, place: u64) -> usize {
        let index = |length: usize| (place % (length as u64).max(1)) as usize;
        match self.order.get(index(self.order.len())) {
            Some(endpoint) => *endpoint as usize,
            None => index(self.endpoints),
        }
    }

    /// The endpoint at any place, so that each is as likely as its weight. 0 when there is none.
    pub fn any(&self, rng: &mut Rng) -> usize {
        if self.order.is_empty() {
            return rng.usize(..self.endpoints.max(1));
        }
        let place = rng.usize(..self.order.len());
        self.order.get(place).map_or(0, |endpoint| *endpoint as usize)
    }
}

fn order(weights: &[u32]) -> Box<[u32]> {
    let weights = reduce(weights);
    let mut places: Vec<(f64, u32)> = Vec::with_capacity(weights.iter().map(|weight| *weight as usize).sum());
    for (index, weight) in (0_u32..).zip(weights) {
        let step = 1.0 / f64::from(weight);
        places.extend((0..weight).map(|nth| ((f64::from(nth) + 0.5) * step, index)));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.into_iter().map(|(_, index)| index).collect()
}

fn reduce(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let bound = weights.len() as u64 + MOST_EXTRA;
    if sum <= bound {
        return weights.iter().map(|weight| (weight / divisor).max(1)).collect();
    }
    let scale = |weight: &u32| u64::from(weight / divisor) * MOST_EXTRA / sum;
    weights
        .iter()
        .map(|weight| u32::try_from(scale(weight)).unwrap_or(u32::MAX).max(1))
        .collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread() {
        for (weights, expected) in [
            (&[][..], &[][..]),
            (&[7], &[0]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[100, 100], &[0, 1]),
            (&[2, 1], &[0, 1, 0]),
            (&[5, 1, 1], &[0, 0, 0, 1, 2, 0, 0]),
            (&[30, 10], &[0, 0, 1, 0]),
        ] {
            assert_eq!(*order(weights), *expected, "{weights:?}");
        }
    }

    #[test]
    fn places_are_bounded_and_nobody_is_left_out() {
        let mut weights = vec![u32::MAX; 3];
        weights.push(1);
        weights.push(u32::MAX - 1);
        let order = order(&weights);
        assert!(order.len() as u64 <= weights.len() as u64 + MOST_EXTRA);
        for index in 0..5 {
            let places = order.iter().filter(|place| **place == index).count();
            let expected = if index == 3 { 1..=1 } else { 1023..=1024 };
            assert!(expected.contains(&places), "{index}: {places}");
        }
    }
}
