//! TLS at listeners: which certificate a client gets, how handshakes end well and badly, and that HTTP behind it is the
//! same as in clear text.

// A test that cannot go on fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "tls/broken.rs"]
mod broken;
#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/kubernetes.rs"]
mod kubernetes;
#[path = "tls/reload.rs"]
mod reload;
mod support;
#[path = "tls/upstream.rs"]
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SignatureScheme};
use support::client::request;
use support::endpoint::{report, reported};
use support::tls::{Able, Authority, V1_2, V1_3, shake, shown, version, with};
use support::{Client, Down, Endpoint, H1, H2C, Setup, full, pattern, soon};
use tidegate::model::tls::{TlsVersion, TlsVersions, provider};
use tidegate::model::{Filter, HostPattern, Redirect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn both_http_versions_are_served_over_both_tls_versions() {
    let authority = Authority::default();
    let pair = authority.sign(&["test.example"]);
    for up in [H1, H2C] {
        let endpoint = Endpoint::serve(up, report).await;
        let proxy = Setup::to(&[endpoint.address])
            .speaking(up)
            .tls(with(&[&pair]))
            .start()
            .await;
        for (versions, spoken) in [(V1_2, ProtocolVersion::TLSv1_2), (V1_3, ProtocolVersion::TLSv1_3)] {
            for (down, alpn) in [
                (Down::H1, &["http/1.1"][..]),
                (Down::H1, &[]),
                (Down::H2, &["h2", "http/1.1"]),
            ] {
                let config = authority.trusted_by().versions(versions).speaking(alpn).config();
                let stream = shake(&config, proxy.address, "test.example").await.unwrap();
                assert_eq!(version(&stream), spoken);
                let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                assert_eq!(agreed.as_deref(), alpn.first().map(|name| name.as_bytes()));
                let mut client = Client::over(down, stream).await;
                let big = "x".repeat(300_000);
                let seen = client.post("/a", big.clone()).await.json();
                assert_eq!(reported(&seen, "x-forwarded-proto"), ["https"]);
                assert_eq!(reported(&seen, "x-forwarded-for"), ["127.0.0.1"]);
                assert!(seen["body"] == *big);
            }
        }
        proxy.ended("full", 6).await;
        let lines = proxy.stop().await;
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().all(|line| line.outcome() == "answered"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_quantum_key_exchange_is_agreed_on() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["a.example"])]))
        .start()
        .await;
    let config = authority.trusted_by().config();
    let stream = shake(&config, proxy.address, "a.example").await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
    proxy.stop().await;
}

fn able(
    schemes: &[SignatureScheme],
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Able(schemes.to_vec())))
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_the_certificate_for_its_name_and_its_signatures() {
    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
    let authority = Authority::default();
    let first = authority.sign(&["first.example"]);
    let rsa = authority.sign_with(&["shop.example"], true, |_| {});
    let ecdsa = authority.sign(&["shop.example"]);
    let wild = authority.sign(&["*.shop.example"]);
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&first, &rsa, &ecdsa, &wild]))
        .start()
        .await;
    for (name, schemes, expected) in [
        ("first.example", &[ECDSA][..], &first),
        ("SHOP.example", &[ECDSA, RSA], &ecdsa),
        ("shop.example", &[RSA], &rsa),
        ("www.shop.example", &[ECDSA, RSA], &wild),
        ("a.www.shop.example", &[ECDSA, RSA], &first),
        ("unknown.example", &[ECDSA, RSA], &first),
        ("127.0.0.1", &[ECDSA], &first),
    ] {
        for version in [&TLS12, &TLS13] {
            let stream = shake(&able(schemes, version), proxy.address, name).await.unwrap();
            assert_eq!(shown(&stream), expected.der(), "{name} {schemes:?}");
        }
    }
    let unable = able(&[SignatureScheme::ED25519], &TLS13);
    assert!(shake(&unable, proxy.address, "shop.example").await.is_err());
    proxy.ended("nothing_in_common", 1).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_by_any_worker() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["a.example", "b.example"])]))
        .settings(|settings| settings.workers = Some(4))
        .start()
        .await;
    for versions in [V1_2, V1_3] {
        let config = authority.trusted_by().versions(versions).config();
        let mut kinds = Vec::new();
        for _ in 0..12 {
            let stream = shake(&config, proxy.address, "a.example").await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // Tickets of TLS 1.3 come behind the handshake.
            let mut client = Client::over(Down::H1, stream).await;
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(
            kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed),
            "{kinds:?}"
        );
        // A session is for its name only.
        let other = shake(&config, proxy.address, "b.example").await.unwrap();
        assert_eq!(other.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
    proxy.ended("resumed", 22).await;
    proxy.ended("full", 4).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheapest_suite_is_agreed_on_unless_a_client_has_no_aes() {
    use rustls::CipherSuite as Suite;
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["a.example"])]))
        .start()
        .await;
    let strong_first = [
        Suite::TLS13_AES_256_GCM_SHA384,
        Suite::TLS13_AES_128_GCM_SHA256,
        Suite::TLS13_CHACHA20_POLY1305_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let mut chacha_first = strong_first;
    chacha_first.reverse();
    let only_strong = [strong_first[0], strong_first[3]];
    for (asked, v1_3, v1_2) in [
        (&strong_first[..], strong_first[1], strong_first[4]),
        (&chacha_first[..], strong_first[2], strong_first[5]),
        (&only_strong[..], only_strong[0], only_strong[1]),
    ] {
        for (versions, expected) in [(V1_3, v1_3), (V1_2, v1_2)] {
            let config = authority.trusted_by().versions(versions).suites(asked).config();
            let stream = shake(&config, proxy.address, "a.example").await.unwrap();
            let agreed = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(agreed, expected, "{asked:?}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_versions_of_the_configuration_are_spoken() {
    let authority = Authority::default();
    let pair = authority.sign(&["a.example"]);
    let endpoint = Endpoint::serve(H1, report).await;
    for (only, spoken, other) in [(TlsVersion::V1_2, V1_2, V1_3), (TlsVersion::V1_3, V1_3, V1_2)] {
        let mut tls = with(&[&pair]);
        tls.versions = TlsVersions::between(only, only).unwrap();
        let proxy = Setup::to(&[endpoint.address]).tls(tls).start().await;
        let trust = authority.trusted_by();
        let good = trust.clone().versions(spoken).config();
        assert!(shake(&good, proxy.address, "a.example").await.is_ok());
        let bad = trust.versions(other).config();
        assert!(shake(&bad, proxy.address, "a.example").await.is_err());
        proxy.ended("nothing_in_common", 1).await;
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_is_not_spoken_is_refused() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let mut setup = Setup::to(&[endpoint.address]).tls(with(&[&authority.sign(&["a.example"])]));
    setup.listener.protocols.http1 = false;
    let proxy = setup.start().await;
    let trust = authority.trusted_by();
    let error = shake(
        &trust.clone().speaking(&["http/1.1"]).config(),
        proxy.address,
        "a.example",
    )
    .await;
    assert!(error.unwrap_err().to_string().contains("NoApplicationProtocol"));
    // Who asks for nothing would speak HTTP/1.
    let mut stream = shake(&trust.clone().speaking(&[]).config(), proxy.address, "a.example")
        .await
        .unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.ok();
    let mut rest = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    proxy.ended("no_alpn", 2).await;
    let stream = shake(&trust.speaking(&["h2"]).config(), proxy.address, "a.example")
        .await
        .unwrap();
    assert_eq!(Client::over(Down::H2, stream).await.get("/").await.status, 200);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_idle_for_a_while_goes_on() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["a.example"])]))
        .limits(|limits| limits.keep_alive_idle = Duration::from_secs(4))
        .start()
        .await;
    for versions in [V1_2, V1_3] {
        let config = authority.trusted_by().versions(versions).config();
        let stream = shake(&config, proxy.address, "a.example").await.unwrap();
        let mut client = Client::over(Down::H1, stream).await;
        for length in [0, 1, 100_000] {
            let body = "x".repeat(length);
            assert!(client.post("/", body.clone()).await.json()["body"] == *body);
            // Long enough to be parked, not long enough to be closed.
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
        let mut stream = shake(&config, proxy.address, "a.example").await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut got = Vec::new();
        // Its end is said: without that this is an error.
        soon("the idle connection's end", stream.read_to_end(&mut got))
            .await
            .unwrap();
        assert!(got.starts_with(b"HTTP/1.1 200 "));
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_strict_gate_stands_behind_tls() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["a.example"])]))
        .start()
        .await;
    let config = authority.trusted_by().config();
    for bad in [
        "GET / HTTP/1.1\nhost: a\n\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = shake(&config, proxy.address, "a.example").await.unwrap();
        stream.write_all(bad.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        soon("a refusal", stream.read_to_end(&mut got)).await.unwrap();
        assert!(
            got.starts_with(b"HTTP/1.1 400 "),
            "{bad:?}: {}",
            String::from_utf8_lossy(&got)
        );
    }
    assert_eq!(endpoint.requests(), 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_keep_https() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["test.example"])]))
        .path("/old", |rule| {
            rule.filters = vec![Filter::Redirect(Redirect {
                scheme: None,
                hostname: None,
                port: None,
                path: Some(tidegate::model::PathRewrite::Full("/new".into())),
                status: http::StatusCode::FOUND,
            })];
            rule.backends.clear();
        })
        .start()
        .await;
    let stream = shake(&authority.trusted_by().config(), proxy.address, "test.example")
        .await
        .unwrap();
    let answer = Client::over(Down::H1, stream).await.get("/old").await;
    let port = proxy.address.port();
    assert_eq!(
        answer.get("location"),
        Some(format!("https://test.example:{port}/new").as_str())
    );
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_host_is_misdirected() {
    let authority = Authority::default();
    let (a, b) = (
        authority.sign(&["a.example", "a2.example"]),
        authority.sign(&["b.example"]),
    );
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address]).tls(with(&[&a, &b])).start().await;
    for (down, alpn) in [(Down::H1, "http/1.1"), (Down::H2, "h2")] {
        for (host, status) in [
            ("a.example", 200),
            ("a2.example", 200),
            ("b.example", 421),
            // Nobody has a better certificate for it.
            ("c.example", 200),
        ] {
            let config = authority.trusted_by().speaking(&[alpn]).config();
            let stream = shake(&config, proxy.address, "a.example").await.unwrap();
            let mut client = Client::over(down, stream).await;
            let mut asked = request(Method::GET, "/");
            asked.headers_mut().insert("host", host.try_into().unwrap());
            assert_eq!(client.send(asked).await.status, status, "{host}");
        }
    }
    let lines = proxy.stop().await;
    let misdirected = lines.iter().filter(|line| line.outcome() == "misdirected");
    assert_eq!(misdirected.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_listener_is_refused() {
    let authority = Authority::default();
    let pair = authority.sign(&["a.example", "b.example"]);
    let endpoint = Endpoint::serve(H1, report).await;
    for strict in [false, true] {
        let mut tls = with(&[&pair]);
        tls.strict_sni = strict;
        let mut setup = Setup::to(&[endpoint.address]).tls(tls);
        if !strict {
            setup.listener.hostname = HostPattern::parse("a.example").unwrap();
        }
        let proxy = setup.start().await;
        let trust = authority.trusted_by().config();
        assert!(shake(&trust, proxy.address, "a.example").await.is_ok());
        for name in [if strict { "c.example" } else { "b.example" }, "127.0.0.1"] {
            let error = shake(&trust, proxy.address, name).await.unwrap_err();
            assert!(error.to_string().contains("UnrecognisedName"), "{error}");
        }
        proxy.ended("unknown_name", 2).await;
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_of_any_size_arrives_whole() {
    let authority = Authority::default();
    let big = pattern(3_000_000);
    let own = big.clone();
    let endpoint = Endpoint::serve(H1, move |_| {
        let big = own.clone();
        async move { http::Response::new(full(big)) }
    })
    .await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(with(&[&authority.sign(&["a.example"])]))
        .start()
        .await;
    for (down, alpn) in [(Down::H1, "http/1.1"), (Down::H2, "h2")] {
        let config = authority.trusted_by().speaking(&[alpn]).config();
        let stream = shake(&config, proxy.address, "a.example").await.unwrap();
        assert_eq!(Client::over(down, stream).await.get("/").await.body, big);
    }
    proxy.stop().await;
}
