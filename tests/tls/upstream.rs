//! TLS towards endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use tidegate::model::tls::{Roots, SubjectName, TlsVersions};
use tidegate::model::{ActiveCheck, Backend, BackendProtocol, CheckKind, Delta, HttpCheck, UpstreamTls};

use super::support::endpoint::report;
use super::support::proxy::source;
use super::support::tls::{Authority, Pair, server};
use super::support::{Down, Endpoint, Setup, soon, until};

const PROTOCOLS: [BackendProtocol; 3] = [
    BackendProtocol::Auto,
    BackendProtocol::Http1,
    BackendProtocol::H2c,
];

fn tls(authority: &Authority, names: &[&str], own: Option<&Pair>) -> UpstreamTls {
    let names = names
        .iter()
        .map(|name| SubjectName::parse(name).unwrap())
        .collect();
    let roots = Roots::Bundle(authority.bundle());
    let own = own.map(Pair::certificate);
    UpstreamTls::new("web.shop.internal", roots, names, own, TlsVersions::default()).unwrap()
}

fn setup(address: SocketAddr, protocol: BackendProtocol, tls: UpstreamTls) -> Setup {
    Setup::to(&[address]).policy(|backend: &mut Backend| {
        backend.protocol = protocol;
        backend.tls = Some(Arc::new(tls));
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_asked_in_the_protocol_that_they_agree_to() {
    let authority = Authority::default();
    let pair = authority.sign(&["web.shop.internal"]);
    for (alpn, protocol, spoken) in [
        (&["h2", "http/1.1"][..], BackendProtocol::Auto, "h2"),
        (&["h2", "http/1.1"], BackendProtocol::Http1, "h1"),
        (&["h2", "http/1.1"], BackendProtocol::H2c, "h2"),
        (&["http/1.1"], BackendProtocol::Auto, "h1"),
        (&[], BackendProtocol::Auto, "h1"),
        (&[], BackendProtocol::Http1, "h1"),
    ] {
        let endpoint = Endpoint::serve_tls(server(&pair, alpn, None), report).await;
        let proxy = setup(endpoint.address, protocol, tls(&authority, &[], None))
            .settings(|settings| settings.workers = Some(1))
            .start()
            .await;
        for down in Down::BOTH {
            let mut client = proxy.client(down).await;
            for length in [0, 200_000] {
                let answer = client.post("/a", "x".repeat(length)).await;
                assert_eq!(answer.status, 200, "{alpn:?} {protocol:?}");
                assert_eq!(answer.json()["body"].as_str().unwrap().len(), length);
            }
        }
        let lines = endpoint.lines();
        assert_eq!(lines.len(), 4);
        let expected = format!("{spoken} web.shop.internal unknown ");
        assert!(lines.iter().all(|line| line.starts_with(&expected)), "{lines:?}");
        if spoken == "h2" {
            assert!(lines.iter().all(|line| line.contains("https://")), "{lines:?}");
        }
        assert_eq!(
            endpoint.connections(),
            1,
            "{alpn:?} {protocol:?}: connections are kept"
        );
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_agreed_on_or_trusted_is_said() {
    let (authority, stranger) = (Authority::default(), Authority::new("stranger"));
    let good = authority.sign(&["web.shop.internal", "spiffe://example.org/web"]);
    let other = authority.sign(&["other.internal"]);
    let old = authority.sign_with(&["web.shop.internal"], false, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let foreign = stranger.sign(&["web.shop.internal"]);
    let wild = authority.sign(&["*.shop.internal"]);
    for (pair, names, outcome) in [
        (&good, &[][..], "answered"),
        (&wild, &[], "answered"),
        (&other, &[], "connect_untrusted"),
        (&old, &[], "connect_untrusted"),
        (&foreign, &[], "connect_untrusted"),
        (&good, &["spiffe://example.org/web"], "answered"),
        (
            &good,
            &["spiffe://example.org/other", "spiffe://example.org/*"],
            "answered",
        ),
        (&other, &["dns:other.internal"], "answered"),
        (&wild, &["dns:a.shop.internal"], "answered"),
        // With names of its own, the hostname is only what is asked for.
        (&good, &["dns:other.internal"], "connect_untrusted"),
        (&foreign, &["dns:web.shop.internal"], "connect_untrusted"),
        (&old, &["dns:web.shop.internal"], "connect_untrusted"),
    ] {
        let endpoint = Endpoint::serve_tls(server(pair, &["h2", "http/1.1"], None), report).await;
        for protocol in PROTOCOLS {
            let proxy = setup(endpoint.address, protocol, tls(&authority, names, None))
                .start()
                .await;
            let status = proxy.get("/").await.status;
            let lines = proxy.stop().await;
            assert_eq!(lines[0].outcome(), outcome, "{names:?} {protocol:?}");
            assert_eq!(status == 200, outcome == "answered");
        }
    }
    // HTTP/2 alone, and an endpoint that does not speak it; TLS, and one that speaks clear text.
    let http1 = Endpoint::serve_tls(server(&good, &["http/1.1"], None), report).await;
    let mute = Endpoint::serve_tls(server(&good, &[], None), report).await;
    let clear = Endpoint::serve(super::H1, report).await;
    for (address, protocol) in [
        (http1.address, BackendProtocol::H2c),
        (mute.address, BackendProtocol::H2c),
        (clear.address, BackendProtocol::Auto),
    ] {
        let proxy = setup(address, protocol, tls(&authority, &[], None)).start().await;
        assert_eq!(proxy.get("/").await.status, 502);
        assert_eq!(proxy.stop().await[0].outcome(), "connect_tls");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_asks_is_shown_the_certificate() {
    let authority = Authority::default();
    let (pair, own) = (
        authority.sign(&["web.shop.internal"]),
        authority.sign(&["tidegate.internal"]),
    );
    let config = server(&pair, &["h2", "http/1.1"], Some(&authority));
    for protocol in PROTOCOLS {
        let endpoint = Endpoint::serve_tls(Arc::clone(&config), report).await;
        let proxy = setup(endpoint.address, protocol, tls(&authority, &[], Some(&own)))
            .start()
            .await;
        assert_eq!(proxy.get("/").await.status, 200);
        assert!(endpoint.lines()[0].contains(" web.shop.internal known "));
        proxy.stop().await;
        let proxy = setup(endpoint.address, protocol, tls(&authority, &[], None))
            .start()
            .await;
        assert_eq!(proxy.get("/").await.status, 502, "{protocol:?}");
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_trust_is_not_outlived_by_connections() {
    let (authority, stranger) = (Authority::default(), Authority::new("stranger"));
    let pair = authority.sign(&["web.shop.internal"]);
    let endpoint = Endpoint::serve_tls(server(&pair, &["h2", "http/1.1"], None), report).await;
    for protocol in PROTOCOLS {
        let proxy = setup(endpoint.address, protocol, tls(&authority, &[], None))
            .start()
            .await;
        let mut client = proxy.client(Down::H1).await;
        assert_eq!(client.get("/").await.status, 200);
        let policy = |authority: &Authority| {
            let mut delta = Delta::default();
            let mut backend = Backend::new("web".into());
            backend.protocol = protocol;
            backend.ejection = None;
            backend.tls = Some(Arc::new(tls(authority, &[], None)));
            delta.backends.insert("web".into(), Some(Arc::new(backend)));
            delta
        };
        soon("a change", proxy.running.change(&source(), policy(&stranger))).await;
        assert_eq!(client.get("/").await.status, 502, "{protocol:?}");
        soon("a change", proxy.running.change(&source(), policy(&authority))).await;
        assert_eq!(client.get("/").await.status, 200);
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn active_checks_use_it_too() {
    let (authority, stranger) = (Authority::default(), Authority::new("stranger"));
    let pair = authority.sign(&["web.shop.internal"]);
    let endpoint = Endpoint::serve_tls(server(&pair, &["http/1.1"], None), report).await;
    for (trusted, healthy) in [(&authority, true), (&stranger, false)] {
        let proxy = setup(endpoint.address, BackendProtocol::Http1, tls(trusted, &[], None))
            .policy(|backend| {
                backend.check = Some(ActiveCheck {
                    kind: CheckKind::Http(HttpCheck {
                        path: "/health".into(),
                        host: None,
                        headers: Vec::new(),
                        statuses: vec![(http::StatusCode::OK, http::StatusCode::OK)],
                        body: None,
                    }),
                    before_use: false,
                    interval: std::time::Duration::from_millis(30),
                    timeout: std::time::Duration::from_secs(5),
                    healthy_after: 1,
                    unhealthy_after: 1,
                    port: None,
                });
            })
            .start()
            .await;
        let live = Arc::clone(proxy.running.live());
        if healthy {
            until("a question", || {
                endpoint.lines().iter().any(|line| line.ends_with("/health"))
            })
            .await;
        } else {
            until("the endpoint to be found sick", || {
                let snapshot = live.snapshot();
                let backend = snapshot.backend("web").unwrap();
                backend.with_fleet(|fleet| {
                    let cell = &fleet.candidates()[0].cell;
                    !cell.view(tidegate::balance::Clock::new().now()).checked_healthy
                })
            })
            .await;
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_goes_over_http1_where_both_are_spoken() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let authority = Authority::default();
    let pair = authority.sign(&["web.shop.internal"]);
    let endpoint = Endpoint::serve_tls(
        server(&pair, &["h2", "http/1.1"], None),
        |mut request| async move {
            let switched = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = hyper_util::rt::TokioIo::new(switched.await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
                stream.flush().await.unwrap();
            });
            http::Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .body(super::support::empty())
                .unwrap()
        },
    )
    .await;
    let proxy = setup(
        endpoint.address,
        BackendProtocol::Auto,
        tls(&authority, &[], None),
    )
    .start()
    .await;
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("the switch", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"ping").await.unwrap();
    let mut word = [0; 4];
    soon("the echo", stream.read_exact(&mut word)).await.unwrap();
    assert_eq!(&word, b"ping");
    drop(stream);
    assert!(endpoint.lines()[0].starts_with("h1 "));
    proxy.stop().await;
}
