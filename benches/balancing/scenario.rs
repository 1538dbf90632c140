//! A scenario: endpoints with their faults, what arrives, what is looked at, and what is expected of least-latency.

use std::ops::Range;
use std::time::Duration;

use super::balancer::Member;
use super::measure::Metric;
use super::server::{Endpoint, Fault, SECOND, Service, Time};

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// So many per second, evenly.
    Even(f64),
    /// So many per second on average, at random.
    Poisson(f64),
    /// So many per second on average, at random, and so many within these seconds.
    Surge(f64, f64, (u64, u64)),
    /// So many clients, each asks again when it was answered.
    Closed(u32),
}

impl Arrivals {
    /// How many per second at a time; 0 where that is up to the clients.
    pub fn rate_at(self, now: Time) -> f64 {
        match self {
            Self::Even(rate) | Self::Poisson(rate) => rate,
            Self::Surge(_, rate, (from, to)) if (from..to).contains(&(now / SECOND)) => rate,
            Self::Surge(rate, ..) => rate,
            Self::Closed(_) => 0.0,
        }
    }
}

/// What is played.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For the command line, and for the names of plots.
    pub name: &'static str,
    /// What it is, in a line.
    pub title: &'static str,
    /// What there is to know when reading its table.
    pub note: &'static str,
    pub endpoints: Vec<Endpoint>,
    /// Who takes requests, from when on.
    pub members: Vec<(Time, Vec<Member>)>,
    pub arrivals: Arrivals,
    pub seconds: u64,
    /// Latency is counted for requests that came in these seconds.
    pub counted: Range<u64>,
    /// Proxies that do not know of each other.
    pub proxies: usize,
    /// So many microseconds passed before one worker's pick is seen by the others with which it shares its cells.
    pub blind: Time,
    pub deadline: Time,
    /// Attempts that a request may take, within the retry budget.
    pub attempts: usize,
    pub slow_start: Duration,
    pub watches: Vec<Watch>,
    pub goals: Vec<Goal>,
    /// By what the contestants are compared.
    pub by: Metric,
    /// Also with a limit on concurrency.
    pub limited: bool,
    /// Also with hedging.
    pub hedged: bool,
    /// Also with endpoints that report their load.
    pub reports: bool,
    /// The endpoint whose share is drawn, and what it is called; none: no plots.
    pub plot: Option<(&'static str, u32)>,
}

/// What some endpoints get within some seconds, as a part of what would be fair.
#[derive(Clone, Debug)]
pub struct Watch {
    pub label: &'static str,
    pub endpoints: Range<u32>,
    pub seconds: Range<u64>,
}

/// What is expected of a contestant, as the mean over all seeds.
#[derive(Clone, Debug)]
pub struct Goal {
    pub of: &'static str,
    pub metric: Metric,
    pub bound: Bound,
}

/// Where a figure is to be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// So many times what another scenario's figure is, at the most.
    TimesThat(f64, &'static str),
    /// So many times what another contestant's figure is, at the most.
    TimesOf(f64, &'static str),
}

impl Scenario {
    /// So many equal endpoints, one proxy, 60 s.
    pub fn of(
        name: &'static str,
        title: &'static str,
        count: u32,
        service: Service,
        arrivals: Arrivals,
    ) -> Self {
        Self {
            name,
            title,
            note: "",
            endpoints: (0..count).map(|_| Endpoint::new(service)).collect(),
            members: vec![(0, equal(0..count))],
            arrivals,
            seconds: 60,
            counted: 0..u64::MAX,
            proxies: 1,
            blind: 0,
            deadline: 10 * SECOND,
            attempts: 1,
            slow_start: Duration::ZERO,
            watches: Vec::new(),
            goals: Vec::new(),
            by: Metric::P99,
            limited: false,
            hedged: false,
            reports: false,
            plot: None,
        }
    }

    /// Something is the matter with these endpoints in these seconds.
    pub fn fault(mut self, endpoints: Range<u32>, seconds: Range<u64>, fault: Fault) -> Self {
        for endpoint in endpoints {
            let times = seconds.start * SECOND..seconds.end.saturating_mul(SECOND);
            self.endpoints[endpoint as usize].faults.push((times, fault));
        }
        self
    }

    pub fn watch(mut self, label: &'static str, endpoints: Range<u32>, seconds: Range<u64>) -> Self {
        self.watches.push(Watch {
            label,
            endpoints,
            seconds,
        });
        self
    }

    /// Expected of least-latency.
    pub fn goal(self, metric: Metric, bound: Bound) -> Self {
        self.goal_of("least-latency", metric, bound)
    }

    pub fn goal_of(mut self, of: &'static str, metric: Metric, bound: Bound) -> Self {
        self.goals.push(Goal { of, metric, bound });
        self
    }

    /// Who takes requests at a moment.
    pub fn members_at(&self, time: Time) -> &[Member] {
        let last = self.members.iter().rfind(|(from, _)| *from <= time);
        last.map_or(&[], |(_, members)| members)
    }
}

/// For ever.
pub const ALWAYS: Range<u64> = 0..u64::MAX;

/// These endpoints with the same weight.
pub fn equal(endpoints: Range<u32>) -> Vec<Member> {
    endpoints.map(|endpoint| Member { endpoint, weight: 1 }).collect()
}
