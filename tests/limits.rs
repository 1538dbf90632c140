//! Bounds and edges of the process: addresses of the other family, too many connections, no descriptors left, a log that
//! cannot be written, an admin listener that is besieged.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::endpoint::{report, reported, saying};
use support::{Client, Down, Endpoint, H1, H2C, Setup, Wire, soon, until};
use tidegate::config::{AccessLogSettings, AccessLogTarget};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_be_ipv6() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        println!("left out: there is no ::1 on this machine");
        return;
    };
    let h1 = Endpoint::serve_on(listener, H1, |request| async { report(request).await });
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let h2c = Endpoint::serve_on(listener, H2C, |request| async { report(request).await });
    let mut setup = Setup::to(&[h1.address])
        .backend("two", &[h2c.address], |backend| backend.protocol = H2C)
        .path("/two", |rule| {
            rule.backends = vec![support::proxy::share("two", 1)];
        });
    setup.listener.address = "[::1]:0".parse().unwrap();
    let proxy = setup.start().await;
    assert!(proxy.address.is_ipv6());
    for down in Down::BOTH {
        for path in ["/one", "/two"] {
            let said = proxy.client(down).await.get(path).await.json();
            assert_eq!(said["target"], path);
            assert_eq!(reported(&said, "x-forwarded-for"), ["::1"]);
        }
    }
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 4);
    for line in lines {
        assert_eq!((line.outcome(), line.status()), ("answered", 200));
        let endpoint = line.0["endpoint"].as_str().unwrap();
        assert!([h1.address.to_string(), h2c.address.to_string()].contains(&endpoint.to_owned()));
        assert!(line.0["client"].as_str().unwrap().contains("::1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_closed_and_places_come_back() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.max_connections = 3)
        .with_admin()
        .start()
        .await;
    let refused = format!(
        "tidegate_connections_refused_total{{listener=\"{}\"}}",
        proxy.address
    );
    let get = "GET / HTTP/1.1\r\nhost: test.example\r\n\r\n";
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut wire = proxy.wire().await;
        assert_eq!(wire.ask(get).await.text(), "ok");
        inside.push(wire);
    }
    for number in 1..=5 {
        let (bytes, _) = soon("the refusal", proxy.wire().await.rest()).await;
        assert_eq!(bytes, b"");
        proxy.until_metric(&refused, f64::from(number)).await;
    }
    for wire in &mut inside {
        assert_eq!(wire.ask(get).await.text(), "ok", "who is inside stays");
    }
    inside.pop();
    until("a place to come back", || proxy.running.connections() == 2).await;
    let mut wire = proxy.wire().await;
    assert_eq!(wire.ask(get).await.text(), "ok");
    let (bytes, _) = soon("the refusal", proxy.wire().await.rest()).await;
    assert_eq!(bytes, b"", "and only one");
    proxy.stop().await;
}

/// The binary, with few descriptors.
struct Poor {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
}

/// Descriptors that it has: some more than it needs for itself.
const DESCRIPTORS: u32 = 64;

impl Poor {
    fn start(endpoint: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tidegate.yaml");
        let text = format!(
            "listen: \"127.0.0.1:0\"\nadmin: {{enabled: false}}\nworkers: 1\nroutes: [{{to: \"{endpoint}\"}}]\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "ulimit -n $1 && exec \"$2\" run --config \"$3\"", "sh"])
            .arg(DESCRIPTORS.to_string())
            .arg(env!("CARGO_BIN_EXE_tidegate"))
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, sink) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            log,
            _directory: directory,
        }
    }

    fn count(&self, what: &str) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains(what)).count()
    }

    async fn address(&self) -> SocketAddr {
        until("it to listen", || self.count("listening on http://") > 0).await;
        let log = self.log.lock().unwrap();
        let line = log
            .iter()
            .find_map(|line| line.split("listening on http://").nth(1));
        let text: String = line
            .unwrap()
            .chars()
            .take_while(|letter| letter.is_ascii_digit() || ".:".contains(*letter))
            .collect();
        text.parse().unwrap()
    }
}

impl Drop for Poor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_descriptors_waits_until_some_are_free() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let process = Poor::start(endpoint.address);
    let address = process.address().await;
    let get = "GET / HTTP/1.1\r\nhost: test.example\r\n\r\n";
    let mut first = Wire::connect(address).await;
    assert_eq!(first.ask(get).await.text(), "ok");

    let began = Instant::now();
    let mut crowd = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        crowd.push(Wire::connect(address).await);
    }
    until("it to be short of descriptors", || {
        process.count("cannot accept connections for now") >= 3
    })
    .await;
    // Who is inside is served meanwhile.
    for _ in 0..3 {
        assert_eq!(first.ask(get).await.text(), "ok");
    }
    // It does not spin: at most one try in 50 ms, however long this took.
    let tries = process.count("cannot accept connections for now");
    let most = began.elapsed().as_millis() / 50 + 1;
    assert!(tries as u128 <= most, "{tries} tries, {most} are due at the most");

    // Those who waited are served when others have gone, and nothing is left behind.
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    assert_eq!(soon("its turn", last.ask(get)).await.text(), "ok");
    for _ in 0..DESCRIPTORS {
        let mut wire = Wire::connect(address).await;
        assert_eq!(soon("a place", wire.ask(get)).await.text(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_log_that_cannot_be_opened_is_an_error_at_the_start() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let setup = Setup::to(&[endpoint.address]);
    let missing = setup.directory.path().join("not/there/access.log");
    for path in [missing, setup.directory.path().to_owned()] {
        let mut options = tidegate::app::Options {
            settings: setup.settings.clone(),
            sources: Vec::new(),
        };
        options.settings.access_log = Some(log_to(path.clone()));
        let error = tidegate::app::start(options)
            .await
            .err()
            .expect("no log, no start");
        let text = format!("{error:#}");
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_log_that_cannot_be_written_costs_lines_and_no_request() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .settings(|settings| settings.access_log = Some(log_to("/dev/full".into())))
        .with_admin()
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    proxy
        .until_metric("tidegate_access_log_dropped_total", 20.0)
        .await;
    assert_eq!(client.get("/").await.text(), "ok");
    soon("the end", proxy.running.stop()).await;
}

fn log_to(path: PathBuf) -> AccessLogSettings {
    AccessLogSettings {
        to: AccessLogTarget::File(path),
        ..AccessLogSettings::default()
    }
}

/// As in `src/admin/serve.rs`.
const ADMIN_CONNECTIONS: usize = 128;

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_has_room_for_so_many_and_the_next_waits() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .backend("other", &[endpoint.address], |_| {})
        .path("/other", |rule| {
            rule.backends = vec![support::proxy::share("other", 1)];
        })
        .with_admin()
        .start()
        .await;
    let admin = proxy.running.admin.unwrap();
    let get = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut inside = Vec::new();
    for _ in 0..ADMIN_CONNECTIONS {
        let mut wire = Wire::connect(admin).await;
        assert_eq!(wire.ask(get).await.status(), 200);
        inside.push(wire);
    }
    let mut next = Wire::connect(admin).await;
    next.send(get).await;
    assert!(next.is_silent_for(Duration::from_millis(300)).await);
    // The data plane does not notice.
    assert_eq!(proxy.get("/").await.text(), "ok");
    inside.pop();
    assert_eq!(soon("its turn", next.response()).await.unwrap().status(), 200);
    drop((inside, next));

    let page = proxy.admin("/backends?limit=1").await.json();
    assert_eq!(
        (page["total"].as_u64(), page["items"].as_array().unwrap().len()),
        (Some(2), 1)
    );
    for bad in ["/backends?limit=x", "/backends?limit=-1"] {
        assert_eq!(proxy.admin(bad).await.status.as_u16(), 400, "{bad}");
    }
    let mut client = Client::connect(Down::H1, admin).await;
    let mut request = support::client::request(http::Method::POST, "/backends");
    request
        .headers_mut()
        .insert("host", http::HeaderValue::from_static("localhost"));
    assert_eq!(client.send(request).await.status.as_u16(), 405, "it is read-only");
    proxy.stop().await;
}
