//! HTTP/1.1 clients, and what holds for clients of either version with endpoints of either version.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use support::client::request;
use support::endpoint::{echo, report, reported, saying};
use support::proxy::share;
use support::wire::End;
use support::{Boxed, Client, Down, Endpoint, H1, H2C, Setup, data, empty, fed, full, pattern, soon, until};
use tidegate::model::{
    BackendProtocol, BackendTarget, DirectResponse, Filter, Fraction, HeaderEdits, Mirror, PathRewrite,
    Redirect, Rewrite,
};

const PAIRS: [(Down, BackendProtocol); 4] =
    [(Down::H1, H1), (Down::H1, H2C), (Down::H2, H1), (Down::H2, H2C)];

const LARGE: usize = 10 * 1024 * 1024;

/// Feeds a body of so many bytes, and counts those that were taken.
fn feed(length: usize) -> (Arc<AtomicUsize>, Boxed) {
    let (sender, body) = fed();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        let bytes = pattern(length);
        for chunk in bytes.chunks(16 * 1024) {
            let chunk = bytes.slice_ref(chunk);
            let length = chunk.len();
            if sender.send(data(chunk)).await.is_err() {
                return;
            }
            count.fetch_add(length, Ordering::SeqCst);
        }
    });
    (taken, body)
}

/// Waits until a count stands still.
async fn settled(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    loop {
        let now = count.load(Ordering::SeqCst);
        if now == before && now > 0 {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_pass_both_ways_unchanged() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, echo).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        for length in [0, 1, 1000, 16 * 1024, 100_000, LARGE] {
            let whole = pattern(length);
            let answer = client.post("/", whole.clone()).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == whole, "{down:?} {up:?} {length} of known length");
            let (_, body) = feed(length);
            let answer = client.send(request(Method::POST, "/").map(|_| body)).await;
            assert!(answer.body == whole, "{down:?} {up:?} {length} of unknown length");
        }
        drop(client);
        let lines = proxy.stop().await;
        assert_eq!(lines.len(), 12);
        for (at, line) in lines.iter().enumerate() {
            let length = [0, 1, 1000, 16 * 1024, 100_000, LARGE][at / 2] as u64;
            assert_eq!(line.outcome(), "answered");
            assert_eq!(
                (&line.0["request_bytes"], &line.0["response_bytes"]),
                (&length.into(), &length.into())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_the_endpoint_back() {
    const SIZE: usize = 96 * 1024 * 1024;
    for (down, up) in PAIRS {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let endpoint = Endpoint::serve(up, move |_| {
            let count = Arc::clone(&count);
            async move {
                let (own, body) = feed(SIZE);
                tokio::spawn(async move {
                    while own.load(Ordering::SeqCst) < SIZE {
                        count.store(own.load(Ordering::SeqCst), Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
                Response::new(body)
            }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        let response = client.start(request(Method::GET, "/")).await.unwrap();
        // Two sockets of the kernel lie on the way, of some megabytes each.
        let held = soon("the flow to stand still", settled(&taken)).await;
        assert!(held < SIZE / 3, "{down:?} {up:?}: {held} bytes were on the way");
        let body = soon("the rest", response.into_body().collect())
            .await
            .unwrap()
            .to_bytes();
        assert!(body == pattern(SIZE), "{down:?} {up:?}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_takes_nothing_holds_the_client_back() {
    const SIZE: usize = 96 * 1024 * 1024;
    for (down, up) in PAIRS {
        let go = Arc::new(tokio::sync::Notify::new());
        let gone = Arc::clone(&go);
        let endpoint = Endpoint::serve(up, move |request: Request<hyper::body::Incoming>| {
            let gone = Arc::clone(&gone);
            async move {
                gone.notified().await;
                let length = request.into_body().collect().await.unwrap().to_bytes().len();
                Response::new(full(length.to_string()))
            }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        let (taken, body) = feed(SIZE);
        let answer = tokio::spawn(async move { client.send(request(Method::POST, "/").map(|_| body)).await });
        let held = soon("the flow to stand still", settled(&taken)).await;
        assert!(held < SIZE / 3, "{down:?} {up:?}: {held} bytes were on the way");
        go.notify_one();
        assert_eq!(answer.await.unwrap().text(), SIZE.to_string());
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, echo).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        let (sender, body) = fed();
        let sum = (HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));
        tokio::spawn(async move {
            sender.send(data("hello")).await.unwrap();
            let trailers = HeaderMap::from_iter([sum]);
            sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
        });
        let request = Request::post("/")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(body)
            .unwrap();
        let answer = client.send(request).await;
        assert_eq!(answer.text(), "hello", "{down:?} {up:?}");
        let trailers = answer
            .trailers
            .unwrap_or_else(|| panic!("no trailers: {down:?} {up:?}"));
        assert_eq!(trailers["x-sum"], "7", "{down:?} {up:?}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_may_have_a_body_of_known_or_unknown_length() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, report).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        let known = client
            .send(request(Method::GET, "/").map(|_| full("known")))
            .await
            .json();
        assert_eq!(
            (&known["body"], &known["method"]),
            (&"known".into(), &"GET".into())
        );
        let (sender, body) = fed();
        tokio::spawn(async move { sender.send(data("unknown")).await });
        // This library sends no body of unknown length with a GET unless told so.
        let mut get = request(Method::GET, "/").map(|_| body);
        if down == Down::H1 {
            get.headers_mut()
                .insert("transfer-encoding", HeaderValue::from_static("chunked"));
        }
        let unknown = client.send(get).await.json();
        assert_eq!(unknown["body"], "unknown", "{down:?} {up:?}");
        assert_eq!(client.get("/").await.json()["body"], "");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_without_a_body_have_none_and_keep_their_fields() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, |request: Request<hyper::body::Incoming>| async move {
            let response = Response::builder().header("etag", "\"1\"");
            match (request.method(), request.uri().path()) {
                (&Method::HEAD, _) => response.header("content-length", "5000").body(empty()),
                (_, "/204") => response.status(204).body(empty()),
                (_, "/304") => response.status(304).body(empty()),
                _ => response.body(full("body")),
            }
            .unwrap()
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        for _ in 0..3 {
            let head = client.send(request(Method::HEAD, "/")).await;
            assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
            assert_eq!(head.get("content-length"), Some("5000"), "{down:?} {up:?}");
            for path in ["/204", "/304"] {
                let answer = client.get(path).await;
                assert_eq!(answer.status.as_str(), &path[1..]);
                assert_eq!((answer.body.len(), answer.get("etag")), (0, Some("\"1\"")));
                assert_eq!(answer.get("content-length"), None, "{down:?} {up:?} {path}");
                assert_eq!(answer.get("transfer-encoding"), None, "{down:?} {up:?} {path}");
            }
            assert_eq!(client.get("/").await.text(), "body");
        }
        assert_eq!(endpoint.connections(), 1, "{down:?} {up:?}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one() {
    for (down, up) in PAIRS {
        let (events, sink) = tokio::sync::mpsc::channel::<&str>(1);
        let sink = Arc::new(tokio::sync::Mutex::new(sink));
        let endpoint = Endpoint::serve(up, move |_| {
            let sink = Arc::clone(&sink);
            async move {
                let (sender, body) = fed();
                tokio::spawn(async move {
                    while let Some(event) = sink.lock().await.recv().await {
                        sender.send(data(event)).await.unwrap();
                    }
                });
                Response::builder()
                    .header("content-type", "text/event-stream")
                    .body(body)
                    .unwrap()
            }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        let mut body = client.start(request(Method::GET, "/")).await.unwrap().into_body();
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            events.send(event).await.unwrap();
            let frame = soon("an event", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), event, "{down:?} {up:?}");
        }
        drop(events);
        assert!(
            soon("the end", body.collect())
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_may_come_before_the_request_has_ended() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, |request: Request<hyper::body::Incoming>| async move {
            let length = request.uri().path().len();
            if length > 1 {
                // Says no at the head and reads nothing.
                return Response::builder().status(413).body(full("too large")).unwrap();
            }
            Response::new(request.into_body().map_err(io::Error::other).boxed_unsync())
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        // A conversation: each piece of the response is an answer to one of the request.
        let (sender, body) = fed();
        let response = client
            .start(request(Method::POST, "/").map(|_| body))
            .await
            .unwrap();
        let mut body = response.into_body();
        for piece in ["one", "two", "three"] {
            sender.send(data(piece)).await.unwrap();
            let frame = soon("a piece", body.frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece, "{down:?} {up:?}");
        }
        drop(sender);
        assert!(
            soon("the end", body.collect())
                .await
                .unwrap()
                .to_bytes()
                .is_empty()
        );
        // A refusal while the request is still being sent.
        let (sender, body) = fed();
        sender.send(data("start")).await.unwrap();
        let mut client = proxy.client(down).await;
        let answer = client.send(request(Method::POST, "/no").map(|_| body)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (413, "too large"),
            "{down:?} {up:?}"
        );
        drop(sender);
        // And the proxy serves on.
        assert_eq!(proxy.client(down).await.post("/", "x").await.text(), "x");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_exchange_at_the_endpoint() {
    for (down, up) in PAIRS {
        let ended = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ended);
        let endpoint = Endpoint::serve(up, move |request: Request<hyper::body::Incoming>| {
            let count = Arc::clone(&count);
            async move {
                let (sender, body) = fed();
                tokio::spawn(async move {
                    let mut upload = request.into_body();
                    // Until the request breaks off, or nobody takes the response any more.
                    while matches!(upload.frame().await, Some(Ok(_))) {}
                    while sender.send(data(pattern(1000))).await.is_ok() {}
                    count.fetch_add(1, Ordering::SeqCst);
                });
                Response::new(body)
            }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        // Within the response.
        let mut client = proxy.client(down).await;
        let mut body = client.start(request(Method::GET, "/")).await.unwrap().into_body();
        soon("some of the body", body.frame()).await.unwrap().unwrap();
        drop((body, client));
        until("the endpoint to notice", || ended.load(Ordering::SeqCst) == 1).await;
        // Within the request.
        let (sender, body) = fed();
        sender.send(data("start")).await.unwrap();
        let mut client = proxy.client(down).await;
        let response = client
            .start(request(Method::POST, "/").map(|_| body))
            .await
            .unwrap();
        drop((response, client));
        sender.send(Err(io::ErrorKind::Other.into())).await.ok();
        until("the endpoint to notice", || ended.load(Ordering::SeqCst) == 2).await;
        let lines = proxy.stop().await;
        assert_eq!(lines.len(), 2);
        for line in lines {
            assert!(
                ["client_gone", "client_body"].contains(&line.outcome()),
                "{down:?} {up:?} {line:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_no_longer_ends_the_exchange_at_the_endpoint() {
    for (down, up) in PAIRS {
        struct Gone(Arc<AtomicUsize>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let gone = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&gone);
        let endpoint = Endpoint::serve(up, move |_| {
            let here = Gone(Arc::clone(&count));
            async move {
                std::future::pending::<()>().await;
                drop(here);
                Response::new(empty())
            }
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut client = proxy.client(down).await;
        let waiting = tokio::spawn(async move { client.try_send(request(Method::GET, "/")).await });
        until("the request to come", || endpoint.requests() == 1).await;
        waiting.abort();
        until("the endpoint to notice", || gone.load(Ordering::SeqCst) == 1).await;
        let lines = proxy.stop().await;
        assert_eq!(
            (lines.len(), lines[0].outcome(), lines[0].status()),
            (1, "client_gone", 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_never_looks_whole() {
    for down in Down::BOTH {
        for bytes in [
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ] {
            for reset in [false, true] {
                let endpoint = Endpoint::script(move |_, mut wire| async move {
                    wire.request().await;
                    wire.send(bytes).await;
                    if reset {
                        // After what was sent has been read, which a reset would take away.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        wire.reset();
                    }
                })
                .await;
                let proxy = Setup::to(&[endpoint.address]).start().await;
                let mut client = proxy.client(down).await;
                let got = client.try_send(request(Method::GET, "/")).await;
                assert!(got.is_err(), "{down:?} {bytes:?}: {got:?}");
                // The same seen on the wire.
                let mut wire = proxy.wire().await;
                wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                if let Some(message) = wire.response().await {
                    assert!(!message.whole, "{bytes:?}");
                }
                drop((client, wire));
                let lines = proxy.stop().await;
                assert_eq!(lines.len(), 2);
                for line in lines {
                    assert_eq!(
                        line.outcome(),
                        "upstream_truncated",
                        "{down:?} {bytes:?} {line:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_response_that_breaks_off_never_looks_whole() {
    for down in Down::BOTH {
        let endpoint = Endpoint::serve(H2C, |_| async {
            let (sender, body) = fed();
            tokio::spawn(async move {
                sender.send(data("hello")).await.unwrap();
                sender.send(Err(io::ErrorKind::Other.into())).await.unwrap();
            });
            Response::new(body)
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).speaking(H2C).start().await;
        let got = proxy.client(down).await.try_send(request(Method::GET, "/")).await;
        assert!(got.is_err(), "{down:?}: {got:?}");
        let lines = proxy.stop().await;
        assert_eq!((lines.len(), lines[0].outcome()), (1, "upstream_truncated"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_until_the_end_of_the_connection_is_whole_when_it_ends_in_good_order() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\nall there is").await;
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    for down in Down::BOTH {
        assert_eq!(proxy.client(down).await.get("/").await.text(), "all there is");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_stops_ends_after_its_idle_time() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, |_| async {
            let (sender, body) = fed();
            tokio::spawn(async move {
                sender.send(data("hello")).await.unwrap();
                sender.closed().await;
            });
            Response::new(body)
        })
        .await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .rule(|rule| rule.timeouts.idle = Some(Duration::from_millis(200)))
            .start()
            .await;
        let got = proxy.client(down).await.try_send(request(Method::GET, "/")).await;
        assert!(got.is_err(), "{down:?} {up:?}: {got:?}");
        let lines = proxy.stop().await;
        assert_eq!((lines.len(), lines[0].outcome()), (1, "upstream_stalled"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_answered_when_the_body_is_wanted() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .path("/gone", |rule| rule.backends = vec![share("nobody", 1)])
        .backend("nobody", &[], |_| {})
        .start()
        .await;
    let mut wire = proxy.wire().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(wire.response().await.unwrap().status(), 100);
    let response = wire.ask("hello").await;
    let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!((response.status(), &seen["body"]), (200, &"hello".into()));
    assert!(reported(&seen, "expect").is_empty());
    // A refusal comes instead of the invitation, and the connection ends: the body may come or not.
    let response = wire
        .ask("POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(response.status(), 503);
    assert_eq!(wire.rest().await.1, End::Closed);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_reach_an_http11_client_before_the_response() {
    let endpoint = Endpoint::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    for _ in 0..2 {
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        for link in ["</a.css>; rel=preload", "</b.css>; rel=preload"] {
            let hint = wire.response().await.unwrap();
            assert_eq!((hint.status(), hint.get("link")), (103, Some(link)));
            assert_eq!(hint.get("x-hop"), None);
        }
        let response = wire.response().await.unwrap();
        assert_eq!((response.status(), response.text().as_str()), (200, "ok"));
    }
    // Others get the response alone.
    let old = proxy.wire().await.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((old.status(), old.text().as_str()), (200, "ok"));
    assert_eq!(proxy.client(Down::H2).await.get("/").await.text(), "ok");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_endpoints_are_used_again() {
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, echo).await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .settings(|settings| settings.workers = Some(1))
            .start()
            .await;
        for _ in 0..5 {
            let mut client = proxy.client(down).await;
            for _ in 0..40 {
                assert_eq!(client.post("/", "x").await.text(), "x");
            }
        }
        assert_eq!(
            (endpoint.connections(), endpoint.requests()),
            (1, 200),
            "{down:?} {up:?}"
        );
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_endpoint_closed_meanwhile_costs_the_client_nothing() {
    // Each connection serves one request and is closed behind its response without a word.
    let endpoint = Endpoint::script(|_, mut wire| async move {
        if wire.request().await.is_some() {
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut client = proxy.client(Down::H1).await;
    for number in 0..1000 {
        assert_eq!(client.get(&format!("/{number}")).await.text(), "ok");
    }
    assert_eq!(endpoint.requests(), 1000);
    for line in proxy.stop().await {
        assert_eq!((line.outcome(), line.attempts()), ("answered", 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_is_never_sent_twice() {
    // Every other connection is closed behind its response, the others as soon as the next head has come.
    let endpoint = Endpoint::script(|number, mut wire| async move {
        if wire.request().await.is_none()
            || !wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
        {
            return;
        }
        if number % 2 == 0 {
            wire.request().await;
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut client = proxy.client(Down::H1).await;
    let mut failed = 0;
    for number in 0..1000 {
        let answer = client.post(&format!("/{number}"), "body").await;
        match answer.status.as_u16() {
            200 => {}
            502 => failed += 1,
            other => panic!("{other}"),
        }
    }
    let mut lines = endpoint.lines();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), all, "some came twice");
    // Those that came second on a connection were lost, none else.
    assert!((1..=500).contains(&failed), "{failed}");
    for line in proxy.stop().await {
        assert!(
            ["answered", "upstream_reset"].contains(&line.outcome()) && line.attempts() == 1,
            "{line:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_when_its_connection_ends() {
    let endpoint = Endpoint::serve(H1, saying("ok")).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    for (request, closes) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", true),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            true,
        ),
        ("GET / HTTP/1.0\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false),
    ] {
        let mut wire = proxy.wire().await;
        let response = wire.ask(request).await;
        assert_eq!(response.text(), "ok", "{request:?}");
        let says = response.get("connection").map(str::to_owned);
        if closes {
            assert_eq!(wire.rest().await, (Vec::new(), End::Closed), "{request:?}");
        } else {
            assert_ne!(says.as_deref(), Some("close"), "{request:?}");
            assert_eq!(wire.ask(request).await.text(), "ok", "{request:?}");
        }
    }
    // An endpoint's own wish is not the client's affair.
    let closing = Endpoint::script(|_, mut wire| async move {
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
    })
    .await;
    proxy.set_endpoints("web", &[closing.address]).await;
    let mut wire = proxy.wire().await;
    for _ in 0..3 {
        let response = wire.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((response.status(), response.get("connection")), (200, None));
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http10_client_gets_no_chunks() {
    let endpoint = Endpoint::serve(H1, |_| async {
        let (_, body) = feed(100_000);
        Response::new(body)
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    let response = wire
        .ask("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        .await;
    assert!(response.start.starts_with("HTTP/1.0 200"), "{}", response.start);
    assert_eq!((response.get("transfer-encoding"), response.whole), (None, true));
    assert!(response.body == pattern(100_000));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_one_hop_stay_there_and_those_of_the_way_are_written() {
    for up in [H1, H2C] {
        let endpoint = Endpoint::serve(up, report).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(up).start().await;
        let mut wire = proxy.wire().await;
        let response = wire
            .ask(
                "GET /a HTTP/1.1\r\nHost: Shop.example\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\n\
                 Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
                 X-Forwarded-Host: evil\r\nX-Forwarded-User: root\r\nX-Real-IP: 203.0.113.9\r\n\
                 Forwarded: for=203.0.113.9\r\nX-Kept: 1\r\nX-Kept: 2\r\nCookie: a=1\r\n\r\n",
            )
            .await;
        assert_eq!(response.status(), 200);
        assert!(response.get("date").is_some());
        let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
        for gone in [
            "connection",
            "x-mine",
            "keep-alive",
            "proxy-connection",
            "te",
            "upgrade",
            "http2-settings",
            "x-forwarded-user",
            "x-real-ip",
            "forwarded",
        ] {
            assert!(reported(&seen, gone).is_empty(), "{up:?} {gone}");
        }
        for (name, values) in [
            ("x-forwarded-for", &["127.0.0.1"][..]),
            ("x-forwarded-proto", &["http"]),
            ("x-forwarded-host", &["Shop.example"]),
            ("via", &["1.1 tidegate"]),
            ("x-kept", &["1", "2"]),
            ("cookie", &["a=1"]),
        ] {
            assert_eq!(reported(&seen, name), values, "{up:?} {name}");
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxys_word_is_extended() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()])
        .start()
        .await;
    let response = proxy
        .wire()
        .await
        .ask(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: shop\r\nForwarded: for=203.0.113.9;proto=https\r\n\r\n",
        )
        .await;
    let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(reported(&seen, "x-forwarded-for"), ["203.0.113.9, 127.0.0.1"]);
    assert_eq!(reported(&seen, "x-forwarded-proto"), ["https"]);
    assert_eq!(reported(&seen, "x-forwarded-host"), ["shop"]);
    assert_eq!(
        reported(&seen, "forwarded"),
        [
            "for=203.0.113.9;proto=https",
            "for=127.0.0.1;host=\"a\";proto=http"
        ]
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_goes_in_circles_ends() {
    // The proxy's only endpoint is the proxy.
    let proxy = Setup::to(&["127.0.0.1:9".parse().unwrap()]).start().await;
    proxy.set_endpoints("web", &[proxy.address]).await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.status.as_u16(), 508);
    assert!(
        answer
            .get("proxy-status")
            .unwrap()
            .contains("proxy_loop_detected")
    );
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 11);
    assert_eq!(lines.iter().filter(|line| line.outcome() == "loop").count(), 1);
}

/// A Service in front of a Gateway leads its port to another one here.
#[tokio::test(flavor = "multi_thread")]
async fn redirections_know_the_port_that_clients_came_to() {
    for (port, location) in [
        (None, None),
        (Some(80), Some("http://a.example/")),
        (Some(8080), Some("http://a.example:8080/")),
    ] {
        for down in [Down::H1, Down::H2] {
            let mut setup = Setup::to(&[]).rule(|rule| {
                rule.filters = vec![Filter::Redirect(Redirect {
                    scheme: None,
                    hostname: Some("a.example".into()),
                    port: None,
                    path: None,
                    status: StatusCode::FOUND,
                })];
            });
            setup.listener.public_port = port.and_then(std::num::NonZeroU16::new);
            let proxy = setup.start().await;
            let answer = proxy.client(down).await.get("/").await;
            let bound = format!("http://a.example:{}/", proxy.address.port());
            assert_eq!(
                answer.get("location"),
                Some(location.unwrap_or(&bound)),
                "{port:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_edit_redirect_rewrite_and_answer() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    for (down, up) in PAIRS {
        let endpoint = Endpoint::serve(up, report).await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .rule(|rule| {
                let edits = |text: &'static str| HeaderEdits {
                    remove: vec![name("x-gone")],
                    set: vec![(name("x-set"), value(text))],
                    add: vec![(name("x-add"), value(text))],
                };
                rule.filters = vec![
                    Filter::RequestHeaders(edits("request")),
                    Filter::ResponseHeaders(HeaderEdits {
                        remove: vec![name("content-type")],
                        ..edits("response")
                    }),
                ];
            })
            .path("/direct", |rule| {
                rule.filters = vec![Filter::Direct(DirectResponse {
                    status: StatusCode::IM_A_TEAPOT,
                    headers: vec![(name("x-tea"), value("green"))],
                    body: Bytes::from_static(b"short and stout"),
                })];
            })
            .path("/nothing", |rule| {
                rule.filters = vec![Filter::Direct(DirectResponse {
                    status: StatusCode::NO_CONTENT,
                    headers: vec![],
                    body: Bytes::new(),
                })];
            })
            .path("/old", |rule| {
                rule.filters = vec![Filter::Redirect(Redirect {
                    scheme: Some(http::uri::Scheme::HTTPS),
                    hostname: Some("new.example".into()),
                    port: None,
                    path: Some(PathRewrite::Prefix("/new".into())),
                    status: StatusCode::PERMANENT_REDIRECT,
                })];
            })
            .path("/api", |rule| {
                rule.filters = vec![Filter::Rewrite(Rewrite {
                    hostname: Some(value("inner.example")),
                    path: Some(PathRewrite::Prefix("/v2".into())),
                })];
            })
            .start()
            .await;
        let mut client = proxy.client(down).await;
        let asked = Request::get("/")
            .header("x-gone", "1")
            .header("x-add", "client")
            .body(empty())
            .unwrap();
        let answer = client.send(asked).await;
        assert_eq!(
            (answer.get("x-set"), answer.get("x-add")),
            (Some("response"), Some("response"))
        );
        assert_eq!(answer.get("content-type"), None);
        let seen = answer.json();
        assert!(reported(&seen, "x-gone").is_empty());
        assert_eq!(reported(&seen, "x-set"), ["request"]);
        assert_eq!(reported(&seen, "x-add"), ["client,request"]);

        let answer = client.get("/direct").await;
        assert_eq!(
            (answer.status.as_u16(), answer.get("x-tea")),
            (418, Some("green"))
        );
        assert_eq!(answer.text(), "short and stout");
        let head = client.send(request(Method::HEAD, "/direct")).await;
        assert_eq!((head.body.len(), head.get("content-length")), (0, Some("15")));
        let nothing = client.get("/nothing").await;
        assert_eq!(
            (nothing.status.as_u16(), nothing.get("content-length")),
            (204, None),
            "RFC 9110 §8.6"
        );

        let answer = client.get("/old/page?q=1").await;
        assert_eq!(answer.status.as_u16(), 308);
        assert_eq!(answer.get("location"), Some("https://new.example/new/page?q=1"));

        let seen = client.get("/api/users?q=1").await.json();
        assert_eq!(seen["target"], "/v2/users?q=1");
        let host = match up {
            H1 => reported(&seen, "host")[0].clone(),
            _ => seen["authority"].as_str().unwrap().to_owned(),
        };
        assert_eq!(host, "inner.example");
        assert_eq!(endpoint.requests(), 2);
        drop(client);
        let outcomes: Vec<_> = proxy
            .stop()
            .await
            .iter()
            .map(|line| line.outcome().to_owned())
            .collect();
        assert_eq!(
            outcomes,
            ["answered", "direct", "direct", "direct", "redirected", "answered"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_path_that_is_matched_is_the_path_that_is_forwarded() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .path("/admin", |rule| {
            rule.filters = vec![Filter::Direct(DirectResponse {
                status: StatusCode::FORBIDDEN,
                headers: vec![],
                body: Bytes::new(),
            })];
        })
        .start()
        .await;
    for target in [
        "/admin",
        "/admin/x",
        "/a/../admin",
        "/%61dmin",
        "/./admin",
        "/a/%2e%2e/admin/",
        "/admin/../admin",
    ] {
        let response = proxy
            .wire()
            .await
            .ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        assert_eq!(response.status(), 403, "{target}");
    }
    for (target, forwarded) in [
        ("/x/../y?a=/../b", "/y?a=/../b"),
        ("/%7euser", "/~user"),
        ("/a%2fb", "/a%2Fb"),
        ("//admin", "//admin"),
    ] {
        let response = proxy
            .wire()
            .await
            .ask(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
        assert_eq!(seen["target"], forwarded);
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_get_copies_and_never_disturb_the_exchange() {
    for (down, up) in PAIRS {
        let copies = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&copies);
        let mirror = Endpoint::serve(up, move |request: Request<hyper::body::Incoming>| {
            let sink = Arc::clone(&sink);
            async move {
                let line = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sink.lock().unwrap().push((line, body.len()));
                // What a mirror says is nobody's concern.
                Response::builder().status(500).body(full("mirror")).unwrap()
            }
        })
        .await;
        let endpoint = Endpoint::serve(up, echo).await;
        let to_mirror = |backend: &str| {
            Filter::Mirror(Mirror {
                backend: backend.into(),
                fraction: Fraction::ALL,
            })
        };
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .backend("mirror", &[mirror.address], |backend| backend.protocol = up)
            .backend("dead", &[support::endpoint::Refusing::new().address], |_| {})
            .rule(|rule| rule.filters = vec![to_mirror("mirror"), to_mirror("dead")])
            .start()
            .await;
        let mut client = proxy.client(down).await;
        assert_eq!(client.get("/get").await.status, 200);
        assert_eq!(client.post("/known", pattern(1000)).await.body, pattern(1000));
        let (_, body) = feed(50_000);
        let answer = client.send(request(Method::POST, "/unknown").map(|_| body)).await;
        assert_eq!(answer.body, pattern(50_000));
        // Too large to be kept: the exchange goes on, the copy does not.
        assert_eq!(client.post("/large", pattern(LARGE)).await.body.len(), LARGE);
        let expected = [("GET /get", 0), ("POST /known", 1000), ("POST /unknown", 50_000)];
        let expected = expected.map(|(line, length)| (line.to_owned(), length));
        until("the copies", || {
            let mut copies = copies.lock().unwrap().clone();
            copies.sort();
            copies == expected
        })
        .await;
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_split_by_weight() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let two = Endpoint::serve(H1, saying("two")).await;
    let never = Endpoint::serve(H1, saying("never")).await;
    let proxy = Setup::to(&[one.address])
        .backend("two", &[two.address], |_| {})
        .backend("never", &[never.address], |_| {})
        .rule(|rule| rule.backends = vec![share("web", 3), share("two", 1), share("never", 0)])
        .start()
        .await;
    let mut client = proxy.client(Down::H2).await;
    for _ in 0..2000 {
        client.get("/").await;
    }
    // 1500 are expected; six standard deviations are 116.
    assert!((1384..=1616).contains(&one.requests()), "{}", one.requests());
    assert_eq!((one.requests() + two.requests(), never.requests()), (2000, 0));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_reference_fails_its_share_only() {
    let one = Endpoint::serve(H1, saying("one")).await;
    let mut bad = share("web", 1);
    bad.target = BackendTarget::Invalid("no such service".into());
    let proxy = Setup::to(&[one.address])
        .rule(|rule| rule.backends = vec![share("web", 1), bad])
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    let mut failed = 0;
    for _ in 0..200 {
        match client.get("/").await.status.as_u16() {
            200 => {}
            500 => failed += 1,
            other => panic!("{other}"),
        }
    }
    assert!((40..=160).contains(&failed), "{failed}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_get_their_own_answers() {
    let endpoint = Endpoint::serve(H1, echo).await;
    let proxy = Arc::new(Setup::to(&[endpoint.address]).start().await);
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..32 {
        let address = proxy.address;
        tasks.spawn(async move {
            let down = Down::BOTH[client % 2];
            let mut connection = Client::connect(down, address).await;
            for round in 0..50 {
                let text = format!("{client} {round}");
                assert_eq!(connection.post("/", text.clone()).await.text(), text);
            }
        });
    }
    while let Some(done) = soon("the clients", tasks.join_next()).await {
        done.unwrap();
    }
    let lines = Arc::into_inner(proxy).unwrap().stop().await;
    assert_eq!(lines.len(), 1600);
}
