//! How fast an endpoint answers and how often it fails: two numbers that forget.
//!
//! **Latency** is an exponentially weighted mean, `mean += alpha * (sample - mean)`, in one atomic
//! word together with the time of its last sample. The weight of a sample is
//! `alpha = max(1/8, 1 - exp(-dt/1 s))` with `dt` the time since the sample before: under load the
//! mean is that of about the last eight answers, and after a silence one answer nearly replaces what
//! was known. A mean, not a peak: peak-EWMA (Finagle, tau 10 s) remembers the worst answer for tens
//! of seconds after an endpoint has healed, and the worst answer of a healthy but noisy endpoint is no
//! sign of how soon it answers. That a mean notices a stall late is made good by the age of what waits
//! (`cost`).
//!
//! **Failures** do not enter the mean as they are: an endpoint that answers 500 at once would look
//! fast and draw all traffic. A failure counts at least as the mean so far (30 ms if there is none), and
//! goes into a second number, the share of failures: `share += (1 - share)/8` on a failure,
//! `share *= 1 - alpha` on an answer. It raises the latency to reckon with:
//!
//! ```text
//! latency' = latency / (1 - share)^3 + share^4 * 5 s        (1 - share is 0.1 at the least)
//! ```
//!
//! The factor compares endpoints that are alike: 1.5 after one failure, 3.3 after three, 1000 at the most.
//! The summand (5 s is linkerd's penalty) is for those that are not: no latency is low enough, no load of the
//! others high enough, to make one attractive that only fails, at once, and so never has anything in flight.
//! It is next to nothing after one failure (1 ms), because all endpoints fail now and then for what clients
//! send; a fixed penalty for each would throw all traffic on the one that happened to fail last.
//!
//! **Start-up**: without a sample there is no mean ([`Estimate::mean`] is none). **Recovery**: see
//! `alpha`; two answers a second apart bring 2 s back to within 15 % of 170 ms.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Micros;

/// Least weight of a sample.
const LEAST_WEIGHT: f32 = 1.0 / 8.0;
/// Time after which what was known counts 1/e, in microseconds.
const MEMORY_US: f32 = 1_000_000.0;
/// Below this silence the least weight holds: `-ln(1 - LEAST_WEIGHT)` times the memory.
const SHORT_SILENCE_US: u64 = 133_531;
/// Weight of a failure in the share of failures.
const FAILURE_WEIGHT: f32 = 1.0 / 8.0;
/// A share of failures below this is none.
const NEGLIGIBLE_SHARE: f32 = 1.0 / 512.0;
/// A success rate below this makes the factor no higher.
const LEAST_SUCCESS: f32 = 0.1;
/// What is added to the latency of an endpoint that only fails, in microseconds.
const FAILED_US: f32 = 5_000_000.0;
/// Latency to reckon with when there is no sample, in microseconds (linkerd's default).
pub(super) const UNKNOWN_US: f32 = 30_000.0;

/// Latency and failures of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    /// High half: the mean in microseconds as the bits of an `f32`, 0 when there was no sample.
    /// Low half: time of the last sample in milliseconds, going round in 49 days.
    latency: AtomicU64,
    /// The share of failures as the bits of an `f32`.
    failing: AtomicU32,
}

impl Estimate {
    /// The mean latency in microseconds, if anything is known. At least 1.
    pub fn mean(&self) -> Option<f32> {
        mean_of(self.latency.load(Relaxed))
    }

    /// A latency in microseconds, raised for failures.
    pub fn raise(&self, latency_us: f32) -> f32 {
        match self.failing.load(Relaxed) {
            0 => latency_us,
            bits => raised(latency_us, f32::from_bits(bits)),
        }
    }

    /// An answer came after this many microseconds.
    pub fn answered(&self, now: Micros, latency_us: u64) {
        let weight = self.blend(now, |_| latency_us as f32);
        if self.failing.load(Relaxed) != 0 {
            self.blend_failing(|share| share * (1.0 - weight));
        }
    }

    /// It failed after this many microseconds.
    pub fn failed(&self, now: Micros, latency_us: u64) {
        self.blend(now, |mean| mean.unwrap_or(UNKNOWN_US).max(latency_us as f32));
        self.blend_failing(|share| share + (1.0 - share) * FAILURE_WEIGHT);
    }

    /// It failed in a way that says nothing of its latency.
    pub fn broke(&self) {
        self.blend_failing(|share| share + (1.0 - share) * FAILURE_WEIGHT);
    }

    /// Nobody waited for the answer any longer: it would have taken more than this.
    pub fn given_up(&self, now: Micros, latency_us: u64) {
        if self.mean().is_none_or(|mean| mean < latency_us as f32) {
            self.blend(now, |mean| mean.unwrap_or(0.0).max(latency_us as f32));
        }
    }

    /// Takes a sample in; gives the weight it got.
    fn blend(&self, now: Micros, sample: impl Fn(Option<f32>) -> f32) -> f32 {
        let mut word = self.latency.load(Relaxed);
        loop {
            let mean = mean_of(word);
            let weight = weight(silence_us(word, now));
            let next = mean.map_or_else(|| sample(None), |known| known + weight * (sample(mean) - known));
            match self
                .latency
                .compare_exchange_weak(word, word_of(next, now), Relaxed, Relaxed)
            {
                Ok(_) => return weight,
                Err(changed) => word = changed,
            }
        }
    }

    fn blend_failing(&self, next: impl Fn(f32) -> f32) {
        let mut bits = self.failing.load(Relaxed);
        loop {
            let share = next(f32::from_bits(bits));
            let share = if share < NEGLIGIBLE_SHARE { 0.0 } else { share };
            match self
                .failing
                .compare_exchange_weak(bits, share.to_bits(), Relaxed, Relaxed)
            {
                Ok(_) => return,
                Err(changed) => bits = changed,
            }
        }
    }
}

fn raised(latency_us: f32, failing: f32) -> f32 {
    let success = (1.0 - failing).max(LEAST_SUCCESS);
    let squared = failing * failing;
    latency_us / (success * success * success) + squared * squared * FAILED_US
}

/// The weight of a sample after a silence.
fn weight(silence_us: u64) -> f32 {
    if silence_us <= SHORT_SILENCE_US {
        LEAST_WEIGHT
    } else {
        1.0 - (-(silence_us as f32) / MEMORY_US).exp()
    }
}

fn mean_of(word: u64) -> Option<f32> {
    let bits = (word >> 32) as u32;
    (bits != 0).then(|| f32::from_bits(bits))
}

fn word_of(mean: f32, now: Micros) -> u64 {
    (u64::from(mean.max(1.0).to_bits()) << 32) | u64::from(millis(now))
}

/// Time since the last sample; 0 when that is later than `now` (workers read their clocks apart).
fn silence_us(word: u64, now: Micros) -> u64 {
    let since = millis(now).wrapping_sub(word as u32);
    if since > u32::MAX / 2 {
        0
    } else {
        u64::from(since) * 1000
    }
}

fn millis(now: Micros) -> u32 {
    (now.0 / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn the_first_sample_is_the_mean() {
        let estimate = Estimate::default();
        assert_eq!(estimate.mean(), None);
        estimate.answered(Micros(SECOND), 0);
        assert_eq!(estimate.mean(), Some(1.0));
    }

    #[test]
    fn a_sample_weighs_more_after_a_silence() {
        for (silence_us, expected) in [
            (0, 0.125),
            (10_000, 0.125),
            (133_000, 0.125),
            (500_000, 0.393),
            (SECOND, 0.632),
            (10 * SECOND, 1.0),
        ] {
            assert!((weight(silence_us) - expected).abs() < 0.001, "{silence_us}");
        }
    }

    #[test]
    fn eight_slow_answers_are_noticed_and_two_fast_ones_a_second_apart_forgive() {
        let estimate = Estimate::default();
        estimate.answered(Micros(SECOND), 170_000);
        for _ in 0..8 {
            estimate.answered(Micros(SECOND), 2_000_000);
        }
        assert!(estimate.mean().unwrap() > 1_300_000.0);
        estimate.answered(Micros(2 * SECOND), 170_000);
        estimate.answered(Micros(3 * SECOND), 170_000);
        assert!(estimate.mean().unwrap() < 400_000.0);
    }

    #[test]
    fn a_fast_failure_does_not_look_fast() {
        let estimate = Estimate::default();
        estimate.answered(Micros(SECOND), 50_000);
        let raised_ms = || (estimate.raise(50_000.0) / 1000.0).round() as u32;
        let mut raised = Vec::new();
        for _ in 0..5 {
            estimate.failed(Micros(SECOND), 10);
            raised.push(raised_ms());
        }
        assert_eq!(estimate.mean(), Some(50_000.0));
        assert_eq!(raised, [76, 126, 226, 395, 652]);
        for _ in 0..100 {
            estimate.failed(Micros(SECOND), 10);
        }
        assert_eq!(raised_ms(), 55_000);
        for _ in 0..100 {
            estimate.answered(Micros(SECOND), 50_000);
        }
        assert_eq!(estimate.raise(50_000.0), 50_000.0);
    }

    #[test]
    fn an_endpoint_that_never_answered_is_not_fast_because_it_fails_fast() {
        let estimate = Estimate::default();
        estimate.failed(Micros(SECOND), 10);
        assert_eq!(estimate.mean(), Some(UNKNOWN_US));
    }

    #[test]
    fn giving_up_only_ever_makes_slower() {
        let estimate = Estimate::default();
        estimate.answered(Micros(SECOND), 50_000);
        estimate.given_up(Micros(SECOND), 10_000);
        assert_eq!(estimate.mean(), Some(50_000.0));
        estimate.given_up(Micros(SECOND), 130_000);
        assert_eq!(estimate.mean(), Some(60_000.0));
    }

    #[test]
    fn time_goes_round_and_clocks_differ() {
        let word = word_of(5.0, Micros(u64::from(u32::MAX) * 1000));
        assert_eq!(silence_us(word, Micros((u64::from(u32::MAX) + 3) * 1000)), 3000);
        assert_eq!(silence_us(word, Micros((u64::from(u32::MAX) - 3) * 1000)), 0);
    }
}
