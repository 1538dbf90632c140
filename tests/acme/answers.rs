//! What the data plane does with what it is told: certificates that come and go, questions of an authority that are
//! answered before any route, in clear text and in handshakes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use tidegate::model::tls::{AlpnAnswer, ListenerTls, provider};
use tidegate::model::{Challenges, Delta, DirectResponse, ManagedName};

use super::support::endpoint::report;
use super::support::proxy::source;
use super::support::tls::{Authority, shake, shown, with};
use super::support::{Client, Down, Endpoint, H1, Proxy, Setup, soon};

async fn until_ended(proxy: &Proxy, end: &str, count: u64) {
    soon(&format!("{count} handshakes that ended: {end}"), async {
        while proxy.handshakes().await.get(end) != Some(&count) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn name(text: &str) -> ManagedName {
    ManagedName::parse(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_changes_and_goes_while_the_listener_is_up() {
    let authority = Authority::default();
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address])
        .tls(ListenerTls::managing(Vec::new(), vec![name("a.example"), name("b.example")]).unwrap())
        .start()
        .await;
    let config = authority.trusted_by().config();
    assert!(shake(&config, proxy.address, "a.example").await.is_err());
    proxy.ended("no_certificate_yet", 1).await;

    for _ in 0..2 {
        let pair = authority.sign(&["a.example"]);
        let delta = Delta {
            certificates: [(name("a.example"), Some(pair.certificate()))].into(),
            ..Delta::default()
        };
        proxy.running.change(&source(), delta).await;
        let fresh = authority.trusted_by().config();
        let stream = shake(&fresh, proxy.address, "a.example").await.unwrap();
        assert_eq!(shown(&stream), pair.der());
        assert_eq!(Client::over(Down::H1, stream).await.get("/").await.status, 200);
    }
    // The other name still has none, and that of a neighbour does not stand in for it.
    assert!(shake(&config, proxy.address, "b.example").await.is_err());
    proxy.ended("no_certificate_yet", 2).await;

    let delta = Delta {
        certificates: [(name("a.example"), None)].into(),
        ..Delta::default()
    };
    proxy.running.change(&source(), delta).await;
    assert!(
        shake(&authority.trusted_by().config(), proxy.address, "a.example")
            .await
            .is_err()
    );
    proxy.ended("no_certificate_yet", 3).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_answered_in_clear_text_before_any_route_and_only_while_it_is_asked_for() {
    const PATH: &str = "/.well-known/acme-challenge/token";
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address]).start().await;
    let mut challenges = Challenges::default();
    challenges.http.insert(
        "token".into(),
        DirectResponse {
            status: StatusCode::OK,
            headers: Vec::new(),
            body: Bytes::from_static(b"token.thumbprint"),
        },
    );
    for (challenges, answered) in [
        (Challenges::default(), false),
        (challenges, true),
        (Challenges::default(), false),
    ] {
        let delta = Delta {
            challenges: Some(Arc::new(challenges)),
            ..Delta::default()
        };
        proxy.running.change(&source(), delta).await;
        for down in [Down::H1, Down::H2] {
            let mut client = proxy.client(down).await;
            let got = client.get(PATH).await;
            assert_eq!(got.status, 200);
            assert_eq!(got.body == "token.thumbprint", answered, "{down:?}");
        }
    }
    // Workers write their lines independently.
    let lines = proxy.stop().await;
    let ended = |outcome| lines.iter().filter(|line| line.outcome() == outcome).count();
    assert_eq!((ended("answered"), ended("direct")), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_in_a_handshake_is_answered_with_its_own_certificate_and_nothing_else() {
    let authority = Authority::default();
    let (own, proof) = (authority.sign(&["a.example"]), authority.sign(&["a.example"]));
    let endpoint = Endpoint::serve(H1, report).await;
    let proxy = Setup::to(&[endpoint.address]).tls(with(&[&own])).start().await;
    let asking = authority.trusted_by().speaking(&["acme-tls/1"]).config();
    assert!(shake(&asking, proxy.address, "a.example").await.is_err());
    until_ended(&proxy, "no_alpn", 1).await;

    let key = PrivateKeyDer::from_pem_slice(proof.key.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let mut challenges = Challenges::default();
    challenges.alpn.insert(
        "a.example".into(),
        AlpnAnswer(Arc::new(CertifiedKey::new(vec![proof.der()], key))),
    );
    let delta = Delta {
        challenges: Some(Arc::new(challenges)),
        ..Delta::default()
    };
    proxy.running.change(&source(), delta).await;

    let stream = shake(&asking, proxy.address, "a.example").await.unwrap();
    assert_eq!(shown(&stream), proof.der());
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    // It is over with that: no request is read.
    let mut rest = Vec::new();
    let mut stream = stream;
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    assert_eq!((read.unwrap(), rest.len()), (0, 0));
    until_ended(&proxy, "acme_challenge", 1).await;

    // Who offers anything else beside it is a client like others, and another name is not answered.
    let both = authority
        .trusted_by()
        .speaking(&["acme-tls/1", "http/1.1"])
        .config();
    let stream = shake(&both, proxy.address, "a.example").await.unwrap();
    assert_eq!(shown(&stream), own.der());
    assert!(shake(&asking, proxy.address, "b.example").await.is_err());
    until_ended(&proxy, "no_alpn", 2).await;
    proxy.stop().await;
}
