//! TLS that is passed on unopened by the name in it, beside TLS that ends here, on one port.

use std::time::Duration;

use super::support::client::request;
use super::support::endpoint::report;
use super::support::tls::{Authority, server, shake, shown, with};
use super::support::wire::End;
use super::support::{Client, Down, Endpoint, Proxy, Setup, Wire, lines_of, soon};
use super::{add, start};
use http::Method;
use tidegate::model::{HostPattern, Listener, ListenerKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests for `web.example` end here; `*.pass.example` goes on unopened, `a.` to one endpoint, the others to another.
async fn mixed(authority: &Authority) -> (Proxy, Vec<Endpoint>) {
    let own = authority.sign(&["web.example"]);
    let (a, b) = (
        authority.sign(&["a.pass.example"]),
        authority.sign(&["b.pass.example"]),
    );
    let web = Endpoint::serve(super::support::H1, report).await;
    let a = Endpoint::serve_tls(server(&a, &["http/1.1"], None), report).await;
    let b = Endpoint::serve_tls(server(&b, &["http/1.1"], None), report).await;
    let mut setup = Setup::to(&[web.address])
        .tls(with(&[&own]))
        .backend("a", &[a.address], |_| {})
        .backend("b", &[b.address], |_| {});
    setup.listener.hostname = HostPattern::parse("web.example").unwrap();
    let passing = Listener {
        name: "passing".into(),
        kind: ListenerKind::Tls,
        hostname: HostPattern::parse("*.pass.example").unwrap(),
        tls: None,
        ..setup.listener.clone()
    };
    let proxy = start(setup, |world| {
        add(world, passing.clone(), &["a.pass.example"], "a");
        add(world, passing, &["b.pass.example"], "b");
    })
    .await;
    (proxy, vec![web, a, b])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_decides_who_ends_tls() {
    let authority = Authority::default();
    let (proxy, endpoints) = mixed(&authority).await;
    let config = authority.trusted_by().config();
    for (name, endpoint) in [("web.example", 0), ("a.pass.example", 1), ("b.pass.example", 2)] {
        let stream = shake(&config, proxy.address, name).await.unwrap();
        assert!(!shown(&stream).is_empty());
        let mut client = Client::over(Down::H1, stream).await;
        let mut asked = request(Method::GET, "/");
        asked.headers_mut().insert("host", name.parse().unwrap());
        let answer = client.send(asked).await;
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(endpoints[endpoint].requests(), 1, "{name}");
    }
    proxy.ended("passed_on", 2).await;
    let lines = lines_of(proxy, 3).await;
    let passed: std::collections::BTreeSet<_> = lines
        .iter()
        .filter(|line| line.0["protocol"] == "tls-passthrough")
        .map(|line| (line.outcome(), line.0["host"].as_str().unwrap()))
        .collect();
    let expected = [("relayed", "a.pass.example"), ("relayed", "b.pass.example")];
    assert_eq!(passed, expected.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_cannot_reach_what_is_passed_on() {
    let authority = Authority::default();
    let (proxy, endpoints) = mixed(&authority).await;
    let stream = shake(&authority.trusted_by().config(), proxy.address, "web.example").await;
    let mut client = Client::over(Down::H1, stream.unwrap()).await;
    let mut asked = request(Method::GET, "/");
    asked
        .headers_mut()
        .insert("host", "a.pass.example".parse().unwrap());
    assert_eq!(client.send(asked).await.status, 421);
    assert_eq!(endpoints[1].connections(), 0);
}

/// The bytes of a client's first message.
fn hello(authority: &Authority, name: &str) -> (rustls::ClientConnection, Vec<u8>) {
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(authority.trusted_by().config(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    (client, hello)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_in_pieces_arrives_whole() {
    let authority = Authority::default();
    let (proxy, _endpoints) = mixed(&authority).await;
    for piece in [1, 7, 500] {
        let (mut tls, hello) = hello(&authority, "a.pass.example");
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for bytes in hello.chunks(piece) {
            stream.write_all(bytes).await.unwrap();
            if piece == 1 {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let mut got = vec![0; 16 * 1024];
        while tls.is_handshaking() {
            let length = soon("the endpoint's part", stream.read(&mut got)).await.unwrap();
            assert!(length > 0, "closed in the handshake");
            tls.read_tls(&mut &got[..length]).unwrap();
            tls.process_new_packets().unwrap();
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).unwrap();
            }
            stream.write_all(&out).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_tls_is_passed_on_nobody_speaks_it() {
    let authority = Authority::default();
    let mut setup = Setup::to(&[]).backend("a", &[], |_| {});
    setup.listener.kind = ListenerKind::Tls;
    setup.listener.hostname = HostPattern::parse("*.pass.example").unwrap();
    let proxy = start(setup, |_| {}).await;
    let (_, hello) = hello(&authority, "other.example");
    let mut wire = proxy.wire().await;
    wire.send(hello).await;
    wire.finish().await;
    assert_eq!(wire.rest().await, (Vec::new(), End::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_passed_on_ends_cleanly() {
    const UNRECOGNISED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
    let authority = Authority::default();
    let (proxy, endpoints) = mixed(&authority).await;
    // A name that no listener has, and one that a listener has and no route: nobody speaks TLS for that one.
    for (count, name, said) in [
        (1, "other.example", UNRECOGNISED_NAME),
        (2, "c.pass.example", &[]),
    ] {
        let (_, hello) = hello(&authority, name);
        let mut wire = proxy.wire().await;
        wire.send(hello).await;
        wire.finish().await;
        assert_eq!(wire.rest().await, (said.to_vec(), End::Closed), "{name}");
        proxy.ended("unknown_name", count).await;
    }
    for (end, bytes) in [
        ("not_tls", &b"\x00\x01\x02garbage"[..]),
        ("malformed", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff"),
        ("client_gone", b"\x16\x03\x01"),
    ] {
        let before = proxy.handshakes().await.get(end).copied().unwrap_or_default();
        let mut wire: Wire = proxy.wire().await;
        wire.send(bytes).await;
        wire.finish().await;
        wire.rest().await;
        soon(end, async {
            while proxy.handshakes().await.get(end).copied().unwrap_or_default() != before + 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    assert_eq!(endpoints[1].connections() + endpoints[2].connections(), 0);
    super::support::until("all to end", || proxy.running.connections() == 0).await;
}
