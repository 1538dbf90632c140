//! Endpoints that fall ill: slow for a while, failing at once, hanging, half broken, a zone gone.

use crate::measure::Metric;
use crate::scenario::{ALWAYS, Arrivals, Bound, Scenario};
use crate::server::{Fault, MILLISECOND, SECOND, Seen, Service, Times};

pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (name, title, base, slow) in [
        (
            "heals-200ms",
            "One of 8 is slow for 3 s: 5 ms, then 200 ms",
            5000.0,
            200_000.0,
        ),
        (
            "heals-2s",
            "One of 8 is slow for 3 s: 10 ms, then 2 s",
            10_000.0,
            2e6,
        ),
    ] {
        all.push(
            Scenario {
                note: "How soon is it used again? With peak-EWMA the answer is 10 s * ln(spike / base): 37 s and 53 s.",
                plot: Some(("the one that was slow", 0)),
                ..Scenario::of(name, title, 8, Service::Replay(Times::LogNormal(base, 0.2)), Arrivals::Poisson(800.0))
            }
            .fault(0..1, 10..13, Fault::Takes(Times::Fixed(slow)))
            .watch("while slow", 0..1, 10..13)
            .watch("0-5 s after", 0..1, 13..18)
            .watch("5-10 s after", 0..1, 18..23)
            .goal(Metric::Share(0), Bound::AtMost(10.0))
            .goal(Metric::Share(1), Bound::AtLeast(50.0))
            .goal(Metric::Share(2), Bound::AtLeast(80.0)),
        );
    }
    for (name, title, rate, how, attempts) in [
        ("500s", "2 of 20 answer 500 at once", 1000.0, Seen::ServerError, 1),
        (
            "500s-quiet",
            "2 of 20 answer 500 at once, 100 requests/s",
            100.0,
            Seen::ServerError,
            1,
        ),
        ("refused", "2 of 20 refuse connections", 1000.0, Seen::Failed, 1),
        (
            "500s-retries",
            "2 of 20 answer 500 at once, with retries",
            1000.0,
            Seen::ServerError,
            3,
        ),
        (
            "refused-retries",
            "2 of 20 refuse connections, with retries",
            1000.0,
            Seen::Failed,
            3,
        ),
    ] {
        let errors = if attempts > 1 { 0.0 } else { 0.5 };
        all.push(
            Scenario {
                note: "From the 10th second on. A failure is faster than any answer.",
                by: Metric::Errors,
                attempts,
                ..Scenario::of(
                    name,
                    title,
                    20,
                    Service::Replay(Times::LogNormal(20_000.0, 0.2)),
                    Arrivals::Poisson(rate),
                )
            }
            .fault(0..2, 10..u64::MAX, Fault::Fails(1.0, Times::Fixed(300.0), how))
            .watch("failing ones", 0..2, 10..60)
            .goal(Metric::Errors, Bound::AtMost(errors)),
        );
    }
    all.push(
        Scenario {
            note: "One of 10 answers nothing from the 10th second on. Deadline 1 s, no retries; healthy again at 40 s.",
            deadline: SECOND,
            by: Metric::Errors,
            ..Scenario::of("black-hole", "One of 10 hangs", 10, Service::Replay(Times::LogNormal(20_000.0, 0.3)), Arrivals::Poisson(500.0))
        }
        .fault(0..1, 10..40, Fault::Hangs)
        .watch("while it hangs", 0..1, 10..40)
        .watch("10-20 s after", 0..1, 50..60),
    );
    all.push(
        Scenario {
            note: "One of 10 fails 30 % of its requests after 5 ms and takes ten times as long for half of the others, 10 to 40 s.",
            by: Metric::Errors,
            ..Scenario::of("brown-out", "One of 10 is half broken", 10, Service::Replay(Times::LogNormal(20_000.0, 0.3)), Arrivals::Poisson(500.0))
        }
        .fault(0..1, 10..40, Fault::Fails(0.3, Times::Fixed(5000.0), Seen::ServerError))
        .fault(0..1, 10..40, Fault::Some(0.5, 10.0))
        .watch("while half broken", 0..1, 10..40)
        .watch("10-20 s after", 0..1, 50..60),
    );
    all.push(
        Scenario {
            note: "10 of 30 answer nothing from the 20th second on; the others have room (2 cores each, 36 % busy before). Deadline 1 s, three \
                   attempts within the budget.",
            deadline: SECOND,
            attempts: 3,
            ..Scenario::of("zone-lost", "A zone of three is lost", 30, Service::Cores(2, Times::LogNormal(8000.0, 0.4)), Arrivals::Poisson(2500.0))
        }
        .fault(0..10, 20..50, Fault::Hangs)
        .watch("lost ones", 0..10, 20..50)
        .watch("1-10 s after", 0..10, 51..60),
    );
    all.push(
        Scenario {
            note: "Each answer of every endpoint is slow (20 times) with a chance of 2 %: nothing can be known, only hedging helps.",
            hedged: true,
            ..Scenario::of("random-tail", "All endpoints have the same long tail", 10, Service::Replay(Times::LogNormal(10_000.0, 0.2)), Arrivals::Poisson(500.0))
        }
        .fault(0..10, ALWAYS, Fault::Some(0.02, 20.0)),
    );
    all.push(Scenario {
        note: "Every 3 s another endpoint stops for 300 ms: collections, throttling.",
        hedged: true,
        ..pauses()
    });
    all
}

fn pauses() -> Scenario {
    let mut scenario = Scenario::of(
        "pauses",
        "Endpoints pause for 300 ms, one after the other",
        10,
        Service::Cores(4, Times::LogNormal(5000.0, 0.3)),
        Arrivals::Poisson(2000.0),
    );
    for pause in 0..19 {
        let start = (2 + 3 * pause) * SECOND;
        let endpoint = &mut scenario.endpoints[pause as usize % 10];
        // What begins within the pause is done when it is over.
        for step in 0..30 {
            let from = start + step * 10 * MILLISECOND;
            let left = (300 - step * 10) as f64 * 1000.0;
            endpoint
                .faults
                .push((from..from + 10 * MILLISECOND, Fault::Plus(Times::Fixed(left))));
        }
    }
    scenario
}
