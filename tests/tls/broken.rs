//! Clients that do not get through a handshake, for whatever reason: each ends cleanly, with one code, and what is good
//! goes on beside it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::support::endpoint::report;
use super::support::tls::{Authority, shake, with};
use super::support::{Client, Down, Endpoint, H1, Proxy, Setup, soon};

/// A socket that takes so many bytes at once, each on its way alone.
struct Crumbs(TcpStream, usize);

impl AsyncRead for Crumbs {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Crumbs {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let most = self.1.min(buf.len());
        Pin::new(&mut self.0).poll_write(cx, &buf[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The bytes of a ClientHello with a post-quantum key.
fn hello(authority: &Authority) -> Vec<u8> {
    let name = ServerName::try_from("a.example").unwrap();
    let mut client = rustls::ClientConnection::new(authority.trusted_by().config(), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

async fn proxy(authority: &Authority, edit: impl FnOnce(Setup) -> Setup) -> (Proxy, Endpoint) {
    let endpoint = Endpoint::serve(H1, report).await;
    let setup = Setup::to(&[endpoint.address]).tls(with(&[&authority.sign(&["a.example"])]));
    (edit(setup).start().await, endpoint)
}

/// Sends bytes, ends the sending if asked to, and gives what comes until the end.
async fn send(proxy: &Proxy, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    if end {
        stream.shutdown().await.unwrap();
    }
    let mut got = Vec::new();
    // It may be reset, if there was more to read.
    let _ = soon("the end", stream.read_to_end(&mut got)).await;
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_may_come_in_any_pieces() {
    let authority = Authority::default();
    let whole = hello(&authority);
    assert!(whole.len() > 1400, "larger than a packet: {}", whole.len());
    let (proxy, _endpoint) = proxy(&authority, |setup| setup).await;
    for piece in [1, 5, 6, 100, 1300] {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("a.example").unwrap();
        let connector = TlsConnector::from(authority.trusted_by().config());
        let shaking = connector.connect(name, Crumbs(stream, piece));
        let mut stream = soon("a handshake in pieces", shaking).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        stream.flush().await.unwrap();
        let mut got = Vec::new();
        soon("a response", stream.read_to_end(&mut got)).await.unwrap();
        let text = String::from_utf8_lossy(&got);
        assert!(text.starts_with("HTTP/1.1 200 "), "in pieces of {piece}: {text}");
    }
    // The same in records of their own: one record for each piece of the message.
    let mut pieces = Vec::new();
    for piece in whole[5..].chunks(7) {
        pieces.extend_from_slice(&[22, 3, 1, 0, u8::try_from(piece.len()).unwrap()]);
        pieces.extend_from_slice(piece);
    }
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(&pieces).await.unwrap();
    let mut first = [0];
    soon("a ServerHello", stream.read_exact(&mut first))
        .await
        .unwrap();
    assert_eq!(first, [22], "a handshake record");
    drop(stream);
    proxy.ended("client_gone", 1).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_is_told_so_if_it_is_http() {
    let authority = Authority::default();
    let (proxy, _endpoint) = proxy(&authority, |setup| setup).await;
    let got = send(&proxy, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", false).await;
    let text = String::from_utf8(got).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 400 ") && text.ends_with("use https://\n"),
        "{text}"
    );
    for garbage in [
        &b"SSH-2.0-OpenSSH_9.9\r\n"[..],
        b"\0\0\0\0",
        b"\x80\x2e\x01\x00\x02",
        b"PROXY",
    ] {
        assert_eq!(send(&proxy, garbage, true).await, b"", "{garbage:?}");
    }
    proxy.ended("not_tls", 5).await;
    assert!(proxy.stop().await.is_empty(), "none of it is an exchange");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_breaks_off_or_is_damaged_ends_the_connection_alone() {
    let authority = Authority::default();
    let whole = hello(&authority);
    let (proxy, _endpoint) = proxy(&authority, |setup| setup).await;
    for cut in [1, 4, 5, 6, 40, whole.len() / 2, whole.len() - 1] {
        assert_eq!(send(&proxy, &whole[..cut], true).await, b"", "cut at {cut}");
    }
    proxy.ended("client_gone", 7).await;
    proxy.stop().await;

    let (proxy, _endpoint) = self::proxy(&authority, |setup| setup).await;
    let mut alerts = 0;
    // The type of the message, its length, and a session id that is too long.
    for (at, byte) in [(5, 2), (6, 0xff), (43, 0xff)] {
        let mut damaged = whole.clone();
        damaged[at] = byte;
        let got = send(&proxy, &damaged, true).await;
        assert!(
            got.first().is_none_or(|first| *first == 21),
            "an alert or nothing: {got:?}"
        );
        alerts += u32::from(!got.is_empty());
    }
    // A record that is longer than any may be, and records without content that never end.
    let mut endless = Vec::new();
    for _ in 0..20_000 {
        endless.extend_from_slice(&[22, 3, 1, 0, 0]);
    }
    for flood in [&[22, 3, 1, 0xff, 0xff, 1, 2, 3][..], &endless] {
        let got = send(&proxy, flood, true).await;
        assert!(got.first().is_none_or(|first| *first == 21), "{got:?}");
        alerts += u32::from(!got.is_empty());
    }
    assert!(alerts >= 3, "{alerts}");
    // What is good goes on.
    let stream = shake(&authority.trusted_by().config(), proxy.address, "a.example")
        .await
        .unwrap();
    assert_eq!(Client::over(Down::H1, stream).await.get("/").await.status, 200);
    let ends = proxy.handshakes().await;
    let ended: u64 = ends.values().sum();
    assert!(
        ended == 6 && ends["full"] == 1 && ends["malformed"] >= 4,
        "{ends:?}"
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_damage_never_stops_the_proxy() {
    let authority = Authority::default();
    let whole = hello(&authority);
    let (proxy, _endpoint) = proxy(&authority, |setup| {
        setup.limits(|limits| limits.handshake_deadline = Duration::from_millis(300))
    })
    .await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut tasks = tokio::task::JoinSet::new();
    let address = proxy.address;
    for _ in 0..200 {
        let mut damaged = whole.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(1..damaged.len());
            damaged[at] = random.u8(..);
        }
        damaged.truncate(random.usize(1..=damaged.len()));
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&damaged).await.unwrap();
            let mut got = Vec::new();
            let _ = soon("an end", stream.read_to_end(&mut got)).await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let ends = proxy.handshakes().await;
    assert_eq!(ends.values().sum::<u64>(), 200, "each has one end: {ends:?}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_says_so() {
    let authority = Authority::default();
    let (proxy, _endpoint) = proxy(&authority, |setup| setup).await;
    let stranger = Authority::new("stranger").trusted_by();
    assert!(
        shake(&stranger.config(), proxy.address, "a.example")
            .await
            .is_err()
    );
    proxy.ended("client_alert", 1).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_have_a_deadline_and_a_bound() {
    let authority = Authority::default();
    let (proxy, _endpoint) = proxy(&authority, |setup| {
        setup.limits(|limits| {
            limits.handshake_deadline = Duration::from_secs(3);
            limits.max_handshakes = 2;
        })
    })
    .await;
    let whole = hello(&authority);
    let silent = TcpStream::connect(proxy.address).await.unwrap();
    let mut half = TcpStream::connect(proxy.address).await.unwrap();
    half.write_all(&whole[..whole.len() / 2]).await.unwrap();
    let config = authority.trusted_by().config();
    // Both places are taken, once the workers have seen them.
    soon("a full house", async {
        while shake(&config, proxy.address, "a.example").await.is_ok() {}
    })
    .await;
    for mut stalled in [silent, half] {
        let mut got = Vec::new();
        let _ = soon("the deadline", stalled.read_to_end(&mut got)).await;
        assert!(got.is_empty());
    }
    soon("the places to be free again", async {
        while shake(&config, proxy.address, "a.example").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let ends = proxy.handshakes().await;
    assert!(ends["timed_out"] == 2 && ends["overloaded"] >= 1, "{ends:?}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_are_all_served() {
    let authority = Authority::default();
    let (proxy, _endpoint) = proxy(&authority, |setup| setup).await;
    let config = authority.trusted_by().config();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (config, address) = (Arc::clone(&config), proxy.address);
        tasks.spawn(async move {
            let stream = shake(&config, address, "a.example").await.unwrap();
            Client::over(Down::H1, stream).await.get("/").await.status
        });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let ends = proxy.handshakes().await;
    let good = ends.get("full").unwrap_or(&0) + ends.get("resumed").unwrap_or(&0);
    assert_eq!(good, 100, "{ends:?}");
    proxy.stop().await;
}
