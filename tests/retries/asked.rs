//! Endpoints that say when to come again, and gRPC calls that failed before an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use tidegate::model::{BackendProtocol, GrpcStatus, Rule};

use super::support::client::request;
use super::support::{Down, Endpoint, H1, H2C, Line, Setup, full};

/// Answers the first request with a status and fields, all later ones with 200.
async fn first_with(
    protocol: BackendProtocol,
    status: u16,
    fields: &'static [(&'static str, &'static str)],
) -> Endpoint {
    let came = Arc::new(AtomicUsize::new(0));
    Endpoint::serve(protocol, move |_: Request<_>| {
        let nth = came.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut response = Response::new(full(if nth == 0 { "" } else { "good" }));
            if nth == 0 {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                for (name, value) in fields {
                    response.headers_mut().insert(*name, value.parse().unwrap());
                }
            }
            response
        }
    })
    .await
}

fn setup(endpoint: &Endpoint, protocol: BackendProtocol, edit: impl FnOnce(&mut Rule)) -> Setup {
    Setup::to(&[endpoint.address]).speaking(protocol).rule(|rule| {
        rule.retry.on.statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
        rule.retry.on.grpc_statuses = vec![GrpcStatus::of_word("unavailable").unwrap()];
        edit(rule);
    })
}

fn milliseconds(line: &Line) -> f64 {
    line.0["duration_ms"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_an_endpoint_asks_for_is_kept() {
    let endpoint = first_with(H1, 503, &[("retry-after", "1")]).await;
    let proxy = setup(&endpoint, H1, |_| {}).start().await;
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "good"));
    assert_eq!(
        (endpoint.requests(), endpoint.connections()),
        (2, 1),
        "the connection of the answer that was thrown away is of use"
    );
    let lines = proxy.stop().await;
    assert_eq!(lines[0].attempts(), 2);
    assert!(milliseconds(&lines[0]) >= 1000.0, "not sooner than was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_too_long_is_left_to_the_client() {
    type Edit = fn(&mut Rule);
    let cases: [(&'static [_], Edit); 4] = [
        (&[("retry-after", "6")], |_| {}),
        (&[("retry-after", "1")], |rule| {
            rule.retry.max_wait = Duration::from_millis(999);
        }),
        // Later than the deadline.
        (&[("retry-after", "60")], |rule| {
            rule.retry.max_wait = Duration::from_secs(300);
            rule.timeouts.request = Some(Duration::from_secs(50));
        }),
        (&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")], |_| {}),
    ];
    for (fields, edit) in cases {
        let endpoint = first_with(H1, 503, fields).await;
        let proxy = setup(&endpoint, H1, edit).start().await;
        let answer = proxy.get("/").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{fields:?}");
        assert_eq!(answer.get("retry-after"), Some(fields[0].1));
        assert_eq!(proxy.stop().await[0].attempts(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_has_passed_is_now() {
    let endpoint = first_with(H1, 503, &[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]).await;
    let proxy = setup(&endpoint, H1, |_| {}).start().await;
    assert_eq!(proxy.get("/").await.text(), "good");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_failed_before_its_answer_is_made_again_if_that_is_allowed() {
    for (fields, again) in [
        (&[("grpc-status", "14")] as &'static [_], true),
        (&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "100")], true),
        (&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")], false),
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "60000")],
            false,
        ),
        // Not named.
        (&[("grpc-status", "13")], false),
    ] {
        let endpoint = first_with(H2C, 200, fields).await;
        let proxy = setup(&endpoint, H2C, |_| {}).start().await;
        let mut call = request(Method::POST, "/shop.Cart/Add").map(|_| full("a message"));
        let kind = "application/grpc".parse().unwrap();
        call.headers_mut().insert("content-type", kind);
        let answer = proxy.client(Down::H2).await.send(call).await;
        assert_eq!(answer.text(), if again { "good" } else { "" }, "{fields:?}");
        assert_eq!(endpoint.requests(), if again { 2 } else { 1 });
        if !again {
            assert_eq!(answer.get("grpc-status"), Some(fields[0].1));
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_would_last_to_the_deadline_is_not_made() {
    let endpoint = first_with(H1, 503, &[]).await;
    let proxy = setup(&endpoint, H1, |rule| {
        rule.retry.backoff = Some(Duration::from_secs(50));
        rule.timeouts.request = Some(Duration::from_secs(50));
    })
    .start()
    .await;
    assert_eq!(proxy.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_is_over_does_not_stand_in_the_way_of_the_next() {
    let endpoint = first_with(H1, 503, &[("retry-after", "1")]).await;
    let proxy = setup(&endpoint, H1, |_| {})
        .policy(|backend| backend.limits.max_in_flight = 1)
        .start()
        .await;
    let first = proxy.get("/");
    let second = async {
        super::support::until("the first try", || endpoint.requests() == 1).await;
        proxy.get("/").await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(
        (first.text(), second.text()),
        ("good".to_owned(), "good".to_owned())
    );
    proxy.stop().await;
}
