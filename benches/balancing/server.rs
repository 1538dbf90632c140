//! Endpoints as the simulator plays them: how long an answer takes, and what goes wrong when.

use std::collections::VecDeque;
use std::ops::Range;

use fastrand::Rng;

/// Microseconds of virtual time.
pub type Time = u64;
pub const MILLISECOND: Time = 1000;
pub const SECOND: Time = 1_000_000;

/// A distribution of times, in microseconds.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    Fixed(f64),
    Uniform(f64, f64),
    /// By its mean.
    Exponential(f64),
    /// Erlang of two stages, by its mean: less wild than an exponential.
    Erlang2(f64),
    /// By its median, and the deviation of its logarithm.
    LogNormal(f64, f64),
    /// As the answers that Buoyant recorded for "Beyond Round Robin": median 167 ms, deviation 5, 99th percentile
    /// 192, maximum 200.
    Recorded,
}

impl Times {
    pub fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Fixed(time) => time,
            Self::Uniform(least, most) => least + (most - least) * rng.f64(),
            Self::Exponential(mean) => exponential(mean, rng),
            Self::Erlang2(mean) => exponential(mean / 2.0, rng) + exponential(mean / 2.0, rng),
            Self::LogNormal(median, deviation) => median * (deviation * normal(rng)).exp(),
            Self::Recorded if rng.f64() < 0.02 => Self::Uniform(184_000.0, 200_000.0).draw(rng),
            Self::Recorded => (167_000.0 + 4000.0 * normal(rng)).clamp(150_000.0, 184_000.0),
        }
    }
}

fn exponential(mean: f64, rng: &mut Rng) -> f64 {
    -(1.0 - rng.f64()).ln() * mean
}

/// Box and Muller's.
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// What an endpoint does with what it is given.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    /// Each answer takes its time, whatever else is to do.
    Replay(Times),
    /// So many cores work, the rest waits in line.
    Cores(usize, Times),
}

/// What is the matter with an endpoint, while it is.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Answers take this long instead.
    Takes(Times),
    /// Answers take so much longer.
    Plus(Times),
    /// Answers take so many times as long.
    Factor(f64),
    /// So many times as long at first, and as ever at the end.
    Warming(f64),
    /// This share of answers takes so many times as long.
    Some(f64, f64),
    /// This share of requests ends so, after this time.
    Fails(f64, Times, Seen),
    /// Nothing is ever answered.
    Hangs,
}

/// How an attempt ended, as the proxy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Answered,
    ServerError,
    /// Refused, reset, or the deadline passed.
    Failed,
    /// Nobody waited any longer, because another attempt was faster.
    GivenUp,
}

/// An endpoint of a scenario.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub service: Service,
    pub faults: Vec<(Range<Time>, Fault)>,
}

impl Endpoint {
    pub fn new(service: Service) -> Self {
        Self {
            service,
            faults: Vec::new(),
        }
    }
}

/// An endpoint at work.
pub struct Server {
    endpoint: Endpoint,
    /// Attempts that wait for a core.
    line: VecDeque<u32>,
    busy: usize,
    in_flight: u32,
    /// Latencies of the last answers, by how many were in flight when they began.
    recent: Vec<VecDeque<f64>>,
}

/// What comes of an attempt that is worked on: when, and how it ends.
pub type Ending = (Time, Seen);

impl Server {
    pub fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.clone(),
            line: VecDeque::new(),
            busy: 0,
            in_flight: 0,
            recent: vec![VecDeque::new(); 256],
        }
    }

    /// Takes an attempt; gives its ending unless it has to wait (or never ends).
    pub fn take(&mut self, attempt: u32, now: Time, rng: &mut Rng) -> Option<Ending> {
        for (times, fault) in &self.endpoint.faults {
            match fault {
                Fault::Hangs if times.contains(&now) => return None,
                Fault::Fails(share, after, seen) if times.contains(&now) && rng.f64() < *share => {
                    return Some((now + after.draw(rng) as Time, *seen));
                }
                _ => {}
            }
        }
        self.in_flight += 1;
        match self.endpoint.service {
            Service::Cores(cores, _) if self.busy >= cores => {
                self.line.push_back(attempt);
                None
            }
            _ => Some(self.work(now, rng)),
        }
    }

    /// An attempt that began then, when so many were in flight, is answered: gives the next one that is worked on now.
    pub fn done(&mut self, began: Time, load: u32, now: Time, rng: &mut Rng) -> Option<(u32, Ending)> {
        let recent = &mut self.recent[(load as usize).min(255)];
        if recent.len() == 8 {
            recent.pop_front();
        }
        recent.push_back((now - began) as f64);
        self.in_flight -= 1;
        self.busy -= 1;
        let next = self.line.pop_front()?;
        Some((next, self.work(now, rng)))
    }

    /// Requests in flight, as the endpoint itself counts them.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// What it says of its load in an answer, which it counts itself.
    pub fn says(&self) -> String {
        format!("TEXT named_metrics.in_flight={}", self.in_flight + 1)
    }

    /// The median latency of recent answers that began when as many were in flight as now (or nearly), as Prequal's
    /// servers report it.
    pub fn median_latency(&self) -> f64 {
        let load = (self.in_flight as usize).min(255);
        let near = (0..256).flat_map(|away| [load.checked_sub(away), Some(load + away)]);
        let mut found = near.flatten().filter_map(|load| self.recent.get(load));
        let Some(recent) = found.find(|recent| !recent.is_empty()) else {
            return 0.0;
        };
        let mut sorted: Vec<f64> = recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn work(&mut self, now: Time, rng: &mut Rng) -> Ending {
        self.busy += 1;
        let (Service::Replay(times) | Service::Cores(_, times)) = self.endpoint.service;
        let mut time = times.draw(rng);
        for (when, fault) in self
            .endpoint
            .faults
            .iter()
            .filter(|(when, _)| when.contains(&now))
        {
            match fault {
                Fault::Takes(instead) => time = instead.draw(rng),
                Fault::Plus(more) => time += more.draw(rng),
                Fault::Factor(factor) => time *= factor,
                Fault::Warming(factor) => {
                    let left = (when.end - now) as f64 / (when.end - when.start) as f64;
                    time *= 1.0 + (factor - 1.0) * left;
                }
                Fault::Some(share, factor) if rng.f64() < *share => time *= factor,
                Fault::Some(..) | Fault::Fails(..) | Fault::Hangs => {}
            }
        }
        (now + time.max(1.0) as Time, Seen::Answered)
    }
}
