//! Overload: more is asked for than endpoints can do, with clients that wait for a second.

use crate::measure::Metric;
use crate::scenario::{ALWAYS, Arrivals, Bound, Scenario};
use crate::server::{Fault, SECOND, Service, Times};

const LIMITED: &str = "least-latency, adaptive concurrency";

pub fn all() -> Vec<Scenario> {
    let twice = || {
        of(
            "overload",
            "Twice what 10 endpoints can do, from 10 to 40 s",
            Service::Cores(4, Times::Exponential(10_000.0)),
            Arrivals::Surge(2000.0, 8000.0, (10, 40)),
        )
    };
    vec![
        Scenario {
            note: "4,000 requests/s can be answered, 8,000 come: 50 % is the most that can be. Endpoints work on in turn, also for clients that \
                   have gone.",
            counted: 12..40,
            ..twice()
        }
        .goal_of(LIMITED, Metric::Within1s, Bound::AtLeast(47.0)),
        Scenario {
            name: "overload-after",
            title: "The same, after the overload",
            note: "From 41 s on 2,000 requests/s come again, half of what can be answered.",
            counted: 41..60,
            ..twice()
        }
        .goal_of(LIMITED, Metric::Within1s, Bound::AtLeast(99.9)),
        Scenario {
            note: "Half of the endpoints take four times as long from 10 to 40 s: 2,500 requests/s can be answered, 3,600 come: 69 %.",
            counted: 12..40,
            ..of(
                "overload-half",
                "Half of 10 endpoints become slow under load",
                Service::Cores(4, Times::Exponential(10_000.0)),
                Arrivals::Poisson(3600.0),
            )
        }
        .fault(0..5, 10..40, Fault::Factor(4.0))
        .goal_of(LIMITED, Metric::Within1s, Bound::AtLeast(55.0)),
        Scenario {
            note: "A negative control: nothing is wrong, answers are very different, 60 % busy. A limit must not be noticed.",
            seconds: 120,
            ..of(
                "limit-noisy",
                "A limit before 10 equal endpoints with very different answers",
                Service::Cores(16, Times::LogNormal(20_000.0, 1.5)),
                Arrivals::Poisson(1500.0),
            )
        }
        .goal_of(LIMITED, Metric::Errors, Bound::TimesOf(1.1, "least-latency"))
        .goal_of(LIMITED, Metric::P99, Bound::TimesOf(1.1, "least-latency")),
        Scenario {
            note: "A negative control: from 10 s on every answer takes three times as long by itself; there is room for ten times as much.",
            ..of(
                "limit-slower",
                "A limit before endpoints that become slower by themselves",
                Service::Replay(Times::LogNormal(20_000.0, 0.5)),
                Arrivals::Poisson(4000.0),
            )
        }
        .fault(0..10, 10..ALWAYS.end, Fault::Factor(3.0))
        .goal_of(LIMITED, Metric::Errors, Bound::AtMost(0.5)),
    ]
}

fn of(name: &'static str, title: &'static str, service: Service, arrivals: Arrivals) -> Scenario {
    Scenario {
        deadline: SECOND,
        limited: true,
        by: Metric::Within1s,
        ..Scenario::of(name, title, 10, service, arrivals)
    }
}
