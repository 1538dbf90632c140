//! Histograms of durations, in microseconds.
//!
//! Why own ones: a histogram that every worker shares costs more than the rest of a request's
//! bookkeeping, so each worker writes its own cells and a reader adds them up; and quantiles for
//! people (dashboard, terminal) need finer buckets than Prometheus should be given.
//!
//! Bounds are the preferred numbers R20 of ISO 3 (1, 1.12, 1.25, 1.4, 1.6, … 9: twenty per
//! decade, rounded so that they are short in decimal) from 50 µs to 63 s. Unlike powers of two they
//! contain 1, 2.5, 5, 10, …, so that the fewer bounds given to Prometheus ([`EXPOSED`]) are exact sums of
//! whole buckets. As in Prometheus, a bucket includes its upper bound.
//!
//! A quantile is the middle of the bucket that holds the value of that rank. The widest bucket is
//! 1.4 to 1.6, so that the error is at most 0.1 / 1.4 < [`MAX_ERROR`] of the value within the bounds; below
//! the first bound it is at most 25 µs, above the last the last is given.

use std::sync::atomic::{AtomicU64, Ordering};

/// Largest error of a quantile between 50 µs and 63 s, as a share of the true value.
pub const MAX_ERROR: f64 = 0.072;

/// Buckets: one up to each bound, and one for what is longer than the last.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Upper bounds given to Prometheus, in microseconds; each is one of [`BOUNDS_US`].
pub const EXPOSED: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
];

/// Upper bounds of the buckets, in microseconds.
pub const BOUNDS_US: [u64; 123] = bounds();

/// The bucket of a duration in microseconds.
pub fn bucket_of(us: u64) -> usize {
    // The place in a table with eight entries per doubling gives the first bucket that may hold the
    // value; a bucket is never narrower than half such an entry, so that few steps remain.
    let mut bucket = usize::from(FIRST_BUCKET[octave_slot(us)]);
    while bucket < BOUNDS_US.len() && us > BOUNDS_US[bucket] {
        bucket += 1;
    }
    bucket
}

/// A histogram that is read and computed with: the sum of cells, or one thread's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            sum_us: 0,
        }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, us: u64) {
        self.counts[bucket_of(us)] += 1;
        self.sum_us = self.sum_us.wrapping_add(us);
    }

    /// Adds another's durations.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.wrapping_add(*more);
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }

    /// What was added since an older reading of the same histogram.
    pub fn since(&self, older: &Self) -> Self {
        let mut counts = self.counts;
        for (count, old) in counts.iter_mut().zip(&older.counts) {
            *count = count.saturating_sub(*old);
        }
        Self {
            counts,
            sum_us: self.sum_us.saturating_sub(older.sum_us),
        }
    }

    /// How many durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// How many were at most as long as one of the bounds (see [`BOUNDS_US`]), in microseconds.
    pub fn at_most(&self, bound_us: u64) -> u64 {
        self.counts
            .iter()
            .zip(BOUNDS_US)
            .take_while(|(_, bound)| *bound <= bound_us)
            .map(|(count, _)| count)
            .sum()
    }

    /// The duration in microseconds that the share `q` (0 to 1) does not exceed, within
    /// [`MAX_ERROR`]. None when nothing was added.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count);
        let mut below = 0;
        for (bucket, in_bucket) in self.counts.iter().enumerate() {
            below += in_bucket;
            if below >= rank {
                return Some(middle(bucket));
            }
        }
        Some(BOUNDS_US[BOUNDS_US.len() - 1])
    }
}

/// A histogram that one worker writes and anyone reads.
#[derive(Debug)]
pub(super) struct HistogramCells {
    counts: [Cell; BUCKETS],
    sum_us: Cell,
}

impl Default for HistogramCells {
    fn default() -> Self {
        Self {
            counts: [const { Cell::ZERO }; BUCKETS],
            sum_us: Cell::ZERO,
        }
    }
}

impl HistogramCells {
    /// Adds one duration; only its worker may call this.
    pub(super) fn record(&self, us: u64) {
        self.counts[bucket_of(us)].add(1);
        self.sum_us.add(us);
    }

    /// Adds what is here to a sum.
    pub(super) fn read_into(&self, sum: &mut Histogram) {
        for (count, cell) in sum.counts.iter_mut().zip(&self.counts) {
            *count = count.wrapping_add(cell.get());
        }
        sum.sum_us = sum.sum_us.wrapping_add(self.sum_us.get());
    }
}

/// A counter with one writer: load and store, no read-modify-write, so that it costs what a plain
/// integer does.
#[derive(Debug)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    #[allow(clippy::declare_interior_mutable_const)] // a template for arrays, never read itself
    pub(super) const ZERO: Self = Self(AtomicU64::new(0));

    pub(super) fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self::ZERO
    }
}

fn middle(bucket: usize) -> u64 {
    let lower = if bucket == 0 { 0 } else { BOUNDS_US[bucket - 1] };
    let upper = BOUNDS_US.get(bucket).copied().unwrap_or(lower);
    lower.midpoint(upper)
}

/// The R20 series, in hundredths.
const R20: [u64; 20] = [
    100, 112, 125, 140, 160, 180, 200, 224, 250, 280, 315, 355, 400, 450, 500, 560, 630, 710, 800, 900,
];

const fn bounds() -> [u64; 123] {
    let mut bounds = [0; 123];
    let mut filled = 0;
    let mut decade = 10; // µs
    while filled < bounds.len() {
        let mut step = 0;
        while step < R20.len() && filled < bounds.len() {
            let bound = R20[step] * decade / 100;
            if bound >= 50 {
                bounds[filled] = bound;
                filled += 1;
            }
            step += 1;
        }
        decade *= 10;
    }
    bounds
}

/// Entries of [`FIRST_BUCKET`]: eight for each of 64 powers of two.
const SLOTS: usize = 64 * 8;

const fn octave_slot(us: u64) -> usize {
    let octave = (us | 1).ilog2();
    let eighth = if octave < 3 { 0 } else { (us >> (octave - 3)) & 7 };
    octave as usize * 8 + eighth as usize
}

/// For each slot the bucket of the slot's smallest value.
const FIRST_BUCKET: [u8; SLOTS] = {
    let mut table = [0; SLOTS];
    let mut slot = 0;
    while slot < SLOTS {
        let octave = slot / 8;
        let smallest = if octave < 3 {
            0
        } else {
            (8 + (slot as u64 % 8)) << (octave - 3)
        };
        let mut bucket = 0;
        while bucket < BOUNDS_US.len() && smallest > BOUNDS_US[bucket] {
            bucket += 1;
        }
        table[slot] = bucket as u8;
        slot += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_rise_and_contain_what_is_exposed() {
        assert!(BOUNDS_US.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((BOUNDS_US[0], BOUNDS_US[122]), (50, 63_000_000));
        for bound in EXPOSED {
            assert!(BOUNDS_US.contains(&bound), "{bound}");
        }
    }

    #[test]
    fn a_bucket_includes_its_upper_bound() {
        for (bucket, bound) in BOUNDS_US.into_iter().enumerate() {
            assert_eq!(bucket_of(bound), bucket, "{bound}");
            assert_eq!(bucket_of(bound + 1), bucket + 1, "{bound} + 1");
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn empty_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    proptest! {
        #[test]
        fn the_table_finds_the_bucket_that_a_search_finds(us in prop_oneof![0..100_000_000u64, any::<u64>()]) {
            prop_assert_eq!(bucket_of(us), BOUNDS_US.partition_point(|bound| *bound < us));
        }

        #[test]
        fn quantiles_are_within_the_stated_error(
            // Evenly spread over the magnitudes, as durations are.
            exponents in prop::collection::vec(50f64.ln()..63e6f64.ln(), 1..400),
            q in 0.0..=1.0f64,
        ) {
            let mut values: Vec<u64> = exponents.iter().map(|exponent| exponent.exp().ceil() as u64).collect();
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(*value);
            }
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let told = histogram.quantile(q).unwrap() as f64;
            prop_assert!((told - exact).abs() <= exact * MAX_ERROR + 1.0, "told {told}, exact {exact}");
        }

        #[test]
        fn at_most_counts_exactly(values in prop::collection::vec(0..80_000_000u64, 0..200)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            for bound in EXPOSED {
                let exact = values.iter().filter(|value| **value <= bound).count() as u64;
                prop_assert_eq!(histogram.at_most(bound), exact);
            }
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum_us(), values.iter().sum::<u64>());
        }
    }
}
