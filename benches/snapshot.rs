//! What a change costs the compiler, in a world of 10 000 routes and 100 000 endpoints: from the delta to
//! the snapshot that every worker sees. Goals: 1 ms for endpoints, 2 s for the whole world at first,
//! 60 MB for it.

#[path = "common/world.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod world;

use std::time::Instant;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use tidegate::balance::Micros;
use tidegate::model::{Delta, HostPattern, PathMatch};
use tidegate::snapshot::Compiler;
use tidegate::telemetry::Metrics;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUTES: usize = 10_000;
const ENDPOINTS_EACH: usize = 10;

fn changes(criterion: &mut Criterion) {
    for (shape, delta) in [
        ("10000 hosts", world::many_hosts as fn(usize) -> Delta),
        ("one host", world::many_paths),
    ] {
        let mut compiler = whole(shape, || delta(ROUTES));
        // What a worker does: keeps the snapshot it has, so that nothing can be changed in place.
        let reader = compiler.readers().reader();
        let mut random = fastrand::Rng::with_seed(1);
        let mut port = 9_000_u16;

        criterion.bench_function(&format!("apply/{shape}/endpoints of one backend"), |bencher| {
            bencher.iter_batched(
                || {
                    port += 1;
                    let index = random.usize(..ROUTES);
                    let mut delta = Delta::default();
                    let endpoints = world::endpoints(index, ENDPOINTS_EACH, port);
                    delta
                        .endpoints
                        .insert(world::backend_name(index), Some(endpoints));
                    delta
                },
                |delta| {
                    let applied = compiler.apply(&"bench".into(), delta, Micros(0));
                    assert!(applied.published.is_none() && applied.backends_changed.len() == 1);
                },
                BatchSize::SmallInput,
            );
        });

        let mut created = 0;
        criterion.bench_function(&format!("apply/{shape}/one route"), |bencher| {
            bencher.iter_batched(
                || {
                    created += 1;
                    let index = random.usize(..ROUTES);
                    let (host, path) = match shape {
                        "one host" => ("example.com".to_owned(), PathMatch::prefix(&world::path(index))),
                        _ => (world::host(index), PathMatch::default()),
                    };
                    let (name, route) = world::route(index, HostPattern::Exact(host.into()), path);
                    let mut delta = Delta::default();
                    let mut route = (*route.unwrap()).clone();
                    route.created = created;
                    delta.routes.insert(name, Some(route.into()));
                    (delta, reader.current())
                },
                |(delta, _held)| {
                    let applied = compiler.apply(&"bench".into(), delta, Micros(0));
                    assert!(applied.published.is_some());
                },
                BatchSize::PerIteration,
            );
        });
    }
}

/// The whole world at once; says what it took. The delta's own share of the memory stays with the
/// compiler: what it gave is what is kept.
fn whole(shape: &str, routes: impl FnOnce() -> Delta) -> Compiler {
    let before = resident_bytes();
    let mut delta = routes();
    world::backends(&mut delta, ROUTES, ENDPOINTS_EACH);
    let model = resident_bytes();
    let mut compiler = Compiler::new(Metrics::new(2));
    let started = Instant::now();
    compiler.apply(&"bench".into(), delta, Micros(0));
    println!(
        "apply/{shape}/the whole world: {:?}; model and compiled {} MB, of which the model {} MB",
        started.elapsed(),
        resident_bytes().saturating_sub(before) >> 20,
        model.saturating_sub(before) >> 20,
    );
    compiler
}

/// Resident memory of the process; the second field of `statm`, in pages of 4 KiB. 0 where there is none.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

criterion_group!(benches, changes);
criterion_main!(benches);
