//! Ejection and active checks: endpoints that are set aside, why, and how they come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use tidegate::admin::{Ask, EndpointView, View};
use tidegate::model::{
    ActiveCheck, Backend, Balance, CheckKind, Comparable, Ejection, FailureShareOutlier, HttpCheck,
    SuccessRateOutlier,
};

use super::support::endpoint::saying;
use super::support::{Endpoint, H1, H2C, Proxy, Setup, data, fed, full, soon, until};
use super::{addresses, counts, send, several, who};

/// Answers with the status that is set.
async fn moody(status: &Arc<AtomicU16>) -> Endpoint {
    let status = Arc::clone(status);
    Endpoint::serve(H1, move |_| {
        let status = status.load(Ordering::SeqCst);
        async move { Response::builder().status(status).body(full("")).unwrap() }
    })
    .await
}

fn check(kind: CheckKind) -> ActiveCheck {
    ActiveCheck {
        kind,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        healthy_after: 1,
        unhealthy_after: 2,
        port: None,
        before_use: false,
    }
}

fn http(path: &str) -> HttpCheck {
    let ok = http::StatusCode::OK;
    HttpCheck {
        path: path.into(),
        host: None,
        headers: Vec::new(),
        statuses: vec![(ok, ok)],
        body: None,
    }
}

/// What the admin listener says of an endpoint.
fn view(proxy: &Proxy, address: std::net::SocketAddr) -> EndpointView {
    let page = proxy.running.live().backends(&Ask::up_to(100));
    let web = page
        .items
        .into_iter()
        .find(|backend| backend.name == "web")
        .unwrap();
    let address = address.to_string();
    web.endpoints
        .into_iter()
        .find(|endpoint| endpoint.address == address)
        .unwrap()
}

fn ejections(proxy: &Proxy) -> [u64; 6] {
    let snapshot = proxy.running.live().snapshot();
    let web = snapshot
        .backends()
        .find(|backend| backend.name.as_str() == "web")
        .unwrap();
    web.metrics.totals().ejections_by
}

fn round_robin(edit: impl FnOnce(&mut Ejection)) -> impl FnOnce(&mut Backend) {
    move |backend| {
        backend.balance = Balance::RoundRobin;
        let mut ejection = Ejection {
            base: Duration::from_secs(3600),
            max: Duration::from_secs(3600),
            ..Ejection::default()
        };
        edit(&mut ejection);
        backend.ejection = Some(ejection);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_more_often_than_the_others_is_found() {
    let turn = Arc::new(AtomicUsize::new(0));
    let every_third = Endpoint::serve(H1, move |_| {
        let fails = turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
        let status = if fails { 500 } else { 200 };
        async move { Response::builder().status(status).body(full("")).unwrap() }
    })
    .await;
    let good = several(4).await;
    let mut all = vec![every_third.address];
    all.extend(addresses(&good));
    let proxy = Setup::to(&all)
        .policy(round_robin(|ejection| {
            ejection.interval = Duration::from_millis(200);
            ejection.success_rate = Some(SuccessRateOutlier {
                among: Comparable {
                    min_endpoints: 5,
                    min_requests: 6,
                },
                deviation: 1900,
            });
        }))
        .start()
        .await;
    soon("the ejection", async {
        let mut client = proxy.client(super::support::Down::H1).await;
        while ejections(&proxy) == [0; 6] {
            client.get("/").await;
        }
    })
    .await;
    assert_eq!(ejections(&proxy), [0, 0, 1, 0, 0, 0]);
    let seen = view(&proxy, every_third.address);
    assert_eq!(seen.state, "ejected");
    assert_eq!(seen.ejected_because.as_deref(), Some("success-rate"));
    assert!(seen.ejected_for_ms.is_some() && seen.ejections == 1, "{seen:?}");
    let before = every_third.requests();
    for _ in 0..8 {
        assert_eq!(send(&proxy, "/", &[]).await.status, 200);
    }
    assert_eq!(every_third.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_failures_and_failures_of_others_are_told_apart() {
    for (status, expected) in [(503, [0, 1, 0, 0, 0, 0]), (500, [0, 0, 0, 1, 0, 0])] {
        let status = Arc::new(AtomicU16::new(status));
        let bad = moody(&status).await;
        let good = several(1).await;
        let proxy = Setup::to(&[bad.address, good[0].address])
            .policy(round_robin(|ejection| {
                ejection.consecutive_failures = 1_000_000;
                ejection.gateway_failures = Some(3);
                ejection.interval = Duration::from_millis(100);
                ejection.success_rate = None;
                ejection.failure_share = Some(FailureShareOutlier {
                    among: Comparable {
                        min_endpoints: 2,
                        min_requests: 3,
                    },
                    percent: 90,
                });
            }))
            .start()
            .await;
        soon("the ejection", async {
            let mut client = proxy.client(super::support::Down::H1).await;
            while ejections(&proxy) == [0; 6] {
                client.get("/").await;
            }
        })
        .await;
        assert_eq!(ejections(&proxy), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_that_go_well_end_an_ejection() {
    for ends in [true, false] {
        let status = Arc::new(AtomicU16::new(500));
        let flaky = moody(&status).await;
        let good = several(1).await;
        let proxy = Setup::to(&[flaky.address, good[0].address])
            .policy(round_robin(|ejection| ejection.ends_on_check = ends))
            // It says nothing of requests, so that the ejection is not the check's.
            .policy(|backend| backend.check = Some(check(CheckKind::Tcp)))
            .start()
            .await;
        soon("the ejection", async {
            while ejections(&proxy)[0] == 0 {
                send(&proxy, "/", &[]).await;
            }
        })
        .await;
        status.store(200, Ordering::SeqCst);
        if ends {
            until("it is pardoned", || view(&proxy, flaky.address).state == "active").await;
            let (both, _) = who(&[flaky, good.into_iter().next().unwrap()], async {
                send(&proxy, "/", &[]).await;
                send(&proxy, "/", &[]).await;
            })
            .await;
            assert_eq!(both.len(), 2);
        } else {
            until("it was asked", || {
                view(&proxy, flaky.address).check.as_deref() == Some("good")
            })
            .await;
            assert_eq!(view(&proxy, flaky.address).state, "ejected");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_says_counts() {
    let good = Endpoint::serve(H1, saying("all is well")).await;
    let bad = Endpoint::serve(H1, saying("on fire")).await;
    let kind = CheckKind::Http(HttpCheck {
        body: Some("well".into()),
        ..http("/healthz")
    });
    let proxy = Setup::to(&[good.address, bad.address])
        .policy(|backend| {
            backend.balance = Balance::RoundRobin;
            backend.check = Some(check(kind));
        })
        .start()
        .await;
    until("it is found", || view(&proxy, bad.address).state == "unhealthy").await;
    let why = view(&proxy, bad.address).check.unwrap();
    assert_eq!(why, "the answer does not contain \"well\"");
    assert_eq!(ejections(&proxy), [0, 0, 0, 0, 0, 1]);
    until("the other was asked", || {
        view(&proxy, good.address).check.as_deref() == Some("good")
    })
    .await;
    for _ in 0..4 {
        assert_eq!(send(&proxy, "/", &[]).await.text(), "all is well");
    }
}

/// The gRPC health service; the status is that of `HealthCheckResponse`.
async fn grpc_health(status: Arc<AtomicU16>) -> Endpoint {
    Endpoint::serve(H2C, move |request| {
        let status = status.load(Ordering::SeqCst) as u8;
        async move {
            let (parts, body) = request.into_parts();
            let asked = body.collect().await.unwrap().to_bytes();
            let (frames, body) = fed();
            let is_health = parts.uri.path() == "/grpc.health.v1.Health/Check"
                && asked == Bytes::from_static(b"\0\0\0\0\x06\x0a\x04shop")
                && parts.headers["content-type"] == "application/grpc";
            tokio::spawn(async move {
                let mut trailers = HeaderMap::new();
                let code = if is_health { "0" } else { "12" };
                trailers.insert("grpc-status", code.parse().unwrap());
                frames.send(data(vec![0, 0, 0, 0, 2, 8, status])).await.unwrap();
                let _ = frames.send(Ok(http_body::Frame::trailers(trailers))).await;
            });
            Response::builder()
                .header("content-type", "application/grpc")
                .body(body)
                .unwrap()
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grpc_health_protocol_is_spoken() {
    let status = Arc::new(AtomicU16::new(1));
    let endpoint = grpc_health(Arc::clone(&status)).await;
    let other = grpc_health(Arc::new(AtomicU16::new(1))).await;
    let proxy = Setup::to(&[endpoint.address, other.address])
        .speaking(H2C)
        .policy(|backend| {
            backend.check = Some(check(CheckKind::Grpc {
                service: "shop".into(),
            }))
        })
        .start()
        .await;
    until("it was asked", || {
        view(&proxy, endpoint.address).check.as_deref() == Some("good")
    })
    .await;
    status.store(2, Ordering::SeqCst);
    until("it is found", || {
        view(&proxy, endpoint.address).state == "unhealthy"
    })
    .await;
    assert_eq!(
        view(&proxy, endpoint.address).check.as_deref(),
        Some("NOT_SERVING")
    );
    status.store(1, Ordering::SeqCst);
    until("it is well again", || {
        view(&proxy, endpoint.address).state == "active"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_comes_later_waits_for_a_good_answer() {
    let first = several(1).await;
    let is_warm = Arc::new(AtomicBool::new(false));
    let warm = Arc::clone(&is_warm);
    let late = Endpoint::serve(H1, move |request| {
        let asked = request.uri().path() == "/ready";
        let status = if asked && !warm.load(Ordering::SeqCst) {
            503
        } else {
            200
        };
        async move { Response::builder().status(status).body(full("")).unwrap() }
    })
    .await;
    let proxy = Setup::to(&addresses(&first))
        .policy(|backend| {
            backend.balance = Balance::RoundRobin;
            backend.check = Some(ActiveCheck {
                before_use: true,
                ..check(CheckKind::Http(http("/ready")))
            });
        })
        .start()
        .await;
    send(&proxy, "/", &[]).await;
    proxy
        .set_endpoints("web", &[first[0].address, late.address])
        .await;
    for _ in 0..4 {
        send(&proxy, "/", &[]).await;
    }
    assert!(
        late.lines().iter().all(|line| line == "GET /ready"),
        "{:?}",
        late.lines()
    );
    assert!(counts(&first)[0] >= 5);
    is_warm.store(true, Ordering::SeqCst);
    until("it is ready", || view(&proxy, late.address).state == "active").await;
    for _ in 0..2 {
        send(&proxy, "/", &[]).await;
    }
    assert!(late.lines().iter().any(|line| line == "GET /"));
}
