//! Back-off: how long to wait after the API server failed to answer.
//!
//! Exponential with equal jitter: the n-th pause in a row is drawn between half and the whole of `200 ms · 2ⁿ`, at most
//! 30 s. The half that is sure keeps a broken server from being hammered, the half that is drawn keeps the replicas of a
//! deployment, which all lost it at the same moment, from coming back at the same moment (M. Brooker, "Exponential Backoff
//! And Jitter", 2015). One good answer and it starts anew.

use std::time::Duration;

/// The first pause, at most.
const FIRST: Duration = Duration::from_millis(200);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// What failed in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure; `chance` is from 0 to 1.
    pub fn failed(&mut self, chance: f64) -> Duration {
        let whole = FIRST
            .saturating_mul(1_u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole / 2 + (whole / 2).mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Something went well.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_start_anew() {
        let mut backoff = Backoff::default();
        let lower: Vec<u128> = (0..10).map(|_| backoff.failed(0.0).as_millis()).collect();
        assert_eq!(
            lower,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]
        );
        assert_eq!(backoff.failed(1.0), LONGEST);
        assert_eq!(backoff.failed(7.0), LONGEST, "chance is bounded");
        for _ in 0..100 {
            assert!(backoff.failed(0.5) <= LONGEST);
        }
        backoff.succeeded();
        assert_eq!(backoff.failed(1.0), FIRST);
        assert_eq!(backoff.failed(0.5), Duration::from_millis(300));
    }
}
