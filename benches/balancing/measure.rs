//! Figures of a run, and their mean and spread over seeds.

use super::scenario::{Scenario, Watch};
use super::server::{SECOND, Time};
use super::world::Trace;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    /// Latency quantiles in milliseconds; a failed request counts as one that took until its deadline.
    P50,
    P99,
    P999,
    /// Percent of requests answered well within a second.
    Within1s,
    /// Percent of requests that failed.
    Errors,
    /// Attempts beside one per request, in percent of requests.
    Extra,
    /// What the endpoints of a watch got, in percent of what would be fair.
    Share(usize),
}

/// A figure over several seeds.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub mean: f64,
    pub least: f64,
    pub most: f64,
}

/// All figures of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    sorted: Vec<Time>,
    within_1s: f64,
    errors: f64,
    extra: f64,
    shares: Vec<f64>,
}

impl Figures {
    pub fn of(scenario: &Scenario, trace: &Trace) -> Self {
        let counted = |at: Time| scenario.counted.contains(&(at / SECOND));
        let requests: Vec<_> = trace
            .requests
            .iter()
            .filter(|request| counted(request.at))
            .collect();
        let count = requests.len().max(1) as f64;
        let percent = |number: usize| 100.0 * number as f64 / count;
        let mut sorted: Vec<Time> = requests.iter().map(|request| request.latency).collect();
        sorted.sort_unstable();
        let in_time = |request: &&&super::world::Request| request.good && request.latency <= SECOND;
        Self {
            sorted,
            within_1s: percent(requests.iter().filter(in_time).count()),
            errors: percent(requests.iter().filter(|request| !request.good).count()),
            extra: 100.0 * (trace.retries + trace.hedges) as f64 / trace.requests.len().max(1) as f64,
            shares: scenario
                .watches
                .iter()
                .map(|watch| share(scenario, trace, watch))
                .collect(),
        }
    }

    pub fn get(&self, metric: Metric) -> f64 {
        match metric {
            Metric::P50 => self.quantile(0.5),
            Metric::P99 => self.quantile(0.99),
            Metric::P999 => self.quantile(0.999),
            Metric::Within1s => self.within_1s,
            Metric::Errors => self.errors,
            Metric::Extra => self.extra,
            Metric::Share(watch) => self.shares.get(watch).copied().unwrap_or(0.0),
        }
    }

    fn quantile(&self, quantile: f64) -> f64 {
        let place =
            ((self.sorted.len() as f64 * quantile).ceil() as usize).clamp(1, self.sorted.len().max(1));
        self.sorted.get(place - 1).copied().unwrap_or(0) as f64 / 1000.0
    }
}

/// Mean and spread of a figure.
pub fn figure(runs: &[Figures], metric: Metric) -> Figure {
    let values = || runs.iter().map(|run| run.get(metric));
    Figure {
        mean: values().sum::<f64>() / runs.len().max(1) as f64,
        least: values().fold(f64::INFINITY, f64::min),
        most: values().fold(f64::NEG_INFINITY, f64::max),
    }
}

/// The 99th percentile of each second's requests, in milliseconds.
pub fn p99_by_second(scenario: &Scenario, trace: &Trace) -> Vec<f64> {
    let mut seconds: Vec<Vec<Time>> = vec![Vec::new(); scenario.seconds as usize];
    for request in &trace.requests {
        if let Some(second) = seconds.get_mut((request.at / SECOND) as usize) {
            second.push(request.latency);
        }
    }
    let p99 = |second: &mut Vec<Time>| {
        second.sort_unstable();
        let place = (second.len() as f64 * 0.99) as usize;
        second
            .get(place.min(second.len().saturating_sub(1)))
            .map_or(0.0, |time| *time as f64 / 1000.0)
    };
    seconds.iter_mut().map(p99).collect()
}

/// What an endpoint got in each second, in percent of an even share.
pub fn share_by_second(scenario: &Scenario, trace: &Trace, endpoint: u32) -> Vec<f64> {
    let mut seconds = vec![(0_u32, 0_u32); scenario.seconds as usize];
    for (at, taken_by) in &trace.attempts {
        if let Some((all, theirs)) = seconds.get_mut((at / SECOND) as usize) {
            *all += 1;
            *theirs += u32::from(*taken_by == endpoint);
        }
    }
    let share = |(nth, (all, theirs)): (usize, &(u32, u32))| {
        let members = scenario.members_at(nth as Time * SECOND).len() as f64;
        100.0 * f64::from(*theirs) * members / f64::from((*all).max(1))
    };
    seconds.iter().enumerate().map(share).collect()
}

fn share(scenario: &Scenario, trace: &Trace, watch: &Watch) -> f64 {
    let (mut all, mut theirs) = (0_f64, 0_f64);
    for (at, endpoint) in &trace.attempts {
        if !watch.seconds.contains(&(at / SECOND)) {
            continue;
        }
        all += 1.0;
        theirs += f64::from(u8::from(watch.endpoints.contains(endpoint)));
    }
    let members = scenario.members_at(watch.seconds.start * SECOND);
    let weight = |of: &dyn Fn(u32) -> bool| -> f64 {
        members
            .iter()
            .filter(|member| of(member.endpoint))
            .map(|member| f64::from(member.weight))
            .sum()
    };
    let fair = weight(&|endpoint| watch.endpoints.contains(&endpoint)) / weight(&|_| true).max(1.0);
    100.0 * theirs / (all * fair).max(f64::MIN_POSITIVE)
}
