//! Who is compared.

use tidegate::model::Balance;

use super::balancer::{Balancer, Tidegate};
use super::peers::{Health, LeastRequest, LeastTime, PeakEwma, Prequal, RoundRobin};
use super::scenario::Scenario;

/// A way to balance, by name.
pub struct Contestant {
    pub name: &'static str,
    pub make: fn(&Scenario) -> Box<dyn Balancer>,
    /// Whether endpoints tell it their load.
    pub reports: bool,
    /// Whether it hedges.
    pub hedges: bool,
    /// Whether it limits what is in flight.
    pub limited: bool,
    /// Tidegate's; the others are those that it is compared with.
    pub ours: bool,
}

const ALL: usize = usize::MAX;

pub const CONTESTANTS: &[Contestant] = &[
    Contestant {
        name: "least-latency",
        make: |scenario| {
            Box::new(Tidegate::new(
                Balance::LeastLatency,
                scenario.slow_start,
                scenario.blind,
            ))
        },
        reports: false,
        hedges: false,
        limited: false,
        ours: true,
    },
    Contestant {
        name: "least-latency, hedged",
        make: |scenario| {
            Box::new(Tidegate::new(
                Balance::LeastLatency,
                scenario.slow_start,
                scenario.blind,
            ))
        },
        reports: false,
        hedges: true,
        limited: false,
        ours: true,
    },
    Contestant {
        name: "least-latency, load reports",
        make: |scenario| {
            Box::new(Tidegate::new(
                Balance::LeastLatency,
                scenario.slow_start,
                scenario.blind,
            ))
        },
        reports: true,
        hedges: false,
        limited: false,
        ours: true,
    },
    Contestant {
        name: "least-latency, adaptive concurrency",
        make: |scenario| {
            let plain = Tidegate::new(Balance::LeastLatency, scenario.slow_start, scenario.blind);
            Box::new(plain.limited())
        },
        reports: false,
        hedges: false,
        limited: true,
        ours: true,
    },
    Contestant {
        name: "round robin (nginx)",
        make: |_| Box::new(RoundRobin::new(Health::nginx())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "least request of 2",
        make: |_| Box::new(LeastRequest::new(2, Health::never())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "least request of 2, outliers (Envoy)",
        make: |_| Box::new(LeastRequest::new(2, Health::envoy())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "least request of all (nginx, HAProxy)",
        make: |_| Box::new(LeastRequest::new(ALL, Health::nginx())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "peak-EWMA of 2 (Finagle, linkerd)",
        make: |_| Box::new(PeakEwma::new(2, Health::finagle())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "peak-EWMA of all (brpc)",
        make: |_| Box::new(PeakEwma::new(ALL, Health::finagle())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "least_time inflight (nginx)",
        make: |_| Box::new(LeastTime::new(Health::nginx())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
    Contestant {
        name: "hot-cold with probes (Prequal)",
        make: |_| Box::new(Prequal::new(Health::finagle())),
        reports: false,
        hedges: false,
        limited: false,
        ours: false,
    },
];
