//! What waits for its response's head at one endpoint: how many, and how long on average.
//!
//! Both are in one word, so that they always belong together: the low 20 bits count, the high 44 bits sum
//! the start times, both wrapping. `sum of ages = count * now - sum of starts`, exact while it is below
//! 2^43 µs (a hundred days, all waiting exchanges together).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Micros;

/// How many exchanges can be in flight at one endpoint so that [`Waiting`] stays exact: 20 bits, less a
/// margin for workers that start at the same moment.
pub(super) const MOST_IN_FLIGHT: u32 = (1 << COUNT_BITS) - 1 - 1024;

const COUNT_BITS: u32 = 20;
const SUM_BITS: u32 = 64 - COUNT_BITS;

/// What waits for its response's head: count and sum of start times in one word.
#[derive(Debug, Default)]
pub(super) struct Waiting(AtomicU64);

/// What waits at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WaitingNow {
    /// How many.
    pub count: u32,
    /// How long, all together, in microseconds.
    pub ages_us: f32,
}

impl WaitingNow {
    /// How long on average; 0 when there is none.
    pub fn mean_age_us(self) -> f32 {
        self.ages_us / signed(u64::from(self.count.max(1)))
    }
}

impl Waiting {
    /// One that starts now.
    pub fn begin(&self, start: Micros) {
        self.0.fetch_add((start.0 << COUNT_BITS) + 1, Relaxed);
    }

    /// One that started then waits no longer.
    pub fn end(&self, start: Micros) {
        self.0.fetch_sub((start.0 << COUNT_BITS) + 1, Relaxed);
    }

    /// What waits at a moment.
    pub fn get(&self, now: Micros) -> WaitingNow {
        let word = self.0.load(Relaxed);
        let count = word & ((1 << COUNT_BITS) - 1);
        let ages = count.wrapping_mul(now.0).wrapping_sub(word >> COUNT_BITS) & ((1 << SUM_BITS) - 1);
        // A start that is later than `now` (workers read their clocks apart) makes it wrap below 0.
        let ages = if ages >> (SUM_BITS - 1) == 0 { ages } else { 0 };
        WaitingNow {
            count: count as u32,
            ages_us: signed(ages),
        }
    }
}

/// A number below 2^63 as a float: from a signed one that is a single instruction, and a pick does it often.
pub(super) fn signed(number: u64) -> f32 {
    number as i64 as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn ages_of_what_waits() {
        // Starts, now, expected count and mean age.
        let late = 1 << 50;
        for (starts, now, count, age) in [
            (&[][..], 10, 0, 0.0),
            (&[10], 10, 1, 0.0),
            (&[10, 20], 30, 2, 15.0),
            (&[30], 10, 1, 0.0), // another worker's clock
            (&[late, late + 10, late + 20], late + 30, 3, 20.0),
        ] {
            let waiting = Waiting::default();
            for start in starts {
                waiting.begin(Micros(*start));
            }
            let found = waiting.get(Micros(now));
            assert_eq!(
                (found.count, found.mean_age_us()),
                (count, age),
                "{starts:?} at {now}"
            );
            for start in starts {
                waiting.end(Micros(*start));
            }
            assert_eq!(waiting.0.load(Relaxed), 0, "{starts:?}");
        }
    }

    #[test]
    fn many_that_wait_long_are_counted_exactly() {
        let waiting = Waiting::default();
        let start = Micros(3600 * SECOND);
        for _ in 0..MOST_IN_FLIGHT {
            waiting.begin(start);
        }
        let now = waiting.get(Micros(3605 * SECOND));
        assert_eq!(now.count, MOST_IN_FLIGHT);
        assert_eq!(now.mean_age_us(), 5_000_000.0);
    }
}
