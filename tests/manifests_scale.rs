//! Measurements of a large world: ten thousand HTTPRoutes, a hundred thousand endpoints.
//!
//! `cargo test --release --test manifests_scale -- --ignored --nocapture --test-threads 1`
#![allow(
    clippy::unwrap_used, // a test fails by it, also in the functions that the tests share
    clippy::expect_used
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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

const ROUTES: usize = 10_000;
const SERVICES: usize = 1_000;

/// The binary with a large directory: its memory, and the time from an edit to the first request that follows it.
#[test]
#[ignore = "a measurement; run it in release mode, on a quiet machine"]
fn an_edit_is_followed_by_the_next_request() {
    const EDITS: usize = 100;
    // Every address of 127/8 leads to these.
    let (old, new) = (answering("old"), answering("new"));
    let directory = tempfile::tempdir().unwrap();
    let edge = free_port();
    for (name, text) in &large_world() {
        put(
            &directory.path().join(name),
            &text.replace("port: 80, protocol", &format!("port: {edge}, protocol")),
        );
    }
    let probed = |port: u16| large_slice_at(0, 0, "127.0.1", port);
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: svc-0}\nspec: {ports: [{name: http, port: 80}]}\n";
    put(&directory.path().join("svc-0/svc-0.yaml"), service);
    let slice = directory.path().join("svc-0/probed.yaml");
    put(&slice, &probed(old));

    let started = Instant::now();
    let process = Process::start(directory.path());
    let mut client = Asker::new(process.await_port(edge));
    client.until("old");
    println!("files to first answer: {:.1?}", started.elapsed());
    let resident = process.resident_kilobytes();
    println!("resident after the start: {:.1} MiB", resident as f64 / 1024.0);

    let temporary = directory.path().join("svc-0/.tmp");
    let replace = |text: &str| {
        put(&temporary, text);
        let began = Instant::now();
        fs::rename(&temporary, &slice).unwrap();
        began
    };
    let mut renamed = Vec::new();
    let mut in_place = Vec::new();
    let mut removed = Vec::new();
    let mut restored = Vec::new();
    for edit in 0..EDITS {
        let (says, port) = if edit % 2 == 0 { ("new", new) } else { ("old", old) };
        rest();
        let began = replace(&probed(port));
        renamed.push(client.until(says) - began);
    }
    for edit in 0..EDITS {
        let (says, port) = if edit % 2 == 0 { ("new", new) } else { ("old", old) };
        let text = probed(port);
        rest();
        let began = Instant::now();
        fs::write(&slice, text).unwrap();
        in_place.push(client.until(says) - began);
    }
    for _ in 0..EDITS {
        rest();
        let began = Instant::now();
        fs::remove_file(&slice).unwrap();
        removed.push(client.until("503") - began);
        rest();
        let began = replace(&probed(old));
        restored.push(client.until("old") - began);
    }
    println!("from the edit to the answer to the first request that follows it:");
    for (what, times) in [
        ("slice replaced by a rename", renamed),
        ("slice written in place", in_place),
        ("slice deleted", removed),
        ("slice put there", restored),
    ] {
        println!("{what}: {}", quantiles(times));
    }
    let resident = process.resident_kilobytes();
    println!("resident at the end: {:.1} MiB", resident as f64 / 1024.0);
}

/// Longer than anything that follows an edit, so that each edit comes after a quiet moment.
fn rest() {
    std::thread::sleep(Duration::from_millis(60));
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1];
    format!(
        "p50 {:.2?}, p99 {:.2?}, max {:.2?} of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    )
}

/// The release binary, for as long as it is held.
struct Process(Child);

impl Process {
    fn start(manifests: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args([
                "run",
                "--gateway-address",
                "127.0.0.1",
                "--admin",
                "127.0.0.1:0",
                "--workers",
                "2",
            ])
            .arg("--manifests")
            .arg(manifests)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits until it listens.
    fn await_port(&self, port: u16) -> SocketAddr {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for _ in 0..1000 {
            if TcpStream::connect(address).is_ok() {
                return address;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not listen");
    }

    fn resident_kilobytes(&self) -> usize {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks again and again on one connection, five thousand times a second at the most.
struct Asker(TcpStream);

impl Asker {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// The moment at which an answer had this in its first line or body.
    fn until(&mut self, text: &str) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.0
                .write_all(b"GET /path-0 HTTP/1.1\r\nhost: host-0.example.com\r\n\r\n")
                .unwrap();
            let answer = self.answer();
            let now = Instant::now();
            if answer.contains(text) {
                return now;
            }
            assert!(now < deadline, "{text} never comes: {answer}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn answer(&mut self) -> String {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.0.read(&mut buffer).unwrap();
            assert!(count > 0, "the connection ended: {text}");
            text += std::str::from_utf8(&buffer[..count]).unwrap();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .ok()
                });
                if body.len() >= length.unwrap_or(0usize) {
                    return text;
                }
            }
        }
    }
}

/// A server on every address of the machine that answers every request with a word; gives its port.
fn answering(word: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len());
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The files of ten thousand routes and a thousand Services with a hundred endpoints each.
fn large_world() -> Vec<(String, String)> {
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
    files
}

/// From files to the delta, and from an edit to the delta.
#[tokio::test]
#[ignore = "a measurement; run it in release mode"]
async fn a_large_directory_loads_in_seconds() {
    let files = large_world();
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
    let network = format!("10.{}.{}", service / 250, service % 250);
    large_slice_at(service, generation, &network, 8080)
}

fn large_slice_at(service: usize, generation: usize, network: &str, port: u16) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: svc-{service}-x\n  labels:\n    kubernetes.io/service-name: \
         svc-{service}\naddressType: IPv4\nports:\n- name: http\n  port: {port}\nendpoints:\n"
    );
    for nth in 0..100 {
        let _ = write!(
            text,
            "- addresses:\n  - {network}.{}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  nodeName: node-{nth}\n  targetRef:\n    \
             kind: Pod\n    name: svc-{service}-{generation}-{nth}\n    namespace: default\n  zone: zone-{}\n",
            nth + 1,
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
