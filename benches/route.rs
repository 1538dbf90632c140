//! Route lookup: what a request pays for finding its rule, among 10, 1 000 and 10 000 routes.
//!
//! Requests go through the routes in random order, so that at 10 000 routes the tables come from the
//! outer caches, as they do under real traffic. Goal: 300 ns, and no allocation: `cargo bench --bench route -- --test` runs
//! each once and refuses those.

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
        let (name, delta, requests) = hosts(count);
        lookup(criterion, &name, delta, &requests);
        let (name, delta, requests) = paths(count);
        lookup(criterion, &name, delta, &requests);
    }
}

/// What is looked up: its name, the world, and hosts with paths that are routed in it.
type Case = (String, Delta, Vec<(String, String)>);

fn hosts(count: usize) -> Case {
    let requests = (0..count)
        .map(|index| (world::host(index), "/any/path/at/all".to_owned()))
        .collect();
    let name = format!("one route each of {count} hosts");
    (name, world::many_hosts(count), requests)
}

fn paths(count: usize) -> Case {
    let requests = (0..count)
        .map(|index| {
            let below = if index % 2 == 0 { "/orders/17" } else { "" };
            ("example.com".to_owned(), world::path(index) + below)
        })
        .collect();
    (
        format!("{count} paths of one host"),
        world::many_paths(count),
        requests,
    )
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

/// Not a measurement: fails when a lookup allocates, be it for a route that is there or for one that is not.
fn nothing_is_allocated(_: &mut Criterion) {
    for (name, delta, mut requests) in [hosts(10), hosts(1_000), paths(10), paths(1_000)] {
        let mut compiler = Compiler::new(Metrics::new(1));
        compiler.apply(&"bench".into(), delta, Micros(0));
        let snapshot = compiler.readers().load();
        let routed = requests.len();
        requests.push(("nobody.example.org".to_owned(), "/".to_owned()));
        requests.push(("Example.COM".to_owned(), "/no/such/path".to_owned()));
        let mut headers = HeaderMap::new();
        headers.insert("x-env", http::HeaderValue::from_static("test"));
        let mut found = 0;
        let allocated = allocation_counter::measure(|| {
            for (host, path) in &requests {
                let head = RequestHead {
                    method: &Method::GET,
                    host,
                    path,
                    query: Some("a=b&c=d"),
                    headers: &headers,
                };
                let bind = snapshot.bind(&world::address());
                let rule = bind.and_then(|bind| bind.find(black_box(&head)));
                found += usize::from(black_box(rule).is_some());
            }
        });
        assert_eq!((found, allocated.count_total), (routed, 0), "{name}");
    }
}

criterion_group!(benches, nothing_is_allocated, lookups);
criterion_main!(benches);
