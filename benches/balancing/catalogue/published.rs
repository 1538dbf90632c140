//! Experiments that others have published, with one endpoint or half of them slow.

use crate::measure::Metric;
use crate::scenario::{ALWAYS, Arrivals, Bound, Scenario};
use crate::server::{Fault, Service, Times};

pub fn all() -> Vec<Scenario> {
    let echo = Service::Replay(Times::LogNormal(280.0, 0.1));
    let wild = Service::Replay(Times::Exponential(5000.0));
    let tame = Service::Replay(Times::Erlang2(5000.0));
    vec![
        Scenario {
            note: "Buoyant's \"Beyond Round Robin\" (2016): 1000 requests/s; published for success within 1 s: round robin 95 %, least \
                   loaded 99 %, peak-EWMA 99.9 %. The answers' times follow the description, not the recording. Some 16 requests are in \
                   the slow endpoint before anything can be known of it.",
            by: Metric::Within1s,
            hedged: true,
            plot: Some(("the slow one", 0)),
            ..Scenario::of("one-slow", "One of 11 endpoints takes 2 s from 15 to 45 s", 11, Service::Replay(Times::Recorded), Arrivals::Even(1000.0))
        }
        .fault(0..1, 15..45, Fault::Takes(Times::Fixed(2e6)))
        .watch("slow one, 15-45 s", 0..1, 15..45)
        .watch("slow one, 50-60 s", 0..1, 50..60)
        .goal(Metric::Within1s, Bound::AtLeast(99.95))
        .goal(Metric::P999, Bound::AtMost(200.0))
        .goal_of("least-latency, hedged", Metric::Within1s, Bound::AtLeast(99.995))
        .goal_of("least-latency, hedged", Metric::Extra, Bound::AtMost(1.0)),
        Scenario {
            note: "The floor of the next one.",
            ..Scenario::of("echo", "4 healthy echo endpoints", 4, echo, Arrivals::Even(4000.0))
        },
        Scenario {
            note: "brpc's published benchmark of its two random choices: whoever draws two of four draws two slow ones for one request in six.",
            ..Scenario::of("echo-half-slow", "2 of 4 echo endpoints take 5 ms more", 4, echo, Arrivals::Even(4000.0))
        }
        .fault(0..2, ALWAYS, Fault::Plus(Times::Fixed(5000.0)))
        .watch("slow ones", 0..2, 0..60)
        .goal(Metric::P99, Bound::TimesThat(1.2, "echo")),
        Scenario {
            note: "Latency is exponential with a mean of 5 ms: the 99th percentile of a healthy endpoint alone is 23 ms, and nobody can be below.",
            hedged: true,
            ..Scenario::of("noisy-half-slow", "2 of 4 noisy endpoints take 50 ms more", 4, wild, Arrivals::Even(400.0))
        }
        .fault(0..2, ALWAYS, Fault::Plus(Times::Fixed(50_000.0)))
        .watch("slow ones", 0..2, 0..60)
        .goal(Metric::P99, Bound::AtMost(25.0)),
        Scenario {
            note: "The same with Erlang-2 times (mean 5 ms, 99th percentile of a healthy endpoint 16.6 ms).",
            hedged: true,
            ..Scenario::of("uneven-half-slow", "2 of 4 less noisy endpoints take 50 ms more", 4, tame, Arrivals::Even(400.0))
        }
        .fault(0..2, ALWAYS, Fault::Plus(Times::Fixed(50_000.0)))
        .watch("slow ones", 0..2, 0..60)
        .goal(Metric::P99, Bound::AtMost(20.0)),
        tower(),
    ]
}

fn tower() -> Scenario {
    let mut scenario = Scenario {
        note: "tower's demonstration (pull request 76): 50 clients in a closed loop, latency uniform up to 1, 10, 10, 10, 10, 100, 100, 100, \
               100 and 1000 ms. Published for peak-EWMA of two: p50 5, p90 56, p99 96 ms.",
        seconds: 20,
        ..Scenario::of(
            "tower",
            "10 endpoints from 1 ms to 1 s, closed loop",
            10,
            Service::Replay(Times::Fixed(0.0)),
            Arrivals::Closed(50),
        )
    };
    for (endpoint, most) in scenario
        .endpoints
        .iter_mut()
        .zip([1, 10, 10, 10, 10, 100, 100, 100, 100, 1000])
    {
        endpoint.service = Service::Replay(Times::Uniform(0.0, f64::from(most) * 1000.0));
    }
    scenario
}
