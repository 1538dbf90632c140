//! Fleets that are not alike, that change, and of all sizes.

use std::time::Duration;

use crate::balancer::Member;
use crate::measure::Metric;
use crate::scenario::{Arrivals, Bound, Scenario, equal};
use crate::server::{Fault, SECOND, Seen, Service, Times};

pub fn all() -> Vec<Scenario> {
    let mut all = vec![mixed(), noisy(), cold_start(), rolling(), crashes(), weights()];
    for (name, title, count, slow, rate) in [
        ("size-1", "1 endpoint", 1, 0, 100.0),
        ("size-2", "2 endpoints, 1 of them slow", 2, 1, 200.0),
        ("size-5", "5 endpoints, 1 of them slow", 5, 1, 500.0),
        ("size-16", "16 endpoints, 4 of them slow", 16, 4, 1600.0),
        ("size-50", "50 endpoints, 10 of them slow", 50, 10, 5000.0),
        ("size-100", "100 endpoints, 20 of them slow", 100, 20, 10_000.0),
        ("size-500", "500 endpoints, 100 of them slow", 500, 100, 10_000.0),
    ] {
        all.push(
            Scenario {
                note: "10 ms, and for the slow ones 60 ms more from the 3rd second on; 4 cores each.",
                seconds: 10,
                counted: 4..10,
                ..Scenario::of(
                    name,
                    title,
                    count,
                    Service::Cores(4, Times::LogNormal(10_000.0, 0.3)),
                    Arrivals::Poisson(rate),
                )
            }
            .fault(0..slow, 3..u64::MAX, Fault::Plus(Times::Fixed(60_000.0)))
            .watch("slow ones", 0..slow, 4..10),
        );
    }
    all
}

fn mixed() -> Scenario {
    let mut scenario = Scenario {
        note: "Old and new machines: 2 to 16 cores, from half to twice the speed; the weights do not say so. 60 % of all that they can.",
        ..Scenario::of(
            "mixed",
            "12 endpoints of different sizes and speeds",
            12,
            Service::Cores(4, Times::Exponential(10_000.0)),
            Arrivals::Poisson(0.0),
        )
    };
    let kinds = [(2, 20_000.0), (4, 10_000.0), (8, 8000.0), (16, 5000.0)];
    let mut most = 0.0;
    for (number, endpoint) in scenario.endpoints.iter_mut().enumerate() {
        let (cores, time) = kinds[number % kinds.len()];
        endpoint.service = Service::Cores(cores, Times::Exponential(time));
        most += cores as f64 * 1e6 / time;
    }
    scenario.arrivals = Arrivals::Poisson(0.6 * most);
    scenario.seconds = 20;
    scenario
}

fn noisy() -> Scenario {
    Scenario {
        note: "Equal endpoints whose answers spread over a factor of a hundred (log-normal, deviation 1): learning from noise can only harm.",
        ..Scenario::of(
            "noisy",
            "10 equal endpoints with very different answers",
            10,
            Service::Cores(8, Times::LogNormal(5000.0, 1.0)),
            Arrivals::Poisson(5000.0),
        )
    }
}

fn cold_start() -> Scenario {
    let mut scenario = Scenario {
        note: "Two join ten at 20 s; at first they take five times as long, and less and less for 10 s.",
        ..Scenario::of(
            "cold-start",
            "New endpoints are cold",
            12,
            Service::Cores(4, Times::LogNormal(10_000.0, 0.3)),
            Arrivals::Poisson(2000.0),
        )
    }
    .fault(10..12, 20..30, Fault::Warming(5.0))
    .watch("cold ones, 20-25 s", 10..12, 20..25)
    .watch("cold ones, 35-60 s", 10..12, 35..60);
    scenario.members = vec![(0, equal(0..10)), (20 * SECOND, equal(0..12))];
    scenario
}

fn rolling() -> Scenario {
    let mut scenario = Scenario {
        note: "Ten endpoints are replaced one by one, each 3 s; the new ones take four times as long, and less and less for 2 s.",
        ..Scenario::of(
            "rolling",
            "A rolling restart",
            20,
            Service::Cores(4, Times::LogNormal(10_000.0, 0.3)),
            Arrivals::Poisson(2000.0),
        )
    };
    for step in 0..10_u32 {
        let at = u64::from(10 + 3 * step);
        let endpoints: Vec<Member> = equal(step + 1..step + 11);
        scenario.members.push((at * SECOND, endpoints));
        scenario = scenario.fault(step + 10..step + 11, at..at + 2, Fault::Warming(4.0));
    }
    scenario
}

fn crashes() -> Scenario {
    let mut scenario = Scenario {
        note: "One after the other is gone for 2 s without a word (refused), and takes four times as long at first when it is back. Retries \
               are on.",
        attempts: 3,
        ..Scenario::of(
            "crashes",
            "Restarts that nobody announces",
            10,
            Service::Cores(4, Times::LogNormal(10_000.0, 0.3)),
            Arrivals::Poisson(1500.0),
        )
    }
    .goal(Metric::Errors, Bound::AtMost(0.0));
    for number in 0..10_u32 {
        let at = 5 + 5 * u64::from(number);
        scenario = scenario
            .fault(
                number..number + 1,
                at..at + 2,
                Fault::Fails(1.0, Times::Fixed(200.0), Seen::Failed),
            )
            .fault(number..number + 1, at + 2..at + 4, Fault::Warming(4.0));
    }
    scenario
}

fn weights() -> Scenario {
    let weighted = |heavy: u32| -> Vec<Member> {
        (0..6)
            .map(|endpoint| Member {
                endpoint,
                weight: if endpoint < 3 { heavy } else { 1 },
            })
            .collect()
    };
    let mut scenario = Scenario {
        note: "Three of six have 12 cores, three have 4, and from the 20th second on their weights say so (3 to 1). 75 % busy.",
        slow_start: Duration::ZERO,
        ..Scenario::of(
            "weights",
            "Weights change under load",
            6,
            Service::Cores(4, Times::Exponential(10_000.0)),
            Arrivals::Poisson(3600.0),
        )
    }
    .watch("heavy ones, 25-60 s", 0..3, 25..60);
    for endpoint in scenario.endpoints.iter_mut().take(3) {
        endpoint.service = Service::Cores(12, Times::Exponential(10_000.0));
    }
    scenario.members = vec![(0, weighted(1)), (20 * SECOND, weighted(3))];
    scenario.counted = 20..60;
    scenario
}
