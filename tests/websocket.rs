//! WebSockets: over HTTP/1.1 and HTTP/2, agreed to and refused, and as long-lived as the world around them is not.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use support::wire::End;
use support::{Client, Down, Endpoint, H1, H2C, Setup, Wire, empty, full, soon, until};
use tidegate::model::{Filter, HeaderEdits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Agrees to the upgrade, saying what it was asked, and gives the connection.
async fn agree(wire: &mut Wire) -> Option<support::Message> {
    let request = wire.request().await?;
    let accept = derive_accept_key(request.get("sec-websocket-key")?.as_bytes());
    wire.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nX-Mine: 1\r\n\r\n"
    ))
    .await;
    Some(request)
}

/// Agrees, and sends back what comes.
async fn echoing() -> Endpoint {
    Endpoint::script(|_, mut wire| async move {
        if agree(&mut wire).await.is_none() {
            return;
        }
        let (mut stream, early) = wire.into_parts();
        let _ = stream.write_all(&early).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// Speaks WebSocket for real, and echoes messages.
async fn websocket_server() -> Endpoint {
    Endpoint::script(|_, wire| async move {
        let (stream, early) = wire.into_parts();
        assert!(early.is_empty());
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Opens a WebSocket to the proxy.
async fn open(address: std::net::SocketAddr) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let asked = tokio_tungstenite::client_async("ws://a.example/chat", stream);
    let (socket, response) = soon("the handshake", asked).await.unwrap();
    assert_eq!(response.status(), 101);
    socket
}

/// A message, and the same message back.
async fn speak(socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>, text: &str) {
    let message = Message::text(text);
    soon("a message to be taken", socket.send(message.clone()))
        .await
        .unwrap();
    let back = soon("an echo", socket.next()).await;
    assert_eq!(back.unwrap().unwrap(), message);
}

/// Asks for a WebSocket by extended CONNECT.
async fn connect(client: &mut Client) -> Response<hyper::body::Incoming> {
    let Client::H2(sender) = client else {
        panic!("HTTP/1 has no extended CONNECT")
    };
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.example/chat?room=1")
        .version(http::Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .extension(Protocol::from_static("websocket"))
        .body(empty())
        .unwrap();
    // The server's settings, which allow it, may be on their way still.
    soon("the server's settings", async {
        loop {
            if sender.ready().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        }
    })
    .await;
    soon("a response", sender.send_request(request)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_size_pass_both_ways() {
    let endpoint = websocket_server().await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut socket = open(proxy.address).await;
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        speak(&mut socket, &"x".repeat(length)).await;
    }
    socket.send(Message::Close(None)).await.unwrap();
    let last = soon("the end", socket.next()).await;
    assert!(!matches!(last, Some(Ok(message)) if !message.is_close()));
    drop(socket);
    until("the connection to end", || proxy.running.connections() == 0).await;
    let lines = proxy.stop().await;
    assert_eq!(
        (lines.len(), lines[0].outcome(), lines[0].status()),
        (1, "upgraded", 101)
    );
    assert!(
        lines[0].0["request_bytes"].as_u64() > Some(1_100_000),
        "{:?}",
        lines[0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_passes_with_its_fields() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        let request = agree(&mut wire).await.unwrap();
        wire.send(format!("{:?}\n", request.fields)).await;
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .rule(|rule| {
            rule.filters = vec![Filter::ResponseHeaders(HeaderEdits {
                set: vec![("x-mine".parse().unwrap(), "2".parse().unwrap())],
                ..HeaderEdits::default()
            })];
        })
        .start()
        .await;
    let mut wire = proxy.wire().await;
    let response = wire.ask(ASK).await;
    assert_eq!((response.status(), response.get("x-mine")), (101, Some("2")));
    assert_eq!(
        response.get("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    for (name, token) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        assert_eq!(response.get(name).unwrap().to_ascii_lowercase(), token);
    }
    let (seen, end) = wire.rest().await;
    let seen = String::from_utf8(seen).unwrap().to_lowercase();
    assert_eq!(end, End::Closed);
    for field in [
        "(\"connection\", \"upgrade\")",
        "(\"upgrade\", \"websocket\")",
        "(\"sec-websocket-key\", \"dghlihnhbxbszsbub25jzq==\")",
        "(\"x-forwarded-for\", \"127.0.0.1\")",
    ] {
        assert!(seen.contains(field), "{field}: {seen}");
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_come_early_are_neither_lost_nor_read_as_requests() {
    let endpoint = echoing().await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    for early in [
        &b"\x81\x85early"[..],
        b"with\nlines\r\n\r\nof many\n\nkinds",
        b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /other HTTP/1.1\r\nHost: a\r\n\r\nand\nmore",
        b"\r\n\r\n\r\n\r\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"TIDEGATE-REFUSED /0 HTTP/1.1\r\n\r\n",
    ] {
        // In the same packet as the request, and a moment later.
        for pause in [None, Some(Duration::ZERO), Some(Duration::from_millis(5))] {
            let mut wire = proxy.wire().await;
            match pause {
                None => assert!(wire.send([ASK.as_bytes(), early].concat()).await),
                Some(pause) => {
                    wire.send(ASK).await;
                    tokio::time::sleep(pause).await;
                    wire.send(early).await;
                }
            }
            let response = wire.response().await.unwrap();
            assert_eq!(response.status(), 101, "{early:?} {pause:?}");
            let back = wire.up_to(early.len()).await;
            assert_eq!(
                back.as_deref(),
                Ok(early),
                "{:?} {pause:?}",
                String::from_utf8_lossy(early)
            );
            wire.send("more").await;
            assert_eq!(wire.exactly(4).await, b"more");
        }
    }
    assert!(
        endpoint.lines().iter().all(|line| line == "GET /chat HTTP/1.1"),
        "{:?}",
        endpoint.lines()
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_endpoint_says_behind_its_agreement_is_not_lost() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        wire.request().await;
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello\n\nthere",
        )
        .await;
        let said = wire.exactly(4).await;
        wire.send(said).await;
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    for _ in 0..50 {
        let mut wire = proxy.wire().await;
        assert_eq!(wire.ask(ASK).await.status(), 101);
        assert_eq!(wire.exactly(12).await, b"hello\n\nthere");
        wire.send("a\n\nb").await;
        assert_eq!(wire.rest().await, (b"a\n\nb".to_vec(), End::Closed));
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_either_side_ends_the_other() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let endpoint = Endpoint::script(move |number, mut wire| {
        let count = Arc::clone(&count);
        async move {
            agree(&mut wire).await;
            match number {
                // The client's end is waited for.
                0 => drop(wire.rest().await),
                1 => {
                    wire.send("bye").await;
                }
                _ => wire.reset(),
            }
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut first = proxy.wire().await;
    assert_eq!(first.ask(ASK).await.status(), 101);
    drop(first);
    until("the endpoint to notice", || ended.load(Ordering::SeqCst) == 1).await;
    let mut second = proxy.wire().await;
    assert_eq!(second.ask(ASK).await.status(), 101);
    assert_eq!(second.rest().await, (b"bye".to_vec(), End::Closed));
    let mut third = proxy.wire().await;
    assert_eq!(third.ask(ASK).await.status(), 101);
    third.rest().await;
    drop((second, third));
    until("the connections to end", || proxy.running.connections() == 0).await;
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.outcome() == "upgraded"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_side_still_gets_what_the_other_says() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        agree(&mut wire).await;
        let (all, _) = wire.rest().await;
        wire.send(format!("{} bytes", all.len())).await;
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    assert_eq!(wire.ask(ASK).await.status(), 101);
    wire.send([7; 1000]).await;
    wire.finish().await;
    assert_eq!(wire.rest().await, (b"1000 bytes".to_vec(), End::Closed));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_websocket_ends_after_its_idle_time() {
    let endpoint = echoing().await;
    let proxy = Setup::to(&[endpoint.address])
        .rule(|rule| rule.timeouts.upgrade_idle = Some(Duration::from_millis(500)))
        .start()
        .await;
    let mut wire = proxy.wire().await;
    assert_eq!(wire.ask(ASK).await.status(), 101);
    // Longer than the idle time in all, never silent for as long.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        wire.send("ping").await;
        assert_eq!(wire.exactly(4).await, b"ping");
    }
    wire.rest().await;
    until("the connection to end", || proxy.running.connections() == 0).await;
    let lines = proxy.stop().await;
    assert_eq!((lines.len(), lines[0].outcome()), (1, "upgrade_idle"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_passed_on_as_it_is() {
    let endpoint = Endpoint::serve(H1, |request: Request<hyper::body::Incoming>| async move {
        assert!(request.headers().contains_key("upgrade"));
        Response::builder()
            .status(403)
            .header("x-why", "members only")
            .body(full("no"))
            .unwrap()
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut wire = proxy.wire().await;
    for _ in 0..2 {
        let response = wire.ask(ASK).await;
        assert_eq!((response.status(), response.text().as_str()), (403, "no"));
        assert_eq!(response.get("x-why"), Some("members only"));
    }
    let mut client = proxy.client(Down::H2).await;
    let response = connect(&mut client).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-why"]),
        (403, &"members only".parse().unwrap())
    );
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "no");
    drop(client);
    let lines = proxy.stop().await;
    assert!(lines.len() == 3 && lines.iter().all(|line| line.outcome() == "answered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_ignores_the_upgrade_has_not_agreed_to_it() {
    let endpoint = Endpoint::answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    // A client of HTTP/1.1 can tell: it gets the page, and the connection is HTTP as before.
    let mut wire = proxy.wire().await;
    for _ in 0..2 {
        let response = wire.ask(ASK).await;
        assert_eq!((response.status(), response.text().as_str()), (200, "page"));
    }
    // To a client of HTTP/2 a 200 would say that the WebSocket is open (RFC 8441 §5).
    let mut client = proxy.client(Down::H2).await;
    let response = connect(&mut client).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert!(
        response.headers()["proxy-status"]
            .to_str()
            .unwrap()
            .contains("upgrade_failed")
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_that_nobody_asked_for_is_refused() {
    let endpoint = Endpoint::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .rule(|rule| rule.retry.attempts = 1)
        .start()
        .await;
    for down in Down::BOTH {
        let answer = proxy.client(down).await.get("/").await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{down:?}");
    }
    let lines = proxy.stop().await;
    assert!(
        lines.iter().all(|line| line.outcome() == "upstream_protocol"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_upgrade_is_served_as_if_it_had_not_been_asked_for() {
    let endpoint = Endpoint::script(|_, mut wire| async move {
        while let Some(request) = wire.request().await {
            assert_eq!((request.get("upgrade"), request.get("connection")), (None, None));
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    for fields in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: foo",
        "Upgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c",
    ] {
        let response = proxy
            .wire()
            .await
            .ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
            .await;
        assert_eq!(
            (response.status(), response.text().as_str()),
            (200, "ok"),
            "{fields}"
        );
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_stream_is_a_websocket_to_the_endpoint() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let endpoint = Endpoint::script(move |_, mut wire| {
        let sink = Arc::clone(&sink);
        async move {
            let request = agree(&mut wire).await.unwrap();
            sink.lock().unwrap().push(request);
            let (mut stream, _) = wire.into_parts();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut client = proxy.client(Down::H2).await;
    for round in 1..=3 {
        let response = connect(&mut client).await;
        assert_eq!(response.status(), StatusCode::OK);
        for gone in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(gone), "{gone}");
        }
        assert_eq!(response.headers()["x-mine"], "1");
        let stream = soon("the stream", hyper::upgrade::on(response)).await.unwrap();
        let mut stream = TokioIo::new(stream);
        for length in [1, 1000, 200_000] {
            let sent = support::pattern(length);
            let mut got = vec![0; length];
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let (wrote, back) = soon("an echo", async {
                tokio::join!(write.write_all(&sent), read.read_exact(&mut got))
            })
            .await;
            wrote.unwrap();
            back.unwrap();
            assert!(got == sent);
        }
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon("the end", stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
        let seen = seen.lock().unwrap();
        let request = seen.last().unwrap();
        assert_eq!(
            (seen.len(), request.start.as_str()),
            (round, "GET /chat?room=1 HTTP/1.1")
        );
        for (name, value) in [
            ("host", "a.example"),
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat"),
        ] {
            assert_eq!(
                request.get(name).map(str::to_ascii_lowercase).as_deref(),
                Some(value)
            );
        }
        assert_eq!(request.get("sec-websocket-key").map(str::len), Some(24));
    }
    // Other streams of the connection are served beside it.
    drop(client);
    until("the connection to end", || proxy.running.connections() == 0).await;
    let lines = proxy.stop().await;
    assert!(
        lines.len() == 3 && lines.iter().all(|line| line.outcome() == "upgraded"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_http2_gets_no_websocket() {
    let endpoint = Endpoint::serve(H2C, support::endpoint::echo).await;
    let proxy = Setup::to(&[endpoint.address]).speaking(H2C).start().await;
    let response = proxy.wire().await.ask(ASK).await;
    assert_eq!(response.status(), 502);
    assert!(response.get("proxy-status").unwrap().contains("upgrade_failed"));
    assert_eq!(endpoint.requests(), 0);
    proxy.stop().await;
}

fn rule_with_timeout(round: usize) -> tidegate::model::Rule {
    let mut rule = support::proxy::rule_to("web");
    rule.timeouts.request = Some(Duration::from_secs(1 + round as u64));
    rule
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_outlive_every_change_of_routes_and_endpoints() {
    let endpoint = websocket_server().await;
    let others = [Endpoint::answering("").await, Endpoint::answering("").await];
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(open(proxy.address).await);
    }
    for round in 0..100 {
        // Without the endpoint, which is not to be had any more for new ones, and with it again; routes change too.
        let there = [others[round % 2].address, endpoint.address];
        proxy.set_endpoints("web", &there[..1 + round % 2]).await;
        proxy.set_rules(vec![rule_with_timeout(round)]).await;
        let at = round % sockets.len();
        speak(&mut sockets[at], &format!("round {round}")).await;
    }
    for socket in &mut sockets {
        speak(socket, "still here").await;
    }
    proxy.stop().await;
}
