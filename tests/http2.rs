//! What is HTTP/2's own: streams beside each other, flow control, and clients that misuse them.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use support::client::request;
use support::endpoint::{report, reported, saying};
use support::frames::{self, fields, frame, opening};
use support::{Client, Down, Endpoint, H1, H2C, Setup, empty, fed, full, pattern, soon, until};
use tokio::sync::Semaphore;

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];

fn get(stream: u32) -> Vec<u8> {
    frame(
        frames::HEADERS,
        frames::END_STREAM | frames::END_HEADERS,
        stream,
        &fields(&GET),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_served_beside_each_other_and_end_in_any_order() {
    for up in [H1, H2C] {
        let gate = Arc::new(Semaphore::new(0));
        let own = Arc::clone(&gate);
        let endpoint = Endpoint::serve(up, move |request: Request<hyper::body::Incoming>| {
            let gate = Arc::clone(&own);
            async move {
                if request.uri().path() == "/wait" {
                    gate.acquire().await.unwrap().forget();
                }
                Response::new(full(request.uri().path().to_owned()))
            }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let Client::H2(sender) = proxy.client(Down::H2).await else {
            unreachable!()
        };
        let ask = |path: &str| {
            let request = Request::get(format!("http://a{path}")).body(empty()).unwrap();
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let body = sender.send_request(request).await.unwrap().into_body();
                body.collect().await.unwrap().to_bytes()
            })
        };
        let waiting: Vec<_> = (0..50).map(|_| ask("/wait")).collect();
        until("them to be at work", || endpoint.requests() == 50).await;
        for _ in 0..50 {
            assert_eq!(soon("one behind them", ask("/go")).await.unwrap(), "/go");
        }
        gate.add_permits(50);
        for waiting in waiting {
            assert_eq!(soon("one that waited", waiting).await.unwrap(), "/wait");
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_that_is_not_read_does_not_hold_up_the_others() {
    for up in [H1, H2C] {
        let endpoint = Endpoint::serve(up, |_| async { Response::new(full(pattern(1_000_000))) }).await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .settings(|settings| settings.workers = Some(1))
            .start()
            .await;
        let mut client = proxy.client(Down::H2).await;
        let unread = client.start(request(Method::GET, "/")).await.unwrap();
        for _ in 0..10 {
            assert!(client.get("/").await.body == pattern(1_000_000));
        }
        let rest = soon("the first at last", unread.into_body().collect())
            .await
            .unwrap();
        assert!(rest.to_bytes() == pattern(1_000_000));
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crumbs_of_a_cookie_are_one_field_to_an_http1_endpoint() {
    // RFC 9113 §8.2.3.
    for up in [H1, H2C] {
        let endpoint = Endpoint::serve(up, report).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let asked = Request::get("/")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("cookie", "c=3")
            .body(empty())
            .unwrap();
        let seen = proxy.client(Down::H2).await.send(asked).await.json();
        assert_eq!(reported(&seen, "cookie").join("; "), "a=1; b=2; c=3");
        if up == H1 {
            assert_eq!(reported(&seen, "cookie").len(), 1);
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_http2_refuses_its_preface() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let mut setup = Setup::to(&[endpoint.address]);
    setup.listener.protocols.http2 = false;
    let proxy = setup.start().await;
    let mut wire = proxy.wire().await;
    wire.send(opening()).await;
    assert_eq!(wire.response().await.unwrap().status(), 400);
    assert_eq!(proxy.get("/").await.text(), "ok");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preface_that_comes_in_pieces_is_recognised() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let bytes = [opening(), get(1)].concat();
    for cut in [1, 3, 10, 18, 20, 24, 30, 40] {
        let mut wire = proxy.wire().await;
        wire.send(&bytes[..cut]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.send(&bytes[cut..]).await;
        assert_eq!(
            wire.verdict(1).await,
            frames::Verdict::Status(200),
            "cut at {cut}"
        );
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_above_the_limits_is_refused() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| {
            limits.max_head_bytes = 8 * 1024;
            limits.max_headers = 20;
        })
        .start()
        .await;
    let mut client = proxy.client(Down::H2).await;
    let large = Request::get("/")
        .header("x", "a".repeat(9000))
        .body(empty())
        .unwrap();
    assert_eq!(client.send(large).await.status.as_u16(), 431);
    let mut many = request(Method::GET, "/");
    for number in 0..25 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        many.headers_mut().insert(name, "a".parse().unwrap());
    }
    assert_eq!(client.send(many).await.status.as_u16(), 431);
    assert_eq!(endpoint.requests(), 0);
    assert_eq!(client.get("/").await.text(), "ok", "the connection serves on");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_above_the_bound_are_refused_and_the_others_served() {
    let gate = Arc::new(Semaphore::new(0));
    let own = Arc::clone(&gate);
    let endpoint = Endpoint::serve(H1, move |_| {
        let gate = Arc::clone(&own);
        async move {
            gate.acquire().await.unwrap().forget();
            Response::new(full("ok"))
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.max_concurrent_streams = 5)
        .start()
        .await;
    let mut wire = proxy.wire().await;
    wire.send(opening()).await;
    while wire.frame().await.unwrap().kind != frames::SETTINGS {}
    wire.send(frame(frames::SETTINGS, frames::ACK, 0, &[])).await;
    for number in 0..8 {
        wire.send(get(1 + 2 * number)).await;
    }
    for stream in [11, 13, 15] {
        assert_eq!(wire.verdict(stream).await, frames::Verdict::Reset);
    }
    until("the others to be at work", || endpoint.requests() == 5).await;
    gate.add_permits(5);
    let mut answered = 0;
    while answered < 5 {
        let frame = wire.frame().await.unwrap();
        answered += usize::from(frame.kind == frames::HEADERS);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_streams_only_to_reset_them_is_sent_away() {
    // "Rapid Reset" (CVE-2023-44487): the work is taken back at the endpoint, and the connection ends.
    let endpoint = Endpoint::serve(H1, |_| async { std::future::pending().await }).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    wire.send(opening()).await;
    let mut taken = true;
    let mut sent = 0_u32;
    while taken && sent < 100_000 {
        let mut bytes = Vec::new();
        for _ in 0..10 {
            let stream = 1 + 2 * sent;
            sent += 1;
            bytes.extend(get(stream));
            bytes.extend(frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        taken = wire.send(bytes).await;
        tokio::task::yield_now().await;
    }
    let end = soon("the end", async { while wire.frame().await.is_some() {} });
    end.await;
    assert!(!taken, "it took {sent} of them");
    // Others are served.
    drop(wire);
    proxy
        .set_endpoints("web", &[Endpoint::serve(H1, saying("ok")).await.address])
        .await;
    until("the exchanges to end", || proxy.running.connections() == 0).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_control_frames_end_the_connection_or_are_borne() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    for flood in [
        frame(frames::PING, 0, 0, &[0; 8]),
        frame(frames::SETTINGS, 0, 0, &[]),
        frame(frames::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        // PRIORITY, of a stream that never was.
        frame(2, 0, 1001, &[0, 0, 0, 0, 1]),
    ] {
        let mut wire = proxy.wire().await;
        wire.send(opening()).await;
        let many = flood.repeat(1000);
        for _ in 0..20 {
            // Nothing is read: what would be answered must not pile up without bound.
            if tokio::time::timeout(Duration::from_secs(2), wire.send(&many)).await != Ok(true) {
                break;
            }
        }
        drop(wire);
        assert_eq!(proxy.client(Down::H2).await.get("/").await.text(), "ok");
    }
    // A head that never ends.
    let mut wire = proxy.wire().await;
    wire.send(opening()).await;
    wire.send(frame(frames::HEADERS, frames::END_STREAM, 1, &fields(&GET)))
        .await;
    let mut open = true;
    for _ in 0..10_000 {
        open = open
            && wire
                .send(frame(9, 0, 1, &fields(&[("x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa")])))
                .await;
    }
    assert!(!open, "ten thousand continuations were taken");
    assert_eq!(endpoint.requests(), 4);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_given_up() {
    for (down, up) in [(Down::H1, H1), (Down::H2, H1), (Down::H2, H2C)] {
        let endpoint = Endpoint::serve(up, |_| async {
            let (sender, body) = fed();
            tokio::spawn(
                async move { while sender.send(support::data(pattern(64 * 1024))).await.is_ok() {} },
            );
            Response::new(body)
        })
        .await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .limits(|limits| limits.body_idle = Duration::from_secs(2))
            .start()
            .await;
        let mut client = proxy.client(down).await;
        let response = client.start(request(Method::GET, "/")).await.unwrap();
        until("the connection to be given up", || {
            proxy.running.connections() == 0
        })
        .await;
        drop(response);
        let lines = proxy.stop().await;
        assert_eq!(
            (lines.len(), lines[0].outcome()),
            (1, "client_stalled"),
            "{down:?} {up:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_with_a_farewell() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.keep_alive_idle = Duration::from_secs(1))
        .start()
        .await;
    let mut wire = proxy.wire().await;
    wire.send([opening(), get(1)].concat()).await;
    assert_eq!(wire.verdict(1).await, frames::Verdict::Status(200));
    let mut farewell = false;
    while let Some(frame) = wire.frame().await {
        farewell |= frame.kind == frames::GOAWAY;
        if frame.kind == frames::PING && frame.flags & frames::ACK == 0 {
            wire.send(frames::frame(frames::PING, frames::ACK, 0, &frame.payload))
                .await;
        }
    }
    assert!(farewell);
    let mut parked = proxy.wire().await;
    assert_eq!(
        parked.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
        200
    );
    assert_eq!(parked.rest().await, (Vec::new(), support::wire::End::Closed));
    proxy.stop().await;
}
