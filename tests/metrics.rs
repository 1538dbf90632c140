//! What `/metrics` says of endpoints, after the real thing has happened to them.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::endpoint::{Refusing, saying};
use support::{Down, Endpoint, H1, H2C, Setup, soon};
use tidegate::model::{ActiveCheck, CheckKind, Ejection};

const BY_REQUESTS: &str = "tidegate_ejections_total{backend=\"web\",reason=\"failures\"}";
const BY_CHECKS: &str = "tidegate_ejections_total{backend=\"web\",reason=\"check\"}";

fn connections(how: &str) -> String {
    format!("tidegate_upstream_connections_total{{backend=\"web\",how=\"{how}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejection_by_requests_is_counted_once() {
    let good = Endpoint::serve(H1, saying("ok")).await;
    let bad = Endpoint::answering("HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Setup::to(&[good.address, bad.address])
        .policy(|backend| {
            backend.balance = tidegate::model::Balance::RoundRobin;
            backend.ejection = Some(Ejection {
                consecutive_failures: 3,
                base: Duration::from_secs(600),
                max: Duration::from_secs(600),
                ..Ejection::default()
            });
        })
        .with_admin()
        .start()
        .await;
    assert_eq!(proxy.metric(BY_REQUESTS).await, 0.0);
    let mut client = proxy.client(Down::H1).await;
    soon("the ejection", async {
        while proxy.metric(BY_REQUESTS).await == 0.0 {
            client.get("/").await;
        }
    })
    .await;
    let failed = bad.requests();
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!((failed, bad.requests()), (3, 3));
    assert_eq!(proxy.metric(BY_REQUESTS).await, 1.0);
    assert_eq!(proxy.metric(BY_CHECKS).await, 0.0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejection_by_checks_is_counted_once_for_each_fall() {
    let good = Endpoint::serve(H1, saying("ok")).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut mortal = Endpoint::serve_on(listener, H1, saying("ok"));
    let proxy = Setup::to(&[good.address, address])
        .policy(|backend| {
            backend.ejection = Some(Ejection::default());
            backend.check = Some(ActiveCheck {
                kind: CheckKind::Tcp,
                interval: Duration::from_millis(20),
                timeout: Duration::from_secs(10),
                healthy_after: 1,
                unhealthy_after: 2,
                port: None,
                before_use: false,
            });
        })
        .with_admin()
        .start()
        .await;
    for fall in [1.0, 2.0] {
        mortal.end().await;
        proxy.until_metric(BY_CHECKS, fall).await;
        assert_eq!(proxy.get("/").await.text(), "ok", "the other one serves");
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        mortal = Endpoint::serve_on(listener, H1, saying("ok"));
        soon("its recovery", async {
            while proxy.admin("/backends").await.json()["items"][0]["endpoints_ready"] != 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    assert_eq!(proxy.metric(BY_CHECKS).await, 2.0);
    assert_eq!(proxy.metric(BY_REQUESTS).await, 0.0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_made_once_and_then_reused() {
    for protocol in [H1, H2C] {
        let endpoint = Endpoint::serve(protocol, saying("ok")).await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(protocol)
            .settings(|settings| settings.workers = Some(1))
            .with_admin()
            .start()
            .await;
        let mut client = proxy.client(Down::H1).await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.text(), "ok");
        }
        let mut counts = Vec::new();
        for how in ["made", "reused", "failed"] {
            counts.push(proxy.metric(&connections(how)).await);
        }
        assert_eq!(counts, [1.0, 4.0, 0.0], "{protocol:?}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_is_counted() {
    let refusing = Refusing::new();
    let proxy = Setup::to(&[refusing.address])
        .rule(|rule| rule.retry.attempts = 1)
        .with_admin()
        .start()
        .await;
    assert_eq!(proxy.get("/").await.status.as_u16(), 502);
    proxy.until_metric(&connections("failed"), 1.0).await;
    assert_eq!(proxy.metric(&connections("made")).await, 0.0);
    assert_eq!(proxy.metric(&connections("reused")).await, 0.0);
    proxy.stop().await;
}
