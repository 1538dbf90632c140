//! Measurements of a large world: ten thousand HTTPRoutes, a hundred thousand endpoints.
//!
//! `cargo test --release --test manifests_scale -- --ignored --nocapture --test-threads 1`
#![allow(
    clippy::unwrap_used, // a test fails by it, also in the functions that the tests share
    clippy::expect_used
)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate::kubernetes::{Index, Kind, Manifests, Object, Settings};

const EDGE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: tidegate
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
";

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// From files to the delta, and from an edit to the delta.
#[tokio::test]
#[ignore = "a measurement; run it in release mode"]
async fn a_large_directory_loads_in_seconds() {
    const ROUTES: usize = 10_000;
    const SERVICES: usize = 1_000;
    let mut files = vec![("edge.yaml".to_owned(), EDGE.to_owned())];
    for service in 0..SERVICES {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{service}\nspec:\n  ports:\n  - name: http\n    port: 80\n---\n"
        );
        text += &large_slice(service, 0);
        files.push((format!("svc-{}/svc-{service}.yaml", service % 10), text));
    }
    for file in 0..100 {
        let mut text = String::new();
        for nth in 0..ROUTES / 100 {
            let name = file * 100 + nth;
            let _ = write!(
                text,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: route-{name}\n  annotations:\n    owner: team\nspec:\n  \
                 parentRefs:\n  - name: edge\n  hostnames:\n  - host-{}.example.com\n  rules:\n  - matches:\n    - path:\n        type: PathPrefix\n        \
                 value: /path-{name}\n    backendRefs:\n    - name: svc-{}\n      port: 80\n",
                name / 10,
                name % SERVICES
            );
        }
        files.push((format!("routes/{file}.yaml"), text));
    }
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    let memory = resident_megabytes();
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in &files {
        put(&directory.path().join(name), text);
    }
    let processor = processor_time();
    let start = Instant::now();
    let (mut manifests, delta, rejects) = Manifests::open(directory.path(), Settings::default()).unwrap();
    let took = start.elapsed();
    let processor = processor_time() - processor;
    println!(
        "{} MB in {} files, {} routes, {} endpoints: open {took:?} ({processor:?} on the processor), resident +{} MB",
        bytes / 1_000_000,
        files.len(),
        delta.routes.len(),
        delta
            .endpoints
            .values()
            .flatten()
            .map(|endpoints| endpoints.len())
            .sum::<usize>(),
        resident_megabytes() - memory
    );
    assert_eq!(delta.routes.len(), ROUTES);
    assert_eq!(rejects, []);
    assert!(took < Duration::from_secs(10), "{took:?}");

    let mut worst = Duration::ZERO;
    for generation in 1..=20 {
        let service = generation * 17;
        let text = &files[service + 1].1;
        let text = text[..text.find("---\n").unwrap() + 4].to_owned() + &large_slice(service, generation);
        let path = directory.path().join(&files[service + 1].0);
        put(&directory.path().join(".tmp"), &text);
        let start = Instant::now();
        fs::rename(directory.path().join(".tmp"), path).unwrap();
        let (delta, _) = manifests.next().await;
        worst = worst.max(start.elapsed());
        assert_eq!(delta.endpoints.len(), 1);
        assert!(delta.routes.is_empty());
    }
    println!("an edited slice is a delta after {worst:?} at the worst of 20 (5 ms of it gathering)");
}

/// What the index itself needs for the same world, and for one change of it.
#[test]
#[ignore = "a measurement; run it in release mode"]
fn a_change_of_one_slice_costs_that_slice() {
    let decode = |kind, value: serde_json::Value| Object::decode(kind, value).unwrap();
    let slice = |service: usize, generation: usize| {
        let endpoints: Vec<_> = (0..100)
            .map(|nth| {
                json!({"addresses": [format!("10.{}.{}.{nth}", service / 250, service % 250)], "zone": format!("zone-{}", nth % 3),
                    "targetRef": {"name": format!("svc-{service}-{generation}-{nth}")}})
            })
            .collect();
        let labels = json!({"kubernetes.io/service-name": format!("svc-{service}")});
        decode(
            Kind::EndpointSlice,
            json!({"metadata": {"name": format!("svc-{service}-x"), "labels": labels}, "ports": [{"port": 8080}], "endpoints": endpoints}),
        )
    };
    let mut objects = vec![decode(
        Kind::Gateway,
        json!({"metadata": {"name": "edge"}, "spec": {"gatewayClassName": "tidegate", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
    )];
    let memory = resident_megabytes();
    for service in 0..1000 {
        let metadata = json!({"name": format!("svc-{service}")});
        objects.push(decode(
            Kind::Service,
            json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}}),
        ));
        objects.push(slice(service, 0));
    }
    for route in 0..10_000 {
        objects.push(decode(
            Kind::HttpRoute,
            json!({"metadata": {"name": format!("route-{route}")}, "spec": {"parentRefs": [{"name": "edge"}],
                "hostnames": [format!("host-{}.example.com", route / 10)], "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": format!("/path-{route}")}}],
                "backendRefs": [{"name": format!("svc-{}", route % 1000), "port": 80}]}]}}),
        ));
    }
    let mut index = Index::new("measure".into(), Settings::default());
    let start = Instant::now();
    for object in objects {
        index.apply(object);
    }
    let delta = index.take_delta();
    let took = start.elapsed();
    assert_eq!((delta.routes.len(), delta.endpoints.len()), (10_000, 1000));
    assert_eq!(index.rejects(), []);
    println!(
        "objects to delta: {took:?}, resident +{} MB",
        resident_megabytes() - memory
    );
    drop(delta);

    let mut times: Vec<Duration> = (1..=1000)
        .map(|generation| {
            let changed = slice(generation * 7 % 1000, generation);
            let start = Instant::now();
            index.apply(changed);
            let delta = index.take_delta();
            let took = start.elapsed();
            assert_eq!(delta.endpoints.len(), 1);
            took
        })
        .collect();
    times.sort();
    println!(
        "one slice of 100 endpoints: median {:?}, 99 % {:?}",
        times[500], times[990]
    );
    assert!(times[500] < Duration::from_millis(1));
}

fn large_slice(service: usize, generation: usize) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{service}-x\n  labels:\n    kubernetes.io/service-name: \
         svc-{service}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\nendpoints:\n"
    );
    for nth in 0..100 {
        let _ = write!(
            text,
            "- addresses:\n  - 10.{}.{}.{}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  nodeName: node-{nth}\n  targetRef:\n    \
             kind: Pod\n    name: svc-{service}-{generation}-{nth}\n    namespace: default\n  zone: zone-{}\n",
            service / 250,
            service % 250,
            nth,
            nth % 3
        );
    }
    text
}

fn resident_megabytes() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 / 1_000_000
}

/// Time that this thread has had a processor: what a busy machine does not change.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
