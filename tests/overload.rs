//! Overload: limits on what a backend is given at once, who waits and who is refused, and what is said of it.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use support::client::{Answer, request};
use support::{Boxed, Down, Endpoint, H1, Proxy, Setup, data, fed, full, soon, until};
use tidegate::admin::{Ask, BackendView, View};
use tidegate::model::{AdaptiveConcurrency, Concurrency, Criticality, Ejection};
use tokio::sync::Semaphore;

/// An endpoint that answers as often as it is let.
struct Held {
    endpoint: Endpoint,
    answers: Arc<Semaphore>,
}

impl Held {
    async fn new() -> Self {
        let answers = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&answers);
        let service = move |_: Request<Incoming>| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Response::new(full("ok"))
            }
        };
        let endpoint = Endpoint::serve(H1, service).await;
        Self { endpoint, answers }
    }

    fn answer(&self, times: usize) {
        self.answers.add_permits(times);
    }
}

/// A proxy with a limit, before one endpoint, that listens to `x-criticality`.
fn limited(held: &Held, concurrency: Concurrency, queue_timeout: Duration) -> Setup {
    Setup::to(&[held.endpoint.address])
        .policy(|backend| {
            backend.concurrency = Some(concurrency);
            backend.criticality = Some(HeaderName::from_static("x-criticality"));
            backend.limits.queue_timeout = queue_timeout;
        })
        .with_admin()
}

/// Longer than any test: who waits is let go by the test.
const LONG: Duration = Duration::from_secs(300);

fn with_class(class: &'static str) -> Request<Boxed> {
    let mut request = request(Method::GET, "/");
    let value = HeaderValue::from_static(class);
    request.headers_mut().insert("x-criticality", value);
    request
}

async fn ask(proxy: &Proxy, class: &'static str) -> Answer {
    proxy.client(Down::H1).await.send(with_class(class)).await
}

/// Asks in the background.
async fn asking(proxy: &Proxy, class: &'static str) -> tokio::task::JoinHandle<Answer> {
    let mut client = proxy.client(Down::H1).await;
    tokio::spawn(async move { client.send(with_class(class)).await })
}

fn web(proxy: &Proxy) -> BackendView {
    let page = proxy.running.live().backends(&Ask::up_to(10));
    page.items
        .into_iter()
        .find(|backend| backend.name == "web")
        .unwrap()
}

async fn until_it_has(proxy: &Proxy, in_flight: u32, queued: u32) {
    until("the limit to be used", || {
        let now = web(proxy).concurrency.unwrap();
        (now.in_flight, now.queued) == (in_flight, queued)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lower_classes_are_refused_first_and_higher_ones_wait() {
    let held = Held::new().await;
    let proxy = limited(&held, Concurrency::Fixed(10), LONG).start().await;
    let mut inside = Vec::new();
    for nth in 1..=8 {
        inside.push(asking(&proxy, "sheddable").await);
        until_it_has(&proxy, nth, 0).await;
    }
    let refused = ask(&proxy, "Sheddable").await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    let after: u64 = refused.get("retry-after").unwrap().parse().unwrap();
    assert!((4..=12).contains(&after), "{after}");
    assert_eq!(refused.text(), "503 Service Unavailable: shed\n");
    inside.push(asking(&proxy, "sheddable_plus").await);
    until_it_has(&proxy, 9, 0).await;
    assert_eq!(
        ask(&proxy, "sheddable-plus").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    inside.push(asking(&proxy, "critical").await);
    until_it_has(&proxy, 10, 0).await;
    // Who says nothing, or something unknown, is critical: it waits.
    inside.push(asking(&proxy, "whatever").await);
    until_it_has(&proxy, 10, 1).await;
    inside.push(asking(&proxy, "critical-plus").await);
    until_it_has(&proxy, 10, 2).await;

    let shed = |class: &str| format!("tidegate_shed_total{{backend=\"web\",criticality=\"{class}\"}}");
    assert_eq!(proxy.metric(&shed("sheddable")).await, 1.0);
    assert_eq!(proxy.metric(&shed("sheddable-plus")).await, 1.0);
    assert_eq!(proxy.metric(&shed("critical")).await, 0.0);
    proxy
        .until_metric("tidegate_concurrency_limit{backend=\"web\"}", 10.0)
        .await;
    proxy
        .until_metric("tidegate_concurrency_in_flight{backend=\"web\"}", 10.0)
        .await;
    proxy
        .until_metric("tidegate_concurrency_queued{backend=\"web\"}", 2.0)
        .await;
    let view = web(&proxy);
    assert_eq!(
        view.shed.into_iter().collect::<Vec<_>>(),
        [("sheddable".to_owned(), 1), ("sheddable-plus".to_owned(), 1)]
    );
    assert_eq!(view.concurrency.unwrap().limit, 10);

    held.answer(12);
    for task in inside {
        assert_eq!(soon("an answer", task).await.unwrap().text(), "ok");
    }
    until_it_has(&proxy, 0, 0).await;
    let lines = proxy.stop().await;
    let count = |outcome: &str| lines.iter().filter(|line| line.outcome() == outcome).count();
    assert_eq!((count("answered"), count("shed")), (12, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_says_how_much_its_requests_matter_at_the_most() {
    let held = Held::new().await;
    let proxy = limited(&held, Concurrency::Fixed(10), LONG)
        .rule(|rule| rule.criticality = Some(Criticality::Sheddable))
        .start()
        .await;
    let mut inside = Vec::new();
    for nth in 1..=8 {
        inside.push(asking(&proxy, "critical-plus").await);
        until_it_has(&proxy, nth, 0).await;
    }
    assert_eq!(
        ask(&proxy, "critical-plus").await.text(),
        "503 Service Unavailable: shed\n"
    );
    held.answer(8);
    for task in inside {
        assert_eq!(soon("an answer", task).await.unwrap().text(), "ok");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_is_refused_and_a_place_that_becomes_free_is_used() {
    let held = Held::new().await;
    let proxy = limited(&held, Concurrency::Fixed(1), Duration::from_millis(30))
        .start()
        .await;
    let first = asking(&proxy, "critical").await;
    until_it_has(&proxy, 1, 0).await;
    let refused = ask(&proxy, "critical").await;
    assert_eq!(refused.text(), "503 Service Unavailable: overloaded\n");
    let after: u64 = refused.get("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&after), "{after}");
    held.answer(2);
    assert_eq!(soon("an answer", first).await.unwrap().text(), "ok");
    until_it_has(&proxy, 0, 0).await;
    assert_eq!(ask(&proxy, "critical").await.text(), "ok");
    // A client that leaves gives its place back, in flight or waiting.
    for _ in 0..3 {
        let mut client = proxy.client(Down::H2).await;
        let gone = tokio::spawn(async move { client.start(with_class("critical")).await.map(|_| ()) });
        until_it_has(&proxy, 1, 0).await;
        gone.abort();
        until_it_has(&proxy, 0, 0).await;
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_is_pushed_back() {
    let held = Held::new().await;
    let proxy = limited(&held, Concurrency::Fixed(1), LONG).start().await;
    let first = asking(&proxy, "critical").await;
    until_it_has(&proxy, 1, 0).await;
    let mut call = with_class("sheddable").map(|_| full(Bytes::new()));
    *call.method_mut() = Method::POST;
    let grpc = HeaderValue::from_static("application/grpc");
    call.headers_mut().insert("content-type", grpc);
    let refused = proxy.client(Down::H2).await.send(call).await;
    assert_eq!(refused.status, StatusCode::OK);
    assert_eq!(refused.get("grpc-status"), Some("14"));
    assert_eq!(refused.get("grpc-message"), Some("shed"));
    let pause: u64 = refused.get("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((4000..=12_000).contains(&pause), "{pause}");
    assert_eq!(refused.get("retry-after"), None);
    held.answer(1);
    assert_eq!(soon("an answer", first).await.unwrap().text(), "ok");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_streams_holds_no_place() {
    let streams = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&streams);
    let service = move |_: Request<Incoming>| {
        let (sender, body) = fed();
        let kept = Arc::clone(&kept);
        async move {
            sender.send(data("begins")).await.unwrap();
            kept.lock().unwrap().push(sender);
            Response::new(body)
        }
    };
    let endpoint = Endpoint::serve(H1, service).await;
    let proxy = Setup::to(&[endpoint.address])
        .policy(|backend| {
            backend.concurrency = Some(Concurrency::Fixed(1));
            backend.limits.queue_timeout = Duration::ZERO;
        })
        .start()
        .await;
    let mut clients = Vec::new();
    for nth in 1..=3 {
        let mut client = proxy.client(Down::H1).await;
        let response = client.start(request(Method::GET, "/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{nth}");
        clients.push((client, response));
    }
    assert_eq!(web(&proxy).concurrency.unwrap().in_flight, 0);
    assert_eq!(web(&proxy).endpoints[0].in_flight, 3, "they are still there");
    drop(clients);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_endpoints_are_waited_for_only_by_what_is_critical() {
    let held = Held::new().await;
    let proxy = limited(&held, Concurrency::Fixed(100), LONG)
        .policy(|backend| {
            backend.concurrency = None;
            backend.limits.max_in_flight = 1;
        })
        .start()
        .await;
    let first = asking(&proxy, "critical").await;
    until("the first to be there", || {
        web(&proxy).endpoints[0].in_flight == 1
    })
    .await;
    assert_eq!(
        ask(&proxy, "sheddable").await.text(),
        "503 Service Unavailable: shed\n"
    );
    let second = asking(&proxy, "critical").await;
    held.answer(2);
    for task in [first, second] {
        assert_eq!(soon("an answer", task).await.unwrap().text(), "ok");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adaptive_limit_learns_what_is_usual_and_lets_all_go() {
    let endpoint = Endpoint::serve(H1, support::endpoint::saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .policy(|backend| {
            backend.concurrency = Some(Concurrency::Adaptive(AdaptiveConcurrency::default()));
        })
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    soon("something to be learned", async {
        while web(&proxy).concurrency.unwrap().usual_us.is_none() {
            assert_eq!(client.get("/").await.text(), "ok");
        }
    })
    .await;
    let now = web(&proxy).concurrency.unwrap();
    assert!(now.limit >= 10 && now.latency_us.is_some(), "{now:?}");
    assert_eq!((now.in_flight, now.queued), (0, 0));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_soon_judged_and_until_then_it_is_said_why_it_is_avoided() {
    let good = Endpoint::serve(H1, support::endpoint::saying("ok")).await;
    let failing = Endpoint::serve(H1, |_: Request<Incoming>| async {
        let mut response = Response::new(full("no"));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let proxy = Setup::to(&[good.address, failing.address])
        .policy(|backend| backend.ejection = Some(Ejection::default()))
        .with_admin()
        .start()
        .await;
    let view = || {
        let address = failing.address.to_string();
        let endpoints = web(&proxy).endpoints;
        endpoints.into_iter().find(|one| one.address == address).unwrap()
    };
    let mut client = proxy.client(Down::H1).await;
    let mut said = Vec::new();
    let mut failed = 0;
    soon("the ejection", async {
        while view().state != "ejected" {
            failed += u32::from(client.get("/").await.status != StatusCode::OK);
            said.extend(view().passed_over);
        }
    })
    .await;
    assert_eq!(failed, 5, "each failure was one towards it");
    let avoided = said.iter().find(|why| why.starts_with("its last")).unwrap();
    assert!(avoided.contains("ejected after 5 in a row"), "{avoided}");
    assert_eq!(view().passed_over.as_deref(), Some("ejected: failures"));
    assert!(view().ejected_for_ms.is_some());
    let trials = proxy
        .metric("tidegate_picks_total{backend=\"web\",how=\"trial\"}")
        .await;
    assert!(trials >= 1.0, "{trials}");
    proxy.stop().await;
}
