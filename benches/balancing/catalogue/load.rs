//! Load: from one request a second to 50,000, near what the endpoints can do, from many proxies, from many workers.

use crate::measure::Metric;
use crate::scenario::{ALWAYS, Arrivals, Bound, Scenario};
use crate::server::{Fault, Service, Times};

pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (name, title, rate, seconds) in [
        ("rate-1", "1 request/s, 1 of 5 slow", 1.0, 1200),
        ("rate-10", "10 requests/s, 1 of 5 slow", 10.0, 300),
        ("rate-100", "100 requests/s, 1 of 5 slow", 100.0, 60),
        ("rate-10000", "10,000 requests/s, 1 of 5 slow", 10_000.0, 10),
        ("rate-50000", "50,000 requests/s, 1 of 5 slow", 50_000.0, 5),
    ] {
        all.push(
            Scenario {
                note: "10 ms, and 100 ms for the slow one.",
                seconds,
                ..Scenario::of(
                    name,
                    title,
                    5,
                    Service::Replay(Times::LogNormal(10_000.0, 0.3)),
                    Arrivals::Poisson(rate),
                )
            }
            .fault(0..1, ALWAYS, Fault::Factor(10.0))
            .watch("slow one", 0..1, 0..seconds),
        );
    }
    let not_worse = Bound::TimesOf(1.02, "least request of all (nginx, HAProxy)");
    let not_worse_than_two = Bound::TimesOf(1.02, "least request of 2");
    for (name, title, count, service, rate) in [
        (
            "equal",
            "11 equal endpoints, nothing is wrong",
            11,
            Service::Replay(Times::Recorded),
            1000.0,
        ),
        (
            "busy-16",
            "16 equal endpoints of one core, 90 % busy",
            16,
            Service::Cores(1, Times::Exponential(10_000.0)),
            1440.0,
        ),
        (
            "busy-16x8",
            "16 equal endpoints of eight cores, 90 % busy",
            16,
            Service::Cores(8, Times::Exponential(10_000.0)),
            11_520.0,
        ),
        (
            "busy-100",
            "100 equal endpoints of one core, 90 % busy",
            100,
            Service::Cores(1, Times::Exponential(10_000.0)),
            9000.0,
        ),
    ] {
        all.push(
            Scenario {
                note: "A negative control: here least request is the best there is, and least-latency must not be worse by more than 2 %.",
                seconds: if count == 16 { 120 } else { 30 },
                counted: 5..120,
                ..Scenario::of(name, title, count, service, Arrivals::Poisson(rate))
            }
            .goal(Metric::P99, if count > 16 { not_worse_than_two } else { not_worse }),
        );
    }
    for (name, title, proxies, blind) in [
        ("workers-1", "1 worker", 1, 0),
        ("workers-8", "8 workers that share what they know", 1, 2),
        ("workers-8-apart", "8 workers that share nothing", 8, 0),
    ] {
        let mut scenario = Scenario {
            note: "16 endpoints, 4 of them at half speed, answers of 1 ms, 80 % busy (44,800 requests/s). A pick is seen by the other workers \
                   after 2 microseconds, which is long. The others' rows are those of one worker in the first two.",
            proxies,
            blind,
            seconds: 5,
            counted: 1..5,
            ..half_speed(name, title, 16, 4, 0.8)
        };
        for endpoint in &mut scenario.endpoints {
            endpoint.service = Service::Cores(4, Times::Exponential(1000.0));
        }
        scenario.arrivals = Arrivals::Poisson(44_800.0);
        if blind > 0 {
            scenario = scenario.goal(Metric::P99, Bound::TimesThat(1.02, "workers-1"));
        }
        all.push(scenario);
    }
    for (name, title, proxies) in [
        ("proxies-1", "1 proxy", 1),
        ("proxies-5", "5 proxies that do not know of each other", 5),
        ("proxies-50", "50 proxies that do not know of each other", 50),
    ] {
        all.push(
            Scenario {
                note: "20 endpoints of four cores, 5 of them at half speed, 80 % busy.",
                proxies,
                seconds: 20,
                counted: 5..20,
                reports: proxies > 1,
                ..half_speed(name, title, 20, 5, 0.8)
            }
            .watch("half-speed ones", 0..5, 5..20),
        );
    }
    all.push(Scenario {
        note: "20 endpoints of four cores, 90 % busy, all alike.",
        proxies: 50,
        seconds: 20,
        counted: 5..20,
        reports: true,
        ..half_speed(
            "proxies-50-equal",
            "50 proxies before equal endpoints",
            20,
            0,
            0.9,
        )
    });
    all
}

fn half_speed(name: &'static str, title: &'static str, count: u32, slow: u32, busy: f64) -> Scenario {
    let most = f64::from(2 * count - slow) / 2.0 * 4.0 * 100.0;
    Scenario::of(
        name,
        title,
        count,
        Service::Cores(4, Times::Exponential(10_000.0)),
        Arrivals::Poisson(busy * most),
    )
    .fault(0..slow, ALWAYS, Fault::Factor(2.0))
}
