//! TLS that ends here in front of relayed bytes, and TLS towards the endpoint.

use super::support::tls::{Authority, server, shake, with};
use super::support::{Wire, lines_of, soon};
use super::{echo, relay};
use std::sync::Arc;
use tidegate::model::tls::{Roots, TlsVersions};
use tidegate::model::{ListenerKind, UpstreamTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn tls_ends_here_and_begins_anew_towards_the_endpoint() {
    let authority = Authority::default();
    let pair = authority.sign(&["db.example", "inside.example"]);
    // An echo behind TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secured = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(server(&pair, &[], None));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                assert_eq!(stream.get_ref().1.server_name(), Some("inside.example"));
                let mut space = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut space).await {
                    stream.write_all(&space[..length]).await.unwrap();
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    let clear = echo().await;
    for to_tls in [false, true] {
        let mut setup = relay(&[if to_tls { secured } else { clear.address }]).tls(with(&[&pair]));
        setup.listener.kind = ListenerKind::Tls;
        if to_tls {
            let roots = Roots::Bundle(authority.bundle());
            let tls = UpstreamTls::new("inside.example", roots, Vec::new(), None, TlsVersions::default());
            setup = setup.policy(|backend| backend.tls = Some(Arc::new(tls.unwrap())));
        }
        let proxy = setup.start().await;
        // A protocol that the client asks for and nobody knows is no reason to refuse it.
        let config = authority.trusted_by().speaking(&["mqtt"]).config();
        let mut stream = shake(&config, proxy.address, "db.example").await.unwrap();
        let sent = super::support::pattern(300_000);
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let mut got = vec![0; sent.len()];
        let (written, read) = soon("the echo", async {
            tokio::join!(
                async {
                    write.write_all(&sent).await?;
                    write.flush().await
                },
                read.read_exact(&mut got)
            )
        })
        .await;
        written.unwrap();
        read.unwrap();
        assert!(got == sent);
        stream.shutdown().await.unwrap();
        assert_eq!(
            stream.read(&mut [0; 10]).await.unwrap(),
            0,
            "the end is passed on in TLS too"
        );
        drop(stream);
        let lines = lines_of(proxy, 1).await;
        assert_eq!(lines[0].outcome(), "relayed");
        assert_eq!(
            (&lines[0].0["protocol"], &lines[0].0["host"]),
            (&"tls".into(), &"db.example".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_trusted_gets_nothing() {
    let (authority, stranger) = (Authority::default(), Authority::new("stranger"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(server(&stranger.sign(&["inside.example"]), &[], None));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            assert!(acceptor.accept(stream).await.is_err());
        }
    });
    let roots = Roots::Bundle(authority.bundle());
    let tls = UpstreamTls::new("inside.example", roots, Vec::new(), None, TlsVersions::default());
    let proxy = relay(&[address])
        .policy(|backend| backend.tls = Some(Arc::new(tls.unwrap())))
        .rule(|rule| rule.retry.attempts = 1)
        .start()
        .await;
    // The reset may come while the client is still connecting.
    if let Ok(stream) = tokio::net::TcpStream::connect(proxy.address).await {
        let mut wire = Wire::new(stream, None);
        wire.send("secret").await;
        wire.rest().await;
    }
    let lines = lines_of(proxy, 1).await;
    assert_eq!(lines[0].outcome(), "connect_untrusted");
    assert_eq!(lines[0].0["request_bytes"], 0);
}
