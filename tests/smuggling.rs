//! What a client can say that two readers could understand differently is refused, the connection ends, and no endpoint
//! sees anything of it. The classes are those of the request-smuggling literature of 2019 to 2025; the rules RFC 9112's
//! in their strict reading.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::endpoint::report;
use support::frames::{self, Verdict, frame, opening};
use support::wire::End;
use support::{Endpoint, H1, H2C, Proxy, Setup, Wire, soon};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn strict() -> (Endpoint, Proxy) {
    let endpoint = Endpoint::answering(OK).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    (endpoint, proxy)
}

/// Sends bytes and a request behind them that must not be taken for one; gives the status of the only response.
async fn refused(proxy: &Proxy, bytes: &[u8]) -> u16 {
    let mut wire = proxy.wire().await;
    wire.send(bytes).await;
    wire.send("GET /behind HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let shown = String::from_utf8_lossy(bytes).into_owned();
    let response = wire
        .response()
        .await
        .unwrap_or_else(|| panic!("no response to {shown:?}"));
    assert!(response.whole, "{shown:?}");
    assert_eq!(response.get("connection"), Some("close"), "{shown:?}");
    let (rest, end) = wire.rest().await;
    assert_eq!(
        String::from_utf8_lossy(&rest),
        "",
        "behind the response to {shown:?}"
    );
    assert_eq!(end, End::Closed, "{shown:?}");
    response.status()
}

fn post(fields: &str) -> String {
    format!("POST /bad HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

fn get(fields: &str) -> String {
    format!("GET /bad HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_doubtful_length_is_refused_and_no_endpoint_sees_it() {
    let (endpoint, proxy) = strict().await;
    let huge = format!("Content-Length: {}", u128::from(u64::MAX) + 1);
    let cases = [
        // A length beside a coding, in either order.
        (400, post("Content-Length: 6\r\nTransfer-Encoding: chunked")),
        (400, post("Transfer-Encoding: chunked\r\nContent-Length: 6")),
        // Two lengths.
        (400, post("Content-Length: 5\r\nContent-Length: 6")),
        (400, post("Content-Length: 5\r\nContent-Length: 5")),
        (400, post("Content-Length: 5, 5")),
        // Lengths that are no numbers to everybody.
        (400, post("Content-Length: +5")),
        (400, post("Content-Length: -1")),
        (400, post("Content-Length: 0x5")),
        (400, post("Content-Length: 5 5")),
        (400, post("Content-Length:")),
        (400, post("Content-Length: 1_0")),
        (400, post("Content-Length: 5\u{b}")),
        (400, post("Content-Length: 0005")),
        (400, post(&huge)),
        // Codings other than chunked alone.
        (501, post("Transfer-Encoding: chunked, gzip")),
        (501, post("Transfer-Encoding: identity")),
        (501, post("Transfer-Encoding: gzip, chunked")),
        (501, post("Transfer-Encoding: , chunked")),
        (501, post("Transfer-Encoding: identity, chunked")),
        (501, post("Transfer-Encoding: chunked, chunked")),
        (501, post("Transfer-Encoding: chunked;x=y")),
        (501, post("Transfer-Encoding: xchunked")),
        (501, post("Transfer-Encoding: \"chunked\"")),
        (501, post("Transfer-Encoding: \u{b}chunked")),
        (501, post("Transfer-Encoding: chunked\u{c}")),
        (501, post("Transfer-Encoding: \u{a0}chunked")),
        (501, post("Transfer-Encoding:\r\n chunked")),
        (
            400,
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ),
        (
            400,
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ),
        (400, post("Transfer-Encoding : chunked")),
        (400, post("Transfer-Encoding\t: chunked")),
        (400, post("Transfer_Encoding: chunked")),
        (400, post("Content_Length: 5")),
        (
            400,
            "POST /bad HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        ),
        // Line ends.
        (400, "GET /bad HTTP/1.1\nHost: a\r\n\r\n".to_owned()),
        (400, "GET /bad HTTP/1.1\r\nHost: a\nX: b\r\n\r\n".to_owned()),
        (400, "GET /bad HTTP/1.1\nHost: a\n\n".to_owned()),
        (400, get("X: a\rb")),
        (400, get("X: a\0b")),
        (400, get("X: a\u{1}b")),
        (400, get("X: a\u{7f}b")),
        // Folding, and blanks about a name.
        (400, get("X: a\r\n b")),
        (400, get("X: a\r\n\tContent-Length: 5")),
        (400, get("X : a")),
        (400, get("X\t: a")),
        (400, "GET /bad HTTP/1.1\r\n Host: a\r\n\r\n".to_owned()),
        (400, get(": a")),
        (400, get("X(y): a")),
        (400, get("X\u{e9}: a")),
        (400, get("X")),
    ];
    for (status, bytes) in &cases {
        assert_eq!(refused(&proxy, bytes.as_bytes()).await, *status, "{bytes:?}");
    }
    assert_eq!((endpoint.connections(), endpoint.requests()), (0, 0));
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), cases.len(), "one line for each");
    for line in &lines {
        let expected = if line.status() == 501 {
            "unsupported"
        } else {
            "bad_request"
        };
        assert_eq!(line.outcome(), expected, "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_line_or_host_that_reads_two_ways_is_refused() {
    let (endpoint, proxy) = strict().await;
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let hosts = |fields: &str| format!("GET /bad HTTP/1.1\r\n{fields}\r\n");
    for (status, bytes) in [
        (400, line("GET /bad HTTP/1.1 ")),
        (400, line("GET  /bad HTTP/1.1")),
        (400, line("GET\t/bad HTTP/1.1")),
        (400, line("GET /b ad HTTP/1.1")),
        (400, line(" GET /bad HTTP/1.1")),
        (400, line("GET /bad HTTP/0.9")),
        (400, line("GET /bad HTTP/1.2")),
        (400, line("GET /bad HTTP/2.0")),
        (400, line("GET /bad http/1.1")),
        (400, line("GET /bad")),
        (400, line("GET /bad#x HTTP/1.1")),
        (400, line("GET bad HTTP/1.1")),
        (400, line("GET * HTTP/1.1")),
        (400, line("GET a:80 HTTP/1.1")),
        (400, line("GET /a\\bad HTTP/1.1")),
        (400, line("GET /a%5cbad HTTP/1.1")),
        (400, line("GET /%00 HTTP/1.1")),
        (400, line("GET /%0d%0ax HTTP/1.1")),
        (400, line("GET /%zz HTTP/1.1")),
        (400, line("GET /../bad HTTP/1.1")),
        (400, line("GET /a\u{1}b HTTP/1.1")),
        (400, line("G(T /bad HTTP/1.1")),
        (405, line("TRACE /bad HTTP/1.1")),
        (405, line("CONNECT a:80 HTTP/1.1")),
        (405, line("CONNECT / HTTP/1.1")),
        (400, line("TIDEGATE-REFUSED /3 HTTP/1.1")),
        (400, "PRI * HTTP/2.0\r\nHost: a\r\n\r\nSM\r\n\r\n".to_owned()),
        (400, "\r\n".repeat(5) + "GET /bad HTTP/1.1\r\nHost: a\r\n\r\n"),
        (400, hosts("")),
        (400, hosts("Host: a\r\nHost: a\r\n")),
        (400, hosts("Host: a\r\nHost: b\r\n")),
        (400, hosts("Host:\r\n")),
        (400, hosts("Host: a,b\r\n")),
        (400, hosts("Host: u@a\r\n")),
        (400, hosts("Host: a/b\r\n")),
        (400, hosts("Host: a b\r\n")),
        (400, hosts("Host: a:99999999\r\n")),
        (400, hosts("Host: a[b\r\n")),
        (400, hosts("Host: a%41\r\n")),
        (400, hosts("Host: [::1\r\n")),
        (400, get("Connection: content-length")),
        (400, get("Connection: close, host")),
        (400, get("Connection: transfer-encoding")),
        (400, get("Connection: x-forwarded-for")),
        (400, get("X_Forwarded_For: 192.0.2.1")),
        (417, get("Expect: 200-ok")),
        (417, get("Expect: y 100-continue")),
    ] {
        let mut wire = proxy.wire().await;
        wire.send(&bytes).await;
        let response = wire
            .response()
            .await
            .unwrap_or_else(|| panic!("no response to {bytes:?}"));
        assert_eq!(response.status(), status, "{bytes:?}");
    }
    assert_eq!((endpoint.connections(), endpoint.requests()), (0, 0));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_names_the_host_that_the_endpoint_sees() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    let response = wire
        .ask("GET http://b.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n")
        .await;
    let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(support::endpoint::reported(&seen, "host"), ["b.example"]);
    assert_eq!(seen["target"], "/x?y");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_that_is_taken_reaches_the_endpoint_with_its_path() {
    for protocol in [H1, H2C] {
        let endpoint = Endpoint::serve(protocol, report).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(protocol).start().await;
        for host in [
            "a",
            "A.Example",
            "a.",
            "a:",
            "a:80",
            "a:99999",
            "a_b",
            "[::1]",
            "[::1]:8080",
            "a!$&'()*+;=~",
        ] {
            let response = proxy
                .wire()
                .await
                .ask(format!("GET /p?q HTTP/1.1\r\nHost: {host}\r\n\r\n"))
                .await;
            assert_eq!(response.status(), 200, "{host}");
            let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
            assert_eq!(seen["target"], "/p?q", "{host}");
            let there = match protocol {
                H1 => support::endpoint::reported(&seen, "host")[0].clone(),
                _ => seen["authority"].as_str().unwrap().to_owned(),
            };
            assert_eq!(there, host);
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_its_framing_ends_both_connections_and_is_never_whole() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        let mut message = wire.request_head().await.unwrap();
        wire.body(&mut message, false).await;
        assert!(!message.whole, "a broken body looked whole: {:?}", message.text());
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let broken = [
        "\r\n",
        "0x3\r\nabc\r\n",
        "+3\r\nabc\r\n",
        "-3\r\nabc\r\n",
        "3_\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "3\t\r\nabc\r\n",
        " 3\r\nabc\r\n",
        "3\nabc\r\n",
        "3\rabc\r\n",
        "3\r\nabcX\r\n",
        "3\r\nabc\n",
        "3\r\nabc0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "3;\r\nabc\r\n",
        "3;a\nb\r\nabc\r\n",
        "3;a=\"x\r\n\"\r\nabc\r\n",
        "3;a\0\r\nabc\r\n",
        "0\r\na: b\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
    ];
    let long_extension = format!("3;{}\r\nabc\r\n", "x".repeat(64 * 1024));
    let mut connections = 0;
    for bytes in broken.iter().copied().chain([long_extension.as_str()]) {
        // First without, then behind a good chunk that is on its way to the endpoint already.
        for before in ["", "5\r\nhello\r\n"] {
            let mut wire = proxy.wire().await;
            wire.send(format!(
                "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{before}"
            ))
            .await;
            if !before.is_empty() {
                connections += 1;
                let sent = connections;
                support::until("the endpoint to see the head", || endpoint.requests() >= sent).await;
            }
            wire.send(format!("{bytes}0\r\n\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            let (rest, _) = wire.rest().await;
            let text = String::from_utf8_lossy(&rest);
            assert!(
                rest.is_empty() || text.starts_with("HTTP/1.1 400 ") && text.matches("HTTP/1.1").count() == 1,
                "{before:?} {bytes:?}: {text:?}"
            );
            connections = endpoint.requests();
        }
    }
    assert!(
        endpoint
            .lines()
            .iter()
            .all(|line| line == "POST /chunks HTTP/1.1"),
        "{:?}",
        endpoint.lines()
    );
    for line in proxy.stop().await {
        // A head that comes in one piece with what breaks its body is refused with it: no endpoint is asked.
        let expected = if line.attempts() == 0 {
            "bad_request"
        } else {
            "client_body"
        };
        assert_eq!(line.outcome(), expected, "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_behind_one_another_are_served_in_order_and_each_by_itself() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    // The body of the first looks like a request and is none.
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    wire.send(format!(
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}\
         POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /4 HTTP/1.1\nHost: a\r\n\r\n",
        inner.len(),
        inner.len()
    ))
    .await;
    for (target, body) in [("/1", inner), ("/2", inner), ("/3", "")] {
        let response = wire.response().await.unwrap();
        let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
        assert_eq!(
            (seen["target"].as_str(), seen["body"].as_str()),
            (Some(target), Some(body))
        );
    }
    let last = wire.response().await.unwrap();
    assert_eq!((last.status(), last.get("connection")), (400, Some("close")));
    assert_eq!(wire.rest().await, (Vec::new(), End::Closed));
    assert_eq!(endpoint.lines(), ["POST /1", "POST /2", "GET /3"]);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversize_heads_are_refused_by_what_is_too_large() {
    let endpoint = Endpoint::answering(OK).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| {
            limits.max_head_bytes = 8 * 1024;
            limits.max_headers = 20;
        })
        .start()
        .await;
    let many = |count: usize| get(&vec!["X: a"; count - 1].join("\r\n"));
    for (status, bytes) in [
        (414, format!("GET /{}", "a".repeat(9000))),
        (431, get(&format!("X: {}", "a".repeat(9000)))),
        (431, many(21)),
        (414, "A".repeat(9000)),
    ] {
        assert_eq!(
            refused(&proxy, bytes.as_bytes()).await,
            status,
            "{}",
            &bytes[..40]
        );
    }
    assert_eq!(endpoint.connections(), 0);
    let fits = proxy.wire().await.ask(many(20)).await;
    assert_eq!(fits.status(), 200);
    let fits = proxy
        .wire()
        .await
        .ask(get(&format!("X: {}", "a".repeat(8000))))
        .await;
    assert_eq!(fits.status(), 200);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_told_and_a_silent_connection_closed() {
    let endpoint = Endpoint::answering(OK).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.head_deadline = Duration::from_secs(1))
        .start()
        .await;
    let mut silent = proxy.wire().await;
    let mut started = proxy.wire().await;
    started.send("GET / HTTP/1.1\r\nHost:").await;
    // Drop by drop does not help.
    let mut dripping = proxy.wire().await;
    let drip = tokio::spawn(async move {
        dripping.send("GET / HTTP/1.1\r\n").await;
        while dripping.is_silent_for(Duration::from_millis(100)).await {
            dripping.send("x: y\r\n").await;
        }
        dripping.response().await.unwrap()
    });
    let mut second = proxy.wire().await;
    assert_eq!(
        second.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
        200
    );
    second.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(silent.rest().await, (Vec::new(), End::Closed));
    for response in [
        started.response().await.unwrap(),
        soon("the end of the dripping", drip).await.unwrap(),
        second.response().await.unwrap(),
    ] {
        assert_eq!(
            (response.status(), response.get("connection")),
            (408, Some("close"))
        );
    }
    assert_eq!(endpoint.requests(), 1);
    let mut outcomes: Vec<_> = proxy
        .stop()
        .await
        .iter()
        .map(|line| line.outcome().to_owned())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        ["answered", "head_timeout", "head_timeout", "head_timeout"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_told_and_ends_the_endpoints_connection() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        let mut message = wire.request_head().await.unwrap();
        wire.body(&mut message, false).await;
        assert!(!message.whole);
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.body_idle = Duration::from_millis(300))
        .start()
        .await;
    for framing in [
        "Content-Length: 100\r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let mut wire = proxy.wire().await;
        let response = wire.ask(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        assert_eq!(
            (response.status(), response.get("connection")),
            (408, Some("close")),
            "{framing:?}"
        );
    }
    for line in proxy.stop().await {
        assert_eq!(line.outcome(), "client_stalled", "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_read_two_ways_are_not_passed_on() {
    // Each behind a request of its own; the second connection shows that the first was not used again.
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 0200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "hello, this is no HTTP\r\n\r\n",
    ] {
        let endpoint = Endpoint::script(move |_, mut wire| async move {
            while wire.request().await.is_some() && wire.send(bytes).await {}
        })
        .await;
        let proxy = Setup::to(&[endpoint.address])
            .rule(|rule| rule.retry.attempts = 1)
            .start()
            .await;
        let mut wire = proxy.wire().await;
        for _ in 0..2 {
            let response = wire.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(response.status(), 502, "{bytes:?}");
        }
        assert_eq!(endpoint.connections(), 2, "{bytes:?}");
        for line in proxy.stop().await {
            assert_eq!(line.outcome(), "upstream_protocol", "{bytes:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_behind_a_bodiless_response_is_never_the_next_response() {
    for bytes in [
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg",
        "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmugg",
    ] {
        let endpoint = Endpoint::script(move |_, mut wire| async move {
            while wire.request().await.is_some() && wire.send(bytes).await {}
        })
        .await;
        let proxy = Setup::to(&[endpoint.address]).start().await;
        let mut wire = proxy.wire().await;
        for _ in 0..5 {
            let response = wire.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(response.whole);
            assert_ne!(response.text(), "smugg", "{bytes:?}");
            assert!(
                response.status() == 502 || bytes.contains(&response.start),
                "{response:?}"
            );
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_request_that_cannot_be_said_in_http1_ends_its_stream() {
    for protocol in [H1, H2C] {
        let endpoint = Endpoint::serve(protocol, report).await;
        let proxy = Setup::to(&[endpoint.address]).speaking(protocol).start().await;
        let base = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
        ];
        let with = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
        let replaced = |name: &str, value: &'static str| {
            base.map(|(own, old)| (own, if own == name { value } else { old }))
                .to_vec()
        };
        for (block, flags, body) in [
            // A length and an end that contradict each other.
            (with(&[("content-length", "5")]), frames::END_STREAM, None),
            (with(&[("content-length", "5")]), 0, Some("abc")),
            (with(&[("content-length", "2")]), 0, Some("abc")),
            (
                with(&[("content-length", "5"), ("content-length", "6")]),
                0,
                Some("abcde"),
            ),
            // Fields of one HTTP/1 connection.
            (with(&[("connection", "close")]), frames::END_STREAM, None),
            (with(&[("transfer-encoding", "chunked")]), 0, Some("0")),
            (with(&[("te", "gzip")]), frames::END_STREAM, None),
            // Bytes that end a line, and names that are none.
            (with(&[("x", "a\r\nb: c")]), frames::END_STREAM, None),
            (with(&[("x", "a\nb")]), frames::END_STREAM, None),
            (with(&[("x", "a\0b")]), frames::END_STREAM, None),
            (with(&[("x\r\ny", "a")]), frames::END_STREAM, None),
            (with(&[("x: y", "a")]), frames::END_STREAM, None),
            (with(&[("X-Upper", "a")]), frames::END_STREAM, None),
            (with(&[("", "a")]), frames::END_STREAM, None),
            (with(&[("content_length", "5")]), frames::END_STREAM, None),
            // The parts of the target.
            (with(&[(":path", "/two")]), frames::END_STREAM, None),
            (with(&[("host", "b")]), frames::END_STREAM, None),
            (replaced(":path", "/a b"), frames::END_STREAM, None),
            (replaced(":path", "/a HTTP/1.1\r\nx: y"), frames::END_STREAM, None),
            (replaced(":path", ""), frames::END_STREAM, None),
            (replaced(":path", "a"), frames::END_STREAM, None),
            (replaced(":path", "/../a"), frames::END_STREAM, None),
            (
                replaced(":method", "GET /a HTTP/1.1\r\nx: y"),
                frames::END_STREAM,
                None,
            ),
            (replaced(":method", "G T"), frames::END_STREAM, None),
            (replaced(":scheme", "http://a/b?"), frames::END_STREAM, None),
            (replaced(":authority", "u@a"), frames::END_STREAM, None),
            (replaced(":authority", "a/b"), frames::END_STREAM, None),
            (replaced(":authority", "a,b"), frames::END_STREAM, None),
            (replaced(":authority", "a b"), frames::END_STREAM, None),
            // A tunnel to anywhere, and a protocol that is not served.
            (vec![(":method", "CONNECT"), (":authority", "a:80")], 0, None),
            (with(&[(":protocol", "websocket")]), frames::END_STREAM, None),
        ] {
            let mut wire = proxy.wire().await;
            let mut bytes = opening();
            let flags = flags | frames::END_HEADERS;
            bytes.extend(frame(frames::HEADERS, flags, 1, &frames::fields(&block)));
            if let Some(body) = body {
                bytes.extend(frame(frames::DATA, frames::END_STREAM, 1, body.as_bytes()));
            }
            wire.send(bytes).await;
            let verdict = wire.verdict(1).await;
            assert!(
                matches!(
                    verdict,
                    Verdict::Reset | Verdict::GoAway | Verdict::Status(400 | 405)
                ),
                "{protocol:?} {block:?}: {verdict:?}"
            );
        }
        assert_eq!(endpoint.requests(), 0, "{:?}", endpoint.lines());
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_trailers_may_not_frame_route_or_be_trusted() {
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = Wire::connect(proxy.address).await;
    wire.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         1\r\nx\r\n0\r\nx-sum: 7\r\nContent-Length: 9\r\nX-Forwarded-For: 1\r\nHost: b\r\nAuthorization: x\r\n\r\n",
    )
    .await;
    let response = wire.response().await.unwrap();
    let seen: serde_json::Value = serde_json::from_str(&response.text()).unwrap();
    assert_eq!(seen["trailers"], serde_json::json!([["x-sum", "7"]]));
    proxy.stop().await;
}
