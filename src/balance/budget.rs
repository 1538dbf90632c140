//! The retry budget: retries are a share of requests, so that a backend that is failing is not given the
//! load of several by those who try again.
//!
//! Finagle's `RetryBudget`: a bucket whose tokens live for 10 s. Each request puts `percent` tokens in, a
//! retry takes 100 out, and `per_second * 10 s * 100` tokens are always there:
//!
//! ```text
//! may retry  <=>  reserve + (put in - taken out within the last 10 s) >= 100
//! ```
//!
//! So in any 10 s the retries are at most `percent` per hundred requests of that time, and 10 times
//! `per_second` on top: with 20 % and 10/s, a quiet backend gets up to 100 in a burst, a busy one a fifth
//! of its load. **Start-up**: the reserve. **Recovery**: what was taken is forgotten after 10 s.
//!
//! The window is a ring of eleven slots of a second, the current one included, each a word of its second and
//! its balance; a slot is made new by whoever first writes to it in its new second. Workers that ask at the
//! same moment may together exceed the budget by one each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Micros;
use crate::model;

/// The bound on retries of one backend; shared by all workers.
#[derive(Debug)]
#[repr(align(128))]
pub struct RetryBudget {
    slots: [AtomicU64; SLOTS],
    /// Tokens that a request puts in.
    deposit: i32,
    /// Tokens that are always there.
    reserve: i64,
}

impl RetryBudget {
    /// An unused budget.
    pub fn new(policy: &model::RetryBudget) -> Self {
        Self {
            slots: [const { AtomicU64::new(0) }; SLOTS],
            deposit: i32::try_from(policy.percent).unwrap_or(i32::MAX),
            reserve: i64::from(policy.per_second) * WINDOW_S as i64 * i64::from(RETRY),
        }
    }

    /// A request (not a retry) begins.
    pub fn on_request(&self, now: Micros) {
        self.add(now, self.deposit);
    }

    /// Takes a retry out of the budget, if there is one left.
    pub fn try_retry(&self, now: Micros) -> bool {
        let may = self.balance(now) >= i64::from(RETRY);
        if may {
            self.add(now, -RETRY);
        }
        may
    }

    /// How many retries are left now.
    pub fn left(&self, now: Micros) -> u32 {
        u32::try_from(self.balance(now).max(0) / i64::from(RETRY)).unwrap_or(u32::MAX)
    }

    fn balance(&self, now: Micros) -> i64 {
        let second = second_of(now);
        let live = self.slots.iter().filter_map(|slot| {
            let slot = Slot::of(slot.load(Relaxed));
            (second.wrapping_sub(slot.second) < SLOTS as u32).then_some(i64::from(slot.balance))
        });
        self.reserve + live.sum::<i64>()
    }

    fn add(&self, now: Micros, tokens: i32) {
        let second = second_of(now);
        let Some(slot) = self.slots.get(second as usize % SLOTS) else {
            return;
        };
        let mut word = slot.load(Relaxed);
        loop {
            let found = Slot::of(word);
            let kept = if found.second == second { found.balance } else { 0 };
            let next = Slot {
                second,
                balance: kept.saturating_add(tokens),
            };
            match slot.compare_exchange_weak(word, next.word(), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(changed) => word = changed,
            }
        }
    }
}

/// Seconds that a token lives.
const WINDOW_S: u64 = 10;
const SLOTS: usize = WINDOW_S as usize + 1;
/// Tokens that a retry takes.
const RETRY: i32 = 100;

/// The tokens of one second.
#[derive(Clone, Copy)]
struct Slot {
    second: u32,
    balance: i32,
}

impl Slot {
    fn of(word: u64) -> Self {
        Self {
            second: (word >> 32) as u32,
            balance: word as u32 as i32,
        }
    }

    fn word(self) -> u64 {
        (u64::from(self.second) << 32) | u64::from(self.balance as u32)
    }
}

/// The second; goes round in 136 years.
fn second_of(now: Micros) -> u32 {
    (now.0 / 1_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    fn budget(percent: u32, per_second: u32) -> RetryBudget {
        RetryBudget::new(&model::RetryBudget { percent, per_second })
    }

    fn retries(budget: &RetryBudget, now: Micros) -> usize {
        (0..10_000).take_while(|_| budget.try_retry(now)).count()
    }

    #[test]
    fn a_share_of_requests_and_a_reserve() {
        // Percent, per second, requests, retries.
        for (percent, per_second, requests, expected) in [
            (20, 10, 0, 100),
            (20, 10, 1000, 300),
            (20, 0, 1000, 200),
            (0, 0, 1000, 0),
            (0, 1, 1000, 10),
            (100, 0, 7, 7),
        ] {
            let budget = budget(percent, per_second);
            for _ in 0..requests {
                budget.on_request(at(5));
            }
            assert_eq!(budget.left(at(5)) as usize, expected);
            assert_eq!(
                retries(&budget, at(5)),
                expected,
                "{percent} % and {per_second}/s"
            );
        }
    }

    #[test]
    fn what_was_put_in_and_taken_out_is_forgotten() {
        let budget = budget(20, 10);
        for _ in 0..1000 {
            budget.on_request(at(100));
        }
        assert_eq!(retries(&budget, at(109)), 300);
        assert_eq!(retries(&budget, at(110)), 0, "both are remembered");
        // The deposit is gone, the withdrawals are not: the reserve is overdrawn.
        assert_eq!(retries(&budget, at(112)), 0);
        assert_eq!(retries(&budget, at(120)), 100);
        assert_eq!(retries(&budget, at(1000)), 100);
    }

    #[test]
    fn the_first_seconds_of_the_process_are_like_any_other() {
        let budget = budget(20, 1);
        assert_eq!(retries(&budget, at(0)), 10);
        assert_eq!(retries(&budget, at(10)), 0);
        assert_eq!(retries(&budget, at(11)), 10);
    }
}
