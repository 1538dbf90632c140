//! Endpoints that do clearly worse than the others: compared once in a while, off the path of requests.
//!
//! The control plane takes the counts of each endpoint's cell every `interval`; what was added since is what an endpoint
//! did. Compared are those that had `min_requests` of them, if `min_endpoints` had. Three questions:
//!
//! - **Success rate** (Envoy's outlier detection; on): goes if
//!   `rate < mean - deviation * sigma`, deviation 1.9, and the mean is at least [`LEAST_LEAD`] better. The second
//!   condition is ours: where all others never fail, sigma is so small that a single failure of a hundred would do.
//! - **Failure share** (Envoy; off): goes if it failed `percent` of its requests, whatever the others do.
//! - **Latency** (off): goes if its mean latency is `times` the median of all for [`SLOW_INTERVALS`] intervals in
//!   a row. A median, because the mean of a few endpoints is moved by the one that is looked for.
//!
//! The worst goes first, because never more may go than the share that ejection allows. An interval in which an endpoint was
//! ejected, or did not have enough requests, says nothing of it.

use std::collections::HashMap;
use std::sync::Arc;

use super::clock::micros;
use super::{EndpointCell, Fleet, Micros, Reason};
use crate::model::{Comparable, Ejection};

/// What the endpoints of one backend did in the past, to be compared with later.
#[derive(Debug, Default)]
pub struct History {
    counts: HashMap<u64, Counts>,
    due: Micros,
}

/// An endpoint that was set aside.
#[derive(Debug)]
pub struct Ejected {
    /// Which.
    pub cell: Arc<EndpointCell>,
    /// Why.
    pub reason: Reason,
}

impl Fleet {
    /// Compares the endpoints if their interval is over, and sets those aside that do clearly worse.
    pub fn review(&self, history: &mut History, now: Micros) -> Vec<Ejected> {
        let Some(policy) = &self.policy.ejection else {
            return Vec::new();
        };
        if policy.success_rate.is_none() && policy.failure_share.is_none() && policy.latency.is_none()
            || now < history.due
        {
            return Vec::new();
        }
        history.due = Micros(now.0.saturating_add(micros(policy.interval)));
        let done: Vec<Done> = self
            .lanes
            .iter()
            .map(|lane| history.done(&lane.cell, now))
            .collect();
        let slow = slow(policy, &done);
        let counts = self.lanes.iter().zip(&done).zip(slow);
        history.counts = counts
            .map(|((lane, done), slow)| (lane.cell.id(), done.remember(slow)))
            .collect();
        let slow: Vec<u32> = self
            .lanes
            .iter()
            .map(|lane| history.slow_in_a_row(lane.cell.id()))
            .collect();
        outliers(policy, &done, &slow)
            .into_iter()
            .filter_map(|(index, reason)| {
                let cell = &self.lanes.get(index)?.cell;
                let goes = self.eject(policy, cell, reason, now);
                goes.then(|| {
                    history.begin_anew(cell.id());
                    let cell = Arc::clone(cell);
                    Ejected { cell, reason }
                })
            })
            .collect()
    }
}

/// How much better the mean of success rates must be at the least.
const LEAST_LEAD: f64 = 0.05;
/// Intervals in a row after which a slow endpoint goes.
const SLOW_INTERVALS: u32 = 2;

/// What is remembered of an endpoint from one interval to the next.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    ended: u64,
    failed: u64,
    slow_in_a_row: u32,
}

/// What an endpoint did in an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Done {
    ended: u64,
    failed: u64,
    latency_us: Option<f32>,
    /// The counts at its end.
    total: (u64, u64),
    slow_before: u32,
}

impl History {
    fn done(&self, cell: &EndpointCell, now: Micros) -> Done {
        let total = cell.ended();
        let known = self.counts.get(&cell.id());
        // What came before the first interval, or beside an ejection, is not compared.
        let compared = known.filter(|_| !cell.is_ejected(now));
        Done {
            ended: compared.map_or(0, |then| total.0.saturating_sub(then.ended)),
            failed: compared.map_or(0, |then| total.1.saturating_sub(then.failed)),
            latency_us: cell.mean_us(),
            total,
            slow_before: known.map_or(0, |then| then.slow_in_a_row),
        }
    }

    /// What it does when it comes back is looked at afresh.
    fn begin_anew(&mut self, id: u64) {
        if let Some(counts) = self.counts.get_mut(&id) {
            counts.slow_in_a_row = 0;
        }
    }

    fn slow_in_a_row(&self, id: u64) -> u32 {
        self.counts.get(&id).map_or(0, |counts| counts.slow_in_a_row)
    }
}

impl Done {
    fn success(&self) -> f64 {
        1.0 - self.failed.min(self.ended) as f64 / self.ended.max(1) as f64
    }

    fn remember(&self, slow: bool) -> Counts {
        Counts {
            ended: self.total.0,
            failed: self.total.1,
            slow_in_a_row: if slow {
                self.slow_before.saturating_add(1)
            } else {
                0
            },
        }
    }
}

/// Which are to go, by index, the worst first.
fn outliers(policy: &Ejection, done: &[Done], slow_in_a_row: &[u32]) -> Vec<(usize, Reason)> {
    let mut going = by_success_rate(policy, done);
    for (index, reason) in by_failure_share(policy, done)
        .into_iter()
        .chain(by_latency(done, slow_in_a_row))
    {
        if going.iter().all(|(other, _)| *other != index) {
            going.push((index, reason));
        }
    }
    going
}

fn by_success_rate(policy: &Ejection, done: &[Done]) -> Vec<(usize, Reason)> {
    let Some(outlier) = &policy.success_rate else {
        return Vec::new();
    };
    let mut rates: Vec<(usize, f64)> = comparable(&outlier.among, done)
        .into_iter()
        .map(|(index, done)| (index, done.success()))
        .collect();
    let count = rates.len().max(1) as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let lead = (variance.sqrt() * f64::from(outlier.deviation) / 1000.0).max(LEAST_LEAD);
    rates.retain(|(_, rate)| *rate < mean - lead);
    worst_first(rates, Reason::SuccessRate)
}

fn by_failure_share(policy: &Ejection, done: &[Done]) -> Vec<(usize, Reason)> {
    let Some(outlier) = &policy.failure_share else {
        return Vec::new();
    };
    let least = 1.0 - f64::from(outlier.percent) / 100.0;
    let rates = comparable(&outlier.among, done)
        .into_iter()
        .map(|(index, done)| (index, done.success()))
        .filter(|(_, rate)| *rate <= least)
        .collect();
    worst_first(rates, Reason::FailureShare)
}

fn by_latency(done: &[Done], slow_in_a_row: &[u32]) -> Vec<(usize, Reason)> {
    let slow = done.iter().zip(slow_in_a_row).enumerate();
    let slow = slow.filter(|(_, (_, intervals))| **intervals >= SLOW_INTERVALS);
    // The slowest first: its latency has the least inverse.
    let speeds = slow
        .map(|(index, (done, _))| (index, 1.0 / f64::from(done.latency_us.unwrap_or(1.0))))
        .collect();
    worst_first(speeds, Reason::Latency)
}

/// Which were slower than the others in this interval.
fn slow(policy: &Ejection, done: &[Done]) -> Vec<bool> {
    let mut slow = vec![false; done.len()];
    let Some(outlier) = &policy.latency else {
        return slow;
    };
    let latencies: Vec<(usize, f32)> = comparable(&outlier.among, done)
        .into_iter()
        .filter_map(|(index, done)| Some((index, done.latency_us?)))
        .collect();
    let mut sorted: Vec<f32> = latencies.iter().map(|(_, latency)| *latency).collect();
    sorted.sort_by(f32::total_cmp);
    let Some(median) = sorted.get(sorted.len() / 2) else {
        return slow;
    };
    for (index, latency) in &latencies {
        if let Some(slow) = slow.get_mut(*index) {
            *slow = *latency > median * outlier.times as f32;
        }
    }
    slow
}

/// Those that can be compared; none if they are too few.
fn comparable<'d>(among: &Comparable, done: &'d [Done]) -> Vec<(usize, &'d Done)> {
    let enough = done.iter().enumerate();
    let enough: Vec<_> = enough
        .filter(|(_, done)| done.ended >= u64::from(among.min_requests))
        .collect();
    if enough.len() >= among.min_endpoints as usize {
        enough
    } else {
        Vec::new()
    }
}

fn worst_first(mut rates: Vec<(usize, f64)>, reason: Reason) -> Vec<(usize, Reason)> {
    rates.sort_by(|a, b| a.1.total_cmp(&b.1));
    rates.into_iter().map(|(index, _)| (index, reason)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::Observed;
    use super::*;
    use crate::model::{
        Backend, BackendName, Endpoint, FailureShareOutlier, LatencyOutlier, SuccessRateOutlier,
    };

    const SECOND: u64 = 1_000_000;

    fn done(ended: u64, failed: u64, latency_us: f32) -> Done {
        Done {
            ended,
            failed,
            latency_us: Some(latency_us),
            total: (ended, failed),
            slow_before: 0,
        }
    }

    fn only(
        success_rate: Option<SuccessRateOutlier>,
        failure_share: Option<FailureShareOutlier>,
        latency: Option<LatencyOutlier>,
    ) -> Ejection {
        Ejection {
            success_rate,
            failure_share,
            latency,
            ..Ejection::default()
        }
    }

    #[test]
    fn success_rates_are_compared() {
        let policy = only(Some(SuccessRateOutlier::default()), None, None);
        // Failures of 200 requests each, and who goes.
        for (failures, expected) in [
            (&[0, 0, 0, 0][..], &[][..]),
            (&[0, 0, 0, 150], &[]), // four are too few
            (&[0, 0, 0, 0, 150], &[4]),
            (&[0, 0, 0, 0, 8], &[]), // 4 % is no matter
            (&[0, 0, 0, 0, 0, 20], &[5]),
            (&[100, 100, 100, 100, 100, 100], &[]),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 100, 150], &[9]), // each hides the other a little
            (&[0; 12], &[]),
            (&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60], &[11]),
        ] {
            let seen: Vec<Done> = failures.iter().map(|failed| done(200, *failed, 1000.0)).collect();
            let going: Vec<usize> = outliers(&policy, &seen, &vec![0; seen.len()])
                .into_iter()
                .map(|(index, _)| index)
                .collect();
            assert_eq!(going, expected, "{failures:?}");
        }
        let mut seen = vec![done(200, 0, 1.0); 5];
        seen.push(done(99, 99, 1.0));
        assert_eq!(outliers(&policy, &seen, &[0; 6]), [], "it had too few requests");
    }

    #[test]
    fn a_share_of_failures_is_a_matter_of_its_own() {
        let policy = only(None, Some(FailureShareOutlier::default()), None);
        let seen: Vec<Done> = [0, 84, 85, 100, 0]
            .iter()
            .map(|failed| done(100, *failed, 1.0))
            .collect();
        let expected = [(3, Reason::FailureShare), (2, Reason::FailureShare)];
        assert_eq!(outliers(&policy, &seen, &[0; 5]), expected);
    }

    #[test]
    fn latencies_are_compared_with_the_median() {
        let policy = only(None, None, Some(LatencyOutlier::default()));
        let seen = [
            done(100, 0, 1000.0),
            done(100, 0, 1200.0),
            done(100, 0, 5900.0),
            done(100, 0, 6100.0),
            done(100, 0, 900.0),
            done(9, 0, 90_000.0),
        ];
        assert_eq!(slow(&policy, &seen), [false, false, false, true, false, false]);
        assert_eq!(
            outliers(&policy, &seen, &[0, 0, 0, 1, 0, 0]),
            [],
            "once is not enough"
        );
        let expected = [(3, Reason::Latency)];
        assert_eq!(outliers(&policy, &seen, &[0, 0, 0, 2, 0, 0]), expected);
    }

    fn fleet(size: u16, ejection: Ejection) -> Fleet {
        let mut policy = Backend::new(BackendName::new("web"));
        policy.ejection = Some(ejection);
        let endpoints: Vec<Endpoint> = (1..=size)
            .map(|port| Endpoint::at(([10, 0, 0, 1], port).into()))
            .collect();
        Fleet::build(Arc::new(policy), &endpoints, None, Micros(0))
    }

    /// Requests at one endpoint of which some fail, evenly spread.
    fn serve(fleet: &Fleet, index: usize, requests: u64, failures: u64, latency_us: u64, now: Micros) {
        for nth in 0..requests {
            let fails = (nth + 1) * failures / requests > nth * failures / requests;
            let seen = if fails {
                Observed::ServerError
            } else {
                Observed::Answered
            };
            let mut exchange = fleet.candidates()[index].cell.start(Micros(now.0 - latency_us));
            exchange.head(now, seen);
        }
    }

    #[test]
    fn an_interval_counts_only_itself() {
        let fleet = fleet(5, Ejection::default());
        let mut history = History::default();
        let at = |seconds: u64| Micros(seconds * SECOND);
        serve(&fleet, 0, 400, 200, 1000, at(1));
        (1..5).for_each(|index| serve(&fleet, index, 400, 0, 1000, at(1)));
        assert!(
            fleet.review(&mut history, at(1)).is_empty(),
            "the first look has nothing to compare with"
        );
        assert!(
            fleet.review(&mut history, at(11)).is_empty(),
            "nothing happened since"
        );
        serve(&fleet, 0, 200, 90, 1000, at(12));
        (1..5).for_each(|index| serve(&fleet, index, 200, 0, 1000, at(12)));
        assert!(
            fleet.review(&mut history, at(20)).is_empty(),
            "the interval is not over"
        );
        let ejected = fleet.review(&mut history, at(21));
        assert_eq!(ejected.len(), 1);
        assert_eq!(ejected[0].reason, Reason::SuccessRate);
        assert_eq!(ejected[0].cell.id(), fleet.candidates()[0].cell.id());
        let view = fleet.candidates()[0].cell.view(at(22));
        assert_eq!(view.ejected_for, Some(Reason::SuccessRate));
        assert_eq!(view.ejected_until, Some(at(31)));
    }

    #[test]
    fn slow_endpoints_go_after_two_intervals() {
        let fleet = fleet(6, only(None, None, Some(LatencyOutlier::default())));
        let mut history = History::default();
        let mut gone = Vec::new();
        for seconds in [1, 11, 21, 31] {
            let now = Micros(seconds * SECOND);
            serve(&fleet, 0, 100, 0, 50_000, now);
            (1..6).for_each(|index| serve(&fleet, index, 100, 0, 1000, now));
            gone.push(fleet.review(&mut history, now).len());
        }
        assert_eq!(gone, [0, 0, 1, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn never_more_are_out_than_may_be(
            max_percent in 0_u8..=100,
            rounds in prop::collection::vec(prop::collection::vec(0_u64..=100, 12), 1..6),
        ) {
            let fleet = fleet(12, Ejection {
                max_percent,
                consecutive_failures: 20,
                failure_share: Some(FailureShareOutlier { percent: 30, ..FailureShareOutlier::default() }),
                interval: Duration::from_secs(1),
                ..Ejection::default()
            });
            let mut history = History::default();
            for (second, round) in (1..).zip(rounds) {
                let now = Micros(second * SECOND);
                for (index, failures) in round.into_iter().enumerate() {
                    serve(&fleet, index, 100, failures, 1000, now);
                    fleet.judge(&fleet.candidates()[index].cell, now);
                }
                fleet.review(&mut history, now);
                let out = fleet.candidates().iter().filter(|candidate| candidate.cell.is_ejected(now)).count();
                prop_assert!(out <= 1 || out * 100 <= usize::from(max_percent) * 12, "{} of 12", out);
                prop_assert!(out < 12);
            }
        }
    }
}
