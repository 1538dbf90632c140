//! Route lookup: what a request pays for finding its rule, among 10, 1 000 and 10 000 routes.
//!
//! Requests go through the routes in random order, so that at 10 000 routes the tables come from the
//! outer caches, as they do under real traffic. Goal: 300 ns.

#[path = "common/world.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod world;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use tidegate::balance::Micros;
use tidegate::model::Delta;
use tidegate::snapshot::{Compiler, RequestHead};
use tidegate::telemetry::Metrics;

fn lookups(criterion: &mut Criterion) {
    for count in [10, 1_000, 10_000] {
        let hosts: Vec<_> = (0..count)
            .map(|index| (world::host(index), "/any/path/at/all".to_owned()))
            .collect();
        lookup(
            criterion,
            &format!("one route each of {count} hosts"),
            world::many_hosts(count),
            &hosts,
        );
        let paths: Vec<_> = (0..count)
            .map(|index| {
                let below = if index % 2 == 0 { "/orders/17" } else { "" };
                ("example.com".to_owned(), world::path(index) + below)
            })
            .collect();
        lookup(
            criterion,
            &format!("{count} paths of one host"),
            world::many_paths(count),
            &paths,
        );
    }
}

fn lookup(criterion: &mut Criterion, name: &str, delta: Delta, requests: &[(String, String)]) {
    let mut compiler = Compiler::new(Metrics::new(1));
    compiler.apply(&"bench".into(), delta, Micros(0));
    let snapshot = compiler.readers().load();
    let headers = HeaderMap::new();
    let mut random = fastrand::Rng::with_seed(1);
    criterion.bench_function(&format!("find/{name}"), |bencher| {
        bencher.iter(|| {
            let (host, path) = &requests[random.usize(..requests.len())];
            let head = RequestHead {
                method: &Method::GET,
                host,
                path,
                query: None,
                headers: &headers,
            };
            let bind = snapshot.bind(&world::address());
            let found = bind.and_then(|bind| bind.find(black_box(&head)));
            assert!(found.is_some());
            found.map(|found| found.rule.index)
        });
    });
}

criterion_group!(benches, lookups);
criterion_main!(benches);
