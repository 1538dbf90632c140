//! Clients that identify themselves by certificates.

use http::Method;
use rustls::HandshakeKind;
use tidegate::model::tls::{ClientAuthMode, SubjectName, trust};
use tidegate::model::{ClientAuth, ListenerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::client::request;
use super::support::endpoint::{report, reported};
use super::support::tls::{Authority, Trust, V1_2, V1_3, shake, with};
use super::support::{Client, Down, Endpoint, H1, Proxy, Setup, soon};

const FIELD: &str = "x-forwarded-client-cert";
const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

fn asking(tls: ListenerTls, auth: ClientAuth) -> ListenerTls {
    ListenerTls {
        client_auth: Some(auth.into()),
        ..tls
    }
}

fn auth(authority: &Authority, mode: ClientAuthMode, revoked: Option<&[u64]>, allow: &[&str]) -> ClientAuth {
    let lists = revoked
        .map(|serials| authority.revoke(serials))
        .map(|list| ("list".into(), trust::revocation_lists(list.as_bytes()).unwrap()));
    let allow = allow
        .iter()
        .map(|text| SubjectName::parse(text).unwrap())
        .collect();
    ClientAuth::new(mode, authority.bundle(), lists.into_iter().collect(), allow).unwrap()
}

/// Whether a client gets an answer. With TLS 1.3 it learns of its refusal only behind its own last message.
async fn answered(trust: &Trust, proxy: &Proxy) -> bool {
    let Ok(mut stream) = shake(&trust.config(), proxy.address, "a.example").await else {
        return false;
    };
    let asked = b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let mut got = Vec::new();
    if stream.write_all(asked).await.is_err() {
        return false;
    }
    let _ = soon("an answer or the end", stream.read_to_end(&mut got)).await;
    got.starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_required_or_not_and_checked_in_any_case() {
    let (authority, strangers) = (Authority::default(), Authority::new("strangers"));
    let server = authority.sign(&["a.example"]);
    let (good, revoked) = (authority.sign(&[WEB]), authority.sign(&[WEB]));
    let other = authority.sign(&["spiffe://example.org/ns/shop/sa/other"]);
    let stranger = strangers.sign(&[WEB]);
    let old = authority.sign_with(&[WEB], false, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let endpoint = Endpoint::serve(H1, report).await;
    for versions in [V1_2, V1_3] {
        for (mode, without) in [
            (ClientAuthMode::Required, false),
            (ClientAuthMode::Optional, true),
        ] {
            let auth = auth(&authority, mode, Some(&[revoked.serial]), &[WEB, "dns:c.example"]);
            let proxy = Setup::to(&[endpoint.address])
                .tls(asking(with(&[&server]), auth))
                .start()
                .await;
            let trust = authority.trusted_by().versions(versions);
            assert_eq!(answered(&trust, &proxy).await, without, "{mode:?}, without");
            if !without {
                proxy.ended("no_client_certificate", 1).await;
            }
            assert!(answered(&trust.clone().showing(&good), &proxy).await, "{mode:?}");
            for bad in [&revoked, &other, &stranger, &old] {
                assert!(!answered(&trust.clone().showing(bad), &proxy).await, "{mode:?}");
            }
            let ends = proxy.handshakes().await;
            assert_eq!(ends["bad_client_certificate"], 4, "{ends:?}");
            proxy.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_who_the_client_is_and_nobody_else_can_say_it() {
    let authority = Authority::default();
    let server = authority.sign(&["a.example"]);
    let client = authority.sign(&[WEB, "web.example"]);
    let endpoint = Endpoint::serve(H1, report).await;
    let auth = auth(&authority, ClientAuthMode::Optional, None, &[]);
    let proxy = Setup::to(&[endpoint.address])
        .tls(asking(with(&[&server]), auth))
        // Not even a trusted proxy's word counts.
        .limits(|limits| limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()])
        .start()
        .await;
    for (down, alpn) in [(Down::H1, "http/1.1"), (Down::H2, "h2")] {
        let trust = authority.trusted_by().speaking(&[alpn]);
        for (trust, known) in [(trust.clone().showing(&client), true), (trust, false)] {
            let stream = shake(&trust.config(), proxy.address, "a.example").await.unwrap();
            let mut sender = Client::over(down, stream).await;
            for _ in 0..2 {
                let mut asked = request(Method::GET, "/");
                asked.headers_mut().insert("host", "a.example".parse().unwrap());
                asked.headers_mut().insert(FIELD, "Hash=forged".parse().unwrap());
                let seen = reported(&sender.send(asked).await.json(), FIELD);
                assert_eq!(seen.len(), usize::from(known));
                for field in seen {
                    assert!(field.starts_with("Hash=") && !field.contains("forged"), "{field}");
                    assert!(field.ends_with(&format!(";URI={WEB};DNS=web.example")), "{field}");
                }
            }
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_good_for_one_name_and_one_handshake() {
    let authority = Authority::default();
    let server = authority.sign(&["a.example", "b.example"]);
    let client = authority.sign(&[WEB]);
    let endpoint = Endpoint::serve(H1, report).await;
    let auth = auth(&authority, ClientAuthMode::Required, None, &[]);
    let proxy = Setup::to(&[endpoint.address])
        .tls(asking(with(&[&server]), auth))
        .start()
        .await;
    for versions in [V1_2, V1_3] {
        let config = authority
            .trusted_by()
            .versions(versions)
            .showing(&client)
            .config();
        for _ in 0..3 {
            let stream = shake(&config, proxy.address, "a.example").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            let mut sender = Client::over(Down::H1, stream).await;
            let mut asked = request(Method::GET, "/");
            asked.headers_mut().insert("host", "a.example".parse().unwrap());
            assert_eq!(sender.send(asked).await.status, 200);
            // The certificate has it too, but what would have been asked of the client for it is not known.
            let mut asked = request(Method::GET, "/");
            asked.headers_mut().insert("host", "b.example".parse().unwrap());
            assert_eq!(sender.send(asked).await.status, 421);
        }
    }
    proxy.ended("full", 6).await;
    proxy.stop().await;
}
