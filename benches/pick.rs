//! What a pick costs, and that it allocates nothing.
//!
//! `cargo bench --bench pick`. Goals: 150 ns for the full scan of 16 endpoints, 600 ns for that of 100, 100 ns for two choices among
//! 1000 (least-request; least-latency draws eight). What is counted is the processor time of the threads that
//! pick, not the time on the wall: on a machine that others use as well, that one says mostly how busy they are. `cargo bench --bench pick -- --test` runs each once and only refuses allocations.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use fastrand::Rng;
use rustix::time::{ClockId, clock_gettime};
use tidegate::balance::{Fleet, Hedging, InFlight, LoadReport, Micros, Observed, Pick, RetryBudget};
use tidegate::model::{Backend, BackendName, Balance, Endpoint, HedgePolicy};

const NOW: Micros = Micros(1_000_000_000);

/// Endpoints that have answered in 1 to 5 ms, and have some exchanges in flight.
fn fleet(balance: Balance, endpoints: u16) -> (Fleet, Vec<InFlight>) {
    let mut policy = Backend::new(BackendName::new("bench"));
    policy.balance = balance;
    let endpoints: Vec<Endpoint> = (1..=endpoints)
        .map(|port| Endpoint::at(([127, 0, 0, 1], port).into()))
        .collect();
    let fleet = Fleet::build(Arc::new(policy), &endpoints, None, Micros(0));
    let mut in_flight = Vec::new();
    for (nth, candidate) in (0..).zip(fleet.candidates()) {
        let mut exchange = candidate.cell.start(Micros(NOW.0 - 1000 - 800 * (nth % 6)));
        exchange.head(NOW, Observed::Answered);
        in_flight.extend((0..nth % 4).map(|_| candidate.cell.start(Micros(NOW.0 - 500))));
    }
    (fleet, in_flight)
}

fn exchange(fleet: &Fleet, rng: &mut Rng, now: Micros) {
    if let Pick::Endpoint(candidate) = fleet.pick(now, rng, &[]) {
        let mut exchange = candidate.cell.start(now);
        exchange.head(Micros(now.0 + 1000), Observed::Answered);
    }
}

fn picks(criterion: &mut Criterion) {
    let cases = [
        (Balance::LeastLatency, &[2, 4, 16, 100, 1000][..]),
        (Balance::LeastRequest, &[16, 100, 1000]),
        (Balance::RoundRobin, &[16, 100]),
        (Balance::Random, &[16, 100]),
        (Balance::RingHash, &[16, 100]),
        (Balance::Maglev, &[16, 100]),
    ];
    let mut group = criterion.benchmark_group("pick");
    for (balance, sizes) in cases {
        for size in sizes {
            let (fleet, _in_flight) = fleet(balance, *size);
            let mut rng = Rng::with_seed(1);
            group.bench_function(format!("{balance:?} of {size}"), |bencher| {
                bencher.iter_custom(|iterations| {
                    processor_time(|| {
                        for _ in 0..iterations {
                            black_box(fleet.pick(black_box(NOW), &mut rng, &[]));
                        }
                    })
                });
            });
        }
    }
}

fn exchanges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick, start, head, end");
    for threads in [1, 8] {
        for size in [2, 16, 100] {
            let (fleet, _in_flight) = fleet(Balance::LeastLatency, size);
            group.bench_function(format!("{threads} threads, {size} endpoints"), |bencher| {
                bencher.iter_custom(|iterations| on_threads(threads, iterations, &fleet));
            });
        }
    }
    let budget = RetryBudget::new(&Backend::new(BackendName::new("bench")).retry_budget);
    group.bench_function("retry budget, a request", |bencher| {
        bencher.iter_custom(|iterations| {
            processor_time(|| (0..iterations).for_each(|_| budget.on_request(black_box(NOW))))
        });
    });
    let hedging = Hedging::new(&HedgePolicy::default());
    group.bench_function("hedging, a request and its answer", |bencher| {
        bencher.iter_custom(|iterations| {
            processor_time(|| (0..iterations).for_each(|_| hedged(&hedging, black_box(NOW))))
        });
    });
    let (fleet, in_flight) = fleet(Balance::LeastLatency, 4);
    let form = |name: &str, field: &'static str| (name.to_owned(), field.as_bytes());
    for (name, field) in [form("text", TEXT), form("JSON", JSON), form("binary", BINARY)] {
        group.bench_function(format!("load report, {name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                processor_time(|| (0..iterations).for_each(|_| reported(&in_flight, black_box(field))))
            });
        });
    }
    drop(fleet);
}

const TEXT: &str = "TEXT cpu_utilization=0.5, named_metrics.in_flight=12";
const JSON: &str = r#"JSON {"cpu_utilization":0.5,"named_metrics":{"in_flight":12}}"#;
const BINARY: &str = "BIN CQAAAAAAAOA/QhQKCWluX2ZsaWdodBEAAAAAAAAoQA==";

fn hedged(hedging: &Hedging, now: Micros) {
    hedging.on_request(now);
    black_box(hedging.delay());
    hedging.on_answer(now, 1000);
}

fn reported(in_flight: &[InFlight], field: &[u8]) {
    if let (Some(exchange), Ok(report)) = (in_flight.last(), LoadReport::of_field(field)) {
        exchange.report(&report);
    }
}

/// Processor time of exchanges that threads share, all of them with the same fleet.
fn on_threads(threads: u64, iterations: u64, fleet: &Fleet) -> Duration {
    let work = |seed| {
        let mut rng = Rng::with_seed(seed);
        processor_time(|| {
            for _ in 0..iterations.div_ceil(threads) {
                exchange(fleet, &mut rng, black_box(NOW));
            }
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|seed| scope.spawn(move || work(seed))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
    })
}

/// What the current thread spent on something.
fn processor_time(work: impl FnOnce()) -> Duration {
    let spent = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
    };
    let before = spent();
    work();
    spent().saturating_sub(before)
}

/// Not a measurement: fails when an exchange's part in here allocates.
fn nothing_is_allocated(_: &mut Criterion) {
    for balance in Balance::ALL {
        for size in [1, 2, 16, 100, 200] {
            let (fleet, in_flight) = fleet(balance, size);
            let hedging = Hedging::new(&HedgePolicy::default());
            let budget = RetryBudget::new(&fleet.policy().retry_budget);
            let mut rng = Rng::with_seed(1);
            let allocated = allocation_counter::measure(|| {
                for step in 0..10_000 {
                    let now = Micros(NOW.0 + step * 100);
                    budget.on_request(now);
                    exchange(&fleet, &mut rng, now);
                    if let Pick::Endpoint(candidate) = fleet.pick(now, &mut rng, &[1, 2, 3]) {
                        let mut exchange = candidate.cell.start(now);
                        exchange.head(now, Observed::Failed);
                        fleet.judge(exchange.cell(), now);
                    }
                    black_box(budget.try_retry(now));
                    hedged(&hedging, now);
                    black_box(hedging.try_hedge(now));
                    for field in [TEXT, JSON, BINARY] {
                        assert!(LoadReport::of_field(field.as_bytes()).is_ok());
                        reported(&in_flight, field.as_bytes());
                    }
                }
            });
            assert_eq!(allocated.count_total, 0, "{balance:?} of {size}");
        }
    }
}

criterion_group!(benches, nothing_is_allocated, picks, exchanges);
criterion_main!(benches);
