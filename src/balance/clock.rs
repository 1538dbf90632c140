//! Time as the balancer counts it: microseconds since the process's own start.
//!
//! Eight bytes fit into an atomic, which an `Instant` does not; and plain numbers make tables of
//! tests and a simulator possible.

use std::time::Duration;

use tokio::time::Instant;

/// Microseconds since the process's own start; monotonic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// Microseconds from `earlier` to this; 0 when `earlier` is later (workers read their clocks apart).
    pub fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later; the end of time at the most.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

/// The process's clock: where [`Micros`] count from.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    epoch: Instant,
}

impl Clock {
    /// Counts from now on.
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
        }
    }

    /// The time.
    pub fn now(&self) -> Micros {
        self.micros_of(Instant::now())
    }

    /// An instant in microseconds; 0 for one before the clock was made.
    pub fn micros_of(&self, instant: Instant) -> Micros {
        Micros(micros(instant.saturating_duration_since(self.epoch)))
    }

    /// The instant; a time beyond what an instant can hold is the clock's beginning.
    pub fn instant_of(&self, time: Micros) -> Instant {
        self.epoch
            .checked_add(Duration::from_micros(time.0))
            .unwrap_or(self.epoch)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// A duration in whole microseconds, at most the largest number.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_do_not_go_below_zero() {
        assert_eq!(Micros(5).saturating_since(Micros(3)), 2);
        assert_eq!(Micros(3).saturating_since(Micros(5)), 0);
        assert_eq!(Micros(3).plus(Duration::from_millis(1)), Micros(1003));
        assert_eq!(Micros(3).plus(Duration::MAX), Micros(u64::MAX));
    }

    #[test]
    fn instants_and_microseconds_are_the_same_times() {
        let clock = Clock::new();
        let time = Micros(1_234_567);
        assert_eq!(clock.micros_of(clock.instant_of(time)), time);
        assert_eq!(clock.micros_of(clock.epoch), Micros(0));
    }
}
