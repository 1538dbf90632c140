//! Hedging: when a second attempt is sent beside one that takes unusually long.
//!
//! Dean and Barroso, "The Tail at Scale" (2013): the same request to another endpoint after the 95th percentile of latency, the first
//! answer wins, the other is given up. What a slow endpoint costs is then not its latency but the delay, at a few percent of
//! requests more. Whether a request may be sent twice (idempotent, its body kept) is for whoever asks to know.
//!
//! ```text
//! delay = 5/4 * 95th percentile of the backend's latency over the last 2 to 4 s       (1 ms at the least)
//! ```
//!
//! The 95th and a quarter more, not the 99th: a slow endpoint among twenty can spoil the 99th within a second, and the hedges that
//! wait for it with it, but hardly the 95th. The quarter keeps ordinary latencies, which do not spread far above it, out of it.
//!
//! What is bounded: hedges are `percent` of requests and `per_second` on top, in a bucket of their own of the kind of
//! [`RetryBudget`], so that they neither use up retries nor, when all endpoints are slow, double the load. **Start-up**: no hedges before
//! 100 answers were seen. **Recovery**: windows are forgotten after 4 s, or when 100 answers are newer.
//!
//! Latencies are counted in buckets of an eighth of an octave: 9 % wide at most. One answer adds to one counter; the percentile is
//! computed by whoever first sees that a window is over.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::clock::micros;
use super::{Micros, RetryBudget};
use crate::model::{self, HedgePolicy};

/// A backend's hedging; shared by all workers.
#[derive(Debug)]
pub struct Hedging {
    budget: RetryBudget,
    least_delay_us: u64,
    /// 0 while too little is known.
    delay_us: AtomicU64,
    /// When the current window began, in microseconds, and in the lowest bit which one it is.
    began: AtomicU64,
    windows: [Window; 2],
}

impl Hedging {
    /// One that knows nothing yet.
    pub fn new(policy: &HedgePolicy) -> Self {
        Self {
            budget: RetryBudget::new(&model::RetryBudget {
                percent: policy.percent,
                per_second: policy.per_second,
            }),
            least_delay_us: micros(policy.least_delay),
            delay_us: AtomicU64::new(0),
            began: AtomicU64::new(0),
            windows: [Window::new(), Window::new()],
        }
    }

    /// A request that might be hedged begins: it pays into the budget.
    pub fn on_request(&self, now: Micros) {
        self.budget.on_request(now);
    }

    /// How long to wait for the response's head before a second attempt; none while too little is known.
    pub fn delay(&self) -> Option<Duration> {
        match self.delay_us.load(Relaxed) {
            0 => None,
            delay => Some(Duration::from_micros(delay)),
        }
    }

    /// The delay has passed without a head: takes a hedge out of the budget, if there is one left.
    pub fn try_hedge(&self, now: Micros) -> bool {
        self.budget.try_retry(now)
    }

    /// A request's first head came, so long after its first attempt began, whichever attempt it was for.
    pub fn on_answer(&self, now: Micros, latency_us: u64) {
        let began = self.began.load(Relaxed);
        let [first, second] = &self.windows;
        let (current, other) = if began & 1 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        current.count(latency_us);
        if now.saturating_since(Micros(began >> 1)) < WINDOW_US {
            return;
        }
        // Whoever gets to say when the next window begins ends this one.
        let next = (now.0 << 1) | (began & 1);
        if self
            .began
            .compare_exchange(began, next, Relaxed, Relaxed)
            .is_err()
        {
            return;
        }
        if let Some(usual) = percentile(current, other) {
            let delay = (usual + usual / 4).max(self.least_delay_us).max(1);
            self.delay_us.store(delay, Relaxed);
            other.clear();
            self.began.store(next ^ 1, Relaxed);
        }
    }
}

/// Length of a window, in microseconds.
const WINDOW_US: u64 = 2_000_000;
/// Fewer answers than this say nothing.
const LEAST_ANSWERS: u64 = 100;
/// Lower end of the first octave, in microseconds, as a power of two; shorter latencies count as that.
const FIRST_OCTAVE: u32 = 6;
const OCTAVES: usize = 20;
const PER_OCTAVE: usize = 8;

/// Counts of latencies from 64 µs to 67 s.
#[derive(Debug)]
struct Window([AtomicU32; OCTAVES * PER_OCTAVE]);

impl Window {
    const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; OCTAVES * PER_OCTAVE])
    }

    fn count(&self, latency_us: u64) {
        if let Some(bucket) = self.0.get(bucket_of(latency_us)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    fn clear(&self) {
        self.0.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }
}

/// Upper end of the bucket of the 95th percentile of both, in microseconds; none if they have too few.
fn percentile(a: &Window, b: &Window) -> Option<u64> {
    let counts = || {
        let both = a.0.iter().zip(&b.0);
        both.map(|(a, b)| u64::from(a.load(Relaxed)) + u64::from(b.load(Relaxed)))
    };
    let all: u64 = counts().sum();
    if all < LEAST_ANSWERS {
        return None;
    }
    let above = all / 20;
    let mut seen = 0;
    let bucket = counts().position(|count| {
        seen += count;
        seen >= all - above
    });
    bucket.map(end_of)
}

fn bucket_of(latency_us: u64) -> usize {
    let latency = latency_us.max(1 << FIRST_OCTAVE);
    let octave = latency.ilog2();
    let part = (latency >> (octave - 3)) as usize % PER_OCTAVE;
    ((octave - FIRST_OCTAVE) as usize * PER_OCTAVE + part).min(OCTAVES * PER_OCTAVE - 1)
}

fn end_of(bucket: usize) -> u64 {
    let octave = 1_u64 << (bucket / PER_OCTAVE + FIRST_OCTAVE as usize);
    octave + octave / PER_OCTAVE as u64 * (bucket % PER_OCTAVE + 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn hedging() -> Hedging {
        Hedging::new(&HedgePolicy::default())
    }

    /// Answers at 1000 a second, the given share of them (in percent) after the second latency.
    fn play(hedging: &Hedging, seconds: std::ops::Range<u64>, usual_us: u64, slow_us: u64, percent: u64) {
        for nth in seconds.start * 1000..seconds.end * 1000 {
            let latency = if nth % 100 < percent { slow_us } else { usual_us };
            hedging.on_answer(Micros(nth * 1000), latency);
        }
    }

    #[test]
    fn buckets_hold_their_latencies() {
        for latency in (0..67_000_000).step_by(997) {
            let bucket = bucket_of(latency);
            assert!(latency < end_of(bucket), "{latency}");
            assert!(end_of(bucket) <= (latency + latency / 8 + 1).max(72), "{latency}");
        }
        assert_eq!(bucket_of(u64::MAX), OCTAVES * PER_OCTAVE - 1);
    }

    #[test]
    fn there_is_no_delay_before_enough_was_seen() {
        let hedging = hedging();
        for nth in 0..99 {
            hedging.on_answer(Micros(nth * SECOND), 10_000);
            assert_eq!(hedging.delay(), None);
        }
        for nth in 99..102 {
            hedging.on_answer(Micros(nth * SECOND), 10_000);
        }
        assert_eq!(hedging.delay(), Some(Duration::from_micros(12_800)));
    }

    #[test]
    fn a_few_slow_answers_do_not_delay_hedges_and_many_do() {
        // Percent of slow answers, delay in ms.
        for (percent, expected) in [(0, 12), (1, 12), (4, 12), (6, 2621)] {
            let hedging = hedging();
            play(&hedging, 1..10, 10_000, 2_000_000, percent);
            let delay = hedging.delay().unwrap().as_millis();
            assert_eq!(delay, expected, "{percent} %");
        }
    }

    #[test]
    fn the_delay_follows_within_seconds() {
        let hedging = hedging();
        play(&hedging, 1..10, 10_000, 10_000, 0);
        play(&hedging, 10..15, 80_000, 80_000, 0);
        assert_eq!(hedging.delay(), Some(Duration::from_micros(102_400)));
        play(&hedging, 15..23, 100, 100, 0);
        assert_eq!(hedging.delay(), Some(Duration::from_millis(1)), "never sooner");
    }

    #[test]
    fn hedges_are_a_share_of_requests() {
        let hedging = hedging();
        for _ in 0..1000 {
            hedging.on_request(Micros(SECOND));
        }
        let allowed = (0..1000).filter(|_| hedging.try_hedge(Micros(SECOND))).count();
        assert_eq!(allowed, 30, "2 % and 1/s for 10 s");
    }
}
