//! How fast an endpoint answers and how often it fails: two numbers that forget.
//!
//! **Latency** is the mean of about the last 64 answers, forgotten with a time constant of 8 s. A sample's weight is `1/n`, with `n` what the
//! mean is worth in samples: `n = min(n * exp(-dt/8 s) + 1, 64)`, so that few samples count as much as they must and many as little as
//! they should. A mean, not a peak: peak-EWMA (Finagle, tau 10 s) remembers the worst answer for tens of seconds after an
//! endpoint has healed, and the worst answer of a healthy but noisy endpoint is no sign of how soon it answers. And a long one: what
//! differs between equal endpoints is noise, and to follow it is worse than to count what is in flight (`docs/balancing`: "busy").
//!
//! What makes a long mean quick, where it has to be:
//!
//! - *A surprise*: of two answers in a row that took four times the mean, for each exchange that was in flight there, the
//!   second makes what was known worth 7 samples, so that it and those that follow are learned eight times as fast. One alone is chance.
//! - *A trial* (`cell`): its answer replaces what was known, because nothing else is known of how the endpoint is now. One good
//!   answer brings a healed endpoint back.
//! - That a mean notices a stall late is made good by the age of what waits (`cost`).
//!
//! **Failures** do not enter the mean as they are: an endpoint that answers 500 at once would look
//! fast and draw all traffic. A failure counts at least as the mean so far (30 ms if there is none), and
//! goes into a second number, the share of failures: `share += (1 - share)/8` on a failure,
//! `share *= 1 - max(1/8, 1/n)` on an answer. It raises the latency to reckon with:
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
//! **Start-up**: without a sample there is no mean ([`Estimate::mean`] is none). **Recovery**: a trial's answer, or some 64 answers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::Micros;

/// So many answers are remembered at the most.
const MOST_SAMPLES: f32 = 64.0;
/// Time after which what was known counts 1/e, in microseconds.
const MEMORY_US: f32 = 8_000_000.0;
/// An answer that took so many times the mean, for each exchange that was in flight, is a surprise.
const SURPRISE: f32 = 4.0;
/// What the mean is worth in samples after a second surprise in a row, that one included.
const SURPRISED_SAMPLES: f32 = 8.0;
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
    /// [`Known`].
    latency: AtomicU64,
    /// The share of failures as the bits of an `f32`.
    failing: AtomicU32,
}

/// A latency that was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When it ended.
    pub now: Micros,
    /// Microseconds.
    pub latency_us: u64,
    /// What was in flight there when the exchange began, without it.
    pub load: u32,
    /// Whether it is a trial's: what was known is replaced.
    pub is_trial: bool,
}

impl Estimate {
    /// The mean latency in microseconds, if anything is known. At least 1.
    pub fn mean(&self) -> Option<f32> {
        Known::of(self.latency.load(Relaxed)).mean()
    }

    /// Microseconds since the last sample.
    pub fn age_us(&self, now: Micros) -> f32 {
        Known::of(self.latency.load(Relaxed)).age_us(now)
    }

    /// A latency in microseconds, raised for failures.
    pub fn raise(&self, latency_us: f32) -> f32 {
        match self.failing.load(Relaxed) {
            0 => latency_us,
            bits => raised(latency_us, f32::from_bits(bits)),
        }
    }

    /// The share of failures, 0 to 1.
    pub fn failing(&self) -> f32 {
        f32::from_bits(self.failing.load(Relaxed))
    }

    /// An answer came.
    pub fn answered(&self, sample: Sample) {
        let weight = self.blend(sample, |_| sample.latency_us as f32);
        if self.failing.load(Relaxed) != 0 {
            self.blend_failing(|share| share * (1.0 - weight.max(FAILURE_WEIGHT)));
        }
    }

    /// It failed.
    pub fn failed(&self, sample: Sample) {
        let sample = Sample {
            is_trial: false,
            ..sample
        };
        self.blend(sample, |mean| {
            mean.unwrap_or(UNKNOWN_US).max(sample.latency_us as f32)
        });
        self.broke();
    }

    /// It failed in a way that says nothing of its latency.
    pub fn broke(&self) {
        self.blend_failing(|share| share + (1.0 - share) * FAILURE_WEIGHT);
    }

    /// Nobody waited for the answer any longer. If that was longer than usual, it is expected to take as long again.
    pub fn given_up(&self, sample: Sample) {
        let waited = sample.latency_us as f32;
        if self.mean().is_none_or(|mean| mean < waited) {
            self.blend(sample, |_| 2.0 * waited);
        }
    }

    /// Takes a sample in; gives the weight it got.
    fn blend(&self, sample: Sample, latency_us: impl Fn(Option<f32>) -> f32) -> f32 {
        let mut bits = self.latency.load(Relaxed);
        loop {
            let known = Known::of(bits);
            let next = known.with(sample, latency_us(known.mean()));
            match self
                .latency
                .compare_exchange_weak(bits, next.bits(), Relaxed, Relaxed)
            {
                Ok(_) => return 1.0 / next.samples,
                Err(changed) => bits = changed,
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

/// What is known of the latency, as it stands in one word; from the top: 32 bits of an `f32`, 24 of the time in milliseconds (going
/// round in 4.6 hours), 7 of the samples times 2, less 1, and one for the surprise.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    /// In microseconds; 0 when there was no sample.
    mean_us: f32,
    /// When the last sample came.
    at_ms: u32,
    /// What the mean is worth in samples.
    samples: f32,
    /// Whether the last sample was a surprise.
    surprised: bool,
}

impl Known {
    fn of(bits: u64) -> Self {
        Self {
            mean_us: f32::from_bits((bits >> 32) as u32),
            at_ms: (bits >> 8) as u32 & TIME_MASK,
            samples: f32::from((bits as u8 >> 1) + 1) / 2.0,
            surprised: bits & 1 == 1,
        }
    }

    fn bits(self) -> u64 {
        let mean = u64::from(self.mean_us.to_bits()) << 32;
        let samples = (self.samples * 2.0 - 0.5) as u64 & 0x7f;
        mean | (u64::from(self.at_ms) << 8) | (samples << 1) | u64::from(self.surprised)
    }

    fn mean(self) -> Option<f32> {
        (self.mean_us > 0.0).then_some(self.mean_us)
    }

    fn with(self, sample: Sample, latency_us: f32) -> Self {
        let is_first = self.mean_us == 0.0 || sample.is_trial;
        let surprised = !is_first && latency_us > SURPRISE * self.mean_us * (sample.load as f32 + 1.0);
        let most = if surprised && self.surprised {
            SURPRISED_SAMPLES
        } else {
            MOST_SAMPLES
        };
        let samples = if is_first {
            1.0
        } else {
            (self.samples * (-self.age_us(sample.now) / MEMORY_US).exp() + 1.0).min(most)
        };
        Self {
            mean_us: (self.mean_us + (latency_us - self.mean_us) / samples).max(1.0),
            at_ms: millis(sample.now),
            samples,
            surprised,
        }
    }

    fn age_us(self, now: Micros) -> f32 {
        let since = millis(now).wrapping_sub(self.at_ms) & TIME_MASK;
        // Later than `now`: workers read their clocks apart.
        if since > TIME_MASK / 2 {
            0.0
        } else {
            since as f32 * 1000.0
        }
    }
}

const TIME_MASK: u32 = (1 << 24) - 1;

fn millis(now: Micros) -> u32 {
    (now.0 / 1000) as u32 & TIME_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(time_us: u64, latency_us: u64) -> Sample {
        Sample {
            now: Micros(time_us),
            latency_us,
            load: 0,
            is_trial: false,
        }
    }

    /// Answered so often, every 10 ms from the time on.
    fn answer(estimate: &Estimate, time_us: u64, latency_us: u64, times: u64) {
        for nth in 0..times {
            estimate.answered(at(time_us + nth * 10_000, latency_us));
        }
    }

    fn mean_ms(estimate: &Estimate) -> u32 {
        (estimate.mean().unwrap() / 1000.0).round() as u32
    }

    #[test]
    fn the_first_sample_is_the_mean() {
        let estimate = Estimate::default();
        assert_eq!(estimate.mean(), None);
        estimate.answered(at(SECOND, 0));
        assert_eq!(estimate.mean(), Some(1.0));
    }

    #[test]
    fn few_samples_count_alike_and_many_are_forgotten() {
        let estimate = Estimate::default();
        for (latency_us, mean) in [(10_000, 10), (20_000, 15), (30_000, 20), (40_000, 25)] {
            estimate.answered(at(SECOND, latency_us));
            assert_eq!(mean_ms(&estimate), mean);
        }
        answer(&estimate, SECOND, 100_000, 64);
        assert!((90..100).contains(&mean_ms(&estimate)), "{estimate:?}");
        // After silences in seconds: what an answer of 200 ms makes of it.
        for (silence, mean) in [(0, 102), (8, 104), (24, 124), (80, 200)] {
            let known = Known {
                mean_us: 100_000.0,
                at_ms: 1000,
                samples: 64.0,
                surprised: false,
            };
            let next = known.with(at((1 + silence) * SECOND, 200_000), 200_000.0);
            assert_eq!((next.mean_us / 1000.0).round() as u32, mean, "{silence} s");
        }
    }

    #[test]
    fn two_surprises_in_a_row_are_learned_quickly_and_one_is_not() {
        let estimate = Estimate::default();
        answer(&estimate, SECOND, 10_000, 100);
        answer(&estimate, 2 * SECOND, 100_000, 1);
        answer(&estimate, 2 * SECOND, 10_000, 1);
        answer(&estimate, 2 * SECOND, 100_000, 1);
        assert_eq!(mean_ms(&estimate), 13);
        answer(&estimate, 2 * SECOND, 100_000, 1);
        assert_eq!(mean_ms(&estimate), 24);
        answer(&estimate, 2 * SECOND, 100_000, 8);
        assert!(mean_ms(&estimate) > 55, "{estimate:?}");
    }

    #[test]
    fn a_queue_is_no_surprise() {
        let estimate = Estimate::default();
        answer(&estimate, SECOND, 10_000, 100);
        for _ in 0..4 {
            let sample = at(2 * SECOND, 100_000);
            estimate.answered(Sample { load: 9, ..sample });
        }
        assert!(mean_ms(&estimate) < 17, "{estimate:?}");
    }

    #[test]
    fn the_answer_to_a_trial_replaces_what_was_known() {
        let estimate = Estimate::default();
        answer(&estimate, SECOND, 2_000_000, 100);
        estimate.failed(at(3 * SECOND, 0));
        let trial = at(4 * SECOND, 170_000);
        estimate.failed(Sample {
            is_trial: true,
            ..trial
        });
        assert_eq!(mean_ms(&estimate), 2000, "a failed one does not");
        estimate.answered(Sample {
            is_trial: true,
            ..trial
        });
        assert_eq!(mean_ms(&estimate), 170);
        assert_eq!(estimate.raise(1.0), 1.0);
    }

    #[test]
    fn a_fast_failure_does_not_look_fast() {
        let estimate = Estimate::default();
        estimate.answered(at(SECOND, 50_000));
        let raised_ms = || (estimate.raise(50_000.0) / 1000.0).round() as u32;
        let mut raised = Vec::new();
        for _ in 0..5 {
            estimate.failed(at(SECOND, 10));
            raised.push(raised_ms());
        }
        assert_eq!(estimate.mean(), Some(50_000.0));
        assert_eq!(raised, [76, 126, 226, 395, 652]);
        for _ in 0..100 {
            estimate.failed(at(SECOND, 10));
        }
        assert_eq!(raised_ms(), 55_000);
        for _ in 0..100 {
            estimate.answered(at(SECOND, 50_000));
        }
        assert_eq!(estimate.raise(50_000.0), 50_000.0);
    }

    #[test]
    fn an_endpoint_that_never_answered_is_not_fast_because_it_fails_fast() {
        let estimate = Estimate::default();
        estimate.failed(at(SECOND, 10));
        assert_eq!(estimate.mean(), Some(UNKNOWN_US));
    }

    #[test]
    fn giving_up_only_ever_makes_slower() {
        let estimate = Estimate::default();
        estimate.answered(at(SECOND, 50_000));
        estimate.given_up(at(SECOND, 10_000));
        assert_eq!(mean_ms(&estimate), 50);
        estimate.given_up(at(SECOND, 130_000));
        assert_eq!(mean_ms(&estimate), 155, "half of 50 and twice 130");
    }

    #[test]
    fn what_is_known_is_one_word() {
        for known in [
            Known {
                mean_us: 12.5,
                at_ms: TIME_MASK,
                samples: 64.0,
                surprised: true,
            },
            Known {
                mean_us: 1e9,
                at_ms: 0,
                samples: 0.5,
                surprised: false,
            },
        ] {
            assert_eq!(Known::of(known.bits()), known);
        }
        assert_eq!(Known::of(0).mean(), None);
    }

    #[test]
    fn time_goes_round_and_clocks_differ() {
        let known = Known {
            mean_us: 5.0,
            at_ms: TIME_MASK,
            samples: 1.0,
            surprised: false,
        };
        let last_ms = u64::from(TIME_MASK);
        assert_eq!(known.age_us(Micros((last_ms + 3) * 1000)), 3000.0);
        assert_eq!(known.age_us(Micros((last_ms - 3) * 1000)), 0.0);
    }
}
