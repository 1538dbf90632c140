//! Whoever is not what it should be: each is refused for its own reason, and nothing of it stays behind.

use std::time::Duration;

use tidegate::model::{Inner, MtlsMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::endpoint::report;
use super::support::tls::{Authority, Trust, shake};
use super::support::{Endpoint, H1, Proxy, lines_of, soon, until};
use super::{APP, WEB, as_sidecar, came, identity, inbound, of_pair, plain};

const ASKED: &[u8] = b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";

/// Sends bytes, and waits until the other side has ended it; gives what came.
async fn say(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut wire = plain(proxy).await;
    wire.write_all(bytes).await.unwrap();
    let mut got = Vec::new();
    let _ = soon("the end", wire.read_to_end(&mut got)).await;
    got
}

/// A handshake that may seem to go well: with TLS 1.3 a client learns of its refusal only behind its own last message.
async fn ask(trust: &Trust, proxy: &Proxy) -> bool {
    let Ok(mut stream) = shake(&trust.config(), proxy.address, "peer.invalid").await else {
        return false;
    };
    let mut got = Vec::new();
    if stream.write_all(ASKED).await.is_err() {
        return false;
    }
    let _ = soon("an answer or the end", stream.read_to_end(&mut got)).await;
    got.starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_an_outcome_of_its_own() {
    let (authority, strangers) = (Authority::default(), Authority::new("strangers"));
    // With a name that the library's own clients can ask for.
    let app = of_pair(&authority, &authority.sign(&[APP, "peer.invalid"]));
    let endpoint = Endpoint::serve(H1, report).await;
    let start = async || {
        let setup = inbound(&endpoint, &app, MtlsMode::Strict, &["/ns/shop/*"]);
        setup
            .limits(|limits| limits.handshake_deadline = Duration::from_millis(300))
            .start()
            .await
    };
    // What is no handshake of a sidecar.
    for (bytes, outcome) in [
        (ASKED, "mtls_plain"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "mtls_plain"),
        (b"\0\0\0\0garbage", "mtls_plain"),
        (&[22, 3, 1, 0, 4, 99, 0, 0, 0], "mtls_handshake"),
        (&[22, 3, 1, 2, 0, 1, 0], "mtls_timeout"),
        (&[22], "mtls_timeout"),
        (&[], "mtls_timeout"),
    ] {
        let proxy = start().await;
        assert_eq!(say(&proxy, bytes).await, b"", "{outcome}: nothing is told");
        soon("the count", async {
            while came(&proxy, "refused").await != 1.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let lines = lines_of(proxy, 1).await;
        assert_eq!(lines[0].outcome(), outcome, "{bytes:?}");
    }
    // Handshakes of others than those who may.
    let alpn = |inner: Inner| String::from_utf8(inner.alpn().to_vec()).unwrap();
    let ours = authority.trusted_by().speaking(&[&alpn(Inner::Http1)]);
    let late = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let early = |params: &mut rcgen::CertificateParams| params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    let two = [WEB, "spiffe://example.org/ns/shop/sa/b"];
    for (trust, outcome) in [
        (authority.trusted_by().speaking(&["h2", "http/1.1"]), "mtls_plain"),
        (ours.clone(), "mtls_no_certificate"),
        (ours.clone().showing(&strangers.sign(&[WEB])), "mtls_untrusted"),
        (
            ours.clone().showing(&authority.sign_with(&[WEB], false, late)),
            "mtls_expired",
        ),
        (
            ours.clone().showing(&authority.sign_with(&[WEB], false, early)),
            "mtls_expired",
        ),
        (
            ours.clone().showing(&authority.sign(&["web.example.org"])),
            "mtls_no_id",
        ),
        (ours.clone().showing(&authority.sign(&two)), "mtls_no_id"),
        (
            ours.clone()
                .showing(&authority.sign(&["spiffe://other.org/ns/shop/sa/web"])),
            "mtls_trust_domain",
        ),
        (
            ours.clone()
                .showing(&authority.sign(&["spiffe://example.org/ns/bank/sa/web"])),
            "mtls_not_allowed",
        ),
    ] {
        let proxy = start().await;
        assert!(!ask(&trust, &proxy).await, "{outcome}");
        let lines = lines_of(proxy, 1).await;
        assert_eq!(lines[0].outcome(), outcome);
    }
    // A client that trusts somebody else breaks it off.
    let proxy = start().await;
    let stranger = strangers.trusted_by().speaking(&[&alpn(Inner::Http1)]);
    assert!(!ask(&stranger.showing(&authority.sign(&[WEB])), &proxy).await);
    assert_eq!(lines_of(proxy, 1).await[0].outcome(), "mtls_handshake");
    assert_eq!(endpoint.requests(), 0, "the app has seen nothing of all that");
    // And the one who may is served.
    let proxy = start().await;
    assert!(ask(&ours.showing(&authority.sign(&[WEB])), &proxy).await);
    assert_eq!(endpoint.requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_of_those_who_were_refused() {
    let authority = Authority::default();
    let app = identity(&authority, APP);
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = inbound(&endpoint, &app, MtlsMode::Strict, &["/ns/shop/*"])
        .limits(|limits| {
            limits.handshake_deadline = Duration::from_millis(200);
            limits.max_handshakes = 4;
        })
        .start()
        .await;
    let bank = identity(&authority, "spiffe://example.org/ns/bank/sa/web");
    // Half-open ones do not take the places of handshakes: they have not begun any.
    let mut half_open = Vec::new();
    for _ in 0..20 {
        let mut wire = plain(&proxy).await;
        wire.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        half_open.push(wire);
    }
    for _ in 0..20 {
        let gone = plain(&proxy).await;
        drop(gone);
        say(&proxy, ASKED).await;
        drop(as_sidecar(&bank, Inner::Http1, &proxy).await);
    }
    let web = identity(&authority, WEB);
    let mut stream = as_sidecar(&web, Inner::Http1, &proxy).await.unwrap();
    stream.write_all(ASKED).await.unwrap();
    let mut got = Vec::new();
    soon("an answer", stream.read_to_end(&mut got)).await.unwrap();
    assert!(got.starts_with(b"HTTP/1.1 200 "));
    drop((half_open, stream));
    until("all connections to end", || proxy.running.connections() == 0).await;
    assert_eq!(came(&proxy, "mtls").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_is_what_was_agreed_on() {
    let authority = Authority::default();
    let app = identity(&authority, APP);
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = inbound(&endpoint, &app, MtlsMode::Strict, &["/*"]).start().await;
    // HTTP/2's preface where HTTP/1 was agreed on is a bad request, not another protocol.
    let web = identity(&authority, WEB);
    let mut stream = as_sidecar(&web, Inner::Http1, &proxy).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut got = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(!text.contains(" 200 ") && endpoint.requests() == 0, "{text}");
}
