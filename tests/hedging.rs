//! Hedging over real sockets: a slow request goes to a second endpoint, the first good answer wins, and the loser hears of it.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use support::client::request;
use support::{Boxed, Down, Endpoint, H1, H2C, Line, Proxy, Setup, full, pattern, soon, until};
use tidegate::model::{BackendProtocol, HedgePolicy};

const SENT: &str = "tidegate_hedges_total{backend=\"web\"}";
const WON: &str = "tidegate_hedges_won_total{backend=\"web\"}";
const DENIED: &str = "tidegate_hedges_denied_total{backend=\"web\"}";

/// What an endpoint does with a request for `/slow...`.
#[derive(Clone, Copy)]
enum Act {
    /// Nothing, until it is given up.
    Hang,
    /// Answers at once.
    Say(u16, &'static str),
    /// Answers when so many others have answered.
    After(usize, u16, &'static str),
    /// Ends the connection when so many requests have come.
    Reset(usize),
}

/// What has become of the requests for `/slow...`, over all endpoints.
#[derive(Default)]
struct Stage {
    came: AtomicUsize,
    answered: AtomicUsize,
    given_up: AtomicUsize,
    bytes: AtomicUsize,
}

impl Stage {
    fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }

    fn given_up(&self) -> usize {
        self.given_up.load(Ordering::SeqCst)
    }
}

/// Counts a request that is dropped before its answer.
struct GivenUp(Arc<Stage>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.given_up.fetch_add(1, Ordering::SeqCst);
    }
}

/// Two endpoints; the n-th slow request that comes to either meets the n-th act, the last one counts for all later ones.
async fn stage(protocol: BackendProtocol, acts: &'static [Act]) -> (Arc<Stage>, [Endpoint; 2]) {
    let stage = Arc::new(Stage::default());
    let endpoint = || {
        let stage = Arc::clone(&stage);
        Endpoint::serve(protocol, move |request| {
            perform(request, Arc::clone(&stage), acts)
        })
    };
    let endpoints = [endpoint().await, endpoint().await];
    (stage, endpoints)
}

async fn perform(request: Request<Incoming>, stage: Arc<Stage>, acts: &'static [Act]) -> Response<Boxed> {
    let is_slow = request.uri().path().starts_with("/slow");
    let Ok(body) = request.into_body().collect().await else {
        return Response::new(full("broken"));
    };
    if !is_slow {
        return Response::new(full("quick"));
    }
    stage.bytes.fetch_add(body.to_bytes().len(), Ordering::SeqCst);
    let nth = stage.came.fetch_add(1, Ordering::SeqCst);
    let guard = GivenUp(Arc::clone(&stage));
    let wait = async |counter: &AtomicUsize, least: usize| {
        until("the others", || counter.load(Ordering::SeqCst) >= least).await;
    };
    let (status, text) = match acts[nth.min(acts.len() - 1)] {
        Act::Hang => std::future::pending().await,
        Act::Say(status, text) => (status, text),
        Act::After(answered, status, text) => {
            wait(&stage.answered, answered).await;
            (status, text)
        }
        Act::Reset(came) => {
            wait(&stage.came, came).await;
            panic!("the connection is to end");
        }
    };
    std::mem::forget(guard);
    stage.answered.fetch_add(1, Ordering::SeqCst);
    Response::builder().status(status).body(full(text)).unwrap()
}

fn setup(endpoints: &[Endpoint; 2], protocol: BackendProtocol, policy: HedgePolicy) -> Setup {
    Setup::to(&endpoints.each_ref().map(|endpoint| endpoint.address))
        .policy(|backend| {
            backend.protocol = protocol;
            backend.hedge = Some(policy);
        })
        .rule(|rule| rule.retry.attempts = 1)
        .with_admin()
}

/// Hedges after 200 ms, however many.
fn eager() -> HedgePolicy {
    HedgePolicy {
        percent: 100,
        per_second: 1000,
        least_delay: Duration::from_millis(200),
    }
}

/// Sends quick requests until it is known how long requests take.
async fn warm_up(proxy: &Proxy) {
    let mut client = proxy.client(Down::H1).await;
    let knows = || {
        let snapshot = proxy.running.live().snapshot();
        let web = snapshot.backends().find(|backend| backend.name.as_str() == "web");
        web.unwrap().with_hedging(|hedging| hedging.delay()).flatten()
    };
    soon("the delay", async {
        while knows().is_none() {
            assert_eq!(client.get("/").await.text(), "quick");
        }
    })
    .await;
}

fn of_slow(lines: &[Line]) -> Vec<&Line> {
    lines
        .iter()
        .filter(|line| line.path().starts_with("/slow"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_attempt_wins_and_the_first_is_given_up() {
    for protocol in [H1, H2C] {
        for down in Down::BOTH {
            let (stage, endpoints) = stage(protocol, &[Act::Hang, Act::Say(200, "second")]).await;
            let proxy = setup(&endpoints, protocol, eager()).start().await;
            warm_up(&proxy).await;
            let won = proxy.metric(WON).await;
            let answer = proxy.client(down).await.get("/slow").await;
            assert_eq!(answer.text(), "second", "{protocol:?}");
            until("the loser's end", || stage.given_up() == 1).await;
            assert_eq!(proxy.metric(WON).await, won + 1.0);
            assert_eq!(proxy.metric(DENIED).await, 0.0);
            let lines = proxy.stop().await;
            let slow = of_slow(&lines);
            assert_eq!(slow.len(), 1);
            assert_eq!((slow[0].outcome(), slow[0].attempts()), ("answered", 2));
            assert_eq!(slow[0].0["hedge"], "won");
            let second = endpoints
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .filter(|address| slow[0].0["endpoint"] == address.as_str());
            assert_eq!(second.count(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_that_fails_leaves_the_first_alone() {
    for (acts, text, hedge) in [
        (
            &[Act::After(1, 200, "first"), Act::Say(503, "no")] as &[Act],
            "first",
            "lost",
        ),
        (
            &[Act::After(1, 503, "no"), Act::After(0, 200, "second")],
            "second",
            "won",
        ),
        // Both are no good: the first one's answer is passed on.
        (
            &[Act::After(1, 503, "first"), Act::Say(500, "second")],
            "first",
            "lost",
        ),
        (&[Act::Reset(2), Act::After(0, 200, "second")], "second", "won"),
    ] {
        let (stage, endpoints) = stage(H1, acts).await;
        let proxy = setup(&endpoints, H1, eager()).start().await;
        warm_up(&proxy).await;
        assert_eq!(proxy.get("/slow").await.text(), text);
        assert_eq!(stage.came(), 2);
        let lines = proxy.stop().await;
        assert_eq!(of_slow(&lines)[0].0["hedge"], hedge, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_sent_twice_is_not_hedged() {
    const ACTS: &[Act] = &[Act::Hang];
    let (stage, endpoints) = stage(H1, ACTS).await;
    let proxy = setup(&endpoints, H1, eager())
        .rule(|rule| rule.timeouts.request = Some(Duration::from_secs(2)))
        .path("/slow/not", |rule| {
            rule.retry.attempts = 1;
            rule.retry.hedge = false;
            rule.timeouts.request = Some(Duration::from_secs(2));
        })
        .start()
        .await;
    warm_up(&proxy).await;
    let sent = proxy.metric(SENT).await;
    for (nth, (method, path, body)) in [
        (Method::POST, "/slow", 0),
        (Method::PATCH, "/slow", 10),
        // Too long to be kept.
        (Method::PUT, "/slow", 65 * 1024),
        (Method::GET, "/slow/not", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let request = request(method, path).map(|_| full(pattern(body)));
        let answer = proxy.client(Down::H1).await.send(request).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(stage.came(), nth + 1, "one attempt");
    }
    assert_eq!(proxy.metric(SENT).await, sent);
    let lines = proxy.stop().await;
    assert!(of_slow(&lines).iter().all(|line| line.attempts() == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_kept_goes_to_both() {
    for protocol in [H1, H2C] {
        let (stage, endpoints) = stage(protocol, &[Act::Hang, Act::Say(200, "second")]).await;
        let proxy = setup(&endpoints, protocol, eager()).start().await;
        warm_up(&proxy).await;
        let request = request(Method::PUT, "/slow").map(|_| full(pattern(60_000)));
        assert_eq!(proxy.client(Down::H1).await.send(request).await.text(), "second");
        assert_eq!(stage.bytes.load(Ordering::SeqCst), 120_000);
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_both_attempts() {
    for protocol in [H1, H2C] {
        let (stage, endpoints) = stage(protocol, &[Act::Hang]).await;
        let proxy = setup(&endpoints, protocol, eager()).start().await;
        warm_up(&proxy).await;
        let mut wire = proxy.wire().await;
        wire.send("GET /slow HTTP/1.1\r\nhost: test.example\r\n\r\n")
            .await;
        until("both attempts", || stage.came() == 2).await;
        drop(wire);
        until("the end of both", || stage.given_up() == 2).await;
        let lines = proxy.stop().await;
        let slow = of_slow(&lines);
        assert_eq!((slow[0].outcome(), slow[0].attempts()), ("client_gone", 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadlines_are_for_both_attempts() {
    let (stage, endpoints) = stage(H1, &[Act::Hang]).await;
    let proxy = setup(&endpoints, H1, eager())
        .rule(|rule| rule.timeouts.request = Some(Duration::from_secs(3)))
        .path("/slow/try", |rule| {
            rule.retry.attempts = 1;
            rule.timeouts.per_try = Some(Duration::from_secs(1));
        })
        .start()
        .await;
    warm_up(&proxy).await;
    for (nth, (path, outcome)) in [("/slow", "request_timeout"), ("/slow/try", "try_timeout")]
        .into_iter()
        .enumerate()
    {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert!(answer.get("proxy-status").unwrap().contains(outcome), "{path}");
        let both = 2 * (nth + 1);
        until("the end of both", || stage.given_up() == both).await;
        assert_eq!(stage.came(), both);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_go_on_after_both_attempts() {
    let (stage, endpoints) = stage(
        H1,
        &[
            Act::After(1, 503, "first"),
            Act::Say(503, "second"),
            Act::Say(200, "third"),
        ],
    )
    .await;
    let proxy = setup(&endpoints, H1, eager())
        .rule(|rule| {
            rule.retry.attempts = 3;
            rule.retry.on.statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
        })
        .start()
        .await;
    warm_up(&proxy).await;
    assert_eq!(proxy.get("/slow").await.text(), "third");
    assert_eq!(stage.came(), 3);
    let lines = proxy.stop().await;
    assert_eq!(of_slow(&lines)[0].attempts(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn hedges_keep_to_their_budget() {
    const SLOW: usize = 40;
    let (_stage, endpoints) = stage(H1, &[Act::Hang]).await;
    // Ten in any ten seconds.
    let policy = HedgePolicy {
        percent: 0,
        per_second: 1,
        ..eager()
    };
    let proxy = setup(&endpoints, H1, policy)
        .rule(|rule| rule.timeouts.request = Some(Duration::from_secs(3)))
        .start()
        .await;
    warm_up(&proxy).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..SLOW {
        let mut client = proxy.client(Down::H1).await;
        clients.spawn(async move { client.get("/slow").await.status });
    }
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::GATEWAY_TIMEOUT);
    }
    let (sent, denied) = (proxy.metric(SENT).await, proxy.metric(DENIED).await);
    assert!(sent >= 1.0 && denied >= 1.0, "{sent} sent, {denied} denied");
    let attempts = proxy
        .stop()
        .await
        .iter()
        .map(|line| line.attempts() - 1)
        .sum::<u64>();
    assert_eq!(attempts, sent as u64);
}
