//! Reports of load: what endpoints say is heard, kept from clients or passed on, and what Tidegate says when it is asked.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use support::client::{Answer, request};
use support::endpoint::{report, reported};
use support::{Down, Endpoint, H1, H2C, Proxy, Setup, data, fed, full, soon};
use tidegate::model::Backend;

const READ: &str = "tidegate_load_reports_total{backend=\"web\",result=\"read\"}";
const REFUSED: &str = "tidegate_load_reports_total{backend=\"web\",result=\"refused\"}";
const BUSY: &str = "TEXT named_metrics.in_flight=99";

/// An endpoint that gives back the value of `say` as its report, in the field that `as` names.
async fn talkative() -> Endpoint {
    Endpoint::serve(H1, |request| async move {
        let field = |name: &str| request.headers().get(name).cloned();
        let name = field("as").map_or("endpoint-load-metrics".to_owned(), |name| {
            name.to_str().unwrap().to_owned()
        });
        let mut response = Response::builder();
        if let Some(say) = field("say") {
            response = response.header(name, say);
        }
        response.body(full("")).unwrap()
    })
    .await
}

async fn proxy_to(endpoint: &Endpoint, policy: impl FnOnce(&mut Backend)) -> Proxy {
    Setup::to(&[endpoint.address])
        .policy(policy)
        .with_admin()
        .start()
        .await
}

async fn ask(proxy: &Proxy, fields: &[(&str, &str)]) -> Answer {
    let mut request = request(Method::GET, "/");
    for (name, value) in fields {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    proxy.client(Down::H1).await.send(request).await
}

/// What the only endpoint's latency is multiplied by.
async fn factor(proxy: &Proxy) -> Option<f64> {
    let backends = proxy.admin("/backends").await.json();
    backends["items"][0]["endpoints"][0]["load_factor"].as_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_endpoint_says_counts_and_stays_inside() {
    let endpoint = talkative().await;
    let proxy = proxy_to(&endpoint, |_| {}).await;
    ask(&proxy, &[]).await;
    assert_eq!(factor(&proxy).await, None, "it has said nothing");
    for _ in 0..10 {
        let answer = ask(&proxy, &[("say", "TEXT named_metrics.in_flight=0")]).await;
        assert_eq!(answer.get("endpoint-load-metrics"), None);
    }
    assert_eq!(factor(&proxy).await, Some(1.0), "as usual");
    ask(&proxy, &[("say", BUSY)]).await;
    assert!(factor(&proxy).await.unwrap() > 1.0, "more than usual");
    let answer = ask(
        &proxy,
        &[("say", "CQAAAAAAAOA/"), ("as", "endpoint-load-metrics-bin")],
    )
    .await;
    assert_eq!(answer.get("endpoint-load-metrics-bin"), None);
    assert_eq!(proxy.metric(READ).await, 12.0);

    ask(&proxy, &[("say", "much")]).await;
    assert_eq!(proxy.metric(REFUSED).await, 1.0);
    assert_eq!(proxy.metric(READ).await, 12.0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_passed_on_and_left_alone_where_the_policy_says_so() {
    let endpoint = talkative().await;
    let proxy = proxy_to(&endpoint, |backend| {
        backend.load_reports.pass_on = true;
        backend.load_reports.read = false;
    })
    .await;
    let answer = ask(&proxy, &[("say", BUSY)]).await;
    assert_eq!(answer.get("endpoint-load-metrics"), Some(BUSY));
    assert_eq!(factor(&proxy).await, None);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_among_trailers_is_heard() {
    let endpoint = Endpoint::serve(H2C, |_| async {
        let (sender, body) = fed();
        tokio::spawn(async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("endpoint-load-metrics-bin", "CQAAAAAAAOA/".parse().unwrap());
            let _ = sender.send(data("ok")).await;
            let _ = sender.send(Ok(Frame::trailers(trailers))).await;
        });
        Response::new(body)
    })
    .await;
    let proxy = proxy_to(&endpoint, |backend| backend.protocol = H2C).await;
    let answer = proxy.client(Down::H2).await.get("/").await;
    let trailers = answer.trailers.unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(trailers.len(), 1);
    assert_eq!(proxy.metric(READ).await, 1.0);
    assert_eq!(factor(&proxy).await, Some(1.0));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_proxy_tells_another_what_it_has_in_flight() {
    let endpoint = Endpoint::serve(H1, report).await;
    let near = Setup::to(&[endpoint.address])
        .limits(|limits| limits.load_reports = true)
        .start()
        .await;
    let far = Setup::to(&[near.address])
        .policy(|backend| backend.load_reports.ask = true)
        .with_admin()
        .start()
        .await;
    let answer = far.get("/").await;
    assert_eq!(answer.get("endpoint-load-metrics"), None, "it was for the proxy");
    assert_eq!(
        reported(&answer.json(), "endpoint-load-metrics-format"),
        [""; 0],
        "the question was answered on the way"
    );
    assert_eq!(far.metric(READ).await, 1.0);
    assert_eq!(factor(&far).await, Some(1.0));

    // Only who asks is told, and of all that is in flight.
    assert_eq!(near.get("/").await.get("endpoint-load-metrics"), None);
    let told = async |asks: &str| {
        let answer = ask(&near, &[("endpoint-load-metrics-format", asks)]).await;
        answer.get("endpoint-load-metrics").map(str::to_owned)
    };
    // An exchange is over a moment after its client has the answer.
    let until_told = async |text: &str| {
        soon(text, async {
            while told("TEXT").await.as_deref() != Some(text) {}
        })
        .await;
    };
    assert_eq!(told("BIN").await, None);
    until_told("TEXT named_metrics.in_flight=1").await;
    let (sender, body) = fed();
    let mut client = near.client(Down::H1).await;
    let held = tokio::spawn(async move { client.send(Request::post("/").body(body).unwrap()).await });
    until_told("TEXT named_metrics.in_flight=2").await;
    drop(sender);
    held.await.unwrap();
    far.stop().await;
    near.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_here_answers_goes_to_the_endpoint() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = proxy_to(&endpoint, |_| {}).await;
    let answer = ask(&proxy, &[("endpoint-load-metrics-format", "JSON")]).await;
    assert_eq!(reported(&answer.json(), "endpoint-load-metrics-format"), ["JSON"]);
    assert_eq!(answer.get("endpoint-load-metrics"), None);
    proxy.stop().await;
}
