//! A pace for work that comes in bursts: what comes after a quiet moment is done at once, what follows closely is gathered.
//!
//! A pause of a fixed length is too long where a round is cheap, since each change waits for it, and too short where a round takes a
//! multiple of it. So a round is followed by a pause as long as itself: at most half of a core goes to such work, however
//! fast changes come, and a change waits for the round before it, that pause and its own round at the most. The pause is bounded,
//! so that one round that was slow because the machine stood still does not hold back the next one as well.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest pause.
const LONGEST: Duration = Duration::from_millis(10);

/// When the next round may begin.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    ready: Instant,
}

impl Pace {
    /// Ready at once.
    pub fn new() -> Self {
        Self {
            ready: Instant::now(),
        }
    }

    /// Waits until the next round may begin.
    pub async fn ready(&self) {
        // A timer waits for the next millisecond even where nothing is to be waited for.
        if self.ready > Instant::now() {
            sleep_until(self.ready).await;
        }
    }

    /// A round that began then ends now.
    pub fn ended(&mut self, began: Instant) {
        let now = Instant::now();
        self.ready = now + pause(now - began);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

fn pause(took: Duration) -> Duration {
    took.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_as_long_as_the_round_before_it() {
        for (took, waits) in [(0, 0), (1, 1), (7, 7), (10, 10), (500, 10)] {
            let mut pace = Pace::new();
            let began = Instant::now();
            pace.ready().await;
            assert_eq!(began.elapsed(), Duration::ZERO, "the first is done at once");
            tokio::time::advance(Duration::from_millis(took)).await;
            pace.ended(began);
            let ended = Instant::now();
            pace.ready().await;
            assert_eq!(ended.elapsed(), Duration::from_millis(waits), "after {took} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_quiet_moment_nothing_waits() {
        let mut pace = Pace::new();
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(5)).await;
        pace.ended(began);
        tokio::time::advance(Duration::from_millis(6)).await;
        let changed = Instant::now();
        pace.ready().await;
        assert_eq!(changed.elapsed(), Duration::ZERO);
    }
}
