//! The admin listener over real sockets.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::view::{
    Ask, BackendView, CertificateView, EndpointView, ListenerView, Page, RejectView, RouteView, View,
};
use super::*;
use crate::telemetry::{Gates, Metrics};

struct Small;

impl View for Small {
    fn snapshot_generation(&self) -> u64 {
        3
    }

    fn listeners(&self, ask: &Ask) -> Page<ListenerView> {
        ask.answer(
            ["http"].into_iter(),
            |name| name,
            |name| ListenerView {
                name: name.to_owned(),
                ..ListenerView::default()
            },
        )
    }

    fn backends(&self, ask: &Ask) -> Page<BackendView> {
        ask.answer(
            ["default/web:80", "</script><b>"].into_iter(),
            |name| name,
            |name| BackendView {
                name: name.to_owned(),
                endpoints: vec![EndpointView {
                    address: "10.0.0.7:8080".to_owned(),
                    state: "active".to_owned(),
                    ..EndpointView::default()
                }],
                ..BackendView::default()
            },
        )
    }

    fn routes(&self, ask: &Ask) -> Page<RouteView> {
        ask.answer(
            ["shop"].into_iter(),
            |name| name,
            |name| RouteView {
                name: name.to_owned(),
                ..RouteView::default()
            },
        )
    }

    fn rejects(&self, ask: &Ask) -> Page<RejectView> {
        ask.answer(std::iter::empty::<&str>(), |name| name, |_| RejectView::default())
    }

    fn certificates(&self, ask: &Ask) -> Page<CertificateView> {
        ask.answer(
            std::iter::empty::<&str>(),
            |name| name,
            |_| CertificateView::default(),
        )
    }
}

struct Admin {
    address: SocketAddr,
    gates: Arc<Gates>,
    metrics: Arc<Metrics>,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn admin(bind: &str) -> Admin {
    let listener = TcpListener::bind(bind).await.unwrap();
    let address = listener.local_addr().unwrap();
    let gates = Arc::new(Gates::closed([
        ("snapshot", "nothing read yet"),
        ("listeners", "not bound"),
    ]));
    let metrics = Metrics::new(1);
    let state = AdminState::new(Arc::clone(&metrics), Arc::clone(&gates), Arc::new(Small)).unwrap();
    let (shutdown, asked) = oneshot::channel();
    let served = tokio::spawn(serve(listener, Arc::new(state), async move {
        let _ = asked.await;
    }));
    Admin {
        address,
        gates,
        metrics,
        shutdown,
        served,
    }
}

/// Sends bytes, gives what comes until the end of the connection: head and body.
async fn send(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    time::timeout(Duration::from_secs(10), reading)
        .await
        .unwrap()
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

async fn ask(admin: &Admin, method: &str, target: &str) -> (u16, String, String) {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (head, body) = send(admin.address, &request).await;
    (head[9..12].parse().unwrap(), head, body)
}

#[tokio::test]
async fn every_path_answers_as_documented() {
    let admin = admin("127.0.0.1:0").await;
    for (target, content_type, contains) in [
        ("/", "text/html; charset=utf-8", "<title>Tidegate</title>"),
        (
            "/metrics",
            "text/plain; version=0.0.4",
            "\ntidegate_build_info{version=",
        ),
        ("/livez", "text/plain; charset=utf-8", "ok\n"),
        ("/stats.json", "application/json", "\"default/web:80\""),
        (
            "/backends",
            "application/json",
            "{\"total\":2,\"items\":[{\"name\":\"default/web:80\"",
        ),
        (
            "/backends?name=default%2Fweb:80",
            "application/json",
            "{\"total\":1,",
        ),
        (
            "/backends?limit=0",
            "application/json",
            "{\"total\":2,\"items\":[]}",
        ),
        ("/routes", "application/json", "\"shop\""),
        ("/listeners", "application/json", "\"http\""),
        ("/rejects", "application/json", "{\"total\":0,\"items\":[]}"),
        ("/certificates", "application/json", "{\"total\":0,\"items\":[]}"),
    ] {
        let (status, head, body) = ask(&admin, "GET", target).await;
        assert_eq!(status, 200, "{target}");
        assert!(
            head.contains(&format!("content-type: {content_type}")),
            "{target}: {head}"
        );
        for field in ["cache-control: no-store", "x-content-type-options: nosniff"] {
            assert!(head.contains(field), "{target}: {head}");
        }
        assert!(body.contains(contains), "{target}: {body}");
        if content_type == "application/json" {
            serde_json::from_str::<serde_json::Value>(&body).unwrap();
        }

        let (status, head_only, body) = ask(&admin, "HEAD", target).await;
        assert_eq!((status, &*body), (200, ""), "{target}");
        assert!(head_only.contains("content-length: "), "{target}: {head_only}");
    }
    let (_, head, page) = ask(&admin, "GET", "/").await;
    assert!(
        head.contains("content-security-policy: default-src 'none'"),
        "{head}"
    );
    // Self-contained: nothing is loaded from anywhere.
    for outside in ["src=\"", "href=\"http", "url(", "@import", "innerHTML"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_refused_in_words() {
    let admin = admin("127.0.0.1:0").await;
    for (method, target, status, contains) in [
        ("GET", "/nothing", 404, "/stats.json"),
        ("POST", "/nothing", 404, ""),
        ("POST", "/", 405, "only GET and HEAD"),
        ("DELETE", "/backends", 405, "only GET and HEAD"),
        ("OPTIONS", "/metrics", 405, ""),
        ("GET", "/backends?limit=x", 400, "limit"),
        ("GET", "/backends?limit=100001", 400, "limit"),
    ] {
        let (told, head, body) = ask(&admin, method, target).await;
        assert_eq!(told, status, "{method} {target}");
        assert!(body.contains(contains), "{method} {target}: {body}");
        assert_eq!(head.contains("allow: get, head"), status == 405, "{head}");
    }
}

#[tokio::test]
async fn readiness_follows_the_gates() {
    let admin = admin("127.0.0.1:0").await;
    let (status, _, body) = ask(&admin, "GET", "/readyz").await;
    assert_eq!(
        (status, &*body),
        (
            503,
            "[-] listeners: not bound\n[-] snapshot: nothing read yet\nnot ready\n"
        )
    );
    admin.gates.open("snapshot");
    let (status, _, body) = ask(&admin, "GET", "/readyz?verbose").await;
    assert_eq!(
        (status, &*body),
        (503, "[-] listeners: not bound\n[+] snapshot\nnot ready\n")
    );
    admin.gates.open("listeners");
    assert_eq!(ask(&admin, "GET", "/readyz").await.2, "ready\n");
    let (status, _, body) = ask(&admin, "GET", "/readyz?verbose=1").await;
    assert_eq!((status, &*body), (200, "[+] listeners\n[+] snapshot\nready\n"));
    admin.gates.close("draining", "asked to end");
    assert_eq!(ask(&admin, "GET", "/readyz").await.0, 503);
    // Life is something else.
    assert_eq!(ask(&admin, "GET", "/livez").await.0, 200);
}

#[tokio::test]
async fn metrics_are_those_of_the_workers() {
    let admin = admin("127.0.0.1:0").await;
    let backend = admin.metrics.backend("web");
    backend.record(0, crate::telemetry::Outcome::Answered, 200, 1000, None, 0, 0);
    let (_, _, body) = ask(&admin, "GET", "/metrics").await;
    let line = "\ntidegate_requests_total{backend=\"web\",class=\"2xx\",outcome=\"answered\"} 1\n";
    let other_order = "\ntidegate_requests_total{backend=\"web\",outcome=\"answered\",class=\"2xx\"} 1\n";
    assert!(body.contains(line) || body.contains(other_order), "{body}");
}

#[tokio::test]
async fn a_foreign_name_is_refused_on_loopback() {
    let loopback = admin("127.0.0.1:0").await;
    for (target, fields, status) in [
        ("/livez", "Host: localhost:9900\r\n", 200),
        ("/livez", "Host: 127.0.0.1\r\n", 200),
        ("/livez", "Host: [::1]:1\r\n", 200),
        ("/livez", "Host: rebound.example\r\n", 403),
        ("/livez", "Host: localhost\r\nHost: rebound.example\r\n", 400),
        ("/livez", "", 400),
        ("http://rebound.example/livez", "Host: localhost\r\n", 403),
        ("http://localhost/livez", "Host: rebound.example\r\n", 403),
        ("http://localhost/livez", "Host: localhost\r\n", 200),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n");
        let (head, _) = send(loopback.address, &request).await;
        assert_eq!(
            head[9..12].parse::<u16>().unwrap(),
            status,
            "{target} {fields:?}: {head}"
        );
    }
    let (head, _) = send(loopback.address, "GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(head.contains(" 200 "), "{head}");

    // Elsewhere any name may be right.
    let everywhere = admin("0.0.0.0:0").await;
    let address = SocketAddr::from(([127, 0, 0, 1], everywhere.address.port()));
    let (head, _) = send(
        address,
        "GET /livez HTTP/1.1\r\nHost: pod.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(head.contains(" 200 "), "{head}");
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let admin = admin("127.0.0.1:0").await;
    let mut idle = TcpStream::connect(admin.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 16];
    assert!(idle.read(&mut some).await.unwrap() > 0);
    admin.shutdown.send(()).unwrap();
    time::timeout(Duration::from_secs(5), admin.served)
        .await
        .unwrap()
        .unwrap();
    let mut rest = Vec::new();
    let ended = time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest)).await;
    assert!(ended.is_ok());
    assert!(TcpStream::connect(admin.address).await.is_err());
}

#[tokio::test]
async fn a_large_head_is_refused() {
    let admin = admin("127.0.0.1:0").await;
    let mut stream = TcpStream::connect(admin.address).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    assert_eq!(ask(&admin, "GET", "/livez").await.0, 200);
}
