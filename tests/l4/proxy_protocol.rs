//! The PROXY protocol, from proxies in front and to endpoints, for relays and requests.

use std::net::SocketAddr;
use std::time::Duration;

use super::support::endpoint::{report, reported};
use super::support::wire::End;
use super::support::{Client, Down, Endpoint, Proxy, Setup, Wire, lines_of, soon};
use super::{echo, relay};
use tidegate::l4::proxy_protocol::{Header, write};
use tidegate::model::{ProxyProtocol, ProxyVersion};

/// Headers are believed from these networks.
fn from(networks: &[&str]) -> Option<ProxyProtocol> {
    Some(ProxyProtocol {
        from: networks.iter().map(|network| network.parse().unwrap()).collect(),
        deadline: Duration::from_secs(20),
    })
}

fn header(client: &str) -> Header {
    Header {
        addresses: Some((client.parse().unwrap(), "192.0.2.2:443".parse().unwrap())),
        ..Header::default()
    }
}

/// Says everything back, once it has come.
async fn parrot() -> Endpoint {
    Endpoint::script(|_, mut wire| async move {
        let (got, _) = wire.rest().await;
        wire.send(got).await;
        wire.finish().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trusted_proxy_says_is_the_clients_address() {
    let endpoint = Endpoint::serve(super::support::H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .limits(|limits| limits.proxy_protocol = from(&["127.0.0.0/8", "::1/128"]))
        .start()
        .await;
    for (bytes, client) in [
        (
            write(ProxyVersion::V1, &header("203.0.113.7:4711")),
            "203.0.113.7",
        ),
        (
            write(ProxyVersion::V2, &header("[2001:db8::7]:4711")),
            "2001:db8::7",
        ),
        (ProxyVersion::V2.own().to_vec(), "127.0.0.1"),
        (ProxyVersion::V1.own().to_vec(), "127.0.0.1"),
    ] {
        // In pieces, and with the request right behind it.
        let mut wire = proxy.wire().await;
        for piece in bytes.chunks(9) {
            wire.send(piece).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = wire.ask("GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await;
        let seen = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(reported(&seen, "x-forwarded-for"), [client]);
        let mut wire = proxy.wire().await;
        let mut all = bytes.clone();
        all.extend(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n");
        assert_eq!(wire.ask(all).await.status(), 200);
    }
    let lines = proxy.stop().await;
    let clients: std::collections::BTreeSet<_> = lines
        .iter()
        .map(|line| {
            line.0["client"]
                .as_str()
                .unwrap()
                .parse::<SocketAddr>()
                .unwrap()
                .ip()
                .to_string()
        })
        .collect();
    assert_eq!(
        clients,
        ["127.0.0.1", "2001:db8::7", "203.0.113.7"]
            .map(str::to_owned)
            .into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_mandatory_and_strict() {
    let endpoint = echo().await;
    let proxy = relay(&[endpoint.address])
        .limits(|limits| limits.proxy_protocol = from(&["127.0.0.1/32"]))
        .start()
        .await;
    let mut oversized = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    oversized.extend([0; 5000]);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
        &oversized,
        &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 300]].concat(),
        b"PROXY TCP4 1.2.3",
        b"",
    ] {
        let mut wire = proxy.wire().await;
        wire.send(bytes).await;
        wire.finish().await;
        assert_eq!(wire.rest().await.0, b"", "{bytes:?}");
    }
    let lines = lines_of(proxy, 6).await;
    assert!(
        lines.iter().all(|line| line.outcome() == "proxy_header"),
        "{lines:?}"
    );
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_elsewhere_or_too_late_is_refused() {
    let endpoint = echo().await;
    let proxy = relay(&[endpoint.address])
        .limits(|limits| limits.proxy_protocol = from(&["10.0.0.0/8"]))
        .start()
        .await;
    // The reset may come while the client is still connecting.
    if let Ok(stream) = tokio::net::TcpStream::connect(proxy.address).await {
        let mut wire = Wire::new(stream, None);
        wire.send(write(ProxyVersion::V2, &header("10.0.0.1:1"))).await;
        assert_eq!(wire.rest().await, (Vec::new(), End::Reset));
    }
    assert_eq!(lines_of(proxy, 1).await[0].outcome(), "proxy_untrusted");

    let proxy = relay(&[endpoint.address])
        .limits(|limits| {
            limits.proxy_protocol = from(&["127.0.0.1/32"]);
            limits.proxy_protocol.as_mut().unwrap().deadline = Duration::from_millis(50);
        })
        .start()
        .await;
    let mut wire = proxy.wire().await;
    wire.send("PROXY TCP4 1.2.3.4").await;
    assert_eq!(wire.rest().await.0, b"");
    assert_eq!(lines_of(proxy, 1).await[0].outcome(), "proxy_timeout");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_relays_are_told_who_the_client_is() {
    let said = Header {
        authority: Some("a.example".into()),
        unique_id: Some([1, 2, 3].into()),
        ..header("203.0.113.7:4711")
    };
    let endpoint = parrot().await;
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        for behind_a_proxy in [false, true] {
            let proxy = relay(&[endpoint.address])
                .policy(|backend| backend.proxy_protocol = Some(version))
                .limits(|limits| {
                    limits.proxy_protocol = from(&["127.0.0.1/32"]).filter(|_| behind_a_proxy);
                })
                .start()
                .await;
            let mut wire = proxy.wire().await;
            let expected = if behind_a_proxy {
                wire.send(write(ProxyVersion::V2, &said)).await;
                said.clone()
            } else {
                Header {
                    addresses: Some((wire.local(), proxy.address)),
                    ..Header::default()
                }
            };
            wire.send("hi").await;
            wire.finish().await;
            let got = wire.rest().await.0;
            assert_eq!(
                got,
                [&write(version, &expected)[..], b"hi"].concat(),
                "{version:?}"
            );
        }
    }
}

/// Reads a line of the PROXY protocol, then requests; says for each which line its connection began with.
async fn told() -> Endpoint {
    Endpoint::script(|_, mut wire| async move {
        let Some(line) = wire.line().await else { return };
        while wire.request().await.is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            wire.send(answer).await;
        }
    })
    .await
}

async fn asked(client: &mut Client) -> String {
    client.get("/").await.text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_an_endpoint_is_one_clients_own() {
    let endpoint = told().await;
    let proxy: Proxy = Setup::to(&[endpoint.address])
        .policy(|backend| backend.proxy_protocol = Some(ProxyVersion::V1))
        .settings(|settings| settings.workers = Some(1))
        .start()
        .await;
    let (mut one, mut other) = (proxy.client(Down::H1).await, proxy.client(Down::H1).await);
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push((asked(&mut one).await, asked(&mut other).await));
    }
    assert!(
        lines[0].0.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
        "{lines:?}"
    );
    assert_ne!(lines[0].0, lines[0].1, "each has its own port");
    assert!(lines.iter().all(|pair| *pair == lines[0]), "{lines:?}");
    // Kept for the client's next request, used for nobody else's.
    assert_eq!(endpoint.connections(), 2);
    let mut wire: Wire = proxy.wire().await;
    let third = soon("a third", wire.ask("GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
        .await
        .text();
    assert!(third.contains(&format!(" {} ", wire.local().port())), "{third}");
    assert_eq!(endpoint.connections(), 3);
}
