//! What is tried again and what is not, what a client is told in the end, and what the log says of it.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "retries/asked.rs"]
mod asked;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use support::client::request;
use support::endpoint::{Refusing, Silent, echo, saying};
use support::proxy::share;
use support::{Down, Endpoint, H1, H2C, Line, Proxy, Setup, data, empty, fed, full, pattern, until};
use tidegate::model::{BackendProtocol, BackendTarget};

/// Reads a whole request and ends the connection without a byte.
async fn resetting() -> Endpoint {
    Endpoint::script(|_, mut wire| async move {
        wire.request().await;
        wire.reset();
    })
    .await
}

/// An endpoint that never answers.
async fn mute(protocol: BackendProtocol) -> Endpoint {
    Endpoint::serve(protocol, |_| async { std::future::pending().await }).await
}

/// Sends a request, and gives status and `Proxy-Status`.
async fn told(proxy: &Proxy, method: Method, path: &str) -> (u16, String) {
    let answer = proxy.client(Down::H1).await.send(request(method, path)).await;
    let why = answer.get("proxy-status").unwrap_or_default().to_owned();
    (answer.status.as_u16(), why)
}

fn ended(lines: &[Line]) -> Vec<(String, u64, u64)> {
    lines
        .iter()
        .map(|line| (line.outcome().to_owned(), line.status(), line.attempts()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_elsewhere_for_any_method() {
    for down in Down::BOTH {
        let refusing = Refusing::new();
        let good = Endpoint::serve(H1, echo).await;
        let proxy = Setup::to(&[refusing.address, good.address])
            .policy(|backend| {
                backend.retry_budget.per_second = 1000;
                backend.balance = tidegate::model::Balance::RoundRobin;
            })
            .start()
            .await;
        let mut client = proxy.client(down).await;
        for method in [
            Method::GET,
            Method::POST,
            Method::PATCH,
            Method::PUT,
            Method::DELETE,
        ] {
            for _ in 0..10 {
                let answer = client
                    .send(request(method.clone(), "/").map(|_| full("body")))
                    .await;
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (StatusCode::OK, "body"),
                    "{down:?} {method}"
                );
            }
        }
        drop(client);
        let lines = proxy.stop().await;
        assert_eq!(lines.len(), 50);
        assert!(lines.iter().all(|line| line.outcome() == "answered"));
        assert!(
            lines.iter().any(|line| line.attempts() == 2) && lines.iter().all(|line| line.attempts() <= 2)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_tried_elsewhere_only_where_twice_does_no_harm() {
    for (method, safe) in [
        (Method::GET, true),
        (Method::PUT, true),
        (Method::DELETE, true),
        (Method::POST, false),
        (Method::PATCH, false),
    ] {
        let bad = [resetting().await, resetting().await];
        let proxy = Setup::to(&[bad[0].address, bad[1].address]).start().await;
        let (status, why) = told(&proxy, method.clone(), "/").await;
        assert_eq!(
            (status, why.as_str()),
            (
                502,
                "tidegate; error=connection_terminated; details=\"upstream_reset\""
            )
        );
        let requests = bad[0].requests() + bad[1].requests();
        // The third try goes to one that was tried before, for want of another.
        assert_eq!(requests, if safe { 3 } else { 1 }, "{method}");
        let attempts = requests as u64;
        assert_eq!(
            ended(&proxy.stop().await),
            [("upstream_reset".to_owned(), 502, attempts)]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_are_bounded_by_the_policy() {
    for attempts in 1..=4 {
        let refusing = [(); 6].map(|()| Refusing::new());
        let proxy = Setup::to(&refusing.each_ref().map(|refusing| refusing.address))
            .rule(|rule| rule.retry.attempts = attempts)
            .start()
            .await;
        let (status, why) = told(&proxy, Method::GET, "/").await;
        assert_eq!(
            (status, why.as_str()),
            (
                502,
                "tidegate; error=connection_refused; details=\"connect_refused\""
            )
        );
        let expected = ("connect_refused".to_owned(), 502, u64::from(attempts));
        assert_eq!(ended(&proxy.stop().await), [expected]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_bounded_by_the_backends_budget() {
    let refusing = [(); 3].map(|()| Refusing::new());
    let proxy = Setup::to(&refusing.each_ref().map(|refusing| refusing.address))
        .policy(|backend| {
            backend.retry_budget.percent = 20;
            backend.retry_budget.per_second = 0;
        })
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    for _ in 0..500 {
        assert_eq!(client.get("/").await.status.as_u16(), 502);
    }
    drop(client);
    let retries: u64 = proxy.stop().await.iter().map(|line| line.attempts() - 1).sum();
    assert!(
        (50..=100).contains(&retries),
        "{retries} retries of 500 requests at 20 %"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_tried_again_where_the_policy_names_it() {
    let bad = Endpoint::serve(H1, |_| async {
        Response::builder().status(503).body(full("bad")).unwrap()
    })
    .await;
    let good = Endpoint::serve(H1, saying("good")).await;
    let proxy = Setup::to(&[bad.address, good.address])
        .policy(|backend| {
            backend.retry_budget.per_second = 1000;
            backend.balance = tidegate::model::Balance::RoundRobin;
        })
        .rule(|rule| rule.retry.on.statuses = vec![StatusCode::SERVICE_UNAVAILABLE])
        .path("/plain", |_| {})
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert!(bad.requests() > 0);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(client.get("/plain").await.text());
        seen.insert(client.post("/", "x").await.text());
    }
    assert_eq!(
        seen.iter().map(String::as_str).collect::<Vec<_>>(),
        ["bad", "good"],
        "passed on as it is"
    );
    drop(client);
    for line in proxy.stop().await {
        assert_eq!(line.outcome(), "answered");
        assert!(line.attempts() == 1 || line.0["method"] == "GET" && line.path() == "/");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_is_passed_on_when_every_try_has_a_bad_status() {
    let bad = [
        Endpoint::answering("HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nbad").await,
        Endpoint::answering("HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nbad").await,
    ];
    let proxy = Setup::to(&[bad[0].address, bad[1].address])
        .rule(|rule| rule.retry.on.statuses = vec![StatusCode::SERVICE_UNAVAILABLE])
        .start()
        .await;
    let answer = proxy.get("/").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "bad"));
    assert_eq!(answer.get("proxy-status"), None, "it is the endpoint's own");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_again_whole_if_it_is_small_enough() {
    for down in Down::BOTH {
        for (length, again) in [
            (0, true),
            (1000, true),
            (64 * 1024, true),
            (64 * 1024 + 1, false),
            (1_000_000, false),
        ] {
            for known in [true, false] {
                // One of the two ends the first request, whichever gets it.
                let first = Arc::new(AtomicUsize::new(0));
                let flaky = |first: Arc<AtomicUsize>| {
                    Endpoint::script(move |_, mut wire| {
                        let first = Arc::clone(&first);
                        async move {
                            let Some(message) = wire.request().await else {
                                return;
                            };
                            if first.fetch_add(1, Ordering::SeqCst) == 0 {
                                return wire.reset();
                            }
                            let whole = message.whole && message.body == pattern(message.body.len());
                            let text = format!("{whole} {}", message.body.len());
                            wire.send(format!(
                                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                                text.len()
                            ))
                            .await;
                        }
                    })
                };
                let (one, two) = (flaky(Arc::clone(&first)).await, flaky(Arc::clone(&first)).await);
                let proxy = Setup::to(&[one.address, two.address]).start().await;
                let body = if known {
                    full(pattern(length))
                } else {
                    let (sender, body) = fed();
                    tokio::spawn(async move {
                        let whole = pattern(length);
                        for chunk in whole.chunks(10_000) {
                            let _ = sender.send(data(Bytes::copy_from_slice(chunk))).await;
                        }
                    });
                    body
                };
                let mut client = proxy.client(down).await;
                let answer = client.send(request(Method::PUT, "/").map(|_| body)).await;
                let expected = match again {
                    true => (200, format!("true {length}")),
                    false => (502, "502 Bad Gateway: upstream_reset\n".to_owned()),
                };
                assert_eq!(
                    (answer.status.as_u16(), answer.text()),
                    expected,
                    "{down:?} {length} {known}"
                );
                drop(client);
                let lines = proxy.stop().await;
                assert_eq!((lines.len(), lines[0].attempts()), (1, if again { 2 } else { 1 }));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_of_a_try_and_of_a_request_are_told_apart() {
    for up in [H1, H2C] {
        let mutes = [mute(up).await, mute(up).await];
        let short = Some(Duration::from_millis(150));
        let long = Some(Duration::from_millis(400));
        let proxy = Setup::to(&[mutes[0].address, mutes[1].address])
            .speaking(up)
            .rule(|rule| rule.timeouts.request = short)
            .path("/try", |rule| rule.timeouts.per_try = short)
            .path("/again", |rule| {
                rule.timeouts.per_try = short;
                rule.retry.on.timeout = true;
            })
            .path("/both", |rule| {
                rule.timeouts.per_try = Some(Duration::from_millis(300));
                rule.timeouts.request = long;
                rule.retry.on.timeout = true;
            })
            .start()
            .await;
        for (method, path, outcome, attempts) in [
            (Method::GET, "/", "request_timeout", 1),
            (Method::GET, "/try", "try_timeout", 1),
            (Method::GET, "/again", "try_timeout", 3),
            (Method::POST, "/again", "try_timeout", 1),
            (Method::GET, "/both", "request_timeout", 2),
        ] {
            let before = mutes[0].requests() + mutes[1].requests();
            let (status, why) = told(&proxy, method, path).await;
            let why_not = format!("tidegate; error=http_response_timeout; details=\"{outcome}\"");
            assert_eq!((status, why), (504, why_not), "{up:?} {path}");
            assert_eq!(
                mutes[0].requests() + mutes[1].requests() - before,
                attempts,
                "{up:?} {path}"
            );
        }
        let mut attempts: Vec<_> = proxy.stop().await.iter().map(Line::attempts).collect();
        attempts.sort_unstable();
        assert_eq!(attempts, [1, 1, 1, 2, 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_made_in_time_is_tried_elsewhere() {
    let silent = Silent::new();
    let good = Endpoint::serve(H1, echo).await;
    let proxy = Setup::to(&[silent.address, good.address])
        .policy(|backend| {
            backend.connect_timeout = Duration::from_millis(100);
            backend.balance = tidegate::model::Balance::RoundRobin;
            backend.retry_budget.per_second = 1000;
        })
        .backend("silent", &[silent.address], |backend| {
            backend.connect_timeout = Duration::from_millis(100);
        })
        .path("/silent", |rule| rule.backends = vec![share("silent", 1)])
        .path("/soon", |rule| {
            rule.backends = vec![share("silent", 1)];
            rule.timeouts.request = Some(Duration::from_millis(30));
        })
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    for _ in 0..8 {
        assert_eq!(client.post("/", "x").await.text(), "x");
    }
    let (status, why) = told(&proxy, Method::GET, "/silent").await;
    assert_eq!(
        (status, why.as_str()),
        (
            504,
            "tidegate; error=connection_timeout; details=\"connect_timeout\""
        )
    );
    let (status, why) = told(&proxy, Method::GET, "/soon").await;
    assert_eq!(
        (status, why.as_str()),
        (
            504,
            "tidegate; error=http_response_timeout; details=\"request_timeout\""
        )
    );
    drop(client);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_endpoints_are_waited_for_and_then_overloaded() {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let endpoint = Endpoint::serve(H1, move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            Response::new(full("at last"))
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .policy(|backend| {
            backend.limits.max_in_flight = 1;
            backend.limits.queue_timeout = Duration::from_millis(400);
        })
        .start()
        .await;
    let mut first = proxy.client(Down::H1).await;
    let first = tokio::spawn(async move { first.get("/").await.text() });
    until("the first to be there", || endpoint.requests() == 1).await;
    // Nobody leaves: the second waits in vain.
    let (status, why) = told(&proxy, Method::GET, "/").await;
    assert_eq!(
        (status, why.as_str()),
        (
            503,
            "tidegate; error=connection_limit_reached; details=\"overloaded\""
        )
    );
    assert_eq!(endpoint.requests(), 1);
    // The first leaves: the third is served.
    let mut third = proxy.client(Down::H1).await;
    let third = tokio::spawn(async move { third.get("/").await.text() });
    go.add_permits(2);
    assert_eq!(
        (first.await.unwrap(), third.await.unwrap()),
        ("at last".to_owned(), "at last".to_owned())
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_an_endpoint_are_bounded() {
    let endpoint = Endpoint::serve(H1, |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Response::new(full("ok"))
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .policy(|backend| backend.limits.max_connections = 4)
        .start()
        .await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut client = proxy.client(Down::H1).await;
        tasks.spawn(async move { client.get("/").await.status.as_u16() });
    }
    while let Some(status) = tasks.join_next().await {
        let status = status.unwrap();
        assert!([200, 503].contains(&status), "{status}");
    }
    assert!(
        (1..=4).contains(&endpoint.connections()),
        "{}",
        endpoint.connections()
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_told_with_its_reason() {
    for explain in [true, false] {
        let endpoint = Endpoint::serve(H1, saying("ok")).await;
        let mut invalid = share("web", 1);
        invalid.target = BackendTarget::Invalid("no such service".into());
        let proxy = Setup::to(&[endpoint.address])
            .settings(|settings| settings.proxy_status_header = explain)
            .rule(|rule| rule.matches[0].path = tidegate::model::PathMatch::prefix("/good"))
            .backend("empty", &[], |_| {})
            .path("/empty", |rule| rule.backends = vec![share("empty", 1)])
            .path("/unknown", |rule| rule.backends = vec![share("nobody knows", 1)])
            .path("/invalid", |rule| rule.backends = vec![invalid])
            .path("/nowhere", |rule| rule.backends = vec![])
            .start()
            .await;
        for (path, status, outcome, error) in [
            ("/empty", 503, "no_endpoint", "destination_unavailable"),
            ("/unknown", 503, "no_endpoint", "destination_unavailable"),
            ("/invalid", 500, "bad_reference", "proxy_configuration_error"),
            ("/nowhere", 500, "bad_reference", "proxy_configuration_error"),
            ("/", 404, "no_route", "destination_not_found"),
        ] {
            for down in Down::BOTH {
                let answer = proxy.client(down).await.get(path).await;
                assert_eq!(answer.status.as_u16(), status, "{path}");
                let why = format!("tidegate; error={error}; details=\"{outcome}\"");
                assert_eq!(
                    answer.get("proxy-status"),
                    explain.then_some(why.as_str()),
                    "{path}"
                );
                let reason = answer.status.canonical_reason().unwrap();
                assert_eq!(answer.text(), format!("{status} {reason}: {outcome}\n"));
                assert_eq!(answer.get("retry-after"), (status == 503).then_some("1"));
                let head = proxy.client(down).await.send(request(Method::HEAD, path)).await;
                assert_eq!((head.status.as_u16(), head.body.len()), (status, 0));
            }
        }
        assert_eq!(endpoint.requests(), 0);
        let lines = proxy.stop().await;
        assert_eq!(lines.len(), 20);
        for line in lines {
            let expected = match line.path() {
                "/empty" | "/unknown" => ("no_endpoint", 503),
                "/invalid" | "/nowhere" => ("bad_reference", 500),
                _ => ("no_route", 404),
            };
            assert_eq!((line.outcome(), line.status()), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_exchange_has_one_line_with_what_happened() {
    let endpoint = Endpoint::serve(H1, echo).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let address = endpoint.address.to_string();
    for down in Down::BOTH {
        let mut client = proxy.client(down).await;
        let asked = Request::post("/a?b=1")
            .header("user-agent", "test/1")
            .header("x-request-id", "7d1f")
            .body(full("hello"))
            .unwrap();
        client.send(asked).await;
    }
    let mut lines = proxy.stop().await;
    // Workers hand their lines on by themselves: between two of them there is no order.
    lines.sort_by_key(|line| line.0["version"].to_string());
    assert_eq!(lines.len(), 2);
    for (line, version) in lines.iter().zip(["HTTP/1.1", "HTTP/2"]) {
        let shown = &line.0;
        for (key, value) in [
            ("outcome", "answered"),
            ("method", "POST"),
            ("host", "test.example"),
            ("path", "/a?b=1"),
            ("listener", "http"),
            ("route", "all"),
            ("backend", "web"),
            ("endpoint", address.as_str()),
            ("user_agent", "test/1"),
            ("request_id", "7d1f"),
        ] {
            assert_eq!(shown[key], value, "{shown}");
        }
        assert!(shown["version"].as_str().unwrap().starts_with(version), "{shown}");
        for (key, value) in [
            ("status", 200),
            ("attempts", 1),
            ("request_bytes", 5),
            ("response_bytes", 5),
        ] {
            assert_eq!(shown[key], value, "{shown}");
        }
        let (head, whole) = (
            shown["head_ms"].as_f64().unwrap(),
            shown["duration_ms"].as_f64().unwrap(),
        );
        assert!(0.0 < head && head <= whole, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_connection_that_the_endpoint_gives_up_loses_no_request() {
    // Each connection says GOAWAY after some requests, finishes what it has and ends.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut taken = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    respond.send_response(Response::new(()), true).unwrap();
                    taken += 1;
                    if taken == 10 {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    let proxy = Setup::to(&[address]).speaking(H2C).start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let mut client = proxy.client(Down::H1).await;
        tasks.spawn(async move {
            for number in 0..250 {
                let answer = client.get("/").await;
                assert_eq!(answer.status.as_u16(), 200, "{number}: {}", answer.text());
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(served.load(Ordering::SeqCst) >= 1000);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_endpoint_refuses_is_sent_again_whatever_its_method() {
    // RFC 9113 §8.7: REFUSED_STREAM says that nothing was done.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let good = Endpoint::serve(H2C, saying("good")).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    let proxy = Setup::to(&[address, good.address])
        .speaking(H2C)
        .policy(|backend| {
            backend.balance = tidegate::model::Balance::RoundRobin;
            backend.retry_budget.per_second = 1000;
        })
        .start()
        .await;
    let mut client = proxy.client(Down::H2).await;
    for _ in 0..10 {
        for method in [Method::GET, Method::POST] {
            let answer = client.send(request(method, "/").map(|_| full("body"))).await;
            assert_eq!(answer.text(), "good");
        }
    }
    assert!(refused.load(Ordering::SeqCst) > 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_set_aside() {
    let bad = Endpoint::serve(H1, |_| async {
        Response::builder().status(500).body(empty()).unwrap()
    })
    .await;
    let good = Endpoint::serve(H1, saying("good")).await;
    let proxy = Setup::to(&[bad.address, good.address])
        .policy(|backend| {
            backend.ejection = Some(tidegate::model::Ejection::default());
            backend.balance = tidegate::model::Balance::RoundRobin;
        })
        .start()
        .await;
    let mut client = proxy.client(Down::H1).await;
    for _ in 0..100 {
        client.get("/").await;
    }
    assert!(
        (5..=8).contains(&bad.requests()),
        "five in a row are enough: {}",
        bad.requests()
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_broken_body_is_not_the_endpoints_fault() {
    let endpoint = Endpoint::serve(H1, |request: Request<hyper::body::Incoming>| async move {
        let _ = request.into_body().collect().await;
        Response::new(full("ok"))
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .policy(|backend| backend.ejection = Some(tidegate::model::Ejection::default()))
        .start()
        .await;
    for number in 1..=20 {
        let mut wire = proxy.wire().await;
        wire.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .await;
        until("the endpoint to see the head", || endpoint.requests() == number).await;
        wire.send("XX\r\n").await;
        if let Some(response) = wire.response().await {
            assert_eq!(response.status(), 400);
        }
    }
    assert_eq!(proxy.get("/").await.text(), "ok", "the endpoint is still there");
    let lines = proxy.stop().await;
    let broken = lines
        .iter()
        .filter(|line| (line.outcome(), line.attempts()) == ("client_body", 1));
    assert_eq!((lines.len(), broken.count()), (21, 20), "{lines:?}");
}
