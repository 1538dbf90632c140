//! The end of a process: what is at work finishes, what is idle is closed, what lasts is cut at the deadline.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use support::client::request;
use support::endpoint::saying;
use support::wire::End;
use support::{Client, Down, Endpoint, H1, H2C, Setup, data, empty, fed, frames, full, soon, until};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Answers when the gate lets it.
async fn gated(protocol: tidegate::model::BackendProtocol) -> (Arc<Semaphore>, Endpoint) {
    let gate = Arc::new(Semaphore::new(0));
    let own = Arc::clone(&gate);
    let endpoint = Endpoint::serve(protocol, move |_| {
        let gate = Arc::clone(&own);
        async move {
            gate.acquire().await.unwrap().forget();
            Response::new(full("finished"))
        }
    })
    .await;
    (gate, endpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_at_work_finish_and_their_connections_end() {
    for (down, up) in [(Down::H1, H1), (Down::H1, H2C), (Down::H2, H1), (Down::H2, H2C)] {
        let (gate, endpoint) = gated(up).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let address = proxy.address;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut client = proxy.client(down).await;
            tasks.spawn(async move {
                let answer = client.get("/").await;
                let again = client.try_send(request(Method::GET, "/")).await;
                (answer, again.is_err())
            });
        }
        until("all to be at work", || endpoint.requests() == 8).await;
        let drain = tokio::spawn(proxy.drain());
        // Nobody listens any more.
        soon("the listener to close", async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert!(!drain.is_finished(), "exchanges are at work");
        gate.add_permits(8);
        while let Some(done) = tasks.join_next().await {
            let (answer, ended) = done.unwrap();
            assert_eq!(answer.text(), "finished", "{down:?} {up:?}");
            assert!(ended, "the connection served on: {down:?} {up:?}");
            if down == Down::H1 {
                assert_eq!(answer.get("connection"), Some("close"));
            }
        }
        let (ended, lines) = drain.await.unwrap();
        assert!(ended);
        assert_eq!(lines.len(), 8);
        assert!(lines.iter().all(|line| line.outcome() == "answered"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_at_work_finishes() {
    for down in Down::BOTH {
        let (sender, body) = fed();
        let body = Arc::new(std::sync::Mutex::new(Some(body)));
        let endpoint = Endpoint::serve(H1, move |_| {
            let body = body.lock().unwrap().take().unwrap();
            async move { Response::new(body) }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).start().await;
        let mut client = proxy.client(down).await;
        let response = client.start(request(Method::GET, "/")).await.unwrap();
        sender.send(data("first")).await.unwrap();
        let drain = tokio::spawn(proxy.drain());
        tokio::time::sleep(Duration::from_millis(200)).await;
        sender.send(data(" last")).await.unwrap();
        drop(sender);
        let body = soon("the body", http_body_util::BodyExt::collect(response.into_body()))
            .await
            .unwrap();
        assert_eq!(body.to_bytes(), "first last");
        drop(client);
        let (ended, lines) = drain.await.unwrap();
        assert!(
            ended && lines.len() == 1 && lines[0].outcome() == "answered",
            "{lines:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_at_once() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    // Never used, used a moment ago, used long enough ago to be parked, within a head.
    let mut unused = proxy.wire().await;
    let mut parked = proxy.wire().await;
    assert_eq!(
        parked.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
        200
    );
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let mut recent = proxy.wire().await;
    assert_eq!(
        recent.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
        200
    );
    let mut http2 = proxy.wire().await;
    http2.send(frames::opening()).await;
    while http2.frame().await.unwrap().kind != frames::SETTINGS {}
    until("all to be there", || proxy.running.connections() == 4).await;
    let start = std::time::Instant::now();
    let drain = tokio::spawn(proxy.drain());
    for wire in [&mut unused, &mut parked, &mut recent] {
        assert_eq!(wire.rest().await, (Vec::new(), End::Closed));
    }
    let mut farewell = false;
    while let Some(frame) = http2.frame().await {
        farewell |= frame.kind == frames::GOAWAY;
        if frame.kind == frames::PING && frame.flags & frames::ACK == 0 {
            http2
                .send(frames::frame(frames::PING, frames::ACK, 0, &frame.payload))
                .await;
        }
    }
    assert!(farewell, "no GOAWAY");
    let (ended, _) = drain.await.unwrap();
    assert!(ended);
    assert!(start.elapsed() < Duration::from_secs(20), "it waited for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_is_told_to_open_no_more_streams_and_loses_none() {
    let (gate, endpoint) = gated(H1).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let Client::H2(mut sender) = proxy.client(Down::H2).await else {
        unreachable!()
    };
    let ask = || Request::get("http://a/").body(empty()).unwrap();
    let first = tokio::spawn(sender.send_request(ask()));
    until("it to be at work", || endpoint.requests() == 1).await;
    let drain = tokio::spawn(proxy.drain());
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Too late: provably not taken, so that the client may send it elsewhere.
    let late = soon("a refusal", sender.send_request(ask())).await;
    assert!(late.is_err());
    assert_eq!(endpoint.requests(), 1);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    drop(sender);
    let (ended, lines) = drain.await.unwrap();
    assert!(ended && lines.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_with_nothing_to_do_ends_at_once() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .settings(|settings| settings.drain.timeout = Duration::from_secs(3600))
        .start()
        .await;
    assert_eq!(proxy.get("/").await.text(), "ok");
    let (ended, _) = proxy.drain().await;
    assert!(ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_lag_new_connections_are_still_served() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .settings(|settings| settings.drain.lag = Duration::from_secs(2))
        .start()
        .await;
    let address = proxy.address;
    let gates = Arc::clone(proxy.running.gates());
    let drain = tokio::spawn(proxy.drain());
    until("it to be not ready", || !gates.ready()).await;
    let answer = Client::connect(Down::H1, address).await.get("/").await;
    assert_eq!(answer.text(), "ok");
    assert!(drain.await.unwrap().0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lasts_is_cut_at_the_deadline_and_recorded_as_such() {
    let (_gate, endpoint) = gated(H1).await;
    let proxy = Setup::to(&[endpoint.address])
        .path("/chat", |_| {})
        .settings(|settings| settings.drain.timeout = Duration::from_millis(500))
        .start()
        .await;
    let websocket = Endpoint::script(|_, mut wire| async move {
        wire.request().await;
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        wire.rest().await;
    })
    .await;
    // One exchange of each version that never ends.
    for down in Down::BOTH {
        let mut client = proxy.client(down).await;
        tokio::spawn(async move { client.try_send(request(Method::GET, "/")).await.is_ok() });
    }
    until("them to be at work", || endpoint.requests() == 2).await;
    // And a WebSocket.
    proxy.set_endpoints("web", &[websocket.address]).await;
    let mut wire = proxy.wire().await;
    let agreed = wire
        .ask(
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    assert_eq!(agreed.status(), 101);
    let (ended, lines) = proxy.drain().await;
    assert!(!ended);
    wire.rest().await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        assert_eq!(line.outcome(), "drained", "{line:?}");
    }
}
